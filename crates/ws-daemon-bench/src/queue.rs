//! Queued requests: accepted, that is on disk, beside Redis as a queue; and a server that is killed and started with very many of
//! them.
//!
//! Each slice has a daemon, or a store, of its own, so that none is measured on what another has left. Those who are to run them are
//! away, so that nothing but keeping them is measured.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::contest::{Contest, Measured};
use crate::figure::{Figure, Unit};
use crate::fleet::Daemon;
use crate::load::{IN_FLIGHT, Lane, Question};
use crate::memory;
use crate::peers::{Peer, Redis};
use crate::sample::{Pace, Sample, rates};
use crate::targets;

const RESTARTS: usize = 3;
/// As long as what our daemon is asked to keep.
const BODY: &str = r#"{"name":"sms/send","params":{"to":"+4915112345678","text":"Your code is 123456. It is valid for ten minutes."},"to":"absent","queue":true}"#;
const PACES: [Pace; 2] = [Pace::OneByOne, Pace::Flood];

/// The settings of a daemon that keeps all that is asked of it here.
pub fn room() -> Value {
    json!({ "limits": { "spool_runs": 10_000_000, "spool_bytes": "100GiB" } })
}

/// Our daemon, a fresh one for each slice.
struct Ours(PathBuf);

impl Measured for Ours {
    fn measure(&mut self, pace: Pace, length: Duration) -> Result<Sample> {
        let (mut server, _) = Daemon::server_with(&self.0, &room())?;
        let mut lane = Lane::new(Question::Keep, server.connect()?, None)?;
        lane.measure(pace, length).with_context(|| server.last_words())
    }
}

/// Redis, an empty one for each slice.
struct Theirs(PathBuf);

impl Measured for Theirs {
    fn measure(&mut self, pace: Pace, length: Duration) -> Result<Sample> {
        Redis::start(&self.0)?.pushing(IN_FLIGHT, BODY)?.measure(pace, length)
    }
}

pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let redis = match bench.peers.find(Peer::Redis) {
        Ok(program) => Some(program),
        Err(missing) => {
            bench.notes.push(format!("a queue in Redis: {missing}"));
            None
        }
    };
    let schedule = bench.schedule;
    let mut contest = Contest::default();
    let theirs = redis.map(|program| contest.enter("Redis", &PACES, Theirs(program)));
    let ours = contest.enter("ws-daemon", &PACES, Ours(bench.daemon()?.to_owned()));
    contest.run("queue", schedule)?;
    let of = |place, pace| rates(contest.samples(place, pace));
    let figure = |name: String, rates| Figure::new("queue", name, Unit::PerSecond, rates);
    let mut figures = Vec::new();
    for pace in PACES {
        let base = theirs.map(|place| of(place, pace));
        let (clients, in_flight) = match pace {
            Pace::OneByOne => ("1 client".to_owned(), "one at a time".to_owned()),
            Pace::Flood => (format!("{IN_FLIGHT} clients"), format!("{IN_FLIGHT} in flight")),
        };
        figures.extend(base.clone().map(|rates| figure(format!("Redis RPUSH, appendfsync always, {clients}"), rates)));
        let accepted =
            figure(format!("queued requests accepted, {in_flight}"), of(ours, pace)).against("Redis", base.as_deref());
        figures.push(if pace == Pace::Flood { accepted.ratio_must_reach(targets::ACCEPTED) } else { accepted });
    }
    Ok(figures)
}

/// A server with very many queued requests, killed and started again.
pub fn restart(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (count, restarts) = (bench.many(100_000), bench.schedule.rounds.min(RESTARTS));
    eprintln!("restart, {count} requests are queued");
    let (mut server, _) = Daemon::lasting_server(bench.daemon()?, &room())?;
    let alone = memory::at_rest(server.pid())?;
    let kept = Lane::new(Question::Keep, server.connect()?, None)?.ask(count)?;
    let with_them = memory::at_rest(server.pid())?;
    let mut ready = Vec::new();
    for round in 1..=restarts {
        eprintln!("restart, round {round} of {restarts}");
        server.kill()?;
        let began = Instant::now();
        server.start_again()?;
        drop(server.connect_heard()?);
        ready.push(began.elapsed().as_secs_f64());
        let unsettled = server.spool_stat("unsettled")?;
        ensure!(unsettled == count as u64, "{unsettled} of {count} queued requests are left");
    }
    let a_request = (with_them.rss.saturating_sub(alone.rss)) as f64 / count as f64;
    let after = memory::at_rest(server.pid())?;
    Ok(vec![
        Figure::new("restart", format!("{count} requests queued"), Unit::PerSecond, vec![kept.per_second()]),
        Figure::new("restart", "a queued request, resident", Unit::Bytes, vec![a_request]),
        Figure::new("restart", "from its start until it answers", Unit::Seconds, ready).must_reach(targets::RESTART_SECONDS),
        Figure::new("restart", "resident after that", Unit::Bytes, vec![after.rss as f64]),
    ])
}
