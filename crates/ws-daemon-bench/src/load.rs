//! The load generator: asks over a local socket, counts and checks what comes back.
//!
//! It shares the cores with the daemons and their children, so it is cheap: one
//! thread, blocking calls, one write for all requests that a read has made room for,
//! no JSON parser. It is strict all the same: each line must have the bytes that the
//! contract gives for a request that is in flight; anything else is an error, and no figure.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::contest::Measured;
use crate::sample::{Pace, Sample};
use crate::system;

/// Requests in flight under [`Pace::Flood`].
pub const IN_FLIGHT: usize = 64;

/// An answer that takes longer is taken for lost.
const PATIENCE: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 * 1024;
/// How much of a wrong answer is shown.
const SHOWN_BYTES: usize = 300;

/// What is asked, again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// Run the minimal program on the peer whose turn it is.
    Run,
    /// Run the shell script on the peer.
    Shell,
    /// Run the minimal program on the [client](crate::fleet::CLIENT), whoever else there is.
    RunThere,
    /// An order for the [first stand-in](crate::stand_ins::name), whoever else there is.
    First,
    /// A call of whoever [serves](crate::serving).
    Call,
    /// A round trip to the [client](crate::fleet::CLIENT), and no run.
    Ping,
    /// Keep a request on disk, for a peer that never was.
    Keep,
    /// Run what does not exist: the whole way there and back, and no process.
    Missing,
    /// A status for nobody, which goes to a local process of the peer: the way there
    /// alone, past routing and scripts. The purest message that the seed has.
    Notice,
    /// A status for the asker itself, by its own daemon: no link, no peer.
    Echo,
}

