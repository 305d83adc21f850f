//! The schema of a script's params, and params held against it. It opens no file and no connection: a schema is all in its
//! contract. It takes time in proportion to what it looks at, whoever sent that.

use std::fmt;

use jsonschema::{PatternOptions, Validator};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::written::short;

/// Memory of one compiled pattern.
const PATTERN_BYTES: usize = 1 << 20;

/// Characters of the place in params that is said to be wrong.
const PLACE_CHARS: usize = 200;

/// Characters of a schema in brief.
const SUMMARY_CHARS: usize = 200;

/// A schema, ready to be used.
pub struct Schema {
    written: Value,
    validator: Validator,
}

impl Schema {
    /// Makes one of what was written.
    pub fn compile(written: Value) -> Result<Self, String> {
        if !(written.is_object() || written.is_boolean()) {
            return Err("a schema is an object, true or false".into());
        }
        let options = jsonschema::options().offline();
        // This engine takes no longer for one text than for another. What it cannot do (a look ahead, say) is a fault.
        let options =
            options.with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES));
        // A format that is not looked at would be a rule passed over.
        let options = options.should_validate_formats(true).should_ignore_unknown_formats(false);
        let validator = options.build(&written).map_err(|error| short(&at(&error.instance_path().to_string(), &error)))?;
        Ok(Self { written, validator })
    }

    /// What is wrong with params, and where. It never says what stands there: that may be a secret, and this goes to the log.
    pub fn fault_in(&self, params: &str) -> Option<String> {
        let Strict(value) = match serde_json::from_str(params) {
            Ok(value) => value,
            Err(error) => return Some(short(&error.to_string())),
        };
        let error = self.validator.validate(&value).err()?;
        let place: String = error.instance_path().to_string();
        let place = match place.char_indices().nth(PLACE_CHARS) {
            Some((end, _)) => format!("{}…", &place[..end]),
            None => place,
        };
        Some(at(&place, &short(&error.masked().to_string())))
    }

    /// In a few words: the keys of an object, those that need not be there with a question mark.
    pub fn summary(&self) -> String {
        let kind = |schema: &Value| match schema.get("type") {
            Some(Value::String(kind)) => kind.clone(),
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
            _ => match schema.get("enum").or(schema.get("const")) {
                Some(values) => values.to_string(),
                None => "any".to_owned(),
            },
        };
        let required: Vec<&str> =
            self.written.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = self.written.get("properties").and_then(Value::as_object);
        let brief = match properties.filter(|properties| !properties.is_empty()) {
            Some(properties) => {
                let one = |(name, schema): (&String, &Value)| {
                    let optional = if required.contains(&name.as_str()) { "" } else { "?" };
                    format!("{name}{optional}: {}", kind(schema))
                };
                properties.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            None => kind(&self.written),
        };
        match brief.char_indices().nth(SUMMARY_CHARS) {
            Some((end, _)) => format!("{}…", &brief[..end]),
            None => brief,
        }
    }
}

fn at(place: &str, what: &impl fmt::Display) -> String {
    if place.is_empty() { what.to_string() } else { format!("at {place:?}: {what}") }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.written).finish()
    }
}

/// A JSON value in which no object has a key twice. Of two, one parser takes the first and another the last: what was looked at
/// here would not be what the script sees.
pub struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Strict, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number is out of range"))?;
        Ok(Strict(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strict, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Strict(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Strict, A::Error> {
        let mut map = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(PLACE_CHARS).collect();
                return Err(de::Error::custom(format!("the key {shown:?} stands twice in one object")));
            }
            let Strict(value) = object.next_value()?;
            map.insert(key, value);
        }
        Ok(Strict(Value::Object(map)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(written: Value) -> Schema {
        Schema::compile(written).expect("a schema")
    }

    #[test]
    fn params_are_held_against_the_schema_and_the_place_is_told() {
        let order = schema(json!({
            "type": "object", "additionalProperties": false, "required": ["to"],
            "properties": {
                "to": {"type": "string", "pattern": "^\\+[0-9]+$"},
                "parts": {"type": "array", "maxItems": 2, "items": {"type": "integer", "minimum": 1}},
                "mail": {"format": "email"},
            },
        }));
        let table = [
            (r#"{"to":"+1"}"#, None),
            (r#"{"to":"+1","parts":[1,2]}"#, None),
            ("null", Some("is not of type \"object\"")),
            ("{}", Some("\"to\" is a required property")),
            (r#"{"to":"secret"}"#, Some("at \"/to\": ")),
            (r#"{"to":"+1","parts":[1,0]}"#, Some("at \"/parts/1\": ")),
            (r#"{"to":"+1","parts":[1,2,3]}"#, Some("at \"/parts\": ")),
            (r#"{"to":"+1","mail":"nobody"}"#, Some("at \"/mail\": ")),
            (r#"{"to":"+1","cc":1}"#, Some("cc")),
            (r#"{"to":"+1","to":"secret"}"#, Some("\"to\" stands twice")),
            (r#"{"to":"\ud800"}"#, Some("hex escape")),
            ("1e999", Some("out of range")),
        ];
        for (params, expected) in table {
            let found = order.fault_in(params);
            assert_eq!(found.is_some(), expected.is_some(), "{params}: {found:?}");
            let (found, expected) = (found.unwrap_or_default(), expected.unwrap_or_default());
            assert!(found.contains(expected), "{params}: {found}");
            assert!(!found.contains("secret"), "what stands there is not told: {found}");
        }
        let long = format!(r#"{{"to":"+1","{}":1}}"#, "k".repeat(100_000));
        assert!(order.fault_in(&long).expect("refused").chars().count() < 600);
        assert!(order.fault_in(&format!("{}1{}", "[".repeat(200), "]".repeat(200))).is_some());
        assert_eq!(schema(json!(true)).fault_in("7"), None);
        assert!(schema(json!(false)).fault_in("7").is_some());
    }

    #[test]
    fn a_schema_may_refer_to_itself() {
        let tree = schema(json!({ "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n" }));
        assert_eq!(tree.fault_in("[[],[[]]]"), None);
        assert!(tree.fault_in("[[],[[7]]]").expect("refused").starts_with("at \"/1/0/0\""));
    }

    #[test]
    fn a_schema_that_says_nothing_but_itself_is_no_endless_way() {
        for written in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            json!({"$dynamicRef": "#x", "$dynamicAnchor": "x"}),
            json!({"not": {"$ref": "#"}}),
            json!({"$recursiveRef": "#", "$schema": "https://json-schema.org/draft/2019-09/schema"}),
            json!({"if": {"$ref": "#"}, "then": {"$ref": "#"}}),
        ] {
            if let Ok(schema) = Schema::compile(written) {
                schema.fault_in("[[]]");
            }
        }
    }

    #[test]
    fn a_pattern_takes_no_time_to_speak_of() {
        let slow = schema(json!({ "pattern": "^(a+)+$" }));
        let params = format!("\"{}!\"", "a".repeat(100_000));
        assert!(slow.fault_in(&params).is_some());
    }

    #[test]
    fn a_schema_in_brief() {
        let table = [
            (json!(true), "any"),
            (json!({"type": ["string", "null"]}), "string or null"),
            (json!({"enum": [1, 2]}), "[1,2]"),
            (json!({"type": "object"}), "object"),
            (json!({"properties": {"b": {}, "a": {"type": "string"}}, "required": ["b"]}), "a?: string, b: any"),
        ];
        for (written, brief) in table {
            assert_eq!(schema(written).summary(), brief);
        }
    }
}
