//! Processes that serve: asked on the connection on which they said so, by anyone who may ask for a script; who may serve what, in what
//! order connections are asked, and what is known of a request whose process goes away, hangs, or says what is no answer.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, Local, Peer, assert_failed, need_root, pair, wait_for};

/// Nobody that this machine knows.
const STRANGER: u32 = 12_345;

/// A connection that serves these names.
#[track_caller]
fn serving(daemon: &Daemon, data: &Value) -> Local {
    let mut process = daemon.connect();
    process.result("SERVE", data);
    process
}

/// What a process is asked next.
#[track_caller]
fn asked(process: &mut Local) -> Value {
    let line = process.said();
    assert!(line["name"].is_string() && line["id"].is_string() && line.get("params").is_some(), "{line}");
    line
}

/// Answers what a process was asked, with this and its status.
fn answer(process: &mut Local, asked: &Value, more: &Value) {
    let mut answer = json!({ "id": asked["id"], "status": 0 });
    answer.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    process.send(format!("{answer}\n"));
}

/// A process that answers all that it is asked for these names, until the daemon ends.
fn answers_all(daemon: &Daemon, names: &str) {
    let stream = UnixStream::connect(daemon.socket()).expect("it is there");
    let serve = json!({ "name": "+cmd", "params": { "code": "SERVE", "data": { "names": [names], "ready": 8 } } });
    (&stream).write_all(serve.to_string().as_bytes()).expect("room");
    let mut lines = BufReader::new(stream.try_clone().expect("one more")).lines();
    assert_eq!(lines.next().expect("an answer").expect("text"), r#"{"status":0}"#);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let asked: Value = serde_json::from_str(&line).expect("JSON");
            let answer = json!({ "id": asked["id"], "status": 0, "result": asked["params"] });
            if (&stream).write_all(answer.to_string().as_bytes()).is_err() {
                return;
            }
        }
    });
}

fn request(name: &str, id: i64) -> String {
    json!({ "name": name, "id": id, "params": id, "output": "json" }).to_string()
}

#[track_caller]
fn failed(last: &Value, status: i64, error: &str) -> String {
    assert_eq!((&last["status"], &last["error"]), (&status.into(), &error.into()), "{last}");
    last["message"].as_str().expect("words").to_owned()
}

fn contract(daemon: &Daemon, name: &str, contract: &Value) {
    let draft = daemon.prefix().join("contract.draft");
    fs::write(&draft, contract.to_string()).expect("the prefix is ours to write");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).expect("the draft is ours");
    let path = daemon.prefix().join("scripts").join(format!("{name}.json"));
    fs::create_dir_all(path.parent().expect("a folder")).expect("ours");
    fs::rename(&draft, path).expect("both names are in one file system");
}

// ---- What is asked and answered ------------------------------------------------------------------------------------

