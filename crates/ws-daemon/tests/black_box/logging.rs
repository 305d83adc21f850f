//! The log: its forms (text, JSON, the journal), and what is logged, changed while the daemon runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, Local, Peer, Process, need_networks, wait_for};

/// What moves a cursor, ends a line or turns the direction of writing, and what JSON and the journal are made of.
const NASTY: &str = "x\u{1b}[2J\u{9b}2J\u{7f}\r\n{\"level\":\"ERROR\"}\nPRIORITY=0\n\nMESSAGE=forged\u{202e}\u{2028}\\\"";

/// The members of a JSON object, each once.
fn members(line: &str) -> Vec<(String, Value)> {
    struct Members;

    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, Value)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            std::iter::from_fn(|| map.next_entry().transpose()).collect()
        }
    }

    let mut reader = serde_json::Deserializer::from_str(line);
    let members = reader.deserialize_map(Members).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    reader.end().unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let names: BTreeSet<&String> = members.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), members.len(), "a member stands twice in {line:?}");
    members
}

/// What the daemon is told to log, and what it then says of it.
fn log(daemon: &Daemon, data: &Value) -> Value {
    daemon.connect().result("LOG", data)
}

#[test]
fn every_line_is_one_json_object_whatever_peers_and_scripts_say() {
    let server = Daemon::server().arguments(&["--log-format", "json", "--log", "trace"]);
    let mut server = server.script("loud", "#!/bin/sh\nprintf '%s' \"$1\"\n").start();
    let mut peer = Peer::dial(&server);
    let run = json!({ "name": "loud", "id": "r-1", "params": NASTY }).to_string();
    assert_eq!(peer.ask(&run), r#"{"status":0,"id":"r-1"}"#);
    assert!(peer.ask(&json!({ "name": NASTY, "id": "r-2" }).to_string()).contains("not_found"));
    server.wait_log_times("\"run ended\"", 2);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit(DEADLINE).code(), Some(0));

    let lines = server.log().lines("");
    assert!(lines.len() > 10, "{lines:?}");
    let mut said = BTreeSet::new();
    for line in &lines {
        assert!(line.chars().all(|char| !char.is_control() && !('\u{2028}'..='\u{202e}').contains(&char)), "{line:?}");
        let members = members(line);
        let text = |name: &str| {
            let found = members.iter().find(|(found, _)| found == name);
            found.and_then(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
        };
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&&*text("level")), "{line}");
        assert!(text("timestamp").ends_with('Z') && text("target").contains("::"), "{line}");
        assert_ne!(text("message"), "");
        if text("message") == "script output" {
            let spans = &members.iter().find(|(name, _)| name == "spans").expect("it belongs to a run").1;
            let run = spans.as_array().expect("a list").iter().find(|span| span["name"] == "run").expect("it is one");
            assert_eq!(run["script"], "loud");
            said.insert(text("line"));
        }
    }
    assert!(said.iter().any(|line| line.contains("PRIORITY=0")), "{said:?}");
}

#[test]
fn text_is_what_is_written_where_nothing_else_is_said() {
    let server = Daemon::server().env("JOURNAL_STREAM", "1:1").start();
    assert!(server.wait_log("listening").contains(" INFO listening address="), "stderr is not what systemd says it is");
    let forced = Daemon::server().env("WSDAEMON_LOG_FORMAT", "text").start();
    assert!(forced.wait_log("listening").contains(" INFO listening address="));
}

#[test]
fn a_form_that_is_none_is_refused() {
    let plan = Daemon::server().env("WSDAEMON_LOG_FORMAT", "xml");
    let mut process = plan.spawn();
    assert_eq!(process.wait_exit(DEADLINE).code(), Some(78));
    process.log().wait("WSDAEMON_LOG_FORMAT");
}

#[test]
fn where_there_is_no_journal_it_is_said() {
    if !need_networks() {
        return;
    }
    let without = ["unshare", "--mount", "sh", "-ec", "mount -t tmpfs none /run && exec \"$@\"", "sh"];
    let plan = Daemon::server().started_by(&without).env("WSDAEMON_LOG_FORMAT", "journald");
    let mut process = plan.spawn();
    assert_eq!(process.wait_exit(DEADLINE).code(), Some(69));
    process.log().wait("no log: the journal's socket /run/systemd/journal/socket cannot be used");
}

/// A machine's journal, for a daemon that finds its socket where systemd has it.
struct Journal {
    socket: UnixDatagram,
    process: Process,
    prefix: tempfile::TempDir,
}

impl Journal {
    /// Starts a server with these words of a shell in front.
    fn of(words: &str, environment: &[(&str, &str)]) -> Self {
        let prefix = tempfile::tempdir().expect("a temporary folder can be made");
        let path = prefix.path().join("journal");
        let socket = UnixDatagram::bind(&path).expect("it is ours");
        socket.set_read_timeout(Some(DEADLINE)).expect("it is longer than nothing");
        let config = json!({ "mode": "server", "port": 0, "listen": "127.0.0.1", "local": "off" });
        fs::write(prefix.path().join("config.json"), config.to_string()).expect("it is ours");
        let scripts = prefix.path().join("scripts");
        fs::create_dir(&scripts).expect("it is ours");
        fs::set_permissions(&scripts, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let start = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && ln -s {} /run/systemd/journal/socket && {words} exec {} run",
            path.display(),
            env!("CARGO_BIN_EXE_ws-daemon")
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &start]).env("WSDAEMON_PREFIX", prefix.path());
        command.env_remove("JOURNAL_STREAM").envs(environment.iter().copied());
        Self { socket, process: Process::start("a server with a journal", command), prefix }
    }

    /// The next entry whose message begins so: its fields.
    #[track_caller]
    fn entry(&self, message: &str) -> Vec<String> {
        let until = Instant::now() + DEADLINE;
        let mut datagram = vec![0; 1 << 20];
        loop {
            assert!(Instant::now() < until, "no entry says {message:?}\n{}", self.process.log());
            let received = self.socket.recv(&mut datagram);
            let length = received.unwrap_or_else(|error| panic!("{message:?}: {error}\n{}", self.process.log()));
            let entry = std::str::from_utf8(&datagram[..length]).expect("it is text");
            let lines: Vec<String> = entry.lines().map(str::to_owned).collect();
            assert!(lines.iter().all(|line| line.contains('=')), "{entry}");
            if lines.iter().any(|line| line.starts_with(&format!("MESSAGE={message}"))) {
                return lines;
            }
        }
    }

    fn connect(&self) -> Local {
        let socket = self.prefix.path().join("ws-daemon.sock");
        wait_for("the socket", || socket.exists());
        Local::unix(&socket, self.process.log())
    }
}

