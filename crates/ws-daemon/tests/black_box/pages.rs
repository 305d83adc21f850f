//! What the pages show is so. What the README tells a stranger to type is typed here, in its order, in one shell: blocks
//! behind `<!-- run -->` are run, blocks behind `<!-- prints -->` are what the one before them printed, blocks behind
//! `<!-- config -->` are configs that `check` takes. The conversations of docs/protocol.md are held with a daemon, those of
//! its links by a scripted peer.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Daemon, Ids, Peer, command, need_tool, ran};

#[derive(Debug, Default)]
pub struct Block {
    pub mark: String,
    pub language: String,
    pub text: String,
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The fenced blocks of a page that have a mark on the line before them.
pub fn marked_blocks(page: &str) -> Vec<Block> {
    let page = fs::read_to_string(root().join(page)).expect("it is there");
    let (mut blocks, mut mark, mut open): (Vec<Block>, _, Option<Block>) = (Vec::new(), String::new(), None);
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some(Block { mark: mark.clone(), language: language.into(), ..Block::default() }),
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|block| !block.mark.is_empty())),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
        mark = String::from(line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")).unwrap_or_default());
    }
    blocks
}

/// Ready is what a person sees in the log; a shell asks until it is so, and the deadline is the test's.
const UNTIL_LINKED: &str = "until ws-daemon exec hello --prefix server; do :; done >/dev/null 2>&1\n";

#[test]
fn the_first_quarter_of_an_hour_goes_as_it_says() {
    if !(need_tool("python3") && need_tool("nc")) {
        return;
    }
    let blocks = marked_blocks("README.md");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (mut script, mut printed) = (String::new(), Vec::new());
    let mut runs = 0;
    for block in &blocks {
        let file = folder.path().join(format!("{runs}.out"));
        match (&*block.mark, &*block.language) {
            ("run", language) => {
                runs += 1;
                let body = match language {
                    "sh" => block.text.clone(),
                    "python" => format!("python3 - <<'END OF PYTHON'\n{}END OF PYTHON\n", block.text),
                    other => panic!("nobody here runs {other}"),
                };
                let file = folder.path().join(format!("{runs}.out"));
                script.push_str(&format!("{{\n{body}}} >{}\n", file.display()));
                if block.text.contains("ws-daemon --prefix client &") {
                    script.push_str(UNTIL_LINKED);
                }
            }
            ("prints", _) => printed.push((file, block.text.clone())),
            ("config" | "contract", "json") => {}
            other => panic!("a mark that nobody knows: {other:?}"),
        }
    }
    assert!(runs >= 6 && printed.len() >= 3, "the README still shows it all: {runs} {}", printed.len());
    // Between here and the server's start another program may take the port; then the log says so.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let mut shell = Command::new("bash");
    let program = Path::new(env!("CARGO_BIN_EXE_ws-daemon")).parent().expect("it stands in a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("there is one"));
    shell.arg("-s").current_dir(folder.path()).env("PATH", path).env("TMPDIR", folder.path());
    for name in ["WSDAEMON_PREFIX", "WSDAEMON_MODE", "WSDAEMON_PROXY", "WSDAEMON_SOCKET"] {
        shell.env_remove(name);
    }
    shell.env("WSDAEMON_PORT", port.to_string()).env("WSDAEMON_LOCAL", "off");
    let said = ran(shell, &script);
    for (file, expected) in printed {
        let found = fs::read_to_string(&file).expect("the block has run");
        assert_eq!(found, expected, "{}\n{}", file.display(), said.err);
    }
    assert!(!said.err.contains("command not found"), "{}", said.err);
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
