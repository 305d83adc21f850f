//! Whom a run is for, and the way there: a link, and whether the daemon at its end is to pass it on. It only looks; what is bound
//! to whom is for others to decide.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;
use ws_daemon_protocol::codec::v2::Hop;
use ws_daemon_protocol::message::Request;
use ws_daemon_protocol::options::Route;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};
use ws_daemon_protocol::target::Target;

use super::Origin;
use crate::link::Link;
use crate::peers::{Awaited, Choice, Pick};
use crate::policy::Scope;

/// What the user of a run begins with that is passed on; behind it stands the instance that asked.
pub const RELAYED: &str = "relay:";

/// What a name beyond the server begins with on disk.
const BEYOND: &str = "beyond:";

/// Whom a run is for.
#[derive(Debug, Clone, Default)]
pub struct Whom {
    /// This instance and no other: one of a fan-out, or one that it is bound to.
    pub instance: Option<Box<str>>,
    /// Else the peer of the server that is called so: one of a client's fan-out.
    pub beyond: Option<Box<str>>,
    /// Else who matches this.
    pub to: Option<Target>,
    /// And of these, which.
    pub route: Route,
    /// Not this instance: it asked for the run to be passed on.
    pub not: Option<Box<str>>,
    /// And only these.
    pub within: Scope,
}

/// A way to whom a run is for.
#[derive(Debug)]
pub struct Way {
    /// The link.
    pub link: Link,
    /// Whom the daemon at its end is to pass it on to, if it is not for that daemon itself.
    pub hop: Option<Box<Hop>>,
}

/// Why there is no way now.
#[derive(Debug)]
pub enum NoWay {
    /// There may be one later.
    Yet(Outcome),
    /// Nobody of that name was ever seen; the nearest known name.
    Unknown(Option<String>),
    /// There are some, and the rules let none of them be asked.
    Denied(Outcome),
}

impl Whom {
    /// Whom a request is for.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        Self { to: request.options.to.clone(), route: request.options.route.clone(), ..Self::default() }
    }

    /// The same for `user`, who may be a client that wants its run passed on.
    #[must_use]
    pub fn asked_by(self, user: &str) -> Self {
        Self { not: user.strip_prefix(RELAYED).map(Into::into), ..self }
    }

    /// The same, of these alone.
    #[must_use]
    pub fn only(self, within: Scope) -> Self {
        Self { within, ..self }
    }

    /// One of a fan-out, as it stands on disk: an instance, which has no colon in it, or a name beyond the server.
    #[must_use]
    pub fn of_target(target: &str) -> Self {
        match target.strip_prefix(BEYOND) {
            Some(name) => Self { beyond: Some(name.into()), ..Self::default() },
            None => Self { instance: Some(target.into()), ..Self::default() },
        }
    }

    /// The other way round; none if it is whoever matches.
    #[must_use]
    pub fn target(&self) -> Option<Box<str>> {
        self.beyond.as_ref().map(|name| format!("{BEYOND}{name}").into()).or_else(|| self.instance.clone())
    }
}

impl Origin {
    /// The way to whom a run is for, as things stand.
    pub fn look(&self, whom: &Whom) -> Result<Way, NoWay> {
        let absent = |message: &str| NoWay::Yet(Outcome::failed(ErrorCode::NoPeer, message));
        if let Some(instance) = &whom.instance {
            // One that restarts is waited for.
            let link = self.peers().link_of(instance).filter(|link| link.restarts().is_none());
            let link = link.ok_or_else(|| absent("the peer is not connected"))?;
            return Ok(Way { link, hop: None });
        }
        if let Some(name) = &whom.beyond {
            let link = self.server_that_relays().ok_or_else(|| absent("the server is away, or passes nothing on"))?;
            let hop = Hop { to: Target::parse(name).ok(), route: Route::default() };
            return Ok(Way { link, hop: Some(Box::new(hop)) });
        }
        let (target, not) = (whom.to.as_ref(), whom.not.as_deref());
        let within = Some(&whom.within).filter(|within| !within.is_anyone());
        let pick = self.peers().pick(&Choice { target, route: &whom.route, not, within });
        if let (Some(within), false) = (within, matches!(pick, Pick::Link(_))) {
            let known = self.peers().all_matching(target);
            let is_nobody_known_at_all = known.is_empty() && target.is_none();
            if !is_nobody_known_at_all && !known.iter().any(|peer| within.has(&peer.name, &peer.tags)) {
                return Err(NoWay::Denied(others_only()));
            }
            return Err(absent("those whom the rules let you ask are not connected now"));
        }
        match pick {
            Pick::Link(link) => Ok(Way { link, hop: None }),
            Pick::NobodyConnected => self
                .hop(whom)
                .ok_or_else(|| absent("nobody who may run it is connected; start a client on this machine, or ask another one in: ws-daemon invite NAME")),
            Pick::KnownButAbsent => self.hop(whom).ok_or_else(|| absent("whoever matches \"to\" is not connected now")),
            Pick::UnknownTarget(nearest) => self.hop(whom).ok_or(NoWay::Unknown(nearest)),
        }
    }

