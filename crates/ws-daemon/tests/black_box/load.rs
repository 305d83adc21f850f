//! Much at once: every request is answered exactly once, to whoever asked, within a bound of memory; and whoever does
//! not read, or never answers, costs nobody but itself. How fast it is, is for the bench crate to say.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Daemon, EXIT, Fifo, Local, Peer, assert_failed, exit, exited, pair, status_there};

/// Requests in all, on one connection or on a hundred.
const REQUESTS: usize = 10_000;

const CONNECTIONS: usize = 100;

/// The most that a daemon may have had in memory at any time while it dealt with these, in bytes; a request costs about
/// 1 KiB while it is in flight or in line.
const PEAK_BYTES: u64 = 64 << 20;

/// Requests that are queued while nobody is there, each with so many bytes of params: more than may be in memory.
const QUEUED: usize = 600;
const QUEUED_BYTES: usize = 100 << 10;

/// So many are sent before they are all said to be accepted.
const QUEUED_AT_ONCE: usize = 50;

/// Unanswered requests of one link beyond which the oldest is given up.
const UNANSWERED: usize = 65_536;

/// The most that a daemon may have had in memory with as many in flight, each with its place among what can be shown and
/// stopped, in bytes.
const PEAK_UNANSWERED_BYTES: u64 = 224 << 20;

/// The most that a daemon's memory may grow for a script that prints at full speed to a caller who does not read, in bytes.
const FLOOD_BYTES: u64 = 16 << 20;

/// How often it is tried on a machine that others disturb.
const FLOODS: usize = 4;

#[test]
fn ten_thousand_requests_pipelined_on_one_connection_get_one_answer_each_within_bounded_memory() {
    let (server, client) = pair();
    client.script("exit", EXIT);
    let mut process = server.connect();
    process.send(requests(0..REQUESTS));
    expect_each_once(&mut process, 0..REQUESTS);
    assert_bounded(&[&server, &client], PEAK_BYTES);
}

#[test]
fn a_hundred_connections_with_a_hundred_requests_each_get_their_own_answers_within_bounded_memory() {
    let (server, client) = pair();
    // Asked in the other direction than the single connection.
    server.script("exit", EXIT);
    let mut processes: Vec<Local> = (0..CONNECTIONS).map(|_| client.connect()).collect();
    let own = |number: usize| number * (REQUESTS / CONNECTIONS)..(number + 1) * (REQUESTS / CONNECTIONS);
    for (number, process) in processes.iter_mut().enumerate() {
        process.send(requests(own(number)));
    }
    for (number, process) in processes.iter_mut().enumerate() {
        expect_each_once(process, own(number));
    }
    assert_bounded(&[&server, &client], PEAK_BYTES);
}

#[test]
fn queued_requests_that_wait_cost_the_disk_their_params_and_not_the_memory() {
    let plan = Daemon::server();
    let asker = plan.clone().start();
    let (mut process, pad) = (asker.connect(), "x".repeat(QUEUED_BYTES));
    for first in (0..QUEUED).step_by(QUEUED_AT_ONCE) {
        for number in first..first + QUEUED_AT_ONCE {
            process.send(json!({ "name": "m", "id": number, "params": [number, pad], "queue": true }).to_string());
        }
        for _ in 0..QUEUED_AT_ONCE {
            assert_eq!(process.said()["event"], "accepted");
        }
    }
    assert_bounded(&[&asker], PEAK_BYTES);
    drop(asker.crash());
    let asker = plan.start();
    let hello = json!({ "name": "doer", "instance": "i1", "epoch": 1, "features": ["queue"] });
    let mut doer = Peer::dial_version2(&asker, &hello);
    // Slower than they leave: they have to wait for room as well.
    let numbers: BTreeSet<usize> = (0..QUEUED)
        .map(|_| {
            let frame: Value = serde_json::from_str(&doer.text()).expect("JSON");
            assert_eq!((&frame["name"], &frame["params"][1]), (&json!("m"), &json!(pad)), "as it was asked for");
            frame["params"][0].as_u64().and_then(|number| usize::try_from(number).ok()).expect("its number")
        })
        .collect();
    assert_eq!(numbers.len(), QUEUED);
    doer.nothing_waiting();
    assert_bounded(&[&asker], PEAK_BYTES);
}

#[test]
fn a_process_that_does_not_read_its_answers_is_closed_with_a_reason_and_felt_by_nobody_else() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial(&server);
    let (mut slow, mut other) = (server.connect(), server.connect());
    other.send(exit("1", 0));
    peer.text();
    thread::scope(|scope| {
        scope.spawn(|| {
            let line = format!(r#"{{"name":"+cmd","params":{{"code":"STATUS","data":{{"x":"{}"}}}}}}"#, "x".repeat(1 << 20));
            // Refused in the end, since nobody is there to read any more of it.
            (0..64).find(|_| slow.try_send(&line).is_err()).expect("it is closed long before 64 MiB")
        });
        server.wait_log("the process does not read its answers");
        peer.send_text(&status_there(&exited("1", 2)));
        assert_eq!(other.line(), exited("1", 2));
    });
    other.send(exit("2", 0));
    assert_eq!(peer.text(), exit("2", 0));
    assert_bounded(&[&server], PEAK_BYTES);
}

