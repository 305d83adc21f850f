//! What a message costs the daemon that passes it on, in system calls: as few as it takes to read it and to write it. It never looks at
//! the clock.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, Local, need_tool};

/// Messages one after the other, and as many at once.
const MESSAGES: usize = 64;

/// The trace in its folder.
const TRACE: &str = "trace";

/// Calls beside those of the messages: timers, the log, a look at the clock of another thread.
const OTHER_CALLS: usize = MESSAGES / 2;

/// Wake-ups beside those of the messages: another thread that has something to say.
const OTHER_WAKE_UPS: usize = MESSAGES / 8;

#[test]
fn a_message_costs_one_read_and_one_write_where_it_is_passed_on_and_many_at_once_cost_less() {
    let Some((server, folder)) = traced() else { return };
    let trace = folder.path().join(TRACE);
    let _client = Daemon::client(&server).config(json!({ "name": "web" })).start();
    server.wait_log("link up");
    let mut process = server.connect();
    mark(&mut process, "first");
    one_at_a_time(&mut process);
    mark(&mut process, "second");
    process.send((0..MESSAGES).map(ping).collect::<String>());
    for _ in 0..MESSAGES {
        assert_eq!(process.said()["status"], 0);
    }
    mark(&mut process, "last");

    let single = calls(&trace, "first", "second");
    // From the process, and from the link; to the link, and to the process.
    for (name, most) in [("recvfrom", 2), ("sendto", 2), ("epoll_wait", 5)] {
        assert!(count(&single, name) <= MESSAGES * most + 4, "{single:?}");
    }
    let others = single.iter().filter(|(name, _)| !["recvfrom", "sendto", "epoll_wait"].contains(&name.as_str()));
    assert!(others.map(|(_, count)| count).sum::<usize>() <= OTHER_CALLS, "{single:?}");
    let together = calls(&trace, "second", "last");
    assert!(count(&together, "sendto") <= MESSAGES, "half of the writes, or fewer: {together:?}");
    assert!(count(&together, "recvfrom") <= MESSAGES, "half of the reads, or fewer: {together:?}");
}

#[test]
fn nobody_is_woken_because_a_process_has_read_its_answer() {
    let Some((server, folder)) = traced() else { return };
    let trace = folder.path().join(TRACE);
    let mut process = server.connect();
    mark(&mut process, "first");
    one_at_a_time(&mut process);
    mark(&mut process, "last");

    let told = told(&trace, "first", "last");
    assert!(told.len() >= MESSAGES, "{told:#?}");
    assert!(told.len() <= MESSAGES + OTHER_WAKE_UPS, "{told:#?}");
    // However quick the process is with its next message, so that both come by one wake-up.
    let of_room: Vec<_> = told.iter().filter(|line| line.contains("EPOLLOUT")).collect();
    assert!(of_room.is_empty(), "the daemon never lacked room to write, and is told that there is: {of_room:#?}");
}

/// A server, and the folder with the trace of its system calls; a test that gets `None` returns at once.
fn traced() -> Option<(Daemon, TempDir)> {
    if !need_tool("strace") {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = folder.path().join(TRACE);
    let strace = ["strace", "-f", "-qq", "-s", "65536", "-o", trace.to_str().expect("plain")];
    // What is written to the log is not what is counted.
    Some((Daemon::server().env("WSDAEMON_LOG", "info").started_by(&strace).start(), folder))
}

fn one_at_a_time(process: &mut Local) {
    for number in 0..MESSAGES {
        process.send(ping(number));
        assert_eq!(process.said()["id"], number);
    }
}

fn ping(id: impl Into<Value>) -> String {
    json!({ "name": "+cmd", "id": id.into(), "params": { "code": "PING", "data": "web" } }).to_string()
}

/// Asks what can be found in a trace.
fn mark(process: &mut Local, id: &str) {
    process.send(ping(id));
    assert_eq!(process.said()["id"], id);
}

/// How often each system call was made between two marks.
fn calls(trace: &Path, from: &str, to: &str) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for line in between(trace, from, to) {
        // A call that waited has a second line, in which it is no name.
        let name = line.split_whitespace().nth(1).and_then(|call| call.split_once('('));
        if let Some((name, _)) = name {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

/// The wake-ups between two marks that told the daemon something. The runtime also looks without waiting, and finds nothing: how often
/// depends on how quick everybody is.
fn told(trace: &Path, from: &str, to: &str) -> Vec<String> {
    let is_told = |line: &String| line.contains("epoll_wait") && line.contains("events=");
    between(trace, from, to).into_iter().filter(is_told).collect()
}

/// The lines of a trace between two marks.
fn between(trace: &Path, from: &str, to: &str) -> Vec<String> {
    let trace = fs::read_to_string(trace).expect("strace writes as it goes");
    let place = |id: &str| {
        let marked = format!(r#"\"id\":\"{id}\""#);
        trace.lines().position(|line| line.contains(&marked))
    };
    let (from, to) = (place(from).expect("it was asked"), place(to).expect("it was asked"));
    trace.lines().take(to).skip(from + 1).map(str::to_owned).collect()
}

fn count(calls: &BTreeMap<String, usize>, name: &str) -> usize {
    calls.get(name).copied().unwrap_or_default()
}
