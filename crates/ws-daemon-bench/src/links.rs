//! Idle links: WebSocket clients by hand, no more than a socket each.
//!
//! They shake hands as a seed client does, send one ping and hear its pong, and
//! answer the server's own pings whenever they are [touched](Links::touch). They
//! never ask for anything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::system;

/// Links from one of the addresses 127.0.1.x, so that its ports do not run out.
const LINKS_PER_ADDRESS: usize = 4000;
const PATIENCE: Duration = Duration::from_secs(10);
const HEADER_LINES: usize = 100;

/// The example of RFC 6455, section 1.3: the answer to the key is known there.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const FINAL_PING: u8 = 0x89;
pub const FINAL_PONG: u8 = 0x8a;
/// What a client sends is masked; with zeros, which change nothing.
pub const MASKED: u8 = 0x80;
pub const MASK: [u8; 4] = [0; 4];
/// Control frames carry no more, and an idle link has no others.
const CONTROL_BYTES: usize = 125;

/// Links to one server; gone without a trace when dropped.
pub struct Links {
    server: SocketAddr,
    streams: Vec<TcpStream>,
}

impl Links {
    pub fn new(server: SocketAddr) -> Links {
        Links { server, streams: Vec::new() }
    }

    /// Opens links until there are `count`.
    pub fn grow(&mut self, count: usize) -> Result<()> {
        while self.streams.len() < count {
            system::check_stop()?;
            let number = self.streams.len();
            let stream = dial(self.server, number)
                .and_then(|mut stream| shake_hands(&mut stream, self.server, "").map(|()| stream))
                .with_context(|| format!("link {number}"))?;
            self.streams.push(stream);
        }
        Ok(())
    }

    /// A ping on each, and its pong: proof that every link stands, and a sign of life
    /// for the server. Each link has then been used at least once, so its buffers exist.
    pub fn touch(&mut self) -> Result<()> {
        for (number, stream) in self.streams.iter_mut().enumerate() {
            system::check_stop()?;
            ping(stream, number).with_context(|| format!("link {number} is gone"))?;
        }
        Ok(())
    }
}

/// A connection to `server`, the one of this number.
pub fn dial(server: SocketAddr, number: usize) -> Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    let host = u8::try_from(1 + number / LINKS_PER_ADDRESS).context("too many links")?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, host), 0))?;
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
    let request = format!(
        "GET / HTTP/1.1\r\n\
         Host: {server}\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         {offered}\r\n",
    );
    stream.write_all(request.as_bytes())?;
    // Nothing is sent to a client before it has said something, so nothing is lost with this buffer.
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().context("the server closed at once")??;
    ensure!(status.starts_with("HTTP/1.1 101 "), "refused: {status}");
    let mut accepted = false;
    for line in lines.take(HEADER_LINES) {
        let line = line?;
        if line.is_empty() {
            ensure!(accepted, "the server did not accept our key");
            return Ok(());
        }
        if let Some((name, value)) = line.split_once(':') {
            accepted |= name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT;
        }
    }
    bail!("the server's answer has no end")
}

/// Sends a ping and reads until its pong is there; pings that came first are answered.
fn ping(stream: &mut TcpStream, number: usize) -> Result<()> {
    let mark = u32::try_from(number).context("too many links")?.to_be_bytes();
    send(stream, FINAL_PING, &mark)?;
    loop {
        let mut payload = [0; CONTROL_BYTES];
        let (kind, payload) = receive(stream, &mut payload)?;
        match kind {
            FINAL_PING => send(stream, FINAL_PONG, payload)?,
            FINAL_PONG if payload == mark => return Ok(()),
            FINAL_PONG => {}
            other => bail!("the server sent a frame that begins with {other:#04x}"),
        }
    }
}

fn send(stream: &mut TcpStream, kind: u8, payload: &[u8]) -> Result<()> {
    let length = u8::try_from(payload.len()).context("not a control frame")?;
    let mut frame = vec![kind, MASKED | length];
    frame.extend(MASK);
    frame.extend(payload);
    Ok(stream.write_all(&frame)?)
}

fn receive<'a>(stream: &mut TcpStream, payload: &'a mut [u8; CONTROL_BYTES]) -> Result<(u8, &'a [u8])> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let [kind, length] = head;
    let payload = payload
        .get_mut(..usize::from(length))
        .with_context(|| format!("the server sent a frame that begins with {head:02x?}"))?;
    stream.read_exact(payload)?;
    Ok((kind, payload))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that pings first, and answers one ping a link.
    #[expect(clippy::needless_pass_by_value, reason = "the listener is closed when its work is done")]
    fn stand_in(listener: TcpListener, links: usize) -> Result<()> {
        for _ in 0..links {
            let (mut stream, _) = listener.accept()?;
            let mut request = [0; 1024];
            let read = stream.read(&mut request)?;
            ensure!(request[..read].ends_with(b"\r\n\r\n"), "half a request");
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                 connection: upgrade\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n",
            )?;
            thread::spawn(move || -> Result<()> {
                let mut frame = [0; 10];
                stream.read_exact(&mut frame)?;
                stream.write_all(&[FINAL_PING, 2, b'h', b'i'])?;
                stream.write_all(&[FINAL_PONG, 4])?;
                stream.write_all(&frame[6..])?;
                let mut pong = [0; 8];
                stream.read_exact(&mut pong)?;
                ensure!(pong == *b"\x8a\x82\0\0\0\0hi", "not our pong: {pong:02x?}");
                stream.read_exact(&mut [0])?;
                Ok(())
            });
        }
        Ok(())
    }

    #[test]
    fn links_come_up_and_answer_pings() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = listener.local_addr().expect("its address");
        let serving = thread::spawn(move || stand_in(listener, 3));
        let mut links = Links::new(server);
        links.grow(3).expect("three links");
        links.touch().expect("three pongs");
        serving.join().expect("no panic").expect("no failure");
    }
}
