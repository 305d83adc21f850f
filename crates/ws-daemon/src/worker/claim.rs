//! The life of a queued run on the doing side: on disk before it starts, its outcome on disk before it is sent, and sent again on
//! every link of its asker until that says that it has it. Fresh runs and those found on disk take one path.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};
use ws_daemon_protocol::codec::v2::{self, Frame, Have, Order, Progress, RunFrame, Verdict};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::options::OutputMode;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::doing::{About, Credit, Key, Seat};
use super::{Worker, asked_by, capture, home, report_of};
use crate::exec::{Admitted, Caller, Ended, Folder, Job, NotStarted, Orphan, Ready, StreamBuffer};
use crate::link::{Backoff, IncomingRun, Link};
use crate::peers::wall_ms;
use crate::spool::{ClaimRecord, ClaimState, Claimed, NewClaim, Spool, SpoolError};

/// The waits before a failed step on disk is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Nesting of a frame that was taken once already.
pub const NESTING: usize = 4096;

/// A queued run that is being done.
struct Work {
    worker: Worker,
    spool: Spool,
    asker: Box<str>,
    run: RunId,
    attempt: u32,
    name: String,
    seat: Arc<Seat>,
    output: OutputMode,
    buffer: Option<Arc<StreamBuffer>>,
}

impl Worker {
    /// Takes a queued run in hand, or says what is known of it.
    pub(super) fn claim_queued(&self, incoming: IncomingRun) {
        let IncomingRun { name, params, order, replier } = incoming;
        let (Some(run), Some(asker)) = (replier.run().cloned(), replier.asker().map(Box::<str>::from)) else { return };
        let link = replier.link().clone();
        let attempt = order.attempt;
        let Some(spool) = self.0.spool.clone() else {
            let why = "this daemon runs without a spool; its log says why";
            let verdict = Verdict { attempt: Some(attempt), refused: false };
            return link.send_status(&run, verdict, &Outcome::failed(ErrorCode::SpoolFailed, why).into());
        };
        if self.0.stop.turn_away.is_cancelled() {
            // It is offered again to whoever takes this one's place.
            return;
        }
        let frame = RunFrame { name, run: run.clone(), params, order };
        let worker = self.clone();
        let key = Key::new(&asker, &run, attempt);
        if let Some(seat) = self.seat_of(&key) {
            // It is in line or runs: its output goes by this link from here on.
            link.send_event(&run, Progress::Delivered);
            if frame.order.output == OutputMode::Stream {
                let credit = seat.doing.new_credit(frame.order.credit);
                let at = frame.order.have.unwrap_or_default();
                let teller = Teller { worker, spool, link, run, attempt, seat, credit };
                self.0.rest.spawn(teller.tell(at));
            }
            return;
        }
        let about = About::new(&frame.name, frame.order.caller.clone(), link.peer().into(), wall_ms());
        let seat = self.seat(key, about, frame.order.credit);
        self.0.runs.spawn(async move { worker.claim_on_disk(spool, link, asker, frame, seat).await });
    }

