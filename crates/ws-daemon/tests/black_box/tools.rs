//! The commands that ask the daemon, against one that says what the test tells it to: what each sends, and what a person or a
//! program sees of the answers.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Conversation, DEADLINE, Process, Ran, ScriptedDaemon, command, need_tool, ran};

const RUN: &str = "01940b52-9c3e-7cc1-8b1e-5b1f0a3c9d77";

/// What a terminal must never get from afar: ESC, CSI, BEL, CR, an override and an isolate; as JSON text, in which only those
/// stand as they are that may.
const NASTY: &str = "a\\u001b[2Jb\u{9b}2Jc\\u0007d\\re\u{202e}f\\u2066g";

/// `words` with the socket of `daemon`.
fn asking(daemon: &ScriptedDaemon, words: &[&str]) -> Command {
    let mut command = command(words);
    command.arg("--socket").arg(daemon.socket());
    command
}

/// What `words` come to when the daemon is asked exactly `request` and says `lines`. The connection stays open until the
/// command has ended: it must know by itself when all is said.
#[track_caller]
fn told(words: &[&str], request: &str, lines: &[&str]) -> Ran {
    let daemon = ScriptedDaemon::new();
    converse(&daemon, asking(&daemon, words), |conversation| {
        assert_eq!(conversation.message(), request, "{words:?}");
        conversation.say(lines);
        conversation.nothing_more();
    })
}

/// Runs a command while the daemon has a conversation with it.
#[track_caller]
fn converse(daemon: &ScriptedDaemon, command: Command, script: impl FnOnce(&mut Conversation)) -> Ran {
    thread::scope(|scope| {
        let asking = scope.spawn(|| ran(command, ""));
        script(&mut daemon.accept());
        asking.join().expect("the other thread has panicked")
    })
}

