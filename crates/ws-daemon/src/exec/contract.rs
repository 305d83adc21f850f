//! A contract: what a script's owner says of who may call it, with what, as whom and how far. It only narrows, and it is all or
//! nothing: what is not understood to the last key is a fault, and never passed over.

mod schema;
mod shelf;
mod written;

pub use shelf::{ENDING, Fault, Shelf, Terms, beside};

use std::ffi::CString;
use std::time::Duration;

use nix::unistd::{Group, Uid, User};
use serde_json::{Map, Value, json};
use ws_daemon_protocol::command::READY;
use ws_daemon_protocol::target::Target;

use super::job::Caller;
use crate::standing::Standing;
use crate::system::c_text;
use crate::system::shim::{Identity, Order};
use schema::Schema;
pub use written::described;
use written::{ParamsBy, Who, Written, WrittenWorkers};

/// Entries of `callers`; with more the contract is broken.
const CALLERS: usize = 256;

/// Names in `environment`; with more the contract is broken.
const VARIABLES: usize = 1024;

/// Characters of `description`; with more the contract is broken.
const DESCRIPTION_CHARS: usize = 1024;

/// Copies of one script that are kept running; with more the contract is broken.
const PROCESSES: usize = 256;

/// What is allowed of one script.
#[derive(Debug)]
pub struct Contract {
    description: Option<String>,
    schema: Option<Schema>,
    callers: Option<Vec<Callers>>,
    timeout: Option<Duration>,
    at_once: Option<usize>,
    user: Option<RunsAs>,
    limits: Vec<(String, u64)>,
    environment: Option<Vec<String>>,
    output: Option<u64>,
    by_stdin: bool,
    workers: Option<Workers>,
}

/// How copies of a script are kept running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// So many at most.
    pub processes: usize,
    /// Requests that one of them may hold.
    pub ready: usize,
    /// Requests that one of them gets.
    pub max_requests: Option<u64>,
    /// How long one is kept that has nothing to do.
    pub idle: Option<Duration>,
}

/// Some of those who may call.
#[derive(Debug)]
enum Callers {
    Anonymous,
    Server,
    Local,
    /// Peers that have proved their name.
    Proven(Target),
}

/// Whom the script runs as.
#[derive(Debug)]
struct RunsAs {
    /// As it was written.
    shown: (String, Option<String>),
    identity: Identity,
    /// `HOME`, `USER`, `LOGNAME` and `SHELL`.
    variables: [CString; 4],
}

