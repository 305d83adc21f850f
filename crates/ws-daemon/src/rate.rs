//! How often something may happen: so many times a second, and so many at once when it was quiet before (GCRA). Pure: whoever asks
//! says what time it is and keeps the state. It never waits.

use std::time::{Duration, Instant};

/// A rate.
#[derive(Debug, Clone, Copy)]
pub struct Gcra {
    /// Between two events that come evenly.
    interval: Duration,
    /// How far ahead of that they may be.
    tolerance: Duration,
}

/// What is kept of one source of events.
#[derive(Debug, Clone, Copy, Default)]
pub struct GcraState {
    /// When the next event would come if all came evenly.
    due: Option<Instant>,
}

impl Gcra {
    /// So many events a second, and `burst` of them at once; at least one of each.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, tolerance: interval * (burst.max(1) - 1) }
    }

    /// Counts one event at `now`.
    ///
    /// # Errors
    /// It is one too many, and is not counted: how long to wait for the next.
    pub fn allow(&self, state: &mut GcraState, now: Instant) -> Result<(), Duration> {
        let due = state.due.map_or(now, |due| due.max(now));
        let ahead = due - now;
        match ahead.saturating_sub(self.tolerance) {
            Duration::ZERO => {
                state.due = Some(due + self.interval);
                Ok(())
            }
            wait => Err(wait),
        }
    }
}

impl GcraState {
    /// Whether it is as good as new: then it need not be kept.
    #[must_use]
    pub fn is_calm(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_is_kept() {
        let (gcra, mut state, start) = (Gcra::new(10, 5), GcraState::default(), Instant::now());
        assert!(state.is_calm(start));
        for _ in 0..5 {
            assert_eq!(gcra.allow(&mut state, start), Ok(()));
        }
        assert_eq!(gcra.allow(&mut state, start), Err(Duration::from_millis(100)));
        assert!(!state.is_calm(start));
        // What is refused costs nothing.
        assert_eq!(gcra.allow(&mut state, start), Err(Duration::from_millis(100)));
        let mut passed = 0;
        for ms in 0..1000 {
            passed += u32::from(gcra.allow(&mut state, start + Duration::from_millis(ms)).is_ok());
        }
        assert_eq!(passed, 9);
        assert!(state.is_calm(start + Duration::from_millis(1500)));
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused_and_a_clock_that_stands_still_refuses() {
        let (gcra, mut state, start) = (Gcra::new(1000, 1), GcraState::default(), Instant::now());
        for ms in 0..100 {
            assert_eq!(gcra.allow(&mut state, start + Duration::from_millis(ms)), Ok(()));
        }
        assert!(gcra.allow(&mut state, start).is_err());
        let (gcra, mut state) = (Gcra::new(0, 0), GcraState::default());
        assert_eq!(gcra.allow(&mut state, start), Ok(()));
        assert_eq!(gcra.allow(&mut state, start), Err(Duration::from_secs(1)));
    }
}
