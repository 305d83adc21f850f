//! Who may ask for what, as config.json has it: each rule parsed once, its faults told with their place. It decides nothing.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::target::{PATTERN_BYTES, Target, glob};

/// The commands that are ever carried out for who comes by TCP: anybody may be there. No rule adds to them.
pub const BY_TCP: [&str; 2] = ["PAUSE", "STATUS"];

/// The commands that are ever carried out for a peer. No rule adds to them: all others are answered by one's own daemon only.
pub const BY_PEERS: [&str; 3] = ["PAUSE", "STATUS", "PEERS"];

/// The commands that are ever carried out for who asks over HTTP by a token. No rule adds to them.
pub const BY_CALLERS: [&str; 8] = ["PEERS", "RUNS", "RUN", "CANCEL", "SCRIPTS", "STATS", "SUBSCRIBE", "METRICS"];

/// A rule as it was written: whom it is about, and what it gives them. What is absent gives nothing.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenRule {
    /// Whom it is about.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "described_list::<Word>")]
    pub who: Vec<Word>,
    /// The scripts that they may ask for.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "described_list::<Glob>")]
    pub scripts: Vec<Glob>,
    /// Who may be asked; absent: anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Target>,
    /// The commands that they may give.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "described_list::<Code>")]
    pub commands: Vec<Code>,
    /// Whether what they ask for is passed on to other peers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relay: bool,
}

/// A word of a rule's `who`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A name, a glob or a tag of peers that have proved who they are.
    Peer(Box<str>),
    /// Peers that were let in without proof.
    Anonymous,
    /// The server that a client has dialled.
    Server,
    /// Whoever can open the socket file.
    Local,
    /// Whoever reaches the local conversation by TCP.
    Tcp,
    /// Programs that ask over HTTP, by name or a glob.
    Caller(Box<str>),
    /// A user of this machine.
    User(Account),
    /// Whoever is in a group of this machine.
    Group(Account),
}

/// A user or a group, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// By number.
    Id(u32),
    /// By name.
    Name(Box<str>),
}

/// A pattern of script names, in which `*` stands for any characters, `/` too, and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Box<str>", try_from = "String")]
pub struct Glob(Box<str>);

/// The code of a command, or `*` for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Code(&'static str);

/// A rule as it is meant.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Whom it is about.
    pub who: Who,
    /// The scripts that they may ask for.
    pub scripts: Vec<Glob>,
    /// Who may be asked; `None`: anyone.
    pub targets: Option<Target>,
    /// The commands that they may give.
    pub commands: Vec<Code>,
    /// Whether what they ask for is passed on to other peers.
    pub relay: bool,
}

/// Whom a rule is about.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// As it was written.
    pub words: Box<str>,
    /// Peers that have proved who they are.
    pub peers: Option<Target>,
    /// Peers that were let in without proof.
    pub anonymous: bool,
    /// The server that a client has dialled.
    pub server: bool,
    /// Whoever can open the socket file.
    pub local: bool,
    /// Whoever reaches the local conversation by TCP.
    pub tcp: bool,
    /// Programs that ask over HTTP, by names and globs.
    pub callers: Vec<Box<str>>,
    /// Users of this machine.
    pub users: Vec<u32>,
    /// Groups of this machine.
    pub groups: Vec<u32>,
}

/// Where names of users and groups are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Accounts {
    /// The number of a user.
    pub user: fn(&str) -> Option<u32>,
    /// The number of a group.
    pub group: fn(&str) -> Option<u32>,
}

impl Default for Accounts {
    /// Knows nobody.
    fn default() -> Self {
        Self { user: |_| None, group: |_| None }
    }
}

impl Who {
    /// Whether it is about peers.
    #[must_use]
    pub fn is_of_peers(&self) -> bool {
        self.peers.is_some() || self.anonymous || self.server
    }

    /// Whether it is about processes of this machine.
    #[must_use]
    pub fn is_of_locals(&self) -> bool {
        self.local || self.tcp || !self.users.is_empty() || !self.groups.is_empty()
    }
}

impl Who {
    /// Whether it is about the program that is called so.
    #[must_use]
    pub fn has_caller(&self, name: &str) -> bool {
        self.callers.iter().any(|pattern| glob(pattern, name))
    }
}

