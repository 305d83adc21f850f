//! A contract as it was written. It never knows what is meant by it.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;
use ws_daemon_protocol::schema::{self, duration as described_duration};

use super::schema::Strict;
use crate::config::{described_size, deserialize_size, in_plain_words};

/// Characters of what is said of a fault.
const FAULT_CHARS: usize = 300;

/// The keys of a contract.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Where this schema stands, for editors; the daemon does not look there.
    #[serde(rename = "$schema")]
    pub _described_by: Option<String>,
    /// For people: `ws-daemon scripts` shows it.
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// What params must be, as a JSON Schema; what it refuses is -1 `invalid_params`.
    pub schema: Option<Value>,
    /// Who may have it run: proven peers by name, glob or `tag:…`, `anonymous`, `server`, `local`.
    #[serde(default, deserialize_with = "one_or_more")]
    #[schemars(schema_with = "described_names")]
    pub callers: Option<Vec<String>>,
    /// How long it may run; the shorter of this and the request's counts.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub timeout: Option<Duration>,
    /// So many of it run at once; more wait.
    #[schemars(range(min = 1))]
    pub at_once: Option<usize>,
    /// Whom it runs as; only a daemon of root's can do that.
    pub user: Option<Who>,
    /// Its first group, if not the user's.
    pub group: Option<Who>,
    /// setrlimit(2), soft and hard.
    #[serde(default)]
    pub limits: WrittenLimits,
    /// Which of the daemon's own variables it gets; all, if nothing is said.
    pub environment: Option<Vec<String>>,
    /// Bytes of each of its streams that are kept or passed on; what is beyond is cut.
    #[serde(default, deserialize_with = "deserialize_size")]
    #[schemars(schema_with = "described_size")]
    pub output: Option<usize>,
    /// How it gets its params: as the first argument, or on stdin.
    pub params: Option<ParamsBy>,
    /// That copies of it are kept running, and asked line by line.
    pub worker: Option<WrittenWorkers>,
}

/// How copies of a script are kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenWorkers {
    /// So many of them at most; 1, if nothing is said.
    #[schemars(range(min = 1, max = 256))]
    pub processes: Option<usize>,
    /// Requests that one of them gets; then another one is started for it. As many as come, if nothing is said.
    #[schemars(range(min = 1))]
    pub max_requests: Option<u64>,
    /// How long one is kept that has nothing to do; for ever, if nothing is said.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub idle: Option<Duration>,
    /// Requests that one of them may hold; 1, if nothing is said.
    #[schemars(range(min = 1, max = 1024))]
    pub ready: Option<usize>,
}

/// The schema of a contract.
#[must_use]
pub fn described() -> Value {
    schema::of::<Written>("a contract of ws-daemon: what is allowed of the script that it stands beside")
}

/// What a script may use of the machine; see setrlimit(2).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenLimits {
    /// Open files.
    nofile: Option<u64>,
    /// Processes of its user.
    nproc: Option<u64>,
    /// Its memory.
    #[serde(default, rename = "as", deserialize_with = "deserialize_size")]
    #[schemars(schema_with = "described_size")]
    address_space: Option<usize>,
    /// Time on the processor, in seconds.
    cpu: Option<u64>,
    /// The longest file that it writes.
    #[serde(default, deserialize_with = "deserialize_size")]
    #[schemars(schema_with = "described_size")]
    fsize: Option<usize>,
    /// What is left of it when it crashes.
    #[serde(default, deserialize_with = "deserialize_size")]
    #[schemars(schema_with = "described_size")]
    core: Option<usize>,
}

/// A user or group, by name or number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a name or a number")]
pub enum Who {
    Id(u32),
    Name(String),
}

/// How the script gets its params.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParamsBy {
    /// As the first argument.
    Argument,
    /// On stdin, and the first argument is `-`.
    Stdin,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Written {
    /// Reads the text of a contract.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let Strict(value) = serde_json::from_slice(text).map_err(|error| short(&error.to_string()))?;
        let Value::Object(keys) = &value else { return Err("it is no object".into()) };
        // Whoever wrote it may have meant "nobody" or "anybody".
        let nothing = |path: String| format!("{path}: null says nothing; leave the key out");
        if let Some((key, _)) = keys.iter().find(|(_, value)| value.is_null()) {
            return Err(short(&nothing(key.clone())));
        }
        for part in ["limits", "worker"] {
            let keys = keys.get(part).and_then(Value::as_object);
            if let Some((key, _)) = keys.and_then(|keys| keys.iter().find(|(_, value)| value.is_null())) {
                return Err(short(&nothing(format!("{part}.{key}"))));
            }
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let key = error.path().to_string();
            let said = in_plain_words(&error.into_inner().to_string());
            match said.strip_prefix("unknown field ") {
                Some(fault) => short(&format!("there is no key {}", fault.replace('`', "\""))),
                None => short(&format!("{key}: {said}")),
            }
        })
    }
}

impl WrittenLimits {
    /// Those that are set, by their names.
    pub fn by_name(&self) -> Vec<(String, u64)> {
        let size = |size: Option<usize>| size.map(|bytes| bytes as u64);
        let all = [
            ("nofile", self.nofile),
            ("nproc", self.nproc),
            ("as", size(self.address_space)),
            ("cpu", self.cpu),
            ("fsize", size(self.fsize)),
            ("core", size(self.core)),
        ];
        all.into_iter().filter_map(|(name, most)| Some((name.to_owned(), most?))).collect()
    }
}

/// Words of a fault within a bound.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(FAULT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    ws_daemon_protocol::time::deserialize(deserializer).map(Some)
}

fn described_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
}

fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a name, or a list of names")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(Some(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(name) => vec![name],
        OneOrMore::More(names) => names,
    }))
}
