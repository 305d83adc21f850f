//! The local conversation: what a process says to its daemon's socket and gets back, byte for byte, whether a peer's
//! script ran, nobody was there or the message was none. What travels between daemons is shown in `links`.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use serde_json::{Value, json};

use crate::support::{Daemon, EXIT, Local, Peer, PeerListener, assert_failed, exit, exited, pair, status_there};

/// Leaves its argument in a file named after the request's id.
const ARGUMENT: &str = "#!/bin/sh\nprintf %s \"$1\" > \"$WSDAEMON_PREFIX/argv.$WSDAEMON_ID\"\n";

/// A server with a scripted peer, for what is about answers and not about scripts.
fn scripted() -> (Daemon, Peer) {
    let server = Daemon::server().start();
    let peer = Peer::dial(&server);
    (server, peer)
}

/// A server, our client of it that has the script `exit`, and a process connected to the server.
fn exiting() -> (Daemon, Daemon, Local) {
    let (server, client) = pair();
    client.script("exit", EXIT);
    let process = server.connect();
    (server, client, process)
}

// ---- Requests and answers --------------------------------------------------------------------------------------

#[test]
fn one_object_in_one_send_without_a_newline_is_answered_with_exactly_its_status_and_id() {
    let (_server, _client, mut process) = exiting();
    assert_eq!(process.ask(r#"{"name":"exit","id":"x","params":{"exit":7}}"#), r#"{"status":7,"id":"x"}"#);
    assert_eq!(process.ask(r#"{"name":"exit","params":{"exit":7}}"#), r#"{"status":7}"#);
    assert_eq!(process.ask(r#"{"params":{"exit":255},"name":"exit","id":"y"}"#), r#"{"status":255,"id":"y"}"#);
    process.nothing_waiting();
}

#[test]
fn several_objects_in_one_write_are_several_requests_with_or_without_white_space_between_them() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    let asked = [exit("1", 0), exit("2", 0), exit("3", 0), exit("4", 0)];
    process.send(format!(" \r\n\t{}{} {}\n\n{}\n", asked[0], asked[1], asked[2], asked[3]));
    for text in &asked {
        assert_eq!(&peer.text(), text);
    }
    for id in ["3", "1", "4", "2"] {
        peer.send_text(&status_there(&exited(id, 9)));
        assert_eq!(process.line(), exited(id, 9));
    }
    process.nothing_waiting();
}

#[test]
fn one_object_in_many_writes_is_one_request_also_where_a_character_is_split() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    let asked = r#"{"name":"m","id":"é€😀","params":{"text":"{\"é€😀\\"}}"#;
    for byte in asked.as_bytes() {
        process.send([*byte]);
    }
    assert_eq!(peer.text(), asked);
    peer.send_text(&status_there(&exited(r#""é€😀""#, 0)));
    assert_eq!(process.line(), exited(r#""é€😀""#, 0));
    let (start, end) = asked.split_at(asked.find("params").expect("it has params"));
    process.send(format!("{asked}{start}"));
    assert_eq!(peer.text(), asked, "what is whole leaves while the next is not");
    process.send(end);
    // The other is still unanswered, so its id is taken on the link.
    let frame: Value = serde_json::from_str(&peer.text()).expect("a frame is JSON");
    assert_eq!(frame["params"], json!({ "text": "{\"é€😀\\" }));
}

#[test]
fn an_id_comes_back_with_the_type_and_the_digits_it_was_sent_with() {
    let (_server, _client, mut process) = exiting();
    let ids = [
        r#""x""#,
        r#""""#,
        r#""\u00e9\n\/""#,
        r#""\ud800""#,
        "5",
        "-0",
        "1.0",
        "1e3",
        "12345678901234567890",
        "0.10000000000000000000000001",
        "null",
        "true",
        "false",
        "[]",
        r#"[1,"b",null]"#,
        r#"{"a":[1.50],"b":{}}"#,
    ];
    for id in ids {
        assert_eq!(process.ask(&exit(id, 3)), exited(id, 3));
    }
    assert_eq!(process.ask(&exit(r#"{ "a" : [ 1.50 ] }"#, 3)), exited(r#"{"a":[1.50]}"#, 3), "a line is compact");
}

#[test]
fn an_id_that_a_peer_wrote_in_other_words_still_finds_its_request() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    let rewritten = [
        (r#""\u00e9\/""#, r#""é/""#),
        (r#""é""#, r#""\u00E9""#),
        ("1.0", "1"),
        ("1e3", "1000"),
        ("12345678901234567890", "12345678901234567000"),
        (r#"{"b":[2.0],"a":1}"#, r#"{"b":[2],"a":1}"#),
    ];
    for (ours, theirs) in rewritten {
        process.send(exit(ours, 0));
        peer.text();
        peer.send_text(&status_there(&exited(theirs, 4)));
        assert_eq!(process.line(), exited(ours, 4));
    }
}

#[test]
fn an_answer_goes_to_the_connection_that_asked_and_not_to_the_one_that_came_last() {
    let (server, mut peer) = scripted();
    let (mut first, mut second) = (server.connect(), server.connect());
    first.send(exit(r#""a""#, 0));
    peer.text();
    second.send(exit(r#""b""#, 0));
    peer.text();
    let mut last = server.connect();
    peer.send_text(&status_there(&exited(r#""b""#, 2)));
    peer.send_text(&status_there(&exited(r#""a""#, 1)));
    assert_eq!(first.line(), exited(r#""a""#, 1));
    assert_eq!(second.line(), exited(r#""b""#, 2));
    last.nothing_waiting();
    first.nothing_waiting();
    second.nothing_waiting();
}

#[test]
fn a_process_with_a_request_in_flight_gets_no_line_that_it_did_not_ask_for() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    process.send(exit(r#""x""#, 0));
    peer.text();
    let strays = [r#"{"status":1,"id":"y"}"#, r#"{"status":1}"#, "{}", r#"{"status":1,"id":null}"#];
    for data in strays {
        peer.send_text(&status_there(data));
    }
    // Once the answer has come the process is idle: until then each must have been dealt with.
    server.wait_log_times("nobody is idle to read it", strays.len());
    peer.send_text(&status_there(&exited(r#""x""#, 5)));
    assert_eq!(process.line(), exited(r#""x""#, 5));
    process.nothing_waiting();
}

#[test]
fn a_client_that_shuts_down_its_writing_side_gets_all_its_answers_and_then_the_end() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    process.send([exit("1", 0), exit("2", 0)].concat());
    process.half_close();
    peer.text();
    peer.text();
    peer.send_text(&status_there(&exited("2", 8)));
    assert_eq!(process.line(), exited("2", 8));
    // A status that nobody waits for is not for someone who is leaving.
    peer.send_text(&status_there(r#"{"status":1,"id":"nobody's"}"#));
    peer.send_text(&status_there(&exited("1", 9)));
    assert_eq!(process.line(), exited("1", 9));
    process.eof();

    let mut silent = server.connect();
    silent.half_close();
    silent.eof();
}

#[test]
fn a_local_process_that_leaves_is_felt_by_nobody_else() {
    let (server, mut peer) = scripted();
    let (mut before, leaving, mut after) = (server.connect(), server.connect(), server.connect());
    before.send(exit(r#""b""#, 0));
    peer.text();
    let mut leaving = leaving;
    leaving.send(exit(r#""l""#, 0));
    peer.text();
    drop(leaving);
    server.wait_log("local connection closed");
    peer.send_text(&status_there(&exited(r#""b""#, 1)));
    assert_eq!(before.line(), exited(r#""b""#, 1));
    after.send(exit(r#""a""#, 0));
    peer.text();
    peer.send_text(&status_there(&exited(r#""a""#, 2)));
    assert_eq!(after.line(), exited(r#""a""#, 2));
}

#[test]
fn a_local_client_that_resets_its_connection_is_dropped_and_the_daemon_lives() {
    let server = Daemon::server().env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    let mut peer = Peer::dial(&server);
    let mut other = server.connect();
    other.send(exit(r#""o""#, 0));
    peer.text();

    // By TCP, in the middle of a message and with an answer on its way.
    let mut rude = TcpStream::connect(server.local_address()).expect("it is served");
    rude.write_all(br#"{"name":"m","id":"rude"}{"name":"#).expect("it reads");
    assert!(peer.text().contains("rude"));
    peer.send_text(&status_there(&exited(r#""rude""#, 1)));
    peer.nothing_waiting();
    set_socket_linger(&rude, Some(Duration::ZERO)).expect("it is a TCP socket");
    drop(rude);
    // By the socket file, with answers that it has not read: its end is a reset too.
    let mut rude = UnixStream::connect(server.socket()).expect("it is served");
    rude.write_all(format!("{}{}", status_here("{}"), exit(r#""rude""#, 0)).as_bytes()).expect("it reads");
    assert!(peer.text().contains("exit"));
    drop(rude);

    server.wait_log_times("local connection closed", 2);
    peer.send_text(&status_there(&exited(r#""o""#, 6)));
    assert_eq!(other.line(), exited(r#""o""#, 6));
    other.nothing_waiting();
}

// ---- Params ----------------------------------------------------------------------------------------------------

#[test]
fn a_script_gets_its_params_compact_with_key_order_numbers_and_escapes_as_written() {
    let (server, client) = pair();
    client.script("argument", ARGUMENT);
    let mut process = server.connect();
    let table = [
        (r#"{ "z" : 1.0 , "a" : [ 1 ,	2 ] , "s" : " \u00e9 : , " }"#, r#"{"z":1.0,"a":[1,2],"s":" \u00e9 : , "}"#),
        ("12345678901234567890", "12345678901234567890"),
        ("-0.0e+10", "-0.0e+10"),
        (r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#),
        (r#""a b\/\ud800""#, r#""a b\/\ud800""#),
        (r#""7""#, r#""7""#),
        ("\"é😀\"", "\"é😀\""),
        ("null", "null"),
        ("false", "false"),
        ("[ ]", "[]"),
    ];
    for (number, (written, argument)) in table.into_iter().enumerate() {
        let answer = process.ask(&format!(r#"{{"name":"argument","id":{number},"params":{written}}}"#));
        assert_eq!(answer, exited(&number.to_string(), 0), "{written}");
        assert_eq!(argument_of(&client, &number.to_string()), argument);
    }
}

#[test]
fn a_request_without_params_passes_null() {
    let (server, client) = pair();
    client.script("argument", ARGUMENT);
    assert_eq!(server.connect().ask(r#"{"name":"argument","id":"none"}"#), exited(r#""none""#, 0));
    assert_eq!(argument_of(&client, "none"), "null");
}

fn argument_of(doer: &Daemon, id: &str) -> String {
    fs::read_to_string(doer.prefix().join(format!("argv.{id}"))).expect("the script has run")
}

// ---- What is no message ----------------------------------------------------------------------------------------

#[test]
fn bad_json_is_answered_at_once_with_its_position_and_reading_goes_on_after_the_next_newline() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    let asked = exit("1", 0);
    let answer = process.ask(&format!("{{\"name\":\"m\"; lost {{\"name\":\"lost\"}}\n{asked}"));
    let message = assert_failed(&answer, -3, "bad_message", None);
    assert!(message.contains("byte 12 of the message"), "{message}");
    assert_eq!(peer.text(), asked, "behind the newline that was read already");

    let answer = process.ask(&format!("{{\"name\":m}} {}", exit("2", 0)));
    assert!(assert_failed(&answer, -3, "bad_message", None).contains("byte 9 "));
    let asked = exit("3", 0);
    process.send(&asked);
    assert_eq!(peer.text(), asked, "without one, behind all that was read");
    peer.send_text(&status_there(&exited("1", 4)));
    assert_eq!(process.line(), exited("1", 4), "what was in flight is not touched");
}

#[test]
fn a_first_byte_that_cannot_begin_an_object_is_answered_without_waiting_for_more() {
    let server = Daemon::server().start();
    for byte in ["x", "[", "5", "\"", "}", "n", "\u{feff}", ","] {
        let mut process = server.connect();
        let message = assert_failed(&process.ask(byte), -3, "bad_message", None);
        assert!(message.contains("byte 1 of the message"), "{byte:?}: {message}");
        assert_eq!(process.ask(&exit("1", 0)), exited_nobody("1"), "reading goes on behind {byte:?}");
    }
}

#[test]
fn every_kind_of_broken_json_is_answered_where_it_breaks() {
    let server = Daemon::server().start();
    let deep = format!("{{\"name\":\"m\",\"params\":{}", "[".repeat(128));
    let table: [(&[u8], usize, &str); 9] = [
        (b"{,", 2, "expected"),
        (b"{\"a\" 1", 6, "expected"),
        (b"{\"a\":01", 7, "expected"),
        (b"{\"a\":1,}", 8, "expected"),
        (b"{\"a\":truE", 9, "expected"),
        (b"{\"a\":\"\\x", 8, "expected"),
        (b"{\"a\":\"b\nc", 8, "control character"),
        (b"{\"a\":\"\xc0", 7, "UTF-8"),
        (deep.as_bytes(), deep.len(), "nested deeper than 128"),
    ];
    for (bytes, at, words) in table {
        let shown = String::from_utf8_lossy(bytes);
        let mut process = server.connect();
        process.send(bytes);
        let message = assert_failed(&process.line(), -3, "bad_message", None);
        assert!(message.contains(&format!("byte {at} of the message")) && message.contains(words), "{shown}: {message}");
    }
}

#[test]
fn an_object_that_ends_early_is_answered_when_the_client_shuts_down_its_writing_side() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    process.send(format!("{}{{\"name\":", exit("1", 0)));
    peer.text();
    process.half_close();
    let message = assert_failed(&process.line(), -3, "bad_message", None);
    assert!(message.contains("ended early, after 8 bytes"), "{message}");
    peer.send_text(&status_there(&exited("1", 3)));
    assert_eq!(process.line(), exited("1", 3), "what was whole still gets its answer");
    process.eof();
}

#[test]
fn an_object_without_the_right_keys_is_answered_under_its_id() {
    let server = Daemon::server().start();
    let mut process = server.connect();
    let table = [
        ("{}", None, "no \"name\""),
        (r#"{"id":1.0,"params":{}}"#, Some(json!(1.0)), "no \"name\""),
        (r#"{"id":"x","name":5}"#, Some(json!("x")), "\"name\" must be text"),
        (r#"{"id":"x","name":"m","timeout":"soon"}"#, Some(json!("x")), "\"timeout\""),
        (r#"{"id":"x","name":"m","timeout":-1}"#, Some(json!("x")), "\"timeout\""),
        (r#"{"name":"a","id":1,"name":"b"}"#, None, "\"name\" stands there twice"),
        (r#"{"name":"a","params":{},"p\u0061rams":{}}"#, None, "\"params\" stands there twice"),
        (r#"{"name":"a","id":1,"id":1}"#, None, "\"id\" stands there twice"),
    ];
    for (text, id, words) in table {
        let message = assert_failed(&process.ask(text), -3, "bad_message", id);
        assert!(message.contains(words), "{text}: {message}");
    }
    let long = format!("\"{}\"", "x".repeat(5000));
    let message = assert_failed(&process.ask(&exit(&long, 0)), -3, "bad_message", None);
    assert!(message.contains("the id is longer than"), "{message}");
    process.nothing_waiting();
}

#[test]
fn an_option_that_cannot_be_honoured_is_refused_by_name_and_a_slip_with_the_nearest() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    // The peer is a seed daemon: it tells a status and nothing else.
    for option in [r#""output":"tail""#, r#""output":"json""#, r#""output":"stream""#, r#""events":true"#] {
        let key = option.split(':').next().expect("a key");
        let answer = process.ask(&format!(r#"{{"name":"m","id":"x",{option}}}"#));
        let said: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((&said["status"], &said["error"], &said["id"]), (&json!(-3), &json!("unsupported"), &json!("x")), "{said}");
        assert!(said["message"].as_str().is_some_and(|message| message.contains(key)), "{option}: {said}");
    }
    for (slip, near) in [("tiemout", "timeout"), ("qeue", "queue"), ("param", "params"), ("Name", "name")] {
        let message = assert_failed(&process.ask(&format!(r#"{{"name":"m","{slip}":1}}"#)), -3, "unsupported", None);
        assert!(message.contains(slip) && message.contains(&format!("did you mean \"{near}\"?")), "{message}");
    }
    peer.nothing_waiting();
}

#[test]
fn a_message_over_the_limit_is_answered_once_and_the_next_one_works() {
    let server = Daemon::server().config(json!({ "limits": { "message": "64KiB" } })).start();
    let mut peer = Peer::dial(&server);
    let mut process = server.connect();
    let sized = |length: usize| {
        let frame = r#"{"name":"m","id":1,"params":""}"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(length - frame.len())))
    };
    let largest = sized(64 << 10);
    process.send(&largest);
    assert_eq!(peer.text(), largest);
    for length in [(64 << 10) + 1, 1 << 20] {
        process.send(sized(length));
        let message = assert_failed(&process.line(), -3, "too_large", None);
        assert!(message.contains("65536 bytes"), "{message}");
        let asked = exit("2", 0);
        process.send(&asked);
        assert_eq!(peer.text(), asked);
        peer.send_text(&status_there(&exited("2", 1)));
        assert_eq!(process.line(), exited("2", 1));
    }
    process.nothing_waiting();
}

// ---- Commands --------------------------------------------------------------------------------------------------

#[test]
fn status_here_comes_back_as_a_line_to_its_sender_alone_in_any_letter_case() {
    let (server, mut peer) = scripted();
    let (mut process, mut other) = (server.connect(), server.connect());
    for code in ["STATUS", "status", "StAtUs"] {
        process.send(format!(r#"{{"name":"+cmd","params":{{"data":{{ "status" : 1.0 , "more":" " }},"code":"{code}"}}}}"#));
        assert_eq!(process.line(), r#"{"status":1.0,"more":" "}"#, "its data, compact");
    }
    // With an id the success is told behind it.
    process.send(r#"{"name":"+cmd","id":"i","params":{"code":"STATUS","data":{}}}"#);
    assert_eq!((process.line().as_str(), process.line()), ("{}", exited(r#""i""#, 0)));
    other.nothing_waiting();
    peer.nothing_waiting();
}

#[test]
fn a_command_there_goes_to_the_peer_as_written_and_is_answered_only_under_an_id() {
    let (server, mut peer) = scripted();
    let mut process = server.connect();
    let params = r#"{ "code": "pause", "data": 5 }"#;
    process.send(format!(r#"{{"name":"&cmd","params":{params}}}"#));
    assert_eq!(peer.text(), format!(r#"{{"name":"&cmd","params":{params}}}"#));
    process.nothing_waiting();
    process.send(format!(r#"{{"params":{params},"id":"p","name":"&cmd"}}"#));
    assert_eq!(peer.text(), format!(r#"{{"name":"&cmd","id":"p","params":{params}}}"#));
    peer.send_text(&status_there(&exited(r#""p""#, 0)));
    assert_eq!(process.line(), exited(r#""p""#, 0));
    process.nothing_waiting();
}

#[test]
fn a_command_that_fails_is_told_to_its_local_caller_with_and_without_an_id() {
    let server = Daemon::server().start();
    let mut process = server.connect();
    let table = [
        (r#"{"code":"PAUSE","data":100}"#, "unsupported", "this daemon is a server"),
        (r#"{"code":"PAUSE"}"#, "bad_message", "whole milliseconds"),
        (r#"{"code":"PAUSE","data":"1s"}"#, "bad_message", "whole milliseconds"),
        (r#"{"code":"PAUSE","data":1.5}"#, "bad_message", "whole milliseconds"),
        (r#"{"code":"PAUSE","data":-1}"#, "bad_message", "whole milliseconds"),
        (r#"{"code":"STATUS","data":5}"#, "bad_message", "an object"),
        (r#"{"code":5}"#, "bad_message", "code"),
        ("null", "bad_message", "code"),
        (r#"{"code":"PUASE","data":1}"#, "unknown_command", "did you mean PAUSE?"),
        (r#"{"code":"REBOOT"}"#, "unknown_command", "PAUSE, STATUS"),
    ];
    for (params, error, words) in table {
        for (key, id) in [("", None), (r#""id":[1],"#, Some(json!([1])))] {
            let answer = process.ask(&format!(r#"{{"name":"+cmd",{key}"params":{params}}}"#));
            let message = assert_failed(&answer, -3, error, id);
            assert!(message.contains(words), "{params}: {message}");
        }
    }
    assert_eq!(process.ask(r#"{"name":"&cmd","params":{"code":"PAUSE","data":1}}"#), r#"{"status":-2}"#, "nobody there");
    process.nothing_waiting();
}

#[test]
fn a_status_that_nobody_waits_for_goes_to_the_most_recently_connected_idle_process() {
    let (server, mut peer) = scripted();
    let (mut first, mut second, mut third) = (server.connect(), server.connect(), server.connect());
    let say = |peer: &mut Peer, number: usize| {
        let data = format!(r#"{{"status":1.0,"id":"n{number}","more":"é"}}"#);
        peer.send_text(&status_there(&data.replace(':', " : ")));
        data
    };
    let said = say(&mut peer, 1);
    assert_eq!(third.line(), said, "what came, compact");

    third.send(exit(r#""t""#, 0));
    peer.text();
    let said = say(&mut peer, 2);
    assert_eq!(second.line(), said, "the third has a request in flight");
    peer.send_text(&status_there(&exited(r#""t""#, 0)));
    assert_eq!(third.line(), exited(r#""t""#, 0));
    let said = say(&mut peer, 3);
    assert_eq!(third.line(), said, "it is idle again");

    drop(third);
    drop(second);
    server.wait_log_times("local connection closed", 2);
    let said = say(&mut peer, 4);
    assert_eq!(first.line(), said);
    first.nothing_waiting();
}

// ---- Nobody there ----------------------------------------------------------------------------------------------

#[test]
fn a_server_with_nobody_connected_answers_at_once_in_the_seeds_words() {
    let server = Daemon::server().start();
    let mut process = server.connect();
    assert_eq!(process.ask(&exit(r#""x""#, 0)), r#"{"status":-2,"id":"x"}"#);
    assert_eq!(process.ask(r#"{"name":"m"}"#), r#"{"status":-2}"#);
    // Whoever used more than the seed's keys is told more.
    let answer = process.ask(r#"{"name":"m","id":1,"timeout":"1h"}"#);
    let message = assert_failed(&answer, -2, "no_peer", Some(json!(1)));
    assert!(message.contains("start a client"), "{message}");

    let peer = Peer::dial(&server);
    drop(peer);
    server.wait_log("link down");
    assert_eq!(process.ask(&exit("2", 0)), exited_nobody("2"), "nobody again");
}

#[test]
fn what_a_client_holds_is_bounded_and_what_found_room_leaves_in_order() {
    const MANY: usize = 40;
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).config(json!({ "limits": { "held_bytes": "16KiB" } }));
    // Until the listener accepts, there is no handshake and so no link.
    let client = client.start();
    let mut process = client.connect();
    let request = |number: usize| format!(r#"{{"name":"m","id":{number},"params":"{}"}}"#, "x".repeat(1024));
    for number in 0..MANY {
        process.send(request(number));
    }
    // All have been dealt with when this is: one connection's messages are taken in order.
    process.send(status_here("{}"));
    let mut refused: Vec<u64> = Vec::new();
    loop {
        match process.line().as_str() {
            "{}" => break,
            line => refused.push(refused_number(line)),
        }
    }
    let mut peer = listener.accept(&client);
    process.send(exit(r#""last""#, 0));
    let mut held = 0;
    loop {
        let frame = peer.text();
        if frame == exit(r#""last""#, 0) {
            break;
        }
        assert_eq!(frame, request(held));
        held += 1;
    }
    assert!((8..=16).contains(&held), "16 KiB hold {held} requests of a little over 1 KiB");
    while refused.len() < MANY - held {
        refused.push(refused_number(&process.line()));
    }
    refused.sort_unstable();
    assert_eq!(refused, (held as u64..MANY as u64).collect::<Vec<_>>(), "what came later than it was full");
    process.nothing_waiting();
}

/// Which request was refused because too many wait.
fn refused_number(line: &str) -> u64 {
    let said: Value = serde_json::from_str(line).expect("a line is JSON");
    let message = assert_failed(line, -2, "queue_full", Some(said["id"].clone()));
    assert!(message.contains("no room"), "{message}");
    said["id"].as_u64().expect("it was a number")
}

#[test]
fn what_a_client_holds_leaves_also_if_its_caller_hung_up() {
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).start();
    let mut process = client.connect();
    process.send([exit("1", 0), exit("2", 0)].concat());
    process.nothing_waiting();
    drop(process);
    client.wait_log("local connection closed");
    let mut other = client.connect();
    other.send(exit("3", 0));
    other.nothing_waiting();
    let mut peer = listener.accept(&client);
    for id in ["1", "2", "3"] {
        assert_eq!(peer.text(), exit(id, 0));
    }
    peer.send_text(&status_there(&exited("3", 3)));
    assert_eq!(other.line(), exited("3", 3));
}

#[test]
fn what_a_client_still_holds_when_it_is_stopped_is_answered_as_not_delivered() {
    let listener = PeerListener::bind();
    let times = json!({ "times": { "grace": "200ms" } });
    let mut client = Daemon::client_of(listener.port()).config(times).start();
    let mut process = client.connect();
    process.send([exit("1", 0), exit("2", 0)].concat());
    process.nothing_waiting();
    client.signal(rustix::process::Signal::TERM);
    let mut lines = [process.line(), process.line()];
    lines.sort_unstable_by_key(|line| line.contains(r#""id":2"#));
    for (line, id) in lines.iter().zip([1, 2]) {
        assert_failed(line, -2, "no_peer", Some(json!(id)));
    }
    process.eof();
    assert_eq!(client.wait_exit(Duration::from_secs(15)).code(), Some(0));
}

/// A message that comes back as the line `data`.
fn status_here(data: &str) -> String {
    format!(r#"{{"name":"+cmd","params":{{"code":"STATUS","data":{data}}}}}"#)
}

/// The seed's answer when nobody is there.
fn exited_nobody(id: &str) -> String {
    format!(r#"{{"status":-2,"id":{id}}}"#)
}
