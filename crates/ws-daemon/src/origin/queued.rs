//! The life of one queued run: one function, the same for a fresh run and for one that was found on disk. What it is bound to, and
//! how it ended, is on disk before anybody else is told; the end of a link, of a caller or of this daemon settles nothing. It has a
//! task while it does something, and a place in the waiting room while it can only wait.
//!
//! ```text
//!   waiting ── bind, COMMIT ──► bound ── offered ──► report ── settle, COMMIT ──► ACK, the final line
//!      ▲                          │  ▲       │
//!      │ refused for ever, or -5  │  └───────┘ link lost, or the doer's disk or line is full: offered again, to the same instance
//!      └── and retry: unbind ─────┘
//!   ttl over: -5 if ever bound, else -2 expired
//!   the spool was damaged, and the new one knows nothing of it: -5 if it may have run, else -2 spool_failed
//! ```

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use ws_daemon_protocol::codec::v2::{Have, Order, Verdict};
use ws_daemon_protocol::command::StreamName;
use ws_daemon_protocol::event::Chunk;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::{Message, Params};
use ws_daemon_protocol::options::{Options, OutputMode};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::Origin;
use super::direct::{at, with_peer};
use super::ledger::{Live, Seat};
use super::waiting_room::Wait;
use super::whom::{NoWay, Way, Whom, whole_ms};
use crate::link::{Ask, AskBody, Backoff, Closed, Departure, Link, RunEvent, RunStream, STREAM_CREDIT_BYTES, Sink, run_stream};
use crate::spool::{Spool, SpoolError, number};

/// It looks again at least so often whether its time is over.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// How long a run that may be run again waits for the instance it is bound to before it goes to another.
const PATIENCE: Duration = Duration::from_secs(30);

/// The waits before a refused or failed step is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What stands for the instance of a seed peer, which has none.
const SEED_INSTANCE: &str = "seed:";

/// A queued run.
pub struct Queued {
    pub origin: Origin,
    pub spool: Spool,
    /// Of the spool, from before this run was seen on disk: what happens to the file from then on may be its end.
    pub damaged: watch::Receiver<Option<PathBuf>>,
    pub options: Arc<Options>,
    /// As long as it has not waited for anything; then they are read from the spool when they leave.
    pub params: Option<Arc<Params>>,
    /// The caller's id, for the script to see.
    pub id: Option<CallerId>,
    pub seat: Seat,
    pub whom: Whom,
    /// The instance that may have it.
    pub bound: Option<Box<str>>,
    /// From 1.
    pub attempt: u32,
    /// How many of the attempts before this one certainly never began.
    pub refused: u32,
    /// Whether any attempt was ever bound.
    pub ever_bound: bool,
    /// Whether the doer of this attempt has said how it ended: then it may forget it once that is on disk here.
    pub answered: bool,
    /// On the spool's clock.
    pub expires_ms: i64,
    /// On the spool's clock.
    pub not_before_ms: Option<i64>,
    /// Since when there is no way to whom it is for.
    pub waits_since: Option<Instant>,
}

/// What a run can do now.
enum Now {
    /// Nothing: its time is over.
    Overdue,
    /// Nothing, and it will not be otherwise later.
    Cannot(Report),
    /// It can only wait.
    Waits(Wait),
    /// It has waited long enough for the instance it is bound to.
    Moves,
    /// It can be offered.
    Goes(Way),
}

/// What came of one offer.
enum Offered {
    /// The end.
    Settled(Report),
    /// Nobody knows yet: to be offered again to the same instance, after a while or at its next link.
    Again {
        /// Whether the link is there still, so that a wait is called for.
        wait: bool,
    },
    /// This attempt never began and never will: the next one may go to anyone.
    Next,
}

impl Queued {
    /// Begins its life, or goes on with it, until it is over, or can only wait: then the waiting room has it, and goes on with it when
    /// that is called for.
    pub fn go_on(mut self: Box<Self>) {
        let origin = self.origin.clone();
        loop {
            // The many that can only wait are given no task for that.
            let now = if self.has_damage() { None } else { Some(self.now(true)) };
            match now {
                Some(Now::Waits(wait)) => match origin.waiting_room().enter(self, wait) {
                    None => return,
                    Some(back) => self = back,
                },
                now => return origin.lives().spawn(self.run(now)),
            }
        }
    }

