//! Whether one request becomes dearer when there is much of something: peers that are linked, requests that are queued, rows of
//! those that are over.
//!
//! A server for each level is up at the same time, and their slices alternate; the cost is what the server takes of a processor, and
//! the time of one request.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use tokio::task::JoinSet;
use ws_daemon::spool::{Accepted, Bounds, Durability, NewRequest, NewRun, Spool};
use ws_daemon_protocol::id::RunId;

use crate::bench::Bench;
use crate::contest::Measured;
use crate::figure::{Figure, Unit};
use crate::fleet::Daemon;
use crate::load::{Lane, Question};
use crate::rounds::Schedule;
use crate::sample::{Pace, Sample, micros};
use crate::stand_ins::StandIns;
use crate::{memory, queue, system, targets};

/// Requests of one slice where each leaves something behind.
const REQUESTS: usize = 1000;
/// Requests before them, that are not counted.
const WARMING: usize = 100;
/// Requests of the history that are on their way to the disk at once.
const OUTSTANDING: u64 = 512;
/// So many descriptors beside one a peer.
const OTHER_DESCRIPTORS: u64 = 1000;

pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let mut figures = peers(bench)?;
    figures.extend(queued(bench)?);
    figures.extend(history(bench)?);
    Ok(figures)
}

/// One level of something.
struct Level {
    count: usize,
    /// The number of the next request that is queued: none is to be known from before.
    next: usize,
    /// Dropped before the server, which would close their links.
    _stand_ins: Option<StandIns>,
    server: Daemon,
    costs: Vec<Cost>,
}

/// What one request took.
#[derive(Clone, Copy)]
struct Cost {
    /// From the request to its answer, in the mean of those that were in flight together, or in the median of single ones.
    micros: f64,
    /// Of the server's processor time.
    core_micros: f64,
}

impl Cost {
    /// Of what `slice` does, by the time that each takes.
    fn of(server: Pid, each: fn(&Sample) -> f64, slice: impl FnOnce() -> Result<Sample>) -> Result<Cost> {
        let so_far = || system::cpu_time(server).context("no CPU clock: the server has ended");
        let before = so_far()?;
        let sample = slice()?;
        let core_micros = micros(so_far()?.saturating_sub(before)) / sample.done as f64;
        Ok(Cost { micros: each(&sample), core_micros })
    }
}

fn share(sample: &Sample) -> f64 {
    1e6 / sample.per_second()
}

/// Alternates between the levels; the first round warms up and is not kept.
fn alternate(
    what: &str,
    schedule: Schedule,
    levels: &mut [Level],
    mut slice: impl FnMut(&mut Level, Duration) -> Result<Cost>,
) -> Result<()> {
    for round in 0..=schedule.rounds {
        eprintln!("scale, {what}, round {round} of {}", schedule.rounds);
        for level in levels.iter_mut() {
            system::check_stop()?;
            let cost = slice(level, schedule.slice).with_context(|| format!("{what}, {}", level.count))?;
            if round > 0 {
                level.costs.push(cost);
            }
        }
    }
    Ok(())
}

/// Each level beside the first.
fn figures(what: &str, of: &str, levels: &mut [Level]) -> Vec<Figure> {
    let kinds = [("", (|cost| cost.micros) as fn(&Cost) -> f64), (", of a core", |cost| cost.core_micros)];
    let figures = kinds.into_iter().flat_map(|(kind, value)| {
        let base: Vec<f64> = levels[0].costs.iter().map(value).collect();
        let figures = levels.iter().enumerate().map(|(number, level)| {
            let values = level.costs.iter().map(value).collect();
            let figure = Figure::new("scale", format!("{what}, {} {of}{kind}", level.count), Unit::Microseconds, values);
            if number == 0 { figure } else { figure.against("with few", Some(&base)).ratio_must_reach(targets::SCALE) }
        });
        figures.collect::<Vec<_>>()
    });
    let figures = figures.collect();
    for level in levels {
        level.costs.clear();
    }
    figures
}

/// Peers that are linked: of one of them, by its name, and of whose turn it is.
fn peers(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (schedule, counts) = (bench.schedule, [1, 100, bench.many(10_000)]);
    let binary = bench.daemon()?;
    let mut levels = Vec::new();
    for count in counts {
        eprintln!("scale, {count} peers link");
        let (server, address) = Daemon::server(binary)?;
        system::raise_descriptor_limit(counts.iter().sum::<usize>() as u64 + OTHER_DESCRIPTORS)?;
        let links = Some(StandIns::link(address, count)?);
        levels.push(Level { count, next: 1, server, _stand_ins: links, costs: Vec::new() });
    }
    let mut all = Vec::new();
    let kinds = [
        (Question::First, Pace::Flood, "a request of one by name, 64 in flight", share as fn(&Sample) -> f64),
        (Question::First, Pace::OneByOne, "a request of one by name, one at a time", Sample::median_micros),
        // With many in flight those of one link share a read and a write, and those of many cannot.
        (Question::Run, Pace::OneByOne, "a request in turn, one at a time", Sample::median_micros),
    ];
    for (question, pace, what, each) in kinds {
        alternate(what, schedule, &mut levels, |level, length| {
            let mut lane = Lane::new(question, level.server.connect()?, None)?;
            Cost::of(level.server.pid(), each, || lane.measure(pace, length))
        })?;
        all.extend(figures(what, "linked", &mut levels));
    }
    Ok(all)
}

