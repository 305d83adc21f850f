//! The files of a prefix: which name a daemon's socket gets, who may use it, what becomes of what others left there,
//! and what is left at the end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};

use crate::support::{Daemon, Local, Peer, run};

const STOPS: Duration = Duration::from_secs(10);

/// The names that the first four daemons of a prefix get.
const NAMES: [&str; 4] = ["ws-daemon.sock", "ws-daemon0.sock", "ws-daemon1.sock", "ws-daemon2.sock"];

// ---- Names -----------------------------------------------------------------------------------------------------

#[test]
fn daemons_of_one_prefix_get_one_name_after_the_other_and_each_answers_at_its_own() {
    let first = Daemon::server().start();
    let mut second = first.twin().start();
    let third = first.twin().start();
    let names = [&first, &second, &third].map(name);
    assert_eq!(names, NAMES[..3]);
    let mut locals = [&first, &second, &third].map(Daemon::connect);
    locals.iter_mut().for_each(Local::nothing_waiting);

    second.signal(Signal::TERM);
    assert_eq!(second.wait_exit(STOPS).code(), Some(0));
    assert_eq!(sockets(first.prefix()), [NAMES[0], NAMES[2]], "it removes its own and no other");
    first.connect();
    third.connect();
    assert_eq!(name(&first.twin().start()), NAMES[1], "a name that is free again is taken again");
}

#[test]
fn the_socket_of_a_killed_daemon_is_taken_over() {
    let daemon = Daemon::server().start();
    let path = daemon.socket().to_owned();
    // A second one holds the next name all the while.
    let other = daemon.twin().start();
    let plan = daemon.kill();
    assert!(is_socket(&path), "what is killed leaves its socket");
    UnixStream::connect(&path).expect_err("nobody is there");

    let daemon = plan.start();
    assert_eq!(daemon.socket(), path);
    daemon.connect();
    assert_eq!(name(&other), NAMES[1]);
    other.connect();
}

#[test]
fn a_live_socket_of_someone_who_takes_no_lock_is_left_alone() {
    let plan = Daemon::server();
    let path = plan.prefix().join(NAMES[0]);
    let seed = UnixListener::bind(&path).expect("the prefix is ours to write");
    let mut daemon = plan.start();
    assert_eq!(name(&daemon), NAMES[1]);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
    // The daemon has only knocked: who comes now comes through.
    let mut visitor = UnixStream::connect(&path).expect("it still listens");
    std::io::Write::write_all(&mut visitor, b"x").expect("it still listens");
    drop(seed);
    // Now that it is gone, its socket is stale.
    assert_eq!(name(&daemon.twin().start()), NAMES[0]);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let plan = Daemon::server();
    fs::write(plan.prefix().join(NAMES[0]), "mine").expect("the prefix is ours to write");
    fs::create_dir(plan.prefix().join(NAMES[1])).expect("the prefix is ours to write");
    symlink("nowhere", plan.prefix().join(NAMES[2])).expect("the prefix is ours to write");
    let mut daemon = plan.start();
    assert_eq!(name(&daemon), NAMES[3]);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
    assert_eq!(fs::read_to_string(daemon.prefix().join(NAMES[0])).expect("it is there"), "mine");
    assert!(daemon.prefix().join(NAMES[1]).is_dir());
    assert_eq!(fs::read_link(daemon.prefix().join(NAMES[2])).expect("it is there"), Path::new("nowhere"));
    assert!(!daemon.prefix().join(NAMES[3]).exists());
}

#[test]
fn daemons_started_at_one_instant_never_share_a_name() {
    const ROUNDS: usize = 5;
    let plan = Daemon::server();
    for round in 0..ROUNDS {
        // From the second round on they find what the last ones, killed, have left.
        let started: Vec<_> = NAMES.map(|_| plan.spawn()).into_iter().collect();
        let ready = |line: &str| line.split_once("path=").map(|(_, path)| path.trim().to_owned());
        let bound: Vec<String> =
            started.iter().map(|daemon| ready(&daemon.log().wait("local socket ready")).expect("it says where")).collect();
        let names: BTreeSet<&str> = bound.iter().filter_map(|path| path.rsplit('/').next()).collect();
        assert_eq!(names, BTreeSet::from(NAMES), "round {round}: {bound:?}");
        for (path, daemon) in bound.iter().zip(&started) {
            Local::unix(Path::new(path), daemon.log());
        }
    }
}

// ---- The end ---------------------------------------------------------------------------------------------------

#[test]
fn at_exit_a_daemon_removes_its_own_socket_and_nothing_that_stands_in_its_place() {
    let mut daemon = Daemon::server().start();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
    let left: Vec<String> = entries(daemon.prefix());
    assert_eq!(left, ["config.json", "spool-server-0.db", "spool-server-0.db.lock"], "neither the socket nor its lock");

    let mut daemon = daemon.twin().start();
    fs::remove_file(daemon.socket()).expect("the prefix is ours to write");
    fs::write(daemon.socket(), "somebody else's").expect("the prefix is ours to write");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
    assert_eq!(fs::read_to_string(daemon.socket()).expect("it is there"), "somebody else's");
    fs::remove_file(daemon.socket()).expect("the prefix is ours to write");

    let mut daemon = daemon.twin().start();
    fs::remove_file(daemon.socket()).expect("the prefix is ours to write");
    let stranger = UnixListener::bind(daemon.socket()).expect("the prefix is ours to write");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(STOPS).code(), Some(0));
    UnixStream::connect(daemon.socket()).expect("another's socket is left");
    drop(stranger);
}

