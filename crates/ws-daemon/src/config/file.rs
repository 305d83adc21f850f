//! Settings as they were written, each of them optional: the shape of config.json, which flags and environment share. It never
//! knows a default.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use ws_daemon_protocol::schema::duration as described_duration;

use super::log::LogFormat;
use super::rules::WrittenRule;
use super::serving::WrittenServing;
use super::size;

/// Which end of the link this daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Dials the server.
    Client,
    /// Waits for clients.
    Server,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Settings as written in one place.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Where this schema stands, for editors; the daemon does not look there.
    #[serde(rename = "$schema")]
    _schema: Option<String>,
    /// `client` or `server`.
    pub mode: Option<Mode>,
    /// The server that a client dials: a host, `host:port`, or a URL; or several.
    pub proxy: Option<WrittenServers>,
    /// The server's port.
    pub port: Option<u16>,
    /// The HTTP proxy on the way to the server, or `none`.
    pub http_proxy: Option<String>,
    /// The address a server listens on.
    #[serde(default)]
    #[schemars(schema_with = "described_address")]
    pub listen: Option<IpAddr>,
    /// Whether other programs of this user may listen on the port too.
    pub reuse_port: Option<bool>,
    /// Who may connect without a token, beyond this machine.
    pub open: Option<WrittenOpen>,
    /// Where TCP speaks the local conversation: an address with its port, or `off`.
    pub local: Option<String>,
    /// Where HTTP is answered beside a server's port.
    pub http: Option<SocketAddr>,
    /// By which names HTTP is asked, beside those that go without saying.
    pub hosts: Option<Vec<String>>,
    /// The group that may use the socket.
    pub socket_group: Option<String>,
    /// What this daemon is called; the machine's name, if nothing is said.
    pub name: Option<String>,
    /// More words that `"to":"tag:…"` finds it by.
    pub tags: Option<Vec<String>>,
    /// Where a client's token stands, for nobody else to read; `keys/token`, if nothing is said.
    pub token_file: Option<PathBuf>,
    /// Whether a client may ask for a run on another one.
    pub relay: Option<bool>,
    /// Whether others may be able to write what the daemon runs and keeps.
    pub any_writer: Option<bool>,
    /// Encryption. Server: true, false, or how; on once there are keys, if nothing is said. Client: how.
    pub tls: Option<WrittenTls>,
    /// Who may ask for what.
    pub rules: Option<Vec<WrittenRule>>,
    /// Who may serve which names, beside root and the daemon's own user.
    pub serve: Option<Vec<WrittenServing>>,
    /// Where it is written down who asked for what.
    pub audit: Option<WrittenAudit>,
    /// What is logged.
    pub log: Option<String>,
    /// In which form.
    pub log_format: Option<LogFormat>,
    /// Bounds: each with what happens beyond it.
    #[serde(default)]
    pub limits: WrittenLimits,
    /// Intervals and deadlines.
    #[serde(default)]
    pub times: WrittenTimes,
}

/// A server, or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a server like \"example.org\", or a list of servers")]
pub enum WrittenServers {
    /// This one.
    One(String),
    /// The first of these that is reached.
    Several(Vec<String>),
}

impl WrittenServers {
    /// As they were written.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(server) => std::slice::from_ref(server),
            Self::Several(servers) => servers,
        }
    }
}

/// `true`, `false`, or networks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, false, or a list of networks like [\"10.0.0.0/8\"]")]
pub enum WrittenOpen {
    /// To all, or to this machine only.
    All(bool),
    /// To these.
    #[schemars(schema_with = "described_networks")]
    Networks(Vec<IpNet>),
}

/// Encryption as written; what each part means stands in [`super::Tls`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenTls {
    /// None.
    Off,
    /// As it is without a word.
    On,
    /// There, in these words.
    Parts(WrittenTlsParts),
}

/// The words of `tls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenTlsParts {
    /// PEM: server: shown instead of one of its own making; client: proves its name to a server that asks.
    pub certificate: Option<PathBuf>,
    /// PEM: the key of `certificate`.
    pub key: Option<PathBuf>,
    /// Server: PEM of the roots under which clients' certificates prove their names.
    pub clients: Option<PathBuf>,
    /// Server: more names and addresses that the certificate it makes is for.
    pub names: Option<Vec<String>>,
    /// Server: how long a certificate that it makes is good.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub lifetime: Option<Duration>,
    /// Server: whether links without TLS are taken from other machines.
    pub plain: Option<bool>,
    /// Client: PEM of the roots that it believes.
    pub roots: Option<PathBuf>,
}

impl JsonSchema for WrittenTls {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Tls".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let parts = WrittenTlsParts::json_schema(generator);
        json_schema!({ "anyOf": [{ "type": "boolean" }, parts] })
    }
}

