//! A process that a test started: its output captured, its end certain. It owns the process group and whatever
//! groups the process's own children lead; it never signals anything that it did not start.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use super::DEADLINE;
use super::log::Log;
use super::watched::children;

/// Held for writing while a script is open for writing, for reading while a process is born: a child that inherits
/// the descriptor for an instant would make the script's first run fail with "text file busy".
pub(super) static BIRTHS: RwLock<()> = RwLock::new(());

pub struct Process {
    child: Child,
    log: Log,
}

impl Process {
    /// Starts `command` in a process group of its own with both outputs going to the log.
    #[track_caller]
    pub fn start(title: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = {
            let _born = BIRTHS.read().unwrap_or_else(PoisonError::into_inner);
            command.spawn().unwrap_or_else(|error| panic!("cannot start {title}: {error}"))
        };
        let log = Log::new(title);
        log.follow(child.stdout.take().expect("stdout is piped above"));
        log.follow(child.stderr.take().expect("stderr is piped above"));
        Self { child, log }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The most memory that it has had resident so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).expect("it is alive");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak: u64 = peak.and_then(|kib| kib.trim().parse().ok()).expect("Linux tells it in kB");
        peak * 1024
    }

    /// Sends a signal to the process alone, as a service manager does.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("cannot signal: {error}\n{}", self.log));
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        self.try_wait_exit(within).unwrap_or_else(|| panic!("still alive after {within:?}\n{}", self.log))
    }

    /// Ends the process, and the groups its children lead, at once.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It must not see its children end, and tell of it, before it ends itself.
        let _ = kill_process_group(self.pid(), Signal::STOP);
        let orphans = children(self.pid());
        for group in [self.pid()].into_iter().chain(orphans) {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    fn try_wait_exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        if let Ok(pidfd) = pidfd_open(self.pid(), PidfdFlags::empty()) {
            wait_readable(&pidfd, until);
        }
        self.child.try_wait().expect("the child is ours to wait for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `command` to its end and returns all it said. Its own deadline is the caller's business.
pub fn run(mut command: Command) -> Output {
    let child = {
        let _born = BIRTHS.read().unwrap_or_else(PoisonError::into_inner);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    child.wait_with_output().expect("its pipes are ours to read")
}

/// Writes an executable file so that it is whole, and closed everywhere, when it appears under its name.
pub fn write_executable(path: &Path, body: &str) {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    let _nobody_is_born = BIRTHS.write().unwrap_or_else(PoisonError::into_inner);
    let folder = path.parent().expect("a script stands in a folder");
    // Whatever the umask: what others can write is not run.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).expect("the prefix is ours to write");
    let draft = path.with_extension("draft");
    fs::write(&draft, body).expect("the prefix is ours to write");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).expect("the draft is ours");
    fs::rename(&draft, path).expect("both names are in one folder");
}

/// Waits until `descriptor` can be read (for a pidfd: until the process has ended) or the time is up.
pub fn wait_readable(descriptor: &impl std::os::fd::AsFd, until: Instant) -> bool {
    while let Some(left) = super::left(until) {
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().expect("deadlines are seconds, not ages"),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut watched = [PollFd::new(descriptor, PollFlags::IN)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("cannot poll: {error}"),
        }
    }
    false
}

/// Waits until `holds`: for what the kernel tells to nobody but whoever looks, so it is looked at again and again.
#[track_caller]
pub fn wait_for(what: &str, holds: impl Fn() -> bool) {
    const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let until = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < until, "waited for {what}");
        // An interrupted pause is a shorter one.
        let _ = poll(&mut [], Some(&PAUSE));
    }
}
