//! The daemon in a container: its start-up as the first process of a process namespace, and the local conversation by
//! TCP, in a network namespace of its own wherever port 9007 itself is meant.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Daemon, DaemonPlan, Fifo, Peer, Watched, children, need_namespaces, need_tool, run, wait_for};

const STOPS: Duration = Duration::from_secs(10);

/// Makes what is started the first process of a process namespace, as a container engine does.
const FIRST: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Leaves a child that ends when it is let go, and so is nobody's until the first process reaps it.
const ORPHAN: &str = "#!/bin/sh\n(echo > said; read -r go < go) >/dev/null 2>&1 &\nexit 2\n";

// ---- The start -------------------------------------------------------------------------------------------------

#[test]
fn the_first_process_runs_setup_makes_scripts_executable_and_passes_the_order_to_stop_on() {
    // Makes a script, and shows where it ran and that it ran before anything else.
    const SETUP: &str = "pwd > setup-ran\nls -A > setup-saw\nid -u > /dev/null\n\
        mkdir scripts\nprintf '#!/bin/sh\\nexit 7\\n' > scripts/made\nmkdir scripts/deep\ncp scripts/made scripts/deep/made\n";
    if !need_namespaces() {
        return;
    }
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let plan = first_process(Daemon::server());
        fs::write(plan.prefix().join("setup.sh"), SETUP).expect("the prefix is ours to write");
        let mut container = plan.start();
        let prefix = container.prefix();
        assert_eq!(Path::new(text(prefix, "setup-ran").trim()), prefix, "setup.sh runs in the prefix");
        assert_eq!(text(prefix, "setup-saw"), "config.json\nsetup-ran\nsetup-saw\nsetup.sh\n", "before there is a socket");
        assert_eq!(fs::metadata(prefix.join("setup.sh")).expect("it is there").permissions().mode() & 0o111, 0, "x bit or not");
        let mut peer = Peer::dial(&container);
        assert_eq!(peer.ask(r#"{"name":"made"}"#), r#"{"status":7}"#);
        assert_eq!(peer.ask(r#"{"name":"deep/made"}"#), r#"{"status":7}"#);

        kill_process(first(&container), signal).expect("it is there");
        container.wait_log(&format!("told to stop signal=\"{name}\""));
        assert_eq!(container.wait_exit(STOPS).code(), Some(0));
        assert!(!container.socket().exists(), "it stopped in order");
    }
}

#[test]
fn the_first_process_reaps_what_scripts_leave_behind() {
    const ORPHANS: usize = 10;
    if !need_namespaces() {
        return;
    }
    let plan = first_process(Daemon::server()).script("orphan", ORPHAN);
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let container = plan.start();
    let first = first(&container);
    let daemon = children(first);
    assert_eq!(daemon.len(), 1, "the daemon is its only child");
    let mut peer = Peer::dial(&container);
    for _ in 0..ORPHANS {
        assert_eq!(peer.ask(r#"{"name":"orphan"}"#), r#"{"status":2}"#);
        said.line();
    }
    wait_for("the orphans to be the first process's children", || children(first).len() == 1 + ORPHANS);
    go.release(ORPHANS);
    wait_for("the orphans to be reaped", || children(first) == daemon);
    assert_eq!(peer.ask(r#"{"name":"orphan"}"#), r#"{"status":2}"#, "the daemon is as well as before");
}

#[test]
fn the_containers_end_is_the_daemons_and_nothing_outlives_it() {
    if !need_namespaces() {
        return;
    }
    let plan = first_process(Daemon::server()).script("orphan", ORPHAN);
    let _pipes = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let mut container = plan.start();
    let first = first(&container);
    assert_eq!(Peer::dial(&container).ask(r#"{"name":"orphan"}"#), r#"{"status":2}"#);
    let inside: Vec<Watched> = children(first).into_iter().map(|pid| Watched::new(&pid.as_raw_nonzero().to_string())).collect();
    inside.iter().find(|child| child.pid() == daemon_of(first)).expect("the daemon is one of them").signal(Signal::KILL);
    assert_eq!(container.wait_exit(STOPS).code(), Some(128 + 9), "as a shell has it");
    inside.iter().for_each(Watched::wait_end);
}

#[test]
fn a_container_can_be_stopped_while_its_setup_runs() {
    if !need_namespaces() {
        return;
    }
    let plan = first_process(Daemon::server());
    fs::write(plan.prefix().join("setup.sh"), "echo > said\nread -r go < go\n").expect("the prefix is ours to write");
    let (mut said, _go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let mut process = plan.spawn();
    said.line();
    kill_process(children(process.pid())[0], Signal::TERM).expect("it is there");
    assert_eq!(process.wait_exit(STOPS).code(), Some(128 + 15));
    assert_eq!(process.log().count("socket ready"), 0);
}

#[test]
fn scripts_that_belong_to_another_user_are_taken_as_they_are() {
    const ANOTHER: u32 = 12_345;
    if !(need_namespaces() && need_tool("setpriv")) {
        return;
    }
    // Root without the right to change what is another's: as little as a daemon that is not root has.
    let plan = Daemon::server().script("ready", "#!/bin/sh\nexit 1\n").script("plain", "#!/bin/sh\nexit 1\n");
    let plan = plan.started_by(&["setpriv", "--bounding-set=-fowner", "--inh-caps=-fowner"]).arguments(&["container"]);
    for (name, mode) in [("ready", 0o755), ("plain", 0o644)] {
        let script = plan.prefix().join("scripts").join(name);
        fs::set_permissions(&script, fs::Permissions::from_mode(mode)).expect("it is ours");
        chown(&script, Some(ANOTHER), None).expect("root may");
    }
    let container = plan.start();
    let mut peer = Peer::dial(&container);
    assert_eq!(peer.ask(r#"{"name":"ready"}"#), r#"{"status":1}"#);
    assert!(peer.ask(r#"{"name":"plain"}"#).contains("not_executable"));
}

#[test]
fn a_setup_that_fails_is_the_containers_end() {
    for (setup, status) in [("exit 7\n", 7), ("kill -9 $$\n", 128 + 9), ("no-such-command\n", 127)] {
        let plan = Daemon::server().arguments(&["container"]);
        fs::write(plan.prefix().join("setup.sh"), setup).expect("the prefix is ours to write");
        let mut process = plan.spawn();
        process.log().wait("setup.sh failed");
        assert_eq!(process.wait_exit(STOPS).code(), Some(status), "{setup}");
        assert_eq!(process.log().count("socket ready"), 0, "no daemon without its setup");
    }
    if need_namespaces() {
        let plan = first_process(Daemon::server());
        fs::write(plan.prefix().join("setup.sh"), "exit 7\n").expect("the prefix is ours to write");
        assert_eq!(plan.spawn().wait_exit(STOPS).code(), Some(7));
    }
}

#[test]
fn where_another_is_the_first_process_the_start_becomes_the_daemon() {
    let plan = Daemon::server().arguments(&["container"]).script("run", "#!/bin/sh\nexit 1\n");
    fs::set_permissions(plan.prefix().join("scripts/run"), fs::Permissions::from_mode(0o644)).expect("it is ours");
    fs::write(plan.prefix().join("setup.sh"), "touch setup-ran\n").expect("the prefix is ours to write");
    let mut daemon = plan.start();
    assert!(daemon.prefix().join("setup-ran").exists());
    assert_eq!(children(daemon.pid()), [], "it is the daemon itself");
    assert_eq!(Peer::dial(&daemon).ask(r#"{"name":"run"}"#), r#"{"status":1}"#);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
}

// ---- 9007 ------------------------------------------------------------------------------------------------------

#[test]
fn signs_of_a_container_open_9007_to_its_own_machine_and_who_finds_it_taken_is_warned() {
    if !need_namespaces() {
        return;
    }
    let first = in_a_network(Daemon::server()).env("WSDAEMON_LOCAL", "").script("run", "#!/bin/sh\nexit 1\n").start();
    assert_eq!(first.local_address(), "127.0.0.1:9007");
    first.connect();
    assert_eq!(say_to_9007(&first, r#"{"name":"none","id":1}"#), r#"{"status":-2,"id":1}"#);

    // Guessed and taken: a warning is all.
    let beside = beside(&first, Daemon::server()).env("WSDAEMON_LOCAL", "").start();
    beside.wait_log("WARN this looks like a container");
    beside.connect();
    assert_eq!(beside.log().count("local TCP ready"), 0);
    say_to_9007(&first, r#"{"name":"none","id":1}"#);

    // Asked for and taken: no daemon that is not what was asked for.
    let asking = self::beside(&first, Daemon::server()).env("WSDAEMON_LOCAL", "127.0.0.1:9007");
    let mut asking = asking.spawn();
    asking.log().wait("cannot listen on 127.0.0.1:9007");
    assert_eq!(asking.wait_exit(STOPS).code(), Some(69));
    assert_eq!(asking.log().count("local socket ready"), 0);
}

#[test]
fn the_image_asks_for_9007_on_every_address() {
    if !need_namespaces() {
        return;
    }
    let asked = in_a_network(Daemon::server()).env("WSDAEMON_LOCAL", "0.0.0.0:9007").start();
    assert_eq!(asked.local_address(), "0.0.0.0:9007");
    assert_eq!(say_to_9007(&asked, r#"{"name":"none","id":1}"#), r#"{"status":-2,"id":1}"#);
    let off = in_a_network(Daemon::server()).env("WSDAEMON_LOCAL", "off").start();
    assert_eq!(off.log().count("local TCP ready"), 0, "off is off, signs or not");
}

#[test]
fn by_tcp_and_by_the_socket_each_connection_has_its_own_answers() {
    let daemon = Daemon::server().env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    let mut peer = Peer::dial(&daemon);
    let (mut by_tcp, mut by_socket) = (daemon.connect_tcp(), daemon.connect());
    by_tcp.send(r#"{"name":"t","id":"x","params":1}"#);
    peer.text();
    by_socket.send(r#"{"name":"t","id":"x","params":2}"#);
    let second: Value = serde_json::from_str(&peer.text()).expect("a frame is JSON");
    let status = |status: u8, id: &Value| json!({"name":"&cmd","params":{"code":"STATUS","data":{"status":status,"id":id}}});
    peer.send_text(&status(2, &second["id"]).to_string());
    peer.send_text(&status(1, &json!("x")).to_string());
    assert_eq!(by_socket.line(), r#"{"status":2,"id":"x"}"#);
    assert_eq!(by_tcp.line(), r#"{"status":1,"id":"x"}"#);
    by_tcp.nothing_waiting();
    by_socket.nothing_waiting();
}

#[test]
fn the_first_bad_message_by_tcp_is_answered_and_nothing_after_it_is_read() {
    let daemon = Daemon::server().env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    let mut peer = Peer::dial(&daemon);
    let request = r#"{"name":"t","id":"hidden"}"#;
    let posted = format!("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 26\r\n\r\n{request}\n");
    for bad in
        [posted.as_str(), "{\"name\":}\n{\"name\":\"t\"}\n", "{\"name\":7}\n{\"name\":\"t\"}\n", "[]\n{\"name\":\"t\"}\n"]
    {
        let mut local = daemon.connect_tcp();
        let answer = local.ask(bad);
        assert!(answer.starts_with(r#"{"status":-3,"error":"bad_message","message":""#), "{bad:?}: {answer}");
        local.eof();
    }
    peer.nothing_waiting();

    // However much stands behind it, the answer is not lost to a reset.
    let mut local = daemon.connect_tcp();
    let answer = local.ask(&format!("POST / HTTP/1.1\r\n\r\n{}", request.repeat(10_000)));
    assert!(answer.contains("bad_message"), "{answer}");
    local.half_close();
    local.eof();
    peer.nothing_waiting();

    // What came before it has its answer.
    let mut local = daemon.connect_tcp();
    local.send(r#"{"name":"t","id":"before"}"#);
    peer.text();
    assert!(local.ask("GET / HTTP/1.1\r\n\r\n").contains("bad_message"));
    peer.send_text(r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":3,"id":"before"}}}"#);
    assert_eq!(local.line(), r#"{"status":3,"id":"before"}"#);
    local.eof();
}

// ---- What they have in common ----------------------------------------------------------------------------------

fn first_process(plan: DaemonPlan) -> DaemonPlan {
    plan.started_by(&FIRST).arguments(&["container"])
}

/// The first process of a container, by its number outside.
fn first(container: &Daemon) -> Pid {
    let started = children(container.pid());
    assert_eq!(started.len(), 1, "unshare has one child\n{}", container.log());
    started[0]
}

/// The daemon among the children of the first process: the eldest.
fn daemon_of(first: Pid) -> Pid {
    *children(first).iter().min_by_key(|pid| pid.as_raw_nonzero()).expect("the daemon is there")
}

/// In a network of its own, with the signs of a container.
fn in_a_network(plan: DaemonPlan) -> DaemonPlan {
    const SIGNS: &str = "ip link set lo up && mount -t tmpfs none /run && : > /run/.containerenv && exec \"$@\"";
    plan.started_by(&["unshare", "--net", "--mount", "/bin/sh", "-c", SIGNS, "sh"])
}

/// In the network of another one.
fn beside(other: &Daemon, plan: DaemonPlan) -> DaemonPlan {
    plan.started_by(&["nsenter", "--target", &other.pid().as_raw_nonzero().to_string(), "--net", "--mount"])
}

/// What port 9007 of a daemon's network answers first.
fn say_to_9007(daemon: &Daemon, text: &str) -> String {
    const SAY: &str = "exec 3<>/dev/tcp/127.0.0.1/9007 && printf %s \"$1\" >&3 && head -n 1 <&3";
    let mut command = Command::new("nsenter");
    command.args(["--target", &daemon.pid().as_raw_nonzero().to_string(), "--net"]);
    command.args(["timeout", "20", "bash", "-c", SAY, "bash", text]);
    let output = run(command);
    assert!(output.status.success(), "{output:?}\n{}", daemon.log());
    String::from_utf8(output.stdout).expect("lines are UTF-8").trim_end().to_owned()
}

fn text(prefix: &Path, file: &str) -> String {
    fs::read_to_string(prefix.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
