//! What black-box tests hold in their hands: daemons in temporary prefixes, local connections, scripted link
//! peers, stand-ins. Every wait has a deadline and ends in a panic that shows the daemon's last words; nothing
//! here sleeps until something may have happened.

mod book;
mod cable;
mod certificates;
mod command;
mod config;
mod daemon;
mod dice;
mod fifo;
mod forward_proxy;
mod ids;
mod local;
mod log;
mod namespace;
mod page;
mod peer;
mod process;
mod scripted;
pub mod sentinel;
mod stand_in;
mod tls;
mod tool;
mod watched;
mod web;
mod wording;

use std::time::{Duration, Instant};

pub use book::{Book, Counts, WRITES_DOWN, tag};
pub use cable::Cable;
pub use certificates::{CertificateAuthority, CertificateFiles};
pub use command::{Ran, command, ran};
pub use daemon::{Daemon, DaemonPlan, pair};
pub use dice::{dice, number, pass};
pub use fifo::Fifo;
pub use forward_proxy::{ForwardProxy, Way};
pub use ids::Ids;
pub use local::Local;
pub use log::Log;
pub use namespace::{Copied, Network, with_copy_of_machine, with_hosts};
pub use page::{Block, blocks, marked_blocks, play, root};
pub use peer::{Peer, PeerListener};
pub use process::{Process, run, wait_for, wait_readable, write_executable};
pub use scripted::{Conversation, ScriptedDaemon};
pub use stand_in::{MuteServer, seed_client};
pub use tls::Authority;
pub use tool::{
    need_faketime, need_namespaces, need_networks, need_other_users, need_packager, need_python, need_root, need_stand_ins,
    need_tool,
};
pub use watched::{Watched, children};
pub use web::{Reply, Web, signature};
pub use wording::{EXIT, assert_failed, daemons_say, exit, exited, status_there};

/// How long anything may take that a test waits for; a healthy daemon needs a thousandth of it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The time that is left of a wait, never zero (sockets take zero for "for ever"), or `None` when it is over.
fn left(until: Instant) -> Option<Duration> {
    until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}
