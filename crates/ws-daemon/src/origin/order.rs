//! A request with options, from its words to its last line: it becomes one run or several, each lives its own life, and whoever
//! asked is told. It never knows how a line is written.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::{Message, Request};
use ws_daemon_protocol::options::{NotBefore, Options, OutputMode, Queue};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};
use ws_daemon_protocol::target::Target;

use super::direct::Direct;
use super::follow::Follow;
use super::ledger::Seat;
use super::queued::Queued;
use super::whom::{NoWay, Whom, others_only, unknown, whole_ms};
use super::{Origin, Said};
use crate::peers::wall_ms;
use crate::policy::Scope;
use crate::spool::{self, Accepted, NewRequest, NewRun, RunRecord, RunState, Spool, SpoolError, StoredRequest};

/// Lines of one request that wait to be written; when full, whoever tells waits, and a script's output with it.
const SAID: usize = 64;

/// Runs of one fan-out; a request that matches more is refused.
const FAN_OUT: usize = 65_536;

/// Requests that are taken up from disk at once.
const TAKEN_UP: usize = 1024;

/// One run of a request, and whom it is for.
struct Part {
    run: RunId,
    whom: Whom,
}

/// A queued request on its way to the disk: what is to be known of it once it is there.
pub struct Keeping {
    spool: Spool,
    damaged: watch::Receiver<Option<PathBuf>>,
    request: Request,
    id: Option<CallerId>,
    user: Box<str>,
    parts: Vec<Part>,
    nearest: Option<Box<str>>,
    expires_ms: i64,
    not_before_ms: Option<i64>,
}

impl Keeping {
    /// Where it is to be kept.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }
}

/// A queued request that is on disk, and its runs.
struct OnDisk {
    options: Arc<Options>,
    follows: Vec<Follow>,
    /// The name nearest to one that was never seen.
    nearest: Option<Box<str>>,
}

/// Who asked, as far as anybody still listens.
#[derive(Clone)]
struct Caller(mpsc::Sender<Said>);

impl Caller {
    /// Tells something. Whoever is gone need not be told.
    async fn tell(&self, said: Said) {
        drop(self.0.send(said).await);
    }
}

impl Origin {
    /// Puts a request of `user` with options on the way to somebody `within`. What is told of it ends with the channel.
    pub fn order(&self, request: Request, user: &str, within: Scope) -> mpsc::Receiver<Said> {
        let caller = request.id.clone();
        self.order_until(&self.stop().refuse, request, user, caller, within)
    }

    /// The same for a `caller` elsewhere, whose own id is for the script to see.
    pub fn order_for(&self, request: Request, user: &str, id: Option<CallerId>, within: Scope) -> mpsc::Receiver<Said> {
        self.order_until(&self.stop().turn_away, request, user, id, within)
    }

    fn order_until(
        &self,
        closed: &CancellationToken,
        request: Request,
        user: &str,
        id: Option<CallerId>,
        within: Scope,
    ) -> mpsc::Receiver<Said> {
        let (say, said) = mpsc::channel(SAID);
        let (origin, user, closed) = (self.clone(), Box::from(user), closed.clone());
        let caller = Caller(say);
        // Boxed in parts: the many that are queued and wait must not hold the memory of all that may be done.
        let life = async move {
            if closed.is_cancelled() {
                let outcome = Outcome::failed(ErrorCode::Busy, "the daemon is stopping and takes nothing more");
                return caller.tell(origin.refused(outcome)).await;
            }
            if request.options.queue.is_none() {
                return Box::pin(origin.direct(request, id, &user, &within, caller)).await;
            }
            match Box::pin(origin.accept(request, id, user, &within)).await {
                Ok(queued) => origin.tell_queued(queued, &caller).await,
                Err(outcome) => caller.tell(origin.refused(outcome)).await,
            }
        };
        self.requests().spawn(life);
        said
    }

