//! docs/verification.md is true: every test that it names is in the sources. A row that names none is work, and is counted.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot read the sources has nothing better to do")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One row of the page.
struct Row<'a> {
    promise: &'a str,
    shown_by: &'a str,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of every table: two cells, the heads and the rules under them left out.
fn rows(page: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        match cells[..] {
            ["promise", "shown by"] => {}
            [cell] | [cell, _] if cell.starts_with("---") => {}
            [promise, shown_by] => rows.push(Row { promise, shown_by }),
            [promise] => rows.push(Row { promise: promise.trim_end_matches('|').trim(), shown_by: "" }),
            _ => panic!("a row has two cells: {line}"),
        }
    }
    rows
}

/// What stands in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// `file::…::name` shows something if there is a source `file` (a path in the repository, or the end of one) with a test
/// called `name`; what is no test, like a fuzz target, is a path from the root.
fn shows(sources: &[(PathBuf, String)], test: &str) -> bool {
    let Some((file, rest)) = test.split_once("::") else { return root().join(test).exists() };
    let name = rest.rsplit("::").next().unwrap_or(rest);
    let head = format!("fn {name}(");
    sources.iter().any(|(path, text)| path.ends_with(file) && has_test(text, &head))
}

/// Whether a function with this head has a test's attribute, directly or among others above it; what a `proptest!` block
/// holds has one too.
fn has_test(text: &str, head: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let found = line.starts_with(head) || line.starts_with(&format!("async {head}"));
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        found && above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

fn sources() -> Vec<(PathBuf, String)> {
    let (mut folders, mut found) = (vec![root().join("crates"), root().join("fuzz")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("readable").path();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("readable");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = fs::read_to_string(root().join("docs/verification.md")).expect("it is there");
    let (rows, sources) = (rows(&page), sources());
    assert!(rows.len() > 60, "the page has lost its rows: {}", rows.len());
    let promises: BTreeSet<&str> = rows.iter().map(|row| row.promise).collect();
    assert_eq!(promises.len(), rows.len(), "a promise stands there twice");
    let named = || rows.iter().flat_map(|row| quoted(row.shown_by).map(move |test| (row, test)));
    let missing: Vec<String> =
        named().filter(|(_, test)| !shows(&sources, test)).map(|(row, test)| format!("{test}, for: {}", row.promise)).collect();
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
    assert!(named().count() > 0, "the page names no test at all");
    let empty: Vec<&str> = rows.iter().filter(|row| row.shown_by.is_empty()).map(|row| row.promise).collect();
    println_rows(&empty, rows.len());
}

#[expect(clippy::print_stdout, reason = "what is still to do is for whoever reads the test's output")]
fn println_rows(empty: &[&str], all: usize) {
    println!("{} of {all} promises name no test yet", empty.len());
    for promise in empty {
        println!("  {promise}");
    }
}

#[test]
fn the_check_sees_what_it_is_for() {
    let page = "| promise | shown by |\n| --- | --- |\n| a `b` c | `x.rs::t`, `y.rs::m::u` |\n| d | |\n";
    let rows = rows(page);
    assert_eq!(rows.iter().map(|row| row.promise).collect::<Vec<_>>(), ["a `b` c", "d"]);
    assert_eq!(quoted(rows[0].shown_by).collect::<Vec<_>>(), ["x.rs::t", "y.rs::m::u"]);
    assert_eq!(rows[1].shown_by, "");
    let source = "#[test]\nfn t() {}\n#[tokio::test]\n// why\nasync fn u() {}\nfn v() {}\n";
    let sources = [(PathBuf::from("crates/c/src/x.rs"), source.to_owned())];
    for (test, expected) in [
        ("x.rs::t", true),
        ("src/x.rs::tests::u", true),
        ("x.rs::v", false),
        ("y.rs::t", false),
        ("t", false),
        ("fuzz/no", false),
        ("Cargo.toml", true),
    ] {
        assert_eq!(shows(&sources, test), expected, "{test}");
    }
}

#[test]
fn every_attack_of_the_threat_model_has_a_test_that_exists() {
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("it is there");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).skip(1).collect();
    assert!(rows.len() > 20, "the page has lost its rows: {}", rows.len());
    let sources = sources();
    for row in rows {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let missing: Vec<&str> = quoted(shown_by).filter(|test| !test.contains("::") || !shows(&sources, test)).collect();
        assert!(missing.is_empty() && quoted(shown_by).count() > 0, "{missing:?} in {row}");
    }
}
