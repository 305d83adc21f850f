//! A run that a client asks its server for, but that another peer of the server is to do: it is asked for here in the client's
//! place, and what becomes of it goes back. Whether it may be is for others to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use ws_daemon_protocol::codec::v2::{OUTPUT_COST_BYTES, Order, Progress, Verdict};
use ws_daemon_protocol::command::Which;
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::Request;
use ws_daemon_protocol::options::{Options, Queue};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::Control;
use crate::link::{IncomingRun, Link, Replier};
use crate::origin::{Origin, RELAYED, Said};
use crate::peers::Match;
use crate::policy::Scope;
use crate::worker::Credit;

/// The longest list of others that is told, in bytes; a longer one is refused.
const OTHERS_BYTES: usize = 8 << 20;

/// The runs that are passed on. Clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct Relays(Arc<Mutex<HashMap<Key, Arc<Passed>>>>);

/// What whoever asked says of a run while it lasts.
#[derive(Debug)]
struct Passed {
    credit: Credit,
    cancel: CancellationToken,
}

/// Who asked, and for which run.
type Key = (Box<str>, RunId);

impl Relays {
    fn table(&self) -> MutexGuard<'_, HashMap<Key, Arc<Passed>>> {
        // Every section leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More output of a run that is passed on may go back.
    pub fn credit(&self, link: &Link, run: &RunId, bytes: u64) {
        if let Some(passed) = key(link, run).and_then(|key| self.table().get(&key).cloned()) {
            passed.credit.give(bytes);
        }
    }

    /// Orders a run to be stopped that was passed on. `false` if there is no such one.
    pub fn cancel(&self, link: &Link, run: &RunId) -> bool {
        let passed = key(link, run).and_then(|key| self.table().get(&key).cloned());
        passed.map(|passed| passed.cancel.cancel()).is_some()
    }

    /// Whoever asked is gone.
    pub fn is_gone(&self, link: &Link) {
        let Some(asker) = link.instance() else { return };
        self.table().iter().filter(|((of, _), _)| &**of == asker).for_each(|(_, passed)| passed.credit.close());
    }
}

fn key(link: &Link, run: &RunId) -> Option<Key> {
    Some((link.instance()?.into(), run.clone()))
}

impl Control {
    /// What a client is told that asks who else there is: those that its runs can be passed on to.
    pub(super) fn others(&self, asker: &Link) -> Report {
        let others = self.0.peers.all_matching(None).into_iter();
        let sees = self.0.rules.sees(asker.standing());
        let others = others.filter(|peer| peer.instance.is_some() && peer.instance.as_deref() != asker.instance());
        let others = others.filter(|peer| sees.has(&peer.name, &peer.tags));
        let show = |peer: Match| json!({ "name": peer.name, "tags": peer.tags, "connected": peer.link.is_some() });
        let others = others.map(show).collect::<Value>().to_string();
        if others.len() > OTHERS_BYTES {
            return Outcome::failed(ErrorCode::TooLarge, "there are too many others to be told of").into();
        }
        let mut report = Report::from(Outcome::Exited(0));
        report.more_mut().result = Some(others.into());
        report
    }

    /// Passes a run on that may be passed on to somebody `within`.
    pub(super) fn relay(&self, relays: &Relays, incoming: IncomingRun, within: Scope) {
        let IncomingRun { name, params, order, replier } = incoming;
        let verdict = Verdict { attempt: order.queue.then_some(order.attempt), refused: false };
        let (Some(run), Some(asker)) = (replier.run().cloned(), replier.asker().map(str::to_owned)) else { return };
        let id = relayed_id(&run, order.attempt);
        let request = Request { name, id: Some(id.clone()), params, options: options(&order) };
        let said = self.0.origin.order_for(request, &format!("{RELAYED}{asker}"), order.caller, within);
        let key = (Box::from(asker), run);
        let passed = Arc::new(Passed { credit: Credit::new(order.credit), cancel: CancellationToken::new() });
        relays.table().insert(key.clone(), Arc::clone(&passed));
        let (relays, origin) = (relays.clone(), self.0.origin.clone());
        self.0.rest.spawn(async move {
            let heard = Notify::new();
            tokio::select! {
                () = go_back(said, &replier, verdict, &passed.credit, &heard) => {}
                () = stop(&origin, id, &passed.cancel, &heard) => {}
            }
            let mut table = relays.table();
            // It may have been offered again meanwhile.
            if table.get(&key).is_some_and(|now| Arc::ptr_eq(now, &passed)) {
                table.remove(&key);
            }
        });
    }
}

/// Stops a run that was passed on once that is wanted, and goes on for ever. One that is not yet known here is tried again
/// when something is `heard` of it.
async fn stop(origin: &Origin, id: CallerId, wanted: &CancellationToken, heard: &Notify) {
    wanted.cancelled().await;
    let which = Which::Id(id);
    loop {
        match origin.cancel(&which).await {
            Ok(true) => return std::future::pending().await,
            Ok(false) => {}
            Err(outcome) => warn!(?which, ?outcome, "a run that was passed on was not stopped"),
        }
        heard.notified().await;
    }
}

/// What a run goes by at the server: offered again, it attaches to what became of it.
fn relayed_id(run: &RunId, attempt: u32) -> CallerId {
    CallerId::from(&RunId::new(format!("{run}/{attempt}")))
}

fn options(order: &Order) -> Options {
    let hop = order.hop.as_deref();
    Options {
        to: hop.and_then(|hop| hop.to.clone()),
        route: hop.map(|hop| hop.route.clone()).unwrap_or_default(),
        timeout: order.timeout_ms.map(Duration::from_millis),
        output: order.output,
        queue: order.queue.then(Queue::default),
        events: true,
        trace: order.trace.clone(),
        ..Options::default()
    }
}

/// What is said of the run goes back to whoever asked.
async fn go_back(mut said: mpsc::Receiver<Said>, home: &Replier, verdict: Verdict, credit: &Credit, heard: &Notify) {
    let Some(run) = home.run() else { return };
    while let Some(said) = said.recv().await {
        heard.notify_one();
        match said {
            Said::Event(Event::Delivered { .. }) => home.event(Progress::Delivered),
            Said::Event(Event::Started { .. }) => home.event(Progress::Started),
            Said::Event(Event::Output(mut chunk)) => {
                let cost = chunk.cost().max(OUTPUT_COST_BYTES);
                chunk.run = run.clone();
                // Whoever is gone wants no more; the run goes on.
                if credit.wait(cost).await.is_some() {
                    credit.spend(cost);
                    home.link().output_room().await;
                    home.output(&chunk);
                }
            }
            Said::Event(_) | Said::Later(_) => {}
            Said::Final(report) => home.report(&of_this_run(report), verdict),
        }
    }
}

/// The run has another id here than at whoever asked.
fn of_this_run(mut report: Report) -> Report {
    report.more_mut().run = None;
    report
}
