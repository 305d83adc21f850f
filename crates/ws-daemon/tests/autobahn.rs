//! The cases of the Autobahn test suite, run by kosoku against the daemon's own accepting and dialling code: frames are echoed by what
//! links are made of. It never looks into a case; what one finds is in the report, whose verdict is compared.
//!
//! Those of compression (12 and 13) are left out: no extension is offered or accepted here.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why and ends")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use ws_daemon::api::Visit;
use ws_daemon::audit::Audit;
use ws_daemon::config::{InUse, Limits, Open, ServerUrl, Settings, Source, Sources, Times, Written};
use ws_daemon::http::{Door, Http};
use ws_daemon::link::{CloseCode, Event, Frame, Terms, Wire, dial};
use ws_daemon::peers::{Known, Peers};
use ws_daemon::tasks::{Stop, Tasks};
use ws_daemon::tls::{ClientPlan, ClientTls, ServerPlan, ServerTls};
use ws_daemon_protocol::codec::v2::Hello;

/// How many cases there are without those of compression.
const CASES: usize = 301;

/// How long all cases may take.
const ALL: Duration = Duration::from_mins(5);

/// How long one case may take.
const ONE: Duration = Duration::from_mins(1);

/// Verdicts that are no failure: right, and what the suite only wants to know. `NON-STRICT` is right as well; it means that a fault
/// was seen later than it could have been.
const GOOD: [&str; 3] = ["OK", "INFORMATIONAL", "NON-STRICT"];

#[tokio::test]
async fn our_server_fails_no_case() {
    let Some(suite) = Suite::find() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let tasks = Tasks::default();
    tasks.spawn(serve(listener, tasks.clone()));
    let kosoku = suite.start(&["-m", "fuzzingclient", "-p", "4"], &address);
    suite.judge(kosoku).await;
}

#[tokio::test]
async fn our_client_fails_no_case() {
    let Some(suite) = Suite::find() else { return };
    let mut kosoku = suite.start(&["-m", "fuzzingserver"], "127.0.0.1:0");
    let said = BufReader::new(kosoku.stderr.take().expect("it is piped")).lines().next();
    let said = said.expect("it says where it listens").expect("in text");
    let (_, address) = said.split_once("ws://").unwrap_or_else(|| panic!("no address in {said:?}"));
    let cases = case_count(address).await;
    assert_eq!(cases, CASES);
    for case in 1..=cases {
        let wire = reach(address, &format!("runCase?case={case}&agent=ws-daemon")).await;
        timeout(ONE, echo(wire)).await.unwrap_or_else(|_| panic!("case {case} does not end"));
    }
    timeout(ONE, echo(reach(address, "updateReports?agent=ws-daemon").await)).await.expect("reports are written");
    suite.judge(kosoku).await;
}

// ---- What echoes -----------------------------------------------------------------------------------------------

/// The daemon's port, with an echo in the place of its links.
async fn serve(listener: TcpListener, tasks: Tasks) {
    let (limits, times) = defaults();
    let (inbound, _nobody) = mpsc::channel(1);
    let me = Hello {
        name: "echo".into(),
        configured: false,
        instance: "0".into(),
        epoch: 1,
        version: String::new(),
        tags: Vec::new(),
        capacity: 0,
        features: Vec::new(),
        former: Vec::new(),
    };
    let peers = Peers::new(inbound, Terms::new(&limits, &times), CancellationToken::new(), me, Known::default(), |_| {});
    let folder = PathBuf::from("/nonexistent");
    let plan = ServerPlan {
        folder,
        on: Some(false),
        own: None,
        clients: None,
        host: String::new(),
        names: Vec::new(),
        life: Duration::MAX,
        plain: true,
    };
    let tls = ServerTls::open(plan).expect("nothing is opened");
    let door = Door { open: InUse::new(Open::All), tls: Some(tls), audit: Audit::off(), api: None };
    let http = Http::new(peers, door, times.handshake, &limits, tasks.clone(), Stop::default());
    while let Ok((stream, address)) = listener.accept().await {
        let http = http.clone();
        tasks.spawn(async move {
            let wire = timeout(times.handshake, http.upgrade(stream, address, &Visit::default())).await.expect("in time");
            if let Some((wire, _, _)) = wire {
                echo(wire).await;
            }
        });
    }
}

