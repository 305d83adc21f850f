//! `ws-daemon-bench`: what ws-daemon costs, beside what the machine itself can do.
//!
//! One call measures, in alternating rounds of short slices: the fastest spawn with
//! capture that this machine allows ([`limit`]), runs and messages through a real server
//! and a real client daemon ([`rounds`], [`load`], [`fleet`]) with the processor time
//! they take, requests put on disk ([`durable`]), output as it arrives ([`streaming`]), one
//! request for everyone ([`fanout`], [`stand_ins`]), and a server's memory under idle links
//! ([`memory`], [`links`]). It prints a table with ratios and targets and writes the same as JSON ([`report`]).
//!
//! It needs Linux, and treats the daemon as a black box. It is no test: a missed target
//! is printed, and fails nothing; only what is wrong does (a false answer, a dead daemon).

#![deny(unsafe_code)]
#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::many_single_char_names,
    clippy::print_stdout,
    reason = "a program that measures: figures are shown to three places, slices are slept through, and it stops at what is wrong"
)]

mod binary;
mod durable;
mod fanout;
mod figure;
mod fleet;
mod limit;
mod links;
mod load;
mod machine;
mod memory;
mod program;
mod report;
mod rounds;
mod sample;
mod stand_ins;
mod streaming;
mod system;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::limit::Spawning;
use crate::load::{IN_FLIGHT, Question};
use crate::machine::Machine;
use crate::report::{Base, Report, Settings};
use crate::rounds::{Asking, Schedule, Side, Timed};

/// Measures ws-daemon against the machine's own limit.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What to measure; all of it if none is named. Ratios need `limit` in the same call.
    parts: Vec<Part>,
    /// A short form: fewer, shorter rounds, no more than 1,000 links, and 200 peers.
    #[arg(long)]
    quick: bool,
    /// Whose local socket takes the requests; the other daemon does the work. Output and fan-out are always asked for at the server.
    #[arg(long, value_name = "SIDE", default_value = "server")]
    from: Side,
    /// Rounds that are kept [default: 5, with --quick 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// The length of a slice, in milliseconds [default: 1000, with --quick 250].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..))]
    slice: Option<u64>,
    /// The daemon's binary [default: what cargo builds, or the one beside this program].
    #[arg(long, value_name = "PATH")]
    daemon: Option<PathBuf>,
    /// Where the JSON goes [default: bench.json in the folder above this program's].
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The fastest spawn with capture, and plain posix_spawn.
    Limit,
    /// Runs of the minimal program through two daemons.
    Runs,
    /// Messages through two daemons that make no run.
    Messages,
    /// Processor time that the two daemons take a run.
    Cpu,
    /// Requests put on disk by the spool, beside a bare loop of the same statements.
    Durable,
    /// Output of a script that arrives, beside the same relayed by bare threads.
    Streaming,
    /// One request to 1,000 peers, beside the same frames without a daemon.
    Fanout,
    /// Resident memory of a server, with 0, 1,000 and 10,000 idle links.
    Memory,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ws-daemon-bench: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    system::heed_stop_signals();
    let cores = limit::cores()?.len();
    let schedule = arguments.schedule();
    let json = arguments.json_path()?;
    let daemon = arguments.daemon()?;

    let timed = run_rounds(arguments, schedule, daemon.as_deref())?;
    let base = Base::of(&timed.spawned, cores);
    let mut figures = report::limit_figures(&timed.spawned, &base, cores);
    figures.extend(report::ask_figures(&timed.asked, &arguments.shown_questions(), &base));
    if arguments.wants(Part::Cpu) {
        figures.extend(report::cpu_figures(&timed.asked, &base));
    }
    if arguments.wants(Part::Durable) {
        figures.extend(report::durable_figures(&durable::run(schedule)?));
    }
    if let Some(daemon) = daemon.as_deref().filter(|_| arguments.wants(Part::Streaming)) {
        figures.extend(report::streaming_figures(&streaming::run(schedule, daemon)?));
    }
    if let Some(daemon) = daemon.as_deref().filter(|_| arguments.wants(Part::Fanout)) {
        let peers = if arguments.quick { 200 } else { 1000 };
        figures.extend(report::fanout_figures(&fanout::run(schedule, daemon, peers)?));
    }
    if let Some(daemon) = daemon.filter(|_| arguments.wants(Part::Memory)) {
        let levels = if arguments.quick { &[0, 1000][..] } else { &[0, 1000, 10_000] };
        let rounds = rounds::run_memory(schedule.memory_rounds(), &daemon, levels)?;
        figures.extend(report::memory_figures(&rounds, levels));
    }

    let settings =
        Settings { from: arguments.from, rounds: schedule.rounds, slice_ms: schedule.slice.as_millis(), in_flight: IN_FLIGHT };
    let report = Report::new(Machine::this(cores), settings, &timed.others, figures);
    println!("{report}");
    report.write_json(&json)?;
    println!("written to {}", json.display());
    Ok(())
}

/// The timed parts; the daemons that they need are gone when this returns.
fn run_rounds(arguments: &Arguments, schedule: Schedule, daemon: Option<&Path>) -> Result<Timed> {
    let folder = tempfile::Builder::new().prefix("ws-daemon-bench-").tempdir()?;
    let program = folder.path().join(fleet::SCRIPT);
    program::write(&program).context("cannot write the minimal program")?;

    let questions = arguments.questions();
    let mut asking = match daemon.filter(|_| !questions.is_empty()) {
        Some(daemon) => Some(Asking::new(daemon, arguments.from, &questions)?),
        None => None,
    };
    let spawnings = if arguments.wants(Part::Limit) { &Spawning::ALL[..] } else { &[] };
    rounds::run(schedule, &program, spawnings, asking.as_mut())
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// What is to be asked of the daemons; processor time is taken while runs are made.
    fn questions(&self) -> Vec<Question> {
        let mut questions = Vec::new();
        if self.wants(Part::Runs) || self.wants(Part::Cpu) {
            questions.push(Question::Run);
        }
        if self.wants(Part::Messages) {
            questions.extend([Question::Missing, Question::Notice]);
        }
        questions
    }

    /// Those whose own figures are wanted.
    fn shown_questions(&self) -> Vec<Question> {
        let mut questions = self.questions();
        questions.retain(|question| *question != Question::Run || self.wants(Part::Runs));
        questions
    }

    /// The daemon's binary, if a part needs one.
    fn daemon(&self) -> Result<Option<PathBuf>> {
        let parts = [Part::Streaming, Part::Fanout, Part::Memory];
        if self.questions().is_empty() && !parts.into_iter().any(|part| self.wants(part)) {
            return Ok(None);
        }
        binary::find(self.daemon.as_deref()).map(Some)
    }

    fn schedule(&self) -> Schedule {
        let (rounds, slice) = if self.quick { (3, 250) } else { (5, 1000) };
        Schedule { rounds: self.rounds.map_or(rounds, usize::from), slice: Duration::from_millis(self.slice.unwrap_or(slice)) }
    }

    /// `target/release/ws-daemon-bench` writes `target/bench.json`, wherever it is called.
    fn json_path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.json {
            return Ok(path.clone());
        }
        let own = env::current_exe().context("cannot tell where this program is")?;
        let target = own.ancestors().nth(2).context("this program lies in no folder")?;
        Ok(target.join("bench.json"))
    }
}
