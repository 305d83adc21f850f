//! What the program is packed in: Dockerfile, compose.yaml and the unit agree with the code. No engine is needed: what
//! they name is looked up, and what they would start is started.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, EXIT, Process, command, need_tool, ran, run, write_executable};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The value of the last `name` instruction.
fn instruction<'a>(dockerfile: &'a str, name: &str) -> &'a str {
    let mut lines = dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.next_back().unwrap_or_else(|| panic!("the Dockerfile has no {name}"))
}

#[test]
fn the_image_starts_what_the_program_has() {
    let dockerfile = read("Dockerfile");
    let words = |list: &str| serde_json::from_str::<Vec<String>>(list).expect("the exec form is JSON");
    let health = instruction(&dockerfile, "HEALTHCHECK").split_once("CMD ").expect("it runs a command").1;
    for list in [instruction(&dockerfile, "ENTRYPOINT"), health] {
        let words = words(list);
        assert_eq!(words[0], "ws-daemon");
        let arguments: Vec<&str> = words[1..].iter().map(String::as_str).chain(["--help"]).collect();
        assert_eq!(ran(command(&arguments), "").code, 0, "{list}");
    }
    assert_eq!(words(instruction(&dockerfile, "ENTRYPOINT")), ["ws-daemon", "container"]);
    assert_eq!(instruction(&dockerfile, "STOPSIGNAL"), "SIGTERM");
    assert_eq!(instruction(&dockerfile, "EXPOSE"), "3006 9007");
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("the workspace says it");
    assert!(dockerfile.contains(&format!("FROM rust:{}-", version.trim_matches('"'))), "the image builds with {version}");

    let mut check = command(&["check", "--json", "--mode", "server"]);
    check.envs(instruction(&dockerfile, "ENV").split(' ').filter_map(|pair| pair.split_once('=')));
    let rows: Value = serde_json::from_str(&ran(check, "").out).expect("JSON");
    assert_eq!(rows["prefix"], json!({ "value": "/usr/src/app", "source": "environment" }));
    assert_eq!(rows["local"], json!({ "value": "0.0.0.0:9007", "source": "environment" }));
    assert_eq!(instruction(&dockerfile, "WORKDIR"), "/usr/src/app");
}

#[test]
fn the_composed_server_and_client_are_linked_and_run_their_scripts() {
    let compose = read("compose.yaml");
    let subnet = compose.lines().find_map(|line| line.trim().strip_prefix("- subnet: ")).expect("the network has addresses");
    let config =
        |side: &str| -> Value { serde_json::from_str(&read(&format!("contrib/compose/{side}/config.json"))).expect("JSON") };
    assert_eq!(config("server")["open"], json!([subnet]));
    assert_eq!(config("client")["proxy"], "server");
    for side in ["server", "client"] {
        assert!(compose.contains(&format!("\n  {side}:\n")));
        for file in ["config.json", "scripts"] {
            let mount = format!("./contrib/compose/{side}/{file}:/usr/src/app/{file}:ro");
            assert!(compose.contains(&mount), "{mount}");
        }
        let script = root().join(format!("contrib/compose/{side}/scripts/hello"));
        assert!(fs::metadata(script).expect("there").permissions().mode() & 0o111 != 0);
    }
    // As the image would start them, but for addresses: no network of containers is here.
    let start = |side: &str, environment: &[(&str, &str)]| {
        let prefix = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = root().join("contrib/compose").join(side);
        fs::copy(folder.join("config.json"), prefix.path().join("config.json")).expect("copied");
        let script = fs::read_to_string(folder.join("scripts/hello")).expect("there");
        write_executable(&prefix.path().join("scripts/hello"), &script);
        let mut container = command(&["container"]);
        container.env("WSDAEMON_PREFIX", prefix.path()).env("WSDAEMON_LOCAL", "off").envs(environment.iter().copied());
        (Process::start(&format!("composed {side}"), container), prefix)
    };
    let (server, server_prefix) = start("server", &[("WSDAEMON_PORT", "0"), ("WSDAEMON_LISTEN", "127.0.0.1")]);
    let line = server.log().wait("listening address=");
    let port = line.rsplit(':').next().expect("an address ends in its port");
    let (client, client_prefix) = start("client", &[("WSDAEMON_PORT", port), ("WSDAEMON_PROXY", "127.0.0.1")]);
    client.log().wait("link up");
    server.log().wait("link up");
    for (prefix, log, said) in
        [(&server_prefix, client.log(), "hello from the client"), (&client_prefix, server.log(), "hello from the server")]
    {
        let mut exec = command(&["exec", "hello", "{\"a\":1}"]);
        exec.env("WSDAEMON_PREFIX", prefix.path());
        assert_eq!(ran(exec, "").code, 0);
        log.wait(said);
    }
}

#[test]
fn the_unit_says_what_the_daemon_does() {
    let unit = read("contrib/systemd/ws-daemon.service");
    let value = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("the unit has no {name}"))
    };
    assert_eq!((value("Type"), value("NotifyAccess"), value("Restart")), ("notify", "main", "on-failure"));
    // What scripts left in the background is let be, so nobody but the daemon may be signalled.
    assert_eq!(value("KillMode"), "process");
    let seconds = |name: &str| value(name).trim_end_matches('s').parse::<u64>().expect("seconds");
    assert!(seconds("TimeoutStopSec") > 15 && seconds("WatchdogSec") > 0);
    assert!(value("RestartPreventExitStatus").split(' ').any(|code| code == "78"));
    if !need_tool("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    assert!(value("ExecStart").starts_with("ws-daemon ") && value("ExecReload").starts_with("ws-daemon "));
    let here = unit.replace("=ws-daemon ", &format!("={} ", env!("CARGO_BIN_EXE_ws-daemon")));
    let sockets = folder.path().join("ws-daemon.socket");
    fs::write(folder.path().join("ws-daemon.service"), here).expect("the folder is ours to write");
    fs::write(&sockets, read("contrib/systemd/ws-daemon.socket")).expect("the folder is ours to write");
    let mut verify = Command::new("systemd-analyze");
    // With it goes the service that it is for.
    verify.args(["verify", "--man=no"]).arg(&sockets);
    let said = run(verify);
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && !words.contains("ws-daemon."), "{words}");
}

