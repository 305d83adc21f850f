//! The line before one script, where its contract says how many of it may run at once. It never starts or stops a run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The line. It outlives changes of the contract: whoever runs by an older one still counts.
#[derive(Debug)]
pub struct Line {
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    most: usize,
    /// Places that are taken and not to be given again.
    owed: usize,
}

/// A place among those that run; given back when dropped.
#[derive(Debug)]
pub struct Held {
    line: Arc<Line>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Line {
    /// A line for `most` at once.
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(most)), state: Mutex::new(State { most, owed: 0 }) }
    }

    /// From here on it is for so many; fewer count as those that run end.
    pub fn set(&self, most: usize) {
        let most = most.min(Semaphore::MAX_PERMITS);
        let mut state = self.state();
        if most >= state.most {
            let more = most - state.most;
            let paid = state.owed.min(more);
            state.owed -= paid;
            self.places.add_permits(more - paid);
        } else {
            let fewer = state.most - most;
            state.owed += fewer - self.places.forget_permits(fewer);
        }
        state.most = most;
    }

    /// A place, if one is free and nobody waits for it.
    pub fn try_take(self: &Arc<Self>) -> Option<Held> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Held { line: Arc::clone(self), permit: Some(permit) })
    }

    /// Waits for a place, in order.
    pub async fn take(self: Arc<Self>) -> Result<Held, AcquireError> {
        let permit = Arc::clone(&self.places).acquire_owned().await?;
        Ok(Held { line: self, permit: Some(permit) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether it is a place of this line.
    pub fn is_of(&self, line: &Arc<Line>) -> bool {
        Arc::ptr_eq(&self.line, line)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.line.state();
        if state.owed > 0 {
            state.owed -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
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
        assert!(line.try_take().is_none(), "what was owed is paid");
        let mut waits = Box::pin(Arc::clone(&line).take());
        assert!(waits.as_mut().now_or_never().is_none());
        held.pop();
        assert!(line.try_take().is_none(), "who waits comes first");
        assert!(waits.now_or_never().expect("its turn").expect("open").is_of(&line));
    }
}
