//! Where settings are looked for: flags, environment, config.json. It reads them and never decides between them.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use super::exit::{Exit, Trouble};
use super::token;
use crate::config::{
    Accounts, LogFormat, Mode, ProxyVariables, Row, Settings, SettingsFault, Source, Sources, Written, WrittenFault,
    in_plain_words,
};
use crate::system;

/// Where files are if nobody says so: where the seed keeps them, else where the Debian package does. The first that is there.
const PREFIXES: [&str; 2] = ["/root/ws-daemon", PACKAGED];

/// The prefix that the Debian package makes.
const PACKAGED: &str = "/var/lib/ws-daemon";

/// Files that container engines leave in their containers.
const CONTAINER_SIGNS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// The flags that say the same as config.json. Each wins over the environment variable in brackets, which wins over the file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings (flag, else environment, else config.json, else default)")]
pub struct Flags {
    /// Folder of config.json, scripts/ and the socket [WSDAEMON_PREFIX] [default: /root/ws-daemon, else /var/lib/ws-daemon]
    #[arg(long, global = true, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// Which end of the link this is [WSDAEMON_MODE]
    #[arg(long, global = true, value_name = "MODE")]
    mode: Option<Mode>,
    /// Client: the server, as host, host:port, or URL, or several with commas [WSDAEMON_PROXY]
    #[arg(long, global = true, value_name = "SERVER")]
    proxy: Option<String>,
    /// The server's port [WSDAEMON_PORT] [default: 3006]
    #[arg(long, global = true, value_name = "PORT")]
    port: Option<u16>,
    /// Server: the address to listen on [WSDAEMON_LISTEN] [default: ::, all of them]
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Server: who else may connect, true or networks [WSDAEMON_OPEN] [default: false, this machine]
    #[arg(long, global = true, value_name = "WHO", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    open: Option<String>,
    /// TCP address that speaks the socket's conversation, or off [WSDAEMON_LOCAL] [default: off]
    #[arg(long, global = true, value_name = "ADDRESS")]
    local: Option<String>,
    /// Address that answers HTTP, beside a server's port [WSDAEMON_HTTP]
    #[arg(long, global = true, value_name = "ADDRESS")]
    http: Option<String>,
    /// Group that may use the socket [WSDAEMON_SOCKET_GROUP]
    #[arg(long, global = true, value_name = "GROUP")]
    socket_group: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or by module [WSDAEMON_LOG] [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// Form of the log [WSDAEMON_LOG_FORMAT] [default: auto, journald where stderr is the journal, else text]
    #[arg(long, global = true, value_name = "FORM")]
    log_format: Option<LogFormat>,
    /// Take scripts, contracts, keys and the spool even if other users can write them [WSDAEMON_ANY_WRITER] [default: false]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    any_writer: Option<bool>,
}

impl Flags {
    /// The flag that goes without saying in a container, where what is mounted belongs to users of another machine; unless it is
    /// said, this way or that.
    #[must_use]
    pub fn meant_in_container(&self) -> Option<&'static str> {
        let is_said = std::env::var_os("WSDAEMON_ANY_WRITER").is_some_and(|value| !value.is_empty());
        (self.any_writer.is_none() && !is_said).then_some("--any-writer")
    }

    /// The same with that flag.
    #[must_use]
    pub fn in_container(&self) -> Self {
        Self { any_writer: self.any_writer.or(self.meant_in_container().map(|_| true)), ..self.clone() }
    }

    /// The prefix, and who named it.
    pub fn prefix(&self) -> (PathBuf, Source) {
        let environment = || std::env::var_os("WSDAEMON_PREFIX").filter(|value| !value.is_empty()).map(PathBuf::from);
        match (&self.prefix, environment()) {
            (Some(prefix), _) => (prefix.clone(), Source::Flag),
            (None, Some(prefix)) => (prefix, Source::Environment),
            (None, None) => (default_prefix().into(), Source::Default),
        }
    }

    /// What a new config.json is to hold, by the flags alone.
    pub fn beginning(&self) -> Result<Map<String, Value>, Trouble> {
        written("a flag", self.words())?;
        Ok(as_json(self.words()))
    }

