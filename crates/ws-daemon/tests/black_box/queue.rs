//! What was accepted is neither lost nor run twice: kill -9 on either side, lost links, time that runs out, ids said again, orders
//! to stop, what comes after. The spool itself is looked at in tests/spool.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Book, DEADLINE, Daemon, DaemonPlan, EXIT, Fifo, Local, Peer, PeerListener, Watched, daemons_say, tag};

/// A script that counts, says that it is there, and waits.
const HOLD: &str = "#!/bin/sh\necho x >> count\necho $$ > reached\nread line < go\n";

/// A script that counts.
const COUNT: &str = "#!/bin/sh\necho x >> count\n";

/// Within this, a run that may run again goes to another peer; it waits half a minute for its own.
const MOVES: Duration = Duration::from_mins(1);

/// A server whose port, and with it its spool, is the same when it starts again.
fn server() -> DaemonPlan {
    let port = PeerListener::bind().port();
    Daemon::server().config(json!({ "port": port }))
}

/// A doer that is a server, its client that asks, and the pipes of the script `hold`.
fn holding() -> (Daemon, Daemon, Fifo, Fifo) {
    let doer = server().script("hold", HOLD).script("count", COUNT).script("exit", EXIT).start();
    let pipes = (Fifo::new(doer.prefix(), "reached"), Fifo::new(doer.prefix(), "go"));
    let asker = Daemon::client(&doer).start();
    asker.wait_log("link up");
    (doer, asker, pipes.0, pipes.1)
}

/// Kills the daemon alone; what it started lives on.
fn killed(mut daemon: Daemon) -> DaemonPlan {
    daemon.signal(Signal::KILL);
    daemon.wait_exit(DEADLINE);
    daemon.kill()
}

fn queued(name: &str, id: &str) -> Value {
    json!({ "name": name, "id": id, "queue": true })
}

/// Sends it and takes `accepted`; the run's id.
#[track_caller]
fn accepted(process: &mut Local, request: &Value) -> String {
    process.send(request.to_string());
    let said = process.said();
    assert_eq!((&said["event"], &said["id"]), (&json!("accepted"), &request["id"]), "{said}");
    said["run"].as_str().expect("a run has an id").to_owned()
}

fn counted(prefix: &Path) -> usize {
    fs::read_to_string(prefix.join("count")).map_or(0, |text| text.lines().count())
}

#[track_caller]
fn assert_error(said: &Value, status: i64, error: &str) {
    assert_eq!((&said["status"], &said["error"]), (&json!(status), &json!(error)), "{said}");
}

/// A scripted version 2 peer's HELLO.
fn hello(instance: &str, epoch: u64) -> Value {
    json!({ "name": instance, "configured": true, "instance": instance, "epoch": epoch, "version": "0", "tags": [], "capacity": 9,
        "features": ["queue", "output", "events"] })
}

/// The next frame as JSON.
#[track_caller]
fn frame(peer: &mut Peer) -> Value {
    serde_json::from_str(&peer.text()).expect("frames are JSON")
}

/// Takes the ACK of an attempt.
#[track_caller]
fn acknowledged(peer: &mut Peer, run: &str, attempt: u32) {
    let said = frame(peer);
    let wanted = json!({ "code": "ACK", "data": { "id": run, "attempt": attempt } });
    assert_eq!(said["params"], wanted, "{said}");
}

fn status(peer: &mut Peer, data: &Value) {
    peer.send_text(&daemons_say("STATUS", data));
}

// ---- The asking side -------------------------------------------------------------------------------------------

#[test]
fn what_was_accepted_is_on_disk_and_runs_once_when_its_asker_was_killed_right_then() {
    let plan = server().script("count", COUNT);
    let port = plan.clone().start().kill();
    let doer = port.clone().start();
    let asker = Daemon::client(&doer);
    let absent = doer.kill();
    let asker = asker.start();
    let request = queued("count", "a");
    let run = accepted(&mut asker.connect(), &request);
    let asker = killed(asker).start();
    let doer = absent.start();
    let (events, last) = asker.connect().run(&request);
    assert_eq!((&events[0]["run"], &last["run"], &last["status"]), (&json!(run), &json!(run), &json!(0)), "{last}");
    assert_eq!(counted(doer.prefix()), 1);
}

#[test]
fn a_run_is_bound_on_disk_before_its_first_frame_leaves_and_goes_to_no_other() {
    let plan = Daemon::server();
    let asker = plan.clone().start();
    let mut first = Peer::dial_version2(&asker, &hello("i1", 1));
    let run = accepted(&mut asker.connect(), &queued("m", "a"));
    let offered = frame(&mut first);
    assert_eq!((&offered["id"], &offered["queue"], &offered["attempt"]), (&json!(run), &json!(true), &json!(1)), "{offered}");
    drop(killed(asker));
    let asker = plan.start();
    let mut other = Peer::dial_version2(&asker, &hello("i2", 1));
    other.nothing_waiting();
    let mut first = Peer::dial_version2(&asker, &hello("i1", 2));
    assert_eq!(frame(&mut first), offered);
    // Its link is lost: nothing is settled by that, and it is offered to the same instance again.
    let mut process = asker.connect();
    process.send(queued("m", "a").to_string());
    assert_eq!(process.said()["event"], "accepted");
    first.reset();
    asker.wait_log("link down");
    other.nothing_waiting();
    process.nothing_waiting();
    let mut first = Peer::dial_version2(&asker, &hello("i1", 3));
    assert_eq!(frame(&mut first), offered);
    status(&mut first, &json!({ "status": 3, "id": run, "attempt": 1, "ms": 5 }));
    acknowledged(&mut first, &run, 1);
    assert_eq!(process.said(), json!({ "status": 3, "id": "a", "run": run, "peer": "i1", "ms": 5 }));
    other.nothing_waiting();
}

