//! What differs between systems, behind one face: walking down a path, starting a program, seeing that it has ended without
//! reaping it, seeing that a folder has changed, seeing that the other end of a socket is gone, whose it is, and keeping descriptors from children.
//!
//! Linux has a way of its own for each; [`portable`] does the same with what POSIX has, is what other systems get, and is tried by the
//! same tests on Linux. Nothing here knows what it is used for.

mod figures;
mod launch;
#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(target_os = "linux")]
mod owner;
pub mod portable;
pub mod shim;
pub mod trust;
#[cfg(target_os = "linux")]
pub mod vfork;
pub mod walk;

pub use figures::{Figures, figures};
pub use launch::{Launch, c_text};

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Starts a program. Whoever calls must reap it.
///
/// # Errors
/// What the system says, of the program's file too: the program has not run then, and there is nothing to reap.
pub fn launch(launch: &Launch<'_>) -> io::Result<Pid> {
    #[cfg(target_os = "linux")]
    let started = vfork::launch(launch);
    #[cfg(not(target_os = "linux"))]
    let started = portable::launch(launch);
    started
}

/// Sees the end of one child without reaping it, so that its process group can be signalled until the very end.
#[derive(Debug)]
pub enum ExitWatch {
    /// By pidfd.
    #[cfg(target_os = "linux")]
    Linux(linux::ExitWatch),
    /// By SIGCHLD.
    Portable(portable::ExitWatch),
}

impl ExitWatch {
    /// Watches `child`, which must be an unreaped child of this process.
    ///
    /// # Errors
    /// When the system is out of descriptors.
    pub fn new(child: Pid) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        match linux::ExitWatch::new(child) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {}
            result => return result.map(Self::Linux),
        }
        portable::ExitWatch::new(child).map(Self::Portable)
    }

    /// Ends when the child has ended. Cancel safe.
    ///
    /// # Errors
    /// When the watch itself fails; the child is then unwatched.
    pub async fn exited(&mut self) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Linux(watch) => watch.exited().await,
            Self::Portable(watch) => watch.exited().await,
        }
    }
}

/// Sees that something has changed in some folders: a file was closed after writing, or has another name, or other rights.
#[derive(Debug)]
pub struct FolderWatch(#[cfg(target_os = "linux")] linux::FolderWatch);

impl FolderWatch {
    /// Watches these folders; one that is not there is passed over. `None` where the system has no such watch.
    ///
    /// # Errors
    /// When the system is out of watches.
    pub fn new(folders: &BTreeSet<PathBuf>) -> io::Result<Option<Self>> {
        #[cfg(target_os = "linux")]
        let watch = linux::FolderWatch::new(folders).map(|watch| Some(Self(watch)));
        #[cfg(not(target_os = "linux"))]
        let watch = Ok(folders.first().and(None));
        watch
    }

    /// Ends when something has changed, if only the time that a file was last touched. Cancel safe.
    ///
    /// # Errors
    /// When the watch itself fails.
    pub async fn changed(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        let changed = self.0.changed().await;
        #[cfg(not(target_os = "linux"))]
        let changed = std::future::pending().await;
        changed
    }
}

/// Ends when nobody can read what is written to `socket` any more. A peer that has only shut down its writing side is still
/// there. On TCP this is seen only once a write has failed.
///
/// The descriptor is watched as a copy: readiness that is waited for here is not taken from whoever writes.
pub async fn hung_up(socket: impl AsFd) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let interest = linux::HANG_UP;
    #[cfg(not(target_os = "linux"))]
    let interest = portable::HANG_UP;
    hung_up_by(interest, socket).await
}

async fn hung_up_by(interest: Interest, socket: impl AsFd) -> io::Result<()> {
    let copy = readiness(socket.as_fd().try_clone_to_owned()?, interest)?;
    loop {
        // Of what the system tells, what says that nothing can be written any more is part of this interest.
        let mut guard = copy.ready(interest | Interest::WRITABLE).await?;
        if guard.ready().is_write_closed() {
            return Ok(());
        }
        guard.clear_ready();
    }
}

/// Registers a descriptor, which must not block, with the runtime.
///
/// # Errors
/// When the system is out of watches.
pub fn readiness(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "asks that the descriptor stays the same and open until it is dropped: an OwnedFd does")]
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    Ok(registered?)
}

