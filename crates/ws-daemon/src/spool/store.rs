//! SQLite as the verbs see it: inside a transaction that somebody else begins and ends. It counts what is kept, decides whether
//! there is room, and drops what is old; it never commits.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rusqlite::types::ToSql;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Params, Row, params};

use super::clock::Clock;
use super::records::{Bounds, Identity, SpoolError};
use super::seal::Seal;

/// Why a verb, or a whole transaction, was not done.
#[derive(Debug)]
pub enum Trouble {
    /// The verb alone: nothing was changed for it.
    Refused(SpoolError),
    /// `SQLite` or the system under it.
    Sql(rusqlite::Error),
    /// The file says what was never written to it.
    Damaged(String),
}

/// What a verb comes to inside its transaction.
pub type Verdict<T> = Result<T, Trouble>;

/// What is to be done about an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The verb is at fault, the others are not.
    Stumble,
    /// There is no room on the disk: roll back, go on.
    RollBack,
    /// What `SQLite` believes may be wrong: close, and open anew.
    Reopen,
    /// The file is damaged.
    SetAside,
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Trouble {
    /// See [`Remedy`].
    pub fn remedy(&self) -> Remedy {
        let error = match self {
            Self::Refused(_) => return Remedy::Stumble,
            Self::Damaged(_) => return Remedy::SetAside,
            Self::Sql(error) => error,
        };
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Remedy::SetAside,
                ErrorCode::DiskFull => Remedy::RollBack,
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => Remedy::Stumble,
                _ => Remedy::Reopen,
            },
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::QueryReturnedNoRows => Remedy::SetAside,
            _ => Remedy::Stumble,
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Refused(error) => error.to_string(),
            Self::Sql(error) => error.to_string(),
            Self::Damaged(what) => format!("the file is damaged: {what}"),
        }
    }

    /// What the caller of the verb gets.
    pub fn error(&self) -> SpoolError {
        match self {
            Self::Refused(error) => error.clone(),
            other => SpoolError::Failed(other.words().into()),
        }
    }
}

/// What is counted rather than asked for. It is put back when its transaction fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Runs asked for.
    pub runs: u64,
    /// Of these the unsettled.
    pub unsettled: u64,
    /// Claims that are not acknowledged.
    pub claims: u64,
    /// Those that are.
    pub tombstones: u64,
    /// Bodies and reports of settled requests.
    pub history_bytes: u64,
    /// Known peers.
    pub peers: u64,
    /// The highest keys so far.
    pub last: LastKeys,
    /// As on disk.
    pub epoch: u64,
    /// When this spool's clock was last saved.
    pub clock_saved_ms: i64,
}

/// Of each table.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastKeys {
    pub request: i64,
    pub run: i64,
    pub claim: i64,
    pub output: i64,
}

/// What verbs work on.
pub struct Store {
    pub connection: Connection,
    pub bounds: Bounds,
    pub clock: Arc<Clock>,
    pub identity: Identity,
    pub tally: Tally,
    /// Frames of the log that are committed and not known to be in the file.
    pub frames: Arc<AtomicU32>,
    /// Bytes in use when the transaction began, and what it may have added.
    pub used_bytes: u64,
}

/// Of [`Bounds::bytes`], kept free for outcomes.
const RESERVED_PART: u64 = 16;

/// What a row takes beside its texts, with its places in the indexes.
pub const ROW_BYTES: u64 = 512;

/// Old requests, and old tombstones, that one transaction drops; the rest goes with the next.
const SWEPT_ROWS: u32 = 256;

/// Between two savings of the clock, and between two looks for what is old.
const CLOCK_SAVED_EVERY_MS: i64 = 1000;

