//! The conversation with the daemon, as any process could have it: a connection to its socket, messages out, lines in. It
//! never knows what a line is for.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;
use ws_daemon_protocol::outcome::{ErrorCode, Report};

use super::exit::{Exit, Trouble};
use super::final_line;
use super::gather::Flags;
use super::printer::Printer;
use crate::local::socket_names;

/// The longest line that is read, 256 MiB; a longer one ends the command. What the daemon says is no longer than its messages.
const ANSWER_LINE_BYTES: u64 = 256 << 20;

/// The id of what is asked here, where the person gave none.
const ID: &str = "ws-daemon";

/// What every command that asks the daemon takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Asking {
    /// Print what came for programs: one JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// The daemon's socket; by default the one in the prefix, or the one a script was started by.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl Asking {
    /// Asks for one command and takes its one answer. A refusal is said, and is trouble.
    pub fn ask(&self, flags: &Flags, code: &str, data: &Value) -> Result<Line, Trouble> {
        let mut conversation = self.open(flags)?;
        conversation.say(&command(code, data, ID))?;
        conversation.say_no_more()?;
        let line = conversation.next()?.ok_or_else(closed)?;
        self.unless_refused(line, code)
    }

    /// A connection to the daemon.
    pub fn open(&self, flags: &Flags) -> Result<Conversation, Trouble> {
        Conversation::open(flags, self.socket.as_deref())
    }

    /// The line, unless it says that the daemon would not do it.
    pub fn unless_refused(&self, line: Line, code: &str) -> Result<Line, Trouble> {
        let report = line.report()?;
        // What is said of a run names it, or has no word for what went wrong here.
        let is_of_a_run = line.text("run").is_some() || code == "RUN" && report.error.is_none();
        if report.status == Some(0) || is_of_a_run {
            return Ok(line);
        }
        let exit = match report.error.as_deref().and_then(ErrorCode::from_word) {
            Some(ErrorCode::UnknownTarget) if matches!(code, "RUN" | "CANCEL") => Exit::NoSuchRun,
            _ => Exit::of_report(&report),
        };
        // A status that is no script's: 7 from a daemon that was only to list something.
        let exit = if matches!(exit, Exit::Script(_)) { Exit::Failed } else { exit };
        if self.json {
            Printer::new(None).json(&line.text)?;
            return Err(Trouble::said_already(exit));
        }
        let words = final_line::words(&report).unwrap_or_else(|| format!("the daemon answered {:?}", report.status));
        Err(Trouble::new(exit, words))
    }
}

/// What a command looks like.
#[must_use]
pub fn command(code: &str, data: &Value, id: &str) -> String {
    let mut params = serde_json::json!({ "code": code });
    if !data.is_null() {
        params["data"] = data.clone();
    }
    serde_json::json!({ "name": "+cmd", "id": id, "params": params }).to_string()
}

/// The daemon has closed the connection and owes an answer.
pub fn closed() -> Trouble {
    Trouble::new(Exit::Unavailable, "the daemon closed the connection without an answer")
}

/// An open connection.
#[derive(Debug)]
pub struct Conversation {
    reader: BufReader<UnixStream>,
}

impl Conversation {
    /// Connects to the socket that was named, to the one a script was started by, or to the one in the prefix.
    pub fn open(flags: &Flags, named: Option<&Path>) -> Result<Self, Trouble> {
        Ok(Self { reader: BufReader::new(connect(flags, named)?) })
    }

    /// Sends a message.
    pub fn say(&mut self, message: &str) -> Result<(), Trouble> {
        self.reader.get_mut().write_all(message.as_bytes()).map_err(|error| went_away(&error))
    }

    /// Nothing more will be said: the daemon closes once everything is answered.
    pub fn say_no_more(&mut self) -> Result<(), Trouble> {
        self.reader.get_ref().shutdown(std::net::Shutdown::Write).map_err(|error| went_away(&error))
    }

    /// The next line, or `None` when the daemon has closed.
    pub fn next(&mut self) -> Result<Option<Line>, Trouble> {
        let mut bytes = Vec::new();
        (&mut self.reader).take(ANSWER_LINE_BYTES).read_until(b'\n', &mut bytes).map_err(|error| went_away(&error))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let strange = |what: &dyn std::fmt::Display| {
            let begin: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            Trouble::new(Exit::Failed, format_args!("the daemon's answer is not understood: {what}: {begin:?}"))
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| strange(&error))?.trim_end();
        let value: Value = serde_json::from_str(text).map_err(|error| strange(&error))?;
        if !value.is_object() {
            return Err(strange(&"it is no object"));
        }
        let text = text.to_owned();
        Ok(Some(Line { text, value }))
    }
}

