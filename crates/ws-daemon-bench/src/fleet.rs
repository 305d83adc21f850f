//! The daemons that are measured: real processes in temporary prefixes, known only
//! by what any user knows of them (their config, their log, their socket).
//!
//! A [`Daemon`] is stopped and its prefix removed when it is dropped. Nothing is
//! measured here.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::child::Child;
use crate::load::{Lane, Question};
use crate::program::Program;

/// The name under which the client of a [`Pair`] is known to its server.
pub const CLIENT: &str = "bench-client";

/// One running daemon.
pub struct Daemon {
    /// Dropped first: the prefix is its own until then.
    child: Child,
    binary: PathBuf,
    prefix: TempDir,
}

impl Daemon {
    /// Starts a server on a free loopback port and waits until it listens.
    pub fn server(binary: &Path) -> Result<(Daemon, SocketAddr)> {
        Daemon::server_with(binary, &json!({}))
    }

    /// The same with these settings too.
    pub fn server_with(binary: &Path, more: &Value) -> Result<(Daemon, SocketAddr)> {
        let config = json!({ "mode": "server", "port": 0, "listen": "127.0.0.1", "local": "off", "name": "bench-server" });
        let mut daemon = Daemon::start(binary, config, more)?;
        let address = daemon.address()?;
        Ok((daemon, address))
    }

    /// A server that may be killed and [started again](Daemon::start_again): its port is known beforehand, and stays.
    pub fn lasting_server(binary: &Path, more: &Value) -> Result<(Daemon, SocketAddr)> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut more = more.clone();
        more["port"] = port.into();
        Daemon::server_with(binary, &more)
    }

    /// Starts a client that dials `server`.
    pub fn client_with(binary: &Path, server: SocketAddr, more: &Value) -> Result<Daemon> {
        let proxy = server.ip().to_string();
        let config = json!({ "mode": "client", "proxy": proxy, "port": server.port(), "local": "off", "name": CLIENT });
        Daemon::start(binary, config, more)
    }

    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    pub fn prefix(&self) -> &Path {
        self.prefix.path()
    }

    /// A new connection to its local socket, as soon as that answers.
    pub fn connect(&mut self) -> Result<UnixStream> {
        let socket = self.prefix.path().join("ws-daemon.sock");
        self.child.wait_for("the local socket", || UnixStream::connect(&socket).ok())
    }

    /// The same, and the daemon knows of it: it has echoed a status on it. From then on
    /// a status that comes for nobody goes there, until somebody connects later.
    pub fn connect_heard(&mut self) -> Result<UnixStream> {
        let connection = self.connect()?;
        let mut lane = Lane::new(Question::Echo, connection.try_clone()?, None)?;
        lane.ask_once().context("an echo from the local socket")?;
        Ok(connection)
    }

    /// What it says of its spool under this key of STATS.
    pub fn spool_stat(&mut self, key: &str) -> Result<u64> {
        let mut connection = BufReader::new(self.connect()?);
        connection.get_mut().write_all(br#"{"name":"+cmd","id":1,"params":{"code":"STATS"}}"#)?;
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let stats: Value = serde_json::from_str(&line)?;
        stats["result"]["spool"][key].as_u64().with_context(|| format!("no {key} of a spool in {line}"))
    }

    /// Where its spool is.
    pub fn spool(&self) -> Result<PathBuf> {
        let mut files = fs::read_dir(self.prefix())?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_spool = |file: &PathBuf| file.file_name().is_some_and(is_spool);
        files.find(is_spool).context("the daemon has no spool")
    }

    /// Sees to it that it may have so many descriptors; in words, if it did not see to that itself.
    pub fn lift_descriptor_limit(&self, needed: u64) -> Result<Option<String>> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid().as_raw_nonzero()))?;
        let own = descriptor_limit(&limits).context("no limit of open files in /proc/PID/limits")?;
        if own >= needed {
            return Ok(None);
        }
        let limit = Rlimit { current: Some(needed), maximum: Some(needed) };
        rustix::process::prlimit(Some(self.pid()), Resource::Nofile, limit)
            .with_context(|| format!("the daemon may have {own} descriptors, and {needed} are needed"))?;
        Ok(Some(format!("the daemon left its limit of descriptors at {own}; it was raised to {needed} from outside")))
    }

    /// Without a word to it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()
    }

    /// A new life in the same prefix, of one that was killed.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.binary, self.prefix.path())?;
        Ok(())
    }

    /// How its log ends.
    pub fn last_words(&self) -> String {
        self.child.log_tail()
    }

    fn start(binary: &Path, mut config: Value, more: &Value) -> Result<Daemon> {
        let prefix = tempfile::Builder::new().prefix("ws-daemon-bench-").tempdir()?;
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        fs::write(prefix.path().join("config.json"), config.to_string())?;
        fs::create_dir(prefix.path().join("scripts"))?;
        for program in Program::ALL {
            program.write(&prefix.path().join("scripts"))?;
        }
        let child = spawn(binary, prefix.path())?;
        Ok(Daemon { child, binary: binary.to_owned(), prefix })
    }

    fn address(&mut self) -> Result<SocketAddr> {
        let log = self.child.log().to_owned();
        self.child.wait_for("the server's address in its log", || listening_address(&fs::read_to_string(&log).ok()?))
    }
}

fn spawn(binary: &Path, prefix: &Path) -> Result<Child> {
    let mut command = Command::new(binary);
    for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command.env("WSDAEMON_PREFIX", prefix).env("NO_COLOR", "1");
    Child::start(&mut command, prefix.join("log"))
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
        let client = Daemon::client_with(binary, address, &json!({}))?;
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
        let [server, client] = [self.server.last_words(), self.client.last_words()];
        format!("the server's log ends:\n{server}\nthe client's log ends:\n{client}\n")
    }
}

/// Puts a script into a prefix.
pub fn write_script(prefix: &Path, name: &str, text: &str) -> Result<()> {
    let path = prefix.join("scripts").join(name);
    fs::write(&path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// The soft limit, in a line such as `Max open files   1024   4096   files`.
fn descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn is_spool(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"spool-") && name.ends_with(b".db")
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
    fn the_limit_of_descriptors_is_read() {
        let limits = fs::read_to_string("/proc/self/limits").expect("our own limits");
        assert_eq!(descriptor_limit(&limits), rustix::process::getrlimit(Resource::Nofile).current);
        assert_eq!(descriptor_limit("Max open files   1024   4096   files\n"), Some(1024));
    }

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
