//! The table itself, behind a lock that somebody else holds: the links in order of arrival, found by instance and by name, and which
//! of them is next. It never waits, and tells nobody.

use std::collections::HashMap;
use std::sync::Arc;

use ws_daemon_protocol::codec::v2::Hello;
use ws_daemon_protocol::options::Route;
use ws_daemon_protocol::target::Target;

use super::registry::{Registry, Unwelcome};
use super::returning::Returning;
use crate::link::Link;
use crate::policy::Scope;
use crate::route;
use crate::standing::Proven;

/// The table.
#[derive(Debug)]
pub struct Table {
    /// Who this daemon is now.
    pub me: Arc<Hello>,
    /// In order of arrival: `arrivals[i]` is the number of `links[i]`.
    pub arrivals: Vec<u64>,
    pub links: Vec<Link>,
    pub by_instance: HashMap<Arc<str>, Link>,
    /// Who had a name last, and the number of its arrival.
    by_name: HashMap<Arc<str>, (u64, Link)>,
    pub registry: Registry,
    pub returning: Returning,
    next: u64,
    last: Option<u64>,
}

/// Who may get a request, and which of them.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Who may; `None` is anyone.
    pub target: Option<&'a Target>,
    /// Which of them.
    pub route: &'a Route,
    /// Not this instance: the one that asks for it.
    pub not: Option<&'a str>,
    /// Only of these, as the rules have it; `None`: of all.
    pub within: Option<&'a Scope>,
}

impl Choice<'_> {
    /// Anyone, in turn.
    pub const ANYONE: Choice<'static> = Choice { target: None, route: &Route::RoundRobin, not: None, within: None };
}

/// What came of a choice.
#[derive(Debug)]
pub enum Pick {
    /// This one.
    Link(Link),
    /// Nobody who may is connected, and it was not one name that was asked for.
    NobodyConnected,
    /// Whoever may was here before.
    KnownButAbsent,
    /// Nobody of this name was ever here; the nearest name that was.
    UnknownTarget(Option<String>),
}

/// A peer that may run a request, connected or not.
#[derive(Debug, Clone)]
pub struct Match {
    /// Its instance; `None` of a seed peer.
    pub instance: Option<String>,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its link, if it is connected.
    pub link: Option<Link>,
}

/// What is known of a peer, connected or not.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Its instance; `None` of a seed peer.
    pub instance: Option<String>,
    /// Where it is, or was.
    pub address: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its link, if it is connected.
    pub link: Option<Link>,
    /// When it was last seen to come or go, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// The version of its program; `None` of a seed peer.
    pub version: Option<String>,
    /// Its epoch; `None` of a seed peer.
    pub epoch: Option<u64>,
    /// How many runs it does at once, if it has said.
    pub capacity: Option<u64>,
}

impl Table {
    /// Nobody is connected yet.
    pub fn new(registry: Registry, me: Arc<Hello>) -> Self {
        let (arrivals, links, by_instance, by_name) = (Vec::new(), Vec::new(), HashMap::new(), HashMap::new());
        Self { me, arrivals, links, by_instance, by_name, registry, returning: Returning::default(), next: 0, last: None }
    }

    /// Takes a link in; the number of its arrival.
    pub fn add(&mut self, link: &Link) -> u64 {
        let arrival = self.next;
        self.next += 1;
        self.arrivals.push(arrival);
        self.links.push(link.clone());
        self.by_name.insert(Arc::clone(link.shared_peer()), (arrival, link.clone()));
        if let Some(instance) = link.shared_instance() {
            self.by_instance.insert(Arc::clone(instance), link.clone());
            self.returning.came(instance);
        }
        arrival
    }

    /// Lets it go, if it is here.
    pub fn remove(&mut self, link: &Link) {
        if let Some(index) = self.links.iter().position(|other| other == link) {
            self.arrivals.remove(index);
            self.links.remove(index);
        }
        if self.named(link.peer()) == Some(link) {
            self.by_name.remove(link.peer());
        }
        if let Some(instance) = link.instance().filter(|instance| self.by_instance.get(*instance) == Some(link)) {
            self.by_instance.remove(instance);
            self.returning.gone(link);
        }
    }

