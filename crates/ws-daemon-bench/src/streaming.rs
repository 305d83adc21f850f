//! What a script prints, as it arrives: through two daemons to a caller that reads it at once, and beside it through the least
//! that must happen to it, a pipe, a loopback TCP connection and a Unix socket with a thread between each two.
//!
//! The script prints a fixed amount as fast as it is read, and a daemon never holds it up: what the link cannot take is lost there
//! and marked, while the relay slows the script down. So what arrived is counted, and what was lost is a figure of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::bench::Bench;
use crate::figure::{Figure, Unit};
use crate::fleet::Pair;
use crate::rounds::Schedule;
use crate::sample::{Sample, rates};
use crate::system;

/// What is printed: one file, so many times.
const FILE_BYTES: u64 = 16 << 20;
const TIMES: u64 = 4;

/// An output or an outcome that takes longer is taken for lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the relay moves at once: as much as the daemon has in one frame.
const RELAYED_BYTES: usize = 32 << 10;
const READ_BYTES: usize = 64 << 10;
/// How much of a wrong line is shown.
const SHOWN_BYTES: usize = 300;

/// What kind of output it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Lines of 64 characters.
    Text,
    /// Lines of 64 bytes, half of them letters and half of them above ASCII as chance has it: no UTF-8, so it goes in base 64.
    Binary,
}

/// A value a round.
struct Streamed {
    relay: Vec<Sample>,
    printed: Vec<Printed>,
}

/// One kind of output through the daemons; what is counted are bytes that arrived.
struct Printed {
    kind: Kind,
    samples: Vec<Sample>,
    /// The share of what was printed that did not arrive, 0 to 1.
    lost: Vec<f64>,
}

/// Alternates between all; the first round warms up and is not kept.
fn run(schedule: Schedule, binary: &Path) -> Result<Streamed> {
    let mut pair = Pair::start(binary)?;
    let folder = pair.client.prefix().to_owned();
    for kind in Kind::ALL {
        kind.write(&folder, FILE_BYTES, TIMES)?;
    }
    let mut caller = Caller::new(pair.server.connect()?)?;
    let printed = Kind::ALL.map(|kind| Printed { kind, samples: Vec::new(), lost: Vec::new() });
    let mut all = Streamed { relay: Vec::new(), printed: printed.into() };
    for round in 0..=schedule.rounds {
        eprintln!("streaming, round {round} of {}", schedule.rounds);
        let (relay, _) = slice(schedule.slice, || relay(&folder, Kind::Text))?;
        if round > 0 {
            all.relay.push(relay);
        }
        for series in &mut all.printed {
            let (sample, lost) = slice(schedule.slice, || caller.ask(series.kind)).with_context(|| pair.last_words())?;
            if round > 0 {
                series.samples.push(sample);
                series.lost.push(lost);
            }
        }
    }
    Ok(all)
}

pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let schedule = bench.schedule;
    run(schedule, bench.daemon()?).map(|streamed| figures(&streamed))
}

/// Output that arrived a second, and the share that did not.
fn figures(streamed: &Streamed) -> Vec<Figure> {
    let megabytes = |samples: &[Sample]| rates(samples).iter().map(|bytes| bytes / 1e6).collect::<Vec<_>>();
    let relay = megabytes(&streamed.relay);
    let mut figures = vec![Figure::new("streaming", "relay, text", Unit::MegabytesPerSecond, relay.clone())];
    for Printed { kind, samples, lost } in &streamed.printed {
        let name = match kind {
            Kind::Text => "text",
            Kind::Binary => "binary, in base 64",
        };
        let arrived = Figure::new("streaming", format!("{name}, arrived"), Unit::MegabytesPerSecond, megabytes(samples));
        let lost = lost.iter().map(|share| share * 100.0).collect();
        figures.push(arrived.against("relay", Some(&relay)));
        figures.push(Figure::new("streaming", format!("{name}, lost at full speed"), Unit::Percent, lost));
    }
    figures
}

