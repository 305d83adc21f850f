//! The tables, and how a file of an earlier format becomes one of ours. Steps are only ever added.

use rusqlite::Connection;

/// Step n makes format n+1 of format n.
pub const STEPS: &[&str] = &[FIRST, SECOND, THIRD];

/// In `meta` there is one row. Whatever is in a table is under the `seal` of its row.
const FIRST: &str = "
CREATE TABLE meta (id INTEGER PRIMARY KEY, instance TEXT NOT NULL, epoch INTEGER NOT NULL, former TEXT NOT NULL,
    clock_ms INTEGER NOT NULL, wall_ms INTEGER NOT NULL, format INTEGER NOT NULL, seal INTEGER NOT NULL);

CREATE TABLE requests (id INTEGER PRIMARY KEY, user TEXT NOT NULL, key TEXT, caller_id TEXT, hash BLOB NOT NULL,
    body TEXT NOT NULL, accepted_ms INTEGER NOT NULL, accepted_wall_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
    not_before_ms INTEGER, then_script TEXT, then_state INTEGER NOT NULL, first_seq INTEGER NOT NULL, runs INTEGER NOT NULL,
    open_runs INTEGER NOT NULL, settled_ms INTEGER, trimmed INTEGER NOT NULL, seal INTEGER NOT NULL);
CREATE UNIQUE INDEX requests_key ON requests (user, key) WHERE key IS NOT NULL;
CREATE INDEX requests_due ON requests (id) WHERE then_state = 2;
CREATE INDEX requests_history ON requests (trimmed, settled_ms) WHERE settled_ms IS NOT NULL AND then_state <> 2;

CREATE TABLE runs (seq INTEGER PRIMARY KEY, run TEXT NOT NULL, request INTEGER NOT NULL, name TEXT NOT NULL, target TEXT,
    instance TEXT, attempt INTEGER NOT NULL, state INTEGER NOT NULL, report TEXT, correction TEXT, settled_wall_ms INTEGER,
    seal INTEGER NOT NULL);
CREATE UNIQUE INDEX runs_run ON runs (run);
CREATE INDEX runs_unsettled ON runs (seq) WHERE state <> 2;

CREATE TABLE claims (id INTEGER PRIMARY KEY, asker TEXT NOT NULL, run TEXT NOT NULL, attempt INTEGER NOT NULL, name TEXT NOT NULL,
    body TEXT NOT NULL, state INTEGER NOT NULL, pid INTEGER, start_time INTEGER, report TEXT, claimed_wall_ms INTEGER NOT NULL,
    finished_wall_ms INTEGER, changed_ms INTEGER NOT NULL, seal INTEGER NOT NULL);
CREATE UNIQUE INDEX claims_key ON claims (run, asker, attempt);
CREATE INDEX claims_unfinished ON claims (id) WHERE state < 3;
CREATE INDEX claims_unacknowledged ON claims (asker, id) WHERE state IN (3, 4);
CREATE INDEX claims_tombstones ON claims (changed_ms) WHERE state = 5;

CREATE TABLE output (id INTEGER PRIMARY KEY, run TEXT NOT NULL, stream INTEGER NOT NULL, start INTEGER NOT NULL,
    size INTEGER NOT NULL, bytes BLOB NOT NULL, seal INTEGER NOT NULL);
CREATE UNIQUE INDEX output_place ON output (run, stream, start, size);

CREATE TABLE peers (id INTEGER PRIMARY KEY, instance TEXT NOT NULL, name TEXT NOT NULL, configured INTEGER NOT NULL,
    tags TEXT NOT NULL, epoch INTEGER NOT NULL, version TEXT NOT NULL, capacity INTEGER NOT NULL, address TEXT NOT NULL,
    last_seen INTEGER NOT NULL, seal INTEGER NOT NULL);
CREATE UNIQUE INDEX peers_instance ON peers (instance);
";

/// Somebody wants the run stopped. It is under the seal of its row only if it is so, which leaves the seals of before good.
const SECOND: &str = "ALTER TABLE runs ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0";

/// How many attempts of the run certainly never began. It is under the seal only if there are any.
const THIRD: &str = "ALTER TABLE runs ADD COLUMN refused INTEGER NOT NULL DEFAULT 0";

/// The format of the file; 0 is an empty one.
pub fn format(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The format that `steps` lead to.
pub fn newest(steps: &[&str]) -> i64 {
    i64::try_from(steps.len()).unwrap_or(i64::MAX)
}

/// Takes the steps that are missing, in one transaction; `sign` is called at its end if there were any.
pub fn migrate(
    connection: &mut Connection,
    steps: &[&str],
    sign: impl FnOnce(&Connection, i64) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let found = format(connection)?;
    let missing = &steps[usize::try_from(found).unwrap_or(0).min(steps.len())..];
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", newest(steps))?;
    sign(&transaction, newest(steps))?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[&str] = &["CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (1)", "ALTER TABLE a ADD COLUMN y DEFAULT 7"];

    #[test]
    fn only_the_missing_steps_are_taken_and_what_was_there_stays() {
        let mut connection = Connection::open_in_memory().expect("in memory");
        let mut signed = Vec::new();
        for steps in [&TWO[..1], TWO, TWO] {
            migrate(&mut connection, steps, |_, format| {
                signed.push(format);
                Ok(())
            })
            .expect("the steps are right");
        }
        assert_eq!((format(&connection), signed), (Ok(2), vec![1, 2]));
        let row = connection.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?)));
        assert_eq!(row, Ok((1, 7)));
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let mut connection = Connection::open_in_memory().expect("in memory");
        let steps = [TWO[0], "INSERT INTO a VALUES (2); INSERT INTO nowhere VALUES (1)"];
        migrate(&mut connection, &steps[..1], |_, _| Ok(())).expect("the first is right");
        assert!(migrate(&mut connection, &steps, |_, _| Ok(())).is_err());
        let rows: i64 = connection.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).expect("the table is there");
        assert_eq!((format(&connection), rows), (Ok(1), 1));
    }
}
