//! The Linux ways: O_PATH, pidfd_open(2), close_range(2).

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How a file is opened to be looked at: without any right to it.
#[must_use]
pub fn look() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// See [`super::ExitWatch`].
#[derive(Debug)]
pub struct ExitWatch(AsyncFd<OwnedFd>);

impl ExitWatch {
    /// See [`super::ExitWatch::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(child: Pid) -> io::Result<Self> {
        super::readiness(pidfd_open(child, PidfdFlags::empty())?, Interest::READABLE).map(Self)
    }

    /// See [`super::ExitWatch::exited`].
    ///
    /// # Errors
    /// As there.
    pub async fn exited(&mut self) -> io::Result<()> {
        self.0.readable().await.map(|mut guard| guard.retain_ready())
    }
}

/// See [`super::keep_descriptors_from_children`].
///
/// # Errors
/// What close_range(2) says: `ENOSYS` before Linux 5.9, `EINVAL` before 5.11.
pub fn close_range_on_exec() -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "no safe wrapper: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing and touches no memory"
    )]
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
