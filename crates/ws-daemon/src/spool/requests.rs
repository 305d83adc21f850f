//! Requests and their runs, on the asking side. It never chooses a peer.

use rusqlite::{OptionalExtension, Row, params};
use ws_daemon_protocol::id::RunId;

use super::records::{Accepted, Filter, NewRequest, NewRun, RunRecord, RunState, Settled, SpoolError, StoredRequest, ThenDue};
use super::seal::Seal;
use super::store::{ROW_BYTES, Store, Trouble, Verdict, sealed, unsigned};

/// The rows of `requests` that some words choose, as [`RequestRow::read`] takes them.
macro_rules! requests {
    ($which:literal) => {
        concat!(
            "SELECT id, user, key, caller_id, hash, body, accepted_ms, accepted_wall_ms, expires_ms, not_before_ms, then_script,
            then_state, first_seq, runs, open_runs, settled_ms, trimmed, seal FROM requests ",
            $which
        )
    };
}

/// The rows of `runs` that some words choose, as [`RunRow::read`] takes them.
macro_rules! runs {
    ($which:literal) => {
        concat!(
            "SELECT seq, run, request, name, target, instance, attempt, state, report, correction, settled_wall_ms, seal,
            cancelled, refused FROM runs ",
            $which
        )
    };
}

/// What is read at once of the requests that have not settled, with their runs, in bytes; one that is larger comes alone.
const UNSETTLED_BYTES: u64 = 4 << 20;

/// No script, or it waits for the last run; it is due; it was started.
const THEN_NONE: i64 = 0;
const THEN_WAITS: i64 = 1;
const THEN_DUE: i64 = 2;
const THEN_STARTED: i64 = 3;

const WAITING: i64 = 0;
const BOUND: i64 = 1;
const SETTLED: i64 = 2;

/// A row of `requests`, with texts of its own, or with those of who writes it.
pub struct RequestRow<T = Box<str>, B = Vec<u8>> {
    id: i64,
    user: T,
    key: Option<T>,
    caller_id: Option<T>,
    hash: B,
    body: T,
    accepted_ms: i64,
    accepted_wall_ms: i64,
    expires_ms: i64,
    not_before_ms: Option<i64>,
    then_script: Option<T>,
    then_state: i64,
    first_seq: i64,
    runs: i64,
    open_runs: i64,
    settled_ms: Option<i64>,
    trimmed: bool,
}

/// A row of `runs`; likewise.
struct RunRow<T = Box<str>> {
    seq: i64,
    run: T,
    request: i64,
    name: T,
    target: Option<T>,
    instance: Option<T>,
    attempt: u32,
    state: i64,
    report: Option<T>,
    correction: Option<T>,
    settled_wall_ms: Option<i64>,
    cancelled: bool,
    refused: u32,
}

impl Store {
    /// See [`Spool::accept`](super::Spool::accept).
    pub fn accept(&mut self, new: &NewRequest) -> Verdict<Accepted> {
        let now = self.clock.now_ms();
        let texts: usize =
            new.runs.iter().map(|run| run.name.len() + run.target.as_ref().map_or(0, |target| target.len())).sum();
        let (rows, bytes) = (new.runs.len() as u64, (new.body.len() + texts) as u64);
        // What is known already needs no room, and nothing is to be dropped for it.
        if !self.has_room(rows, bytes)
            && let Some(known) = self.known(new, now)?
        {
            return Ok(known);
        }
        self.make_room(rows, bytes)?;
        let count = i64::try_from(new.runs.len()).unwrap_or(i64::MAX);
        let row = RequestRow {
            id: self.tally.last.request + 1,
            user: &*new.user,
            key: new.key.as_deref(),
            caller_id: new.caller_id.as_deref(),
            hash: &new.hash[..],
            body: &*new.body,
            accepted_ms: now,
            accepted_wall_ms: self.clock.wall_ms(),
            expires_ms: new.expires_ms,
            not_before_ms: new.not_before_ms,
            then_script: new.then.as_deref(),
            then_state: if new.then.is_some() { THEN_WAITS } else { THEN_NONE },
            first_seq: self.tally.last.run + 1,
            runs: count,
            open_runs: count,
            settled_ms: None,
            trimmed: false,
        };
        // Most keys are new: that one is known is found by trying.
        if !self.insert_request(&row)? {
            if let Some(known) = self.known(new, now)? {
                return Ok(known);
            }
            if !self.insert_request(&row)? {
                return Err(Trouble::Damaged("the index of requests has a key that no row has".to_owned()));
            }
        }
        self.tally.last.request = row.id;
        for run in &new.runs {
            self.insert_run(row.id, run)?;
        }
        Ok(Accepted::Fresh)
    }

