//! What one life of the daemon gives to the next: its listening sockets, its local connections, and a note on them, each a descriptor
//! under a name as a service manager gives them (sd_listen_fds(3)). It goes by exec(2) to the same process, or by way of the service
//! manager's store. It never reads a connection.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{dup2, fcntl_dupfd_cloexec};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::process::Command;
use tokio::time::timeout;
use tracing::{info, warn};
use ws_daemon_protocol::id::CallerId;

use super::listening::Kept;
use crate::local::{Before, Parked};
use crate::origin::Awaited;
use crate::system;

/// The name of the note.
pub const NOTE: &str = "handover";

/// What the names of connections begin with.
pub const CONNECTION: &str = "connection-";

/// The version of the note; another one is not understood.
const VERSION: u32 = 1;

/// The longest note, in bytes; what the next life is to read of a longer one is nothing.
const NOTE_BYTES: u64 = 1 << 30;

/// The first descriptor that is passed on.
const FIRST: RawFd = 3;

/// How long the program on disk may take to look at the settings.
const CHECK: Duration = Duration::from_secs(10);

/// The program of the next life.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// All its words, the name that it is called by first.
    pub words: Vec<OsString>,
    /// The words by which it only looks at the settings.
    pub check: Vec<OsString>,
}

/// All that is passed on.
#[derive(Debug)]
pub struct Handover(Vec<(String, OwnedFd)>);

