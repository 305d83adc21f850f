//! Who waits for the outcome of one request without options, and for nothing else: told once, by whoever knows it first, on the spot.
//! It has no task; it never chooses a link and never waits.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::direct::unstoppable;
use super::ledger::{Live, Seat};
use super::settled;
use crate::link::{Departure, Link, Told};
use crate::news::News;

/// Where an outcome is written.
pub trait Answer: Send + Sync + 'static {
    /// Whether nobody reads it any more.
    fn is_gone(&self) -> bool;

    /// Writes it. Whoever tells it may hold a lock: this must not wait, and not ask for anything.
    fn answer(self, report: Report);
}

/// One who waits. Shared by the link that has the request, or what holds it until there is one, and by whoever may end it here.
pub struct Waiter<A> {
    /// Taken by who tells it.
    waiting: Mutex<Option<Waiting<A>>>,
    /// The run, if it is one and not a command.
    live: Option<Arc<Live>>,
    departure: Departure,
    /// What it left by, once it has.
    link: OnceLock<Link>,
    deadline: Option<Deadline>,
    news: News,
}

struct Waiting<A> {
    answer: A,
    /// A run's place among what can be shown and stopped.
    seat: Option<Seat>,
    /// Until its time is over; dropped with the rest.
    _timed: Option<oneshot::Sender<()>>,
}

/// When whoever asked waits no longer, and how long that was meant to be.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    pub limit: Duration,
    pub at: Instant,
}

/// What keeps the time of one that has a deadline.
pub struct Timer {
    at: Instant,
    told: oneshot::Receiver<()>,
}

impl<A: Answer> Waiter<A> {
    /// Who waits for `answer`, and what [keeps its time](Self::keep_time) if it has a deadline.
    pub fn new(
        answer: A,
        seat: Option<Seat>,
        departure: Departure,
        deadline: Option<Deadline>,
        news: News,
    ) -> (Arc<Self>, Option<Timer>) {
        let (timer, timed) = deadline.map_or((None, None), |deadline| {
            let (timer, told) = oneshot::channel();
            (Some(Timer { at: deadline.at, told }), Some(timer))
        });
        let live = seat.as_ref().map(|seat| Arc::clone(seat.live()));
        let waiting = Mutex::new(Some(Waiting { answer, seat, _timed: timed }));
        (Arc::new(Self { waiting, live, departure, link: OnceLock::new(), deadline, news }), timer)
    }

    /// Gives it up when its time is over, unless it is told before.
    pub fn keep_time(waiter: &Arc<Self>, timer: Timer) -> impl Future<Output = ()> + use<A> {
        let waiter = Arc::downgrade(waiter);
        async move {
            tokio::select! {
                _ = timer.told => {}
                () = sleep_until(timer.at) => waiter.upgrade().into_iter().for_each(|waiter| waiter.is_overdue()),
            }
        }
    }

    /// The time is over. On a version 2 link the doer keeps it.
    fn is_overdue(&self) {
        if let Some(deadline) = self.deadline.filter(|_| !self.departure.left_by_version2()) {
            // Somebody may know more by now.
            drop(self.tell(self.overdue(deadline)));
        }
    }

    /// What has not left never will; of what has, nobody knows how it ends and nobody stops it from here.
    fn overdue(&self, Deadline { limit, .. }: Deadline) -> Report {
        let outcome = if self.departure.withdraw() {
            Outcome::Failed(ErrorCode::Expired, format!("it could not be sent within {limit:?}; it did not run"))
        } else {
            let message = format!("no answer within {limit:?}; the peer cannot be told to stop it, so it may still run");
            Outcome::Failed(ErrorCode::Interrupted, message)
        };
        outcome.into()
    }
}

impl<A: Answer> Told for Waiter<A> {
    fn is_gone(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.as_ref().is_none_or(|waiting| waiting.answer.is_gone())
    }

