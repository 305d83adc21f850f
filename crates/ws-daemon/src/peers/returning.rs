//! Who is away for a moment and comes back: peers that have said that they restart, and those that were linked in this daemon's last
//! life. It never holds a request; it says whether to wait, and until when.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use ws_daemon_protocol::target::Target;

use super::Peers;
use super::table::Table;
use crate::link::Link;

/// How long somebody who is away is waited for.
const BACK: Duration = Duration::from_secs(10);

/// How long somebody who has said that it restarts, and is still there, is waited for to go: what it has in hand comes first.
const LEAVES: Duration = Duration::from_mins(1);

/// Instances that are away, each with when it is waited for no more. There are never more than there were links.
#[derive(Debug, Default)]
pub struct Returning(HashMap<String, Instant>);

impl Returning {
    /// A link is gone.
    pub fn gone(&mut self, link: &Link) {
        if let (Some(instance), Some(_)) = (link.instance(), link.restarts()) {
            self.is_away(instance);
        }
    }

    /// It is here.
    pub fn came(&mut self, instance: &str) {
        self.0.remove(instance);
    }

    fn is_away(&mut self, instance: &str) {
        let now = Instant::now();
        self.0.retain(|_, until| *until > now);
        self.0.insert(instance.to_owned(), now + BACK);
    }
}

impl Table {
    /// Until when to wait for somebody who matches and comes back; `None` if nobody does.
    fn returning(&self, target: Option<&Target>, instance: Option<&str>) -> Option<Instant> {
        let now = Instant::now();
        let is_meant = |one: &str, name: &str, tags: &[String]| {
            instance.is_none_or(|instance| instance == one) && target.is_none_or(|target| target.matches(name, tags))
        };
        let leaving = self.links.iter().filter_map(|link| {
            let since = link.restarts().filter(|_| is_meant(link.instance().unwrap_or_default(), link.peer(), link.tags()))?;
            Some(since + LEAVES)
        });
        let away = self.returning.0.iter().filter_map(|(instance, until)| {
            // Whoever is not remembered may be anyone.
            let is_meant = self.registry.get(instance).is_none_or(|record| is_meant(instance, &record.name, &record.tags));
            is_meant.then_some(*until)
        });
        leaving.chain(away).filter(|until| *until > now).max()
    }
}

impl Peers {
    /// The instances that are linked, and those that are waited for.
    #[must_use]
    pub fn here_or_returning(&self) -> Vec<String> {
        let (table, now) = (self.table(), Instant::now());
        let here = table.links.iter().filter_map(|link| link.instance().map(str::to_owned));
        let away = table.returning.0.iter().filter(|(_, until)| **until > now).map(|(instance, _)| instance.clone());
        here.chain(away).collect()
    }

    /// These were linked a moment ago, and are waited for.
    pub fn await_back(&self, instances: &[String]) {
        let mut table = self.table();
        for instance in instances {
            table.returning.is_away(instance);
        }
    }

    /// Until when to wait for somebody who matches, or for this instance, before it is said that nobody is there; `None`: not at all.
    #[must_use]
    pub fn returning(&self, target: Option<&Target>, instance: Option<&str>) -> Option<Instant> {
        self.table().returning(target, instance)
    }
}
