//! The daemon that runs: whether it answers, and what it says of its spool, its scripts and its peers. It asks for nothing that is run.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Findings, flag, restart};
use crate::cli::conversation::{command, connect, converse, text};
use crate::cli::gather::Flags;
use crate::cli::health::{QUESTION, limit};
use crate::config::{Role, Settings};
use crate::system::{self, Process, trust::quoted};

/// How long it may take to answer one question.
const WITHIN: Duration = Duration::from_secs(5);

/// The daemon, or why there is none.
pub struct Running<'a> {
    flags: &'a Flags,
    socket: Option<&'a Path>,
    process: Result<Process, String>,
    answers: bool,
    peers: Vec<Value>,
}

impl<'a> Running<'a> {
    /// Connects to it.
    pub fn find(flags: &'a Flags, socket: Option<&'a Path>) -> Self {
        let process = match connect(flags, socket) {
            Ok(stream) => Ok(system::peer_process(stream.as_fd())),
            Err(trouble) => Err(trouble.said().to_owned()),
        };
        let mut running = Self { flags, socket, process, answers: false, peers: Vec::new() };
        running.answers = running.question(QUESTION).is_some_and(|said| said["status"] == 0);
        if running.answers {
            running.peers = running.ask("PEERS").and_then(|peers| peers.as_array().cloned()).unwrap_or_default();
        }
        running
    }

    /// Whether there is one, or something that has its socket.
    pub fn is_there(&self) -> bool {
        self.process.is_ok()
    }

    /// Whose it is.
    pub fn user(&self) -> Option<u32> {
        self.process.as_ref().ok()?.uid
    }

    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().ok()?.pid
    }

    /// Its peers that are linked.
    pub fn linked(&self) -> impl Iterator<Item = &Value> {
        self.peers.iter().filter(|peer| peer["connected"] == true)
    }

    fn question(&self, message: &str) -> Option<Value> {
        self.process.as_ref().ok()?;
        let stream = connect(self.flags, self.socket).ok()?;
        limit(&stream, WITHIN).ok()?;
        serde_json::from_str(&converse(stream, message).ok()?).ok()
    }

    /// The result of a command; `None` if it does not answer, or not to this user.
    fn ask(&self, code: &str) -> Option<Value> {
        Some(self.question(&command(code, &Value::Null, "doctor"))?.get_mut("result")?.take())
    }

    /// Looks at it.
    pub fn look(&self, settings: Option<&Settings>, found: &mut Findings) {
        let pid = match &self.process {
            Ok(process) => process.pid.map_or_else(String::new, |pid| format!(", process {pid}")),
            Err(said) => {
                let prefix = self.flags.prefix().0;
                return found.fail("daemon", said, format!("systemctl start ws-daemon, or: ws-daemon run{}", flag(&prefix)));
            }
        };
        if !self.answers {
            let said = format!("it has the socket{pid}, and says nothing within {WITHIN:?}");
            return found.fail("daemon", said, "systemctl restart ws-daemon, and look at its log: journalctl -u ws-daemon");
        }
        let Some(settings) = settings else { return };
        let stats = self.ask("STATS").unwrap_or_default();
        let version = text(&stats, "version").unwrap_or_default();
        if version.is_empty() || version == env!("CARGO_PKG_VERSION") {
            found.ok("daemon", format!("it answers{pid}"));
        } else {
            let said = format!(
                "it answers{pid}, and is of version {version}; this program is of version {}",
                env!("CARGO_PKG_VERSION")
            );
            found.warn("daemon", said, restart(settings));
        }
        spool(settings, &stats["spool"], found);
        self.scripts(settings, found);
        self.links(settings, found);
    }

    fn scripts(&self, settings: &Settings, found: &mut Findings) {
        let Some(Value::Array(scripts)) = self.ask("SCRIPTS") else { return };
        let folder = settings.prefix.join("scripts");
        let mut good = 0;
        for script in &scripts {
            let name = text(script, "name").unwrap_or_default();
            if let Some(why) = text(script, "refused") {
                let (said, mend) = why.split_once("; mend it with: ").unwrap_or((why, "correct that file"));
                found.warn("scripts", format!("{name} is not run: {said}"), mend);
            } else if script["executable"] == false {
                let said = format!("{name} is not run: it is not executable");
                found.warn("scripts", said, format!("chmod +x {}", quoted(&folder.join(PathBuf::from(name)))));
            } else {
                good += 1;
            }
        }
        found.ok("scripts", format!("{good} can be asked for"));
    }

    fn links(&self, settings: &Settings, found: &mut Findings) {
        if !matches!(settings.role, Role::Server { .. }) {
            return;
        }
        let linked = self.linked().count();
        if self.peers.is_empty() {
            let said = "no peer was here yet";
            return found.warn("links", said, "ws-daemon invite NAME, and on the other machine ws-daemon join LINE");
        }
        found.ok("links", format!("{linked} of {} peers are linked", self.peers.len()));
    }
}

fn spool(settings: &Settings, spool: &Value, found: &mut Findings) {
    let number = |key: &str| spool[key].as_u64().unwrap_or_default();
    if spool.is_null() {
        let said = "the daemon has none: requests with \"queue\" are refused; its log says why";
        return found.warn("spool", said, restart(settings));
    }
    let (bytes, most) = (number("bytes"), settings.limits.spool_bytes as u64);
    if number("failures") > 0 {
        let said = format!("{} times the disk did not take what was to be kept; the log says why", number("failures"));
        found.warn("spool", said, format!("df -h {}", quoted(&settings.prefix)));
    } else if bytes / 4 > most / 5 {
        let said = format!("{} of {} MiB are used, {} requests not settled", bytes >> 20, most >> 20, number("unsettled"));
        found.warn("spool", said, "ws-daemon runs, to see what waits; or more limits.spool_bytes in config.json");
    } else {
        found.ok("spool", format!("{} of {} MiB are used", bytes >> 20, most >> 20));
    }
}
