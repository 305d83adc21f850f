//! The spool's clock: it counts while the daemon runs and while it does not, and no change of the wall clock moves it. It never
//! says what time it is.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Where the wall time comes from, in ms since 1970.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The longest time between two lives of the daemon that is believed; what is said to be longer counts as none.
const LONGEST_DOWNTIME_MS: i64 = 31 * 24 * 60 * 60 * 1000;

/// The wall clock of the system.
pub fn system_wall_clock() -> WallClock {
    Arc::new(|| match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    })
}

/// Both clocks.
pub struct Clock {
    wall: WallClock,
    /// What this clock said when the steady one said `steady_then`.
    then: i64,
    steady_then: i64,
}

impl Clock {
    /// Goes on from what was saved: the time of this clock, and the wall time beside it.
    pub fn resume(saved_ms: i64, saved_wall_ms: i64, wall: WallClock) -> Self {
        let downtime = wall().saturating_sub(saved_wall_ms);
        let believed = if (0..=LONGEST_DOWNTIME_MS).contains(&downtime) { downtime } else { 0 };
        Self { wall, then: saved_ms.saturating_add(believed), steady_then: steady_ms() }
    }

    /// On this clock.
    pub fn now_ms(&self) -> i64 {
        self.then.saturating_add(steady_ms() - self.steady_then)
    }

    /// On the wall's.
    pub fn wall_ms(&self) -> i64 {
        (self.wall)()
    }
}

/// Ms since the machine was started, its sleep included where the system counts that.
fn steady_ms() -> i64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_believable_downtime_is_added() {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        let cases = [(0, 0), (5, 5), (31 * DAY, 31 * DAY), (31 * DAY + 1, 0), (-1, 0), (3650 * DAY, 0), (-3650 * DAY, 0)];
        for (passed, added) in cases {
            let clock = Clock::resume(1000, 1_700_000_000_000, Arc::new(move || 1_700_000_000_000 + passed));
            let now = clock.now_ms();
            assert!((1000 + added..1000 + added + 60_000).contains(&now), "{passed} ms passed, and it says {now}");
        }
    }
}
