//! The edge towards peers: one port that takes handshakes and makes links of them, and hands on what is asked for pages. It decides
//! only who may enter; what is said on a link, or on a page, is not its business.
//!
//! The accept loop is our own: nothing slow happens on it, every connection has one deadline from its first byte to its link,
//! and when there are too many, those that have not become links in a while go first. An address that connects or fails too often is turned
//! away before a word is read. Whoever floods this port must not flood the log with it.

mod addresses;
mod connections;
mod credential;
mod handshake;
mod join;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{Api, Visit};
use crate::audit::{Audit, Entry};
use crate::config::{InUse, Limits, Open};
use crate::counters::{Count, Counters};
use crate::link::{Dialect, Role, Stream, Wire};
use crate::peers::{Hosted, Newcomer, Peers, Unwelcome};
use crate::rate::Seldom;
use crate::standing::{Proof, Proven, Standing};
use crate::tasks::{Stop, Tasks, Turn};
use crate::tls::{self, ServerTls};
use addresses::{Addresses, TurnedAway};
use connections::{Connections, Seat};
use handshake::{Entrance, Upgraded, handshake};
use turns::Turns;

/// The wait after a failed accept: descriptors come back when some connection ends, and nothing tells when.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Connections that wait to be accepted when the daemon stops and are taken in; more than a listener's queue holds. What comes beyond
/// them is reset.
const LAST_CONNECTIONS: usize = 8192;

/// What decides who enters, and where that is written down.
#[derive(Debug)]
pub struct Door {
    /// Who may come in without proof, beyond this machine.
    pub open: InUse<Open>,
    /// A server's encryption, and whom a client's certificate names.
    pub tls: Option<ServerTls>,
    /// Who was refused.
    pub audit: Audit,
    /// What is asked and is no link; without it there are links alone.
    pub api: Option<Api>,
}

impl Door {
    /// Whether what comes from other machines may be without encryption.
    fn takes_plain(&self) -> bool {
        self.tls.as_ref().is_none_or(ServerTls::takes_plain)
    }
}

/// The server's port.
#[derive(Debug, Clone)]
pub struct Http {
    peers: Peers,
    door: Arc<Door>,
    handshake: InUse<Duration>,
    /// Whether there are links, beside what is asked over HTTP.
    links: bool,
    connections: Connections,
    addresses: Addresses,
    turns: Turns,
    tasks: Tasks,
    stop: Stop,
}

/// Why a connection is closed that has not become a link.
#[derive(Debug)]
enum Enough {
    /// There was no link in time.
    TooSlow,
    /// Another one takes its place, or the daemon stops.
    Wanted,
}

/// What a flood would write into the log with each connection.
#[derive(Debug, Default)]
struct Floods {
    full: Seldom,
    half_open: Seldom,
    too_fast: Seldom,
    failures: Seldom,
}

impl Http {
    /// A port that makes links for `peers`, each within `handshake`, as many and as fast as `limits` let it; who
    /// enters is decided at the `door`.
    #[must_use]
    pub fn new(peers: Peers, door: Door, handshake: Duration, limits: &Limits, tasks: Tasks, stop: Stop) -> Self {
        let connections = Connections::new(limits.connections, limits.half_open, peers.counters().clone());
        let addresses = Addresses::new(limits);
        let (handshake, turns) = (InUse::new(handshake), Turns::default());
        Self { peers, door: Arc::new(door), handshake, links: true, connections, addresses, turns, tasks, stop }
    }

    /// The same for what is asked over HTTP alone, on an address of its own.
    #[must_use]
    pub fn without_links(self) -> Self {
        Self { links: false, ..self }
    }

    /// From here on whoever comes is taken in by these; links and handshakes that there are stay.
    pub fn take_up(&self, open: Open, handshake: Duration, limits: &Limits) {
        self.door.open.replace(open);
        self.handshake.replace(handshake);
        self.connections.set(limits.connections, limits.half_open);
        self.addresses.set(limits);
    }

