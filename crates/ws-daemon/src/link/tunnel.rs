//! The way through an HTTP proxy: one CONNECT, and what the proxy answered, in words that say what to do. What is said behind it is
//! not looked at.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ws_daemon_protocol::codec::v2;

use super::stream::Stream;
use crate::config::{Credentials, HttpProxy, ServerUrl};
use crate::tls::ClientFault;

/// The head of a proxy's answer, in bytes, and its lines.
const ANSWER_HEAD_BYTES: usize = 16 << 10;
const ANSWER_HEADERS: usize = 100;

/// Why a proxy is no way to the server.
#[derive(Debug, thiserror::Error)]
pub enum ProxyFault {
    /// It is not reached.
    #[error("{0}; is that its address, and does it run?")]
    Unreached(String),
    /// It is not believed.
    #[error("no encrypted connection to it: {0}")]
    Tls(ClientFault),
    /// It wants to know who asks.
    #[error(
        "it answers {0}: it wants a name and a password. Write them into its URL, as http://NAME:PASSWORD@HOST:PORT, in {1} or as \
         \"http_proxy\" in config.json"
    )]
    WantsCredentials(String, &'static str),
    /// It knows nobody of that name and password.
    #[error("it answers {0}: it does not take the name and the password that stand in {1}")]
    WrongCredentials(String, &'static str),
    /// It may not be used for that.
    #[error(
        "it answers {0}: it does not let this machine reach {1}. Have it allow CONNECT to there, or reach the server without it: list it in \
         NO_PROXY, or set \"http_proxy\" to \"none\" in config.json"
    )]
    Forbidden(String, String),
    /// It did not reach the server.
    #[error("it answers {0}: it cannot reach {1}. Does the server run, and does the proxy know it by that name?")]
    NoServer(String, String),
    /// It does not do that.
    #[error("it answers {0} to CONNECT {1}: is it an HTTP proxy, and does it allow CONNECT to that port?")]
    Other(String, String),
    /// It does not speak HTTP.
    #[error("what answers there is no HTTP proxy")]
    NoHttp,
    /// The connection ended.
    #[error("it closed the connection without an answer")]
    Closed,
}

