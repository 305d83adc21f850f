//! `ws-daemon peers`: who is connected, and who was.

use serde_json::Value;

use super::conversation::{Asking, text};
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;
use super::table::{Cell, Table};
use super::when;

/// What `peers` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ws-daemon peers\n  ws-daemon peers --json | jq -r 'select(.connected).name'")]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// Lists them.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let answer = arguments.asking.ask(flags, "PEERS", &Value::Null)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let now = when::now_ms();
    let mut table = Table::new(["~NAME", "STATE", "~ADDRESS", "~TAGS", "LAST SEEN", "RUNS", "VERSION"]);
    let records = answer.records();
    for (raw, peer) in &records {
        if arguments.asking.json {
            printer.json(raw.get())?;
        }
        table.row(row(peer, now));
    }
    if arguments.asking.json {
        return Ok(Exit::Ok);
    }
    if records.is_empty() {
        printer.note("no peer was ever connected to this daemon");
        return Ok(Exit::Ok);
    }
    table.print(&mut printer)?;
    Ok(Exit::Ok)
}

fn row(peer: &Value, now: i64) -> [Cell; 7] {
    let word = |key| Cell::new(text(peer, key).unwrap_or_default());
    let is = |key: &str| peer.get(key).and_then(Value::as_bool).unwrap_or_default();
    let number = |key: &str| peer.get(key).and_then(Value::as_u64);
    let state = if is("connected") { Cell::good("connected") } else { Cell::bad("absent") };
    let seen = match peer.get("last_seen").and_then(Value::as_i64) {
        _ if is("connected") => "now".to_owned(),
        Some(then) => when::ago(then, now),
        None => "never".to_owned(),
    };
    let tags: Vec<&str> = peer.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let runs = match (number("in_flight"), number("capacity")) {
        (Some(runs), Some(capacity)) => format!("{runs}/{capacity}"),
        (Some(runs), None) => runs.to_string(),
        _ => String::new(),
    };
    let version = if is("seed") { Cell::new("seed") } else { word("version") };
    [word("name"), state, word("address"), Cell::new(&tags.join(", ")), Cell::new(&seen), Cell::new(&runs), version]
}
