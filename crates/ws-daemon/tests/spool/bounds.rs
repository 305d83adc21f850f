//! What happens when the spool is full, and what is dropped when it is old: never what is unsettled or unacknowledged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ws_daemon::spool::{Accepted, Bounds, Claimed, Durability, NewRequest, Spool, SpoolError};

use crate::support::{HOUR, block, claim, everything, peer, place, request, run};

/// Opened again for each test step, some hours later: so time passes without waiting.
struct Later {
    wall: Arc<AtomicI64>,
    bounds: Bounds,
}

impl Later {
    fn new(bounds: Bounds) -> Self {
        Self { wall: Arc::new(AtomicI64::new(1_700_000_000_000)), bounds }
    }

    fn open(&self, path: &Path, hours: i64) -> Spool {
        self.wall.fetch_add(hours * HOUR, Ordering::Relaxed);
        let wall = Arc::clone(&self.wall);
        let clock = Arc::new(move || wall.load(Ordering::Relaxed));
        Spool::open_with(path, self.bounds.clone(), Durability::Full, clock).unwrap().spool
    }
}

#[test]
fn a_spool_that_is_full_of_unsettled_rows_refuses_new_work_and_takes_outcomes() {
    let (_folder, path) = place();
    let spool = Spool::open(&path, Bounds { runs: 4, ..Bounds::default() }, Durability::Full).unwrap().spool;
    block(async {
        spool.accept(request(&[1, 2], None)).await.unwrap();
        spool.claim(&spool.identity().instance, claim(1)).await.unwrap();
        spool.claim(&spool.identity().instance, claim(2)).await.unwrap();
        assert_eq!(spool.accept(request(&[3], None)).await, Err(SpoolError::Full));
        assert_eq!(spool.claim(&spool.identity().instance, claim(3)).await, Err(SpoolError::Full));
        assert_eq!(spool.claim(&spool.identity().instance, claim(2)).await, Ok(Claimed::Running), "what is known is told");
        spool.finish("asker-1", run(1), 1, "x".repeat(10_000).into()).await.unwrap();
        spool.acknowledged("asker-1", run(1), 1).await.unwrap();
        assert_eq!(spool.claim(&spool.identity().instance, claim(3)).await, Ok(Claimed::Fresh));
        for number in [1, 2] {
            spool.settle(run(number), "{}".into()).await.unwrap();
        }
        assert_eq!(spool.accept(request(&[4], None)).await, Ok(Accepted::Fresh), "history without a key makes room");
        assert_eq!(spool.run_record(run(1)).await, Ok(None));
    });
}

