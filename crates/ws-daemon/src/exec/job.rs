//! What the executor is asked: one run, where its script lies, how long it may take, and what is kept of what it prints. It
//! never knows how that is done.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{Span, info_span};
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::Params;
use ws_daemon_protocol::trace::Trace;

use super::rounds::Asker;
use super::stream::StreamBuffer;
use crate::standing::Standing;

/// So much of a script's name stands in the log; the rest is left out.
const LOGGED_NAME_BYTES: usize = 256;

/// One run to be done.
#[derive(Debug)]
pub struct Job {
    /// The run's id.
    pub run: RunId,
    /// The caller's id, if it came along.
    pub id: Option<CallerId>,
    /// What it carries along for logs.
    pub trace: Option<Box<Trace>>,
    /// The script's name as asked for.
    pub name: String,
    /// What the script gets.
    pub params: Params,
    /// Who asked, for the script's environment and the log.
    pub peer: Arc<str>,
    /// Who asked, as far as they have proved it.
    pub caller: Caller,
    /// Where the script lies.
    pub folder: Folder,
    /// How long it may run, from its start; `None`: as long as it likes.
    pub timeout: Option<Duration>,
    /// What is kept of what it prints.
    pub capture: Capture,
    /// Stops it, in line as well as while it runs.
    pub cancel: CancellationToken,
}

/// Who asks for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The daemon itself: a hook, or the script that gets an outcome.
    Local,
    /// Whoever is at the other end of a link.
    Far(Standing),
}

/// A folder of programs in the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Folder {
    /// `scripts/`: what a peer or a local process may ask for.
    #[default]
    Scripts,
    /// `hooks/`: what only the daemon itself starts.
    Hooks,
}

/// What is kept of what a script prints; all of it is logged besides.
#[derive(Debug, Clone, Default)]
pub enum Capture {
    /// Nothing.
    #[default]
    None,
    /// The beginning and the end of each stream.
    Tail,
    /// Standard output as one JSON value, and the beginning and the end of standard error.
    Json,
    /// All of it, to whoever reads it live. The buffer is closed when the run is over, also if it never started.
    Stream(Arc<StreamBuffer>),
}

impl Job {
    /// On whose behalf it waits.
    pub(super) fn asker(&self) -> Asker {
        match self.caller {
            Caller::Local => None,
            Caller::Far(_) => Some(Arc::clone(&self.peer)),
        }
    }

    pub(super) fn span(&self) -> Span {
        let script = &self.name[..self.name.floor_char_boundary(LOGGED_NAME_BYTES)];
        info_span!("run", id = %self.run, script)
    }
}
