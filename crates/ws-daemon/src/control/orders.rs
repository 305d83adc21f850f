//! Orders to the daemon itself, to read its settings again or to begin a new life, each of which is answered. It carries none of them
//! out.

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

/// Orders that wait; when full, whoever asks waits.
const ORDERS: usize = 16;

/// A way to give one order. Clones are the same way.
#[derive(Debug, Clone)]
pub struct Orders(mpsc::Sender<Order>);

/// Where it is told what came of an order: what was done, or why nothing was.
pub type Order = oneshot::Sender<Result<Value, Outcome>>;

impl Orders {
    /// A way to give orders, and where they come out.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (give, orders) = mpsc::channel(ORDERS);
        (Self(give), orders)
    }

    /// Gives the order behind all that were given before, and waits for what comes of it.
    ///
    /// # Errors
    /// Why nothing was done.
    pub async fn ask(&self) -> Result<Value, Outcome> {
        let (tell, told) = oneshot::channel();
        let stopping = || Outcome::failed(ErrorCode::Busy, "nothing was changed: the daemon is stopping");
        self.0.send(tell).await.map_err(|_| stopping())?;
        told.await.map_err(|_| stopping())?
    }

    /// The same for who does not wait: what came of it stands in the log.
    pub fn give(&self) {
        let (nobody, _) = oneshot::channel();
        // Full: it will be done again.
        let _ = self.0.try_send(nobody);
    }
}
