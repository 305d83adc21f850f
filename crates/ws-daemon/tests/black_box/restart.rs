//! Restarts that refuse nobody: by RESTART, by a service manager that keeps the sockets, and beside another daemon on the same port.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, DaemonPlan, EXIT, Fifo, Local, Peer, Watched, Web, daemons_say, exit};

const STOPS: Duration = Duration::from_secs(10);

/// Stands for systemd: has a port and a socket file, gives them to the daemon, and starts it again when it has ended. It is told where the
/// socket file is to be.
const MANAGER: &str = r#"
import fcntl, os, socket, sys
path, names, program = sys.argv[1], sys.argv[2], sys.argv[3:]
port = socket.create_server(("127.0.0.1", 0), backlog=1024)
unix = socket.socket(socket.AF_UNIX)
unix.bind(path)
unix.listen(1024)
kept = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 100) for s in (port, unix)]
print("manager ready", flush=True)
sys.stdin = open(path + ".go")
while True:
    child = os.fork()
    if child == 0:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, 3 + number)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
        if names:
            os.environ.update(LISTEN_FDNAMES=names)
        os.execv(program[0], program)
    print("started pid=%d" % child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
    sys.stdin.readline()
"#;

/// Stands for systemd with `FileDescriptorStoreMax=`: keeps what it is given on the notification socket at its first argument, and gives it to
/// the daemon that it starts again.
const STORE: &str = r#"
import fcntl, os, select, socket, sys
path, program = sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
store = {}
def hear():
    data, given, _, _ = socket.recv_fds(notify, 4096, 16)
    words = dict(line.split("=", 1) for line in data.decode().split("\n") if "=" in line)
    if words.get("FDSTORE") == "1":
        store[words["FDNAME"]] = given[0]
    if words.get("FDSTOREREMOVE") == "1":
        [os.close(kept) for kept in [store.pop(words["FDNAME"], None)] if kept is not None]
while True:
    child = os.fork()
    if child == 0:
        high = [fcntl.fcntl(kept, fcntl.F_DUPFD, 100) for kept in store.values()]
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + number)
        os.environ.update(NOTIFY_SOCKET=path, FDSTORE="64")
        if store:
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(store)), LISTEN_FDNAMES=":".join(store))
        os.execv(program[0], program)
    print("started pid=%d" % child, flush=True)
    ends = os.pidfd_open(child)
    while ends not in select.select([notify, ends], [], [])[0] or select.select([notify], [], [], 0)[0]:
        hear()
    os.waitpid(child, 0)
    print("stored=%s." % " ".join(sorted(store)), flush=True)
"#;

/// A server of ours under such a manager, which calls the sockets so.
fn managed(plan: DaemonPlan, names: &str) -> (Daemon, Fifo) {
    let path = plan.prefix().join("given.sock");
    let go = Fifo::new(plan.prefix(), "given.sock.go");
    (plan.started_by(&["python3", "-c", MANAGER, path.to_str().expect("UTF-8"), names]).start(), go)
}

#[test]
fn sockets_of_a_service_manager_are_used_and_whoever_comes_between_two_lives_waits() {
    // Without names, and where both have that of their unit, each is known by what it is.
    for names in ["port:socket", "", "ws-daemon.socket:ws-daemon.socket"] {
        outlives_its_sockets(names);
    }
}

