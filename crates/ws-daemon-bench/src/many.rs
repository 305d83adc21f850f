//! Many connections to one server, with one request each under way: how the programs of others are asked 64 at a time.
//!
//! It knows no protocol: what is asked, and how much of what came is the answer, is told by who asks.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll;

use crate::contest::Measured;
use crate::sample::{Pace, Sample};
use crate::system;

/// An answer that takes longer is taken for lost.
const PATIENCE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
const READ_BYTES: usize = 16 << 10;
const EVENTS: usize = 64;

/// How many bytes of what came are one whole answer, if there is one; an error if it is a wrong one.
pub type Answered = fn(&[u8]) -> Result<Option<usize>>;

/// The connections.
pub struct Many<S> {
    streams: Vec<S>,
    epoll: rustix::fd::OwnedFd,
    request: Vec<u8>,
    answered: Answered,
}

/// What is under way on one of them.
struct Asked {
    at: Instant,
    received: Vec<u8>,
}

impl<S: Read + Write + AsFd> Many<S> {
    pub fn new(streams: Vec<S>, request: Vec<u8>, answered: Answered) -> Result<Many<S>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, stream) in (0..).zip(&streams) {
            epoll::add(&epoll, stream, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        }
        Ok(Many { streams, epoll, request, answered })
    }

    fn ask(&mut self, number: usize) -> Result<Asked> {
        let at = Instant::now();
        self.streams[number].write_all(&self.request).context("cannot ask")?;
        Ok(Asked { at, received: Vec::new() })
    }
}

impl<S: Read + Write + AsFd> Measured for Many<S> {
    /// On the first alone, or on all at once.
    fn measure(&mut self, pace: Pace, length: Duration) -> Result<Sample> {
        let count = match pace {
            Pace::OneByOne => 1,
            Pace::Flood => self.streams.len(),
        };
        let (mut times, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        let started = Instant::now();
        let mut asked = HashMap::new();
        for number in 0..count {
            asked.insert(number, self.ask(number)?);
        }
        while !asked.is_empty() {
            system::check_stop()?;
            let (ready, _) = match epoll::wait(&self.epoll, &mut room, Some(&PATIENCE)) {
                Err(rustix::io::Errno::INTR) => continue,
                events => events?,
            };
            ensure!(!ready.is_empty(), "no answer within {} s, {} under way", PATIENCE.tv_sec, asked.len());
            for event in ready {
                let number = usize::try_from(event.data.u64())?;
                let read = self.streams[number].read(&mut buffer)?;
                ensure!(read > 0, "the connection was closed, {} under way", asked.len());
                let Some(under_way) = asked.get_mut(&number) else { bail!("an answer that nobody asked for") };
                under_way.received.extend(&buffer[..read]);
                let Some(bytes) = (self.answered)(&under_way.received)? else { continue };
                ensure!(bytes == under_way.received.len(), "more than one answer");
                times.push(under_way.at.elapsed());
                if started.elapsed() < length {
                    asked.insert(number, self.ask(number)?);
                } else {
                    asked.remove(&number);
                }
            }
        }
        Ok(Sample::of(&mut times, started.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    fn line(received: &[u8]) -> Result<Option<usize>> {
        ensure!(!received.starts_with(b"-"), "refused");
        Ok(received.iter().position(|byte| *byte == b'\n').map(|place| place + 1))
    }

    /// Ends that answer every two bytes with this, in two writes.
    fn ends(count: usize, answer: &'static [u8]) -> Vec<UnixStream> {
        let pairs = (0..count).map(|_| UnixStream::pair().expect("a pair of sockets"));
        let end = |(ours, mut theirs): (UnixStream, UnixStream)| {
            thread::spawn(move || {
                while theirs.read_exact(&mut [0; 2]).is_ok() {
                    let (head, tail) = answer.split_at(1);
                    if theirs.write_all(head).and_then(|()| theirs.write_all(tail)).is_err() {
                        break;
                    }
                }
            });
            ours
        };
        pairs.map(end).collect()
    }

    #[test]
    fn each_connection_has_one_request_under_way() {
        let mut many = Many::new(ends(5, b"ok\n"), b"hi".to_vec(), line).expect("an epoll");
        let sample = many.measure(Pace::Flood, Duration::from_millis(10)).expect("answers");
        assert!(sample.done >= 5, "{sample:?}");
        many.measure(Pace::OneByOne, Duration::ZERO).expect("one more");
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        for wrong in [&b"-no\n"[..], b"ok\nok\n"] {
            let mut many = Many::new(ends(1, wrong), b"hi".to_vec(), line).expect("an epoll");
            assert!(many.measure(Pace::Flood, Duration::ZERO).is_err() || wrong != b"-no\n");
        }
    }
}
