//! The built-in commands: their codes, their data, and where they are to be carried out. It never carries one out.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codec::compact::compact;
use crate::id::{CallerId, RunId};
use crate::outcome::{ErrorCode, Outcome};
use crate::target::Target;

/// The longest pause, 24 hours; a longer one is refused, so that a slip of the pen does not lose a client for years.
pub const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// Where a command is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `+cmd`: on the daemon that reads it.
    Here,
    /// `&cmd`: on the daemon at the other end.
    There,
}

impl Place {
    /// The place that a message's name stands for, if it is a command's.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "+cmd" => Some(Self::Here),
            "&cmd" => Some(Self::There),
            _ => None,
        }
    }
}

/// A command with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Close the client's link for so long, then dial again.
    Pause(Duration),
    /// A status, said: a compact JSON object.
    Status(Box<str>),
    /// Who is, and was, connected.
    Peers,
    /// A round trip to whoever matches; `None`: to everyone.
    Ping(Option<Target>),
    /// What runs and ran.
    Runs(RunsQuery),
    /// All about one run, or what it printed.
    Run(RunQuery),
    /// Stop a run.
    Cancel(Which),
    /// The scripts there are.
    Scripts,
    /// Counters.
    Stats,
    /// Tell from now on what happens, of these kinds.
    Subscribe(Vec<Topic>),
    /// Read the settings again.
    Reload,
    /// Begin a new life, without refusing anybody.
    Restart,
    /// Invite somebody to become a peer.
    Invite(Invite),
    /// Let a peer enter no more, from now on.
    Revoke(Revoke),
    /// Have a peer trade for another token.
    Rotate(Rotate),
    /// Something about the server's keys.
    Keys(KeysTask),
    /// Who may ask for a script, and who would get it.
    Explain(ExplainQuery),
    /// Log something else, or say what is logged.
    Log(Option<LogChange>),
    /// Every figure, as OpenMetrics has them.
    Metrics,
    /// Something about the programs that ask over HTTP.
    Callers(CallersTask),
    /// From now on this connection is asked.
    Serve(Serve),
}

/// For what a connection is asked, and how much at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// The names, as globs.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = SERVED_NAMES)))]
    pub names: Vec<String>,
    /// So many requests before it has answered one.
    #[serde(default = "one")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = READY)))]
    pub ready: usize,
}

/// Names that one connection may serve; more are refused.
pub const SERVED_NAMES: usize = 64;

/// Requests that a worker may hold; more are refused.
pub const READY: usize = 1024;

fn one() -> usize {
    1
}

/// What is to be done about callers: programs that ask over HTTP, each by a token or a signature of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum CallersTask {
    /// Say who they are.
    List,
    /// One more.
    Add(NewCaller),
    /// It is none any more, from now on.
    Revoke(NamedCaller),
    /// It gets another token, or key, and the old one is good for nothing from now on.
    Rotate(NamedCaller),
}

/// A caller, by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NamedCaller {
    /// What it is called.
    pub name: String,
}

/// Somebody who is to become a caller. With none of `allow`, `to` and `commands` it may do what the rules say, or without a rule about
/// callers what any may; with one of them, only what they say and the rules add.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewCaller {
    /// What it is called.
    pub name: String,
    /// The scripts that it may ask for, as globs; absent: all.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// Who may be asked for them; absent: anyone.
    #[serde(default)]
    pub to: Option<Target>,
    /// The commands that it may give.
    #[serde(default)]
    pub commands: Option<Vec<String>>,
    /// Whether it signs what it sends, and has no token.
    #[serde(default)]
    pub hmac: bool,
    /// The header of its signatures; absent: `X-Hub-Signature-256`.
    #[serde(default)]
    pub header: Option<String>,
}

/// How long an invitation may be traded unless it is said.
pub const INVITATION_TTL: Duration = Duration::from_hours(1);

/// Who is invited.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// What the peer will be called; with several uses, how their names begin.
    pub name: String,
    /// Tags that it gets, and nobody else can take.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The scripts that it may ask for, as globs; without them the rules alone decide.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// How long it may be traded.
    #[serde(default, deserialize_with = "ttl")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::schema::duration"))]
    pub ttl: Option<Duration>,
    /// How many peers it makes: one unless it is said.
    #[serde(default)]
    pub uses: Option<u32>,
    /// Where the server is, from there; of several, they are tried in this order.
    #[serde(default, rename = "url", deserialize_with = "urls")]
    #[cfg_attr(feature = "schema", schemars(with = "Urls"))]
    pub urls: Vec<String>,
}

/// Who may enter no more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// The peer's name, or that of an invitation.
    pub name: String,
}

