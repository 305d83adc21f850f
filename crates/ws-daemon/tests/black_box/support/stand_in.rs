//! The stand-ins that are programs in other languages (the folder tests/stand-ins): how they are started and what
//! they report. The seed daemon's stand-in is a `Daemon`; the seed's client and the mute server are here.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::DEADLINE;
use super::process::{Process, run};

/// A WebSocket server that leaves requests unanswered, with a record of all that was on the wire.
pub struct MuteServer {
    process: Process,
    port: u16,
}

impl MuteServer {
    /// Never answers every `never`th request of a link; the others in pairs, the later one first.
    pub fn start(never: usize) -> Self {
        let mut command = node("mute_server.js");
        command.args(["--never", &never.to_string()]);
        let process = Process::start("mute server", command);
        let listening = first_entry(&process, "listening");
        let port = listening["port"].as_u64().and_then(|port| port.try_into().ok()).expect("it says its port");
        Self { process, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The headers of the first handshake.
    pub fn handshake(&self) -> Value {
        first_entry(&self.process, "handshake")
    }

    /// The texts of the first `count` frames, waited for.
    pub fn frames(&self, count: usize) -> Vec<String> {
        let log = self.process.log();
        log.wait_times(r#""event":"frame""#, count);
        log.wait_until(DEADLINE, "frames", |lines| {
            let entries = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let texts = entries.filter(|entry| entry["event"] == "frame" && entry["kind"] == "text");
            Some(texts.filter_map(|entry| entry["text"].as_str().map(str::to_owned)).collect())
        })
    }
}

/// Runs the seed's client against `socket` (a path, or HOST:PORT); its summary, after it found nothing to object to.
pub fn seed_client(socket: &str, threads: usize, requests: usize) -> Value {
    let mut command = Command::new("python3");
    command.arg(folder().join("seed_client.py"));
    command.args(["--socket", socket, "--threads", &threads.to_string(), "--requests", &requests.to_string()]);
    command.args(["--deadline", &(2 * DEADLINE.as_secs()).to_string()]);
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stdout);
    let grumbled = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the seed's client objects: {said}{grumbled}");
    serde_json::from_str(&said).expect("its summary is JSON")
}

/// Node with one of the stand-ins.
pub fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(folder().join(script));
    command
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins")
}

fn first_entry(process: &Process, event: &str) -> Value {
    let line = process.log().wait(&format!("{{\"event\":\"{event}\""));
    serde_json::from_str(&line).expect("the mute server speaks JSON")
}
