//! What idle links cost a server: processor time, and with very many of them what is left for a run.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Resource;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::contest::Measured;
use crate::crowd::{Crowd, Dialect, Way};
use crate::figure::{Figure, Unit};
use crate::fleet::Daemon;
use crate::load::{Lane, Question};
use crate::memory;
use crate::sample::{Pace, times};
use crate::{system, targets};

/// Within it every link is pinged once by each side.
const WATCH: Duration = Duration::from_secs(20);
const WATCHES: usize = 3;
/// As long as two pings that are not answered may take, and the answer to them.
const HELD: Duration = Duration::from_secs(45);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Links beside the crowd, and some that come.
const OTHER_LINKS: usize = 1000;

/// Processor time of a server while its links say nothing but pings.
pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (count, watches) = (bench.many(10_000), if bench.quick { 1 } else { WATCHES });
    let binary = bench.daemon()?;
    let mut figures = Vec::new();
    for (name, settings) in [("plain", json!({})), ("TLS", memory::tls())] {
        eprintln!("idle, {count} links, {name}");
        let (server, address) = Daemon::server_with(binary, &settings)?;
        let way = match name {
            "plain" => Way::plain(address, Dialect::Version2),
            _ => Way::encrypted(address, server.prefix())?,
        };
        let mut crowd = Crowd::new(way)?;
        crowd.grow(count)?;
        crowd.touch()?;
        let mut percents = Vec::new();
        for _ in 0..watches {
            let used = || system::cpu_time(server.pid()).context("no CPU clock: the server has ended");
            let (before, began) = (used()?, Instant::now());
            wait(WATCH, &crowd)?;
            percents.push(used()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0);
        }
        ensure!(crowd.up() == count, "{} of {count} links are left", crowd.up());
        let figure =
            Figure::new("idle", format!("server with {count} idle links, {name}, of one core"), Unit::Percent, percents);
        figures.push(figure.must_reach(targets::IDLE_PERCENT));
    }
    Ok(figures)
}

/// So long that every link has been pinged by both sides, and none is lost.
fn wait(length: Duration, crowd: &Crowd) -> Result<()> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        system::check_stop()?;
        crowd.check()?;
        thread::sleep(BETWEEN_LOOKS);
    }
    Ok(())
}

/// How many links the machine lets a process have; root may be able to change that.
fn most_links(wanted: usize) -> Result<usize> {
    let limit = match system::raise_descriptor_limit((wanted + OTHER_LINKS) as u64) {
        Ok(()) => return Ok(wanted),
        Err(_) => rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
    };
    usize::try_from(limit)?.checked_sub(OTHER_LINKS).context("this machine has hardly any descriptors")
}

/// The settings of a server that takes so many links.
pub fn room_for(links: usize) -> Value {
    json!({ "limits": { "connections": links + OTHER_LINKS } })
}

/// Links by the hundred thousand: held, their pings answered, and what a run takes beside them.
pub fn crowd(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (wanted, schedule) = (bench.many(100_000), bench.schedule);
    let count = wanted.min(most_links(wanted)?);
    if count < wanted {
        bench.notes.push(format!(
            "{wanted} idle links: this machine lets a process have descriptors for {count}, and nobody raise that"
        ));
    }
    let binary = bench.daemon()?;
    let (mut server, address) = Daemon::server_with(binary, &room_for(count))?;
    let raised = server.lift_descriptor_limit((count + OTHER_LINKS) as u64)?;
    let mut client = Daemon::client_with(binary, address, &json!({}))?;
    bench.notes.extend(raised.map(|raised| format!("{count} idle links as they come: {raised}")));
    // It holds what it cannot send yet, so this waits for the link.
    Lane::new(Question::Missing, client.connect()?, None)?.ask_once().context("the first answer of the server")?;
    let mut lane = Lane::new(Question::RunThere, server.connect()?, None)?;
    let mut runs = |when: &str| {
        eprintln!("{count} idle links, runs {when}");
        lane.measure(Pace::OneByOne, schedule.slice / 5)?;
        (0..schedule.rounds).map(|_| lane.measure(Pace::OneByOne, schedule.slice)).collect::<Result<Vec<_>>>()
    };
    let before = runs("before")?;
    let alone = memory::at_rest(server.pid())?;
    let mut crowd = Crowd::new(Way::plain(address, Dialect::Version2))?;
    let began = Instant::now();
    crowd.grow(count).with_context(|| format!("the server's log ends:\n{}", server.last_words()))?;
    let gathered = began.elapsed();
    crowd.touch().context("the first pings")?;
    let a_link = (memory::at_rest(server.pid())?.rss - alone.rss) as f64 / count as f64;
    let beside = runs("beside them")?;
    wait(HELD, &crowd).context("a link was not held")?;
    crowd.touch().context("the last pings")?;
    ensure!(crowd.up() == count, "{} of {count} links are left", crowd.up());
    drop(crowd);
    memory::at_rest(server.pid())?;
    let after = runs("after")?;
    let calm = times(&before);
    let figure = |name: String, values| Figure::new("crowd", name, Unit::Microseconds, values);
    let run_beside = figure(format!("a run beside {count} idle links"), times(&beside)).against("a calm run", Some(&calm));
    Ok(vec![
        Figure::new(
            "crowd",
            format!("links held for {} s, all pings answered", HELD.as_secs()),
            Unit::Count,
            vec![count as f64],
        ),
        Figure::new("crowd", "until all are there", Unit::Seconds, vec![gathered.as_secs_f64()]),
        Figure::new("crowd", format!("an idle link, of {count}"), Unit::Bytes, vec![a_link]),
        figure("a calm run, one at a time".to_owned(), calm.clone()),
        // Of fewer than there were to be it says nothing that it has been reached.
        if count < wanted { run_beside } else { run_beside.ratio_must_reach(targets::RUN_BESIDE_MANY_LINKS) },
        figure("a run when they are gone".to_owned(), times(&after)).against("a calm run", Some(&calm)),
    ])
}
