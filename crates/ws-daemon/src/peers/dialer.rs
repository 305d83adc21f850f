//! Keeps one link up, to the first of its servers that is reached: dials, has the link's life, waits with full jitter, dials again,
//! for ever. A pause closes the link for a while. It never gives up, and never holds requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use ws_daemon_protocol::codec::v2::Hello;

use super::{Life, Newcomer, Peers};
use crate::config::{InUse, ServerUrl, Servers, Times};
use crate::link::{Backoff, DialFault, Dialect, Ended, GreetingFault, Wire, dial};
use crate::tls::ClientTls;

/// A link that lasted this long ends a series of failures: the next wait is short again, and the first server the next one to be
/// tried. One that ended sooner is as good as none.
const LASTING: Duration = Duration::from_secs(10);

/// The wait before the server is dialled that has said that it restarts, at most: its clients do not come all at once.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Gives orders to a [`Dialer`].
#[derive(Debug, Clone)]
pub struct DialerHandle {
    pause: watch::Sender<Option<Instant>>,
    plan: InUse<Plan>,
}

/// Which servers are dialled, and how often.
#[derive(Debug)]
struct Plan {
    servers: Servers,
    times: Times,
}

impl DialerHandle {
    /// Closes the link for so long; a later pause replaces an earlier one.
    pub fn pause(&self, pause: Duration) {
        self.pause.send_replace(Some(Instant::now() + pause));
    }

    /// The next dial is to the first of these, and comes at once if none is under way. A link that is up stays.
    pub fn take_up(&self, servers: Servers, times: Times) {
        self.plan.replace(Plan { servers, times });
    }
}

/// Where the dialer gets its epoch: each call raises it, on disk before it returns.
#[derive(Clone)]
pub struct EpochSource(Arc<dyn Fn() -> BoxFuture<'static, u64> + Send + Sync>);

impl EpochSource {
    /// A source that is asked before each link.
    pub fn new(raise: impl Fn() -> BoxFuture<'static, u64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(raise))
    }

    /// The epoch of the next link.
    pub async fn next(&self) -> u64 {
        (self.0)().await
    }
}

impl fmt::Debug for EpochSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochSource")
    }
}

/// The task that dials.
#[derive(Debug)]
pub struct Dialer {
    peers: Peers,
    plan: InUse<Plan>,
    tls: ClientTls,
    epochs: EpochSource,
    /// The epoch that was refused as a clone's: it is said again until it is accepted, since one that was raised until it is
    /// would drive the other one out. It is that of this one.
    refused: Option<(Arc<Hello>, u64)>,
    pause: watch::Receiver<Option<Instant>>,
    stop: CancellationToken,
}

impl Dialer {
    /// A dialer for `servers` that dials no more once `stop` is cancelled.
    #[must_use]
    pub fn new(
        peers: Peers,
        servers: Servers,
        tls: ClientTls,
        times: Times,
        epochs: EpochSource,
        stop: CancellationToken,
    ) -> (DialerHandle, Self) {
        let (orders, pause) = watch::channel(None);
        let plan = InUse::new(Plan { servers, times });
        let handle = DialerHandle { pause: orders, plan: plan.clone() };
        (handle, Self { peers, plan, tls, epochs, refused: None, pause, stop })
    }

