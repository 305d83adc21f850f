//! Sizes as people write them: a number of bytes, or a number and KiB, MiB or GiB.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A size in bytes. For serde's `deserialize_with`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size: bytes, or text like \"16MiB\"")]
    enum Written {
        Bytes(usize),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Bytes(bytes) => Ok(Some(bytes)),
        Written::Text(text) => parse(&text).map(Some).map_err(de::Error::custom),
    }
}

/// A size as a JSON Schema. For schemars' `schema_with`.
pub fn described(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "description": "bytes", "type": "integer", "minimum": 0 },
            { "description": "text with a unit, like 16MiB", "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$" }
        ]
    })
}

fn parse(text: &str) -> Result<usize, String> {
    let wanted = || format!("\"{text}\" is no size: write bytes, or a number with KiB, MiB or GiB, like \"16MiB\"");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: usize = text[..digits].parse().map_err(|_| wanted())?;
    let unit: usize = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wanted()),
    };
    number.checked_mul(unit).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_written() {
        for (text, bytes) in [("7", 7), ("7B", 7), ("2KiB", 2048), ("16MiB", 16 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(parse(text), Ok(bytes));
        }
        for text in ["", "MiB", "1MB", "1.5MiB", "-1", "99999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
