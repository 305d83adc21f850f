//! Everything that can be asked, by everyone who may not: each command and each kind of request, from each kind of asker whom no rule
//! gives it. A code that has no data here fails the test; an asker is a column, and columns are listed in one place.

use std::fs;

use serde_json::{Value, json};
use ws_daemon_protocol::command::Command;

use crate::support::{Daemon, DaemonPlan, Local, Peer, need_root};

const NOBODY: u32 = 65_534;

/// Leaves a trace.
const RAN: &str = "#!/bin/sh\n: > \"$WSDAEMON_PREFIX/ran\"\n";

/// What a daemon answers to anybody on a link: a sign of life.
const FOR_ANYBODY: [&str; 1] = ["PING"];

/// A message that may not be, under an id of its own.
struct Row {
    id: String,
    message: Value,
    /// The code, of a command.
    code: Option<&'static str>,
}

/// The data that a command of this code needs to be one, or a frame of this code.
fn data(code: &str) -> Value {
    let run = "0190a000-0000-7000-8000-000000000009";
    match code {
        "PAUSE" => json!(60_000),
        "STATUS" => json!({ "status": 0, "id": run }),
        "PEERS" | "PING" | "RUNS" | "SCRIPTS" | "STATS" | "SUBSCRIBE" | "RELOAD" | "DRAIN" => Value::Null,
        "RUN" => json!(run),
        "CANCEL" => json!({ "run": run }),
        "EXPLAIN" => json!({ "as": "anonymous", "name": "ran" }),
        "KEYS" => json!({ "do": "rotate" }),
        "HELLO" => json!({ "name": "another", "instance": "another", "epoch": 9 }),
        "ACK" => json!({ "id": run, "attempt": 1 }),
        "OUTPUT" => json!({ "id": run, "stream": "stdout", "offset": 0, "data": "x" }),
        "CREDIT" => json!({ "id": run, "bytes": 5 }),
        "EVENT" => json!({ "id": run, "event": "started" }),
        "ROOTS" => json!({ "roots": ["x"], "pins": ["x"] }),
        code => panic!("{code} is new: give it data here, and see that everyone who may not is refused"),
    }
}

/// All that can be asked: as a process says it, and as a peer does.
fn rows() -> Vec<Row> {
    let codes = Command::CODES.into_iter().chain(Command::DAEMON_CODES);
    let commands = codes.flat_map(|code| {
        let message = move |name: &str| json!({ "name": name, "params": { "code": code, "data": data(code) } });
        ["+cmd", "&cmd"].map(|name| (Some(code), message(name)))
    });
    let kinds = [
        json!({}),
        json!({ "queue": true }),
        json!({ "to": "other" }),
        json!({ "to": "*", "each": true }),
        json!({ "output": "stream", "events": true }),
        json!({ "then": "ran", "retry": { "max": 1 }, "timeout": 1000 }),
    ];
    let runs = kinds.into_iter().map(|more| {
        let mut message = json!({ "name": "ran" });
        message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        (None, message)
    });
    let numbered = commands.chain(runs).enumerate().map(|(number, (code, mut message))| {
        let id = format!("row-{number}");
        message["id"] = id.as_str().into();
        Row { id, message, code }
    });
    numbered.collect()
}

/// A server whose rules give all to others, on both sides; a peer that does all that is asked of it is connected.
fn server() -> (Daemon, Daemon) {
    let rules = json!([
        { "who": "trusted", "scripts": "*", "commands": "*", "relay": true },
        { "who": "user:1", "scripts": "*", "commands": "*" },
    ]);
    let plan: DaemonPlan =
        Daemon::server().config(json!({ "rules": rules, "relay": true })).env("WSDAEMON_LOCAL", "127.0.0.1:0");
    let server = plan.script("ran", RAN).start();
    let other = Daemon::client(&server).config(json!({ "name": "other" })).script("ran", RAN).start();
    server.wait_log("link up");
    (server, other)
}

/// Asserts that an answer refuses.
#[track_caller]
fn refuses(said: &Value, row: &Row) {
    let error = said["error"].as_str().unwrap_or_default();
    assert!(said["status"] == -3 && ["denied", "unknown_command"].contains(&error), "{} got {said}", row.message);
    let is_known = row.code.is_none_or(|code| Command::CODES.contains(&code));
    assert!(error == "denied" || !is_known || row.message["name"] == "&cmd", "{} got {said}", row.message);
}

fn by_process(process: &mut Local, row: &Row) {
    process.send(row.message.to_string());
    let said = process.said();
    assert_eq!(said["id"], row.id, "{said}");
    refuses(&said, row);
}

