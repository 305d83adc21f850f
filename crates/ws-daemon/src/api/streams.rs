//! Answers that come bit by bit: server-sent events, what a script printed, and the outcomes of a fan-out. As fast as they are read;
//! it keeps nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;
use ws_daemon_protocol::command::StreamName;
use ws_daemon_protocol::event::{Chunk, Event};
use ws_daemon_protocol::outcome::Report;

use super::answers::{Body, Problem, headed, of_report};
use crate::news::Subscription;
use crate::origin::Said;

/// What is said of a run, the first of it here already.
pub struct Lines {
    first: VecDeque<Said>,
    rest: mpsc::Receiver<Said>,
}

impl Lines {
    /// All that is said.
    pub fn all(rest: mpsc::Receiver<Said>) -> Self {
        Self { first: VecDeque::new(), rest }
    }

    /// What is said of what was begun.
    ///
    /// # Errors
    /// Why nothing was: then the first line is the last one too, or only the end of a fan-out to nobody stands behind it.
    pub async fn begun(mut rest: mpsc::Receiver<Said>) -> Result<Self, Problem> {
        match rest.recv().await {
            Some(Said::Final(report)) if report.error.is_some() => match rest.recv().await {
                None | Some(Said::Event(Event::Done { runs: 0, .. })) => Err(of_report(&report)),
                Some(second) => Ok(Self { first: [Said::Final(report), second].into(), rest }),
            },
            Some(said) => Ok(Self { first: [said].into(), rest }),
            None => Err(Problem::gone()),
        }
    }

    async fn next(&mut self) -> Option<Said> {
        match self.first.pop_front() {
            Some(said) => Some(said),
            None => self.rest.recv().await,
        }
    }
}

/// Lines as events: the word of each, and the line as a process would get it.
pub fn of_lines(lines: Lines, silence: Duration, end: impl Future<Output = ()> + Send + 'static) -> Response<Body> {
    let events = stream::unfold(lines, move |mut lines| async move {
        let event = match timeout(silence, lines.next()).await {
            Err(_) => quiet(),
            // What the next life of the daemon has to tell is to be asked of that.
            Ok(None | Some(Said::Later(_))) => return None,
            Ok(Some(Said::Event(event))) => told(word(&event), &event.to_json(None)),
            Ok(Some(Said::Final(report))) => told("final", &report.to_json(None)),
        };
        Some((event, lines))
    });
    streamed("text/event-stream", events.take_until(Box::pin(end)))
}

/// News as events without a word of their own, until the `end`.
pub fn of_news(news: Subscription, silence: Duration, end: impl Future<Output = ()> + Send + 'static) -> Response<Body> {
    // So that whoever asked hears at once that it is heard.
    let begun = stream::once(async { quiet() });
    let events = stream::unfold(news, move |mut news| async move {
        let event = match timeout(silence, news.next()).await {
            Err(_) => quiet(),
            Ok(None) => return None,
            Ok(Some(line)) => format!("data: {line}\n\n").into(),
        };
        Some((event, news))
    });
    streamed("text/event-stream", begun.chain(events).take_until(Box::pin(end)))
}

/// What a script printed on this stream, byte for byte: as it was kept, or what came home with the outcome.
pub fn of_output(lines: Lines, stream: StreamName, end: impl Future<Output = ()> + Send + 'static) -> Response<Body> {
    let bytes = stream::unfold((lines, false), move |(mut lines, was_kept)| async move {
        loop {
            match lines.next().await? {
                Said::Event(Event::Output(chunk)) => return Some((printed(chunk), (lines, true))),
                Said::Final(report) if !was_kept => return Some((came_home(&report, stream), (lines, true))),
                Said::Event(_) | Said::Final(_) | Said::Later(_) => {}
            }
        }
    });
    streamed("text/plain; charset=utf-8", bytes.take_until(Box::pin(end)))
}

fn came_home(report: &Report, stream: StreamName) -> Bytes {
    let Some(more) = &report.more else { return Bytes::new() };
    let (text, json) = match stream {
        StreamName::Stdout => (&more.stdout, more.result.as_ref()),
        StreamName::Stderr => (&more.stderr, None),
    };
    let Some(text) = text else { return json.map(|json| Bytes::from(json.to_string())).unwrap_or_default() };
    let encoded = more.encoding.as_ref().is_some_and(|of| of.contains(stream.word()));
    if encoded { BASE64_STANDARD.decode(&**text).unwrap_or_default().into() } else { text.to_string().into() }
}

/// The outcomes of a fan-out, as they come: `{"runs":[…],"failed":…}`.
pub fn of_each(lines: Lines) -> Response<Body> {
    let parts = stream::unfold((lines, 0_usize, 0_usize), |(mut lines, runs, failed)| async move {
        loop {
            match lines.next().await {
                Some(Said::Final(report)) => {
                    let before = if runs == 0 { "{\"runs\":[" } else { "," };
                    let part = format!("{before}{}", report.to_json(None));
                    return Some((part.into(), (lines, runs + 1, failed + usize::from(report.status != Some(0)))));
                }
                Some(Said::Event(Event::Done { .. })) => {
                    let before = if runs == 0 { "{\"runs\":[" } else { "" };
                    return Some((format!("{before}],\"failed\":{failed}}}\n").into(), (lines, runs, failed)));
                }
                Some(Said::Event(_)) => {}
                Some(Said::Later(_)) | None => return None,
            }
        }
    });
    streamed("application/json", parts)
}

fn streamed(content: &'static str, parts: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(parts.map(|part| Ok::<_, Infallible>(Frame::data(part))));
    headed(StatusCode::OK, content, BodyExt::boxed_unsync(body))
}

fn printed(chunk: Chunk) -> Bytes {
    if chunk.is_base64 { BASE64_STANDARD.decode(chunk.data).unwrap_or_default().into() } else { chunk.data.into() }
}

fn told(word: &str, line: &str) -> Bytes {
    format!("event: {word}\ndata: {line}\n\n").into()
}

/// A comment: it keeps proxies from thinking that nobody is there, and finds out who is not.
fn quiet() -> Bytes {
    Bytes::from_static(b":\n\n")
}

fn word(event: &Event) -> &'static str {
    match event {
        Event::Accepted { .. } => "accepted",
        Event::Delivered { .. } => "delivered",
        Event::Started { .. } => "started",
        Event::Output(_) => "output",
        Event::Done { .. } => "done",
    }
}
