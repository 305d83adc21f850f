//! `ws-daemon init`: a config.json and an example script, to begin with. It never overwrites anything.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;

use super::exit::{Exit, Trouble};
use super::gather::Flags;
use crate::config::{Mode, ServerUrl};

/// What `init` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// server: the others dial this machine. client: this machine dials --proxy.
    #[arg(value_name = "MODE")]
    role: Option<Mode>,
}

const EXAMPLE: &str = "\
#!/bin/sh
# An example: a peer runs it with {\"name\":\"hello\",\"params\":…} or with: ws-daemon exec hello
# The params arrive as JSON in the first argument; the exit status is what the peer gets to know.
echo \"hello, $WSDAEMON_PEER: you sent $1\"
";

/// Writes the files and says what to do next.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let asked = flags.beginning();
    let mode = arguments
        .role
        .or(asked.mode)
        .ok_or_else(|| Trouble::new(Exit::Usage, "say which: ws-daemon init server, or ws-daemon init client --proxy HOST"))?;
    let mut config = json!({ "mode": mode.to_string() });
    match (mode, &asked.proxy) {
        (Mode::Client, None) => {
            return Err(Trouble::new(Exit::Usage, "a client needs its server: ws-daemon init client --proxy HOST"));
        }
        (Mode::Client, Some(proxy)) => {
            ServerUrl::parse(proxy, asked.port).map_err(|fault| Trouble::new(Exit::Usage, fault))?;
            config["proxy"] = json!(proxy);
        }
        (Mode::Server, _) => {}
    }
    // A URL with its own port needs no other.
    if mode == Mode::Server || asked.port.is_some() || asked.proxy.as_ref().is_some_and(|proxy| !proxy.contains(':')) {
        config["port"] = json!(asked.port.unwrap_or(3006));
    }
    let (prefix, _) = flags.prefix();
    let failed = |error: io::Error| Trouble::new(Exit::Failed, format_args!("{}: {error}", prefix.display()));
    fs::create_dir_all(prefix.join("scripts")).map_err(failed)?;
    let path = prefix.join("config.json");
    let text = format!("{config:#}\n");
    // What proxy holds may be a token.
    match create(&path, &text, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let said = format!("{} exists already and is left as it is; edit it, or remove it first", path.display());
            return Err(Trouble::new(Exit::Config, said));
        }
        result => result.map_err(failed)?,
    }
    let example = prefix.join("scripts/hello");
    match create(&example, EXAMPLE, 0o755) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.map_err(failed)?,
    }
    say_next(&prefix, mode);
    Ok(Exit::Ok)
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
}

fn say_next(prefix: &Path, mode: Mode) {
    let shown = prefix.display();
    anstream::println!("wrote {shown}/config.json and {shown}/scripts/hello");
    let flag = if prefix == Path::new("/root/ws-daemon") { String::new() } else { format!(" --prefix {shown}") };
    anstream::println!("\nstart the daemon:                          ws-daemon run{flag}");
    match mode {
        Mode::Server => {
            anstream::println!("let others than this machine connect:      add \"open\": true (or networks) to config.json");
            anstream::println!("run the example on a connected client:     ws-daemon exec hello '{{\"a\":1}}'{flag}");
        }
        Mode::Client => {
            anstream::println!("run the example on the server:             ws-daemon exec hello '{{\"a\":1}}'{flag}");
        }
    }
}
