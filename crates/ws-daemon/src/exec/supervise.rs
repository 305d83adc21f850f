//! The life of one run, from its name to its outcome.
//!
//! ```text
//!   Running ── exit ──► Draining ── pipes at their end, 1 s, or KILL ──► reaped, Exited or Signaled
//!      │ TERM (timeout, cancelled, shutdown)
//!      ▼
//!   Terminating ── exit and pipes at their end ──► KILL to what is left of the group, reaped
//!      │ KILL (5 s after a timeout or a cancel; grace over at shutdown)    ▲
//!      ▼                                                                   │
//!   Killed ── exit, and pipes at their end or 1 s ─────────────────────────┘
//! ```
//!
//! The child is reaped last: until then the number of its group is taken, and a signal to it can hit nobody else. A script that
//! ends by itself leaves its background programs alone; one that was stopped leaves nothing of its group. What left the group
//! lives on, and holds no run: after 1 s its pipes are let go.
//!
//! The first reason to stop a script is the one that is told. After a timeout or a cancel it is told whatever the script made of
//! TERM; at shutdown a script that still exited by itself is told with its own status.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal as Kill, WaitStatus};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};
use ws_daemon_protocol::command::StreamName;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Signal};

use super::capture::{Captured, Keep};
use super::doer::Doing;
use super::job::Job;
use super::line::{Held, Line};
use super::output::{Output, drain_both};
use super::process::{Pipes, Process};
use super::start::{Attempt, Barred, Started, find, start};
use super::{Grace, Inner, LISTENING, prelude};

/// How often, and how far apart, a script is tried again that someone is just writing.
const BUSY_TEXT: (u32, Duration) = (10, Duration::from_millis(20));

/// A script that has started.
#[derive(Debug)]
pub struct Begun {
    script: Script,
    at: Instant,
    /// How long it may run.
    timeout: Option<Duration>,
    /// How many bytes of each stream are kept or told.
    output: Option<u64>,
    _held: Option<Held>,
}

/// What keeps a run from beginning.
#[derive(Debug)]
pub enum Not {
    /// How it ended without a script.
    Ended(Outcome),
    /// As many of its script run as may at once.
    InLine(Arc<Line>),
}

/// What runs.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process is what nearly all of them are")]
enum Script {
    Process(Process, Pipes),
    Inside(Doing),
}

/// What came of it.
#[derive(Debug)]
pub struct Attended {
    /// How it ended.
    pub outcome: Outcome,
    /// What was kept of what it printed.
    pub captured: Option<Box<Captured>>,
    /// How long it ran, in milliseconds.
    pub ms: u64,
}

/// Why a script is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    TimedOut,
    Cancelled,
    Shutdown,
}

/// Where a run stands; see the diagram.
#[derive(Debug)]
struct Life {
    process: Process,
    grace: Grace,
    exited: bool,
    /// Whether its end is watched for beside its pipes.
    watching: bool,
    /// Whether it got TERM or KILL, and why.
    stopped: Option<Why>,
    killed: bool,
    /// When the next step is due that nobody has to ask for.
    due: Option<Instant>,
}

impl Begun {
    /// The script's process id, if it is a process of its own.
    pub fn pid(&self) -> Option<u32> {
        match &self.script {
            Script::Process(process, _) => Some(process.id()),
            Script::Inside(_) => None,
        }
    }
}

