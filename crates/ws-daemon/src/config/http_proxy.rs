//! The HTTP proxy on the way to a server: which one, by the setting and by the variables that curl goes by. It looks nothing up,
//! dials nobody, and never shows a password.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::server_url::{Credentials, ServerUrl, credentials, explicit_port};

/// In the place of a URL: no proxy, whatever the environment says.
const NONE: &str = "none";

/// A proxy that is asked by CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProxy {
    /// Whether the proxy itself is spoken to over TLS.
    pub tls: bool,
    /// A name or an address.
    pub host: Host<String>,
    /// The port.
    pub port: u16,
    /// What it is shown.
    pub credentials: Option<Credentials>,
    /// Where it was named.
    pub named_by: &'static str,
}

/// The proxy without its credentials.
impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }
}

/// What is wrong with the proxy that would be used. The text itself is not shown: it may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HttpProxyFault {
    /// Another kind of proxy.
    #[error(
        "{0} names a proxy by {1}://, which is not spoken here: name one by http:// or https://, list the server in NO_PROXY, or set \
         \"http_proxy\" to \"none\" in config.json"
    )]
    Scheme(&'static str, String),
    /// Not a URL.
    #[error("{0} is not the URL of a proxy, like http://proxy.example.org:3128: {1}")]
    Url(&'static str, url::ParseError),
}

impl HttpProxy {
    fn parse(text: &str, named_by: &'static str) -> Result<Self, HttpProxyFault> {
        let written = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let wrong = |error| HttpProxyFault::Url(named_by, error);
        let url = Url::parse(&written).map_err(wrong)?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(HttpProxyFault::Scheme(named_by, other.to_owned())),
        };
        let host = url.host().ok_or_else(|| wrong(url::ParseError::EmptyHost))?.to_owned();
        let port = explicit_port(&written).unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, credentials: credentials(&url), named_by })
    }
}

