//! How many connections there are, and which of them are not yet links. When there is no room, the one that has been half open
//! for longest makes room, once it has had its time: honest handshakes take milliseconds, unless very many come at once. Those that would
//! come then wait to be accepted, which does not drive out anybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::counters::Counters;

/// What a half-open one has for its handshake in any case. When all there may be are younger, who comes next waits to be accepted: a flood
/// that says nothing comes in as fast as `limits.half_open` in this time, and an honest one among it has this time.
const HALF_OPEN_TIME: Duration = Duration::from_secs(1);

/// The connections of one port. Clones are the same count.
#[derive(Debug, Clone)]
pub struct Connections {
    table: Arc<Mutex<Table>>,
    /// One is half open no more.
    closed: Arc<Notify>,
    counters: Counters,
}

#[derive(Debug)]
struct Table {
    most: usize,
    most_half_open: usize,
    /// Half-open ones and links.
    count: usize,
    /// Half-open ones by arrival, each with when it came and the token that drops it.
    half_open: BTreeMap<u64, (Instant, CancellationToken)>,
    next: u64,
}

/// One connection's place, given up when dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Connections,
    arrival: u64,
}

/// A new connection.
#[derive(Debug)]
pub struct Entered {
    /// Its place.
    pub seat: Seat,
    /// Tells it to go.
    pub dropped: CancellationToken,
    /// Whether another one was told to go for it.
    pub made_room: bool,
}

impl Connections {
    /// Room for `limit` connections, of which `half_open` may be half open; how many are is told to `counters`.
    pub fn new(limit: usize, half_open: usize, counters: Counters) -> Self {
        let table = Table { most: limit, most_half_open: half_open, count: 0, half_open: BTreeMap::new(), next: 0 };
        Self { table: Arc::new(Mutex::new(table)), closed: Arc::default(), counters }
    }

    /// From here on there is room for so many; whoever is here stays.
    pub fn set(&self, limit: usize, half_open: usize) {
        let mut table = self.table();
        (table.most, table.most_half_open) = (limit, half_open);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when one more may be half open, or the oldest of those that are has had its time.
    pub async fn room(&self) {
        loop {
            let mut closed = std::pin::pin!(self.closed.notified());
            closed.as_mut().enable();
            let Some(until) = self.table().full_until() else { return };
            // Whichever it is, that is looked at again.
            if until <= Instant::now() || timeout_at(until, closed).await.is_err() {
                return;
            }
        }
    }

    /// A place for a new connection, half open; `None` if all places are taken by links.
    pub fn enter(&self) -> Option<Entered> {
        let mut table = self.table();
        let made_room = table.count >= table.most || table.half_open.len() >= table.most_half_open;
        if made_room {
            // Its place is given up when its task sees the token: until then there is one connection too many.
            let (_, (_, oldest)) = table.half_open.pop_first()?;
            oldest.cancel();
        }
        let arrival = table.next;
        table.next += 1;
        table.count += 1;
        let dropped = CancellationToken::new();
        table.half_open.insert(arrival, (Instant::now(), dropped.clone()));
        self.counters.half_open(table.half_open.len());
        drop(table);
        Some(Entered { seat: Seat { connections: self.clone(), arrival }, dropped, made_room })
    }
}

impl Seat {
    /// The handshake is done: this connection is not dropped for another.
    pub fn became_link(&self) {
        self.connections.table().close_half(self.arrival, &self.connections.counters);
        self.connections.closed.notify_waiters();
    }
}

impl Table {
    /// Until when nobody need make room, if no more may be half open.
    fn full_until(&self) -> Option<Instant> {
        let (_, (oldest, _)) = self.half_open.first_key_value()?;
        (self.half_open.len() >= self.most_half_open).then(|| *oldest + HALF_OPEN_TIME)
    }

    /// It is half open no more.
    fn close_half(&mut self, arrival: u64, counters: &Counters) {
        self.half_open.remove(&arrival);
        counters.half_open(self.half_open.len());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.close_half(self.arrival, &self.connections.counters);
        table.count -= 1;
        drop(table);
        self.connections.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_half_open_one_makes_room_and_links_do_not() {
        let connections = Connections::new(2, 2, Counters::default());
        let link = connections.enter().expect("room");
        link.seat.became_link();
        let first = connections.enter().expect("room");
        assert!(!first.made_room);
        let second = connections.enter().expect("the first makes room");
        assert!(second.made_room && first.dropped.is_cancelled());
        assert!(!second.dropped.is_cancelled() && !link.dropped.is_cancelled());
        drop(first);
        second.seat.became_link();
        assert!(connections.enter().is_none(), "links are not dropped");
        drop(link);
        assert!(connections.enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_all_half_open_ones_are_young_waits_until_one_is_through_or_the_oldest_has_had_its_time() {
        let connections = Connections::new(100, 2, Counters::default());
        let first = connections.enter().expect("room");
        let second = connections.enter().expect("room");
        let came = Instant::now();
        tokio::join!(connections.room(), async { second.seat.became_link() });
        assert_eq!(came.elapsed(), Duration::ZERO);
        let third = connections.enter().expect("room");
        assert!(!third.made_room);
        connections.room().await;
        assert!(came.elapsed() >= HALF_OPEN_TIME && !first.dropped.is_cancelled());
        assert!(connections.enter().expect("the first makes room").made_room && first.dropped.is_cancelled());
        assert!(!third.dropped.is_cancelled());
    }

    #[test]
    fn half_open_ones_have_a_bound_of_their_own_below_that_of_all() {
        let counters = Counters::default();
        let connections = Connections::new(100, 3, counters.clone());
        let mut entered: Vec<_> = (0..10).map(|_| connections.enter().expect("the oldest makes room")).collect();
        let dropped: Vec<bool> = entered.iter().map(|entered| entered.dropped.is_cancelled()).collect();
        assert_eq!(dropped, [[true; 7].as_slice(), &[false; 3]].concat());
        let half_open = || counters.connections().find(|(name, _)| *name == "half_open").map(|(_, now)| now);
        assert_eq!(half_open(), Some(3));
        entered.iter().skip(7).for_each(|entered| entered.seat.became_link());
        assert_eq!(half_open(), Some(0));
        let _next = connections.enter().expect("room");
        assert!(entered.iter().skip(7).all(|link| !link.dropped.is_cancelled()), "links make no room");
        entered.clear();
        assert_eq!((half_open(), connections.table().count), (Some(1), 1));
    }
}
