//! A daemon that says what a test tells it to: a Unix socket in a temporary prefix, the requests that come, lines that go back.
//! It knows nothing of what a daemon does; what it hears is compared by the test.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::value::RawValue;
use tempfile::TempDir;

use super::DEADLINE;
use super::process::wait_readable;

pub struct ScriptedDaemon {
    folder: TempDir,
    listener: UnixListener,
}

impl ScriptedDaemon {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let listener = UnixListener::bind(folder.path().join("ws-daemon.sock")).expect("the folder is ours");
        Self { folder, listener }
    }

    pub fn prefix(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.prefix().join("ws-daemon.sock")
    }

    /// The next process that connects.
    #[track_caller]
    pub fn accept(&self) -> Conversation {
        assert!(wait_readable(&self.listener, Instant::now() + DEADLINE), "nobody connects");
        let (stream, _) = self.listener.accept().expect("somebody has connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        Conversation { stream }
    }
}

/// One connection, from the daemon's end; dropped, it is closed.
pub struct Conversation {
    stream: UnixStream,
}

impl Conversation {
    /// The next message, as it was written.
    #[track_caller]
    pub fn message(&mut self) -> String {
        // Reads byte by byte, so nothing of the next message is taken.
        let mut values = serde_json::Deserializer::from_reader(&self.stream).into_iter::<Box<RawValue>>();
        let value = values.next().expect("a message and not the end").expect("a message is JSON");
        value.get().to_owned()
    }

    /// Says lines. A process that has gone away already hears nothing.
    pub fn say(&mut self, lines: &[&str]) {
        for line in lines {
            let _ = self.stream.write_all(format!("{line}\n").as_bytes());
        }
    }

    /// Waits until the process has gone away or has nothing more to say, and asserts that it said nothing.
    #[track_caller]
    pub fn nothing_more(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the end comes in time");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}
