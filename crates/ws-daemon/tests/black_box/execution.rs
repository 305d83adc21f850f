//! How scripts are found, started, fed, listened to and ended: asked by a scripted peer, so that what is told of them
//! is compared as it stands on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Daemon, DaemonPlan, Fifo, Peer, Watched, pair, wait_for};

/// Keeps its argument and what it reads, byte for byte.
const KEEP: &str = "#!/bin/sh\ncd \"$WSDAEMON_PREFIX\"\nprintf %s \"$1\" > argument\ncat > stdin\n";

/// Says its params when it has started, and ends when it is let go.
const GATE: &str = "#!/bin/sh\necho \"$1\" > said\nread -r go < go\n";

/// The longest single argument that Linux takes.
const ARGUMENT_BYTES: usize = 131_071;

/// How long the status of a script may wait for what the script left behind.
const DRAIN: Duration = Duration::from_secs(1);

// ---- Params ----------------------------------------------------------------------------------------------------

#[test]
fn the_argument_is_the_params_compact_and_otherwise_as_they_were_written() {
    let (server, mut peer) = with_peer(Daemon::server().script("keep", KEEP));
    let table = [
        (r#"{"b":1,"a":2}"#, r#"{"b":1,"a":2}"#),
        ("{ \"b\" : [ 1 ,\t2 ] ,\n \"a\":{ } }", r#"{"b":[1,2],"a":{}}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#),
        ("1.0", "1.0"),
        ("-0", "-0"),
        ("1E+2", "1E+2"),
        ("12345678901234567890", "12345678901234567890"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        (r#""a b""#, r#""a b""#),
        (r#""caf\u00e9 \/ \ud83d\ude00 \n""#, r#""caf\u00e9 \/ \ud83d\ude00 \n""#),
        ("\"café 😀\"", "\"café 😀\""),
        (r#""\u0000""#, r#""\u0000""#),
        (r#"" { \" } ""#, r#"" { \" } ""#),
        (r#""$(touch owned) `id` ; -n *""#, r#""$(touch owned) `id` ; -n *""#),
        ("true", "true"),
        ("null", "null"),
        ("[]", "[]"),
    ];
    for (params, argument) in table {
        assert_eq!(peer.ask(&format!(r#"{{"name":"keep","id":1,"params":{params}}}"#)), r#"{"status":0,"id":1}"#);
        assert_eq!(kept(&server, "argument"), argument);
        assert_eq!(kept(&server, "stdin"), "", "stdin is empty unless it carries the params");
    }
    assert_eq!(peer.ask(r#"{"name":"keep"}"#), r#"{"status":0}"#);
    assert_eq!(kept(&server, "argument"), "null", "a request without params");
}

#[test]
fn params_travel_from_socket_to_script_as_they_were_written() {
    let (server, client) = pair();
    client.script("keep", KEEP);
    let answer = server.connect().ask("{\"params\": { \"z\" : 1.0 , \"a\":[ 12345678901234567890 ] }, \"name\":\"keep\"}");
    assert_eq!(answer, r#"{"status":0}"#);
    assert_eq!(kept(&client, "argument"), r#"{"z":1.0,"a":[12345678901234567890]}"#);
}

#[test]
fn params_too_long_for_an_argument_come_by_stdin() {
    let (server, mut peer) = with_peer(Daemon::server().script("keep", KEEP));
    for bytes in [65_537, ARGUMENT_BYTES, ARGUMENT_BYTES + 1, 1 << 20] {
        let params = string_of(bytes);
        assert_eq!(peer.ask(&format!(r#"{{"name":"keep","params":{params}}}"#)), r#"{"status":0}"#);
        let by_stdin = bytes > ARGUMENT_BYTES;
        let (argument, stdin) = if by_stdin { ("-", &*params) } else { (&*params, "") };
        // Not assert_eq: a megabyte of difference helps nobody.
        assert!(kept(&server, "argument") == argument && kept(&server, "stdin") == stdin, "{bytes} bytes");
    }
    // White space does not count.
    let spaced = format!("[{}{}]", " ".repeat(200_000), 7);
    assert_eq!(peer.ask(&format!(r#"{{"name":"keep","params":{spaced}}}"#)), r#"{"status":0}"#);
    assert_eq!(kept(&server, "argument"), "[7]");
}

#[test]
fn params_too_long_beside_a_large_environment_come_by_stdin() {
    // Linux takes a quarter of the stack's limit for both together, and never less than 128 KiB.
    const LARGE: &str = "LARGE=$(printf %0100000d 0); export LARGE; ulimit -s 512; exec \"$@\"";
    let plan = Daemon::server().script("keep", KEEP).started_by(&["/bin/sh", "-c", LARGE, "sh"]);
    let (server, mut peer) = with_peer(plan);
    for (bytes, by_stdin) in [(1_000, false), (60_000, true)] {
        let params = string_of(bytes);
        assert_eq!(peer.ask(&format!(r#"{{"name":"keep","params":{params}}}"#)), r#"{"status":0}"#);
        let (argument, stdin) = if by_stdin { ("-", &*params) } else { (&*params, "") };
        assert!(kept(&server, "argument") == argument && kept(&server, "stdin") == stdin, "{bytes} bytes");
    }
}

#[test]
fn a_script_need_not_read_its_params_from_stdin() {
    let plan = Daemon::server()
        .script("deaf", "#!/bin/sh\nexit 3\n")
        .script("closed", "#!/bin/sh\nexec <&-\nexit 4\n")
        .script("child", "#!/bin/sh\n(echo $$; sleep 600) <&0 >/dev/null 2>&1 &\necho $! > said\nexit 5\n");
    let mut said = Fifo::new(plan.prefix(), "said");
    let (_server, mut peer) = with_peer(plan);
    let params = string_of(1 << 20);
    for (name, status) in [("deaf", 3), ("closed", 4), ("child", 5)] {
        let answer = peer.ask(&format!(r#"{{"name":"{name}","params":{params}}}"#));
        assert_eq!(answer, format!(r#"{{"status":{status}}}"#), "{name}");
    }
    let left_behind = Watched::new(&said.line());
    assert!(left_behind.is_alive(), "it holds the other end of stdin and is let be");
}

// ---- Surroundings ----------------------------------------------------------------------------------------------

#[test]
fn a_script_finds_its_environment_and_none_of_the_daemons_secrets() {
    const SECRETS: [&str; 7] =
        ["WSDAEMON_PROXY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
    let mut plan = Daemon::server().script("sms/environment", "#!/bin/sh\nenv -0 > environment\n");
    for name in SECRETS {
        plan = plan.env(name, "1");
    }
    // As if a script of another daemon had started this one.
    let stale = ["WSDAEMON_RUN", "WSDAEMON_ID", "WSDAEMON_NAME", "WSDAEMON_PEER", "WSDAEMON_SOCKET", "WSDAEMON_DEADLINE"];
    for name in stale {
        plan = plan.env(name, "stale");
    }
    let (server, mut peer) = with_peer(plan.env("OF_THE_DAEMON", "a=b\nc"));

    assert_eq!(peer.ask(r#"{"name":"sms/environment","id":"caf\u00e9 1"}"#), r#"{"status":0,"id":"caf\u00e9 1"}"#);
    let found = environment(&server);
    let prefix = server.prefix().to_str().expect("the prefix is UTF-8");
    let socket = server.socket().to_str().expect("the prefix is UTF-8");
    let wanted = [
        ("WSDAEMON_ID", "café 1"),
        ("WSDAEMON_NAME", "sms/environment"),
        ("WSDAEMON_PREFIX", prefix),
        ("WSDAEMON_SOCKET", socket),
        ("OF_THE_DAEMON", "a=b\nc"),
    ];
    for (name, value) in wanted {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(found["WSDAEMON_PEER"].starts_with("127.0.0.1"), "{}", found["WSDAEMON_PEER"]);
    assert!(found["WSDAEMON_RUN"].len() == 36 && found["WSDAEMON_RUN"] != "stale", "{}", found["WSDAEMON_RUN"]);
    for name in SECRETS.iter().chain(&["WSDAEMON_DEADLINE"]) {
        assert!(!found.contains_key(*name), "{name} is not for scripts");
    }

    let first = found["WSDAEMON_RUN"].clone();
    assert_eq!(peer.ask(r#"{"name":"sms/environment","id":17}"#), r#"{"status":0,"id":17}"#);
    let found = environment(&server);
    assert_eq!(found["WSDAEMON_ID"], "17");
    assert_ne!(found["WSDAEMON_RUN"], first, "every run has its own");
    assert_eq!(peer.ask(r#"{"name":"sms/environment"}"#), r#"{"status":0}"#);
    assert!(!environment(&server).contains_key("WSDAEMON_ID"), "nobody gave an id");
    assert_eq!(peer.ask(r#"{"name":"sms/environment","id":"a\u0000b"}"#), r#"{"status":0,"id":"a\u0000b"}"#);
    assert!(!environment(&server).contains_key("WSDAEMON_ID"), "an environment cannot hold a NUL");
}

#[test]
fn a_script_has_its_own_group_default_signals_and_no_descriptors_but_three() {
    const LOOK: &str = "#!/bin/sh\nexec > seen/$1\necho $$\npwd -P\necho \"$0\"\ncat /proc/self/stat\n\
        grep ^Sig /proc/self/status\nreadlink /proc/self/fd/0\nexec ls -l /proc/self/fd\n";
    // As in proc(5): a bit for each signal.
    const SIGPIPE: u64 = 1 << (13 - 1);
    let mask = |lines: &[&str], kind: &str| {
        let digits = lines.iter().find_map(|line| line.strip_prefix(kind)).expect("as proc(5) has it");
        u64::from_str_radix(digits.trim(), 16).expect("as proc(5) has it")
    };
    // The daemon is started with three descriptors more, and from elsewhere.
    let careless = ["/bin/sh", "-c", "cd / && exec \"$@\" 5</dev/null 7>/dev/zero 9</etc/passwd", "sh"];
    let plan = Daemon::server().script("deep/look", LOOK).started_by(&careless);
    fs::create_dir(plan.prefix().join("seen")).expect("the prefix is ours to write");
    let (server, mut peer) = with_peer(plan);
    // A neighbour at the same time has descriptors of its own.
    peer.send_text(r#"{"name":"deep/look","id":1,"params":1}"#);
    peer.send_text(r#"{"name":"deep/look","id":2,"params":2}"#);
    assert_eq!([peer.status(), peer.status()].map(|status| status.replace('2', "1")), [r#"{"status":0,"id":1}"#; 2]);
    for run in ["1", "2"] {
        let seen = kept(&server, &format!("seen/{run}"));
        let lines: Vec<&str> = seen.lines().collect();
        let prefix = server.prefix().canonicalize().expect("it is there");
        assert_eq!(Path::new(lines[1]), prefix, "the working directory");
        assert_eq!(Path::new(lines[2]), server.prefix().join("scripts/deep/look"), "$0");
        let (_, stat) = lines[3].rsplit_once(") ").expect("as proc(5) has it");
        assert_eq!(stat.split(' ').nth(2), Some(lines[0]), "it leads its process group: {stat}");
        assert_eq!(mask(&lines, "SigBlk:"), 0, "no signal is held back");
        assert_eq!(mask(&lines, "SigIgn:") & SIGPIPE, 0, "SIGPIPE ends a script as it ends any program");
        assert!(lines.contains(&"/dev/null"), "stdin");
        let descriptors: BTreeSet<&str> =
            lines.iter().filter_map(|line| line.split_once(" -> ")?.0.split(' ').next_back()).collect();
        // The fourth is the folder that is being listed.
        assert_eq!(descriptors, BTreeSet::from(["0", "1", "2", "3"]), "{seen}");
        assert!(seen.contains("3 -> /proc/"), "{seen}");
    }
}

#[test]
fn a_script_may_open_as_many_files_as_the_daemon_could_before_it_let_in_more() {
    const LIMITS: &str = "#!/bin/sh\ncd \"$WSDAEMON_PREFIX\"\necho $(ulimit -Sn) $(ulimit -Hn) > limits\n";
    // The second one needs more than the hard limit that it is started with, and may raise that if it is root.
    for limits in ["200 20000", "200 300"] {
        let (soft, hard) = limits.split_once(' ').expect("two of them");
        let careful = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\"");
        let plan = Daemon::server().script("limits", LIMITS).config(json!({ "limits": { "connections": 1000 } }));
        let server = plan.started_by(&["/bin/sh", "-c", &careful, "sh"]).start();
        for life in 1..=2 {
            server.wait_log_times("local socket ready", life);
            let mut peer = Peer::dial(&server);
            assert_eq!(peer.ask(r#"{"name":"limits","id":1}"#), r#"{"status":0,"id":1}"#);
            assert_eq!(kept(&server, "limits").trim(), limits, "life {life}");
            // The next life raises it anew.
            server.connect().result("RESTART", &Value::Null);
        }
    }
}

// ---- Names -----------------------------------------------------------------------------------------------------

#[test]
fn names_lead_to_executable_files_beneath_scripts_and_nowhere_else() {
    let plan = Daemon::server().script("run", "#!/bin/sh\nexit 7\n").script("sms/send", "#!/bin/sh\nexit 8\n");
    let scripts = plan.prefix().join("scripts");
    fs::write(plan.prefix().join("outside"), "#!/bin/sh\ntouch owned\n").expect("the prefix is ours to write");
    fs::set_permissions(plan.prefix().join("outside"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::write(scripts.join("plain"), "#!/bin/sh\ntouch owned\n").expect("the prefix is ours to write");
    Fifo::new(&scripts, "pipe");
    fs::set_permissions(scripts.join("pipe"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let links = [
        ("out", "../outside"),
        ("out-absolute", "/bin/sh"),
        ("sms/out", "../../outside"),
        ("up", ".."),
        ("in", "sms/send"),
        ("in-folder", "sms"),
        ("circle", "circle"),
        ("dangling", "nothing"),
    ];
    for (link, target) in links {
        symlink(target, scripts.join(link)).expect("the prefix is ours to write");
    }
    symlink(scripts.join("run"), scripts.join("in-absolute")).expect("the prefix is ours to write");
    let (server, mut peer) = with_peer(plan);

    let long = "x".repeat(5_000);
    let refused = [
        ("", "not_found"),
        ("none", "not_found"),
        ("run/x", "not_found"),
        ("run/", "not_found"),
        ("dangling", "not_found"),
        (&*long, "not_found"),
        ("plain", "not_executable"),
        ("sms", "not_executable"),
        (".", "not_executable"),
        ("pipe", "not_executable"),
        ("..", "forbidden"),
        ("../outside", "forbidden"),
        ("sms/../run", "forbidden"),
        ("sms/../../outside", "forbidden"),
        ("/bin/sh", "forbidden"),
        ("//bin/sh", "forbidden"),
        ("out", "forbidden"),
        ("out-absolute", "forbidden"),
        ("sms/out", "forbidden"),
        ("up/outside", "forbidden"),
        ("circle", "forbidden"),
        ("run\0", "forbidden"),
        ("run\0/../../outside", "forbidden"),
    ];
    for (name, error) in refused {
        let answer = peer.ask(&json!({ "name": name, "id": 1 }).to_string());
        let found = failure(&answer);
        assert_eq!((found.0, found.1.as_str()), (-1, error), "{name:?}: {answer}");
        assert!(answer.starts_with(r#"{"status":-1,"id":1,"error":""#), "{answer}");
    }
    for (name, status) in [("run", 7), ("./run", 7), ("in-absolute", 7), ("sms/send", 8), ("in", 8), ("in-folder/send", 8)] {
        assert_eq!(peer.ask(&format!(r#"{{"name":"{name}"}}"#)), format!(r#"{{"status":{status}}}"#), "{name}");
    }
    assert!(!server.prefix().join("owned").exists(), "nothing else has run");
}

#[test]
fn an_unknown_script_is_told_to_the_asker_at_once_and_the_daemons_live() {
    let (server, client) = pair();
    client.script("run", "#!/bin/sh\nexit 7\n");
    let mut asker = server.connect();
    for (name, error) in [("none", "not_found"), ("", "not_found"), ("../../x", "forbidden")] {
        let answer = asker.ask(&format!(r#"{{"name":"{name}","id":"n"}}"#));
        assert!(answer.starts_with(&format!(r#"{{"status":-1,"id":"n","error":"{error}","message":""#)), "{answer}");
    }
    fs::set_permissions(client.prefix().join("scripts/run"), fs::Permissions::from_mode(0o644)).expect("it is ours");
    let answer = asker.ask(r#"{"name":"run","id":"n"}"#);
    let (_, error, message) = failure(&answer);
    assert_eq!(error, "not_executable");
    assert!(message.contains("chmod +x"), "it says what to do: {message}");
    fs::set_permissions(client.prefix().join("scripts/run"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert_eq!(asker.ask(r#"{"name":"run","id":"n"}"#), r#"{"status":7,"id":"n"}"#);
}

#[test]
fn the_folder_of_scripts_may_come_late_and_be_replaced_as_a_whole() {
    let (server, mut peer) = with_peer(Daemon::server());
    assert_eq!(failure(&peer.ask(r#"{"name":"run"}"#)).1, "not_found");
    server.script("run", "#!/bin/sh\nexit 1\n");
    assert_eq!(peer.ask(r#"{"name":"run"}"#), r#"{"status":1}"#);
    fs::rename(server.prefix().join("scripts"), server.prefix().join("old")).expect("both are ours");
    server.script("run", "#!/bin/sh\nexit 2\n");
    assert_eq!(peer.ask(r#"{"name":"run"}"#), r#"{"status":2}"#);
}

// ---- Starting and ending ---------------------------------------------------------------------------------------

#[test]
fn what_the_system_will_not_start_is_spawn_failed_and_says_why() {
    let plan = Daemon::server()
        .script("missing.php", "#!/nowhere/bin/php -q\n<?php\n")
        .script("windows.sh", "#!/bin/sh\r\nexit 0\r\n")
        .script("bare", "exit 0\n")
        .script("empty", "")
        .script("folder", "#!/bin\n");
    let (_server, mut peer) = with_peer(plan);
    let table = [
        ("missing.php", "needs /nowhere/bin/php, which is not installed here"),
        ("windows.sh", "has Windows line ends"),
        ("bare", "names no interpreter"),
        ("empty", "names no interpreter"),
        ("folder", "/bin"),
    ];
    for (name, expected) in table {
        let answer = peer.ask(&format!(r#"{{"name":"{name}","id":1}}"#));
        let (status, error, message) = failure(&answer);
        assert_eq!((status, error.as_str()), (-1, "spawn_failed"), "{answer}");
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn every_exit_status_comes_home() {
    let (server, client) = pair();
    client.script("exit", "#!/bin/sh\nexit $1\n");
    let mut asker = server.connect();
    let requests: Vec<String> = (0..256).map(|n| format!(r#"{{"name":"exit","id":{n},"params":{n}}}"#)).collect();
    asker.send(requests.concat());
    let answers: BTreeSet<String> = (0..256).map(|_| asker.line()).collect();
    assert_eq!(answers, (0..256).map(|n| format!(r#"{{"status":{n},"id":{n}}}"#)).collect());
}

#[test]
fn a_script_killed_by_a_signal_is_128_and_its_number_with_its_name() {
    let (server, client) = pair();
    client.script("kill", "#!/bin/sh\nulimit -c 0\nkill -$1 $$\n");
    let mut asker = server.connect();
    for (number, name) in [(1, "SIGHUP"), (6, "SIGABRT"), (9, "SIGKILL"), (11, "SIGSEGV"), (13, "SIGPIPE"), (15, "SIGTERM")] {
        let answer = asker.ask(&format!(r#"{{"name":"kill","id":"k","params":{number}}}"#));
        assert_eq!(answer, format!(r#"{{"status":{},"id":"k","signal":"{name}"}}"#, 128 + number));
    }
}

// ---- The line --------------------------------------------------------------------------------------------------

#[test]
fn so_many_runs_at_once_a_line_behind_and_busy_beyond() {
    let limits = json!({ "limits": { "runs": 2, "waiting": 3 } });
    let plan = Daemon::server().config(limits).script("gate", GATE).script("quick", "#!/bin/sh\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (_server, mut peer) = with_peer(plan);
    for n in 1..=6 {
        peer.send_text(&gate(n));
    }
    let answer = peer.status();
    assert!(answer.starts_with(r#"{"status":-1,"id":6,"error":"busy","message":""#), "{answer}");
    let mut running = BTreeSet::from([said.line(), said.line()]);
    assert_eq!(running, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    for next in 3..=5 {
        go.release(1);
        running.remove(&id(&peer.status()).to_string());
        assert_eq!(said.line(), next.to_string(), "the next in line");
        running.insert(next.to_string());
        assert_eq!(running.len(), 2);
    }
    // There is a place again, and what is refused takes none.
    peer.send_text(r#"{"name":"none","id":7}"#);
    go.release(2);
    let answers: BTreeSet<i64> = (0..3).map(|_| id(&peer.status())).collect();
    assert!(answers.contains(&7), "{answers:?}");
    assert_eq!(peer.ask(r#"{"name":"quick","id":8}"#), r#"{"status":0,"id":8}"#);
}

#[test]
fn runs_start_in_the_order_in_which_they_were_asked_for() {
    const RUNS: usize = 40;
    let plan = Daemon::server()
        .config(json!({ "limits": { "runs": 1 } }))
        .script("gate", GATE)
        .script("order", "#!/bin/sh\necho \"$1\" >> order\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (server, mut peer) = with_peer(plan);
    peer.send_text(&gate(0));
    said.line();
    for n in 0..RUNS {
        peer.send_text(&format!(r#"{{"name":"order","id":{n},"params":{n}}}"#));
    }
    go.release(1);
    for _ in 0..=RUNS {
        peer.status();
    }
    let order = kept(&server, "order");
    assert_eq!(order.lines().collect::<Vec<_>>(), (0..RUNS).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn peers_take_turns_at_the_slots_however_many_runs_one_of_them_has_in_line() {
    const RUNS: usize = 40;
    let plan = Daemon::server()
        .config(json!({ "limits": { "runs": 1 } }))
        .script("gate", GATE)
        .script("order", "#!/bin/sh\necho \"$1\" >> order\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (server, mut first) = with_peer(plan);
    let mut second = Peer::dial(&server);
    first.send_text(&gate(0));
    said.line();
    let ask = |peer: &mut Peer, runs: usize, name: &str, all: usize| {
        for n in 0..runs {
            peer.send_text(&format!(r#"{{"name":"order","id":{n},"params":"{name}{n}"}}"#));
        }
        wait_for("all to be in line", || server.connect().result("STATS", &Value::Null)["waiting"] == all);
    };
    ask(&mut first, RUNS, "a", RUNS);
    ask(&mut second, 3, "b", RUNS + 3);
    go.release(1);
    (0..=RUNS).for_each(|_| drop(first.status()));
    (0..3).for_each(|_| drop(second.status()));
    let mut order: Vec<String> = (3..RUNS).map(|n| format!("\"a{n}\"")).collect();
    let turns = ["a0", "b0", "a1", "b1", "a2", "b2"].map(|run| format!("\"{run}\""));
    order.splice(..0, turns);
    assert_eq!(kept(&server, "order").lines().collect::<Vec<_>>(), order);
}

#[test]
fn one_peer_leaves_others_room_in_line() {
    // Of 80 places behind the one that runs: 72 are not yet eight times the 8 that are left.
    const WAITING: usize = 80;
    const OF_ONE: usize = 72;
    let limits = json!({ "limits": { "runs": 1, "waiting": WAITING } });
    let plan = Daemon::server().config(limits).script("gate", GATE).script("quick", "#!/bin/sh\nexit 3\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (server, mut greedy) = with_peer(plan);
    let mut other = Peer::dial(&server);
    greedy.send_text(&gate(0));
    said.line();
    for n in 1..=WAITING {
        greedy.send_text(&format!(r#"{{"name":"quick","id":{n}}}"#));
    }
    for n in OF_ONE + 1..=WAITING {
        let answer = greedy.status();
        let busy = format!(r#"{{"status":-1,"id":{n},"error":"busy","message":"too many runs of this asker are waiting here;"#);
        assert!(answer.starts_with(&busy), "{answer}");
    }
    other.send_text(r#"{"name":"quick","id":1}"#);
    let waiting = || server.connect().result("STATS", &Value::Null)["waiting"].as_u64();
    wait_for("it to be in line", || waiting() == Some(OF_ONE as u64 + 1));
    go.release(1);
    assert_eq!(other.status(), r#"{"status":3,"id":1}"#);
    (0..=OF_ONE).for_each(|_| drop(greedy.status()));
}

#[test]
fn the_place_of_a_run_is_free_again_when_its_status_is_told() {
    const RUNS: usize = 300;
    let limits = json!({ "limits": { "runs": 1, "waiting": 0 } });
    let (_server, mut peer) = with_peer(Daemon::server().config(limits).script("quick", "#!/bin/sh\n"));
    for n in 0..RUNS {
        assert_eq!(peer.ask(&format!(r#"{{"name":"quick","id":{n}}}"#)), format!(r#"{{"status":0,"id":{n}}}"#));
    }
}

#[test]
fn params_that_wait_are_bounded_in_bytes() {
    let limits = json!({ "limits": { "runs": 1, "message": "1MiB", "waiting_bytes": "1MiB" } });
    let plan = Daemon::server().config(limits).script("gate", "#!/bin/sh\necho started > said\nread -r go < go\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (_server, mut peer) = with_peer(plan);
    let params = string_of(400_000);
    for n in 1..=3 {
        peer.send_text(&format!(r#"{{"name":"gate","id":{n},"params":{params}}}"#));
    }
    let answer = peer.status();
    assert!(answer.starts_with(r#"{"status":-1,"id":3,"error":"busy","#), "{answer}");
    go.release(2);
    assert_eq!([peer.status(), peer.status()], [r#"{"status":0,"id":1}"#, r#"{"status":0,"id":2}"#]);
    assert_eq!([said.line(), said.line()], ["started", "started"]);
}

// ---- Output and what is left behind ----------------------------------------------------------------------------

#[test]
fn a_loud_script_does_not_block_and_its_log_is_bounded() {
    const LOUD: &str = "#!/bin/sh\nhead -c 10000000 /dev/zero | tr '\\0' x\n\
        yes \"$(printf %0999d 0)\" | head -c 10000000 >&2\nexit 5\n";
    const LOGGED_BYTES: usize = 1 << 20;
    let plan = Daemon::server().script("loud", LOUD).script("last", "#!/bin/sh\nprintf 'a\\033[2Jb\\r\\nno newline'\n");
    let (server, mut peer) = with_peer(plan);
    assert_eq!(peer.ask(r#"{"name":"loud","id":"l"}"#), r#"{"status":5,"id":"l"}"#);
    assert_eq!(peer.ask(r#"{"name":"last"}"#), r#"{"status":0}"#);
    server.wait_log("no newline");

    let lines = server.log().lines("script output");
    let logged: usize = lines.iter().map(String::len).sum();
    assert!(logged < 2 * LOGGED_BYTES, "{logged} bytes of output were logged");
    assert!(lines.iter().all(|line| line.len() < 5_000), "no line is long");
    let cut = lines.iter().find(|line| line.contains("xxxx")).expect("the long line is logged");
    assert!(cut.contains("cut=true") && cut.contains("stream=\"stdout\""), "{cut}");
    assert_eq!(server.log().count("further output of this run is not logged"), 1, "it is said once, of stderr");
    let escaped = lines.iter().find(|line| line.contains("[2J")).expect("the line is logged");
    assert!(!escaped.contains('\u{1b}') && !escaped.contains('\r'), "what a script prints moves no cursor: {escaped:?}");
}

#[test]
fn what_a_script_leaves_in_the_background_delays_its_status_by_a_second_and_lives_on() {
    // Holds the script's pipes, prints on every word, and tells what came of that.
    const LEAVE: &str = "#!/bin/sh\n\
        (while read -r go < go; do echo noise || exit; echo noise >&2 || exit; echo printed > said; done) &\n\
        echo $! > said\nexit 4\n";
    let plan = Daemon::server().script("leave", LEAVE).script("quick", "#!/bin/sh\nexit 1\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (mut server, mut peer) = with_peer(plan);
    let asked = Instant::now();
    peer.send_text(r#"{"name":"leave","id":"l"}"#);
    let background = Watched::new(&said.line());
    peer.send_text(r#"{"name":"quick","id":"q"}"#);
    assert_eq!(peer.status(), r#"{"status":1,"id":"q"}"#, "nobody else waits");
    assert_eq!(peer.status(), r#"{"status":4,"id":"l"}"#);
    let took = asked.elapsed();
    assert!(took >= DRAIN && took < 8 * DRAIN, "the status took {took:?}");

    for round in 1..=3 {
        go.release(1);
        assert_eq!(said.line(), "printed", "it prints without harm");
        server.wait_log_times("noise", 2 * round);
    }
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait_exit(Duration::from_secs(15)).code(), Some(0));
    assert!(background.is_alive(), "what is left behind is let be, at shutdown too");
}

#[test]
fn a_status_is_told_when_what_was_printed_has_been_read() {
    const RUNS: usize = 20;
    let (server, mut peer) = with_peer(Daemon::server().script("print", "#!/bin/sh\nprintf 'last words'\n"));
    for _ in 0..RUNS {
        assert_eq!(peer.ask(r#"{"name":"print"}"#), r#"{"status":0}"#);
    }
    server.wait_log_times("run ended", RUNS);
    let told = server.log().lines("script=\"print\"");
    let told: Vec<bool> =
        told.iter().filter(|line| !line.contains("started")).map(|line| line.contains("last words")).collect();
    assert_eq!(told, [true, false].repeat(RUNS), "output first, then the end\n{}", server.log());
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// A daemon of the plan, with a scripted peer that asks it.
fn with_peer(plan: DaemonPlan) -> (Daemon, Peer) {
    let server = plan.start();
    let peer = Peer::dial(&server);
    (server, peer)
}

/// What a script has written into a file of the prefix.
fn kept(daemon: &Daemon, file: &str) -> String {
    fs::read_to_string(daemon.prefix().join(file)).unwrap_or_else(|error| panic!("{file}: {error}\n{}", daemon.log()))
}

fn environment(daemon: &Daemon) -> BTreeMap<String, String> {
    let text = kept(daemon, "environment");
    let pairs = text.split_terminator('\0').map(|pair| pair.split_once('=').expect("every variable has a value"));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A JSON string of so many bytes, quotes included.
fn string_of(bytes: usize) -> String {
    format!("\"{}\"", "p".repeat(bytes - 2))
}

fn gate(n: usize) -> String {
    format!(r#"{{"name":"gate","id":{n},"params":{n}}}"#)
}

/// Status, error and message of what failed.
fn failure(data: &str) -> (i64, String, String) {
    let found: Value = serde_json::from_str(data).expect("a status is JSON");
    let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (found["status"].as_i64().unwrap_or_else(|| panic!("no status in {data}")), word("error"), word("message"))
}

fn id(data: &str) -> i64 {
    let found: Value = serde_json::from_str(data).expect("a status is JSON");
    found["id"].as_i64().unwrap_or_else(|| panic!("no number as id in {data}"))
}
