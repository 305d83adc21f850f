//! Runs scripts. It owns the slots, the line before them, and every process it started until that process's end has been told.
//! It never knows who asked, and never speaks on a link.
//!
//! ```text
//!            admit                slot free              exit, pipes drained
//!   job ───────────► in line ───────────────► running ──────────────────────► outcome
//!    │ line full        │ drain                  │ TERM, KILL at shutdown        ▲
//!    └── busy           └── busy                 └──────────────────────────────┘
//! ```

mod output;
mod process;
mod scripts;
mod start;
mod starter;
mod supervise;

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::futures::Notified;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::{Instrument, Span, info, info_span};
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::Params;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use crate::config::Limits;
use crate::system::c_text;
use crate::tasks::{Stop, Tasks};
use scripts::Scripts;
use starter::Starters;

/// One run to be done.
#[derive(Debug)]
pub struct Job {
    /// The run's id.
    pub run: RunId,
    /// The caller's id, if it came along.
    pub id: Option<CallerId>,
    /// The script's name as asked for.
    pub name: String,
    /// What the script gets.
    pub params: Params,
    /// Who asked, for the script's environment and the log.
    pub peer: Arc<str>,
}

/// What every script finds around it.
#[derive(Debug)]
pub struct Surroundings {
    /// The folder of scripts.
    scripts: PathBuf,
    /// The working directory.
    folder: CString,
    /// `NAME=value`
    environment: Vec<CString>,
}

impl Surroundings {
    /// The surroundings of scripts in `prefix`: it is their working directory, they find the daemon's local socket and the
    /// prefix in their environment, and beside that what `environment` has.
    ///
    /// # Errors
    /// When a path or variable has a NUL, which no system gives out.
    pub fn new(prefix: &Path, socket: &Path, environment: impl Iterator<Item = (OsString, OsString)>) -> io::Result<Self> {
        let own = [("WSDAEMON_PREFIX", prefix), ("WSDAEMON_SOCKET", socket)];
        let own = own.map(|(name, path)| (OsString::from(name), path.as_os_str().to_owned()));
        // It may itself have been started by a script of another daemon.
        let inherited = environment.filter(|(name, _)| own.iter().all(|(own, _)| name != own));
        let variable = |(name, value): (OsString, OsString)| c_text([name.as_bytes(), b"=", value.as_bytes()].concat());
        Ok(Self {
            scripts: prefix.join("scripts"),
            folder: c_text(prefix.as_os_str().as_bytes())?,
            environment: inherited.chain(own.clone()).map(variable).collect::<io::Result<_>>()?,
        })
    }
}

/// The executor. Clones share one set of slots.
#[derive(Debug, Clone)]
pub struct Executor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scripts: Scripts,
    surroundings: Surroundings,
    /// One permit for each run that is running or in line; none left: `busy`.
    places: Arc<Semaphore>,
    /// One permit for each byte of params of these; none left: `busy`.
    bytes: Arc<Semaphore>,
    /// One permit for each run that is running; none left: the run waits its turn, in order.
    slots: Arc<Semaphore>,
    runs: usize,
    /// Start programs while there is more to do.
    starters: Starters,
    /// Tells all runs that some time has passed.
    later: Notify,
    ticking: AtomicBool,
    /// What is left of finished runs: output of programs that scripts left in the background.
    background: Tasks,
    /// One permit for each of these; none left: the program's pipes are closed.
    listening: Arc<Semaphore>,
    stop: Stop,
}

/// How many finished runs' background programs are listened to at once.
const LISTENING: usize = 1024;

/// A job that has its place in line.
pub struct Admitted {
    job: Arc<Job>,
    executor: Executor,
    turn: Turn,
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    job: Arc<Job>,
    outcome: Outcome,
}

/// A run's slot, or its place in the line for one. Taken when the run is admitted: tasks get their first turn in any order.
enum Turn {
    Now(OwnedSemaphorePermit),
    Later(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
}

impl Executor {
    /// An executor of the scripts in `surroundings`.
    ///
    /// # Errors
    /// When the system has no threads.
    pub fn new(surroundings: Surroundings, limits: &Limits, background: Tasks, stop: Stop) -> io::Result<Self> {
        let places = (limits.runs + limits.waiting).min(Semaphore::MAX_PERMITS);
        let bytes = limits.waiting_bytes.max(limits.message).min(u32::MAX as usize);
        Ok(Self(Arc::new(Inner {
            scripts: Scripts::new(surroundings.scripts.clone()),
            surroundings,
            places: Arc::new(Semaphore::new(places)),
            bytes: Arc::new(Semaphore::new(bytes)),
            slots: Arc::new(Semaphore::new(limits.runs)),
            runs: limits.runs,
            // Each run that is to be started has a slot, so there is always room.
            starters: Starters::new(limits.runs)?,
            later: Notify::new(),
            ticking: AtomicBool::new(false),
            background,
            listening: Arc::new(Semaphore::new(LISTENING)),
            stop,
        })))
    }

