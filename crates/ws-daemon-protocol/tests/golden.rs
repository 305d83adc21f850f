//! The golden samples: every message, as each released version said it, one file a message in `golden/VERSION/`. What stands there
//! is read for ever, and today's encoders still say what the newest of them said. A file is never changed; `UPDATE_GOLDEN=1`
//! writes those that are missing in the folder of this version.

#![expect(clippy::expect_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use serde_json::Value;
use serde_json::value::RawValue;
use ws_daemon_protocol::codec::v2::{self, Frame, Have, Hello, Hop, Order, Progress, Roots, RunFrame, StatusFrame, Verdict};
use ws_daemon_protocol::command::{
    CallersTask, Command, ExplainQuery, Invite, KeysTask, LogChange, NewCaller, OutputQuery, Place, Revoke, Rotate, RunQuery,
    RunState, RunsQuery, Serve, StreamName, Topic, Which,
};
use ws_daemon_protocol::event::{Chunk, Event};
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::{CommandMessage, Message, Params, Request};
use ws_daemon_protocol::options::{NotBefore, Options, OutputMode, Queue, Route};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report, Signal};
use ws_daemon_protocol::target::Target;
use ws_daemon_protocol::trace::Trace;
use ws_daemon_protocol::worker::{Asked, Said};

const RUN: &str = "0190a000-0000-7000-8000-000000000001";

/// A message by the name of its file, and how this version says it.
type Sample = (String, String);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every sample of every version: its name and its text.
fn all() -> Vec<Sample> {
    let versions = fs::read_dir(folder()).expect("there are samples").map(|version| version.expect("readable").path());
    let files = versions.flat_map(|version| fs::read_dir(version).expect("a folder for each version"));
    let read = |file: PathBuf| {
        let name = file.file_stem().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        (name, fs::read_to_string(&file).expect("readable").trim_end().to_owned())
    };
    let found: Vec<Sample> = files.map(|file| read(file.expect("readable").path())).collect();
    assert!(found.len() > 50, "samples are gone: {}", found.len());
    found
}

fn id(json: &str) -> CallerId {
    let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
    CallerId::new(&raw).expect("short")
}

fn params(json: &str) -> Params {
    let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
    Params::new(Some(&raw))
}

fn run() -> RunId {
    RunId::new(RUN)
}

fn target(text: &str) -> Target {
    Target::parse(text).expect("a target")
}

fn chunk(stream: StreamName, offset: u64, data: &str, is_base64: bool, gap: u64) -> Chunk {
    Chunk { run: run(), stream, offset, data: data.into(), is_base64, gap }
}

// ---- Frames ----------------------------------------------------------------------------------------------------

