//! The link as a peer meets it: how it comes up, what travels on it, who gets what, how it ends and what becomes of
//! what was in flight. The peers here are scripted; that real ones understand all this is shown in `interop`.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    DEADLINE, Daemon, EXIT, Local, Network, Peer, PeerListener, assert_failed, exit, exited, need_networks, pair, status_there,
    with_hosts,
};

/// Is killed by a signal.
const KILLED: &str = "#!/bin/sh\nkill -KILL $$\n";

/// Runs until it is stopped.
const ENDLESS: &str = "#!/bin/sh\nexec sleep 600\n";

/// A peer that was pinged so often without an answer would have been cut off.
const MANY_PINGS: usize = 5;

/// Less than any wait of the daemon's own that is not to happen, and more than a busy machine may need.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// A server with a scripted peer and a process connected to it.
fn served() -> (Daemon, Peer, Local) {
    let server = Daemon::server().start();
    let peer = Peer::dial(&server);
    let process = server.connect();
    (server, peer, process)
}

/// The frame by which a peer pauses a client.
fn pause(ms: u64) -> String {
    format!(r#"{{"name":"&cmd","params":{{"code":"PAUSE","data":{ms}}}}}"#)
}

// ---- The handshake ---------------------------------------------------------------------------------------------

#[test]
fn any_path_is_a_link_and_neither_compression_nor_a_subprotocol_is_agreed_to() {
    let server = Daemon::server().start();
    for path in ["/", "/any/path", "/with?a=query&x", "/%20/../é"] {
        let said = said_to_a_handshake(
            &server,
            path,
            "Sec-WebSocket-Protocol: seed, other\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
        );
        let lower = said.to_ascii_lowercase();
        assert!(said.starts_with("HTTP/1.1 101 ") && lower.contains("upgrade: websocket\r\n"), "{path}: {said}");
        assert!(!lower.contains("sec-websocket-protocol") && !lower.contains("sec-websocket-extensions"), "{path}: {said}");
    }
    assert_eq!(said_to_a_handshake(&server, "/", "").lines().next(), Some("HTTP/1.1 101 Switching Protocols"));
    server.wait_log_times("link up", 5);
}

#[test]
fn what_is_no_websocket_handshake_is_answered_in_words_and_closed() {
    let server = Daemon::server().start();
    let said = said_to(&server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(said.starts_with("HTTP/1.1 426 ") && said.contains("this port of ws-daemon takes WebSocket links"), "{said}");
    assert!(said.to_ascii_lowercase().contains("upgrade: websocket\r\n"), "{said}");
    let post = said_to(&server, "POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    assert!(post.starts_with("HTTP/1.1 426 "), "{post}");
    let old = said_to(
        &server,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\r\n",
    );
    assert!(old.starts_with("HTTP/1.1 426 ") && old.to_ascii_lowercase().contains("sec-websocket-version: 13\r\n"), "{old}");
    let large = said_to(&server, &format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(64 << 10)));
    assert!(large.starts_with("HTTP/1.1 431 "), "{large}");
    let nonsense = said_to(&server, "{\"name\":\"exit\"}\r\n\r\n");
    assert!(nonsense.starts_with("HTTP/1.1 400 "), "{nonsense}");
    Peer::dial(&server).nothing_waiting();
}

#[test]
fn a_web_page_is_refused_also_where_everyone_is_let_in() {
    for open in [json!(false), json!(true)] {
        let server = Daemon::server().config(json!({ "open": open })).start();
        let refusal = Peer::try_dial(&server, "/", &[("origin", "http://127.0.0.1")]).err().expect("no page may enter");
        assert_eq!(refusal.status, 403);
        assert!(refusal.body.contains("web page") && refusal.body.contains("Origin"), "{}", refusal.body);
    }
}

#[test]
fn who_comes_through_a_proxy_counts_as_from_elsewhere() {
    let headers = [("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1"), ("forwarded", "for=x"), ("via", "1.1 p")];
    let protected = Daemon::server().start();
    let listed = Daemon::server().config(json!({ "open": ["127.0.0.0/8"] })).start();
    let open = Daemon::server().config(json!({ "open": true })).start();
    for header in headers {
        let refusal = Peer::try_dial(&protected, "/", &[header]).err().expect("protected mode");
        assert_eq!(refusal.status, 403, "{header:?}");
        assert!(refusal.body.contains("protected mode") && refusal.body.contains("set \"open\""), "{}", refusal.body);
        let refusal = Peer::try_dial(&listed, "/", &[header]).err().expect("the address is the proxy's");
        assert_eq!(refusal.status, 403, "{header:?}");
        assert!(refusal.body.contains("\"open\""), "{}", refusal.body);
        Peer::try_dial(&open, "/", &[header]).expect("open to all").nothing_waiting();
    }
    Peer::dial(&protected).nothing_waiting();
}

#[test]
fn a_neighbour_on_the_network_is_refused_unless_its_network_is_let_in() {
    if !need_networks() {
        return;
    }
    let (ours, neighbours) = (Network::new(), Network::new());
    ours.connect("10.77.0.1/24", &neighbours, "10.77.0.2/24");
    let dial = |server: &Daemon| {
        let address = format!("10.77.0.1:{}", server.port());
        neighbours.inside(|| Peer::try_dial_at(&address, server.log(), "/", &[]))
    };
    let start = |open: Value| {
        let plan = Daemon::server().config(json!({ "listen": "::", "open": open }));
        ours.inside(|| plan.start())
    };
    for (open, words) in [(json!(false), "protected mode"), (json!(["10.78.0.0/16", "fd00::/8"]), "the networks listed")] {
        let server = start(open);
        let refusal = dial(&server).err().expect("a neighbour may not enter");
        assert_eq!(refusal.status, 403);
        assert!(refusal.body.contains(words) && refusal.body.contains("\"open\""), "{}", refusal.body);
        let own = format!("127.0.0.1:{}", server.port());
        ours.inside(|| Peer::try_dial_at(&own, server.log(), "/", &[])).expect("its own machine may").nothing_waiting();
    }
    for open in [json!(["10.77.0.0/24"]), json!(true)] {
        let server = start(open);
        dial(&server).expect("it is let in").nothing_waiting();
        server.wait_log(r#"peer="10.77.0.2:"#);
    }
}

#[test]
fn a_connection_that_says_nothing_or_half_a_header_is_closed_when_its_time_is_over() {
    let server = Daemon::server().config(json!({ "times": { "handshake": "150ms" } })).start();
    let begun = Instant::now();
    let mut silent = raw(&server);
    let mut half = raw(&server);
    half.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: webs").expect("it reads");
    assert_eq!(rest(&mut silent), "");
    assert!(begun.elapsed() >= Duration::from_millis(150), "not before: {:?}", begun.elapsed());
    assert_eq!(rest(&mut half), "");

    // One deadline for all of it, however often something comes.
    let mut drip = raw(&server);
    drip.set_read_timeout(Some(Duration::from_millis(20))).expect("not zero");
    let until = Instant::now() + DEADLINE;
    while drip.write_all(b"GET / HTTP/1.1\r\nX: ").is_ok() {
        match drip.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
        assert!(Instant::now() < until, "it is never closed\n{}", server.log());
    }
    server.wait_log_times("no handshake in time", 3);
    Peer::dial(&server).nothing_waiting();
}

#[test]
fn at_the_connection_cap_the_oldest_half_open_one_makes_room_and_a_link_never_does() {
    let server = Daemon::server().config(json!({ "limits": { "connections": 3 } })).start();
    let mut first_link = Peer::dial(&server);
    let (mut oldest, mut younger) = (raw(&server), raw(&server));
    let mut second_link = Peer::dial(&server);
    assert_eq!(rest(&mut oldest), "", "it was the oldest");
    server.wait_log("half-open connection was dropped");
    let mut third_link = Peer::dial(&server);
    assert_eq!(rest(&mut younger), "", "it was the next");
    let mut refused = raw(&server);
    assert_eq!(rest(&mut refused), "");
    server.wait_log("limits.connections");
    for link in [&mut first_link, &mut second_link, &mut third_link] {
        link.nothing_waiting();
    }
    assert_eq!(server.log().count("link down"), 0);
    drop(first_link);
    server.wait_log("link down");
    Peer::dial(&server).nothing_waiting();
}

// ---- Requests on the wire --------------------------------------------------------------------------------------

#[test]
fn exactly_name_id_and_params_go_out_and_the_bytes_of_params_are_untouched() {
    let (_server, mut peer, mut process) = served();
    let params = r#"{ "z" : 1.0,"a":[ 12345678901234567890 ,-0e5],"s":" \u00e9\/ é" , "a":null }"#;
    process.send(format!(r#"{{ "params" : {params} , "timeout":"1h", "id" : "x" , "name":"s\u006ds\/\"send" }}"#));
    assert_eq!(peer.text(), format!(r#"{{"name":"sms/\"send","id":"x","params":{params}}}"#));
    process.send(r#"{"name":"m","id":5}"#);
    assert_eq!(peer.text(), r#"{"name":"m","id":5,"params":null}"#);
    peer.nothing_waiting();
}

#[test]
fn the_id_on_the_wire_is_the_callers_where_it_is_free_on_that_link_and_else_the_runs() {
    let (server, mut peer, mut process) = served();
    let mut other = server.connect();
    let mut id_asked = |process: &mut Local, text: &str| {
        process.send(text);
        let frame: Value = serde_json::from_str(&peer.text()).expect("a frame is JSON");
        frame["id"].clone()
    };
    assert_eq!(id_asked(&mut process, r#"{"name":"m","id":1.0}"#), json!(1.0));
    let ids = [
        id_asked(&mut process, r#"{"name":"m","id":1.0}"#),
        // A peer that reads and writes numbers could not tell these two.
        id_asked(&mut other, r#"{"name":"m","id":1}"#),
        id_asked(&mut other, r#"{"name":"m"}"#),
    ];
    for (at, id) in ids.iter().enumerate() {
        let id = id.as_str().expect("a run's id is a string");
        assert!(id.len() == 36 && id.as_bytes()[14] == b'7', "a UUIDv7, not {id}");
        assert!(!ids[..at].contains(&json!(id)), "each run its own: {ids:?}");
    }
    assert_eq!(id_asked(&mut other, r#"{"name":"m","id":"1"}"#), json!("1"), "text is no number");

    // On another link it is free, and on this one again once it was answered.
    let mut second = Peer::dial(&server);
    for id in [json!(1.0), ids[0].clone(), ids[1].clone(), ids[2].clone()] {
        peer.send_text(&status_there(&exited(&id.to_string(), 6)));
    }
    assert_eq!([process.line(), process.line()], [exited("1.0", 6), exited("1.0", 6)]);
    let mut lines = [other.line(), other.line()];
    lines.sort_unstable();
    assert_eq!(lines, [exited("1", 6), r#"{"status":6}"#.to_owned()]);
    let asked = r#"{"name":"m","id":1.0,"params":null}"#;
    for peer in [&mut second, &mut peer] {
        process.send(asked);
        assert_eq!(peer.text(), asked);
    }
}

#[test]
fn a_timeout_is_kept_by_the_asker_and_the_outcome_is_then_unknown() {
    let (_server, mut peer, mut process) = served();
    let begun = Instant::now();
    process.send(r#"{"name":"m","id":"t","timeout":"100ms"}"#);
    assert_eq!(peer.text(), r#"{"name":"m","id":"t","params":null}"#);
    let message = assert_failed(&process.line(), -5, "interrupted", Some(json!("t")));
    assert!(begun.elapsed() >= Duration::from_millis(100), "too early: {:?}", begun.elapsed());
    assert!(message.contains("100ms") && message.contains("may still run"), "{message}");
    // In time is in time.
    process.send(r#"{"name":"m","id":"u","timeout":3600000}"#);
    peer.text();
    peer.send_text(&status_there(&exited(r#""u""#, 0)));
    assert_eq!(process.line(), exited(r#""u""#, 0));
}

#[test]
fn a_request_whose_time_is_over_before_the_server_is_back_never_leaves() {
    let listener = PeerListener::bind();
    let ours = Daemon::client_of(listener.port()).start();
    let mut peer = listener.accept(&ours);
    let mut process = ours.connect();
    process.send(r#"{"name":"+cmd","params":{"code":"PAUSE","data":3600000}}"#);
    peer.closed();
    ours.wait_log("link down");
    let answer = process.ask(r#"{"name":"m","id":"t","timeout":"50ms"}"#);
    assert_failed(&answer, -2, "expired", Some(json!("t")));
    process.send(r#"{"name":"n","id":"n"}{"name":"+cmd","params":{"code":"PAUSE","data":0}}"#);
    let mut peer = listener.accept(&ours);
    assert_eq!(peer.text(), r#"{"name":"n","id":"n","params":null}"#);
    peer.nothing_waiting();
}

#[test]
fn a_timeout_counts_also_while_a_request_waits_for_room_on_the_link() {
    let (server, mut peer, mut process) = served();
    peer.take_little();
    for id in ["1", "2"] {
        process.send(format!(r#"{{"name":"m","id":{id},"params":"{}"}}"#, "x".repeat(10 << 20)));
        process.nothing_waiting();
    }
    let message = assert_failed(&process.ask(r#"{"name":"m","id":"t","timeout":"100ms"}"#), -2, "expired", Some(json!("t")));
    assert!(message.contains("100ms") && message.contains("did not run"), "{message}");
    let mut head = [0; 32];
    assert!(peer.bytes(&mut head) > 0, "the peer is still there");
    assert_eq!(server.log().count("link down"), 0);
}

#[test]
fn a_request_that_is_never_answered_is_forgotten_when_its_caller_is_gone() {
    let (server, mut peer, mut process) = served();
    process.send(exit(r#""x""#, 0));
    assert_eq!(peer.text(), exit(r#""x""#, 0));
    drop(process);
    server.wait_log("local connection closed");
    let mut process = server.connect();
    process.send(exit(r#""x""#, 1));
    assert_eq!(peer.text(), exit(r#""x""#, 1), "its id is free again");
    peer.send_text(&status_there(&exited(r#""x""#, 2)));
    assert_eq!(process.line(), exited(r#""x""#, 2));
}

#[test]
fn what_a_peer_says_beside_the_status_is_passed_on_and_a_null_stays_null() {
    let (_server, mut peer, mut process) = served();
    let table = [
        (r#""status":null"#, r#"{"status":null,"id":"x"}"#),
        (r#""status":137,"signal":"SIGKILL""#, r#"{"status":137,"id":"x","signal":"SIGKILL"}"#),
        (r#""error":"not_found","status":-1,"message":"no"#, r#"{"status":-1,"id":"x","error":"not_found","message":"no"}"#),
        (r#""status":300,"run":"r","error":5"#, r#"{"status":300,"id":"x"}"#),
    ];
    for (said, wanted) in table {
        process.send(exit(r#""x""#, 0));
        peer.text();
        let quote = if said.ends_with("\"no") { "\"" } else { "" };
        peer.send_text(&status_there(&format!(r#"{{{said}{quote},"id":"x"}}"#)));
        assert_eq!(process.line(), wanted);
    }
}

// ---- Runs for a peer -------------------------------------------------------------------------------------------

#[test]
fn an_outcome_goes_to_the_peer_that_asked_with_the_id_as_it_came_and_the_keys_that_apply() {
    let server = Daemon::server().script("exit", EXIT).script("killed", KILLED).start();
    let mut peer = Peer::dial(&server);
    for id in [r#""x""#, "1.0", "12345678901234567890", "null", r#"{"a":[1]}"#, r#""\u00e9""#] {
        peer.send_text(&exit(id, 7));
        assert_eq!(peer.text(), status_there(&exited(id, 7)));
    }
    peer.send_text(r#"{"name":"exit","params":{"exit":0}}"#);
    assert_eq!(peer.text(), r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":0}}}"#);
    peer.send_text(r#"{"name":"killed","id":"k","params":{}}"#);
    assert_eq!(peer.text(), status_there(r#"{"status":137,"id":"k","signal":"SIGKILL"}"#));
    peer.send_text(r#"{"name":"unknown","id":"u","params":{}}"#);
    let frame: Value = serde_json::from_str(&peer.text()).expect("a frame is JSON");
    assert_failed(&frame["params"]["data"].to_string(), -1, "not_found", Some(json!("u")));
    peer.nothing_waiting();
}

#[test]
fn options_in_a_frame_of_a_seed_peer_are_ignored() {
    let server = Daemon::server().script("exit", EXIT).start();
    let mut peer = Peer::dial(&server);
    let options = r#""timeout":1,"queue":true,"output":"tail","to":"nobody","each":true,"events":true,"zzz":{}"#;
    peer.send_text(&format!(r#"{{{options},"name":"exit","id":"x","params":{{"exit":4}}}}"#));
    assert_eq!(peer.text(), status_there(&exited(r#""x""#, 4)));
    peer.nothing_waiting();
}

#[test]
fn with_two_peers_an_outcome_goes_back_by_the_link_that_asked() {
    let server = Daemon::server().script("exit", EXIT).start();
    let (mut first, mut second) = (Peer::dial(&server), Peer::dial(&server));
    for turn in 0..4 {
        // The same id from both, so that only the link tells them apart.
        first.send_text(&exit(r#""same""#, 10 + turn));
        second.send_text(&exit(r#""same""#, 20 + turn));
        assert_eq!(second.text(), status_there(&exited(r#""same""#, 20 + turn)));
        assert_eq!(first.text(), status_there(&exited(r#""same""#, 10 + turn)));
    }
    first.nothing_waiting();
    second.nothing_waiting();
}

#[test]
fn bad_frames_are_logged_and_neither_answered_nor_held_against_the_link() {
    let server = Daemon::server().script("exit", EXIT).start();
    let mut peer = Peer::dial(&server);
    let mut process = server.connect();
    let nested = format!(r#"{{"name":"exit","id":1,"params":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    let bad = [
        "",
        "nonsense",
        "[]",
        "{",
        "{}",
        r#"{"name":5,"id":1}"#,
        r#"{"id":1,"params":{}}"#,
        r#"{"name":"exit","name":"exit","id":1}"#,
        r#"{"name":"exit","id":1} {"name":"exit","id":2}"#,
        r#"{"name":"&cmd","id":1,"params":{"code":"REBOOT"}}"#,
        r#"{"name":"&cmd","id":1,"params":{"code":"PAUSE","data":"x"}}"#,
        r#"{"name":"&cmd","id":1,"params":{"code":"STATUS","data":7}}"#,
        r#"{"name":"&cmd","id":1}"#,
        r#"{"name":"+cmd","id":1,"params":{"code":"STATUS","data":{}}}"#,
        r#"{"name":"+cmd","id":1,"params":{"code":"PAUSE","data":1}}"#,
        &nested,
    ];
    for text in bad {
        peer.send_text(text);
    }
    server.wait_log_times("bad frame passed over", bad.len());
    peer.nothing_waiting();
    process.nothing_waiting();
    assert_eq!(server.log().count("WARN"), 1, "a peer cannot fill the log\n{}", server.log());
    peer.send_text(&exit("1", 3));
    assert_eq!(peer.text(), status_there(&exited("1", 3)));
}

#[test]
fn a_frame_over_the_limit_closes_its_link_with_1009_and_touches_nothing_else() {
    let limits = json!({ "limits": { "message": "64KiB" } });
    let server = Daemon::server().config(limits).script("exit", EXIT).start();
    let (mut large, mut small) = (Peer::dial(&server), Peer::dial(&server));
    let mut process = server.connect();
    process.send([exit("1", 0), exit("2", 0)].concat());
    assert_eq!((large.text(), small.text()), (exit("1", 0), exit("2", 0)));
    // Up to the limit is fine.
    let padding = "x".repeat((64 << 10) - exit("1", 3).len() - r#","p":"""#.len());
    let largest = exit("1", 3).replace(r#","params""#, &format!(r#","p":"{padding}","params""#));
    assert_eq!(largest.len(), 64 << 10);
    large.send_text(&largest);
    assert_eq!(large.text(), status_there(&exited("1", 3)));
    large.send_text(&format!("{largest} "));
    assert_eq!(large.closed(), Some(1009));
    assert_failed(&process.line(), -5, "interrupted", Some(json!(1)));
    small.send_text(&status_there(&exited("2", 4)));
    assert_eq!(process.line(), exited("2", 4));
}

#[test]
fn a_request_that_fits_its_message_but_no_frame_is_refused_and_its_link_lives() {
    let server = Daemon::server().config(json!({ "limits": { "message": "64KiB" } })).start();
    let mut peer = Peer::dial(&server);
    let (mut process, mut other) = (server.connect(), server.connect());
    other.send(r#"{"name":"endless","id":"e","timeout":"1h"}"#);
    assert_eq!(peer.text(), r#"{"name":"endless","id":"e","params":null}"#);
    let largest = |head: &str| format!("{head}\"{}\"}}", "x".repeat((64 << 10) - head.len() - 3));
    let answer = process.ask(&largest(r#"{"name":"m","params":"#));
    let message = assert_failed(&answer, -3, "too_large", None);
    assert!(message.contains("65536 bytes"), "{message}");
    let fits = largest(r#"{"name":"m","id":"i","params":"#);
    process.send(&fits);
    assert_eq!(peer.text(), fits);
    peer.send_text(&status_there(&exited("\"i\"", 3)));
    assert_eq!(process.line(), exited("\"i\"", 3));
    other.nothing_waiting();
    assert_eq!(server.log().count("link down"), 0);
}

// ---- Who gets it -----------------------------------------------------------------------------------------------

#[test]
fn requests_and_commands_go_round_the_peers_in_order_of_arrival_and_who_left_is_left_out() {
    let server = Daemon::server().start();
    let mut peers = vec![Peer::dial(&server), Peer::dial(&server), Peer::dial(&server)];
    let mut number = 0;
    let mut round = |peers: &mut [Peer]| {
        for peer in peers {
            number += 1;
            // Each time another caller: the order is the daemon's, not the connection's.
            let mut process = server.connect();
            process.send(exit(&number.to_string(), 0));
            assert_eq!(peer.text(), exit(&number.to_string(), 0));
            peer.nothing_waiting();
        }
    };
    round(&mut peers);
    round(&mut peers);
    let gone = peers.remove(1);
    drop(gone);
    server.wait_log("link down");
    round(&mut peers);
    // The last turn was the second's, so the next is that of who came after it.
    peers.push(Peer::dial(&server));
    round(&mut peers[2..]);
    round(&mut peers);
    let mut process = server.connect();
    for peer in &mut peers {
        process.send(pause(1));
        assert_eq!(peer.text(), pause(1));
    }
    for peer in &mut peers {
        peer.nothing_waiting();
    }
}

#[test]
fn a_client_that_pauses_is_left_out_of_the_round_until_it_is_back() {
    let (server, client) = pair();
    client.script("exit", EXIT);
    let mut peer = Peer::dial(&server);
    client.connect().send(r#"{"name":"+cmd","params":{"code":"PAUSE","data":86400000}}"#);
    server.wait_log("link down");
    let mut process = server.connect();
    for number in 0..3 {
        process.send(exit(&number.to_string(), 0));
        assert_eq!(peer.text(), exit(&number.to_string(), 0));
    }
    client.connect().send(r#"{"name":"+cmd","params":{"code":"PAUSE","data":0}}"#);
    server.wait_log_times("link up", 3);
    process.send([exit("10", 5), exit("11", 5)].concat());
    // One of the two went to each.
    let asked = peer.text();
    assert!(asked == exit("10", 5) || asked == exit("11", 5), "{asked}");
    let other = if asked == exit("10", 5) { "11" } else { "10" };
    assert_eq!(process.line(), exited(other, 5));
    peer.nothing_waiting();
}

// ---- PAUSE -----------------------------------------------------------------------------------------------------

#[test]
fn a_client_told_to_pause_closes_its_link_dials_again_after_that_time_and_holds_requests_meanwhile() {
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    let mut peer = listener.accept(&client);
    let mut process = client.connect();
    for (turn, code) in ["PAUSE", "pause"].into_iter().enumerate() {
        let begun = Instant::now();
        process.send(format!(r#"{{"name":"+cmd","params":{{"code":"{code}","data":200}}}}"#));
        assert_eq!(peer.closed(), Some(1001));
        client.wait_log_times("link down", turn + 1);
        process.send(exit("1", 0));
        process.nothing_waiting();
        peer = listener.accept(&client);
        assert!(begun.elapsed() >= Duration::from_millis(200), "dialled too early: {:?}", begun.elapsed());
        assert_eq!(peer.text(), exit("1", 0));
        peer.send_text(&status_there(&exited("1", 8)));
        assert_eq!(process.line(), exited("1", 8));
    }
    assert_eq!(process.ask(r#"{"name":"+cmd","id":"p","params":{"code":"PAUSE","data":0}}"#), exited(r#""p""#, 0));
    assert_eq!(peer.closed(), Some(1001));
    listener.accept(&client).nothing_waiting();
}

#[test]
fn a_peer_pauses_a_client_and_is_told_only_if_it_gave_an_id() {
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    let mut peer = listener.accept(&client);
    let begun = Instant::now();
    peer.send_text(&pause(200));
    assert_eq!(peer.closed(), Some(1001), "and nothing before it");
    let mut peer = listener.accept(&client);
    assert!(begun.elapsed() >= Duration::from_millis(200), "dialled too early: {:?}", begun.elapsed());
    for _ in 0..5 {
        peer.send_text(r#"{"name":"&cmd","id":"p","params":{"code":"pause","data":0}}"#);
        assert_eq!(peer.text(), status_there(&exited(r#""p""#, 0)));
        let told = Instant::now();
        assert_eq!(peer.closed(), Some(1001));
        assert!(told.elapsed() < AT_ONCE, "it waited for something: {:?}", told.elapsed());
        peer = listener.accept(&client);
    }
    peer.nothing_waiting();
}

#[test]
fn a_server_does_not_pause_and_a_seed_peer_is_never_told_so() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial(&server);
    peer.send_text(&pause(100));
    peer.send_text(r#"{"name":"&cmd","id":"p","params":{"code":"PAUSE","data":100}}"#);
    server.wait_log_times("a command from afar failed", 2);
    peer.nothing_waiting();
}

#[test]
fn a_local_process_pauses_the_client_at_the_other_end() {
    let (server, client) = pair();
    let mut process = server.connect();
    let answer = process.ask(r#"{"name":"&cmd","id":"p","params":{"code":"PAUSE","data":1}}"#);
    assert_eq!(answer, exited(r#""p""#, 0));
    client.wait_log("link down");
    client.wait_log_times("link up", 2);
    server.wait_log_times("link up", 2);
}

// ---- The end of a link -----------------------------------------------------------------------------------------

#[test]
fn what_was_in_flight_on_a_link_that_dies_is_interrupted_at_once() {
    let server = Daemon::server().start();
    let ends: [fn(Peer); 3] = [drop, Peer::reset, |mut peer| peer.send(Message::Close(None))];
    for (turn, end) in ends.into_iter().enumerate() {
        let mut peer = Peer::dial(&server);
        let mut process = server.connect();
        process.send([exit("1", 0), exit("2", 0)].concat());
        peer.text();
        peer.text();
        end(peer);
        let mut lines = [process.line(), process.line()];
        lines.sort_unstable_by_key(|line| line.contains(r#""id":2"#));
        for (line, id) in lines.iter().zip([1, 2]) {
            let message = assert_failed(line, -5, "interrupted", Some(json!(id)));
            assert!(message.contains("may have run"), "{message}");
        }
        server.wait_log_times("link down", turn + 1);
    }

    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    let mut process = client.connect();
    let mut peer = listener.accept(&client);
    process.send(exit("3", 0));
    peer.text();
    peer.reset();
    assert_failed(&process.line(), -5, "interrupted", Some(json!(3)));
}

#[test]
fn what_had_certainly_not_left_when_the_link_died_is_told_apart() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial(&server);
    peer.take_little();
    let large = |id: &str| format!(r#"{{"name":"m","id":{id},"params":"{}"}}"#, "x".repeat(10 << 20));
    let mut processes = [server.connect(), server.connect()];
    for (process, id) in processes.iter_mut().zip(["1", "2"]) {
        process.send(large(id));
        // It is in the link's queue when the next message of its connection is answered.
        process.nothing_waiting();
    }
    // Part of the first is on the wire, and the peer takes no more.
    let mut head = [0; 32];
    let read = peer.bytes(&mut head);
    assert!(read > 0);
    drop(peer);
    let [mut first, mut second] = processes;
    assert_failed(&first.line(), -5, "interrupted", Some(json!(1)));
    let message = assert_failed(&second.line(), -2, "link_lost", Some(json!(2)));
    assert!(message.contains("did not run"), "{message}");
}

#[test]
fn a_client_dials_again_and_again_while_nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let times = json!({ "times": { "backoff_min": "1ms", "backoff_max": "20ms" } });
    let client = Daemon::client_of(address.port()).config(times).start();
    client.wait_log_times("no link", 20);
    let server = Daemon::server().config(json!({ "port": address.port() })).start();
    server.wait_log("link up");
    client.wait_log("link up");
    // Also when it had a link, and when whoever listens is no server.
    drop(server);
    let wrong = TcpListener::bind(address).expect("the server is gone");
    let (mut stream, _) = wrong.accept().expect("it dials");
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").expect("it listens");
    drop((stream, wrong));
    client.wait_log("no link");
    let _server = Daemon::server().config(json!({ "port": address.port() })).start();
    client.wait_log_times("link up", 2);
}

#[test]
fn the_servers_name_is_looked_up_for_every_attempt() {
    if !need_networks() {
        return;
    }
    let old = PeerListener::bind();
    let moved = TcpListener::bind(("127.0.0.2", old.port())).expect("nobody else has that address");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 server.test\n").expect("the folder is ours");
    let plan = Daemon::client_of(old.port()).config(json!({ "proxy": "server.test" }));
    let client = with_hosts(&hosts, || plan.start());
    let peer = old.accept(&client);
    fs::write(&hosts, "127.0.0.2 server.test\n").expect("the folder is ours");
    drop((peer, old));
    client.wait_log("link down");
    let (_stream, from) = moved.accept().expect("it dials where the name stands now");
    assert!(from.ip().is_loopback());
}

// ---- Signs of life ---------------------------------------------------------------------------------------------

#[test]
fn a_peer_from_which_nothing_comes_for_two_pings_is_cut_off_and_its_runs_are_settled() {
    let pings = json!({ "times": { "ping": "100ms" } });
    let server = Daemon::server().config(pings.clone()).start();
    let begun = Instant::now();
    let mut peer = Peer::dial(&server);
    let mut process = server.connect();
    process.send(exit("1", 0));
    peer.text();
    // It reads no more, so the library under it answers no ping.
    assert_failed(&process.line(), -5, "interrupted", Some(json!(1)));
    assert!(begun.elapsed() >= Duration::from_millis(200), "after two pings, not {:?}", begun.elapsed());
    let why = server.wait_log("link down");
    assert!(why.contains("nothing was heard of the peer"), "{why}");
    assert_eq!(process.ask(&exit("2", 0)), r#"{"status":-2,"id":2}"#, "it is out of the round");

    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).config(pings).start();
    let mut peer = listener.accept(&client);
    let mut process = client.connect();
    process.send(exit("1", 0));
    peer.text();
    assert_failed(&process.line(), -5, "interrupted", Some(json!(1)));
    client.wait_log("nothing was heard of the peer");
    listener.accept(&client);
}

#[test]
fn a_daemon_that_is_frozen_is_cut_off_by_the_other_in_both_roles() {
    let pings = json!({ "times": { "ping": "150ms" } });
    let server = Daemon::server().config(pings.clone()).script("endless", ENDLESS).start();
    let client = Daemon::client(&server).config(pings).script("endless", ENDLESS).start();
    client.wait_log("link up");
    for (turn, (frozen, asked)) in [(&client, &server), (&server, &client)].into_iter().enumerate() {
        server.wait_log_times("link up", turn + 1);
        let mut process = asked.connect();
        process.send(r#"{"name":"endless","id":"e"}{"name":"+cmd","params":{"code":"STATUS","data":{}}}"#);
        assert_eq!(process.line(), "{}");
        frozen.signal(Signal::STOP);
        let line = process.line();
        frozen.signal(Signal::CONT);
        let outcome: Value = serde_json::from_str(&line).expect("a line is JSON");
        assert_eq!((&outcome["status"], &outcome["id"]), (&json!(-5), &json!("e")), "{line}");
        asked.wait_log("nothing was heard of the peer");
        // It comes back when it can.
        client.wait_log_times("link up", turn + 2);
    }
}

#[test]
fn a_peer_that_answers_pings_stays_however_idle_it_is() {
    let server = Daemon::server().config(json!({ "times": { "ping": "150ms" } })).start();
    let mut peer = Peer::dial(&server);
    // Reading a ping answers it.
    for _ in 0..MANY_PINGS {
        assert!(matches!(peer.message(), Message::Ping(_)));
    }
    peer.nothing_waiting();
    assert_eq!(server.log().count("link down"), 0);

    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).config(json!({ "times": { "ping": "150ms" } })).start();
    let mut peer = listener.accept(&client);
    for _ in 0..MANY_PINGS {
        assert!(matches!(peer.message(), Message::Ping(_)), "the client pings too");
    }
    peer.nothing_waiting();
    assert_eq!(client.log().count("link down"), 0);
}

#[test]
fn a_server_leaves_the_pinging_to_a_client_that_pings_and_misses_its_pings_when_they_stop() {
    const INTERVAL: Duration = Duration::from_millis(150);
    let server = Daemon::server().config(json!({ "times": { "ping": "150ms" } })).start();
    let mut peer = Peer::dial(&server);
    let begun = Instant::now();
    while begun.elapsed() < INTERVAL * 5 {
        peer.send(Message::Ping(Vec::new().into()));
        assert!(matches!(peer.message(), Message::Pong(_)), "nobody pings it");
    }
    assert!(matches!(peer.message(), Message::Ping(_)), "it is asked for a sign of life");
    // It reads no more, so nothing answers.
    server.wait_log("nothing was heard of the peer");
}

#[test]
fn any_frame_is_a_sign_of_life() {
    let server = Daemon::server().config(json!({ "times": { "ping": "150ms" } })).start();
    let mut peer = Peer::dial(&server);
    let mut pings = 0;
    while pings < MANY_PINGS {
        // Taken as bytes: no pong goes back.
        let mut bytes = [0; 2];
        let read = peer.bytes(&mut bytes);
        assert_eq!(bytes[..read], [0x89, 0], "an empty ping");
        pings += 1;
        peer.send_text("even a bad one");
    }
    peer.send_text(&exit("1", 0));
    server.wait_log_times("bad frame passed over", MANY_PINGS);
    assert_eq!(server.log().count("link down"), 0);
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// A connection to the server's port that has said nothing yet.
fn raw(server: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    stream
}

/// All that comes until the other side closes; a reset is an end like any other.
#[track_caller]
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("it is not closed: {error}"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// What the server says to these bytes before it closes.
#[track_caller]
fn said_to(server: &Daemon, bytes: &str) -> String {
    let mut stream = raw(server);
    // It may have seen enough, answered and closed before all is written.
    drop(stream.write_all(bytes.as_bytes()));
    rest(&mut stream)
}

/// The head of the answer to a handshake with `more` headers.
#[track_caller]
fn said_to_a_handshake(server: &Daemon, path: &str, more: &str) -> String {
    let mut stream = raw(server);
    let plain =
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{plain}\r\n{more}\r\n").as_bytes()).expect("it reads");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head ends in an empty line");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is ASCII")
}