    /// What stands under the key of a request already; if its time is over, the key is free on return.
    fn known(&mut self, new: &NewRequest, now: i64) -> Verdict<Option<Accepted>> {
        let Some(key) = &new.key else { return Ok(None) };
        let Some(mut known) = self.request_by_key(&new.user, key)? else { return Ok(None) };
        if self.is_remembered(&known, now) {
            let is_same = known.hash == new.hash;
            return Ok(Some(if is_same { Accepted::Known(self.records_of(&known)?) } else { Accepted::Conflict }));
        }
        known.key = None;
        self.update_request(&known)?;
        Ok(None)
    }

    /// See [`Spool::bind`](super::Spool::bind).
    pub fn bind(&mut self, run: &RunId, instance: &str, attempt: u32) -> Verdict<()> {
        let mut row = self.run_row(run)?.filter(|row| row.state != SETTLED).ok_or(UNKNOWN)?;
        row.instance = Some(instance.into());
        row.attempt = attempt;
        row.state = BOUND;
        self.update_run(&row)
    }

    /// See [`Spool::unbind`](super::Spool::unbind).
    pub fn unbind(&mut self, run: &RunId, next_attempt: u32, refused: u32) -> Verdict<()> {
        let mut row = self.run_row(run)?.filter(|row| row.state != SETTLED).ok_or(UNKNOWN)?;
        row.instance = None;
        row.attempt = next_attempt;
        row.refused = refused;
        row.state = WAITING;
        self.update_run(&row)
    }

    /// See [`Spool::cancel`](super::Spool::cancel).
    pub fn cancel(&mut self, run: &RunId) -> Verdict<()> {
        let mut row = self.run_row(run)?.filter(|row| row.state != SETTLED).ok_or(UNKNOWN)?;
        row.cancelled = true;
        self.update_run(&row)
    }

    /// See [`Spool::settle`](super::Spool::settle).
    pub fn settle(&mut self, run: &RunId, report: &str) -> Verdict<Settled> {
        let mut row = self.run_row(run)?.ok_or(UNKNOWN)?;
        let mut request = self.request_of(&row)?;
        if row.state == SETTLED {
            return Ok(Settled { fresh: false, request_done: request.open_runs == 0, then: None });
        }
        row.state = SETTLED;
        row.report = Some(report.into());
        row.settled_wall_ms = Some(self.clock.wall_ms());
        self.update_run(&row)?;
        self.tally.unsettled = self.tally.unsettled.saturating_sub(1);
        request.open_runs -= 1;
        let request_done = request.open_runs == 0;
        if request_done {
            request.settled_ms = Some(self.clock.now_ms());
            if request.then_state == THEN_WAITS {
                request.then_state = THEN_DUE;
            }
            self.tally.history_bytes += self.history_bytes(&request)?;
        }
        self.update_request(&request)?;
        let then = if request_done { self.due(&request)? } else { None };
        Ok(Settled { fresh: true, request_done, then })
    }

