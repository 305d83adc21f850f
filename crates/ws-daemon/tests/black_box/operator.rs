//! A person at work: the program's commands typed against real daemons, a server and its clients, with what each prints on which
//! stream, what it exits with, and what came of it. What a command makes of strange answers is in tools.rs.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, Fifo, Process, Ran, Watched, command, ran};

/// Prints on both streams, then exits as its params say.
const SAY: &str = "#!/bin/sh\necho \"out $1\"\necho \"err $1\" >&2\nexit ${1:-0}\n";

/// Prints a line, waits to be let on, prints another and fails.
const HOLD: &str = "#!/bin/sh\necho $$ > reached\necho begun\nread line < go\necho ended\nexit 3\n";

/// A client and the pipes of its `hold`.
struct Client {
    daemon: Daemon,
    reached: Fifo,
    go: Fifo,
}

/// A client of a name of its own, with its link up on both sides.
fn client(server: &Daemon, name: &str) -> Client {
    let links = server.log().count("link up");
    let daemon =
        Daemon::client(server).config(json!({ "name": name, "tags": ["web"] })).script("say", SAY).script("hold", HOLD);
    let (reached, go) = (Fifo::new(daemon.prefix(), "reached"), Fifo::new(daemon.prefix(), "go"));
    let daemon = daemon.start();
    daemon.wait_log("link up");
    server.wait_log_times("link up", links + 1);
    Client { daemon, reached, go }
}

/// A server with the clients web-1 and web-2.
fn fleet() -> (Daemon, Client, Client) {
    let server = Daemon::server().config(json!({ "name": "hub" })).start();
    let (first, second) = (client(&server, "web-1"), client(&server, "web-2"));
    (server, first, second)
}

fn words_at(daemon: &Daemon, words: &[&str]) -> std::process::Command {
    let mut command = command(words);
    command.env("WSDAEMON_PREFIX", daemon.prefix());
    command
}

/// What `words` come to on the machine of `daemon`.
#[track_caller]
fn typed(daemon: &Daemon, words: &[&str]) -> Ran {
    ran(words_at(daemon, words), "")
}

/// What `words` print; they must go well and say nothing else.
#[track_caller]
fn printed(daemon: &Daemon, words: &[&str]) -> String {
    let ran = typed(daemon, words);
    assert_eq!((ran.code, &*ran.err), (0, ""), "{words:?}: {ran:?}");
    ran.out
}

