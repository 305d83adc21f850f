//! Pages for whoever looks after the daemon: whether it is ready, and its figures. They change nothing.

use hyper::{Response, StatusCode};

use super::Api;
use super::answers::{Body, json as as_json, whole};
use crate::metrics::CONTENT_TYPE;

/// Marks a request that came from this machine, from a process of root's or of the daemon's own user, and from no web page: it may see
/// the figures without a token.
#[derive(Debug, Clone, Copy)]
pub struct OfThisMachine;

impl Api {
    /// Whether the path is that of the figures, which a process of this machine may see without a token.
    #[must_use]
    pub fn is_metrics(path: &str) -> bool {
        path == super::pages::METRICS
    }

    pub(super) async fn readyz(&self) -> Response<Body> {
        let readiness = self.control().readiness().await;
        let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        as_json(status, &readiness.to_json())
    }

    pub(super) async fn metrics(&self) -> Response<Body> {
        whole(StatusCode::OK, CONTENT_TYPE, self.control().metrics().await)
    }
}
