//! What a script prints: read as fast as it comes, so that no script waits for its pipe, and logged line by line within a bound.
//! It never keeps output beyond the current line.

use std::io;
use std::pin::pin;

use tokio::net::unix::pipe;
use tracing::info;

/// One read from a pipe, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// The longest line that is logged whole, in bytes; the rest of a longer one is dropped, and that is said.
const LINE_BYTES: usize = 4096;

/// How much of one run's stream is logged, in bytes; what follows is read and dropped, and that is said once.
const LOGGED_BYTES: usize = 1 << 20;

/// One of a script's two streams.
#[derive(Debug)]
pub struct Output {
    pipe: pipe::Receiver,
    lines: Lines,
}

/// Cuts a stream into lines for the log.
#[derive(Debug)]
struct Lines {
    stream: &'static str,
    line: Vec<u8>,
    cut: bool,
    logged: usize,
}

impl Output {
    /// The stream called `stream` (`stdout`, `stderr`).
    pub fn new(stream: &'static str, pipe: pipe::Receiver) -> Self {
        Self { pipe, lines: Lines { stream, line: Vec::new(), cut: false, logged: 0 } }
    }

    /// Reads and logs until nobody can write any more. Cancel safe.
    pub async fn drain(&mut self) {
        loop {
            if self.pipe.readable().await.is_err() {
                return;
            }
            match self.pull() {
                Ok(0) => return self.lines.finish(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.lines.finish(),
            }
        }
    }

    /// The buffer lives only as long as the read: a run that is silent costs none.
    fn pull(&mut self) -> io::Result<usize> {
        let mut buffer = [0; READ_BYTES];
        let length = self.pipe.try_read(&mut buffer)?;
        self.lines.take(&buffer[..length]);
        Ok(length)
    }
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
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
        self.logged += line.len() + 1;
        // Debug formatting: what a script prints must not forge lines of the log or move a cursor.
        info!(stream = self.stream, cut, line = ?String::from_utf8_lossy(&line), "script output");
        if self.logged > LOGGED_BYTES {
            info!(stream = self.stream, bytes = LOGGED_BYTES, "further output of this run is not logged");
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
