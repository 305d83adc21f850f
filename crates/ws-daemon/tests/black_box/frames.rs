//! Frames that no WebSocket library sends: each closes its own link with the code that is due (RFC 6455, section 7.4), in both roles of
//! the daemon, and nothing else notices. And heads of requests that are as bad.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, Peer, PeerListener};

const TOO_LARGE: u16 = 1009;
const NOT_UTF8: u16 = 1007;
const AGAINST_PROTOCOL: u16 = 1002;

/// What all of the abuse of one test may make a daemon grow by.
const GROWTH_BYTES: u64 = 48 << 20;

/// The fragments of one message.
const FRAGMENTS: usize = 131_000;

/// Pings of one flood.
const PINGS: usize = 200_000;

/// One frame: its first byte, the length that it says, and whether it is masked, which is by zeros.
fn frame(first: u8, says: u64, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mask_bit = u8::from(masked) << 7;
    let mut frame = vec![first];
    match says {
        0..=125 => frame.push(mask_bit | u8::try_from(says).expect("it is small")),
        126..=0xffff => {
            frame.push(mask_bit | 0x7e);
            frame.extend(u16::try_from(says).expect("it fits").to_be_bytes());
        }
        _ => {
            frame.push(mask_bit | 0x7f);
            frame.extend(says.to_be_bytes());
        }
    }
    frame.extend(if masked { &[0; 4][..] } else { &[] });
    frame.extend(payload);
    frame
}

/// What is wrong, its bytes from a side that masks or does not, and the code that is due.
fn abuses(masked: bool) -> Vec<(String, Vec<u8>, u16)> {
    let whole = |first: u8, payload: &[u8]| frame(first, payload.len() as u64, masked, payload);
    let mut abuses = vec![
        ("masked the wrong way round".to_owned(), frame(0x81, 2, !masked, b"{}"), AGAINST_PROTOCOL),
        ("a length of 1 TiB".into(), frame(0x82, 1 << 40, masked, b"x"), TOO_LARGE),
        ("the greatest length".into(), frame(0x82, u64::MAX, masked, b"x"), TOO_LARGE),
        ("one byte over limits.message".into(), frame(0x81, (1 << 20) + 1, masked, b"x"), TOO_LARGE),
        ("a first fragment of 1 TiB".into(), frame(0x01, 1 << 40, masked, b"x"), TOO_LARGE),
        ("a fragmented ping".into(), whole(0x09, b"x"), AGAINST_PROTOCOL),
        ("a ping of 126 bytes".into(), whole(0x89, &[b'x'; 126]), AGAINST_PROTOCOL),
        ("a ping of 1 TiB".into(), frame(0x89, 1 << 40, masked, b"x"), AGAINST_PROTOCOL),
        ("a continuation of nothing".into(), whole(0x80, b"x"), AGAINST_PROTOCOL),
        ("a message inside another".into(), [whole(0x01, b"{"), whole(0x81, b"{}")].concat(), AGAINST_PROTOCOL),
        ("text that is not UTF-8".into(), whole(0x81, b"\"\xff\""), NOT_UTF8),
        ("half a character at the end".into(), whole(0x81, b"\"\xc3"), NOT_UTF8),
    ];
    for bit in [0x40, 0x20, 0x10] {
        abuses.push((format!("the reserved bit {bit:#x}"), whole(0x81 | bit, b"{}"), AGAINST_PROTOCOL));
    }
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        abuses.push((format!("the opcode {opcode:#x}"), whole(0x80 | opcode, b"{}"), AGAINST_PROTOCOL));
    }
    abuses
}

/// Of the counters of links that have ended, those that abuse makes.
fn closed(daemon: &Daemon) -> Value {
    let stats = daemon.connect().result("STATS", &Value::Null);
    let closed = &stats["links_closed"];
    json!([closed["against_protocol"], closed["not_utf8"], closed["too_large"]])
}

