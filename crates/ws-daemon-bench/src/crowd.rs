//! Many idle links on one thread: clients that shake hands, answer pings, ping themselves as a daemon does, answer an order at
//! once, and, if they are told to, dial again when they have lost their server.
//!
//! What goes over a link is written and read by hand, so that a link costs us little; nothing is measured here.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::net::sockopt;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_rustls::TlsConnector;

use crate::links::{self, END, FINAL_PING, HEAD_BYTES};
use crate::stand_ins::{self, OFFERED};
use crate::system;

/// Handshakes under way while the crowd gathers; each of those who come back comes when it likes.
pub const DIALLING: usize = 64;
/// Between two pings of one client, and the bounds of the wait before it dials again, as a daemon has them.
const PING: Duration = Duration::from_secs(20);
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const LASTING: Duration = Duration::from_secs(10);
/// From dialling to the link.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A crowd that is not complete by then is given up, with this much more for each of it.
const GATHER: Duration = Duration::from_secs(30);
const GATHER_EACH: Duration = Duration::from_millis(5);
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Descriptors that we need beside one a link.
const OTHER_DESCRIPTORS: u64 = 500;

/// How the clients come in.
#[derive(Clone)]
pub struct Way {
    pub server: SocketAddr,
    /// The number of the first of them: by it they are named, and have their addresses.
    pub first: usize,
    /// Plain without it.
    pub tls: Option<Arc<ClientConfig>>,
    pub dialect: Dialect,
    /// Whether they dial again.
    pub comes_back: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Seed,
    Version2,
}

/// Links to one server; gone without a trace when dropped.
pub struct Crowd {
    shared: Arc<Shared>,
    handle: Handle,
    touches: watch::Sender<u32>,
    count: usize,
    /// Dropped, it ends the thread, and every link with it.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    way: Way,
    dialling: Semaphore,
    up: AtomicUsize,
    dialled: AtomicUsize,
    ponged: AtomicUsize,
    /// Why the first link was lost that was to stay.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Way {
    /// Plain links that are to stay.
    pub fn plain(server: SocketAddr, dialect: Dialect) -> Way {
        Way { server, first: 0, tls: None, dialect, comes_back: false }
    }

    /// The same over TLS, to the server in this prefix.
    pub fn encrypted(server: SocketAddr, prefix: &Path) -> Result<Way> {
        Ok(Way { tls: Some(believing(prefix)?), ..Way::plain(server, Dialect::Version2) })
    }
}

