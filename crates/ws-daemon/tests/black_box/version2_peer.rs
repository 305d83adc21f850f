//! A peer that was written from docs/protocol.md alone (tests/stand-ins/version2_peer.py), in front of our server; and the golden
//! conversation of each version of the link, replayed by a scripted peer; and the golden spools, taken up by a daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{DEADLINE, Daemon, Ids, Peer, Process, daemons_say, need_tool, wait_for, write_executable};

/// The peer in Python, and its folder.
struct Written {
    process: Process,
    folder: TempDir,
}

impl Written {
    fn start(server: &Daemon) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let process = Self::run(server, folder.path());
        server.wait_log("link up");
        Self { process, folder }
    }

    fn run(server: &Daemon, folder: &Path) -> Process {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins/version2_peer.py"));
        command.args(["--name", "snake", "--server", &format!("127.0.0.1:{}", server.port())]);
        command.arg("--state").arg(folder.join("state")).arg("--scripts").arg(folder.join("scripts"));
        Process::start("the peer in Python", command)
    }

    fn script(&self, name: &str, body: &str) {
        write_executable(&self.folder.path().join("scripts").join(name), &format!("#!/bin/sh\n{body}\n"));
    }

    /// A script that notes each of its starts, then waits for a file.
    fn waiting(&self, name: &str, then: &str) {
        let start = "echo started >> ../starts; until [ -e ../go ]; do sleep 0.02; done";
        self.script(name, &format!("{start}; {then}"));
    }

    fn go(&self) {
        fs::write(self.folder.path().join("go"), "").expect("the folder is ours");
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.folder.path().join("starts")).unwrap_or_default().lines().count()
    }
}