impl From<Glob> for Box<str> {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("a pattern of scripts needs a name, like \"sms/*\"".to_owned()),
            _ if text.len() > PATTERN_BYTES => Err(format!("a pattern of scripts has at most {PATTERN_BYTES} bytes")),
            _ => Ok(Self(text.into())),
        }
    }

    /// Whether every name that `other` means is meant. Of some that are, that is not seen.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        covers(self.0.as_bytes(), other.0.as_bytes())
    }

    /// Whether a script of this name is meant. A name that climbs is only by what means all: where it leads is not to be read off it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        &*self.0 == "*" || !name.split('/').any(|part| part == "..") && glob(&self.0, name)
    }
}

/// Whether a pattern means all that another one does: the other is taken as text, in which only `*` stands for a `*`, and nothing but `*`
/// or `?` for a `?`.
fn covers(pattern: &[u8], other: &[u8]) -> bool {
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < other.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(b'?') if other[of] != b'*' => (at, of) = (at + 1, of + 1),
            Some(byte) if *byte == other[of] && !matches!(other[of], b'?' | b'*') => (at, of) = (at + 1, of + 1),
            // What a star stands for is one more.
            _ => match &mut star {
                Some((star, taken)) => {
                    *taken += 1;
                    (at, of) = (*star + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

impl Code {
    fn parse(text: &str) -> Result<Self, String> {
        let code = text.to_ascii_uppercase();
        let known = Command::CODES.into_iter().chain(["*"]).find(|known| *known == code);
        known
            .map(Self)
            .ok_or_else(|| format!("there is no command {text:?}; there are {}, and \"*\" for all", Command::CODES.join(", ")))
    }

    /// Whether a command of this code is meant.
    #[must_use]
    pub fn matches(self, code: &str) -> bool {
        self.0 == "*" || self.0 == code
    }

    /// Whether it is one of these; `*` is as many of them as there are.
    fn is_among(self, codes: &[&str]) -> bool {
        self.0 == "*" || codes.contains(&self.0)
    }
}

impl Word {
    fn parse(text: &str) -> Result<Self, String> {
        let account = |name: &str| match name.parse() {
            _ if name.is_empty() => Err(format!("{text:?} lacks a name or a number")),
            Ok(id) => Ok(Account::Id(id)),
            Err(_) => Ok(Account::Name(name.into())),
        };
        match text {
            "anonymous" => Ok(Self::Anonymous),
            "server" => Ok(Self::Server),
            "local" => Ok(Self::Local),
            "tcp" => Ok(Self::Tcp),
            _ => match text.split_once(':') {
                Some(("user", name)) => account(name).map(Self::User),
                Some(("group", name)) => account(name).map(Self::Group),
                Some(("caller", "")) => Err(format!("{text:?} lacks a name")),
                Some(("caller", name)) => Ok(Self::Caller(name.into())),
                _ => Target::parse(text).map(|_| Self::Peer(text.into())).map_err(|error| error.to_string()),
            },
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = |f: &mut fmt::Formatter<'_>, kind, account: &Account| match account {
            Account::Id(id) => write!(f, "{kind}:{id}"),
            Account::Name(name) => write!(f, "{kind}:{name}"),
        };
        match self {
            Self::Peer(pattern) => f.write_str(pattern),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Server => f.write_str("server"),
            Self::Local => f.write_str("local"),
            Self::Tcp => f.write_str("tcp"),
            Self::Caller(name) => write!(f, "caller:{name}"),
            Self::User(user) => account(f, "user", user),
            Self::Group(group) => account(f, "group", group),
        }
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl WrittenRule {
    /// The rule as it is meant.
    ///
    /// # Errors
    /// The user or the group that this machine does not know, or the command that nobody can give them.
    pub fn meant(&self, accounts: &Accounts) -> Result<Rule, String> {
        let words: Vec<String> = self.who.iter().map(ToString::to_string).collect();
        let mut who = Who { words: words.join(", ").into(), ..Who::default() };
        let mut peers: Vec<&str> = Vec::new();
        let id = |account: &Account, kind: &str, look_up: fn(&str) -> Option<u32>| match account {
            Account::Id(id) => Ok(*id),
            Account::Name(name) => look_up(name).ok_or_else(|| format!("this machine knows no {kind} {name:?}")),
        };
        for word in &self.who {
            match word {
                Word::Peer(pattern) => peers.push(pattern),
                Word::Anonymous => who.anonymous = true,
                Word::Server => who.server = true,
                Word::Local => who.local = true,
                Word::Tcp => who.tcp = true,
                Word::Caller(name) => who.callers.push(name.clone()),
                Word::User(user) => who.users.push(id(user, "user", accounts.user)?),
                Word::Group(group) => who.groups.push(id(group, "group", accounts.group)?),
            }
        }
        if !peers.is_empty() {
            who.peers = Some(Target::list(peers).map_err(|error| error.to_string())?);
        }
        let Self { scripts, targets, commands, relay, .. } = self.clone();
        let vain = |codes: &[&str]| commands.iter().find(|code| !code.is_among(codes)).map(|code| code.0);
        if let Some(code) = vain(&BY_TCP).filter(|_| who.tcp) {
            let own = "; give it to \"local\" in a rule of its own";
            return Err(format!("no rule can let {code} be given by TCP: only {} are{own}", BY_TCP.join(" and ")));
        }
        if let Some(code) = vain(&BY_PEERS).filter(|_| who.is_of_peers()) {
            let own = "the others are answered by one's own daemon only";
            return Err(format!("no rule can let a peer give {code}: only {} can be; {own}", BY_PEERS.join(", ")));
        }
        if let Some(code) = vain(&BY_CALLERS).filter(|_| !who.callers.is_empty()) {
            return Err(format!("no rule can let a caller give {code}: over HTTP there are {} only", BY_CALLERS.join(", ")));
        }
        Ok(Rule { who, scripts, targets, commands, relay })
    }
}

/// What can be read off a text of a list.
trait Item: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

impl Item for Word {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Item for Glob {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Item for Code {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// Reads one text or a list of them, each where it stands, so that a fault is told with its line.
fn one_or_many<'de, D: Deserializer<'de>, T: Item>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Visitor<T>(std::marker::PhantomData<T>);

    struct Read<T>(T);

    impl<'de, T: Item> Deserialize<'de> for Read<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            T::read(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
        }
    }

    impl<'de, T: Item> de::Visitor<'de> for Visitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::read(text).map(|item| vec![item]).map_err(E::custom)
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(Read(item)) = list.next_element()? {
                items.push(item);
            }
            if items.is_empty() {
                Err(de::Error::custom("a list that is empty means nobody and nothing; leave it out"))
            } else {
                Ok(items)
            }
        }
    }

    deserializer.deserialize_any(Visitor(std::marker::PhantomData))
}

/// One, or a list of them, as a JSON Schema.
fn described_list<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let one = T::json_schema(generator);
    json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
}

impl JsonSchema for Word {
    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let what = "a peer's name, a glob or tag:…, anonymous, server, local, tcp, user:… or group:…";
        json_schema!({ "description": what, "type": "string", "minLength": 1 })
    }
}

impl JsonSchema for Glob {
    fn schema_name() -> Cow<'static, str> {
        "Glob".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let what = "a script's name; * stands for any characters, / too, and ? for one";
        json_schema!({ "description": what, "type": "string", "minLength": 1, "maxLength": PATTERN_BYTES })
    }
}

impl JsonSchema for Code {
    fn schema_name() -> Cow<'static, str> {
        "Code".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let codes: Vec<&str> = Command::CODES.into_iter().chain(["*"]).collect();
        // The daemon takes small letters, too; an editor offers these.
        json_schema!({ "description": "a command, or * for all", "type": "string", "anyOf": [{ "enum": codes }, { "pattern": "^[a-z]+$" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<Rule, String> {
        let accounts = Accounts { user: |name| (name == "deploy").then_some(7), group: |name| (name == "ops").then_some(8) };
        serde_json::from_str::<WrittenRule>(text).map_err(|error| error.to_string())?.meant(&accounts)
    }

    #[test]
    fn a_rule_is_read_and_shown_as_it_was_written() {
        let text = r#"{"who":["web-*","tag:till","anonymous","server","local","tcp","user:deploy","user:5","group:ops"],"scripts":["sms/*"],"targets":["a","!b"],"commands":["STATUS","*"],"relay":true}"#;
        let written: WrittenRule = serde_json::from_str(text).expect("a rule");
        assert_eq!(serde_json::to_string(&written).expect("text"), text);
        let Rule { who, scripts, targets, commands, relay } = rule(text).expect("a rule");
        assert!(who.anonymous && who.server && who.local && who.tcp && relay && who.is_of_peers() && who.is_of_locals());
        assert_eq!((who.users, who.groups), (vec![7, 5], vec![8]));
        assert!(who.peers.as_ref().is_some_and(|peers| peers.matches("web-1", &[""]) && peers.matches("x", &["till"])));
        assert!(scripts[0].matches("sms/send") && !scripts[0].matches("sms/../x") && !scripts[0].matches("mail"));
        assert!(targets.is_some_and(|targets| targets.matches("a", &[""])));
        assert!(commands[0].matches("STATUS") && !commands[0].matches("PEERS") && commands[1].matches("PEERS"));
        let of_callers = r#"{"who":["caller:ci-*"],"scripts":["*"],"commands":["STATS"]}"#;
        let written: WrittenRule = serde_json::from_str(of_callers).expect("a rule");
        assert_eq!(serde_json::to_string(&written).expect("text"), of_callers);
        let who = rule(of_callers).expect("a rule").who;
        assert!(who.has_caller("ci-1") && !who.has_caller("other") && !who.is_of_locals() && !who.is_of_peers());
        let short = rule(r#"{"who":"local","scripts":"*","commands":"stats"}"#).expect("a rule");
        assert!(
            short.commands[0].matches("STATS") && short.scripts[0].matches("a/../b") && short.targets.is_none() && !short.relay
        );
    }

    #[test]
    fn a_pattern_covers_another_only_if_it_means_all_that_the_other_does() {
        let table = [
            ("*", "*", true),
            ("*", "sms/?*", true),
            ("sms/*", "sms/*", true),
            ("sms/*", "sms/send", true),
            ("sms/*", "sms/*/x", true),
            ("sms/*", "sms*", false),
            ("sms/*", "*", false),
            ("a?b", "a?b", true),
            ("a?b", "a*b", false),
            ("a?b", "axb", true),
            ("axb", "a?b", false),
            ("a*", "a?b", true),
            ("?*", "*", false),
            ("a*b*", "a?xb", true),
            ("sms/send", "sms/send", true),
            ("sms/send", "sms/sen", false),
        ];
        for (one, other, expected) in table {
            let [one, other] = [one, other].map(|text| Glob::parse(text).expect("a pattern"));
            assert_eq!(one.covers(&other), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_in_words() {
        let table = [
            (r#"{"scripts":"*"}"#, "missing field `who`"),
            (r#"{"who":"x","script":"*"}"#, "unknown field `script`"),
            (r#"{"who":[]}"#, "a list that is empty"),
            (r#"{"who":""}"#, "a target needs a name"),
            (r#"{"who":"user:"}"#, "\"user:\" lacks a name or a number"),
            (r#"{"who":"user:nobody-here"}"#, "this machine knows no user \"nobody-here\""),
            (r#"{"who":"group:deploy"}"#, "this machine knows no group \"deploy\""),
            (r#"{"who":"x","scripts":[""]}"#, "a pattern of scripts needs a name"),
            (r#"{"who":"x","commands":["HELLO"]}"#, "there is no command \"HELLO\""),
            (r#"{"who":"x","targets":[]}"#, "a target is a list"),
            (r#"{"who":5}"#, "a text or a list of texts"),
            (
                r#"{"who":"tcp","commands":["STATUS","STATS"]}"#,
                "no rule can let STATS be given by TCP: only PAUSE and STATUS are",
            ),
            (r#"{"who":["local","tcp"],"commands":"peers"}"#, "PEERS be given by TCP"),
            (r#"{"who":"web","commands":"RELOAD"}"#, "no rule can let a peer give RELOAD: only PAUSE, STATUS, PEERS can be"),
            (r#"{"who":["local","anonymous"],"commands":["PEERS","INVITE"]}"#, "let a peer give INVITE"),
            (r#"{"who":"server","commands":["KEYS"]}"#, "let a peer give KEYS"),
            (r#"{"who":"caller:ci","commands":["STATS","PAUSE"]}"#, "let a caller give PAUSE"),
            (r#"{"who":"caller:"}"#, "\"caller:\" lacks a name"),
        ];
        for (text, expected) in table {
            let said = rule(text).expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