/// What stands on a terminal of `columns` after `words`, and the exit code.
#[track_caller]
fn on_a_terminal(words: &[&str], columns: u32, environment: &[(&str, &str)], lines: &[&str]) -> Ran {
    let daemon = ScriptedDaemon::new();
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let line = format!(
        "stty rows 24 cols {columns}; {} {} --socket {}",
        env!("CARGO_BIN_EXE_ws-daemon"),
        words.join(" "),
        daemon.socket().display()
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
    terminal.envs(environment.iter().copied());
    converse(&daemon, terminal, |conversation| {
        conversation.message();
        conversation.say(lines);
        conversation.nothing_more();
    })
}

/// The question that a command asks.
fn question(code: &str, data: &str) -> String {
    let data = if data.is_empty() { String::new() } else { format!(",\"data\":{data}") };
    format!("{{\"id\":\"ws-daemon\",\"name\":\"+cmd\",\"params\":{{\"code\":\"{code}\"{data}}}}}")
}

/// An answer with this result.
fn result(result: &str) -> String {
    format!("{{\"status\":0,\"id\":\"ws-daemon\",\"result\":{result}}}")
}

fn exit(ran: &Ran) -> (i32, &str, &str) {
    (ran.code, &ran.out, &ran.err)
}

/// Asserts that nothing from `NASTY` has reached a terminal.
#[track_caller]
fn assert_clean(said: &str) {
    let moving = |char: char| matches!(char, '\u{7}' | '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!said.contains(moving), "{said:?}");
    assert!(!said.contains("\u{1b}[2J"), "{said:?}");
    assert!(!said.replace("\r\n", "\n").contains("d\re"), "{said:?}");
}

#[test]
fn exec_sends_what_its_flags_say_and_nothing_else() {
    let table: [(&[&str], &str); 16] = [
        (&[], ""),
        (&["--to", "web-1"], r#","to":"web-1""#),
        (&["--to", "web-*", "--to", "!web-3"], r#","to":["web-*","!web-3"]"#),
        (
            &["--to", "*", "--each", "--batch", "5", "--max-failures", "2"],
            r#","to":"*","each":true,"batch":5,"max_failures":2"#,
        ),
        (&["--route", "least-busy"], r#","route":"least-busy""#),
        (&["--route", "sticky:a:b"], r#","route":{"sticky":"a:b"}"#),
        (&["--timeout", "2s"], r#","timeout":2000"#),
        (&["--follow"], r#","output":"stream""#),
        (&["--output", "none"], r#","output":"none""#),
        (&["--output", "tail"], r#","output":"tail""#),
        (&["--queue"], r#","queue":true"#),
        (&["--ttl", "1h"], r#","queue":{"ttl":3600000}"#),
        (&["--queue", "--not-before", "1m", "--ttl", "5"], r#","queue":{"not_before":"60000ms","ttl":5}"#),
        (&["--queue", "--retry", "3"], r#","queue":true,"retry":{"max":3}"#),
        (&["--then", "sms/done"], r#","then":"sms/done""#),
        (&["--json"], ""),
    ];
    for (words, keys) in table {
        let words = [&["exec", "hello", r#"{"z":1.0, "a":1}"#], words].concat();
        let request = format!(r#"{{"name":"hello","params":{{"z":1.0, "a":1}}{keys}}}"#);
        let lines = if words.contains(&"--each") { r#"{"event":"done","runs":1,"failed":0}"# } else { r#"{"status":0}"# };
        assert_eq!(told(&words, &request, &[lines]).code, 0, "{words:?}");
    }
    let refused: [(&[&str], &str); 8] = [
        (&["--batch", "2"], "--each"),
        (&["--each", "--batch", "0"], "0"),
        (&["--each", "--max-failures", "0"], "0"),
        (&["--follow", "--output", "tail"], "cannot be used with"),
        (&["--detach", "--follow"], "cannot be used with"),
        (&["--route", "sticky:"], "write round-robin, least-busy, or sticky:KEY"),
        (&["--ttl", "soon"], "is no duration"),
        (&["--each", "--follow"], "use --output tail, or --json"),
    ];
    for (words, said) in refused {
        let ran = ran(command(&[&["exec", "hello"], words].concat()), "");
        assert_eq!(ran.code, 64, "{words:?}");
        assert!(ran.err.contains(said), "{}", ran.err);
    }
}

const FOLLOWED: [&str; 6] = [
    r#"{"event":"started","run":"r","peer":"web-1"}"#,
    r#"{"event":"output","run":"r","stream":"stdout","offset":0,"data":"é\r\nta\tb"}"#,
    r#"{"event":"output","run":"r","stream":"stderr","offset":0,"data":"oh\n"}"#,
    r#"{"event":"output","run":"r","stream":"stdout","offset":8,"data":"/wCbMko=","encoding":"base64"}"#,
    r#"{"event":"output","run":"r","stream":"stdout","offset":99,"data":"end\n","gap":86}"#,
    r#"{"status":3,"run":"r","peer":"web-1","ms":5}"#,
];

#[test]
fn exec_follows_output_byte_by_byte_and_says_what_is_missing() {
    let daemon = ScriptedDaemon::new();
    let out = daemon.prefix().join("out");
    let err = daemon.prefix().join("err");
    let mut shell = Command::new("sh");
    let line = format!(
        "{} exec x --follow --socket {} >{} 2>{}",
        env!("CARGO_BIN_EXE_ws-daemon"),
        daemon.socket().display(),
        out.display(),
        err.display()
    );
    shell.args(["-c", &line]);
    let ran = converse(&daemon, shell, |conversation| {
        assert_eq!(conversation.message(), r#"{"name":"x","params":null,"output":"stream"}"#);
        conversation.say(&FOLLOWED);
        conversation.nothing_more();
    });
    assert_eq!(ran.code, 3);
    assert_eq!(fs::read(out).expect("it is written"), b"\xc3\xa9\r\nta\tb\xff\x00\x9b2Jend\n");
    assert_eq!(fs::read_to_string(err).expect("it is written"), "oh\nws-daemon: 86 bytes of stdout are missing here\n");
    // For a program every line as it came.
    let ran = told(&["exec", "x", "--follow", "--json"], r#"{"name":"x","params":null,"output":"stream"}"#, &FOLLOWED);
    assert_eq!(exit(&ran), (3, &*(FOLLOWED.join("\n") + "\n"), ""));
}

#[test]
fn nothing_from_afar_moves_the_cursor_of_a_terminal() {
    if !need_tool("script") {
        return;
    }
    let output = |stream: &str| format!(r#"{{"event":"output","stream":"{stream}","data":"{NASTY}\nx\ty\n"}}"#);
    let record = format!(
        r#"{{"run":"{NASTY}","name":"{NASTY}","peer":"{NASTY}","address":"{NASTY}","state":"{NASTY}","tags":["{NASTY}"],"{NASTY}":1,"report":{{"status":-1,"error":"{NASTY}","message":"{NASTY}","stdout":"{NASTY}"}}}}"#
    );
    let list = result(&format!("[{record}]"));
    let one = result(&record);
    let failure = format!(r#"{{"status":-1,"error":"{NASTY}","message":"{NASTY}","peer":"{NASTY}"}}"#);
    let event = format!(r#"{{"event":"{NASTY}","run":"{NASTY}","{NASTY}":"{NASTY}"}}"#);
    let ack = r#"{"status":0,"id":"ws-daemon-events"}"#;
    let tail = format!(r#"{{"status":0,"stdout":"{NASTY}","stderr":"{NASTY}"}}"#);
    let json = format!(r#"{{"status":0,"result":"{NASTY}"}}"#);
    let of_many = format!(r#"{{"status":1,"run":"r","peer":"{NASTY}","stdout":"{NASTY}"}}"#);
    let accepted = format!(r#"{{"event":"accepted","run":"{NASTY}","nearest":"{NASTY}"}}"#);
    let done = r#"{"event":"done","runs":1,"failed":1}"#;
    let (out, err) = (output("stdout"), output("stderr"));
    let base64 = r#"{"event":"output","stream":"stdout","data":"G1sySputSsKbMkr/","encoding":"base64"}"#;
    let table: [(&[&str], &[&str]); 17] = [
        (&["exec", "x", "--follow"], &[&out, &err, base64, r#"{"status":0}"#]),
        (&["exec", "x", "--follow", "--json"], &[&out, &err, base64, r#"{"status":0}"#]),
        (&["exec", "x", "--output", "tail"], &[&tail]),
        (&["exec", "x", "--output", "json"], &[&json]),
        (&["exec", "x", "--each", "--output", "tail"], &[&of_many, done]),
        (&["exec", "x", "--queue"], &[&accepted, &failure]),
        (&["exec", "x", "--detach"], &[&accepted]),
        (&["exec", "x"], &[&failure]),
        (&["peers"], &[&list]),
        (&["peers", "--json"], &[&list]),
        (&["runs"], &[&list]),
        (&["show", "r"], &[&one]),
        (&["stats"], &[&one]),
        (&["scripts"], &[&list]),
        (&["logs", "r", "--stream", "stdout"], &[&out, base64, r#"{"status":0}"#]),
        (&["ping", "x"], &[&failure, r#"{"event":"done"}"#]),
        (&["cancel", "r"], &[&failure]),
    ];
    for (words, lines) in table {
        let ran = on_a_terminal(words, 400, &[], lines);
        assert_clean(&ran.out);
        let shown = ran.out.contains("a [2Jb 2Jc d e f g") || ran.out.contains(r"a\u001b[2Jb\u009b2Jc\u0007d\re\u202ef\u2066g");
        assert!(shown, "{words:?}: {ran:?}");
    }
    // What does not end by itself.
    let daemon = ScriptedDaemon::new();
    let line = format!("{} events --socket {}", env!("CARGO_BIN_EXE_ws-daemon"), daemon.socket().display());
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
    let ran = converse(&daemon, terminal, |conversation| {
        conversation.message();
        conversation.say(&[ack, &event]);
    });
    assert_clean(&ran.out);
    assert!(ran.out.contains("run=\"a [2Jb") || ran.out.contains("run=a [2Jb"), "{ran:?}");
}

#[test]
fn a_terminal_keeps_the_scripts_lines_and_tabs_and_words_of_ours_begin_a_line() {
    if !need_tool("script") {
        return;
    }
    let ran = on_a_terminal(&["exec", "x", "--follow"], 80, &[], &FOLLOWED);
    assert_eq!(ran.code, 3);
    let screen = ran.out.replace("\r\n", "\n");
    assert_eq!(screen, "é \nta\tboh\n\u{fffd} \u{fffd}2J\nws-daemon: 86 bytes of stdout are missing here\nend\n");
}

#[test]
fn exec_that_follows_ends_by_ctrl_c_and_cancels_nothing() {
    let daemon = ScriptedDaemon::new();
    let mut process = Process::start("exec", asking(&daemon, &["exec", "x", "--follow"]));
    let mut conversation = daemon.accept();
    conversation.message();
    conversation.say(&[r#"{"event":"output","stream":"stdout","data":"first\n"}"#]);
    process.log().wait("first");
    process.signal(Signal::INT);
    // As a shell has it: 130.
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&process.wait_exit(DEADLINE)), Some(2));
    conversation.nothing_more();
}

/// Runs a command whose stdout nobody reads.
#[track_caller]
fn unread(daemon: &ScriptedDaemon, words: &[&str], script: impl FnOnce(&mut Conversation)) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = asking(daemon, words);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    thread::scope(|scope| {
        let asking = scope.spawn(move || command.output().expect("it starts"));
        script(&mut daemon.accept());
        let said = asking.join().expect("the other thread has panicked");
        (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned())
    })
}

#[test]
fn a_reader_that_goes_away_ends_what_would_not_end_and_is_no_trouble() {
    let ack = r#"{"status":0,"id":"ws-daemon-events"}"#;
    let event = r#"{"event":"started","run":"r"}"#;
    let chunk = r#"{"event":"output","stream":"stdout","data":"x\n"}"#;
    let list = result(r#"[{"name":"a","run":"r"}]"#);
    let table: [(&[&str], &[&str], i32); 8] = [
        (&["events"], &[ack, event], 0),
        (&["events", "--json"], &[ack, event], 0),
        (&["logs", "r", "--follow"], &[chunk], 0),
        (&["exec", "x", "--follow"], &[chunk], 141),
        (&["peers"], &[&list], 0),
        (&["runs", "--json"], &[&list], 0),
        // What it exits with is still worth waiting for.
        (&["exec", "x", "--json"], &[r#"{"event":"started"}"#, r#"{"status":7}"#], 7),
        (&["exec", "x", "--output", "tail"], &[r#"{"status":7,"stdout":"x\n"}"#], 7),
    ];
    for (words, lines, code) in table {
        let daemon = ScriptedDaemon::new();
        // The connection stays open: it is the reader that ends it.
        let ended = unread(&daemon, words, |conversation| {
            conversation.message();
            conversation.say(lines);
            conversation.nothing_more();
        });
        assert_eq!(ended, (Some(code), String::new()), "{words:?}");
    }
}

#[test]
fn exec_prints_the_tail_or_the_result_if_asked() {
    let tail = r#"{"name":"x","params":null,"output":"tail"}"#;
    let json = r#"{"name":"x","params":null,"output":"json"}"#;
    let (with_tail, with_json) = (["exec", "x", "--output", "tail"], ["exec", "x", "--output", "json"]);
    let table = [
        (with_tail, tail, r#"{"status":4,"stdout":"out\n","stderr":"err\n"}"#, 4, "out\n", "err\n"),
        (
            with_tail,
            tail,
            r#"{"status":0,"stdout":"headtail\n","cut":{"stdout":{"at":4,"bytes":7}}}"#,
            0,
            "headtail\n",
            "ws-daemon: 7 bytes of stdout are missing here\n",
        ),
        (
            with_tail,
            tail,
            r#"{"status":-4,"error":"timed_out","message":"after 1s","stderr":"e\n"}"#,
            124,
            "",
            "e\nws-daemon: x: timed_out: after 1s\n",
        ),
        (
            with_json,
            json,
            r#"{"status":0,"result":{"b":1.0,"a":12345678901234567890123}}"#,
            0,
            "{\"b\":1.0,\"a\":12345678901234567890123}\n",
            "",
        ),
        (with_json, json, r#"{"status":9,"result":null}"#, 9, "null\n", ""),
        (with_json, json, r#"{"status":0,"result":null}"#, 0, "null\n", ""),
        (
            with_json,
            json,
            r#"{"status":0,"message":"stdout is no JSON","stdout":"hello\n"}"#,
            65,
            "hello\n",
            "ws-daemon: x: stdout is no JSON\n",
        ),
        (with_json, json, r#"{"status":0}"#, 65, "", "ws-daemon: x: there is no result\n"),
    ];
    for (words, request, line, code, out, err) in table {
        assert_eq!(exit(&told(&words, request, &[line])), (code, out, err), "{line}");
    }
    let base64 = r#"{"status":0,"stdout":"/wA=","encoding":{"stdout":"base64"}}"#;
    let daemon = ScriptedDaemon::new();
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_ws-daemon");
    let line = format!("{program} exec x --output tail --socket {} | od -An -tx1", daemon.socket().display());
    shell.args(["-c", &line]);
    let ran = converse(&daemon, shell, |conversation| {
        conversation.message();
        conversation.say(&[base64]);
    });
    assert_eq!(ran.out, " ff 00\n");
}

#[test]
fn a_queued_request_says_its_run_and_may_be_left_alone() {
    let queued = r#"{"name":"x","params":null,"queue":true}"#;
    let accepted = format!(r#"{{"event":"accepted","run":"{RUN}"}}"#);
    let nearest = format!(r#"{{"event":"accepted","run":"{RUN}","nearest":"web-1"}}"#);
    let last = format!(r#"{{"status":0,"run":"{RUN}","peer":"web-1","ms":3}}"#);
    let noted = format!("ws-daemon: accepted as {RUN}\n");
    let ran = told(&["exec", "x", "--queue"], queued, &[&accepted, r#"{"event":"delivered"}"#, &last]);
    assert_eq!(exit(&ran), (0, "", &*noted));
    let ran = told(&["exec", "x", "--queue"], queued, &[&nearest, &last]);
    assert_eq!(ran.err, format!("{noted}ws-daemon: no peer of that name was ever seen; did you mean web-1?\n"));
    let ran = told(&["exec", "x", "--queue", "--json"], queued, &[&accepted, &last]);
    assert_eq!(exit(&ran), (0, &*format!("{accepted}\n{last}\n"), ""));
    // Left alone: it ends though nothing is settled.
    let ran = told(&["exec", "x", "--detach"], queued, &[&accepted]);
    assert_eq!(exit(&ran), (0, &*format!("{RUN}\n"), ""));
    let ran = told(&["exec", "x", "--detach", "--json"], queued, &[&accepted]);
    assert_eq!(exit(&ran), (0, &*format!("{accepted}\n"), ""));
    let refused = r#"{"status":-2,"error":"spool_failed","message":"the disk is full"}"#;
    let ran = told(&["exec", "x", "--detach"], queued, &[refused]);
    assert_eq!(exit(&ran), (75, "", "ws-daemon: x: spool_failed: the disk is full\n"));
    // The daemon goes away meanwhile.
    let daemon = ScriptedDaemon::new();
    let ran = converse(&daemon, asking(&daemon, &["exec", "x", "--queue"]), |conversation| {
        conversation.message();
        conversation.say(&[&accepted]);
    });
    assert_eq!(ran.code, 74);
    assert!(ran.err.contains(&format!("the request is on its disk. Once it is back: ws-daemon wait {RUN}")), "{}", ran.err);
}

const EACH: &str = r#"{"name":"x","params":null,"each":true}"#;

#[test]
fn each_exits_as_the_first_run_that_failed_and_names_who_did() {
    let fine = r#"{"status":0,"run":"1","peer":"web-1"}"#;
    let seven = r#"{"status":7,"run":"2","peer":"web-2"}"#;
    let gone = r#"{"status":-2,"run":"3","peer":"web-3","error":"no_peer","message":"it left"}"#;
    let done = |failed: u32| format!(r#"{{"event":"done","runs":3,"failed":{failed}}}"#);
    let table: [(&[&str], &str, i32, &str); 5] = [
        (&[fine, fine, fine], &done(0), 0, "ws-daemon: 3 done, 0 failed\n"),
        (
            &[fine, seven, gone],
            &done(2),
            7,
            "ws-daemon: web-2: exit status 7\nws-daemon: web-3: no_peer: it left\nws-daemon: 3 done, 2 failed\n",
        ),
        (
            &[gone, seven],
            &done(2),
            69,
            "ws-daemon: web-3: no_peer: it left\nws-daemon: web-2: exit status 7\nws-daemon: 3 done, 2 failed\n",
        ),
        // Some were never begun.
        (&[fine], &done(2), 1, "ws-daemon: 3 done, 2 failed\n"),
        (&[], r#"{"event":"done","runs":0,"failed":0}"#, 69, "ws-daemon: 0 done, 0 failed\n"),
    ];
    for (lines, done, code, err) in table {
        let lines = [lines, &[done]].concat();
        assert_eq!(exit(&told(&["exec", "x", "--each"], EACH, &lines)), (code, "", err));
        let ran = told(&["exec", "x", "--each", "--json"], EACH, &lines);
        assert_eq!(exit(&ran), (code, &*(lines.join("\n") + "\n"), ""));
    }
    // The request itself is refused: nothing more comes.
    let refused = r#"{"status":-2,"error":"unknown_target","message":"nobody is called so"}"#;
    let ran = told(&["exec", "x", "--each"], EACH, &[refused]);
    assert_eq!(exit(&ran), (69, "", "ws-daemon: x: unknown_target: nobody is called so\n"));
}

#[test]
fn what_each_peer_printed_stands_under_its_name() {
    let tail = r#"{"name":"x","params":null,"each":true,"output":"tail"}"#;
    let one = r#"{"status":0,"run":"1","peer":"web-1","stdout":"a\nb","stderr":"e\n"}"#;
    let two = r#"{"status":0,"run":"2","peer":"web-2","stdout":"c\n","cut":{"stdout":{"at":0,"bytes":5}}}"#;
    let done = r#"{"event":"done","runs":2,"failed":0}"#;
    let ran = told(&["exec", "x", "--each", "--output", "tail"], tail, &[one, two, done]);
    assert_eq!(ran.out, "web-1 | a\nweb-1 | b\nweb-2 | c\n");
    assert_eq!(ran.err, "web-1 | e\nws-daemon: web-2: 5 bytes of stdout are missing here\nws-daemon: 2 done, 0 failed\n");
    let json = r#"{"name":"x","params":null,"each":true,"output":"json"}"#;
    let one = r#"{"status":0,"run":"1","peer":"web-1","result":[1.0]}"#;
    let ran = told(&["exec", "x", "--each", "--output", "json"], json, &[one, done]);
    assert_eq!(ran.out, "{\"peer\":\"web-1\",\"result\":[1.0]}\n");
}

#[test]
fn the_progress_of_each_stands_on_a_terminal_and_nowhere_else() {
    if !need_tool("script") {
        return;
    }
    let lines = [
        r#"{"event":"accepted","run":"r","runs":3}"#,
        r#"{"status":0,"run":"1","peer":"web-1"}"#,
        r#"{"status":7,"run":"2","peer":"web-2"}"#,
        r#"{"status":0,"run":"3","peer":"web-3"}"#,
        r#"{"event":"done","runs":3,"failed":1}"#,
    ];
    let ran = on_a_terminal(&["exec", "x", "--each"], 80, &[], &lines);
    let (up, end) = ("\r\u{1b}[K", "\r\n");
    let expected = [
        &format!("{up}0/3 done, 0 failed"),
        &format!("{up}1/3 done, 0 failed"),
        &format!("{up}ws-daemon: web-2: exit status 7{end}"),
        &format!("{up}2/3 done, 1 failed"),
        &format!("{up}3/3 done, 1 failed"),
        &*format!("{up}ws-daemon: 3 done, 1 failed{end}"),
    ];
    assert_eq!((ran.code, ran.out), (7, expected.concat()));
    let narrow = on_a_terminal(&["exec", "x", "--each"], 12, &[], &lines);
    assert!(narrow.out.contains("\u{1b}[K0/3 done, …\r"), "{narrow:?}");
    let dumb = on_a_terminal(&["exec", "x", "--each"], 80, &[("TERM", "dumb")], &lines);
    assert!(!dumb.out.contains('\u{1b}'), "{dumb:?}");
    let piped = told(&["exec", "x", "--each"], EACH, &lines);
    assert_eq!(piped.err, "ws-daemon: web-2: exit status 7\nws-daemon: 3 done, 1 failed\n");
}

/// Three peers: connected, absent with long words, and a seed that was never seen.
fn peers() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970");
    let then = now.as_millis() - 200_000;
    let connected = format!(
        r#"{{"name":"web-1","instance":"i","address":"10.0.0.1:4711","tags":["sms","eu"],"connected":true,"seed":false,"last_seen":{then},"version":"0.2.0","epoch":3,"capacity":256,"in_flight":2}}"#
    );
    let absent = format!(
        r#"{{"name":"a-name-that-is-rather-long","address":"[2001:db8::1234]:40000","tags":["backup"],"connected":false,"last_seen":{then},"version":"0.2.0"}}"#
    );
    format!("[{connected}, {absent},{{\"name\":\"10.0.0.9\",\"seed\":true,\"more\":1.0}}]")
}

#[test]
fn peers_are_a_table_for_people_and_a_line_each_for_programs() {
    let ran = told(&["peers"], &question("PEERS", ""), &[&result(&peers())]);
    let expected = "\
NAME                        STATE      ADDRESS                 TAGS     LAST SEEN  RUNS   VERSION
web-1                       connected  10.0.0.1:4711           sms, eu  now        2/256  0.2.0
a-name-that-is-rather-long  absent     [2001:db8::1234]:40000  backup   3 min ago  -      0.2.0
10.0.0.9                    absent     -                       -        never      -      seed
";
    assert_eq!(exit(&ran), (0, expected, ""));
    let ran = told(&["peers", "--json"], &question("PEERS", ""), &[&result(&peers())]);
    let names: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["name"].clone()).collect();
    assert_eq!(names, ["web-1", "a-name-that-is-rather-long", "10.0.0.9"]);
    assert!(ran.out.ends_with("{\"name\":\"10.0.0.9\",\"seed\":true,\"more\":1.0}\n"), "as it was written: {}", ran.out);
    let none = told(&["peers"], &question("PEERS", ""), &[&result("[]")]);
    assert_eq!(exit(&none), (0, "", "ws-daemon: no peer was ever connected to this daemon\n"));
}

#[test]
fn tables_fit_the_terminal_and_have_colours_only_there() {
    if !need_tool("script") {
        return;
    }
    let lines = [&*result(&peers())];
    for columns in [40, 60, 72] {
        let plain = on_a_terminal(&["peers"], columns, &[("NO_COLOR", "1")], &lines);
        assert!(!plain.out.contains('\u{1b}'), "{plain:?}");
        for line in plain.out.lines() {
            assert!(line.chars().count() <= columns as usize, "{columns}: {line}");
        }
        assert!(plain.out.contains("web-1") && plain.out.contains('…'), "{plain:?}");
    }
    let coloured = on_a_terminal(&["peers"], 120, &[], &lines).out;
    assert!(coloured.contains("\u{1b}[32mconnected") && coloured.contains("\u{1b}[31mabsent"), "{coloured:?}");
}

#[test]
fn ping_tells_how_long_it_took_and_sums_up() {
    let daemon = ScriptedDaemon::new();
    let pinged = |words: &[&str], data: &str, rounds: &[&[&str]]| {
        thread::scope(|scope| {
            let asking = asking(&daemon, words);
            let asking = scope.spawn(|| ran(asking, ""));
            for lines in rounds {
                let mut conversation = daemon.accept();
                assert_eq!(conversation.message(), question("PING", data));
                conversation.say(lines);
            }
            asking.join().expect("the other thread has panicked")
        })
    };
    let (fast, slow) = (r#"{"status":0,"peer":"web-1","us":412}"#, r#"{"status":0,"peer":"web-1","us":12345}"#);
    let other = r#"{"status":0,"peer":"web-2","us":2000000}"#;
    let done = r#"{"event":"done","runs":2,"failed":0}"#;
    assert_eq!(exit(&pinged(&["ping", "web-1"], "\"web-1\"", &[&[fast]])), (0, "web-1  412 µs\n", ""));
    let all = pinged(&["ping"], "", &[&[fast, other, done]]);
    assert_eq!(exit(&all), (0, "web-1  412 µs\nweb-2  2.0 s\n", ""));
    let thrice = pinged(&["ping", "web-1", "--count", "3"], "\"web-1\"", &[&[slow], &[fast], &[fast]]);
    let expected = "web-1  12.3 ms\nweb-1  412 µs\nweb-1  412 µs\nweb-1: 3 answers, min 412 µs, median 412 µs, max 12.3 ms\n";
    assert_eq!(exit(&thrice), (0, expected, ""));
    let json = pinged(&["ping", "web-*", "--json"], "\"web-*\"", &[&[fast, other, done]]);
    assert_eq!(exit(&json), (0, &*format!("{fast}\n{other}\n{done}\n"), ""));
    let table: [(&[&str], i32, &str); 5] = [
        (&[r#"{"status":-2,"error":"unknown_target","message":"m"}"#], 69, "ws-daemon: web-1: unknown_target: m\n"),
        (&[r#"{"status":-2,"error":"no_peer","message":"m","peer":"web-1"}"#], 69, "ws-daemon: web-1: no_peer: m\n"),
        (&[r#"{"status":-3,"error":"unsupported","message":"m"}"#], 65, "ws-daemon: web-1: unsupported: m\n"),
        (&[r#"{"event":"done","runs":0,"failed":0}"#], 69, "ws-daemon: nobody is there who could answer\n"),
        (&[], 69, "ws-daemon: the daemon closed the connection without an answer\n"),
    ];
    for (lines, code, err) in table {
        assert_eq!(exit(&pinged(&["ping", "web-1"], "\"web-1\"", &[lines])), (code, "", err));
    }
}

#[test]
fn a_disk_that_is_full_is_told() {
    let daemon = ScriptedDaemon::new();
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_ws-daemon");
    shell.args(["-c", &format!("{program} peers --socket {} >/dev/full", daemon.socket().display())]);
    let ran = converse(&daemon, shell, |conversation| {
        conversation.message();
        conversation.say(&[&result(&peers())]);
    });
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with("ws-daemon: stdout cannot be written: "), "{}", ran.err);
}

#[test]
fn runs_are_listed_as_asked_for() {
    let records = format!(
        r#"[{{"run":"{RUN}","id":"x","name":"sms/send","state":"settled","peer":"web-1","status":7,"attempt":1,"queued":true,"accepted":0,"settled":5,"side":"asked"}},{{"run":"r2","name":"b","state":"running","side":"done"}},{{"run":"r3","state":"settled","status":-4,"error":"cancelled"}}]"#
    );
    let ran = told(&["runs"], &question("RUNS", ""), &[&result(&records)]);
    let lines: Vec<&str> = ran.out.lines().collect();
    for (line, begin, end) in [
        (lines[0], "RUN                                   SCRIPT    STATE      PEER   ASKED", "SIDE"),
        (lines[1], &*format!("{RUN}  sms/send  exit 7     web-1  "), " d ago  from here"),
        (lines[2], "r2                                    b         running    -      -", "to here"),
        (lines[3], "r3                                    -         cancelled  -      -", "-"),
    ] {
        assert!(line.starts_with(begin) && line.ends_with(end), "{}", ran.out);
    }
    let words = ["runs", "--state", "settled", "--peer", "web-1", "--limit", "5", "--json"];
    let data = r#"{"limit":5,"peer":"web-1","state":"settled"}"#;
    let ran = told(&words, &question("RUNS", data), &[&result(&records)]);
    assert_eq!(ran.out, records[1..records.len() - 1].replace("},{", "}\n{") + "\n");
    assert_eq!(exit(&told(&["runs"], &question("RUNS", ""), &[&result("[]")])), (0, "", "ws-daemon: there are none\n"));
    assert_eq!(self::ran(command(&["runs", "--state", "done"]), "").code, 64);
}

#[test]
fn show_tells_all_about_one_run() {
    let record = format!(
        r#"{{"run":"{RUN}","id":5,"name":"sms/send","state":"settled","peer":"web-1","attempt":2,"queued":true,"accepted":1795391267000,"settled":1795391268000,"side":"asked","report":{{"status":-4,"error":"timed_out","message":"after 1s","stdout":"headtail","cut":{{"stdout":{{"at":4,"bytes":7}}}}}},"output":{{"stdout":{{"from":0,"to":1536}}}},"correction":{{"status":0}},"new":[1]}}"#
    );
    let ran = told(&["show", RUN], &question("RUN", &format!("\"{RUN}\"")), &[&result(&record)]);
    for line in [
        &*format!("run          {RUN}"),
        "script       sms/send",
        "id           5",
        "attempt      2",
        "queued       on disk",
        "asked        2026-11-22 23:47:47 UTC (",
        "output       1.5 KiB of stdout, by: ws-daemon logs RUN",
        "outcome      timed_out: after 1s",
        "later known  exit status 0",
        "new          [1]",
        "stdout:\nhead\n\n… 7 bytes are missing here …\ntail\n",
    ] {
        assert!(ran.out.contains(line), "{line} is not in {}", ran.out);
    }
    assert_eq!((ran.code, &*ran.err), (0, ""));
    let ran = told(&["show", RUN, "--json"], &question("RUN", &format!("\"{RUN}\"")), &[&result(&record)]);
    assert_eq!(exit(&ran), (0, &*format!("{record}\n"), ""));
}

#[test]
fn a_run_that_is_not_there_is_66() {
    let refused = r#"{"status":-2,"id":"ws-daemon","error":"unknown_target","message":"there is no run r"}"#;
    for (words, asked) in [
        (&["show", "r"][..], question("RUN", "\"r\"")),
        (&["cancel", "r"], question("CANCEL", r#"{"run":"r"}"#)),
        (&["wait", "r"], question("RUN", r#"{"follow":true,"output":"both","run":"r"}"#)),
        (&["logs", "r", "--stream", "stderr"], question("RUN", r#"{"output":"stderr","run":"r"}"#)),
    ] {
        let ran = told(words, &asked, &[refused]);
        assert_eq!(exit(&ran), (66, "", "ws-daemon: unknown_target: there is no run r\n"), "{words:?}");
        let ran = told(&[words, &["--json"]].concat(), &asked, &[refused]);
        assert_eq!(exit(&ran), (66, &*format!("{refused}\n"), ""), "{words:?}");
    }
}

#[test]
fn logs_bring_both_streams_or_one_from_anywhere() {
    let chunk = |stream: &str, data: &str| format!(r#"{{"event":"output","run":"r","stream":"{stream}",{data}}}"#);
    let last = r#"{"status":7,"run":"r"}"#;
    let said = [
        &*chunk("stdout", r#""data":"a\n""#),
        &chunk("stderr", r#""data":"e\n""#),
        &chunk("stdout", r#""offset":11,"gap":9,"data":"b\n""#),
        last,
    ];
    for (words, more) in [(&["logs", "r"][..], ""), (&["logs", "r", "-f"], r#""follow":true,"#)] {
        let ran = told(words, &question("RUN", &format!(r#"{{{more}"output":"both","run":"r"}}"#)), &said);
        // The run's own status is for `wait`.
        assert_eq!(exit(&ran), (0, "a\nb\n", "e\nws-daemon: 9 bytes of stdout are missing here\n"), "{words:?}");
    }
    let from = question("RUN", r#"{"offset":4096,"output":"stdout","run":"r"}"#);
    let lines = [said[0], r#"{"status":0,"id":"ws-daemon"}"#];
    let words = ["logs", "r", "--stream", "stdout", "--from", "4096"];
    assert_eq!(exit(&told(&words, &from, &lines)), (0, "a\n", ""));
    let ran = told(&[&words[..], &["--json"]].concat(), &from, &lines);
    assert_eq!(exit(&ran), (0, &*(lines.join("\n") + "\n"), ""));
}

#[test]
fn wait_exits_as_the_run_did() {
    let asked = question("RUN", r#"{"follow":true,"output":"both","run":"r"}"#);
    let event = r#"{"event":"started","run":"r"}"#;
    let table = [
        (r#"{"status":0,"run":"r"}"#.to_owned(), 0, ""),
        (r#"{"status":7,"run":"r","result":{"status":1}}"#.to_owned(), 7, ""),
        (r#"{"status":7,"id":"ws-daemon"}"#.to_owned(), 7, ""),
        (r#"{"status":-4,"run":"r","error":"cancelled","message":"m"}"#.to_owned(), 125, "ws-daemon: r: cancelled: m\n"),
        // A run that ended with this word is there.
        (r#"{"status":-2,"run":"r","error":"unknown_target"}"#.to_owned(), 69, "ws-daemon: r: unknown_target\n"),
        (result(r#"{"run":"r","state":"settled","report":{"status":9}}"#), 9, ""),
        (result(r#"{"run":"r","state":"running"}"#), 1, "ws-daemon: the daemon answered before the run was settled\n"),
    ];
    for (line, code, err) in table {
        assert_eq!(exit(&told(&["wait", "r"], &asked, &[event, &line])), (code, "", err), "{line}");
    }
    let last = r#"{"status":3,"run":"r"}"#;
    assert_eq!(exit(&told(&["wait", "r", "--json"], &asked, &[event, last])), (3, &*format!("{last}\n"), ""));
}

#[test]
fn what_is_only_ordered_is_said_to_be_so() {
    let ok = r#"{"status":0,"id":"ws-daemon"}"#;
    for (words, asked, out) in [
        (&["cancel", "r"][..], question("CANCEL", r#"{"run":"r"}"#), "r is told to stop\n"),
        (&["pause", "30s"], question("PAUSE", "30000"), "the link is closed for 30s\n"),
        (&["reload"], question("RELOAD", ""), "the settings were read again\n"),
    ] {
        assert_eq!(exit(&told(words, &asked, &[ok])), (0, out, ""), "{words:?}");
        let ran = told(&[words, &["--json"]].concat(), &asked, &[ok]);
        assert_eq!(exit(&ran), (0, &*format!("{ok}\n"), ""), "{words:?}");
    }
}

#[test]
fn scripts_and_stats_are_listed() {
    let scripts =
        r#"[{"name":"sms/send","executable":true,"bytes":1536},{"name":"plain","executable":false,"bytes":9},{"name":"odd"}]"#;
    let ran = told(&["scripts"], &question("SCRIPTS", ""), &[&result(scripts)]);
    let expected = "\
NAME      MAY RUN             SIZE
sms/send  yes                 1.5 KiB
plain     no, not executable  9 B
odd       -                   -
";
    assert_eq!(exit(&ran), (0, expected, ""));
    let ran = told(&["scripts", "--json"], &question("SCRIPTS", ""), &[&result(scripts)]);
    assert_eq!(ran.out.lines().nth(2), Some("{\"name\":\"odd\"}"));
    let none = told(&["scripts"], &question("SCRIPTS", ""), &[&result("[]")]);
    assert_eq!(exit(&none), (0, "", "ws-daemon: there are no scripts here\n"));
    let stats = r#"{"runs":{"started":5,"failed":1},"links":2}"#;
    let ran = told(&["stats"], &question("STATS", ""), &[&result(stats)]);
    assert_eq!(exit(&ran), (0, "links         2\nruns.failed   1\nruns.started  5\n", ""));
    let ran = told(&["stats", "--json"], &question("STATS", ""), &[&result(stats)]);
    assert_eq!(exit(&ran), (0, &*format!("{stats}\n"), ""));
}

#[test]
fn what_is_logged_is_shown_and_changed() {
    let usual = r#"{"filter":"info","usual":"info","left":null}"#;
    let while_it_lasts = r#"{"filter":"trace","usual":"info","left":600000}"#;
    let table: [(&[&str], &str, &str, &str); 4] = [
        (&[], "", usual, "info\n"),
        (&["trace", "--for", "10m"], r#"{"filter":"trace","for":600000}"#, while_it_lasts, "trace, for 600s; then info\n"),
        (&["off"], r#"{"filter":"off"}"#, r#"{"filter":"off","usual":"info","left":null}"#, "off; usually info\n"),
        (&["usual"], r#"{"filter":"usual"}"#, usual, "info\n"),
    ];
    for (words, data, answer, out) in table {
        let ran = told(&[&["log-level"], words].concat(), &question("LOG", data), &[&result(answer)]);
        assert_eq!(exit(&ran), (0, out, ""), "{words:?}");
    }
    let as_json = told(&["log-level", "--json"], &question("LOG", ""), &[&result(usual)]);
    assert_eq!(exit(&as_json), (0, &*format!("{usual}\n"), ""));
    assert_eq!(ran(command(&["log-level", "--for", "1m"]), "").code, 64, "for what?");
}

#[test]
fn events_come_until_the_daemon_ends() {
    let subscribed = |words: &[&str], data: &str, lines: &[&str]| {
        let daemon = ScriptedDaemon::new();
        converse(&daemon, asking(&daemon, words), |conversation| {
            assert_eq!(conversation.message(), question("SUBSCRIBE", data).replace("ws-daemon", "ws-daemon-events"));
            conversation.say(lines);
        })
    };
    let ack = r#"{"status":0,"id":"ws-daemon-events"}"#;
    let started = r#"{"event":"started","run":"r","id":"x","peer":"web-1","attempt":1}"#;
    let status = r#"{"status":7,"id":"a b"}"#;
    let ran = subscribed(&["events"], "", &[ack, started, status]);
    assert_eq!(ran.out, "started     peer=web-1  run=r  id=x  attempt=1\nstatus      id=\"a b\"  status=7\n");
    assert_eq!((ran.code, &*ran.err), (69, "ws-daemon: the daemon closed the connection\n"));
    let ran = subscribed(&["events", "runs", "statuses", "--json"], r#"["runs","statuses"]"#, &[ack, started, status]);
    assert_eq!((ran.code, ran.out), (69, format!("{started}\n{status}\n")));
    let refused = r#"{"status":-3,"id":"ws-daemon-events","error":"denied","message":"m"}"#;
    let ran = subscribed(&["events", "peers"], r#"["peers"]"#, &[refused]);
    assert_eq!(exit(&ran), (77, "", "ws-daemon: denied: m\n"));
}

/// Every command that asks, with what it needs.
const ASKING: [&[&str]; 15] = [
    &["peers"],
    &["ping"],
    &["runs"],
    &["show", "r"],
    &["logs", "r"],
    &["cancel", "r"],
    &["wait", "r"],
    &["scripts"],
    &["events"],
    &["pause", "1s"],
    &["stats"],
    &["reload"],
    &["restart"],
    &["log-level"],
    &["metrics"],
];

#[test]
fn where_no_daemon_is_every_command_says_so_and_exits_with_69() {
    for words in ASKING {
        let ran = ran(command(&[words, &["--socket", "/no/such/socket"]].concat()), "");
        assert_eq!((ran.code, &*ran.out), (69, ""), "{words:?}");
        assert!(ran.err.contains("no daemon answers at /no/such/socket"), "{words:?}: {}", ran.err);
    }
}

#[test]
fn a_daemon_that_refuses_or_goes_away_or_says_nonsense_is_said_to() {
    let refused = r#"{"status":-3,"id":"ws-daemon-events","error":"unknown_command","message":"no command has that code"}"#;
    for words in ASKING {
        for (lines, code, said) in [
            (&[refused][..], 65, "unknown_command: no command has that code"),
            (&[], 69, "closed the connection"),
            (&["nonsense"], 1, "the daemon's answer is not understood"),
            (&["5"], 1, "the daemon's answer is not understood"),
        ] {
            let daemon = ScriptedDaemon::new();
            let ran = converse(&daemon, asking(&daemon, words), |conversation| {
                conversation.message();
                conversation.say(lines);
            });
            assert!(ran.code == code && ran.err.contains(said), "{words:?} {lines:?}: {ran:?}");
        }
    }
}

#[test]
fn every_command_has_an_example_in_its_help() {
    for words in ASKING {
        let help = ran(command(&[words[0], "--help"]), "");
        assert!(help.out.contains("Example") && help.out.contains("--json"), "{}", help.out);
    }
}
