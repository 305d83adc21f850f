//! The asking side: a request is put on the way to one peer, and its outcome comes back to whoever asked. Order is kept up to
//! the moment a request is put on the way; from there each is on its own. It never sees a socket.

mod aftermath;
mod direct;
mod ends;
mod follow;
mod handover;
mod held;
mod ledger;
mod order;
mod queued;
mod records;
mod waiter;
mod waiting_room;
mod whom;

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};
use uuid::Uuid;
use ws_daemon_protocol::codec::v2::Order;
use ws_daemon_protocol::command::{Topic, Which};
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::{CommandMessage, Request};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};
use ws_daemon_protocol::target::Target;

use crate::exec::Executor;
use crate::link::{Ask, AskBody, Closed, Departure, Direct, Link, Sink};
use crate::news::News;
use crate::peers::{Choice, Peers, Pick};
use crate::spool::{RunState, Spool, SpoolError};
use crate::tasks::{Stop, Tasks};
use held::Held;
use ledger::{Ledger, Live, Seat};
use waiter::{Deadline, Leave, Waiter};
use waiting_room::WaitingRoom;

pub use ends::Ends;
pub use follow::Follow;
pub use handover::Awaited;
pub use order::{Keeping, tells_the_end_only};
pub use waiter::Answer;
pub use whom::RELAYED;

/// The asking side of one daemon. Clones are the same.
#[derive(Debug, Clone)]
pub struct Origin(Arc<Inner>);

/// What the asking side works with.
#[derive(Debug)]
pub struct Means {
    /// Who is there.
    pub peers: Peers,
    /// What is kept; without it, nothing is queued.
    pub spool: Option<Spool>,
    /// Runs the scripts that get outcomes.
    pub executor: Executor,
    /// Where it is told what happens.
    pub news: News,
    /// Counts the requests that somebody waits for.
    pub requests: Tasks,
    /// Counts the lives of queued runs, which nobody waits for.
    pub lives: Tasks,
    /// When to stop.
    pub stop: Stop,
}

#[derive(Debug)]
struct Inner {
    means: Means,
    /// On a client: the requests that wait for the server.
    held: Option<Held>,
    ledger: Ledger,
    waiting_room: WaitingRoom,
    /// One permit for each byte of the direct requests with options that wait for a client's server; none left: `queue_full`.
    waiting: Semaphore,
    /// One permit for each queued run whose params are on their way from the spool to a link.
    reading: Arc<Semaphore>,
    /// Instances whose spools are known to be lost; as many as peers have told.
    lost: Mutex<HashSet<Box<str>>>,
}

/// A request that could not be put on the way at once.
#[derive(Debug)]
pub struct Unsent {
    ask: Box<Ask>,
    /// The peer whose turn it is, if there is one.
    first: Option<Link>,
    leave: Leave,
    deadline: Option<Deadline>,
}

/// What whoever asked is told.
#[derive(Debug, Clone)]
pub enum Said {
    /// How far it is.
    Event(Event),
    /// How a run ended.
    Final(Report),
    /// The next life of this daemon has the rest to tell.
    Later(Awaited),
}

/// Queued runs whose params are read from the spool at once; the next one waits.
const READING: usize = 16;

/// Instances that are remembered as lost, beside those that the register says are gone; beyond it they are forgotten, and what is bound to them waits for its ttl.
const LOST: usize = 65_536;

impl Origin {
    /// The asking side of a server: with nobody connected, requests are refused.
    #[must_use]
    pub fn of_server(means: Means) -> Self {
        Self::new(means, None, 0)
    }

    /// The asking side of a client: while the server is away, up to `held_bytes` of requests wait for it. The future sends
    /// them on, in order.
    #[must_use]
    pub fn of_client(means: Means, held_bytes: usize) -> (Self, impl Future<Output = ()> + use<>) {
        let held = Held::new(held_bytes);
        let sending = held.clone().send_on(means.peers.clone(), means.stop.close_links.clone());
        (Self::new(means, Some(held), held_bytes), sending)
    }

