//! ARCHITECTURE.md is true where a machine can tell: every source file has its line, every file that it names is
//! there, and it stays short enough to be read. Likewise docs/bounds.md, and the table of errors in docs/protocol.md.

#![expect(clippy::expect_used, reason = "a test that cannot read the sources has nothing better to do")]

use std::fs;
use std::path::{Path, PathBuf};

use ws_daemon_protocol::outcome::ErrorCode;

const LINES: usize = 200;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it is there")
}

/// The sources of both crates: the path inside `src`, and the text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in ["ws-daemon", "ws-daemon-protocol"] {
        let base = root().join("crates").join(name).join("src");
        let mut folders = vec![base.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("the sources are there") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let inside = path.strip_prefix(&base).expect("found there").to_string_lossy().into_owned();
                    found.push((inside, fs::read_to_string(&path).expect("readable")));
                }
            }
        }
    }
    found
}

#[test]
fn every_source_file_has_its_line_and_every_line_its_file() {
    let (page, sources) = (page(), sources());
    assert!(page.lines().count() <= LINES, "{} lines; it is to be read in one go", page.lines().count());
    let named: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| Path::new(word).extension().is_some_and(|extension| extension == "rs"))
        .collect();
    let missing: Vec<_> = sources.iter().filter(|(path, _)| !named.contains(&path.as_str())).map(|(path, _)| path).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
    let is_source = |name: &&&str| sources.iter().any(|(path, _)| path == *name);
    let is_test = |name: &str| root().join(name).exists() || root().join("crates/ws-daemon").join(name).exists();
    let gone: Vec<_> = named.iter().filter(|name| !is_source(name) && !is_test(name)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names {gone:?}, which are not there");
}

#[test]
fn every_bound_that_is_listed_is_in_the_code() {
    let page = fs::read_to_string(root().join("docs/bounds.md")).expect("it is there");
    let sources = sources();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let names: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 20, "the table has lost its rows: {names:?}");
    for name in names {
        let declared = format!("const {name}:");
        assert!(sources.iter().any(|(_, text)| text.contains(&declared)), "there is no constant {name}");
    }
}

#[test]
fn the_spools_statements_are_prepared_once_but_for_those_that_open_it() {
    let verbs: Vec<_> =
        sources().into_iter().filter(|(path, _)| path.starts_with("spool/") && !path.ends_with("/file.rs")).collect();
    let prepared = verbs.iter().filter(|(_, text)| text.contains(".prepare_cached(")).count();
    assert!(prepared >= 3, "{prepared} files with statements");
    for (path, text) in &verbs {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for anew in [".prepare(", "connection.execute(", "connection.query_row(\"SELECT"] {
            assert!(!code.contains(anew), "{path} has a statement prepared each time: {anew}");
        }
    }
}

#[test]
fn the_protocol_page_has_every_error_word_with_its_status() {
    let page = fs::read_to_string(root().join("docs/protocol.md")).expect("it is there");
    for (code, word, status) in ErrorCode::ALL {
        assert!(page.contains(&format!("| {status} | `{word}` | ")), "{code:?} must stand in the table");
    }
}
