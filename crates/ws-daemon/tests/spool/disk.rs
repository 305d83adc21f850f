//! A disk that is full, read-only or broken: nothing is acknowledged that is not there, nothing is there that was refused, and it
//! recovers by itself.

use std::fs;
use std::path::Path;

use ws_daemon::spool::{Accepted, Bounds, Durability, NewRequest, Spool, SpoolError, SpoolFault};

use crate::child::Writer;
use crate::support::{Mount, block, everything, need_mounts, need_tool, open, place, request, run};

fn kept(path: &Path) -> Vec<usize> {
    let opened = open(path).unwrap();
    assert_eq!(opened.set_aside, None);
    let mut kept = block(async {
        let mut kept = Vec::new();
        for record in opened.spool.runs(everything()).await.unwrap() {
            let text = record.run.to_string();
            kept.push(text.rsplit('-').next().unwrap().parse().unwrap());
        }
        opened.spool.close().await;
        kept
    });
    kept.sort_unstable();
    kept
}

#[test]
fn a_disk_that_is_full_refuses_and_works_again_when_there_is_room() {
    if !need_mounts() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let _mount = Mount::new(&["-t", "tmpfs", "-o", "size=256k", "none"], &disk).unwrap();
    let path = disk.join("spool.db");
    let spool = Spool::open(&path, Bounds::default(), Durability::Full).unwrap().spool;
    let acknowledged = block(async {
        let big = |number| NewRequest { body: "x".repeat(2000).into(), ..request(&[number], None) };
        let ballast = disk.join("ballast");
        fs::write(&ballast, vec![1; 60_000]).unwrap();
        let mut acknowledged = Vec::new();
        let mut number = 0;
        let error = loop {
            number += 1;
            match spool.accept(big(number)).await {
                Ok(_) => acknowledged.push(number),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SpoolError::Failed(_)), "{error}");
        assert!(acknowledged.len() > 3, "{acknowledged:?}");
        assert!(spool.accept(big(number + 1)).await.is_err(), "it is still full");
        fs::remove_file(&ballast).unwrap();
        assert_eq!(spool.accept(big(number + 2)).await, Ok(Accepted::Fresh), "there is room");
        acknowledged.push(number + 2);
        spool.close().await;
        acknowledged
    });
    assert_eq!(kept(&path), acknowledged);
}

#[test]
fn a_read_only_disk_gives_no_spool_and_no_damage() {
    if !need_mounts() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let mount = Mount::new(&["-t", "tmpfs", "-o", "size=1m", "none"], &disk).unwrap();
    let path = disk.join("spool.db");
    block(async {
        let spool = open(&path).unwrap().spool;
        spool.accept(request(&[1], None)).await.unwrap();
        spool.close().await;
    });
    mount.remount("ro");
    assert!(matches!(open(&path), Err(SpoolFault::Failed { .. })));
    mount.remount("rw");
    assert_eq!(kept(&path), [1]);
}

#[test]
fn a_failing_system_call_refuses_what_it_hit_and_nothing_else_and_all_goes_on() {
    if !need_tool("strace") {
        return;
    }
    // The thread's calls: a few at the opening, one sync a commit after that.
    let cases = [
        ("fdatasync,fsync", "EIO", "10"),
        ("fdatasync,fsync", "EIO", "10..14"),
        ("fdatasync,fsync", "ENOSPC", "10..11"),
        ("pwrite64", "EROFS", "30..33"),
        ("pwrite64", "EIO", "40"),
        ("pwrite64", "ENOSPC", "40..42"),
    ];
    for (calls, error, when) in cases {
        let (_folder, path) = place();
        block(open(&path).unwrap().spool.close());
        let inject = format!("inject={calls}:error={error}:when={when}");
        let trace = format!("trace={calls}");
        let told: Vec<_> = Writer::start(&path, Durability::Full, 60, &["-e", &trace, "-e", &inject]).collect();
        let acknowledged: Vec<_> = told.iter().filter_map(|told| told.ok()).collect();
        let refused = told.iter().filter(|told| told.is_err()).count();
        assert_eq!(told.len(), 60, "{inject}: the writer has ended too early");
        assert!((1..20).contains(&refused), "{inject}: {refused} were refused");
        assert!(told.last().unwrap().is_ok(), "{inject}: it has not recovered");
        assert_eq!(kept(&path), acknowledged, "{inject}: what was refused is not there, what was acknowledged is");
    }
}

#[test]
fn a_kill_at_any_sync_loses_nothing_that_was_acknowledged() {
    if !need_tool("strace") {
        return;
    }
    for when in [4, 7, 12, 20] {
        let (_folder, path) = place();
        let inject = format!("inject=fdatasync,fsync:signal=SIGKILL:when={when}");
        let told: Vec<_> =
            Writer::start(&path, Durability::Full, 60, &["-e", "trace=fdatasync,fsync", "-e", &inject]).collect();
        assert!(told.len() < 60, "{inject}: it was not killed");
        let kept = if path.exists() { kept(&path) } else { Vec::new() };
        for acknowledged in told.into_iter().flatten() {
            assert!(kept.contains(&acknowledged), "{inject}: {acknowledged} is lost");
            assert_ne!(run(acknowledged), run(0));
        }
    }
}
