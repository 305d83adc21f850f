//! Who this daemon is: its instance and its epochs, from its spool if it has one, else for this life of it; and who it knows. It
//! never decides what that is good for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rustix::process::geteuid;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;
use ws_daemon_protocol::codec::v2::Hello;

use crate::config::{InUse, Role, Settings};
use crate::control::ROOTS;
use crate::peers::{EpochSource, PeerChange, PeerRecord, Peers};
use crate::policy::Rules;
use crate::spool::{self, Bounds, Durability, Spool, SpoolError, SpoolFault};

/// The wait before a spool that failed to raise the epoch is asked again: without a new epoch there is no link.
const AGAIN: Duration = Duration::from_secs(1);

/// The feature of a daemon that passes runs on.
const RELAY: &str = "relay";

/// What is to be remembered of peers, before it is on disk; when full, whoever tells drops it, and the peer is told of again the
/// next time that it comes or goes.
const CHANGES: usize = 4096;

/// Of these, so many are brought to disk together: when a server is back, all of its clients come at once. The rest waits.
const AT_ONCE: usize = 64;

/// Where the spool is.
pub fn spool_path(settings: &Settings) -> PathBuf {
    let (mode, port) = match &settings.role {
        Role::Server { listen, .. } => ("server", listen.port()),
        Role::Client { servers } => ("client", servers.first.port),
    };
    settings.prefix.join(format!("spool-{mode}-{port}.db"))
}

/// Opens the spool of this daemon, which is named after the port that was configured: one for port 0 outlives the port that the
/// system gave, and a daemon that is told another port begins another spool. `None`, with a warning, if another daemon has it, or
/// the disk does not let it: then nothing can be queued.
///
/// # Errors
/// When a later version of this program has written it: to go on without would be to forget what it holds.
pub fn open_spool(settings: &Settings) -> Result<Option<Spool>, SpoolFault> {
    match try_spool(settings) {
        Ok(spool) => Ok(Some(spool)),
        Err(fault @ SpoolFault::Newer { .. }) => Err(fault),
        Err(error) => {
            warn!(%error, "the daemon runs without a spool: requests with \"queue\" are refused");
            Ok(None)
        }
    }
}

/// Opens the spool of this daemon, or says why not.
///
/// # Errors
/// Another daemon has it, a later version has written it, or the disk does not let it.
pub fn try_spool(settings: &Settings) -> Result<Spool, SpoolFault> {
    let path = spool_path(settings);
    let limits = &settings.limits;
    let bounds = Bounds { bytes: limits.spool_bytes as u64, runs: limits.spool_runs as u64, ..Bounds::default() };
    let opened = Spool::open(&path, bounds, Durability::Full)?;
    if let Some(aside) = opened.set_aside {
        error!(path = %aside.display(), "the spool was damaged and is set aside; what it held is lost to this daemon");
    }
    info!(path = %path.display(), instance = %opened.spool.identity().instance, "spool ready");
    Ok(opened.spool)
}

/// Who may ask this daemon for what.
pub fn rules(settings: &Settings) -> Rules {
    let rules = Rules::new(Vec::new(), false, geteuid().as_raw());
    rules.replace(settings.rules.clone(), settings.relay, settings.serve.clone());
    rules
}

/// What this daemon says of itself.
pub async fn who_i_am(settings: &Settings, spool: Option<&Spool>) -> Hello {
    let (instance, epoch, former) = match spool {
        None => (Uuid::new_v4().to_string(), 1, Vec::new()),
        Some(spool) => {
            let epoch = match &settings.role {
                Role::Server { .. } => raise(spool).await,
                // Raised at each dial.
                Role::Client { .. } => spool.identity().epoch,
            };
            let identity = spool.identity();
            (identity.instance.into(), epoch, identity.former.into_iter().map(Into::into).collect())
        }
    };
    let mut features = vec!["output".to_owned(), "events".to_owned()];
    if spool.is_some() {
        features.push("queue".into());
    }
    if matches!(settings.role, Role::Client { .. }) {
        features.push(ROOTS.into());
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (name, tags) = (String::new(), Vec::new());
    let mut me = Hello { name, configured: false, instance, epoch, version, tags, capacity: 0, features, former };
    be_called(&mut me, settings);
    me
}

/// What the settings alone have this daemon say of itself.
pub fn be_called(me: &mut Hello, settings: &Settings) {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    me.name = settings.name.clone().unwrap_or_else(host);
    me.configured = settings.name.is_some();
    me.tags.clone_from(&settings.tags);
    me.capacity = settings.limits.runs as u64;
    me.features.retain(|feature| feature != RELAY);
    if rules(settings).relays_for_anyone() {
        me.features.push(RELAY.into());
    }
}

/// After each damage to the running spool this daemon is another, and everyone it is linked with is to hear so. `damaged` is from
/// before it was first asked who this is.
pub async fn keep_true(
    settings: InUse<Settings>,
    spool: Spool,
    mut damaged: watch::Receiver<Option<PathBuf>>,
    peers: Peers,
    close: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = close.cancelled() => return,
            changed = damaged.changed() => if changed.is_err() { return },
        }
        let me = tokio::select! {
            me = async { who_i_am(&settings.now(), Some(&spool)).await } => me,
            () = close.cancelled() => return,
        };
        info!(instance = me.instance, "the spool is a new one, and so is this daemon's instance: links are made anew");
        peers.become_another(me);
    }
}