/// Marks every descriptor but 0, 1 and 2 to be closed in children: also those that whoever started the daemon left open.
///
/// # Errors
/// When the system does not tell which there are.
pub fn keep_descriptors_from_children() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match linux::close_range_on_exec() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) => {}
        result => return result,
    }
    portable::close_on_exec()
}

/// From here on the descriptors are this thread's own: what other threads open and close is theirs. Where the system cannot do that, they
/// stay common.
pub fn own_descriptors() {
    #[cfg(target_os = "linux")]
    drop(linux::close_range_unshare());
}

/// Gives back the memory that holds what of the program only its start has needed; what is needed again comes again by itself. A program is
/// mapped generously while it starts, and most of that is for settings, keys and the command line.
pub fn forget_the_start() {
    #[cfg(target_os = "linux")]
    linux::forget_the_start();
}

/// Whether whoever started this process had it ignore SIGHUP, as nohup(1) does.
#[must_use]
pub fn ignores_hangup() -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    #[expect(
        unsafe_code,
        reason = "no safe wrapper: without a new action sigaction(2) only writes the old one, which is read if it did"
    )]
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Keeps the signals that tell a daemon something from this thread, or lets them come: those that were kept come then.
pub fn hold_signals(hold: bool) {
    use nix::sys::signal::{SigSet, Signal};
    let told = SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR2]);
    // It fails for no set of signals.
    let _ = if hold { told.thread_block() } else { told.thread_unblock() };
}

/// Whether this process has a terminal that can hang up on it.
#[must_use]
pub fn has_terminal() -> bool {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).is_ok()
}

/// The limits of open files as they were before the daemon raised its own, if it has.
static OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of open files to what is `wanted`: the hard one too, if this process may, else as far as that lets it. Returns the limit
/// in force. Children have the one that was there before.
#[must_use]
pub fn raise_open_files(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let (current, most) = (now.current.unwrap_or(u64::MAX), now.maximum.unwrap_or(u64::MAX));
    let raise = |to: u64| {
        let maximum = now.maximum.map(|most| most.max(to));
        (to > current && setrlimit(Resource::Nofile, Rlimit { current: Some(to), maximum }).is_ok()).then_some(to)
    };
    let raised = raise(wanted).or_else(|| raise(wanted.min(most)));
    if raised.is_some() {
        OPEN_FILES.get_or_init(|| now);
    }
    raised.unwrap_or(current)
}

/// Goes back to the limits of open files that were there before the daemon raised its own: for a program that takes its place.
pub fn lower_open_files() {
    if let Some(before) = OPEN_FILES.get() {
        // Who takes its place has more than it would have had, then.
        let _ = setrlimit(Resource::Nofile, *before);
    }
}

/// What children are to have in place of the daemon's own limits.
#[cfg(target_os = "linux")]
fn open_files_of_children() -> Option<libc::rlimit> {
    let limit = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    OPEN_FILES.get().map(|before| libc::rlimit { rlim_cur: limit(before.current), rlim_max: limit(before.maximum) })
}

/// Keeps low numbers for what `threads` threads give to the programs that they start: to be called before there are many descriptors. Where
/// children are started otherwise it does nothing.
///
/// # Errors
/// When there are no more descriptors.
pub fn keep_low_numbers(threads: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    vfork::keep_low_numbers(threads)?;
    #[cfg(not(target_os = "linux"))]
    let _unused = threads;
    Ok(())
}

/// What the system says of the process at the other end of a Unix socket, as it was when it connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its user id; `None` where the system does not tell.
    pub uid: Option<u32>,
    /// Its group, and the others that it is in where the system tells.
    pub groups: Box<[u32]>,
    /// Its process id, where the system tells.
    pub pid: Option<i32>,
}

/// The process at the other end of a Unix socket.
#[must_use]
pub fn peer_process(socket: BorrowedFd<'_>) -> Process {
    #[cfg(target_os = "linux")]
    return linux::peer_process(socket).unwrap_or_default();
    #[cfg(not(target_os = "linux"))]
    return nix::unistd::getpeereid(socket).map_or_else(
        |_| Process::default(),
        |(user, group)| Process { uid: Some(user.as_raw()), groups: [group.as_raw()].into(), pid: None },
    );
}

