//! Networks that lose, refuse, mute or slow what is on its way, and peers that stand still: queued runs settle exactly once all the
//! same, direct ones get their outcome or -5, and other peers are not disturbed. And a server that comes back to two hundred clients.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Book, Daemon, DaemonPlan, EXIT, Fifo, Network, Process, WRITES_DOWN, exit, need_networks, need_tool, tag,
};

/// How long everything may take to settle once nothing is wrong any more.
const SETTLES: Duration = Duration::from_secs(30);

/// Writes its run down, says so, and ends when it is let.
const HELD: &str = "#!/bin/sh\necho \"$WSDAEMON_RUN $$\" >> \"$WSDAEMON_PREFIX/ran\"\necho > \"$WSDAEMON_PREFIX/begun\"\nread -r go < \"$WSDAEMON_PREFIX/go\"\n";

/// A server that asks, a doer at the far end of a cable, and another one beside the server.
struct Site {
    ours: Network,
    server: Daemon,
    far: Daemon,
    near: Daemon,
    begun: Fifo,
    go: Fifo,
    book: Book,
}

impl Site {
    fn new() -> Self {
        let (ours, theirs) = (Network::new(), Network::new());
        ours.connect("10.77.0.1/24", &theirs, "10.77.0.2/24");
        let times = json!({ "ping": "300ms", "backoff_min": "10ms", "backoff_max": "200ms", "handshake": "2s" });
        let server = Daemon::server().config(json!({ "listen": "::", "open": ["10.77.0.0/24"], "times": times }));
        let server = ours.inside(|| server.start());
        let far = Daemon::client(&server)
            .config(json!({ "proxy": "10.77.0.1", "tags": ["x", tag()], "name": "far", "times": times }));
        let far = far.script("write-down", WRITES_DOWN).script("held", HELD).script("exit", EXIT);
        let (begun, go) = (Fifo::new(far.prefix(), "begun"), Fifo::new(far.prefix(), "go"));
        let far = theirs.inside(|| far.start());
        let near = Daemon::client(&server).config(json!({ "name": "near", "times": times })).script("exit", EXIT);
        let near = ours.inside(|| near.start());
        server.wait_log_times("link up", 2);
        Self { ours, server, far, near, begun, go, book: Book::default() }
    }