impl Store {
    /// Looks at what is in use; to be called at the beginning of a transaction.
    pub fn measure(&mut self) -> Verdict<()> {
        let pragma = |sql| -> rusqlite::Result<i64> { self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)) };
        let pages = pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?;
        self.used_bytes = unsigned(pages.saturating_mul(super::file::PAGE_BYTES));
        Ok(())
    }

    /// To be called at the end of a transaction that has written: saves the clock and drops what is old, once a second.
    pub fn tidy(&mut self) -> Verdict<()> {
        let now = self.clock.now_ms();
        if now.saturating_sub(self.tally.clock_saved_ms) < CLOCK_SAVED_EVERY_MS {
            return Ok(());
        }
        self.sweep_requests(now)?;
        self.sweep_claims(now)?;
        self.tally.clock_saved_ms = now;
        self.save_meta()
    }

    /// Whether this is still the spool of that instance.
    pub fn is_of(&self, instance: &str) -> Verdict<()> {
        if *self.identity.instance == *instance { Ok(()) } else { Err(Trouble::Refused(SpoolError::Unknown)) }
    }

    /// Writes something, unless that was done within the last second.
    pub fn probe(&mut self) -> Verdict<()> {
        let now = self.clock.now_ms();
        if now.saturating_sub(self.tally.clock_saved_ms) < CLOCK_SAVED_EVERY_MS {
            return Ok(());
        }
        self.tally.clock_saved_ms = now;
        self.save_meta()
    }

    /// The epoch, one higher.
    pub fn raise_epoch(&mut self) -> Verdict<u64> {
        self.tally.epoch += 1;
        self.tally.clock_saved_ms = self.clock.now_ms();
        self.save_meta()?;
        Ok(self.tally.epoch)
    }

    /// Whether new work of so many rows and bytes fits as it is.
    pub fn has_room(&self, rows: u64, bytes: u64) -> bool {
        let bytes_limit = self.bounds.bytes - self.bounds.bytes / RESERVED_PART;
        let runs = self.tally.runs + self.tally.claims + rows;
        self.used_bytes + added(rows, bytes) <= bytes_limit && runs <= self.bounds.runs
    }

    /// Makes sure that new work of so many rows and bytes fits, if need be by dropping history.
    pub fn make_room(&mut self, rows: u64, bytes: u64) -> Verdict<()> {
        if !self.has_room(rows, bytes) {
            let now = self.clock.now_ms();
            for _ in 0..SWEPT_ROWS {
                if self.has_room(rows, bytes) || !self.drop_oldest(now)? {
                    break;
                }
                self.measure()?;
            }
        }
        if !self.has_room(rows, bytes) {
            return Err(Trouble::Refused(SpoolError::Full));
        }
        self.used_bytes += added(rows, bytes);
        Ok(())
    }

    /// Drops requests beyond the bounds of the history, oldest first.
    fn sweep_requests(&mut self, now: i64) -> Verdict<()> {
        for _ in 0..SWEPT_ROWS {
            let oldest = self.oldest_settled(false)?;
            let over_bytes = self.tally.history_bytes > self.bounds.history_bytes;
            match oldest {
                Some(row) if self.is_history_over(&row, now) => self.delete_request(&row)?,
                Some(row) if over_bytes && self.is_remembered(&row, now) => self.trim_request(row)?,
                Some(row) if over_bytes => self.delete_request(&row)?,
                _ => break,
            }
        }
        for _ in 0..SWEPT_ROWS {
            match self.oldest_settled(true)? {
                Some(row) if !self.is_remembered(&row, now) => self.delete_request(&row)?,
                _ => break,
            }
        }
        Ok(())
    }

    /// Drops the oldest settled request that nobody is promised; false: there is none.
    fn drop_oldest(&mut self, now: i64) -> Verdict<bool> {
        for trimmed in [true, false] {
            if let Some(row) = self.oldest_settled(trimmed)?
                && !self.is_remembered(&row, now)
            {
                self.delete_request(&row)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops tombstones beyond their bounds, oldest first.
    fn sweep_claims(&mut self, now: i64) -> Verdict<()> {
        let before = now.saturating_sub(self.bounds.remembered_ms);
        let over = self.tally.tombstones.saturating_sub(self.bounds.tombstones);
        let by_age = "DELETE FROM claims WHERE id IN
            (SELECT id FROM claims WHERE state = 5 AND changed_ms < ?1 ORDER BY changed_ms LIMIT ?2)";
        let by_count = "DELETE FROM claims WHERE id IN (SELECT id FROM claims WHERE state = 5 ORDER BY changed_ms LIMIT ?1)";
        let old = self.write(by_age, params![before, SWEPT_ROWS])?;
        let more = self.write(by_count, params![signed(over.saturating_sub(old as u64)).min(i64::from(SWEPT_ROWS))])?;
        self.tally.tombstones = self.tally.tombstones.saturating_sub((old + more) as u64);
        Ok(())
    }

    /// Writes the one row of `meta`.
    fn save_meta(&mut self) -> Verdict<()> {
        let mut meta = Meta::read(&self.connection)?;
        meta.epoch = self.tally.epoch;
        meta.clock_ms = self.tally.clock_saved_ms;
        meta.wall_ms = self.clock.wall_ms();
        Ok(meta.write(&self.connection)?)
    }

    /// Runs a statement that writes; how many rows it changed.
    pub fn write(&self, sql: &str, values: impl Params) -> Verdict<usize> {
        Ok(self.connection.prepare_cached(sql)?.execute(values)?)
    }

    /// The row, if there is one; `read` verifies its seal.
    pub fn one<T>(&self, sql: &str, values: impl Params, read: impl FnOnce(&Row<'_>) -> Verdict<T>) -> Verdict<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        rows.next()?.map(read).transpose()
    }

    /// All rows; `read` verifies their seals.
    pub fn all<T>(&self, sql: &str, values: &[&dyn ToSql], read: impl Fn(&Row<'_>) -> Verdict<T>) -> Verdict<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// Reads every row of every table, and counts.
    pub fn count_all(&mut self) -> Verdict<()> {
        let meta = Meta::read(&self.connection)?;
        self.tally = Tally { epoch: meta.epoch, clock_saved_ms: meta.clock_ms, ..Tally::default() };
        self.count_requests()?;
        self.count_claims()?;
        self.count_output()?;
        self.count_peers()
    }
}

/// The one row that says who this spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub instance: Box<str>,
    pub epoch: u64,
    pub former: Vec<Box<str>>,
    pub clock_ms: i64,
    pub wall_ms: i64,
    pub format: i64,
}

impl Meta {
    /// The row, verified.
    pub fn read(connection: &Connection) -> Verdict<Self> {
        let sql = "SELECT instance, epoch, former, clock_ms, wall_ms, format, seal FROM meta WHERE id = 1";
        let mut statement = connection.prepare_cached(sql)?;
        let found = statement
            .query_row([], |row| {
                let former: String = row.get(2)?;
                let meta = Self {
                    instance: row.get(0)?,
                    epoch: unsigned(row.get(1)?),
                    former: serde_json::from_str(&former).unwrap_or_default(),
                    clock_ms: row.get(3)?,
                    wall_ms: row.get(4)?,
                    format: row.get(5)?,
                };
                Ok((meta.seal(&former) == row.get::<_, i64>(6)?).then_some(meta))
            })
            .optional()?;
        found.flatten().ok_or_else(|| Trouble::Damaged("the row of meta".to_owned()))
    }

    /// Replaces the row.
    pub fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let former = serde_json::Value::from(self.former.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string();
        let sql = "INSERT OR REPLACE INTO meta (id, instance, epoch, former, clock_ms, wall_ms, format, seal)
            VALUES (1, ?, ?, ?, ?, ?, ?, ?)";
        let values =
            params![self.instance, signed(self.epoch), former, self.clock_ms, self.wall_ms, self.format, self.seal(&former)];
        connection.prepare_cached(sql)?.execute(values).map(drop)
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        Identity { instance: self.instance.clone(), epoch: self.epoch, former: self.former.clone() }
    }

    fn seal(&self, former: &str) -> i64 {
        let who = Seal::of("meta").text(&self.instance).int(signed(self.epoch)).text(former);
        who.int(self.clock_ms).int(self.wall_ms).int(self.format).sum()
    }
}

/// What new work takes on disk, in bytes.
fn added(rows: u64, bytes: u64) -> u64 {
    bytes + rows * ROW_BYTES
}

/// A row is as it was written, or the file is damaged.
pub fn sealed<T>(table: &str, key: i64, row: T, computed: i64, stored: i64) -> Verdict<T> {
    if computed == stored {
        return Ok(row);
    }
    Err(Trouble::Damaged(format!("row {key} of {table}")))
}

/// As `SQLite` keeps it; what is counted here stays far below the limit.
pub fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// As it was before [`signed`].
pub fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