impl<'de> Deserialize<'de> for WrittenTls {
    /// By hand, since an untagged choice would lose which of the words is the wrong one.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = WrittenTls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or an object like {\"names\": [\"example.org\"]}")
            }

            fn visit_bool<E>(self, on: bool) -> Result<WrittenTls, E> {
                Ok(if on { WrittenTls::On } else { WrittenTls::Off })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WrittenTls, A::Error> {
                WrittenTlsParts::deserialize(MapAccessDeserializer::new(map)).map(WrittenTls::Parts)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// `true`, `false`, a path, or an object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, false, a path, or an object like {\"path\": \"audit.jsonl\", \"params\": true}")]
pub enum WrittenAudit {
    /// In the file that is usual, or nowhere.
    Is(bool),
    /// In this one.
    Path(PathBuf),
    /// In this one, and what of it.
    File(WrittenAuditFile),
}

/// The audit log in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenAuditFile {
    /// Its path.
    pub path: Option<PathBuf>,
    /// Whether params are written down as they are.
    #[serde(default)]
    pub params: bool,
}

/// Bounds as written; what each means stands in [`super::Limits`] too.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenLimits {
    /// Runs at once; more wait in line.
    pub runs: Option<usize>,
    /// Runs waiting in line; more are answered `busy`.
    pub waiting: Option<usize>,
    /// Params of runs that run or wait in line; more are answered `busy`.
    #[serde(default, deserialize_with = "size::deserialize")]
    #[schemars(schema_with = "size::described")]
    pub waiting_bytes: Option<usize>,
    /// One message; a longer one is answered `too_large`, on a link with close code 1009.
    #[serde(default, deserialize_with = "size::deserialize")]
    #[schemars(schema_with = "size::described")]
    pub message: Option<usize>,
    /// Levels of nesting of a message; a deeper one is a `bad_message`.
    pub nesting: Option<usize>,
    /// Links and unfinished handshakes; for one more the oldest unfinished one goes, else it is refused.
    pub connections: Option<usize>,
    /// Unfinished handshakes; for one more the oldest goes.
    pub half_open: Option<usize>,
    /// Connections of one address a second, and 16 times as many at once; more are closed at once.
    pub address_connections: Option<usize>,
    /// Of these, those without a link a second; beyond that, what comes from there is closed at once.
    pub address_failures: Option<usize>,
    /// Local connections; one more is closed.
    pub local_connections: Option<usize>,
    /// Requests held while the server is away; more are answered `queue_full`.
    #[serde(default, deserialize_with = "size::deserialize")]
    #[schemars(schema_with = "size::described")]
    pub held_bytes: Option<usize>,
    /// Queued requests and outcomes on disk; more are answered `queue_full`.
    #[serde(default, deserialize_with = "size::deserialize")]
    #[schemars(schema_with = "size::described")]
    pub spool_bytes: Option<usize>,
    /// Queued runs, with those that are over; the oldest that are over go, else `queue_full`.
    pub spool_runs: Option<usize>,
    /// Runs of one peer in a second, and ten times as many at once; more are answered `busy`.
    pub peer_runs: Option<usize>,
}

/// Intervals and deadlines as written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenTimes {
    /// Between two pings on a link.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub ping: Option<Duration>,
    /// From connection to link.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub handshake: Option<Duration>,
    /// First bound of the wait before dialling again.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub backoff_min: Option<Duration>,
    /// Last bound of the wait before dialling again.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub backoff_max: Option<Duration>,
    /// From the order to stop until what still runs is killed.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(schema_with = "described_duration")]
    pub grace: Option<Duration>,
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    ws_daemon_protocol::time::deserialize(deserializer).map(Some)
}

fn described_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "description": "of IP", "type": "string", "pattern": "^[0-9a-fA-F]*[.:][0-9a-fA-F.:]*$" })
}

fn described_networks(_: &mut SchemaGenerator) -> Schema {
    let network = json_schema!({ "description": "like 10.0.0.0/8", "type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]+$" });
    json_schema!({ "type": "array", "items": network })
}

/// What is wrong with a config file, pointing at the place.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{} cannot be taken", path.display())]
pub struct WrittenFault {
    path: PathBuf,
    #[source_code]
    text: miette::NamedSource<String>,
    #[label("{what}")]
    at: miette::SourceSpan,
    what: String,
    #[help]
    help: Option<String>,
}

impl WrittenFault {
    /// The same in one line, for a log.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let line = self.text.inner()[..self.at.offset().min(self.text.inner().len())].matches('\n').count() + 1;
        let help = self.help.as_ref().map_or(String::new(), |help| format!("; {help}"));
        format!("{}:{line}: {}{help}", self.path.display(), self.what)
    }
}

