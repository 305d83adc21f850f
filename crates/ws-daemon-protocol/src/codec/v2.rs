//! The frames of a version 2 link, in and out: the seed's grammar, with more keys beside `name`, `id` and `params`, and more codes
//! of `&cmd`. Keys that it does not know are passed over, since a newer minor version may say them; params are never touched. It
//! never decides what a frame is good for.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::framer::check_whole;
use crate::command::{Command, Place, StreamName, fault};
use crate::event::Chunk;
use crate::id::{CALLER_ID_BYTES, CallerId, RunId};
use crate::message::{CommandMessage, Params};
use crate::options::{OutputMode, Route};
use crate::outcome::{ErrorCode, Outcome, Report};
use crate::target::Target;

/// The version of the link that this module speaks, as it stands in the header.
pub const VERSION: &str = "2";

/// The header of the handshake that says which versions a client can speak, and which of them the server has chosen.
pub const HEADER: &str = "ws-daemon";

/// Characters of a peer's name, and of a tag; a HELLO with a longer one is refused.
pub const NAME_CHARS: usize = 128;

/// Tags of one peer; a HELLO with more is refused.
pub const TAGS: usize = 64;

/// Features, and lost instances, in one HELLO; what goes beyond is passed over.
pub const LISTED: usize = 256;

/// Bytes of an instance or a run's id; a frame with a longer one is refused.
pub const ID_BYTES: usize = 64;

/// What one OUTPUT frame takes of the credit at least, in bytes.
pub const OUTPUT_COST_BYTES: u64 = 64;

/// The version to speak, of those that a client offers, separated by commas; `None` if none of them is known here.
#[must_use]
pub fn choose(offered: &str) -> Option<&'static str> {
    offered.split(',').any(|version| version.trim() == VERSION).then_some(VERSION)
}

/// One frame of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A run is asked for.
    Run(Box<RunFrame>),
    /// Who the peer is: the first frame of a link.
    Hello(Box<Hello>),
    /// How a run, or a command, ended.
    Status(Box<StatusFrame>),
    /// How far a run has come.
    Event(RunId, Progress),
    /// Part of what a script printed.
    Output(Box<Chunk>),
    /// That many more bytes of output of a run may be sent.
    Credit(RunId, u64),
    /// A run is to be stopped, or, unless its attempt was claimed, never to be started.
    Cancel(RunId, Option<u32>),
    /// The outcome of an attempt is on the asker's disk.
    Ack(RunId, u32),
    /// The peer wants no more new work.
    Drain,
    /// The peer wants to know that this daemon lives.
    Ping(CallerId),
    /// A command that local processes may give as well.
    Command(CommandMessage),
    /// A status that a local process of the peer said: it settles nothing.
    LocalStatus(Box<str>),
}

/// A run that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFrame {
    /// The script's name.
    pub name: String,
    /// The run.
    pub run: RunId,
    /// What the script gets.
    pub params: Params,
    /// How it is to be run.
    pub order: Order,
}

/// How a run is to be run: what a frame has beside the seed's three keys. The default is nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// The caller's id, for the script to see.
    pub caller: Option<CallerId>,
    /// After how many milliseconds it is stopped.
    pub timeout_ms: Option<u64>,
    /// What becomes of its output.
    pub output: OutputMode,
    /// Whether its delivery and its start are told.
    pub events: bool,
    /// How many bytes of output may be sent before more credit is given.
    pub credit: u64,
    /// Whether it is kept on disk.
    pub queue: bool,
    /// Which attempt this is, from 1; 0 without `queue`.
    pub attempt: u32,
    /// How much of its output the asker has already.
    pub have: Option<Have>,
    /// Who else is to run it: for a server to pass on.
    pub hop: Option<Box<Hop>>,
}

impl Order {
    /// What the order costs in memory beyond its fixed size, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        self.caller.as_ref().map_or(0, |caller| caller.as_json().len()) + self.hop.as_ref().map_or(0, |_| size_of::<Hop>())
    }
}

