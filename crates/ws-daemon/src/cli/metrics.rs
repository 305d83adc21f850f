//! `ws-daemon metrics`: the figures that are at `/metrics`, for a person or for a file that somebody collects.

use serde_json::Value;

use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `metrics` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ws-daemon metrics\n  ws-daemon metrics > /var/lib/node_exporter/ws-daemon.prom")]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// Prints them.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let answer = arguments.asking.ask(flags, "METRICS", &Value::Null)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        if let Some(result) = answer.result() {
            printer.json(result.get())?;
        }
        return Ok(Exit::Ok);
    }
    for line in answer.value.get("result").and_then(Value::as_str).unwrap_or_default().lines() {
        printer.line(line)?;
    }
    Ok(Exit::Ok)
}