/// The text around the id in what is sent and in what comes.
struct Wording {
    request: [&'static str; 2],
    answer: [&'static str; 2],
    /// If not empty: the answer goes on after its second part, and holds this.
    holds: &'static str,
}

impl Question {
    const fn wording(self) -> Wording {
        match self {
            Question::Run => Wording {
                request: [r#"{"name":"min","id":""#, r#"","params":{}}"#],
                answer: [r#"{"status":0,"id":""#, r#""}"#],
                holds: "",
            },
            Question::Shell => Wording {
                request: [r#"{"name":"sh","id":""#, r#"","params":{}}"#],
                answer: [r#"{"status":0,"id":""#, r#""}"#],
                holds: "",
            },
            Question::RunThere => Wording {
                request: [r#"{"name":"min","id":""#, r#"","params":{},"to":"bench-client"}"#],
                answer: [r#"{"status":0,"id":""#, r#"","run":""#],
                holds: r#","peer":"bench-client""#,
            },
            Question::First => Wording {
                request: [r#"{"name":"min","id":""#, r#"","params":{},"to":"bench-0"}"#],
                answer: [r#"{"status":0,"id":""#, r#"","run":""#],
                holds: r#","peer":"bench-0""#,
            },
            Question::Call => Wording {
                request: [r#"{"name":"bench/call","id":""#, r#"","params":{}}"#],
                answer: [r#"{"status":0,"id":""#, r#""}"#],
                holds: "",
            },
            Question::Ping => Wording {
                request: [r#"{"name":"+cmd","id":""#, r#"","params":{"code":"PING","data":"bench-client"}}"#],
                answer: [r#"{"status":0,"id":""#, r#"","peer":"bench-client","us":"#],
                holds: "}",
            },
            Question::Keep => Wording {
                request: [
                    r#"{"name":"sms/send","id":""#,
                    r#"","params":{"to":"+4915112345678","text":"Your code is 123456. It is valid for ten minutes."},"to":"absent","queue":true}"#,
                ],
                answer: [r#"{"event":"accepted","id":""#, r#"","run":""#],
                holds: "}",
            },
            Question::Missing => Wording {
                request: [r#"{"name":"absent","id":""#, r#"","params":{}}"#],
                answer: [r#"{"status":-1,"id":""#, r#"","#],
                holds: r#""error":"not_found""#,
            },
            Question::Notice => Wording {
                request: [r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":0,"id":""#, r#""}}}"#],
                answer: [r#"{"status":0,"id":""#, r#""}"#],
                holds: "",
            },
            Question::Echo => Wording {
                request: [r#"{"name":"+cmd","params":{"code":"STATUS","data":{"status":0,"id":""#, r#""}}}"#],
                answer: [r#"{"status":0,"id":""#, r#""}"#],
                holds: "",
            },
        }
    }

    /// The id in an answer, if the line is one to this question.
    fn id_in(self, line: &str) -> Option<u64> {
        let wording = self.wording();
        let rest = line.strip_prefix(wording.answer[0])?;
        let (digits, rest) = rest.split_at_checked(rest.find('"')?)?;
        let rest = rest.strip_prefix(wording.answer[1])?;
        let whole = if wording.holds.is_empty() { rest.is_empty() } else { rest.contains(wording.holds) };
        // As we write them: a parser would also take "+7" and "07".
        let plain = !digits.starts_with(['+', '0']);
        if whole && plain { digits.parse().ok() } else { None }
    }
}

/// One question's way: where it is asked, and where the answer comes.
pub struct Lane {
    question: Question,
    ask: UnixStream,
    hear: UnixStream,
    next_id: u64,
    in_flight: Vec<(u64, Instant)>,
    outgoing: Vec<u8>,
    /// What has been read; only its first `filled` bytes count.
    incoming: Vec<u8>,
    filled: usize,
}

impl Lane {
    /// `hear` is the connection where answers come, if it is not the one that asks.
    pub fn new(question: Question, ask: UnixStream, hear: Option<UnixStream>) -> Result<Lane> {
        let hear = match hear {
            Some(hear) => hear,
            None => ask.try_clone()?,
        };
        hear.set_read_timeout(Some(PATIENCE))?;
        ask.set_write_timeout(Some(PATIENCE))?;
        Ok(Lane {
            question,
            ask,
            hear,
            next_id: 1,
            in_flight: Vec::with_capacity(IN_FLIGHT),
            outgoing: Vec::new(),
            incoming: vec![0; READ_BYTES],
            filled: 0,
        })
    }

    /// The same, whose requests have numbers from `first` on: what is queued is known by them.
    pub fn numbered_from(self, first: u64) -> Lane {
        Lane { next_id: first, ..self }
    }

    /// One question and its answer.
    pub fn ask_once(&mut self) -> Result<()> {
        self.measure(Pace::OneByOne, Duration::ZERO).map(drop)
    }

    /// So many, [`IN_FLIGHT`] at a time.
    pub fn ask(&mut self, count: usize) -> Result<Sample> {
        let mut left = count;
        self.ask_while(IN_FLIGHT, |asking| {
            let more = asking.min(left);
            left -= more;
            more
        })
    }

    /// `window` in flight for as long as `more` lets so many be asked, then waits for the last answers.
    fn ask_while(&mut self, window: usize, mut more: impl FnMut(usize) -> usize) -> Result<Sample> {
        let mut times = Vec::new();
        let started = Instant::now();
        self.send(more(window), started)?;
        while !self.in_flight.is_empty() {
            self.hear(&mut times)?;
            let count = more(window - self.in_flight.len());
            if count > 0 {
                self.send(count, Instant::now())?;
            }
        }
        ensure!(!times.is_empty(), "nothing was asked");
        Ok(Sample::of(&mut times, started.elapsed()))
    }

    fn send(&mut self, count: usize, now: Instant) -> Result<()> {
        let [before, after] = self.question.wording().request;
        self.outgoing.clear();
        for _ in 0..count {
            write!(self.outgoing, "{before}{}{after}", self.next_id)?;
            self.in_flight.push((self.next_id, now));
            self.next_id += 1;
        }
        self.ask.write_all(&self.outgoing).context("cannot write to the local socket")
    }

    /// Reads once, and settles each whole line.
    fn hear(&mut self, times: &mut Vec<Duration>) -> Result<()> {
        system::check_stop()?;
        ensure!(self.filled < READ_BYTES, "a line of {READ_BYTES} bytes without an end");
        let read = match self.hear.read(&mut self.incoming[self.filled..]) {
            Ok(0) => bail!("the daemon closed the connection, {} in flight", self.in_flight.len()),
            Ok(read) => read,
            Err(failure) if failure.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(failure) if failure.kind() == ErrorKind::WouldBlock => {
                bail!("no answer within {PATIENCE:?}, {} in flight", self.in_flight.len())
            }
            Err(failure) => return Err(failure).context("cannot read from the local socket"),
        };
        let now = Instant::now();
        let end = self.filled + read;
        let mut start = 0;
        while let Some(length) = self.incoming[start..end].iter().position(|byte| *byte == b'\n') {
            let line = &self.incoming[start..start + length];
            let asked = settle(self.question, &mut self.in_flight, line)?;
            times.push(now - asked);
            start += length + 1;
        }
        self.incoming.copy_within(start..end, 0);
        self.filled = end - start;
        Ok(())
    }
}

impl Measured for Lane {
    /// Asks for about `length`, at least once.
    fn measure(&mut self, pace: Pace, length: Duration) -> Result<Sample> {
        let until = Instant::now() + length;
        let window = match pace {
            Pace::OneByOne => 1,
            Pace::Flood => IN_FLIGHT,
        };
        let mut begun = false;
        self.ask_while(window, |room| if !std::mem::replace(&mut begun, true) || Instant::now() < until { room } else { 0 })
    }
}

/// Strikes out the request that this line answers; when it was sent.
fn settle(question: Question, in_flight: &mut Vec<(u64, Instant)>, line: &[u8]) -> Result<Instant> {
    let answered = str::from_utf8(line).ok().and_then(|line| question.id_in(line));
    let place = in_flight.iter().position(|(id, _)| Some(*id) == answered);
    let Some(place) = place else {
        let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]);
        bail!("not the answer to anything asked ({question:?}): {shown}");
    };
    // The order is kept because the oldest is the likeliest to be answered next.
    Ok(in_flight.remove(place).1)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::thread;

    use super::*;
    use crate::program::Program;

    /// A daemon's local socket that answers every `batch` requests, the last first.
    fn stand_in(batch: usize, answer: fn(&str) -> String) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        thread::spawn(move || {
            let mut writer = theirs.try_clone().expect("a second handle");
            let mut ids = Vec::new();
            for request in BufReader::new(theirs).split(b'}').map_while(Result::ok) {
                let request = String::from_utf8_lossy(&request).into_owned();
                let Some((_, rest)) = request.split_once(r#""id":""#) else {
                    continue;
                };
                ids.push(rest.split('"').next().unwrap_or_default().to_owned());
                if ids.len() == batch {
                    let lines: String = ids.drain(..).rev().map(|id| answer(&id)).collect();
                    if writer.write_all(lines.as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        ours
    }

    #[test]
    fn the_script_that_is_asked_for_is_the_one_that_is_there() {
        for (question, program) in
            [(Question::Run, Program::Minimal), (Question::RunThere, Program::Minimal), (Question::Shell, Program::Shell)]
        {
            let asked = format!(r#"{{"name":"{}","#, program.name());
            assert!(question.wording().request[0].starts_with(&asked), "{question:?}");
            assert!(!Question::Missing.wording().request[0].starts_with(&asked));
        }
        for (question, name) in
            [(Question::RunThere, crate::fleet::CLIENT.to_owned()), (Question::First, crate::stand_ins::name(0))]
        {
            assert!(question.wording().holds.contains(&format!("\"{name}\"")), "{question:?}");
            assert!(question.wording().request[1].contains(&format!("\"{name}\"")), "{question:?}");
        }
    }

    #[test]
    fn a_flood_is_answered_in_any_order() {
        let socket = stand_in(IN_FLIGHT, |id| format!("{{\"status\":0,\"id\":\"{id}\"}}\n"));
        let mut lane = Lane::new(Question::Run, socket, None).expect("a lane");
        let sample = lane.measure(Pace::Flood, Duration::from_millis(20)).expect("a sample");
        assert!(sample.done >= IN_FLIGHT as u64 && sample.done.is_multiple_of(IN_FLIGHT as u64));
    }

    #[test]
    fn one_by_one_waits_for_each() {
        let socket = stand_in(1, |id| format!("{{\"status\":-1,\"id\":\"{id}\",\"error\":\"not_found\",\"message\":\"x\"}}\n"));
        let mut lane = Lane::new(Question::Missing, socket, None).expect("a lane");
        let sample = lane.measure(Pace::OneByOne, Duration::from_millis(5)).expect("a sample");
        assert!(sample.done > 0);
        lane.ask_once().expect("one more");
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        let wrong: [fn(&str) -> String; 5] = [
            |id| format!("{{\"status\":0,\"id\":\"+{id}\"}}\n"),
            |id| format!("{{\"status\":1,\"id\":\"{id}\"}}\n"),
            |id| format!("{{\"status\":0,\"id\":\"{id}0\"}}\n"),
            |id| format!("{{\"status\":0,\"id\":{id}}}\n"),
            |id| format!("{{\"status\":0,\"id\":\"{id}\"}}\n{{\"status\":0,\"id\":\"{id}\"}}\n"),
        ];
        for answer in wrong {
            let mut lane = Lane::new(Question::Run, stand_in(1, answer), None).expect("a lane");
            let failure = lane.ask_once().expect_err("it is wrong");
            assert!(failure.to_string().contains("not the answer"), "{failure:#}");
        }
    }
}
