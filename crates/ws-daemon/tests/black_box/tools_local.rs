//! The commands of local tools, answered by real daemons: who is there, a round trip, what runs, what happens. What the command
//! line makes of the answers is in tools.rs.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Daemon, EXIT, Fifo, Local, Peer, exit, exited, pair, wait_for};

/// A client of a name of its own, with its link up on both sides.
fn named(server: &Daemon, name: &str) -> Daemon {
    let links = server.log().count("link up");
    let client = Daemon::client(server).config(json!({ "name": name, "tags": [format!("tag-{name}")] })).start();
    client.script("exit", EXIT);
    client.wait_log("link up");
    server.wait_log_times("link up", links + 1);
    client
}

fn named_peer(name: &str, instance: &str) -> Value {
    json!({ "name": name, "configured": true, "instance": instance, "epoch": 1, "version": "9.9", "tags": ["sms"], "capacity": 3,
        "features": [] })
}

#[track_caller]
fn assert_error(said: &Value, status: i64, error: &str) {
    assert_eq!((&said["status"], &said["error"]), (&json!(status), &json!(error)), "{said}");
}

#[test]
fn what_only_daemons_say_is_refused_from_a_local_process_and_reaches_nobody() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial_version2(&server, &named_peer("web", "i1"));
    let mut process = server.connect();
    for code in ["HELLO", "ACK", "OUTPUT", "CREDIT", "CANCEL", "DRAIN", "EVENT", "hello"] {
        process.send(json!({ "name": "&cmd", "id": 1, "params": { "code": code, "data": { "id": "r" } } }).to_string());
        let said = process.said();
        assert_eq!((&said["status"], &said["error"], &said["id"]), (&json!(-3), &json!("denied"), &json!(1)), "{said}");
    }
    for code in ["HELLO", "ACK", "OUTPUT", "CREDIT", "DRAIN"] {
        assert_error(&process.command(code, &json!({ "id": "r" })), -3, "unknown_command");
    }
    for code in ["RUNS", "STATS", "PEERS", "RELOAD"] {
        process.send(json!({ "name": "&cmd", "id": 1, "params": { "code": code } }).to_string());
        assert_error(&process.said(), -3, "denied");
    }
    peer.nothing_waiting();
    process.nothing_waiting();
}

