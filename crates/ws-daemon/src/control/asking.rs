//! Who asks, on a local connection or over HTTP, and whether they may: by the rules, which is written down. It carries nothing out.

use ws_daemon_protocol::command::{Command, Place, Serve};
use ws_daemon_protocol::message::Request;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::Control;
use crate::audit::Entry;
use crate::config::Glob;
use crate::exec::{Connection, Served};
use crate::policy::{Action, Actor, At, By, Caller, Scope, Verdict};
use crate::system::Process;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    /// As the rules know them.
    pub caller: Caller,
    /// What their queued requests are found by, with an id.
    pub user: Box<str>,
}

/// Whose runs are meant.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// Who asks.
    pub user: &'a str,
    /// Whether the runs of others are as if they were not there.
    pub own_only: bool,
}

impl<'a> Whose<'a> {
    /// Those of everybody.
    #[must_use]
    pub fn all(user: &'a str) -> Self {
        Self { user, own_only: false }
    }

    /// Who asks, if the runs of others do not count.
    pub(super) fn user_if_own(self) -> Option<&'a str> {
        self.own_only.then_some(self.user)
    }
}

impl Asker {
    /// Whoever this is.
    #[must_use]
    pub fn new(caller: Caller) -> Self {
        let user = match &caller {
            Caller::Socket(Process { uid: Some(uid), .. }) => format!("uid:{uid}").into(),
            Caller::Socket(_) => "unknown".into(),
            Caller::Tcp => "tcp".into(),
            Caller::Program(program) => format!("caller:{}", program.name).into(),
        };
        Self { caller, user }
    }

    /// An entry of the audit log with who it is.
    fn entry(&self, event: &'static str) -> Entry {
        match &self.caller {
            Caller::Socket(process) => Entry::new(event).with("uid", process.uid).with_known("pid", process.pid),
            Caller::Tcp => Entry::new(event).with("tcp", true),
            Caller::Program(program) => Entry::new(event).with("caller", &*program.name),
        }
    }
}

impl Control {
    /// Whom somebody may have asked for this.
    ///
    /// # Errors
    /// That they may not.
    pub async fn may_ask(&self, asker: &Asker, request: &Request) -> Result<Scope, Outcome> {
        let asked = self.asked(asker, request)?;
        self.0.audit.record(|| self.ask_entry(asker, request, asked.verdict)).await;
        self.asked_for(asker, asked)
    }

    /// The same on the spot; `None` where it is to be written down, for which there may have to be waited.
    pub fn may_ask_now(&self, asker: &Asker, request: &Request) -> Option<Result<Scope, Outcome>> {
        let decide = || self.asked_for(asker, self.asked(asker, request)?);
        (!self.0.audit.is_on()).then(decide)
    }

