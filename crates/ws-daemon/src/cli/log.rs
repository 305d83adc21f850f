//! The daemon's log on its way to stderr or the journal: lines are put into a bounded buffer and written by a thread of their own, a
//! few milliseconds' worth at a time. So a log that nobody reads never stops the daemon, and one that is read costs little. Whatever a
//! line holds, it stays one line, and moves nothing on a terminal.

mod clock;
mod journal;
mod plain;

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use ws_daemon_protocol::codec::v2::moves;

use crate::config::{LogFormat, Settings};
use crate::levels::Levels;
use clock::Clock;
use journal::{Entries, Journal};
use plain::{Fields, Plain};

/// Lines that wait to be written, in bytes; when full, further ones are dropped, and how many is said once there is room.
const LOG_BYTES: usize = 4 << 20;

/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(20);

/// Where lines are put. Clones are the same buffer.
#[derive(Clone)]
struct Log(Arc<Shared>);

struct Shared {
    form: Form,
    /// Counts what found no room.
    levels: Levels,
    state: Mutex<State>,
    /// The first line was put into the empty buffer, or the log is to end.
    changed: Condvar,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Words for people, with colours of their own or without.
    Text { colours: bool },
    /// A JSON object.
    Json,
    /// An entry of the journal: lines of its own, and an empty one.
    Journal,
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

/// Starts the log as the settings say; it is written for as long as the second of the pair is there.
///
/// # Errors
/// The journal is asked for and not there, or no thread can be started.
pub fn start(settings: &Settings) -> io::Result<(Levels, Writing)> {
    let (levels, gate) = Levels::new(&settings.log);
    let colours = super::colours(&io::stderr());
    let journal = match settings.log_format {
        LogFormat::Journald => Some(Journal::open()?),
        // Where it cannot be reached, what is written to stderr gets there.
        LogFormat::Auto if journal::is_stderr() => Journal::open().ok(),
        LogFormat::Auto | LogFormat::Text | LogFormat::Json => None,
    };
    let (form, writer): (_, Box<dyn Write + Send>) = match journal {
        Some(journal) => (Form::Journal, Box::new(journal)),
        None if settings.log_format == LogFormat::Json => (Form::Json, Box::new(io::stderr())),
        None => (Form::Text { colours }, Box::new(io::stderr())),
    };
    let log = Log::new(form, levels.clone());
    let writing = log.write_to(writer)?;
    let registry = tracing_subscriber::registry().with(gate);
    match form {
        Form::Text { colours: false } => {
            registry.with(fmt::layer().event_format(Plain).fmt_fields(Fields).with_ansi(false).with_writer(log)).init();
        }
        Form::Text { colours: true } => {
            registry.with(fmt::layer().with_timer(Clock).with_target(false).with_writer(log)).init();
        }
        Form::Json => {
            let layer = fmt::layer().json().with_timer(Clock).flatten_event(true).with_current_span(false);
            registry.with(layer.with_writer(log)).init();
        }
        Form::Journal => registry.with(Entries::new(log)).init(),
    }
    Ok((levels, writing))
}

impl Log {
    /// An empty buffer.
    fn new(form: Form, levels: Levels) -> Self {
        Self(Arc::new(Shared { form, levels, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Starts to write.
    fn write_to(&self, mut out: Box<dyn Write + Send>) -> io::Result<Writing> {
        let log = self.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || log.write_until_ended(&mut out))?;
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
            return self.0.levels.drop_line();
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
            let said = format!("{dropped} lines of the log were dropped: nobody reads it fast enough");
            let line = match self.0.form {
                Form::Text { .. } => format!("{said}\n"),
                Form::Json => format!("{{\"level\":\"WARN\",\"message\":\"{said}\",\"dropped\":{dropped}}}\n"),
                Form::Journal => format!("PRIORITY=4\nSYSLOG_IDENTIFIER=ws-daemon\nMESSAGE={said}\n\n"),
            };
            lines.extend_from_slice(line.as_bytes());
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
        match self.0.form {
            Form::Text { colours } => self.put(&tame(line, |char| colours && char == '\u{1b}', escaped)),
            Form::Json => self.put(&tame(line, |_| false, escaped_in_json)),
            // They are tame: what is not stands in values, which are made so one by one.
            Form::Journal => self.put(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line without what may move a cursor or turn the direction of writing, but for the newline at its end and what may stay: peers
/// choose names and words that are logged. Of colours the subscriber has made its own, and has taken ESC from all else.
fn tame(line: &[u8], stays: impl Fn(char) -> bool, escaped: fn(char, &mut String)) -> Cow<'_, [u8]> {
    let (text, end) = line.strip_suffix(b"\n").map_or((line, ""), |text| (text, "\n"));
    let may_stay = |char: char| !moves(char) || stays(char);
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') || (byte.is_ascii() && may_stay(char::from(byte)));
    if text.iter().all(|byte| is_plain(*byte)) {
        return Cow::Borrowed(line);
    }
    let mut tamed = String::with_capacity(line.len());
    for char in String::from_utf8_lossy(text).chars() {
        if may_stay(char) { tamed.push(char) } else { escaped(char, &mut tamed) }
    }
    tamed.push_str(end);
    Cow::Owned(tamed.into_bytes())
}

fn escaped(char: char, into: &mut String) {
    into.extend(char.escape_unicode());
}

/// Such a character stands only inside a string of JSON, and has no more than four digits.
fn escaped_in_json(char: char, into: &mut String) {
    into.push_str(&format!("\\u{:04x}", u32::from(char)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFilter;

    #[test]
    fn a_line_stays_one_and_moves_nothing() {
        let tamed = |line: &str, colours: bool| {
            let stays = |char| colours && char == '\u{1b}';
            String::from_utf8(tame(line.as_bytes(), stays, escaped).into_owned()).expect("text stays text")
        };
        let plain = "10:00 INFO zażółć 漢字 name=\"<b>\"\n";
        assert_eq!(tamed(plain, false), plain);
        let nasty = "a\nb\rc\u{1b}[2Jd\u{9b}2Je\u{202e}f\u{2028}g\n";
        let harmless = r"a\u{a}b\u{d}c\u{1b}[2Jd\u{9b}2Je\u{202e}f\u{2028}g";
        assert_eq!(tamed(nasty, false), format!("{harmless}\n"));
        assert_eq!(tamed("\u{1b}[32m INFO\u{1b}[0m a\nb\n", true), "\u{1b}[32m INFO\u{1b}[0m a\\u{a}b\n");
    }

    #[test]
    fn a_line_of_json_stays_json() {
        let nasty = "a\u{7f}b\u{9b}2Je\u{202e}f\u{2028}g";
        let line = format!("{{\"message\":\"{nasty}\"}}\n");
        let tamed = tame(line.as_bytes(), |_| false, escaped_in_json);
        assert!(tamed.is_ascii());
        let read: serde_json::Value = serde_json::from_slice(&tamed).expect("it is JSON");
        assert_eq!(read["message"], nasty);
    }

    #[test]
    fn lines_are_written_in_order_and_what_found_no_room_is_counted() {
        let (levels, _) = Levels::new(&LogFilter::default());
        let log = Log::new(Form::Text { colours: false }, levels.clone());
        let long = vec![b'x'; LOG_BYTES - 3];
        log.put(&long);
        log.put(b"a\n");
        log.put(b"dropped\n");
        assert_eq!(levels.dropped(), 1);
        log.state().ending = true;
        let mut out = Vec::new();
        log.write_until_ended(&mut out);
        let end = String::from_utf8_lossy(&out[long.len()..]).into_owned();
        assert_eq!(end, "a\n1 lines of the log were dropped: nobody reads it fast enough\n");
    }
}