#[test]
fn what_is_refused_for_ever_by_one_goes_to_another_and_what_is_only_refused_now_does_not() {
    let asker = Daemon::server().start();
    let mut first = Peer::dial_version2(&asker, &hello("i1", 1));
    let (mut process, mut listener) = (asker.connect(), asker.connect());
    listener.command("SUBSCRIBE", &json!(["runs"]));
    let run = accepted(&mut process, &queued("m", "a"));
    assert_eq!(frame(&mut first)["attempt"], 1);
    let mut second = Peer::dial_version2(&asker, &hello("i2", 1));
    status(&mut first, &json!({ "status": -2, "error": "spool_failed", "message": "now", "id": run, "attempt": 1 }));
    assert_eq!(frame(&mut first)["attempt"], 1, "offered again to whoever has it");
    second.nothing_waiting();
    first.send_text(&daemons_say("DRAIN", &Value::Null));
    status(&mut first, &json!({ "status": -1, "error": "busy", "message": "full", "id": run, "attempt": 1, "refused": true }));
    acknowledged(&mut first, &run, 1);
    assert_eq!(frame(&mut second)["attempt"], 2);
    status(&mut second, &json!({ "status": 0, "id": run, "attempt": 2 }));
    assert_eq!(process.said()["peer"], "i2");
    // Subscribers hear of an attempt once, however often it is offered.
    let heard: Vec<Value> = (0..3).map(|_| listener.said()).map(|said| json!([said["event"], said["peer"]])).collect();
    assert_eq!(heard, [json!(["running", "i1"]), json!(["running", "i2"]), json!(["settled", null])]);
}

#[test]
fn each_side_may_be_killed_while_the_script_runs_on_the_other_and_the_outcome_comes_home_once() {
    let (doer, asker, mut reached, mut go) = holding();
    let request = queued("hold", "a");
    let run = accepted(&mut asker.connect(), &request);
    reached.line();
    let asker = killed(asker).start();
    let mut process = asker.connect();
    process.send(request.to_string());
    assert_eq!(process.said()["run"], run);
    asker.wait_log("link up");
    go.release(1);
    let last = process.said();
    assert_eq!((&last["status"], counted(doer.prefix())), (&json!(0), 1), "{last}");
    // The asker is away while it ends.
    let request = queued("hold", "b");
    accepted(&mut process, &request);
    reached.line();
    let away = killed(asker);
    go.release(1);
    doer.wait_log_times("queued run over", 2);
    // And so is the doer, when it is told: its outcome is on disk.
    let doer = killed(doer).start();
    let asker = away.start();
    let (_, last) = asker.connect().run(&request);
    assert_eq!((&last["status"], counted(doer.prefix())), (&json!(0), 2), "{last}");
}

#[test]
fn when_the_ttl_is_over_it_has_expired_if_it_was_given_to_nobody_and_is_unknown_else() {
    let asker = Daemon::server().start();
    let mut process = asker.connect();
    let (_, last) = process.run(&json!({ "name": "m", "id": "a", "queue": { "ttl": "50ms" } }));
    assert_error(&last, -2, "expired");
    let mut subscriber = asker.connect();
    assert_eq!(subscriber.command("SUBSCRIBE", &json!(["runs"]))["status"], 0);
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 1));
    let run = accepted(&mut process, &json!({ "name": "m", "id": "b", "queue": { "ttl": "100ms" } }));
    assert_eq!(frame(&mut peer)["id"], run);
    assert_error(&process.said(), -5, "interrupted");
    assert_eq!(subscriber.said()["event"], "running");
    let told = subscriber.said();
    assert_eq!(
        (&told["event"], &told["run"], &told["report"]["status"]),
        (&json!("settled"), &json!(run), &json!(-5)),
        "{told}"
    );
    // What it says late is the record's and the subscribers', and no second final line. Only then may it forget it.
    status(&mut peer, &json!({ "status": 7, "id": run, "attempt": 1 }));
    acknowledged(&mut peer, &run, 1);
    let told = subscriber.said();
    assert_eq!(
        (&told["event"], &told["run"], &told["report"]["status"]),
        (&json!("corrected"), &json!(run), &json!(7)),
        "{told}"
    );
    let record = process.result("RUN", &json!(run));
    assert_eq!((&record["status"], &record["correction"]["status"]), (&json!(-5), &json!(7)), "{record}");
    let (_, last) = process.run(&json!({ "name": "m", "id": "b", "queue": { "ttl": "100ms" } }));
    assert_error(&last, -5, "interrupted");
    process.nothing_waiting();
}

#[test]
fn the_same_id_again_attaches_or_gets_the_outcome_and_other_content_is_a_conflict() {
    let (doer, asker, mut reached, mut go) = holding();
    let request = queued("hold", "a");
    let (mut first, mut second) = (asker.connect(), asker.connect());
    let run = accepted(&mut first, &request);
    reached.line();
    assert_eq!(accepted(&mut second, &request), run);
    let other = json!({ "name": "hold", "id": "a", "params": 1, "queue": true });
    let (events, last) = asker.connect().run(&other);
    assert!(events.is_empty(), "{events:?}");
    assert_error(&last, -3, "id_conflict");
    go.release(1);
    let last = first.said();
    assert_eq!((&last["status"], &last), (&json!(0), &second.said()));
    let (events, again) = second.run(&request);
    assert_eq!((events.len(), &again), (1, &last), "the outcome is remembered");
    let asker = killed(asker).start();
    assert_eq!(asker.connect().run(&request).1, last, "on disk");
    assert_eq!(counted(doer.prefix()), 1);
}

