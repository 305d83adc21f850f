//! From what is asked over HTTP to a message of the local conversation: the same keys, written as a query; the same parser. It knows
//! no grammar of its own, and never decides what may be asked.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use url::form_urlencoded;
use ws_daemon_protocol::codec::framer::{BadMessage, Frame, Framer};
use ws_daemon_protocol::command::{Command, OutputQuery, Place, RunsQuery, StreamName, Topic};
use ws_daemon_protocol::message::{Message, Rejection, Request};
use ws_daemon_protocol::trace::{MARK_BYTES, is_mark, is_traceparent, is_word};

use super::answers::{Problem, of_outcome};
use super::hooks::{DELIVERIES, EVENTS};

/// The bounds of a message.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Its bytes.
    pub message: usize,
    /// Its levels of nesting.
    pub nesting: usize,
}

/// Parts of a query by which secrets have been given elsewhere; they would stand in logs.
const SECRETS: [&str; 4] = ["token", "access_token", "api_key", "authorization"];

/// The keys of a message that are no options: they stand elsewhere in an HTTP request.
const ELSEWHERE: [&str; 3] = ["name", "params", "id"];

/// A part of a path as it was meant.
pub fn name(written: &str) -> Result<Cow<'_, str>, Problem> {
    let decoded = percent_decode_str(written).decode_utf8();
    decoded.map_err(|_| bad("the path is not UTF-8"))
}

/// What stands in a query: each key with its values, in order.
pub fn query(written: Option<&str>) -> Result<BTreeMap<String, Vec<String>>, Problem> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in form_urlencoded::parse(written.unwrap_or_default().as_bytes()) {
        if SECRETS.contains(&&*key.to_ascii_lowercase()) {
            return Err(bad("no secret belongs into a URL, where logs keep it: send the header Authorization: Bearer TOKEN"));
        }
        found.entry(key.into_owned()).or_default().push(value.into_owned());
    }
    Ok(found)
}

/// The request for a run of `name`.
pub fn run(
    name: &str,
    query: BTreeMap<String, Vec<String>>,
    headers: &HeaderMap,
    params: &str,
    bounds: Bounds,
) -> Result<Request, Problem> {
    if Place::of_name(name).is_some() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "no script is called so"));
    }
    let mut message = format!("{{\"name\":{}", Value::from(name));
    let id = id(headers)?.map(|id| ("id".to_owned(), id.into()));
    let mut options = options(query)?;
    for (key, value) in trace(headers)? {
        if options.iter().all(|(known, _)| known != key) {
            options.push((key.to_owned(), value.into()));
        }
    }
    for (key, value) in id.into_iter().chain(options) {
        message.push_str(&format!(",{}:{value}", Value::from(key)));
    }
    message.push_str(&format!(",\"params\":{params}}}"));
    match parsed(&message, bounds)? {
        Message::Run(request) => Ok(request),
        Message::Command(_) => Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "no script is called so")),
    }
}

/// The JSON text in a body, which is the params of a script.
pub fn params<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<&'a str, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok("null");
    }
    let content = headers.get(header::CONTENT_TYPE).map(|content| content.to_str().unwrap_or_default());
    let content = content.and_then(|content| content.split(';').next()).map(|content| content.trim().to_ascii_lowercase());
    // The last is what curl -d says unless it is told otherwise.
    let is_json = content.is_none_or(|content| {
        content == "application/json" || content.ends_with("+json") || content == "application/x-www-form-urlencoded"
    });
    if !is_json {
        let detail = "the body is the script's params: JSON, with Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
    }
    json(body)
}

/// The one JSON value in a body, with nothing behind it: it becomes a part of a message.
pub fn json(body: &[u8]) -> Result<&str, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| bad(format!("the body is no JSON: {error}")))?;
    Ok(raw.get())
}

/// The command that a page with this query stands for.
pub fn runs(query: BTreeMap<String, Vec<String>>) -> Result<Command, Problem> {
    let mut object = serde_json::Map::new();
    for (key, values) in query {
        let [value] = one(&key, values)?;
        object.insert(key, number(value));
    }
    let query: RunsQuery = serde_json::from_value(object.into()).map_err(|error| bad(error.to_string()))?;
    Ok(Command::Runs(query))
}

/// What is wanted of a run's output, and of which stream.
pub fn output(query: BTreeMap<String, Vec<String>>, is_events: bool) -> Result<OutputQuery, Problem> {
    let both = is_events.then_some(None);
    let mut wanted =
        OutputQuery { stream: both.unwrap_or(Some(StreamName::Stdout)), offset: 0, limit: None, follow: is_events };
    for (key, values) in query {
        let [value] = one(&key, values)?;
        let no_number = || bad(format!("{key:?} is a whole number of bytes"));
        match (&*key, &*value) {
            ("stream", "stdout") => wanted.stream = Some(StreamName::Stdout),
            ("stream", "stderr") => wanted.stream = Some(StreamName::Stderr),
            ("stream", "both") if is_events => wanted.stream = None,
            ("stream", _) => return Err(bad("\"stream\" is stdout or stderr; with Accept: text/event-stream also both")),
            ("offset", value) => wanted.offset = value.parse().map_err(|_| no_number())?,
            ("limit", value) => wanted.limit = Some(value.parse().map_err(|_| no_number())?),
            ("follow", value) => wanted.follow = truth(value).ok_or_else(|| bad("\"follow\" is true or false"))?,
            _ => return Err(unknown(&key, "stream, offset, limit and follow")),
        }
    }
    Ok(wanted)
}