/// The JSON lines that `words` print.
#[track_caller]
fn records(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let printed = printed(daemon, words);
    printed.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Exit status, stdout and stderr.
fn all(ran: &Ran) -> (i32, &str, &str) {
    (ran.code, &ran.out, &ran.err)
}

/// `words` in the background, both streams in its log.
fn typing(daemon: &Daemon, words: &[&str]) -> Process {
    Process::start(words[0], words_at(daemon, words))
}

/// The exit status that a command in the background ends with.
#[track_caller]
fn ended(mut process: Process) -> Option<i32> {
    process.wait_exit(DEADLINE).code()
}

/// A queued run without anybody who waits for it.
#[track_caller]
fn detached(daemon: &Daemon, words: &[&str]) -> String {
    printed(daemon, &[&["exec", "--detach"], words].concat()).trim_end().to_owned()
}

#[test]
fn a_queued_run_for_an_absent_peer_is_listed_shown_cancelled_and_waited_for() {
    let (server, _first, _second) = fleet();
    let ran = typed(&server, &["exec", "say", "0", "--to", "web9", "--queue", "--ttl", "1h", "--detach"]);
    assert_eq!((ran.code, &*ran.err), (0, "ws-daemon: no peer of that name was ever seen; did you mean web-1?\n"));
    let run = ran.out.trim_end();
    let listed = printed(&server, &["runs", "--state", "waiting"]);
    let [_, row] = listed.lines().collect::<Vec<_>>()[..] else { panic!("{listed}") };
    assert!(row.starts_with(run) && row.contains("say") && row.contains("waiting"), "{listed}");
    assert_eq!(all(&typed(&server, &["runs", "--state", "running"])), (0, "", "ws-daemon: there are none\n"));
    let shown = printed(&server, &["show", run]);
    assert!(shown.contains("state   waiting\n") && shown.contains("queued  on disk\n"), "{shown}");
    let waiting = typing(&server, &["wait", run]);
    assert_eq!(printed(&server, &["cancel", run]), format!("{run} is told to stop\n"));
    let why = format!("ws-daemon: {run}: cancelled: cancelled before it was given to anyone; it did not run");
    waiting.log().wait(&why);
    assert_eq!(ended(waiting), Some(125));
    assert_eq!(all(&typed(&server, &["wait", run])), (125, "", &*format!("{why}\n")));
    assert!(printed(&server, &["show", run]).contains("outcome  cancelled: "));
    let over = "ws-daemon: unknown_target: it is over already: there is nothing to stop\n";
    assert_eq!(all(&typed(&server, &["cancel", run])), (66, "", over));
    let [record] = &records(&server, &["runs", "--json", "--limit", "1"])[..] else { panic!("one is asked for") };
    assert_eq!((&record["run"], &record["error"]), (&json!(run), &json!("cancelled")), "{record}");
    for command in ["show", "wait", "logs", "cancel"] {
        let ran = typed(&server, &[command, "nonsense"]);
        assert_eq!((ran.code, &*ran.out), (66, ""), "{command}");
        assert!(ran.err.contains("no such run \"nonsense\""), "{command}: {}", ran.err);
    }
}

#[test]
fn a_ttl_that_is_over_is_no_success() {
    let (server, _first, _second) = fleet();
    let ran = typed(&server, &["exec", "say", "0", "--to", "web-9", "--ttl", "200ms"]);
    assert_eq!((ran.code, &*ran.out), (69, ""));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[0].starts_with("ws-daemon: accepted as ") && lines[1].contains("did you mean web-1?"), "{ran:?}");
    assert!(lines[2].starts_with("ws-daemon: say: expired: ") && lines[2].ends_with("it did not run"), "{ran:?}");
}

#[test]
fn exec_that_follows_prints_what_the_script_prints_while_it_runs_and_exits_as_it_does() {
    let (server, mut first, _second) = fleet();
    let following = typing(&server, &["exec", "hold", "--to", "web-1", "--follow"]);
    following.log().wait("begun");
    assert_eq!(following.log().count("ended"), 0);
    first.go.release(1);
    following.log().wait("ended");
    assert_eq!(ended(following), Some(3));
    assert_eq!(all(&typed(&server, &["exec", "say", "4", "--follow"])), (4, "out 4\n", "err 4\n"));
    assert_eq!(all(&typed(&server, &["exec", "say", "0", "--follow"])), (0, "out 0\n", "err 0\n"));
    let lines = typed(&server, &["exec", "say", "5", "--follow", "--json"]);
    let last: Value = serde_json::from_str(lines.out.lines().last().expect("a final line")).expect("JSON");
    assert_eq!(
        (lines.code, &last["status"], lines.out.matches("\"event\":\"output\"").count()),
        (5, &json!(5), 2),
        "{lines:?}"
    );
}

