//! The spool's clock goes on while nobody runs, and no jump of the wall clock moves it.

use std::sync::Arc;

use ws_daemon::spool::{Bounds, Durability, Spool};

use crate::support::{HOUR, block, place};

const DAY: i64 = 24 * HOUR;
const YEARS: i64 = 3650 * DAY;

#[test]
fn a_jump_of_ten_years_between_two_lives_counts_as_no_time_and_a_downtime_counts() {
    let cases = [(YEARS, 0), (-YEARS, 0), (-1000, 0), (5 * HOUR, 5 * HOUR), (31 * DAY, 31 * DAY), (32 * DAY, 0)];
    for (jump, counted) in cases {
        let (_folder, path) = place();
        let start = 1_700_000_000_000;
        let at =
            |wall: i64| Spool::open_with(&path, Bounds::default(), Durability::Full, Arc::new(move || wall)).unwrap().spool;
        block(async {
            let spool = at(start);
            spool.raise_epoch().await.unwrap();
            let before = spool.now_ms();
            spool.close().await;
            let spool = at(start + jump);
            let passed = spool.now_ms() - before;
            // What the test itself takes is counted too.
            assert!((counted - 5000..counted + 60_000).contains(&passed), "a jump of {jump} ms counted as {passed}");
        });
    }
}

#[test]
fn a_jump_while_it_runs_is_not_seen_at_all() {
    let (_folder, path) = place();
    let wall = Arc::new(std::sync::atomic::AtomicI64::new(1_700_000_000_000));
    let read = Arc::clone(&wall);
    let clock = Arc::new(move || read.load(std::sync::atomic::Ordering::Relaxed));
    let spool = Spool::open_with(&path, Bounds::default(), Durability::Full, clock).unwrap().spool;
    for jump in [YEARS, -2 * YEARS] {
        let before = spool.now_ms();
        wall.fetch_add(jump, std::sync::atomic::Ordering::Relaxed);
        assert!((0..60_000).contains(&(spool.now_ms() - before)));
    }
}
