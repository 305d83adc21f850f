//! What the tests share: a spool in a folder of its own, requests and claims to put into it, all that it says, and the tools that
//! a machine may lack.

use std::fmt::Write as _;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs, thread};

use ws_daemon::spool::{Bounds, Durability, Filter, NewClaim, NewRequest, NewRun, Opened, PeerRecord, Spool, SpoolFault};
use ws_daemon_protocol::id::RunId;

pub const HOUR: i64 = 60 * 60 * 1000;
pub const FAR: i64 = i64::MAX / 4;

pub fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn open(path: &Path) -> Result<Opened, SpoolFault> {
    Spool::open(path, Bounds::default(), Durability::Full)
}

/// A folder that goes with the test, and where the spool is to be.
pub fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool-server-3006.db");
    (folder, path)
}

pub fn run(number: usize) -> RunId {
    RunId::new(format!("0190a000-0000-7000-8000-{number:012}"))
}

pub fn request(numbers: &[usize], key: Option<&str>) -> NewRequest {
    NewRequest {
        user: "root".into(),
        key: key.map(Into::into),
        caller_id: key.map(|key| format!("\"{key}\"").into()),
        hash: [7; 32],
        body: format!(r#"{{"name":"sms/send","params":{{"to":"+49…{numbers:?}"}}}}"#).into(),
        runs: numbers
            .iter()
            .map(|number| NewRun { run: run(*number), name: "sms/send".into(), target: Some("\"tag:sms\"".into()) })
            .collect(),
        expires_ms: FAR,
        not_before_ms: None,
        then: None,
    }
}

pub fn claim(number: usize) -> NewClaim {
    NewClaim {
        asker: "asker-1".into(),
        run: run(number),
        attempt: 1,
        name: "min".into(),
        body: format!("{{\"params\":{number}}}").into(),
        starting: false,
    }
}

pub fn peer(instance: &str) -> PeerRecord {
    PeerRecord {
        instance: instance.into(),
        name: format!("name of {instance}").into(),
        configured: true,
        tags: vec!["sms".into(), "eu".into()],
        epoch: 9,
        version: "0.2.0".into(),
        capacity: 256,
        address: "127.0.0.1:9".into(),
        last_seen: 1_700_000_000_000,
    }
}

pub fn everything() -> Filter {
    Filter { state: None, peer: None, limit: usize::MAX }
}

/// Makes a closed spool say that it has this format, as a program that knows it would.
pub fn claim_format(path: &Path, format: i64) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let sealed = |row: &rusqlite::Row<'_>| {
        let mut seal = crc32fast::Hasher::new();
        let text = |seal: &mut crc32fast::Hasher, value: &str| {
            seal.update(&[&[2][..], &(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat());
        };
        let int = |seal: &mut crc32fast::Hasher, value: i64| seal.update(&[&[1][..], &value.to_le_bytes()].concat());
        text(&mut seal, "meta");
        text(&mut seal, &row.get::<_, String>(0)?);
        int(&mut seal, row.get(1)?);
        text(&mut seal, &row.get::<_, String>(2)?);
        int(&mut seal, row.get(3)?);
        int(&mut seal, row.get(4)?);
        int(&mut seal, format);
        Ok(i64::from(seal.finalize()))
    };
    let read = "SELECT instance, epoch, former, clock_ms, wall_ms FROM meta";
    let seal = connection.query_row(read, [], sealed).unwrap();
    connection
        .execute_batch(&format!("PRAGMA user_version = {format}; UPDATE meta SET format = {format}, seal = {seal}"))
        .unwrap();
}

/// One of each kind and state of row.
pub async fn fill(spool: &Spool, requests: usize) {
    spool.raise_epoch().await.unwrap();
    for number in 0..requests {
        let then = (number % 3 == 0).then(|| "done".into());
        let new = NewRequest { then, ..request(&[2 * number, 2 * number + 1], Some(&format!("k{number}"))) };
        spool.accept(new).await.unwrap();
        match number % 4 {
            0 => {}
            1 => {
                spool.bind(run(2 * number), "doer-2", 1).await.unwrap();
                spool.unbind(run(2 * number), 2, 1).await.unwrap();
                spool.bind(run(2 * number), "doer-1", 2).await.unwrap();
            }
            _ => {
                for number in [2 * number, 2 * number + 1] {
                    spool.settle(run(number), format!("{{\"status\":{number}}}").into()).await.unwrap();
                }
                spool.correct(run(2 * number), "{\"status\":0}".into()).await.unwrap();
            }
        }
        spool.claim(&spool.identity().instance, claim(number)).await.unwrap();
        if number % 5 > 0 {
            spool.starting("asker-1", run(number), 1).await.unwrap();
        }
        if number % 5 > 1 {
            spool.started("asker-1", run(number), 1, 4711, u64::MAX - 5).await.unwrap();
        }
        if number % 5 > 2 {
            spool.finish("asker-1", run(number), 1, "{\"status\":3}".into()).await.unwrap();
        }
        if number % 5 > 3 {
            spool.acknowledged("asker-1", run(number), 1).await.unwrap();
        }
        spool.keep_output(run(2 * number), 1, 0, vec![b'x'; 700 * (number % 3)]).await.unwrap();
        spool.peer_seen(peer(&format!("peer-{number}"))).await.unwrap();
    }
    spool.refuse(&spool.identity().instance, "asker-2", run(requests), 1, "{\"status\":-4}".into()).await.unwrap();
}

/// All that the spool has to say, as lines.
pub async fn tell(spool: &Spool) -> Vec<String> {
    let mut told = String::new();
    for run in spool.runs(everything()).await.unwrap() {
        let output = spool.read_output(run.run.clone(), 1, 0, usize::MAX).await.unwrap();
        writeln!(told, "{run:?} {} {:?}", output.end, output.bytes).unwrap();
    }
    for claim in spool.claims(everything()).await.unwrap() {
        writeln!(told, "{claim:?}").unwrap();
    }
    for peer in spool.peers().await.unwrap() {
        writeln!(told, "{peer:?}").unwrap();
    }
    for request in spool.unsettled(0, usize::MAX).await.unwrap() {
        writeln!(told, "{request:?}").unwrap();
    }
    writeln!(told, "{:?}", spool.then_due().await.unwrap()).unwrap();
    writeln!(told, "{:?}", spool.unfinished().await.unwrap()).unwrap();
    writeln!(told, "{:?}", spool.identity()).unwrap();
    told.lines().map(str::to_owned).collect()
}

/// Whether a program is on the PATH; a test that gets `false` returns at once.
pub fn need_tool(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    have(env::split_paths(&path).any(|folder| folder.join(name).is_file()), name)
}

/// Whether file systems can be mounted here.
pub fn need_mounts() -> bool {
    let folder = tempfile::tempdir().unwrap();
    need_tool("mount") && have(Mount::new(&["-t", "tmpfs", "none"], folder.path()).is_ok(), "the right to mount (root)")
}

/// In CI a missing tool is a failure; by hand the test is skipped, and counted in the file that `WSDAEMON_TEST_SKIPS` names.
pub fn have(found: bool, what: &str) -> bool {
    if found {
        return true;
    }
    assert!(env::var_os("CI").is_none(), "{what} is missing, and in CI every test runs");
    let test = thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test} needs {what}");
    if let Some(list) = env::var_os("WSDAEMON_TEST_SKIPS") {
        let mut list = fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        list.write_all(format!("{test}: needs {what}\n").as_bytes()).unwrap();
    }
    false
}

/// A file system that is there until this is dropped.
pub struct Mount(PathBuf);

impl Mount {
    pub fn new(what: &[&str], at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).unwrap();
        let output = Command::new("mount").args(what).arg(at).output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(Self(at.to_owned())) } else { Err(said(&output)) }
    }

    pub fn remount(&self, options: &str) {
        succeed(Command::new("mount").arg("-o").arg(format!("remount,{options}")).arg(&self.0));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a spool that a failing test has left open must not keep it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
