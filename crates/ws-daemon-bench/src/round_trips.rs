//! Round trips and runs beside what others need for theirs: PING and NATS, worker calls and a WebSocket echo, runs and what webhook,
//! NATS and ssh make of the same program.

use anyhow::{Context, Result};

use crate::bench::Bench;
use crate::contest::{Contest, Place};
use crate::echo::{self, Library};
use crate::figure::{Figure, Unit};
use crate::fleet::Pair;
use crate::load::{IN_FLIGHT, Lane, Question};
use crate::peers::{Nats, Peer, Ssh, Webhook};
use crate::sample::{Pace, rates, times};
use crate::serving::Serving;
use crate::targets;

const BOTH: [Pace; 2] = [Pace::OneByOne, Pace::Flood];
const ONE: [Pace; 1] = [Pace::OneByOne];

/// What was measured with many in flight.
fn many(part: &'static str, what: &str, contest: &Contest<'_>, place: Place) -> Figure {
    let name = format!("{what}, {IN_FLIGHT} in flight");
    Figure::new(part, name, Unit::PerSecond, rates(contest.samples(place, Pace::Flood)))
}

/// What was measured one at a time.
fn one(part: &'static str, what: &str, contest: &Contest<'_>, place: Place) -> Figure {
    let name = format!("{what}, one at a time");
    Figure::new(part, name, Unit::Microseconds, times(contest.samples(place, Pace::OneByOne)))
}

/// The program of a peer, or a note that it is missing.
fn found(bench: &mut Bench, peer: Peer, what: &str) -> Option<std::path::PathBuf> {
    match bench.peers.find(peer) {
        Ok(program) => Some(program),
        Err(missing) => {
            bench.notes.push(format!("{what}: {missing}"));
            None
        }
    }
}

/// PING of a peer, asked at the server.
pub fn pings(bench: &mut Bench) -> Result<Vec<Figure>> {
    let nats = found(bench, Peer::Nats, "request and reply by NATS");
    let mut nats = nats.map(|program| Nats::start(&program)).transpose()?;
    let schedule = bench.schedule;
    let mut pair = Pair::start(bench.daemon()?)?;
    let mut contest = Contest::default();
    let unix = contest.enter("Unix socket", &ONE, echo::by_unix_socket()?);
    let web = contest.enter("WebSocket", &ONE, echo::by_web_socket()?);
    let replies = nats.as_mut().map(Nats::echoing).transpose()?;
    let replies = replies.map(|replies| contest.enter("NATS", &BOTH, replies));
    let ours = contest.enter("PING", &BOTH, Lane::new(Question::Ping, pair.server.connect()?, None)?);
    contest.run("ping", schedule).with_context(|| pair.last_words())?;

    let of = |place| times(contest.samples(place, Pace::OneByOne));
    let both: Vec<f64> = of(unix).iter().zip(of(web)).map(|(unix, web)| unix + web).collect();
    let others = replies.map(|place| rates(contest.samples(place, Pace::Flood)));
    let mut figures = vec![
        one("ping", "Unix socket, there and back", &contest, unix),
        one("ping", "WebSocket, there and back", &contest, web),
    ];
    figures.extend(
        replies.map(|place| one("ping", "NATS request and reply", &contest, place).against("both round trips", Some(&both))),
    );
    figures.extend(replies.map(|place| many("ping", "NATS request and reply", &contest, place)));
    let ping = one("ping", "PING of a peer", &contest, ours).against("both round trips", Some(&both));
    figures.push(ping.ratio_must_reach(targets::ONE_PING));
    let pings = many("ping", "PING of a peer", &contest, ours).against("NATS", others.as_deref());
    figures.push(pings.ratio_must_reach(targets::PINGS));
    Ok(figures)
}

/// Calls that enter at the server, for a process that serves at the client.
pub fn worker_calls(bench: &mut Bench) -> Result<Vec<Figure>> {
    let schedule = bench.schedule;
    let mut pair = Pair::start(bench.daemon()?)?;
    let serving = match Serving::start(pair.client.connect()?) {
        Ok(serving) => serving,
        Err(missing) => {
            bench.notes.push(format!("worker calls: {missing:#}"));
            return Ok(Vec::new());
        }
    };
    let mut contest = Contest::default();
    let bare = contest.enter("WebSocket", &ONE, echo::by_web_socket()?);
    let library = contest.enter("WebSocket by tokio-tungstenite", &ONE, Library::new()?);
    let ours = contest.enter("worker call", &BOTH, Lane::new(Question::Call, pair.server.connect()?, None)?);
    contest.run("worker", schedule).with_context(|| pair.last_words())?;
    drop(serving);

    let base = times(contest.samples(bare, Pace::OneByOne));
    let echo = "a WebSocket echo";
    Ok(vec![
        one("worker", "WebSocket echo, bare", &contest, bare),
        one("worker", "WebSocket echo, tokio-tungstenite", &contest, library).against(echo, Some(&base)),
        one("worker", "worker call", &contest, ours).against(echo, Some(&base)).ratio_must_reach(targets::ONE_WORKER_CALL),
        many("worker", "worker call", &contest, ours).must_reach(targets::WORKER_CALLS),
    ])
}

/// Runs of the minimal program, its output captured, by each that has a way for it.
pub fn others(bench: &mut Bench) -> Result<Vec<Figure>> {
    let schedule = bench.schedule;
    let [webhook, nats, ssh] = [(Peer::Webhook, "webhook"), (Peer::Nats, "NATS"), (Peer::Ssh, "ssh")]
        .map(|(peer, name)| found(bench, peer, &format!("runs by {name}")));
    let mut webhook = webhook.map(|program| Webhook::start(&program)).transpose()?;
    let mut nats = nats.map(|program| Nats::start(&program)).transpose()?;
    let ssh = ssh.map(|program| Ssh::start(&program)).transpose()?;
    let mut pair = Pair::start(bench.daemon()?)?;
    let mut contest = Contest::default();
    let ours = contest.enter("ws-daemon", &BOTH, Lane::new(Question::Run, pair.server.connect()?, None)?);
    let mut places = vec![("ws-daemon, a run", ours)];
    if let Some(webhook) = &mut webhook {
        places.push(("webhook, HTTP trigger", contest.enter("webhook", &BOTH, webhook.running(IN_FLIGHT)?)));
    }
    if let Some(nats) = &mut nats {
        places.push(("NATS, responder that runs it", contest.enter("NATS", &BOTH, nats.running()?)));
    }
    if let Some(ssh) = ssh {
        places.push(("ssh, ControlMaster", contest.enter("ssh", &BOTH, ssh)));
    }
    contest.run("others", schedule).with_context(|| pair.last_words())?;

    let (time, rate) = (times(contest.samples(ours, Pace::OneByOne)), rates(contest.samples(ours, Pace::Flood)));
    let mut figures = Vec::new();
    for (name, place) in &places {
        figures.push(one("others", name, &contest, *place).against("ws-daemon", Some(&time)));
    }
    for (name, place) in &places {
        figures.push(many("others", name, &contest, *place).against("ws-daemon", Some(&rate)));
    }
    Ok(figures)
}
