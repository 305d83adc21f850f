//! The Linux ways: O_PATH, pidfd_open(2), close_range(2), inotify(7).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How a file is opened to be looked at: without any right to it.
#[must_use]
pub fn look() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// What [`super::hung_up`] waits for: of a hang-up the system tells whoever waits for anything, and of this it tells else only what is urgent.
/// Whoever waits for room to write is told of it each time that the other side of a Unix socket has read something.
pub const HANG_UP: Interest = Interest::PRIORITY;

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

/// See [`super::forget_the_start`].
pub fn forget_the_start() {
    // Nothing depends on it.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (from, to) in maps.lines().filter_map(never_written) {
        #[expect(
            unsafe_code,
            reason = "asks that nothing of the memory is lost: this is a mapping of a file that was never written, so each page is what the \
                      file says, and is mapped again when it is needed"
        )]
        let _stays_if_not_0 =
            unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(from), to - from, libc::MADV_DONTNEED) };
    }
}

/// From where to where a line of /proc/PID/maps (proc(5)) is about a part of a program file that is never written: what is executed, and the
/// constants at its beginning. Those behind it may have been, when addresses were put in.
fn never_written(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let (rights, offset, file) = (words.next()?, words.next()?, words.nth(2)?);
    let is_so = file.starts_with('/') && (rights == "r-xp" || (rights == "r--p" && offset.trim_matches('0').is_empty()));
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(from)?, number(to)?)).filter(|_| is_so)
}

/// Groups of one process that are asked for; the kernel lets it have as many.
const GROUPS: usize = 65_536;

/// See [`super::peer_process`].
///
/// # Errors
/// It is no Unix socket.
pub fn peer_process(socket: BorrowedFd<'_>) -> io::Result<super::Process> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    let mut groups = vec![peer.gid.as_raw()];
    // Before Linux 4.13 only the one group is known.
    groups.extend(peer_groups(socket).unwrap_or_default());
    groups.dedup();
    Ok(super::Process { uid: Some(peer.uid.as_raw()), groups: groups.into(), pid: Some(peer.pid.as_raw_nonzero().get()) })
}

/// The supplementary groups of the process at the other end, by SO_PEERGROUPS.
fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        #[expect(
            unsafe_code,
            reason = "no safe wrapper: getsockopt(2) writes at most `bytes` into `groups`, which has as many"
        )]
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let found = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(found);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Then it says how many there are.
        if error.raw_os_error() != Some(libc::ERANGE) || found <= groups.len() || found > GROUPS {
            return Err(error);
        }
        groups.resize(found, 0);
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

/// See [`super::own_descriptors`].
///
/// # Errors
/// What close_range(2) says: `ENOSYS` before Linux 5.9.
pub fn close_range_unshare() -> io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "no safe wrapper: close_range(2) over the highest number, which nothing can have, closes nothing and touches no memory"
    )]
    let result = unsafe { libc::close_range(libc::c_uint::MAX, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE.cast_signed()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// See [`super::FolderWatch`].
#[derive(Debug)]
pub struct FolderWatch(AsyncFd<OwnedFd>);

impl FolderWatch {
    /// See [`super::FolderWatch::new`]. What is written is told when it is closed: a spool, which is kept open, wakes nobody.
    ///
    /// # Errors
    /// As there.
    pub fn new(folders: &BTreeSet<PathBuf>) -> io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let (written, names) = (inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::ATTRIB, inotify::WatchFlags::MOVE);
        let names = names | inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::ONLYDIR;
        for folder in folders {
            match inotify::add_watch(&watch, folder, written | names) {
                // What is in there is not there either.
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        super::readiness(watch, Interest::READABLE).map(Self)
    }

    /// See [`super::FolderWatch::changed`].
    ///
    /// # Errors
    /// As there.
    pub async fn changed(&self) -> io::Result<()> {
        let mut events = [0; 4 << 10];
        let mut guard = self.0.readable().await?;
        // What it was is for others to see: what counts is that there was something.
        loop {
            match rustix::io::read(guard.get_inner(), &mut events) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_the_constants_before_it_are_never_written() {
        let table = [
            (
                "56201bc8b000-56201cec2000 r-xp 00571000 fe:00 2114 /usr/bin/ws-daemon",
                Some((0x5620_1bc8_b000, 0x5620_1cec_2000)),
            ),
            (
                "56201b71a000-56201bc8b000 r--p 00000000 fe:00 2114 /usr/bin/ws-daemon",
                Some((0x5620_1b71_a000, 0x5620_1bc8_b000)),
            ),
            ("56201cec2000-56201cf57000 r--p 017a7000 fe:00 2114 /usr/bin/ws-daemon", None),
            ("7fc5c1a00000-7fc5c1a01000 rwxp 00000000 fe:00 99 /usr/lib/odd.so", None),
            ("7fc5c1b00000-7fc5c1b01000 rw-p 00000000 fe:00 99 /usr/lib/libc.so.6", None),
            ("7ffe0b3f1000-7ffe0b3f3000 r-xp 00000000 00:00 0 [vdso]", None),
            ("7fc5c1c00000-7fc5c1c01000 r-xp 00000000 00:00 0 ", None),
            ("nonsense", None),
        ];
        for (line, found) in table {
            assert_eq!(never_written(line), found, "{line}");
        }
    }

    #[test]
    fn what_the_start_needed_is_given_back_and_comes_again_when_it_is_needed() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("it is told").to_owned();
            line.trim_end_matches("kB").trim().parse::<u64>().expect("a number")
        };
        let before = resident();
        forget_the_start();
        let after = resident();
        assert!(after < before, "{after} of {before} KiB");
    }
}
