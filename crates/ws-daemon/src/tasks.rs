//! The one place that starts tasks, and the stages in which they are stopped. It never decides when to stop.

use std::future::Future;
use std::time::{Duration, Instant};

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
#[derive(Debug)]
pub struct Turn {
    /// Pieces of work in one turn; beyond, all others that are ready go first.
    most: usize,
    done: usize,
    /// With so many done the clock is looked at.
    look_at: usize,
    /// When the first piece of it was done.
    begun: Option<Instant>,
}

impl Turn {
    /// So many pieces of work are done in any turn, and between two looks at the clock.
    const FEW: usize = 4;

    /// Beyond these, a turn is over after so long.
    const LENGTH: Duration = Duration::from_micros(50);

    /// Turns of up to so many pieces, if these are light: what is done in one turn leaves together.
    #[must_use]
    pub fn of_light(most: usize) -> Self {
        Self { most, done: 0, look_at: Self::FEW, begun: None }
    }

    /// Whether nothing was done in it yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.done == 0
    }

    /// One piece of work was done, which had so many bytes: each KiB of it is one more.
    pub async fn done(&mut self, bytes: usize) {
        self.done += 1 + (bytes >> 10);
        if self.is_over() {
            *self = Self::of_light(self.most);
            yield_now().await;
        }
    }

    fn is_over(&mut self) -> bool {
        if self.done >= self.most {
            return true;
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if self.done < self.look_at {
            return false;
        }
        self.look_at = self.done + Self::FEW;
        begun.elapsed() >= Self::LENGTH
    }
}

impl Default for Turn {
    /// For pieces of work that are more to do than it takes to begin with them.
    fn default() -> Self {
        Self::of_light(Self::FEW)
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// How many pieces of work fit into a turn.
    fn pieces(turn: &mut Turn) -> usize {
        let mut pieces = 1;
        while turn.done(0).now_or_never().is_some() {
            assert!(!turn.is_new());
            pieces += 1;
        }
        assert!(turn.is_new());
        pieces
    }

    #[test]
    fn a_turn_is_over_when_much_was_done_in_it_or_for_long() {
        const MOST: usize = 64;
        assert_eq!(pieces(&mut Turn::default()), Turn::FEW);
        let mut turn = Turn::of_light(MOST);
        for _ in 0..100 {
            // Somebody else may have the thread meanwhile.
            assert!((Turn::FEW..=MOST).contains(&pieces(&mut turn)));
        }
        assert!(turn.done((MOST - 1) << 10).now_or_never().is_none());
        for _ in 1..Turn::FEW {
            assert!(turn.done(0).now_or_never().is_some());
        }
        let begun = Instant::now();
        while begun.elapsed() < Turn::LENGTH {}
        assert!(turn.done(0).now_or_never().is_none());
    }
}