/// Requests that are queued already: the first level is a server that has none, a fresh one for each slice.
fn queued(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (schedule, counts) = (bench.schedule, [bench.many(1000), bench.many(100_000)]);
    let binary = bench.daemon()?.to_owned();
    let (mut levels, mut a_request) = (vec![fresh(&binary)?], Vec::new());
    for count in counts {
        eprintln!("scale, {count} requests are queued");
        let mut level = fresh(&binary)?;
        level.count = count;
        let mut lane = Lane::new(Question::Keep, level.server.connect()?, None)?;
        lane.ask(WARMING)?;
        let before = memory::at_rest(level.server.pid())?;
        lane.ask(count)?;
        let grown = memory::at_rest(level.server.pid())?.rss.saturating_sub(before.rss);
        level.next += WARMING + count;
        a_request.push((count, grown as f64 / count as f64));
        levels.push(level);
    }
    let what = format!("one of {REQUESTS} more queued");
    alternate(&what, schedule, &mut levels, |level, _| {
        if level.count == 0 {
            level.server = fresh_server(&binary)?;
            level.next = 1;
        }
        keep(level)
    })?;
    let mut all = figures(&what, "queued before", &mut levels);
    all.extend(a_request.iter().map(|(count, bytes)| {
        let figure = Figure::new("scale", format!("resident, one of {count} queued"), Unit::Bytes, vec![*bytes]);
        let few = a_request[0];
        if *count == few.0 { figure } else { figure.against("with few", Some(&[few.1])).ratio_must_reach(targets::SCALE) }
    }));
    Ok(all)
}

/// Requests that are over, and that the spool still knows.
fn history(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (schedule, counts) = (bench.schedule, [1, bench.many(10_000), bench.many(1_000_000)]);
    let binary = bench.daemon()?;
    let mut levels = Vec::new();
    for count in counts {
        eprintln!("scale, {count} requests are over");
        let (mut server, _) = Daemon::lasting_server(binary, &queue::room())?;
        // It has made its spool when it answers.
        drop(server.connect_heard()?);
        server.kill()?;
        settled(&server.spool()?, count as u64).context("the history")?;
        server.start_again()?;
        drop(server.connect_heard()?);
        let rows = server.spool_stat("rows")?;
        ensure!(rows >= count as u64, "of {count} requests that are over the spool knows {rows}");
        levels.push(Level { count, next: 1, server, _stand_ins: None, costs: Vec::new() });
    }
    let what = format!("one of {REQUESTS} queued");
    alternate(&what, schedule, &mut levels, |level, _| keep(level))?;
    let mut all = figures(&what, "over before", &mut levels);
    for level in &levels {
        let resident = memory::at_rest(level.server.pid())?;
        all.push(Figure::new("scale", format!("resident, {} over", level.count), Unit::Bytes, vec![resident.rss as f64]));
    }
    Ok(all)
}

fn fresh_server(binary: &Path) -> Result<Daemon> {
    Ok(Daemon::server_with(binary, &queue::room())?.0)
}

fn fresh(binary: &Path) -> Result<Level> {
    Ok(Level { count: 0, next: 1, server: fresh_server(binary)?, _stand_ins: None, costs: Vec::new() })
}

fn keep(level: &mut Level) -> Result<Cost> {
    let mut lane = Lane::new(Question::Keep, level.server.connect()?, None)?.numbered_from(level.next as u64);
    level.next += WARMING + REQUESTS;
    // What only the first requests of a server's life cost is not asked here.
    lane.ask(WARMING)?;
    Cost::of(level.server.pid(), share, || lane.ask(REQUESTS))
}

/// Puts so many requests into a spool that are settled already: what a daemon would have made of them, sooner.
fn settled(path: &Path, count: u64) -> Result<()> {
    let bounds = Bounds { bytes: 100 << 30, runs: 10_000_000, history_bytes: 100 << 30, ..Bounds::default() };
    let spool = Spool::open(path, bounds, Durability::Normal)?.spool;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for first in 1..=OUTSTANDING {
            let spool = spool.clone();
            tasks.spawn(async move {
                for number in (first..=count).step_by(usize::try_from(OUTSTANDING)?) {
                    system::check_stop()?;
                    settle(&spool, number).await?;
                }
                Ok::<(), anyhow::Error>(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        spool.close().await;
        Ok(())
    })
}

async fn settle(spool: &Spool, number: u64) -> Result<()> {
    let run = RunId::new(format!("0190a0c1-0000-7000-9000-{number:012x}"));
    let key: Box<str> = format!("h{number}").into();
    let request = NewRequest {
        user: "bench".into(),
        key: Some(key.clone()),
        caller_id: Some(key),
        hash: [7; 32],
        body: r#"{"name":"sms/send","params":{"to":"+4915112345678","text":"It was valid for ten minutes."},"queue":true}"#
            .into(),
        runs: vec![NewRun { run: run.clone(), name: "sms/send".into(), target: None }],
        expires_ms: 86_400_000,
        not_before_ms: None,
        then: None,
    };
    let accepted = spool.accept(request).await?;
    ensure!(accepted == Accepted::Fresh, "request {number} was known");
    spool.settle(run, r#"{"status":0}"#.into()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_made_that_a_spool_takes_for_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spool.db");
        settled(&path, 700).expect("a disk");
        let spool = Spool::open(&path, Bounds::default(), Durability::Full).expect("a spool").spool;
        assert_eq!((spool.stats().rows, spool.stats().unsettled), (700, 0));
    }
}
