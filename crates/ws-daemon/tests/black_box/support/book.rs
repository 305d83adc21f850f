//! A book of queued requests: what was asked, what was accepted, every final line that came for it, and how often scripts say that
//! they ran it. It asks on connections that may break at any moment, and asks again; whether what came is right is said by
//! [`Book::close`] alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::left;

/// A script that writes its run down in the file `ran` of its own daemon before anything else, and then takes its time: its params are
/// the seconds.
pub const WRITES_DOWN: &str = "#!/bin/sh\necho \"$WSDAEMON_RUN $$\" >> \"$WSDAEMON_PREFIX/ran\"\nexec sleep \"$1\"\n";

/// The tag of whoever is to run what stands in a book. It is this test program's own: clients of another one may dial a port that has
/// become ours, and whatever is given to them has gone with them for good.
pub fn tag() -> String {
    format!("x{}", std::process::id())
}

/// Clones are the same book.
#[derive(Clone, Default)]
pub struct Book(Arc<(Mutex<Pages>, Condvar)>);

#[derive(Default)]
struct Pages {
    entries: BTreeMap<String, Entry>,
    /// Connections that are read.
    open: usize,
    /// Whoever waits has something else to do first.
    interrupted: bool,
    /// Lines that nobody asked for.
    strange: Vec<String>,
}

struct Entry {
    request: String,
    may_run_again: bool,
    run: Option<String>,
    finals: Vec<Final>,
}

/// What a final line says that must be the same each time it is told.
#[derive(Debug, Clone, PartialEq)]
struct Final {
    status: i64,
    error: Value,
    run: Value,
}

/// How the entries of a book ended.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub settled: usize,
    /// With the script's own status.
    pub done: usize,
    /// As unknown.
    pub unknown: usize,
    /// Times that a script was started.
    pub started: usize,
}

impl Book {
    /// Writes a request down: for the script `write-down`, to anyone with the [`tag`], for so many seconds.
    pub fn note(&self, id: &str, retries: u32, seconds: f64) {
        let mut request =
            json!({ "name": "write-down", "id": id, "to": format!("tag:{}", tag()), "queue": true, "params": seconds });
        if retries > 0 {
            request["retry"] = json!({ "max": retries });
        }
        self.note_request(id, &request);
    }

    /// Writes any request down.
    pub fn note_request(&self, id: &str, request: &Value) {
        let may_run_again = request.get("retry").is_some();
        let entry = Entry { request: format!("{request}\n"), may_run_again, run: None, finals: Vec::new() };
        assert!(self.pages().entries.insert(id.to_owned(), entry).is_none(), "{id} twice");
    }

    /// Asks for all entries that `which` wants (are they accepted? are they settled?) on a connection of their own. A daemon that is
    /// not there, or goes away, is no trouble.
    pub fn ask(&self, socket: &Path, which: impl Fn(bool, bool) -> bool) {
        let mut pages = self.pages();
        let wanted = |entry: &&Entry| which(entry.run.is_some(), !entry.finals.is_empty());
        let text: String = pages.entries.values().filter(wanted).map(|entry| entry.request.as_str()).collect();
        let Ok(stream) = UnixStream::connect(socket) else { return };
        pages.open += 1;
        drop(pages);
        let reading = stream.try_clone().expect("a descriptor is to be had");
        let book = self.clone();
        thread::spawn(move || {
            let lines = BufReader::new(reading).lines().map_while(Result::ok);
            lines.for_each(|line| book.hear(&line));
            book.pages().open -= 1;
            book.0.1.notify_all();
        });
        // The thread hears it if the daemon is gone.
        let _ = (&stream).write_all(text.as_bytes());
    }

    fn hear(&self, line: &str) {
        let mut pages = self.pages();
        if pages.take(line).is_none() {
            pages.strange.push(line.to_owned());
        }
        self.0.1.notify_all();
    }

    /// Waits until all is accepted; nobody is left who could say so, or the time is over: `false`.
    pub fn wait_accepted(&self, within: Duration) -> bool {
        self.wait(within, |entry| entry.run.is_none())
    }

    /// Waits until all is settled; nobody is left who could say so, or the time is over: `false`.
    pub fn wait_settled(&self, within: Duration) -> bool {
        self.wait(within, |entry| entry.finals.is_empty())
    }