// ---- Rights ----------------------------------------------------------------------------------------------------

#[test]
fn the_socket_is_its_owners_alone_whatever_the_umask() {
    for mask in ["000", "022", "777"] {
        let umask = format!("umask {mask}; exec \"$@\"");
        let plan = Daemon::server().started_by(&["/bin/sh", "-c", &umask, "sh"]);
        let daemon = plan.start();
        assert_eq!(mode(daemon.socket()), 0o600, "umask {mask}");
        daemon.connect();
    }
}

#[test]
fn a_socket_group_may_use_the_socket() {
    let (group, id) = a_group();
    let daemon = Daemon::server().config(json!({ "socket_group": group })).start();
    assert_eq!(mode(daemon.socket()), 0o660);
    assert_eq!(fs::metadata(daemon.socket()).expect("it is bound").gid(), id);
    daemon.connect();

    let daemon = Daemon::server().env("WSDAEMON_SOCKET_GROUP", &group).start();
    assert_eq!((mode(daemon.socket()), fs::metadata(daemon.socket()).expect("it is bound").gid()), (0o660, id));
}

#[test]
fn a_group_that_is_not_there_stops_the_start_and_is_named() {
    let plan = Daemon::server().config(json!({ "socket_group": "no-such-group" }));
    let mut process = plan.spawn();
    process.log().wait("there is no group \"no-such-group\"");
    assert_eq!(process.wait_exit(STOPS).code(), Some(78));
    assert_eq!(entries(plan.prefix()), ["config.json"]);
}

// ---- The prefix ------------------------------------------------------------------------------------------------

#[test]
fn the_prefix_holds_config_scripts_and_socket_and_may_be_named_relative() {
    let plan = Daemon::server().script("where", "#!/bin/sh\n[ \"$WSDAEMON_PREFIX\" = \"$(pwd)\" ] && exit 5\n");
    let (folder, own) = (plan.prefix().parent().expect("a prefix is in a folder"), plan.prefix().file_name().expect("named"));
    let go = format!("cd {} && exec \"$@\"", folder.display());
    let relative = own.to_str().expect("the prefix is UTF-8").to_owned();
    let server = plan.started_by(&["/bin/sh", "-c", &go, "sh"]).env("WSDAEMON_PREFIX", &relative).start();
    assert_eq!(server.socket(), server.prefix().join(NAMES[0]));
    let mut peer = Peer::dial(&server);
    assert_eq!(peer.ask(r#"{"name":"where"}"#), r#"{"status":5}"#);
}

#[test]
fn a_prefix_that_is_not_there_is_named_with_what_makes_one() {
    let plan = Daemon::server().env("WSDAEMON_MODE", "server");
    let nowhere = plan.prefix().join("nowhere");
    let plan = plan.env("WSDAEMON_PREFIX", nowhere.to_str().expect("the prefix is UTF-8"));
    let mut process = plan.spawn();
    process.log().wait("ws-daemon init");
    assert_eq!(process.wait_exit(STOPS).code(), Some(78));
}

#[test]
fn a_prefix_too_long_for_a_socket_is_told() {
    let plan = Daemon::server().env("WSDAEMON_MODE", "server").env("WSDAEMON_PORT", "0");
    let long = plan.prefix().join("x".repeat(100));
    fs::create_dir(&long).expect("the prefix is ours to write");
    let plan = plan.env("WSDAEMON_PREFIX", long.to_str().expect("the prefix is UTF-8"));
    let mut process = plan.spawn();
    process.log().wait("choose a shorter prefix");
    assert_eq!(process.wait_exit(STOPS).code(), Some(78));
}

#[test]
fn the_seeds_defaults_are_the_defaults() {
    let mut command = Daemon::server().command();
    command.env_remove("WSDAEMON_PREFIX").args(["check", "--json", "--mode", "client", "--proxy", "example.org"]);
    let output = run(command);
    let rows: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert_eq!(rows["prefix"], json!({ "value": "/root/ws-daemon", "source": "default" }), "{rows}");
    assert!(rows.to_string().contains("3006"), "{rows}");
}

// ---- What they have in common ----------------------------------------------------------------------------------

fn name(daemon: &Daemon) -> String {
    let name = daemon.socket().file_name().expect("a socket has a name");
    name.to_str().expect("its name is ASCII").to_owned()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be read").file_name());
    let mut names: Vec<String> = entries.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

fn sockets(folder: &Path) -> Vec<String> {
    entries(folder).into_iter().filter(|name| is_socket(&folder.join(name))).collect()
}

fn is_socket(path: &PathBuf) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// A group that this user may give a file to, by name and number; not the user's first, where there is a choice.
fn a_group() -> (String, u32) {
    let id = |arguments: &str| {
        let mut command = std::process::Command::new("id");
        command.arg(arguments);
        String::from_utf8(run(command).stdout).expect("ids are ASCII")
    };
    let own = id("-G");
    let chosen = own.split_whitespace().nth(1).or_else(|| own.split_whitespace().next()).expect("everyone has a group");
    let list = fs::read_to_string("/etc/group").expect("it is there");
    let mut groups = list.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse::<u32>().ok()?))
    });
    let wanted = |id: u32| if geteuid().is_root() { id != 0 } else { id.to_string() == chosen };
    groups.find(|(_, id)| wanted(*id)).expect("the user's groups have names")
}
