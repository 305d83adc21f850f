//! Daemons that are killed at any moment, and what was promised for queued requests all the same: every one that was accepted settles
//! exactly once, none is lost, and none runs twice that may not. The dice are seeded; the seed is printed, and
//! `WSDAEMON_CRASH_SEED` throws them again.

use std::env;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::json;

use crate::support::{
    Book, Cable, Counts, DEADLINE, Daemon, DaemonPlan, WRITES_DOWN, dice, need_faketime, need_tool, number, pass, tag,
    wait_readable,
};

const DOERS: usize = 3;

/// Rounds of the crash loop in CI; `WSDAEMON_CRASH_ROUNDS` asks for more.
const ROUNDS: u64 = 100;

/// After so many rounds everything that was asked so far is waited for.
const QUIET: u64 = 10;

/// Requests of one round.
const REQUESTS: u64 = 3;

/// The syncs at which each daemon is killed: every one up to this in the long form (`WSDAEMON_CRASH_SYNCS=all`), a spread in CI.
const SYNCS: usize = 60;
const SYNCS_IN_CI: usize = 12;

/// As many as are needed to come to the last of these syncs.
const REQUESTS_A_SYNC: usize = 60;

/// How long everything may take to settle once nobody is killed any more. A link that is held is found out after three pings.
const SETTLES: Duration = Duration::from_mins(1);

/// One asker, some doers of one tag, and the cable between them.
struct Fleet {
    asker: Option<Daemon>,
    doers: Vec<Option<Daemon>>,
    cable: Cable,
    book: Book,
}

impl Fleet {
    fn new(doers: usize) -> Self {
        // A spool is named after the configured port, so it has one of its own before anything is asked.
        let asker = asker().start().crash().start();
        let cable = Cable::to(asker.port());
        let doers = (0..doers).map(|_| Some(doer(cable.port()).start())).collect();
        Self { asker: Some(asker), doers, cable, book: Book::default() }
    }

    fn asker(&self) -> &Daemon {
        self.asker.as_ref().expect("it runs between two crashes")
    }

    fn ask(&self, which: impl Fn(bool, bool) -> bool) {
        self.book.ask(self.asker().socket(), which);
    }

    /// Kills the asker or a doer, lets a moment pass and starts it again.
    fn crash(&mut self, whom: usize, moment: Duration) {
        let place = if whom == 0 { &mut self.asker } else { &mut self.doers[whom - 1] };
        let plan = place.take().expect("it runs between two crashes").crash();
        pass(moment);
        let again = plan.start();
        assert_eq!(again.log().count("without a spool"), 0, "whoever was killed let go of its spool: {}", again.log());
        *place = Some(again);
    }

    #[track_caller]
    fn close(&self, told: &str) -> Counts {
        let doers: Vec<&Path> = self.doers.iter().flatten().map(Daemon::prefix).collect();
        self.book.close(self.asker().socket(), &doers, SETTLES, &|| format!("{told}\n{}", self.logs()))
    }

    /// What each says of itself, for the message of a test that fails.
    fn logs(&self) -> String {
        let daemons = self.doers.iter().flatten().chain([self.asker()]);
        let runs = r#"{"name":"+cmd","id":0,"params":{"code":"RUNS","data":{"limit":1000}}}"#;
        let told = |daemon: &Daemon| format!("{}\n{}", daemon.log(), daemon.connect().ask(runs));
        daemons.map(told).collect::<Vec<_>>().join("\n")
    }
}

fn asker() -> DaemonPlan {
    quick(Daemon::server())
}

fn doer(port: u16) -> DaemonPlan {
    quick(Daemon::client_of(port).config(json!({ "tags": [tag()] }))).script("write-down", WRITES_DOWN)
}

/// Finds out soon that a peer is gone, and dials again at once.
fn quick(plan: DaemonPlan) -> DaemonPlan {
    let times = json!({ "ping": "500ms", "backoff_min": "10ms", "backoff_max": "100ms" });
    plan.config(json!({ "times": times })).env("WSDAEMON_LOG", "info")
}

// ---- Killed at any moment --------------------------------------------------------------------------------------

