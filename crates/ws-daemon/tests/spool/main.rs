//! The spool from outside: every promise of a verb, a file that is damaged, a disk that fails, and a power cut.

#![expect(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test stops at what it did not expect")]
#![allow(missing_docs, reason = "it has no users")]

mod bounds;
mod child;
mod clock;
mod damage;
mod disk;
mod golden;
mod power_cut;
mod support;
mod verbs;
