//! How daemons stop: what runs may end, what does not end is stopped, every asker is told, and no process of an
//! unfinished run is left.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, DaemonPlan, Fifo, Local, Peer, Watched, daemons_say};

/// Dies of TERM, as most do.
const MORTAL: &str = "#!/bin/sh\necho $$ > said\nread -r never < never\n";

/// Ends in its own way when it is told to.
const POLITE: &str = "#!/bin/sh\ntrap 'exit 9' TERM\nsleep 600 &\necho $$ > said\nwait\n";

/// Neither it nor its child hears TERM.
const STUBBORN: &str =
    "#!/bin/sh\ntrap '' TERM\n(read -r never < never) &\necho $! > said\necho $$ > said\nread -r never < never\n";

/// Goes away, leaving a child that does not hear TERM.
const DELEGATING: &str = "#!/bin/sh\n(trap '' TERM; echo > ready; read -r never < never) &\nread -r ready < ready\n\
    echo $! > said\necho $$ > said\nread -r never < never\n";

/// Says that it runs, and ends well when it is let go.
const GATE: &str = "#!/bin/sh\necho $$ > said\nread -r go < go\nexit 3\n";

/// Settling what was stopped may take so long after the grace.
const LAST_STEPS: Duration = Duration::from_secs(5);

// ---- What runs -------------------------------------------------------------------------------------------------

#[test]
fn sigterm_amid_fifty_running_scripts_settles_all_and_leaves_no_process() {
    let asker = Daemon::server().start();
    let doer = stage(Daemon::client(&asker).config(json!({ "times": { "grace": "1s" } })));
    asker.wait_log("link up");
    stops_fifty(&asker, doer, Signal::TERM);
}

#[test]
fn sigint_amid_fifty_running_scripts_settles_all_and_leaves_no_process() {
    let doer = stage(Daemon::server().config(json!({ "times": { "grace": "1s" } })));
    let asker = Daemon::client(&doer.0).start();
    doer.0.wait_log("link up");
    asker.wait_log("link up");
    stops_fifty(&asker, doer, Signal::INT);
}

