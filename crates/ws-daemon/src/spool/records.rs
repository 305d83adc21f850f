//! What goes into the spool and what comes out of it: values only, they decide nothing.

use std::path::PathBuf;

use ws_daemon_protocol::command::StreamName;
use ws_daemon_protocol::id::RunId;

/// How much the spool may hold. Reaching one of these never loses what is unsettled or unacknowledged.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Bytes in use on disk; new work is refused a little earlier, so that outcomes always have room.
    pub bytes: u64,
    /// Runs asked for and claims not yet acknowledged, history included; new work is refused when only the unsettled are left.
    pub runs: u64,
    /// Output kept of one run, both streams together; the oldest is dropped.
    pub output_bytes: u64,
    /// How long an id is remembered after its request has settled, and an acknowledged claim after that, in ms.
    pub remembered_ms: i64,
    /// Age at which settled requests are dropped, in ms.
    pub history_ms: i64,
    /// Bodies and reports of settled requests; the oldest are dropped.
    pub history_bytes: u64,
    /// Acknowledged claims that are remembered; the oldest are dropped.
    pub tombstones: u64,
    /// Peers that are remembered; the one not seen for longest is dropped.
    pub peers: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        Self {
            bytes: 1 << 30,
            runs: 200_000,
            output_bytes: 1 << 20,
            remembered_ms: DAY,
            history_ms: 7 * DAY,
            history_bytes: 64 << 20,
            tombstones: 100_000,
            peers: 10_000,
        }
    }
}

/// What an acknowledged verb has outlived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut.
    Full,
    /// The end of the daemon, but not that of the machine. Only a test that shows the difference wants this.
    Normal,
}

/// Who this spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made with the spool.
    pub instance: Box<str>,
    /// Raised by [`Spool::raise_epoch`](super::Spool::raise_epoch).
    pub epoch: u64,
    /// Instances whose spools were damaged and set aside here, the newest first.
    pub former: Vec<Box<str>>,
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolFault {
    /// Another process has it.
    #[error("the spool {} is in use by another daemon; give one of the two another \"port\", or a prefix of its own", .0.display())]
    Locked(PathBuf),
    /// A later version of this program has written it.
    #[error("the spool {} has format {found}, and this program knows formats up to {known}: use the newer program, or move the file away", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest that we know.
        known: i64,
    },
    /// The system does not let us.
    #[error("cannot open the spool {}: {reason}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// In the system's words.
        reason: Box<str>,
    },
}

/// Why a verb has done nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// One of the [`Bounds`] is reached.
    #[error("the spool is full")]
    Full,
    /// There is no such run, request or claim here.
    #[error("the spool knows nothing of it")]
    Unknown,
    /// The spool has been closed.
    #[error("the spool is closed")]
    Closed,
    /// The disk, the system, or damage found in the file.
    #[error("the spool failed: {0}")]
    Failed(Box<str>),
}

/// A request that is to be kept.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Whose it is; half of what it is found by.
    pub user: Box<str>,
    /// The text of the caller's id as [`IdKey`](ws_daemon_protocol::id::IdKey) has it; without one it attaches to nothing.
    pub key: Option<Box<str>>,
    /// The caller's id as it was written.
    pub caller_id: Option<Box<str>>,
    /// Of the content: the same key with another hash is a conflict.
    pub hash: [u8; 32],
    /// Name, params and options; opaque here.
    pub body: Box<str>,
    /// At least one.
    pub runs: Vec<NewRun>,
    /// On the spool's clock.
    pub expires_ms: i64,
    /// On the spool's clock.
    pub not_before_ms: Option<i64>,
    /// The script that gets the outcome.
    pub then: Option<Box<str>>,
}

/// One run of a [`NewRequest`].
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Known to nobody yet.
    pub run: RunId,
    /// The script.
    pub name: Box<str>,
    /// Who may run it; opaque here.
    pub target: Option<Box<str>>,
}

/// What became of [`Spool::accept`](super::Spool::accept).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is on disk now.
    Fresh,
    /// The same request is here already; its runs as they are, in the order in which they were given.
    Known(Vec<RunRecord>),
    /// Another request has this key.
    Conflict,
}

/// How far a run is, at its asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// For a peer.
    Waiting,
    /// To one instance: it may have left.
    Bound,
    /// It has its report.
    Settled,
}

/// A run as its asker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Its id.
    pub run: RunId,
    /// Grows with acceptance over all runs of this spool.
    pub seq: u64,
    /// Which request it belongs to; meaningful while the daemon lives.
    pub request: u64,
    /// Whose that request is.
    pub user: Box<str>,
    /// The caller's id of that request, as it was written.
    pub caller_id: Option<Box<str>>,
    /// The script.
    pub name: Box<str>,
    /// Who may run it, as it was given.
    pub target: Option<Box<str>>,
    /// The instance that it is bound to, or was when it settled.
    pub bound: Option<Box<str>>,
    /// From 1.
    pub attempt: u32,
    /// How far it is.
    pub state: RunState,
    /// How it ended, if settled.
    pub report: Option<Box<str>>,
    /// What came to light after that.
    pub correction: Option<Box<str>>,
    /// Wall time, ms since 1970; only to be shown.
    pub accepted_wall_ms: i64,
    /// Wall time, ms since 1970; only to be shown.
    pub settled_wall_ms: Option<i64>,
    /// Somebody wants it stopped.
    pub cancelled: bool,
    /// How many of its attempts certainly never began.
    pub refused: u32,
}

