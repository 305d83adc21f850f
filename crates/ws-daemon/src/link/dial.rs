//! One attempt to reach the server: look up, connect, through a proxy if one stands on the way, encrypt, shake hands. The name is looked up anew each time, since the
//! address behind it may have changed since. It never tries twice.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use url::Host;
use ws_daemon_protocol::codec::v2;
use ws_daemon_protocol::codec::websocket::Role;

use super::mux::Dialect;
use super::stream::Stream;
use super::tunnel::{self, ProxyFault};
use super::upgrade::{NoLink, Refusal, upgrade};
use super::wire::Wire;
use crate::config::{HttpProxy, ServerUrl};
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
    Handshake(String),
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
    let mut stream = if server.tls { Stream::encrypted(tls.connect(&server.host, socket).await?) } else { socket };
    let upgraded = upgrade(&mut stream, server).await.map_err(|fault| no_link(server, tls, fault))?;
    let dialect = chosen(upgraded.version.as_deref())?;
    debug!(?dialect, "handshake done");
    Ok((Wire::new(stream, Role::Client, upgraded.behind, message), dialect))
}

/// What the server has chosen of what was offered. One that says nothing of it is a seed peer.
fn chosen(version: Option<&[u8]>) -> Result<Dialect, DialFault> {
    let Some(version) = version else { return Ok(Dialect::Seed) };
    if version == v2::VERSION.as_bytes() {
        return Ok(Dialect::Version2);
    }
    let shown = String::from_utf8_lossy(version).chars().filter(|char| !v2::moves(*char)).take(40).collect();
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

fn no_link(server: &ServerUrl, tls: &ClientTls, fault: NoLink) -> DialFault {
    match fault {
        NoLink::Refused(refusal) if server.tls && tls.lacks_certificate() => DialFault::RefusedWithoutKey(answer(&refusal)),
        NoLink::Refused(refusal) => DialFault::Refused(answer(&refusal)),
        NoLink::Lost(error) if server.tls => DialFault::Tls(tls.explain(&server.host, &error)),
        fault @ (NoLink::Lost(_) | NoLink::Page(_) | NoLink::Other(_)) => DialFault::Handshake(fault.to_string()),
    }
}

/// What the server said, short and on one line.
fn answer(refusal: &Refusal) -> String {
    const SHOWN_CHARS: usize = 300;
    let body = String::from_utf8_lossy(&refusal.body);
    let body: String = body.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARS).collect();
    let clean: String = body.chars().filter(|char| !v2::moves(*char)).collect();
    let words = match refusal.status.as_u16() {
        _ if !clean.is_empty() => &clean,
        // Its words come behind the head, and where a proxy has cut between them they are not here.
        401 => "it knows no peer of this name and token; join it with a new invitation",
        403 => "it lets in from here only who has a token; join it with an invitation",
        _ => "",
    };
    format!("{} {words}", refusal.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_names_no_version_is_a_seed_peer_and_one_that_was_not_offered_is_refused() {
        assert!(matches!(chosen(None), Ok(Dialect::Seed)));
        assert!(matches!(chosen(Some(b"2")), Ok(Dialect::Version2)));
        let Err(fault) = chosen(Some(b"3")) else { panic!("taken") };
        assert_eq!(
            fault.to_string(),
            "the server speaks version 3 of the link; this daemon speaks version 2, and that of the seed"
        );
    }
}
