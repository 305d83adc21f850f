//! `ws-daemon cancel`: has a run stopped, or never begun.

use serde_json::json;

use super::clean::clean;
use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `cancel` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The order is given, not waited for: ws-daemon wait RUN tells what came of it.
Exit status: 0, or 66 if there is no such run that waits or runs.

Example:
  ws-daemon cancel 01940b52-9c3e-7cc1-8b1e-5b1f0a3c9d77")]
pub struct Arguments {
    /// The run, as `exec --queue` and `runs` name it.
    run: String,
    #[command(flatten)]
    asking: Asking,
}

/// Gives the order.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let answer = arguments.asking.ask(flags, "CANCEL", &json!({ "run": arguments.run }))?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        printer.json(&answer.text)?;
    } else {
        printer.line(format_args!("{} is told to stop", clean(&arguments.run)))?;
    }
    Ok(Exit::Ok)
}
