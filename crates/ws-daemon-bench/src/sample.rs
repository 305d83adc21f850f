//! What one slice of measuring yields, and how slices are told apart.
//!
//! Values only: nothing is measured or printed here.

use std::time::Duration;

/// How work is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// The next when the last has ended: for the time that one takes.
    OneByOne,
    /// Many at once, as many as bring the most: for the rate.
    Flood,
}

/// One slice.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub done: u64,
    pub elapsed: Duration,
    /// The time of one, from its start to its end, in the middle of all.
    pub median: Duration,
}

impl Sample {
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    pub fn median_micros(&self) -> f64 {
        micros(self.median)
    }
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The middle one (the upper of two); of at least one value.
pub fn median(times: &mut [Duration]) -> Duration {
    let middle = times.len() / 2;
    *times.select_nth_unstable(middle).1
}
