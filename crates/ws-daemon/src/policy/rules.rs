//! Who may ask for what: by the rules of config.json, and by what holds where there are none. Pure: who asks and for what come in, a
//! verdict goes out, with what decided. All rules that are about somebody add up, and none takes away.
//!
//! There are three sides: peers, processes of this machine, and callers, which ask over HTTP. A side that no rule is about has its defaults; once a rule is about it,
//! what no rule gives is denied.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};
use ws_daemon_protocol::target::Target;

use crate::config::{BY_CALLERS, BY_PEERS, BY_TCP, Glob, Rule, Serving};
use crate::standing::{Proven, Standing};
use crate::system::Process;

/// Characters of a name that a refusal repeats; the rest is left out.
const SHOWN_CHARS: usize = 80;

/// Who may ask for what on this daemon, until other rules take their place. Clones are the same rules.
#[derive(Debug, Clone, Default)]
pub struct Rules(Arc<ArcSwap<List>>);

#[derive(Debug, Default)]
struct List {
    rules: Vec<Rule>,
    /// Whether runs are passed on for every peer, where no rule is about peers.
    relay: bool,
    /// Who may serve which names.
    serve: Vec<Serving>,
    /// The user that the daemon runs as.
    owner: u32,
}

/// Who speaks on a local connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process that could open the socket file.
    Socket(Process),
    /// Anyone who reached the TCP port.
    Tcp,
    /// A program that has shown over HTTP who it is.
    Program(Arc<Program>),
}

