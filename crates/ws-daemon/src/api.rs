//! What is asked over HTTP and is no link: on a server's port, on an address of its own, and on the socket file. One table says
//! which pages there are; what they ask for goes the way of every other request. It never opens a link and accepts nobody.

mod answers;
mod health;
mod hooks;
mod pages;
mod request;
mod run;
mod streams;
mod who;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use ws_daemon_protocol::command::{Command, Place, RunQuery, StreamName, Which};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::{Outcome, Report};

pub use answers::Body;
pub use health::OfThisMachine;

use answers::{Problem, json as as_json, of_outcome, raw, whole};
use pages::{Found, Page};
use request::Bounds;
use streams::Lines;
pub use who::{DELAY, Hosts};

use crate::audit::{Audit, Entry};
use crate::callers::Callers;
use crate::config::{InUse, Limits, Settings, Times};
use crate::control::{Answer, Asker, Control};
use crate::counters::{Count, Counters};
use crate::metrics::CONTENT_TYPE;
use crate::origin::Origin;
use crate::policy::Caller;
use crate::tasks::Stop;

/// What the head of a request may have, in bytes; a longer one is answered 431. The least that hyper can be told.
pub const HEAD_BYTES: usize = 8 * 1024;

/// Header lines of a request; more are answered 431.
pub const HEADERS: usize = 64;

/// What is here, for programs; `tests/openapi.rs` writes it.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// How long a connection may be without a request; then it is closed.
pub const IDLE: Duration = Duration::from_secs(30);

/// What is asked over HTTP. Clones are the same.
#[derive(Debug, Clone)]
pub struct Api(Arc<Means>);

/// What pages work with.
#[derive(Debug)]
struct Means {
    parts: Parts,
    terms: InUse<Terms>,
    stop: Stop,
}

/// Within what pages are asked and answered.
#[derive(Debug)]
struct Terms {
    bounds: Bounds,
    /// How long a body may take.
    body: Duration,
    /// How long a stream of lines may be silent.
    silence: Duration,
}

impl Terms {
    fn new(limits: &Limits, times: &Times) -> Self {
        let bounds = Bounds { message: limits.message, nesting: limits.nesting };
        Self { bounds, body: times.handshake, silence: times.ping }
    }
}

/// What pages are made of.
#[derive(Debug)]
pub struct Parts {
    /// Where commands go.
    pub control: Control,
    /// Where requests go.
    pub origin: Origin,
    /// Who may ask by a token.
    pub callers: Callers,
    /// By which names this daemon is asked.
    pub hosts: Hosts,
    /// Where it is written down who was refused.
    pub audit: Audit,
    /// Where that is counted.
    pub counters: Counters,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub enum Visitor {
    /// A process that could open the socket file.
    Process(Asker),
    /// Whoever reached a port from this address.
    Address(SocketAddr),
}

/// What became known of a connection by the answers on it.
#[derive(Debug, Default)]
pub struct Visit {
    /// Cancelled when whoever is at the other end has shown who it is: from then on the connection may stay.
    pub proven: CancellationToken,
    /// Whether what was asked last was in order.
    good: AtomicBool,
}

impl Visit {
    /// Whether what was asked on it was in order: then its address has done nothing that counts against it.
    #[must_use]
    pub fn was_good(&self) -> bool {
        self.good.load(Ordering::Relaxed)
    }
}

/// A request that may be answered: who asks, and what stands in it.
struct Asked<'a> {
    asker: &'a Asker,
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    body: Bytes,
}

impl Api {
    /// The pages of a daemon.
    #[must_use]
    pub fn new(parts: Parts, limits: &Limits, times: &Times, stop: Stop) -> Self {
        Self(Arc::new(Means { parts, terms: InUse::new(Terms::new(limits, times)), stop }))
    }

    /// From here on these are the terms, and it is asked by these names; what was asked before goes on as it was begun.
    pub fn take_up(&self, settings: &Settings) {
        self.0.terms.replace(Terms::new(&settings.limits, &settings.times));
        self.0.parts.hosts.take_up(settings);
    }

    fn bounds(&self) -> Bounds {
        self.0.terms.now().bounds
    }

    fn silence(&self) -> Duration {
        self.0.terms.now().silence
    }