#[test]
fn whoever_asks_again_just_as_it_ends_hears_how_it_ended() {
    const ASKERS: usize = 4;
    const RUNS: usize = 250;
    let doer = server().script("count", COUNT).start();
    let asker = Daemon::client(&doer).start();
    asker.wait_log("link up");
    let hears = |at: usize| {
        let mut process = asker.connect();
        // Each a little behind the one before, so that they meet each run at another moment of its life.
        let request = |run: usize| queued("count", &format!("{}", (run + RUNS - at) % RUNS)).to_string();
        process.send((0..RUNS).map(request).collect::<String>());
        let finals = (0..2 * RUNS).map(|_| process.said()).filter(|said| said.get("event").is_none());
        assert_eq!(finals.inspect(|said| assert_eq!(said["status"], 0, "{said}")).count(), RUNS);
    };
    thread::scope(|scope| (0..ASKERS).for_each(|at| drop(scope.spawn(move || hears(at)))));
    assert_eq!(counted(doer.prefix()), RUNS, "each of them ran once");
}

#[test]
fn an_id_is_its_users_own() {
    let doer = server().script("count", COUNT).start();
    let asker = Daemon::client(&doer).env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    let request = queued("count", "a");
    let by_socket = asker.connect().run(&request).1;
    let by_tcp = asker.connect_tcp().run(&request).1;
    assert_eq!((&by_socket["status"], &by_tcp["status"]), (&json!(0), &json!(0)));
    assert_ne!(by_socket["run"], by_tcp["run"]);
    assert_eq!(counted(doer.prefix()), 2);
}

#[test]
fn a_spool_that_is_full_of_what_is_not_settled_takes_no_more_and_recovers_by_itself() {
    let asker = Daemon::server().config(json!({ "limits": { "spool_runs": 2 } })).start();
    let mut process = asker.connect();
    // Without an id nothing of them is promised once they are over.
    let nameless = json!({ "name": "m", "queue": true });
    let runs = [0, 1].map(|_| accepted(&mut process, &nameless));
    let (_, last) = asker.connect().run(&queued("m", "c"));
    assert_error(&last, -2, "queue_full");
    assert_eq!(asker.connect().command("CANCEL", &json!(runs[0]))["status"], 0);
    assert_error(&process.said(), -4, "cancelled");
    accepted(&mut process, &nameless);

    let asker = Daemon::server().config(json!({ "limits": { "spool_bytes": "256KiB" } })).start();
    let mut process = asker.connect();
    let large = "x".repeat(32 << 10);
    let mut taken = 0;
    let last = loop {
        process.send(json!({ "name": "m", "id": taken, "params": large, "queue": true }).to_string());
        let said = process.said();
        if said["event"] != "accepted" {
            break said;
        }
        taken += 1;
    };
    assert_error(&last, -2, "queue_full");
    assert!((1..=8).contains(&taken), "{taken} of 32 KiB in 256 KiB");
    assert_eq!(process.result("RUNS", &json!({ "state": "waiting" })).as_array().map(Vec::len), Some(taken));
}

#[test]
fn not_before_is_waited_for() {
    let (_doer, asker, ..) = holding();
    let mut process = asker.connect();
    let begun = Instant::now();
    let run = accepted(&mut process, &json!({ "name": "count", "id": "a", "queue": { "not_before": "300ms" } }));
    assert_eq!(asker.connect().result("RUN", &json!(run))["state"], "waiting");
    assert_eq!(process.said()["status"], 0);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[test]
fn with_retry_what_may_have_run_runs_again_so_often_and_without_never() {
    let asker = Daemon::server().start();
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 1));
    let mut process = asker.connect();
    let run = accepted(&mut process, &json!({ "name": "m", "id": "a", "queue": true, "retry": { "max": 2 } }));
    for attempt in 1..=3 {
        assert_eq!(frame(&mut peer)["attempt"], attempt);
        status(
            &mut peer,
            &json!({ "status": -5, "error": "interrupted", "message": "who knows", "id": run, "attempt": attempt }),
        );
        acknowledged(&mut peer, &run, attempt);
    }
    assert_error(&process.said(), -5, "interrupted");
    let run = accepted(&mut process, &queued("m", "b"));
    frame(&mut peer);
    status(&mut peer, &json!({ "status": -5, "error": "interrupted", "message": "who knows", "id": run, "attempt": 1 }));
    acknowledged(&mut peer, &run, 1);
    assert_error(&process.said(), -5, "interrupted");
    peer.nothing_waiting();
}

#[test]
fn an_attempt_that_was_refused_is_none_that_retry_counts_also_after_a_restart() {
    let plan = Daemon::server();
    let asker = plan.clone().start();
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 1));
    let request = json!({ "name": "m", "id": "a", "queue": true, "retry": { "max": 1 } });
    let run = accepted(&mut asker.connect(), &request);
    let unknown = |attempt: u32| json!({ "status": -5, "error": "interrupted", "message": "m", "id": run, "attempt": attempt });
    for attempt in 1..=2 {
        assert_eq!(frame(&mut peer)["attempt"], attempt);
        let refused = json!({ "status": -1, "error": "busy", "message": "m", "id": run, "attempt": attempt, "refused": true });
        status(&mut peer, &refused);
        acknowledged(&mut peer, &run, attempt);
    }
    assert_eq!(frame(&mut peer)["attempt"], 3);
    drop(killed(asker));
    let asker = plan.start();
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 2));
    let mut process = asker.connect();
    process.send(request.to_string());
    assert_eq!(process.said()["event"], "accepted");
    // The first that may have run, and the one more that is allowed.
    for attempt in 3..=4 {
        assert_eq!(frame(&mut peer)["attempt"], attempt);
        status(&mut peer, &unknown(attempt));
        acknowledged(&mut peer, &run, attempt);
    }
    assert_error(&process.said(), -5, "interrupted");
    peer.nothing_waiting();
}

