//! `ws-daemon container`: how the daemon starts inside its image. `setup.sh` is run and scripts are made executable; then, as the
//! container's first process, this one stays behind the daemon: it passes signals on and reaps whatever is left to it. Anywhere
//! else it becomes the daemon itself.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::task::Poll;

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind, signal};

use super::exit::{Exit, Trouble};
use super::gather::Flags;

/// Signals that are for the daemon.
const PASSED_ON: [(SignalKind, Signal); 6] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
];

/// Prepares the container and runs the daemon in it.
pub fn run(flags: &Flags) -> Result<Exit, Trouble> {
    let (prefix, _) = flags.prefix();
    if std::process::id() != 1 {
        set_up(&prefix, |mut command| command.status())?;
        return super::run::run(&flags.in_container());
    }
    let mut first = FirstProcess::new().context("signals cannot be received")?;
    set_up(&prefix, |command| first.attend(command))?;
    let own = std::env::current_exe().context("the program's own path is unknown")?;
    // The same flags: only the word `container` is another, and what it means is said.
    let words = std::env::args_os().skip(1).map(|word| if word == "container" { "run".into() } else { word });
    let words = words.chain(flags.meant_in_container().map(Into::into));
    let mut daemon = Command::new(own);
    daemon.args(words);
    let status = first.attend(daemon).context("the daemon could not be attended to")?;
    Ok(Exit::Script(shell_status(status)))
}

/// Runs `setup.sh`, if there is one, to its end, and makes scripts executable.
fn set_up(prefix: &Path, run: impl FnOnce(Command) -> io::Result<ExitStatus>) -> Result<(), Trouble> {
    let script = prefix.join("setup.sh");
    if script.exists() {
        let mut command = Command::new("/bin/sh");
        command.arg(&script).current_dir(prefix);
        let status = run(command).context("setup.sh could not be run")?;
        if !status.success() {
            let said = format!("{} failed with {status}; mend it, the daemon is not started without it", script.display());
            return Err(Trouble::new(Exit::Script(shell_status(status)), said));
        }
    }
    make_executable(&prefix.join("scripts")).context("scripts/ could not be made executable")?;
    Ok(())
}

/// A volume often comes without x bits. Where it is mounted read-only, or is another user's, its bits are what they are, and a
/// script without one is told to whoever asks for it.
fn make_executable(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            make_executable(&entry.path())?;
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode();
            // Whoever may read may execute.
            let executable = mode | (mode & 0o444) >> 2;
            if executable == mode {
                continue;
            }
            match fs::set_permissions(entry.path(), fs::Permissions::from_mode(executable)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// What the first process owes the others: signals go to the one that it has started, and whatever has ended is reaped.
struct FirstProcess {
    runtime: Runtime,
    children: unix::Signal,
    signals: Vec<(unix::Signal, Signal)>,
}

impl FirstProcess {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let within = runtime.enter();
        let children = signal(SignalKind::child())?;
        let signals = PASSED_ON.into_iter().map(|(kind, number)| Ok((signal(kind)?, number))).collect::<io::Result<_>>()?;
        drop(within);
        Ok(Self { runtime, children, signals })
    }

    /// Starts a command in a group of its own and lives as long as it.
    fn attend(&mut self, mut command: Command) -> io::Result<ExitStatus> {
        let Self { runtime, children, signals } = self;
        // Reaped below like every other child: its handle is not waited on.
        let started = Pid::from_child(&command.process_group(0).spawn()?);
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = children.recv() => if let Some(status) = reap(started)? {
                        return Ok(status);
                    },
                    number = next(signals) => kill_process(started, number)?,
                }
            }
        })
    }
}

/// The next signal that is to be passed on.
async fn next(signals: &mut [(unix::Signal, Signal)]) -> Signal {
    poll_fn(|cx| {
        let ready = signals.iter_mut().find_map(|(signal, number)| signal.poll_recv(cx).is_ready().then_some(*number));
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Reaps all that has ended; the status of the one that was started, if it has.
fn reap(started: Pid) -> io::Result<Option<ExitStatus>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == started => return Ok(Some(ExitStatus::from_raw(status.as_raw()))),
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// As a shell has it.
fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_become_executable_for_whoever_may_read_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("deep")).expect("made");
        for (name, before, after) in [("a", 0o644, 0o755), ("deep/b", 0o600, 0o700), ("c", 0o755, 0o755)] {
            let path = folder.path().join(name);
            fs::write(&path, "").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).expect("set");
            make_executable(folder.path()).expect("made");
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, after, "{name}");
        }
        make_executable(&folder.path().join("none")).expect("no folder is no fault");
    }
}
