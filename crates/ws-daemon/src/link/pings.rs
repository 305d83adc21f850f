//! The PINGs of one link that have no answer yet: who waits for which, and until when. It writes nothing and has no clock.

use std::collections::VecDeque;
use std::fmt;

use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;
use ws_daemon_protocol::codec::v2;

/// PINGs waiting for an answer; one more, and the oldest is given up.
pub const UNANSWERED_PINGS: usize = 65_536;

/// Digits at the end of a PING's id that say which one it is.
const NUMBER_DIGITS: usize = 12;

/// Who waits for the answer to a PING: told once, on the spot, perhaps under the lock of a link's tables. So they neither wait nor ask
/// the link for anything.
pub trait Pinging: Send {
    /// Whether nobody listens any more.
    fn is_gone(&self) -> bool;

    /// Tells what came of it.
    fn hear(self: Box<Self>, pong: Pong);
}

/// What came of a PING.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pong {
    /// The daemon at the other end has answered.
    Answered,
    /// It has not within the time that was given for it.
    Overdue,
    /// It has not, and will not by this link.
    Lost,
}

impl Pinging for oneshot::Sender<Pong> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }

    fn hear(self: Box<Self>, pong: Pong) {
        // Nobody listens any more: then nobody need be told.
        let _ = self.send(pong);
    }
}

/// The PINGs.
#[derive(Default)]
pub struct Pings {
    /// What the ids of all of them begin with, in the form of a UUID: nobody else asks for anything under such a one.
    head: Option<Box<str>>,
    next: u64,
    /// In the order they were asked in, and mostly answered.
    waiting: VecDeque<Waiting>,
    /// None of them is due before that.
    due: Option<Instant>,
}

struct Waiting {
    number: u64,
    due: Option<Instant>,
    asker: Box<dyn Pinging>,
}

impl Pings {
    /// One more, which is given up at `due`: its frame, and the one that there is no room for any more.
    pub fn ask(&mut self, asker: Box<dyn Pinging>, due: Option<Instant>) -> (String, Option<Box<dyn Pinging>>) {
        if self.waiting.len() >= UNANSWERED_PINGS {
            self.sweep();
        }
        let beyond = if self.waiting.len() >= UNANSWERED_PINGS { self.waiting.pop_front() } else { None };
        let number = self.next;
        self.next += 1;
        self.waiting.push_back(Waiting { number, due, asker });
        self.due = earlier(self.due, due);
        let head = self.head.get_or_insert_with(head);
        (v2::ping(&format_args!("{head}{number:0NUMBER_DIGITS$x}")), beyond.map(|beyond| beyond.asker))
    }

    /// Who waits for what was answered under this id.
    pub fn answered(&mut self, id: &str) -> Option<Box<dyn Pinging>> {
        let digits = id.strip_prefix(self.head.as_deref()?)?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        let place = self.waiting.binary_search_by_key(&number, |waiting| waiting.number).ok()?;
        let answered = self.waiting.remove(place)?;
        if self.waiting.is_empty() {
            self.due = None;
        }
        Some(answered.asker)
    }

    /// Before when none is due.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Those that are due by now.
    pub fn overdue(&mut self, now: Instant) -> Vec<Box<dyn Pinging>> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let (overdue, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.due.is_some_and(|due| due <= now));
        self.waiting = waiting;
        self.due = self.waiting.iter().fold(None, |due, waiting| earlier(due, waiting.due));
        let overdue: VecDeque<Waiting> = overdue;
        overdue.into_iter().map(|overdue| overdue.asker).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Forgets those for whose answers nobody waits.
    pub fn sweep(&mut self) {
        self.waiting.retain(|waiting| !waiting.asker.is_gone());
    }

    /// All of them, of which none will be answered.
    pub fn take(&mut self) -> impl Iterator<Item = Box<dyn Pinging>> + use<> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.asker)
    }
}

impl fmt::Debug for Pings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pings").field("waiting", &self.waiting.len()).field("due", &self.due).finish_non_exhaustive()
    }
}

/// The head of a UUID, as random as one: a peer that asks for runs under ids of its own finds none of another link's PINGs by it.
fn head() -> Box<str> {
    let mut uuid = Uuid::new_v4().to_string();
    uuid.truncate(uuid.len() - NUMBER_DIGITS);
    uuid.into()
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Asks, and gives what will be heard and the id.
    fn ask(pings: &mut Pings, due: Option<Instant>) -> (oneshot::Receiver<Pong>, String) {
        let (asker, heard) = oneshot::channel();
        let (frame, beyond) = pings.ask(Box::new(asker), due);
        if let Some(beyond) = beyond {
            beyond.hear(Pong::Lost);
        }
        let frame: serde_json::Value = serde_json::from_str(&frame).expect("JSON");
        (heard, frame["id"].as_str().expect("text").to_owned())
    }

    fn answer(pings: &mut Pings, id: &str) -> bool {
        pings.answered(id).map(|asker| asker.hear(Pong::Answered)).is_some()
    }

    #[test]
    fn each_hears_once_of_its_own_answer_in_whatever_order_they_come() {
        let (mut pings, mut other) = (Pings::default(), Pings::default());
        let mut asked: Vec<_> = (0..3).map(|_| ask(&mut pings, None)).collect();
        let (_elsewhere, of_another_link) = ask(&mut other, None);
        assert!(asked.iter().all(|(_, id)| Uuid::parse_str(id).is_ok()), "{asked:?}");
        for id in ["", "x", "01a205e2-ca08-71c4-af4a-59f1ce17a0f4", &asked[0].1[..24], &of_another_link] {
            assert!(!answer(&mut pings, id), "{id}");
        }
        for place in [1, 2, 0] {
            let (heard, id) = &mut asked[place];
            assert!(heard.try_recv().is_err() && answer(&mut pings, id) && !answer(&mut pings, id), "{id}");
            assert_eq!(heard.try_recv(), Ok(Pong::Answered));
        }
        assert_eq!(pings.count(), 0);
    }

    #[test]
    fn those_that_are_due_are_given_up_and_the_others_are_waited_for() {
        let (mut pings, begin) = (Pings::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let asked: Vec<_> = [20, 30, 10].map(|seconds| ask(&mut pings, Some(at(seconds)))).into();
        let never = ask(&mut pings, None);
        assert_eq!((pings.due(), pings.overdue(at(9)).len()), (Some(at(10)), 0));
        assert!(answer(&mut pings, &asked[2].1), "in time");
        // When that one would have been due.
        assert_eq!((pings.overdue(at(10)).len(), pings.due()), (0, Some(at(20))));
        assert_eq!((pings.overdue(at(20)).len(), pings.due(), pings.count()), (1, Some(at(30)), 2));
        assert!(!answer(&mut pings, &asked[0].1), "too late");
        assert!(answer(&mut pings, &asked[1].1) && answer(&mut pings, &never.1));
        assert_eq!(pings.due(), None, "nothing is to be looked at");
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_given_up_and_who_is_gone_leaves_nothing() {
        let mut pings = Pings::default();
        let (mut oldest, _) = ask(&mut pings, None);
        let rest: Vec<_> = (0..UNANSWERED_PINGS).map(|_| ask(&mut pings, None)).collect();
        assert_eq!((oldest.try_recv(), pings.count()), (Ok(Pong::Lost), UNANSWERED_PINGS));
        drop(rest);
        let (_youngest, _) = ask(&mut pings, None);
        assert_eq!(pings.count(), 1);
    }
}
