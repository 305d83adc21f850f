//! The one place that starts tasks, and the stages in which they are stopped. It never decides when to stop.

use std::future::Future;

use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Starts tasks and knows when all of them have ended. Clones share one count.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    end: Option<CancellationToken>,
}

impl Tasks {
    /// Tasks that are dropped where they stand once `end` is cancelled: for whoever wants the end of the program without its end.
    #[must_use]
    pub fn until(end: CancellationToken) -> Self {
        Self { tracker: TaskTracker::default(), end: Some(end) }
    }

    /// Starts a task.
    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Nobody awaits the handle: a task's bookkeeping is in its Drop guards, and a panic is logged by the panic hook.
        match self.end.clone() {
            None => drop(self.tracker.spawn(future)),
            Some(end) => drop(self.tracker.spawn(async move {
                tokio::select! {
                    biased;
                    () = end.cancelled() => {}
                    () = future => {}
                }
            })),
        }
    }

    /// Counts as a task until it is dropped.
    #[must_use]
    pub fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Ends when no task is left; tasks may still be started meanwhile.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// A task's turn on the one thread that all share: whoever has much to do at once lets others in between.
#[derive(Debug, Default)]
pub struct Turn {
    done: usize,
}

impl Turn {
    /// Pieces of work in one turn; beyond, all others that are ready go first.
    const PIECES: usize = 4;

    /// Whether nothing was done in it yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.done == 0
    }

    /// The piece of work that is being done is worth so many more.
    pub fn takes(&mut self, pieces: usize) {
        self.done += pieces;
    }

    /// One piece of work was done, which had so many bytes: each KiB of it is one more.
    pub async fn done(&mut self, bytes: usize) {
        self.done += 1 + (bytes >> 10);
        if self.done >= Self::PIECES {
            self.done = 0;
            yield_now().await;
        }
    }
}

/// The stages of a stop, each a token that is cancelled once, in this order; in haste `terminate` is left out.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Before all others, and only if there is a next life of the daemon: local connections are not read any more, nobody is accepted;
    /// what was read goes on.
    pub park: CancellationToken,
    /// No new requests of this machine, no new links and connections; what runs and what is in line goes on.
    pub refuse: CancellationToken,
    /// No new runs of peers either: each has heard that it is to ask for none, or there is no time for that.
    pub turn_away: CancellationToken,
    /// What is in line goes as well, and what is lost is not dialled again.
    pub drain: CancellationToken,
    /// The groups of unfinished runs get TERM.
    pub terminate: CancellationToken,
    /// The groups of unfinished runs get KILL.
    pub kill: CancellationToken,
    /// Links are closed; what is in flight on them is settled.
    pub close_links: CancellationToken,
    /// Local connections are closed once their answers are written.
    pub close_local: CancellationToken,
    /// Connections on which something may have come that nobody has looked at yet hold a token of this: who parks waits for them.
    pub askers: TaskTracker,
    /// Requests that wait for a peer to come back hold a token of this: a restart, in which nobody could come, begins when there are none.
    pub away: TaskTracker,
}

impl Stop {
    /// Ends when nobody is to ask for more on a connection that is asked on one after the other.
    pub async fn no_more(&self) {
        tokio::select! {
            () = self.park.cancelled() => {}
            () = self.refuse.cancelled() => {}
        }
    }
}
