//! One child process and its group. It owns the child until it is reaped: whoever drops it unreaped kills the group, so nothing
//! is left behind by a task that was aborted. It never waits by blocking.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group, waitid, waitpid};

use super::output::Output;
use crate::system::{self, ExitWatch, Launch};
use ws_daemon_protocol::command::StreamName;

/// A running child, leader of its own process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Made when the end is first waited for and has not come yet.
    watch: Option<ExitWatch>,
}

/// A child, and its number, which is its group's as well, until it is reaped; then how it ended.
#[derive(Debug)]
struct Child(Option<Pid>, Option<WaitStatus>);

/// The daemon's ends of a child's pipes.
#[derive(Debug)]
pub struct Pipes {
    /// Where the child reads, if it was given something to read. Writing does not block.
    pub stdin: Option<OwnedFd>,
    /// What the child says, and what it says of trouble.
    pub output: [Output; 2],
    /// Where a program that is to become another says why it has not. Reading does not block.
    pub report: Option<OwnedFd>,
}

/// A program and what it gets, but for its descriptors.
#[derive(Debug)]
pub struct Program<'a> {
    /// See [`Launch`].
    pub path: &'a std::ffi::CStr,
    /// See [`Launch`].
    pub arguments: &'a [&'a std::ffi::CStr],
    /// See [`Launch`].
    pub environment: &'a [&'a std::ffi::CStr],
    /// See [`Launch`].
    pub folder: &'a std::ffi::CStr,
    /// Whether it is given something to read; its stdin is empty otherwise.
    pub with_stdin: bool,
    /// Whether its output is registered with the runtime before it starts: then the time until it says something is its own.
    pub registered: bool,
    /// Whether it is one that is to become another.
    pub reports: bool,
}

impl Process {
    /// Starts `program` in a group of its own, with pipes.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(program: &Program<'_>) -> io::Result<(Self, Pipes)> {
        let stdin = program.with_stdin.then(|| pipe_with(PipeFlags::CLOEXEC)).transpose()?;
        let (child_stdin, stdin) = stdin.unzip();
        let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let stdin = stdin.map(not_blocking).transpose()?;
        let report = program.reports.then(|| pipe_with(PipeFlags::CLOEXEC)).transpose()?;
        let (report, child_report) = report.unzip();
        let report = report.map(not_blocking).transpose()?;
        let [stdout, stderr] = [not_blocking(stdout)?, not_blocking(stderr)?];
        let mut output = [Output::new(StreamName::Stdout, stdout), Output::new(StreamName::Stderr, stderr)];
        if program.registered {
            for stream in &mut output {
                stream.register().unwrap_or_else(|error| stream.is_not_heard(&error));
            }
        }
        let launch = Launch {
            program: program.path,
            arguments: program.arguments,
            environment: program.environment,
            folder: program.folder,
            stdin: child_stdin.as_ref().map(AsFd::as_fd),
            stdout: child_stdout.as_fd(),
            stderr: child_stderr.as_fd(),
            report: child_report.as_ref().map(AsFd::as_fd),
        };
        let child = Child(Some(system::launch(&launch)?), None);
        Ok((Self { child, watch: None }, Pipes { stdin, output, report }))
    }

    /// Its process id, which is its group's as well.
    pub fn id(&self) -> u32 {
        self.child.0.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Ends when the child has ended. It is not reaped by that, unless nobody signals its group any more (`alone`): then one call sees and
    /// does it. Cancel safe.
    ///
    /// # Errors
    /// When the watch fails.
    pub async fn exited(&mut self, alone: bool) -> io::Result<()> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            None if alone && self.child.reap_if_ended()? || !alone && self.child.has_ended()? => return Ok(()),
            None => self.watch.insert(ExitWatch::new(self.child.pid()?)?),
        };
        watch.exited().await
    }

    /// Whether the child has ended; it is not reaped by that.
    ///
    /// # Errors
    /// When somebody else reaped it.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.child.has_ended()
    }

    /// Signals the whole group. The group's number is the child's, which stays taken until the child is reaped: no stranger can
    /// be hit.
    pub fn signal_group(&self, signal: Signal) {
        self.child.signal_group(signal);
    }

    /// Takes the exit status of a child that has ended, and is reaped by now.
    ///
    /// # Errors
    /// When somebody else reaped it.
    pub fn reap(mut self) -> io::Result<WaitStatus> {
        self.child.reap()
    }
}

impl Child {
    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // The only failure is that nobody is left, which is what a signal is for.
            let _ = kill_process_group(pid, signal);
        }
    }

    fn pid(&self) -> io::Result<Pid> {
        self.0.ok_or_else(|| rustix::io::Errno::CHILD.into())
    }

    /// Whether it has ended; it is not reaped by that.
    fn has_ended(&self) -> io::Result<bool> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.pid()?), look)?.is_some())
    }

    /// Whether it has ended, and is reaped now.
    fn reap_if_ended(&mut self) -> io::Result<bool> {
        let ended = waitpid(Some(self.pid()?), WaitOptions::NOHANG)?;
        if let Some((_, status)) = ended {
            (self.0, self.1) = (None, Some(status));
        }
        Ok(ended.is_some())
    }

    /// Waits for a child that has ended or is just being killed: for the kernel, not for the program.
    fn reap(&mut self) -> io::Result<WaitStatus> {
        if let Some(status) = self.1 {
            return Ok(status);
        }
        let gone = || io::Error::from(rustix::io::Errno::CHILD);
        let pid = self.pid()?;
        self.0 = None;
        loop {
            match waitpid(Some(pid), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                result => return result?.map(|(_, status)| status).ok_or_else(gone),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.signal_group(Signal::KILL);
            // Whoever drops a child unreaped does not ask how it ended.
            drop(self.reap());
        }
    }
}

/// Our end only: the child's end is a pipe like any other.
fn not_blocking(pipe: OwnedFd) -> io::Result<OwnedFd> {
    fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    Ok(pipe)
}

/// The longest single argument Linux takes, without its NUL (`MAX_ARG_STRLEN` in execve(2)): 32 pages.
pub const ARGUMENT_BYTES: usize = 32 * 4096 - 1;