/// The frames of both directions.
fn frames() -> Vec<(&'static str, Frame)> {
    let asked =
        |name: &str, json, order| Frame::Run(Box::new(RunFrame { name: name.into(), run: run(), params: params(json), order }));
    let status = |verdict, report| Frame::Status(Box::new(StatusFrame { run: run(), verdict, report }));
    let of_attempt = |attempt, refused| Verdict { attempt: Some(attempt), refused };
    let command = |command, id: Option<CallerId>, json| {
        Frame::Command(CommandMessage { place: Place::There, command, id, params: params(json) })
    };
    let queued = Order { queue: true, attempt: 1, ..Order::default() };
    let full = Order {
        caller: Some(id(r#"{"any":["type",1.50]}"#)),
        timeout_ms: Some(30_000),
        output: OutputMode::Stream,
        events: true,
        credit: 262_144,
        queue: true,
        attempt: 2,
        have: Some(Have { stdout: 8192, stderr: 0 }),
        hop: None,
        trace: None,
    };
    let hop = |to, route| Order { hop: Some(Box::new(Hop { to, route })), ..Order::default() };
    let hello = Hello {
        name: "web 1".into(),
        configured: true,
        instance: "5f0c9ad3-6a0e-4c6c-9a3b-0d6f3b1f9f11".into(),
        epoch: 3,
        version: "0.2.0".into(),
        tags: vec!["sms".into(), "eu".into()],
        capacity: 256,
        features: ["output", "events", "queue", "relay"].map(Into::into).into(),
        former: vec!["0e0d1d46-5f3a-4a3e-8f0b-7b8f1d1c2a10".into()],
    };
    vec![
        ("frame-run-plain", asked("sms/send", r#"{"to": "+49", "n": 1.50}"#, Order::default())),
        ("frame-run-queued", asked("sms/send", "null", queued)),
        ("frame-run-full", asked("t\"é", "[1e5]", full)),
        ("frame-run-trace", asked("t", "1", Order { trace: trace(), ..Order::default() })),
        ("frame-run-tail", asked("t", "1", Order { output: OutputMode::Tail, ..Order::default() })),
        ("frame-run-json", asked("t", "\"x\"", Order { output: OutputMode::Json, timeout_ms: Some(0), ..Order::default() })),
        ("frame-run-hop", asked("t", "true", hop(Some(target("web-*")), Route::LeastBusy))),
        ("frame-run-hop-sticky", asked("t", "{}", hop(None, Route::Sticky("till 5".into())))),
        ("frame-hello", Frame::Hello(Box::new(hello))),
        ("frame-status", status(Verdict::default(), Outcome::Exited(7).into())),
        ("frame-status-queued", status(of_attempt(1, false), Outcome::Signaled(Signal(9)).into())),
        ("frame-status-refused", status(of_attempt(2, true), Outcome::failed(ErrorCode::Busy, "full").into())),
        ("frame-status-full", status(of_attempt(1, false), full_report())),
        ("frame-event-delivered", Frame::Event(run(), Progress::Delivered)),
        ("frame-event-started", Frame::Event(run(), Progress::Started)),
        ("frame-output-text", Frame::Output(Box::new(chunk(StreamName::Stdout, 0, "é\n\"", false, 0)))),
        ("frame-output-bytes", Frame::Output(Box::new(chunk(StreamName::Stderr, 9, "/w==", true, 5)))),
        ("frame-credit", Frame::Credit(run(), 65_536)),
        ("frame-cancel", Frame::Cancel(run(), None)),
        ("frame-cancel-attempt", Frame::Cancel(run(), Some(2))),
        ("frame-ack", Frame::Ack(run(), 2)),
        ("frame-drain", Frame::Drain { restarts: false }),
        ("frame-drain-restart", Frame::Drain { restarts: true }),
        ("frame-roots", Frame::Roots(Roots::Roots(vec!["-----BEGIN CERTIFICATE-----\n".into()]))),
        ("frame-roots-have", Frame::Roots(Roots::Have(vec!["0f".repeat(32)]))),
        ("frame-ping", Frame::Ping((&run()).into())),
        (
            "frame-command-pause",
            command(Command::Pause(Duration::from_secs(1)), Some((&run()).into()), r#"{"code":"PAUSE","data":1000}"#),
        ),
        ("frame-command-peers", command(Command::Peers, Some((&run()).into()), "null")),
        ("frame-command-local-status", Frame::LocalStatus(None, r#"{"status":0,"id":"x"}"#.into())),
    ]
}

/// How this version says a frame.
fn said(frame: &Frame) -> String {
    match frame {
        Frame::Run(frame) => v2::run(&frame.name, &frame.run, &frame.params, &frame.order),
        Frame::Hello(hello) => v2::hello(hello),
        Frame::Status(frame) => v2::status(&(&frame.run).into(), frame.verdict, &frame.report),
        Frame::Event(run, progress) => v2::event(run, *progress),
        Frame::Output(chunk) => v2::output(chunk),
        Frame::Credit(run, bytes) => v2::credit(run, *bytes),
        Frame::Cancel(run, attempt) => v2::cancel(run, *attempt),
        Frame::Ack(run, attempt) => v2::ack(run, *attempt),
        Frame::Drain { restarts } => v2::drain(*restarts),
        Frame::Roots(roots) => v2::roots(roots),
        Frame::Ping(_) => v2::ping(&run()),
        Frame::Command(CommandMessage { command: Command::Peers, .. }) => v2::peers(&run()),
        Frame::Command(message) => v2::local_command(message.id.as_ref().map(|_| run()).as_ref(), &message.params),
        Frame::LocalStatus(_, data) => v2::local_command(None, &params(&format!(r#"{{"code":"STATUS","data":{data}}}"#))),
    }
}

/// What kind of frame it is. A new one is added here, in the list below, and to the samples.
fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Run(_) => FRAMES[0],
        Frame::Hello(_) => FRAMES[1],
        Frame::Status(_) => FRAMES[2],
        Frame::Event(..) => FRAMES[3],
        Frame::Output(_) => FRAMES[4],
        Frame::Credit(..) => FRAMES[5],
        Frame::Cancel(..) => FRAMES[6],
        Frame::Ack(..) => FRAMES[7],
        Frame::Drain { .. } => FRAMES[8],
        Frame::Ping(_) => FRAMES[9],
        Frame::Command(_) => FRAMES[10],
        Frame::LocalStatus(..) => FRAMES[11],
        Frame::Roots(_) => FRAMES[12],
    }
}

const FRAMES: [&str; 13] = [
    "run",
    "hello",
    "status",
    "event",
    "output",
    "credit",
    "cancel",
    "ack",
    "drain",
    "ping",
    "command",
    "local status",
    "roots",
];

// ---- What local processes hear ---------------------------------------------------------------------------------

fn full_report() -> Report {
    let mut report = Report::from(Outcome::Exited(0));
    let more = report.more_mut();
    more.peer = Some("web 1".into());
    more.result = Some(r#"{"a":[1.0]}"#.into());
    more.stdout = Some("AAE=".into());
    more.stderr = Some("e\n".into());
    more.encoding = Some(r#"{"stdout":"base64"}"#.into());
    more.cut = Some(r#"{"stderr":{"at":8192,"bytes":70000}}"#.into());
    more.ms = Some(12);
    report
}

fn events() -> Vec<(&'static str, Event)> {
    let peer = || "web 1".into();
    vec![
        ("event-accepted", Event::Accepted { run: run(), nearest: None, runs: None }),
        ("event-accepted-nearest", Event::Accepted { run: run(), nearest: Some("web-1".into()), runs: None }),
        ("event-accepted-runs", Event::Accepted { run: run(), nearest: None, runs: Some(3) }),
        ("event-delivered", Event::Delivered { run: run(), peer: peer() }),
        ("event-started", Event::Started { run: run(), peer: peer() }),
        ("event-output-text", Event::Output(chunk(StreamName::Stdout, 0, "é\n", false, 0))),
        ("event-output-bytes", Event::Output(chunk(StreamName::Stderr, 9, "/w==", true, 5))),
        ("event-done", Event::Done { runs: 3, failed: 1 }),
    ]
}

/// What kind of event it is; as [`kind`].
fn event_kind(event: &Event) -> &'static str {
    match event {
        Event::Accepted { .. } => EVENTS[0],
        Event::Delivered { .. } => EVENTS[1],
        Event::Started { .. } => EVENTS[2],
        Event::Output(_) => EVENTS[3],
        Event::Done { .. } => EVENTS[4],
    }
}

const EVENTS: [&str; 5] = ["accepted", "delivered", "started", "output", "done"];

fn finals() -> Vec<(String, Report)> {
    let with_run = |mut report: Report| {
        report.more_mut().run = Some(run());
        report
    };
    let mut finals = vec![
        ("final-exited".to_owned(), Report::from(Outcome::Exited(7))),
        ("final-signaled".into(), Outcome::Signaled(Signal(9)).into()),
        ("final-seed-signaled".into(), Report { status: None, ..Report::SEED_NOBODY }),
        ("final-seed-nobody".into(), Report::SEED_NOBODY),
        ("final-stopped".into(), Outcome::Stopped(ErrorCode::TimedOut, "stopped".into(), Signal(15)).into()),
        ("final-full".into(), with_run(full_report())),
    ];
    for (code, word, _) in ErrorCode::ALL {
        finals.push((format!("final-failed-{}", word.replace('_', "-")), Outcome::failed(code, "why \"x\"").into()));
    }
    finals
}

// ---- What local processes say ----------------------------------------------------------------------------------

fn trace() -> Option<Box<Trace>> {
    let text = |text: &str| Some(text.into());
    let traceparent = text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    Some(Box::new(Trace { traceparent, request_id: text("req-5"), event: text("push") }))
}

fn requests() -> Vec<(&'static str, Request)> {
    let request =
        |options| Request { name: "sms/send".into(), id: Some(id("\"x\"")), params: params(r#"{"a":1.50}"#), options };
    let plain = Options::default;
    let queue = |ttl, not_before| Some(Queue { ttl: Duration::from_secs(ttl), not_before });
    vec![
        ("request-plain", request(plain())),
        ("request-trace", request(Options { trace: trace(), ..plain() })),
        ("request-without-id", Request { id: None, ..request(plain()) }),
        ("request-to-name", request(Options { to: Some(target("web-1")), ..plain() })),
        (
            "request-to-list",
            request(Options { to: Target::list(["web-*", "tag:sms", "!web-2"]).ok(), route: Route::LeastBusy, ..plain() }),
        ),
        ("request-sticky", request(Options { route: Route::Sticky("till 5".into()), ..plain() })),
        (
            "request-each",
            request(Options { to: Some(target("*")), each: true, batch: Some(2), max_failures: Some(1), ..plain() }),
        ),
        (
            "request-tail",
            request(Options { output: OutputMode::Tail, timeout: Some(Duration::from_secs(30)), events: true, ..plain() }),
        ),
        ("request-json", request(Options { output: OutputMode::Json, then: Some("sms/done".into()), ..plain() })),
        ("request-stream", request(Options { output: OutputMode::Stream, ..plain() })),
        ("request-queue", request(Options { queue: queue(3600, NotBefore::Now), retry: 3, ..plain() })),
        ("request-queue-after", request(Options { queue: queue(60, NotBefore::After(Duration::from_secs(5))), ..plain() })),
        ("request-queue-at", request(Options { queue: queue(60, NotBefore::At(1_800_000_000_000)), ..plain() })),
    ]
}

/// What local processes write in other words than ours: read only. The second is the request in our words.
const WRITTEN: [(&str, &str, &str); 3] = [
    ("request-written-queue-true", r#"{"name":"t","queue":true}"#, r#"{"name":"t","params":null,"queue":{"ttl":86400000}}"#),
    (
        "request-written-durations",
        r#"{"timeout":"30s","id":5,"name":"t","params":[ 1.0 ],"queue":{"ttl":"1h","not_before":"5m"}}"#,
        r#"{"name":"t","id":5,"params":[1.0],"timeout":30000,"queue":{"not_before":"300000ms","ttl":3600000}}"#,
    ),
    (
        "request-written-defaults",
        r#"{"name":"t","route":"round-robin","output":"none","each":false,"events":false,"queue":false,"retry":{"max":0}}"#,
        r#"{"name":"t","params":null}"#,
    ),
];

/// The commands as they are written, and what they mean.
fn commands() -> Vec<(&'static str, &'static str, Command)> {
    let of_run = || Which::Run(run());
    let output = OutputQuery { stream: Some(StreamName::Stdout), offset: 10, limit: Some(100), follow: true };
    let runs = RunsQuery { state: Some(RunState::Settled), peer: Some("web-1".into()), limit: Some(5) };
    let plain = Invite { name: "web-1".into(), tags: Vec::new(), allow: None, ttl: None, uses: None, urls: Vec::new() };
    let ways = Invite { urls: vec!["wss://hub:3006/".into(), "ws://192.0.2.1:3006".into()], ..plain.clone() };
    let full = Invite {
        name: "web".into(),
        tags: vec!["sms".into()],
        allow: Some(vec!["sms/*".into()]),
        ttl: Some(Duration::from_mins(10)),
        uses: Some(3),
        urls: vec!["wss://hub:3006/".into()],
    };
    vec![
        ("command-pause", r#"{"code":"PAUSE","data":1000}"#, Command::Pause(Duration::from_secs(1))),
        (
            "command-status",
            r#"{"code":"STATUS","data":{"status":0,"id":"x"}}"#,
            Command::Status(r#"{"status":0,"id":"x"}"#.into()),
        ),
        ("command-peers", r#"{"code":"PEERS"}"#, Command::Peers),
        ("command-ping", r#"{"code":"PING","data":"web-*"}"#, Command::Ping(Some(target("web-*")))),
        ("command-ping-all", r#"{"code":"PING","data":null}"#, Command::Ping(None)),
        ("command-runs", r#"{"code":"RUNS"}"#, Command::Runs(RunsQuery::default())),
        ("command-runs-some", r#"{"code":"RUNS","data":{"state":"settled","peer":"web-1","limit":5}}"#, Command::Runs(runs)),
        (
            "command-run",
            r#"{"code":"RUN","data":"0190a000-0000-7000-8000-000000000001"}"#,
            Command::Run(RunQuery { which: of_run(), output: None }),
        ),
        (
            "command-run-by-id",
            r#"{"code":"RUN","data":{"id":"x"}}"#,
            Command::Run(RunQuery { which: Which::Id(id("\"x\"")), output: None }),
        ),
        (
            "command-run-output",
            r#"{"code":"RUN","data":{"run":"0190a000-0000-7000-8000-000000000001","output":"stdout","offset":10,"limit":100,"follow":true}}"#,
            Command::Run(RunQuery { which: of_run(), output: Some(output) }),
        ),
        (
            "command-cancel",
            r#"{"code":"CANCEL","data":{"run":"0190a000-0000-7000-8000-000000000001"}}"#,
            Command::Cancel(of_run()),
        ),
        ("command-cancel-by-id", r#"{"code":"CANCEL","data":{"id":5}}"#, Command::Cancel(Which::Id(id("5")))),
        ("command-scripts", r#"{"code":"SCRIPTS"}"#, Command::Scripts),
        ("command-stats", r#"{"code":"STATS"}"#, Command::Stats),
        ("command-subscribe", r#"{"code":"SUBSCRIBE"}"#, Command::Subscribe(Topic::ALL.into())),
        ("command-subscribe-some", r#"{"code":"SUBSCRIBE","data":["runs"]}"#, Command::Subscribe(vec![Topic::Runs])),
        ("command-reload", r#"{"code":"RELOAD"}"#, Command::Reload),
        ("command-restart", r#"{"code":"RESTART"}"#, Command::Restart),
        ("command-invite", r#"{"code":"INVITE","data":{"name":"web-1"}}"#, Command::Invite(plain)),
        (
            "command-invite-full",
            r#"{"code":"INVITE","data":{"name":"web","tags":["sms"],"allow":["sms/*"],"ttl":"10m","uses":3,"url":"wss://hub:3006/"}}"#,
            Command::Invite(full),
        ),
        (
            "command-invite-urls",
            r#"{"code":"INVITE","data":{"name":"web-1","url":["wss://hub:3006/","ws://192.0.2.1:3006"]}}"#,
            Command::Invite(ways),
        ),
        ("command-revoke", r#"{"code":"REVOKE","data":{"name":"web-1"}}"#, Command::Revoke(Revoke { name: "web-1".into() })),
        (
            "command-rotate",
            r#"{"code":"ROTATE","data":{"name":"web-1","at_once":true,"ttl":60000}}"#,
            Command::Rotate(Rotate {
                name: "web-1".into(),
                at_once: true,
                ttl: Some(Duration::from_mins(1)),
                urls: Vec::new(),
            }),
        ),
        ("command-keys", r#"{"code":"KEYS","data":{"do":"show"}}"#, Command::Keys(KeysTask::Show)),
        (
            "command-serve",
            r#"{"code":"SERVE","data":{"names":["sms/*"],"ready":8}}"#,
            Command::Serve(Serve { names: vec!["sms/*".into()], ready: 8 }),
        ),
        ("command-metrics", r#"{"code":"METRICS"}"#, Command::Metrics),
        ("command-log", r#"{"code":"LOG"}"#, Command::Log(None)),
        (
            "command-log-change",
            r#"{"code":"LOG","data":{"filter":"info,ws_daemon::link=trace","for":"10m"}}"#,
            Command::Log(Some(LogChange {
                filter: "info,ws_daemon::link=trace".into(),
                within: Some(Duration::from_mins(10)),
            })),
        ),
        (
            "command-callers",
            r#"{"code":"CALLERS","data":{"do":"add","name":"ci","allow":["deploy/*"],"to":"tag:web","commands":["STATS"],"hmac":true,"header":"X-Signature"}}"#,
            Command::Callers(CallersTask::Add(NewCaller {
                name: "ci".into(),
                allow: Some(vec!["deploy/*".into()]),
                to: Some(Target::parse("tag:web").expect("a target")),
                commands: Some(vec!["STATS".into()]),
                hmac: true,
                header: Some("X-Signature".into()),
            })),
        ),
        (
            "command-explain",
            r#"{"code":"EXPLAIN","data":{"as":"user:deploy","name":"sms/send","to":"tag:till"}}"#,
            Command::Explain(ExplainQuery {
                actor: "user:deploy".into(),
                name: "sms/send".into(),
                to: Some(Target::parse("tag:till").expect("a target")),
            }),
        ),
    ]
}

/// What SUBSCRIBE lets come. The daemon makes these lines, and a test of its own compares them.
const NEWS: [(&str, &str); 6] = [
    ("news-running", r#"{"event":"running","id":"x","name":"t","peer":"web","run":"0190a000-0000-7000-8000-000000000001"}"#),
    (
        "news-settled",
        r#"{"event":"settled","report":{"run":"0190a000-0000-7000-8000-000000000001","status":0},"run":"0190a000-0000-7000-8000-000000000001"}"#,
    ),
    (
        "news-corrected",
        r#"{"event":"corrected","report":{"peer":"web","run":"0190a000-0000-7000-8000-000000000001","status":3},"run":"0190a000-0000-7000-8000-000000000001"}"#,
    ),
    (
        "news-peer-online",
        r#"{"address":"127.0.0.1:9","event":"peer-online","instance":"5f0c9ad3-6a0e-4c6c-9a3b-0d6f3b1f9f11","peer":"web","tags":["sms"]}"#,
    ),
    ("news-peer-offline", r#"{"address":"127.0.0.1:9","event":"peer-offline","instance":null,"peer":"127.0.0.1","tags":[]}"#),
    ("news-gap", r#"{"event":"gap","missed":5}"#),
];

/// What a worker is asked.
fn asked() -> Vec<(&'static str, String)> {
    let (run, params, caller, trace) = (run(), params(r#"{"to":"+49","n":1.50}"#), id(r#"{"any":["type",1.50]}"#), trace());
    let plain =
        Asked { run: &run, name: "sms/send", params: &params, peer: "web 1", caller: None, deadline: None, trace: None };
    let deadline = Some(Duration::from_millis(1_800_000_000_050));
    let full = Asked { caller: Some(&caller), deadline, trace: trace.as_deref(), ..plain };
    let line = |asked: Asked<'_>| {
        let mut line = String::new();
        asked.write(&mut line);
        line.trim_end().to_owned()
    };
    vec![("worker-asked", line(plain)), ("worker-asked-full", line(full))]
}

/// What a worker says: read only.
const WORKER_SAID: [(&str, &str); 5] = [
    ("worker-said", r#"{"id":"0190a000-0000-7000-8000-000000000001","status":0}"#),
    ("worker-said-result", r#"{"id":"0190a000-0000-7000-8000-000000000001","status":0,"result":{"a":[1.0]}}"#),
    (
        "worker-said-full",
        r#"{"id":"0190a000-0000-7000-8000-000000000001","status":7,"stdout":"o\n","stderr":"e\n","message":"it is late"}"#,
    ),
    ("worker-said-output", r#"{"id":"0190a000-0000-7000-8000-000000000001","event":"output","stream":"stdout","data":"é\n"}"#),
    (
        "worker-said-bytes",
        r#"{"id":"0190a000-0000-7000-8000-000000000001","event":"output","stream":"stderr","data":"/w==","encoding":"base64"}"#,
    ),
];

// ---- The tests -------------------------------------------------------------------------------------------------

/// Every message as this version says it.
fn today() -> Vec<Sample> {
    let caller = || Some(id("\"x\""));
    let frames = frames().into_iter().map(|(name, frame)| (name.to_owned(), said(&frame)));
    let events = events().into_iter().map(|(name, event)| (name.to_owned(), event.to_json(caller().as_ref())));
    let finals = finals().into_iter().map(|(name, report)| (name, report.to_json(caller().as_ref())));
    let requests = requests().into_iter().map(|(name, request)| (name.to_owned(), request.to_json()));
    let written = WRITTEN.into_iter().map(|(name, text, _)| (name.to_owned(), text.to_owned()));
    let commands = commands()
        .into_iter()
        .map(|(name, params, _)| (name.to_owned(), format!(r#"{{"name":"+cmd","id":"x","params":{params}}}"#)));
    let news = NEWS.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned()));
    let workers = asked().into_iter().map(|(name, text)| (name.to_owned(), text));
    let answers = WORKER_SAID.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned()));
    let own = frames.chain(events).chain(finals).chain(requests).chain(written).chain(commands).chain(news);
    own.chain(workers).chain(answers).collect()
}

#[test]
fn encoders_say_what_this_version_said() {
    let here = folder().join(env!("CARGO_PKG_VERSION"));
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let said = today();
    for (name, text) in &said {
        let file = here.join(format!("{name}.json"));
        if update && !file.exists() {
            fs::create_dir_all(&here).expect("ours to write");
            fs::write(&file, format!("{text}\n")).expect("ours to write");
        }
        let golden =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}; UPDATE_GOLDEN=1 writes what is missing"));
        assert_eq!(golden.trim_end(), text, "{name}: what was said once is said for ever");
    }
    let named: BTreeSet<&str> = said.iter().map(|(name, _)| &**name).collect();
    assert_eq!(named.len(), said.len(), "a name stands there twice");
}

#[test]
fn what_this_version_said_means_what_it_meant() {
    for (name, frame) in frames() {
        assert_eq!(v2::decode(&said(&frame), 128), Ok(frame), "{name}");
    }
    for (name, request) in requests() {
        assert_eq!(Message::parse(&request.to_json()), Ok(Message::Run(request)), "{name}");
    }
    for (name, text, meant) in WRITTEN {
        let Ok(Message::Run(request)) = Message::parse(text) else { panic!("{name}") };
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(value(&request.to_json()), value(meant), "{name}");
    }
    for (name, params, command) in commands() {
        assert_eq!(Command::parse(Place::Here, params), Ok(command), "{name}");
    }
    for (name, report) in finals() {
        assert_eq!(Report::parse(&report.to_json(None)).expect("a status"), report, "{name}");
    }
}

#[test]
fn every_sample_of_every_version_is_read() {
    for (name, text) in all() {
        match name.split('-').next().unwrap_or_default() {
            "frame" => {
                let frame = v2::decode(&text, 128).unwrap_or_else(|refused| panic!("{name}: {refused}"));
                assert_eq!(v2::decode(&said(&frame), 128), Ok(frame), "{name}");
            }
            "request" | "command" => {
                Message::parse(&text).unwrap_or_else(|rejection| panic!("{name}: {rejection:?}"));
            }
            "final" => {
                let report = Report::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(report.to_json(Some(&id("\"x\""))), text, "{name}");
            }
            "worker" if name.starts_with("worker-said") => {
                let said = Said::parse(&text).unwrap_or_else(|fault| panic!("{name}: {fault}"));
                assert_ne!(said, Said::Message, "{name}");
            }
            "worker" => {
                let line: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(line["id"], RUN, "{name}");
            }
            "event" | "news" => {
                let line: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(line["event"].is_string(), "{name}");
            }
            other => panic!("a sample of nothing that is known: {other}"),
        }
    }
}

#[test]
fn every_kind_of_message_has_a_sample() {
    let kinds: BTreeSet<&str> = frames().iter().map(|(_, frame)| kind(frame)).collect();
    assert_eq!(kinds, FRAMES.into_iter().collect());
    let kinds: BTreeSet<&str> = events().iter().map(|(_, event)| event_kind(event)).collect();
    assert_eq!(kinds, EVENTS.into_iter().collect());
    let keys: BTreeSet<String> = requests()
        .iter()
        .flat_map(|(_, request)| {
            let value: Value = serde_json::from_str(&request.to_json()).expect("JSON");
            value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
        })
        .collect();
    assert!(Options::KEYS.iter().all(|key| keys.contains(*key)), "{keys:?}");
    let codes: BTreeSet<String> = commands()
        .iter()
        .map(|(_, params, _)| serde_json::from_str::<Value>(params).expect("JSON")["code"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(codes, Command::CODES.into_iter().map(str::to_owned).collect());
}
