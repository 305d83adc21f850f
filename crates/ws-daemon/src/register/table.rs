//! The table of the register, pure: the time comes in, a verdict goes out, and a table that is no more valid is given up with its
//! copy. It never sees a secret, and touches no disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Revoked;
use crate::secret::Digest;
use crate::standing::{Proof, Proven};

/// Peers in the register, revoked ones too; of these the first by name makes room.
pub const PEERS: usize = 65_536;

/// The bytes of a registered peer's name: as many as a label of a host name has, since a certificate may name it.
pub const NAME_BYTES: usize = 63;

/// Invitations that wait to be traded; more are refused.
const INVITATIONS: usize = 1024;

/// Peers that one invitation may make.
const USES: u32 = 1000;

/// Tags, and globs, of one peer.
const GIVEN: usize = 64;

/// The bytes of a tag, a glob or an instance.
const WORD_BYTES: usize = 256;

/// Instances that are not to come back; beyond that the first is forgotten.
const GONE: usize = 65_536;

/// How long an invitation that is over is remembered, so that who comes late hears why.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;

/// The table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub peers: BTreeMap<Box<str>, Peer>,
    /// The earliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    invitations: Vec<Invitation>,
    /// The earliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<Box<str>>,
    #[serde(skip)]
    index: Index,
}

/// What is looked up at every link.
#[derive(Debug, Clone, Default)]
struct Index {
    /// The name by the instance.
    owners: HashMap<Box<str>, Box<str>>,
    tags: HashSet<Box<str>>,
    gone: HashSet<Box<str>>,
}

/// A peer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allow: Option<Vec<Box<str>>>,
    /// `None` once it is revoked, or to be traded for first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Digest>,
    /// `None` until it links, of a seed peer for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "is_false")]
    revoked: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    secret: Digest,
    name: Box<str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allow: Option<Vec<Box<str>>>,
    until_ms: u64,
    uses: u32,
    used: u32,
    /// It is for the peer that has the name already.
    #[serde(default, skip_serializing_if = "is_false")]
    rotates: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Who is to be invited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The name; with several uses, the beginning of the names.
    pub name: Box<str>,
    /// Tags that nobody else can take.
    pub tags: Vec<Box<str>>,
    /// The scripts that the peer may ask for, as globs; `None`: the rules alone decide.
    pub allow: Option<Vec<Box<str>>>,
    /// How long it may be traded.
    pub ttl: Duration,
    /// How many peers it makes.
    pub uses: u32,
}

/// An invitation traded for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trade {
    /// The name of the invitation, or a wish that begins with it.
    pub name: Box<str>,
    /// Of the invitation's secret.
    pub secret: Digest,
    /// Whom the token is bound to; `None`: to the first that links with it.
    pub instance: Option<Box<str>>,
    /// Of the token.
    pub token: Digest,
}

/// What came of a trade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traded {
    /// The peer's name from now on.
    pub name: Box<str>,
    /// Its tags.
    pub tags: Vec<Box<str>>,
}

/// A peer as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: Box<str>,
    /// Its tags.
    pub tags: Vec<Box<str>>,
    /// Whom its token is bound to.
    pub instance: Option<Box<str>>,
    /// Whether it may not enter any more.
    pub revoked: bool,
}

/// Why the register was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterFault {
    /// No good name.
    #[error(
        "{0:?} is no name for a peer: it has 1 to {NAME_BYTES} letters, digits, \".\", \"-\" or \"_\", and begins with a letter or a digit"
    )]
    Name(Box<str>),
    /// Too much is given.
    #[error("a peer has at most {GIVEN} tags and {GIVEN} globs, each of 1 to {WORD_BYTES} bytes without control characters")]
    Words,
    /// No good number.
    #[error("an invitation has 1 to {USES} uses")]
    Uses,
    /// No good time.
    #[error("an invitation needs a time to be traded in: --ttl 1h")]
    Ttl,
    /// It is there.
    #[error("there is a peer {0:?} already: give it another token with \"ws-daemon peers rotate {0}\", or revoke it first")]
    Taken(Box<str>),
    /// It is not there.
    #[error("no peer {0:?} is in the register; those that are: ws-daemon peers list")]
    Unknown(Box<str>),
    /// Too many invitations.
    #[error("{INVITATIONS} invitations wait to be traded; revoke one, or wait until one is over")]
    Invitations,
    /// Too many peers.
    #[error("{PEERS} peers are in the register; revoke one first")]
    Full,
    /// The disk does not take it.
    #[error("the register was not changed: {0}")]
    Disk(String),
    /// This daemon has none.
    #[error("this daemon is a client: peers are registered on their server")]
    NoRegister,
}

