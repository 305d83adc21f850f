//! The audit log: a line for each decision and each run, which no content forges, and which is waited for where it cannot be written.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_setpipe_size;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Daemon, EXIT, Peer, command, exit, need_namespaces, ran, wait_for};

fn hello(name: &str) -> Value {
    json!({ "name": name, "instance": format!("instance-{name}"), "epoch": 1, "features": ["queue"] })
}

/// The lines of the log, without their times, which are such.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(line).collect()
}

#[track_caller]
fn line(text: &str) -> Value {
    assert!(text.starts_with("{\"time\":\"2") && text[..50].contains("Z\",\"event\":\""), "{text}");
    let mut line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    line.as_object_mut().expect("an object").remove("time");
    line
}

/// The lines once there are so many of an event.
#[track_caller]
fn wait_lines(path: &Path, event: &str, times: usize) -> Vec<Value> {
    wait_for(&format!("{times} lines of {event}"), || {
        lines(path).iter().filter(|line| line["event"] == event).count() >= times
    });
    lines(path)
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

/// In lower-case hex.
fn sha256(text: &str) -> String {
    let mut hex = String::new();
    Sha256::digest(text).iter().for_each(|byte| hex.push_str(&format!("{byte:02x}")));
    hex
}

#[test]
fn there_is_a_line_for_each_decision_and_for_each_run() {
    let rules = json!([
        { "who": "anonymous", "scripts": ["exit", "none"], "commands": "STATUS" },
        { "who": "tcp", "commands": "*" },
    ]);
    let config = json!({ "audit": true, "rules": rules, "name": "hub" });
    let server = Daemon::server().config(config).env("WSDAEMON_LOCAL", "127.0.0.1:0").script("exit", EXIT).start();
    let path = server.prefix().join("audit.jsonl");
    assert_eq!(fs::metadata(&path).expect("it is made at once").permissions().mode() & 0o777, 0o600);

    // Who comes in, and who does not.
    let refusal = Peer::try_dial(&server, "/", &[("origin", "https://example.org")]).err().expect("refused");
    assert_eq!(refusal.status, 403);
    let mut peer = Peer::dial_version2(&server, &hello("web"));
    let found = lines(&path);
    let links = of(&found, "link");
    assert_eq!((links.len(), &links[0]["allowed"]), (2, &json!(false)), "{found:?}");
    assert!(links[0]["why"].as_str().is_some_and(|why| why.contains("Origin")) && links[0]["address"].is_string(), "{found:?}");
    let mut came = links[1].clone();
    assert!(came.as_object_mut().expect("an object").remove("address").is_some_and(|address| address.is_string()));
    let who = json!({ "event": "link", "peer": "web", "instance": "instance-web", "standing": "anonymous", "allowed": true });
    assert_eq!(came, who);

    // What a peer asks for.
    let mut ask = |frame: Value| -> Value { serde_json::from_str(&peer.ask(&frame.to_string())).expect("JSON") };
    assert_eq!(ask(json!({ "name": "exit", "id": "r-1", "params": { "exit": 5 } }))["status"], 5);
    assert_eq!(ask(json!({ "name": "none", "id": "r-2" }))["status"], -1);
    assert_eq!(ask(json!({ "name": "other", "id": "r-3" }))["status"], -3);
    assert_eq!(ask(json!({ "name": "exit", "id": "r-4", "hop": { "to": "till" } }))["status"], -3);
    let pause = json!({ "name": "&cmd", "id": "c", "params": { "code": "PAUSE", "data": 1 }, "local": true });
    assert_eq!(ask(pause)["status"], -3);
    let said = json!({ "name": "&cmd", "id": "c", "params": { "code": "STATUS", "data": { "status": 1 } }, "local": true });
    assert_eq!(ask(said)["status"], 0);
    wait_lines(&path, "ended", 2);
    let found = wait_lines(&path, "command", 2);
    let told = |line: &Value| json!([line["run"], line["script"], line["allowed"], line["by"]]);
    let runs: Vec<Value> = of(&found, "run").into_iter().map(told).collect();
    let expected = [
        json!(["r-1", "exit", true, "rules[0]"]),
        json!(["r-2", "none", true, "rules[0]"]),
        json!(["r-3", "other", false, "no rule"]),
    ];
    assert_eq!(runs, expected);
    let first = of(&found, "run")[0];
    assert_eq!((&first["peer"], &first["standing"]), (&json!("web"), &json!("anonymous")));
    assert_eq!(first["params"], json!({ "bytes": 10, "sha256": sha256("{\"exit\":5}") }));
    assert_eq!((&of(&found, "relay")[0]["to"], &of(&found, "relay")[0]["allowed"]), (&json!("till"), &json!(false)));
    let started = of(&found, "started");
    assert_eq!((started.len(), &started[0]["run"], &started[0]["script"]), (1, &json!("r-1"), &json!("exit")));
    assert!(started[0]["pid"].as_u64().is_some_and(|pid| pid > 1), "{started:?}");
    let ended = of(&found, "ended");
    let told = |line: &Value| json!([line["run"], line["status"], line["error"]]);
    let ended: BTreeSet<String> = ended.into_iter().map(|line| told(line).to_string()).collect();
    assert_eq!(ended, [r#"["r-1",5,null]"#, r#"["r-2",-1,"not_found"]"#].map(str::to_owned).into());
    let told = |line: &Value| json!([line["peer"], line["code"], line["allowed"]]);
    let commands: Vec<Value> = of(&found, "command").into_iter().map(told).collect();
    assert_eq!(commands, [json!(["web", "PAUSE", false]), json!(["web", "STATUS", true])]);

    // What a process asks for: of the socket, with its user, and by TCP.
    let mut process = server.connect();
    let (mut tcp, pid) = (server.connect_tcp(), std::process::id());
    process.send(r#"{"name":"exit","id":"i","to":"nobody","then":"exit","params":[1]}"#);
    assert_eq!(process.said()["status"], -2);
    tcp.send(r#"{"name":"exit","id":"i"}"#);
    assert_eq!(tcp.said()["status"], -3);
    assert_eq!(tcp.command("STATS", &Value::Null)["status"], -3);
    tcp.nothing_waiting();
    process.nothing_waiting();
    let found = wait_lines(&path, "ask", 2);
    let params = json!({ "bytes": 3, "sha256": sha256("[1]") });
    let user = rustix::process::geteuid().as_raw();
    let by_socket = json!({
        "event": "ask", "uid": user, "pid": pid, "script": "exit", "id": "\"i\"", "to": "nobody", "then": "exit",
        "params": params, "allowed": true, "by": "owner",
    });
    let by_tcp = json!({
        "event": "ask", "tcp": true, "script": "exit", "id": "\"i\"", "params": { "bytes": 4, "sha256": sha256("null") },
        "allowed": false, "by": "no rule",
    });
    assert_eq!(of(&found, "ask"), [&by_socket, &by_tcp]);
    let stats = json!({ "event": "command", "tcp": true, "code": "+STATS", "allowed": false, "by": "nothing" });
    let status = json!({ "event": "command", "tcp": true, "code": "+STATUS", "allowed": true, "by": "rules[1]" });
    wait_for("the commands by TCP", || {
        let found = lines(&path);
        [&stats, &status].iter().all(|line| of(&found, "command").contains(line))
    });
}

#[test]
fn whoever_is_refused_for_who_it_is_stands_there_with_the_name_that_it_claims() {
    let server = Daemon::server().config(json!({ "audit": true })).start();
    let path = server.prefix().join("audit.jsonl");
    // A trade, and what is none.
    let url = format!("ws://127.0.0.1:{}", server.port());
    let line = server.told(&["invite", "web", "--url", &url]);
    let proxy = server.told(&["join", "--seed", &line]);
    let mut again = command(&["join", "--seed", &line]);
    again.env("WSDAEMON_PREFIX", server.prefix());
    assert_eq!(ran(again, "").code, 77);
    let found = wait_lines(&path, "join", 2);
    let joins = of(&found, "join");
    assert_eq!((&joins[0]["peer"], &joins[0]["allowed"]), (&json!("web"), &json!(true)), "{joins:?}");
    assert_eq!((&joins[1]["claimed"], &joins[1]["allowed"]), (&json!("web"), &json!(false)), "{joins:?}");
    assert!(joins[1]["why"].as_str().is_some_and(|why| why.contains("used already")), "{joins:?}");
    assert!(joins.iter().all(|line| line["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:"))));

    // At the door.
    let good = proxy.strip_prefix("ws://").and_then(|rest| rest.split_once('@')).expect("name:token@").0;
    let basic = |shown: &str| format!("Basic {}", BASE64_STANDARD.encode(shown));
    for wrong in ["web:wrong", "nobody\n:wrong"] {
        assert_eq!(Peer::try_dial(&server, "/", &[("authorization", &basic(wrong))]).err().expect("refused").status, 401);
    }
    // And behind its HELLO.
    let shown = basic(good);
    let come = |with_token: bool, hello: &Value| {
        let headers: &[_] = if with_token { &[("ws-daemon", "2"), ("authorization", &shown)] } else { &[("ws-daemon", "2")] };
        let mut peer = Peer::try_dial(&server, "/", headers).expect("it is heard");
        peer.send_hello(hello);
        peer
    };
    let mut web = come(true, &hello("web"));
    web.hello();
    let mut desk = hello("desk");
    desk["configured"] = true.into();
    let mut taken = come(false, &desk);
    taken.hello();
    desk["instance"] = "instance-other".into();
    let refused = [
        (false, hello("desk"), "a clone"),
        (false, desk.clone(), "is taken"),
        (true, json!({ "name": "web", "instance": "stolen", "epoch": 1 }), "belongs to another daemon"),
        (true, desk, "claims to be"),
        (false, json!({ "name": "web", "instance": "fresh", "epoch": 1 }), "is a registered peer"),
    ];
    for (with_token, hello, _) in &refused {
        assert!(come(*with_token, hello).closed().is_some_and(|code| code >= 4000), "{hello}");
    }
    let found = wait_lines(&path, "link", 2 + 2 + refused.len());
    let links: Vec<&Value> = of(&found, "link").into_iter().filter(|line| line["allowed"] == false).collect();
    assert_eq!(links.len(), 2 + refused.len(), "{links:?}");
    for (line, claimed) in links.iter().zip(["web", "nobody\n"]) {
        assert_eq!(line["claimed"], claimed, "{line}");
        assert!(line["why"].as_str().is_some_and(|why| why.starts_with("no peer of this server has this name and this token")));
    }
    for (line, (_, hello, words)) in links[2..].iter().zip(&refused) {
        assert_eq!((&line["claimed"], &line["instance"]), (&hello["name"], &hello["instance"]), "{line}");
        assert!(line["why"].as_str().is_some_and(|why| why.contains(words)), "{words:?} is not in {line}");
        assert!(line["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{line}");
    }
    let text = fs::read_to_string(&path).expect("the prefix is ours");
    assert!(!text.contains(good.split_once(':').expect("a token").1));
}

#[test]
fn no_name_no_id_and_no_params_forge_a_line() {
    let config = json!({ "audit": { "path": "a.jsonl", "params": true } });
    let server = Daemon::server().config(config).start();
    let path = server.prefix().join("a.jsonl");
    let nasty = "x\n{\"time\":\"2\",\"event\":\"forged\"}\r\n\"\\\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}\u{2028}\u{2029}\u{202e}\u{0}";
    let mut peer = Peer::dial(&server);
    peer.send_text(&json!({ "name": nasty, "id": nasty, "params": nasty }).to_string());
    assert!(peer.status().contains("\"status\":-1"));
    let mut v2 = Peer::dial_version2(&server, &hello("web"));
    v2.send_text(&json!({ "name": "x", "id": "r", "params": { "a": nasty }, "hop": { "to": nasty } }).to_string());
    assert!(v2.status().contains("\"status\":-3"));
    let mut process = server.connect();
    process.send(json!({ "name": nasty, "id": nasty, "to": nasty, "then": nasty, "params": nasty }).to_string());
    assert_eq!(process.said()["status"], -2);
    wait_lines(&path, "ended", 1);
    let found = wait_lines(&path, "ask", 1);
    assert!(found.iter().all(|line| line["event"] != "forged"));
    for event in ["run", "ask"] {
        let line = of(&found, event)[0];
        assert_eq!((&line["script"], &line["params"]["text"]), (&json!(nasty), &json!(json!(nasty).to_string())), "{line}");
    }
    let text = fs::read_to_string(&path).expect("the prefix is ours");
    let strange = |char: char| char != '\n' && (char.is_control() || ('\u{2028}'..='\u{202e}').contains(&char));
    assert!(!text.contains(strange), "{text:?}");
}

#[test]
fn a_log_that_is_renamed_away_is_made_anew_without_a_restart() {
    let server = Daemon::server().config(json!({ "audit": true })).start();
    let (path, old) = (server.prefix().join("audit.jsonl"), server.prefix().join("audit.1"));
    let mut process = server.connect();
    process.command("STATS", &Value::Null);
    wait_for("the first lines", || lines(&path).iter().any(|line| line["code"] == "+STATS"));
    fs::rename(&path, &old).expect("the prefix is ours");
    process.command("RUNS", &Value::Null);
    wait_for("the new file", || lines(&path).iter().any(|line| line["code"] == "+RUNS"));
    assert!(lines(&path).iter().all(|line| line["code"] != "+STATS") && lines(&old).iter().all(|line| line["code"] != "+RUNS"));
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_log_that_others_can_write_is_refused_at_the_start() {
    let prefix = tempfile::tempdir().expect("a temporary folder can be made");
    let config = json!({ "mode": "server", "port": 0, "listen": "127.0.0.1", "audit": "a.jsonl" });
    fs::write(prefix.path().join("config.json"), config.to_string()).expect("the prefix is ours");
    let log = prefix.path().join("a.jsonl");
    fs::write(&log, "").expect("the prefix is ours");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o620)).expect("the file is ours");
    let mut daemon = command(&["run"]);
    daemon.env("WSDAEMON_PREFIX", prefix.path()).env("WSDAEMON_LOCAL", "off");
    let said = ran(daemon, "");
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.err.contains("a.jsonl") && said.err.contains("chmod 600"), "{said:?}");
}

#[test]
fn while_nobody_reads_the_pipe_that_is_the_log_runs_wait_and_nothing_is_lost() {
    const RUNS: usize = 200;
    let server = Daemon::server().start();
    let client = Daemon::client(&server).config(json!({ "audit": "pipe" })).script("exit", EXIT);
    let pipe = client.prefix().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("the prefix is ours");
    let client = client.start();
    server.wait_log("link up");
    let mut process = server.connect();
    for number in 0..RUNS {
        process.send(exit(&number.to_string(), 3));
    }
    client.wait_log("the audit log cannot be written: runs wait");
    // Not one has begun.
    assert_eq!(client.log().count("run ended"), 0, "{}", client.log());

    // Somebody has it open who does not read: it is soon full.
    let reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&pipe);
    let reader: File = reader.expect("the pipe is ours");
    fcntl_setpipe_size(&reader, 4 * 4096).expect("four pages are allowed");
    client.wait_log("the audit log is written again");
    // The kernel fills pages, and not each to its end.
    wait_for("a full pipe", || ioctl_fionread(&reader).expect("it is a pipe") >= 2 * 4096);
    assert_eq!(client.log().count("run ended"), 0, "{}", client.log());

    // Somebody reads.
    rustix::fs::fcntl_setfl(&reader, OFlags::empty()).expect("it is a pipe");
    let mut lines = BufReader::new(reader).lines().map(|text| line(&text.expect("a line")));
    let (mut started, mut ended) = (0, 0);
    while ended < RUNS {
        let line = lines.next().expect("the daemon has it open");
        started += usize::from(line["event"] == "started");
        ended += usize::from(line["event"] == "ended");
    }
    assert_eq!(started, RUNS);
    for _ in 0..RUNS {
        assert_eq!(process.said()["status"], 3);
    }
}

#[test]
fn while_the_disk_of_the_log_is_full_runs_wait_and_when_it_has_room_no_line_is_missing_or_cut() {
    const MOUNTS: &str = "mount -t tmpfs -o size=64k,mode=700 small \"$WSDAEMON_PREFIX/small\" && exec \"$@\"";
    const RUNS: usize = 50;
    if !need_namespaces() {
        return;
    }
    let server = Daemon::server().start();
    let starter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNTS, "sh"];
    let client = Daemon::client(&server).config(json!({ "audit": "small/a.jsonl" })).script("exit", EXIT).started_by(&starter);
    fs::create_dir(client.prefix().join("small")).expect("the prefix is ours");
    let client = client.start();
    server.wait_log("link up");
    // As the daemon sees it.
    let small = Path::new("/proc").join(client.pid().as_raw_nonzero().to_string()).join("root");
    let small = small.join(client.prefix().strip_prefix("/").expect("an absolute path")).join("small");
    let mut process = server.connect();
    assert_eq!(process.ask(&exit("\"first\"", 3)), r#"{"status":3,"id":"first"}"#);
    wait_lines(&small.join("a.jsonl"), "ended", 1);
    let filler = small.join("filler");
    fs::write(&filler, vec![0; 128 << 10]).expect_err("it is small");
    for number in 0..RUNS {
        process.send(exit(&number.to_string(), 3));
    }
    client.wait_log("the audit log cannot be written: runs wait");
    fs::remove_file(&filler).expect("the filler is ours");
    for _ in 0..RUNS {
        assert_eq!(process.said()["status"], 3);
    }
    client.wait_log("the audit log is written again");
    let found = wait_lines(&small.join("a.jsonl"), "ended", RUNS + 1);
    for event in ["run", "started", "ended"] {
        assert_eq!(of(&found, event).len(), RUNS + 1, "{event}");
    }
}

#[test]
fn a_daemon_whose_log_nobody_reads_still_stops_in_its_time() {
    let server = Daemon::server().config(json!({ "audit": "pipe" }));
    mknodat(CWD, server.prefix().join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("the prefix is ours");
    let mut server = server.start();
    let mut process = server.connect();
    assert_eq!(process.command("STATS", &Value::Null)["status"], 0);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait_exit(crate::support::DEADLINE).code(), Some(0));
    server.wait_log("last lines of the audit log could not be written");
}
