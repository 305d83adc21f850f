//! What idle links cost a server: processor time, and with very many of them what is left for a run.

use std::net::SocketAddr;
use std::path::Path;
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
use crate::throng::{self, Throng};
use crate::{room, system, targets};

/// Within it each link is pinged and answered.
const WATCH: Duration = Duration::from_secs(20);
const WATCHES: usize = 3;
/// As long as two pings that are not answered may take, and the answer to them.
const HELD: Duration = Duration::from_secs(45);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Links beside the crowd, and some that come.
const OTHER_LINKS: usize = 1000;
/// A machine whose processes may have so little that it takes more of them is none for this.
const MOST_SERVERS: usize = 50;

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
        // Until every client has pinged once by itself.
        wait(WATCH, || crowd.check())?;
        let mut percents = Vec::new();
        for _ in 0..watches {
            let used = || system::cpu_time(server.pid()).context("no CPU clock: the server has ended");
            let (before, began) = (used()?, Instant::now());
            wait(WATCH, || crowd.check())?;
            percents.push(used()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0);
        }
        ensure!(crowd.up() == count, "{} of {count} links are left", crowd.up());
        let figure =
            Figure::new("idle", format!("server with {count} idle links, {name}, of one core"), Unit::Percent, percents);
        figures.push(figure.must_reach(targets::IDLE_PERCENT));
    }
    Ok(figures)
}

/// So long, if `check` finds that none is lost.
fn wait(length: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        system::check_stop()?;
        check()?;
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
    let most = usize::try_from(limit)?.saturating_sub(OTHER_LINKS);
    let needed = wanted.div_ceil(MOST_SERVERS);
    let enough = needed + OTHER_LINKS;
    ensure!(
        needed <= most,
        "{limit} descriptors a process are too few for {wanted} links: {enough} are enough (ulimit -Hn {enough})"
    );
    Ok(most)
}

/// The settings of a server that takes so many links.
pub fn room_for(links: usize) -> Value {
    json!({ "limits": { "connections": links + OTHER_LINKS } })
}

/// Links by the hundred thousand: held, their pings answered, and what a run takes beside them.
pub fn crowd(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (count, schedule) = (bench.many(100_000), bench.schedule);
    let shares = throng::shares(count, most_links(count)?);
    let binary = bench.daemon()?.to_owned();
    let mut servers = Servers::start(&binary, &shares)?;
    bench.notes.extend(servers.lift_descriptor_limits(&shares)?);
    let idle_links = match shares.len() {
        1 => format!("{count} idle links"),
        several => format!("{count} idle links at {several} servers"),
    };
    if shares.len() > 1 {
        bench.notes.push(format!(
            "{count} idle links at one server: no process of this machine may have descriptors for so many; {idle_links} were held, and \
             the runs are of a client of one of these"
        ));
    }
    let (server, address) = &mut servers.all[0];
    let mut client = Daemon::client_with(&binary, *address, &json!({}))?;
    // It holds what it cannot send yet, so this waits for the link.
    Lane::new(Question::Missing, client.connect()?, None)?.ask_once().context("the first answer of the server")?;
    let mut lane = Lane::new(Question::RunThere, server.connect()?, None)?;
    let mut runs = |when: &str| {
        eprintln!("{idle_links}, runs {when}");
        lane.measure(Pace::OneByOne, schedule.slice / 5)?;
        (0..schedule.rounds).map(|_| lane.measure(Pace::OneByOne, schedule.slice)).collect::<Result<Vec<_>>>()
    };
    // They listen before all of it is there.
    servers.resident()?;
    let before = runs("before")?;
    room::check(count)?;
    let alone = servers.resident()?;
    let mut throng = servers.throng(&shares)?;
    let began = Instant::now();
    throng.gather().with_context(|| servers.last_words())?;
    let gathered = began.elapsed();
    throng.touch().context("the first pings")?;
    let a_link = (servers.resident()? - alone) as f64 / count as f64;
    let beside = runs("beside them")?;
    let (used, began) = (servers.cpu_time()?, Instant::now());
    wait(HELD, || throng.check()).context("a link was not held")?;
    let share = servers.cpu_time()?.saturating_sub(used).as_secs_f64() / began.elapsed().as_secs_f64();
    throng.touch().context("the last pings")?;
    drop(throng);
    servers.resident()?;
    let after = runs("after")?;
    let calm = times(&before);
    let figure = |name: String, values| Figure::new("crowd", name, Unit::Microseconds, values);
    Ok(vec![
        Figure::new(
            "crowd",
            format!("{idle_links}, held for {} s, all pings answered", HELD.as_secs()),
            Unit::Count,
            vec![count as f64],
        ),
        Figure::new("crowd", "until all are there", Unit::Seconds, vec![gathered.as_secs_f64()]),
        Figure::new("crowd", format!("an idle link, of {count}"), Unit::Bytes, vec![a_link]),
        Figure::new("crowd", format!("{idle_links}, of one core"), Unit::Percent, vec![share * 100.0]),
        figure("a calm run, one at a time".to_owned(), calm.clone()),
        figure(format!("a run beside {idle_links}"), times(&beside))
            .against("a calm run", Some(&calm))
            .ratio_must_reach(targets::RUN_BESIDE_MANY_LINKS),
        figure("a run when they are gone".to_owned(), times(&after)).against("a calm run", Some(&calm)),
    ])
}

/// As many servers as it takes, each for its share of the links.
struct Servers {
    all: Vec<(Daemon, SocketAddr)>,
}

impl Servers {
    fn start(binary: &Path, shares: &[usize]) -> Result<Servers> {
        let all = shares.iter().map(|links| Daemon::server_with(binary, &room_for(*links))).collect::<Result<_>>()?;
        Ok(Servers { all })
    }

    /// In words, where one had not seen to that itself.
    fn lift_descriptor_limits(&self, shares: &[usize]) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for ((server, _), links) in self.all.iter().zip(shares) {
            let raised = server.lift_descriptor_limit((links + OTHER_LINKS) as u64)?;
            notes.extend(raised.map(|raised| format!("{links} idle links as they come: {raised}")));
        }
        Ok(notes)
    }

    /// Who is to hold the links; there are none yet.
    fn throng(&self, shares: &[usize]) -> Result<Throng> {
        let mut throng = Throng::default();
        for ((server, address), links) in self.all.iter().zip(shares) {
            throng.start(*address, *links, server.prefix().join("links.log"))?;
        }
        Ok(throng)
    }

    /// Bytes, of all together, when nothing changes any more.
    fn resident(&self) -> Result<u64> {
        self.all.iter().map(|(server, _)| Ok(memory::at_rest(server.pid())?.rss)).sum()
    }

    /// Of all together.
    fn cpu_time(&self) -> Result<Duration> {
        let used = |(server, _): &(Daemon, _)| system::cpu_time(server.pid()).context("no CPU clock: a server has ended");
        self.all.iter().map(used).sum()
    }

    fn last_words(&self) -> String {
        self.all
            .iter()
            .map(|(server, _)| format!("a server's log ends:\n{}", server.last_words()))
            .collect::<Vec<_>>()
            .join("\n")
    }
}