#[test]
fn logs_follow_a_run_to_its_end_and_tell_it_again_from_anywhere() {
    let (server, mut first, _second) = fleet();
    let asking = typing(&server, &["exec", "hold", "--to", "web-1", "--queue", "--follow"]);
    asking.log().wait("begun");
    let running = records(&server, &["runs", "--state", "running", "--json"]);
    let [record] = &running[..] else { panic!("{running:?}") };
    let run = record["run"].as_str().expect("a run's id");
    assert_eq!((&record["peer"], &record["queued"]), (&json!("web-1"), &json!(true)), "{record}");
    assert_eq!(printed(&server, &["logs", run]), "begun\n", "so far");
    let (following, waiting) = (typing(&server, &["logs", run, "-f"]), typing(&server, &["wait", run]));
    following.log().wait("begun");
    first.go.release(1);
    following.log().wait("ended");
    assert_eq!((ended(following), ended(waiting), ended(asking)), (Some(0), Some(3), Some(3)));
    assert_eq!(printed(&server, &["logs", run]), "begun\nended\n");
    assert_eq!(printed(&server, &["logs", run, "--from", "6", "--stream", "stdout"]), "ended\n");
    let shown = printed(&server, &["show", run]);
    for row in ["peer      web-1\n", "output    12 B of stdout, by: ws-daemon logs RUN\n", "outcome   exit status 3\n"] {
        assert!(shown.contains(row), "{shown}");
    }
    let lines = records(&server, &["logs", run, "--json"]);
    assert_eq!((&lines[0]["data"], &lines[1]["status"]), (&json!("begun\nended\n"), &json!(3)), "{lines:?}");
    let none = typed(&server, &["logs", run, "--stream", "stderr"]);
    assert!(none.code == 0 && none.out.is_empty() && none.err.contains("nothing is kept of what it printed"), "{none:?}");
    // Where it is done it is listed too.
    let listed = printed(&first.daemon, &["runs"]);
    let [heading, row] = listed.lines().collect::<Vec<_>>()[..] else { panic!("{listed}") };
    assert!(heading.ends_with("SIDE") && row.starts_with(run) && row.ends_with("to here"), "{listed}");
    assert!(printed(&first.daemon, &["show", run]).contains("side      run here\n"));
    let elsewhere = typed(&first.daemon, &["wait", run]);
    assert_eq!(elsewhere.code, 66);
    assert!(elsewhere.err.contains("it was asked for by \"hub\""), "{elsewhere:?}");
    // Of one that is not on disk there is nothing but how it ends, and that can be waited for.
    let asking = typing(&server, &["exec", "hold", "--to", "web-1", "--output", "tail"]);
    first.reached.line();
    first.reached.line();
    let running = records(&server, &["runs", "--state", "running", "--json"]);
    let direct = running[0]["run"].as_str().expect("a run's id");
    let waiting = typing(&server, &["wait", direct]);
    first.go.release(1);
    assert_eq!((ended(waiting), ended(asking)), (Some(3), Some(3)));
    assert!(typed(&server, &["logs", direct]).err.contains("exec --queue --follow"));
    assert!(printed(&server, &["show", direct]).contains("stdout:\nbegun\nended\n"));
}

#[test]
fn each_runs_everywhere_so_many_at_a_time_until_too_many_have_failed() {
    let (server, mut first, mut second) = fleet();
    let ran = typed(&server, &["exec", "say", "6", "--each", "--to", "tag:web", "--output", "tail"]);
    let out: BTreeSet<&str> = ran.out.lines().collect();
    assert_eq!((ran.code, out), (6, BTreeSet::from(["web-1 | out 6", "web-2 | out 6"])), "{ran:?}");
    assert!(ran.err.contains("web-2: exit status 6") && ran.err.ends_with("ws-daemon: 2 done, 2 failed\n"), "{ran:?}");
    assert_eq!(all(&typed(&server, &["exec", "say", "0", "--each", "--to", "*"])), (0, "", "ws-daemon: 2 done, 0 failed\n"));
    let running = || records(&server, &["runs", "--state", "running", "--json"]);
    let asking = typing(&server, &["exec", "hold", "--each", "--to", "web-*", "--batch", "1"]);
    for client in [&mut first, &mut second] {
        client.reached.line();
        assert_eq!(running().len(), 1);
        client.go.release(1);
    }
    asking.log().wait("2 done, 2 failed");
    assert_eq!(ended(asking), Some(3));
    for (queue, said) in [(&[][..], "max_failures is 1; this one was not started"), (&["--queue"], "it did not run")] {
        let braked = ["exec", "hold", "--each", "--to", "web-*", "--batch", "1", "--max-failures", "1"];
        let asking = typing(&server, &[&braked[..], queue].concat());
        first.reached.line();
        first.go.release(1);
        asking.log().wait(said);
        assert_eq!(ended(asking), Some(3));
    }
    let ran = typed(&server, &["exec", "say", "--each", "--to", "mail-*"]);
    assert_eq!((ran.code, &*ran.out), (69, ""), "{ran:?}");
}

