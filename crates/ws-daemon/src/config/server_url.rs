//! The server a client dials, as `proxy` names it: a host, `host:port`, or a URL with a path and `name:token@`. It never shows
//! the token.

use std::fmt;

use url::{Host, Url};

use super::http_proxy::HttpProxy;

/// The port of the seed.
pub const SEED_PORT: u16 = 3006;

/// Servers of one client.
const SERVERS: usize = 16;

/// Where to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether the link is encrypted (`wss`).
    pub tls: bool,
    /// A name or an address.
    pub host: Host<String>,
    /// The port.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// What the daemon shows of itself, if anything.
    pub credentials: Option<Credentials>,
    /// The proxy on the way there.
    pub via: Option<HttpProxy>,
}

/// A name and its token, for the handshake's `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The peer's name.
    pub name: String,
    /// Its secret. Never logged, and never part of a URL that is shown or sent.
    pub token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a text names no server: to be read behind the word for where it stands.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ServerUrlFault {
    /// Not `ws` or `wss`.
    #[error("has the scheme \"{0}\"; it must be ws:// or wss://, or a bare host name")]
    Scheme(String),
    /// Not a URL.
    #[error("is not a host, host:port, or URL: {0}")]
    Url(#[from] url::ParseError),
    /// No host in it.
    #[error("names no host")]
    NoHost,
    /// An empty list.
    #[error("names no server")]
    NoServer,
    /// A long one.
    #[error("names more than {SERVERS} servers")]
    TooMany,
}

/// The servers of a client, which needs one: it dials them in this order until one is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// Tried first. Its port names the spool.
    pub first: ServerUrl,
    /// Tried when those before are not reached.
    pub others: Vec<ServerUrl>,
}

impl Servers {
    /// Each as [`ServerUrl::parse`] reads it.
    ///
    /// # Errors
    /// What is wrong with one of them, or how many there are.
    pub fn parse(written: &[impl AsRef<str>], port: Option<u16>) -> Result<Self, ServerUrlFault> {
        if written.len() > SERVERS {
            return Err(ServerUrlFault::TooMany);
        }
        let mut servers = written.iter().map(|server| ServerUrl::parse(server.as_ref(), port));
        let first = servers.next().ok_or(ServerUrlFault::NoServer)??;
        Ok(Self { first, others: servers.collect::<Result<_, _>>()? })
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = &ServerUrl> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut ServerUrl> {
        std::iter::once(&mut self.first).chain(&mut self.others)
    }
}

impl ServerUrl {
    /// Reads `proxy`. A port in it wins over `port`, the setting, which wins over the default: 3006, or 443 with `wss`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(proxy: &str, port: Option<u16>) -> Result<Self, ServerUrlFault> {
        let written = if proxy.contains("://") { proxy.to_owned() } else { format!("ws://{proxy}") };
        let url = Url::parse(&written)?;
        let tls = match url.scheme() {
            "ws" => false,
            "wss" => true,
            other => return Err(ServerUrlFault::Scheme(other.to_owned())),
        };
        let default = if tls { 443 } else { SEED_PORT };
        let port = explicit_port(&written).or(port).unwrap_or(default);
        let host = url.host().ok_or(ServerUrlFault::NoHost)?.to_owned();
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { tls, host, port, path, credentials: credentials(&url), via: None })
    }

    /// `host:port`, as the `Host` header and logs have it.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The URL to dial, without credentials.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

/// What stands before the `@`.
pub fn credentials(url: &Url) -> Option<Credentials> {
    (!url.username().is_empty() || url.password().is_some()).then(|| Credentials {
        name: percent_decoded(url.username()),
        token: percent_decoded(url.password().unwrap_or_default()),
    })
}

/// The port that was written, also if it is the scheme's own, which `Url` drops.
pub fn explicit_port(url: &str) -> Option<u16> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (before, port) = host.rsplit_once(':')?;
    let in_brackets = before.starts_with('[') && !before.ends_with(']');
    if in_brackets { None } else { port.parse().ok() }
}

fn percent_decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B").replace('&', "%26")).as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_proxy() {
        let table = [
            ("example.org", None, "ws://example.org:3006/"),
            ("example.org", Some(4000), "ws://example.org:4000/"),
            ("example.org:5000", Some(4000), "ws://example.org:5000/"),
            ("ws://example.org", None, "ws://example.org:3006/"),
            ("ws://example.org:80/", Some(3006), "ws://example.org:80/"),
            ("wss://example.org/a/b?c=d", None, "wss://example.org:443/a/b?c=d"),
            ("wss://example.org", Some(3006), "wss://example.org:3006/"),
            ("127.0.0.1", None, "ws://127.0.0.1:3006/"),
            ("[::1]", None, "ws://[::1]:3006/"),
            ("[::1]:81", None, "ws://[::1]:81/"),
            ("localhost:1", None, "ws://localhost:1/"),
        ];
        for (proxy, port, expected) in table {
            assert_eq!(ServerUrl::parse(proxy, port).expect(proxy).to_string(), expected, "{proxy}");
        }
        for proxy in ["", "http://example.org", "ws://", "a b", "host:port"] {
            assert!(ServerUrl::parse(proxy, None).is_err(), "{proxy}");
        }
    }

    #[test]
    fn credentials_are_read_and_never_shown() {
        let url = ServerUrl::parse("till-7:se%40cr+et@example.org:81/x", None).expect("a form of the contract");
        let credentials = url.credentials.clone().expect("given");
        assert_eq!((credentials.name.as_str(), credentials.token.as_str()), ("till-7", "se@cr+et"));
        assert_eq!(url.to_string(), "ws://example.org:81/x");
        assert!(!format!("{url:?}").contains("cr+et"));
    }
}
