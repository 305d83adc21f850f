//! The JSON Schemas of messages in docs/schema are those of the types, and every golden sample is what its schema says.
//! `UPDATE_SCHEMA=1` writes them. Those of the daemon's own files stand in the same folder, and its tests look at them.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops at what it did not expect")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use jsonschema::Validator;
use serde_json::{Value, json};
use ws_daemon_protocol::options::Options;
use ws_daemon_protocol::schema;

/// What is there beside the messages, and not ours to judge.
const OF_FILES: [&str; 2] = ["config", "contract"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("readable").path()).collect()
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|name| name.to_str()).expect("a plain name")
}

fn validators() -> Vec<(&'static str, Validator)> {
    let compiled = |schema| jsonschema::validator_for(schema).expect("a schema");
    schema::all().iter().map(|(name, schema)| (*name, compiled(schema))).collect()
}

/// The schema of a sample is the one with the longest name that its own begins with.
fn of<'a>(validators: &'a [(&'static str, Validator)], name: &str) -> &'a (&'static str, Validator) {
    let fits = |schema: &str| name == schema || name.starts_with(&format!("{schema}-"));
    let found = validators.iter().filter(|(schema, _)| fits(schema)).max_by_key(|(schema, _)| schema.len());
    found.unwrap_or_else(|| panic!("no schema for {name}"))
}

#[test]
fn the_schemas_on_the_pages_are_those_of_the_types() {
    let folder = root().join("docs/schema");
    let update = env::var_os("UPDATE_SCHEMA").is_some();
    let all = schema::all();
    for (name, schema) in &all {
        let file = folder.join(format!("{name}.json"));
        if update {
            let text = serde_json::to_string_pretty(schema).expect("JSON");
            fs::create_dir_all(&folder).expect("ours to write");
            fs::write(&file, format!("{text}\n")).expect("ours to write");
        }
        let found = fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let hint = "is not current; UPDATE_SCHEMA=1 cargo test -p ws-daemon-protocol writes it";
        assert!(found.as_ref() == Some(schema), "{} {hint}", file.display());
    }
    let names = files(&folder);
    let of_messages = names.iter().map(|file| stem(file)).filter(|name| !OF_FILES.contains(name));
    let written: BTreeSet<String> = of_messages.map(str::to_owned).collect();
    assert_eq!(written, all.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn every_golden_sample_is_what_its_schema_says() {
    let validators = validators();
    let mut used = BTreeSet::new();
    let versions = files(&root().join("crates/ws-daemon-protocol/tests/golden"));
    for file in versions.iter().flat_map(|version| files(version)) {
        let sample: Value = serde_json::from_str(&fs::read_to_string(&file).expect("readable")).expect("JSON");
        let (name, validator) = of(&validators, stem(&file));
        used.insert(*name);
        if let Err(error) = validator.validate(&sample) {
            panic!("{} is not what {name}.json says: {error} at {}", file.display(), error.instance_path());
        }
    }
    let unused: Vec<_> = validators.iter().map(|(name, _)| name).filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "no sample for {unused:?}");
}

#[test]
fn the_schemas_refuse_what_the_daemon_refuses() {
    let validators = validators();
    let table = [
        ("request", json!({ "name": "t", "timeotu": 5 })),
        ("request", json!({ "name": "t", "retry": 3 })),
        ("request", json!({ "name": "t", "batch": 0 })),
        ("request", json!({ "name": "t", "output": "film" })),
        ("request", json!({ "name": "t", "queue": { "tll": 1 } })),
        ("request", json!({ "name": "t", "timeout": "soon" })),
        ("request", json!({ "name": "+cmd" })),
        ("request", json!({ "id": 5 })),
        ("command", json!({ "name": "+cmd", "params": { "code": "PUASE" } })),
        ("command", json!({ "name": "+cmd", "params": { "code": "PAUSE", "data": -1 } })),
        ("command", json!({ "name": "+cmd", "params": { "code": "RUN", "data": { "run": "r", "id": 1 } } })),
        ("frame-run", json!({ "name": "t", "params": null })),
        ("frame-run", json!({ "name": "t", "id": "a\"b" })),
        ("frame-ack", json!({ "name": "&cmd", "params": { "code": "ACK", "data": null } })),
        ("frame-hello", json!({ "name": "&cmd", "params": { "code": "HELLO", "data": { "name": "a" } } })),
        ("event", json!({ "event": "dancing", "run": "r" })),
        ("final", json!({ "id": 5 })),
    ];
    for (name, message) in table {
        assert!(!of(&validators, name).1.is_valid(&message), "{name} takes {message}");
    }
}

#[test]
fn the_schema_of_a_request_has_every_option() {
    let all = schema::all();
    let (_, request) = all.iter().find(|(name, _)| *name == "request").expect("there is one");
    let found: BTreeSet<&str> = request["properties"].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, Options::KEYS.into_iter().chain(["name", "id", "params"]).collect());
}
