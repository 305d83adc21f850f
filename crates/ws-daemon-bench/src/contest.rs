//! Several that are measured in turn: a slice of each in every round, so that whatever else the machine does falls on all alike.
//!
//! The first round warms up and is not kept.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::rounds::Schedule;
use crate::sample::{Pace, Sample};
use crate::system;

/// What can be measured in slices.
pub trait Measured {
    /// Works for about `length`.
    fn measure(&mut self, pace: Pace, length: Duration) -> Result<Sample>;
}

/// Who takes part, and what came of it.
#[derive(Default)]
pub struct Contest<'a> {
    entrants: Vec<Entrant<'a>>,
}

/// The place of one that takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(usize);

struct Entrant<'a> {
    name: &'a str,
    measured: Box<dyn Measured + 'a>,
    series: Vec<(Pace, Vec<Sample>)>,
}

impl<'a> Contest<'a> {
    /// One more, that is measured at these paces.
    pub fn enter(&mut self, name: &'a str, paces: &[Pace], measured: impl Measured + 'a) -> Place {
        let series = paces.iter().map(|pace| (*pace, Vec::new())).collect();
        self.entrants.push(Entrant { name, measured: Box::new(measured), series });
        Place(self.entrants.len() - 1)
    }

    /// All rounds.
    pub fn run(&mut self, what: &str, schedule: Schedule) -> Result<()> {
        for round in 0..=schedule.rounds {
            eprintln!("{what}, round {round} of {}", schedule.rounds);
            let length = if round == 0 { schedule.slice / 5 } else { schedule.slice };
            for Entrant { name, measured, series } in &mut self.entrants {
                for (pace, samples) in series {
                    system::check_stop()?;
                    let sample = measured.measure(*pace, length).with_context(|| format!("{name}, {pace:?}"))?;
                    if round > 0 {
                        samples.push(sample);
                    }
                }
            }
        }
        Ok(())
    }

    /// What one brought at a pace that it was entered with, a value a round.
    pub fn samples(&self, place: Place, pace: Pace) -> &[Sample] {
        let series = self.entrants[place.0].series.iter().find(|(other, _)| *other == pace);
        &series.expect("it was entered with this pace").1
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    struct Noted<'a>(char, &'a RefCell<String>);

    impl Measured for Noted<'_> {
        fn measure(&mut self, _: Pace, length: Duration) -> Result<Sample> {
            self.1.borrow_mut().push(self.0);
            Ok(Sample::of(&mut [length], length))
        }
    }

    #[test]
    fn each_has_a_slice_in_every_round_and_the_first_is_not_kept() {
        let notes = RefCell::new(String::new());
        let mut contest = Contest::default();
        let one = contest.enter("a", &[Pace::Flood], Noted('a', &notes));
        let two = contest.enter("b", &[Pace::Flood, Pace::OneByOne], Noted('b', &notes));
        let schedule = Schedule { rounds: 2, slice: Duration::from_millis(50) };
        contest.run("nothing", schedule).expect("no failure");
        assert_eq!(*notes.borrow(), "abbabbabb");
        for (place, pace) in [(one, Pace::Flood), (two, Pace::Flood), (two, Pace::OneByOne)] {
            let lengths: Vec<_> = contest.samples(place, pace).iter().map(|sample| sample.elapsed).collect();
            assert_eq!(lengths, [schedule.slice; 2]);
        }
    }
}