    /// Every page: its method, and its path, in which a word in braces stands for one part, or `{name}` for all that is left.
    pub fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
        pages::PAGES.iter().map(|(method, path, _)| (method.as_str(), *path))
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
            () = self.0.stop.no_more() => {
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
    pub async fn answer<B>(&self, request: Request<B>, visitor: &Visitor, visit: &Visit) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answer = self.page(request, visitor, visit).await.unwrap_or_else(Problem::response);
        self.control().answered(answer.status().as_u16());
        visit.good.store(!answer.status().is_client_error(), Ordering::Relaxed);
        answer
    }

    async fn page<B>(&self, request: Request<B>, visitor: &Visitor, visit: &Visit) -> Result<Response<Body>, Problem>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let since = Instant::now();
        let (head, body) = request.into_parts();
        match visitor {
            Visitor::Process(_) => who::no_foreign_page(&head.headers, "localhost")?,
            Visitor::Address(_) => self.0.parts.hosts.check(&head)?,
        }
        let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
        let (page, names) = match pages::find(method, head.uri.path()) {
            Found::Page(page, names) => (page, names),
            Found::OtherMethods(allowed) => return Err(Problem::method(&allowed)),
            Found::Nothing => return Err(Problem::new(StatusCode::NOT_FOUND, "no_such_page", "there is no such page")),
        };
        match page {
            Page::Healthz => return Ok(Self::healthz()),
            Page::Readyz => return Ok(self.readyz().await),
            Page::Metrics if head.extensions.get::<OfThisMachine>().is_some() => return Ok(self.metrics().await),
            Page::OpenApi => return Ok(answers::whole(StatusCode::OK, "application/json", OPENAPI)),
            _ => {}
        }
        if page == Page::Hook {
            let body = self.read_hook(body).await?;
            let [caller, name] = [0, 1].map(|at| request::name(names.get(at).copied().unwrap_or_default()));
            let Some(program) = self.signed_by(&caller?, &head.headers, &body) else {
                return Err(self.refused(visitor, "no caller has signed it so", since).await);
            };
            visit.proven.cancel();
            let asker = Asker::new(Caller::Program(program));
            return self.hook(&name?, Asked { asker: &asker, headers: &head.headers, query: head.uri.query(), body }).await;
        }
        let asker = match visitor {
            Visitor::Process(asker) => asker.clone(),
            Visitor::Address(_) => match who::by_token(&head.headers, &self.0.parts.callers) {
                Some(program) => Asker::new(Caller::Program(program)),
                None => return Err(self.refused(visitor, "no caller has this token", since).await),
            },
        };
        visit.proven.cancel();
        let body = self.read(body, self.bounds().message).await?;
        let asked = Asked { asker: &asker, headers: &head.headers, query: head.uri.query(), body };
        self.asked(page, &names, asked).await
    }

    /// That somebody is nobody, when it is time to say so.
    async fn refused(&self, visitor: &Visitor, why: &'static str, since: Instant) -> Problem {
        let parts = &self.0.parts;
        parts.counters.count(Count::Unauthorized);
        let whence = match visitor {
            Visitor::Process(asker) => asker.user.to_string(),
            Visitor::Address(address) => address.to_string(),
        };
        warn!(address = whence, why, "somebody was refused over HTTP");
        let entry = || Entry::new("http").with("address", whence).with("allowed", false).with("why", why);
        parts.audit.record(entry).await;
        sleep_until(since + DELAY).await;
        Problem::unauthorized()
    }

    /// What somebody is answered who is known.
    async fn asked(&self, page: Page, names: &[&str], asked: Asked<'_>) -> Result<Response<Body>, Problem> {
        let name = |at: usize| request::name(names.get(at).copied().unwrap_or_default());
        let which = || name(0).map(|run| Which::Run(RunId::new(run)));
        let wants_events = asked.wants_events();
        let query = request::query(asked.query)?;
        let plain = |command| request::none(&query).map(|()| command);
        let command = match page {
            Page::Healthz | Page::Readyz | Page::OpenApi => return Err(Problem::gone()),
            Page::Metrics => {
                request::none(&query)?;
                return match self.give(Command::Metrics, asked.asker).await? {
                    Answer::Result(Value::String(text)) => Ok(whole(StatusCode::OK, CONTENT_TYPE, text)),
                    answer => Ok(of_answer(answer)),
                };
            }
            Page::Hook => return self.hook(&name(1)?, asked).await,
            Page::Run => return self.run(&name(0)?, query, asked).await,
            Page::Output => {
                let wanted = request::output(query, wants_events)?;
                let command = Command::Run(RunQuery { which: which()?, output: Some(wanted) });
                return match self.give(command, asked.asker).await? {
                    Answer::Lines(said) if wants_events => Ok(streams::of_lines(Lines::all(said), self.silence(), asked.end())),
                    Answer::Lines(said) => {
                        Ok(streams::of_output(Lines::all(said), wanted.stream.unwrap_or(StreamName::Stdout), asked.end()))
                    }
                    answer => Ok(of_answer(answer)),
                };
            }
            Page::Events => {
                let command = request::topics(query)?;
                return match self.give(command, asked.asker).await? {
                    Answer::News(news) => {
                        Ok(streams::of_news(news, self.silence(), ended(asked.end(), self.0.stop.close_links.clone())))
                    }
                    answer => Ok(of_answer(answer)),
                };
            }
            Page::Runs => request::runs(query)?,
            Page::One => plain(Command::Run(RunQuery { which: which()?, output: None }))?,
            Page::Cancel => {
                let command = plain(Command::Cancel(which()?))?;
                return match self.give(command, asked.asker).await? {
                    Answer::Outcome(Outcome::Exited(0)) => Ok(as_json(StatusCode::ACCEPTED, &json!({ "run": name(0)? }))),
                    answer => Ok(of_answer(answer)),
                };
            }
            Page::Peers => plain(Command::Peers)?,
            Page::Scripts => plain(Command::Scripts)?,
            Page::Stats => plain(Command::Stats)?,
        };
        self.give(command, asked.asker).await.map(of_answer)
    }

    /// Gives a command, if its asker may.
    async fn give(&self, command: Command, asker: &Asker) -> Result<Answer, Problem> {
        let refused = |outcome: Outcome| {
            self.control().refused(&outcome);
            of_outcome(outcome)
        };
        let whose = self.control().may_command(asker, Place::Here, &command).await.map_err(refused)?;
        self.control().check(&command).map_err(refused)?;
        Ok(self.control().carry_out(command, whose).await)
    }

    fn control(&self) -> &Control {
        &self.0.parts.control
    }

    /// The body of a request, whole.
    async fn read<B>(&self, body: B, limit: usize) -> Result<Bytes, Problem>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if body.size_hint().lower() > limit as u64 {
            return Err(Problem::too_large(limit));
        }
        match timeout(self.0.terms.now().body, Limited::new(body, limit).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::too_large(limit)),
            Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "bad_message", "the body ended early")),
            Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time")),
        }
    }

    /// The process answers; nothing more is known by that.
    fn healthz() -> Response<Body> {
        as_json(StatusCode::OK, &json!({ "status": "ok" }))
    }
}

