//! Who asks: by which name this daemon was called, from which page, and by which token. What is wrong with a token is told to nobody:
//! one answer, after one delay, whatever it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use super::answers::Problem;
use crate::callers::Callers;
use crate::config::{InUse, Settings};
use crate::policy::Program;
use crate::tls::ServerTls;

/// From a request to the answer that its secret is wrong. A guess takes at least so long; and what the comparison took is not to be
/// seen.
pub const DELAY: Duration = Duration::from_millis(250);

/// The names that this daemon goes by over HTTP. A page that has a name of its own pointed here calls it by that one.
#[derive(Debug)]
pub struct Hosts {
    names: InUse<Vec<String>>,
    tls: Option<ServerTls>,
}

impl Hosts {
    /// Those of the settings, `localhost`, this machine's own, and those of the certificate; addresses are nobody's names.
    #[must_use]
    pub fn new(settings: &Settings, tls: Option<ServerTls>) -> Self {
        Self { names: InUse::new(names(&settings.hosts, &settings.tls.names)), tls }
    }

    /// From here on those of these settings.
    pub fn take_up(&self, settings: &Settings) {
        self.names.replace(names(&settings.hosts, &settings.tls.names));
    }

    fn has(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        address.parse::<IpAddr>().is_ok()
            || self.names.now().iter().any(|name| name.eq_ignore_ascii_case(host))
            || self.tls.as_ref().is_some_and(|tls| tls.is_named(host))
    }

    /// Whether it is this daemon that is asked, by somebody who could know it, and not by a page of another.
    pub fn check(&self, head: &Parts) -> Result<(), Problem> {
        let bad = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "bad_message", detail);
        let mut hosts = head.headers.get_all(header::HOST).iter();
        let written = match (head.uri.authority(), hosts.next(), hosts.next()) {
            (Some(authority), _, None) => authority.to_string(),
            (None, Some(host), None) => host.to_str().unwrap_or_default().to_owned(),
            _ => return Err(bad("a request has one Host")),
        };
        let authority: Authority = written.parse().map_err(|_| bad("the Host is none"))?;
        if !self.has(authority.host()) {
            let detail = "this daemon does not go by that name; if it does, list it under \"hosts\" in its config.json";
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", detail));
        }
        no_foreign_page(&head.headers, authority.as_str())
    }
}

fn names(hosts: &[String], of_tls: &[String]) -> Vec<String> {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    hosts.iter().chain(of_tls).cloned().chain(["localhost".to_owned(), own]).collect()
}

/// That it is no page of another host that asks.
pub fn no_foreign_page(headers: &HeaderMap, own: &str) -> Result<(), Problem> {
    let is_own = |origin: &header::HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(own))
    };
    if headers.get_all(header::ORIGIN).iter().all(is_own) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", "a web page of another host may ask for nothing here"))
}

/// The caller whose token stands in the headers.
pub fn by_token(headers: &HeaderMap, callers: &Callers) -> Option<Arc<Program>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| callers.by_token(token.trim()))?
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn check(hosts: &Hosts, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        hosts.check(&head).map_or_else(|problem| problem.response().status().as_u16(), |()| 200)
    }

    #[test]
    fn a_daemon_answers_to_its_own_names_and_to_pages_of_its_own() {
        let hosts = Hosts { names: InUse::new(names(&["api.example.org".into()], &[])), tls: None };
        for host in
            ["localhost", "LocalHost:9100", "127.0.0.1", "[::1]:5", "192.0.2.7:80", "API.example.org.", "api.example.org:1"]
        {
            assert_eq!(check(&hosts, "/", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example.org", "localhost.evil.org", "example.org:80"] {
            assert_eq!(check(&hosts, "/", &[("host", host)]), 421, "{host}");
        }
        for host in ["", "a b", "user@"] {
            assert_eq!(check(&hosts, "/", &[("host", host)]), 400, "{host:?}");
        }
        assert_eq!(check(&hosts, "/", &[]), 400);
        assert_eq!(check(&hosts, "/", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(check(&hosts, "http://evil.org/", &[("host", "localhost")]), 421, "what is asked for counts");
        let own = |origin| check(&hosts, "/", &[("host", "localhost:9100"), ("origin", origin)]);
        assert_eq!((own("http://localhost:9100"), own("https://LOCALHOST:9100")), (200, 200));
        for origin in ["http://localhost", "https://evil.org", "null", "", "http://localhost:9100.evil.org"] {
            assert_eq!(own(origin), 403, "{origin}");
        }
    }
}
