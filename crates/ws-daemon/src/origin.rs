//! The asking side: a request is put on the way to one peer, and its outcome comes back to whoever asked. Order is kept up to
//! the moment a request is put on the way; from there each is on its own. It never sees a socket.

mod held;

use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;
use ws_daemon_protocol::codec::v2::{Order, Verdict};
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::{CommandMessage, Request};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use crate::link::{Ask, AskBody, Closed, Departure, Sink};
use crate::peers::{Choice, Peers, Pick};
use crate::tasks::{Stop, Tasks};
use held::Held;

/// The asking side of one daemon. Clones are the same.
#[derive(Debug, Clone)]
pub struct Origin {
    peers: Peers,
    /// On a client: the requests that wait for the server.
    held: Option<Held>,
    /// Counts what is in flight.
    requests: Tasks,
    stop: Stop,
}

/// A request that is on its way, or was refused at once.
#[derive(Debug)]
pub struct Submitted {
    settled: oneshot::Receiver<Report>,
    deadline: Option<Deadline>,
}

/// When whoever asked waits no longer, how long that was meant to be, and what keeps the request from leaving after that.
#[derive(Debug)]
struct Deadline {
    limit: Duration,
    at: Instant,
    departure: Departure,
}

impl Origin {
    /// The asking side of a server: with nobody connected, requests are refused.
    #[must_use]
    pub fn of_server(peers: Peers, requests: Tasks, stop: Stop) -> Self {
        Self { peers, held: None, requests, stop }
    }

    /// The asking side of a client: while the server is away, up to `held_bytes` of requests wait for it. The future sends
    /// them on, in order.
    #[must_use]
    pub fn of_client(peers: Peers, requests: Tasks, stop: Stop, held_bytes: usize) -> (Self, impl Future<Output = ()> + use<>) {
        let held = Held::new(held_bytes);
        let sending = held.clone().send_on(peers.clone(), stop.close_links.clone());
        (Self { peers, held: Some(held), requests, stop }, sending)
    }

    /// Puts a request on the way. Waits only while the chosen link has too much to write; requests submitted one after the
    /// other leave in that order.
    pub async fn submit(&self, request: Request) -> Submitted {
        let Request { name, id, params, options } = request;
        self.put(AskBody::Run(name, params, Order::default()), id, options.timeout).await
    }

    /// Puts a command for a peer on the way.
    pub async fn submit_command(&self, message: CommandMessage) -> Submitted {
        self.put(AskBody::Command(message.params), message.id, None).await
    }

    async fn put(&self, body: AskBody, id: Option<CallerId>, timeout: Option<Duration>) -> Submitted {
        let (settle, settled) = oneshot::channel();
        let run = RunId::new(Uuid::now_v7().to_string());
        let departure = Departure::default();
        let ask = Ask { body, id, run, departure: departure.clone(), sink: Sink::Once(settle) };
        let deadline = timeout.map(|limit| Deadline { limit, at: Instant::now() + limit, departure });
        if self.stop.drain.is_cancelled() {
            refuse(ask, ErrorCode::Busy, "the daemon is stopping and takes nothing more");
            return Submitted { settled, deadline };
        }
        let sending = self.send(ask);
        let sent = match &deadline {
            None => sending.await,
            // Over before any link had room: the request is dropped with the attempt, and the outcome finds it withdrawn.
            Some(deadline) => timeout_at(deadline.at, sending).await.unwrap_or(Ok(())),
        };
        if let Err(ask) = sent {
            match &self.held {
                Some(held) => held.keep(ask),
                // Nobody waits any more: then nobody need be told.
                None => drop(ask.sink.settle(nobody(timeout), Verdict::default())),
            }
        }
        Submitted { settled, deadline }
    }

    /// Gives the request to the next peer in turn, or back if there is none, or others wait before it.
    async fn send(&self, mut ask: Ask) -> Result<(), Ask> {
        loop {
            if self.held.as_ref().is_some_and(|held| !held.is_empty()) {
                return Err(ask);
            }
            let Pick::Link(link) = self.peers.pick(&Choice::ANYONE) else { return Err(ask) };
            link.has_room().await;
            match link.ask(ask) {
                Ok(()) => return Ok(()),
                // It died between the choice and now: the next one, since this request has not left.
                Err(Closed(back)) => ask = *back,
            }
        }
    }

    /// Runs the rest of a request's life as a task of its own.
    pub fn deliver(&self, life: impl Future<Output = ()> + Send + 'static) {
        self.requests.spawn(life);
    }
}

impl Submitted {
    /// How the request ended. Whoever drops this future is gone: the outcome is nobody's then.
    pub async fn outcome(self) -> Report {
        let Self { settled, deadline } = self;
        let settled = match deadline {
            None => settled.await,
            Some(deadline) => tokio::select! {
                biased;
                () = sleep_until(deadline.at) => return deadline.overdue(),
                settled = settled => settled,
            },
        };
        // Whoever holds the other end settles it, a stopping daemon too; this is for the day that is not so.
        settled
            .unwrap_or_else(|_| Outcome::failed(ErrorCode::Interrupted, "the daemon lost track of it; it may have run").into())
    }
}

impl Deadline {
    /// The time is over. What has not left never will; of what has, on a seed link, nobody knows and nobody stops the script.
    fn overdue(&self) -> Report {
        let limit = self.limit;
        if self.departure.withdraw() {
            return Outcome::Failed(ErrorCode::Expired, format!("it could not be sent within {limit:?}; it did not run"))
                .into();
        }
        let message = format!("no answer within {limit:?}; the peer cannot be told to stop it, so it may still run");
        Outcome::Failed(ErrorCode::Interrupted, message).into()
    }
}

/// Nobody is connected. Byte for byte the seed's answer for whoever asked in the seed's grammar; in words for whoever used more.
fn nobody(timeout: Option<Duration>) -> Report {
    match timeout {
        None => Report::SEED_NOBODY,
        Some(_) => {
            Outcome::failed(ErrorCode::NoPeer, "nobody is connected; start a client with this server as its proxy").into()
        }
    }
}

fn refuse(ask: Ask, code: ErrorCode, message: &str) {
    ask.sink.fail(Outcome::failed(code, message));
}
