//! `ws-daemon logs`: what a run has printed, as far as the daemon keeps it, and on demand what it prints next.

use serde_json::{Value, json};

use super::conversation::{Asking, command};
use super::exit::{Exit, Trouble};
use super::final_line::Chunk;
use super::gather::Flags;
use super::printer::Printer;

/// What `logs` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is kept is the last 1 MiB of runs that were asked for with --queue and --follow.
Exit status: 0, or 66 if there is no such run.

Examples:
  ws-daemon logs RUN
  ws-daemon logs RUN --follow --stream stderr
  ws-daemon logs RUN --stream stdout --from 4096")]
pub struct Arguments {
    /// The run, as `exec --queue` and `runs` name it.
    run: String,
    /// Go on until the run has ended.
    #[arg(long, short)]
    follow: bool,
    /// Only what went to stdout, or to stderr.
    #[arg(long, value_name = "STREAM", value_parser = ["stdout", "stderr"])]
    stream: Option<String>,
    /// Begin at this byte of the stream.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    #[command(flatten)]
    asking: Asking,
}

/// Prints it: stdout to stdout, stderr to stderr.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let mut printer = Printer::new(Some(Exit::Ok));
    let mut conversation = arguments.asking.open(flags)?;
    conversation.say(&command("RUN", &question(arguments), "ws-daemon"))?;
    let mut anything = false;
    loop {
        let line = conversation.next()?.ok_or_else(super::conversation::closed)?;
        let is_last = line.event().is_none();
        let line = if is_last { arguments.asking.unless_refused(line, "RUN")? } else { line };
        if arguments.asking.json {
            printer.json(&line.text)?;
        } else if let Some(chunk) = Chunk::of_event(&line) {
            chunk.print(&mut printer)?;
            anything = true;
        } else if is_last && !anything {
            printer.note(match arguments.from {
                Some(from) => format!("nothing is kept of what it printed from byte {from} on"),
                None => "nothing is kept of what it printed: to have it kept, ask with exec --queue --follow".to_owned(),
            });
        }
        if is_last {
            return Ok(Exit::Ok);
        }
    }
}

fn question(arguments: &Arguments) -> Value {
    let stream = arguments.stream.as_deref().unwrap_or("both");
    let mut question = json!({ "run": arguments.run, "output": stream });
    if let Some(from) = arguments.from {
        question["offset"] = from.into();
    }
    if arguments.follow {
        question["follow"] = true.into();
    }
    question
}
