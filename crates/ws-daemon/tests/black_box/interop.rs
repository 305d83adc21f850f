//! Ours among strangers: the seed's client, the seed daemon in both roles, and peers that never answer. The
//! stand-ins are in tests/stand-ins; that they speak as the seed did is shown in `recordings`.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Daemon, Local, MuteServer, Peer, PeerListener, need_stand_ins, need_tool, pair, seed_client};

/// Exits with the number in `{"exit":N}`.
const EXIT: &str = "#!/bin/sh\nn=${1##*[: ]}\nexit \"${n%\\}}\"\n";

/// Is killed by a signal.
const KILLED: &str = "#!/bin/sh\nkill -KILL $$\n";

/// Suspends a client's link for 100 ms, asked by its server.
const PAUSE_PEER: &str = r#"{"name":"&cmd","params":{"code":"pause","data":100}}"#;

/// A line for a local process of the peer.
const STATUS_THERE: &str = r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":4,"id":"n","extra":[1.0]}}}"#;

const THREADS: usize = 8;
const REQUESTS: usize = 25;

/// Enough to meet a race that one try meets rarely.
const ROUNDS: usize = 500;

// ---- The seed's client -----------------------------------------------------------------------------------------

#[test]
fn eight_threads_of_the_seeds_client_each_get_their_own_answers_on_both_sides() {
    if !need_tool("python3") {
        return;
    }
    let (server, client) = pair();
    server.script("exit", EXIT);
    client.script("exit", EXIT);
    thread::scope(|both| {
        for daemon in [&server, &client] {
            both.spawn(|| served(&daemon.socket().to_string_lossy()));
        }
    });
}

