//! Whoever asks for too much, all on the loopback and all within bounds: connections and failures beyond the rate of an address,
//! handshakes that never end, links that do not read, queues, floods. It costs whoever does it; another client keeps its pace, memory
//! keeps its bound, and the counters tell.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::Command;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::Signal;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{DEADLINE, Daemon, Local, Peer, wait_for};

/// What an address may do at once, in seconds of its rate.
const BURST_SECONDS: u64 = 16;

/// Half-open handshakes of the storm, from so many addresses, of which so many may be there at a time.
const HALF_OPEN: usize = 500;
const ADDRESSES: u8 = 10;
const HALF_OPEN_AT_A_TIME: usize = 250;

/// Newcomers that are there at once, far more than may be half open.
const AT_ONCE: u8 = 200;

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Links that ask and never read the answers, each with an id of 4 KiB.
const SLOW_READERS: usize = 3;
const UNREAD: usize = 600;
const ID_BYTES: usize = 4000;

/// Requests that are queued for a peer that is away.
const QUEUED: usize = 10_000;

/// So many are sent before they are all said to be accepted.
const QUEUED_AT_ONCE: usize = 100;

/// Frames of bad JSON, and links with frames, and local messages, over the limit.
const BAD_FRAMES: usize = 20_000;
const OVERSIZED: usize = 20;

/// What the other client runs.
const WORK: &str = "#!/bin/sh\nexit 7\n";

/// Runs by which the pace of the other client is measured: when all is calm, in a gust and in a gale.
const CALM: usize = 400;
const IN_A_GUST: usize = 400;
const IN_A_GALE: usize = if cfg!(debug_assertions) { 400 } else { 6000 };

/// Without optimization the daemon's one thread has so much to do for each turn that below this all is good.
const NOISE: Duration = if cfg!(debug_assertions) { Duration::from_millis(250) } else { Duration::ZERO };

/// How often it is tried on a machine that others disturb.
const STORMS: usize = 4;

/// The most that the daemon may have had in memory after all of the storm. Two thirds are the queued requests, each of which has a
/// caller that waits to be told; what is left unread is 7 MiB.
const PEAK_BYTES: u64 = 192 << 20;

// ---- Rates and half-open ones ----------------------------------------------------------------------------------

#[test]
fn an_address_that_connects_too_often_is_closed_at_once_counted_and_logged_once_a_second() {
    const TRIES: u64 = 200;
    let server = Daemon::server().config(json!({ "open": true, "limits": { "address_connections": 1 } })).start();
    let mut link = Peer::dial(&server);
    let begun = Instant::now();
    let answered = (0..TRIES).filter(|_| asks(&server, 2).starts_with("HTTP/1.1 426 ")).count() as u64;
    let seconds = begun.elapsed().as_secs() + 1;
    assert!((BURST_SECONDS..=BURST_SECONDS + seconds).contains(&answered), "{answered} in {seconds} s\n{}", server.log());
    // Another address has a rate of its own, and a link that is there stays.
    assert!(asks(&server, 3).starts_with("HTTP/1.1 426 "));
    link.nothing_waiting();
    let connections = connections(&server);
    assert_eq!(connections["too_fast"], json!(TRIES - answered), "{connections}");
    assert_eq!((&connections["accepted"], &connections["bad_handshake"]), (&json!(TRIES + 2), &json!(answered + 1)));
    let lines = server.log().count("limits.address_connections allows") as u64;
    assert!((1..=seconds + 1).contains(&lines), "{lines} lines in {seconds} s\n{}", server.log());
    // After a second it may come again.
    wait_for("the rate", || asks(&server, 2).starts_with("HTTP/1.1 426 "));
}

#[test]
fn an_address_of_which_too_much_fails_is_closed_at_once_for_a_while_and_links_are_no_failures() {
    const TRIES: u64 = 100;
    let server = Daemon::server().config(json!({ "open": true, "limits": { "address_failures": 1 } })).start();
    for _ in 0..BURST_SECONDS * 2 {
        Peer::dial(&server).nothing_waiting();
    }
    let begun = Instant::now();
    let answered = (0..TRIES).filter(|_| !asks(&server, 2).is_empty()).count() as u64;
    let seconds = begun.elapsed().as_secs() + 1;
    // The last one may have been let in before the failure of the one before it was known.
    assert!((BURST_SECONDS..=BURST_SECONDS + seconds + 1).contains(&answered), "{answered} in {seconds} s\n{}", server.log());
    Peer::dial(&server).nothing_waiting();
    let connections = connections(&server);
    assert_eq!((&connections["failures"], &connections["too_many_failures"]), (&json!(answered), &json!(TRIES - answered)));
    assert_eq!(connections["linked"], json!(BURST_SECONDS * 2 + 1), "{connections}");
    server.wait_log("limits.address_failures allows");
    wait_for("the rate", || !asks(&server, 2).is_empty());
}

