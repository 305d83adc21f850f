//! The one place with unsafe code that matters: a child that shares this process's memory until it has become its program.

#![expect(unsafe_code, reason = "clone(2) with a shared memory has no safe form; the argument stands at each block")]

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::launch::Launch;

/// Room for the child's few calls.
const STACK_BYTES: usize = 32 * 1024;

/// The signals that this process catches or ignores. Caught ones are set to their default before the mask is lifted, so that no
/// handler of ours ever runs in a child; execve(2) would do so too late.
const OURS: [c_int; 8] =
    [libc::SIGPIPE, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];

/// The alignment that the ABIs ask of a stack pointer.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Aligned(#[expect(dead_code, reason = "it is only room")] [u8; 16]);

/// What a child gets has low numbers for as long as it takes to start it: so it need not copy, and close again, as many descriptors as the
/// daemon has links.
#[derive(Debug)]
struct Low {
    null: File,
    /// Of threads that have none yet: one for each thing that a child is given.
    free: Mutex<Vec<Slots>>,
    /// The first number that is above all of them.
    above: c_uint,
}

type Slots = [OwnedFd; 4];

static LOW: OnceLock<Low> = OnceLock::new();

/// A child cannot leave out what it does not need: an old kernel, or somebody forbids it.
static COPIES_ALL: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Taken by the first start on this thread that finds some.
    static SLOTS: Cell<Option<Slots>> = const { Cell::new(None) };

    /// One stack for all children of a thread: only one of them at a time stands on it.
    static STACK: RefCell<Box<[Aligned]>> = RefCell::new(vec![Aligned([0; 16]); STACK_BYTES / size_of::<Aligned>()].into());
}

/// What the child is told, and its answer. It lives in the parent's frame.
struct Orders {
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    folder: *const c_char,
    descriptors: [c_int; 3],
    /// What becomes descriptor 3, or -1.
    report: c_int,
    /// Descriptors are shared until the child has left those from here on, and has the others to itself; 0: it has a copy of all.
    above: c_uint,
    /// How many descriptors the program may have, if it is to be another number than the daemon's.
    open_files: *const libc::rlimit,
    /// The errno of what failed, or 0; the negative of it if that was leaving the daemon's descriptors.
    failure: AtomicI32,
}

/// Keeps low numbers for `threads` threads that start programs: to be called before there are many descriptors. Without it children copy
/// them all.
///
/// # Errors
/// When there are no more descriptors.
pub fn keep_low_numbers(threads: usize) -> io::Result<()> {
    if LOW.get().is_some() {
        return Ok(());
    }
    let null = File::open("/dev/null")?;
    let slot = || Ok::<OwnedFd, io::Error>(fcntl_dupfd_cloexec(&null, 3)?);
    let slots = || Ok::<Slots, io::Error>([slot()?, slot()?, slot()?, slot()?]);
    let free: Vec<Slots> = (0..threads).map(|_| slots()).collect::<io::Result<_>>()?;
    let highest = free.iter().flatten().map(AsRawFd::as_raw_fd).max().unwrap_or(3);
    let above = c_uint::try_from(highest + 1).map_err(io::Error::other)?;
    // Of two at once one is enough.
    drop(LOW.set(Low { null, free: Mutex::new(free), above }));
    Ok(())
}

/// See [`super::launch`].
///
/// # Errors
/// As there.
pub fn launch(launch: &Launch<'_>) -> io::Result<Pid> {
    // Below 3, one dup2 could overwrite what the next one copies. Rust's runtime opens the first three at start.
    if [launch.stdin, Some(launch.stdout), Some(launch.stderr)].iter().flatten().any(|descriptor| descriptor.as_raw_fd() < 3) {
        return super::portable::launch(launch);
    }
    let low = LOW.get().filter(|_| !COPIES_ALL.load(Ordering::Relaxed));
    let slots = |low: &Low| SLOTS.take().or_else(|| low.free.lock().unwrap_or_else(PoisonError::into_inner).pop());
    if let Some((low, mut slots)) = low.and_then(|low| Some((low, slots(low)?))) {
        let started = low.lend(&mut slots, launch);
        SLOTS.set(Some(slots));
        match started {
            Err(Trouble::CannotLeave) => COPIES_ALL.store(true, Ordering::Relaxed),
            started => return started.map_err(Trouble::into),
        }
    }
    let null = launch.stdin.is_none().then(|| File::open("/dev/null")).transpose()?;
    let stdin = launch.stdin.or(null.as_ref().map(AsFd::as_fd));
    launch_with(&Launch { stdin, ..*launch }, 0).map_err(Trouble::into)
}

impl Low {
    /// Starts the program with what it is given under these numbers.
    fn lend(&self, slots: &mut Slots, launch: &Launch<'_>) -> Result<Pid, Trouble> {
        // What it is not given is as it was: nothing to read.
        let given = [launch.stdin, Some(launch.stdout), Some(launch.stderr), launch.report];
        let mut lend = || {
            for (slot, given) in slots.iter_mut().zip(given) {
                given.map_or(Ok(()), |given| dup3(given, slot, DupFlags::CLOEXEC)).map_err(io::Error::from)?;
            }
            let [stdin, stdout, stderr, report] = slots.each_ref().map(AsFd::as_fd);
            let (stdin, report) = (Some(stdin), launch.report.map(|_| report));
            launch_with(&Launch { stdin, stdout, stderr, report, ..*launch }, self.above)
        };
        let started = lend();
        // Left there, a pipe would have no end. Nothing can go wrong: both are there.
        for (slot, _) in slots.iter_mut().zip(given).filter(|(_, given)| given.is_some()) {
            let _ = dup3(&self.null, slot, DupFlags::CLOEXEC);
        }
        started
    }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    System(#[from] io::Error),
    /// The child could not leave the daemon's descriptors.
    #[error("a child cannot leave descriptors behind")]
    CannotLeave,
}

impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::System(error) => error,
            Trouble::CannotLeave => Self::other(trouble),
        }
    }
}