    async fn claim_on_disk(self, spool: Spool, link: Link, asker: Box<str>, frame: RunFrame, seat: Arc<Seat>) {
        let (run, attempt) = (frame.run.clone(), frame.order.attempt);
        let verdict = |refused| Verdict { attempt: Some(attempt), refused };
        let have = frame.order.have.unwrap_or_default();
        let caller = Caller::Far(link.standing().clone());
        let body = asked_by::with(&caller, v2::run(&frame.name, &frame.run, &frame.params, &frame.order));
        let name = frame.name.clone();
        let (work, admitted) = self.admit(&spool, &asker, caller, frame, seat);
        let claimed = match &admitted {
            Ok(admitted) => {
                let starting = admitted.has_slot();
                let claim = NewClaim {
                    asker: asker.clone(),
                    run: run.clone(),
                    attempt,
                    name: name.into(),
                    body: body.into(),
                    starting,
                };
                spool.claim(&link.me().instance, claim).await
            }
            Err(outcome) => {
                let report = Report::from(outcome.clone()).to_json(None);
                spool.refuse(&link.me().instance, &asker, run.clone(), attempt, report.into()).await
            }
        };
        // The link may have been lost meanwhile, and the run offered again by another, which was told that it is known.
        let link = self.0.peers.link_of(&asker).unwrap_or(link);
        match (claimed, admitted) {
            (Ok(Claimed::Fresh), Ok(admitted)) => {
                let is_starting = admitted.has_slot();
                work.tell(Progress::Delivered);
                work.stream_from(&link, have);
                work.run(admitted, is_starting).await;
            }
            (Ok(Claimed::Fresh), Err(outcome)) => link.send_status(&run, verdict(true), &outcome.into()),
            (Ok(Claimed::Running), _) => link.send_event(&run, Progress::Delivered),
            (Ok(Claimed::Finished(report)), _) => {
                if work.output == OutputMode::Stream {
                    let mut at = have;
                    home::tell_kept(&link, &spool, &run, work.seat.credit(), &mut at, true).await;
                }
                send_kept(&link, &run, verdict(false), &report);
            }
            (Ok(Claimed::Refused(report)), _) => send_kept(&link, &run, verdict(true), &report),
            (Ok(Claimed::Acknowledged), _) => warn!(%run, attempt, "a run was offered again whose outcome was acknowledged"),
            (Err(error), _) => {
                let code = if error == SpoolError::Full { ErrorCode::QueueFull } else { ErrorCode::SpoolFailed };
                link.send_status(&run, verdict(false), &Outcome::failed(code, error.to_string()).into());
            }
        }
    }

    /// Asks the executor for a place.
    fn admit(
        &self,
        spool: &Spool,
        asker: &str,
        caller: Caller,
        frame: RunFrame,
        seat: Arc<Seat>,
    ) -> (Work, Result<Admitted, Outcome>) {
        let RunFrame { name, run, params, order } = frame;
        let Order { caller: id, timeout_ms, output, attempt, trace, .. } = order;
        let buffer = (output == OutputMode::Stream).then(Arc::<StreamBuffer>::default);
        let admitted = self.0.executor.admit(Job {
            run: run.clone(),
            id,
            trace,
            name: name.clone(),
            params,
            peer: Arc::clone(&seat.about.peer),
            caller,
            folder: Folder::Scripts,
            timeout: timeout_ms.map(Duration::from_millis),
            capture: capture(output, buffer.as_ref()),
            cancel: seat.doing.cancel.clone(),
        });
        let (worker, spool, asker) = (self.clone(), spool.clone(), asker.into());
        (Work { worker, spool, asker, run, attempt, name, seat, output, buffer }, admitted)
    }

    /// Sees to it that a run that is not claimed never will be.
    pub(super) fn refuse(&self, link: &Link, run: &RunId, attempt: u32) {
        let (Some(spool), Some(asker)) = (self.0.spool.clone(), link.instance().map(Box::<str>::from)) else { return };
        let (link, run) = (link.clone(), run.clone());
        self.0.runs.spawn(async move {
            let outcome = Outcome::failed(ErrorCode::Cancelled, "cancelled before it was claimed; it did not run");
            let report = Report::from(outcome);
            let verdict = |refused| Verdict { attempt: Some(attempt), refused };
            match spool.refuse(&link.me().instance, &asker, run.clone(), attempt, report.to_json(None).into()).await {
                Ok(Claimed::Fresh) => link.send_status(&run, verdict(true), &report),
                Ok(Claimed::Refused(report)) => send_kept(&link, &run, verdict(true), &report),
                Ok(Claimed::Finished(report)) => send_kept(&link, &run, verdict(false), &report),
                Ok(Claimed::Running | Claimed::Acknowledged) => {}
                Err(error) => warn!(%run, %error, "a run could not be refused; its asker will ask again"),
            }
        });
    }

