//! What is asked here, to be shown: live runs from the ledger, queued ones that are over from the spool. It changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use ws_daemon_protocol::command::{OutputQuery, RunState, RunsQuery, StreamName, Which};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::Report;

use super::follow::Follow;
use super::ledger::Live;
use super::{Origin, Said};
use crate::counters::Outcomes;
use crate::spool::{self, Filter, RunRecord, number};

impl Origin {
    /// The runs asked for here, or those of one `user`, in no order: all that are live, and of those that are over at least the newest
    /// `limit`; of one user's as many of them as are among the newest of all.
    pub async fn runs(&self, user: Option<&str>, query: &RunsQuery, limit: usize) -> Vec<Value> {
        let is_whose = |of: &str| user.is_none_or(|user| user == of);
        let wanted = |state| query.state.is_none_or(|wanted| wanted == state);
        let mut found: HashMap<RunId, Value> = self
            .ledger()
            .all()
            .iter()
            .filter(|live| is_whose(&live.user) && wanted(live.state()))
            .map(|live| (live.run.clone(), of_live(live)))
            .collect();
        if let Some(spool) = self.spool().filter(|_| wanted(RunState::Settled)) {
            let filter = Filter { state: Some(spool::RunState::Settled), peer: None, limit };
            let stored = spool.runs(filter).await.unwrap_or_default();
            found.extend(
                stored.iter().filter(|record| is_whose(&record.user)).map(|record| (record.run.clone(), of_record(record))),
            );
        }
        let of_peer = |value: &Value| query.peer.as_ref().is_none_or(|peer| value["peer"] == peer.as_str());
        found.into_values().filter(of_peer).collect()
    }

    /// All about one run; with `own_only`, if it is that user's.
    pub async fn run(&self, user: &str, own_only: bool, which: &Which) -> Option<Value> {
        let is_whose = |of: &str| !own_only || of == user;
        let record = self.stored(user, which).await.filter(|record| is_whose(&record.user));
        let mut shown = match (self.ledger().find(which).filter(|live| is_whose(&live.user)), &record) {
            (Some(live), Some(record)) if live.run != record.run => of_record(record),
            (Some(live), _) => of_live(&live),
            (None, Some(record)) => of_record(record),
            (None, None) => return None,
        };
        if let (Some(spool), Some(record)) = (self.spool(), &record) {
            let ranges = spool.output_range(record.run.clone()).await.unwrap_or_default();
            for stream in [StreamName::Stdout, StreamName::Stderr] {
                if let Some(range) = ranges.iter().find(|range| range.stream == number(stream)) {
                    shown["output"][stream.word()] = json!({ "from": range.from, "to": range.to });
                }
            }
        }
        Some(shown)
    }

    /// What a run printed, as far as it is kept, told through the channel up to its final line if that is to be followed. Of a
    /// direct run nothing is kept but how it ended.
    pub async fn output(&self, user: &str, which: &Which, query: OutputQuery) -> Option<mpsc::Receiver<Said>> {
        const SAID: usize = 16;
        let follow = match self.stored(user, which).await {
            Some(record) => Follow::known(self, record).await,
            None => Follow::live(self, &self.ledger().find(which)?),
        };
        let run = follow.run().clone();
        let (say, said) = mpsc::channel(SAID);
        let stopping = self.stop().close_links.clone();
        self.requests().spawn(async move {
            tokio::select! {
                report = follow.output(say.clone(), query) => {
                    if let Some(mut report) = report {
                        report.more_mut().run.get_or_insert(run);
                        drop(say.send(Said::Final(report)).await);
                    }
                }
                () = stopping.cancelled() => {}
                () = say.closed() => {}
            }
        });
        Some(said)
    }

    async fn stored(&self, user: &str, which: &Which) -> Option<RunRecord> {
        let spool = self.spool()?;
        match which {
            Which::Run(run) => spool.run_record(run.clone()).await.ok()?,
            Which::Id(id) => spool.by_caller_id(user, id.key().as_text()).await.ok()?.into_iter().next(),
        }
    }

    /// How many direct runs, and how many queued ones, have been accepted here since the start; and how runs have ended.
    #[must_use]
    pub fn counted(&self) -> ([u64; 2], &Outcomes) {
        self.ledger().counted()
    }

    /// How many runs are live.
    pub fn live_count(&self) -> usize {
        self.ledger().count()
    }
}

fn of_live(live: &Arc<Live>) -> Value {
    let progress = live.progress();
    let mut shown = json!({
        "run": live.run.to_string(), "name": live.name, "state": live.state(), "queued": live.queued,
        "accepted": live.accepted_wall_ms, "side": "asked",
    });
    if let Some(id) = &live.id {
        shown["id"] = serde_json::from_str(id.as_json()).unwrap_or_default();
    }
    if let Some(peer) = progress.peer {
        shown["peer"] = json!(&*peer);
    }
    if let Some(settled) = progress.settled_wall_ms {
        shown["settled"] = settled.into();
    }
    if let Some(report) = progress.report {
        add_report(&mut shown, &report);
    }
    shown
}

fn of_record(record: &RunRecord) -> Value {
    let state = match record.state {
        spool::RunState::Waiting => RunState::Waiting,
        spool::RunState::Bound => RunState::Running,
        spool::RunState::Settled => RunState::Settled,
    };
    let mut shown = json!({
        "run": record.run.to_string(), "name": record.name, "state": state, "queued": true, "attempt": record.attempt,
        "accepted": record.accepted_wall_ms, "side": "asked",
    });
    if let Some(id) = &record.caller_id {
        shown["id"] = serde_json::from_str(id).unwrap_or_default();
    }
    if let Some(bound) = &record.bound {
        shown["instance"] = json!(bound);
    }
    if let Some(settled) = record.settled_wall_ms {
        shown["settled"] = settled.into();
    }
    if let Some(report) = record.report.as_deref().and_then(|report| Report::parse(report).ok()) {
        add_report(&mut shown, &report);
    }
    if let Some(correction) = &record.correction {
        shown["correction"] = serde_json::from_str(correction).unwrap_or_default();
    }
    shown
}

fn add_report(shown: &mut Value, report: &Report) {
    shown["status"] = json!(report.status);
    if let Some(error) = &report.error {
        shown["error"] = json!(error);
    }
    if let Some(peer) = report.more.as_ref().and_then(|more| more.peer.as_ref()) {
        shown["peer"] = json!(peer);
    }
    shown["report"] = serde_json::from_str(&report.to_json(None)).unwrap_or_default();
}
