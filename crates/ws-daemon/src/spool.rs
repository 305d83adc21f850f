//! The durable store: what was promised is on disk before it is said. It owns the file `spool-….db` and every line of SQL; it
//! never decides what a run does next, and knows neither links nor scripts.
//!
//! # Theory of operation
//!
//! [`Spool`] is a handle that many hold. Each of its verbs is queued for one thread (`writer`), which owns SQLite: it takes all
//! that waits, does it in one transaction, commits (which waits for the disk), and only then answers. So when a verb returns `Ok`,
//! what its documentation says has outlived a power cut, and many verbs that wait at once share one sync. A verb whose caller goes
//! away is done all the same.
//!
//! When a transaction fails, every verb in it is answered with [`SpoolError::Failed`], nothing of it remains, and SQLite is closed
//! and opened anew for the next (`file`). Every row carries a checksum over its fields (`seal`) that is verified at each read.
//! A file that is damaged is never repaired and never deleted: it is renamed, and an empty spool with a new instance takes its place.
//!
//! Ages are measured by a clock of the spool's own, which no change of the wall clock moves (`clock`).

mod claims;
mod clock;
mod file;
mod output;
mod peers;
mod queue;
mod records;
mod requests;
mod schema;
mod seal;
mod store;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use ws_daemon_protocol::id::RunId;

use crate::metrics::Seconds;
use crate::spool::queue::{Handed, Pending, Queue};
use crate::spool::store::{Store, Verdict};
use crate::spool::writer::Writer;

pub use crate::spool::clock::WallClock;
pub use crate::spool::records::number;
pub use crate::spool::records::{
    Accepted, Bounds, ClaimRecord, ClaimState, Claimed, Durability, Filter, Identity, NewClaim, NewRequest, NewRun, OutputPart,
    OutputRange, PeerRecord, RunRecord, RunState, Settled, SpoolError, SpoolFault, SpoolStats, StoredRequest, ThenDue,
    Unacknowledged,
};

/// What a verb returns.
pub type Result<T> = std::result::Result<T, SpoolError>;

/// What [`Spool::open`] returns.
#[derive(Debug)]
pub struct Opened {
    /// Ready.
    pub spool: Spool,
    /// Where the file went that was found damaged; then `spool` is empty and has a new instance.
    pub set_aside: Option<PathBuf>,
}

/// What does the work of a spool that has no thread. Dropped, the file is let go of, and what waited was never done.
pub struct Hand {
    queue: Arc<Queue>,
    writer: Writer,
}

impl Hand {
    /// Whether something waits.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Does one batch of what waits, and answers it.
    pub fn work(&mut self) {
        self.writer.work();
    }
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hand").finish_non_exhaustive()
    }
}

/// A place for one more verb among those that wait, for whoever cannot.
pub struct Room<'a>(queue::Room<'a>);

impl Room<'_> {
    /// The same as [`Spool::accept`]; what came of it is told to `tell`, on the thread of the spool, where there is little time. If
    /// the spool is given up before, it is told that. It gets the request back.
    pub fn accept(self, request: NewRequest, tell: impl FnOnce(Result<Accepted>, NewRequest) + Send + 'static) {
        self.0.push(Box::new(Handed::new(request, tell)));
    }
}

impl fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

/// A handle to the store. Clones share it; when the last is gone, the store is closed.
#[derive(Clone)]
pub struct Spool(Arc<Handle>);

struct Handle {
    queue: Arc<Queue>,
    shared: Arc<writer::Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

impl Spool {
    /// Opens or makes the spool at `path`, checks all of it, and starts its thread. Blocks for as long as that takes.
    pub fn open(path: &Path, bounds: Bounds, durability: Durability) -> std::result::Result<Opened, SpoolFault> {
        Self::open_with(path, bounds, durability, clock::system_wall_clock())
    }

    /// The same, with a wall clock of the caller's (ms since 1970).
    pub fn open_with(
        path: &Path,
        bounds: Bounds,
        durability: Durability,
        wall: WallClock,
    ) -> std::result::Result<Opened, SpoolFault> {
        let (opened, hand) = Self::open_by_hand(path, bounds, durability, wall)?;
        hand.writer.start()?;
        Ok(opened)
    }

    /// The same without the thread: nothing is done but by [`Hand::work`].
    pub fn open_by_hand(
        path: &Path,
        bounds: Bounds,
        durability: Durability,
        wall: WallClock,
    ) -> std::result::Result<(Opened, Hand), SpoolFault> {
        let queue = Arc::new(Queue::default());
        let (writer, set_aside) = Writer::open(path, bounds, durability, wall, Arc::clone(&queue))?;
        let (shared, hand) = (writer.shared(), Hand { queue: Arc::clone(&queue), writer });
        Ok((Opened { spool: Self(Arc::new(Handle { queue, shared })), set_aside }, hand))
    }

    /// Who this spool is. The instance changes only when damage was found; see [`damaged`](Self::damaged).
    pub fn identity(&self) -> Identity {
        self.0.shared.identity()
    }

