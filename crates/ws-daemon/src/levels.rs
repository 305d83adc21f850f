//! What is logged now: as the settings say, or something else for a while or until the end; and how much of it found no room. It writes
//! nothing, and knows no form.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::LogFilter;

/// Who can change what is logged. Clones are the same.
#[derive(Debug, Clone)]
pub struct Levels(Arc<Inner>);

/// The part of a subscriber that goes by it.
pub type Gate = reload::Layer<EnvFilter, Registry>;

#[derive(Debug)]
struct Inner {
    gate: reload::Handle<EnvFilter, Registry>,
    state: Mutex<State>,
    /// There is another deadline.
    changed: Notify,
    /// Lines that found no room.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// What the settings say.
    usual: LogFilter,
    now: LogFilter,
    /// When it is the usual again.
    until: Option<Instant>,
}

/// What is logged now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// By this filter.
    pub now: LogFilter,
    /// By this one otherwise.
    pub usual: LogFilter,
    /// For so long; `None`: until it is changed.
    pub left: Option<Duration>,
}

impl Levels {
    /// Begins with what the settings say; the gate belongs into the subscriber.
    #[must_use]
    pub fn new(usual: &LogFilter) -> (Self, Gate) {
        let (gate, handle) = reload::Layer::new(usual.filter());
        let state = State { usual: usual.clone(), now: usual.clone(), until: None };
        (
            Self(Arc::new(Inner {
                gate: handle,
                state: Mutex::new(state),
                changed: Notify::new(),
                dropped: AtomicU64::new(0),
            })),
            gate,
        )
    }

    /// From now on by `filter`, or by the usual one; with `within` only for so long.
    pub fn set(&self, filter: Option<LogFilter>, within: Option<Duration>) {
        let mut state = self.state();
        let until = filter.as_ref().and(within).map(|within| Instant::now() + within);
        let now = filter.unwrap_or_else(|| state.usual.clone());
        self.apply(&mut state, now, until);
    }

    /// The settings say something else. What was asked for at run time is over.
    pub fn set_usual(&self, usual: LogFilter) {
        let mut state = self.state();
        if state.usual != usual {
            state.usual = usual.clone();
            self.apply(&mut state, usual, None);
        }
    }

    /// What is logged now.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let state = self.state();
        let left = state.until.map(|until| until.saturating_duration_since(Instant::now()));
        Shown { now: state.now.clone(), usual: state.usual.clone(), left }
    }

    /// A line found no room.
    pub fn drop_line(&self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many lines found no room since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Goes back to the usual when it is time, until `close`.
    pub async fn keep(self, close: CancellationToken) {
        loop {
            let until = self.state().until;
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => self.back(),
                () = self.0.changed.notified() => {}
                () = close.cancelled() => return,
            }
        }
    }

    /// Unless the deadline has been moved meanwhile.
    fn back(&self) {
        let mut state = self.state();
        if state.until.is_some_and(|until| until <= Instant::now()) {
            let usual = state.usual.clone();
            self.apply(&mut state, usual, None);
        }
    }

    fn apply(&self, state: &mut State, now: LogFilter, until: Option<Instant>) {
        // Said both before and after: one of the two may let nothing through.
        info!(filter = now.as_str(), "the log goes by another filter from here on");
        if self.0.gate.reload(now.filter()).is_ok() {
            info!(filter = now.as_str(), "the log goes by this filter");
        }
        (state.now, state.until) = (now, until);
        self.0.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves it whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> LogFilter {
        LogFilter::parse(text).expect("the tests hold filters")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_for_a_while_ends_by_itself_and_the_last_word_holds() {
        let (levels, _gate) = Levels::new(&filter("warn"));
        let close = CancellationToken::new();
        let keeping = levels.clone().keep(close.clone());
        let steps = async {
            let now = || levels.shown().now.as_str().to_owned();
            let seconds = Duration::from_secs;
            levels.set(Some(filter("trace")), Some(seconds(10)));
            tokio::time::sleep(seconds(9)).await;
            assert_eq!((now(), levels.shown().left), ("trace".into(), Some(seconds(1))));
            // Another word moves the deadline.
            levels.set(Some(filter("debug")), Some(seconds(10)));
            tokio::time::sleep(seconds(9)).await;
            assert_eq!(now(), "debug");
            tokio::time::sleep(seconds(2)).await;
            assert_eq!((now(), levels.shown().left), ("warn".into(), None));
            // For good, until the settings say something else; the same again is nothing else.
            levels.set(Some(filter("off")), None);
            tokio::time::sleep(seconds(1000)).await;
            levels.set_usual(filter("warn"));
            assert_eq!(now(), "off");
            levels.set_usual(filter("error"));
            assert_eq!(levels.shown(), Shown { now: filter("error"), usual: filter("error"), left: None });
            levels.set(Some(filter("debug")), None);
            levels.set(None, Some(seconds(1)));
            assert_eq!(levels.shown().now, filter("error"));
            close.cancel();
        };
        tokio::join!(keeping, steps);
    }
}