impl Asked<'_> {
    /// Ends when nothing more is to be told: its caller is none any more.
    fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let gone = match &self.asker.caller {
            Caller::Program(program) => Some(program.gone.clone()),
            Caller::Socket(_) | Caller::Tcp => None,
        };
        async move {
            match gone {
                Some(gone) => gone.cancelled().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether what happens is to be told as it happens (server-sent events).
    fn wants_events(&self) -> bool {
        has_token(self.headers, header::ACCEPT, "text/event-stream")
    }

    /// Whether a run is not waited for (RFC 7240).
    fn prefers_not_to_wait(&self) -> bool {
        has_token(self.headers, header::HeaderName::from_static("prefer"), "respond-async")
    }
}

/// Ends at either.
async fn ended(one: impl Future<Output = ()>, other: CancellationToken) {
    tokio::select! {
        () = one => {}
        () = other.cancelled() => {}
    }
}

/// Whether a header that is a list has this word, whatever its parameters are.
fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut tokens = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tokens.any(|found| found.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
}

fn of_answer(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Result(value) => as_json(StatusCode::OK, &value),
        Answer::Outcome(outcome) => raw(&Report::from(outcome)),
        // No page gives a command that is answered so.
        Answer::Lines(_) | Answer::Objects(_) | Answer::News(_) => {
            Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", "this is told as events only").response()
        }
    }
}
