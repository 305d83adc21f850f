//! `ws-daemon run`: the daemon itself, its log and its runtime.

use serde_json::json;
use tracing::error;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::log;
use crate::audit::AuditFault;
use crate::config::Row;
use crate::control::Reload;
use crate::daemon::{Daemon, StartFault};
use crate::levels::Levels;
use crate::local::SocketFault;

/// Tasks that have their turn before the thread looks again at what has come: while it is kept busy by some, others are not to be
/// noticed late.
const TASKS_BETWEEN_LOOKS: u32 = 16;

/// Runs until told to stop.
pub fn run(flags: &Flags) -> Result<Exit, Trouble> {
    let (settings, rows) = flags.settings()?;
    let unavailable = |error| Trouble::new(Exit::Unavailable, format_args!("no log: {error}"));
    let (levels, _log) = log::start(&settings).map_err(unavailable)?;
    std::panic::set_hook(Box::new(|panic| error!(%panic, "a task panicked; this is a fault of ws-daemon")));
    let reload = reload(flags.clone(), rows, levels.clone());
    let failed = |error: std::io::Error| Trouble::new(Exit::Failed, format_args!("no runtime: {error}"));
    // One thread for all that is said: on two cores it beat two threads, which kept waking each other. What blocks, that is to
    // start a program, is done elsewhere while there is more to do.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.event_interval(TASKS_BETWEEN_LOOKS).enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let daemon = Daemon::bind(settings, reload, levels).map_err(|fault| Trouble::new(exit(&fault), fault))?;
        daemon.run().await;
        Ok(Exit::Ok)
    })
}

/// What RELOAD does: the settings are read again and checked, and it is said which of them differ from those in use. They are taken
/// up at the next start, but for the level of the log; bad ones change nothing.
fn reload(flags: Flags, in_use: Vec<Row>, levels: Levels) -> Reload {
    Reload(Box::new(move || {
        let (settings, rows) = flags
            .settings()
            .map_err(|trouble| Outcome::failed(ErrorCode::BadMessage, format!("nothing was changed: {}", trouble.said())))?;
        let differs = |row: &&Row| in_use.iter().find(|used| used.name == row.name).is_none_or(|used| used.value != row.value);
        let gone = in_use.iter().filter(|used| rows.iter().all(|row| row.name != used.name));
        let restart = rows.iter().filter(differs).chain(gone).map(|row| row.name).filter(|name| *name != "log");
        let changed = (settings.log != levels.shown().usual).then_some("log");
        let answer = json!({ "changed": changed.as_slice(), "restart": restart.collect::<Vec<_>>() });
        levels.set_usual(settings.log);
        Ok(answer)
    }))
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
