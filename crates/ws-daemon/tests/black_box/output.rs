//! What a script prints, on its way to whoever asked: with the outcome, as JSON, or as it comes; kept for later where the request
//! is queued. A reader that is slow slows itself.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, EXIT, Fifo, Peer, Watched, daemons_say, exit, exited, pair};

/// One stream as it was told: the bytes that came, and how many were said to be lost.
#[derive(Debug, Default)]
struct Told {
    bytes: Vec<u8>,
    lost: u64,
}

/// The bytes of an output event.
#[track_caller]
fn bytes(event: &Value) -> Vec<u8> {
    let data = event["data"].as_str().unwrap_or_else(|| panic!("no output: {event}"));
    match event["encoding"].as_str() {
        None => data.as_bytes().to_vec(),
        Some("base64") => BASE64_STANDARD.decode(data).expect("base 64"),
        Some(other) => panic!("{other}"),
    }
}

/// What the output events among these tell, stream by stream; every offset must be right.
#[track_caller]
fn told(events: &[Value]) -> BTreeMap<String, Told> {
    let mut streams: BTreeMap<String, Told> = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "output") {
        let stream = streams.entry(event["stream"].as_str().expect("a stream").to_owned()).or_default();
        stream.lost += event["gap"].as_u64().unwrap_or(0);
        assert_eq!(event["offset"].as_u64(), Some(stream.bytes.len() as u64 + stream.lost), "{event}");
        stream.bytes.extend(bytes(event));
    }
    streams
}

#[test]
fn tail_comes_with_the_final_line_and_says_what_is_cut_and_what_is_no_text() {
    let (server, client) = pair();
    client.script("small", "#!/bin/sh\nprintf 'é out\\nno newline'\nprintf err >&2\nexit 3\n");
    client.script("large", "#!/bin/sh\nhead -c 50000 /dev/zero | tr '\\0' a\nhead -c 50000 /dev/zero | tr '\\0' z\n");
    client.script("bytes", "#!/bin/sh\nprintf '\\377\\376'\n");
    let mut process = server.connect();
    let mut tail = |name: &str| process.run(&json!({ "name": name, "id": 1, "output": "tail" }));
    let (events, last) = tail("small");
    assert!(events.is_empty(), "{events:?}");
    assert_eq!((&last["status"], &last["stdout"], &last["stderr"]), (&json!(3), &json!("é out\nno newline"), &json!("err")));
    assert_eq!((&last["cut"], &last["encoding"], last["ms"].is_u64()), (&Value::Null, &Value::Null, true), "{last}");
    let (_, last) = tail("large");
    let stdout = last["stdout"].as_str().expect("text");
    let (head, end) = (8 << 10, 56 << 10);
    assert_eq!(last["cut"], json!({ "stdout": { "at": head, "bytes": 100_000 - head - end } }));
    assert_eq!((stdout.len(), &stdout[..head], stdout.ends_with(&"z".repeat(50_000))), (head + end, &*"a".repeat(head), true));
    let (_, last) = tail("bytes");
    assert_eq!((&last["stdout"], &last["encoding"]), (&json!("//4="), &json!({ "stdout": "base64" })), "{last}");
}

