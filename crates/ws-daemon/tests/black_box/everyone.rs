//! Everything that can be asked, by everyone who may not: each command, each kind of request and each kind of frame, from each kind of
//! asker whom no rule gives it. After each nothing is another than before. A code or a kind that has no row here does not compile or
//! fails the test; an asker is a column, and columns are listed in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use ws_daemon_protocol::codec::v2::{self, Frame, Roots};
use ws_daemon_protocol::command::{Command, Place};

use crate::support::{DEADLINE, Daemon, Fifo, Local, Peer, PeerListener, Web, command, daemons_say, need_root, ran, wait_for};

const NOBODY: u32 = 65_534;

/// Leaves a trace.
const RAN: &str = "#!/bin/sh\n: > \"$WSDAEMON_PREFIX/ran\"\n";

/// Is there for as long as the test.
const HOLD: &str = "#!/bin/sh\necho begun > reached\nread -r _ < go\n";

/// What a daemon answers to anybody on a link: a sign of life.
const FOR_ANYBODY: [&str; 1] = ["PING"];

/// What a peer's link is closed with that was revoked, and that has not proved its name.
const REVOKED: u16 = 4004;
const NAME_TAKEN: u16 = 4002;

// ---- What is asked ---------------------------------------------------------------------------------------------

/// A message that may not be, under an id of its own.
struct Row {
    id: String,
    message: Value,
    /// The code, of a command.
    code: Option<&'static str>,
}

/// The data that a command of this code needs to be one, where a process gives it; it would be about this run, or about "victim".
fn data(code: &str, run: &str) -> Value {
    match code {
        "PAUSE" => json!(60_000),
        "STATUS" => json!({ "status": 0, "id": run }),
        "PEERS" | "PING" | "RUNS" | "SCRIPTS" | "STATS" | "SUBSCRIBE" | "RELOAD" | "RESTART" | "METRICS" => Value::Null,
        "RUN" => json!(run),
        "CANCEL" => json!({ "run": run }),
        "EXPLAIN" => json!({ "as": "anonymous", "name": "ran" }),
        "KEYS" => json!({ "do": "rotate" }),
        "LOG" => json!({ "filter": "off" }),
        "CALLERS" => json!({ "do": "add", "name": "intruder" }),
        "INVITE" => json!({ "name": "intruder" }),
        "SERVE" => json!({ "names": ["*"], "ready": 8 }),
        "REVOKE" => json!({ "name": "victim" }),
        "ROTATE" => json!({ "name": "victim", "at_once": true }),
        code => panic!("{code} is new: give it data here, and see that everyone who may not is refused"),
    }
}

/// The same for what daemons say to each other.
fn data_of_daemons(code: &str, run: &str) -> Vec<Value> {
    match code {
        "HELLO" => vec![json!({ "name": "another", "instance": "another", "epoch": 9 })],
        "ACK" => vec![json!({ "id": run, "attempt": 1 })],
        "OUTPUT" => vec![json!({ "id": run, "stream": "stdout", "offset": 0, "data": "x" })],
        "CREDIT" => vec![json!({ "id": run, "bytes": 5 })],
        "CANCEL" => vec![json!({ "id": run }), json!({ "id": run, "attempt": 1 })],
        "DRAIN" => vec![Value::Null],
        "EVENT" => vec![json!({ "id": run, "event": "started" }), json!({ "id": run, "event": "delivered" })],
        "ROOTS" => vec![json!({ "roots": ["x"] }), json!({ "have": ["x"] })],
        code => panic!("{code} is new: give it data here, and see that nothing comes of it from who may not say it"),
    }
}