    /// An asker has an outcome: it may be forgotten here.
    pub fn acknowledged(&self, link: &Link, run: &RunId, attempt: u32) {
        let (Some(spool), Some(asker)) = (self.0.spool.clone(), link.instance().map(Box::<str>::from)) else { return };
        let run = run.clone();
        self.0.rest.spawn(async move {
            if let Err(error) = spool.acknowledged(&asker, run.clone(), attempt).await {
                warn!(%run, %error, "an acknowledged outcome could not be forgotten; it will be sent again");
            }
        });
    }

    /// An asker is there: it is told again what it has not acknowledged.
    pub fn is_there(&self, link: &Link) {
        let (Some(spool), Some(asker)) = (self.0.spool.clone(), link.instance().map(Box::<str>::from)) else { return };
        let link = link.clone();
        self.0.rest.spawn(async move {
            match spool.unacknowledged(&asker).await {
                Ok(list) => {
                    for left in list {
                        let verdict = Verdict { attempt: Some(left.attempt), refused: left.refused };
                        send_kept(&link, &left.run, verdict, &left.report);
                    }
                }
                Err(error) => warn!(%error, "outcomes that were not acknowledged cannot be read"),
            }
        });
    }

    /// Takes up what was found on disk: what had certainly not started is done now; what may have is stopped and settled as
    /// unknown.
    pub async fn recover(&self) {
        let Some(spool) = self.0.spool.clone() else { return };
        let claims = match spool.unfinished().await {
            Ok(claims) => claims,
            Err(error) => return warn!(%error, "claimed runs cannot be read"),
        };
        let (fresh, begun): (Vec<_>, Vec<_>) = claims.into_iter().partition(|claim| claim.state == ClaimState::Claimed);
        let orphans: Vec<Orphan> =
            begun.iter().map(|claim| Orphan { run: claim.run.clone(), recorded: claim.pid.zip(claim.start_time) }).collect();
        if !orphans.is_empty() {
            info!(runs = orphans.len(), "the daemon was killed while these ran; what is left of them is stopped");
            let left = self.0.executor.stop_orphans(&orphans).await;
            if left > 0 {
                warn!(left, "some of their processes do not end");
            }
        }
        for claim in begun {
            let why = "the daemon was killed while it ran, or was about to; it may have run";
            let report: Report = Outcome::failed(ErrorCode::Interrupted, why).into();
            self.finish(&spool, &claim.asker, &claim.run, claim.attempt, &report).await;
            self.send(&claim.asker, &claim.run, claim.attempt, &report);
        }
        for claim in fresh {
            self.take_up(&spool, claim);
        }
    }

    fn take_up(&self, spool: &Spool, claim: ClaimRecord) {
        let Ok(Frame::Run(frame)) = v2::decode(&claim.body, NESTING) else {
            return warn!(run = %claim.run, "a claimed run is not understood; it stays where it is");
        };
        let claimed_wall_ms = u64::try_from(claim.claimed_wall_ms).unwrap_or(0);
        let about = About::new(&frame.name, frame.order.caller.clone(), self.name_of(&claim.asker), claimed_wall_ms);
        let seat = self.seat(Key::new(&claim.asker, &claim.run, claim.attempt), about, 0);
        let (worker, spool) = (self.clone(), spool.clone());
        self.0.runs.spawn(async move {
            let caller = asked_by::of(&claim.body);
            let (work, admitted) = worker.admit(&spool, &claim.asker, caller, *frame, seat);
            match admitted {
                Ok(admitted) => work.run(admitted, false).await,
                Err(outcome) => work.finish(&outcome.into()).await,
            }
        });
    }

