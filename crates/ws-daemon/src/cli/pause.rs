//! `ws-daemon pause`: a client leaves its server for a while.

use std::time::Duration;

use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `pause` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Only a client can: a server has no link of its own to close.\n\nExample:\n  ws-daemon pause 5m")]
pub struct Arguments {
    /// How long, like 30s, at most 24h. Then the server is dialled again.
    #[arg(value_name = "TIME", value_parser = ws_daemon_protocol::time::parse)]
    time: Duration,
    #[command(flatten)]
    asking: Asking,
}

/// Pauses.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let ms = u64::try_from(arguments.time.as_millis()).unwrap_or(u64::MAX);
    let answer = arguments.asking.ask(flags, "PAUSE", &ms.into())?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        printer.json(&answer.text)?;
    } else {
        printer.line(format_args!("the link is closed for {:?}", arguments.time))?;
    }
    Ok(Exit::Ok)
}
