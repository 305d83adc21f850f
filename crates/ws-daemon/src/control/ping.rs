//! PING: a round trip to each daemon that is meant, without a run.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use ws_daemon_protocol::event::Event;
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
    pub(super) fn ping(&self, target: Option<&Target>) -> Answer {
        let one = target.and_then(Target::single_name).is_some();
        let peers = &self.0.peers;
        let found: Vec<(String, Option<Link>)> =
            peers.all_matching(target).into_iter().map(|peer| (peer.name, peer.link)).collect();
        if found.is_empty() && one {
            let choice = Choice { target, route: &Route::RoundRobin, not: None, within: None };
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
                failed += usize::from(!line.starts_with("{\"status\":0,"));
                if say.send(line).await.is_err() {
                    return;
                }
            }
            if !one {
                drop(say.send(Event::Done { runs, failed }.to_json(None)).await);
            }
        });
        Answer::Objects(said)
    }
}

async fn round_trip(name: String, link: Option<Link>, wait: std::time::Duration) -> String {
    let pinged = match link {
        None => Err(Outcome::failed(ErrorCode::NoPeer, "it is not connected now")),
        Some(link) => match timeout(wait, link.ping()).await {
            Ok(pinged) => pinged,
            Err(_) => Err(Outcome::Failed(ErrorCode::Interrupted, format!("it did not answer within {wait:?}"))),
        },
    };
    match pinged {
        Ok(took) => format!("{{\"status\":0,\"peer\":{},\"us\":{}}}", Value::from(name), took.as_micros()),
        Err(outcome) => {
            let mut report = Report::from(outcome);
            report.more_mut().peer = Some(name.into());
            report.to_json(None)
        }
    }
}
