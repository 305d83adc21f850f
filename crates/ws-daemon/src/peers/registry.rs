//! Who was ever seen, connected or not: what is remembered of each instance, and the rules by which an instance is taken in and
//! gets its name. It is kept in memory; what is to outlive the daemon is told as it changes. It never holds a link.

use std::collections::HashMap;

use ws_daemon_protocol::codec::v2::Hello;

use crate::register::Unbound;
use crate::standing::Proven;

/// Peers that are remembered; beyond that, the one that has been away for longest is forgotten.
pub const REGISTERED: usize = 65_536;

/// What is remembered of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// Its instance.
    pub instance: String,
    /// What it went by when it was last here.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The version of its program.
    pub version: String,
    /// The highest epoch that it came with.
    pub epoch: u64,
    /// How many runs it does at once; 0 if it has not said.
    pub capacity: u64,
    /// The address that it last came from, or was reached at.
    pub address: String,
    /// When it came or went last, in milliseconds since 1970. Only to be shown.
    pub last_seen_ms: u64,
}

/// What has changed of what is remembered: for the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// This is what is remembered now.
    Seen(PeerRecord),
    /// Nothing is remembered of this instance any more.
    Forgotten(String),
}

impl PeerChange {
    /// Whom it is about.
    #[must_use]
    pub fn instance(&self) -> &str {
        match self {
            Self::Seen(record) => &record.instance,
            Self::Forgotten(instance) => instance,
        }
    }
}

/// Why a peer is not taken in. The words say how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    /// The same instance was here with this epoch or a newer one.
    #[error(
        "a clone: instance {instance} says epoch {said} and was here with {seen}; two daemons run with copies of one spool file, or \
         one was restored from a copy: stop one of the two and delete its spool-*.db in its prefix"
    )]
    Clone {
        /// Which instance.
        instance: String,
        /// Its epoch now.
        said: u64,
        /// The highest that was seen.
        seen: u64,
    },
    /// It claims another name than the one that it has proved.
    #[error(
        "it has proved to be {proven:?} and claims to be {claimed:?}: correct \"name\" in its config.json, or leave it out; then it \
         goes by the name that it has proved"
    )]
    OtherName {
        /// By its token or certificate.
        proven: String,
        /// By its HELLO.
        claimed: String,
    },
    /// Another connected peer has this name, and one of the two was given it.
    #[error(
        "the name {name:?} is taken by the peer at {holder}, and was configured: give one of the two another \"name\" in its \
         config.json"
    )]
    NameTaken {
        /// Which name.
        name: String,
        /// The address of who has it.
        holder: String,
    },
    /// It wants a registered name, or is a registered instance, and has not proved that it is that peer.
    #[error(
        "{name:?} is a registered peer, and this one has shown no token of it: join with an invitation (ws-daemon peers rotate {name}, \
         on the server), or give it another \"name\" in its config.json"
    )]
    Unproven {
        /// Which peer.
        name: String,
    },
    /// Its token and its instance do not belong together.
    #[error("{0}; join again by an invitation: ws-daemon peers rotate NAME, on the server")]
    Bound(Unbound),
    /// It was a peer and is none any more.
    #[error("instance {instance} was revoked, or its peer has moved to another machine: invite it again, and join there")]
    Revoked {
        /// Which instance.
        instance: String,
    },
}

/// The memory of peers, by instance.
#[derive(Debug, Default)]
pub struct Registry(HashMap<String, PeerRecord>);

impl Registry {
    /// What the spool remembers. Of more than [`REGISTERED`], the last seen are kept.
    #[must_use]
    pub fn new(mut records: Vec<PeerRecord>) -> Self {
        records.sort_by_key(|record| std::cmp::Reverse(record.last_seen_ms));
        records.truncate(REGISTERED);
        Self(records.into_iter().map(|record| (record.instance.clone(), record)).collect())
    }

    /// What is remembered of an instance.
    pub fn get(&self, instance: &str) -> Option<&PeerRecord> {
        self.0.get(instance)
    }

    /// All that are remembered, in no order.
    pub fn records(&self) -> impl Iterator<Item = &PeerRecord> {
        self.0.values()
    }