/// Whose token is to be another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// The peer's name.
    pub name: String,
    /// Whether the old token is good for nothing from now on, rather than from the trade on.
    #[serde(default)]
    pub at_once: bool,
    /// How long it may be traded.
    #[serde(default, deserialize_with = "ttl")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::schema::duration"))]
    pub ttl: Option<Duration>,
    /// Where the server is, from there; of several, they are tried in this order.
    #[serde(default, rename = "url", deserialize_with = "urls")]
    #[cfg_attr(feature = "schema", schemars(with = "Urls"))]
    pub urls: Vec<String>,
}

/// One URL, or several.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a URL, or a list of URLs")]
enum Urls {
    One(String),
    Several(Vec<String>),
}

fn urls<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    // A null says nothing, as if the key were not there.
    Ok(match Option::<Urls>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Urls::One(url)) => vec![url],
        Some(Urls::Several(urls)) => urls,
    })
}

fn ttl<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    crate::time::deserialize(deserializer).map(Some)
}

/// What is to be done with a server's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum KeysTask {
    /// Say what there is.
    Show,
    /// Make a new leaf.
    Renew,
    /// Make the next root, and announce it.
    Rotate,
    /// Go over to the next root, whoever has it.
    Finish,
}

/// The data of KEYS.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKeys {
    r#do: KeysTask,
}

/// What a subscriber may be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Runs that begin and end.
    Runs,
    /// Peers that come and go.
    Peers,
    /// Statuses that are said.
    Statuses,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Runs, Self::Peers, Self::Statuses];
}

/// Which run is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its own id.
    Run(RunId),
    /// By the id that its caller gave.
    Id(CallerId),
}

/// Which runs are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RunsQuery {
    /// Those in this state.
    #[serde(default)]
    pub state: Option<RunState>,
    /// Those of this peer, by name.
    #[serde(default)]
    pub peer: Option<String>,
    /// So many at most, the newest first.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It waits for its peer, or its turn.
    Waiting,
    /// A peer has it.
    Running,
    /// It is over.
    Settled,
}

/// What is wanted of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunQuery {
    /// The run.
    pub which: Which,
    /// What it printed, if that is wanted.
    pub output: Option<OutputQuery>,
}

/// What is wanted of a run's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputQuery {
    /// The stream; `None`: both.
    pub stream: Option<StreamName>,
    /// From this byte of it.
    pub offset: u64,
    /// So many bytes at most.
    pub limit: Option<usize>,
    /// Whether to go on as it is printed, to the final line.
    pub follow: bool,
}

/// Whose request for which script is meant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// A peer by name, `anonymous`, `server`, `user:NAME` or `user:UID`, or `tcp`.
    #[serde(rename = "as")]
    pub actor: Box<str>,
    /// The script.
    pub name: Box<str>,
    /// Who is to run it; of a peer: whom it is to be passed on to.
    #[serde(default)]
    pub to: Option<Target>,
}

/// What is to be logged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LogChange {
    /// A level, or one for each module, like `info,ws_daemon::link=trace`; `usual` is what the settings say.
    pub filter: Box<str>,
    /// How long; then it is the usual again. Without it, until something else is asked for.
    #[serde(rename = "for", default, deserialize_with = "ttl")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::schema::duration"))]
    pub within: Option<Duration>,
}

impl LogChange {
    /// The filter that stands for what the settings say.
    pub const USUAL: &'static str = "usual";
}

/// One of a script's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum StreamName {
    /// What it says.
    Stdout,
    /// What it says of trouble.
    Stderr,
}

impl StreamName {
    /// Both, in the order of their descriptors.
    pub const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The name as it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

#[derive(Deserialize)]
struct Written<'a> {
    code: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Command {
    /// The codes that local processes may use.
    pub const CODES: [&'static str; 21] = [
        "PAUSE",
        "STATUS",
        "PEERS",
        "PING",
        "RUNS",
        "RUN",
        "CANCEL",
        "SCRIPTS",
        "STATS",
        "SUBSCRIBE",
        "RELOAD",
        "RESTART",
        "INVITE",
        "REVOKE",
        "ROTATE",
        "KEYS",
        "EXPLAIN",
        "LOG",
        "METRICS",
        "CALLERS",
        "SERVE",
    ];

    /// The codes that only daemons use among themselves.
    pub const DAEMON_CODES: [&'static str; 8] = ["HELLO", "ACK", "OUTPUT", "CREDIT", "CANCEL", "DRAIN", "EVENT", "ROOTS"];

    /// Its code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Pause(_) => "PAUSE",
            Self::Status(_) => "STATUS",
            Self::Peers => "PEERS",
            Self::Ping(_) => "PING",
            Self::Runs(_) => "RUNS",
            Self::Run(_) => "RUN",
            Self::Cancel(_) => "CANCEL",
            Self::Scripts => "SCRIPTS",
            Self::Stats => "STATS",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::Reload => "RELOAD",
            Self::Restart => "RESTART",
            Self::Invite(_) => "INVITE",
            Self::Revoke(_) => "REVOKE",
            Self::Rotate(_) => "ROTATE",
            Self::Keys(_) => "KEYS",
            Self::Explain(_) => "EXPLAIN",
            Self::Log(_) => "LOG",
            Self::Metrics => "METRICS",
            Self::Callers(_) => "CALLERS",
            Self::Serve(_) => "SERVE",
        }
    }

