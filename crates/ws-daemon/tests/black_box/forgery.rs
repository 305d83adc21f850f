//! Who only says that he is a daemon: a script that knows its own run, and a local process on either side. Nothing that they say
//! settles, feeds, stops or drains anything.

use serde_json::{Value, json};

use crate::support::{Daemon, EXIT, Fifo, Local, Peer, daemons_say, need_tool, pair};

fn hello(instance: &str, epoch: u64) -> Value {
    json!({ "name": instance, "instance": instance, "epoch": epoch, "features": ["queue"] })
}

/// The run that the next frame asks for.
#[track_caller]
fn asked(peer: &mut Peer) -> String {
    let frame: Value = serde_json::from_str(&peer.text()).expect("frames are JSON");
    frame["id"].as_str().unwrap_or_else(|| panic!("no run in {frame}")).to_owned()
}

/// Says all that would end a run, of any attempt of it.
fn says_it_is_over(peer: &mut Peer, run: &str) {
    for attempt in [json!(null), json!(1), json!(2)] {
        peer.send_text(&daemons_say("STATUS", &json!({ "status": 0, "id": run, "attempt": attempt })));
        peer.send_text(&daemons_say(
            "STATUS",
            &json!({ "status": -1, "error": "busy", "id": run, "attempt": attempt, "refused": true }),
        ));
    }
    let data = json!({ "id": run, "stream": "stdout", "offset": 0, "data": "forged" });
    peer.send_text(&daemons_say("OUTPUT", &data));
    peer.send_text(&daemons_say("EVENT", &json!({ "id": run, "event": "started" })));
    // Heard by now; of what is no run of its own it may be told that it can forget it.
    peer.send_text(r#"{"name":"&cmd","id":"heard","params":{"code":"PING"}}"#);
    while told_of(peer) != "heard" {}
}

/// The id in the next frame's data.
#[track_caller]
fn told_of(peer: &mut Peer) -> String {
    let frame: Value = serde_json::from_str(&peer.text()).expect("frames are JSON");
    assert!(["STATUS", "ACK"].contains(&frame["params"]["code"].as_str().unwrap_or_default()), "{frame}");
    frame["params"]["data"]["id"].as_str().unwrap_or_else(|| panic!("no id in {frame}")).to_owned()
}

/// Says to its own daemon all that a daemon would say of its run, and waits for the answers; then it ends as nobody has said it would.
const FORGER: &str = r#"#!/usr/bin/env python3
import json, os, socket, sys
run, prefix = os.environ["WSDAEMON_RUN"], os.environ["WSDAEMON_PREFIX"]
daemon = socket.socket(socket.AF_UNIX)
daemon.connect(os.environ["WSDAEMON_SOCKET"])
lines = daemon.makefile()
open(prefix + "/reached", "w").write(run + "\n")
open(prefix + "/go").readline()
for place in ["&cmd", "+cmd"]:
    for code in ["STATUS", "ACK", "OUTPUT", "CREDIT", "EVENT", "DRAIN", "HELLO", "CANCEL"]:
        if (place, code) == ("+cmd", "CANCEL"):
            continue  # Whoever has the socket may stop what runs here.
        data = {"status": 0, "id": run, "attempt": 1, "refused": True, "stream": "stdout", "offset": 0, "data": "forged",
                "event": "delivered", "bytes": 1 << 40, "name": "forged", "instance": run, "epoch": 1 << 40}
        daemon.sendall(json.dumps({"name": place, "id": place + code, "params": {"code": code, "data": data}}).encode())
        # +cmd STATUS is told to its sender before it is answered.
        answer = next(line for line in map(json.loads, lines) if line.get("id") == place + code)
        print(place, code, answer.get("error"), file=sys.stderr)
print("true")
sys.exit(9)
"#;

#[test]
fn neither_a_script_nor_a_local_process_can_settle_feed_stop_or_drain() {
    if !need_tool("python3") {
        return;
    }
    let (server, client) = pair();
    client.script("forger", FORGER);
    client.script("exit", EXIT);
    let (mut reached, mut go) = (Fifo::new(client.prefix(), "reached"), Fifo::new(client.prefix(), "go"));
    for (number, queue) in [false, true].into_iter().enumerate() {
        let mut process = server.connect();
        process.send(json!({ "name": "forger", "id": number, "output": "stream", "queue": queue }).to_string());
        let run = reached.line();
        // On the asker's side, somebody else says how it has ended.
        let mut other = server.connect();
        for place in ["&cmd", "+cmd"] {
            let data = json!({ "status": 0, "id": run, "attempt": 1 });
            other.send(json!({ "name": place, "params": { "code": "STATUS", "data": data } }).to_string());
        }
        go.release(1);
        let (events, last) = process.rest();
        assert_eq!((&last["status"], &last["run"], &last["id"]), (&json!(9), &json!(run), &json!(number)), "{last}");
        let printed = |stream: &str| -> String {
            let of = events.iter().filter(|event| event["event"] == "output" && event["stream"] == stream);
            of.filter_map(|event| event["data"].as_str()).collect()
        };
        assert_eq!(printed("stdout"), "true\n");
        let refused = printed("stderr");
        for line in refused.lines().filter(|line| !line.contains(" STATUS ")) {
            let expected = if line.starts_with('&') { "denied" } else { "unknown_command" };
            assert!(line.ends_with(expected), "{line}");
        }
        assert_eq!(refused.lines().count(), 15, "{refused}");
    }
    // Nobody drains, and the link is the one that it was.
    let mut process = server.connect();
    process.send(r#"{"name":"exit","id":"after","params":4}"#);
    assert_eq!(process.said(), json!({ "status": 4, "id": "after" }));
    assert_eq!((server.log().count("link up"), client.log().count("link up")), (1, 1));
    let peers = server.connect().result("PEERS", &Value::Null);
    assert_eq!(peers.as_array().map(Vec::len), Some(1), "{peers}");
}

#[test]
fn a_peer_settles_and_feeds_only_what_it_was_asked_for() {
    let server = Daemon::server().start();
    let mut one = Peer::dial_version2(&server, &hello("one", 1));
    let mut other = Peer::dial_version2(&server, &hello("other", 1));
    for queue in [false, true] {
        let mut process = server.connect();
        let request = json!({ "name": "m", "id": 1, "to": "one", "output": "stream", "events": true, "queue": queue });
        process.send(request.to_string());
        let run = asked(&mut one);
        says_it_is_over(&mut other, &run);
        if queue {
            assert_eq!(process.said()["event"], "accepted");
            // Also while it is away, and by a newer link than its own.
            drop(one);
            server.wait_log("link down");
            says_it_is_over(&mut other, &run);
            one = Peer::dial_version2(&server, &hello("one", 2));
            assert_eq!(asked(&mut one), run);
        }
        process.nothing_waiting();
        one.send_text(&daemons_say(
            "STATUS",
            &json!({ "status": 7, "id": run, "attempt": if queue { json!(1) } else { json!(null) } }),
        ));
        let last = last(&mut process);
        assert_eq!((&last["status"], &last["run"], &last["peer"]), (&json!(7), &json!(run), &json!("one")), "{last}");
        if queue {
            let acknowledged: Value = serde_json::from_str(&one.text()).expect("frames are JSON");
            assert_eq!(acknowledged["params"]["code"], "ACK", "{acknowledged}");
        }
    }
}

#[test]
fn what_a_frame_has_beside_its_run_chooses_nothing_here() {
    let server = Daemon::server().start();
    server.script("exit", EXIT);
    server.script("then", "#!/bin/sh\ntouch then-ran\n");
    let mut peer = Peer::dial_version2(&server, &hello("one", 1));
    let mut bystander = Peer::dial_version2(&server, &hello("other", 1));
    let options =
        json!({ "to": "other", "each": true, "then": "then", "retry": { "max": 9 }, "route": "least-busy", "batch": 1 });
    let mut frame = json!({ "name": "exit", "id": "r-1", "params": { "exit": 4 } });
    frame.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
    peer.send_text(&frame.to_string());
    let said: Value = serde_json::from_str(&peer.text()).expect("frames are JSON");
    let data = &said["params"]["data"];
    assert_eq!((&data["status"], &data["id"]), (&json!(4), &json!("r-1")), "run here: {said}");
    bystander.nothing_waiting();
    assert!(!server.prefix().join("then-ran").exists());

    peer.send_text(r#"{"name":"&cmd","id":"p","params":{"code":"PAUSE","data":1000000000000000}}"#);
    let said: Value = serde_json::from_str(&peer.text()).expect("frames are JSON");
    let data = &said["params"]["data"];
    assert_eq!((&data["status"], &data["error"]), (&json!(-3), &json!("bad_message")), "{said}");
}

/// The final line, behind events.
#[track_caller]
fn last(process: &mut Local) -> Value {
    loop {
        let line = process.said();
        if line.get("status").is_some() {
            return line;
        }
        assert!(line["event"] != "output" && line["event"] != "started", "{line}");
    }
}
