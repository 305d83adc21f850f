//! The machine's own limit: how many runs of the program it can make in a second
//! if nothing else is done, and how long one takes.
//!
//! Every spawn here is one with capture: stdin from `/dev/null`, a pipe each for
//! stdout and stderr, a process group of its own, both pipes read to the end, the
//! child reaped and its status looked at. No daemon takes part.
//!
//! What was tried on the way to this form (medians of alternating slices, two cores
//! under KVM; "pinned": each thread, and so its children, kept on one core):
//!
//! | variant | against the form chosen |
//! | --- | --- |
//! | 1, 2, 8, 16, 32 children in flight a thread | 0.90, 0.90, 1.00, 0.97, 0.93 of the rate |
//! | twice as many threads as cores | 0.92 … 1.07, within the spread |
//! | processes in place of threads | 1.01 … 1.03, within the spread |
//! | threads free to move between cores | 0.70 … 0.90 of the rate, and far less steady |
//! | `execveat` on an open descriptor | 0.97 … 1.01, within the spread |
//! | reading both pipes through `poll` | one spawn takes 5 % longer |
//! | `CLONE_PIDFD`, and `waitid` on it | one spawn takes 4 % longer |
//! | reaping before reading | 5 % shorter, but a child that says more than a pipe holds would hang |
//! | a stack mapped for each child, as `posix_spawn` does | 0.76 of the rate |
//! | `posix_spawn` itself (glibc 2.36) | 0.59 of the rate |
//! | `std::process::Command` above it | 0.53 of the rate, one spawn takes 60 % longer |
//!
//! So the threads are pinned for the rate. One spawn alone is timed both ways: a pinned
//! one never waits for another core to wake up, but a daemon's children are free to move.
//!
//! Reading stdout to its end before stderr is right only because the program is known
//! to be silent.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::CpuSet;

use crate::program::Program;
use crate::sample::{Pace, Sample};
use crate::system::{self, Launcher};

/// Children that one thread has started and not yet reaped. While the newest comes
/// to life the older ones end, which saves waking the thread for each.
const IN_FLIGHT_PER_THREAD: usize = 4;

/// What the daemon passes for `"params":{}`.
const ARGUMENT: &str = "{}";

/// One way of making runs without a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spawning {
    pub program: Program,
    pub method: Method,
    pub placement: Placement,
    pub pace: Pace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// [`Launcher`].
    Fastest,
    /// What any Rust program would write.
    PosixSpawn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// The scheduler decides, as it does for a daemon.
    Free,
    /// A thread and its children share one core, so nobody is woken across cores.
    Pinned,
}

impl Spawning {
    pub const ALL: [Spawning; 10] = [
        Spawning::new(Program::Minimal, Method::Fastest, Placement::Pinned, Pace::Flood),
        Spawning::new(Program::Minimal, Method::Fastest, Placement::Free, Pace::Flood),
        Spawning::new(Program::Minimal, Method::PosixSpawn, Placement::Free, Pace::Flood),
        Spawning::new(Program::Minimal, Method::Fastest, Placement::Free, Pace::OneByOne),
        Spawning::new(Program::Minimal, Method::Fastest, Placement::Pinned, Pace::OneByOne),
        Spawning::new(Program::Minimal, Method::PosixSpawn, Placement::Free, Pace::OneByOne),
        Spawning::new(Program::Shell, Method::Fastest, Placement::Pinned, Pace::Flood),
        Spawning::new(Program::Shell, Method::Fastest, Placement::Free, Pace::Flood),
        Spawning::new(Program::Shell, Method::PosixSpawn, Placement::Free, Pace::Flood),
        Spawning::new(Program::Shell, Method::Fastest, Placement::Free, Pace::OneByOne),
    ];

    pub const fn new(program: Program, method: Method, placement: Placement, pace: Pace) -> Spawning {
        Spawning { program, method, placement, pace }
    }

