//! What was asked, and what was answered: for the trace, and for the judge. It outlives every daemon.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use ws_daemon::origin::Said;
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::outcome::Report;

/// The book of one world. Clones are the same.
#[derive(Debug, Clone)]
pub struct Book(Arc<Mutex<Pages>>, Instant);

#[derive(Debug, Default)]
pub struct Pages {
    /// By the caller's id.
    pub entries: BTreeMap<String, Entry>,
    /// How often subscribers were told that a run is settled.
    pub told: HashMap<String, usize>,
    /// Whether any daemon was ever crashed; without that, an outcome may be unknown only between two attempts.
    pub crashed: bool,
    pub faults: Vec<String>,
    trace: String,
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// The daemon that was asked.
    pub asker: usize,
    /// The whole request.
    pub text: String,
    pub retry: u32,
    pub has_then: bool,
    /// What its script ends with.
    pub code: u8,
    /// Somebody ordered it to be stopped.
    pub cancelled: bool,
    /// Its run, as soon as anybody heard of it.
    pub run: Option<String>,
    /// The final lines that were heard.
    pub finals: Vec<Report>,
}

impl Book {
    pub fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, what: impl std::fmt::Display) {
        let at = self.1.elapsed();
        let _ = writeln!(self.pages().trace, "{:>9.3}  {what}", at.as_secs_f64());
    }

    pub fn fault(&self, what: impl std::fmt::Display) {
        self.note(format!("FAULT {what}"));
        self.pages().faults.push(what.to_string());
    }

    pub fn trace(&self) -> String {
        self.pages().trace.clone()
    }

    /// Hears one conversation, of which it may be known that it was accepted, to its end, or to that of the daemon.
    pub async fn listen(self, id: String, mut said: mpsc::Receiver<Said>, mut accepted: bool) {
        while let Some(said) = said.recv().await {
            match said {
                Said::Event(Event::Accepted { run, .. }) => {
                    accepted = true;
                    self.accepted(&id, &run.to_string());
                }
                Said::Event(_) => {}
                Said::Later(_) => self.fault(format!("{id} was put off, and no daemon has restarted")),
                Said::Final(report) if accepted => {
                    self.note(format!("{id} ends {:?} {:?}", report.status, report.error));
                    if let Some(entry) = self.pages().entries.get_mut(&id) {
                        entry.finals.push(report);
                    }
                }
                Said::Final(report) => self.fault(format!("{id} was refused: {report:?}")),
            }
        }
    }

    pub fn accepted(&self, id: &str, run: &str) {
        self.note(format!("{id} accepted as {run}"));
        let before = match self.pages().entries.get_mut(id) {
            Some(entry) => entry.run.replace(run.to_owned()),
            None => None,
        };
        if let Some(before) = before.filter(|before| before != run) {
            self.fault(format!("{id} was {before} and is now {run}"));
        }
    }

    /// Hears a conversation that must be refused as a conflict, unless the daemon ends before.
    pub async fn listen_for_conflict(self, id: String, mut said: mpsc::Receiver<Said>) {
        match said.recv().await {
            None => {}
            Some(Said::Final(report)) if report.error.as_deref() == Some("id_conflict") => {
                self.note(format!("{id} with other content is a conflict"));
            }
            Some(other) => self.fault(format!("{id} with other content: {other:?}")),
        }
    }

    /// What subscribers of a daemon are told.
    pub fn told(&self, line: &str) {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        if line["event"] == "settled" {
            let run = line["run"].as_str().unwrap_or_default().to_owned();
            self.note(format!("{run} settled: {}", line["report"]["status"]));
            *self.pages().told.entry(run).or_default() += 1;
        }
    }
}