    fn tell(&self, report: Report) -> Result<(), Report> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Waiting { answer, seat, _timed }) = waiting else { return Err(report) };
        if answer.is_gone() {
            return Err(report);
        }
        if let Some(seat) = seat {
            settled(&self.news, seat.live(), &report);
        }
        // Whoever asked in the seed's own grammar gets the seed's own keys.
        answer.answer(report.with_seeds_keys());
        Ok(())
    }

    fn forget(&self) {
        let report = match self.deadline {
            // It was given up before any link had room.
            Some(deadline) if deadline.at <= Instant::now() => self.overdue(deadline),
            // Whoever has a request settles it, a stopping daemon too; this is for the day that is not so.
            _ => Outcome::failed(ErrorCode::Interrupted, "the daemon lost track of it; it may have run").into(),
        };
        drop(self.tell(report));
    }
}

/// What can be done about one who waits, whoever it is.
pub trait Waits: Send + Sync {
    /// It has left by this link.
    fn left_by(&self, link: &Link);

    /// It is to be stopped, or never to be started.
    fn cancel(&self);
}

impl<A: Answer> Waits for Waiter<A> {
    fn left_by(&self, link: &Link) {
        // It leaves once.
        drop(self.link.set(link.clone()));
        if let Some(live) = &self.live {
            super::given(&self.news, live, link.shared_peer());
        }
    }

    fn cancel(&self) {
        let report = if self.departure.withdraw() {
            Outcome::failed(ErrorCode::Cancelled, "cancelled before it left; it did not run").into()
        } else {
            match (self.link.get(), &self.live) {
                // The doer says what came of it.
                (Some(link), Some(live)) if link.is_v2() => return link.send_cancel(&live.run, None),
                _ => unstoppable("it was cancelled"),
            }
        };
        // Somebody may know more by now.
        drop(self.tell(report));
    }
}

/// A handle on one who waits that keeps nobody waiting: for whoever sends the request off, or wants it stopped.
#[derive(Clone)]
pub struct Leave(Weak<dyn Waits>);

impl Leave {
    /// The way to this one.
    pub fn of<A: Answer>(waiter: &Arc<Waiter<A>>) -> Self {
        let waiter: Weak<Waiter<A>> = Arc::downgrade(waiter);
        Self(waiter)
    }

    /// The request has left by this link.
    pub fn by(&self, link: &Link) {
        if let Some(waiter) = self.0.upgrade() {
            waiter.left_by(link);
        }
    }

    /// The request is to be stopped, or never to be started.
    pub fn cancel(&self) {
        if let Some(waiter) = self.0.upgrade() {
            waiter.cancel();
        }
    }
}

impl fmt::Debug for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leave").finish_non_exhaustive()
    }
}

impl<A> fmt::Debug for Waiter<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("departure", &self.departure).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::link::Direct;

    struct Heard(mpsc::Sender<Report>);

    impl Answer for Heard {
        fn is_gone(&self) -> bool {
            false
        }

        fn answer(self, report: Report) {
            self.0.send(report).expect("it is heard");
        }
    }

    #[test]
    fn whatever_becomes_of_a_request_that_nobody_has_any_more_its_asker_is_told_once() {
        let over = Deadline { limit: Duration::from_secs(1), at: Instant::now() };
        let table = [
            (None, false, ErrorCode::Interrupted),
            (Some(over), false, ErrorCode::Expired),
            // The doer kept the time, and can say nothing any more.
            (Some(over), true, ErrorCode::Interrupted),
        ];
        for (deadline, has_left, code) in table {
            let (told, heard) = mpsc::channel();
            let departure = Departure::default();
            assert!(!has_left || departure.leave_to_version2());
            let (waiter, _timer) = Waiter::new(Heard(told), None, departure, deadline, News::default());
            drop(Direct(waiter.clone()));
            assert_eq!(heard.recv().expect("it is told").error_code(), Some(code));
            assert!(waiter.is_gone() && waiter.tell(Outcome::Exited(0).into()).is_err(), "told once");
        }
    }
}