/// All that can be asked: as a process says it, and as a peer does.
fn rows(run: &str) -> Vec<Row> {
    let commands = Command::CODES.into_iter().map(|code| (code, data(code, run)));
    let frames = Command::DAEMON_CODES.into_iter();
    let frames = frames.flat_map(|code| data_of_daemons(code, run).into_iter().map(move |data| (code, data)));
    // A run's end, as whoever has it says it.
    let settles = [("STATUS", json!({ "status": 0, "id": run, "attempt": 1 }))];
    let commands = commands.chain(frames).chain(settles).flat_map(|(code, data)| {
        let message = |name: &str| json!({ "name": name, "params": { "code": code, "data": data } });
        ["+cmd", "&cmd"].map(|name| (Some(code), message(name)))
    });
    let kinds = [
        json!({}),
        json!({ "queue": true }),
        json!({ "to": "other" }),
        json!({ "to": "*", "each": true }),
        json!({ "output": "stream", "events": true }),
        json!({ "then": "ran" }),
        json!({ "then": "ran", "retry": { "max": 1 }, "timeout": 1000 }),
    ];
    let runs = kinds.into_iter().map(|more| {
        let mut message = json!({ "name": "ran" });
        message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        (None, message)
    });
    let numbered = commands.chain(runs).enumerate().map(|(number, (code, mut message))| {
        let id = format!("row-{number}");
        message["id"] = id.as_str().into();
        Row { id, message, code }
    });
    numbered.collect()
}

/// The frames by which a peer of version 2 says it, each under an id of its own.
fn frames(row: &Row) -> [Value; 2] {
    let variants = match row.code {
        Some(_) => [("local", json!(true)), ("local", json!(false))],
        None => [("attempt", json!(1)), ("hop", json!({ "to": "other" }))],
    };
    let mut number = 0;
    variants.map(|(key, value)| {
        let mut frame = row.message.clone();
        frame["id"] = format!("{}-{number}", row.id).into();
        frame[key] = value;
        number += 1;
        frame
    })
}

/// The kinds of frames of version 2.
const KINDS: [&str; 14] = [
    "ack",
    "cancel",
    "command",
    "credit",
    "drain",
    "event",
    "have",
    "hello",
    "local status",
    "output",
    "ping",
    "roots",
    "run",
    "status",
];

/// A new kind of frame does not compile here: give it a row above, and its name a place in [`KINDS`].
fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Run(_) => "run",
        Frame::Hello(_) => "hello",
        Frame::Status(_) => "status",
        Frame::Event(..) => "event",
        Frame::Output(_) => "output",
        Frame::Credit(..) => "credit",
        Frame::Cancel(..) => "cancel",
        Frame::Ack(..) => "ack",
        Frame::Drain { .. } => "drain",
        Frame::Roots(Roots::Roots(_)) => "roots",
        Frame::Roots(Roots::Have(_)) => "have",
        Frame::Ping(_) => "ping",
        Frame::Command(_) => "command",
        Frame::LocalStatus(..) => "local status",
    }
}

/// What would come of a command. A new one does not compile here: it belongs to the codes, and so to the rows.
fn harm(command: &Command) -> &'static str {
    match command {
        Command::Pause(_) => "a link is closed",
        Command::Status(_) => "a run is settled, or processes are told what is not so",
        Command::Peers | Command::Ping(_) | Command::Scripts | Command::Stats | Command::Metrics | Command::Explain(_) => {
            "it is told who and what there is"
        }
        Command::Runs(_) | Command::Run(_) | Command::Subscribe(_) => "it is told what others run",
        Command::Cancel(_) => "the run of another one is stopped",
        Command::Reload => "the settings are read",
        Command::Restart => "the daemon restarts",
        Command::Log(_) => "it is not logged what happens",
        Command::Invite(_) => "the intruder is invited",
        Command::Revoke(_) => "the victim is revoked",
        Command::Rotate(_) => "the victim has no token",
        Command::Keys(_) => "there is another root",
        Command::Callers(_) => "the intruder is a caller",
        Command::Serve(_) => "the intruder is asked what others ask for",
    }
}

