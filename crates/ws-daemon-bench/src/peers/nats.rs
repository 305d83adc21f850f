//! NATS: a broker, and a responder at its other end, which answers with what it was asked or runs a program first.
//!
//! The client speaks as much of the protocol as that takes, by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{folder, free_port};
use crate::child::Child;
use crate::contest::Measured;
use crate::load::IN_FLIGHT;
use crate::program::Program;
use crate::sample::{Pace, Sample};
use crate::system;

/// An answer that takes longer is taken for lost.
const PATIENCE: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 << 10;
/// What is asked and answered.
const PAYLOAD: &str = "{}";
/// Programs that the responder runs at once: as many as bring the most.
const RUNNING: usize = 4;

pub struct Nats {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Nats {
    pub fn start(program: &Path) -> Result<Nats> {
        let folder = folder()?;
        Program::Minimal.write(folder.path())?;
        let address = free_port()?;
        let mut command = Command::new(program);
        command.current_dir(folder.path()).args(["-a", "127.0.0.1", "-p", &address.port().to_string()]);
        let child = Child::start(&mut command, folder.path().join("log"))?;
        let mut nats = Nats { child, address, folder };
        nats.connect()?;
        Ok(nats)
    }

    /// Requests that a responder answers at once.
    pub fn echoing(&mut self) -> Result<Requests> {
        let mut responder = self.connect()?;
        responder.subscribe("bench.echo")?;
        thread::spawn(move || {
            let _ = responder.serve(|inbox, replies| {
                publish(replies, inbox);
                Ok(())
            });
        });
        Requests::new(self.connect()?, "bench.echo")
    }

    /// Requests that a responder answers when it has run the minimal program for each, its output captured.
    pub fn running(&mut self) -> Result<Requests> {
        let mut responder = self.connect()?;
        responder.subscribe("bench.run")?;
        let replies = Arc::new(Mutex::new(responder.stream.try_clone()?));
        let (orders, taken) = mpsc::sync_channel::<String>(IN_FLIGHT);
        let taken = Arc::new(Mutex::new(taken));
        for _ in 0..RUNNING {
            let (taken, replies, program) = (Arc::clone(&taken), Arc::clone(&replies), self.program());
            thread::spawn(move || {
                while let Ok(inbox) = next(&taken) {
                    if answer_by_running(&program, &inbox, &replies).is_err() {
                        break;
                    }
                }
            });
        }
        thread::spawn(move || {
            let _ = responder.serve(|inbox, _| Ok(orders.send(inbox.to_owned())?));
        });
        Requests::new(self.connect()?, "bench.run")
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join(Program::Minimal.name())
    }

    fn connect(&mut self) -> Result<Connection> {
        let address = self.address;
        let stream = self.child.wait_for("the port of nats-server", || TcpStream::connect(address).ok())?;
        Connection::new(stream)
    }
}

/// The next order; the lock is given up when it is there.
fn next(taken: &Mutex<mpsc::Receiver<String>>) -> Result<String> {
    Ok(taken.lock().unwrap_or_else(PoisonError::into_inner).recv()?)
}

fn answer_by_running(program: &Path, inbox: &str, replies: &Mutex<TcpStream>) -> Result<()> {
    let output = Command::new(program).arg(PAYLOAD).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "the program ended with {}", output.status);
    let mut reply = Vec::new();
    publish(&mut reply, inbox);
    Ok(replies.lock().unwrap_or_else(PoisonError::into_inner).write_all(&reply)?)
}

fn publish(out: &mut Vec<u8>, subject: &str) {
    out.extend(format!("PUB {subject} {}\r\n{PAYLOAD}\r\n", PAYLOAD.len()).as_bytes());
}

/// One connection to the broker.
struct Connection {
    stream: TcpStream,
    /// What has been read and not taken.
    incoming: Vec<u8>,
    buffer: Vec<u8>,
}

/// What the broker says.
#[derive(PartialEq, Eq, Debug)]
enum Said {
    /// A message: its subject, and where an answer goes.
    Message(String, String),
    Ping,
    Other,
}