/// The offsets up to which the asker has the output of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Of standard output, in bytes.
    #[serde(default)]
    pub stdout: u64,
    /// Of standard error, in bytes.
    #[serde(default)]
    pub stderr: u64,
}

/// Who else is to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Who may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Target>,
    /// Which of them.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub route: Route,
}

fn is_usual(route: &Route) -> bool {
    *route == Route::default()
}

/// Who a daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it is called.
    pub name: String,
    /// Whether someone chose that name.
    #[serde(default)]
    pub configured: bool,
    /// The id that was made with its spool.
    pub instance: String,
    /// How often it has dialled, or started.
    pub epoch: u64,
    /// Of the program.
    #[serde(default)]
    pub version: String,
    /// More names.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Runs at once; 0 if it does not say.
    #[serde(default)]
    pub capacity: u64,
    /// What it can do.
    #[serde(default)]
    pub features: Vec<String>,
    /// The instances it was before its spool was lost.
    #[serde(default)]
    pub former: Vec<String>,
}

/// How a run ended, and what that means for its attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusFrame {
    /// The run, or what a command was asked under.
    pub run: RunId,
    /// What it means for the attempt.
    pub verdict: Verdict,
    /// How it ended.
    pub report: Report,
}

/// What a status means for the attempt that it is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Which attempt; `None` for a direct run.
    pub attempt: Option<u32>,
    /// Whether the doer durably never claimed it and refuses it from now on.
    pub refused: bool,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The doer has it.
    Delivered,
    /// Its script has been started.
    Started,
}

impl Chunk {
    /// What it takes of the credit, in bytes.
    #[must_use]
    pub fn cost(&self) -> u64 {
        (self.data.len() as u64).max(OUTPUT_COST_BYTES)
    }

    /// How many bytes of the stream it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        if !self.is_base64 {
            return self.data.len() as u64;
        }
        let padding = self.data.bytes().rev().take_while(|byte| *byte == b'=').count();
        (self.data.len() / 4 * 3).saturating_sub(padding) as u64
    }
}

/// A frame that cannot be taken. With an id there is someone to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct Refused {
    /// The id to answer under.
    pub id: Option<CallerId>,
    /// Always a failed outcome of status -3.
    pub outcome: Outcome,
}

impl Refused {
    fn of(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { id: None, outcome: Outcome::failed(code, message) }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::of(ErrorCode::BadMessage, message)
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn words(&self) -> &str {
        match &self.outcome {
            Outcome::Failed(_, words) | Outcome::Stopped(_, words, _) => words,
            Outcome::Exited(_) | Outcome::Signaled(_) => "",
        }
    }

    fn under(self, id: Option<&CallerId>) -> Self {
        Self { id: id.cloned(), ..self }
    }
}

/// The keys of a frame.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    caller: Option<&'a RawValue>,
    #[serde(default)]
    timeout: Option<u64>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(default)]
    events: bool,
    #[serde(default)]
    credit: u64,
    #[serde(default)]
    queue: bool,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    have: Option<Have>,
    #[serde(default)]
    hop: Option<Box<Hop>>,
    /// A local process of the peer said it: then it is no word of the peer's daemon.
    #[serde(default)]
    local: bool,
}

/// An id that is `null` is an id like any other; only an absent one is none.
fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// The params of a command.
#[derive(Deserialize)]
struct Code<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// The data of most commands between daemons.
#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default)]
    attempt: Option<u32>,
    #[serde(default)]
    refused: bool,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(default)]
    bytes: u64,
}

#[derive(Deserialize)]
struct OutputData {
    id: String,
    stream: StreamName,
    offset: u64,
    data: String,
    #[serde(default)]
    encoding: Option<String>,
    #[serde(default)]
    gap: u64,
}

