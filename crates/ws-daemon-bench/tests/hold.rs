//! The process that holds links for another: it links as many as it is told to, says so, and ends with its stdin.

#![expect(clippy::expect_used, reason = "a test stops at what is wrong")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

/// The server's end of a link, which answers every ping; where it comes from, and what it says first.
fn link(mut stream: TcpStream) -> (String, String) {
    let source = stream.peer_addr().expect("an address").ip().to_string();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        request.push(byte[0]);
    }
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
        .expect("it listens");
    let hello = frame(&mut stream).expect("it says HELLO").1;
    let answer = br#"{"name":"&cmd","params":{"code":"HELLO"}}"#;
    stream.write_all(&[&[0x81, u8::try_from(answer.len()).expect("short")], &answer[..]].concat()).expect("it listens");
    thread::spawn(move || {
        while let Some((0x89, payload)) = frame(&mut stream) {
            let length = u8::try_from(payload.len()).expect("short");
            stream.write_all(&[&[0x8a, length], &payload[..]].concat()).expect("it listens");
        }
    });
    (source, String::from_utf8(hello).expect("text"))
}

/// One frame of a client whose mask is zero, until the link is gone.
fn frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let mut length = usize::from(head[1] & 0x7f);
    if length == 126 {
        let mut more = [0; 2];
        stream.read_exact(&mut more).ok()?;
        length = usize::from(u16::from_be_bytes(more));
    }
    let mut rest = vec![0; 4 + length];
    stream.read_exact(&mut rest).ok()?;
    Some((head[0], rest.split_off(4)))
}

#[test]
fn a_process_holds_links_as_it_is_told_and_ends_with_its_stdin() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = listener.local_addr().expect("its address").to_string();
    let mut process = Command::new(env!("CARGO_BIN_EXE_ws-daemon-bench"))
        .args(["--hold", &server, "--first", "3999"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut orders = process.stdin.take().expect("its stdin");
    let mut answers = BufReader::new(process.stdout.take().expect("its stdout")).lines();
    let mut told = |order: &str| {
        writeln!(orders, "{order}").expect("it reads");
        answers.next().expect("an answer").expect("a line")
    };
    let accepting = thread::spawn(move || (0..2).map(|_| link(listener.accept().expect("a client").0)).collect::<Vec<_>>());
    assert_eq!(["look", "grow 2", "touch", "look"].map(&mut told), ["up 0", "up 2", "up 2", "up 2"]);
    let mut links = accepting.join().expect("no panic");
    links.sort();
    for ((source, hello), (expected, name)) in links.iter().zip([("127.0.1.1", "bench-3999"), ("127.0.1.2", "bench-4000")]) {
        assert_eq!(source, expected);
        assert!(hello.contains(&format!(r#""name":"{name}""#)), "{hello}");
    }
    drop(orders);
    assert!(process.wait().expect("it ends").success());
}
