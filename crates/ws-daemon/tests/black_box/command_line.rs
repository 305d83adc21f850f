//! The commands beside the daemon itself, as a person or a script at a shell meets them: what they print, where, and
//! what they exit with.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{DEADLINE, Daemon, Peer, Process, Ran, command, need_other_users, need_tool, pair, ran};

const COMMANDS: &[&str] = &[
    "run",
    "exec",
    "invite",
    "join",
    "callers",
    "keys",
    "explain",
    "doctor",
    "peers",
    "ping",
    "runs",
    "show",
    "logs",
    "cancel",
    "wait",
    "scripts",
    "events",
    "pause",
    "stats",
    "reload",
    "restart",
    "log-level",
    "metrics",
    "check",
    "health",
    "init",
    "demo",
    "completions",
    "schema",
    "man",
    "container",
];

/// `exec` with the socket of `daemon` and these words.
fn exec(daemon: &Daemon, words: &[&str], stdin: &str) -> Ran {
    let mut command = command(&[&["exec"], words].concat());
    command.env("WSDAEMON_PREFIX", daemon.prefix());
    ran(command, stdin)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// What `exec` makes of a peer that answers its request with `data`.
fn told(server: &Daemon, peer: &mut Peer, data: &str) -> Ran {
    thread::scope(|scope| {
        let asking = scope.spawn(|| exec(server, &["anything"], ""));
        let asked: Value = serde_json::from_str(&peer.text()).expect("a request");
        let data = data.replacen('{', &format!("{{\"id\":{},", asked["id"]), 1);
        peer.send_text(&format!("{{\"name\":\"&cmd\",\"params\":{{\"code\":\"STATUS\",\"data\":{data}}}}}"));
        asking.join().expect("the other thread has panicked")
    })
}

#[test]
fn exec_exits_with_the_scripts_own_status() {
    let (server, client) = pair();
    for (name, body) in [
        ("fine", "#!/bin/sh\nexit 0\n"),
        ("seven", "#!/bin/sh\nexit 7\n"),
        ("high", "#!/bin/sh\nexit 255\n"),
        ("killed", "#!/bin/sh\nkill -KILL $$\n"),
        ("sms/send", "#!/bin/sh\nexit 3\n"),
        ("lost", "#!/no/such/interpreter\n"),
    ] {
        client.script(name, body);
    }
    fs::write(client.prefix().join("scripts/plain"), "#!/bin/sh\n").expect("the prefix is ours to write");
    let table = [
        ("fine", 0, ""),
        ("seven", 7, ""),
        ("high", 255, ""),
        ("sms/send", 3, ""),
        ("killed", 137, "ws-daemon: killed: killed by SIGKILL\n"),
        ("nowhere", 127, "ws-daemon: nowhere: not_found: \"nowhere\": there is no such script in "),
        ("", 127, "not_found: the name of the script is empty"),
        ("plain", 126, "not_executable: \"plain\": the file is not executable; mend it with: chmod +x "),
        ("../plain", 126, "forbidden: \"../plain\": a name must lead straight down from scripts/"),
        ("lost", 126, "needs /no/such/interpreter, which is not installed here"),
    ];
    for (name, code, said) in table {
        let ran = exec(&server, &[name], "");
        assert_eq!((ran.code, &*ran.out), (code, ""), "{name}: {ran:?}");
        assert!(ran.err.contains(said) && ran.err.is_empty() == said.is_empty(), "{name}: {}", ran.err);
    }
}

#[test]
fn exec_exits_by_what_the_peer_says() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial(&server);
    let table = [
        (r#"{"status":-4,"error":"timed_out","message":"after 30s"}"#, 124, "anything: timed_out: after 30s"),
        (r#"{"status":-4,"error":"cancelled","message":"stopped","signal":"SIGTERM"}"#, 125, "anything: cancelled: stopped"),
        (r#"{"status":-1,"error":"busy","message":"later"}"#, 75, "anything: busy: later"),
        (r#"{"status":-3,"error":"denied"}"#, 77, "anything: denied\n"),
        (r#"{"status":-3,"error":"bad_message","message":"no"}"#, 65, "anything: bad_message: no"),
        (r#"{"status":-5,"error":"interrupted","message":"gone"}"#, 74, "anything: interrupted: gone"),
        (r#"{"status":null}"#, 128, "killed by a signal that the peer does not name"),
        (r#"{"status":-1,"error":"new_word","message":"\u001b[2J"}"#, 1, "anything: new_word:  [2J"),
        (r#"{"status":-7}"#, 1, "the peer answered with the status -7 and no words"),
    ];
    for (data, code, said) in table {
        let ran = told(&server, &mut peer, data);
        assert_eq!((ran.code, &*ran.out), (code, ""), "{data}: {ran:?}");
        assert!(ran.err.contains(said), "{data}: {}", ran.err);
    }
}

#[test]
fn exec_says_when_nobody_can_answer() {
    let server = Daemon::server().start();
    let alone = exec(&server, &["hello"], "");
    assert_eq!(alone.code, 69);
    assert!(alone.err.contains("nobody is connected to this server yet"), "{}", alone.err);

    // The link is lost while the peer has the request.
    let mut peer = Peer::dial(&server);
    let lost = thread::scope(|scope| {
        let asking = scope.spawn(|| exec(&server, &["hello"], ""));
        peer.text();
        drop(peer);
        asking.join().expect("the other thread has panicked")
    });
    assert_eq!(lost.code, 74);
    assert!(
        lost.err.contains("interrupted: the link was lost while the peer had the request; it may have run"),
        "{}",
        lost.err
    );

    let plan = server.kill();
    let ran = |words: &[&str]| {
        let mut command = command(words);
        command.env("WSDAEMON_PREFIX", plan.prefix());
        ran(command, "")
    };
    let none = ran(&["exec", "hello"]);
    assert_eq!(none.code, 69, "{none:?}");
    assert!(none.err.contains("no daemon answers at ") && none.err.contains("start it with: ws-daemon run"), "{}", none.err);
    let named = ran(&["exec", "hello", "--socket", "/no/such/socket"]);
    assert_eq!(named.code, 69);
    assert!(named.err.contains("no daemon answers at /no/such/socket"), "{}", named.err);
    // Where no daemon could run, that is what is said.
    fs::write(plan.prefix().join("config.json"), r#"{"mode":"server","prot":1}"#).expect("the prefix is ours to write");
    let broken = ran(&["exec", "hello"]);
    assert_eq!(broken.code, 78);
    assert!(broken.err.contains("none would start") && broken.err.contains("did you mean \"port\"?"), "{}", broken.err);
    fs::remove_file(plan.prefix().join("config.json")).expect("it was there");
    let unmade = ran(&["exec", "hello"]);
    assert_eq!(unmade.code, 78);
    assert!(unmade.err.contains("init server"), "{}", unmade.err);
}

#[test]
fn exec_says_when_the_daemon_goes_away() {
    let server = Daemon::server().start();
    let mut peer = Peer::dial(&server);
    let mut plan = None;
    let left = thread::scope(|scope| {
        let mut command = command(&["exec", "hello"]);
        command.env("WSDAEMON_PREFIX", server.prefix());
        let asking = scope.spawn(|| ran(command, ""));
        peer.text();
        plan = Some(server.kill());
        asking.join().expect("the other thread has panicked")
    });
    assert_eq!(left.code, 74, "{left:?}");
    assert!(left.err.contains("without an answer; the script may have run"), "{}", left.err);
}

#[test]
fn exec_takes_params_as_they_are_written_from_the_line_or_from_stdin() {
    let (server, client) = pair();
    client.script("keep", "#!/bin/sh\nprintf %s \"$1\" > \"$WSDAEMON_PREFIX/got\"\n");
    let got = || fs::read_to_string(client.prefix().join("got")).expect("the script has run");
    for (words, stdin, params) in [
        (&["keep"][..], "", "null"),
        (&["keep", r#"{"z":1.0, "a":"\u00e9"}"#], "", r#"{"z":1.0,"a":"\u00e9"}"#),
        (&["keep", "12345678901234567890"], "", "12345678901234567890"),
        (&["keep", "-"], "[1,\n 2]\n", "[1,2]"),
    ] {
        assert_eq!(exec(&server, words, stdin).code, 0);
        assert_eq!(got(), params);
    }
    fs::remove_file(client.prefix().join("got")).expect("it was there");
    for (words, stdin, said) in [
        (&["keep", "hello"][..], "", "text needs its own quotes, like '\"text\"'"),
        (&["keep", "{\"a\":"], "", "the params are not JSON"),
        (&["keep", "-"], "", "the params are not JSON"),
        (&["keep", "-"], "1 2", "the params are not JSON"),
    ] {
        let ran = exec(&server, words, stdin);
        assert_eq!(ran.code, 65, "{words:?} {stdin}");
        assert!(ran.err.contains(said), "{}", ran.err);
    }
    assert!(!client.prefix().join("got").exists(), "nothing ran");
}

#[test]
fn exec_prints_the_answer_as_json_if_asked() {
    let (server, client) = pair();
    client.script("seven", "#!/bin/sh\nexit 7\n");
    let ran = exec(&server, &["seven", "--json"], "");
    assert_eq!((ran.code, &*ran.out, &*ran.err), (7, "{\"status\":7}\n", ""));
    client.script("named", "#!/bin/sh\n[ \"$WSDAEMON_ID\" = 'an \"id\"' ]\n");
    let ran = exec(&server, &["named", "--json", "--id", "an \"id\""], "");
    assert_eq!((ran.code, &*ran.out), (0, "{\"status\":0,\"id\":\"an \\\"id\\\"\"}\n"));
    let ran = exec(&server, &["nowhere", "--json"], "");
    let answer: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, &answer["status"], &answer["error"], &*ran.err), (127, &json!(-1), &json!("not_found"), ""));
}

#[test]
fn exec_gives_up_when_its_time_is_over() {
    let server = Daemon::server().start();
    let peer = Peer::dial(&server);
    let ran = exec(&server, &["anything", "--timeout", "50ms"], "");
    // The contract's -5: a seed peer cannot be told to stop, so nobody knows.
    assert_eq!(ran.code, 74, "{ran:?}");
    assert!(ran.err.contains("no answer within 50ms"), "{}", ran.err);
    drop(peer);
    let ran = exec(&server, &["anything", "--timeout", "soon"], "");
    assert_eq!(ran.code, 64);
    assert!(ran.err.contains("\"soon\" is no duration"), "{}", ran.err);
}

#[test]
fn exec_finds_the_daemon_by_its_number_by_name_and_from_inside_a_script() {
    let (server, client) = pair();
    client.script("seven", "#!/bin/sh\nexit 7\n");
    let program = env!("CARGO_BIN_EXE_ws-daemon");
    server.script("back", &format!("#!/bin/sh\n{program} exec seven\n"));
    assert_eq!(exec(&client, &["back"], "").code, 7, "a script asks by the socket it finds in its environment");
    let socket = server.socket().to_owned();
    let other = folder();
    let mut named = command(&["exec", "seven", "--socket", text(&socket)]);
    named.env("WSDAEMON_PREFIX", other.path());
    assert_eq!(ran(named, "").code, 7);
    // The first name was left by a crash, the second is alive.
    drop(UnixListener::bind(other.path().join("ws-daemon.sock")).expect("the folder is ours"));
    std::os::unix::fs::symlink(&socket, other.path().join("ws-daemon0.sock")).expect("the folder is ours");
    let mut numbered = command(&["exec", "seven"]);
    numbered.env("WSDAEMON_PREFIX", other.path());
    assert_eq!(ran(numbered, "").code, 7);
}

#[test]
fn health_is_good_while_the_daemon_answers() {
    let server = Daemon::server().start();
    let health = |prefix: &Path, words: &[&str]| {
        let mut command = command(&[&["health"], words].concat());
        command.env("WSDAEMON_PREFIX", prefix);
        ran(command, "")
    };
    let well = health(server.prefix(), &[]);
    assert_eq!((well.code, &*well.out, &*well.err), (0, "the daemon answers\n", ""));
    // One that accepts and says nothing, as a stopped process does.
    let stuck = folder();
    let _listener = UnixListener::bind(stuck.path().join("ws-daemon.sock")).expect("the folder is ours");
    let sick = health(stuck.path(), &["--timeout", "50ms"]);
    assert_eq!(sick.code, 69);
    assert!(sick.err.contains("the daemon does not answer: nothing came within 50ms"), "{}", sick.err);
    let plan = server.kill();
    assert_eq!(health(plan.prefix(), &[]).code, 69);
    assert_eq!(health(folder().path(), &[]).code, 78);
}

#[test]
fn what_init_writes_runs_and_is_never_overwritten() {
    let (one, two) = (folder(), folder());
    let (server_prefix, client_prefix) = (one.path().join("made/for/it"), two.path().to_owned());
    let init = |words: &[&str], prefix: &Path| ran(command(&[&["init", "--prefix", text(prefix)], words].concat()), "");
    let said = init(&["server", "--port", "0", "--listen", "127.0.0.1", "--local", "off"], &server_prefix);
    assert_eq!((said.code, &*said.err), (0, ""));
    for part in ["wrote ", "scripts/hello", "run --prefix", "exec hello", "\"open\""] {
        assert!(said.out.contains(part), "{part} is not in {}", said.out);
    }
    let daemon = |prefix: &Path| Process::start("what init made", command(&["--prefix", text(prefix), "--log", "info"]));
    let server = daemon(&server_prefix);
    let line = server.log().wait("listening address=");
    let port = line.rsplit(':').next().expect("an address ends in its port");
    assert_eq!(init(&["client", "--proxy", "127.0.0.1", "--port", port, "--local", "off"], &client_prefix).code, 0);
    let client = daemon(&client_prefix);
    client.log().wait("link up");
    server.log().wait("link up");
    for prefix in [&server_prefix, &client_prefix] {
        let asked = ran(command(&["exec", "hello", "{\"a\":1}", "--prefix", text(prefix)]), "");
        assert_eq!((asked.code, &*asked.err), (0, ""), "{asked:?}");
    }
    client.log().wait("you sent {\\\"a\\\":1}");

    let config = fs::read_to_string(client_prefix.join("config.json")).expect("it was written");
    fs::write(client_prefix.join("scripts/hello"), "mine").expect("the prefix is ours to write");
    let again = init(&["server"], &client_prefix);
    assert_eq!(again.code, 78);
    assert!(again.err.contains("exists already and is left as it is"), "{}", again.err);
    assert_eq!(fs::read_to_string(client_prefix.join("config.json")).expect("it is there"), config);
    fs::remove_file(client_prefix.join("config.json")).expect("it is there");
    assert_eq!(init(&["server"], &client_prefix).code, 0);
    assert_eq!(fs::read_to_string(client_prefix.join("scripts/hello")).expect("it is there"), "mine");
}

#[test]
fn a_config_that_does_not_say_which_end_it_is_is_completed_where_it_stands() {
    let (prefix, etc) = (folder(), folder());
    let file = etc.path().join("config.json");
    fs::write(&file, r#"{"$schema":"file:///s.json","tags":["a"],"port":4000}"#).expect("ours");
    std::os::unix::fs::symlink(&file, prefix.path().join("config.json")).expect("ours");
    let init = |words: &[&str]| ran(command(&[&["init", "--prefix", text(prefix.path())], words].concat()), "");
    assert_eq!(init(&["server", "--listen", "::1"]).code, 0);
    assert!(prefix.path().join("config.json").is_symlink());
    let read = || serde_json::from_str::<Value>(&fs::read_to_string(&file).expect("there")).expect("JSON");
    let expected = json!({ "$schema": "file:///s.json", "tags": ["a"], "port": 4000, "mode": "server", "listen": "::1" });
    assert_eq!(read(), expected);
    assert!(!prefix.path().join("schema").exists(), "it names one of its own");
    assert_eq!(init(&["client", "--proxy", "h"]).code, 78);
    assert_eq!(read(), expected);
    fs::write(&file, r#"{"tags":5}"#).expect("ours");
    let broken = init(&["server"]);
    assert!(broken.code == 78 && broken.err.contains("tags"), "{broken:?}");
}

#[test]
fn what_root_writes_in_the_prefix_of_another_user_is_that_users() {
    const OTHER: u32 = 65534;
    if !need_other_users() {
        return;
    }
    let prefix = folder();
    std::os::unix::fs::chown(prefix.path(), Some(OTHER), Some(OTHER)).expect("we are root");
    let said = ran(command(&["init", "server", "--prefix", text(prefix.path())]), "");
    assert_eq!(said.code, 0, "{}", said.err);
    for name in ["config.json", "scripts", "scripts/hello", "schema/config.json"] {
        assert_eq!(fs::metadata(prefix.path().join(name)).expect("there").uid(), OTHER, "{name}");
    }
    // What that user has put there in place of a file leads to nothing that they could not write.
    let (elsewhere, trap) = (folder(), folder());
    std::os::unix::fs::chown(trap.path(), Some(OTHER), Some(OTHER)).expect("we are root");
    std::os::unix::fs::symlink(elsewhere.path(), trap.path().join("scripts")).expect("ours");
    assert_eq!(ran(command(&["init", "server", "--prefix", text(trap.path())]), "").code, 1);
    assert!(!elsewhere.path().join("hello").exists());
}

#[test]
fn init_writes_what_it_is_told_and_asks_for_what_it_needs() {
    let made = |words: &[&str]| {
        let prefix = folder();
        let said = ran(command(&[&["init", "--prefix", text(prefix.path())], words].concat()), "");
        let config = fs::read_to_string(prefix.path().join("config.json")).ok();
        (said, config.map(|config| serde_json::from_str::<Value>(&config).expect("init writes JSON")))
    };
    let table = [
        (&["server"][..], json!({ "mode": "server", "port": 3006 })),
        (&["client", "--proxy", "a:1, b"], json!({ "mode": "client", "proxy": ["a:1", "b"], "port": 3006 })),
        (&["client", "--proxy", "h"], json!({ "mode": "client", "proxy": "h", "port": 3006 })),
        (&["client", "--proxy", "wss://n:t@h/x"], json!({ "mode": "client", "proxy": "wss://n:t@h/x" })),
        (
            &["--mode", "server", "--open=10.0.0.0/8", "--listen", "::1"],
            json!({ "mode": "server", "port": 3006, "open": ["10.0.0.0/8"], "listen": "::1" }),
        ),
    ];
    for (words, mut expected) in table {
        let (said, config) = made(words);
        expected["$schema"] = "schema/config.json".into();
        assert_eq!((said.code, config), (0, Some(expected)), "{words:?}: {}", said.err);
        assert!(!said.out.contains("n:t@"), "a token is not printed");
    }
    for (words, code, said) in [
        (&[][..], 64, "say which: ws-daemon init server, or ws-daemon init client --proxy HOST"),
        (&["client"], 64, "a client needs its server: ws-daemon init client --proxy HOST"),
        (&["client", "--proxy", "ftp://h"], 64, "proxy has the scheme \"ftp\""),
        (&["server", "--open=home"], 78, "true, false, or a list of networks"),
        (&["peer"], 64, "invalid value 'peer'"),
    ] {
        let (ran, config) = made(words);
        assert_eq!((ran.code, config), (code, None), "{words:?}");
        assert!(ran.err.contains(said), "{words:?}: {}", ran.err);
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let said = ran(command(&["completions", shell]), "");
        assert_eq!((said.code, &*said.err), (0, ""));
        for word in COMMANDS {
            assert!(said.out.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(ran(command(&["completions", "sh"]), "").code, 64);
}

#[test]
fn completions_are_what_each_shell_can_read() {
    for shell in ["bash", "zsh", "fish"] {
        if !need_tool(shell) {
            return;
        }
        let said = ran(command(&["completions", shell]), "");
        let folder = folder();
        let file = folder.path().join("completions");
        fs::write(&file, &said.out).expect("the folder is ours");
        let mut parse = Command::new(shell);
        parse.arg("-n").arg(&file);
        let parsed = ran(parse, "");
        assert_eq!((parsed.code, &*parsed.err), (0, ""), "{shell}");
        fs::write(&file, said.out + "\n(").expect("the folder is ours");
        let mut parse = Command::new(shell);
        parse.arg("-n").arg(&file);
        assert_ne!(ran(parse, "").code, 0, "{shell} looks at what it reads");
    }
}

#[test]
fn every_command_has_its_manual_page() {
    if !need_tool("mandoc") {
        return;
    }
    let folder = folder();
    let pages = folder.path().join("share/man1");
    let said = ran(command(&["man", text(&pages)]), "");
    assert_eq!((said.code, &*said.err), (0, ""));
    let parts =
        ["peers list", "peers revoke", "peers rotate", "callers list", "callers add", "callers revoke", "callers rotate"];
    let mut expected = vec!["ws-daemon.1".to_owned()];
    for words in COMMANDS.iter().chain(&parts) {
        let name = format!("ws-daemon-{}.1", words.replace(' ', "-"));
        let page = pages.join(&name);
        let mut lint = Command::new("mandoc");
        lint.args(["-Tlint", "-Werror", text(&page)]);
        let faults = ran(lint, "");
        assert_eq!((faults.code, &*faults.out), (0, ""), "{name}");
        let mut shown = Command::new("mandoc");
        shown.args(["-Tascii", "-Owidth=200", text(&page)]);
        // What is bold is struck over.
        let shown = ran(shown, "").out;
        let plain: String = shown.char_indices().filter_map(|(at, letter)| plain(&shown, at, letter)).collect();
        let help = ran(command(&[&words.split(' ').collect::<Vec<_>>()[..], &["--help"]].concat()), "").out;
        let flags = help.split([' ', '=', '[', ',', '\n']).filter(|word| word.starts_with("--") && word.len() > 2);
        for flag in flags {
            assert!(plain.contains(flag.trim_end_matches([']', '.', ':'])), "{name} has no {flag}");
        }
        assert!(plain.contains(&format!("WS-DAEMON-{}(1)", words.replace(' ', "-").to_uppercase())), "{plain}");
        expected.push(name);
    }
    let mut found: Vec<String> =
        fs::read_dir(&pages).expect("it is there").map(|entry| name_of(&entry.expect("readable"))).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "a page for each command, and for nothing else");
    let main = fs::read_to_string(pages.join("ws-daemon.1")).expect("it is there");
    for part in ["FILES", "EXIT STATUS", "config.json", "\\fB127\\fR"] {
        assert!(main.contains(part), "{part} is not in {main}");
    }
    assert_eq!(ran(command(&["man", "/proc/nowhere"]), "").code, 1);
}

fn name_of(entry: &fs::DirEntry) -> String {
    entry.file_name().into_string().expect("a plain name")
}

/// The letter at a place of what mandoc prints, unless it is struck over by the one behind it.
fn plain(text: &str, at: usize, letter: char) -> Option<char> {
    (letter != '\u{8}' && !text[at + letter.len_utf8()..].starts_with('\u{8}')).then_some(letter)
}

#[test]
fn help_is_there_for_every_command_and_wrong_words_are_64() {
    let all = ran(command(&["--help"]), "");
    assert_eq!((all.code, &*all.err), (0, ""));
    for word in COMMANDS {
        assert!(all.out.lines().any(|line| line.trim_start().starts_with(word)), "{word} is not in {}", all.out);
        let help = ran(command(&[word, "--help"]), "");
        assert_eq!((help.code, &*help.err), (0, ""));
        for part in [&*format!("Usage: ws-daemon {word}"), "--prefix <DIR>", "[WSDAEMON_PREFIX]"] {
            assert!(help.out.contains(part), "{part} is not in {}", help.out);
        }
    }
    let exec = ran(command(&["exec", "--help"]), "");
    assert!(exec.out.contains("Exit status: the script's own") && exec.out.contains("Examples:"), "{}", exec.out);
    let version = ran(command(&["--version"]), "");
    assert_eq!((version.code, version.out), (0, format!("ws-daemon {}\n", env!("CARGO_PKG_VERSION"))));
    for words in [&["exce"][..], &["exec"], &["--port", "many"], &["check", "--jsno"]] {
        let said = ran(command(words), "");
        assert_eq!((said.code, &*said.out), (64, ""), "{words:?}");
        assert!(said.err.contains("--help"), "{}", said.err);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_trouble() {
    for words in [&["completions", "bash"][..], &["check", "--mode", "server"], &["--help"]] {
        let prefix = folder();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut shell = command(words);
        shell.env("WSDAEMON_PREFIX", prefix.path()).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let said = shell.output().expect("it starts");
        assert_eq!((said.status.code(), String::from_utf8_lossy(&said.stderr).as_ref()), (Some(0), ""), "{words:?}");
    }
}

/// What `words` print on a terminal.
fn on_a_terminal(words: &str, environment: &[(&str, &str)]) -> String {
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &format!("{} {words}", env!("CARGO_BIN_EXE_ws-daemon")), "/dev/null"]);
    terminal.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied());
    let said = ran(terminal, "");
    format!("{}{}", said.out, said.err)
}

#[test]
fn colours_are_for_terminals_only_and_not_where_they_are_not_wanted() {
    if !need_tool("script") {
        return;
    }
    let prefix = folder();
    fs::write(prefix.path().join("config.json"), "{\"prot\":1}").expect("the prefix is ours to write");
    let words = format!("check --prefix {}", prefix.path().display());
    let coloured = on_a_terminal(&words, &[]);
    assert!(coloured.contains("\u{1b}["), "{coloured:?}");
    let plain = on_a_terminal(&words, &[("NO_COLOR", "1")]);
    assert!(plain.contains("no setting") && !plain.contains("\u{1b}["), "{plain:?}");
    let demo = folder();
    let temporary = ("TMPDIR", text(demo.path()));
    assert!(on_a_terminal("demo", &[temporary]).contains("\u{1b}[1m"));
    let plain = on_a_terminal("demo", &[temporary, ("NO_COLOR", "1")]);
    assert!(plain.contains("the same by hand") && !plain.contains("\u{1b}["), "{plain:?}");
}

/// The processes that have `words` on their command line.
fn processes_with(words: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("Linux has it").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(words)).collect()
}

#[test]
fn the_demo_shows_both_ways_and_leaves_nothing() {
    let temporary = folder();
    let mut demo = command(&["demo"]);
    demo.env("TMPDIR", temporary.path());
    // What is set for a real daemon must not reach those of the demo.
    demo.env("WSDAEMON_PORT", "1").env("WSDAEMON_MODE", "client");
    let said = ran(demo, "");
    assert_eq!((said.code, &*said.err), (0, ""), "{}", said.out);
    for part in [
        r#"server socket          ◄ {"name":"hello","id":"1","params":{"who":"world"}}"#,
        r#"server ► client │ {"name":"hello","id":"1","params":{"who":"world"}}"#,
        r#"client ► server │ {"name":"&cmd","params":{"code":"STATUS","data":{"status":0,"id":"1"}}}"#,
        r#"server socket          ► {"status":0,"id":"1"}"#,
        r#"client socket          ► {"status":42,"id":2}"#,
        r#""error":"not_found""#,
        r#""signal":"SIGSEGV""#,
        "| nc -UN ",
        "exec hello",
        "demo --stay",
        "invite NAME",
        "join LINE",
        "both daemons have stopped and their files are gone",
    ] {
        assert!(said.out.contains(part), "{part} is not in {}", said.out);
    }
    assert!(!said.out.contains('\u{1b}'), "no colours where there is no terminal");
    assert_eq!(fs::read_dir(temporary.path()).expect("it is ours").count(), 0, "files are left");
    assert_eq!(processes_with(text(temporary.path())), Vec::<String>::new());
}

#[test]
fn a_demo_that_stays_ends_by_ctrl_c_and_leaves_nothing() {
    let temporary = folder();
    let mut demo = command(&["demo", "--stay"]);
    demo.env("TMPDIR", temporary.path());
    let mut demo = Process::start("demo", demo);
    demo.log().wait("both stay until Ctrl-C");
    let line = demo.log().wait("  server  ");
    let prefix = line.split_whitespace().nth(1).expect("its prefix").to_owned();
    let asked = ran(command(&["exec", "hello", "--prefix", &prefix]), "");
    assert_eq!(asked.code, 0, "{asked:?}");
    demo.signal(Signal::INT);
    assert_eq!(demo.wait_exit(DEADLINE).code(), Some(130));
    assert_eq!(fs::read_dir(temporary.path()).expect("it is ours").count(), 0, "files are left");
    assert_eq!(processes_with(text(temporary.path())), Vec::<String>::new());
}
