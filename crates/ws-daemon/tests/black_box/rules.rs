//! Who may ask for what: by rules and without any, peers, the server, processes of other users and by TCP; who learns what of a
//! refusal; and what EXPLAIN says of it.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use ws_daemon_protocol::command::Command;

use crate::support::{Daemon, DaemonPlan, EXIT, Local, Peer, command, daemons_say, need_root, ran};

const NOBODY: u32 = 65_534;
const ANOTHER: u32 = 1;

/// A group that is nobody's own.
const GROUP: u32 = 47_110;

/// Leaves a trace.
const RAN: &str = "#!/bin/sh\n: > \"$WSDAEMON_PREFIX/ran\"\n";

fn server(rules: &Value) -> DaemonPlan {
    Daemon::server().config(json!({ "name": "hub", "rules": rules })).script("exit", EXIT).script("ran", RAN)
}

fn hello(name: &str) -> Value {
    json!({ "name": name, "instance": format!("instance-{name}"), "epoch": 1, "features": ["queue"] })
}

/// A client of a name of its own, with its link up on both sides.
fn named(server: &Daemon, name: &str, more: &Value) -> Daemon {
    let links = server.log().count("link up");
    let client = Daemon::client(server).config(json!({ "name": name })).config(more.clone()).script("exit", EXIT).start();
    client.wait_log("link up");
    server.wait_log_times("link up", links + 1);
    client
}

fn asked(more: &Value) -> Value {
    let mut request = json!({ "name": "exit", "id": 1, "params": { "exit": 0 } });
    let (Some(request), Some(more)) = (request.as_object_mut(), more.as_object()) else { panic!("objects") };
    request.extend(more.clone());
    json!(request)
}

/// Asserts that a final line, or the data of a STATUS, says that it is denied, and returns the words.
#[track_caller]
fn denied(said: &Value) -> String {
    assert_eq!((&said["status"], &said["error"]), (&json!(-3), &json!("denied")), "{said}");
    said["message"].as_str().unwrap_or_else(|| panic!("no words: {said}")).to_owned()
}

/// What a peer hears that asks for something under an id.
#[track_caller]
fn answer(peer: &mut Peer, frame: &Value) -> Value {
    serde_json::from_str(&peer.ask(&frame.to_string())).expect("frames are JSON")
}

fn command_of_peer(code: &str, data: &Value) -> Value {
    json!({ "name": "&cmd", "id": "c", "params": { "code": code, "data": data }, "local": code == "STATUS" })
}

// ---- Peers -----------------------------------------------------------------------------------------------------

