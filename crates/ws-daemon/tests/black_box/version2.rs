//! Version 2 of the link as a peer meets it: how it is agreed on, who is there, what replaces what, and that seed peers notice
//! nothing of it. The peers here are scripted.

use serde_json::{Value, json};

use crate::support::{Daemon, EXIT, Local, Peer, PeerListener, assert_failed, daemons_say, exit, exited};

/// What a scripted daemon says of itself.
fn who(name: &str, instance: &str, epoch: u64) -> Value {
    json!({ "name": name, "instance": instance, "epoch": epoch, "version": "0.2.0", "tags": ["t"], "capacity": 4 })
}

/// The run's id of a frame that asks for one.
#[track_caller]
fn run_of(frame: &str) -> String {
    let frame: Value = serde_json::from_str(frame).expect("frames are JSON");
    frame["id"].as_str().unwrap_or_else(|| panic!("no run in {frame}")).to_owned()
}

/// Takes the next run and ends it with `status`.
#[track_caller]
fn serve_one(peer: &mut Peer, status: usize) {
    let run = run_of(&peer.text());
    peer.send_text(&daemons_say("STATUS", &json!({ "status": status, "id": run })));
}

/// A server with a process connected to it.
fn served() -> (Daemon, Local) {
    let server = Daemon::server().start();
    let process = server.connect();
    (server, process)
}

// ---- The handshake ---------------------------------------------------------------------------------------------

