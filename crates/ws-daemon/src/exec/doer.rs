//! Something in this process that does runs in place of scripts. Slots, the line, timeouts and cancelling are the same for it; it
//! never prints, and leaves nothing behind when it is dropped.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use ws_daemon_protocol::outcome::Outcome;

use super::job::Job;

/// Does runs. Clones are the same.
#[derive(Clone)]
pub struct Doer(Arc<Start>);

type Start = dyn Fn(&Job) -> BoxFuture<'static, Outcome> + Send + Sync;

/// A run that it does; dropped, the run is stopped.
pub struct Doing(BoxFuture<'static, Outcome>);

impl Doer {
    /// One that starts a run by calling `start`, and has done it when the future ends.
    pub fn new(start: impl Fn(&Job) -> BoxFuture<'static, Outcome> + Send + Sync + 'static) -> Self {
        Self(Arc::new(start))
    }

    pub(super) fn start(&self, job: &Job) -> Doing {
        Doing((self.0)(job))
    }
}

impl Future for Doing {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Doer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doer")
    }
}

impl fmt::Debug for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doing")
    }
}
