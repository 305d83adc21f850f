//! One request to a server that is no link: an invitation, traded at `/join`, or none at all, to hear whether it answers. It never tries
//! twice, and does not know what is said.

use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::dial::{DialFault, connect};
use super::stream::Stream;
use crate::config::ServerUrl;
use crate::tls::{ClientTls, Pin, connect_pinned};

/// The longest answer, with its head: what is longer is cut.
const ANSWER_BYTES: usize = 256 << 10;

/// The server's answer: its status, its clock, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As in HTTP.
    pub status: u16,
    /// When it was given, by the server's clock, if it says so.
    pub date: Option<SystemTime>,
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
    let path = server.path.split('?').next().unwrap_or_default().trim_end_matches('/');
    let content = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let what = format!("POST {path}/join");
    let asking = ask(server, pin, tls, &what, &content, within);
    timeout_at(deadline, asking).await.unwrap_or(Err(DialFault::TooSlow(within)))
}

/// Asks for the server's path without making a link, until `deadline`, which is `within` from now: whatever it answers, it answers.
///
/// # Errors
/// Why there was no answer.
pub async fn probe(server: &ServerUrl, tls: &ClientTls, deadline: Instant, within: Duration) -> Result<Answer, DialFault> {
    let what = format!("GET {}", server.path);
    let asking = ask(server, None, tls, &what, "\r\n", within);
    timeout_at(deadline, asking).await.unwrap_or(Err(DialFault::TooSlow(within)))
}

/// `what` is the method and the path, `rest` what stands behind the headers that every request has.
async fn ask(
    server: &ServerUrl,
    pin: Option<Pin>,
    tls: &ClientTls,
    what: &str,
    rest: &str,
    within: Duration,
) -> Result<Answer, DialFault> {
    let socket = connect(server, within).await?;
    let mut stream = match pin {
        _ if !server.tls => socket,
        Some(pin) => Stream::encrypted(connect_pinned(pin, &server.host, socket).await?.0),
        None => Stream::encrypted(tls.connect(&server.host, socket).await?),
    };
    let request = format!("{what} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{rest}", server.authority());
    stream.write_all(request.as_bytes()).await.map_err(DialFault::NoAnswer)?;
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
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let field = |wanted: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim());
    let length: usize = field("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = body.get(..length)?;
    let date = field("date").and_then(|date| httpdate::parse_http_date(date).ok());
    Some(Answer { status, date, body: String::from_utf8_lossy(body).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 410 Gone\r\ndate: Thu, 01 Jan 1970 00:00:07 GMT\r\nContent-Length: 5\r\n\r\nover\nmore";
        for length in 0..text.len() - 4 {
            assert_eq!(read(&text[..length]), None, "{length}");
        }
        let date = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        assert_eq!(read(text), Some(Answer { status: 410, date, body: "over\n".into() }));
        assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(Answer { status: 204, date: None, body: String::new() }));
        for text in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 ok\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }
}
