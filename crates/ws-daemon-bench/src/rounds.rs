//! The order of measuring: rounds of short slices, one of each kind a round, so that
//! whatever else this machine does falls on all kinds alike.
//!
//! A ratio is taken within a round, between slices that lie seconds apart. The first
//! round warms up and is not kept.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::Bench;
use crate::compared::{self, Base};
use crate::contest::Measured;
use crate::figure::Figure;
use crate::fleet::Pair;
use crate::limit::{self, Spawning};
use crate::load::{Lane, Question};
use crate::part::Part;
use crate::program::Program;
use crate::sample::{Pace, Sample};
use crate::{machine, system};

/// The daemon whose local socket takes the requests; the other one does the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Server,
    Client,
}

/// How many slices, and how long each.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub rounds: usize,
    pub slice: Duration,
}

/// What one way of asking brought, a value a round.
pub struct Asked {
    pub question: Question,
    pub pace: Pace,
    pub samples: Vec<Sample>,
    pub costs: Vec<Cost>,
}

/// Processor time of one slice, children excluded.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub server: Duration,
    pub client: Duration,
    /// Our own: the load generator.
    pub generator: Duration,
}

/// What one way of spawning brought, a value a round.
pub struct Spawned {
    pub spawning: Spawning,
    pub samples: Vec<Sample>,
}

/// What the timed rounds brought.
#[derive(Default)]
struct Timed {
    spawned: Vec<Spawned>,
    asked: Vec<Asked>,
    /// The share of the machine's time that others took, a value a round.
    others: Vec<f64>,
}

/// Those of these parts that share their rounds; `others` gets the share of the machine's time that others took in each.
pub fn measure(bench: &mut Bench, parts: &[Part], others: &mut Vec<f64>) -> Result<Vec<Figure>> {
    let wants = |part| parts.contains(&part);
    let mut questions = Vec::new();
    if wants(Part::Runs) || wants(Part::Cpu) {
        questions.push(Question::Run);
    }
    if wants(Part::Runs) {
        questions.push(Question::Shell);
    }
    if wants(Part::Messages) {
        questions.extend([Question::Missing, Question::Notice]);
    }
    // Processor time is taken while runs are made, which are then shown only if they are wanted.
    let shown: Vec<Question> =
        questions.iter().copied().filter(|question| *question != Question::Run || wants(Part::Runs)).collect();

    let folder = tempfile::Builder::new().prefix("ws-daemon-bench-").tempdir()?;
    for program in Program::ALL {
        program.write(folder.path()).context("cannot write the programs")?;
    }
    let mut asking = if questions.is_empty() {
        None
    } else {
        let from = bench.from;
        Some(Asking::new(bench.daemon()?, from, &questions)?)
    };
    let spawnings = if wants(Part::Limit) { &Spawning::ALL[..] } else { &[] };
    let timed = run(bench.schedule, folder.path(), spawnings, asking.as_mut())?;
    let cores = limit::cores()?.len();
    let base = Base::of(&timed.spawned, cores);
    let mut figures = compared::limit_figures(&timed.spawned, &base, cores);
    figures.extend(compared::ask_figures(&timed.asked, &shown, &base));
    if wants(Part::Cpu) {
        figures.extend(compared::cpu_figures(&timed.asked, &base));
    }
    others.extend(timed.others);
    Ok(figures)
}

/// The timed rounds: these ways of spawning, and questions through a pair of daemons.
fn run(schedule: Schedule, folder: &Path, spawnings: &[Spawning], mut asking: Option<&mut Asking>) -> Result<Timed> {
    let mut timed = Timed::default();
    if spawnings.is_empty() && asking.is_none() {
        return Ok(timed);
    }
    eprintln!("warming up");
    let mut warm_up = Timed::default();
    warm_up.round(schedule.slice / 5, folder, spawnings, asking.as_deref_mut())?;
    for round in 1..=schedule.rounds {
        eprintln!("round {round} of {}", schedule.rounds);
        timed.round(schedule.slice, folder, spawnings, asking.as_deref_mut())?;
    }
    Ok(timed)
}

impl Timed {
    fn round(&mut self, slice: Duration, folder: &Path, spawnings: &[Spawning], asking: Option<&mut Asking>) -> Result<()> {
        self.others.push(machine::busy_share()?);
        for spawning in spawnings {
            let sample = spawning.measure(folder, slice)?;
            self.spawned_by(*spawning).samples.push(sample);
        }
        if let Some(asking) = asking {
            asking.round(slice, self)?;
        }
        Ok(())
    }

    fn spawned_by(&mut self, spawning: Spawning) -> &mut Spawned {
        let known = self.spawned.iter().position(|series| series.spawning == spawning);
        let place = known.unwrap_or_else(|| {
            self.spawned.push(Spawned { spawning, samples: Vec::new() });
            self.spawned.len() - 1
        });
        &mut self.spawned[place]
    }

    fn asked_by(&mut self, question: Question, pace: Pace) -> &mut Asked {
        let same = |series: &Asked| series.question == question && series.pace == pace;
        let known = self.asked.iter().position(same);
        let place = known.unwrap_or_else(|| {
            self.asked.push(Asked { question, pace, samples: Vec::new(), costs: Vec::new() });
            self.asked.len() - 1
        });
        &mut self.asked[place]
    }
}

/// A pair of daemons, and a lane a question.
struct Asking {
    pair: Pair,
    lanes: Vec<(Question, Lane)>,
}

impl Asking {
    fn new(binary: &Path, from: Side, questions: &[Question]) -> Result<Asking> {
        let mut pair = Pair::start(binary)?;
        let mut lanes = Vec::new();
        for question in questions {
            let (asker, doer) = match from {
                Side::Server => (&mut pair.server, &mut pair.client),
                Side::Client => (&mut pair.client, &mut pair.server),
            };
            let hear = match question {
                Question::Notice => Some(doer.connect_heard()?),
                _ => None,
            };
            lanes.push((*question, Lane::new(*question, asker.connect()?, hear)?));
        }
        Ok(Asking { pair, lanes })
    }

    fn round(&mut self, slice: Duration, timed: &mut Timed) -> Result<()> {
        for (question, lane) in &mut self.lanes {
            for pace in [Pace::OneByOne, Pace::Flood] {
                let before = cost_so_far(&self.pair)?;
                let sample =
                    lane.measure(pace, slice).with_context(|| format!("{}{question:?}, {pace:?}", self.pair.last_words()))?;
                let cost = cost_so_far(&self.pair)?.since(before);
                let series = timed.asked_by(*question, pace);
                series.samples.push(sample);
                series.costs.push(cost);
            }
        }
        Ok(())
    }
}

impl Cost {
    pub fn daemons(self) -> Duration {
        self.server + self.client
    }

    fn since(self, before: Cost) -> Cost {
        Cost {
            server: self.server.saturating_sub(before.server),
            client: self.client.saturating_sub(before.client),
            generator: self.generator.saturating_sub(before.generator),
        }
    }
}

fn cost_so_far(pair: &Pair) -> Result<Cost> {
    let of = |pid| system::cpu_time(pid).context("no CPU clock: a daemon has ended");
    Ok(Cost { server: of(pair.server.pid())?, client: of(pair.client.pid())?, generator: of(rustix::process::getpid())? })
}
