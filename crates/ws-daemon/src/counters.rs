//! What became of connections, links and runs since the daemon started: numbers that only grow, and how many connections are half
//! open now. Nothing is ever decided by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A connection was accepted, whatever became of it.
    Accepted,
    /// A link came up: an accepted one or a dialled one.
    Linked,
    /// Closed at once: there are as many links as may be.
    Full,
    /// Closed at once: too many connections of its address.
    TooFast,
    /// Closed at once: too many failures of its address.
    TooManyFailures,
    /// Closed half open, to make room for a new one.
    HalfOpenDropped,
    /// No link came of it, for whatever reason but those above.
    Failures,
    /// Of these: answered 401.
    Unauthorized,
    /// Of these: answered 403.
    Forbidden,
    /// Of these: no handshake, or a wrong one.
    BadHandshake,
    /// Of these: no link in time.
    TooSlow,
    /// Of these: a version 2 peer did not say who it is.
    NoHello,
    /// Of these: not taken in, as a clone or for its name.
    Unwelcome,
    /// The peer closed the link.
    ByPeer,
    /// The link's connection ended without a word.
    Lost,
    /// A frame was too large.
    TooLarge,
    /// Text was not UTF-8.
    NotUtf8,
    /// Something was against the WebSocket protocol.
    AgainstProtocol,
    /// The link's connection broke.
    Broken,
    /// Nothing was heard of the peer.
    Silent,
    /// The peer did not read what it asked for.
    DoesNotRead,
    /// The same instance came by another link.
    Replaced,
    /// This daemon closed the link.
    Here,
}

/// Those of connections, with the names that STATS has for them.
const CONNECTIONS: [(Count, &str); 13] = [
    (Count::Accepted, "accepted"),
    (Count::Linked, "linked"),
    (Count::Full, "full"),
    (Count::TooFast, "too_fast"),
    (Count::TooManyFailures, "too_many_failures"),
    (Count::HalfOpenDropped, "half_open_dropped"),
    (Count::Failures, "failures"),
    (Count::Unauthorized, "unauthorized"),
    (Count::Forbidden, "forbidden"),
    (Count::BadHandshake, "bad_handshake"),
    (Count::TooSlow, "too_slow"),
    (Count::NoHello, "no_hello"),
    (Count::Unwelcome, "unwelcome"),
];

/// Those of links that have ended.
const LINKS_CLOSED: [(Count, &str); 10] = [
    (Count::ByPeer, "by_peer"),
    (Count::Lost, "lost"),
    (Count::TooLarge, "too_large"),
    (Count::NotUtf8, "not_utf8"),
    (Count::AgainstProtocol, "against_protocol"),
    (Count::Broken, "broken"),
    (Count::Silent, "silent"),
    (Count::DoesNotRead, "does_not_read"),
    (Count::Replaced, "replaced"),
    (Count::Here, "here"),
];

/// The numbers. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: [AtomicU64; CONNECTIONS.len() + LINKS_CLOSED.len()],
    half_open: AtomicU64,
    /// By the place of the code in the list of all.
    commands: [AtomicU64; Command::CODES.len()],
    refused: Outcomes,
    /// By the first digit of their status.
    answers: [AtomicU64; CLASSES.len()],
}

/// The classes of answers of HTTP.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Counters {
    /// One more.
    pub fn count(&self, what: Count) {
        self.0.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many connections are half open now.
    pub fn half_open(&self, now: usize) {
        self.0.half_open.store(now as u64, Ordering::Relaxed);
    }

    /// What is known of connections, by name.
    pub fn connections(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.named(&CONNECTIONS).chain([("half_open", self.0.half_open.load(Ordering::Relaxed))])
    }

    /// Why links ended, by name.
    pub fn links_closed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.named(&LINKS_CLOSED)
    }

    /// A command was carried out for a local process, or for a caller over HTTP.
    pub fn command(&self, command: &Command) {
        if let Some(place) = Command::CODES.iter().position(|code| *code == command.code()) {
            self.0.commands[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each command was carried out.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Command::CODES.into_iter().zip(&self.0.commands).map(|(code, count)| (code, count.load(Ordering::Relaxed)))
    }

    /// Something that was asked over HTTP was answered with this status.
    pub fn answered(&self, status: u16) {
        if let Some(count) = self.0.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often what was asked over HTTP was answered how.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(&self.0.answers).map(|(class, count)| (class, count.load(Ordering::Relaxed)))
    }

    /// What was turned away before anything was done for it: requests, commands, and what is neither.
    #[must_use]
    pub fn refused(&self) -> &Outcomes {
        &self.0.refused
    }

    fn named(&self, table: &'static [(Count, &'static str)]) -> impl Iterator<Item = (&'static str, u64)> {
        table.iter().map(|(what, name)| (*name, self.0.counts[*what as usize].load(Ordering::Relaxed)))
    }
}

