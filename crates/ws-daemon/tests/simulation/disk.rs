//! The disks under the spools: each does what waits after a while of the simulated time. It never does anything at once, so a
//! crash can come between any verb and its answer.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::sleep;
use ws_daemon::spool::Hand;

/// The longest wait for a commit.
const SLOWEST_MS: u64 = 12;

thread_local! {
    static DISKS: RefCell<Vec<Weak<Disk>>> = const { RefCell::new(Vec::new()) };
}

/// The disk of one life of a daemon.
#[derive(Debug)]
pub struct Disk {
    hand: Mutex<Option<Hand>>,
    work: Notify,
}

impl Disk {
    pub fn new(hand: Hand) -> Arc<Self> {
        let disk = Arc::new(Self { hand: Mutex::new(Some(hand)), work: Notify::new() });
        DISKS.with_borrow_mut(|disks| disks.push(Arc::downgrade(&disk)));
        disk
    }

    fn with<T>(&self, look: impl FnOnce(&mut Option<Hand>) -> T) -> T {
        look(&mut self.hand.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does what waits, each time after a while.
    pub async fn run(self: Arc<Self>, mut rng: Rng) {
        loop {
            self.work.notified().await;
            sleep(Duration::from_millis(rng.u64(0..=SLOWEST_MS))).await;
            self.with(|hand| hand.as_mut().map(Hand::work));
        }
    }

    /// What waits is never done; another may open the file.
    pub fn cut_off(&self) {
        self.with(Option::take);
    }
}

/// Wakes the disks for which there is work. Called when nothing else is left to do at an instant.
pub fn look() {
    DISKS.with_borrow_mut(|disks| {
        disks.retain(|disk| disk.strong_count() > 0);
        for disk in disks.iter().filter_map(Weak::upgrade) {
            if disk.with(|hand| hand.as_ref().is_some_and(Hand::has_work)) {
                disk.work.notify_one();
            }
        }
    });
}
