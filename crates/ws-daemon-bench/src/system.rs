//! All that the compiler cannot check: the raw spawn, the processor time of
//! another process, a death tied to ours, and the wish to stop.
//!
//! It owns every `unsafe` block of this crate, each with its argument. It
//! measures nothing and decides nothing.

#![expect(unsafe_code, reason = "clone, a CPU clock by pid, pre_exec and signal handlers have no safe form")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};

/// Room for a child's five calls, and for a signal's frame should one arrive.
const STACK_BYTES: usize = 32 * 1024;

static STOP: AtomicBool = AtomicBool::new(false);
/// The limit that we were started with, once it was raised.
static DESCRIPTORS: OnceLock<Rlimit> = OnceLock::new();

/// Starts one program over and over, in the cheapest way Linux has: a child
/// that shares our memory until it has become the program (as `vfork`), so no
/// page table is copied, and that stands on a stack made once.
pub struct Launcher {
    path: CString,
    argument: CString,
    stack: Box<[Aligned]>,
}

/// The alignment that both ABIs ask of a stack pointer.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Aligned(#[expect(dead_code, reason = "it is only room")] [u8; 16]);

/// What the child is told, and its answer; it lives in the parent's frame.
struct Orders {
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    stdin: c_int,
    stdout: c_int,
    stderr: c_int,
    failure: AtomicI32,
}

impl Launcher {
    pub fn new(path: CString, argument: CString) -> Launcher {
        let stack = vec![Aligned([0; 16]); STACK_BYTES / size_of::<Aligned>()];
        Launcher { path, argument, stack: stack.into_boxed_slice() }
    }

    /// Starts the program in a process group of its own, with these three
    /// descriptors and no others that are close-on-exec, signals as by default,
    /// an empty environment. The caller must reap it.
    ///
    /// The descriptors must be above 2; those of a Rust program are, because
    /// its runtime opens the first three at start if nobody else has.
    pub fn launch(&mut self, stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<Pid> {
        let arguments = [self.path.as_ptr(), self.argument.as_ptr(), ptr::null()];
        let environment = [ptr::null()];
        let orders = Orders {
            path: self.path.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            stdin: stdin.as_raw_fd(),
            stdout: stdout.as_raw_fd(),
            stderr: stderr.as_raw_fd(),
            failure: AtomicI32::new(0),
        };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: `stack` is ours alone (`&mut self`), 16-byte aligned at its end,
        // and grows downwards on both machines. With CLONE_VFORK this thread does
        // not go on before the child has executed the program or exited, so all
        // that `orders` points to outlives the child's use of it, the stack is free
        // again when this returns, and the thread-local storage that the two share
        // (errno) is used by one at a time. Other threads run on, but the child
        // calls only what is async-signal-safe and takes no lock.
        let pid = unsafe {
            let top = self.stack.as_mut_ptr_range().end;
            libc::clone(child, top.cast(), flags, (&raw const orders).cast_mut().cast())
        };
        if pid == -1 {
            return Err(io::Error::last_os_error());
        }
        let pid = Pid::from_raw(pid).expect("clone returns a positive pid to the parent");
        match orders.failure.load(Ordering::Relaxed) {
            0 => Ok(pid),
            errno => {
                rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }
}

/// The child's whole life before it becomes the program. The signal mask is
/// inherited, and this program blocks nothing; handlers go back to default by
/// `execve` itself, only what is ignored (SIGPIPE, by Rust's runtime) must be reset.
extern "C" fn child(orders: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a pointer to its `Orders`, which it keeps alive and
    // does not touch until we are gone. Signal dispositions and descriptors are
    // copies of our own (neither CLONE_SIGHAND nor CLONE_FILES), so changing them
    // changes nothing for the parent. The strings and arrays end with a null.
    unsafe {
        let orders = &*orders.cast::<Orders>();
        let ready = libc::setpgid(0, 0) == 0
            && libc::dup2(orders.stdin, 0) == 0
            && libc::dup2(orders.stdout, 1) == 1
            && libc::dup2(orders.stderr, 2) == 2
            && libc::signal(libc::SIGPIPE, libc::SIG_DFL) != libc::SIG_ERR;
        if ready {
            libc::execve(orders.path, orders.arguments, orders.environment);
        }
        orders.failure.store(*libc::__errno_location(), Ordering::Relaxed);
        libc::_exit(127)
    }
}

/// The processor time that a process has used, user and system, in all its
/// threads (ended ones too), to the nanosecond; that of its children is not in it.
pub fn cpu_time(pid: Pid) -> io::Result<Duration> {
    let mut clock = MaybeUninit::uninit();
    // SAFETY: a plain call that writes one clock id through a valid pointer.
    let errno = unsafe { libc::clock_getcpuclockid(pid.as_raw_nonzero().get(), clock.as_mut_ptr()) };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call above succeeded and so wrote `clock`; this one writes one
    // timespec through a valid pointer, and it is read only if it says it did.
    let time = unsafe {
        if libc::clock_gettime(clock.assume_init(), time.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        time.assume_init()
    };
    let seconds = u64::try_from(time.tv_sec).expect("a CPU clock starts at zero");
    let nanos = u32::try_from(time.tv_nsec).expect("tv_nsec is below a thousand million");
    Ok(Duration::new(seconds, nanos))
}

/// Has the kernel stop the process that `command` starts when this thread ends
/// without having done so: then no Drop guard ran. To be started by the main thread.
/// It gets the limit of descriptors that we were started with, to raise by itself.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    let limit = DESCRIPTORS.get().copied();
    let stop = move || {
        if let Some(limit) = limit {
            rustix::process::setrlimit(Resource::Nofile, limit)?;
        }
        Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
    };
    // SAFETY: the closure runs between fork and exec and makes two system calls; it
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(stop) }
}

/// From here on SIGINT, SIGTERM and SIGHUP only set what [`check_stop`] reads, so
/// that the work unwinds and every Drop guard runs.
pub fn heed_stop_signals() {
    extern "C" fn note(_signal: c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does one atomic store, which is async-signal-safe. It
        // may even run in a child that shares our memory: the store is right there too.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

/// An error once one of the signals of [`heed_stop_signals`] has come.
pub fn check_stop() -> anyhow::Result<()> {
    anyhow::ensure!(!STOP.load(Ordering::Relaxed), "stopped by a signal");
    Ok(())
}

/// For so many descriptors of our own. Root may go beyond the hard limit.
pub fn raise_descriptor_limit(needed: u64) -> anyhow::Result<()> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    DESCRIPTORS.get_or_init(|| Rlimit { current, maximum });
    let maximum = maximum.map(|maximum| maximum.max(needed));
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
        .with_context(|| format!("{needed} descriptors are needed; try --quick, or raise the limit (ulimit -n)"))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let own = rustix::process::getpid();
        let before = cpu_time(own).expect("our own clock");
        let mut sum = 0_u64;
        while cpu_time(own).expect("our own clock") < before + Duration::from_millis(2) {
            sum = black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
