//! What is being done for whom, and the last of what was: where a run is found that its asker wants stopped, or wants to hear more
//! of, and that is to be shown. It never does any of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::outcome::Report;

use super::Worker;
use crate::link::Replier;
use crate::peers::wall_ms;

/// Direct runs that are remembered when they are over; the oldest is forgotten.
const REMEMBERED: usize = 1024;

/// Characters of a script's name that are shown; the rest is left out.
const NAME_CHARS: usize = 256;

/// What a run is found by: its asker's instance, its id and its attempt (0 for a direct one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub asker: Arc<str>,
    pub run: RunId,
    pub attempt: u32,
}

/// What is shown of a run beside its key.
#[derive(Debug, Clone)]
pub struct About {
    /// The script.
    pub name: Box<str>,
    /// The caller's id.
    pub id: Option<CallerId>,
    /// Who asked.
    pub peer: Arc<str>,
    /// Wall time, ms since 1970.
    pub claimed_wall_ms: u64,
}

/// A direct run that is over.
#[derive(Debug)]
pub struct Over {
    pub key: Key,
    pub about: About,
    /// Without what it printed.
    pub report: Report,
    /// Wall time of its end, ms since 1970.
    pub ended_wall_ms: u64,
}

/// A run that is in line or runs.
#[derive(Debug)]
pub struct Doing {
    /// Its turn has come; only to be shown.
    begun: AtomicBool,
    /// Stops it.
    pub cancel: CancellationToken,
    /// Grows when more of its output is kept, and when it is over; there once somebody wants to know.
    kept: OnceLock<watch::Sender<u64>>,
    credit: Mutex<Arc<Credit>>,
    report: OnceLock<Report>,
}

/// How much output may go home on one link.
#[derive(Debug, Default)]
pub struct Credit {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    closed: bool,
}

/// A run's place in the table, shared by all that do it or tell of it, and given up when the last of them drops it: as long as
/// something is told, credit for it must be found.
#[derive(Debug)]
pub struct Seat {
    worker: Worker,
    pub key: Key,
    pub about: About,
    pub doing: Doing,
    credit: Arc<Credit>,
}

/// The table of places.
#[derive(Debug, Default)]
pub struct Table {
    live: HashMap<Key, Weak<Seat>>,
    /// Direct ones, the newest last.
    over: VecDeque<Arc<Over>>,
}

impl Key {
    pub fn new(asker: &str, run: &RunId, attempt: u32) -> Self {
        Self { asker: asker.into(), run: run.clone(), attempt }
    }

    /// Of whoever asked by this way; a seed peer stops nothing, so all that its key must do is differ.
    pub fn of(home: &Replier, run: &RunId, attempt: u32) -> Self {
        let (asker, run) = (home.link().shared_instance().cloned(), run.clone());
        Self { asker: asker.unwrap_or_else(|| Uuid::now_v7().to_string().into()), run, attempt }
    }

    /// Whether it is an attempt of this run.
    pub fn is(&self, asker: &str, run: &RunId) -> bool {
        self.is_of(asker) && self.run == *run
    }

    /// Whether this instance asked for it.
    pub fn is_of(&self, asker: &str) -> bool {
        &*self.asker == asker
    }
}

/// Askers make ids that differ: what they are called need not be looked at as well.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.run.hash(state);
        self.attempt.hash(state);
    }
}

impl About {
    pub fn new(name: &str, id: Option<CallerId>, peer: Arc<str>, claimed_wall_ms: u64) -> Self {
        let end = name.char_indices().nth(NAME_CHARS).map_or(name.len(), |(at, _)| at);
        Self { name: name[..end].into(), id, peer, claimed_wall_ms }
    }
}

impl Doing {
    fn new(credit: Arc<Credit>) -> Self {
        let (begun, cancel, kept) = (AtomicBool::new(false), CancellationToken::new(), OnceLock::new());
        Self { begun, cancel, kept, credit: Mutex::new(credit), report: OnceLock::new() }
    }

