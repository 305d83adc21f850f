//! Whether a request leaves or is withdrawn: decided once, by whoever comes first, so that what is told of it is known and not
//! guessed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const LEFT: u8 = 1;
const WITHDRAWN: u8 = 2;
const LEFT_TO_VERSION2: u8 = 3;

/// The fate of one request. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Departure(Arc<AtomicU8>);

impl Departure {
    /// The request is about to leave. `false` if it was withdrawn: then it must not.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.decide(LEFT)
    }

    /// As [`leave`](Self::leave), to a daemon that keeps the run's time by itself.
    #[must_use]
    pub fn leave_to_version2(&self) -> bool {
        self.decide(LEFT_TO_VERSION2)
    }

    /// Whether it has left to a daemon that keeps the run's time by itself.
    #[must_use]
    pub fn left_by_version2(&self) -> bool {
        self.0.load(Ordering::Acquire) == LEFT_TO_VERSION2
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
        let version2 = Departure::default();
        assert!(version2.leave_to_version2() && version2.left_by_version2() && !version2.withdraw());
        assert!(!left.left_by_version2());
    }
}
