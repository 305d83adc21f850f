//! Settings as they are meant: what was written, in the order flag, environment, file, default, and nothing optional where
//! something is required. Resolution is pure: it takes what was written and returns what is meant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use ws_daemon_protocol::codec::v2::{NAME_CHARS, TAGS, is_name};

use super::file::{
    Mode, Written, WrittenAudit, WrittenAuditFile, WrittenLimits, WrittenOpen, WrittenTimes, WrittenTls, WrittenTlsParts,
};
use super::http_proxy::{HttpProxy, HttpProxyFault, ProxyVariables};
use super::log::{LogFilter, LogFilterFault, LogFormat};
use super::rules::{Accounts, Rule};
use super::server_url::{SEED_PORT, ServerUrlFault, Servers};
use super::serving::Serving;

/// The audit log, if no other path is given.
const AUDIT_FILE: &str = "audit.jsonl";

/// Where a setting came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// config.json.
    File,
    /// Nowhere.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "config.json",
            Self::Default => "default",
        })
    }
}

/// What was written, place by place.
#[derive(Debug, Default)]
pub struct Sources {
    /// The prefix, and whether a flag or the environment named it.
    pub prefix: (PathBuf, Source),
    /// The command line.
    pub flags: Written,
    /// The environment.
    pub environment: Written,
    /// config.json, if there is one.
    pub file: Option<Written>,
    /// Whether the machine looks like a container.
    pub in_container: bool,
    /// What the environment says of HTTP proxies.
    pub proxies: ProxyVariables,
    /// Who knows the users and groups of this machine.
    pub accounts: Accounts,
}

impl Default for Source {
    /// What nobody wrote is a default.
    fn default() -> Self {
        Self::Default
    }
}

/// What the daemon does.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where its files are.
    pub prefix: PathBuf,
    /// Whether others may be able to write what the daemon runs and keeps, and who says so.
    pub any_writer: (bool, Source),
    /// Which end of the link it is.
    pub role: Role,
    /// Where TCP speaks the local conversation.
    pub local: LocalTcp,
    /// Where HTTP is answered beside a server's port.
    pub http: Option<SocketAddr>,
    /// By which names HTTP is asked, beside those that go without saying.
    pub hosts: Vec<String>,
    /// The group that may use the socket.
    pub socket_group: Option<String>,
    /// What this daemon is called, if someone chose a name.
    pub name: Option<String>,
    /// More names.
    pub tags: Vec<String>,
    /// Where a client's token stands, if someone said so; a relative path is in the prefix.
    pub token_file: Option<PathBuf>,
    /// Whether any client may ask for a run on another one, where no rule is about peers.
    pub relay: bool,
    /// Encryption.
    pub tls: Tls,
    /// Who may ask for what.
    pub rules: Vec<Rule>,
    /// Who may serve which names, beside root and the daemon's own user.
    pub serve: Vec<Serving>,
    /// Where it is written down who asked for what.
    pub audit: Option<AuditFile>,
    /// What is logged.
    pub log: LogFilter,
    /// In which form.
    pub log_format: LogFormat,
    /// Bounds.
    pub limits: Limits,
    /// Intervals and deadlines.
    pub times: Times,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFile {
    /// Its path.
    pub path: PathBuf,
    /// Whether params are written down as they are, and not only their length and hash.
    pub params: bool,
}

/// Which end of the link the daemon is.
#[derive(Debug, Clone)]
pub enum Role {
    /// Waits for clients.
    Server {
        /// Where.
        listen: SocketAddr,
        /// Whether the port may be shared with other programs of this user.
        reuse: bool,
        /// Who may come from elsewhere.
        open: Open,
    },
    /// Dials the server.
    Client {
        /// Which, each with the way there.
        servers: Servers,
    },
}

/// Who may connect without a token, beyond this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    /// Nobody: protected mode.
    Nobody,
    /// Whoever comes from these networks.
    Networks(Vec<IpNet>),
    /// Anyone.
    All,
}

