//! The seed's frames on a link, in and out. What goes out holds exactly `name`, `id` and `params`; what comes in may hold more,
//! which is passed over.

use serde_json::value::RawValue;

use super::framer::{BadMessage, check_whole};
use crate::command::{Command, Place};
use crate::id::CallerId;
use crate::message::{CommandMessage, Fields, Params};
use crate::outcome::{Outcome, Report};

/// One frame of a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The peer asks for a run.
    Run {
        /// The script's name.
        name: String,
        /// The id to answer under.
        id: Option<CallerId>,
        /// What the script gets.
        params: Params,
    },
    /// The peer gives a command.
    Command(CommandMessage),
}

/// Why a frame says nothing.
#[derive(Debug, thiserror::Error)]
pub enum BadFrame {
    /// Not one JSON object.
    #[error(transparent)]
    Syntax(#[from] BadMessage),
    /// An object without the right keys.
    #[error("{0}")]
    Shape(String),
    /// A command that is not one.
    #[error("bad command: {0:?}")]
    Command(Outcome),
}

/// Reads a frame nested at most `nesting` levels.
///
/// # Errors
/// Why it cannot be taken.
pub fn decode(text: &str, nesting: usize) -> Result<Frame, BadFrame> {
    check_whole(text, nesting)?;
    let shape = |message: &str| BadFrame::Shape(message.to_owned());
    let fields: Fields = serde_json::from_str(text).map_err(|error| BadFrame::Shape(error.to_string()))?;
    let id = fields.id.map(|raw| CallerId::new(raw).ok_or_else(|| shape("the id is too long"))).transpose()?;
    let name = fields.name.map(RawValue::get).ok_or_else(|| shape("there is no \"name\""))?;
    let name: String = serde_json::from_str(name).map_err(|_| shape("\"name\" is not text"))?;
    let params = Params::new(fields.params);
    Ok(match Place::of_name(&name) {
        None => Frame::Run { name, id, params },
        Some(place) => {
            let command = Command::parse_seed(params.as_written()).map_err(BadFrame::Command)?;
            Frame::Command(CommandMessage { place, command, id, params })
        }
    })
}

/// The frame that asks for a run.
#[must_use]
pub fn run(name: &str, id: &CallerId, params: &Params) -> String {
    let name = RawText(name);
    format!("{{\"name\":{name},\"id\":{},\"params\":{}}}", id.as_json(), params.as_written())
}

/// The frame that gives a command, its params as they were written.
#[must_use]
pub fn command(id: Option<&CallerId>, params: &Params) -> String {
    match id {
        Some(id) => format!("{{\"name\":\"&cmd\",\"id\":{},\"params\":{}}}", id.as_json(), params.as_written()),
        None => format!("{{\"name\":\"&cmd\",\"params\":{}}}", params.as_written()),
    }
}

/// The frame that brings an outcome home.
#[must_use]
pub fn status(report: &Report, id: Option<&CallerId>) -> String {
    format!("{{\"name\":\"&cmd\",\"params\":{{\"code\":\"STATUS\",\"data\":{}}}}}", report.to_json(id))
}

/// Text as a JSON string.
struct RawText<'a>(&'a str);

impl std::fmt::Display for RawText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        serde_json::to_string(self.0).map_err(|_| std::fmt::Error)?.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_out_and_comes_in_the_same() {
        let raw: Box<RawValue> = serde_json::from_str("{\"a\": 1.0}").expect("JSON");
        let id: Box<RawValue> = serde_json::from_str("\"x\"").expect("JSON");
        let id = CallerId::new(&id).expect("short");
        let text = run("a\"b", &id, &Params::new(Some(&raw)));
        assert_eq!(text, r#"{"name":"a\"b","id":"x","params":{"a": 1.0}}"#);
        let found = decode(&text, 128).expect("our own");
        assert_eq!(found, Frame::Run { name: "a\"b".into(), id: Some(id), params: Params::new(Some(&raw)) });
    }

    #[test]
    fn a_status_is_a_command_and_comes_in_as_one() {
        let text = status(&Report::from(Outcome::Exited(7)), None);
        assert_eq!(text, r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":7}}}"#);
        let Frame::Command(message) = decode(&text, 128).expect("our own") else { panic!("a run") };
        assert_eq!(message.command, Command::Status(r#"{"status":7}"#.into()));
        assert_eq!(command(None, &message.params), text);
    }

    #[test]
    fn options_of_a_seed_peer_are_passed_over_and_bad_frames_named() {
        assert!(decode(r#"{"name":"t","queue":true,"to":"*"}"#, 128).is_ok());
        for text in ["", "[]", "{}", r#"{"name":5}"#, r#"{"name":"t"} x"#, r#"{"name":"&cmd","params":{"code":"NO"}}"#] {
            assert!(decode(text, 128).is_err(), "{text}");
        }
    }
}
