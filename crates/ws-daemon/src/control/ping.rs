//! PING: a round trip to each daemon that is meant, without a run. Of one that is here and has room it takes no task: whoever hears the
//! answer writes the line.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::CallerId;
use ws_daemon_protocol::options::Route;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};
use ws_daemon_protocol::target::Target;

use super::{Answer, Control};
use crate::link::{Link, Pinging, Pong, lost};
use crate::peers::{Choice, Pick};

/// Lines that wait to be written; when full, the pings wait.
const LINES: usize = 64;

/// Where the line of one PING goes.
pub trait Hears: Send + 'static {
    /// Whether nobody reads it any more.
    fn is_gone(&self) -> bool;

    /// Writes it. Whoever tells it may hold a lock: this must not wait, and not ask for anything.
    fn line(self, line: &str);
}

/// One who waits for the answer of one peer.
struct Waits<H> {
    hears: H,
    id: Option<CallerId>,
    peer: Arc<str>,
    since: Instant,
    within: Duration,
}

impl<H: Hears> Pinging for Waits<H> {
    fn is_gone(&self) -> bool {
        self.hears.is_gone()
    }

    fn hear(self: Box<Self>, pong: Pong) {
        let Self { hears, id, peer, since, within } = *self;
        let pinged = match pong {
            Pong::Answered => Ok(since.elapsed()),
            Pong::Overdue => Err(overdue(within)),
            Pong::Lost => Err(lost()),
        };
        hears.line(&line(&peer, id.as_ref(), pinged));
    }
}

impl Control {
    /// Whom this command pings, if it can be done [on the spot](Self::ping_at_once): one peer by its name, whose link has room.
    #[must_use]
    pub fn pings_at_once(&self, command: &Command) -> Option<Link> {
        let Command::Ping(Some(target)) = command else { return None };
        let link = target.single_name().and_then(|name| self.0.peers.named(name));
        link.filter(|link| link.is_v2() && link.has_room_now())
    }

    /// Carries out such a command.
    pub fn ping_at_once(&self, link: &Link, command: &Command, id: Option<CallerId>, hears: impl Hears) {
        self.0.peers.counters().command(command);
        let (since, within) = (Instant::now(), self.0.peers.terms().ping);
        let peer = Arc::clone(link.shared_peer());
        link.ask_ping(Box::new(Waits { hears, id, peer, since, within }), since.checked_add(within));
    }

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

async fn round_trip(name: String, link: Option<Link>, wait: Duration) -> String {
    let pinged = match link {
        None => Err(Outcome::failed(ErrorCode::NoPeer, "it is not connected now")),
        Some(link) => {
            let pinging = async {
                link.has_room().await;
                link.ping().await
            };
            timeout(wait, pinging).await.unwrap_or_else(|_| Err(overdue(wait)))
        }
    };
    line(&name, None, pinged)
}

fn line(peer: &str, id: Option<&CallerId>, pinged: Result<Duration, Outcome>) -> String {
    match pinged {
        Ok(took) => {
            let (before, id) = id.map_or(("", ""), |id| (",\"id\":", id.as_json()));
            format!("{{\"status\":0{before}{id},\"peer\":{},\"us\":{}}}", Value::from(peer), took.as_micros())
        }
        Err(outcome) => {
            let mut report = Report::from(outcome);
            report.more_mut().peer = Some(peer.into());
            report.to_json(id)
        }
    }
}

fn overdue(within: Duration) -> Outcome {
    Outcome::Failed(ErrorCode::Interrupted, format!("it did not answer within {within:?}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use ws_daemon_protocol::id::RunId;

    use super::*;

    impl Hears for mpsc::Sender<String> {
        fn is_gone(&self) -> bool {
            false
        }

        fn line(self, line: &str) {
            self.send(line.to_owned()).expect("it is heard");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_a_ping_is_one_line() {
        let table = [
            (Pong::Answered, r#"{"status":0,"id":"i","peer":"a\"b","us":1500}"#),
            (
                Pong::Overdue,
                r#"{"status":-5,"id":"i","peer":"a\"b","error":"interrupted","message":"it did not answer within 20s"}"#,
            ),
            (
                Pong::Lost,
                r#"{"status":-2,"id":"i","peer":"a\"b","error":"link_lost","message":"the link was lost before the answer came"}"#,
            ),
        ];
        for (pong, line) in table {
            let (hears, heard) = mpsc::channel();
            let (id, since, within) = (Some(CallerId::from(&RunId::new("i"))), Instant::now(), Duration::from_secs(20));
            tokio::time::advance(Duration::from_micros(1500)).await;
            Box::new(Waits { hears, id, peer: "a\"b".into(), since, within }).hear(pong);
            assert_eq!(heard.recv().as_deref(), Ok(line));
        }
    }
}
