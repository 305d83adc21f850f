//! How a life of the daemon ends: what it is told to do, and in which order all stops, or is prepared for the next life. It never
//! begins one.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, error, info, warn};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::signals::{Signals, Told};
use super::{Counts, INBOUND, Program};
use crate::control::{Order, Orders};
use crate::link::Inbound;
use crate::peers::Peers;
use crate::tasks::Stop;

/// How long a peer may take to answer that it has heard of a restart.
const ANSWERS: Duration = Duration::from_secs(2);

/// How long a restart is put off for requests that wait for a peer to come back, as long as they do.
const COMES_BACK: Duration = Duration::from_secs(10);

/// How long what has connected, or was read, is waited for until it is looked at.
const LOOKS: Duration = Duration::from_secs(1);

/// From KILL to the end: the time to reap, to settle and to part.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// Ends when the daemon is told to end, in whichever way. What it is told before is passed on to `reload`; a new life is begun only if
/// the `program` on disk takes the settings.
pub async fn told(signals: &mut Signals, reload: &Orders, restarts: &mut mpsc::Receiver<Order>, program: &Program) -> Told {
    loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Reload => reload.give(),
                told => return told,
            },
            Some(order) = restarts.recv() => {
                let checked = tokio::select! {
                    checked = program.check() => checked,
                    () = signals.stop() => return Told::Stop,
                };
                let will = checked.is_ok();
                // Whoever asked may be gone.
                let _ = order.send(restarts_or_not(checked));
                if will {
                    return Told::Restart;
                }
            }
        }
    }
}

/// The answer to RESTART.
fn restarts_or_not(checked: Result<(), String>) -> Result<Value, Outcome> {
    match checked {
        Ok(()) => Ok(json!({ "pid": std::process::id() })),
        Err(why) => {
            error!(%why, "told to restart, and nothing was done");
            Err(Outcome::Failed(ErrorCode::BadMessage, format!("nothing was done: {why}")))
        }
    }
}

/// Ends when no request waits for a peer to come back: once a restart has begun, none could. `false` at a signal that says stop.
pub async fn all_back(stop: &Stop, signals: &mut Signals) -> bool {
    stop.away.close();
    tokio::select! {
        () = stop.away.wait() => true,
        () = sleep(COMES_BACK) => true,
        () = signals.stop() => false,
    }
}

/// Ends when nothing is asked and nothing runs any more, and no peer has anything on the way here: each has heard that it is to ask
/// for nothing more. Or at `end`. `false` at a signal that says stop.
pub async fn quiet(
    peers: &Peers,
    handed_up: &mpsc::Sender<Inbound>,
    counts: &Counts,
    stop: &Stop,
    end: Instant,
    signals: &mut Signals,
) -> bool {
    let work = async {
        heard(peers, handed_up).await;
        stop.askers.close();
        // Whoever has only connected is not waited for any longer.
        drop(timeout(LOOKS, stop.askers.wait()).await);
        counts.requests.ended().await;
        counts.runs.ended().await;
        counts.requests.ended().await;
    };
    tokio::select! {
        () = work => true,
        () = sleep_until(end) => true,
        () = signals.stop() => false,
    }
}

/// Ends when every peer has heard what was told to all of them before, and all is sorted that they had sent until then.
async fn heard(peers: &Peers, handed_up: &mpsc::Sender<Inbound>) {
    let links = peers.links();
    // The answer comes behind all that was sent before it. Whoever does not answer is waited for no longer than that.
    join_all(links.iter().map(|link| timeout(ANSWERS, link.ping()))).await;
    // There is room for as many as there may be: all that was handed up is sorted.
    drop(handed_up.reserve_many(INBOUND).await);
}

/// Ends when all that runs and all that was asked for is over, however long that takes, or at a signal that says stop. What peers had sent
/// before they heard that this daemon drains is done as well.
pub async fn drained(peers: &Peers, handed_up: &mpsc::Sender<Inbound>, stop: &Stop, counts: &Counts, signals: &mut Signals) {
    let work = async {
        heard(peers, handed_up).await;
        stop.turn_away.cancel();
        debug!("nothing more is taken of peers");
        counts.runs.ended().await;
        counts.requests.ended().await;
        // What was asked for may have been asked of this daemon itself.
        counts.runs.ended().await;
    };
    tokio::select! {
        () = work => info!("drained"),
        () = signals.stop() => {}
    }
}

/// Stops in order: no new work; what runs may finish for half the grace; then TERM, and at its end, or at a second signal, KILL.
/// What was made of every run and request is on its way before the links and the local connections are closed.
pub async fn shut_down(stop: &Stop, counts: &Counts, (begun, grace): (Instant, Duration), signals: &mut Signals) {
    stop.turn_away.cancel();
    stop.drain.cancel();
    let work = async {
        counts.runs.ended().await;
        counts.requests.ended().await;
        counts.copies.ended().await;
    };
    let patient = tokio::select! {
        () = work => true,
        () = sleep_until(begun + grace / 2) => true,
        () = signals.stop() => false,
    };
    if patient {
        stop.terminate.cancel();
        let stopped = async {
            counts.runs.ended().await;
            counts.copies.ended().await;
        };
        tokio::select! {
            () = stopped => {}
            () = sleep_until(begun + grace) => {}
            () = signals.stop() => {}
        }
    }
    stop.kill.cancel();
    let end = Instant::now() + LAST_STEPS;
    let steps = async {
        counts.runs.ended().await;
        counts.copies.ended().await;
        stop.close_links.cancel();
        counts.requests.ended().await;
        counts.links.ended().await;
    };
    if timeout_at(end - LAST_STEPS / 4, steps).await.is_err() {
        warn!("not everything was settled in time");
        stop.close_links.cancel();
    }
    stop.close_local.cancel();
    let rest = async {
        counts.connections.ended().await;
        counts.lives.ended().await;
        counts.rest.ended().await;
    };
    if timeout_at(end, rest).await.is_err() {
        warn!("some local connections did not take their last answers in time");
    }
    info!(took = ?begun.elapsed(), "stopped");
}
