//! Claims, on the doing side: runs that peers have asked for. It never starts one.

use rusqlite::{Row, params};
use ws_daemon_protocol::id::RunId;

use super::records::{ClaimRecord, ClaimState, Claimed, Filter, NewClaim, RunState, SpoolError, Unacknowledged};
use super::seal::Seal;
use super::store::{Store, Trouble, Verdict, sealed};

const CLAIM: &str = "SELECT id, asker, run, attempt, name, body, state, pid, start_time, report, claimed_wall_ms,
    finished_wall_ms, changed_ms, seal FROM claims";

const CLAIMED: i64 = 0;
const STARTING: i64 = 1;
const STARTED: i64 = 2;
const FINISHED: i64 = 3;
const REFUSED: i64 = 4;
const ACKNOWLEDGED: i64 = 5;

/// There is no such claim, or its time for this verb is over.
const UNKNOWN: Trouble = Trouble::Refused(SpoolError::Unknown);

/// A row of `claims`.
struct ClaimRow {
    id: i64,
    asker: Box<str>,
    run: Box<str>,
    attempt: u32,
    name: Box<str>,
    body: Box<str>,
    state: i64,
    pid: Option<u32>,
    /// All 64 bits of it.
    start_time: Option<i64>,
    report: Option<Box<str>>,
    claimed_wall_ms: i64,
    finished_wall_ms: Option<i64>,
    changed_ms: i64,
}

impl Store {
    /// See [`Spool::claim`](super::Spool::claim).
    pub fn claim(&mut self, me: &str, new: &NewClaim) -> Verdict<Claimed> {
        self.is_of(me)?;
        if let Some(known) = self.claim_row(&new.asker, &new.run, new.attempt)? {
            return known.claimed();
        }
        self.make_room(1, (new.body.len() + new.name.len()) as u64)?;
        let state = if new.starting { STARTING } else { CLAIMED };
        let row = self.new_claim(&new.asker, &new.run, new.attempt, state);
        self.insert_claim(&ClaimRow { name: new.name.clone(), body: new.body.clone(), ..row })?;
        Ok(Claimed::Fresh)
    }

    /// See [`Spool::starting`](super::Spool::starting).
    pub fn starting(&mut self, asker: &str, run: &RunId, attempt: u32) -> Verdict<()> {
        let row = self.claim_row(asker, run, attempt)?;
        let mut row = row.filter(|row| row.state == CLAIMED || row.state == STARTING).ok_or(UNKNOWN)?;
        row.state = STARTING;
        self.update_claim(&row)
    }

    /// See [`Spool::not_started`](super::Spool::not_started).
    pub fn not_started(&mut self, asker: &str, run: &RunId, attempt: u32) -> Verdict<()> {
        let row = self.claim_row(asker, run, attempt)?;
        let mut row = row.filter(|row| row.state == CLAIMED || row.state == STARTING).ok_or(UNKNOWN)?;
        row.state = CLAIMED;
        self.update_claim(&row)
    }

    /// See [`Spool::started`](super::Spool::started).
    pub fn started(&mut self, asker: &str, run: &RunId, attempt: u32, pid: u32, start_time: u64) -> Verdict<()> {
        let row = self.claim_row(asker, run, attempt)?;
        let mut row = row.filter(|row| row.state == STARTING || row.state == STARTED).ok_or(UNKNOWN)?;
        row.state = STARTED;
        row.pid = Some(pid);
        row.start_time = Some(start_time.cast_signed());
        self.update_claim(&row)
    }

    /// See [`Spool::finish`](super::Spool::finish).
    pub fn finish(&mut self, asker: &str, run: &RunId, attempt: u32, report: &str) -> Verdict<()> {
        let mut row = self.claim_row(asker, run, attempt)?.ok_or(UNKNOWN)?;
        match row.state {
            FINISHED | ACKNOWLEDGED => return Ok(()),
            REFUSED => return Err(UNKNOWN),
            _ => {}
        }
        row.state = FINISHED;
        row.report = Some(report.into());
        row.finished_wall_ms = Some(self.clock.wall_ms());
        row.changed_ms = self.clock.now_ms();
        self.update_claim(&row)
    }

