//! How much memory a server holds, at rest and for each idle link, and a client that is linked.
//!
//! Fresh ones each time; only what the kernel says of them is counted, and the kernel's own socket buffers are not in that.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Pid;
use serde_json::json;

use crate::bench::Bench;
use crate::crowd::{Crowd, Dialect, Way};
use crate::figure::{Figure, Unit};
use crate::fleet::Daemon;
use crate::load::{Lane, Question};
use crate::{system, targets};

/// Memory hardly varies, and ten thousand links take a while.
const ROUNDS: usize = 3;
/// A process is at rest when so many looks, this far apart, see the same: on a busy machine it may not have had its turn between two.
const SAME_LOOKS: usize = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
const REST: Duration = Duration::from_secs(10);
/// A daemon that has been up for 5 s gives back what only its start needed.
const STARTED: Duration = Duration::from_secs(7);

/// A process's resident memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// All pages that are in memory.
    pub rss: u64,
    /// The same, each page divided by how many processes share it.
    pub pss: u64,
}

pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (rounds, many) = (bench.schedule.rounds.min(ROUNDS), bench.many(10_000));
    let few = many / 10;
    let binary = bench.daemon()?;
    let (mut rest, mut client, mut plain, mut seed, mut encrypted) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 1..=rounds {
        eprintln!("memory, round {round} of {rounds}");
        let levels = [0, few, many];
        let all = holding(binary, &json!({}), &levels, |server, _| Ok(Way::plain(server, Dialect::Version2)))?;
        rest.push(all[0]);
        plain.push(all);
        seed.push(holding(binary, &json!({}), &[0, many], |server, _| Ok(Way::plain(server, Dialect::Seed)))?);
        encrypted.push(holding(binary, &tls(), &[0, many], Way::encrypted)?);
        client.push(linked(binary)?);
    }
    let bytes = |name: &str, residents: &[Resident]| {
        [
            ("VmRSS", residents.iter().map(|resident| resident.rss as f64).collect()),
            ("Pss", residents.iter().map(|resident| resident.pss as f64).collect::<Vec<_>>()),
        ]
        .map(|(what, values)| Figure::new("memory", format!("{name}, {what}"), Unit::Bytes, values))
    };
    let a_link = |name: String, rounds: &[Vec<Resident>], level: usize, links: usize| {
        let grown = rounds.iter().map(|levels| (levels[level].rss - levels[0].rss) as f64 / links as f64).collect();
        Figure::new("memory", name, Unit::Bytes, grown)
    };
    let [server, server_pss] = bytes("server at rest", &rest);
    let [client, client_pss] = bytes("client at rest", &client);
    Ok(vec![
        server.must_reach(targets::SERVER_BYTES),
        server_pss,
        client.must_reach(targets::CLIENT_BYTES),
        client_pss,
        a_link(format!("an idle link, of {few}"), &plain, 1, few),
        a_link(format!("an idle link, of {many}"), &plain, 2, many).must_reach(targets::PLAIN_LINK_BYTES),
        a_link(format!("an idle seed link, of {many}"), &seed, 1, many),
        a_link(format!("an idle link over TLS, of {many}"), &encrypted, 1, many).must_reach(targets::TLS_LINK_BYTES),
    ])
}

/// The settings of a server that is encrypted.
pub fn tls() -> serde_json::Value {
    json!({ "tls": { "names": ["127.0.0.1"] } })
}

/// What a fresh server holds with each of these numbers of idle links.
fn holding(
    binary: &Path,
    settings: &serde_json::Value,
    levels: &[usize],
    way: impl FnOnce(std::net::SocketAddr, &Path) -> Result<Way>,
) -> Result<Vec<Resident>> {
    let (mut server, address) = Daemon::server_with(binary, settings)?;
    // It listens before all of it is there.
    drop(server.connect_heard()?);
    thread::sleep(STARTED);
    let mut crowd = Crowd::new(way(address, server.prefix())?)?;
    let mut residents = Vec::new();
    for level in levels {
        crowd.grow(*level)?;
        crowd.touch()?;
        residents.push(at_rest(server.pid())?);
        crowd.touch().context("the server let an idle link go")?;
    }
    // The links first: the server then has nobody left to say good-bye to.
    drop(crowd);
    Ok(residents)
}

/// What a fresh client holds whose link is up, and that has made no run.
fn linked(binary: &Path) -> Result<Resident> {
    let (_server, address) = Daemon::server(binary)?;
    let mut client = Daemon::client_with(binary, address, &json!({}))?;
    // It holds what it cannot send yet, so this waits for the link.
    Lane::new(Question::Missing, client.connect()?, None)?.ask_once().context("the first answer of the server")?;
    thread::sleep(STARTED);
    at_rest(client.pid())
}

pub fn at_rest(pid: Pid) -> Result<Resident> {
    let deadline = Instant::now() + REST;
    let (mut last, mut same) = (resident(pid)?, 1);
    while same < SAME_LOOKS && Instant::now() < deadline {
        thread::sleep(BETWEEN_LOOKS);
        system::check_stop()?;
        let now = resident(pid)?;
        same = if now == last { same + 1 } else { 1 };
        last = now;
    }
    Ok(last)
}

fn resident(pid: Pid) -> Result<Resident> {
    let folder = format!("/proc/{}", pid.as_raw_nonzero());
    let status = fs::read_to_string(format!("{folder}/status"))?;
    let rollup = fs::read_to_string(format!("{folder}/smaps_rollup"))?;
    let rss = bytes_of(&status, "VmRSS").context("no VmRSS in /proc/PID/status")?;
    let pss = bytes_of(&rollup, "Pss").context("no Pss in /proc/PID/smaps_rollup")?;
    Ok(Resident { rss, pss })
}

/// The value of a line such as `VmRSS:      1234 kB`.
fn bytes_of(table: &str, name: &str) -> Option<u64> {
    let value = table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_is_read() {
        let own = resident(rustix::process::getpid()).expect("our own memory");
        assert!(own.rss >= own.pss && own.pss > 0, "{own:?}");
        assert_eq!(bytes_of("VmPeak:\t 8 kB\nVmRSS:\t   12 kB\n", "VmRSS"), Some(12288));
        assert_eq!(bytes_of("Pss_Dirty: 8 kB\nPss: 4 kB\n", "Pss"), Some(4096));
        assert_eq!(bytes_of("", "Pss"), None);
    }
}
