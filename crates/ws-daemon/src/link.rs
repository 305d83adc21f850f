//! One live WebSocket to a peer: a handle that others hold ([`Link`]) and a task that owns the socket ([`serve`]). Accepting and
//! dialling differ only at birth. It never chooses a peer, runs nothing, and knows no local process: what comes in is handed up
//! as values.

mod backoff;
mod departure;
mod dial;
mod greeting;
mod mux;
mod pings;
mod run_stream;
mod session;
mod stream;
mod trade;
mod tunnel;
mod upgrade;
mod wire;

pub use backoff::Backoff;
pub use departure::Departure;
pub use dial::{DialFault, dial};
pub use greeting::{CLOSE_BOUND, CLOSE_CLONE, CLOSE_NAME_TAKEN, CLOSE_OTHER_NAME, CLOSE_REVOKED, GreetingFault};
pub use mux::{Ask, AskBody, Closed, Dialect, Direct, Sink, Told};
pub use pings::{Pinging, Pong};
pub use run_stream::{RunEvent, RunSink, RunStream, STREAM_CREDIT_BYTES, run_stream};
pub use session::{Ended, serve};
pub use stream::Stream;
pub use trade::{Answer, probe, trade};
pub use tunnel::ProxyFault;
pub use wire::{Event, Gone, Wire};
pub use ws_daemon_protocol::codec::websocket::{CloseCode, Frame, Role};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ws_daemon_protocol::codec::seed;
use ws_daemon_protocol::codec::v2::{self, Hello, Order, Progress, Roots, Verdict};
use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::event::Chunk;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::Params;
use ws_daemon_protocol::options::OutputMode;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use crate::config::{Limits, Times};
use crate::standing::Standing;
use mux::Mux;

/// The handle of a link. Clones are the same link, and equal.
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peer: Arc<str>,
    address: Arc<str>,
    /// Who is at the other end, on a version 2 link.
    hello: Option<Box<Hello>>,
    /// Its instance, which each of its runs is found by.
    instance: Option<Arc<str>>,
    /// What it has proved.
    standing: Standing,
    /// Who this daemon is on it.
    me: Arc<Hello>,
    mux: Arc<Mux>,
    closing: CancellationToken,
    /// The same instance has come by another link: nothing that this one still reads is handed up.
    replaced: AtomicBool,
    /// The peer may be here no more: the code and words of the close frame.
    farewell: OnceLock<(u16, &'static str)>,
    /// The peer wants no more new work.
    draining: AtomicBool,
    /// Until it is back: since when.
    restarts: OnceLock<Instant>,
    /// This daemon restarts: when it closes the link, it says so.
    restarts_here: AtomicBool,
    /// It runs over TLS.
    encrypted: AtomicBool,
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Link {}

/// What a link needs to know of the settings.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Bytes of one frame.
    pub message: usize,
    /// Levels of nesting of one frame.
    pub nesting: usize,
    /// Between two pings.
    pub ping: Duration,
}

impl Terms {
    /// The part of the settings that links go by.
    #[must_use]
    pub fn new(limits: &Limits, times: &Times) -> Self {
        Self { message: limits.message, nesting: limits.nesting, ping: times.ping }
    }
}

/// What a link hands up. Of each link, first `Up`, then the rest, then `Down`, and nothing behind it.
#[derive(Debug)]
pub enum Inbound {
    /// The link is in the table: its peer is known.
    Up(Link),
    /// The link is gone, or replaced by the one that comes up next.
    Down(Link),
    /// The peer asks for a run.
    Run(IncomingRun),
    /// The peer gives a command.
    Command(IncomingCommand),
    /// A status that nobody waits for, of a seed peer or of a local process there.
    UnclaimedStatus {
        /// The JSON object as it came, compact.
        data: Box<str>,
        /// The way home, if it was said under an id.
        replier: Replier,
    },
    /// A status of a run that nobody waits for any more, or of another attempt of it.
    LateStatus {
        /// The link that it came by.
        link: Link,
        /// The run.
        run: RunId,
        /// Which attempt, and whether it was refused.
        verdict: Verdict,
        /// How it ended.
        report: Report,
    },
    /// More bytes of output may be sent.
    Credit {
        /// The link that it came by.
        link: Link,
        /// The run.
        run: RunId,
        /// How many more.
        bytes: u64,
    },
    /// A run is to be stopped, or never to be started.
    Cancel {
        /// The link that it came by.
        link: Link,
        /// The run.
        run: RunId,
        /// Which attempt of it; `None` for a direct run.
        attempt: Option<u32>,
    },
    /// Something is said of a server's roots.
    Roots {
        /// The link that it came by.
        link: Link,
        /// What.
        roots: Roots,
    },
    /// An outcome is on the asker's disk.
    Ack {
        /// The link that it came by.
        link: Link,
        /// The run.
        run: RunId,
        /// Which attempt of it.
        attempt: u32,
    },
}

