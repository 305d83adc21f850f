//! Copies of a script that are kept running: what one is asked and answers, how many there are and when they are replaced, what each way
//! to fail costs whom, and that all limits and rules of a script hold for them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, Fifo, Local, Peer, Watched, assert_failed, need_root, pair, wait_for};

/// A worker in sh that does `body` for each line, and finds the line's parts in `$id`, `$name` and `$params`.
fn worker(body: &str) -> String {
    let said = [
        r#"answer() { printf '{"id":"%s","status":%s}\n' "$id" "$1"; }"#,
        r#"result() { printf '{"id":"%s","status":0,"result":%s}\n' "$id" "$1"; }"#,
        "echo $$ >> started",
        "while IFS= read -r line; do",
        r#"id=${line#*\"id\":\"}; id=${id%%\"*}"#,
        r#"params=${line#*,\"params\":}; params=${params%%,\"peer\":*}"#,
        body,
        "done",
    ];
    format!("#!/bin/sh\n{}\necho $$ >> ended\n", said.join("\n"))
}

/// Writes the contract of a script, whole when it appears.
fn contract(daemon: &Daemon, script: &str, contract: &Value) {
    let draft = daemon.prefix().join("contract.draft");
    fs::write(&draft, contract.to_string()).expect("the prefix is ours to write");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).expect("the draft is ours");
    fs::rename(&draft, daemon.prefix().join("scripts").join(format!("{script}.json"))).expect("both names are in one folder");
}

/// A server whose script `w` is a worker, kept so; and a client that asks for it.
fn kept(worker: &str, terms: &Value) -> (Daemon, Daemon) {
    let (server, client) = pair();
    server.script("w", worker);
    contract(&server, "w", terms);
    (server, client)
}

/// What a request comes to, in its result.
#[track_caller]
fn result(asker: &mut Local, params: &Value) -> Value {
    let (_, mut last) = asker.run(&json!({ "name": "w", "id": 1, "params": params, "output": "json" }));
    assert_eq!(last["status"], 0, "{last}");
    last["result"].take()
}

