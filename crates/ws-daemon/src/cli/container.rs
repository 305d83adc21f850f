//! `ws-daemon container`: how the daemon starts inside its image. `setup.sh` is run and scripts are made executable; then, as the
//! container's first process, this one stays behind the daemon: it passes signals on and reaps whatever is left to it. Anywhere
//! else it becomes the daemon itself.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

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
    set_up(&prefix)?;
    make_executable(&prefix.join("scripts")).context("scripts/ could not be made executable")?;
    if std::process::id() != 1 {
        return super::run::run(flags);
    }
    let own = std::env::current_exe().context("the program's own path is unknown")?;
    // The same flags: only the word `container` is another.
    let words = std::env::args_os().skip(1).map(|word| if word == "container" { "run".into() } else { word });
    let mut daemon = Command::new(own);
    daemon.args(words).process_group(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let status = runtime.block_on(attend(daemon)).context("the daemon could not be attended to")?;
    Ok(Exit::Script(shell_status(status)))
}

/// Runs `setup.sh`, if there is one, to its end.
fn set_up(prefix: &Path) -> Result<(), Trouble> {
    let script = prefix.join("setup.sh");
    if !script.exists() {
        return Ok(());
    }
    let status = Command::new("/bin/sh").arg(&script).current_dir(prefix).status().context("setup.sh could not be run")?;
    if status.success() {
        return Ok(());
    }
    let said = format!("{} failed with {status}; mend it, the daemon is not started without it", script.display());
    Err(Trouble::new(Exit::Script(shell_status(status)), said))
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

/// Starts the daemon and lives as long as it: signals go to it, ended processes are reaped, and its end is this one's.
async fn attend(mut daemon: Command) -> io::Result<ExitStatus> {
    let mut children = signal(SignalKind::child())?;
    let mut signals = Vec::new();
    for (kind, number) in PASSED_ON {
        signals.push((signal(kind)?, number));
    }
    // Reaped below like every other child: its handle is not waited on.
    let daemon = Pid::from_child(&daemon.spawn()?);
    loop {
        let next = std::future::poll_fn(|cx| {
            for (signal, number) in &mut signals {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        });
        tokio::select! {
            _ = children.recv() => if let Some(status) = reap(daemon)? {
                return Ok(status);
            },
            number = next => kill_process(daemon, number)?,
        }
    }
}

/// Reaps all that has ended; the daemon's status, if it has.
fn reap(daemon: Pid) -> io::Result<Option<ExitStatus>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == daemon => return Ok(Some(ExitStatus::from_raw(status.as_raw()))),
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