/// Reads a frame nested at most `nesting` levels.
///
/// # Errors
/// Why it cannot be taken, and under which id to say so.
pub fn decode(text: &str, nesting: usize) -> Result<Frame, Refused> {
    check_whole(text, nesting).map_err(|error| Refused::bad(error.to_string()))?;
    let written: Written = serde_json::from_str(text).map_err(|error| Refused::bad(fault(&error)))?;
    let id = caller_id(written.id)?;
    match Place::of_name(&written.name) {
        None => run_frame(written, id.as_ref()),
        Some(Place::Here) => Err(Refused::bad("+cmd is for local processes; a peer says &cmd").under(id.as_ref())),
        Some(Place::There) => {
            let params = written.params.map_or("null", RawValue::get);
            let code: Code = serde_json::from_str(params).map_err(|error| Refused::bad(fault(&error)).under(id.as_ref()))?;
            let data = code.data.map_or("null", RawValue::get);
            let code = code.code.to_ascii_uppercase();
            // What a local process says is no word of its daemon, except that anyone may ask for a sign of life.
            let is_daemons = !written.local || code == "PING";
            let frame = if is_daemons { between_daemons(&code, data, id.as_ref()) } else { None };
            frame.unwrap_or_else(|| command_frame(&code, written.params, id.as_ref()))
        }
    }
}

fn caller_id(raw: Option<&RawValue>) -> Result<Option<CallerId>, Refused> {
    let too_long = || Refused::bad(format!("the id is longer than {CALLER_ID_BYTES} bytes"));
    raw.map(|raw| CallerId::new(raw).ok_or_else(too_long)).transpose()
}

fn run_frame(written: Written<'_>, id: Option<&CallerId>) -> Result<Frame, Refused> {
    let run = written.id.and_then(|raw| serde_json::from_str::<Cow<'_, str>>(raw.get()).ok());
    let run = run_id(&run.ok_or_else(|| Refused::bad("a run needs an id").under(id))?).map_err(|refused| refused.under(id))?;
    let output = match written.output {
        None => OutputMode::None,
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| {
            let shown: String = raw.get().chars().take(40).collect();
            Refused::of(ErrorCode::Unsupported, format!("this daemon knows no output {shown}")).under(id)
        })?,
    };
    let order = Order {
        caller: caller_id(written.caller).map_err(|refused| refused.under(id))?,
        timeout_ms: written.timeout,
        output,
        events: written.events,
        credit: written.credit,
        queue: written.queue,
        attempt: if written.queue { written.attempt.max(1) } else { 0 },
        have: written.have,
        hop: written.hop,
    };
    let params = Params::new(written.params);
    Ok(Frame::Run(Box::new(RunFrame { name: written.name.into_owned(), run, params, order })))
}

/// A run's id goes back as it came, unescaped: it may hold nothing that would need to be.
fn run_id(text: &str) -> Result<RunId, Refused> {
    let plain =
        !text.is_empty() && text.len() <= ID_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain { Ok(RunId::new(text)) } else { Err(Refused::bad("a run's id is a UUID")) }
}

/// The codes that only daemons say; `None` if it is none of them.
fn between_daemons(code: &str, data: &str, id: Option<&CallerId>) -> Option<Result<Frame, Refused>> {
    let frame = match code {
        "HELLO" => hello_frame(data),
        "STATUS" => status_frame(data),
        "EVENT" => event_frame(data),
        "OUTPUT" => output_frame(data),
        "CREDIT" => of_run(data).map(|(run, data)| Frame::Credit(run, data.bytes)),
        "CANCEL" => of_run(data).map(|(run, data)| Frame::Cancel(run, data.attempt)),
        "ACK" => of_run(data).map(|(run, data)| Frame::Ack(run, data.attempt.unwrap_or_default())),
        "DRAIN" => Ok(Frame::Drain),
        "PING" => id.map(|id| Frame::Ping(id.clone())).ok_or_else(|| Refused::bad("a PING without an id asks for nothing")),
        _ => return None,
    };
    Some(frame.map_err(|refused| refused.under(id)))
}

fn parse<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, Refused> {
    serde_json::from_str(data).map_err(|error| Refused::bad(fault(&error)))
}

fn of_run(data: &str) -> Result<(RunId, Data<'_>), Refused> {
    let data: Data = parse(data)?;
    Ok((run_id(&data.id)?, data))
}

