//! Reloads, restarts and drains while requests come all the time, direct and queued, from processes at both ends of the links: each is
//! answered once with its script's own status, and each script ran once. Nothing else is looked at, and not how long it took.
//!
//! The clients are daemons of ours, as many as there are to be, each with its own prefix and spool. In CI there are few of them and
//! requests come more slowly: a debug build that shares two cores with the scripts does not do a thousand runs a second. The long form has
//! the figures of the promise, and wants a release build and a machine to itself:
//! `WSDAEMON_LOAD_CLIENTS=100 WSDAEMON_LOAD_RATE=1000 WSDAEMON_LOAD_SECONDS=60`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, DaemonPlan, number, pass, tag};

/// Clients, requests a second in all, and for how many seconds; the environment may ask for more.
const CLIENTS: u64 = 10;
const RATE: u64 = 200;
const SECONDS: u64 = 10;

/// Connections at the server over which requests come, and clients whose own processes ask the server.
const LANES: usize = 16;
const CLIENTS_ASKING: usize = 4;

/// Requests of one connection have numbers below this, beyond those of the connections before it.
const NUMBERS: usize = 1_000_000;

/// How often each connection sends what is due.
const TICK: Duration = Duration::from_millis(10);

/// How long the last answers may take once nothing is restarted any more.
const SETTLES: Duration = Duration::from_mins(1);

/// Writes down which request it was, and ends as that one says.
const COUNT: &str = "#!/bin/sh\necho \"$1\" >> \"$WSDAEMON_PREFIX/ran\"\nexit $(($1 % 100))\n";

/// A life of a daemon that begins says so.
const READY: &str = "local socket ready";

const READ_AGAIN: &str = "the settings were read again changed=";

/// One connection over which requests come.
struct Lane {
    socket: PathBuf,
    first: usize,
    /// Whether a process at the server asks, and not one at a client.
    at_server: bool,
}

/// What all lanes have heard.
#[derive(Default)]
struct Heard {
    /// How often each request was answered.
    finals: BTreeMap<usize, usize>,
    queued: usize,
    /// Answers that are not what the script says, each with when it came.
    wrong: Vec<String>,
}

/// The requests of a run of this test, and what came of them.
struct Load {
    clients: usize,
    begun: Instant,
    over: AtomicBool,
    heard: Mutex<Heard>,
}

fn quiet(plan: DaemonPlan) -> DaemonPlan {
    // So long that what is in line is done within it, however slow the machine: a restart waits for it as long as that.
    let plan = plan.config(json!({ "times": { "grace": "2m" } }));
    plan.env("WSDAEMON_LOG", "warn,ws_daemon::daemon=info,ws_daemon::peers=info").script("count", COUNT)
}

fn name(client: usize) -> String {
    format!("c{client}-{}", tag())
}

/// The first client is only ever asked as one of many, and may go away.
fn client(server: u16, number: usize) -> DaemonPlan {
    quiet(Daemon::client_of(server)).config(json!({ "name": name(number), "tags": [tag()] }))
}

impl Load {
    fn request(&self, lane: &Lane, nth: usize) -> String {
        let number = lane.first + nth;
        let mut request = json!({ "name": "count", "id": number, "params": number });
        if lane.at_server {
            match nth % 8 {
                0..=2 => {}
                6 => request["to"] = format!("tag:{}", tag()).into(),
                _ => request["to"] = name(1 + number % (self.clients - 1)).into(),
            }
        }
        if Self::is_queued(nth) {
            request["queue"] = true.into();
        }
        request.to_string()
    }

    fn is_queued(nth: usize) -> bool {
        nth % 8 >= 6
    }

