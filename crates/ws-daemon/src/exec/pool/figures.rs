//! What became of copies and connections that are asked, in numbers. Nothing is ever decided by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Why a copy of a script is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It was asked as often as its contract says.
    Spent,
    /// The script or its contract is another one.
    Changed,
    /// It had nothing to do.
    Idle,
    /// It ended by itself.
    Ended,
    /// It said what is no answer.
    Breach,
    /// A request that it held was stopped.
    Stopped,
}

/// Their names, in that order.
const GONE: [&str; 6] = ["spent", "changed", "idle", "ended", "breach", "stopped"];

/// The numbers.
#[derive(Debug, Default)]
pub struct Figures {
    running: Arc<AtomicUsize>,
    calls: AtomicU64,
    gone: [AtomicU64; GONE.len()],
}

/// A copy that runs; counted until this is dropped.
#[derive(Debug)]
pub struct Running(Arc<AtomicUsize>);

impl Figures {
    /// One was asked.
    pub fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A copy is let go or has ended.
    pub fn gone(&self, why: Gone) {
        self.gone[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// One more copy runs, or is about to; `None` if there are `most` already.
    pub fn runs(&self, most: usize) -> Option<Running> {
        let running = Running(Arc::clone(&self.running));
        // Taken back when it is dropped.
        (self.running.fetch_add(1, Ordering::Relaxed) < most).then_some(running)
    }

    /// How many copies run, or are about to.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How often copies and connections were asked.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Why copies are no more, by name.
    pub fn all_gone(&self) -> impl Iterator<Item = (&'static str, u64)> {
        GONE.into_iter().zip(&self.gone).map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