    /// See [`Peers::named`](super::Peers::named).
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.by_name.get(name).map(|(_, link)| link)
    }

    /// Who has a name beside `instance`: its address, and whether it was given the name.
    pub fn holder(&self, name: &str, instance: &str) -> Option<(String, bool)> {
        let link = self.named(name).filter(|link| link.instance() != Some(instance))?;
        Some((link.address().to_owned(), link.hello().is_some_and(|hello| hello.configured && hello.name == name)))
    }

    /// Who must go for the peer that has proved its name: one that has not, or a seed peer's older link, of which nothing else tells
    /// that it is the same peer's. The newcomer is of `instance`, or a seed peer.
    ///
    /// # Errors
    /// Another instance is here with the same proof.
    pub fn in_the_way(&self, proven: &Proven, instance: Option<&str>) -> Result<Option<Link>, Unwelcome> {
        let holder = self.named(&proven.name).filter(|link| instance.is_none() || link.instance() != instance);
        let Some(holder) = holder else { return Ok(None) };
        let has_proved = holder.standing().proven().is_some_and(|held| held.name == proven.name);
        if has_proved && (instance.is_some() || holder.instance().is_some()) {
            return Err(Unwelcome::NameTaken { name: proven.name.to_string(), holder: holder.address().to_owned() });
        }
        Ok(Some(holder.clone()))
    }

    /// See [`Peers::pick`](super::Peers::pick).
    pub fn pick(&mut self, choice: &Choice<'_>) -> Pick {
        match self.choose(choice) {
            Some(index) => {
                self.last = Some(self.arrivals[index]);
                Pick::Link(self.links[index].clone())
            }
            None => self.why_nobody(choice.target),
        }
    }

    /// Whom [`pick`](Self::pick) would pick now.
    pub fn peek(&self, choice: &Choice<'_>) -> Option<Link> {
        self.choose(choice).map(|index| self.links[index].clone())
    }

    /// See [`Peers::registered`](super::Peers::registered).
    pub fn registered(&self) -> Vec<Registered> {
        let seeds = self.links.iter().filter(|link| link.hello().is_none()).map(|link| Registered {
            name: link.peer().to_owned(),
            instance: None,
            address: link.address().to_owned(),
            tags: Vec::new(),
            link: Some(link.clone()),
            last_seen_ms: None,
            version: None,
            epoch: None,
            capacity: None,
        });
        let known = self.registry.records().map(|record| Registered {
            name: record.name.clone(),
            instance: Some(record.instance.clone()),
            address: record.address.clone(),
            tags: record.tags.clone(),
            link: self.by_instance.get(record.instance.as_str()).cloned(),
            last_seen_ms: Some(record.last_seen_ms),
            version: Some(record.version.clone()),
            epoch: Some(record.epoch),
            capacity: Some(record.capacity).filter(|capacity| *capacity > 0),
        });
        seeds.chain(known).collect()
    }

    fn choose(&self, choice: &Choice<'_>) -> Option<usize> {
        let fits = |index: &usize| {
            let link = &self.links[*index];
            let asks = choice.not.is_some() && link.instance() == choice.not;
            let may = choice.within.is_none_or(|within| within.has(link.peer(), link.tags()));
            may && !link.is_draining() && !asks && choice.target.is_none_or(|target| target.matches(link.peer(), link.tags()))
        };
        // Whoever is asked for by one name is found by it, however many there are. One that may not be asked may have a namesake.
        let named = choice.target.and_then(Target::single_name).and_then(|name| self.by_name.get(name));
        if let Some(index) = named.and_then(|(arrival, _)| self.arrivals.binary_search(arrival).ok()).filter(fits) {
            return Some(index);
        }
        // The common way: whoever is next, most likely at the first look.
        if *choice.route == Route::RoundRobin {
            let first = route::round_robin(&self.arrivals, self.last)?;
            return (first..self.links.len()).chain(0..first).find(fits);
        }
        let candidates: Vec<usize> = (0..self.links.len()).filter(fits).collect();
        let links = candidates.iter().map(|index| &self.links[*index]);
        let chosen = match choice.route {
            Route::Sticky(key) => route::sticky(key, links.map(|link| link.instance().unwrap_or_else(|| link.peer()))),
            Route::LeastBusy | Route::RoundRobin => {
                let loads: Vec<_> = links.map(|link| (link.in_flight(), link.capacity())).collect();
                let arrivals: Vec<u64> = candidates.iter().map(|index| self.arrivals[*index]).collect();
                route::least_busy(&arrivals, &loads, self.last)
            }
        };
        chosen.map(|chosen| candidates[chosen])
    }

    fn why_nobody(&self, target: Option<&Target>) -> Pick {
        /// So many slips of the pen.
        const NEAR: usize = 2;
        let Some(target) = target else { return Pick::NobodyConnected };
        let known = self.registry.records().any(|record| target.matches(&record.name, &record.tags));
        if known {
            return Pick::KnownButAbsent;
        }
        let Some(name) = target.single_name() else { return Pick::NobodyConnected };
        // It is here, and draining, or the one that asks.
        if self.by_name.contains_key(name) {
            return Pick::KnownButAbsent;
        }
        let remembered = self.registry.records().map(|record| record.name.as_str());
        let names = self.by_name.keys().map(|name| &**name).chain(remembered);
        let near = names.map(|known| (strsim::damerau_levenshtein(known, name), known)).filter(|(far, _)| *far <= NEAR).min();
        Pick::UnknownTarget(near.map(|(_, name)| name.to_owned()))
    }
}