impl Contract {
    /// Reads a contract.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let Written {
            _described_by: _,
            description,
            schema,
            callers,
            timeout,
            at_once,
            user,
            group,
            limits,
            environment,
            output,
            params,
            worker,
        } = Written::parse(text)?;
        if description.as_ref().is_some_and(|description| description.chars().count() > DESCRIPTION_CHARS) {
            return Err(format!("description: it has more than {DESCRIPTION_CHARS} characters"));
        }
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err("timeout: it must be longer than 0".into());
        }
        if at_once == Some(0) {
            return Err("at_once: it must be at least 1".into());
        }
        if worker.is_some() && params == Some(ParamsBy::Stdin) {
            return Err("params: a worker gets them in the line that asks it".into());
        }
        let user = match (user, group) {
            (None, None) => None,
            (None, Some(_)) => return Err("group: it says nothing without \"user\"".into()),
            (Some(user), group) => Some(RunsAs::look_up(&user, group.as_ref())?),
        };
        Ok(Self {
            description,
            schema: schema.map(Schema::compile).transpose().map_err(|why| format!("schema: {why}"))?,
            callers: callers.map(|names| callers_of(&names)).transpose().map_err(|why| format!("callers: {why}"))?,
            timeout,
            at_once,
            user,
            limits: limits.by_name(),
            environment: environment.map(variables).transpose().map_err(|why| format!("environment: {why}"))?,
            output: output.map(|bytes| bytes as u64),
            by_stdin: params == Some(ParamsBy::Stdin),
            workers: worker.map(|worker| Workers::meant(&worker)).transpose().map_err(|why| format!("worker.{why}"))?,
        })
    }

    /// Whether `caller` may have the script run.
    #[must_use]
    pub fn admits(&self, caller: &Caller) -> bool {
        let is = |callers: &Callers| match (callers, caller) {
            (Callers::Local, Caller::Local)
            | (Callers::Anonymous, Caller::Far(Standing::Anonymous))
            | (Callers::Server, Caller::Far(Standing::Server)) => true,
            // Tags that a peer gives itself are its own word.
            (Callers::Proven(who), Caller::Far(Standing::Peer(peer))) => who.matches(&peer.name, &peer.tags),
            _ => false,
        };
        self.callers.as_ref().is_none_or(|callers| callers.iter().any(is))
    }

    /// What is wrong with params, and where.
    #[must_use]
    pub fn fault_in(&self, params: &str) -> Option<String> {
        self.schema.as_ref()?.fault_in(params)
    }

    /// Whether params are looked at.
    #[must_use]
    pub fn has_schema(&self) -> bool {
        self.schema.is_some()
    }

    /// How long a run may take for which so long was asked.
    #[must_use]
    pub fn timeout(&self, asked: Option<Duration>) -> Option<Duration> {
        match (self.timeout, asked) {
            (Some(bound), Some(asked)) => Some(bound.min(asked)),
            (bound, asked) => bound.or(asked),
        }
    }

    /// How many may run at once: no more than its copies may hold.
    #[must_use]
    pub fn at_once(&self) -> Option<usize> {
        let held = self.workers.map(|workers| workers.processes * workers.ready);
        [self.at_once, held].into_iter().flatten().min()
    }

    /// How copies of it are kept running, if they are.
    #[must_use]
    pub fn workers(&self) -> Option<Workers> {
        self.workers
    }

    /// How many bytes of each stream are kept or told.
    #[must_use]
    pub fn output(&self) -> Option<u64> {
        self.output
    }

    /// Whether the params always come on stdin.
    #[must_use]
    pub fn by_stdin(&self) -> bool {
        self.by_stdin
    }

    /// What the script must take on before it starts, if anything.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        let user = self.user.as_ref().map(|user| user.identity.clone());
        (user.is_some() || !self.limits.is_empty()).then(|| Order { user, limits: self.limits.clone() })
    }

    /// Which of the daemon's own variables (`NAME=value`) the script gets.
    #[must_use]
    pub fn passes(&self, variable: &CString) -> bool {
        let Some(names) = &self.environment else { return true };
        let name = variable.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        name.starts_with(b"WSDAEMON_") || names.iter().any(|allowed| allowed.as_bytes() == name)
    }

    /// The variables of the user that the script runs as; they stand in for the daemon's.
    #[must_use]
    pub fn variables(&self) -> &[CString] {
        self.user.as_ref().map_or(&[], |user| &user.variables)
    }

    /// The contract for a list of scripts: what it says, the schema in brief.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut shown = Map::new();
        let mut say = |key: &str, value: Option<Value>| value.map(|value| shown.insert(key.into(), value));
        say("description", self.description.as_deref().map(Value::from));
        say("schema", self.schema.as_ref().map(|schema| schema.summary().into()));
        say("callers", self.callers.as_ref().map(|callers| callers.iter().map(Callers::shown).collect()));
        say("timeout", self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).into()));
        say("at_once", self.at_once.map(Value::from));
        if let Some(RunsAs { shown: (user, group), .. }) = &self.user {
            say("user", Some(user.as_str().into()));
            say("group", group.as_deref().map(Value::from));
        }
        let limits: Map<String, Value> = self.limits.iter().map(|(name, most)| (name.clone(), json!(most))).collect();
        say("limits", (!limits.is_empty()).then_some(Value::Object(limits)));
        say("environment", self.environment.as_ref().map(|names| json!(names)));
        say("output", self.output.map(Value::from));
        say("params", self.by_stdin.then(|| "stdin".into()));
        say("worker", self.workers.map(Workers::shown));
        Value::Object(shown)
    }
}

impl Workers {
    fn meant(written: &WrittenWorkers) -> Result<Self, String> {
        let WrittenWorkers { processes, max_requests, idle, ready } = *written;
        let within = |key: &str, found: Option<usize>, most: usize| match found.unwrap_or(1) {
            found if (1..=most).contains(&found) => Ok(found),
            _ => Err(format!("{key}: it is 1 to {most}")),
        };
        if max_requests == Some(0) {
            return Err("max_requests: it must be at least 1".into());
        }
        if idle.is_some_and(|idle| idle.is_zero()) {
            return Err("idle: it must be longer than 0".into());
        }
        let (processes, ready) = (within("processes", processes, PROCESSES)?, within("ready", ready, READY)?);
        Ok(Self { processes, ready, max_requests, idle })
    }

    fn shown(self) -> Value {
        let Self { processes, ready, max_requests, idle } = self;
        let mut shown = json!({ "processes": processes, "ready": ready });
        if let Some(max_requests) = max_requests {
            shown["max_requests"] = max_requests.into();
        }
        if let Some(idle) = idle {
            shown["idle"] = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX).into();
        }
        shown
    }
}

