//! The golden spools: one file of each format, with rows of every kind, that is opened for ever. The one of today's format is made
//! anew by `UPDATE_GOLDEN=1 cargo test -p ws-daemon --test spool golden`; from its release on it is never changed.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use rusqlite::Connection;
use ws_daemon::spool::{NewClaim, NewRequest};
use ws_daemon_protocol::id::RunId;

use crate::support::{block, claim, claim_format, fill, open, place, request, run, tell};

/// The queued run that is still to be given to a peer; black_box/version2_peer.rs has it done, and one that was claimed.
const WAITING: &str = "0190a000-0000-7000-8000-000000009999";

const REQUESTS: usize = 8;

/// What a spool says whose program is far ahead of this one: `later-spool.db`, which black_box/version2_peer.rs shows to a daemon.
const LATER: i64 = 99;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn format(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    // What stands in the log beside the file comes into the file.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

/// A spool of today with rows of every kind, and its format.
fn make(path: &Path) -> i64 {
    let opened = open(path).unwrap();
    block(async {
        fill(&opened.spool, REQUESTS).await;
        let mut waiting = NewRequest {
            caller_id: Some("\"golden\"".into()),
            body: r#"{"name":"golden","id":"golden","params":{"kept":1.50},"queue":{"ttl":86400000}}"#.into(),
            ..request(&[9999], Some("\"golden\""))
        };
        for run in &mut waiting.runs {
            run.run = RunId::new(WAITING);
            run.name = "golden".into();
            run.target = None;
        }
        opened.spool.accept(waiting).await.unwrap();
        let body =
            r#"{"name":"golden","id":"0190a000-0000-7000-8000-000000008888","params":{"kept":1.50},"queue":true,"attempt":1}"#;
        let claimed = NewClaim { name: "golden".into(), body: body.into(), ..claim(8888) };
        opened.spool.claim(&opened.spool.identity().instance, claimed).await.unwrap();
    });
    block(opened.spool.close());
    format(path)
}

#[test]
fn the_format_of_today_has_a_golden_spool() {
    let (folder, path) = place();
    let format = make(&path);
    let golden = self::folder().join(format!("spool-{format}.db"));
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(self::folder()).unwrap();
        fs::copy(&path, &golden).unwrap();
        let later = folder.path().join("later.db");
        fs::copy(&path, &later).unwrap();
        claim_format(&later, LATER);
        self::format(&later);
        fs::copy(&later, self::folder().join("later-spool.db")).unwrap();
    }
    let hint = "UPDATE_GOLDEN=1 cargo test -p ws-daemon --test spool golden makes it";
    assert!(golden.exists(), "{} is not there; {hint}", golden.display());
    // A copy, since whoever opens it leaves files beside it.
    let copy = folder.path().join("golden.db");
    fs::copy(&golden, &copy).unwrap();
    let kept = Connection::open(&copy).unwrap();
    let today = Connection::open(&path).unwrap();
    let tables = |connection: &Connection| -> Vec<String> {
        let mut found = connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        let rows = found.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(
        tables(&kept),
        tables(&today),
        "a format has one set of tables: a change is a new step, or, before its release, {hint}"
    );
}

#[test]
fn golden_spools_of_every_format_open_with_all_that_must_not_be_lost() {
    let files: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let spools: Vec<&PathBuf> =
        files.iter().filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spool-"))).collect();
    assert!(!spools.is_empty(), "no spool is kept");
    for golden in spools {
        let (_folder, path) = place();
        fs::copy(golden, &path).unwrap();
        let opened = open(&path).unwrap();
        assert_eq!(opened.set_aside, None, "{}", golden.display());
        let spool = opened.spool;
        assert_eq!(spool.identity().epoch, 1);
        let unsettled = block(spool.unsettled(0, usize::MAX)).unwrap();
        let runs: Vec<String> =
            unsettled.iter().flat_map(|request| &request.runs).map(|record| record.run.to_string()).collect();
        assert!(runs.contains(&WAITING.to_owned()) && runs.contains(&run(0).to_string()), "{runs:?}");
        assert!(!block(spool.unacknowledged("asker-1")).unwrap().is_empty());
        assert!(!block(spool.unfinished()).unwrap().is_empty());
        assert_eq!(block(spool.peers()).unwrap().len(), REQUESTS);
        assert!(block(tell(&spool)).len() > 20);
    }
}
