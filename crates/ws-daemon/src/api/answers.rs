//! How an answer stands on the wire: JSON, problems (RFC 9457), and streams of lines. It never decides which.

use std::borrow::Cow;
use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

/// What is told whoever may try again, in seconds.
const AGAIN: &str = "1";

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why something was not done, for programs and for people.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    word: Cow<'static, str>,
    detail: String,
    /// The final line, if there was one.
    report: Option<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// One that has this word, and that says what to do about it.
    pub fn new(status: StatusCode, word: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { status, word: word.into(), detail: detail.into(), report: None, headers: Vec::new() }
    }

    /// Nobody is known to have asked.
    pub fn unauthorized() -> Self {
        let detail =
            "no caller of this daemon has shown its token: Authorization: Bearer TOKEN. For one: ws-daemon callers add NAME";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with(header::WWW_AUTHENTICATE, "Bearer realm=\"ws-daemon\"")
            // A connection gets one try.
            .with(header::CONNECTION, "close")
    }

    /// It is longer than a message may be.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("a request has at most {limit} bytes; see limits.message");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// The daemon stopped before there was an answer.
    pub fn gone() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the daemon stops; what was queued is on disk")
            .with(header::RETRY_AFTER, AGAIN)
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
        let Self { status, word, detail, report, headers } = self;
        let title = word.replace('_', " ");
        let mut body = json!({
            "type": format!("urn:ws-daemon:problem:{word}"), "title": title, "status": status.as_u16(), "detail": detail,
            "error": word,
        });
        if let Some(report) = report {
            for key in ["run", "peer"] {
                if let Some(value) = report.get(key) {
                    body[key] = value.clone();
                }
            }
            body["report"] = report;
        }
        let mut response = json(status, &body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().extend(headers);
        response
    }
}

/// The status that goes with an error word.
fn status_of(code: ErrorCode) -> StatusCode {
    use ErrorCode::{
        BadMessage, Busy, Cancelled, Denied, Expired, Forbidden, IdConflict, Interrupted, InvalidParams, LinkLost, NoPeer,
        NotExecutable, NotFound, QueueFull, SpawnFailed, SpoolFailed, TimedOut, TooLarge, UnknownCommand, UnknownTarget,
        Unsupported,
    };
    match code {
        NotFound | UnknownTarget => StatusCode::NOT_FOUND,
        Forbidden | Denied => StatusCode::FORBIDDEN,
        NotExecutable | SpawnFailed => StatusCode::INTERNAL_SERVER_ERROR,
        InvalidParams => StatusCode::UNPROCESSABLE_ENTITY,
        Busy | NoPeer | QueueFull | SpoolFailed => StatusCode::SERVICE_UNAVAILABLE,
        Expired | TimedOut => StatusCode::GATEWAY_TIMEOUT,
        LinkLost | Interrupted => StatusCode::BAD_GATEWAY,
        BadMessage | UnknownCommand | Unsupported => StatusCode::BAD_REQUEST,
        TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        IdConflict | Cancelled => StatusCode::CONFLICT,
    }
}

/// A final line that is no exit of a script.
pub fn of_report(report: &Report) -> Problem {
    let word = report.error.clone().unwrap_or_default();
    // A word of a newer peer says at least that it went wrong there.
    let status = report.error_code().map_or(StatusCode::BAD_GATEWAY, status_of);
    let mut problem = Problem::new(status, word, report.message.clone().unwrap_or_default());
    problem.report = serde_json::from_str(&report.to_json(None)).ok();
    if status == StatusCode::SERVICE_UNAVAILABLE { problem.with(header::RETRY_AFTER, AGAIN) } else { problem }
}

/// An outcome that is no exit of a script.
pub fn of_outcome(outcome: Outcome) -> Problem {
    of_report(&outcome.into())
}

/// A final line: as it is if a script ran to its end, whatever its exit status; else the problem.
pub fn raw(report: &Report) -> Response<Body> {
    match &report.error {
        None => whole(StatusCode::OK, "application/json", format!("{}\n", report.to_json(None))),
        Some(_) => of_report(report).response(),
    }
}

/// An answer of JSON, on a line of its own.
pub fn json(status: StatusCode, value: &Value) -> Response<Body> {
    whole(status, "application/json", format!("{value}\n"))
}

/// An answer that is there as a whole. Nobody is to keep it, or to take it for something else.
pub fn whole(status: StatusCode, content: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    headed(status, content, Full::new(text.into()).boxed_unsync())
}

/// A body with the headers that all have.
pub fn headed(status: StatusCode, content: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers =
        [(header::CONTENT_TYPE, content), (header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_word_has_its_status_and_every_outcome_of_a_script_is_an_answer() {
        let table = [
            ("not_found", 404),
            ("not_executable", 500),
            ("forbidden", 403),
            ("invalid_params", 422),
            ("busy", 503),
            ("spawn_failed", 500),
            ("no_peer", 503),
            ("unknown_target", 404),
            ("expired", 504),
            ("queue_full", 503),
            ("spool_failed", 503),
            ("link_lost", 502),
            ("bad_message", 400),
            ("too_large", 413),
            ("unknown_command", 400),
            ("unsupported", 400),
            ("id_conflict", 409),
            ("denied", 403),
            ("timed_out", 504),
            ("cancelled", 409),
            ("interrupted", 502),
        ];
        for ((code, word, _), (expected, status)) in ErrorCode::ALL.into_iter().zip(table) {
            assert_eq!((word, raw(&Outcome::failed(code, "why").into()).status().as_u16()), (expected, status));
        }
        assert_eq!(table.len(), ErrorCode::ALL.len());
        let again = raw(&Outcome::failed(ErrorCode::Busy, "").into());
        assert_eq!(again.headers()[header::RETRY_AFTER], "1");
        assert_eq!(raw(&Outcome::Exited(7).into()).status(), 200);
        let newer = Report { error: Some("of_a_newer_peer".into()), ..Report::SEED_NOBODY };
        assert_eq!(raw(&newer).status(), 502);
    }
}
