//! How much memory a server holds, at rest and for each idle link.
//!
//! A fresh server each time, with no client daemon; only what the kernel says of it
//! is counted, and the kernel's own socket buffers are not in that.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit};

use crate::fleet::Daemon;
use crate::links::Links;
use crate::system;

/// Descriptors that we need beside one a link.
const OTHER_DESCRIPTORS: u64 = 100;
/// The server is at rest when two looks this far apart see the same.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
const REST: Duration = Duration::from_secs(10);

/// A process's resident memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// All pages that are in memory.
    pub rss: u64,
    /// The same, each page divided by how many processes share it.
    pub pss: u64,
}

/// What a fresh server holds with each of these numbers of idle links.
pub fn measure(binary: &Path, levels: &[usize]) -> Result<Vec<Resident>> {
    // The server first: it is to raise its own limit, not to inherit ours.
    let (server, address) = Daemon::server(binary)?;
    let most = levels.iter().copied().max().unwrap_or(0);
    raise_descriptor_limit(most as u64 + OTHER_DESCRIPTORS)?;
    let mut links = Links::new(address);
    let mut residents = Vec::new();
    for level in levels {
        links.grow(*level)?;
        links.touch()?;
        residents.push(at_rest(server.pid())?);
        links.touch().context("the server let an idle link go")?;
    }
    // The links first: the server then has nobody left to say good-bye to.
    drop(links);
    Ok(residents)
}

fn at_rest(pid: Pid) -> Result<Resident> {
    let deadline = Instant::now() + REST;
    let mut last = resident(pid)?;
    loop {
        thread::sleep(BETWEEN_LOOKS);
        system::check_stop()?;
        let now = resident(pid)?;
        if now == last || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
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

/// For so many descriptors of our own.
pub fn raise_descriptor_limit(needed: u64) -> Result<()> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        maximum.is_none_or(|maximum| maximum >= needed),
        "{needed} descriptors are needed, the hard limit is {}; try --quick, or raise it",
        maximum.unwrap_or_default(),
    );
    let limit = Rlimit { current: Some(needed), maximum };
    rustix::process::setrlimit(Resource::Nofile, limit).context("cannot raise the limit")
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