#[test]
fn of_half_open_handshakes_beyond_their_bound_the_oldest_goes_and_links_come_in_all_the_while() {
    let server = Daemon::server().config(json!({ "limits": { "half_open": 4 } })).start();
    let mut held: Vec<TcpStream> = Vec::new();
    for round in 0..10 {
        held.extend((0..4).map(|_| from(2, &server)));
        let mut link = Peer::dial(&server);
        link.nothing_waiting();
        assert_eq!(server.log().count("link down"), round, "links make no room\n{}", server.log());
        drop(link);
        server.wait_log_times("link down", round + 1);
    }
    let (dropped, still) = held.split_at_mut(37);
    for stream in dropped {
        assert_eq!(read_all(stream), "", "the oldest go first");
    }
    assert!(connections(&server)["half_open_dropped"].as_u64().expect("a number") >= 37);
    assert!(connections(&server)["half_open"].as_u64().expect("a number") <= 4);
    // The youngest three are waited for still.
    for stream in still {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        assert!(read_all(stream).starts_with("HTTP/1.1 426 "));
    }
    wait_for("the count", || connections(&server)["half_open"] == 0);
}

#[test]
fn of_very_many_that_come_at_once_none_drives_out_another_and_what_they_needed_of_the_program_is_given_back() {
    let server = Daemon::server().config(json!({ "limits": { "half_open": 4 } })).start();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("Linux has it");
        line.trim_end_matches("kB").trim().parse::<u64>().expect("a number")
    };
    // After the first storm it may be what the start has needed that is given back.
    for storm in 1..=2 {
        // All of them are there before the first is accepted.
        server.signal(Signal::STOP);
        let mut links: Vec<TcpStream> = (0..AT_ONCE).map(|number| from(2 + number % ADDRESSES, &server)).collect();
        for link in &mut links {
            link.write_all(HANDSHAKE.as_bytes()).expect("the system keeps it");
        }
        server.signal(Signal::CONT);
        let mut most = 0;
        for link in &mut links {
            let mut head = [0; 12];
            link.read_exact(&mut head).expect("it is not driven out");
            assert_eq!(&head, b"HTTP/1.1 101");
            most = most.max(resident());
        }
        wait_for("what the newcomers have needed to be given back", || resident() < most * 3 / 4);
        let connections = connections(&server);
        assert_eq!(
            (&connections["linked"], &connections["half_open_dropped"]),
            (&json!(storm * u64::from(AT_ONCE)), &json!(0))
        );
    }
}

// ---- The storm -------------------------------------------------------------------------------------------------

#[test]
fn a_storm_of_every_kind_at_once_leaves_memory_bounded_and_another_client_its_pace() {
    held_out(Storm::Gale);
}

#[test]
fn a_storm_as_fast_as_it_can_be_leaves_memory_bounded_and_slows_another_client_hardly_more_than_the_machine_does() {
    held_out(Storm::Gust);
}

/// How all that is to come comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storm {
    /// Evenly beside all the runs of the other client: its 99th percentile is held against twice what it was when all was calm.
    Gale,
    /// As fast as one core can make it, most of it in a tenth of a second. That takes both cores of a small machine, and makes a daemon
    /// slower that has nothing to do with it: what is held against is twice what one has that is left alone beside, asked in turn.
    Gust,
}

impl Storm {
    /// Runs of the other client beside it.
    fn runs(self) -> usize {
        match self {
            Self::Gale => IN_A_GALE,
            Self::Gust => IN_A_GUST,
        }
    }
}

#[track_caller]
fn held_out(storm: Storm) {
    let slow: Vec<String> = (0..STORMS).map_while(|_| blow(storm).err()).collect();
    assert!(slow.len() < STORMS, "{slow:#?}");
}

/// What tells those who make the storm how much of it is to have come.
struct Wind {
    storm: Storm,
    runs: Mutex<usize>,
    more: Condvar,
}

impl Wind {
    /// Ends when the next one after `done` of so many in all may come.
    fn may_go_on(&self, done: usize, all: usize) {
        if self.storm == Storm::Gale {
            let runs = self.runs.lock().expect("nobody panics with it");
            drop(self.more.wait_while(runs, |runs| *runs < IN_A_GALE && *runs * all < done * IN_A_GALE).expect("as above"));
        }
    }

