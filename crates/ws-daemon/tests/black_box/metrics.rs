//! Whether the daemon is well, and its figures: on its port, on the socket file, by the command line; and that what is written about
//! them is so.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Daemon, Fifo, Peer, Web, command, marked_blocks, need_other_users, need_tool, pair, ran, root, wait_for,
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of a daemon, each sample under its name and labels.
fn figures(daemon: &Daemon) -> BTreeMap<String, f64> {
    samples(&daemon.told(&["metrics"]))
}

fn samples(page: &str) -> BTreeMap<String, f64> {
    let rows = page.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let (name, number) = row.rsplit_once(' ').unwrap_or_else(|| panic!("{row:?}"));
        (name.to_owned(), number.parse().unwrap_or_else(|error| panic!("{row}: {error}")))
    })
    .collect()
}

/// One sample; there is one.
#[track_caller]
fn figure(found: &BTreeMap<String, f64>, name: &str) -> f64 {
    *found.get(name).unwrap_or_else(|| panic!("there is no {name} in {:?}", found.keys()))
}

/// The metrics of a page: of each its type and the names of its labels.
fn declared(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let mut labels = BTreeSet::new();
        let of_it = |sample: &str| {
            let rest = sample.strip_prefix(name)?;
            ["_total", "_bucket", "_info", ""]
                .iter()
                .find_map(|end| rest.strip_prefix(end)?.strip_prefix('{').map(str::to_owned))
        };
        for sample in page.lines().filter_map(of_it) {
            let words = sample.split('}').next().unwrap_or_default().split("\",");
            let names = words.filter_map(|word| word.split_once('=')).map(|(label, _)| label.to_owned());
            // How long a bucket is for is no label of ours.
            labels.extend(names.filter(|label| label != "le"));
        }
        assert!(found.insert(name.to_owned(), (kind.to_owned(), labels)).is_none(), "{name} is declared twice");
    }
    found
}

#[test]
fn every_figure_is_documented_and_nothing_else() {
    let server = Daemon::server().start();
    let page = server.told(&["metrics"]);
    let text = fs::read_to_string(root().join("docs/metrics.md")).expect("it is there");
    let rows = text.lines().filter(|line| line.starts_with("| `wsdaemon_") || line.starts_with("| `process_"));
    let mut documented = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, what] = cells[..] else { panic!("four columns: {row}") };
        assert!(!what.is_empty(), "{row}");
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned()).filter(|label| !label.is_empty());
        documented.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels.collect::<BTreeSet<_>>()));
    }
    assert!(documented.len() > 30, "{documented:?}");
    assert_eq!(declared(&page), documented);
    let helped: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    assert_eq!(helped, documented.keys().map(String::as_str).collect());
}

/// Reads a page as others do, and tells each sample by its name, labels and number.
const READER: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
json.dump([[s.name, s.labels, s.value] for f in families for s in f.samples if f.documentation and f.type != "unknown"], sys.stdout)
"#;

#[test]
fn the_page_is_one_that_others_can_read() {
    let python = root().join("target/openmetrics/bin/python");
    let python = python.to_str().expect("a plain path");
    // A path with a slash is taken as it is.
    if !need_tool(python) {
        return;
    }
    let (server, _client) = pair();
    server.connect().run(&json!({ "name": "none" }));
    let page = Web::port(&server).get("/metrics");
    assert_eq!((page.status, page.header("content-type")), (200, Some(OPEN_METRICS)));
    let mut reader = Command::new(python);
    reader.args(["-c", READER]);
    let said = ran(reader, &page.body);
    assert_eq!(said.code, 0, "{}\n{}", said.err, page.body);
    let read: Vec<(String, BTreeMap<String, String>, f64)> = serde_json::from_str(&said.out).expect("as it was written");
    assert_eq!(read.len(), samples(&page.body).len(), "every sample belongs to a metric with a type and a help");
    let not_found = read.iter().find(|(name, labels, _)| {
        name == "wsdaemon_outcomes_total" && labels["side"] == "asked" && labels["reason"] == "not_found"
    });
    assert_eq!(not_found.map(|(.., number)| *number), Some(1.0));
}

