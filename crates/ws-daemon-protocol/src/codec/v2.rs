//! The frames of a version 2 link, in and out: the seed's grammar, with more keys beside `name`, `id` and `params`, and more codes
//! of `&cmd`. Keys that it does not know are passed over, since a newer minor version may say them; params are never touched. It
//! never decides what a frame is good for.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::framer::check_whole;
use crate::command::{Command, Place, StreamName, fault};
use crate::event::Chunk;
use crate::id::{CALLER_ID_BYTES, CallerId, RunId};
use crate::message::{CommandMessage, Params};
use crate::more::More;
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

/// How a STATUS begins that is written here.
const STATUS_HEAD: &str = "{\"name\":\"&cmd\",\"params\":{\"code\":\"STATUS\",\"data\":";

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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Have {
    /// Of standard output, in bytes.
    #[serde(default)]
    pub stdout: u64,
    /// Of standard error, in bytes.
    #[serde(default)]
    pub stderr: u64,
}

/// Who else is to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(default)]
    bytes: u64,
}

/// What a STATUS has beside its report, and whether that has more than the seed's keys.
#[derive(Deserialize)]
struct StatusHead<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default)]
    attempt: Option<u32>,
    #[serde(default)]
    refused: bool,
    peer: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "also_null")]
    result: Option<&'a RawValue>,
    stdout: Option<IgnoredAny>,
    stderr: Option<IgnoredAny>,
    encoding: Option<IgnoredAny>,
    cut: Option<IgnoredAny>,
    ms: Option<IgnoredAny>,
}