/// Has it printed again and again for about `length`; also the share that was lost.
fn slice(length: Duration, mut print: impl FnMut() -> Result<u64>) -> Result<(Sample, f64)> {
    let (mut times, mut done) = (Vec::new(), 0);
    let started = Instant::now();
    let mut now = started;
    while now < started + length {
        system::check_stop()?;
        let began = now;
        done += print()?;
        now = Instant::now();
        times.push(now - began);
    }
    let printed = times.len() as u64 * FILE_BYTES * TIMES;
    let lost = 1.0 - done as f64 / printed as f64;
    Ok((Sample { done, ..Sample::of(&mut times, now - started) }, lost))
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Text, Kind::Binary];

    /// Its script's name, and that of its file.
    const fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Binary => "binary",
        }
    }

    /// Puts the file into a prefix, and the script that prints it so many times.
    fn write(self, prefix: &Path, bytes: u64, times: u64) -> Result<()> {
        let mut number = 1_u64;
        let line = b"the quick brown fox jumps over the lazy dog, and over it again.\n";
        let content: Vec<u8> = match self {
            Kind::Text => line.iter().copied().cycle().take(usize::try_from(bytes)?).collect(),
            Kind::Binary => (0..bytes)
                .map(|at| {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    match number.to_be_bytes()[0] {
                        _ if at % 64 == 63 => b'\n',
                        high @ 0x80.. => high,
                        low => b'a' + low % 26,
                    }
                })
                .collect(),
        };
        fs::write(prefix.join(self.name()), content)?;
        let files = vec![self.name(); usize::try_from(times)?].join(" ");
        crate::fleet::write_script(prefix, self.name(), &format!("#!/bin/sh\nexec cat {files}\n"))
    }
}

/// The same script, whose output goes through a pipe, a TCP connection and a Unix socket to us; how much came.
fn relay(prefix: &Path, kind: Kind) -> Result<u64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let out = TcpStream::connect(listener.local_addr()?)?;
    out.set_nodelay(true)?;
    let (back, _) = listener.accept()?;
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new("/bin/sh")
        .arg(prefix.join("scripts").join(kind.name()))
        .current_dir(prefix)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let pipe = child.stdout.take().context("it has a pipe")?;
    let movers = [thread::spawn(move || pass_on(pipe, out)), thread::spawn(move || pass_on(back, theirs))];
    let mut came = 0;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match ours.read(&mut buffer)? {
            0 => break,
            read => came += read as u64,
        }
    }
    for mover in movers {
        mover.join().map_err(|_| anyhow!("a thread of the relay panicked"))??;
    }
    let status = child.wait()?;
    let wanted = fs::metadata(prefix.join(kind.name()))?.len();
    ensure!(status.success() && came > 0 && came.is_multiple_of(wanted), "{came} bytes came of files of {wanted} ({status})");
    Ok(came)
}

/// By hand: what the standard library has for this would let the kernel do it, which a daemon cannot.
fn pass_on(mut from: impl Read, mut to: impl Write) -> Result<()> {
    let mut buffer = vec![0; RELAYED_BYTES];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
    }
}

/// A process at the server's socket.
struct Caller {
    socket: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Caller {
    fn new(socket: UnixStream) -> Result<Caller> {
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Caller { socket: BufReader::with_capacity(READ_BYTES, socket), line: Vec::new() })
    }

    /// Has it printed once; how much of it arrived.
    fn ask(&mut self, kind: Kind) -> Result<u64> {
        let request = format!(r#"{{"name":"{}","id":1,"output":"stream"}}"#, kind.name());
        self.socket.get_mut().write_all(request.as_bytes())?;
        let mut tally = Tally::default();
        loop {
            self.line.clear();
            self.socket.read_until(b'\n', &mut self.line).context("no output from the local socket")?;
            if tally.take(&self.line)? {
                return tally.arrived(FILE_BYTES * TIMES);
            }
        }
    }
}

/// What has been told of one run's output.
#[derive(Default)]
struct Tally {
    /// Where the next piece or a gap before it begins.
    offset: u64,
    lost: u64,
}

/// One piece of output.
#[derive(PartialEq, Eq, Debug)]
struct Piece {
    offset: u64,
    gap: u64,
    bytes: u64,
}

impl Tally {
    /// Whether this line is the final one; it must be good, and a piece of output must stand where the last one ended.
    fn take(&mut self, line: &[u8]) -> Result<bool> {
        let wrong = || anyhow!("not what comes of this: {}", String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]));
        let text = str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n')).with_context(wrong)?;
        if text.starts_with(r#"{"status":0,"id":1,"run":""#) {
            return Ok(true);
        }
        let Piece { offset, gap, bytes } = piece(text).with_context(wrong)?;
        ensure!(offset == self.offset + gap, "{} bytes were told, and {}", self.offset, wrong());
        self.offset = offset + bytes;
        self.lost += gap;
        Ok(false)
    }

    /// How much came, if with what is said to be lost it is all that was printed.
    fn arrived(&self, printed: u64) -> Result<u64> {
        ensure!(self.offset == printed, "{printed} bytes were printed, and {} were told of", self.offset);
        Ok(self.offset - self.lost)
    }
}

