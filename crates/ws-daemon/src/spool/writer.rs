//! The thread that owns SQLite: it takes all that waits, commits it at once, and answers. It never answers before the commit, and
//! never trusts SQLite after the disk has failed it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::wal::CheckpointMode;
use tokio::sync::watch;

use crate::metrics::Seconds;

use super::clock::{Clock, WallClock};
use super::file::Place;
use super::queue::{Job, Queue, answer};
use super::records::{Bounds, Durability, Identity, SpoolError, SpoolFault, SpoolStats};
use super::store::{Remedy, Store, Trouble, Verdict};

/// Frames of the log; from there on it is merged into the file after the commit.
const LOG_FRAMES: u32 = 1000;

/// The longest wait for callers who are expected to ask again.
const LONGEST_PATIENCE: Duration = Duration::from_millis(1);

/// Batches that are not waited for after many waits in vain; then it is tried again.
const LONGEST_PAUSE: u32 = 64;

/// Waits in a row that were not in vain, until those that were are forgotten.
const TRUSTED: u32 = 8;

type Batch = Vec<Box<dyn Job>>;

/// What handles may look at without asking.
pub struct Shared {
    pub clock: Arc<Clock>,
    identity: Mutex<Identity>,
    stats: Mutex<SpoolStats>,
    damaged: watch::Sender<Option<PathBuf>>,
    ended: watch::Sender<bool>,
    pub commit_seconds: Seconds,
}

impl Shared {
    pub fn identity(&self) -> Identity {
        locked(&self.identity).clone()
    }

    pub fn stats(&self) -> SpoolStats {
        *locked(&self.stats)
    }

    pub fn damaged(&self) -> watch::Receiver<Option<PathBuf>> {
        self.damaged.subscribe()
    }

