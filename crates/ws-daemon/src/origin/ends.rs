//! How runs have ended that somebody waits for: those who wait for many have one list for all of them. It never says how one is
//! under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use ws_daemon_protocol::outcome::Report;

/// The ends of runs, by the number that whoever waits has given each. Nothing more is noted when it is dropped.
#[derive(Debug, Default)]
pub struct Ends(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Never more than are waited for.
    noted: Mutex<VecDeque<(u64, Arc<Report>)>>,
    some: Notify,
}

/// Who is to be told of one end.
#[derive(Debug)]
pub struct Heir {
    ends: Weak<Inner>,
    number: u64,
}

impl Ends {
    /// Notes the end of one run here, when it is told.
    pub fn heir(&self, number: u64) -> Heir {
        Heir { ends: Arc::downgrade(&self.0), number }
    }

    /// The next end, in the order in which they came; one waits for it.
    pub async fn next(&self) -> (u64, Arc<Report>) {
        loop {
            let next = self.0.noted().pop_front();
            if let Some(next) = next {
                return next;
            }
            self.0.some.notified().await;
        }
    }
}

impl Inner {
    fn noted(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<Report>)>> {
        // Every section leaves the list whole.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heir {
    /// Tells how it ended.
    pub fn tell(self, report: Arc<Report>) {
        if let Some(ends) = self.ends.upgrade() {
            ends.noted().push_back((self.number, report));
            ends.some.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use ws_daemon_protocol::outcome::Outcome;

    use super::*;

    #[tokio::test]
    async fn ends_are_told_in_the_order_in_which_they_came_and_to_nobody_who_is_gone() {
        let ends = Ends::default();
        let report = |status| Arc::new(Report::from(Outcome::Exited(status)));
        let heirs = [ends.heir(1), ends.heir(2), ends.heir(3)];
        let [first, second, third] = heirs;
        second.tell(report(2));
        first.tell(report(1));
        assert_eq!((ends.next().await, ends.next().await), ((2, report(2)), (1, report(1))));
        drop(ends);
        assert!(third.ends.upgrade().is_none());
        third.tell(report(3));
    }
}