#[test]
fn without_a_rule_a_peer_asks_for_scripts_and_says_a_status_and_nothing_is_passed_on() {
    for rules in [Value::Null, json!([{ "who": ["local", "tcp"], "scripts": "nothing" }])] {
        let server = server(&rules).start();
        let mut listener = server.connect();
        let mut peer = Peer::dial_version2(&server, &hello("web"));
        assert_eq!(answer(&mut peer, &json!({ "name": "exit", "id": "r", "params": { "exit": 5 } }))["status"], 5);
        let said = answer(&mut peer, &command_of_peer("STATUS", &json!({ "status": 3 })));
        assert_eq!(said["status"], 0, "{said}");
        assert_eq!(listener.line(), r#"{"status":3}"#);
        assert!(denied(&answer(&mut peer, &command_of_peer("PEERS", &Value::Null))).contains("\"relay\" to true"));
        let hop = json!({ "name": "exit", "id": "h", "params": {}, "hop": { "to": "web" } });
        assert!(denied(&answer(&mut peer, &hop)).contains("\"relay\" to true"));
        // It is let: only there is nothing to pause.
        let said = answer(&mut peer, &command_of_peer("PAUSE", &json!(1)));
        assert_eq!(said["error"], "unsupported", "{said}");
    }
}

#[test]
fn with_a_rule_about_peers_what_none_gives_is_denied_and_a_denied_peer_learns_nothing_of_the_scripts() {
    let rules = json!([
        { "who": "anonymous", "scripts": ["exit", "sms/*"] },
        { "who": "secret-name", "scripts": "*", "commands": "*", "relay": true },
    ]);
    let server = server(&rules).script("sms/send", EXIT).start();
    let mut listener = server.connect();
    let mut peer = Peer::dial_version2(&server, &hello("secret-name"));
    let run =
        |name: &str| json!({ "name": name, "id": format!("run-{}", name.replace(['/', '.'], "-")), "params": { "exit": 5 } });
    assert_eq!(answer(&mut peer, &run("exit"))["status"], 5);
    assert_eq!(answer(&mut peer, &run("sms/send"))["status"], 5);
    assert_eq!(answer(&mut peer, &run("sms/none"))["error"], "not_found");
    // One that is there, one that is not, one that climbs: the words differ by the name alone.
    let words = ["ran", "none", "sms/../ran"].map(|name| denied(&answer(&mut peer, &run(name))).replace(name, "NAME"));
    assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), 1, "{words:?}");
    assert!(words[0].contains(r#"{"who":"anonymous","scripts":["NAME"]}"#) && !words[0].contains("secret"), "{words:?}");
    for (code, data) in [("STATUS", json!({ "status": 3 })), ("PAUSE", json!(1)), ("PEERS", Value::Null)] {
        assert!(denied(&answer(&mut peer, &command_of_peer(code, &data))).contains(code));
    }
    let hop = json!({ "name": "exit", "id": "h", "params": {}, "hop": { "to": "none" } });
    assert!(denied(&answer(&mut peer, &hop)).contains(r#""relay":true"#));

    // A seed peer hears it in the seed's words, and of a command nothing.
    let mut seed = Peer::dial(&server);
    assert_eq!(answer(&mut seed, &run("exit")), json!({ "status": 5, "id": "run-exit" }));
    denied(&answer(&mut seed, &run("ran")));
    seed.send_text(r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":3}}}"#);
    seed.send_text(r#"{"name":"&cmd","params":{"code":"PAUSE","data":1}}"#);
    seed.nothing_waiting();
    listener.nothing_waiting();
    assert!(!fs::exists(server.prefix().join("ran")).expect("the prefix is ours"));
}

#[test]
fn a_queued_run_that_is_denied_is_over_for_its_asker_and_leaves_nothing_with_the_doer() {
    let server = server(&json!([{ "who": "anonymous", "scripts": "exit" }])).start();
    let client = named(&server, "till", &json!({}));
    let mut process = client.connect();
    let (events, last) = process.run(&json!({ "name": "ran", "id": "q", "queue": true, "events": true }));
    denied(&last);
    assert_eq!(events.iter().map(|event| &event["event"]).collect::<Vec<_>>(), ["accepted"], "{events:?}");
    let (_, last) = process.run(&asked(&json!({ "queue": true })));
    assert_eq!(last["status"], 0, "{last}");
    let runs = server.connect().result("RUNS", &Value::Null);
    let names: Vec<&Value> = runs.as_array().expect("a list").iter().map(|run| &run["name"]).collect();
    assert_eq!(names, ["exit"], "{runs}");
    assert!(!fs::exists(server.prefix().join("ran")).expect("the prefix is ours"));
}

#[test]
fn a_queued_run_that_was_claimed_before_the_rules_changed_is_told_as_it_was() {
    let server = server(&Value::Null).start();
    let run = "0190a000-0000-7000-8000-000000000001";
    let frame = |run: &str| json!({ "name": "exit", "id": run, "params": { "exit": 5 }, "queue": true, "attempt": 1 });
    let status = |peer: &mut Peer| loop {
        let frame: Value = serde_json::from_str(&peer.text()).expect("frames are JSON");
        if frame["params"]["code"] == "STATUS" {
            return frame["params"]["data"].clone();
        }
    };
    let mut peer = Peer::dial_version2(&server, &hello("web"));
    peer.send_text(&frame(run).to_string());
    assert_eq!(status(&mut peer)["status"], 5);
    drop(peer);
    let server = server.kill().config(json!({ "port": 0, "rules": [{ "who": "anonymous", "scripts": "other" }] })).start();
    let mut peer =
        Peer::dial_version2(&server, &json!({ "name": "web", "instance": "instance-web", "epoch": 2, "features": ["queue"] }));
    // Told again unasked, and told when it is offered again; another one is denied.
    assert_eq!(status(&mut peer)["status"], 5);
    peer.send_text(&frame(run).to_string());
    let said = status(&mut peer);
    assert_eq!((&said["status"], &said["id"]), (&json!(5), &json!(run)), "{said}");
    peer.send_text(&frame("0190a000-0000-7000-8000-000000000002").to_string());
    denied(&status(&mut peer));
}

#[test]
fn a_client_has_rules_about_its_server_too() {
    let server = server(&Value::Null).start();
    let rules = json!([{ "who": "server", "scripts": "exit" }]);
    let client = named(&server, "till", &json!({ "rules": rules }));
    client.script("ran", RAN);
    let mut process = server.connect();
    assert_eq!(process.run(&asked(&json!({}))).1["status"], 0);
    let words = denied(&process.run(&json!({ "name": "ran", "id": 1 })).1);
    assert!(words.contains(r#"{"who":"server","scripts":["ran"]}"#), "{words}");
    // Its link is not to be closed by somebody else.
    process.send(r#"{"name":"&cmd","id":"p","params":{"code":"PAUSE","data":60000}}"#);
    denied(&process.said());
    assert_eq!(process.run(&asked(&json!({}))).1["status"], 0);
    assert!(!fs::exists(client.prefix().join("ran")).expect("the prefix is ours"));
}

#[test]
fn runs_are_passed_on_by_rules_and_who_may_not_hears_of_nobody() {
    let rules = json!([{ "who": "anonymous", "relay": true, "scripts": ["exit"], "targets": ["web-*", "tag:paper"] }]);
    // What holds for all where no rule is about peers does not where one is.
    let server = server(&rules).config(json!({ "relay": true })).start();
    let asker = named(&server, "till", &json!({}));
    let _others = [
        named(&server, "web-1", &json!({})),
        named(&server, "printer", &json!({ "tags": ["paper"] })),
        named(&server, "vault", &json!({})),
    ];
    let mut process = asker.connect();
    for queue in [false, true] {
        for (to, who) in [("web-1", "web-1"), ("printer", "printer"), ("tag:paper", "printer"), ("web-*", "web-1")] {
            let (_, last) = process.run(&asked(&json!({ "to": to, "id": format!("{to} {queue}"), "queue": queue })));
            assert_eq!((&last["status"], &last["peer"]), (&json!(0), &json!(who)), "{to} {queue}: {last}");
        }
        for (name, to) in [("exit", json!("vault")), ("exit", json!("none")), ("ran", json!("web-1"))] {
            let request = json!({ "name": name, "id": format!("{name} {to} {queue}"), "to": to, "queue": queue });
            let words = denied(&process.run(&request).1);
            assert!(words.contains(r#""who":"anonymous","relay":true"#) && !words.contains("paper"), "{words}");
        }
    }
    // Of a pattern that is wider, only those who may be asked; and if it is to be kept, none.
    let seen: BTreeSet<String> = (0..6)
        .map(|_| process.run(&asked(&json!({ "to": ["*r*", "v*", "w*"] }))).1["peer"].as_str().expect("a peer").to_owned())
        .collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["printer", "web-1"]);
    denied(&process.run(&asked(&json!({ "id": "kept", "to": ["*r*", "v*", "w*"], "queue": true }))).1);
    // Each: those of whom it hears, and the server, which it may ask too.
    process.send(asked(&json!({ "id": "each", "to": "*", "each": true })).to_string());
    let mut peers = BTreeSet::new();
    loop {
        let said = process.said();
        if said["event"] == "done" {
            break;
        }
        assert_eq!(said["status"], 0, "{said}");
        peers.insert(said["peer"].as_str().expect("a peer").to_owned());
    }
    assert_eq!(peers.into_iter().collect::<Vec<_>>(), ["hub", "printer", "web-1"]);
    let mut peer = Peer::dial_version2(&server, &hello("nosy"));
    let said = answer(&mut peer, &command_of_peer("PEERS", &Value::Null));
    let names: BTreeSet<&str> =
        said["result"].as_array().expect("a list").iter().filter_map(|peer| peer["name"].as_str()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["printer", "web-1"]);
}

#[test]
fn a_server_offers_to_pass_on_only_to_whom_a_rule_lets_it() {
    let offers = |config: Value| {
        let server = Daemon::server().config(config).start();
        let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
        peer.send_hello(&hello("web"));
        peer.hello()["features"].as_array().expect("a list").contains(&json!("relay"))
    };
    assert!(offers(json!({ "relay": true })));
    assert!(offers(json!({ "relay": true, "rules": [{ "who": "local", "scripts": "*" }] })));
    assert!(offers(json!({ "rules": [{ "who": "anonymous", "relay": true }] })));
    assert!(!offers(json!({ "relay": true, "rules": [{ "who": "anonymous", "scripts": "*" }] })));
    assert!(!offers(json!({ "rules": [{ "who": "desk", "relay": true }, { "who": "anonymous", "scripts": "*" }] })));
}

#[test]
fn a_peer_that_asks_too_often_is_told_to_come_later_and_what_is_queued_does() {
    let server = server(&Value::Null).config(json!({ "limits": { "peer_runs": 1 } })).start();
    let mut peer = Peer::dial(&server);
    for number in 0..30 {
        peer.send_text(&json!({ "name": "exit", "id": number, "params": { "exit": 0 } }).to_string());
    }
    let said: Vec<Value> = (0..30).map(|_| serde_json::from_str(&peer.status()).expect("JSON")).collect();
    let busy: Vec<&Value> = said.iter().filter(|said| said["status"] == -1).collect();
    // Ten at once, and one more for each second that it takes.
    assert!((1..=20).contains(&busy.len()), "{said:?}");
    let is_told = |said: &&Value| {
        said["error"] == "busy" && said["message"].as_str().is_some_and(|words| words.contains("limits.peer_runs"))
    };
    assert!(busy.iter().all(is_told), "{busy:?}");
    // Another peer is not concerned, and what it queues beyond its rate is done in time.
    let client = named(&server, "till", &json!({}));
    let mut process = client.connect();
    for number in 0..11 {
        process.send(asked(&json!({ "id": number, "queue": true })).to_string());
    }
    let mut done = BTreeSet::new();
    while done.len() < 11 {
        let said = process.said();
        if said["status"].is_number() {
            assert_eq!(said["status"], 0, "{said}");
            done.insert(said["id"].as_u64());
        }
    }
}

// ---- Processes of this machine -------------------------------------------------------------------------------

/// A server with three clients, on which another user may ask for `exit`, of web-* and of whoever has the tag.
fn fleet(rules: &Value) -> (Daemon, [Daemon; 3]) {
    let server = server(rules).start();
    let clients = [
        named(&server, "web-1", &json!({})),
        named(&server, "mail", &json!({ "tags": ["sms"] })),
        named(&server, "vault", &json!({})),
    ];
    (server, clients)
}

/// Who runs it, of several requests.
#[track_caller]
fn runners(process: &mut Local, request: &Value) -> Vec<String> {
    let runner = |_| {
        let (_, last) = process.run(request);
        assert_eq!(last["status"], 0, "{last}");
        last["peer"].as_str().expect("a peer").to_owned()
    };
    (0..6).map(runner).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn a_process_of_another_user_asks_for_what_a_rule_gives_it_and_root_for_everything() {
    if !need_root() {
        return;
    }
    let rules = json!([
        { "who": format!("user:{NOBODY}"), "scripts": "exit", "targets": ["web-*", "tag:sms"], "commands": ["RUNS"] },
        { "who": format!("group:{GROUP}"), "scripts": "exit" },
    ]);
    let (server, _clients) = fleet(&rules);
    let mut user = server.connect_as(NOBODY, &[]);
    for name in ["ran", "none"] {
        let words = denied(&user.run(&json!({ "name": name, "id": 1 })).1);
        assert!(words.contains(&format!(r#"{{"who":"user:{NOBODY}","scripts":["{name}"]}}"#)), "{words}");
    }
    // One of those it may ask, and of these in turn; in the seed's own grammar the seed's own answer.
    assert_eq!(runners(&mut user, &asked(&json!({ "events": true }))), ["mail", "web-1"]);
    assert_eq!(user.ask(r#"{"name":"exit","id":7,"params":{"exit":3}}"#), r#"{"status":3,"id":7}"#);
    assert_eq!(runners(&mut user, &asked(&json!({ "to": "web-*" }))), ["web-1"]);
    assert_eq!(runners(&mut user, &asked(&json!({ "to": "*a*" }))), ["mail"]);
    for to in [json!("vault"), json!("v*"), json!("none"), json!(["vault", "!mail"])] {
        let words = denied(&user.run(&asked(&json!({ "to": to }))).1);
        assert!(words.contains("targets"), "{to}: {words}");
    }
    // A fan-out does not include the others.
    user.send(asked(&json!({ "to": "*", "each": true })).to_string());
    let peers: BTreeSet<String> = [user.said(), user.said()].iter().map(|said| said["peer"].to_string()).collect();
    assert_eq!(peers.into_iter().collect::<Vec<_>>(), ["\"mail\"", "\"web-1\""]);
    assert_eq!(user.said()["event"], "done");
    user.send(asked(&json!({ "to": "va*", "each": true })).to_string());
    denied(&user.said());
    // What is kept until somebody comes must be for those that a rule names.
    let queued = |to: Value| asked(&json!({ "id": format!("{to}"), "to": to, "queue": true }));
    for to in [json!("web-1"), json!("web-*"), json!("tag:sms"), json!("mail")] {
        assert_eq!(user.run(&queued(to.clone())).1["status"], 0, "{to}");
    }
    for to in [json!("w*"), json!("vault"), Value::Null] {
        let mut request = queued(to);
        if request["to"].is_null() {
            request.as_object_mut().expect("an object").remove("to");
        }
        denied(&user.run(&request).1);
    }
    assert_eq!(user.command("RUNS", &Value::Null)["status"], 0);
    assert!(denied(&user.command("STATS", &Value::Null)).contains(r#""commands":["STATS"]"#));
    user.send(r#"{"name":"&cmd","id":"p","params":{"code":"PAUSE","data":1}}"#);
    denied(&user.said());

    // By a group beside its own; without it nothing, whatever the user is.
    let mut member = server.connect_as(ANOTHER, &[GROUP]);
    assert_eq!(runners(&mut member, &asked(&json!({ "events": true }))), ["mail", "vault", "web-1"]);
    let mut stranger = server.connect_as(ANOTHER, &[]);
    denied(&stranger.run(&asked(&json!({}))).1);
    assert_eq!(server.connect().command("STATS", &Value::Null)["status"], 0);
    assert_eq!(runners(&mut server.connect(), &asked(&json!({ "to": "vault" }))), ["vault"]);
}

#[test]
fn a_script_that_gets_the_outcome_must_be_one_that_the_process_may_ask_for() {
    if !need_root() {
        return;
    }
    let (server, _clients) = fleet(&json!([{ "who": "local", "scripts": ["exit", "note"] }]));
    server.script("note", "#!/bin/sh\n: > noted\n");
    let mut user = server.connect_as(NOBODY, &[]);
    let words = denied(&user.run(&asked(&json!({ "then": "ran" }))).1);
    assert!(words.contains(r#""scripts":["ran"]"#), "{words}");
    assert_eq!(user.run(&asked(&json!({ "then": "note" }))).1["status"], 0);
    crate::support::wait_for("the note", || server.prefix().join("noted").exists());
    assert!(!fs::exists(server.prefix().join("ran")).expect("the prefix is ours"));
}

#[test]
fn by_tcp_runs_and_two_commands_are_allowed_and_no_rule_gives_more() {
    let tcp = |rules: &Value| {
        let server = server(rules).env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
        let client = named(&server, "web-1", &json!({}));
        (server, client)
    };
    let (server, _client) = tcp(&Value::Null);
    let mut caller = server.connect_tcp();
    assert_eq!(caller.run(&asked(&json!({}))).1["status"], 0);
    assert!(denied(&caller.command("STATS", &Value::Null)).starts_with("not by TCP; use the socket file"));
    for commands in [json!(["STATUS"]), json!("*")] {
        let rules = json!([{ "who": ["tcp", "user:1"], "scripts": "exit", "commands": commands }]);
        let (server, _client) = tcp(&rules);
        let mut caller = server.connect_tcp();
        assert_eq!(caller.run(&asked(&json!({}))).1["status"], 0);
        denied(&caller.run(&json!({ "name": "ran", "id": 1 })).1);
        for code in Command::CODES.into_iter().filter(|code| !["STATUS", "PAUSE", "RUN", "CANCEL"].contains(code)) {
            let data = match code {
                "EXPLAIN" => json!({ "as": "x", "name": "y" }),
                "KEYS" => json!({ "do": "rotate" }),
                "CALLERS" => json!({ "do": "list" }),
                "SERVE" => json!({ "names": ["x"] }),
                "INVITE" | "REVOKE" | "ROTATE" => json!({ "name": "x" }),
                _ => Value::Null,
            };
            let words = denied(&caller.command(code, &data));
            assert!(words.ends_with("by TCP there are runs, PAUSE and STATUS only"), "{code}: {words}");
        }
    }
    // A rule about processes of the socket closes TCP, too.
    let (server, _client) = tcp(&json!([{ "who": "local", "scripts": "*" }, { "who": "tcp", "commands": "STATUS" }]));
    denied(&server.connect_tcp().run(&asked(&json!({}))).1);
}

// ---- The words of config.json, and EXPLAIN -----------------------------------------------------------------------

#[test]
fn a_mistake_in_a_rule_is_shown_with_its_line() {
    let check = |rules: &str| {
        let prefix = tempfile::tempdir().expect("a temporary folder can be made");
        let config = format!("{{\n\"mode\": \"server\",\n\"rules\": [\n{{ \"who\": \"web\" }},\n{rules}\n]\n}}");
        fs::write(prefix.path().join("config.json"), config).expect("the prefix is ours");
        let mut command = command(&["check"]);
        command.env("WSDAEMON_PREFIX", prefix.path());
        ran(command, "")
    };
    let table = [
        (
            r#"{ "who": "x", "scirpts": "*" }"#,
            &["config.json:5", "there is no setting \"scirpts\"", "did you mean \"scripts\"?"][..],
        ),
        (r#"{ "scripts": "*" }"#, &["config.json:5", "missing field `who`"]),
        (r#"{ "who": "x", "commands": ["HELLO"] }"#, &["config.json:5", "rules[1].commands", "there is no command \"HELLO\""]),
        (r#"{ "who": "user:" }"#, &["config.json:5", "rules[1].who", "lacks a name or a number"]),
        (r#"{ "who": "x", "targets": 5 }"#, &["config.json:5", "rules[1].targets", "a name, a glob"]),
        (r#"{ "who": "x", "relay": "yes" }"#, &["config.json:5", "rules[1].relay"]),
        (
            r#"{ "who": "tcp", "commands": ["STATUS", "STATS"] }"#,
            &["rules[1]: no rule can let STATS be given by TCP: only PAUSE and STATUS are", "\"local\" in a rule of its own"],
        ),
        (r#"{ "who": "tag:x", "commands": "REVOKE" }"#, &["rules[1]: no rule can let a peer give REVOKE", "own daemon only"]),
        (r#"{ "who": "user:nobody-of-this-name" }"#, &["rules[1]: this machine knows no user \"nobody-of-this-name\""]),
    ];
    for (rule, expected) in table {
        let said = check(rule);
        assert_eq!((said.code, &*said.out), (78, ""), "{rule}: {said:?}");
        for words in expected {
            assert!(said.err.contains(words), "{words:?} is not in {}", said.err);
        }
    }
    let said = check(r#"{ "who": "user:0", "scripts": ["sms/*"] }"#);
    assert_eq!((said.code, &*said.err), (0, ""));
    assert!(said.out.contains(r#"{"scripts":["sms/*"],"who":["user:0"]}"#), "{}", said.out);
}

#[test]
fn explain_says_who_may_which_rule_decides_and_who_would_get_it() {
    let rules = json!([
        { "who": "till-*", "scripts": "sms/*" },
        { "who": "anonymous", "scripts": "exit", "relay": true, "targets": "web-*" },
        { "who": "server", "scripts": "backup" },
        { "who": ["user:1", "tcp"], "scripts": "exit", "targets": ["web-*", "mail"] },
    ]);
    let (server, [_web, mail, _vault]) = fleet(&rules);
    drop(mail);
    server.wait_log("link down");
    let explain = |words: &[&str]| {
        let socket = server.socket().to_str().expect("plain");
        ran(command(&[&["explain", "--socket", socket], words].concat()), "")
    };
    let table: [(&[&str], bool, &str, &[&str]); 15] = [
        (&["--as", "till-1", "sms/send"], true, "rules[0]", &["about till-*", "nor in the register: judged as"]),
        (&["--as", "till-1", "exit"], false, "no rule", &[r#"{"who":"till-1","scripts":["exit"]}"#]),
        (&["--as", "web-1", "exit"], true, "rules[1]", &["the rules for \"anonymous\" hold"]),
        (&["--as", "anonymous", "exit"], true, "rules[1]", &["about anonymous"]),
        (&["--as", "anonymous", "sms/send"], false, "no rule", &[]),
        (&["--as", "server", "backup"], true, "rules[2]", &[]),
        (&["--as", "vault", "--to", "web-1", "exit"], true, "rules[1]", &["web-1: connected, and next"]),
        (&["--as", "web-1", "--to", "web-*", "exit"], true, "rules[1]", &["nobody who matches"]),
        (&["--as", "vault", "--to", "mail", "exit"], false, "no rule", &[r#""relay":true"#]),
        (&["--as", "user:0", "anything"], true, "owner", &["root and the daemon's own user", "mail: absent"]),
        (&["--as", "user:1", "exit"], true, "rules[3]", &["web-1: connected, and next", "mail: absent"]),
        (&["--as", "user:1", "--to", "vault", "exit"], false, "no rule", &[r#""targets":"vault""#]),
        (&["--as", "user:2", "exit"], false, "no rule", &[]),
        (&["--as", "tcp", "--to", "web-1", "exit"], true, "rules[3]", &["web-1: connected, and next"]),
        (&["--as", "tcp", "sms/send"], false, "no rule", &["not by TCP"]),
    ];
    for (words, allowed, by, parts) in table {
        let said = explain(words);
        assert_eq!((said.code, &*said.err), (if allowed { 0 } else { 77 }, ""), "{words:?}: {said:?}");
        for part in parts.iter().chain([if allowed { &" may ask for " } else { &" may not ask for " }]) {
            assert!(said.out.contains(part), "{part:?} is not in {}", said.out);
        }
        assert!(by == "owner" || !said.out.contains("vault:"), "{}", said.out);
        let json: Value = serde_json::from_str(&explain(&[words, &["--json"]].concat()).out).expect("JSON");
        assert_eq!((&json["allowed"], &json["by"]), (&json!(allowed), &json!(by)), "{words:?}: {json}");
    }
    let said = explain(&["--as", "user:nobody-of-this-name", "exit"]);
    assert_eq!(said.code, 69, "{said:?}");
    // It is asked of one's own daemon, and counts nothing.
    let mut process = server.connect();
    process.send(r#"{"name":"&cmd","id":"e","params":{"code":"EXPLAIN","data":{"as":"x","name":"y"}}}"#);
    denied(&process.said());
    let mut peer = Peer::dial_version2(&server, &hello("nosy"));
    peer.send_text(&daemons_say("EXPLAIN", &json!({ "as": "x", "name": "y" })));
    peer.nothing_waiting();
}

#[test]
fn explain_knows_a_registered_peer_that_is_not_connected_by_the_register() {
    let rules = json!([{ "who": "tag:shop", "scripts": "exit" }, { "who": "till", "scripts": "report" }]);
    let server = server(&rules).start();
    let tool = |words: &[&str]| {
        let mut command = command(words);
        command.env("WSDAEMON_PREFIX", server.prefix());
        ran(command, "")
    };
    let joins = |words: &[&str]| {
        let url = format!("ws://127.0.0.1:{}", server.port());
        let invited = tool(&[&["invite", "--url", &url], words].concat());
        let joined = tool(&["join", "--seed", invited.out.trim()]);
        assert_eq!(joined.code, 0, "{joined:?}");
    };
    joins(&["till", "--tag", "shop", "--allow", "sms/*"]);
    joins(&["gone", "--tag", "shop"]);
    joins(&["lost", "--tag", "shop"]);
    assert_eq!(tool(&["peers", "revoke", "gone"]).code, 0);
    assert_eq!(tool(&["peers", "rotate", "lost", "--at-once"]).code, 0);
    let table: [(&str, &str, bool, &str, &str); 8] = [
        ("till", "exit", true, "rules[0]", "judged by what the register gives it"),
        ("till", "report", true, "rules[1]", "judged by what the register gives it"),
        ("till", "sms/send", true, "invitation", "its invitation allows it"),
        ("till", "ran", false, "no rule", "none of them allows it"),
        ("gone", "exit", false, "revoked", "it was revoked: it does not get in"),
        ("lost", "exit", true, "rules[0]", "does not get in until it has joined again"),
        ("unknown", "exit", false, "no rule", "nor in the register"),
        ("unknown", "sms/send", false, "no rule", "nor in the register"),
    ];
    for (name, script, allowed, by, words) in table {
        let said = tool(&["explain", "--as", name, script]);
        assert_eq!((said.code, &*said.err), (if allowed { 0 } else { 77 }, ""), "{name} {script}: {said:?}");
        assert!(said.out.contains(words), "{words:?} is not in {}", said.out);
        let said: Value = serde_json::from_str(&tool(&["explain", "--json", "--as", name, script]).out).expect("JSON");
        assert_eq!((&said["allowed"], &said["by"]), (&json!(allowed), &json!(by)), "{name} {script}: {said}");
    }
    let said = tool(&["explain", "--json", "--as", "gone", "--to", "till", "exit"]);
    let said: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((&said["by"], &said["to"], said.get("peers")), (&json!("revoked"), &json!("till"), None), "{said}");
}

#[test]
fn explain_without_rules_names_the_default() {
    let server = server(&Value::Null).start();
    let mut process = server.connect();
    let mut explain = |data: Value| process.result("EXPLAIN", &data);
    let said = explain(json!({ "as": "web", "name": "exit" }));
    assert_eq!((&said["allowed"], &said["by"]), (&json!(true), &json!("default")), "{said}");
    let said = explain(json!({ "as": "web", "name": "exit", "to": "till" }));
    assert_eq!((&said["allowed"], &said["by"]), (&json!(false), &json!("default")), "{said}");
    assert!(said["why"].as_str().is_some_and(|why| why.contains("\"relay\" to true")), "{said}");
    let said = explain(json!({ "as": "user:1", "name": "exit" }));
    assert_eq!((&said["allowed"], &said["peers"]), (&json!(true), &json!([])), "{said}");
}
