//! What a process of a test has said so far, line by line. It owns the lines and the waiting for them; it never
//! polls: whoever waits is woken by the thread that reads the process's output.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::{DEADLINE, left};

const TAIL_LINES: usize = 60;

/// A handle on the lines of one process; clones share them.
#[derive(Clone)]
pub struct Log {
    title: Arc<str>,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    readers: usize,
}

impl Log {
    pub fn new(title: &str) -> Self {
        Self { title: title.into(), shared: Arc::default() }
    }

    /// Reads `stream` to its end in a thread of its own.
    pub fn follow(&self, stream: impl Read + Send + 'static) {
        self.state().readers += 1;
        let log = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                let text = String::from_utf8_lossy(&line);
                log.state().lines.push(text.trim_end().to_owned());
                log.shared.1.notify_all();
                line.clear();
            }
            log.state().readers -= 1;
            log.shared.1.notify_all();
        });
    }

    /// The first line that holds `needle`, waited for.
    #[track_caller]
    pub fn wait(&self, needle: &str) -> String {
        self.wait_times(needle, 1)
    }

    /// The `times`th line that holds `needle`, waited for.
    #[track_caller]
    pub fn wait_times(&self, needle: &str, times: usize) -> String {
        self.wait_until(DEADLINE, &format!("{times} line(s) with {needle:?}"), |lines| {
            let mut found = lines.iter().filter(|line| line.contains(needle));
            found.nth(times - 1).cloned()
        })
    }

    /// Waits until `look` finds what it wants in the lines; a process that ends first is a failure at once.
    pub fn wait_until<T>(&self, within: Duration, wanted: &str, look: impl Fn(&[String]) -> Option<T>) -> T {
        let until = Instant::now() + within;
        let mut state = self.state();
        loop {
            if let Some(found) = look(&state.lines) {
                return found;
            }
            let over = state.readers == 0;
            let Some(left) = left(until).filter(|_| !over) else {
                drop(state);
                let why = if over { "it ended" } else { "time is up" };
                panic!("waited for {wanted}, but {why}\n{self}");
            };
            (state, _) = self.shared.1.wait_timeout(state, left).expect("no reader panics with the lock");
        }
    }

    /// The first line that holds `needle`; `None` if the process ends without it.
    #[track_caller]
    pub fn wait_or_end(&self, needle: &str) -> Option<String> {
        let until = Instant::now() + DEADLINE;
        let mut state = self.state();
        loop {
            let found = state.lines.iter().find(|line| line.contains(needle)).cloned();
            if found.is_some() || state.readers == 0 {
                return found;
            }
            let Some(left) = left(until) else {
                drop(state);
                panic!("waited for {needle:?} or the end, but time is up\n{self}");
            };
            (state, _) = self.shared.1.wait_timeout(state, left).expect("no reader panics with the lock");
        }
    }

    /// How many lines hold `needle` by now.
    pub fn count(&self, needle: &str) -> usize {
        let state = self.state();
        state.lines.iter().filter(|line| line.contains(needle)).count()
    }

    /// The lines that hold `needle`, as many as there are by now.
    pub fn lines(&self, needle: &str) -> Vec<String> {
        let state = self.state();
        state.lines.iter().filter(|line| line.contains(needle)).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().expect("no reader panics with the lock")
    }
}

/// The last lines, for the message of a test that fails.
impl std::fmt::Display for Log {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        let skipped = state.lines.len().saturating_sub(TAIL_LINES);
        writeln!(out, "--- {}, its last words ({skipped} earlier lines left out):", self.title)?;
        for line in &state.lines[skipped..] {
            writeln!(out, "    {line}")?;
        }
        Ok(())
    }
}