/// What a peer hears before the answer to what it asks next: for each request a refusal, and of everything else nothing that is a success.
fn by_version2(peer: &mut Peer, row: &Row) {
    let hop = json!({ "to": "other" });
    let variants = match row.code {
        Some(_) => vec![("local", json!(true)), ("local", json!(false))],
        None => vec![("attempt", json!(1)), ("hop", hop)],
    };
    for (at, (key, value)) in variants.into_iter().enumerate() {
        let (id, mark) = (format!("{}-{at}", row.id), format!("mark-{}-{at}", row.id));
        let mut frame = row.message.clone();
        frame["id"] = id.as_str().into();
        frame[key] = value;
        peer.send_text(&frame.to_string());
        // Sorted behind it, and denied.
        peer.send_text(&json!({ "name": "mark", "id": mark }).to_string());
        let mut refused = 0;
        loop {
            let said: Value = serde_json::from_str(&peer.text()).expect("frames are JSON");
            let status = &said["params"]["data"];
            if said["params"]["code"] != "STATUS" {
                continue;
            }
            if status["id"] == mark.as_str() {
                break;
            }
            assert_eq!(status["id"], id.as_str(), "{said}");
            if !row.code.is_some_and(|code| FOR_ANYBODY.contains(&code)) {
                assert_eq!(status["status"], -3, "{frame} got {said}");
                refused += 1;
            }
        }
        // A run's refusal may come behind the mark only if it is queued: then the disk is asked first.
        if row.code.is_none() && row.message["queue"].is_null() {
            assert_eq!(refused, 1, "{frame}");
        }
        if row.code.is_none() && !row.message["queue"].is_null() && refused == 0 {
            let said: Value = serde_json::from_str(&peer.status()).expect("JSON");
            assert_eq!((&said["status"], &said["id"]), (&json!(-3), &json!(id)), "{frame} got {said}");
        }
    }
}

fn by_seed(peer: &mut Peer, row: &Row) {
    peer.send_text(&row.message.to_string());
    if row.code.is_none() {
        let said: Value = serde_json::from_str(&peer.status()).expect("JSON");
        assert_eq!(said["id"], row.id, "{said}");
        refuses(&said, row);
    }
    peer.nothing_waiting();
}

/// Whoever is not let in has no link to say anything on.
fn by_stranger(server: &Daemon, row: &Row) {
    let refusal = Peer::try_dial(server, "/", &[("x-forwarded-for", "192.0.2.1")]).err();
    assert!(refusal.is_some_and(|refusal| refusal.status == 403), "{}", row.message);
}

/// Asks for each.
fn every(ask: impl FnMut(&Row)) {
    rows().iter().for_each(ask);
}

type Column = (&'static str, fn(&Daemon));

/// Who asks. A column is added here.
const COLUMNS: [Column; 5] = [
    ("a peer of version 2 without a right", |server| {
        let mut peer = Peer::dial_version2(server, &json!({ "name": "trusted", "instance": "claims", "epoch": 1 }));
        every(|row| by_version2(&mut peer, row));
    }),
    ("a seed peer without a right", |server| {
        let mut peer = Peer::dial(server);
        every(|row| by_seed(&mut peer, row));
    }),
    ("whoever is not let in", |server| every(|row| by_stranger(server, row))),
    ("a process of another user", |server| {
        if need_root() {
            let mut process = server.connect_as(NOBODY, &[]);
            every(|row| by_process(&mut process, row));
        }
    }),
    ("a process by TCP", |server| {
        let mut process = Local::tcp_unseen(&server.local_address(), server.log());
        every(|row| by_process(&mut process, row));
    }),
];

#[test]
fn nothing_that_can_be_asked_is_done_for_anyone_who_may_not() {
    for (who, ask) in COLUMNS {
        let (server, other) = server();
        // Hears of runs, and of statuses that nobody waits for.
        let mut listener = server.connect();
        assert_eq!(listener.command("SUBSCRIBE", &json!(["runs"]))["status"], 0);
        ask(&server);
        // Nothing has run, is kept, was said, or was closed.
        for daemon in [&server, &other] {
            assert!(!fs::exists(daemon.prefix().join("ran")).expect("the prefix is ours"), "{who}");
            assert_eq!(daemon.connect().result("RUNS", &Value::Null), json!([]), "{who}");
        }
        assert_eq!(other.log().count("link down"), 0, "{who}");
        listener.nothing_waiting();
    }
}
