//! From the words on the command line to the request, with the params as they were written. Keys that were not asked for are
//! left out, so that a plain request is the seed's.

use std::io::{IsTerminal, Read};

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Arguments, Output};
use crate::cli::exit::{Exit, Trouble};

/// Which of the peers that may run it.
#[derive(Debug, Clone)]
pub struct Route(Value);

/// Reads a route as people write it.
pub fn route(word: &str) -> Result<Route, String> {
    match word.split_once(':') {
        None if matches!(word, "round-robin" | "least-busy") => Ok(Route(word.into())),
        Some(("sticky", key)) if !key.is_empty() => Ok(Route(json!({ "sticky": key }))),
        _ => Err("write round-robin, least-busy, or sticky:KEY".to_owned()),
    }
}

/// The whole request.
pub fn written(arguments: &Arguments) -> Result<String, Trouble> {
    let params = params(arguments.params.as_deref())?;
    let mut request = format!("{{\"name\":{}", Value::from(arguments.name.as_str()));
    if let Some(id) = &arguments.id {
        request.push_str(&format!(",\"id\":{}", Value::from(id.as_str())));
    }
    request.push_str(&format!(",\"params\":{params}"));
    for (key, value) in options(arguments) {
        request.push_str(&format!(",\"{key}\":{value}"));
    }
    request.push('}');
    Ok(request)
}

fn params(words: Option<&str>) -> Result<Box<RawValue>, Trouble> {
    let text = match words {
        Some("-") => {
            let mut text = String::new();
            if std::io::stdin().is_terminal() {
                eprintln!("ws-daemon: reading the params from the terminal; end with Ctrl-D");
            }
            std::io::stdin().read_to_string(&mut text).map_err(|error| {
                Trouble::new(Exit::BadMessage, format_args!("the params cannot be read from stdin: {error}"))
            })?;
            text
        }
        Some(text) => text.to_owned(),
        None => "null".to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| {
        Trouble::new(
            Exit::BadMessage,
            format_args!("the params are not JSON: {error}; text needs its own quotes, like '\"text\"'"),
        )
    })
}

/// The keys beside `name`, `id` and `params`.
fn options(arguments: &Arguments) -> Vec<(&'static str, Value)> {
    let to = match arguments.to.as_slice() {
        [] => None,
        [one] => Some(json!(one)),
        several => Some(json!(several)),
    };
    let output = match arguments.output {
        _ if arguments.follow => Some("stream"),
        None => None,
        Some(Output::None) => Some("none"),
        Some(Output::Tail) => Some("tail"),
        Some(Output::Json) => Some("json"),
    };
    let options = [
        ("to", to),
        ("each", arguments.each.then_some(json!(true))),
        ("batch", arguments.batch.map(Value::from)),
        ("max_failures", arguments.max_failures.map(Value::from)),
        ("route", arguments.route.clone().map(|Route(route)| route)),
        ("timeout", arguments.timeout.map(milliseconds)),
        ("output", output.map(Value::from)),
        ("queue", queue(arguments)),
        ("retry", arguments.retry.map(|max| json!({ "max": max }))),
        ("then", arguments.then.as_deref().map(Value::from)),
    ];
    options.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn queue(arguments: &Arguments) -> Option<Value> {
    // As text it is a span; as a number it would be a time since 1970.
    let not_before = arguments.not_before.map(|span| format!("{}ms", span.as_millis()).into());
    let times = [("ttl", arguments.ttl.map(milliseconds)), ("not_before", not_before)];
    let times: Map<String, Value> = times.into_iter().filter_map(|(key, time)| Some((key.to_owned(), time?))).collect();
    match (times.is_empty(), arguments.queue || arguments.detach) {
        (false, _) => Some(Value::Object(times)),
        (true, true) => Some(json!(true)),
        (true, false) => None,
    }
}

fn milliseconds(time: std::time::Duration) -> Value {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}
