//! Callers: programs that ask over HTTP by a token or a signature, and what each of them may.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Daemon, Fifo, Ran, Reply, Web, command, ran, signature, wait_for};

const ECHO: &str = "#!/bin/sh\nprintf '%s' \"$1\"\n";

/// A server with a client that has these scripts.
fn stage(config: &Value, scripts: &[(&str, &str)]) -> (Daemon, Daemon) {
    let server = Daemon::server().config(config.clone()).start();
    let client = scripts.iter().fold(Daemon::client(&server), |plan, (name, body)| plan.script(name, body)).start();
    client.wait_log("link up");
    server.wait_log("link up");
    (server, client)
}

fn tool(daemon: &Daemon, words: &[&str]) -> Ran {
    let mut command = command(words);
    command.env("WSDAEMON_PREFIX", daemon.prefix());
    ran(command, "")
}

/// What `callers` with these words prints.
#[track_caller]
fn secret(daemon: &Daemon, words: &[&str]) -> String {
    let ran = tool(daemon, &[&["callers"], words].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out.trim().to_owned()
}

/// The status, and the word of a problem.
fn said(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["error"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_caller_with_its_token_runs_any_script_and_sees_its_own_runs_alone() {
    let (server, _client) = stage(&json!({}), &[("echo", ECHO)]);
    let (one, other) = (secret(&server, &["add", "one"]), secret(&server, &["add", "other"]));
    let (mut web, mut second) = (Web::port(&server).token(&one), Web::port(&server).token(&other));
    let run = web.post("/api/v1/run/echo?output=json", "[1]").json();
    assert_eq!(run["result"], json!([1]));
    let queued = web.post("/api/v1/run/echo?queue", "[2]").json();
    server.connect().send("{\"name\":\"echo\",\"params\":3}");
    wait_for("three runs", || server.connect().result("RUNS", &Value::Null).as_array().map(Vec::len) == Some(3));
    let of = |shown: &Value| {
        let mut runs: Vec<String> = shown.as_array().expect("a list").iter().map(|run| run["run"].to_string()).collect();
        runs.sort();
        runs
    };
    assert_eq!(of(&web.get("/api/v1/runs").json()), of(&json!([run, queued])));
    assert_eq!(second.get("/api/v1/runs").json(), json!([]));
    for run in [&run, &queued] {
        let place = format!("/api/v1/runs/{}", run["run"].as_str().expect("its run"));
        assert_eq!(web.get(&format!("{place}/output?follow")).status, 200);
        assert_eq!(web.get(&place).json()["status"], 0);
        for (method, page) in [("GET", place.clone()), ("GET", format!("{place}/output")), ("DELETE", place.clone())] {
            assert_eq!(said(&second.ask(method, &page, "")), (404, "unknown_target".into()), "{method} {page}");
        }
    }
    for page in ["peers", "scripts", "stats"] {
        assert_eq!(web.get(&format!("/api/v1/{page}")).status, 200, "{page}");
    }
    assert_eq!(said(&web.get("/api/v1/events")), (403, "denied".into()));
    assert_eq!(said(&web.post("/api/v1/run/echo?then=hello", "")), (403, "denied".into()));
    // What was queued is its own after a restart as well.
    let again = server.twin();
    drop(server);
    let server = again.start();
    let place = format!("/api/v1/runs/{}", queued["run"].as_str().expect("its run"));
    let (mut web, mut second) = (Web::port(&server).token(&one), Web::port(&server).token(&other));
    assert_eq!((web.get(&place).status, second.get(&place).status), (200, 404));
}

#[test]
fn whoever_shows_no_token_or_a_wrong_one_hears_the_same_after_the_same_time() {
    let server = Daemon::server().config(json!({ "audit": true })).start();
    let token = secret(&server, &["add", "ci"]);
    let key = secret(&server, &["add", "git", "--hmac"]);
    let shown = [
        String::new(),
        "Bearer wrong".into(),
        "Bearer".into(),
        format!("Basic {token}"),
        format!("Bearer {key}"),
        format!("Bearer {token}x"),
        format!("Bearer {token}\r\nAuthorization: Bearer {token}"),
    ];
    let mut replies = Vec::new();
    for shown in shown {
        let begun = Instant::now();
        let web = Web::port(&server);
        let mut web = if shown.is_empty() { web } else { web.header("Authorization", &shown) };
        let reply = web.get("/api/v1/stats");
        assert!(begun.elapsed().as_millis() >= 250 && web.is_closed(), "{shown}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"ws-daemon\""));
        replies.push((reply.status, reply.body));
    }
    assert!(replies.iter().all(|reply| *reply == replies[0] && reply.0 == 401), "{replies:?}");
    let audit = fs::read_to_string(server.prefix().join("audit.jsonl")).expect("there is one");
    assert_eq!(audit.matches("\"event\":\"http\"").count(), replies.len(), "{audit}");
    // Nor do a name in the URL or a foreign page help; and a token that is in the URL is refused whatever it is.
    let mut web = Web::port(&server).token(&token);
    assert_eq!(web.get(&format!("/api/v1/stats?access_token={token}")).status, 400);
    assert_eq!(said(&Web::port(&server).token(&token).host("evil.example").get("/api/v1/stats")), (421, "wrong_host".into()));
    let mut page = Web::port(&server).token(&token).header("Origin", "https://evil.example");
    assert_eq!(said(&page.get("/api/v1/stats")), (403, "foreign_origin".into()));
    assert_eq!(
        Web::port(&server)
            .token(&token)
            .header("Origin", &format!("http://127.0.0.1:{}", server.port()))
            .get("/api/v1/stats")
            .status,
        200
    );
    // Neither stands where others could read it.
    let file = server.prefix().join("keys/callers.json");
    assert_eq!(fs::metadata(&file).expect("it was written").permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file).expect("ours").contains(&token) && !audit.contains(&token));
    assert_eq!(server.log().count(&token), 0);
}

#[test]
fn what_a_caller_was_given_and_the_rules_are_all_that_it_may() {
    let rules = json!([{ "who": "caller:ruled", "scripts": "echo", "commands": ["SUBSCRIBE", "RUNS"] }]);
    let (server, _client) = stage(&json!({ "rules": rules }), &[("echo", ECHO), ("deploy/web", ECHO)]);
    let limited = secret(&server, &["add", "limited", "--allow", "deploy/*", "--command", "STATS"]);
    let elsewhere = secret(&server, &["add", "elsewhere", "--to", "tag:other"]);
    let ruled = secret(&server, &["add", "ruled"]);
    let plain = secret(&server, &["add", "plain"]);
    let table = [
        (&limited, "POST", "run/deploy/web", 200),
        (&limited, "POST", "run/echo", 403),
        (&limited, "GET", "stats", 200),
        (&limited, "GET", "peers", 403),
        (&elsewhere, "POST", "run/echo", 403),
        (&elsewhere, "GET", "stats", 403),
        (&ruled, "POST", "run/echo", 200),
        (&ruled, "POST", "run/deploy/web", 403),
        (&ruled, "GET", "stats", 403),
        // There are rules about callers, and none about this one.
        (&plain, "POST", "run/echo", 403),
        (&plain, "GET", "stats", 403),
        (&plain, "GET", "runs", 200),
    ];
    for (token, method, page, status) in table {
        let reply = Web::port(&server).token(token).ask(method, &format!("/api/v1/{page}"), "");
        assert_eq!(reply.status, status, "{method} {page} {reply:?}");
    }
    let all = Web::port(&server).token(&ruled).get("/api/v1/runs").json();
    assert!(all.as_array().expect("a list").len() >= 2, "it was given the runs of all: {all}");
    let reply = Web::port(&server).token(&plain).post("/api/v1/run/echo", "");
    assert!(reply.json()["detail"].as_str().expect("words").contains("{\"who\":\"caller:plain\",\"scripts\":[\"echo\"]}"));
    let explained = server.connect().result("EXPLAIN", &json!({ "as": "caller:limited", "name": "deploy/web" }));
    assert_eq!((&explained["allowed"], &explained["by"]), (&json!(true), &json!("entry")), "{explained}");
}

#[test]
fn a_revoked_caller_hears_no_more_and_a_rotated_one_has_another_token() {
    let (server, _client) = stage(&json!({}), &[("echo", ECHO)]);
    let token = secret(&server, &["add", "ci", "--command", "SUBSCRIBE"]);
    let mut events = Web::port(&server).token(&token);
    events.send("GET", "/api/v1/events", "");
    assert_eq!((events.head().0, events.chunk().as_deref()), (200, Some(":\n\n")));
    let other = secret(&server, &["rotate", "ci"]);
    assert_eq!(events.chunk(), None, "it was told to who had the old token");
    assert_eq!(Web::port(&server).token(&token).get("/api/v1/runs").status, 401);
    assert_eq!(Web::port(&server).token(&other).get("/api/v1/runs").status, 200);
    let shown = tool(&server, &["callers"]);
    assert!(shown.out.contains("ci") && shown.out.contains("SUBSCRIBE") && !shown.out.contains(&other), "{shown:?}");
    assert_eq!(tool(&server, &["callers", "revoke", "ci"]).code, 0);
    assert_eq!(Web::port(&server).token(&other).get("/api/v1/runs").status, 401);
    let again = tool(&server, &["callers", "revoke", "ci"]);
    assert!(again.code != 0 && again.err.contains("there is no caller \"ci\""), "{again:?}");
}

#[test]
fn a_client_answers_on_an_address_of_its_own_where_there_are_no_links() {
    let server = Daemon::server().script("hello", "#!/bin/sh\necho hello\n").start();
    let client = Daemon::client(&server).config(json!({ "http": "127.0.0.1:0" })).start();
    client.wait_log("link up");
    let line = client.wait_log("HTTP ready");
    let address = line.split("address=").nth(1).expect("where").split_whitespace().next().expect("where").to_owned();
    let token = secret(&client, &["add", "ci"]);
    let mut web = Web::tcp(&address).token(&token);
    assert_eq!(web.post("/api/v1/run/hello", "").json()["stdout"], "hello\n");
    assert_eq!(web.get("/healthz").status, 200);
    assert_eq!(web.get("/").status, 404);
    let mut web = Web::tcp(&address).header("Upgrade", "websocket").header("Connection", "Upgrade");
    assert_eq!(web.get("/").status, 404);
    for config in [json!({ "http": "0.0.0.0:0" }), json!({ "http": "192.0.2.1:9100" })] {
        let plan = Daemon::client(&server).config(config);
        let mut refused = plan.spawn();
        refused.log().wait("\"http\" is an address of this machine");
        refused.wait_exit(crate::support::DEADLINE);
    }
}

#[test]
fn a_hook_is_taken_with_its_signature_and_a_delivery_is_run_once() {
    let (server, client) = stage(&json!({}), &[("hooks/push", "#!/bin/sh\nprintf '%s' \"$1\" > got\n"), ("echo", ECHO)]);
    let key = secret(&server, &["add", "github", "--hmac", "--allow", "hooks/*"]);
    let pay = secret(&server, &["add", "pay", "--hmac", "--header", "X-Pay-Signature", "--allow", "hooks/*"]);
    let body = "{\"ref\": \"refs/heads/main\"}";
    let hub = |code: String| Web::port(&server).header("X-Hub-Signature-256", &format!("sha256={code}"));
    let reply =
        hub(signature(&key, body)).header("Content-Type", "application/json").post("/api/v1/hooks/github/hooks/push", body);
    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!(0)), "{reply:?}");
    let got = fs::read_to_string(client.prefix().join("got")).expect("it ran");
    assert_eq!(got, "{\"ref\":\"refs/heads/main\"}");
    // What a git host sends as a form is signed as it is sent.
    let form = "payload=%7B%22a%22%3A1%7D";
    let mut web = hub(signature(&key, form)).header("Content-Type", "application/x-www-form-urlencoded");
    assert_eq!(web.post("/api/v1/hooks/github/hooks/push", form).json()["status"], 0);
    assert_eq!(fs::read_to_string(client.prefix().join("got")).expect("it ran"), "{\"a\":1}");
    let mut web = Web::port(&server).header("X-Pay-Signature", &signature(&pay, body));
    assert_eq!(web.post("/api/v1/hooks/pay/hooks/push", body).json()["status"], 0);
    // The same delivery again is the same run.
    let deliver = || {
        let mut web = hub(signature(&key, body)).header("X-GitHub-Delivery", "72d3162e");
        let reply = web.post("/api/v1/hooks/github/hooks/push?queue", body);
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["run"].clone()
    };
    assert_eq!(deliver(), deliver());
    let wrong = [
        (hub(signature(&key, "{}")), "github"),
        (hub(signature(&pay, body)), "github"),
        (hub(signature(&key, body)), "pay"),
        (hub(signature(&key, body)), "nobody"),
        (hub(String::new()), "github"),
        (Web::port(&server), "github"),
        (Web::port(&server).token(&key), "github"),
        (Web::socket(&server), "github"),
    ];
    for (mut web, caller) in wrong {
        assert_eq!(said(&web.post(&format!("/api/v1/hooks/{caller}/hooks/push"), body)), (401, "unauthorized".into()));
    }
    let denied = hub(signature(&key, body)).post("/api/v1/hooks/github/echo", body);
    assert_eq!(said(&denied), (403, "denied".into()));
    let bad = hub(signature(&key, "no json")).post("/api/v1/hooks/github/hooks/push", "no json");
    assert_eq!(said(&bad), (400, "bad_message".into()));
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(hub(signature(&key, &long)).post("/api/v1/hooks/github/hooks/push", &long).status, 413);
}

