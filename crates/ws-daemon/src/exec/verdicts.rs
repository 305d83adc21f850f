//! What was found of a name when it was last looked for, kept for a moment: to follow a path costs more than a call of a copy that
//! runs. It keeps nothing of scripts that are started for each run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::contract::Terms;
use super::pool::Pool;

/// How long what was found holds; and again as long for the others while one looks. What is changed is seen by then.
const HOLDS: Duration = Duration::from_millis(50);

/// Names of which it is known; with more, all are looked for again.
const KNOWN: usize = 10_000;

/// What was found of names in one folder.
#[derive(Debug, Default)]
pub struct Verdicts(Mutex<HashMap<Box<str>, Known>>);

#[derive(Debug)]
struct Known {
    verdict: Verdict,
    at: Instant,
    /// Somebody looks again.
    renewed: bool,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What its contract says, if it has one.
    pub terms: Option<Terms>,
    /// Who is asked; `None`: whoever serves the name, since there is no script.
    pub pool: Option<Arc<Pool>>,
}

impl Verdicts {
    fn table(&self) -> MutexGuard<'_, HashMap<Box<str>, Known>> {
        // Every section leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found, if that was a moment ago. When it has held for long enough, whoever asks first is to look, and gets nothing.
    pub fn of(&self, name: &str, now: Instant) -> Option<Verdict> {
        let mut table = self.table();
        let known = table.get_mut(name)?;
        let age = now.saturating_duration_since(known.at);
        if age < HOLDS || (known.renewed && age < 2 * HOLDS) {
            return Some(known.verdict.clone());
        }
        known.renewed = true;
        None
    }

    /// What was found is not so any more: whoever asks next is to look.
    pub fn forget(&self, name: &str) {
        self.table().remove(name);
    }

    /// This was found at that time; `None`: a script that is started for each run, or nothing. Copies of what is no more are let go.
    pub fn found(&self, name: &str, verdict: Option<Verdict>, at: Instant) {
        let pool = verdict.as_ref().and_then(|verdict| verdict.pool.clone());
        let mut table = self.table();
        let old = match verdict {
            None if table.is_empty() => return,
            None => table.remove(name),
            Some(verdict) => {
                if table.len() >= KNOWN && !table.contains_key(name) {
                    table.clear();
                }
                table.insert(name.into(), Known { verdict, at, renewed: false })
            }
        };
        drop(table);
        let old = old.and_then(|known| known.verdict.pool);
        if let Some(old) = old.filter(|old| pool.is_none_or(|pool| !Arc::ptr_eq(old, &pool))) {
            old.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_holds_for_a_moment_and_then_one_looks_for_all() {
        let (verdicts, begin) = (Verdicts::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        let verdict = || Some(Verdict { terms: None, pool: None });
        assert!(verdicts.of("a", begin).is_none());
        verdicts.found("a", verdict(), begin);
        assert!(verdicts.of("a", at(49)).is_some() && verdicts.of("b", at(49)).is_none());
        assert!(verdicts.of("a", at(50)).is_none(), "the first one looks");
        assert!(verdicts.of("a", at(60)).is_some(), "the others need not");
        assert!(verdicts.of("a", at(100)).is_none(), "but not for ever");
        verdicts.found("a", verdict(), at(110));
        assert!(verdicts.of("a", at(120)).is_some());
        verdicts.found("a", None, at(120));
        assert!(verdicts.of("a", at(120)).is_none());
        for number in 0..=KNOWN {
            verdicts.found(&number.to_string(), verdict(), begin);
        }
        assert_eq!(verdicts.table().len(), 1);
    }
}
