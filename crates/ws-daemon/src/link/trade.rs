//! One request to a server that is no link: an invitation, traded at `/join`. It never tries twice, and does not know what is said.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::dial::{DialFault, connect};
use super::stream::Stream;
use crate::config::ServerUrl;
use crate::tls::{ClientTls, Pin, connect_pinned};

/// The longest answer, with its head: what is longer is cut.
const ANSWER_BYTES: usize = 256 << 10;

/// The server's answer: its status, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As in HTTP.
    pub status: u16,
    /// As text.
    pub body: String,
}

/// Sends `body` to the server's `/join`, until `deadline`, which is `within` from now. Over TLS the server is believed by the `pin` of
/// its root, or without one as `tls` believes it.
///
/// # Errors
/// Why there was no answer. The server may have taken it all the same.
pub async fn trade(
    server: &ServerUrl,
    pin: Option<Pin>,
    tls: &ClientTls,
    body: &str,
    deadline: Instant,
    within: Duration,
) -> Result<Answer, DialFault> {
    timeout_at(deadline, ask(server, pin, tls, body, within)).await.unwrap_or(Err(DialFault::TooSlow(within)))
}

async fn ask(server: &ServerUrl, pin: Option<Pin>, tls: &ClientTls, body: &str, within: Duration) -> Result<Answer, DialFault> {
    let socket = connect(server, within).await?;
    let mut stream = match pin {
        _ if !server.tls => socket,
        Some(pin) => Stream::encrypted(connect_pinned(pin, &server.host, socket).await?.0),
        None => Stream::encrypted(tls.connect(&server.host, socket).await?),
    };
    let path = server.path.split('?').next().unwrap_or_default().trim_end_matches('/');
    let head = format!(
        "POST {path}/join HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        server.authority(),
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.map_err(DialFault::NoAnswer)?;
    stream.flush().await.map_err(DialFault::NoAnswer)?;
    let mut heard = Vec::new();
    loop {
        if let Some(answer) = read(&heard) {
            return Ok(answer);
        }
        let room = ANSWER_BYTES.saturating_sub(heard.len()) as u64;
        let read = (&mut stream).take(room).read_buf(&mut heard).await.map_err(DialFault::NoAnswer)?;
        if read == 0 {
            return Err(DialFault::NoAnswer(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The answer, once all of it is there.
fn read(heard: &[u8]) -> Option<Answer> {
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (String::from_utf8_lossy(&heard[..end]), &heard[end + 4..]);
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(Some(0), |(_, value)| value.trim().parse().ok())?;
    let body = body.get(..length)?;
    Some(Answer { status, body: String::from_utf8_lossy(body).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 410 Gone\r\nconnection: close\r\nContent-Length: 5\r\n\r\nover\nmore";
        for length in 0..text.len() - 4 {
            assert_eq!(read(&text[..length]), None, "{length}");
        }
        assert_eq!(read(text), Some(Answer { status: 410, body: "over\n".into() }));
        assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(Answer { status: 204, body: String::new() }));
        for text in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 ok\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }
}
