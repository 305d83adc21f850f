//! The audit log: who asked for what, what decided, and what came of it; one JSON line each. It drops nothing: what cannot be written
//! waits, and whoever records waits behind it. It never decides anything.

mod file;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::error;

pub use file::AuditFault;
use file::LogFile;

/// Lines that wait to be written; when full, whoever records waits.
const WAITING_LINES: usize = 4096;

/// The bytes of these lines; when full, likewise.
const WAITING_BYTES: usize = 4 << 20;

/// Characters of a text from afar that are written down; the rest is left out, which is marked.
const TEXT_CHARS: usize = 1024;

/// What is left of a log that another one replaces is written for so long before that is said to be trouble.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The audit log, or none. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    log: Arc<ArcSwapOption<Inner>>,
    /// How many lines, over all logs that there have been.
    recorded: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Inner {
    lines: mpsc::Sender<Line>,
    /// One permit for each byte that waits.
    room: Arc<Semaphore>,
    params: bool,
    ended: watch::Receiver<()>,
}

/// What waits to be written.
struct Line {
    /// With its newline; empty of who only wants to know when it is his turn.
    text: String,
    /// Given back when it is written.
    _room: Option<OwnedSemaphorePermit>,
    written: Option<oneshot::Sender<()>>,
    is_last: bool,
}

/// One line of the log: what happened, and all that is known of it, in order.
#[derive(Debug)]
pub struct Entry {
    event: &'static str,
    facts: Vec<(&'static str, Value)>,
}

impl Entry {
    /// Something that happened.
    #[must_use]
    pub fn new(event: &'static str) -> Self {
        Self { event, facts: Vec::new() }
    }

    /// With a fact about it.
    #[must_use]
    pub fn with(mut self, name: &'static str, fact: impl Into<Value>) -> Self {
        self.facts.push((name, fact.into()));
        self
    }

    /// With a text that others have made, which may be of any length.
    #[must_use]
    pub fn text(self, name: &'static str, text: &str) -> Self {
        let short: String = text.chars().take(TEXT_CHARS).collect();
        let cut = if short.len() < text.len() { "…" } else { "" };
        self.with(name, short + cut)
    }

    /// With a fact, if it is known.
    #[must_use]
    pub fn with_known(self, name: &'static str, fact: Option<impl Into<Value>>) -> Self {
        match fact {
            Some(fact) => self.with(name, fact),
            None => self,
        }
    }

    /// Its line. No content ends it or writes on it: what a terminal or an editor would not show as it is stands as an escape.
    fn line(&self, now: SystemTime) -> String {
        let json = serde_json::to_string(&Timed { entry: self, now }).unwrap_or_default();
        let hides = |char: char| {
            char.is_control()
                || matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        let mut line = String::with_capacity(json.len() + 1);
        for char in json.chars() {
            // Outside of texts JSON has no such characters, and all of these have one code unit.
            if hides(char) { line.push_str(&format!("\\u{:04x}", u32::from(char))) } else { line.push(char) }
        }
        line.push('\n');
        line
    }
}

struct Timed<'a> {
    entry: &'a Entry,
    now: SystemTime,
}

impl Serialize for Timed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &time(self.now))?;
        map.serialize_entry("event", self.entry.event)?;
        for (name, fact) in &self.entry.facts {
            map.serialize_entry(name, fact)?;
        }
        map.end()
    }
}

impl Audit {
    /// Nothing is written down.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// The log in the file at `path`, which is made if it is not there; with `params`, also those as they are. A thread writes it.
    ///
    /// # Errors
    /// Others can write the file, or it cannot be had.
    pub fn open(path: &Path, params: bool) -> Result<Self, AuditFault> {
        let file = LogFile::open(path)?;
        let (lines, waiting) = mpsc::channel(WAITING_LINES);
        let (end, ended) = watch::channel(());
        let thread = thread::Builder::new().name("audit".into());
        let started = thread.spawn(move || {
            write_all(waiting, file);
            drop(end);
        });
        started.map_err(|source| AuditFault::System { path: path.to_owned(), source })?;
        let inner = Inner { lines, room: Arc::new(Semaphore::new(WAITING_BYTES)), params, ended };
        Ok(Self { log: Arc::new(ArcSwapOption::from_pointee(inner)), recorded: Arc::default() })
    }

    /// From here on all clones of this one write where `other` does, or nowhere. What was recorded before is in the old file when this
    /// returns, or the log says that it is not yet.
    pub async fn replace(&self, other: &Self) {
        let Some(old) = self.log.swap(other.log.load_full()) else { return };
        let mut ended = old.ended.clone();
        // Its thread ends when nobody can record there any more.
        drop(old);
        if timeout(LAST_LINES, ended.changed()).await.is_err() {
            error!(
                "the audit log that is no more in use cannot be written: its last lines are lost if the daemon ends before they are"
            );
        }
    }

