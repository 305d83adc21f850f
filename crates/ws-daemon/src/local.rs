//! The local edge: processes on this machine come in by the socket file, or by TCP where asked for, and each connection gets its
//! own answers and nobody else's. What speaks HTTP on the socket file is handed on. It never knows what a link is.

mod answers;
mod lobby;
mod session;
mod socket_file;

pub use lobby::Lobby;
pub use socket_file::{SocketFault, SocketFile, names as socket_names};

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::api::Api;
use crate::config::Limits;
use crate::control::Control;
use crate::origin::Origin;
use crate::policy::Caller;
use crate::system;
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
    /// Where what speaks HTTP goes.
    pub api: Api,
    /// Bytes of one message.
    pub message: usize,
    /// Levels of nesting of one message.
    pub nesting: usize,
    connections: Arc<Semaphore>,
    tasks: Tasks,
    stop: Stop,
}

impl Local {
    /// The local edge, whose connections are counted by `tasks`.
    #[must_use]
    pub fn new(origin: Origin, control: Control, lobby: Lobby, api: Api, limits: &Limits, tasks: Tasks, stop: Stop) -> Self {
        let connections = Arc::new(Semaphore::new(limits.local_connections));
        Self { origin, control, lobby, api, message: limits.message, nesting: limits.nesting, connections, tasks, stop }
    }

    /// Accepts on the socket file until the daemon stops.
    pub async fn accept_socket(self, socket: SocketFile) {
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = self.stop.drain.cancelled() => return,
            };
            self.take_in(accepted, |stream| Caller::Socket(system::peer_process(stream.as_fd()))).await;
        }
    }

    /// Accepts by TCP until the daemon stops.
    pub async fn accept_tcp(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.drain.cancelled() => return,
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
            Ok(stream) => match Arc::clone(&self.connections).try_acquire_owned() {
                Ok(permit) => {
                    // Whoever it was that connected; the system's own word.
                    let caller = caller(&stream);
                    self.tasks.spawn(self.clone().attend(stream, caller, permit));
                }
                Err(_) => warn!("a local connection was closed: there are as many as limits.local_connections allows"),
            },
            Err(error) => {
                warn!(%error, "a local connection could not be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }

    async fn attend<S>(self, stream: S, caller: Caller, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
    {
        let close = self.stop.close_local.clone();
        let end = Session::new(self, caller).run(stream, close).await;
        debug!(?end, "local connection closed");
        drop(permit);
    }
}
