//! The life of one run, from its name to its outcome.
//!
//! ```text
//!   Running ── exit ──► Draining ── pipes at their end, 1 s, or KILL ──► reaped, Exited or Signaled
//!      │ TERM (shutdown)
//!      ▼
//!   Terminating ── exit and pipes at their end ──► KILL to what is left of the group, reaped
//!      │ KILL (grace over)                                 ▲
//!      └───────────────────────────────────────────────────┘
//! ```
//!
//! The child is reaped last: until then the number of its group is taken, and a signal to it can hit nobody else. A script that
//! ends by itself leaves its background programs alone; one that was stopped leaves nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal as Kill, WaitStatus};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Signal};

use super::output::{Output, drain_both};
use super::process::{Pipes, Process};
use super::start::{Started, start};
use super::{Inner, Job, LISTENING};

/// How long a finished script's pipes may stay open, held by what it left in the background, before its status is told.
const DRAIN: Duration = Duration::from_secs(1);

/// How often, and how far apart, a script is tried again that someone is just writing.
const BUSY_TEXT: (u32, Duration) = (10, Duration::from_millis(20));

/// Runs `job` to its end.
pub async fn run(inner: &Arc<Inner>, job: &Arc<Job>) -> Outcome {
    let mut tries = 0;
    loop {
        match start_somewhere(inner, job).await {
            Started::Running(process, pipes) => {
                debug!(peer = %job.peer, "script started");
                return attend(inner, process, pipes, job.params.compact().as_bytes()).await;
            }
            Started::BeingWritten(_) if tries < BUSY_TEXT.0 => {
                tries += 1;
                sleep(BUSY_TEXT.1).await;
            }
            Started::BeingWritten(outcome) | Started::Refused(outcome) => return outcome,
        }
    }
}

/// Here if this is the only run, and on a thread of its own kind if there is more to do.
async fn start_somewhere(inner: &Arc<Inner>, job: &Arc<Job>) -> Started {
    if !inner.is_busy() {
        return start(inner, job, true);
    }
    let (inner_there, job_there) = (Arc::clone(inner), Arc::clone(job));
    let started = inner.starters.run(move || start(&inner_there, &job_there, false)).await;
    // Not tried again here: it may have been started there.
    started.unwrap_or_else(|| Started::Refused(Outcome::failed(ErrorCode::SpawnFailed, "the daemon lost it while starting it")))
}

/// From started to reaped.
async fn attend(inner: &Arc<Inner>, mut process: Process, pipes: Pipes, params: &[u8]) -> Outcome {
    let Pipes { stdin, output: mut streams } = pipes;
    let busy = inner.is_busy();
    let (mut exited, mut drained, mut terminating, mut killed) = (false, false, false, false);
    let mut drain_until = Instant::now();
    {
        let mut feeding = std::pin::pin!(feed(stdin, params));
        let mut draining = std::pin::pin!(drain_both(&mut streams));
        let mut later = std::pin::pin!(inner.later());
        let (mut fed, mut watching) = (false, false);
        if busy {
            // By the time it is this run's turn again, a short script may have ended.
            yield_now().await;
        }
        while !(exited && drained) {
            tokio::select! {
                result = process.exited(), if !exited && (drained || watching || terminating || killed) => {
                    exited = true;
                    drain_until = Instant::now() + DRAIN;
                    if let Err(error) = result {
                        // Unwatched it cannot be waited for without blocking, so it is stopped: never a run without an end.
                        warn!(%error, "the watch on a process failed; it is stopped");
                        process.signal_group(Kill::KILL);
                    }
                }
                () = &mut draining, if !drained => drained = true,
                () = &mut later, if !watching => watching = true,
                () = &mut feeding, if !fed => fed = true,
                // What a script that ended by itself left behind is let be: its end may not have been looked for yet.
                () = inner.stop.terminate.cancelled(), if !exited && !terminating => match process.has_ended() {
                    Ok(true) => watching = true,
                    _ => {
                        terminating = true;
                        process.signal_group(Kill::TERM);
                    }
                },
                () = inner.stop.kill.cancelled(), if !killed => {
                    if !terminating && (exited || process.has_ended().unwrap_or(false)) {
                        break;
                    }
                    killed = true;
                    process.signal_group(Kill::KILL);
                }
                () = sleep_until(drain_until), if exited && (!terminating || killed) => break,
            }
        }
    }
    if terminating || killed {
        process.signal_group(Kill::KILL);
    } else if !drained {
        listen_on(inner, streams);
    }
    conclude(process.reap(), terminating || killed)
}

/// Gives the script its params on stdin. One that does not read them is let be.
async fn feed(stdin: Option<OwnedFd>, params: &[u8]) {
    let Some(stdin) = stdin else { return };
    match pipe::Sender::from_owned_fd_unchecked(stdin) {
        Ok(mut stdin) => drop(stdin.write_all(params).await),
        // It is closed by that, so the script reads an end and can say that its params are cut.
        Err(error) => warn!(%error, "a script's params cannot be written"),
    }
}

/// Goes on reading what a finished script's background programs print, so that they neither wait nor die of a closed pipe.
fn listen_on(inner: &Inner, mut streams: [Output; 2]) {
    let Ok(place) = Arc::clone(&inner.listening).try_acquire_owned() else {
        warn!(LISTENING, "too many programs left in the background by scripts: the pipes of this one are closed");
        return;
    };
    let stop = inner.stop.close_local.clone();
    inner.background.spawn(async move {
        let _place = place;
        tokio::select! {
            () = drain_both(&mut streams) => {}
            () = stop.cancelled() => {}
        }
    });
}

/// The outcome of a reaped run.
fn conclude(status: io::Result<WaitStatus>, stopped: bool) -> Outcome {
    let status = match status {
        Ok(status) => status,
        Err(error) => return Outcome::failed(ErrorCode::Interrupted, format!("the script's exit status was lost: {error}")),
    };
    match (status.exit_status(), status.terminating_signal().unwrap_or_default()) {
        // The kernel keeps eight bits of it.
        (Some(code), _) => Outcome::Exited(code.to_le_bytes()[0]),
        (None, signal) if stopped => {
            Outcome::Stopped(ErrorCode::Cancelled, "the daemon was stopped while the script ran".into(), Signal(signal))
        }
        (None, signal) => Outcome::Signaled(Signal(signal)),
    }
}
