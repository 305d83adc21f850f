//! The gate: whether what a link asks for may be, by the rules and by how often it asks. What it says is written down. It does
//! nothing of what is asked.

use std::collections::HashMap;
use std::time::Instant;

use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use crate::audit::{Audit, Entry};
use crate::config::InUse;
use crate::link::{IncomingRun, Link};
use crate::origin::Origin;
use crate::policy::{Action, Actor, At, By, Rules, Scope, Verdict};
use crate::rate::{Gcra, GcraState};
use crate::standing::{Proof, Standing};
use crate::worker;

/// So many times what a peer may ask for in a second it may ask for at once.
const BURST: u32 = 10;

/// Peers whose rate is remembered beyond their links; with more, those that have long been quiet are forgotten.
const RATES: usize = 65_536;

/// The gate of one daemon.
#[derive(Debug)]
pub struct Gate {
    rules: Rules,
    audit: Audit,
    peer_runs: InUse<usize>,
    /// By the name of the peer: a new link is no new start.
    rates: HashMap<Box<str>, GcraState>,
}

/// Why a run may not be.
#[derive(Debug)]
pub enum Shut {
    /// No rule lets it.
    Denied(Outcome),
    /// It comes too soon, and may be asked for again.
    Busy(Outcome),
}

impl Gate {
    /// The gate of a daemon with these rules, where a peer may ask for so many runs in a second.
    pub fn new(rules: Rules, audit: Audit, peer_runs: InUse<usize>) -> Self {
        Self { rules, audit, peer_runs, rates: HashMap::new() }
    }

    /// Whether a peer may ask for this run; of one that is to be passed on, whom it may be passed on to.
    pub async fn run(&mut self, run: &IncomingRun, origin: &Origin) -> Result<Scope, Shut> {
        let link = run.replier.link();
        let actor = Actor::Peer(link.standing());
        let hop = run.order.hop.as_deref();
        let to = hop.and_then(|hop| hop.to.as_ref());
        let at = to.map_or(At::Somebody, At::Whoever);
        let action = match hop {
            Some(_) => Action::Relay(&run.name, At::Somebody),
            None => Action::Run(&run.name),
        };
        let mut verdict = self.rules.decide(actor, action);
        let within = match hop {
            Some(_) => origin.within(self.rules.scope(actor, &run.name), to, run.order.queue),
            None => Some(Scope::ANYONE),
        };
        if verdict.allowed && within.is_none() {
            verdict = Verdict { allowed: false, by: By::NoRule };
        }
        let in_time = !verdict.allowed || self.is_in_time(link.peer());
        self.audit
            .record(|| {
                let entry = by_link(Entry::new(if hop.is_some() { "relay" } else { "run" }), link).text("script", &run.name);
                let entry = entry.with_known("run", run.replier.run().map(ToString::to_string));
                let entry = match to {
                    Some(to) => entry.text("to", &to.to_string()),
                    None => entry,
                };
                let params = self.audit.params(run.params.as_written());
                let by = if in_time { verdict.by.to_string() } else { "limits.peer_runs".to_owned() };
                entry.with("params", params).with("allowed", verdict.allowed && in_time).with("by", by)
            })
            .await;
        match within {
            Some(_) if verdict.allowed && !in_time => {
                let why = "it asks for more runs than limits.peer_runs of this daemon allows in a second; try again later";
                Err(Shut::Busy(Outcome::failed(ErrorCode::Busy, why)))
            }
            Some(within) if verdict.allowed => Ok(within),
            _ => {
                let action = if hop.is_some() { Action::Relay(&run.name, at) } else { action };
                Err(Shut::Denied(self.rules.refusal(actor, action)))
            }
        }
    }

    /// Whether a peer may give this command.
    pub async fn command(&self, command: &Command, link: &Link) -> Result<(), Outcome> {
        let (actor, action) = (Actor::Peer(link.standing()), Action::Command(command));
        let Verdict { allowed, by } = self.rules.decide(actor, action);
        let entry = || by_link(Entry::new("command"), link).with("code", command.code());
        self.audit.record(|| entry().with("allowed", allowed).with("by", by.to_string())).await;
        if allowed { Ok(()) } else { Err(self.rules.refusal(actor, action)) }
    }

    /// A run was refused by whoever was to do it, and never started.
    pub async fn refused(&self, run: Option<String>, outcome: &Outcome) {
        self.audit.record(|| worker::ended(run, &outcome.clone().into())).await;
    }

    /// A peer is there.
    pub async fn is_there(&self, link: &Link) {
        self.audit.record(|| by_link(Entry::new("link"), link).with("allowed", true)).await;
    }

    /// A peer is gone.
    pub fn is_gone(&mut self, link: &Link) {
        let now = Instant::now();
        if self.rates.get(link.peer()).is_some_and(|state| state.is_calm(now)) {
            self.rates.remove(link.peer());
        }
        if self.rates.len() > RATES {
            self.rates.retain(|_, state| !state.is_calm(now));
        }
    }

    fn is_in_time(&mut self, peer: &str) -> bool {
        let (now, runs) = (Instant::now(), u32::try_from(*self.peer_runs.now()).unwrap_or(u32::MAX));
        let rate = Gcra::new(runs, runs.saturating_mul(BURST));
        if let Some(state) = self.rates.get_mut(peer) {
            return rate.allow(state, now).is_ok();
        }
        let mut state = GcraState::default();
        let is_in_time = rate.allow(&mut state, now).is_ok();
        self.rates.insert(peer.into(), state);
        is_in_time
    }
}

/// An entry with who is at the other end of a link.
fn by_link(entry: Entry, link: &Link) -> Entry {
    let standing = match link.standing() {
        Standing::Anonymous => "anonymous",
        Standing::Server => "server",
        Standing::Peer(proven) => match proven.by {
            Proof::Token => "token",
            Proof::Certificate => "certificate",
        },
    };
    let entry = entry.text("peer", link.peer()).with_known("instance", link.instance());
    entry.with("standing", standing).with("address", link.address())
}
