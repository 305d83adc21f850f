//! `ws-daemon exec`: one request to the running daemon, as any process could make it. It waits for the answer and exits with
//! the script's status.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::value::RawValue;
use ws_daemon_protocol::outcome::Report;

use super::exit::{Exit, Trouble};
use super::gather::Flags;
use crate::local::socket_names;

/// What `exec` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXITS)]
pub struct Arguments {
    /// The script's name on the peer, as it stands in scripts/ there.
    name: String,
    /// The params: any JSON, or - to read it from stdin.
    params: Option<String>,
    /// An id for the request, which the script finds in WSDAEMON_ID.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Give up waiting after so long, like 30s.
    #[arg(long, value_name = "TIME", value_parser = ws_daemon_protocol::time::parse)]
    timeout: Option<Duration>,
    /// Print the answer as one JSON line.
    #[arg(long)]
    json: bool,
    /// The daemon's socket; by default the one in the prefix, or the one a script was started by.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

const EXITS: &str = "\
Exit status: the script's own, 128+N if signal N killed it, or
   65  the request is wrong             74  nobody knows: it may have run
   69  no peer, or no daemon            75  too busy, try again later
   77  not allowed                      78  the settings are wrong
  124  it took too long                125  a daemon stopped it
  126  the script cannot be executed   127  there is no such script

Examples:
  ws-daemon exec hello '{\"who\":\"world\"}'
  date +%s | ws-daemon exec sms/send -
  ws-daemon exec backup --timeout 2h --json";

/// Asks and waits.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let request = request(arguments)?;
    let stream = connect(flags, arguments.socket.as_deref())?;
    let line = converse(stream, &request)
        .map_err(|error| Trouble::new(Exit::Interrupted, format_args!("the daemon went away before it answered: {error}")))?;
    if line.is_empty() {
        return Err(Trouble::new(
            Exit::Interrupted,
            "the daemon closed the connection without an answer; the script may have run",
        ));
    }
    let report: Report = serde_json::from_str(&line).map_err(|error| {
        Trouble::new(Exit::Failed, format_args!("the daemon's answer is not understood: {error}: {line:?}"))
    })?;
    if arguments.json {
        super::print(line.trim_end());
    } else {
        explain(&arguments.name, &report);
    }
    Ok(Exit::of_report(&report))
}

/// The request, with the params as they were written.
fn request(arguments: &Arguments) -> Result<String, Trouble> {
    let params = match arguments.params.as_deref() {
        Some("-") => {
            let mut text = String::new();
            if std::io::stdin().is_terminal() {
                eprintln!("ws-daemon: reading the params from the terminal; end with Ctrl-D");
            }
            std::io::stdin().read_to_string(&mut text).map_err(|error| {
                Trouble::new(Exit::BadMessage, format_args!("the params cannot be read from stdin: {error}"))
            })?;
            text
        }
        Some(text) => text.to_owned(),
        None => "null".to_owned(),
    };
    let params: Box<RawValue> = serde_json::from_str(&params).map_err(|error| {
        Trouble::new(
            Exit::BadMessage,
            format_args!("the params are not JSON: {error}; text needs its own quotes, like '\"text\"'"),
        )
    })?;
    let mut request = serde_json::json!({ "name": arguments.name }).to_string();
    request.pop();
    if let Some(id) = &arguments.id {
        request.push_str(&format!(",\"id\":{}", serde_json::Value::from(id.as_str())));
    }
    request.push_str(&format!(",\"params\":{params}"));
    if let Some(timeout) = arguments.timeout {
        request.push_str(&format!(",\"timeout\":{}", timeout.as_millis()));
    }
    request.push('}');
    Ok(request)
}

/// A connection to the daemon: at the socket that was `named`, at the one a script was started by, or in the prefix.
pub fn connect(flags: &Flags, named: Option<&Path>) -> Result<UnixStream, Trouble> {
    let (prefix, _) = flags.prefix();
    let named = named.map(Path::to_owned).or_else(|| std::env::var_os("WSDAEMON_SOCKET").map(PathBuf::from));
    if let Some(path) = named {
        return UnixStream::connect(&path).map_err(|error| no_daemon(&path, &error));
    }
    let first = prefix.join("ws-daemon.sock");
    match UnixStream::connect(&first) {
        Ok(stream) => Ok(stream),
        // Further daemons in one prefix have numbers.
        Err(error) => {
            let mut others = socket_names(&prefix).skip(1).take_while(|path| path.exists());
            others.find_map(|path| UnixStream::connect(path).ok()).ok_or_else(|| nor_could_be(flags, &first, &error))
        }
    }
}

/// Where no daemon is because none could start, that is the thing to say.
fn nor_could_be(flags: &Flags, path: &Path, error: &std::io::Error) -> Trouble {
    let is_down = matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused);
    match flags.settings() {
        Err(trouble) if is_down => {
            let said = format!("no daemon answers at {}, and none would start: {}", path.display(), trouble.said());
            Trouble::new(trouble.exit(), said)
        }
        _ => no_daemon(path, error),
    }
}

fn no_daemon(path: &Path, error: &std::io::Error) -> Trouble {
    let advice = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "you may not use it: run this as the daemon's user, or set \"socket_group\"",
        _ => "start it with: ws-daemon run, or name its folder with --prefix",
    };
    Trouble::new(Exit::Unavailable, format_args!("no daemon answers at {}: {error}; {advice}", path.display()))
}

/// Sends all there is to say and returns the first line that comes back, empty if none does.
pub fn converse(mut stream: UnixStream, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// What a person wants to know: nothing if all went well, else why not.
fn explain(name: &str, report: &Report) {
    let name = name.escape_debug();
    // What a peer says may hold anything; it must not move the cursor.
    let clean = |text: &str| -> String { text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect() };
    match (&report.error, &report.message, &report.signal, report.status) {
        (Some(error), Some(message), ..) => anstream::eprintln!("ws-daemon: {name}: {}: {}", clean(error), clean(message)),
        (Some(error), None, ..) => anstream::eprintln!("ws-daemon: {name}: {}", clean(error)),
        (None, _, Some(signal), _) => anstream::eprintln!("ws-daemon: {name}: killed by {}", clean(signal)),
        (None, _, None, None) => anstream::eprintln!("ws-daemon: {name}: killed by a signal that the peer does not name"),
        (None, _, None, Some(-2)) => anstream::eprintln!(
            "ws-daemon: {name}: nobody is connected to this server yet: start a client that has it as its proxy"
        ),
        (None, _, None, Some(status)) if !(0..=255).contains(&status) => {
            anstream::eprintln!("ws-daemon: {name}: the peer answered with the status {status} and no words");
        }
        _ => {}
    }
}