#[test]
fn version_2_is_spoken_with_whoever_offers_it_and_with_nobody_else() {
    let (server, mut process) = served();
    let seed = Peer::try_dial(&server, "/", &[]).expect("a seed peer");
    assert_eq!(seed.header("ws-daemon"), None);
    drop(seed);
    server.wait_log("link down");
    for offered in ["2", "3, 2", "2,1"] {
        let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", offered)]).expect("version 2 is among them");
        assert_eq!(peer.header("ws-daemon"), Some("2"));
        // Nothing is said before the peer has said who it is, and nobody is there for local processes.
        peer.nothing_waiting();
        assert_eq!(process.ask(&exit("1", 0)), r#"{"status":-2,"id":1}"#);
    }
}

#[test]
fn versions_that_are_not_known_are_refused_in_words_on_both_sides() {
    let server = Daemon::server().start();
    let refusal = Peer::try_dial(&server, "/", &[("ws-daemon", "3, 4")]).err().expect("none of them is known");
    assert_eq!(refusal.status, 400);
    assert!(refusal.body.contains("this server speaks version 2 of the link") && refusal.body.contains("3, 4"), "{refusal:?}");

    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    let peer = listener.accept_as(&client, Some("3"));
    assert_eq!(peer.header("ws-daemon"), Some("2"));
    let line = client.wait_log("no link");
    assert!(line.contains("the server speaks version 3 of the link; this daemon speaks version 2"), "{line}");
    assert_eq!(client.log().count("link up"), 0);
}

#[test]
fn hello_comes_first_and_only_then_is_there_a_link() {
    let (server, mut process) = served();
    let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
    assert_eq!(process.ask(&exit("1", 0)), r#"{"status":-2,"id":1}"#);
    peer.send_hello(&who("web", "i1", 1));
    let hello = peer.hello();
    assert!(hello["instance"].is_string() && hello["epoch"].is_u64() && hello["name"].is_string(), "{hello}");
    assert_eq!((&hello["capacity"], &hello["configured"]), (&json!(256), &json!(false)), "{hello}");
    let line = server.wait_log("link up");
    assert!(line.contains("peer=\"web\""), "{line}");
    process.send(exit("1", 7));
    serve_one(&mut peer, 7);
    assert_eq!(process.line(), exited("1", 7));
}

#[test]
fn a_client_says_hello_by_itself_and_takes_work_when_the_server_has_answered() {
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).script("exit", EXIT).start();
    let mut server = listener.accept_as(&client, Some("2"));
    let hello = server.hello();
    assert_eq!(hello["epoch"], 1, "{hello}");
    server.nothing_waiting();
    assert_eq!(client.log().count("link up"), 0);
    server.send_hello(&who("server", "s1", 1));
    client.wait_log("link up");
    server.send_text(r#"{"name":"exit","id":"r1","params":{"exit":3},"caller":"x","unknown":true}"#);
    let status: Value = serde_json::from_str(&server.status()).expect("JSON");
    assert_eq!((&status["status"], &status["id"], status["ms"].is_u64()), (&json!(3), &json!("r1"), true), "{status}");
    let mut process = client.connect();
    process.send(exit("\"mine\"", 4));
    let frame = server.text();
    let said: Value = serde_json::from_str(&frame).expect("frames are JSON");
    assert_eq!(said, json!({ "name": "exit", "id": run_of(&frame), "params": { "exit": 4 }, "caller": "mine" }));
    server.send_text(&daemons_say("STATUS", &json!({ "status": 4, "id": run_of(&frame), "attempt": 9 })));
    process.nothing_waiting();
    server.send_text(&daemons_say("STATUS", &json!({ "status": 4, "id": run_of(&frame) })));
    assert_eq!(process.line(), exited("\"mine\"", 4));
}

#[test]
fn anything_but_a_good_hello_first_is_closed_in_words() {
    let server = Daemon::server().start();
    let long = daemons_say("HELLO", &who(&"x".repeat(129), "i", 1));
    let lines = daemons_say("HELLO", &who("a\nb", "i", 1));
    let bad =
        [r#"{"name":"exit","id":"r","params":null}"#, r#"{"name":"&cmd","params":{"code":"DRAIN"}}"#, "{}", &long, &lines];
    for (number, first) in bad.into_iter().enumerate() {
        let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
        peer.send_text(first);
        let (code, words) = peer.closed_in_words().expect("closed in good order");
        assert_eq!(code, 1002, "{words}");
        assert!(words.contains("the first frame of a version 2 link must be HELLO"), "{words}");
        server.wait_log_times("a link was not made", number + 1);
    }
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    let mut peer = listener.accept_as(&client, Some("2"));
    peer.hello();
    peer.send_text(r#"{"name":"exit","id":"r","params":null}"#);
    assert_eq!(peer.closed(), Some(1002));
    assert!(client.wait_log("no link").contains("must be HELLO"));
}

#[test]
fn whoever_says_no_hello_in_time_is_let_go() {
    let times = json!({ "times": { "handshake": "300ms" } });
    let server = Daemon::server().config(times.clone()).start();
    let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
    server.wait_log("no handshake in time");
    assert_eq!(peer.closed(), None);
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).config(times).start();
    let _silent = listener.accept_as(&client, Some("2"));
    assert!(client.wait_log("no link").contains("no link within 300ms"));
}

// ---- Who is there ----------------------------------------------------------------------------------------------

#[test]
fn the_same_instance_again_replaces_a_silent_link_at_once_and_its_last_words_count_for_nothing() {
    let server = Daemon::server().script("mark", "#!/bin/sh\ntouch mark\n").start();
    let mut process = server.connect();
    let mut old = Peer::dial_version2(&server, &who("web", "i1", 1));
    process.send(exit("1", 7));
    let run = run_of(&old.text());
    // The network between has gone: the old link is silent, and nobody closes it.
    let mut new = Peer::dial_version2(&server, &who("web", "i1", 2));
    assert_failed(&process.line(), -5, "interrupted", Some(json!(1)));
    old.send_text(r#"{"name":"mark","id":"r","params":null}"#);
    old.send_text(&daemons_say("STATUS", &json!({ "status": 7, "id": run })));
    for _ in 0..2 {
        process.send(exit("2", 5));
        serve_one(&mut new, 5);
        assert_eq!(process.line(), exited("2", 5));
    }
    let (code, words) = old.closed_in_words().expect("closed in good order");
    assert!(code == 1001 && words.contains("replaced by a newer link"), "{code} {words}");
    server.wait_log("link down");
    assert!(!server.prefix().join("mark").exists());
    process.nothing_waiting();
    new.nothing_waiting();
}

#[test]
fn a_clone_is_refused_and_both_logs_say_how_to_mend_it() {
    let (server, mut process) = served();
    let mut true_one = Peer::dial_version2(&server, &who("web", "i1", 5));
    for (number, epoch) in [5, 4].into_iter().enumerate() {
        let mut clone = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
        clone.send_hello(&who("web", "i1", epoch));
        let (code, words) = clone.closed_in_words().expect("closed in good order");
        assert_eq!(code, 4001);
        assert!(words.contains("a clone") && words.contains("delete its spool"), "{words}");
        let line = server.wait_log_times("a link was refused", number + 1);
        assert!(line.contains("stop one of the two and delete its spool-*.db"), "{line}");
    }
    process.send(exit("1", 3));
    serve_one(&mut true_one, 3);
    assert_eq!(process.line(), exited("1", 3));
}

#[test]
fn a_client_that_is_refused_as_a_clone_says_so_and_raises_its_epoch_no_more_until_it_is_taken_in() {
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    for number in 1..=2 {
        let mut server = listener.accept_as(&client, Some("2"));
        assert_eq!(server.hello()["epoch"], 1);
        server.send_close(4001, "a clone: these words");
        let line = client.wait_log_times("no link", number);
        assert!(line.contains("refused as a clone") && line.contains("delete its spool-*.db"), "{line}");
        assert!(line.contains("these words"), "{line}");
    }
    for epoch in [1, 2] {
        let mut server = listener.accept_as(&client, Some("2"));
        assert_eq!(server.hello()["epoch"], epoch);
        server.send_hello(&who("server", "s1", 1));
        client.wait_log_times("link up", epoch);
    }
}

#[test]
fn peers_of_one_name_get_numbers_and_the_name_of_an_absent_one_is_taken_over() {
    let server = Daemon::server().start();
    let first = Peer::dial_version2(&server, &who("web", "i1", 1));
    let _second = Peer::dial_version2(&server, &who("web", "i2", 1));
    let _third = Peer::dial_version2(&server, &who("web", "i3", 1));
    let names = |times: usize| {
        let line = server.wait_log_times("link up", times);
        line.split("peer=\"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned)
    };
    assert_eq!([names(1), names(2), names(3)], [Some("web".into()), Some("web-2".into()), Some("web-3".into())]);
    drop(first);
    server.wait_log("link down");
    let _fourth = Peer::dial_version2(&server, &who("web", "i4", 1));
    let _first = Peer::dial_version2(&server, &who("web", "i1", 2));
    assert_eq!([names(4), names(5)], [Some("web".into()), Some("web-4".into())]);
}

#[test]
fn a_name_that_was_configured_is_nobody_elses_and_both_logs_say_how_to_mend_it() {
    let server = Daemon::server().start();
    let configured = |name: &str, instance: &str| {
        let mut hello = who(name, instance, 1);
        hello["configured"] = json!(true);
        hello
    };
    let _given = Peer::dial_version2(&server, &configured("web", "i1"));
    let _default = Peer::dial_version2(&server, &who("mail", "i2", 1));
    for (number, hello) in [who("web", "i3", 1), configured("web", "i4"), configured("mail", "i5")].into_iter().enumerate() {
        let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
        peer.send_hello(&hello);
        let (code, words) = peer.closed_in_words().expect("closed in good order");
        assert_eq!(code, 4002);
        assert!(words.contains("another \"name\" in config.json"), "{words}");
        let line = server.wait_log_times("a link was refused", number + 1);
        assert!(line.contains("give one of the two another"), "{line}");
    }
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    let mut refusing = listener.accept_as(&client, Some("2"));
    refusing.hello();
    refusing.send_close(4002, "taken");
    let line = client.wait_log("no link");
    assert!(line.contains("another connected peer has it") && line.contains("in its config.json"), "{line}");
}

#[test]
fn a_client_that_is_killed_is_back_at_once() {
    let server = Daemon::server().start();
    let mut process = server.connect();
    let client = Daemon::client(&server).script("exit", EXIT).start();
    server.wait_log("link up");
    process.send(exit("1", 3));
    assert_eq!(process.line(), exited("1", 3));
    let client = client.kill().start();
    server.wait_log_times("link up", 2);
    client.wait_log("link up");
    server.wait_log("link down");
    for number in 2..10 {
        assert_eq!(process.ask(&exit(&number.to_string(), 4)), exited(&number.to_string(), 4));
    }
}

// ---- What is said ----------------------------------------------------------------------------------------------

#[test]
fn a_peer_that_wants_no_more_work_gets_none_and_ends_what_it_has() {
    let (server, mut process) = served();
    let mut one = Peer::dial_version2(&server, &who("one", "i1", 1));
    let mut two = Peer::dial_version2(&server, &who("two", "i2", 1));
    process.send(exit("1", 1));
    let run = run_of(&one.text());
    one.send_text(&daemons_say("DRAIN", &Value::Null));
    one.send_text(r#"{"name":"&cmd","id":"p","params":{"code":"PING"}}"#);
    assert_eq!(one.status(), r#"{"status":0,"id":"p"}"#);
    for _ in 0..3 {
        process.send(exit("2", 2));
        serve_one(&mut two, 2);
        assert_eq!(process.line(), exited("2", 2));
    }
    one.send_text(&daemons_say("STATUS", &json!({ "status": 1, "id": run })));
    assert_eq!(process.line(), exited("1", 1));
    one.nothing_waiting();
}

#[test]
fn what_a_version_2_peer_cannot_have_is_answered_under_its_id_and_the_link_lives() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial_version2(&server, &who("web", "i1", 1));
    peer.send_text(r#"{"name":"&cmd","id":"a","params":{"code":"DANCE"}}"#);
    assert_failed(&peer.status(), -3, "unknown_command", Some(json!("a")));
    peer.send_text(r#"{"name":"exit","id":"b","output":"film"}"#);
    assert_failed(&peer.status(), -3, "unsupported", Some(json!("b")));
    peer.send_text("no JSON");
    peer.send_text(&daemons_say("ACK", &json!({ "id": "none", "attempt": 1 })));
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 0, "id": "none" })));
    peer.nothing_waiting();
    peer.send_text(r#"{"name":"none","id":"c","params":1}"#);
    assert_failed(&peer.status(), -1, "not_found", Some(json!("c")));
}

#[test]
fn a_client_that_asks_who_else_there_is_is_told_of_those_that_a_run_can_be_passed_on_to() {
    let server = Daemon::server().config(json!({ "relay": true })).start();
    let _seed = Peer::dial(&server);
    let web = Peer::dial_version2(&server, &who("web", "i1", 1));
    let mut asker = Peer::dial_version2(&server, &who("till", "i2", 1));
    let others = |asker: &mut Peer| -> Value {
        asker.send_text(r#"{"name":"&cmd","id":"q","params":{"code":"PEERS"}}"#);
        let mut said: Value = serde_json::from_str(&asker.status()).expect("JSON");
        assert_eq!((&said["status"], &said["id"]), (&json!(0), &json!("q")), "{said}");
        said["result"].take()
    };
    assert_eq!(others(&mut asker), json!([{ "name": "web", "tags": ["t"], "connected": true }]));
    drop(web);
    server.wait_log("link down");
    assert_eq!(others(&mut asker), json!([{ "name": "web", "tags": ["t"], "connected": false }]));
    for code in ["RUNS", "STATS", "SUBSCRIBE", "RELOAD", "SCRIPTS", "RUN"] {
        asker.send_text(&format!(r#"{{"name":"&cmd","id":"q","params":{{"code":"{code}","data":"x"}}}}"#));
        assert_failed(&asker.status(), -3, "unknown_command", Some(json!("q")));
    }
}

#[test]
fn a_local_process_cannot_speak_for_its_daemon() {
    let (server, mut process) = served();
    let mut peer = Peer::dial_version2(&server, &who("web", "i1", 1));
    process.send(r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":0,"id":"r"}}}"#);
    assert_eq!(peer.text(), r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":0,"id":"r"}},"local":true}"#);
    process.send(exit("1", 1));
    let run = run_of(&peer.text());
    let marked = format!(r#"{{"name":"&cmd","params":{{"code":"STATUS","data":{{"status":9,"id":"{run}"}}}},"local":true}}"#);
    peer.send_text(&marked);
    peer.nothing_waiting();
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 1, "id": run })));
    assert_eq!(process.line(), exited("1", 1));
}

#[test]
fn a_seed_peer_beside_version_2_peers_notices_nothing() {
    let (server, mut process) = served();
    let mut seed = Peer::dial(&server);
    let mut other = Peer::dial_version2(&server, &who("web", "i1", 1));
    for number in 0..3 {
        let id = format!("\"n{number}\"");
        process.send(exit(&id, 3));
        assert_eq!(seed.text(), exit(&id, 3));
        seed.send_text(&crate::support::status_there(&exited(&id, 3)));
        assert_eq!(process.line(), exited(&id, 3));
        process.send(exit(&id, 4));
        serve_one(&mut other, 4);
        assert_eq!(process.line(), exited(&id, 4));
    }
    for word in ["HELLO", "DRAIN", "CREDIT"] {
        seed.send_text(&daemons_say(word, &Value::Null));
    }
    seed.send_text(r#"{"name":"none","id":"x","queue":true,"output":"film","attempt":2}"#);
    assert_failed(&seed.status(), -1, "not_found", Some(json!("x")));
    seed.nothing_waiting();
}