#[test]
fn a_second_signal_skips_to_kill() {
    let (mut daemon, mut pipes) = stage(unhurried(Daemon::server()));
    let mut peer = Peer::dial(&daemon);
    peer.send_text(r#"{"name":"polite","id":1}"#);
    let polite = Watched::new(&pipes.said.line());
    peer.send_text(r#"{"name":"stubborn","id":2}"#);
    let stubborn = [Watched::new(&pipes.said.line()), Watched::new(&pipes.said.line())];
    daemon.signal(Signal::TERM);
    daemon.wait_log("told to stop");
    daemon.signal(Signal::INT);
    let answers = [peer.status(), peer.status()].map(|data| cancelled_by(&data));
    assert_eq!(answers, ["SIGKILL", "SIGKILL"]);
    assert_eq!(daemon.wait_exit(LAST_STEPS).code(), Some(0));
    polite.wait_end();
    stubborn.iter().for_each(Watched::wait_end);
}

#[test]
fn a_script_that_ends_in_time_is_reported_as_ever_and_its_daemon_waits_no_longer() {
    let (mut daemon, mut pipes) = stage(unhurried(Daemon::server()));
    let mut peer = Peer::dial(&daemon);
    peer.send_text(r#"{"name":"gate","id":"g"}"#);
    pipes.said.line();
    daemon.signal(Signal::TERM);
    daemon.wait_log("told to stop");
    // Nothing more is taken, on the link or at the socket, which is gone.
    let refused = peer.ask(r#"{"name":"gate","id":"late"}"#);
    assert!(refused.starts_with(r#"{"status":-1,"id":"late","error":"busy","#), "{refused}");
    pipes.go.release(1);
    assert_eq!(peer.status(), r#"{"status":3,"id":"g"}"#);
    assert_eq!(daemon.wait_exit(LAST_STEPS).code(), Some(0));
    assert!(!daemon.socket().exists(), "it removes its socket");
}

#[test]
fn runs_in_line_are_busy_as_soon_as_the_daemon_stops() {
    let (mut daemon, mut pipes) = stage(unhurried(Daemon::server()).config(json!({ "limits": { "runs": 1 } })));
    let mut peer = Peer::dial(&daemon);
    for n in 1..=3 {
        peer.send_text(&format!(r#"{{"name":"gate","id":{n}}}"#));
    }
    pipes.said.line();
    daemon.signal(Signal::TERM);
    let mut refused = [peer.status(), peer.status()];
    refused.sort();
    for (answer, id) in refused.iter().zip([2, 3]) {
        assert!(answer.starts_with(&format!(r#"{{"status":-1,"id":{id},"error":"busy","#)), "{answer}");
    }
    pipes.go.release(1);
    assert_eq!(peer.status(), r#"{"status":3,"id":1}"#);
    assert_eq!(daemon.wait_exit(LAST_STEPS).code(), Some(0));
}

#[test]
fn what_an_ended_script_left_behind_is_let_be_though_its_status_was_not_yet_told() {
    const LEAVE: &str = "#!/bin/sh\n(read -r never < never) &\necho $! > said\necho $$ > said\nread -r go < go\nexit 6\n";
    let (mut daemon, mut pipes) = stage(unhurried(Daemon::server()).script("leave", LEAVE));
    let mut peer = Peer::dial(&daemon);
    peer.send_text(r#"{"name":"leave","id":"l"}"#);
    let (background, script) = (Watched::new(&pipes.said.line()), Watched::new(&pipes.said.line()));
    pipes.go.release(1);
    script.wait_end();
    // The pipes are held, so the status waits for a second; both signals come before that is over.
    daemon.signal(Signal::TERM);
    daemon.wait_log("told to stop");
    daemon.signal(Signal::TERM);
    assert_eq!(peer.status(), r#"{"status":6,"id":"l"}"#);
    drop(peer);
    assert_eq!(daemon.wait_exit(LAST_STEPS).code(), Some(0));
    assert!(background.is_alive(), "it was no part of an unfinished run");
}

// ---- Who asked -------------------------------------------------------------------------------------------------

#[test]
fn a_stopping_asker_settles_what_is_in_flight_as_unknown_and_what_is_held_as_not_delivered() {
    let grace = json!({ "times": { "grace": "300ms" } });
    let (doer, mut pipes) = stage(Daemon::server());
    let mut asker = Daemon::client(&doer).config(grace.clone()).start();
    asker.wait_log("link up");
    let mut local = asker.connect();
    local.send(r#"{"name":"gate","id":"f"}"#);
    pipes.said.line();
    asker.signal(Signal::TERM);
    asker.wait_log("told to stop");
    local.send(r#"{"name":"gate","id":"late"}"#);
    assert!(local.line().starts_with(r#"{"status":-1,"id":"late","error":"busy","#));
    assert!(local.line().starts_with(r#"{"status":-5,"id":"f","error":"interrupted","message":""#));
    local.eof();
    assert_eq!(asker.wait_exit(LAST_STEPS).code(), Some(0));
    doer.wait_log("link down");
    pipes.go.release(1);

    // Nobody listens on the doer's port any more.
    let port = doer.port();
    drop(doer.kill());
    let mut asker = Daemon::client_of(port).config(grace).start();
    let mut local = asker.connect();
    local.send(r#"{"name":"gate","id":"h"}"#);
    local.nothing_waiting();
    asker.signal(Signal::INT);
    assert!(local.line().starts_with(r#"{"status":-2,"id":"h","error":"no_peer","message":""#));
    local.eof();
    assert_eq!(asker.wait_exit(LAST_STEPS).code(), Some(0));
}

#[test]
fn what_a_killed_doer_had_in_hand_is_settled_as_unknown() {
    let asker = Daemon::server().start();
    let (doer, mut pipes) = stage(Daemon::client(&asker));
    asker.wait_log("link up");
    let mut local = asker.connect();
    local.send(r#"{"name":"gate","id":"f"}"#);
    pipes.said.line();
    drop(doer.kill());
    assert!(local.line().starts_with(r#"{"status":-5,"id":"f","error":"interrupted","message":""#));
    local.nothing_waiting();
}

#[test]
fn a_daemon_at_rest_stops_at_once_for_each_signal() {
    for signal in [Signal::TERM, Signal::INT, Signal::USR2] {
        let mut daemon = unhurried(Daemon::server()).start();
        let mut local = daemon.connect();
        daemon.signal(signal);
        local.eof();
        assert_eq!(daemon.wait_exit(LAST_STEPS).code(), Some(0));
    }
}

#[test]
fn sigusr2_takes_nothing_more_and_waits_for_all_that_runs_is_in_line_and_was_asked_for_beyond_any_grace() {
    let (mut doer, mut pipes) = stage(Daemon::server().config(json!({ "limits": { "runs": 1 }, "times": { "grace": "1ms" } })));
    let mut peer = Peer::dial_version2(&doer, &json!({ "name": "web", "instance": "i", "epoch": 1 }));
    let run = |id: &str| format!(r#"{{"name":"gate","id":"{id}"}}"#);
    peer.send_text(&run("first"));
    peer.send_text(&run("second"));
    let mut local = doer.connect();
    local.send(r#"{"name":"asked","id":"x"}"#);
    let asked: Value = serde_json::from_str(&peer.text()).expect("JSON");
    assert_eq!(asked["name"], "asked", "{asked}");
    pipes.said.line();
    doer.signal(Signal::USR2);
    let drain = peer.text();
    assert!(drain.contains("DRAIN"), "{drain}");
    let ping: Value = serde_json::from_str(&peer.text()).expect("JSON");
    assert_eq!(ping["params"]["code"], "PING");
    // What was on its way when the peer heard of it is done still.
    peer.send_text(&run("third"));
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 0, "id": ping["id"] })));
    doer.wait_log("nothing more is taken of peers");
    peer.send_text(&run("late"));
    let refused = peer.status();
    assert!(refused.contains("\"late\"") && refused.contains("busy"), "{refused}");
    local.send(r#"{"name":"gate","id":"late"}"#);
    assert!(local.line().starts_with(r#"{"status":-1,"id":"late","error":"busy","#));
    assert!(!doer.socket().exists(), "it takes no more connections");
    // Whoever is there may go and come back, as long as there is something to be done; nobody new may.
    pipes.go.release(1);
    assert!(peer.status().contains("\"first\""));
    pipes.said.line();
    pipes.go.release(1);
    assert!(peer.status().contains("\"second\""));
    pipes.said.line();
    pipes.go.release(1);
    assert!(peer.status().contains("\"third\""));
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 7, "id": asked["id"] })));
    assert_eq!(local.line(), r#"{"status":7,"id":"x"}"#);
    local.eof();
    drop(peer);
    assert_eq!(doer.wait_exit(LAST_STEPS).code(), Some(0));
    assert_eq!(doer.log().count("SIGKILL"), 0);
}

#[test]
fn sigterm_ends_a_drain_as_it_ends_all() {
    let (mut daemon, mut pipes) = stage(Daemon::server().config(json!({ "times": { "grace": "1s" } })));
    let mut peer = Peer::dial(&daemon);
    peer.send_text(r#"{"name":"mortal","id":"m"}"#);
    pipes.said.line();
    daemon.signal(Signal::USR2);
    daemon.wait_log("told to end when all is done");
    daemon.signal(Signal::TERM);
    assert_eq!(cancelled_by(&peer.status()), "SIGTERM");
    drop(peer);
    assert_eq!(daemon.wait_exit(LAST_STEPS).code(), Some(0));
}

#[test]
fn sighup_reads_the_settings_again_and_ends_nothing() {
    let daemon = unhurried(Daemon::server()).start();
    let mut local = daemon.connect();
    for times in 1..=3 {
        daemon.signal(Signal::HUP);
        daemon.wait_log_times("the settings were read again changed=", times);
    }
    local.nothing_waiting();
}

#[test]
fn a_daemon_whose_terminal_is_gone_stops() {
    // Python stands for the terminal's window: it has the other end of it.
    const WINDOW: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
    let plan = unhurried(Daemon::server()).env("NO_COLOR", "1").started_by(&["python3", "-c", WINDOW]);
    let mut said = Fifo::new(plan.prefix(), "said");
    let daemon = plan.script("whose", "#!/bin/sh\necho $PPID > said\n").start();
    let mut peer = Peer::dial(&daemon);
    peer.send_text(r#"{"name":"whose"}"#);
    let itself = Watched::new(&said.line());
    peer.status();
    itself.signal(Signal::HUP);
    daemon.wait_log("the settings were read again");
    assert!(itself.is_alive(), "its terminal is there");
    let socket = daemon.socket().to_owned();
    drop(daemon.crash());
    itself.wait_end();
    assert!(!socket.exists(), "it has stopped in good order");
}

#[test]
fn a_daemon_that_ignores_hangups_outlives_its_terminal() {
    let mut daemon = unhurried(Daemon::server()).started_by(&["nohup"]).start();
    daemon.signal(Signal::HUP);
    daemon.connect().result("RELOAD", &Value::Null);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(LAST_STEPS).code(), Some(0));
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// What the scripts of a stage say, and where they wait.
struct Pipes {
    said: Fifo,
    go: Fifo,
    _never: Fifo,
    _ready: Fifo,
}

/// A daemon with all scripts of this file, and their pipes.
fn stage(plan: DaemonPlan) -> (Daemon, Pipes) {
    let scripts = [("mortal", MORTAL), ("polite", POLITE), ("stubborn", STUBBORN), ("delegating", DELEGATING), ("gate", GATE)];
    let plan = scripts.into_iter().fold(plan, |plan, (name, body)| plan.script(name, body));
    let pipe = |name| Fifo::new(plan.prefix(), name);
    let pipes = Pipes { said: pipe("said"), go: pipe("go"), _never: pipe("never"), _ready: pipe("ready") };
    (plan.start(), pipes)
}

/// With more grace than any test waits for.
fn unhurried(plan: DaemonPlan) -> DaemonPlan {
    plan.config(json!({ "times": { "grace": "10m" } }))
}

/// Stops a doer (with a grace of a second) whose fifty scripts run, and sees what becomes of each.
fn stops_fifty(asker: &Daemon, (mut doer, mut pipes): (Daemon, Pipes), signal: Signal) {
    let kinds = [("mortal", 35, 1), ("polite", 5, 1), ("stubborn", 5, 2), ("delegating", 5, 2)];
    let mut local = asker.connect();
    let mut processes = Vec::new();
    for (name, runs, pids) in kinds {
        for _ in 0..runs {
            local.send(format!(r#"{{"name":"{name}","id":"{name}"}}"#));
        }
        processes.extend((0..runs * pids).map(|_| Watched::new(&pipes.said.line())));
    }
    doer.signal(signal);
    let outcomes = outcomes(&mut local, 50);
    let wanted =
        [(r#""delegating" SIGTERM"#, 5), (r#""mortal" SIGTERM"#, 35), (r#""polite" 9"#, 5), (r#""stubborn" SIGKILL"#, 5)];
    assert_eq!(outcomes, BTreeMap::from(wanted.map(|(outcome, times)| (outcome.to_owned(), times))), "\n{}", doer.log());
    assert_eq!(doer.wait_exit(LAST_STEPS).code(), Some(0));
    processes.iter().for_each(Watched::wait_end);
    local.nothing_waiting();
}

/// How often each outcome came among the next answers: the id with the script's own status, or with the signal.
fn outcomes(local: &mut Local, answers: usize) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for _ in 0..answers {
        let answer = local.line();
        let found: Value = serde_json::from_str(&answer).expect("a line is JSON");
        let end = if found.get("error").is_some() { cancelled_by(&answer) } else { found["status"].to_string() };
        *outcomes.entry(format!("{} {end}", found["id"])).or_default() += 1;
    }
    outcomes
}

/// The signal by which a stopping daemon stopped a run.
fn cancelled_by(data: &str) -> String {
    let found: Value = serde_json::from_str(data).expect("a status is JSON");
    assert_eq!((&found["status"], &found["error"]), (&json!(-4), &json!("cancelled")), "{data}");
    found["signal"].as_str().unwrap_or_else(|| panic!("no signal in {data}")).to_owned()
}
