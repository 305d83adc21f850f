//! Who is connected, in order of arrival: where a status goes that nobody waits for. It never hands one to a process that has a
//! request in flight, because such a process takes every line for its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tracing::debug;

use super::answers::Answers;

/// The connected processes. Clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct Lobby(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    connected: BTreeMap<u64, Answers>,
    next: u64,
}

/// A connection's place, given up when dropped.
#[derive(Debug)]
pub struct Seat {
    lobby: Lobby,
    arrival: u64,
}

impl Lobby {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in.
    #[must_use]
    pub(super) fn enter(&self, answers: Answers) -> Seat {
        let mut table = self.table();
        let arrival = table.next;
        table.next += 1;
        table.connected.insert(arrival, answers);
        Seat { lobby: self.clone(), arrival }
    }

    /// Passes statuses that nobody waits for to the most recently connected process that has nothing in flight, one by one,
    /// until no more can come.
    pub async fn pass_on(self, mut unclaimed: mpsc::Receiver<Box<str>>) {
        while let Some(line) = unclaimed.recv().await {
            if !self.table().connected.values().rev().any(|answers| answers.line_if_idle(&line)) {
                debug!("a status came that nobody waits for, and nobody is idle to read it");
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.table().connected.remove(&self.arrival);
    }
}