    /// Makes runs of its program in `folder` for about `length`, on as many threads as there are cores (or one).
    pub fn measure(self, folder: &Path, length: Duration) -> Result<Sample> {
        let program = &folder.join(self.program.name());
        let cores = cores()?;
        let cores = match self.pace {
            Pace::Flood => &cores[..],
            Pace::OneByOne => &cores[..1],
        };
        let started = Instant::now();
        let until = started + length;
        let lives: Vec<Result<Vec<Duration>>> = thread::scope(|scope| {
            let threads: Vec<_> =
                cores.iter().map(|core| scope.spawn(move || self.spawn_until(program, *core, until))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        });
        let elapsed = started.elapsed();
        let mut times = Vec::new();
        for life in lives {
            times.extend(life.context("cannot spawn the program")?);
        }
        ensure!(!times.is_empty(), "not one run was made in {length:?}");
        Ok(Sample::of(&mut times, elapsed))
    }

    /// One thread's work; each run's time from start to reaped.
    fn spawn_until(self, program: &Path, core: usize, until: Instant) -> Result<Vec<Duration>> {
        if self.placement == Placement::Pinned {
            let mut set = CpuSet::new();
            set.set(core);
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        match (self.method, self.pace) {
            (Method::PosixSpawn, _) => posix_spawn_until(program, until),
            (Method::Fastest, Pace::Flood) => fastest_until(program, until, IN_FLIGHT_PER_THREAD),
            (Method::Fastest, Pace::OneByOne) => fastest_until(program, until, 1),
        }
    }
}

/// The cores that this process may use.
pub fn cores() -> Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect())
}

fn posix_spawn_until(program: &Path, until: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut now = Instant::now();
    while now < until {
        system::check_stop()?;
        let output = Command::new(program).arg(ARGUMENT).stdin(Stdio::null()).process_group(0).output()?;
        ensure!(output.status.success(), "the program ended with {}", output.status);
        let started = now;
        now = Instant::now();
        times.push(now - started);
    }
    Ok(times)
}

fn fastest_until(program: &Path, until: Instant, in_flight: usize) -> Result<Vec<Duration>> {
    let path = CString::new(program.as_os_str().as_bytes())?;
    let mut launcher = Launcher::new(path, CString::new(ARGUMENT)?);
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    let mut times = Vec::new();
    let mut running = VecDeque::with_capacity(in_flight);
    let mut now = Instant::now();
    while now < until || !running.is_empty() {
        if now < until {
            system::check_stop()?;
            running.push_back((now, Captured::start(&mut launcher, &null)?));
        }
        if (running.len() == in_flight || now >= until)
            && let Some((started, captured)) = running.pop_front()
        {
            captured.finish()?;
            times.push(started.elapsed());
        }
        now = Instant::now();
    }
    Ok(times)
}

/// A child and the reading ends of its pipes; reaped when it goes, whatever happens.
struct Captured {
    pid: Option<Pid>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Captured {
    fn start(launcher: &mut Launcher, null: &File) -> io::Result<Captured> {
        let (stdout, child_stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let pid = launcher.launch(null.as_fd(), child_stdout.as_fd(), child_stderr.as_fd())?;
        Ok(Captured { pid: Some(pid), stdout, stderr })
    }

    fn finish(mut self) -> Result<()> {
        read_to_end(&self.stdout)?;
        read_to_end(&self.stderr)?;
        let pid = self.pid.take().expect("taken only here, and once");
        let (_, status) = retry(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))?
            .context("the child was not there to be reaped")?;
        ensure!(status.exit_status() == Some(0), "the program ended with {status:?}");
        Ok(())
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.take() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = retry(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
        }
    }
}

fn read_to_end(pipe: &OwnedFd) -> Result<()> {
    let mut buffer = [0; 4096];
    let read = retry(|| rustix::io::read(pipe, &mut buffer))?;
    ensure!(read == 0, "the program is to be silent, but said {read} bytes");
    Ok(())
}

/// Again after a signal: the answer to one is looked for between runs, not in them.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, so that no other's child holds the program's file open for writing.
    #[test]
    fn each_way_makes_runs_or_says_why_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for program in Program::ALL {
            program.write(folder.path()).expect("the program is written");
        }
        for spawning in Spawning::ALL {
            let length = Duration::from_millis(20);
            let sample = spawning.measure(folder.path(), length).unwrap_or_else(|failure| panic!("{spawning:?}: {failure:#}"));
            assert!(sample.done > 0 && sample.median > Duration::ZERO, "{spawning:?}");

            let failure = spawning.measure(&folder.path().join("nothing"), length).expect_err("it is not there");
            let cause = failure.root_cause().downcast_ref::<io::Error>();
            assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::NotFound), "{failure:#}");
        }
        let children = rustix::process::waitpid(None, WaitOptions::NOHANG);
        assert_eq!(children.err(), Some(rustix::io::Errno::CHILD), "a child is left");
    }
}