/// A request with runs that have not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequest {
    /// Meaningful while the daemon lives.
    pub request: u64,
    /// As it was given.
    pub user: Box<str>,
    /// As it was given.
    pub key: Option<Box<str>>,
    /// As it was given.
    pub caller_id: Option<Box<str>>,
    /// As it was given.
    pub body: Box<str>,
    /// On the spool's clock.
    pub accepted_ms: i64,
    /// On the spool's clock.
    pub expires_ms: i64,
    /// On the spool's clock.
    pub not_before_ms: Option<i64>,
    /// As it was given.
    pub then: Option<Box<str>>,
    /// The unsettled ones, in the order in which they were given.
    pub runs: Vec<RunRecord>,
}

/// What [`Spool::settle`](super::Spool::settle) brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// False if the run had settled before: then nothing was changed, its first report stands.
    pub fresh: bool,
    /// No run of its request is left unsettled.
    pub request_done: bool,
    /// This settled the request's last run, and a script is to get the outcome.
    pub then: Option<ThenDue>,
}

/// A script that is to get the outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThenDue {
    /// For [`Spool::then_started`](super::Spool::then_started).
    pub request: u64,
    /// The instance of the spool that has it: in another one, the number is that of another request.
    pub spool: Box<str>,
    /// The script.
    pub script: Box<str>,
    /// The caller's id, as it was written.
    pub caller_id: Option<Box<str>>,
    /// Of all its runs, in the order in which they were given.
    pub reports: Vec<Box<str>>,
}

/// A run that a peer has asked this daemon for. Asker, run and attempt together are its key.
#[derive(Debug, Clone)]
pub struct NewClaim {
    /// The instance that asks.
    pub asker: Box<str>,
    /// Its run.
    pub run: RunId,
    /// From 1.
    pub attempt: u32,
    /// The script.
    pub name: Box<str>,
    /// All that is needed to run it; opaque here.
    pub body: Box<str>,
    /// It starts at once: spares [`Spool::starting`](super::Spool::starting).
    pub starting: bool,
}

/// What is known of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It was not known; it is on disk now.
    Fresh,
    /// It is in line, starts or runs.
    Running,
    /// It has run; its report.
    Finished(Box<str>),
    /// It never ran and never will; its report.
    Refused(Box<str>),
    /// Its asker has its report.
    Acknowledged,
}

/// How far a claim is, at its doer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimState {
    /// In line: certainly not started.
    Claimed,
    /// It may have started.
    Starting,
    /// It has, as that process.
    Started,
    /// It has its report.
    Finished,
    /// It has its report and never runs.
    Refused,
    /// Its asker has its report.
    Acknowledged,
}

/// A claim as its doer knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRecord {
    /// The instance that asks.
    pub asker: Box<str>,
    /// Its run.
    pub run: RunId,
    /// From 1.
    pub attempt: u32,
    /// The script.
    pub name: Box<str>,
    /// As it was given; empty once acknowledged.
    pub body: Box<str>,
    /// How far it is.
    pub state: ClaimState,
    /// Once started.
    pub pid: Option<u32>,
    /// What tells this process from a later one with its pid.
    pub start_time: Option<u64>,
    /// How it ended.
    pub report: Option<Box<str>>,
    /// Wall time, ms since 1970; only to be shown.
    pub claimed_wall_ms: i64,
    /// Wall time of its end, ms since 1970; only to be shown.
    pub finished_wall_ms: Option<i64>,
}

/// A report whose asker has not said that it has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Its run.
    pub run: RunId,
    /// Its attempt.
    pub attempt: u32,
    /// How it ended.
    pub report: Box<str>,
    /// It never ran and never will.
    pub refused: bool,
}

/// A piece of what a run has printed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputPart {
    /// Where `bytes` begin: at or after what was asked for, as the oldest may be gone.
    pub offset: u64,
    /// Without a gap.
    pub bytes: Vec<u8>,
    /// Where all that is known ends.
    pub end: u64,
}

/// What is kept of one stream of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputRange {
    /// As it was given with the output.
    pub stream: u8,
    /// The oldest byte that is kept.
    pub from: u64,
    /// Behind the newest.
    pub to: u64,
}

/// A peer that has been here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// Its instance, the key.
    pub instance: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Whether the name is from its configuration.
    pub configured: bool,
    /// Its tags.
    pub tags: Vec<Box<str>>,
    /// The highest seen.
    pub epoch: u64,
    /// Of its program.
    pub version: Box<str>,
    /// Runs at once.
    pub capacity: u64,
    /// Where it came from.
    pub address: Box<str>,
    /// Wall time, ms since 1970; only to be shown, and to tell who is dropped first.
    pub last_seen: i64,
}

/// Which runs, or claims, are wanted.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only these; for claims: those in line and at work are `Bound`, those that are over `Settled`, those refused neither.
    pub state: Option<RunState>,
    /// Only those bound to, or asked by, this instance.
    pub peer: Option<Box<str>>,
    /// At most so many.
    pub limit: usize,
}

/// How the spool does, as after its latest commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpoolStats {
    /// In use on disk, without the log that is yet to be merged.
    pub bytes: u64,
    /// Runs asked for, and claims not yet acknowledged.
    pub rows: u64,
    /// Runs asked for that have not settled.
    pub unsettled: u64,
    /// Claims that have not been acknowledged, whether finished or not.
    pub unacknowledged: u64,
    /// Bodies and reports of settled requests.
    pub history_bytes: u64,
    /// Transactions that wrote, since the spool was opened.
    pub commits: u64,
    /// Verbs that they and reading ones answered.
    pub verbs: u64,
    /// Transactions that failed.
    pub failures: u64,
    /// What the commits took, from COMMIT to its return, in µs.
    pub commit_us: u64,
    /// The longest of them, in µs.
    pub longest_commit_us: u64,
}

/// What a stream of a script goes by in the spool.
#[must_use]
pub fn number(stream: StreamName) -> u8 {
    match stream {
        StreamName::Stdout => 1,
        StreamName::Stderr => 2,
    }
}