/// What is said of the descriptors.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Note {
    version: u32,
    /// Whether the socket file is the daemon's own, to be removed in the end.
    pub own_socket: bool,
    /// Whether the service manager still has what it stored.
    pub is_stored: bool,
    /// The instances that were linked.
    pub peers: Vec<String>,
    /// What the settings said of the sockets that were bound by them, by their names.
    asked: BTreeMap<String, String>,
    connections: Vec<Connection>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Connection {
    name: String,
    /// In base 64.
    unread: String,
    later: Vec<Later>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Later {
    id: Option<Box<RawValue>>,
    awaited: Awaited,
}

impl Note {
    /// A note on the sockets that are `kept`, by which way it goes, and who was linked.
    pub fn new(kept: &Kept, is_stored: bool, peers: Vec<String>) -> Self {
        let (own_socket, asked) = (kept.is_own, kept.asked.clone());
        Self { version: VERSION, own_socket, is_stored, peers, asked, connections: Vec::new() }
    }

    /// What the settings said of the socket of this name; `None` if it was not bound by them.
    pub fn asked(&self, name: &str) -> Option<String> {
        self.asked.get(name).cloned()
    }

    /// Whether the socket of this name is what the settings ask for now, or somebody else's to say.
    pub fn fits(&self, name: &str, asked: &str) -> bool {
        self.asked.get(name).is_none_or(|before| before == asked)
    }

    /// Reads a note.
    pub fn read(descriptor: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(descriptor);
        file.rewind()?;
        let mut text = String::new();
        file.take(NOTE_BYTES).read_to_string(&mut text)?;
        let note: Self = serde_json::from_str(&text)?;
        if note.version == VERSION { Ok(note) } else { Err(io::Error::other(format!("it has version {}", note.version))) }
    }

    /// What is left to be done on the connection of this name.
    pub fn before(&mut self, name: &str) -> Option<Before> {
        let at = self.connections.iter().position(|connection| connection.name == name)?;
        let Connection { unread, later, .. } = self.connections.swap_remove(at);
        let later = later.into_iter().map(|Later { id, awaited }| (id.as_deref().and_then(CallerId::new), awaited));
        Some(Before { unread: BASE64_STANDARD.decode(unread).ok()?, later: later.collect() })
    }
}

impl Handover {
    /// These listening sockets under their names, and these connections, of which no more than `most` descriptors are passed on in all.
    ///
    /// # Errors
    /// The system has no room for the note.
    pub fn new(listening: Vec<(&'static str, OwnedFd)>, parked: Vec<Parked>, mut note: Note, most: usize) -> io::Result<Self> {
        let mut descriptors: Vec<(String, OwnedFd)> = listening.into_iter().map(|(name, fd)| (name.to_owned(), fd)).collect();
        let room = most.saturating_sub(descriptors.len() + 1);
        if parked.len() > room {
            warn!(kept = room, of = parked.len(), "local connections were closed: more than can be passed on");
        }
        for (number, Parked { socket, before }) in parked.into_iter().take(room).enumerate() {
            let name = format!("{CONNECTION}{number}");
            let later = before.later.into_iter().map(|(id, awaited)| {
                let id = id.and_then(|id| RawValue::from_string(id.as_json().to_owned()).ok());
                Later { id, awaited }
            });
            let unread = BASE64_STANDARD.encode(before.unread);
            note.connections.push(Connection { name: name.clone(), unread, later: later.collect() });
            descriptors.push((name, socket));
        }
        let mut file = File::from(memfd_create(NOTE, MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(&note)?)?;
        info!(connections = note.connections.len(), peers = note.peers.len(), "what is open is passed on");
        descriptors.push((NOTE.to_owned(), file.into()));
        Ok(Self(descriptors))
    }

    /// Gives it to the service manager, who gives it to the next life.
    pub fn store(&self) {
        for (name, descriptor) in &self.0 {
            if let Err(error) = super::service_manager::store(name, descriptor) {
                return warn!(%error, "the service manager did not take what is open");
            }
        }
    }

    /// Begins the next life. Nothing else may be going on in this process any more.
    ///
    /// # Errors
    /// Why there is none: always, if this returns.
    pub fn exec(self, program: &Program) -> io::Error {
        match self.prepare(program) {
            Ok((path, words, environment)) => {
                // Until the next life hears them.
                system::hold_signals(true);
                system::lower_open_files();
                match nix::unistd::execve(&path, &words, &environment) {
                    Ok(never) => match never {},
                    Err(error) => error.into(),
                }
            }
            Err(error) => error,
        }
    }

    /// Puts the descriptors where they are looked for; what has these numbers now is closed by it.
    fn prepare(self, program: &Program) -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
        // A thread that is still about to end must not close by their numbers what is put there now.
        system::own_descriptors();
        let count = RawFd::try_from(self.0.len()).map_err(io::Error::other)?;
        let (mut names, mut aside) = (Vec::new(), Vec::new());
        for (name, descriptor) in self.0 {
            aside.push(fcntl_dupfd_cloexec(&descriptor, FIRST + count)?);
            names.push(name);
        }
        for (number, descriptor) in (FIRST..).zip(&aside) {
            #[expect(
                unsafe_code,
                reason = "whatever it was is this process's own, and nothing but what follows happens in it any more"
            )]
            let mut place = unsafe { OwnedFd::from_raw_fd(number) };
            dup2(descriptor, &mut place)?;
            std::mem::forget(place);
        }
        std::mem::forget(aside);
        let own = [
            ("LISTEN_PID", std::process::id().to_string()),
            ("LISTEN_FDS", count.to_string()),
            ("LISTEN_FDNAMES", names.join(":")),
        ];
        let kept = std::env::vars_os().filter(|(name, _)| own.iter().all(|(own, _)| name != own));
        let own = own.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let variable = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
        let c_text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
        let environment = kept.chain(own).map(|pair| c_text(variable(pair))).collect::<io::Result<_>>()?;
        let words = program.words.iter().map(|word| c_text(word.clone().into_vec())).collect::<io::Result<_>>()?;
        Ok((c_text(program.path.clone().into_os_string().into_vec())?, words, environment))
    }
}

impl Program {
    /// Whether the program that is on disk now runs, and takes the settings that are there now.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub async fn check(&self) -> Result<(), String> {
        let mut checking = Command::new(&self.path);
        checking.args(&self.check).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let path = self.path.display();
        match timeout(CHECK, checking.output()).await {
            Err(_) => Err(format!("{path} did not say within {CHECK:?} whether it takes the settings")),
            Ok(Err(error)) => Err(format!("{path} cannot be started: {error}")),
            Ok(Ok(done)) if done.status.success() => Ok(()),
            Ok(Ok(done)) => {
                let said = String::from_utf8_lossy(&done.stderr);
                Err(format!("{path} does not take the settings ({}): {}", done.status, said.trim()))
            }
        }
    }
}
