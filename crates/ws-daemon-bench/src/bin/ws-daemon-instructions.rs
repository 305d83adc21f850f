//! `ws-daemon-instructions`: how many instructions the hot paths take, counted by callgrind and held against the figures of this
//! repository. Unlike times they do not drift with the machine.
//!
//! Each path is done a hundred times and eleven hundred times, each in a process of its own under valgrind, and the difference
//! divided: what starting up takes is in neither. A path that takes more than its figure and [`MARGIN`] is a failure; with
//! `UPDATE_INSTRUCTIONS=1` the figures are written anew.

#![deny(unsafe_code)]
#![expect(clippy::cast_precision_loss, clippy::expect_used, clippy::print_stdout, reason = "it prints, and shows shares")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ws_daemon::config::{Accounts, WrittenRule};
use ws_daemon::policy::{Action, Actor, Rules};
use ws_daemon::route;
use ws_daemon::standing::{Proof, Proven, Standing};
use ws_daemon_protocol::codec::framer::{Frame, Framer};
use ws_daemon_protocol::codec::v2::{self, Order, Verdict};
use ws_daemon_protocol::codec::websocket::{self, Decoder, Opcode, Role};
use ws_daemon_protocol::codec::{compact, seed};
use ws_daemon_protocol::id::{CallerId, RunId};
use ws_daemon_protocol::message::{Message, Params};
use ws_daemon_protocol::outcome::{Outcome, Report};
use ws_daemon_protocol::worker::{Asked, Said};

/// The share by which a path may take more than its figure says; and from here on less is worth new figures.
const MARGIN: f64 = 0.05;
const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");
const FEW: u64 = 100;
const MANY: u64 = 1100;
/// How the program calls itself under valgrind: with a path and a count behind it.
const ONE_PATH: &str = "--path";

const NESTING: usize = 128;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMIT: usize = 16 << 20;
const REQUEST: &str = r#"{"name":"sms/send","id":"8a6e0804","params":{"to":"+4915112345678","text":"Your code is 123456. It is valid for ten minutes."}}"#;
const OPTIONS: &str = r#"{"name":"sms/send","id":"8a6e0804","params":{"to":"+4915112345678"},"to":["tag:sms","!web-2"],"timeout":"30s","output":"tail"}"#;
const RUN: &str = "0190a0c1-0000-7000-8000-000000000000";
const PARAMS: &str = r#"{ "to": "+4915112345678", "text": "Your code is 123456. It is valid for ten minutes." }"#;

