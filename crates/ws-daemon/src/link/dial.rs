//! One attempt to reach the server: look up, connect, through a proxy if one stands on the way, encrypt, shake hands. The name is looked up anew each time, since the
//! address behind it may have changed since. It never tries twice.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, header};
use tracing::debug;
use url::Host;
use ws_daemon_protocol::codec::v2;

use super::mux::Dialect;
use super::stream::Stream;
use super::tunnel::{self, ProxyFault};
use super::wire::Wire;
use crate::config::{Credentials, HttpProxy, ServerUrl};
use crate::tls::{ClientFault, ClientTls};

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum DialFault {
    /// The name has no address.
    #[error("no address for {0}: {1}")]
    LookUp(String, io::Error),
    /// No address took the connection; the last one's reason.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// The proxy is no way there.
    #[error("no way through the proxy {0}, which {by} names: {1}", by = .0.named_by)]
    Proxy(Box<HttpProxy>, ProxyFault),
    /// TLS failed.
    #[error("no encrypted connection: {0}")]
    Tls(#[from] ClientFault),
    /// The server did not want a link, and has asked for a certificate.
    #[error("the server refused the link: {0}. {no_key}", no_key = ClientFault::NoClientKey)]
    RefusedWithoutKey(String),
    /// The server did not want a link.
    #[error("the server refused the link: {0}")]
    Refused(String),
    /// The server has chosen a version that was not offered.
    #[error("the server speaks version {0} of the link; this daemon speaks version {version}, and that of the seed", version = v2::VERSION)]
    Version(String),
    /// Something else answered.
    #[error("no WebSocket there: {0}")]
    Handshake(Box<Error>),
    /// The connection ended before an answer came.
    #[error("no answer: {0}")]
    NoAnswer(io::Error),
    /// It took too long.
    #[error("no link within {0:?}")]
    TooSlow(Duration),
}

/// Dials once, until `deadline`, which is `within` from now; `tls` is for a server that is dialled by wss. A frame may have
/// `message` bytes.
///
/// # Errors
/// Why there is no link.
pub async fn dial(
    server: &ServerUrl,
    tls: &ClientTls,
    deadline: Instant,
    within: Duration,
    message: usize,
) -> Result<(Wire, Dialect), DialFault> {
    timeout_at(deadline, try_dial(server, tls, within, message)).await.unwrap_or(Err(DialFault::TooSlow(within)))
}

async fn try_dial(server: &ServerUrl, tls: &ClientTls, within: Duration, message: usize) -> Result<(Wire, Dialect), DialFault> {
    let socket = connect(server, within).await?;
    let stream = if server.tls { Stream::encrypted(tls.connect(&server.host, socket).await?) } else { socket };
    let request = request(server)?;
    let config = Some(Wire::config(message));
    let shaken = client_async_with_config(request, stream, config).await;
    let (socket, response) = shaken.map_err(|error| handshake_fault(server, tls, error))?;
    let dialect = chosen(&response)?;
    debug!(status = response.status().as_u16(), ?dialect, "handshake done");
    Ok((Wire::new(socket), dialect))
}

/// What the server has chosen of what was offered. One that says nothing of it is a seed peer.
fn chosen<B>(response: &Response<B>) -> Result<Dialect, DialFault> {
    let Some(version) = response.headers().get(v2::HEADER) else { return Ok(Dialect::Seed) };
    if version.as_bytes().trim_ascii() == v2::VERSION.as_bytes() {
        return Ok(Dialect::Version2);
    }
    let shown = String::from_utf8_lossy(version.as_bytes()).chars().filter(|char| !v2::moves(*char)).take(40).collect();
    Err(DialFault::Version(shown))
}

/// A connection to the server, or to what stands there for the proxy on the way.
pub(super) async fn connect(server: &ServerUrl, within: Duration) -> Result<Stream, DialFault> {
    let Some(proxy) = &server.via else { return reach(&server.host, server.port, within).await.map(Stream::from) };
    through(proxy, server, within).await.map_err(|fault| DialFault::Proxy(Box::new(proxy.clone()), fault))
}

/// The proxy looks the server up: its name need not be known here.
async fn through(proxy: &HttpProxy, server: &ServerUrl, within: Duration) -> Result<Stream, ProxyFault> {
    let socket = reach(&proxy.host, proxy.port, within).await.map_err(|fault| ProxyFault::Unreached(fault.to_string()))?;
    let stream = if proxy.tls {
        // It is believed by the roots of the system: those that were pinned are the server's.
        Stream::boxed(ClientTls::of_the_system().connect(&proxy.host, socket).await.map_err(ProxyFault::Tls)?)
    } else {
        Stream::from(socket)
    };
    tunnel::connect(stream, proxy, server).await
}

/// Each address in turn, each with its share of the time, so that one that swallows packets does not hide the next.
async fn reach(host: &Host, port: u16, within: Duration) -> Result<TcpStream, DialFault> {
    let name = match host {
        Host::Domain(name) => name.clone(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let no_address = |error| DialFault::LookUp(name.clone(), error);
    let addresses: Vec<SocketAddr> = lookup_host((name.as_str(), port)).await.map_err(no_address)?.collect();
    let share = within / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut fault = no_address(io::ErrorKind::NotFound.into());
    for address in addresses {
        let attempt = tokio::time::timeout(share, TcpStream::connect(address)).await;
        match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(socket) => {
                // Frames are small and waited for; a socket that does not know the option still works.
                drop(socket.set_nodelay(true));
                return Ok(socket);
            }
            Err(error) => fault = DialFault::Connect(address, error),
        }
    }
    Err(fault)
}

type Request = tokio_tungstenite::tungstenite::handshake::client::Request;

/// The handshake of the seed, no subprotocol, no `Origin`, and the versions of the link beyond it. A token goes in a header (RFC 7617), never in the URL.
fn request(server: &ServerUrl) -> Result<Request, DialFault> {
    let fault = |error| DialFault::Handshake(Box::new(error));
    let mut request = server.to_string().into_client_request().map_err(fault)?;
    request.headers_mut().insert(v2::HEADER, HeaderValue::from_static(v2::VERSION));
    if let Some(Credentials { name, token }) = &server.credentials {
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{token}")));
        let mut value = HeaderValue::try_from(basic).map_err(|error| fault(Error::HttpFormat(error.into())))?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

fn handshake_fault(server: &ServerUrl, tls: &ClientTls, error: Error) -> DialFault {
    match error {
        Error::Http(response) if server.tls && tls.lacks_certificate() => DialFault::RefusedWithoutKey(answer(&response)),
        Error::Http(response) => DialFault::Refused(answer(&response)),
        Error::Io(error) if server.tls => DialFault::Tls(tls.explain(&server.host, &error)),
        error => DialFault::Handshake(Box::new(error)),
    }
}

/// What the server said, short and on one line.
fn answer(response: &Response<Option<Vec<u8>>>) -> String {
    const SHOWN_CHARS: usize = 300;
    let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let body: String = body.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARS).collect();
    let clean: String = body.chars().filter(|char| !v2::moves(*char)).collect();
    let words = match response.status().as_u16() {
        _ if !clean.is_empty() => &clean,
        // Its words come behind the head, and where a proxy has cut between them they are not here.
        401 => "it knows no peer of this name and token; join it with a new invitation",
        403 => "it lets in from here only who has a token; join it with an invitation",
        _ => "",
    };
    format!("{} {words}", response.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_the_seeds_and_hides_the_token() {
        let server = ServerUrl::parse("till:pass@example.org:81/a?b=c", None).expect("a form of the contract");
        let request = request(&server).expect("a request");
        assert_eq!(request.uri().to_string(), "ws://example.org:81/a?b=c");
        let headers = request.headers();
        for absent in ["Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"] {
            assert!(!headers.contains_key(absent), "{absent}");
        }
        assert_eq!(headers["ws-daemon"], "2");
        assert_eq!(headers["authorization"], "Basic dGlsbDpwYXNz");
        assert!(!format!("{headers:?}").contains("dGls"));
    }

    #[test]
    fn a_server_that_names_no_version_is_a_seed_peer_and_one_that_was_not_offered_is_refused() {
        let answer = |version: Option<&str>| {
            let response = Response::builder().status(101);
            let response = version.into_iter().fold(response, |response, version| response.header("Ws-Daemon", version));
            chosen(&response.body(()).expect("a response"))
        };
        assert!(matches!(answer(None), Ok(Dialect::Seed)));
        assert!(matches!(answer(Some(" 2")), Ok(Dialect::Version2)));
        let Err(fault) = answer(Some("3")) else { panic!("taken") };
        assert_eq!(
            fault.to_string(),
            "the server speaks version 3 of the link; this daemon speaks version 2, and that of the seed"
        );
    }
}
