//! What a final line may hold beside the seed's keys: which run it was, who ran it, what it printed. It never says how a run
//! ended.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::codec::compact::compact;
use crate::id::RunId;
use crate::outcome::{Report, write_number, write_text};

/// The keys of a final line beyond the seed's, each only where it applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct More {
    /// The run.
    pub run: Option<RunId>,
    /// Who ran it.
    pub peer: Option<Box<str>>,
    /// What the script printed, as JSON: compact text.
    pub result: Option<Box<str>>,
    /// What it printed, head and tail.
    pub stdout: Option<Box<str>>,
    /// What it said of trouble, head and tail.
    pub stderr: Option<Box<str>>,
    /// Which of the two are in base 64, since they are not UTF-8: a JSON object from stream to `"base64"`.
    pub encoding: Option<Box<str>>,
    /// Where something is missing between head and tail: a JSON object from stream to `{"at":…,"bytes":…}`, in bytes.
    pub cut: Option<Box<str>>,
    /// How long the script ran, in milliseconds.
    pub ms: Option<u64>,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    run: Option<&'a RawValue>,
    peer: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "also_null")]
    result: Option<&'a RawValue>,
    stdout: Option<&'a RawValue>,
    stderr: Option<&'a RawValue>,
    encoding: Option<&'a RawValue>,
    cut: Option<&'a RawValue>,
    ms: Option<&'a RawValue>,
}

/// A `result` that is `null` is a result; only an absent one is none.
fn also_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl More {
    /// Reads what stands in a status beside the seed's keys. A value of the wrong type is passed over: it must not cost the
    /// status.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let Ok(written) = serde_json::from_str::<Written>(text) else { return Self::default() };
        let string = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<Box<str>>(raw.get()).ok());
        let object = |raw: Option<&RawValue>| {
            raw.filter(|raw| raw.get().starts_with('{')).map(|raw| Box::from(compact(raw.get()).as_ref()))
        };
        Self {
            run: string(written.run).map(RunId::new),
            peer: string(written.peer),
            result: written.result.map(|raw| compact(raw.get()).into()),
            stdout: string(written.stdout),
            stderr: string(written.stderr),
            encoding: object(written.encoding),
            cut: object(written.cut),
            ms: written.ms.and_then(|raw| raw.get().parse().ok()),
        }
    }

    /// Appends `run` and `peer`, which come right behind the id.
    pub(crate) fn write_who(&self, json: &mut String) {
        if let Some(run) = &self.run {
            json.push_str(",\"run\":\"");
            json.push_str(run.as_str());
            json.push('"');
        }
        if let Some(peer) = &self.peer {
            json.push_str(",\"peer\":");
            write_text(json, peer);
        }
    }

    /// Appends the rest, which comes last.
    pub(crate) fn write_rest(&self, json: &mut String) {
        if let Some(result) = &self.result {
            json.push_str(",\"result\":");
            json.push_str(result);
        }
        for (key, text) in [(",\"stdout\":", &self.stdout), (",\"stderr\":", &self.stderr)] {
            if let Some(text) = text {
                json.push_str(key);
                write_text(json, text);
            }
        }
        for (key, object) in [(",\"encoding\":", &self.encoding), (",\"cut\":", &self.cut)] {
            if let Some(object) = object {
                json.push_str(key);
                json.push_str(object);
            }
        }
        if let Some(ms) = self.ms {
            json.push_str(",\"ms\":");
            write_number(json, ms);
        }
    }
}

impl Report {
    /// Reads a status with all its keys, as a daemon of version 2 says it and as the spool keeps it. A seed peer's is read by
    /// serde alone: it has no others.
    ///
    /// # Errors
    /// When there is no status in it.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut report: Self = serde_json::from_str(text)?;
        let more = More::parse(text);
        report.more = (more != More::default()).then(|| Box::new(more));
        Ok(report)
    }

    /// The report with what stands beside the status, to be filled in.
    pub fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_with(Box::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_line_is_read_and_written_the_same() {
        let text = concat!(
            r#"{"status":0,"run":"r","peer":"web \"1\"","result":{"a":[1.0]},"stdout":"AA==","stderr":"e\n","#,
            r#""encoding":{"stdout":"base64"},"cut":{"stderr":{"at":1,"bytes":5}},"ms":12}"#
        );
        let report = Report::parse(text).expect("a status");
        assert_eq!(report.to_json(None), text);
        assert_eq!(report.more.expect("more").result.as_deref(), Some(r#"{"a":[1.0]}"#));
    }

    #[test]
    fn what_is_of_the_wrong_type_is_passed_over_and_the_status_stays() {
        let report = Report::parse(r#"{"status":3,"run":5,"peer":[],"stdout":{},"cut":"x","ms":"1","result":null}"#);
        assert_eq!(report.expect("a status").to_json(None), r#"{"status":3,"result":null}"#);
        assert_eq!(Report::parse(r#"{"status":7}"#).expect("a status").more, None);
        assert!(Report::parse("[]").is_err());
    }
}