#[test]
fn there_is_a_row_for_each_command_and_for_each_kind_of_frame() {
    let rows = rows("0190a000-0000-7000-8000-000000000009");
    let (mut codes, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for row in &rows {
        if row.message["name"] == "+cmd" && row.code.is_some_and(|code| Command::CODES.contains(&code)) {
            let command = Command::parse(Place::Here, &row.message["params"].to_string());
            codes.extend(command.map(|command| command.code()));
        }
        let decoded = frames(row).into_iter().filter_map(|frame| v2::decode(&frame.to_string(), 128).ok());
        kinds.extend(decoded.map(|frame| kind(&frame)));
    }
    assert_eq!(codes, Command::CODES.into_iter().collect());
    assert_eq!(kinds, KINDS.into_iter().collect());
}

// ---- Whom it is asked of ---------------------------------------------------------------------------------------

/// A server with a peer that does all that is asked of it, and that runs something; and with a registered one.
struct Stage {
    server: Daemon,
    other: Daemon,
    /// Whoever asked for what runs, and what lets it end.
    asker: Local,
    run: String,
    go: Fifo,
    /// The daemon's owner.
    owner: Local,
    /// Hears of runs, and of statuses that nobody waits for.
    listener: Local,
}

impl Stage {
    fn new(config: &Value) -> Self {
        let server = Daemon::server().config(json!({ "limits": { "address_failures": 4096 } })).config(config.clone());
        let server = server.env("WSDAEMON_LOCAL", "127.0.0.1:0").script("ran", RAN).start();
        let other = Daemon::client(&server).config(json!({ "name": "other" })).without_token();
        let other = other.script("ran", RAN).script("hold", HOLD).start();
        server.wait_log("link up");
        credential(&server, &["victim"]);
        let (mut reached, go) = (Fifo::new(other.prefix(), "reached"), Fifo::new(other.prefix(), "go"));
        let (mut asker, owner) = (server.connect(), server.connect());
        asker.send(json!({ "name": "hold", "id": "held", "to": "other", "queue": true }).to_string());
        let accepted = asker.said();
        let run = accepted["run"].as_str().unwrap_or_else(|| panic!("{accepted}")).to_owned();
        assert_eq!(reached.line(), "begun");
        wait_for("what runs", || server.connect().result("RUNS", &Value::Null)[0]["state"] == "running");
        let mut listener = server.connect();
        assert_eq!(listener.command("SUBSCRIBE", &json!(["runs"]))["status"], 0);
        Self { server, other, asker, run, go, owner, listener }
    }

    /// All that must not become another: what has run, runs and is kept, who is there, who may enter, by which keys, and the settings.
    fn seen(&mut self) -> Value {
        let has_run = [&self.server, &self.other].map(|daemon| fs::exists(daemon.prefix().join("ran")).expect("ours"));
        let peers = self.owner.result("PEERS", &Value::Null);
        let other: Vec<&Value> = peers.as_array().expect("a list").iter().filter(|peer| peer["name"] == "other").collect();
        let runs = self.owner.result("RUNS", &Value::Null);
        let files = [&self.server, &self.other].map(|daemon| (files(daemon.prefix()), files(&daemon.prefix().join("keys"))));
        let scripts = self.owner.result("SCRIPTS", &Value::Null);
        json!({ "ran": has_run, "runs": runs, "other": other, "files": files, "scripts": scripts })
    }

    /// Asks for each, and looks each time what has come of it.
    fn every(&mut self, mut ask: impl FnMut(&Daemon, &Row)) {
        let before = self.seen();
        for row in rows(&self.run) {
            ask(&self.server, &row);
            assert_eq!(self.seen(), before, "{}: {}", row.message, wrong_with(&row));
        }
    }

    /// What runs has not been stopped, settled or heard of, and ends as it would have.
    fn end(mut self) {
        assert_eq!(self.other.log().count("link down"), 0);
        assert_eq!(self.other.connect().result("RUNS", &Value::Null).as_array().map(Vec::len), Some(1));
        self.listener.nothing_waiting();
        self.asker.nothing_waiting();
        self.go.release(1);
        let last = self.asker.said();
        assert_eq!((&last["status"], &last["id"]), (&json!(0), &json!("held")), "{last}");
    }
}

/// What it means that something has changed.
fn wrong_with(row: &Row) -> &'static str {
    let command = Command::parse(Place::Here, &row.message["params"].to_string());
    command.map_or("something has run, or is said to have", |command| harm(&command))
}

/// The files in a folder, and what is in them.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let paths = entries.map(|entry| entry.expect("it is ours").path());
    let is_kept = |path: &Path| path.extension().is_some_and(|end| ["json", "pem", "key"].iter().any(|kept| end == *kept));
    let kept = paths.filter(|path| is_kept(path));
    kept.map(|path| {
        let text = fs::read(&path).expect("it is ours");
        (path.display().to_string(), String::from_utf8_lossy(&text).into_owned())
    })
    .collect()
}

