//! The scripts: futures that last as long, and end with the status, that their params say, and count their starts. What they count
//! outlives every daemon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;
use tokio::time::sleep;
use ws_daemon::exec::{Doer, Job};
use ws_daemon_protocol::outcome::Outcome;

/// The script that gets outcomes.
pub const THEN: &str = "then";

/// How often what was started. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By run: on which daemons.
    starts: HashMap<String, Vec<usize>>,
    /// By the caller's id.
    thens: HashMap<String, usize>,
}

impl Counts {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn starts(&self, run: &str) -> Vec<usize> {
        self.table().starts.get(run).cloned().unwrap_or_default()
    }

    pub fn thens(&self, id: &str) -> usize {
        self.table().thens.get(id).copied().unwrap_or(0)
    }

    /// Does the runs of one daemon.
    pub fn doer(&self, daemon: usize) -> Doer {
        let counts = self.clone();
        Doer::new(move |job| {
            let params: Value = serde_json::from_str(&job.params.compact()).unwrap_or_default();
            counts.note(daemon, job, &params);
            let code = params["code"].as_u64().and_then(|code| u8::try_from(code).ok()).unwrap_or(0);
            let lasts = Duration::from_millis(params["ms"].as_u64().unwrap_or(0));
            async move {
                sleep(lasts).await;
                Outcome::Exited(code)
            }
            .boxed()
        })
    }

    fn note(&self, daemon: usize, job: &Job, params: &Value) {
        let mut table = self.table();
        if job.name == THEN {
            *table.thens.entry(params["id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        } else {
            table.starts.entry(job.run.to_string()).or_default().push(daemon);
        }
    }
}
