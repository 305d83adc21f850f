//! A far shell on one connection that is kept: sshd, one ssh that is master, and one more ssh for each run.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use super::{folder, free_port, run};
use crate::child::Child;
use crate::contest::Measured;
use crate::load::IN_FLIGHT;
use crate::program::Program;
use crate::sample::{Pace, Sample};
use crate::system;

/// Where sshd puts those of its processes that have no rights; it does not start without.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

pub struct Ssh {
    /// Stopped in this order: the master says good-bye to sshd.
    _master: Child,
    _sshd: Child,
    /// Ours to remove, if we had to make it.
    made: bool,
    folder: TempDir,
}

impl Ssh {
    pub fn start(sshd: &Path) -> Result<Ssh> {
        let folder = folder()?;
        let within = |name: &str| folder.path().join(name);
        Program::Minimal.write(folder.path())?;
        for key in ["host", "user"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(within(key)))?;
        }
        let made = rustix::process::geteuid().is_root() && fs::create_dir(PRIVILEGE_SEPARATION).is_ok();
        let address = free_port()?;
        fs::write(within("sshd_config"), config(address, folder.path()))?;
        let mut command = Command::new(sshd);
        let mut sshd = Child::start(command.args(["-D", "-e", "-f"]).arg(within("sshd_config")), within("sshd.log"))?;
        sshd.wait_for("the port of sshd", || std::net::TcpStream::connect(address).ok())?;
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-N", "-o", "ControlMaster=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-p", &address.port().to_string(), "-i"]);
        command.arg(within("user")).arg("-S").arg(within("master")).arg(address.ip().to_string());
        let mut master = Child::start(&mut command, within("ssh.log"))?;
        master.wait_for("the socket of the master", || within("master").exists().then_some(()))?;
        Ok(Ssh { _master: master, _sshd: sshd, made, folder })
    }

    /// One run after another until it is time, at least one.
    fn until(master: &Path, program: &Path, until: Instant) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        let mut now = Instant::now();
        loop {
            system::check_stop()?;
            let mut command = Command::new("ssh");
            // Without the master there is no other way.
            command.args(["-F", "none", "-o", "ControlMaster=no", "-o", "ProxyCommand=false", "-S"]).arg(master);
            let output = command.args(["127.0.0.1", "--"]).arg(program).arg("{}").stdin(Stdio::null()).output();
            let output = output.context("cannot start ssh")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ssh ended with {}: {}", output.status, said.trim());
            let began = now;
            now = Instant::now();
            times.push(now - began);
            if now >= until {
                return Ok(times);
            }
        }
    }
}

impl Measured for Ssh {
    fn measure(&mut self, pace: Pace, length: Duration) -> Result<Sample> {
        let count = match pace {
            Pace::OneByOne => 1,
            Pace::Flood => IN_FLIGHT,
        };
        let (master, program): (PathBuf, PathBuf) =
            (self.folder.path().join("master"), self.folder.path().join(Program::Minimal.name()));
        let started = Instant::now();
        let until = started + length;
        let lives: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| Ssh::until(&master, &program, until))).collect();
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))).collect()
        });
        let mut times = Vec::new();
        for life in lives {
            times.extend(life??);
        }
        Ok(Sample::of(&mut times, started.elapsed()))
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_dir(PRIVILEGE_SEPARATION);
        }
    }
}

/// Lets us in with the key that was made, and nobody else; 64 sessions on one connection. A shell that believes itself to be within
/// another does not read its user's settings, which are nothing of ssh's.
fn config(address: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Port {}\nListenAddress {}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n\
         PidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
         SetEnv SHLVL=2\nMaxSessions {}\nLogLevel ERROR\n",
        address.port(),
        address.ip(),
        2 * IN_FLIGHT,
    )
}