/// A caller: a program that asks over HTTP.
#[derive(Debug)]
pub struct Program {
    /// What it is called.
    pub name: Box<str>,
    /// What it was given when it was added, if that was said: then it has no defaults.
    pub rule: Option<Rule>,
    /// Cancelled when it is none any more.
    pub gone: CancellationToken,
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Program {}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Actor<'a> {
    /// Whoever is at the other end of a link.
    Peer(&'a Standing),
    /// A process of this machine.
    Local(&'a Caller),
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// By a peer: a script of this name, here.
    Run(&'a str),
    /// By a process: a script of this name, of a peer.
    Ask(&'a str, At<'a>),
    /// By a peer: a script of this name, of another peer.
    Relay(&'a str, At<'a>),
    /// A command, given here or for the other end.
    Command(&'a Command),
}

/// Who is to run a script.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    /// Some peer or other: whether there may be one at all.
    Somebody,
    /// This one: its name and its tags.
    Peer(&'a str, &'a [String]),
    /// Whoever matches.
    Whoever(&'a Target),
}

/// Whether it may be, and what says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be.
    pub allowed: bool,
    /// What decides.
    pub by: By,
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Root and the daemon's own user may do everything: they could change the rules.
    Owner,
    /// The rule at this place of the list, counted from 0; the first that allows it.
    Rule(usize),
    /// The setting `serve`, at this place of its list.
    Serve(usize),
    /// What the invitation of the peer says.
    Invitation,
    /// What a caller was given when it was added.
    Entry,
    /// Whose run it is: what somebody has asked for is its own to see and to stop.
    Own,
    /// There is no rule about this side: what holds without one.
    Default,
    /// There are rules, and none of them allows it.
    NoRule,
    /// It cannot be had there, whatever the rules are.
    Nothing,
}

/// Whom somebody may have asked for a script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(Option<Arc<[Target]>>);

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Rule(index) => write!(f, "rules[{index}]"),
            Self::Serve(index) => write!(f, "serve[{index}]"),
            Self::Invitation => f.write_str("invitation"),
            Self::Entry => f.write_str("entry"),
            Self::Own => f.write_str("its own"),
            Self::Default => f.write_str("default"),
            Self::NoRule => f.write_str("no rule"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

impl Scope {
    /// Anyone.
    pub const ANYONE: Self = Self(None);

    /// Whether it is anyone.
    #[must_use]
    pub fn is_anyone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a peer is among them.
    #[must_use]
    pub fn has(&self, name: &str, tags: &[String]) -> bool {
        self.takes(At::Peer(name, tags))
    }

    /// Whether whoever matches `to` is certainly among them.
    #[must_use]
    pub fn has_all(&self, to: &Target) -> bool {
        self.takes(At::Whoever(to))
    }

    fn takes(&self, at: At<'_>) -> bool {
        self.0.as_ref().is_none_or(|targets| targets.iter().any(|target| is_within(target, at)))
    }
}

fn is_within(target: &Target, at: At<'_>) -> bool {
    match at {
        At::Somebody => true,
        At::Peer(name, tags) => target.matches(name, tags),
        At::Whoever(to) => {
            let has = |name| !target.leaves_out() && target.matches(name, &[""; 0]);
            to.is_written_in(target) || to.single_name().is_some_and(has)
        }
    }
}

impl Rules {
    /// These rules, on a daemon that `owner` runs; with `relay`, runs are passed on for every peer where no rule is about peers.
    #[must_use]
    pub fn new(rules: Vec<Rule>, relay: bool, owner: u32) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(List { rules, relay, serve: Vec::new(), owner })))
    }

    /// From here on these rules hold, in all clones, and these may serve; what was let in before stays.
    pub fn replace(&self, rules: Vec<Rule>, relay: bool, serve: Vec<Serving>) {
        let owner = self.0.load().owner;
        self.0.store(Arc::new(List { rules, relay, serve, owner }));
    }

    /// What lets `caller` serve each of these names.
    ///
    /// # Errors
    /// The refusal, in words that say what would have to be set.
    pub fn may_serve(&self, caller: &Caller, names: &[Glob]) -> Result<By, Outcome> {
        let list = self.0.load();
        if list.is_owner(Actor::Local(caller)) {
            return Ok(By::Owner);
        }
        let mut by = By::NoRule;
        for name in names {
            let gives = |serving: &Serving| serving.names.iter().any(|glob| glob.covers(name)) && may_serve(serving, caller);
            let Some(index) = list.serve.iter().position(gives) else {
                let user = match caller {
                    Caller::Socket(Process { uid: Some(uid), .. }) => *uid,
                    _ => return Err(Outcome::failed(ErrorCode::Denied, "it is not known whose process you are")),
                };
                let name: String = name.to_string().chars().take(SHOWN_CHARS).collect();
                let entry = json!({ "names": [name], "users": [user] });
                let why =
                    format!("nothing lets you serve this; it would take {entry} under \"serve\" in this daemon's config.json");
                return Err(Outcome::Failed(ErrorCode::Denied, why));
            };
            by = By::Serve(index);
        }
        Ok(by)
    }

    /// Whom the rule at a place of the list is about, in its words.
    #[must_use]
    pub fn whom(&self, index: usize) -> Option<String> {
        self.0.load().rules.get(index).map(|rule| rule.who.words.to_string())
    }

    /// Whether runs are passed on for anybody.
    #[must_use]
    pub fn relays_for_anyone(&self) -> bool {
        let list = self.0.load();
        if list.are_of_peers() { list.rules.iter().any(|rule| rule.relay && rule.who.is_of_peers()) } else { list.relay }
    }

    /// Whether runs are passed on for this peer.
    #[must_use]
    pub fn relays_for(&self, peer: &Standing) -> bool {
        let list = self.0.load();
        if list.has_defaults(Actor::Peer(peer)) {
            return list.relay;
        }
        list.about(Actor::Peer(peer)).any(|(_, rule)| rule.relay)
    }

    /// Whether `actor` may do `action`, and what decides.
    #[must_use]
    pub fn decide(&self, actor: Actor<'_>, action: Action<'_>) -> Verdict {
        self.0.load().decide(actor, action)
    }

    /// Whom `actor` may have asked for the script `name`, or have it passed on to: all that [`decide`](Self::decide) allows.
    #[must_use]
    pub fn scope(&self, actor: Actor<'_>, name: &str) -> Scope {
        let list = self.0.load();
        if list.is_owner(actor) || list.has_defaults(actor) {
            return Scope::ANYONE;
        }
        let action = match actor {
            Actor::Peer(_) => Action::Relay(name, At::Somebody),
            Actor::Local(_) => Action::Ask(name, At::Somebody),
        };
        let rules = list.about(actor).map(|(_, rule)| rule).chain(own_rule(actor));
        let targets = rules.filter(|rule| gives(rule, action)).map(|rule| rule.targets.clone());
        // One rule without targets is enough for anyone.
        Scope(targets.collect::<Option<Arc<[Target]>>>())
    }

    /// Of whom a peer may hear that they are there.
    #[must_use]
    pub fn sees(&self, peer: &Standing) -> Scope {
        let (list, actor) = (self.0.load(), Actor::Peer(peer));
        if list.has_defaults(actor) {
            return Scope::ANYONE;
        }
        let rules = list.about(actor).filter(|(_, rule)| gives(rule, Action::Command(&Command::Peers)));
        Scope(rules.map(|(_, rule)| if rule.relay { rule.targets.clone() } else { None }).collect())
    }

    /// The refusal of what a verdict does not allow, in words that say what would have to be set, and nothing of other rules.
    #[must_use]
    pub fn refusal(&self, actor: Actor<'_>, action: Action<'_>) -> Outcome {
        // As JSON has it, so that what it says can be taken as it stands.
        let short = |name: &str| Value::from(name.chars().take(SHOWN_CHARS).collect::<String>()).to_string();
        let who = match actor {
            Actor::Peer(Standing::Anonymous) => short("anonymous"),
            Actor::Peer(Standing::Server) => short("server"),
            Actor::Peer(Standing::Peer(proven)) => short(&proven.name),
            Actor::Local(Caller::Tcp) => short("tcp"),
            Actor::Local(Caller::Socket(Process { uid: Some(uid), .. })) => short(&format!("user:{uid}")),
            Actor::Local(Caller::Socket(_)) => short("local"),
            Actor::Local(Caller::Program(program)) => short(&format!("caller:{}", program.name)),
        };
        let to = |at: At<'_>| match at {
            At::Somebody => String::new(),
            At::Peer(name, _) => format!(",\"targets\":[{}]", short(name)),
            At::Whoever(to) => {
                let to = serde_json::to_string(to).unwrap_or_default();
                format!(",\"targets\":{}", if to.len() > SHOWN_CHARS { "[\"…\"]" } else { &to })
            }
        };
        let (what, gives) = match action {
            Action::Run(name) => ("run this script here", format!("\"scripts\":[{}]", short(name))),
            Action::Ask(name, at) => ("ask for this script there", format!("\"scripts\":[{}]{}", short(name), to(at))),
            Action::Relay(..) | Action::Command(Command::Peers) if self.0.load().has_defaults_of_peers(actor) => {
                let why = "this server passes nothing on from one client to another; set \"relay\" to true in its config.json";
                return Outcome::failed(ErrorCode::Denied, why);
            }
            Action::Relay(name, at) => {
                ("have this script passed on there", format!("\"relay\":true,\"scripts\":[{}]{}", short(name), to(at)))
            }
            Action::Command(_) if is_never_given(actor, action) => {
                let why = if matches!(actor, Actor::Local(Caller::Socket(_))) {
                    "no rule can let you give this command: it is for root and the daemon's own user".to_owned()
                } else if matches!(actor, Actor::Peer(_)) {
                    "no rule can let a peer give this command: it is answered by one's own daemon only".to_owned()
                } else if matches!(actor, Actor::Local(Caller::Program(_))) {
                    format!("no rule can let a caller give this command; over HTTP there are {}", BY_CALLERS.join(", "))
                } else {
                    format!("not by TCP; use the socket file: by TCP there are runs, {} only", BY_TCP.join(" and "))
                };
                return Outcome::Failed(ErrorCode::Denied, why);
            }
            Action::Command(command) => ("give this command", format!("\"commands\":[{}]", short(command.code()))),
        };
        let by_tcp = if matches!(actor, Actor::Local(Caller::Tcp)) { "not by TCP; use the socket file: " } else { "" };
        let rule = format!("{{\"who\":{who},{gives}}}");
        let why = format!(
            "{by_tcp}no rule lets you {what}; it would take one like {rule} under \"rules\" in this daemon's config.json"
        );
        Outcome::Failed(ErrorCode::Denied, why)
    }
}

