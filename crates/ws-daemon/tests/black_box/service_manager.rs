//! What a service manager is told (`Type=notify`, `WatchdogSec=`): a datagram socket stands where systemd's would.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{DEADLINE, Daemon, DaemonPlan, Fifo, Local, Peer};

const STOPS: Duration = Duration::from_secs(10);

const NOT_FED: &str = "the watchdog is not fed";

#[test]
fn ready_is_told_when_everything_is_bound_and_stopping_when_it_stops() {
    let plan = Daemon::server().script("gate", "#!/bin/sh\necho > said\nread -r go < go\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (plan, manager) = Manager::of(plan);
    let daemon = plan.spawn();
    assert_eq!(manager.told(), "READY=1");
    // Whoever waited for READY finds the daemon there: nothing else was waited for.
    let socket = plan.prefix().join("ws-daemon.sock");
    Local::unix(&socket, daemon.log());
    drop(daemon);

    let mut daemon = plan.start();
    assert_eq!(manager.told(), "READY=1");
    let mut peer = Peer::dial(&daemon);
    peer.send_text(r#"{"name":"gate"}"#);
    said.line();
    daemon.signal(Signal::TERM);
    assert_eq!(manager.told(), "STOPPING=1", "it is told at the beginning of the end, while scripts still run");
    go.release(1);
    peer.status();
    drop(peer);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
    assert_eq!(manager.waiting(), [""; 0], "and nothing else");
}

#[test]
fn a_reload_is_told_at_its_beginning_and_at_its_end_also_when_it_changes_nothing() {
    let (plan, manager) = Manager::of(Daemon::server());
    let daemon = plan.start();
    assert_eq!(manager.told(), "READY=1");
    let reloading = || {
        let told = manager.told();
        let since = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!(manager.told(), "READY=1");
        since.trim().parse::<u64>().expect("microseconds")
    };
    daemon.signal(Signal::HUP);
    let first = reloading();
    daemon.write_config("{");
    assert!(reloading() > first);
    daemon.wait_log("nothing was changed");
}

#[test]
fn the_watchdog_is_fed_only_while_the_executor_answers() {
    let (plan, manager) = Manager::of(Daemon::server().script("run", "#!/bin/sh\nexit 1\n"));
    let mut daemon = plan.env("WATCHDOG_USEC", "200000").start();
    assert_eq!(manager.told(), "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.told(), "WATCHDOG=1");
    }

    // A plain file in the place of the folder: no script can be looked up any more.
    let scripts = daemon.prefix().join("scripts");
    fs::rename(&scripts, daemon.prefix().join("aside")).expect("the prefix is ours to write");
    fs::write(&scripts, "").expect("the prefix is ours to write");
    daemon.wait_log_times(NOT_FED, 3);
    manager.waiting();
    daemon.wait_log_times(NOT_FED, 6);
    assert_eq!(manager.waiting(), [""; 0], "not fed");

    fs::remove_file(&scripts).expect("the prefix is ours to write");
    fs::rename(daemon.prefix().join("aside"), &scripts).expect("the prefix is ours to write");
    assert_eq!(manager.told(), "WATCHDOG=1", "fed again");
    assert_eq!(Peer::dial(&daemon).ask(r#"{"name":"run"}"#), r#"{"status":1}"#);

    daemon.signal(Signal::TERM);
    while manager.told() != "STOPPING=1" {}
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_through_a_long_stop_and_not_without_being_asked() {
    let plan = Daemon::server().script("gate", "#!/bin/sh\necho > said\nread -r go < go\n");
    let (mut said, mut go) = (Fifo::new(plan.prefix(), "said"), Fifo::new(plan.prefix(), "go"));
    let (plan, manager) = Manager::of(plan);
    let mut daemon = plan.env("WATCHDOG_USEC", "200000").start();
    let mut peer = Peer::dial(&daemon);
    peer.send_text(r#"{"name":"gate"}"#);
    said.line();
    daemon.signal(Signal::TERM);
    while manager.told() != "STOPPING=1" {}
    for _ in 0..3 {
        assert_eq!(manager.told(), "WATCHDOG=1", "a script takes its time, the daemon is well");
    }
    go.release(1);
    peer.status();
    drop(peer);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));

    // The order is for a process of another number.
    manager.waiting();
    let mut daemon = daemon.twin().env("WATCHDOG_PID", "1").start();
    assert_eq!(manager.told(), "READY=1");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
    assert_eq!(manager.waiting(), ["STOPPING=1"]);
}

/// The service manager's end of its socket. What is told is read at once, as a service manager does: the kernel keeps only
/// a few datagrams, and whoever has more to tell waits.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    told: Receiver<String>,
}

impl Manager {
    /// A manager, and the plan of a daemon that knows where it is.
    fn of(plan: DaemonPlan) -> (DaemonPlan, Self) {
        let path = plan.prefix().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the prefix is ours to write");
        let reader = socket.try_clone().expect("there are descriptors");
        let (tell, told) = channel();
        thread::spawn(move || {
            let mut datagram = [0; 512];
            while let Ok(length @ 1..) = reader.recv(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]).trim_end().to_owned();
                if tell.send(text).is_err() {
                    return;
                }
            }
        });
        (plan.env("NOTIFY_SOCKET", path.to_str().expect("the prefix is UTF-8")), Self { path, socket, told })
    }

    /// What is told next, waited for.
    #[track_caller]
    fn told(&self) -> String {
        self.told.recv_timeout(DEADLINE).expect("nothing was told in time")
    }

    /// What has been told by now: all that comes before a word of our own.
    fn waiting(&self) -> Vec<String> {
        const MARK: &str = "that is all";
        let speaker = UnixDatagram::unbound().expect("there are descriptors");
        speaker.send_to(MARK.as_bytes(), &self.path).expect("the manager reads");
        std::iter::from_fn(|| Some(self.told()).filter(|told| told != MARK)).collect()
    }
}

impl Drop for Manager {
    /// Ends the reading.
    fn drop(&mut self) {
        self.socket.shutdown(Shutdown::Both).expect("it is a socket");
    }
}