/// A new epoch for each dial, on disk before it is used.
pub fn epochs(spool: Option<Spool>) -> EpochSource {
    let last = Arc::new(AtomicU64::new(0));
    EpochSource::new(move || match spool.clone() {
        None => std::future::ready(last.fetch_add(1, Ordering::Relaxed) + 1).boxed(),
        Some(spool) => async move { raise(&spool).await }.boxed(),
    })
}

async fn raise(spool: &Spool) -> u64 {
    loop {
        match spool.raise_epoch().await {
            Ok(epoch) => return epoch,
            Err(error) => {
                warn!(%error, "the spool did not take a new epoch; tried again in a while");
                sleep(AGAIN).await;
            }
        }
    }
}

/// The peers that the spool knows.
pub async fn known_peers(spool: Option<&Spool>) -> Vec<PeerRecord> {
    let Some(spool) = spool else { return Vec::new() };
    match spool.peers().await {
        Ok(records) => records.into_iter().map(from_spool).collect(),
        Err(error) => {
            warn!(%error, "the peers that were here cannot be read");
            Vec::new()
        }
    }
}

/// Where changes of the table of peers are told, and the task that takes them to disk.
pub fn remember(
    spool: Option<Spool>,
    close: CancellationToken,
) -> (impl Fn(PeerChange) + Send + Sync + 'static, impl Future<Output = ()>) {
    let (tell, mut told) = mpsc::channel::<PeerChange>(CHANGES);
    let keep = async move {
        let mut changes = Vec::new();
        loop {
            tokio::select! {
                biased;
                told = told.recv_many(&mut changes, AT_ONCE) => if told == 0 { return },
                () = close.cancelled() => return,
            }
            // Of each only what was told last counts.
            let mut last = HashMap::new();
            for change in changes.drain(..) {
                last.insert(change.instance().to_owned(), change);
            }
            let Some(spool) = &spool else { continue };
            for kept in join_all(last.into_values().map(|change| keep_one(spool, change))).await {
                if let Err(error) = kept {
                    warn!(%error, "a peer that came or went was not remembered");
                }
            }
        }
    };
    // Full: it is told again the next time.
    (move |change| drop(tell.try_send(change)), keep)
}

async fn keep_one(spool: &Spool, change: PeerChange) -> Result<(), SpoolError> {
    match change {
        PeerChange::Seen(record) => spool.peer_seen(to_spool(record)).await,
        PeerChange::Forgotten(instance) => spool.forget_peer(&instance).await,
    }
}

fn from_spool(record: spool::PeerRecord) -> PeerRecord {
    PeerRecord {
        instance: record.instance.into(),
        name: record.name.into(),
        tags: record.tags.into_iter().map(Into::into).collect(),
        epoch: record.epoch,
        version: record.version.into(),
        capacity: record.capacity,
        address: record.address.into(),
        last_seen_ms: u64::try_from(record.last_seen).unwrap_or(0),
    }
}

fn to_spool(record: PeerRecord) -> spool::PeerRecord {
    spool::PeerRecord {
        instance: record.instance.into(),
        name: record.name.into(),
        configured: false,
        tags: record.tags.into_iter().map(Into::into).collect(),
        epoch: record.epoch,
        version: record.version.into(),
        capacity: record.capacity,
        address: record.address.into(),
        last_seen: i64::try_from(record.last_seen_ms).unwrap_or(i64::MAX),
    }
}