    /// Reads the `params` of a local process's command message.
    ///
    /// # Errors
    /// A failed outcome that says what is wrong with the code or its data.
    pub fn parse(place: Place, params: &str) -> Result<Self, Outcome> {
        let written = Written::parse(params)?;
        let code = upper(&written.code);
        match (place, &*code) {
            (Place::There, code) if Self::DAEMON_CODES.contains(&code) => {
                let hint = if code == "CANCEL" { "; to stop a run, say +cmd CANCEL" } else { "" };
                Err(Outcome::failed(ErrorCode::Denied, format!("&cmd {code} comes from daemons only{hint}")))
            }
            (
                Place::There,
                code @ ("RUNS" | "RUN" | "SCRIPTS" | "STATS" | "SUBSCRIBE" | "RELOAD" | "RESTART" | "PEERS" | "INVITE"
                | "REVOKE" | "ROTATE" | "KEYS" | "EXPLAIN" | "LOG" | "METRICS" | "CALLERS" | "SERVE"),
            ) => Err(Outcome::failed(ErrorCode::Denied, format!("{code} is answered by one's own daemon: say +cmd"))),
            (_, code) => Self::of_code(code, written.data()),
        }
    }

    /// Reads the `params` of a seed peer's command, which knows PAUSE and STATUS.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_seed(params: &str) -> Result<Self, Outcome> {
        let written = Written::parse(params)?;
        match &*upper(&written.code) {
            code @ ("PAUSE" | "STATUS") => Self::of_code(code, written.data()),
            code => Err(unknown(code)),
        }
    }

    fn of_code(code: &str, data: &str) -> Result<Self, Outcome> {
        let bad = |message: String| Outcome::Failed(ErrorCode::BadMessage, message);
        let wrong = |error: serde_json::Error| bad(format!("the data of {code}: {}", fault(&error)));
        match code {
            "PAUSE" => pause(data).map(Self::Pause).map_err(bad),
            "STATUS" if data.starts_with('{') => Ok(Self::Status(compact(data).into())),
            "STATUS" => Err(bad("STATUS takes an object as data: {\"status\":0,\"id\":\"…\"}".into())),
            "PEERS" => Ok(Self::Peers),
            "PING" => match plain_target(data) {
                Some(target) => Ok(Self::Ping(Some(target))),
                None => Ok(Self::Ping(serde_json::from_str(data).map_err(wrong)?)),
            },
            "RUNS" => Ok(Self::Runs(serde_json::from_str::<Option<RunsQuery>>(data).map_err(wrong)?.unwrap_or_default())),
            "RUN" => {
                let query = WrittenRun::parse(data).map_err(wrong)?;
                query.map(Self::Run).ok_or_else(|| bad(which_run(code)))
            }
            "CANCEL" => match WrittenRun::parse(data).map_err(wrong)? {
                Some(RunQuery { which, output: None }) => Ok(Self::Cancel(which)),
                _ => Err(bad(which_run(code))),
            },
            "SCRIPTS" => Ok(Self::Scripts),
            "STATS" => Ok(Self::Stats),
            "SUBSCRIBE" => {
                let topics = serde_json::from_str::<Option<Vec<Topic>>>(data).map_err(wrong)?;
                Ok(Self::Subscribe(topics.unwrap_or_else(|| Topic::ALL.into())))
            }
            "RELOAD" => Ok(Self::Reload),
            "RESTART" => Ok(Self::Restart),
            "INVITE" => Ok(Self::Invite(serde_json::from_str(data).map_err(wrong)?)),
            "REVOKE" => Ok(Self::Revoke(serde_json::from_str(data).map_err(wrong)?)),
            "ROTATE" => Ok(Self::Rotate(serde_json::from_str(data).map_err(wrong)?)),
            "KEYS" => Ok(Self::Keys(serde_json::from_str::<WrittenKeys>(data).map_err(wrong)?.r#do)),
            "EXPLAIN" => Ok(Self::Explain(serde_json::from_str(data).map_err(wrong)?)),
            "METRICS" => Ok(Self::Metrics),
            "LOG" => Ok(Self::Log(serde_json::from_str(data).map_err(wrong)?)),
            "CALLERS" => Ok(Self::Callers(serde_json::from_str(data).map_err(wrong)?)),
            "SERVE" => {
                let serve: Serve = serde_json::from_str(data).map_err(wrong)?;
                match (serve.names.len(), serve.ready) {
                    (1..=SERVED_NAMES, 1..=READY) => Ok(Self::Serve(serve)),
                    (1..=SERVED_NAMES, _) => Err(bad(format!("the data of {code}: \"ready\" is 1 to {READY}"))),
                    _ => Err(bad(format!("the data of {code}: there are 1 to {SERVED_NAMES} \"names\""))),
                }
            }
            code => Err(unknown(code)),
        }
    }
}

impl<'a> Written<'a> {
    fn parse(params: &'a str) -> Result<Self, Outcome> {
        serde_json::from_str(params).map_err(|error| {
            let wanted = "a command's params must be {\"code\":\"…\",\"data\":…}";
            Outcome::failed(ErrorCode::BadMessage, format!("{wanted}: {}", fault(&error)))
        })
    }

    fn data(&self) -> &'a str {
        self.data.map_or("null", RawValue::get)
    }
}

