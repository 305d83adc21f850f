//! What is asked here and not over, and the last of what is: where a run is found by its id, to be shown, watched or stopped. It
//! never decides what becomes of one.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use ws_daemon_protocol::command::{RunState, Which};
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::outcome::Report;

use super::ends::Heir;
use super::waiter::Leave;
use crate::counters::Outcomes;
use crate::peers::wall_ms;

/// Direct runs that are remembered when they are over; the oldest is forgotten.
const REMEMBERED: usize = 1024;

/// What these may take with what they printed, in bytes; likewise.
const REMEMBERED_BYTES: usize = 16 << 20;

/// The runs of one daemon's asking side. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    /// Of the run that is entered next.
    number: AtomicU64,
    /// Runs that were entered when they were accepted: direct ones, and queued ones.
    accepted: [AtomicU64; 2],
    outcomes: Outcomes,
}

#[derive(Debug, Default)]
struct Table {
    live: HashMap<RunId, Arc<Live>>,
    /// Direct ones that are over, the newest last.
    over: VecDeque<Over>,
    over_bytes: usize,
    /// Those that are on disk, and that somebody waits for to be entered.
    expected: HashMap<RunId, watch::Sender<Option<Arc<Live>>>>,
}

/// A run that is over, and what it takes to remember it, in bytes.
#[derive(Debug)]
struct Over {
    live: Arc<Live>,
    bytes: usize,
}

/// A run that is asked for.
#[derive(Debug)]
pub struct Live {
    /// Its id.
    pub run: RunId,
    /// Which one it is of all that were entered in this life of the daemon.
    pub number: u64,
    /// The script.
    pub name: Box<str>,
    /// Whose it is.
    pub user: Box<str>,
    /// The caller's id.
    pub id: Option<CallerId>,
    /// Whether it is on disk.
    pub queued: bool,
    /// Wall time, ms since 1970; only to be shown.
    pub accepted_wall_ms: u64,
    /// How far it is.
    progress: Mutex<Progress>,
    /// Told when that is another; made for the first who watches, since most runs are watched by nobody.
    watched: OnceLock<watch::Sender<()>>,
    /// Cancelled when somebody wants it stopped; made for who waits for that.
    cancel: OnceLock<CancellationToken>,
    /// Who waits for nothing but its outcome and has no task, and is stopped by hand; of a run without options.
    waiter: OnceLock<Leave>,
    /// Who waits for nothing but its end.
    heirs: Mutex<Vec<Heir>>,
}

/// A look at how far a run is, and at each step from there. Whoever misses some sees the last.
#[derive(Debug)]
pub struct Watch {
    live: Arc<Live>,
    changes: watch::Receiver<()>,
}

/// How far a run is. What is true of it stays true: a watcher that missed a step still sees it.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Who has it, or had it last.
    pub peer: Option<Arc<str>>,
    /// The peer has said so.
    pub delivered: bool,
    /// The script has been started.
    pub started: bool,
    /// Grows when output was kept.
    pub output: u64,
    /// How it ended.
    pub report: Option<Arc<Report>>,
    /// Wall time of its end, ms since 1970; only to be shown.
    pub settled_wall_ms: Option<u64>,
}

/// A wait for a run to be entered.
#[derive(Debug)]
pub struct Expected {
    ledger: Ledger,
    run: RunId,
    entered: watch::Receiver<Option<Arc<Live>>>,
}

impl Expected {
    /// Ends when it is entered.
    pub async fn entered(mut self) -> Arc<Live> {
        match self.entered.wait_for(Option::is_some).await.map(|live| live.clone()) {
            Ok(Some(live)) => live,
            // The sender is taken away only after it has sent.
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut table = self.ledger.table();
        if table.expected.get(&self.run).is_some_and(|sender| sender.receiver_count() <= 1) {
            table.expected.remove(&self.run);
        }
    }
}

/// A run's place among the live ones, given up when dropped.
#[derive(Debug)]
pub struct Seat {
    ledger: Ledger,
    live: Arc<Live>,
}

impl Ledger {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a run that is accepted now.
    pub fn enter(&self, run: RunId, name: &str, user: &str, id: Option<CallerId>, queued: bool) -> Seat {
        self.0.accepted[usize::from(queued)].fetch_add(1, Ordering::Relaxed);
        self.enter_again(run, name, user, id, queued, wall_ms())
    }

    /// Enters a run that was accepted then.
    pub fn enter_again(
        &self,
        run: RunId,
        name: &str,
        user: &str,
        id: Option<CallerId>,
        queued: bool,
        accepted_wall_ms: u64,
    ) -> Seat {
        let live = Arc::new(Live {
            run: run.clone(),
            number: self.0.number.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            user: user.into(),
            id,
            queued,
            accepted_wall_ms,
            progress: Mutex::default(),
            watched: OnceLock::new(),
            cancel: OnceLock::new(),
            waiter: OnceLock::new(),
            heirs: Mutex::default(),
        });
        let mut table = self.table();
        if let Some(expected) = table.expected.remove(&run) {
            expected.send_replace(Some(Arc::clone(&live)));
        }
        table.live.insert(run, Arc::clone(&live));
        drop(table);
        Seat { ledger: self.clone(), live }
    }

