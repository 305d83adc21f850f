//! How a run ended. An [`Outcome`] is what this daemon made of a run; a [`Report`] is that as it is said, on links and to
//! callers. A failing script is an outcome like any other, never an error of ours.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::id::CallerId;
use crate::more::More;

/// Why there is no exit status of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// No such script.
    NotFound,
    /// The file is there but cannot be executed.
    NotExecutable,
    /// The name leads out of scripts/, or may not be run.
    Forbidden,
    /// The script's contract refuses these params.
    InvalidParams,
    /// Too many runs, or the daemon is stopping.
    Busy,
    /// The system would not start it.
    SpawnFailed,
    /// Nobody is connected.
    NoPeer,
    /// No peer of that name was ever seen.
    UnknownTarget,
    /// Its time was over before anyone took it.
    Expired,
    /// A bounded queue is full.
    QueueFull,
    /// The durable store would not take it.
    SpoolFailed,
    /// The link died before the request left.
    LinkLost,
    /// Not a message of this grammar.
    BadMessage,
    /// Longer than the limit.
    TooLarge,
    /// No command of that code.
    UnknownCommand,
    /// Not possible here, or not with this peer.
    Unsupported,
    /// The id stands for another request.
    IdConflict,
    /// A rule forbids it.
    Denied,
    /// Stopped because its time was over.
    TimedOut,
    /// Stopped because someone, or a stopping daemon, said so.
    Cancelled,
    /// Unknown: it may have started.
    Interrupted,
}

impl ErrorCode {
    /// Every code, its word on the wire and its status: the table of the contract.
    pub const ALL: [(Self, &'static str, i64); 21] = [
        (Self::NotFound, "not_found", -1),
        (Self::NotExecutable, "not_executable", -1),
        (Self::Forbidden, "forbidden", -1),
        (Self::InvalidParams, "invalid_params", -1),
        (Self::Busy, "busy", -1),
        (Self::SpawnFailed, "spawn_failed", -1),
        (Self::NoPeer, "no_peer", -2),
        (Self::UnknownTarget, "unknown_target", -2),
        (Self::Expired, "expired", -2),
        (Self::QueueFull, "queue_full", -2),
        (Self::SpoolFailed, "spool_failed", -2),
        (Self::LinkLost, "link_lost", -2),
        (Self::BadMessage, "bad_message", -3),
        (Self::TooLarge, "too_large", -3),
        (Self::UnknownCommand, "unknown_command", -3),
        (Self::Unsupported, "unsupported", -3),
        (Self::IdConflict, "id_conflict", -3),
        (Self::Denied, "denied", -3),
        (Self::TimedOut, "timed_out", -4),
        (Self::Cancelled, "cancelled", -4),
        (Self::Interrupted, "interrupted", -5),
    ];

    fn row(self) -> (Self, &'static str, i64) {
        Self::ALL[self as usize]
    }

    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.row().1
    }

    /// The status that goes with it.
    #[must_use]
    pub fn status(self) -> i64 {
        self.row().2
    }

    /// The code of a word, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == word).map(|(code, ..)| *code)
    }
}

/// How a run, or a request that never became one, ended here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The script exited by itself with this status.
    Exited(u8),
    /// A signal that no daemon sent killed it.
    Signaled(Signal),
    /// There is no exit status; the message says what to do about it.
    Failed(ErrorCode, String),
    /// A daemon stopped it with a signal.
    Stopped(ErrorCode, String, Signal),
}

impl Outcome {
    /// A failure and its message.
    pub fn failed(error: ErrorCode, message: impl Into<String>) -> Self {
        Self::Failed(error, message.into())
    }
}

/// A signal by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub i32);

impl fmt::Display for Signal {
    /// The name as signal(7) has it; real-time and unknown signals as `SIG` and their number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 31] = [
            "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
            "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
            "PWR", "SYS",
        ];
        let name = usize::try_from(self.0 - 1).ok().and_then(|index| NAMES.get(index));
        match name {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "SIG{}", self.0),
        }
    }
}

/// An outcome as it is said: the keys of a STATUS and of a final line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Report {
    /// The status; `None` is the `null` of a seed peer whose script a signal killed.
    pub status: Option<i64>,
    /// The word of an [`ErrorCode`], or one that a newer peer uses.
    #[serde(default, deserialize_with = "text_or_none")]
    pub error: Option<String>,
    /// For people.
    #[serde(default, deserialize_with = "text_or_none")]
    pub message: Option<String>,
    /// The name of the signal that ended the script.
    #[serde(default, deserialize_with = "text_or_none")]
    pub signal: Option<String>,
    /// What applies of the rest; a seed peer has none.
    #[serde(skip)]
    pub more: Option<Box<More>>,
}