/// Encryption: what a server shows, what a client believes. Paths stand on their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Server: whether there is any; `None`: as soon as there are keys.
    pub on: Option<bool>,
    /// Its own certificate and key, instead of those that it makes; client: those to prove by who it is.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Server: whose certificates prove who a client is.
    pub clients: Option<PathBuf>,
    /// Server: what else its certificate is for.
    pub names: Vec<String>,
    /// Server: how long a certificate that it makes is good.
    pub lifetime: Duration,
    /// Server: whether links without it are taken from other machines.
    pub plain: bool,
    /// Client: the roots that are believed; `None`: those that were pinned, else the system's.
    pub roots: Option<PathBuf>,
}

/// Where TCP speaks the local conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalTcp {
    /// Nowhere.
    Off,
    /// There, because someone said so: not to get it is an error.
    Asked(SocketAddr),
    /// There, because this looks like a container: not to get it is a warning.
    Guessed(SocketAddr),
}

/// The bounds, with what happens at each.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Runs at once; more wait in line.
    pub runs: usize,
    /// Runs waiting in line; more are answered `busy`.
    pub waiting: usize,
    /// Bytes of params waiting in line; more are answered `busy`.
    pub waiting_bytes: usize,
    /// Bytes of one message or frame; a longer one is answered `too_large`, on a link with 1009.
    pub message: usize,
    /// Levels of nesting of a message; a deeper one is a bad message.
    pub nesting: usize,
    /// Links and half-open handshakes; one more drops the oldest half-open one, or is refused.
    pub connections: usize,
    /// Half-open handshakes among these; one more drops the oldest.
    pub half_open: usize,
    /// Connections of one address a second; more are closed at once.
    pub address_connections: usize,
    /// Connections of one address a second of which no link comes; beyond that, what comes from there is closed at once.
    pub address_failures: usize,
    /// Local connections; one more is closed.
    pub local_connections: usize,
    /// Bytes of requests held while the server is away; more are answered `queue_full`.
    pub held_bytes: usize,
    /// Bytes of the spool on disk; when full, what is to be queued is answered `queue_full`.
    pub spool_bytes: usize,
    /// Queued runs, asked for and claimed, with their history; when full of unsettled ones, more are answered `queue_full`.
    pub spool_runs: usize,
    /// Runs of one peer in a second, and ten times as many at once; more are answered `busy`.
    pub peer_runs: usize,
}

/// The intervals and deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Between two pings on a link.
    pub ping: Duration,
    /// From connection to link, with TLS.
    pub handshake: Duration,
    /// The first upper bound of the wait before dialling again.
    pub backoff_min: Duration,
    /// The last.
    pub backoff_max: Duration,
    /// From the order to stop until what still runs is killed.
    pub grace: Duration,
}

/// One line of what was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The setting.
    pub name: &'static str,
    /// Its value, as config.json would have it; secrets left out.
    pub value: Value,
    /// What the value means, where it does not say so itself.
    pub note: Option<&'static str>,
    /// Where it came from.
    pub source: Source,
}

impl Row {
    /// The value and its note, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = match &self.value {
            Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
            value => plain(value),
        };
        self.note.map_or_else(|| value.clone(), |note| format!("{value} ({note})"))
    }
}