    /// The other client has had one more run.
    fn run(&self) {
        *self.runs.lock().expect("nobody panics with it") += 1;
        self.more.notify_all();
    }
}

/// One storm. Memory and counters must be right.
///
/// # Errors
/// The paces, if the other client has lost its own.
fn blow(storm: Storm) -> Result<(), String> {
    let limits = json!({ "half_open": HALF_OPEN_AT_A_TIME, "message": "1MiB" });
    let plan = Daemon::server().config(json!({ "open": true, "limits": limits })).env("WSDAEMON_LOG", "info");
    // The other one is left alone: what happens to its runs meanwhile is the machine's doing.
    let (server, alone) = (plan.script("work", WORK).start(), Daemon::server().script("work", WORK).start());
    // Who is asked for, and away.
    drop(Peer::dial_version2(&server, &json!({ "name": "away", "instance": "away", "epoch": 1 })));
    server.wait_log("link down");
    let (mut other, mut beside) = (Peer::dial(&server), Peer::dial(&alone));
    let calm = pace(&mut other, &mut beside, || CALM, || ());
    let mut readers: Vec<Peer> = (0..SLOW_READERS).map(|_| Peer::dial(&server)).collect();
    let wind = &Wind { storm, runs: Mutex::default(), more: Condvar::new() };
    let (held, stormy) = thread::scope(|scope| {
        let half_open = scope.spawn(|| from_one_core(|| half_open(&server, wind)));
        let ask = |reader| scope.spawn(|| from_one_core(|| ask_and_never_read(reader, wind)));
        let mut storms: Vec<_> = readers.iter_mut().map(ask).collect();
        storms.push(scope.spawn(|| from_one_core(|| queue(server.connect(), wind))));
        storms.push(scope.spawn(|| from_one_core(|| say_nonsense(&server, wind))));
        storms.push(scope.spawn(|| from_one_core(|| oversize(&server, wind))));
        let blowing = || storms.iter().any(|storm| !storm.is_finished());
        let wanted = || if blowing() { usize::MAX } else { storm.runs() };
        let paces = pace(&mut other, &mut beside, wanted, || wind.run());
        (half_open.join().expect("it connects"), paces)
    });
    assert!(server.peak_memory() < PEAK_BYTES, "{} bytes", server.peak_memory());
    let stats = server.connect().result("STATS", &Value::Null);
    let (connections, closed) = (&stats["connections"], &stats["links_closed"]);
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number: {stats}"));
    assert!(number(&connections["half_open_dropped"]) >= (HALF_OPEN - HALF_OPEN_AT_A_TIME) as u64, "{stats}");
    assert!(number(&connections["half_open"]) <= HALF_OPEN_AT_A_TIME as u64, "{stats}");
    assert_eq!(number(&connections["bad_handshake"]), OVERSIZED as u64, "{stats}");
    assert_eq!(number(&closed["too_large"]), OVERSIZED as u64, "{stats}");
    assert_eq!(number(&stats["spool"]["unsettled"]), QUEUED as u64, "{stats}");
    other.nothing_waiting();
    drop((held, readers));
    judge(storm, &server, &calm, &stormy)
}

/// Has this thread do `work` on one core and leave the others, and give way there too: who blows a storm has a machine of its own, and
/// what it takes of this one is nothing that the daemon does.
fn from_one_core<T>(work: impl FnOnce() -> T) -> T {
    let allowed = sched_getaffinity(None).expect("it is this thread");
    let first = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).expect("it runs somewhere");
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).expect("it is allowed");
    // A thread that is merely nice keeps a core until its turn is over, and that alone is as long as a run.
    let thread = gettid().as_raw_nonzero().to_string();
    let gives_way = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    assert!(gives_way.expect("util-linux is there").success(), "everybody may give way");
    work()
}

/// Whether the other client has kept its pace.
fn judge(storm: Storm, server: &Daemon, calm: &Paces, stormy: &Paces) -> Result<(), String> {
    let told = format!("{storm:?}: calm: {calm:?}; in the storm: {stormy:?}; peak {} MiB", server.peak_memory() >> 20);
    eprintln!("{told}");
    let measure = match storm {
        Storm::Gale => calm.other,
        Storm::Gust => calm.other.max(stormy.alone),
    };
    if stormy.other < (measure * 2).max(NOISE) { Ok(()) } else { Err(told) }
}

/// The 99th percentiles of the other client's runs, and of those of a daemon that is left alone, asked for in turn.
#[derive(Debug)]
struct Paces {
    other: Duration,
    alone: Duration,
    #[expect(dead_code, reason = "it is shown")]
    runs: usize,
}