#[track_caller]
fn outlives_its_sockets(names: &str) {
    let plan = Daemon::server().script("exit", EXIT).config(json!({ "port": 1 }));
    let (server, mut go) = managed(plan, names);
    let socket = server.socket().to_owned();
    assert!(socket.ends_with("given.sock") && !server.prefix().join("ws-daemon.sock").exists());
    let mut peer = Peer::dial(&server);
    assert_eq!(peer.ask(r#"{"name":"exit","id":1,"params":{"exit":4}}"#), r#"{"status":4,"id":1}"#);
    let pid = |line: String| line.rsplit_once("pid=").map(|(_, pid)| Watched::new(pid)).expect("it says which");
    let first = pid(server.wait_log("started pid="));
    first.signal(Signal::TERM);
    first.wait_end();
    server.wait_log("ended");
    assert!(socket.exists(), "it is the manager's");
    // Nobody is there, and nobody is refused.
    let waiting = UnixStream::connect(&socket).expect("the manager listens");
    let dialling = std::net::TcpStream::connect(("127.0.0.1", server.port())).expect("the manager listens");
    go.release(1);
    let second = pid(server.wait_log_times("started pid=", 2));
    let mut local = Local::of(waiting, server.log());
    assert_eq!(local.ask(&exit("1", 0)), r#"{"status":-2,"id":1}"#);
    drop(dialling);
    let mut peer = Peer::dial(&server);
    local.send(exit("2", 0));
    peer.text();
    drop((peer, local));
    second.signal(Signal::TERM);
    second.wait_end();
}

#[test]
fn what_a_service_manager_stores_goes_on_in_the_life_that_it_starts() {
    let plan = Daemon::server().script("exit", EXIT);
    let path = plan.prefix().join("notify");
    let server = plan.started_by(&["python3", "-c", STORE, path.to_str().expect("UTF-8")]).start();
    let pid = |line: String| line.rsplit_once("pid=").map(|(_, pid)| Watched::new(pid)).expect("it says which");
    let mut lives = vec![pid(server.wait_log("started pid="))];
    let (mut local, mut other) = (server.connect(), server.connect());
    for life in 1..=2 {
        local.send(r#"{"name":"nobody","#);
        other.result("STATS", &Value::Null);
        lives[life - 1].signal(Signal::TERM);
        let stored = server.wait_log_times("stored=", life);
        assert_eq!(stored, "stored=connection-0 connection-1 handover port socket.", "{}", server.log());
        lives.push(pid(server.wait_log_times("started pid=", life + 1)));
        server.wait_log_times(READY, life + 1);
        assert_eq!(local.ask(r#""id":"x"}"#), r#"{"status":-2,"id":"x"}"#);
        // The same port, which was never closed.
        Peer::dial(&server);
    }
    let last = &lives[2];
    last.signal(Signal::KILL);
    last.wait_end();
}

#[test]
fn whoever_asks_over_http_is_answered_by_one_life_or_the_next() {
    let server = Daemon::server().script("exit", EXIT).config(json!({ "http": "127.0.0.1:0" })).start();
    let client = Daemon::client(&server).script("exit", EXIT).config(json!({ "http": "127.0.0.1:0" })).start();
    client.wait_log("link up");
    server.wait_log("link up");
    for daemon in [&server, &client] {
        let line = daemon.wait_log("HTTP ready");
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("it says where");
        let token = daemon.told(&["callers", "add", "ci"]);
        let (mut asking, over) = (daemon.connect(), AtomicBool::new(false));
        let asked = thread::scope(|scope| {
            let asks = scope.spawn(|| {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    // As curl does: a connection for each.
                    let reply = Web::tcp(address).token(&token).post("/api/v1/run/exit", r#"{"exit":7}"#);
                    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!(7)), "{reply:?}\n{}", daemon.log());
                    asked += 1;
                }
                asked
            });
            for _ in 0..3 {
                restart(daemon, &mut asking);
            }
            over.store(true, Ordering::Relaxed);
            asks.join().expect("all were answered")
        });
        assert!(asked > 3);
    }
}

#[test]
fn an_address_that_is_another_one_by_then_is_that_of_the_next_life() {
    let server = Daemon::server().config(json!({ "http": "127.0.0.1:0" })).start();
    let mut asking = server.connect();
    // The same as before: nobody who connects meanwhile is refused.
    restart(&server, &mut asking);
    assert_eq!(server.log().lines("listening")[1].rsplit_once("given=").map(|(_, given)| given), Some("true"));
    server.reconfigure(json!({ "listen": "127.0.0.2", "http": null }));
    server.wait_log("at the next start alone settings=\"http listen\"");
    restart(&server, &mut asking);
    let listening = server.log().lines("listening");
    assert!(listening[2].contains("address=127.0.0.2:") && !listening[2].contains("given"), "{listening:?}");
    assert_eq!(server.log().count("HTTP ready"), 2, "and there is no third one");
    std::net::TcpStream::connect(("127.0.0.1", server.port())).expect_err("the port of before is closed");
}

#[test]
fn two_daemons_share_a_port_and_who_waited_at_the_first_when_it_stops_is_not_reset() {
    let plan = || Daemon::server().config(json!({ "reuse_port": true, "times": { "grace": "10s" } }));
    let mut first = plan().script("gate", "#!/bin/sh\nread -r go < go\n").start();
    let mut go = Fifo::new(first.prefix(), "go");
    let mut peer = Peer::dial(&first);
    peer.send_text(r#"{"name":"gate","id":1}"#);
    let second = plan().config(json!({ "port": first.port() })).start();
    first.signal(Signal::USR2);
    first.wait_log("told to end when all is done");
    // Whoever dials from here on is let in by either, and in the end by the second alone.
    let dial = || Peer::try_dial(&second, "/", &[]).is_ok();
    assert!((0..32).all(|_| dial()), "{}\n{}", first.log(), second.log());
    go.release(1);
    assert_eq!(peer.status(), r#"{"status":0,"id":1}"#);
    drop(peer);
    assert_eq!(first.wait_exit(STOPS).code(), Some(0));
    Peer::dial(&second);
    // Without the setting the port is taken.
    let third = Daemon::server().config(json!({ "port": second.port() }));
    third.spawn().log().wait("another program has this port");
}

/// The log of the life that begins with it has this line.
const READY: &str = "local socket ready";

/// Has a daemon begin a new life, on this connection, and waits until it has.
#[track_caller]
fn restart(daemon: &Daemon, local: &mut Local) {
    let lives = daemon.log().count(READY);
    let pid = local.result("RESTART", &Value::Null)["pid"].as_u64();
    assert_eq!(pid, Some(u64::try_from(daemon.pid().as_raw_nonzero().get()).expect("positive")));
    daemon.wait_log_times(READY, lives + 1);
}

#[test]
fn a_connection_that_is_open_goes_on_in_the_next_life_from_the_byte_on_where_it_was() {
    let server = Daemon::server().env("WSDAEMON_LOCAL", "127.0.0.1:0").script("exit", EXIT).start();
    let (mut asking, mut other, mut tcp) = (server.connect(), server.connect(), server.connect_tcp());
    let (first, second) = (r#"{"name":"nobody","#, r#""id":"x"}"#);
    other.send(first);
    tcp.send(first);
    restart(&server, &mut asking);
    // What is asked in the same write as RESTART is for whichever life reads it.
    for local in [&mut other, &mut tcp] {
        assert_eq!(local.ask(second), r#"{"status":-2,"id":"x"}"#);
    }
    let stats = asking.result("STATS", &Value::Null);
    restart(&server, &mut asking);
    assert_eq!(asking.result("STATS", &Value::Null)["instance"], stats["instance"], "it is the same daemon");
    other.half_close();
    other.eof();
    assert_eq!(server.connect().ask(r#"{"name":"nobody","id":1}"#), r#"{"status":-2,"id":1}"#);
    let mut server = server;
    let socket = server.socket().to_owned();
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit(STOPS).code(), Some(0));
    assert!(!socket.exists(), "the last life removes it");
}

#[test]
fn what_runs_ends_before_and_peers_hear_that_they_are_to_come_back_at_once() {
    let server = Daemon::server().script("gate", "#!/bin/sh\necho > said\nread -r go < go\nexit 5\n").start();
    let (mut said, mut go) = (Fifo::new(server.prefix(), "said"), Fifo::new(server.prefix(), "go"));
    let hello = |epoch: u64| json!({ "name": "web", "instance": "i", "epoch": epoch, "features": ["queue"] });
    let mut peer = Peer::dial_version2(&server, &hello(1));
    peer.send_text(r#"{"name":"gate","id":"r"}"#);
    said.line();
    let mut asking = server.connect();
    asking.send(r#"{"name":"+cmd","id":"c","params":{"code":"RESTART"}}"#);
    assert_eq!(asking.said()["status"], 0);
    assert!(peer.text().contains(r#"{"code":"DRAIN","data":{"restart":true}}"#));
    let ping: Value = serde_json::from_str(&peer.text()).expect("JSON");
    assert_eq!(ping["params"]["code"], "PING");
    // What was on its way when the peer heard of it is done still.
    peer.send_text(r#"{"name":"gate","id":"s"}"#);
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 0, "id": ping["id"] })));
    said.line();
    asking.send(r#"{"name":"work","id":"w"}"#);
    go.release(2);
    for _ in 0..2 {
        assert!(peer.status().contains(r#""status":5"#));
    }
    assert_eq!(peer.closed_in_words(), Some((1012, "restarting".into())));
    server.wait_log_times(READY, 2);
    // Whoever was there is waited for.
    let mut peer = Peer::dial_version2(&server, &hello(2));
    let run: Value = serde_json::from_str(&peer.text()).expect("JSON");
    assert_eq!(run["name"], "work");
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 9, "id": run["id"] })));
    assert_eq!(asking.line(), r#"{"status":9,"id":"w"}"#);
}

#[test]
fn requests_for_a_peer_that_restarts_wait_for_it_whichever_end_of_the_link_it_is() {
    for client_restarts in [true, false] {
        let server = Daemon::server().config(json!({ "name": "hub" })).script("exit", EXIT).start();
        let client = Daemon::client(&server).config(json!({ "name": "web" })).script("exit", EXIT).start();
        server.wait_log("link up");
        client.wait_log("link up");
        let (restarted, waits) = if client_restarts { (&client, &server) } else { (&server, &client) };
        let (mut asking, mut local) = (restarted.connect(), waits.connect());
        let to = if client_restarts { "web" } else { "hub" };
        let each = json!({ "name": "exit", "id": "e", "params": { "exit": 3 }, "to": to, "each": client_restarts });
        for life in 0..3 {
            asking.send(r#"{"name":"+cmd","id":"c","params":{"code":"RESTART"}}"#);
            assert_eq!(asking.said()["status"], 0);
            let (plain, timed) = (exit("1", 7), r#"{"name":"exit","id":2,"params":{"exit":8},"timeout":"19s"}"#);
            local.send(plain);
            local.send(timed);
            local.send(each.to_string());
            // Three answers, and the last word of a fan-out.
            let said: Vec<Value> = (0..3 + usize::from(client_restarts)).map(|_| local.said()).collect();
            let mut statuses: Vec<i64> = said.iter().filter_map(|said| said["status"].as_i64()).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [3, 7, 8], "{}\n{}", server.log(), client.log());
            restarted.wait_log_times(READY, life + 2);
        }
    }
}

#[test]
fn a_peer_that_restarts_while_the_daemon_does_is_waited_for_by_the_next_life() {
    let server = Daemon::server().start();
    let hello = |epoch: u64| json!({ "name": "web", "instance": "web", "epoch": epoch, "features": ["queue"] });
    let mut peer = Peer::dial_version2(&server, &hello(1));
    peer.send_text(&daemons_say("DRAIN", &json!({ "restart": true })));
    drop(peer);
    server.wait_log("link down");
    let (mut asking, mut waiting) = (server.connect(), server.connect());
    restart(&server, &mut asking);
    waiting.send(r#"{"name":"exit","id":1,"to":"web"}"#);
    waiting.nothing_waiting();
    // A restart is put off until whoever is waited for is there, and has answered.
    let lives = server.log().count(READY);
    asking.send(r#"{"name":"+cmd","id":"c","params":{"code":"RESTART"}}"#);
    assert_eq!(asking.said()["status"], 0);
    let mut peer = Peer::dial_version2(&server, &hello(2));
    let run: Value = serde_json::from_str(&peer.text()).expect("JSON");
    assert_eq!(run["name"], "exit");
    peer.send_text(&daemons_say("STATUS", &json!({ "status": 9, "id": run["id"] })));
    assert_eq!(waiting.said()["status"], 9);
    server.wait_log_times(READY, lives + 1);
}

#[test]
fn whoever_waits_for_a_queued_run_hears_of_it_from_the_next_life() {
    let server = Daemon::server().start();
    let (mut asking, mut waiting) = (server.connect(), server.connect());
    waiting.send(r#"{"name":"exit","id":"job","params":{"exit":6},"queue":true}"#);
    assert_eq!(waiting.said()["event"], "accepted");
    waiting.send(r#"{"name":"exit","id":null,"params":{"exit":7},"queue":true,"to":"web"}"#);
    assert_eq!(waiting.said()["event"], "accepted");
    restart(&server, &mut asking);
    let _client = Daemon::client(&server).config(json!({ "name": "web" })).script("exit", EXIT).start();
    let mut said = [waiting.said(), waiting.said()];
    said.sort_by_key(|said| said["status"].as_i64());
    assert_eq!((&said[0]["status"], &said[0]["id"]), (&json!(6), &json!("job")));
    assert_eq!((&said[1]["status"], &said[1]["id"]), (&json!(7), &json!(null)));
    waiting.nothing_waiting();
}

#[test]
fn a_program_or_a_config_that_is_wrong_is_not_gone_over_to() {
    let server = Daemon::server().start();
    let mut asking = server.connect();
    server.write_config("{");
    let refused = asking.command("RESTART", &Value::Null);
    assert_eq!((&refused["status"], &refused["error"]), (&json!(-3), &json!("bad_message")), "{refused}");
    let why = refused["message"].as_str().expect("words");
    assert!(why.starts_with("nothing was done: ") && why.contains("config.json"), "{why}");
    assert!(!why.contains(['\n', '│']), "a line, and no drawing: {why}");
    asking.nothing_waiting();
    assert_eq!(server.log().count(READY), 1);
}
