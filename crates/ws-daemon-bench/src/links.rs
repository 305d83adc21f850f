//! How a link is made by hand: from where, and the WebSocket handshake of a client.
//!
//! What goes over it is for others ([`stand_ins`](crate::stand_ins), [`crowd`](crate::crowd)).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Links from one of the addresses 127.0.1.x, so that its ports do not run out.
pub const LINKS_PER_ADDRESS: usize = 4000;
const PATIENCE: Duration = Duration::from_secs(10);
/// The head of an answer that is longer is none.
pub const HEAD_BYTES: usize = 8192;
/// How it ends.
pub const END: &[u8] = b"\r\n\r\n";

/// The example of RFC 6455, section 1.3: the answer to the key is known there.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const FINAL_PING: u8 = 0x89;
pub const FINAL_PONG: u8 = 0x8a;
/// What a client sends is masked; with zeros, which change nothing.
pub const MASKED: u8 = 0x80;
pub const MASK: [u8; 4] = [0; 4];

/// A connection to `server`, the one of this number.
pub fn dial(server: SocketAddr, number: usize) -> Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &source(number)?)?;
    // Closed by a reset: ten thousand ports in TIME_WAIT would be left otherwise.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::connect(&socket, &server)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// As a seed client does, but for the header lines that are `offered`.
pub fn shake_hands(stream: &mut TcpStream, server: SocketAddr, offered: &str) -> Result<()> {
    stream.write_all(request(server, offered).as_bytes())?;
    // Nothing is sent to a client before it has said something, so nothing stands behind the end.
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(END) {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the server closed at once");
        head.extend(&buffer[..read]);
        ensure!(head.len() < HEAD_BYTES, "the server's answer has no end");
    }
    accepted(&head)
}

/// What a client says first.
pub fn request(server: SocketAddr, offered: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\n\
         Host: {server}\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         {offered}\r\n",
    )
}

/// Whether the server has let us in, by the head of its answer.
pub fn accepted(head: &[u8]) -> Result<()> {
    let head = str::from_utf8(head)?;
    let (status, lines) = head.split_once("\r\n").context("the server's answer has no line")?;
    ensure!(status.starts_with("HTTP/1.1 101 "), "refused: {status}");
    let is_ours = |(name, value): (&str, &str)| name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT;
    ensure!(lines.lines().filter_map(|line| line.split_once(':')).any(is_ours), "the server did not accept our key");
    Ok(())
}

/// Where a connection of this number comes from.
pub fn source(number: usize) -> Result<SocketAddrV4> {
    let host = u8::try_from(1 + number / LINKS_PER_ADDRESS).context("too many links")?;
    Ok(SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, host), 0))
}

/// The first number from this one on whose address no smaller one has.
pub fn after(number: usize) -> usize {
    number.next_multiple_of(LINKS_PER_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_accepts_our_key_lets_us_in() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
        accepted(good.as_bytes()).expect("let in");
        for bad in [good.replace("101", "403"), good.replace(ACCEPT, KEY), "HTTP/1.1 101 ".into()] {
            assert!(accepted(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_address_has_more_connections_than_it_has_ports() {
        assert_eq!(source(0).expect("an address").to_string(), "127.0.1.1:0");
        assert_eq!(source(99_999).expect("an address").to_string(), "127.0.1.25:0");
        for (last, next) in [(0, 1), (3999, 4000), (4000, 4001), (16_666, 16_667)].map(|(last, next)| (last, after(next))) {
            assert_ne!(source(last).expect("an address"), source(next).expect("an address"), "{last} and {next}");
        }
    }
}