#[test]
fn figures_move_with_what_happens() {
    let server = Daemon::server().config(json!({ "audit": true })).start();
    let client = Daemon::client(&server).script("ok", "#!/bin/sh\n").script("seven", "#!/bin/sh\nexit 7\n");
    let client = client.script("hold", "#!/bin/sh\nread -r _ < go\n");
    let mut go = Fifo::new(client.prefix(), "go");
    let client = client.start();
    server.wait_log("link up");
    let before = figures(&server);
    let mut local = server.connect();
    for name in ["ok", "ok", "seven", "none"] {
        local.run(&json!({ "name": name }));
    }
    local.run(&json!({ "name": "ok", "queue": true, "id": "q-1" }));
    local.send("{\"name\":5}");
    assert_eq!(local.said()["error"], "bad_message");
    local.send(json!({ "name": "hold", "queue": true, "id": "q-2" }).to_string());
    assert_eq!(local.said()["event"], "accepted");
    wait_for("it runs", || figure(&figures(&client), "wsdaemon_runs_running") > 0.0);

    let (asked, done) = (figures(&server), figures(&client));
    let grown = |name: &str| figure(&asked, name) - figure(&before, name);
    for (name, by) in [
        ("wsdaemon_requests_total{kind=\"direct\"}", 4.0),
        ("wsdaemon_requests_total{kind=\"queued\"}", 2.0),
        ("wsdaemon_outcomes_total{side=\"asked\",reason=\"exited\"}", 3.0),
        ("wsdaemon_outcomes_total{side=\"asked\",reason=\"failed\"}", 1.0),
        ("wsdaemon_outcomes_total{side=\"asked\",reason=\"not_found\"}", 1.0),
        ("wsdaemon_refusals_total{reason=\"bad_message\"}", 1.0),
        ("wsdaemon_requests_live", 1.0),
        ("wsdaemon_queue_depth", 1.0),
    ] {
        assert_eq!(grown(name).to_bits(), f64::to_bits(by), "{name}\n{asked:#?}");
    }
    assert!(figure(&asked, "wsdaemon_links{dialect=\"v2\",state=\"up\",encrypted=\"no\"}") > 0.0, "{asked:#?}");
    assert!(grown("wsdaemon_spool_commit_seconds_count") > 0.0 && grown("wsdaemon_spool_commit_seconds_sum") > 0.0);
    assert!(grown("wsdaemon_audit_lines_total") >= 6.0 && figure(&asked, "wsdaemon_spool_bytes") > 4096.0);
    assert!(grown("wsdaemon_commands_total{code=\"METRICS\"}") > 0.0);
    for (name, number) in [
        ("wsdaemon_outcomes_total{side=\"done\",reason=\"exited\"}", 3.0),
        ("wsdaemon_outcomes_total{side=\"done\",reason=\"failed\"}", 1.0),
        ("wsdaemon_outcomes_total{side=\"done\",reason=\"not_found\"}", 1.0),
        // One whose script is not there has not run.
        ("wsdaemon_run_seconds_count", 4.0),
        ("wsdaemon_claims", 1.0),
        ("wsdaemon_runs_running", 1.0),
        ("wsdaemon_spool_up", 1.0),
    ] {
        assert_eq!(figure(&done, name).to_bits(), f64::to_bits(number), "{name}\n{done:#?}");
    }
    assert!(figure(&done, "process_open_fds") > 5.0 && figure(&done, "process_resident_memory_bytes") > 1e6);
    // It grows while the run waits, and is nothing when there is none.
    wait_for("it grows old", || figure(&figures(&server), "wsdaemon_queue_oldest_seconds") > 0.0);
    go.release(1);
    assert_eq!(local.said()["status"], 0);
    assert_eq!(figure(&figures(&server), "wsdaemon_queue_oldest_seconds").to_bits(), 0.0_f64.to_bits());
}

#[test]
fn a_page_does_not_grow_by_what_others_choose() {
    let server = Daemon::server().start();
    let before: BTreeSet<String> = figures(&server).into_keys().collect();
    for number in 0..20 {
        let mut peer = Peer::dial_version2(
            &server,
            &json!({ "name": format!("p-{number}"), "instance": format!("i-{number}"), "epoch": 1, "version": "9", "tags": [format!("t-{number}")], "features": [] }),
        );
        peer.send_text(&json!({ "name": format!("script-{number}"), "id": format!("r-{number}") }).to_string());
        peer.text();
        Web::port(&server).get(&format!("/api/v1/{number}"));
    }
    assert_eq!(figures(&server).into_keys().collect::<BTreeSet<_>>(), before);
}

