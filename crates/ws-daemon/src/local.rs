//! The local edge: processes on this machine come in by the socket file, or by TCP where asked for, and each connection gets its
//! own answers and nobody else's. It never knows what a link is.

mod answers;
mod lobby;
mod session;
mod socket_file;

pub use lobby::Lobby;
pub use socket_file::{SocketFault, SocketFile, names as socket_names};

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::audit::Audit;
use crate::config::{InUse, Limits};
use crate::control::Control;
use crate::origin::Origin;
use crate::policy::{Caller, Rules};
use crate::system::{self, Process};
use crate::tasks::{Stop, Tasks};
use session::Session;

/// The wait after a failed accept: descriptors come back when some connection ends, and nothing tells when.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What local connections need. Clones are the same.
#[derive(Debug, Clone)]
pub struct Local {
    /// Where requests go.
    pub origin: Origin,
    /// Where commands go.
    pub control: Control,
    /// Who is connected.
    pub lobby: Lobby,
    /// Who may ask for what.
    pub rules: Rules,
    /// Where it is written down who asked for what.
    pub audit: Audit,
    /// How long and how deep a message may be, and how many connections there may be.
    pub limits: InUse<Limits>,
    /// How many there are.
    connections: Arc<AtomicUsize>,
    tasks: Tasks,
    stop: Stop,
}

/// A connection's place, given up when dropped.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Local {
    /// The local edge, whose connections are counted by `tasks`.
    #[must_use]
    pub fn new(
        origin: Origin,
        control: Control,
        lobby: Lobby,
        (rules, audit): (Rules, Audit),
        limits: &Limits,
        tasks: Tasks,
        stop: Stop,
    ) -> Self {
        let (limits, connections) = (InUse::new(*limits), Arc::default());
        Self { origin, control, lobby, rules, audit, limits, connections, tasks, stop }
    }

    /// From here on new connections go by these limits.
    pub fn take_up(&self, limits: &Limits) {
        self.limits.replace(*limits);
    }

    /// Accepts on the socket file until the daemon stops.
    pub async fn accept_socket(self, socket: SocketFile) {
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = self.stop.refuse.cancelled() => return,
            };
            self.take_in(accepted, |stream| Caller::Socket(system::peer_process(stream.as_fd()))).await;
        }
    }

    /// Accepts by TCP until the daemon stops.
    pub async fn accept_tcp(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.refuse.cancelled() => return,
            };
            let accepted = accepted.map(|(stream, _)| {
                // An answer is one small write that somebody waits for.
                drop(stream.set_nodelay(true));
                stream
            });
            self.take_in(accepted, |_| Caller::Tcp).await;
        }
    }

    async fn take_in<S>(&self, accepted: io::Result<S>, caller: fn(&S) -> Caller)
    where
        S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    {
        match accepted {
            Ok(stream) => match self.seat() {
                Some(seat) => {
                    // Whoever it was that connected; the system's own word.
                    let caller = caller(&stream);
                    self.tasks.spawn(self.clone().attend(stream, caller, seat));
                }
                None => warn!("a local connection was closed: there are as many as limits.local_connections allows"),
            },
            Err(error) => {
                warn!(%error, "a local connection could not be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }

    /// A place for one more connection; `None` if there are as many as may be.
    fn seat(&self) -> Option<Seat> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&self.connections));
        (before < self.limits.now().local_connections).then_some(seat)
    }

    async fn attend<S>(self, stream: S, caller: Caller, seat: Seat)
    where
        S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    {
        let close = self.stop.close_local.clone();
        let user = match &caller {
            Caller::Socket(Process { uid: Some(uid), .. }) => format!("uid:{uid}").into(),
            Caller::Socket(_) => "unknown".into(),
            Caller::Tcp => "tcp".into(),
        };
        let end = Session::new(self, caller, user).run(stream, close).await;
        debug!(?end, "local connection closed");
        drop(seat);
    }
}
