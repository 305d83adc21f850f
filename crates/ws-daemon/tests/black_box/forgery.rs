//! Who only says that he is a daemon: a script that knows its own run, and a local process on either side. Nothing that they say
//! settles, feeds, stops or drains anything.

use serde_json::{Value, json};

use crate::support::{EXIT, Fifo, need_tool, pair};

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