#[test]
fn the_journal_gets_entries_with_fields() {
    if !need_networks() {
        return;
    }
    // As systemd has it: stderr is the journal, and the environment says which file that is.
    let auto = "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) && export JOURNAL_STREAM &&";
    for (words, environment) in [(auto, &[][..]), ("", &[("WSDAEMON_LOG_FORMAT", "journald")])] {
        let mut journal = Journal::of(words, environment);
        let entry = journal.entry("listening");
        for line in ["PRIORITY=6", "SYSLOG_IDENTIFIER=ws-daemon", "TARGET=ws_daemon::daemon::listening"] {
            assert!(entry.iter().any(|found| found == line), "{line} is not in {entry:?}");
        }
        let address = entry.iter().find_map(|line| line.strip_prefix("WSDAEMON_ADDRESS=")).expect("it says where");
        assert!(entry.contains(&format!("MESSAGE=listening address={address}")), "{entry:?}");
        journal.connect().result("LOG", &json!({ "filter": "debug" }));
        assert!(journal.entry("the log goes by this filter").contains(&"WSDAEMON_FILTER=debug".to_owned()));
        journal.process.signal(Signal::TERM);
        journal.entry("told to stop");
        assert_eq!(journal.process.wait_exit(DEADLINE).code(), Some(0));
        assert_eq!(journal.process.log().lines(""), [""; 0], "and nothing on stderr");
    }
}

#[test]
fn what_is_logged_is_changed_while_the_daemon_runs() {
    let server = Daemon::server().env("WSDAEMON_LOG", "info").start();
    let usual = json!({ "filter": "info", "usual": "info", "left": null });
    assert_eq!(log(&server, &Value::Null), usual);

    // One module, and no other.
    let trace = json!({ "filter": "info,ws_daemon::link=trace" });
    assert_eq!(log(&server, &trace), json!({ "filter": "info,ws_daemon::link=trace", "usual": "info", "left": null }));
    let bad_frames = || {
        let mut peer = Peer::dial(&server);
        // The first one of a link is worth a warning.
        for _ in 0..2 {
            peer.send_text("what?");
        }
    };
    bad_frames();
    server.wait_log("link down");
    assert_eq!(server.log().count("DEBUG"), 1, "{}", server.log());
    server.wait_log("bad frame passed over");
    assert_eq!(log(&server, &json!({ "filter": "usual" })), usual);
    bad_frames();
    server.wait_log_times("link down", 2);
    assert_eq!(server.log().count("DEBUG"), 1, "{}", server.log());

    // For a while.
    let said = log(&server, &json!({ "filter": "off", "for": "50ms" }));
    assert!(said["filter"] == "off" && said["left"].as_u64().is_some_and(|left| left <= 50), "{said}");
    server.wait_log_times("the log goes by this filter filter=\"info\"", 2);
    assert_eq!(log(&server, &Value::Null), usual);

    // What is no filter changes nothing.
    for filter in ["loud", "", "info,ws_daemon=loud"] {
        let refused = server.connect().command("LOG", &json!({ "filter": filter }));
        assert_eq!((&refused["status"], &refused["error"]), (&json!(-3), &json!("bad_message")), "{refused}");
    }
    assert_eq!(log(&server, &Value::Null), usual);
    assert_eq!(server.told(&["log-level", "debug", "--for", "1h"]).split(';').next_back(), Some(" then info"));
    assert_eq!(server.told(&["log-level", "usual"]), "info");
}

#[test]
fn a_reload_takes_up_the_level_and_ends_what_was_for_a_while() {
    let server = Daemon::server().env("WSDAEMON_LOG", "").config(json!({ "log": "warn,ws_daemon=info" })).start();
    let config = server.prefix().join("config.json");
    let write = |more: &str| {
        let mut config_now: Value = serde_json::from_slice(&fs::read(&config).expect("it is there")).expect("JSON");
        config_now["log"] = more.into();
        fs::write(&config, config_now.to_string()).expect("it is ours");
    };
    let reload = || server.connect().command("RELOAD", &Value::Null);
    log(&server, &json!({ "filter": "trace" }));
    assert_eq!(reload()["result"], json!({ "changed": [], "restart": [] }));
    assert_eq!(log(&server, &Value::Null)["filter"], "trace", "the settings say nothing new");
    write("debug");
    assert_eq!(reload()["result"], json!({ "changed": ["log"], "restart": [] }));
    assert_eq!(log(&server, &Value::Null), json!({ "filter": "debug", "usual": "debug", "left": null }));
    write("loud");
    let refused = reload();
    assert!(
        refused["message"].as_str().is_some_and(|why| why.contains("nothing was changed") && why.contains("loud")),
        "{refused}"
    );
    assert_eq!(log(&server, &Value::Null)["filter"], "debug");
}
