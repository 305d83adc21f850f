//! `ws-daemon init`: a config.json and an example script, to begin with. It never overwrites anything; a config.json that does not say
//! which end of a link this is gets the keys that it lacks.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::exit::{Exit, Trouble};
use super::gather::{self, Flags};
use super::owner::become_owner_of;
use super::schema::Of;
use crate::config::{Mode, SEED_PORT, Servers, WrittenServers};
use crate::secret::write_private;

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
    let (prefix, _) = flags.prefix();
    become_owner_of(&prefix)?;
    let path = prefix.join("config.json");
    let there = there(&path)?;
    let mut config = there.clone().unwrap_or_default();
    config.extend(flags.beginning()?);
    let named = config.get("mode").and_then(Value::as_str).map(str::to_owned);
    let mode =
        arguments.role.map(|mode| mode.to_string()).or(named).ok_or_else(|| {
            Trouble::new(Exit::Usage, "say which: ws-daemon init server, or ws-daemon init client --proxy HOST")
        })?;
    let proxy = config.get("proxy").and_then(|proxy| WrittenServers::deserialize(proxy).ok());
    let proxies = proxy.as_ref().map(WrittenServers::as_slice).unwrap_or_default();
    let is_server = mode == "server";
    if !is_server {
        if proxies.is_empty() {
            return Err(Trouble::new(Exit::Usage, "a client needs its server: ws-daemon init client --proxy HOST"));
        }
        Servers::parse(proxies, None).map_err(|fault| Trouble::new(Exit::Usage, format_args!("proxy {fault}")))?;
    }
    config.insert("mode".to_owned(), mode.into());
    // A URL with its own port needs no other.
    if is_server || proxies.iter().any(|proxy| !proxy.contains(':')) {
        config.entry("port").or_insert(SEED_PORT.into());
    }
    let brings_schema = !config.contains_key("$schema");
    config.entry("$schema").or_insert("schema/config.json".into());
    let is_open = config.contains_key("open");
    let failed = |error: io::Error| Trouble::new(Exit::Failed, format_args!("{}: {error}", prefix.display()));
    // Whatever the umask: scripts in a folder that others may write would not be run.
    DirBuilder::new().recursive(true).mode(0o755).create(prefix.join("scripts")).map_err(failed)?;
    let text = format!("{:#}\n", Value::Object(config));
    // What proxy holds may be a token.
    match there {
        // A link to where it stands stays one.
        Some(_) => path.canonicalize().and_then(|path| write_private(&path, text.as_bytes())),
        None => create(&path, &text, 0o600),
    }
    .map_err(failed)?;
    missing(&prefix.join("scripts/hello"), EXAMPLE, 0o755).map_err(failed)?;
    if brings_schema {
        DirBuilder::new().recursive(true).mode(0o755).create(prefix.join("schema")).map_err(failed)?;
        for (name, schema) in [("config", Of::Config), ("contract", Of::Contract)] {
            let file = prefix.join(format!("schema/{name}.json"));
            missing(&file, &format!("{}\n", schema.text()), 0o644).map_err(failed)?;
        }
    }
    say_next(&prefix, is_server, is_open);
    Ok(Exit::Ok)
}

/// What stands in config.json, if it is there; one that says which end of a link this is is nobody's to complete.
fn there(path: &Path) -> Result<Option<Map<String, Value>>, Trouble> {
    let text = match fs::read_to_string(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(Trouble::new(Exit::Config, format_args!("{} cannot be read: {error}", path.display()))),
        Ok(text) => text,
    };
    if gather::parse(path, &text)?.mode.is_some() {
        let said = format!("{} exists already and is left as it is; edit it, or remove it first", path.display());
        return Err(Trouble::new(Exit::Config, said));
    }
    serde_json::from_str(&text).map(Some).map_err(|error| Trouble::new(Exit::Config, error))
}

/// Makes a file that is not there yet.
fn missing(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match create(path, text, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
}

fn say_next(prefix: &Path, is_server: bool, is_open: bool) {
    let (shown, program) = (prefix.display(), super::program());
    let flag = gather::prefix_flag(prefix);
    super::print(format_args!("wrote {shown}/config.json and {shown}/scripts/hello\n"));
    super::print(format_args!("start the daemon:\n    {}", gather::how_to_run(prefix)));
    let where_from = if is_server { "on a client, once one is connected" } else { "on the server" };
    super::print(format_args!("run the example {where_from}:\n    {program} exec hello '{{\"a\":1}}'{flag}"));
    if is_server && !is_open {
        super::print("let machines other than this one connect, by networks or all (true), in config.json:");
        super::print("    \"open\": [\"192.168.0.0/16\"]");
    }
}
