//! `ws-daemon wait`: waits until a run is settled and exits as `exec` would have.

use serde_json::{Value, json};

use super::clean::clean;
use super::conversation::{Asking, Line, command, report};
use super::exit::{Exit, Trouble};
use super::final_line;
use super::gather::Flags;
use super::printer::Printer;

/// What `wait` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: as of ws-daemon exec, or 66 if there is no such run.

Example:
  run=$(ws-daemon exec backup --detach) && ws-daemon wait \"$run\"")]
pub struct Arguments {
    /// The run, as `exec --detach` and `runs` name it.
    run: String,
    #[command(flatten)]
    asking: Asking,
}

/// Waits.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let mut conversation = arguments.asking.open(flags)?;
    // What it prints comes too, and is passed over: only who follows is told the end.
    let question = json!({ "run": arguments.run, "output": "both", "follow": true });
    conversation.say(&command("RUN", &question, "ws-daemon"))?;
    let mut printer = Printer::new(Some(Exit::Ok));
    loop {
        let line = conversation.next()?.ok_or_else(super::conversation::closed)?;
        if line.event().is_none() {
            let line = arguments.asking.unless_refused(line, "RUN")?;
            return settled(&line, arguments, &mut printer);
        }
    }
}

/// The final line itself, or a record with it.
fn settled(line: &Line, arguments: &Arguments, printer: &mut Printer) -> Result<Exit, Trouble> {
    let record = line.value.get("result").filter(|_| line.text("run").is_none());
    let report = match record {
        Some(record) => record.get("report").and_then(report).or_else(|| report(record)),
        None => report(&line.value),
    };
    let is_settled =
        record.and_then(|record| record.get("state")).and_then(Value::as_str).is_none_or(|state| state == "settled");
    let Some(report) = report.filter(|_| is_settled) else {
        return Err(Trouble::new(Exit::Failed, "the daemon answered before the run was settled"));
    };
    if arguments.asking.json {
        printer.json(&line.text)?;
    } else if let Some(words) = final_line::words(&report) {
        printer.note(format_args!("{}: {words}", clean(&arguments.run)));
    }
    Ok(Exit::of_report(&report))
}