/// Why what was written makes no daemon.
#[derive(Debug, thiserror::Error)]
pub enum SettingsFault {
    /// Nothing says what to be.
    #[error(transparent)]
    Missing(#[from] MissingConfig),
    /// A client without a server.
    #[error("a client needs \"proxy\", the server to dial: set it in config.json, with --proxy, or as WSDAEMON_PROXY")]
    NoProxy,
    /// A server that cannot be dialled.
    #[error("proxy {0}")]
    Proxy(#[from] ServerUrlFault),
    /// A way to it that is none.
    #[error(transparent)]
    HttpProxy(#[from] HttpProxyFault),
    /// An address that is none.
    #[error("local is \"{0}\"; it must be an address like 127.0.0.1:9007, or off")]
    Local(String),
    /// HTTP that others could read.
    #[error(
        "\"http\" is an address of this machine, like 127.0.0.1:9100: elsewhere tokens could be read on the way. On a server with \
         \"tls\": true it may be another; else put a proxy that speaks TLS before it"
    )]
    Http,
    /// A bound that would let nothing through.
    #[error("{0} must be at least {1}")]
    TooSmall(&'static str, usize),
    /// A name that cannot be one.
    #[error(
        "{0}: a name has 1 to {NAME_CHARS} characters, none of them a control character, and there are at most {TAGS} tags"
    )]
    Name(&'static str),
    /// An interval that would never, or always, be over.
    #[error("times.{0} must be longer than 0")]
    NoTime(&'static str),
    /// A part of `tls` that is not for this end, or not whole.
    #[error("tls: {0}")]
    Tls(&'static str),
    /// A rule about nobody that is known.
    #[error("rules[{0}]: {1}")]
    Rule(usize, String),
    /// Nobody that is known is to serve.
    #[error("serve[{0}]: {1}")]
    Serve(usize, String),
    /// What is no filter of the log.
    #[error(transparent)]
    Log(#[from] LogFilterFault),
    /// The first wait is longer than the last.
    #[error("times.backoff_min is longer than times.backoff_max")]
    Backoff,
}

/// There is no config.json and nothing else says whether to be a server or a client.
#[derive(Debug, thiserror::Error)]
#[error("nothing says whether this is a server or a client: {} {}", path.display(), if *.exists { "has no \"mode\"" } else { "does not exist" })]
pub struct MissingConfig {
    /// The file that would say.
    pub path: PathBuf,
    /// Whether it is there.
    pub exists: bool,
}

/// Resolves settings one by one and keeps a row of each.
struct Resolver<'a> {
    sources: &'a Sources,
    rows: Vec<Row>,
}

impl Resolver<'_> {
    /// The first place that has the setting.
    fn written<T>(&self, get: impl Fn(&Written) -> Option<T>) -> Option<(T, Source)> {
        let Sources { flags, environment, file, .. } = self.sources;
        let places = [(Some(flags), Source::Flag), (Some(environment), Source::Environment), (file.as_ref(), Source::File)];
        places.into_iter().find_map(|(place, source)| Some((get(place?)?, source)))
    }

    fn row(&mut self, name: &'static str, value: impl Into<Value>, source: Source) {
        self.noted(name, value, None, source);
    }

    fn noted(&mut self, name: &'static str, value: impl Into<Value>, note: Option<&'static str>, source: Source) {
        self.rows.push(Row { name, value: value.into(), note, source });
    }

    fn or_default<T>(&mut self, default: T, get: impl Fn(&Written) -> Option<T>) -> (T, Source) {
        self.written(get).unwrap_or((default, Source::Default))
    }

    fn bound(
        &mut self,
        name: &'static str,
        least: usize,
        default: usize,
        get: impl Fn(&WrittenLimits) -> Option<usize>,
    ) -> Result<usize, SettingsFault> {
        let (value, source) = self.or_default(default, |written| get(&written.limits));
        self.row(name, value, source);
        if value < least { Err(SettingsFault::TooSmall(name, least)) } else { Ok(value) }
    }

    fn time(
        &mut self,
        name: &'static str,
        default: Duration,
        get: impl Fn(&WrittenTimes) -> Option<Duration>,
    ) -> Result<Duration, SettingsFault> {
        let (value, source) = self.or_default(default, |written| get(&written.times));
        self.row(name, format!("{value:?}"), source);
        if value.is_zero() { Err(SettingsFault::NoTime(name.trim_start_matches("times."))) } else { Ok(value) }
    }
}

impl Settings {
    /// Resolves what was written, and tells each setting with its source.
    ///
    /// # Errors
    /// What is missing or wrong, and how to mend it.
    pub fn resolve(sources: &Sources) -> Result<(Self, Vec<Row>), SettingsFault> {
        let mut resolver = Resolver { sources, rows: Vec::new() };
        let (prefix, source) = sources.prefix.clone();
        resolver.row("prefix", prefix.display().to_string(), source);
        let missing = || MissingConfig { path: prefix.join("config.json"), exists: sources.file.is_some() };
        let (mode, source) = resolver.written(|written| written.mode).ok_or_else(missing)?;
        resolver.row("mode", mode.to_string(), source);
        let role = match mode {
            Mode::Server => server(&mut resolver),
            Mode::Client => client(&mut resolver)?,
        };
        let local = local(&mut resolver)?;
        let http = resolver.written(|written| written.http);
        if let Some((address, source)) = &http {
            resolver.row("http", address.to_string(), *source);
        }
        let hosts = resolver.written(|written| written.hosts.clone());
        if let Some((hosts, source)) = &hosts {
            resolver.row("hosts", hosts.clone(), *source);
        }
        let group = resolver.written(|written| written.socket_group.clone());
        if let Some((group, source)) = &group {
            resolver.row("socket_group", group.as_str(), *source);
        }
        let limits = limits(&mut resolver)?;
        let times = times(&mut resolver)?;
        let socket_group = group.map(|(group, _)| group);
        let (name, tags) = names(&mut resolver)?;
        let (relay, source) = resolver.or_default(false, |written| written.relay);
        resolver.row("relay", relay, source);
        let token_file = resolver.written(|written| written.token_file.clone());
        if let Some((path, source)) = &token_file {
            resolver.row("token_file", path.display().to_string(), *source);
        }
        let tls = tls(&mut resolver, mode)?;
        let http = http.map(|(address, _)| address);
        if http.is_some_and(|http| !http.ip().is_loopback() && (mode == Mode::Client || tls.on != Some(true))) {
            return Err(SettingsFault::Http);
        }
        let rules = rules(&mut resolver)?;
        let serve = serve(&mut resolver)?;
        let audit = audit(&mut resolver, &prefix);
        let any_writer = resolver.or_default(false, |written| written.any_writer);
        resolver.row("any_writer", any_writer.0, any_writer.1);
        let token_file = token_file.map(|(path, _)| path);
        let (log, log_format) = log(&mut resolver)?;
        let settings = Self {
            prefix,
            any_writer,
            role,
            local,
            http,
            hosts: hosts.map(|(hosts, _)| hosts).unwrap_or_default(),
            socket_group,
            name,
            tags,
            token_file,
            relay,
            tls,
            rules,
            serve,
            audit,
            log,
            log_format,
            limits,
            times,
        };
        Ok((settings, resolver.rows))
    }
}

/// What is logged, and in which form.
fn log(resolver: &mut Resolver) -> Result<(LogFilter, LogFormat), SettingsFault> {
    let (filter, source) = match resolver.written(|written| written.log.clone()) {
        Some((text, source)) => (LogFilter::parse(&text)?, source),
        None => (LogFilter::default(), Source::Default),
    };
    resolver.row("log", filter.as_str(), source);
    let (format, source) = resolver.or_default(LogFormat::default(), |written| written.log_format);
    resolver.row("log_format", format.to_string(), source);
    Ok((filter, format))
}

/// What this daemon is called, and its tags.
fn names(resolver: &mut Resolver) -> Result<(Option<String>, Vec<String>), SettingsFault> {
    let name = resolver.written(|written| written.name.clone());
    if let Some((name, source)) = &name {
        if !is_name(name) {
            return Err(SettingsFault::Name("name"));
        }
        resolver.row("name", name.as_str(), *source);
    }
    let tags = resolver.written(|written| written.tags.clone());
    if let Some((tags, source)) = &tags {
        if tags.len() > TAGS || !tags.iter().all(|tag| is_name(tag)) {
            return Err(SettingsFault::Name("tags"));
        }
        resolver.row("tags", tags.clone(), *source);
    }
    Ok((name.map(|(name, _)| name), tags.map(|(tags, _)| tags).unwrap_or_default()))
}

/// Three months, renewed after two.
const LEAF_LIFE: Duration = Duration::from_hours(90 * 24);

/// A certificate that is renewed more often than this is no certificate but a load.
const SHORTEST_LIFE: Duration = Duration::from_secs(3);

fn tls(resolver: &mut Resolver, mode: Mode) -> Result<Tls, SettingsFault> {
    let prefix = resolver.sources.prefix.0.clone();
    let (written, source) = resolver
        .written(|written| written.tls.clone())
        .map_or((None, Source::Default), |(written, source)| (Some(written), source));
    let (on, parts) = match written {
        None => (None, WrittenTlsParts::default()),
        Some(WrittenTls::Off) => (Some(false), WrittenTlsParts::default()),
        Some(WrittenTls::On) => (Some(true), WrittenTlsParts::default()),
        Some(WrittenTls::Parts(parts)) => (Some(true), parts),
    };
    let WrittenTlsParts { certificate, key, clients, names, lifetime, plain, roots } = parts;
    let is_server = mode == Mode::Server;
    let wrong = if is_server && roots.is_some() {
        "\"roots\" is for a client; whose certificates prove a client's name is \"clients\""
    } else if !is_server && (clients.is_some() || names.is_some() || lifetime.is_some() || plain.is_some()) {
        "\"clients\", \"names\", \"lifetime\" and \"plain\" are for a server; a client has \"roots\", \"certificate\" and \"key\""
    } else if !is_server && on == Some(false) {
        "whether a client encrypts is said by the URL in \"proxy\": wss:// or ws://"
    } else if certificate.is_some() != key.is_some() {
        "\"certificate\" and \"key\" go together: the path of each, both PEM files"
    } else if is_server && certificate.is_some() && (names.is_some() || lifetime.is_some()) {
        "\"names\" and \"lifetime\" are for certificates that the server makes, and \"certificate\" names one that it does not"
    } else if lifetime.is_some_and(|lifetime| lifetime < SHORTEST_LIFE) {
        "\"lifetime\" must be 3 s or more"
    } else {
        ""
    };
    if !wrong.is_empty() {
        return Err(SettingsFault::Tls(wrong));
    }
    let path = |path: PathBuf| prefix.join(path);
    let tls = Tls {
        on,
        own: certificate.map(path).zip(key.map(path)),
        clients: clients.map(path),
        names: names.unwrap_or_default(),
        lifetime: lifetime.unwrap_or(LEAF_LIFE),
        plain: plain.unwrap_or(true),
        roots: roots.map(path),
    };
    tls_rows(resolver, &tls, is_server, source);
    Ok(tls)
}

fn tls_rows(resolver: &mut Resolver, tls: &Tls, is_server: bool, source: Source) {
    let shown = |path: &PathBuf| path.display().to_string();
    if is_server {
        let (value, note) = match tls.on {
            None => ("auto".into(), Some("on from the first invitation on")),
            Some(on) => (Value::Bool(on), None),
        };
        resolver.noted("tls", value, note, source);
    }
    let (certificate, key) = tls.own.as_ref().map(|(certificate, key)| (shown(certificate), shown(key))).unzip();
    let parts = [
        ("tls.certificate", certificate.map(Value::from)),
        ("tls.key", key.map(Value::from)),
        ("tls.clients", tls.clients.as_ref().map(|path| shown(path).into())),
        ("tls.roots", tls.roots.as_ref().map(|path| shown(path).into())),
        ("tls.names", (!tls.names.is_empty()).then(|| tls.names.clone().into())),
        ("tls.lifetime", (tls.lifetime != LEAF_LIFE).then(|| format!("{:?}", tls.lifetime).into())),
        ("tls.plain", (!tls.plain).then(|| false.into())),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            resolver.row(name, value, source);
        }
    }
}

/// Who may ask for what.
fn rules(resolver: &mut Resolver) -> Result<Vec<Rule>, SettingsFault> {
    let Some((written, source)) = resolver.written(|written| written.rules.clone()) else { return Ok(Vec::new()) };
    resolver.row("rules", serde_json::to_value(&written).unwrap_or_default(), source);
    let accounts = &resolver.sources.accounts;
    let meant = written.iter().enumerate().map(|(at, rule)| rule.meant(accounts).map_err(|why| SettingsFault::Rule(at, why)));
    meant.collect()
}

/// Who may serve which names.
fn serve(resolver: &mut Resolver) -> Result<Vec<Serving>, SettingsFault> {
    let Some((written, source)) = resolver.written(|written| written.serve.clone()) else { return Ok(Vec::new()) };
    resolver.row("serve", serde_json::to_value(&written).unwrap_or_default(), source);
    let accounts = &resolver.sources.accounts;
    let meant = written.iter().enumerate();
    meant.map(|(at, serving)| serving.meant(accounts).map_err(|why| SettingsFault::Serve(at, why))).collect()
}

/// Where it is written down who asked for what; a relative path is in the prefix.
fn audit(resolver: &mut Resolver, prefix: &Path) -> Option<AuditFile> {
    let (written, source) = resolver.or_default(WrittenAudit::Is(false), |written| written.audit.clone());
    let file = match written {
        WrittenAudit::Is(false) => None,
        WrittenAudit::Is(true) => Some(WrittenAuditFile::default()),
        WrittenAudit::Path(path) => Some(WrittenAuditFile { path: Some(path), params: false }),
        WrittenAudit::File(file) => Some(file),
    };
    let file = file.map(|file| {
        let name = file.path.unwrap_or_else(|| AUDIT_FILE.into());
        AuditFile { path: prefix.join(name), params: file.params }
    });
    let note = file.as_ref().filter(|file| file.params).map(|_| "with params");
    let shown = file.as_ref().map_or(Value::Bool(false), |file| file.path.display().to_string().into());
    resolver.noted("audit", shown, note, source);
    file
}

fn server(resolver: &mut Resolver) -> Role {
    let (port, source) = resolver.or_default(SEED_PORT, |written| written.port);
    resolver.row("port", port, source);
    let (address, source) = resolver.or_default(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |written| written.listen);
    resolver.row("listen", address.to_string(), source);
    let (reuse, source) = resolver.or_default(false, |written| written.reuse_port);
    resolver.row("reuse_port", reuse, source);
    let (open, source) = resolver.or_default(WrittenOpen::All(false), |written| written.open.clone());
    let (open, value, note) = match open {
        WrittenOpen::All(true) => (Open::All, true.into(), Some("anyone who can reach the port")),
        WrittenOpen::All(false) => (Open::Nobody, false.into(), Some("this machine only")),
        WrittenOpen::Networks(networks) => {
            let names: Vec<String> = networks.iter().map(ToString::to_string).collect();
            (Open::Networks(networks), Value::from(names), Some("and this machine"))
        }
    };
    resolver.noted("open", value, note, source);
    Role::Server { listen: SocketAddr::new(address, port), reuse, open }
}

fn client(resolver: &mut Resolver) -> Result<Role, SettingsFault> {
    let (proxy, source) = resolver.written(|written| written.proxy.clone()).ok_or(SettingsFault::NoProxy)?;
    let port = resolver.written(|written| written.port);
    let mut servers = Servers::parse(proxy.as_slice(), port.map(|(port, _)| port))?;
    let has_token = servers.iter().any(|server| server.credentials.is_some());
    let note = has_token.then_some("with a name and a token, which are not shown");
    resolver.noted("proxy", one_or_all(servers.iter().map(ToString::to_string)), note, source);
    http_proxies(resolver, &mut servers)?;
    Ok(Role::Client { servers })
}

/// The proxy on the way to each server.
fn http_proxies(resolver: &mut Resolver, servers: &mut Servers) -> Result<(), SettingsFault> {
    let set = resolver.written(|written| written.http_proxy.clone());
    for server in servers.iter_mut() {
        server.via = resolver.sources.proxies.way(server, set.as_ref().map(|(set, _)| &**set))?;
    }
    let shown = |way: Option<&HttpProxy>| way.map_or_else(|| "none".to_owned(), ToString::to_string);
    let mut ways: Vec<String> = servers.iter().map(|server| shown(server.via.as_ref())).collect();
    if ways.iter().all(|way| *way == ways[0]) {
        ways.truncate(1);
    }
    let used = servers.iter().find_map(|server| server.via.as_ref());
    let (note, source) = match (used, set) {
        (_, Some((_, source))) => (None, source),
        (Some(proxy), None) => (Some(proxy.named_by), Source::Environment),
        (None, None) => (None, Source::Default),
    };
    resolver.noted("http_proxy", one_or_all(ways), note, source);
    Ok(())
}

fn one_or_all(words: impl IntoIterator<Item = String>) -> Value {
    let mut words: Vec<Value> = words.into_iter().map(Value::from).collect();
    if words.len() == 1 { words.remove(0) } else { Value::Array(words) }
}

fn local(resolver: &mut Resolver) -> Result<LocalTcp, SettingsFault> {
    let guessed = LocalTcp::Guessed((Ipv4Addr::LOCALHOST, 9007).into());
    let (local, source) = match resolver.written(|written| written.local.clone()) {
        Some((text, source)) if text == "off" => (LocalTcp::Off, source),
        Some((text, source)) => (text.parse().map(LocalTcp::Asked).map_err(|_| SettingsFault::Local(text))?, source),
        None if resolver.sources.in_container => (guessed, Source::Default),
        None => (LocalTcp::Off, Source::Default),
    };
    let (value, note) = match local {
        LocalTcp::Off => ("off".to_owned(), None),
        LocalTcp::Asked(address) => (address.to_string(), None),
        LocalTcp::Guessed(address) => (address.to_string(), Some("this looks like a container")),
    };
    resolver.noted("local", value, note, source);
    Ok(local)
}

fn limits(resolver: &mut Resolver) -> Result<Limits, SettingsFault> {
    Ok(Limits {
        runs: resolver.bound("limits.runs", 1, 256, |limits| limits.runs)?,
        waiting: resolver.bound("limits.waiting", 0, 16_384, |limits| limits.waiting)?,
        waiting_bytes: resolver.bound("limits.waiting_bytes", 1 << 20, 256 << 20, |limits| limits.waiting_bytes)?,
        message: resolver.bound("limits.message", 1024, 16 << 20, |limits| limits.message)?,
        nesting: resolver.bound("limits.nesting", 4, 128, |limits| limits.nesting)?,
        connections: resolver.bound("limits.connections", 1, 16_384, |limits| limits.connections)?,
        half_open: resolver.bound("limits.half_open", 1, 1024, |limits| limits.half_open)?,
        address_connections: resolver.bound("limits.address_connections", 1, 1024, |limits| limits.address_connections)?,
        address_failures: resolver.bound("limits.address_failures", 1, 256, |limits| limits.address_failures)?,
        local_connections: resolver.bound("limits.local_connections", 1, 4096, |limits| limits.local_connections)?,
        held_bytes: resolver.bound("limits.held_bytes", 0, 64 << 20, |limits| limits.held_bytes)?,
        spool_bytes: resolver.bound("limits.spool_bytes", 128 << 10, 1 << 30, |limits| limits.spool_bytes)?,
        spool_runs: resolver.bound("limits.spool_runs", 1, 200_000, |limits| limits.spool_runs)?,
        peer_runs: resolver.bound("limits.peer_runs", 1, 1_000_000, |limits| limits.peer_runs)?,
    })
}

fn times(resolver: &mut Resolver) -> Result<Times, SettingsFault> {
    let seconds = Duration::from_secs;
    let times = Times {
        ping: resolver.time("times.ping", seconds(20), |times| times.ping)?,
        handshake: resolver.time("times.handshake", seconds(10), |times| times.handshake)?,
        backoff_min: resolver.time("times.backoff_min", Duration::from_millis(500), |times| times.backoff_min)?,
        backoff_max: resolver.time("times.backoff_max", seconds(30), |times| times.backoff_max)?,
        grace: resolver.time("times.grace", seconds(10), |times| times.grace)?,
    };
    if times.backoff_min > times.backoff_max { Err(SettingsFault::Backoff) } else { Ok(times) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn written(text: &str) -> Written {
        Written::parse(Path::new("config.json"), text).expect("the table holds configs")
    }

    fn sources(flags: &str, environment: &str, file: Option<&str>) -> Sources {
        Sources {
            prefix: ("/p".into(), Source::Default),
            flags: written(flags),
            environment: written(environment),
            file: file.map(written),
            in_container: false,
            proxies: ProxyVariables::default(),
            accounts: Accounts::default(),
        }
    }

    fn row(rows: &[Row], name: &str) -> (String, Source) {
        let row = rows.iter().find(|row| row.name == name).expect("a row for each setting");
        (row.shown(), row.source)
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let file = Some(r#"{"mode":"server","port":1,"limits":{"runs":3}}"#);
        let cases = [
            (r#"{"port":3}"#, r#"{"port":2}"#, file, "3", Source::Flag),
            ("{}", r#"{"port":2}"#, file, "2", Source::Environment),
            ("{}", "{}", file, "1", Source::File),
            (r#"{"mode":"server"}"#, "{}", None, "3006", Source::Default),
        ];
        for (flags, environment, file, port, source) in cases {
            let (_, rows) = Settings::resolve(&sources(flags, environment, file)).expect("complete");
            assert_eq!(row(&rows, "port"), (port.to_owned(), source));
        }
        let (settings, rows) = Settings::resolve(&sources("{}", "{}", file)).expect("complete");
        assert_eq!((settings.limits.runs, row(&rows, "limits.runs").1), (3, Source::File));
    }

    #[test]
    fn what_is_missing_is_said() {
        let missing = Settings::resolve(&sources("{}", "{}", None)).expect_err("no mode").to_string();
        assert_eq!(missing, "nothing says whether this is a server or a client: /p/config.json does not exist");
        let cases = [
            (r#"{"mode":"client"}"#, "a client needs \"proxy\""),
            (r#"{"mode":"client","proxy":"http://x"}"#, "proxy has the scheme"),
            (r#"{"mode":"server","local":"9007"}"#, "local is \"9007\""),
            (r#"{"mode":"server","rules":[{"who":"local"},{"who":"user:x"}]}"#, "rules[1]: this machine knows no user \"x\""),
            (r#"{"mode":"server","serve":[{"names":["a"],"users":["x"]}]}"#, "serve[0]: this machine knows no user \"x\""),
            (r#"{"mode":"server","limits":{"runs":0}}"#, "limits.runs must be at least 1"),
            (r#"{"mode":"server","times":{"ping":0}}"#, "times.ping must be longer"),
            (r#"{"mode":"server","times":{"backoff_min":"1m"}}"#, "times.backoff_min is longer"),
            (r#"{"mode":"server","tls":{"roots":"x"}}"#, "tls: \"roots\" is for a client"),
            (r#"{"mode":"server","tls":{"key":"x"}}"#, "tls: \"certificate\" and \"key\" go together"),
            (r#"{"mode":"server","tls":{"lifetime":"1s"}}"#, "tls: \"lifetime\" must be"),
            (r#"{"mode":"server","tls":{"key":"x","certificate":"x","names":[]}}"#, "tls: \"names\" and"),
            (r#"{"mode":"client","proxy":"h","tls":{"plain":false}}"#, "tls: \"clients\", \"names\""),
            (r#"{"mode":"client","proxy":"h","tls":false}"#, "tls: whether a client encrypts"),
        ];
        for (file, expected) in cases {
            let said = Settings::resolve(&sources("{}", "{}", Some(file))).expect_err(file).to_string();
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn signs_of_a_container_open_9007_to_this_machine_only() {
        let mut sources = sources("{}", "{}", Some(r#"{"mode":"server"}"#));
        sources.in_container = true;
        let (settings, _) = Settings::resolve(&sources).expect("complete");
        assert_eq!(settings.local, LocalTcp::Guessed(([127, 0, 0, 1], 9007).into()));
        sources.environment = written(r#"{"local":"0.0.0.0:9007"}"#);
        let (settings, _) = Settings::resolve(&sources).expect("complete");
        assert_eq!(settings.local, LocalTcp::Asked(([0, 0, 0, 0], 9007).into()));
    }

    #[test]
    fn the_audit_log_is_where_it_is_said_to_be() {
        let table = [
            ("false", None, "false"),
            ("true", Some(("/p/audit.jsonl", false)), "/p/audit.jsonl"),
            ("\"a/b\"", Some(("/p/a/b", false)), "/p/a/b"),
            ("{\"path\":\"/x\",\"params\":true}", Some(("/x", true)), "/x (with params)"),
            ("{\"params\":true}", Some(("/p/audit.jsonl", true)), "/p/audit.jsonl (with params)"),
        ];
        for (written, expected, shown) in table {
            let file = format!("{{\"mode\":\"server\",\"audit\":{written}}}");
            let (settings, rows) = Settings::resolve(&sources("{}", "{}", Some(&file))).expect("complete");
            let expected = expected.map(|(path, params)| AuditFile { path: path.into(), params });
            assert_eq!((settings.audit, row(&rows, "audit").0), (expected, shown.to_owned()), "{written}");
        }
    }

    #[test]
    fn a_token_in_proxy_is_not_shown() {
        let (_, rows) =
            Settings::resolve(&sources("{}", "{}", Some(r#"{"mode":"client","proxy":"a:secret@h"}"#))).expect("complete");
        assert!(rows.iter().all(|row| !row.shown().contains("secret")));
    }
}
