//! What each verb promises, and that it is still so after the spool was closed and opened.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;
use ws_daemon::spool::{Accepted, ClaimState, Claimed, Filter, NewRequest, OutputRange, RunState, SpoolError, SpoolFault};

use crate::support::{block, claim, claim_format, everything, fill, open, peer, place, request, run, tell};

#[test]
fn a_request_is_accepted_once_and_found_again_by_its_key() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        assert_eq!(spool.accept(request(&[1, 2], Some("k"))).await, Ok(Accepted::Fresh));
        let Ok(Accepted::Known(runs)) = spool.accept(request(&[3], Some("k"))).await else { panic!("the key is known") };
        assert_eq!(runs.iter().map(|record| record.run.clone()).collect::<Vec<_>>(), [run(1), run(2)]);
        assert_eq!(spool.by_caller_id("root", "k").await.unwrap(), runs);
        assert_eq!(spool.body(run(2)).await, Ok(request(&[1, 2], None).body));
        assert_eq!(spool.body(run(9)).await, Err(SpoolError::Unknown));
        assert_eq!(spool.by_caller_id("other", "k").await.unwrap(), []);
        let other = NewRequest { hash: [8; 32], ..request(&[3], Some("k")) };
        assert_eq!(spool.accept(other).await, Ok(Accepted::Conflict));
        let other_user = NewRequest { user: "www".into(), ..request(&[3], Some("k")) };
        assert_eq!(spool.accept(other_user).await, Ok(Accepted::Fresh));
        for number in 4..6 {
            assert_eq!(spool.accept(request(&[number], None)).await, Ok(Accepted::Fresh), "no key attaches to nothing");
        }
        assert_eq!(spool.stats().unsettled, 5);
        let all = spool.unsettled(0, usize::MAX).await.unwrap();
        assert_eq!((all.len(), spool.unsettled(all[0].request, 2).await.unwrap()), (4, all[1..3].to_vec()));
    });
}

#[test]
fn what_has_not_settled_is_read_in_parts_and_nothing_is_lost_between_them() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        fill(&spool, 40).await;
        for number in 1000..1002 {
            let body = "x".repeat(3 << 20).into();
            spool.accept(NewRequest { body, ..request(&[2 * number, 2 * number + 1], None) }).await.unwrap();
        }
        spool.settle(run(2001), "{}".into()).await.unwrap();
        spool.accept(request(&[3000], None)).await.unwrap();
        let mut expected = spool.runs(everything()).await.unwrap();
        expected.retain(|record| record.state != RunState::Settled);
        expected.reverse();
        for most in [1, 3, usize::MAX] {
            let (mut found, mut parts, mut after) = (Vec::new(), 0, 0);
            loop {
                let part = spool.unsettled(after, most).await.unwrap();
                let Some(last) = part.last() else { break };
                assert!(part.len() <= most);
                (parts, after) = (parts + 1, last.request);
                found.extend(part.into_iter().flat_map(|request| request.runs));
            }
            assert_eq!(found, expected, "{most} at once");
            assert!(most < usize::MAX || parts == 2, "the large ones come with few others: {parts}");
        }
    });
}

#[test]
fn a_run_is_bound_unbound_and_settled_once() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        spool.accept(request(&[1], None)).await.unwrap();
        let now = async || spool.run_record(run(1)).await.unwrap().expect("it was accepted");
        assert_eq!((now().await.state, now().await.attempt), (RunState::Waiting, 1));
        spool.bind(run(1), "doer", 1).await.unwrap();
        assert_eq!((now().await.state, now().await.bound.as_deref()), (RunState::Bound, Some("doer")));
        spool.unbind(run(1), 2, 1).await.unwrap();
        assert_eq!((now().await.state, now().await.bound), (RunState::Waiting, None));
        assert_eq!((now().await.attempt, now().await.refused), (2, 1));
        assert_eq!(spool.correct(run(1), "late".into()).await, Err(SpoolError::Unknown), "there is nothing to correct");
        assert!(!now().await.cancelled);
        spool.cancel(run(1)).await.unwrap();
        spool.bind(run(1), "doer", 2).await.unwrap();
        assert!(now().await.cancelled);
        assert!(spool.settle(run(1), "first".into()).await.unwrap().fresh);
        assert!(!spool.settle(run(1), "second".into()).await.unwrap().fresh);
        assert_eq!(spool.bind(run(1), "doer", 3).await, Err(SpoolError::Unknown), "it is settled");
        assert_eq!(spool.cancel(run(1)).await, Err(SpoolError::Unknown), "it is settled");
        spool.correct(run(1), "late".into()).await.unwrap();
        assert_eq!((now().await.report.as_deref(), now().await.correction.as_deref()), (Some("first"), Some("late")));
        assert_eq!(spool.settle(run(9), "x".into()).await, Err(SpoolError::Unknown));
        assert_eq!(spool.unsettled(0, usize::MAX).await.unwrap(), []);
    });
}