    /// Sends so many requests a second until it is over, and one last command; returns how many requests.
    fn ask(&self, lane: &Lane, mut stream: &UnixStream, rate: f64) -> usize {
        let (begun, mut sent) = (Instant::now(), 0);
        while !self.over.load(Ordering::Relaxed) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a small number of requests")]
            let due = (begun.elapsed().as_secs_f64() * rate) as usize;
            let text: String = (sent..due).map(|nth| self.request(lane, nth)).collect();
            stream.write_all(text.as_bytes()).expect("the daemon reads on");
            sent = due;
            pass(TICK);
        }
        sent
    }

    /// Hears the answers of one lane; `total` is known in the end, and the answer to a last command behind it wakes whoever reads.
    fn hear(&self, lane: &Lane, stream: &UnixStream, total: &AtomicUsize) {
        stream.set_read_timeout(Some(SETTLES)).expect("a deadline is not zero");
        let mut lines = BufReader::new(stream).lines();
        let mut answered = 0;
        while answered < total.load(Ordering::Acquire) {
            let line = match lines.next() {
                Some(Ok(line)) => line,
                end => return self.wrong(&format!("{answered} answers on {}, and then {end:?}", lane.socket.display())),
            };
            let said: Value = serde_json::from_str(&line).expect("a line is JSON");
            let Some(number) = said["id"].as_u64().and_then(|number| usize::try_from(number).ok()) else { continue };
            if said["event"] == "accepted" {
                continue;
            }
            answered += 1;
            let right = said["status"] == json!(number % 100) && (lane.first..lane.first + NUMBERS).contains(&number);
            if !right {
                self.wrong(&line);
            }
            let mut heard = self.heard();
            heard.queued += usize::from(Self::is_queued(number - lane.first));
            *heard.finals.entry(number).or_default() += 1;
        }
    }

    fn wrong(&self, what: &str) {
        let at = self.begun.elapsed();
        self.heard().wrong.push(format!("{at:.1?}: {what}"));
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that it is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits longer than other tests do: the machine is meant to be busy.
#[track_caller]
fn wait(daemon: &Daemon, needle: &str, times: usize) {
    let are_there = |lines: &[String]| (lines.iter().filter(|line| line.contains(needle)).count() >= times).then_some(());
    daemon.log().wait_until(SETTLES, needle, are_there);
}

/// Has a daemon begin a new life, and waits until it has.
#[track_caller]
fn restart(daemon: &Daemon) {
    let lives = daemon.log().count(READY);
    daemon.connect().result("RESTART", &Value::Null);
    wait(daemon, READY, lives + 1);
}

#[test]
fn nothing_is_lost_run_twice_or_refused_while_daemons_reload_restart_and_drain_under_load() {
    let wanted = |variable: &str, usual: u64| usize::try_from(number(variable).unwrap_or(usual)).expect("it is small");
    let clients = wanted("WSDAEMON_LOAD_CLIENTS", CLIENTS);
    let rate = u32::try_from(wanted("WSDAEMON_LOAD_RATE", RATE)).expect("it is small");
    let lasts = Duration::from_secs(number("WSDAEMON_LOAD_SECONDS").unwrap_or(SECONDS));
    assert!(clients > CLIENTS_ASKING && rate > 0);
    // A spool is named after the configured port, so it has one of its own before anything is asked.
    let server = quiet(Daemon::server()).start().crash().start();
    let mut fleet: Vec<Daemon> = Vec::new();
    for numbers in (0..clients).collect::<Vec<_>>().chunks(4) {
        thread::scope(|scope| {
            let started: Vec<_> = numbers.iter().map(|n| scope.spawn(|| client(server.port(), *n).start())).collect();
            fleet.extend(started.into_iter().map(|thread| thread.join().expect("it starts")));
        });
    }
    for client in &fleet {
        client.wait_log("link up");
    }
    server.wait_log_times("link up", clients);

    let asking = fleet[1..=CLIENTS_ASKING].iter().map(|client| (client, false));
    let lanes: Vec<Lane> = std::iter::repeat_n((&server, true), LANES)
        .chain(asking)
        .enumerate()
        .map(|(at, (daemon, at_server))| Lane { socket: daemon.socket().to_owned(), first: at * NUMBERS, at_server })
        .collect();
    let load = Load { clients, begun: Instant::now(), over: AtomicBool::new(false), heard: Mutex::default() };
    let each = f64::from(rate) / f64::from(u32::try_from(lanes.len()).expect("they are few"));
    let mut asked = Vec::new();
    let (mut done, mut story) = ([0; 4], Vec::new());
    thread::scope(|scope| {
        let lives: Vec<_> = lanes
            .iter()
            .map(|lane| {
                let load = &load;
                scope.spawn(move || {
                    let stream = UnixStream::connect(&lane.socket).expect("somebody listens");
                    let total = AtomicUsize::new(usize::MAX);
                    thread::scope(|scope| {
                        let hears = scope.spawn(|| load.hear(lane, &stream, &total));
                        let sent = load.ask(lane, &stream, each);
                        total.store(sent, Ordering::Release);
                        (&stream)
                            .write_all(br#"{"name":"+cmd","id":"last","params":{"code":"STATS"}}"#)
                            .expect("the daemon reads on");
                        hears.join().expect("it hears");
                        sent
                    })
                })
            })
            .collect();
        // Also if this here fails: the lanes end, and the test with them.
        let over = Over(&load.over);
        for round in 0.. {
            if load.begun.elapsed() >= lasts {
                break;
            }
            let begun = load.begun.elapsed();
            let what = turn(&server, &mut fleet, round, &mut done);
            story.push(format!("{begun:.1?} to {:.1?}: {what}", load.begun.elapsed()));
        }
        drop(over);
        asked = lives.into_iter().map(|life| life.join().expect("a lane ends")).collect();
    });
    let asked: usize = asked.iter().sum();
    let heard = load.heard();
    let [reloads, restarts, of_server, drains] = done;
    eprintln!(
        "{clients} clients, {rate} requests a second: {asked} requests, {} of them queued; {reloads} reloads, {restarts} restarts of \
         clients and {of_server} of the server, {drains} drains",
        heard.queued
    );
    assert!(done.iter().all(|count| *count > 0), "{done:?}: it is too short to show anything");
    let logs = || fleet.iter().chain([&server]).map(|daemon| daemon.log().to_string()).collect::<Vec<_>>().join("\n");
    assert!(heard.wrong.is_empty(), "{:#?}\n{story:#?}\n{}", heard.wrong, logs());
    assert_eq!(heard.finals.len(), asked, "each is answered\n{}", logs());
    assert!(heard.finals.values().all(|times| *times == 1), "and once");
    let mut ran = BTreeSet::new();
    for daemon in fleet.iter().chain([&server]) {
        for line in fs::read_to_string(daemon.prefix().join("ran")).unwrap_or_default().lines() {
            assert!(ran.insert(line.parse::<usize>().expect("a number")), "{line} ran twice\n{}", logs());
        }
    }
    assert!(ran.iter().eq(heard.finals.keys()), "what was answered ran, and nothing else");
}

/// One more thing is done to them while they work, and told: counted among reloads, restarts of clients and of the server, and drains.
fn turn(server: &Daemon, fleet: &mut [Daemon], round: usize, done: &mut [usize; 4]) -> String {
    let other = 1 + round % (fleet.len() - 1);
    match round % 6 {
        0 => {
            server.connect().result("RELOAD", &Value::Null);
            fleet[other].signal(Signal::HUP);
            done[0] += 2;
            format!("the server and client {other} reload")
        }
        1 => {
            restart(&fleet[other]);
            done[1] += 1;
            format!("client {other} restarts")
        }
        2 => {
            let times = server.log().count(READ_AGAIN);
            server.reconfigure(json!({ "times": { "ping": format!("{}s", 10 + round) }, "relay": round % 12 == 2 }));
            wait(server, READ_AGAIN, times + 1);
            done[0] += 1;
            "the server's file is another one".to_owned()
        }
        3 => {
            restart(server);
            done[2] += 1;
            "the server restarts".to_owned()
        }
        4 => {
            // One that asks itself.
            let asking = 1 + round % CLIENTS_ASKING;
            restart(&fleet[asking]);
            done[1] += 1;
            format!("client {asking} restarts")
        }
        _ => {
            drain(&mut fleet[0]);
            done[3] += 1;
            "client 0 drains, and begins again".to_owned()
        }
    }
}

/// A client is told to end when all is done, and begins again with what it had.
fn drain(client: &mut Daemon) {
    client.signal(Signal::USR2);
    assert_eq!(client.wait_exit(SETTLES).code(), Some(0), "{}", client.log());
    *client = client.twin().start();
    wait(client, "link up", 1);
}