/// What the environment says of proxies.
#[derive(Debug, Clone, Default)]
pub struct ProxyVariables {
    /// For wss.
    https: Option<(&'static str, String)>,
    /// For ws.
    http: Option<(&'static str, String)>,
    /// For both.
    all: Option<(&'static str, String)>,
    /// For which servers none is used.
    none: String,
}

impl ProxyVariables {
    /// As curl has it: the lower case wins, an empty variable says nothing, and `HTTP_PROXY` is not looked at, since to a program that
    /// a web server starts it is a header of the visitor's.
    pub fn of(get: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| Some((*name, get(name).filter(|value| !value.trim().is_empty())?)))
        };
        Self {
            https: first(&["https_proxy", "HTTPS_PROXY"]),
            http: first(&["http_proxy"]),
            all: first(&["all_proxy", "ALL_PROXY"]),
            none: first(&["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default(),
        }
    }

    /// The proxy on the way to `server`; `set` is the setting, which wins. What is on this machine is never reached by one.
    ///
    /// # Errors
    /// The one to use is none.
    pub fn way(&self, server: &ServerUrl, set: Option<&str>) -> Result<Option<HttpProxy>, HttpProxyFault> {
        if is_here(&server.host) {
            return Ok(None);
        }
        let (name, text) = match set {
            Some(NONE) => return Ok(None),
            Some(text) => ("http_proxy", text),
            None => {
                let of_scheme = if server.tls { &self.https } else { &self.http };
                match of_scheme.as_ref().or(self.all.as_ref()) {
                    Some((name, text)) if !self.excepts(server) => (*name, text.as_str()),
                    _ => return Ok(None),
                }
            }
        };
        HttpProxy::parse(text.trim(), name).map(Some)
    }

    fn excepts(&self, server: &ServerUrl) -> bool {
        self.none.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| is_meant(entry, server))
    }
}

/// Whether an entry of `NO_PROXY` is about the server: `*`, a name with all that end in it, an address or a network; any but a network
/// with a port, too.
fn is_meant(entry: &str, server: &ServerUrl) -> bool {
    if entry == "*" {
        return true;
    }
    let address = match &server.host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(IpAddr::from(*address)),
        Host::Ipv6(address) => Some(IpAddr::from(*address)),
    };
    if let (Some(address), Ok(network)) = (address, entry.parse::<IpNet>()) {
        return network.contains(&address);
    }
    let (host, port) = match entry.rsplit_once(':') {
        // Other colons are those of an address.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (entry, None),
    };
    if port.is_some_and(|port| port.parse() != Ok(server.port)) {
        return false;
    }
    match &server.host {
        Host::Domain(name) => {
            let (name, entry) = (name.trim_end_matches('.').to_lowercase(), host.trim_matches('.').to_lowercase());
            !entry.is_empty() && name.strip_suffix(&entry).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        }
        _ => host.trim_matches(['[', ']']).parse().ok() == address,
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_lowercase().ends_with(".localhost")
        }
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.to_canonical().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(set: &[(&str, &str)]) -> ProxyVariables {
        ProxyVariables::of(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
    }

    fn way(set: &[(&str, &str)], server: &str, setting: Option<&str>) -> Result<String, HttpProxyFault> {
        let server = ServerUrl::parse(server, None).expect("a server");
        let way = variables(set).way(&server, setting)?;
        Ok(way.map_or_else(|| "none".into(), |proxy| format!("{proxy} by {}", proxy.named_by)))
    }

    #[test]
    fn each_variable_counts_as_with_curl_and_the_setting_before_all() {
        let (https, all, http) = (("HTTPS_PROXY", "http://s:1"), ("ALL_PROXY", "a:2"), ("http_proxy", "https://p"));
        let table: [(&[_], _, _, _); 14] = [
            (&[], "wss://h", None, "none"),
            (&[https, all, http], "wss://h", None, "http://s:1 by HTTPS_PROXY"),
            (&[https, all, http], "ws://h", None, "https://p:443 by http_proxy"),
            (&[all], "wss://h", None, "http://a:2 by ALL_PROXY"),
            (&[all], "h", None, "http://a:2 by ALL_PROXY"),
            (&[https, ("https_proxy", "http://[::1]")], "wss://h", None, "http://[::1]:80 by https_proxy"),
            (&[https, ("https_proxy", " ")], "wss://h", None, "http://s:1 by HTTPS_PROXY"),
            (&[("HTTP_PROXY", "http://p")], "ws://h", None, "none"),
            (&[https], "wss://h", Some("none"), "none"),
            (&[https, ("NO_PROXY", "*")], "wss://h", Some("http://o:9"), "http://o:9 by http_proxy"),
            (&[https], "wss://localhost", Some("http://o:9"), "none"),
            (&[https], "wss://a.localhost.", None, "none"),
            (&[https], "wss://127.9.9.9", None, "none"),
            (&[https], "wss://[::ffff:127.0.0.1]", None, "none"),
        ];
        for (set, server, setting, expected) in table {
            assert_eq!(way(set, server, setting).as_deref(), Ok(expected), "{set:?} {server} {setting:?}");
        }
    }

    #[test]
    fn no_proxy_takes_names_with_all_below_addresses_networks_and_ports() {
        let table = [
            ("*", "wss://h", true),
            ("example.org", "wss://example.org", true),
            ("example.org", "wss://hub.Example.ORG.", true),
            (".example.org", "wss://example.org", true),
            ("example.org.", "wss://hub.example.org", true),
            ("example.org", "wss://badexample.org", false),
            ("other, example.org", "wss://example.org", true),
            ("other example.org", "wss://example.org", true),
            (",", "wss://h", false),
            (".", "wss://h", false),
            ("h:443", "wss://h", true),
            ("h:444", "wss://h", false),
            ("h:x", "wss://h", false),
            ("192.0.2.7", "wss://192.0.2.7", true),
            ("192.0.2.7:443", "wss://192.0.2.7", true),
            ("192.0.2.7:1", "wss://192.0.2.7", false),
            ("192.0.2.0/24", "wss://192.0.2.7", true),
            ("192.0.2.0/24", "wss://192.0.3.7", false),
            ("2001:db8::/32", "wss://[2001:db8::1]", true),
            ("2001:db8::1", "wss://[2001:db8::1]", true),
            ("[2001:db8::1]:443", "wss://[2001:db8::1]", true),
            ("[2001:db8::1]:444", "wss://[2001:db8::1]", false),
        ];
        for (none, server, is_excepted) in table {
            let found = way(&[("HTTPS_PROXY", "p"), ("no_proxy", none)], server, None);
            assert_eq!(found.as_deref() == Ok("none"), is_excepted, "{none} {server}: {found:?}");
        }
    }

    #[test]
    fn a_proxy_that_is_none_is_named_by_its_place_only_where_it_would_be_used() {
        for (text, words) in
            [("socks5://u:secret@p", "by socks5://"), ("http://u:secret@", "ALL_PROXY is not the URL of a proxy")]
        {
            let said = way(&[("ALL_PROXY", text)], "wss://h", None).expect_err(text).to_string();
            assert!(said.contains(words) && !said.contains("secret"), "{said}");
            assert_eq!(way(&[("ALL_PROXY", text)], "wss://127.0.0.1", None).as_deref(), Ok("none"));
        }
        let proxy = HttpProxy::parse("http://u:se%63ret@p:3128", "http_proxy").expect("a proxy");
        assert_eq!(proxy.credentials.as_ref().map(|shown| &*shown.token), Some("secret"));
        assert!(!format!("{proxy} {proxy:?}").contains("secret"));
    }
}
