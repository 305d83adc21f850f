//! `ws-daemon show`: all that is known about one run.

use serde_json::Value;

use super::clean::clean;
use super::conversation::{Asking, report};
use super::exit::{Exit, Trouble};
use super::final_line::{self, printed};
use super::gather::Flags;
use super::printer::{Printer, Stream};
use super::when;

/// What `show` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0, or 66 if there is no such run.

Examples:
  ws-daemon show 01940b52-9c3e-7cc1-8b1e-5b1f0a3c9d77
  ws-daemon show --json RUN | jq .report")]
pub struct Arguments {
    /// The run, as `exec --queue` and `runs` name it.
    run: String,
    #[command(flatten)]
    asking: Asking,
}

/// What is shown first, and what each is called; other keys follow under their own names.
const KNOWN: [(&str, &str); 11] = [
    ("run", "run"),
    ("name", "script"),
    ("id", "id"),
    ("state", "state"),
    ("peer", "peer"),
    ("side", "side"),
    ("attempt", "attempt"),
    ("queued", "queued"),
    ("accepted", "asked"),
    ("settled", "settled"),
    ("output", "output"),
];

/// Keys whose content is told in words.
const IN_WORDS: [&str; 6] = ["report", "status", "error", "message", "signal", "correction"];

/// Shows it.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let answer = arguments.asking.ask(flags, "RUN", &arguments.run.as_str().into())?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let Some(result) = answer.result() else {
        return Err(Trouble::new(Exit::Failed, "the daemon answered without a record"));
    };
    if arguments.asking.json {
        printer.json(result.get())?;
        return Ok(Exit::Ok);
    }
    let record = answer.value.get("result").unwrap_or(&Value::Null);
    let rows = rows(record, when::now_ms());
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in rows {
        printer.line(format_args!("{name:width$}  {value}"))?;
    }
    for stream in [Stream::Out, Stream::Err] {
        for (at, chunk) in record.get("report").map(|report| printed(report, stream)).unwrap_or_default().iter().enumerate() {
            match at {
                0 => printer.line(format_args!("\n{}:", stream.word()))?,
                _ => printer.line(format_args!("\n… {} bytes are missing here …", chunk.gap))?,
            }
            printer.output(Stream::Out, &chunk.bytes)?;
            if chunk.bytes.last().is_some_and(|last| *last != b'\n') {
                printer.line("")?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn rows(record: &Value, now: i64) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    for (key, name) in KNOWN {
        if let Some(value) = record.get(key).filter(|value| !value.is_null()) {
            rows.push((name.to_owned(), shown(key, value, now)));
        }
    }
    let ended = record.get("report").filter(|report| !report.is_null()).unwrap_or(record);
    if let Some(report) = report(ended) {
        rows.push(("outcome".to_owned(), final_line::ending(&report)));
    }
    if let Some(late) = record.get("correction").and_then(report) {
        rows.push(("later known".to_owned(), final_line::ending(&late)));
    }
    for (key, value) in record.as_object().into_iter().flatten() {
        let is_told = KNOWN.iter().any(|(known, _)| known == key) || IN_WORDS.contains(&key.as_str());
        if !is_told && !value.is_null() {
            rows.push((clean(key), shown(key, value, now)));
        }
    }
    rows
}

fn shown(key: &str, value: &Value, now: i64) -> String {
    match (key, value) {
        ("accepted" | "settled" | "started" | "expires", Value::Number(ms)) if ms.as_i64().is_some() => {
            let ms = ms.as_i64().unwrap_or_default();
            format!("{} ({})", when::clock(ms), when::ago(ms, now))
        }
        ("side", Value::String(side)) if side == "asked" => "asked for here".to_owned(),
        ("side", Value::String(side)) if side == "done" => "run here".to_owned(),
        ("queued", Value::Bool(queued)) => (if *queued { "on disk" } else { "no" }).to_owned(),
        ("output", Value::Object(streams)) => {
            let range = |stream: &Value, key| stream.get(key).and_then(Value::as_u64).unwrap_or_default();
            let kept = streams.iter().map(|(name, stream)| {
                let bytes = range(stream, "to").saturating_sub(range(stream, "from"));
                format!("{} of {}", when::size(bytes), clean(name))
            });
            format!("{}, by: ws-daemon logs RUN", kept.collect::<Vec<_>>().join(", "))
        }
        (_, Value::String(text)) => clean(text),
        (_, value) => clean(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_told_whatever_it_lacks() {
        assert_eq!(rows(&json!({}), 0), []);
        assert_eq!(rows(&Value::Null, 0), []);
        let told = rows(&json!({ "run": 5, "queued": "x", "output": [], "new\u{1b}": { "a": 1 }, "peer": null }), 0);
        let expected = [("run", "5"), ("queued", "x"), ("output", "[]"), ("new ", "{\"a\":1}")];
        assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
