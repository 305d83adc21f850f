//! One live WebSocket to a peer: a handle that others hold ([`Link`]) and a task that owns the socket ([`serve`]). Accepting and
//! dialling differ only at birth. It never chooses a peer, runs nothing, and knows no local process: what comes in is handed up
//! as values.

mod backoff;
mod departure;
mod dial;
mod mux;
mod session;
mod stream;
mod wire;

pub use backoff::Backoff;
pub use departure::Departure;
pub use dial::{DialFault, dial};
pub use mux::{Ask, AskBody, Closed};
pub use session::{Ended, serve};
pub use stream::Stream;
pub use wire::Wire;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use ws_daemon_protocol::codec::seed;
use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::id::CallerId;
use ws_daemon_protocol::message::Params;
use ws_daemon_protocol::outcome::{Outcome, Report};

use crate::config::{Limits, Times};
use mux::Mux;

/// The handle of a link. Clones are the same link.
#[derive(Debug, Clone)]
pub struct Link {
    peer: Arc<str>,
    mux: Arc<Mux>,
    closing: CancellationToken,
}

/// What a link needs to know of the settings.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Bytes of one frame.
    pub message: usize,
    /// Levels of nesting of one frame.
    pub nesting: usize,
    /// Between two pings.
    pub ping: std::time::Duration,
}

impl Terms {
    /// The part of the settings that links go by.
    #[must_use]
    pub fn new(limits: &Limits, times: &Times) -> Self {
        Self { message: limits.message, nesting: limits.nesting, ping: times.ping }
    }
}

/// What a link hands up.
#[derive(Debug)]
pub enum Inbound {
    /// The peer asks for a run.
    Run(IncomingRun),
    /// The peer gives a command.
    Command(IncomingCommand),
    /// A status that nobody waits for: the JSON object as it came, compact.
    UnclaimedStatus(Box<str>),
}

/// A run that a peer asks for.
#[derive(Debug)]
pub struct IncomingRun {
    /// The script's name.
    pub name: String,
    /// What the script gets.
    pub params: Params,
    /// The way home.
    pub replier: Replier,
}

/// A command that a peer gives.
#[derive(Debug)]
pub struct IncomingCommand {
    /// The command.
    pub command: Command,
    /// The way home.
    pub replier: Replier,
}

/// The way home to whoever asked: the link that the request came by, and the id it came under.
#[derive(Debug)]
pub struct Replier {
    link: Link,
    id: Option<CallerId>,
}

impl Replier {
    /// Sends the outcome home. If the link is gone, so is the asker, who has settled the run by itself.
    pub fn report(self, outcome: Outcome) {
        let frame = seed::status(&Report::from(outcome), self.id.as_ref());
        self.link.mux.reply(frame);
    }

    /// The id that the request came under.
    #[must_use]
    pub fn id(&self) -> Option<&CallerId> {
        self.id.as_ref()
    }

    /// Who asked.
    #[must_use]
    pub fn peer(&self) -> &Arc<str> {
        &self.link.peer
    }
}

impl Link {
    /// The handle of a link to `peer`, still without its task: see [`serve`]. A frame may have `message` bytes.
    #[must_use]
    pub fn new(peer: impl Into<Arc<str>>, message: usize, closing: CancellationToken) -> Self {
        Self { peer: peer.into(), mux: Arc::new(Mux::new(message)), closing }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Puts a request on the way.
    ///
    /// # Errors
    /// The request, if the link is closed: it has certainly not left.
    pub fn ask(&self, ask: Ask) -> Result<(), Closed> {
        self.mux.ask(ask)
    }

    /// Ends when there is room for one more request, or the link is closed. It may be gone again by the time it is used: the
    /// bound is then exceeded by one request for each that waits here.
    pub async fn has_room(&self) {
        self.mux.has_room().await;
    }

    /// Closes the link once what waits to leave has left.
    pub fn close(&self) {
        self.closing.cancel();
    }
}