    fn new(means: Means, held: Option<Held>, held_bytes: usize) -> Self {
        let waiting = Semaphore::new(held_bytes.min(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner {
            means,
            held,
            ledger: Ledger::default(),
            waiting_room: WaitingRoom::default(),
            waiting,
            reading: Arc::new(Semaphore::new(READING)),
            lost: Mutex::default(),
        }))
    }

    fn peers(&self) -> &Peers {
        &self.0.means.peers
    }

    fn spool(&self) -> Option<&Spool> {
        self.0.means.spool.as_ref()
    }

    fn executor(&self) -> &Executor {
        &self.0.means.executor
    }

    fn news(&self) -> &News {
        &self.0.means.news
    }

    /// Who counts the requests that somebody waits for.
    pub fn requests(&self) -> &Tasks {
        &self.0.means.requests
    }

    fn lives(&self) -> &Tasks {
        &self.0.means.lives
    }

    fn stop(&self) -> &Stop {
        &self.0.means.stop
    }

    /// A place among those that read params from the spool; nobody closes it, so there is one in the end.
    async fn reading(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.reading).acquire_owned().await.ok()
    }

    fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    fn waiting_room(&self) -> &WaitingRoom {
        &self.0.waiting_room
    }

    fn is_client(&self) -> bool {
        self.0.held.is_some()
    }

    /// Puts a request of `user` without options on the way; how it ended is written to `answer`. Given back if that takes waiting.
    #[must_use]
    pub fn submit(&self, request: Request, user: &str, answer: impl Answer) -> Option<Unsent> {
        let Request { name, id, params, options } = request;
        let run = new_run();
        let seat = self.ledger().enter(run.clone(), &name, user, id.clone(), false);
        let timeout_ms = options.timeout.map(whom::whole_ms);
        let order = Order { caller: id.clone(), timeout_ms, ..Order::default() };
        self.put(AskBody::Run(name, params, order), run, id, options.timeout, Some(seat), answer)
    }

    /// Puts a command for a peer on the way; what came of it is written to `answer`. Given back if that takes waiting.
    #[must_use]
    pub fn submit_command(&self, message: CommandMessage, answer: impl Answer) -> Option<Unsent> {
        self.put(AskBody::Command(message.params), new_run(), message.id, None, None, answer)
    }

    fn put(
        &self,
        body: AskBody,
        run: RunId,
        id: Option<CallerId>,
        timeout: Option<Duration>,
        seat: Option<Seat>,
        answer: impl Answer,
    ) -> Option<Unsent> {
        let deadline = timeout.map(|limit| Deadline { limit, at: Instant::now() + limit });
        let departure = Departure::default();
        let live = seat.as_ref().map(|seat| Arc::clone(seat.live()));
        let (waiter, timer) = Waiter::new(answer, seat, departure.clone(), deadline, self.news().clone());
        let leave = Leave::of(&waiter);
        if let Some(live) = live {
            live.is_awaited_by(leave.clone());
        }
        if let Some(timer) = timer {
            let (in_time, stopping) = (Waiter::keep_time(&waiter, timer), self.stop().close_links.clone());
            self.lives().spawn(async move {
                tokio::select! {
                    () = in_time => {}
                    // Then all is settled.
                    () = stopping.cancelled() => {}
                }
            });
        }
        let ask = Ask { body, id, run, departure, sink: Sink::Direct(Direct(waiter)) };
        if self.stop().refuse.is_cancelled() {
            refuse(ask, ErrorCode::Busy, "the daemon is stopping and takes nothing more");
            return None;
        }
        match self.send_now(ask) {
            Ok(link) => {
                leave.by(&link);
                None
            }
            Err((ask, first)) => Some(Unsent { ask, first, leave, deadline }),
        }
    }

    /// Puts on the way what could not be at once. Waits only while the chosen link has too much to write, or for whoever comes back;
    /// requests submitted one after the other leave in that order.
    pub async fn send_on(&self, unsent: Unsent) {
        let Unsent { ask, first, leave, deadline } = unsent;
        let sending = self.send(*ask, first);
        let sent = match deadline {
            None => sending.await,
            // Over before any link had room: the request is dropped with the attempt, and whoever waits is told that.
            Some(deadline) => match timeout_at(deadline.at, sending).await {
                Ok(sent) => sent,
                Err(_) => return,
            },
        };
        match (sent, &self.0.held) {
            (Ok(link), _) => leave.by(&link),
            (Err(ask), Some(held)) => held.keep(ask, leave),
            // Nobody waits any more: then nobody need be told.
            (Err(ask), None) => {
                drop(ask.sink.settle(nobody(deadline), ws_daemon_protocol::codec::v2::Verdict::default()));
            }
        }
    }

    /// Gives the request to the next peer in turn if it has room; else back, with that peer if there is one.
    fn send_now(&self, ask: Ask) -> Result<Link, (Box<Ask>, Option<Link>)> {
        if self.0.held.as_ref().is_some_and(|held| !held.is_empty()) {
            return Err((ask.into(), None));
        }
        let Pick::Link(link) = self.peers().pick(&Choice::ANYONE) else { return Err((ask.into(), None)) };
        if !link.has_room_now() {
            return Err((ask.into(), Some(link)));
        }
        match link.ask(ask) {
            Ok(()) => Ok(link),
            // It died between the choice and now: the next one, since this request has not left.
            Err(Closed(back)) => Err((back, None)),
        }
    }

    /// Gives the request to `first` or else to the next peer in turn, or back if there is none, or others wait before it.
    async fn send(&self, mut ask: Ask, mut first: Option<Link>) -> Result<Link, Ask> {
        loop {
            if self.0.held.as_ref().is_some_and(|held| !held.is_empty()) {
                return Err(ask);
            }
            let next = || match self.peers().pick(&Choice::ANYONE) {
                Pick::Link(link) => Some(link),
                _ => None,
            };
            let Some(link) = first.take().or_else(next) else {
                // On a client it is held.
                if self.is_client() || !self.somebody_returns(None, None).await {
                    return Err(ask);
                }
                continue;
            };
            link.has_room().await;
            if link.is_draining() {
                continue;
            }
            match link.ask(ask) {
                Ok(()) => return Ok(link),
                // It died between the choice and now: the next one, since this request has not left.
                Err(Closed(back)) => ask = *back,
            }
        }
    }

    /// Waits for a peer to come back, who restarts or was here before this daemon did, if there is one that matches, or is this
    /// instance; `false` if there is none. To be called as soon as nobody was found: between the two nobody may come.
    async fn somebody_returns(&self, target: Option<&Target>, instance: Option<&str>) -> bool {
        let Some(until) = self.peers().returning(target, instance) else { return false };
        let mut arrivals = self.peers().arrivals(None);
        let _waits = self.stop().away.token();
        tokio::select! {
            // The table itself holds the other end.
            _ = arrivals.changed() => true,
            () = sleep_until(until) => true,
            () = self.stop().drain.cancelled() => false,
        }
    }

    /// Runs the rest of a request's life as a task of its own.
    pub fn deliver(&self, life: impl Future<Output = ()> + Send + 'static) {
        self.requests().spawn(life);
    }

    /// Orders a run to be stopped; of a queued one that is on disk first. `false` if there is no such live one.
    ///
    /// # Errors
    /// When the disk does not take the order.
    pub async fn cancel(&self, which: &Which) -> Result<bool, Outcome> {
        let Some(live) = self.ledger().live(which) else { return Ok(false) };
        if let Some(spool) = self.spool().filter(|_| live.queued) {
            match spool.cancel(live.run.clone()).await {
                Ok(()) => {}
                Err(SpoolError::Unknown) => return Ok(false),
                Err(error) => return Err(Outcome::failed(ErrorCode::SpoolFailed, error.to_string())),
            }
        }
        live.cancel();
        self.waiting_room().call(&live);
        Ok(true)
    }

    /// A peer is there: of the instances that it was, the spools are lost, and what is bound to them is over.
    pub fn is_there(&self, link: &Link) {
        let former = link.hello().map_or(&[][..], |hello| &hello.former);
        if former.is_empty() {
            return;
        }
        let mut lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.len() + former.len() <= LOST {
            lost.extend(former.iter().map(|instance| instance.as_str().into()));
        }
        drop(lost);
        self.peers().touch();
    }

    fn is_lost(&self, instance: &str) -> bool {
        self.peers().register().is_gone(instance)
            || self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(instance)
    }

    /// A doer says how a run ended for which nobody waits: its asker may have given it up, or was told and could not say that it
    /// knows. What was given up as unknown is now known, in the record and to subscribers.
    pub async fn late(&self, link: &Link, run: &RunId, attempt: u32, mut report: Report) {
        let Some(spool) = self.spool() else { return };
        let record = match spool.run_record(run.clone()).await {
            Ok(record) => record,
            Err(error) => return warn!(%run, %error, "an outcome came that cannot be looked up now; its doer keeps it"),
        };
        if record.is_none() && spool.damaged().borrow().is_some() {
            // Not forgotten in its time, but with the file, which somebody may mend and put back: then it is asked for again.
            return info!(%run, ?report, "an outcome came of a run that the damaged spool may have known; its doer keeps it");
        }
        if let Some(record) = record.filter(|record| record.correction.is_none()) {
            // An attempt before this one counts no more, whatever it came to.
            if record.state != RunState::Settled && attempt >= record.attempt {
                // It is offered again in a moment, and then somebody waits.
                return;
            }
            let settled = record.report.as_deref().and_then(|report| Report::parse(report).ok());
            let given_up = settled.is_some_and(|settled| settled.error_code() == Some(ErrorCode::Interrupted));
            let is_news = report.error_code() != Some(ErrorCode::Interrupted);
            if given_up && is_news && record.attempt == attempt {
                report.more_mut().run = Some(run.clone());
                report.more_mut().peer.get_or_insert_with(|| link.peer().into());
                if let Err(error) = spool.correct(run.clone(), report.to_json(None).into()).await {
                    return warn!(%run, %error, "the truth about a run came late and was not kept; its doer keeps it");
                }
                info!(%run, ?report, "the truth about a run came late");
                self.news().tell(Topic::Runs, || line("corrected", run, &report));
            }
        }
        link.send_ack(run, attempt);
    }
}

