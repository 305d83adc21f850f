//! HTTP as curl speaks it: one connection, requests as they are written, answers read whole or line by line. It follows nothing and
//! retries nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::{DEADLINE, Daemon};

/// A connection.
pub struct Web {
    stream: BufReader<Box<dyn Stream>>,
    host: String,
    headers: String,
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// In lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Web {
    /// To the port of a server.
    pub fn port(daemon: &Daemon) -> Self {
        Self::tcp(&format!("127.0.0.1:{}", daemon.port()))
    }

    /// To an address.
    pub fn tcp(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        Self { stream: BufReader::new(Box::new(stream)), host: address.to_owned(), headers: String::new() }
    }

    /// To the socket file.
    pub fn socket(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(daemon.socket()).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        Self { stream: BufReader::new(Box::new(stream)), host: "localhost".to_owned(), headers: String::new() }
    }

    /// With one more header in every request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// With a token in every request.
    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// With another `Host`.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Asks, and reads the answer whole.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, body);
        self.reply()
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, "")
    }

    #[track_caller]
    pub fn post(&mut self, path: &str, body: &str) -> Reply {
        self.ask("POST", path, body)
    }

    /// Sends a request and waits for nothing.
    pub fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let Self { host, headers, .. } = self;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n");
        // Whoever was refused at its head may find the rest not wanted.
        let _ = self.stream.get_mut().write_all(format!("{head}{body}").as_bytes());
    }

    /// Sends more of a request.
    pub fn say(&mut self, text: &str) {
        let _ = self.stream.get_mut().write_all(text.as_bytes());
    }

    /// The answer to what was sent.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        let (status, headers) = self.head();
        let mut reply = Reply { status, headers, body: String::new() };
        if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                reply.body.push_str(&chunk);
            }
        } else {
            let length = reply.header("content-length").map_or(0, |length| length.parse().expect("a number"));
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).expect("as long as it says");
            reply.body = String::from_utf8(body).expect("text");
        }
        reply
    }

    /// The head of an answer whose body is read piece by piece.
    #[track_caller]
    pub fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let status = self.line();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.expect("an answer begins with its status");
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        (status, headers)
    }

    /// The next piece of a body that comes in pieces; `None` at its end.
    #[track_caller]
    pub fn chunk(&mut self) -> Option<String> {
        let length = usize::from_str_radix(&self.line(), 16).expect("a length");
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).expect("as long as it says");
        chunk.truncate(length);
        (length > 0).then(|| String::from_utf8(chunk).expect("text"))
    }

    /// Whether the other end has closed it, with nothing left to read.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok_and(|length| length == 0)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }
}

/// What whoever has this key signs a body with (HMAC-SHA256), in hexadecimal.
pub fn signature(key: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key has any length");
    mac.update(body.as_bytes());
    let mut hex = String::new();
    mac.finalize().into_bytes().iter().for_each(|byte| hex.push_str(&format!("{byte:02x}")));
    hex
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}