#[test]
fn a_process_that_serves_is_asked_on_its_connection_and_answers_there() {
    let (server, client) = pair();
    let mut process = server.connect();
    assert_eq!(
        process.ask(r#"{"name":"+cmd","id":"s","params":{"code":"serve","data":{"names":["sms/*"]}}}"#),
        r#"{"status":0,"id":"s"}"#
    );
    let mut asker = client.connect();
    asker.send(r#"{"name":"sms/send","id":[1.50],"params":{ "to" : "+49" },"output":"json","timeout":"1h"}"#);
    let line = process.line();
    let run = line.split('"').nth(3).expect("an id");
    let begins = format!(r#"{{"id":"{run}","name":"sms/send","params":{{"to":"+49"}},"peer":"#);
    assert!(line.starts_with(&begins) && line.contains(r#","caller":[1.50],"deadline":"#), "{line}");
    process.send(json!({ "id": run, "event": "output", "stream": "stderr", "data": "on its way" }).to_string());
    process.send(json!({ "id": run, "status": 0, "result": { "sent": true }, "message": "so it is" }).to_string());
    let last = asker.said();
    assert_eq!((&last["result"], &last["stderr"], &last["run"]), (&json!({"sent": true}), &json!("on its way"), &json!(run)));
    assert_eq!(last["message"], "so it is");
    // In the seed's own grammar there is nothing but the status, and a seed peer asks as any other.
    let mut seed = Peer::dial(&server);
    seed.send_text(r#"{"name":"sms/send","id":7,"params":1}"#);
    let line = asked(&mut process);
    assert_eq!(line["caller"], 7);
    answer(&mut process, &line, &json!({ "status": 9, "message": "so it is" }));
    assert_eq!(seed.status(), r#"{"status":9,"id":7}"#);
    assert_failed(&asker.ask(r#"{"name":"mail/send","id":1}"#), -1, "not_found", Some(json!(1)));
}

#[test]
fn a_process_asks_and_is_asked_on_one_connection() {
    let (server, client) = pair();
    client.script("seven", "#!/bin/sh\nexit 7\n");
    let mut process = serving(&server, &json!({ "names": ["a"], "ready": 8 }));
    let mut asker = client.connect();
    asker.send(request("a", 1));
    let line = asked(&mut process);
    assert_eq!(process.ask(r#"{"name":"seven","id":"mine"}"#), r#"{"status":7,"id":"mine"}"#);
    // Many in one write, of both kinds.
    for id in 2..6 {
        asker.send(request("a", id));
    }
    let mut lines = vec![line];
    lines.extend((2..6).map(|_| asked(&mut process)));
    let answers = lines.iter().map(|line| json!({ "id": line["id"], "status": 0, "result": line["params"] }).to_string());
    process.send(answers.collect::<String>() + r#"{"name":"seven","id":"more"}"#);
    assert_eq!(process.line(), r#"{"status":7,"id":"more"}"#);
    let found: Vec<Value> = (1..6).map(|_| asker.said()).collect();
    assert!(found.iter().all(|last| last["status"] == 0 && last["result"] == last["id"]), "{found:?}");
    // What nobody waits for is told to others.
    let mut seed = Peer::dial(&server);
    seed.send_text(r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":1,"id":"nobody's"}}}"#);
    seed.nothing_waiting();
    process.nothing_waiting();
}

#[test]
fn no_more_is_asked_than_a_process_is_ready_for_and_who_has_less_to_do_is_asked_first() {
    let (server, client) = pair();
    let mut first = serving(&server, &json!({ "names": ["a"], "ready": 2 }));
    let mut second = serving(&server, &json!({ "names": ["a"], "ready": 1 }));
    let mut asker = client.connect();
    (0..4).for_each(|id| asker.send(request("a", id)));
    let held = [asked(&mut first), asked(&mut first), asked(&mut second)];
    wait_for("the fourth to be in line", || server.connect().result("STATS", &json!(null))["waiting"] == 1);
    answer(&mut second, &held[2], &json!({}));
    let last = asked(&mut second);
    answer(&mut second, &last, &json!({}));
    held[..2].iter().for_each(|line| answer(&mut first, line, &json!({})));
    assert!((0..4).all(|_| asker.said()["status"] == 0));
    // Another SERVE counts from here on.
    second.result("SERVE", &json!({ "names": ["b"], "ready": 1 }));
    asker.send(request("b", 5));
    let line = asked(&mut second);
    assert_eq!(line["name"], "b");
    answer(&mut second, &line, &json!({}));
    asker.said();
    asker.send(request("a", 6));
    let line = asked(&mut first);
    answer(&mut first, &line, &json!({}));
    assert_eq!(asker.said()["id"], 6);
    second.nothing_waiting();
}

#[test]
fn a_script_of_the_name_wins_and_then_who_came_first_and_has_room() {
    let (server, client) = pair();
    let mut wide = serving(&server, &json!({ "names": ["*"] }));
    let mut narrow = serving(&server, &json!({ "names": ["sms/*", "x"] }));
    let mut asker = client.connect();
    asker.send(request("sms/send", 1));
    let held = asked(&mut wide);
    asker.send(request("sms/send", 2));
    let line = asked(&mut narrow);
    answer(&mut narrow, &line, &json!({}));
    answer(&mut wide, &held, &json!({}));
    assert!((0..2).all(|_| asker.said()["status"] == 0));
    server.script("sms/other", "#!/bin/sh\nexit 3\n");
    assert_eq!(asker.ask(r#"{"name":"sms/other","id":3}"#), r#"{"status":3,"id":3}"#);
    drop((wide, narrow));
    answers_all(&server, "*");
    assert_eq!(asker.ask(r#"{"name":"sms/send","id":4}"#), r#"{"status":0,"id":4}"#);
    server.script("sms/send", "#!/bin/sh\nexit 3\n");
    wait_for("the script to be seen", || client.connect().ask(r#"{"name":"sms/send"}"#) == r#"{"status":3}"#);
    // Names that are no plain paths are nobody's.
    for name in ["sms//x", "sms/./x", "sms/x/", "/sms/x", ""] {
        let said: Value = serde_json::from_str(&asker.ask(&json!({ "name": name, "id": 5 }).to_string())).expect("JSON");
        assert_eq!(said["status"], -1, "{name}: {said}");
    }
}

// ---- What goes wrong -----------------------------------------------------------------------------------------------

#[test]
fn what_a_process_held_is_unknown_when_it_goes_or_says_no_more_and_nobody_serves_then() {
    let (server, client) = pair();
    let mut asker = client.connect();
    for half_closes in [false, true] {
        let mut process = serving(&server, &json!({ "names": ["a"] }));
        asker.send(request("a", 1));
        let line = asked(&mut process);
        if half_closes {
            process.half_close();
        } else {
            drop(process);
        }
        let why = failed(&asker.said(), -5, "interrupted");
        assert!(why.contains("the connection that served it ended"), "{why} {line}");
        assert_failed(&asker.ask(r#"{"name":"a","id":2}"#), -1, "not_found", Some(json!(2)));
    }
    // Who waited in line is asked of another one.
    let mut first = serving(&server, &json!({ "names": ["a"] }));
    asker.send(request("a", 1));
    asked(&mut first);
    asker.send(request("a", 2));
    wait_for("the second to be in line", || server.connect().result("STATS", &json!(null))["waiting"] == 1);
    let mut second = serving(&server, &json!({ "names": ["*"] }));
    drop(first);
    let line = asked(&mut second);
    answer(&mut second, &line, &json!({}));
    let mut answers = [asker.said(), asker.said()];
    answers.sort_by_key(|answer| answer["id"].as_i64());
    assert_eq!(answers.map(|answer| answer["status"].clone()), [json!(-5), json!(0)]);
}

#[test]
fn one_that_does_not_answer_in_time_is_closed_and_may_still_do_it() {
    let (server, client) = pair();
    let mut process = serving(&server, &json!({ "names": ["a"], "ready": 2 }));
    let mut asker = client.connect();
    asker.send(request("a", 2));
    asked(&mut process);
    asker.send(r#"{"name":"a","id":1,"timeout":"200ms","output":"tail"}"#);
    asked(&mut process);
    let mut answers = [asker.said(), asker.said()];
    answers.sort_by_key(|answer| answer["id"].as_i64());
    let why = failed(&answers[0], -5, "interrupted");
    assert!(why.contains("did not answer within 200ms; whoever serves it may still do it"), "{why}");
    failed(&answers[1], -5, "interrupted");
    process.eof();
    server.wait_log("it served, and did not answer as it was to");
}

#[test]
fn a_cancelled_request_is_unknown_and_its_late_answer_is_taken_and_dropped() {
    let (server, client) = pair();
    let mut process = serving(&server, &json!({ "names": ["a"] }));
    let mut asker = client.connect();
    asker.send(request("a", 1));
    let line = asked(&mut process);
    client.connect().result("CANCEL", &json!({ "id": 1 }));
    let why = failed(&asker.said(), -5, "interrupted");
    assert!(why.contains("cancelled by whoever asked; whoever serves it may still do it"), "{why}");
    // It has no room until it has answered.
    asker.send(request("a", 2));
    process.nothing_waiting();
    answer(&mut process, &line, &json!({ "result": "late" }));
    let line = asked(&mut process);
    answer(&mut process, &line, &json!({ "result": "in time" }));
    assert_eq!(asker.said()["result"], "in time");
    asker.nothing_waiting();
}

#[test]
fn one_that_says_what_is_no_answer_is_told_why_and_closed() {
    let server = Daemon::server().config(json!({ "limits": { "message": 4096 } })).start();
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    let mut asker = client.connect();
    let long = format!("{{\"id\":\"{}\"", "x".repeat(5000));
    let table = [
        (r#"{"id":"0190a000-0000-7000-8000-000000000001","status":0}"#, "which it does not hold"),
        (r#"{"id":"RUN","status":256}"#, "from 0 to 255"),
        (r#"{"id":"RUN"}"#, "there is no \"status\""),
        (r#"{"status":0}"#, "there is no \"id\""),
        (r#"{"id":"RUN","status":0}{"id":"RUN","status":0}"#, "which it does not hold"),
        ("nonsense\n", "a JSON object"),
        (&long, "longer than 4096 bytes"),
    ];
    for (said, words) in table {
        let mut process = serving(&server, &json!({ "names": ["a"], "ready": 2 }));
        asker.send(request("a", 1));
        let line = asked(&mut process);
        process.send(said.replace("RUN", line["id"].as_str().expect("text")));
        let told = process.line();
        assert!(told.starts_with(r#"{"status":-3,"error":""#) && told.contains(&words.replace('"', "\\\"")), "{said}: {told}");
        process.eof();
        let last = asker.said();
        if said.ends_with("0}") && words.contains("hold") && said.contains("RUN") {
            assert_eq!(last["status"], 0, "{said}: {last}");
        } else {
            failed(&last, -5, "interrupted");
        }
        wait_for("it to be gone", || server.connect().result("STATS", &json!(null))["workers"]["serving"] == 0);
    }
    // Who serves nothing hears what is wrong, as ever.
    let mut process = server.connect();
    assert_failed(&process.ask(r#"{"id":"x","status":0}"#), -3, "bad_message", Some(json!("x")));
    process.nothing_waiting();
}

#[test]
fn one_that_does_not_read_is_asked_when_it_has_room_and_others_before() {
    let (server, client) = pair();
    let mut slow = serving(&server, &json!({ "names": ["a"], "ready": 8 }));
    let mut asker = client.connect();
    let long = "y".repeat(2 << 20);
    let request = |id: i64| json!({ "name": "a", "id": id, "params": long, "output": "tail" }).to_string();
    (0..3).for_each(|id| asker.send(request(id)));
    wait_for("all to be here", || server.connect().result("STATS", &json!(null))["running"] == 3);
    // There is one now that reads.
    let mut other = serving(&server, &json!({ "names": ["a"], "ready": 8 }));
    let line = asked(&mut other);
    answer(&mut other, &line, &json!({}));
    // One is on its way to the other, and one waits behind it.
    for _ in 0..2 {
        let line = asked(&mut slow);
        answer(&mut slow, &line, &json!({}));
    }
    other.nothing_waiting();
    assert!((0..3).all(|_| asker.said()["status"] == 0));
}

#[test]
fn a_daemon_that_stops_tells_that_a_process_may_still_do_it() {
    let (mut server, client) = pair();
    server.reconfigure(json!({ "times": { "grace": "1s" } }));
    server.connect().result("RELOAD", &json!(null));
    let mut process = serving(&server, &json!({ "names": ["a"] }));
    let mut asker = client.connect();
    asker.send(request("a", 1));
    asked(&mut process);
    server.signal(Signal::TERM);
    let why = failed(&asker.said(), -5, "interrupted");
    assert!(why.contains("the daemon was stopped; whoever serves it may still do it"), "{why}");
    assert!(server.wait_exit(DEADLINE).success());
    process.eof();
}

#[test]
fn a_queued_request_is_asked_once_and_kept_until_it_is_answered() {
    let (server, client) = pair();
    let mut process = serving(&server, &json!({ "names": ["a"] }));
    let mut asker = client.connect();
    asker.send(r#"{"name":"a","id":"q","params":1,"queue":true,"output":"json"}"#);
    assert_eq!(asker.said()["event"], "accepted");
    let line = asked(&mut process);
    answer(&mut process, &line, &json!({ "result": [1] }));
    let (_, last) = asker.rest();
    assert_eq!((&last["status"], &last["result"]), (&json!(0), &json!([1])));
    let again = asker.ask(r#"{"name":"a","id":"q","params":1,"queue":true,"output":"json"}"#);
    assert!(again.contains("\"result\":[1]") || again.contains("accepted"), "{again}");
    process.nothing_waiting();
}

#[test]
fn a_restart_goes_on_with_those_that_serve() {
    let (server, client) = pair();
    let mut process = serving(&server, &json!({ "names": ["a"], "ready": 2 }));
    let mut asker = client.connect();
    asker.send(request("a", 1));
    let line = asked(&mut process);
    server.connect().result("RESTART", &json!(null));
    // What it was asked in one life of the daemon it answers in that one.
    answer(&mut process, &line, &json!({}));
    assert_eq!(asker.said()["status"], 0);
    server.wait_log("what is open is passed on");
    server.wait_log_times("local socket ready", 2);
    client.wait_log_times("link up", 2);
    asker.send(request("a", 2));
    let line = asked(&mut process);
    answer(&mut process, &line, &json!({}));
    assert_eq!(asker.said()["status"], 0);
}

// ---- Who may, and what holds ---------------------------------------------------------------------------------------

#[test]
fn a_contract_beside_the_name_holds_without_a_script() {
    let (server, client) = pair();
    let mut process = serving(&server, &json!({ "names": ["sms/*", "top"], "ready": 8 }));
    let mut asker = client.connect();
    contract(&server, "sms/send", &json!({ "schema": { "type": "integer" }, "timeout": "200ms", "output": 3, "at_once": 1 }));
    assert_failed(&asker.ask(r#"{"name":"sms/send","id":1,"params":"x"}"#), -1, "invalid_params", Some(json!(1)));
    asker.send(r#"{"name":"sms/send","id":2,"params":5,"output":"tail"}"#);
    let line = asked(&mut process);
    assert!(line["deadline"].is_number(), "{line}");
    asker.send(r#"{"name":"sms/send","id":3,"params":5}"#);
    wait_for("the third to be in line", || server.connect().result("STATS", &json!(null))["waiting"] == 1);
    answer(&mut process, &line, &json!({ "stdout": "0123456789" }));
    let last = asker.said();
    assert_eq!((&last["stdout"], &last["cut"]["stdout"]["bytes"]), (&json!("789"), &json!(7)), "{last}");
    let line = asked(&mut process);
    answer(&mut process, &line, &json!({}));
    asker.said();
    contract(&server, "top", &json!({ "callers": ["local"] }));
    assert_failed(&asker.ask(r#"{"name":"top","id":4}"#), -3, "denied", Some(json!(4)));
    contract(&server, "top", &json!({ "calers": ["local"] }));
    wait_for("the contract to be seen", || client.connect().ask(r#"{"name":"top"}"#).contains("there is no key"));
    process.nothing_waiting();
}

#[test]
fn who_may_serve_is_said_by_the_settings_and_is_root_and_the_daemons_own_user_else() {
    if !need_root() {
        return;
    }
    let server = Daemon::server().config(json!({ "audit": true })).start();
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    let serve = |names: &[&str]| json!({ "name": "+cmd", "id": 1, "params": { "code": "SERVE", "data": { "names": names } } });
    let mut stranger = server.connect_as(STRANGER, &[4321]);
    let words = assert_failed(&stranger.ask(&serve(&["sms/send"]).to_string()), -3, "denied", Some(json!(1)));
    assert!(words.contains(r#"{"names":["sms/send"],"users":[12345]} under "serve""#), "{words}");
    server.reconfigure(
        json!({ "serve": [{ "names": ["sms/*"], "users": ["group:4321"] }, { "names": ["one"], "users": [STRANGER] }] }),
    );
    server.wait_log("the settings were read again");
    assert_eq!(stranger.ask(&serve(&["sms/send", "sms/x*", "one"]).to_string()), r#"{"status":0,"id":1}"#);
    for names in [&["*"][..], &["sms/*", "two"], &["sms*"], &["on?"]] {
        assert_failed(&stranger.ask(&serve(names).to_string()), -3, "denied", Some(json!(1)));
    }
    let audit = server.prefix().join("audit.jsonl");
    let written = |by: &str, allowed: bool, names: &str| {
        let text = fs::read_to_string(&audit).unwrap_or_default();
        let mut entries = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let is_it =
            |entry: &Value| (&entry["by"], &entry["allowed"], &entry["names"]) == (&json!(by), &json!(allowed), &json!(names));
        entries.any(|entry| entry["code"] == "+SERVE" && is_it(&entry))
    };
    wait_for("what was decided", || {
        written("serve[1]", true, "sms/send, sms/x*, one") && written("no rule", false, "sms/*, two")
    });
    let mut by_user = server.connect_as(STRANGER, &[]);
    assert_failed(&by_user.ask(&serve(&["sms/send"]).to_string()), -3, "denied", Some(json!(1)));
    assert_eq!(by_user.ask(&serve(&["one"]).to_string()), r#"{"status":0,"id":1}"#);
    // Whoever serves goes on, whatever is said from here on.
    server.reconfigure(json!({ "serve": null }));
    server.wait_log_times("the settings were read again", 2);
    let mut asker = client.connect();
    asker.send(request("sms/send", 7));
    let line = asked(&mut stranger);
    answer(&mut stranger, &line, &json!({}));
    assert_eq!(asker.said()["status"], 0);
    assert_failed(&stranger.ask(&serve(&["one"]).to_string()), -3, "denied", Some(json!(1)));
    // A rule about processes must give the command as well.
    server.reconfigure(
        json!({ "serve": [{ "names": ["*"], "users": [STRANGER] }], "rules": [{ "who": "local", "commands": "STATS" }] }),
    );
    server.wait_log_times("the settings were read again", 3);
    let words = assert_failed(&stranger.ask(&serve(&["one"]).to_string()), -3, "denied", Some(json!(1)));
    assert!(words.contains("\"commands\":[\"SERVE\"]"), "{words}");
}

#[test]
fn nobody_serves_by_tcp_or_in_a_way_that_is_none() {
    let server = Daemon::server().env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    let serve = |data: Value| json!({ "name": "+cmd", "id": 1, "params": { "code": "SERVE", "data": data } }).to_string();
    let words = assert_failed(&server.connect_tcp().ask(&serve(json!({ "names": ["a"] }))), -3, "denied", Some(json!(1)));
    assert!(words.contains("not by TCP"), "{words}");
    let mut process = server.connect();
    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    let table = [
        (json!({ "names": [] }), "1 to 64"),
        (json!({ "names": many }), "1 to 64"),
        (json!({ "names": [""] }), "a pattern of scripts needs a name"),
        (json!({ "names": ["a"], "ready": 0 }), "1 to 1024"),
        (json!({ "names": ["a"], "ready": 1025 }), "1 to 1024"),
        (json!({ "names": ["a"], "redy": 1 }), "unknown field"),
        (json!("a"), "invalid type"),
    ];
    for (data, words) in table {
        let said = assert_failed(&process.ask(&serve(data)), -3, "bad_message", Some(json!(1)));
        assert!(said.contains(words), "{said}");
    }
    let there = process.ask(r#"{"name":"&cmd","id":1,"params":{"code":"SERVE","data":{"names":["a"]}}}"#);
    assert_failed(&there, -3, "denied", Some(json!(1)));
}

#[test]
fn what_is_served_is_shown() {
    let (server, client) = pair();
    let _processes = [(); 2].map(|()| serving(&server, &json!({ "names": ["sms/*", "x"], "ready": 8 })));
    answers_all(&server, "other");
    assert_eq!(client.connect().ask(r#"{"name":"other"}"#), r#"{"status":0}"#);
    let mut local = server.connect();
    let scripts = local.result("SCRIPTS", &json!(null));
    let served = json!({ "connections": 2, "ready": 16 });
    assert_eq!(scripts[0], json!({ "name": "sms/*", "served": served }), "{scripts}");
    let stats = local.result("STATS", &json!(null));
    assert_eq!((&stats["workers"]["serving"], &stats["workers"]["calls"]), (&json!(3), &json!(1)), "{stats}");
    let metrics = local.result("METRICS", &json!(null));
    for line in ["wsdaemon_workers_serving 3", "wsdaemon_commands_total{code=\"SERVE\"} 3"] {
        assert!(metrics.as_str().is_some_and(|page| page.contains(line)), "{line}: {metrics}");
    }
    let told = server.told(&["scripts"]);
    assert!(told.lines().any(|line| line.contains("sms/*") && line.contains("served by 2")), "{told}");
}
