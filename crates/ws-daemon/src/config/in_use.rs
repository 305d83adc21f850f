//! What is in use just now of what was configured, while a reload may put something else in its place. It never decides what may be
//! replaced while the daemon runs.

use std::sync::Arc;

use tokio::sync::watch;

/// A value that is in use until another one is. Clones are the same.
#[derive(Debug)]
pub struct InUse<T>(watch::Sender<Arc<T>>);

// By hand, since a value need not be one that can be cloned.
impl<T> Clone for InUse<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> InUse<T> {
    /// The first value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(watch::Sender::new(Arc::new(value)))
    }

    /// The one that is in use now.
    #[must_use]
    pub fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// From here on `value` is in use.
    pub fn replace(&self, value: T) {
        self.0.send_replace(Arc::new(value));
    }

    /// Tells of each replacement from here on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }
}
