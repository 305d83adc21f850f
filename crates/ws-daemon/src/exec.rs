//! Runs scripts. It owns the slots, the line before them, and every process it started until that process's end has been told.
//! It never knows who asked, and never speaks on a link.
//!
//! ```text
//!            admit                turn           start          exit, pipes drained
//!   job ───────────► Admitted ───────────► Ready ─────► Running ────────────────────► Ended
//!    │ line full        │ drain: busy        │ as before,  │ TERM, KILL: timeout, cancel,   ▲
//!    └── busy           │ cancel             │ no script   │ shutdown                       │
//!                       └────────────────────┴─────────────┴────────────────────────────────┘
//! ```

mod capture;
mod contract;
mod doer;
mod job;
mod line;
mod orphans;
mod output;
mod pool;
mod prelude;
mod process;
mod room;
mod rounds;
mod scripts;
mod stages;
mod start;
mod starter;
mod stream;
mod supervise;
mod verdicts;
mod way;

pub use capture::{Captured, Cut, Text};
pub use contract::{Contract, described as described_contract};
pub use doer::Doer;
pub use job::{Caller, Capture, Folder, Job};
pub use orphans::Orphan;
pub use pool::{Connection, Heard, Served, ServedNames};
pub use scripts::{Script, ScriptEntry, Scripts};
pub use stages::{Admitted, Ended, NotStarted, Ready, Running};
pub use stream::{Chunk, ChunkData, LINE_ROOM_BYTES, OutputTap, StreamBuffer, text_of};

pub use crate::system::trust::Writers;

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::time::sleep;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use crate::config::{Glob, Limits};
use crate::counters::Outcomes;
use crate::metrics::Seconds;
use crate::system::c_text;
use crate::system::shim::Shim;
use crate::tasks::{Stop, Tasks};
use capture::RESULT_BYTES_AT_ONCE;
use line::Line;
use pool::{Figures, Groups};
use room::Room;
use stages::{Closing, Run, Turn};
use starter::Starters;

/// What every script finds around it.
#[derive(Debug)]
pub struct Surroundings {
    prefix: PathBuf,
    /// The working directory.
    folder: CString,
    /// `NAME=value`
    environment: Vec<CString>,
    grace: Grace,
    doer: Option<Doer>,
    writers: Writers,
}

/// How patient the executor is with scripts.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// From TERM to KILL, after a timeout or a cancel.
    pub kill: Duration,
    /// How long the pipes of a script that has ended, or whose group was killed, may stay open, held by what it left running,
    /// before its status is told.
    pub drain: Duration,
}

/// From TERM to KILL.
const TERM_TO_KILL: Duration = Duration::from_secs(5);

/// How long a finished script's pipes may stay open, held by what it left in the background, before its status is told.
const DRAIN: Duration = Duration::from_secs(1);

impl Default for Grace {
    fn default() -> Self {
        Self { kill: TERM_TO_KILL, drain: DRAIN }
    }
}

/// What a script finds of its own run in its environment: never what the daemon itself found.
const OF_ONE_RUN: [&str; 10] = [
    "WSDAEMON_WORKER",
    "WSDAEMON_DAEMON",
    "WSDAEMON_RUN",
    "WSDAEMON_NAME",
    "WSDAEMON_PEER",
    "WSDAEMON_ID",
    "WSDAEMON_DEADLINE",
    "WSDAEMON_REQUEST_ID",
    "WSDAEMON_EVENT",
    "TRACEPARENT",
];

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
        let inherited = environment
            .filter(|(name, _)| own.iter().all(|(own, _)| name != own) && OF_ONE_RUN.iter().all(|of_run| name != of_run));
        let variable = |(name, value): (OsString, OsString)| c_text([name.as_bytes(), b"=", value.as_bytes()].concat());
        Ok(Self {
            prefix: prefix.to_owned(),
            folder: c_text(prefix.as_os_str().as_bytes())?,
            environment: inherited.chain(own.clone()).map(variable).collect::<io::Result<_>>()?,
            grace: Grace::default(),
            doer: None,
            writers: Writers::Trusted,
        })
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_grace(self, grace: Grace) -> Self {
        Self { grace, ..self }
    }

    /// The same where others may be able to write the scripts.
    #[must_use]
    pub fn with_writers(self, writers: Writers) -> Self {
        Self { writers, ..self }
    }

    /// The same with something that does all runs, whatever scripts there are.
    #[must_use]
    pub fn with_doer(self, doer: Doer) -> Self {
        Self { doer: Some(doer), ..self }
    }
}