    fn asked<'a>(&self, asker: &Asker, request: &'a Request) -> Result<Asked<'a>, Outcome> {
        let (rules, origin) = (&self.0.rules, &self.0.origin);
        let Request { name, options, .. } = request;
        let actor = Actor::Local(&asker.caller);
        let ask = Action::Ask(name, At::Somebody);
        let mut verdict = rules.decide(actor, ask);
        let mut refused = ask;
        let kept = options.queue.is_some() && !options.each;
        let within = origin.within(rules.scope(actor, name), options.to.as_ref(), kept).filter(|_| verdict.allowed);
        if verdict.allowed && within.is_none() {
            verdict = Verdict { allowed: false, by: By::NoRule };
            refused = options.to.as_ref().map_or(ask, |to| Action::Ask(name, At::Whoever(to)));
        }
        // What is run here with the outcome is asked for as well; never by who is not of this machine.
        if let (true, Some(then)) = (verdict.allowed, &options.then) {
            if matches!(asker.caller, Caller::Program(_)) {
                return Err(Outcome::failed(ErrorCode::Denied, "\"then\" is for processes of this machine only"));
            }
            let then = Action::Ask(then, At::Somebody);
            let of_then = rules.decide(actor, then);
            (verdict, refused) = if of_then.allowed { (verdict, refused) } else { (of_then, then) };
        }
        Ok(Asked { verdict, refused, within })
    }

    fn asked_for(&self, asker: &Asker, asked: Asked<'_>) -> Result<Scope, Outcome> {
        let Asked { verdict, refused, within } = asked;
        within.filter(|_| verdict.allowed).ok_or_else(|| self.0.rules.refusal(Actor::Local(&asker.caller), refused))
    }

    fn ask_entry(&self, asker: &Asker, request: &Request, verdict: Verdict) -> Entry {
        let Request { name, options, .. } = request;
        let entry = asker.entry("ask").text("script", name);
        let entry = entry.with_known("id", request.id.as_ref().map(|id| id.as_json().to_owned()));
        let entry = match &options.to {
            Some(to) => entry.text("to", &to.to_string()),
            None => entry,
        };
        let entry = match &options.then {
            Some(then) => entry.text("then", then),
            None => entry,
        };
        let params = self.0.audit.params(request.params.as_written());
        entry.with("params", params).with("allowed", verdict.allowed).with("by", verdict.by.to_string())
    }

    /// Whether somebody may give this command, and of which runs.
    ///
    /// # Errors
    /// That they may not.
    pub async fn may_command<'a>(&self, asker: &'a Asker, place: Place, command: &Command) -> Result<Whose<'a>, Outcome> {
        let (decided, by) = self.commanded(asker, command);
        let entry = || {
            let code = format!("{}{}", if place == Place::Here { "+" } else { "&" }, command.code());
            let entry = asker.entry("command").with("code", code).with("allowed", decided.is_ok());
            match command {
                Command::Serve(serve) => entry.text("names", &serve.names.join(", ")),
                _ => entry,
            }
            .with("by", by.to_string())
        };
        self.0.audit.record(entry).await;
        decided.map(|by| Whose { user: &asker.user, own_only: by == By::Own })
    }

    /// The same on the spot; `None` where it is to be written down, for which there may have to be waited.
    pub fn may_command_now<'a>(&self, asker: &'a Asker, command: &Command) -> Option<Result<Whose<'a>, Outcome>> {
        let decide = || self.commanded(asker, command).0.map(|by| Whose { user: &asker.user, own_only: by == By::Own });
        (!self.0.audit.is_on()).then(decide)
    }

    /// Whether it may be, and by what that was decided.
    fn commanded(&self, asker: &Asker, command: &Command) -> (Result<By, Outcome>, By) {
        let rules = &self.0.rules;
        let (actor, action) = (Actor::Local(&asker.caller), Action::Command(command));
        let Verdict { allowed, by } = rules.decide(actor, action);
        let mut decided = if allowed { Ok(by) } else { Err(rules.refusal(actor, action)) };
        if let (Ok(_), Command::Serve(serve)) = (&decided, command) {
            decided = globs(serve).and_then(|names| rules.may_serve(&asker.caller, &names));
        }
        let by = *decided.as_ref().unwrap_or(if allowed { &By::NoRule } else { &by });
        (decided, by)
    }

    /// Has a connection asked for what it serves, from here on.
    ///
    /// # Errors
    /// A name is none.
    pub fn serve(&self, serve: &Serve, connection: Connection) -> Result<Served, Outcome> {
        let names = globs(serve)?;
        self.0.peers.counters().command(&Command::Serve(serve.clone()));
        Ok(self.0.executor.serve(connection, &names, serve.ready))
    }

    /// The same for one that serves already: these names, and no others.
    ///
    /// # Errors
    /// A name is none.
    pub fn serve_instead(&self, served: &Served, serve: &Serve) -> Result<(), Outcome> {
        let names = globs(serve)?;
        self.0.peers.counters().command(&Command::Serve(serve.clone()));
        served.serve(&names, serve.ready);
        Ok(())
    }
}

/// What was decided of a request.
struct Asked<'a> {
    verdict: Verdict,
    /// What is refused, if something is.
    refused: Action<'a>,
    /// Whom it may be asked of, if it may.
    within: Option<Scope>,
}

/// The names that are to be served.
fn globs(serve: &Serve) -> Result<Vec<Glob>, Outcome> {
    let glob = |name: &String| Glob::parse(name).map_err(|why| Outcome::failed(ErrorCode::BadMessage, format!("SERVE: {why}")));
    serve.names.iter().map(glob).collect()
}
