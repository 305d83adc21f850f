//! The doing side: a run that a peer asks for is claimed, executed, and its outcome sent home by the way it came. It never knows
//! what is asked here.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;
use ws_daemon_protocol::id::RunId;

use crate::exec::{Capture, Executor, Folder, Job};
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
        let IncomingRun { name, params, replier } = incoming;
        let run = RunId::new(Uuid::now_v7().to_string());
        let job = Job {
            run,
            id: replier.id().cloned(),
            name,
            params,
            peer: Arc::clone(replier.peer()),
            folder: Folder::Scripts,
            timeout: None,
            capture: Capture::None,
            cancel: CancellationToken::new(),
        };
        match self.executor.admit(job) {
            Ok(admitted) => self.runs.spawn(async move {
                let ended = admitted.run().await;
                replier.report(ended.outcome().clone());
                ended.log();
            }),
            Err(outcome) => {
                info!(peer = %replier.peer(), ?outcome, "run refused");
                replier.report(outcome);
            }
        }
    }
}
