//! The stages of one run, each a value that is used up by the next, so that whoever has it done can write down where it stands
//! in between. It never says more than the caller of a stage asked for, and a stage that is dropped ends the run.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit};
use tracing::{Instrument, Span, info};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::capture::Captured;
use super::job::{Capture, Job};
use super::supervise::{self, Attended, Begun};
use super::{Executor, orphans, stopping};

/// A job that has its place in line.
pub struct Admitted {
    pub(super) run: Run,
    pub(super) turn: Turn,
}

/// A job whose turn has come: it has a slot, and nothing of it has started.
#[derive(Debug)]
pub struct Ready {
    run: Run,
    slot: OwnedSemaphorePermit,
}

/// A script that runs. Dropped, its group is killed.
#[derive(Debug)]
pub struct Running {
    run: Run,
    begun: Begun,
    span: Span,
    slot: OwnedSemaphorePermit,
}

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    job: Arc<Job>,
    outcome: Outcome,
    never_started: bool,
    drained: bool,
    captured: Option<Box<Captured>>,
    ms: Option<u64>,
}

/// What every stage has.
#[derive(Debug)]
pub(super) struct Run {
    job: Arc<Job>,
    executor: Executor,
    _closing: Closing,
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Closes the stream of a run when the run is over, however that came about.
#[derive(Debug)]
pub(super) struct Closing(Arc<Job>);

impl Closing {
    pub(super) fn new(job: &Arc<Job>) -> Self {
        Self(Arc::clone(job))
    }
}

/// A run's slot, or its place in the line for one. Taken when the run is admitted: tasks get their first turn in any order.
pub(super) enum Turn {
    Now(OwnedSemaphorePermit),
    Later(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
}

impl Admitted {
    /// Whether there is a slot at once; else [`Admitted::turn`] waits.
    pub fn has_slot(&self) -> bool {
        matches!(self.turn, Turn::Now(_))
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// The end of a run whose turn did not come: the daemon stops, or it was cancelled.
    pub async fn turn(self) -> Result<Ready, Ended> {
        let Self { run, turn } = self;
        let slot = match turn {
            Turn::Now(slot) => slot,
            Turn::Later(turn) => tokio::select! {
                biased;
                () = run.executor.0.stop.drain.cancelled() => return Err(run.drained()),
                () = run.job.cancel.cancelled() => return Err(run.cancelled()),
                slot = turn => match slot {
                    Ok(slot) => slot,
                    Err(_) => return Err(run.drained()),
                },
            },
        };
        Ready { run, slot }.unless_stopped()
    }

    /// Waits for a slot and runs the script to its end. Its place is free again when this returns, before anybody is told.
    pub async fn run(self) -> Ended {
        let ready = match self.turn().await {
            Ok(ready) => ready,
            Err(ended) => return ended,
        };
        // Boxed: a run in line must not hold the memory of one that runs.
        Box::pin(async move {
            match ready.start().await {
                Ok(running) => running.end().await,
                Err(ended) => ended,
            }
        })
        .await
    }
}

impl Ready {
    /// Starts the script.
    ///
    /// # Errors
    /// The end of a run that did not start: there is no such script, it cannot be executed, the daemon stops, or it was
    /// cancelled.
    pub async fn start(self) -> Result<Running, Ended> {
        let Self { run, slot } = self.unless_stopped()?;
        let span = run.job.span();
        let begun = supervise::begin(&run.executor.0, &run.job).instrument(span.clone()).await;
        match begun {
            Ok(begun) => Ok(Running { run, begun, span, slot }),
            Err(outcome) => Err(run.unstarted(outcome, false)),
        }
    }

    fn unless_stopped(self) -> Result<Self, Ended> {
        if self.run.executor.0.stop.drain.is_cancelled() {
            return Err(self.run.drained());
        }
        if self.run.job.cancel.is_cancelled() {
            return Err(self.run.cancelled());
        }
        Ok(self)
    }
}

impl Running {
    /// The script's process id, and when it started as the system counts (0 where that is not told): together they name it also
    /// after a crash of the daemon. Reads a file of /proc.
    pub fn process(&self) -> (u32, u64) {
        let pid = self.begun.pid();
        (pid, orphans::start_time(pid).unwrap_or(0))
    }

    /// Waits for the script's end.
    pub async fn end(self) -> Ended {
        let Self { run, begun, span, slot } = self;
        let attended = supervise::attend(&run.executor.0, &run.job, begun).instrument(span).await;
        let Attended { outcome, captured, ms } = attended;
        drop(slot);
        Ended { job: run.over(), outcome, never_started: false, drained: false, captured, ms: Some(ms) }
    }
}

impl Ended {
    /// How it ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// What was kept of what the script printed: there is something if it started and [`Capture::Tail`] or [`Capture::Json`] was
    /// asked for.
    pub fn captured(&self) -> Option<&Captured> {
        self.captured.as_deref()
    }

    /// How long the script ran, in milliseconds; `None` if it never started.
    pub fn ms(&self) -> Option<u64> {
        self.ms
    }

    /// Whether nothing of it was ever started.
    pub fn never_started(&self) -> bool {
        self.never_started
    }

    /// Whether it never started only because the daemon stops: another daemon, or this one's next life, may do it.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// Logs how it ended: for after that has been told, since somebody waits for it.
    pub fn log(&self) {
        let Self { job, outcome, .. } = self;
        job.span().in_scope(|| info!(peer = %job.peer, ?outcome, "run ended"));
    }
}

impl Run {
    pub(super) fn new(
        job: Arc<Job>,
        closing: Closing,
        executor: Executor,
        place: OwnedSemaphorePermit,
        bytes: OwnedSemaphorePermit,
    ) -> Self {
        Self { job, executor, _closing: closing, _place: place, _bytes: bytes }
    }

    /// Gives back what it held.
    fn over(self) -> Arc<Job> {
        self.job
    }

    fn drained(self) -> Ended {
        self.unstarted(stopping(), true)
    }

    fn cancelled(self) -> Ended {
        self.unstarted(Outcome::failed(ErrorCode::Cancelled, "cancelled by whoever asked, before it started"), false)
    }

    fn unstarted(self, outcome: Outcome, drained: bool) -> Ended {
        Ended { job: self.over(), outcome, never_started: true, drained, captured: None, ms: None }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Capture::Stream(buffer) = &self.0.capture {
            buffer.close();
        }
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("run", &self.run).field("has_slot", &self.has_slot()).finish_non_exhaustive()
    }
}
