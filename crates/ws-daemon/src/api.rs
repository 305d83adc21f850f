//! What is asked over HTTP and is no link: on a server's port, on an address of its own, and on the socket file. One table says
//! which pages there are; what they ask for goes the way of every other request. It never opens a link and accepts nobody.

mod answers;
mod pages;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use answers::Body;
use answers::{Problem, json as as_json};
use pages::{Found, Page};

use crate::policy::Caller;
use crate::tasks::Stop;

/// What the head of a request may have, in bytes; a longer one is answered 431. The least that hyper can be told.
pub const HEAD_BYTES: usize = 8 * 1024;

/// Header lines of a request; more are answered 431.
pub const HEADERS: usize = 64;

/// How long a connection may be without a request; then it is closed.
pub const IDLE: Duration = Duration::from_secs(30);

/// What is asked over HTTP. Clones are the same.
#[derive(Debug, Clone)]
pub struct Api {
    stop: Stop,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub enum Visitor {
    /// A process that could open the socket file.
    Process(Caller),
    /// Whoever reached a port from this address.
    Address(SocketAddr),
}

/// What became known of a connection with an answer on it.
#[derive(Debug, Default)]
pub struct Visit {
    /// Cancelled when whoever is at the other end has shown who it is: from then on the connection may stay.
    pub proven: CancellationToken,
    /// Whether something was asked that was in order, and nothing that was not.
    good: AtomicBool,
}

impl Visit {
    /// Whether what was asked on it was in order: then its address has done nothing that counts against it.
    #[must_use]
    pub fn was_good(&self) -> bool {
        self.good.load(Ordering::Relaxed)
    }
}

impl Api {
    /// The pages of a daemon.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self { stop }
    }

    /// Whether a path is one that is answered here.
    #[must_use]
    pub fn has(path: &str) -> bool {
        pages::are_at(path)
    }

    /// Whether what is at a path is for everyone who may have a link, without a token.
    #[must_use]
    pub fn is_open(path: &str) -> bool {
        pages::are_open(path)
    }

    /// Answers the requests of one connection, one after the other, until it is closed or the daemon stops.
    pub async fn serve<S>(&self, stream: S, visitor: Visitor)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let visit = Visit::default();
        let (visitor, visit) = (&visitor, &visit);
        let service =
            service_fn(
                |request: Request<Incoming>| async move { Ok::<_, Infallible>(self.answer(request, visitor, visit).await) },
            );
        let connection = hyper::server::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.drain.cancelled() => {
                // What was asked is still answered.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended in the middle");
        }
    }

    /// The answer to one request for a page.
    pub async fn answer<B>(&self, request: Request<B>, _: &Visitor, visit: &Visit) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answer = self.page(&request).await;
        visit.good.store(answer.status().is_success(), Ordering::Relaxed);
        answer
    }

    async fn page<B>(&self, request: &Request<B>) -> Response<Body> {
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        match pages::find(method, request.uri().path()) {
            Found::Page(Page::Healthz, _) => self.healthz(),
            Found::OtherMethods(allowed) => Problem::method(&allowed).response(),
            Found::Nothing => Problem::new(StatusCode::NOT_FOUND, "no_such_page", "there is no such page").response(),
        }
    }

    /// The process answers; nothing more is known by that.
    fn healthz(&self) -> Response<Body> {
        as_json(StatusCode::OK, &json!({ "status": "ok" }))
    }
}
