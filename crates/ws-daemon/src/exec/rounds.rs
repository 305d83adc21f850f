//! What waits, each for an asker, and whose turn is next: the askers take turns, and of one asker what came first goes first. It
//! never waits itself, and bounds nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// On whose behalf something waits: a peer by its name, or the daemon itself, whose hooks and `then` are one asker.
pub type Asker = Option<Arc<str>>;

/// What waits. Holds no memory while nothing does.
#[derive(Debug)]
pub struct Rounds<T> {
    /// Numbers what comes and the turns.
    next: u64,
    /// Who has something waiting, by their turns.
    turns: BTreeMap<u64, Asker>,
    askers: HashMap<Asker, Of<T>>,
}

/// What waits of one asker.
#[derive(Debug)]
struct Of<T> {
    turn: u64,
    things: BTreeMap<u64, T>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self { next: 0, turns: BTreeMap::new(), askers: HashMap::new() }
    }
}

impl<T> Rounds<T> {
    /// Puts something behind all that its asker has here; the number says which it is.
    pub fn push(&mut self, asker: &Asker, thing: T) -> u64 {
        let number = self.number();
        if let Some(of) = self.askers.get_mut(asker) {
            of.things.insert(number, thing);
        } else {
            self.turns.insert(number, asker.clone());
            self.askers.insert(asker.clone(), Of { turn: number, things: BTreeMap::from([(number, thing)]) });
        }
        number
    }

    /// Takes out what is next; its asker's next turn comes after all others'.
    pub fn pop(&mut self) -> Option<T> {
        let (_, asker) = self.turns.pop_first()?;
        let turn = self.number();
        let of = self.askers.get_mut(&asker)?;
        let (_, thing) = of.things.pop_first()?;
        if of.things.is_empty() {
            self.askers.remove(&asker);
        } else {
            of.turn = turn;
            self.turns.insert(turn, asker);
        }
        Some(thing)
    }

    /// What was given this number, if it waits still.
    pub fn get_mut(&mut self, asker: &Asker, number: u64) -> Option<&mut T> {
        self.askers.get_mut(asker)?.things.get_mut(&number)
    }

    /// Takes out what was given this number, if it waits still.
    pub fn remove(&mut self, asker: &Asker, number: u64) -> Option<T> {
        let of = self.askers.get_mut(asker)?;
        let thing = of.things.remove(&number)?;
        if of.things.is_empty() {
            self.turns.remove(&of.turn);
            self.askers.remove(asker);
        }
        Some(thing)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(rounds: &mut Rounds<u32>) -> Vec<u32> {
        std::iter::from_fn(|| rounds.pop()).collect()
    }

    #[test]
    fn askers_take_turns_and_of_one_asker_what_came_first_goes_first() {
        let (own, a, b): (Asker, Asker, Asker) = (None, Some("a".into()), Some("b".into()));
        let mut rounds = Rounds::default();
        for thing in 0..5 {
            rounds.push(&a, thing);
        }
        assert_eq!(rounds.pop(), Some(0));
        rounds.push(&b, 10);
        rounds.push(&own, 20);
        rounds.push(&b, 11);
        assert_eq!(rest(&mut rounds), [1, 10, 20, 2, 11, 3, 4]);
        assert!(rounds.turns.is_empty() && rounds.askers.is_empty());
    }

    #[test]
    fn what_is_taken_out_has_no_turn() {
        let (a, b): (Asker, Asker) = (Some("a".into()), Some("b".into()));
        let mut rounds = Rounds::default();
        let [first, second] = [1, 2].map(|thing| rounds.push(&a, thing));
        let only = rounds.push(&b, 10);
        assert_eq!(rounds.remove(&b, first), None, "it is of another");
        assert_eq!((rounds.remove(&b, only), rounds.remove(&b, only)), (Some(10), None));
        assert_eq!(rounds.remove(&a, first), Some(1));
        *rounds.get_mut(&a, second).expect("it waits") = 3;
        assert_eq!(rest(&mut rounds), [3]);
        assert_eq!(rounds.get_mut(&a, second), None);
        assert!(rounds.turns.is_empty() && rounds.askers.is_empty());
    }
}
