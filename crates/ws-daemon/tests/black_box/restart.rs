//! Restarts that refuse nobody: by a service manager that keeps the sockets, and beside another daemon on the same port.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Daemon, DaemonPlan, EXIT, Fifo, Local, Peer, Watched, exit};

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
