//! `ws-daemon health`: whether the daemon answers, for whoever looks after it: a container's health check, a monitor. It asks
//! the socket a question that needs no peer and runs nothing.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use ws_daemon_protocol::outcome::Report;

use super::clean::clean;
use super::conversation::{connect, converse};
use super::exit::{Exit, Trouble};
use super::gather::Flags;

/// What `health` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 if the daemon answers, 69 if it does not, 78 if it cannot for its settings")]
pub struct Arguments {
    /// How long the daemon may take to answer.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = ws_daemon_protocol::time::parse)]
    timeout: Duration,
    /// The daemon's socket; by default the one in the prefix.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Ask whether it can do what it is for: run scripts, keep what is queued, reach its server.
    #[arg(long)]
    ready: bool,
}

/// What is read of an answer about readiness, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;

/// The daemon says the status to its sender, and then, as the command has an id, that it was carried out.
pub const QUESTION: &str = r#"{"name":"+cmd","id":"health","params":{"code":"STATUS","data":{"status":0}}}"#;

/// Asks.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let stream = connect(flags, arguments.socket.as_deref())?;
    let sick = |why: &dyn std::fmt::Display| Trouble::new(Exit::Unavailable, format_args!("the daemon does not answer: {why}"));
    if arguments.ready {
        return ready(stream, arguments.timeout);
    }
    let line =
        limit(&stream, arguments.timeout).and_then(|()| converse(stream, QUESTION)).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => sick(&format_args!("nothing came within {:?}", arguments.timeout)),
            _ => sick(&error),
        })?;
    match serde_json::from_str::<Report>(&line) {
        Ok(Report { status: Some(0), .. }) => {
            super::print("the daemon answers");
            Ok(Exit::Ok)
        }
        _ => Err(sick(&format_args!("it said {line:?}"))),
    }
}

/// The same page that is at `/readyz`, by the socket file: what it says is printed.
fn ready(mut stream: UnixStream, within: Duration) -> Result<Exit, Trouble> {
    let mut answer = String::new();
    let asked = limit(&stream, within).and_then(|()| {
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        stream.take(ANSWER_BYTES).read_to_string(&mut answer)
    });
    asked.map_err(|error| Trouble::new(Exit::Unavailable, format_args!("the daemon does not answer: {error}")))?;
    let said = answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<Map<String, Value>>(body).ok());
    let Some(said) = said else {
        return Err(Trouble::new(Exit::Unavailable, "the daemon does not answer as one that can say whether it is ready"));
    };
    for (part, how) in &said {
        super::print(format_args!("{part}: {}", clean(how.as_str().unwrap_or_default())));
    }
    if said.get("status").is_some_and(|status| status == "ready") {
        Ok(Exit::Ok)
    } else {
        Err(Trouble::said_already(Exit::Unavailable))
    }
}

/// A time of zero would mean for ever.
pub fn limit(stream: &UnixStream, within: Duration) -> std::io::Result<()> {
    let within = Some(within.max(Duration::from_millis(1)));
    stream.set_read_timeout(within)?;
    stream.set_write_timeout(within)
}