#[test]
fn the_seeds_client_in_a_container_is_served_over_tcp() {
    if !need_tool("python3") {
        return;
    }
    let server = Daemon::server().script("exit", EXIT).start();
    let client = Daemon::client(&server).env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    client.wait_log("link up");
    served(&client.local_address());
    assert_eq!(client.connect_tcp().ask(&exit(r#""id":"t","#, 3)), r#"{"status":3,"id":"t"}"#);
}

#[test]
fn the_seeds_client_is_served_by_seed_daemons_behind_ours() {
    if !need_stand_ins() {
        return;
    }
    let seed_server = Daemon::seed_server().script("exit", EXIT).start();
    let client = Daemon::client(&seed_server).start();
    client.wait_log("link up");
    served(&client.socket().to_string_lossy());

    let server = Daemon::server().start();
    let _seed_client = Daemon::seed_client(&server).script("exit", EXIT).start();
    server.wait_log("link up");
    served(&server.socket().to_string_lossy());
}

// ---- The seed daemon -------------------------------------------------------------------------------------------

#[test]
fn a_seed_server_and_our_client_run_each_others_scripts() {
    if !need_stand_ins() {
        return;
    }
    let seed = Daemon::seed_server().script("exit", EXIT).script("killed", KILLED).start();
    let ours = Daemon::client(&seed).script("exit", EXIT).start();
    seed.wait_log("link up");
    ours.wait_log("link up");
    converse(&ours, &seed);
}

#[test]
fn our_server_and_a_seed_client_run_each_others_scripts() {
    if !need_stand_ins() {
        return;
    }
    let ours = Daemon::server().script("exit", EXIT).start();
    let seed = Daemon::seed_client(&ours).script("exit", EXIT).script("killed", KILLED).start();
    seed.wait_log("link up");
    ours.wait_log("link up");
    converse(&ours, &seed);
}

#[test]
fn requests_go_round_among_two_seed_clients_and_one_of_ours_and_outcomes_return_where_they_were_asked() {
    if !need_stand_ins() {
        return;
    }
    let server = Daemon::server().script("exit", EXIT).start();
    let first = Daemon::seed_client(&server).script("who", &exits(1)).start();
    server.wait_log_times("link up", 1);
    let second = Daemon::client(&server).script("who", &exits(2)).start();
    server.wait_log_times("link up", 2);
    let third = Daemon::seed_client(&server).script("who", &exits(3)).start();
    server.wait_log_times("link up", 3);

    let mut asker = server.connect();
    for turn in 0..7 {
        let who = 1 + turn % 3;
        let answer = asker.ask(&format!(r#"{{"name":"who","id":{turn},"params":{{}}}}"#));
        assert_eq!(answer, format!(r#"{{"status":{who},"id":{turn}}}"#), "turn {turn}");
    }

    // All ask the server at once; each outcome goes to the link it was asked on.
    let mut askers = [&first, &second, &third].map(Daemon::connect);
    for (number, asker) in askers.iter_mut().enumerate() {
        asker.send(exit(r#""id":"same","#, 10 + number));
    }
    for (number, asker) in askers.iter_mut().enumerate() {
        assert_eq!(asker.line(), format!(r#"{{"status":{},"id":"same"}}"#, 10 + number));
        asker.nothing_waiting();
    }
}

#[test]
fn our_client_finds_a_restarted_seed_server_and_delivers_what_it_held() {
    if !need_stand_ins() {
        return;
    }
    let seed = Daemon::seed_server().script("exit", EXIT).start();
    let ours = Daemon::client(&seed).script("exit", EXIT).start();
    ours.wait_log("link up");
    let mut asker = ours.connect();
    assert_eq!(asker.ask(&exit(r#""id":0,"#, 3)), r#"{"status":3,"id":0}"#);

    let seed = seed.kill();
    ours.wait_log("link down");
    asker.send(exit(r#""id":1,"#, 4));
    asker.send(exit(r#""id":2,"#, 5));
    asker.nothing_waiting();
    let seed = seed.start();
    assert_eq!(sorted_lines(&mut asker, 2), [r#"{"status":4,"id":1}"#, r#"{"status":5,"id":2}"#]);
    assert_eq!(seed.connect().ask(&exit(r#""id":"back","#, 6)), r#"{"status":6,"id":"back"}"#);
}

#[test]
fn a_seed_client_finds_our_restarted_server_and_delivers_what_it_held() {
    if !need_stand_ins() {
        return;
    }
    let ours = Daemon::server().script("exit", EXIT).start();
    let seed = Daemon::seed_client(&ours).env("SEED_RECONNECT_MS", "50").script("exit", EXIT).start();
    seed.wait_log("link up");
    let mut asker = seed.connect();
    assert_eq!(asker.ask(&exit(r#""id":0,"#, 3)), r#"{"status":3,"id":0}"#);

    let ours = ours.kill();
    seed.wait_log("link down");
    asker.send(exit(r#""id":1,"#, 4));
    let ours = ours.start();
    assert_eq!(asker.line(), r#"{"status":4,"id":1}"#);
    assert_eq!(ours.connect().ask(&exit(r#""id":"back","#, 6)), r#"{"status":6,"id":"back"}"#);
}

#[test]
fn a_seed_server_pauses_our_client_and_ours_pauses_a_seed_client() {
    if !need_stand_ins() {
        return;
    }
    let seed = Daemon::seed_server().start();
    let ours = Daemon::client(&seed).start();
    seed.wait_log("link up");
    seed.connect().send(PAUSE_PEER);
    ours.wait_log("link down");
    ours.wait_log_times("link up", 2);

    let ours = Daemon::server().start();
    let seed = Daemon::seed_client(&ours).start();
    ours.wait_log("link up");
    let mut asker = ours.connect();
    asker.send(PAUSE_PEER);
    seed.wait_log("link down");
    seed.wait_log_times("link up", 2);
    asker.nothing_waiting();
}

#[test]
fn a_status_that_a_local_process_sends_arrives_at_the_other_daemons_local_process() {
    if !need_stand_ins() {
        return;
    }
    let server = Daemon::server().start();
    let seed = Daemon::seed_client(&server).start();
    server.wait_log("link up");
    let (mut here, mut there) = (server.connect(), seed.connect());
    here.send(STATUS_THERE);
    assert_eq!(there.line(), r#"{"status":4,"id":"n","extra":[1]}"#, "the seed parses and prints again");
    there.send(STATUS_THERE);
    assert_eq!(here.line(), r#"{"status":4,"id":"n","extra":[1.0]}"#, "ours passes it on as it came");
}

#[test]
fn a_seed_client_that_never_answers_is_felt_by_nobody_else() {
    if !need_stand_ins() {
        return;
    }
    let server = Daemon::server().start();
    // The seed never answers a request for a script that it does not have.
    let silent = Daemon::seed_client(&server).start();
    server.wait_log_times("link up", 1);
    let _able = Daemon::client(&server).script("exit", EXIT).start();
    server.wait_log_times("link up", 2);

    let (mut unlucky, mut lucky) = (server.connect(), server.connect());
    for turn in 0..3 {
        unlucky.send(exit(&format!(r#""id":{turn},"#), 3));
        silent.wait_log_times("link heard", turn + 1);
        assert_eq!(lucky.ask(&exit(r#""id":"l","#, 5)), r#"{"status":5,"id":"l"}"#);
    }
    drop(silent.kill());
    for (turn, line) in sorted_lines(&mut unlucky, 3).iter().enumerate() {
        assert_interrupted(line, &json!(turn));
    }
    lucky.nothing_waiting();
}

// ---- Mute peers ------------------------------------------------------------------------------------------------

#[test]
fn a_mute_server_gets_the_plainest_handshake_and_its_silence_is_felt_by_nobody_else() {
    if !need_stand_ins() {
        return;
    }
    let mute = MuteServer::start(3);
    let ours = Daemon::client_of(mute.port()).without_token().start();
    ours.wait_log("link up");
    let handshake = mute.handshake();
    for absent in ["sec-websocket-protocol", "origin", "authorization"] {
        assert!(handshake["headers"].get(absent).is_none(), "a seed handshake has no {absent}: {handshake}");
    }
    assert_eq!(handshake["headers"]["ws-daemon"], "2", "a seed server passes over what it does not know");
    assert_eq!(handshake["headers"]["sec-websocket-version"], "13");

    let (mut first, mut second) = (ours.connect(), ours.connect());
    let asked: Vec<String> = (1..=3).map(|n| format!(r#"{{"name":"m","id":{n},"params":{{"n": {n}.0}}}}"#)).collect();
    first.send(asked.concat());
    assert_eq!(mute.frames(3), asked, "one request, one text frame, as it was written");
    assert_eq!(sorted_lines(&mut first, 2), [r#"{"status":0,"id":1}"#, r#"{"status":0,"id":2}"#]);

    second.send(r#"{"name":"m","id":"four"}{"name":"m"}"#);
    assert_eq!(sorted_lines(&mut second, 2), [r#"{"status":0,"id":"four"}"#, r#"{"status":0}"#]);
    first.nothing_waiting();
    second.nothing_waiting();

    drop(mute);
    assert_interrupted(&first.line(), &json!(3));
    second.nothing_waiting();
}

#[test]
fn a_mute_client_that_answers_late_and_out_of_order_is_understood() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial(&server);
    assert_eq!(peer.header("sec-websocket-extensions"), None, "compression is declined");
    assert_eq!(peer.header("sec-websocket-protocol"), None);

    let mut askers = [server.connect(), server.connect(), server.connect()];
    let mut ids = Vec::new();
    for asker in &mut askers {
        asker.send(r#"{"name":"m","id":"same","params":[]}"#);
        let frame: Value = serde_json::from_str(&peer.text()).expect("a frame is JSON");
        ids.push(frame["id"].clone());
    }
    assert_eq!(ids[0], "same", "the caller's own id where it is free on the link");
    assert!(ids[1] != "same" && ids[2] != "same" && ids[1] != ids[2], "else the run's: {ids:?}");
    for number in [2, 0] {
        peer.send_text(&status(number, &ids[number]));
        assert_eq!(askers[number].line(), format!(r#"{{"status":{number},"id":"same"}}"#));
    }
    // An answer that comes twice settles nothing twice.
    peer.send_text(&status(9, &ids[0]));
    peer.nothing_waiting();
    askers[1].nothing_waiting();
    peer.send(Message::Close(None));
    assert_interrupted(&askers[1].line(), &json!("same"));
}

#[test]
fn a_process_is_free_for_statuses_as_soon_as_its_command_has_left_or_its_answer_has_come() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial(&server);
    let mut process = server.connect();
    for round in 0..ROUNDS {
        // Told to the peer, which tells it back at once.
        process.send(STATUS_THERE);
        let told = peer.text();
        peer.send_text(&told);
        assert_eq!(process.line(), r#"{"status":4,"id":"n","extra":[1.0]}"#, "round {round}");

        process.send(r#"{"name":"m","id":"m"}"#);
        peer.text();
        peer.send_text(&status(0, &json!("m")));
        assert_eq!(process.line(), r#"{"status":0,"id":"m"}"#, "round {round}");
        peer.send_text(&told);
        assert_eq!(process.line(), r#"{"status":4,"id":"n","extra":[1.0]}"#, "round {round}");
    }
}

#[test]
fn what_our_client_held_while_its_server_was_away_leaves_in_order() {
    let listener = PeerListener::bind();
    let ours = Daemon::client_of(listener.port()).start();
    let mut peer = listener.accept(&ours);
    assert_eq!(peer.path(), "/");
    peer.send(Message::Close(None));
    drop(peer);
    ours.wait_log("link down");

    let asked: Vec<String> = (0..50).map(|n| format!(r#"{{"name":"m","id":{n},"params":{{"n": {n}}}}}"#)).collect();
    let mut asker = ours.connect();
    asker.send(asked.concat());
    asker.half_close();
    let mut peer = listener.accept(&ours);
    for (number, text) in asked.iter().enumerate() {
        assert_eq!(&peer.text(), text);
        peer.send_text(&status(number, &json!(number)));
    }
    let mut wanted: Vec<String> = (0..asked.len()).map(|n| format!(r#"{{"status":{n},"id":{n}}}"#)).collect();
    wanted.sort_unstable();
    assert_eq!(sorted_lines(&mut asker, asked.len()), wanted);
    asker.eof();
}

#[test]
fn a_frame_that_is_too_large_closes_that_link_alone_and_the_server_still_stops_as_asked() {
    let mut server = Daemon::server().config(json!({ "limits": { "message": "64KiB" } })).start();
    let mut whole = Peer::dial(&server);
    let mut broken = Peer::try_dial(&server, "/any/path?at=all", &[]).expect("any path is a link's");
    server.wait_log_times("link up", 2);
    // A masked text frame that announces 2^40 bytes.
    broken.send_bytes(&[0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(broken.closed(), Some(1009));
    whole.nothing_waiting();
    let refused = Peer::try_dial(&server, "/", &[("origin", "http://example.invalid")]).err().expect("no page may enter");
    assert_eq!(refused.status, 403, "{}", refused.body);

    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit(Duration::from_secs(15)).code(), Some(0));
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// Runs the seed's client, all threads of it, and sees that it was content.
fn served(socket: &str) {
    let summary = seed_client(socket, THREADS, REQUESTS);
    assert_eq!(summary["answers"], THREADS * REQUESTS, "{summary}");
}

/// Requests both ways between ours and a seed daemon, of every shape that the seed answers.
fn converse(ours: &Daemon, seed: &Daemon) {
    for (asked, doer) in [(ours, "the seed's scripts"), (seed, "our scripts")] {
        let mut asker = asked.connect();
        assert_eq!(asker.ask(&exit(r#""id":"x","#, 7)), r#"{"status":7,"id":"x"}"#, "{doer}");
        assert_eq!(asker.ask(&exit(r#""id":5,"#, 0)), r#"{"status":0,"id":5}"#, "{doer}");
        assert_eq!(asker.ask(&exit("", 9)), r#"{"status":9}"#, "{doer}");
    }
    let mut asker = ours.connect();
    asker.send(r#"{"name":"unknown to the seed","id":"never","params":{}}"#);
    let answer = asker.ask(r#"{"name":"killed","id":"k","params":{}}"#);
    assert_eq!(answer, r#"{"status":null,"id":"k"}"#, "a null is passed on as it is");
    asker.nothing_waiting();
}

/// The next lines of a connection, sorted: answers come as they are ready.
fn sorted_lines(local: &mut Local, count: usize) -> Vec<String> {
    let mut lines: Vec<String> = (0..count).map(|_| local.line()).collect();
    lines.sort_unstable();
    lines
}

/// The answer to a request that was in flight on a link that died.
fn assert_interrupted(line: &str, id: &Value) {
    let answer: Value = serde_json::from_str(line).expect("a line is JSON");
    assert_eq!((&answer["status"], &answer["id"], &answer["error"]), (&json!(-5), id, &json!("interrupted")), "{line}");
}

/// A request for the script that exits as told; `id` is the key with its comma, or nothing.
fn exit(id: &str, status: usize) -> String {
    format!(r#"{{"name":"exit",{id}"params":{{"exit":{status}}}}}"#)
}

/// A script that always exits so.
fn exits(status: u8) -> String {
    format!("#!/bin/sh\nexit {status}\n")
}

/// The frame by which a seed peer answers.
fn status(status: usize, id: &Value) -> String {
    format!(r#"{{"name":"&cmd","params":{{"code":"STATUS","data":{{"status":{status},"id":{id}}}}}}}"#)
}
