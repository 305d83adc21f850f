//! `ws-daemon exec`: one request to the running daemon, as any process could make it. It waits for what becomes of it and exits
//! with the script's status. It stops nothing: who ends it by Ctrl-C leaves a run that has started to its peer.

mod answers;
mod request;

use std::time::Duration;

use clap::ValueEnum;
use ws_daemon_protocol::time::parse as time;

use super::conversation::Asking;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use answers::Answers;

/// What `exec` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXITS)]
pub struct Arguments {
    /// The script's name on the peer, as it stands in scripts/ there.
    name: String,
    /// The params: any JSON, or - to read it from stdin.
    params: Option<String>,
    /// An id for the request, which the script finds in WSDAEMON_ID.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Who may run it: a name, 'web-*', tag:sms, '!name'; give it several times for any of several.
    #[arg(long, value_name = "TARGET")]
    to: Vec<String>,
    /// Every peer that matches runs it, not one of them.
    #[arg(long)]
    each: bool,
    /// With --each: so many at a time.
    #[arg(long, value_name = "N", requires = "each", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// With --each: begin nothing more once so many have failed.
    #[arg(long, value_name = "N", requires = "each", value_parser = clap::value_parser!(u32).range(1..))]
    max_failures: Option<u32>,
    /// Which of those that may: round-robin, least-busy, or sticky:KEY (the same KEY goes to the same peer).
    #[arg(long, value_name = "ROUTE", value_parser = request::route)]
    route: Option<request::Route>,
    /// Stop the script after so long, like 30s.
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
    /// Keep the request on disk until it is done, across restarts of both daemons.
    #[arg(long)]
    queue: bool,
    /// Forget it if it could not begin for so long, like 1h; implies --queue.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ttl: Option<Duration>,
    /// Begin it so long from now at the earliest, like 10m; implies --queue.
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_before: Option<Duration>,
    /// Return once it is on disk and print the run's id; implies --queue. Then: ws-daemon wait RUN.
    #[arg(long, conflicts_with_all = ["follow", "output"])]
    detach: bool,
    /// Run it again up to N times where nobody knows whether it ran; without this it never runs twice.
    #[arg(long, value_name = "N")]
    retry: Option<u32>,
    /// A script here that gets the outcome as its params, also if nobody waits any more.
    #[arg(long, value_name = "SCRIPT")]
    then: Option<String>,
    /// Print what the script prints as it comes, stdout to stdout and stderr to stderr.
    #[arg(long, short, conflicts_with = "output")]
    follow: bool,
    /// What to print at the end: nothing, the output's head and tail, or the JSON value that the script printed.
    #[arg(long, value_name = "WHAT")]
    output: Option<Output>,
    #[command(flatten)]
    asking: Asking,
}

/// What is wanted of what the script prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    None,
    Tail,
    Json,
}

const EXITS: &str = "\
Exit status: the script's own, 128+N if signal N killed it, or
   65  the request is wrong, or what    74  nobody knows: it may have run
       should be JSON is none           75  too busy, try again later
   69  no peer, or no daemon            78  the settings are wrong
   77  not allowed                     125  a daemon stopped it
  124  it took too long                127  there is no such script
  126  the script cannot be executed
With --each: 0 if every run exited with 0, else as the first that failed.
With --follow: 141 if whoever reads stdout is gone before the script ends.
Ctrl-C ends the waiting (130) and nothing else: a run that has begun goes on.

Examples:
  ws-daemon exec hello '{\"who\":\"world\"}'
  date +%s | ws-daemon exec sms/send -
  ws-daemon exec backup --timeout 2h --follow
  ws-daemon exec update --to 'web-*' --each --batch 5 --max-failures 2
  ws-daemon exec sms/send '{\"to\":\"+49…\"}' --to tag:sms --ttl 1h --detach";

/// Asks and waits.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    if arguments.each && arguments.follow && !arguments.asking.json {
        let said = "--follow with --each would mix what many print: use --output tail, or --json to tell them apart";
        return Err(Trouble::new(Exit::Usage, said));
    }
    let request = request::written(arguments)?;
    let mut conversation = arguments.asking.open(flags)?;
    conversation.say(&request)?;
    let mut answers = Answers::new(arguments);
    loop {
        match conversation.next().map_err(|trouble| answers.cut_off(trouble))? {
            Some(line) => {
                if let Some(exit) = answers.take(&line)? {
                    return Ok(exit);
                }
            }
            None => return Err(answers.cut_off(closed())),
        }
    }
}

fn closed() -> Trouble {
    Trouble::new(Exit::Interrupted, "the daemon closed the connection without an answer; the script may have run")
}