/// Why an invitation was not traded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TradeFault {
    /// There is none with this secret.
    #[error("no invitation has this secret")]
    Unknown,
    /// Its time is over.
    #[error("this invitation is over: ask for a new one (ws-daemon invite {0}, on the server)")]
    Expired(Box<str>),
    /// Somebody has traded it.
    #[error(
        "this invitation was used already: if that was not this machine, have that peer revoked (ws-daemon peers revoke {0}, on the \
         server); ask for a new one"
    )]
    Used(Box<str>),
    /// It is for another name.
    #[error("this invitation is for the name {0:?}")]
    Name(Box<str>),
    /// The instance is another peer's.
    #[error(
        "this machine's daemon is the peer {0:?} already: have that revoked first (ws-daemon peers revoke {0}, on the server), or join with another --prefix"
    )]
    Instance(Box<str>),
    /// The register does not take it.
    #[error(transparent)]
    Register(#[from] RegisterFault),
}

/// Why a peer may not come as an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unbound {
    /// The token belongs to another instance.
    #[error("the token of {name:?} belongs to another daemon (instance {bound})")]
    Other {
        /// The peer.
        name: Box<str>,
        /// The instance.
        bound: Box<str>,
    },
    /// The instance belongs to another peer.
    #[error("this daemon is registered as {0:?}")]
    Owned(Box<str>),
    /// It was revoked meanwhile.
    #[error("{0:?} was revoked")]
    Revoked(Box<str>),
    /// The register does not take it.
    #[error(transparent)]
    Register(#[from] RegisterFault),
}

/// Whether a registered peer may be called so: a name that is one in a target, in a certificate and before the colon of a credential.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    name.len() <= NAME_BYTES
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(is_inner)
}

fn are_words(words: &[Box<str>]) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.len() <= WORD_BYTES && !word.contains(char::is_control);
    words.len() <= GIVEN && words.iter().all(|word| is_word(word))
}

