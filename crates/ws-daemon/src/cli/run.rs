//! `ws-daemon run`: the daemon itself, its log and its runtime.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tracing::error;

use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::log;
use crate::audit::AuditFault;
use crate::daemon::{Daemon, Program, Reading, StartFault};
use crate::local::SocketFault;

/// Tasks that have their turn before the thread looks again at what has come from outside: while it is kept busy by some, others are
/// not to be noticed late.
const TASKS_BETWEEN_LOOKS: u32 = 4;

/// Every second turn is for a task that another thread has woken (a script was started, a commit is on disk), if there is one. With
/// many that wake each other, these would wait for long.
const TURNS_FOR_THE_WOKEN: u32 = 2;

/// Runs until told to stop.
pub fn run(flags: &Flags) -> Result<Exit, Trouble> {
    let (settings, rows) = flags.settings()?;
    let again = flags.clone();
    let reading = Reading(Box::new(move || again.settings_for_log().map_err(|trouble| trouble.said().to_owned())));
    let program = program(flags)?;
    let unavailable = |error| Trouble::new(Exit::Unavailable, format_args!("no log: {error}"));
    let (levels, log) = log::start(&settings).map_err(unavailable)?;
    std::panic::set_hook(Box::new(|panic| error!(%panic, "a task panicked; this is a fault of ws-daemon")));
    let failed = |error: std::io::Error| Trouble::new(Exit::Failed, format_args!("no runtime: {error}"));
    // One thread for all that is said: on two cores it beat two threads, which kept waking each other. What blocks, that is to
    // start a program, is done elsewhere while there is more to do.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.event_interval(TASKS_BETWEEN_LOOKS).global_queue_interval(TURNS_FOR_THE_WOKEN);
    let runtime = builder.enable_all().build().map_err(failed)?;
    let handover = runtime.block_on(async {
        let next = program.clone();
        let daemon = Daemon::bind(settings, rows, reading, next, levels).map_err(|fault| Trouble::new(exit(&fault), fault))?;
        Ok::<_, Trouble>(daemon.run().await)
    })?;
    let Some(handover) = handover else { return Ok(Exit::Ok) };
    runtime.shutdown_timeout(LAST_THREADS);
    drop(log);
    let error = handover.exec(&program);
    let path = program.path.display();
    Err(Trouble::new(Exit::Failed, format_args!("the daemon has ended, and {path} cannot be started: {error}")))
}

/// How long threads that still do something are waited for before a new life begins without them.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// What a new life of this daemon begins with: the program of the same name, which may be another one by then, and the same words.
fn program(flags: &Flags) -> Result<Program, Trouble> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let path = path(words.first())?;
    // What prepares a container is done, and what it means is said.
    if let Some(word) = words.iter_mut().find(|word| *word == "container") {
        *word = "run".into();
        words.push("--any-writer".into());
    }
    let check = flags.arguments().into_iter().chain(["check".into(), "--json".into()]).collect();
    Ok(Program { path, words, check })
}

/// Where this program was found, or else where it is: an update may change where a symbolic link leads.
fn path(called: Option<&OsString>) -> Result<PathBuf, Trouble> {
    let own = std::env::current_exe();
    let own = own.map_err(|error| Trouble::new(Exit::Failed, format_args!("the program's own path is unknown: {error}")))?;
    let called = PathBuf::from(called.cloned().unwrap_or_default());
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = if called.components().count() > 1 {
        std::path::absolute(&called).ok()
    } else {
        std::env::split_paths(&folders).map(|folder| folder.join(&called)).find(|path| path.is_file())
    };
    Ok(found.filter(|found| found.canonicalize().is_ok_and(|found| found == own)).unwrap_or(own))
}

/// What must be mended by hand is said to be so: a service manager need not try again.
fn exit(fault: &StartFault) -> Exit {
    match fault {
        StartFault::Prefix { .. }
        | StartFault::Register(_)
        | StartFault::Callers(_)
        | StartFault::Exposed(_)
        | StartFault::Keys(_)
        | StartFault::Audit(AuditFault::Unsafe { .. })
        | StartFault::Socket(SocketFault::NoGroup(_) | SocketFault::TooLong { .. }) => Exit::Config,
        _ => Exit::Unavailable,
    }
}
