//! The pages under docs/ that tell a person what to do: done as they say, each in its order. No command and no config stands on one of
//! them that is not tried here.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{blocks, command, play, ran, root};

/// Those that are for reading: what stands there is looked at by tests of their own, or tells what was found.
const FOR_READING: [&str; 8] = [
    "docs/README.md",
    "docs/bounds.md",
    "docs/campaigns.md",
    "docs/glossary.md",
    "docs/out-of-scope.md",
    "docs/performance.md",
    "docs/protocol.md",
    "docs/verification.md",
];

/// Those whose commands are typed here, each in a test of its own.
const PLAYED: [&str; 15] = [
    "docs/first-quarter-of-an-hour.md",
    "docs/http.md",
    "docs/logs.md",
    "docs/metrics.md",
    "docs/migration-from-the-seed.md",
    "docs/operations.md",
    "docs/proxies.md",
    "docs/recipes/a-fleet-behind-nat.md",
    "docs/recipes/a-job-queue-over-machines.md",
    "docs/recipes/a-process-that-serves.md",
    "docs/recipes/a-push-that-deploys.md",
    "docs/recipes/a-script-that-answers-with-data.md",
    "docs/recipes/asking-from-any-language.md",
    "docs/recipes/cron-with-memory.md",
    "docs/workers.md",
];

/// The pages of a folder.
fn pages(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect("it is there");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("a plain name"));
    let pages = names.filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "md"));
    pages.map(|name| format!("{folder}/{name}")).collect()
}

#[test]
fn every_page_is_played_or_is_for_reading() {
    let mut found = [pages("docs"), pages("docs/recipes")].concat();
    found.sort();
    let mut known = [&PLAYED[..], &FOR_READING].concat();
    known.sort_unstable();
    assert_eq!(found, known);
    // Who comes by the index finds each of them, and so does who comes by the README.
    let index = fs::read_to_string(root().join("docs/README.md")).expect("it is there");
    for page in known.iter().filter(|page| **page != "docs/README.md") {
        let link = page.trim_start_matches("docs/");
        assert!(index.contains(&format!("({link})")), "docs/README.md does not lead to {page}");
    }
}

#[test]
fn nothing_that_can_be_typed_is_shown_untried() {
    for page in PLAYED {
        for block in blocks(page) {
            let tried = ["run", "prints", "config", "contract"].contains(&&*block.mark) || block.mark.starts_with("file ");
            assert!(tried || block.language == "text", "{page} shows what nobody tries:\n{}", block.text);
        }
    }
}

#[test]
fn the_configs_and_contracts_on_the_pages_are_taken() {
    let schema = |of: &str| {
        let said = ran(command(&["schema", of]), "");
        jsonschema::validator_for(&serde_json::from_str(&said.out).expect("JSON")).expect("a schema")
    };
    let (config, contract) = (schema("config"), schema("contract"));
    let mut seen = 0;
    for page in PLAYED {
        for block in blocks(page) {
            let is_file = |ending: &str| block.mark.starts_with("file ") && block.mark.ends_with(ending);
            let is_config = block.mark == "config" || is_file("config.json");
            let is_contract = block.mark == "contract" || is_file(".json") && block.mark.contains("/scripts/");
            if !is_config && !is_contract {
                continue;
            }
            seen += 1;
            let written: Value = serde_json::from_str(&block.text).unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(if is_config { &config } else { &contract }.is_valid(&written), "{page}: {written}");
            if is_config {
                let prefix = tempfile::tempdir().expect("a temporary folder can be made");
                fs::write(prefix.path().join("config.json"), &block.text).expect("the folder is ours");
                let mut check = command(&["check"]);
                check.env("WSDAEMON_PREFIX", prefix.path());
                let said = ran(check, "");
                assert_eq!(said.code, 0, "{page}: {}", said.err);
            }
        }
    }
    assert!(seen >= 4, "{seen}");
}

/// Plays a page that has so many blocks at least, and so many of them with what they print.
fn goes_as_it_says(page: &str, runs: usize, prints: usize) {
    assert!(PLAYED.contains(&page));
    if let Some(found) = play(page) {
        assert!(found.0 >= runs && found.1 >= prints, "{page} shows less than it did: {found:?}");
    }
}

#[test]
fn the_first_quarter_of_an_hour_goes_as_it_says() {
    goes_as_it_says("docs/first-quarter-of-an-hour.md", 9, 6);
}

#[test]
fn a_script_is_run_over_http_as_the_page_says() {
    goes_as_it_says("docs/http.md", 7, 2);
}

#[test]
fn a_server_has_several_ways_to_it_as_the_page_says() {
    goes_as_it_says("docs/proxies.md", 3, 1);
}

#[test]
fn a_fleet_behind_nat_is_asked_as_the_page_says() {
    goes_as_it_says("docs/recipes/a-fleet-behind-nat.md", 4, 3);
}

#[test]
fn a_job_queue_over_machines_works_as_the_page_says() {
    goes_as_it_says("docs/recipes/a-job-queue-over-machines.md", 4, 2);
}

#[test]
fn a_push_deploys_as_the_page_says() {
    goes_as_it_says("docs/recipes/a-push-that-deploys.md", 4, 3);
}

#[test]
fn cron_has_a_memory_as_the_page_says() {
    goes_as_it_says("docs/recipes/cron-with-memory.md", 3, 2);
}

#[test]
fn a_script_answers_with_data_in_each_language_as_the_page_says() {
    goes_as_it_says("docs/recipes/a-script-that-answers-with-data.md", 3, 2);
}

#[test]
fn a_process_that_runs_serves_as_the_page_says() {
    goes_as_it_says("docs/recipes/a-process-that-serves.md", 3, 1);
}

#[test]
fn every_language_asks_as_the_page_says() {
    goes_as_it_says("docs/recipes/asking-from-any-language.md", 5, 4);
}

#[test]
fn the_daemon_is_operated_as_the_page_says() {
    goes_as_it_says("docs/operations.md", 9, 5);
}

#[test]
fn the_seed_daemon_is_replaced_as_the_page_says() {
    goes_as_it_says("docs/migration-from-the-seed.md", 3, 2);
}

#[test]
fn the_log_goes_as_its_page_says() {
    goes_as_it_says("docs/logs.md", 3, 2);
}

#[test]
fn health_and_metrics_go_as_their_page_says() {
    goes_as_it_says("docs/metrics.md", 3, 2);
}

#[test]
fn workers_in_each_language_and_a_process_that_serves_by_hand_go_as_the_page_says() {
    goes_as_it_says("docs/workers.md", 4, 3);
    // Each example is a file of its own as well.
    let examples = root().join("contrib/examples");
    let shown = blocks("docs/workers.md");
    let mut found = 0;
    for entry in fs::read_dir(examples).expect("it is there") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("readable");
        assert!(shown.iter().any(|block| block.text == text), "{} is not what the page shows", path.display());
        found += 1;
    }
    assert_eq!(found, 3);
}
