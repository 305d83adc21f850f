//! Peers whose names, words and output hold what terminals, logs and pages act on: escape sequences, newlines, what turns the direction
//! of writing, markup. Nothing of it moves anything, and no line of the log is anybody's but the daemon's.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Daemon, Peer, PeerListener, Ran, daemons_say, need_tool, ran};

/// Everything that moves, a line that is not the daemon's, and markup.
const NASTY: &str = "x\u{1b}[31337m\u{9b}31337m\u{1b}]0;owned\u{7}\r\n2001-01-01T00:00:00.000000Z  INFO FORGED\u{202e}\u{2066}\u{2028}<script>alert(1)</script>";

const MARKUP: &str = "<img src=x onerror=\"alert(1)\">&amp;";

/// What of [`NASTY`] may not be found where people read.
#[track_caller]
fn assert_tame(what: &str, said: &str) {
    for found in ["\u{1b}[31337", "\u{1b}]0", "\u{9b}", "\u{7}", "\u{202e}", "\u{2066}", "\u{2028}"] {
        assert!(!said.contains(found), "{what} has {found:?}: {said:?}");
    }
}

/// No line of the log holds anything that moves, or is forged.
#[track_caller]
fn assert_log_is_the_daemons(daemon: &Daemon) {
    let lines = daemon.log().lines("");
    assert!(lines.iter().any(|line| line.contains("FORGED")), "it was logged at all\n{}", daemon.log());
    for line in &lines {
        assert_tame("the log", line);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.starts_with("20") && !line.starts_with("2001"), "no line of the daemon's: {line:?}");
    }
}

fn hello(name: &str, tags: &[&str]) -> Value {
    json!({ "name": name, "configured": true, "instance": "i-1", "epoch": 1, "version": NASTY, "tags": tags, "features": [NASTY, "output"] })
}

#[test]
fn names_and_tags_that_move_anything_are_refused_and_markup_is_text() {
    let server = Daemon::server().start();
    let movers = ["a\u{1b}[2J", "a\u{9b}2J", "a\nb", "a\rb", "a\u{7}", "a\u{202e}b", "a\u{2067}b", "a\u{2028}b", "a\u{7f}"];
    for nasty in movers.into_iter().chain([NASTY]) {
        for hello in [hello(nasty, &[]), hello("plain", &["fine", nasty])] {
            let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
            peer.send_hello(&hello);
            let (code, words) = peer.closed_in_words().expect("a close frame");
            assert!(code == 1002 && words.contains("1 to 128 characters"), "{nasty:?}: {code} {words}");
        }
    }
    let connections = &server.connect().result("STATS", &Value::Null)["connections"];
    assert_eq!((&connections["no_hello"], &connections["linked"]), (&json!(2 * (movers.len() + 1)), &json!(0)));
    let _peer = Peer::dial_version2(&server, &hello(MARKUP, &[MARKUP]));
    let peers = server.connect().result("PEERS", &Value::Null);
    assert_eq!((&peers[0]["name"], &peers[0]["tags"]), (&json!(MARKUP), &json!([MARKUP])), "{peers}");
    assert_tame("PEERS", &peers.to_string());
}

#[test]
fn whatever_a_peer_says_no_line_of_the_log_is_forged_or_moves_anything() {
    let print = "#!/bin/sh\nprintf 'x\\033[31337m\\007\\r\\302\\233 \\342\\200\\256 2001-01-01T00:00:00Z  INFO FORGED'\n";
    let server = Daemon::server().env("WSDAEMON_LOG", "trace").script("print", print).start();
    let mut peer = Peer::dial_version2(&server, &hello(MARKUP, &[]));
    let run = |name: &str, id: &str| json!({ "name": name, "id": id, "params": [NASTY], "caller": NASTY }).to_string();
    peer.send_text(&run("print", "r-1"));
    peer.send_text(&run(NASTY, "r-2"));
    peer.send_text(&run("none", NASTY));
    // What is no JSON, and what is no frame.
    for text in [
        NASTY.to_owned(),
        format!("{{\"name\":\"{NASTY}\""),
        json!({ NASTY: 1 }).to_string(),
        json!({ "name": "&cmd", "id": NASTY, "params": { "code": NASTY, "data": NASTY } }).to_string(),
        json!({ "name": "+cmd", "id": NASTY, "params": { "code": "STATS" } }).to_string(),
        json!({ "name": "m", "id": "r-3", "output": NASTY }).to_string(),
        json!({ "name": "m", "id": "r-3", "have": { "stdout": NASTY } }).to_string(),
        daemons_say("EVENT", &json!({ "id": "r-1", "event": NASTY })),
        daemons_say("OUTPUT", &json!({ "id": "r-1", "stream": NASTY, "offset": 0, "data": NASTY })),
        daemons_say("STATUS", &json!({ "id": "r-9", "status": -1, "error": NASTY, "message": NASTY })),
        daemons_say("STATUS", &json!({ "id": NASTY, "status": NASTY })),
        daemons_say("PAUSE", &json!(NASTY)),
        daemons_say("HELLO", &json!({ "name": NASTY })),
    ] {
        peer.send_text(&text);
    }
    server.wait_log("script output");
    peer.send_close(4000, &NASTY.replace(['\u{2066}', '\u{2028}'], ""));
    server.wait_log("link down");
    let mut seed = Peer::dial(&server);
    seed.send_text(&json!({ "name": NASTY, "id": NASTY }).to_string());
    seed.send_text(NASTY);
    seed.status();
    // The version that is asked for, and the path, in the handshake itself.
    let refusal = Peer::try_dial(&server, "/", &[("ws-daemon", "9 \u{9b}31337m\u{202e}")]).err();
    assert_tame("the answer", &refusal.map(|refusal| refusal.body).unwrap_or_default());
    assert_log_is_the_daemons(&server);
}

