//! What a daemon that was killed left running: found by what it wrote down and by what stands in each process's environment,
//! and stopped. Each process is held by a descriptor while it is looked at again and signalled, so that a number that was given
//! to somebody else meanwhile hits nobody. It never touches this process itself, and never waits by looking again and again.
//!
//! Linux only: elsewhere nothing tells whether a recorded number is still the same process, so nothing is signalled.

use std::path::Path;

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

/// Stops what is left of these runs: the recorded process with its group, and all that have the run and `prefix` in their
/// environment, since a daemon of another prefix may have another attempt of it. So are copies of scripts that a daemon of this prefix
/// kept running which is no more: what they have in hand nothing tells. TERM, after the grace KILL. Ends when they are
/// gone; returns how many are not, which is 0 unless the kernel holds them.
pub async fn stop_all(orphans: &[Orphan], prefix: &Path, grace: Grace) -> usize {
    if orphans.is_empty() {
        return 0;
    }
    #[cfg(target_os = "linux")]
    return linux::stop_all(orphans, prefix, grace).await;
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (prefix, grace);
        tracing::warn!(
            runs = orphans.len(),
            "what runs of the daemon's last life left running is not looked for on this system"
        );
        0
    }
}

/// What tells a process from any other that had or will have its number, in this life of the machine and in others; `None` if
/// the system does not tell it.
pub fn start_time(pid: u32) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return linux::Look::at(pid).map(|look| look.start_time);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::{Arc, LazyLock};
    use std::thread;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use tokio::io::Interest;
    use tokio::sync::oneshot;
    use tokio::time::{Instant, timeout_at};
    use tracing::{info, warn};

    use super::super::Grace;
    use super::super::start::{DAEMON, PREFIX, RUN, WORKER};
    use super::Orphan;
    use crate::system::readiness;

    /// Which life of the machine this is; a start time counts from its beginning.
    static BOOT: LazyLock<u64> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        u64::from_str_radix(&digits, 16).unwrap_or(0)
    });

    /// What /proc tells of a process.
    #[derive(Debug)]
    pub(super) struct Look {
        state: u8,
        group: u32,
        /// The system's own count, mixed with the life of the machine.
        pub(super) start_time: u64,
    }

    /// Whom we are after.
    #[derive(Debug)]
    struct Wanted {
        /// `WSDAEMON_RUN=…`, as it stands in an environment.
        variables: HashSet<Vec<u8>>,
        /// `WSDAEMON_PREFIX=…`, likewise.
        prefix: Vec<u8>,
        /// Groups whose leader is still the recorded one.
        groups: HashSet<u32>,
    }

    pub(super) async fn stop_all(orphans: &[Orphan], prefix: &Path, grace: Grace) -> usize {
        let wanted = Arc::new(Wanted::new(orphans, prefix));
        let mut left = Vec::new();
        for signal in [Signal::TERM, Signal::KILL] {
            let deadline = Instant::now() + grace.kill;
            // Again, since one that was just being started may have been missed; what has ended is not found twice.
            loop {
                left = find(&wanted).await;
                if left.is_empty() {
                    return 0;
                }
                info!(processes = left.len(), ?signal, "stopping what runs of the daemon's last life left running");
                for process in &left {
                    // The only failure that matters is that it is gone, which is what a signal is for.
                    let _ = pidfd_send_signal(process, signal);
                }
                let all = std::mem::take(&mut left);
                let count = all.len();
                if timeout_at(deadline, all_ended(all)).await.is_err() || Instant::now() >= deadline {
                    left = find(&wanted).await;
                    if left.is_empty() {
                        return 0;
                    }
                    warn!(processes = count, ?signal, "they have not ended in time");
                    break;
                }
            }
        }
        left.len()
    }

    async fn all_ended(processes: Vec<OwnedFd>) {
        for process in processes {
            match readiness(process, Interest::READABLE) {
                Ok(process) => drop(process.readable().await),
                Err(error) => warn!(%error, "the end of a process cannot be waited for"),
            }
        }
    }

    /// Looks through /proc on a thread of its own: there may be many, and one may hold up whoever reads its environment.
    async fn find(wanted: &Arc<Wanted>) -> Vec<OwnedFd> {
        let (tell, told) = oneshot::channel();
        let there = Arc::clone(wanted);
        let thread = thread::Builder::new().name("orphans".into()).spawn(move || drop(tell.send(there.find())));
        if let Err(error) = thread {
            warn!(%error, "no thread to look for what runs left running; it is looked for here");
            return wanted.find();
        }
        told.await.unwrap_or_default()
    }

    impl Wanted {
        fn new(orphans: &[Orphan], prefix: &Path) -> Self {
            let same = |(pid, start_time): &(u32, u64)| Look::at(*pid).is_some_and(|look| look.start_time == *start_time);
            Self {
                variables: orphans.iter().map(|orphan| format!("{RUN}{}", orphan.run).into_bytes()).collect(),
                prefix: [PREFIX.as_bytes(), prefix.as_os_str().as_bytes()].concat(),
                groups: orphans.iter().filter_map(|orphan| orphan.recorded.filter(same)).map(|(pid, _)| pid).collect(),
            }
        }

        /// All that are alive, each held by a descriptor.
        fn find(&self) -> Vec<OwnedFd> {
            let entries = match fs::read_dir("/proc") {
                Ok(entries) => entries,
                Err(error) => {
                    warn!(%error, "no /proc: what runs left running is not found");
                    return Vec::new();
                }
            };
            let own = std::process::id();
            let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
            pids.filter(|pid| *pid != own).filter_map(|pid| self.hold(pid)).collect()
        }

        fn hold(&self, pid: u32) -> Option<OwnedFd> {
            if !self.is_wanted(pid) {
                return None;
            }
            let held = pidfd_open(Pid::from_raw(pid.try_into().ok()?)?, PidfdFlags::empty());
            match held {
                // Looked at again, now that the number cannot be given to another without that being seen.
                Ok(held) => self.is_wanted(pid).then_some(held),
                Err(rustix::io::Errno::SRCH) => None,
                Err(error) => {
                    warn!(%error, pid, "a process that a run left running cannot be held, and is not stopped");
                    None
                }
            }
        }

        fn is_wanted(&self, pid: u32) -> bool {
            // One that has ended and is not reaped yet is as good as gone.
            let Some(look) = Look::at(pid).filter(|look| !matches!(look.state, b'Z' | b'X')) else { return false };
            if self.groups.contains(&look.group) {
                return true;
            }
            // Other users' environments are not ours to read, and their processes not ours to stop.
            let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
            let has = |wanted: &dyn Fn(&[u8]) -> bool| environment.split(|byte| *byte == 0).any(wanted);
            let is_left = || has(&|variable| variable == WORKER.as_bytes()) && has(&is_of_a_dead_daemon);
            (has(&|variable| self.variables.contains(variable)) || is_left()) && has(&|variable| variable == self.prefix)
        }
    }

    /// Whether a variable names a daemon that is no more.
    fn is_of_a_dead_daemon(variable: &[u8]) -> bool {
        let daemon = variable.strip_prefix(DAEMON.as_bytes()).and_then(|daemon| std::str::from_utf8(daemon).ok());
        let daemon = daemon.and_then(|daemon| daemon.split_once('.'));
        let parsed = daemon.and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse::<u64>().ok()?)));
        parsed.is_some_and(|(pid, start)| Look::at(pid).is_none_or(|look| look.start_time != start))
    }

    impl Look {
        /// proc_pid_stat(5): the name in parentheses may hold anything, so the fields are counted from its end.
        pub(super) fn at(pid: u32) -> Option<Self> {
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
            let fields: Vec<&str> = std::str::from_utf8(&stat[behind..]).ok()?.split_ascii_whitespace().collect();
            Some(Self {
                state: *fields.first()?.as_bytes().first()?,
                group: fields.get(2)?.parse().ok()?,
                start_time: fields.get(19)?.parse::<u64>().ok()? ^ *BOOT,
            })
        }
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    /// Starts a shell in a group of its own, and reads lines of it until it has said `ready` so often.
    fn shell(script: &str, run: Option<&RunId>, ready: usize) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::piped()).process_group(0);
        if let Some(run) = run {
            command.env("WSDAEMON_RUN", run.to_string()).env("WSDAEMON_PREFIX", "/mine");
        }
        let mut child = command.spawn().expect("spawned");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        assert_eq!(said.lines().take(ready).filter(|line| line.as_ref().is_ok_and(|line| line == "ready")).count(), ready);
        child
    }

    async fn stop(run: &RunId, recorded: Option<(u32, u64)>, prefix: &Path, grace: Grace) -> usize {
        stop_all(&[Orphan { run: run.clone(), recorded }], prefix, grace).await
    }

    fn mine() -> &'static Path {
        Path::new("/mine")
    }

    fn run_id() -> RunId {
        RunId::new(Uuid::now_v7().to_string())
    }

    fn grace(kill: Duration) -> Grace {
        Grace { kill, ..Grace::default() }
    }

    #[tokio::test]
    async fn what_has_the_run_in_its_environment_is_stopped_also_outside_of_its_group() {
        let (run, other) = (run_id(), run_id());
        let mut left = shell("setsid sh -c 'echo ready; sleep 1000' & echo ready; wait", Some(&run), 2);
        let mut stranger = shell("echo ready; exec sleep 1000", Some(&other), 1);
        assert_eq!(stop(&run, None, Path::new("/another"), grace(Duration::from_secs(30))).await, 0);
        assert!(left.try_wait().expect("ours").is_none(), "what belongs to another daemon was stopped");
        assert_eq!(stop(&run, None, mine(), grace(Duration::from_secs(30))).await, 0);
        assert_eq!(left.wait().expect("ended").signal(), Some(libc::SIGTERM));
        let found = |run: &RunId| {
            let wanted = format!("WSDAEMON_RUN={run}").into_bytes();
            std::fs::read_dir("/proc")
                .expect("there")
                .flatten()
                .filter(move |entry| {
                    let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                    environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
                })
                .count()
        };
        assert_eq!((found(&run), found(&other)), (0, 1));
        stranger.kill().expect("alive");
        stranger.wait().expect("ended");
    }

    #[tokio::test]
    async fn a_recorded_process_is_stopped_with_its_group_only_if_it_is_still_the_same() {
        let mut left = shell("sh -c 'echo ready; exec sleep 1000' & echo ready; wait", None, 2);
        let (pid, started) = (left.id(), start_time(left.id()).expect("alive"));
        assert_eq!(stop(&run_id(), Some((pid, started ^ 1)), mine(), Grace::default()).await, 0);
        assert!(left.try_wait().expect("ours").is_none(), "another process of that number was stopped");
        assert_eq!(stop(&run_id(), Some((pid, started)), mine(), grace(Duration::from_secs(30))).await, 0);
        assert_eq!(left.wait().expect("ended").signal(), Some(libc::SIGTERM));
        // One that has ended may stay until someone reaps it.
        let members = std::fs::read_dir("/proc").expect("there").flatten().filter(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            fields.get(2) == Some(&pid.to_string().as_str()) && fields[0] != "Z"
        });
        assert_eq!(members.count(), 0, "a member of the group is left");
    }

    #[tokio::test]
    async fn a_copy_that_a_dead_daemon_of_this_prefix_kept_is_stopped_and_no_other() {
        let own = std::process::id();
        let started = start_time(own).expect("alive");
        let copy = |prefix: &str, daemon: String| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "echo ready; exec sleep 1000"]).stdout(Stdio::piped()).process_group(0);
            command.envs([("WSDAEMON_WORKER", "1"), ("WSDAEMON_PREFIX", prefix), ("WSDAEMON_DAEMON", &daemon)]);
            let mut child = command.spawn().expect("spawned");
            let mut said = BufReader::new(child.stdout.take().expect("piped")).lines();
            assert_eq!(said.next().and_then(Result::ok).as_deref(), Some("ready"));
            child
        };
        let mut left = copy("/kept", format!("{own}.{}", started ^ 1));
        let mut others = [copy("/kept", format!("{own}.{started}")), copy("/another", format!("{own}.{}", started ^ 1))];
        assert_eq!(stop(&run_id(), None, Path::new("/kept"), grace(Duration::from_secs(30))).await, 0);
        assert_eq!(left.wait().expect("ended").signal(), Some(libc::SIGTERM));
        for other in &mut others {
            assert!(
                other.try_wait().expect("ours").is_none(),
                "a copy of a daemon that lives, or of another prefix, was stopped"
            );
            other.kill().expect("alive");
            other.wait().expect("ended");
        }
    }

    #[tokio::test]
    async fn what_does_not_heed_term_is_killed_and_several_runs_are_stopped_at_once() {
        let runs = [run_id(), run_id()];
        let mut deaf = shell("trap '' TERM; echo ready; while :; do sleep 1000; done", Some(&runs[0]), 1);
        let mut mild = shell("echo ready; exec sleep 1000", Some(&runs[1]), 1);
        let orphans = runs.map(|run| Orphan { run, recorded: None });
        // So long that what heeds TERM has ended by then, however busy the machine is.
        assert_eq!(stop_all(&orphans, mine(), grace(Duration::from_secs(2))).await, 0);
        assert_eq!(deaf.wait().expect("ended").signal(), Some(libc::SIGKILL));
        assert_eq!(mild.wait().expect("ended").signal(), Some(libc::SIGTERM));
    }
}
