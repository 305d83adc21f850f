//! The composition root: builds every part, binds what it listens on, wires the parts together, runs them and stops them in
//! order. The only file that knows them all; it does none of their work.

mod encryption;
pub mod identity;
mod service_manager;
pub mod trusted;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use crate::api::{self, Api, Hosts};
use crate::audit::{Audit, AuditFault};
use crate::callers::{BrokenCallers, Callers};
use crate::config::{LocalTcp, Open, Role, Settings};
use crate::control::{Control, Means, Reload};
use crate::exec::{Executor, Surroundings, Writers};
use crate::http::{Door, Http};
use crate::levels::Levels;
use crate::link::{Inbound, Terms};
use crate::local::{Lobby, Local, SocketFault, SocketFile};
use crate::news::News;
use crate::origin::{self, Origin};
use crate::peers::{Dialer, DialerHandle, Known, Peers};
use crate::register::{BrokenRegister, Register};
use crate::spool::{Spool, SpoolFault};
use crate::system;
use crate::tasks::{Stop, Tasks};
use crate::tls::KeysFault;
use crate::worker::Worker;
pub use encryption::Encryption;

/// Requests and commands from links, between being read and being sorted; when full, links are not read, and take turns. It is for
/// what is read in one turn: whatever one link has here, the others' wait behind.
const INBOUND: usize = 16;

/// Statuses that nobody waits for, before they are passed on; when full, they are dropped.
const UNCLAIMED: usize = 1024;

/// Where a server keeps who its peers are, in its prefix.
pub const REGISTER: &str = "keys/peers.json";

/// Where it is kept who may ask over HTTP, in the prefix.
const CALLERS: &str = "keys/callers.json";

/// Connections that wait to be accepted on TCP.
const BACKLOG: u32 = 1024;

