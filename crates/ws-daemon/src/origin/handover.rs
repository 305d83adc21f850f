//! What the next life of the daemon tells those who wait for queued runs: which they wait for, and what they have heard. The runs
//! themselves are on disk.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::warn;
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::follow::Follow;
use super::{Origin, Said};
use crate::spool::Spool;

/// Queued runs of one request that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Those that are not over.
    pub runs: Vec<String>,
    /// Whether their steps are told.
    pub events: bool,
    /// Of a fan-out: how many are over, and how many of these did not end with 0.
    pub each: Option<(usize, usize)>,
}

impl Awaited {
    /// Of one run, the end alone.
    #[must_use]
    pub fn end_of(run: &RunId) -> Self {
        Self { runs: vec![run.to_string()], events: false, each: None }
    }

    /// The run, if it is the end of one alone.
    #[must_use]
    pub fn is_end_of(&self) -> Option<RunId> {
        let Self { runs, events: false, each: None } = self else { return None };
        if let [run] = &runs[..] { Some(RunId::new(run.as_str())) } else { None }
    }
}

/// What waits to be told; when full, whoever tells waits.
const SAID: usize = 16;

impl Origin {
    /// Tells on of runs that were asked for in this daemon's last life.
    #[must_use]
    pub fn resume(&self, awaited: Awaited) -> mpsc::Receiver<Said> {
        let (say, said) = mpsc::channel(SAID);
        let origin = self.clone();
        self.requests().spawn(async move {
            let Some(spool) = origin.spool().cloned() else { return };
            let mut follows = Vec::new();
            for run in awaited.runs {
                match origin.awaited_run(&spool, RunId::new(run)).await {
                    Ok(follow) => follows.push(follow),
                    Err(outcome) => drop(say.send(Said::Final(outcome.into())).await),
                }
            }
            origin.tell_of(follows, awaited.events, false, awaited.each, &say).await;
        });
        said
    }

    /// The same of a run of which the end alone is told. `None`: there is no spool to find it in.
    ///
    /// # Errors
    /// When it cannot be looked up.
    pub async fn resume_end(&self, run: RunId) -> Option<Result<Follow, Outcome>> {
        Some(self.awaited_run(self.spool()?, run).await)
    }

    async fn awaited_run(&self, spool: &Spool, run: RunId) -> Result<Follow, Outcome> {
        match spool.run_record(run.clone()).await {
            Ok(Some(record)) => Ok(Follow::known(self, record).await),
            Ok(None) => {
                warn!(%run, "a run that somebody waits for is not known any more");
                Ok(Follow::lost(self, run))
            }
            Err(error) => Err(Outcome::failed(ErrorCode::SpoolFailed, error.to_string())),
        }
    }

    /// Tells of each run until it is over, then, of a fan-out, of all; `each`: how many were over before. When this daemon begins a new
    /// life, it is told who waits for what.
    pub(super) async fn tell_of(
        &self,
        follows: Vec<Follow>,
        events: bool,
        streams: bool,
        each: Option<(usize, usize)>,
        say: &mpsc::Sender<Said>,
    ) {
        let mut left: Vec<RunId> = follows.iter().map(|follow| follow.run().clone()).collect();
        let follow = |follow: Follow| {
            let run = follow.run().clone();
            let ended = follow.follow(say.clone(), events, streams);
            async move { (run, ended.await) }
        };
        let mut going: FuturesUnordered<_> = follows.into_iter().map(follow).collect();
        let (mut runs, mut failed) = each.unwrap_or_default();
        let (stopping, parking) = (self.stop().close_links.clone(), self.stop().park.clone());
        loop {
            let ended = tokio::select! {
                biased;
                ended = going.next() => ended,
                // Of output it is not known how much the process has read.
                () = parking.cancelled(), if !streams => {
                    let runs_left = left.iter().map(ToString::to_string).collect();
                    let awaited = Awaited { runs: runs_left, events, each: each.map(|_| (runs, failed)) };
                    return drop(say.send(Said::Later(awaited)).await);
                }
                // It stays on disk; there is nothing to say of it yet.
                () = stopping.cancelled() => return,
                // Nobody listens any more: the runs go on without this.
                () = say.closed() => return,
            };
            match ended {
                Some((run, Some(report))) => {
                    left.retain(|other| *other != run);
                    runs += 1;
                    failed += usize::from(report.status != Some(0));
                    drop(say.send(Said::Final(report)).await);
                }
                Some((_, None)) => return,
                None => break,
            }
        }
        if each.is_some() {
            drop(say.send(Said::Event(Event::Done { runs, failed })).await);
        }
    }
}