/// Starts the script of `job`, here or elsewhere; it may have its place among its like already.
///
/// # Errors
/// What keeps it from beginning.
pub async fn begin(inner: &Arc<Inner>, job: &Arc<Job>, mut held: Option<Held>) -> Result<Begun, Not> {
    if let Some(doer) = &inner.surroundings.doer {
        let script = Script::Inside(doer.start(job));
        return Ok(Begun { script, at: Instant::now(), timeout: job.timeout, output: None, _held: None });
    }
    let mut tries = 0;
    loop {
        let Attempt { mut started, script, held: place } = start_somewhere(inner, job, held.take()).await;
        held = place;
        if let (Started::Running(_, pipes), Some(script)) = (&mut started, &script)
            && let Some(report) = pipes.report.take()
        {
            // Dropped before it has become the script, it is killed.
            let told = tokio::select! {
                told = prelude::wait(report, &job.name, script) => told,
                () = job.cancel.cancelled() => Err(Started::Refused(Why::Cancelled.outcome_before())),
                () = inner.stop.terminate.cancelled() => Err(Started::Refused(Why::Shutdown.outcome_before())),
                () = inner.stop.kill.cancelled() => Err(Started::Refused(Why::Shutdown.outcome_before())),
            };
            if let Err(otherwise) = told {
                started = otherwise;
            }
        }
        match started {
            Started::Running(process, pipes) => {
                debug!(peer = %job.peer, "script started");
                let contract = script.as_ref().and_then(|script| script.terms.as_ref()).map(|terms| &terms.contract);
                let timeout = contract.map_or(job.timeout, |contract| contract.timeout(job.timeout));
                let output = contract.and_then(|contract| contract.output());
                let script = Script::Process(process, pipes);
                return Ok(Begun { script, at: Instant::now(), timeout, output, _held: held });
            }
            Started::BeingWritten(_) if tries < BUSY_TEXT.0 => {
                tries += 1;
                sleep(BUSY_TEXT.1).await;
            }
            Started::BeingWritten(outcome) | Started::Refused(outcome) => return Err(Not::Ended(outcome)),
            Started::InLine(line) => return Err(Not::InLine(line)),
        }
    }
}

/// Looked up here, unless that takes a while. Started here if this is the only run, and on a thread of its own kind if there is more
/// to do.
async fn start_somewhere(inner: &Arc<Inner>, job: &Arc<Job>, mut held: Option<Held>) -> Attempt {
    let found = match find(inner, job, &mut held, true) {
        Ok(script) if !inner.is_busy() => {
            let started = start(inner, job, &script, true);
            return Attempt { started, script: Some(script), held };
        }
        Ok(script) => Some(script),
        Err(Barred::Elsewhere) => None,
        Err(barred) => return not_started(barred, held),
    };
    let (inner_there, job_there) = (Arc::clone(inner), Arc::clone(job));
    let start = move || {
        let mut held = held;
        match found.map_or_else(|| find(&inner_there, &job_there, &mut held, false), Ok) {
            Ok(script) => Attempt { started: start(&inner_there, &job_there, &script, false), script: Some(script), held },
            Err(barred) => not_started(barred, held),
        }
    };
    // Not tried again here: it may have been started there.
    let attempt = inner.starters.run(&job.asker(), start).await;
    attempt.unwrap_or_else(|| Attempt { started: Started::Refused(lost()), script: None, held: None })
}

fn not_started(barred: Barred, held: Option<Held>) -> Attempt {
    let started = match barred {
        Barred::Refused(outcome) => Started::Refused(outcome),
        Barred::InLine(line) => Started::InLine(line),
        Barred::Elsewhere => Started::Refused(lost()),
    };
    Attempt { started, script: None, held }
}

fn lost() -> Outcome {
    Outcome::failed(ErrorCode::SpawnFailed, "the daemon lost it while starting it")
}

/// From started to its end.
pub async fn attend(inner: &Arc<Inner>, job: &Job, begun: Begun) -> Attended {
    let Begun { script, at, timeout, output, _held } = begun;
    match script {
        Script::Process(process, pipes) => {
            let mut streams = pipes.output;
            for (stream, name) in streams.iter_mut().zip(StreamName::BOTH) {
                stream.keep(Keep::new(&job.capture, name, &inner.results, output));
            }
            attend_process(inner, job, process, (pipes.stdin, streams), (at, timeout)).await
        }
        Script::Inside(doing) => {
            let outcome = attend_inside(inner, job, doing, at).await;
            Attended { outcome, captured: None, ms: ms_since(at) }
        }
    }
}