impl Table {
    /// The same with what is looked up made anew, if everything in it is as it must be.
    ///
    /// # Errors
    /// What is not.
    pub fn indexed(mut self) -> Result<Self, String> {
        if self.peers.len() > PEERS || self.invitations.len() > INVITATIONS || self.gone.len() > GONE {
            return Err("there is more in it than there may be".into());
        }
        let mut index = Index { gone: self.gone.iter().cloned().collect(), ..Index::default() };
        for (name, peer) in &self.peers {
            let good = is_name(name) && are_words(&peer.tags) && peer.allow.as_deref().is_none_or(are_words);
            if !good {
                return Err(format!("the name, tags or globs of {name:?} cannot be"));
            }
            if peer.revoked {
                continue;
            }
            index.tags.extend(peer.tags.iter().cloned());
            if let Some(instance) = &peer.instance
                && let Some(other) = index.owners.insert(instance.clone(), name.clone())
            {
                return Err(format!("two peers, {other:?} and {name:?}, have one instance"));
            }
        }
        self.index = index;
        Ok(self)
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The peer of this name, if it may enter.
    fn entering(&self, name: &str) -> Option<&Peer> {
        self.peers.get(name).filter(|peer| !peer.revoked)
    }

    pub fn find(&self, name: &str, token: &Digest) -> Option<Proven> {
        let peer = self.entering(name);
        let known = peer.and_then(|peer| peer.token).unwrap_or(Digest::OF_NOTHING);
        let is_it = known.is(token);
        peer.filter(|_| is_it).map(|peer| peer.proven(name, Proof::Token))
    }

    pub fn named(&self, name: &str, by: Proof) -> Result<Option<Proven>, Revoked> {
        match self.peers.get(name) {
            Some(peer) if peer.revoked => Err(Revoked),
            Some(peer) if by == Proof::Token && peer.token.is_none() => Err(Revoked),
            peer => Ok(peer.map(|peer| peer.proven(name, by))),
        }
    }

    pub fn owner_of(&self, instance: &str) -> Option<&str> {
        self.index.owners.get(instance).map(|name| &**name)
    }

    pub fn is_bound(&self, name: &str, instance: &str) -> bool {
        self.owner_of(instance) == Some(name)
    }

    pub fn is_gone(&self, instance: &str) -> bool {
        self.index.gone.contains(instance)
    }

    pub fn is_reserved(&self, tag: &str) -> bool {
        self.index.tags.contains(tag)
    }

    pub fn registered(&self) -> Vec<Registered> {
        let names = self.peers.keys().cloned();
        let show = |(name, peer): (Box<str>, &Peer)| Registered {
            name,
            tags: peer.tags.clone(),
            instance: peer.instance.clone(),
            revoked: peer.revoked,
        };
        names.zip(self.peers.values()).map(show).collect()
    }

    /// Until when it may be traded.
    pub fn invite(&mut self, invite: Invite, secret: Digest, now_ms: u64) -> Result<u64, RegisterFault> {
        let Invite { name, tags, allow, ttl, uses } = invite;
        if !is_name(&name) {
            return Err(RegisterFault::Name(name));
        }
        if !are_words(&tags) || !allow.as_deref().is_none_or(are_words) {
            return Err(RegisterFault::Words);
        }
        if !(1..=USES).contains(&uses) {
            return Err(RegisterFault::Uses);
        }
        if uses == 1 && self.entering(&name).is_some() {
            return Err(RegisterFault::Taken(name));
        }
        self.open(
            Invitation { secret, name, tags, allow, until_ms: until(now_ms, ttl)?, uses, used: 0, rotates: false },
            now_ms,
        )
    }

    pub fn rotate(
        &mut self,
        name: &str,
        ttl: Duration,
        at_once: bool,
        secret: Digest,
        now_ms: u64,
    ) -> Result<u64, RegisterFault> {
        let until_ms = until(now_ms, ttl)?;
        let unknown = || RegisterFault::Unknown(name.into());
        let peer = self.peers.get_mut(name).filter(|peer| !peer.revoked).ok_or_else(unknown)?;
        if at_once {
            peer.token = None;
        }
        let (tags, allow, name) = (peer.tags.clone(), peer.allow.clone(), name.into());
        self.open(Invitation { secret, name, tags, allow, until_ms, uses: 1, used: 0, rotates: true }, now_ms)
    }

    /// One that waits for the same name is over: its line may have been lost.
    fn open(&mut self, invitation: Invitation, now_ms: u64) -> Result<u64, RegisterFault> {
        let is_kept = |other: &Invitation| {
            let is_remembered = other.until_ms.saturating_add(REMEMBERED_MS) > now_ms;
            is_remembered && (other.name != invitation.name || other.is_used())
        };
        self.invitations.retain(is_kept);
        while self.invitations.len() >= INVITATIONS {
            let over = self.invitations.iter().position(|other| other.is_used() || other.until_ms <= now_ms);
            self.invitations.remove(over.ok_or(RegisterFault::Invitations)?);
        }
        let until_ms = invitation.until_ms;
        self.invitations.push(invitation);
        Ok(until_ms)
    }

    /// Whether an invitation has this secret.
    pub fn knows(&self, secret: &Digest) -> bool {
        self.position(secret).is_some()
    }

    /// All are compared, so that it takes as long for a secret that is none.
    fn position(&self, secret: &Digest) -> Option<usize> {
        let pick = |found, (at, invitation): (usize, &Invitation)| if invitation.secret.is(secret) { Some(at) } else { found };
        self.invitations.iter().enumerate().fold(None, pick)
    }

    pub fn trade(&mut self, trade: &Trade, now_ms: u64) -> Result<Traded, TradeFault> {
        let at = self.position(&trade.secret).ok_or(TradeFault::Unknown)?;
        let invitation = self.invitations[at].clone();
        let is_again = |peer: &Peer| {
            let is_same = peer.token.is_some_and(|token| token.is(&trade.token)) && peer.instance == trade.instance;
            is_same && !peer.revoked
        };
        if let Some((name, peer)) = self.peers.iter().find(|(name, peer)| is_again(peer) && invitation.makes(name)) {
            return Ok(Traded { name: name.clone(), tags: peer.tags.clone() });
        }
        if invitation.is_used() {
            return Err(TradeFault::Used(invitation.name));
        }
        if invitation.until_ms <= now_ms {
            return Err(TradeFault::Expired(invitation.name));
        }
        if trade.instance.as_deref().is_some_and(|instance| instance.is_empty() || instance.len() > WORD_BYTES) {
            return Err(RegisterFault::Words.into());
        }
        let name = self.name_for(&invitation, &trade.name)?;
        if let Some(owner) =
            trade.instance.as_deref().and_then(|instance| self.owner_of(instance)).filter(|owner| **owner != *name)
        {
            return Err(TradeFault::Instance(owner.into()));
        }
        self.make_room(&name)?;
        let (tags, instance) = (invitation.tags, trade.instance.clone());
        let peer = Peer { tags: tags.clone(), allow: invitation.allow, token: Some(trade.token), instance, revoked: false };
        let before = self.peers.insert(name.clone(), peer).and_then(|before| before.instance);
        if let Some(before) = before.filter(|before| Some(before) != trade.instance.as_ref()) {
            self.lose(before);
        }
        self.gone.retain(|gone| Some(gone) != trade.instance.as_ref());
        self.invitations[at].used += 1;
        Ok(Traded { name, tags })
    }

    /// The name that a trade gets: of a single invitation its own, of several the wish, or the next that is free.
    fn name_for(&self, invitation: &Invitation, wish: &str) -> Result<Box<str>, TradeFault> {
        let base = &invitation.name;
        let is_free = |name: &str| !self.peers.contains_key(name);
        if invitation.uses == 1 {
            return match (wish == &**base, self.entering(base).is_some()) {
                (false, _) => Err(TradeFault::Name(base.clone())),
                (true, has) if has == invitation.rotates => Ok(base.clone()),
                (true, true) => Err(RegisterFault::Taken(base.clone()).into()),
                (true, false) => Err(RegisterFault::Unknown(base.clone()).into()),
            };
        }
        if wish != &**base {
            let is_good = invitation.makes(wish) && is_name(wish);
            return match is_good.then(|| is_free(wish)) {
                Some(true) => Ok(wish.into()),
                Some(false) => Err(RegisterFault::Taken(wish.into()).into()),
                None => Err(TradeFault::Name(base.clone())),
            };
        }
        let numbered = (2..=PEERS + 1).map(|number| format!("{base}-{number}").into());
        let mut names = std::iter::once(base.clone()).chain(numbered);
        let name = names.find(|name| is_free(name)).ok_or(RegisterFault::Full)?;
        if is_name(&name) { Ok(name) } else { Err(RegisterFault::Name(name).into()) }
    }

    fn make_room(&mut self, name: &str) -> Result<(), RegisterFault> {
        if self.peers.len() < PEERS || self.peers.contains_key(name) {
            return Ok(());
        }
        let revoked = self.peers.iter().find(|(_, peer)| peer.revoked).map(|(name, _)| name.clone());
        self.peers.remove(&revoked.ok_or(RegisterFault::Full)?);
        Ok(())
    }

    pub fn bind(&mut self, name: &str, instance: &str, former: &[String]) -> Result<(), Unbound> {
        if let Some(owner) = self.owner_of(instance).filter(|owner| *owner != name) {
            return Err(Unbound::Owned(owner.into()));
        }
        let peer = self.peers.get_mut(name).filter(|peer| !peer.revoked).ok_or_else(|| Unbound::Revoked(name.into()))?;
        match &peer.instance {
            Some(bound) if **bound != *instance && !former.iter().any(|former| **former == **bound) => {
                Err(Unbound::Other { name: name.into(), bound: bound.clone() })
            }
            _ => {
                peer.instance = Some(instance.into());
                self.gone.retain(|gone| **gone != *instance);
                Ok(())
            }
        }
    }

    /// Whether it was a peer, and not only invited.
    pub fn revoke(&mut self, name: &str) -> Result<bool, RegisterFault> {
        let before = self.invitations.len();
        self.invitations.retain(|invitation| &*invitation.name != name);
        let was_invited = self.invitations.len() < before;
        let peer = self.peers.get_mut(name).filter(|peer| !peer.revoked);
        let was_peer = peer.is_some();
        let instance = peer.and_then(|peer| {
            peer.revoked = true;
            peer.token = None;
            peer.instance.take()
        });
        if let Some(instance) = instance {
            self.lose(instance);
        }
        if was_peer || was_invited { Ok(was_peer) } else { Err(RegisterFault::Unknown(name.into())) }
    }

    fn lose(&mut self, instance: Box<str>) {
        if self.gone.len() >= GONE {
            self.gone.remove(0);
        }
        self.gone.push(instance);
    }
}

impl Peer {
    fn proven(&self, name: &str, by: Proof) -> Proven {
        Proven { name: name.into(), tags: self.tags.clone(), allow: self.allow.clone(), by }
    }
}

impl Invitation {
    fn is_used(&self) -> bool {
        self.used >= self.uses
    }