fn hello_frame(data: &str) -> Result<Frame, Refused> {
    let mut hello: Hello = parse(data)?;
    hello.features.truncate(LISTED);
    hello.former.truncate(LISTED);
    let plain = |text: &str| {
        !text.is_empty() && text.chars().take(NAME_CHARS + 1).count() <= NAME_CHARS && !text.chars().any(char::is_control)
    };
    if !plain(&hello.name) {
        return Err(Refused::bad(format!("a peer's name has 1 to {NAME_CHARS} characters and no control characters")));
    }
    if hello.tags.len() > TAGS || !hello.tags.iter().all(|tag| plain(tag)) {
        return Err(Refused::bad(format!("a peer has at most {TAGS} tags of 1 to {NAME_CHARS} characters")));
    }
    run_id(&hello.instance).map_err(|_| Refused::bad("a peer's instance is a UUID"))?;
    Ok(Frame::Hello(Box::new(hello)))
}

fn status_frame(data: &str) -> Result<Frame, Refused> {
    let (run, head) = of_run(data)?;
    let report = Report::parse(data).map_err(|error| Refused::bad(fault(&error)))?;
    let verdict = Verdict { attempt: head.attempt, refused: head.refused };
    Ok(Frame::Status(Box::new(StatusFrame { run, verdict, report })))
}

fn event_frame(data: &str) -> Result<Frame, Refused> {
    let (run, data) = of_run(data)?;
    match data.event.as_deref() {
        Some("delivered") => Ok(Frame::Event(run, Progress::Delivered)),
        Some("started") => Ok(Frame::Event(run, Progress::Started)),
        _ => Err(Refused::of(ErrorCode::Unsupported, "this daemon does not know this event")),
    }
}

fn output_frame(data: &str) -> Result<Frame, Refused> {
    let OutputData { id, stream, offset, data, encoding, gap } = parse(data)?;
    let is_base64 = match encoding.as_deref() {
        None => false,
        Some("base64") => true,
        Some(_) => return Err(Refused::of(ErrorCode::Unsupported, "this daemon does not know this encoding")),
    };
    Ok(Frame::Output(Box::new(Chunk { run: run_id(&id)?, stream, offset, data, is_base64, gap })))
}

/// A command that local processes may give as well.
fn command_frame(code: &str, params: Option<&RawValue>, id: Option<&CallerId>) -> Result<Frame, Refused> {
    let params = Params::new(params);
    let command = match code {
        "PEERS" => Ok(Command::Peers),
        _ => Command::parse_seed(params.as_written()),
    };
    match command {
        Ok(Command::Status(data)) => Ok(Frame::LocalStatus(data)),
        Ok(command) => Ok(Frame::Command(CommandMessage { place: Place::There, command, id: id.cloned(), params })),
        Err(outcome) => Err(Refused { id: id.cloned(), outcome }),
    }
}

/// The frame that asks for a run.
#[must_use]
pub fn run(name: &str, run: &RunId, params: &Params, order: &Order) -> String {
    let params = params.as_written();
    let mut frame = String::with_capacity(name.len() + params.len() + 160);
    frame.push_str("{\"name\":");
    frame.push_str(&json(name));
    frame.push_str(",\"id\":\"");
    frame.push_str(&run.to_string());
    frame.push_str("\",\"params\":");
    frame.push_str(params);
    if let Some(caller) = &order.caller {
        frame.push_str(",\"caller\":");
        frame.push_str(caller.as_json());
    }
    if let Some(timeout) = order.timeout_ms {
        frame.push_str(&format!(",\"timeout\":{timeout}"));
    }
    if order.output != OutputMode::None {
        frame.push_str(&format!(",\"output\":{}", json(&order.output)));
    }
    if order.events {
        frame.push_str(",\"events\":true");
    }
    if order.credit > 0 {
        frame.push_str(&format!(",\"credit\":{}", order.credit));
    }
    if order.queue {
        frame.push_str(&format!(",\"queue\":true,\"attempt\":{}", order.attempt));
    }
    if let Some(have) = &order.have {
        frame.push_str(&format!(",\"have\":{}", json(have)));
    }
    if let Some(hop) = &order.hop {
        frame.push_str(&format!(",\"hop\":{}", json(hop)));
    }
    frame.push('}');
    frame
}