#[test]
fn a_server_that_refuses_in_nasty_words_forges_nothing_in_the_clients_log() {
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).env("WSDAEMON_LOG", "trace").start();
    let words = &NASTY[..NASTY.floor_char_boundary(120)];
    let mut peer = listener.accept_as(&client, Some("2"));
    peer.send_close(4000, words);
    client.wait_log("4000");
    let mut peer = listener.accept_as(&client, Some("2"));
    peer.send_hello(&hello(NASTY, &[]));
    client.wait_log("1 to 128 characters");
    drop((peer, listener));
    let refusing = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let port = refusing.local_addr().expect("it is bound").port();
    let other = Daemon::client_of(port).env("WSDAEMON_LOG", "trace").start();
    let (mut stream, _) = refusing.accept().expect("it dials");
    let _ = stream.read(&mut [0; 4096]).expect("a handshake");
    let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", NASTY.len());
    stream.write_all(format!("{head}{NASTY}").as_bytes()).expect("it reads");
    other.wait_log("the server refused the link");
    assert_log_is_the_daemons(&client);
    assert_log_is_the_daemons(&other);
}

#[test]
fn on_a_terminal_nothing_of_a_peers_name_words_or_output_moves_anything() {
    if !need_tool("script") {
        return;
    }
    let server = Daemon::server().start();
    let mut peer = Peer::dial_version2(&server, &hello(MARKUP, &["<b>"]));
    let answers = |peer: &mut Peer| {
        // Credit and acknowledgements may come before the run.
        let mut frames = std::iter::repeat_with(|| serde_json::from_str::<Value>(&peer.text()).expect("frames are JSON"));
        let asked = frames.find(|frame| frame["name"] != "&cmd");
        let asked = asked.expect("it never ends");
        let run = &asked["id"];
        let chunk = |stream: &str| json!({ "id": run, "stream": stream, "offset": 0, "data": NASTY });
        peer.send_text(&daemons_say("EVENT", &json!({ "id": run, "event": "started" })));
        peer.send_text(&daemons_say("OUTPUT", &chunk("stdout")));
        peer.send_text(&daemons_say("OUTPUT", &chunk("stderr")));
        let more = json!({ "id": run, "status": -1, "error": NASTY, "message": NASTY, "stdout": NASTY, "stderr": NASTY, "peer": NASTY,
            "result": { NASTY: NASTY }, "attempt": asked["attempt"] });
        peer.send_text(&daemons_say("STATUS", &more));
    };
    let mut shown = String::new();
    for words in [
        &["exec", "m"][..],
        &["exec", "m", "--follow"],
        &["exec", "m", "--output", "tail"],
        &["exec", "m", "--output", "json"],
        &["exec", "m", "--queue", "--id", "q", "--output", "tail"],
        &["exec", NASTY],
    ] {
        let said = thread::scope(|scope| {
            let asking = scope.spawn(|| on_a_terminal(&server, words));
            answers(&mut peer);
            asking.join().expect("the other thread has panicked")
        });
        assert_ne!(said.code, 0, "{said:?}");
        assert_tame(&words.join(" "), &said.out);
        shown.push_str(&said.out);
    }
    assert!(shown.matches("FORGED").count() > 5, "what it said was shown: {shown}");
    let runs = server.connect().result("RUNS", &Value::Null);
    let run = runs.as_array().and_then(|runs| runs.first()?["run"].as_str()).expect("a run").to_owned();
    let mut shown = String::new();
    for words in [&["peers"][..], &["runs"], &["show", &run], &["logs", &run], &["show", "--id", "q"], &["stats"], &["ping"]] {
        if words == ["ping"] {
            peer.send_close(1000, "bye");
            server.wait_log("link down");
        }
        let said = on_a_terminal(&server, words);
        assert_tame(&words.join(" "), &said.out);
        shown.push_str(&said.out);
    }
    assert!(shown.contains("<img src=x"), "{shown}");
}

/// What a terminal gets of a command for `daemon`; colours of our own are off.
fn on_a_terminal(daemon: &Daemon, words: &[&str]) -> Ran {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let line = format!("{} {} --socket {}", env!("CARGO_BIN_EXE_ws-daemon"), quoted.join(" "), daemon.socket().display());
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env("NO_COLOR", "1");
    ran(terminal, "")
}