impl Written {
    /// Reads the text of a config file; `path` is for messages.
    ///
    /// # Errors
    /// What is wrong, with its line, and the nearest name for an unknown key.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Box<WrittenFault>> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let key = error.path().to_string();
            (error.into_inner(), key)
        });
        let found = found.and_then(|found| deserializer.end().map(|()| found).map_err(|error| (error, String::new())));
        found.map_err(|(error, key)| {
            let said = error.to_string();
            let said = in_plain_words(said.rfind(" at line ").map_or(said.as_str(), |at| &said[..at]));
            let what = said.as_str();
            let unknown = what.starts_with("unknown field ");
            let placed = if unknown || key.is_empty() || key == "." { what.to_owned() } else { format!("{key}: {what}") };
            Box::new(WrittenFault {
                path: path.to_owned(),
                text: miette::NamedSource::new(path.display().to_string(), text.to_owned()),
                at: span(text, error.line(), error.column(), unknown),
                what: if unknown { unknown_key(what) } else { placed },
                help: if unknown { nearest(what) } else { None },
            })
        })
    }
}

/// Where serde_json says a fault is; for a key it says where the key ended, so the span reaches back over it.
fn span(text: &str, line: usize, column: usize, is_key: bool) -> miette::SourceSpan {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let end = (line_start + column).min(text.len());
    let start = if is_key { text[..end.saturating_sub(1)].rfind('"').unwrap_or(end) } else { end.saturating_sub(1) };
    (start, end - start).into()
}

/// What serde says of a wrong value, with the types of Rust as people know them.
#[must_use]
pub fn in_plain_words(said: &str) -> String {
    let types = [("expected usize", "expected a whole number"), ("expected u16", "expected a number from 0 to 65535")];
    let said = said.replacen("invalid type: ", "found ", 1).replacen("invalid value: ", "found ", 1);
    types.iter().fold(said, |said, (name, plain)| said.replace(name, plain))
}

fn backticked(what: &str) -> Vec<&str> {
    what.split('`').skip(1).step_by(2).collect()
}

fn unknown_key(what: &str) -> String {
    format!("there is no setting {:?}", backticked(what).first().copied().unwrap_or_default())
}

/// serde names the unknown field and then every known one, each in backticks.
fn nearest(what: &str) -> Option<String> {
    let names = backticked(what);
    let (unknown, known) = names.split_first()?;
    let near = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, unknown))?;
    let known: Vec<&str> = known.iter().copied().filter(|name| !name.starts_with('$')).collect();
    if strsim::damerau_levenshtein(near, unknown) <= 3 {
        return Some(format!("did you mean \"{near}\"?"));
    }
    Some(format!("there are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        let fault = Written::parse(Path::new("/p/config.json"), text).expect_err("refused");
        let mut out = String::new();
        let handler = miette::NarratableReportHandler::new();
        handler.render_report(&mut out, fault.as_ref()).expect("a String takes all");
        out
    }

    #[test]
    fn the_seeds_configs_are_taken() {
        let client = "{\n\"mode\": \"client\",\n\"proxy\": \"example.org\",\n\"port\": 3006\n}";
        let found = Written::parse(Path::new("c"), client).expect("the seed's own");
        assert_eq!((found.mode, found.port), (Some(Mode::Client), Some(3006)));
        assert_eq!(found.proxy, Some(WrittenServers::One("example.org".into())));
        assert!(Written::parse(Path::new("c"), "{\"mode\":\"server\",\"port\":3006}").is_ok());
    }

    #[test]
    fn an_unknown_key_is_shown_with_the_nearest() {
        let said = fault("{\n  \"mode\": \"server\",\n  \"prot\": 1\n}");
        for part in ["there is no setting \"prot\"", "did you mean \"port\"?", "line 3"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(fault("{\"limits\":{\"rums\":1}}").contains("did you mean \"runs\"?"));
        assert!(fault("{\"qwertyuiop\":1}").contains("there are mode, proxy"));
    }

    #[test]
    fn a_wrong_value_is_named_by_its_path() {
        assert!(fault("{\"port\": 70000}").contains("port: "));
        assert!(fault("{\"times\":{\"ping\":\"soon\"}}").contains("\"soon\" is no duration"));
        assert!(fault("{\"mode\":\"peer\"}").contains("mode: "));
        assert!(fault("{\"tls\":{\"names\":5}}").contains("tls.names: "));
        assert!(fault("{\"tls\":{\"nmaes\":[]}}").contains("did you mean \"names\"?"));
        assert!(fault("{\"tls\":5}").contains("true, false, or an object"));
        assert!(fault("{\"port\": 1").contains("EOF"));
        assert!(fault("{} x").contains("trailing"));
    }
}