#[test]
fn a_doer_that_is_gone_loses_what_may_run_again_to_another_and_keeps_what_may_not() {
    let doer = |asker: &Daemon, writes_down: &str| {
        let plan = Daemon::client(asker).config(json!({ "tags": ["x", tag()] }));
        plan.script("write-down", writes_down).script("hold", HOLD).start()
    };
    let asker = server().start();
    let first = doer(&asker, "#!/bin/sh\necho \"$WSDAEMON_RUN $$\" >> ran\necho $$ > reached\nexec sleep 1000\n");
    let mut reached = Fifo::new(first.prefix(), "reached");
    let _go = Fifo::new(first.prefix(), "go");
    let (book, mut process) = (Book::default(), asker.connect());
    book.note("may run again", 1, 0.0);
    book.ask(asker.socket(), |_, _| true);
    accepted(&mut process, &json!({ "name": "hold", "id": "may not", "to": "tag:x", "queue": true }));
    let left = [reached.line(), reached.line()].map(|pid| Watched::new(&pid));
    let gone = killed(first);
    let second = doer(&asker, "#!/bin/sh\necho \"$WSDAEMON_RUN $$\" >> ran\n");
    assert!(book.wait_settled(MOVES), "{}\n{}", book.open(), asker.log());
    process.nothing_waiting();
    // What it says when it is back after all changes nothing of the one, and settles the other.
    let first = gone.start();
    assert_error(&process.said(), -5, "interrupted");
    left.iter().for_each(Watched::wait_end);
    let counts = book.close(asker.socket(), &[first.prefix(), second.prefix()], DEADLINE, &|| asker.log().to_string());
    assert_eq!((counts.done, counts.started), (1, 2), "{counts:?}");
    assert_eq!((counted(first.prefix()), counted(second.prefix())), (1, 0));
    process.nothing_waiting();
}

#[test]
fn what_a_doer_had_whose_spool_is_lost_is_unknown_at_once_and_runs_again_only_if_it_may() {
    let (doer, asker, mut reached, _go) = holding();
    let (mut once, mut again) = (asker.connect(), asker.connect());
    let run = accepted(&mut once, &queued("hold", "a"));
    accepted(&mut again, &json!({ "name": "hold", "id": "b", "queue": true, "retry": { "max": 1 } }));
    let _left = [reached.line(), reached.line()].map(|pid| Watched::new(&pid));
    let (port, plan) = (doer.port(), killed(doer));
    let spool = rusqlite::Connection::open(plan.prefix().join(format!("spool-server-{port}.db"))).expect("it is there");
    assert_eq!(spool.execute("UPDATE claims SET name = 'other'", []), Ok(2), "against the seals of both");
    drop(spool);
    let doer = plan.script("hold", COUNT).start();
    doer.wait_log("the spool was damaged and is set aside");
    let last = once.said();
    assert_error(&last, -5, "interrupted");
    assert!(last["run"] == run && last["message"].as_str().is_some_and(|words| words.contains("was lost")), "{last}");
    let last = again.said();
    assert_eq!((&last["status"], counted(doer.prefix())), (&json!(0), 3), "{last}");
    // For ever, and for whoever asks once more.
    assert_error(&killed(asker).start().connect().run(&queued("hold", "a")).1, -5, "interrupted");
    assert_eq!(counted(doer.prefix()), 3);
}

// ---- The doing side --------------------------------------------------------------------------------------------

#[test]
fn a_run_is_claimed_on_disk_before_it_starts_so_a_script_that_kills_its_daemon_runs_once() {
    let (doer, asker, ..) = holding();
    doer.script("murder", "#!/bin/sh\necho x >> count\nkill -KILL $PPID\n");
    let mut process = asker.connect();
    accepted(&mut process, &queued("murder", "a"));
    let mut doer = doer;
    doer.wait_exit(DEADLINE);
    let doer = doer.kill().start();
    assert_error(&process.said(), -5, "interrupted");
    assert_eq!(counted(doer.prefix()), 1);
}

#[test]
fn what_a_killed_doer_left_running_is_stopped_before_it_is_settled_and_what_was_in_line_runs() {
    let plan = server().config(json!({ "limits": { "runs": 1 } })).script("count", COUNT);
    let nested = "#!/bin/sh\necho $$ > reached\nsetsid sh -c 'echo $$ > reached; exec sleep 1000' &\nwait\n";
    let doer = plan.script("nested", nested).start();
    let mut reached = Fifo::new(doer.prefix(), "reached");
    let asker = Daemon::client(&doer).start();
    let (mut first, mut second) = (asker.connect(), asker.connect());
    let run = accepted(&mut first, &queued("nested", "a"));
    let left = [reached.line(), reached.line()].map(|pid| Watched::new(&pid));
    accepted(&mut second, &json!({ "name": "count", "id": "b", "queue": true, "events": true }));
    assert_eq!(second.said()["event"], "delivered", "in line, on disk");
    let doer = killed(doer);
    assert!(left.iter().all(Watched::is_alive));
    let doer = doer.start();
    let last = first.said();
    assert_error(&last, -5, "interrupted");
    assert_eq!(last["run"], run);
    for process in left {
        assert!(!process.is_alive(), "stopped before it was settled");
    }
    let (_, last) = second.rest();
    assert_eq!((&last["status"], counted(doer.prefix())), (&json!(0), 1), "{last}");
}

