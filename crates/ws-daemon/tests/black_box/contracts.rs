//! Contracts beside scripts: each key, held by the daemon that runs the script against whoever asks, seed peers as well; and every
//! way in which a contract can be broken, each of which refuses the script.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Daemon, DaemonPlan, Fifo, Peer, Watched, assert_failed, command, need_other_users, need_root, pair, ran, run,
    wait_for,
};

/// Notes that it ran.
const RAN: &str = "#!/bin/sh\necho ran >> \"$WSDAEMON_PREFIX/ran\"\n";

/// A user and a group that are nobody here.
const STRANGER: u32 = 12_345;

/// Writes a contract, whole when it appears, that nobody else can write.
fn contract(prefix: &Path, script: &str, contract: &Value) {
    write(prefix, script, &contract.to_string());
}

fn write(prefix: &Path, script: &str, text: &str) {
    let path = prefix.join("scripts").join(format!("{script}.json"));
    let draft = prefix.join("contract.draft");
    fs::write(&draft, text).expect("the prefix is ours to write");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).expect("the draft is ours");
    fs::rename(&draft, path).expect("both names are in one folder");
}

fn runs(daemon: &Daemon) -> usize {
    fs::read_to_string(daemon.prefix().join("ran")).unwrap_or_default().lines().count()
}

fn with_peer(plan: DaemonPlan) -> (Daemon, Peer) {
    let server = plan.start();
    let peer = Peer::dial(&server);
    (server, peer)
}

// ---- What is asked ---------------------------------------------------------------------------------------------

