//! `POST hooks/CALLER/NAME`: somebody else's server has a script run, and signs what it sends. What it sends is the script's params. It
//! looks at nothing that is not signed before the signature is right, but at its length.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::body::Body as HttpBody;
use hyper::header::{self, HeaderMap};
use url::form_urlencoded;

use super::answers::{Body, Problem};
use super::{Api, Asked, request};
use crate::policy::Program;

/// The body of a hook; a longer one is answered 413. It is read from who is not known yet.
pub const HOOK_BYTES: usize = 1 << 20;

/// The headers by which the senders of hooks name a delivery: the same again is the same.
pub const DELIVERIES: [&str; 4] = ["x-github-delivery", "x-gitea-delivery", "x-gitlab-event-uuid", "webhook-id"];

/// And by which they say what has happened.
pub const EVENTS: [&str; 4] = ["x-github-event", "x-gitea-event", "x-gitlab-event", "x-event-key"];

/// In what a form carries its JSON.
const PAYLOAD: &str = "payload";

impl Api {
    /// Who has signed this body.
    pub(super) fn signed_by(&self, name: &str, headers: &HeaderMap, body: &[u8]) -> Option<Arc<Program>> {
        let header = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let (Some(value), None) = (values.next(), values.next()) else { return None };
            value.to_str().ok()
        };
        self.0.parts.callers.by_signature(name, body, header)
    }

    /// The body of a hook, whole.
    pub(super) async fn read_hook<B>(&self, body: B) -> Result<Bytes, Problem>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.read(body, self.bounds().message.min(HOOK_BYTES)).await
    }

    /// Has a script run for what somebody has sent.
    pub(super) async fn hook(&self, name: &str, asked: Asked<'_>) -> Result<Response<Body>, Problem> {
        let body = payload(asked.headers, &asked.body);
        let params = request::json(&body)?.to_owned();
        let query = request::query(asked.query)?;
        let request = request::run(name, query, asked.headers, &params, self.bounds())?;
        self.order(request, &asked, false).await
    }
}

/// What is meant: the JSON of a form, or all of it.
fn payload<'a>(headers: &HeaderMap, body: &'a [u8]) -> Cow<'a, [u8]> {
    let content = headers.get(header::CONTENT_TYPE).and_then(|content| content.to_str().ok()).unwrap_or_default();
    if content.starts_with("application/x-www-form-urlencoded")
        && let Some((_, payload)) = form_urlencoded::parse(body).find(|(key, _)| key == PAYLOAD)
    {
        return payload.into_owned().into_bytes().into();
    }
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_carries_its_json_and_what_is_no_form_is_json() {
        let mut headers = HeaderMap::new();
        assert_eq!(&*payload(&headers, b"payload=1"), b"payload=1");
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-www-form-urlencoded"));
        assert_eq!(&*payload(&headers, b"a=b&payload=%7B%22x%22%3A+1%7D"), b"{\"x\": 1}");
        assert_eq!(&*payload(&headers, b"{\"x\":1}"), b"{\"x\":1}");
    }
}