fn lines(daemon: &Daemon, file: &str) -> Vec<String> {
    let text = fs::read_to_string(daemon.prefix().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Its error and its message, of a final line.
#[track_caller]
fn failed(last: &Value, status: i64, error: &str) -> String {
    assert_eq!((&last["status"], &last["error"]), (&status.into(), &error.into()), "{last}");
    last["message"].as_str().expect("words").to_owned()
}

// ---- What is asked and answered ----------------------------------------------------------------------------------

#[test]
fn one_copy_answers_request_after_request() {
    let (server, client) = kept(
        &worker(
            r#"case $params in 7) answer 7;; *) result "[$$,\"$WSDAEMON_WORKER\",\"$WSDAEMON_NAME\",$#,\"$WSDAEMON_RUN\",\"$PWD\"]";; esac"#,
        ),
        &json!({ "worker": {} }),
    );
    let mut asker = client.connect();
    let first = result(&mut asker, &json!(1));
    for number in 0..20 {
        assert_eq!(result(&mut asker, &json!(number + 10)), first);
    }
    let prefix = server.prefix().canonicalize().expect("there").display().to_string();
    assert_eq!(first.as_array().expect("a list")[1..], [json!("1"), json!("w"), json!(0), json!(""), json!(prefix)]);
    assert_eq!(lines(&server, "started").len(), 1);
    // In the seed's own grammar there is nothing but the status, whoever asks.
    assert_eq!(asker.ask(r#"{"name":"w","id":"x","params":7}"#), r#"{"status":7,"id":"x"}"#);
    let mut seed = Peer::dial(&server);
    assert_eq!(seed.ask(r#"{"name":"w","id":5,"params":7}"#), r#"{"status":7,"id":5}"#);
    assert_eq!(lines(&server, "started").len(), 1);
}

#[test]
fn a_line_has_what_there_is_of_a_request_and_no_newline() {
    let (_server, client) =
        kept(&worker(r#"printf '{"id":"%s","status":0,"result":%s}\n' "$id" "$line""#), &json!({ "worker": {} }));
    let mut asker = client.connect();
    let (_, said) = asker.run(&json!({ "name": "w", "params": 1, "output": "json" }));
    let line = said["result"].as_object().expect("a line");
    assert_eq!(line.keys().collect::<Vec<_>>(), ["id", "name", "params", "peer"].iter().collect::<Vec<_>>());
    assert_eq!((&line["id"], &line["name"]), (&said["run"], &json!("w")));
    asker.send(
        "{\"name\":\"w\",\"id\":{\"a\":[1.50]},\"output\":\"json\",\"timeout\":\"1h\",\"request_id\":\"q-1\",\"event\":\"push\",\n\
         \"traceparent\":\"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\",\"params\":{ \"x\" :\n 1.0 }}",
    );
    let raw = asker.line();
    let (_, line) = raw.split_once("\"result\":").expect("a result");
    assert!(
        line.contains(r#""name":"w","params":{"x":1.0},"peer":"#) && line.contains(r#""caller":{"a":[1.50]},"deadline":"#),
        "{raw}"
    );
    let line: Value = serde_json::from_str(&line[..=line.find("},\"stderr\"").expect("the end")]).expect("JSON");
    assert!(line["deadline"].as_f64().is_some_and(|at| at > 1.7e9), "{line}");
    assert_eq!((&line["request_id"], &line["event"]), (&json!("q-1"), &json!("push")));
    assert!(line["traceparent"].as_str().is_some_and(|text| text.starts_with("00-4bf9")), "{line}");
}

#[test]
fn what_an_answer_says_was_printed_comes_as_if_a_script_had_printed_it() {
    let says = worker(
        r#"case $params in
        1) result '{"a": 1.0}';;
        2) printf '{"id":"%s","status":3,"stdout":"out\\n","stderr":"trouble\\n","message":"so it is","more":[1]}\n' "$id";;
        3) printf '{"id":"%s","event":"output","stream":"stdout","data":"one\\n"}\n' "$id"
           printf '{"id":"%s","event":"output","stream":"stderr","data":"/w==","encoding":"base64"}\n' "$id"
           result '[2]';;
        esac"#,
    );
    let (_server, client) = kept(&says, &json!({ "worker": {} }));
    let mut asker = client.connect();
    let mut ask = |params: i64, output: &str| {
        let (events, mut last) = asker.run(&json!({ "name": "w", "params": params, "output": output }));
        for key in ["run", "peer", "ms"] {
            assert!(last.as_object_mut().expect("an object").remove(key).is_some(), "{last}");
        }
        let events = events.iter().map(|event| json!([event["stream"], event["data"], event["encoding"]])).collect::<Vec<_>>();
        (events, last)
    };
    assert_eq!(ask(1, "json").1, json!({ "status": 0, "result": {"a": 1.0}, "stderr": "" }));
    assert_eq!(ask(1, "tail").1, json!({ "status": 0, "stdout": "{\"a\": 1.0}\n", "stderr": "" }));
    assert_eq!(ask(1, "stream"), (vec![json!(["stdout", "{\"a\": 1.0}\n", null])], json!({ "status": 0 })));
    let tail = json!({ "status": 3, "message": "so it is", "stdout": "out\n", "stderr": "trouble\n" });
    assert_eq!(ask(2, "tail").1, tail);
    let (_, last) = ask(2, "json");
    assert_eq!((&last["status"], &last["message"], &last["stdout"]), (&json!(3), &json!("so it is"), &json!("out\n")));
    assert_eq!(ask(3, "tail").1["stdout"], "one\n[2]\n");
    let (events, last) = ask(3, "stream");
    assert_eq!(last, json!({ "status": 0 }));
    let said: String =
        events.iter().filter(|event| event[0] == "stdout").map(|event| event[1].as_str().expect("text")).collect();
    assert_eq!(said, "one\n[2]\n");
    assert!(events.contains(&json!(["stderr", "/w==", "base64"])), "{events:?}");
    // Whoever asked in the seed's grammar hears nothing of it.
    assert_eq!(asker.ask(r#"{"name":"w","id":1,"params":2}"#), r#"{"status":3,"id":1}"#);
}

#[test]
fn output_is_told_while_the_worker_works_and_no_more_of_it_than_the_contract_lets_be() {
    let says = worker(
        r#"printf '{"id":"%s","event":"output","stream":"stdout","data":"now"}\n' "$id"
        read -r _ < go
        printf '{"id":"%s","status":0,"stdout":"0123456789"}\n' "$id""#,
    );
    let (server, client) = kept(&says, &json!({ "worker": {}, "output": 8 }));
    let mut go = Fifo::new(server.prefix(), "go");
    let mut asker = client.connect();
    asker.send(r#"{"name":"w","id":1,"output":"stream"}"#);
    assert_eq!(asker.said()["data"], "now");
    go.release(1);
    let (events, last) = asker.rest();
    assert_eq!((&events[0]["data"], &last["status"]), (&json!("01234"), &json!(0)), "{events:?}");
    assert_eq!((&events[1]["gap"], &events[1]["data"]), (&json!(5), &json!("")), "{events:?}");
}

#[test]
fn a_reader_that_keeps_up_misses_nothing_of_much_output() {
    let says = worker(
        r#"data=$(head -c 32000 /dev/zero | tr '\0' x)
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
            printf '{"id":"%s","event":"output","stream":"stdout","data":"%s"}\n' "$id" "$data"
        done
        answer 0"#,
    );
    let (_server, client) = kept(&says, &json!({ "worker": {} }));
    let (events, last) = client.connect().run(&json!({ "name": "w", "output": "stream" }));
    assert_eq!((&last["status"], &last["cut"]), (&json!(0), &json!(null)));
    assert!(events.iter().all(|event| event["gap"].is_null()), "{last}");
    let told: usize = events.iter().map(|event| event["data"].as_str().expect("text").len()).sum();
    assert_eq!(told, 30 * 32_000);
}

#[test]
fn all_names_of_a_script_have_the_same_copies_and_a_line_says_which_it_was() {
    let (server, client) = kept(
        &worker("name=${line#*,\\\"name\\\":}; result \"[$$,${name%%,*},\\\"$WSDAEMON_NAME\\\"]\""),
        &json!({ "worker": {} }),
    );
    symlink("w", server.prefix().join("scripts/alias")).expect("ours to write");
    let mut asker = client.connect();
    let by_name = result(&mut asker, &json!(1));
    let (_, last) = asker.run(&json!({ "name": "alias", "output": "json" }));
    assert_eq!(last["result"], json!([by_name[0], "alias", "w"]), "{last}");
    assert_eq!((&by_name[1], lines(&server, "started").len()), (&json!("w"), 1));
}

// ---- How many there are --------------------------------------------------------------------------------------------

/// Answers with its own number when it is let go on.
const WAITS: &str = r#"echo "$params" > begun; read -r _ < go; result $$"#;

#[test]
fn as_many_copies_as_are_wanted_and_may_be_and_a_free_one_before_another() {
    let (server, client) = kept(&worker(WAITS), &json!({ "worker": { "processes": 2 } }));
    let (mut begun, mut go) = (Fifo::new(server.prefix(), "begun"), Fifo::new(server.prefix(), "go"));
    let mut asker = client.connect();
    let request = |id: i64| json!({ "name": "w", "id": id, "params": id, "output": "json" }).to_string();
    let mut pids = Vec::new();
    for id in 0..3 {
        asker.send(request(id));
        begun.line();
        go.release(1);
        pids.push(asker.said()["result"].clone());
    }
    assert!(pids.iter().all(|pid| *pid == pids[0]), "a free copy was passed over: {pids:?}");
    for id in 3..6 {
        asker.send(request(id));
    }
    let first = [begun.line(), begun.line()];
    assert!(first.iter().all(|id| ["3", "4"].contains(&&**id)), "{first:?}");
    wait_for("the third to be in line", || server.connect().result("STATS", &json!(null))["waiting"] == 1);
    go.release(3);
    let answers: Vec<Value> = (0..3).map(|_| asker.said()).collect();
    assert!(answers.iter().all(|answer| answer["status"] == 0), "{answers:?}");
    assert_eq!(lines(&server, "started").len(), 2);
    // What the contract says of all its runs holds for those too.
    contract(&server, "w", &json!({ "worker": { "processes": 2 }, "at_once": 1 }));
    assert_eq!(server.connect().result("SCRIPTS", &json!(null))[0]["contract"]["at_once"], 1);
    asker.send(request(7));
    begun.line();
    asker.send(request(8));
    wait_for("the second to be in line", || server.connect().result("STATS", &json!(null))["waiting"] == 1);
    go.release(2);
    assert_eq!([asker.said(), asker.said()].map(|answer| answer["id"].clone()), [json!(7), json!(8)]);
}

#[test]
fn one_copy_holds_as_many_requests_as_it_is_ready_for() {
    let answers_in_threes = worker(
        r#"held="$held $id"; set -- $held
        if [ $# -eq 3 ]; then held=; for id in "$3" "$1" "$2"; do result "\"$id\""; done; fi"#,
    );
    let (server, client) = kept(&answers_in_threes, &json!({ "worker": { "ready": 3 } }));
    let mut asker = client.connect();
    for round in 0..3 {
        (0..3).for_each(|id| asker.send(json!({ "name": "w", "id": id, "params": round, "output": "json" }).to_string()));
        let answers: Vec<Value> = (0..3).map(|_| asker.said()).collect();
        for answer in &answers {
            assert_eq!((&answer["status"], &answer["result"]), (&json!(0), &answer["run"]), "{answer}");
        }
        assert_eq!(answers[0]["id"], 2, "in the order in which they were answered");
    }
    assert_eq!(lines(&server, "started").len(), 1);
}

#[test]
fn a_copy_is_replaced_when_it_was_asked_as_often_as_it_may_be() {
    let (server, client) = kept(&worker("result $$"), &json!({ "worker": { "max_requests": 3 } }));
    let mut asker = client.connect();
    let pids: Vec<String> = (0..10).map(|number| result(&mut asker, &json!(number)).to_string()).collect();
    for pid in &pids {
        assert!(pids.iter().filter(|other| *other == pid).count() <= 3, "{pids:?}");
    }
    wait_for("those that were replaced to end", || lines(&server, "ended").len() >= 3);
    assert!(lines(&server, "started").len() <= 5, "{pids:?}");
    assert!(lines(&server, "ended").iter().all(|pid| pids.contains(pid)), "one ended that was never asked");
}

#[test]
fn a_copy_that_has_nothing_to_do_ends_when_that_is_wanted_and_comes_back() {
    let (server, client) = kept(&worker("result $$"), &json!({ "worker": { "idle": "100ms" } }));
    let mut asker = client.connect();
    let first = result(&mut asker, &json!(1));
    wait_for("it to end", || lines(&server, "ended") == [first.to_string()]);
    assert_ne!(result(&mut asker, &json!(2)), first);
}

#[test]
fn a_changed_script_or_contract_is_what_is_asked_next_and_without_the_key_it_is_a_plain_script() {
    let (server, client) = kept(&worker("result '\"old\"'"), &json!({ "worker": {} }));
    let mut asker = client.connect();
    assert_eq!(result(&mut asker, &json!(1)), "old");
    server.script("w", &worker("result \"[$$,\\\"$LANG\\\"]\""));
    let asked = |asker: &mut Local, holds: &dyn Fn(&Value) -> bool| {
        let until = std::time::Instant::now() + DEADLINE;
        loop {
            let found = result(asker, &json!(2));
            if holds(&found) {
                return found;
            }
            assert!(std::time::Instant::now() < until, "{found}");
        }
    };
    let new = asked(&mut asker, &|found| *found != "old");
    wait_for("the old one to end", || lines(&server, "ended").len() == 1);
    contract(&server, "w", &json!({ "worker": {}, "environment": [] }));
    let other = asked(&mut asker, &|found| *found != new);
    assert_eq!(other[1], "");
    wait_for("both to have ended", || lines(&server, "ended").len() == 2);
    fs::remove_file(server.prefix().join("scripts/w.json")).expect("there");
    server.script("w", "#!/bin/sh\necho '\"plain\"'\n");
    asked(&mut asker, &|found| *found == "plain");
    wait_for("all to have ended", || lines(&server, "ended").len() == 3);
    fs::remove_file(server.prefix().join("scripts/w")).expect("there");
    assert_failed(&asker.ask(r#"{"name":"w","id":1}"#), -1, "not_found", Some(json!(1)));
}

// ---- What goes wrong -----------------------------------------------------------------------------------------------

#[test]
fn what_a_copy_held_when_it_ended_is_unknown_and_the_next_one_is_asked_next() {
    let says = worker("case $params in 1) exit 3;; 2) kill -KILL $$;; 3) exec >&- ; exec sleep 1000;; *) result $$;; esac");
    let (server, client) = kept(&says, &json!({ "worker": {} }));
    let mut asker = client.connect();
    let mut pids = vec![result(&mut asker, &json!(0))];
    for (params, words) in [(1, "exit 3"), (2, "signal SIGKILL"), (3, "closed its stdin or stdout")] {
        let (_, last) = asker.run(&json!({ "name": "w", "params": params, "output": "tail" }));
        let why = failed(&last, -5, "interrupted");
        assert!(why.contains(words) && why.contains("had the request"), "{why}");
        let pid = result(&mut asker, &json!(0));
        assert!(!pids.contains(&pid));
        pids.push(pid);
    }
    assert_eq!(server.connect().result("STATS", &json!(null))["workers"]["replaced"]["ended"], 3);
}

#[test]
fn a_script_that_ends_again_and_again_is_not_started_again_and_again() {
    let (server, client) =
        kept("#!/bin/sh\necho x >> started\necho first >&2; echo no such table >&2\nexit 9\n", &json!({ "worker": {} }));
    let mut asker = client.connect();
    let mut refused = 0;
    for id in 0..300 {
        let said: Value = serde_json::from_str(&asker.ask(&json!({ "name": "w", "id": id }).to_string())).expect("JSON");
        if said["status"] == -1 {
            let why = failed(&said, -1, "spawn_failed");
            assert!(why.contains("exit 9") && why.contains("no such table") && !why.contains("first"), "{why}");
            refused += 1;
        } else {
            assert!(failed(&said, -5, "interrupted").contains("exit 9"));
        }
    }
    let started = lines(&server, "started").len();
    assert!(refused > 250 && started < 20, "{refused} were refused, {started} were started");
    server.script("w", &worker("answer 4"));
    wait_for("the script as it was mended", || client.connect().ask(r#"{"name":"w","id":1}"#) == r#"{"status":4,"id":1}"#);
}

#[test]
fn one_that_says_what_is_no_answer_is_replaced_and_what_it_held_is_unknown() {
    let says = worker(
        r#"case $params in
        1) echo "not JSON";;
        2) id=0190a000-0000-7000-8000-000000000001; answer 0;;
        3) answer 256;;
        4) printf '{"name":"w","id":"%s"}\n' "$id";;
        5) answer 0; answer 0;;
        6) head -c 3000 /dev/zero | tr '\0' x;;
        7) printf '\377\n';;
        *) result $$;; esac"#,
    );
    let server = Daemon::server().config(json!({ "limits": { "message": 2048 } })).start();
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    server.script("w", &says);
    contract(&server, "w", &json!({ "worker": { "ready": 2 } }));
    let mut asker = client.connect();
    let mut before = result(&mut asker, &json!(0));
    let table = [
        (1, "no answer"),
        (2, "\"0190a000-0000-7000-8000-000000000001\", which it does not hold"),
        (3, "from 0 to 255"),
        (4, "a message with a \"name\""),
        (6, "longer than 2048 bytes"),
        (7, "not UTF-8"),
    ];
    for (params, words) in table {
        let (_, last) = asker.run(&json!({ "name": "w", "params": params, "output": "tail" }));
        let why = failed(&last, -5, "interrupted");
        assert!(why.contains(words), "{params}: {why}");
        let pid = result(&mut asker, &json!(0));
        assert_ne!(pid, before, "{params}: it was not replaced");
        before = pid;
    }
    // Twice for the same: the first counts.
    let (_, last) = asker.run(&json!({ "name": "w", "params": 5, "output": "tail" }));
    assert_eq!(last["status"], 0, "{last}");
    wait_for("it to be replaced", || server.connect().result("STATS", &json!(null))["workers"]["replaced"]["breach"] == 7);
    assert_ne!(result(&mut asker, &json!(0)), before);
    server.wait_log_times("a worker is replaced", 7);
}

#[test]
fn what_was_not_written_to_the_end_goes_to_another_copy() {
    let says = worker(r#"case $params in 1) echo x > begun; read -r _ < go; exit 1;; *) result "${#params}";; esac"#);
    let (server, client) = kept(&says, &json!({ "worker": { "ready": 2 } }));
    let (mut begun, mut go) = (Fifo::new(server.prefix(), "begun"), Fifo::new(server.prefix(), "go"));
    let mut asker = client.connect();
    result(&mut asker, &json!(0));
    asker.send(r#"{"name":"w","id":1,"params":1,"output":"json"}"#);
    begun.line();
    // No pipe holds so much.
    asker.send(json!({ "name": "w", "id": 2, "params": "y".repeat(300_000), "output": "json", "events": true }).to_string());
    assert_eq!([asker.said(), asker.said()].map(|event| event["event"].clone()), [json!("delivered"), json!("started")]);
    go.release(1);
    let mut answers = [asker.said(), asker.said()];
    answers.sort_by_key(|answer| answer["id"].as_i64());
    failed(&answers[0], -5, "interrupted");
    assert_eq!((&answers[1]["status"], &answers[1]["result"]), (&json!(0), &json!(300_002)), "{}", answers[1]["message"]);
    assert_eq!(lines(&server, "started").len(), 2);
}

// ---- What is stopped -----------------------------------------------------------------------------------------------

#[test]
fn a_request_whose_time_is_over_costs_the_copy_and_others_that_it_held_are_unknown() {
    let says = worker(
        r"case $params in 1|2) echo $$ > begun;; 3) case $line in *deadline*) result 1;; *) result 0;; esac;; *) result $$;; esac",
    );
    let (server, client) = kept(&says, &json!({ "worker": { "ready": 2 } }));
    let mut begun = Fifo::new(server.prefix(), "begun");
    let mut asker = client.connect();
    asker.send(r#"{"name":"w","id":2,"params":2,"output":"tail"}"#);
    let pid = begun.line();
    let copy = Watched::new(&pid);
    asker.send(r#"{"name":"w","id":1,"params":1,"timeout":"200ms"}"#);
    begun.line();
    let mut answers = [asker.said(), asker.said()];
    answers.sort_by_key(|answer| answer["id"].as_i64());
    assert!(failed(&answers[0], -4, "timed_out").contains("200ms"));
    assert_eq!(answers[0]["signal"], "SIGTERM");
    let why = failed(&answers[1], -5, "interrupted");
    assert!(why.contains("stopped because of another request"), "{why}");
    copy.wait_end();
    assert_ne!(result(&mut asker, &json!(0)).to_string(), pid);
    // The contract's time counts as well.
    contract(&server, "w", &json!({ "worker": {}, "timeout": "100ms" }));
    wait_for("the contract to be seen", || result(&mut client.connect(), &json!(3)) == 1);
    let (_, last) = asker.run(&json!({ "name": "w", "params": 1, "output": "tail" }));
    failed(&last, -4, "timed_out");
}

#[test]
fn a_cancelled_request_is_stopped_with_its_copy_and_all_that_this_started() {
    let says = worker("sleep 1000 & echo $! > begun; wait");
    let (server, client) = kept(&says, &json!({ "worker": {} }));
    let mut begun = Fifo::new(server.prefix(), "begun");
    let mut asker = client.connect();
    asker.send(r#"{"name":"w","id":1,"params":1,"output":"tail"}"#);
    let child = Watched::new(&begun.line());
    client.connect().result("CANCEL", &json!({ "id": 1 }));
    assert!(failed(&asker.said(), -4, "cancelled").contains("by whoever asked"));
    child.wait_end();
}

#[test]
fn a_daemon_that_stops_leaves_no_copy() {
    let says = worker(r"case $params in 1) echo $$ > begun; read -r _ < never;; *) result $$;; esac");
    let (mut server, client) = kept(&says, &json!({ "worker": { "processes": 2 } }));
    let (mut begun, _never) = (Fifo::new(server.prefix(), "begun"), Fifo::new(server.prefix(), "never"));
    server.reconfigure(json!({ "times": { "grace": "1s" } }));
    client.connect().result("STATS", &json!(null));
    server.connect().result("RELOAD", &json!(null));
    let mut asker = client.connect();
    let idle = Watched::new(&result(&mut asker, &json!(0)).to_string());
    asker.send(r#"{"name":"w","id":1,"params":1}"#);
    let busy = Watched::new(&begun.line());
    let busy_is_the_first = busy.pid() == idle.pid();
    server.signal(Signal::TERM);
    let last = asker.said();
    assert!(failed(&last, -4, "cancelled").contains("the daemon was stopped"), "{last}");
    assert!(server.wait_exit(DEADLINE).success());
    busy.wait_end();
    idle.wait_end();
    // One that had nothing to do has ended by itself.
    assert_eq!(lines(&server, "ended").len(), lines(&server, "started").len() - 1, "{busy_is_the_first}");
}

#[test]
fn a_restart_lets_copies_end_and_the_next_life_has_its_own() {
    let (server, client) = kept(&worker("result $$"), &json!({ "worker": {} }));
    let mut asker = client.connect();
    let before = result(&mut asker, &json!(1));
    server.connect().result("RESTART", &json!(null));
    server.wait_log_times("local socket ready", 2);
    assert_eq!(lines(&server, "ended"), [before.to_string()]);
    client.wait_log_times("link up", 2);
    assert_ne!(result(&mut asker, &json!(1)), before);
}

#[test]
fn a_request_in_an_orphaned_copy_is_stopped_before_it_is_settled() {
    // A spool is named after the configured port: from here on it has one.
    let server = Daemon::server().start().crash().start();
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    let deaf = r"#!/bin/sh
trap '' TERM HUP PIPE
read -r line; echo $$ > begun; while :; do sleep 1000; done
";
    server.script("w", deaf);
    contract(&server, "w", &json!({ "worker": {} }));
    let mut begun = Fifo::new(server.prefix(), "begun");
    let mut asker = client.connect();
    asker.send(r#"{"name":"w","id":"q","params":1,"queue":true}"#);
    assert_eq!(asker.said()["event"], "accepted");
    let copy = Watched::new(&begun.line());
    let again = server.crash().start();
    let (_, last) = asker.rest();
    assert!(failed(&last, -5, "interrupted").contains("was killed while it ran"), "{last}");
    assert!(!copy.is_alive(), "it was settled while it went on");
    drop(again);
}

#[test]
fn a_queued_request_is_done_by_a_copy_once() {
    let (server, client) = kept(&worker("echo \"$params\" >> done; result $$"), &json!({ "worker": {} }));
    let mut asker = client.connect();
    for id in 0..5 {
        let (events, last) = asker.run(&json!({ "name": "w", "id": id, "params": id, "queue": true, "output": "json" }));
        assert_eq!((&events[0]["event"], &last["status"]), (&json!("accepted"), &json!(0)), "{last}");
    }
    assert_eq!(lines(&server, "done"), ["0", "1", "2", "3", "4"]);
    assert_eq!(lines(&server, "started").len(), 1);
}

// ---- What holds for a script holds for its copies ------------------------------------------------------------------

#[test]
fn schema_and_callers_are_held_against_each_request_before_it_is_asked() {
    let terms = json!({ "worker": {}, "schema": { "type": "integer" }, "callers": ["anonymous"] });
    let (server, client) = kept(&worker("answer 0"), &terms);
    let mut seed = Peer::dial(&server);
    assert_eq!(seed.ask(r#"{"name":"w","id":1,"params":5}"#), r#"{"status":0,"id":1}"#);
    for _ in 0..3 {
        let refused = seed.ask(r#"{"name":"w","id":2,"params":"5"}"#);
        assert!(refused.contains("invalid_params"), "{refused}");
    }
    contract(&server, "w", &json!({ "worker": {}, "callers": ["local"] }));
    wait_for("the contract to be seen", || client.connect().ask(r#"{"name":"w","id":1}"#).contains("denied"));
    assert_eq!(lines(&server, "started").len(), 1);
}

#[test]
fn a_copy_takes_on_the_limits_and_the_environment_of_its_contract() {
    let says = worker(r#"result "[$(ulimit -n),\"$PATH\",\"$LEFT_OUT\"]""#);
    let server = Daemon::server().env("LEFT_OUT", "x").start();
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    server.script("w", &says);
    contract(&server, "w", &json!({ "worker": {}, "limits": { "nofile": 50 }, "environment": ["PATH"] }));
    let found = result(&mut client.connect(), &json!(1));
    assert_eq!((&found[0], &found[2]), (&json!(50), &json!("")));
    assert_ne!(found[1], "");
}

#[test]
fn a_copy_runs_as_the_user_of_its_contract() {
    if !need_root() {
        return;
    }
    let (server, client) = pair();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    open(server.prefix(), 0o711);
    server.script("w", "#!/bin/sh\nwhile read -r line; do id=${line#*:\\\"}; printf '{\"id\":\"%s\",\"status\":0,\"result\":%s}\\n' \"${id%%\\\"*}\" \"$(id -u)\"; done\n");
    contract(&server, "w", &json!({ "worker": {}, "user": 12345, "group": 12345 }));
    assert_eq!(result(&mut client.connect(), &json!(1)), 12_345);
}

#[test]
fn a_broken_worker_key_refuses_the_script() {
    let (server, client) = kept(&worker("answer 0"), &json!({ "worker": { "proceses": 2 } }));
    let words = assert_failed(&client.connect().ask(r#"{"name":"w","id":1}"#), -1, "forbidden", Some(json!(1)));
    assert!(words.contains("there is no key \"proceses\""), "{words}");
    contract(&server, "w", &json!({ "worker": {}, "params": "stdin" }));
    let words = assert_failed(&client.connect().ask(r#"{"name":"w","id":1}"#), -1, "forbidden", Some(json!(1)));
    assert!(words.contains("params: a worker gets them in the line"), "{words}");
}

// ---- What is to be seen of them ------------------------------------------------------------------------------------

#[test]
fn what_a_copy_says_of_trouble_is_logged_and_what_there_is_of_copies_is_shown() {
    let (server, client) =
        kept(&worker("echo trouble in the worker >&2; answer 0"), &json!({ "worker": { "processes": 3, "ready": 2 } }));
    assert_eq!(client.connect().ask(r#"{"name":"w","id":1}"#), r#"{"status":0,"id":1}"#);
    let line = server.wait_log("trouble in the worker");
    assert!(line.contains("script output") && line.contains("worker{script=\"w\""), "{line}");
    let mut local = server.connect();
    let stats = local.result("STATS", &json!(null));
    assert_eq!((&stats["workers"]["running"], &stats["workers"]["calls"]), (&json!(1), &json!(1)), "{stats}");
    let scripts = local.result("SCRIPTS", &json!(null));
    assert_eq!(scripts[0]["contract"]["worker"], json!({ "processes": 3, "ready": 2 }));
    let metrics = local.result("METRICS", &json!(null));
    let metrics = metrics.as_str().expect("text");
    for line in
        ["wsdaemon_workers_running 1", "wsdaemon_worker_calls_total 1", "wsdaemon_workers_replaced_total{reason=\"breach\"} 0"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
