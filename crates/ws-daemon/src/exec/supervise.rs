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
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant as StdInstant};

use futures_util::future::Either;
use rustix::process::{Signal as Kill, WaitStatus};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tracing::{Instrument, Level, Span, debug, enabled, warn};
use ws_daemon_protocol::command::StreamName;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Signal};

use super::capture::{Captured, Keep};
use super::contract::Terms;
use super::doer::Doing;
use super::job::{Capture, Job};
use super::line::{Line, Places};
use super::output::{Output, drain_both, looked_at_end};
use super::pool::{self, Call, End, Keeps, To, Told};
use super::process::{Pipes, Process};
use super::start::{Attempt, Barred, Found, Started, find, start};
use super::{Grace, Inner, LISTENING, orphans, prelude};

/// How often, and how far apart, a script is tried again that someone is just writing.
pub const BUSY_TEXT: (u32, Duration) = (10, Duration::from_millis(20));

/// A script that has started.
#[derive(Debug)]
pub struct Begun {
    script: Script,
    at: Instant,
    /// How long it may run.
    timeout: Option<Duration>,
    /// How many bytes of each stream are kept or told.
    output: Option<u64>,
    _places: Places,
}

/// What keeps a run from beginning.
#[derive(Debug)]
pub enum Not {
    /// How it ended without a script.
    Ended(Outcome),
    /// As many of its script run as may at once; and the places that it has already.
    InLine(Arc<Line>, Places),
    /// The daemon stops before it was asked for.
    Drained,
}

/// What runs. What may be logged of it while it does is of its span, which most processes never need; of what somebody is asked nothing is.
#[derive(Debug)]
enum Script {
    Process(Box<(Process, Pipes)>),
    Inside(Doing, Span),
    Call(Call, To),
}

/// What somebody is asked, and since when.
struct Request<'a> {
    inner: &'a Arc<Inner>,
    job: &'a Job,
    to: To,
    at: Instant,
    /// How long it may take.
    timeout: Option<Duration>,
    _places: Places,
}

/// What came of a script that is to be started, or is looked up elsewhere.
enum Came {
    Started(Begun),
    /// Somebody is to be asked in its place, in these terms.
    Asks(To, Option<Terms>),
    /// It is to be tried again.
    Again,
}

/// What came of it.
#[derive(Debug)]
pub struct Attended {
    /// How it ended.
    pub outcome: Outcome,
    /// What was kept of what it printed.
    pub captured: Option<Box<Captured>>,
    /// What a worker said of it, for people.
    pub message: Option<Box<str>>,
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

impl Request<'_> {
    fn due(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| self.at.checked_add(timeout))
    }
}

impl Begun {
    /// The process id of the script, or of the copy that is asked, if it is a process of the daemon's.
    pub fn pid(&self) -> Option<u32> {
        match &self.script {
            Script::Process(process) => Some(process.0.id()),
            Script::Call(call, _) => call.process().map(|(pid, _)| pid),
            Script::Inside(..) => None,
        }
    }

    /// The same with when it started, as the system counts (0 where that is not told). May read a file of /proc.
    pub fn process(&self) -> Option<(u32, u64)> {
        match &self.script {
            Script::Call(call, _) => call.process(),
            Script::Process(process) => Some((process.0.id(), orphans::start_time(process.0.id()).unwrap_or(0))),
            Script::Inside(..) => None,
        }
    }
}

