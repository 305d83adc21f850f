//! Threads that start programs. Starting one holds its thread until the program is there, some 100 µs: a daemon that has nothing
//! else to do starts it where it stands, since a hand-over costs two wake-ups; one that has hands it to these threads, so that
//! its links and connections do not wait for it. They know nothing of what they start.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

/// A thread is held while its program comes to life, so one for each core would leave cores idle.
const THREADS_PER_CORE: usize = 2;

type Work = Box<dyn FnOnce() + Send>;

/// The threads. They end when this is dropped and their work is done.
#[derive(Debug)]
pub struct Starters(SyncSender<Work>);

impl Starters {
    /// [`THREADS_PER_CORE`] for each core of the machine, with a queue for `waiting` pieces of work.
    ///
    /// # Errors
    /// When the system has no threads.
    pub fn new(waiting: usize) -> io::Result<Self> {
        let (queue, work) = sync_channel(waiting);
        let work = Arc::new(Mutex::new(work));
        for _ in 0..THREADS_PER_CORE * thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            let work = Arc::clone(&work);
            // Whoever holds the handle could only wait for the thread: it ends with the queue.
            drop(thread::Builder::new().name("starter".into()).spawn(move || work_until_closed(&work))?);
        }
        Ok(Self(queue))
    }

    /// Does `work` on one of the threads. `None` if the queue is full, or the work panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (tell, told) = oneshot::channel();
        // Whoever asked may be gone by then: what was started is stopped by being dropped.
        let piece = Box::new(move || drop(tell.send(work())));
        self.0.try_send(piece).ok()?;
        told.await.ok()
    }
}

fn work_until_closed(work: &Mutex<Receiver<Work>>) {
    loop {
        // One thread waits, the others wait for it: each gets the next piece in turn.
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(piece) => piece(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_a_full_queue_says_so() {
        let starters = Starters::new(4).expect("threads");
        let here = thread::current().id();
        let there = starters.run(|| thread::current().id()).await.expect("room");
        assert_ne!(here, there);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let busy = || {
            let held = Arc::clone(&held);
            // Ends when the other end is dropped.
            Box::pin(starters.run(move || held.lock().unwrap_or_else(PoisonError::into_inner).recv().is_err()))
        };
        let mut pieces: Vec<_> = (0..64).map(|_| busy()).collect();
        let refused = pieces.iter_mut().filter_map(|piece| piece.as_mut().now_or_never()).filter(Option::is_none).count();
        assert!(refused > 0, "64 pieces went into a queue of 4");
        drop(hold);
    }
}
