//! The doing side: a run that a peer asks for is claimed, executed, and its outcome sent home by the way it came. It never knows
//! what is asked here.

use std::sync::Arc;

use tracing::info;
use uuid::Uuid;
use ws_daemon_protocol::codec::v2::Verdict;
use ws_daemon_protocol::id::RunId;

use crate::exec::{Executor, Job};
use crate::link::IncomingRun;
use crate::tasks::Tasks;

/// Claims runs for one executor.
#[derive(Debug, Clone)]
pub struct Worker {
    executor: Executor,
    runs: Tasks,
}

impl Worker {
    /// A worker whose runs are counted by `runs`.
    #[must_use]
    pub fn new(executor: Executor, runs: Tasks) -> Self {
        Self { executor, runs }
    }

    /// Takes a run in hand. Never waits: a run for which there is no place is answered at once.
    pub fn claim(&self, incoming: IncomingRun) {
        let IncomingRun { name, params, order, replier } = incoming;
        let run = replier.run().cloned().unwrap_or_else(|| RunId::new(Uuid::now_v7().to_string()));
        // On a version 2 link the caller's id stands beside the run's.
        let id = if replier.run().is_some() { order.caller } else { replier.id().cloned() };
        let job = Job { run, id, name, params, peer: Arc::clone(replier.peer()) };
        match self.executor.admit(job) {
            Ok(admitted) => self.runs.spawn(async move {
                let ended = admitted.run().await;
                replier.report(&ended.outcome().clone().into(), Verdict::default());
                ended.log();
            }),
            Err(outcome) => {
                info!(peer = %replier.peer(), ?outcome, "run refused");
                replier.report(&outcome.into(), Verdict::default());
            }
        }
    }
}
