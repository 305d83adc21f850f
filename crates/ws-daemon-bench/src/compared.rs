//! The shared rounds as figures: spawns, runs, messages and processor time, and what each is compared with.

use crate::figure::{Figure, Spread, Unit};
use crate::limit::{Method, Placement, Spawning};
use crate::load::{IN_FLIGHT, Question};
use crate::program::Program;
use crate::rounds::{Asked, Cost, Spawned};
use crate::sample::{Pace, micros, rates, times};
use crate::targets;

const CORE_TIME: &str = "a spawn's core time";

/// The rates and times that others are compared with, a value a round.
#[derive(Default)]
pub struct Base {
    of: Vec<(Program, Limit)>,
    /// Microseconds of all cores together that one run costs at the fastest.
    core_time: Option<Vec<f64>>,
}

#[derive(Default)]
struct Limit {
    rate: Option<Vec<f64>>,
    one: Option<Vec<f64>>,
}

impl Base {
    pub fn of(spawned: &[Spawned], cores: usize) -> Base {
        let of = Program::ALL.map(|program| (program, Limit::of(program, spawned)));
        let rate = of.iter().find(|(program, _)| *program == Program::Minimal).and_then(|(_, limit)| limit.rate.as_ref());
        let core_time = rate.map(|rates| rates.iter().map(|rate| 1e6 * cores as f64 / rate).collect());
        Base { of: of.into(), core_time }
    }

    fn limit(&self, program: Program) -> Option<&Limit> {
        self.of.iter().find(|(other, _)| *other == program).map(|(_, limit)| limit)
    }

    fn rate(&self, program: Program) -> Option<&[f64]> {
        self.limit(program)?.rate.as_deref()
    }

    fn one(&self, program: Program) -> Option<&[f64]> {
        self.limit(program)?.one.as_deref()
    }
}

impl Limit {
    /// The rate is of whichever placement is the faster, in the median.
    fn of(program: Program, spawned: &[Spawned]) -> Limit {
        let find = |placement, pace| {
            let wanted = Spawning::new(program, Method::Fastest, placement, pace);
            spawned.iter().find(|series| series.spawning == wanted).map(|series| &series.samples)
        };
        let placed = [Placement::Pinned, Placement::Free].map(|placement| find(placement, Pace::Flood));
        let rate = placed.into_iter().flatten().map(|samples| rates(samples)).max_by(|one, other| {
            let [one, other] = [one, other].map(|rates| Spread::of(rates).median);
            one.total_cmp(&other)
        });
        Limit { rate, one: find(Placement::Free, Pace::OneByOne).map(|samples| times(samples)) }
    }
}

/// What the rate of a program's runs is compared with.
const fn fastest(program: Program) -> &'static str {
    match program {
        Program::Minimal => "fastest spawn",
        Program::Shell => "fastest spawn of sh",
    }
}

/// What the time of one is compared with.
const fn one(program: Program) -> &'static str {
    match program {
        Program::Minimal => "one spawn",
        Program::Shell => "one spawn of sh",
    }
}

pub fn limit_figures(spawned: &[Spawned], base: &Base, cores: usize) -> Vec<Figure> {
    let threads = if cores == 1 { "1 thread".to_owned() } else { format!("{cores} threads") };
    let figure = |series: &Spawned| {
        let Spawning { program, method, placement, pace } = series.spawning;
        let method = match method {
            Method::Fastest => "spawn",
            Method::PosixSpawn => "posix_spawn",
        };
        let of = match program {
            Program::Minimal => "",
            Program::Shell => " of sh",
        };
        let placement = match placement {
            Placement::Free => "",
            Placement::Pinned => ", pinned",
        };
        match pace {
            Pace::Flood => {
                let name = format!("{method}{of}, {threads}{placement}");
                Figure::new("limit", name, Unit::PerSecond, rates(&series.samples))
                    .against(fastest(program), base.rate(program))
            }
            Pace::OneByOne => {
                let name = format!("one {method}{of}{placement}");
                Figure::new("limit", name, Unit::Microseconds, times(&series.samples)).against(one(program), base.one(program))
            }
        }
    };
    spawned.iter().map(figure).collect()
}

/// Of these questions.
pub fn ask_figures(asked: &[Asked], questions: &[Question], base: &Base) -> Vec<Figure> {
    let figure = |series: &Asked| {
        let (part, what, program) = match series.question {
            Question::Shell => ("runs", "run of sh", Program::Shell),
            Question::Missing => ("messages", "there and back (not_found)", Program::Minimal),
            Question::Notice => ("messages", "there (STATUS)", Program::Minimal),
            _ => ("runs", "run", Program::Minimal),
        };
        match series.pace {
            Pace::Flood => {
                let name = format!("{what}, {IN_FLIGHT} in flight");
                let figure = Figure::new(part, name, Unit::PerSecond, rates(&series.samples));
                let figure = figure.against(fastest(program), base.rate(program));
                match series.question {
                    Question::Run => figure.ratio_must_reach(targets::RUNS),
                    Question::Shell => figure.ratio_must_reach(targets::SHELL_RUNS),
                    _ => figure,
                }
            }
            Pace::OneByOne => {
                let name = format!("{what}, one at a time");
                let figure = Figure::new(part, name, Unit::Microseconds, times(&series.samples));
                let figure = figure.against(one(program), base.one(program));
                if series.question == Question::Run { figure.ratio_must_reach(targets::ONE_RUN) } else { figure }
            }
        }
    };
    asked.iter().filter(|series| questions.contains(&series.question)).map(figure).collect()
}

/// Of runs of the minimal program.
pub fn cpu_figures(asked: &[Asked], base: &Base) -> Vec<Figure> {
    let mut figures = Vec::new();
    for series in asked.iter().filter(|series| series.question == Question::Run) {
        let pace = match series.pace {
            Pace::Flood => format!("{IN_FLIGHT} in flight"),
            Pace::OneByOne => "one at a time".to_owned(),
        };
        let of = |who: &str, share: fn(Cost) -> std::time::Duration| {
            let costs = series.costs.iter().zip(&series.samples);
            let rounds = costs.map(|(cost, sample)| micros(share(*cost)) / sample.done as f64).collect();
            Figure::new("cpu", format!("{who}, {pace}"), Unit::Microseconds, rounds)
        };
        let both = of("both daemons", Cost::daemons);
        figures.push(if series.pace == Pace::Flood { both.must_reach(targets::CORE_TIME_MICROS) } else { both });
        let mut push = |who: &str, share: fn(Cost) -> std::time::Duration| {
            figures.push(of(who, share).against(CORE_TIME, base.core_time.as_deref()));
        };
        push("server", |cost| cost.server);
        push("client", |cost| cost.client);
        push("load generator", |cost| cost.generator);
    }
    figures
}