    /// See [`Spool::correct`](super::Spool::correct).
    pub fn correct(&mut self, run: &RunId, report: &str) -> Verdict<()> {
        let mut row = self.run_row(run)?.filter(|row| row.state == SETTLED).ok_or(UNKNOWN)?;
        let before = row.history_bytes();
        row.correction = Some(report.into());
        if self.request_of(&row)?.settled_ms.is_some() {
            self.tally.history_bytes = (self.tally.history_bytes + row.history_bytes()).saturating_sub(before);
        }
        self.update_run(&row)
    }

    /// See [`Spool::unsettled`](super::Spool::unsettled).
    pub fn unsettled(&mut self, after: u64, most: usize) -> Verdict<Vec<StoredRequest>> {
        let sql = requests!(
            "WHERE settled_ms IS NULL AND id > ?1 AND id >= (SELECT request FROM runs WHERE state <> 2 ORDER BY seq LIMIT 1)
            ORDER BY id LIMIT ?2"
        );
        let (after, most) = (super::store::signed(after), i64::try_from(most).unwrap_or(i64::MAX));
        let mut statement = self.connection.prepare_cached(sql)?;
        let (mut found, mut rows, mut bytes) = (statement.query([after, most])?, Vec::new(), 0);
        while bytes < UNSETTLED_BYTES
            && let Some(row) = found.next()?
        {
            let row = RequestRow::read(row)?;
            bytes += row.body.len() as u64 + unsigned(row.runs).saturating_mul(ROW_BYTES);
            rows.push(row);
        }
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
        // Requests and their runs have keys in the same order.
        let sql = runs!("WHERE state <> 2 AND seq BETWEEN ?1 AND ?2 ORDER BY seq");
        let mut runs = self.all(sql, &[&first.first_seq, &last.last_seq()], RunRow::read)?.into_iter().peekable();
        let stored = |row: RequestRow| {
            let up_to = std::iter::from_fn(|| runs.next_if(|run| run.request <= row.id));
            let own = up_to.filter(|run| run.request == row.id).map(|run| run.record(&row)).collect::<Verdict<_>>()?;
            Ok(row.stored(own))
        };
        rows.into_iter().map(stored).collect()
    }

    /// See [`Spool::oldest_ms`](super::Spool::oldest_ms). It is only shown: the seals of the rows are not looked at.
    pub fn oldest_ms(&mut self) -> Verdict<Option<i64>> {
        let sql = "SELECT requests.accepted_ms FROM runs JOIN requests ON requests.id = runs.request
            WHERE runs.state <> 2 ORDER BY runs.seq LIMIT 1";
        let accepted: Option<i64> = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
        Ok(accepted.map(|accepted| self.clock.now_ms().saturating_sub(accepted).max(0)))
    }

    /// See [`Spool::body`](super::Spool::body).
    pub fn body(&mut self, run: &RunId) -> Verdict<Box<str>> {
        let row = self.run_row(run)?.ok_or(UNKNOWN)?;
        let request = self.request_of(&row)?;
        if request.trimmed { Err(UNKNOWN) } else { Ok(request.body) }
    }

    /// See [`Spool::reports`](super::Spool::reports).
    pub fn reports(&mut self, request: u64) -> Verdict<Vec<Box<str>>> {
        let row = self.request_by_id(super::store::signed(request))?.ok_or(UNKNOWN)?;
        self.reports_of(&row)
    }

    /// See [`Spool::then_due`](super::Spool::then_due).
    pub fn then_due(&mut self) -> Verdict<Vec<ThenDue>> {
        let rows = self.all(requests!("WHERE then_state = 2 ORDER BY id"), &[], RequestRow::read)?;
        let due: Verdict<Vec<_>> = rows.iter().map(|row| self.due(row)).collect();
        Ok(due?.into_iter().flatten().collect())
    }

    /// See [`Spool::then_started`](super::Spool::then_started).
    pub fn then_started(&mut self, spool: &str, request: u64) -> Verdict<()> {
        self.is_of(spool)?;
        let row = self.request_by_id(super::store::signed(request))?;
        let mut row = row.filter(|row| row.then_state == THEN_DUE).ok_or(UNKNOWN)?;
        row.then_state = THEN_STARTED;
        self.update_request(&row)
    }

