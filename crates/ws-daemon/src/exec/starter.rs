//! Threads that start programs. Starting one holds its thread until the program is there, some 100 µs: a daemon that has nothing
//! else to do starts it where it stands, since a hand-over costs two wake-ups; one that has hands it to these threads, so that
//! its links and connections do not wait for it. Askers take turns at them. They know nothing of what they start.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use super::rounds::{Asker, Rounds};
use crate::system::keep_low_numbers;

/// A thread is held while its program comes to life, so one for each core would leave cores idle.
const THREADS_PER_CORE: usize = 2;

type Work = Box<dyn FnOnce() + Send>;

/// The threads. They end when this is dropped and their work is done.
#[derive(Debug)]
pub struct Starters(Arc<Desk>);

/// Where work is laid down and taken up.
#[derive(Debug)]
struct Desk {
    most: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    calls: Mutex<Calls>,
}

/// Who is to be told that its work is done. To wake another thread takes a system call: it is woken for one of them, who tells the others.
#[derive(Debug, Default)]
struct Calls {
    /// One has been woken, and has not looked yet.
    called: bool,
    /// Somebody looks soon, and need not be woken.
    soon: bool,
    /// The others; at most as many as wait for work.
    others: Vec<Waker>,
}

/// What came of a piece of work.
enum Came<T> {
    NotYet(Option<Waker>),
    Done(T),
    /// The work panicked, or it was taken.
    Nothing,
}

type Told<T> = Arc<Mutex<Came<T>>>;

/// Tells what came of a piece of work; dropped before, that nothing did.
struct Teller<T> {
    told: Told<T>,
    desk: Arc<Desk>,
}

/// A wait for what comes of a piece of work. Dropped before, that is dropped where it is done.
struct Waiting<T> {
    told: Told<T>,
    desk: Arc<Desk>,
}

#[derive(Default)]
struct State {
    work: Rounds<Work>,
    waiting: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.waiting).field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl Starters {
    /// [`THREADS_PER_CORE`] for each core of the machine, with a queue for `most` pieces of work.
    ///
    /// # Errors
    /// When the system has no threads.
    pub fn new(most: usize) -> io::Result<Self> {
        let starters = Self(Arc::new(Desk {
            most: most.into(),
            state: Mutex::default(),
            changed: Condvar::new(),
            calls: Mutex::default(),
        }));
        let threads = THREADS_PER_CORE * thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // And for the thread that runs everything else.
        keep_low_numbers(threads + 1)?;
        for _ in 0..threads {
            let desk = Arc::clone(&starters.0);
            // Whoever holds the handle could only wait for the thread: it ends with the queue.
            drop(thread::Builder::new().name("starter".into()).spawn(move || desk.work_until_closed())?);
        }
        Ok(starters)
    }

    /// From here on the queue is for so many.
    pub fn set(&self, most: usize) {
        self.0.most.store(most, Ordering::Relaxed);
    }

    /// Whether there is more to do than there are threads for.
    pub fn has_line(&self) -> bool {
        self.0.state().waiting > 0
    }

    /// Nobody is woken for work that is done until somebody looks, as has to happen soon.
    pub fn look_soon(&self) {
        self.0.calls().soon = true;
    }

    /// Tells all whose work is done; from here on they are woken again.
    pub fn look(&self) {
        self.0.calls().soon = false;
        self.0.pass_on();
    }

    /// Does `work` on one of the threads. `None` if the queue is full, or the work panicked.
    pub async fn run<T: Send + 'static>(&self, asker: &Asker, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let told = Arc::new(Mutex::new(Came::NotYet(None)));
        let teller = Teller { told: Arc::clone(&told), desk: Arc::clone(&self.0) };
        // Whoever asked may be gone by then: what was started is stopped by being dropped.
        self.0.lay_down(asker, Box::new(move || teller.tell(Came::Done(work()))))?;
        Waiting { told, desk: Arc::clone(&self.0) }.await
    }
}

impl Drop for Starters {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

impl Desk {
    fn lay_down(&self, asker: &Asker, piece: Work) -> Option<()> {
        let mut state = self.state();
        if state.waiting >= self.most.load(Ordering::Relaxed) {
            return None;
        }
        state.waiting += 1;
        state.work.push(asker, piece);
        drop(state);
        self.changed.notify_one();
        Some(())
    }