/// What the unit's walls are, or the drop-in takes away, in order: name and value.
fn settings(unit: &str) -> Vec<(&str, &str)> {
    let lines = unit.lines().filter(|line| !line.starts_with(['#', '[']));
    lines.filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_unit_exposes_little() {
    if !need_tool("systemd-analyze") {
        return;
    }
    let mut security = Command::new("systemd-analyze");
    // In tenths: under 2.0.
    security.args(["security", "--offline=true", "--no-pager", "--threshold=19"]);
    security.arg(root().join("contrib/systemd/ws-daemon.service"));
    let said = run(security);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

#[test]
fn the_drop_in_for_root_takes_every_wall_away_and_says_what_that_means() {
    let (unit, drop_in) = (read("contrib/systemd/ws-daemon.service"), read("contrib/systemd/root-scripts.conf"));
    assert!(unit.contains("root-scripts.conf"), "the unit says where it is");
    let walls = unit.split("# The walls.").nth(1).expect("they stand at the end");
    // These say where its files are and what it is refused with: no walls by themselves.
    let others = ["StateDirectory", "StateDirectoryMode", "UMask", "AmbientCapabilities", "SystemCallErrorNumber", "WantedBy"];
    let names: BTreeSet<&str> =
        settings(walls).into_iter().map(|(name, _)| name).filter(|name| !others.contains(name)).collect();
    let taken: BTreeSet<&str> = settings(&drop_in).into_iter().map(|(name, _)| name).collect();
    assert!(names.len() > 20 && names.is_subset(&taken), "not taken away: {:?}", names.difference(&taken));
    assert!(settings(&drop_in).contains(&("User", "root")));
}

#[test]
fn what_the_daemon_and_a_script_ask_of_the_kernel_passes_the_units_filter() {
    if !need_tool("systemd-analyze") || !need_tool("strace") {
        return;
    }
    let unit = read("contrib/systemd/ws-daemon.service");
    let mut allowed = system_calls("@default");
    for (_, words) in settings(&unit).into_iter().filter(|(name, _)| *name == "SystemCallFilter") {
        let (refused, words) = words.strip_prefix('~').map_or((false, words), |words| (true, words));
        for call in words.split(' ').flat_map(system_calls) {
            if refused {
                allowed.remove(&call)
            } else {
                allowed.insert(call)
            };
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let traces = [folder.path().join("server"), folder.path().join("client")];
    let [at_server, at_client] = traces.each_ref().map(|trace| ["strace", "-f", "-qq", "-o", trace.to_str().expect("plain")]);
    let mut server = Daemon::server().started_by(&at_server).start();
    let client = Daemon::client(&server).script("exit", EXIT).script("slow", "#!/bin/sh\nsleep 1000\n");
    let mut client = client.started_by(&at_client).start();
    server.wait_log("link up");
    let mut process = server.connect();
    for (request, status) in [
        (r#"{"name":"exit","id":1,"params":3}"#, 3),
        (r#"{"name":"exit","id":2,"params":4,"output":"tail"}"#, 4),
        (r#"{"name":"exit","id":3,"params":5,"output":"stream"}"#, 5),
        (r#"{"name":"slow","id":4,"timeout":100}"#, -4),
        (r#"{"name":"exit","id":5,"params":6,"queue":true}"#, 6),
    ] {
        process.send(request);
        let last = std::iter::repeat_with(|| process.said()).find(|line| line.get("status").is_some()).expect("it ends");
        assert_eq!(last["status"], status, "{last}");
    }
    for daemon in [&mut client, &mut server] {
        // strace ends when the daemon has, and would take no notice itself.
        let strace = daemon.pid().as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).expect("it runs");
        let child = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?)).expect("it has one");
        kill_process(child, Signal::TERM).expect("it is ours");
        assert!(daemon.wait_exit(DEADLINE).success());
    }
    for trace in &traces {
        let trace = fs::read_to_string(trace).expect("strace has written it");
        let calls = trace.lines().filter_map(|line| line.split_whitespace().nth(1)?.split_once('(').map(|(name, _)| name));
        let calls: BTreeSet<&str> = calls.collect();
        let refused: Vec<_> = calls.iter().filter(|name| !allowed.contains(**name)).collect();
        assert!(calls.len() > 40 && refused.is_empty(), "{refused:?} of {}", calls.len());
    }
}

/// A system call, or those of a set, as systemd has it.
fn system_calls(word: &str) -> BTreeSet<String> {
    if !word.starts_with('@') {
        return BTreeSet::from([word.to_owned()]);
    }
    let mut list = Command::new("systemd-analyze");
    list.args(["syscall-filter", "--no-pager", word]);
    let said = run(list);
    assert!(said.status.success(), "{word}");
    let said = String::from_utf8(said.stdout).expect("text");
    let members = said.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(system_calls).collect()
}
