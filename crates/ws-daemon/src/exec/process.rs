//! One child process and its group. It owns the child until it is reaped: whoever drops it unreaped kills the group, so nothing
//! is left behind by a task that was aborted. It never waits by blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe;

use crate::system::ExitWatch;

/// A running child, leader of its own process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    watch: ExitWatch,
    reaped: bool,
}

/// The daemon's ends of a child's pipes.
#[derive(Debug)]
pub struct Pipes {
    /// Where the child reads, if it was given something to read.
    pub stdin: Option<pipe::Sender>,
    /// What the child says.
    pub stdout: pipe::Receiver,
    /// What it says of trouble.
    pub stderr: pipe::Receiver,
}

impl Process {
    /// Starts `command` in a group of its own, with pipes on stdout and stderr and, if `with_stdin`, on stdin, which is empty
    /// otherwise. Without `pre_exec`: std then starts it by `posix_spawn`, at half the cost, with SIGPIPE and the signal mask
    /// as by default.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(mut command: Command, with_stdin: bool) -> io::Result<(Self, Pipes)> {
        let stdin = if with_stdin { Stdio::piped() } else { Stdio::null() };
        let mut child = command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let group = Pid::from_child(&child);
        match Self::wire(&mut child, group) {
            Ok((watch, pipes)) => Ok((Self { child, group, watch, reaped: false }, pipes)),
            Err(error) => {
                kill_and_reap(&mut child, group);
                Err(error)
            }
        }
    }

    fn wire(child: &mut Child, pid: Pid) -> io::Result<(ExitWatch, Pipes)> {
        let missing = || io::Error::other("the child was started without its pipes");
        let stdout = OwnedFd::from(child.stdout.take().ok_or_else(missing)?);
        let stderr = OwnedFd::from(child.stderr.take().ok_or_else(missing)?);
        let stdin = child.stdin.take().map(|stdin| pipe::Sender::from_owned_fd(stdin.into())).transpose()?;
        let pipes =
            Pipes { stdin, stdout: pipe::Receiver::from_owned_fd(stdout)?, stderr: pipe::Receiver::from_owned_fd(stderr)? };
        Ok((ExitWatch::new(pid)?, pipes))
    }

    /// Ends when the child has ended; it is not reaped by that. Cancel safe.
    ///
    /// # Errors
    /// When the watch fails.
    pub async fn exited(&mut self) -> io::Result<()> {
        self.watch.exited().await
    }

    /// Signals the whole group. The group's number is the child's, which stays taken until the child is reaped: no stranger can
    /// be hit.
    pub fn signal_group(&self, signal: Signal) {
        // The only failure is that nobody is left, which is what a signal is for.
        let _ = kill_process_group(self.group, signal);
    }

    /// Takes the exit status of a child that has ended.
    ///
    /// # Errors
    /// When somebody else reaped it.
    pub fn reap(mut self) -> io::Result<ExitStatus> {
        self.reaped = true;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            kill_and_reap(&mut self.child, self.group);
        }
    }
}

/// After KILL the wait is for the kernel only, not for the program.
fn kill_and_reap(child: &mut Child, group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
    drop(child.wait());
}

/// What an exit status says: the code, or the signal.
pub fn code_or_signal(status: ExitStatus) -> Result<u8, i32> {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, signal) => Err(signal.unwrap_or_default()),
    }
}

/// The longest single argument Linux takes, without its NUL (`MAX_ARG_STRLEN` in execve(2)): 32 pages.
pub const ARGUMENT_BYTES: usize = 32 * 4096 - 1;

/// Whether starting `path` failed because someone has it open for writing, which passes (a copy or an editor at work).
pub fn is_busy_text(error: &io::Error, path: &Path) -> bool {
    error.raw_os_error() == Some(libc::ETXTBSY) && path.is_file()
}