impl List {
    fn decide(&self, actor: Actor<'_>, action: Action<'_>) -> Verdict {
        let allowed = |by| Verdict { allowed: true, by };
        if self.is_owner(actor) {
            return allowed(By::Owner);
        }
        if is_never_given(actor, action) {
            return Verdict { allowed: false, by: By::Nothing };
        }
        if let Some((index, _)) = self.about(actor).find(|(_, rule)| gives(rule, action)) {
            return allowed(By::Rule(index));
        }
        if own_rule(actor).is_some_and(|rule| gives(rule, action)) {
            return allowed(By::Entry);
        }
        if matches!((actor, action), (Actor::Local(Caller::Program(_)), Action::Command(command)) if is_about_runs(command)) {
            return allowed(By::Own);
        }
        if let (Some(invited), Action::Run(name)) = (invitation(actor), action)
            && invited.iter().any(|pattern| Glob::parse(pattern).is_ok_and(|glob| glob.matches(name)))
        {
            return allowed(By::Invitation);
        }
        if self.has_defaults(actor) {
            return Verdict { allowed: self.by_default(actor, action), by: By::Default };
        }
        Verdict { allowed: false, by: By::NoRule }
    }

    fn has_defaults_of_peers(&self, actor: Actor<'_>) -> bool {
        matches!(actor, Actor::Peer(_)) && self.has_defaults(actor)
    }

    /// Whether a rule is about peers.
    fn are_of_peers(&self) -> bool {
        self.rules.iter().any(|rule| rule.who.is_of_peers())
    }

    /// The rules about somebody, with their places.
    fn about<'a>(&'a self, actor: Actor<'a>) -> impl Iterator<Item = (usize, &'a Rule)> {
        self.rules.iter().enumerate().filter(move |(_, rule)| is_about(rule, actor))
    }

    fn is_owner(&self, actor: Actor<'_>) -> bool {
        let Actor::Local(Caller::Socket(Process { uid: Some(uid), .. })) = actor else { return false };
        *uid == 0 || *uid == self.owner
    }

    fn has_defaults(&self, actor: Actor<'_>) -> bool {
        match actor {
            Actor::Peer(_) => !self.are_of_peers() && invitation(actor).is_none(),
            Actor::Local(Caller::Program(program)) => {
                program.rule.is_none() && self.rules.iter().all(|rule| rule.who.callers.is_empty())
            }
            Actor::Local(_) => !self.rules.iter().any(|rule| rule.who.is_of_locals()),
        }
    }

    /// What holds without a rule. The match is on every command on purpose: a new one must be decided on.
    fn by_default(&self, actor: Actor<'_>, action: Action<'_>) -> bool {
        use Command::{
            Callers, Cancel, Explain, Invite, Keys, Log, Metrics, Pause, Peers, Ping, Reload, Restart, Revoke, Rotate, Run,
            Runs, Scripts, Serve, Stats, Status, Subscribe,
        };
        match (actor, action) {
            (Actor::Local(Caller::Socket(_)), _)
            | (Actor::Local(Caller::Program(_)), Action::Command(Peers | Scripts | Stats))
            | (_, Action::Run(_) | Action::Ask(..) | Action::Command(Pause(_) | Status(_))) => true,
            // PEERS tells who else there is, for runs to be passed on to.
            (_, Action::Relay(..)) | (Actor::Peer(_), Action::Command(Peers)) => self.relay,
            (
                _,
                Action::Command(
                    Peers | Ping(_) | Runs(_) | Run(_) | Cancel(_) | Scripts | Stats | Subscribe(_) | Reload | Restart
                    | Invite(_) | Revoke(_) | Rotate(_) | Keys(_) | Explain(_) | Log(_) | Metrics | Callers(_) | Serve(_),
                ),
            ) => false,
        }
    }
}

