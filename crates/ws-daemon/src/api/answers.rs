//! How an answer stands on the wire: JSON, problems (RFC 9457), and streams of lines. It never decides which.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why something was not done, for programs and for people.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    word: &'static str,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// One that has this word, and that says what to do about it.
    pub fn new(status: StatusCode, word: &'static str, detail: impl Into<String>) -> Self {
        Self { status, word, detail: detail.into(), headers: Vec::new() }
    }

    /// The path is there for others.
    pub fn method(allowed: &[Method]) -> Self {
        let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("at this path there is {allowed} only");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail).with(header::ALLOW, &allowed)
    }

    /// With a header.
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        // What is no header is left out: these are made of words of ours.
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    /// The answer.
    pub fn response(self) -> Response<Body> {
        let Self { status, word, detail, headers } = self;
        let title = word.replace('_', " ");
        let body = json!({
            "type": format!("urn:ws-daemon:problem:{word}"), "title": title, "status": status.as_u16(), "detail": detail,
            "error": word,
        });
        let mut response = json(status, &body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().extend(headers);
        response
    }
}

/// An answer of JSON, on a line of its own.
pub fn json(status: StatusCode, value: &Value) -> Response<Body> {
    whole(status, "application/json", format!("{value}\n"))
}

/// An answer that is there as a whole. Nobody is to keep it, or to take it for something else.
pub fn whole(status: StatusCode, content: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    let headers =
        [(header::CONTENT_TYPE, content), (header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