#[test]
fn a_peer_that_never_answers_has_its_oldest_request_given_up_beyond_65536() {
    // However long all that takes here, the peer is not taken for dead.
    let server = Daemon::server().config(json!({ "times": { "ping": "10m" } })).start();
    let mut peer = Peer::dial(&server);
    let mut process = server.connect();
    process.send(requests(0..UNANSWERED));
    // All have been put on their way, and none was given up.
    process.nothing_waiting();
    process.send(requests(UNANSWERED..UNANSWERED + 2));
    let mut lines = [process.line(), process.line()];
    lines.sort_unstable();
    for (id, line) in lines.iter().enumerate() {
        let message = assert_failed(line, -5, "interrupted", Some(json!(id)));
        assert!(message.contains("65536"), "{message}");
    }
    process.nothing_waiting();
    peer.send_text(&status_there(&exited("2", 3)));
    assert_eq!(process.line(), exited("2", 3), "the next oldest still waits");
    assert_bounded(&[&server], PEAK_UNANSWERED_BYTES);
}

#[test]
fn a_script_that_prints_for_five_seconds_to_whoever_does_not_read_costs_no_memory_and_nobody_else_time() {
    let (server, client) = pair();
    client.script("exit", EXIT);
    client.script("flood", "#!/bin/sh\ntimeout 5 yes\nstatus=$?\necho > \"$WSDAEMON_PREFIX/over\"\nexit $status\n");
    let mut over = Fifo::new(client.prefix(), "over");
    let mut other = server.connect();
    // Other tests run on the same cores: what they take is in the calm before and behind, and one flood of several is undisturbed.
    let (mut deaf, mut times) = (None, Vec::new());
    for _ in 0..FLOODS {
        let process = deaf.insert(server.connect());
        let before = [server.peak_memory(), client.peak_memory()];
        let calm = median(&mut other);
        let started = client.log().count(r#"script="flood"}: script started"#);
        process.send(r#"{"name":"flood","id":"f","output":"stream"}"#);
        client.wait_log_times(r#"script="flood"}: script started"#, started + 1);
        let busy = median(&mut other);
        over.line();
        for (daemon, before) in [&server, &client].iter().zip(before) {
            let grown = daemon.peak_memory() - before;
            assert!(grown <= FLOOD_BYTES, "{grown} bytes, {FLOOD_BYTES} are allowed");
        }
        let calm = calm.max(median(&mut other));
        times.push((busy, calm));
        if busy < calm * 2 {
            break;
        }
    }
    assert!(times.iter().any(|(busy, calm)| *busy < *calm * 2), "{times:?}");
    // Whoever reads at last gets the end, and is told how much is missing.
    let mut deaf = deaf.expect("there was a flood");
    let mut gaps = 0;
    loop {
        let line: Value = serde_json::from_str(&deaf.line()).expect("a line is JSON");
        gaps += line["gap"].as_u64().unwrap_or(0);
        if let Some(status) = line.get("status") {
            assert_eq!(*status, 124, "{line}");
            break;
        }
    }
    assert!(gaps > 0, "five seconds of output are more than anyone keeps");
}

/// How long a run takes in the middle.
fn median(process: &mut Local) -> Duration {
    let mut all: Vec<Duration> = (0..51)
        .map(|number| {
            let begun = Instant::now();
            assert_eq!(process.ask(&exit(&number.to_string(), 3)), exited(&number.to_string(), 3));
            begun.elapsed()
        })
        .collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// Requests for the script `exit`, one after the other, each with a status that goes with its number.
fn requests(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| exit(&number.to_string(), number % 256)).collect()
}

/// Takes as many answers as there are numbers, and no more: each number's own, once.
fn expect_each_once(process: &mut Local, numbers: std::ops::Range<usize>) {
    let mut open: BTreeSet<usize> = numbers.collect();
    while !open.is_empty() {
        let line = process.line();
        let said: Value = serde_json::from_str(&line).expect("a line is JSON");
        let number = said["id"].as_u64().and_then(|id| usize::try_from(id).ok()).expect("an id that was asked with");
        assert!(open.remove(&number), "not asked here, or answered twice: {line}");
        assert_eq!(line, exited(&number.to_string(), number % 256));
    }
    process.nothing_waiting();
}

fn assert_bounded(daemons: &[&Daemon], peak_bytes: u64) {
    for daemon in daemons {
        let peak = daemon.peak_memory();
        assert!(peak <= peak_bytes, "{peak} bytes, {peak_bytes} are allowed\n{}", daemon.log());
    }
}