fn launch_with(launch: &Launch<'_>, above: c_uint) -> Result<Pid, Trouble> {
    let number = |descriptor: BorrowedFd<'_>| descriptor.as_raw_fd();
    let words = launch.arguments.iter().map(|argument| argument.as_ptr());
    let arguments: Vec<*const c_char> = std::iter::once(launch.program.as_ptr()).chain(words).chain([ptr::null()]).collect();
    let environment: Vec<*const c_char> =
        launch.environment.iter().map(|variable| variable.as_ptr()).chain([ptr::null()]).collect();
    let open_files = super::open_files_of_children();
    let stdin = launch.stdin.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let orders = Orders {
        program: launch.program.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        folder: launch.folder.as_ptr(),
        descriptors: [stdin, launch.stdout, launch.stderr].map(number),
        report: launch.report.map_or(-1, number),
        above,
        open_files: open_files.as_ref().map_or(ptr::null(), ptr::from_ref),
        failure: AtomicI32::new(0),
    };
    let pid = STACK.with_borrow_mut(|stack| start(stack, &orders))?;
    match orders.failure.into_inner() {
        0 => Ok(pid),
        errno => {
            // It has ended already: its answer was its last act but one.
            waitpid(Some(pid), WaitOptions::empty()).map_err(io::Error::from)?;
            Err(if errno < 0 { Trouble::CannotLeave } else { io::Error::from_raw_os_error(errno).into() })
        }
    }
}

fn start(stack: &mut [Aligned], orders: &Orders) -> io::Result<Pid> {
    let mut every = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: The stack is this thread's alone (`&mut`), aligned at its end, and grows downwards on every architecture Linux has
    // but one that Rust does not. CLONE_VFORK holds this thread until the child has become its program or ended, so all that
    // `orders` points to outlives the child's use of it, the stack is free again when clone returns, and the thread-local
    // storage that the two share (errno) is used by one at a time. Other threads run on, but the child calls only what is
    // async-signal-safe and takes no lock. Signals are blocked from before until the child has taken their handlers away. The
    // two sets are written by the calls that are given them before they are read.
    let pid = unsafe {
        libc::sigfillset(every.as_mut_ptr());
        // The death of a child is told even to a thread that ignores it, if it is blocked just then: another is woken for it. A
        // child that is not yet a program has no children of its own, so no handler of ours can run in it for this signal.
        libc::sigdelset(every.as_mut_ptr(), libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_SETMASK, every.as_ptr(), before.as_mut_ptr());
        let files = if orders.above == 0 { 0 } else { libc::CLONE_FILES };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | files;
        let pid = libc::clone(child, stack.as_mut_ptr_range().end.cast(), flags, ptr::from_ref(orders).cast_mut().cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        if pid == -1 { Err(error) } else { Ok(pid) }
    }?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("clone returned no child"))
}

/// The child's whole life before it becomes the program.
extern "C" fn child(orders: *mut c_void) -> c_int {
    // SAFETY: `start` passes a pointer to its `Orders`, which it keeps alive and only reads once this is over. Dispositions,
    // mask and working directory are copies (no CLONE_SIGHAND, CLONE_FS), and so are descriptors, or become so by the first call
    // below (CLONE_FILES), so changing them changes nothing for the parent. The strings and arrays end with a null.
    unsafe {
        let orders = &*orders.cast::<Orders>();
        if orders.above > 0 && libc::close_range(orders.above, c_uint::MAX, libc::CLOSE_RANGE_UNSHARE.cast_signed()) != 0 {
            orders.failure.store(-*libc::__errno_location(), Ordering::Relaxed);
            libc::_exit(127)
        }
        let [stdin, stdout, stderr] = orders.descriptors;
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        let ready = libc::setpgid(0, 0) == 0
            && libc::dup2(stdin, 0) == 0
            && libc::dup2(stdout, 1) == 1
            && libc::dup2(stderr, 2) == 2
            // It may be descriptor 3 already, and then still has its mark.
            && (orders.report < 0 || libc::dup2(orders.report, 3) == 3 && libc::fcntl(3, libc::F_SETFD, 0) == 0)
            && libc::chdir(orders.folder) == 0
            && (orders.open_files.is_null() || libc::setrlimit(libc::RLIMIT_NOFILE, orders.open_files) == 0)
            && OURS.iter().all(|signal| libc::signal(*signal, libc::SIG_DFL) != libc::SIG_ERR)
            && libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) == 0;
        if ready {
            libc::execve(orders.program, orders.arguments, orders.environment);
        }
        orders.failure.store(*libc::__errno_location(), Ordering::Relaxed);
        libc::_exit(127)
    }
}
