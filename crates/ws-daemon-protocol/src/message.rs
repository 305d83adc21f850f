//! What a local process asks: the grammar of the local conversation, parsed once into types that cannot be wrong. It never
//! looks into params.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::codec::compact::compact;
use crate::command::{Command, Place, fault};
use crate::id::{CALLER_ID_BYTES, CallerId};
use crate::options::Options;
use crate::outcome::{ErrorCode, Outcome};

/// The params of a request: JSON text, byte for byte as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params(Box<str>);

impl Params {
    /// Takes the value as it stood in the message; absent params are `null`.
    #[must_use]
    pub fn new(raw: Option<&RawValue>) -> Self {
        Self(raw.map_or("null", RawValue::get).into())
    }

    /// The text as it was written.
    #[must_use]
    pub fn as_written(&self) -> &str {
        &self.0
    }

    /// The text without white space outside strings, as scripts get it.
    #[must_use]
    pub fn compact(&self) -> Cow<'_, str> {
        compact(&self.0)
    }
}

/// A request for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The script's name; whether there is such a script is for the doer to say.
    pub name: String,
    /// The caller's id.
    pub id: Option<CallerId>,
    /// What the script gets.
    pub params: Params,
    /// What else is asked for.
    pub options: Options,
}

/// A command, as a local process or a peer sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandMessage {
    /// Where it is to be carried out.
    pub place: Place,
    /// The command.
    pub command: Command,
    /// The sender's id; without one a success is not answered.
    pub id: Option<CallerId>,
    /// The command as it was written, to be passed on.
    pub params: Params,
}

/// One message of a local process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Run a script on a peer.
    Run(Request),
    /// Carry out a command.
    Command(CommandMessage),
}

/// A message that cannot be taken, with the id to answer it under, if it had one.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The id of the message.
    pub id: Option<CallerId>,
    /// Always a failed outcome of status -3.
    pub outcome: Outcome,
}

/// The keys that every local message may have; a request may have those of [`Options::KEYS`] too.
const KEYS: [&str; 3] = ["name", "id", "params"];

impl Message {
    /// Reads one message of a local process. `text` must be one JSON object, as the framer yields it.
    ///
    /// # Errors
    /// What is wrong with it, and the id to answer under.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let fields: Fields = serde_json::from_str(text).map_err(|error| Rejection { id: None, outcome: bad(fault(&error)) })?;
        let id = fields.id.and_then(CallerId::new);
        let reject = |outcome| Rejection { id: id.clone(), outcome };
        if fields.id.is_some() && id.is_none() {
            return Err(reject(bad(format!("the id is longer than {CALLER_ID_BYTES} bytes"))));
        }
        let name = fields.name.ok_or_else(|| reject(bad("there is no \"name\"")))?;
        let Key(name) = serde_json::from_str(name.get()).map_err(|_| reject(bad("\"name\" must be text")))?;
        let params = Params::new(fields.params);
        let others = fields.others;
        if let Some(place) = Place::of_name(&name) {
            if let Some((key, _)) = others.first() {
                return Err(reject(refused_key(key)));
            }
            let command = Command::parse(place, params.as_written()).map_err(reject)?;
            return Ok(Self::Command(CommandMessage { place, command, id, params }));
        }
        let options = options(&others).map_err(reject)?;
        Ok(Self::Run(Request { name: name.into_owned(), id, params, options }))
    }
}

impl Request {
    /// The request as a message: the same request gives the same text, which [`Message::parse`] takes back.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = format!("{{\"name\":{}", serde_json::Value::from(self.name.as_str()));
        if let Some(id) = &self.id {
            json.push_str(",\"id\":");
            json.push_str(id.as_json());
        }
        json.push_str(",\"params\":");
        json.push_str(&self.params.compact());
        self.options.write(&mut json);
        json.push('}');
        json
    }
}