/// It is stopped by being dropped.
async fn attend_inside(inner: &Inner, job: &Job, doing: Doing, at: Instant) -> Outcome {
    let due = job.timeout.and_then(|timeout| at.checked_add(timeout));
    let why = tokio::select! {
        outcome = doing => return outcome,
        () = job.cancel.cancelled() => Why::Cancelled,
        () = at_time(due), if due.is_some() => Why::TimedOut,
        () = inner.stop.terminate.cancelled() => Why::Shutdown,
        () = inner.stop.kill.cancelled() => Why::Shutdown,
    };
    why.outcome(Signal(Kill::TERM.as_raw()), job.timeout)
}

/// From started to reaped.
async fn attend_process(
    inner: &Arc<Inner>,
    job: &Job,
    process: Process,
    (stdin, mut streams): (Option<OwnedFd>, [Output; 2]),
    (at, timeout): (Instant, Option<Duration>),
) -> Attended {
    let busy = inner.is_busy();
    let mut life = Life::new(process, inner.grace, timeout.and_then(|timeout| at.checked_add(timeout)));
    let mut drained = false;
    {
        let params = job.params.compact();
        let mut feeding = pin!(feed(stdin, params.as_bytes()));
        let mut draining = pin!(drain_both(&mut streams));
        let mut later = pin!(inner.later());
        let mut fed = false;
        if busy {
            // By the time it is this run's turn again, a short script may have ended.
            yield_now().await;
        }
        while !(life.exited && drained) {
            let over = tokio::select! {
                result = life.process.exited(), if life.is_watched(drained) => life.exit(result),
                () = &mut draining, if !drained => { drained = true; false }
                () = &mut later, if !life.watching => { life.watching = true; false }
                () = &mut feeding, if !fed => { fed = true; false }
                () = job.cancel.cancelled(), if life.is_running() => life.terminate(Why::Cancelled),
                () = inner.stop.terminate.cancelled(), if life.is_running() => life.terminate(Why::Shutdown),
                () = inner.stop.kill.cancelled(), if !life.killed => life.kill(),
                () = at_time(life.due), if life.due.is_some() => life.next_step(),
            };
            if over {
                break;
            }
        }
    }
    let ms = ms_since(at);
    let [stdout, stderr] = streams.each_mut().map(|stream| stream.keep(Keep::Nothing));
    if life.stopped.is_some() {
        life.process.signal_group(Kill::KILL);
    } else if !drained {
        listen_on(inner, streams);
    }
    let outcome = conclude(life.process.reap(), life.stopped, timeout);
    Attended { outcome, captured: Captured::new(stdout, stderr, &inner.starters, &job.asker()).await, ms }
}

/// The verbs of the diagram. Those that may end the wait say whether they do.
impl Life {
    fn new(process: Process, grace: Grace, deadline: Option<Instant>) -> Self {
        Self { process, grace, exited: false, watching: false, stopped: None, killed: false, due: deadline }
    }

    fn is_running(&self) -> bool {
        !self.exited && self.stopped.is_none()
    }

    fn is_watched(&self, drained: bool) -> bool {
        !self.exited && (drained || self.watching || self.stopped.is_some())
    }

    fn exit(&mut self, result: io::Result<()>) -> bool {
        self.exited = true;
        if self.stopped.is_none() || self.killed {
            self.due = Some(Instant::now() + self.grace.drain);
        }
        if let Err(error) = result {
            // Unwatched it cannot be waited for without blocking, so it is stopped: never a run without an end.
            warn!(%error, "the watch on a process failed; it is stopped");
            self.process.signal_group(Kill::KILL);
        }
        false
    }