    /// Gives a job its place in line, or says that there is none.
    ///
    /// # Errors
    /// The outcome `busy`.
    pub fn admit(&self, job: Job) -> Result<Admitted, Outcome> {
        if self.0.stop.drain.is_cancelled() {
            return Err(stopping());
        }
        let full = |what: &str| Outcome::failed(ErrorCode::Busy, format!("too many {what} are waiting here; try again later"));
        let place = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| full("runs"))?;
        // Params beyond what a permit counts are beyond every message limit as well.
        let length = u32::try_from(job.params.as_written().len()).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.0.bytes).try_acquire_many_owned(length).map_err(|_| full("bytes of params"))?;
        Ok(Admitted { job: Arc::new(job), executor: self.clone(), turn: self.turn(), _place: place, _bytes: bytes })
    }

    fn turn(&self) -> Turn {
        let slots = || Arc::clone(&self.0.slots);
        if let Ok(slot) = slots().try_acquire_owned() {
            return Turn::Now(slot);
        }
        let mut turn = Box::pin(slots().acquire_owned());
        // The first poll puts it in line.
        match turn.as_mut().now_or_never() {
            Some(Ok(slot)) => Turn::Now(slot),
            _ => Turn::Later(turn),
        }
    }

    /// Whether the executor can still do its work: the folder of scripts answers and tasks get their turn. For the watchdog.
    pub async fn answers(&self) -> bool {
        tokio::task::yield_now().await;
        self.0.scripts.folder_answers()
    }
}

/// How long scripts run, at most, before their end is watched for besides their pipes: most scripts end with their pipes, and a
/// watch costs more than a look.
const WATCH_AFTER: Duration = Duration::from_millis(50);

impl Inner {
    /// Ends after [`WATCH_AFTER`] at most. All runs share one timer, since setting one costs a system call, and it is set only
    /// while there are runs.
    fn later(self: &Arc<Self>) -> Notified<'_> {
        let later = self.later.notified();
        if !self.ticking.swap(true, Ordering::AcqRel) {
            let inner = Arc::clone(self);
            self.background.spawn(async move {
                while inner.ticking.load(Ordering::Acquire) {
                    tokio::select! {
                        () = sleep(WATCH_AFTER) => {}
                        () = inner.stop.close_local.cancelled() => return,
                    }
                    // Whoever comes from here on sets it going again.
                    let idle = inner.slots.available_permits() == inner.runs;
                    inner.ticking.store(!idle, Ordering::Release);
                    inner.later.notify_waiters();
                }
            });
        }
        later
    }

    /// Whether there are more runs than the one that asks.
    fn is_busy(&self) -> bool {
        self.slots.available_permits() + 1 < self.runs
    }
}

impl Admitted {
    /// Waits for a slot and runs the script to its end. Its place is free again when this returns, before anybody is told.
    pub async fn run(self) -> Ended {
        let Self { job, executor, turn, _place, _bytes } = self;
        let inner = &executor.0;
        let slot = tokio::select! {
            biased;
            () = inner.stop.drain.cancelled() => None,
            slot = turn.come() => slot,
        };
        let outcome = match slot {
            // Boxed: a run in line must not hold the memory of one that runs.
            Some(_slot) => Box::pin(supervise::run(inner, &job)).instrument(job.span()).await,
            None => stopping(),
        };
        Ended { job, outcome }
    }
}

impl Ended {
    /// How it ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Logs how it ended: for after that has been told, since somebody waits for it.
    pub fn log(&self) {
        let Self { job, outcome } = self;
        job.span().in_scope(|| info!(peer = %job.peer, ?outcome, "run ended"));
    }
}

impl Job {
    fn span(&self) -> Span {
        info_span!("run", id = %self.run, script = self.name)
    }
}

impl Turn {
    /// Ends when there is a slot; `None` if there will be none.
    async fn come(self) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Now(slot) => Some(slot),
            Self::Later(turn) => turn.await.ok(),
        }
    }
}

fn stopping() -> Outcome {
    Outcome::failed(ErrorCode::Busy, "the daemon is stopping and starts nothing more; try again later")
}