#[test]
fn where_a_request_comes_from_is_in_the_scripts_environment_also_of_one_that_is_queued_and_of_a_process() {
    let env = "#!/bin/sh\nprintf '%s|%s|%s' \"$TRACEPARENT\" \"$WSDAEMON_REQUEST_ID\" \"$WSDAEMON_EVENT\"\n";
    let (server, _client) = stage(&json!({}), &[("env", env)]);
    let (token, key) = (secret(&server, &["add", "ci"]), secret(&server, &["add", "git", "--hmac"]));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ask = |query: &str, trace: &str| {
        let mut web = Web::port(&server).token(&token).header("traceparent", trace).header("X-Request-Id", "req-5");
        web.post(&format!("/api/v1/run/env{query}"), "").json()
    };
    assert_eq!(ask("", trace)["stdout"], format!("{trace}|req-5|"));
    assert_eq!(ask("", "no trace")["stdout"], "|req-5|", "it begins a new one");
    let queued = ask("?queue", trace)["run"].clone();
    // Whoever asks again has another trace, and means the same request.
    assert_eq!(ask("?queue", &trace.replace("01", "00"))["run"], queued);
    let place = format!("/api/v1/runs/{}/output?follow", queued.as_str().expect("its run"));
    assert_eq!(Web::port(&server).token(&token).get(&place).body, format!("{trace}|req-5|"));
    let mut web = Web::port(&server).header("X-Hub-Signature-256", &signature(&key, "{}")).header("X-GitHub-Event", "push");
    assert_eq!(web.post("/api/v1/hooks/git/env?output=tail", "{}").json()["stdout"], "||push");
    let mut local = server.connect();
    local.send(json!({ "name": "env", "output": "tail", "traceparent": trace, "request_id": "r", "event": "e" }).to_string());
    assert_eq!(local.said()["stdout"], format!("{trace}|r|e"));
    local.send(json!({ "name": "env", "id": 1, "traceparent": "x" }).to_string());
    assert_eq!(local.said()["error"], "bad_message");
    let mut web = Web::port(&server).token(&token).header("X-Request-Id", &"x".repeat(201));
    assert_eq!(said(&web.post("/api/v1/run/env", "")), (400, "bad_message".into()));
}

#[test]
fn what_was_asked_is_answered_when_the_daemon_stops() {
    let (mut server, client) = stage(&json!({}), &[("hold", "#!/bin/sh\necho begun > reached\nread -r _ < go\n")]);
    let (mut reached, mut go) = (Fifo::new(client.prefix(), "reached"), Fifo::new(client.prefix(), "go"));
    let token = secret(&server, &["add", "ci", "--command", "SUBSCRIBE"]);
    let mut web = Web::port(&server).token(&token);
    let mut events = Web::port(&server).token(&token);
    events.send("GET", "/api/v1/events", "");
    assert_eq!(events.head().0, 200);
    web.send("POST", "/api/v1/run/hold", "");
    assert_eq!(reached.line(), "begun");
    server.signal(rustix::process::Signal::TERM);
    server.wait_log("told to stop");
    go.release(1);
    assert_eq!(web.reply().json()["status"], 0);
    assert!(web.is_closed());
    assert!(server.wait_exit(crate::support::DEADLINE).success());
}