#[test]
fn the_figures_are_for_this_machine_and_for_callers_that_may() {
    let server = Daemon::server().start();
    let page = Web::port(&server).get("/metrics");
    assert_eq!((page.status, page.header("content-type")), (200, Some(OPEN_METRICS)));
    assert_eq!(Web::socket(&server).get("/metrics").status, 200);
    assert_eq!(Web::port(&server).header("X-Forwarded-For", "192.0.2.1").get("/metrics").status, 401);
    assert_eq!(Web::port(&server).header("Origin", "https://example.org").get("/metrics").status, 403);
    assert_eq!(Web::port(&server).host("example.org").get("/metrics").status, 421);
    assert_eq!(Web::port(&server).token("wrong").get("/metrics").status, 401, "who shows a token is judged by it");

    let token = server.told(&["callers", "add", "prometheus", "--command", "METRICS"]);
    let other = server.told(&["callers", "add", "other"]);
    assert_eq!(Web::port(&server).token(&token).header("X-Forwarded-For", "192.0.2.1").get("/metrics").status, 200);
    assert_eq!(Web::port(&server).token(&token).get("/api/v1/stats").status, 403, "this and nothing else");
    let refused = Web::port(&server).token(&other).get("/metrics");
    assert_eq!((refused.status, &refused.json()["error"]), (403, &json!("denied")));
    assert_eq!(Web::port(&server).get("/metrics?name=x").status, 200, "what is asked is passed over without a token");
    assert_eq!(Web::port(&server).token(&token).get("/metrics?name=x").status, 400);
}

#[test]
fn another_user_of_this_machine_is_not_shown_the_figures() {
    if !need_other_users() {
        return;
    }
    // For links everybody may come; for figures that is not enough.
    for open in [json!(false), json!(true)] {
        let server = Daemon::server().config(json!({ "open": open })).start();
        let asked = |path: &str| {
            let words = format!(
                "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; head -n 1 <&3",
                server.port()
            );
            let mut other = Command::new("setpriv");
            other.args(["--reuid=65534", "--clear-groups", "bash", "-c", &words]);
            ran(other, "").out
        };
        assert!(asked("/metrics").contains(" 401 "), "{}", asked("/metrics"));
        let expected = if open == json!(true) { " 200 " } else { " 403 " };
        assert!(asked("/readyz").contains(expected) && asked("/healthz").contains(expected), "{}", asked("/readyz"));
    }
}

/// What `/readyz` says, and with which status.
fn readiness(daemon: &Daemon) -> (u16, Value) {
    let reply = Web::socket(daemon).get("/readyz");
    (reply.status, reply.json())
}

#[test]
fn ready_is_who_can_run_keep_and_be_reached() {
    let server = Daemon::server().start();
    let well = json!({ "status": "ready", "executor": "ok", "spool": "ok", "port": "listening", "stopping": "no" });
    assert_eq!(readiness(&server), (200, well.clone()));
    let by_port = Web::port(&server).get("/readyz");
    assert_eq!((by_port.status, by_port.json()), (200, well.clone()));

    // A plain file in the place of the folder: no script can be looked up any more.
    let (scripts, aside) = (server.prefix().join("scripts"), server.prefix().join("aside"));
    fs::create_dir_all(&scripts).expect("it is ours");
    fs::rename(&scripts, &aside).expect("it is ours");
    fs::write(&scripts, "").expect("it is ours");
    let (status, said) = readiness(&server);
    assert_eq!((status, &said["status"]), (503, &json!("not ready")));
    assert_eq!((&said["executor"], &said["spool"]), (&json!("the folder of scripts cannot be read"), &json!("ok")));
    fs::remove_file(&scripts).expect("it is ours");
    fs::rename(&aside, &scripts).expect("it is ours");
    assert_eq!(readiness(&server), (200, well));

    // The first one has the spool of this prefix.
    let second = server.twin().start();
    let (status, said) = readiness(&second);
    assert_eq!((status, &said["spool"]), (503, &json!("there is none; the log says why")));
    let page = Web::socket(&second).get("/metrics").body;
    assert_eq!(figure(&samples(&page), "wsdaemon_spool_up").to_bits(), 0.0_f64.to_bits());
}

#[test]
fn a_disk_that_takes_nothing_is_seen_and_that_it_takes_something_again() {
    // A write that finds no room is an error then, and no signal.
    let server = Daemon::server().started_by(&["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]).start();
    assert_eq!(readiness(&server).0, 200);
    let pid = server.pid();
    let limit = |bytes: Option<u64>| {
        let old = prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None });
        old.expect("it is ours");
    };
    limit(Some(0));
    wait_for("what cannot be written is seen", || {
        let (status, said) = readiness(&server);
        status == 503 && said["spool"] == "the disk does not take what is to be kept" && said["executor"] == "ok"
    });
    let failures = "wsdaemon_spool_failures_total";
    assert!(figure(&figures(&server), failures) > 0.0);
    limit(None);
    wait_for("it is well again", || readiness(&server).0 == 200);
}