    /// See [`Spool::refuse`](super::Spool::refuse).
    pub fn refuse(&mut self, me: &str, asker: &str, run: &RunId, attempt: u32, report: &str) -> Verdict<Claimed> {
        self.is_of(me)?;
        if let Some(known) = self.claim_row(asker, run, attempt)? {
            return known.claimed();
        }
        // An outcome, so it may use what is kept free.
        let row = self.new_claim(asker, run, attempt, REFUSED);
        let finished_wall_ms = Some(row.claimed_wall_ms);
        self.insert_claim(&ClaimRow { report: Some(report.into()), finished_wall_ms, ..row })?;
        Ok(Claimed::Refused(report.into()))
    }

    /// See [`Spool::acknowledged`](super::Spool::acknowledged).
    pub fn acknowledged(&mut self, asker: &str, run: &RunId, attempt: u32) -> Verdict<()> {
        let row = self.claim_row(asker, run, attempt)?;
        let mut row = row.filter(|row| row.state >= FINISHED).ok_or(UNKNOWN)?;
        if row.state == ACKNOWLEDGED {
            return Ok(());
        }
        row.state = ACKNOWLEDGED;
        row.report = None;
        row.body = Box::default();
        row.changed_ms = self.clock.now_ms();
        self.update_claim(&row)?;
        self.write("UPDATE claims SET body = '' WHERE id = ?1", [row.id])?;
        self.drop_output_of_claim(run)?;
        self.tally.claims = self.tally.claims.saturating_sub(1);
        self.tally.tombstones += 1;
        Ok(())
    }

    /// See [`Spool::unfinished`](super::Spool::unfinished).
    pub fn unfinished(&mut self) -> Verdict<Vec<ClaimRecord>> {
        let rows = self.all(&format!("{CLAIM} WHERE state < 3 ORDER BY id"), &[], ClaimRow::read)?;
        rows.into_iter().map(ClaimRow::record).collect()
    }

    /// See [`Spool::unacknowledged`](super::Spool::unacknowledged).
    pub fn unacknowledged(&mut self, asker: &str) -> Verdict<Vec<Unacknowledged>> {
        let sql = format!("{CLAIM} WHERE asker = ?1 AND state IN (3, 4) ORDER BY id");
        let rows = self.all(&sql, &[&asker], ClaimRow::read)?;
        Ok(rows.into_iter().map(ClaimRow::unacknowledged).collect())
    }

    /// See [`Spool::claims`](super::Spool::claims).
    pub fn claims(&mut self, filter: &Filter) -> Verdict<Vec<ClaimRecord>> {
        let state = match filter.state {
            None => "1",
            Some(RunState::Waiting) => "0",
            Some(RunState::Bound) => "state < 3",
            Some(RunState::Settled) => "state IN (3, 5)",
        };
        let sql = format!("{CLAIM} WHERE {state} AND (?1 IS NULL OR asker = ?1) ORDER BY id DESC LIMIT ?2");
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let rows = self.all(&sql, &[&filter.peer, &limit], ClaimRow::read)?;
        rows.into_iter().map(ClaimRow::record).collect()
    }

    /// See [`Spool::claim_record`](super::Spool::claim_record).
    pub fn claim_record(&mut self, run: &RunId) -> Verdict<Option<ClaimRecord>> {
        let sql = format!("{CLAIM} WHERE run = ?1 ORDER BY id DESC LIMIT 1");
        self.one(&sql, [run.to_string()], ClaimRow::read)?.map(ClaimRow::record).transpose()
    }

    /// Reads and counts the whole table.
    pub fn count_claims(&mut self) -> Verdict<()> {
        let rows = self.all(CLAIM, &[], |row| ClaimRow::read(row).map(|row| (row.id, row.state)))?;
        self.tally.last.claim = rows.iter().map(|(id, _)| *id).max().unwrap_or(0);
        self.tally.tombstones = rows.iter().filter(|(_, state)| *state == ACKNOWLEDGED).count() as u64;
        self.tally.claims = rows.len() as u64 - self.tally.tombstones;
        Ok(())
    }

    /// A run may be this daemon's own, done by itself for itself: then what the asker keeps is kept.
    fn drop_output_of_claim(&mut self, run: &RunId) -> Verdict<()> {
        let sql = "DELETE FROM output WHERE run = ?1 AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.run = ?1)";
        self.write(sql, [run.to_string()]).map(drop)
    }

    fn claim_row(&self, asker: &str, run: &RunId, attempt: u32) -> Verdict<Option<ClaimRow>> {
        let sql = "SELECT id, asker, run, attempt, name, body, state, pid, start_time, report, claimed_wall_ms,
            finished_wall_ms, changed_ms, seal FROM claims WHERE run = ?1 AND asker = ?2 AND attempt = ?3";
        self.one(sql, params![run.to_string(), asker, attempt], ClaimRow::read)
    }