/// Starts the script of `job`, here or elsewhere, or asks whoever is to be asked in its place; it may have its places among its like
/// already. `since`: when its turn came.
///
/// # Errors
/// What keeps it from beginning.
pub async fn begin(inner: &Arc<Inner>, job: &Arc<Job>, mut since: StdInstant, mut places: Places) -> Result<Begun, Not> {
    if let Some(doer) = &inner.surroundings.doer {
        let span = job.span();
        let script = Script::Inside(span.in_scope(|| doer.start(job)), span);
        return Ok(Begun { script, at: Instant::now(), timeout: job.timeout, output: None, _places: places });
    }
    let mut tries = 0;
    loop {
        let (to, terms) = match find(inner, job, since, &mut places, true) {
            Ok(Found::Asks(to, terms)) => (to, terms),
            // Boxed: what somebody is asked must not hold the memory of what is started.
            found => match Box::pin(begin_script(inner, job, found, &mut places, &mut tries)).await? {
                Came::Started(begun) => return Ok(begun),
                Came::Asks(to, terms) => (to, terms),
                Came::Again => {
                    since = StdInstant::now();
                    continue;
                }
            },
        };
        let (timeout, output) = bounds(job, terms.as_ref());
        let mut keeps = Keep::both(&job.capture, &inner.results, output);
        let asked = match to.ask_at_once(inner, job, timeout, &mut keeps) {
            Ok(None) => Box::pin(ask_in_time(inner, job, &to, timeout, &mut keeps)).await?,
            Ok(Some(call)) => Ok(call),
            Err(not) => Err(not),
        };
        match asked {
            Ok(call) => {
                return Ok(Begun { script: Script::Call(call, to), at: Instant::now(), timeout, output, _places: places });
            }
            Err(pool::Not::Ended(outcome)) => return Err(Not::Ended(outcome)),
            Err(pool::Not::Again) => {
                since = StdInstant::now();
                inner.folder(job.folder).verdicts.forget(&job.name);
            }
        }
    }
}

/// How long it may run, and how many bytes of each stream are kept or told.
fn bounds(job: &Job, terms: Option<&Terms>) -> (Option<Duration>, Option<u64>) {
    match terms.map(|terms| &terms.contract) {
        Some(contract) => (contract.timeout(job.timeout), contract.output()),
        None => (job.timeout, None),
    }
}

/// Asks one as soon as one is free, unless the run is not to begin any more.
async fn ask_in_time(
    inner: &Arc<Inner>,
    job: &Job,
    to: &To,
    timeout: Option<Duration>,
    keeps: &mut Keeps,
) -> Result<Result<Call, pool::Not>, Not> {
    tokio::select! {
        biased;
        asked = to.ask(inner, job, timeout, keeps) => Ok(asked),
        () = job.cancel.cancelled() => Ok(Err(pool::Not::Ended(Why::Cancelled.outcome_before()))),
        () = inner.stop.drain.cancelled() => Err(Not::Drained),
    }
}

/// Starts a script, of which this was found.
async fn begin_script(
    inner: &Arc<Inner>,
    job: &Arc<Job>,
    found: Result<Found, Barred>,
    places: &mut Places,
    tries: &mut u32,
) -> Result<Came, Not> {
    let attempt = start_somewhere(inner, job, found, std::mem::take(places)).await;
    let Attempt { mut started, script, terms, places: mut held } = attempt;
    if let (Started::Running(running), Some(script)) = (&mut started, &script)
        && let Some(report) = running.1.report.take()
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
        Started::Running(running) => {
            if enabled!(Level::DEBUG) {
                job.span().in_scope(|| debug!(peer = %job.peer, "script started"));
            }
            let (timeout, output) = bounds(job, script.as_ref().and_then(|script| script.terms.as_ref()));
            let script = Script::Process(running);
            Ok(Came::Started(Begun { script, at: Instant::now(), timeout, output, _places: held }))
        }
        Started::Asks(to) => {
            std::mem::swap(places, &mut held);
            Ok(Came::Asks(to, terms))
        }
        Started::BeingWritten(_) if *tries < BUSY_TEXT.0 => {
            *tries += 1;
            std::mem::swap(places, &mut held);
            sleep(BUSY_TEXT.1).await;
            Ok(Came::Again)
        }
        Started::BeingWritten(outcome) | Started::Refused(outcome) => Err(Not::Ended(outcome)),
        Started::InLine(line) => Err(Not::InLine(line, held)),
    }
}