    /// Whether a peer of this name may have come by it.
    fn makes(&self, name: &str) -> bool {
        match name.strip_prefix(&*self.name) {
            Some("") => true,
            Some(rest) => self.uses > 1 && rest.starts_with('-'),
            None => false,
        }
    }
}

fn until(now_ms: u64, ttl: Duration) -> Result<u64, RegisterFault> {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if ttl_ms == 0 { Err(RegisterFault::Ttl) } else { Ok(now_ms.saturating_add(ttl_ms)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn digest(text: &str) -> Digest {
        Digest::of(text)
    }

    fn invite(name: &str, uses: u32) -> Invite {
        Invite { name: name.into(), tags: vec!["sms".into()], allow: None, ttl: Duration::from_hours(1), uses }
    }

    fn trade(name: &str, secret: &str, instance: &str, token: &str) -> Trade {
        let instance = (!instance.is_empty()).then(|| instance.into());
        Trade { name: name.into(), secret: digest(secret), instance, token: digest(token) }
    }

    /// Changes the table as the register does.
    fn did<T, E>(table: &mut Table, change: impl FnOnce(&mut Table) -> Result<T, E>) -> Result<T, E> {
        let mut copy = table.clone();
        let done = change(&mut copy)?;
        *table = copy.indexed().expect("every verb leaves a good table");
        Ok(done)
    }

    fn traded(table: &mut Table, wanted: &Trade, now_ms: u64) -> Result<String, TradeFault> {
        did(table, |table| table.trade(wanted, now_ms)).map(|traded| traded.name.into())
    }

    #[test]
    fn an_invitation_is_traded_once_and_by_the_same_peer_again() {
        let mut table = Table::default();
        assert_eq!(did(&mut table, |table| table.invite(invite("web", 1), digest("s"), 5)), Ok(5 + HOUR_MS));
        assert!(table.is_empty() && !table.is_reserved("sms"));
        let first = trade("web", "s", "i", "t");
        assert_eq!(traded(&mut table, &trade("web", "x", "i", "t"), 6), Err(TradeFault::Unknown));
        assert_eq!(traded(&mut table, &trade("wab", "s", "i", "t"), 6), Err(TradeFault::Name("web".into())));
        assert_eq!(traded(&mut table, &first, 5 + HOUR_MS), Err(TradeFault::Expired("web".into())));
        assert_eq!(traded(&mut table, &first, 6).as_deref(), Ok("web"));
        assert_eq!(traded(&mut table, &first, 6 + HOUR_MS).as_deref(), Ok("web"), "its answer was lost");
        for other in [trade("web", "s", "j", "t"), trade("web", "s", "i", "u"), trade("web", "s", "", "t")] {
            assert_eq!(traded(&mut table, &other, 7), Err(TradeFault::Used("web".into())));
        }
        let found = table.find("web", &digest("t")).expect("registered");
        assert_eq!((&*found.name, &found.tags[..], found.by), ("web", &["sms".into()][..], Proof::Token));
        for (name, token) in [("web", "u"), ("wab", "t"), ("web", ""), ("", "t")] {
            assert_eq!(table.find(name, &digest(token)), None, "{name} {token}");
        }
        assert!(table.is_reserved("sms") && table.is_bound("web", "i"));
        assert!(matches!(table.invite(invite("web", 1), digest("s"), 5), Err(RegisterFault::Taken(_))));
    }

    #[test]
    fn several_uses_make_numbered_names_or_the_wish() {
        let mut table = Table::default();
        did(&mut table, |table| table.invite(invite("till", 4), digest("s"), 5)).expect("invited");
        let join = |table: &mut Table, wish: &str, number: &str| traded(table, &trade(wish, "s", number, number), 6);
        assert_eq!(join(&mut table, "till", "1").as_deref(), Ok("till"));
        assert_eq!(join(&mut table, "till-berlin", "2").as_deref(), Ok("till-berlin"));
        assert!(matches!(join(&mut table, "till-berlin", "3"), Err(TradeFault::Register(RegisterFault::Taken(_)))));
        for wish in ["tilly", "till-a b", "shop", ""] {
            assert_eq!(join(&mut table, wish, "3"), Err(TradeFault::Name("till".into())), "{wish}");
        }
        assert_eq!(join(&mut table, "till", "3").as_deref(), Ok("till-2"));
        assert_eq!(join(&mut table, "till", "3").as_deref(), Ok("till-2"), "again");
        assert_eq!(join(&mut table, "till", "4").as_deref(), Ok("till-3"));
        assert_eq!(join(&mut table, "till", "5"), Err(TradeFault::Used("till".into())));
    }

    #[test]
    fn a_token_is_bound_to_its_first_instance_and_to_what_that_becomes() {
        let mut table = Table::default();
        for (name, secret, instance) in [("web", "s", ""), ("other", "z", "o")] {
            did(&mut table, |table| table.invite(invite(name, 1), digest(secret), 5)).expect("invited");
            traded(&mut table, &trade(name, secret, instance, secret), 6).expect("traded");
        }
        let bind = |table: &mut Table, instance: &str, former: &[&str]| {
            let former: Vec<String> = former.iter().map(|&former| former.into()).collect();
            did(table, |table| table.bind("web", instance, &former))
        };
        assert_eq!(bind(&mut table, "o", &[]), Err(Unbound::Owned("other".into())));
        assert_eq!(bind(&mut table, "i", &[]), Ok(()));
        assert_eq!(bind(&mut table, "i", &[]), Ok(()));
        let other = Unbound::Other { name: "web".into(), bound: "i".into() };
        assert_eq!(bind(&mut table, "j", &["x"]), Err(other));
        assert_eq!(bind(&mut table, "j", &["x", "i"]), Ok(()));
        assert!(table.is_bound("web", "j") && table.owner_of("i").is_none() && !table.is_gone("i"));
        did(&mut table, |table| table.revoke("web")).expect("there");
        assert_eq!(bind(&mut table, "j", &[]), Err(Unbound::Revoked("web".into())));
        assert!(table.is_gone("j"));
        // The machine of one peer does not become another by joining again.
        did(&mut table, |table| table.invite(invite("new", 1), digest("n"), 7)).expect("invited");
        assert_eq!(traded(&mut table, &trade("new", "n", "o", "n"), 8), Err(TradeFault::Instance("other".into())));
    }

    #[test]
    fn a_revoked_peer_comes_back_only_by_a_new_invitation() {
        let mut table = Table::default();
        did(&mut table, |table| table.invite(invite("web", 1), digest("s"), 5)).expect("invited");
        traded(&mut table, &trade("web", "s", "i", "t"), 6).expect("traded");
        did(&mut table, |table| table.invite(invite("mail", 1), digest("m"), 6)).expect("invited");
        assert_eq!(did(&mut table, |table| table.revoke("mail")), Ok(false), "an invitation");
        assert_eq!(traded(&mut table, &trade("mail", "m", "k", "t"), 6), Err(TradeFault::Unknown));
        assert_eq!(did(&mut table, |table| table.revoke("web")), Ok(true));
        assert_eq!(did(&mut table, |table| table.revoke("web")), Err(RegisterFault::Unknown("web".into())));
        assert_eq!(table.named("web", Proof::Certificate), Err(Revoked));
        assert_eq!(traded(&mut table, &trade("web", "s", "i", "t"), 6), Err(TradeFault::Unknown), "its line is void");
        assert!(table.find("web", &digest("t")).is_none() && !table.is_empty() && !table.is_reserved("sms"));
        assert!(did(&mut table, |table| table.rotate("web", Duration::from_secs(1), false, digest("r"), 6)).is_err());
        did(&mut table, |table| table.invite(invite("web", 1), digest("s2"), 7)).expect("invited again");
        traded(&mut table, &trade("web", "s2", "i", "t2"), 8).expect("traded");
        assert!(table.find("web", &digest("t2")).is_some() && !table.is_gone("i"), "the same daemon is back");
    }

    #[test]
    fn a_token_is_good_until_another_was_traded_for_it_or_no_more_at_once() {
        let mut table = Table::default();
        did(&mut table, |table| table.invite(invite("web", 1), digest("s"), 5)).expect("invited");
        traded(&mut table, &trade("web", "s", "i", "t"), 6).expect("traded");
        let rotate = |table: &mut Table, at_once, secret: &str| {
            did(table, |table| table.rotate("web", Duration::from_hours(1), at_once, digest(secret), 7)).expect("there");
        };
        rotate(&mut table, false, "r1");
        assert!(table.find("web", &digest("t")).is_some());
        traded(&mut table, &trade("web", "r1", "i", "t2"), 8).expect("traded");
        assert!(table.find("web", &digest("t")).is_none() && table.find("web", &digest("t2")).is_some());
        rotate(&mut table, true, "r2");
        assert!(table.find("web", &digest("t2")).is_none());
        assert_eq!(table.named("web", Proof::Token), Err(Revoked), "nor by a link that comes up just now");
        // Another machine takes the peer's place.
        traded(&mut table, &trade("web", "r2", "j", "t3"), 8).expect("traded");
        assert!(table.is_gone("i") && table.is_bound("web", "j"));
    }

    #[test]
    fn everything_has_its_bound() {
        let mut table = Table::default();
        let long = "n".repeat(NAME_BYTES + 1);
        for name in ["", "a b", "-a", ".a", "a:b", "a*", "é", "a\n", "tag:a", "!a", &long] {
            assert!(matches!(table.invite(invite(name, 1), digest("s"), 5), Err(RegisterFault::Name(_))), "{name:?}");
        }
        for name in ["a", "7", "web-1.eu_x", &long[1..]] {
            assert!(is_name(name), "{name}");
        }
        for uses in [0, USES + 1] {
            assert_eq!(table.invite(invite("a", uses), digest("s"), 5), Err(RegisterFault::Uses));
        }
        let none = Invite { ttl: Duration::ZERO, ..invite("a", 1) };
        assert_eq!(table.invite(none, digest("s"), 5), Err(RegisterFault::Ttl));
        for words in
            [vec!["x".repeat(WORD_BYTES + 1).into()], vec!["".into()], vec!["\u{1b}".into()], vec!["x".into(); GIVEN + 1]]
        {
            let tags = Invite { tags: words.clone(), ..invite("a", 1) };
            assert_eq!(table.invite(tags, digest("s"), 5), Err(RegisterFault::Words));
            let globs = Invite { allow: Some(words), ..invite("a", 1) };
            assert_eq!(table.invite(globs, digest("s"), 5), Err(RegisterFault::Words));
        }
        for number in 0..INVITATIONS {
            table.invite(invite(&format!("n{number}"), 1), digest(&number.to_string()), 5).expect("room");
        }
        assert_eq!(table.invite(invite("one-more", 1), digest("s"), 6), Err(RegisterFault::Invitations));
        // One that is over makes room; one of the same name is replaced.
        table.invite(invite("n7", 1), digest("s"), 6).expect("replaced");
        assert_eq!(table.trade(&trade("n7", "7", "i", "t"), 6), Err(TradeFault::Unknown));
        table.invite(invite("one-more", 1), digest("s2"), 5 + HOUR_MS).expect("the first is over");
        assert_eq!(table.invitations.len(), INVITATIONS);
        table.invite(invite("late", 1), digest("s3"), 6 + HOUR_MS + REMEMBERED_MS).expect("room");
        assert!(table.invitations.len() <= 2, "what is long over is forgotten");

        let peers = (0..PEERS).map(|number| (format!("p{number}").into(), Peer::default())).collect();
        let mut full = Table { peers, ..Table::default() };
        full.invite(invite("new", 1), digest("s"), 5).expect("invited");
        assert_eq!(full.trade(&trade("new", "s", "i", "t"), 6), Err(RegisterFault::Full.into()));
        full.revoke("p5").expect("there");
        full.trade(&trade("new", "s", "i", "t"), 6).expect("the revoked one made room");
        full.gone = vec!["g".into(); GONE];
        full.revoke("new").expect("there");
        assert!(full.gone.len() == GONE && full.indexed().is_ok());
    }
}
