//! How often something may happen: the generic cell rate algorithm, one instant of state for each that is counted. Pure: it reads no
//! clock and never waits.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// A rate with a burst. Whoever was idle for long enough may do the whole burst at once, and from then on one each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    /// What each one costs.
    interval: Duration,
    /// How far ahead of its time something may be.
    ahead: Duration,
}

/// What is known of one that is counted: when it would be idle again. The default has never done anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcraState(Option<Instant>);

impl GcraState {
    /// Whether it is as good as new: then it need not be kept.
    #[must_use]
    pub fn is_calm(&self, now: Instant) -> bool {
        self.0.is_none_or(|idle| idle <= now)
    }
}

impl Gcra {
    /// `per_second` in the long run, `burst` at once. Zero of either means one.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = SECOND / per_second.max(1);
        Self { interval, ahead: interval.saturating_mul(burst.max(1) - 1) }
    }

    /// Whether one more may happen now, and counts it if so.
    ///
    /// # Errors
    /// How long to wait until one more may happen; nothing was counted.
    pub fn allow(&self, state: &mut GcraState, now: Instant) -> Result<(), Duration> {
        self.check(state, now)?;
        let idle = state.0.map_or(now, |idle| idle.max(now));
        // Only a burst of ages would not fit; then the last one counts for less.
        state.0 = Some(idle.checked_add(self.interval).unwrap_or(idle));
        Ok(())
    }

    /// Whether one more could happen now; counts nothing.
    ///
    /// # Errors
    /// As [`allow`](Self::allow).
    pub fn check(&self, state: &GcraState, now: Instant) -> Result<(), Duration> {
        let owed = state.0.map_or(Duration::ZERO, |idle| idle.saturating_duration_since(now));
        owed.checked_sub(self.ahead).filter(|wait| !wait.is_zero()).map_or(Ok(()), Err)
    }
}

/// Lets a line of the log through at most once an interval, and counts those that it stands for.
#[derive(Debug)]
pub struct Seldom {
    rate: Gcra,
    state: GcraState,
    since: u64,
}

impl Default for Seldom {
    /// Once a second.
    fn default() -> Self {
        Self { rate: Gcra::new(1, 1), state: GcraState::default(), since: 0 }
    }
}

impl Seldom {
    /// One more: how many there were since the last line, this one with them, if it is time for one.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        self.rate.allow(&mut self.state, now).is_ok().then(|| std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many of 1,000 that come at once are allowed.
    fn at_once(rate: &Gcra, state: &mut GcraState, now: Instant) -> usize {
        (0..1000).filter(|_| rate.allow(state, now).is_ok()).count()
    }

    #[test]
    fn a_burst_at_once_then_one_an_interval() {
        let (rate, mut state, start) = (Gcra::new(10, 5), GcraState::default(), Instant::now());
        assert_eq!(at_once(&rate, &mut state, start), 5);
        assert_eq!(rate.allow(&mut state, start), Err(100 * MS));
        assert_eq!(rate.allow(&mut state, start + 99 * MS), Err(MS));
        assert_eq!(rate.allow(&mut state, start + 100 * MS), Ok(()));
        assert_eq!(rate.allow(&mut state, start + 100 * MS), Err(100 * MS));
        assert_eq!(at_once(&rate, &mut state, start + 400 * MS), 3, "what was not used is there later");
    }

    #[test]
    fn in_the_long_run_it_is_the_rate_and_no_more() {
        let (rate, mut state, start) = (Gcra::new(200, 20), GcraState::default(), Instant::now());
        let allowed = (0..10_000).filter(|ms| rate.allow(&mut state, start + *ms * MS).is_ok()).count();
        assert!((2000 + 19..=2000 + 20).contains(&allowed), "{allowed} in ten seconds of 200 each");
    }

    #[test]
    fn what_is_calm_need_not_be_kept() {
        let (rate, mut state, start) = (Gcra::new(10, 5), GcraState::default(), Instant::now());
        assert!(state.is_calm(start));
        assert_eq!(rate.allow(&mut state, start), Ok(()));
        assert!(!state.is_calm(start) && state.is_calm(start + Duration::from_millis(100)));
    }

    #[test]
    fn being_idle_for_ages_saves_up_one_burst_only() {
        let (rate, mut state, start) = (Gcra::new(1, 3), GcraState::default(), Instant::now());
        assert_eq!(at_once(&rate, &mut state, start), 3);
        assert_eq!(at_once(&rate, &mut state, start + Duration::from_hours(24 * 365)), 3);
    }

    #[test]
    fn looking_costs_nothing_and_what_is_refused_neither() {
        let (rate, mut state, start) = (Gcra::new(1, 2), GcraState::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(rate.check(&state, start), Ok(()));
        }
        assert_eq!(at_once(&rate, &mut state, start), 2);
        let spent = state;
        assert_eq!(rate.check(&state, start), Err(Duration::from_secs(1)));
        assert_eq!(rate.allow(&mut state, start), Err(Duration::from_secs(1)));
        assert_eq!(state, spent);
    }

    #[test]
    fn the_ends_of_the_numbers_and_a_clock_that_stands_are_no_trouble() {
        let now = Instant::now();
        let mut state = GcraState::default();
        assert_eq!(at_once(&Gcra::new(0, 0), &mut state, now), 1);
        assert_eq!(at_once(&Gcra::new(u32::MAX, u32::MAX), &mut GcraState::default(), now), 1000);
        assert_eq!(at_once(&Gcra::new(1, u32::MAX), &mut GcraState::default(), now), 1000);
        assert!(Gcra::new(1, 1).check(&state, now.checked_sub(MS).unwrap_or(now)).is_err(), "an earlier time gives nothing");
    }

    #[test]
    fn a_line_stands_for_all_since_the_last() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.count(start), Some(1));
        assert_eq!((1..=3).find_map(|ms| seldom.count(start + ms * MS)), None);
        assert_eq!(seldom.count(start + 1000 * MS), Some(4));
    }
}