    /// Dials until told to stop.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        let mut changes = self.plan.changes();
        let backoff_of = |plan: &Plan| Backoff::new(plan.times.backoff_min, plan.times.backoff_max);
        let mut backoff = backoff_of(&changes.borrow_and_update());
        'rounds: loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.pause_over() => {}
            }
            let plan = self.plan.now();
            for server in plan.servers.iter() {
                let tried = self.try_once(server, plan.times.handshake).await;
                if stop.is_cancelled() {
                    return;
                }
                match tried {
                    Tried::Paused => continue 'rounds,
                    Tried::ToRestart => {
                        backoff.reset();
                        sleep(AT_ONCE.mul_f64(fastrand::f64())).await;
                        continue 'rounds;
                    }
                    Tried::Linked(life) if life >= LASTING => {
                        backoff.reset();
                        break;
                    }
                    Tried::Linked(_) | Tried::NoLink => {}
                }
                if changes.has_changed().unwrap_or_default() {
                    break;
                }
            }
            if changes.has_changed().unwrap_or_default() {
                backoff = backoff_of(&changes.borrow_and_update());
                continue;
            }
            let wait = backoff.next(fastrand::f64());
            info!(?wait, server = %plan.servers.first, "dialling again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
                // A pause replaces the wait, also one of no time at all: that is how to say "now".
                _ = self.pause.changed() => backoff.reset(),
                // So does another server, or another token for this one.
                _ = changes.changed() => backoff = backoff_of(&changes.borrow_and_update()),
            }
        }
    }

    /// Ends when no pause is on.
    async fn pause_over(&mut self) {
        loop {
            let until = *self.pause.borrow_and_update();
            let Some(until) = until.filter(|until| *until > Instant::now()) else { return };
            tokio::select! {
                () = sleep_until(until) => return,
                _ = self.pause.changed() => {}
            }
        }
    }

    /// One dial, which is to have come to a link `within` so long, and the life of that link.
    async fn try_once(&mut self, server: &ServerUrl, within: Duration) -> Tried {
        let (mut pause, stop) = (self.pause.clone(), self.stop.clone());
        let reached = tokio::select! {
            reached = self.reach(server, within) => reached,
            () = stop.cancelled() => return Tried::NoLink,
            _ = pause.changed() => return Tried::Paused,
        };
        let newcomer = match reached {
            Ok(newcomer) => newcomer,
            Err(error) => {
                warn!(%server, %error, "no link");
                return Tried::NoLink;
            }
        };
        let since = Instant::now();
        let closing = self.peers.closing();
        let life = self.peers.host(newcomer, closing.clone());
        let mut life = std::pin::pin!(life);
        tokio::select! {
            life = &mut life => match life {
                Life::Ended(Ended::Restarts) => Tried::ToRestart,
                _ => Tried::Linked(since.elapsed()),
            },
            _ = self.pause.changed() => {
                info!("the link is closed for a pause");
                closing.cancel();
                life.await;
                Tried::Paused
            }
        }
    }

    /// From the name of a server to a link whose peer is known, under one deadline.
    async fn reach(&mut self, server: &ServerUrl, within: Duration) -> Result<Newcomer, NoLink> {
        let deadline = Instant::now() + within;
        let (wire, dialect) = dial(server, &self.tls, deadline, within, self.peers.terms().message).await?;
        match dialect {
            Dialect::Seed => Ok(self.peers.seed_server(wire, server.authority())),
            Dialect::Version2 => match timeout_at(deadline, self.introduce(wire, server)).await {
                Ok(introduced) => Ok(introduced?),
                Err(_) => Err(DialFault::TooSlow(within).into()),
            },
        }
    }

    async fn introduce(&mut self, wire: Wire, server: &ServerUrl) -> Result<Newcomer, GreetingFault> {
        // Before the epoch is raised: that of another is not to be said as this one's.
        let me = self.peers.me();
        let epoch = match &self.refused {
            Some((refused, epoch)) if Arc::ptr_eq(refused, &me) => *epoch,
            _ => self.epochs.next().await,
        };
        let introduced = self.peers.introduce(wire, server.authority(), Arc::clone(&me), epoch).await;
        match &introduced {
            Ok(_) => self.refused = None,
            Err(GreetingFault::Clone(_)) => self.refused = Some((me, epoch)),
            Err(_) => {}
        }
        introduced
    }
}

/// What came of trying one server.
enum Tried {
    /// There was a link, for so long.
    Linked(Duration),
    NoLink,
    /// It was ended for a pause.
    Paused,
    /// It was ended by the server, which restarts.
    ToRestart,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum NoLink {
    #[error(transparent)]
    Dial(#[from] DialFault),
    #[error(transparent)]
    Greeting(#[from] GreetingFault),
}