#[test]
fn the_last_run_makes_the_script_due_and_it_is_due_until_started() {
    let (_folder, path) = place();
    let mut spool = open(&path).unwrap().spool;
    block(async {
        spool.accept(NewRequest { then: Some("done".into()), ..request(&[1, 2], Some("k")) }).await.unwrap();
        let first = spool.settle(run(2), "two".into()).await.unwrap();
        assert_eq!((first.request_done, first.then, spool.then_due().await.unwrap()), (false, None, Vec::new()));
        let unsettled = spool.unsettled(0, usize::MAX).await.unwrap();
        assert_eq!(unsettled[0].runs.iter().map(|record| record.run.clone()).collect::<Vec<_>>(), [run(1)]);
        assert_eq!(spool.reports(unsettled[0].request).await.unwrap(), ["two".into()]);
        let last = spool.settle(run(1), "one".into()).await.unwrap();
        let due = last.then.expect("it was the last");
        assert_eq!((last.request_done, &*due.script, &*due.reports), (true, "done", &["one".into(), "two".into()][..]));
        spool.close().await;
        spool = open(&path).unwrap().spool;
        assert_eq!(spool.then_due().await.unwrap(), std::slice::from_ref(&due));
        spool.then_started(&due.spool, due.request).await.unwrap();
        assert_eq!(spool.then_started(&due.spool, due.request).await, Err(SpoolError::Unknown), "never twice");
        spool.close().await;
        spool = open(&path).unwrap().spool;
        assert_eq!(spool.then_due().await.unwrap(), []);
    });
}

#[test]
fn a_claim_goes_through_its_states_and_every_repetition_is_told_where_it_is() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        let again = async || spool.claim(&spool.identity().instance, claim(1)).await.unwrap();
        let state = async || spool.claim_record(run(1)).await.unwrap().expect("it was claimed").state;
        assert_eq!(again().await, Claimed::Fresh);
        assert_eq!((again().await, state().await), (Claimed::Running, ClaimState::Claimed));
        assert_eq!(
            spool.refuse(&spool.identity().instance, "asker-1", run(1), 1, "no".into()).await,
            Ok(Claimed::Running),
            "too late to refuse"
        );
        assert_eq!(spool.started("asker-1", run(1), 1, 1, 1).await, Err(SpoolError::Unknown), "not before starting");
        spool.starting("asker-1", run(1), 1).await.unwrap();
        spool.started("asker-1", run(1), 1, 77, u64::MAX).await.unwrap();
        let unfinished = spool.unfinished().await.unwrap();
        assert_eq!((unfinished[0].pid, unfinished[0].start_time, again().await), (Some(77), Some(u64::MAX), Claimed::Running));
        assert_eq!(spool.acknowledged("asker-1", run(1), 1).await, Err(SpoolError::Unknown), "it has no report");
        spool.finish("asker-1", run(1), 1, "first".into()).await.unwrap();
        spool.finish("asker-1", run(1), 1, "second".into()).await.unwrap();
        assert_eq!(again().await, Claimed::Finished("first".into()));
        assert_eq!(spool.unacknowledged("asker-1").await.unwrap().len(), 1);
        spool.acknowledged("asker-1", run(1), 1).await.unwrap();
        assert_eq!((again().await, state().await), (Claimed::Acknowledged, ClaimState::Acknowledged));
        let record = spool.claim_record(run(1)).await.unwrap().expect("its key stays");
        assert_eq!((&*record.body, record.report), ("", None));
        assert_eq!((spool.unfinished().await.unwrap(), spool.unacknowledged("asker-1").await.unwrap()), (vec![], vec![]));
        assert_eq!(
            spool.claim(&spool.identity().instance, ws_daemon::spool::NewClaim { attempt: 2, ..claim(1) }).await,
            Ok(Claimed::Fresh)
        );
        assert_eq!(spool.starting("asker-1", run(9), 1).await, Err(SpoolError::Unknown));
    });
}

