//! `POST /join`: an invitation's secret is traded for a place in the register. It never sees the token, only its digest, and tells
//! who does not know the secret nothing.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::header;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use super::credential::refused;
use super::handshake::words;
use crate::counters::Count;
use crate::peers::Peers;
use crate::policy::Refusal;
use crate::register::{RegisterFault, Trade, TradeFault, Traded};
use crate::secret::{Digest, Secret};

/// The end of the path that is traded at: before it stands what the server's URL has, as that of a link may.
const PATH: &str = "/join";

/// The body of a trade; a longer one is answered 413.
const BODY_BYTES: usize = 16 << 10;

/// What a trade says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: Box<str>,
    secret: String,
    #[serde(default)]
    instance: Option<Box<str>>,
    token_sha256: Digest,
}

/// What it is answered.
#[derive(Serialize)]
struct Given<'a> {
    name: &'a str,
    tags: &'a [Box<str>],
    /// The certificates of the roots that the server's own is under, as PEM.
    roots: &'a str,
}

/// Whether a request is a trade.
pub fn is_asked<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && request.uri().path().ends_with(PATH)
}

/// The answer to a trade. `roots` is what the peer is to trust from then on.
pub async fn answer<B>(
    request: Request<B>,
    address: SocketAddr,
    peers: &Peers,
    roots: &str,
    since: Instant,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if request.headers().contains_key(header::ORIGIN) {
        return words(StatusCode::FORBIDDEN, &Refusal::Origin.to_string());
    }
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES).collect().await else {
        return words(StatusCode::PAYLOAD_TOO_LARGE, "what is sent to /join has at most 16 KiB");
    };
    let Ok(Wanted { name, secret, instance, token_sha256: token }) = serde_json::from_slice(&body.to_bytes()) else {
        let wanted = "what is sent to /join is {\"name\":…,\"secret\":…,\"instance\":…,\"token_sha256\":…}";
        return words(StatusCode::BAD_REQUEST, wanted);
    };
    let trade = Trade { name, secret: Secret::from(&*secret).digest(), instance, token };
    match peers.register().trade(trade.clone()).await {
        Ok(Traded { name, tags }) => {
            info!(%address, peer = %name, "an invitation was traded");
            // Whoever came by an older token comes back by this one.
            peers.expel(&name);
            peers.forget_gone();
            let given = serde_json::to_string(&Given { name: &name, tags: &tags, roots }).unwrap_or_default();
            let mut response = words(StatusCode::OK, &given);
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            response
        }
        Err(TradeFault::Unknown) => {
            peers.counters().count(Count::Unauthorized);
            refused(address, &trade.name, "no invitation has the secret that it knows", since).await;
            super::handshake::unauthorized()
        }
        // Who knows the secret was invited, and is told what is wrong.
        Err(fault) => {
            let status = match fault {
                TradeFault::Expired(_) | TradeFault::Used(_) => StatusCode::GONE,
                TradeFault::Register(RegisterFault::Disk(_) | RegisterFault::NoRegister) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CONFLICT,
            };
            warn!(%address, name = ?trade.name, %fault, "an invitation was not traded");
            words(status, &fault.to_string())
        }
    }
}
