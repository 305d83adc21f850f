//! Runs seeds, each in a runtime of its own with a paused clock, and says which failed, with their traces.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::book::Book;
use crate::disk;
use crate::judge::Sum;
use crate::story;

/// Seeds without being told otherwise.
const SEEDS: u64 = 500;

/// How often a single seed is run without being told otherwise.
const TIMES: u64 = 20;

/// Failures that are told in full.
const SHOWN: usize = 3;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Where spools lie: in memory if there is such a place.
pub fn root() -> TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() };
    made.expect("a temporary folder")
}

/// A runtime whose clock is paused and whose disks work when nothing else does.
pub fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).on_thread_park(disk::look).build().expect("a runtime")
}

/// Panics of tasks are kept for [`panics`] too.
pub fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            usual(info);
        }));
    });
}

/// The panics of this thread since the last call.
pub fn panics() -> Vec<String> {
    PANICS.take()
}

/// Runs one seed; the faults with their trace, if there are any.
fn run(seed: u64) -> Result<Sum, String> {
    fastrand::seed(seed);
    let (root, runtime) = (root(), runtime());
    let book = runtime.block_on(async { Book::new() });
    let told = catch_unwind(AssertUnwindSafe(|| runtime.block_on(story::tell(seed, root.path(), book.clone()))));
    drop(catch_unwind(AssertUnwindSafe(|| drop(runtime))));
    let mut faults = std::mem::take(&mut book.pages().faults);
    faults.extend(panics().into_iter().map(|panic| format!("panicked: {panic}")));
    match told {
        Ok(sum) if faults.is_empty() => Ok(sum),
        _ => Err(format!("seed {seed}:\n{}\n\n{}", book.trace(), faults.join("\n"))),
    }
}

fn log_if_wanted() {
    if let Ok(level) = std::env::var("WSDAEMON_SIM_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(level);
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init());
    }
}

fn run_all(seeds: &[u64]) {
    keep_panics();
    let (next, sum, failed) = (AtomicU64::new(0), Mutex::new(Sum::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(seeds.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok().and_then(|at| seeds.get(at)) {
                    match run(*seed) {
                        Ok(one) => sum.lock().unwrap_or_else(PoisonError::into_inner).add(one),
                        Err(words) => failed.lock().unwrap_or_else(PoisonError::into_inner).push((*seed, words)),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!("{} seeds: {sum:?}", seeds.len());
    let shown: Vec<&str> = failed.iter().take(SHOWN).map(|(_, words)| words.as_str()).collect();
    let numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{}\n\n{} of {} seeds failed: {numbers:?}", shown.join("\n\n"), failed.len(), seeds.len());
    assert!(sum.with_status > 0 && sum.runs > 0, "nothing happened: {sum:?}");
}

#[test]
fn every_accepted_run_settles_once_whatever_breaks() {
    match number("WSDAEMON_SIM_SEED") {
        Some(seed) => {
            log_if_wanted();
            let times = number("WSDAEMON_SIM_TIMES").unwrap_or(TIMES);
            run_all(&vec![seed; usize::try_from(times).unwrap_or(1)]);
        }
        None => run_all(&(0..number("WSDAEMON_SIM_SEEDS").unwrap_or(SEEDS)).collect::<Vec<_>>()),
    }
}
