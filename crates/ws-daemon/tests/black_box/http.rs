//! What is asked over HTTP, as curl does it.

use std::fs;

use serde_json::{Value, json};
use ws_daemon::api::Api;

use crate::support::{Daemon, Fifo, Peer, Reply, Web, pair, root};

/// Says what it was given.
const ECHO: &str = "#!/bin/sh\nprintf '%s' \"$1\"\n";

/// A server with a client that has these scripts.
fn stage(scripts: &[(&str, &str)]) -> (Daemon, Daemon) {
    let server = Daemon::server().start();
    let client = scripts.iter().fold(Daemon::client(&server), |plan, (name, body)| plan.script(name, body)).start();
    client.wait_log("link up");
    server.wait_log("link up");
    (server, client)
}

/// The word of a problem, which has all that a problem has.
#[track_caller]
fn problem(reply: &Reply) -> String {
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    let problem = reply.json();
    let word = problem["error"].as_str().expect("a word");
    assert_eq!(problem["type"], format!("urn:ws-daemon:problem:{word}"));
    assert_eq!((&problem["status"], problem["detail"].is_string()), (&json!(reply.status), true), "{problem}");
    word.to_owned()
}

#[test]
fn a_page_is_answered_on_the_servers_port_as_often_as_it_is_asked_and_links_are_as_before() {
    let server = Daemon::server().start();
    let mut web = Web::port(&server);
    for _ in 0..3 {
        let reply = web.get("/healthz");
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "ok" })));
    }
    assert_eq!(problem(&web.get("/api/v1/nothing")), "no_such_page");
    let reply = web.post("/healthz", "");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")));
    assert_eq!(web.get("/elsewhere").status, 426);
    assert!(web.is_closed(), "what is no link and no page is closed as before");
    for path in ["/", "/healthz", "/api/v1/nothing"] {
        assert!(Peer::try_dial(&server, path, &[]).is_ok(), "a link may have any path");
    }
}

#[test]
fn a_script_is_run_over_the_socket_file_and_its_end_is_the_answer() {
    let (server, client) = stage(&[("sms/send now", ECHO), ("seven", "#!/bin/sh\nexit 7\n")]);
    let mut web = Web::socket(&server);
    let reply = web.post("/api/v1/run/sms/send%20now?output=json", " {\"to\": [5, 1.0]} ");
    let said = reply.json();
    assert_eq!((reply.status, &said["status"], &said["result"]), (200, &json!(0), &json!({ "to": [5, 1.0] })), "{said}");
    assert!(said["run"].is_string() && said["peer"].is_string() && said["ms"].is_number(), "{said}");
    assert_eq!(web.post("/api/v1/run/sms/send%20now?output=json", "").json()["result"], Value::Null);
    // A script that fails has run: that is an answer.
    let reply = web.post("/api/v1/run/seven", "");
    let said = reply.json();
    assert_eq!((reply.status, &said["status"], &said["stdout"]), (200, &json!(7), &json!("")));
    // A direct run is remembered for a while.
    let said = web.post("/api/v1/run/sms/send%20now", "\"hi\"").json();
    let run = said["run"].as_str().expect("its run");
    assert_eq!(web.get(&format!("/api/v1/runs/{run}/output")).body, "\"hi\"");
    let refused = [
        ("/api/v1/run/none", "", 404, "not_found"),
        ("/api/v1/run/seven?to=nobody", "", 404, "unknown_target"),
        ("/api/v1/run/seven?tiemout=5", "", 400, "unsupported"),
        ("/api/v1/run/seven?timeout=soon", "", 400, "bad_message"),
        ("/api/v1/run/seven?each=maybe", "", 400, "bad_message"),
        ("/api/v1/run/seven?to=a&timeout=1&timeout=2", "", 400, "bad_message"),
        ("/api/v1/run/seven?params=1", "", 400, "bad_message"),
        ("/api/v1/run/seven?access_token=x", "", 400, "bad_message"),
        ("/api/v1/run/seven", "{\"a\":", 400, "bad_message"),
        ("/api/v1/run/seven", "1,\"to\":\"x\"", 400, "bad_message"),
        ("/api/v1/run/+cmd", "{\"code\":\"PEERS\"}", 404, "not_found"),
        ("/api/v1/run/%ff", "", 400, "bad_message"),
    ];
    for (path, body, status, word) in refused {
        let reply = web.post(path, body);
        assert_eq!((reply.status, problem(&reply).as_str()), (status, word), "{path} {reply:?}");
    }
    let deep = "[".repeat(200) + &"]".repeat(200);
    assert_eq!(problem(&web.post("/api/v1/run/seven", &deep)), "bad_message");
    let mut text = Web::socket(&server).header("Content-Type", "text/html");
    let reply = text.post("/api/v1/run/seven", "{}");
    assert_eq!((reply.status, problem(&reply).as_str()), (415, "not_json"));
    // And from the other end.
    drop(client);
}

