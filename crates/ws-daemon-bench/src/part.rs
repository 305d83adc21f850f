//! The parts that can be asked for, and the order in which they are measured. Each is on its own: one that fails is told, and the
//! others go on.

use anyhow::Result;
use clap::ValueEnum;

use crate::bench::Bench;
use crate::figure::Figure;
use crate::{durable, fanout, idle, machine, memory, queue, round_trips, rounds, scale, storm, streaming, system};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// All that follows.
    All,
    /// The fastest spawn with capture, and plain posix_spawn.
    Limit,
    /// Runs of the minimal program and of a shell script through two daemons. Their ratios need `limit` in the same call.
    Runs,
    /// Messages through two daemons that make no run.
    Messages,
    /// Processor time that the two daemons take a run.
    Cpu,
    /// PING of a peer, beside NATS and beside the least that a round trip is.
    Ping,
    /// Calls of a process that serves, beside a WebSocket echo.
    Worker,
    /// Queued requests accepted, beside Redis.
    Queue,
    /// Runs by what others have for it: webhook, NATS, ssh.
    Others,
    /// Requests put on disk by the spool, beside a bare loop of the same statements.
    Durable,
    /// Output of a script that arrives, beside the same relayed by bare threads.
    Streaming,
    /// One request to 1,000 peers, beside the same frames without a daemon.
    Fanout,
    /// Resident memory of a server and a client, and of 1,000 and 10,000 idle links.
    Memory,
    /// Processor time of a server with 10,000 idle links.
    Idle,
    /// 100,000 idle links: held, their pings answered, and a run beside them.
    Crowd,
    /// 10,000 TLS clients whose server is killed and started.
    Storm,
    /// A server that is killed and started with 100,000 queued requests.
    Restart,
    /// What a request costs with 1 to 10,000 peers, 1 to 100,000 queued requests, 1 to 1,000,000 rows of those that are over.
    Scale,
}

/// All that one call of the bench found.
#[derive(Default)]
pub struct Found {
    pub figures: Vec<Figure>,
    /// The share of the machine's time that others took, a value a round.
    pub others: Vec<f64>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// Parts that were begun and not ended, and why.
    pub failed: Vec<String>,
}

/// These in one call share their rounds: their ratios are to each other.
const SHARED: [Part; 4] = [Part::Limit, Part::Runs, Part::Messages, Part::Cpu];

/// Measures these, or all if none is named. Fails only if it is stopped.
pub fn measure(bench: &mut Bench, parts: &[Part]) -> Result<Found> {
    let mut found = Found::default();
    let wanted = |part: Part| parts.is_empty() || parts.contains(&Part::All) || parts.contains(&part);
    let mut take = |part: Part, result: Result<Vec<Figure>>| {
        match result {
            Ok(figures) => found.figures.extend(figures),
            Err(failure) => {
                system::check_stop()?;
                eprintln!("{}: {failure:#}", part.name());
                found.failed.push(format!("{}: {failure:#}", part.name()));
            }
        }
        Ok::<(), anyhow::Error>(())
    };
    let shared: Vec<Part> = SHARED.into_iter().filter(|part| wanted(*part)).collect();
    let mut others = Vec::new();
    if let Some(first) = shared.first() {
        take(*first, rounds::measure(bench, &shared, &mut others))?;
    }
    for part in Part::value_variants().iter().copied().filter(|part| !SHARED.contains(part) && wanted(*part)) {
        others.push(machine::busy_share()?);
        take(part, part.measure(bench))?;
    }
    found.others = others;
    found.notes = std::mem::take(&mut bench.notes);
    Ok(found)
}

impl Part {
    /// As it is asked for.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn measure(self, bench: &mut Bench) -> Result<Vec<Figure>> {
        match self {
            Part::All | Part::Limit | Part::Runs | Part::Messages | Part::Cpu => Ok(Vec::new()),
            Part::Ping => round_trips::pings(bench),
            Part::Worker => round_trips::worker_calls(bench),
            Part::Queue => queue::measure(bench),
            Part::Others => round_trips::others(bench),
            Part::Durable => durable::measure(bench),
            Part::Streaming => streaming::measure(bench),
            Part::Fanout => fanout::measure(bench),
            Part::Memory => memory::measure(bench),
            Part::Idle => idle::measure(bench),
            Part::Crowd => idle::crowd(bench),
            Part::Storm => storm::measure(bench),
            Part::Restart => queue::restart(bench),
            Part::Scale => scale::measure(bench),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_the_name_that_it_is_asked_for_by() {
        for part in Part::value_variants() {
            assert_eq!(Part::from_str(&part.name(), false).ok(), Some(*part));
        }
    }
}
