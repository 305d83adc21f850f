//! What may stand in config.json, as a JSON Schema: what its type says, with the defaults that are meant. It reads no config.

use serde_json::{Value, json};
use ws_daemon_protocol::schema;

use super::file::Written;
use super::settings::{Settings, Source, Sources};

/// The schema of config.json.
#[must_use]
pub fn described() -> Value {
    let mut schema = schema::of::<Written>("config.json of ws-daemon");
    let file = serde_json::from_value(json!({ "mode": "server" })).ok();
    let rows = Settings::resolve(&Sources { file, ..Sources::default() }).map(|(_, rows)| rows).unwrap_or_default();
    for row in rows.into_iter().filter(|row| row.source == Source::Default) {
        let path = format!("/properties/{}", row.name.replace('.', "/properties/"));
        // What has a word of its own for its default, like "auto", is told by its description.
        if let Some(key) = schema.pointer_mut(&path).filter(|key| jsonschema::is_valid(key, &row.value)) {
            key["default"] = row.value;
        }
    }
    schema
}