#[test]
fn a_timeout_stops_the_script_and_cancel_does() {
    let (server, mut first, _second) = fleet();
    let ran = typed(&server, &["exec", "hold", "--to", "web-1", "--timeout", "300ms", "--follow"]);
    let script = first.reached.line();
    assert_eq!((ran.code, &*ran.out), (124, "begun\n"));
    assert!(ran.err.starts_with("ws-daemon: hold: timed_out: "), "{ran:?}");
    assert!(rustix::process::test_kill_process(pid(&script)).is_err(), "it is gone");
    let run = detached(&server, &["hold", "--to", "web-1"]);
    let script = Watched::new(&first.reached.line());
    printed(&server, &["cancel", &run]);
    let ran = typed(&server, &["wait", &run]);
    assert!(ran.code == 125 && ran.out.is_empty() && ran.err.contains("cancelled"), "{ran:?}");
    script.wait_end();
}

fn pid(text: &str) -> rustix::process::Pid {
    text.parse().ok().and_then(rustix::process::Pid::from_raw).unwrap_or_else(|| panic!("{text:?} is no process"))
}

#[test]
fn output_is_the_scripts_json_or_its_tail_and_a_failure_never_exits_with_0() {
    let (server, first, second) = fleet();
    for client in [&first, &second] {
        client.daemon.script("json", "#!/bin/sh\necho '{\"a\" : 1.50}'\necho note >&2\n");
    }
    assert_eq!(all(&typed(&server, &["exec", "json", "--output", "json"])), (0, "{\"a\":1.50}\n", ""));
    assert_eq!(all(&typed(&server, &["exec", "json", "--output", "tail"])), (0, "{\"a\" : 1.50}\n", "note\n"));
    let both = typed(&server, &["exec", "json", "--each", "--to", "*", "--output", "json"]);
    let results: BTreeSet<&str> = both.out.lines().collect();
    let expected = ["{\"peer\":\"web-1\",\"result\":{\"a\":1.50}}", "{\"peer\":\"web-2\",\"result\":{\"a\":1.50}}"];
    assert_eq!((both.code, results), (0, BTreeSet::from(expected)));
    let none = typed(&server, &["exec", "say", "0", "--output", "json"]);
    assert!(none.code == 65 && none.err.contains("is not one JSON value"), "{none:?}");
    let table: [(&[&str], i32, &str); 8] = [
        (&["say", "9"], 9, ""),
        (&["say", "9", "--to", "web-2", "--output", "json"], 9, "err 9\n"),
        (&["nowhere"], 127, "ws-daemon: nowhere: not_found: "),
        (&["../say"], 126, "ws-daemon: ../say: forbidden: "),
        (&["say", "--to", "web_1"], 69, "did you mean \"web-1\"?"),
        (&["say", "--to", "tag:mail"], 69, "ws-daemon: say: no_peer: "),
        (&["say", "--to", "*"], 65, "\"each\":true"),
        (&["say", "{1}"], 65, "the params are not JSON"),
    ];
    for (words, code, said) in table {
        let ran = typed(&server, &[&["exec"], words].concat());
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
        assert!(ran.err.contains(said), "{words:?}: {ran:?}");
    }
}

