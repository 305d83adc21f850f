//! Durations as people write them: a number of milliseconds, or a number and a unit.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// The longest duration that can be said: 366 days. More is refused, so that no deadline overflows a clock.
pub const LONGEST: Duration = Duration::from_hours(8784);

/// Reads `"250ms"`, `"30s"`, `"5m"`, `"24h"` or `"7d"`; a bare number is milliseconds.
///
/// # Errors
/// What is wrong, for people, when it is none of these or longer than [`LONGEST`].
pub fn parse(text: &str) -> Result<Duration, String> {
    let wanted = || format!("\"{text}\" is no duration: write milliseconds, or a number with ms, s, m, h or d, like \"30s\"");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| wanted())?;
    let unit_ms = match &text[digits..] {
        "" | "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(wanted()),
    };
    let duration = number.checked_mul(unit_ms).map(Duration::from_millis);
    duration.filter(|duration| *duration <= LONGEST).ok_or_else(|| format!("\"{text}\" is longer than 366 days"))
}

/// A duration in JSON: an integer of milliseconds or text as [`parse`] reads it. For serde's `deserialize_with`.
///
/// # Errors
/// The deserializer's, or what [`parse`] says.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a duration: milliseconds, or text like \"30s\"")]
    enum Written {
        Milliseconds(u64),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Milliseconds(number) => parse(&number.to_string()),
        Written::Text(text) => parse(&text),
    }
    .map_err(de::Error::custom)
}

/// A duration as text, as a regular expression.
#[cfg(feature = "schema")]
pub(crate) const TEXT: &str = "^[0-9]+(ms|s|m|h|d)?$";

/// A duration in JSON, as a JSON Schema.
#[cfg(feature = "schema")]
pub(crate) fn schema() -> serde_json::Value {
    serde_json::json!({
        "description": "milliseconds, or text with a unit: \"250ms\", \"30s\", \"5m\", \"24h\", \"7d\"; at most 366 days",
        "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX) },
            { "type": "string", "pattern": TEXT }
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_written() {
        let table = [("250", 250), ("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("2d", 172_800_000)];
        for (text, ms) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "s", "-1", "1.5s", "5 s", "5w", "99999999999999999999", "367d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