/// From KILL to the end: the time to reap, to settle and to part.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// What is left of the audit log is written for so long; then the daemon ends, and says that it was not.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The names in the daemon's environment that scripts do not get: what may hold a token, what speaks for the daemon to its
/// service manager, and what says something of a run, which would be another daemon's.
const OWN_VARIABLES: [&str; 17] = [
    "WSDAEMON_PROXY",
    "WSDAEMON_TOKEN",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WSDAEMON_RUN",
    "WSDAEMON_ID",
    "WSDAEMON_NAME",
    "WSDAEMON_PEER",
    "WSDAEMON_DEADLINE",
    "WSDAEMON_REQUEST_ID",
    "WSDAEMON_EVENT",
    "TRACEPARENT",
];

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The prefix is no folder.
    #[error("the prefix {} cannot be used: {source}; make it with: ws-daemon init", path.display())]
    Prefix {
        /// The prefix.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can write what the daemon goes by, or read its keys.
    #[error("{0}; or say that it is meant so, with --any-writer")]
    Exposed(String),
    /// No socket file.
    #[error(transparent)]
    Socket(#[from] SocketFault),
    /// No port.
    #[error("cannot listen on {address}: {source}{}", if source.kind() == io::ErrorKind::AddrInUse { "; another program has this port: stop it or set \"port\"" } else { "" })]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The spool is of a later version.
    #[error(transparent)]
    Spool(SpoolFault),
    /// The register of peers cannot be read.
    #[error(transparent)]
    Register(#[from] BrokenRegister),
    /// The register of callers cannot be read.
    #[error(transparent)]
    Callers(#[from] BrokenCallers),
    /// Keys or certificates are broken.
    #[error("TLS: {0}")]
    Keys(#[from] KeysFault),
    /// No audit log, where one is asked for.
    #[error(transparent)]
    Audit(#[from] AuditFault),
    /// Nothing can be executed.
    #[error("no script can be run: {0}")]
    Executor(#[source] io::Error),
    /// Signals cannot be had.
    #[error("signals cannot be received: {0}")]
    Signals(#[source] io::Error),
}

/// A daemon that has bound what it listens on, and runs when told.
#[derive(Debug)]
pub struct Daemon {
    settings: Settings,
    socket: SocketFile,
    executor: Executor,
    spool: Option<Spool>,
    audit: Audit,
    register: Register,
    callers: Callers,
    reload: Reload,
    levels: Levels,
    stop: Stop,
    counts: Counts,
    local_tcp: Option<TcpListener>,
    http: Option<TcpListener>,
    port: Option<TcpListener>,
    encryption: Encryption,
    signals: Signals,
}

#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// None where it is ignored: then the daemon outlives its terminal.
    hangup: Option<Signal>,
}

/// The task counts that a stop waits for, each in its turn.
#[derive(Debug, Clone, Default)]
struct Counts {
    runs: Tasks,
    requests: Tasks,
    links: Tasks,
    connections: Tasks,
    /// The lives of queued runs, which a stop only interrupts.
    lives: Tasks,
    rest: Tasks,
}

impl Daemon {
    /// Binds everything, or nothing. `reload` is what RELOAD does, `levels` what is logged.
    ///
    /// # Errors
    /// What could not be had, and what to do about it.
    pub fn bind(settings: Settings, reload: Reload, levels: Levels) -> Result<Self, StartFault> {
        let prefix = &settings.prefix;
        let source = match std::fs::metadata(prefix) {
            Ok(found) if found.is_dir() => None,
            Ok(_) => Some(io::ErrorKind::NotADirectory.into()),
            Err(error) => Some(error),
        };
        if let Some(source) = source {
            return Err(StartFault::Prefix { path: prefix.clone(), source });
        }
        trusted::check(&settings, &identity::spool_path(&settings)).map_err(StartFault::Exposed)?;
        if let Err(error) = system::keep_descriptors_from_children() {
            warn!(%error, "descriptors that were left open to the daemon may reach scripts");
        }
        raise_open_files(&settings);
        let signals = Signals {
            terminate: signal(SignalKind::terminate()).map_err(StartFault::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(StartFault::Signals)?,
            hangup: (!system::ignores_hangup())
                .then(|| signal(SignalKind::hangup()).map_err(StartFault::Signals))
                .transpose()?,
        };
        let encryption = Encryption::of(&settings)?;
        let (port, register) = match &settings.role {
            Role::Server { listen, .. } => (Some(bind_port(*listen)?), Register::open(&prefix.join(REGISTER))?),
            Role::Client { .. } => (None, Register::default()),
        };
        let callers = Callers::open(&prefix.join(CALLERS))?;
        let local_tcp = bind_local_tcp(settings.local)?;
        let http = settings.http.map(bind_http).transpose()?;
        let socket = SocketFile::bind(prefix, settings.socket_group.as_deref())?;
        let audit = match &settings.audit {
            Some(file) => Audit::open(&file.path, file.params)?,
            None => Audit::off(),
        };
        let spool = identity::open_spool(&settings).map_err(StartFault::Spool)?;
        let (stop, counts) = (Stop::default(), Counts::default());
        let executor = surroundings(&settings, &socket)
            .and_then(|around| Executor::new(around, &settings.limits, counts.rest.clone(), stop.clone()))
            .map_err(StartFault::Executor)?;
        Ok(Self {
            settings,
            socket,
            executor,
            spool,
            audit,
            register,
            callers,
            reload,
            levels,
            stop,
            counts,
            local_tcp,
            http,
            port,
            encryption,
            signals,
        })
    }

    /// Runs until a signal says stop, and returns when everything has been settled.
    pub async fn run(self) {
        let Self {
            settings,
            socket,
            executor,
            spool,
            register,
            callers,
            audit,
            reload,
            levels,
            stop,
            counts,
            local_tcp,
            http,
            port,
            encryption,
            mut signals,
        } = self;
        let (inbound, inbound_receiver) = mpsc::channel::<Inbound>(INBOUND);
        let (unclaimed, unclaimed_receiver) = mpsc::channel(UNCLAIMED);

        let terms = Terms::new(&settings.limits, &settings.times);
        let damaged = spool.as_ref().map(Spool::damaged);
        let me = identity::who_i_am(&settings, spool.as_ref()).await;
        let known = identity::known_peers(spool.as_ref()).await;
        let (changes, remembering) = identity::remember(spool.clone(), stop.close_local.clone());
        counts.rest.spawn(remembering);
        let known = Known { records: known, register, rules: identity::rules(&settings) };
        let rules = known.rules.clone();
        let peers = Peers::new(inbound, terms, stop.close_links.clone(), me, known, changes);
        // A crash may have come between a revocation and this.
        peers.forget_gone();
        if let (Some(spool), Some(damaged)) = (spool.clone(), damaged) {
            let (settings, close) = (settings.clone(), stop.close_links.clone());
            counts.rest.spawn(identity::keep_true(settings, spool, damaged, peers.clone(), close));
        }
        let (runs, rest) = (counts.runs.clone(), counts.rest.clone());
        let worker = Worker::new(executor.clone(), peers.clone(), spool.clone(), audit.clone(), runs, rest, stop.clone());
        let news = News::default();
        let means = origin::Means {
            peers: peers.clone(),
            spool: spool.clone(),
            executor: executor.clone(),
            news: news.clone(),
            requests: counts.requests.clone(),
            lives: counts.lives.clone(),
            stop: stop.clone(),
        };
        let origin = ask_in_role(&settings, means, &counts);
        // What was claimed is settled before its asker can ask again.
        worker.recover().await;
        origin.recover().await;
        let reached = port.as_ref().and_then(|listener| listener.local_addr().ok());
        let (tls, client_tls) = (encryption.server().cloned(), encryption.client().cloned());
        let dialer = start_dialer(&settings, &encryption, &peers, spool.clone(), &counts, &stop);
        let control = Control::new(Means {
            dialer,
            peers: peers.clone(),
            origin: origin.clone(),
            worker,
            executor: executor.clone(),
            spool: spool.clone(),
            news,
            reached,
            tls: tls.clone(),
            client_tls,
            callers: callers.clone(),
            rules: rules.clone(),
            audit: audit.clone(),
            peer_runs: settings.limits.peer_runs,
            reload,
            levels: levels.clone(),
            rest: counts.rest.clone(),
            since: Instant::now(),
        });
        let parts = api::Parts {
            control: control.clone(),
            origin: origin.clone(),
            callers,
            hosts: Hosts::new(settings.hosts.iter().chain(&settings.tls.names).cloned().collect(), tls),
            audit: audit.clone(),
            counters: peers.counters().clone(),
        };
        let api = Api::new(parts, &settings.limits, &settings.times, stop.clone());
        open_ports(&settings, (port, http), &encryption, &peers, (&audit, &api), &counts, &stop);
        let lobby = Lobby::default();
        let local =
            Local::new(origin, control.clone(), lobby.clone(), api, &settings.limits, counts.connections.clone(), stop.clone());

        counts.rest.spawn(control.sort(inbound_receiver, unclaimed, stop.close_local.clone()));
        counts.rest.spawn(lobby.pass_on(unclaimed_receiver));
        counts.rest.spawn(levels.keep(stop.close_local.clone()));
        if let Some(listener) = local_tcp {
            counts.connections.spawn(local.clone().accept_tcp(listener));
        }
        info!(path = %socket.path().display(), "local socket ready");
        counts.connections.spawn(local.accept_socket(socket));
        counts.rest.spawn(service_manager::feed_watchdog(executor, stop.close_local.clone()));
        service_manager::ready();
        signals.next().await;
        service_manager::stopping();
        peers.drain();
        shut_down(&stop, &counts, settings.times.grace, &mut signals).await;
        if let Some(spool) = spool {
            spool.close().await;
        }
        audit.close(LAST_LINES).await;
    }
}

impl Signals {
    /// Ends when the daemon is told to stop, by the signal of service managers or those of a terminal.
    async fn next(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hung_up(&mut self.hangup) => "SIGHUP",
        };
        info!(signal = name, "told to stop");
    }
}

async fn hung_up(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// The asking side of a server or a client.
fn ask_in_role(settings: &Settings, means: origin::Means, counts: &Counts) -> Origin {
    match settings.role {
        Role::Server { .. } => Origin::of_server(means),
        Role::Client { .. } => {
            let (origin, sending) = Origin::of_client(means, settings.limits.held_bytes);
            counts.rest.spawn(sending);
            origin
        }
    }
}

/// Starts what makes a client's link.
fn start_dialer(
    settings: &Settings,
    encryption: &Encryption,
    peers: &Peers,
    spool: Option<Spool>,
    counts: &Counts,
    stop: &Stop,
) -> Option<DialerHandle> {
    let (Role::Client { servers }, Encryption::Client(tls)) = (&settings.role, encryption) else { return None };
    let (peers, epochs) = (peers.clone(), identity::epochs(spool));
    let (handle, dialer) = Dialer::new(peers, servers.clone(), tls.clone(), settings.times, epochs, stop.drain.clone());
    counts.links.spawn(dialer.run());
    Some(handle)
}

/// Takes in on a server's port who comes for a link or asks over HTTP, and on the address for that who asks.
fn open_ports(
    settings: &Settings,
    (port, http): (Option<TcpListener>, Option<TcpListener>),
    encryption: &Encryption,
    peers: &Peers,
    (audit, api): (&Audit, &Api),
    counts: &Counts,
    stop: &Stop,
) {
    let tls = encryption.server().cloned();
    let open = match &settings.role {
        Role::Server { open, .. } => open.clone(),
        Role::Client { .. } => Open::Nobody,
    };
    if let Some(tls) = tls.clone() {
        counts.rest.spawn(tls.keep_fresh(stop.close_local.clone()));
    }
    let door = Door { open, tls, audit: audit.clone(), api: Some(api.clone()) };
    let (limits, links) = (&settings.limits, counts.links.clone());
    let edge = Http::new(peers.clone(), door, settings.times.handshake, limits, links, stop.clone());
    if let Some(listener) = port {
        counts.links.spawn(edge.clone().accept(listener));
    }
    if let Some(listener) = http {
        counts.links.spawn(edge.without_links().accept(listener));
    }
}

/// Stops in order: no new work; what runs may finish for half the grace; then TERM, and at its end, or at a second signal, KILL.
/// What was made of every run and request is on its way before the links and the local connections are closed.
async fn shut_down(stop: &Stop, counts: &Counts, grace: Duration, signals: &mut Signals) {
    let begun = Instant::now();
    stop.drain.cancel();
    let work = async {
        counts.runs.ended().await;
        counts.requests.ended().await;
    };
    let patient = tokio::select! {
        () = work => true,
        () = sleep_until(begun + grace / 2) => true,
        () = signals.next() => false,
    };
    if patient {
        stop.terminate.cancel();
        tokio::select! {
            () = counts.runs.ended() => {}
            () = sleep_until(begun + grace) => {}
            () = signals.next() => {}
        }
    }
    stop.kill.cancel();
    let end = Instant::now() + LAST_STEPS;
    let steps = async {
        counts.runs.ended().await;
        stop.close_links.cancel();
        counts.requests.ended().await;
        counts.links.ended().await;
    };
    if timeout_at(end - LAST_STEPS / 4, steps).await.is_err() {
        warn!("not everything was settled in time");
        stop.close_links.cancel();
    }
    stop.close_local.cancel();
    let rest = async {
        counts.connections.ended().await;
        counts.lives.ended().await;
        counts.rest.ended().await;
    };
    if timeout_at(end, rest).await.is_err() {
        warn!("some local connections did not take their last answers in time");
    }
    info!(took = ?begun.elapsed(), "stopped");
}

fn surroundings(settings: &Settings, socket: &SocketFile) -> io::Result<Surroundings> {
    let own = |name: &std::ffi::OsString| OWN_VARIABLES.iter().any(|own| name == own);
    let around = Surroundings::new(&settings.prefix, socket.path(), std::env::vars_os().filter(|(name, _)| !own(name)))?;
    Ok(around.with_writers(if settings.any_writer.0 { Writers::Anyone } else { Writers::Trusted }))
}

/// A port for peers. On a machine without IPv6 the unspecified address means that of IPv4.
fn bind_port(address: SocketAddr) -> Result<TcpListener, StartFault> {
    let bound = match listen_on(address) {
        Err(error) if address.ip().is_unspecified() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listen_on((std::net::Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    };
    let listener = bound.map_err(|source| StartFault::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "listening");
    Ok(listener)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart finds the port free although connections of the last life are still being taken apart.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The address that answers HTTP.
fn bind_http(address: SocketAddr) -> Result<TcpListener, StartFault> {
    let listener = listen_on(address).map_err(|source| StartFault::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "HTTP ready");
    Ok(listener)
}

/// The local conversation by TCP: an error where it was asked for and cannot be had, a warning where it was only guessed.
fn bind_local_tcp(local: LocalTcp) -> Result<Option<TcpListener>, StartFault> {
    let (address, asked) = match local {
        LocalTcp::Off => return Ok(None),
        LocalTcp::Asked(address) => (address, true),
        LocalTcp::Guessed(address) => (address, false),
    };
    match listen_on(address) {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            info!(%address, "local TCP ready");
            Ok(Some(listener))
        }
        Err(source) if asked => Err(StartFault::Listen { address, source }),
        Err(error) => {
            warn!(%address, %error, "this looks like a container, but the local conversation by TCP is not served");
            Ok(None)
        }
    }
}

/// As many descriptors as the limits may need: a run has three, a connection one.
#[must_use]
pub fn open_files_wanted(settings: &Settings) -> u64 {
    const OTHERS: usize = 256;
    let limits = &settings.limits;
    let links = if matches!(settings.role, Role::Server { .. }) || settings.http.is_some() { limits.connections } else { 1 };
    (links + limits.local_connections + limits.runs * 3 + OTHERS) as u64
}

fn raise_open_files(settings: &Settings) {
    let wanted = open_files_wanted(settings);
    let limit = system::raise_open_files(wanted);
    if limit < wanted {
        info!(limit, wanted, "fewer open files than the limits could need; more with ulimit -Hn, or LimitNOFILE= in a unit");
    }
}
