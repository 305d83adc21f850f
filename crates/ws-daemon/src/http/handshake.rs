//! What is asked on a fresh connection: a WebSocket handshake (RFC 6455, section 4.2) that becomes a link, pages, or what gets an
//! answer in words. For a link every path is good, no subprotocol is selected and no extension accepted, as the seed's peers know it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::geteuid;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{debug, info};
use ws_daemon_protocol::codec::v2;

use super::Door;
use super::credential::Shown;
use super::join;
use crate::api::{self, Api, HEAD_BYTES, HEADERS, IDLE, OfThisMachine, Visit, Visitor};
use crate::audit::Entry;
use crate::config::Open;
use crate::counters::Count;
use crate::link::{Dialect, Stream};
use crate::peers::Peers;
use crate::policy::{self, Credential, FORWARDED_HEADERS, FORWARDED_PREFIX, Refusal};
use crate::standing::Standing;
use crate::system;
use crate::tasks::Stop;
use crate::tls::ServerTls;

/// A connection that became a link.
#[derive(Debug)]
pub struct Upgraded {
    /// Its stream.
    pub stream: Stream,
    /// What was read behind the handshake.
    pub behind: Vec<u8>,
    /// What is spoken on it.
    pub dialect: Dialect,
    /// What the other end has proved.
    pub standing: Standing,
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Entrance {
    /// This daemon's.
    pub own: SocketAddr,
    /// The other one.
    pub address: SocketAddr,
    /// Whether it may become a link.
    pub links: bool,
}

/// Reads what is asked by a visitor whose certificate proves that it is who `standing` says, and answers it: pages as long as it asks
/// for them, or one handshake; `None` if it did not become a link. The deadline is the caller's.
pub async fn handshake(
    stream: Stream,
    entrance: Entrance,
    standing: &Standing,
    door: &Door,
    peers: &Peers,
    visit: &Visit,
    stop: &Stop,
) -> Option<Upgraded> {
    let (address, counters) = (entrance.address, peers.counters());
    let is_encrypted = stream.is_encrypted();
    let needs_tls = !is_encrypted && !door.takes_plain() && !address.ip().is_loopback();
    let upgrade: Mutex<Option<(OnUpgrade, Dialect, Standing)>> = Mutex::new(None);
    let (slot, visitor) = (&upgrade, &Visitor::Address(address));
    let service = service_fn(|mut request: Request<Incoming>| async move {
        let since = Instant::now();
        let wants_link = has_token(request.headers(), header::UPGRADE, "websocket");
        if let Some(api) = door.api.as_ref().filter(|_| !wants_link && Api::has(request.uri().path())) {
            if needs_tls {
                return Ok(wants_tls().map(boxed));
            }
            if Api::is_open(request.uri().path())
                && let Err(refusal) = admit(request.headers(), entrance, Credential::None, &door.open.now()).await
            {
                counters.count(Count::Forbidden);
                return Ok(words(StatusCode::FORBIDDEN, &refusal.to_string()).map(boxed));
            }
            if Api::is_metrics(request.uri().path())
                && !request.headers().contains_key(header::AUTHORIZATION)
                && admit(request.headers(), entrance, Credential::None, &Open::Nobody).await.is_ok()
            {
                request.extensions_mut().insert(OfThisMachine);
            }
            return Ok(api.answer(request, visitor, visit).await);
        }
        if !entrance.links {
            counters.count(Count::BadHandshake);
            return Ok(words(StatusCode::NOT_FOUND, "there are no links here, and no such page").map(boxed));
        }
        if join::is_asked(&request) && !needs_tls {
            // Whom to trust is told only where nobody on the way can have changed it.
            let roots = door.tls.as_ref().filter(|_| is_encrypted).map(ServerTls::roots_to_pin).unwrap_or_default();
            return Ok(join::answer(request, address, peers, &door.audit, &roots, since).await.map(boxed));
        }
        let shown = Shown::of(request.headers(), standing, peers.register());
        let verdict = admit(request.headers(), entrance, shown.credential, &door.open.now()).await;
        if let Err(refusal) = &verdict {
            let entry = || Entry::new("link").with("address", address.to_string()).with("allowed", false);
            door.audit.record(|| shown.claim(entry()).with("why", refusal.to_string())).await;
        }
        let answer = match verdict {
            _ if needs_tls => Err(Box::new(wants_tls())),
            // What is left of its time is not known any more.
            _ if visit.proven.is_cancelled() => {
                Err(Box::new(words(StatusCode::BAD_REQUEST, "a link has a connection of its own")))
            }
            verdict => answer(&request, verdict),
        };
        let response = match answer {
            Ok((switch, dialect)) => {
                if let Ok(mut upgrade) = slot.lock() {
                    *upgrade = Some((hyper::upgrade::on(&mut request), dialect, shown.standing));
                }
                switch
            }
            Err(refusal) if refusal.status() == StatusCode::UNAUTHORIZED => {
                counters.count(Count::Unauthorized);
                shown.refused(address, since).await;
                *refusal
            }
            Err(refusal) => {
                counters.count(match refusal.status() {
                    StatusCode::FORBIDDEN => Count::Forbidden,
                    _ => Count::BadHandshake,
                });
                info!(%address, status = refusal.status().as_u16(), "no link for this connection");
                *refusal
            }
        };
        Ok::<_, Infallible>(response.map(boxed))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = no_more(visit, stop) => {
            // What was asked is still answered.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Too long a head, and what is no HTTP, is answered by hyper.
        counters.count(Count::BadHandshake);
        debug!(%address, %error, "a connection ended without a link");
    }
    let (upgrade, dialect, standing) = slot.lock().ok()?.take()?;
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Stream>>().ok()?;
    Some(Upgraded { stream: parts.io.into_inner(), behind: parts.read_buf.to_vec(), dialect, standing })
}

/// Ends when pages are asked for no more; who wants a link may still get one until all is drained.
async fn no_more(visit: &Visit, stop: &Stop) {
    let pages = async {
        visit.proven.cancelled().await;
        stop.no_more().await;
    };
    tokio::select! {
        () = pages => {}
        () = stop.drain.cancelled() => {}
    }
}

fn boxed(body: Full<Bytes>) -> api::Body {
    body.boxed_unsync()
}

/// Whether whoever is at `address` and sends these headers may enter. Whose process that is is looked up only where it decides.
async fn admit(headers: &HeaderMap, entrance: Entrance, credential: Credential, open: &Open) -> Result<(), Refusal> {
    let Entrance { own, address, .. } = entrance;
    let visitor = policy::Visitor {
        address: address.ip(),
        has_origin: headers.contains_key(header::ORIGIN),
        was_forwarded: headers
            .keys()
            .any(|name| FORWARDED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with(FORWARDED_PREFIX)),
        is_ours: false,
        credential,
    };
    match policy::admit(visitor, open) {
        Err(Refusal::OtherUser) => policy::admit(policy::Visitor { is_ours: is_ours(own, address).await, ..visitor }, open),
        verdict => verdict,
    }
}

/// Whether the other end of a connection within this machine belongs to root or to the daemon's user. One that is nobody's any
/// more is not ours: another user may have sent what it had to say and closed.
async fn is_ours(own: SocketAddr, address: SocketAddr) -> bool {
    match system::far_user(own, address).await {
        Ok(Some(user)) => user == 0 || user == geteuid().as_raw(),
        // Where no system tells, refusing would leave a server without any links of its own machine.
        Ok(None) => true,
        Err(error) => {
            info!(%address, %error, "it is not known whose this connection is");
            false
        }
    }
}

type Answer = Response<Full<Bytes>>;

/// The answer to a request: 101 and what is spoken then, or the refusal.
fn answer<B>(request: &Request<B>, verdict: Result<(), Refusal>) -> Result<(Answer, Dialect), Box<Answer>> {
    let headers = request.headers();
    let refuse = |status, body: &str| Err(Box::new(words(status, body)));
    if !has_token(headers, header::UPGRADE, "websocket") {
        let body = "this port of ws-daemon takes WebSocket links; point a client's \"proxy\" here";
        return Err(Box::new(with(words(StatusCode::UPGRADE_REQUIRED, body), header::UPGRADE, "websocket")));
    }
    if verdict == Err(Refusal::Credential) {
        return Err(Box::new(unauthorized()));
    }
    if let Err(refusal) = verdict {
        return refuse(StatusCode::FORBIDDEN, &refusal.to_string());
    }
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return refuse(StatusCode::BAD_REQUEST, "a WebSocket handshake is a GET of HTTP/1.1");
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return refuse(StatusCode::BAD_REQUEST, "a WebSocket handshake has the header Connection: Upgrade");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let refusal = words(StatusCode::UPGRADE_REQUIRED, "this port speaks version 13 of the WebSocket protocol");
        return Err(Box::new(with(refusal, header::SEC_WEBSOCKET_VERSION, "13")));
    }
    // Sixteen bytes in base 64.
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
        return refuse(StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Key is missing or is not 16 bytes in base 64");
    };
    let dialect = match dialect(headers) {
        Ok(dialect) => dialect,
        Err(offered) => {
            let version = v2::VERSION;
            return refuse(
                StatusCode::BAD_REQUEST,
                &format!(
                    "this server speaks version {version} of the link, and that of the seed without the header Ws-Daemon; offered was {offered:?}"
                ),
            );
        }
    };
    let accept = derive_accept_key(key.as_bytes());
    let response = with(words(StatusCode::SWITCHING_PROTOCOLS, ""), header::UPGRADE, "websocket");
    let mut response = with(response, header::CONNECTION, "Upgrade");
    response.headers_mut().remove(header::CONTENT_TYPE);
    if let Ok(accept) = HeaderValue::try_from(accept) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if dialect == Dialect::Version2 {
        response = with(response, HeaderName::from_static(v2::HEADER), v2::VERSION);
    }
    Ok((response, dialect))
}

/// The answer to a request without TLS where it is asked for.
fn wants_tls() -> Answer {
    let body = "this server takes links from other machines over TLS only: dial it by wss://";
    with(words(StatusCode::UPGRADE_REQUIRED, body), header::UPGRADE, "TLS/1.2, HTTP/1.1")
}

/// What is spoken on the link: of the versions that a peer offers, one that is known here; with a peer that offers none, the
/// seed's.
///
/// # Errors
/// What was offered, if none of it is known here.
fn dialect(headers: &HeaderMap) -> Result<Dialect, String> {
    const SHOWN_CHARS: usize = 80;
    let offers = headers.get_all(v2::HEADER).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let offered = offers.collect::<Vec<_>>().join(",");
    match v2::choose(&offered) {
        Some(_) => Ok(Dialect::Version2),
        None if headers.contains_key(v2::HEADER) => Err(offered.chars().take(SHOWN_CHARS).collect()),
        None => Ok(Dialect::Seed),
    }
}

/// The one answer to whoever shows a secret that nobody has.
pub fn unauthorized() -> Answer {
    let refusal = words(StatusCode::UNAUTHORIZED, &Refusal::Credential.to_string());
    with(refusal, header::WWW_AUTHENTICATE, "Basic realm=\"ws-daemon\"")
}

/// An answer that is no link.
pub fn words(status: StatusCode, body: &str) -> Answer {
    let newline = if body.is_empty() { "" } else { "\n" };
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}{newline}"))));
    *response.status_mut() = status;
    // A connection gets one try: what is no link is closed.
    let response = with(response, header::CONNECTION, "close");
    with(response, header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with(mut response: Answer, name: HeaderName, value: &'static str) -> Answer {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// Whether a comma-separated header has `token`, in any letter case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut tokens = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn status(headers: &[(&str, &str)]) -> u16 {
        let complete = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut request = Request::builder().uri("/any/path");
        for (name, value) in complete.iter().filter(|(name, _)| headers.iter().all(|(other, _)| other != name)).chain(headers) {
            request = if value.is_empty() { request } else { request.header(*name, *value) };
        }
        let request = request.body(()).expect("a request");
        // There is no connection whose owner could be looked up, so the address is listed.
        let open = Open::Networks(vec!["127.0.0.1/32".parse().expect("a network")]);
        let end = SocketAddr::from(([127, 0, 0, 1], 1));
        match answer(
            &request,
            admit(request.headers(), Entrance { own: end, address: end, links: true }, Credential::None, &open).await,
        ) {
            Ok((response, dialect)) => {
                let version = response.headers().get("ws-daemon").map(HeaderValue::as_bytes);
                assert_eq!(version, (dialect == Dialect::Version2).then_some(b"2".as_slice()));
                assert_eq!(dialect == Dialect::Version2, request.headers().contains_key("ws-daemon"));
                // The sample of RFC 6455, section 1.3.
                assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                assert!(!response.headers().contains_key("sec-websocket-protocol"));
                assert!(!response.headers().contains_key("sec-websocket-extensions"));
                response.status().as_u16()
            }
            Err(refusal) => refusal.status().as_u16(),
        }
    }

    #[tokio::test]
    async fn handshakes_and_what_is_none() {
        let table: [(&[(&str, &str)], u16); 16] = [
            (&[], 101),
            (&[("sec-websocket-protocol", "any"), ("sec-websocket-extensions", "permessage-deflate")], 101),
            (&[("authorization", "Basic eDp5")], 101),
            (&[("upgrade", "")], 426),
            (&[("connection", "close")], 400),
            (&[("sec-websocket-version", "8")], 426),
            (&[("sec-websocket-key", "")], 400),
            (&[("sec-websocket-key", "short")], 400),
            (&[("ws-daemon", "2")], 101),
            (&[("ws-daemon", "3, 2")], 101),
            (&[("ws-daemon", "3"), ("ws-daemon", "2")], 101),
            (&[("ws-daemon", "3, 22")], 400),
            (&[("ws-daemon", ",")], 400),
            (&[("origin", "https://example.org")], 403),
            (&[("x-forwarded-for", "192.0.2.1")], 403),
            (&[("via", "1.1 proxy")], 403),
        ];
        for (headers, expected) in table {
            assert_eq!(status(headers).await, expected, "{headers:?}");
        }
    }
}
