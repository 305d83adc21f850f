//! Settings that are taken up by a running daemon: by RELOAD, and because a file was changed. No link and no run ends for it, and what
//! is wrong changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{CertificateAuthority, Daemon, EXIT, Fifo, Peer, PeerListener};

/// What the log says of a reload that went well.
const READ_AGAIN: &str = "the settings were read again changed=";

/// What it says of one that did not.
const NOTHING: &str = "the settings were read again, and nothing was changed";

/// Says that it runs, and ends when it is let go.
const GATE: &str = "#!/bin/sh\necho \"$WSDAEMON_NAME\" > said\nread -r go < go\nexit 3\n";

fn reload(daemon: &Daemon) -> Value {
    daemon.connect().result("RELOAD", &Value::Null)
}

#[test]
fn a_changed_file_is_taken_up_by_itself_and_neither_the_link_nor_a_run_ends_for_it() {
    let server = Daemon::server().config(json!({ "limits": { "runs": 1 } })).script("gate", GATE).start();
    let (mut said, mut go) = (Fifo::new(server.prefix(), "said"), Fifo::new(server.prefix(), "go"));
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    let mut process = client.connect();
    process.send(r#"{"name":"gate","id":1}{"name":"gate","id":2}{"name":"gate","id":3}"#);
    said.line();
    server.reconfigure(json!({ "limits": { "runs": 2 }, "times": { "ping": "7s" } }));
    server.wait_log(&format!("{READ_AGAIN}\"limits.runs times.ping\""));
    // The second runs beside the first; the third waits for one of the two.
    said.line();
    server.reconfigure(json!({ "limits": { "runs": 1 } }));
    server.wait_log(&format!("{READ_AGAIN}\"limits.runs\""));
    go.release(2);
    assert_eq!((&process.said()["status"], &process.said()["status"]), (&json!(3), &json!(3)));
    said.line();
    go.release(1);
    assert_eq!(process.said()["status"], 3);
    assert_eq!((server.log().count("link down"), client.log().count("link down")), (0, 0));
}

#[test]
fn rules_hold_from_the_reload_on_for_links_that_are_up_and_connections_that_are_open() {
    let server = Daemon::server().script("exit", EXIT).start();
    let mut peer = Peer::dial_version2(&server, &json!({ "name": "web", "instance": "i", "epoch": 1 }));
    let request = r#"{"name":"exit","id":"r","params":{"exit":0}}"#;
    assert_eq!(status(&mut peer, request)["status"], 0);
    server.reconfigure(json!({ "rules": [{ "who": "anonymous", "scripts": "other" }] }));
    server.wait_log(&format!("{READ_AGAIN}\"rules\""));
    assert_error(&status(&mut peer, request), -3, "denied");
    server.reconfigure(json!({ "rules": null }));
    server.wait_log_times(&format!("{READ_AGAIN}\"rules\""), 2);
    assert_eq!(status(&mut peer, request)["status"], 0);
    peer.nothing_waiting();
}

#[track_caller]
fn assert_error(said: &Value, status: i64, error: &str) {
    assert_eq!((&said["status"], &said["error"]), (&json!(status), &json!(error)), "{said}");
}

/// What a peer is told of a run that it asks for.
#[track_caller]
fn status(peer: &mut Peer, request: &str) -> Value {
    let said: Value = serde_json::from_str(&peer.ask(request)).expect("frames are JSON");
    assert!(!said["status"].is_null(), "{said}");
    said
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_the_log_says_what_is_wrong_with_it() {
    let server = Daemon::server().config(json!({ "relay": true })).start();
    server.write_config("{\"mode\":\"server\",\"relay\":false,\n\"prot\":1}");
    server.wait_log(NOTHING);
    server.wait_log("config.json:2: there is no setting \"prot\"; did you mean \"port\"?");
    server.write_config("");
    server.wait_log_times(NOTHING, 2);
    let refused = server.connect().command("RELOAD", &Value::Null);
    assert_error(&refused, -3, "bad_message");
    // What others could have written is not gone by either.
    let config = json!({ "mode": "server", "port": 0, "listen": "127.0.0.1", "relay": false, "open": true });
    server.write_config(&config.to_string());
    fs::set_permissions(server.prefix().join("config.json"), fs::Permissions::from_mode(0o666)).expect("it is ours");
    server.wait_log("config.json can be written by everybody");
    fs::set_permissions(server.prefix().join("config.json"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    // To mend it is a change as well.
    server.wait_log(&format!("{READ_AGAIN}\"open relay\""));
}

#[test]
fn what_needs_a_restart_is_named_until_there_is_one_and_the_rest_is_taken_up() {
    let server = Daemon::server().start();
    server.reconfigure(json!({ "port": 1, "local": "127.0.0.1:1", "name": "other", "limits": { "spool_runs": 7 } }));
    // WSDAEMON_LOCAL says that it is off, and wins.
    server.wait_log("settings that differ are taken up at the next start alone settings=\"limits.spool_runs port\"");
    server.wait_log(&format!("{READ_AGAIN}\"name\""));
    assert_eq!(reload(&server), json!({ "changed": [], "restart": ["limits.spool_runs", "port"] }));
    // Links from here on hear the new name.
    let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("the port is the old one");
    peer.send_hello(&json!({ "name": "web", "instance": "i", "epoch": 1 }));
    assert_eq!(peer.hello()["name"], "other");
    server.reconfigure(json!({ "port": 0, "limits": null }));
    server.wait_log_times(READ_AGAIN, 3);
    assert_eq!(reload(&server), json!({ "changed": [], "restart": [] }));
}

#[test]
fn a_client_goes_to_another_server_when_its_link_ends_and_at_once_if_there_is_none() {
    let (first, second) = (PeerListener::bind(), Daemon::server().start());
    let proxy = |port: u16, path: &str| json!({ "proxy": format!("ws://127.0.0.1:{port}{path}"), "port": null });
    let times = json!({ "times": { "backoff_min": "5m", "backoff_max": "10m" } });
    let client = Daemon::client_of(first.port()).config(proxy(first.port(), "/a")).config(times).start();
    let peer = first.accept(&client);
    client.reconfigure(proxy(first.port(), "/b"));
    client.wait_log(&format!("{READ_AGAIN}\"proxy\""));
    assert_eq!(client.log().count("link down"), 0);
    assert_eq!(peer.path(), "/a");
    drop(peer);
    let again = first.accept(&client);
    assert_eq!(again.path(), "/b", "without a wait: it is another place");
    drop(again);
    // Now it waits for minutes.
    client.wait_log("dialling again");
    client.reconfigure(proxy(first.port(), "/c"));
    assert_eq!(first.accept(&client).path(), "/c");
    // Another port would be another spool.
    client.reconfigure(proxy(second.port(), "/"));
    client.wait_log("at the next start alone settings=\"proxy\"");
}

#[test]
fn a_token_that_is_replaced_is_shown_with_the_next_link() {
    let listener = PeerListener::bind();
    let plan = Daemon::client_of(listener.port()).config(json!({ "name": "web" })).without_token();
    let token = plan.prefix().join("keys/token");
    let write = |text: &str| {
        fs::create_dir_all(token.parent().expect("a folder")).expect("the prefix is ours");
        let draft = token.with_extension("draft");
        fs::write(&draft, text).expect("the prefix is ours");
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::rename(&draft, &token).expect("both names are in one folder");
    };
    write("first");
    let client = plan.start();
    let peer = listener.accept(&client);
    assert_eq!(peer.header("authorization"), Some("Basic d2ViOmZpcnN0"));
    write("second");
    client.wait_log(&format!("{READ_AGAIN}\"token\""));
    assert_eq!(client.log().count("link down"), 0);
    drop(peer);
    assert_eq!(listener.accept(&client).header("authorization"), Some("Basic d2ViOnNlY29uZA=="));
}

#[test]
fn certificates_that_were_renewed_are_taken_up_by_themselves_once_they_fit() {
    let (ca, other) = (CertificateAuthority::new("ours"), CertificateAuthority::new("other"));
    let plan = Daemon::server().config(json!({ "tls": { "certificate": "a.pem", "key": "a.key" } }));
    let (certificate, key) = (plan.prefix().join("a.pem"), plan.prefix().join("a.key"));
    ca.server(&["127.0.0.1"]).install(&certificate, &key);
    let server = plan.start();
    let renewed = other.server(&["127.0.0.1"]);
    fs::copy(&renewed.key, &key).expect("copied");
    server.wait_log(NOTHING);
    renewed.install(&certificate, &key);
    server.wait_log(&format!("{READ_AGAIN}\"certificate\""));
}

#[test]
fn the_audit_log_goes_where_it_is_said_to_from_the_reload_on() {
    let server = Daemon::server().config(json!({ "audit": "a.jsonl" })).script("exit", EXIT).start();
    let lines = |name: &str| fs::read_to_string(server.prefix().join(name)).map_or(0, |text| text.lines().count());
    reload(&server);
    let before = lines("a.jsonl");
    assert!(before > 0);
    server.reconfigure(json!({ "audit": { "path": "b.jsonl", "params": true } }));
    server.wait_log(&format!("{READ_AGAIN}\"audit\""));
    let nobody = server.connect().ask(r#"{"name":"x","id":"1","params":"mark"}"#);
    assert_eq!(nobody, r#"{"status":-2,"id":"1"}"#);
    server.reconfigure(json!({ "audit": false }));
    server.wait_log_times(&format!("{READ_AGAIN}\"audit\""), 2);
    // What is said of the old file is in it by now.
    assert!(fs::read_to_string(server.prefix().join("b.jsonl")).expect("it was made").contains("mark"));
    let after = (lines("a.jsonl"), lines("b.jsonl"));
    reload(&server);
    assert_eq!((lines("a.jsonl"), lines("b.jsonl")), after);
    // One that cannot be had changes nothing.
    server.reconfigure(json!({ "audit": "none/a.jsonl", "relay": true }));
    server.wait_log(NOTHING);
    assert_eq!(server.log().count(&format!("{READ_AGAIN}\"relay\"")), 0);
}

#[test]
fn a_contract_holds_for_the_next_run_and_a_broken_one_refuses_it() {
    let server = Daemon::server().script("exit", EXIT).start();
    let mut peer = Peer::dial_version2(&server, &json!({ "name": "web", "instance": "i", "epoch": 1 }));
    let request = r#"{"name":"exit","id":"r","params":{"exit":0}}"#;
    assert_eq!(status(&mut peer, request)["status"], 0);
    let contract = server.prefix().join("scripts/exit.json");
    fs::write(&contract, r#"{"schema":{"type":"integer"}}"#).expect("the prefix is ours");
    assert_error(&status(&mut peer, request), -1, "invalid_params");
    fs::write(&contract, "{").expect("the prefix is ours");
    assert_error(&status(&mut peer, request), -1, "forbidden");
    fs::remove_file(&contract).expect("it is there");
    assert_eq!(status(&mut peer, request)["status"], 0);
}
