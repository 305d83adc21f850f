//! What a final line, or a record of one, says to a person: the words for a failure, the output that came with it. It never
//! decides an exit code.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use ws_daemon_protocol::outcome::Report;

use super::clean::clean;
use super::conversation::Line;
use super::exit::Trouble;
use super::printer::{Printer, Stream};

/// Why it failed, clean; `None` where the script exited by itself, which its status tells.
#[must_use]
pub fn words(report: &Report) -> Option<String> {
    Some(match (&report.error, &report.message, &report.signal, report.status) {
        (Some(error), Some(message), ..) => format!("{}: {}", clean(error), clean(message)),
        (Some(error), None, ..) => clean(error),
        (None, _, Some(signal), _) => format!("killed by {}", clean(signal)),
        (None, _, None, None) => "killed by a signal that the peer does not name".to_owned(),
        (None, _, None, Some(-2)) => {
            "nobody is connected to this server yet: start a client that has it as its proxy".to_owned()
        }
        (None, _, None, Some(status)) if !(0..=255).contains(&status) => {
            format!("the peer answered with the status {status} and no words")
        }
        _ => return None,
    })
}

/// How it ended in a few words, clean.
#[must_use]
pub fn ending(report: &Report) -> String {
    words(report).unwrap_or_else(|| format!("exit status {}", report.status.unwrap_or_default()))
}

/// Some bytes that a script printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where they were printed.
    pub stream: Stream,
    /// What was printed.
    pub bytes: Vec<u8>,
    /// How much is missing before them, in bytes.
    pub gap: u64,
}

impl Chunk {
    /// The chunk of an `output` event; `None` if it is another event, or none that is understood.
    #[must_use]
    pub fn of_event(line: &Line) -> Option<Self> {
        let stream = Stream::of_word(line.text("stream")?)?;
        let bytes = decoded(line.text("data").unwrap_or_default(), line.text("encoding"))?;
        Some(Self { stream, bytes, gap: line.number("gap").unwrap_or_default() })
    }

    /// Prints it; what is missing is said on stderr.
    pub fn print(&self, printer: &mut Printer) -> Result<(), Trouble> {
        say_gap(printer, self.stream, self.gap);
        printer.output(self.stream, &self.bytes)
    }
}

fn say_gap(printer: &mut Printer, stream: Stream, bytes: u64) {
    if bytes > 0 {
        printer.note(format_args!("{bytes} bytes of {} are missing here", stream.word()));
    }
}

/// Text as it was sent, or the bytes that base64 stands for.
fn decoded(data: &str, encoding: Option<&str>) -> Option<Vec<u8>> {
    match encoding {
        Some("base64") => BASE64_STANDARD.decode(data).ok(),
        _ => Some(data.as_bytes().to_vec()),
    }
}

/// What stands under `stdout` or `stderr` of a final line or a report, in its pieces: each with what is missing before it.
#[must_use]
pub fn printed(report: &Value, stream: Stream) -> Vec<Chunk> {
    let word = stream.word();
    let encoding = report.get("encoding").and_then(|encodings| encodings.get(word)).and_then(Value::as_str);
    let bytes = report.get(word).and_then(Value::as_str).and_then(|data| decoded(data, encoding));
    let Some(mut bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Vec::new() };
    let cut = report.get("cut").and_then(|cuts| cuts.get(word));
    let number = |key| cut.and_then(|cut| cut.get(key)).and_then(Value::as_u64);
    let (Some(at), Some(gap)) = (number("at").and_then(|at| usize::try_from(at).ok()), number("bytes")) else {
        return vec![Chunk { stream, bytes, gap: 0 }];
    };
    let tail = bytes.split_off(at.min(bytes.len()));
    vec![Chunk { stream, bytes, gap: 0 }, Chunk { stream, bytes: tail, gap }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_printed_is_found_whole_cut_or_encoded() {
        let chunk = |bytes: &[u8], gap| Chunk { stream: Stream::Out, bytes: bytes.to_vec(), gap };
        for (report, expected) in [
            (json!({ "stdout": "é\n" }), vec![chunk("é\n".as_bytes(), 0)]),
            (json!({ "stdout": "/w==", "encoding": { "stdout": "base64" } }), vec![chunk(&[255], 0)]),
            (
                json!({ "stdout": "abcdef", "cut": { "stdout": { "at": 2, "bytes": 9 } } }),
                vec![chunk(b"ab", 0), chunk(b"cdef", 9)],
            ),
            (json!({ "stdout": "ab", "cut": { "stdout": { "at": 7, "bytes": 9 } } }), vec![chunk(b"ab", 0), chunk(b"", 9)]),
            (json!({ "stdout": "ab", "cut": { "stdout": true } }), vec![chunk(b"ab", 0)]),
            (json!({ "stdout": "?", "encoding": { "stdout": "base64" } }), vec![]),
            (json!({ "stderr": "x" }), vec![]),
            (json!({ "stdout": 5 }), vec![]),
        ] {
            assert_eq!(printed(&report, Stream::Out), expected, "{report}");
        }
    }
}