/// A run that a peer asks for.
#[derive(Debug)]
pub struct IncomingRun {
    /// The script's name.
    pub name: String,
    /// What the script gets.
    pub params: Params,
    /// How it is to be run; of a seed peer, the default.
    pub order: Order,
    /// The way home.
    pub replier: Replier,
}

/// A command that a peer gives.
#[derive(Debug)]
pub struct IncomingCommand {
    /// The command.
    pub command: Command,
    /// The way home.
    pub replier: Replier,
}

/// The way home to whoever asked: the link that the request came by, and the id it came under. If the link is gone, so is the
/// asker of a direct run, who has settled it by itself; then all that is said here is dropped.
#[derive(Debug, Clone)]
pub struct Replier {
    link: Link,
    id: Option<CallerId>,
    run: Option<RunId>,
}

impl Replier {
    fn new(link: &Link, id: Option<CallerId>, run: Option<RunId>) -> Self {
        Self { link: link.clone(), id, run }
    }

    /// Sends the outcome home. A seed peer gets the seed's keys of it.
    pub fn report(&self, report: &Report, verdict: Verdict) {
        let mux = self.link.mux();
        match (mux.dialect(), &self.id) {
            (Dialect::Seed, id) => {
                mux.say(seed::status(&report.clone().with_seeds_keys(), id.as_ref()));
            }
            (Dialect::Version2, Some(id)) => mux.say(v2::status(id, verdict, report)),
            // Asked under no id: answered nothing.
            (Dialect::Version2, None) => {}
        }
    }

    /// Says how far the run has come, to a version 2 peer.
    pub fn event(&self, progress: Progress) {
        if let Some(run) = &self.run {
            self.link.send_event(run, progress);
        }
    }

    /// Sends output home. Whoever calls it keeps to the credit that was given, and waits for [`Link::output_room`].
    pub fn output(&self, frame: &Chunk) {
        self.link.send_output(frame);
    }

    /// The id that the request came under.
    #[must_use]
    pub fn id(&self) -> Option<&CallerId> {
        self.id.as_ref()
    }

    /// The run's id, if its asker made one: on a version 2 link.
    #[must_use]
    pub fn run(&self) -> Option<&RunId> {
        self.run.as_ref()
    }

    /// The name of whoever asked.
    #[must_use]
    pub fn peer(&self) -> &Arc<str> {
        &self.link.0.peer
    }

    /// The instance of whoever asked, if it has one.
    #[must_use]
    pub fn asker(&self) -> Option<&str> {
        self.link.instance()
    }

    /// The link that the request came by.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }
}

impl Link {
    /// The handle of a link to a seed peer, named by its address unless it has proved another name, still without its task: see
    /// [`serve`]. This daemon is `me` on it; a frame may have `message` bytes.
    #[must_use]
    pub fn seed(
        address: impl Into<Arc<str>>,
        standing: Standing,
        me: Arc<Hello>,
        message: usize,
        closing: CancellationToken,
    ) -> Self {
        let address = address.into();
        let peer = standing.proven().map_or_else(|| Arc::clone(&address), |proven| proven.name.as_ref().into());
        Self::new(peer, address, None, standing, me, Mux::new(message, Dialect::Seed), closing)
    }

    /// The handle of a version 2 link to the peer that said `hello` and goes by `name` here.
    #[must_use]
    pub fn version2(
        name: impl Into<Arc<str>>,
        address: impl Into<Arc<str>>,
        hello: impl Into<Box<Hello>>,
        standing: Standing,
        me: Arc<Hello>,
        message: usize,
        closing: CancellationToken,
    ) -> Self {
        let mux = Mux::new(message, Dialect::Version2);
        Self::new(name.into(), address.into(), Some(hello.into()), standing, me, mux, closing)
    }

