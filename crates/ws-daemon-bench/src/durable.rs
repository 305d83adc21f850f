//! What it costs to put a request on disk: through the daemon's spool, and beside it in a bare loop that executes the same
//! statements on the same tables and commits as many at once as are outstanding there.
//!
//! Here alone the daemon is no black box: its library is called. Each slice has files of its own, so that none is measured on
//! what another has left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};
use ws_daemon::spool::{Accepted, Bounds, Durability, NewRequest, NewRun, Spool};
use ws_daemon_protocol::id::RunId;

use crate::bench::Bench;
use crate::figure::{Figure, Unit};
use crate::rounds::Schedule;
use crate::sample::{Sample, rates};
use crate::{system, targets};

/// Requests that wait for the disk at once.
const OUTSTANDING: [usize; 4] = [1, 16, 64, 512];
/// With so many outstanding, the spool must not be what limits.
const MANY_OUTSTANDING: usize = 64;

/// The same at one number of requests outstanding, a value a round.
struct Enqueued {
    outstanding: usize,
    bare: Vec<Sample>,
    spool: Vec<Sample>,
}

/// Alternates between both; the first round warms up and is not kept.
fn run(schedule: Schedule) -> Result<Vec<Enqueued>> {
    let mut all: Vec<Enqueued> =
        OUTSTANDING.map(|outstanding| Enqueued { outstanding, bare: Vec::new(), spool: Vec::new() }).into();
    for round in 0..=schedule.rounds {
        eprintln!("durable, round {round} of {}", schedule.rounds);
        for series in &mut all {
            let bare = slice(|path| bare_loop(path, series.outstanding, schedule.slice))?;
            let spool = slice(|path| through_the_spool(path, series.outstanding, schedule.slice))?;
            if round > 0 {
                series.bare.push(bare);
                series.spool.push(spool);
            }
        }
    }
    Ok(all)
}

pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    run(bench.schedule).map(|enqueued| figures(&enqueued))
}

/// Requests on disk a second.
fn figures(enqueued: &[Enqueued]) -> Vec<Figure> {
    let figures = enqueued.iter().flat_map(|Enqueued { outstanding, bare, spool }| {
        let base = rates(bare);
        let name = format!("enqueue, {outstanding} outstanding");
        let figure = Figure::new("durable", name, Unit::PerSecond, rates(spool)).against("bare loop", Some(&base));
        let figure = if *outstanding >= MANY_OUTSTANDING { figure.ratio_must_reach(targets::ENQUEUED) } else { figure };
        [Figure::new("durable", format!("bare loop, {outstanding} a commit"), Unit::PerSecond, base), figure]
    });
    figures.collect()
}

/// In an empty spool, which is gone afterwards.
fn slice(measure: impl FnOnce(&Path) -> Result<Sample>) -> Result<Sample> {
    system::check_stop()?;
    let folder = tempfile::Builder::new().prefix("ws-daemon-bench-").tempdir()?;
    measure(&folder.path().join("spool.db"))
}

fn open(path: &Path) -> Result<Spool> {
    let bounds = Bounds { bytes: 1 << 40, runs: 1 << 40, ..Bounds::default() };
    Ok(Spool::open(path, bounds, Durability::Full)?.spool)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn body(number: u64) -> String {
    format!(
        r#"{{"name":"sms/send","params":{{"to":"+4915112345678","text":"Your code is {number:06}. It is valid for ten minutes."}},"queue":true}}"#
    )
}

fn run_id(number: u64) -> String {
    format!("0190a0c1-{:04x}-7000-8000-{number:012x}", number >> 8 & 0xffff)
}

/// As many tasks as are to be outstanding, each with the next request when the last is on disk. Keys and run ids go up as they do
/// in the bare loop: else the indexes would be hit in many places here and in one there.
fn through_the_spool(path: &Path, outstanding: usize, length: Duration) -> Result<Sample> {
    let spool = open(path)?;
    let started = Instant::now();
    let lives = runtime()?.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        let numbers = Arc::new(AtomicU64::new(1));
        for _ in 0..outstanding {
            tasks.spawn(enqueue_until(spool.clone(), Arc::clone(&numbers), started + length));
        }
        let lives = tasks.join_all().await;
        spool.close().await;
        lives
    });
    let elapsed = started.elapsed();
    let mut times = Vec::new();
    for life in lives {
        times.extend(life?);
    }
    sample(times, elapsed)
}

async fn enqueue_until(spool: Spool, numbers: Arc<AtomicU64>, until: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut now = Instant::now();
    while now < until {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let run = NewRun { run: RunId::new(run_id(number)), name: "sms/send".into(), target: None };
        let accepted = spool.accept(NewRequest {
            user: "root".into(),
            key: Some(number.to_string().into()),
            caller_id: Some(number.to_string().into()),
            hash: [7; 32],
            body: body(number).into(),
            runs: vec![run],
            expires_ms: 86_400_000,
            not_before_ms: None,
            then: None,
        });
        ensure!(accepted.await? == Accepted::Fresh, "request {number} was known");
        let started = now;
        now = Instant::now();
        times.push(now - started);
    }
    Ok(times)
}

/// The tables are the spool's own; nothing is checked, nothing counted, nobody told.
fn bare_loop(path: &Path, outstanding: usize, length: Duration) -> Result<Sample> {
    let spool = open(path)?;
    runtime()?.block_on(spool.close());
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -8192;
        PRAGMA wal_autocheckpoint = 1000",
    )?;
    connection.set_prepared_statement_cache_capacity(32);
    let mut times = Vec::new();
    let started = Instant::now();
    let mut now = started;
    let mut number = 0;
    while now < started + length {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for _ in 0..outstanding {
            number += 1;
            bare_statements(&connection, number)?;
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
        let began = now;
        now = Instant::now();
        times.extend(std::iter::repeat_n(now - began, outstanding));
    }
    sample(times, started.elapsed())
}

fn bare_statements(connection: &Connection, number: u64) -> Result<()> {
    let (key, id) = (number.to_string(), i64::try_from(number)?);
    let known = connection
        .prepare_cached("SELECT id FROM requests WHERE user = ?1 AND key = ?2 AND key IS NOT NULL")?
        .exists(params!["root", key])?;
    ensure!(!known, "request {number} was known");
    connection
        .prepare_cached(
            "INSERT INTO requests (id, user, key, caller_id, hash, body, accepted_ms, accepted_wall_ms, expires_ms, not_before_ms,
            then_script, then_state, first_seq, runs, open_runs, settled_ms, trimmed, seal)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            id, "root", key, key, [7_u8; 32], body(number), 1_i64, 1_700_000_000_000_i64, 86_400_000_i64, None::<i64>,
            None::<String>, 0, id, 1, 1, None::<i64>, 0, 1_i64 << 31
        ])?;
    connection
        .prepare_cached(
            "INSERT INTO runs (seq, run, request, name, target, instance, attempt, state, report, correction, settled_wall_ms, seal)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            id, run_id(number), id, "sms/send", None::<String>, None::<String>, 1, 0, None::<String>, None::<String>, None::<i64>,
            1_i64 << 31
        ])?;
    Ok(())
}

fn sample(mut times: Vec<Duration>, elapsed: Duration) -> Result<Sample> {
    ensure!(!times.is_empty(), "nothing was put on disk");
    Ok(Sample::of(&mut times, elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_put_requests_on_disk() {
        let schedule = Schedule { rounds: 1, slice: Duration::from_millis(20) };
        for series in run(schedule).expect("there is a disk") {
            assert!(series.bare[0].done >= series.outstanding as u64 && series.spool[0].done >= series.outstanding as u64);
        }
    }
}
