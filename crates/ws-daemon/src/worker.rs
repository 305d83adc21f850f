//! The doing side: a run that a peer asks for is claimed, executed, and its outcome sent home. A direct run goes home by the way
//! it came; a queued one is on disk before it starts, and its outcome before it is sent, by whatever link its asker has then. It
//! never knows what is asked here.

mod asked_by;
mod claim;
mod doing;
mod home;
mod records;

pub use doing::Credit;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tracing::{info, warn};
use uuid::Uuid;
use ws_daemon_protocol::codec::v2::{Progress, Verdict};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::more::More;
use ws_daemon_protocol::options::OutputMode;
use ws_daemon_protocol::outcome::{Outcome, Report};

use crate::audit::{Audit, Entry};
use crate::exec::{Admitted, Caller, Capture, Ended, Executor, Folder, Job, NotStarted, StreamBuffer};
use crate::link::{IncomingRun, Link, Replier};
use crate::peers::{Peers, wall_ms};
use crate::spool::Spool;
use crate::tasks::{Stop, Tasks};
use doing::{About, Key, Seat, Table};

/// Finished direct runs whose last output waits for its reader; with more, an outcome goes home without it, and says so.
const LINGERING: usize = 1024;

/// How long the outcome of a direct run waits for credit for its last output; then it goes home without that, and says so.
const LAST_CREDIT: Duration = Duration::from_secs(10);

/// Claims runs for one executor. Clones are the same.
#[derive(Debug, Clone)]
pub struct Worker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    executor: Executor,
    peers: Peers,
    spool: Option<Spool>,
    doing: Mutex<Table>,
    lingering: Semaphore,
    audit: Audit,
    runs: Tasks,
    rest: Tasks,
    stop: Stop,
}

impl Worker {
    /// A worker whose runs are counted by `runs`, and what is still to be told of them by `rest`. Without a spool, queued runs
    /// are refused. What starts and ends is written down in `audit`.
    #[must_use]
    pub fn new(
        executor: Executor,
        peers: Peers,
        spool: Option<Spool>,
        audit: Audit,
        runs: Tasks,
        rest: Tasks,
        stop: Stop,
    ) -> Self {
        let (doing, lingering) = (Mutex::default(), Semaphore::new(LINGERING));
        Self(Arc::new(Inner { executor, peers, spool, doing, lingering, audit, runs, rest, stop }))
    }