impl Crowd {
    /// Nobody yet.
    pub fn new(way: Way) -> Result<Crowd> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::spawn(move || drop(runtime.block_on(ended)));
        let shared = Shared {
            way,
            dialling: Semaphore::new(DIALLING),
            up: AtomicUsize::new(0),
            dialled: AtomicUsize::new(0),
            ponged: AtomicUsize::new(0),
            failure: Mutex::new(None),
        };
        let touches = watch::Sender::new(0);
        Ok(Crowd { shared: Arc::new(shared), handle, touches, count: 0, end: Some(end), thread: Some(thread) })
    }

    /// Until there are `count` links.
    pub fn grow(&mut self, count: usize) -> Result<()> {
        system::raise_descriptor_limit(count as u64 + OTHER_DESCRIPTORS)?;
        for number in self.count..count {
            self.handle.spawn(live(Arc::clone(&self.shared), self.shared.way.first + number, self.touches.subscribe()));
        }
        self.count = count;
        self.wait("links", GATHER + GATHER_EACH * u32::try_from(count)?, |shared| shared.up.load(Ordering::Relaxed))
    }

    /// A ping on each, and its pong: proof that every link stands. Each has then been used at least once, so its buffers exist.
    pub fn touch(&self) -> Result<()> {
        self.shared.ponged.store(0, Ordering::Relaxed);
        self.touches.send_modify(|touch| *touch += 1);
        self.wait("pongs", GATHER, |shared| shared.ponged.load(Ordering::Relaxed))
    }

    /// How many links there are now.
    pub fn up(&self) -> usize {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// How often they have dialled, all together.
    pub fn dialled(&self) -> usize {
        self.shared.dialled.load(Ordering::Relaxed)
    }

    /// An error once a link is gone that was to stay.
    pub fn check(&self) -> Result<()> {
        match self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn wait(&self, what: &str, patience: Duration, so_far: impl Fn(&Shared) -> usize) -> Result<()> {
        let deadline = Instant::now() + patience;
        while so_far(&self.shared) < self.count {
            system::check_stop()?;
            self.check()?;
            ensure!(Instant::now() < deadline, "{} of {} {what} after {patience:?}", so_far(&self.shared), self.count);
            thread::sleep(BETWEEN_LOOKS);
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Believes the root of the server in this prefix. No session is taken up again: those who come back are strangers.
fn believing(prefix: &Path) -> Result<Arc<ClientConfig>> {
    let file = prefix.join("keys/root.pem");
    let pem = fs::read(&file).with_context(|| format!("no root of the server at {}", file.display()))?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&pem) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// One client: a link, and if it is to come back the next, for ever.
async fn live(shared: Arc<Shared>, number: usize, mut touches: watch::Receiver<u32>) {
    let mut permit = shared.dialling.acquire().await.ok();
    let mut bound = BACKOFF_MIN;
    for epoch in 1.. {
        shared.dialled.fetch_add(1, Ordering::Relaxed);
        let mut since = None;
        let is_up = || {
            drop(permit.take());
            since = Some(Instant::now());
        };
        let result = link(&shared, number, epoch, &mut touches, is_up).await;
        if !shared.way.comes_back {
            if let Err(failure) = result {
                let mut first = shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(failure.context(format!("link {number}")));
            }
            return;
        }
        let has_lasted = since.is_some_and(|since: Instant| since.elapsed() > LASTING);
        bound = if has_lasted { BACKOFF_MIN } else { (bound * 2).min(BACKOFF_MAX) };
        tokio::time::sleep(bound.mul_f64(fastrand::f64())).await;
    }
}

/// From dialling to the end of the link; `is_up` is called in between.
async fn link(
    shared: &Shared,
    number: usize,
    epoch: u64,
    touches: &mut watch::Receiver<u32>,
    is_up: impl FnOnce(),
) -> Result<()> {
    let plain = async {
        let socket = TcpSocket::new_v4()?;
        // Closed by a reset: ten thousand ports in TIME_WAIT would be left otherwise.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        socket.set_nodelay(true)?;
        socket.bind(links::source(number)?.into())?;
        Ok::<_, anyhow::Error>(socket.connect(shared.way.server).await?)
    };
    match &shared.way.tls {
        None => hold(plain, shared, number, epoch, touches, is_up).await,
        Some(config) => {
            let name = ServerName::from(shared.way.server.ip());
            let encrypted = async { Ok(TlsConnector::from(Arc::clone(config)).connect(name, plain.await?).await?) };
            hold(encrypted, shared, number, epoch, touches, is_up).await
        }
    }
}

async fn hold<S: AsyncRead + AsyncWrite + Unpin>(
    dial: impl Future<Output = Result<S>>,
    shared: &Shared,
    number: usize,
    epoch: u64,
    touches: &mut watch::Receiver<u32>,
    is_up: impl FnOnce(),
) -> Result<()> {
    let shake = async {
        let mut stream = dial.await?;
        let received = greet(&mut stream, &shared.way, number, epoch).await?;
        Ok::<_, anyhow::Error>((stream, received))
    };
    let (mut stream, mut received) =
        tokio::time::timeout(HANDSHAKE, shake).await.map_err(|_| anyhow!("no link within {HANDSHAKE:?}"))??;
    // Before it is counted: whoever waits for that may touch at once.
    touches.mark_unchanged();
    let _up = Up::count(&shared.up);
    is_up();
    // As spread over time as those are who have come at their own time.
    let mut next_ping = tokio::time::Instant::now() + PING.mul_f64(fastrand::f64());
    loop {
        let mark = touches.borrow().to_be_bytes();
        let mut frames = stand_ins::answers(&mut received, |pong| {
            if pong == mark {
                shared.ponged.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        if received.is_empty() {
            received = Vec::new();
        }
        if frames.is_empty() {
            tokio::select! {
                read = stream.read_buf(&mut received) => ensure!(read? > 0, "the server closed the connection"),
                () = tokio::time::sleep_until(next_ping) => {
                    next_ping += PING;
                    frames = stand_ins::masked(FINAL_PING, b"");
                }
                changed = touches.changed() => {
                    changed?;
                    frames = stand_ins::masked(FINAL_PING, &touches.borrow().to_be_bytes());
                }
            }
        }
        if !frames.is_empty() {
            stream.write_all(&frames).await?;
            stream.flush().await?;
        }
    }
}

/// The handshakes of the WebSocket and, in version 2, of the link; what stands behind them.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, way: &Way, number: usize, epoch: u64) -> Result<Vec<u8>> {
    let is_second = way.dialect == Dialect::Version2;
    let request = links::request(way.server, if is_second { OFFERED } else { "" });
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut received = Vec::new();
    let head = loop {
        ensure!(stream.read_buf(&mut received).await? > 0, "the server closed at once");
        if let Some(place) = received.windows(END.len()).position(|bytes| bytes == END) {
            break place + END.len();
        }
        ensure!(received.len() < HEAD_BYTES, "the server's answer has no end");
    };
    links::accepted(&received[..head])?;
    received.drain(..head);
    if is_second {
        stream.write_all(&stand_ins::hello(number, epoch)).await?;
        stream.flush().await?;
        while !stand_ins::greeted(&mut received)? {
            ensure!(stream.read_buf(&mut received).await? > 0, "the server closed the link");
        }
    }
    Ok(received)
}

/// Counts a link for as long as it stands.
struct Up<'a>(&'a AtomicUsize);

impl Up<'_> {
    fn count(up: &AtomicUsize) -> Up<'_> {
        up.fetch_add(1, Ordering::Relaxed);
        Up(up)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A seed server that pings first, answers so many pings, and closes.
    fn stand_in(mut stream: TcpStream, pings: usize) -> Result<()> {
        let mut request = [0; 1024];
        let read = stream.read(&mut request)?;
        ensure!(request[..read].ends_with(END), "half a request");
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
        stream.write_all(&[FINAL_PING, 2, b'h', b'i'])?;
        let mut pong = [0; 8];
        stream.read_exact(&mut pong)?;
        ensure!(pong == *b"\x8a\x82\0\0\0\0hi", "not our pong: {pong:02x?}");
        for _ in 0..pings {
            let mut ping = [0; 10];
            stream.read_exact(&mut ping)?;
            stream.write_all(&[0x8a, 4])?;
            stream.write_all(&ping[6..])?;
        }
        Ok(())
    }

    #[test]
    fn links_come_up_answer_pings_and_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = listener.local_addr().expect("its address");
        let serving = thread::spawn(move || {
            let streams: Vec<_> = (0..3).map(|_| listener.accept().expect("a client").0).collect();
            let lives: Vec<_> = streams.into_iter().map(|stream| thread::spawn(|| stand_in(stream, 1))).collect();
            for life in lives {
                life.join().expect("no panic").expect("no failure");
            }
            // All are gone; they come back.
            let again: Vec<_> = (0..3).map(|_| listener.accept().expect("a client").0).collect();
            again.len()
        });
        let way = Way { comes_back: true, ..Way::plain(server, Dialect::Seed) };
        let mut crowd = Crowd::new(way).expect("a thread");
        crowd.grow(3).expect("three links");
        crowd.touch().expect("three pongs");
        assert_eq!(serving.join().expect("no panic"), 3);
    }

    #[test]
    fn a_link_that_was_to_stay_and_is_gone_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = listener.local_addr().expect("its address");
        let serving = thread::spawn(move || stand_in(listener.accept()?.0, 0));
        let mut crowd = Crowd::new(Way::plain(server, Dialect::Seed)).expect("a thread");
        let failure = crowd.grow(1).and_then(|()| crowd.touch()).expect_err("it is gone");
        serving.join().expect("no panic").expect("no failure");
        assert!(format!("{failure:#}").contains("link 0"), "{failure:#}");
    }
}
