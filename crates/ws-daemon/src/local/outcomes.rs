//! The queued requests of one connection that wait for their outcome, which may take days: one task tells all of them. It tells
//! nothing but that a request is on disk, and how it ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::Request;
use ws_daemon_protocol::outcome::Report;

use super::answers::{Answers, Pending};
use crate::origin::{Awaited, Ends, Follow, Origin};
use crate::policy::Scope;
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
        Self(Arc::new(Inner { origin, answers, parking, stopping, ends: Ends::default(), table: Mutex::default() }))
    }

    /// Has a request of `user` on disk, says so, and sees to it that its outcome is told.
    pub async fn keep(self, pending: Pending, request: Request, user: Box<str>, within: Scope) {
        let id = request.id.clone();
        match Box::pin(self.0.origin.keep(request, &user, &within)).await {
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

    fn wait(self, pending: Pending, id: Option<CallerId>, follow: Follow) {
        let mut table = self.table();
        let number = table.number;
        table.number += 1;
        table.waiting.insert(number, Waiting { pending, id, run: follow.run().clone() });
        let is_told = std::mem::replace(&mut table.is_told, true);
        drop(table);
        follow.leave_to(self.0.ends.heir(number));
        if !is_told {
            let origin = self.0.origin.clone();
            origin.deliver(self.tell());
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
