//! The least that a round trip is: by a Unix socket, and by a WebSocket on loopback, to a thread that sends back what it gets; and
//! by a WebSocket as programs have it, by the usual library at both ends.
//!
//! No daemon takes part.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::contest::Measured;
use crate::sample::{Pace, Sample};
use crate::stand_ins::{FINAL_TEXT, masked, plain};
use crate::system;

const PATIENCE: Duration = Duration::from_secs(30);
/// As long as what a process asks and a peer answers.
const PAYLOAD: &[u8] =
    br#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":0,"id":"0190a0c1-0000-7000-8000-000000000000"}}}"#;

/// One after another until it is time, at least one.
fn until(length: Duration, mut once: impl FnMut() -> Result<()>) -> Result<Sample> {
    let mut times = Vec::new();
    let started = Instant::now();
    let mut now = started;
    while times.is_empty() || now < started + length {
        system::check_stop()?;
        once()?;
        let began = now;
        now = Instant::now();
        times.push(now - began);
    }
    Ok(Sample::of(&mut times, now - started))
}

/// Two bare ends of a connection: what goes out, and what must come back.
pub struct Bare<S> {
    stream: S,
    out: Vec<u8>,
    back: Vec<u8>,
}

/// A line by a Unix socket.
pub fn by_unix_socket() -> Result<Bare<UnixStream>> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let line = [PAYLOAD, b"\n"].concat();
    answer(theirs, line.clone(), line.clone());
    Ok(Bare { stream: ours, out: line.clone(), back: line })
}

/// A frame by a WebSocket, whose handshake costs nobody anything here.
pub fn by_web_socket() -> Result<Bare<TcpStream>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    for stream in [&ours, &theirs] {
        stream.set_nodelay(true)?;
    }
    ours.set_read_timeout(Some(PATIENCE))?;
    let (out, back) = (masked(FINAL_TEXT, PAYLOAD), plain(PAYLOAD));
    answer(theirs, out.clone(), back.clone());
    Ok(Bare { stream: ours, out, back })
}

/// A thread that answers each `question` until the other end is gone.
fn answer(mut stream: impl Read + Write + Send + 'static, question: Vec<u8>, answer: Vec<u8>) {
    thread::spawn(move || {
        let mut heard = vec![0; question.len()];
        while stream.read_exact(&mut heard).is_ok() && heard == question && stream.write_all(&answer).is_ok() {}
    });
}

impl<S: Read + Write> Measured for Bare<S> {
    /// One at a time, whatever is asked for.
    fn measure(&mut self, _: Pace, length: Duration) -> Result<Sample> {
        let mut heard = vec![0; self.back.len()];
        until(length, || {
            self.stream.write_all(&self.out)?;
            self.stream.read_exact(&mut heard).context("no echo")?;
            ensure!(heard == self.back, "another echo");
            Ok(())
        })
    }
}

/// A WebSocket with tokio-tungstenite at both ends, each on a runtime with one thread.
pub struct Library {
    runtime: Runtime,
    socket: WebSocketStream<tokio::net::TcpStream>,
}

impl Library {
    pub fn new() -> Result<Library> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || -> Result<()> {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Builder::new_current_thread().enable_all().build()?.block_on(async {
                let stream = tokio::net::TcpStream::from_std(stream)?;
                let mut socket = accept_async(stream).await?;
                while let Some(message) = socket.next().await {
                    socket.send(message?).await?;
                }
                Ok(())
            })
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (socket, _) = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, anyhow::Error>(client_async(format!("ws://{address}/"), stream).await?)
        })?;
        Ok(Library { runtime, socket })
    }
}

impl Measured for Library {
    /// One at a time, whatever is asked for.
    fn measure(&mut self, _: Pace, length: Duration) -> Result<Sample> {
        let Library { runtime, socket } = self;
        let message = Message::text(str::from_utf8(PAYLOAD)?);
        until(length, || {
            runtime.block_on(async {
                socket.send(message.clone()).await?;
                let heard = socket.next().await.context("no echo")??;
                ensure!(heard == message, "another echo");
                Ok(())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_out_comes_back_by_every_way() {
        let length = Duration::from_millis(5);
        assert!(by_unix_socket().expect("sockets").measure(Pace::OneByOne, length).expect("echoes").done > 0);
        assert!(by_web_socket().expect("sockets").measure(Pace::OneByOne, length).expect("echoes").done > 0);
        assert!(Library::new().expect("sockets").measure(Pace::OneByOne, length).expect("echoes").done > 0);
    }
}
