//! The program as a person types it: one command with its arguments, run to its end by a deadline, with what it said
//! on each stream. It owns the process and its group; what the command started elsewhere is the test's to look for.

use std::env;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::DEADLINE;
use super::process::{BIRTHS, wait_readable};

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status; 128 and the number of the signal that killed it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The program with these arguments, and nothing in its environment that is meant for it.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ws-daemon"));
    let foreign = |key: &str| is_foreign(key) || matches!(key, "NO_COLOR" | "CLICOLOR_FORCE");
    for (key, _) in env::vars_os().filter(|(key, _)| key.to_str().is_some_and(foreign)) {
        command.env_remove(key);
    }
    command.args(arguments);
    command
}

/// Whether a variable of the tests' own environment would say something to the program.
pub(super) fn is_foreign(key: &str) -> bool {
    key.starts_with("WSDAEMON_") || key == "RUST_LOG" || key.to_ascii_lowercase().ends_with("_proxy")
}

/// Runs `command` to its end with `stdin` to read.
#[track_caller]
pub fn ran(command: Command, stdin: &str) -> Ran {
    ran_within(DEADLINE, command, stdin)
}

/// The same for what does many things, one after the other.
#[track_caller]
pub fn ran_within(deadline: Duration, mut command: Command, stdin: &str) -> Ran {
    use std::os::unix::process::ExitStatusExt;

    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = {
        let _born = BIRTHS.read().unwrap_or_else(PoisonError::into_inner);
        command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
    };
    let pid = Pid::from_child(&child);
    // Who does not read it is let be.
    let _ = child.stdin.take().expect("it is piped above").write_all(stdin.as_bytes());
    let out = follow(child.stdout.take().expect("it is piped above"));
    let err = follow(child.stderr.take().expect("it is piped above"));
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("the child is not reaped yet");
    let ended = wait_readable(&pidfd, Instant::now() + deadline);
    if !ended {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().expect("the child is ours to wait for");
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("it has ended");
    let text = |thread: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8(thread.join().expect("a reader does not panic")).expect("the program speaks UTF-8")
    };
    let ran = Ran { code, out: text(out), err: text(err) };
    assert!(ended, "{command:?} did not end in time: {ran:?}");
    ran
}

fn follow(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        said
    })
}