    /// See [`Spool::run_record`](super::Spool::run_record).
    pub fn run_record(&mut self, run: &RunId) -> Verdict<Option<RunRecord>> {
        let Some(row) = self.run_row(run)? else { return Ok(None) };
        let request = self.request_of(&row)?;
        row.record(&request).map(Some)
    }

    /// See [`Spool::runs`](super::Spool::runs).
    pub fn runs(&mut self, filter: &Filter) -> Verdict<Vec<RunRecord>> {
        let state = match filter.state {
            None => "1",
            Some(RunState::Waiting) => "state <> 2 AND state = 0",
            Some(RunState::Bound) => "state <> 2 AND state = 1",
            Some(RunState::Settled) => "state = 2",
        };
        let sql = format!("{} WHERE {state} AND (?1 IS NULL OR instance = ?1) ORDER BY seq DESC LIMIT ?2", runs!(""));
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let rows = self.all(&sql, &[&filter.peer, &limit], RunRow::read)?;
        rows.into_iter().map(|row| self.request_of(&row).and_then(|request| row.record(&request))).collect()
    }

    /// See [`Spool::by_caller_id`](super::Spool::by_caller_id).
    pub fn by_caller_id(&mut self, user: &str, key: &str) -> Verdict<Vec<RunRecord>> {
        match self.request_by_key(user, key)? {
            Some(request) => self.records_of(&request),
            None => Ok(Vec::new()),
        }
    }

    /// Whether its key still stands for it.
    pub fn is_remembered(&self, row: &RequestRow, now: i64) -> bool {
        let recent = row.settled_ms.is_none_or(|settled| now.saturating_sub(settled) <= self.bounds.remembered_ms);
        row.key.is_some() && (recent || row.then_state == THEN_DUE)
    }

    /// Whether it is too old to be kept.
    pub fn is_history_over(&self, row: &RequestRow, now: i64) -> bool {
        let age = row.settled_ms.map_or(0, |settled| now.saturating_sub(settled));
        age > self.bounds.history_ms && !self.is_remembered(row, now)
    }

    /// The request that settled first, of those whose body has, or has not, been dropped, and whose script is not due.
    pub fn oldest_settled(&self, trimmed: bool) -> Verdict<Option<RequestRow>> {
        let sql = requests!("WHERE trimmed = ?1 AND settled_ms IS NOT NULL AND then_state <> 2 ORDER BY settled_ms LIMIT 1");
        self.one(sql, [trimmed], RequestRow::read)
    }

    /// Drops it with its runs and their output.
    pub fn delete_request(&mut self, row: &RequestRow) -> Verdict<()> {
        let freed = self.history_bytes(row)?;
        self.write(
            "DELETE FROM output WHERE run IN (SELECT run FROM runs WHERE seq BETWEEN ?1 AND ?2)",
            [row.first_seq, row.last_seq()],
        )?;
        self.write("DELETE FROM runs WHERE seq BETWEEN ?1 AND ?2", [row.first_seq, row.last_seq()])?;
        self.write("DELETE FROM requests WHERE id = ?1", [row.id])?;
        self.tally.runs = self.tally.runs.saturating_sub(unsigned(row.runs));
        self.tally.history_bytes = self.tally.history_bytes.saturating_sub(freed);
        Ok(())
    }

    /// Drops its body; key, hash and reports stay.
    pub fn trim_request(&mut self, mut row: RequestRow) -> Verdict<()> {
        self.tally.history_bytes = self.tally.history_bytes.saturating_sub(row.body.len() as u64);
        row.body = Box::default();
        row.trimmed = true;
        self.update_request(&row)
    }