#[test]
fn nobody_there_is_said_with_when_to_try_again_and_a_client_asks_as_well() {
    let server = Daemon::server().script("hello", "#!/bin/sh\necho hello\n").start();
    let reply = Web::socket(&server).post("/api/v1/run/hello", "");
    assert_eq!((reply.status, problem(&reply).as_str(), reply.header("retry-after")), (503, "no_peer", Some("1")));
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    let said = Web::socket(&client).post("/api/v1/run/hello", "").json();
    assert_eq!((&said["status"], &said["stdout"]), (&json!(0), &json!("hello\n")));
}

#[test]
fn what_is_queued_is_answered_at_once_with_where_it_is_found_and_is_the_same_when_it_is_asked_again() {
    let (server, client) = stage(&[("hold", "#!/bin/sh\necho begun\nread -r _ < go\necho oops >&2\nexit 3\n")]);
    let mut go = Fifo::new(client.prefix(), "go");
    let mut web = Web::socket(&server).header("Idempotency-Key", "order-5");
    let reply = web.post("/api/v1/run/hold?queue=1h", "{}");
    let run = reply.json()["run"].as_str().expect("its run").to_owned();
    let place = format!("/api/v1/runs/{run}");
    assert_eq!((reply.status, reply.header("location")), (202, Some(place.as_str())));
    assert_eq!(web.post("/api/v1/run/hold?queue=1h", "{}").json()["run"], run);
    let reply = web.post("/api/v1/run/hold?queue=1h", "{\"another\":1}");
    assert_eq!((reply.status, problem(&reply).as_str()), (409, "id_conflict"));
    let shown = web.get(&place).json();
    assert_eq!((&shown["run"], &shown["id"], &shown["queued"]), (&json!(run), &json!("order-5"), &json!(true)));
    assert_eq!(web.get("/api/v1/runs?limit=1").json()[0]["run"], run);
    go.release(1);
    // All of it, when there is an end.
    assert_eq!(web.get(&format!("{place}/output?follow")).body, "begun\n");
    assert_eq!(web.get(&format!("{place}/output?stream=stderr")).body, "oops\n");
    assert_eq!(web.get(&format!("{place}/output?offset=2&limit=2")).body, "gu");
    assert_eq!(web.get(&place).json()["status"], 3);
    for (path, status) in [("?stream=both", 400), ("?offset=x", 400), ("?ofset=1", 400)] {
        assert_eq!(web.get(&format!("{place}/output{path}")).status, status);
    }
    assert_eq!(web.get("/api/v1/runs/nothing").status, 404);
    assert_eq!(web.get("/api/v1/runs/nothing/output").status, 404);
    let mut prefers = Web::socket(&server).header("Prefer", "respond-async");
    let reply = prefers.post("/api/v1/run/hold", "");
    assert_eq!((reply.status, reply.header("preference-applied")), (202, Some("respond-async")));
    let place = reply.header("location").expect("where it is").to_owned();
    let reply = web.ask("DELETE", &place, "");
    assert_eq!((reply.status, reply.header("content-type")), (202, Some("application/json")));
    assert_eq!(web.get(&format!("{place}/output?follow=true")).status, 200);
    assert_eq!(web.get(&place).json()["error"], "cancelled");
    assert_eq!(web.ask("DELETE", &place, "").status, 404);
}

