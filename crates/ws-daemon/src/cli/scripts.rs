//! `ws-daemon scripts`: what this daemon's peers may ask it to run.

use std::time::Duration;

use serde_json::Value;

use super::clean::clean;
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
    let records = answer.records();
    if arguments.asking.json {
        records.iter().try_for_each(|(raw, _)| printer.json(raw.get()))?;
        return Ok(Exit::Ok);
    }
    if records.is_empty() {
        printer.note("there are no scripts here");
    } else if records.iter().all(|(_, script)| script.get("contract").is_none()) {
        let mut table = Table::new(["~NAME", "MAY RUN", "SIZE"]);
        for (_, script) in &records {
            table.row(row(script));
        }
        table.print(&mut printer)?;
    } else {
        let mut table = Table::new(["~NAME", "MAY RUN", "SIZE", "~BY", "AS", "TIMEOUT", "AT ONCE", "~PARAMS", "~WHAT"]);
        for (_, script) in &records {
            let [name, may_run, size] = row(script);
            let [by, user, timeout, at_once, params, what] = terms(script);
            table.row([name, may_run, size, by, user, timeout, at_once, params, what]);
        }
        table.print(&mut printer)?;
    }
    for why in records.iter().filter_map(|(_, script)| text(script, "refused")) {
        printer.note(clean(why));
    }
    Ok(Exit::Ok)
}

/// What every script has.
fn row(script: &Value) -> [Cell; 3] {
    let served = script.get("served").and_then(|served| served.get("connections")).and_then(Value::as_u64);
    let may_run = match (text(script, "refused"), script.get("executable").and_then(Value::as_bool)) {
        _ if served.is_some() => Cell::good(&format!("served by {}", served.unwrap_or_default())),
        (Some(_), _) => Cell::bad("no, refused"),
        (None, Some(true)) => Cell::good("yes"),
        (None, Some(false)) => Cell::bad("no, not executable"),
        (None, None) => Cell::new(""),
    };
    let size = script.get("bytes").and_then(Value::as_u64).map(when::size).unwrap_or_default();
    [Cell::new(text(script, "name").unwrap_or_default()), may_run, Cell::new(&size)]
}

/// What its contract says: who may call it, as whom it runs, for how long, how many at once, with what; and what it does.
fn terms(script: &Value) -> [Cell; 6] {
    let said = |key: &str| script.get("contract").and_then(|contract| contract.get(key)).map(plain).unwrap_or_default();
    let timeout = said("timeout").parse().map(|ms| format!("{:?}", Duration::from_millis(ms))).unwrap_or_default();
    let user = [said("user"), said("group")].into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(":");
    let cells = [said("callers"), user, timeout, said("at_once"), said("schema"), said("description")];
    cells.map(|cell| Cell::new(&cell))
}

/// A value of a contract as people read it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    }
}
