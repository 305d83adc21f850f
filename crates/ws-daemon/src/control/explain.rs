//! EXPLAIN: whether somebody may ask for a script, which rule says so, and who would get it. It asks nobody and counts nothing.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use ws_daemon_protocol::command::ExplainQuery;
use ws_daemon_protocol::options::Route;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::Control;
use crate::peers::Choice;
use crate::policy::{Action, Actor, At, By, Caller, Scope, Verdict};
use crate::standing::{Proof, Proven, Standing};
use crate::system::{self, Process};

/// Peers in one answer; the rest is counted.
const SHOWN: usize = 1000;

/// Whose request is meant.
enum Asker {
    Local(Caller),
    Peer(Standing),
    /// A peer that does not get in.
    Revoked,
}

impl Control {
    pub(super) async fn explain(&self, query: ExplainQuery) -> Result<Value, Outcome> {
        let ExplainQuery { actor: word, name, to } = query;
        let (asker, note) = self.asker(&word).await?;
        let mut said = json!({ "as": word, "name": name });
        if let Some(to) = &to {
            said["to"] = serde_json::to_value(to).unwrap_or_default();
        }
        let actor = match &asker {
            Asker::Local(caller) => Actor::Local(caller),
            Asker::Peer(standing) => Actor::Peer(standing),
            Asker::Revoked => {
                said["allowed"] = false.into();
                said["by"] = "revoked".into();
                said["why"] = "it was revoked: it does not get in".into();
                return Ok(said);
            }
        };
        let rules = &self.0.rules;
        let at = to.as_ref().map_or(At::Somebody, At::Whoever);
        let (action, refused) = match (actor, &to) {
            (Actor::Local(_), _) => (Action::Ask(&name, At::Somebody), Action::Ask(&name, at)),
            (Actor::Peer(_), Some(_)) => (Action::Relay(&name, At::Somebody), Action::Relay(&name, at)),
            (Actor::Peer(_), None) => (Action::Run(&name), Action::Run(&name)),
        };
        let mut verdict = rules.decide(actor, action);
        if !matches!(action, Action::Run(_)) {
            let within = self.0.origin.within(rules.scope(actor, &name), to.as_ref(), false).filter(|_| verdict.allowed);
            if verdict.allowed && within.is_none() {
                verdict = Verdict { allowed: false, by: By::NoRule };
            }
            let not = matches!(actor, Actor::Peer(_)).then(|| self.instance_of(&word)).flatten();
            let choice =
                Choice { target: to.as_ref(), route: &Route::RoundRobin, not: not.as_deref(), within: within.as_ref() };
            let next = within.as_ref().and_then(|_| self.0.peers.peek(&choice));
            let next = next.as_ref().map(crate::link::Link::peer);
            let (peers, more) = self.who(&choice, within.as_ref(), next);
            said["peers"] = peers.into();
            if more > 0 {
                said["more"] = more.into();
            }
        }
        said["allowed"] = verdict.allowed.into();
        said["by"] = verdict.by.to_string().into();
        let why = self.why(actor, verdict);
        said["why"] = match rules.refusal(actor, refused) {
            Outcome::Failed(_, words) if !verdict.allowed => format!("{why}. It is told: {words}").into(),
            _ => why.into(),
        };
        if let Some(note) = note {
            said["note"] = note.into();
        }
        Ok(said)
    }