/// Sends every frame back, and parts as a link does.
async fn echo(mut wire: Wire) {
    loop {
        let gone = match wire.event(wire.has_room()).await {
            Event::Frame(frame) => wire.feed(frame).err(),
            Event::Control | Event::Flushed => None,
            Event::Gone(gone) => Some(gone),
        };
        if let Some(gone) = gone {
            if let Some((code, words)) = gone.close_code() {
                wire.part(code, words).await;
            }
            return;
        }
    }
}

async fn reach(address: &str, path: &str) -> Wire {
    let (limits, times) = defaults();
    let server = ServerUrl::parse(&format!("ws://{address}/{path}"), None).expect("a form of the contract");
    let deadline = Instant::now() + times.handshake;
    let tls = ClientTls::new(ClientPlan { folder: PathBuf::from("/nonexistent"), roots: None, identity: None });
    let dialled = dial(&server, &tls, deadline, times.handshake, limits.message).await;
    dialled.unwrap_or_else(|error| panic!("{path}: {error}")).0
}

async fn case_count(address: &str) -> usize {
    let mut wire = reach(address, "getCaseCount").await;
    loop {
        match timeout(ONE, wire.event(true)).await.expect("it is said at once") {
            Event::Frame(Frame::Text(count)) => {
                wire.part(CloseCode::NORMAL, "").await;
                return count.parse().expect("a number");
            }
            Event::Control | Event::Flushed => {}
            other => panic!("no count, but {other:?}"),
        }
    }
}

/// The bounds and times of a daemon that nobody told anything.
fn defaults() -> (Limits, Times) {
    let flags = Written::parse(Path::new("config.json"), r#"{"mode":"server"}"#).expect("it is a config");
    let sources = Sources { prefix: (PathBuf::from("/nowhere"), Source::Default), flags, ..Sources::default() };
    let (settings, _) = Settings::resolve(&sources).expect("nothing is required of a server");
    (settings.limits, settings.times)
}

// ---- The suite -------------------------------------------------------------------------------------------------

struct Suite {
    kosoku: PathBuf,
    reports: TempDir,
}

impl Suite {
    /// Where tools/install-test-tools.sh puts it. Without it the test is skipped, which is counted; in CI that is a failure.
    fn find() -> Option<Self> {
        let kosoku = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/autobahn/bin/kosoku");
        if kosoku.exists() {
            return Some(Self { kosoku, reports: tempfile::tempdir().expect("a temporary folder can be made") });
        }
        assert!(env::var_os("CI").is_none(), "kosoku is missing, and in CI every test runs");
        let test = thread::current().name().unwrap_or("a test").to_owned();
        eprintln!("skipped: {test} needs kosoku");
        if let Some(list) = env::var_os("WSDAEMON_TEST_SKIPS") {
            let mut list = fs::OpenOptions::new().create(true).append(true).open(list).expect("the list can be written");
            list.write_all(format!("{test}: needs kosoku\n").as_bytes()).expect("the list can be written");
        }
        None
    }

    fn start(&self, mode: &[&str], address: &str) -> Child {
        let mut command = Command::new(&self.kosoku);
        command.args(mode).args(["-x", "12.*", "-x", "13.*"]);
        command.arg("-o").arg(self.reports.path()).arg(address);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it was found")
    }

    /// Waits until the suite has written its report, and reads the verdicts.
    async fn judge(&self, kosoku: Child) {
        let ended = tokio::task::spawn_blocking(move || kosoku.wait_with_output());
        let ended = timeout(ALL, ended).await.expect("the suite ends").expect("no panic").expect("its pipes are ours");
        let index = fs::read_to_string(self.reports.path().join("index.json"));
        let index = index.unwrap_or_else(|error| panic!("no report ({error}): {ended:?}"));
        let index: Value = serde_json::from_str(&index).expect("the report is JSON");
        let agents = index.as_object().expect("by agent");
        assert_eq!(agents.len(), 1, "{agents:?}");
        let cases: &serde_json::Map<String, Value> = agents.values().next().and_then(Value::as_object).expect("by case");
        let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
        let mut failed = Vec::new();
        for (case, found) in cases {
            for verdict in [&found["behavior"], &found["behaviorClose"]] {
                let verdict = verdict.as_str().unwrap_or_default();
                *verdicts.entry(verdict.to_owned()).or_default() += 1;
                if !GOOD.contains(&verdict) {
                    failed.push(format!("{case}: {found}"));
                }
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(cases.len(), CASES, "the suite has run other cases than it should: {verdicts:?}");
        assert!(verdicts.get("OK").copied().unwrap_or_default() > cases.len(), "{verdicts:?}");
        assert!(ended.status.success(), "{ended:?}");
    }
}
