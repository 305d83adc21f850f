//! What a request may ask for beside a script's name and its params. Parsed once; whether it can be honoured is for others to
//! say.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::command::fault;
use crate::target::Target;
use crate::time;
use crate::trace::{self, MARK_BYTES, Trace};

/// How long a queued request may wait unless it says so: 24 hours.
pub const QUEUE_TTL: Duration = Duration::from_hours(24);

/// The most further tries that a request may allow.
pub const RETRIES: u32 = 1000;

/// The longest key of a sticky route and the longest name of a `then` script, in bytes.
pub const TEXT_BYTES: usize = 4096;

/// The options of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Who may run it; absent: anyone.
    pub to: Option<Target>,
    /// Which of these.
    pub route: Route,
    /// Every match runs it, one run each.
    pub each: bool,
    /// With `each`: so many at once; absent: all.
    pub batch: Option<usize>,
    /// With `each`: after so many failures nothing more is started.
    pub max_failures: Option<usize>,
    /// How long the script may run.
    pub timeout: Option<Duration>,
    /// What becomes of what it prints.
    pub output: OutputMode,
    /// Whether it is kept on disk until done.
    pub queue: Option<Queue>,
    /// How many more times it may be run after -5; 0: never twice.
    pub retry: u32,
    /// A script of the asker's that gets the outcome.
    pub then: Option<Box<str>>,
    /// Whether `delivered` and `started` are told.
    pub events: bool,
    /// What it carries along for logs.
    pub trace: Option<Box<Trace>>,
}

/// Which of the peers that match runs a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", expecting = "\"round-robin\", \"least-busy\", or {\"sticky\":\"key\"}")]
pub enum Route {
    /// The next in order of arrival.
    #[default]
    RoundRobin,
    /// The one with the least in hand for what it can do.
    LeastBusy,
    /// Always the same for this key, as long as it is there.
    Sticky(Box<str>),
}

/// What becomes of what a script prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OutputMode {
    /// It is logged where it runs.
    #[default]
    None,
    /// Head and tail come with the outcome.
    Tail,
    /// Stdout is JSON and comes with the outcome as `result`.
    Json,
    /// It comes as it is printed.
    Stream,
}

/// How a queued request waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// How long it may take in all.
    pub ttl: Duration,
    /// When it may start.
    pub not_before: NotBefore,
}

impl Default for Queue {
    fn default() -> Self {
        Self { ttl: QUEUE_TTL, not_before: NotBefore::Now }
    }
}

/// When a queued request may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBefore {
    /// At once.
    Now,
    /// So long after it was accepted.
    After(Duration),
    /// At this time, in milliseconds since 1970.
    At(u64),
}

impl Options {
    /// The keys of options.
    pub const KEYS: [&'static str; 14] = [
        "to",
        "route",
        "each",
        "batch",
        "max_failures",
        "timeout",
        "output",
        "queue",
        "retry",
        "then",
        "events",
        "traceparent",
        "request_id",
        "event",
    ];

    /// Takes one option. `Ok(false)` if there is none of this key.
    ///
    /// # Errors
    /// What is wrong with the value, for people.
    pub(crate) fn take(&mut self, key: &str, value: &RawValue) -> Result<bool, String> {
        let wrong = |error: serde_json::Error| format!("\"{key}\": {}", fault(&error));
        let raw = value.get();
        match key {
            "to" => self.to = serde_json::from_str(raw).map_err(wrong)?,
            "route" => self.route = serde_json::from_str(raw).map_err(wrong)?,
            "each" => self.each = serde_json::from_str(raw).map_err(wrong)?,
            "batch" => self.batch = Some(at_least_one(key, raw)?),
            "max_failures" => self.max_failures = Some(at_least_one(key, raw)?),
            "timeout" => self.timeout = Some(time::deserialize(value).map_err(wrong)?),
            "output" => self.output = serde_json::from_str(raw).map_err(wrong)?,
            "queue" => self.queue = serde_json::from_str::<WrittenQueue>(raw).map_err(wrong)?.meant(),
            "retry" => self.retry = serde_json::from_str::<Retry>(raw).map_err(wrong)?.max,
            "then" => self.then = serde_json::from_str(raw).map_err(wrong)?,
            "events" => self.events = serde_json::from_str(raw).map_err(wrong)?,
            key => return self.take_trace(key, raw),
        }
        Ok(true)
    }

