//! What is done here for others, to be shown: live runs and the last direct ones from the table, queued ones that are over from the
//! spool. It changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use ws_daemon_protocol::codec::v2::{self, Frame};
use ws_daemon_protocol::command::{RunState, RunsQuery};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::more::More;
use ws_daemon_protocol::outcome::Report;

use super::Worker;
use super::claim::NESTING;
use super::doing::{About, Key, Over, Seat};
use crate::spool::{self, ClaimRecord, ClaimState, Filter};

impl Worker {
    /// The runs done here, in no order: all that are live, and of those that are over at least the newest `limit`.
    pub async fn runs(&self, query: &RunsQuery, limit: usize) -> Vec<Value> {
        let wanted = |state| query.state.is_none_or(|wanted| wanted == state);
        let is_of = |about: &About| query.peer.as_deref().is_none_or(|peer| peer == &*about.peer);
        let live = self.seats(|_| true).into_iter().filter(|seat| wanted(state_of(seat)) && is_of(&seat.about));
        let mut found: HashMap<Key, Value> = live.map(|seat| (seat.key.clone(), of_seat(&seat))).collect();
        if wanted(RunState::Settled) {
            let over = self.over(|over| is_of(&over.about));
            found.extend(over.into_iter().map(|over| (over.key.clone(), of_over(&over))));
            found.extend(self.claimed(query, limit).await);
        }
        found.into_values().collect()
    }

    /// Queued runs that are over.
    async fn claimed(&self, query: &RunsQuery, limit: usize) -> Vec<(Key, Value)> {
        let Some(spool) = &self.0.spool else { return Vec::new() };
        let names = self.names();
        let asker = match &query.peer {
            None => None,
            Some(peer) => match names.iter().find(|(_, name)| name == &peer) {
                Some((instance, _)) => Some(instance.as_str().into()),
                None => return Vec::new(),
            },
        };
        let filter = Filter { state: Some(spool::RunState::Settled), peer: asker, limit };
        let claims = spool.claims(filter).await.unwrap_or_default();
        let key = |claim: &ClaimRecord| Key::new(&claim.asker, &claim.run, claim.attempt);
        claims.iter().map(|claim| (key(claim), of_claim(claim, names.get(&*claim.asker)))).collect()
    }

    /// All about one run that is done here, or was; of several attempts the latest.
    pub async fn run(&self, run: &RunId) -> Option<Value> {
        let live = self.seats(|key| key.run == *run).into_iter().max_by_key(|seat| seat.key.attempt);
        if let Some(seat) = live {
            return Some(of_seat(&seat));
        }
        if let Some(over) = self.over(|over| over.key.run == *run).first() {
            return Some(of_over(over));
        }
        let claim = self.0.spool.as_ref()?.claim_record(run.clone()).await.ok()??;
        Some(of_claim(&claim, self.names().get(&*claim.asker)))
    }

    /// What an instance is called; by itself if nobody knows.
    pub(super) fn name_of(&self, instance: &str) -> Arc<str> {
        self.names().remove(instance).map_or_else(|| instance.into(), Into::into)
    }

    /// The names of those that are remembered, by their instances.
    fn names(&self) -> HashMap<String, String> {
        self.0.peers.registered().into_iter().filter_map(|peer| Some((peer.instance?, peer.name))).collect()
    }
}

/// A report without what was printed, and with no more than the beginning of its message.
pub fn brief(report: &Report) -> Report {
    const MESSAGE_CHARS: usize = 1024;
    let more = report.more.as_ref().map(|more| Box::new(More { ms: more.ms, ..More::default() }));
    let message = report.message.as_ref().map(|message| message.chars().take(MESSAGE_CHARS).collect());
    let (status, error, signal) = (report.status, report.error.clone(), report.signal.clone());
    Report { status, error, message, signal, more }
}

fn state_of(seat: &Seat) -> RunState {
    match (seat.doing.report(), seat.doing.has_begun()) {
        (Some(_), _) => RunState::Settled,
        (None, true) => RunState::Running,
        (None, false) => RunState::Waiting,
    }
}

fn of_seat(seat: &Seat) -> Value {
    let mut shown = shown(&seat.key, &seat.about, state_of(seat));
    if let Some(report) = seat.doing.report() {
        add_report(&mut shown, &brief(report));
    }
    shown
}

fn of_over(over: &Over) -> Value {
    let mut shown = shown(&over.key, &over.about, RunState::Settled);
    shown["settled"] = over.ended_wall_ms.into();
    add_report(&mut shown, &over.report);
    shown
}

/// Of one that is acknowledged it is known that it was, and no more.
fn of_claim(claim: &ClaimRecord, peer: Option<&String>) -> Value {
    let key = Key::new(&claim.asker, &claim.run, claim.attempt);
    let state = match claim.state {
        ClaimState::Claimed => RunState::Waiting,
        ClaimState::Starting | ClaimState::Started => RunState::Running,
        ClaimState::Finished | ClaimState::Refused | ClaimState::Acknowledged => RunState::Settled,
    };
    let id = match v2::decode(&claim.body, NESTING) {
        Ok(Frame::Run(frame)) => frame.order.caller,
        _ => None,
    };
    let peer = peer.map_or(&*claim.asker, String::as_str);
    let about = About::new(&claim.name, id, peer.into(), u64::try_from(claim.claimed_wall_ms).unwrap_or(0));
    let mut shown = shown(&key, &about, state);
    if let Some(settled) = claim.finished_wall_ms {
        shown["settled"] = settled.into();
    }
    if let Some(report) = claim.report.as_deref().and_then(|report| Report::parse(report).ok()) {
        add_report(&mut shown, &brief(&report));
    }
    shown
}

fn shown(key: &Key, about: &About, state: RunState) -> Value {
    let mut shown = json!({
        "run": key.run.to_string(), "name": about.name, "state": state, "queued": key.attempt > 0, "peer": &*about.peer,
        "accepted": about.claimed_wall_ms, "side": "done",
    });
    if let Some(id) = &about.id {
        shown["id"] = serde_json::from_str(id.as_json()).unwrap_or_default();
    }
    if key.attempt > 0 {
        shown["attempt"] = key.attempt.into();
        shown["instance"] = json!(&*key.asker);
    }
    shown
}

fn add_report(shown: &mut Value, report: &Report) {
    shown["status"] = json!(report.status);
    if let Some(error) = &report.error {
        shown["error"] = json!(error);
    }
    shown["report"] = serde_json::from_str(&report.to_json(None)).unwrap_or_default();
}
