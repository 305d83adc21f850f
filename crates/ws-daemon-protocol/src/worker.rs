//! The lines between a daemon and a worker: a copy of a script that is kept running, or a process that serves. A worker is asked in one
//! line and answers in one; what it prints meanwhile it may say in lines of its own. It never looks into params or results.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::command::{StreamName, fault};
use crate::id::{CallerId, RunId};
use crate::message::Params;
use crate::trace::Trace;

/// One request, as a worker is asked. What is absent does not stand in the line.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its run: the id to answer under.
    pub run: &'a RunId,
    /// What was asked for.
    pub name: &'a str,
    /// What a script would get.
    pub params: &'a Params,
    /// Who asked.
    pub peer: &'a str,
    /// The caller's own id.
    pub caller: Option<&'a CallerId>,
    /// By when it is to be answered, since 1970.
    pub deadline: Option<Duration>,
    /// What it carries along.
    pub trace: Option<&'a Trace>,
}

/// A line of a worker's.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A request is done.
    Answer(Answer<'a>),
    /// Something is printed for one.
    Output(Output<'a>),
    /// It has a name, and so is a message like those of any other process.
    Message,
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its run.
    pub id: Cow<'a, str>,
    /// As a script exits with it.
    pub status: u8,
    /// What a script would have printed, as JSON.
    pub result: Option<&'a str>,
    /// What it would have printed, as it is.
    pub stdout: Option<Cow<'a, str>>,
    /// What it would have said of trouble.
    pub stderr: Option<Cow<'a, str>>,
    /// For people.
    pub message: Option<Cow<'a, str>>,
}

/// What is printed for a request that is not done.
#[derive(Debug, PartialEq, Eq)]
pub struct Output<'a> {
    /// Its run.
    pub id: Cow<'a, str>,
    /// Where a script would have printed it.
    pub stream: StreamName,
    /// The text, or the bytes in base 64.
    pub data: Cow<'a, str>,
    /// Whether `data` is base 64.
    pub is_base64: bool,
}

impl Asked<'_> {
    /// Appends the line, with its newline.
    pub fn write(&self, line: &mut String) {
        let Self { run, name, params, peer, caller, deadline, trace } = self;
        line.push_str("{\"id\":\"");
        line.push_str(run.as_str());
        line.push_str("\",\"name\":");
        quoted(line, name);
        line.push_str(",\"params\":");
        line.push_str(&params.compact());
        line.push_str(",\"peer\":");
        quoted(line, peer);
        if let Some(caller) = caller {
            line.push_str(",\"caller\":");
            line.push_str(caller.as_json());
        }
        if let Some(deadline) = deadline {
            line.push_str(&format!(",\"deadline\":{}.{:03}", deadline.as_secs(), deadline.subsec_millis()));
        }
        if let Some(trace) = trace {
            trace.write(line);
        }
        line.push_str("}\n");
    }
}

/// Appends a text as JSON.
fn quoted(line: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        line.push('"');
        line.push_str(text);
        line.push('"');
    } else {
        line.push_str(&serde_json::Value::from(text).to_string());
    }
}

impl<'a> Said<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &'a str) -> Result<Self, String> {
        let written: Written<'a> = serde_json::from_str(line).map_err(|error| fault(&error))?;
        if written.name.is_some() {
            return Ok(Self::Message);
        }
        let id = needed("id", written.id)?;
        if written.event.is_none() {
            return Ok(Self::Answer(Answer {
                id,
                status: status(written.status)?,
                result: written.result.map(RawValue::get),
                stdout: text("stdout", written.stdout)?,
                stderr: text("stderr", written.stderr)?,
                message: text("message", written.message)?,
            }));
        }
        if needed("event", written.event)? != "output" {
            return Err("the only \"event\" of a worker is \"output\"".into());
        }
        let stream = match &*needed("stream", written.stream)? {
            "stdout" => StreamName::Stdout,
            "stderr" => StreamName::Stderr,
            _ => return Err("the \"stream\" of an event is \"stdout\" or \"stderr\"".into()),
        };
        let is_base64 = match text("encoding", written.encoding)?.as_deref() {
            None => false,
            Some("base64") => true,
            Some(_) => return Err("the \"encoding\" of an event is \"base64\", or there is none".into()),
        };
        Ok(Self::Output(Output { id, stream, data: needed("data", written.data)?, is_base64 }))
    }
}

/// What may stand in a line, not looked into; all other keys are passed over.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default, deserialize_with = "also_null")]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    stdout: Option<&'a RawValue>,
    #[serde(borrow)]
    stderr: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    encoding: Option<&'a RawValue>,
}

/// A value that is `null` is one; only an absent one is none.
fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

fn status(raw: Option<&RawValue>) -> Result<u8, String> {
    let Some(raw) = raw.map(RawValue::get) else { return Err("there is no \"status\"".into()) };
    raw.parse().map_err(|_| "the \"status\" must be a whole number from 0 to 255".into())
}

