//! What the service manager is told (sd_notify(3)): ready, reading its settings again, stopping, what it is to keep, and that the daemon is alive, which it is only while the
//! executor answers. Where there is no service manager, nothing is told.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::exec::Executor;

/// Everything is bound and wired.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The settings are being read again; [`ready`] says that it is over.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the service manager was not told of a reload"),
    }
}

/// How many descriptors the service manager keeps for the next life of the daemon, if it restarts it (`FileDescriptorStoreMax=`).
pub fn room_to_store() -> usize {
    let is_there = std::env::var_os("NOTIFY_SOCKET").is_some();
    let most = std::env::var("FDSTORE").ok().filter(|_| is_there);
    most.and_then(|most| most.parse().ok()).unwrap_or_default()
}

/// Has the service manager keep a descriptor for the next life of the daemon.
pub fn store(name: &str, descriptor: &OwnedFd) -> io::Result<()> {
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[descriptor.as_fd()])
}

/// The descriptor is taken, and need not be kept any more.
pub fn taken(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// The daemon was told to stop.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog at half its interval, if there is one, as long as the executor answers within half of that.
pub async fn feed_watchdog(executor: Executor, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut tick = interval((limit / 2).max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        match timeout(limit / 4, executor.answers()).await {
            Ok(true) => tell(&[NotifyState::Watchdog]),
            _ => warn!("the executor does not answer; the watchdog is not fed"),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}