/// Whether it is a command that is not carried out for such as these, whatever the rules are.
fn is_never_given(actor: Actor<'_>, action: Action<'_>) -> bool {
    match (actor, action) {
        (_, Action::Command(Command::Restart)) => true,
        (Actor::Local(Caller::Tcp), Action::Command(command)) => !BY_TCP.contains(&command.code()),
        (Actor::Local(Caller::Program(_)), Action::Command(command)) => !BY_CALLERS.contains(&command.code()),
        (Actor::Peer(_), Action::Command(command)) => !BY_PEERS.contains(&command.code()),
        _ => false,
    }
}

/// Whether a command is about runs that somebody has asked for, whose own it lets everybody see and stop.
fn is_about_runs(command: &Command) -> bool {
    matches!(command, Command::Runs(_) | Command::Run(_) | Command::Cancel(_))
}

/// What a caller was given when it was added.
fn own_rule(actor: Actor<'_>) -> Option<&Rule> {
    match actor {
        Actor::Local(Caller::Program(program)) => program.rule.as_ref(),
        _ => None,
    }
}

/// The scripts that a peer's invitation allows, if it says: then it has no defaults.
fn invitation(actor: Actor<'_>) -> Option<&[Box<str>]> {
    match actor {
        Actor::Peer(Standing::Peer(proven)) => proven.allow.as_deref(),
        Actor::Peer(Standing::Anonymous | Standing::Server) | Actor::Local(_) => None,
    }
}

fn may_serve(serving: &Serving, caller: &Caller) -> bool {
    let Caller::Socket(Process { uid, groups, .. }) = caller else { return false };
    uid.is_some_and(|uid| serving.users.contains(&uid)) || groups.iter().any(|group| serving.groups.contains(group))
}

fn is_about(rule: &Rule, actor: Actor<'_>) -> bool {
    let who = &rule.who;
    match actor {
        Actor::Peer(Standing::Anonymous) => who.anonymous,
        Actor::Peer(Standing::Server) => who.server,
        // Only the tags that it was given: what it says of itself gives it no rights.
        Actor::Peer(Standing::Peer(proven)) => {
            let Proven { name, tags, .. } = &**proven;
            who.peers.as_ref().is_some_and(|peers| peers.matches(name, tags))
        }
        Actor::Local(Caller::Tcp) => who.tcp,
        Actor::Local(Caller::Program(program)) => who.has_caller(&program.name),
        Actor::Local(Caller::Socket(Process { uid, groups, .. })) => {
            who.local
                || uid.is_some_and(|uid| who.users.contains(&uid))
                || groups.iter().any(|group| who.groups.contains(group))
        }
    }
}

