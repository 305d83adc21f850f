//! `ws-daemon logs`: what a run has printed, as far as the daemon keeps it, and on demand what it prints next.

use serde_json::{Value, json};

use super::conversation::{Asking, command};
use super::exit::{Exit, Trouble};
use super::final_line::Chunk;
use super::gather::Flags;
use super::printer::{Printer, Stream};

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
    let wanted = arguments.stream.as_deref().and_then(Stream::of_word);
    let wanted: Vec<Stream> = wanted.map_or(vec![Stream::Out, Stream::Err], |stream| vec![stream]);
    let mut printer = Printer::new(Some(Exit::Ok));
    let mut conversation = arguments.asking.open(flags)?;
    // One question a stream, under its name: what they print comes in the order in which it was printed.
    let questions = wanted.iter().map(|stream| command("RUN", &question(arguments, *stream), stream.word()));
    conversation.say(&questions.collect::<String>())?;
    let mut open = wanted.len();
    while open > 0 {
        let line = conversation.next()?.ok_or_else(super::conversation::closed)?;
        if line.event().is_none() {
            open -= 1;
            let line = arguments.asking.unless_refused(line, "RUN")?;
            if arguments.asking.json {
                printer.json(&line.text)?;
            }
        } else if arguments.asking.json {
            printer.json(&line.text)?;
        } else if let Some(chunk) = Chunk::of_event(&line) {
            chunk.print(&mut printer)?;
        }
    }
    Ok(Exit::Ok)
}

fn question(arguments: &Arguments, stream: Stream) -> Value {
    let mut question = json!({ "run": arguments.run, "output": stream.word() });
    if let Some(from) = arguments.from {
        question["offset"] = from.into();
    }
    if arguments.follow {
        question["follow"] = true.into();
    }
    question
}