/// The frame that passes on a command of a local process, its params as they were written.
#[must_use]
pub fn local_command(id: Option<&RunId>, params: &Params) -> String {
    let params = params.as_written();
    match id {
        Some(id) => format!("{{\"name\":\"&cmd\",\"id\":\"{id}\",\"params\":{params},\"local\":true}}"),
        None => format!("{{\"name\":\"&cmd\",\"params\":{params},\"local\":true}}"),
    }
}

/// The frame that says who this daemon is.
#[must_use]
pub fn hello(hello: &Hello) -> String {
    daemon_command("HELLO", &json(hello))
}

/// The frame that brings an outcome home, under the id that it was asked with.
#[must_use]
pub fn status(id: &CallerId, verdict: Verdict, report: &Report) -> String {
    let mut data = report.to_json(Some(id));
    if verdict != Verdict::default() {
        data.pop();
        if let Some(attempt) = verdict.attempt {
            data.push_str(&format!(",\"attempt\":{attempt}"));
        }
        if verdict.refused {
            data.push_str(",\"refused\":true");
        }
        data.push('}');
    }
    daemon_command("STATUS", &data)
}

/// The frame that says how far a run has come.
#[must_use]
pub fn event(run: &RunId, progress: Progress) -> String {
    let event = match progress {
        Progress::Delivered => "delivered",
        Progress::Started => "started",
    };
    daemon_command("EVENT", &format!("{{\"id\":\"{run}\",\"event\":\"{event}\"}}"))
}

/// The frame that brings output.
#[must_use]
pub fn output(frame: &Chunk) -> String {
    let Chunk { run, stream, offset, data, is_base64, gap } = frame;
    let encoding = if *is_base64 { ",\"encoding\":\"base64\"" } else { "" };
    let gap = if *gap > 0 { format!(",\"gap\":{gap}") } else { String::new() };
    let (stream, data) = (stream.word(), json(data));
    daemon_command(
        "OUTPUT",
        &format!("{{\"id\":\"{run}\",\"stream\":\"{stream}\",\"offset\":{offset},\"data\":{data}{encoding}{gap}}}"),
    )
}

/// The frame that allows so many more bytes of output.
#[must_use]
pub fn credit(run: &RunId, bytes: u64) -> String {
    daemon_command("CREDIT", &format!("{{\"id\":\"{run}\",\"bytes\":{bytes}}}"))
}

/// The frame that stops a run, or one attempt of it.
#[must_use]
pub fn cancel(run: &RunId, attempt: Option<u32>) -> String {
    let attempt = attempt.map_or(String::new(), |attempt| format!(",\"attempt\":{attempt}"));
    daemon_command("CANCEL", &format!("{{\"id\":\"{run}\"{attempt}}}"))
}

/// The frame that lets the doer forget an outcome.
#[must_use]
pub fn ack(run: &RunId, attempt: u32) -> String {
    daemon_command("ACK", &format!("{{\"id\":\"{run}\",\"attempt\":{attempt}}}"))
}

/// The frame that asks for no more new work.
#[must_use]
pub fn drain() -> String {
    daemon_command("DRAIN", "null")
}

/// The frame that asks whether the daemon at the other end lives.
#[must_use]
pub fn ping(id: &RunId) -> String {
    format!("{{\"name\":\"&cmd\",\"id\":\"{id}\",\"params\":{{\"code\":\"PING\"}}}}")
}

fn daemon_command(code: &str, data: &str) -> String {
    let mut frame = String::with_capacity(code.len() + data.len() + 48);
    for part in ["{\"name\":\"&cmd\",\"params\":{\"code\":\"", code, "\",\"data\":", data, "}}"] {
        frame.push_str(part);
    }
    frame
}

/// What is written here has no keys that are not text and no numbers that are none: it cannot fail.
fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
