//! A scripted peer on a link: it says exactly what a test tells it to, and shows exactly what came. It owns one
//! WebSocket in either role; beyond the protocol's own pongs (sent while it reads) it never answers by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept_hdr, client};

use super::daemon::Daemon;
use super::log::Log;
use super::process::wait_readable;
use super::wording::daemons_say;
use super::{DEADLINE, left};

pub struct Peer {
    socket: WebSocket<TcpStream>,
    headers: HeaderMap,
    path: String,
    log: Log,
}

/// A handshake that the daemon did not accept.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub body: String,
}

/// Where a client of ours finds a scripted peer.
pub struct PeerListener {
    listener: TcpListener,
}

impl PeerListener {
    pub fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        Self { listener }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("it is bound").port()
    }

    /// Takes the next link that `daemon` dials, as a seed server does, and waits until it says that it is up.
    #[track_caller]
    pub fn accept(&self, daemon: &Daemon) -> Peer {
        let links = daemon.log().count("link up");
        let peer = self.accept_as(daemon, None);
        daemon.wait_log_times("link up", links + 1);
        peer
    }

    /// Takes the next link that `daemon` dials and answers with this version of the link; nothing more is waited for.
    #[track_caller]
    pub fn accept_as(&self, daemon: &Daemon, version: Option<&'static str>) -> Peer {
        let log = daemon.log().clone();
        let dialled = wait_readable(&self.listener, Instant::now() + DEADLINE);
        assert!(dialled, "nobody dialled\n{log}");
        let (stream, _) = self.listener.accept().expect("someone has dialled");
        limit(&stream);
        let (mut headers, mut path) = (HeaderMap::new(), String::new());
        #[expect(clippy::result_large_err, reason = "the type of the callback is tungstenite's")]
        let keep = |request: &Request, mut response: Response| {
            if let Some(version) = version {
                response.headers_mut().insert("ws-daemon", HeaderValue::from_static(version));
            }
            headers = request.headers().clone();
            path = request.uri().to_string();
            Ok(response)
        };
        let socket = accept_hdr(stream, keep).unwrap_or_else(|error| panic!("no handshake: {error}\n{log}"));
        Peer { socket, headers, path, log }
    }
}

impl Peer {
    /// Dials the server as a seed client does, and waits until the server says that the link is up.
    #[track_caller]
    pub fn dial(server: &Daemon) -> Self {
        let links = server.log().count("link up");
        let peer = Self::try_dial(server, "/", &[]).unwrap_or_else(|refusal| panic!("{refusal:?}\n{}", server.log()));
        server.wait_log_times("link up", links + 1);
        peer
    }

