//! One request for everyone: how long until each of many peers has answered and the caller has been told of them all, and beside
//! it the same frames exchanged over as many connections with no daemon in between.
//!
//! The peers are [stand-ins](StandIns): what they cost is in both.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::bench::Bench;
use crate::figure::{Figure, Unit};
use crate::fleet::Daemon;
use crate::links::dial;
use crate::rounds::Schedule;
use crate::sample::{Sample, rates, times};
use crate::stand_ins::{self, StandIns};
use crate::system;

/// An answer that takes longer is taken for lost.
const PATIENCE: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 << 10;
/// Descriptors that we need beside one a link, and two a connection of the bare exchange.
const OTHER_DESCRIPTORS: u64 = 100;
/// As long as those that a daemon makes.
const RUN: &str = "0190a0c1-0000-7000-8000-000000000000";

/// What is counted are runs, what is timed are requests; a value a round.
struct FannedOut {
    peers: usize,
    bare: Vec<Sample>,
    daemon: Vec<Sample>,
}

/// Alternates between both; the first round warms up and is not kept.
fn run(schedule: Schedule, binary: &Path, peers: usize) -> Result<FannedOut> {
    // The server first: it is to raise its own limit, not to inherit ours.
    let (mut server, address) = Daemon::server(binary)?;
    system::raise_descriptor_limit(3 * peers as u64 + OTHER_DESCRIPTORS)?;
    let linked = StandIns::link(address, peers)?;
    let mut caller = Caller::new(server.connect()?, peers)?;
    let mut bare = Bare::new(peers)?;
    let mut all = FannedOut { peers, bare: Vec::new(), daemon: Vec::new() };
    for round in 0..=schedule.rounds {
        eprintln!("fan-out, round {round} of {}", schedule.rounds);
        let bare = slice(schedule.slice, peers, || bare.exchange())?;
        let daemon = slice(schedule.slice, peers, || caller.ask())?;
        if round > 0 {
            all.bare.push(bare);
            all.daemon.push(daemon);
        }
    }
    // Before the server, which would close their links.
    drop(linked);
    Ok(all)
}

pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (schedule, peers) = (bench.schedule, if bench.quick { 200 } else { 1000 });
    run(schedule, bench.daemon()?, peers).map(|fanned| figures(&fanned))
}

/// Runs of everyone a second, and how long until the last line is there.
fn figures(FannedOut { peers, bare, daemon }: &FannedOut) -> Vec<Figure> {
    let whole = |samples: &[Sample]| times(samples).iter().map(|micros| micros / 1e3).collect::<Vec<_>>();
    let rate = |name: String, samples| Figure::new("fanout", name, Unit::PerSecond, rates(samples));
    let time = |name: String, samples| Figure::new("fanout", name, Unit::Milliseconds, whole(samples));
    let base = "bare exchange";
    vec![
        rate(format!("{base}, {peers} connections"), bare),
        rate(format!("each, {peers} peers"), daemon).against(base, Some(&rates(bare))),
        time(format!("{base}, all of it"), bare),
        time("each, all of it".to_owned(), daemon).against(base, Some(&whole(bare))),
    ]
}

/// Asks everyone again and again for about `length`.
fn slice(length: Duration, peers: usize, mut ask: impl FnMut() -> Result<()>) -> Result<Sample> {
    let mut times = Vec::new();
    let started = Instant::now();
    let mut now = started;
    while now < started + length {
        system::check_stop()?;
        let began = now;
        ask()?;
        now = Instant::now();
        times.push(now - began);
    }
    Ok(Sample { done: (times.len() * peers) as u64, ..Sample::of(&mut times, now - started) })
}

/// Connections with a stand-in at the end of each.
struct Bare {
    /// Dropped first: to the thread a connection that is closed is a failure.
    _stand_ins: StandIns,
    streams: Vec<TcpStream>,
    order: Vec<u8>,
    answer: Vec<u8>,
}