    /// Ends when the thread has let go of the file.
    pub async fn ended(&self) {
        // The sender lives as long as we do.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// The thread's own.
pub struct Writer {
    place: Place,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    state: State,
    stats: SpoolStats,
}

enum State {
    Open(Box<Store>),
    /// Closed after a failure; the log has so many frames that were acknowledged.
    Failed(u32),
    /// The file is damaged, and could not be replaced yet.
    Damaged(String, Option<Identity>),
}

impl Writer {
    /// Opens the file.
    pub fn open(
        path: &Path,
        bounds: Bounds,
        durability: Durability,
        wall: WallClock,
        queue: Arc<Queue>,
    ) -> Result<(Self, Option<PathBuf>), SpoolFault> {
        let place = Place::lock(path, bounds, durability, wall)?;
        let (store, set_aside) = place.open()?;
        let shared = Arc::new(Shared {
            clock: Arc::clone(&store.clock),
            identity: Mutex::new(store.identity.clone()),
            stats: Mutex::default(),
            damaged: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            commit_seconds: Seconds::of_commits(),
        });
        let state = State::Open(Box::new(store));
        let mut writer = Self { place, queue, shared, state, stats: SpoolStats::default() };
        writer.publish();
        Ok((writer, set_aside))
    }

    /// Starts the thread.
    pub fn start(self) -> Result<(), SpoolFault> {
        let path = self.place.path.clone();
        match thread::Builder::new().name("spool".to_owned()).spawn(move || self.run()) {
            // Nobody joins it: `ended` tells.
            Ok(_) => Ok(()),
            Err(error) => Err(SpoolFault::Failed { path, reason: error.to_string().into() }),
        }
    }

    /// What handles may look at.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Does one batch of what waits, where it is called.
    pub fn work(&mut self) {
        let batch = self.queue.take_now();
        if !batch.is_empty() {
            self.serve(batch);
            self.merge_log();
        }
    }

    fn run(mut self) {
        let mut gathering = Gathering::default();
        loop {
            let (expected, patience) = gathering.next();
            let batch = self.queue.take(expected, patience);
            if batch.is_empty() {
                break;
            }
            gathering.came(expected, batch.len());
            let (started, commits_us) = (Instant::now(), self.stats.commit_us);
            let outstanding = self.serve(batch);
            let disk = Duration::from_micros(self.stats.commit_us - commits_us);
            gathering.served(outstanding, disk, started.elapsed());
            self.merge_log();
        }
        let Self { place, state, shared, .. } = self;
        if let State::Open(store) = state
            && let Err((_, error)) = store.connection.close()
        {
            tracing::warn!(%error, "the spool's log could not be merged; that is made up for when it is opened");
        }
        drop(place);
        shared.ended.send_replace(true);
    }

    /// Does a batch and answers it; how many verbs were outstanding before the answers.
    fn serve(&mut self, mut batch: Batch) -> usize {
        self.stats.verbs += batch.len() as u64;
        if let Err(trouble) = self.do_all(&mut batch) {
            self.stats.failures += 1;
            let error = trouble.error();
            for job in &mut batch {
                job.fail(error.clone());
            }
            tracing::error!(spool = %self.place.path.display(), error = trouble.words(), "the spool failed; nothing of this was kept");
            self.mend(&trouble);
        }
        self.publish();
        let outstanding = batch.len() + self.queue.len();
        answer(batch);
        outstanding
    }

    /// Does a batch in one transaction; if one verb stumbles, again, so that the others do not.
    fn do_all(&mut self, batch: &mut Batch) -> Verdict<()> {
        self.open_again()?;
        let State::Open(store) = &mut self.state else { return Err(Trouble::Refused(SpoolError::Closed)) };
        let before = store.tally;
        let (commits, commits_us) = (self.stats.commits, self.stats.commit_us);
        let mut done = transact(store, batch, false, &mut self.stats);
        if matches!(&done, Err(trouble) if trouble.remedy() == Remedy::Stumble) {
            roll_back(store);
            store.tally = before;
            done = transact(store, batch, true, &mut self.stats);
        }
        if self.stats.commits > commits {
            self.shared.commit_seconds.took(Duration::from_micros(self.stats.commit_us - commits_us));
        }
        if done.is_err() {
            roll_back(store);
            store.tally = before;
        }
        done
    }

    /// After a failure: makes sure that nothing is left of what was not acknowledged, and opens the file anew.
    fn open_again(&mut self) -> Verdict<()> {
        match &self.state {
            State::Open(_) => return Ok(()),
            State::Failed(frames) => {
                let cut = self.place.cut_log(*frames);
                cut.map_err(|error| Trouble::Refused(SpoolError::Failed(error.to_string().into())))?;
                let mut store = self.place.reopen(Arc::clone(&self.shared.clock))?;
                store.count_all()?;
                self.state = State::Open(Box::new(store));
            }
            State::Damaged(what, former) => {
                let replaced = self.place.replace(what, former.clone(), Some(Arc::clone(&self.shared.clock)));
                let (store, aside) =
                    replaced.map_err(|fault| Trouble::Refused(SpoolError::Failed(fault.to_string().into())))?;
                self.state = State::Open(Box::new(store));
                self.publish();
                self.shared.damaged.send_replace(Some(aside));
            }
        }
        tracing::info!(spool = %self.place.path.display(), "the spool is open again");
        Ok(())
    }

    fn mend(&mut self, trouble: &Trouble) {
        match trouble.remedy() {
            Remedy::Stumble => {}
            Remedy::RollBack if matches!(&self.state, State::Open(store) if store.connection.is_autocommit()) => {}
            Remedy::RollBack | Remedy::Reopen => self.shut(State::Failed),
            Remedy::SetAside => {
                let identity = Some(self.shared.identity());
                let what = trouble.words();
                self.shut(|_| State::Damaged(what, identity));
                if let Err(trouble) = self.open_again() {
                    tracing::error!(error = trouble.words(), "there is no spool until the damaged one can be replaced");
                }
            }
        }
    }

    /// Closes the file, which may fail too; the frames that count are those of the last commit that succeeded.
    fn shut(&mut self, next: impl FnOnce(u32) -> State) {
        let frames = match &self.state {
            State::Open(store) => store.frames.load(Ordering::Relaxed),
            State::Failed(frames) => *frames,
            State::Damaged(..) => 0,
        };
        self.state = next(frames);
    }

    /// Merges the log into the file when it is long. Everything in it is acknowledged and safe already.
    fn merge_log(&mut self) {
        let State::Open(store) = &self.state else { return };
        if store.frames.load(Ordering::Relaxed) < LOG_FRAMES {
            return;
        }
        match store.connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
            Ok((all, merged)) if all == merged => store.frames.store(0, Ordering::Relaxed),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the spool's log cannot be merged");
                self.stats.failures += 1;
                self.mend(&Trouble::Sql(error));
            }
        }
    }

    fn publish(&mut self) {
        if let State::Open(store) = &self.state {
            let tally = store.tally;
            self.stats.bytes = store.used_bytes;
            self.stats.rows = tally.runs + tally.claims;
            self.stats.unsettled = tally.unsettled;
            self.stats.unacknowledged = tally.claims;
            self.stats.history_bytes = tally.history_bytes;
            let mut identity = locked(&self.shared.identity);
            if identity.instance != store.identity.instance {
                *identity = store.identity.clone();
            }
            identity.epoch = tally.epoch;
        }
        *locked(&self.shared.stats) = self.stats;
    }
}

