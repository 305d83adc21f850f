//! A process that a test did not start itself (a script, what a script left behind), held by a descriptor so that its
//! number cannot come to mean another. Dropped, it is killed: a test that fails leaves nothing. It never reaps.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::DEADLINE;
use super::process::wait_readable;

pub struct Watched {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Watched {
    /// The process of this number, which must be there; as a script says it by `echo $$`.
    #[track_caller]
    pub fn new(pid: &str) -> Self {
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).unwrap_or_else(|| panic!("{pid:?} is no process"));
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).unwrap_or_else(|error| panic!("no process {pid:?}: {error}"));
        Self { pid, descriptor }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn is_alive(&self) -> bool {
        state(self.pid).is_some_and(|state| state != 'Z')
    }

    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.descriptor, signal).expect("the process is there");
    }

    /// Waits until the process has ended, reaped or not.
    #[track_caller]
    pub fn wait_end(&self) {
        assert!(wait_readable(&self.descriptor, Instant::now() + DEADLINE), "process {:?} lives on", self.pid);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = pidfd_send_signal(&self.descriptor, Signal::KILL);
    }
}

/// The processes that `parent` started and has not yet reaped.
pub fn children(parent: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero()));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect()
}

/// The letter of proc(5): `Z` is a zombie.
fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
