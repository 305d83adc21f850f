//! `ws-daemon-bench`: what ws-daemon costs, beside what the machine itself can do and beside what a user would pick in its place.
//!
//! One call measures, in alternating rounds of short slices, each [`part`] that was asked for: runs and messages through a real
//! server and a real client daemon beside the fastest spawn that this machine allows ([`limit`], [`rounds`], [`load`],
//! [`fleet`]); round trips, worker calls and queued requests beside the least that must happen and beside [`peers`]; what links
//! take that are idle, and that come back all at once ([`idle`], [`storm`]); and whether many of anything make one dearer
//! ([`scale`]). It prints a table with ratios and [`targets`], and writes the same as JSON ([`report`]).
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

mod bench;
mod binary;
mod child;
mod compared;
mod contest;
mod crowd;
mod durable;
mod echo;
mod fanout;
mod figure;
mod fleet;
mod idle;
mod limit;
mod links;
mod load;
mod machine;
mod many;
mod memory;
mod part;
mod peers;
mod program;
mod queue;
mod report;
mod room;
mod round_trips;
mod rounds;
mod sample;
mod scale;
mod serving;
mod stand_ins;
mod storm;
mod streaming;
mod system;
mod targets;
mod throng;

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::bench::Bench;
use crate::crowd::{Crowd, Dialect, Way};
use crate::load::IN_FLIGHT;
use crate::machine::Machine;
use crate::part::Part;
use crate::peers::Peers;
use crate::report::{Report, Settings};
use crate::rounds::{Schedule, Side};

/// Measures ws-daemon against the machine's own limit, and beside the programs of others.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What to measure; all of it if none is named.
    parts: Vec<Part>,
    /// A short form: fewer, shorter rounds, and a tenth of everything that is many.
    #[arg(long)]
    quick: bool,
    /// Installs the programs of others that are missing, by name: Debian packages as root, NATS into the folder of what is built.
    #[arg(long)]
    install: bool,
    /// Whose local socket takes the requests for runs and messages; the other daemon does the work.
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
    /// Measures nothing, but holds links to this server as its stdin says: so one of us starts others that hold what it cannot.
    #[arg(long, value_name = "SERVER", hide = true)]
    hold: Option<SocketAddr>,
    /// The number of the first of these links.
    #[arg(long, value_name = "NUMBER", hide = true, default_value_t = 0)]
    first: usize,
}

fn main() -> ExitCode {
    match measure(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("ws-daemon-bench: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every part that was begun was also ended.
fn measure(arguments: Arguments) -> Result<bool> {
    if let Some(server) = arguments.hold {
        let way = Way { first: arguments.first, ..Way::plain(server, Dialect::Version2) };
        throng::obey(Crowd::new(way)?, io::stdin().lock(), io::stdout())?;
        return Ok(true);
    }
    system::heed_stop_signals();
    let cores = limit::cores()?.len();
    let target = target_folder()?;
    let json = arguments.json.clone().unwrap_or_else(|| target.join("bench.json"));
    let schedule = arguments.schedule();
    let settings =
        Settings { from: arguments.from, rounds: schedule.rounds, slice_ms: schedule.slice.as_millis(), in_flight: IN_FLIGHT };
    let peers = Peers::new(arguments.install, target);
    let mut bench = Bench::new(schedule, arguments.quick, arguments.from, arguments.daemon, peers);
    let found = part::measure(&mut bench, &arguments.parts)?;
    let whole = found.failed.is_empty();
    let report = Report::new(Machine::this(cores), settings, found);
    println!("{report}");
    report.write_json(&json)?;
    println!("written to {}", json.display());
    Ok(whole)
}

impl Arguments {
    fn schedule(&self) -> Schedule {
        let (rounds, slice) = if self.quick { (3, 250) } else { (5, 1000) };
        Schedule { rounds: self.rounds.map_or(rounds, usize::from), slice: Duration::from_millis(self.slice.unwrap_or(slice)) }
    }
}

/// `target/release/ws-daemon-bench` writes to `target`, wherever it is called.
fn target_folder() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    Ok(own.ancestors().nth(2).context("this program lies in no folder")?.to_owned())
}