/// For how many verbs a batch waits, and for how long. It never waits where that has been in vain: those who were answered are slower
/// to ask again than the disk, and it is better to work while they do.
#[derive(Default)]
struct Gathering {
    expected: usize,
    patience: Duration,
    /// Waits in vain, one after the other but for a few; so long a pause follows each, in powers of two.
    in_vain: u32,
    /// Waits since that were not.
    rewarded: u32,
    /// Batches that are not waited for yet.
    pause: u32,
}

impl Gathering {
    /// For the next batch.
    fn next(&mut self) -> (usize, Duration) {
        if self.pause > 0 {
            self.pause -= 1;
            return (1, Duration::ZERO);
        }
        (self.expected, self.patience)
    }

    /// So many were waited for, and so many came.
    fn came(&mut self, expected: usize, count: usize) {
        if expected <= 1 {
            return;
        }
        if count < expected {
            self.in_vain = (self.in_vain + 1).min(LONGEST_PAUSE.ilog2());
            self.pause = 1 << self.in_vain;
            self.rewarded = 0;
            return;
        }
        self.rewarded += 1;
        if self.rewarded >= TRUSTED {
            self.in_vain = 0;
        }
    }

    /// So many were outstanding before a batch was answered, for which the disk, and all of it, took so long.
    fn served(&mut self, outstanding: usize, disk: Duration, took: Duration) {
        // Where the disk takes most of the time, all who were answered are waited for: each sync that is shared counts. Else
        // half of them: we work while the others ask.
        self.expected = if disk > took / 2 { outstanding } else { outstanding.div_ceil(2) };
        // Waiting for longer than half of what a commit takes would cost more than the commit that it saves.
        self.patience = if self.expected > 1 { (took / 2).min(LONGEST_PATIENCE) } else { Duration::ZERO };
    }
}

/// One transaction over the batch; with `apart` each verb can be undone alone.
fn transact(store: &mut Store, batch: &mut Batch, apart: bool, stats: &mut SpoolStats) -> Verdict<()> {
    store.write("BEGIN IMMEDIATE", [])?;
    store.measure()?;
    let before = store.connection.total_changes();
    for job in batch {
        if apart { work_apart(store, job)? } else { job.work(store)? }
    }
    if store.connection.total_changes() != before {
        store.tidy()?;
    }
    let written = store.connection.total_changes() != before;
    let started = Instant::now();
    store.write("COMMIT", [])?;
    if written {
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        stats.commits += 1;
        stats.commit_us += took;
        stats.longest_commit_us = stats.longest_commit_us.max(took);
    }
    Ok(())
}

fn work_apart(store: &mut Store, job: &mut Box<dyn Job>) -> Verdict<()> {
    let before = store.tally;
    store.write("SAVEPOINT verb", [])?;
    if let Err(trouble) = job.work(store) {
        if trouble.remedy() != Remedy::Stumble {
            return Err(trouble);
        }
        store.write("ROLLBACK TO verb", [])?;
        store.tally = before;
        job.fail(trouble.error());
    }
    store.write("RELEASE verb", [])?;
    Ok(())
}

/// SQLite may have done so by itself.
fn roll_back(store: &Store) {
    if !store.connection.is_autocommit() {
        let _ = store.write("ROLLBACK", []);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic is done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Duration = Duration::from_micros(300);

    /// How many of so many batches are waited for, of callers of whom so many come in time.
    fn waited_for(gathering: &mut Gathering, batches: usize, come: usize) -> usize {
        let expected = (0..batches).map(|_| {
            gathering.served(64, DISK, DISK);
            let (expected, _) = gathering.next();
            gathering.came(expected, come);
            expected
        });
        expected.filter(|expected| *expected > 1).count()
    }

    #[test]
    fn who_comes_in_time_is_waited_for_and_who_does_not_is_tried_now_and_then() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.next(), (0, Duration::ZERO));
        assert_eq!(waited_for(&mut gathering, 100, 64), 100);
        let in_vain = waited_for(&mut gathering, 1000, 30);
        assert!((10..30).contains(&in_vain), "{in_vain} of 1000 were waited for in vain");
        let later = waited_for(&mut gathering, 1000, 64);
        assert!(later >= 1000 - LONGEST_PAUSE as usize, "{later} of 1000 were waited for");
        // A few that happen to come in time do not end it.
        waited_for(&mut gathering, 1000, 30);
        let mixed: usize = (0..100).map(|_| waited_for(&mut gathering, 1, 64) + waited_for(&mut gathering, 65, 30)).sum();
        assert!(mixed < 400, "{mixed} of 6600 were waited for");
    }

    #[test]
    fn one_who_is_alone_waits_for_nobody() {
        let mut gathering = Gathering::default();
        gathering.served(1, DISK, DISK);
        assert_eq!(gathering.next(), (1, Duration::ZERO));
    }
}
