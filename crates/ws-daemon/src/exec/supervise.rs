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
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal as Kill;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Signal};

use super::output::{Output, drain_both};
use super::process::{ARGUMENT_BYTES, Pipes, Process, code_or_signal, is_busy_text};
use super::scripts::not_started;
use super::{Inner, Job, LISTENING};

/// How long a finished script's pipes may stay open, held by what it left in the background, before its status is told.
const DRAIN: Duration = Duration::from_secs(1);

/// How often, and how far apart, a script is tried again that someone is just writing.
const BUSY_TEXT: (u32, Duration) = (10, Duration::from_millis(20));

/// Runs `job` to its end.
pub async fn run(inner: &Inner, job: &Job) -> Outcome {
    let path = match inner.scripts.resolve(&job.name) {
        Ok(path) => path,
        Err(outcome) => {
            info!(peer = %job.peer, ?outcome, "script refused");
            return outcome;
        }
    };
    let (process, pipes) = match start(inner, job, &path).await {
        Ok(started) => started,
        Err(error) => {
            let outcome = not_started(&path, &error);
            warn!(peer = %job.peer, ?outcome, "script not started");
            return outcome;
        }
    };
    debug!(peer = %job.peer, "script started");
    let outcome = attend(inner, process, pipes, job.params.compact().as_bytes()).await;
    info!(peer = %job.peer, ?outcome, "script ended");
    outcome
}

/// Starts the script, its params in argv[1], or on stdin when they are too long for that.
async fn start(inner: &Inner, job: &Job, path: &Path) -> io::Result<(Process, Pipes)> {
    let params = job.params.compact();
    let mut by_stdin = params.len() > ARGUMENT_BYTES;
    let mut tries = 0;
    loop {
        let mut command = prepare(inner, job, path);
        command.arg(if by_stdin { "-" } else { &*params });
        match Process::start(command, by_stdin) {
            // The arguments and the environment together were too long.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) && !by_stdin => by_stdin = true,
            Err(error) if is_busy_text(&error, path) && tries < BUSY_TEXT.0 => {
                tries += 1;
                sleep(BUSY_TEXT.1).await;
            }
            result => return result,
        }
    }
}

fn prepare(inner: &Inner, job: &Job, path: &Path) -> Command {
    let surroundings = &inner.surroundings;
    let mut command = Command::new(path);
    command
        .current_dir(&surroundings.prefix)
        .env_clear()
        .envs(surroundings.environment.iter().map(|(name, value)| (name, value)))
        .env("WSDAEMON_PREFIX", &surroundings.prefix)
        .env("WSDAEMON_SOCKET", &surroundings.socket)
        .env("WSDAEMON_RUN", job.run.to_string())
        .env("WSDAEMON_NAME", &job.name)
        .env("WSDAEMON_PEER", &*job.peer);
    // The one thing that an environment cannot hold is a NUL; an id with one is left out.
    if let Some(id) = job.id.as_ref().map(|id| id.as_text()).filter(|id| !id.contains('\0')) {
        command.env("WSDAEMON_ID", &*id);
    }
    command
}

/// From started to reaped.
async fn attend(inner: &Inner, mut process: Process, pipes: Pipes, params: &[u8]) -> Outcome {
    let mut streams = [Output::new("stdout", pipes.stdout), Output::new("stderr", pipes.stderr)];
    let (mut exited, mut drained, mut terminating, mut killed) = (false, false, false, false);
    let mut drain_until = Instant::now();
    {
        let mut feeding = std::pin::pin!(feed(pipes.stdin, params));
        let mut draining = std::pin::pin!(drain_both(&mut streams));
        let mut fed = false;
        while !(exited && drained) {
            tokio::select! {
                result = process.exited(), if !exited => {
                    exited = true;
                    drain_until = Instant::now() + DRAIN;
                    if let Err(error) = result {
                        // Unwatched it cannot be waited for without blocking, so it is stopped: never a run without an end.
                        warn!(%error, "the watch on a process failed; it is stopped");
                        process.signal_group(Kill::KILL);
                    }
                }
                () = &mut draining, if !drained => drained = true,
                () = &mut feeding, if !fed => fed = true,
                () = inner.stop.terminate.cancelled(), if !exited && !terminating => {
                    terminating = true;
                    process.signal_group(Kill::TERM);
                }
                () = inner.stop.kill.cancelled(), if !killed => {
                    // What a script that ended by itself left behind is let be.
                    if exited && !terminating {
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
fn conclude(status: io::Result<std::process::ExitStatus>, stopped: bool) -> Outcome {
    match status.map(code_or_signal) {
        Ok(Ok(code)) => Outcome::Exited(code),
        Ok(Err(signal)) if stopped => {
            Outcome::Stopped(ErrorCode::Cancelled, "the daemon was stopped while the script ran".into(), Signal(signal))
        }
        Ok(Err(signal)) => Outcome::Signaled(Signal(signal)),
        Err(error) => Outcome::failed(ErrorCode::Interrupted, format!("the script's exit status was lost: {error}")),
    }
}