/// The executor. Clones share one set of slots.
#[derive(Debug, Clone)]
pub struct Executor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scripts: Scripts,
    hooks: Scripts,
    surroundings: Surroundings,
    /// Of each run that is running or in line, and its params; none left: `busy`.
    room: Arc<Room>,
    /// One for each run that is running; none left: the run waits its turn.
    slots: Arc<Line>,
    runs: AtomicUsize,
    grace: Grace,
    /// One permit for each byte that is kept to become a result; none left: there is no result.
    results: Arc<Semaphore>,
    /// Whoever lists the scripts: one at a time, so that the starters' queue has room for it.
    listing: Mutex<()>,
    /// Start programs while there is more to do.
    starters: Starters,
    /// What takes on another user or narrower limits and becomes the script.
    shim: io::Result<Shim>,
    /// Tells all runs that some time has passed.
    later: Notify,
    ticking: AtomicBool,
    /// Tells those that were left alone together.
    together: Notify,
    gathering: AtomicBool,
    /// Who is asked for names that no script has.
    groups: Arc<Groups>,
    /// What became of copies and connections that are asked.
    figures: Figures,
    /// Copies that are kept running.
    copies: Tasks,
    /// The longest line of one, in bytes.
    message: AtomicUsize,
    /// What is left of finished runs: output of programs that scripts left in the background.
    background: Tasks,
    /// One permit for each of these; none left: the program's pipes are closed.
    listening: Arc<Semaphore>,
    /// How runs ended.
    outcomes: Outcomes,
    /// How long scripts ran.
    seconds: Seconds,
    stop: Stop,
}

/// How many finished runs' background programs are listened to at once.
const LISTENING: usize = 1024;

impl Executor {
    /// An executor of the scripts in `surroundings`. `copies` counts those of scripts that are kept running.
    ///
    /// # Errors
    /// When the system has no threads.
    pub fn new(surroundings: Surroundings, limits: &Limits, background: Tasks, copies: Tasks, stop: Stop) -> io::Result<Self> {
        let (places, bytes) = room(limits);
        // Before the starters take their numbers: a child that is to go by the path of this one must have it still.
        let shim = Shim::open();
        Ok(Self(Arc::new(Inner {
            scripts: Scripts::new(surroundings.prefix.join("scripts"), surroundings.writers),
            hooks: Scripts::new(surroundings.prefix.join("hooks"), surroundings.writers),
            grace: surroundings.grace,
            surroundings,
            room: Arc::new(Room::new(places, bytes)),
            slots: Arc::new(Line::new(limits.runs)),
            runs: limits.runs.into(),
            results: Arc::new(Semaphore::new(RESULT_BYTES_AT_ONCE)),
            listing: Mutex::new(()),
            starters: Starters::new(starts(limits))?,
            shim,
            later: Notify::new(),
            ticking: AtomicBool::new(false),
            together: Notify::new(),
            gathering: AtomicBool::new(false),
            groups: Arc::default(),
            figures: Figures::default(),
            copies,
            message: limits.message.into(),
            background,
            listening: Arc::new(Semaphore::new(LISTENING)),
            outcomes: Outcomes::default(),
            seconds: Seconds::of_runs(),
            stop,
        })))
    }

    /// From here on there is room for so much. What runs and what is in line stays.
    pub fn take_up(&self, limits: &Limits) {
        let (places, bytes) = room(limits);
        // What was let in by the old limits has its slot still.
        let most = starts(limits).max(self.0.runs.swap(limits.runs, Ordering::Relaxed) + 1);
        self.0.starters.set(most);
        self.0.room.set(places, bytes);
        self.0.slots.set(limits.runs);
        self.0.message.store(limits.message, Ordering::Relaxed);
    }

    /// A connection that is asked from here on for these names, and holds so many requests at most.
    #[must_use]
    pub fn serve(&self, connection: Connection, names: &[Glob], ready: usize) -> Served {
        let served = Served::new(Arc::clone(&self.0.groups), connection);
        served.serve(names, ready);
        served
    }

    /// What is served, and by how many.
    #[must_use]
    pub fn served(&self) -> Vec<ServedNames> {
        self.0.groups.served()
    }

    /// What became of copies of scripts and of connections that serve.
    #[must_use]
    pub fn workers(&self) -> WorkerStats {
        let figures = &self.0.figures;
        let gone = figures.all_gone().collect();
        WorkerStats { running: figures.running(), calls: figures.calls(), gone, serving: self.0.groups.count() }
    }

    /// Stops what runs of this daemon's last life left running; returns how many of these processes do not end.
    pub async fn stop_orphans(&self, orphans: &[Orphan]) -> usize {
        // A doer lives no longer than this process.
        if self.0.surroundings.doer.is_some() {
            return 0;
        }
        orphans::stop_all(orphans, &self.0.surroundings.prefix, self.0.grace).await
    }

    /// Gives a job its place in line, or says that there is none.
    ///
    /// # Errors
    /// The outcome `busy`.
    pub fn admit(&self, job: Job) -> Result<Admitted, Outcome> {
        self.place(job).inspect_err(|outcome| self.0.outcomes.count(outcome))
    }

