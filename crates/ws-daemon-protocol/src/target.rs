//! Who may run a request: names, globs, tags, and what is left out. It only tells whether a peer matches; who is there is for
//! others to know.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Patterns in one target; a request with more is refused.
pub const PATTERNS: usize = 1024;

/// The longest pattern, in bytes; a request with a longer one is refused.
pub const PATTERN_BYTES: usize = 256;

/// Who may run a request: whoever matches one of the patterns that take in, and none of those that leave out. With only
/// patterns that leave out, everyone else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    patterns: Vec<Pattern>,
    /// Whether it was written as a list: it is written again as it was.
    is_list: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    leaves_out: bool,
    is_tag: bool,
    glob: Box<str>,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// A pattern without a name.
    #[error("a target needs a name: \"web-1\", \"web-*\", \"tag:sms\", \"!web-1\", or a list of these")]
    Empty,
    /// A pattern that is too long.
    #[error("a name in a target has at most {PATTERN_BYTES} bytes")]
    TooLong,
    /// Too many of them, or none.
    #[error("a target is a list of 1 to {PATTERNS} names")]
    Count,
}

impl Target {
    /// Reads one pattern: a name, a glob with `*` and `?`, `tag:` and a glob, each with `!` before it to leave out.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        Ok(Self { patterns: vec![Pattern::parse(text)?], is_list: false })
    }

    /// Reads a list of patterns.
    ///
    /// # Errors
    /// Why it is none.
    pub fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, BadTarget> {
        let patterns = texts.into_iter().take(PATTERNS + 1).map(Pattern::parse).collect::<Result<Vec<_>, _>>()?;
        if patterns.is_empty() || patterns.len() > PATTERNS {
            Err(BadTarget::Count)
        } else {
            Ok(Self { patterns, is_list: true })
        }
    }

    /// Whether a peer of this name and these tags may run it.
    #[must_use]
    pub fn matches<T: AsRef<str>>(&self, name: &str, tags: &[T]) -> bool {
        let hit = |pattern: &&Pattern| pattern.hits(name, tags);
        let takes_in = self.patterns.iter().filter(|pattern| !pattern.leaves_out);
        let taken_in = takes_in.clone().next().is_none() || takes_in.clone().any(|pattern| hit(&pattern));
        taken_in && !self.patterns.iter().filter(|pattern| pattern.leaves_out).any(|pattern| hit(&pattern))
    }

    /// The name, if this is a single plain one.
    #[must_use]
    pub fn single_name(&self) -> Option<&str> {
        match &self.patterns[..] {
            [Pattern { leaves_out: false, is_tag: false, glob }] if !glob.contains(['*', '?']) => Some(glob),
            _ => None,
        }
    }

    /// Whether all that this takes in is written in `other`, which leaves nothing out: then whoever matches this matches `other`.
    #[must_use]
    pub fn is_written_in(&self, other: &Self) -> bool {
        let takes_in =
            |target: &Self| target.patterns.iter().filter(|pattern| !pattern.leaves_out).cloned().collect::<Vec<_>>();
        let (own, others) = (takes_in(self), takes_in(other));
        others.len() == other.patterns.len() && !own.is_empty() && own.iter().all(|pattern| others.contains(pattern))
    }

    /// Whether it leaves anybody out.
    #[must_use]
    pub fn leaves_out(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.leaves_out)
    }

    /// Whether it is `"*"`: every peer there is.
    #[must_use]
    pub fn is_everyone(&self) -> bool {
        self.patterns.iter().any(|pattern| !pattern.leaves_out && !pattern.is_tag && &*pattern.glob == "*")
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, BadTarget> {
        if text.len() > PATTERN_BYTES {
            return Err(BadTarget::TooLong);
        }
        let (leaves_out, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let (is_tag, glob) = rest.strip_prefix("tag:").map_or((false, rest), |glob| (true, glob));
        if glob.is_empty() { Err(BadTarget::Empty) } else { Ok(Self { leaves_out, is_tag, glob: glob.into() }) }
    }

    fn hits<T: AsRef<str>>(&self, name: &str, tags: &[T]) -> bool {
        if self.is_tag { tags.iter().any(|tag| glob(&self.glob, tag.as_ref())) } else { glob(&self.glob, name) }
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters and `?` for one. Linear but for the stars: after a
/// mismatch only the last star is tried again, so no pattern takes long.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (mut rest, mut left) = (pattern.chars(), text.chars());
    let mut star: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let here = left.clone();
        match (rest.next(), left.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((rest.clone(), here.clone()));
                left = here;
            }
            (Some('?'), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => {
                let Some((behind, mut from)) = star.take() else { return false };
                if from.next().is_none() {
                    return false;
                }
                rest = behind.clone();
                left = from.clone();
                star = Some((behind, from));
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (out, tag) = (if self.leaves_out { "!" } else { "" }, if self.is_tag { "tag:" } else { "" });
        write!(f, "{out}{tag}{}", self.glob)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.patterns.iter().enumerate() {
            write!(f, "{}{pattern}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.patterns[..] {
            [one] if !self.is_list => serializer.collect_str(one),
            many => serializer.collect_seq(many.iter().map(ToString::to_string)),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a name, a glob, \"tag:…\", \"!…\", or a list of these")]
        enum Written {
            One(String),
            Many(Vec<String>),
        }
        match Written::deserialize(deserializer)? {
            Written::One(text) => Self::parse(&text),
            Written::Many(texts) => Self::list(texts.iter().map(String::as_str)),
        }
        .map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Target {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let pattern = serde_json::json!({ "type": "string", "minLength": 1, "maxLength": PATTERN_BYTES });
        schemars::json_schema!({
            "description": "a name, a glob with * and ?, \"tag:\" and a glob, each with ! before it to leave out, or a list of these",
            "anyOf": [pattern, { "type": "array", "items": pattern, "minItems": 1, "maxItems": PATTERNS }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_matches() {
        let table: [(&str, &str, &[&str], bool); 20] = [
            ("\"web-1\"", "web-1", &[], true),
            ("\"web-1\"", "web-10", &[], false),
            ("\"web-*\"", "web-", &[], true),
            ("\"web-*\"", "web-10", &[], true),
            ("\"web-?\"", "web-10", &[], false),
            ("\"*-1*0\"", "web-1-100", &[], true),
            ("\"*é?\"", "caféx", &[], true),
            ("\"*\"", "", &[], true),
            ("\"**a\"", "bba", &[], true),
            ("\"a*\"", "b", &[], false),
            ("\"tag:sms\"", "sms", &[], false),
            ("\"tag:sms\"", "x", &["till", "sms"], true),
            ("\"tag:s*\"", "x", &["till", "sms"], true),
            ("\"!web-1\"", "web-1", &[], false),
            ("\"!web-1\"", "web-2", &[], true),
            ("[\"web-*\",\"!web-1\"]", "web-1", &[], false),
            ("[\"web-*\",\"!web-1\"]", "web-2", &[], true),
            ("[\"web-*\",\"!web-1\"]", "till", &[], false),
            ("[\"a\",\"tag:b\",\"!tag:c\"]", "x", &["b"], true),
            ("[\"a\",\"tag:b\",\"!tag:c\"]", "a", &["c"], false),
        ];
        for (target, name, tags, expected) in table {
            let found: Target = serde_json::from_str(target).expect("the table holds targets");
            assert_eq!(found.matches(name, tags), expected, "{target} {name} {tags:?}");
            assert_eq!(serde_json::to_string(&found).expect("text"), target);
        }
    }

    #[test]
    fn what_is_no_target_is_refused_and_one_name_is_told_from_many() {
        for text in ["\"\"", "\"!\"", "\"tag:\"", "[]", "5", "[\"a\",5]"] {
            assert!(serde_json::from_str::<Target>(text).is_err(), "{text}");
        }
        assert_eq!(Target::parse(&"x".repeat(PATTERN_BYTES + 1)), Err(BadTarget::TooLong));
        assert_eq!(Target::list((0..=PATTERNS).map(|_| "a")), Err(BadTarget::Count));
        let single = |text: &str| Target::parse(text).expect("a target").single_name().map(str::to_owned);
        assert_eq!(single("web-1").as_deref(), Some("web-1"));
        for text in ["web-*", "tag:a", "!a"] {
            assert_eq!(single(text), None, "{text}");
        }
        assert!(Target::parse("*").expect("a target").is_everyone() && !Target::parse("a*").expect("a target").is_everyone());
    }

    #[test]
    fn what_is_written_in_another_target_is_within_it() {
        let target = |text: &str| serde_json::from_str::<Target>(text).expect("the table holds targets");
        let table = [
            ("\"a\"", "\"a\"", true),
            ("\"tag:a\"", "[\"b\",\"tag:a\"]", true),
            ("[\"tag:a\",\"!b\"]", "\"tag:a\"", true),
            ("[\"tag:a\",\"b\"]", "\"tag:a\"", false),
            ("\"tag:a\"", "[\"tag:a\",\"!b\"]", false),
            ("\"!b\"", "\"tag:a\"", false),
            ("\"a\"", "\"a*\"", false),
        ];
        for (inner, outer, expected) in table {
            assert_eq!(target(inner).is_written_in(&target(outer)), expected, "{inner} {outer}");
        }
    }

    #[test]
    fn a_pattern_of_stars_takes_no_longer_than_any_other() {
        let pattern = "*a".repeat(60);
        assert!(!glob(&pattern, &"a".repeat(100_000).replace("aaaaaaaaaa", "bbbbbbbbbb")));
    }
}
