//! Who has come and is not yet in the table: what it says of itself is heard, held against what it has proved, and it is taken in or
//! told why not. It never hears anything else on a link.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;
use ws_daemon_protocol::codec::v2::Hello;

use super::registry::{Unwelcome, be_proven, name_for};
use super::table::Table;
use super::{Peers, Place, wall_ms};
use crate::counters::Count;
use crate::link::{
    CLOSE_BOUND, CLOSE_CLONE, CLOSE_NAME_TAKEN, CLOSE_OTHER_NAME, CLOSE_REVOKED, CloseCode, Dialect, GreetingFault, Link, Wire,
};
use crate::register::Unbound;
use crate::standing::{Proof, Standing};

/// The feature of a server that passes runs on.
const RELAY: &str = "relay";

/// A link whose peer has said who it is, and which is not yet in the table.
#[derive(Debug)]
pub struct Newcomer {
    pub(super) wire: Wire,
    pub(super) address: String,
    /// `None` of a seed peer.
    pub(super) hello: Option<Box<Hello>>,
    /// Who this daemon was when they met.
    pub(super) me: Arc<Hello>,
    /// What it has proved. Whoever is not the server that was dialled has dialled, and waits to hear whether it is taken in.
    pub(super) standing: Standing,
}

impl Newcomer {
    /// What it says of itself, each under its word: nothing of it need be true.
    #[must_use]
    pub fn claimed(&self) -> Vec<(&'static str, String)> {
        let claimed = |hello: &Hello| vec![("claimed", hello.name.clone()), ("instance", hello.instance.clone())];
        self.hello.as_deref().map(claimed).unwrap_or_default()
    }
}

impl Peers {
    /// Hears who has dialled: on a version 2 link its first frame is waited for, under the caller's deadline. `None` if it was
    /// none; that has been said to both sides. It has proved to be who `standing` says.
    pub async fn welcome(&self, mut wire: Wire, dialect: Dialect, standing: Standing, address: String) -> Option<Newcomer> {
        let hello = match dialect {
            Dialect::Seed => None,
            Dialect::Version2 => match wire.hear_hello(self.terms().nesting).await {
                Ok(hello) => Some(Box::new(hello)),
                Err(error) => {
                    self.counters().count(Count::NoHello);
                    warn!(address, %error, "a link was not made");
                    wire.part(CloseCode::PROTOCOL, &error.to_string()).await;
                    return None;
                }
            },
        };
        Some(Newcomer { wire, address, hello, me: self.me(), standing })
    }

    /// Says to a server that was dialled that this daemon is `me`, in this `epoch` of it, and hears who that is, under the caller's
    /// deadline.
    ///
    /// # Errors
    /// Why there is no link; the server may have said why.
    pub async fn introduce(
        &self,
        mut wire: Wire,
        address: String,
        me: Arc<Hello>,
        epoch: u64,
    ) -> Result<Newcomer, GreetingFault> {
        wire.say_hello(&Hello { epoch, ..(*me).clone() })?;
        match wire.hear_hello(self.terms().nesting).await {
            Ok(hello) => Ok(Newcomer { wire, address, hello: Some(Box::new(hello)), me, standing: Standing::Server }),
            Err(error) => {
                if let GreetingFault::NoHello(_) = error {
                    wire.part(CloseCode::PROTOCOL, &error.to_string()).await;
                }
                Err(error)
            }
        }
    }

    /// A seed server that was dialled: nothing is said before the link is up.
    #[must_use]
    pub fn seed_server(&self, wire: Wire, address: String) -> Newcomer {
        Newcomer { wire, address, hello: None, me: self.me(), standing: Standing::Server }
    }

    /// What a peer says of itself, held against what it has proved: a registered one has the name and the tags that it was given, and
    /// is the instance that its token is bound to; and nobody has what is another one's.
    pub(super) async fn hold_to(&self, standing: &Standing, hello: &mut Hello) -> Result<(), Unwelcome> {
        let register = &self.0.register;
        if *standing == Standing::Server {
            return Ok(());
        }
        let own: &[Box<str>] = match standing.proven() {
            Some(proven) => {
                be_proven(hello, proven)?;
                if proven.by == Proof::Token {
                    register.bind(&proven.name, &hello.instance, &hello.former).await.map_err(Unwelcome::Bound)?;
                }
                &proven.tags
            }
            None => {
                if register.is_gone(&hello.instance) {
                    return Err(Unwelcome::Revoked { instance: hello.instance.clone() });
                }
                &[]
            }
        };
        let is_given = |tag: &String| own.iter().any(|own| **own == **tag);
        let is_claimed = |tag: &String| register.is_reserved(tag) && !is_given(tag);
        if let Some(tag) = hello.tags.iter().find(|tag| is_claimed(tag)) {
            warn!(peer = hello.name, tag, "tags that the register gives out to others are passed over");
            hello.tags.retain(|tag| !is_claimed(tag));
        }
        hello.tags.retain(|tag| !is_given(tag));
        hello.tags.splice(0..0, own.iter().map(ToString::to_string));
        let proven = standing.proven().map(|proven| &*proven.name);
        hello.former.retain(|former| register.owner_of(former).is_none_or(|owner| Some(&*owner) == proven));
        Ok(())
    }