/// Whether a rule gives this to those it is about.
fn gives(rule: &Rule, action: Action<'_>) -> bool {
    let has = |name: &str| rule.scripts.iter().any(|glob| glob.matches(name));
    let reaches = |at| rule.targets.as_ref().is_none_or(|target| is_within(target, at));
    match action {
        Action::Run(name) => has(name),
        Action::Ask(name, at) => has(name) && reaches(at),
        // Whoever it is passed on to has rules too: a rule that names no scripts means all.
        Action::Relay(name, at) => rule.relay && (rule.scripts.is_empty() || has(name)) && reaches(at),
        // Who may have runs passed on may hear to whom.
        Action::Command(Command::Peers) if rule.relay => true,
        Action::Command(command) => rule.commands.iter().any(|code| code.matches(command.code())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Accounts, WrittenRule};
    use crate::standing::Proof;

    const OWNER: u32 = 900;

    /// A daemon's rules, as config.json has them.
    fn rules(relay: bool, text: &str) -> Rules {
        let written: Vec<WrittenRule> = serde_json::from_str(text).expect("the tables hold rules");
        let meant = written.iter().map(|rule| rule.meant(&Accounts::default()).expect("numbers alone"));
        Rules::new(meant.collect(), relay, OWNER)
    }

    fn peer(name: &str, tags: &[&str], allow: Option<&[&str]>) -> Standing {
        let boxed = |texts: &[&str]| texts.iter().map(|&text| text.into()).collect();
        let (tags, allow) = (boxed(tags), allow.map(boxed));
        Standing::Peer(Arc::new(Proven { name: name.into(), tags, allow, by: Proof::Token }))
    }

    fn process(uid: u32, groups: &[u32]) -> Caller {
        Caller::Socket(Process { uid: Some(uid), groups: groups.into(), pid: Some(1) })
    }

    fn code(text: &str) -> Command {
        let data = match text {
            "PAUSE" => "1",
            "STATUS" => "{}",
            "RUN" | "CANCEL" => "\"r\"",
            "KEYS" => "{\"do\":\"show\"}",
            "CALLERS" => "{\"do\":\"list\"}",
            "SERVE" => "{\"names\":[\"a\"]}",
            "INVITE" | "REVOKE" | "ROTATE" => "{\"name\":\"a\"}",
            "EXPLAIN" => "{\"as\":\"a\",\"name\":\"b\"}",
            _ => "null",
        };
        let params = format!("{{\"code\":\"{text}\",\"data\":{data}}}");
        Command::parse(ws_daemon_protocol::command::Place::Here, &params).expect("a command")
    }

    const BY_RULE: By = By::Rule(0);
    const SECOND: By = By::Rule(1);

    #[test]
    fn what_a_peer_may_have_run_here() {
        let [anonymous, server] = [Standing::Anonymous, Standing::Server];
        let web = || peer("web-1", &["shop"], None);
        let invited = || peer("till", &[], Some(&["sms/*"]));
        let of_locals = r#"[{"who":["local","tcp","user:1","group:2"],"scripts":"*"}]"#;
        let no_rule = (false, By::NoRule);
        let table: Vec<(&str, Standing, &str, (bool, By))> = vec![
            // Without a rule about peers, all; rules about processes change nothing.
            ("[]", anonymous.clone(), "x", (true, By::Default)),
            ("[]", server.clone(), "a/b", (true, By::Default)),
            ("[]", web(), "x", (true, By::Default)),
            (of_locals, anonymous.clone(), "x", (true, By::Default)),
            (of_locals, web(), "x", (true, By::Default)),
            // With one, nothing that no rule gives.
            (r#"[{"who":"web-1","scripts":"x"}]"#, web(), "x", (true, BY_RULE)),
            (r#"[{"who":"web-1","scripts":"x"}]"#, web(), "y", no_rule),
            (r#"[{"who":"web-1","scripts":"x"}]"#, anonymous.clone(), "x", no_rule),
            (r#"[{"who":"web-1","scripts":"x"}]"#, server.clone(), "x", no_rule),
            (r#"[{"who":"web-1","scripts":"x"}]"#, peer("web-2", &["shop"], None), "x", no_rule),
            (r#"[{"who":"web-1"}]"#, web(), "x", no_rule),
            (r#"[{"who":"web-1","commands":"*","relay":true}]"#, web(), "x", no_rule),
            // Who is meant: names, globs, tags that were given, lists, those left out.
            (r#"[{"who":"web-*","scripts":"x"}]"#, web(), "x", (true, BY_RULE)),
            (r#"[{"who":"tag:shop","scripts":"x"}]"#, web(), "x", (true, BY_RULE)),
            (r#"[{"who":"tag:till","scripts":"x"}]"#, web(), "x", no_rule),
            (r#"[{"who":["a","tag:shop"],"scripts":"x"}]"#, web(), "x", (true, BY_RULE)),
            (r#"[{"who":["web-*","!web-1"],"scripts":"x"}]"#, web(), "x", no_rule),
            (r#"[{"who":"anonymous","scripts":"x"}]"#, anonymous.clone(), "x", (true, BY_RULE)),
            (r#"[{"who":"anonymous","scripts":"x"}]"#, web(), "x", no_rule),
            (r#"[{"who":"anonymous","scripts":"x"}]"#, peer("anonymous", &[], None), "x", no_rule),
            (r#"[{"who":"server","scripts":"x"}]"#, server.clone(), "x", (true, BY_RULE)),
            (r#"[{"who":"server","scripts":"x"}]"#, peer("server", &[], None), "x", no_rule),
            (r#"[{"who":"*","scripts":"x"}]"#, web(), "x", (true, BY_RULE)),
            (r#"[{"who":"*","scripts":"x"}]"#, anonymous.clone(), "x", no_rule),
            // Which scripts.
            (r#"[{"who":"*","scripts":["a","sms/*"]}]"#, web(), "sms/send/now", (true, BY_RULE)),
            (r#"[{"who":"*","scripts":["a","sms/*"]}]"#, web(), "sms", no_rule),
            (r#"[{"who":"*","scripts":["a","sms/*"]}]"#, web(), "sms/../x", no_rule),
            (r#"[{"who":"*","scripts":"?"}]"#, web(), "é", (true, BY_RULE)),
            // They add up; the first that gives it is named.
            (r#"[{"who":"web-1","scripts":"x"},{"who":"tag:shop","scripts":["x","y"]}]"#, web(), "x", (true, BY_RULE)),
            (r#"[{"who":"web-1","scripts":"x"},{"who":"tag:shop","scripts":["x","y"]}]"#, web(), "y", (true, SECOND)),
            // An invitation that says which: these, what rules add, and no default; nothing changes for others.
            ("[]", invited(), "sms/send", (true, By::Invitation)),
            ("[]", invited(), "x", no_rule),
            ("[]", peer("till", &[], Some(&[])), "x", no_rule),
            (r#"[{"who":"till","scripts":"x"}]"#, invited(), "x", (true, BY_RULE)),
            (r#"[{"who":"web-1","scripts":"x"}]"#, invited(), "sms/send", (true, By::Invitation)),
            (r#"[{"who":"web-1","scripts":"x"}]"#, invited(), "x", no_rule),
        ];
        for (text, standing, name, (allowed, by)) in table {
            let found = rules(false, text).decide(Actor::Peer(&standing), Action::Run(name));
            assert_eq!(found, Verdict { allowed, by }, "{text} {standing:?} {name}");
        }
    }

    /// Whether runs are passed on for all, the rules, who asks, for whom, and what comes of it.
    type Passed<'a> = (bool, &'a str, Standing, At<'a>, (bool, By));

    #[test]
    fn what_a_peer_may_have_passed_on() {
        let web = || peer("web-1", &[], None);
        let invited = || peer("web-1", &[], Some(&["*"]));
        let tags = ["till".to_owned()];
        let at = At::Peer("shop", &tags);
        let no_rule = (false, By::NoRule);
        let table: Vec<Passed<'_>> = vec![
            (false, "[]", web(), at, (false, By::Default)),
            (false, "[]", Standing::Anonymous, at, (false, By::Default)),
            (true, "[]", web(), at, (true, By::Default)),
            (true, "[]", Standing::Anonymous, at, (true, By::Default)),
            (true, r#"[{"who":"local","scripts":"*"}]"#, web(), at, (true, By::Default)),
            (true, r#"[{"who":"web-1","scripts":"*"}]"#, web(), at, no_rule),
            (true, "[]", invited(), at, no_rule),
            (false, r#"[{"who":"web-1","relay":true}]"#, web(), at, (true, BY_RULE)),
            (false, r#"[{"who":"web-1","relay":true}]"#, invited(), at, (true, BY_RULE)),
            (false, r#"[{"who":"web-1","relay":true}]"#, Standing::Anonymous, at, no_rule),
            (false, r#"[{"who":"web-1","relay":true,"scripts":"x"}]"#, web(), at, (true, BY_RULE)),
            (false, r#"[{"who":"web-1","relay":true,"scripts":"y"}]"#, web(), at, no_rule),
            (false, r#"[{"who":"web-1","relay":true,"targets":"shop"}]"#, web(), at, (true, BY_RULE)),
            (false, r#"[{"who":"web-1","relay":true,"targets":"tag:till"}]"#, web(), at, (true, BY_RULE)),
            (false, r#"[{"who":"web-1","relay":true,"targets":["*","!tag:till"]}]"#, web(), at, no_rule),
            (false, r#"[{"who":"web-1","relay":true,"targets":"other"}]"#, web(), at, no_rule),
            (false, r#"[{"who":"web-1","relay":true,"targets":"other"}]"#, web(), At::Somebody, (true, BY_RULE)),
            (
                false,
                r#"[{"who":"web-1","relay":true,"targets":"other"},{"who":"*","relay":true,"targets":"sh*"}]"#,
                web(),
                at,
                (true, SECOND),
            ),
        ];
        for (relay, text, standing, at, (allowed, by)) in table {
            let found = rules(relay, text).decide(Actor::Peer(&standing), Action::Relay("x", at));
            assert_eq!(found, Verdict { allowed, by }, "{relay} {text} {standing:?} {at:?}");
        }
    }

    #[test]
    fn what_a_process_may_ask_for() {
        let [root, owner, user] = [process(0, &[]), process(OWNER, &[]), process(5, &[5, 50])];
        let unknown = Caller::Socket(Process::default());
        let tags = ["till".to_owned()];
        let at = At::Peer("shop", &tags);
        let no_rule = (false, By::NoRule);
        let of_peers = r#"[{"who":["*","anonymous","server"],"scripts":"y"}]"#;
        let table: Vec<(&str, &Caller, At<'_>, (bool, By))> = vec![
            ("[]", &user, at, (true, By::Default)),
            ("[]", &unknown, at, (true, By::Default)),
            ("[]", &Caller::Tcp, at, (true, By::Default)),
            ("[]", &root, at, (true, By::Owner)),
            (of_peers, &user, at, (true, By::Default)),
            (of_peers, &Caller::Tcp, at, (true, By::Default)),
            (r#"[{"who":"user:5","scripts":"x"}]"#, &user, at, (true, BY_RULE)),
            (r#"[{"who":"user:6","scripts":"x"}]"#, &user, at, no_rule),
            (r#"[{"who":"user:6","scripts":"x"}]"#, &root, at, (true, By::Owner)),
            (r#"[{"who":"user:6","scripts":"x"}]"#, &owner, at, (true, By::Owner)),
            (r#"[{"who":"user:6","scripts":"x"}]"#, &unknown, at, no_rule),
            (r#"[{"who":"user:6","scripts":"x"}]"#, &Caller::Tcp, at, no_rule),
            (r#"[{"who":"group:50","scripts":"x"}]"#, &user, at, (true, BY_RULE)),
            (r#"[{"who":"group:51","scripts":"x"}]"#, &user, at, no_rule),
            (r#"[{"who":"local","scripts":"x"}]"#, &user, at, (true, BY_RULE)),
            (r#"[{"who":"local","scripts":"x"}]"#, &unknown, at, (true, BY_RULE)),
            (r#"[{"who":"local","scripts":"x"}]"#, &Caller::Tcp, at, no_rule),
            (r#"[{"who":"tcp","scripts":"x"}]"#, &Caller::Tcp, at, (true, BY_RULE)),
            (r#"[{"who":"tcp","scripts":"x"}]"#, &user, at, no_rule),
            (r#"[{"who":"local","scripts":"y"}]"#, &user, at, no_rule),
            (r#"[{"who":"local","commands":"*"}]"#, &user, at, no_rule),
            // A peer of that name is no user, and no user a peer.
            (r#"[{"who":["user:6","5","uid:5"],"scripts":"x"}]"#, &user, at, no_rule),
            // Of whom.
            (r#"[{"who":"local","scripts":"x","targets":"shop"}]"#, &user, at, (true, BY_RULE)),
            (r#"[{"who":"local","scripts":"x","targets":"tag:till"}]"#, &user, at, (true, BY_RULE)),
            (r#"[{"who":"local","scripts":"x","targets":"other"}]"#, &user, at, no_rule),
            (r#"[{"who":"local","scripts":"x","targets":"other"}]"#, &user, At::Somebody, (true, BY_RULE)),
            (r#"[{"who":"local","scripts":"x","targets":"other"},{"who":"user:5","scripts":"x"}]"#, &user, at, (true, SECOND)),
        ];
        for (text, caller, at, (allowed, by)) in table {
            let found = rules(true, text).decide(Actor::Local(caller), Action::Ask("x", at));
            assert_eq!(found, Verdict { allowed, by }, "{text} {caller:?} {at:?}");
        }
    }

    #[test]
    fn whom_a_pattern_takes_in_must_be_certain() {
        let rules = rules(
            false,
            r#"[{"who":"local","scripts":"x","targets":["web-*","tag:till"]},{"who":"tcp","scripts":"x","targets":["*","!tag:vault"]}]"#,
        );
        let target = |text: &str| serde_json::from_str::<Target>(text).expect("a target");
        let (user, tcp) = (process(5, &[]), Caller::Tcp);
        let table = [
            (&user, r#""web-1""#, true),
            (&user, r#""web-*""#, true),
            (&user, r#""tag:till""#, true),
            (&user, r#"["tag:till","web-*","!web-9"]"#, true),
            (&user, r#""web-1*""#, false),
            (&user, r#"["web-*","shop"]"#, false),
            (&user, r#""*""#, false),
            (&user, r#""!web-1""#, false),
            // Whether it has the tag is not known from its name.
            (&tcp, r#""web-1""#, false),
            (&tcp, r#""*""#, false),
        ];
        for (caller, to, expected) in table {
            let scope = rules.scope(Actor::Local(caller), "x");
            assert!(!scope.is_anyone());
            assert_eq!(scope.has_all(&target(to)), expected, "{caller:?} {to}");
            let verdict = rules.decide(Actor::Local(caller), Action::Ask("x", At::Whoever(&target(to))));
            assert_eq!(verdict.allowed, expected, "{caller:?} {to}");
        }
        let scope = rules.scope(Actor::Local(&user), "x");
        assert!(scope.has("web-7", &[]) && scope.has("a", &["till".to_owned()]) && !scope.has("a", &[]));
        assert!(rules.scope(Actor::Local(&process(0, &[])), "x").is_anyone());
        let scope = rules.scope(Actor::Local(&user), "y");
        assert!(!scope.is_anyone() && !scope.has("web-7", &[]));
    }

    #[test]
    fn who_may_give_which_command_without_a_rule() {
        let anonymous = Standing::Anonymous;
        let (user, tcp) = (process(5, &[]), Caller::Tcp);
        for (relay, expected) in [(false, &["PAUSE", "STATUS"][..]), (true, &["PAUSE", "STATUS", "PEERS"])] {
            let rules = rules(relay, "[]");
            for text in Command::CODES {
                let command = code(text);
                let allowed = |actor| rules.decide(actor, Action::Command(&command)).allowed;
                assert_eq!(allowed(Actor::Peer(&anonymous)), expected.contains(&text), "{text} {relay}");
                assert_eq!(allowed(Actor::Local(&tcp)), ["PAUSE", "STATUS"].contains(&text), "{text}");
                assert_eq!(allowed(Actor::Local(&user)), text != "RESTART", "{text}");
            }
        }
    }

    #[test]
    fn who_may_give_which_command_by_rules() {
        let web = peer("web-1", &[], None);
        let invited = peer("web-1", &[], Some(&["*"]));
        let (user, root, tcp) = (process(5, &[]), process(0, &[]), Caller::Tcp);
        // The daemon's own life is for its owner alone.
        let all_but_restart: Vec<&str> = Command::CODES.into_iter().filter(|code| *code != "RESTART").collect();
        let table: Vec<(&str, Actor<'_>, &[&str])> = vec![
            (r#"[{"who":"*","scripts":"*"}]"#, Actor::Peer(&web), &[]),
            ("[]", Actor::Peer(&invited), &[]),
            (r#"[{"who":"*","commands":["status"]}]"#, Actor::Peer(&web), &["STATUS"]),
            (r#"[{"who":"*","commands":["status"]}]"#, Actor::Peer(&invited), &["STATUS"]),
            (r#"[{"who":"*","relay":true}]"#, Actor::Peer(&web), &["PEERS"]),
            // All that there can be; the rest is not for peers, nor for whoever comes by TCP.
            (r#"[{"who":"*","commands":"*"}]"#, Actor::Peer(&web), &["PAUSE", "STATUS", "PEERS"]),
            (r#"[{"who":"server","commands":"*"}]"#, Actor::Peer(&Standing::Server), &["PAUSE", "STATUS", "PEERS"]),
            (r#"[{"who":"anonymous","commands":"*"}]"#, Actor::Peer(&Standing::Anonymous), &["PAUSE", "STATUS", "PEERS"]),
            (r#"[{"who":"tcp","commands":"*"}]"#, Actor::Local(&tcp), &["PAUSE", "STATUS"]),
            (r#"[{"who":["tcp","local"],"commands":"*"}]"#, Actor::Local(&tcp), &["PAUSE", "STATUS"]),
            (r#"[{"who":["tcp","local"],"commands":"*"}]"#, Actor::Local(&user), &all_but_restart),
            (r#"[{"who":"*","commands":"*"}]"#, Actor::Peer(&Standing::Anonymous), &[]),
            (r#"[{"who":"local","scripts":"*"}]"#, Actor::Local(&user), &[]),
            (r#"[{"who":"local","scripts":"*"}]"#, Actor::Local(&tcp), &[]),
            (r#"[{"who":"local","scripts":"*"}]"#, Actor::Local(&root), &Command::CODES),
            (r#"[{"who":"user:5","commands":["STATS","RUNS"]}]"#, Actor::Local(&user), &["RUNS", "STATS"]),
            (r#"[{"who":"tcp","commands":["STATUS"]}]"#, Actor::Local(&tcp), &["STATUS"]),
        ];
        for (text, actor, expected) in table {
            let rules = rules(true, text);
            let found = Command::CODES.into_iter().filter(|text| rules.decide(actor, Action::Command(&code(text))).allowed);
            assert_eq!(found.collect::<Vec<_>>(), expected, "{text} {actor:?}");
        }
    }

    #[test]
    fn who_hears_of_whom() {
        let web = peer("web-1", &[], None);
        let sees = |text: &str| {
            let scope = rules(false, text).sees(&web);
            ["shop", "till"].into_iter().filter(|name| scope.has(name, &[])).collect::<Vec<_>>()
        };
        assert_eq!(sees(r#"[{"who":"*","relay":true}]"#), ["shop", "till"]);
        assert_eq!(sees(r#"[{"who":"*","relay":true,"targets":"shop"}]"#), ["shop"]);
        assert_eq!(sees(r#"[{"who":"*","relay":true,"targets":"shop"},{"who":"*","commands":"PEERS"}]"#), ["shop", "till"]);
        assert!(sees(r#"[{"who":"x","relay":true}]"#).is_empty());
        let relays = |relay, text| (rules(relay, text).relays_for_anyone(), rules(relay, text).relays_for(&web));
        assert_eq!(relays(true, "[]"), (true, true));
        assert_eq!(relays(false, "[]"), (false, false));
        assert_eq!(relays(true, r#"[{"who":"x","relay":true}]"#), (true, false));
        assert_eq!(relays(true, r#"[{"who":"x","scripts":"*"}]"#), (false, false));
        assert_eq!(relays(true, r#"[{"who":"local","scripts":"*"}]"#), (true, true));
    }

    #[test]
    fn a_refusal_says_what_would_have_to_be_set_and_nothing_of_other_rules() {
        let rules = rules(
            false,
            r#"[{"who":"secret-peer","scripts":"secret-script","targets":"secret-target"},{"who":"group:77","scripts":"secret-script"}]"#,
        );
        let (web, user) = (peer("web-1", &[], None), process(5, &[]));
        let to = Target::parse("shop").expect("a target");
        let (stats, pause) = (Command::Stats, Command::Pause(Duration::ZERO));
        let table = [
            (Actor::Peer(&web), Action::Run("x\"\n"), r#"{"who":"web-1","scripts":["x\"\n"]}"#),
            (Actor::Peer(&Standing::Anonymous), Action::Run("x"), r#"{"who":"anonymous","scripts":["x"]}"#),
            (Actor::Peer(&Standing::Server), Action::Run("x"), r#"{"who":"server","scripts":["x"]}"#),
            (
                Actor::Peer(&web),
                Action::Relay("x", At::Whoever(&to)),
                r#"{"who":"web-1","relay":true,"scripts":["x"],"targets":"shop"}"#,
            ),
            (Actor::Local(&user), Action::Ask("x", At::Whoever(&to)), r#"{"who":"user:5","scripts":["x"],"targets":"shop"}"#),
            (Actor::Local(&user), Action::Command(&stats), r#"{"who":"user:5","commands":["STATS"]}"#),
            (Actor::Local(&Caller::Tcp), Action::Command(&pause), r#"{"who":"tcp","commands":["PAUSE"]}"#),
            (Actor::Peer(&web), Action::Command(&pause), r#"{"who":"web-1","commands":["PAUSE"]}"#),
        ];
        for (actor, action, rule) in table {
            let Outcome::Failed(ErrorCode::Denied, words) = rules.refusal(actor, action) else { panic!("{actor:?}") };
            assert!(words.contains(rule) && !words.contains("secret") && !words.contains("77"), "{words}");
            let from = words.find('{').expect("a rule");
            let rule = &words[from..=words.rfind('}').expect("a rule")];
            serde_json::from_str::<WrittenRule>(rule).expect("what it says would be taken");
        }
        for (actor, words) in
            [(Actor::Local(&Caller::Tcp), "runs, PAUSE and STATUS only"), (Actor::Peer(&web), "one's own daemon only")]
        {
            let Outcome::Failed(ErrorCode::Denied, said) = rules.refusal(actor, Action::Command(&stats)) else {
                panic!("{actor:?}")
            };
            assert!(said.ends_with(words), "{said}");
        }
        let many = Target::list(["shop"; 1000]).expect("a target");
        let Outcome::Failed(_, words) =
            rules.refusal(Actor::Peer(&web), Action::Relay(&"x".repeat(1 << 20), At::Whoever(&many)))
        else {
            panic!("no")
        };
        assert!(words.len() < 400, "{words}");
        assert!(matches!(code("PAUSE"), Command::Pause(pause) if pause == Duration::from_millis(1)));
    }
}