/// Measures as many runs as `wanted` says while they go on, each of which is told.
fn pace(other: &mut Peer, alone: &mut Peer, wanted: impl Fn() -> usize, tell: impl Fn()) -> Paces {
    let (mut of_other, mut of_alone) = (Vec::new(), Vec::new());
    while of_other.len() < wanted() {
        of_other.push(time(other));
        of_alone.push(time(alone));
        tell();
    }
    let runs = of_other.len();
    let percentile = |mut took: Vec<Duration>| {
        took.sort();
        took[took.len() * 99 / 100]
    };
    Paces { other: percentile(of_other), alone: percentile(of_alone), runs }
}

/// How long one run takes that `peer` asks for.
#[track_caller]
fn time(peer: &mut Peer) -> Duration {
    let begun = Instant::now();
    assert_eq!(peer.ask(r#"{"name":"work","id":1}"#), r#"{"status":7,"id":1}"#);
    begun.elapsed()
}

/// Handshakes that begin and never end, held until the end.
fn half_open(server: &Daemon, wind: &Wind) -> Vec<TcpStream> {
    let begin = |number: usize| {
        wind.may_go_on(number, HALF_OPEN);
        let mut stream = from(2 + u8::try_from(number % usize::from(ADDRESSES)).expect("it is small"), server);
        // Dropped meanwhile is as good.
        drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: webs"));
        stream
    };
    (0..HALF_OPEN).map(begin).collect()
}

/// Asks for what there is not, so that the answers are all there is to do.
fn ask_and_never_read(reader: &mut Peer, wind: &Wind) {
    let pad = "i".repeat(ID_BYTES);
    for number in 0..UNREAD {
        wind.may_go_on(number, UNREAD);
        reader.send_text(&json!({ "name": "none", "id": format!("{number}-{pad}") }).to_string());
    }
}

fn queue(mut process: Local, wind: &Wind) {
    for first in (0..QUEUED).step_by(QUEUED_AT_ONCE) {
        wind.may_go_on(first, QUEUED);
        let request = |number| json!({ "name": "m", "id": number, "to": "away", "queue": true }).to_string();
        process.send((first..first + QUEUED_AT_ONCE).map(request).collect::<String>());
        for _ in 0..QUEUED_AT_ONCE {
            assert_eq!(process.said()["event"], "accepted");
        }
    }
}

/// Bad JSON by a link, and by connections of a local process, each of which is closed over it.
fn say_nonsense(server: &Daemon, wind: &Wind) {
    let mut peer = Peer::dial(server);
    for number in 0..BAD_FRAMES {
        wind.may_go_on(number, BAD_FRAMES);
        peer.send_text(["{", "[]", "{\"name\":}", "\"\\ud800\"", "{{{{{{{{{{{{{{{{"][number % 5]);
        if number % (BAD_FRAMES / OVERSIZED) == 0 {
            let mut process = server.connect();
            // Nesting beyond the limit, as deep as a message may be long.
            drop(process.try_send("[".repeat(1 << 20)));
            assert_eq!(process.said()["error"], "bad_message");
        }
    }
    peer.nothing_waiting();
}

/// Heads, frames and local messages over their limits.
fn oversize(server: &Daemon, wind: &Wind) {
    let large = "x".repeat(2 << 20);
    for number in 0..OVERSIZED {
        wind.may_go_on(number, OVERSIZED);
        let mut head = from(60, server);
        // Refused while it is still being sent.
        drop(head.write_all(format!("GET / HTTP/1.1\r\nX: {large}").as_bytes()));
        drop(head);
        let mut peer = Peer::try_dial(server, "/", &[]).expect("a link");
        peer.try_send(Message::text(large.as_str()));
        peer.closed();
        let mut process = server.connect();
        drop(process.try_send(json!({ "name": "m", "params": large }).to_string()));
        assert_eq!(process.said()["error"], "too_large");
    }
}

// ---- What they have in common ----------------------------------------------------------------------------------

/// A connection from 127.0.0.`host`.
fn from(host: u8, server: &Daemon) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("there are descriptors");
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0)).expect("all of 127.0.0.0/8 is this machine");
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.port())).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    stream
}

/// What 127.0.0.`host` hears that asks for a page; nothing if it is closed at once.
fn asks(server: &Daemon, host: u8) -> String {
    let mut stream = from(host, server);
    // Closed meanwhile is an answer too.
    drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    read_all(&mut stream)
}

/// All that comes until the other side closes or resets.
fn read_all(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    drop(stream.read_to_end(&mut said));
    String::from_utf8_lossy(&said).into_owned()
}

fn connections(server: &Daemon) -> Value {
    server.connect().result("STATS", &Value::Null)["connections"].take()
}