/// How many of `abuses` are due each code, in the order of [`closed`].
fn due(abuses: &[(String, Vec<u8>, u16)]) -> Value {
    let of = |code: u16| abuses.iter().filter(|(_, _, due)| *due == code).count();
    json!([of(AGAINST_PROTOCOL), of(NOT_UTF8), of(TOO_LARGE)])
}

// ---- Frames ----------------------------------------------------------------------------------------------------

#[test]
fn a_clients_frames_that_no_library_sends_close_its_own_link_with_the_code_that_is_due() {
    let server = Daemon::server().config(json!({ "limits": { "message": "1MiB" } })).start();
    let mut other = Peer::dial(&server);
    let before = server.peak_memory();
    let abuses = abuses(true);
    assert!(abuses.len() > 20);
    for (what, bytes, code) in &abuses {
        let mut peer = Peer::dial(&server);
        peer.send_bytes(bytes);
        assert_eq!(peer.closed(), Some(*code), "{what}\n{}", server.log());
    }
    server.wait_log_times("link down", abuses.len());
    other.nothing_waiting();
    assert_eq!(closed(&server), due(&abuses));
    assert_eq!(server.log().count("link down"), abuses.len(), "one link each");
    assert_grown_little(&server, before);
}

#[test]
fn a_servers_frames_that_no_library_sends_close_the_link_with_the_code_that_is_due_and_it_is_dialled_again() {
    let listener = PeerListener::bind();
    let client = Daemon::client_of(listener.port()).config(json!({ "limits": { "message": "1MiB" } })).start();
    let before = client.peak_memory();
    let abuses = abuses(false);
    for (what, bytes, code) in &abuses {
        let mut peer = listener.accept(&client);
        peer.send_bytes(bytes);
        assert_eq!(peer.closed(), Some(*code), "{what}\n{}", client.log());
    }
    listener.accept(&client).nothing_waiting();
    assert_eq!(closed(&client), due(&abuses));
    assert_grown_little(&client, before);
}

#[test]
fn a_hundred_thousand_fragments_of_one_byte_are_one_message_or_over_the_limit_and_cost_no_more() {
    let server = Daemon::server().config(json!({ "limits": { "message": "128KiB" } })).start();
    let mut other = Peer::dial(&server);
    let before = server.peak_memory();
    let byte = |first: u8, byte: u8| frame(first, 1, true, &[byte]);
    let fragments = |message: &[u8]| {
        let (begin, rest) = message.split_first().expect("it is not empty");
        let (last, middle) = rest.split_last().expect("nor one byte");
        let mut bytes = byte(0x01, *begin);
        bytes.extend(middle.iter().flat_map(|one| byte(0x00, *one)));
        bytes.extend(byte(0x80, *last));
        bytes
    };
    // As long as can be: the rest is white space inside of it.
    let (head, tail) = ("{\"name\":\"none\",", "\"id\":1}");
    let message = format!("{head}{}{tail}", " ".repeat(FRAGMENTS - head.len() - tail.len()));
    let mut patient = Peer::dial(&server);
    patient.send_bytes(&fragments(message.as_bytes()));
    let status: Value = serde_json::from_str(&patient.status()).expect("it is JSON");
    assert_eq!((&status["id"], &status["error"]), (&json!(1), &json!("not_found")), "{status}");
    let mut endless = Peer::dial(&server);
    endless.send_bytes(&fragments(&vec![b' '; (128 << 10) + 2]));
    assert_eq!(endless.closed(), Some(TOO_LARGE));
    // Nothing, a hundred thousand times: no message, and no memory.
    let mut empty = Peer::dial(&server);
    let nothings = [frame(0x01, 0, true, b""), frame(0x00, 0, true, b"").repeat(FRAGMENTS)].concat();
    empty.send_bytes(&nothings);
    empty.nothing_waiting();
    for peer in [&mut other, &mut patient] {
        peer.nothing_waiting();
    }
    assert_eq!(closed(&server), json!([0, 0, 1]));
    assert_grown_little(&server, before);
}

