//! `ws-daemon scripts`: what this daemon's peers may ask it to run.

use serde_json::Value;

use super::conversation::{Asking, text};
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;
use super::table::{Cell, Table};
use super::when;

/// What `scripts` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ws-daemon scripts --json | jq -r .name")]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// Lists them.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let answer = arguments.asking.ask(flags, "SCRIPTS", &Value::Null)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    let mut table = Table::new(["~NAME", "MAY RUN", "SIZE"]);
    let records = answer.records();
    for (raw, script) in &records {
        if arguments.asking.json {
            printer.json(raw.get())?;
        }
        let may_run = match script.get("executable").and_then(Value::as_bool) {
            Some(true) => Cell::good("yes"),
            Some(false) => Cell::bad("no, not executable"),
            None => Cell::new(""),
        };
        let size = script.get("bytes").and_then(Value::as_u64).map(when::size).unwrap_or_default();
        table.row([Cell::new(text(script, "name").unwrap_or_default()), may_run, Cell::new(&size)]);
    }
    match (arguments.asking.json, records.is_empty()) {
        (true, _) => {}
        (false, true) => printer.note("there are no scripts here"),
        (false, false) => table.print(&mut printer)?,
    }
    Ok(Exit::Ok)
}