#[test]
fn whoever_is_killed_whenever_every_accepted_request_settles_exactly_once() {
    let (mut dice, seed) = dice("crash loop");
    let (rounds, begun) = (number("WSDAEMON_CRASH_ROUNDS").unwrap_or(ROUNDS), Instant::now());
    let mut fleet = Fleet::new(DOERS);
    for round in 1..=rounds {
        for request in 0..REQUESTS {
            let retries = if dice.u8(..4) == 0 { 3 } else { 0 };
            fleet.book.note(&format!("{round}-{request}"), retries, dice.choice([0.0, 0.0, 0.03, 0.1]).unwrap_or(0.0));
        }
        fleet.ask(|accepted, _| !accepted);
        pass(Duration::from_micros(dice.u64(..60_000)));
        if dice.u8(..3) > 0 {
            fleet.cable.hold();
        }
        fleet.crash(dice.usize(..=DOERS), Duration::from_micros(dice.u64(..20_000)));
        match dice.u8(..3) {
            0 => fleet.cable.let_go(),
            1 => fleet.cable.cut_held(),
            // It stays held: whoever is still there finds out by itself, or by who comes back.
            _ => {}
        }
        if round % QUIET == 0 {
            fleet.ask(|_, settled| !settled);
            let settled = fleet.book.wait_settled(SETTLES);
            assert!(settled, "seed {seed}, round {round}: {}\n{}", fleet.book.open(), fleet.logs());
        }
    }
    fleet.cable.let_go();
    let counts = fleet.close(&format!("seed {seed}"));
    eprintln!("crash loop: seed {seed}, {rounds} rounds in {:?}: {counts:?}", begun.elapsed());
    assert!(counts.done > counts.settled / 2, "most of them are done: {counts:?}");
}

// ---- Killed at the Nth sync ------------------------------------------------------------------------------------

#[test]
fn an_asker_that_is_killed_at_any_of_its_syncs_keeps_its_promises() {
    at_each_sync("asker", |starter| {
        let asker = start_under(without_spool(asker().start().crash()), starter);
        let doer = doer(asker.0.port()).start();
        (asker, (doer, false))
    });
}

#[test]
fn a_doer_that_is_killed_at_any_of_its_syncs_keeps_its_promises() {
    at_each_sync("doer", |starter| {
        let asker = asker().start();
        let doer = start_under(doer(asker.port()), starter);
        ((asker, false), doer)
    });
}

/// A daemon, and whether it was killed before it was ready.
type Begun = (Daemon, bool);

/// Starts both daemons, one of them by the words that kill it at its Nth sync; holds the promises against what came of it.
fn at_each_sync(victim: &str, start: impl Fn(&[&str]) -> (Begun, Begun)) {
    if !need_tool("strace") {
        return;
    }
    let step = if env::var_os("WSDAEMON_CRASH_SYNCS").is_some() { 1 } else { SYNCS / SYNCS_IN_CI };
    let (mut killed, mut all, begun) = (0, Counts::default(), Instant::now());
    let syncs: Vec<usize> = (1..=SYNCS).step_by(step).collect();
    for &sync in &syncs {
        let inject = format!("inject=fdatasync,fsync:signal=KILL:when={sync}");
        let starter = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &inject];
        let (asker, doer) = start(&starter);
        let (is_killed, counts) = work_until_killed(sync, asker, doer, victim == "asker");
        killed += usize::from(is_killed);
        all.settled += counts.settled;
        all.done += counts.done;
        all.unknown += counts.unknown;
        all.started += counts.started;
    }
    eprintln!("{victim} killed at {killed} of {} syncs in {:?}: {all:?}", syncs.len(), begun.elapsed());
    assert_eq!(killed, syncs.len(), "each of these syncs is reached");
}