/// A code as it is known: most are written so.
fn upper(code: &str) -> Cow<'_, str> {
    if code.bytes().any(|byte| byte.is_ascii_lowercase()) { code.to_ascii_uppercase().into() } else { code.into() }
}

/// The target in a JSON text without escapes; `None` if it is something else, which may be one as well.
fn plain_target(data: &str) -> Option<Target> {
    let text = data.strip_prefix('"')?.strip_suffix('"')?;
    if text.contains(['"', '\\']) { None } else { Target::parse(text).ok() }
}

/// A run, as the data of RUN and CANCEL names it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRun<'a> {
    run: Option<Box<str>>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    output: Option<WrittenStream>,
    offset: Option<u64>,
    limit: Option<usize>,
    #[serde(default)]
    follow: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenStream {
    Stdout,
    Stderr,
    Both,
}

impl WrittenRun<'_> {
    /// `None` if it does not say which run.
    fn parse(data: &str) -> Result<Option<RunQuery>, serde_json::Error> {
        if data.starts_with('"') {
            let run: Box<str> = serde_json::from_str(data)?;
            return Ok(Some(RunQuery { which: Which::Run(RunId::new(run)), output: None }));
        }
        let Some(written) = serde_json::from_str::<Option<WrittenRun>>(data)? else { return Ok(None) };
        let which = match (written.run, written.id.and_then(CallerId::new)) {
            (Some(run), None) => Which::Run(RunId::new(run)),
            (None, Some(id)) => Which::Id(id),
            _ => return Ok(None),
        };
        let (offset, limit, follow) = (written.offset.unwrap_or(0), written.limit, written.follow);
        let query = |stream| OutputQuery { stream, offset, limit, follow };
        let output = written.output.map(|stream| match stream {
            WrittenStream::Stdout => query(Some(StreamName::Stdout)),
            WrittenStream::Stderr => query(Some(StreamName::Stderr)),
            WrittenStream::Both => query(None),
        });
        Ok(Some(RunQuery { which, output }))
    }
}

fn which_run(code: &str) -> String {
    format!("{code} takes a run: its id as text, {{\"run\":\"…\"}}, or {{\"id\":…}} with the id its caller gave")
}

fn pause(data: &str) -> Result<Duration, String> {
    let ms = data.parse().map(Duration::from_millis);
    ms.ok()
        .filter(|ms| *ms <= LONGEST_PAUSE)
        .ok_or_else(|| format!("PAUSE takes whole milliseconds as data, at most {}", LONGEST_PAUSE.as_millis()))
}

fn unknown(code: &str) -> Outcome {
    let near = Command::CODES.into_iter().find(|known| strsim::damerau_levenshtein(known, code) <= 2);
    let hint = match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", Command::CODES.join(", ")),
    };
    let shown: String = code.chars().take(40).collect();
    Outcome::Failed(ErrorCode::UnknownCommand, format!("no command has the code {shown:?}; {hint}"))
}