    fn take_trace(&mut self, key: &str, raw: &str) -> Result<bool, String> {
        let mut trace = self.trace.take().unwrap_or_default();
        let Some(part) = trace.part(key) else {
            self.trace = trace.boxed();
            return Ok(false);
        };
        let text = serde_json::from_str::<Box<str>>(raw).ok().filter(|text| trace::fits(key, text));
        *part = Some(text.ok_or_else(|| match key {
            "traceparent" => "\"traceparent\" is one of W3C Trace Context: 00-TRACE-SPAN-FLAGS, in hexadecimal".to_owned(),
            "request_id" => format!("\"request_id\" is a text of 1 to {MARK_BYTES} visible ASCII characters"),
            key => format!("\"{key}\" is a text of 1 to {MARK_BYTES} printable ASCII characters"),
        })?);
        self.trace = trace.boxed();
        Ok(true)
    }

    /// Whether the options go together.
    ///
    /// # Errors
    /// Which do not, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        let long = |text: &str| text.len() > TEXT_BYTES;
        if !self.each && (self.batch.is_some() || self.max_failures.is_some()) {
            return Err("\"batch\" and \"max_failures\" go with \"each\":true".into());
        }
        if !self.each && self.to.as_ref().is_some_and(Target::is_everyone) {
            return Err(
                "\"to\":\"*\" is everyone: say \"each\":true if every one of them is to run it, or leave \"to\" out".into()
            );
        }
        if self.retry > RETRIES {
            return Err(format!("\"retry\": at most {RETRIES} tries more"));
        }
        if self.then.as_ref().is_some_and(|then| then.is_empty() || long(then)) {
            return Err("\"then\" names a script in scripts/ of this daemon".into());
        }
        if matches!(&self.route, Route::Sticky(key) if long(key)) {
            return Err(format!("the key of a sticky route has at most {TEXT_BYTES} bytes"));
        }
        if matches!(&self.queue, Some(queue) if queue.ttl.is_zero()) {
            return Err("\"queue\": a ttl of no time is over before it begins".into());
        }
        Ok(())
    }

    /// Whether nothing was asked for that the seed does not know; a `timeout` alone is kept by the asker.
    #[must_use]
    pub fn are_plain(&self) -> bool {
        let Self { to, route, each, output, queue, retry, then, events, trace, .. } = self;
        to.is_none()
            && *route == Route::RoundRobin
            && !each
            && *output == OutputMode::None
            && queue.is_none()
            && *retry == 0
            && then.is_none()
            && !events
            && trace.is_none()
    }

    /// Appends them as members of a JSON object, each with a comma before it, those at their defaults left out; the same options
    /// give the same text.
    pub(crate) fn write(&self, json: &mut String) {
        let mut put = |key: &str, value: serde_json::Value| json.push_str(&format!(",\"{key}\":{value}"));
        if let Some(to) = &self.to {
            put("to", serde_json::json!(to));
        }
        if self.route != Route::RoundRobin {
            put("route", serde_json::json!(self.route));
        }
        if self.each {
            put("each", true.into());
        }
        for (key, count) in [("batch", self.batch), ("max_failures", self.max_failures)] {
            if let Some(count) = count {
                put(key, count.into());
            }
        }
        if let Some(timeout) = self.timeout {
            put("timeout", milliseconds(timeout));
        }
        if self.output != OutputMode::None {
            put("output", serde_json::json!(self.output));
        }
        if let Some(queue) = &self.queue {
            put("queue", serde_json::json!(queue));
        }
        if self.retry > 0 {
            put("retry", serde_json::json!({ "max": self.retry }));
        }
        if let Some(then) = &self.then {
            put("then", (&**then).into());
        }
        if self.events {
            put("events", true.into());
        }
        if let Some(trace) = &self.trace {
            trace.write(json);
        }
    }
}

/// Milliseconds as JSON. Durations that were parsed fit; a longer one is cut to what JSON's readers can hold.
fn milliseconds(duration: Duration) -> serde_json::Value {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).into()
}

fn at_least_one(key: &str, raw: &str) -> Result<usize, String> {
    raw.parse().ok().filter(|count| *count > 0).ok_or_else(|| format!("\"{key}\" is a whole number, at least 1"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    max: u32,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "true, or {\"ttl\":\"1h\"} with \"not_before\" if need be")]
enum WrittenQueue {
    Plain(bool),
    Detailed(Queue),
}

impl WrittenQueue {
    fn meant(self) -> Option<Queue> {
        match self {
            Self::Plain(false) => None,
            Self::Plain(true) => Some(Queue::default()),
            Self::Detailed(queue) => Some(queue),
        }
    }
}

impl<'de> Deserialize<'de> for Queue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum When {
            At(u64),
            After(String),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            #[serde(default = "default_ttl", deserialize_with = "time::deserialize")]
            ttl: Duration,
            not_before: Option<When>,
        }
        fn default_ttl() -> Duration {
            QUEUE_TTL
        }
        let Written { ttl, not_before } = Written::deserialize(deserializer)?;
        let not_before = match not_before {
            None => NotBefore::Now,
            Some(When::At(ms)) => NotBefore::At(ms),
            Some(When::After(text)) => NotBefore::After(time::parse(&text).map_err(de::Error::custom)?),
        };
        Ok(Self { ttl, not_before })
    }
}

