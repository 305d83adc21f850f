//! The same with what POSIX has: the standard library's way to start a program, SIGCHLD with a look that does not reap, and a list
//! of the descriptors.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::io::Interest;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::launch::Launch;

/// How a file is opened to be looked at: for reading, and without waiting for the other end of a FIFO.
#[must_use]
pub fn look() -> OFlags {
    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// See [`super::launch`].
///
/// # Errors
/// As there.
pub fn launch(launch: &Launch<'_>) -> io::Result<Pid> {
    if launch.report.is_some() {
        // Without a hand in the child between its birth and its program, it cannot be given one more.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let text = |text: &CStr| OsStr::from_bytes(text.to_bytes()).to_owned();
    let pipe = |descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned().map(Stdio::from);
    let variables = launch.environment.iter().filter_map(|variable| {
        let bytes = variable.to_bytes();
        let equals = bytes.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&bytes[..equals]), OsStr::from_bytes(&bytes[equals + 1..])))
    });
    let child = Command::new(text(launch.program))
        .args(launch.arguments.iter().map(|argument| text(argument)))
        .env_clear()
        .envs(variables)
        .current_dir(text(launch.folder))
        .process_group(0)
        .stdin(launch.stdin.map_or_else(|| Ok(Stdio::null()), pipe)?)
        .stdout(pipe(launch.stdout)?)
        .stderr(pipe(launch.stderr)?)
        .spawn()?;
    // The handle neither kills nor reaps when dropped; from here on the number stands for the child.
    Ok(Pid::from_child(&child))
}

/// What [`super::hung_up`] waits for: with room to write comes whether it can be used.
pub const HANG_UP: Interest = Interest::WRITABLE;

/// See [`super::ExitWatch`].
#[derive(Debug)]
pub struct ExitWatch {
    child: Pid,
    signals: Signal,
}

impl ExitWatch {
    /// See [`super::ExitWatch::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(child: Pid) -> io::Result<Self> {
        Ok(Self { child, signals: signal(SignalKind::child())? })
    }

    /// See [`super::ExitWatch::exited`].
    ///
    /// # Errors
    /// As there.
    pub async fn exited(&mut self) -> io::Result<()> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // Any child's end wakes every watch, so the first look is before the first wait: no exit falls between.
        while waitid(WaitId::Pid(self.child), look)?.is_none() {
            self.signals.recv().await;
        }
        Ok(())
    }
}

/// See [`super::keep_descriptors_from_children`].
///
/// # Errors
/// When /dev/fd cannot be read.
pub fn close_on_exec() -> io::Result<()> {
    let listed: Vec<RawFd> = std::fs::read_dir("/dev/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in listed {
        #[expect(
            unsafe_code,
            reason = "fcntl on a number: one that was closed meanwhile is answered EBADF, nothing is owned here"
        )]
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        if let Ok(flags) = rustix::io::fcntl_getfd(descriptor) {
            // The listing's own descriptor is gone by now, which is no fault.
            let _ = rustix::io::fcntl_setfd(descriptor, flags | rustix::io::FdFlags::CLOEXEC);
        }
    }
    Ok(())
}
