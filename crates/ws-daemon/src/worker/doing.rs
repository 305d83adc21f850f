//! What is being done for whom: where a run is found that its asker wants stopped, or wants to hear more of. It never does any of
//! it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::Report;

use super::Worker;
use crate::link::Replier;

/// What a run is found by: its asker's instance, its id and its attempt (0 for a direct one).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    asker: Box<str>,
    run: RunId,
    attempt: u32,
}

/// A run that is in line or runs.
#[derive(Debug, Default)]
pub struct Doing {
    /// Stops it.
    pub cancel: CancellationToken,
    /// Grows when more of its output is kept, and when it is over.
    pub kept: watch::Sender<u64>,
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
    key: Key,
    pub doing: Doing,
    credit: Arc<Credit>,
}

/// The table of places.
pub type Table = HashMap<Key, Weak<Seat>>;

impl Key {
    pub fn new(asker: &str, run: &RunId, attempt: u32) -> Self {
        Self { asker: asker.into(), run: run.clone(), attempt }
    }

    /// Of whoever asked by this way; a seed peer stops nothing, so all that its key must do is differ.
    pub fn of(home: &Replier, run: &RunId, attempt: u32) -> Self {
        match home.asker() {
            Some(asker) => Self::new(asker, run, attempt),
            None => Self::new(&Uuid::now_v7().to_string(), run, attempt),
        }
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

impl Doing {
    /// The credit on the link that its output goes by now.
    pub fn credit(&self) -> Arc<Credit> {
        Arc::clone(&self.credit.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It is over, and that is on disk.
    pub fn is_over(&self, report: &Report) {
        // It ends once.
        drop(self.report.set(report.clone()));
        self.kept.send_modify(|kept| *kept += 1);
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
    pub(super) fn seat(&self, key: Key, credit: u64) -> Arc<Seat> {
        let doing = Doing::default();
        let credit = doing.new_credit(credit);
        let seat = Arc::new(Seat { worker: self.clone(), key: key.clone(), doing, credit });
        self.doing().insert(key, Arc::downgrade(&seat));
        seat
    }

    /// The place of a run.
    pub(super) fn seat_of(&self, key: &Key) -> Option<Arc<Seat>> {
        self.doing().get(key).and_then(Weak::upgrade)
    }

    /// All places whose keys are wanted. None of them is dropped under the table's lock.
    pub(super) fn seats(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Arc<Seat>> {
        self.doing().iter().filter(|(key, _)| wanted(key)).filter_map(|(_, seat)| seat.upgrade()).collect()
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
        if table.get(&self.key).is_some_and(|seat| std::ptr::eq(seat.as_ptr(), self)) {
            table.remove(&self.key);
        }
    }
}
