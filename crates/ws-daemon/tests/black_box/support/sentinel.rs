//! A token that must be nowhere but in its file: with WSDAEMON_TEST_SENTINEL set, every daemon of the suite logs at level trace,
//! every client carries the token, and when a daemon is let go, its log, its prefix and its command line are searched for it. It
//! never decides what a test is about.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use rustix::process::Pid;
use serde_json::Value;

use super::log::Log;
use super::watched::children;

/// The token of every client. Its length is that of a real one; no script, name or message of a test holds it.
const TOKEN: &str = "sentinel-Zq8vX2mK7pLw4RtYc1NbHs6JdGfEa9Uo";

/// Where a token may be: what the operator wrote, and what `join` has written. Beneath the prefix.
const ITS_FILES: [&str; 2] = ["config.json", "keys/token"];

/// Whether the suite looks for the token.
pub fn is_on() -> bool {
    std::env::var_os("WSDAEMON_TEST_SENTINEL").is_some()
}

/// Gives a client's config the token, unless it has one already.
pub fn equip(config: &mut Value) {
    let Some(proxy) = config["proxy"].as_str().filter(|proxy| !proxy.contains('@')) else { return };
    let (scheme, host) = proxy.split_once("://").map_or(("", proxy), |(scheme, host)| (&proxy[..scheme.len() + 3], host));
    config["proxy"] = format!("{scheme}sentinel:{TOKEN}@{host}").into();
}

/// Searches all that the daemon `pid` of this prefix has said and left for its secrets.
pub fn search_all(prefix: &Path, log: &Log, pid: Pid) {
    let own = fs::read_to_string(prefix.join("keys/token")).unwrap_or_default();
    let tokens: Vec<&str> = [TOKEN, own.trim()].into_iter().filter(|token| !token.is_empty()).collect();
    search(prefix, &tokens, log, pid);
}

/// What a token looks like in a header.
pub fn coded(name: &str, token: &str) -> String {
    BASE64_STANDARD.encode(format!("{name}:{token}"))
}

/// Searches for these tokens, as they are and as they stand in a header, and panics where it finds one.
pub fn search(prefix: &Path, tokens: &[&str], log: &Log, pid: Pid) {
    // In base 64 a token looks threefold, by what stands before it; its inner part is the same whatever that is.
    let shifted =
        tokens.iter().flat_map(|token| ["", "x", "xx"].map(|before| inner(&format!("{before}{token}"), before.len())));
    let secrets: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).chain(shifted).collect();
    let holds = |bytes: &[u8]| secrets.iter().any(|secret| bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
    let mut found: Vec<String> =
        log.lines("").into_iter().filter(|line| holds(line.as_bytes())).map(|line| format!("its log: {line}")).collect();
    let of_children = children(pid).into_iter().flat_map(|child| [(child, "cmdline"), (child, "environ")]);
    for (pid, what) in std::iter::once((pid, "cmdline")).chain(of_children) {
        // Gone already is as good.
        let bytes = fs::read(format!("/proc/{}/{what}", pid.as_raw_nonzero())).unwrap_or_default();
        found.extend(holds(&bytes).then(|| format!("{what} of the process {pid:?}")));
    }
    let mut folders = vec![prefix.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            let is_its_own = ITS_FILES.iter().any(|own| path == prefix.join(own));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && !is_its_own && holds(&fs::read(&path).unwrap_or_default()) {
                found.push(format!("the file {}", path.display()));
            }
        }
    }
    assert!(found.is_empty() || std::thread::panicking(), "a secret was left in {found:#?}");
}

/// The part of the text in base 64 that does not depend on what stands around it.
fn inner(text: &str, before: usize) -> String {
    let coded = BASE64_STANDARD_NO_PAD.encode(text);
    let (from, to) = ((before * 4).div_ceil(3), coded.len() - 2);
    coded[from.min(to)..to].to_owned()
}
