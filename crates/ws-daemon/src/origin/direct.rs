//! The life of one direct run with options: one function from the choice of a peer to the report. It touches no disk: what is lost
//! with a link is told as lost. It never tells the report; its caller does.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use ws_daemon_protocol::codec::v2::Order;
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::CallerId;
use ws_daemon_protocol::message::Request;
use ws_daemon_protocol::options::OutputMode;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::ledger::Live;
use super::whom::{Way, Whom};
use super::{Origin, Said};
use crate::link::{Ask, AskBody, Departure, Link, RunEvent, RunStream, STREAM_CREDIT_BYTES, Sink, run_stream};

/// A direct run with options.
pub struct Direct<'a> {
    pub origin: &'a Origin,
    pub request: &'a Request,
    /// The caller's id, for the script to see.
    pub id: Option<CallerId>,
    pub live: &'a Live,
    pub whom: Whom,
    /// Who is told of its steps; nobody once they are gone.
    pub caller: Option<mpsc::Sender<Said>>,
}

/// An attempt on its way.
struct Attempt {
    link: Link,
    departure: Departure,
    stream: RunStream,
}

impl Direct<'_> {
    /// Has the whole life of the run.
    pub async fn run(mut self) -> Report {
        let mut tries = 0;
        loop {
            let report = self.attempt().await;
            let again = report.error_code() == Some(ErrorCode::Interrupted) && tries < self.request.options.retry;
            if !again || self.live.is_cancelled() {
                return report;
            }
            self.live.take_back();
            tries += 1;
        }
    }

    async fn attempt(&mut self) -> Report {
        let begun = Instant::now();
        let timeout = self.request.options.timeout;
        let over = async {
            match timeout {
                Some(timeout) => sleep_until(begun + timeout).await,
                None => std::future::pending().await,
            }
        };
        let departing = tokio::select! {
            biased;
            attempt = self.depart() => attempt,
            () = self.live.cancelled() => return cancelled_here(),
            () = over => {
                return Outcome::failed(ErrorCode::Expired, format!("it could not be sent within {timeout:?}; it did not run")).into();
            }
        };
        match departing {
            Ok(attempt) => self.attend(attempt).await,
            Err(outcome) => outcome.into(),
        }
    }

    /// Puts the run on the way to a peer, once there is one.
    async fn depart(&self) -> Result<Attempt, Outcome> {
        const FIXED: usize = 1 << 10;
        let cost = FIXED + self.request.name.len() + self.request.params.as_written().len();
        loop {
            let Way { link, hop } = self.origin.way(&self.whom, cost).await?;
            let options = &self.request.options;
            let order = Order {
                caller: self.id.clone(),
                timeout_ms: link.is_v2().then(|| options.timeout.map(super::whom::whole_ms)).flatten(),
                output: options.output,
                events: options.events,
                credit: if options.output == OutputMode::Stream { STREAM_CREDIT_BYTES } else { 0 },
                hop,
                trace: options.trace.clone(),
                ..Order::default()
            };
            link.supports(&order)?;
            link.has_room().await;
            if link.is_draining() && self.whom.instance.is_none() {
                continue;
            }
            let (sink, stream) = run_stream(order.credit);
            let departure = Departure::default();
            let body = AskBody::Run(self.request.name.clone(), self.request.params.clone(), order);
            let (id, run) = (self.id.clone(), self.live.run.clone());
            let ask = Ask { body, id, run, departure: departure.clone(), sink: Sink::Stream(sink) };
            if link.ask(ask).is_ok() {
                super::given(self.origin.news(), self.live, link.shared_peer());
                return Ok(Attempt { link, departure, stream });
            }
            // It died between the choice and now: the next one, since this run has not left.
        }
    }

    /// From on its way to its report.
    async fn attend(&mut self, attempt: Attempt) -> Report {
        let Attempt { link, departure, mut stream } = attempt;
        // A seed peer knows no timeout, so the asker gives up by itself.
        let over = self.request.options.timeout.filter(|_| !link.is_v2()).map(|timeout| Instant::now() + timeout);
        let mut outbox = VecDeque::new();
        let mut cancelled = false;
        loop {
            let caller = self.caller.clone();
            tokio::select! {
                permit = reserve(caller.as_ref()), if !outbox.is_empty() => match (permit, outbox.pop_front()) {
                    (Some(permit), Some((said, cost))) => {
                        permit.send(said);
                        if cost > 0 {
                            stream.credit(cost);
                        }
                    }
                    (_, left) => {
                        self.caller = None;
                        let cost: u64 = left.into_iter().chain(outbox.drain(..)).map(|(_, cost)| cost).sum();
                        stream.credit(cost);
                    }
                },
                event = stream.next(), if outbox.is_empty() => match self.heard(event, &link) {
                    Heard::Tell(said, cost) if self.caller.is_some() => outbox.push_back((said, cost)),
                    Heard::Tell(_, cost) => stream.credit(cost),
                    Heard::Nothing => {}
                    Heard::End(report) => return report,
                },
                () = self.live.cancelled(), if !cancelled => {
                    cancelled = true;
                    if departure.withdraw() {
                        return cancelled_here();
                    }
                    if !link.is_v2() {
                        return unstoppable("it was cancelled");
                    }
                    link.send_cancel(&self.live.run, None);
                }
                () = at(over), if over.is_some() => return unstoppable("its time is over"),
            }
        }
    }

    fn heard(&self, event: RunEvent, link: &Link) -> Heard {
        let (run, peer) = (|| self.live.run.clone(), || link.peer().into());
        let told = self.request.options.events;
        match event {
            RunEvent::Delivered => {
                self.live.note(|progress| progress.delivered = true);
                if told { Heard::Tell(Said::Event(Event::Delivered { run: run(), peer: peer() }), 0) } else { Heard::Nothing }
            }
            RunEvent::Started => {
                self.live.note(|progress| progress.started = true);
                if told { Heard::Tell(Said::Event(Event::Started { run: run(), peer: peer() }), 0) } else { Heard::Nothing }
            }
            RunEvent::Output(frame) => {
                let cost = frame.cost();
                Heard::Tell(Said::Event(Event::Output(frame)), cost)
            }
            RunEvent::Report(report, _) => Heard::End(with_peer(report, link.peer())),
            RunEvent::Lost { left: true } => {
                let why = "the link was lost while the peer had the request; it may have run";
                Heard::End(with_peer(Outcome::failed(ErrorCode::Interrupted, why).into(), link.peer()))
            }
            RunEvent::Lost { left: false } => Heard::End(
                Outcome::failed(ErrorCode::LinkLost, "the link was lost before the request left; it did not run").into(),
            ),
        }
    }
}

/// What an event of a run means here.
enum Heard {
    /// To be told, and what credit that is worth.
    Tell(Said, u64),
    Nothing,
    End(Report),
}

async fn reserve(caller: Option<&mpsc::Sender<Said>>) -> Option<mpsc::Permit<'_, Said>> {
    caller?.reserve().await.ok()
}

/// Ends at `time`, if there is one.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The report with who ran it, unless it says so already: then it came by a hop.
pub fn with_peer(mut report: Report, peer: &str) -> Report {
    report.more_mut().peer.get_or_insert_with(|| peer.into());
    report
}

fn cancelled_here() -> Report {
    Outcome::failed(ErrorCode::Cancelled, "cancelled before it left; it did not run").into()
}

/// What is said of a run on a seed peer that nobody waits for any more.
pub fn unstoppable(why: &str) -> Report {
    let message = format!("{why}, but the peer is a seed daemon, which cannot be told to stop it; it may still run");
    Outcome::Failed(ErrorCode::Interrupted, message).into()
}