    /// Reads and counts all of both tables.
    pub fn count_requests(&mut self) -> Verdict<()> {
        let requests = self.all(requests!(""), &[], |row| {
            let row = RequestRow::read(row)?;
            Ok((row.id, row.settled_ms.map(|_| row.body.len() as u64), row.first_seq, row.runs))
        })?;
        let settled: std::collections::HashMap<i64, bool> =
            requests.iter().map(|(id, settled, ..)| (*id, settled.is_some())).collect();
        self.tally.last.request = requests.iter().map(|(id, ..)| *id).max().unwrap_or(0);
        self.tally.history_bytes = requests.iter().filter_map(|(_, bytes, ..)| *bytes).sum();
        let runs = self.all(runs!(""), &[], |row| {
            let row = RunRow::read(row)?;
            Ok((row.seq, row.request, row.state, row.history_bytes()))
        })?;
        let expected: u64 = requests.iter().map(|(_, _, _, runs)| unsigned(*runs)).sum();
        let orphan = runs.iter().find(|(_, request, ..)| !settled.contains_key(request));
        if expected != runs.len() as u64 || orphan.is_some() {
            return Err(Trouble::Damaged("runs and requests do not belong together".to_owned()));
        }
        self.tally.last.run = runs.iter().map(|(seq, ..)| *seq).max().unwrap_or(0);
        self.tally.runs = runs.len() as u64;
        self.tally.unsettled = runs.iter().filter(|(_, _, state, _)| *state != SETTLED).count() as u64;
        let of_settled = runs.iter().filter(|(_, request, ..)| settled.get(request).copied().unwrap_or_default());
        self.tally.history_bytes += of_settled.map(|(.., bytes)| *bytes).sum::<u64>();
        Ok(())
    }

    fn due(&self, row: &RequestRow) -> Verdict<Option<ThenDue>> {
        let Some(script) = row.then_script.clone().filter(|_| row.then_state == THEN_DUE) else { return Ok(None) };
        let reports = self.reports_of(row)?;
        let (request, spool) = (unsigned(row.id), self.identity.instance.clone());
        Ok(Some(ThenDue { request, spool, script, caller_id: row.caller_id.clone(), reports }))
    }

    fn reports_of(&self, row: &RequestRow) -> Verdict<Vec<Box<str>>> {
        Ok(self.runs_of(row)?.into_iter().filter_map(|run| run.report).collect())
    }

    fn history_bytes(&self, row: &RequestRow) -> Verdict<u64> {
        Ok(row.body.len() as u64 + self.runs_of(row)?.iter().map(RunRow::history_bytes).sum::<u64>())
    }

    fn records_of(&self, request: &RequestRow) -> Verdict<Vec<RunRecord>> {
        self.runs_of(request)?.into_iter().map(|row| row.record(request)).collect()
    }

    fn runs_of(&self, request: &RequestRow) -> Verdict<Vec<RunRow>> {
        let sql = runs!("WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq");
        self.all(sql, &[&request.first_seq, &request.last_seq()], RunRow::read)
    }

    fn run_row(&self, run: &RunId) -> Verdict<Option<RunRow>> {
        let sql = runs!("WHERE run = ?1");
        self.one(sql, [run.to_string()], RunRow::read)
    }

    fn request_of(&self, run: &RunRow) -> Verdict<RequestRow> {
        let found = self.request_by_id(run.request)?;
        found.ok_or_else(|| Trouble::Damaged(format!("row {} of runs has no request", run.seq)))
    }

    fn request_by_id(&self, id: i64) -> Verdict<Option<RequestRow>> {
        let sql = requests!("WHERE id = ?1");
        self.one(sql, [id], RequestRow::read)
    }

    fn request_by_key(&self, user: &str, key: &str) -> Verdict<Option<RequestRow>> {
        let sql = requests!("WHERE user = ?1 AND key = ?2 AND key IS NOT NULL");
        self.one(sql, [user, key], RequestRow::read)
    }