impl Connection {
    fn new(stream: TcpStream) -> Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut connection = Connection { stream, incoming: Vec::new(), buffer: vec![0; READ_BYTES] };
        connection.stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
        connection.settle()?;
        Ok(connection)
    }

    /// What is published to this from now on comes here.
    fn subscribe(&mut self, subject: &str) -> Result<()> {
        self.stream.write_all(format!("SUB {subject} 1\r\n").as_bytes())?;
        self.settle()
    }

    /// Until the broker has taken all that was said.
    fn settle(&mut self) -> Result<()> {
        self.stream.write_all(b"PING\r\n")?;
        while !self.incoming.windows(6).any(|bytes| bytes == b"PONG\r\n") {
            self.read()?;
        }
        self.incoming.clear();
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        match self.stream.read(&mut self.buffer) {
            Ok(0) => bail!("nats-server closed the connection"),
            Ok(read) => self.incoming.extend(&self.buffer[..read]),
            Err(failure) if failure.kind() == ErrorKind::Interrupted => {}
            Err(failure) => return Err(failure).context("no answer from nats-server"),
        }
        Ok(())
    }

    /// Reads once, and has `take` see each message that is whole; pings are answered.
    fn hear(&mut self, mut take: impl FnMut(&str, &str, &mut Vec<u8>) -> Result<()>) -> Result<()> {
        self.read()?;
        let (mut answers, mut rest) = (Vec::new(), 0);
        while let Some((said, bytes)) = said(&self.incoming[rest..])? {
            match said {
                Said::Message(subject, inbox) => take(&subject, &inbox, &mut answers)?,
                Said::Ping => answers.extend(b"PONG\r\n"),
                Said::Other => {}
            }
            rest += bytes;
        }
        self.incoming.drain(..rest);
        if !answers.is_empty() {
            self.stream.write_all(&answers)?;
        }
        Ok(())
    }

    /// Answers until the broker is gone: `answer` gets where to, and may write it.
    fn serve(&mut self, mut answer: impl FnMut(&str, &mut Vec<u8>) -> Result<()>) -> Result<()> {
        self.stream.set_read_timeout(None)?;
        loop {
            self.hear(|_, inbox, answers| answer(inbox, answers))?;
        }
    }
}

/// The first thing that is whole, and its length.
fn said(bytes: &[u8]) -> Result<Option<(Said, usize)>> {
    let Some(end) = bytes.windows(2).position(|bytes| bytes == b"\r\n") else { return Ok(None) };
    let line = str::from_utf8(&bytes[..end])?;
    ensure!(!line.starts_with("-ERR"), "nats-server says {line}");
    if line == "PING" {
        return Ok(Some((Said::Ping, end + 2)));
    }
    let Some(rest) = line.strip_prefix("MSG ") else { return Ok(Some((Said::Other, end + 2))) };
    let words: Vec<&str> = rest.split(' ').collect();
    let (subject, inbox, length) = match *words {
        [subject, _, length] => (subject, "", length),
        [subject, _, inbox, length] => (subject, inbox, length),
        _ => bail!("nats-server says {line}"),
    };
    let whole = end + 2 + length.parse::<usize>()? + 2;
    Ok((bytes.len() >= whole).then(|| (Said::Message(subject.to_owned(), inbox.to_owned()), whole)))
}

/// A process that asks on one connection.
pub struct Requests {
    connection: Connection,
    subject: &'static str,
    next_id: u64,
    in_flight: Vec<(u64, Instant)>,
}

impl Requests {
    fn new(mut connection: Connection, subject: &'static str) -> Result<Requests> {
        connection.subscribe("_INBOX.bench.*")?;
        Ok(Requests { connection, subject, next_id: 1, in_flight: Vec::new() })
    }

    fn ask(&mut self, count: usize) -> Result<()> {
        let now = Instant::now();
        let mut requests = Vec::new();
        for _ in 0..count {
            write!(requests, "PUB {} _INBOX.bench.{} {}\r\n{PAYLOAD}\r\n", self.subject, self.next_id, PAYLOAD.len())?;
            self.in_flight.push((self.next_id, now));
            self.next_id += 1;
        }
        self.connection.stream.write_all(&requests).context("cannot write to nats-server")
    }
}

impl Measured for Requests {
    fn measure(&mut self, pace: Pace, length: Duration) -> Result<Sample> {
        let window = match pace {
            Pace::OneByOne => 1,
            Pace::Flood => IN_FLIGHT,
        };
        let (mut times, started) = (Vec::new(), Instant::now());
        self.ask(window)?;
        while !self.in_flight.is_empty() {
            system::check_stop()?;
            let in_flight = &mut self.in_flight;
            self.connection.hear(|subject, _, _| {
                let id: Option<u64> = subject.strip_prefix("_INBOX.bench.").and_then(|id| id.parse().ok());
                let place = in_flight.iter().position(|(other, _)| Some(*other) == id);
                let place = place.with_context(|| format!("an answer to nothing: {subject}"))?;
                times.push(in_flight.remove(place).1.elapsed());
                Ok(())
            })?;
            let room = window - self.in_flight.len();
            if room > 0 && started.elapsed() < length {
                self.ask(room)?;
            }
        }
        Ok(Sample::of(&mut times, started.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_says_is_taken_when_it_is_whole() {
        let message = b"MSG bench.echo 1 _INBOX.bench.7 2\r\n{}\r\nPING\r\n";
        for length in 0..39 {
            assert_eq!(said(&message[..length]).expect("half of it"), None, "{length}");
        }
        let (first, bytes) = said(message).expect("a message").expect("all of it");
        assert_eq!(first, Said::Message("bench.echo".into(), "_INBOX.bench.7".into()));
        assert_eq!(said(&message[bytes..]).expect("a ping"), Some((Said::Ping, 6)));
        assert_eq!(said(b"MSG _INBOX.bench.7 1 0\r\n\r\n").expect("an answer").map(|(_, bytes)| bytes), Some(26));
        assert!(said(b"-ERR 'Unknown Protocol Operation'\r\n").is_err());
    }
}
