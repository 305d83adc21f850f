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
    /// The time within which 99 of 100 were done.
    pub p99: Duration,
}

impl Sample {
    /// Of at least one time, in any order.
    pub fn of(times: &mut [Duration], elapsed: Duration) -> Sample {
        let (median, p99) = (median(times), p99(times));
        Sample { done: times.len() as u64, elapsed, median, p99 }
    }

    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    pub fn median_micros(&self) -> f64 {
        micros(self.median)
    }
}

/// How many a second, a value a slice.
pub fn rates(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(Sample::per_second).collect()
}

/// The medians in microseconds, a value a slice.
pub fn times(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(Sample::median_micros).collect()
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The middle one (the upper of two); of at least one value.
pub fn median(times: &mut [Duration]) -> Duration {
    let middle = times.len() / 2;
    *times.select_nth_unstable(middle).1
}

/// The one that 99 of 100 do not exceed; of at least one value.
pub fn p99(times: &mut [Duration]) -> Duration {
    let place = (times.len() * 99).div_ceil(100) - 1;
    *times.select_nth_unstable(place).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_end_of_many() {
        let mut times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let sample = Sample::of(&mut times, Duration::from_secs(2));
        assert_eq!([sample.median, sample.p99], [101, 198].map(Duration::from_millis));
        assert_eq!(sample.done, 200);
        assert!((sample.per_second() - 100.0).abs() < 1e-9, "{sample:?}");
        assert_eq!(p99(&mut [Duration::ZERO]), Duration::ZERO);
    }
}