    fn place(&self, job: Job) -> Result<Admitted, Outcome> {
        let job = Arc::new(job);
        let closing = Closing::new(&job);
        if self.0.stop.turn_away.is_cancelled() {
            return Err(stopping());
        }
        let full = |what| Outcome::failed(ErrorCode::Busy, format!("too many {what} are waiting here; try again later"));
        let mut place = self.0.room.take(job.asker(), job.params.as_written().len()).map_err(full)?;
        let turn = match self.0.slots.enter(place.asker()) {
            Ok(slot) => Turn::Now(slot),
            Err(wait) => {
                place.set_in_line(true);
                Turn::Later(wait)
            }
        };
        Ok(Admitted { run: Run::new(job, closing, self.clone(), place), turn })
    }

    /// How many runs there may be at once.
    pub fn capacity(&self) -> usize {
        self.0.runs.load(Ordering::Relaxed)
    }

    /// How runs have ended since the start, those that found no place and hooks among them; and how long those ran that were started.
    #[must_use]
    pub fn ended(&self) -> (&Outcomes, &Seconds) {
        (&self.0.outcomes, &self.0.seconds)
    }

    /// Whether it takes nothing more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.stop.drain.is_cancelled()
    }

    /// How many runs there are.
    pub fn stats(&self) -> Stats {
        let running = self.0.slots.taken();
        Stats { running, in_line: self.0.room.runs().saturating_sub(running) }
    }

    /// What there is to ask for, by name; of more than 10,000 files and folders only so many are looked at.
    pub async fn scripts(&self) -> Vec<ScriptEntry> {
        let _alone = self.0.listing.lock().await;
        let inner = Arc::clone(&self.0);
        self.0.starters.run(&None, move || inner.scripts.list()).await.unwrap_or_default()
    }

    /// Whether there is a hook of this name.
    #[must_use]
    pub fn has_hook(&self, name: &str) -> bool {
        self.0.hooks.has(name)
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

/// How long programs are left alone, at most, while others wait to be started: each that is noticed when it has started, and when it has
/// ended, takes a core from those that run, and all that are noticed together take it once.
const TOGETHER_AFTER: Duration = Duration::from_millis(2);

/// How many runs there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Runs that have a slot.
    pub running: usize,
    /// Runs that wait for one.
    pub in_line: usize,
}

/// How copies of scripts and connections that serve do.
#[derive(Debug, Clone)]
pub struct WorkerStats {
    /// Copies that run.
    pub running: usize,
    /// How often one of either was asked.
    pub calls: u64,
    /// Why copies are no more, by name.
    pub gone: Vec<(&'static str, u64)>,
    /// Connections that serve.
    pub serving: usize,
}

impl Inner {
    fn folder(&self, folder: Folder) -> &Scripts {
        match folder {
            Folder::Scripts => &self.scripts,
            Folder::Hooks => &self.hooks,
        }
    }

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
                    let idle = inner.slots.taken() == 0;
                    inner.ticking.store(!idle, Ordering::Release);
                    inner.later.notify_waiters();
                }
            });
        }
        later
    }

    /// Ends after [`TOGETHER_AFTER`] at most, for all at once; until then nobody is woken for a program that was started.
    fn together(self: &Arc<Self>) -> Notified<'_> {
        let together = self.together.notified();
        if !self.gathering.swap(true, Ordering::AcqRel) {
            self.starters.look_soon();
            let gathering = Gathering(Arc::clone(self));
            self.background.spawn(async move {
                sleep(TOGETHER_AFTER).await;
                drop(gathering);
            });
        }
        together
    }

    /// Whether there are more runs than the one that asks.
    fn is_busy(&self) -> bool {
        self.slots.taken() > 1
    }
}

/// Ends what began with [`Inner::together`], however that came about.
struct Gathering(Arc<Inner>);

impl Drop for Gathering {
    fn drop(&mut self) {
        let Self(inner) = self;
        // Whoever comes from here on waits for the next.
        inner.gathering.store(false, Ordering::Release);
        inner.starters.look();
        inner.together.notify_waiters();
    }
}

/// Places for runs, and bytes for their params.
fn room(limits: &Limits) -> (usize, usize) {
    (limits.runs + limits.waiting, limits.waiting_bytes.max(limits.message))
}

/// Pieces of work for the starters: each run that is to be started or checked has a slot, and may have a copy of its script started
/// beside; and lists are made one by one.
fn starts(limits: &Limits) -> usize {
    2 * limits.runs + 1
}

fn stopping() -> Outcome {
    Outcome::failed(ErrorCode::Busy, "the daemon is stopping and starts nothing more; try again later")
}