    /// Its turn has come.
    pub fn begins(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// It was not its script's turn.
    pub fn waits_again(&self) {
        self.begun.store(false, Ordering::Relaxed);
    }

    /// Whether its turn has come.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// The credit on the link that its output goes by now.
    pub fn credit(&self) -> Arc<Credit> {
        Arc::clone(&self.credit.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// More of its output is kept.
    pub fn has_kept(&self) {
        if let Some(kept) = self.kept.get() {
            kept.send_modify(|kept| *kept += 1);
        }
    }

    /// What changes when more is kept, or it is over. What was before this is asked for is there to be looked at.
    pub fn keeping(&self) -> watch::Receiver<u64> {
        self.kept.get_or_init(watch::Sender::default).subscribe()
    }

    /// It is over, and that is on disk if it is a queued one.
    pub fn is_over(&self, report: Report) {
        // It ends once.
        drop(self.report.set(report));
        self.has_kept();
    }

    /// How it ended.
    pub fn report(&self) -> Option<&Report> {
        self.report.get()
    }

    /// Its output goes by another link from here on, with so much credit.
    pub fn new_credit(&self, bytes: u64) -> Arc<Credit> {
        let credit = Arc::new(Credit::new(bytes));
        let old = std::mem::replace(&mut *self.credit.lock().unwrap_or_else(PoisonError::into_inner), Arc::clone(&credit));
        old.close();
        credit
    }
}

impl Credit {
    /// So much may go to begin with.
    pub fn new(bytes: u64) -> Self {
        Self { state: Mutex::new(State { bytes, closed: false }), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More may go.
    pub fn give(&self, bytes: u64) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_add(bytes);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Nothing more will go: the link is gone.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_waiters();
    }

    /// Waits until at least `least` may go, and says how much; `None` once it is closed.
    pub async fn wait(&self, least: u64) -> Option<u64> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.state();
                if state.closed {
                    return None;
                }
                if state.bytes >= least {
                    return Some(state.bytes);
                }
            }
            changed.await;
        }
    }

    /// Ends when nothing more will go.
    pub async fn closed(&self) {
        while self.wait(u64::MAX).await.is_some() {}
    }

    /// So much has gone.
    pub fn spend(&self, bytes: u64) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
    }
}

impl Worker {
    /// Enters a run whose output may begin with so much credit.
    pub(super) fn seat(&self, key: Key, about: About, credit: u64) -> Arc<Seat> {
        let credit = Arc::new(Credit::new(credit));
        let doing = Doing::new(Arc::clone(&credit));
        let seat = Arc::new(Seat { worker: self.clone(), key: key.clone(), about, doing, credit });
        self.doing().live.insert(key, Arc::downgrade(&seat));
        seat
    }

    /// The place of a run.
    pub(super) fn seat_of(&self, key: &Key) -> Option<Arc<Seat>> {
        self.doing().live.get(key).and_then(Weak::upgrade)
    }

    /// All places whose keys are wanted. None of them is dropped under the table's lock.
    pub(super) fn seats(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Arc<Seat>> {
        self.doing().live.iter().filter(|(key, _)| wanted(key)).filter_map(|(_, seat)| seat.upgrade()).collect()
    }

    /// Direct runs that are over, in no order.
    pub(super) fn over(&self, wanted: impl Fn(&Over) -> bool) -> Vec<Arc<Over>> {
        self.doing().over.iter().filter(|over| wanted(over)).cloned().collect()
    }
}

impl Seat {
    /// The credit that the run began with.
    pub fn credit(&self) -> &Credit {
        &self.credit
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.worker.doing();
        // Another may have taken the key meanwhile.
        if let Entry::Occupied(live) = table.live.entry(self.key.clone())
            && std::ptr::eq(live.get().as_ptr(), self)
        {
            live.remove();
        }
        if let (0, Some(report)) = (self.key.attempt, self.doing.report.take()) {
            if table.over.len() >= REMEMBERED {
                table.over.pop_front();
            }
            let About { name, id, peer, claimed_wall_ms } = &mut self.about;
            let (name, id, peer) = (std::mem::take(name), id.take(), Arc::clone(peer));
            let about = About { name, id, peer, claimed_wall_ms: *claimed_wall_ms };
            let (key, ended_wall_ms) = (self.key.clone(), wall_ms());
            table.over.push_back(Arc::new(Over { key, about, report, ended_wall_ms }));
        }
    }
}