/// The options among the keys of a request.
fn options(others: &[(Cow<'_, str>, &RawValue)]) -> Result<Options, Outcome> {
    let mut options = Options::default();
    for (index, (key, value)) in others.iter().enumerate() {
        if others[..index].iter().any(|(before, _)| before == key) {
            return Err(bad(format!("the key \"{key}\" stands there twice")));
        }
        if !options.take(key, value).map_err(bad)? {
            return Err(refused_key(key));
        }
    }
    options.check().map_err(bad)?;
    Ok(options)
}

fn bad(message: impl Into<String>) -> Outcome {
    Outcome::failed(ErrorCode::BadMessage, message)
}

fn refused_key(key: &str) -> Outcome {
    if Options::KEYS.contains(&key) {
        return Outcome::failed(ErrorCode::Unsupported, format!("a command has no \"{key}\""));
    }
    let shown: String = key.chars().take(40).collect();
    let near = KEYS.into_iter().chain(Options::KEYS).find(|known| strsim::damerau_levenshtein(known, key) <= 2);
    let hint = near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
    Outcome::failed(ErrorCode::Unsupported, format!("unknown key {shown:?}{hint}"))
}

/// How many keys are looked at beside `name`, `id` and `params`: more than there are options, so that one unknown key is always
/// among them.
const OTHERS: usize = 32;

/// The keys of a message, undecoded.
#[derive(Default)]
pub(crate) struct Fields<'a> {
    pub(crate) name: Option<&'a RawValue>,
    pub(crate) id: Option<&'a RawValue>,
    pub(crate) params: Option<&'a RawValue>,
    /// What stands under other keys, at most [`OTHERS`] of them: further ones are passed over.
    pub(crate) others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Key(key)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    let field = match &*key {
                        "name" => &mut fields.name,
                        "id" => &mut fields.id,
                        "params" => &mut fields.params,
                        _ if fields.others.len() < OTHERS => {
                            fields.others.push((key, value));
                            continue;
                        }
                        _ => continue,
                    };
                    if field.replace(value).is_some() {
                        return Err(serde::de::Error::custom(format!("the key \"{key}\" stands there twice")));
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        match Message::parse(text) {
            Ok(Message::Run(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(text: &str) -> (Option<String>, ErrorCode, String) {
        match Message::parse(text) {
            Err(Rejection { id, outcome: Outcome::Failed(code, message) }) => {
                (id.map(|id| id.as_json().to_owned()), code, message)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_seed_request_is_kept_as_written() {
        let found = request(r#"{ "id": 5, "params": {"a": 1.0}, "name": "t\u00e9" }"#);
        assert_eq!(found.name, "té");
        assert_eq!(found.id.expect("given").as_json(), "5");
        assert_eq!(found.params.as_written(), r#"{"a": 1.0}"#);
        assert_eq!(found.params.compact(), r#"{"a":1.0}"#);
        assert_eq!(request(r#"{"name":"t"}"#).params.as_written(), "null");
        assert_eq!(request(r#"{"name":"t","id":null}"#).id.expect("given").as_json(), "null");
        let full = request(r#"{"timeout":"2s","name":"t","params":{ "a" : 1.0 },"id":"x","to":"tag:sms","queue":true}"#);
        assert_eq!(full.options.timeout, Some(std::time::Duration::from_secs(2)));
        let json = r#"{"name":"t","id":"x","params":{"a":1.0},"to":"tag:sms","timeout":2000,"queue":{"ttl":86400000}}"#;
        assert_eq!(full.to_json(), json);
        assert_eq!(request(json).to_json(), json);
    }

    #[test]
    fn what_is_wrong_is_said_under_the_id() {
        use ErrorCode::{BadMessage, UnknownCommand, Unsupported};
        let table = [
            (r#"{"id":"x"}"#, BadMessage, "there is no \"name\""),
            (r#"{"id":"x","name":5}"#, BadMessage, "\"name\" must be text"),
            (r#"{"id":"x","name":"+cmd","params":{"code":"PAUSE"},"queue":true}"#, Unsupported, "a command has no \"queue\""),
            (r#"{"id":"x","name":"a","queue":true,"queue":true}"#, BadMessage, "the key \"queue\" stands there twice"),
            (r#"{"id":"x","name":"a","tiemout":1}"#, Unsupported, "unknown key \"tiemout\"; did you mean \"timeout\"?"),
            (r#"{"id":"x","name":"a","zzzzzzzz":1}"#, Unsupported, "unknown key \"zzzzzzzz\""),
            (r#"{"id":"x","name":"+cmd","params":{"code":"HELLO"}}"#, UnknownCommand, "no command has the code"),
            (r#"{"id":"x","name":"a","timeout":"soon"}"#, BadMessage, "\"timeout\": \"soon\" is no duration"),
        ];
        for (text, code, message) in table {
            let (id, found, said) = refusal(text);
            assert_eq!((id.as_deref(), found), (Some("\"x\""), code), "{text}");
            assert!(said.starts_with(message), "{said}");
        }
        assert_eq!(refusal(r#"{"name":"a","name":"b"}"#).2, "the key \"name\" stands there twice");
    }
}
