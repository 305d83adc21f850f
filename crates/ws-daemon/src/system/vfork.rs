//! The one place with unsafe code that matters: a child that shares this process's memory until it has become its program.

#![expect(unsafe_code, reason = "clone(2) with a shared memory has no safe form; the argument stands at each block")]

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

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

thread_local! {
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
    /// The errno of what failed, or 0.
    failure: AtomicI32,
}

/// See [`super::launch`].
///
/// # Errors
/// As there.
pub fn launch(launch: &Launch<'_>) -> io::Result<Pid> {
    let descriptors = [launch.stdin.as_raw_fd(), launch.stdout.as_raw_fd(), launch.stderr.as_raw_fd()];
    // Below 3, one dup2 could overwrite what the next one copies. Rust's runtime opens the first three at start.
    if descriptors.iter().any(|descriptor| *descriptor < 3) {
        return super::portable::launch(launch);
    }
    let words = launch.arguments.iter().map(|argument| argument.as_ptr());
    let arguments: Vec<*const c_char> = std::iter::once(launch.program.as_ptr()).chain(words).chain([ptr::null()]).collect();
    let environment: Vec<*const c_char> =
        launch.environment.iter().map(|variable| variable.as_ptr()).chain([ptr::null()]).collect();
    let orders = Orders {
        program: launch.program.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        folder: launch.folder.as_ptr(),
        descriptors,
        report: launch.report.map_or(-1, |report| report.as_raw_fd()),
        failure: AtomicI32::new(0),
    };
    let pid = STACK.with_borrow_mut(|stack| start(stack, &orders))?;
    match orders.failure.into_inner() {
        0 => Ok(pid),
        errno => {
            // It has ended already: its answer was its last act but one.
            waitpid(Some(pid), WaitOptions::empty())?;
            Err(io::Error::from_raw_os_error(errno))
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
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
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
    // descriptors, mask and working directory are copies (no CLONE_SIGHAND, CLONE_FILES, CLONE_FS), so changing them changes
    // nothing for the parent. The strings and arrays end with a null.
    unsafe {
        let orders = &*orders.cast::<Orders>();
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
            && OURS.iter().all(|signal| libc::signal(*signal, libc::SIG_DFL) != libc::SIG_ERR)
            && libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) == 0;
        if ready {
            libc::execve(orders.program, orders.arguments, orders.environment);
        }
        orders.failure.store(*libc::__errno_location(), Ordering::Relaxed);
        libc::_exit(127)
    }
}
