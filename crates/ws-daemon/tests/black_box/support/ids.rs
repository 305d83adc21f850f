//! Conversations that were written down once and are held again: which of their ids stand for which of today's. It never sends
//! anything.

use std::collections::BTreeMap;

use serde_json::Value;

/// What differs each time that a conversation is held: which ids of the page stand for which ids of today.
#[derive(Default)]
pub struct Ids(BTreeMap<String, String>);

impl Ids {
    /// Asserts that a message says at least what a recorded one says. Who records cannot know the ids, how long something takes,
    /// the version, and what words for people a later version finds.
    #[track_caller]
    pub fn says(&mut self, recorded: &Value, today: &Value) {
        match (recorded, today) {
            (Value::Object(recorded), Value::Object(today)) => {
                for (key, value) in recorded {
                    let found = today.get(key).unwrap_or_else(|| panic!("no {key:?} in {today:?}"));
                    if !matches!(&**key, "ms" | "us" | "version" | "message") {
                        self.says(value, found);
                    }
                }
            }
            (Value::String(recorded), Value::String(today)) => self.same(recorded, today),
            _ => assert_eq!(today, recorded),
        }
    }

    /// Asserts that a line is the one on the page, but for its ids and how long something took.
    #[track_caller]
    pub fn same(&mut self, page: &str, today: &str) {
        let ((shape, theirs), (found, ours)) = (without_ids(page), without_ids(today));
        assert_eq!(found, shape, "{today}");
        for (theirs, ours) in theirs.into_iter().zip(ours) {
            let known = self.0.entry(theirs.to_owned()).or_insert_with(|| ours.to_owned());
            assert_eq!(known, ours, "{today}: another id than before");
        }
    }

    /// A line of the page with today's ids.
    pub fn today(&self, page: &str) -> String {
        self.0.iter().fold(page.to_owned(), |line, (theirs, ours)| line.replace(theirs, ours))
    }
}

/// A line without its UUIDs and the figures behind `ms` and `us`, and the UUIDs.
fn without_ids(line: &str) -> (String, Vec<&str>) {
    const UUID: usize = 36;
    let is_uuid = |text: &str| {
        text.len() == UUID
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    let (mut shape, mut ids, mut rest) = (String::new(), Vec::new(), line);
    while let Some(first) = rest.chars().next() {
        match rest.get(..UUID).filter(|text| is_uuid(text)) {
            Some(id) => {
                ids.push(id);
                rest = &rest[UUID..];
            }
            None => {
                shape.push(first);
                rest = &rest[first.len_utf8()..];
                if shape.ends_with("\"ms\":") || shape.ends_with("\"us\":") {
                    rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
                }
            }
        }
    }
    (shape, ids)
}
