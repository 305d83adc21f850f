//! Requests of a client whose server is away. They wait in memory, in order, within a bound of bytes, and leave when the link is
//! back, also if their caller hung up; they end with the daemon.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;
use ws_daemon_protocol::outcome::ErrorCode;

use super::refuse;
use super::waiter::Leave;
use crate::link::{Ask, Closed};
use crate::peers::{Choice, Peers, Pick};

/// The waiting requests. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Mutex<Queue>,
    /// Something was put into the empty queue.
    filled: Notify,
    limit_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    asks: VecDeque<Waiting>,
    /// What they cost, with the one that is being put on its way.
    bytes: usize,
    /// One request has been taken out and is not yet on its way: until it is, nothing may overtake it.
    sending: bool,
    /// The daemon is stopping; nothing will leave any more.
    closed: bool,
}

/// A request that waits, and who is told when it leaves.
#[derive(Debug)]
struct Waiting {
    ask: Ask,
    leave: Leave,
}

impl Held {
    /// An empty queue for `limit_bytes` of requests; when full, more are refused.
    pub fn new(limit_bytes: usize) -> Self {
        Self(Arc::new(Inner { queue: Mutex::default(), filled: Notify::new(), limit_bytes }))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every section leaves the queue whole.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing waits here, nor is just leaving.
    pub fn is_empty(&self) -> bool {
        let queue = self.queue();
        queue.asks.is_empty() && !queue.sending
    }

    /// Keeps a request, or refuses it.
    pub fn keep(&self, ask: Ask, leave: Leave) {
        let cost = ask.cost_bytes();
        let mut queue = self.queue();
        if queue.closed {
            drop(queue);
            return refuse(ask, ErrorCode::NoPeer, "the daemon is stopping and the server was not there");
        }
        if queue.bytes + cost > self.0.limit_bytes {
            drop(queue);
            return refuse(ask, ErrorCode::QueueFull, "the server is away and what waits for it has no room for more");
        }
        queue.bytes += cost;
        queue.asks.push_back(Waiting { ask, leave });
        drop(queue);
        self.0.filled.notify_one();
    }

    /// Sends on what waits, in order, whenever the server is there, until `stop`; what is left then is refused.
    pub async fn send_on(self, peers: Peers, stop: CancellationToken) {
        tokio::select! {
            () = self.send_for_ever(&peers) => {}
            () = stop.cancelled() => {}
        }
        let left = {
            let mut queue = self.queue();
            queue.closed = true;
            std::mem::take(&mut queue.asks)
        };
        for Waiting { ask, .. } in left {
            refuse(ask, ErrorCode::NoPeer, "the daemon was stopped before the server was back; it did not run");
        }
    }

    async fn send_for_ever(&self, peers: &Peers) {
        loop {
            let Some(waiting) = self.first() else {
                self.0.filled.notified().await;
                continue;
            };
            let mut leaving = Leaving { held: self, cost: waiting.ask.cost_bytes(), waiting: Some(waiting) };
            loop {
                peers.somebody().await;
                let Pick::Link(link) = peers.pick(&Choice::ANYONE) else { continue };
                link.has_room().await;
                if link.is_draining() {
                    continue;
                }
                let Some(Waiting { ask, leave }) = leaving.waiting.take() else { break };
                match link.ask(ask) {
                    Ok(()) => {
                        leave.by(&link);
                        break;
                    }
                    Err(Closed(back)) => leaving.waiting = Some(Waiting { ask: *back, leave }),
                }
            }
        }
    }

    fn first(&self) -> Option<Waiting> {
        let mut queue = self.queue();
        let waiting = queue.asks.pop_front()?;
        queue.sending = true;
        Some(waiting)
    }
}

/// A request between the queue and a link. Dropped before it left, it goes back to the front.
struct Leaving<'a> {
    held: &'a Held,
    waiting: Option<Waiting>,
    cost: usize,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut queue = self.held.queue();
        queue.sending = false;
        match self.waiting.take() {
            Some(waiting) => queue.asks.push_front(waiting),
            None => {
                queue.bytes -= self.cost;
                if queue.asks.is_empty() {
                    info!("what waited for the server has been sent");
                }
            }
        }
    }
}