    /// Whether whoever has come may be called so, and be this instance, now that the table is held: what the register says may have
    /// changed since it was asked at the door.
    fn check_standing(&self, standing: &Standing, hello: Option<&Hello>) -> Result<(), Unwelcome> {
        let register = &self.0.register;
        let unproven = |name: &str| Err(Unwelcome::Unproven { name: name.into() });
        match (standing, hello) {
            (Standing::Peer(proven), _) if !register.still_has(proven) => {
                Err(Unwelcome::Bound(Unbound::Revoked(proven.name.clone())))
            }
            (Standing::Anonymous, Some(hello)) if register.has_name(&hello.name) => unproven(&hello.name),
            (Standing::Anonymous, Some(hello)) => match register.owner_of(&hello.instance) {
                Some(owner) => unproven(&owner),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Takes a newcomer in, in place of the links that its instance had, and that went by a name which it alone has proved; they are
    /// given back.
    pub(super) fn join(
        &self,
        hello: Option<Box<Hello>>,
        me: Arc<Hello>,
        address: &str,
        standing: Standing,
        closing: CancellationToken,
    ) -> Result<(Place, Vec<Link>), Unwelcome> {
        let message = self.terms().message;
        let mut table = self.table();
        self.check_standing(&standing, hello.as_deref())?;
        let Some(hello) = hello else {
            let before = standing.proven().map(|proven| table.in_the_way(proven, None)).transpose()?.flatten();
            if let Some(before) = &before {
                table.remove(before);
            }
            let place = self.settle_in(&mut table, Link::seed(address, standing, me, message, closing));
            drop(table);
            self.announce(&place.link);
            return Ok((place, before.into_iter().collect()));
        };
        if me.instance != table.me.instance {
            // This daemon has become another since they met.
            closing.cancel();
        }
        if hello.instance == me.instance {
            let (instance, said) = (hello.instance, hello.epoch);
            return Err(Unwelcome::Clone { instance, said, seen: me.epoch });
        }
        // Only who dials has raised its epoch for it.
        if standing != Standing::Server {
            table.registry.check_epoch(&hello)?;
        }
        let here = table.by_instance.get(hello.instance.as_str()).and_then(|link| link.standing().proven());
        if let Some(owner) = here.filter(|owner| standing.proven().is_none_or(|proven| proven.name != owner.name)) {
            return Err(Unwelcome::Unproven { name: owner.name.to_string() });
        }
        let mut before = Vec::new();
        if let Some(proven) = standing.proven() {
            before.extend(table.in_the_way(proven, Some(&hello.instance))?);
        }
        for before in &before {
            table.remove(before);
        }
        let name = name_for(&hello, |name| table.holder(name, &hello.instance).or_else(|| self.registered_name(name, &hello)))?;
        let me = self.for_peer(me, &standing);
        if let Some(link) = table.by_instance.get(hello.instance.as_str()).cloned() {
            table.remove(&link);
            before.push(link);
        }
        let (now, Table { registry, by_instance, .. }) = (wall_ms(), &mut *table);
        let changes = registry.see(&hello, &name, address, now, |instance| by_instance.contains_key(instance));
        let place = self.settle_in(&mut table, Link::version2(name, address, hello, standing, me, message, closing));
        drop(table);
        changes.into_iter().for_each(&self.0.changes);
        self.announce(&place.link);
        Ok((place, before))
    }

    /// Who this daemon is to a peer: one that passes runs on only for those whose runs it would.
    fn for_peer(&self, me: Arc<Hello>, standing: &Standing) -> Arc<Hello> {
        if !me.features.iter().any(|feature| feature == RELAY) || self.0.rules.relays_for(standing) {
            return me;
        }
        let mut me = (*me).clone();
        me.features.retain(|feature| feature != RELAY);
        me.into()
    }

    /// A numbered name is not to be a registered one either.
    fn registered_name(&self, name: &str, hello: &Hello) -> Option<(String, bool)> {
        (name != hello.name && self.0.register.has_name(name)).then(|| (String::new(), true))
    }
}

impl Unwelcome {
    pub(super) fn close_code(&self) -> CloseCode {
        match self {
            Self::Clone { .. } => CloseCode(CLOSE_CLONE),
            Self::NameTaken { .. } | Self::Unproven { .. } => CloseCode(CLOSE_NAME_TAKEN),
            Self::Bound(Unbound::Revoked(_)) | Self::Revoked { .. } => CloseCode(CLOSE_REVOKED),
            Self::Bound(Unbound::Register(_)) => CloseCode::AGAIN,
            Self::Bound(_) => CloseCode(CLOSE_BOUND),
            Self::OtherName { .. } => CloseCode(CLOSE_OTHER_NAME),
        }
    }

    /// In so few words as fit into a close frame.
    pub(super) fn close_words(&self) -> String {
        match self {
            Self::Clone { seen, .. } => {
                format!("a clone: this instance was here with epoch {seen}; stop one of the two and delete its spool-*.db")
            }
            Self::OtherName { proven, claimed } => format!("proved to be {proven}, claims to be {claimed}"),
            Self::NameTaken { name, .. } => {
                format!("give one of the two another \"name\" in config.json; taken by a connected peer: {name}")
            }
            Self::Unproven { name } => format!("join as it, or set another \"name\" in config.json; a registered peer: {name}"),
            Self::Bound(Unbound::Other { name, .. }) => format!("the token belongs to another daemon; of the peer {name}"),
            Self::Bound(Unbound::Owned(name)) => format!("this daemon is registered here as another peer: {name}"),
            Self::Bound(Unbound::Revoked(name)) => format!("revoked: {name}"),
            Self::Bound(Unbound::Register(_)) => "the register cannot be written just now".into(),
            Self::Revoked { .. } => "this instance was revoked".into(),
        }
    }
}