#[test]
fn peers_ping_and_scripts_tell_who_is_there_how_far_away_and_what_may_run() {
    let (server, first, second) = fleet();
    second.daemon.signal(Signal::TERM);
    server.wait_log("link down");
    let table = printed(&server, &["peers"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().take(2).collect()).collect();
    assert_eq!(rows, [["NAME", "STATE"], ["web-1", "connected"], ["web-2", "absent"]], "{table}");
    let peers = records(&server, &["peers", "--json"]);
    let brief: Vec<Value> = peers.iter().map(|peer| json!([peer["name"], peer["connected"], peer["tags"]])).collect();
    assert_eq!(brief, [json!(["web-1", true, ["web"]]), json!(["web-2", false, ["web"]])]);
    let [name, time, unit] =
        &printed(&server, &["ping", "web-1"]).split_whitespace().map(str::to_owned).collect::<Vec<_>>()[..]
    else {
        panic!("three words")
    };
    assert!(name == "web-1" && time.parse::<f64>().is_ok() && unit.ends_with('s'), "{time} {unit}");
    assert!(printed(&server, &["ping", "web-1", "--count", "3"]).contains("web-1: 3 answers, min "));
    let pong = &records(&server, &["ping", "web-1", "--json"])[0];
    assert_eq!((&pong["peer"], &pong["status"]), (&json!("web-1"), &json!(0)), "{pong}");
    for (target, said) in [
        ("wbe-1", "ws-daemon: wbe-1: unknown_target: no peer of that name was ever seen here; did you mean \"web-1\"?\n"),
        ("web-2", "ws-daemon: web-2: no_peer: it is not connected now\n"),
        ("tag:mail", "ws-daemon: nobody is there who could answer\n"),
    ] {
        assert_eq!(all(&typed(&server, &["ping", target])), (69, "", said));
    }
    let everyone = typed(&server, &["ping"]);
    assert!(
        everyone.code == 69 && everyone.out.starts_with("web-1  ") && everyone.err.contains("web-2: no_peer"),
        "{everyone:?}"
    );
    let scripts = printed(&first.daemon, &["scripts"]);
    let rows: Vec<Vec<&str>> = scripts.lines().skip(1).map(|row| row.split_whitespace().take(2).collect()).collect();
    assert_eq!(rows, [["hold", "yes"], ["say", "yes"]], "{scripts}");
    assert_eq!(records(&first.daemon, &["scripts", "--json"])[1]["name"], "say");
    assert_eq!(all(&typed(&server, &["scripts"])), (0, "", "ws-daemon: there are no scripts here\n"));
}

#[test]
fn events_tell_of_a_pause_and_of_runs_as_it_happens() {
    let (server, first, _second) = fleet();
    let (people, programs) = (typing(&server, &["events"]), typing(&server, &["events", "peers", "--json"]));
    // Both have subscribed when they hear this.
    let heard = |process: &Process| {
        while process.log().count("peer-o") == 0 {
            let pause = typed(&first.daemon, &["pause", "10ms"]);
            assert_eq!(all(&pause), (0, "the link is closed for 10ms\n", ""));
            server.wait_log_times("link up", server.log().count("link down") + 2);
        }
    };
    heard(&people);
    heard(&programs);
    people.log().wait("peer-online  peer=web-1  ");
    programs.log().wait("\"event\":\"peer-online\"");
    let run = detached(&server, &["say", "8", "--to", "web-2"]);
    people.log().wait(&format!("running     peer=web-2  name=say  run={run}"));
    people.log().wait(&format!("settled     run={run}  peer=web-2  exit status 8"));
    assert_eq!(programs.log().count(&run), 0, "it wants to hear of peers");
    let refused = typed(&server, &["pause", "1s"]);
    assert_eq!((refused.code, &*refused.out), (65, ""));
    assert!(refused.err.contains("PAUSE works on a client"), "{refused:?}");
    drop(server);
    people.log().wait("ws-daemon: the daemon closed the connection");
    assert_eq!((ended(people), ended(programs)), (Some(69), Some(69)));
}