    /// On disk before it is sent; if the disk that knew the run is lost, it is not kept.
    async fn finish(&self, spool: &Spool, asker: &str, run: &RunId, attempt: u32, report: &Report) {
        let text: Box<str> = report.to_json(None).into();
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        while let Err(error) = spool.finish(asker, run.clone(), attempt, text.clone()).await {
            if error == SpoolError::Unknown {
                return warn!(%run, ?report, "the spool that knew a run is lost: its outcome is not kept");
            }
            warn!(%run, %error, "an outcome cannot be kept; tried again in a while, and not sent before");
            tokio::select! {
                () = sleep(backoff.next(fastrand::f64())) => {}
                () = self.0.stop.close_links.cancelled() => return,
            }
        }
    }

    fn send(&self, asker: &str, run: &RunId, attempt: u32, report: &Report) {
        if let Some(link) = self.0.peers.link_of(asker) {
            link.send_status(run, Verdict { attempt: Some(attempt), refused: false }, report);
        }
    }
}

/// What came of noting that a script starts.
enum Noted {
    OnDisk,
    /// The daemon stops first.
    Stopping,
    /// The spool was damaged, and the new one knows nothing of the claim.
    Forgotten,
}

/// What comes of a run's turn.
enum Next {
    /// It is over, after it has run or without.
    Over(Box<Report>, Option<Ended>),
    /// It is done in the daemon's next life.
    AnotherLife,
    /// It is in line again: no more of its script may run at once.
    InLine(Admitted),
}

/// For a run whose claim is lost, and that was certainly not started.
fn forgotten() -> Outcome {
    Outcome::failed(ErrorCode::SpoolFailed, "the doer's spool was damaged while it was in line; it did not run")
}

/// Tells the output of a queued run on one link, and behind it how the run ended.
struct Teller {
    worker: Worker,
    spool: Spool,
    link: Link,
    run: RunId,
    attempt: u32,
    seat: Arc<Seat>,
    credit: Arc<Credit>,
}

impl Teller {
    /// Tells what is kept from `at` on, until all is told or the link is gone; then the asker asks again by another one.
    async fn tell(self, mut at: Have) {
        let mut kept = self.seat.doing.keeping();
        loop {
            kept.mark_unchanged();
            let report = self.seat.doing.report();
            home::tell_kept(&self.link, &self.spool, &self.run, &self.credit, &mut at, report.is_some()).await;
            if let Some(report) = report {
                let verdict = Verdict { attempt: Some(self.attempt), refused: false };
                return self.link.send_status(&self.run, verdict, report);
            }
            tokio::select! {
                changed = kept.changed() => if changed.is_err() { return },
                () = self.credit.closed() => return,
                () = self.worker.0.stop.close_links.cancelled() => return,
            }
        }
    }
}

impl Work {
    /// From its place in line to its outcome at home.
    async fn run(self, admitted: Admitted, is_starting: bool) {
        let (mut admitted, mut is_starting) = (admitted, is_starting);
        let (report, ended) = loop {
            let ready = match admitted.turn().await {
                Ok(ready) => ready,
                // It stays claimed, and is done in the daemon's next life.
                Err(ended) if ended.drained() => return self.put_back(is_starting).await,
                Err(ended) => break (report_of(&ended), None),
            };
            self.seat.doing.begins();
            // Boxed: a run in line must not hold the memory of one that runs.
            match Box::pin(self.run_now(ready, is_starting)).await {
                Next::Over(report, ended) => break (*report, ended),
                Next::AnotherLife => return,
                Next::InLine(again) => {
                    self.put_back(true).await;
                    self.seat.doing.waits_again();
                    (admitted, is_starting) = (again, false);
                }
            }
        };
        self.finish(&report).await;
        if let Some(ended) = ended {
            ended.log();
        }
    }

