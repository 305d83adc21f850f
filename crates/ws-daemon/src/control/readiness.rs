//! Whether the daemon can do what it is for: through the executor and the disk, not by its socket alone. It mends nothing.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::Control;

/// How long a part may take to answer; then it does not.
const PART_ANSWERS: Duration = Duration::from_secs(2);

/// How ready it is, part by part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness(Vec<(&'static str, Result<&'static str, &'static str>)>);

impl Control {
    /// Looks at every part.
    pub async fn readiness(&self) -> Readiness {
        let executor = async {
            match timeout(PART_ANSWERS, self.0.executor.answers()).await {
                Ok(true) => Ok("ok"),
                Ok(false) => Err("the folder of scripts cannot be read"),
                Err(_) => Err("it does not answer"),
            }
        };
        let spool = async {
            let Some(spool) = &self.0.spool else { return Err("there is none; the log says why") };
            match timeout(PART_ANSWERS, spool.probe()).await {
                Ok(Ok(())) => Ok("ok"),
                Ok(Err(_)) => Err("the disk does not take what is to be kept"),
                Err(_) => Err("the disk does not answer"),
            }
        };
        let (executor, spool) = tokio::join!(executor, spool);
        let stopping = if self.0.executor.is_draining() { Err("the daemon stops") } else { Ok("no") };
        let link = match (&self.0.dialer, self.0.reached) {
            (Some(_), _) if self.0.peers.links().is_empty() => ("link", Err("the server is not linked")),
            (Some(_), _) => ("link", Ok("up")),
            (None, Some(_)) => ("port", Ok("listening")),
            (None, None) => ("port", Err("it is not listening")),
        };
        Readiness(vec![("executor", executor), ("spool", spool), link, ("stopping", stopping)])
    }
}

impl Readiness {
    /// Whether all is well.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(|(_, part)| part.is_ok())
    }

    /// Which part is how.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut shown = json!({ "status": if self.is_ready() { "ready" } else { "not ready" } });
        for (name, part) in &self.0 {
            shown[*name] = part.unwrap_or_else(|why| why).into();
        }
        shown
    }
}