    /// Dials the server as a version 2 client that says `hello`, the data of its HELLO, and waits until the link is up on both
    /// sides.
    #[track_caller]
    pub fn dial_version2(server: &Daemon, hello: &Value) -> Self {
        let links = server.log().count("link up");
        let mut peer = Self::try_dial(server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
        peer.send_hello(hello);
        peer.hello();
        server.wait_log_times("link up", links + 1);
        peer
    }

    /// Says who this peer is.
    #[track_caller]
    pub fn send_hello(&mut self, hello: &Value) {
        self.send_text(&daemons_say("HELLO", hello));
    }

    /// The data of the daemon's HELLO, which must be the next text.
    #[track_caller]
    pub fn hello(&mut self) -> Value {
        let said: Value = serde_json::from_str(&self.text()).expect("frames are JSON");
        assert_eq!((&said["name"], &said["params"]["code"]), (&json!("&cmd"), &json!("HELLO")), "{said}\n{}", self.log);
        said["params"]["data"].clone()
    }

    /// Dials the server with a path and headers beside those of a seed client.
    #[track_caller]
    pub fn try_dial(server: &Daemon, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, Refusal> {
        Self::try_dial_at(&format!("127.0.0.1:{}", server.port()), server.log(), path, headers)
    }

    /// The same at another of its addresses.
    #[track_caller]
    pub fn try_dial_at(address: &str, log: &Log, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, Refusal> {
        let log = log.clone();
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("cannot dial {address}: {error}\n{log}"));
        limit(&stream);
        let mut request = format!("ws://{address}{path}").into_client_request().expect("the address is a URL");
        let offered = ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits");
        for (name, value) in headers.iter().chain([&offered]) {
            let value = HeaderValue::from_str(value).expect("a test's header is a header");
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        match client(request, stream) {
            Ok((socket, response)) => Ok(Self { socket, headers: response.headers().clone(), path: path.into(), log }),
            Err(HandshakeError::Failure(Error::Http(response))) => Err(Refusal {
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned(),
            }),
            Err(error) => panic!("no handshake: {error}\n{log}"),
        }
    }

    /// A header of the daemon's side of the handshake.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("headers are ASCII"))
    }

    /// The path that was dialled.
    pub fn path(&self) -> &str {
        &self.path
    }

    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    /// Sends any one message, pings, closes and hand-made frames too.
    #[track_caller]
    pub fn send(&mut self, message: Message) {
        self.socket.send(message).unwrap_or_else(|error| panic!("cannot send: {error}\n{}", self.log));
    }

    /// Sends to a daemon that may close the link meanwhile.
    pub fn try_send(&mut self, message: Message) {
        drop(self.socket.send(message));
    }

    /// Closes the link with a code and words.
    #[track_caller]
    pub fn send_close(&mut self, code: u16, words: &str) {
        self.send(Message::Close(Some(CloseFrame { code: code.into(), reason: words.into() })));
    }

    /// Sends bytes that need not be a frame.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).unwrap_or_else(|error| panic!("cannot send: {error}\n{}", self.log));
    }

    /// Sends bytes until the daemon takes no more for so long; how many it took.
    pub fn send_until_full(&mut self, bytes: &[u8], patience: Duration) -> usize {
        let stream = self.socket.get_mut();
        stream.set_write_timeout(Some(patience)).expect("patience is not zero");
        let mut sent = 0;
        while sent < bytes.len() {
            match stream.write(&bytes[sent..]) {
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("cannot send: {error}\n{}", self.log),
            }
        }
        sent
    }

    /// The next bytes as they come, at most `bytes` long; what is inside is not looked at, so that no ping is answered.
    #[track_caller]
    pub fn bytes(&mut self, bytes: &mut [u8]) -> usize {
        let stream = self.socket.get_mut();
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        stream.read(bytes).unwrap_or_else(|error| panic!("cannot read: {error}\n{}", self.log))
    }

    /// From here on the kernel takes next to nothing in for this peer, so that what it does not read stays with the daemon.
    pub fn take_little(&self) {
        set_socket_recv_buffer_size(self.socket.get_ref(), 4096).expect("it is a TCP socket");
    }

    /// Ends the connection with a reset instead of an orderly end.
    pub fn reset(self) {
        set_socket_linger(self.socket.get_ref(), Some(Duration::ZERO)).expect("it is a TCP socket");
    }

    /// The next text; pings and pongs on the way are passed over.
    #[track_caller]
    pub fn text(&mut self) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.message_until(until) {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("wanted a text, got {other:?}\n{}", self.log),
            }
        }
    }

    /// The data of the next STATUS, which must be the next text, exactly as it was written.
    #[track_caller]
    pub fn status(&mut self) -> String {
        let text = self.text();
        let data = text.strip_prefix(r#"{"name":"&cmd","params":{"code":"STATUS","data":"#);
        let data = data.and_then(|rest| rest.strip_suffix("}}"));
        data.unwrap_or_else(|| panic!("wanted a STATUS, got {text}\n{}", self.log)).to_owned()
    }

    /// Sends and takes the data of the next STATUS.
    #[track_caller]
    pub fn ask(&mut self, text: &str) -> String {
        self.send_text(text);
        self.status()
    }

    /// The next message of any kind.
    #[track_caller]
    pub fn message(&mut self) -> Message {
        self.message_until(Instant::now() + DEADLINE)
    }

    /// Asserts that nothing is on its way: a ping's pong comes before any text.
    #[track_caller]
    pub fn nothing_waiting(&mut self) {
        const MARK: &str = "is anything waiting";
        let until = Instant::now() + DEADLINE;
        self.send(Message::Ping(MARK.into()));
        loop {
            match self.message_until(until) {
                Message::Pong(mark) if mark == MARK => return,
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("a frame that nobody asked for: {other:?}\n{}", self.log),
            }
        }
    }

    /// Waits until the daemon closes the link, and parts from it in good order; the code of its close frame, `None` if the
    /// connection just ended.
    #[track_caller]
    pub fn closed(&mut self) -> Option<u16> {
        self.closed_in_words().map(|(code, _)| code)
    }

    /// The same with the words of the close frame.
    #[track_caller]
    pub fn closed_in_words(&mut self) -> Option<(u16, String)> {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.try_message(until) {
                Ok(Message::Close(frame)) => {
                    // The answer to it and the end, which the daemon awaits; that it is gone already is as good.
                    drop(self.socket.flush());
                    drop(self.socket.get_ref().shutdown(Shutdown::Both));
                    return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("wanted the end, got {other:?}\n{}", self.log),
                Err(_) => return None,
            }
        }
    }

    #[track_caller]
    fn message_until(&mut self, until: Instant) -> Message {
        self.try_message(until).unwrap_or_else(|error| panic!("wanted a message, got {error}\n{}", self.log))
    }

    /// Pings that come meanwhile do not put the deadline off.
    #[track_caller]
    fn try_message(&mut self, until: Instant) -> Result<Message, Error> {
        loop {
            let Some(left) = left(until) else {
                panic!("no frame came\n{}", self.log);
            };
            self.socket.get_ref().set_read_timeout(Some(left)).expect("the time left is not zero");
            match self.socket.read() {
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }
}

/// No read or write of a handshake waits for ever.
fn limit(stream: &TcpStream) {
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("a deadline is not zero");
}