/// The number of the user who is called so. Asks whatever the system is set up to ask, which may take a while.
#[must_use]
pub fn user_id(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The number of the group that is called so; as [`user_id`].
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// A process of the user who is called so, or has this number, as after a login: with all groups of that user. `None` if there is
/// none; of one that has only a number, no groups are known. Takes as long as [`user_id`].
#[must_use]
pub fn process_of(user: &str) -> Option<Process> {
    use nix::unistd::{Uid, User};
    let number = user.parse().ok();
    let known = match number {
        Some(uid) => User::from_uid(Uid::from_raw(uid)),
        None => User::from_name(user),
    };
    let Some(known) = known.ok().flatten() else {
        return number.map(|uid| Process { uid: Some(uid), ..Process::default() });
    };
    Some(Process { uid: Some(known.uid.as_raw()), groups: groups_of(&known), pid: None })
}

#[cfg(not(target_os = "macos"))]
fn groups_of(user: &nix::unistd::User) -> Box<[u32]> {
    let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
    let groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
    groups.into_iter().map(nix::unistd::Gid::as_raw).collect()
}

#[cfg(target_os = "macos")]
fn groups_of(user: &nix::unistd::User) -> Box<[u32]> {
    [user.gid.as_raw()].into()
}

/// The user id that owns the other end of a TCP connection within this machine, from `own` here to `far`; `None` where the
/// system has no way to tell. IPv4 addresses come as such, not as mapped ones.
///
/// # Errors
/// When the system could tell and does not: nobody holds that end, or not any more.
pub async fn far_user(own: SocketAddr, far: SocketAddr) -> io::Result<Option<u32>> {
    #[cfg(target_os = "linux")]
    return owner::owner(own, far).await.map(Some);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (own, far);
        return std::future::ready(Ok(None)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::fs;
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::{Mutex, PoisonError};

    use rustix::fs::OFlags;

    use super::walk::{PATH_BYTES, walk_by};
    use super::*;

    /// What every way to open beneath a folder must do.
    fn opens_only_beneath(look: OFlags) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let base = root.path().join("scripts");
        fs::create_dir_all(base.join("deep/er")).expect("made");
        fs::write(base.join("deep/er/file"), "x").expect("written");
        fs::write(root.path().join("outside"), "x").expect("written");
        symlink("deep/er/file", base.join("inside-link")).expect("linked");
        symlink(base.join("deep/er/file"), base.join("absolute-inside")).expect("linked");
        symlink("../outside", base.join("outside-link")).expect("linked");
        symlink("/etc/passwd", base.join("absolute-link")).expect("linked");
        symlink(root.path().join("scripts-not"), base.join("near")).expect("linked");
        symlink("..", base.join("deep/up")).expect("linked");
        symlink("loop", base.join("loop")).expect("linked");
        let follow = |name: &str| {
            let mut seen = Vec::new();
            let folder = fs::File::open(&base).expect("opened");
            let found = walk_by(look, OwnedFd::from(folder).into(), &[&base], Path::new(name), |path, _| {
                seen.push(path.strip_prefix(&base).expect("beneath").to_str().expect("UTF-8").to_owned());
                Ok::<(), io::Error>(())
            });
            (found.map(|(_, found)| found.path.strip_prefix(&base).expect("beneath").to_owned()), seen)
        };
        let table: [(&str, &str, &[&str]); 6] = [
            ("deep/er/file", "deep/er/file", &["deep", "deep/er", "deep/er/file"]),
            ("./deep/./er//file", "deep/er/file", &["deep", "deep/er", "deep/er/file"]),
            ("inside-link", "deep/er/file", &["inside-link", "deep", "deep/er", "deep/er/file"]),
            ("absolute-inside", "deep/er/file", &["absolute-inside", "deep", "deep/er", "deep/er/file"]),
            ("deep/up/deep/", "deep", &["deep", "deep/up", "deep"]),
            ("deep/../deep", "deep", &["deep", "deep"]),
        ];
        for (name, end, way) in table {
            let (found, seen) = follow(name);
            assert_eq!(found.expect(name), Path::new(end), "{name}");
            assert_eq!(seen, way, "{name}");
        }
        let long = "./".repeat(PATH_BYTES);
        let table = [
            ("../outside", libc::EXDEV),
            ("outside-link", libc::EXDEV),
            ("absolute-link", libc::EXDEV),
            ("near", libc::EXDEV),
            ("/etc/passwd", libc::EXDEV),
            ("deep/../../outside", libc::EXDEV),
            ("deep/up/../outside", libc::EXDEV),
            ("none", libc::ENOENT),
            ("", libc::ENOENT),
            ("deep/er/file/x", libc::ENOTDIR),
            ("deep/er/file/", libc::ENOTDIR),
            ("deep/er/file/.", libc::ENOTDIR),
            ("deep/er/file/..", libc::ENOTDIR),
            ("loop", libc::ELOOP),
            (&*long, libc::ENAMETOOLONG),
        ];
        for (name, errno) in table {
            let error = follow(name).0.expect_err(name);
            assert_eq!(error.raw_os_error(), Some(errno), "{name}");
        }
    }

    #[test]
    fn the_portable_way_opens_only_beneath() {
        opens_only_beneath(portable::look());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_opens_only_beneath() {
        opens_only_beneath(linux::look());
    }

    type Start = fn(&Launch<'_>) -> io::Result<Pid>;

    /// Starts a shell with `script` and returns its process id and all it says.
    fn says(start: Start, script: &str, program: &CStr) -> io::Result<(Pid, String)> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let script = c_text(script)?;
        let environment = [c"A=b=c", c"EMPTY=", c"PATH=/usr/bin:/bin"];
        let launch = Launch {
            program,
            arguments: &[&script],
            environment: &environment,
            folder: c"/usr",
            stdin: None,
            stdout: write.as_fd(),
            stderr: write.as_fd(),
            report: None,
        };
        let pid = start(&launch)?;
        drop(write);
        let mut said = String::new();
        fs::File::from(read).read_to_string(&mut said)?;
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
        Ok((pid, said))
    }

    /// Held by whoever counts a child's descriptors, and by whoever has some that children get.
    static INHERITED: Mutex<()> = Mutex::new(());

    /// What every way to start a program must do; the signals of `left` may be ignored still.
    fn starts_as_told(start: Start, left: u64) {
        let _alone = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("script");
        let text = "#!/bin/sh\necho $0; echo $1; pwd; echo $A-$EMPTY-$HOME; readlink /proc/self/fd/0; ls /proc/self/fd | wc -l\n\
                    cut -d' ' -f5 /proc/self/stat; grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2 | cut -c9-\n";
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        let program = c_text(path.as_os_str().as_bytes()).expect("no NUL");
        let (pid, said) = loop {
            match says(start, "an argument", &program) {
                // What another thread of this test has just started has the file open for writing until it is its program.
                Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => std::thread::yield_now(),
                result => break result.expect("started"),
            }
        };
        let shown = path.display();
        let group = pid.as_raw_nonzero();
        // Descriptors 0, 1, 2, and the one by which ls reads the folder. Of the signals, the lower half of the set: what stands
        // above the standard ones is the C library's own.
        let expected = format!("{shown}\nan argument\n/usr\nb=c--\n/dev/null\n4\n{group}\n");
        let signals = said.strip_prefix(&expected).unwrap_or_else(|| panic!("{said}"));
        for set in signals.lines() {
            assert_eq!(u64::from_str_radix(set, 16).expect("a set") & 0x7fff_ffff & !left, 0, "blocked or ignored: {signals}");
        }

        fs::write(&path, "#!/no/such/interpreter\n").expect("written");
        for (program, errno) in
            [(program.as_c_str(), libc::ENOENT), (c"/no/such/program", libc::ENOENT), (c"/etc/passwd", libc::EACCES)]
        {
            let error = says(start, "", program).expect_err("not started");
            assert_eq!(error.raw_os_error(), Some(errno), "{program:?}");
        }
    }

    #[test]
    fn the_portable_way_starts_a_program_as_told() {
        // The standard library resets SIGPIPE alone: whatever nohup, or a shell's &, has had ignored stays so.
        let status = fs::read_to_string("/proc/self/status").expect("a process has one");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("it has this line");
        let pipe = 1 << (libc::SIGPIPE - 1);
        starts_as_told(portable::launch, u64::from_str_radix(ignored.trim(), 16).expect("a set") & !pipe);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_starts_a_program_as_told() {
        starts_as_told(vfork::launch, 0);
    }

    /// What every exit watch must do: see an exit that was before it and one after, and leave the child to be reaped.
    async fn sees_an_exit(watch: fn(Pid) -> io::Result<ExitWatch>) {
        for script in ["exit 7", "read x; exit 7"] {
            let mut child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::piped()).spawn().expect("spawned");
            let mut watch = watch(Pid::from_child(&child)).expect("watched");
            drop(child.stdin.take());
            watch.exited().await.expect("seen");
            assert_eq!(child.wait().expect("not reaped before").code(), Some(7));
        }
    }

    #[tokio::test]
    async fn the_portable_way_sees_an_exit() {
        sees_an_exit(|pid| portable::ExitWatch::new(pid).map(ExitWatch::Portable)).await;
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_sees_an_exit() {
        sees_an_exit(|pid| linux::ExitWatch::new(pid).map(ExitWatch::Linux)).await;
    }

    /// What waiting for a hang-up must do, whatever else the system tells.
    async fn sees_a_hang_up(interest: Interest) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        theirs.shutdown(std::net::Shutdown::Write).expect("shut");
        let mut watch = Box::pin(hung_up_by(interest, &ours));
        assert!(futures_util::poll!(&mut watch).is_pending());
        // One turn of the reactor with an event in it, so that a wrong answer has had its chance.
        tokio::time::timeout(std::time::Duration::from_millis(20), &mut watch).await.expect_err("only half closed");
        drop(theirs);
        watch.await.expect("seen");
        hung_up_by(interest, &ours).await.expect("it was before");
    }

    #[tokio::test]
    async fn the_portable_way_sees_that_a_closed_socket_is_hung_up_and_a_half_closed_one_is_not() {
        sees_a_hang_up(portable::HANG_UP).await;
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_sees_that_a_closed_socket_is_hung_up_and_a_half_closed_one_is_not() {
        sees_a_hang_up(linux::HANG_UP).await;
    }

    /// On TCP too.
    #[tokio::test]
    async fn a_failed_write_shows_that_a_tcp_connection_is_hung_up() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let ours = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        ours.set_nonblocking(true).expect("set");
        let (theirs, _) = listener.accept().expect("accepted");
        let mut watch = Box::pin(hung_up(&ours));
        assert!(futures_util::poll!(&mut watch).is_pending());
        drop(theirs);
        // The first is answered with a reset.
        (&ours).write_all(b"answer").expect("written");
        watch.await.expect("seen");
    }

    /// How often whoever waits for a hang-up is woken by one answer that is written and read.
    #[cfg(target_os = "linux")]
    async fn wake_ups_of_an_answer(interest: Interest) -> usize {
        use std::io::Write;
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::{Context, Wake, Waker};

        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        let (behind, mut last) = UnixStream::pair().expect("a pair");
        behind.set_nonblocking(true).expect("set");
        let behind = readiness(behind.into(), Interest::READABLE).expect("watched");
        let copy = ours.try_clone().expect("copied");
        let mut watch = Box::pin(hung_up_by(interest, &copy));
        let count = Arc::new(Count(AtomicUsize::new(0)));
        assert!(watch.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&count)))).is_pending());
        ours.write_all(b"answer").expect("written");
        assert_eq!(theirs.read(&mut [0; 16]).expect("read"), 6);
        // What is told of this comes behind all that was to be told of the other.
        last.write_all(b"x").expect("written");
        drop(behind.readable().await.expect("told"));
        count.0.load(Ordering::Relaxed)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_wakes_nobody_who_waits_for_a_hang_up_when_an_answer_is_read() {
        assert!(wake_ups_of_an_answer(portable::HANG_UP).await > 0, "those that there are can be seen");
        assert_eq!(wake_ups_of_an_answer(linux::HANG_UP).await, 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_another_thread_closes_stays_open_for_a_thread_with_descriptors_of_its_own() {
        let flags = rustix::pipe::PipeFlags::NONBLOCK | rustix::pipe::PipeFlags::CLOEXEC;
        let (reader, writer) = rustix::pipe::pipe_with(flags).expect("a pipe can be had");
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let own = std::thread::spawn(move || {
            own_descriptors();
            tell.send(()).expect("it is waited for");
            wait.recv().expect("it is told");
        });
        told.recv().expect("it tells");
        drop(writer);
        let read = || rustix::io::read(&reader, &mut [0]);
        assert_eq!(read(), Err(rustix::io::Errno::AGAIN), "the other end is open there");
        go.send(()).expect("it waits");
        own.join().expect("it ends");
        // What a thread had for itself alone goes with it, if not in the same moment.
        let mut events = [rustix::event::PollFd::new(&reader, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut events, None).expect("it ends");
        assert_eq!(read(), Ok(0));
    }

    #[test]
    fn both_ways_keep_descriptors_from_children() {
        let _alone = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
        for mark in [linux::close_range_on_exec, portable::close_on_exec] {
            let file = fs::File::open("/dev/null").expect("there");
            rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("cleared");
            mark().expect("marked");
            assert!(rustix::io::fcntl_getfd(&file).expect("read").contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}
