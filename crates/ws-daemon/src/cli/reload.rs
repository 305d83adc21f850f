//! `ws-daemon reload`: has the daemon read its settings again, and tells what came of it.

use serde_json::Value;

use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `reload` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Look before: ws-daemon check shows the settings as a daemon would read them.\n\nExample:\n  ws-daemon check && ws-daemon reload"
)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// Asks for it.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let answer = arguments.asking.ask(flags, "RELOAD", &Value::Null)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        printer.json(&answer.text)?;
        return Ok(Exit::Ok);
    }
    let found: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    let names = |key: &str| {
        let names = found["result"][key].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    printer.line("the settings were read again")?;
    for (names, what) in [(names("changed"), "changed"), (names("restart"), "changed at the next start alone")] {
        if !names.is_empty() {
            printer.line(format!("{what}: {names}"))?;
        }
    }
    Ok(Exit::Ok)
}