/// One request after the other, so that each has its own syncs, until the daemon under strace is killed; then it is started without.
fn work_until_killed(sync: usize, asker: Begun, doer: Begun, asker_is_victim: bool) -> (bool, Counts) {
    let (mut asker, mut doer, mut killed) = (asker.0, doer.0, asker.1 || doer.1);
    let book = Book::default();
    let victim = if asker_is_victim { &asker } else { &doer };
    let (pidfd, interrupted) = (pidfd_open(victim.pid(), PidfdFlags::empty()).expect("it is not reaped yet"), book.clone());
    let mut watch = Some(thread::spawn(move || {
        if wait_readable(&pidfd, Instant::now() + DEADLINE) {
            interrupted.interrupt(true);
        }
    }));
    for request in 0..REQUESTS_A_SYNC {
        book.note(&request.to_string(), if request % 4 == 0 { 3 } else { 0 }, 0.0);
        book.ask(asker.socket(), |_, settled| !settled);
        if book.wait_settled(SETTLES) {
            if killed {
                break;
            }
            continue;
        }
        killed = true;
        watch.take().expect("it is killed once").join().expect("to watch is not to panic");
        book.interrupt(false);
        if asker_is_victim {
            asker = asker.ended().started_by(&[]).start();
        } else {
            doer = doer.ended().started_by(&[]).start();
        }
    }
    let told = || format!("killed at sync {sync}\n{}{}", asker.log(), doer.log());
    (killed, book.close(asker.socket(), &[doer.prefix()], SETTLES, &told))
}

fn start_under(plan: DaemonPlan, starter: &[&str]) -> Begun {
    match plan.started_by(starter).try_start() {
        Ok(daemon) => (daemon, false),
        Err(plan) => (plan.started_by(&[]).start(), true),
    }
}

/// As if it had never run: what is made with a spool is synced as well.
fn without_spool(plan: DaemonPlan) -> DaemonPlan {
    for file in fs::read_dir(plan.prefix()).expect("the prefix is ours").flatten() {
        if file.file_name().to_string_lossy().starts_with("spool-") {
            fs::remove_file(file.path()).expect("the prefix is ours");
        }
    }
    plan
}

// ---- Clocks ----------------------------------------------------------------------------------------------------

#[test]
fn clocks_that_jump_by_ten_years_between_two_lives_lose_repeat_and_expire_nothing() {
    let Some(library) = need_faketime() else { return };
    let mut fleet = Fleet::new(1);
    let year = year_of(fleet.asker());
    for jump in ["+10y", "-10y", "+0y"] {
        let note = |what: &str| fleet.book.note(&format!("{what} {jump}"), 0, 0.0);
        note("done before");
        fleet.ask(|accepted, _| !accepted);
        assert!(fleet.book.wait_settled(SETTLES), "{}\n{}", fleet.book.open(), fleet.logs());
        // Bound, and on its way to a doer that it does not reach in this life.
        fleet.cable.hold();
        note("under way");
        fleet.ask(|accepted, _| !accepted);
        assert!(fleet.book.wait_accepted(DEADLINE), "{}\n{}", fleet.book.open(), fleet.logs());
        // Accepted, and nobody is there to have it.
        let doer = fleet.doers[0].take().expect("it runs").crash();
        note("waits");
        fleet.ask(|accepted, _| !accepted);
        assert!(fleet.book.wait_accepted(DEADLINE), "{}\n{}", fleet.book.open(), fleet.asker().log());
        let asker = fleet.asker.take().expect("it runs").crash();
        fleet.cable.cut_held();

        let later = |plan: DaemonPlan| {
            let plan = plan.env("LD_PRELOAD", &library).env("FAKETIME", jump);
            plan.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").start()
        };
        fleet.asker = Some(later(asker));
        fleet.doers[0] = Some(later(doer));
        assert_eq!(year_of(fleet.asker()) == year, jump == "+0y", "the clock has jumped: {}", fleet.asker().log());
        fleet.ask(|_, settled| !settled);
        assert!(fleet.book.wait_settled(SETTLES), "{}\n{}", fleet.book.open(), fleet.logs());
    }
    let counts = fleet.close("clocks");
    assert_eq!((counts.settled, counts.done, counts.started), (9, 9, 9), "{counts:?}\n{}", fleet.logs());
}

/// The year that a daemon's log began in.
fn year_of(daemon: &Daemon) -> String {
    daemon.wait_log("local socket ready").chars().take(4).collect()
}