    /// Who is meant by a word, and what is to be said of that.
    async fn asker(&self, word: &str) -> Result<(Asker, Option<&'static str>), Outcome> {
        let local = |caller| Ok((Asker::Local(caller), None));
        match word {
            "tcp" => return local(Caller::Tcp),
            "local" => return local(Caller::Socket(Process::default())),
            "anonymous" => return Ok((Asker::Peer(Standing::Anonymous), None)),
            "server" => return Ok((Asker::Peer(Standing::Server), None)),
            _ => {}
        }
        if let Some(user) = word.strip_prefix("user:") {
            let name = user.to_owned();
            let found = spawn_blocking(move || system::process_of(&name)).await.ok().flatten();
            let unknown = || Outcome::Failed(ErrorCode::UnknownTarget, format!("this machine knows no user {user:?}"));
            return local(Caller::Socket(found.ok_or_else(unknown)?));
        }
        if let Some(name) = word.strip_prefix("caller:") {
            let unknown = || Outcome::Failed(ErrorCode::UnknownTarget, format!("there is no caller {name:?}"));
            return local(Caller::Program(self.0.callers.named(name).ok_or_else(unknown)?));
        }
        let link = self.0.peers.links().into_iter().find(|link| link.peer() == word);
        Ok(match link {
            Some(link) => {
                let note = match link.standing() {
                    Standing::Anonymous => {
                        Some("it is connected without a proof of its name: the rules for \"anonymous\" hold")
                    }
                    Standing::Server => Some("it is the server that this daemon has dialled: the rules for \"server\" hold"),
                    Standing::Peer(_) => None,
                };
                (Asker::Peer(link.standing().clone()), note)
            }
            None => self.absent(word),
        })
    }

    /// A peer that is not connected, as it would be judged if it were.
    fn absent(&self, name: &str) -> (Asker, Option<&'static str>) {
        let register = self.0.peers.register();
        // Asked like this, one that has no token for now is no different.
        let Ok(registered) = register.named(name, Proof::Certificate) else { return (Asker::Revoked, None) };
        let note = match &registered {
            None => "it is not connected, nor in the register: judged as a peer that has proved this name and has no tags",
            Some(_) if register.named(name, Proof::Token).is_err() => {
                "it has no token, and does not get in until it has joined again: judged by what the register gives it"
            }
            Some(_) => "it is not connected: judged by what the register gives it",
        };
        let unknown = || Proven { name: name.into(), tags: Vec::new(), allow: None, by: Proof::Token };
        (Asker::Peer(Standing::Peer(Arc::new(registered.unwrap_or_else(unknown)))), Some(note))
    }

    fn instance_of(&self, name: &str) -> Option<String> {
        let links = self.0.peers.links();
        links.iter().find(|link| link.peer() == name).and_then(|link| link.instance().map(str::to_owned))
    }

    /// Those who may get it, and how many more there are.
    fn who(&self, choice: &Choice<'_>, within: Option<&Scope>, next: Option<&str>) -> (Vec<Value>, usize) {
        let Some(within) = within else { return (Vec::new(), 0) };
        let asks = |instance: &Option<String>| choice.not.is_some() && instance.as_deref() == choice.not;
        let mut found = self.0.peers.all_matching(choice.target);
        found.retain(|peer| within.has(&peer.name, &peer.tags) && !asks(&peer.instance));
        let more = found.len().saturating_sub(SHOWN);
        let show = |peer: &crate::peers::Match| json!({ "name": peer.name, "connected": peer.link.is_some(), "next": next == Some(peer.name.as_str()) });
        (found.iter().take(SHOWN).map(show).collect(), more)
    }

    fn why(&self, actor: Actor<'_>, verdict: Verdict) -> String {
        let side = match actor {
            Actor::Peer(_) => "peers",
            Actor::Local(Caller::Program(_)) => "callers",
            Actor::Local(_) => "processes of this machine",
        };
        match (verdict.by, verdict.allowed) {
            (By::Owner, _) => "root and the daemon's own user may do everything".to_owned(),
            (By::Rule(index), _) => {
                let who = self.0.rules.whom(index).unwrap_or_default();
                format!("rules[{index}], about {who}, allows it")
            }
            (By::Invitation, _) => "its invitation allows it".to_owned(),
            (By::Entry, _) => "what it was given when it was added allows it".to_owned(),
            (By::Own, _) => "it is about what it has asked for itself".to_owned(),
            (By::Default, true) => format!("no rule is about {side}, and without one this is allowed"),
            (By::Default, false) => format!("no rule is about {side}, and without one this is not allowed"),
            (By::Nothing, _) => "no rule can give it".to_owned(),
            (By::Serve(_), _) => "the setting \"serve\" decides".to_owned(),
            (By::NoRule, _) => format!("there are rules about {side} or an invitation, and none of them allows it"),
        }
    }
}