    /// Whether an instance that dialled may come in: it must be newer than it ever was.
    ///
    /// # Errors
    /// Why not.
    pub fn check_epoch(&self, hello: &Hello) -> Result<(), Unwelcome> {
        match self.0.get(&hello.instance) {
            Some(record) if hello.epoch <= record.epoch => {
                let instance = hello.instance.clone();
                Err(Unwelcome::Clone { instance, said: hello.epoch, seen: record.epoch })
            }
            _ => Ok(()),
        }
    }

    /// Remembers a peer that has just come, and forgets who it says it was before, and whoever there is no room for.
    pub fn see(
        &mut self,
        hello: &Hello,
        name: &str,
        address: &str,
        now_ms: u64,
        is_here: impl Fn(&str) -> bool,
    ) -> Vec<PeerChange> {
        let record = PeerRecord {
            instance: hello.instance.clone(),
            name: name.to_owned(),
            tags: hello.tags.clone(),
            version: hello.version.clone(),
            epoch: hello.epoch,
            capacity: hello.capacity,
            address: address.to_owned(),
            last_seen_ms: now_ms,
        };
        let mut changes = vec![PeerChange::Seen(record.clone())];
        self.0.insert(record.instance.clone(), record);
        // Its own word is enough only for itself: who is here cannot be what another one was.
        for former in hello.former.iter().filter(|former| **former != hello.instance && !is_here(former)) {
            changes.extend(self.0.remove(former).map(|record| PeerChange::Forgotten(record.instance)));
        }
        if self.0.len() > REGISTERED {
            let absent = self.0.values().filter(|record| !is_here(&record.instance) && record.instance != hello.instance);
            let oldest = absent.min_by_key(|record| record.last_seen_ms).map(|record| record.instance.clone());
            changes
                .extend(oldest.and_then(|oldest| self.0.remove(&oldest)).map(|record| PeerChange::Forgotten(record.instance)));
        }
        changes
    }

    /// Somebody may be here no more: nothing is remembered of it.
    pub fn forget(&mut self, instance: &str) -> Option<PeerChange> {
        self.0.remove(instance).map(|record| PeerChange::Forgotten(record.instance))
    }

    /// A peer has just gone.
    pub fn gone(&mut self, instance: &str, now_ms: u64) -> Option<PeerChange> {
        let record = self.0.get_mut(instance)?;
        record.last_seen_ms = now_ms;
        Some(PeerChange::Seen(record.clone()))
    }
}

/// Has a peer be who it has proved to be, whatever it says: the name counts as configured. One that was configured
/// otherwise is a mistake, which is better told than passed over.
///
/// # Errors
/// It claims another name.
pub fn be_proven(hello: &mut Hello, proven: &Proven) -> Result<(), Unwelcome> {
    if hello.configured && *hello.name != *proven.name {
        return Err(Unwelcome::OtherName { proven: proven.name.to_string(), claimed: hello.name.clone() });
    }
    hello.name = proven.name.to_string();
    hello.configured = true;
    Ok(())
}