#[test]
fn what_was_refused_never_runs() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        let refused = Ok(Claimed::Refused("no".into()));
        assert_eq!(spool.refuse(&spool.identity().instance, "asker-1", run(1), 1, "no".into()).await, refused);
        assert_eq!(spool.claim(&spool.identity().instance, claim(1)).await, refused);
        assert_eq!(spool.starting("asker-1", run(1), 1).await, Err(SpoolError::Unknown));
        assert_eq!(spool.finish("asker-1", run(1), 1, "x".into()).await, Err(SpoolError::Unknown));
        assert!(spool.unacknowledged("asker-1").await.unwrap()[0].refused);
        assert_eq!(spool.unacknowledged("asker-2").await.unwrap(), []);
    });
}

#[test]
fn output_is_kept_in_order_without_repetition_and_the_oldest_goes_first() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    let read = async |from, max| {
        let part = spool.read_output(run(1), 1, from, max).await.unwrap();
        (part.offset, String::from_utf8(part.bytes).unwrap(), part.end)
    };
    block(async {
        spool.keep_output(run(1), 1, 0, b"abc".to_vec()).await.unwrap();
        spool.keep_output(run(1), 1, 1, b"bcdef".to_vec()).await.unwrap();
        spool.keep_output(run(1), 1, 2, b"cd".to_vec()).await.unwrap();
        spool.keep_output(run(1), 2, 0, b"other".to_vec()).await.unwrap();
        assert_eq!(read(0, 100).await, (0, "abcdef".into(), 6));
        assert_eq!(read(2, 3).await, (2, "cde".into(), 6));
        assert_eq!(read(6, 100).await, (6, String::new(), 6));
        spool.keep_output(run(1), 1, 10, b"klm".to_vec()).await.unwrap();
        assert_eq!(read(4, 100).await, (4, "ef".into(), 13), "not across the gap");
        assert_eq!(read(6, 100).await, (10, "klm".into(), 13));
        let from_13 = vec![b'z'; 3 << 20];
        spool.keep_output(run(1), 1, 13, from_13).await.unwrap();
        let range = spool.output_range(run(1)).await.unwrap();
        let end = 13 + (3 << 20);
        assert_eq!(range, [OutputRange { stream: 1, from: end - (1 << 20), to: end }], "the bound is for both streams");
        spool.drop_output(run(1)).await.unwrap();
        assert_eq!(spool.output_range(run(1)).await.unwrap(), []);
    });
}

#[test]
fn many_small_pieces_stay_within_the_bound_too() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        for number in 0..300_u64 {
            spool.keep_output(run(1), 1, number * 5000, vec![b'a' + u8::try_from(number % 26).unwrap(); 5000]).await.unwrap();
        }
        let range = spool.output_range(run(1)).await.unwrap()[0];
        assert_eq!(range.to, 300 * 5000);
        assert!((1 << 20) - 16_384 <= range.to - range.from && range.to - range.from <= 1 << 20, "{range:?}");
        let part = spool.read_output(run(1), 1, range.from, usize::MAX).await.unwrap();
        assert_eq!((part.offset, part.bytes.len() as u64), (range.from, range.to - range.from));
        let expected = |place: u64| b'a' + u8::try_from(place / 5000 % 26).unwrap();
        assert!(part.bytes.iter().zip(range.from..).all(|(byte, place)| *byte == expected(place)));
    });
}

#[test]
fn peers_are_replaced_by_instance_and_forgotten() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        spool.peer_seen(peer("b")).await.unwrap();
        spool.peer_seen(peer("a")).await.unwrap();
        let later = ws_daemon::spool::PeerRecord { epoch: 10, tags: vec![], ..peer("b") };
        spool.peer_seen(later.clone()).await.unwrap();
        assert_eq!(spool.peers().await.unwrap(), [peer("a"), later.clone()]);
        spool.forget_peer("a").await.unwrap();
        assert_eq!(spool.peers().await.unwrap(), [later]);
    });
}

