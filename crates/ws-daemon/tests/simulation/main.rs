//! Seeded simulation and model test: several daemons in one process, on one thread, in a time of their own.
//!
//! What is real: link, table of peers, asker, doer, executor's line, control's desk, spool with its SQLite file. What is not:
//! the network (`network`), which is bytes in memory that are delayed, held back, let go later, or cut; the disk's time (`disk`),
//! which passes when the seed says so; the scripts (`scripts`), which are futures that count their starts: the executor takes
//! them by `Surroundings::with_doer`. They are no real programs, since a process ends when the system likes, and the clock
//! here is paused: it goes on only when nothing is left to do at that instant, then to the next timer at once. So minutes of
//! pings, back-offs and partitions take milliseconds, and no thread races the clock: the spools have none, their verbs are done by
//! hand (`Spool::open_by_hand`). A crash drops all tasks of a daemon where they stand (`Tasks::until`), between any two of its
//! steps on disk or on the wire, and opens the file again.
//!
//! A seed fixes the story: what is asked, when, and what breaks. It does not fix the order in which `select!` looks at its arms
//! nor what random ids are, so a seed that failed may have to be run more than once:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `WSDAEMON_SIM_SEEDS` | how many seeds, from 0; 500 by default |
//! | `WSDAEMON_SIM_SEED` | only this one, so many times as `WSDAEMON_SIM_TIMES` says (20), with its trace |
//! | `WSDAEMON_SIM_LOG` | with one seed: the daemons' log as well, at this level |

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops at what it did not expect")]
#![allow(missing_docs, reason = "it has no users")]

mod book;
mod daemon;
mod disk;
mod judge;
mod model;
mod network;
mod scripts;
mod seeds;
mod story;
mod world;
