//! The queued requests of one connection, on their way to the disk and until their outcome, which may take days: one task says of
//! all that they are on disk, and one how they ended. It tells nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::Request;
use ws_daemon_protocol::outcome::Report;

use super::answers::{Answers, Pending};
use crate::origin::{Awaited, Ends, Follow, Keeping, Origin};
use crate::policy::Scope;
use crate::spool::{self, Accepted, NewRequest};
use crate::tasks::{Stop, Turn};

/// The requests of one connection; it has no more than may be in flight. Clones are the same.
#[derive(Clone)]
pub struct Outcomes(Arc<Inner>);

struct Inner {
    origin: Origin,
    answers: Answers,
    parking: CancellationToken,
    stopping: CancellationToken,
    ends: Ends,
    table: Mutex<Table>,
    at_disk: Mutex<AtDisk>,
    /// Something is done with that was at the disk.
    some_done: Notify,
}

/// Those that are on their way to the disk.
#[derive(Default)]
struct AtDisk {
    going: usize,
    /// Of which it has not been said yet; never more than may wait for the disk and are answered by it at once.
    done: Vec<Done>,
    /// Whether there is a task that says it.
    is_told: bool,
}

/// One of them, and what became of it.
struct Done {
    kept: Kept,
    accepted: spool::Result<Accepted>,
    /// Freed here, where it was made.
    _written: NewRequest,
}

/// One of them.
struct Kept {
    keeping: Box<Keeping>,
    pending: Pending,
    id: Option<CallerId>,
}

#[derive(Default)]
struct Table {
    waiting: HashMap<u64, Waiting>,
    /// Of the next one.
    number: u64,
    /// Whether there is a task that tells them.
    is_told: bool,
}

struct Waiting {
    pending: Pending,
    id: Option<CallerId>,
    run: RunId,
}

