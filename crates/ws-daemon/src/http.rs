//! The edge towards peers: one port that takes handshakes and makes links of them. It decides only who may enter; what is said
//! on a link is not its business.
//!
//! The accept loop is our own: nothing slow happens on it, every connection has one deadline from its first byte to its link,
//! and when there are too many, those that have not become links go first.

mod connections;
mod credential;
mod handshake;
mod join;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Open;
use crate::link::{Stream, Wire};
use crate::peers::{Newcomer, Peers};
use crate::tasks::{Stop, Tasks};
use connections::{Connections, Seat};
use handshake::{Upgraded, handshake};

/// The wait after a failed accept: descriptors come back when some connection ends, and nothing tells when.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The server's port.
#[derive(Debug, Clone)]
pub struct Http {
    peers: Peers,
    open: Arc<Open>,
    handshake: Duration,
    connections: Connections,
    tasks: Tasks,
    stop: Stop,
}

impl Http {
    /// A port that makes links for `peers`, at most `connections` of them, each within `handshake`.
    #[must_use]
    pub fn new(peers: Peers, open: Open, handshake: Duration, connections: usize, tasks: Tasks, stop: Stop) -> Self {
        Self { peers, open: Arc::new(open), handshake, connections: Connections::new(connections), tasks, stop }
    }

    /// Accepts until the daemon stops.
    pub async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.drain.cancelled() => return,
            };
            match accepted {
                // A listener for both protocols shows IPv4 addresses as mapped ones.
                Ok((stream, address)) => match self.connections.enter() {
                    Some((seat, dropped)) => self.tasks.spawn(self.clone().attend(stream, canonical(address), seat, dropped)),
                    None => warn!(%address, "a connection was refused: there are as many links as limits.connections allows"),
                },
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// One connection, from its first byte to the end of its link.
    async fn attend(self, stream: TcpStream, address: SocketAddr, seat: Seat, dropped: CancellationToken) {
        // Frames are small and waited for; a socket that does not know the option still works.
        drop(stream.set_nodelay(true));
        let greeted = tokio::select! {
            greeted = timeout(self.handshake, self.greet(stream, address)) => greeted,
            () = dropped.cancelled() => {
                info!(%address, "a half-open connection was dropped to make room for a new one");
                return;
            }
            () = self.stop.drain.cancelled() => return,
        };
        match greeted {
            Ok(Some(newcomer)) => {
                seat.became_link();
                self.peers.host(newcomer, CancellationToken::new()).await;
            }
            Ok(None) => {}
            Err(_) => info!(%address, within = ?self.handshake, "a connection was closed: no handshake in time"),
        }
    }

    /// From the first byte to a link whose peer is known; `None` if it does not become one.
    async fn greet(&self, stream: TcpStream, address: SocketAddr) -> Option<Newcomer> {
        let Upgraded { stream, behind, dialect, standing } = handshake(stream, address, &self.open, &self.peers).await?;
        let wire = Wire::accepted(Stream::from(stream), behind, self.peers.terms().message).await;
        self.peers.welcome(wire, dialect, standing, address.to_string()).await
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
