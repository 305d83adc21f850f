//! Who runs a request: names, globs, tags, one of them or each of them, the way there, and a client that asks for another one
//! through its server. What is queued for whom is in queue.rs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Daemon, EXIT, Fifo, Local, Peer, PeerListener, daemons_say};

/// A client of a name of its own, with its link up on both sides.
fn named(server: &Daemon, name: &str, tags: &[&str]) -> Daemon {
    let links = server.log().count("link up");
    let client = Daemon::client(server).config(json!({ "name": name, "tags": tags })).script("exit", EXIT).start();
    client.wait_log("link up");
    server.wait_log_times("link up", links + 1);
    client
}

/// A server with three clients: web-1, web-2, and mail, which can do sms.
fn fleet() -> (Daemon, [Daemon; 3], Local) {
    let server = Daemon::server().start();
    let clients = [named(&server, "web-1", &[]), named(&server, "web-2", &[]), named(&server, "mail", &["sms"])];
    let process = server.connect();
    (server, clients, process)
}

fn asked(more: &Value) -> Value {
    let mut request = json!({ "name": "exit", "id": 1, "params": { "exit": 0 } });
    let (Some(request), Some(more)) = (request.as_object_mut(), more.as_object()) else { panic!("objects") };
    request.extend(more.clone());
    json!(request)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn a_target_is_a_name_a_glob_a_tag_or_all_but_one_and_one_of_them_runs_it() {
    let (_server, _clients, mut process) = fleet();
    let table: [(Value, &[&str]); 6] = [
        (json!("web-1"), &["web-1"]),
        (json!("web-*"), &["web-1", "web-2"]),
        (json!("tag:sms"), &["mail"]),
        (json!("!mail"), &["web-1", "web-2"]),
        (json!(["web-2", "tag:sms"]), &["mail", "web-2"]),
        (json!(["!web-1", "!mail"]), &["web-2"]),
    ];
    for (to, expected) in table {
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let (events, last) = process.run(&asked(&json!({ "to": to })));
            assert_eq!((events.len(), &last["status"], &last["id"]), (0, &json!(0), &json!(1)), "{last}");
            assert!(last["run"].is_string(), "{last}");
            seen.insert(text(&last["peer"]).to_owned());
        }
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{to}");
        process.nothing_waiting();
    }
}

#[test]
fn everyone_is_asked_for_by_each_and_a_name_that_nobody_ever_had_is_said_with_the_nearest() {
    let (server, [web, _second, _mail], mut process) = fleet();
    let (_, last) = process.run(&asked(&json!({ "to": "*" })));
    assert_eq!((&last["status"], &last["error"]), (&json!(-3), &json!("bad_message")), "{last}");
    assert!(text(&last["message"]).contains("\"each\":true"), "{last}");
    let (_, last) = process.run(&asked(&json!({ "to": "wbe-1" })));
    assert_eq!((&last["status"], &last["error"]), (&json!(-2), &json!("unknown_target")), "{last}");
    assert!(text(&last["message"]).contains("did you mean \"web-1\"?"), "{last}");
    let (_, last) = process.run(&asked(&json!({ "to": "tag:none" })));
    assert_eq!((&last["status"], &last["error"]), (&json!(-2), &json!("no_peer")), "{last}");
    drop(web);
    server.wait_log("link down");
    let (_, last) = process.run(&asked(&json!({ "to": "web-1" })));
    assert_eq!((&last["status"], &last["error"]), (&json!(-2), &json!("no_peer")), "{last}");
}

#[test]
fn a_route_is_in_turn_or_to_the_least_busy_or_always_the_same_for_a_key() {
    let (server, [first, second, mail], mut process) = fleet();
    drop(mail);
    server.wait_log("link down");
    let mut reached = Fifo::new(first.prefix(), "reached");
    let mut go = Fifo::new(first.prefix(), "go");
    first.script("hold", "#!/bin/sh\necho here > reached\nread line < go\n");
    let mut holding = server.connect();
    holding.send(asked(&json!({ "name": "hold", "id": "h", "to": "web-1" })).to_string());
    reached.line();
    let mut peers = |route: Value| -> Vec<String> {
        (0..4).map(|_| text(&process.run(&asked(&json!({ "to": "web-*", "route": route }))).1["peer"]).to_owned()).collect()
    };
    assert_eq!(peers(json!("least-busy")), ["web-2"; 4]);
    let in_turn = peers(json!("round-robin"));
    assert!(in_turn[0] != in_turn[1] && in_turn[..2] == in_turn[2..], "{in_turn:?}");
    for key in ["a", "b", "c"] {
        let same: BTreeSet<_> = peers(json!({ "sticky": key })).into_iter().collect();
        assert_eq!(same.len(), 1, "{same:?}");
    }
    go.release(1);
    assert_eq!(holding.said()["status"], 0);
    drop(second);
}