    /// `false`: there is one with its key, and nothing was written.
    fn insert_request(&self, row: &RequestRow<&str, &[u8]>) -> Verdict<bool> {
        let sql = "INSERT INTO requests (id, user, key, caller_id, hash, body, accepted_ms, accepted_wall_ms, expires_ms,
            not_before_ms, then_script, then_state, first_seq, runs, open_runs, settled_ms, trimmed, seal)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (user, key) WHERE key IS NOT NULL DO NOTHING";
        let values = params![
            row.id,
            row.user,
            row.key,
            row.caller_id,
            row.hash,
            row.body,
            row.accepted_ms,
            row.accepted_wall_ms,
            row.expires_ms,
            row.not_before_ms,
            row.then_script,
            row.then_state,
            row.first_seq,
            row.runs,
            row.open_runs,
            row.settled_ms,
            row.trimmed,
            row.seal()
        ];
        Ok(self.write(sql, values)? > 0)
    }

    /// Writes what may change.
    fn update_request(&self, row: &RequestRow) -> Verdict<()> {
        let sql = "UPDATE requests SET key = ?2, then_state = ?3, open_runs = ?4, settled_ms = ?5, trimmed = ?6, seal = ?7
            WHERE id = ?1";
        let values = params![row.id, row.key, row.then_state, row.open_runs, row.settled_ms, row.trimmed, row.seal()];
        self.write(sql, values)?;
        if row.trimmed {
            self.write("UPDATE requests SET body = ?2 WHERE id = ?1", params![row.id, row.body])?;
        }
        Ok(())
    }

    fn insert_run(&mut self, request: i64, new: &NewRun) -> Verdict<()> {
        let row = RunRow {
            seq: self.tally.last.run + 1,
            run: new.run.as_str(),
            request,
            name: &*new.name,
            target: new.target.as_deref(),
            instance: None,
            attempt: 1,
            state: WAITING,
            report: None,
            correction: None,
            settled_wall_ms: None,
            cancelled: false,
            refused: 0,
        };
        let sql = "INSERT INTO runs (seq, run, request, name, target, instance, attempt, state, report, correction,
            settled_wall_ms, seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let values = params![
            row.seq,
            row.run,
            row.request,
            row.name,
            row.target,
            row.instance,
            row.attempt,
            row.state,
            row.report,
            row.correction,
            row.settled_wall_ms,
            row.seal()
        ];
        self.write(sql, values)?;
        self.tally.last.run = row.seq;
        self.tally.runs += 1;
        self.tally.unsettled += 1;
        Ok(())
    }

    /// Writes what may change.
    fn update_run(&self, row: &RunRow) -> Verdict<()> {
        let sql = "UPDATE runs SET instance = ?2, attempt = ?3, state = ?4, report = ?5, correction = ?6, settled_wall_ms = ?7,
            seal = ?8, cancelled = ?9, refused = ?10 WHERE seq = ?1";
        let values = params![
            row.seq,
            row.instance,
            row.attempt,
            row.state,
            row.report,
            row.correction,
            row.settled_wall_ms,
            row.seal(),
            row.cancelled,
            row.refused
        ];
        self.write(sql, values).map(drop)
    }
}

/// There is no such run, or its time for this verb is over.
const UNKNOWN: Trouble = Trouble::Refused(SpoolError::Unknown);

impl RequestRow {
    fn read(row: &Row<'_>) -> Verdict<Self> {
        let found = Self {
            id: row.get(0)?,
            user: row.get(1)?,
            key: row.get(2)?,
            caller_id: row.get(3)?,
            hash: row.get(4)?,
            body: row.get(5)?,
            accepted_ms: row.get(6)?,
            accepted_wall_ms: row.get(7)?,
            expires_ms: row.get(8)?,
            not_before_ms: row.get(9)?,
            then_script: row.get(10)?,
            then_state: row.get(11)?,
            first_seq: row.get(12)?,
            runs: row.get(13)?,
            open_runs: row.get(14)?,
            settled_ms: row.get(15)?,
            trimmed: row.get(16)?,
        };
        let (id, seal) = (found.id, found.seal());
        sealed("requests", id, found, seal, row.get(17)?)
    }

