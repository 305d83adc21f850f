//! Redis as a queue that has on disk what it has acknowledged: `appendonly` with `appendfsync always`, asked over its Unix socket as
//! our daemon is.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use tempfile::TempDir;

use super::folder;
use crate::child::Child;
use crate::many::Many;

pub struct Redis {
    child: Child,
    folder: TempDir,
}

impl Redis {
    /// With an empty store, from `program`.
    pub fn start(program: &Path) -> Result<Redis> {
        let folder = folder()?;
        let socket = folder.path().join("socket");
        let mut command = Command::new(program);
        command.current_dir(folder.path()).args(["--port", "0", "--daemonize", "no", "--save", ""]);
        command.arg("--dir").arg(folder.path()).arg("--unixsocket").arg(&socket);
        // As it is set up by whoever wants nothing lost; it is not to rewrite its log in the middle of a slice.
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
        let child = Child::start(&mut command, folder.path().join("log"))?;
        let mut redis = Redis { child, folder };
        redis.connect()?;
        Ok(redis)
    }

    /// So many clients, each of which puts `body` at the end of one list and waits until it is said to be there.
    pub fn pushing(&mut self, clients: usize, body: &str) -> Result<Many<UnixStream>> {
        let streams = (0..clients).map(|_| self.connect()).collect::<Result<Vec<_>>>()?;
        let request = format!("*3\r\n$5\r\nRPUSH\r\n$5\r\nqueue\r\n${}\r\n{body}\r\n", body.len());
        Many::new(streams, request.into_bytes(), pushed)
    }

    fn connect(&mut self) -> Result<UnixStream> {
        let socket = self.folder.path().join("socket");
        self.child.wait_for("the socket of redis", || UnixStream::connect(&socket).ok())
    }
}

/// `:LENGTH` and the end of the line.
fn pushed(received: &[u8]) -> Result<Option<usize>> {
    let Some(line) = received.strip_suffix(b"\r\n") else { return Ok(None) };
    let Some(digits) = line.strip_prefix(b":") else { bail!("redis says {}", String::from_utf8_lossy(line)) };
    ensure!(digits.iter().all(u8::is_ascii_digit), "no length: {}", String::from_utf8_lossy(line));
    Ok(Some(received.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_length_is_an_answer() {
        assert_eq!(pushed(b":12").expect("half of it"), None);
        assert_eq!(pushed(b":12\r\n").expect("all of it"), Some(5));
        assert!(pushed(b"-ERR unknown\r\n").is_err());
        assert!(pushed(b":1\r\n:2\r\n").is_err());
    }
}