fn value(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn a_peer_written_from_the_page_does_direct_runs() {
    if !need_tool("python3") {
        return;
    }
    let server = Daemon::server().start();
    let snake = Written::start(&server);
    let mut process = server.connect();
    snake.script("say", "echo \"$WSDAEMON_ID says $1\"; printf '\\377' >&2; exit 7");
    snake.script("loud", "head -c 1000000 /dev/zero | tr '\\0' x");
    snake.script("slow", "sleep 60");
    assert_eq!(process.ask(r#"{"name":"say","id":"plain","params":{"a" : 1}}"#), r#"{"status":7,"id":"plain"}"#);
    let tail = value(&process.ask(r#"{"name":"say","id":"ta\"il","params":[1],"to":"snake","output":"tail"}"#));
    assert_eq!((&tail["status"], &tail["stdout"], &tail["peer"]), (&json!(7), &json!("ta\"il says [1]\n"), &json!("snake")));
    process.send(r#"{"name":"loud","id":1,"output":"stream","events":true}"#);
    let lines: Vec<Value> =
        std::iter::repeat_with(|| value(&process.line())).take_while(|line| line["status"].is_null()).collect();
    let steps: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).filter(|event| *event != "output").collect();
    assert_eq!(steps, ["delivered", "started"]);
    let bytes = |line: &Value| line["data"].as_str().map_or(0, str::len) as u64;
    let mut at = 0;
    for line in lines.iter().filter(|line| line["event"] == "output") {
        assert_eq!((&line["offset"], &line["gap"]), (&json!(at), &Value::Null), "more credit was used than was given");
        at += bytes(line);
    }
    assert_eq!(at, 1_000_000);
    let stopped = value(&process.ask(r#"{"name":"slow","id":2,"timeout":"50ms","to":"snake"}"#));
    assert_eq!((&stopped["status"], &stopped["error"]), (&json!(-4), &json!("timed_out")), "{stopped}");
    process.send(r#"{"name":"slow","id":3,"events":true}"#);
    for event in ["delivered", "started"] {
        assert_eq!(value(&process.line())["event"], event);
    }
    process.send(r#"{"name":"+cmd","id":4,"params":{"code":"CANCEL","data":{"id":3}}}"#);
    let both = [value(&process.line()), value(&process.line())];
    assert!(both.contains(&json!({ "status": 0, "id": 4 })), "{both:?}");
    assert!(both.iter().any(|line| line["status"] == -4 && line["error"] == "cancelled"), "{both:?}");
    let pong = value(&process.ask(r#"{"name":"+cmd","id":5,"params":{"code":"PING","data":"snake"}}"#));
    assert_eq!((&pong["status"], &pong["peer"]), (&json!(0), &json!("snake")), "{pong}");
    let none = value(&process.ask(r#"{"name":"none","id":6}"#));
    assert_eq!(none["error"], "not_found");
}

#[test]
fn a_peer_written_from_the_page_does_queued_runs_once_whatever_becomes_of_its_links() {
    if !need_tool("python3") {
        return;
    }
    let server = Daemon::server().start();
    let mut snake = Written::start(&server);
    let mut process = server.connect();
    snake.waiting("once", "echo done; exit 3");
    process.send(r#"{"name":"once","id":"q","queue":true,"output":"stream","events":true}"#);
    for event in ["accepted", "delivered", "started"] {
        assert_eq!(value(&process.line())["event"], event);
    }
    // Cut while it runs: it is offered again by the next link, and runs on.
    snake.process.signal(Signal::USR1);
    server.wait_log_times("link up", 2);
    snake.process.log().wait_times("\"event\":\"delivered\"", 2);
    snake.go();
    let output = value(&process.line());
    assert_eq!((&output["event"], &output["data"]), (&json!("output"), &json!("done\n")), "{output}");
    assert_eq!(value(&process.line())["status"], 3);
    snake.process.log().wait("\"code\":\"ACK\"");
    assert_eq!(snake.starts(), 1);
    // Killed while it runs: nobody knows, and it is not begun again.
    fs::remove_file(snake.folder.path().join("go")).expect("it is there");
    process.send(r#"{"name":"once","id":"killed","queue":true,"events":true}"#);
    for event in ["accepted", "delivered", "started"] {
        assert_eq!(value(&process.line())["event"], event);
    }
    snake.process.kill();
    snake.process = Written::run(&server, snake.folder.path());
    let unknown = value(&process.line());
    assert_eq!((&unknown["status"], &unknown["error"]), (&json!(-5), &json!("interrupted")), "{unknown}");
    snake.go();
    // What waits while nobody is there is done when somebody is.
    snake.process.kill();
    server.wait_log_times("link down", 3);
    process.send(r#"{"name":"once","id":"later","queue":true,"to":"snake"}"#);
    assert_eq!(value(&process.line())["event"], "accepted");
    snake.process = Written::run(&server, snake.folder.path());
    assert_eq!(value(&process.line())["status"], 3);
    process.nothing_waiting();
}

// ---- What earlier versions said and kept -----------------------------------------------------------------------

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The files in the golden folder whose names begin so.
fn goldens(beginning: &str) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(golden()).expect("it is there").map(|entry| entry.expect("readable").path());
    let named = |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
    let found: Vec<_> = files.filter(named).collect();
    assert!(!found.is_empty(), "no {beginning} is kept");
    found
}

#[test]
fn the_peer_of_each_earlier_version_is_understood_and_understands() {
    for file in goldens("link-") {
        let text = fs::read_to_string(&file).expect("readable");
        let steps: Vec<[String; 2]> = serde_json::from_str(&text).expect("a list of who and what");
        assert!(steps.len() > 20, "{} has lost its steps", file.display());
        let server =
            Daemon::server().config(json!({ "name": "hub" })).script("say", "#!/bin/sh\necho \"$1\"\nexit 5\n").start();
        let mut process = server.connect();
        let dial = || Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("version 2 is spoken for ever");
        let (mut peer, mut ids, mut links) = (dial(), Ids::default(), 0);
        for [who, what] in &steps {
            match &**who {
                "peer" => peer.send_text(&ids.today(what)),
                "daemon" => ids.says(&value(what), &value(&peer.text())),
                "process" => process.send(ids.today(what)),
                "answer" => ids.says(&value(what), &value(&process.line())),
                "up" => {
                    links += 1;
                    server.wait_log_times("link up", links);
                }
                "cut" => {
                    peer.reset();
                    server.wait_log_times("link down", links);
                    peer = dial();
                }
                other => panic!("nobody is called {other}"),
            }
        }
        peer.nothing_waiting();
        process.nothing_waiting();
    }
}

#[test]
fn what_each_earlier_version_kept_is_done_once_by_this_one() {
    for file in goldens("spool-") {
        let script = "#!/bin/sh\necho \"$1\" >> \"$WSDAEMON_PREFIX/done\"\nexit 9\n";
        let plan = Daemon::server().script("golden", script);
        fs::copy(&file, plan.prefix().join("spool-server-0.db")).expect("the prefix is ours");
        let server = plan.start();
        assert_eq!(server.log().count("damaged"), 0, "{}", server.log());
        let client = Daemon::client(&server).script("golden", script).start();
        let mut process = server.connect();
        let run = r#"{"name":"+cmd","id":1,"params":{"code":"RUN","data":"0190a000-0000-7000-8000-000000009999"}}"#;
        let ask = std::cell::RefCell::new(move || value(&process.ask(run))["result"].clone());
        wait_for("the golden run to be settled", || (ask.borrow_mut())()["state"] == "settled");
        assert_eq!((ask.borrow_mut())()["status"], 9);
        let client = client.kill().start();
        client.wait_log("link up");
        server.wait_log_times("link up", 2);
        server.wait_log("queued run over run=0190a000-0000-7000-8000-000000008888");
        for daemon in [&server, &client] {
            let done = fs::read_to_string(daemon.prefix().join("done")).expect("it ran");
            assert_eq!(done, "{\"kept\":1.50}\n", "what was asked and what was claimed, each once");
        }
    }
}

/// What a golden sample of the protocol crate has: its event, and the names of its keys.
fn shape(line: &Value) -> (String, Vec<String>) {
    let keys = line.as_object().expect("an object").keys().cloned().collect();
    (line["event"].as_str().expect("a word").to_owned(), keys)
}

#[test]
fn what_subscribers_hear_is_what_the_samples_say() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ws-daemon-protocol/tests/golden/0.2.0");
    let sample = |name: &str| value(&fs::read_to_string(samples.join(name)).expect("a sample"));
    let server = Daemon::server().start();
    let mut process = server.connect();
    let mut listener = server.connect();
    assert_eq!(
        listener.ask(r#"{"name":"+cmd","id":1,"params":{"code":"SUBSCRIBE","data":["runs","peers"]}}"#),
        r#"{"status":0,"id":1}"#
    );
    let mut heard = |name: &str| {
        let line = value(&listener.line());
        assert_eq!(shape(&line), shape(&sample(name)), "{line}");
        line
    };
    let hello = json!({ "name": "web", "instance": "7db47eb1-a92b-4df1-bfb2-77eca2061ade", "epoch": 1, "features": ["queue"] });
    let mut peer = Peer::dial_version2(&server, &hello);
    assert_eq!(heard("news-peer-online.json")["peer"], "web");
    process.send(r#"{"name":"t","id":"x","queue":{"ttl":"300ms"}}"#);
    assert_eq!(value(&process.line())["event"], "accepted");
    let run = value(&peer.text())["id"].clone();
    assert_eq!(heard("news-running.json")["run"], run);
    let given_up = value(&process.line());
    assert_eq!((&given_up["status"], &given_up["error"]), (&json!(-5), &json!("interrupted")), "{given_up}");
    assert_eq!(heard("news-settled.json")["report"]["status"], -5);
    // Its ttl is over, and it was said to be unknown; now the truth comes.
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 3, "id": run, "attempt": 1 })));
    assert_eq!(heard("news-corrected.json")["report"]["status"], 3);
    let mut next = value(&peer.text());
    while next["params"]["code"] == "CANCEL" {
        next = value(&peer.text());
    }
    assert_eq!((&next["params"]["code"], &next["params"]["data"]["id"]), (&json!("ACK"), &run));
    let record = value(&process.ask(r#"{"name":"+cmd","id":2,"params":{"code":"RUN","data":{"id":"x"}}}"#));
    assert_eq!((&record["result"]["status"], &record["result"]["correction"]["status"]), (&json!(-5), &json!(3)), "{record}");
    process.nothing_waiting();
    peer.reset();
    assert_eq!(heard("news-peer-offline.json")["peer"], "web");
}

#[test]
fn a_spool_of_a_later_version_is_refused_in_words() {
    for plan in [Daemon::server(), Daemon::client_of(9)] {
        for spool in ["spool-server-0.db", "spool-client-9.db"] {
            fs::copy(golden().join("later-spool.db"), plan.prefix().join(spool)).expect("the prefix is ours");
        }
        let mut process = plan.spawn();
        let line = process.log().wait("use the newer program");
        assert!(line.contains("spool-"), "{line}");
        let status = process.wait_exit(DEADLINE);
        assert!(!status.success(), "{status}");
    }
}