impl Bare {
    fn new(count: usize) -> Result<Bare> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (mut streams, mut ends) = (Vec::new(), Vec::new());
        for number in 0..count {
            ends.push(dial(address, number)?);
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            streams.push(stream);
        }
        let order = format!(r#"{{"name":"min","id":"{RUN}","params":null,"caller":1}}"#);
        let (order, answer) = (stand_ins::plain(order.as_bytes()), stand_ins::done(RUN));
        Ok(Bare { streams, _stand_ins: StandIns::on(ends)?, order, answer })
    }

    /// An order on each, then the answer of each.
    fn exchange(&mut self) -> Result<()> {
        for stream in &mut self.streams {
            stream.write_all(&self.order)?;
        }
        let mut answer = vec![0; self.answer.len()];
        for stream in &mut self.streams {
            stream.read_exact(&mut answer)?;
            ensure!(answer == self.answer, "not the answer of a stand-in: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }
}

/// A process at the server's socket.
struct Caller {
    socket: BufReader<UnixStream>,
    line: String,
    peers: usize,
}

impl Caller {
    fn new(socket: UnixStream, peers: usize) -> Result<Caller> {
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Caller { socket: BufReader::with_capacity(READ_BYTES, socket), line: String::new(), peers })
    }

    /// Asks everyone, and waits for the last line.
    fn ask(&mut self) -> Result<()> {
        self.socket.get_mut().write_all(br#"{"name":"min","id":1,"to":"*","each":true}"#)?;
        let done = format!(r#"{{"event":"done","id":1,"runs":{},"failed":0}}"#, self.peers);
        let mut answered = vec![false; self.peers];
        loop {
            self.line.clear();
            self.socket.read_line(&mut self.line).context("no answer from the local socket")?;
            let line = self.line.strip_suffix('\n').context("the daemon closed the connection")?;
            if line == done {
                break;
            }
            let wrong = || anyhow!("not the answer of a peer that had not answered: {line}");
            let seat = number_in(line).and_then(|number| answered.get_mut(number)).with_context(wrong)?;
            ensure!(!std::mem::replace(seat, true), wrong());
        }
        let missing = answered.iter().filter(|answered| !**answered).count();
        ensure!(missing == 0, "{missing} of {} peers have not answered", self.peers);
        Ok(())
    }
}

/// Whose good final line this is.
fn number_in(line: &str) -> Option<usize> {
    let rest = line.strip_prefix(r#"{"status":0,"id":1,"run":""#)?;
    let (_, rest) = rest.split_once(r#"","peer":"bench-"#)?;
    rest.strip_suffix(r#""}"#)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn all_connections_are_answered_again_and_again() {
        let mut bare = Bare::new(20).expect("connections");
        let sample = slice(Duration::from_millis(5), 20, || bare.exchange()).expect("answers");
        assert!(sample.done >= 20 && sample.done.is_multiple_of(20));
    }

    /// What a caller makes of it when a daemon says this to three peers' request.
    fn asked(said: &str) -> Result<()> {
        let (ours, mut theirs) = UnixStream::pair()?;
        let said = said.to_owned();
        let daemon = thread::spawn(move || {
            let request = theirs.read(&mut [0; 100]);
            request.and_then(|_| theirs.write_all(said.as_bytes()))
        });
        let result = Caller::new(ours, 3)?.ask();
        daemon.join().expect("no panic")?;
        result
    }

    #[test]
    fn everyone_has_one_good_line_and_then_all_is_done() {
        let line =
            |number: usize| format!("{{\"status\":0,\"id\":1,\"run\":\"{RUN}\",\"peer\":\"{}\"}}\n", stand_ins::name(number));
        let done = "{\"event\":\"done\",\"id\":1,\"runs\":3,\"failed\":0}\n";
        let all = line(2) + &line(0) + &line(1);
        asked(&format!("{all}{done}")).expect("all of them");
        for wrong in [
            format!("{}{}{done}", line(0), line(1)),
            format!("{}{}{done}", line(0), line(0)),
            format!("{}{done}", line(3)),
            format!("{all}{}", done.replace("\"failed\":0", "\"failed\":1")),
            all,
        ] {
            asked(&wrong).expect_err(&wrong);
        }
    }
}