    /// Accepts until the daemon takes nobody in. Who has connected by then is taken in still, unless the listener is `kept` for the
    /// next life of this daemon.
    pub async fn accept(self, listener: TcpListener, is_kept: bool) {
        let (mut floods, mut turn) = (Floods::default(), Turn::default());
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.park.cancelled() => return,
                () = self.stop.refuse.cancelled() => break,
                accepted = self.next(&listener) => accepted,
            };
            match accepted {
                // A listener for both protocols shows IPv4 addresses as mapped ones.
                Ok((stream, address)) => {
                    self.take(stream, canonical(address), &mut floods);
                    // Handshakes go on while others come, or each would be the oldest half-open one before it is looked at.
                    turn.done(0).await;
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        if !is_kept && let Err(error) = self.accept_rest(listener, &mut floods) {
            warn!(%error, "who had connected last may not have been taken in");
        }
    }

    /// The next connection, when all that wait for a turn have had theirs and there is room. Who comes faster than handshakes begin and end
    /// waits to be accepted, and loses nothing by it; accepted, it would drive out those whose handshakes go on, and they would all come
    /// again.
    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        self.turns.all_had().await;
        self.connections.room().await;
        listener.accept().await
    }

    /// Takes in all that have connected, so that none of them is reset when the listener is closed.
    fn accept_rest(&self, listener: TcpListener, floods: &mut Floods) -> io::Result<()> {
        let listener = listener.into_std()?;
        for _ in 0..LAST_CONNECTIONS {
            match listener.accept() {
                Ok((stream, address)) => {
                    stream.set_nonblocking(true)?;
                    self.take(TcpStream::from_std(stream)?, canonical(address), floods);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives a new connection its place and its task, or closes it.
    fn take(&self, stream: TcpStream, address: SocketAddr, floods: &mut Floods) {
        let now = Instant::now();
        self.counters().count(Count::Accepted);
        if let Err(why) = self.addresses.arrive(address.ip(), now) {
            return self.turn_away(address, why, floods);
        }
        let Some(entered) = self.connections.enter() else {
            self.counters().count(Count::Full);
            if let Some(count) = floods.full.count(now) {
                warn!(%address, count, "a connection was refused: there are as many links as limits.connections allows");
            }
            return;
        };
        if entered.made_room {
            self.counters().count(Count::HalfOpenDropped);
            if let Some(count) = floods.half_open.count(now) {
                info!(count, "a half-open connection was dropped to make room for a new one");
            }
        }
        self.tasks.spawn(self.attend(stream, address, entered.seat, entered.dropped));
    }

    fn turn_away(&self, address: SocketAddr, why: TurnedAway, floods: &mut Floods) {
        let now = Instant::now();
        match why {
            TurnedAway::TooFast => {
                self.counters().count(Count::TooFast);
                if let Some(count) = floods.too_fast.count(now) {
                    warn!(%address, count, "closed at once: more connections of one address than limits.address_connections allows");
                }
            }
            TurnedAway::TooManyFailures => {
                self.counters().count(Count::TooManyFailures);
                if let Some(count) = floods.failures.count(now) {
                    warn!(%address, count, "closed at once: more failures of one address than limits.address_failures allows");
                }
            }
        }
    }

    fn counters(&self) -> &Counters {
        self.peers.counters()
    }

    /// No link came of a connection.
    fn failed(&self, address: SocketAddr) {
        self.counters().count(Count::Failures);
        self.addresses.fail(address.ip(), Instant::now());
    }

    /// One connection, from its first byte to the end of its link. The way to the link takes several times the room that a link needs, and
    /// is boxed: ten thousand links would each keep that room for as long as they stand.
    fn attend(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        seat: Seat,
        dropped: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let entry = Box::pin(self.clone().come_in(stream, address, seat, dropped));
        async move {
            let Some((hosted, _seat)) = entry.await else { return };
            hosted.live().await;
        }
    }

    /// From the first byte to a place in the table; `None` if it does not come to that.
    async fn come_in(
        self,
        stream: TcpStream,
        address: SocketAddr,
        seat: Seat,
        dropped: CancellationToken,
    ) -> Option<(Hosted, Seat)> {
        let (newcomer, seat) = self.enter(stream, address, seat, dropped).await?;
        let claimed = newcomer.claimed();
        match self.peers.take_in(newcomer, self.peers.closing()).await {
            Ok(hosted) => Some((hosted, seat)),
            Err(why) => {
                self.failed(address);
                self.record_unwelcome(address, claimed, why).await;
                None
            }
        }
    }

    async fn record_unwelcome(&self, address: SocketAddr, claimed: Vec<(&'static str, String)>, why: Unwelcome) {
        let entry = || Entry::new("link").with("address", address.to_string()).with("allowed", false);
        let entry = || claimed.iter().fold(entry(), |entry, (what, claimed)| entry.text(what, claimed));
        self.door.audit.record(|| entry().with("why", why.to_string())).await;
    }

    /// From the first byte to a link whose peer is known, and the place that it has; `None` if it does not become one, in time.
    async fn enter(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        seat: Seat,
        dropped: CancellationToken,
    ) -> Option<(Newcomer, Seat)> {
        // Frames are small and waited for; a socket that does not know the option still works.
        drop(stream.set_nodelay(true));
        let (visit, _asks) = (Visit::default(), self.stop.askers.token());
        let within = *self.handshake.now();
        let greeted = tokio::select! {
            greeted = self.greet(stream, address, &visit) => Ok(greeted),
            why = self.had_enough(&visit, &seat, &dropped, within) => Err(why),
        };
        match greeted {
            Ok(Some(newcomer)) => {
                seat.became_link();
                return Some((newcomer, seat));
            }
            Err(Enough::Wanted) => {}
            // Also who keeps the connection after an open page until its time is over has done nothing wrong.
            Ok(None) | Err(Enough::TooSlow) if visit.was_good() => {}
            Ok(None) => self.failed(address),
            Err(Enough::TooSlow) => {
                self.counters().count(Count::TooSlow);
                self.failed(address);
                info!(%address, ?within, "a connection was closed: no handshake in time");
            }
        }
        None
    }

    /// Ends when a connection may not stay for longer. Once somebody has shown on it who it is, it may, and drops for nobody.
    async fn had_enough(&self, visit: &Visit, seat: &Seat, dropped: &CancellationToken, within: Duration) -> Enough {
        tokio::select! {
            () = visit.proven.cancelled() => {
                seat.became_link();
                std::future::pending().await
            }
            () = sleep(within) => Enough::TooSlow,
            () = dropped.cancelled() => Enough::Wanted,
            () = self.stop.drain.cancelled() => Enough::Wanted,
        }
    }

    /// From the first byte to a link whose peer is known; `None` if it does not become one. The deadline is the caller's.
    async fn greet(&self, stream: TcpStream, address: SocketAddr, visit: &Visit) -> Option<Newcomer> {
        let (wire, dialect, standing) = self.upgrade(stream, address, visit).await?;
        self.peers.welcome(wire, dialect, standing, address.to_string()).await
    }

    /// Tells TLS from plain HTTP by the first byte, and what a client's certificate proves.
    async fn encrypt(&self, stream: TcpStream, first: u8, address: SocketAddr) -> Option<(Stream, Standing)> {
        if first != tls::FIRST_BYTE {
            return Some((stream.into(), Standing::Anonymous));
        }
        let Some(tls) = self.door.tls.as_ref().filter(|tls| tls.is_on()) else {
            let mend = "the first ws-daemon invite switches it on, or \"tls\": true in config.json";
            warn!(%address, "a TLS connection was closed: this server has no TLS; {mend}");
            return None;
        };
        match tls.accept(stream).await {
            Ok(accepted) => {
                let proven = |name| Proven { name, tags: Vec::new(), allow: None, by: Proof::Certificate };
                let standing = accepted.client.map_or(Standing::Anonymous, |name| Standing::Peer(Arc::new(proven(name))));
                Some((Stream::encrypted(accepted.stream), standing))
            }
            Err(error) => {
                info!(%address, %error, "no TLS with this connection");
                None
            }
        }
    }

    /// From the first byte to a WebSocket on which nothing has been said; `None` if it does not become one. The deadline is the
    /// caller's.
    pub async fn upgrade(&self, stream: TcpStream, address: SocketAddr, visit: &Visit) -> Option<(Wire, Dialect, Standing)> {
        let entrance = Entrance { own: canonical(stream.local_addr().ok()?), address, links: self.links };
        let mut first = [0];
        // Who closes at once is answered as who says nothing.
        stream.peek(&mut first).await.ok()?;
        let upgraded = self.turns.begin(async {
            let (stream, standing) = self.encrypt(stream, first[0], address).await?;
            handshake(stream, entrance, &standing, &self.door, &self.peers, visit, &self.stop).await
        });
        let upgraded = upgraded.await?;
        let Upgraded { stream, behind, dialect, standing } = upgraded;
        Some((Wire::new(stream, Role::Server, behind, self.peers.terms().message), dialect, standing))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
