//! The room for runs, those that run and those in line: how many there are and how long their params, in all and of each asker. No
//! asker can fill it for the others. It never puts anybody in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::rounds::Asker;

/// An asker may have so many times as much in line as is free: alone it gets eight ninths of the room, and whoever comes then finds
/// some. Where the line is shorter than this, one asker may fill it.
const SHARE: usize = 8;

/// The room.
#[derive(Debug)]
pub struct Room(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Runs that are here, and the bytes of their params; more than the most for a while, when that was made less.
    runs: usize,
    bytes: usize,
    most_runs: usize,
    most_bytes: usize,
    askers: HashMap<Asker, Share>,
}

/// What one asker has.
#[derive(Debug, Default)]
struct Share {
    runs: usize,
    /// Those of them that are in line.
    in_line: usize,
    bytes: usize,
}

/// The place of a run; given back when dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    asker: Asker,
    bytes: usize,
    in_line: bool,
}

impl Room {
    /// Room for so many runs and bytes of their params.
    pub fn new(runs: usize, bytes: usize) -> Self {
        Self(Mutex::new(State { runs: 0, bytes: 0, most_runs: runs, most_bytes: bytes, askers: HashMap::new() }))
    }

    /// From here on there is room for so much; whoever is here stays.
    pub fn set(&self, runs: usize, bytes: usize) {
        let mut state = self.state();
        (state.most_runs, state.most_bytes) = (runs, bytes);
    }

    /// A place for a run with so many bytes of params.
    ///
    /// # Errors
    /// Of what there is too much.
    pub fn take(self: &Arc<Self>, asker: Asker, bytes: usize) -> Result<Place, &'static str> {
        let mut state = self.state();
        let (free_runs, free_bytes) = state.free();
        if free_runs == 0 {
            return Err("runs");
        }
        if bytes > free_bytes {
            return Err("bytes of params");
        }
        if let Some(share) = state.askers.get(&asker) {
            if share.in_line >= free_runs.saturating_mul(SHARE) {
                return Err("runs of this asker");
            }
            if bytes > 0 && share.bytes >= free_bytes.saturating_mul(SHARE) {
                return Err("bytes of params of this asker");
            }
        }
        state.runs += 1;
        state.bytes += bytes;
        let share = state.askers.entry(asker.clone()).or_default();
        share.runs += 1;
        share.bytes += bytes;
        Ok(Place { room: Arc::clone(self), asker, bytes, in_line: false })
    }

    /// How many runs are here.
    pub fn runs(&self) -> usize {
        self.state().runs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Runs and bytes of their params that there is room for.
    fn free(&self) -> (usize, usize) {
        (self.most_runs.saturating_sub(self.runs), self.most_bytes.saturating_sub(self.bytes))
    }
}

impl Place {
    /// On whose behalf it was taken.
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Whether the run is in line from here on.
    pub fn set_in_line(&mut self, in_line: bool) {
        if in_line == std::mem::replace(&mut self.in_line, in_line) {
            return;
        }
        if let Some(share) = self.room.state().askers.get_mut(&self.asker) {
            if in_line { share.in_line += 1 } else { share.in_line -= 1 }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.runs -= 1;
        state.bytes -= self.bytes;
        if let Some(share) = state.askers.get_mut(&self.asker) {
            share.runs -= 1;
            share.bytes -= self.bytes;
            share.in_line -= usize::from(self.in_line);
            if share.runs == 0 {
                state.askers.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(name: &str) -> Asker {
        Some(name.into())
    }

    /// As many places in line as `name` gets.
    fn fill(room: &Arc<Room>, name: &str, bytes: usize) -> Vec<Place> {
        let next = || {
            let mut place = room.take(asker(name), bytes).ok()?;
            place.set_in_line(true);
            Some(place)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn one_asker_leaves_room_for_others_and_what_runs_is_not_counted_as_waiting() {
        let room = Arc::new(Room::new(900, 0));
        let mut first = fill(&room, "a", 0);
        assert_eq!((first.len(), room.take(asker("a"), 0).err()), (800, Some("runs of this asker")));
        let second = fill(&room, "b", 0);
        assert_eq!(second.len(), 89);
        assert!(!fill(&room, "c", 0).is_empty());
        for place in &mut first {
            place.set_in_line(false);
        }
        assert_eq!(fill(&room, "a", 0).len(), 10, "they run, so there may be as many in line as there is room for");
        drop((first, second));
        assert_eq!((room.runs(), room.state().askers.len()), (0, 0));
    }

    #[test]
    fn a_short_line_may_be_one_askers() {
        let room = Arc::new(Room::new(SHARE, 1000));
        let places = fill(&room, "a", 100);
        assert_eq!((places.len(), room.take(asker("b"), 0).err()), (SHARE, Some("runs")));
        assert!(room.take(asker("b"), 201).is_err());
        drop(places);
        assert_eq!(room.state().free(), (SHARE, 1000));
    }

    #[test]
    fn room_that_was_made_less_takes_nobody_in_until_enough_have_gone() {
        let room = Arc::new(Room::new(3, 30));
        let mut places = fill(&room, "a", 10);
        assert_eq!(places.len(), 3);
        room.set(2, 30);
        places.pop();
        assert_eq!(room.take(asker("b"), 0).err(), Some("runs"));
        places.pop();
        room.take(asker("b"), 0).expect("there is room again");
        room.set(4, 10);
        assert_eq!((room.take(asker("b"), 1).err(), fill(&room, "b", 0).len()), (Some("bytes of params"), 3));
    }

    #[test]
    fn params_are_shared_in_the_same_way() {
        let room = Arc::new(Room::new(10_000, 9000));
        let places = fill(&room, "a", 10);
        assert_eq!((places.len(), room.take(asker("a"), 10).err()), (800, Some("bytes of params of this asker")));
        assert_eq!(room.take(asker("b"), 1001).err(), Some("bytes of params"));
        room.take(asker("b"), 1000).expect("it is free");
        room.take(asker("a"), 0).expect("it takes none");
    }
}