/// The topics that are to be told.
pub fn topics(query: BTreeMap<String, Vec<String>>) -> Result<Command, Problem> {
    let mut topics = Vec::new();
    for (key, values) in query {
        if key != "topics" {
            return Err(unknown(&key, "topics"));
        }
        for word in values.iter().flat_map(|value| value.split(',')) {
            let topic: Topic = serde_json::from_value(word.into())
                .map_err(|_| bad(format!("there is no topic {word:?}; there are runs, peers and statuses")))?;
            topics.push(topic);
        }
    }
    Ok(Command::Subscribe(if topics.is_empty() { Topic::ALL.into() } else { topics }))
}

/// That a page takes no query.
pub fn none(query: &BTreeMap<String, Vec<String>>) -> Result<(), Problem> {
    query.keys().next().map_or(Ok(()), |key| Err(unknown(key, "none")))
}

/// The caller's id of a request: its key of idempotency, what a sender of hooks calls the delivery, or what it is called in the logs of
/// all who pass it on.
fn id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let names = ["idempotency-key"].into_iter().chain(DELIVERIES).chain(["x-request-id"]);
    let mut ids = names.filter_map(|name| word(headers, name).transpose());
    ids.next().transpose()
}

/// A header that is one word.
fn word(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let word = value.to_str().ok().filter(|word| is_word(word));
    let wrong = || bad(format!("the header {name} has 1 to {MARK_BYTES} visible ASCII characters"));
    word.map(|word| Some(word.to_owned())).ok_or_else(wrong)
}

/// What a request carries along for logs, as its headers have it. A traceparent that is none begins a new trace, as its standard says.
fn trace(headers: &HeaderMap) -> Result<Vec<(&'static str, String)>, Problem> {
    let of = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    word(headers, "x-request-id")?;
    let traceparent = of("traceparent").filter(|text| is_traceparent(text));
    let request_id = of("x-request-id");
    let event = EVENTS.into_iter().find_map(of).filter(|event| is_mark(event));
    let parts = [("traceparent", traceparent), ("request_id", request_id), ("event", event)];
    Ok(parts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

/// The options of a request, as a query has them.
fn options(query: BTreeMap<String, Vec<String>>) -> Result<Vec<(String, Value)>, Problem> {
    let (mut options, mut queue, mut not_before) = (Vec::new(), None, None);
    for (key, values) in query {
        if ELSEWHERE.contains(&&*key) {
            let detail = "the script's name is the path, its params are the body, and an id is the header Idempotency-Key";
            return Err(bad(detail));
        }
        if key == "to" && values.len() > 1 {
            options.push((key, values.into()));
            continue;
        }
        let [value] = one(&key, values)?;
        let value = match &*key {
            "each" | "events" => truth(&value).map_or(Value::String(value), Value::Bool),
            "batch" | "max_failures" | "timeout" => number(value),
            "retry" => json!({ "max": number(value) }),
            "route" => match value.strip_prefix("sticky:") {
                Some(key) => json!({ "sticky": key }),
                None => value.into(),
            },
            "queue" => {
                queue = Some(truth(&value).map_or_else(|| json!({ "ttl": number(value) }), Value::Bool));
                continue;
            }
            "not_before" => {
                not_before = Some(number(value));
                continue;
            }
            _ => value.into(),
        };
        options.push((key, value));
    }
    match (queue, not_before) {
        (Some(Value::Bool(true)) | None, Some(not_before)) => {
            options.push(("queue".to_owned(), json!({ "not_before": not_before })));
        }
        (Some(mut queue @ Value::Object(_)), Some(not_before)) => {
            queue["not_before"] = not_before;
            options.push(("queue".to_owned(), queue));
        }
        (Some(queue), _) => options.push(("queue".to_owned(), queue)),
        (None, None) => {}
    }
    Ok(options)
}

/// A message as a process would have written it, within its bounds.
fn parsed(message: &str, bounds: Bounds) -> Result<Message, Problem> {
    let mut framer = Framer::new(bounds.message, bounds.nesting);
    framer.push(message.as_bytes());
    match framer.next() {
        Some(Frame::Message(text)) => Message::parse(&text).map_err(|Rejection { outcome, .. }| of_outcome(outcome)),
        Some(Frame::Bad(BadMessage::TooLarge { limit })) => Err(Problem::too_large(limit)),
        Some(Frame::Bad(fault)) => Err(bad(fault.to_string())),
        None => Err(Problem::too_large(bounds.message)),
    }
}

fn one(key: &str, values: Vec<String>) -> Result<[String; 1], Problem> {
    <[String; 1]>::try_from(values).map_err(|_| bad(format!("{key:?} stands there twice")))
}

/// A number where it is one, else as it was written.
fn number(value: String) -> Value {
    value.parse::<u64>().map_or(Value::String(value), Value::from)
}

/// `?each` means yes, as `?each=true` does.
fn truth(value: &str) -> Option<bool> {
    match value {
        "" | "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn unknown(key: &str, known: &str) -> Problem {
    let key: String = key.chars().take(40).collect();
    bad(format!("there is no {key:?} in the query of this page; it takes {known}"))
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_message", detail)
}
