//! Whether the machine has room for very many links with both ends on it, by the settings with which the kernel bounds them.
//!
//! How many descriptors one process may have is not looked at here: that much is worked around ([`throng`](crate::throng)).

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::crowd::DIALLING;
use crate::links::LINKS_PER_ADDRESS;

/// The ends of a link.
const ENDS: u64 = 2;
/// What a link takes of memory: both sockets in the kernel, the server and the stand-in. Seen: 19,000.
const LINK_BYTES: u64 = 24 << 10;
/// What is under way on a link when all are pinged at once, in both directions.
const UNDER_WAY_BYTES: u64 = 2 << 10;
const PAGE_BYTES: u64 = 4 << 10;

/// An error that says which setting is in the way of so many links more.
pub fn check(links: usize) -> Result<()> {
    let read = |file: &str| fs::read_to_string(Path::new("/proc").join(file)).unwrap_or_default();
    let missing = missing(links as u64, read);
    ensure!(missing.is_empty(), "this machine has no room for {links} links: {}", missing.join("; "));
    Ok(())
}

/// Each bound that is too low, in words. What a kernel does not have bounds nothing.
fn missing(links: u64, read: impl Fn(&str) -> String) -> Vec<String> {
    let numbers = |file: &str| read(file).split_whitespace().map_while(|word| word.parse().ok()).collect::<Vec<u64>>();
    let mut bounds = Vec::new();
    if let [most, ..] = numbers("sys/net/core/somaxconn")[..] {
        bounds.push(("net.core.somaxconn lets wait", most, DIALLING as u64));
    }
    if let [first, last, ..] = numbers("sys/net/ipv4/ip_local_port_range")[..] {
        bounds.push((
            "net.ipv4.ip_local_port_range gives an address",
            (last + 1).saturating_sub(first),
            LINKS_PER_ADDRESS as u64,
        ));
    }
    if let [used, _, most] = numbers("sys/fs/file-nr")[..] {
        bounds.push(("fs.file-max leaves files", most.saturating_sub(used), links * ENDS));
    }
    if let [_, _, most] = numbers("sys/net/ipv4/tcp_mem")[..] {
        bounds.push(("net.ipv4.tcp_mem gives pages", most, links * UNDER_WAY_BYTES / PAGE_BYTES));
    }
    // Where nothing on loopback is tracked, nothing is tracked of ours either.
    let tracked = ["sys/net/netfilter/nf_conntrack_count", "sys/net/netfilter/nf_conntrack_max"].map(&numbers);
    if let [Some(used @ 1..), Some(most)] = tracked.map(|numbers| numbers.first().copied()) {
        bounds.push(("net.netfilter.nf_conntrack_max leaves connections", most.saturating_sub(used), links));
    }
    let meminfo = read("meminfo");
    let available =
        meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    if let Some(available) = available {
        let available: u64 = available;
        bounds.push(("kilobytes of memory that are free", available, links * LINK_BYTES / 1024));
    }
    let is_short =
        |(what, has, needed): (&str, u64, u64)| (has < needed).then(|| format!("{what}: {has}, and {needed} are needed"));
    bounds.into_iter().filter_map(is_short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that just has room for 100,000 links, but for what `but` says of one file.
    fn machine(but: (&'static str, &'static str)) -> Vec<String> {
        missing(100_000, |file| {
            let text = match file {
                _ if file == but.0 => but.1,
                "sys/net/core/somaxconn" => "64\n",
                "sys/net/ipv4/ip_local_port_range" => "10000\t13999\n",
                "sys/fs/file-nr" => "521\t0\t200521\n",
                "sys/net/ipv4/tcp_mem" => "1\t2\t50000\n",
                "sys/net/netfilter/nf_conntrack_count" => "7\n",
                "sys/net/netfilter/nf_conntrack_max" => "100007\n",
                "meminfo" => "MemTotal:       24684036 kB\nMemAvailable:    2400000 kB\n",
                _ => "",
            };
            text.to_owned()
        })
    }

    #[test]
    fn a_bound_that_is_too_low_is_named() {
        assert_eq!(machine(("", "")), [""; 0]);
        for (file, text, named) in [
            ("sys/net/core/somaxconn", "63\n", "net.core.somaxconn lets wait: 63, and 64 are needed"),
            ("sys/net/ipv4/ip_local_port_range", "10000\t13998\n", "ip_local_port_range gives an address: 3999, and 4000"),
            ("sys/fs/file-nr", "522\t0\t200521\n", "fs.file-max leaves files: 199999, and 200000"),
            ("sys/net/ipv4/tcp_mem", "1\t2\t49999\n", "tcp_mem gives pages: 49999, and 50000"),
            ("sys/net/netfilter/nf_conntrack_max", "100006\n", "nf_conntrack_max leaves connections: 99999, and 100000"),
            ("meminfo", "MemAvailable:    2399999 kB\n", "memory that are free: 2399999, and 2400000"),
        ] {
            let missing = machine((file, text));
            assert!(matches!(&missing[..], [only] if only.contains(named)), "{missing:?}");
        }
    }

    #[test]
    fn what_is_not_there_or_not_in_use_bounds_nothing() {
        assert_eq!(missing(100_000, |_| String::new()), [""; 0]);
        let unused = |file: &str| if file.ends_with("count") { "0\n" } else { "1\n" }.to_owned();
        assert!(missing(100_000, unused).iter().all(|bound| !bound.contains("nf_conntrack")));
        check(1).expect("room for one");
    }
}
