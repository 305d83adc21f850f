//! What comes after: the local script that gets a request's outcome, once, also if whoever asked is long gone. It never reports
//! what came of that script; the log has it.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::Params;
use ws_daemon_protocol::outcome::{Outcome, Report};

use super::Origin;
use crate::exec::{Admitted, Caller, Capture, Folder, Job};
use crate::spool::{SpoolError, ThenDue};

/// The wait before a script that found no place in line is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl Origin {
    /// Gives the outcome of a direct request to its script.
    pub fn then(&self, script: &str, id: Option<&CallerId>, each: bool, reports: &[Report]) {
        let texts: Vec<String> = reports.iter().map(|report| report.to_json(if each { None } else { id })).collect();
        let params = if each { all(id.map(CallerId::as_json), &texts) } else { texts.into_iter().next().unwrap_or_default() };
        let (origin, script) = (self.clone(), Box::from(script));
        self.requests().spawn(async move {
            if let Ok(admitted) = origin.admit_then(script, &params) {
                finish(admitted).await;
            }
        });
    }

    /// Gives the outcome of a queued request to its script: it is noted on disk before the script starts, so that it runs once.
    pub fn aftermath(&self, due: ThenDue) {
        let Some(spool) = self.spool().cloned() else { return };
        let origin = self.clone();
        self.lives().spawn(async move {
            let stopping = origin.stop().refuse.clone();
            let ThenDue { spool: instance, request, script, caller_id, reports } = due;
            let params = match &reports[..] {
                [one] => with_id(one, caller_id.as_deref()),
                many => all(caller_id.as_deref(), many),
            };
            loop {
                match origin.admit_then(script.clone(), &params) {
                    Ok(admitted) => match spool.then_started(&instance, request).await {
                        Ok(()) => return finish(admitted).await,
                        Err(SpoolError::Unknown) if spool.identity().instance != instance => {
                            warn!(
                                script = &*script,
                                "the spool in which its start is to be noted is lost; started all the same"
                            );
                            return finish(admitted).await;
                        }
                        Err(error) => warn!(%error, script = &*script, "a script waits for the spool"),
                    },
                    Err(outcome) => info!(?outcome, script = &*script, "a script waits for a place in line"),
                }
                tokio::select! {
                    () = sleep(AGAIN) => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    fn admit_then(&self, script: Box<str>, params: &str) -> Result<Admitted, Outcome> {
        let raw: Option<Box<RawValue>> = serde_json::from_str(params).ok();
        self.executor().admit(Job {
            run: RunId::new(Uuid::now_v7().to_string()),
            id: None,
            trace: None,
            name: script.into(),
            params: Params::new(raw.as_deref()),
            peer: "then".into(),
            caller: Caller::Local,
            folder: Folder::Scripts,
            timeout: None,
            capture: Capture::None,
            cancel: CancellationToken::new(),
        })
    }
}

async fn finish(admitted: Admitted) {
    admitted.run().await.log();
}

/// A final line as its caller got it.
fn with_id(report: &str, id: Option<&str>) -> String {
    match (Report::parse(report), id) {
        (Ok(report), Some(id)) => {
            let raw: Option<Box<RawValue>> = serde_json::from_str(id).ok();
            report.to_json(raw.as_deref().and_then(CallerId::new).as_ref())
        }
        _ => report.to_owned(),
    }
}

/// The outcome of a fan-out.
fn all<T: AsRef<str>>(id: Option<&str>, reports: &[T]) -> String {
    let id = id.map_or(String::new(), |id| format!("\"id\":{id},"));
    let is_good = |report: &str| Report::parse(report).is_ok_and(|report| report.status == Some(0));
    let failed = reports.iter().filter(|report| !is_good(report.as_ref())).count();
    let list: Vec<&str> = reports.iter().map(AsRef::as_ref).collect();
    format!("{{\"event\":\"done\",{id}\"runs\":{},\"failed\":{failed},\"reports\":[{}]}}", list.len(), list.join(","))
}