#[test]
fn events_are_streamed_as_they_come() {
    let (server, client) = stage(&[("talk", "#!/bin/sh\necho one\nread -r _ < go\necho two >&2\n")]);
    let mut go = Fifo::new(client.prefix(), "go");
    let mut events = Web::socket(&server);
    events.send("GET", "/api/v1/events?topics=runs", "");
    let (status, headers) = events.head();
    assert!(status == 200 && headers.contains(&("content-type".into(), "text/event-stream".into())), "{headers:?}");
    assert_eq!(events.chunk().as_deref(), Some(":\n\n"), "it is heard from here on");
    let mut web = Web::socket(&server).header("Accept", "text/event-stream");
    web.send("POST", "/api/v1/run/talk", "");
    assert_eq!(web.head().0, 200);
    let mut heard = String::new();
    while !heard.contains("one\\n") {
        heard.push_str(&web.chunk().expect("it goes on"));
    }
    assert!(heard.starts_with("event: delivered\ndata: {\"event\":\"delivered\""), "{heard}");
    go.release(1);
    while let Some(chunk) = web.chunk() {
        heard.push_str(&chunk);
    }
    assert!(heard.contains("event: output\ndata: {") && heard.contains("\"stream\":\"stderr\""), "{heard}");
    let last = heard.rsplit("event: final\ndata: ").next().expect("a last one");
    assert_eq!(serde_json::from_str::<Value>(last.trim()).expect("JSON")["status"], 0, "{heard}");
    assert!(events.chunk().expect("news").starts_with("data: {\"event\":\"running\""));
    // What was not begun is a problem, also for who wants events.
    let mut web = Web::socket(&server).header("Accept", "text/event-stream");
    assert_eq!(problem(&web.post("/api/v1/run/talk?to=nobody", "")), "unknown_target");
    assert_eq!(problem(&web.get("/api/v1/events?topics=sun")), "bad_message");
}

#[test]
fn a_fan_out_is_answered_with_every_outcome() {
    let (server, _client) = stage(&[("hello", "#!/bin/sh\necho hello\n")]);
    let second = Daemon::client(&server).start();
    second.wait_log("link up");
    server.wait_log_times("link up", 2);
    let said = Web::socket(&server).post("/api/v1/run/hello?each", "").json();
    assert_eq!((said["runs"].as_array().map(Vec::len), &said["failed"]), (Some(2), &json!(1)), "{said}");
    let reply = Web::socket(&server).post("/api/v1/run/hello?each&to=nobody", "");
    assert_eq!((reply.status, problem(&reply).as_str()), (404, "unknown_target"));
}

#[test]
fn what_there_is_is_shown_over_the_socket_file_as_commands_show_it() {
    let (server, _client) = pair();
    let mut web = Web::socket(&server);
    let mut local = server.connect();
    for (page, code) in [("peers", "PEERS"), ("scripts", "SCRIPTS"), ("stats", "STATS")] {
        let (shown, known) = (web.get(&format!("/api/v1/{page}")).json(), local.result(code, &Value::Null));
        let keys = |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
        assert_eq!((shown.as_array().map(Vec::len), keys(&shown)), (known.as_array().map(Vec::len), keys(&known)), "{page}");
        assert_eq!(web.get(&format!("/api/v1/{page}?x=1")).status, 400);
    }
    // What begins like no method is JSON, or none.
    let mut local = server.connect();
    local.send("  {\"name\":\"+cmd\",\"id\":1,\"params\":{\"code\":\"STATS\"}}");
    assert_eq!(local.said()["status"], 0);
}

#[test]
fn every_page_of_the_api_has_its_line_on_the_page_about_it() {
    let page = fs::read_to_string(root().join("docs/http.md")).expect("it is there");
    for (_, path) in Api::pages() {
        let shown = path.trim_start_matches("/api/v1/").split('/').next().expect("a first part");
        assert!(page.contains(shown), "{path} is not on the page");
    }
}