/// What a peer shows that was invited with these words.
fn credential(server: &Daemon, words: &[&str]) -> String {
    let url = format!("ws://127.0.0.1:{}", server.port());
    let tool = |words: &[&str]| {
        let mut command = command(words);
        command.env("WSDAEMON_PREFIX", server.prefix());
        let ran = ran(command, "");
        assert_eq!(ran.code, 0, "{ran:?}\n{}", server.log());
        ran.out.trim().to_owned()
    };
    let line = tool(&[&["invite", "--url", &url], words].concat());
    let proxy = tool(&["join", "--seed", &line]);
    let shown = proxy.strip_prefix("ws://").and_then(|rest| rest.split_once('@')).expect("name:token@").0;
    format!("Basic {}", BASE64_STANDARD.encode(shown))
}

// ---- Who asks --------------------------------------------------------------------------------------------------

/// Asserts that an answer refuses.
#[track_caller]
fn refuses(said: &Value, row: &Row) {
    let is_command = Command::parse(Place::Here, &row.message["params"].to_string()).is_ok();
    let is_one = row.code.is_none() || is_command && row.message["name"] == "+cmd";
    // What is no command of a process is refused before it is looked up who may give it.
    let expected = if is_one { &["denied"][..] } else { &["denied", "unknown_command", "bad_message"] };
    let error = said["error"].as_str().unwrap_or_default();
    assert!(said["status"] == -3 && expected.contains(&error), "{} got {said}", row.message);
}

fn by_process(process: &mut Local, row: &Row) {
    process.send(row.message.to_string());
    let said = process.said();
    assert_eq!(said["id"], row.id, "{said}");
    refuses(&said, row);
}

/// What a peer hears before the answer to what it asks next: for each request a refusal, and of everything else nothing that is a success.
fn by_version2(peer: &mut Peer, row: &Row) {
    for frame in frames(row) {
        let id = frame["id"].as_str().expect("it has one");
        let mark = format!("mark-{id}");
        peer.send_text(&frame.to_string());
        // Sorted behind it, and denied.
        peer.send_text(&json!({ "name": "mark", "id": mark }).to_string());
        let (mut refused, mut is_over) = (0, false);
        // A run's refusal may come behind the mark only if it is queued: then the disk is asked first.
        while !is_over || row.code.is_none() && refused == 0 {
            let said: Value = serde_json::from_str(&peer.text()).expect("frames are JSON");
            let status = &said["params"]["data"];
            // What it has cancelled is a run of its own under that id, which it will not have asked for; others' runs of it are others.
            let is_its_own = status["refused"] == true && status["error"] == "cancelled";
            if said["params"]["code"] != "STATUS" || is_its_own {
                continue;
            }
            if status["id"] == mark.as_str() {
                is_over = true;
                continue;
            }
            assert_eq!(status["id"], id, "{said}");
            if !row.code.is_some_and(|code| FOR_ANYBODY.contains(&code)) {
                assert_eq!(status["status"], -3, "{frame} got {said}");
                refused += 1;
            }
        }
        assert!(row.code.is_some() || refused == 1, "{frame}");
    }
}

/// What has no page cannot be asked at all.
fn by_caller(web: &mut Web, run: &str, row: &Row) {
    let run = format!("/api/v1/runs/{run}");
    let (method, page, status) = match row.code {
        Some("PEERS") => ("GET", "/api/v1/peers", 403),
        Some("SCRIPTS") => ("GET", "/api/v1/scripts", 403),
        Some("STATS") => ("GET", "/api/v1/stats", 403),
        Some("SUBSCRIBE") => ("GET", "/api/v1/events", 403),
        // What others have asked for is as if it were not there.
        Some("RUNS") => ("GET", "/api/v1/runs", 200),
        Some("RUN") => ("GET", &*run, 404),
        Some("CANCEL") => ("DELETE", &*run, 404),
        Some("OUTPUT") => ("GET", &*format!("{run}/output"), 404),
        Some(_) => return,
        None => ("POST", &*format!("/api/v1/run/ran?{}", query(&row.message)), 403),
    };
    let reply = web.ask(method, page, "");
    assert_eq!(reply.status, status, "{page} {reply:?}");
    assert!(status != 200 || reply.json() == json!([]), "{reply:?}");
}

