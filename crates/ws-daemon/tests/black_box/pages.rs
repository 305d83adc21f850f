//! What the pages show is so. What the README tells a stranger to type is typed here, in its order, in one shell: blocks
//! behind `<!-- run -->` are run, blocks behind `<!-- prints -->` are what the one before them printed, blocks behind
//! `<!-- config -->` are configs that `check` takes. The conversations of docs/protocol.md are held with a daemon, those of
//! its links by a scripted peer.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{Block, Daemon, Ids, Peer, command, marked_blocks, play, ran, root};

#[test]
fn the_first_quarter_of_an_hour_goes_as_it_says() {
    if let Some((runs, printed)) = play("README.md") {
        assert!(runs >= 6 && printed >= 3, "the README still shows it all: {runs} {printed}");
    }
}

#[test]
fn the_contract_that_the_readme_shows_is_taken() {
    let contracts: Vec<Block> = marked_blocks("README.md").into_iter().filter(|block| block.mark == "contract").collect();
    let [contract] = &contracts[..] else { panic!("{contracts:?}") };
    let server = Daemon::server().script("send.php", "#!/bin/sh\nexit 3\n").start();
    let path = server.prefix().join("scripts/send.php.json");
    fs::write(&path, &contract.text).expect("the prefix is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let scripts = server.connect().result("SCRIPTS", &Value::Null);
    let [script] = &scripts.as_array().expect("a list")[..] else { panic!("{scripts}") };
    assert_eq!(script["refused"], Value::Null, "{scripts}");
    let written: Value = serde_json::from_str(&contract.text).expect("JSON");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&script["contract"]), keys(&written), "every key is shown");
    // And every key there is has its row.
    let readme = fs::read_to_string(root().join("README.md")).expect("it is there");
    for key in keys(&written).iter().chain(&keys(&written["limits"])) {
        assert!(readme.contains(&format!("`{key}`")), "{key}");
    }
    assert!(Peer::dial(&server).ask(r#"{"name":"send.php"}"#).contains("\"denied\""), "a seed peer has proved nothing");
}

#[test]
fn the_configs_that_the_readme_shows_are_taken() {
    let configs: Vec<Block> = marked_blocks("README.md").into_iter().filter(|block| block.mark == "config").collect();
    assert!(!configs.is_empty());
    for config in configs {
        let prefix = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(prefix.path().join("config.json"), &config.text).expect("the folder is ours");
        let mut check = command(&["check", "--json"]);
        check.env("WSDAEMON_PREFIX", prefix.path());
        let said = ran(check, "");
        assert_eq!(said.code, 0, "{}", said.err);
        let rows: Value = serde_json::from_str(&said.out).expect("JSON");
        assert_eq!(rows["mode"]["source"], "config.json");
    }
}

/// The rows of the README's tables that name a setting of config.json: its name and, for bounds, its default.
#[test]
fn the_settings_that_the_readme_lists_are_those_there_are() {
    let readme = fs::read_to_string(root().join("README.md")).expect("it is there");
    let mut names = Vec::new();
    for (config, words) in [(r#"{"mode":"server"}"#, ["--socket-group", "g"]), (r#"{"mode":"client"}"#, ["--proxy", "h"])] {
        let prefix = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(prefix.path().join("config.json"), config).expect("the folder is ours");
        let mut check = command(&["check", "--json"]);
        check.args(words).env("WSDAEMON_PREFIX", prefix.path());
        let rows: Value = serde_json::from_str(&ran(check, "").out).expect("JSON");
        names.extend(rows.as_object().expect("one object").keys().cloned());
    }
    assert!(names.len() > 20);
    for name in names {
        let name = name.rsplit('.').next().expect("a name");
        let flag = format!("--{}", name.replace('_', "-"));
        assert!(
            readme.contains(&format!("`{name}`")) || readme.contains(&format!("`{flag}`")),
            "the README does not list {name}"
        );
    }
}

/// The blocks of docs/protocol.md that have this mark.
fn conversations(mark: &str) -> Vec<Block> {
    let all = marked_blocks("docs/protocol.md");
    assert!(all.iter().all(|block| block.mark == "conversation" || block.mark == "link"));
    all.into_iter().filter(|block| block.mark == mark).collect()
}

#[test]
fn the_conversations_of_the_protocol_page_are_held_as_they_stand_there() {
    let server = Daemon::server().start();
    let client = Daemon::client(&server).config(json!({ "name": "web-1", "tags": ["web"] })).start();
    client.wait_log("link up");
    server.wait_log("link up");
    client.script("seven", "#!/bin/sh\nexit 7\n");
    client.script("killed", "#!/bin/sh\nkill -KILL $$\n");
    client.script("greet", "#!/bin/sh\necho \"hello $1\"\n");
    client.script("sum", "#!/bin/sh\necho '{\"sum\": 3}'\n");
    let conversations = conversations("conversation");
    assert!(conversations.len() >= 5);
    for conversation in conversations {
        let (mut local, mut ids, mut said) = (server.connect(), Ids::default(), 0);
        for line in conversation.text.lines() {
            match line.split_at(2) {
                ("> ", text) => local.send(format!("{}\n", ids.today(text))),
                ("< ", text) => {
                    ids.same(text, &local.line());
                    said += 1;
                }
                _ => panic!("a line that is neither sent nor read: {line}"),
            }
        }
        local.nothing_waiting();
        assert!(said > 0);
    }
}

#[test]
fn the_links_of_the_protocol_page_are_played_as_they_stand_there() {
    let conversations = conversations("link");
    assert!(conversations.len() >= 2);
    for conversation in conversations {
        let server = Daemon::server().config(json!({ "name": "hub" })).start();
        let mut process = server.connect();
        let dial = || Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is known");
        let (mut peer, mut ids, mut links) = (dial(), Ids::default(), 0);
        for line in conversation.text.lines() {
            if let Some(text) = line.strip_prefix("> ") {
                peer.send_text(&ids.today(text));
            } else if let Some(text) = line.strip_prefix("< ") {
                ids.same(text, &peer.text());
                if text.contains("HELLO") {
                    links += 1;
                    server.wait_log_times("link up", links);
                }
            } else if let Some(text) = line.strip_prefix("process ► ") {
                process.send(text);
            } else if let Some(text) = line.strip_prefix("process ◄ ") {
                ids.same(text, &process.line());
            } else {
                assert_eq!(line, "cut", "a line that nobody knows");
                peer.reset();
                server.wait_log_times("link down", links);
                peer = dial();
            }
        }
        peer.nothing_waiting();
        process.nothing_waiting();
    }
}
