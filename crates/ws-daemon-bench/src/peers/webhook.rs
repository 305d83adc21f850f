//! webhook, an HTTP server that runs a program for each request and answers with what it printed.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::{folder, free_port};
use crate::child::Child;
use crate::links::END;
use crate::many::Many;
use crate::program::Program;

pub struct Webhook {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Webhook {
    /// With one hook, which runs the minimal program.
    pub fn start(program: &Path) -> Result<Webhook> {
        let folder = folder()?;
        Program::Minimal.write(folder.path())?;
        let hooks = json!([{
            "id": "min", "execute-command": folder.path().join(Program::Minimal.name()),
            "command-working-directory": folder.path(), "include-command-output-in-response": true,
            "pass-arguments-to-command": [{ "source": "string", "name": "{}" }],
        }]);
        fs::write(folder.path().join("hooks.json"), hooks.to_string())?;
        let address = free_port()?;
        let mut command = Command::new(program);
        command.current_dir(folder.path()).args([
            "-hooks",
            "hooks.json",
            "-ip",
            "127.0.0.1",
            "-port",
            &address.port().to_string(),
        ]);
        let child = Child::start(&mut command, folder.path().join("log"))?;
        let mut webhook = Webhook { child, address, _folder: folder };
        webhook.connect()?;
        Ok(webhook)
    }

    /// So many clients, each on a connection that is kept.
    pub fn running(&mut self, clients: usize) -> Result<Many<TcpStream>> {
        let streams = (0..clients).map(|_| self.connect()).collect::<Result<Vec<_>>>()?;
        let request = format!("GET /hooks/min HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        Many::new(streams, request.into_bytes(), done)
    }

    fn connect(&mut self) -> Result<TcpStream> {
        let address = self.address;
        let stream = self.child.wait_for("the port of webhook", || TcpStream::connect(address).ok())?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A good answer with what the program printed, which is nothing.
fn done(received: &[u8]) -> Result<Option<usize>> {
    let Some(end) = received.windows(END.len()).position(|bytes| bytes == END) else { return Ok(None) };
    let head = str::from_utf8(&received[..end])?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "webhook says {head}");
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length")).context("an answer without a length")?.1;
    ensure!(length == "0", "the program printed {length} bytes");
    Ok(Some(end + END.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_without_output_counts() {
        let good = b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(done(good).expect("good"), Some(good.len()));
        assert_eq!(done(&good[..good.len() - 1]).expect("half of it"), None);
        assert!(done(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(done(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_err());
    }
}