/// The options of a request as a page has them.
fn query(message: &Value) -> String {
    let options = message.as_object().expect("an object").iter().filter(|(key, _)| !["name", "id"].contains(&key.as_str()));
    let value = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(object) => object["max"].to_string(),
        value => value.to_string(),
    };
    options.map(|(key, of)| format!("{key}={}", value(of))).collect::<Vec<_>>().join("&")
}

fn by_seed(peer: &mut Peer, row: &Row) {
    peer.send_text(&row.message.to_string());
    if row.code.is_none() {
        let said: Value = serde_json::from_str(&peer.status()).expect("JSON");
        assert_eq!(said["id"], row.id, "{said}");
        refuses(&said, row);
    }
    peer.nothing_waiting();
}

/// Whoever is not let in has no link to say anything on, also if it does not wait to hear so: all of `rows` are asked behind handshakes
/// of both versions with these `headers`, which get this `status`.
fn by_stranger(server: &Daemon, rows: &[Row], headers: &str, status: u16) {
    const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let barge = |version: &str, texts: &[String]| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        let mut bytes = format!("{HANDSHAKE}{version}{headers}\r\n").into_bytes();
        bytes.extend(texts.iter().flat_map(|text| masked(text)));
        stream.write_all(&bytes).expect("it fits");
        stream
    };
    let barged = rows.iter().flat_map(|row| {
        let hello = daemons_say("HELLO", &hello("trusted", "claims"));
        let frames = frames(row).map(|frame| frame.to_string());
        [barge("", &[row.message.to_string()]), barge("ws-daemon: 2\r\n", &[&[hello], &frames[..]].concat())]
    });
    // All at once: each is answered after a while.
    for mut stream in barged.collect::<Vec<_>>() {
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Ok(_) => {}
            // It has not read what stood behind the handshake.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}\n{}", server.log()),
        }
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{headers} {said}\n{}", server.log());
    }
}