/// A script that was found is started here if this is the only run, and on a thread of its own kind if there is more to do; there it is
/// looked up that takes a while.
async fn start_somewhere(inner: &Arc<Inner>, job: &Arc<Job>, found: Result<Found, Barred>, places: Places) -> Attempt {
    let found = match found {
        Ok(Found::Script(script)) if !inner.is_busy() => {
            let started = start(inner, job, &script, true);
            return Attempt { started, script: Some(script), terms: None, places };
        }
        Ok(found) => Some(found),
        Err(Barred::Elsewhere) => None,
        Err(barred) => return not_started(barred, places),
    };
    let (inner_there, job_there) = (Arc::clone(inner), Arc::clone(job));
    let start = move || {
        let mut places = places;
        match found.map_or_else(|| find(&inner_there, &job_there, StdInstant::now(), &mut places, false), Ok) {
            Ok(Found::Script(script)) => {
                let started = start(&inner_there, &job_there, &script, false);
                Attempt { started, script: Some(script), terms: None, places }
            }
            Ok(Found::Asks(to, terms)) => Attempt { started: Started::Asks(to), script: None, terms, places },
            Err(barred) => not_started(barred, places),
        }
    };
    // Not tried again here: it may have been started there.
    if inner.starters.has_line() {
        drop(inner.together());
    }
    let attempt = inner.starters.run(&job.asker(), start).await;
    attempt.unwrap_or_else(|| not_started(Barred::Refused(lost()), Places::default()))
}

fn not_started(barred: Barred, places: Places) -> Attempt {
    let started = match barred {
        Barred::Refused(outcome) => Started::Refused(outcome),
        Barred::InLine(line) => Started::InLine(line),
        Barred::Elsewhere => Started::Refused(lost()),
    };
    Attempt { started, script: None, terms: None, places }
}

/// What came of something that was to be started.
pub fn lost() -> Outcome {
    Outcome::failed(ErrorCode::SpawnFailed, "the daemon lost it while starting it")
}

type Boxed<'a> = Pin<Box<dyn Future<Output = Attended> + Send + 'a>>;