/// What serde says, without its line and column: the value is one line of a longer message.
pub(crate) fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.as_str(), |at| &text[..at]).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_as_written() {
        let status = |text: &str| Ok(Command::Status(text.into()));
        let table = [
            (r#"{"code":"pause","data":1500}"#, Ok(Command::Pause(Duration::from_millis(1500)))),
            (r#"{"data":{ "status" : 1 },"code":"Status","more":1}"#, status(r#"{"status":1}"#)),
            (r#"{"code":"PAUSE"}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"PAUSE","data":-1}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"PAUSE","data":86400001}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"STATUS","data":[1]}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":5}"#, Err(ErrorCode::BadMessage)),
            ("null", Err(ErrorCode::BadMessage)),
            (r#"{"code":"peers"}"#, Ok(Command::Peers)),
            (r#"{"code":"PING","data":"web-*"}"#, Ok(Command::Ping(Some(Target::parse("web-*").expect("a target"))))),
            (r#"{"code":"PING"}"#, Ok(Command::Ping(None))),
            (r#"{"code":"RUNS","data":{"lmit":1}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"CANCEL","data":"r"}"#, Ok(Command::Cancel(Which::Run(RunId::new("r"))))),
            (r#"{"code":"CANCEL","data":{"run":"r","output":"stdout"}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"RUN"}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"RUN","data":{"run":"r","id":1}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"SUBSCRIBE","data":["runs"]}"#, Ok(Command::Subscribe(vec![Topic::Runs]))),
            (r#"{"code":"SUBSCRIBE","data":["sun"]}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"REVOKE","data":{"name":"web"}}"#, Ok(Command::Revoke(Revoke { name: "web".into() }))),
            (r#"{"code":"REVOKE"}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"INVITE","data":{"name":"web","ttl":"soon"}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"INVITE","data":{"nmae":"web"}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"ROTATE","data":"web"}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"KEYS","data":{"do":"rotate"}}"#, Ok(Command::Keys(KeysTask::Rotate))),
            (r#"{"code":"KEYS","data":{"do":"eat"}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"KEYS"}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"EXPLAIN","data":{"as":"x"}}"#, Err(ErrorCode::BadMessage)),
            (
                r#"{"code":"CALLERS","data":{"do":"revoke","name":"ci"}}"#,
                Ok(Command::Callers(CallersTask::Revoke(NamedCaller { name: "ci".into() }))),
            ),
            (r#"{"code":"CALLERS","data":{"do":"list"}}"#, Ok(Command::Callers(CallersTask::List))),
            (r#"{"code":"CALLERS","data":{"do":"add","name":"ci","alow":[]}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"CALLERS"}"#, Err(ErrorCode::BadMessage)),
            (
                r#"{"code":"serve","data":{"names":["sms/*"]}}"#,
                Ok(Command::Serve(Serve { names: vec!["sms/*".into()], ready: 1 })),
            ),
            (r#"{"code":"SERVE","data":{"names":[]}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"SERVE","data":{"names":["a"],"ready":0}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"SERVE","data":{"names":["a"],"ready":1025}}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"SERVE","data":"sms/*"}"#, Err(ErrorCode::BadMessage)),
            (r#"{"code":"HELLO"}"#, Err(ErrorCode::UnknownCommand)),
            (r#"{"code":"PUASE"}"#, Err(ErrorCode::UnknownCommand)),
        ];
        for (params, expected) in table {
            let found = Command::parse(Place::Here, params).map_err(|outcome| match outcome {
                Outcome::Failed(error, _) => error,
                other => panic!("{other:?}"),
            });
            assert_eq!(found, expected, "{params}");
        }
    }

    #[test]
    fn what_daemons_say_among_themselves_is_refused_from_a_local_process() {
        for code in Command::DAEMON_CODES
            .into_iter()
            .chain(["RUNS", "RELOAD", "RESTART", "INVITE", "REVOKE", "ROTATE", "KEYS", "EXPLAIN"])
        {
            let found = Command::parse(Place::There, &format!("{{\"code\":\"{code}\"}}"));
            assert!(matches!(found, Err(Outcome::Failed(ErrorCode::Denied, _))), "{code}: {found:?}");
        }
        for code in ["HELLO", "CANCEL", "RELOAD", "PEERS", "INVITE"] {
            assert!(Command::parse_seed(&format!("{{\"code\":\"{code}\"}}")).is_err(), "{code}");
        }
    }

    #[test]
    fn a_slip_is_answered_with_the_nearest_code() {
        let Err(Outcome::Failed(_, message)) = Command::parse(Place::Here, r#"{"code":"PUASE"}"#) else { panic!("taken") };
        assert_eq!(message, "no command has the code \"PUASE\"; did you mean PAUSE?");
    }
}