/// A text, copied only where it has escapes.
fn text<'a>(key: &str, raw: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, String> {
    let Some(raw) = raw.map(RawValue::get) else { return Ok(None) };
    let plain = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).filter(|raw| !raw.contains('\\'));
    if let Some(plain) = plain {
        return Ok(Some(Cow::Borrowed(plain)));
    }
    let text = serde_json::from_str::<String>(raw);
    text.map(|text| Some(Cow::Owned(text))).map_err(|_| format!("the \"{key}\" must be text"))
}

fn needed<'a>(key: &str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, String> {
    text(key, raw)?.ok_or_else(|| format!("there is no \"{key}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_stands_in_one_line_in_this_order() {
        let run = RunId::new("r");
        let raw: Box<RawValue> = serde_json::from_str("{ \"a\" : [1.0,\n\"x\\n\"] }").expect("JSON");
        let params = Params::new(Some(&raw));
        let plain =
            Asked { run: &run, name: "sms/send", params: &params, peer: "web 1", caller: None, deadline: None, trace: None };
        let said = |asked: &Asked<'_>| {
            let mut line = String::new();
            asked.write(&mut line);
            line
        };
        let expected = "{\"id\":\"r\",\"name\":\"sms/send\",\"params\":{\"a\":[1.0,\"x\\n\"]},\"peer\":\"web 1\"}\n";
        assert_eq!(said(&plain), expected);
        let raw: Box<RawValue> = serde_json::from_str("[5]").expect("JSON");
        let caller = CallerId::new(&raw);
        let trace = Trace { event: Some("push".into()), request_id: Some("q".into()), traceparent: None };
        let full = Asked {
            name: "a\"b\n",
            caller: caller.as_ref(),
            deadline: Some(Duration::from_millis(1_800_000_000_050)),
            trace: Some(&trace),
            ..plain
        };
        let expected = concat!(
            r#"{"id":"r","name":"a\"b\n","params":{"a":[1.0,"x\n"]},"peer":"web 1","caller":[5],"deadline":1800000000.050,"#,
            r#""request_id":"q","event":"push"}"#,
            "\n"
        );
        assert_eq!(said(&full), expected);
    }

    #[test]
    fn answers_and_output_are_read_and_unknown_keys_passed_over() {
        let answer = |text| match Said::parse(text) {
            Ok(Said::Answer(answer)) => answer,
            other => panic!("{text}: {other:?}"),
        };
        let plain = answer(r#"{"id":"r","status":0}"#);
        assert_eq!((&*plain.id, plain.status, plain.result, plain.stdout), ("r", 0, None, None));
        let full =
            answer(r#" {"more":[{}],"status":255,"result": null ,"stdout":"a\n","stderr":"","message":"m","id":"\u0072"} "#);
        assert_eq!((&*full.id, full.status, full.result), ("r", 255, Some("null")));
        assert_eq!(
            (full.stdout.as_deref(), full.stderr.as_deref(), full.message.as_deref()),
            (Some("a\n"), Some(""), Some("m"))
        );
        assert_eq!(answer(r#"{"id":"r","status":1,"result":{"a": 1.0}}"#).result, Some(r#"{"a": 1.0}"#));
        let output = Said::parse(r#"{"id":"r","event":"output","stream":"stderr","data":"/w==","encoding":"base64"}"#);
        let Ok(Said::Output(Output { id, stream: StreamName::Stderr, data, is_base64: true })) = output else {
            panic!("{output:?}")
        };
        assert_eq!((&*id, &*data), ("r", "/w=="));
        for message in [r#"{"name":"sms/send","id":5,"status":[]}"#, r#"{"name":null}"#] {
            assert_eq!(Said::parse(message), Ok(Said::Message), "{message}");
        }
    }

    #[test]
    fn what_is_no_line_of_a_worker_is_refused_in_words() {
        let table = [
            ("", "EOF"),
            ("5", "invalid type"),
            ("hello", "expected value"),
            ("{} {}", "trailing"),
            ("{}", "there is no \"id\""),
            (r#"{"id":null,"status":0}"#, "there is no \"id\""),
            (r#"{"id":5,"status":0}"#, "the \"id\" must be text"),
            (r#"{"id":"r"}"#, "there is no \"status\""),
            (r#"{"id":"r","status":256}"#, "from 0 to 255"),
            (r#"{"id":"r","status":-1}"#, "from 0 to 255"),
            (r#"{"id":"r","status":"0"}"#, "from 0 to 255"),
            (r#"{"id":"r","status":0,"status":0}"#, "duplicate field `status`"),
            (r#"{"id":"r","status":0,"stdout":{}}"#, "the \"stdout\" must be text"),
            (r#"{"id":"r","event":"output","data":"x"}"#, "there is no \"stream\""),
            (r#"{"id":"r","event":"output","stream":"stdin","data":"x"}"#, "the \"stream\" of an event"),
            (r#"{"id":"r","event":"started","stream":"stdout","data":""}"#, "the only \"event\""),
            (r#"{"id":"r","event":"output","stream":"stdout","data":"","encoding":"hex"}"#, "base64"),
        ];
        for (line, words) in table {
            let fault = Said::parse(line).expect_err(line);
            assert!(fault.contains(words), "{line}: {fault}");
        }
    }
}