    /// What the flags say, each under its name in config.json.
    fn words(&self) -> Vec<(&'static str, String)> {
        let named = [
            ("mode", self.mode.map(|mode| mode.to_string())),
            ("proxy", self.proxy.clone()),
            ("port", self.port.map(|port| port.to_string())),
            ("listen", self.listen.clone()),
            ("open", self.open.clone()),
            ("local", self.local.clone()),
            ("http", self.http.clone()),
            ("socket_group", self.socket_group.clone()),
            ("log", self.log.clone()),
            ("log_format", self.log_format.map(|form| form.to_string())),
            ("any_writer", self.any_writer.map(|any| any.to_string())),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The same flags as words of a command line.
    pub fn arguments(&self) -> Vec<OsString> {
        let prefix = self.prefix.as_ref().map(|prefix| ("prefix", prefix.clone().into_os_string()));
        let words = self.words().into_iter().map(|(name, word)| (name, word.into()));
        let flag = |(name, word): (&str, OsString)| {
            let mut flag = OsString::from(format!("--{}=", name.replace('_', "-")));
            flag.push(word);
            flag
        };
        prefix.into_iter().chain(words).map(flag).collect()
    }

    /// Everything that was written, and what it means.
    pub fn settings(&self) -> Result<(Settings, Vec<Row>), Trouble> {
        self.settings_or(drawn)
    }

    /// The same for a log: what is wrong with the file is said in one line.
    pub fn settings_for_log(&self) -> Result<(Settings, Vec<Row>), Trouble> {
        self.settings_or(WrittenFault::in_one_line)
    }

    fn settings_or(&self, say: fn(&WrittenFault) -> String) -> Result<(Settings, Vec<Row>), Trouble> {
        let (prefix, _) = self.prefix();
        let file = file(&prefix.join("config.json"), say)?;
        let (mut settings, mut rows) = self.settings_by(file)?;
        token::find(&mut settings, &mut rows)?;
        Ok((settings, rows))
    }

    /// The same as if this stood in config.json, and without a token.
    pub fn settings_by(&self, file: Option<Written>) -> Result<(Settings, Vec<Row>), Trouble> {
        let (prefix, named_by) = self.prefix();
        // Scripts are started from elsewhere, so every path must stand on its own.
        let prefix = std::path::absolute(&prefix).unwrap_or(prefix);
        let sources = Sources {
            flags: written("a flag", self.words())?,
            environment: written("the environment", environment(|name| std::env::var_os(name)))?,
            file,
            prefix: (prefix, named_by),
            proxies: proxies(),
            accounts: Accounts { user: system::user_id, group: system::group_id },
            in_container: CONTAINER_SIGNS.iter().any(|sign| Path::new(sign).exists()),
        };
        Settings::resolve(&sources).map_err(|fault| match &fault {
            SettingsFault::Missing(_) => {
                Trouble::new(Exit::Config, format_args!("{fault}\n\n{}", how_to_begin(&sources.prefix.0)))
            }
            _ => Trouble::new(Exit::Config, fault),
        })
    }
}

fn default_prefix() -> &'static str {
    PREFIXES.into_iter().find(|folder| Path::new(folder).is_dir()).unwrap_or(PREFIXES[0])
}

/// The words, with a blank before them, that another command needs to mean this prefix.
pub fn prefix_flag(prefix: &Path) -> String {
    if prefix == Path::new(default_prefix()) { String::new() } else { format!(" --prefix {}", prefix.display()) }
}

/// The words that start the daemon of this prefix.
pub fn how_to_run(prefix: &Path) -> String {
    if prefix == Path::new(PACKAGED) {
        return "systemctl enable --now ws-daemon".to_owned();
    }
    format!("{} run{}", super::program(), prefix_flag(prefix))
}

fn how_to_begin(prefix: &Path) -> String {
    let prefix = prefix_flag(prefix);
    let program = super::program();
    format!(
        "To make one, on the machine that the others can reach:\n    {program} init server{prefix}\n    {program} run{prefix}\n\
         and, for each of the others, a line that lets it in:\n    {program} invite NAME{prefix}\n\
         on that other one:\n    {program} join LINE{prefix}\n    {program} run{prefix}\n\
         To see everything at work first:\n    {program} demo"
    )
}

/// What the environment says of HTTP proxies, to this program as to others.
pub fn proxies() -> ProxyVariables {
    ProxyVariables::of(|name| std::env::var(name).ok())
}

/// What the environment says, each under its name in config.json. An empty variable says nothing.
fn environment(get: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, String)> {
    let names = ["mode", "proxy", "port", "listen", "open", "local", "http", "socket_group", "log", "log_format", "any_writer"];
    let value = |name: &str| Some(get(&format!("WSDAEMON_{}", name.to_ascii_uppercase()))?.to_string_lossy().into_owned());
    names.into_iter().filter_map(|name| Some((name, value(name)?))).filter(|(_, value)| !value.is_empty()).collect()
}

/// Words as config.json would have them.
fn as_json(words: Vec<(&'static str, String)>) -> Map<String, Value> {
    let value = |name: &str, word: String| match (name, word.as_str()) {
        ("port", _) => word.parse::<u64>().map_or(word.into(), Value::from),
        ("open" | "any_writer", "true" | "false") => (word == "true").into(),
        ("open", list) => list.split(',').map(|word| word.trim().to_owned()).collect(),
        ("proxy", list) if list.contains(',') => list.split(',').map(|word| word.trim().to_owned()).collect(),
        _ => word.into(),
    };
    words.into_iter().map(|(name, word)| (name.to_owned(), value(name, word))).collect()
}

/// Words from flags or the environment, read as config.json would be.
fn written(place: &str, words: Vec<(&'static str, String)>) -> Result<Written, Trouble> {
    let read: Result<Written, _> = serde_path_to_error::deserialize(Value::Object(as_json(words)));
    read.map_err(|error| {
        let name = error.path().to_string();
        let what = in_plain_words(&error.into_inner().to_string());
        Trouble::new(
            Exit::Config,
            format_args!("{place} (--{}, WSDAEMON_{}): {what}", name.replace('_', "-"), name.to_uppercase()),
        )
    })
}

fn file(path: &Path, say: fn(&WrittenFault) -> String) -> Result<Option<Written>, Trouble> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => {
            let said = format_args!("{} cannot be read: {error}; name another folder with --prefix", path.display());
            return Err(Trouble::new(Exit::Config, said));
        }
    };
    Written::parse(path, &text).map(Some).map_err(|fault| Trouble::new(Exit::Config, say(&fault)))
}

/// Reads what stands, or is to stand, in config.json.
pub fn parse(path: &Path, text: &str) -> Result<Written, Trouble> {
    Written::parse(path, text).map_err(|fault| Trouble::new(Exit::Config, drawn(&fault)))
}

/// What is wrong with the file, with the place drawn.
fn drawn(fault: &WrittenFault) -> String {
    let theme = if super::colours(&std::io::stderr()) {
        miette::GraphicalTheme::unicode()
    } else {
        miette::GraphicalTheme::unicode_nocolor()
    };
    let mut said = String::new();
    // Writing to a String cannot fail.
    let _ = miette::GraphicalReportHandler::new_themed(theme).render_report(&mut said, fault);
    format!("the config file is not understood\n{said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_what_the_file_can() {
        let words = environment(|name| match name {
            "WSDAEMON_PORT" => Some("4000".into()),
            "WSDAEMON_MODE" => Some("server".into()),
            "WSDAEMON_OPEN" => Some("10.0.0.0/8, 192.168.0.0/16".into()),
            "WSDAEMON_LOCAL" => Some(String::new().into()),
            _ => None,
        });
        let found = written("the environment", words).expect("taken");
        assert_eq!((found.mode, found.port, found.local), (Some(Mode::Server), Some(4000), None));
        assert!(found.open.is_some());
    }

    #[test]
    fn a_wrong_word_is_named_by_its_flag_and_variable() {
        for (name, word) in [("port", "many"), ("port", "70000"), ("mode", "peer"), ("open", "home"), ("listen", "x")] {
            let trouble = written("the environment", vec![(name, word.to_owned())]).expect_err(word);
            let said = format!("{trouble:?}");
            assert!(said.contains(&format!("WSDAEMON_{}", name.to_uppercase())), "{said}");
        }
    }
}
