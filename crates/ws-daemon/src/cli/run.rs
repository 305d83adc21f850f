//! `ws-daemon run`: the daemon itself, its log and its runtime.

use tracing::error;
use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::log::{Log, Writing};
use crate::audit::AuditFault;
use crate::daemon::{Daemon, Reading, StartFault};
use crate::local::SocketFault;

/// Tasks that have their turn before the thread looks again at what has come: while it is kept busy by some, others are not to be
/// noticed late.
const TASKS_BETWEEN_LOOKS: u32 = 16;

/// Runs until told to stop.
pub fn run(flags: &Flags) -> Result<Exit, Trouble> {
    let (settings, rows) = flags.settings()?;
    let again = flags.clone();
    let reading = Reading(Box::new(move || again.settings_for_log().map_err(|trouble| trouble.said().to_owned())));
    let _log = log(flags.log()?.0)?;
    let failed = |error: std::io::Error| Trouble::new(Exit::Failed, format_args!("no runtime: {error}"));
    // One thread for all that is said: on two cores it beat two threads, which kept waking each other. What blocks, that is to
    // start a program, is done elsewhere while there is more to do.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.event_interval(TASKS_BETWEEN_LOOKS).enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let daemon = Daemon::bind(settings, rows, reading).map_err(|fault| Trouble::new(exit(&fault), fault))?;
        daemon.run().await;
        Ok(Exit::Ok)
    })
}

/// What must be mended by hand is said to be so: a service manager need not try again.
fn exit(fault: &StartFault) -> Exit {
    match fault {
        StartFault::Prefix { .. }
        | StartFault::Register(_)
        | StartFault::Exposed(_)
        | StartFault::Keys(_)
        | StartFault::Audit(AuditFault::Unsafe { .. })
        | StartFault::Socket(SocketFault::NoGroup(_) | SocketFault::TooLong { .. }) => Exit::Config,
        _ => Exit::Unavailable,
    }
}

/// The log goes to stderr, through a thread of its own, which writes what is left when its handle is dropped.
fn log(filter: EnvFilter) -> Result<Writing, Trouble> {
    let ansi = super::colours(&std::io::stderr());
    let log = Log::new(ansi);
    let writing = log.write_to_stderr().map_err(|error| Trouble::new(Exit::Failed, format_args!("no log: {error}")))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).with_ansi(ansi).with_target(false).init();
    std::panic::set_hook(Box::new(|panic| error!(%panic, "a task panicked; this is a fault of ws-daemon")));
    Ok(writing)
}
