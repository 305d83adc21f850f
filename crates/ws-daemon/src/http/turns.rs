//! Whose handshake begins next: one at a time, in the order in which they ask, and no more of them than leaves most of the thread to whatever
//! else there is to do. However many come at once, links that are up are served between any two. It accepts and refuses nobody.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::sleep;

/// When handshakes have taken so long, the next one begins [`RESTS`] times as much later. No shorter: a timer wakes to the millisecond.
const WORKED: Duration = Duration::from_micros(500);

/// So many times as long as handshakes have taken belongs to whatever else there is to do.
const RESTS: u32 = 2;

/// The turns at one port. Clones are the same.
#[derive(Debug, Clone)]
pub struct Turns {
    turn: Arc<Semaphore>,
    work: Arc<Mutex<Work>>,
}

/// What handshakes have taken of the thread.
#[derive(Debug)]
struct Work {
    since_rest: Duration,
    /// None begins before that.
    rests_until: Instant,
}

impl Default for Turns {
    fn default() -> Self {
        let work = Work { since_rest: Duration::ZERO, rests_until: Instant::now() };
        Self { turn: Arc::new(Semaphore::new(1)), work: Arc::new(Mutex::new(work)) }
    }
}

impl Turns {
    fn work(&self) -> MutexGuard<'_, Work> {
        // Every section leaves it whole.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when all that wait for a turn now have had theirs.
    pub async fn all_had(&self) {
        // Nobody closes it.
        drop(self.turn.acquire().await);
    }

    /// Begins a handshake in its turn, and goes on with it as it comes. Only whose first byte is there may ask for a turn: who says nothing
    /// holds up nobody.
    pub async fn begin<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        let mut step = poll_fn(|cx| {
            let at = Instant::now();
            let step = handshake.as_mut().poll(cx);
            self.has_worked(at.elapsed());
            step
        });
        let turn = self.turn.acquire().await;
        let left = self.work().rests_until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            sleep(left).await;
        }
        // Before the first and dearest step whatever else is ready has its turn.
        yield_now().await;
        let begun = poll_fn(|cx| Poll::Ready(Pin::new(&mut step).poll(cx))).await;
        drop(turn);
        match begun {
            Poll::Ready(done) => done,
            Poll::Pending => step.await,
        }
    }

    fn has_worked(&self, worked: Duration) {
        let mut work = self.work();
        work.since_rest += worked;
        if work.since_rest >= WORKED {
            work.rests_until = Instant::now() + RESTS * std::mem::take(&mut work.since_rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::{join, join_all};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn handshakes_begin_in_order_and_leave_most_of_the_thread_to_others() {
        const EACH: Duration = Duration::from_micros(500);
        const COUNT: u32 = 40;
        let (turns, begun, worked) = (Turns::default(), Cell::new(0), Cell::new(Duration::ZERO));
        let at = Instant::now();
        let handshakes = (0..COUNT).map(|number| {
            let (begun, worked) = (&begun, &worked);
            turns.begin(async move {
                assert_eq!(begun.replace(number + 1), number);
                let at = Instant::now();
                while at.elapsed() < EACH {}
                worked.set(worked.get() + at.elapsed());
            })
        });
        let (_, ()) = join(join_all(handshakes), turns.all_had()).await;
        assert_eq!(begun.get(), COUNT);
        // The last rest is nobody's any more.
        let rest = at.elapsed().saturating_sub(worked.get());
        assert!(rest + RESTS * (EACH + WORKED) >= RESTS * worked.get(), "{:?} of {:?}", worked.get(), at.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_and_waits_for_the_other_side_holds_up_nobody() {
        let turns = Turns::default();
        let mut silent = pin!(turns.begin(std::future::pending::<()>()));
        assert!(timeout(WORKED, &mut silent).await.is_err());
        turns.all_had().await;
        assert_eq!(turns.begin(async { 1 }).await, 1);
    }
}
