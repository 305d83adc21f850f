//! The socket file of a daemon: its name, its lock, its rights, and its end. Names are tried in the seed's order; a file that
//! answers is somebody else's, one that does not was left by a crash and is taken over. It never removes a file that is not its
//! own socket.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Mode, chmod, chown, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::stream::Stream;
use crate::system;

/// How many names are tried: `ws-daemon.sock`, `ws-daemon0.sock`, … One more, and the daemon does not start.
const NAMES: usize = 1000;

/// Connections that wait to be accepted; more wait in their `connect`.
const BACKLOG: i32 = 1024;

/// Why there is no socket file.
#[derive(Debug, thiserror::Error)]
pub enum SocketFault {
    /// The system refused.
    #[error("no socket at {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path does not fit into an address.
    #[error("the path {} is too long for a socket (107 bytes); choose a shorter prefix", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// No such group.
    #[error("there is no group \"{0}\"; create it with: groupadd {0}")]
    NoGroup(String),
    /// All names are taken.
    #[error("{} already has {NAMES} live sockets", prefix.display())]
    AllTaken {
        /// The folder.
        prefix: PathBuf,
    },
}

/// A bound socket file. Dropped, it is removed, unless it was given by somebody who keeps it.
#[derive(Debug)]
pub struct SocketFile {
    listener: AsyncFd<OwnedFd>,
    path: PathBuf,
    own: Option<Own>,
}

/// What makes the file this daemon's own.
#[derive(Debug)]
struct Own {
    /// Device and inode: what was bound, whatever stands at the path later.
    file: (u64, u64),
    lock: Lock,
}

/// The lock beside a socket file, held as long as the daemon lives; the system gives it back if it crashes.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

impl SocketFile {
    /// Binds the first free name in `prefix`, for its owner and, if given, a group.
    ///
    /// # Errors
    /// When no name can be had.
    pub fn bind(prefix: &Path, group: Option<&str>) -> Result<Self, SocketFault> {
        let group = group.map(group_id).transpose()?;
        for path in names(prefix) {
            if path.as_os_str().len() > 107 {
                return Err(SocketFault::TooLong { path });
            }
            let fault = |source| SocketFault::Io { path: path.clone(), source };
            let Some(lock) = Lock::take(&path).map_err(fault)? else { continue };
            if !is_free(&path).map_err(fault)? {
                continue;
            }
            let (listener, file) = bind_at(&path, group).map_err(fault)?;
            return Ok(Self { listener, path, own: Some(Own { file, lock }) });
        }
        Err(SocketFault::AllTaken { prefix: prefix.to_owned() })
    }

    /// A socket that was bound before: by a service manager, who keeps it for the next life of this daemon, or by the last life, whose
    /// `own` it was; then it is for its owner and, if given, a group.
    ///
    /// # Errors
    /// It is no file, or the system is out of watches.
    pub fn given(listener: std::os::unix::net::UnixListener, own: bool, group: Option<&str>) -> Result<Self, SocketFault> {
        let address = listener.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname()).map(Path::to_owned).unwrap_or_default();
        let fault = |source| SocketFault::Io { path: path.clone(), source };
        if path.as_os_str().is_empty() {
            return Err(fault(io::Error::other("the socket that the service manager has given is no file")));
        }
        let listener = system::readiness(listener.into(), Interest::READABLE).map_err(fault)?;
        // Whoever has its lock now takes the name when it is free.
        let lock = if own { Lock::take(&path).map_err(fault)? } else { None };
        if lock.is_some() {
            let group = group.map(group_id).transpose()?;
            give_rights(&path, group).map_err(fault)?;
        }
        let own = lock.zip(fs::symlink_metadata(&path).ok());
        let own = own.map(|(lock, found)| Own { file: (found.dev(), found.ino()), lock });
        Ok(Self { listener, path, own })
    }

    /// Lets the file stand for the next life of this daemon.
    pub fn leave(mut self) {
        self.own = None;
    }

    /// Whether it is removed in the end.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            let mut told = self.listener.readable().await?;
            match accept_with(told.get_inner(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Err(Errno::AGAIN) => told.clear_ready(),
                Err(Errno::INTR) => {}
                accepted => return Stream::new(accepted?),
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(Own { file, lock }) = &self.own else { return };
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == *file) {
            drop(fs::remove_file(&self.path));
        }
        lock.remove();
    }
}

/// The names a daemon's socket may have in `prefix`, in the order in which they are tried.
pub fn names(prefix: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let prefix = prefix.to_owned();
    let numbered = (0..NAMES - 1).map(|number| format!("ws-daemon{number}.sock"));
    std::iter::once("ws-daemon.sock".to_owned()).chain(numbered).map(move |name| prefix.join(name))
}

/// Whether a socket may be bound at `path`: nothing is there, or a socket that nobody answers, which is removed. Called with the
/// lock held, so that no two daemons remove and bind at once.
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Ok(false),
        Ok(_) if answers(path)? => Ok(false),
        Ok(_) => fs::remove_file(path).map(|()| true),
    }
}

/// Whether somebody listens there. A seed daemon takes no lock, so only its answer shows that it lives.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED) => Ok(false),
        // It listens and has no room just now, or not for us.
        Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Bound, then given its rights, then opened for connections: at no time can somebody connect who may not.
fn bind_at(path: &Path, group: Option<Gid>) -> io::Result<(AsyncFd<OwnedFd>, (u64, u64))> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let bound = fs::symlink_metadata(path)?;
    give_rights(path, group)?;
    listen(&socket, BACKLOG)?;
    let listener = system::readiness(socket, Interest::READABLE)?;
    Ok((listener, (bound.dev(), bound.ino())))
}

impl Lock {
    /// Takes the lock of the socket at `socket`; `None` if a living daemon has it.
    fn take(socket: &Path) -> io::Result<Option<Self>> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                result => result?,
            }
            // The daemon that held it may have removed the file between our open and our lock: then this lock is nobody's.
            let ours = file.metadata()?;
            if fs::metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// Removes the file while the lock is still held.
    fn remove(&self) {
        drop(fs::remove_file(&self.path));
        // Given back with the descriptor, here or a moment later: nobody takes the lock of a file that is gone.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// It is for its owner, and for the group if there is one.
fn give_rights(path: &Path, group: Option<Gid>) -> io::Result<()> {
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    Ok(chmod(path, Mode::from_raw_mode(if group.is_some() { 0o660 } else { 0o600 }))?)
}

fn group_id(name: &str) -> Result<Gid, SocketFault> {
    let found = nix::unistd::Group::from_name(name).ok().flatten();
    found.map(|group| Gid::from_raw(group.gid.as_raw())).ok_or_else(|| SocketFault::NoGroup(name.to_owned()))
}
