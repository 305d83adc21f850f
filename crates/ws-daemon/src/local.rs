//! The local edge: processes on this machine come in by the socket file, or by TCP where asked for, and each connection gets its
//! own answers and nobody else's. What speaks HTTP on the socket file is handed on. It never knows what a link is.

mod answers;
mod lobby;
mod outcomes;
mod session;
mod socket_file;
mod stream;

pub use lobby::Lobby;
pub use socket_file::{SocketFault, SocketFile, names as socket_names};

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::{debug, warn};
use ws_daemon_protocol::command::Serve;
use ws_daemon_protocol::id::CallerId;

use crate::api::Api;
use crate::config::{InUse, Limits};
use crate::control::Control;
use crate::origin::{Awaited, Origin};
use crate::policy::Caller;
use crate::system;
use crate::tasks::{Stop, Tasks};
use session::Session;
use stream::{Socket, Stream};

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
    /// How long and how deep a message may be, and how many connections there may be.
    pub limits: InUse<Limits>,
    /// How many there are.
    connections: Arc<AtomicUsize>,
    /// Those that go on in the next life of the daemon.
    parked: Arc<Mutex<Vec<Parked>>>,
    tasks: Tasks,
    stop: Stop,
}

/// A connection that goes on in the next life of the daemon.
#[derive(Debug)]
pub struct Parked {
    /// Its socket.
    pub socket: OwnedFd,
    /// What was left of it.
    pub before: Before,
}

/// What one life of the daemon leaves of a connection to the next.
#[derive(Debug, Default)]
pub struct Before {
    /// What was read of a message whose end has not come.
    pub unread: Vec<u8>,
    /// The requests that are still to be answered, with their ids.
    pub later: Vec<(Option<CallerId>, Awaited)>,
    /// What it serves.
    pub serves: Option<Serve>,
}

/// A connection's place, given up when dropped.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Local {
    /// The local edge, whose connections are counted by `tasks`.
    #[must_use]
    pub fn new(origin: Origin, control: Control, lobby: Lobby, api: Api, limits: &Limits, tasks: Tasks, stop: Stop) -> Self {
        let (limits, connections, parked) = (InUse::new(*limits), Arc::default(), Arc::default());
        Self { origin, control, lobby, api, limits, connections, parked, tasks, stop }
    }

    /// From here on new connections go by these limits.
    pub fn take_up(&self, limits: &Limits) {
        self.limits.replace(*limits);
    }

    /// Accepts on the socket file until the daemon stops. If it begins a new life, the file stays.
    pub async fn accept_socket(self, socket: SocketFile) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.park.cancelled() => return socket.leave(),
                () = self.stop.refuse.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            self.take_in(accepted, |stream| Caller::Socket(system::peer_process(stream.as_fd()))).await;
        }
    }

    /// Accepts by TCP until the daemon stops.
    pub async fn accept_tcp(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.park.cancelled() => return,
                () = self.stop.refuse.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let accepted = accepted.map(|(stream, _)| {
                // An answer is one small write that somebody waits for.
                drop(stream.set_nodelay(true));
                stream
            });
            self.take_in(accepted, |_| Caller::Tcp).await;
        }
    }

    /// Goes on with a connection of the last life of the daemon.
    ///
    /// # Errors
    /// It is no connection.
    pub fn go_on(&self, parked: Parked) -> io::Result<()> {
        let Parked { socket, before } = parked;
        let seat = Seat::new(&self.connections);
        if socket_domain(&socket)? == AddressFamily::UNIX {
            let caller = Caller::Socket(system::peer_process(socket.as_fd()));
            let stream = Stream::new(socket)?;
            self.tasks.spawn(self.clone().attend(stream, before, caller, seat));
        } else {
            let stream = TcpStream::from_std(socket.into())?;
            self.tasks.spawn(self.clone().attend(stream, before, Caller::Tcp, seat));
        }
        Ok(())
    }

    /// Those connections that go on in the next life of the daemon; once all have ended in this one.
    #[must_use]
    pub fn parked(&self) -> Vec<Parked> {
        std::mem::take(&mut self.parked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn park(&self, parked: Parked) {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).push(parked);
    }

    async fn take_in<S: Socket>(&self, accepted: io::Result<S>, caller: fn(&S) -> Caller) {
        match accepted {
            Ok(stream) => match self.seat() {
                Some(seat) => {
                    // Whoever it was that connected; the system's own word.
                    let caller = caller(&stream);
                    self.tasks.spawn(self.clone().attend(stream, Before::default(), caller, seat));
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
        let seat = Seat::new(&self.connections);
        (self.connections.load(Ordering::Relaxed) <= self.limits.now().local_connections).then_some(seat)
    }

    async fn attend<S: Socket>(self, stream: S, before: Before, caller: Caller, seat: Seat) {
        let close = self.stop.close_local.clone();
        let end = Session::new(self, caller).run(stream, before, close).await;
        debug!(?end, "local connection closed");
        drop(seat);
    }
}