    /// Lets `fault` be while a queued and a direct run are under way at the far end and three more are asked for, until the
    /// server has given the link up; then `mend`, and all is settled.
    fn suffers(mut self, fault: impl FnOnce(&Self), mend: impl FnOnce(&Self)) {
        let (mut direct, mut other) = (self.server.connect(), self.server.connect());
        self.book.note_request("held", &json!({ "name": "held", "id": "held", "to": "tag:x", "queue": true }));
        self.book.ask(self.server.socket(), |accepted, _| !accepted);
        self.begun.line();
        direct.send(r#"{"name":"held","id":"direct","to":"tag:x","timeout":"1m"}"#);
        self.begun.line();

        fault(&self);
        for number in 0..3 {
            self.book.note(&number.to_string(), 0, 0.0);
        }
        self.book.ask(self.server.socket(), |accepted, _| !accepted);
        self.server.wait_log("link down");
        // Who is not concerned notices nothing, before and after the link has been given up.
        for number in 0..20 {
            let asked = exit(&number.to_string(), 7).replacen('{', r#"{"to":"near","#, 1);
            other.send(asked);
            let line: Value = serde_json::from_str(&other.line()).expect("a line is JSON");
            assert_eq!((&line["status"], &line["id"]), (&json!(7), &json!(number)), "{line}");
        }
        let line: Value = serde_json::from_str(&direct.line()).expect("a line is JSON");
        assert_eq!((&line["status"], &line["error"]), (&json!(-5), &json!("interrupted")), "{line}");
        // The scripts end while nobody can be told.
        self.go.release(2);

        mend(&self);
        let told = || format!("{}{}", self.server.log(), self.far.log());
        assert!(self.book.wait_settled(SETTLES), "{}\n{}", self.book.open(), told());
        // The direct one wrote itself down too.
        let ran = fs::read_to_string(self.far.prefix().join("ran")).expect("it has run");
        assert_eq!(ran.lines().count(), 5, "{ran}\n{}", told());
        let queued: Vec<&str> =
            ran.lines().filter(|line| self.book.has_run(line.split(' ').next().unwrap_or_default())).collect();
        fs::write(self.far.prefix().join("ran"), queued.join("\n")).expect("the prefix is ours");
        let counts = self.book.close(self.server.socket(), &[self.far.prefix()], SETTLES, &told);
        assert_eq!((counts.settled, counts.done, counts.started), (4, 4, 4), "{counts:?}\n{}", told());
        assert_eq!(self.near.log().count("link down"), 0, "{}", self.near.log());
    }
}

fn can_have_faults() -> bool {
    need_networks() && need_tool("nft") && need_tool("tc")
}

#[test]
fn a_network_that_drops_everything_costs_no_queued_run_and_runs_none_twice() {
    if !can_have_faults() {
        return;
    }
    Site::new().suffers(
        |site| site.ours.filter(&["in iifname cable drop", "out oifname cable drop"]),
        |site| {
            site.far.wait_log("link down");
            site.ours.filter_no_more();
        },
    );
}

#[test]
fn a_network_that_resets_connections_costs_no_queued_run_and_runs_none_twice() {
    if !can_have_faults() {
        return;
    }
    let rules =
        ["in iifname cable meta l4proto tcp reject with tcp reset", "out oifname cable meta l4proto tcp reject with tcp reset"];
    Site::new().suffers(|site| site.ours.filter(&rules), |site| site.ours.filter_no_more());
}

#[test]
fn a_network_that_is_mute_in_one_direction_costs_no_queued_run_and_runs_none_twice() {
    if !can_have_faults() {
        return;
    }
    for rule in ["in iifname cable drop", "out oifname cable drop"] {
        Site::new().suffers(|site| site.ours.filter(&[rule]), |site| site.ours.filter_no_more());
    }
}

#[test]
fn a_doer_that_stands_still_for_longer_than_the_heartbeat_costs_no_queued_run_and_runs_none_twice() {
    if !can_have_faults() {
        return;
    }
    Site::new().suffers(|site| site.far.signal(Signal::STOP), |site| site.far.signal(Signal::CONT));
}

#[test]
fn a_slow_network_slows_only_what_travels_on_it() {
    if !can_have_faults() {
        return;
    }
    let site = Site::new();
    site.far.script("take", "#!/bin/sh\necho \"$WSDAEMON_RUN $$\" >> \"$WSDAEMON_PREFIX/ran\"\n");
    site.ours.narrow("2mbit");
    // A second's worth of it, in the direction that is narrow.
    let long = "x".repeat(50_000);
    for number in 0..5 {
        let id = number.to_string();
        let request = json!({ "name": "take", "id": id, "to": "tag:x", "queue": true, "params": long });
        site.book.note_request(&id, &request);
    }
    let begun = Instant::now();
    site.book.ask(site.server.socket(), |_, settled| !settled);
    let mut other = site.server.connect();
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let asked = Instant::now();
        other.send(exit(&number.to_string(), 7).replacen('{', r#"{"to":"near","#, 1));
        let line: Value = serde_json::from_str(&other.line()).expect("a line is JSON");
        assert_eq!((&line["status"], &line["id"]), (&json!(7), &json!(number)), "{line}");
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let told = || format!("{}{}", site.server.log(), site.far.log());
    assert!(site.book.wait_settled(SETTLES), "{}\n{}", site.book.open(), told());
    assert!(begun.elapsed() > Duration::from_millis(500), "it is slow: {:?}", begun.elapsed());
    assert_eq!(site.server.log().count("link down"), 0, "{}", told());
    let counts = site.book.close(site.server.socket(), &[site.far.prefix()], SETTLES, &told);
    assert_eq!((counts.done, counts.started), (5, 5), "{counts:?}");
}

// ---- Many clients ----------------------------------------------------------------------------------------------

/// Clients of one server; each a daemon of its own.
const CLIENTS: usize = 200;

/// All are back within this time of the server's.
const BACK: Duration = Duration::from_secs(30);

/// How many may come in any such time: waits are drawn from the whole of a growing span, so that nobody comes in step.
const WINDOW: Duration = Duration::from_millis(250);
const IN_A_WINDOW: usize = CLIENTS / 4;

#[test]
fn two_hundred_clients_whose_server_was_away_come_back_spread_out_and_none_is_lost() {
    let begun = Instant::now();
    let server = Daemon::server().env("WSDAEMON_LOG", "info").start();
    let client = |number: usize| {
        let plan = Daemon::client(&server).config(json!({ "times": null, "name": format!("client-{number}") }));
        let plan = plan.env("WSDAEMON_LOG", "info");
        (plan.spawn(), plan)
    };
    // The plans own the prefixes.
    let (clients, _plans): (Vec<Process>, Vec<DaemonPlan>) = (0..CLIENTS).map(client).unzip();
    wait_links(&server);
    let memory: u64 = clients.iter().map(Process::peak_memory).sum();
    eprintln!("{CLIENTS} clients up in {:?}, {} MiB in all", begun.elapsed(), memory >> 20);

    let server = server.kill();
    // Away for so long that the waits of all have grown.
    for client in &clients {
        client.log().wait_times("no link", 3);
    }
    let server = server.start();
    wait_links(&server);
    let start = time_of(&server.wait_log("local socket ready"));
    let since = |line: &String| time_of(line).saturating_sub(start);
    let mut arrivals: Vec<Duration> = server.log().lines("link up").iter().map(since).collect();
    arrivals.sort_unstable();
    let (first, last) = (arrivals[0], arrivals[CLIENTS - 1]);
    let in_window = |from: &Duration| arrivals.iter().filter(|at| (*from..*from + WINDOW).contains(*at)).count();
    let most = arrivals.iter().map(in_window).max().unwrap_or(0);
    eprintln!("back after {first:?} to {last:?}, at most {most} within {WINDOW:?}");
    assert!(last < BACK, "{last:?}");
    assert!(most <= IN_A_WINDOW, "{most} within {WINDOW:?}: {arrivals:?}");

    let peers = server.connect().ask(r#"{"name":"+cmd","id":0,"params":{"code":"PEERS"}}"#);
    let peers: Value = serde_json::from_str(&peers).expect("a line is JSON");
    let there = peers["result"].as_array().expect("a list").iter().filter(|peer| peer["connected"] == true).count();
    assert_eq!(there, CLIENTS);
}

fn wait_links(server: &Daemon) {
    let all = |lines: &[String]| (lines.iter().filter(|line| line.contains("link up")).count() >= CLIENTS).then_some(());
    server.log().wait_until(BACK * 2, "all links", all);
}

/// The time of day that a line of the log was written at.
fn time_of(line: &str) -> Duration {
    let (_, time) = line.split_once('T').expect("a line begins with its time");
    let (time, _) = time.split_once('Z').expect("in UTC");
    let mut parts = time.split(':').map(|part| part.parse::<f64>().expect("a number"));
    let mut part = || parts.next().expect("hours, minutes, seconds");
    Duration::from_secs_f64(part() * 3600.0 + part() * 60.0 + part())
}