/// A peer that says something else under these keys still says a status: that must not be lost.
fn text_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

impl From<Outcome> for Report {
    fn from(outcome: Outcome) -> Self {
        let (status, error, message, signal) = match outcome {
            Outcome::Exited(status) => (i64::from(status), None, None, None),
            Outcome::Signaled(signal) => (128 + i64::from(signal.0), None, None, Some(signal)),
            Outcome::Failed(error, message) => (error.status(), Some(error), Some(message), None),
            Outcome::Stopped(error, message, signal) => (error.status(), Some(error), Some(message), Some(signal)),
        };
        Self {
            status: Some(status),
            error: error.map(|error| error.word().to_owned()),
            message,
            signal: signal.map(|signal| signal.to_string()),
            more: None,
        }
    }
}

impl Report {
    /// What the seed says when nobody is connected: the status alone. It goes to callers that asked in the seed's own grammar.
    pub const SEED_NOBODY: Self = Self { status: Some(-2), error: None, message: None, signal: None, more: None };

    /// The same with the seed's own keys: of a script that exited by itself nothing but its status.
    #[must_use]
    pub fn with_seeds_keys(self) -> Self {
        let is_its_own = self.error.is_none() && self.status.is_some_and(|status| status >= 0);
        let message = self.message.filter(|_| !is_its_own);
        Self { message, more: None, ..self }
    }

    /// The code of the failure, if it is one that this version knows.
    #[must_use]
    pub fn error_code(&self) -> Option<ErrorCode> {
        self.error.as_deref().and_then(ErrorCode::from_word)
    }

    /// The report as a compact JSON object: `status`, `id` if there is one, then what applies of the rest.
    #[must_use]
    pub fn to_json(&self, id: Option<&CallerId>) -> String {
        let mut json = String::with_capacity(96);
        self.write(&mut json, id);
        json
    }

    /// Appends the same.
    pub(crate) fn write(&self, json: &mut String, id: Option<&CallerId>) {
        json.push_str("{\"status\":");
        match self.status {
            Some(status) => write_number(json, status),
            None => json.push_str("null"),
        }
        if let Some(id) = id {
            json.push_str(",\"id\":");
            json.push_str(id.as_json());
        }
        if let Some(more) = &self.more {
            more.write_who(json);
        }
        for (key, text) in [(",\"error\":", &self.error), (",\"message\":", &self.message), (",\"signal\":", &self.signal)] {
            if let Some(text) = text {
                json.push_str(key);
                write_text(json, text);
            }
        }
        if let Some(more) = &self.more {
            more.write_rest(json);
        }
        json.push('}');
    }
}

/// Appends a number. That a string takes it cannot fail.
pub(crate) fn write_number(json: &mut String, number: impl fmt::Display) {
    let _ = fmt::Write::write_fmt(json, format_args!("{number}"));
}

/// Appends a text with its quotes; most have nothing to be escaped.
pub(crate) fn write_text(json: &mut String, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        return json.push_str(&Value::from(text).to_string());
    }
    json.push('"');
    json.push_str(text);
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_codes_is_in_the_order_of_the_enum() {
        for (index, (code, word, status)) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index);
            assert_eq!(ErrorCode::from_word(word), Some(code));
            assert!((-5..=-1).contains(&status));
        }
    }

    #[test]
    fn a_report_holds_exactly_what_applies() {
        let table = [
            (Outcome::Exited(7), r#"{"status":7}"#),
            (Outcome::Signaled(Signal(9)), r#"{"status":137,"signal":"SIGKILL"}"#),
            (Outcome::failed(ErrorCode::NotFound, "no \"x\""), r#"{"status":-1,"error":"not_found","message":"no \"x\""}"#),
            (
                Outcome::Stopped(ErrorCode::Cancelled, "m".into(), Signal(15)),
                r#"{"status":-4,"error":"cancelled","message":"m","signal":"SIGTERM"}"#,
            ),
        ];
        for (outcome, expected) in table {
            let report = Report::from(outcome);
            assert_eq!(report.to_json(None), expected);
            assert_eq!(serde_json::from_str::<Report>(expected).expect("our own"), report);
        }
    }

    #[test]
    fn a_status_of_a_seed_peer_is_kept_whatever_stands_beside_it() {
        let report: Report = serde_json::from_str(r#"{"status":null,"id":"s","error":5,"more":[1]}"#).expect("taken");
        assert_eq!(report.to_json(None), r#"{"status":null}"#);
    }
}
