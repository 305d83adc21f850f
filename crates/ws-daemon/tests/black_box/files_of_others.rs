//! What the daemon goes by and other users could write: it does not start, and says how to mend it; unless it is told that this is
//! meant so.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::json;

use crate::support::{Daemon, DaemonPlan, Peer, command, need_namespaces, need_other_users, need_root, ran, run};

const STOPS: Duration = Duration::from_secs(10);

/// A user and a group that are nobody here.
const STRANGER: u32 = 12_345;

/// A daemon that has been there, stopped, with all its files and keys.
fn furnished() -> DaemonPlan {
    // Twice, so that the spool is that of the port which it goes on with.
    let plan = Daemon::server().config(json!({ "tls": false })).script("run", "#!/bin/sh\nexit 1\n");
    let plan = plan.start().kill().start().kill();
    let keys = plan.prefix().join("keys");
    fs::create_dir(&keys).expect("the prefix is ours");
    mode(&keys, 0o700);
    let register = r#"{"format":1,"register":{"peers":{}}}"#;
    let files =
        [("root.key", 0o600, "k"), ("root.pem", 0o644, "p"), ("token", 0o600, "of-nobody"), ("peers.json", 0o600, register)];
    for (name, bits, text) in files {
        fs::write(keys.join(name), text).expect("the folder is ours");
        mode(&keys.join(name), bits);
    }
    plan
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Asserts that it does not start for what it says of `path`, then does what it says.
#[track_caller]
fn refused_and_mended(plan: &DaemonPlan, path: &Path, words: &str) {
    let mut process = plan.spawn();
    let said = process.log().wait("mend it with: ");
    assert_eq!(process.wait_exit(STOPS).code(), Some(78), "{}", process.log());
    assert!(said.contains(&format!("{} {words}", path.display())), "{words}: {said}");
    assert_eq!(process.log().count("local socket ready"), 0);
    let (_, mend) = said.split_once("mend it with: ").expect("it was waited for");
    let mend = mend.split_once("; or ").expect("there is another way").0;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", mend]);
    assert!(run(shell).status.success(), "{mend}");
}

#[test]
fn a_daemon_does_not_start_by_what_everybody_can_write_or_of_its_keys_read() {
    let plan = furnished();
    let spool = fs::read_dir(plan.prefix()).expect("there").map(|entry| entry.expect("readable").path());
    let is_spool = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "db");
    let spool = spool.filter(is_spool).find(|path| !path.ends_with("spool-server-0.db")).expect("a spool");
    let wal = spool.with_extension("db-wal");
    fs::write(&wal, "").expect("the prefix is ours");
    let prefix = plan.prefix();
    let write = "can be written by everybody";
    let table = [
        (prefix.to_owned(), 0o757, write),
        (prefix.to_owned(), 0o1757, write),
        (prefix.join("config.json"), 0o646, write),
        (prefix.join("keys"), 0o703, write),
        (prefix.join("keys/root.key"), 0o602, write),
        (prefix.join("keys/root.pem"), 0o646, write),
        (prefix.join("keys/root.key"), 0o604, "is a secret and can be read by everybody"),
        (prefix.join("keys/token"), 0o644, "is a secret and can be read by everybody"),
        (spool, 0o646, write),
        (wal, 0o602, write),
    ];
    for (path, bits, words) in table {
        // What the test writes before each start is written anew, with the mode it had.
        if path.ends_with("config.json") {
            let other = prefix.join("config.other");
            let _ = fs::remove_file(&other);
            fs::write(&other, fs::read(&path).expect("there")).expect("the prefix is ours");
            mode(&other, bits);
            let mut run = command(&[]);
            fs::rename(&other, &path).expect("both are ours");
            run.env("WSDAEMON_PREFIX", prefix).env("WSDAEMON_LOCAL", "off");
            let said = ran(run, "");
            assert_eq!(said.code, 78, "{}", said.err);
            assert!(said.err.contains(&format!("{} {words}", path.display())), "{}", said.err);
            continue;
        }
        mode(&path, bits);
        refused_and_mended(&plan, &path, words);
    }
    let daemon = plan.start();
    assert_eq!(Peer::dial(&daemon).ask(r#"{"name":"run"}"#), r#"{"status":1}"#, "all is mended");
}

#[test]
fn a_daemon_does_not_start_by_what_belongs_to_another_user_or_to_a_group() {
    if !need_root() {
        return;
    }
    let plan = furnished();
    let prefix = plan.prefix().to_owned();
    for path in [prefix.clone(), prefix.join("keys"), prefix.join("keys/root.key")] {
        chown(&path, Some(STRANGER), None).expect("root may");
        refused_and_mended(&plan, path.as_path(), "can be written by user 12345");
        chown(&path, None, Some(STRANGER)).expect("root may");
        let before = fs::metadata(&path).expect("there").permissions().mode();
        mode(&path, before | 0o020);
        refused_and_mended(&plan, path.as_path(), "can be written by group 12345");
    }
    chown(plan.prefix().join("keys/token"), None, Some(STRANGER)).expect("root may");
    mode(&plan.prefix().join("keys/token"), 0o640);
    refused_and_mended(&plan, &plan.prefix().join("keys/token"), "is a secret and can be read by group 12345");
    // Links are followed, and are somebody's too.
    let elsewhere = tempfile::tempdir().expect("a temporary folder can be made");
    let keys = plan.prefix().join("keys");
    fs::rename(&keys, elsewhere.path().join("keys")).expect("one file system");
    symlink(elsewhere.path().join("keys"), &keys).expect("the prefix is ours");
    mode(elsewhere.path(), 0o777);
    refused_and_mended(&plan, elsewhere.path(), "can be written by everybody");
    plan.start();
}

#[test]
fn whoever_says_so_takes_things_as_they_are_but_a_config_does_not_speak_for_itself() {
    let plan = furnished().config(json!({ "any_writer": true }));
    mode(&plan.prefix().join("keys"), 0o777);
    mode(&plan.prefix().join("scripts/run"), 0o757);
    let daemon = plan.start();
    assert_eq!(Peer::dial(&daemon).ask(r#"{"name":"run"}"#), r#"{"status":1}"#);
    let plan = daemon.kill();
    mode(plan.prefix(), 0o757);
    let mut process = plan.spawn();
    process.log().wait("can be written by everybody");
    assert_eq!(process.wait_exit(STOPS).code(), Some(78), "whoever can write it could have written that");
    let by_environment = plan.clone().config(json!({ "any_writer": null })).env("WSDAEMON_ANY_WRITER", "true");
    let daemon = by_environment.start();
    assert_eq!(Peer::dial(&daemon).ask(r#"{"name":"run"}"#), r#"{"status":1}"#);
    daemon.kill().env("WSDAEMON_ANY_WRITER", "").arguments(&["--any-writer"]).start();
    let check = |arguments: &[&str]| {
        let mut check = command(&["check", "--json"]);
        check.args(arguments).env("WSDAEMON_PREFIX", plan.prefix());
        serde_json::from_str::<serde_json::Value>(&ran(check, "").out).expect("JSON")["any_writer"].clone()
    };
    assert_eq!(check(&["--any-writer"]), json!({ "value": true, "source": "flag" }));
    assert_eq!(check(&["--any-writer=false"]), json!({ "value": false, "source": "flag" }));
}

#[test]
fn the_users_own_group_may_write_if_nobody_else_is_in_it() {
    const AS_NOBODY: &str =
        "chown -R 65534:65534 \"$WSDAEMON_PREFIX\" && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    if !need_other_users() {
        return;
    }
    let plan = furnished();
    let groups = fs::read_to_string("/etc/group").expect("it is there");
    let users = fs::read_to_string("/etc/passwd").expect("it is there");
    // On this machine root has a group of its own; nobody has one of another name.
    assert!(geteuid().is_root() && groups.contains("\nnogroup:") && users.contains("\nnobody:"), "{groups}{users}");
    for place in ["", "config.json", "keys", "scripts", "scripts/run"] {
        let path = plan.prefix().join(place);
        let before = fs::metadata(&path).expect("there").permissions().mode();
        mode(&path, before | 0o020);
    }
    let daemon = plan.start();
    assert_eq!(Peer::dial(&daemon).ask(r#"{"name":"run"}"#), r#"{"status":1}"#);
    let plan = daemon.kill().started_by(&["/bin/sh", "-c", AS_NOBODY, "sh"]);
    let mut process = plan.spawn();
    process.log().wait("can be written by group 65534");
    assert_eq!(process.wait_exit(STOPS).code(), Some(78));
}

#[test]
fn in_a_container_what_strangers_have_mounted_is_taken_unless_it_is_said_otherwise() {
    const FIRST: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !need_namespaces() {
        return;
    }
    let plan = furnished().arguments(&["container"]);
    for place in ["", "config.json", "keys", "scripts", "scripts/run"] {
        let path = plan.prefix().join(place);
        chown(&path, Some(STRANGER), Some(STRANGER)).expect("root may");
        mode(&path, 0o777);
    }
    for starter in [&FIRST[..], &[]] {
        let daemon = plan.clone().started_by(starter).start();
        assert_eq!(Peer::dial(&daemon).ask(r#"{"name":"run"}"#), r#"{"status":1}"#);
        drop(daemon.kill());
    }
    for starter in [&FIRST[..], &[]] {
        let otherwise = plan.clone().env("WSDAEMON_ANY_WRITER", "false").started_by(starter);
        let mut process = otherwise.spawn();
        process.log().wait("can be written by user 12345 and group 12345 and everybody");
        assert_eq!(process.wait_exit(STOPS).code(), Some(78));
    }
}