    /// Whether anything is written down.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.log.load().is_some()
    }

    /// Writes down what happened. Ends when it has its place before the file; only if others fill all the places is that later than
    /// at once.
    pub async fn record(&self, entry: impl FnOnce() -> Entry) {
        let Some(inner) = self.log.load_full() else { return };
        self.recorded.fetch_add(1, Ordering::Relaxed);
        let text = entry().line(SystemTime::now());
        let bytes = u32::try_from(text.len().min(WAITING_BYTES)).unwrap_or(u32::MAX);
        // Nobody closes it.
        let room = Arc::clone(&inner.room).acquire_many_owned(bytes).await.ok();
        inner.put(Line { text, _room: room, written: None, is_last: false }).await;
    }

    /// How many lines have been recorded since the start, written or not.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Ends when all is written that was recorded before.
    pub async fn caught_up(&self) {
        let Some(inner) = self.log.load_full() else { return };
        let (tell, told) = oneshot::channel();
        inner.put(Line { text: String::new(), _room: None, written: Some(tell), is_last: false }).await;
        // When the thread has ended, the daemon has.
        let _ = told.await;
    }

    /// What is written down of params: how many bytes they are, and their hash; if that is set, themselves.
    #[must_use]
    pub fn params(&self, params: &str) -> Value {
        let mut hash = String::with_capacity(64);
        Sha256::digest(params.as_bytes()).iter().for_each(|byte| hash.push_str(&format!("{byte:02x}")));
        let mut shown = serde_json::json!({ "bytes": params.len(), "sha256": hash });
        if self.log.load().as_ref().is_some_and(|inner| inner.params) {
            shown["text"] = params.into();
        }
        shown
    }

    /// Nothing more is recorded: waits for what is left to be written, but not longer than this.
    pub async fn close(&self, within: Duration) {
        let Some(inner) = self.log.load_full() else { return };
        let left = async {
            inner.put(Line { text: String::new(), _room: None, written: None, is_last: true }).await;
            // It is never told anything but its end.
            while inner.ended.clone().changed().await.is_ok() {}
        };
        if timeout(within, left).await.is_err() {
            error!("the daemon ends, and the last lines of the audit log could not be written");
        }
    }
}

impl Inner {
    async fn put(&self, line: Line) {
        // The thread ends behind the last line.
        drop(self.lines.send(line).await);
    }
}

/// The thread: takes all that waits, writes it at once, and tells whoever waits for that.
fn write_all(mut waiting: mpsc::Receiver<Line>, mut file: LogFile) {
    let mut lines = Vec::new();
    while waiting.blocking_recv_many(&mut lines, WAITING_LINES) > 0 {
        let text: String = lines.iter().map(|line: &Line| line.text.as_str()).collect();
        file.put(text.as_bytes());
        let is_over = lines.iter().any(|line| line.is_last);
        for line in lines.drain(..) {
            // Whoever waited may be gone.
            let _ = line.written.map(|written| written.send(()));
        }
        if is_over {
            return;
        }
    }
}

/// A time as RFC 3339 has it, in UTC and with milliseconds.
fn time(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, in eras of 400 years; a year begins in March, so that its odd day is its last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, ms) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_001, "2100-03-01T00:00:00.001Z"),
        ];
        for (ms, expected) in table {
            assert_eq!(time(UNIX_EPOCH + Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn no_content_forges_a_line_or_hides_in_one() {
        let nasty = "a\n{\"event\":\"x\"}\r\"\\ \u{1b}[2J\u{7f}\u{9b}\u{85}\u{2028}\u{2029}\u{202e}\u{200f}\u{feff}\0é";
        let line = Entry::new("ask").text("script", nasty).with("params", nasty).line(UNIX_EPOCH);
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
        let bare: String = line.trim_end().chars().filter(|char| !char.is_ascii_graphic() && *char != ' ').collect();
        assert_eq!(bare, "éé");
        let read: Value = serde_json::from_str(&line).expect("a line is JSON");
        assert_eq!((&read["event"], &read["script"], &read["params"]), (&"ask".into(), &nasty.into(), &nasty.into()));
    }

    #[test]
    fn what_is_too_long_is_cut_and_marked() {
        let line = Entry::new("ask").text("script", &"x".repeat(1 << 20)).line(UNIX_EPOCH);
        assert!(line.len() < 2 * TEXT_CHARS && line.contains("x…\""), "{}", line.len());
    }

    #[tokio::test]
    async fn what_is_recorded_is_in_the_file_once_it_has_caught_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("audit");
        let audit = Audit::open(&path, true).expect("opened");
        for number in 0..10_000 {
            audit.record(|| Entry::new("ask").with("number", number)).await;
        }
        audit.caught_up().await;
        let text = fs::read_to_string(&path).expect("readable");
        for (number, line) in text.lines().enumerate() {
            let read: Value = serde_json::from_str(line).expect("a line is JSON");
            assert_eq!(read["number"], number);
        }
        assert_eq!(text.lines().count(), 10_000);
        assert_eq!(audit.params("{}")["text"], "{}");
        audit.close(Duration::from_secs(10)).await;
        audit.record(|| Entry::new("late")).await;
        audit.caught_up().await;
    }

    #[tokio::test]
    async fn one_that_is_replaced_has_all_that_was_recorded_before_and_the_next_what_comes_after() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        let audit = Audit::open(&old, true).expect("opened");
        let elsewhere = audit.clone();
        for number in 0..1000 {
            elsewhere.record(|| Entry::new("ask").with("number", number)).await;
        }
        audit.replace(&Audit::open(&new, false).expect("opened")).await;
        assert_eq!(fs::read_to_string(&old).expect("readable").lines().count(), 1000);
        elsewhere.record(|| Entry::new("later")).await;
        elsewhere.caught_up().await;
        assert!(fs::read_to_string(&new).expect("readable").contains("later"));
        assert!(elsewhere.params("{}")["text"].is_null());
        audit.replace(&Audit::off()).await;
        elsewhere.record(|| panic!("nobody asked for it")).await;
        assert_eq!(fs::read_to_string(&new).expect("readable").lines().count(), 1);
    }

    #[tokio::test]
    async fn one_that_is_off_makes_no_entry() {
        let audit = Audit::off();
        audit.record(|| panic!("nobody asked for it")).await;
        audit.caught_up().await;
        audit.close(Duration::ZERO).await;
        let hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(audit.params("{}"), serde_json::json!({ "bytes": 2, "sha256": hash }));
    }
}
