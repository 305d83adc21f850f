//! How whoever may have the settings read again asks for it: an order that is answered. It never reads them.

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

/// Orders that wait; when full, whoever asks waits.
const WAITING: usize = 16;

/// Asks for the settings to be read again. Clones ask the same.
#[derive(Debug, Clone)]
pub struct Reload(mpsc::Sender<ReloadOrder>);

/// Where it is told what came of it: what was changed, or why nothing was.
pub type ReloadOrder = oneshot::Sender<Result<Value, Outcome>>;

impl Reload {
    /// A way to ask, and where the orders come out.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<ReloadOrder>) {
        let (ask, orders) = mpsc::channel(WAITING);
        (Self(ask), orders)
    }

    /// Has the settings read again, after all that was ordered before.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn ask(&self) -> Result<Value, Outcome> {
        let (tell, told) = oneshot::channel();
        let stopping = || Outcome::failed(ErrorCode::Busy, "nothing was changed: the daemon is stopping");
        self.0.send(tell).await.map_err(|_| stopping())?;
        told.await.map_err(|_| stopping())?
    }

    /// The same for who does not wait for it: what came of it stands in the log.
    pub fn order(&self) {
        let (nobody, _) = oneshot::channel();
        // Full: they will be read again.
        let _ = self.0.try_send(nobody);
    }
}
