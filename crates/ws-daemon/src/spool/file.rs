//! The file: locked, made, opened, checked, and set aside when it is damaged. It never changes a damaged file, and never removes one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, RenameFlags};
use uuid::Uuid;

use super::clock::{Clock, WallClock};
use super::records::{Bounds, Durability, Identity, SpoolFault};
use super::schema;
use super::store::{Meta, Remedy, Store, Tally, Trouble, Verdict};

/// Of the file; the frames of the log have this and a head.
pub const PAGE_BYTES: i64 = 4096;

const LOG_HEAD_BYTES: u64 = 32;
const FRAME_HEAD_BYTES: u64 = 24;
const STATEMENTS: usize = 128;

/// Where the spool is, and all that opening it anew takes.
pub struct Place {
    pub path: PathBuf,
    pub bounds: Bounds,
    pub durability: Durability,
    pub wall: WallClock,
    /// Held for as long as this process uses the file.
    _lock: File,
}

/// What was found where the spool is to be.
enum Found {
    Good(Box<Store>),
    /// In words, and what could be read of whose it was.
    Damaged(String, Option<Identity>),
}

impl Place {
    /// Takes the lock.
    pub fn lock(path: &Path, bounds: Bounds, durability: Durability, wall: WallClock) -> Result<Self, SpoolFault> {
        let name = beside(path, ".lock");
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name);
        let lock = lock.map_err(|error| failed(path, &error))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), bounds, durability, wall, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolFault::Locked(path.to_owned())),
            Err(error) => Err(failed(path, &error)),
        }
    }

    /// Opens what is there, or makes it; where it went if it was damaged.
    pub fn open(&self) -> Result<(Store, Option<PathBuf>), SpoolFault> {
        match self.path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok((self.make(Vec::new(), None)?, None)),
            Err(error) => return Err(failed(&self.path, &error)),
        }
        match self.inspect()? {
            Found::Good(store) => Ok((*store, None)),
            Found::Damaged(what, former) => {
                let (store, aside) = self.replace(&what, former, None)?;
                Ok((store, Some(aside)))
            }
        }
    }

    /// Opens it again, without the full check; `clock` goes on.
    pub fn reopen(&self, clock: Arc<Clock>) -> Verdict<Store> {
        let (connection, frames) = self.connect()?;
        self.store(connection, frames, Some(clock))
    }

    /// Renames the damaged file and makes an empty one.
    pub fn replace(
        &self,
        what: &str,
        former: Option<Identity>,
        clock: Option<Arc<Clock>>,
    ) -> Result<(Store, PathBuf), SpoolFault> {
        let aside = self.set_aside().map_err(|error| failed(&self.path, &error))?;
        tracing::error!(spool = %self.path.display(), aside = %aside.display(), what, "the spool is damaged and was set aside");
        let former = former.map(|identity| std::iter::once(identity.instance).chain(identity.former).collect());
        Ok((self.make(former.unwrap_or_default(), clock)?, aside))
    }

    /// What the log holds beyond so many frames was never acknowledged, and goes.
    pub fn cut_log(&self, frames: u32) -> io::Result<()> {
        let log = match OpenOptions::new().write(true).open(beside(&self.path, "-wal")) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let frame = FRAME_HEAD_BYTES + PAGE_BYTES.unsigned_abs();
        let keep = if frames == 0 { 0 } else { LOG_HEAD_BYTES + u64::from(frames) * frame };
        if log.metadata()?.len() > keep {
            log.set_len(keep)?;
            log.sync_all()?;
        }
        Ok(())
    }

    fn inspect(&self) -> Result<Found, SpoolFault> {
        if let Some(what) = odd_head(&self.path).map_err(|error| failed(&self.path, &error))? {
            return Ok(Found::Damaged(what.to_owned(), None));
        }
        let mut former = None;
        let trouble = match self.check(&mut former) {
            Ok(Ok(store)) => return Ok(Found::Good(Box::new(store))),
            Ok(Err(newer)) => return Err(newer),
            Err(trouble) => trouble,
        };
        match trouble.remedy() {
            Remedy::RollBack | Remedy::Reopen if !is_nonsense(&trouble) => Err(failed(&self.path, &trouble.words())),
            _ => Ok(Found::Damaged(trouble.words(), former)),
        }
    }

    /// Opens and checks all of it. The identity is left in `former` as soon as it is known.
    fn check(&self, former: &mut Option<Identity>) -> Verdict<Result<Store, SpoolFault>> {
        let (mut connection, frames) = self.connect()?;
        let meta = Meta::read(&connection);
        *former = meta.as_ref().ok().map(Meta::identity);
        let (format, known) = (schema::format(&connection)?, schema::newest(schema::STEPS));
        let meta = meta?;
        if format != meta.format {
            return Err(Trouble::Damaged(format!("it says that it has format {format}, and format {}", meta.format)));
        }
        if format > known {
            return Ok(Err(SpoolFault::Newer { path: self.path.clone(), found: format, known }));
        }
        let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Trouble::Damaged(verdict));
        }
        schema::migrate(&mut connection, schema::STEPS, |connection, format| Meta { format, ..meta }.write(connection))?;
        let mut store = self.store(connection, frames, None)?;
        store.count_all()?;
        Ok(Ok(store))
    }

    /// Makes the file under another name first: where it is to be, there is all of it or nothing.
    fn make(&self, former: Vec<Box<str>>, clock: Option<Arc<Clock>>) -> Result<Store, SpoolFault> {
        let made = self.make_file(former, clock.as_deref()).and_then(|()| {
            let (connection, frames) = self.connect()?;
            self.store(connection, frames, clock)
        });
        made.and_then(|mut store| {
            store.count_all()?;
            Ok(store)
        })
        .map_err(|trouble| failed(&self.path, &trouble.words()))
    }

    fn make_file(&self, former: Vec<Box<str>>, clock: Option<&Clock>) -> Verdict<()> {
        let new = beside(&self.path, ".new");
        // What is left of an earlier attempt, or of a file that somebody removed, is nobody's.
        for stale in [new.clone(), beside(&new, "-wal"), beside(&new, "-shm")] {
            remove(&stale)?;
        }
        for orphan in ["-wal", "-shm"] {
            remove(&beside(&self.path, orphan))?;
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(system)?;
        let (mut connection, _) = connect(&new, self.durability)?;
        let meta = Meta {
            instance: Uuid::new_v4().to_string().into(),
            epoch: 0,
            former,
            clock_ms: clock.map_or(0, Clock::now_ms),
            wall_ms: (self.wall)(),
            format: 0,
        };
        schema::migrate(&mut connection, schema::STEPS, |connection, format| Meta { format, ..meta }.write(connection))?;
        connection.close().map_err(|(_, error)| error)?;
        File::open(&new).and_then(|file| file.sync_all()).map_err(system)?;
        fs::rename(&new, &self.path).and_then(|()| sync_folder(&self.path)).map_err(system)
    }

    fn connect(&self) -> Verdict<(Connection, Arc<AtomicU32>)> {
        connect(&self.path, self.durability)
    }

    fn store(&self, connection: Connection, frames: Arc<AtomicU32>, clock: Option<Arc<Clock>>) -> Verdict<Store> {
        let meta = Meta::read(&connection)?;
        let clock = clock.unwrap_or_else(|| Arc::new(Clock::resume(meta.clock_ms, meta.wall_ms, Arc::clone(&self.wall))));
        let (bounds, identity) = (self.bounds.clone(), meta.identity());
        Ok(Store { connection, bounds, clock, identity, tally: Tally::default(), frames, used_bytes: 0 })
    }

    /// Renames the file and what belongs to it; never over another.
    fn set_aside(&self) -> io::Result<PathBuf> {
        let mut wall = (self.wall)();
        let aside = loop {
            let aside = beside(&self.path, &format!(".damaged-{wall}"));
            match rename_to_free(&self.path, &aside) {
                Ok(()) => break aside,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => wall = wall.saturating_add(1),
                Err(error) => return Err(error),
            }
        };
        for part in ["-wal", "-shm"] {
            match rename_to_free(&beside(&self.path, part), &beside(&aside, part)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sync_folder(&self.path)?;
        Ok(aside)
    }
}

/// Opens the file with all that is set for a connection. The counter says how many frames of the log are committed.
fn connect(path: &Path, durability: Durability) -> Verdict<(Connection, Arc<AtomicU32>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    // Nobody else opens it: with an exclusive lock the log's index needs no file of its own.
    connection.execute_batch(&format!(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA cache_size = -8192;
        PRAGMA temp_store = MEMORY; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
        PRAGMA journal_size_limit = 67108864; PRAGMA wal_autocheckpoint = 0"
    ))?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Trouble::Damaged(format!("its journal is {mode}")));
    }
    let frames = Arc::new(AtomicU32::new(0));
    // From here on the log is empty: what it held is in the file, or this fails.
    connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE)?;
    let counter = Arc::clone(&frames);
    connection.wal_hook(Some(move |_: &mut Wal, pages: std::ffi::c_int| {
        counter.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok((connection, frames))
}

/// What a file that SQLite would open, or take for an empty one, has wrong in its first bytes.
fn odd_head(path: &Path) -> io::Result<Option<&'static str>> {
    let mut head = Vec::new();
    let file = File::open(path)?;
    (&file).take(100).read_to_end(&mut head)?;
    let pages = file.metadata()?.len() / PAGE_BYTES.unsigned_abs();
    let _ = file.read_at(&mut [0], 0)?;
    Ok(match head.as_slice() {
        head if head.len() < 100 => Some("it is shorter than its head"),
        head if !head.starts_with(b"SQLite format 3\0") => Some("it is not a database"),
        head if head[16..18] != [0x10, 0] => Some("its pages have another size"),
        head if head[18..20] != [2, 2] => Some("its journal is of another kind"),
        _ if pages == 0 => Some("it is shorter than a page"),
        _ => None,
    })
}

/// SQLite's words for a schema that is not ours: it has no code of its own for that.
fn is_nonsense(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Sql(rusqlite::Error::SqliteFailure(failure, _)) if failure.extended_code == rusqlite::ffi::SQLITE_ERROR)
}

fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot promise it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.try_exists()? => fs::rename(from, to),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        other => Ok(other?),
    }
}

fn remove(path: &Path) -> Verdict<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system(error)),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> SpoolFault {
    SpoolFault::Failed { path: path.to_owned(), reason: reason.to_string().into() }
}

/// An error of the system in the shape of the verbs' own.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn system(error: io::Error) -> Trouble {
    let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    Trouble::Sql(rusqlite::Error::SqliteFailure(failure, Some(error.to_string())))
}