    /// Lives on from what it can do `now`; what is not over when the daemon stops stays on disk.
    async fn run(mut self: Box<Self>, now: Option<Now>) {
        let stopping = self.origin.stop().close_links.clone();
        let done = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            done = Box::pin(self.outcome(now)) => done,
        };
        let report = match done {
            Ok(report) => report,
            Err(wait) => {
                let room = self.origin.waiting_room().clone();
                if let Some(back) = room.enter(self, wait) {
                    back.go_on();
                }
                return;
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = Box::pin(self.settle(report)) => {}
        }
    }

    /// Whether something has happened to the file that has not been looked at.
    fn has_damage(&self) -> bool {
        self.damaged.has_changed().unwrap_or(false)
    }

    /// Whether there is something to do that it was about to wait for.
    pub fn is_called(&self, wait: &Wait) -> bool {
        // Whoever told it may be gone.
        let has_come = wait.arrival.as_ref().is_some_and(|(_, arrivals)| arrivals.has_changed().unwrap_or(true));
        has_come || self.is_cancelled_here() || self.has_damage()
    }

    /// Cancelled while nobody has it.
    fn is_cancelled_here(&self) -> bool {
        self.bound.is_none() && self.live().is_cancelled()
    }

    /// The run.
    pub fn live(&self) -> &Arc<Live> {
        self.seat.live()
    }

    fn run_id(&self) -> RunId {
        self.live().run.clone()
    }

    /// How it ended, or for what it waits.
    async fn outcome(&mut self, now: Option<Now>) -> Result<Report, Wait> {
        let (spool, run, expires_ms) = (self.spool.clone(), self.run_id(), self.expires_ms);
        if self.has_damage() {
            // Before it is asked for: what happens from then on is looked at again.
            self.damaged.mark_unchanged();
            if !is_known(&spool, &run).await {
                return Ok(self.forgotten());
            }
        }
        let now = now.unwrap_or_else(|| self.now(true));
        let forgotten = forgotten(&spool, &run, self.damaged.clone());
        tokio::select! {
            biased;
            done = self.deliver(now) => return done,
            () = until(&spool, expires_ms) => {}
            () = forgotten => return Ok(self.forgotten()),
        }
        Ok(self.overdue())
    }

    /// Cancelled while nobody has it.
    fn never_started(&self) -> Report {
        let outcome = if self.ever_bound {
            Outcome::failed(ErrorCode::Interrupted, "cancelled before it was tried again; an earlier attempt may have run")
        } else {
            Outcome::failed(ErrorCode::Cancelled, "cancelled before it was given to anyone; it did not run")
        };
        outcome.into()
    }

    /// The one that it is for does not come back, and has it not.
    fn gone(&self) -> Report {
        let outcome = if self.ever_bound {
            Outcome::failed(ErrorCode::Interrupted, "the peer that it is for is gone for good; an earlier attempt may have run")
        } else {
            Outcome::failed(ErrorCode::Expired, "the peer that it is for is gone for good; it did not run")
        };
        outcome.into()
    }

    fn overdue(&self) -> Report {
        let outcome = if self.ever_bound {
            Outcome::failed(ErrorCode::Interrupted, "its ttl is over and its peer has not said how it ended; it may have run")
        } else {
            Outcome::failed(ErrorCode::Expired, "its ttl is over and nobody was there to run it; it did not run")
        };
        outcome.into()
    }

    /// The disk that held it is lost: what this daemon knows of it is all that is known.
    fn forgotten(&self) -> Report {
        let aside = self.damaged.borrow().as_ref().map(|aside| format!(" as {}", aside.display())).unwrap_or_default();
        let why = format!("the spool was damaged and set aside{aside}");
        let outcome = if self.bound.is_some() || self.attempt - self.refused > 1 {
            Outcome::Failed(ErrorCode::Interrupted, format!("{why} before its peer had said how it ended; it may have run"))
        } else {
            Outcome::Failed(ErrorCode::SpoolFailed, format!("{why} while nobody had it; it did not run"))
        };
        outcome.into()
    }

