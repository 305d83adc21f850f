//! What comes back for a request: `accepted`, events, output, final lines, `done`. It shows each to a person or passes it on
//! to a program, and says when that was all. With `each` there is a final line a run and `done` after the last; a final line
//! without a `run` is then a refusal of the whole request, and the last.

use super::{Arguments, Output};
use crate::cli::clean::clean;
use crate::cli::conversation::Line;
use crate::cli::exit::{Exit, Trouble};
use crate::cli::final_line::{self, Chunk};
use crate::cli::printer::{Printer, Stream};

/// `128 + SIGPIPE`: what a program in a pipe ends with when its reader is gone.
const READER_GONE: Exit = Exit::Script(141);

/// What has come so far.
pub struct Answers<'a> {
    arguments: &'a Arguments,
    printer: Printer,
    /// The run that is on the daemon's disk.
    accepted: Option<String>,
    /// How many runs there will be, where the daemon has said so.
    runs: Option<u64>,
    done: u64,
    failed: u64,
    first_failure: Option<Exit>,
}

impl<'a> Answers<'a> {
    pub fn new(arguments: &'a Arguments) -> Self {
        let printer = Printer::new(arguments.follow.then_some(READER_GONE));
        Self { arguments, printer, accepted: None, runs: None, done: 0, failed: 0, first_failure: None }
    }

    /// Takes a line; the exit code if it was the last.
    pub fn take(&mut self, line: &Line) -> Result<Option<Exit>, Trouble> {
        let is_json = self.arguments.asking.json;
        if is_json {
            self.printer.json(&line.text)?;
        }
        let last = match line.event() {
            Some("accepted") => self.accepted(line)?,
            Some("output") => {
                if let Some(chunk) = Chunk::of_event(line).filter(|_| !is_json) {
                    chunk.print(&mut self.printer)?;
                }
                None
            }
            Some("done") => Some(self.all_done(line)),
            // More of the life of a run than a person wants to see.
            Some(_) => None,
            None => self.final_line(line)?,
        };
        if self.arguments.each && last.is_none() && !is_json {
            self.show_progress();
        }
        Ok(last)
    }

    /// What to say when the daemon ends before it has said all.
    pub fn cut_off(&self, trouble: Trouble) -> Trouble {
        match &self.accepted {
            Some(run) if trouble.exit() == Exit::Interrupted => {
                let said = "the daemon went away; the request is on its disk. Once it is back: ws-daemon wait";
                Trouble::new(Exit::Interrupted, format_args!("{said} {run}"))
            }
            _ => trouble,
        }
    }

    fn accepted(&mut self, line: &Line) -> Result<Option<Exit>, Trouble> {
        let run = clean(line.text("run").unwrap_or_default());
        self.runs = line.number("runs").or(self.runs);
        let arguments = self.arguments;
        if !arguments.asking.json {
            if arguments.detach {
                self.printer.line(&run)?;
            } else if arguments.is_queued() {
                self.printer.note(format_args!("accepted as {run}"));
            }
            if let Some(nearest) = line.text("nearest") {
                self.printer.note(format_args!("no peer of that name was ever seen; did you mean {}?", clean(nearest)));
            }
            if let Some(message) = line.text("message") {
                self.printer.note(clean(message));
            }
        }
        self.accepted = Some(run).filter(|run| arguments.is_queued() && !run.is_empty());
        Ok(arguments.detach.then_some(Exit::Ok))
    }

    fn final_line(&mut self, line: &Line) -> Result<Option<Exit>, Trouble> {
        let report = line.report()?;
        let exit = Exit::of_report(&report);
        let is_of_many = self.arguments.each && line.text("run").is_some();
        if !is_of_many {
            return self.only_final_line(line, exit).map(Some);
        }
        self.done += 1;
        let peer = clean(line.text("peer").or(line.text("run")).unwrap_or_default());
        self.print_of_many(line, &peer)?;
        if exit != Exit::Script(0) {
            self.failed += 1;
            self.first_failure.get_or_insert(exit);
            if !self.arguments.asking.json {
                self.printer.note(format_args!("{peer}: {}", final_line::ending(&report)));
            }
        }
        Ok(None)
    }

    fn only_final_line(&mut self, line: &Line, exit: Exit) -> Result<Exit, Trouble> {
        if self.arguments.asking.json {
            return Ok(exit);
        }
        let mut exit = exit;
        if let (Some(Output::Json), Some(result)) = (self.arguments.output, line.result()) {
            self.printer.json(result.get())?;
        } else {
            for chunk in self.printed(line) {
                chunk.print(&mut self.printer)?;
            }
            if self.arguments.output == Some(Output::Json) && exit == Exit::Script(0) {
                let why = line.text("message").map_or("there is no result".to_owned(), clean);
                self.printer.note(format_args!("{}: {why}", self.arguments.name.escape_debug()));
                exit = Exit::BadMessage;
            }
        }
        if let Some(words) = final_line::words(&line.report()?) {
            self.printer.note(format_args!("{}: {words}", self.arguments.name.escape_debug()));
        }
        Ok(exit)
    }

    /// What one of many printed, each line under the peer's name, or its result beside it.
    fn print_of_many(&mut self, line: &Line, peer: &str) -> Result<(), Trouble> {
        if self.arguments.asking.json {
            return Ok(());
        }
        if let (Some(Output::Json), Some(result)) = (self.arguments.output, line.result()) {
            let peer = serde_json::Value::from(line.text("peer"));
            return self.printer.json(&format!("{{\"peer\":{peer},\"result\":{result}}}"));
        }
        for Chunk { stream, bytes, gap } in self.printed(line) {
            if gap > 0 {
                self.printer.note(format_args!("{peer}: {gap} bytes of {} are missing here", stream.word()));
            }
            for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                self.printer.output(stream, &[peer.as_bytes(), b" | ", part, b"\n"].concat())?;
            }
        }
        Ok(())
    }

    /// What came with a final line, if it was asked for.
    fn printed(&self, line: &Line) -> Vec<Chunk> {
        match self.arguments.output {
            None | Some(Output::None) => Vec::new(),
            Some(Output::Tail | Output::Json) => {
                [Stream::Out, Stream::Err].into_iter().flat_map(|stream| final_line::printed(&line.value, stream)).collect()
            }
        }
    }

    fn all_done(&mut self, line: &Line) -> Exit {
        let runs = line.number("runs").unwrap_or(self.done);
        let failed = line.number("failed").unwrap_or(self.failed).max(self.failed);
        if !self.arguments.asking.json {
            self.printer.note(format_args!("{runs} done, {failed} failed"));
        }
        match self.first_failure {
            Some(exit) => exit,
            // Some were never begun.
            None if failed > 0 => Exit::Failed,
            None if runs == 0 => Exit::Unavailable,
            None => Exit::Ok,
        }
    }

    fn show_progress(&mut self) {
        let of = self.runs.map_or(String::new(), |runs| format!("/{runs}"));
        self.printer.progress(&format!("{}{of} done, {} failed", self.done, self.failed));
    }
}

impl Arguments {
    fn is_queued(&self) -> bool {
        self.queue || self.detach || self.ttl.is_some() || self.not_before.is_some()
    }
}
