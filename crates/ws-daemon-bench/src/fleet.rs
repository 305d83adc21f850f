//! The daemons that are measured: real processes in temporary prefixes, known only
//! by what any user knows of them (their config, their log, their socket).
//!
//! A [`Daemon`] is stopped and its prefix removed when it is dropped. Nothing is
//! measured here.

use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::{Lane, Question};
use crate::{program, system};

/// The name under which the minimal program lies in `scripts/`.
pub const SCRIPT: &str = "min";

/// A daemon that is not ready by then is given up.
const READY: Duration = Duration::from_secs(10);
/// One that has not ended by then is killed.
const FAREWELL: Duration = Duration::from_secs(5);
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// How much of a log is shown when its daemon fails.
const LOG_TAIL_BYTES: usize = 2000;

/// One running daemon.
pub struct Daemon {
    child: Child,
    prefix: TempDir,
}

impl Daemon {
    /// Starts a server on a free loopback port and waits until it listens.
    pub fn server(binary: &Path) -> Result<(Daemon, SocketAddr)> {
        let config = json!({ "mode": "server", "port": 0, "listen": "127.0.0.1", "local": "off" });
        let mut daemon = Daemon::start(binary, &config)?;
        let address = daemon.wait_for("the server's address in its log", |daemon| {
            let log = fs::read_to_string(daemon.log()).ok()?;
            listening_address(&log)
        })?;
        Ok((daemon, address))
    }

    /// Starts a client that dials `server`.
    fn client(binary: &Path, server: SocketAddr) -> Result<Daemon> {
        let proxy = server.ip().to_string();
        let config = json!({ "mode": "client", "proxy": proxy, "port": server.port(), "local": "off" });
        Daemon::start(binary, &config)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn prefix(&self) -> &Path {
        self.prefix.path()
    }

    /// A new connection to its local socket, as soon as that answers.
    pub fn connect(&mut self) -> Result<UnixStream> {
        self.wait_for("the local socket", |daemon| UnixStream::connect(daemon.prefix.path().join("ws-daemon.sock")).ok())
    }

    /// The same, and the daemon knows of it: it has echoed a status on it. From then on
    /// a status that comes for nobody goes there, until somebody connects later.
    pub fn connect_heard(&mut self) -> Result<UnixStream> {
        let connection = self.connect()?;
        let mut lane = Lane::new(Question::Echo, connection.try_clone()?, None)?;
        lane.ask_once().context("an echo from the local socket")?;
        Ok(connection)
    }

    fn start(binary: &Path, config: &Value) -> Result<Daemon> {
        let prefix = tempfile::Builder::new().prefix("ws-daemon-bench-").tempdir()?;
        fs::write(prefix.path().join("config.json"), config.to_string())?;
        let scripts = prefix.path().join("scripts");
        fs::create_dir(&scripts)?;
        program::write(&scripts.join(SCRIPT))?;

        // Into a file: it costs nobody a wake-up, and is there when something fails.
        let log = File::create(log_in(&prefix))?;
        let mut command = Command::new(binary);
        for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
            .env("WSDAEMON_PREFIX", prefix.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = system::die_with_us(&mut command).spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Daemon { child, prefix })
    }

    /// What `look` finds, as soon as it finds it.
    fn wait_for<T>(&mut self, what: &str, look: impl Fn(&Daemon) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + READY;
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            system::check_stop()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended ({status}) before {what}; its log:\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{what}: not there within {READY:?}; the log:\n{}", self.log_tail());
            }
            thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
    }

    fn log(&self) -> PathBuf {
        log_in(&self.prefix)
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
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

/// A server and a client with a link between them.
pub struct Pair {
    pub server: Daemon,
    pub client: Daemon,
}

impl Pair {
    /// Starts both, and waits until a run succeeds in either direction.
    pub fn start(binary: &Path) -> Result<Pair> {
        let (server, address) = Daemon::server(binary)?;
        let client = Daemon::client(binary, address)?;
        let mut pair = Pair { server, client };
        // The client holds what it cannot send yet, so this waits for the link.
        let mut lane = Lane::new(Question::Run, pair.client.connect()?, None)?;
        lane.ask_once().context("the first run from the client to the server")?;
        // The link is up on the server's side when it has brought a request.
        let mut lane = Lane::new(Question::Run, pair.server.connect()?, None)?;
        lane.ask_once().context("the first run from the server to the client")?;
        Ok(pair)
    }

    /// How both logs end, for who must find out what went wrong.
    pub fn last_words(&self) -> String {
        let [server, client] = [self.server.log_tail(), self.client.log_tail()];
        format!("the server's log ends:\n{server}\nthe client's log ends:\n{client}\n")
    }
}

/// Puts a script into a prefix.
pub fn write_script(prefix: &Path, name: &str, text: &str) -> Result<()> {
    let path = prefix.join("scripts").join(name);
    fs::write(&path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn log_in(prefix: &TempDir) -> PathBuf {
    prefix.path().join("log")
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"WSDAEMON_")
}

/// The address in a finished log line `… listening address=127.0.0.1:PORT …`.
fn listening_address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening address=")?;
    let (address, _) = rest.split_once(char::is_whitespace)?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_only_from_a_whole_line() {
        let line = "2026-01-01T00:00:00Z  INFO listening address=127.0.0.1:40123 mode=server\n";
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 40123)));
        assert_eq!(listening_address(line), address);
        assert_eq!(listening_address("listening address=127.0.0.1:40123\n"), address);
        assert_eq!(listening_address("listening address=127.0.0.1:40"), None);
        assert_eq!(listening_address("INFO starting\n"), None);
    }
}