    /// The run, if it is live, or a wait for it to be.
    pub fn live_or_expected(&self, run: &RunId) -> Result<Arc<Live>, Expected> {
        let mut table = self.table();
        if let Some(live) = table.live.get(run) {
            return Ok(Arc::clone(live));
        }
        let entered = table.expected.entry(run.clone()).or_default().subscribe();
        Err(Expected { ledger: self.clone(), run: run.clone(), entered })
    }

    /// The run that is meant, if it is live; of several with one caller's id the newest.
    pub fn live(&self, which: &Which) -> Option<Arc<Live>> {
        let table = self.table();
        match which {
            Which::Run(run) => table.live.get(run).cloned(),
            Which::Id(id) => newest(table.live.values(), id),
        }
    }

    /// The run that is meant, live or over.
    pub fn find(&self, which: &Which) -> Option<Arc<Live>> {
        let live = self.live(which);
        live.or_else(|| {
            let table = self.table();
            match which {
                Which::Run(run) => table.over().find(|over| over.run == *run).cloned(),
                Which::Id(id) => newest(table.over(), id),
            }
        })
    }

    /// All that are known here: the live ones and the direct ones that are over, in no order.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let table = self.table();
        table.live.values().chain(table.over()).cloned().collect()
    }

    /// How many direct runs, and how many queued ones, have been accepted since the start; and how runs have ended.
    pub fn counted(&self) -> ([u64; 2], &Outcomes) {
        (self.0.accepted.each_ref().map(|count| count.load(Ordering::Relaxed)), &self.0.outcomes)
    }

    /// How many are live.
    pub fn count(&self) -> usize {
        self.table().live.len()
    }
}

impl Table {
    fn over(&self) -> impl Iterator<Item = &Arc<Live>> {
        self.over.iter().map(|over| &over.live)
    }

    fn remember(&mut self, live: Arc<Live>) {
        let bytes = live.cost_bytes();
        self.over_bytes += bytes;
        self.over.push_back(Over { live, bytes });
        while self.over.len() > REMEMBERED || self.over_bytes > REMEMBERED_BYTES {
            let Some(oldest) = self.over.pop_front() else { return };
            self.over_bytes = self.over_bytes.saturating_sub(oldest.bytes);
        }
    }
}

fn newest<'a>(all: impl Iterator<Item = &'a Arc<Live>>, id: &CallerId) -> Option<Arc<Live>> {
    let key = id.key();
    let of_id = all.filter(|live| live.id.as_ref().is_some_and(|id| id.key() == key));
    of_id.max_by(|one, other| one.run.cmp(&other.run)).cloned()
}

impl Live {
    /// What it takes to remember it, in bytes. Does not change once it is over.
    fn cost_bytes(&self) -> usize {
        const FIXED: usize = 512;
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let of_report = |report: &Arc<Report>| {
            let more = report.more.as_ref();
            let printed = more.map_or(0, |more| length(&more.result) + length(&more.stdout) + length(&more.stderr));
            printed + report.message.as_ref().map_or(0, String::len)
        };
        FIXED + self.name.len() + self.lock().report.as_ref().map_or(0, of_report)
    }

    /// How far it is, in one word.
    pub fn state(&self) -> RunState {
        let progress = self.lock();
        match (&progress.report, &progress.peer) {
            (Some(_), _) => RunState::Settled,
            (None, Some(_)) => RunState::Running,
            (None, None) => RunState::Waiting,
        }
    }

    /// Stops it, or sees to it that it never starts.
    pub fn cancel(&self) {
        self.cancelling().cancel();
        if let Some(waiter) = self.waiter.get() {
            waiter.cancel();
        }
    }

