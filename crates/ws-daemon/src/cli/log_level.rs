//! `ws-daemon log-level`: what the daemon logs, and how it is told to log something else for a while.

use std::time::Duration;

use serde_json::{Value, json};

use super::clean::clean;
use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;

/// What `log-level` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ws-daemon log-level\n  ws-daemon log-level info,ws_daemon::link=trace --for 10m\n  ws-daemon log-level usual"
)]
pub struct Arguments {
    /// off, error, warn, info, debug or trace, or by module; usual: what the settings say. Without it, what is logged is shown.
    #[arg(value_name = "LEVEL")]
    filter: Option<String>,
    /// How long, like 10m; then it is the usual again.
    #[arg(long = "for", value_name = "TIME", value_parser = ws_daemon_protocol::time::parse, requires = "filter")]
    within: Option<Duration>,
    #[command(flatten)]
    asking: Asking,
}

/// Asks, and says what is logged then.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let within = arguments.within.map(|within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
    let data = match (&arguments.filter, within) {
        (None, _) => Value::Null,
        (Some(filter), None) => json!({ "filter": filter }),
        (Some(filter), Some(within)) => json!({ "filter": filter, "for": within }),
    };
    let answer = arguments.asking.ask(flags, "LOG", &data)?;
    let mut printer = Printer::new(Some(Exit::Ok));
    if arguments.asking.json {
        if let Some(result) = answer.result() {
            printer.json(result.get())?;
        }
        return Ok(Exit::Ok);
    }
    let result = answer.value.get("result").unwrap_or(&Value::Null);
    let text = |key: &str| clean(result[key].as_str().unwrap_or_default());
    let (now, usual) = (text("filter"), text("usual"));
    // To a person the next full second is near enough, unless there are few left.
    let round = |ms: u64| if ms < 10_000 { Duration::from_millis(ms) } else { Duration::from_secs(ms.div_ceil(1000)) };
    match result["left"].as_u64().map(round) {
        Some(left) => printer.line(format_args!("{now}, for {left:?}; then {usual}")),
        None if now == usual => printer.line(now),
        None => printer.line(format_args!("{now}; usually {usual}")),
    }?;
    Ok(Exit::Ok)
}
