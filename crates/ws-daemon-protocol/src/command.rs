//! The built-in commands: their codes, their data, and where they are to be carried out. It never carries one out.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::codec::compact::compact;
use crate::outcome::{ErrorCode, Outcome};

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
}

#[derive(Deserialize)]
struct Written<'a> {
    code: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Command {
    /// The codes there are.
    pub const CODES: [&'static str; 2] = ["PAUSE", "STATUS"];

    /// Reads the `params` of a command message.
    ///
    /// # Errors
    /// A failed outcome that says what is wrong with the code or its data.
    pub fn parse(params: &str) -> Result<Self, Outcome> {
        let bad = |message: String| Outcome::Failed(ErrorCode::BadMessage, message);
        let written: Written = serde_json::from_str(params)
            .map_err(|error| bad(format!("a command's params must be {{\"code\":\"…\",\"data\":…}}: {}", fault(&error))))?;
        let data = written.data.map_or("null", RawValue::get);
        match written.code.to_ascii_uppercase().as_str() {
            "PAUSE" => pause(data).map(Self::Pause).map_err(bad),
            "STATUS" if data.starts_with('{') => Ok(Self::Status(compact(data).into())),
            "STATUS" => Err(bad("STATUS takes an object as data: {\"status\":0,\"id\":\"…\"}".into())),
            code => Err(unknown(code)),
        }
    }
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
            (r#"{"code":"PUASE"}"#, Err(ErrorCode::UnknownCommand)),
        ];
        for (params, expected) in table {
            let found = Command::parse(params).map_err(|outcome| match outcome {
                Outcome::Failed(error, _) => error,
                other => panic!("{other:?}"),
            });
            assert_eq!(found, expected, "{params}");
        }
    }

    #[test]
    fn a_slip_is_answered_with_the_nearest_code() {
        let Err(Outcome::Failed(_, message)) = Command::parse(r#"{"code":"PUASE"}"#) else { panic!("taken") };
        assert_eq!(message, "no command has the code \"PUASE\"; did you mean PAUSE?");
    }
}
