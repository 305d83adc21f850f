//! The house's order, proved: a module uses only what stands below it, and says so in no other place than its `use` lines and
//! paths. Reads the sources as text.

#![expect(clippy::expect_used, reason = "a test that cannot read the sources has nothing better to do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Modules of one layer do not know each other.
const LAYERS: [&[&str]; 9] = [
    &["config", "news", "tasks", "system", "standing", "rate", "counters", "metrics", "tls", "audit", "secret", "invitation"],
    &["link", "exec", "route", "policy", "spool", "register", "levels"],
    &["peers", "callers"],
    &["origin", "worker"],
    &["control"],
    &["api"],
    &["local", "http"],
    &["daemon"],
    &["cli"],
];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a source names by `crate::…`, outside its tests.
fn used(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let names = code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default().split(',').map(first_word).collect::<Vec<_>>(),
        None => vec![first_word(rest)],
    });
    names.filter(|name| !name.is_empty()).collect()
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect()
}

#[test]
fn a_module_uses_only_what_stands_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&root).expect("found there").to_string_lossy().into_owned();
        let module = first_word(&inside);
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let layer = layer_of(&module).unwrap_or_else(|| panic!("{module} has no layer; give it one here and in lib.rs"));
        *seen.entry(module.clone()).or_default() += 1;
        for name in used(&fs::read_to_string(file).expect("readable")) {
            let below = name == module || layer_of(&name).is_some_and(|other| other < layer);
            if !below {
                wrong.push(format!("{inside} uses {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against the order of the house: {wrong:#?}");
    let named: usize = LAYERS.iter().map(|layer| layer.len()).sum();
    assert_eq!(seen.len(), named, "every module of the table is there: {seen:?}");
}

#[test]
fn the_protocol_knows_no_tokio_and_only_tasks_starts_tasks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("../ws-daemon-protocol/Cargo.toml")).expect("there");
    assert!(manifest.contains("serde") && !manifest.contains("tokio"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    for file in files.iter().filter(|file| !file.ends_with("tasks.rs")) {
        let text = fs::read_to_string(file).expect("readable");
        assert!(!text.contains("tokio::spawn("), "{} starts a task by itself", file.display());
    }
    assert!(files.len() > 30);
}

#[test]
fn the_check_sees_what_it_is_for() {
    assert_eq!(used("use crate::local::Lobby;\n// crate::no\nuse crate::{config::Open, tasks};"), ["local", "config", "tasks"]);
}
