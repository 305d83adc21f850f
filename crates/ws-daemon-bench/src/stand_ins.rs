//! Peers that do nothing but say so: each answers every order at once with status 0, all of them on one thread.
//!
//! They speak version 2 of the link by hand, as far as direct runs need it. They start nothing, ask for nothing, and never look
//! at what an order wants: what they cost is a read, a search for an id and a write.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll;

use crate::links::{FINAL_PING, FINAL_PONG, MASK, MASKED, dial, shake_hands};
use crate::system;

pub const FINAL_TEXT: u8 = 0x81;
/// The line of the handshake by which version 2 is offered.
pub const OFFERED: &str = "Ws-Daemon: 2\r\n";
/// A frame of more than this says so in two more bytes.
const SHORT_BYTES: usize = 125;
const TWO_MORE: u8 = 126;
/// One read; orders are a few hundred bytes.
const READ_BYTES: usize = 4096;
const EVENTS: usize = 256;
/// Marks the event that ends the thread; no stand-in has this number.
const END: u64 = u64::MAX;

/// Stand-ins at work; gone without a trace when dropped.
pub struct StandIns {
    /// Closed, it ends the thread.
    end: Option<UnixStream>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl StandIns {
    /// So many version 2 peers of one server, called as [`name`] says; all their links are up.
    pub fn link(server: SocketAddr, count: usize) -> Result<StandIns> {
        let link = |number| {
            system::check_stop()?;
            greet(server, number).with_context(|| format!("stand-in {number}"))
        };
        StandIns::on((0..count).map(link).collect::<Result<_>>()?)
    }

    /// One at the end of each of these connections.
    pub fn on(streams: Vec<TcpStream>) -> Result<StandIns> {
        let (end, ended) = UnixStream::pair()?;
        let thread = thread::spawn(move || serve(streams, &ended));
        Ok(StandIns { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        drop(self.end.take());
        // Whoever waits for their answers fails as well, but does not know why.
        if let Some(Ok(Err(failure))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the stand-ins: {failure:#}");
        }
    }
}

/// The name of a stand-in.
pub fn name(number: usize) -> String {
    format!("bench-{number}")
}

/// A frame as a client sends it.
pub fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind, MASKED, &MASK, payload)
}

/// A frame as a server sends it.
pub fn plain(payload: &[u8]) -> Vec<u8> {
    frame(FINAL_TEXT, 0, &[], payload)
}

/// What a stand-in answers to an order for the run `run`.
pub fn done(run: &str) -> Vec<u8> {
    let status = format!(r#"{{"name":"&cmd","params":{{"code":"STATUS","data":{{"status":0,"id":"{run}"}}}}}}"#);
    masked(FINAL_TEXT, status.as_bytes())
}

fn frame(kind: u8, bit: u8, mask: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    match u8::try_from(payload.len()) {
        Ok(length) if payload.len() <= SHORT_BYTES => frame.push(bit | length),
        _ => {
            frame.push(bit | TWO_MORE);
            frame.extend(u16::try_from(payload.len()).expect("what we say is short").to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload);
    frame
}

/// What a stand-in says first, on a link that offers version 2; its epoch must rise with every link.
pub fn hello(number: usize, epoch: u64) -> Vec<u8> {
    let who = serde_json::json!({
        "name": name(number), "configured": true, "instance": format!("00000000-0000-4000-8000-{number:012}"), "epoch": epoch,
        "version": "0.2.0",
    });
    masked(FINAL_TEXT, format!(r#"{{"name":"&cmd","params":{{"code":"HELLO","data":{who}}}}}"#).as_bytes())
}

/// Whether the server has said HELLO, which is taken out of what was received.
pub fn greeted(received: &mut Vec<u8>) -> Result<bool> {
    let Some((kind, place)) = first_frame(received)? else { return Ok(false) };
    let payload = String::from_utf8_lossy(&received[place.clone()]);
    ensure!(kind == FINAL_TEXT && payload.contains(r#""code":"HELLO""#), "no HELLO from the server: {payload}");
    received.drain(..place.end);
    Ok(true)
}

/// Dials, says HELLO and waits for the server's: then the link is up.
fn greet(server: SocketAddr, number: usize) -> Result<TcpStream> {
    let mut stream = dial(server, number)?;
    shake_hands(&mut stream, server, OFFERED)?;
    stream.write_all(&hello(number, 1))?;
    let mut received = Vec::new();
    while !greeted(&mut received)? {
        ensure!(receive(&mut stream, &mut received)?, "the server closed the connection");
    }
    ensure!(received.is_empty(), "the server says more than HELLO");
    Ok(stream)
}

/// Answers on all of them until the other end of `end` is closed.
fn serve(streams: Vec<TcpStream>, end: &UnixStream) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut stand_ins = Vec::new();
    for (number, stream) in (0..).zip(streams) {
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        stand_ins.push((stream, Vec::new()));
    }
    epoll::add(&epoll, end, epoll::EventData::new_u64(END), epoll::EventFlags::IN)?;
    let mut room = [const { MaybeUninit::uninit() }; EVENTS];
    loop {
        let (ready, _) = match epoll::wait(&epoll, &mut room, None) {
            Err(rustix::io::Errno::INTR) => continue,
            events => events?,
        };
        for event in ready {
            let number = event.data.u64();
            if number == END {
                return Ok(());
            }
            let (stream, received) = &mut stand_ins[usize::try_from(number)?];
            let open = receive(stream, received)?;
            ensure!(open, "the server closed the link of stand-in {number}");
            let answers = answers(received, |_| {}).with_context(|| format!("stand-in {number}"))?;
            stream.write_all(&answers)?;
        }
    }
}

/// Reads once. `false` at the end.
fn receive(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; READ_BYTES];
    let read = stream.read(&mut buffer)?;
    received.extend(&buffer[..read]);
    Ok(read > 0)
}

/// The answers to every whole frame, which are taken out of what was received; `pong` gets what pongs bring.
pub fn answers(received: &mut Vec<u8>, mut pong: impl FnMut(&[u8])) -> Result<Vec<u8>> {
    let mut answers = Vec::new();
    let mut rest = 0;
    while let Some((kind, place)) = first_frame(&received[rest..])? {
        let payload = &received[rest..][place.clone()];
        match kind {
            FINAL_TEXT => answers.extend(order(payload).map(done).unwrap_or_default()),
            FINAL_PING => answers.extend(masked(FINAL_PONG, payload)),
            FINAL_PONG => pong(payload),
            other => bail!("the server sent a frame that begins with {other:#04x}"),
        }
        rest += place.end;
    }
    received.drain(..rest);
    Ok(answers)
}

/// The run that is ordered, if it is an order: whatever else a server says to its peers wants no answer.
fn order(payload: &[u8]) -> Option<&str> {
    let text = str::from_utf8(payload).ok().filter(|text| !text.starts_with(r#"{"name":"&cmd""#))?;
    let (_, rest) = text.split_once(r#","id":""#)?;
    rest.split_once('"').map(|(run, _)| run)
}

/// The kind of the first frame and where its payload stands, if all of it is there.
fn first_frame(bytes: &[u8]) -> Result<Option<(u8, Range<usize>)>> {
    let (kind, length, start) = match *bytes {
        [kind, length, ..] if usize::from(length) <= SHORT_BYTES => (kind, usize::from(length), 2),
        [kind, TWO_MORE, high, low, ..] => (kind, usize::from(u16::from_be_bytes([high, low])), 4),
        [] | [_] | [_, TWO_MORE] | [_, TWO_MORE, _] => return Ok(None),
        [kind, length, ..] => bail!("the server sent a frame that begins with {kind:02x} {length:02x}"),
    };
    Ok((bytes.len() >= start + length).then_some((kind, start..start + length)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn every_order_is_answered_under_its_id_however_it_is_cut_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let (mut server, _) = listener.accept().expect("its other end");
        let stand_ins = StandIns::on(vec![stream]).expect("a stand-in");
        let long = "0190a0c1-0000-7000-8000-000000000001";
        let mut said = plain(br#"{"name":"min","id":"r1","params":{"id":"no"}}"#);
        said.extend([FINAL_PING, 2, b'h', b'i']);
        said.extend(plain(br#"{"name":"&cmd","id":"no","params":{"code":"DRAIN","data":null}}"#));
        said.extend(plain(format!(r#"{{"name":"min","id":"{long}","params":"{}"}}"#, "x".repeat(300)).as_bytes()));
        let (first, rest) = said.split_at(60);
        let expected = [done("r1"), masked(FINAL_PONG, b"hi"), done(long)].concat();
        let mut heard = vec![0; expected.len()];
        server.write_all(first).expect("it reads");
        server.read_exact(&mut heard[..done("r1").len()]).expect("its first answer");
        server.write_all(rest).expect("it reads");
        server.read_exact(&mut heard[done("r1").len()..]).expect("the others");
        assert_eq!(heard, expected);
        drop(stand_ins);
        assert!(!matches!(server.read(&mut [0]), Ok(1..)), "it says nothing more");
    }

    #[test]
    fn a_frame_is_known_when_all_of_it_is_there() {
        let long = plain(&[b'x'; 300]);
        assert_eq!(first_frame(&long).expect("a frame"), Some((FINAL_TEXT, 4..304)));
        for length in 0..long.len() {
            assert_eq!(first_frame(&long[..length]).expect("half a frame"), None, "{length}");
        }
        assert_eq!(first_frame(&plain(b"ab")).expect("a frame"), Some((FINAL_TEXT, 2..4)));
        assert!(first_frame(&masked(FINAL_TEXT, b"ab")).is_err(), "servers do not mask");
    }
}
