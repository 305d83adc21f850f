//! Where queued runs wait while there is nobody to run them, or it is too early. There they have no task and no timer of their own:
//! one task keeps the time for all, and one for each of whom they wait for looks out for an arrival. It never looks for a way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::direct::at;
use super::ledger::Live;
use super::queued::Queued;
use crate::peers::Awaited;
use crate::tasks::Turn;

/// For what a run waits.
pub struct Wait {
    /// Whose arrival it waits for, if for one: this one's, or anyone's; and the arrivals since before it was looked for them.
    pub arrival: Option<(Option<Awaited>, watch::Receiver<u64>)>,
    /// When it goes on whoever comes.
    pub until: Instant,
}

/// The waiting room of one daemon. Clones are the same.
#[derive(Clone, Default)]
pub struct WaitingRoom(Arc<Inner>);

#[derive(Default)]
struct Inner {
    table: Mutex<Table>,
    /// Something is due sooner than all that was.
    sooner: Notify,
}

#[derive(Default)]
struct Table {
    /// By the number of the run: in the order in which they were accepted.
    waiting: BTreeMap<u64, Waiting>,
    due: BTreeSet<(Instant, u64)>,
    groups: HashMap<Arc<Option<Awaited>>, Group>,
    /// Whether somebody keeps the time.
    is_kept: bool,
    /// Nobody does any more, and nobody is let in.
    is_closed: bool,
}

struct Waiting {
    life: Box<Queued>,
    until: Instant,
    awaited: Option<Arc<Option<Awaited>>>,
}

/// Those who wait for the same one.
struct Group {
    numbers: BTreeSet<u64>,
    /// Dropped with the group: then nobody looks out for it any more.
    _ended: oneshot::Sender<()>,
}

impl std::fmt::Debug for WaitingRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitingRoom").finish_non_exhaustive()
    }
}

impl WaitingRoom {
    /// Has the run from here on, until there is something to do for it. It comes back if that is so already.
    pub fn enter(&self, life: Box<Queued>, wait: Wait) -> Option<Box<Queued>> {
        let (origin, number) = (life.origin.clone(), life.live().number);
        let mut table = self.table();
        if table.is_closed {
            // It stays on disk.
            drop(table);
            return None;
        }
        if life.is_called(&wait) {
            return Some(life);
        }
        let Wait { arrival, until } = wait;
        let stopping = origin.stop().close_links.clone();
        let keep_time = (!std::mem::replace(&mut table.is_kept, true))
            .then(|| Closing(self.clone()).keep_time(life.damaged.clone(), stopping.clone()));
        let (awaited, look_out) = arrival.map_or((None, None), |(awaited, arrivals)| {
            let (awaited, ended) = table.join(awaited, number);
            let look_out = ended.map(|ended| self.clone().look_out(Arc::clone(&awaited), arrivals, ended, stopping));
            (Some(awaited), look_out)
        });
        if table.due.first().is_none_or(|(first, _)| until < *first) {
            self.0.sooner.notify_one();
        }
        table.due.insert((until, number));
        table.waiting.insert(number, Waiting { life, until, awaited });
        drop(table);
        if let Some(keep_time) = keep_time {
            origin.lives().spawn(keep_time);
        }
        if let Some(look_out) = look_out {
            origin.lives().spawn(look_out);
        }
        None
    }

    /// Lets the run go on, if it is here.
    pub fn call(&self, live: &Live) {
        let life = self.table().take(live.number);
        if let Some(life) = life {
            life.go_on();
        }
    }

    /// Lets go on all who wait for the same one, when there was an arrival; then they are a group no more.
    async fn look_out(
        self,
        awaited: Arc<Option<Awaited>>,
        mut arrivals: watch::Receiver<u64>,
        ended: oneshot::Receiver<()>,
        stopping: CancellationToken,
    ) {
        tokio::select! {
            // Whoever tells it may be gone behind that.
            _ = arrivals.changed() => {}
            _ = ended => return,
            () = stopping.cancelled() => return,
        }
        let called = self.table().group(&awaited);
        self.go_on(called).await;
    }

    /// One after the other, with others in between.
    async fn go_on(&self, numbers: Vec<u64>) {
        let mut turn = Turn::default();
        for number in numbers {
            let life = self.table().take(number);
            if let Some(life) = life {
                life.go_on();
                turn.done(0).await;
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the room with the end of the task that keeps the time, however that ends. Whoever is in it stays on disk.
struct Closing(WaitingRoom);

impl Closing {
    /// Lets go on who is due, and all when the file may have been lost.
    async fn keep_time(self, mut damaged: watch::Receiver<Option<PathBuf>>, stopping: CancellationToken) {
        let room = &self.0;
        loop {
            let next = room.table().due.first().map(|(first, _)| *first);
            let called = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                Ok(()) = damaged.changed() => room.table().all(),
                () = room.0.sooner.notified() => continue,
                () = at(next) => room.table().due_by(Instant::now()),
            };
            room.go_on(called).await;
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut *self.0.table(), Table { is_closed: true, ..Table::default() });
        drop(left);
    }
}

impl Table {
    /// Puts one more to those who wait for the same one; to look out for it until the end that is returned, if they are a new group.
    fn join(&mut self, awaited: Option<Awaited>, number: u64) -> (Arc<Option<Awaited>>, Option<oneshot::Receiver<()>>) {
        if let Some((awaited, _)) = self.groups.get_key_value(&awaited) {
            let awaited = Arc::clone(awaited);
            if let Some(group) = self.groups.get_mut(&*awaited) {
                group.numbers.insert(number);
            }
            return (awaited, None);
        }
        let (awaited, (end, ended)) = (Arc::new(awaited), oneshot::channel());
        self.groups.insert(Arc::clone(&awaited), Group { numbers: BTreeSet::from([number]), _ended: end });
        (awaited, Some(ended))
    }

    /// Those of a group, which is one no more: whoever waits on is looked out for anew.
    fn group(&mut self, awaited: &Arc<Option<Awaited>>) -> Vec<u64> {
        self.groups.remove(awaited).map(|group| group.numbers.into_iter().collect()).unwrap_or_default()
    }

    fn take(&mut self, number: u64) -> Option<Box<Queued>> {
        let Waiting { life, until, awaited } = self.waiting.remove(&number)?;
        self.due.remove(&(until, number));
        if let Some(awaited) = awaited
            && let Some(group) = self.groups.get_mut(&*awaited)
        {
            group.numbers.remove(&number);
            if group.numbers.is_empty() {
                self.groups.remove(&*awaited);
            }
        }
        Some(life)
    }

    fn all(&self) -> Vec<u64> {
        self.waiting.keys().copied().collect()
    }

    fn due_by(&self, now: Instant) -> Vec<u64> {
        self.due.range(..=(now, u64::MAX)).map(|(_, number)| *number).collect()
    }
}
