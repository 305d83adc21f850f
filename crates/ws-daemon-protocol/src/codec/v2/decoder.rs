//! Frames of a version 2 link as they come in. It never writes one.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    COMMAND_HEAD, Frame, Have, Hello, Hop, ID_BYTES, LISTED, NAME_CHARS, Order, PING_TAIL, Progress, ROOT_BYTES, ROOTS,
    Refused, Roots, RunFrame, STATUS_HEAD, StatusFrame, TAGS, Verdict, is_name, moves,
};
use crate::codec::framer::check_whole;
use crate::command::{Command, Place, StreamName, fault};
use crate::event::Chunk;
use crate::id::{CALLER_ID_BYTES, CallerId, RunId};
use crate::message::{CommandMessage, Params};
use crate::more::More;
use crate::options::OutputMode;
use crate::outcome::{ErrorCode, Report};
use crate::trace::{self, Trace};

/// Levels of nesting of the deepest frame that is known by its letters.
const PLAIN_NESTING: usize = 3;

/// Digits of a number that is taken as it stands: it fits wherever one is kept.
const PLAIN_DIGITS: usize = 9;

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
    #[serde(default, deserialize_with = "trace::traceparent")]
    traceparent: Option<Box<str>>,
    #[serde(default, deserialize_with = "trace::word")]
    request_id: Option<Box<str>>,
    #[serde(default, deserialize_with = "trace::mark")]
    event: Option<Box<str>>,
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
    if let Some(frame) = plain(text).filter(|_| nesting >= PLAIN_NESTING) {
        return Ok(frame);
    }
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

/// Takes a frame that is, letter for letter, one of the two that go to and fro most: a PING, and the STATUS of a script that exited by
/// itself. `None` of any other, which may mean the same.
fn plain(text: &str) -> Option<Frame> {
    if let Some(data) = text.strip_prefix(STATUS_HEAD) {
        let (status, rest) = number(data.strip_prefix("{\"status\":")?)?;
        let (id, rest) = rest.strip_prefix(",\"id\":\"")?.split_once('"')?;
        let (ms, rest) = optional(rest, ",\"ms\":")?;
        let (attempt, rest) = optional(rest, ",\"attempt\":")?;
        let run = if rest == "}}}" { run_id(id).ok()? } else { return None };
        let more = ms.map(|ms| Box::new(More { ms: Some(ms.into()), ..More::default() }));
        let report = Report { status: Some(status.into()), error: None, message: None, signal: None, more };
        return Some(Frame::Status(Box::new(StatusFrame { run, verdict: Verdict { attempt, refused: false }, report })));
    }
    let id = text.strip_prefix(COMMAND_HEAD)?.strip_suffix(PING_TAIL)?;
    run_id(id.strip_prefix('"')?.strip_suffix('"')?).ok()?;
    Some(Frame::Ping(CallerId::of_json(id)))
}

/// A number in front of `text`, and what is behind it.
fn number(text: &str) -> Option<(u32, &str)> {
    let length = text.bytes().take(PLAIN_DIGITS + 1).take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(length);
    let is_json = length == 1 || !digits.starts_with('0');
    if is_json && length <= PLAIN_DIGITS { Some((digits.parse().ok()?, rest)) } else { None }
}

/// The number behind `key`, if that stands in front of `text`.
fn optional<'a>(text: &'a str, key: &str) -> Option<(Option<u32>, &'a str)> {
    match text.strip_prefix(key) {
        Some(text) => number(text).map(|(number, rest)| (Some(number), rest)),
        None => Some((None, text)),
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
        trace: Trace { traceparent: written.traceparent, request_id: written.request_id, event: written.event }.boxed(),
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

#[derive(Deserialize)]
struct DrainData {
    #[serde(default)]
    restart: bool,
}

/// Whatever stands there beside, it asks for no more new work.
fn drain_frame(data: &str) -> Frame {
    let data: Option<DrainData> = serde_json::from_str(data).unwrap_or_default();
    Frame::Drain { restarts: data.is_some_and(|data| data.restart) }
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
        "DRAIN" => Ok(drain_frame(data)),
        "ROOTS" => roots_frame(data),
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

fn roots_frame(data: &str) -> Result<Frame, Refused> {
    let roots: Roots = parse(data)?;
    let (Roots::Roots(listed) | Roots::Have(listed)) = &roots;
    if listed.len() > ROOTS || listed.iter().any(|root| root.len() > ROOT_BYTES) {
        return Err(Refused::bad(format!("more than {ROOTS} roots, or one of more than {ROOT_BYTES} bytes")));
    }
    Ok(Frame::Roots(roots))
}

fn hello_frame(data: &str) -> Result<Frame, Refused> {
    let mut hello: Hello = parse(data)?;
    hello.features.truncate(LISTED);
    hello.former.truncate(LISTED);
    // They are kept for as long as the peer is remembered: what nobody here would look for must not be large.
    hello.features.retain(|feature| feature.len() <= ID_BYTES);
    hello.former.retain(|former| run_id(former).is_ok());
    hello.version = hello.version.chars().filter(|char| !moves(*char)).take(NAME_CHARS).collect();
    if !is_name(&hello.name) {
        return Err(Refused::bad(format!("a peer's name has 1 to {NAME_CHARS} characters and no control characters")));
    }
    if hello.tags.len() > TAGS || !hello.tags.iter().all(|tag| is_name(tag)) {
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
        Ok(Command::Status(data)) => Ok(Frame::LocalStatus(id.cloned(), data)),
        Ok(command) => Ok(Frame::Command(CommandMessage { place: Place::There, command, id: id.cloned(), params })),
        Err(outcome) => Err(Refused { id: id.cloned(), outcome }),
    }
}
