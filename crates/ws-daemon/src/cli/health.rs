//! `ws-daemon health`: whether the daemon answers, for whoever looks after it: a container's health check, a monitor. It asks
//! the socket a question that needs no peer and runs nothing.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use ws_daemon_protocol::outcome::Report;

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
}

/// The daemon says the status to its sender, and then, as the command has an id, that it was carried out.
pub const QUESTION: &str = r#"{"name":"+cmd","id":"health","params":{"code":"STATUS","data":{"status":0}}}"#;

/// Asks.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let stream = connect(flags, arguments.socket.as_deref())?;
    let sick = |why: &dyn std::fmt::Display| Trouble::new(Exit::Unavailable, format_args!("the daemon does not answer: {why}"));
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

/// A time of zero would mean for ever.
pub fn limit(stream: &UnixStream, within: Duration) -> std::io::Result<()> {
    let within = Some(within.max(Duration::from_millis(1)));
    stream.set_read_timeout(within)?;
    stream.set_write_timeout(within)
}
