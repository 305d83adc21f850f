//! A contract as it was written. It never knows what is meant by it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::schema::Strict;
use crate::config::{deserialize_size, in_plain_words};

/// Characters of what is said of a fault.
const FAULT_CHARS: usize = 300;

/// The keys of a contract.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    pub description: Option<String>,
    pub schema: Option<Value>,
    #[serde(default, deserialize_with = "one_or_more")]
    pub callers: Option<Vec<String>>,
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    pub at_once: Option<usize>,
    pub user: Option<Who>,
    pub group: Option<Who>,
    #[serde(default)]
    pub limits: WrittenLimits,
    pub environment: Option<Vec<String>>,
    #[serde(default, deserialize_with = "deserialize_size")]
    pub output: Option<usize>,
    pub params: Option<ParamsBy>,
}

/// What a script may use of the machine; see setrlimit(2).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenLimits {
    nofile: Option<u64>,
    nproc: Option<u64>,
    #[serde(default, rename = "as", deserialize_with = "deserialize_size")]
    address_space: Option<usize>,
    /// In seconds.
    cpu: Option<u64>,
    #[serde(default, deserialize_with = "deserialize_size")]
    fsize: Option<usize>,
    #[serde(default, deserialize_with = "deserialize_size")]
    core: Option<usize>,
}

/// A user or group, by name or number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a name or a number")]
pub enum Who {
    Id(u32),
    Name(String),
}

/// How the script gets its params.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParamsBy {
    Argument,
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
        let limits = keys.get("limits").and_then(Value::as_object);
        if let Some((key, _)) = limits.and_then(|limits| limits.iter().find(|(_, value)| value.is_null())) {
            return Err(short(&nothing(format!("limits.{key}"))));
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