/// A whole text frame of a client, masked by zeros.
fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()).expect("a row is short") {
        length @ 0..=125 => frame.push(0x80 | u8::try_from(length).expect("it is small")),
        length => {
            frame.push(0xfe);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

fn hello(name: &str, instance: &str) -> Value {
    json!({ "name": name, "instance": instance, "epoch": 1, "features": ["queue"] })
}

/// A link of somebody who shows this.
fn proven(server: &Daemon, shown: &str, hello: Option<&Value>) -> Peer {
    let links = server.log().count("link up");
    let version: &[_] = if hello.is_some() { &[("ws-daemon", "2")] } else { &[] };
    let headers = [&[("authorization", shown)], version].concat();
    let mut peer = Peer::try_dial(server, "/", &headers).unwrap_or_else(|refusal| panic!("{refusal:?}\n{}", server.log()));
    if let Some(hello) = hello {
        peer.send_hello(hello);
        peer.hello();
    }
    server.wait_log_times("link up", links + 1);
    peer
}

/// Rules that give all to others, on both sides.
fn for_others() -> Value {
    let rules = json!([
        { "who": ["trusted", "tag:trusted"], "scripts": "*", "commands": "*", "relay": true },
        { "who": "user:1", "scripts": "*", "commands": "*" },
    ]);
    json!({ "rules": rules, "relay": true })
}

/// No rules at all.
fn none() -> Value {
    json!({ "relay": true })
}

/// A rule that would give all by TCP.
fn by_tcp() -> Value {
    json!({ "rules": [{ "who": "tcp", "scripts": "*", "commands": "*" }] })
}

type Column = (&'static str, fn() -> Value, fn(&mut Stage));

/// Who asks, and what the server is told in its settings. A column is added here.
const COLUMNS: [Column; 13] = [
    ("a peer without a token that claims the name and the tag of one with rights", for_others, |stage| {
        let mut claims = hello("trusted", "claims");
        claims["tags"] = json!(["trusted"]);
        let mut peer = Peer::dial_version2(&stage.server, &claims);
        stage.every(|_, row| by_version2(&mut peer, row));
    }),
    ("a seed peer without a right", for_others, |stage| {
        let mut peer = Peer::dial(&stage.server);
        stage.every(|_, row| by_seed(&mut peer, row));
    }),
    ("a proven peer without a right", for_others, |stage| {
        let shown = credential(&stage.server, &["web", "--tag", "sms"]);
        let mut peer = proven(&stage.server, &shown, Some(&hello("web", "of-web")));
        stage.every(|_, row| by_version2(&mut peer, row));
    }),
    ("a proven seed peer without a right", for_others, |stage| {
        let shown = credential(&stage.server, &["web"]);
        let mut peer = proven(&stage.server, &shown, None);
        stage.every(|_, row| by_seed(&mut peer, row));
    }),
    ("a proven peer whose invitation allows something else", none, |stage| {
        let shown = credential(&stage.server, &["web", "--allow", "sms/*"]);
        let mut peer = proven(&stage.server, &shown, Some(&hello("web", "of-web")));
        stage.every(|_, row| by_version2(&mut peer, row));
    }),
    ("whoever is not let in", none, |stage| {
        let rows = rows(&stage.run);
        let before = stage.seen();
        by_stranger(&stage.server, &rows, "X-Forwarded-For: 192.0.2.1\r\n", 403);
        assert_eq!(stage.seen(), before);
    }),
    ("whoever has a wrong token", none, |stage| {
        let rows = rows(&stage.run);
        let before = stage.seen();
        for claim in ["victim:wrong", "victim:", "nobody:wrong"] {
            let headers = format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(claim));
            by_stranger(&stage.server, &rows, &headers, 401);
        }
        assert_eq!(stage.seen(), before);
    }),
    ("a peer that is revoked while it is linked", none, |stage| {
        let shown = credential(&stage.server, &["gone"]);
        let mut peer = proven(&stage.server, &shown, Some(&hello("gone", "of-gone")));
        assert_eq!(stage.owner.command("REVOKE", &json!({ "name": "gone" }))["status"], 0);
        let before = stage.seen();
        let rows = rows(&stage.run);
        for text in rows.iter().flat_map(frames) {
            peer.try_send(Message::text(text.to_string()));
        }
        // If what it said crossed the end, it does not hear why; but it hears nothing else.
        assert!([Some(REVOKED), None].contains(&peer.closed()));
        assert_eq!(stage.seen(), before);
    }),
    ("a peer that was revoked", none, |stage| {
        let shown = credential(&stage.server, &["gone"]);
        let mut peer = proven(&stage.server, &shown, Some(&hello("gone", "of-gone")));
        assert_eq!(stage.owner.command("REVOKE", &json!({ "name": "gone" }))["status"], 0);
        assert_eq!(peer.closed(), Some(REVOKED));
        let rows = rows(&stage.run);
        let before = stage.seen();
        by_stranger(&stage.server, &rows, &format!("Authorization: {shown}\r\n"), 401);
        assert_eq!(stage.seen(), before);
        // Nor without its token, as what it was.
        for (claims, code) in [(hello("fresh", "of-gone"), REVOKED), (hello("gone", "fresh"), NAME_TAKEN)] {
            stage.every(|server, row| {
                let mut peer = Peer::try_dial(server, "/", &[("ws-daemon", "2")]).expect("it is let in, to be heard");
                peer.send_hello(&claims);
                for frame in frames(row) {
                    peer.try_send(Message::text(frame.to_string()));
                }
                assert!([Some(code), None].contains(&peer.closed()), "{claims}");
            });
            let mut peer = Peer::try_dial(&stage.server, "/", &[("ws-daemon", "2")]).expect("it is let in, to be heard");
            peer.send_hello(&claims);
            assert_eq!(peer.closed(), Some(code), "{claims}");
        }
    }),
    ("a process of another user", for_others, |stage| {
        if need_root() {
            let mut process = stage.server.connect_as(NOBODY, &[]);
            stage.every(|_, row| by_process(&mut process, row));
        }
    }),
    ("a process by TCP", for_others, |stage| {
        // Each by a connection of its own: what is no message ends it.
        stage.every(|server, row| by_process(&mut Local::tcp_unseen(&server.local_address(), server.log()), row));
    }),
    ("a caller without a right", for_others, |stage| {
        let token = stage.owner.result("CALLERS", &json!({ "do": "add", "name": "web", "allow": ["sms/*"] }))["token"].clone();
        let token = token.as_str().expect("told once").to_owned();
        let run = stage.run.clone();
        stage.every(|server, row| by_caller(&mut Web::port(server).token(&token), &run, row));
    }),
    ("a process by TCP to which a rule would give all", by_tcp, |stage| {
        stage.every(|server, row| {
            if row.code.is_some_and(|code| !["STATUS", "PAUSE"].contains(&code)) {
                by_process(&mut server.connect_tcp(), row);
            }
        });
    }),
];

#[test]
fn nothing_that_can_be_asked_is_done_for_anyone_who_may_not() {
    for (who, config, ask) in COLUMNS {
        let column = move || {
            let mut stage = Stage::new(&config());
            ask(&mut stage);
            stage.end();
        };
        // Whatever fails says in which thread, and so who asked.
        let thread = thread::Builder::new().name(who.into()).spawn(column);
        assert!(thread.expect("there is room for a thread").join().is_ok(), "{who}");
    }
}

#[test]
fn nothing_that_can_be_asked_is_done_by_a_client_for_a_server_that_may_not() {
    let ask = |peer: &mut Peer, client: &Daemon, by: fn(&mut Peer, &Row)| {
        for row in rows("0190a000-0000-7000-8000-000000000009") {
            by(peer, &row);
            let has_run = fs::exists(client.prefix().join("ran")).expect("the prefix is ours");
            let runs = client.connect().result("RUNS", &Value::Null);
            let keys = files(&client.prefix().join("keys"));
            assert!(!has_run && runs == json!([]) && keys.is_empty(), "{}: {runs} {keys:?}", row.message);
            // Nor is it sent away.
            assert_eq!(client.log().count("link down"), 0, "{}", row.message);
        }
    };
    let listener = PeerListener::bind();
    let plan = || Daemon::client_of(listener.port()).config(for_others()).without_token().script("ran", RAN);
    let client = plan().start();
    let mut peer = listener.accept_as(&client, Some("2"));
    peer.hello();
    peer.send_hello(&hello("trusted", "claims"));
    client.wait_log("link up");
    ask(&mut peer, &client, by_version2);
    drop(client);
    let client = plan().start();
    let mut peer = listener.accept(&client);
    ask(&mut peer, &client, by_seed);
}

#[test]
fn what_a_peer_had_asked_for_before_it_was_revoked_and_what_has_not_begun_never_does() {
    let limits = json!({ "limits": { "runs": 1 } });
    let server = Daemon::server().config(limits).script("ran", RAN).script("hold", HOLD).start();
    let (mut reached, mut go) = (Fifo::new(server.prefix(), "reached"), Fifo::new(server.prefix(), "go"));
    let shown = credential(&server, &["gone"]);
    let mut peer = proven(&server, &shown, Some(&hello("gone", "of-gone")));
    let mut another = Peer::dial_version2(&server, &hello("another", "of-another"));
    peer.send_text(&json!({ "name": "hold", "id": "r-1" }).to_string());
    assert_eq!(reached.line(), "begun");
    peer.send_text(&json!({ "name": "ran", "id": "r-2" }).to_string());
    peer.send_text(&json!({ "name": "ran", "id": "r-3", "queue": true }).to_string());
    another.send_text(&json!({ "name": "none", "id": "r-4" }).to_string());
    let stats = |key: &str| server.connect().result("STATS", &Value::Null)[key].clone();
    wait_for("three that wait", || stats("waiting") == 3);
    assert_eq!(server.connect().command("REVOKE", &json!({ "name": "gone" }))["status"], 0);
    wait_for("one that waits", || stats("waiting") == 1);
    // What runs is not stopped; whoever else waits is served.
    assert_eq!(stats("running"), 1);
    go.release(1);
    assert!(another.status().contains("not_found"));
    assert_eq!((stats("waiting"), stats("running")), (json!(0), json!(0)));
    assert!(!server.prefix().join("ran").exists());
}
