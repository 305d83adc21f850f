//! The daemon's log on its way to stderr: lines are put into a bounded buffer and written by a thread of their own, a few
//! milliseconds' worth at a time. So a log that nobody reads never stops the daemon, and one that is read costs little. Whatever a line
//! holds, it stays one line, and moves nothing on a terminal.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use ws_daemon_protocol::codec::v2::moves;

/// Lines that wait to be written, in bytes; when full, further ones are dropped, and how many is said once there is room.
const LOG_BYTES: usize = 4 << 20;

/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(20);

/// Where lines are put. Clones are the same buffer.
#[derive(Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Whether lines have colours of their own.
    colours: bool,
    state: Mutex<State>,
    /// The first line was put into the empty buffer, or the log is to end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    dropped: u64,
    ending: bool,
}

/// Writes what is left when dropped.
pub struct Writing {
    log: Log,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// An empty buffer, for lines with colours or without.
    pub fn new(colours: bool) -> Self {
        Self(Arc::new(Shared { colours, ..Shared::default() }))
    }

    /// Starts to write to stderr.
    pub fn write_to_stderr(&self) -> io::Result<Writing> {
        let log = self.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || log.write_until_ended(&mut io::stderr()))?;
        Ok(Writing { log: self.clone(), thread: Some(thread) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the buffer whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut state = self.state();
        if state.lines.len() + line.len() > LOG_BYTES {
            state.dropped += 1;
            return;
        }
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if first {
            self.0.changed.notify_one();
        }
    }

    fn write_until_ended(&self, out: &mut impl Write) {
        loop {
            let Some(lines) = self.gather() else { return };
            // Whoever was to read it has closed it: what is written from now on is nobody's.
            drop(out.write_all(&lines));
        }
    }

    /// The next lines to write; `None` when the log has ended and nothing is left.
    fn gather(&self) -> Option<Vec<u8>> {
        let wait = |state, until: fn(&mut State) -> bool| {
            self.0.changed.wait_while(state, until).unwrap_or_else(PoisonError::into_inner)
        };
        let state = wait(self.state(), |state| state.lines.is_empty() && !state.ending);
        let gathered = self.0.changed.wait_timeout_while(state, GATHER, |state| !state.ending);
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        let mut lines = std::mem::take(&mut state.lines);
        if lines.is_empty() && state.ending {
            return None;
        }
        let dropped = std::mem::take(&mut state.dropped);
        if dropped > 0 {
            lines.extend_from_slice(
                format!("{dropped} lines of the log were dropped: nobody reads it fast enough\n").as_bytes(),
            );
        }
        Some(lines)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.log.state().ending = true;
        self.log.0.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics.
            drop(thread.join());
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Log {
    /// The subscriber formats a line whole and writes it at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(&tame(line, self.0.colours));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line without what may move a cursor or turn the direction of writing, but for the newline at its end: peers choose names and
/// words that are logged. Of colours the subscriber has made its own, and has taken ESC from all else.
fn tame(line: &[u8], colours: bool) -> Cow<'_, [u8]> {
    let (text, end) = line.strip_suffix(b"\n").map_or((line, ""), |text| (text, "\n"));
    let may_stay = |char: char| !moves(char) || (colours && char == '\u{1b}');
    if text.iter().all(|byte| byte.is_ascii() && may_stay(char::from(*byte))) {
        return Cow::Borrowed(line);
    }
    let mut tamed = String::with_capacity(line.len());
    for char in String::from_utf8_lossy(text).chars() {
        if may_stay(char) { tamed.push(char) } else { tamed.extend(char.escape_unicode()) }
    }
    tamed.push_str(end);
    Cow::Owned(tamed.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_and_moves_nothing() {
        let tamed =
            |line: &str, colours| String::from_utf8(tame(line.as_bytes(), colours).into_owned()).expect("text stays text");
        let plain = "10:00 INFO zażółć 漢字 name=\"<b>\"\n";
        assert_eq!(tamed(plain, false), plain);
        let nasty = "a\nb\rc\u{1b}[2Jd\u{9b}2Je\u{202e}f\u{2028}g\n";
        let harmless = r"a\u{a}b\u{d}c\u{1b}[2Jd\u{9b}2Je\u{202e}f\u{2028}g";
        assert_eq!(tamed(nasty, false), format!("{harmless}\n"));
        assert_eq!(tamed("\u{1b}[32m INFO\u{1b}[0m a\nb\n", true), "\u{1b}[32m INFO\u{1b}[0m a\\u{a}b\n");
    }

    #[test]
    fn lines_are_written_in_order_and_what_found_no_room_is_counted() {
        let log = Log::default();
        let long = vec![b'x'; LOG_BYTES - 3];
        log.put(&long);
        log.put(b"a\n");
        log.put(b"dropped\n");
        log.state().ending = true;
        let mut out = Vec::new();
        log.write_until_ended(&mut out);
        let end = String::from_utf8_lossy(&out[long.len()..]).into_owned();
        assert_eq!(end, "a\n1 lines of the log were dropped: nobody reads it fast enough\n");
    }
}