    /// What is to be written of a queued request of `user` of which no more is [told](tells_the_end_only) than that it is on disk, and
    /// how its run ended.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn to_keep(&self, request: Request, user: &str, within: Scope) -> Result<(NewRequest, Box<Keeping>), Outcome> {
        let to_keep = if self.stop().refuse.is_cancelled() {
            Err(Outcome::failed(ErrorCode::Busy, "the daemon is stopping and takes nothing more"))
        } else {
            let id = request.id.clone();
            let part = one_part(&request, user, within);
            self.spool_to_keep().and_then(|spool| self.keeping(spool.clone(), request, id, user.into(), vec![part]))
        };
        to_keep.inspect_err(|outcome| self.peers().counters().refused().count(outcome))
    }

    /// It is on disk: that, and its run, which lives from here on.
    ///
    /// # Errors
    /// It is not.
    pub fn kept(&self, keeping: Box<Keeping>) -> Result<(Event, Follow), Outcome> {
        told_as_kept(self.begin(*keeping))
    }

    /// What became of it: that it is on disk, and its run, which lives from then on.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn kept_or_not(
        &self,
        keeping: Box<Keeping>,
        accepted: spool::Result<Accepted>,
    ) -> Result<(Event, Follow), Outcome> {
        let kept = self.on_disk(keeping, accepted).await.and_then(told_as_kept);
        kept.inspect_err(|outcome| self.peers().counters().refused().count(outcome))
    }

    /// Where queued requests are kept.
    fn spool_to_keep(&self) -> Result<&Spool, Outcome> {
        let none = || Outcome::failed(ErrorCode::SpoolFailed, "this daemon runs without a spool; its log says why");
        self.spool().ok_or_else(none)
    }

    /// The last word to whoever asked for what is turned away.
    fn refused(&self, outcome: Outcome) -> Said {
        self.peers().counters().refused().count(&outcome);
        Said::Final(outcome.into())
    }

    /// The parts of a request: one, or one for each peer that matches.
    async fn parts(&self, request: &Request, user: &str, within: &Scope) -> Result<Vec<Part>, Outcome> {
        let part = |whom| Part { run: new_run(), whom };
        if !request.options.each {
            return Ok(vec![one_part(request, user, within.clone())]);
        }
        let queued = request.options.queue.is_some();
        let to = request.options.to.as_ref();
        // Everyone is also who is away for a moment.
        while !queued && self.somebody_returns(to, None).await {}
        let beyond = self.beyond(to, queued, within).await?;
        let found = self.peers().all_matching(to).into_iter();
        let parts: Vec<Part> = found
            .filter(|peer| (queued || peer.link.is_some()) && within.has(&peer.name, &peer.tags))
            .filter_map(|peer| match peer.instance {
                Some(instance) => Some(Whom { instance: Some(instance.into()), ..Whom::default() }),
                // A seed peer has only its name, which is its address.
                None => Some(Whom { to: Some(Target::parse(&peer.name).ok()?), ..Whom::default() }),
            })
            .chain(beyond)
            .map(part)
            .collect();
        match parts.len() {
            0 => match self.look(&Whom::of(request)) {
                Err(NoWay::Unknown(nearest)) => Err(unknown(&Whom::of(request), nearest.as_deref())),
                _ if !within.is_anyone() => Err(others_only()),
                _ => Err(Outcome::failed(ErrorCode::NoPeer, "nobody who matches \"to\" is connected")),
            },
            1..=FAN_OUT => Ok(parts),
            many => Err(Outcome::Failed(ErrorCode::TooLarge, format!("{many} peers match; a fan-out has at most {FAN_OUT}"))),
        }
    }

    /// The same of a queued request. A client asks nobody who there is for one that it has accepted before: its list is fixed.
    async fn parts_to_queue(&self, request: &Request, user: &str, within: &Scope, spool: &Spool) -> Result<Vec<Part>, Outcome> {
        if let Some(id) = request.id.as_ref().filter(|_| request.options.each && self.is_client()) {
            let known = spool.by_caller_id(user, id.key().as_text()).await;
            if known.is_ok_and(|known| !known.is_empty()) {
                return Ok(Vec::new());
            }
        }
        self.parts(request, user, within).await
    }

    async fn direct(&self, request: Request, id: Option<CallerId>, user: &str, within: &Scope, caller: Caller) {
        let parts = match self.parts(&request, user, within).await {
            Ok(parts) => parts,
            Err(outcome) => return self.nobody(&request, outcome, &caller).await,
        };
        let enter = |part: &Part| self.ledger().enter(part.run.clone(), &request.name, user, request.id.clone(), false);
        let seats: Vec<(Seat, Whom)> = parts.into_iter().map(|part| (enter(&part), part.whom)).collect();
        let reports = self.brake(&request, id, seats, &caller).await;
        if let Some(then) = &request.options.then {
            self.then(then, request.id.as_ref(), request.options.each, &reports);
        }
    }

    async fn one_direct(
        &self,
        request: &Request,
        id: Option<CallerId>,
        seat: Seat,
        whom: Whom,
        caller: mpsc::Sender<Said>,
    ) -> Report {
        let direct = Direct { origin: self, request, id, live: seat.live(), whom, caller: Some(caller) };
        let mut report = direct.run().await;
        report.more_mut().run = Some(seat.live().run.clone());
        super::settled(self.news(), seat.live(), &report);
        report
    }

    /// Lets the parts of a request live, as many at once as it says, until too many have failed; tells each report as it comes.
    async fn brake(&self, request: &Request, id: Option<CallerId>, parts: Vec<(Seat, Whom)>, caller: &Caller) -> Vec<Report> {
        let options = &request.options;
        let (batch, max_failures) = (options.batch.unwrap_or(usize::MAX), options.max_failures.unwrap_or(usize::MAX));
        let (mut left, mut going, mut reports) = (parts.into_iter(), FuturesUnordered::new(), Vec::new());
        let mut failed = 0;
        loop {
            while going.len() < batch && failed < max_failures {
                let Some((seat, whom)) = left.next() else { break };
                going.push(self.one_direct(request, id.clone(), seat, whom, caller.0.clone()));
            }
            let Some(report) = going.next().await else { break };
            failed += usize::from(report.status != Some(0));
            caller.tell(Said::Final(report.clone())).await;
            reports.push(report);
        }
        for (seat, _) in left {
            let why = format!("{failed} runs have failed, and max_failures is {max_failures}; this one was not started");
            let mut report = Report::from(Outcome::Failed(ErrorCode::Cancelled, why));
            report.more_mut().run = Some(seat.live().run.clone());
            super::settled(self.news(), seat.live(), &report);
            caller.tell(Said::Final(report.clone())).await;
            reports.push(report);
        }
        let failed = reports.iter().filter(|report| report.status != Some(0)).count();
        if options.each {
            caller.tell(Said::Event(Event::Done { runs: reports.len(), failed })).await;
        }
        reports
    }

    /// A request that nobody can run.
    async fn nobody(&self, request: &Request, outcome: Outcome, caller: &Caller) {
        self.peers().counters().refused().count(&outcome);
        let report = Report::from(outcome);
        caller.tell(Said::Final(report.clone())).await;
        if request.options.each {
            caller.tell(Said::Event(Event::Done { runs: 0, failed: 0 })).await;
        }
        if let Some(then) = &request.options.then {
            self.then(then, request.id.as_ref(), false, &[report]);
        }
    }

    /// Has a queued request on disk and its runs alive, or finds those that it had before.
    async fn accept(&self, request: Request, id: Option<CallerId>, user: Box<str>, within: &Scope) -> Result<OnDisk, Outcome> {
        let spool = self.spool_to_keep()?.clone();
        let parts = self.parts_to_queue(&request, &user, within, &spool).await?;
        let (new, keeping) = self.keeping(spool.clone(), request, id, user, parts)?;
        let accepted = spool.accept(new).await;
        self.on_disk(keeping, accepted).await
    }

    /// What is to be written of a request, and the rest of what is known of it.
    fn keeping(
        &self,
        spool: Spool,
        request: Request,
        id: Option<CallerId>,
        user: Box<str>,
        parts: Vec<Part>,
    ) -> Result<(NewRequest, Box<Keeping>), Outcome> {
        let Some(queue) = &request.options.queue else {
            return Err(Outcome::failed(ErrorCode::BadMessage, "it is not to be queued"));
        };
        let nearest = self.nearest(&request);
        let new = new_request(&request, id.as_ref(), queue, user.clone(), &parts, spool.now_ms());
        let (expires_ms, not_before_ms) = (new.expires_ms, new.not_before_ms);
        let damaged = spool.damaged();
        Ok((new, Box::new(Keeping { spool, damaged, request, id, user, parts, nearest, expires_ms, not_before_ms })))
    }

    /// Lets the runs of a request live that is on disk now, or finds those that it had before.
    async fn on_disk(&self, keeping: Box<Keeping>, accepted: spool::Result<Accepted>) -> Result<OnDisk, Outcome> {
        match accepted {
            Ok(Accepted::Fresh) => Ok(self.begin(*keeping)),
            Ok(Accepted::Known(records)) => {
                let mut follows = Vec::with_capacity(records.len());
                for record in records {
                    follows.push(Follow::known(self, record).await);
                }
                Ok(OnDisk { options: Arc::new(keeping.request.options), follows, nearest: None })
            }
            Ok(Accepted::Conflict) => {
                let why = "this id stands for another request that was queued before; use a new id";
                Err(Outcome::failed(ErrorCode::IdConflict, why))
            }
            Err(SpoolError::Full) => Err(Outcome::failed(ErrorCode::QueueFull, "the spool is full; try again later")),
            Err(error) => Err(Outcome::failed(ErrorCode::SpoolFailed, error.to_string())),
        }
    }

    /// Lets the runs of a request live that is on disk now.
    fn begin(&self, keeping: Keeping) -> OnDisk {
        let Keeping { spool, damaged, request, id, user, parts, nearest, expires_ms, not_before_ms } = keeping;
        let Request { name, id: caller_id, params, options } = request;
        let (options, params) = (Arc::new(options), Arc::new(params));
        let life = |Part { run, whom }| {
            Box::new(Queued {
                origin: self.clone(),
                spool: spool.clone(),
                damaged: damaged.clone(),
                options: Arc::clone(&options),
                params: Some(Arc::clone(&params)),
                id: id.clone(),
                seat: self.ledger().enter(run, &name, &user, caller_id.clone(), true),
                whom,
                bound: None,
                attempt: 1,
                refused: 0,
                ever_bound: false,
                answered: false,
                expires_ms,
                not_before_ms,
                waits_since: None,
            })
        };
        let lives: Vec<_> = parts.into_iter().map(life).collect();
        let follows = lives.iter().map(|life| Follow::live(self, life.live())).collect();
        self.start(&options, lives, 0);
        OnDisk { options, follows, nearest }
    }

    /// The name nearest to one that was never seen.
    fn nearest(&self, request: &Request) -> Option<Box<str>> {
        match self.look(&Whom::of(request)) {
            Err(NoWay::Unknown(nearest)) => nearest.map(Into::into),
            _ => None,
        }
    }

    /// Starts the lives of a queued request's runs, braked as it says, when so many others have failed before. They are nobody's: no
    /// caller and no stop waits for them.
    #[expect(clippy::vec_box, reason = "each goes its own way from here on, in the box that it stays in")]
    fn start(&self, options: &Arc<Options>, lives: Vec<Box<Queued>>, failed: usize) {
        if !options.each || (options.batch.is_none() && options.max_failures.is_none()) {
            for life in lives {
                life.go_on();
            }
            return;
        }
        let (stopping, options) = (self.stop().close_links.clone(), Arc::clone(options));
        self.lives().spawn(async move {
            tokio::select! {
                () = brake_queued(&options, lives, failed) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn tell_queued(&self, queued: OnDisk, caller: &Caller) {
        let OnDisk { options, follows, nearest } = queued;
        let runs = options.each.then_some(follows.len());
        for follow in &follows {
            caller.tell(Said::Event(Event::Accepted { run: follow.run().clone(), nearest: nearest.clone(), runs })).await;
        }
        let (events, streams) = (options.events, options.output == OutputMode::Stream);
        self.tell_of(follows, events, streams, options.each.then_some((0, 0)), &caller.0).await;
    }

    /// Takes up what was found on disk: the same lives as of fresh requests.
    pub async fn recover(&self) {
        let Some(spool) = self.spool() else { return };
        let damaged = spool.damaged();
        let mut reading = spool.unsettled(0, TAKEN_UP).await;
        loop {
            let stored = match reading {
                Ok(stored) => stored,
                Err(error) => break warn!(%error, "what was queued cannot be read"),
            };
            let Some(last) = stored.last() else { break };
            // The spool's thread reads on meanwhile.
            let next = spool.unsettled(last.request, TAKEN_UP);
            let taking_up = async {
                for stored in stored {
                    self.take_up(spool, &damaged, stored).await;
                }
            };
            reading = tokio::join!(next, taking_up).0;
        }
        match spool.then_due().await {
            Ok(due) => due.into_iter().for_each(|due| self.aftermath(due)),
            Err(error) => warn!(%error, "what is due after queued requests cannot be read"),
        }
    }

    async fn take_up(&self, spool: &Spool, damaged: &watch::Receiver<Option<PathBuf>>, stored: StoredRequest) {
        let StoredRequest { request: number, user, body, caller_id, runs, expires_ms, not_before_ms, .. } = stored;
        let Ok(Message::Run(request)) = Message::parse(&body) else {
            return warn!(request = number, "a queued request is not understood; it stays where it is");
        };
        let whom = Whom::of(&request).asked_by(&user);
        let Request { name, id: own_id, options, .. } = request;
        let options = Arc::new(options);
        let id = caller_id.and_then(|id| serde_json::from_str::<Box<RawValue>>(&id).ok()).as_deref().and_then(CallerId::new);
        let life = |record: RunRecord| {
            let accepted_wall_ms = u64::try_from(record.accepted_wall_ms).unwrap_or(0);
            let seat = self.ledger().enter_again(record.run, &name, &user, own_id.clone(), true, accepted_wall_ms);
            if record.cancelled {
                seat.live().cancel();
            }
            let whom = record.target.map_or_else(|| whom.clone(), |target| Whom::of_target(&target));
            let bound = record.bound.filter(|_| record.state == RunState::Bound);
            let ever_bound = bound.is_some() || record.attempt > 1;
            let (origin, spool, options, id) = (self.clone(), spool.clone(), Arc::clone(&options), id.clone());
            Box::new(Queued {
                origin,
                spool,
                damaged: damaged.clone(),
                options,
                params: None,
                id,
                seat,
                whom,
                bound,
                attempt: record.attempt,
                refused: record.refused,
                ever_bound,
                answered: false,
                expires_ms,
                not_before_ms,
                waits_since: None,
            })
        };
        let lives = runs.into_iter().map(life).collect();
        let failed = if options.max_failures.is_some() { failed_before(spool, number).await } else { 0 };
        self.start(&options, lives, failed);
    }
}

/// Whether whoever makes such a request is told that it is on disk, and how its one run ended, and nothing between.
pub fn tells_the_end_only(options: &Options) -> bool {
    options.queue.is_some() && !options.each && !options.events && options.output != OutputMode::Stream
}

/// How many runs of a request failed before the daemon was started.
async fn failed_before(spool: &Spool, request: u64) -> usize {
    let has_failed = |report: &str| Report::parse(report).is_ok_and(|report| report.status != Some(0));
    match spool.reports(request).await {
        Ok(reports) => reports.iter().filter(|report| has_failed(report)).count(),
        Err(error) => {
            warn!(request, %error, "how a queued request has gone so far cannot be read; its failures are counted from here on");
            0
        }
    }
}

/// As [`brake`](Origin::brake), but what is not to start is cancelled in its own life, so that the disk knows. What was under way
/// when the daemon ended goes on.
#[expect(clippy::vec_box, reason = "each goes its own way from here on, in the box that it stays in")]
async fn brake_queued(options: &Options, lives: Vec<Box<Queued>>, mut failed: usize) {
    let one = |life: Box<Queued>| {
        let end = life.live().watch().end();
        life.go_on();
        async move { end.await.status == Some(0) }
    };
    let (batch, max_failures) = (options.batch.unwrap_or(usize::MAX), options.max_failures.unwrap_or(usize::MAX));
    let (mut left, mut going) = (lives.into_iter(), FuturesUnordered::new());
    loop {
        while going.len() < batch {
            let Some(life) = left.next() else { break };
            if failed >= max_failures && !life.ever_bound {
                life.live().cancel();
            }
            going.push(one(life));
        }
        let Some(went_well) = going.next().await else { return };
        failed += usize::from(!went_well);
    }
}

/// What is told of a queued request for one that is on disk.
fn told_as_kept(on_disk: OnDisk) -> Result<(Event, Follow), Outcome> {
    let OnDisk { follows, nearest, .. } = on_disk;
    let follow = follows.into_iter().next();
    let follow = follow.ok_or_else(|| Outcome::failed(ErrorCode::SpoolFailed, "the request on disk has no run"))?;
    Ok((Event::Accepted { run: follow.run().clone(), nearest, runs: None }, follow))
}

/// The only part of a request that is for one.
fn one_part(request: &Request, user: &str, within: Scope) -> Part {
    Part { run: new_run(), whom: Whom::of(request).asked_by(user).only(within) }
}

fn new_run() -> RunId {
    RunId::new(Uuid::now_v7().to_string())
}

/// What tells a request from another of the same id. What it carries along for logs does not: who asks again has another trace.
fn hash(request: &Request, body: &str) -> [u8; 32] {
    if request.options.trace.is_none() {
        return Sha256::digest(body.as_bytes()).into();
    }
    let plain = Request { options: Options { trace: None, ..request.options.clone() }, ..request.clone() };
    Sha256::digest(plain.to_json().as_bytes()).into()
}

fn new_request(
    request: &Request,
    id: Option<&CallerId>,
    queue: &Queue,
    user: Box<str>,
    parts: &[Part],
    now_ms: i64,
) -> NewRequest {
    let body = request.to_json();
    let later = |ms: u64| now_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
    let not_before_ms = match queue.not_before {
        NotBefore::Now => None,
        NotBefore::After(delay) => Some(later(whole_ms(delay))),
        NotBefore::At(at_ms) => Some(later(at_ms.saturating_sub(wall_ms()))),
    };
    let run = |part: &Part| NewRun { run: part.run.clone(), name: request.name.as_str().into(), target: part.whom.target() };
    NewRequest {
        user,
        key: request.id.as_ref().map(|id| id.key().as_text().into()),
        caller_id: id.map(|id| id.as_json().into()),
        hash: hash(request, &body),
        runs: parts.iter().map(run).collect(),
        expires_ms: later(whole_ms(queue.ttl)),
        not_before_ms,
        then: request.options.then.clone(),
        body: body.into(),
    }
}