impl Serialize for Queue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = serde_json::json!({ "ttl": milliseconds(self.ttl) });
        match self.not_before {
            NotBefore::Now => {}
            NotBefore::At(ms) => value["not_before"] = ms.into(),
            NotBefore::After(delay) => value["not_before"] = format!("{}ms", delay.as_millis()).into(),
        }
        value.serialize(serializer)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Queue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Queue".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let duration = time::schema();
        schemars::json_schema!({
            "description": "true: kept on disk for 24 hours at most; an object says otherwise",
            "anyOf": [{ "type": "boolean" }, {
                "type": "object",
                "properties": {
                    "ttl": duration,
                    "not_before": {
                        "description": "text: so long after it was accepted; a number: at this time, in milliseconds since 1970",
                        "anyOf": [{ "type": "string", "pattern": time::TEXT }, { "type": "integer", "minimum": 0 }]
                    }
                },
                "additionalProperties": false
            }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, String> {
        let raw: std::collections::BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).expect("the table holds JSON");
        let mut options = Options::default();
        for (key, value) in &raw {
            if !options.take(key, value)? {
                return Err(format!("no key {key}"));
            }
        }
        options.check().map(|()| options)
    }

    #[test]
    fn options_are_read_and_written_the_same() {
        let table = [
            r#"{"to":"web-1"}"#,
            r#"{"to":["web-*","!web-1"],"route":"least-busy"}"#,
            r#"{"route":{"sticky":"till 5"}}"#,
            r#"{"to":"*","each":true,"batch":2,"max_failures":1}"#,
            r#"{"timeout":30000,"output":"tail"}"#,
            r#"{"queue":{"ttl":3600000}}"#,
            r#"{"request_id":"r-1","event":"push","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#,
            r#"{"queue":{"not_before":"5000ms","ttl":3600000}}"#,
            r#"{"queue":{"not_before":1700000000000,"ttl":3600000},"retry":{"max":3},"then":"sms/done","events":true}"#,
        ];
        for text in table {
            let options = read(text).expect(text);
            let mut json = String::new();
            options.write(&mut json);
            let written = format!("{{{}}}", &json[1..]);
            assert_eq!(read(&written), Ok(options), "{text}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&written).expect("JSON"),
                serde_json::from_str::<serde_json::Value>(text).expect("JSON")
            );
        }
        assert_eq!(read(r#"{"queue":true}"#).expect("taken").queue, Some(Queue::default()));
        assert_eq!(read(r#"{"queue":false,"route":"round-robin","output":"none"}"#), Ok(Options::default()));
        assert!(read("{}").expect("none").are_plain() && read(r#"{"timeout":"5s"}"#).expect("one").are_plain());
        assert!(!read(r#"{"events":true}"#).expect("one").are_plain());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (r#"{"to":5}"#, "\"to\": a name, a glob"),
            (r#"{"to":"*"}"#, "\"to\":\"*\" is everyone"),
            (r#"{"route":"fastest"}"#, "\"route\": unknown variant"),
            (r#"{"each":1}"#, "\"each\": "),
            (r#"{"batch":2}"#, "\"batch\" and \"max_failures\" go with"),
            (r#"{"each":true,"batch":0}"#, "\"batch\" is a whole number"),
            (r#"{"output":"all"}"#, "\"output\": unknown variant"),
            (r#"{"queue":{"tll":1}}"#, "\"queue\": "),
            (r#"{"queue":{"ttl":0}}"#, "\"queue\": a ttl of no time"),
            (r#"{"retry":3}"#, "\"retry\": "),
            (r#"{"retry":{"max":1001}}"#, "\"retry\": at most"),
            (r#"{"traceparent":"x"}"#, "\"traceparent\" is one of W3C"),
            (r#"{"event":5}"#, "\"event\" is a text of 1 to 200"),
            (r#"{"then":""}"#, "\"then\" names a script"),
        ];
        for (text, expected) in table {
            let said = read(text).expect_err(text);
            assert!(said.starts_with(expected), "{said}");
        }
    }
}