#[test]
fn a_client_is_ready_while_it_has_its_server() {
    let server = Daemon::server().start();
    let client = Daemon::client(&server).config(json!({ "http": "127.0.0.1:0" })).start();
    client.wait_log("link up");
    let well = json!({ "status": "ready", "executor": "ok", "spool": "ok", "link": "up", "stopping": "no" });
    assert_eq!(readiness(&client), (200, well.clone()));
    let line = client.wait_log("HTTP ready");
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("it says where");
    let mut web = Web::tcp(address);
    assert_eq!(web.get("/readyz").json(), well);
    assert!(web.get("/metrics").body.contains("role=\"client\"} 1"));
    let health = |words: &[&str]| {
        let mut command = command(&[&["health"], words].concat());
        command.env("WSDAEMON_PREFIX", client.prefix());
        ran(command, "")
    };
    let said = health(&["--ready"]);
    assert_eq!(
        (said.code, &*said.out, &*said.err),
        (0, "executor: ok\nlink: up\nspool: ok\nstatus: ready\nstopping: no\n", "")
    );
    let plan = server.crash();
    client.wait_log("link down");
    let (status, said) = readiness(&client);
    assert_eq!((status, &said["link"]), (503, &json!("the server is not linked")));
    let said = health(&["--ready"]);
    assert!(said.code == 69 && said.out.contains("link: the server is not linked\n"), "{said:?}");
    assert_eq!(health(&[]).code, 0, "it answers all the same");
    let _server = plan.start();
    wait_for("it is ready again", || readiness(&client).0 == 200);
}

#[test]
fn a_daemon_that_stops_says_so_to_who_is_still_there() {
    let (mut server, client) = pair();
    client.script("hold", "#!/bin/sh\nread -r _ < go\n");
    let mut go = Fifo::new(client.prefix(), "go");
    let mut local = server.connect();
    local.send(json!({ "name": "hold" }).to_string());
    wait_for("it runs", || figure(&figures(&client), "wsdaemon_runs_running") > 0.0);
    let watching = RefCell::new(server.connect());
    server.signal(Signal::TERM);
    server.wait_log("told to stop");
    wait_for("it drains", || {
        let page = watching.borrow_mut().result("METRICS", &Value::Null);
        figure(&samples(page.as_str().expect("text")), "wsdaemon_draining") > 0.0
    });
    go.release(1);
    assert_eq!(local.said()["status"], 0);
    assert_eq!(server.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn the_alerts_are_about_figures_that_are_there_and_say_what_they_should() {
    let alerts = root().join("contrib/prometheus/alerts.yml");
    let text = fs::read_to_string(&alerts).expect("it is there");
    let server = Daemon::server().start();
    let there: BTreeSet<String> = figures(&server).into_keys().map(|name| first_word(&name)).collect();
    let mut named = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        for (at, _) in line.match_indices("wsdaemon_").chain(line.match_indices("process_")) {
            named.insert(first_word(&line[at..]));
        }
    }
    assert!(named.len() > 8, "{named:?}");
    assert!(named.is_subset(&there), "alerts about what is not there: {:?}", named.difference(&there));

    let promtool = root().join("target/promtool/usr/bin/promtool");
    let promtool = promtool.to_str().expect("a plain path");
    if !need_tool(promtool) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::copy(&alerts, folder.path().join("alerts-under-test.yml")).expect("it is there");
    fs::write(folder.path().join("test.yml"), include_str!("alerts.yml")).expect("it is ours");
    let configs = marked_blocks("docs/metrics.md").into_iter().find(|block| block.mark == "file prometheus.yml");
    fs::write(folder.path().join("prometheus.yml"), configs.expect("the page shows one").text).expect("it is ours");
    for words in [
        &["check", "rules", "alerts-under-test.yml"][..],
        &["test", "rules", "test.yml"],
        &["check", "config", "--syntax-only", "prometheus.yml"],
    ] {
        let mut check = Command::new(promtool);
        check.args(words).current_dir(folder.path());
        let said = ran(check, "");
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
    }
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '_').collect()
}