impl StatusHead<'_> {
    fn has_more(&self) -> bool {
        let others = [&self.peer, &self.stdout, &self.stderr, &self.encoding, &self.cut, &self.ms];
        self.result.is_some() || others.iter().any(|other| other.is_some())
    }
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
    // By far the most frequent of what daemons say, as ours writes it: each layer that need not be looked into again is time.
    if let Some(data) = text.strip_prefix(STATUS_HEAD).and_then(|rest| rest.strip_suffix("}}"))
        && let Ok(frame) = status_frame(data)
    {
        return Ok(frame);
    }
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
            frame.unwrap_or_else(|| command_frame(written.params, id.as_ref()))
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
        "PEERS" => {
            let (place, command, id) = (Place::There, Command::Peers, id.cloned());
            Ok(Frame::Command(CommandMessage { place, command, id, params: Params::new(None) }))
        }
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
    let head: StatusHead = parse(data)?;
    let run = run_id(&head.id)?;
    let mut report: Report = parse(data)?;
    if head.has_more() {
        let mut more = More::parse(data);
        // Which run it is, is said by the id; what else stands there is not to be passed on.
        more.run = None;
        report.more = (more != More::default()).then(|| Box::new(more));
    }
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
fn command_frame(params: Option<&RawValue>, id: Option<&CallerId>) -> Result<Frame, Refused> {
    let params = Params::new(params);
    match Command::parse_seed(params.as_written()) {
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

/// The question who else there is, that a run could be passed on to; `id` is one that the asker made.
#[must_use]
pub fn peers(id: &RunId) -> String {
    format!("{{\"name\":\"&cmd\",\"id\":\"{id}\",\"params\":{{\"code\":\"PEERS\"}}}}")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> CallerId {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        CallerId::new(&raw).expect("short")
    }

    fn params(json: &str) -> Params {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        Params::new(Some(&raw))
    }

    fn taken(text: &str) -> Frame {
        decode(text, 128).unwrap_or_else(|refused| panic!("{text}: {refused}"))
    }

    fn refused(text: &str) -> (Option<String>, ErrorCode, String) {
        match decode(text, 128) {
            Err(Refused { id, outcome: Outcome::Failed(code, words) }) => (id.map(|id| id.as_json().to_owned()), code, words),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_plain_run_has_the_seeds_keys_and_a_full_one_comes_in_as_it_went_out() {
        let plain = run("t", &RunId::new("r-1"), &params("{\"a\": 1.0}"), &Order::default());
        assert_eq!(plain, r#"{"name":"t","id":"r-1","params":{"a": 1.0}}"#);
        let order = Order {
            caller: Some(id("null")),
            timeout_ms: Some(1500),
            output: OutputMode::Stream,
            events: true,
            credit: 5,
            queue: true,
            attempt: 2,
            have: Some(Have { stdout: 7, stderr: 0 }),
            hop: Some(Box::new(Hop { to: Some(Target::parse("web-*").expect("a target")), route: Route::LeastBusy })),
        };
        let full = run("t\"", &RunId::new("r-1"), &params("[1e5]"), &order);
        assert_eq!(
            full,
            concat!(
                r#"{"name":"t\"","id":"r-1","params":[1e5],"caller":null,"timeout":1500,"output":"stream","events":true,"#,
                r#""credit":5,"queue":true,"attempt":2,"have":{"stdout":7,"stderr":0},"hop":{"to":"web-*","route":"least-busy"}}"#
            )
        );
        let frame = RunFrame { name: "t\"".into(), run: RunId::new("r-1"), params: params("[1e5]"), order };
        assert_eq!(taken(&full), Frame::Run(Box::new(frame)));
        let Frame::Run(frame) = taken(&plain) else { panic!("no run") };
        assert_eq!(frame.order, Order::default());
    }

    #[test]
    fn what_daemons_say_comes_in_as_it_went_out() {
        let run = RunId::new("r");
        let hello = Hello {
            name: "web 1".into(),
            configured: true,
            instance: "i-1".into(),
            epoch: 3,
            version: "0.2.0".into(),
            tags: vec!["sms".into()],
            capacity: 256,
            features: vec!["queue".into()],
            former: vec!["i-0".into()],
        };
        let chunk = |data: &str, is_base64, gap| {
            let (run, data) = (run.clone(), data.to_owned());
            Chunk { run, stream: StreamName::Stderr, offset: 9, data, is_base64, gap }
        };
        let mut report = Report::from(Outcome::failed(ErrorCode::Busy, "full"));
        report.more_mut().ms = Some(12);
        let verdict = Verdict { attempt: Some(2), refused: true };
        let of_status = |verdict, report: &Report| {
            Frame::Status(Box::new(StatusFrame { run: run.clone(), verdict, report: report.clone() }))
        };
        let exited = Report::from(Outcome::Exited(7));
        let table = [
            (super::hello(&hello), Frame::Hello(Box::new(hello.clone()))),
            (status(&(&run).into(), Verdict::default(), &exited), of_status(Verdict::default(), &exited)),
            (status(&(&run).into(), verdict, &report), of_status(verdict, &report)),
            (event(&run, Progress::Delivered), Frame::Event(run.clone(), Progress::Delivered)),
            (event(&run, Progress::Started), Frame::Event(run.clone(), Progress::Started)),
            (output(&chunk("a\n\"", false, 0)), Frame::Output(Box::new(chunk("a\n\"", false, 0)))),
            (output(&chunk("/w==", true, 5)), Frame::Output(Box::new(chunk("/w==", true, 5)))),
            (credit(&run, 1 << 40), Frame::Credit(run.clone(), 1 << 40)),
            (cancel(&run, None), Frame::Cancel(run.clone(), None)),
            (cancel(&run, Some(3)), Frame::Cancel(run.clone(), Some(3))),
            (ack(&run, 3), Frame::Ack(run.clone(), 3)),
            (drain(), Frame::Drain),
            (ping(&run), Frame::Ping((&run).into())),
        ];
        for (text, frame) in table {
            assert_eq!(taken(&text), frame, "{text}");
        }
        let written_otherwise = r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":7,"id":"r"},"x":{}}}"#;
        assert_eq!(taken(written_otherwise), of_status(Verdict::default(), &exited));
        let twice = r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":7,"id":"r"},"x":{"id":"s"}}}"#;
        assert_eq!(taken(twice), of_status(Verdict::default(), &exited));
        let with_run = r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":7,"id":"r","run":"x\"y"}}}"#;
        assert_eq!(taken(with_run), of_status(Verdict::default(), &exited));
        assert_eq!(
            status(&id("\"r\""), verdict, &Outcome::Exited(0).into()),
            r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":0,"id":"r","attempt":2,"refused":true}}}"#
        );
    }

    #[test]
    fn what_a_local_process_says_is_no_word_of_its_daemon() {
        let said = |text: &str| taken(&local_command(Some(&RunId::new("r")), &params(text)));
        assert_eq!(
            said(r#"{"code":"STATUS","data":{"status":0,"id":"x"}}"#),
            Frame::LocalStatus(r#"{"status":0,"id":"x"}"#.into())
        );
        assert_eq!(said(r#"{"code":"ping"}"#), Frame::Ping(id("\"r\"")));
        let pause = params(r#"{"code":"PAUSE","data":5}"#);
        let Frame::Command(message) = taken(&local_command(None, &pause)) else { panic!("no command") };
        assert_eq!((message.command, message.id), (Command::Pause(std::time::Duration::from_millis(5)), None));
        for code in ["HELLO", "ACK", "OUTPUT", "CREDIT", "CANCEL", "DRAIN", "EVENT", "PEERS"] {
            let text = local_command(Some(&RunId::new("r")), &params(&format!(r#"{{"code":"{code}","data":{{"id":"r"}}}}"#)));
            let (id, error, _) = refused(&text);
            assert_eq!((id.as_deref(), error), (Some("\"r\""), ErrorCode::UnknownCommand), "{text}");
        }
        let peers = taken(r#"{"name":"&cmd","id":"r","params":{"code":"PEERS"}}"#);
        assert!(matches!(peers, Frame::Command(CommandMessage { command: Command::Peers, .. })), "{peers:?}");
    }

    #[test]
    fn what_a_newer_minor_version_adds_is_passed_over_or_refused_under_its_id() {
        use ErrorCode::{BadMessage, UnknownCommand, Unsupported};
        let run = r#"{"name":"t","id":"r","params":null,"colour":{"x":[1]},"attempt":5}"#;
        let Frame::Run(frame) = taken(run) else { panic!("no run") };
        assert_eq!(frame.order, Order::default(), "an attempt without a queue is none");
        let hello = r#"{"name":"&cmd","params":{"code":"hello","data":{"name":"a","instance":"i","epoch":1,"more":null}}}"#;
        assert!(matches!(taken(hello), Frame::Hello(_)));
        let table = [
            (r#"{"name":"t","id":"r","output":"film"}"#, Some("\"r\""), Unsupported, "this daemon knows no output \"film\""),
            (r#"{"name":"&cmd","id":5,"params":{"code":"DANCE"}}"#, Some("5"), UnknownCommand, "no command has the code"),
            (r#"{"name":"&cmd","params":{"code":"EVENT","data":{"id":"r","event":"x"}}}"#, None, Unsupported, "this daemon"),
            (r#"{"name":"+cmd","id":"r","params":{"code":"PAUSE","data":1}}"#, Some("\"r\""), BadMessage, "+cmd is for local"),
            (r#"{"name":"t"}"#, None, BadMessage, "a run needs an id"),
            (r#"{"name":"t","id":5}"#, Some("5"), BadMessage, "a run needs an id"),
            (r#"{"name":"t","id":"a\"b"}"#, Some(r#""a\"b""#), BadMessage, "a run's id is a UUID"),
            (r#"{"name":"t","id":"r","timeout":"5s"}"#, None, BadMessage, "invalid type"),
            (r#"{"name":"&cmd","params":{"code":"ACK","data":null}}"#, None, BadMessage, "invalid type"),
            (r#"{"name":"&cmd","params":{"code":"PING"}}"#, None, BadMessage, "a PING without an id"),
            ("[]", None, BadMessage, ""),
        ];
        for (text, id, code, words) in table {
            let (found, error, said) = refused(text);
            assert_eq!((found.as_deref(), error), (id, code), "{text}");
            assert!(said.starts_with(words), "{said}");
        }
    }

    #[test]
    fn names_and_tags_have_their_bounds() {
        let hello = |name: &str, tags: &[String]| {
            let hello = serde_json::json!({"name": name, "instance": "i", "epoch": 1, "tags": tags});
            decode(&daemon_command("HELLO", &hello.to_string()), 128)
        };
        let many = |count| (0..count).map(|tag: usize| tag.to_string()).collect::<Vec<_>>();
        assert!(hello(&"é".repeat(NAME_CHARS), &many(TAGS)).is_ok());
        for (name, tags) in [
            ("é".repeat(NAME_CHARS + 1), many(0)),
            (String::new(), many(0)),
            ("a\nb".into(), many(0)),
            ("a".into(), many(TAGS + 1)),
            ("a".into(), vec!["\u{7}".into()]),
        ] {
            assert!(hello(&name, &tags).is_err(), "{name:?}");
        }
        assert_eq!((choose("2"), choose(" 3 , 2 "), choose("3,22"), choose("")), (Some("2"), Some("2"), None, None));
    }

    #[test]
    fn output_costs_what_it_takes_and_no_less_than_its_frame() {
        let chunk = |data: &str, is_base64| {
            let (run, data) = (RunId::new("r"), data.to_owned());
            Chunk { run, stream: StreamName::Stdout, offset: 0, data, is_base64, gap: 0 }
        };
        assert_eq!((chunk("é", false).cost(), chunk("é", false).bytes()), (OUTPUT_COST_BYTES, 2));
        assert_eq!(chunk(&"x".repeat(100), false).cost(), 100);
        assert_eq!((chunk("AAAA", true).bytes(), chunk("AAA=", true).bytes(), chunk("AA==", true).bytes()), (3, 2, 1));
    }
}
