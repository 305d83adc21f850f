//! What a script prints: read as fast as it comes, so that no script waits for its pipe but for a live reader who keeps up, and
//! logged line by line within a bound. It never keeps output beyond the current line, but for what it was told to.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::{Span, info, warn};

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

    /// Reads and logs until nobody can write any more; `span` is asked for when there is something to log. Cancel safe.
    pub async fn drain<S: Deref<Target = Span>>(&mut self, span: &S) {
        while !matches!(self.pipe, Pipe::Over) {
            if let Pipe::Registered(pipe) = &self.pipe {
                // An error ends the read as well.
                drop(pipe.readable().await);
            }
            self.keep.room(READ_BYTES).await;
            match self.pull(span) {
                // However loud the script is, others get their turn: now, since one read may be thousands of lines.
                Ok(1..) => yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.register() {
                        span.in_scope(|| self.is_not_heard(&error));
                    }
                }
                Ok(0) | Err(_) => {
                    self.lines.finish(span);
                    self.pipe = Pipe::Over;
                }
            }
        }
    }

    /// Reads once what there is, and says whether that was the end.
    fn looked_at_end<S: Deref<Target = Span>>(&mut self, span: &S) -> bool {
        if let Ok(0) = self.pull(span) {
            self.lines.finish(span);
            self.pipe = Pipe::Over;
        }
        matches!(self.pipe, Pipe::Over)
    }

    /// Registers the pipe with the runtime of this thread, unless it is.
    ///
    /// # Errors
    /// What the system says. Nothing more can be read of it then, and the script is told so by its next write.
    pub fn register(&mut self) -> io::Result<()> {
        self.pipe = match std::mem::replace(&mut self.pipe, Pipe::Over) {
            Pipe::Fresh(pipe) => Pipe::Registered(readiness(pipe, Interest::READABLE)?),
            other => other,
        };
        Ok(())
    }

    /// Says that it is not read on.
    pub fn is_not_heard(&self, error: &io::Error) {
        warn!(%error, stream = self.lines.stream.word(), "a script's output cannot be waited for");
    }

    /// The buffer lives only as long as the read: a run that is silent costs none.
    fn pull<S: Deref<Target = Span>>(&mut self, span: &S) -> io::Result<usize> {
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let room = &mut buffer;
        let read = move |pipe: &OwnedFd| Ok(rustix::io::read(pipe, room)?.0);
        let read: &[u8] = match &self.pipe {
            Pipe::Fresh(pipe) => read(pipe)?,
            Pipe::Registered(pipe) => pipe.try_io(Interest::READABLE, read)?,
            Pipe::Over => &[],
        };
        self.lines.take(read, span);
        self.keep.take(read);
        Ok(read.len())
    }
}

impl Lines {
    fn take<S: Deref<Target = Span>>(&mut self, bytes: &[u8], span: &S) {
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
                self.log(span);
            }
        }
    }

    fn finish(&mut self, span: &Span) {
        if !self.line.is_empty() {
            self.log(span);
        }
    }

    fn log(&mut self, span: &Span) {
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        if self.logged > LOGGED_BYTES {
            return;
        }
        self.logged += line.len() + LINE_ALSO_BYTES;
        let _in = span.enter();
        // Debug formatting: what a script prints must not forge lines of the log or move a cursor.
        info!(stream = self.stream.word(), cut, line = ?String::from_utf8_lossy(&line), "script output");
        if self.logged > LOGGED_BYTES {
            info!(stream = self.stream.word(), bytes = LOGGED_BYTES, "further output of this run is not logged");
        }
    }
}

/// Reads once what there is of both streams of one run, and says whether that was their end.
pub fn looked_at_end<S: Deref<Target = Span>>(streams: &mut [Output; 2], span: &S) -> bool {
    let [stdout, stderr] = streams;
    let is_over = stdout.looked_at_end(span);
    stderr.looked_at_end(span) && is_over
}

/// Drains both streams of one run, as [`Output::drain`] does.
pub async fn drain_both<S: Deref<Target = Span>>(streams: &mut [Output; 2], span: &S) {
    let [stdout, stderr] = streams;
    let mut stdout = pin!(stdout.drain(span));
    let mut stderr = pin!(stderr.drain(span));
    let (mut stdout_open, mut stderr_open) = (true, true);
    while stdout_open || stderr_open {
        tokio::select! {
            () = &mut stdout, if stdout_open => stdout_open = false,
            () = &mut stderr, if stderr_open => stderr_open = false,
        }
    }
}
