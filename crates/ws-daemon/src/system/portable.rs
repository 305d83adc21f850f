//! The same with what POSIX has: a walk that follows links itself, the standard library's way to start a program, SIGCHLD with a look that does not reap, and a list of the
//! descriptors.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path};
use std::process::{Command, Stdio};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::launch::Launch;

/// How many symbolic links one name may lead through, as path_resolution(7) has it.
const LINKS: usize = 40;

enum Part {
    Down(OsString),
    Up,
}

/// See [`super::open_beneath`].
///
/// # Errors
/// As there.
pub fn open_beneath(folder: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let mut parts = parts(name)?;
    // The folders on the way, so that `..` goes back to what was really opened and never above the first.
    let mut way: Vec<OwnedFd> = vec![folder.try_clone_to_owned()?];
    let mut links = 0;
    while let Some(part) = parts.pop_front() {
        let Part::Down(part) = part else {
            way.pop();
            if way.is_empty() {
                return Err(Errno::XDEV.into());
            }
            continue;
        };
        let here = way.last().ok_or(Errno::XDEV)?;
        let next = match openat(here, &part, look(), Mode::empty()) {
            Ok(file) if !is_link(&file)? => file,
            Ok(_) | Err(Errno::LOOP) => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = read_link(here.as_fd(), &part)?;
                for part in self::parts(Path::new(&target))?.into_iter().rev() {
                    parts.push_front(part);
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        way.push(next);
    }
    way.pop().ok_or_else(|| Errno::XDEV.into())
}

/// Without `O_PATH` the file is opened for reading, and without waiting for the other end of a FIFO.
fn look() -> OFlags {
    #[cfg(target_os = "linux")]
    let look = OFlags::PATH;
    #[cfg(not(target_os = "linux"))]
    let look = OFlags::RDONLY | OFlags::NONBLOCK;
    look | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn is_link(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == FileType::Symlink)
}

fn read_link(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<OsString> {
    Ok(OsString::from_vec(readlinkat(folder, name, Vec::new())?.into_bytes()))
}

fn parts(name: &Path) -> io::Result<VecDeque<Part>> {
    if name.as_os_str().is_empty() {
        return Err(Errno::NOENT.into());
    }
    let part = |component| match component {
        Component::Normal(name) => Some(Ok(Part::Down(name.to_owned()))),
        Component::ParentDir => Some(Ok(Part::Up)),
        Component::CurDir => None,
        Component::RootDir | Component::Prefix(_) => Some(Err(Errno::XDEV.into())),
    };
    name.components().filter_map(part).collect()
}

/// See [`super::launch`].
///
/// # Errors
/// As there.
pub fn launch(launch: &Launch<'_>) -> io::Result<Pid> {
    let text = |text: &CStr| OsStr::from_bytes(text.to_bytes()).to_owned();
    let pipe = |descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned().map(Stdio::from);
    let variables = launch.environment.iter().filter_map(|variable| {
        let bytes = variable.to_bytes();
        let equals = bytes.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&bytes[..equals]), OsStr::from_bytes(&bytes[equals + 1..])))
    });
    let child = Command::new(text(launch.program))
        .arg(text(launch.argument))
        .env_clear()
        .envs(variables)
        .current_dir(text(launch.folder))
        .process_group(0)
        .stdin(pipe(launch.stdin)?)
        .stdout(pipe(launch.stdout)?)
        .stderr(pipe(launch.stderr)?)
        .spawn()?;
    // The handle neither kills nor reaps when dropped; from here on the number stands for the child.
    Ok(Pid::from_child(&child))
}

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
