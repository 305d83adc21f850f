//! The recorded conversations of the seed daemon, played to ours in both roles and compared byte for byte, and to
//! the JavaScript stand-in, which proves that what the interoperation tests meet speaks as the seed did. Where the
//! contract says that ours differs, `EXCEPTIONS` says what ours says instead, and why.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;

use crate::support::{Daemon, Local, Peer, PeerListener, need_stand_ins};

const RECORDING: &str = include_str!("../recordings/seed-conversation.json");

/// Exits 7 and leaves its argument where the player finds it.
const T: &str = "#!/bin/sh\nprintf %s \"$1\" > \"$WSDAEMON_PREFIX/argv\"\nexit 7\n";

/// Is killed by a signal.
const SIG: &str = "#!/bin/sh\nkill -TERM $$\n";

/// Stands for the run's id, which is new each time: taken from what ours says, put into what it is told later.
const RUN: &str = "{run}";

#[derive(Deserialize)]
struct Case {
    case: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    at: String,
    dir: String,
    text: String,
}

/// One step at which the contract asks ours for something else than the seed daemon said.
struct Exception {
    /// The case's name after "seed server " or "seed client ".
    case: &'static str,
    at: &'static str,
    dir: &'static str,
    text: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        case: "executes: run, spaces, key order, numbers",
        at: "script argv[1]",
        dir: "from daemon",
        text: r#"{"z":1.0,"a":[1,2],"s":"\u00e9"}"#,
        reason: "params keep numbers and escapes as they were written",
    },
    Exception {
        case: "executes: run without params",
        at: "script argv[1]",
        dir: "from daemon",
        text: "null",
        reason: "the seed daemon passed the word undefined, which no JSON parser takes",
    },
    Exception {
        case: "executes: killed by a signal",
        at: "link",
        dir: "from daemon",
        text: r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":143,"id":"s","signal":"SIGTERM"}}}"#,
        reason: "a signal is 128+N with `signal`, the seed daemon said null",
    },
    Exception {
        case: "asks: request, spaces kept",
        at: "link",
        dir: "from daemon",
        text: r#"{"name":"t","id":"x2","params":{"a": 1.0}}"#,
        reason: "exactly name, id, params go out: only params' bytes are the caller's own",
    },
    Exception {
        case: "asks: request without id",
        at: "link",
        dir: "from daemon",
        text: r#"{"name":"t","id":"{run}","params":{}}"#,
        reason: "a request without an id travels with the run's, so that its outcome finds home",
    },
    Exception {
        case: "asks: request without id",
        at: "link",
        dir: "to daemon",
        text: r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":7,"id":"{run}"}}}"#,
        reason: "a seed peer answers with the id that it was asked with",
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Speaker {
    Ours,
    StandIn,
}

#[test]
fn ours_says_what_a_seed_server_was_recorded_to_say() {
    play_all("seed server", Speaker::Ours);
}

#[test]
fn ours_says_what_a_seed_client_was_recorded_to_say() {
    play_all("seed client", Speaker::Ours);
}

#[test]
fn the_stand_in_says_what_a_seed_server_was_recorded_to_say() {
    if need_stand_ins() {
        play_all("seed server", Speaker::StandIn);
    }
}

#[test]
fn the_stand_in_says_what_a_seed_client_was_recorded_to_say() {
    if need_stand_ins() {
        play_all("seed client", Speaker::StandIn);
    }
}

#[test]
fn every_recorded_case_is_of_a_role_that_is_played() {
    let strangers: Vec<String> = recording()
        .into_iter()
        .map(|case| case.case)
        .filter(|name| !name.starts_with("seed server") && !name.starts_with("seed client"))
        .collect();
    assert!(strangers.is_empty(), "nobody plays {strangers:?}");
}

fn recording() -> Vec<Case> {
    serde_json::from_str(RECORDING).expect("the recording is JSON of this shape")
}

/// Plays every case of a role, all of them even when some fail, and demands that each exception was met.
fn play_all(role: &str, speaker: Speaker) {
    let cases: Vec<Case> = recording().into_iter().filter(|case| case.case.starts_with(role)).collect();
    assert!(!cases.is_empty(), "nothing is recorded of a {role}");
    let mut met = BTreeSet::new();
    let failed: Vec<&str> = cases
        .iter()
        .filter(|case| {
            let played = catch_unwind(AssertUnwindSafe(|| play(case, speaker, &mut met)));
            played.inspect_err(|_| eprintln!("^ in the case {:?}", case.case)).is_err()
        })
        .map(|case| case.case.as_str())
        .collect();
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), cases.len());
    let unmet: Vec<&str> = (0..EXCEPTIONS.len())
        .filter(|at| speaker == Speaker::Ours && !met.contains(at))
        .map(|at| EXCEPTIONS[at].reason)
        .collect();
    assert!(unmet.is_empty(), "exceptions that nothing recorded needs: {unmet:#?}");
}