    fn wait(&self, within: Duration, is_open: impl Fn(&Entry) -> bool) -> bool {
        let until = Instant::now() + within;
        let mut pages = self.pages();
        while pages.entries.values().any(&is_open) {
            let goes_on = pages.open > 0 && !pages.interrupted;
            let Some(left) = left(until).filter(|_| goes_on) else { return false };
            (pages, _) = self.0.1.wait_timeout(pages, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Whoever waits, or would, has something else to do first, or has done it.
    pub fn interrupt(&self, is_interrupted: bool) {
        self.pages().interrupted = is_interrupted;
        self.0.1.notify_all();
    }

    /// Whether one of these requests is that run.
    pub fn has_run(&self, run: &str) -> bool {
        self.pages().entries.values().any(|entry| entry.run.as_deref() == Some(run))
    }

    /// What is not settled so far, for the message of a test that fails.
    pub fn open(&self) -> String {
        let pages = self.pages();
        let open: Vec<_> = pages.entries.iter().filter(|(_, entry)| entry.finals.is_empty()).collect();
        format!("{open:#?}\nlines that nobody asked for: {:#?}", pages.strange)
    }

    /// Asks for everything twice more, and then holds the promises against what came and against the files of `doers`, which are
    /// their prefixes. `told` is shown with what is wrong.
    #[track_caller]
    pub fn close(&self, socket: &Path, doers: &[&Path], within: Duration, told: &dyn Fn() -> String) -> Counts {
        for asked in 1..=2 {
            let known: Vec<usize> = self.pages().entries.values().map(|entry| entry.finals.len()).collect();
            self.ask(socket, |_, _| true);
            let until = Instant::now() + within;
            let mut pages = self.pages();
            while pages.entries.values().zip(&known).any(|(entry, known)| entry.finals.len() <= *known) {
                let Some(left) = left(until).filter(|_| pages.open > 0) else {
                    let open: Vec<_> = pages.entries.iter().filter(|(_, entry)| entry.finals.len() < asked).collect();
                    panic!("asked {asked} time(s), not settled in time: {open:#?}\n{}", told());
                };
                (pages, _) = self.0.1.wait_timeout(pages, left).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.check(doers, told)
    }

    #[track_caller]
    fn check(&self, doers: &[&Path], told: &dyn Fn() -> String) -> Counts {
        let pages = self.pages();
        assert!(!pages.entries.is_empty(), "a campaign without requests shows nothing");
        assert!(pages.strange.is_empty(), "lines that nobody asked for: {:#?}\n{}", pages.strange, told());
        let mut starts: BTreeMap<String, usize> = BTreeMap::new();
        for doer in doers {
            let text = fs::read_to_string(doer.join("ran")).unwrap_or_default();
            for line in text.lines() {
                let (run, _) = line.split_once(' ').unwrap_or_else(|| panic!("a torn line: {line:?}"));
                *starts.entry(run.to_owned()).or_default() += 1;
            }
        }
        let mut counts = Counts { settled: pages.entries.len(), started: starts.values().sum(), ..Counts::default() };
        let mut runs = BTreeSet::new();
        for (id, entry) in &pages.entries {
            let wrong = |what: &str| -> ! { panic!("{id}: {what}: {entry:#?}\n{}", told()) };
            let run = entry.run.clone().unwrap_or_else(|| wrong("never accepted"));
            let started = starts.remove(&run).unwrap_or(0);
            let first = &entry.finals[0];
            if entry.finals.iter().any(|other| other != first || other.run != run) {
                wrong("not one outcome");
            }
            match (first.status, first.error.as_str()) {
                (0, None) => counts.done += 1,
                (-5, Some("interrupted")) => counts.unknown += 1,
                _ => wrong("an outcome that nothing here accounts for"),
            }
            match (first.status, entry.may_run_again, started) {
                (0, _, 0) => wrong("it is said to have run, and did not"),
                (_, false, 2..) => wrong("it ran more than once"),
                _ => {}
            }
            assert!(runs.insert(run), "{id}: its run is another's too\n{}", told());
        }
        assert!(starts.is_empty(), "runs that were never accepted: {starts:?}\n{}", told());
        counts
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// `None` if the line belongs to no entry.
    fn take(&mut self, line: &str) -> Option<()> {
        let said: Value = serde_json::from_str(line).ok()?;
        let entry = self.entries.get_mut(said["id"].as_str()?)?;
        let run = said["run"].as_str();
        if let (Some(run), known) = (run, &mut entry.run) {
            if known.as_deref().is_some_and(|known| known != run) {
                return None;
            }
            *known = Some(run.to_owned());
        }
        if let Some(status) = said.get("status") {
            entry.finals.push(Final { status: status.as_i64()?, error: said["error"].clone(), run: said["run"].clone() });
        }
        Some(())
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} run {:?} finals {:?}", self.request.trim_end(), self.run, self.finals)
    }
}
