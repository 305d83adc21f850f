//! The opening handshake of a WebSocket, from the end that dials (RFC 6455, section 4.1): what is asked, and whether the answer is a
//! link. It believes no answer that does not fit what was asked, and reads no more of one than its bound.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use ws_daemon_protocol::codec::v2;

use super::stream::Stream;
use crate::config::{Credentials, ServerUrl};
use crate::secret::random;

/// One read of the answer, in bytes: with its head come the words of a refusal.
const READ_BYTES: usize = 4 << 10;

/// The head of the answer, in bytes, and its lines.
const ANSWER_HEAD_BYTES: usize = 64 << 10;
const ANSWER_HEADERS: usize = 100;

/// A server that has said yes.
#[derive(Debug)]
pub struct Upgraded {
    /// The version of the link that it has chosen, if it says one.
    pub version: Option<Vec<u8>>,
    /// What was read behind its answer.
    pub behind: Vec<u8>,
}

/// A server that has said no.
#[derive(Debug)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// As much of its words as came with the head.
    pub body: Vec<u8>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum NoLink {
    /// The server does not want one.
    #[error("{}", .0.status)]
    Refused(Refusal),
    /// The connection ended.
    #[error(transparent)]
    Lost(#[from] io::Error),
    /// What answers knows nothing of a handshake.
    #[error("it answers {0}")]
    Page(StatusCode),
    /// What answers is no server of WebSockets.
    #[error("{0}")]
    Other(&'static str),
}

/// Asks the server at the other end of `stream` for a link.
pub async fn upgrade(stream: &mut Stream, server: &ServerUrl) -> Result<Upgraded, NoLink> {
    let mut nonce = [0; 16];
    random(&mut nonce)?;
    let key = BASE64_STANDARD.encode(nonce);
    stream.write_all(request(server, &key).as_bytes()).await?;
    stream.flush().await?;
    let mut heard = Vec::new();
    loop {
        heard.reserve(READ_BYTES);
        let room = ANSWER_HEAD_BYTES.saturating_sub(heard.len()) as u64;
        if room == 0 {
            return Err(NoLink::Other("its answer has no end"));
        }
        if (&mut *stream).take(room).read_buf(&mut heard).await? == 0 {
            return Err(NoLink::Other("it closed the connection without an answer"));
        }
        if let Some(upgraded) = answer(&heard, &key)? {
            return Ok(upgraded);
        }
    }
}

/// The handshake of the seed, no subprotocol, no `Origin`, and the versions of the link beyond it. A token goes in a header (RFC 7617),
/// never in the URL.
fn request(server: &ServerUrl, key: &str) -> String {
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n{header}: {version}\r\n",
        path = server.path,
        host = server.authority(),
        header = v2::HEADER,
        version = v2::VERSION,
    );
    if let Some(Credentials { name, token }) = &server.credentials {
        let shown = BASE64_STANDARD.encode(format!("{name}:{token}"));
        head.push_str(&format!("Authorization: Basic {shown}\r\n"));
    }
    head.push_str("\r\n");
    head
}

/// The answer, once its head is there.
fn answer(heard: &[u8], key: &str) -> Result<Option<Upgraded>, NoLink> {
    let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(heard) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(NoLink::Other("what answers does not speak HTTP")),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(NoLink::Other("its answer has a status that there is not"))?;
    let behind = heard[length..].to_vec();
    if status.is_client_error() || status.is_server_error() {
        return Err(NoLink::Refused(Refusal { status, body: behind }));
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(NoLink::Page(status));
    }
    let all = |name: &'static str| response.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    let says = |name, word: &str| {
        let mut words = all(name).flat_map(|header| header.value.split(|byte| *byte == b','));
        words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    };
    if !says("Upgrade", "websocket") || !says("Connection", "upgrade") {
        return Err(NoLink::Other("it switches to another protocol than WebSocket"));
    }
    // Whoever has not read the request cannot know it.
    if !all("Sec-WebSocket-Accept").any(|header| header.value.trim_ascii() == derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(NoLink::Other("its Sec-WebSocket-Accept does not fit the key that was sent"));
    }
    if all("Sec-WebSocket-Extensions").chain(all("Sec-WebSocket-Protocol")).next().is_some() {
        return Err(NoLink::Other("it has chosen an extension or a subprotocol, and none was offered"));
    }
    let version = all(v2::HEADER).next().map(|header| header.value.trim_ascii().to_vec());
    Ok(Some(Upgraded { version, behind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_the_seeds_and_its_token_is_in_no_url() {
        let server = ServerUrl::parse("till:pass@example.org:81/a?b=c", None).expect("a form of the contract");
        let asked = request(&server, "dGhlIHNhbXBsZSBub25jZQ==");
        let (line, rest) = asked.split_once("\r\n").expect("lines");
        assert_eq!(line, "GET /a?b=c HTTP/1.1");
        let lines: Vec<&str> = rest.trim_end().split("\r\n").collect();
        assert_eq!(
            lines,
            [
                "Host: example.org:81",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "ws-daemon: 2",
                "Authorization: Basic dGlsbDpwYXNz",
            ]
        );
    }

    #[test]
    fn only_an_answer_that_fits_is_a_link() {
        // The key and the answer to it of RFC 6455, section 1.3.
        let good = "HTTP/1.1 101 Switching\r\nUPGRADE: WebSocket\r\nConnection: keep-alive, upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nWs-Daemon:  2 \r\n\r\nbehind";
        let hear = |text: &str| answer(text.as_bytes(), "dGhlIHNhbXBsZSBub25jZQ==");
        for end in 0..good.len() - "behind".len() {
            assert!(matches!(hear(&good[..end]), Ok(None)), "{end}");
        }
        let upgraded = hear(good).expect("it fits").expect("it is whole");
        assert_eq!((upgraded.version.as_deref(), upgraded.behind.as_slice()), (Some(&b"2"[..]), &b"behind"[..]));
        let table = [
            ("HTTP/1.1 101", "HTP", "what answers does not speak HTTP"),
            ("WebSocket\r\n", "h2c\r\n", "it switches to another protocol"),
            (", upgrade", "", "it switches to another protocol"),
            ("s3pP", "s3pp", "does not fit the key"),
            ("Ws-Daemon: ", "Sec-WebSocket-Extensions:", "none was offered"),
            ("101 Switching", "403 Forbidden", "403 Forbidden"),
            ("101 Switching", "200 OK", "it answers 200 OK"),
            ("101", "099", "a status that there is not"),
        ];
        for (part, other, words) in table {
            let fault = hear(&good.replace(part, other)).expect_err(part).to_string();
            assert!(fault.contains(words), "{part}: {fault}");
        }
    }
}