    /// Which part of `scope` a request is for that names `to`: anyone, if whoever matches is in it. `None` if it is for nobody of
    /// it; also if it is `kept` until somebody is there, and it cannot be told now that all who may come are.
    pub fn within(&self, scope: Scope, to: Option<&Target>, kept: bool) -> Option<Scope> {
        if scope.is_anyone() {
            return Some(scope);
        }
        let name = to.and_then(Target::single_name);
        // Of a peer that is known its tags are, too.
        let known = name.and_then(|_| self.peers().all_matching(to).into_iter().next());
        match (known, to) {
            (Some(peer), _) => scope.has(&peer.name, &peer.tags).then_some(Scope::ANYONE),
            (None, Some(to)) if scope.has_all(to) => Some(Scope::ANYONE),
            _ => (name.is_none() && !kept).then_some(scope),
        }
    }

    /// A client's way to another client leads through its server.
    fn hop(&self, whom: &Whom) -> Option<Way> {
        whom.to.as_ref()?;
        let link = self.server_that_relays()?;
        let hop = Hop { to: whom.to.clone(), route: whom.route.clone() };
        Some(Way { link, hop: Some(Box::new(hop)) })
    }

    /// On a client: the link to its server, if that passes runs on.
    fn server_that_relays(&self) -> Option<Link> {
        match self.peers().pick(&Choice::ANYONE) {
            Pick::Link(link) if self.is_client() && link.has_feature("relay") => Some(link),
            _ => None,
        }
    }

    /// On a client: the other peers of its server that match, connected ones or all that are remembered, if it passes runs on.
    ///
    /// # Errors
    /// The server did not tell; nothing was started.
    pub async fn beyond(&self, to: Option<&Target>, absent_too: bool, within: &Scope) -> Result<Vec<Whom>, Outcome> {
        #[derive(Deserialize)]
        struct Other {
            name: Box<str>,
            #[serde(default)]
            tags: Vec<String>,
            #[serde(default)]
            connected: bool,
        }
        let Some(server) = self.server_that_relays() else { return Ok(Vec::new()) };
        let untold = |why: &str| {
            let why = format!("the server was asked who else there is, and {why}; nothing was started");
            Outcome::Failed(ErrorCode::LinkLost, why)
        };
        let answered = timeout(self.peers().terms().ping, server.others()).await.map_err(|_| untold("did not answer"))?;
        let report = answered.map_err(|_| untold("was lost"))?;
        let said = report.more.as_ref().and_then(|more| more.result.as_deref());
        let Some(others) = said.and_then(|said| serde_json::from_str::<Vec<Other>>(said).ok()) else {
            return Err(untold(report.message.as_deref().unwrap_or("did not tell")));
        };
        // A name that reads as a pattern would be more than one.
        let is_name = |name: &str| Target::parse(name).is_ok_and(|target| target.single_name() == Some(name));
        let wanted = others.into_iter().filter(|other| {
            (absent_too || other.connected)
                && is_name(&other.name)
                && to.is_none_or(|to| to.matches(&other.name, &other.tags))
                && within.has(&other.name, &other.tags)
        });
        Ok(wanted.map(|other| Whom { beyond: Some(other.name), ..Whom::default() }).collect())
    }

    /// Whose arrival may open a way to `whom`; none: anyone's.
    pub fn awaited(&self, whom: &Whom) -> Option<Awaited> {
        // A client's ways all begin at its server.
        match (&whom.instance, &whom.to) {
            _ if self.is_client() => None,
            (Some(instance), _) => Some(Awaited::Instance(instance.clone())),
            (None, to) => to.as_ref().and_then(Target::single_name).map(|name| Awaited::Name(name.into())),
        }
    }

    /// The way for a direct run: a server says at once when there is none, a client waits for its
    /// server, as long as there is room for its `cost_bytes`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn way(&self, whom: &Whom, cost_bytes: usize) -> Result<Way, Outcome> {
        let mut arrivals = self.peers().arrivals(None);
        let mut waits = None;
        loop {
            match self.look(whom) {
                Ok(way) => return Ok(way),
                Err(NoWay::Unknown(nearest)) => return Err(unknown(whom, nearest.as_deref())),
                Err(NoWay::Denied(outcome)) => return Err(outcome),
                Err(NoWay::Yet(_)) if self.somebody_returns(whom.to.as_ref(), whom.instance.as_deref()).await => {}
                Err(NoWay::Yet(outcome)) if !self.is_client() || self.peers().is_somebody_there() => return Err(outcome),
                Err(NoWay::Yet(_)) => {
                    if waits.is_none() {
                        let cost = u32::try_from(cost_bytes).unwrap_or(u32::MAX);
                        let why = "the server is away and what waits for it has no room for more";
                        let room = self.0.waiting.try_acquire_many(cost);
                        waits = Some(room.map_err(|_| Outcome::failed(ErrorCode::QueueFull, why))?);
                    }
                    // The table itself holds the other end.
                    drop(arrivals.changed().await);
                }
            }
        }
    }
}

/// What is said of peers that are there and may not be asked.
pub fn others_only() -> Outcome {
    let why = "the rules of this daemon let you ask for this script of other peers only: see \"targets\" in its config.json";
    Outcome::failed(ErrorCode::Denied, why)
}

/// What is said of a target that nobody ever was.
pub fn unknown(whom: &Whom, nearest: Option<&str>) -> Outcome {
    let hint = nearest.map_or(String::new(), |nearest| format!("; did you mean {nearest:?}?"));
    let name = whom.to.as_ref().map(ToString::to_string).unwrap_or_default();
    Outcome::Failed(ErrorCode::UnknownTarget, format!("no peer {name:?} was ever seen here{hint}"))
}

/// A duration in whole milliseconds, at most what JSON's readers hold.
pub fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
