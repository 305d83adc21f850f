//! What a script prints: read as fast as it comes, so that no script waits for its pipe but for a live reader who keeps up, and
//! logged line by line within a bound. It never keeps output beyond the current line, but for what it was told to.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::{info, warn};

use super::capture::Keep;
use crate::system::readiness;
use ws_daemon_protocol::command::StreamName;

/// One read from a pipe, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// The longest line that is logged whole, in bytes; the rest of a longer one is dropped, and that is said.
const LINE_BYTES: usize = 4096;

/// How much of one run's stream is logged, in bytes of the log; what follows is read and dropped, and that is said once.
const LOGGED_BYTES: usize = 1 << 20;

/// After so long as much is logged again of a stream that goes on for ever.
const LOGGED_AGAIN: Duration = Duration::from_mins(1);

/// What each line is in the log beside its own bytes: time, run, script. Without it, a script that prints short lines would have
/// half a million of them written.
const LINE_ALSO_BYTES: usize = 128;

/// One of a script's two streams.
#[derive(Debug)]
pub struct Output {
    pipe: Pipe,
    lines: Lines,
    keep: Keep,
}

/// The reading end. In a busy daemon a short script has said all when it is first looked at: only one that has not is registered
/// with the runtime, which costs more than the look.
#[derive(Debug)]
enum Pipe {
    Fresh(OwnedFd),
    Registered(AsyncFd<OwnedFd>),
    /// At its end, or broken.
    Over,
}

/// Cuts a stream into lines for the log.
#[derive(Debug)]
struct Lines {
    stream: StreamName,
    line: Vec<u8>,
    cut: bool,
    logged: usize,
    /// Since when that is counted, if it is counted anew from time to time.
    since: Option<Instant>,
}

impl Output {
    /// The stream `stream`, from a pipe that does not block.
    pub fn new(stream: StreamName, pipe: OwnedFd) -> Self {
        let lines = Lines { stream, line: Vec::new(), cut: false, logged: 0, since: None };
        Self { pipe: Pipe::Fresh(pipe), lines, keep: Keep::Nothing }
    }

    /// Of a stream that goes on for ever, as much is logged in each minute as of another in all.
    pub fn renew(&mut self) {
        self.lines.since = Some(Instant::now());
    }

    /// The pipe itself, of which nothing is read here; `None` if it is over.
    pub fn into_pipe(self) -> Option<OwnedFd> {
        match self.pipe {
            Pipe::Fresh(pipe) => Some(pipe),
            Pipe::Registered(pipe) => Some(pipe.into_inner()),
            Pipe::Over => None,
        }
    }

    /// Gives what is read from here on to `keep` as well; returns what it was given to before.
    pub fn keep(&mut self, keep: Keep) -> Keep {
        std::mem::replace(&mut self.keep, keep)
    }

    /// Reads and logs until nobody can write any more. Cancel safe.
    pub async fn drain(&mut self) {
        while !matches!(self.pipe, Pipe::Over) {
            if let Pipe::Registered(pipe) = &self.pipe {
                // An error ends the read as well.
                drop(pipe.readable().await);
            }
            self.keep.room(READ_BYTES).await;
            match self.pull() {
                // However loud the script is, others get their turn: now, since one read may be thousands of lines.
                Ok(1..) => yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.register(),
                Ok(0) | Err(_) => {
                    self.lines.finish();
                    self.pipe = Pipe::Over;
                }
            }
        }
    }

    /// Registers the pipe with the runtime of this thread, unless it is.
    pub fn register(&mut self) {
        match std::mem::replace(&mut self.pipe, Pipe::Over) {
            Pipe::Fresh(pipe) => match readiness(pipe, Interest::READABLE) {
                Ok(registered) => self.pipe = Pipe::Registered(registered),
                // Nothing more can be read of it, and the script is told so by its next write.
                Err(error) => warn!(%error, stream = self.lines.stream.word(), "a script's output cannot be waited for"),
            },
            other => self.pipe = other,
        }
    }

    /// The buffer lives only as long as the read: a run that is silent costs none.
    fn pull(&mut self) -> io::Result<usize> {
        let mut buffer = [0; READ_BYTES];
        let mut read = |pipe: &OwnedFd| Ok(rustix::io::read(pipe, &mut buffer)?);
        let length = match &self.pipe {
            Pipe::Fresh(pipe) => read(pipe),
            Pipe::Registered(pipe) => pipe.try_io(Interest::READABLE, read),
            Pipe::Over => Ok(0),
        }?;
        self.lines.take(&buffer[..length]);
        self.keep.take(&buffer[..length]);
        Ok(length)
    }
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        if self.since.is_some_and(|since| since.elapsed() > LOGGED_AGAIN) {
            (self.since, self.logged) = (Some(Instant::now()), 0);
        }
        if self.logged > LOGGED_BYTES {
            return;
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LINE_BYTES - self.line.len();
            self.cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.log();
            }
        }
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.log();
        }
    }

    fn log(&mut self) {
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        if self.logged > LOGGED_BYTES {
            return;
        }
        self.logged += line.len() + LINE_ALSO_BYTES;
        // Debug formatting: what a script prints must not forge lines of the log or move a cursor.
        info!(stream = self.stream.word(), cut, line = ?String::from_utf8_lossy(&line), "script output");
        if self.logged > LOGGED_BYTES {
            info!(stream = self.stream.word(), bytes = LOGGED_BYTES, "further output of this run is not logged");
        }
    }
}

/// Drains both streams of one run.
pub async fn drain_both(streams: &mut [Output; 2]) {
    let [stdout, stderr] = streams;
    let mut stdout = pin!(stdout.drain());
    let mut stderr = pin!(stderr.drain());
    let (mut stdout_open, mut stderr_open) = (true, true);
    while stdout_open || stderr_open {
        tokio::select! {
            () = &mut stdout, if stdout_open => stdout_open = false,
            () = &mut stderr, if stderr_open => stderr_open = false,
        }
    }
}
