//! The JSON Schemas of the files that people write: docs/schema has what the program prints (`UPDATE_SCHEMA=1` writes it), and
//! they say of a file what the daemon says of it.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::support::{Daemon, command, ran};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn printed(of: &str) -> Value {
    let said = ran(command(&["schema", of]), "");
    assert_eq!((said.code, &*said.err), (0, ""));
    serde_json::from_str(&said.out).expect("JSON")
}

fn validator(of: &str) -> Validator {
    jsonschema::validator_for(&printed(of)).expect("a schema")
}

#[test]
fn the_schemas_on_the_pages_are_what_the_program_prints() {
    for of in ["config", "contract"] {
        let (file, printed) = (root().join(format!("docs/schema/{of}.json")), printed(of));
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            fs::write(&file, format!("{printed:#}\n")).expect("ours to write");
        }
        let found = fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let hint = "is not current; UPDATE_SCHEMA=1 cargo test -p ws-daemon --test black_box schemas:: writes it";
        assert!(found.as_ref() == Some(&printed), "{} {hint}", file.display());
    }
}

/// Each key of the objects in a schema, with what is said of it.
fn keys<'a>(schema: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    if let Some(Value::Object(properties)) = schema.get("properties") {
        found.extend(properties.iter().map(|(key, value)| (key.as_str(), value)));
    }
    match schema {
        Value::Object(members) => members.values().for_each(|value| keys(value, found)),
        Value::Array(items) => items.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn an_editor_is_told_what_each_key_is_for_and_what_it_is_without_a_word() {
    for (of, least) in [("config", 45), ("contract", 18)] {
        let schema = printed(of);
        let mut found = Vec::new();
        keys(&schema, &mut found);
        assert!(found.len() >= least, "{of}: {}", found.len());
        for (key, value) in found {
            assert!(value["description"].as_str().is_some_and(|said| said.len() > 5), "{of}: {key} has no description");
        }
    }
    let config = printed("config");
    for (key, default) in [
        ("/properties/port", json!(3006)),
        ("/properties/open", json!(false)),
        ("/properties/limits/properties/runs", json!(256)),
        ("/properties/times/properties/ping", json!("20s")),
    ] {
        assert_eq!(config.pointer(key).expect("it is there")["default"], default, "{key}");
    }
}

#[test]
fn the_schema_of_a_config_says_what_check_says() {
    let schema = validator("config");
    let table = [
        (json!({ "mode": "server" }), true),
        (json!({ "$schema": "schema/config.json", "mode": "server", "port": 0, "listen": "::1", "open": true }), true),
        (json!({ "mode": "server", "open": ["10.0.0.0/8", "fd00::/8"], "local": "off", "tags": ["a"] }), true),
        (json!({ "mode": "server", "tls": { "names": ["a.example.org"], "lifetime": "30d", "plain": false } }), true),
        (json!({ "mode": "server", "tls": false, "audit": { "params": true }, "relay": true }), true),
        (json!({ "mode": "server", "rules": [{ "who": "web-*", "scripts": "*", "commands": ["STATUS", "pause"] }] }), true),
        (
            json!({ "mode": "server", "limits": { "runs": 3, "message": "1MiB" }, "times": { "ping": 500, "grace": "1m" } }),
            true,
        ),
        (json!({ "mode": "client", "proxy": "wss://example.org/x", "tls": { "roots": "r.pem" } }), true),
        (json!({ "mode": "peer" }), false),
        (json!({ "mode": "server", "prot": 1 }), false),
        (json!({ "mode": "server", "port": 70000 }), false),
        (json!({ "mode": "server", "port": "3006" }), false),
        (json!({ "mode": "server", "listen": "here" }), false),
        (json!({ "mode": "server", "open": ["home"] }), false),
        (json!({ "mode": "server", "open": "yes" }), false),
        (json!({ "mode": "server", "tls": { "nmaes": [] } }), false),
        (json!({ "mode": "server", "tls": 5 }), false),
        (json!({ "mode": "server", "audit": { "file": "x" } }), false),
        (json!({ "mode": "server", "rules": [{ "scripts": "*" }] }), false),
        (json!({ "mode": "server", "rules": [{ "who": [] }] }), false),
        (json!({ "mode": "server", "rules": [{ "who": "a", "commands": "HELLO" }] }), false),
        (json!({ "mode": "server", "rules": [{ "who": "a", "targets": [] }] }), false),
        (json!({ "mode": "server", "limits": { "rums": 1 } }), false),
        (json!({ "mode": "server", "limits": { "message": "1MB" } }), false),
        (json!({ "mode": "server", "limits": { "runs": -1 } }), false),
        (json!({ "mode": "server", "times": { "ping": "soon" } }), false),
    ];
    for (config, expected) in table {
        let prefix = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(prefix.path().join("config.json"), config.to_string()).expect("the folder is ours");
        let mut check = command(&["check"]);
        check.env("WSDAEMON_PREFIX", prefix.path());
        let said = ran(check, "");
        assert_eq!(said.code == 0, expected, "{config}: {}", said.err);
        assert_eq!(schema.is_valid(&config), expected, "{config}");
    }
}

#[test]
fn the_schema_of_a_contract_says_what_the_daemon_says() {
    let schema = validator("contract");
    let server = Daemon::server().start();
    let table = [
        (json!({}), true),
        (json!({ "$schema": "../schema/contract.json", "description": "what it does" }), true),
        (json!({ "schema": { "type": "object" }, "callers": "web-*", "timeout": "5s", "at_once": 1 }), true),
        (json!({ "callers": ["a", "tag:b", "local"], "timeout": 5000, "output": 10, "params": "stdin" }), true),
        (json!({ "limits": { "nofile": 8, "as": "1GiB", "cpu": 1, "core": 0 }, "environment": ["PATH"] }), true),
        (json!({ "user": "root" }), true),
        (json!({ "scheme": {} }), false),
        (json!({ "timeout": "soon" }), false),
        (json!({ "at_once": 0 }), false),
        (json!({ "callers": 5 }), false),
        (json!({ "limits": { "files": 1 } }), false),
        (json!({ "limits": { "as": "much" } }), false),
        (json!({ "params": "film" }), false),
        (json!({ "user": [] }), false),
        (json!({ "description": "x".repeat(1025) }), false),
        (json!([]), false),
    ];
    let is_root = rustix::process::geteuid().is_root();
    for (at, (contract, _)) in table.iter().enumerate() {
        server.script(&format!("script-{at}"), "#!/bin/sh\n");
        fs::write(server.prefix().join(format!("scripts/script-{at}.json")), contract.to_string()).expect("the prefix is ours");
    }
    let shown = server.connect().result("SCRIPTS", &Value::Null);
    let shown = shown.as_array().expect("a list");
    for (at, (contract, expected)) in table.iter().enumerate() {
        let script = shown.iter().find(|script| script["name"] == format!("script-{at}")).expect("it is there");
        if contract.get("user").is_none() || is_root {
            assert_eq!(script["refused"].is_null(), *expected, "{script}");
        }
        assert_eq!(schema.is_valid(contract), *expected, "{contract}");
    }
}

#[test]
fn a_config_that_init_wrote_names_its_schema() {
    let prefix = tempfile::tempdir().expect("a temporary folder can be made");
    let mut init = command(&["init", "server"]);
    init.env("WSDAEMON_PREFIX", prefix.path());
    assert_eq!(ran(init, "").code, 0);
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(prefix.path().join(name)).expect("init has written it");
        serde_json::from_str(&text).expect("JSON")
    };
    let config = read("config.json");
    let named = config["$schema"].as_str().expect("a path");
    assert_eq!(read(named), printed("config"));
    assert_eq!(read("schema/contract.json"), printed("contract"));
    assert!(validator("config").is_valid(&config));
}
