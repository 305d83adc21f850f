//! A local process's connection to a daemon, seen from the process: bytes in, lines out. It owns one socket; it
//! never interprets what it reads, so that tests compare exactly what came.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use rustix::thread::{Gid, Uid, set_thread_gid, set_thread_groups, set_thread_uid};
use serde_json::{Value, json};

use super::log::Log;
use super::{DEADLINE, left};

const CHUNK_BYTES: usize = 16 * 1024;

/// Makes each mark of `nothing_waiting` another one.
static MARKS: AtomicU64 = AtomicU64::new(0);

pub struct Local {
    connection: Box<dyn Connection>,
    /// Read from the socket, not yet taken as lines.
    unread: Vec<u8>,
    log: Log,
}

impl Local {
    pub fn unix(path: &Path, log: &Log) -> Self {
        let connection =
            UnixStream::connect(path).unwrap_or_else(|error| panic!("cannot connect to {}: {error}\n{log}", path.display()));
        Self::greet(Box::new(connection), log)
    }

    /// A connection that was made before; the daemon need not be there yet.
    pub fn of(connection: UnixStream, log: &Log) -> Self {
        connection.set_write_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        Self { connection: Box::new(connection), unread: Vec::new(), log: log.clone() }
    }

    /// A connection of a process of another user, in these groups; asks for [`need_root`](super::need_root). The daemon is not
    /// asked whether it is known there yet: that user may not be allowed to ask anything.
    pub fn unix_as(user: u32, groups: &[u32], path: &Path, log: &Log) -> Self {
        let connect = || {
            let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
            // Of this thread alone, by the system's own calls.
            set_thread_groups(&groups).expect("root may");
            set_thread_gid(Gid::from_raw(user)).expect("root may");
            set_thread_uid(Uid::from_raw(user)).expect("root may");
            UnixStream::connect(path)
        };
        let connected = thread::scope(|scope| scope.spawn(connect).join().expect("it does not panic"));
        let connection = connected.unwrap_or_else(|error| panic!("cannot connect to {}: {error}\n{log}", path.display()));
        connection.limit_writes(DEADLINE).expect("a deadline is not zero");
        Self { connection: Box::new(connection), unread: Vec::new(), log: log.clone() }
    }

    pub fn tcp(address: &str, log: &Log) -> Self {
        let connection =
            TcpStream::connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}\n{log}"));
        Self::greet(Box::new(connection), log)
    }

    /// The same for who may not be allowed to ask whether the daemon knows it.
    pub fn tcp_unseen(address: &str, log: &Log) -> Self {
        let connection =
            TcpStream::connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}\n{log}"));
        connection.limit_writes(DEADLINE).expect("a deadline is not zero");
        Self { connection: Box::new(connection), unread: Vec::new(), log: log.clone() }
    }

    /// Sends bytes as they are; nothing is appended.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.write_all(bytes.as_ref()).unwrap_or_else(|error| panic!("cannot send: {error}\n{}", self.log));
    }

    /// Sends to a daemon that may close the connection meanwhile.
    ///
    /// # Errors
    /// What the socket says when it has.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.connection.write_all(bytes.as_ref())
    }

    /// The next line, without its newline.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let until = Instant::now() + DEADLINE;
        let mut looked = 0;
        loop {
            if let Some(end) = self.unread[looked..].iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(looked + end + 1);
                let mut line = mem::replace(&mut self.unread, rest);
                line.pop();
                return String::from_utf8(line).expect("lines are UTF-8");
            }
            looked = self.unread.len();
            let read = self.read_more(until);
            assert!(read > 0, "closed before a line was whole; unread: {}\n{}", self.unread_text(), self.log);
        }
    }

    /// Sends and takes the next line.
    #[track_caller]
    pub fn ask(&mut self, text: &str) -> String {
        self.send(text);
        self.line()
    }

    /// The next line, read as JSON.
    #[track_caller]
    pub fn said(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a request with these members, and takes all its lines: the events, and the final line.
    #[track_caller]
    pub fn run(&mut self, request: &Value) -> (Vec<Value>, Value) {
        self.send(request.to_string());
        self.rest()
    }

    /// The lines up to the first with a status, and that one.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<Value>, Value) {
        let mut events = Vec::new();
        loop {
            let said = self.said();
            if !said["status"].is_null() {
                return (events, said);
            }
            events.push(said);
        }
    }

    /// Gives a command to the daemon itself, and takes its answer.
    #[track_caller]
    pub fn command(&mut self, code: &str, data: &Value) -> Value {
        self.send(json!({ "name": "+cmd", "id": "c", "params": { "code": code, "data": data } }).to_string());
        let said = self.said();
        assert_eq!(said["id"], "c", "{said}");
        said
    }

    /// What a command that goes well answers.
    #[track_caller]
    pub fn result(&mut self, code: &str, data: &Value) -> Value {
        let mut said = self.command(code, data);
        assert_eq!(said["status"], 0, "{said}\n{}", self.log);
        said["result"].take()
    }

    /// Shuts down the writing side, as a process does that has said everything.
    #[track_caller]
    pub fn half_close(&mut self) {
        self.connection.shut_down(Shutdown::Write).unwrap_or_else(|error| panic!("cannot half-close: {error}\n{}", self.log));
    }

    /// Waits until the daemon has closed the connection, with not a byte before.
    #[track_caller]
    pub fn eof(&mut self) {
        let until = Instant::now() + DEADLINE;
        let read = self.read_more(until);
        assert!(read == 0 && self.unread.is_empty(), "wanted the end, got {}\n{}", self.unread_text(), self.log);
    }

    /// Asserts that no line is on its way: what is sent last comes back first.
    #[track_caller]
    pub fn nothing_waiting(&mut self) {
        let mark = format!("{{\"mark\":{}}}", MARKS.fetch_add(1, Ordering::Relaxed));
        let echoed = self.ask(&format!("{{\"name\":\"+cmd\",\"params\":{{\"code\":\"STATUS\",\"data\":{mark}}}}}"));
        assert_eq!(echoed, mark, "a line that nobody asked for\n{}", self.log);
    }

    /// A connection is in the kernel's queue before the daemon knows it; one answer proves that it does.
    fn greet(connection: Box<dyn Connection>, log: &Log) -> Self {
        let log = log.clone();
        connection.limit_writes(DEADLINE).expect("a deadline is not zero");
        let mut local = Self { connection, unread: Vec::new(), log };
        local.nothing_waiting();
        local
    }

    #[track_caller]
    fn read_more(&mut self, until: Instant) -> usize {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let Some(left) = left(until) else {
                panic!("time is up; unread: {}\n{}", self.unread_text(), self.log);
            };
            self.connection.limit_reads(left).expect("the time left is not zero");
            match self.connection.read(&mut chunk) {
                Ok(length) => {
                    self.unread.extend_from_slice(&chunk[..length]);
                    return length;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) => panic!("cannot read: {error}\n{}", self.log),
            }
        }
    }

    fn unread_text(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.unread))
    }
}

/// What the two kinds of socket have in common.
trait Connection: Read + Write + Send {
    fn limit_reads(&self, within: Duration) -> io::Result<()>;
    fn limit_writes(&self, within: Duration) -> io::Result<()>;
    fn shut_down(&self, how: Shutdown) -> io::Result<()>;
}

impl Connection for UnixStream {
    fn limit_reads(&self, within: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(within))
    }

    fn limit_writes(&self, within: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(within))
    }

    fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }
}

impl Connection for TcpStream {
    fn limit_reads(&self, within: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(within))
    }

    fn limit_writes(&self, within: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(within))
    }

    fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }
}