#[test]
fn json_comes_as_the_result_and_what_is_no_json_as_it_is_with_the_reason() {
    let (server, client) = pair();
    client.script("value", "#!/bin/sh\necho '{\"a\": [1, 2.50],'\necho ' \"ü\": null}'\necho note >&2\n");
    client.script("values", "#!/bin/sh\necho 1 2\nexit 4\n");
    let mut process = server.connect();
    for queue in [false, true] {
        let mut request = json!({ "name": "value", "output": "json", "queue": queue });
        process.send(request.to_string());
        let line = loop {
            let line = process.line();
            if line.starts_with("{\"status\"") {
                break line;
            }
        };
        assert!(line.contains(r#""result":{"a":[1,2.50],"ü":null}"#) && line.contains(r#""stderr":"note\n""#), "{line}");
        assert!(!line.contains("stdout"), "{line}");
        request["name"] = json!("values");
        let (_, last) = process.run(&request);
        assert_eq!((&last["status"], &last["result"], &last["stdout"]), (&json!(4), &Value::Null, &json!("1 2\n")), "{last}");
        assert!(last["message"].as_str().is_some_and(|message| message.contains("JSON")), "{last}");
    }
}

#[test]
fn a_stream_comes_as_it_is_printed_with_offsets_whole_characters_and_its_last_line() {
    let (server, client) = pair();
    let script = "#!/bin/sh\nprintf 'a\\303'\nread line < go\nprintf '\\251b'\nread line < go\nprintf '\\377'\nread line < go\n\
        printf trouble >&2\nprintf 'no newline'\n";
    client.script("print", script);
    let mut go = Fifo::new(client.prefix(), "go");
    let mut process = server.connect();
    for queue in [false, true] {
        process.send(json!({ "name": "print", "id": 1, "output": "stream", "queue": queue }).to_string());
        if queue {
            assert_eq!(process.said()["event"], "accepted");
        }
        let mut events = vec![process.said()];
        assert_eq!((&events[0]["data"], &events[0]["offset"]), (&json!("a"), &json!(0)), "half a character waits");
        go.release(1);
        events.push(process.said());
        assert_eq!((&events[1]["data"], &events[1]["offset"]), (&json!("éb"), &json!(1)), "{events:?}");
        go.release(1);
        events.push(process.said());
        assert_eq!((&events[2]["data"], &events[2]["encoding"]), (&json!("/w=="), &json!("base64")), "{events:?}");
        go.release(1);
        let (rest, last) = process.rest();
        events.extend(rest);
        assert!(events.iter().all(|event| event["run"] == last["run"] && event["id"] == 1), "{events:?}");
        let told = told(&events);
        assert_eq!(told["stdout"].bytes, "aéb".bytes().chain([0xff]).chain("no newline".bytes()).collect::<Vec<_>>());
        assert_eq!((&*told["stderr"].bytes, told["stdout"].lost, told["stderr"].lost), (&b"trouble"[..], 0, 0));
        assert_eq!((&last["status"], &last["stdout"]), (&json!(0), &Value::Null), "{last}");
    }
}

#[test]
fn a_caller_that_does_not_read_gets_gaps_and_slows_neither_the_script_nor_anybody_else() {
    const BYTES: u64 = 24 << 20;
    let (server, client) = pair();
    client.script("loud", &format!("#!/bin/sh\nhead -c {BYTES} /dev/zero | tr '\\0' x\necho done > reached\n"));
    client.script("exit", EXIT);
    let mut reached = Fifo::new(client.prefix(), "reached");
    for queue in [false, true] {
        let (mut slow, mut other) = (server.connect(), server.connect());
        slow.send(json!({ "name": "loud", "id": 1, "output": "stream", "queue": queue }).to_string());
        for _ in 0..20 {
            assert_eq!(other.ask(&exit("2", 3)), exited("2", 3));
        }
        assert_eq!(reached.line(), "done");
        let (events, last) = slow.rest();
        assert_eq!(last["status"], 0, "{last}");
        let told = told(&events);
        let stdout = &told["stdout"];
        assert_eq!(stdout.bytes.len() as u64 + stdout.lost, BYTES);
        assert!(stdout.lost > 0 && stdout.bytes.iter().all(|byte| *byte == b'x'), "{} lost", stdout.lost);
    }
}

#[test]
fn a_caller_that_reads_at_once_loses_nothing_however_loud_the_script_is() {
    const BYTES: u64 = 8 << 20;
    // On a machine that others disturb, nobody may read for a while; one time of several is undisturbed.
    const TIMES: usize = 4;
    let (server, client) = pair();
    client.script("loud", &format!("#!/bin/sh\nhead -c {BYTES} /dev/zero | tr '\\0' x\n"));
    let lost = |_| {
        let mut reader = server.connect();
        reader.send(r#"{"name":"loud","id":1,"output":"stream"}"#);
        let (events, last) = reader.rest();
        assert_eq!(last["status"], 0, "{last}");
        let told = told(&events);
        assert_eq!(told["stdout"].bytes.len() as u64 + told["stdout"].lost, BYTES);
        told["stdout"].lost
    };
    assert!((0..TIMES).map(lost).any(|lost| lost == 0));
}

#[test]
fn an_outcome_waits_for_who_reads_on_and_comes_with_what_is_missing_to_who_does_not() {
    let server = Daemon::server().start();
    server.script("print", "#!/bin/sh\necho first\necho $$ > reached\nread line < go\necho second\necho third >&2\n");
    let (mut reached, mut go) = (Fifo::new(server.prefix(), "reached"), Fifo::new(server.prefix(), "go"));
    let hello = json!({ "name": "asker", "instance": "i1", "epoch": 1, "features": ["output"] });
    let mut asker = Peer::dial_version2(&server, &hello);
    for run in ["reads-on", "does-not"] {
        let ask = json!({ "name": "print", "id": run, "params": null, "output": "stream", "credit": 64 });
        asker.send_text(&ask.to_string());
        let first: Value = serde_json::from_str(&asker.text()).expect("JSON");
        assert_eq!(
            (&first["params"]["code"], &first["params"]["data"]["data"]),
            (&json!("OUTPUT"), &json!("first\n")),
            "{first}"
        );
        let script = Watched::new(&reached.line());
        go.release(1);
        script.wait_end();
    }
    asker.nothing_waiting();
    asker.send_text(&daemons_say("CREDIT", &json!({ "id": "reads-on", "bytes": 128 })));
    let mut said: Vec<Value> = Vec::new();
    while said.last().is_none_or(|said| said["params"]["code"] != "STATUS") {
        said.push(serde_json::from_str(&asker.text()).expect("JSON"));
    }
    let data: Vec<&Value> = said.iter().map(|said| &said["params"]["data"]).collect();
    assert!(data.iter().all(|data| data["id"] == "reads-on"), "{data:?}");
    assert_eq!((data.len(), &data[2]["status"], &data[2]["cut"]), (3, &json!(0), &Value::Null), "{data:?}");
    let last: Value = serde_json::from_str(&asker.status()).expect("JSON");
    assert_eq!((&last["id"], &last["status"]), (&json!("does-not"), &json!(0)), "{last}");
    let cut = json!({ "stdout": { "at": 6, "bytes": 7 }, "stderr": { "at": 0, "bytes": 6 } });
    assert_eq!(last["cut"], cut, "{last}");
    // Credit for it is nobody's now.
    asker.send_text(&daemons_say("CREDIT", &json!({ "id": "does-not", "bytes": 128 })));
    asker.nothing_waiting();
}

#[test]
fn what_a_queued_run_prints_is_kept_and_read_later_from_any_offset() {
    let server = Daemon::server().start();
    let client = Daemon::client(&server).start();
    server.script("print", "#!/bin/sh\necho one\necho two\necho three >&2\necho here > reached\nread line < go\necho four\n");
    let (mut reached, mut go) = (Fifo::new(server.prefix(), "reached"), Fifo::new(server.prefix(), "go"));
    let mut process = client.connect();
    process.send(json!({ "name": "print", "id": "p", "output": "stream", "queue": true }).to_string());
    let run = process.said()["run"].clone();
    reached.line();
    while process.said()["data"] != "three\n" {}
    // While it runs: a part, which is told to be over, and all of it up to its end.
    let mut reader = client.connect();
    let ask = |more: Value| {
        let mut data = json!({ "run": run });
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        json!({ "name": "+cmd", "id": "r", "params": { "code": "RUN", "data": data } })
    };
    reader.send(ask(json!({ "output": "stdout", "offset": 4, "follow": true })).to_string());
    let part = reader.said();
    assert_eq!((&part["data"], &part["offset"], &part["id"]), (&json!("two\n"), &json!(4), &json!("r")), "{part}");
    go.release(1);
    let (rest, last) = reader.rest();
    assert_eq!((rest.len(), &rest[0]["data"], &rest[0]["offset"]), (1, &json!("four\n"), &json!(8)), "{rest:?}");
    assert_eq!((&last["status"], &last["run"], &last["id"]), (&json!(0), &run, &json!("r")), "{last}");
    // And after the asker was killed.
    let mut client = client;
    client.signal(Signal::KILL);
    client.wait_exit(DEADLINE);
    let client = client.kill().start();
    let mut reader = client.connect();
    let (events, last) = reader.run(&ask(json!({ "output": "stdout", "offset": 5, "limit": 6 })));
    assert_eq!((told_from(&events, 5), &last["status"]), (b"wo\nfou".to_vec(), &json!(0)), "{events:?} {last}");
    let (events, _) = reader.run(&ask(json!({ "output": "stderr" })));
    assert_eq!(told_from(&events, 0), b"three\n");
    let record = reader.result("RUN", &json!({ "id": "p" }));
    assert_eq!(record["output"], json!({ "stdout": { "from": 0, "to": 13 }, "stderr": { "from": 0, "to": 6 } }), "{record}");
}

#[test]
fn a_part_of_what_a_run_has_printed_so_far_is_told_and_that_it_is_all() {
    let (server, client) = pair();
    server.script("print", "#!/bin/sh\necho one\necho here > reached\nread line < go\n");
    let mut reached = Fifo::new(server.prefix(), "reached");
    let _go = Fifo::new(server.prefix(), "go");
    let mut process = client.connect();
    process.send(json!({ "name": "print", "id": "p", "output": "stream", "queue": true }).to_string());
    let run = process.said()["run"].clone();
    reached.line();
    assert_eq!(process.said()["data"], "one\n");
    let mut reader = client.connect();
    reader.send(
        json!({ "name": "+cmd", "id": "r", "params": { "code": "RUN", "data": { "run": run, "output": "stdout" } } })
            .to_string(),
    );
    assert_eq!(reader.said()["data"], "one\n");
    let last = reader.said();
    assert_eq!(last, json!({ "status": 0, "id": "r", "run": run, "result": { "state": "running" } }));
    reader.nothing_waiting();
}

#[test]
fn a_queued_runs_stream_goes_on_by_the_next_link_where_its_asker_has_it_and_within_its_credit() {
    let doer = Daemon::server().script("print", "#!/bin/sh\nprintf one\nread line < go\nprintf two\nexit 6\n").start();
    let mut go = Fifo::new(doer.prefix(), "go");
    let hello = |epoch: u64| json!({ "name": "asker", "configured": true, "instance": "i1", "epoch": epoch, "version": "0", "tags": [], "capacity": 1, "features": [] });
    let run = |have: u64| {
        json!({ "name": "print", "id": "r1", "params": null, "output": "stream", "credit": 64, "queue": true, "attempt": 1,
            "have": { "stdout": have, "stderr": 0 } })
    };
    let data = |peer: &mut Peer, code: &str| loop {
        let said: Value = serde_json::from_str(&peer.text()).expect("JSON");
        if said["params"]["code"] == code {
            break said["params"]["data"].clone();
        }
    };
    let mut asker = Peer::dial_version2(&doer, &hello(1));
    asker.send_text(&run(0).to_string());
    let first = data(&mut asker, "OUTPUT");
    assert_eq!((&first["data"], &first["offset"], &first["id"]), (&json!("one"), &json!(0), &json!("r1")), "{first}");
    asker.reset();
    doer.wait_log("link down");
    let mut asker = Peer::dial_version2(&doer, &hello(2));
    asker.send_text(&run(1).to_string());
    let again = data(&mut asker, "OUTPUT");
    assert_eq!((&again["data"], &again["offset"]), (&json!("ne"), &json!(1)), "{again}");
    go.release(1);
    doer.wait_log("queued run over");
    // It is over, but neither the rest nor the outcome may come before there is credit for it.
    asker.nothing_waiting();
    asker.send_text(&daemons_say("CREDIT", &json!({ "id": "r1", "bytes": 64 })));
    let rest = data(&mut asker, "OUTPUT");
    assert_eq!((&rest["data"], &rest["offset"]), (&json!("two"), &json!(3)), "{rest}");
    assert_eq!(data(&mut asker, "STATUS")["status"], 6);
}

/// The bytes of a part of a stream that begins at `offset`.
#[track_caller]
fn told_from(events: &[Value], offset: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for event in events {
        assert_eq!(event["offset"].as_u64(), Some(offset + all.len() as u64), "{event}");
        all.extend(bytes(event));
    }
    all
}
