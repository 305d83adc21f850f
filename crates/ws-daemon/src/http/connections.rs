//! How many connections there are, and which of them are not yet links. When there is no room, the one that has been half open
//! for longest makes room: honest handshakes take milliseconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections of one port. Clones are the same count.
#[derive(Debug, Clone)]
pub struct Connections {
    table: Arc<Mutex<Table>>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Table {
    /// Half-open ones and links.
    count: usize,
    /// Half-open ones by arrival, each with the token that drops it.
    half_open: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// One connection's place, given up when dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Connections,
    arrival: u64,
}

impl Connections {
    /// Room for `limit` connections.
    pub fn new(limit: usize) -> Self {
        Self { table: Arc::default(), limit }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, half open, and the token that tells it to go; `None` if all places are taken by links.
    pub fn enter(&self) -> Option<(Seat, CancellationToken)> {
        let mut table = self.table();
        if table.count >= self.limit {
            // Its place is given up when its task sees the token: until then there is one connection too many.
            let (_, oldest) = table.half_open.pop_first()?;
            oldest.cancel();
        }
        let arrival = table.next;
        table.next += 1;
        table.count += 1;
        let dropped = CancellationToken::new();
        table.half_open.insert(arrival, dropped.clone());
        drop(table);
        Some((Seat { connections: self.clone(), arrival }, dropped))
    }
}

impl Seat {
    /// The handshake is done: this connection is not dropped for another.
    pub fn became_link(&self) {
        self.connections.table().half_open.remove(&self.arrival);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.half_open.remove(&self.arrival);
        table.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_half_open_one_makes_room_and_links_do_not() {
        let connections = Connections::new(2);
        let (link, link_dropped) = connections.enter().expect("room");
        link.became_link();
        let (first, first_dropped) = connections.enter().expect("room");
        let (second, second_dropped) = connections.enter().expect("the first makes room");
        assert!(first_dropped.is_cancelled() && !second_dropped.is_cancelled() && !link_dropped.is_cancelled());
        drop(first);
        second.became_link();
        assert!(connections.enter().is_none(), "links are not dropped");
        drop(link);
        assert!(connections.enter().is_some());
    }
}
