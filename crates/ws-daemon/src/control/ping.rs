//! PING: a round trip to each daemon that is meant, without a run.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use ws_daemon_protocol::options::Route;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};
use ws_daemon_protocol::target::Target;

use super::{Answer, Control};
use crate::link::Link;
use crate::peers::{Choice, Pick};

/// Lines that wait to be written; when full, the pings wait.
const LINES: usize = 64;

impl Control {
    /// Pings whoever matches; `None` is everyone.
    pub(super) fn ping(&self, target: Option<Target>) -> Answer {
        let one = target.as_ref().and_then(Target::single_name).is_some();
        let peers = &self.0.peers;
        let found: Vec<(String, Option<Link>)> =
            peers.all_matching(target.as_ref()).into_iter().map(|peer| (peer.name, peer.link)).collect();
        if found.is_empty() && one {
            let choice = Choice { target: target.as_ref(), route: &Route::RoundRobin, not: None };
            let hint = match peers.pick(&choice) {
                Pick::UnknownTarget(Some(nearest)) => format!("; did you mean {nearest:?}?"),
                _ => String::new(),
            };
            let why = format!("no peer of that name was ever seen here{hint}");
            return Answer::Outcome(Outcome::Failed(ErrorCode::UnknownTarget, why));
        }
        let wait = peers.terms().ping;
        let (say, said) = mpsc::channel(LINES);
        self.0.rest.spawn(async move {
            let mut pings: FuturesUnordered<_> = found.into_iter().map(|(name, link)| round_trip(name, link, wait)).collect();
            let (mut runs, mut failed) = (0, 0);
            while let Some(line) = pings.next().await {
                runs += 1;
                failed += usize::from(line["status"] != 0);
                if say.send(line).await.is_err() {
                    return;
                }
            }
            if !one {
                drop(say.send(json!({ "event": "done", "runs": runs, "failed": failed })).await);
            }
        });
        Answer::Objects(said)
    }
}

async fn round_trip(name: String, link: Option<Link>, wait: std::time::Duration) -> Value {
    let pinged = match link {
        None => Err(Outcome::failed(ErrorCode::NoPeer, "it is not connected now")),
        Some(link) => match timeout(wait, link.ping()).await {
            Ok(pinged) => pinged,
            Err(_) => Err(Outcome::Failed(ErrorCode::Interrupted, format!("it did not answer within {wait:?}"))),
        },
    };
    match pinged {
        Ok(took) => json!({ "status": 0, "peer": name, "us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX) }),
        Err(outcome) => {
            let mut report = Report::from(outcome);
            report.more_mut().peer = Some(name.into());
            serde_json::from_str(&report.to_json(None)).unwrap_or_default()
        }
    }
}
