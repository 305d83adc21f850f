//! The programs in hooks/ that are told when something happens. They run as scripts do, and what comes of them is logged.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::message::Params;

use crate::exec::{Caller, Capture, Executor, Folder, Job};
use crate::tasks::Tasks;

/// Runs hooks.
#[derive(Debug)]
pub struct Hooks {
    executor: Executor,
    tasks: Tasks,
}

impl Hooks {
    /// The hooks of one executor.
    pub fn new(executor: Executor, tasks: Tasks) -> Self {
        Self { executor, tasks }
    }

    /// Runs the hook `name`, if there is one, with what happened as its params.
    pub fn run(&self, name: &'static str, about: &Value) {
        if !self.executor.has_hook(name) {
            return;
        }
        let raw: Option<Box<RawValue>> = serde_json::from_str(&about.to_string()).ok();
        let peer: Arc<str> = about["peer"].as_str().unwrap_or_default().into();
        let job = Job {
            run: RunId::new(Uuid::now_v7().to_string()),
            id: None,
            trace: None,
            name: name.into(),
            params: Params::new(raw.as_deref()),
            peer,
            caller: Caller::Local,
            folder: Folder::Hooks,
            timeout: None,
            capture: Capture::None,
            cancel: CancellationToken::new(),
        };
        match self.executor.admit(job) {
            Ok(admitted) => self.tasks.spawn(async move {
                let ended = admitted.run().await;
                ended.log();
                info!(hook = name, outcome = ?ended.outcome(), "hook ended");
            }),
            Err(outcome) => warn!(hook = name, ?outcome, "a hook was not run"),
        }
    }
}
