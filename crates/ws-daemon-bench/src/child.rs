//! A program that runs for as long as it is measured: started with its output in a log, watched while it comes up, stopped when it
//! is dropped.
//!
//! It knows neither daemons nor peers.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::system;

/// One that is not ready by then is given up.
const READY: Duration = Duration::from_secs(30);
/// One that has not ended by then is killed.
const FAREWELL: Duration = Duration::from_secs(5);
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// How much of a log is shown when its program fails.
const LOG_TAIL_BYTES: usize = 2000;

/// One running program; it is stopped when it is dropped.
pub struct Child {
    child: process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts it. To be called by the main thread: it is stopped too when that one dies without having done so.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Child> {
        command.stdin(Stdio::null()).stdout(appending(&log)?);
        Child::spawn(command, log)
    }

    /// The same, but what is written to the stream is its stdin, and its stdout is read from there.
    pub fn start_spoken_to(command: &mut Command, log: PathBuf) -> Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs));
        Ok((Child::spawn(command, log)?, ours))
    }

    fn spawn(command: &mut Command, log: PathBuf) -> Result<Child> {
        command.stderr(appending(&log)?);
        let name = command.get_program().to_owned();
        let child = system::die_with_us(command).spawn().with_context(|| format!("cannot start {}", name.display()))?;
        Ok(Child { child, log })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What `look` finds, as soon as it finds it.
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + READY;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            system::check_stop()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status}) before {what}; its log:\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{what}: not there within {READY:?}; the log:\n{}", self.log_tail());
            }
            thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
    }

    /// Without a word to it, and it is reaped when this returns.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

/// A log: it costs nobody a wake-up, and is there when something fails.
fn appending(log: &Path) -> Result<File> {
    Ok(File::options().create(true).append(true).open(log)?)
}

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = rustix::process::kill_process(self.pid(), Signal::TERM);
        let deadline = Instant::now() + FAREWELL;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ends_too_early_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("/bin/sh");
        let mut child = Child::start(command.args(["-c", "echo no luck; exit 3"]), folder.path().join("log")).expect("a shell");
        let failure = child.wait_for("the impossible", || None::<()>).expect_err("it ends");
        for part in ["exit status: 3", "the impossible", "no luck"] {
            assert!(failure.to_string().contains(part), "{failure}");
        }
    }
}
