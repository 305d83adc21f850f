//! The composition root: builds every part, binds what it listens on, wires the parts together, runs them and stops them in
//! order. The only file that knows them all; it does none of their work.

mod encryption;
mod ending;
mod handover;
pub mod identity;
mod inherited;
mod listening;
mod reload;
mod service_manager;
mod signals;
pub mod trusted;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, Api, Hosts};
use crate::audit::{Audit, AuditFault};
use crate::callers::{BrokenCallers, Callers};
use crate::config::{InUse, Open, Role, Row, Settings};
use crate::control::{Control, Means, Orders};
use crate::exec::{Executor, Surroundings, Writers};
use crate::http::{Door, Http};
use crate::levels::Levels;
use crate::link::{Inbound, Terms};
use crate::local::{Lobby, Local, Parked, SocketFault, SocketFile};
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
use handover::Note;
pub use handover::{Handover, Program};
use inherited::Inherited;
use listening::{Bound, Kept, Port};
pub use reload::Reading;
use reload::{Parts, Reloader};
use signals::{Signals, Told};

/// Requests and commands from links, between being read and being sorted; when full, links are not read, and take turns. It is for
/// what is read in one turn: whatever one link has here, the others' wait behind.
const INBOUND: usize = 16;

/// Statuses that nobody waits for, before they are passed on; when full, they are dropped.
const UNCLAIMED: usize = 1024;

/// Where a server keeps who its peers are, in its prefix.
pub const REGISTER: &str = "keys/peers.json";

/// Where it is kept who may ask over HTTP, in the prefix.
const CALLERS: &str = "keys/callers.json";

/// What is left of the audit log is written for so long; then the daemon ends, and says that it was not.
const LAST_LINES: Duration = Duration::from_secs(1);

/// By then links are up that a start brings about, and nothing more of it is to come.
const SETTLED: Duration = Duration::from_secs(5);

/// So many newcomers are a burst: what of the program they needed is given back as soon as it is over, and that of fewer when none has come
/// for long.
const BURST: u64 = 64;

/// For so long nobody has come when a burst is over, and when a few have come.
const ALL_ARE_IN: Duration = Duration::from_millis(250);
const FEW_ARE_IN: Duration = Duration::from_mins(1);

/// The names in the daemon's environment that scripts do not get: what may hold a token, what speaks for the daemon to its
/// service manager, and what says something of a run, which would be another daemon's.
const OWN_VARIABLES: [&str; 18] = [
    "WSDAEMON_PROXY",
    "WSDAEMON_TOKEN",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "FDSTORE",
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
    rows: Vec<Row>,
    reading: Reading,
    program: Program,
    note: Note,
    connections: Vec<Parked>,
    levels: Levels,
    stop: Stop,
    counts: Counts,
    bound: Bound,
    encryption: Encryption,
    signals: Signals,
}

/// The task counts that a stop waits for, each in its turn.
#[derive(Debug, Clone, Default)]
struct Counts {
    runs: Tasks,
    /// Copies of scripts, which live on when they have nothing to do.
    copies: Tasks,
    requests: Tasks,
    links: Tasks,
    connections: Tasks,
    /// The lives of queued runs, which a stop only interrupts.
    lives: Tasks,
    rest: Tasks,
}

impl Daemon {
    /// Binds everything, or nothing. `rows` show the settings; they are read again by `reading`. `program` is what a new life begins
    /// with, `levels` what is logged.
    ///
    /// # Errors
    /// What could not be had, and what to do about it.
    pub fn bind(
        settings: Settings,
        rows: Vec<Row>,
        reading: Reading,
        program: Program,
        levels: Levels,
    ) -> Result<Self, StartFault> {
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
        let signals = Signals::new().map_err(StartFault::Signals)?;
        let encryption = Encryption::of(&settings)?;
        let Inherited { tcp: given, socket, note, connections } = Inherited::take(matches!(settings.role, Role::Server { .. }));
        let register = match settings.role {
            Role::Server { .. } => Register::open(&prefix.join(REGISTER))?,
            Role::Client { .. } => Register::default(),
        };
        let callers = Callers::open(&prefix.join(CALLERS))?;
        let bound = Bound::bind(&settings, given, &note)?;
        let socket = match socket {
            Some(given) => SocketFile::given(given, note.own_socket, settings.socket_group.as_deref())?,
            None => SocketFile::bind(prefix, settings.socket_group.as_deref())?,
        };
        let audit = match &settings.audit {
            Some(file) => Audit::open(&file.path, file.params)?,
            None => Audit::off(),
        };
        let spool = identity::open_spool(&settings).map_err(StartFault::Spool)?;
        let (stop, counts) = (Stop::default(), Counts::default());
        let executor = surroundings(&settings, &socket)
            .and_then(|around| {
                Executor::new(around, &settings.limits, counts.rest.clone(), counts.copies.clone(), stop.clone())
            })
            .map_err(StartFault::Executor)?;
        Ok(Self {
            settings,
            socket,
            executor,
            spool,
            audit,
            register,
            callers,
            rows,
            reading,
            program,
            note,
            connections,
            levels,
            stop,
            counts,
            bound,
            encryption,
            signals,
        })
    }