    /// Whether somebody wants it stopped.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// Ends when somebody wants it stopped.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.cancelling().cancelled()
    }

    fn cancelling(&self) -> &CancellationToken {
        self.cancel.get_or_init(CancellationToken::new)
    }

    /// Who waits for it, and is to hear when it is to be stopped.
    pub fn is_awaited_by(&self, waiter: Leave) {
        // One waits so.
        drop(self.waiter.set(waiter));
    }

    /// How far it is now.
    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Watches it from here on.
    pub fn watch(self: &Arc<Self>) -> Watch {
        // Made before the first look: what is noted behind that is told.
        let changes = self.watched.get_or_init(watch::Sender::default).subscribe();
        Watch { live: Arc::clone(self), changes }
    }

    /// Notes a step.
    pub fn note(&self, step: impl FnOnce(&mut Progress)) {
        step(&mut self.lock());
        self.tell_watchers();
    }

    fn tell_watchers(&self) {
        if let Some(watched) = self.watched.get() {
            watched.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // A step is noted whole.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who has it now. Whether that is news: a run that is over stays as it is.
    pub fn give(&self, peer: &Arc<str>) -> bool {
        let mut progress = self.lock();
        let is_news = progress.report.is_none() && progress.peer.as_deref() != Some(&**peer);
        if is_news {
            progress.peer = Some(Arc::clone(peer));
        }
        drop(progress);
        if is_news {
            self.tell_watchers();
        }
        is_news
    }

    /// Notes that nobody has it any more, and that it may be given to another.
    pub fn take_back(&self) {
        self.note(|progress| {
            progress.peer = None;
            progress.delivered = false;
            progress.started = false;
        });
    }

    /// Notes its end.
    pub fn settle(&self, report: &Report) {
        let report = Arc::new(report.clone());
        self.note(|progress| {
            progress.report = Some(Arc::clone(&report));
            progress.settled_wall_ms = Some(wall_ms());
        });
        let heirs = std::mem::take(&mut *self.heirs());
        for heir in heirs {
            heir.tell(Arc::clone(&report));
        }
    }

    /// Has one more told how it ended, once it has.
    pub fn leave_to(&self, heir: Heir) {
        let mut heirs = self.heirs();
        // It is noted before those who are here are told.
        let report = self.lock().report.clone();
        match report {
            Some(report) => heir.tell(report),
            None => heirs.push(heir),
        }
    }

    fn heirs(&self) -> MutexGuard<'_, Vec<Heir>> {
        // Every section leaves the list whole.
        self.heirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// How far it is; the next step is one behind this.
    pub fn look(&mut self) -> Progress {
        self.changes.mark_unchanged();
        self.live.progress()
    }

    /// Ends with the next step.
    pub async fn step(&mut self) {
        // The run, which is held here, holds the other end.
        drop(self.changes.changed().await);
    }

    /// How it ended, once it has.
    pub async fn end(mut self) -> Arc<Report> {
        loop {
            if let Some(report) = self.look().report {
                return report;
            }
            self.step().await;
        }
    }
}

impl Seat {
    /// The run.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Without a report it goes on after a restart, or whoever asked is gone.
        if let Some(report) = &self.live.lock().report {
            self.ledger.0.outcomes.count_report(report);
        }
        let mut table = self.ledger.table();
        table.live.remove(&self.live.run);
        if !self.live.queued {
            table.remember(Arc::clone(&self.live));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_while_it_lives_and_a_direct_one_for_a_while_longer() {
        let ledger = Ledger::default();
        let id = CallerId::from(&RunId::new("mine"));
        let direct = ledger.enter(RunId::new("1"), "a", "u", Some(id.clone()), false);
        let queued = ledger.enter(RunId::new("2"), "b", "u", Some(id.clone()), true);
        assert_eq!(ledger.live(&Which::Id(id.clone())).expect("the newest").run, RunId::new("2"));
        assert_eq!(direct.live().state(), RunState::Waiting);
        assert!(direct.live().give(&"p".into()) && !direct.live().give(&"p".into()));
        assert_eq!(direct.live().state(), RunState::Running);
        direct.live().settle(&ws_daemon_protocol::outcome::Outcome::Exited(0).into());
        assert!(!direct.live().give(&"q".into()), "it is over");
        drop((direct, queued));
        assert!(ledger.live(&Which::Id(id)).is_none());
        assert_eq!(ledger.find(&Which::Run(RunId::new("1"))).expect("remembered").state(), RunState::Settled);
        assert!(ledger.find(&Which::Run(RunId::new("2"))).is_none(), "the spool has it");
    }

    #[tokio::test]
    async fn whoever_expects_a_run_has_it_though_it_is_over_by_then_and_leaves_nothing_behind() {
        let ledger = Ledger::default();
        let run = RunId::new("1");
        let expected = || ledger.live_or_expected(&run).expect_err("it is not there yet");
        let (first, second, third) = (expected(), expected(), expected());
        drop(second);
        assert_eq!(ledger.table().expected.len(), 1);
        drop(ledger.enter(run.clone(), "a", "u", None, true));
        assert_eq!((first.entered().await.run.clone(), third.entered().await.run.clone()), (run.clone(), run.clone()));
        drop(ledger.live_or_expected(&run).expect_err("it is over"));
        assert!(ledger.table().expected.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_in_number_and_in_bytes() {
        let ledger = Ledger::default();
        let over = |at: usize, printed: usize| {
            let seat = ledger.enter(RunId::new(at.to_string()), "a", "u", None, false);
            let mut report = Report::from(ws_daemon_protocol::outcome::Outcome::Exited(0));
            report.more_mut().stdout = Some("x".repeat(printed).into());
            seat.live().settle(&report);
        };
        (0..REMEMBERED + 5).for_each(|at| over(at, 0));
        assert_eq!((ledger.all().len(), ledger.find(&Which::Run(RunId::new("4"))).is_none()), (REMEMBERED, true));
        (0..5).for_each(|at| over(at, REMEMBERED_BYTES / 4));
        assert_eq!(ledger.all().len(), 3);
    }
}