    /// Changes each time the running spool was found damaged, set aside (there) and replaced by an empty one.
    pub fn damaged(&self) -> watch::Receiver<Option<PathBuf>> {
        self.0.shared.damaged()
    }

    /// The spool's clock: ms that go on while no daemon runs, whatever is done to the wall clock.
    pub fn now_ms(&self) -> i64 {
        self.0.shared.clock.now_ms()
    }

    /// How it does.
    pub fn stats(&self) -> SpoolStats {
        self.0.shared.stats()
    }

    /// On return the epoch is one higher on disk; the new one.
    pub async fn raise_epoch(&self) -> Result<u64> {
        self.ask(Store::raise_epoch).await
    }

    /// On return the disk has taken what was written to it within the last second.
    pub async fn probe(&self) -> Result<()> {
        self.ask(Store::probe).await
    }

    /// How long commits took, from COMMIT to its return.
    pub fn commit_seconds(&self) -> &Seconds {
        &self.0.shared.commit_seconds
    }

    // The asking side.

    /// On return with `Fresh` the request and its runs are on disk.
    pub async fn accept(&self, request: NewRequest) -> Result<Accepted> {
        self.ask(move |store| store.accept(&request)).await
    }

    /// A place for one more verb; none while too many wait, or if the spool is closed.
    pub fn room(&self) -> Option<Room<'_>> {
        self.0.queue.room().map(Room)
    }

    /// On return the run is bound to that instance on disk: its frame may leave.
    pub async fn bind(&self, run: RunId, instance: &str, attempt: u32) -> Result<()> {
        let instance: Box<str> = instance.into();
        self.ask(move |store| store.bind(&run, &instance, attempt)).await
    }

    /// On return the run is bound to nobody, and its next attempt has that number; `refused` of those before it never began.
    pub async fn unbind(&self, run: RunId, next_attempt: u32, refused: u32) -> Result<()> {
        self.ask(move |store| store.unbind(&run, next_attempt, refused)).await
    }

    /// On return it is on disk that somebody wants the run stopped. `Unknown` if it has settled.
    pub async fn cancel(&self, run: RunId) -> Result<()> {
        self.ask(move |store| store.cancel(&run)).await
    }

    /// On return the run has its report on disk, and if it was the request's last, the request's script is due.
    pub async fn settle(&self, run: RunId, report: Box<str>) -> Result<Settled> {
        self.ask(move |store| store.settle(&run, &report)).await
    }

    /// On return what came to light later is on disk beside the report of a settled run.
    pub async fn correct(&self, run: RunId, report: Box<str>) -> Result<()> {
        self.ask(move |store| store.correct(&run, &report)).await
    }

    /// Requests with runs that have not settled, oldest first: at most so many of those behind the request `after`, fewer if they are
    /// large; 0 is before all.
    pub async fn unsettled(&self, after: u64, most: usize) -> Result<Vec<StoredRequest>> {
        self.ask(move |store| store.unsettled(after, most)).await
    }

    /// For how many ms the oldest run has been asked for that has not settled.
    pub async fn oldest_ms(&self) -> Result<Option<i64>> {
        self.ask(Store::oldest_ms).await
    }

    /// The body of the request that a run belongs to. `Unknown` if it was dropped.
    pub async fn body(&self, run: RunId) -> Result<Box<str>> {
        self.ask(move |store| store.body(&run)).await
    }

    /// The reports of those runs of a request that have settled.
    pub async fn reports(&self, request: u64) -> Result<Vec<Box<str>>> {
        self.ask(move |store| store.reports(request)).await
    }

    /// The scripts that are to get an outcome and were not started, oldest first.
    pub async fn then_due(&self) -> Result<Vec<ThenDue>> {
        self.ask(Store::then_due).await
    }

    /// On return the request's script is never due again: it may be started. `Unknown` if it is not due in
    /// the spool of this instance, or that is not this one any more.
    pub async fn then_started(&self, spool: &str, request: u64) -> Result<()> {
        let spool: Box<str> = spool.into();
        self.ask(move |store| store.then_started(&spool, request)).await
    }

    // The doing side.

    /// On return with `Fresh` the claim is on disk: the run may start, if `starting` was set. `Unknown` if the spool is not that of
    /// the instance `me` any more, which may have known the run.
    pub async fn claim(&self, me: &str, claim: NewClaim) -> Result<Claimed> {
        let me: Box<str> = me.into();
        self.ask(move |store| store.claim(&me, &claim)).await
    }

    /// On return the claim is in line again: its script was certainly not started.
    pub async fn not_started(&self, asker: &str, run: RunId, attempt: u32) -> Result<()> {
        let asker: Box<str> = asker.into();
        self.ask(move |store| store.not_started(&asker, &run, attempt)).await
    }

    /// On return the claim counts as one that may have started: the script may be.
    pub async fn starting(&self, asker: &str, run: RunId, attempt: u32) -> Result<()> {
        let asker: Box<str> = asker.into();
        self.ask(move |store| store.starting(&asker, &run, attempt)).await
    }

