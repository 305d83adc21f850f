//! Whether a request leaves or is withdrawn: decided once, by whoever comes first, so that what is told of it is known and not
//! guessed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const LEFT: u8 = 1;
const WITHDRAWN: u8 = 2;

/// The fate of one request. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Departure(Arc<AtomicU8>);

impl Departure {
    /// The request is about to leave. `false` if it was withdrawn: then it must not.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.decide(LEFT)
    }

    /// The request is no longer wanted. `false` if it may have left: then nobody knows.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        self.decide(WITHDRAWN)
    }

    fn decide(&self, fate: u8) -> bool {
        let decided = self.0.compare_exchange(WAITING, fate, Ordering::AcqRel, Ordering::Acquire);
        decided.is_ok() || decided == Err(fate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decides() {
        let left = Departure::default();
        assert!(left.leave() && left.leave() && !left.withdraw());
        let withdrawn = Departure::default();
        assert!(withdrawn.withdraw() && !withdrawn.clone().leave());
    }
}