/// From started to its end.
pub fn attend<'a>(inner: &'a Arc<Inner>, job: &'a Job, begun: Begun) -> impl Future<Output = Attended> + Send + 'a {
    let Begun { script, at, timeout, output, _places: places } = begun;
    match script {
        Script::Call(call, to) => Either::Left(attend_call(call, Request { inner, job, to, at, timeout, _places: places })),
        // Boxed: what somebody is asked must not hold the memory of a process.
        Script::Process(running) => {
            let attended = async move {
                let (process, pipes) = *running;
                let mut streams = pipes.output;
                for (stream, name) in streams.iter_mut().zip(StreamName::BOTH) {
                    stream.keep(Keep::new(&job.capture, name, &inner.results, output));
                }
                let attended = attend_process(inner, job, process, (pipes.stdin, streams), (at, timeout)).await;
                drop(places);
                attended
            };
            Either::Right(Box::pin(attended) as Boxed<'a>)
        }
        Script::Inside(doing, span) => {
            let attended = async move {
                let outcome = attend_inside(inner, job, doing, at).await;
                drop(places);
                Attended { outcome, captured: None, message: None, ms: ms_since(at) }
            };
            Either::Right(Box::pin(attended.instrument(span)) as Boxed<'a>)
        }
    }
}

/// From asked to what came of it.
async fn attend_call(mut call: Call, request: Request<'_>) -> Attended {
    let (outcome, keeps, message) = answer(&mut call, &request).await;
    let ms = ms_since(request.at);
    let captured = match keeps {
        Some(keeps) => Box::pin(captured(request.inner, request.job, *keeps)).await,
        None => None,
    };
    Attended { outcome, captured, message, ms }
}

/// From asked to answered: how it ended, what was kept of what was printed for it, and what was said of it.
async fn answer(call: &mut Call, request: &Request<'_>) -> (Outcome, Keeps, Option<Box<str>>) {
    let &Request { inner, job, ref to, timeout, .. } = request;
    let mut over = request.due().map(|due| Box::pin(sleep_until(due)));
    let (has_due, mut stopped) = (over.is_some(), None::<Why>);
    let Told { end, mut keeps } = loop {
        let why = tokio::select! {
            biased;
            told = call.told() => match told {
                Told { end: End::NotAsked, mut keeps } if stopped.is_none() => {
                    // It was certainly not begun: another one has it.
                    match Box::pin(ask_again(inner, job, to, request.due(), &mut keeps)).await {
                        Ok(again) => *call = again,
                        Err(outcome) => return (outcome, keeps, None),
                    }
                    continue;
                }
                told => break told,
            },
            () = job.cancel.cancelled(), if stopped.is_none() => Why::Cancelled,
            () = until(over.as_mut()), if has_due && stopped.is_none() => Why::TimedOut,
            // A copy looks after that itself: it need not be waited for by each that it holds.
            () = inner.stop.terminate.cancelled(), if !call.is_of_copy() => Why::Shutdown,
            () = inner.stop.kill.cancelled(), if !call.is_of_copy() => Why::Shutdown,
        };
        stopped = Some(why);
        if !call.stop() {
            let keeps = call.give_up(why == Why::TimedOut);
            return (why.outcome_of_served(timeout), keeps, None);
        }
    };
    let term = Signal(Kill::TERM.as_raw());
    if matches!(end, End::Lost(..)) && (inner.stop.terminate.is_cancelled() || inner.stop.kill.is_cancelled()) {
        stopped.get_or_insert(Why::Shutdown);
    }
    let (outcome, message) = match (end, stopped) {
        (End::Answered(status, message), None | Some(Why::Shutdown)) => (Outcome::Exited(status), message),
        (End::Lost(why, _), None) => (Outcome::failed(ErrorCode::Interrupted, &*why), None),
        (End::NotAsked, None) => (lost(), None),
        (End::Lost(_, Some(signal)), Some(why)) => (why.outcome(Signal(signal), timeout), None),
        (_, Some(why)) => (why.outcome(term, timeout), None),
    };
    (outcome, keeps.take(), message)
}

/// Asks another one, in the time that is left.
async fn ask_again(inner: &Arc<Inner>, job: &Job, to: &To, due: Option<Instant>, keeps: &mut Keeps) -> Result<Call, Outcome> {
    let left = due.map(|due| due.saturating_duration_since(Instant::now()));
    let asked = tokio::select! {
        biased;
        asked = to.ask(inner, job, left, keeps) => asked,
        () = job.cancel.cancelled() => Err(pool::Not::Ended(Why::Cancelled.outcome_before())),
        () = at_time(due), if due.is_some() => Err(pool::Not::Ended(Why::TimedOut.outcome_before())),
        () = inner.stop.drain.cancelled() => Err(pool::Not::Ended(Why::Shutdown.outcome_before())),
    };
    asked.map_err(|not| match not {
        pool::Not::Ended(outcome) => outcome,
        pool::Not::Again => {
            Outcome::failed(ErrorCode::SpawnFailed, "the worker ended before it was asked, and there is no other one any more")
        }
    })
}

/// What was kept of what was printed for what somebody was asked.
async fn captured(inner: &Inner, job: &Job, keeps: [Keep; 2]) -> Option<Box<Captured>> {
    let [stdout, stderr] = keeps;
    Captured::new(stdout, stderr, &inner.starters, &job.asker()).await
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
    // Nothing is to be written to it, and nobody waits for what it says.
    let has_all = stdin.is_none() && !matches!(job.capture, Capture::Stream(_));
    let span = LazyLock::new(|| job.span());
    let mut life = Life::new(process, inner.grace, timeout.and_then(|timeout| at.checked_add(timeout)));
    let mut drained = false;
    if busy {
        // By the time it is this run's turn again, a short script may have ended.
        yield_now().await;
        if has_all && inner.starters.has_line() && !looked_at_end(&mut streams, &span) {
            // By then it may have ended as well, with others.
            tokio::select! {
                () = inner.together() => {}
                () = job.cancel.cancelled() => {}
                () = inner.stop.terminate.cancelled() => {}
                () = inner.stop.kill.cancelled() => {}
            }
        }
    }
    {
        let params = job.params.compact();
        let mut feeding = pin!(feed(stdin, params.as_bytes(), &span));
        let mut draining = pin!(drain_both(&mut streams, &span));
        let mut later = pin!(inner.later());
        let mut fed = false;
        while !(life.exited && drained) {
            let over = tokio::select! {
                result = life.process.exited(drained && life.stopped.is_none()), if life.is_watched(drained) => life.exit(result, &span),
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
        listen_on(inner, streams, LazyLock::force(&span).clone());
    }
    let outcome = conclude(life.process.reap(), life.stopped, timeout);
    let captured = Captured::new(stdout, stderr, &inner.starters, &job.asker()).await;
    Attended { outcome, captured, message: None, ms }
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

    fn exit<S: Deref<Target = Span>>(&mut self, result: io::Result<()>, span: &S) -> bool {
        self.exited = true;
        if self.stopped.is_none() || self.killed {
            self.due = Some(Instant::now() + self.grace.drain);
        }
        if let Err(error) = result {
            // Unwatched it cannot be waited for without blocking, so it is stopped: never a run without an end.
            span.in_scope(|| warn!(%error, "the watch on a process failed; it is stopped"));
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

async fn until(over: Option<&mut Pin<Box<Sleep>>>) {
    if let Some(over) = over {
        over.await;
    }
}

/// Gives the script its params on stdin. One that does not read them is let be.
async fn feed<S: Deref<Target = Span>>(stdin: Option<OwnedFd>, params: &[u8], span: &S) {
    let Some(stdin) = stdin else { return };
    match pipe::Sender::from_owned_fd_unchecked(stdin) {
        Ok(mut stdin) => drop(stdin.write_all(params).await),
        // It is closed by that, so the script reads an end and can say that its params are cut.
        Err(error) => span.in_scope(|| warn!(%error, "a script's params cannot be written")),
    }
}

/// Goes on reading what a finished script's background programs print, so that they neither wait nor die of a closed pipe.
fn listen_on(inner: &Inner, mut streams: [Output; 2], span: Span) {
    let Ok(place) = Arc::clone(&inner.listening).try_acquire_owned() else {
        let words = "too many programs left in the background by scripts: the pipes of this one are closed";
        return span.in_scope(|| warn!(LISTENING, "{words}"));
    };
    let stop = inner.stop.close_local.clone();
    inner.background.spawn(async move {
        let (_place, of_run) = (place, &span);
        tokio::select! {
            () = drain_both(&mut streams, &of_run) => {}
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
            Self::TimedOut => "its time was over before it started",
            Self::Shutdown => "the daemon was stopped before it started",
        };
        let code = if self == Self::TimedOut { ErrorCode::TimedOut } else { ErrorCode::Cancelled };
        Outcome::failed(code, message)
    }

    /// Of what a process was asked that cannot be stopped.
    fn outcome_of_served(self, timeout: Option<Duration>) -> Outcome {
        let what = match self {
            Self::TimedOut => format!("whoever serves it did not answer within {:?}", timeout.unwrap_or_default()),
            Self::Cancelled => "cancelled by whoever asked".to_owned(),
            Self::Shutdown => "the daemon was stopped".to_owned(),
        };
        Outcome::Failed(ErrorCode::Interrupted, format!("{what}; whoever serves it may still do it"))
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