    fn doing(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.0.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a run in hand. Never waits: a run for which there is no place is answered at once, and its end is returned.
    pub fn claim(&self, incoming: IncomingRun) -> Option<Outcome> {
        if incoming.order.queue {
            self.claim_queued(incoming);
            return None;
        }
        let IncomingRun { name, params, order, replier } = incoming;
        let run = replier.run().cloned().unwrap_or_else(|| RunId::new(Uuid::now_v7().to_string()));
        // On a version 2 link the caller's id stands beside the run's.
        let id = if replier.run().is_some() { order.caller.clone() } else { replier.id().cloned() };
        let buffer = (order.output == OutputMode::Stream).then(Arc::<StreamBuffer>::default);
        let about = About::new(&name, id.clone(), Arc::clone(replier.peer()), wall_ms());
        let seat = self.seat(Key::of(&replier, &run, 0), about, order.credit);
        let job = Job {
            run,
            id,
            trace: order.trace,
            name,
            params,
            peer: Arc::clone(replier.peer()),
            caller: Caller::Far(replier.link().standing().clone()),
            folder: Folder::Scripts,
            timeout: order.timeout_ms.map(Duration::from_millis),
            capture: capture(order.output, buffer.as_ref()),
            cancel: seat.doing.cancel.clone(),
        };
        match self.0.executor.admit(job) {
            Ok(admitted) => {
                let worker = self.clone();
                self.0.runs.spawn(async move {
                    let told = order.events.then_some(&replier);
                    let ended = match &buffer {
                        None => worker.run_telling(admitted, &seat, told).await,
                        // Boxed: the many that do not stream must not hold the memory of one that does.
                        Some(buffer) => {
                            let run = worker.run_telling(admitted, &seat, told);
                            Box::pin(worker.streaming(run, &replier, seat.credit(), buffer)).await
                        }
                    };
                    let mut report = report_of(&ended);
                    if let Some(cut) = buffer.as_deref().and_then(home::cut_of) {
                        report.more_mut().cut = Some(cut);
                    }
                    seat.doing.is_over(records::brief(&report));
                    let run = seat.key.run.clone();
                    drop(seat);
                    replier.report(&report, Verdict::default());
                    // Its asker waits for it, and nobody for what is written of it.
                    yield_now().await;
                    ended.log();
                    worker.has_ended(&run, &report).await;
                });
                None
            }
            Err(outcome) => {
                info!(peer = %replier.peer(), ?outcome, "run refused");
                replier.report(&outcome.clone().into(), Verdict::default());
                Some(outcome)
            }
        }
    }

    /// Answers a run that is not to be done here, unless it is a queued one that was claimed when it was to be: of that it is said
    /// what is known.
    pub fn turn_away(&self, incoming: IncomingRun, outcome: Outcome) {
        let IncomingRun { order, replier, .. } = &incoming;
        let attempt = order.attempt;
        let queued = replier.run().cloned().zip(replier.asker().map(Box::<str>::from)).filter(|_| order.queue);
        let (Some((run, asker)), Some(spool)) = (queued, self.0.spool.clone()) else {
            let verdict = Verdict { attempt: order.queue.then_some(attempt), refused: false };
            return replier.report(&outcome.into(), verdict);
        };
        let worker = self.clone();
        self.0.rest.spawn(async move {
            let is_known = match spool.claim_record(run).await {
                Ok(record) => record.is_some_and(|record| record.asker == asker && record.attempt == attempt),
                // It is offered again.
                Err(error) => return warn!(%error, "it cannot be looked up now whether a denied run was claimed before"),
            };
            if is_known {
                worker.claim_queued(incoming);
            } else {
                incoming.replier.report(&outcome.into(), Verdict { attempt: Some(attempt), refused: false });
            }
        });
    }

    /// Ends when all is written down that was decided so far, or the run is not to start any more.
    async fn is_written_down(&self, seat: &Seat) {
        if !self.0.audit.is_on() {
            return;
        }
        // Boxed: runs of which nothing is written down must not hold the memory for it.
        let written = Box::pin(async {
            tokio::select! {
                biased;
                () = self.0.audit.caught_up() => {}
                () = seat.doing.cancel.cancelled() => {}
                () = self.0.stop.drain.cancelled() => {}
            }
        });
        written.await;
    }

    /// Writes down that a run was started.
    async fn has_started(&self, seat: &Seat, pid: Option<u32>) {
        let entry = || {
            let entry = Entry::new("started").with("run", seat.key.run.to_string()).text("script", &seat.about.name);
            entry.text("peer", &seat.about.peer).with_known("pid", pid)
        };
        self.write_down(entry).await;
    }

    /// Writes down how a run ended.
    async fn has_ended(&self, run: &RunId, report: &Report) {
        self.write_down(|| ended(Some(run.to_string()), report)).await;
    }

    /// A daemon that stops waits for no place.
    async fn write_down(&self, entry: impl FnOnce() -> Entry) {
        if !self.0.audit.is_on() {
            return;
        }
        let written = Box::pin(async {
            tokio::select! {
                biased;
                () = self.0.audit.record(entry) => {}
                () = self.0.stop.close_links.cancelled() => {}
            }
        });
        written.await;
    }

    /// Runs to the end, notes the steps, and tells them home if that is wanted.
    async fn run_telling(&self, admitted: Admitted, seat: &Seat, home: Option<&Replier>) -> Ended {
        let tell = |progress| home.map(|home| home.event(progress)).unwrap_or_default();
        tell(Progress::Delivered);
        let mut admitted = admitted;
        loop {
            let ready = match admitted.turn().await {
                Ok(ready) => ready,
                Err(ended) => return ended,
            };
            seat.doing.begins();
            // Boxed: a run in line must not hold the memory of one that runs.
            let done = Box::pin(async {
                self.is_written_down(seat).await;
                // In a block: what has moved out of it is not held as well.
                let end = {
                    let running = ready.start().await?;
                    tell(Progress::Started);
                    self.has_started(seat, running.pid()).await;
                    running.end()
                };
                Ok(end.await)
            });
            match done.await {
                Ok(ended) | Err(NotStarted::Ended(ended)) => return ended,
                Err(NotStarted::InLine(again)) => admitted = again,
            }
            seat.doing.waits_again();
        }
    }

    /// Runs a direct run whose output goes home while it runs. Its end waits for the last of it as long as its reader takes some.
    async fn streaming(
        &self,
        run: impl Future<Output = Ended>,
        home: &Replier,
        credit: &Credit,
        buffer: &StreamBuffer,
    ) -> Ended {
        let ended = {
            let mut telling = std::pin::pin!(home::tell_live(home, credit, buffer, Duration::MAX));
            let mut run = std::pin::pin!(run);
            let mut told = false;
            loop {
                tokio::select! {
                    ended = &mut run => break ended,
                    () = &mut telling, if !told => told = true,
                }
            }
        };
        if let Ok(_lingers) = self.0.lingering.try_acquire() {
            tokio::select! {
                () = home::tell_live(home, credit, buffer, LAST_CREDIT) => {}
                () = self.0.stop.terminate.cancelled() => {}
                () = self.0.stop.kill.cancelled() => {}
            }
        }
        ended
    }

    /// An asker wants a run stopped, or, if it is a queued one that is not claimed, never to be started.
    pub fn cancel(&self, link: &Link, run: &RunId, attempt: Option<u32>) {
        let Some(asker) = link.instance() else { return };
        let key = Key::new(asker, run, attempt.unwrap_or(0));
        match (self.seat_of(&key), attempt) {
            (Some(seat), _) => seat.doing.cancel.cancel(),
            (None, Some(attempt)) => self.refuse(link, run, attempt),
            (None, None) => {}
        }
    }

    /// This peer may ask for nothing any more: what it has asked for and what has not begun never does.
    pub fn is_revoked(&self, peer: &str) {
        for seat in self.seats(|_| true).iter().filter(|seat| *seat.about.peer == *peer && !seat.doing.has_begun()) {
            seat.doing.cancel.cancel();
        }
    }

    /// More output may go home.
    pub fn credit(&self, link: &Link, run: &RunId, bytes: u64) {
        let Some(asker) = link.instance() else { return };
        self.seats(|key| key.is(asker, run)).iter().for_each(|seat| seat.doing.credit().give(bytes));
    }

    /// A link is gone, and with it whoever waited for output.
    pub fn is_gone(&self, link: &Link) {
        let Some(asker) = link.instance() else { return };
        self.seats(|key| key.is_of(asker)).iter().for_each(|seat| seat.doing.credit().close());
    }
}

/// What is written down of a run that is over.
pub fn ended(run: Option<String>, report: &Report) -> Entry {
    let entry = Entry::new("ended").with_known("run", run).with("status", report.status);
    let entry = entry.with_known("error", report.error.as_deref()).with_known("signal", report.signal.as_deref());
    entry.with_known("ms", report.more.as_ref().and_then(|more| more.ms))
}

fn capture(output: OutputMode, buffer: Option<&Arc<StreamBuffer>>) -> Capture {
    match (output, buffer) {
        (OutputMode::Tail, _) => Capture::Tail,
        (OutputMode::Json, _) => Capture::Json,
        (OutputMode::Stream, Some(buffer)) => Capture::Stream(Arc::clone(buffer)),
        (OutputMode::None | OutputMode::Stream, _) => Capture::None,
    }
}

/// What is said of a run that is over: its outcome, what was kept of its output, and how long it took.
fn report_of(ended: &Ended) -> Report {
    let mut report = Report::from(ended.outcome().clone());
    let kept = ended.captured().map(home::more).unwrap_or_default();
    let note = ended.captured().and_then(|captured| captured.note.as_deref());
    if let Some(note) = ended.message().or(note) {
        report.message.get_or_insert_with(|| note.to_owned());
    }
    *report.more_mut() = More { ms: ended.ms(), ..kept };
    report
}
