//! What a request carries along for whoever follows it through logs: the traceparent of W3C Trace Context, what it is called elsewhere,
//! and the event that it is for. It is checked, passed on, and never gone by.

use serde::{Deserialize, Deserializer};

/// The longest name of a request elsewhere, and of an event, in bytes.
pub const MARK_BYTES: usize = 200;

/// A traceparent, as a pattern; of all versions what the first has.
pub const TRACEPARENT: &str = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$";

/// What a request carries along; each only where it is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Of which trace it is, and of which span.
    pub traceparent: Option<Box<str>>,
    /// What it is called elsewhere.
    pub request_id: Option<Box<str>>,
    /// What has happened that it is for.
    pub event: Option<Box<str>>,
}

impl Trace {
    /// The keys of a request, and of a frame, each with its part.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, Option<&str>); 3] {
        let Self { traceparent, request_id, event } = self;
        [("traceparent", traceparent.as_deref()), ("request_id", request_id.as_deref()), ("event", event.as_deref())]
    }

    /// The same, if it carries anything.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// What it costs in memory, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        size_of::<Self>() + self.parts().iter().filter_map(|(_, part)| *part).map(str::len).sum::<usize>()
    }

    /// Appends its parts as members of a JSON object, each with a comma before it.
    pub(crate) fn write(&self, json: &mut String) {
        for (key, part) in self.parts() {
            if let Some(part) = part {
                json.push_str(&format!(",\"{key}\":{}", serde_json::Value::from(part)));
            }
        }
    }

    /// The place of the part under this key, if there is such a part.
    pub(crate) fn part(&mut self, key: &str) -> Option<&mut Option<Box<str>>> {
        match key {
            "traceparent" => Some(&mut self.traceparent),
            "request_id" => Some(&mut self.request_id),
            "event" => Some(&mut self.event),
            _ => None,
        }
    }
}

/// Whether a text can stand under one of the keys.
pub(crate) fn fits(key: &str, text: &str) -> bool {
    match key {
        "traceparent" => is_traceparent(text),
        "request_id" => is_word(text),
        _ => is_mark(text),
    }
}

/// Whether a text is a traceparent (W3C Trace Context, section 3.2).
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_nothing = |part: &str| part.bytes().all(|byte| byte == b'0');
    matches!(&parts[..], [version, trace, span, flags]
        if [version, trace, span, flags].into_iter().all(|part| is_hex(part))
            && (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2)
            && *version != "ff" && !is_nothing(trace) && !is_nothing(span))
}

/// Whether a text can be what a request is called elsewhere: visible ASCII.
#[must_use]
pub fn is_word(text: &str) -> bool {
    is_mark(text) && !text.contains(' ')
}

/// Whether a text can be an event: printable ASCII, so that it is on one line of a log.
#[must_use]
pub fn is_mark(text: &str) -> bool {
    (1..=MARK_BYTES).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// A part in a frame. What is none is passed over: it must not cost the run.
pub(crate) fn traceparent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    kept(deserializer, is_traceparent)
}

/// Likewise.
pub(crate) fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    kept(deserializer, is_word)
}

/// Likewise.
pub(crate) fn mark<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    kept(deserializer, is_mark)
}

fn kept<'de, D: Deserializer<'de>>(deserializer: D, is_one: fn(&str) -> bool) -> Result<Option<Box<str>>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) if is_one(&text) => Some(text.into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_one_of_the_standard_and_a_mark_is_one_line() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        let nothing = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let wrong =
            [&good[1..], &good.to_uppercase(), &good.replacen("00", "ff", 1), &nothing, &format!("{good}-x"), "", "---"];
        for wrong in wrong {
            assert!(!is_traceparent(wrong), "{wrong}");
        }
        assert!(is_word("r-1") && !is_word("r 1") && is_mark("Push Hook") && is_mark(&"x".repeat(MARK_BYTES)));
        for wrong in ["", "a\nb", "é", "\u{7f}", &"x".repeat(MARK_BYTES + 1)] {
            assert!(!is_mark(wrong), "{wrong:?}");
        }
    }
}