#[test]
fn an_outcome_is_said_on_every_link_of_its_asker_until_it_is_acknowledged_and_nothing_runs_twice() {
    let doer = server().script("count", COUNT).start();
    let asked = r#"{"name":"count","id":"r1","params":null,"queue":true,"attempt":1}"#;
    let mut asker = Peer::dial_version2(&doer, &hello("i1", 1));
    let outcome = |peer: &mut Peer| loop {
        let said = frame(peer);
        if said["params"]["code"] == "STATUS" {
            break said["params"]["data"].clone();
        }
    };
    asker.send_text(asked);
    asker.send_text(asked);
    let said = outcome(&mut asker);
    assert_eq!((&said["status"], &said["id"], &said["attempt"]), (&json!(0), &json!("r1"), &json!(1)), "{said}");
    drop(asker);
    let doer = killed(doer).start();
    let mut asker = Peer::dial_version2(&doer, &hello("i1", 2));
    assert_eq!(outcome(&mut asker), said);
    asker.send_text(asked);
    assert_eq!(outcome(&mut asker), said);
    asker.send_text(&daemons_say("ACK", &json!({ "id": "r1", "attempt": 1 })));
    asker.send_text(asked);
    doer.wait_log("was offered again whose outcome was acknowledged");
    asker.nothing_waiting();
    drop(asker);
    let mut asker = Peer::dial_version2(&doer, &hello("i1", 3));
    asker.nothing_waiting();
    // What is cancelled before it is claimed never runs.
    asker.send_text(&daemons_say("CANCEL", &json!({ "id": "r2", "attempt": 1 })));
    let refused = outcome(&mut asker);
    assert_eq!((&refused["error"], &refused["refused"]), (&json!("cancelled"), &json!(true)), "{refused}");
    asker.send_text(&asked.replace("r1", "r2"));
    assert_eq!(outcome(&mut asker), refused);
    assert_eq!(counted(doer.prefix()), 1);
}

// ---- A spool that is damaged while it is used -------------------------------------------------------------------

/// Of a server that has this port, as [`server`] makes it.
fn spool_of(server: &Daemon) -> PathBuf {
    server.prefix().join(format!("spool-server-{}.db", server.port()))
}

/// More than SQLite keeps in memory, each with params of 1 MiB: what came before them is read from the disk when it is wanted.
const CROWD: usize = 12;

fn large() -> String {
    "x".repeat(1 << 20)
}

/// Overwrites what a running daemon has in its spool, behind its back: all but the head of the file and of its log.
fn overwrite(spool: &Path) {
    for (path, kept) in [(spool.to_owned(), 4096), (spool.with_extension("db-wal"), 32)] {
        let mut bytes = fs::read(&path).expect("a daemon has both").split_off(kept);
        for byte in &mut bytes {
            *byte ^= 0x55;
        }
        let file = fs::OpenOptions::new().write(true).open(&path).expect("it is ours");
        file.write_all_at(&bytes, kept as u64).expect("written");
    }
}

