//! `ws-daemon runs`: what was asked for here, and what was run here; the newest first.

use serde_json::{Map, Value};

use super::conversation::{Asking, report, text};
use super::exit::{Exit, Trouble};
use super::final_line;
use super::gather::Flags;
use super::printer::Printer;
use super::table::{Cell, Table};
use super::when;

/// What `runs` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ws-daemon runs --state waiting\n  ws-daemon runs --peer web-1 --limit 20\n  ws-daemon runs --json"
)]
pub struct Arguments {
    /// Only those that wait, run, or are settled.
    #[arg(long, value_name = "STATE", value_parser = ["waiting", "running", "settled"])]
    state: Option<String>,
    /// Only those of this peer.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// So many at most; the daemon's own limit is 100.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    asking: Asking,
}

/// Lists them.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let wanted = [
        ("state", arguments.state.as_deref().map(Value::from)),
        ("peer", arguments.peer.as_deref().map(Value::from)),
        ("limit", arguments.limit.map(Value::from)),
    ];
    let wanted: Map<String, Value> = wanted.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let data = if wanted.is_empty() { Value::Null } else { Value::Object(wanted) };
    let answer = arguments.asking.ask(flags, "RUNS", &data)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let now = when::now_ms();
    let mut table = Table::new(["RUN", "~SCRIPT", "~STATE", "~PEER", "ASKED", "SIDE"]);
    let records = answer.records();
    for (raw, record) in &records {
        if arguments.asking.json {
            printer.json(raw.get())?;
        }
        table.row(row(record, now));
    }
    if arguments.asking.json {
        return Ok(Exit::Ok);
    }
    if records.is_empty() {
        printer.note("there are none");
        return Ok(Exit::Ok);
    }
    table.print(&mut printer)?;
    Ok(Exit::Ok)
}

fn row(record: &Value, now: i64) -> [Cell; 6] {
    let word = |key| Cell::new(text(record, key).unwrap_or_default());
    let asked = record.get("accepted").and_then(Value::as_i64).map(|then| when::ago(then, now)).unwrap_or_default();
    let side = match text(record, "side") {
        Some("asked") => "from here",
        Some("done") => "to here",
        other => other.unwrap_or_default(),
    };
    [word("run"), word("name"), state(record), word("peer"), Cell::new(&asked), Cell::new(side)]
}

/// How it stands, and of what is settled how it ended.
fn state(record: &Value) -> Cell {
    let state = text(record, "state");
    let Some(report) = report(record).filter(|_| state.is_none_or(|state| state == "settled")) else {
        return Cell::new(state.unwrap_or_default());
    };
    match (&report.error, report.status) {
        (None, Some(0)) => Cell::good("exit 0"),
        (None, Some(status @ 1..=255)) => Cell::bad(&format!("exit {status}")),
        (Some(error), _) => Cell::bad(error),
        _ => Cell::bad(&final_line::ending(&report)),
    }
}
