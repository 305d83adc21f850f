//! Who waits for peers to come, sorted by whom they wait for: ten thousand runs for one that is away are not to be woken by each
//! other one that comes. It never knows who is there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Whom somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// Whoever has this name.
    Name(Box<str>),
    /// This instance.
    Instance(Box<str>),
}

/// Those who wait. A receiver's `changed` ends when whom it waits for has come since it was made.
#[derive(Debug, Default)]
pub struct Arrivals {
    of_anyone: watch::Sender<u64>,
    of_one: Mutex<Ones>,
}

/// As many as there are waiting for different ones, and at most as many again who wait no more.
#[derive(Debug, Default)]
struct Ones {
    waiting: HashMap<Awaited, watch::Sender<u64>>,
    /// When there are so many, those for whom nobody waits any more are let go.
    sweep_at: usize,
}

impl Arrivals {
    /// The arrivals of anyone.
    pub fn of_anyone(&self) -> watch::Receiver<u64> {
        self.of_anyone.subscribe()
    }

    /// The arrivals of this one.
    pub fn of(&self, awaited: Awaited) -> watch::Receiver<u64> {
        let mut ones = self.ones();
        if ones.waiting.len() >= ones.sweep_at {
            ones.waiting.retain(|_, sender| sender.receiver_count() > 0);
            ones.sweep_at = (ones.waiting.len() * 2).max(16);
        }
        ones.waiting.entry(awaited).or_default().subscribe()
    }

    /// One of this name and instance has come.
    pub fn came(&self, name: &str, instance: Option<&str>) {
        tell(&self.of_anyone);
        let mut ones = self.ones();
        for awaited in [Some(Awaited::Name(name.into())), instance.map(|instance| Awaited::Instance(instance.into()))] {
            if let Some(sender) = awaited.and_then(|awaited| ones.waiting.remove(&awaited)) {
                // Who waits hears of it also from a sender that is gone.
                tell(&sender);
            }
        }
    }

    /// Something has changed that may concern all who wait.
    pub fn touch(&self) {
        tell(&self.of_anyone);
        let waiting = std::mem::take(&mut self.ones().waiting);
        waiting.values().for_each(tell);
    }

    fn ones(&self) -> MutexGuard<'_, Ones> {
        // Every section leaves the table whole.
        self.of_one.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count += 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Awaited {
        Awaited::Name(name.into())
    }

    fn woken(receivers: &mut [watch::Receiver<u64>]) -> Vec<bool> {
        receivers.iter_mut().map(|receiver| receiver.has_changed().unwrap_or(true)).collect()
    }

    #[test]
    fn only_who_waits_for_one_that_came_is_woken_and_all_when_it_may_concern_all() {
        let arrivals = Arrivals::default();
        let waiting = || {
            [arrivals.of_anyone(), arrivals.of(name("a")), arrivals.of(name("b")), arrivals.of(Awaited::Instance("a".into()))]
        };
        let mut before = waiting();
        arrivals.came("a", Some("i"));
        assert_eq!(woken(&mut before), [true, true, false, false]);
        arrivals.came("x", Some("a"));
        assert_eq!(woken(&mut before), [true, true, false, true]);
        let mut before = waiting();
        assert_eq!(woken(&mut before), [false; 4], "what came before is seen");
        arrivals.touch();
        assert_eq!(woken(&mut before), [true; 4]);
    }

    #[test]
    fn who_waits_no_more_is_let_go() {
        let arrivals = Arrivals::default();
        let stays = arrivals.of(name("stays"));
        for number in 0..10_000 {
            drop(arrivals.of(name(&number.to_string())));
        }
        assert!(arrivals.ones().waiting.len() < 40);
        arrivals.came("stays", None);
        assert!(stays.has_changed().unwrap_or(true));
    }
}
