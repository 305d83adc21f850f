//! A power cut: what the disk held at that instant is what is left. The spool lives in a file system whose image is copied, in one
//! instant, while a writer writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use ws_daemon::spool::{Durability, RunState};

use crate::child::Writer;
use crate::support::{Mount, block, everything, need_mounts, need_tool, open, succeed};

/// Three mounts: a host that can copy a file in an instant, in it the disk that is cut, and the copy.
struct Disk {
    // Dropped in this order.
    _cut: Mount,
    _host: Mount,
    folder: tempfile::TempDir,
    copies: usize,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::File::create(at("host.img")).unwrap().set_len(400 << 20).unwrap();
        succeed(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(at("host.img")));
        let host = Mount::new(&["-o", "loop", at("host.img").to_str().unwrap()], &at("host")).unwrap();
        let image = at("host").join("disk.img");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        succeed(Command::new("mkfs.ext4").arg("-q").arg(&image));
        let disk = Mount::new(&["-o", "loop", image.to_str().unwrap()], &at("disk")).unwrap();
        Self { _cut: disk, _host: host, folder, copies: 0 }
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("disk/spool.db")
    }

    /// The disk as it is at this instant, for whoever looks later.
    fn cut(&mut self) -> PathBuf {
        self.copies += 1;
        let copy = self.folder.path().join(format!("host/copy-{}.img", self.copies));
        succeed(Command::new("cp").arg("--reflink=always").arg(self.folder.path().join("host/disk.img")).arg(&copy));
        copy
    }

    /// Mounts a copy, as the next boot would, and looks.
    fn look<T>(&self, copy: &Path, look: impl FnOnce(&Path) -> T) -> T {
        let at = self.folder.path().join("look");
        let _mount = Mount::new(&["-o", "loop", copy.to_str().unwrap()], &at).unwrap();
        look(&at.join("spool.db"))
    }
}

/// Those of `acknowledged` that the copy has lost.
fn lost(path: &Path, acknowledged: &[usize]) -> Vec<usize> {
    if !path.exists() {
        return acknowledged.to_vec();
    }
    let opened = open(path).unwrap();
    assert_eq!(opened.set_aside, None, "a power cut is no damage");
    let kept: Vec<String> = block(async {
        let runs = opened.spool.runs(everything()).await.unwrap();
        assert!(runs.iter().all(|record| record.state == RunState::Waiting));
        opened.spool.close().await;
        runs.into_iter().map(|record| record.run.to_string()).collect()
    });
    let connection = Connection::open(path).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let name = |number: &usize| crate::support::run(*number).to_string();
    acknowledged.iter().filter(|number| !kept.contains(&name(number))).copied().collect()
}

/// Cuts the power a few times while a writer writes; how many acknowledged requests each cut has cost.
fn losses(durability: Durability) -> Vec<usize> {
    let mut disk = Disk::new();
    let mut writer = Writer::start(&disk.spool(), durability, 100_000, &[]);
    let mut acknowledged = Vec::new();
    let mut cuts = Vec::new();
    for pause in [20, 40, 150, 300] {
        acknowledged.extend(writer.by_ref().take(pause).map(|told| told.expect("the disk is fine")));
        cuts.push((disk.cut(), acknowledged.len()));
    }
    drop(writer);
    cuts.iter().map(|(copy, count)| disk.look(copy, |path| lost(path, &acknowledged[..*count]).len())).collect()
}

fn need_disks() -> bool {
    need_tool("mkfs.xfs") && need_tool("mkfs.ext4") && need_mounts()
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    if need_disks() {
        assert_eq!(losses(Durability::Full), [0; 4]);
    }
}

#[test]
fn the_power_cut_of_these_tests_is_one_that_can_lose_something() {
    if need_disks() {
        let losses = losses(Durability::Normal);
        assert!(losses.iter().sum::<usize>() > 0, "without a sync at each commit nothing was lost either: {losses:?}");
    }
}