impl Outcomes {
    /// Those of the connection with these answers.
    pub fn new(origin: Origin, answers: Answers, stop: &Stop) -> Self {
        let (parking, stopping) = (stop.park.clone(), stop.close_links.clone());
        let (ends, table) = (Ends::default(), Mutex::default());
        let (at_disk, some_done) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { origin, answers, parking, stopping, ends, table, at_disk, some_done }))
    }

    /// Has a request of `user` on disk, says so, and sees to it that its outcome is told.
    pub fn keep(&self, pending: Pending, request: Request, user: &str, within: Scope) {
        let (id, origin) = (request.id.clone(), &self.0.origin);
        match origin.to_keep(request, user, within) {
            Ok((new, keeping)) => {
                let spool = keeping.spool().clone();
                let (kept, outcomes) = (Kept { keeping, pending, id }, self.clone());
                if let Some(room) = spool.room() {
                    self.expect_one();
                    return room
                        .accept(new, move |accepted, written| outcomes.note(Done { kept, accepted, _written: written }));
                }
                origin.deliver(async move { outcomes.say(kept, spool.accept(new).await).await });
            }
            Err(outcome) => origin.deliver(async move { answer(pending, id.as_ref(), &outcome.into()).await }),
        }
    }

    /// One more is on its way to the disk; there is a task that tells what becomes of all of them.
    fn expect_one(&self) {
        let mut at_disk = self.at_disk();
        at_disk.going += 1;
        let is_told = std::mem::replace(&mut at_disk.is_told, true);
        drop(at_disk);
        if !is_told {
            self.0.origin.deliver(self.clone().say_all());
        }
    }

    /// What became of one at the disk.
    fn note(&self, done: Done) {
        let mut at_disk = self.at_disk();
        at_disk.going -= 1;
        let is_first = at_disk.done.is_empty();
        at_disk.done.push(done);
        drop(at_disk);
        if is_first {
            self.0.some_done.notify_one();
        }
    }

    /// Says of each what became of it, until none is on its way: also when there is nobody to be told, as those that are on disk are
    /// to live.
    async fn say_all(self) {
        let mut turn = Turn::default();
        while let Some(done) = self.next_done() {
            if done.is_empty() {
                self.0.some_done.notified().await;
            }
            for one in done {
                self.say_at_once(one);
                turn.done(0).await;
            }
        }
    }

    /// What became of those that are done with since; nothing if that was all. Then this task is none any more.
    fn next_done(&self) -> Option<Vec<Done>> {
        let mut at_disk = self.at_disk();
        at_disk.is_told = at_disk.going > 0 || !at_disk.done.is_empty();
        at_disk.is_told.then(|| std::mem::take(&mut at_disk.done))
    }

    /// Waits for nothing: what has to wait is given a task of its own.
    fn say_at_once(&self, done: Done) {
        let Done { kept, accepted, .. } = done;
        let (outcomes, origin) = (self.clone(), &self.0.origin);
        if !matches!(accepted, Ok(Accepted::Fresh)) {
            return origin.deliver(async move { outcomes.say(kept, accepted).await });
        }
        let Kept { keeping, pending, id } = kept;
        match origin.kept(keeping) {
            Ok((accepted, follow)) => {
                let line = accepted.to_json(id.as_ref());
                if pending.line_at_once(&line) {
                    return self.wait(pending, id, follow);
                }
                origin.deliver(async move {
                    pending.line(&line).await;
                    outcomes.wait(pending, id, follow);
                });
            }
            Err(outcome) => origin.deliver(async move { answer(pending, id.as_ref(), &outcome.into()).await }),
        }
    }

    async fn say(self, kept: Kept, accepted: spool::Result<Accepted>) {
        let Kept { keeping, pending, id } = kept;
        match self.0.origin.kept_or_not(keeping, accepted).await {
            Ok((accepted, follow)) => {
                pending.line(&accepted.to_json(id.as_ref())).await;
                self.wait(pending, id, follow);
            }
            Err(outcome) => answer(pending, id.as_ref(), &outcome.into()).await,
        }
    }

    /// Sees to it that an outcome is told that was waited for in the last life of the daemon.
    pub async fn resume(self, pending: Pending, id: Option<CallerId>, run: RunId) {
        match self.0.origin.resume_end(run).await {
            Some(Ok(follow)) => self.wait(pending, id, follow),
            Some(Err(outcome)) => answer(pending, id.as_ref(), &outcome.into()).await,
            None => {}
        }
    }

    fn wait(&self, pending: Pending, id: Option<CallerId>, follow: Follow) {
        let mut table = self.table();
        let number = table.number;
        table.number += 1;
        table.waiting.insert(number, Waiting { pending, id, run: follow.run().clone() });
        let is_told = std::mem::replace(&mut table.is_told, true);
        drop(table);
        follow.leave_to(self.0.ends.heir(number));
        if !is_told {
            let origin = self.0.origin.clone();
            origin.deliver(self.clone().tell());
        }
    }

    /// Tells each outcome, until none is left or there is nobody to be told.
    async fn tell(self) {
        loop {
            if self.is_done() {
                return;
            }
            let (number, report) = tokio::select! {
                biased;
                ended = self.0.ends.next() => ended,
                () = self.0.parking.cancelled() => break self.leave_to_the_next_life(),
                // They stay on disk; there is nothing to say of them yet.
                () = self.0.stopping.cancelled() => break,
                () = self.0.answers.gone() => break,
            };
            let waiting = self.table().waiting.remove(&number);
            if let Some(Waiting { pending, id, .. }) = waiting {
                answer(pending, id.as_ref(), &report).await;
            }
        }
        self.give_up().await;
    }

    /// Whether nobody waits; then this task is none any more.
    fn is_done(&self) -> bool {
        let mut table = self.table();
        table.is_told = !table.waiting.is_empty();
        if !table.is_told {
            table.waiting = HashMap::new();
        }
        !table.is_told
    }

    fn leave_to_the_next_life(&self) {
        let waiting = self.take();
        for Waiting { pending, id, run } in waiting.into_values() {
            pending.later(id, Awaited::end_of(&run));
        }
    }

    /// Lets go of all, with others in between.
    async fn give_up(&self) {
        let mut turn = Turn::default();
        for waiting in self.take().into_values() {
            drop(waiting);
            turn.done(0).await;
        }
    }

    fn take(&self) -> HashMap<u64, Waiting> {
        let mut table = self.table();
        table.is_told = false;
        std::mem::take(&mut table.waiting)
    }

    fn at_disk(&self) -> MutexGuard<'_, AtDisk> {
        // Every section leaves it whole.
        self.0.at_disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last line of a request, as soon as there is room for it.
async fn answer(pending: Pending, id: Option<&CallerId>, report: &Report) {
    pending.line(&report.to_json(id)).await;
    pending.over();
}