    fn new(
        peer: Arc<str>,
        address: Arc<str>,
        hello: Option<Box<Hello>>,
        standing: Standing,
        me: Arc<Hello>,
        mux: Mux,
        closing: CancellationToken,
    ) -> Self {
        let (replaced, farewell) = (AtomicBool::new(false), OnceLock::new());
        let (draining, encrypted) = (AtomicBool::new(false), AtomicBool::new(false));
        let (restarts, restarts_here) = (OnceLock::new(), AtomicBool::new(false));
        let mux = Arc::new(mux);
        let instance = hello.as_ref().map(|hello| hello.instance.as_str().into());
        Self(Arc::new(Inner {
            peer,
            address,
            hello,
            instance,
            standing,
            me,
            mux,
            closing,
            replaced,
            farewell,
            draining,
            restarts,
            restarts_here,
            encrypted,
        }))
    }

    fn mux(&self) -> &Arc<Mux> {
        &self.0.mux
    }

    /// Who is at the other end: its name in this daemon's table.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// The same, to be kept without a copy.
    #[must_use]
    pub fn shared_peer(&self) -> &Arc<str> {
        &self.0.peer
    }

    /// What it has proved to be.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.0.standing
    }

    /// The address that the link was made with.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// What the peer said of itself; `None` of a seed peer.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.0.hello.as_deref()
    }

    /// What this daemon is on this link, up to the epoch. Once its spool was damaged it is another, and a version 2 link is closed.
    #[must_use]
    pub fn me(&self) -> &Hello {
        &self.0.me
    }

    /// The peer's instance; `None` of a seed peer.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.shared_instance().map(|instance| &**instance)
    }

    /// The same, to be kept without a copy.
    #[must_use]
    pub fn shared_instance(&self) -> Option<&Arc<str>> {
        self.0.instance.as_ref()
    }

    /// The peer's tags; none of a seed peer.
    #[must_use]
    pub fn tags(&self) -> &[String] {
        self.hello().map_or(&[], |hello| &hello.tags)
    }

    /// How many runs the peer does at once; `None` if it has not said.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.hello().map(|hello| hello.capacity).filter(|capacity| *capacity > 0)
    }

    /// The version of the peer's program; `None` of a seed peer.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.hello().map(|hello| hello.version.as_str())
    }

    /// Whether the peer can do `feature`.
    #[must_use]
    pub fn has_feature(&self, feature: &str) -> bool {
        self.hello().is_some_and(|hello| hello.features.iter().any(|known| known == feature))
    }

    /// Whether version 2 is spoken.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.mux().dialect() == Dialect::Version2
    }

    /// Whether the peer wants no more new work.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Since when the peer is restarting, if it is: it will come by another link.
    #[must_use]
    pub fn restarts(&self) -> Option<Instant> {
        self.0.restarts.get().copied()
    }

    fn hear_drain(&self, restarts: bool) {
        self.0.draining.store(true, Ordering::Release);
        if restarts {
            // The first time is the one that counts.
            let _ = self.0.restarts.set(Instant::now());
        }
    }

    /// Whether it runs over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.encrypted.load(Ordering::Acquire)
    }

    /// Says so, before the link is up.
    pub fn runs_over_tls(&self) {
        self.0.encrypted.store(true, Ordering::Release);
    }

    /// Whether this link counts no more: it is down, or the same instance has come by another one.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.0.replaced.load(Ordering::Acquire)
    }

    /// Whether nothing of what the peer says counts any more.
    fn is_over(&self) -> bool {
        self.is_replaced() || self.0.farewell.get().is_some()
    }

    /// How many requests wait for this peer's answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.mux().in_flight()
    }

    /// Whether this link can carry out the peer's part of an order. `queue` and `timeout` are the asker's alone towards a seed
    /// peer.
    ///
    /// # Errors
    /// The outcome that says what it cannot.
    pub fn supports(&self, order: &Order) -> Result<(), Outcome> {
        if self.is_v2() {
            return Ok(());
        }
        let cannot = [("output", order.output != OutputMode::None), ("events", order.events), ("to", order.hop.is_some())];
        match cannot.into_iter().find(|(_, wanted)| *wanted) {
            None => Ok(()),
            Some((key, _)) => {
                let why =
                    format!("\"{key}\" cannot be honoured: the peer {} speaks the seed's version of the link", self.peer());
                Err(Outcome::Failed(ErrorCode::Unsupported, why))
            }
        }
    }

    /// Puts a request on the way.
    ///
    /// # Errors
    /// The request, if the link is closed: it has certainly not left.
    pub fn ask(&self, ask: Ask) -> Result<(), Closed> {
        self.mux().ask(ask)
    }

    /// Whether there is room for one more request now.
    #[must_use]
    pub fn has_room_now(&self) -> bool {
        self.mux().has_room_now()
    }

    /// Ends when there is room for one more request, or the link is closed. It may be gone again by the time it is used: the
    /// bound is then exceeded by one request for each that waits here.
    pub async fn has_room(&self) {
        self.mux().has_room().await;
    }

    /// Ends when there is room for output, or the link is closed. As with [`has_room`](Self::has_room), whoever waits here may
    /// exceed the bound by one frame.
    pub async fn output_room(&self) {
        self.mux().has_output_room().await;
    }

    /// A round trip to the daemon at the other end, without a run.
    ///
    /// # Errors
    /// The outcome that says why there was none: a seed peer, or the link was lost.
    pub async fn ping(&self) -> Result<Duration, Outcome> {
        if !self.is_v2() {
            return Err(Outcome::failed(ErrorCode::Unsupported, "a seed peer answers no PING"));
        }
        let (since, (asker, heard)) = (Instant::now(), oneshot::channel());
        self.ask_ping(Box::new(asker), None);
        match heard.await {
            Ok(Pong::Answered) => Ok(since.elapsed()),
            _ => Err(lost()),
        }
    }

    /// Puts a PING on the way to the daemon at the other end, which speaks version 2; it is given up at `due`.
    pub fn ask_ping(&self, asker: Box<dyn Pinging>, due: Option<Instant>) {
        self.mux().ping(asker, due);
    }

    /// Who else there is, that the daemon at the other end would pass a run on to: what it says.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    pub async fn others(&self) -> Result<Report, Outcome> {
        self.question(AskBody::Peers, "a seed peer passes nothing on").await
    }

    async fn question(&self, body: AskBody, not_by_seed: &str) -> Result<Report, Outcome> {
        let (settle, settled) = oneshot::channel();
        let run = RunId::new(Uuid::now_v7().to_string());
        let (id, departure, sink) = (None, Departure::default(), Sink::Once(settle));
        if !self.is_v2() {
            return Err(Outcome::failed(ErrorCode::Unsupported, not_by_seed));
        }
        self.ask(Ask { body, id, run, departure, sink }).map_err(|_| lost())?;
        settled.await.map_err(|_| lost())
    }

    /// Sends the outcome of an attempt, to a version 2 peer.
    pub fn send_status(&self, run: &RunId, verdict: Verdict, report: &Report) {
        self.say(|| v2::status(&run.into(), verdict, report));
    }

    /// Says how far a run has come, to a version 2 peer.
    pub fn send_event(&self, run: &RunId, progress: Progress) {
        self.say(|| v2::event(run, progress));
    }

    /// Sends output, to a version 2 peer.
    pub fn send_output(&self, frame: &Chunk) {
        self.say(|| v2::output(frame));
    }

    /// Has a run stopped, by a version 2 peer.
    pub fn send_cancel(&self, run: &RunId, attempt: Option<u32>) {
        self.say(|| v2::cancel(run, attempt));
    }

    /// Lets a version 2 peer forget an outcome.
    pub fn send_ack(&self, run: &RunId, attempt: u32) {
        self.say(|| v2::ack(run, attempt));
    }

    /// Asks a version 2 peer for no more new work, if this daemon `restarts` until it is back: then any peer is told so when the link is
    /// closed, and is to come back at once.
    pub fn send_drain(&self, restarts: bool) {
        self.0.restarts_here.store(restarts, Ordering::Release);
        self.say(|| v2::drain(restarts));
    }

    /// Says something of a server's roots to a version 2 peer.
    pub fn send_roots(&self, roots: &Roots) {
        self.say(|| v2::roots(roots));
    }

    /// To a seed peer nothing is sent unasked.
    fn say(&self, frame: impl FnOnce() -> String) {
        if self.is_v2() {
            self.mux().say(frame());
        }
    }

    /// Closes the link once what waits to leave has left.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    /// Closes the link at once, with a code and words of the close frame: the peer may be here no more. What is in flight is settled
    /// when this returns, and nothing that it says from now on is handed up.
    pub fn expel(&self, code: u16, words: &'static str) {
        // The first reason is the one.
        let _ = self.0.farewell.set((code, words));
        self.mux().close();
        self.0.closing.cancel();
    }

    /// Closes the link since the same instance has come by another one. When this returns, what is in flight is settled and
    /// nothing more is handed up. `false` if it was replaced before.
    #[must_use]
    pub fn replace(&self) -> bool {
        let first = !self.0.replaced.swap(true, Ordering::AcqRel);
        self.mux().close();
        self.0.closing.cancel();
        first
    }
}

/// Nobody will answer by this link any more.
#[must_use]
pub fn lost() -> Outcome {
    Outcome::failed(ErrorCode::LinkLost, "the link was lost before the answer came")
}