/// A path, and what it is called.
type Path = (&'static str, fn(u64));

/// In the order in which a request goes through them.
const PATHS: [Path; 19] = [
    ("a request out of the stream, and parsed", |count| {
        let mut framer = Framer::new(LIMIT, NESTING);
        repeat(count, || parse(&mut framer, REQUEST));
    }),
    ("a request with options out of the stream, and parsed", |count| {
        let mut framer = Framer::new(LIMIT, NESTING);
        repeat(count, || parse(&mut framer, OPTIONS));
    }),
    ("the next of 100 peers", |count| {
        let arrivals: Vec<u64> = (1..=100).collect();
        repeat(count, || route::round_robin(black_box(&arrivals), black_box(Some(42))));
    }),
    ("the least busy of 100 peers", |count| {
        let arrivals: Vec<u64> = (1..=100).collect();
        let loads: Vec<_> = (0..100).map(|number| (number % 7 + 1, Some(256))).collect();
        repeat(count, || route::least_busy(black_box(&arrivals), black_box(&loads), black_box(Some(42))));
    }),
    ("an order, written as version 2", |count| {
        let (run, params, order) = (RunId::new(RUN), params(), order());
        repeat(count, || v2::run(black_box("sms/send"), &run, black_box(&params), &order));
    }),
    ("an order, read as version 2", |count| {
        let frame = v2::run("sms/send", &RunId::new(RUN), &params(), &order());
        repeat(count, || v2::decode(black_box(&frame), NESTING).expect("an order"));
    }),
    ("an order, written as the seed's", |count| {
        let (id, params) = (id("\"8a6e0804\""), params());
        repeat(count, || seed::run(black_box("sms/send"), &id, black_box(&params)));
    }),
    ("an order, read as the seed's", |count| {
        let frame = seed::run("sms/send", &id("\"8a6e0804\""), &params());
        repeat(count, || seed::decode(black_box(&frame), NESTING).expect("an order"));
    }),
    ("a WebSocket frame, masked and written", |count| {
        let mut out = Vec::new();
        repeat(count, || {
            out.clear();
            websocket::encode(&mut out, Opcode::Text, black_box(REQUEST.as_bytes()), black_box(Some(MASK)));
        });
    }),
    ("a WebSocket frame, read and unmasked", |count| {
        let mut decoder = Decoder::new(Role::Server, LIMIT);
        let mut frame = Vec::new();
        websocket::encode(&mut frame, Opcode::Text, REQUEST.as_bytes(), Some(MASK));
        repeat(count, || decoder.next(&mut black_box(&frame[..])).expect("a frame").expect("all of it"));
    }),
    ("whether a peer may, by 8 rules", |count| {
        let (rules, peer) = (rules(), peer());
        repeat(count, || rules.decide(Actor::Peer(black_box(&peer)), Action::Run(black_box("sms/send"))));
    }),
    ("params without their white space", |count| {
        repeat(count, || compact::compact(black_box(PARAMS)));
    }),
    ("an outcome, written as version 2", |count| {
        let (id, report) = (id(&format!("\"{RUN}\"")), Report::from(Outcome::Exited(0)));
        repeat(count, || v2::status(&id, Verdict::default(), black_box(&report)));
    }),
    ("an outcome, read as version 2", |count| {
        let frame = v2::status(&id(&format!("\"{RUN}\"")), Verdict::default(), &Report::from(Outcome::Exited(0)));
        repeat(count, || v2::decode(black_box(&frame), NESTING).expect("an outcome"));
    }),
    ("an outcome, written as the seed's", |count| {
        let (id, report) = (id("\"8a6e0804\""), Report::from(Outcome::Exited(0)));
        repeat(count, || seed::status(black_box(&report), Some(&id)));
    }),
    ("an outcome, read as the seed's", |count| {
        let frame = seed::status(&Report::from(Outcome::Exited(0)), Some(&id("\"8a6e0804\"")));
        repeat(count, || seed::decode(black_box(&frame), NESTING).expect("an outcome"));
    }),
    ("a call, written for a worker", |count| {
        let (run, params) = (RunId::new(RUN), params());
        let asked =
            Asked { run: &run, name: "sms/send", params: &params, peer: "till-3", caller: None, deadline: None, trace: None };
        let mut lines = String::new();
        repeat(count, || {
            lines.clear();
            black_box(&asked).write(&mut lines);
        });
    }),
    ("an answer, read of a worker", |count| {
        let line = format!("{{\"id\":\"{RUN}\",\"status\":0}}");
        repeat(count, || Said::parse(black_box(&line)).expect("an answer"));
    }),
    ("a final line", |count| {
        let (id, report) = (id("\"8a6e0804\""), Report::from(Outcome::Exited(0)));
        repeat(count, || black_box(&report).to_json(Some(&id)));
    }),
];

/// The figures of this repository.
#[derive(Serialize, Deserialize)]
struct Figures {
    /// Where they were counted: on others they are others.
    architecture: String,
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match &arguments[..] {
        [] => check(),
        [flag, path, count] if flag == ONE_PATH => walk(path, count),
        _ => Err(anyhow!("it takes no arguments")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ws-daemon-instructions: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    if let Err(failure) = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status() {
        ensure!(env::var_os("CI").is_none(), "valgrind cannot be started: {failure}");
        println!("instructions are not counted: valgrind, which counts them, is missing");
        return Ok(());
    }
    let counted = count_all()?;
    if env::var_os("UPDATE_INSTRUCTIONS").is_some() {
        let figures = Figures { architecture: env::consts::ARCH.to_owned(), instructions: counted };
        fs::write(FIGURES, serde_json::to_string_pretty(&figures)? + "\n")?;
        println!("written to {FIGURES}");
        return Ok(());
    }
    let figures: Figures = serde_json::from_str(&fs::read_to_string(FIGURES).with_context(|| format!("no {FIGURES}"))?)?;
    if figures.architecture != env::consts::ARCH {
        println!("instructions are not compared: the figures are of {}", figures.architecture);
        return Ok(());
    }
    let mut dearer = Vec::new();
    for (name, count) in &counted {
        let stored = figures.instructions.get(name).with_context(|| format!("there is no figure of {name:?}; {RENEW}"))?;
        let change = *count as f64 / *stored as f64 - 1.0;
        println!("{name:55} {count:>7}  {:+5.1} % of {stored}", change * 100.0);
        if change > MARGIN {
            dearer.push(name.as_str());
        } else if change < -MARGIN {
            println!("  it has become cheaper: {RENEW}");
        }
    }
    ensure!(dearer.is_empty(), "dearer by more than {:.0} %: {}; if that is meant, {RENEW}", MARGIN * 100.0, dearer.join(", "));
    Ok(())
}

const RENEW: &str = "UPDATE_INSTRUCTIONS=1 writes the figures anew";

/// A path to a thread, as many at once as there are cores.
fn count_all() -> Result<BTreeMap<String, u64>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut counted = BTreeMap::new();
    for paths in PATHS.chunks(cores) {
        let counts: Vec<Result<u64>> = thread::scope(|scope| {
            let threads: Vec<_> = paths.iter().map(|(name, _)| scope.spawn(|| of_one(name))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        });
        for ((name, _), count) in paths.iter().zip(counts) {
            counted.insert((*name).to_owned(), count.with_context(|| (*name).to_owned())?);
        }
    }
    Ok(counted)
}

/// What one time of it takes.
fn of_one(name: &str) -> Result<u64> {
    let [few, many] = [collected(name, FEW)?, collected(name, MANY)?];
    ensure!(many > few, "{many} instructions for {MANY} times, {few} for {FEW}");
    Ok((many - few) / (MANY - FEW))
}

/// What this program takes when it does nothing but that.
fn collected(name: &str, count: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args([ONE_PATH, name, &count.to_string()])
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}: {said}", output.status);
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, number) = line.with_context(|| format!("callgrind did not say how many: {said}"))?;
    Ok(number.trim().parse()?)
}

/// In the process under valgrind.
fn walk(name: &str, count: &str) -> Result<()> {
    let Some((_, path)) = PATHS.iter().find(|(other, _)| *other == name) else { bail!("no path is called {name:?}") };
    path(count.parse()?);
    Ok(())
}

fn repeat<T>(count: u64, mut once: impl FnMut() -> T) {
    for _ in 0..count {
        black_box(once());
    }
}

fn parse(framer: &mut Framer, text: &str) -> Message {
    framer.push(black_box(text).as_bytes());
    match framer.next() {
        Some(Frame::Message(text)) => Message::parse(&text).expect("a request"),
        other => unreachable!("{other:?} is no message"),
    }
}

fn raw(json: &str) -> Box<RawValue> {
    serde_json::from_str(json).expect("JSON")
}

fn id(json: &str) -> CallerId {
    CallerId::new(&raw(json)).expect("short")
}

fn params() -> Params {
    Params::new(Some(&raw(PARAMS)))
}

fn order() -> Order {
    Order { caller: Some(id("\"8a6e0804\"")), ..Order::default() }
}

fn peer() -> Standing {
    let proven = Proven { name: "web-7".into(), tags: vec!["web".into(), "sms".into()], allow: None, by: Proof::Token };
    Standing::Peer(proven.into())
}

/// The last of which is the one that lets it.
fn rules() -> Rules {
    let written = (0..8).map(|number| {
        let scripts = if number == 7 { "sms/*".to_owned() } else { format!("deploy-{number}/*") };
        serde_json::json!({ "who": ["tag:sms", format!("web-{number}")], "scripts": [scripts] })
    });
    let rules = written.map(|rule| {
        let rule: WrittenRule = serde_json::from_value(rule).expect("a rule");
        rule.meant(&Accounts::default()).expect("it names no user")
    });
    Rules::new(rules.collect(), false, 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_can_be_walked_and_has_a_figure_and_every_figure_a_path() {
        for (name, path) in PATHS {
            path(2);
            walk(name, "1").expect("it is known");
        }
        let figures: Figures = serde_json::from_str(&fs::read_to_string(FIGURES).expect("figures")).expect("JSON");
        let named: BTreeSet<&str> = figures.instructions.keys().map(String::as_str).collect();
        assert_eq!(named, PATHS.map(|(name, _)| name).into());
    }
}