#[test]
fn lists_are_newest_first_and_filtered() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        fill(&spool, 8).await;
        let all = spool.runs(everything()).await.unwrap();
        assert_eq!(all.len(), 16);
        assert!(all.windows(2).all(|pair| pair[0].seq > pair[1].seq));
        for state in [RunState::Waiting, RunState::Bound, RunState::Settled] {
            let some = spool.runs(Filter { state: Some(state), ..everything() }).await.unwrap();
            let expected: Vec<_> = all.iter().filter(|record| record.state == state).cloned().collect();
            assert_eq!(some, expected);
            assert!(!some.is_empty());
        }
        let bound = spool.runs(Filter { peer: Some("doer-1".into()), ..everything() }).await.unwrap();
        assert!(bound.len() == 2 && bound.iter().all(|record| record.bound.as_deref() == Some("doer-1")));
        assert_eq!(spool.runs(Filter { limit: 3, ..everything() }).await.unwrap(), all[..3]);
        let refused = spool.claims(Filter { peer: Some("asker-2".into()), ..everything() }).await.unwrap();
        assert_eq!(refused.len(), 1);
        assert_eq!(spool.claims(everything()).await.unwrap().len(), 9);
    });
}

#[test]
fn all_of_it_is_there_after_a_close_and_after_a_loss_of_the_handle() {
    let (_folder, path) = place();
    block(async {
        let mut spool = open(&path).unwrap().spool;
        fill(&spool, 12).await;
        let told = tell(&spool).await;
        assert!(told.len() > 40, "{told:#?}");
        let stats = spool.stats();
        spool.close().await;
        assert_eq!(spool.accept(request(&[1], None)).await, Err(SpoolError::Closed));
        let opened = open(&path).unwrap();
        assert_eq!(opened.set_aside, None);
        spool = opened.spool;
        assert_eq!(tell(&spool).await, told);
        let again = spool.stats();
        assert_eq!(
            (again.rows, again.unsettled, again.unacknowledged, again.history_bytes),
            (stats.rows, stats.unsettled, stats.unacknowledged, stats.history_bytes),
            "what is counted along the way is what is there"
        );
        assert_eq!(spool.raise_epoch().await, Ok(2));
        assert_eq!(spool.identity().epoch, 2);
    });
}

#[test]
fn many_at_once_share_commits_and_one_that_stumbles_does_not_fail_the_others() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    block(async {
        let before = spool.stats().commits;
        let mut all = Vec::new();
        for number in 0..200 {
            let spool = spool.clone();
            // Number 150 takes the run of number 10.
            let number = if number == 150 { 10 } else { number };
            all.push(async move { spool.accept(request(&[1000 + number, number], None)).await });
        }
        let done = futures_util::future::join_all(all).await;
        let failed: Vec<_> = (0..).zip(&done).filter(|(_, done)| done.is_err()).map(|(place, _)| place).collect();
        assert_eq!(failed, [150]);
        assert_eq!(spool.stats().unsettled, 398, "nothing of the one that stumbled is left");
        assert_eq!(spool.runs(everything()).await.unwrap().len(), 398);
        let commits = spool.stats().commits - before;
        assert!(commits < 20, "{commits} commits");
    });
}

#[test]
fn the_file_is_for_its_owner_alone_and_for_one_daemon_at_a_time() {
    let (_folder, path) = place();
    let spool = open(&path).unwrap().spool;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(open(&path), Err(SpoolFault::Locked(_))));
    block(spool.close());
    let second = open(&path).unwrap().spool;
    assert_eq!(second.identity(), spool.identity());
}

#[test]
fn a_file_of_a_later_format_is_refused_in_words_and_left_alone() {
    let (_folder, path) = place();
    block(open(&path).unwrap().spool.close());
    {
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA user_version = 99").unwrap();
    }
    assert!(matches!(open(&path), Ok(opened) if opened.set_aside.is_some()), "a lone number is damage, no later format");
    let (_folder, path) = place();
    block(open(&path).unwrap().spool.close());
    claim_format(&path, 99);
    let before = fs::read(&path).unwrap();
    let fault = open(&path).expect_err("it is of a later format");
    assert!(matches!(fault, SpoolFault::Newer { found: 99, .. }), "{fault}");
    assert!(fault.to_string().contains("format 99"), "{fault}");
    assert_eq!(fs::read(&path).unwrap(), before);
}
