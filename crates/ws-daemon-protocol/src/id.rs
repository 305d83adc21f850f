//! The two ids of a run: the caller's own, of any JSON type, and the run's, made by the asker. Neither is ever interpreted.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::codec::compact::compact;

/// The longest id a caller may give, in bytes of its compact JSON; a longer one is a bad message.
pub const CALLER_ID_BYTES: usize = 4096;

/// The `id` a caller gave: compact JSON text of any type, kept as it was written. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerId(Arc<str>);

impl CallerId {
    /// Takes the JSON value as it stood in the message; `None` if it is longer than [`CALLER_ID_BYTES`].
    #[must_use]
    pub fn new(raw: &RawValue) -> Option<Self> {
        let text = compact(raw.get());
        (text.len() <= CALLER_ID_BYTES).then(|| Self(text.into()))
    }

    /// The id that is this compact JSON.
    pub(crate) fn of_json(json: &str) -> Self {
        Self(json.into())
    }

    /// The id as JSON.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The id as people and environments take it: a string without its quotes, anything else as JSON.
    #[must_use]
    pub fn as_text(&self) -> Cow<'_, str> {
        serde_json::from_str::<String>(&self.0).map_or(Cow::Borrowed(&*self.0), Cow::Owned)
    }

    /// Two ids have the same key if a peer that reads and writes JSON again may turn one into the other: escapes are resolved
    /// and numbers are taken as IEEE 754 doubles, as JavaScript peers do.
    #[must_use]
    pub fn key(&self) -> IdKey {
        let bytes = self.0.as_bytes();
        let plain_text = bytes.first() == Some(&b'"') && !bytes.contains(&b'\\');
        if plain_text {
            return IdKey(Arc::from(&*self.0));
        }
        match serde_json::from_str::<Value>(&self.0) {
            Ok(value) => IdKey(as_doubles(value).to_string().into()),
            // A lone surrogate has no text of its own: such an id matches only itself.
            Err(_) => IdKey(Arc::from(&*self.0)),
        }
    }
}

impl From<&RunId> for CallerId {
    fn from(run: &RunId) -> Self {
        Self(run.as_json().into())
    }
}

/// What a run is found by where nothing but ids of runs are on the wire: without its quotes, it is no caller's key.
impl From<&RunId> for IdKey {
    fn from(run: &RunId) -> Self {
        Self(Arc::clone(&run.0))
    }
}

fn as_doubles(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
        Value::Array(items) => items.into_iter().map(as_doubles).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, as_doubles(value))).collect(),
        other => other,
    }
}

/// What an id is found by; see [`CallerId::key`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdKey(Arc<str>);

impl IdKey {
    /// The key as text: equal ids have equal texts.
    #[must_use]
    pub fn as_text(&self) -> &str {
        &self.0
    }
}

/// The id of one run: a `UUIDv7` (RFC 9562, section 5.7) made by the asker. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(Arc<str>);

impl RunId {
    /// Takes the text of a UUID.
    #[must_use]
    pub fn new(uuid: impl Into<Arc<str>>) -> Self {
        Self(uuid.into())
    }

    /// The id as text: letters, digits and dashes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as JSON, in which it needs no escapes.
    fn as_json(&self) -> String {
        ["\"", &*self.0, "\""].concat()
    }
}

/// It is found by its text, in which its hash is.
impl Borrow<str> for RunId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> CallerId {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("the table holds JSON");
        CallerId::new(&raw).expect("the table holds short ids")
    }

    #[test]
    fn ids_match_by_value_as_a_javascript_peer_would_rewrite_them() {
        let same = [
            (r#""\u00e9""#, r#""é""#),
            ("1.0", "1"),
            ("1e3", "1000"),
            ("12345678901234567890", "12345678901234567000"),
            (r#"{"b":1,"a":[2.0]}"#, r#"{"a":[2],"b":1}"#),
        ];
        for (ours, theirs) in same {
            assert_eq!(id(ours).key(), id(theirs).key(), "{ours} {theirs}");
        }
        let run = RunId::new("01a2-b");
        assert_eq!(CallerId::from(&run), id("\"01a2-b\""));
        assert_eq!(IdKey::from(&run), IdKey::from(&RunId::new("01a2-b")));
        for (one, other) in [("1", "\"1\""), ("null", "\"null\""), ("\"a\"", "\"A\"")] {
            assert_ne!(id(one).key(), id(other).key(), "{one} {other}");
        }
    }

    #[test]
    fn an_id_is_kept_as_written_and_bounded() {
        assert_eq!(id("1.50").as_json(), "1.50");
        assert_eq!(id(r#""a b\n""#).as_text(), "a b\n");
        assert_eq!(id(r#"{ "a" : 1 }"#).as_text(), r#"{"a":1}"#);
        let long: Box<RawValue> = serde_json::from_str(&format!("\"{}\"", "x".repeat(CALLER_ID_BYTES))).expect("JSON");
        assert_eq!(CallerId::new(&long), None);
    }
}