impl Callers {
    fn shown(&self) -> Value {
        match self {
            Self::Anonymous => "anonymous".into(),
            Self::Server => "server".into(),
            Self::Local => "local".into(),
            Self::Proven(target) => json!(target),
        }
    }
}

fn callers_of(names: &[String]) -> Result<Vec<Callers>, String> {
    if names.is_empty() || names.len() > CALLERS {
        return Err(format!("it is a list of 1 to {CALLERS} names"));
    }
    let callers = names.iter().map(|name| match name.as_str() {
        "anonymous" => Ok(Callers::Anonymous),
        "server" => Ok(Callers::Server),
        "local" => Ok(Callers::Local),
        left_out if left_out.starts_with('!') => Err(format!("{left_out:?}: nobody is left out here, only let in")),
        name => Target::parse(name).map(Callers::Proven).map_err(|fault| fault.to_string()),
    });
    callers.collect()
}

fn variables(names: Vec<String>) -> Result<Vec<String>, String> {
    if names.len() > VARIABLES {
        return Err(format!("it has more than {VARIABLES} names"));
    }
    match names.iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        Some(name) => Err(format!("{name:?} is no name of a variable")),
        None => Ok(names),
    }
}

impl RunsAs {
    fn look_up(user: &Who, group: Option<&Who>) -> Result<Self, String> {
        let failed = |key: &str, error: nix::errno::Errno| format!("{key}: it could not be looked up: {error}");
        let found = match user {
            Who::Name(name) => User::from_name(name),
            Who::Id(id) => User::from_uid(Uid::from_raw(*id)),
        };
        let found = found.map_err(|error| failed("user", error))?;
        let group_id = match group {
            None => None,
            Some(Who::Id(id)) => Some(*id),
            Some(Who::Name(name)) => {
                let found = Group::from_name(name).map_err(|error| failed("group", error))?;
                Some(found.ok_or_else(|| format!("group: there is no group {name:?} on this machine"))?.gid.as_raw())
            }
        };
        let shown = (user.to_string(), group.map(ToString::to_string));
        let (id, group, name, home, shell) = match (found, user, group_id) {
            (Some(user), _, group) => {
                let (home, shell) = (user.dir.display().to_string(), user.shell.display().to_string());
                (user.uid.as_raw(), group.unwrap_or(user.gid.as_raw()), Some(user.name), home, shell)
            }
            // Its number is all there is to it; what the kernel needs beside is said here.
            (None, Who::Id(id), Some(group)) => (*id, group, None, "/".to_owned(), String::new()),
            (None, Who::Id(id), None) => {
                return Err(format!("user: there is no user {id} on this machine; a bare number needs a \"group\" beside it"));
            }
            (None, Who::Name(name), _) => return Err(format!("user: there is no user {name:?} on this machine")),
        };
        if [id, group].contains(&u32::MAX) {
            return Err("user: this number means nobody at all".into());
        }
        let login = name.clone().unwrap_or_else(|| id.to_string());
        let shell = if shell.is_empty() { "/bin/sh".to_owned() } else { shell };
        let pair = |name: &str, value: &str| c_text(format!("{name}={value}")).map_err(|error| format!("user: {error}"));
        let variables = [pair("HOME", &home)?, pair("USER", &login)?, pair("LOGNAME", &login)?, pair("SHELL", &shell)?];
        Ok(Self { shown, identity: Identity { user: id, group, name }, variables })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::standing::{Proof, Proven};

    fn contract(text: &str) -> Contract {
        Contract::parse(text.as_bytes()).unwrap_or_else(|fault| panic!("{text}: {fault}"))
    }

    #[test]
    fn what_is_not_understood_to_the_last_key_is_a_fault() {
        let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(1025));
        let table = [
            ("", "EOF"),
            ("[]", "it is no object"),
            ("{\"a\"", "EOF"),
            ("{} {}", "trailing"),
            (r#"{"callres":["a"]}"#, "there is no key \"callres\""),
            (r#"{"worker":{"proceses":2}}"#, "there is no key \"proceses\""),
            (r#"{"worker":{"processes":0}}"#, "worker.processes: it is 1 to 256"),
            (r#"{"worker":{"processes":257}}"#, "worker.processes: it is 1 to 256"),
            (r#"{"worker":{"ready":1025}}"#, "worker.ready: it is 1 to 1024"),
            (r#"{"worker":{"max_requests":0}}"#, "worker.max_requests: it must be at least 1"),
            (r#"{"worker":{"idle":"0s"}}"#, "worker.idle: it must be longer than 0"),
            (r#"{"worker":{"idle":null}}"#, "worker.idle: null says nothing"),
            (r#"{"worker":true}"#, "worker: "),
            (r#"{"worker":{},"params":"stdin"}"#, "params: a worker gets them in the line"),
            (r#"{"timeout":"1s","timeout":"2s"}"#, "the key \"timeout\" stands twice"),
            (r#"{"callers":null}"#, "callers: null says nothing"),
            (r#"{"limits":{"core":null}}"#, "limits.core: null says nothing"),
            (r#"{"callers":[]}"#, "callers: it is a list of 1 to 256"),
            (r#"{"callers":["!a"]}"#, "callers: \"!a\": nobody is left out"),
            (r#"{"callers":[""]}"#, "callers: a target needs a name"),
            (r#"{"callers":7}"#, "callers: "),
            (r#"{"timeout":0}"#, "timeout: it must be longer than 0"),
            (r#"{"timeout":"soon"}"#, "timeout: "),
            (r#"{"at_once":0}"#, "at_once: it must be at least 1"),
            (r#"{"at_once":"2"}"#, "at_once: "),
            (r#"{"user":"no-such-user-here"}"#, "user: there is no user \"no-such-user-here\""),
            (r#"{"user":4123456789}"#, "a bare number needs a \"group\""),
            (r#"{"user":-1}"#, "user: "),
            (r#"{"user":4294967295,"group":1}"#, "nobody at all"),
            (r#"{"user":"root","group":"no-such-group-here"}"#, "group: there is no group"),
            (r#"{"group":"root"}"#, "group: it says nothing without \"user\""),
            (r#"{"limits":{"stack":1}}"#, "there is no key \"stack\""),
            (r#"{"limits":{"nofile":-1}}"#, "limits.nofile: "),
            (r#"{"limits":{"as":"much"}}"#, "limits.as: \"much\" is no size"),
            (r#"{"environment":["A=b"]}"#, "environment: \"A=b\" is no name"),
            (r#"{"environment":"PATH"}"#, "environment: "),
            (r#"{"output":"1MB"}"#, "output: \"1MB\" is no size"),
            (r#"{"params":"file"}"#, "params: "),
            (r#"{"schema":{"type":"text"}}"#, "schema: "),
            (r#"{"schema":7}"#, "schema: "),
            (r#"{"schema":{"pattern":"(?=a)"}}"#, "schema: "),
            (r#"{"schema":{"format":"no-such-format"}}"#, "schema: "),
            (r#"{"schema":{"$ref":"https://example.org/x.json"}}"#, "schema: "),
            (r#"{"schema":{"$ref":"file:///etc/passwd"}}"#, "schema: "),
            (r#"{"schema":{"$ref":"other.json"}}"#, "schema: "),
            (r##"{"schema":{"$ref":"#/nowhere"}}"##, "schema: "),
            (r#"{"schema":{"$schema":"https://example.org/own"}}"#, "schema: "),
            (&long, "description: it has more"),
        ];
        for (text, expected) in table {
            let fault = Contract::parse(text.as_bytes()).expect_err(text);
            assert!(fault.contains(expected), "{text}: {fault}");
            assert!(fault.chars().count() <= 400, "{fault}");
        }
        assert!(Contract::parse(b"{\"description\":\"\xff\"}").is_err());
    }

    #[test]
    fn who_may_call() {
        let proven = |name: &str, tags: &[&str]| {
            let tags = tags.iter().map(|tag| (*tag).into()).collect();
            Caller::Far(Standing::Peer(Arc::new(Proven { name: name.into(), tags, allow: None, by: Proof::Token })))
        };
        let everyone =
            [Caller::Local, Caller::Far(Standing::Anonymous), Caller::Far(Standing::Server), proven("web-1", &["sms"])];
        let table = [
            ("{}", [true, true, true, true]),
            (r#"{"callers":"local"}"#, [true, false, false, false]),
            (r#"{"callers":["anonymous"]}"#, [false, true, false, false]),
            (r#"{"callers":["server","local"]}"#, [true, false, true, false]),
            (r#"{"callers":["web-1"]}"#, [false, false, false, true]),
            (r#"{"callers":["web-*","server"]}"#, [false, false, true, true]),
            (r#"{"callers":["tag:sms"]}"#, [false, false, false, true]),
            (r#"{"callers":["tag:web-1","web-2"]}"#, [false, false, false, false]),
            (r#"{"callers":["*"]}"#, [false, false, false, true]),
        ];
        for (text, expected) in table {
            let contract = contract(text);
            assert_eq!(everyone.each_ref().map(|caller| contract.admits(caller)), expected, "{text}");
        }
        // The words for those without a name are nobody's name.
        for word in ["local", "server", "anonymous"] {
            assert!(!contract(&format!(r#"{{"callers":["{word}"]}}"#)).admits(&proven(word, &[])), "{word}");
        }
    }

    #[test]
    fn the_shorter_time_counts() {
        let second = Duration::from_secs;
        let bounded = contract(r#"{"timeout":"2s"}"#);
        let table = [(None, Some(2)), (Some(1), Some(1)), (Some(3), Some(2))];
        for (asked, expected) in table {
            assert_eq!(bounded.timeout(asked.map(second)), expected.map(second));
        }
        assert_eq!(contract("{}").timeout(Some(second(3))), Some(second(3)));
        assert_eq!(contract("{}").timeout(None), None);
    }

    #[test]
    fn no_more_are_asked_at_once_than_copies_may_hold() {
        let at_once = |text: &str| contract(text).at_once();
        assert_eq!(at_once("{}"), None);
        assert_eq!(at_once(r#"{"worker":{}}"#), Some(1));
        assert_eq!(at_once(r#"{"worker":{"processes":3,"ready":8}}"#), Some(24));
        assert_eq!(at_once(r#"{"worker":{"processes":3,"ready":8},"at_once":5}"#), Some(5));
        assert_eq!(at_once(r#"{"worker":{"processes":2},"at_once":5}"#), Some(2));
        let shown = contract(r#"{"worker":{"processes":2,"idle":"5m","max_requests":10}}"#).shown();
        assert_eq!(shown, json!({"worker": {"processes": 2, "ready": 1, "max_requests": 10, "idle": 300_000}}));
    }

    #[test]
    fn of_the_environment_only_what_is_listed_is_passed() {
        let passed = |text: &str| {
            let contract = contract(text);
            ["PATH=/bin", "PATHS=x", "LANG=C=D", "WSDAEMON_PREFIX=/p"]
                .map(|variable| contract.passes(&c_text(variable).expect("text")))
        };
        assert_eq!(passed("{}"), [true; 4]);
        assert_eq!(passed(r#"{"environment":[]}"#), [false, false, false, true]);
        assert_eq!(passed(r#"{"environment":["PATH","LANG"]}"#), [true, false, true, true]);
    }

    #[test]
    fn a_user_is_known_by_name_and_by_number() {
        for text in [r#"{"user":"root"}"#, r#"{"user":0}"#, r#"{"user":"root","group":"root"}"#, r#"{"user":0,"group":0}"#] {
            let order = contract(text).order().expect("there is something to take on");
            assert_eq!(order.user, Some(Identity { user: 0, group: 0, name: Some("root".into()) }), "{text}");
            let variables =
                contract(text).variables().iter().map(|text| text.to_string_lossy().into_owned()).collect::<Vec<_>>();
            assert!(variables.contains(&"USER=root".into()) && variables.contains(&"HOME=/root".into()), "{variables:?}");
        }
        let bare = contract(r#"{"user":4123456789,"group":7}"#);
        assert_eq!(bare.order().expect("something").user, Some(Identity { user: 4_123_456_789, group: 7, name: None }));
        let limits = contract(r#"{"limits":{"nofile":64,"as":"1GiB"}}"#).order().expect("something");
        assert_eq!((limits.user, limits.limits), (None, vec![("nofile".into(), 64), ("as".into(), 1 << 30)]));
        assert_eq!(contract("{}").order(), None, "nothing is put before a script that needs nothing");
    }

    #[test]
    fn a_list_shows_what_is_allowed() {
        let text = r#"{"description":"Sends.","schema":{"type":"object","properties":{"to":{"type":"string"},"n":{"type":"integer"}},
            "required":["to"]},"callers":["web-*","local"],"timeout":"1m","at_once":2,"user":"root","group":0,
            "limits":{"core":0},"environment":["PATH"],"output":"1KiB","params":"stdin"}"#;
        let expected = json!({
            "description": "Sends.", "schema": "n?: integer, to: string", "callers": ["web-*", "local"], "timeout": 60_000,
            "at_once": 2, "user": "root", "group": "0", "limits": {"core": 0}, "environment": ["PATH"], "output": 1024,
            "params": "stdin",
        });
        assert_eq!(contract(text).shown(), expected);
        assert_eq!(contract("{}").shown(), json!({}));
    }
}
