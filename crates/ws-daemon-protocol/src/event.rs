//! The event lines that a caller gets between its request and the final line. They tell how far a run has come, and never how
//! it ended.

use std::sync::Arc;

use serde_json::Value;

use crate::command::StreamName;
use crate::id::{CallerId, RunId};

/// What becomes known of a request before it is over, and that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is on disk.
    Accepted {
        /// Its run.
        run: RunId,
        /// The known name that is nearest to the one that was never seen.
        nearest: Option<Box<str>>,
        /// Of a fan-out: how many runs it has, this one among them.
        runs: Option<usize>,
    },
    /// A peer has it.
    Delivered {
        /// Its run.
        run: RunId,
        /// Who.
        peer: Arc<str>,
    },
    /// The script has been started.
    Started {
        /// Its run.
        run: RunId,
        /// Where.
        peer: Arc<str>,
    },
    /// The script printed something.
    Output(Chunk),
    /// Every run of a fan-out has its final line.
    Done {
        /// How many there were.
        runs: usize,
        /// How many of them did not end with status 0.
        failed: usize,
    },
}

/// A piece of what a script printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The run.
    pub run: RunId,
    /// The stream.
    pub stream: StreamName,
    /// Where in the stream it begins, in bytes.
    pub offset: u64,
    /// The text, or the bytes in base 64.
    pub data: String,
    /// Whether `data` is base 64, since the bytes are not UTF-8.
    pub is_base64: bool,
    /// How many bytes right before it were lost.
    pub gap: u64,
}

impl Event {
    /// The event as a line, without its newline, under the id of the request.
    #[must_use]
    pub fn to_json(&self, id: Option<&CallerId>) -> String {
        let word = match self {
            Self::Accepted { .. } => "accepted",
            Self::Delivered { .. } => "delivered",
            Self::Started { .. } => "started",
            Self::Output(_) => "output",
            Self::Done { .. } => "done",
        };
        let mut json = format!("{{\"event\":\"{word}\"");
        if let Some(id) = id {
            json.push_str(&format!(",\"id\":{}", id.as_json()));
        }
        let text = |text: &str| Value::from(text);
        json.push_str(&match self {
            Self::Accepted { run, nearest, runs } => {
                let nearest = nearest.as_ref().map_or(String::new(), |nearest| format!(",\"nearest\":{}", text(nearest)));
                let runs = runs.map_or(String::new(), |runs| format!(",\"runs\":{runs}"));
                format!(",\"run\":\"{run}\"{nearest}{runs}")
            }
            Self::Delivered { run, peer } | Self::Started { run, peer } => {
                format!(",\"run\":\"{run}\",\"peer\":{}", text(peer))
            }
            Self::Output(chunk) => chunk.members(),
            Self::Done { runs, failed } => format!(",\"runs\":{runs},\"failed\":{failed}"),
        });
        json.push('}');
        json
    }
}

impl Chunk {
    fn members(&self) -> String {
        let Self { run, stream, offset, data, is_base64, gap } = self;
        let gap = if *gap > 0 { format!(",\"gap\":{gap}") } else { String::new() };
        let encoding = if *is_base64 { ",\"encoding\":\"base64\"" } else { "" };
        // What is printed is long: a `Value` would copy it, and write it piece by piece.
        let (stream, data) = (stream.word(), serde_json::to_string(data).unwrap_or_default());
        format!(",\"run\":\"{run}\",\"stream\":\"{stream}\",\"offset\":{offset}{gap},\"data\":{data}{encoding}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_as_lines() {
        let run = || RunId::new("r");
        let id: Box<serde_json::value::RawValue> = serde_json::from_str("5").expect("JSON");
        let id = CallerId::new(&id);
        let chunk = Chunk { run: run(), stream: StreamName::Stderr, offset: 7, data: "a\n".into(), is_base64: false, gap: 0 };
        let table = [
            (Event::Accepted { run: run(), nearest: None, runs: None }, r#"{"event":"accepted","id":5,"run":"r"}"#),
            (
                Event::Accepted { run: run(), nearest: Some("web".into()), runs: None },
                r#"{"event":"accepted","id":5,"run":"r","nearest":"web"}"#,
            ),
            (Event::Accepted { run: run(), nearest: None, runs: Some(3) }, r#"{"event":"accepted","id":5,"run":"r","runs":3}"#),
            (Event::Started { run: run(), peer: "a\"".into() }, r#"{"event":"started","id":5,"run":"r","peer":"a\""}"#),
            (Event::Output(chunk.clone()), r#"{"event":"output","id":5,"run":"r","stream":"stderr","offset":7,"data":"a\n"}"#),
            (
                Event::Output(Chunk { is_base64: true, gap: 2, ..chunk }),
                r#"{"event":"output","id":5,"run":"r","stream":"stderr","offset":7,"gap":2,"data":"a\n","encoding":"base64"}"#,
            ),
            (Event::Done { runs: 3, failed: 1 }, r#"{"event":"done","id":5,"runs":3,"failed":1}"#),
        ];
        for (event, expected) in table {
            assert_eq!(event.to_json(id.as_ref()), expected);
        }
        assert_eq!(Event::Done { runs: 1, failed: 0 }.to_json(None), r#"{"event":"done","runs":1,"failed":0}"#);
    }
}