fn went_away(error: &std::io::Error) -> Trouble {
    Trouble::new(Exit::Interrupted, format_args!("the daemon went away before it answered: {error}"))
}

/// What the daemon said: an event, an answer, a final line. Keys that are missing are not there, and no fault.
#[derive(Debug)]
pub struct Line {
    /// As it came, without its newline.
    pub text: String,
    /// What it says.
    pub value: Value,
}

impl Line {
    /// The word of an event; none for answers and final lines.
    #[must_use]
    pub fn event(&self) -> Option<&str> {
        self.text("event")
    }

    /// The text under a key.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        text(&self.value, key)
    }

    /// The number under a key.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.value.get(key)?.as_u64()
    }

    /// The line as an outcome.
    pub fn report(&self) -> Result<Report, Trouble> {
        report(&self.value).ok_or_else(|| {
            let shown: String = self.text.chars().take(200).collect();
            Trouble::new(Exit::Failed, format_args!("the daemon's answer is not understood: {shown:?}"))
        })
    }

    /// The value under `result`, as it was written.
    #[must_use]
    pub fn result(&self) -> Option<Box<RawValue>> {
        #[derive(serde::Deserialize)]
        struct Written {
            #[serde(default, deserialize_with = "also_null")]
            result: Option<Box<RawValue>>,
        }
        serde_json::from_str::<Written>(&self.text).ok()?.result
    }

    /// The records under `result`: each as it was written and as it is meant.
    #[must_use]
    pub fn records(&self) -> Vec<(Box<RawValue>, Value)> {
        let list: Vec<Box<RawValue>> =
            self.result().and_then(|result| serde_json::from_str(result.get()).ok()).unwrap_or_default();
        list.into_iter().filter_map(|raw| serde_json::from_str(raw.get()).ok().map(|value| (raw, value))).collect()
    }
}

/// A `result` that is `null` is one.
fn also_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// The text under a key of a record.
#[must_use]
pub fn text<'a>(record: &'a Value, key: &str) -> Option<&'a str> {
    record.get(key)?.as_str()
}

/// A record as an outcome, if it has a status.
#[must_use]
pub fn report(record: &Value) -> Option<Report> {
    record.get("status")?;
    serde_json::from_value(record.clone()).ok()
}

/// A connection to the daemon: at the socket that was `named`, at the one a script was started by, or in the prefix.
pub fn connect(flags: &Flags, named: Option<&Path>) -> Result<UnixStream, Trouble> {
    let (prefix, _) = flags.prefix();
    let named = named.map(Path::to_owned).or_else(|| std::env::var_os("WSDAEMON_SOCKET").map(PathBuf::from));
    if let Some(path) = named {
        return UnixStream::connect(&path).map_err(|error| no_daemon(&path, &error));
    }
    let first = prefix.join("ws-daemon.sock");
    match UnixStream::connect(&first) {
        Ok(stream) => Ok(stream),
        // Further daemons in one prefix have numbers.
        Err(error) => {
            let mut others = socket_names(&prefix).skip(1).take_while(|path| path.exists());
            others.find_map(|path| UnixStream::connect(path).ok()).ok_or_else(|| nor_could_be(flags, &first, &error))
        }
    }
}

/// Where no daemon is because none could start, that is the thing to say.
fn nor_could_be(flags: &Flags, path: &Path, error: &std::io::Error) -> Trouble {
    let is_down = matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused);
    match flags.settings() {
        Err(trouble) if is_down => {
            let said = format!("no daemon answers at {}, and none would start: {}", path.display(), trouble.said());
            Trouble::new(trouble.exit(), said)
        }
        _ => no_daemon(path, error),
    }
}

fn no_daemon(path: &Path, error: &std::io::Error) -> Trouble {
    let advice = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "you may not use it: run this as the daemon's user, or set \"socket_group\"",
        _ => "start it with: ws-daemon run, or name its folder with --prefix",
    };
    Trouble::new(Exit::Unavailable, format_args!("no daemon answers at {}: {error}; {advice}", path.display()))
}

/// Sends all there is to say and returns the first line that comes back, empty if none does.
pub fn converse(mut stream: UnixStream, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut line = String::new();
    BufReader::new(stream).take(ANSWER_LINE_BYTES).read_line(&mut line)?;
    Ok(line)
}