#[test]
fn bytes_are_bounded_and_outcomes_have_room_all_the_same() {
    let (_folder, path) = place();
    let bytes = 2 << 20;
    let spool = Spool::open(&path, Bounds { bytes, ..Bounds::default() }, Durability::Full).unwrap().spool;
    block(async {
        let big = |number| NewRequest { body: "x".repeat(50_000).into(), ..request(&[number], None) };
        let mut accepted = 0;
        let refused = loop {
            match spool.accept(big(accepted)).await {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, SpoolError::Full);
        assert!((30..40).contains(&accepted), "{accepted} of 50 kB in 2 MiB");
        assert_eq!(spool.keep_output(run(1), 1, 0, vec![0; 100_000]).await, Err(SpoolError::Full));
        for number in 0..accepted {
            spool.bind(run(number), "doer", 1).await.unwrap();
            spool.settle(run(number), "{\"status\":0}".into()).await.unwrap();
        }
        assert!(spool.stats().bytes <= bytes, "{}", spool.stats().bytes);
        assert_eq!(spool.accept(big(1000)).await, Ok(Accepted::Fresh), "settled ones make room");
    });
}

#[test]
fn one_verb_over_a_bound_does_not_fail_the_others_of_its_batch() {
    let (_folder, path) = place();
    let spool = Spool::open(&path, Bounds { runs: 50, ..Bounds::default() }, Durability::Full).unwrap().spool;
    block(async {
        let all = (0..80).map(|number| {
            let spool = spool.clone();
            async move { spool.accept(request(&[number], None)).await }
        });
        let done = futures_util::future::join_all(all).await;
        assert_eq!(done.iter().filter(|done| **done == Ok(Accepted::Fresh)).count(), 50);
        assert_eq!(done.iter().filter(|done| **done == Err(SpoolError::Full)).count(), 30);
        assert_eq!(spool.runs(everything()).await.unwrap().len(), 50);
    });
}

#[test]
fn an_id_is_remembered_for_a_day_after_it_settled_and_the_history_for_a_week() {
    let (_folder, path) = place();
    let later = Later::new(Bounds::default());
    let steps = [(23, true, true), (2, false, true), (6 * 24, false, false)];
    let spool = later.open(&path, 0);
    block(async {
        spool.accept(request(&[1], Some("k"))).await.unwrap();
        spool.accept(request(&[2], Some("open"))).await.unwrap();
        spool.settle(run(1), "told".into()).await.unwrap();
        spool.close().await;
        for (hours, remembered, kept) in steps {
            let spool = later.open(&path, hours);
            // Any verb that writes sweeps.
            spool.peer_seen(peer("p")).await.unwrap();
            assert_eq!(spool.run_record(run(1)).await.unwrap().is_some(), kept, "after {hours} h more");
            let known = spool.accept(request(&[90], Some("k"))).await;
            assert_eq!(matches!(known, Ok(Accepted::Known(_))), remembered, "after {hours} h more: {known:?}");
            if !remembered {
                assert_eq!(known, Ok(Accepted::Fresh));
                break;
            }
            spool.close().await;
        }
    });
}

#[test]
fn what_is_old_goes_and_what_is_unsettled_due_or_unacknowledged_stays() {
    let (_folder, path) = place();
    let later = Later::new(Bounds::default());
    let spool = later.open(&path, 0);
    block(async {
        spool.accept(request(&[1], Some("old"))).await.unwrap();
        spool.accept(request(&[2], Some("open"))).await.unwrap();
        spool.accept(NewRequest { then: Some("done".into()), ..request(&[3], Some("due")) }).await.unwrap();
        for number in [1, 3] {
            spool.settle(run(number), "told".into()).await.unwrap();
        }
        for number in [4, 5, 6] {
            spool.claim(&spool.identity().instance, claim(number)).await.unwrap();
        }
        for number in [5, 6] {
            spool.finish("asker-1", run(number), 1, "r".into()).await.unwrap();
        }
        spool.acknowledged("asker-1", run(6), 1).await.unwrap();
        spool.close().await;
        let spool = later.open(&path, 20 * 24);
        spool.raise_epoch().await.unwrap();
        spool.close().await;
        let spool = later.open(&path, 20 * 24);
        spool.peer_seen(peer("p")).await.unwrap();
        let runs: Vec<_> = spool.runs(everything()).await.unwrap().into_iter().map(|record| record.run).collect();
        assert_eq!(runs, [run(3), run(2)]);
        let claims: Vec<_> = spool.claims(everything()).await.unwrap().into_iter().map(|record| record.run).collect();
        assert_eq!(claims, [run(5), run(4)]);
        assert_eq!(spool.stats().history_bytes, request(&[3], None).body.len() as u64 + 4);
    });
}

#[test]
fn history_beyond_its_bytes_loses_bodies_first_and_keeps_the_answers_of_remembered_ids() {
    let (_folder, path) = place();
    let later = Later::new(Bounds { history_bytes: 25_000, ..Bounds::default() });
    let spool = later.open(&path, 0);
    block(async {
        for number in 0..5 {
            let key = (number != 1).then(|| format!("k{number}"));
            let new = request(&[number], key.as_deref());
            spool.accept(NewRequest { body: "b".repeat(10_000).into(), ..new }).await.unwrap();
            spool.settle(run(number), format!("report {number}").into()).await.unwrap();
        }
        assert_eq!(spool.stats().history_bytes, 50_040);
        spool.close().await;
        let spool = later.open(&path, 1);
        spool.peer_seen(peer("p")).await.unwrap();
        assert!(spool.stats().history_bytes <= 25_000, "{}", spool.stats().history_bytes);
        for number in [0, 2, 3, 4] {
            let Ok(Accepted::Known(runs)) = spool.accept(request(&[99], Some(&format!("k{number}")))).await else {
                panic!("k{number} is remembered")
            };
            assert_eq!(runs[0].report.as_deref(), Some(&*format!("report {number}")));
        }
        assert_eq!(spool.run_record(run(1)).await, Ok(None), "it had no key");
        let counted = spool.stats().history_bytes;
        spool.close().await;
        let spool = later.open(&path, 0);
        assert_eq!(spool.stats().history_bytes, counted);
    });
}

#[test]
fn tombstones_and_peers_are_bounded_by_number() {
    let (_folder, path) = place();
    let later = Later::new(Bounds { tombstones: 3, peers: 2, ..Bounds::default() });
    let spool = later.open(&path, 0);
    block(async {
        for number in 0..6 {
            spool.claim(&spool.identity().instance, claim(number)).await.unwrap();
            spool.finish("asker-1", run(number), 1, "r".into()).await.unwrap();
            spool.acknowledged("asker-1", run(number), 1).await.unwrap();
            let seen =
                ws_daemon::spool::PeerRecord { last_seen: i64::try_from(number).unwrap(), ..peer(&format!("p{number}")) };
            spool.peer_seen(seen).await.unwrap();
        }
        spool.close().await;
        let spool = later.open(&path, 1);
        spool.peer_seen(peer("p5")).await.unwrap();
        assert_eq!(spool.claims(everything()).await.unwrap().len(), 3);
        let names: Vec<_> = spool.peers().await.unwrap().into_iter().map(|peer| peer.instance).collect();
        assert_eq!(names, ["p4".into(), "p5".into()]);
    });
}
