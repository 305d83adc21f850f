//! The machine: what it is, and how busy others keep it.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// How long others are watched while we do nothing.
const WATCH: Duration = Duration::from_millis(300);

/// What figures depend on.
#[derive(Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
}

impl Machine {
    /// This one, of which we may use so many cores.
    pub fn this(cores: usize) -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cores,
            processor: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// The share of all cores' time, 0 to 1, that is used (or stolen by a host) while we
/// sleep for a moment.
pub fn busy_share() -> Result<f64> {
    let before = Ticks::now()?;
    thread::sleep(WATCH);
    let after = Ticks::now()?;
    let all = after.all.saturating_sub(before.all).max(1);
    let idle = after.idle.saturating_sub(before.idle).min(all);
    Ok(1.0 - idle as f64 / all as f64)
}

#[derive(PartialEq, Eq, Debug)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    fn now() -> Result<Ticks> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Ticks::parse(&stat).context("/proc/stat begins otherwise than proc(5) says")
    }

    /// Of the first line: `cpu user nice system idle iowait irq softirq steal guest …`;
    /// guest time is already in user time.
    fn parse(stat: &str) -> Option<Ticks> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Ticks { all: ticks.iter().sum(), idle: ticks.get(3)? + ticks.get(4)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_summed_without_guests() {
        let stat = "cpu  10 1 20 100 5 2 3 4 9 9\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(Ticks::parse(stat), Some(Ticks { all: 145, idle: 105 }));
        assert_eq!(Ticks::parse("intr 1 2\n"), None);
        Ticks::now().expect("this machine's own");
    }
}