#[test]
fn each_is_one_run_each_and_one_line_each_and_then_how_many_failed() {
    let (_server, [_first, second, _mail], mut process) = fleet();
    second.script("exit", "#!/bin/sh\nexit 5\n");
    process.send(asked(&json!({ "each": true, "to": "*" })).to_string());
    let mut ended: Vec<(String, i64)> = (0..3)
        .map(|_| {
            let (events, last) = process.rest();
            assert!(events.is_empty(), "{events:?}");
            (text(&last["peer"]).to_owned(), last["status"].as_i64().expect("a status"))
        })
        .collect();
    ended.sort();
    assert_eq!(ended, [("mail".into(), 0), ("web-1".into(), 0), ("web-2".into(), 5)]);
    assert_eq!(process.line(), r#"{"event":"done","id":1,"runs":3,"failed":1}"#);
    process.send(asked(&json!({ "each": true, "to": "web-*", "queue": true, "id": "q" })).to_string());
    for _ in 0..2 {
        let accepted = process.said();
        assert_eq!((&accepted["event"], &accepted["runs"]), (&json!("accepted"), &json!(2)), "{accepted}");
    }
    let statuses: BTreeSet<i64> = (0..2).filter_map(|_| process.said()["status"].as_i64()).collect();
    assert_eq!(statuses, BTreeSet::from([0, 5]));
    assert_eq!(process.line(), r#"{"event":"done","id":"q","runs":2,"failed":1}"#);
    process.nothing_waiting();
}

#[test]
fn a_fan_out_is_braked_by_batch_and_by_max_failures() {
    for queue in [false, true] {
        let (server, clients, mut process) = fleet();
        let mut reached: Vec<Fifo> = clients.iter().map(|client| Fifo::new(client.prefix(), "reached")).collect();
        let mut go: Vec<Fifo> = clients.iter().map(|client| Fifo::new(client.prefix(), "go")).collect();
        for client in &clients {
            client.script("hold", "#!/bin/sh\necho here > reached\nread line < go\nexit 9\n");
        }
        let mut request = asked(&json!({ "name": "hold", "each": true, "to": "*", "batch": 1, "max_failures": 2 }));
        if queue {
            request["queue"] = json!(true);
        }
        process.send(request.to_string());
        let accepted = if queue { 3 } else { 0 };
        for _ in 0..accepted {
            assert_eq!(process.said()["event"], "accepted");
        }
        // In order of name: mail, web-1; the third is not started any more.
        for number in [2, 0] {
            reached[number].line();
            let running = server.connect().result("RUNS", &json!({ "state": "running" }));
            assert_eq!(running.as_array().map(Vec::len), Some(1), "{running}");
            go[number].release(1);
            assert_eq!(process.said()["status"], 9);
        }
        let last = process.said();
        assert_eq!((&last["status"], &last["error"]), (&json!(-4), &json!("cancelled")), "{last}");
        assert_eq!(process.line(), r#"{"event":"done","id":1,"runs":3,"failed":3}"#);
        assert_eq!(clients[1].log().count("run ended"), 0);
    }
}

#[test]
fn failures_count_for_max_failures_also_those_before_the_asker_was_killed_and_what_was_under_way_goes_on() {
    let asker = Daemon::server().config(json!({ "port": PeerListener::bind().port() })).start();
    let clients = ["a", "b", "c", "d"].map(|name| named(&asker, name, &[]));
    let pipes = |name: &str| clients.each_ref().map(|client| Fifo::new(client.prefix(), name));
    let (mut reached, mut go) = (pipes("reached"), pipes("go"));
    for client in &clients {
        client.script("hold", "#!/bin/sh\necho here > reached\nread line < go\nexit 9\n");
    }
    let request =
        asked(&json!({ "name": "hold", "each": true, "to": "*", "batch": 2, "max_failures": 2, "queue": true })).to_string();
    let ask = |asker: &Daemon| {
        let mut process = asker.connect();
        process.send(&request);
        for _ in &clients {
            assert_eq!(process.said()["event"], "accepted");
        }
        process
    };
    let ended = |process: &mut Local| {
        let said = process.said();
        (said["status"].clone(), said["peer"].clone())
    };
    let mut process = ask(&asker);
    reached[0].line();
    reached[1].line();
    go[0].release(1);
    assert_eq!(ended(&mut process), (json!(9), json!("a")));
    reached[2].line();
    let asker = asker.crash().start();
    let mut process = ask(&asker);
    assert_eq!(ended(&mut process), (json!(9), json!("a")));
    go[1].release(1);
    assert_eq!(ended(&mut process), (json!(9), json!("b")));
    assert_eq!(ended(&mut process), (json!(-4), Value::Null), "the fourth is not started any more");
    let asker = asker.crash().start();
    let mut process = ask(&asker);
    for _ in 0..3 {
        ended(&mut process);
    }
    asker.wait_log_times("link up", clients.len());
    process.nothing_waiting();
    go[2].release(1);
    assert_eq!(ended(&mut process), (json!(9), json!("c")));
    assert_eq!(process.line(), r#"{"event":"done","id":1,"runs":4,"failed":4}"#);
    assert_eq!(clients[3].log().count("run over"), 0);
}

#[test]
fn the_list_of_a_queued_fan_out_is_fixed_when_it_is_accepted_absent_peers_among_it() {
    let (server, [first, second, mail], mut process) = fleet();
    drop(mail);
    server.wait_log("link down");
    let absent = second.kill();
    server.wait_log_times("link down", 2);
    process.send(asked(&json!({ "each": true, "to": "web-*", "queue": true })).to_string());
    let accepted: Vec<Value> = (0..2).map(|_| process.said()).collect();
    assert!(accepted.iter().all(|said| said["runs"] == 2), "{accepted:?}");
    assert_eq!(process.said()["peer"], "web-1");
    let late = named(&server, "web-3", &[]);
    process.nothing_waiting();
    let second = absent.start();
    assert_eq!(process.said()["peer"], "web-2");
    assert_eq!(process.line(), r#"{"event":"done","id":1,"runs":2,"failed":0}"#);
    for doer in [first, second] {
        doer.wait_log("queued run over");
    }
    assert_eq!(late.log().count("run over"), 0, "it was not there when the list was made");
}

#[test]
fn a_queued_request_for_a_name_never_seen_waits_for_it_and_is_told_the_nearest() {
    let (server, _clients, mut process) = fleet();
    process.send(asked(&json!({ "to": "web-11", "queue": true })).to_string());
    let accepted = process.said();
    assert_eq!((&accepted["event"], &accepted["nearest"]), (&json!("accepted"), &json!("web-1")), "{accepted}");
    process.nothing_waiting();
    let _late = named(&server, "web-11", &[]);
    let last = process.said();
    assert_eq!((&last["status"], &last["peer"]), (&json!(0), &json!("web-11")), "{last}");
}

// ---- Through the server ----------------------------------------------------------------------------------------

/// A script that tells what it found in its environment.
const WHO: &str = "#!/bin/sh\necho \"$WSDAEMON_ID $WSDAEMON_PEER $1\"\n";

#[test]
fn a_client_has_another_client_run_it_through_its_server_if_that_lets_it() {
    let server = Daemon::server().config(json!({ "relay": true, "name": "hub" })).start();
    let (asker, doer) = (named(&server, "till", &[]), named(&server, "printer", &["paper"]));
    doer.script("who", WHO);
    let mut process = asker.connect();
    for to in [json!("printer"), json!("tag:paper"), json!("print*")] {
        for queue in [false, true] {
            let id = format!("my own {to} {queue}");
            let request =
                json!({ "name": "who", "id": id, "params": [1], "to": to, "output": "tail", "events": true, "queue": queue });
            let (events, last) = process.run(&request);
            assert_eq!((&last["status"], &last["peer"]), (&json!(0), &json!("printer")), "{last}");
            assert_eq!(last["stdout"], format!("{id} hub [1]\n"), "{last}");
            let words: Vec<&str> = events.iter().map(|event| text(&event["event"])).collect();
            let expected = if queue { vec!["accepted", "delivered", "started"] } else { vec!["delivered", "started"] };
            assert_eq!(words, expected, "{events:?}");
            assert!(events.iter().all(|event| event["run"] == last["run"]), "{events:?} {last}");
        }
    }
    // To others, not back to who asks, though it matches.
    for queue in [false, true, false, true] {
        let (_, last) =
            process.run(&json!({ "name": "exit", "params": { "exit": 0 }, "to": ["printer", "till"], "queue": queue }));
        assert_eq!((&last["status"], &last["peer"]), (&json!(0), &json!("printer")), "{last}");
    }
    // Streamed, and stopped.
    let mut reached = Fifo::new(doer.prefix(), "reached");
    let _held = Fifo::new(doer.prefix(), "held");
    doer.script("hold", "#!/bin/sh\necho said\necho here > reached\nread line < held\n");
    for queue in [false, true] {
        let id = format!("hold {queue}");
        process.send(json!({ "name": "hold", "id": id, "to": "printer", "output": "stream", "queue": queue }).to_string());
        reached.line();
        let output = loop {
            let said = process.said();
            if said["event"] == "output" {
                break said;
            }
        };
        assert_eq!((&output["data"], &output["offset"]), (&json!("said\n"), &json!(0)), "{output}");
        assert_eq!(asker.connect().command("CANCEL", &json!({ "id": id }))["status"], 0);
        let (_, last) = process.rest();
        assert_eq!((&last["status"], &last["error"]), (&json!(-4), &json!("cancelled")), "{last}");
    }
}

/// The final lines of a fan-out: who and how, in order of name; `done` stands behind them.
#[track_caller]
fn fan_out(process: &mut Local, request: &Value) -> Vec<Value> {
    process.send(request.to_string());
    let mut ended = Vec::new();
    loop {
        let said = process.said();
        match said["event"].as_str() {
            Some("done") => {
                assert_eq!(said["runs"], ended.len(), "{said}");
                ended.sort_by_key(ToString::to_string);
                return ended;
            }
            Some(_) => {}
            None => ended.push(json!([said["peer"], said["status"]])),
        }
    }
}

#[test]
fn each_at_a_client_is_its_server_and_that_ones_other_clients_if_it_lets_it() {
    let server = Daemon::server().config(json!({ "relay": true, "name": "hub" })).script("exit", EXIT).start();
    let asker = named(&server, "till", &["shop"]);
    let (_first, second) = (named(&server, "web-1", &["web"]), named(&server, "web-2", &["web"]));
    let _seed = Peer::dial(&server);
    second.script("exit", "#!/bin/sh\nexit 5\n");
    let mut process = asker.connect();
    let everyone = vec![json!(["hub", 0]), json!(["web-1", 0]), json!(["web-2", 5])];
    for (more, expected) in [
        (json!({ "to": "*" }), &everyone[..]),
        (json!({ "to": "*", "queue": true }), &everyone),
        (json!({ "to": ["tag:web", "tag:shop"] }), &everyone[1..]),
        (json!({ "to": "web-1", "queue": true }), &everyone[1..2]),
        (json!({ "to": "!web-1", "batch": 1 }), &[everyone[0].clone(), everyone[2].clone()]),
    ] {
        let mut request = asked(&more);
        (request["each"], request["id"]) = (json!(true), json!(more.to_string()));
        assert_eq!(fan_out(&mut process, &request), expected, "{more}");
    }
    let nobody = json!({ "to": "mail-*", "each": true });
    process.send(asked(&nobody).to_string());
    assert_eq!(process.said()["error"], "no_peer");
    assert_eq!(process.said()["event"], "done");
    // The list is fixed when it is accepted, those who are absent among them, and it is on disk.
    let absent = second.kill();
    server.wait_log_times("link down", 1);
    let mut queued = asked(&json!({ "to": "web-*", "each": true, "queue": true }));
    queued["id"] = json!("late");
    process.send(queued.to_string());
    for _ in 0..2 {
        assert_eq!(process.said()["runs"], 2);
    }
    assert_eq!(process.said()["peer"], "web-1");
    let asker = asker.crash().start();
    let _third = named(&server, "web-3", &["web"]);
    let mut process = asker.connect();
    let _second = absent.start();
    assert_eq!(fan_out(&mut process, &queued), &everyone[1..]);
}

#[test]
fn a_queued_run_that_is_passed_on_outlives_the_server_between() {
    let port = PeerListener::bind().port();
    let hub = Daemon::server().config(json!({ "relay": true, "name": "hub", "port": port })).start();
    let (asker, doer) = (named(&hub, "till", &[]), named(&hub, "printer", &[]));
    doer.script("hold", "#!/bin/sh\necho x >> count\necho $WSDAEMON_ID > reached\nread line < go\nexit 7\n");
    let (mut reached, mut go) = (Fifo::new(doer.prefix(), "reached"), Fifo::new(doer.prefix(), "go"));
    let mut process = asker.connect();
    process.send(json!({ "name": "hold", "id": "mine", "to": "printer", "queue": true }).to_string());
    assert_eq!(process.said()["event"], "accepted");
    assert_eq!(reached.line(), "mine");
    let hub = hub.kill();
    asker.wait_log("link down");
    doer.wait_log("link down");
    go.release(1);
    doer.wait_log("queued run over");
    let _hub = hub.start();
    let last = process.said();
    assert_eq!((&last["status"], &last["peer"]), (&json!(7), &json!("printer")), "{last}");
    assert_eq!(std::fs::read_to_string(doer.prefix().join("count")).expect("written"), "x\n");
}

#[test]
fn without_leave_a_server_passes_nothing_on() {
    let server = Daemon::server().config(json!({ "name": "hub" })).start();
    let (asker, doer) = (named(&server, "till", &[]), named(&server, "printer", &[]));
    let (_, last) = asker.connect().run(&asked(&json!({ "to": "printer" })));
    assert_eq!((&last["status"], &last["error"]), (&json!(-2), &json!("unknown_target")), "{last}");
    let hello = json!({ "name": "sly", "configured": false, "instance": "i1", "epoch": 1, "version": "0", "tags": [], "capacity": 1, "features": [] });
    let mut sly = Peer::dial_version2(&server, &hello);
    sly.send_text(r#"{"name":"exit","id":"r1","params":{"exit":0},"hop":{"to":"printer"}}"#);
    let refused: Value = serde_json::from_str(&sly.status()).expect("JSON");
    assert_eq!((&refused["status"], &refused["error"]), (&json!(-3), &json!("denied")), "{refused}");
    assert!(text(&refused["message"]).contains("\"relay\""), "{refused}");
    // Nor does it tell who else there is.
    sly.send_text(r#"{"name":"&cmd","id":"r2","params":{"code":"PEERS"}}"#);
    let refused: Value = serde_json::from_str(&sly.status()).expect("JSON");
    assert_eq!(
        (&refused["status"], &refused["error"], &refused["id"]),
        (&json!(-3), &json!("denied"), &json!("r2")),
        "{refused}"
    );
    assert!(refused["result"].is_null() && text(&refused["message"]).contains("\"relay\""), "{refused}");
    assert_eq!(fan_out(&mut asker.connect(), &asked(&json!({ "to": "*", "each": true }))), [json!(["hub", -1])]);
    assert_eq!(doer.log().count("run ended"), 0);
    sly.send_text(&daemons_say("DRAIN", &Value::Null));
}

// ---- Seed peers ------------------------------------------------------------------------------------------------

#[test]
fn a_seed_peer_is_found_by_its_address_and_what_it_cannot_do_is_refused_by_name() {
    let server = Daemon::server().start();
    let mut seed = Peer::dial(&server);
    let mut process = server.connect();
    let peers = process.result("PEERS", &Value::Null);
    let name = text(&peers[0]["name"]).to_owned();
    assert_eq!((&peers[0]["seed"], &peers[0]["connected"]), (&json!(true), &json!(true)), "{peers}");
    for (more, key) in [(json!({ "output": "tail" }), "output"), (json!({ "events": true }), "events")] {
        let mut request = asked(&more);
        request["to"] = json!(name);
        let (_, last) = process.run(&request);
        assert_eq!((&last["status"], &last["error"]), (&json!(-3), &json!("unsupported")), "{last}");
        assert!(text(&last["message"]).contains(key), "{last}");
    }
    seed.nothing_waiting();
    process.send(asked(&json!({ "to": name, "queue": true, "id": "q" })).to_string());
    assert_eq!(process.said()["event"], "accepted");
    assert_eq!(seed.text(), r#"{"name":"exit","id":"q","params":{"exit":0}}"#, "nothing that a seed peer does not know");
    seed.send_text(&daemons_say("STATUS", &json!({ "status": 4, "id": "q" })));
    let last = process.said();
    assert_eq!((&last["status"], &last["peer"]), (&json!(4), &json!(name)), "{last}");
    // Its time is kept here, and nobody can stop it there.
    process.send(asked(&json!({ "to": name, "queue": true, "id": "t", "timeout": "50ms" })).to_string());
    seed.text();
    let (_, last) = process.rest();
    assert_eq!((&last["status"], &last["error"]), (&json!(-5), &json!("interrupted")), "{last}");
}
