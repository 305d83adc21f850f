//! `ws-daemon restart`: has the daemon begin a new life, with the program and the settings that are on disk now.

use std::time::Instant;

use serde_json::Value;

use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `restart` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nobody is refused meanwhile: what runs may end, within the half of times.grace, and whoever is connected or connects waits.\n\nExample, after an update:\n  ws-daemon restart"
)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// Asks for it, and asks the next life how it does.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let since = Instant::now();
    let answer = arguments.asking.ask(flags, "RESTART", &Value::Null)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        printer.json(&answer.text)?;
        return Ok(Exit::Ok);
    }
    let stats = arguments.asking.ask(flags, "STATS", &Value::Null)?;
    let stats: Value = serde_json::from_str(&stats.text).unwrap_or_default();
    let is_new = stats["result"]["up_ms"].as_u64().is_some_and(|up| u128::from(up) <= since.elapsed().as_millis());
    let version = stats["result"]["version"].as_str().unwrap_or("unknown").to_owned();
    printer.line(if is_new {
        format!("the daemon has restarted; its version is {version}")
    } else {
        "the daemon restarts".into()
    })?;
    Ok(Exit::Ok)
}
