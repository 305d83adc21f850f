//! Who may not enter though they are on the daemon's own machine: processes of other users, and web pages that had a name of their
//! own point here.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{DEADLINE, Daemon, Network, Peer, need_networks, need_other_users, run, wait_for};

const ROOT: u32 = 0;
const NOBODY: u32 = 65_534;
const ANOTHER: u32 = 1;

const LOOPBACK: [&str; 3] = ["127.0.0.1", "::1", "::ffff:127.0.0.1"];

/// A handshake, as words of printf.
const HANDSHAKE: &str = r"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Says its third argument to a port and prints what comes: of a link the first line, of a refusal all.
const DIAL: &str = r#"exec 3<>"/dev/tcp/$1/$2" && printf "$3" >&3 && IFS= read -r first <&3 && echo "$first"
case $first in *' 101 '*) ;; *) cat <&3 ;; esac"#;

/// Says its third argument to a port and is gone.
const SAY_AND_GO: &str = r#"exec 3<>"/dev/tcp/$1/$2" && printf "$3" >&3"#;

// ---- Other users of the machine --------------------------------------------------------------------------------

#[test]
fn a_loopback_peer_of_another_user_is_refused_in_words_that_say_what_to_set() {
    if !(need_networks() && need_other_users()) {
        return;
    }
    let network = Network::new();
    for open in [json!(false), json!(["10.0.0.0/8"])] {
        let server = network.inside(|| Daemon::server().config(json!({ "listen": "::", "open": open })).start());
        for host in LOOPBACK {
            let refusal = network.inside(|| dial(&server, NOBODY, host));
            assert!(refusal.starts_with("HTTP/1.1 403 "), "{host} {open}: {refusal}");
            for words in ["links of root and of the user it runs as", "as that user", "127.0.0.0/8", "::1/128", "\"open\""] {
                assert!(refusal.contains(words), "{words:?} is not in {refusal}");
            }
            assert_is_link(&network.inside(|| dial(&server, ROOT, host)));
        }
        server.wait_log_times("link up", LOOPBACK.len());
    }
    for (open, hosts) in [
        (json!(["127.0.0.0/8"]), &["127.0.0.1", "::ffff:127.0.0.1"][..]),
        (json!(["127.0.0.0/8", "::1/128"]), &LOOPBACK),
        (json!(true), &LOOPBACK),
    ] {
        let server = network.inside(|| Daemon::server().config(json!({ "listen": "::", "open": open })).start());
        for host in hosts {
            assert_is_link(&network.inside(|| dial(&server, NOBODY, host)));
        }
    }
}

#[test]
fn a_daemon_that_is_not_root_lets_in_its_own_user_and_root() {
    // The prefix becomes the daemon's, with the config that the test has written there.
    const AS_NOBODY: &str = "chown -R 65534 \"$WSDAEMON_PREFIX\" && exec setpriv --reuid=65534 --clear-groups \"$@\"";
    if !need_other_users() {
        return;
    }
    let server = Daemon::server().started_by(&["/bin/sh", "-c", AS_NOBODY, "sh"]).start();
    assert_is_link(&dial(&server, NOBODY, "127.0.0.1"));
    assert_is_link(&dial(&server, ROOT, "127.0.0.1"));
    let refusal = dial(&server, ANOTHER, "127.0.0.1");
    assert!(refusal.starts_with("HTTP/1.1 403 ") && refusal.contains("the user it runs as"), "{refusal}");
}

#[test]
fn who_says_all_it_has_to_say_and_hangs_up_is_nobody_and_gets_nothing_run() {
    if !need_other_users() {
        return;
    }
    // A text frame, masked with zeros.
    let frame = r#"\x81\x8e\0\0\0\0{"name":"ran"}"#;
    for (open, is_run) in [(json!(true), true), (json!(false), false)] {
        let server = Daemon::server().config(json!({ "open": open })).script("ran", "#!/bin/sh\n: > ran\n").start();
        // What it reads next comes from a socket that is closed already: some kernels say that root owns such a one.
        server.signal(Signal::STOP);
        say(&server, NOBODY, "127.0.0.1", SAY_AND_GO, &format!("{HANDSHAKE}{frame}"));
        server.signal(Signal::CONT);
        let ran = server.prefix().join("ran");
        if is_run {
            wait_for("the script", || ran.exists());
        } else {
            assert!(server.wait_log("no link for this connection").contains("status=403"));
            Peer::dial(&server).nothing_waiting();
            assert!(!fs::exists(&ran).expect("the prefix is ours to read"));
        }
    }
}

// ---- Web pages that had a name of their own point here ---------------------------------------------------------

#[test]
fn a_page_under_a_name_that_was_pointed_here_gets_words_and_asks_for_nothing() {
    const HOST: &str = "Host: rebound.example\r\n";
    let run = r#"{"name":"run","id":"hidden"}"#;
    let length = run.len();
    let requests = [
        format!("GET /runs HTTP/1.1\r\n{HOST}\r\n"),
        format!("GET / HTTP/1.1\r\n{HOST}Connection: keep-alive\r\n\r\n{run}\n"),
        format!("POST / HTTP/1.1\r\n{HOST}Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{run}"),
        format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n"),
    ];
    // As open as can be.
    let plan = Daemon::server().config(json!({ "open": true })).env("WSDAEMON_LOCAL", "127.0.0.1:0");
    let server = plan.script("run", "#!/bin/sh\n: > ran\n").start();
    let mut peer = Peer::dial(&server);
    let link_port = format!("127.0.0.1:{}", server.port());
    for request in &requests {
        let said = said_to(&link_port, request);
        let (head, words) = said.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.starts_with("HTTP/1.1 426 "), "{request}: {said}");
        let only = "this port of ws-daemon takes WebSocket links; point a client's \"proxy\" here\n";
        assert_eq!(words, only, "{request}");

        let said = said_to(&server.local_address(), request);
        assert!(said.starts_with(r#"{"status":-3,"error":"bad_message","#), "{request}: {said}");
        assert_eq!(said.lines().count(), 1, "nothing behind the first bad message is read: {said}");
    }
    // A page cannot open a WebSocket without an Origin.
    let headers = [("origin", "http://rebound.example"), ("host", "rebound.example")];
    let refusal = Peer::try_dial(&server, "/", &headers).err().expect("no page may enter");
    assert!(refusal.status == 403 && refusal.body.contains("web page"), "{refusal:?}");
    peer.nothing_waiting();
    assert_eq!(server.log().count("link up"), 1);
    assert!(!fs::exists(server.prefix().join("ran")).expect("the prefix is ours to read"));
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// What a process of `user` hears that shakes hands.
#[track_caller]
fn dial(server: &Daemon, user: u32, host: &str) -> String {
    say(server, user, host, DIAL, HANDSHAKE)
}

#[track_caller]
fn say(server: &Daemon, user: u32, host: &str, script: &str, text: &str) -> String {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), "--clear-groups", "timeout", &DEADLINE.as_secs().to_string()]).current_dir("/");
    command.args(["bash", "-c", script, "bash", host, &server.port().to_string(), text]);
    let output = run(command);
    assert!(output.status.success(), "{output:?}\n{}", server.log());
    String::from_utf8(output.stdout).expect("answers are text")
}

#[track_caller]
fn assert_is_link(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

/// All that comes for these bytes until the other side closes.
#[track_caller]
fn said_to(address: &str, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    stream.write_all(bytes.as_bytes()).expect("it reads");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("it answers in text and closes");
    said
}
