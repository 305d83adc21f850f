//! `ws-daemon stats`: the daemon's counters.

use serde_json::Value;

use super::clean::clean;
use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `stats` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ws-daemon stats\n  ws-daemon stats --json | jq .")]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// Prints them, one a line; those in groups by the names of both.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let answer = arguments.asking.ask(flags, "STATS", &Value::Null)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        if let Some(result) = answer.result() {
            printer.json(result.get())?;
        }
        return Ok(Exit::Ok);
    }
    let mut rows = Vec::new();
    flatten("", answer.value.get("result").unwrap_or(&Value::Null), &mut rows);
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in rows {
        printer.line(format_args!("{name:width$}  {value}"))?;
    }
    Ok(Exit::Ok)
}

/// Nesting is bounded by the reader of JSON, at 128.
fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(group) => {
            for (key, value) in group {
                let inner = if name.is_empty() { clean(key) } else { format!("{name}.{}", clean(key)) };
                flatten(&inner, value, rows);
            }
        }
        Value::String(text) => rows.push((name.to_owned(), clean(text))),
        value => rows.push((name.to_owned(), clean(&value.to_string()))),
    }
}
