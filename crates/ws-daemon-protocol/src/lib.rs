//! What ws-daemon says: messages, outcomes, and how they stand on a byte stream.
//!
//! This crate owns the grammar and nothing else. It never opens a socket, touches a disk, or knows what a task is, so that
//! a peer or a client can be written from it alone.
//!
//! | module | what |
//! | --- | --- |
//! | [`codec`] | bytes to messages and back: the incremental framer, compaction, the seed's frames |
//! | [`message`] | what a local process asks: [`Request`](message::Request) |
//! | [`command`] | the built-in commands, their codes and data |
//! | [`more`] | what a final line holds beyond the seed's keys |
//! | [`options`] | what a request may ask for beside its script and params |
//! | [`target`] | who may run a request |
//! | [`event`] | the lines between a request and its final line |
//! | [`outcome`] | how a run ended: [`Outcome`](outcome::Outcome), and the line that tells it |
//! | [`id`] | the caller's id and the run's |
//! | `schema` | JSON Schemas of all of this, with the feature of that name |
//! | [`time`] | durations as people write them |
//! | [`trace`] | what a request carries along for logs |
//! | [`worker`] | what a worker is asked and answers, line by line |

pub mod codec;
pub mod command;
pub mod event;
pub mod id;
pub mod message;
pub mod more;
pub mod options;
pub mod outcome;
#[cfg(feature = "schema")]
pub mod schema;
pub mod target;
pub mod time;
pub mod trace;
pub mod worker;
