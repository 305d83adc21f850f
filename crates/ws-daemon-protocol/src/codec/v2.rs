//! The frames of a version 2 link, in and out: the seed's grammar, with more keys beside `name`, `id` and `params`, and more codes
//! of `&cmd`. Keys that it does not know are passed over, since a newer minor version may say them; params are never touched. It
//! never decides what a frame is good for.

mod decoder;
mod encoder;

use serde::{Deserialize, Serialize};

use crate::event::Chunk;
use crate::id::{CallerId, RunId};
use crate::message::{CommandMessage, Params};
use crate::options::{OutputMode, Route};
use crate::outcome::{ErrorCode, Outcome, Report};
use crate::target::Target;
use crate::trace::Trace;

pub use decoder::decode;
pub use encoder::{ack, cancel, credit, drain, event, hello, local_command, output, peers, ping, roots, run, status};

/// The version of the link that this module speaks, as it stands in the header.
pub const VERSION: &str = "2";

/// The header of the handshake that says which versions a client can speak, and which of them the server has chosen.
pub const HEADER: &str = "ws-daemon";

/// Characters of a peer's name, and of a tag; a HELLO with a longer one is refused.
pub const NAME_CHARS: usize = 128;

/// Tags of one peer; a HELLO with more is refused.
pub const TAGS: usize = 64;

/// Whether `text` can be a name or a tag: 1 to [`NAME_CHARS`] characters, none of which [`moves`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(NAME_CHARS).is_none() && !text.chars().any(moves)
}

/// Whether a terminal may take it for more than a character: C0, DEL and C1, the separators of lines, and what overrides or
/// isolates the direction of writing.
#[must_use]
pub fn moves(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Features, and lost instances, in one HELLO; what goes beyond is passed over.
pub const LISTED: usize = 256;

/// Bytes of an instance or a run's id; a frame with a longer one is refused.
pub const ID_BYTES: usize = 64;

/// Roots in one ROOTS frame; one with more is refused.
pub const ROOTS: usize = 4;

/// Bytes of one of them; a longer one is refused.
pub const ROOT_BYTES: usize = 16 << 10;

/// What one OUTPUT frame takes of the credit at least, in bytes.
pub const OUTPUT_COST_BYTES: u64 = 64;

/// How a STATUS begins that is written here, up to its data.
const STATUS_HEAD: &str = "{\"name\":\"&cmd\",\"params\":{\"code\":\"STATUS\",\"data\":";

/// How a command with an id begins, up to that.
const COMMAND_HEAD: &str = "{\"name\":\"&cmd\",\"id\":";

/// What stands behind the id of a PING.
const PING_TAIL: &str = ",\"params\":{\"code\":\"PING\"}}";

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
    Drain {
        /// It restarts, and will be back in a moment.
        restarts: bool,
    },
    /// What is said of a server's roots.
    Roots(Roots),
    /// The peer wants to know that this daemon lives.
    Ping(CallerId),
    /// A command that local processes may give as well.
    Command(CommandMessage),
    /// A status that a local process of the peer said, and the id to say under that it was heard: it settles nothing.
    LocalStatus(Option<CallerId>, Box<str>),
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
    /// What it carries along for logs.
    pub trace: Option<Box<Trace>>,
}