/// Reads one output event as the contract has it. Without a JSON parser: it shares the cores with the daemons.
fn piece(line: &str) -> Option<Piece> {
    let rest = line.strip_prefix(r#"{"event":"output","id":1,"run":""#)?;
    let (_, rest) = rest.split_once(r#"","stream":"stdout","offset":"#)?;
    let (place, rest) = rest.split_once(r#","data":""#)?;
    let (offset, gap) = place.split_once(r#","gap":"#).unwrap_or((place, "0"));
    let bytes = match rest.strip_suffix(r#"","encoding":"base64"}"#) {
        Some(base64) => base64.len() / 4 * 3 - base64.bytes().rev().take_while(|byte| *byte == b'=').count(),
        // Nothing but the ends of lines is escaped in what is printed: each backslash is a byte too many. Also of the binary
        // kind, of which a short piece may be text.
        None => {
            let text = rest.strip_suffix(r#""}"#)?;
            text.len() - text.bytes().filter(|byte| *byte == b'\\').count()
        }
    };
    Some(Piece { offset: offset.parse().ok()?, gap: gap.parse().ok()?, bytes: bytes as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(rest: &str) -> String {
        format!("{{\"event\":\"output\",\"id\":1,\"run\":\"0190a0c1\",\"stream\":\"stdout\",\"offset\":{rest}}}\n")
    }

    const FINAL: &[u8] = b"{\"status\":0,\"id\":1,\"run\":\"0190a0c1\",\"peer\":\"x\",\"ms\":1}\n";

    #[test]
    fn what_arrived_is_what_was_printed_less_what_is_said_to_be_lost() {
        let mut tally = Tally::default();
        let lines = [
            event(r#"0,"data":"a line\n""#),
            event(r#"12,"gap":5,"data":"/w==","encoding":"base64""#),
            event(r#"13,"data":"/wAB","encoding":"base64""#),
            event(r#"20,"gap":4,"data":"""#),
        ];
        for line in lines {
            assert!(!tally.take(line.as_bytes()).expect("as it is said"), "{line}");
        }
        assert!(tally.take(FINAL).expect("the end"));
        assert_eq!(tally.arrived(20).expect("all of it"), 11);
        assert!(tally.arrived(21).is_err(), "a byte is missing that nobody told of");
    }

    #[test]
    fn a_piece_that_stands_elsewhere_and_a_line_of_another_kind_are_errors() {
        for line in
            [event(r#"1,"data":"a""#), event(r#"1,"gap":2,"data":"a""#), event(r#"0,"data":"a"#), "{\"status\":1}\n".into()]
        {
            assert!(Tally::default().take(line.as_bytes()).is_err(), "{line}");
        }
        assert!(Tally::default().take(&FINAL[..9]).is_err(), "half a line");
    }

    #[test]
    fn the_relay_loses_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("scripts")).expect("a folder in it");
        for kind in Kind::ALL {
            kind.write(folder.path(), 100_000, 3).expect("room for it");
            assert_eq!(relay(folder.path(), kind).expect("a shell"), 300_000);
        }
        let binary = fs::read(folder.path().join(Kind::Binary.name())).expect("it was written");
        assert!(binary.chunks(64).all(|chunk| str::from_utf8(chunk).is_err()), "all of it goes in base 64");
    }
}