    fn work_until_closed(&self) {
        while let Some(piece) = self.next() {
            piece();
        }
    }

    /// The next piece of work; `None` when there will be none.
    fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if let Some(piece) = state.work.pop() {
                state.waiting -= 1;
                return Some(piece);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // Every section leaves it whole.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has somebody look who waits, now or with one who is about to.
    fn call(&self, waker: Waker) {
        let mut calls = self.calls();
        if calls.soon || std::mem::replace(&mut calls.called, true) {
            calls.others.push(waker);
        } else {
            drop(calls);
            waker.wake();
        }
    }

    /// Whoever looks, or looks no more, may be the one who was called for all.
    fn pass_on(&self) {
        let mut calls = self.calls();
        calls.called = false;
        let others = std::mem::take(&mut calls.others);
        drop(calls);
        others.into_iter().for_each(Waker::wake);
    }
}

impl<T> Teller<T> {
    fn tell(&self, came: Came<T>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Came::NotYet(waker) = &mut *told else { return };
        let waker = waker.take();
        *told = came;
        drop(told);
        if let Some(waker) = waker {
            self.desk.call(waker);
        }
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.tell(Came::Nothing);
    }
}

impl<T> Future for Waiting<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.desk.pass_on();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Came::NotYet(waker) = &mut *told {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *told, Came::Nothing) {
            Came::Done(value) => Poll::Ready(Some(value)),
            Came::Nothing | Came::NotYet(_) => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        self.desk.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use futures_util::FutureExt;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_is_called_for_all_and_tells_the_others_also_if_it_looks_no_more() {
        let desk = Starters::new(1).expect("threads").0.clone();
        let [first, second, third] = [(); 3].map(|()| Arc::new(Woken::default()));
        let woken = || [&first, &second, &third].map(|woken| woken.0.load(Ordering::Relaxed));
        let call = |woken: &Arc<Woken>| desk.call(Arc::clone(woken).into());
        call(&first);
        call(&second);
        call(&third);
        assert_eq!(woken(), [1, 0, 0]);
        let told: Told<()> = Arc::new(Mutex::new(Came::NotYet(None)));
        drop(Waiting { told, desk: Arc::clone(&desk) });
        assert_eq!(woken(), [1, 1, 1]);
        call(&second);
        assert_eq!(woken(), [1, 2, 1]);
    }

    #[test]
    fn nobody_is_called_before_a_look_that_comes_soon_and_all_are_told_then() {
        let starters = Starters::new(1).expect("threads");
        let [first, second, third] = [(); 3].map(|()| Arc::new(Woken::default()));
        let woken = || [&first, &second, &third].map(|woken| woken.0.load(Ordering::Relaxed));
        let call = |woken: &Arc<Woken>| starters.0.call(Arc::clone(woken).into());
        starters.look_soon();
        call(&first);
        // Whoever looks for itself tells the others, and the look is still to come.
        starters.0.pass_on();
        assert_eq!(woken(), [1, 0, 0]);
        call(&second);
        call(&third);
        assert_eq!(woken(), [1, 0, 0]);
        starters.look();
        assert_eq!(woken(), [1, 1, 1]);
        call(&first);
        assert_eq!(woken(), [2, 1, 1]);
    }

    #[tokio::test]
    async fn of_work_that_panics_nothing_comes() {
        let starters = Starters::new(64).expect("threads");
        assert_eq!(starters.run(&None, || -> u8 { std::panic::resume_unwind(Box::new(())) }).await, None);
    }

    #[tokio::test]
    async fn work_is_done_elsewhere_and_a_full_queue_says_so() {
        let starters = Starters::new(4).expect("threads");
        let here = thread::current().id();
        let there = starters.run(&None, || thread::current().id()).await.expect("room");
        assert_ne!(here, there);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let busy = || {
            let held = Arc::clone(&held);
            // Ends when the other end is dropped.
            Box::pin(starters.run(&None, move || held.lock().unwrap_or_else(PoisonError::into_inner).recv().is_err()))
        };
        let mut pieces: Vec<_> = (0..64).map(|_| busy()).collect();
        let refused = pieces.iter_mut().filter_map(|piece| piece.as_mut().now_or_never()).filter(Option::is_none).count();
        assert!(refused > 0, "64 pieces went into a queue of 4");
        drop(hold);
    }
}