    /// On return the script's process is on disk.
    pub async fn started(&self, asker: &str, run: RunId, attempt: u32, pid: u32, start_time: u64) -> Result<()> {
        let asker: Box<str> = asker.into();
        self.ask(move |store| store.started(&asker, &run, attempt, pid, start_time)).await
    }

    /// On return the claim has its report on disk: it may be sent. The first report stands.
    pub async fn finish(&self, asker: &str, run: RunId, attempt: u32, report: Box<str>) -> Result<()> {
        let asker: Box<str> = asker.into();
        self.ask(move |store| store.finish(&asker, &run, attempt, &report)).await
    }

    /// On return with `Refused` the run is on disk as one that never ran and never will; anything else says that it was known, and
    /// how far it is, and nothing was changed. `Unknown` as of [`claim`](Self::claim).
    pub async fn refuse(&self, me: &str, asker: &str, run: RunId, attempt: u32, report: Box<str>) -> Result<Claimed> {
        let (me, asker): (Box<str>, Box<str>) = (me.into(), asker.into());
        self.ask(move |store| store.refuse(&me, &asker, &run, attempt, &report)).await
    }

    /// On return body, report and output of the claim are gone; its key is remembered for a while. `Unknown` if it has no report.
    pub async fn acknowledged(&self, asker: &str, run: RunId, attempt: u32) -> Result<()> {
        let asker: Box<str> = asker.into();
        self.ask(move |store| store.acknowledged(&asker, &run, attempt)).await
    }

    /// All claims without a report, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<ClaimRecord>> {
        self.ask(Store::unfinished).await
    }

    /// The reports that this instance has not acknowledged, oldest first.
    pub async fn unacknowledged(&self, asker: &str) -> Result<Vec<Unacknowledged>> {
        let asker: Box<str> = asker.into();
        self.ask(move |store| store.unacknowledged(&asker)).await
    }

    // Output of queued runs, on both sides.

    /// On return the bytes are on disk. What is known already is skipped, what goes beyond the bound pushes out the oldest.
    pub async fn keep_output(&self, run: RunId, stream: u8, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.ask(move |store| store.keep_output(&run, stream, offset, &bytes)).await
    }

    /// The first bytes that are kept at or after `from`, at most `max` and without a gap.
    pub async fn read_output(&self, run: RunId, stream: u8, from: u64, max: usize) -> Result<OutputPart> {
        self.ask(move |store| store.read_output(&run, stream, from, max)).await
    }

    /// What is kept of the run's streams, by stream.
    pub async fn output_range(&self, run: RunId) -> Result<Vec<OutputRange>> {
        self.ask(move |store| store.output_range(&run)).await
    }

    /// On return nothing that the run printed is kept.
    pub async fn drop_output(&self, run: RunId) -> Result<()> {
        self.ask(move |store| store.drop_output(&run)).await
    }

    // Peers.

    /// On return the peer is on disk as it was seen now.
    pub async fn peer_seen(&self, peer: PeerRecord) -> Result<()> {
        self.ask(move |store| store.peer_seen(&peer)).await
    }

    /// All peers that are remembered, by name.
    pub async fn peers(&self) -> Result<Vec<PeerRecord>> {
        self.ask(Store::peers).await
    }

    /// On return the peer is not known any more.
    pub async fn forget_peer(&self, instance: &str) -> Result<()> {
        let instance: Box<str> = instance.into();
        self.ask(move |store| store.forget_peer(&instance)).await
    }

    // Questions.

    /// A run that was asked for.
    pub async fn run_record(&self, run: RunId) -> Result<Option<RunRecord>> {
        self.ask(move |store| store.run_record(&run)).await
    }

    /// Runs that were asked for, newest first.
    pub async fn runs(&self, filter: Filter) -> Result<Vec<RunRecord>> {
        self.ask(move |store| store.runs(&filter)).await
    }

    /// The runs of the remembered request with this key, in the order in which they were given; none if there is no such request.
    pub async fn by_caller_id(&self, user: &str, key: &str) -> Result<Vec<RunRecord>> {
        let (user, key): (Box<str>, Box<str>) = (user.into(), key.into());
        self.ask(move |store| store.by_caller_id(&user, &key)).await
    }

    /// Claims, newest first.
    pub async fn claims(&self, filter: Filter) -> Result<Vec<ClaimRecord>> {
        self.ask(move |store| store.claims(&filter)).await
    }

    /// The latest claim for this run.
    pub async fn claim_record(&self, run: RunId) -> Result<Option<ClaimRecord>> {
        self.ask(move |store| store.claim_record(&run)).await
    }

    /// Does what waits, merges the log into the file, and gives the file up; on return another may open it.
    pub async fn close(&self) {
        self.0.queue.close();
        self.0.shared.ended().await;
    }

    /// Waits while too many verbs wait; the work is done once, or again after another verb of its batch has stumbled.
    async fn ask<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Store) -> Verdict<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.0.queue.push(Box::new(Pending::new(work, answer))).await?;
        match answered.await {
            Ok((done, rest)) => {
                drop(rest);
                done
            }
            Err(_) => Err(SpoolError::Closed),
        }
    }
}