    /// From its turn to its outcome.
    async fn run_now(&self, ready: Ready, is_starting: bool) -> Next {
        if !is_starting {
            match self.note_start().await {
                Noted::OnDisk => {}
                Noted::Stopping => return Next::AnotherLife,
                Noted::Forgotten => return Next::Over(Box::new(forgotten().into()), None),
            }
        }
        self.worker.is_written_down(&self.seat).await;
        let running = match ready.start().await {
            Ok(running) => running,
            Err(NotStarted::Ended(ended)) if ended.drained() => {
                self.put_back(true).await;
                return Next::AnotherLife;
            }
            Err(NotStarted::Ended(ended)) => return Next::Over(Box::new(report_of(&ended)), None),
            Err(NotStarted::InLine(admitted)) => return Next::InLine(admitted),
        };
        self.tell(Progress::Started);
        self.worker.has_started(&self.seat, running.pid()).await;
        let process = running.process();
        let noted = async {
            match process {
                Some((pid, start)) => self.spool.started(&self.asker, self.run.clone(), self.attempt, pid, start).await,
                None => Ok(()),
            }
        };
        let keeping = async {
            if let Some(buffer) = &self.buffer {
                home::keep(buffer, &self.spool, &self.run, || self.seat.doing.has_kept()).await;
            }
        };
        let (noted, (), ended) = tokio::join!(noted, keeping, running.end());
        if let Err(error) = noted {
            warn!(run = %self.run, %error, "the process of a run was not noted");
        }
        let mut report = report_of(&ended);
        if let Some(cut) = self.buffer.as_deref().and_then(home::cut_by_contract) {
            report.more_mut().cut = Some(cut);
        }
        Next::Over(Box::new(report), Some(ended))
    }

    /// The daemon stops before the script was started: it is to be done in its next life.
    async fn put_back(&self, is_starting: bool) {
        if !is_starting {
            return;
        }
        if let Err(error) = self.spool.not_started(&self.asker, self.run.clone(), self.attempt).await {
            warn!(run = %self.run, %error, "a run that was not started counts as one that may have been");
        }
    }

    /// On disk before the script starts.
    async fn note_start(&self) -> Noted {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        while let Err(error) = self.spool.starting(&self.asker, self.run.clone(), self.attempt).await {
            if error == SpoolError::Unknown {
                return Noted::Forgotten;
            }
            warn!(run = %self.run, %error, "a run waits for the spool");
            tokio::select! {
                () = sleep(backoff.next(fastrand::f64())) => {}
                () = self.worker.0.stop.drain.cancelled() => return Noted::Stopping,
            }
        }
        Noted::OnDisk
    }

    /// Its output goes by this link from here on.
    fn stream_from(&self, link: &Link, at: Have) {
        if self.output != OutputMode::Stream {
            return;
        }
        let seat = Arc::clone(&self.seat);
        let (worker, spool, link, credit) = (self.worker.clone(), self.spool.clone(), link.clone(), seat.doing.credit());
        let teller = Teller { worker, spool, link, run: self.run.clone(), attempt: self.attempt, seat, credit };
        self.worker.0.rest.spawn(teller.tell(at));
    }

    fn tell(&self, progress: Progress) {
        if let Some(link) = self.worker.0.peers.link_of(&self.asker) {
            link.send_event(&self.run, progress);
        }
    }

    async fn finish(self, report: &Report) {
        let Self { worker, spool, asker, run, attempt, seat, name, output, .. } = self;
        worker.finish(&spool, &asker, &run, attempt, report).await;
        seat.doing.is_over(report.clone());
        if output != OutputMode::Stream {
            worker.send(&asker, &run, attempt, report);
        }
        info!(%run, script = name, status = ?report.status, "queued run over");
        drop(seat);
        worker.has_ended(&run, report).await;
    }
}

fn send_kept(link: &Link, run: &RunId, verdict: Verdict, report: &str) {
    match Report::parse(report) {
        Ok(report) => link.send_status(run, verdict, &report),
        Err(error) => warn!(%run, %error, "a kept outcome is not understood"),
    }
}
