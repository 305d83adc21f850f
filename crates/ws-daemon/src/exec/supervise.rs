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

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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
use super::process::{ARGUMENT_BYTES, Pipes, Process, Program};
use super::scripts::not_started;
use super::{Inner, Job, LISTENING};
use crate::system::c_text;

/// How long a finished script's pipes may stay open, held by what it left in the background, before its status is told.
const DRAIN: Duration = Duration::from_secs(1);

/// How long a script's pipes are open before its end is watched for as well: most scripts end with their pipes, and a watch costs
/// more than a look.
const WATCH_AFTER: Duration = Duration::from_millis(50);

/// How often, and how far apart, a script is tried again that someone is just writing.
const BUSY_TEXT: (u32, Duration) = (10, Duration::from_millis(20));

/// Runs `job` to its end.
pub async fn run(inner: &Inner, job: &Job) -> Outcome {
    let path = match inner.scripts.resolve(&job.name) {
        Ok(path) => path,
        Err(outcome) => return outcome,
    };
    let (process, pipes) = match start(inner, job, &path).await {
        Ok(started) => started,
        Err(error) => return not_started(&path, &error),
    };
    debug!(peer = %job.peer, "script started");
    attend(inner, process, pipes, job.params.compact().as_bytes()).await
}

/// Starts the script, its params in argv[1], or on stdin when they are too long for that.
async fn start(inner: &Inner, job: &Job, path: &Path) -> io::Result<(Process, Pipes)> {
    let surroundings = &inner.surroundings;
    let own = own_variables(job)?;
    let environment: Vec<&CStr> = surroundings.environment.iter().chain(&own).map(CString::as_c_str).collect();
    let (program, params) = (c_text(path.as_os_str().as_bytes())?, job.params.compact());
    // JSON has no raw NUL, so the text is always taken; the short form is cheap to make beside it.
    let (argument, dash) = (c_text(params.as_bytes())?, c"-");
    let mut with_stdin = params.len() > ARGUMENT_BYTES;
    let mut tries = 0;
    loop {
        let argument = if with_stdin { dash } else { &*argument };
        let folder = surroundings.folder.as_c_str();
        match Process::start(&Program { path: &program, argument, environment: &environment, folder, with_stdin }) {
            // The arguments and the environment together were too long.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) && !with_stdin => with_stdin = true,
            // Someone is just writing it: a copy, or an editor.
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_TEXT.0 => {
                tries += 1;
                sleep(BUSY_TEXT.1).await;
            }
            result => return result,
        }
    }
}

/// What this run's script finds in its environment beside what every script does.
fn own_variables(job: &Job) -> io::Result<Vec<CString>> {
    let mut variables = vec![
        c_text(format!("WSDAEMON_RUN={}", job.run))?,
        c_text(format!("WSDAEMON_NAME={}", job.name))?,
        c_text(format!("WSDAEMON_PEER={}", job.peer))?,
    ];
    // The one thing that an environment cannot hold is a NUL; an id with one is left out.
    if let Some(id) = job.id.as_ref().map(|id| id.as_text()).filter(|id| !id.contains('\0')) {
        variables.push(c_text(format!("WSDAEMON_ID={id}"))?);
    }
    Ok(variables)
}

/// From started to reaped.
async fn attend(inner: &Inner, mut process: Process, pipes: Pipes, params: &[u8]) -> Outcome {
    let mut streams = [Output::new("stdout", pipes.stdout), Output::new("stderr", pipes.stderr)];
    let (mut exited, mut drained, mut terminating, mut killed) = (false, false, false, false);
    let mut drain_until = Instant::now();
    {
        let mut feeding = std::pin::pin!(feed(pipes.stdin, params));
        let mut draining = std::pin::pin!(drain_both(&mut streams));
        let mut silence = std::pin::pin!(sleep(WATCH_AFTER));
        let (mut fed, mut watching) = (false, false);
        // By the time it is this run's turn again, a short script may have ended.
        yield_now().await;
        while !(exited && drained) {
            tokio::select! {
                result = process.exited(), if !exited && (drained || watching || terminating) => {
                    exited = true;
                    drain_until = Instant::now() + DRAIN;
                    if let Err(error) = result {
                        // Unwatched it cannot be waited for without blocking, so it is stopped: never a run without an end.
                        warn!(%error, "the watch on a process failed; it is stopped");
                        process.signal_group(Kill::KILL);
                    }
                }
                () = &mut draining, if !drained => drained = true,
                () = &mut silence, if !watching => watching = true,
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
async fn feed(stdin: Option<pipe::Sender>, params: &[u8]) {
    if let Some(mut stdin) = stdin {
        drop(stdin.write_all(params).await);
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