/// The id of a run that is asked for now.
fn new_run() -> RunId {
    RunId::new(&*Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// A peer has a run now, which is noted and told.
fn given(news: &News, live: &Live, peer: &Arc<str>) {
    if !live.give(peer) {
        return;
    }
    news.tell(Topic::Runs, || {
        let mut line = json!({ "event": "running", "run": live.run.to_string(), "name": live.name, "peer": &**peer });
        if let Some(id) = &live.id {
            line["id"] = serde_json::from_str(id.as_json()).unwrap_or_default();
        }
        line.to_string()
    });
}

/// A run is over, which is noted and told.
fn settled(news: &News, live: &Live, report: &Report) {
    live.settle(report);
    news.tell(Topic::Runs, || line("settled", &live.run, report));
}

fn line(event: &str, run: &RunId, report: &Report) -> String {
    let report: serde_json::Value = serde_json::from_str(&report.to_json(None)).unwrap_or_default();
    json!({ "event": event, "run": run.to_string(), "report": report }).to_string()
}

/// Nobody is connected. Byte for byte the seed's answer for whoever asked in the seed's grammar; in words for whoever used more.
fn nobody(deadline: Option<Deadline>) -> Report {
    match deadline {
        None => Report::SEED_NOBODY,
        Some(_) => Outcome::failed(
            ErrorCode::NoPeer,
            "nobody is connected; start a client on this machine, or ask another one in: ws-daemon invite NAME",
        )
        .into(),
    }
}

fn refuse(ask: Ask, code: ErrorCode, message: &str) {
    // Nobody waits any more: then nobody need be told.
    ask.sink.fail(Outcome::failed(code, message));
}