fn play(case: &Case, speaker: Speaker, met: &mut BTreeSet<usize>) {
    let mut stage = Stage::set(case, speaker);
    for step in &case.steps {
        let exception = EXCEPTIONS.iter().position(|exception| speaker == Speaker::Ours && exception.is_for(case, step));
        met.extend(exception);
        stage.play(step, exception.map_or(&step.text, |at| EXCEPTIONS[at].text));
    }
    stage.clear();
}

impl Exception {
    fn is_for(&self, case: &Case, step: &Step) -> bool {
        case.case.ends_with(self.case) && step.at == self.at && step.dir == self.dir
    }
}

/// One daemon with whoever the case needs around it.
struct Stage {
    daemon: Daemon,
    peer: Option<Peer>,
    local: Option<Local>,
    run: String,
    argument: Option<String>,
}

impl Stage {
    fn set(case: &Case, speaker: Speaker) -> Self {
        let linked = !case.case.contains("nobody connected");
        let (daemon, peer) = if case.case.starts_with("seed server") {
            let plan = match speaker {
                Speaker::Ours => Daemon::server(),
                Speaker::StandIn => Daemon::seed_server(),
            };
            let daemon = plan.script("t", T).script("sig", SIG).start();
            let peer = linked.then(|| Peer::dial(&daemon));
            (daemon, peer)
        } else {
            let listener = PeerListener::bind();
            let plan = match speaker {
                Speaker::Ours => Daemon::client_of(listener.port()),
                Speaker::StandIn => Daemon::seed_client_of(listener.port()),
            };
            let daemon = plan.script("t", T).script("sig", SIG).start();
            let peer = linked.then(|| listener.accept(&daemon));
            (daemon, peer)
        };
        let has_local = case.steps.iter().any(|step| step.at == "socket");
        let local = has_local.then(|| daemon.connect());
        Self { daemon, peer, local, run: RUN.into(), argument: None }
    }

    fn play(&mut self, step: &Step, text: &str) {
        match (step.at.as_str(), step.dir.as_str()) {
            ("link", "to daemon") => {
                let text = text.replace(RUN, &self.run);
                self.peer().send_text(&text);
            }
            ("link", "from daemon") => {
                let heard = self.peer().text();
                self.compare(&heard, text);
            }
            ("socket", "to daemon") => self.local().send(text),
            ("socket", "from daemon") => {
                let heard = self.local().line() + "\n";
                self.compare(&heard, text);
            }
            // Looked at in the end: when its status is home, the script has written its argument and exited.
            ("script argv[1]", "from daemon") => self.argument = Some(text.into()),
            (at, dir) => panic!("no player for {dir} at {at}"),
        }
    }

    /// Nothing beyond the recorded may follow.
    fn clear(mut self) {
        if let Some(peer) = &mut self.peer {
            peer.nothing_waiting();
        }
        if let Some(local) = &mut self.local {
            local.nothing_waiting();
        }
        if let Some(wanted) = &self.argument {
            let given = fs::read_to_string(self.daemon.prefix().join("argv")).expect("the script has run");
            assert_eq!(&given, wanted, "argv[1]");
        }
    }

    fn compare(&mut self, heard: &str, wanted: &str) {
        if let Some((before, after)) = wanted.split_once(RUN) {
            let run = heard.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            self.run = run.unwrap_or_else(|| panic!("wanted {wanted}, heard {heard}")).into();
            return;
        }
        assert_eq!(heard, wanted, "\n{}", self.daemon.log());
    }

    fn peer(&mut self) -> &mut Peer {
        self.peer.as_mut().expect("a case with steps at the link has a peer")
    }

    fn local(&mut self) -> &mut Local {
        self.local.as_mut().expect("a case with steps at the socket has a local process")
    }
}