    /// What a script that ended by itself left behind is let be: its end may not have been looked for yet.
    fn terminate(&mut self, why: Why) -> bool {
        if self.process.has_ended().unwrap_or(false) {
            self.watching = true;
            self.due = None;
            return false;
        }
        self.stopped = Some(why);
        // At shutdown the daemon says when.
        self.due = (why != Why::Shutdown).then(|| Instant::now() + self.grace.kill);
        self.process.signal_group(Kill::TERM);
        false
    }

    fn kill(&mut self) -> bool {
        if self.stopped.is_none() && (self.exited || self.process.has_ended().unwrap_or(false)) {
            return true;
        }
        self.stopped.get_or_insert(Why::Shutdown);
        self.killed = true;
        self.due = self.exited.then(|| Instant::now() + self.grace.drain);
        self.process.signal_group(Kill::KILL);
        false
    }

    fn next_step(&mut self) -> bool {
        match self.stopped {
            None if !self.exited => self.terminate(Why::TimedOut),
            Some(_) if !self.killed => self.kill(),
            _ => true,
        }
    }
}

fn ms_since(at: Instant) -> u64 {
    u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)
}

async fn at_time(due: Option<Instant>) {
    if let Some(due) = due {
        sleep_until(due).await;
    }
}

/// Gives the script its params on stdin. One that does not read them is let be.
async fn feed(stdin: Option<OwnedFd>, params: &[u8]) {
    let Some(stdin) = stdin else { return };
    match pipe::Sender::from_owned_fd_unchecked(stdin) {
        Ok(mut stdin) => drop(stdin.write_all(params).await),
        // It is closed by that, so the script reads an end and can say that its params are cut.
        Err(error) => warn!(%error, "a script's params cannot be written"),
    }
}

/// Goes on reading what a finished script's background programs print, so that they neither wait nor die of a closed pipe.
fn listen_on(inner: &Inner, mut streams: [Output; 2]) {
    let Ok(place) = Arc::clone(&inner.listening).try_acquire_owned() else {
        warn!(LISTENING, "too many programs left in the background by scripts: the pipes of this one are closed");
        return;
    };
    let stop = inner.stop.close_local.clone();
    inner.background.spawn(async move {
        let _place = place;
        tokio::select! {
            () = drain_both(&mut streams) => {}
            () = stop.cancelled() => {}
        }
    });
}

/// The outcome of a reaped run.
fn conclude(status: io::Result<WaitStatus>, stopped: Option<Why>, timeout: Option<Duration>) -> Outcome {
    let status = match status {
        Ok(status) => status,
        Err(error) => return Outcome::failed(ErrorCode::Interrupted, format!("the script's exit status was lost: {error}")),
    };
    let signal = status.terminating_signal().map(Signal);
    match (status.exit_status(), stopped) {
        // The kernel keeps eight bits of it.
        (Some(code), None | Some(Why::Shutdown)) => Outcome::Exited(code.to_le_bytes()[0]),
        (_, None) => Outcome::Signaled(signal.unwrap_or(Signal(0))),
        // One that exited by itself did so because of the first.
        (_, Some(why)) => why.outcome(signal.unwrap_or(Signal(Kill::TERM.as_raw())), timeout),
    }
}

impl Why {
    /// Of a run whose script had not begun.
    fn outcome_before(self) -> Outcome {
        let message = match self {
            Self::Cancelled => "cancelled by whoever asked, before it started",
            Self::TimedOut | Self::Shutdown => "the daemon was stopped before it started",
        };
        Outcome::failed(ErrorCode::Cancelled, message)
    }

    fn outcome(self, signal: Signal, timeout: Option<Duration>) -> Outcome {
        let (error, message) = match self {
            Self::TimedOut => {
                (ErrorCode::TimedOut, format!("stopped since its time of {:?} was over", timeout.unwrap_or_default()))
            }
            Self::Cancelled => (ErrorCode::Cancelled, "cancelled by whoever asked".into()),
            Self::Shutdown => (ErrorCode::Cancelled, "the daemon was stopped while the script ran".into()),
        };
        Outcome::Stopped(error, message, signal)
    }
}