#[test]
fn params_that_the_schema_refuses_start_nothing_and_the_place_is_told() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["to"],
        "properties": {"to": {"$ref": "#/$defs/number"}, "parts": {"type": "array", "items": {"type": "integer"}}},
        "$defs": {"number": {"type": "string", "pattern": "^\\+[0-9]{3,15}$"}},
    });
    let (server, client) = pair();
    client.script("send", RAN);
    contract(client.prefix(), "send", &json!({ "schema": schema }));
    server.script("send", RAN);
    contract(server.prefix(), "send", &json!({ "schema": schema }));
    let mut seed = Peer::dial(&server);
    let mut asker = client.connect();
    let table = [
        (r#"{"to":"+49123"}"#, ""),
        (r#"{"to":"+49123","parts":[1,2]}"#, ""),
        ("null", "is not of type \"object\""),
        ("{}", "\"to\" is a required property"),
        (r#"{"to":"all"}"#, "at \"/to\": "),
        (r#"{"to":"+49123","parts":[1,"2"]}"#, "at \"/parts/1\": "),
        (r#"{"to":"+49123","cc":1}"#, "'cc' was unexpected"),
        (r#"{"to":"+49123","to":"all"}"#, "the key \"to\" stands twice"),
    ];
    for (params, words) in table {
        let before = runs(&server);
        let (by_seed, by_version2) = (
            seed.ask(&format!(r#"{{"name":"send","id":1,"params":{params}}}"#)),
            asker.ask(&format!(r#"{{"name":"send","id":1,"params":{params}}}"#)),
        );
        for answer in [by_seed, by_version2] {
            if words.is_empty() {
                assert_eq!(answer, r#"{"status":0,"id":1}"#, "{params}");
            } else {
                let said = assert_failed(&answer, -1, "invalid_params", Some(json!(1)));
                assert!(said.starts_with("\"send\": its contract refuses the params: ") && said.contains(words), "{said}");
            }
        }
        assert_eq!(runs(&server) - before, if words.is_empty() { 2 } else { 0 }, "{params}");
    }
    // However long they are, the answer is short; and it does not say what stands there.
    let long = format!(r#"{{"name":"send","params":{{"to":"{}"}}}}"#, "secret".repeat(100_000));
    let said = assert_failed(&seed.ask(&long), -1, "invalid_params", None);
    assert!(said.len() < 1000 && !said.contains("secret"), "{said}");
    assert_eq!(server.log().count("secret"), 0);
}

#[test]
fn who_is_not_listed_is_denied() {
    let (server, client) = pair();
    for daemon in [&server, &client] {
        for (script, callers) in [("open", json!(["anonymous"])), ("ours", json!("server")), ("own", json!(["local", "web-*"]))]
        {
            daemon.script(script, RAN);
            contract(daemon.prefix(), script, &json!({ "callers": callers }));
        }
    }
    let mut seed = Peer::dial(&server);
    let mut named = Peer::dial_version2(
        &server,
        &json!({ "name": "web-1", "instance": "i", "epoch": 1, "version": "9.9", "tags": ["web-1"], "capacity": 3, "features": [] }),
    );
    // Of the two sides of a link, the one that was dialled is the server; nobody else has proved anything.
    let (mut by_client, mut by_server) = (client.connect(), server.connect());
    let to_client = by_server.result("PEERS", &Value::Null);
    let to_client =
        to_client.as_array().expect("a list").iter().find(|peer| peer["tags"] == json!([]) && peer["seed"] == false);
    let to_client = to_client.expect("the client is there")["name"].clone();
    for (script, anonymous, server_asks) in [("open", true, false), ("ours", false, true), ("own", false, false)] {
        let before = (runs(&server), runs(&client));
        named.send_text(&json!({ "name": script, "id": "0196e1b4-0000-7000-8000-000000000001" }).to_string());
        let answers = [
            (anonymous, seed.ask(&json!({ "name": script, "id": 1 }).to_string())),
            (anonymous, named.status().replace("\"0196e1b4-0000-7000-8000-000000000001\"", "1")),
            (anonymous, by_client.ask(&json!({ "name": script, "id": 1 }).to_string())),
            (server_asks, by_server.ask(&json!({ "name": script, "id": 1, "to": to_client }).to_string())),
        ];
        for (may, answer) in answers {
            let said: Value = serde_json::from_str(&answer).expect("JSON");
            if may {
                assert_eq!(said["status"], 0, "{script}: {answer}");
            } else {
                assert_eq!((&said["status"], &said["error"]), (&json!(-3), &json!("denied")), "{script}: {answer}");
                assert!(said["message"].as_str().is_some_and(|said| said.contains("callers")), "{answer}");
            }
        }
        let ran = (runs(&server) - before.0, runs(&client) - before.1);
        assert_eq!(ran, (if anonymous { 3 } else { 0 }, usize::from(server_asks)), "{script}");
    }
}

#[test]
fn a_peer_is_listed_by_the_name_that_it_has_proved_and_the_tags_that_it_was_given() {
    let server = Daemon::server().start();
    let scripts = [("by-name", json!(["web-*"])), ("by-tag", json!(["tag:sms"])), ("by-own-tag", json!(["tag:mine"]))];
    for (script, callers) in &scripts {
        server.script(script, RAN);
        contract(server.prefix(), script, &json!({ "callers": callers }));
    }
    let joins = |words: &[&str]| {
        let url = format!("ws://127.0.0.1:{}", server.port());
        let proxy = server.told(&["join", "--seed", &server.told(&[&["invite", "--url", &url], words].concat())]);
        let shown = proxy.strip_prefix("ws://").and_then(|rest| rest.split_once('@')).expect("name:token@").0;
        format!("Basic {}", BASE64_STANDARD.encode(shown))
    };
    let [web, till, mail] = [joins(&["web-1"]), joins(&["till", "--tag", "sms"]), joins(&["mail", "--tag", "post"])].map(Some);
    // Each says of itself what it is not.
    let says = |name: &str, instance: &str, tags: &[&str]| json!({ "name": name, "instance": instance, "epoch": 1, "tags": tags, "capacity": 3, "features": ["queue"] });
    let peers = [
        (&web, says("till", "of-web", &["sms", "mine"]), ["by-name"].as_slice()),
        (&till, says("web-1", "of-till", &["web-1", "mine"]), &["by-tag"]),
        (&mail, says("web-1", "of-mail", &["sms", "mine"]), &[]),
        (&None, says("web-2", "of-nobody", &["sms", "mine"]), &[]),
    ];
    for (shown, hello, may) in peers {
        let mut headers = vec![("ws-daemon", "2")];
        headers.extend(shown.as_ref().map(|shown| ("authorization", shown.as_str())));
        let mut peer = Peer::try_dial(&server, "/", &headers).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        peer.send_hello(&hello);
        peer.hello();
        for (number, (script, _)) in scripts.iter().enumerate() {
            let before = runs(&server);
            let answer = peer.ask(&json!({ "name": script, "id": format!("run-{number}") }).to_string());
            let said: Value = serde_json::from_str(&answer).expect("JSON");
            if may.contains(script) {
                assert_eq!((&said["status"], runs(&server) - before), (&json!(0), 1), "{hello} {script}: {said}");
            } else {
                assert_eq!((&said["status"], &said["error"]), (&json!(-3), &json!("denied")), "{hello} {script}: {said}");
                assert_eq!(runs(&server), before, "{hello} {script}");
            }
        }
    }
}

#[test]
fn hooks_and_the_script_that_gets_an_outcome_are_local_callers() {
    let server = Daemon::server().start();
    let mut told = Fifo::new(server.prefix(), "told");
    fs::create_dir(server.prefix().join("hooks")).expect("the prefix is ours");
    server.script("../hooks/peer-online", "#!/bin/sh\necho online > told\n");
    server.script("after", "#!/bin/sh\necho \"$1\" > told\n");
    contract(server.prefix(), "after", &json!({ "callers": "local", "schema": { "required": ["status"] } }));
    contract(server.prefix(), "../hooks/peer-online", &json!({ "callers": ["local"] }));
    let _client = Daemon::client(&server).script("done", "#!/bin/sh\nexit 7\n").start();
    assert_eq!(told.line(), "online");
    let (_, last) = server.connect().run(&json!({ "name": "done", "then": "after" }));
    assert_eq!(last["status"], 7, "{last}");
    assert!(told.line().contains(r#""status":7"#));
    assert_failed(&Peer::dial(&server).ask(r#"{"name":"after"}"#), -3, "denied", None);
    assert_eq!(told.line(), "online");
    contract(server.prefix(), "../hooks/peer-online", &json!({ "callers": ["server"] }));
    let _peer = Peer::dial(&server);
    server.wait_log("its contract does not list whoever asks");
}

#[test]
fn a_run_that_is_taken_up_after_a_crash_is_its_askers_still() {
    let (server, client) = pair();
    client.script("hold", "#!/bin/sh\nread -r go < \"$WSDAEMON_PREFIX/go\"\n");
    client.script("ours", RAN);
    contract(client.prefix(), "ours", &json!({ "callers": "server" }));
    client.script("others", RAN);
    contract(client.prefix(), "others", &json!({ "callers": "anonymous" }));
    // Behind one that holds the only slot, they are claimed and not begun.
    let client = client.kill().config(json!({ "limits": { "runs": 1 } })).start();
    let _go = Fifo::new(client.prefix(), "go");
    let mut asker = server.connect();
    asker.send(r#"{"name":"hold","id":"h","queue":true,"events":true}"#);
    for event in ["accepted", "delivered", "started"] {
        assert_eq!(asker.said()["event"], event);
    }
    for name in ["ours", "others"] {
        asker.send(json!({ "name": name, "id": name, "queue": true, "events": true }).to_string());
        for event in ["accepted", "delivered"] {
            assert_eq!(asker.said()["event"], event);
        }
    }
    let client = client.crash().start();
    let mut ends: Vec<(Value, Value)> = Vec::new();
    while ends.len() < 3 {
        let said = asker.said();
        if said["event"].is_null() {
            ends.push((said["id"].clone(), said["error"].clone()));
        }
    }
    ends.sort_by_key(|(id, _)| id.to_string());
    let expected = [(json!("h"), json!("interrupted")), (json!("others"), json!("denied")), (json!("ours"), Value::Null)];
    assert_eq!(ends, expected);
    assert_eq!(runs(&client), 1);
}

// ---- How it runs -----------------------------------------------------------------------------------------------

#[test]
fn the_shorter_of_two_times_stops_the_script() {
    let (server, client) = pair();
    client.script("slow", "#!/bin/sh\necho \"$WSDAEMON_DEADLINE\"\nexec sleep 600\n");
    let mut asker = server.connect();
    for (bound, asked, counts) in [("150ms", None, "150ms"), ("150ms", Some("1h"), "150ms"), ("1h", Some("120ms"), "120ms")] {
        contract(client.prefix(), "slow", &json!({ "timeout": bound }));
        let mut request = json!({ "name": "slow", "output": "tail" });
        if let Some(asked) = asked {
            request["timeout"] = json!(asked);
        }
        let (_, last) = asker.run(&request);
        assert_eq!((&last["status"], &last["error"]), (&json!(-4), &json!("timed_out")), "{last}");
        assert!(last["message"].as_str().is_some_and(|said| said.contains(counts)), "{last}");
        assert!(last["stdout"].as_str().is_some_and(|deadline| deadline.contains('.')), "it was told its time: {last}");
    }
    // A seed peer, which cannot ask for a time, is bound by the script's.
    server.script("slow", "#!/bin/sh\nexec sleep 600\n");
    contract(server.prefix(), "slow", &json!({ "timeout": "100ms" }));
    let said: Value = serde_json::from_str(&Peer::dial(&server).ask(r#"{"name":"slow"}"#)).expect("JSON");
    assert_eq!((&said["status"], &said["error"]), (&json!(-4), &json!("timed_out")));
}

#[test]
fn no_more_run_at_once_than_may_and_the_others_wait_without_holding_anybody_up() {
    const HOLD: &str = "#!/bin/sh\ncd \"$WSDAEMON_PREFIX\"\necho \"$1\" > said\nread -r go < go\n";
    for queue in [false, true] {
        let (server, client) = pair();
        client.script("hold", HOLD);
        client.script("free", "#!/bin/sh\nexit 3\n");
        contract(client.prefix(), "hold", &json!({ "at_once": 2 }));
        let client = client.kill().config(json!({ "limits": { "runs": 3 } })).start();
        server.wait_log_times("link up", 2);
        let (mut said, mut go) = (Fifo::new(client.prefix(), "said"), Fifo::new(client.prefix(), "go"));
        let mut asker = server.connect();
        for number in 0..6 {
            asker.send(json!({ "name": "hold", "id": number, "params": number, "queue": queue }).to_string());
        }
        let begun = [said.line(), said.line()];
        // The third slot is nobody's who waits for a place.
        assert_eq!(server.connect().ask(r#"{"name":"free","id":1}"#), r#"{"status":3,"id":1}"#);
        // What is queued comes by the disks of both, in its own time.
        wait_for("all to be there", || {
            let stats = client.connect().result("STATS", &Value::Null);
            (&stats["running"], &stats["waiting"]) == (&json!(2), &json!(4))
        });
        let mut all = Vec::from(begun);
        for _ in 2..6 {
            go.release(1);
            all.push(said.line());
        }
        // Which of those that are looked up at the same time gets its place first is nobody's promise.
        all.sort();
        assert_eq!(all, ["0", "1", "2", "3", "4", "5"]);
        go.release(2);
        let mut ended = 0;
        while ended < 6 {
            let line = asker.said();
            if line["event"].is_null() {
                assert_eq!(line["status"], 0, "{line}");
                ended += 1;
            }
        }
    }
}

#[test]
fn who_waits_for_a_place_can_be_cancelled_and_is_answered_when_the_daemon_stops() {
    let (server, mut client) = pair();
    client.script("hold", "#!/bin/sh\ncd \"$WSDAEMON_PREFIX\"\necho > said\nread -r go < go\n");
    contract(client.prefix(), "hold", &json!({ "at_once": 1 }));
    let (mut said, mut go) = (Fifo::new(client.prefix(), "said"), Fifo::new(client.prefix(), "go"));
    let (mut asker, mut other) = (server.connect(), server.connect());
    asker.send(r#"{"name":"hold","id":1}"#);
    said.line();
    other.send(r#"{"name":"hold","id":2}{"name":"hold","id":3}"#);
    let stats = || client.connect().result("STATS", &Value::Null)["waiting"].as_u64();
    wait_for("both to be in line", || stats() == Some(2));
    assert_eq!(other.command("CANCEL", &json!({ "id": 2 }))["status"], 0);
    let cancelled = other.said();
    assert_eq!((&cancelled["id"], &cancelled["error"]), (&json!(2), &json!("cancelled")), "{cancelled}");
    client.signal(Signal::TERM);
    let busy = other.said();
    assert_eq!((&busy["id"], &busy["error"]), (&json!(3), &json!("busy")), "{busy}");
    go.release(1);
    assert_eq!(asker.line(), r#"{"status":0,"id":1}"#);
    assert_eq!(client.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn of_the_environment_a_script_gets_what_is_listed_and_what_is_the_daemons_to_say() {
    const NAMES: &str = "#!/bin/sh\nexec /usr/bin/env\n";
    let (server, client) = pair();
    let client = client.kill().env("LISTED", "a=b").env("UNLISTED", "secret").start();
    server.wait_log_times("link up", 2);
    client.script("env", NAMES);
    let mut asker = server.connect();
    let mut names = |asked: &Value| -> Vec<String> {
        contract(client.prefix(), "env", asked);
        let (_, last) = asker.run(&json!({ "name": "env", "id": "i", "output": "tail", "timeout": "1m" }));
        let text = last["stdout"].as_str().unwrap_or_else(|| panic!("{last}"));
        let mut names: Vec<String> = text.lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
        names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(&name.as_str()));
        names.sort();
        names
    };
    let own = ["DEADLINE", "ID", "NAME", "PEER", "PREFIX", "RUN", "SOCKET"].map(|name| format!("WSDAEMON_{name}"));
    let listed = names(&json!({ "environment": ["LISTED", "NOT_THERE"] }));
    assert_eq!(listed.iter().filter(|name| !name.starts_with("WSDAEMON_")).collect::<Vec<_>>(), ["LISTED"]);
    assert!(own.iter().all(|name| listed.contains(name)), "{listed:?}");
    assert!(names(&json!({ "environment": [] })).iter().all(|name| name.starts_with("WSDAEMON_")));
    assert!(names(&json!({})).contains(&"UNLISTED".into()), "without a list all is passed");
}

#[test]
fn output_beyond_the_cap_is_cut_and_that_is_said_however_it_is_asked_for() {
    let (server, client) = pair();
    client.script("loud", "#!/bin/sh\nprintf '%04000d' 7\nprintf err >&2\n");
    client.script("json", "#!/bin/sh\nprintf '\"%0100d\"' 7\n");
    for script in ["loud", "json"] {
        contract(client.prefix(), script, &json!({ "output": 64 }));
    }
    let mut asker = server.connect();
    let mut run = |request: Value| asker.run(&request);
    for queue in [false, true] {
        let (_, last) = run(json!({ "name": "loud", "output": "tail", "queue": queue }));
        let stdout = last["stdout"].as_str().expect("text");
        assert_eq!((stdout.len(), stdout.ends_with("07"), &last["stderr"]), (64, true, &json!("err")), "{last}");
        assert_eq!(last["cut"], json!({ "stdout": { "at": 8, "bytes": 3936 } }));
        let (_, last) = run(json!({ "name": "json", "output": "json", "queue": queue }));
        assert_eq!((&last["status"], &last["result"]), (&json!(0), &Value::Null), "{last}");
        assert!(last["message"].as_str().is_some_and(|note| note.contains("contract")), "{last}");
        assert_eq!((last["stdout"].as_str().map(str::len), &last["cut"]["stdout"]["bytes"]), (Some(64), &json!(38)), "{last}");
        let (events, last) = run(json!({ "name": "loud", "output": "stream", "queue": queue }));
        let stdout = events.iter().filter(|event| event["stream"] == "stdout");
        let bytes: usize = stdout.clone().filter_map(|event| event["data"].as_str()).map(str::len).sum();
        assert_eq!((&last["status"], bytes), (&json!(0), 64), "{last}");
        // Told as it comes, the end is a gap; told from what is kept, the final line has it.
        let gaps: u64 = stdout.filter_map(|event| event["gap"].as_u64()).sum();
        let cut = if queue { json!({ "stdout": { "at": 64, "bytes": 3936 } }) } else { Value::Null };
        assert_eq!((gaps, &last["cut"]), (if queue { 0 } else { 3936 }, &cut), "{events:?} {last}");
    }
}

#[test]
fn params_can_come_by_stdin_alone() {
    const KEEP: &str = "#!/bin/sh\nprintf '%s ' \"$#\" \"$1\"\ncat\n";
    let (server, client) = pair();
    client.script("keep", KEEP);
    let mut asker = server.connect();
    for (params, printed) in [("stdin", "1 - {\"a\":1}"), ("argument", "1 {\"a\":1} ")] {
        contract(client.prefix(), "keep", &json!({ "params": params }));
        let (_, last) = asker.run(&json!({ "name": "keep", "params": { "a": 1 }, "output": "tail" }));
        assert_eq!((&last["status"], &last["stdout"]), (&json!(0), &json!(printed)), "{last}");
    }
}

// ---- As whom ---------------------------------------------------------------------------------------------------

/// A prefix that others may enter.
fn for_all(plan: DaemonPlan) -> DaemonPlan {
    fs::set_permissions(plan.prefix(), fs::Permissions::from_mode(0o755)).expect("the prefix is ours");
    plan
}

/// The lines that a script prints when it is asked for by a process on the other side.
#[track_caller]
fn printed(server: &Daemon, name: &str) -> Vec<String> {
    let (_, last) = server.connect().run(&json!({ "name": name, "output": "tail" }));
    assert_eq!(last["status"], 0, "{last}");
    last["stdout"].as_str().expect("text").lines().map(str::to_owned).collect()
}

const WHO: &str = "#!/bin/sh\nid -u; id -g; id -G; echo \"$HOME $USER $LOGNAME $SHELL\"; pwd; echo \"$0\"; echo \"$1\"; \
    ulimit -n; ulimit -c; ls /proc/self/fd | wc -l; grep -E '^(NoNewPrivs|CapEff|SigBlk)' /proc/self/status | cut -f2; \
    cut -d' ' -f5 /proc/self/stat; echo $$; readlink /proc/self/fd/0\n";

#[test]
fn a_script_runs_as_its_user_within_its_limits_and_as_any_script_otherwise() {
    if !need_root() {
        return;
    }
    let server = Daemon::server().start();
    let client = for_all(Daemon::client(&server)).script("who", WHO).start();
    server.wait_log("link up");
    let plain = printed(&server, "who");
    contract(client.prefix(), "who", &json!({ "user": STRANGER, "group": STRANGER, "limits": { "nofile": 64, "core": 0 } }));
    let as_stranger = printed(&server, "who");
    let path = client.prefix().join("scripts/who");
    let prefix = client.prefix().display().to_string();
    let [
        user,
        group,
        groups,
        home,
        pwd,
        itself,
        params,
        files,
        core,
        descriptors,
        signals,
        rights,
        no_more,
        of_group,
        pid,
        stdin,
    ] = as_stranger.as_slice()
    else {
        panic!("{as_stranger:?}")
    };
    let id = STRANGER.to_string();
    assert_eq!([user, group, groups], [&id, &id, &id], "and of no group beside");
    assert_eq!(home, "/ 12345 12345 /bin/sh");
    assert_eq!((pwd, itself, params.as_str()), (&prefix, &path.display().to_string(), "null"));
    assert_eq!((files.as_str(), core.as_str()), ("64", "0"));
    assert_eq!((descriptors, stdin), (&plain[9], &plain[15]), "0, 1, 2 and the one by which ls reads");
    assert_eq!([signals, rights].map(|set| u64::from_str_radix(set, 16).map_or(1, |set| set & 0x7fff_ffff)), [0, 0]);
    assert_eq!((no_more.as_str(), of_group), ("1", pid), "and no way back; it leads its own group");
    assert_eq!(plain[0], "0", "without the contract it runs as the daemon does");

    // By name, with the groups that the machine gives the user.
    contract(client.prefix(), "who", &json!({ "user": "nobody" }));
    let lines = printed(&server, "who");
    let passwd = fs::read_to_string("/etc/passwd").expect("it is there");
    let nobody: Vec<&str> = passwd.lines().find(|line| line.starts_with("nobody:")).expect("a user").split(':').collect();
    assert_eq!((&*lines[0], &*lines[1]), (nobody[2], nobody[3]));
    assert_eq!(lines[3], format!("{} nobody nobody {}", nobody[5], nobody[6]));
    // Its exit status, a signal and a timeout are its own.
    client.script("end", "#!/bin/sh\nexit 126\n");
    client.script("killed", "#!/bin/sh\nkill -SEGV $$\n");
    client.script("slow", "#!/bin/sh\ntrap '' TERM\nsleep 600 &\necho $!\nwait\nwait\n");
    for name in ["end", "killed", "slow"] {
        contract(
            client.prefix(),
            name,
            &json!({ "user": STRANGER, "group": STRANGER, "params": "stdin", "limits": { "nproc": 100 } }),
        );
    }
    let mut asker = server.connect();
    assert_eq!(asker.ask(r#"{"name":"end"}"#), r#"{"status":126}"#);
    assert_eq!(asker.ask(r#"{"name":"killed"}"#), r#"{"status":139,"signal":"SIGSEGV"}"#);
    asker.send(r#"{"name":"slow","id":1,"output":"stream"}"#);
    let grandchild = Watched::new(asker.said()["data"].as_str().expect("its number").trim());
    assert_eq!(server.connect().command("CANCEL", &json!({ "run": run_of(&server) }))["status"], 0);
    assert_eq!(asker.said()["error"], "cancelled");
    grandchild.wait_end();
}

/// The only run that is running there.
fn run_of(server: &Daemon) -> String {
    let runs = server.connect().result("RUNS", &json!({ "state": "running" }));
    runs[0]["run"].as_str().unwrap_or_else(|| panic!("{runs}")).to_owned()
}

#[test]
fn what_keeps_a_script_from_its_user_is_said_and_is_never_its_own_status() {
    if !need_root() {
        return;
    }
    let server = Daemon::server().start();
    let client = for_all(Daemon::client(&server)).script("run", "#!/bin/sh\nexit 0\n").start();
    server.wait_log("link up");
    client.script("odd", "#!/no/such/interpreter\n");
    client.script("words", "echo\n");
    client.script("closed/run", "#!/bin/sh\nexit 0\n");
    let prefix = client.prefix();
    fs::set_permissions(prefix.join("scripts/closed"), fs::Permissions::from_mode(0o700)).expect("it is ours");
    let stranger = json!({ "user": STRANGER, "group": STRANGER });
    let mut asker = server.connect();
    for (script, words) in [
        ("odd", "needs /no/such/interpreter, which is not installed here"),
        ("words", "names no interpreter"),
        ("closed/run", "the user of its contract may not execute"),
    ] {
        contract(prefix, script, &stranger);
        let said =
            assert_failed(&asker.ask(&json!({ "name": script, "id": 1 }).to_string()), -1, "spawn_failed", Some(json!(1)));
        assert!(said.contains(words), "{script}: {said}");
    }
    contract(prefix, "run", &stranger);
    assert_eq!(asker.ask(r#"{"name":"run"}"#), r#"{"status":0}"#, "a shim that fails leaves nothing behind");
}

#[test]
fn a_daemon_that_is_not_root_runs_scripts_as_itself_only() {
    const AS_NOBODY: &str =
        "chown -R 65534 \"$WSDAEMON_PREFIX\" && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    if !need_other_users() {
        return;
    }
    let server = Daemon::server().config(json!({ "open": true })).start();
    let client = Daemon::client(&server).script("who", "#!/bin/sh\nid -u\nulimit -n\n").script("other", RAN);
    contract(client.prefix(), "who", &json!({ "user": 65_534, "group": 65_534, "limits": { "nofile": 50 } }));
    contract(client.prefix(), "other", &json!({ "user": "root" }));
    let client = client.started_by(&["/bin/sh", "-c", AS_NOBODY, "sh"]).start();
    server.wait_log("link up");
    assert_eq!(printed(&server, "who"), ["65534", "50"]);
    let said = assert_failed(&server.connect().ask(r#"{"name":"other"}"#), -1, "spawn_failed", None);
    assert!(said.contains("only root may"), "{said}");
    assert_eq!(runs(&client), 0);
}

#[test]
fn an_upgraded_program_on_disk_does_no_harm_to_the_daemon_that_runs() {
    if !need_root() {
        return;
    }
    let server = Daemon::server().start();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let program = folder.path().join("ws-daemon");
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_ws-daemon")).arg(&program);
    assert!(run(copy).status.success());
    let words = ["/bin/sh", "-c", "shift; exec \"$PROGRAM\" \"$@\"", "sh"];
    let client = for_all(Daemon::client(&server)).env("PROGRAM", program.to_str().expect("text")).started_by(&words);
    let client = client.script("who", "#!/bin/sh\nid -u\n").start();
    server.wait_log("link up");
    contract(client.prefix(), "who", &json!({ "user": STRANGER, "group": STRANGER }));
    fs::remove_file(&program).expect("it is ours");
    fs::write(&program, "#!/bin/sh\nexit 99\n").expect("the folder is ours");
    assert_eq!(printed(&server, "who"), [STRANGER.to_string()]);
}

// ---- Broken ----------------------------------------------------------------------------------------------------

#[test]
fn a_broken_contract_refuses_its_script_and_says_where_and_why() {
    let plan = Daemon::server().script("send", RAN).script("free", RAN);
    let (server, mut peer) = with_peer(plan);
    let long = format!("{{\"description\":\"{}\"}}", "x".repeat(300_000));
    let table = [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "it is no object"),
        ("{} x", "trailing"),
        (r#"{"callres":["a"]}"#, "there is no key \"callres\""),
        (r#"{"worker":{"proceses":2}}"#, "there is no key \"proceses\""),
        (r#"{"callers":null}"#, "null says nothing"),
        (r#"{"timeout":"soon"}"#, "timeout"),
        (r#"{"user":"no-such-user-here"}"#, "there is no user \"no-such-user-here\""),
        (r#"{"limits":{"threads":1}}"#, "there is no key \"threads\""),
        (r#"{"schema":{"type":"text"}}"#, "schema: "),
        (r#"{"schema":{"$ref":"file:///etc/passwd"}}"#, "schema: "),
        (r#"{"schema":{"$ref":"http://127.0.0.1:1/x.json"}}"#, "schema: "),
        (&long, "longer than 256 KiB"),
    ];
    let refused = |peer: &mut Peer, words: &str| {
        let said = assert_failed(&peer.ask(r#"{"name":"send","id":1}"#), -1, "forbidden", Some(json!(1)));
        assert!(said.contains("scripts/send.json is broken: ") && said.contains(words), "{words}: {said}");
        said
    };
    for (text, words) in table {
        write(server.prefix(), "send", text);
        refused(&mut peer, words);
    }
    server.wait_log("send.json is broken: ");
    let path = server.prefix().join("scripts/send.json");
    // Whoever can write the contract decides, so nobody else may.
    contract(server.prefix(), "send", &json!({}));
    assert_eq!(peer.ask(r#"{"name":"send"}"#), r#"{"status":0}"#);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let said = refused(&mut peer, "can be written by");
    let mend = said.split_once("mend it with: ").expect("the way to mend it").1;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", mend]);
    assert!(run(shell).status.success(), "{mend}");
    assert_eq!(peer.ask(r#"{"name":"send"}"#), r#"{"status":0}"#, "mended");
    for (target, words) in [("../../etc/passwd", "leads out"), ("/etc/passwd", "leads out"), ("nothing", "No such file")] {
        fs::remove_file(&path).expect("it is ours");
        symlink(target, &path).expect("the prefix is ours");
        refused(&mut peer, words);
    }
    fs::remove_file(&path).expect("it is ours");
    Fifo::new(&server.prefix().join("scripts"), "send.json");
    refused(&mut peer, "it is no regular file");
    fs::remove_file(&path).expect("it is ours");
    assert_eq!(peer.ask(r#"{"name":"send"}"#), r#"{"status":0}"#, "no contract, no bounds");
    assert_eq!((peer.ask(r#"{"name":"free"}"#), runs(&server)), (r#"{"status":0}"#.into(), 4));
}

#[test]
fn a_contract_of_a_stranger_is_refused() {
    if !need_root() {
        return;
    }
    let (server, mut peer) = with_peer(Daemon::server().script("send", RAN));
    contract(server.prefix(), "send", &json!({}));
    chown(server.prefix().join("scripts/send.json"), Some(STRANGER), None).expect("root may");
    let said = assert_failed(&peer.ask(r#"{"name":"send"}"#), -1, "forbidden", None);
    assert!(said.contains("can be written by user 12345; mend it with: chown "), "{said}");
    assert_eq!(runs(&server), 0);
}

#[test]
fn a_contract_is_no_script_and_no_other_name_leads_round_it() {
    let (server, mut peer) = with_peer(Daemon::server().script("sms/send", RAN).script("report.json", RAN));
    let scripts = server.prefix().join("scripts");
    contract(server.prefix(), "sms/send", &json!({ "callers": "local" }));
    fs::set_permissions(scripts.join("sms/send.json"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for (target, link) in [("sms/send", "alias"), ("sms", "folder"), ("sms/send.json", "terms")] {
        symlink(target, scripts.join(link)).expect("the prefix is ours");
    }
    for name in ["sms/send", "./sms/send", "sms//send", "alias", "folder/send"] {
        assert_failed(&peer.ask(&json!({ "name": name }).to_string()), -3, "denied", None);
    }
    for name in ["sms/send.json", "terms", "folder/send.json"] {
        let said = assert_failed(&peer.ask(&json!({ "name": name }).to_string()), -1, "not_executable", None);
        assert!(said.contains("this is the contract of a script"), "{said}");
    }
    assert_eq!(peer.ask(r#"{"name":"report.json"}"#), r#"{"status":0}"#, "with no script beside it, it is one itself");
    // A contract beside a link would be passed over, so it is refused.
    contract(server.prefix(), "alias", &json!({}));
    let said = assert_failed(&peer.ask(r#"{"name":"alias"}"#), -1, "forbidden", None);
    assert!(said.contains("alias.json is broken: it stands beside a link"), "{said}");
}

// ---- Shown -----------------------------------------------------------------------------------------------------

#[test]
fn scripts_are_listed_with_what_their_contracts_say_and_what_is_broken() {
    let server = Daemon::server().script("send", RAN).script("plain", RAN).script("broken", RAN).start();
    let prefix = server.prefix();
    let properties = json!({ "to": { "type": "string" }, "parts": { "type": "integer" } });
    let terms = json!({
        "description": "Sends.", "schema": { "type": "object", "properties": properties, "required": ["to"] },
        "callers": ["web-*", "local"], "timeout": "30s", "at_once": 2, "user": "root", "environment": ["PATH"], "output": "1KiB",
    });
    contract(prefix, "send", &terms);
    write(prefix, "broken", "{\"user\u{9b}\":1}");
    let scripts = server.connect().result("SCRIPTS", &Value::Null);
    let names: Vec<&Value> = scripts.as_array().expect("a list").iter().map(|script| &script["name"]).collect();
    assert_eq!(names, ["broken", "plain", "send"], "a contract is no script");
    let expected = json!({
        "description": "Sends.", "schema": "parts?: integer, to: string", "callers": ["web-*", "local"], "timeout": 30_000,
        "at_once": 2, "user": "root", "environment": ["PATH"], "output": 1024,
    });
    assert_eq!((&scripts[2]["contract"], &scripts[2]["refused"]), (&expected, &Value::Null));
    assert_eq!((&scripts[1]["contract"], &scripts[1]["refused"]), (&Value::Null, &Value::Null));
    assert!(
        scripts[0]["refused"].as_str().is_some_and(|why| why.contains("broken.json is broken: there is no key")),
        "{scripts}"
    );
    let mut list = command(&["scripts"]);
    list.env("WSDAEMON_PREFIX", prefix);
    let said = ran(list, "");
    let rows: Vec<String> = said.out.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let size = RAN.len();
    let expected = [
        "NAME MAY RUN SIZE BY AS TIMEOUT AT ONCE PARAMS WHAT".to_owned(),
        format!("broken no, refused {size} B - - - - - -"),
        format!("plain yes {size} B - - - - - -"),
        format!("send yes {size} B web-*, local root 30s 2 parts?: integer, to: string Sends."),
    ];
    assert_eq!(rows, expected);
    assert!(said.err.contains("broken.json is broken") && !said.err.contains('\u{9b}'), "{}", said.err);
}