/// How an end is called that has no error word: with status 0, with another one, by a signal; and one that is none of ours.
const ENDS: [&str; 4] = ["exited", "failed", "signaled", "other"];

/// How runs ended. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Outcomes(Arc<OutcomeCounts>);

#[derive(Debug, Default)]
struct OutcomeCounts {
    ends: [AtomicU64; ENDS.len()],
    /// By the place of the code in the list of all.
    codes: [AtomicU64; ErrorCode::ALL.len()],
}

impl Outcomes {
    /// One more that ended so.
    pub fn count(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Exited(0) => self.end(0),
            Outcome::Exited(_) => self.end(1),
            Outcome::Signaled(_) => self.end(2),
            Outcome::Failed(code, _) | Outcome::Stopped(code, _, _) => self.code(*code),
        }
    }

    /// The same, as it is told.
    pub fn count_report(&self, report: &Report) {
        match (report.error_code(), report.status) {
            (Some(code), _) => self.code(code),
            (None, Some(0)) => self.end(0),
            // Nobody was there, as the seed says it.
            (None, Some(-2)) => self.code(ErrorCode::NoPeer),
            _ if report.signal.is_some() => self.end(2),
            (None, None) => self.end(2),
            (None, Some(1..)) => self.end(1),
            (None, Some(_)) => self.end(3),
        }
    }

    /// How many ended how: the ends, then every error word.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let ends = ENDS.into_iter().zip(&self.0.ends);
        let codes = ErrorCode::ALL.iter().map(|(_, word, _)| *word).zip(&self.0.codes);
        ends.chain(codes).map(|(word, count)| (word, count.load(Ordering::Relaxed)))
    }

    /// How many have an error word.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.all().skip(ENDS.len())
    }

    fn end(&self, place: usize) {
        self.0.ends[place].fetch_add(1, Ordering::Relaxed);
    }

    fn code(&self, code: ErrorCode) {
        if let Some(place) = ErrorCode::ALL.iter().position(|(other, ..)| *other == code) {
            self.0.codes[place].fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_counts_the_same_as_it_is_and_as_it_is_told() {
        let outcomes = [Outcome::Exited(0), Outcome::Exited(7)].into_iter();
        let outcomes = outcomes.chain(ErrorCode::ALL.map(|(code, ..)| Outcome::failed(code, "why")));
        for outcome in outcomes {
            let (one, other) = (Outcomes::default(), Outcomes::default());
            one.count(&outcome);
            other.count_report(&outcome.clone().into());
            let counted: Vec<_> = one.all().collect();
            assert_eq!(counted, other.all().collect::<Vec<_>>(), "{outcome:?}");
            assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>(), 1);
        }
        let seed = Outcomes::default();
        for status in [None, Some(-2), Some(-9), Some(3)] {
            seed.count_report(&Report { status, ..Report::from(Outcome::Exited(0)) });
        }
        let found: Vec<_> = seed.all().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [("failed", 1), ("signaled", 1), ("other", 1), ("no_peer", 1)]);
    }

    #[test]
    fn each_has_a_number_and_a_name_of_its_own() {
        let counters = Counters::default();
        let all: Vec<Count> = CONNECTIONS.iter().chain(&LINKS_CLOSED).map(|(what, _)| *what).collect();
        for (number, what) in all.iter().enumerate() {
            assert_eq!(*what as usize, number, "the tables have the order of the list");
            (0..=number).for_each(|_| counters.count(*what));
        }
        counters.half_open(77);
        let connections: Vec<(&str, u64)> = counters.connections().collect();
        let closed: Vec<(&str, u64)> = counters.links_closed().collect();
        assert_eq!((connections[0], connections[13], closed[0]), (("accepted", 1), ("half_open", 77), ("by_peer", 14)));
        assert_eq!(closed.last(), Some(&("here", 23)));
        let names: std::collections::BTreeSet<&str> = connections.iter().chain(&closed).map(|(name, _)| *name).collect();
        assert_eq!(names.len(), 24);
    }
}