#[test]
fn peers_are_all_that_were_ever_here_with_when_they_were_last_seen() {
    let plan = Daemon::server();
    let server = plan.clone().start();
    let web = Peer::dial_version2(&server, &named_peer("web", "i1"));
    let _mail = Peer::dial_version2(&server, &named_peer("mail", "i2"));
    drop(web);
    server.wait_log("link down");
    let peers = server.connect().result("PEERS", &Value::Null);
    let [mail, web] = &peers.as_array().expect("a list")[..] else { panic!("{peers}") };
    for (peer, name, instance, connected) in [(mail, "mail", "i2", true), (web, "web", "i1", false)] {
        assert_eq!((&peer["name"], &peer["instance"], &peer["connected"]), (&json!(name), &json!(instance), &json!(connected)));
        assert_eq!(
            (&peer["tags"], &peer["version"], &peer["capacity"], &peer["epoch"]),
            (&json!(["sms"]), &json!("9.9"), &json!(3), &json!(1))
        );
        assert!(peer["last_seen"].as_u64().is_some_and(|at| at > 1_600_000_000_000) && peer["seed"] == false, "{peer}");
        assert!(peer["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{peer}");
    }
    drop(server.kill());
    // In the spool.
    let server = plan.start();
    let after = server.connect().result("PEERS", &Value::Null);
    let seen = |peers: &Value| -> Vec<(Value, Value)> {
        peers.as_array().expect("a list").iter().map(|peer| (peer["name"].clone(), peer["connected"].clone())).collect()
    };
    assert_eq!(seen(&after), [(json!("mail"), json!(false)), (json!("web"), json!(false))]);
    assert_eq!(after[1]["last_seen"], web["last_seen"]);
}

#[test]
fn a_ping_that_is_not_answered_in_time_or_whose_link_is_lost_says_so_and_no_stop_waits_for_longer() {
    let mut server = Daemon::server().config(json!({ "times": { "ping": "1s" } })).start();
    let ping = |id: &str| json!({ "name": "+cmd", "id": id, "params": { "code": "PING", "data": "web" } }).to_string();
    let overdue = |id: &str| {
        let rest = r#""peer":"web","error":"interrupted","message":"it did not answer within 1s""#;
        format!("{{\"status\":-5,\"id\":\"{id}\",{rest}}}")
    };
    let mut silent = Peer::dial_version2(&server, &named_peer("web", "i"));
    let mut process = server.connect();
    process.send(ping("a"));
    let asked: Value = serde_json::from_str(&silent.text()).expect("JSON");
    assert_eq!(asked["params"]["code"], "PING", "{asked}");
    assert_eq!(process.line(), overdue("a"));
    // Too late, it is nothing to anybody.
    silent.send_text(
        &json!({ "name": "&cmd", "params": { "code": "STATUS", "data": { "status": 0, "id": asked["id"] } } }).to_string(),
    );
    process.nothing_waiting();
    process.send(ping("b"));
    silent.text();
    drop(silent);
    let lost = r#""peer":"web","error":"link_lost","message":"the link was lost before the answer came""#;
    assert_eq!(process.line(), format!("{{\"status\":-2,\"id\":\"b\",{lost}}}"));
    let mut silent = Peer::dial_version2(&server, &json!({ "name": "web", "instance": "i", "epoch": 2 }));
    process.send(ping("c"));
    silent.text();
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(process.line(), overdue("c"));
    assert_eq!(server.wait_exit(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn a_ping_goes_to_whoever_is_meant_and_says_who_answered_and_how_long_it_took() {
    let server = Daemon::server().start();
    let (_first, second) = (named(&server, "web-1"), named(&server, "web-2"));
    let mut process = server.connect();
    let said = process.command("PING", &json!("web-1"));
    assert_eq!((&said["status"], &said["peer"], said["us"].is_u64()), (&json!(0), &json!("web-1"), true), "{said}");
    process.nothing_waiting();
    second.kill();
    server.wait_log("link down");
    assert_error(&process.command("PING", &json!("web-2")), -2, "no_peer");
    let said = process.command("PING", &json!("wbe-1"));
    assert_error(&said, -2, "unknown_target");
    assert!(said["message"].as_str().is_some_and(|message| message.contains("web-1")), "{said}");
    let _seed = Peer::dial(&server);
    for target in [Value::Null, json!("*")] {
        process.send(json!({ "name": "+cmd", "id": "p", "params": { "code": "PING", "data": target } }).to_string());
        let lines: Vec<Value> = (0..3).map(|_| process.said()).collect();
        let statuses: BTreeSet<i64> = lines.iter().filter_map(|line| line["status"].as_i64()).collect();
        assert_eq!(statuses, BTreeSet::from([-3, -2, 0]), "{lines:?}");
        let seed = lines.iter().find(|line| line["status"] == -3).expect("it is there");
        assert_eq!(seed["error"], "unsupported", "{seed}");
        assert_eq!(process.line(), r#"{"event":"done","id":"p","runs":3,"failed":2}"#);
    }
    process.nothing_waiting();
}

#[test]
fn runs_and_run_show_what_waits_runs_and_is_over() {
    let (server, client) = pair();
    client.script("exit", EXIT);
    client.script("hold", "#!/bin/sh\necho here > reached\nread line < go\n");
    let (mut reached, mut go) = (Fifo::new(client.prefix(), "reached"), Fifo::new(client.prefix(), "go"));
    let (mut holding, mut waiting, mut process) = (server.connect(), server.connect(), server.connect());
    holding.send(json!({ "name": "hold", "id": "h", "queue": true }).to_string());
    let held = holding.said()["run"].clone();
    reached.line();
    waiting.send(json!({ "name": "exit", "id": [1], "to": "nobody", "queue": true }).to_string());
    let waits = waiting.said()["run"].clone();
    assert_eq!(process.ask(&exit("\"d\"", 3)), exited("\"d\"", 3));
    let (_, last) = process.run(&json!({ "name": "exit", "id": "q", "params": { "exit": 4 }, "queue": true }));
    let over = last["run"].clone();
    let list = |process: &mut Local, query: Value| process.result("RUNS", &query).as_array().expect("a list").clone();
    let all = list(&mut process, Value::Null);
    let brief: Vec<_> = all.iter().map(|run| json!([run["id"], run["state"], run["status"], run["queued"]])).collect();
    let expected = json!([
        ["q", "settled", 4, true],
        ["d", "settled", 3, false],
        [[1], "waiting", null, true],
        ["h", "running", null, true]
    ]);
    assert_eq!(json!(brief), expected, "the newest first");
    assert!(all.iter().all(|run| run["side"] == "asked" && run["accepted"].is_u64()), "{all:?}");
    for (query, expected) in [
        (json!({ "state": "waiting" }), vec![&waits]),
        (json!({ "state": "running" }), vec![&held]),
        (json!({ "state": "settled", "limit": 1 }), vec![&over]),
        (json!({ "peer": "nobody" }), vec![]),
    ] {
        let found = list(&mut process, query);
        assert_eq!(found.iter().map(|run| &run["run"]).collect::<Vec<_>>(), expected);
    }
    let record = process.result("RUN", &over);
    assert_eq!(
        (&record["name"], &record["report"]["status"], &record["settled"].is_u64()),
        (&json!("exit"), &json!(4), &true),
        "{record}"
    );
    assert_eq!((&record["peer"], &record["attempt"]), (&last["peer"], &json!(1)), "{record}");
    assert_eq!(process.result("RUN", &json!({ "id": "h" }))["run"], held);
    assert_error(&process.command("RUN", &json!("none")), -2, "unknown_target");
    assert_error(&process.command("CANCEL", &over), -2, "unknown_target");
    let stats = process.result("STATS", &Value::Null);
    assert_eq!((&stats["asked"], &stats["links"], &stats["spool"]["unsettled"]), (&json!(2), &json!(1), &json!(2)), "{stats}");
    let stats = client.connect().result("STATS", &Value::Null);
    assert_eq!((&stats["running"], &stats["waiting"]), (&json!(1), &json!(0)), "{stats}");
    go.release(1);
    assert_eq!(holding.said()["status"], 0);
}

#[test]
fn runs_and_run_show_also_what_is_done_here_for_others_the_newest_first() {
    let server = Daemon::server().config(json!({ "name": "hub" })).start();
    let client = Daemon::client(&server).config(json!({ "name": "web", "limits": { "runs": 2 } })).script("exit", EXIT);
    let client = client.script("hold", "#!/bin/sh\necho here > reached\nread line < go\n").start();
    client.wait_log("link up");
    server.wait_log("link up");
    let (mut reached, mut go) = (Fifo::new(client.prefix(), "reached"), Fifo::new(client.prefix(), "go"));
    let (mut asking, mut process) = (server.connect(), client.connect());
    let list = |process: &mut Local, query: Value| process.result("RUNS", &query).as_array().expect("a list").clone();
    let (_, last) = asking.run(&json!({ "name": "exit", "id": "q", "params": { "exit": 4 }, "queue": true }));
    let over = last["run"].clone();
    // What is acknowledged is known to have been, and no more.
    wait_for("the acknowledgement", || client.connect().result("STATS", &Value::Null)["spool"]["unacknowledged"] == 0);
    assert_eq!(asking.ask(&exit("\"d\"", 3)), exited("\"d\"", 3));
    asking.send(json!({ "name": "hold", "id": "h", "queue": true }).to_string());
    let held = asking.said()["run"].clone();
    reached.line();
    asking.send(r#"{"name":"hold","id":"o"}"#);
    reached.line();
    asking.send(r#"{"name":"exit","id":"w","params":{"exit":0}}"#);
    wait_for("the third in line", || client.connect().result("STATS", &Value::Null)["waiting"] == 1);
    process.send(json!({ "name": "exit", "id": "own", "to": "mail", "queue": true }).to_string());
    let own = process.said()["run"].clone();
    let all = list(&mut process, Value::Null);
    let brief: Vec<_> =
        all.iter().map(|run| json!([run["id"], run["side"], run["state"], run["status"], run["queued"]])).collect();
    let expected = json!([
        ["own", "asked", "waiting", null, true],
        ["w", "done", "waiting", null, false],
        ["o", "done", "running", null, false],
        ["h", "done", "running", null, true],
        ["d", "done", "settled", 3, false],
        [null, "done", "settled", null, true]
    ]);
    assert_eq!(json!(brief), expected, "{all:?}");
    assert!(all[1..].iter().all(|run| run["peer"] == "hub" && run["accepted"].is_u64()), "{all:?}");
    let names: Vec<_> = all.iter().map(|run| run["name"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["exit", "exit", "hold", "hold", "exit", "exit"]);
    for (query, expected) in [
        (json!({ "state": "running", "limit": 1 }), vec![&all[2]["run"]]),
        (json!({ "state": "running" }), vec![&all[2]["run"], &held]),
        (json!({ "state": "settled", "peer": "hub" }), vec![&all[4]["run"], &over]),
        (json!({ "state": "waiting", "peer": "hub" }), vec![&all[1]["run"]]),
        (json!({ "state": "settled", "peer": "nobody" }), vec![]),
        (json!({ "limit": 1 }), vec![&own]),
    ] {
        let found = list(&mut process, query.clone());
        assert_eq!(found.iter().map(|run| &run["run"]).collect::<Vec<_>>(), expected, "{query}");
    }
    for run in &all {
        let record = process.result("RUN", &run["run"]);
        assert_eq!((&record["state"], &record["side"], &record["id"]), (&run["state"], &run["side"], &run["id"]), "{record}");
    }
    // Only its asker stops it and hears what it says.
    for (code, data) in [("CANCEL", held.clone()), ("RUN", json!({ "run": held, "output": "both" }))] {
        let said = process.command(code, &data);
        assert_error(&said, -2, "unknown_target");
        assert!(said["message"].as_str().is_some_and(|message| message.contains("\"hub\"")), "{said}");
    }
    go.release(2);
    let statuses: BTreeSet<i64> = (0..3).filter_map(|_| asking.said()["status"].as_i64()).collect();
    assert_eq!(statuses, BTreeSet::from([0]));
    assert!(list(&mut process, json!({ "state": "running" })).is_empty());
}

#[test]
fn more_runs_than_fit_into_an_answer_are_left_out_from_the_oldest_on() {
    const RUNS: usize = 140;
    let (server, client) = pair();
    client.script("loud", "#!/bin/sh\nhead -c 65536 /dev/zero | tr '\\0' x\n");
    let mut process = server.connect();
    (0..RUNS).for_each(|id| process.send(json!({ "name": "loud", "id": id, "output": "tail" }).to_string()));
    assert!((0..RUNS).all(|_| process.said()["status"] == 0));
    let shown = process.result("RUNS", &json!({ "limit": 1000 }));
    let ids: Vec<_> = shown.as_array().expect("a list").iter().map(|run| run["id"].as_u64().expect("a number")).collect();
    // 8 MiB of 64 KiB each and a little more.
    let cut: Vec<_> =
        shown.as_array().into_iter().flatten().filter(|run| run["stdout"].as_str().map(str::len) != Some(65_536)).collect();
    assert!((120..128).contains(&ids.len()), "{} runs, of which these are not whole: {cut:#?}", ids.len());
    let newest: BTreeSet<u64> = ids.iter().copied().collect();
    assert_eq!(newest, (0..RUNS as u64).rev().take(ids.len()).collect());
    process.nothing_waiting();
}

#[test]
fn runs_that_were_taken_up_again_were_asked_for_when_they_were() {
    let plan = Daemon::server();
    let server = plan.clone().start();
    let mut process = server.connect();
    process.send(json!({ "name": "exit", "id": "q", "to": "nobody", "queue": true }).to_string());
    process.said();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    server.crash();
    let run = plan.start().connect().result("RUN", &json!({ "id": "q" }));
    let accepted = run["accepted"].as_u64().map(u128::from);
    assert!(accepted.is_some_and(|accepted| accepted <= now && now - accepted < 60_000), "{run}");
    assert_eq!(run["state"], "waiting");
}

#[test]
fn scripts_are_those_of_this_daemon_with_their_folders() {
    let server = Daemon::server().script("sms/send", EXIT).script("exit", EXIT).start();
    fs::write(server.prefix().join("scripts/notes"), "no script").expect("the prefix is ours");
    let scripts = server.connect().result("SCRIPTS", &Value::Null);
    let expected = json!([
        { "name": "exit", "executable": true, "bytes": EXIT.len() },
        { "name": "notes", "executable": false, "bytes": 9 },
        { "name": "sms/send", "executable": true, "bytes": EXIT.len() },
    ]);
    assert_eq!(scripts, expected);
}

#[test]
fn subscribers_hear_of_the_topics_that_they_want_for_as_long_as_they_listen() {
    let server = Daemon::server().start();
    let subscribed = |topics: Value| {
        let mut process = server.connect();
        assert_eq!(process.command("SUBSCRIBE", &topics)["status"], 0);
        process
    };
    let (mut all, mut peers) = (subscribed(json!(["peers", "runs"])), subscribed(json!(["peers"])));
    let (mut everything, mut process) = (subscribed(Value::Null), server.connect());
    everything.said();
    process.send(r#"{"name":"+cmd","params":{"code":"STATUS","data":{"status":1,"id":"s"}}}"#);
    assert_eq!(everything.line(), r#"{"status":1,"id":"s"}"#);
    assert_error(&server.connect().command("SUBSCRIBE", &json!(["weather"])), -3, "bad_message");
    let client = named(&server, "web");
    for process in [&mut all, &mut peers] {
        let said = process.said();
        assert_eq!(
            (&said["event"], &said["peer"], &said["tags"]),
            (&json!("peer-online"), &json!("web"), &json!(["tag-web"])),
            "{said}"
        );
    }
    let mut process_of = |request: Value, status: i64| {
        let (_, last) = server.connect().run(&request);
        assert_eq!(last["status"], status, "{last}");
        let (running, settled) = (all.said(), all.said());
        let expected = json!({ "event": "running", "run": running["run"], "id": request["id"], "name": "exit", "peer": "web" });
        assert_eq!(running, expected);
        assert_eq!((&settled["event"], &settled["run"]), (&json!("settled"), &running["run"]), "{settled}");
        assert_eq!(settled["report"]["status"], status, "{settled}");
    };
    // Queued, direct, and without options.
    process_of(json!({ "name": "exit", "id": "q", "params": { "exit": 2 }, "queue": true }), 2);
    process_of(json!({ "name": "exit", "id": 5, "params": { "exit": 3 }, "output": "tail" }), 3);
    process_of(json!({ "name": "exit", "id": [1], "params": { "exit": 4 } }), 4);
    let (_, last) = server.connect().run(&json!({ "name": "exit", "to": "nobody", "timeout": "1s" }));
    assert_eq!(last["error"], "unknown_target", "{last}");
    assert_eq!(all.said()["report"]["error"], "unknown_target", "it never ran");
    assert_eq!(process.line(), r#"{"status":1,"id":"s"}"#);
    client.kill();
    for process in [&mut all, &mut peers] {
        assert_eq!(process.said()["event"], "peer-offline");
        process.nothing_waiting();
    }
}

#[test]
fn a_run_that_was_held_is_told_of_when_it_leaves_and_can_then_be_stopped() {
    let server = Daemon::server().config(json!({ "name": "hub" })).start();
    let mut reached = Fifo::new(server.prefix(), "reached");
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    let away = server.kill();
    client.wait_log("link down");
    let (mut listener, mut asking, mut process) = (client.connect(), client.connect(), client.connect());
    assert_eq!(listener.command("SUBSCRIBE", &json!(["runs"]))["status"], 0);
    asking.send(r#"{"name":"hold","id":"h"}"#);
    let run = process.result("RUN", &json!({ "id": "h" }));
    assert_eq!(run["state"], "waiting", "{run}");
    listener.nothing_waiting();
    let _server = away.script("hold", "#!/bin/sh\necho here > reached\nexec sleep 60\n").start();
    let said = listener.said();
    assert_eq!((&said["event"], &said["peer"], &said["run"]), (&json!("running"), &json!("hub"), &run["run"]), "{said}");
    assert_eq!(process.result("RUN", &json!({ "id": "h" }))["state"], "running");
    reached.line();
    assert_eq!(process.command("CANCEL", &json!({ "id": "h" }))["status"], 0);
    let last = asking.said();
    assert_eq!((&last["status"], &last["error"]), (&json!(-4), &json!("cancelled")), "{last}");
    assert_eq!(listener.said()["report"]["error"], "cancelled");
}

#[test]
fn reload_says_what_it_changed_and_what_a_restart_would_and_changes_nothing_for_a_config_that_is_wrong() {
    let server = Daemon::server().start();
    let mut process = server.connect();
    assert_eq!(process.result("RELOAD", &Value::Null), json!({ "changed": [], "restart": [] }));
    let config = |text: &str| fs::write(server.prefix().join("config.json"), text).expect("the prefix is ours");
    config(r#"{"mode":"server","port":0,"listen":"127.0.0.1","limits":{"runs":3,"spool_runs":5},"relay":true}"#);
    assert_eq!(process.result("RELOAD", &Value::Null)["restart"], json!(["limits.spool_runs"]));
    // It may also have seen by itself that the file has changed.
    server.wait_log("changed=\"limits.runs relay\"");
    config(r#"{"mode":"server","prot":0}"#);
    let said = process.command("RELOAD", &Value::Null);
    assert_error(&said, -3, "bad_message");
    assert!(
        said["message"].as_str().is_some_and(|message| message.contains("nothing was changed") && message.contains("port")),
        "{said}"
    );
}

#[test]
fn hooks_run_when_peers_come_and_go() {
    let server = Daemon::server().start();
    let mut told = Fifo::new(server.prefix(), "told");
    fs::create_dir(server.prefix().join("hooks")).expect("the prefix is ours");
    for hook in ["peer-online", "peer-offline"] {
        server.script(&format!("../hooks/{hook}"), "#!/bin/sh\necho \"$WSDAEMON_NAME $WSDAEMON_PEER $1\" > told\n");
    }
    let client = named(&server, "web");
    let instance = server.connect().result("PEERS", &Value::Null)[0]["instance"].clone();
    for hook in ["peer-online", "peer-offline"] {
        let line = told.line();
        let params: Value = line
            .strip_prefix(&format!("{hook} web "))
            .and_then(|params| serde_json::from_str(params).ok())
            .unwrap_or_else(|| panic!("{line}"));
        assert_eq!(
            (&params["event"], &params["peer"], &params["instance"]),
            (&json!(hook), &json!("web"), &instance),
            "{line}"
        );
        if hook == "peer-online" {
            client.signal(rustix::process::Signal::TERM);
        }
    }
    // No peer can ask for one.
    assert_error(&client_asks(&server), -1, "forbidden");
}

/// What a client hears that asks the server for a hook.
fn client_asks(server: &Daemon) -> Value {
    let client = named(server, "sly");
    let (_, last) = client.connect().run(&json!({ "name": "../hooks/peer-online" }));
    last
}