#[test]
fn a_flood_of_pings_whose_pongs_nobody_reads_is_not_read_on_and_costs_another_link_nothing() {
    // What lies in the kernel's buffers of both sides is not the daemon's.
    const PATIENCE: Duration = Duration::from_millis(500);
    let server = Daemon::server().start();
    let mut other = Peer::dial(&server);
    let before = server.peak_memory();
    let mut flood = Peer::dial(&server);
    let pings = frame(0x89, 125, true, &[b'p'; 125]).repeat(PINGS);
    let taken = flood.send_until_full(&pings, PATIENCE);
    assert!(taken < pings.len(), "all {taken} bytes were taken");
    other.nothing_waiting();
    let grown = server.peak_memory().saturating_sub(before);
    assert!(grown < 4 << 20, "pongs are kept: {grown} bytes");
    assert_eq!(server.log().count("link down"), 0, "{}", server.log());
    // Whoever reads its pongs may ping as it likes.
    let mut polite = Peer::dial(&server);
    for _ in 0..1000 {
        polite.nothing_waiting();
    }
}

// ---- Heads of requests -----------------------------------------------------------------------------------------

#[test]
fn half_a_header_line_a_second_ends_with_the_time_for_a_handshake() {
    const SECOND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
    let server = Daemon::server().config(json!({ "times": { "handshake": "2500ms" } })).start();
    let mut slow = raw(&server);
    let begun = Instant::now();
    slow.set_read_timeout(Some(Duration::from_millis(1))).expect("not zero");
    let mut halves = ["GET / HTTP/1.1\r\nX-A: ", "a\r\n"].iter().cycle();
    loop {
        let half = halves.next().expect("there is always one more");
        // Closed meanwhile is what is waited for.
        let said = slow.write_all(half.as_bytes()).and_then(|()| slow.read(&mut [0; 64]));
        if matches!(said, Ok(0)) || said.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset) {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "it is never closed\n{}", server.log());
        // An interrupted pause is a shorter one.
        let _ = poll(&mut [], Some(&SECOND));
    }
    assert!(begun.elapsed() >= Duration::from_millis(2500), "{:?}", begun.elapsed());
    server.wait_log("no handshake in time");
    let connections = &server.connect().result("STATS", &Value::Null)["connections"];
    assert_eq!((&connections["too_slow"], &connections["half_open"]), (&json!(1), &json!(0)), "{connections}");
    Peer::dial(&server).nothing_waiting();
}

#[test]
fn heads_that_are_bombs_are_refused_before_they_are_large() {
    let server = Daemon::server().start();
    let mut other = Peer::dial(&server);
    let before = server.peak_memory();
    let lines = "X: x\r\n".repeat(10_000);
    let bombs = [
        ("one line of 16 MiB", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(16 << 20))),
        ("a path of 16 MiB", format!("GET /{}", "x".repeat(16 << 20))),
        ("ten thousand lines", format!("GET / HTTP/1.1\r\n{lines}")),
        ("65 lines", format!("GET / HTTP/1.1\r\n{}\r\n", &lines[..65 * 6])),
        ("blank lines for ever", "\r\n".repeat(8 << 20)),
    ];
    for (what, bomb) in &bombs {
        let mut stream = raw(&server);
        // Refused while it is still being sent.
        drop(stream.write_all(bomb.as_bytes()));
        drop(stream.shutdown(Shutdown::Write));
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said);
        // The answer may be lost: the connection is reset over what was not read.
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {said}\n{}", server.log());
        other.nothing_waiting();
    }
    let connections = &server.connect().result("STATS", &Value::Null)["connections"];
    assert_eq!(connections["failures"], json!(bombs.len()), "{connections}");
    assert_eq!(connections["linked"], 1, "{connections}");
    assert_grown_little(&server, before);
}

// ---- What they have in common ----------------------------------------------------------------------------------

fn raw(server: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    stream
}

#[track_caller]
fn assert_grown_little(daemon: &Daemon, before: u64) {
    let grown = daemon.peak_memory().saturating_sub(before);
    assert!(grown < GROWTH_BYTES, "it has grown by {grown} bytes\n{}", daemon.log());
}