/// Says HELLO again to a server that has closed the link of `former`; its instance now, which says that it was that one.
#[track_caller]
fn another_than(former: &str, server: &Daemon, hello: &Value) -> (Peer, String) {
    let mut peer = Peer::try_dial(server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
    peer.send_hello(hello);
    let said = peer.hello();
    assert!(said["instance"] != former && said["former"] == json!([former]), "{said}");
    (peer, said["instance"].as_str().expect("a text").to_owned())
}

fn instance(daemon: &Daemon) -> String {
    daemon.connect().result("STATS", &json!(null))["instance"].as_str().expect("a text").to_owned()
}

#[test]
fn an_asker_whose_spool_is_damaged_tells_each_caller_once_what_is_true_and_keeps_no_loop_and_no_old_link() {
    let asker = server().script("after", AFTER).start();
    let (former, mut told) = (instance(&asker), Fifo::new(asker.prefix(), "told"));
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 1));
    let (mut known, mut begun, mut waits) = (asker.connect(), asker.connect(), asker.connect());
    let request = |id: &str, to: &str| json!({ "name": "m", "id": id, "params": large(), "to": to, "queue": true });
    let run = accepted(&mut known, &json!({ "name": "m", "id": "a", "params": large(), "queue": true, "then": "after" }));
    assert_eq!(frame(&mut peer)["id"], run);
    accepted(&mut begun, &request("b", "i1"));
    frame(&mut peer);
    (0..CROWD).for_each(|id| drop(accepted(&mut waits, &request(&id.to_string(), "nobody"))));
    overwrite(&spool_of(&asker));
    // The damage is found when this is to be kept.
    status(&mut peer, &json!({ "status": 3, "id": run, "attempt": 1 }));
    assert_eq!(known.said(), json!({ "status": 3, "id": "a", "run": run, "peer": "i1" }), "it is true, wherever it is kept");
    assert_eq!(told.line(), format!(r#"{{"status":3,"id":"a","run":"{run}","peer":"i1"}}"#));
    let names = fs::read_dir(asker.prefix()).expect("it is there").flatten().map(|entry| entry.path());
    let aside = |path: &PathBuf| path.to_string_lossy().contains(".db.damaged-") && !path.to_string_lossy().ends_with("-wal");
    let aside = names.into_iter().find(aside).expect("it is kept").display().to_string();
    let last = begun.said();
    assert_error(&last, -5, "interrupted");
    assert!(last["message"].as_str().is_some_and(|words| words.contains(&aside)), "{last}");
    for _ in 0..CROWD {
        let last = waits.said();
        assert_error(&last, -2, "spool_failed");
        assert!(last["message"].as_str().is_some_and(|words| words.contains(&aside)), "{last}");
    }
    // No ACK: whoever mends the file can have the outcome again.
    peer.closed();
    let (mut peer, now) = another_than(&former, &asker, &hello("i1", 2));
    assert_eq!(instance(&asker), now);
    let run = accepted(&mut known, &queued("m", "a"));
    assert_eq!(frame(&mut peer)["id"], run);
    status(&mut peer, &json!({ "status": 0, "id": run, "attempt": 1 }));
    acknowledged(&mut peer, &run, 1);
    assert_eq!(known.said()["status"], 0);
    for process in [&mut known, &mut begun, &mut waits] {
        process.nothing_waiting();
    }
    assert_eq!(asker.log().count("tried again in a while"), 1, "once for what the damage was found by");
}

#[test]
fn a_doer_whose_spool_is_damaged_is_another_from_then_on_and_its_askers_settle_what_the_old_one_had() {
    let doer = server().config(json!({ "limits": { "runs": 2 } })).script("hold", HOLD).script("count", COUNT).start();
    let (mut reached, mut go) = (Fifo::new(doer.prefix(), "reached"), Fifo::new(doer.prefix(), "go"));
    let asker = Daemon::client(&doer).start();
    asker.wait_log("link up");
    let (mut once, mut again) = (asker.connect(), asker.connect());
    let run = accepted(&mut once, &queued("hold", "a"));
    accepted(&mut again, &json!({ "name": "hold", "id": "b", "queue": true, "retry": { "max": 1 } }));
    let _held = [reached.line(), reached.line()].map(|pid| Watched::new(&pid));
    let (former, mut crowd) = (instance(&doer), Peer::dial_version2(&doer, &hello("i1", 1)));
    for number in 0..CROWD {
        let claim = json!({ "name": "count", "id": format!("r{number}"), "params": large(), "queue": true, "attempt": 1 });
        crowd.send_text(&claim.to_string());
        assert_eq!(frame(&mut crowd)["params"]["data"]["event"], "delivered", "in line, on disk");
    }
    overwrite(&spool_of(&doer));
    // The damage is found by whoever looks.
    doer.connect().command("RUNS", &json!({}));
    crowd.closed();
    let last = once.said();
    assert_error(&last, -5, "interrupted");
    assert!(last["run"] == run && last["message"].as_str().is_some_and(|words| words.contains(&former)), "{last}");
    let (mut crowd, now) = another_than(&former, &doer, &hello("i1", 2));
    assert_eq!(instance(&doer), now);
    // What was in line under the old one never runs, and the executor is not held up by it.
    doer.script("hold", COUNT);
    go.release(2);
    for _ in 0..CROWD {
        let said = frame(&mut crowd)["params"]["data"].clone();
        assert_error(&said, -2, "spool_failed");
    }
    let last = again.said();
    assert_eq!((&last["status"], counted(doer.prefix())), (&json!(0), 3), "{last}");
    // What ran to its end after all is said once, though it is on no disk.
    asker.wait_log("the truth about a run came late");
    assert_eq!(asker.connect().result("RUN", &json!(run))["correction"]["status"], 0);
}

#[test]
fn a_client_whose_spool_is_damaged_dials_as_another() {
    let hub = server().script("count", COUNT).start();
    let asker = Daemon::client(&hub).start();
    asker.wait_log("link up");
    let (former, mut waits) = (instance(&asker), asker.connect());
    let request = |id: usize| json!({ "name": "m", "id": id, "params": large(), "to": "nobody", "queue": true });
    let runs: Vec<String> = (0..CROWD).map(|id| accepted(&mut waits, &request(id))).collect();
    overwrite(&asker.prefix().join(format!("spool-client-{}.db", hub.port())));
    asker.connect().command("RUN", &json!(runs[0]));
    for _ in 0..CROWD {
        assert_error(&waits.said(), -2, "spool_failed");
    }
    asker.wait_log_times("link up", 2);
    assert_ne!(instance(&asker), former);
    let peers = hub.connect().result("PEERS", &json!(null));
    assert_eq!((peers.as_array().map(Vec::len), &peers[0]["instance"]), (Some(1), &json!(instance(&asker))), "{peers}");
    let (_, last) = asker.connect().run(&queued("count", "a"));
    assert_eq!(last["status"], 0, "{last}");
}

// ---- Orders to stop --------------------------------------------------------------------------------------------

#[test]
fn cancel_stops_what_runs_and_what_is_in_line() {
    for queue in [true, false] {
        let doer = server().config(json!({ "limits": { "runs": 1 } })).script("hold", HOLD).script("count", COUNT).start();
        let mut reached = Fifo::new(doer.prefix(), "reached");
        let _go = Fifo::new(doer.prefix(), "go");
        let asker = Daemon::client(&doer).start();
        asker.wait_log("link up");
        let (mut runs, mut waits) = (asker.connect(), asker.connect());
        runs.send(json!({ "name": "hold", "id": "a", "queue": queue, "events": true }).to_string());
        let script = Watched::new(&reached.line());
        waits.send(json!({ "name": "count", "id": "b", "queue": queue, "events": true }).to_string());
        while waits.said()["event"] != "delivered" {}
        for (id, process) in [("b", &mut waits), ("a", &mut runs)] {
            assert_eq!(asker.connect().command("CANCEL", &json!({ "id": id }))["status"], 0);
            let (_, last) = process.rest();
            assert_error(&last, -4, "cancelled");
        }
        script.wait_end();
        assert_eq!(counted(doer.prefix()), 1, "what was in line never started");
        assert_error(&asker.connect().command("CANCEL", &json!({ "id": "a" })), -2, "unknown_target");
    }
}

#[test]
fn cancel_of_what_waits_for_its_peer_is_at_once() {
    let asker = Daemon::server().start();
    let mut process = asker.connect();
    let run = accepted(&mut process, &json!({ "name": "m", "id": "a", "to": "nobody", "queue": true }));
    assert_eq!(asker.connect().command("CANCEL", &json!({ "run": run }))["status"], 0);
    assert_error(&process.said(), -4, "cancelled");
}

#[test]
fn very_many_that_wait_for_a_peer_take_little_memory_also_after_a_restart_and_each_is_told_its_own_end() {
    const REQUESTS: usize = 4000;
    const AT_ONCE: usize = 50;
    // What one takes that waits, and its part of what all of them take while they are accepted or taken up.
    const REQUEST_BYTES: usize = 5 << 10;
    let server = server().start();
    let mut process = server.connect();
    let mut runs = Vec::new();
    let mut accept = |from: usize, to: usize| {
        for first in (from..to).step_by(AT_ONCE) {
            let requests = (first..first + AT_ONCE).map(
                |id| json!({ "name": "m", "id": id, "params": { "text": "x".repeat(80) }, "to": "nobody", "queue": true }),
            );
            process.send(requests.map(|request| request.to_string()).collect::<String>());
            for _ in 0..AT_ONCE {
                let said = process.said();
                assert_eq!(said["event"], "accepted", "{said}");
                runs.push((said["id"].clone(), said["run"].clone()));
            }
        }
    };
    accept(0, AT_ONCE);
    let before = server.peak_memory();
    accept(AT_ONCE, REQUESTS);
    let most = before + (REQUESTS * REQUEST_BYTES) as u64;
    assert!(server.peak_memory() < most, "{} bytes with none, {} with all", before, server.peak_memory());
    for (id, run) in [&runs[REQUESTS - 1], &runs[0], &runs[REQUESTS / 2]] {
        assert_eq!(server.connect().command("CANCEL", &json!({ "run": run }))["status"], 0);
        let said = process.said();
        assert_error(&said, -4, "cancelled");
        assert_eq!((&said["id"], &said["run"]), (id, run));
    }
    let server = killed(server).start();
    let stats = server.connect().command("STATS", &json!({}));
    assert_eq!(stats["result"]["spool"]["unsettled"], REQUESTS - 3, "{stats}");
    assert!(server.peak_memory() < most, "{} bytes with none, {} with all again", before, server.peak_memory());
}

#[test]
fn cancel_of_what_an_absent_peer_may_have_outlives_the_asker() {
    let plan = Daemon::server();
    let asker = plan.clone().start();
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 1));
    let run = accepted(&mut asker.connect(), &queued("m", "a"));
    let offered = frame(&mut peer);
    peer.reset();
    asker.wait_log("link down");
    assert_eq!(asker.connect().command("CANCEL", &json!(run))["status"], 0);
    let mut process = asker.connect();
    process.send(queued("m", "a").to_string());
    assert_eq!(process.said()["event"], "accepted");
    process.nothing_waiting();
    drop(killed(asker));
    let asker = plan.start();
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 2));
    assert_eq!(frame(&mut peer)["params"], json!({ "code": "CANCEL", "data": { "id": run, "attempt": 1 } }));
    assert_eq!(frame(&mut peer), offered);
    let refused = json!({ "status": -4, "error": "cancelled", "message": "m", "id": run, "attempt": 1, "refused": true });
    status(&mut peer, &refused);
    acknowledged(&mut peer, &run, 1);
    let (_, last) = asker.connect().run(&queued("m", "a"));
    assert_error(&last, -4, "cancelled");
}

