//! `ws-daemon events`: what happens, as it happens, until somebody ends it.

use serde_json::Value;

use super::clean::clean;
use super::conversation::{Asking, Line, command, report};
use super::exit::{Exit, Trouble};
use super::final_line;
use super::gather::Flags;
use super::printer::Printer;

/// What `events` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It ends by Ctrl-C, with whoever reads it, or with the daemon (exit status 69).

Examples:
  ws-daemon events
  ws-daemon events peers --json | while read -r line; do …; done")]
pub struct Arguments {
    /// Of what: runs, peers, statuses; without it everything.
    #[arg(value_name = "KIND", value_parser = ["runs", "peers", "statuses"])]
    kinds: Vec<String>,
    #[command(flatten)]
    asking: Asking,
}

/// Tells the answer to the question from what follows it.
const ID: &str = "ws-daemon-events";

/// Prints them.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let mut conversation = arguments.asking.open(flags)?;
    let kinds = if arguments.kinds.is_empty() { Value::Null } else { arguments.kinds.clone().into() };
    conversation.say(&command("SUBSCRIBE", &kinds, ID))?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let mut is_subscribed = false;
    while let Some(line) = conversation.next()? {
        if !is_subscribed && line.event().is_none() && line.text("id") == Some(ID) {
            arguments.asking.unless_refused(line, "SUBSCRIBE")?;
            is_subscribed = true;
        } else if arguments.asking.json {
            printer.json(&line.text)?;
        } else {
            printer.line(readable(&line))?;
        }
    }
    Err(Trouble::new(Exit::Unavailable, "the daemon closed the connection"))
}

/// The event's word, then its keys, those that matter most first.
fn readable(line: &Line) -> String {
    const FIRST: [&str; 10] = ["peer", "name", "run", "id", "state", "status", "error", "signal", "message", "stream"];
    let mut said = format!("{:<10}", clean(line.event().unwrap_or("status")));
    let object = line.value.as_object();
    let first = FIRST.iter().filter_map(|key| Some((*key, line.value.get(key)?)));
    let rest = object.into_iter().flatten().map(|(key, value)| (key.as_str(), value));
    let rest = rest.filter(|(key, _)| *key != "event" && !FIRST.contains(key));
    for (key, value) in first.chain(rest) {
        match report(value).filter(|_| key == "report") {
            Some(report) => {
                if let Some(peer) = value.get("peer") {
                    said.push_str(&format!("  peer={}", word(peer)));
                }
                said.push_str(&format!("  {}", final_line::ending(&report)));
            }
            None => said.push_str(&format!("  {}={}", clean(key), word(value))),
        }
    }
    said
}

/// Text as it is, where it cannot be taken for more than one word.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && !text.contains([' ', '"']) => clean(text),
        value => clean(&value.to_string()),
    }
}