/// The name that a peer gets beside those who are connected: `holder` tells the address of whoever has a name, and whether it was
/// configured there.
///
/// # Errors
/// Why it gets none.
pub fn name_for(hello: &Hello, holder: impl Fn(&str) -> Option<(String, bool)>) -> Result<String, Unwelcome> {
    let Some((address, configured)) = holder(&hello.name) else { return Ok(hello.name.clone()) };
    if configured || hello.configured {
        return Err(Unwelcome::NameTaken { name: hello.name.clone(), holder: address });
    }
    let mut number: u64 = 2;
    loop {
        let name = format!("{}-{number}", hello.name);
        if holder(&name).is_none() {
            return Ok(name);
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str, instance: &str, epoch: u64) -> Hello {
        Hello {
            name: name.into(),
            configured: false,
            instance: instance.into(),
            epoch,
            version: String::new(),
            tags: Vec::new(),
            capacity: 0,
            features: Vec::new(),
            former: Vec::new(),
        }
    }

    fn seen(registry: &mut Registry, hello: &Hello, now_ms: u64) -> Vec<PeerChange> {
        registry.see(hello, &hello.name, "a", now_ms, |_| false)
    }

    #[test]
    fn only_a_newer_epoch_comes_in_also_after_a_restart() {
        let mut registry = Registry::default();
        assert_eq!(registry.check_epoch(&hello("a", "i", 0)), Ok(()));
        let changes = seen(&mut registry, &hello("a", "i", 5), 1);
        let [PeerChange::Seen(record)] = &changes[..] else { panic!("{changes:?}") };
        let later = Registry::new(vec![record.clone()]);
        for registry in [&registry, &later] {
            for epoch in [4, 5] {
                assert!(registry.check_epoch(&hello("a", "i", epoch)).is_err(), "{epoch}");
            }
            assert_eq!(registry.check_epoch(&hello("a", "i", 6)), Ok(()));
            assert_eq!(registry.check_epoch(&hello("a", "other", 1)), Ok(()));
        }
        assert_eq!(registry.gone("i", 9), Some(PeerChange::Seen(PeerRecord { last_seen_ms: 9, ..record.clone() })));
        assert_eq!(registry.gone("never", 9), None);
    }

    #[test]
    fn a_name_is_given_once() {
        let taken = |taken: &'static [(&'static str, bool)]| {
            move |name: &str| taken.iter().find(|(other, _)| *other == name).map(|(_, configured)| ("x".into(), *configured))
        };
        let plain = hello("web", "i", 1);
        let given = Hello { configured: true, ..plain.clone() };
        assert_eq!(name_for(&plain, taken(&[])).as_deref(), Ok("web"));
        assert_eq!(name_for(&plain, taken(&[("web", false), ("web-3", true)])).as_deref(), Ok("web-2"));
        assert_eq!(name_for(&plain, taken(&[("web", false), ("web-2", true)])).as_deref(), Ok("web-3"));
        assert!(name_for(&plain, taken(&[("web", true)])).is_err());
        assert!(name_for(&given, taken(&[("web", false)])).is_err());
        assert_eq!(name_for(&given, taken(&[("web-2", false)])).as_deref(), Ok("web"));
    }

    #[test]
    fn a_proven_peer_goes_by_its_proven_name() {
        let proven = Proven { name: "a".into(), tags: Vec::new(), allow: None, by: crate::standing::Proof::Certificate };
        let mut unsaid = hello("host", "i", 1);
        be_proven(&mut unsaid, &proven).expect("a host name is no claim");
        assert_eq!((unsaid.name.as_str(), unsaid.configured), ("a", true));
        be_proven(&mut unsaid, &proven).expect("its own name");
        let mut other = Hello { configured: true, ..hello("b", "i", 1) };
        let refused = be_proven(&mut other, &proven).expect_err("another name");
        assert_eq!(refused, Unwelcome::OtherName { proven: "a".into(), claimed: "b".into() });
    }

    #[test]
    fn what_a_peer_was_before_is_forgotten_and_beyond_the_bound_the_longest_absent_one() {
        let mut registry = Registry::default();
        seen(&mut registry, &hello("a", "old", 5), 1);
        let back = Hello { former: vec!["old".into(), "new".into(), "never".into()], ..hello("a", "new", 1) };
        let changes = seen(&mut registry, &back, 2);
        assert_eq!(changes[1..], [PeerChange::Forgotten("old".into())]);
        for number in 1..REGISTERED {
            seen(&mut registry, &hello("x", &number.to_string(), 1), 10 + number as u64);
        }
        let last = hello("x", "last", 1);
        let changes = registry.see(&last, "x", "a", 1 << 40, |instance| instance == "new");
        assert_eq!(changes[1..], [PeerChange::Forgotten("1".into())], "the oldest is connected");
        assert_eq!(registry.records().count(), REGISTERED);
        let all: Vec<PeerRecord> = registry
            .records()
            .cloned()
            .chain([PeerRecord { instance: "more".into(), last_seen_ms: 0, ..registry.0["last"].clone() }])
            .collect();
        let loaded = Registry::new(all);
        assert!(loaded.records().count() == REGISTERED && !loaded.0.contains_key("more"));
    }
}