impl Order {
    /// What the order costs in memory beyond its fixed size, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        self.caller.as_ref().map_or(0, |caller| caller.as_json().len())
            + self.hop.as_ref().map_or(0, |_| size_of::<Hop>())
            + self.trace.as_ref().map_or(0, |trace| trace.cost_bytes())
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

/// What daemons say to each other of the roots that a server's certificates are under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Roots {
    /// The server: these there are, as PEM; who pins its roots is to pin these, and no others.
    Roots(Vec<String>),
    /// The client: it has these of them on its disk, each by the sha256 of its SubjectPublicKeyInfo in hexadecimal digits.
    Have(Vec<String>),
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

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::encoder::daemon_command;
    use super::*;
    use crate::command::{Command, StreamName};

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
            trace: None,
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
    fn what_is_known_by_its_letters_means_the_same_as_with_other_letters() {
        let status = |data: &str| format!(r#"{{"name":"&cmd","params":{{"code":"STATUS","data":{data}}}}}"#);
        let table = [
            status(r#"{"status":0,"id":"r"}"#),
            status(r#"{"status":255,"id":"r-1","ms":0}"#),
            status(r#"{"status":999999999,"id":"r","ms":999999999,"attempt":3}"#),
            status(r#"{"status":1,"id":"r","attempt":3}"#),
            r#"{"name":"&cmd","id":"r","params":{"code":"PING"}}"#.to_owned(),
        ];
        for text in table {
            // White space makes it another text, with the same meaning.
            assert_eq!(taken(&text), taken(&format!(" {text}")), "{text}");
            assert_eq!(decode(&text.replace("\"r", "\"\u{e9}"), 128), decode(&text.replace("\"r", " \"\u{e9}"), 128), "{text}");
            assert!(decode(&text, 1).is_err(), "{text}");
        }
        for data in [
            r#"{"status":00,"id":"r"}"#,
            r#"{"status":,"id":"r"}"#,
            r#"{"status":0,"id":""}"#,
            r#"{"status":0,"id":"r","ms":01}"#,
            r#"{"status":0,"id":"r","ms":}"#,
            r#"{"status":0,"id":"r"}}"#,
            r#"{"status":0,"id":"r",}"#,
            r#"{"status":0,"id":"r""#,
        ] {
            assert!(decode(&status(data), 128).is_err(), "{data}");
        }
        for (data, code) in [(r#"{"status":4294967296,"id":"r"}"#, 1_i64 << 32), (r#"{"status":-1,"id":"r"}"#, -1)] {
            assert!(matches!(taken(&status(data)), Frame::Status(frame) if frame.report.status == Some(code)), "{data}");
        }
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
            (drain(false), Frame::Drain { restarts: false }),
            (drain(true), Frame::Drain { restarts: true }),
            (roots(&Roots::Roots(vec!["PEM\n".into()])), Frame::Roots(Roots::Roots(vec!["PEM\n".into()]))),
            (roots(&Roots::Have(vec!["0f".into()])), Frame::Roots(Roots::Have(vec!["0f".into()]))),
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
            Frame::LocalStatus(Some(id("\"r\"")), r#"{"status":0,"id":"x"}"#.into())
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
            (r#"{"name":"&cmd","params":{"code":"ROOTS","data":{"roots":["","","","",""]}}}"#, None, BadMessage, "more than 4"),
            ("[]", None, BadMessage, ""),
        ];
        for (text, id, code, words) in table {
            let (found, error, said) = refused(text);
            assert_eq!((found.as_deref(), error), (id, code), "{text}");
            assert!(said.starts_with(words), "{said}");
        }
    }

    #[test]
    fn what_is_only_to_be_shown_or_looked_for_of_a_hello_is_kept_as_far_as_it_can_be_meant() {
        let (long, version) = ("x".repeat(ID_BYTES + 1), format!("1\u{1b}.\u{202e}0{}", "é".repeat(1000)));
        let data = serde_json::json!({ "name": "a", "instance": "i", "epoch": 1, "version": version,
            "features": ["queue", long, "output"], "former": ["f-1", long, "\u{1b}[2J"] });
        let Ok(Frame::Hello(hello)) = decode(&daemon_command("HELLO", &data.to_string()), 128) else { panic!("refused") };
        assert_eq!((hello.features, hello.former), (vec!["queue".to_owned(), "output".into()], vec!["f-1".to_owned()]));
        assert!(hello.version.starts_with("1.0é") && hello.version.chars().count() == NAME_CHARS, "{}", hello.version);
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
            ("a\u{1b}[2Jb".into(), many(0)),
            ("a\u{9b}2Jb".into(), many(0)),
            ("a\u{202e}b".into(), many(0)),
            ("a\u{2066}b".into(), many(0)),
            ("a\u{2028}b".into(), many(0)),
            ("a".into(), vec!["\u{202e}b".into()]),
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