#[test]
fn a_timeout_is_kept_by_the_doer_who_says_term_and_then_kill_to_the_group() {
    let (doer, asker, mut reached, _go) = holding();
    let deaf = "#!/bin/sh\ntrap 'echo term > reached' TERM\necho $WSDAEMON_DEADLINE > reached\n\
        setsid sleep 1000 &\necho $! > reached\nwhile :; do sleep 1000 & wait; done\n";
    doer.script("deaf", deaf);
    doer.script("mild", "#!/bin/sh\nexec sleep 1000\n");
    let mut process = asker.connect();
    let begun = Instant::now();
    process.send(json!({ "name": "deaf", "id": "a", "timeout": "300ms", "output": "tail" }).to_string());
    let deadline: f64 = reached.line().parse().expect("seconds since 1970");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_secs_f64();
    assert!((deadline - now).abs() < 10.0, "{deadline} at {now}");
    let grandchild = Watched::new(&reached.line());
    assert_eq!(reached.line(), "term");
    let last = process.said();
    assert_error(&last, -4, "timed_out");
    assert!(
        begun.elapsed() >= Duration::from_millis(5300) && begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    assert!(grandchild.is_alive(), "it is in no group of the script, holds its pipes, and held up nobody");
    for queue in [false, true] {
        let begun = Instant::now();
        process.send(json!({ "name": "mild", "id": "b", "timeout": "100ms", "queue": queue }).to_string());
        let (_, last) = process.rest();
        assert_error(&last, -4, "timed_out");
        assert!(begun.elapsed() < Duration::from_secs(5), "TERM is enough");
    }
}

// ---- What comes after ------------------------------------------------------------------------------------------

/// A script that notes its params, and says so.
const AFTER: &str = "#!/bin/sh\necho \"$1\" >> after\necho \"$1\" > told\n";

#[test]
fn then_runs_once_with_the_outcome_though_its_caller_is_gone() {
    let asker = Daemon::server().script("after", AFTER).start();
    let mut told = Fifo::new(asker.prefix(), "told");
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 1));
    let run = accepted(&mut asker.connect(), &json!({ "name": "m", "id": 5, "queue": true, "then": "after" }));
    asker.wait_log("local connection closed");
    frame(&mut peer);
    status(&mut peer, &json!({ "status": 3, "id": run, "attempt": 1 }));
    acknowledged(&mut peer, &run, 1);
    assert_eq!(told.line(), format!(r#"{{"status":3,"id":5,"run":"{run}","peer":"i1"}}"#));
    asker.connect().send(json!({ "name": "m", "id": 6, "then": "after" }).to_string());
    let direct = frame(&mut peer)["id"].clone();
    status(&mut peer, &json!({ "status": 4, "id": direct }));
    let said: Value = serde_json::from_str(&told.line()).expect("JSON");
    assert_eq!((&said["status"], &said["id"]), (&json!(4), &json!(6)), "{said}");
}

#[test]
fn then_is_not_forgotten_by_an_asker_that_is_killed_before_it_starts() {
    let plan =
        Daemon::server().config(json!({ "limits": { "runs": 1, "waiting": 0 } })).script("after", AFTER).script("hold", HOLD);
    let asker = plan.clone().start();
    let (mut told, mut reached) = (Fifo::new(asker.prefix(), "told"), Fifo::new(asker.prefix(), "reached"));
    let _go = Fifo::new(asker.prefix(), "go");
    let mut peer = Peer::dial_version2(&asker, &hello("i1", 1));
    // No place for it.
    peer.send_text(r#"{"name":"hold","id":"x","params":null}"#);
    let _held = Watched::new(&reached.line());
    let mut process = asker.connect();
    let run = accepted(&mut process, &json!({ "name": "m", "id": "a", "queue": true, "then": "after" }));
    frame(&mut peer);
    status(&mut peer, &json!({ "status": 0, "id": run, "attempt": 1 }));
    assert_eq!(process.said()["status"], 0);
    asker.wait_log("a script waits for a place in line");
    drop(killed(asker));
    let asker = plan.clone().start();
    assert_eq!(told.line(), format!(r#"{{"status":0,"id":"a","run":"{run}","peer":"i1"}}"#));
    drop(killed(asker));
    let asker = plan.start();
    let mut process = asker.connect();
    let (_, last) = process.run(&json!({ "name": "m", "id": "b", "queue": { "ttl": "50ms" }, "then": "after" }));
    assert_error(&last, -2, "expired");
    told.line();
    assert_eq!(fs::read_to_string(asker.prefix().join("after")).expect("written").lines().count(), 2);
}

// ---- Two of them -----------------------------------------------------------------------------------------------

#[test]
fn two_daemons_in_one_prefix_have_two_spools_and_the_second_of_a_kind_runs_without_and_says_so() {
    let hub = Daemon::server().script("exit", EXIT).start();
    let first = Daemon::client(&hub).start();
    let second = first.twin().start();
    let line = second.wait_log("runs without a spool");
    assert!(line.contains("is in use by another daemon"), "{line}");
    for daemon in [&first, &second] {
        daemon.wait_log("link up");
    }
    let (_, last) = second.connect().run(&queued("exit", "a"));
    assert_error(&last, -2, "spool_failed");
    assert_eq!(second.connect().ask(&crate::support::exit("1", 4)), crate::support::exited("1", 4));
    accepted(&mut first.connect(), &queued("exit", "a"));
    let server = first.twin().config(json!({ "mode": "server", "port": 0, "listen": "127.0.0.1", "proxy": null })).start();
    server.wait_log("spool ready");
    let names = fs::read_dir(first.prefix()).expect("it is there").flatten();
    let spools = names.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "db"));
    assert_eq!(spools.count(), 2);
}

#[test]
fn a_spool_is_that_of_the_port_that_is_set_and_servers_on_any_free_port_of_one_prefix_have_one_between_them() {
    let (plan, port) = (Daemon::server(), PeerListener::bind().port());
    let first = plan.clone().start();
    let line = plan.clone().start().wait_log("runs without a spool");
    assert!(line.contains("spool-server-0.db is in use") && line.contains("another \"port\", or a prefix"), "{line}");
    let request = json!({ "name": "m", "id": "a", "queue": true });
    let run = accepted(&mut first.connect(), &request);
    // The system gives it another port, and what it has is the same.
    drop(killed(first));
    let first = plan.clone().start();
    assert_eq!(accepted(&mut first.connect(), &request), run);
    // Beside one with a port of its own, which begins with nothing; renamed, the file goes on under it.
    let fixed = plan.config(json!({ "port": port }));
    let second = fixed.clone().start();
    assert_ne!(accepted(&mut second.connect(), &request), run);
    drop((killed(first), killed(second)));
    let prefix = fixed.prefix();
    for part in ["", "-wal"] {
        fs::rename(prefix.join(format!("spool-server-0.db{part}")), prefix.join(format!("spool-server-{port}.db{part}")))
            .expect("a killed daemon leaves both");
    }
    assert_eq!(accepted(&mut fixed.start().connect(), &request), run);
}
