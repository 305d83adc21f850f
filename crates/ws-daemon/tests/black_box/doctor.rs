//! What doctor says of a daemon in which one thing is broken: that thing, and the command that mends it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    CertificateAuthority, Daemon, DaemonPlan, ForwardProxy, Way, command, need_faketime, need_namespaces, need_other_users, ran,
};

const HOUR: i64 = 3600;
const SEVEN: &str = "#!/bin/sh\nexit 7\n";

/// What is no fault of a test's daemon: the machine's own limits, and a clock that nobody compares.
const OF_THE_MACHINE: [&str; 2] = ["open files", "disk"];

#[test]
fn nothing_is_wrong_with_a_server_and_a_client_that_are_linked() {
    let server = Daemon::server().script("seven", SEVEN).start();
    let client = Daemon::client(&server).script("seven", SEVEN).start();
    client.wait_log("link up");
    server.wait_log("link up");
    for (daemon, expected) in [
        (&server, &["config", "rights", "daemon", "spool", "scripts", "links"][..]),
        (&client, &["config", "rights", "daemon", "spool", "scripts", "server", "clock", "link"]),
    ] {
        let (code, found) = examined(&daemon.twin(), &[]);
        assert_eq!(code, 0, "{found:?}");
        for about in expected {
            assert!(found.iter().any(|finding| finding["about"] == *about && finding["state"] == "ok"), "{about}: {found:?}");
        }
        let wrong = found.iter().filter(|finding| finding["state"] != "ok");
        let wrong: Vec<&Value> = wrong.filter(|finding| !OF_THE_MACHINE.iter().any(|own| finding["about"] == *own)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    let mut doctor = command(&["doctor"]);
    doctor.env("WSDAEMON_PREFIX", client.prefix());
    let said = ran(doctor, "");
    assert!(said.code == 0 && said.out.contains("\nok    link          the daemon is linked to 127.0.0.1:"), "{said:?}");
    assert!(said.out.contains("\n0 broken, ") && !said.out.contains('\u{1b}'), "{said:?}");
}

#[test]
fn what_is_wrong_with_files_is_named_with_the_command_that_mends_it() {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    let plan = Daemon::server();
    plan.written();
    let prefix = plan.prefix();
    let absent = prefix.join("absent");
    let mut doctor = command(&["doctor", "--json", "--mode", "server", "--prefix"]);
    doctor.arg(&absent);
    assert_found(
        &findings(doctor),
        "fail",
        "prefix",
        "No such file",
        &format!("ws-daemon init server --prefix {}", absent.display()),
    );

    assert_found(
        &examined(&plan, &[]),
        "warn",
        "scripts",
        "nothing can be run",
        &format!("install -d -m 755 {}", prefix.join("scripts").display()),
    );
    mode(prefix, 0o777);
    assert_found(&examined(&plan, &[]), "fail", "rights", "can be written by", &format!("chmod go-w {}", prefix.display()));
    mode(prefix, 0o755);
    let config = fs::File::options().write(true).open(prefix.join("config.json")).expect("ours");
    config.set_modified(SystemTime::now() + Duration::from_hours(1)).expect("ours");
    assert_found(&examined(&plan, &[]), "warn", "clock", "was written 3", "timedatectl set-ntp true");
    fs::create_dir(prefix.join("keys")).expect("ours");
    mode(&prefix.join("keys"), 0o700);
    let key = prefix.join("keys/root.key");
    fs::write(&key, "").expect("ours");
    mode(&key, 0o644);
    assert_found(
        &examined(&plan, &[]),
        "fail",
        "rights",
        "is a secret and can be read by",
        &format!("chmod go= {}", key.display()),
    );
    fs::remove_file(&key).expect("ours");
    fs::write(prefix.join("keys/peers.json"), "{").expect("ours");
    mode(&prefix.join("keys/peers.json"), 0o600);
    assert_found(&examined(&plan, &[]), "fail", "register", "peers.json", "");
    fs::write(prefix.join("config.json"), "{\n\"prot\": 1}").expect("ours");
    assert_found(&examined(&plan, &[]), "fail", "config", "did you mean \"port\"?", "");
}

#[test]
fn what_is_wrong_with_the_daemon_that_runs_is_named_with_the_command_that_mends_it() {
    let plan = Daemon::server();
    plan.written();
    assert_found(&examined(&plan, &[]), "fail", "daemon", "no daemon answers at", "ws-daemon run --prefix ");
    let other = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let port = other.local_addr().expect("bound").port();
    let taken = Daemon::server().config(json!({ "port": port }));
    taken.written();
    assert_found(&examined(&taken, &[]), "fail", "port", "another program listens", &format!("ss -ltnp 'sport = :{port}'"));
    drop(other);
    assert_found(&examined(&taken, &[]), "ok", "port", "is free", "");
    fs::create_dir_all(plan.prefix().join("spool-server-0.db/in the way")).expect("ours");
    let server = plan.script("plain", SEVEN).script("broken", SEVEN).start();
    let scripts = server.prefix().join("scripts");
    fs::set_permissions(scripts.join("plain"), fs::Permissions::from_mode(0o644)).expect("ours");
    fs::write(scripts.join("broken.json"), "{\"calers\": []}").expect("ours");
    fs::set_permissions(scripts.join("broken.json"), fs::Permissions::from_mode(0o644)).expect("ours");
    let found = examined(&server.twin(), &[]);
    assert_found(&found, "warn", "spool", "the daemon has none", "ws-daemon run --prefix");
    assert_found(&found, "warn", "scripts", "plain is not run", &format!("chmod +x {}", scripts.join("plain").display()));
    assert_found(&found, "warn", "scripts", "broken is not run: ", "");
    assert_found(&found, "warn", "links", "no peer was here yet", "ws-daemon invite NAME");
    server.signal(Signal::STOP);
    assert_found(&examined(&server.twin(), &[]), "fail", "daemon", "says nothing within 5s", "systemctl restart ws-daemon");
    server.signal(Signal::CONT);
}

#[test]
fn certificates_that_end_have_ended_or_have_not_begun_are_named() {
    let authority = CertificateAuthority::new("doctor's");
    for (from, until, state, words) in [
        (-10 * HOUR, -HOUR, "fail", "has expired on"),
        (-100 * HOUR, HOUR, "warn", "ends on"),
        (HOUR, 2 * HOUR, "fail", "is good from"),
        (-HOUR, 1000 * HOUR, "ok", "is good until"),
    ] {
        let files = authority.server_between(&["localhost"], from, until);
        // What vouches for it stands behind it, and is good for longer.
        let chain =
            [&files.certificate, &authority.certificate()].map(|file| fs::read_to_string(file).expect("a test wrote it"));
        fs::write(&files.certificate, chain.concat()).expect("ours");
        let tls = json!({ "certificate": files.certificate, "key": files.key });
        let plan = Daemon::server().config(json!({ "tls": tls }));
        plan.written();
        assert_found(&examined(&plan, &[]), state, "certificate", words, "");
    }
    let missing = Daemon::server().config(json!({ "tls": { "certificate": "none.pem", "key": "none.key" } }));
    missing.written();
    assert_found(&examined(&missing, &[]), "fail", "certificate", "none.pem", "ws-daemon reload");
}

#[test]
fn what_keeps_a_client_from_its_server_is_named() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    plan.written();
    // Without a daemon of its own, it is seen that it could have a link.
    assert_found(&examined(&plan, &[]), "ok", "link", "lets this client in", "");
    let invited = tool(&server, &["invite", "web"]);
    let mut join = command(&["join", invited.trim()]);
    join.env("WSDAEMON_PREFIX", plan.prefix());
    assert_eq!(ran(join, "").code, 0);
    let plan = plan.config_as_written();
    plan.written();
    assert_found(&examined(&plan, &[]), "ok", "link", "lets this client in", "");
    tool(&server, &["peers", "revoke", "web"]);
    assert_found(&examined(&plan, &[]), "fail", "link", "401", "");
    if let Some(library) = need_faketime() {
        let near = Daemon::client(&server);
        near.written();
        let mut late = near.command();
        late.args(["doctor", "--json"]).env("LD_PRELOAD", library).env("FAKETIME", "+2h");
        assert_found(&findings(late), "warn", "clock", "apart", "timedatectl set-ntp true");
    }
    let port = server.port();
    let second = Daemon::server().start();
    let proxies = json!([format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", second.port())]);
    drop(server);
    let alone = Daemon::client_of(port);
    alone.written();
    assert_found(&examined(&alone, &[]), "fail", "server", "cannot connect to", "");
    let either = Daemon::client_of(port).config(json!({ "proxy": proxies }));
    either.written();
    let found = examined(&either, &[]);
    assert_found(&found, "warn", "server", "cannot connect to", "");
    assert_found(&found, "ok", "link", "lets this client in", "");
}

#[test]
fn the_proxy_on_the_way_is_named_and_a_daemon_that_does_not_know_of_it() {
    let server = Daemon::server().start();
    let proxy = ForwardProxy::start(Way::To(server.port()));
    let way = format!("http://127.0.0.1:{}", proxy.port());
    let plan = Daemon::client_of(3006).config(json!({ "proxy": "hub.example.invalid" }));
    let client = plan.clone().env("http_proxy", &way).start();
    client.wait_log("link up");
    let found = examined(&client.twin(), &[]);
    assert_found(&found, "ok", "proxy", &format!("is reached through {way}, which http_proxy names"), "");
    assert_eq!(found.0, 0, "{found:?}");
    assert_found(&examined(&plan, &[]), "warn", "proxy", &format!("they name {way}"), "Environment=HTTPS_PROXY=");
}

#[test]
fn what_the_machine_does_not_give_is_named() {
    let server = Daemon::server().started_by(&["sh", "-c", "ulimit -n 1024; exec \"$@\"", "-"]).start();
    assert_found(&examined(&server.twin(), &[]), "warn", "open files", "1024 files may be open", "LimitNOFILE=");
    let vast = server.twin().config(json!({ "limits": { "spool_bytes": 1_u64 << 60 } }));
    vast.written();
    assert_found(&examined(&vast, &[]), "warn", "disk", "less than the", "du -xh");
    if need_namespaces() {
        let plan = Daemon::server();
        plan.written();
        let words = format!(
            "mount -t tmpfs -o size=8m,mode=755 none {0} && echo '{{\"mode\":\"server\"}}' > {0}/config.json",
            plan.prefix().display()
        );
        assert_found(
            &examined(&plan, &["unshare", "--mount", "sh", "-c", &format!("{words} && exec \"$@\""), "-"]),
            "fail",
            "disk",
            "will be refused",
            "du -xh",
        );
        let none = "echo 0 > /proc/sys/user/max_inotify_instances; exec \"$@\"";
        let words = ["unshare", "--user", "--map-root-user", "sh", "-c", none, "-"];
        assert_found(&examined(&plan, &words), "warn", "watches", "no folder can be watched", "sysctl fs.inotify");
    }
}

#[test]
fn another_user_is_told_as_whom_to_ask() {
    if !need_other_users() {
        return;
    }
    let plan = Daemon::server();
    fs::set_permissions(plan.prefix(), fs::Permissions::from_mode(0o755)).expect("ours");
    let server = plan.start();
    fs::set_permissions(server.socket(), fs::Permissions::from_mode(0o666)).expect("ours");
    let found = examined(&server.twin(), &["setpriv", "--reuid=65534", "--clear-groups"]);
    assert_found(
        &found,
        "warn",
        "user",
        "this is user 65534, the daemon's is root",
        "runuser -u root -- ws-daemon doctor --prefix",
    );
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// What doctor finds by this plan, with its exit status; the words of a starter stand before it.
fn examined(plan: &DaemonPlan, starter: &[&str]) -> (i32, Vec<Value>) {
    let ours = plan.command();
    let mut doctor = match starter.split_first() {
        None => ours,
        Some((program, words)) => {
            let mut doctor = Command::new(program);
            doctor.args(words).arg(ours.get_program());
            for (key, value) in ours.get_envs() {
                match value {
                    Some(value) => doctor.env(key, value),
                    None => doctor.env_remove(key),
                };
            }
            doctor
        }
    };
    doctor.args(["doctor", "--json"]);
    findings(doctor)
}

fn findings(doctor: Command) -> (i32, Vec<Value>) {
    let said = ran(doctor, "");
    let lines = said.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {said:?}")));
    let found: Vec<Value> = lines.collect();
    assert!(!found.is_empty(), "{said:?}");
    (said.code, found)
}

/// One of the findings is this, and the exit status says whether anything is broken.
#[track_caller]
fn assert_found((code, found): &(i32, Vec<Value>), state: &str, about: &str, words: &str, mend: &str) {
    let holds = |finding: &Value, key: &str, words: &str| finding[key].as_str().unwrap_or_default().contains(words);
    let mut of_it = found.iter().filter(|finding| finding["about"] == about && finding["state"] == state);
    assert!(
        of_it.any(|finding| holds(finding, "said", words) && holds(finding, "mend", mend)),
        "{state} {about} {words}: {found:#?}"
    );
    let is_broken = found.iter().any(|finding| finding["state"] == "fail");
    assert_eq!(*code, i32::from(is_broken), "{found:?}");
}

fn tool(daemon: &Daemon, words: &[&str]) -> String {
    let mut command = command(words);
    command.env("WSDAEMON_PREFIX", daemon.prefix());
    let said = ran(command, "");
    assert_eq!(said.code, 0, "{said:?}");
    said.out
}
