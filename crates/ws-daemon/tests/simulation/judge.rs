//! The promises, looked for at the end of a story in what is on disk, what was started and what was said.

use ws_daemon::spool::{Filter, RunRecord, RunState, Spool};
use ws_daemon_protocol::outcome::Report;

use crate::book::Entry;
use crate::world::World;

/// What a story came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    pub runs: u64,
    pub with_status: u64,
    pub unknown: u64,
    pub starts: u64,
}

impl Sum {
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.with_status += other.with_status;
        self.unknown += other.unknown;
        self.starts += other.starts;
    }
}

/// Notes every broken promise as a fault.
pub async fn judge(world: &World) -> Sum {
    let mut sum = Sum::default();
    for daemon in 0..world.sites.len() {
        let Some(life) = world.life(daemon) else { continue };
        for record in runs(&life.spool).await {
            let starts = world.counts.starts(&record.run.to_string());
            sum.runs += 1;
            sum.starts += starts.len() as u64;
            let id = record.caller_id.as_deref().unwrap_or_default().trim_matches('"').to_owned();
            let entry = world.book.pages().entries.get(&id).cloned();
            match entry {
                None => world.book.fault(format!("{id} was never asked")),
                Some(entry) => judge_run(world, &id, &record, &entry, &starts, &mut sum),
            }
        }
    }
    let entries = world.book.pages().entries.clone();
    for (id, entry) in entries {
        let thens = world.counts.thens(&id);
        if thens > 1 || (thens > 0 && !entry.has_then) {
            world.book.fault(format!("{id}: its script that gets the outcome ran {thens} times"));
        }
    }
    sum
}

async fn runs(spool: &Spool) -> Vec<RunRecord> {
    spool.runs(Filter { state: None, peer: None, limit: 10_000 }).await.expect("the disk is well")
}

fn judge_run(world: &World, id: &str, record: &RunRecord, entry: &Entry, starts: &[usize], sum: &mut Sum) {
    let fault = |what: &str| world.book.fault(format!("{id} ({}): {what}; {record:?}, started on {starts:?}", record.run));
    if entry.run.as_ref().is_some_and(|run| *run != record.run.to_string()) {
        fault("accepted as another run");
    }
    if starts.len() > 1 + entry.retry as usize {
        fault("started too often");
    }
    let report = record.report.as_deref().and_then(|report| Report::parse(report).ok());
    let Some(report) = report.filter(|_| record.state == RunState::Settled) else { return fault("not settled") };
    match report.status {
        Some(status @ 0..=255) => {
            sum.with_status += 1;
            if starts.is_empty() {
                fault("a status without a start");
            }
            if status != i64::from(entry.code) {
                fault("the status of no script");
            }
        }
        Some(-5) => {
            sum.unknown += 1;
            // It was taken from a doer that was out of reach for too long, and stopped before another had it.
            let stopped_between_attempts = record.cancelled && record.attempt > 1 && entry.retry > 0;
            if !world.book.pages().crashed && !stopped_between_attempts {
                fault("unknown, and no daemon was ever crashed");
            }
        }
        Some(-4) if entry.cancelled => {}
        _ => fault("an outcome that nothing here leads to"),
    }
    let told = world.book.pages().told.get(&record.run.to_string()).copied().unwrap_or(0);
    if told > 1 {
        fault("told as settled more than once");
    }
    let is_same = |other: &Report| other.status == report.status && other.error == report.error;
    if !entry.finals.iter().all(is_same) {
        fault(&format!("other final lines were said: {:?}", entry.finals));
    }
}