    fn stored(self, runs: Vec<RunRecord>) -> StoredRequest {
        StoredRequest {
            request: unsigned(self.id),
            user: self.user,
            key: self.key,
            caller_id: self.caller_id,
            body: self.body,
            accepted_ms: self.accepted_ms,
            expires_ms: self.expires_ms,
            not_before_ms: self.not_before_ms,
            then: self.then_script,
            runs,
        }
    }

    fn last_seq(&self) -> i64 {
        self.first_seq + self.runs - 1
    }
}

impl<T: AsRef<str>, B: AsRef<[u8]>> RequestRow<T, B> {
    fn seal(&self) -> i64 {
        Seal::of("requests")
            .int(self.id)
            .text(self.user.as_ref())
            .maybe_text(self.key.as_ref().map(AsRef::as_ref))
            .maybe_text(self.caller_id.as_ref().map(AsRef::as_ref))
            .bytes(self.hash.as_ref())
            .text(self.body.as_ref())
            .int(self.accepted_ms)
            .int(self.accepted_wall_ms)
            .int(self.expires_ms)
            .maybe_int(self.not_before_ms)
            .maybe_text(self.then_script.as_ref().map(AsRef::as_ref))
            .int(self.then_state)
            .int(self.first_seq)
            .int(self.runs)
            .int(self.open_runs)
            .maybe_int(self.settled_ms)
            .int(i64::from(self.trimmed))
            .sum()
    }
}

impl RunRow {
    fn read(row: &Row<'_>) -> Verdict<Self> {
        let found = Self {
            seq: row.get(0)?,
            run: row.get(1)?,
            request: row.get(2)?,
            name: row.get(3)?,
            target: row.get(4)?,
            instance: row.get(5)?,
            attempt: row.get(6)?,
            state: row.get(7)?,
            report: row.get(8)?,
            correction: row.get(9)?,
            settled_wall_ms: row.get(10)?,
            cancelled: row.get(12)?,
            refused: row.get(13)?,
        };
        let (seq, seal) = (found.seq, found.seal());
        sealed("runs", seq, found, seal, row.get(11)?)
    }

    fn record(self, request: &RequestRow) -> Verdict<RunRecord> {
        let state = match self.state {
            WAITING => RunState::Waiting,
            BOUND => RunState::Bound,
            SETTLED => RunState::Settled,
            other => return Err(Trouble::Damaged(format!("row {} of runs has state {other}", self.seq))),
        };
        Ok(RunRecord {
            run: RunId::new(self.run),
            seq: unsigned(self.seq),
            request: unsigned(self.request),
            user: request.user.clone(),
            caller_id: request.caller_id.clone(),
            name: self.name,
            target: self.target,
            bound: self.instance,
            attempt: self.attempt,
            state,
            report: self.report,
            correction: self.correction,
            accepted_wall_ms: request.accepted_wall_ms,
            settled_wall_ms: self.settled_wall_ms,
            cancelled: self.cancelled,
            refused: self.refused,
        })
    }

    fn history_bytes(&self) -> u64 {
        [&self.report, &self.correction].into_iter().flatten().map(|text| text.len() as u64).sum()
    }
}

impl<T: AsRef<str>> RunRow<T> {
    fn seal(&self) -> i64 {
        let seal = Seal::of("runs")
            .int(self.seq)
            .text(self.run.as_ref())
            .int(self.request)
            .text(self.name.as_ref())
            .maybe_text(self.target.as_ref().map(AsRef::as_ref))
            .maybe_text(self.instance.as_ref().map(AsRef::as_ref))
            .int(i64::from(self.attempt))
            .int(self.state)
            .maybe_text(self.report.as_ref().map(AsRef::as_ref))
            .maybe_text(self.correction.as_ref().map(AsRef::as_ref))
            .maybe_int(self.settled_wall_ms);
        match (self.cancelled, self.refused) {
            (false, 0) => seal.sum(),
            (true, 0) => seal.int(1).sum(),
            (cancelled, refused) => seal.int(i64::from(cancelled)).int(i64::from(refused)).sum(),
        }
    }
}