    /// Offers the run until it is over, or waits.
    async fn deliver(&mut self, mut now: Now) -> Result<Report, Wait> {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            let offered = match now {
                Now::Overdue => return Ok(self.overdue()),
                Now::Waits(wait) => return Err(wait),
                Now::Cannot(report) => Offered::Settled(report),
                Now::Moves => {
                    self.next_attempt().await;
                    Offered::Again { wait: false }
                }
                Now::Goes(way) => {
                    self.bind(&way).await;
                    self.offer(way).await
                }
            };
            match offered {
                Offered::Settled(report) if self.may_retry(&report) => {
                    info!(run = %self.live().run, attempt = self.attempt, "it may have run, and may run again");
                    self.next_attempt().await;
                }
                Offered::Settled(report) => return Ok(report),
                Offered::Again { wait: false } => backoff.reset(),
                Offered::Again { wait: true } => sleep(backoff.next(fastrand::f64())).await,
                Offered::Next => {
                    self.refused += 1;
                    self.next_attempt().await;
                    sleep(backoff.next(fastrand::f64())).await;
                }
            }
            now = self.now(false);
        }
    }

    fn may_retry(&self, report: &Report) -> bool {
        report.error_code() == Some(ErrorCode::Interrupted) && self.has_tries_left()
    }

    /// Whether it may run once more if this attempt may have.
    fn has_tries_left(&self) -> bool {
        self.attempt - self.refused <= self.options.retry && !self.live().is_cancelled()
    }

    /// What it can do as things stand: it is offered to whom it is bound to, or to anyone who may have it. `begins`: it has done nothing
    /// since it was accepted, or found, or has waited.
    fn now(&mut self, begins: bool) -> Now {
        let now_ms = self.spool.now_ms();
        if now_ms >= self.expires_ms {
            return Now::Overdue;
        }
        if begins && self.is_cancelled_here() {
            return Now::Cannot(self.never_started());
        }
        if let Some(at_ms) = self.not_before_ms.filter(|at_ms| *at_ms > now_ms) {
            self.params = None;
            return Now::Waits(Wait { arrival: None, until: self.instant(at_ms) });
        }
        let whom = match &self.bound {
            // A seed peer's link was its only one.
            Some(instance) if instance.starts_with(SEED_INSTANCE) => {
                let why = "the link was lost while a seed peer had it; it may have run";
                return Now::Cannot(Outcome::failed(ErrorCode::Interrupted, why).into());
            }
            Some(instance) => Cow::Owned(Whom { instance: Some(instance.clone()), ..Whom::default() }),
            None => Cow::Borrowed(&self.whom),
        };
        // Before anybody is looked for, so that no arrival is missed.
        let awaited = self.origin.awaited(&whom);
        let arrivals = self.origin.peers().arrivals(awaited.clone());
        match self.origin.look(&whom) {
            Ok(way) => {
                self.waits_since = None;
                return Now::Goes(self.by_hop(way));
            }
            // What may be asked was decided when it was accepted.
            Err(NoWay::Yet(_) | NoWay::Unknown(_) | NoWay::Denied(_)) => {}
        }
        if let Some(instance) = self.bound.as_deref().filter(|instance| self.origin.is_lost(instance)) {
            let why = format!(
                "the instance {instance} that had it is gone for good: revoked, or its spool was lost; it may have run"
            );
            return Now::Cannot(Outcome::Failed(ErrorCode::Interrupted, why).into());
        }
        let meant = self.whom.instance.as_deref().filter(|_| self.bound.is_none());
        if meant.is_some_and(|instance| self.origin.is_lost(instance)) {
            return Now::Cannot(self.gone());
        }
        if self.is_cancelled_here() {
            return Now::Cannot(self.never_started());
        }
        self.params = None;
        let mut until = self.instant(self.expires_ms);
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        if self.bound.is_some() && self.has_tries_left() {
            if since + PATIENCE <= Instant::now() {
                return Now::Moves;
            }
            until = until.min(since + PATIENCE);
        }
        Now::Waits(Wait { arrival: Some((awaited, arrivals)), until })
    }

    /// When the spool's clock shows `at_ms`, or when it is to be looked again.
    fn instant(&self, at_ms: i64) -> Instant {
        let left = u64::try_from(at_ms - self.spool.now_ms()).unwrap_or(0);
        Instant::now() + Duration::from_millis(left).min(LONGEST_WAIT)
    }

    /// A bound run whose target lies behind the server is passed on by it at each offer.
    fn by_hop(&self, mut way: Way) -> Way {
        let again = way.hop.is_none() && self.bound.is_some() && self.whom.instance.is_none();
        if let (true, Ok(fresh)) = (again, self.origin.look(&self.whom)) {
            way.hop = fresh.hop;
        }
        way
    }

    /// On disk before the first frame leaves.
    async fn bind(&mut self, way: &Way) {
        if self.bound.is_some() {
            return;
        }
        let instance = way.link.instance().map_or_else(|| format!("{SEED_INSTANCE}{}", way.link.peer()), str::to_owned);
        let (spool, attempt) = (self.spool.clone(), self.attempt);
        self.persist("bound", || {
            let (spool, run, instance) = (spool.clone(), self.run_id(), instance.clone());
            async move { spool.bind(run, &instance, attempt).await }
        })
        .await;
        self.ever_bound = true;
        self.bound = Some(instance.into());
    }

    async fn next_attempt(&mut self) {
        let (spool, next, refused) = (self.spool.clone(), self.attempt + 1, self.refused);
        let old = (self.bound.take(), self.attempt, std::mem::take(&mut self.answered));
        self.attempt = next;
        self.persist("unbound", || {
            let (spool, run) = (spool.clone(), self.run_id());
            async move { spool.unbind(run, next, refused).await }
        })
        .await;
        self.live().take_back();
        if let (Some(instance), attempt, true) = old {
            self.acknowledge(&instance, attempt);
        }
    }

    /// Does something on disk, again and again until it is done. A spool that took the place of a damaged one does it never; then
    /// [`forgotten`] ends this.
    async fn persist<T, F>(&self, what: &str, verb: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, SpoolError>>,
    {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            match verb().await {
                Ok(done) => return done,
                Err(error) => {
                    warn!(run = %self.live().run, what, %error, "the spool failed; tried again in a while");
                    sleep(backoff.next(fastrand::f64())).await;
                }
            }
        }
    }

    async fn offer(&mut self, way: Way) -> Offered {
        let Way { link, hop } = way;
        if link.is_v2() && link.me().instance != *self.spool.identity().instance {
            // The spool is a new one, and the link about to be closed: what is claimed by it would not be known as this one's.
            return Offered::Again { wait: true };
        }
        let order = match self.order(&link, hop).await {
            Ok(order) => order,
            Err(outcome) => return Offered::Settled(outcome.into()),
        };
        let (params, reading) = self.params_with_room(&link).await;
        let by_hop = order.hop.is_some();
        let cancelled = self.live().is_cancelled() && !by_hop;
        if cancelled {
            // Before the offer, so that what was not claimed never is. By a hop it comes behind it: who passes on claims nothing.
            link.send_cancel(&self.live().run, Some(self.attempt));
        }
        let (sink, stream) = run_stream(order.credit);
        let body = AskBody::Run(String::from(&*self.live().name), params, order);
        let ask =
            Ask { body, id: self.id.clone(), run: self.run_id(), departure: Departure::default(), sink: Sink::Stream(sink) };
        let asked = link.ask(ask);
        drop(reading);
        match asked {
            Ok(()) => {
                super::given(self.origin.news(), self.live(), link.shared_peer());
                let attempt = (!by_hop).then_some(self.attempt);
                self.attend(&link, stream, attempt, cancelled).await
            }
            Err(Closed(_)) => Offered::Again { wait: false },
        }
    }

    /// Waits until the link has room, and has the params then. What is returned with them is to be kept until they are on the link:
    /// there is room for a few that are read at once, not for all that wait.
    async fn params_with_room(&mut self, link: &Link) -> (Params, Option<OwnedSemaphorePermit>) {
        if link.has_room().now_or_never().is_some()
            && let Some(params) = self.params.take()
        {
            return (Arc::unwrap_or_clone(params), None);
        }
        self.params = None;
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            link.has_room().await;
            let reading = self.origin.reading().await;
            if link.has_room().now_or_never().is_none() {
                continue;
            }
            match self.read().await {
                Ok(params) => return (params, reading),
                Err(error) => {
                    // Others may fare better.
                    drop(reading);
                    warn!(run = %self.live().run, %error, "the params of a run cannot be read; tried again in a while");
                    sleep(backoff.next(fastrand::f64())).await;
                }
            }
        }
    }

    /// The params as they stand in the spool.
    async fn read(&self) -> Result<Params, SpoolError> {
        match Message::parse(&self.spool.body(self.run_id()).await?) {
            Ok(Message::Run(request)) => Ok(request.params),
            _ => Err(SpoolError::Failed("a queued request is not understood".into())),
        }
    }

    async fn order(&self, link: &Link, hop: Option<Box<ws_daemon_protocol::codec::v2::Hop>>) -> Result<Order, Outcome> {
        let options = &self.options;
        let streams = options.output == OutputMode::Stream;
        let is_v2 = link.is_v2();
        let have = if streams { self.have().await } else { None };
        let order = Order {
            caller: self.id.clone(),
            timeout_ms: options.timeout.filter(|_| is_v2).map(whole_ms),
            output: options.output,
            events: is_v2,
            credit: if streams { STREAM_CREDIT_BYTES } else { 0 },
            queue: is_v2,
            attempt: if is_v2 { self.attempt } else { 0 },
            have,
            hop,
            trace: options.trace.clone(),
        };
        link.supports(&order)?;
        Ok(order)
    }

    /// What is here of its output already.
    async fn have(&self) -> Option<Have> {
        let ranges = self.spool.output_range(self.run_id()).await.ok()?;
        let end = |stream: StreamName| ranges.iter().find(|range| range.stream == number(stream)).map_or(0, |range| range.to);
        Some(Have { stdout: end(StreamName::Stdout), stderr: end(StreamName::Stderr) })
    }

    /// From offered to what came of it. `attempt` is what is to be cancelled there, if it has not been said that it is `cancelled`.
    async fn attend(&mut self, link: &Link, mut stream: RunStream, attempt: Option<u32>, mut cancelled: bool) -> Offered {
        let is_v2 = link.is_v2();
        let timeout = self.options.timeout.filter(|_| !is_v2).map(|timeout| Instant::now() + timeout);
        loop {
            tokio::select! {
                event = stream.next() => match event {
                    RunEvent::Delivered => self.live().note(|progress| progress.delivered = true),
                    RunEvent::Started => self.live().note(|progress| {
                        progress.delivered = true;
                        progress.started = true;
                    }),
                    RunEvent::Output(chunk) => {
                        let cost = chunk.cost();
                        self.keep(chunk).await;
                        stream.credit(cost);
                    }
                    RunEvent::Report(report, verdict) => {
                        let offered = Self::judge(link, report, verdict);
                        self.answered = !matches!(offered, Offered::Again { .. });
                        return offered;
                    }
                    RunEvent::Lost { left } if !is_v2 && left => {
                        let why = "the link was lost while a seed peer had it; it may have run";
                        return Offered::Settled(Outcome::failed(ErrorCode::Interrupted, why).into());
                    }
                    RunEvent::Lost { .. } if !is_v2 => return Offered::Next,
                    RunEvent::Lost { .. } => return Offered::Again { wait: false },
                },
                () = self.live().cancelled(), if !cancelled => {
                    cancelled = true;
                    if !is_v2 {
                        let why = "it was cancelled, but its peer is a seed daemon, which cannot be told to stop it; it may still run";
                        return Offered::Settled(Outcome::failed(ErrorCode::Interrupted, why).into());
                    }
                    link.send_cancel(&self.live().run, attempt);
                }
                () = at(timeout), if timeout.is_some() => {
                    let why = "its time is over, but its peer is a seed daemon, which cannot be told to stop it; it may still run";
                    return Offered::Settled(Outcome::failed(ErrorCode::Interrupted, why).into());
                }
            }
        }
    }

    fn judge(link: &Link, report: Report, verdict: Verdict) -> Offered {
        let code = report.error_code();
        match code {
            // Never claimed, and refused from now on; a cancelled one is over by that.
            Some(ErrorCode::Busy) if verdict.refused => Offered::Next,
            // Not claimed, but not refused for ever either: it stays bound.
            Some(ErrorCode::Busy | ErrorCode::SpoolFailed | ErrorCode::QueueFull) if link.is_v2() => {
                Offered::Again { wait: true }
            }
            _ => Offered::Settled(with_peer(report, link.peer())),
        }
    }

    /// Output is kept before more is asked for. What the disk does not take is a gap.
    async fn keep(&self, chunk: Chunk) {
        let bytes =
            if chunk.is_base64 { BASE64_STANDARD.decode(&chunk.data).unwrap_or_default() } else { chunk.data.into_bytes() };
        match self.spool.keep_output(self.run_id(), number(chunk.stream), chunk.offset, bytes).await {
            Ok(()) => self.live().note(|progress| progress.output += 1),
            Err(error) => warn!(run = %self.live().run, %error, "output was not kept"),
        }
    }

    /// The outcome is on disk before anybody is told, unless the disk that is to have it is lost. Then the doer is not told that it
    /// may forget: whoever mends the file and puts it back finds the run in it as bound, and asks the doer again.
    async fn settle(&self, mut report: Report) {
        report.more_mut().run = Some(self.run_id());
        let text: Box<str> = report.to_json(None).into();
        let settled = self
            .persist("settled", || {
                let (spool, run, text) = (self.spool.clone(), self.run_id(), text.clone());
                async move {
                    match spool.settle(run, text).await {
                        Err(SpoolError::Unknown) => Ok(None),
                        settled => settled.map(Some),
                    }
                }
            })
            .await;
        match (&settled, &self.bound) {
            (Some(_), Some(instance)) if self.answered => self.acknowledge(instance, self.attempt),
            (None, _) => {
                warn!(run = %self.live().run, ?report, "the spool that knew a run is lost: its outcome is told and not kept");
            }
            _ => {}
        }
        super::settled(self.origin.news(), self.live(), &report);
        match (settled, &self.options.then) {
            (Some(settled), _) => settled.then.into_iter().for_each(|due| self.origin.aftermath(due)),
            // What all of them came to is known to nobody any more.
            (None, Some(script)) if self.options.each => warn!(run = %self.live().run, %script, "a script gets no outcome"),
            (None, Some(script)) => self.origin.then(script, self.live().id.as_ref(), false, &[report]),
            (None, None) => {}
        }
    }

    /// The doer may forget; if it is not there, it says its outcome again and is told then.
    fn acknowledge(&self, instance: &str, attempt: u32) {
        if let Some(link) = self.origin.peers().link_of(instance) {
            link.send_ack(&self.live().run, attempt);
        }
    }
}

/// Ends when the spool was damaged, and the one in its place knows nothing of a run.
async fn forgotten(spool: &Spool, run: &RunId, mut damaged: watch::Receiver<Option<PathBuf>>) {
    // The sender lives as long as the spool.
    while damaged.changed().await.is_ok() {
        if !is_known(spool, run).await {
            return;
        }
    }
}

/// Whether the spool knows the run, as soon as it can say.
async fn is_known(spool: &Spool, run: &RunId) -> bool {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    loop {
        match spool.run_record(run.clone()).await {
            Ok(record) => return record.is_some(),
            Err(_) => sleep(backoff.next(fastrand::f64())).await,
        }
    }
}

/// Ends when the spool's clock shows `at_ms`.
async fn until(spool: &Spool, at_ms: i64) {
    loop {
        let left = u64::try_from(at_ms - spool.now_ms()).unwrap_or(0);
        if left == 0 {
            return;
        }
        sleep(Duration::from_millis(left)).await;
    }
}
