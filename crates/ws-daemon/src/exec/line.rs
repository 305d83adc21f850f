//! A line: so many at once, and whoever waits for a place among them gets it in its asker's turn. There is one before all slots,
//! and one before each script whose contract says how many of it may run at once. It never starts or stops a run.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::rounds::{Asker, Rounds};

/// The line. Before a script it outlives changes of the contract: whoever runs by an older one still counts.
#[derive(Debug)]
pub struct Line(Mutex<State>);

/// While anybody waits, all places are taken.
#[derive(Debug)]
struct State {
    most: usize,
    /// More than `most` for a while, when that was made less.
    taken: usize,
    waiting: Rounds<Option<Waker>>,
}

/// A place among those that run; given back when dropped.
#[derive(Debug)]
pub struct Held(Arc<Line>);

/// The places that one run has: of its script, and of those that serve its name.
#[derive(Debug, Default)]
pub struct Places([Option<Held>; 2]);

/// The wait for a place, in order from the moment this was made. Dropped, it is over.
#[derive(Debug)]
pub struct Wait {
    /// `None` once there is a place.
    line: Option<Arc<Line>>,
    asker: Asker,
    number: u64,
}

impl Places {
    /// The same with one more.
    #[must_use]
    pub fn with(mut self, held: Held) -> Self {
        self.put(held);
        self
    }

    /// One more.
    pub fn put(&mut self, held: Held) {
        if let Some(free) = self.0.iter_mut().find(|place| place.is_none()) {
            *free = Some(held);
        }
    }

    /// A place of this line: the one that is here, or a free one.
    pub fn take(&mut self, line: &Arc<Line>) -> Option<Held> {
        let is_of = |place: &&mut Option<Held>| place.as_ref().is_some_and(|held| held.is_of(line));
        self.0.iter_mut().find(is_of).and_then(Option::take).or_else(|| line.try_take())
    }

    /// Whether there is one of this line.
    pub fn has(&self, line: &Arc<Line>) -> bool {
        self.0.iter().flatten().any(|held| held.is_of(line))
    }
}

impl Line {
    /// A line for `most` at once.
    pub fn new(most: usize) -> Self {
        Self(Mutex::new(State { most, taken: 0, waiting: Rounds::default() }))
    }

    /// From here on it is for so many; fewer count as those that run end.
    pub fn set(&self, most: usize) {
        self.state().most = most;
        while self.hand_over() {}
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.state().taken
    }

    /// Whether a place is free.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        state.taken < state.most
    }

    /// A place, if one is free and nobody waits for it.
    pub fn try_take(self: &Arc<Self>) -> Option<Held> {
        self.state().take().then(|| Held(Arc::clone(self)))
    }

    /// A place, or the wait for one.
    pub fn enter(self: &Arc<Self>, asker: &Asker) -> Result<Held, Wait> {
        let mut state = self.state();
        if state.take() {
            return Ok(Held(Arc::clone(self)));
        }
        let number = state.waiting.push(asker, None);
        Err(Wait { line: Some(Arc::clone(self)), asker: asker.clone(), number })
    }

    fn give_back(&self) {
        self.state().taken -= 1;
        self.hand_over();
    }

    /// Gives a free place to whoever is next. Nobody is woken under the lock.
    fn hand_over(&self) -> bool {
        let next = {
            let mut state = self.state();
            let next = if state.taken < state.most { state.waiting.pop() } else { None };
            state.taken += usize::from(next.is_some());
            next
        };
        if let Some(Some(waker)) = &next {
            waker.wake_by_ref();
        }
        next.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> bool {
        let is_free = self.taken < self.most;
        self.taken += usize::from(is_free);
        is_free
    }
}

impl Held {
    /// Whether it is a place of this line.
    pub fn is_of(&self, line: &Arc<Line>) -> bool {
        Arc::ptr_eq(&self.0, line)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Future for Wait {
    type Output = Held;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Held> {
        // Whoever polls it again when it is over waits for ever.
        let Some(line) = self.line.clone() else { return Poll::Pending };
        let mut state = line.state();
        let Some(waker) = state.waiting.get_mut(&self.asker, self.number) else {
            drop(state);
            self.line = None;
            return Poll::Ready(Held(line));
        };
        let old = waker.replace(context.waker().clone());
        drop(state);
        // Not under the lock: this may drop what it would have woken.
        drop(old);
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else { return };
        let waker = line.state().waiting.remove(&self.asker, self.number);
        if waker.is_none() {
            // It was given a place and has not looked.
            line.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_line_that_is_changed_holds_for_those_that_run_already() {
        let line = Arc::new(Line::new(3));
        let mut held: Vec<Held> = (0..3).map(|_| line.try_take().expect("free")).collect();
        assert!(line.try_take().is_none());
        line.set(1);
        held.truncate(1);
        assert!(line.try_take().is_none(), "one runs still");
        held.clear();
        held.push(line.try_take().expect("free"));
        assert!(line.try_take().is_none());
        line.set(2);
        held.push(line.try_take().expect("one more"));
        assert!(line.try_take().is_none());
        line.set(1);
        line.set(2);
        assert!(line.try_take().is_none(), "as before");
        let waits = line.enter(&None).expect_err("nothing is free");
        held.pop();
        assert!(line.try_take().is_none(), "who waits comes first");
        held.push(waits.now_or_never().expect("its turn"));
        assert!(held.iter().all(|held| held.is_of(&line)));
        let waits = [(); 2].map(|()| line.enter(&None).expect_err("nothing is free"));
        line.set(4);
        assert_eq!(waits.map(|wait| wait.now_or_never().is_some()), [true, true], "all that there is room for");
        held.clear();
        assert_eq!(line.taken(), 0);
    }

    #[test]
    fn places_go_round_the_askers_and_who_gives_up_holds_nobody_up() {
        let (line, a, b) = (Arc::new(Line::new(1)), Some("a".into()), Some("b".into()));
        let held = line.try_take().expect("free");
        let enter = |asker| line.enter(asker).expect_err("nothing is free");
        let [first, mut second, third] = [(); 3].map(|()| enter(&a));
        let of_b = enter(&b);
        assert!((&mut second).now_or_never().is_none());
        drop(held);
        // It gave up when it had been given a place, and the next in turn is another's.
        drop(first);
        let held = of_b.now_or_never().expect("its turn");
        drop(third);
        drop(held);
        let held = second.now_or_never().expect("its turn");
        assert_eq!(line.taken(), 1);
        drop(held);
        assert_eq!(line.taken(), 0);
    }
}