    fn new_claim(&self, asker: &str, run: &RunId, attempt: u32, state: i64) -> ClaimRow {
        ClaimRow {
            id: self.tally.last.claim + 1,
            asker: asker.into(),
            run: run.to_string().into(),
            attempt,
            name: Box::default(),
            body: Box::default(),
            state,
            pid: None,
            start_time: None,
            report: None,
            claimed_wall_ms: self.clock.wall_ms(),
            finished_wall_ms: None,
            changed_ms: self.clock.now_ms(),
        }
    }

    fn insert_claim(&mut self, row: &ClaimRow) -> Verdict<()> {
        let sql = "INSERT INTO claims (id, asker, run, attempt, name, body, state, pid, start_time, report, claimed_wall_ms,
            finished_wall_ms, changed_ms, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let values = params![
            row.id,
            row.asker,
            row.run,
            row.attempt,
            row.name,
            row.body,
            row.state,
            row.pid,
            row.start_time,
            row.report,
            row.claimed_wall_ms,
            row.finished_wall_ms,
            row.changed_ms,
            row.seal()
        ];
        self.write(sql, values)?;
        self.tally.last.claim = row.id;
        self.tally.claims += 1;
        Ok(())
    }

    /// Writes what may change, all but the body.
    fn update_claim(&self, row: &ClaimRow) -> Verdict<()> {
        let sql =
            "UPDATE claims SET state = ?2, pid = ?3, start_time = ?4, report = ?5, finished_wall_ms = ?6, changed_ms = ?7,
            seal = ?8 WHERE id = ?1";
        let values =
            params![row.id, row.state, row.pid, row.start_time, row.report, row.finished_wall_ms, row.changed_ms, row.seal()];
        self.write(sql, values).map(drop)
    }
}

impl ClaimRow {
    fn read(row: &Row<'_>) -> Verdict<Self> {
        let found = Self {
            id: row.get(0)?,
            asker: row.get(1)?,
            run: row.get(2)?,
            attempt: row.get(3)?,
            name: row.get(4)?,
            body: row.get(5)?,
            state: row.get(6)?,
            pid: row.get(7)?,
            start_time: row.get(8)?,
            report: row.get(9)?,
            claimed_wall_ms: row.get(10)?,
            finished_wall_ms: row.get(11)?,
            changed_ms: row.get(12)?,
        };
        let (id, seal) = (found.id, found.seal());
        sealed("claims", id, found, seal, row.get(13)?)
    }

    fn claimed(self) -> Verdict<Claimed> {
        let report = self.report.unwrap_or_default();
        Ok(match self.state {
            FINISHED => Claimed::Finished(report),
            REFUSED => Claimed::Refused(report),
            ACKNOWLEDGED => Claimed::Acknowledged,
            _ => Claimed::Running,
        })
    }

    fn unacknowledged(self) -> Unacknowledged {
        Unacknowledged {
            run: RunId::new(self.run),
            attempt: self.attempt,
            report: self.report.unwrap_or_default(),
            refused: self.state == REFUSED,
        }
    }

    fn record(self) -> Verdict<ClaimRecord> {
        let state = match self.state {
            CLAIMED => ClaimState::Claimed,
            STARTING => ClaimState::Starting,
            STARTED => ClaimState::Started,
            FINISHED => ClaimState::Finished,
            REFUSED => ClaimState::Refused,
            ACKNOWLEDGED => ClaimState::Acknowledged,
            other => return Err(Trouble::Damaged(format!("row {} of claims has state {other}", self.id))),
        };
        Ok(ClaimRecord {
            asker: self.asker,
            run: RunId::new(self.run),
            attempt: self.attempt,
            name: self.name,
            body: self.body,
            state,
            pid: self.pid,
            start_time: self.start_time.map(i64::cast_unsigned),
            report: self.report,
            claimed_wall_ms: self.claimed_wall_ms,
            finished_wall_ms: self.finished_wall_ms,
        })
    }

    fn seal(&self) -> i64 {
        Seal::of("claims")
            .int(self.id)
            .text(&self.asker)
            .text(&self.run)
            .int(i64::from(self.attempt))
            .text(&self.name)
            .text(&self.body)
            .int(self.state)
            .maybe_int(self.pid.map(i64::from))
            .maybe_int(self.start_time)
            .maybe_text(self.report.as_deref())
            .int(self.claimed_wall_ms)
            .maybe_int(self.finished_wall_ms)
            .int(self.changed_ms)
            .sum()
    }
}
