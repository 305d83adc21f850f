//! Keeps one link to the server up: dials, has the link's life, waits with full jitter, dials again, for ever. A pause closes the
//! link for a while. It never gives up, and never holds requests.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Peers;
use crate::config::{ServerUrl, Times};
use crate::link::{Backoff, dial};

/// A link that lasted this long ends a series of failures: the next wait is short again.
const LASTING: Duration = Duration::from_secs(10);

/// Gives orders to a [`Dialer`].
#[derive(Debug, Clone)]
pub struct DialerHandle(watch::Sender<Option<Instant>>);

impl DialerHandle {
    /// Closes the link for so long; a later pause replaces an earlier one.
    pub fn pause(&self, pause: Duration) {
        self.0.send_replace(Some(Instant::now() + pause));
    }
}

/// The task that dials.
#[derive(Debug)]
pub struct Dialer {
    peers: Peers,
    server: ServerUrl,
    times: Times,
    pause: watch::Receiver<Option<Instant>>,
    stop: CancellationToken,
}

impl Dialer {
    /// A dialer for `server` that dials no more once `stop` is cancelled.
    #[must_use]
    pub fn new(peers: Peers, server: ServerUrl, times: Times, stop: CancellationToken) -> (DialerHandle, Self) {
        let (orders, pause) = watch::channel(None);
        (DialerHandle(orders), Self { peers, server, times, pause, stop })
    }

    /// Dials until told to stop.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        let mut backoff = Backoff::new(self.times.backoff_min, self.times.backoff_max);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.pause_over() => {}
            }
            let since = Instant::now();
            if !self.link_once().await {
                continue;
            }
            if since.elapsed() >= LASTING {
                backoff.reset();
            }
            if stop.is_cancelled() {
                return;
            }
            let wait = backoff.next(fastrand::f64());
            info!(?wait, server = %self.server, "dialling again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
                // A pause replaces the wait, also one of no time at all: that is how to say "now".
                _ = self.pause.changed() => backoff.reset(),
            }
        }
    }

    /// Ends when no pause is on.
    async fn pause_over(&mut self) {
        loop {
            let until = *self.pause.borrow_and_update();
            let Some(until) = until.filter(|until| *until > Instant::now()) else { return };
            tokio::select! {
                () = sleep_until(until) => return,
                _ = self.pause.changed() => {}
            }
        }
    }

    /// One dial and the life of its link. `false` if it ended for a pause.
    async fn link_once(&mut self) -> bool {
        let message = self.peers.terms().message;
        let dialled = tokio::select! {
            dialled = dial(&self.server, self.times.handshake, message) => dialled,
            () = self.stop.cancelled() => return true,
            _ = self.pause.changed() => return false,
        };
        let wire = match dialled {
            Ok(wire) => wire,
            Err(error) => {
                warn!(server = %self.server, %error, "no link");
                return true;
            }
        };
        let closing = CancellationToken::new();
        let life = self.peers.host(wire, self.server.authority(), closing.clone());
        let mut life = std::pin::pin!(life);
        tokio::select! {
            _ = &mut life => true,
            _ = self.pause.changed() => {
                info!("the link is closed for a pause");
                closing.cancel();
                life.await;
                false
            }
        }
    }
}