/// Asks the proxy at the other end of `stream` for the server; what comes back is the way there.
pub(super) async fn connect(mut stream: Stream, proxy: &HttpProxy, server: &ServerUrl) -> Result<Stream, ProxyFault> {
    let target = server.authority();
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(Credentials { name, token }) = &proxy.credentials {
        let shown = BASE64_STANDARD.encode(format!("{name}:{token}"));
        head.push_str(&format!("Proxy-Authorization: Basic {shown}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|_| ProxyFault::Closed)?;
    stream.flush().await.map_err(|_| ProxyFault::Closed)?;
    let mut heard = Vec::new();
    loop {
        let room = ANSWER_HEAD_BYTES.saturating_sub(heard.len()) as u64;
        let read = (&mut stream).take(room).read_buf(&mut heard).await.map_err(|_| ProxyFault::Closed)?;
        match answer(&heard)? {
            Some(Answer { status: 200..300, is_all: true, .. }) => return Ok(stream),
            // Neither TLS nor a WebSocket begins at the server.
            Some(Answer { status: 200..300, .. }) => return Err(ProxyFault::NoHttp),
            Some(answer) => return Err(refusal(&answer, proxy, target)),
            None if room == 0 => return Err(ProxyFault::NoHttp),
            None if read == 0 => return Err(ProxyFault::Closed),
            None => {}
        }
    }
}

struct Answer {
    status: u16,
    reason: String,
    /// Nothing stands behind it.
    is_all: bool,
}

/// The answer, once its head is there.
fn answer(heard: &[u8]) -> Result<Option<Answer>, ProxyFault> {
    const SHOWN_CHARS: usize = 80;
    let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(heard) {
        Ok(httparse::Status::Complete(length)) => {
            let reason =
                response.reason.unwrap_or_default().chars().filter(|char| !v2::moves(*char)).take(SHOWN_CHARS).collect();
            Ok(Some(Answer { status: response.code.unwrap_or_default(), reason, is_all: length == heard.len() }))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(ProxyFault::NoHttp),
    }
}

fn refusal(answer: &Answer, proxy: &HttpProxy, target: String) -> ProxyFault {
    let said = format!("{} {}", answer.status, answer.reason).trim_end().to_owned();
    match answer.status {
        407 if proxy.credentials.is_none() => ProxyFault::WantsCredentials(said, proxy.named_by),
        407 => ProxyFault::WrongCredentials(said, proxy.named_by),
        403 => ProxyFault::Forbidden(said, target),
        502..=504 => ProxyFault::NoServer(said, target),
        _ => ProxyFault::Other(said, target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyVariables;

    /// What comes of a proxy that answers so, and what it was asked.
    async fn asked(proxy: &str, said: &[u8]) -> (Result<(), String>, String) {
        let server = ServerUrl::parse("wss://hub.example.org/a", None).expect("a server");
        let proxy = ProxyVariables::default().way(&server, Some(proxy)).expect("a proxy").expect("used");
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let answering = async {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                assert_ne!(far.read_buf(&mut asked).await.expect("read"), 0, "it ended");
            }
            // It may have heard enough before the end.
            let _ = far.write_all(said).await;
            drop(far);
            String::from_utf8(asked).expect("text")
        };
        let (reached, asked) = tokio::join!(connect(Stream::boxed(near), &proxy, &server), answering);
        (reached.map(drop).map_err(|fault| fault.to_string()), asked)
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_host_and_port_and_its_password_goes_to_it_alone() {
        let (reached, said) = asked("p:3128", b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n").await;
        assert_eq!((reached, &*said), (Ok(()), "CONNECT hub.example.org:443 HTTP/1.1\r\nHost: hub.example.org:443\r\n\r\n"));
        let (reached, said) = asked("http://u:pa%3Ass@p", b"HTTP/1.1 200\r\n\r\n").await;
        assert!(reached.is_ok() && said.contains("\r\nProxy-Authorization: Basic dTpwYTpzcw==\r\n"), "{reached:?} {said}");
    }

    #[tokio::test]
    async fn each_refusal_says_what_to_do_and_nothing_is_read_without_end() {
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &b"x".repeat(ANSWER_HEAD_BYTES)].concat();
        let table: [(&str, &[u8], &str); 12] = [
            ("http://p", b"HTTP/1.1 407 Who?\r\n\r\n", "407 Who?: it wants a name and a password"),
            ("http://u:v@p", b"HTTP/1.1 407 No\r\n\r\n", "does not take the name and the password that stand in http_proxy"),
            ("http://p", b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not let this machine reach hub.example.org:443"),
            ("http://p", b"HTTP/1.1 502 Bad Gateway\r\n\r\nmore", "502 Bad Gateway: it cannot reach hub.example.org:443"),
            ("http://p", b"HTTP/1.1 504 x\r\n\r\n", "it cannot reach"),
            ("http://p", b"HTTP/1.1 405 Not\tAllowed\r\n\r\n", "it answers 405"),
            ("http://p", b"HTTP/1.1 301 Moved\r\n\r\n", "is it an HTTP proxy"),
            ("http://p", b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0", "is no HTTP proxy"),
            ("http://p", b"SSH-2.0-x\r\n\r\n", "is no HTTP proxy"),
            ("http://p", b"HTTP/1.1 200 OK\r\nVia", "closed the connection"),
            ("http://p", b"", "closed the connection"),
            ("http://p", &long, "is no HTTP proxy"),
        ];
        for (proxy, said, words) in table {
            let (reached, _) = asked(proxy, said).await;
            let found = reached.expect_err(words);
            assert!(found.contains(words), "{words:?} is not in {found:?}");
        }
    }
}