    /// Runs until a signal says stop, and returns when everything has been settled; with what its next life is to have, if it is told to
    /// begin one.
    pub async fn run(self) -> Option<Handover> {
        let Self {
            settings,
            socket,
            executor,
            spool,
            register,
            callers,
            audit,
            rows,
            reading,
            program,
            note,
            connections,
            levels,
            stop,
            counts,
            bound,
            encryption,
            mut signals,
        } = self;
        let kept = Kept::of(&bound, &socket);
        let Bound { port, http, local: local_tcp, .. } = bound;
        let in_use = InUse::new(settings.clone());
        let (inbound, inbound_receiver) = mpsc::channel::<Inbound>(INBOUND);
        let handed_up = inbound.clone();
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
        peers.await_back(&note.peers);
        if let (Some(spool), Some(damaged)) = (spool.clone(), damaged) {
            let (settings, close) = (in_use.clone(), stop.close_links.clone());
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
        let reached = port.as_ref().and_then(|port| port.listener.local_addr().ok());
        let (tls, client_tls) = (encryption.server().cloned(), encryption.client().cloned());
        let dialer = start_dialer(&settings, &encryption, &peers, spool.clone(), &counts, &stop);
        let peer_runs = InUse::new(settings.limits.peer_runs);
        let ((reload, orders), (restart, mut restarts)) = (Orders::new(), Orders::new());
        let control = Control::new(Means {
            dialer: dialer.clone(),
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
            peer_runs: peer_runs.clone(),
            reload: reload.clone(),
            restart,
            levels: levels.clone(),
            rest: counts.rest.clone(),
            since: Instant::now(),
        });
        let parts = api::Parts {
            control: control.clone(),
            origin: origin.clone(),
            callers,
            hosts: Hosts::new(&settings, tls),
            audit: audit.clone(),
            counters: peers.counters().clone(),
        };
        let api = Api::new(parts, &settings.limits, &settings.times, stop.clone());
        let http = open_ports(&settings, (port, http), &encryption, &peers, (&audit, &api), &counts, &stop);
        let lobby = Lobby::default();
        let local = Local::new(
            origin,
            control.clone(),
            lobby.clone(),
            api.clone(),
            &settings.limits,
            counts.connections.clone(),
            stop.clone(),
        );

        let parts = Parts {
            peers: peers.clone(),
            executor: executor.clone(),
            local: local.clone(),
            http,
            api,
            dialer,
            encryption,
            peer_runs,
            rules,
            audit: audit.clone(),
            levels: levels.clone(),
        };
        let reloader = Reloader::new(reading, in_use.clone(), rows, parts);
        counts.rest.spawn(reloader.run(orders, stop.drain.clone()));
        counts.rest.spawn(control.sort(inbound_receiver, unclaimed, stop.close_local.clone()));
        counts.rest.spawn(lobby.pass_on(unclaimed_receiver));
        counts.rest.spawn(levels.keep(stop.close_local.clone()));
        if let Some(Port { listener, .. }) = local_tcp {
            counts.connections.spawn(local.clone().accept_tcp(listener));
        }
        for parked in connections {
            if let Err(error) = local.go_on(parked) {
                warn!(%error, "a connection of the last life of the daemon could not be gone on with");
            }
        }
        info!(path = %socket.path().display(), "local socket ready");
        counts.connections.spawn(local.clone().accept_socket(socket));
        counts.rest.spawn(service_manager::feed_watchdog(executor, stop.close_local.clone()));
        service_manager::ready();
        counts.rest.spawn(forget_what_is_over(peers.clone(), stop.close_local.clone()));
        let told = ending::told(&mut signals, &reload, &mut restarts, &program).await;
        let store = service_manager::room_to_store();
        let mut goes_on = told == Told::Restart || (told == Told::Stop && store > 0);
        if told == Told::Restart {
            service_manager::reloading();
        } else {
            service_manager::stopping();
        }
        goes_on = goes_on && (told != Told::Restart || ending::all_back(&stop, &mut signals).await);
        let (begun, grace) = (Instant::now(), in_use.now().times.grace);
        peers.drain(goes_on);
        let mut wanted_back: BTreeSet<String> = peers.here_or_returning().into_iter().collect();
        if goes_on {
            stop.park.cancel();
            goes_on = ending::quiet(&peers, &handed_up, &counts, &stop, begun + grace / 2, &mut signals).await;
            wanted_back.extend(peers.here_or_returning());
        }
        let note = Note::new(&kept, told == Told::Stop, wanted_back.into_iter().collect());
        let kept = goes_on.then_some(kept);
        stop.refuse.cancel();
        if told == Told::Drain {
            ending::drained(&peers, &handed_up, &stop, &counts, &mut signals).await;
        }
        let begun = if told == Told::Drain { Instant::now() } else { begun };
        ending::shut_down(&stop, &counts, (begun, grace), &mut signals).await;
        if let Some(spool) = spool {
            spool.close().await;
        }
        audit.close(LAST_LINES).await;
        let kept = kept.filter(|_| signals.stop().now_or_never().is_none())?;
        let most = if told == Told::Restart { usize::MAX } else { store };
        match Handover::new(kept.listening, local.parked(), note, most) {
            Ok(handover) if told == Told::Restart => return Some(handover),
            Ok(handover) => handover.store(),
            Err(error) => warn!(%error, "what is open could not be passed on"),
        }
        None
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
    (port, http): (Option<Port>, Option<Port>),
    encryption: &Encryption,
    peers: &Peers,
    (audit, api): (&Audit, &Api),
    counts: &Counts,
    stop: &Stop,
) -> Http {
    let tls = encryption.server().cloned();
    if let Some(tls) = tls.clone() {
        counts.rest.spawn(tls.keep_fresh(stop.close_local.clone()));
    }
    let door = Door { open: InUse::new(open(settings)), tls, audit: audit.clone(), api: Some(api.clone()) };
    let (limits, links) = (&settings.limits, counts.links.clone());
    let edge = Http::new(peers.clone(), door, settings.times.handshake, limits, links, stop.clone());
    if let Some(port) = port {
        let is_kept = port.is_kept();
        counts.links.spawn(edge.clone().accept(port.listener, is_kept));
    }
    if let Some(http) = http {
        let is_kept = http.is_kept();
        counts.links.spawn(edge.clone().without_links().accept(http.listener, is_kept));
    }
    edge
}

/// Who may come without proof.
fn open(settings: &Settings) -> Open {
    match &settings.role {
        Role::Server { open, .. } => open.clone(),
        Role::Client { .. } => Open::Nobody,
    }
}

fn surroundings(settings: &Settings, socket: &SocketFile) -> io::Result<Surroundings> {
    let own = |name: &std::ffi::OsString| OWN_VARIABLES.iter().any(|own| name == own);
    let around = Surroundings::new(&settings.prefix, socket.path(), std::env::vars_os().filter(|(name, _)| !own(name)))?;
    Ok(around.with_writers(if settings.any_writer.0 { Writers::Anyone } else { Writers::Trusted }))
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

/// Gives back what only the start has needed: what this one did, and when it has settled, what its links did; from then on what came of
/// the program for newcomers, when they are all in. It wakes up for nobody but them.
async fn forget_what_is_over(peers: Peers, stop: CancellationToken) {
    system::forget_the_start();
    let mut came = peers.arrivals(None);
    let forget = async {
        sleep(SETTLED).await;
        system::forget_the_start();
        let mut known = *came.borrow_and_update();
        while came.changed().await.is_ok() {
            loop {
                let now = *came.borrow_and_update();
                if now.wrapping_sub(known) >= BURST {
                    sleep(ALL_ARE_IN).await;
                    if !came.has_changed().unwrap_or_default() {
                        known = now;
                        break;
                    }
                } else if timeout(FEW_ARE_IN, came.changed()).await.is_err() {
                    known = now;
                    break;
                }
            }
            system::forget_the_start();
        }
    };
    tokio::select! {
        () = forget => {}
        () = stop.cancelled() => {}
    }
}
