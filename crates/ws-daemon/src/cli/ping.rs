//! `ws-daemon ping`: how long the way to a peer's daemon and back takes, without a run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use ws_daemon_protocol::outcome::ErrorCode;

use super::clean::clean;
use super::conversation::{Asking, Line, command};
use super::exit::{Exit, Trouble};
use super::final_line;
use super::gather::Flags;
use super::printer::Printer;
use super::when::took;

/// What `ping` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if everyone answered, 69 if someone is not there or was never seen.

Examples:
  ws-daemon ping web-1
  ws-daemon ping 'tag:sms' --count 10
  ws-daemon ping")]
pub struct Arguments {
    /// Who: a name, 'web-*', tag:sms, '!name'; without it everyone.
    target: Option<String>,
    /// Ask so many times, one after the other.
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    #[command(flatten)]
    asking: Asking,
}

/// Asks, and sums up.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let mut pinging = Pinging { arguments, printer: Printer::new(Some(Exit::Ok)), times: BTreeMap::new(), failure: None };
    for _ in 0..arguments.count {
        pinging.once(flags)?;
    }
    if arguments.count > 1 && !arguments.asking.json {
        pinging.sum_up()?;
    }
    Ok(pinging.failure.unwrap_or(Exit::Ok))
}

struct Pinging<'a> {
    arguments: &'a Arguments,
    printer: Printer,
    /// How long it took, by peer.
    times: BTreeMap<String, Vec<Duration>>,
    failure: Option<Exit>,
}

impl Pinging<'_> {
    /// One round: a line for each peer, until `done` or the end.
    fn once(&mut self, flags: &Flags) -> Result<(), Trouble> {
        let mut conversation = self.arguments.asking.open(flags)?;
        let target = self.arguments.target.as_deref();
        conversation.say(&command("PING", &target.map_or(Value::Null, Value::from), "ws-daemon"))?;
        conversation.say_no_more()?;
        let mut answered = false;
        while let Some(line) = conversation.next()? {
            if self.arguments.asking.json {
                self.printer.json(&line.text)?;
            }
            if line.event() == Some("done") {
                if !answered {
                    self.failed("nobody is there who could answer", Exit::Unavailable);
                }
                return Ok(());
            }
            if line.event().is_none() {
                answered = true;
                self.take(&line)?;
            }
        }
        if answered { Ok(()) } else { Err(super::conversation::closed()) }
    }

    fn take(&mut self, line: &Line) -> Result<(), Trouble> {
        let report = line.report()?;
        let peer = clean(line.text("peer").or(self.arguments.target.as_deref()).unwrap_or("anyone"));
        if report.status != Some(0) {
            let exit = match report.error.as_deref().and_then(ErrorCode::from_word) {
                Some(_) => Exit::of_report(&report),
                None => Exit::Unavailable,
            };
            self.failed(&format!("{peer}: {}", final_line::ending(&report)), exit);
            return Ok(());
        }
        let time = Duration::from_micros(line.number("us").unwrap_or_default());
        if !self.arguments.asking.json {
            self.printer.line(format_args!("{peer}  {}", took(time)))?;
        }
        self.times.entry(peer).or_default().push(time);
        Ok(())
    }

    fn failed(&mut self, words: &str, exit: Exit) {
        self.failure.get_or_insert(exit);
        if !self.arguments.asking.json {
            self.printer.note(words);
        }
    }

    fn sum_up(&mut self) -> Result<(), Trouble> {
        for (peer, times) in &mut self.times {
            times.sort_unstable();
            let at = |index: usize| times.get(index).copied().map(took).unwrap_or_default();
            let (last, middle) = (times.len().saturating_sub(1), times.len() / 2);
            let [min, median, max] = [at(0), at(middle), at(last)];
            let answers = times.len();
            self.printer.line(format_args!("{peer}: {answers} answers, min {min}, median {median}, max {max}"))?;
        }
        Ok(())
    }
}
