//! A damaged file: it is either read exactly as it was written, or set aside whole. Never is a row returned that differs.

use std::fs;
use std::path::Path;

use ws_daemon::spool::{Bounds, Durability, NewRequest, Spool, SpoolError};

use crate::support::{block, claim, fill, open, peer, place, request, run, tell};

const PAGE: usize = 4096;

/// A closed spool with rows of every kind, its file, what it tells, and its instance.
fn original(path: &Path) -> (Vec<u8>, Vec<String>, Box<str>) {
    block(async {
        let spool = open(path).unwrap().spool;
        fill(&spool, 12).await;
        let told = tell(&spool).await;
        let instance = spool.identity().instance;
        spool.close().await;
        (fs::read(path).unwrap(), told, instance)
    })
}

enum Came {
    Intact,
    SetAside { knows_former: bool },
}

/// Opens `bytes` as a spool, and sees that it tells all or nothing.
fn try_damaged(bytes: &[u8], told: &[String], instance: &str, what: &str) -> Came {
    let (_folder, path) = place();
    fs::write(&path, bytes).unwrap();
    let opened = Spool::open(&path, Bounds::default(), Durability::Normal).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    let came = block(async {
        let now = tell(&opened.spool).await;
        if let Some(aside) = &opened.set_aside {
            assert_eq!(fs::read(aside).unwrap(), bytes, "{what}: the damaged file is kept as it was");
            assert_eq!(opened.spool.stats().rows, 0, "{what}");
            let identity = opened.spool.identity();
            assert_ne!(&*identity.instance, instance, "{what}");
            return Came::SetAside { knows_former: identity.former.iter().any(|former| &**former == instance) };
        }
        assert!(now == told, "{what}: it opened, and tells something else");
        Came::Intact
    });
    block(opened.spool.close());
    came
}

#[test]
fn a_flipped_bit_on_any_page_is_harmless_or_found() {
    let (_folder, path) = place();
    let (bytes, told, instance) = original(&path);
    let pages = bytes.len() / PAGE;
    assert!(pages >= 15, "{pages} pages");
    let (mut intact, mut aside, mut known) = (0, 0, 0);
    for page in 0..pages {
        // Heads of pages, where cells are (at the end), and places in between that differ from page to page.
        let mut places =
            vec![0, 3, 5, 8, 9, PAGE - 1, PAGE - 9, PAGE - 40, PAGE - 200, (page * 997) % PAGE, (page * 331 + 77) % PAGE];
        if page == 0 {
            places.extend((0..100).chain([108, 109]));
        }
        for place in places {
            let bit = (page + place) % 8;
            let mut damaged = bytes.clone();
            damaged[page * PAGE + place] ^= 1 << bit;
            match try_damaged(&damaged, &told, &instance, &format!("page {page}, byte {place}, bit {bit}")) {
                Came::Intact => intact += 1,
                Came::SetAside { knows_former } => {
                    aside += 1;
                    known += usize::from(knows_former);
                }
            }
        }
    }
    assert!(
        intact > 0 && aside > pages && known > aside / 2,
        "{intact} intact, {aside} set aside, {known} with their former instance"
    );
}

#[test]
fn a_file_that_ends_too_early_is_set_aside() {
    let (_folder, path) = place();
    let (bytes, told, instance) = original(&path);
    let ends = (0..bytes.len()).step_by(PAGE).chain([1, 99, 100, PAGE + 1, bytes.len() - 1]);
    let mut tried = 0;
    for end in ends {
        tried += 1;
        let came = try_damaged(&bytes[..end], &told, &instance, &format!("{end} bytes of {}", bytes.len()));
        assert!(matches!(came, Came::SetAside { .. }), "{end} bytes of {} were taken for a spool", bytes.len());
    }
    assert!(tried > 15);
    assert!(matches!(try_damaged(&bytes, &told, &instance, "all of it"), Came::Intact));
}

#[test]
fn a_file_that_is_something_else_is_set_aside_and_never_over_another() {
    let (folder, path) = place();
    for text in ["a text", "another"] {
        fs::write(&path, text.repeat(5000)).unwrap();
        let aside = Spool::open_with(&path, Bounds::default(), Durability::Full, std::sync::Arc::new(|| 1_700_000_000_000));
        let opened = aside.unwrap();
        let aside = opened.set_aside.expect("it is no spool");
        assert_eq!(fs::read_to_string(aside).unwrap(), text.repeat(5000));
        block(opened.spool.close());
    }
    let kept = fs::read_dir(folder.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged-17000000000"));
    assert_eq!(kept.count(), 2);
}

#[test]
fn damage_that_is_found_while_it_runs_sets_the_file_aside_and_all_goes_on_with_an_empty_one() {
    let (_folder, path) = place();
    block(async {
        // More than SQLite keeps in memory.
        let spool = open(&path).unwrap().spool;
        for number in 0..12 {
            let body = "b".repeat(1 << 20).into();
            spool.accept(NewRequest { body, ..request(&[5000 + number], None) }).await.unwrap();
        }
        spool.close().await;
        let spool = open(&path).unwrap().spool;
        let mut damaged = spool.damaged();
        let instance = spool.identity().instance;
        // Behind its back, every page but the first.
        let mut other = fs::read(&path).unwrap();
        for byte in &mut other[PAGE..] {
            *byte ^= 0x55;
        }
        fs::write(&path, &other).unwrap();
        let told = spool.unsettled(0, usize::MAX).await;
        assert!(matches!(told, Err(SpoolError::Failed(_))), "{:?}", told.map(|told| told.len()));
        assert!(damaged.has_changed().unwrap());
        let aside = damaged.borrow_and_update().clone().expect("it says where it went");
        assert!(aside.exists());
        let identity = spool.identity();
        assert_eq!((&identity.former[0], identity.epoch), (&instance, 0));
        assert_ne!(identity.instance, instance);
        spool.peer_seen(peer("a")).await.unwrap();
        // What is meant for the old one is not taken for the new one's: the old one may have known the run, and numbers begin anew.
        assert_eq!(spool.claim(&instance, claim(1)).await, Err(SpoolError::Unknown));
        assert_eq!(spool.refuse(&instance, "asker-1", run(1), 1, "no".into()).await, Err(SpoolError::Unknown));
        assert_eq!(spool.claim_record(run(1)).await, Ok(None));
        spool.accept(NewRequest { then: Some("after".into()), ..request(&[9000], None) }).await.unwrap();
        let due = spool.settle(run(9000), "{}".into()).await.unwrap().then.expect("it is due");
        assert_eq!(spool.then_started(&instance, due.request).await, Err(SpoolError::Unknown));
        spool.then_started(&identity.instance, due.request).await.unwrap();
        spool.close().await;
        let again = open(&path).unwrap();
        assert_eq!((again.set_aside, again.spool.identity()), (None, identity));
        assert!(again.spool.run_record(run(9000)).await.unwrap().is_some());
    });
}
