//! Who may enter: two commands make a peer, its token lets it in from anywhere and nobody else, and it can be taken from it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, DaemonPlan, Fifo, Peer, Ran, command, need_stand_ins, ran, wait_for};

/// Writes who asked.
const WHO: &str = "#!/bin/sh\nprintf %s \"$WSDAEMON_PEER\" > who.new && mv who.new who\n";

/// Says that it has begun, and waits.
const HOLD: &str = "#!/bin/sh\necho begun > reached\nread -r _ < go\n";

// ---- Two commands ----------------------------------------------------------------------------------------------

#[test]
fn two_commands_make_a_peer_of_a_server_that_runs_already() {
    let server = Daemon::server().config(json!({ "name": "hub" })).script("who", WHO).start();
    let pid = server.pid();
    let invited = tool(server.prefix(), &["invite", "web-1", "--tag", "sms", "--ttl", "10m"]);
    assert_eq!((invited.code, invited.out.lines().count()), (0, 1), "{invited:?}");
    for words in ["\"web-1\" is invited to wss://127.0.0.1:", "for 10 min, until ", "ws-daemon join LINE"] {
        assert!(invited.err.contains(words), "{words:?} is not in {}", invited.err);
    }
    let plan = Daemon::client(&server).script("who", WHO);
    fs::remove_dir_all(plan.prefix()).expect("join makes the folder too");
    let joined = tool(plan.prefix(), &["join", invited.out.trim()]);
    assert_eq!(joined.code, 0, "{joined:?}\n{}", server.log());
    let url = format!("wss://127.0.0.1:{}/", server.port());
    for words in [
        &format!("joined 127.0.0.1:{} as web-1\n", server.port()),
        &format!("config.json: mode client, name web-1, proxy {url}"),
        &format!("  server          hub (ws-daemon 0.2.0) at {url}\n"),
        "server-roots.pem: whom to trust as the server\n",
        "  encrypted       yes\n",
        "  round trip      ",
        "  known there as  web-1, tags: sms\n",
        &format!(" run --prefix {}\n", plan.prefix().display()),
    ] {
        assert!(joined.out.contains(words), "{words:?} is not in {}", joined.out);
    }
    assert_eq!(joined.err, "");
    let files = ["config.json", "keys", "keys/token", "keys/joining.json", "keys/server-roots.pem"];
    assert_eq!(files.map(|name| mode(&plan.prefix().join(name))), [0o600, 0o700, 0o600, 0o600, 0o600]);
    assert_eq!((mode(&server.prefix().join("keys")), mode(&server.prefix().join("keys/peers.json"))), (0o700, 0o600));

    let client = plan.config_as_written().script("who", WHO).start();
    client.wait_log("link up");
    server.wait_log_times("link up", 2);
    for (asker, doer, name) in [(&client, &server, "web-1"), (&server, &client, "hub")] {
        assert_eq!(tool(asker.prefix(), &["exec", "who"]).code, 0);
        let who = doer.prefix().join("who");
        assert_eq!(fs::read_to_string(who).expect("it has run"), name);
    }
    let row = peer(&server, "web-1");
    assert_eq!((&row["proven"], &row["tags"], &row["encrypted"]), (&json!("token"), &json!(["sms"]), &json!(true)), "{row}");
    assert_eq!(server.pid(), pid, "no restart");

    // No secret is anywhere but where it belongs.
    let token = token(client.prefix());
    let register = fs::read_to_string(server.prefix().join("keys/peers.json")).expect("there");
    for secret in [&*token, &BASE64_STANDARD.encode(format!("web-1:{token}")), invited.out.trim()] {
        for text in [&register, &server.log().to_string(), &client.log().to_string(), &joined.out] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert!(!fs::read_to_string(client.prefix().join("config.json")).expect("there").contains(&token));
}

#[test]
fn a_line_that_was_used_here_may_be_used_here_again_and_nowhere_else() {
    let server = Daemon::server().start();
    let line = invite(&server, &["web"]);
    let (here, elsewhere) = (Daemon::client(&server), Daemon::client(&server));
    let first = join(&here, &line);
    assert_eq!(first.code, 0, "{first:?}");
    let before = token(here.prefix());
    let again = join(&here, &line);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.out.contains("config.json: as it was") && !again.out.contains("in place of"), "{}", again.out);
    assert_eq!(token(here.prefix()), before);
    // The answer to the first try was lost on the way, before anything was written.
    fs::remove_file(here.prefix().join("config.json")).expect("there");
    let draft = json!({ "line_sha256": joining(here.prefix())["line_sha256"], "token": before });
    fs::write(here.prefix().join("keys/joining.json"), draft.to_string()).expect("ours");
    fs::remove_file(here.prefix().join("keys/token")).expect("there");
    assert_eq!(join(&here, &line).code, 0);
    assert_eq!((token(here.prefix()), joining(here.prefix()).get("token").cloned()), (before, None));
    let other = join(&elsewhere, &line);
    assert_eq!(other.code, 77, "{other:?}");
    assert!(other.err.contains("used already") && other.err.contains("peers revoke web"), "{}", other.err);
    assert!(!elsewhere.prefix().join("config.json").exists(), "nothing is written before the server has said yes");
}

#[test]
fn join_writes_a_config_that_is_a_link_where_the_link_leads() {
    let server = Daemon::server().start();
    let (client, etc) = (Daemon::client(&server), tempfile::tempdir().expect("a temporary folder can be made"));
    let (link, file) = (client.prefix().join("config.json"), etc.path().join("config.json"));
    fs::write(&file, r#"{"tags":["kept"]}"#).expect("ours");
    std::os::unix::fs::symlink(&file, &link).expect("ours");
    let joined = join(&client, &invite(&server, &["web"]));
    assert_eq!(joined.code, 0, "{joined:?}");
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).expect("there")).expect("JSON");
    assert_eq!((&written["mode"], &written["tags"]), (&json!("client"), &json!(["kept"])));
    assert!(link.is_symlink());
}

#[test]
fn what_join_cannot_do_it_says_with_what_to_do() {
    let server = Daemon::server().start();
    let line = invite(&server, &["web"]);
    let fresh = || Daemon::client(&server);
    let refused = |plan: &DaemonPlan, line: &str, code: i32, words: &str| {
        let ran = join(plan, line);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(words), "{words:?} is not in {}", ran.err);
    };
    refused(&fresh(), "hello", 65, "is no invitation");
    refused(&fresh(), &line[..line.len() - 9], 65, "cut off");
    refused(&fresh(), &line.replacen(&line[20..21], "~", 1), 65, "mistyped");
    refused(&server.twin(), &line, 78, "a server joins nobody");
    invite(&server, &["web"]);
    refused(&fresh(), &line, 77, "a later one for the same name has replaced it");
    refused(&fresh(), &invite(&server, &["web", "--ttl", "1ms"]), 77, "is over: ask for a new one");
    refused(&fresh(), &invite(&server, &["web", "--url", "ws://127.0.0.1:1"]), 69, "port open from here");
    refused(&fresh(), &invite(&server, &["web", "--url", "ws://no-such-host.invalid:1"]), 69, "--url");
    // Another server answers there, which the line does not vouch for; and one that has no TLS.
    let other = Daemon::server().start();
    let elsewhere = invite(&server, &["web", "--url", &format!("wss://127.0.0.1:{}", other.port())]);
    refused(&fresh(), &elsewhere, 69, "is not believed");
    invite(&other, &["web"]);
    refused(&fresh(), &elsewhere, 69, "does not show the root that the invitation names");
    // Nobody listens there.
    let strange = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = strange.local_addr().expect("bound").port().to_string();
    drop(strange);
    refused(&fresh(), &invite(&server, &["web", "--url", &format!("ws://127.0.0.1:{port}")]), 69, &port);

    let line = invite(&server, &["web"]);
    let running = fresh().start();
    running.wait_log("link up");
    refused(&running.twin(), &line, 69, "stop it");
    let ran = tool_with(running.kill().prefix(), &["join", &line], &[("WSDAEMON_PROXY", "elsewhere")]);
    assert!(ran.code == 78 && ran.err.contains("WSDAEMON_PROXY"), "{ran:?}");
    let ran = tool_with(fresh().prefix(), &["join", "-"], &[]);
    assert!(ran.code == 65 && ran.err.contains("is no invitation"), "{ran:?}");
}

#[test]
fn a_client_that_has_a_config_keeps_what_is_its_own_and_hears_what_changed() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    let config = json!({ "mode": "client", "proxy": "till:old-token@elsewhere", "port": 7, "name": "old", "tags": ["mine"] });
    fs::write(plan.prefix().join("config.json"), config.to_string()).expect("ours");
    let ran = join(&plan, &invite(&server, &["web"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    for words in ["name web (was old)", "(was another server)", "without port"] {
        assert!(ran.out.contains(words), "{words:?} is not in {}", ran.out);
    }
    assert!(!ran.out.contains("old-token"), "{}", ran.out);
    let text = fs::read_to_string(plan.prefix().join("config.json")).expect("there");
    let written: Value = serde_json::from_str(&text).expect("JSON");
    let proxy = format!("wss://127.0.0.1:{}/", server.port());
    assert_eq!(written, json!({ "mode": "client", "proxy": proxy, "name": "web", "tags": ["mine"] }));
}

#[test]
fn a_line_for_several_machines_gives_each_a_name_and_a_token_of_its_own() {
    let server = Daemon::server().start();
    let line = invite(&server, &["till", "--uses", "3", "--tag", "shop"]);
    let tills: Vec<DaemonPlan> = (0..4).map(|_| Daemon::client(&server)).collect();
    for (plan, words, name) in
        [(&tills[0], &[][..], "till"), (&tills[1], &["--name", "till-berlin"], "till-berlin"), (&tills[2], &[], "till-2")]
    {
        let ran = tool(plan.prefix(), &[&["join", &line], words].concat());
        assert!(ran.code == 0 && ran.out.contains(&format!("as {name}\n")), "{ran:?}");
    }
    let wrong = tool(tills[3].prefix(), &["join", &line, "--name", "shop"]);
    assert!(wrong.code == 77 && wrong.err.contains("used already"), "{wrong:?}");
    assert_ne!(token(tills[0].prefix()), token(tills[1].prefix()));
    let mut names: Vec<Value> = peers(&server).into_iter().map(|row| row["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["till", "till-2", "till-berlin"]);
}

// ---- At the door -----------------------------------------------------------------------------------------------

#[test]
fn whoever_shows_a_wrong_secret_hears_the_same_after_the_same_time_whatever_is_wrong() {
    const TRIES: usize = 5;
    let server = Daemon::server().config(json!({ "open": true })).start();
    let (web, gone) = (Daemon::client(&server), Daemon::client(&server));
    for (plan, name) in [(&web, "web"), (&gone, "gone")] {
        assert_eq!(join(plan, &invite(&server, &[name])).code, 0);
    }
    assert_eq!(tool(server.prefix(), &["peers", "revoke", "gone"]).code, 0);
    let (good, revoked) = (token(web.prefix()), token(gone.prefix()));
    let wrong = [
        basic("web", "wrong"),
        basic("web", ""),
        basic("nobody", &good),
        basic("gone", &revoked),
        basic("ga\n\u{1b}[2Jin", "x"),
        "Bearer x".to_owned(),
        "Basic !".to_owned(),
    ];
    let (mut answers, mut medians) = (Vec::new(), Vec::new());
    for shown in &wrong {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..TRIES {
            let since = Instant::now();
            let refusal = Peer::try_dial(&server, "/", &[("authorization", shown)]).err().expect("refused");
            times.push(since.elapsed());
            answers.push((refusal.status, refusal.body));
        }
        times.sort();
        medians.push(times[TRIES / 2]);
    }
    let (fastest, slowest) = (medians.iter().min().expect("tried"), medians.iter().max().expect("tried"));
    assert!(*fastest >= Duration::from_millis(250) && slowest.abs_diff(*fastest) < Duration::from_millis(150), "{medians:?}");
    // The same for an invitation that nobody has made.
    let trade = json!({ "name": "web", "secret": "x", "token_sha256": "0".repeat(64) });
    let since = Instant::now();
    let (status, body) = post(&server, &trade.to_string(), "");
    assert!(since.elapsed() >= Duration::from_millis(250));
    answers.push((status, body));
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].0 == 401 && answers[0].1.contains("ws-daemon invite NAME"), "{answers:?}");
    let log = server.log().to_string();
    assert!(log.contains(r#"name="ga\n\u{1b}[2Jin""#) && !log.contains('\u{1b}'), "{log}");
    for secret in [&good, &revoked] {
        assert!(!log.contains(&**secret));
    }
    // With the right one it enters, from behind a proxy too; without any `open` and the loopback decide, as ever.
    assert!(Peer::try_dial(&server, "/", &[("authorization", &basic("web", &good)), ("x-forwarded-for", "192.0.2.1")]).is_ok());
    assert!(Peer::try_dial(&server, "/", &[("x-forwarded-for", "192.0.2.1")]).is_ok());
    assert!(Peer::try_dial(&server, "/", &[]).is_ok());
    let page = [("authorization", &*basic("web", &good)), ("origin", "http://x.example")];
    assert_eq!(Peer::try_dial(&server, "/", &page).err().expect("refused").status, 403);
}

#[test]
fn a_token_lets_in_from_elsewhere_and_whoever_has_none_only_from_this_machine() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    let forwarded = ("x-forwarded-for", "192.0.2.1");
    assert!(
        Peer::try_dial(&server, "/", &[("authorization", &basic("web", "x"))]).is_ok(),
        "as a seed server: it has no peers"
    );
    assert_eq!(join(&plan, &invite(&server, &["web"])).code, 0);
    let good = basic("web", &token(plan.prefix()));
    assert_eq!(Peer::try_dial(&server, "/", &[forwarded]).err().expect("refused").status, 403);
    assert!(Peer::try_dial(&server, "/", &[forwarded, ("authorization", &good)]).is_ok());
    drop(Peer::dial(&server));
    for (headers, body, expected) in [
        ("Origin: http://x.example\r\n", "{}".to_owned(), 403),
        ("", "hello".to_owned(), 400),
        ("", r#"{"name":"web","secret":"x","token_sha256":"short"}"#.to_owned(), 400),
        ("", " ".repeat(17 << 10), 413),
    ] {
        assert_eq!(post(&server, &body, headers).0, expected, "{headers}{body:.40}");
    }
}

#[test]
fn a_seed_client_with_a_token_goes_by_its_name() {
    let server = Daemon::server().start();
    let url = format!("ws://127.0.0.1:{}", server.port());
    let invited = tool(server.prefix(), &["invite", "till-7", "--tag", "shop", "--url", &url]);
    assert!(invited.err.contains("does not encrypt"), "{invited:?}");
    let made = tool(Path::new("/nowhere"), &["join", "--seed", invited.out.trim()]);
    assert_eq!(made.code, 0, "{made:?}");
    let proxy = made.out.trim();
    let credential = proxy.strip_prefix("ws://").and_then(|rest| rest.split_once('@')).expect("name:token@").0;
    let shown = format!("Basic {}", BASE64_STANDARD.encode(credential));
    let mut old = Peer::try_dial(&server, "/", &[("authorization", &shown)]).expect("its token is good");
    server.wait_log("peer=\"till-7\"");
    let mut process = server.connect();
    process.send(r#"{"name":"t","id":1,"to":"till-7"}"#);
    assert!(old.text().starts_with(r#"{"name":"t""#));
    assert_eq!(peer(&server, "till-7")["proven"], "token");
    // It comes again before its old link is known to be dead: what that had is settled.
    let _new = Peer::try_dial(&server, "/", &[("authorization", &shown)]).expect("its token is good");
    let last: Value = serde_json::from_str(&process.line()).expect("JSON");
    assert_eq!((&last["status"], &last["error"]), (&json!(-5), &json!("interrupted")));
    assert!(old.closed().is_some());
    if need_stand_ins() {
        let client =
            Daemon::seed_client(&server).config(json!({ "proxy": proxy })).script("exit", "#!/bin/sh\nexit 7\n").start();
        server.wait_log_times("link up", 3);
        assert_eq!(process.run(&json!({ "name": "exit", "id": 2, "to": "till-7" })).1["status"], 7, "{}", client.log());
    }
}

// ---- What is a peer's own --------------------------------------------------------------------------------------

#[test]
fn nobody_takes_a_registered_name_tag_or_instance_without_its_token() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    assert_eq!(join(&plan, &invite(&server, &["web", "--tag", "sms"])).code, 0);
    let client = plan
        .config_as_written()
        .config(json!({ "name": "calls-itself-so", "tags": ["own"] }))
        .env("WSDAEMON_TOKEN", "")
        .start();
    client.wait_log("401");
    let client = client.kill().config(json!({ "name": "web" })).start();
    client.wait_log("link up");
    let row = peer(&server, "web");
    assert_eq!(row["tags"], json!(["sms", "own"]));
    let instance = row["instance"].as_str().expect("a text").to_owned();
    let refused = |hello: Value, code: u16, words: &str| {
        let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("from this machine");
        peer.send_hello(&hello);
        let (found, said) = peer.closed_in_words().expect("a close frame");
        assert!(found == code && said.contains(words), "{found} {said}");
    };
    refused(who("web", "i1", &[]), 4002, "join as it");
    refused(who("other", &instance, &[]), 4002, "registered peer: web");
    // A word that it was that one is nothing either, and the tag is passed over.
    let mut hello = who("other", "i1", &["sms", "free"]);
    hello["former"] = json!([instance]);
    let _other = Peer::dial_version2(&server, &hello);
    assert_eq!(peer(&server, "other")["tags"], json!(["free"]));
    server.wait_log("are passed over");
    assert_eq!(peer(&server, "web")["instance"], instance);
    assert!(peer(&server, "other").get("proven").is_none());
}

#[test]
fn a_token_is_good_for_one_daemon_and_for_what_that_becomes() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    assert_eq!(join(&plan, &invite(&server, &["web"])).code, 0);
    let bound = peer(&server, "web")["instance"].clone();
    let good = basic("web", &token(plan.prefix()));
    let come = |hello: &Value| {
        let mut peer =
            Peer::try_dial(&server, "/", &[("ws-daemon", "2"), ("authorization", &good)]).expect("the token is good");
        peer.send_hello(hello);
        peer
    };
    let (code, words) = come(&who("web", "stolen", &[])).closed_in_words().expect("a close frame");
    assert!(code == 4005 && words.contains("another daemon"), "{code} {words}");
    server.wait_log("ws-daemon peers rotate");
    let mut hello = who("whatever", "new", &[]);
    hello["former"] = json!([bound]);
    let mut heir = come(&hello);
    heir.hello();
    let row = peer(&server, "web");
    assert_eq!((&row["instance"], &row["connected"]), (&json!("new"), &json!(true)));
    assert_eq!(come(&who("web", bound.as_str().expect("a text"), &[])).closed(), Some(4005));
}

// ---- Taken away ------------------------------------------------------------------------------------------------

#[test]
fn revoking_ends_the_links_at_once_and_settles_what_was_bound_also_after_a_restart() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    assert_eq!(join(&plan, &invite(&server, &["web"])).code, 0);
    let client = plan.config_as_written().script("hold", HOLD).start();
    let (mut reached, _go) = (Fifo::new(client.prefix(), "reached"), Fifo::new(client.prefix(), "go"));
    client.wait_log("link up");
    server.wait_log_times("link up", 2);
    let instance = peer(&server, "web")["instance"].clone();
    let (mut queued, mut direct) = (server.connect(), server.connect());
    queued.send(json!({ "name": "hold", "id": "q", "queue": true }).to_string());
    assert_eq!(queued.said()["event"], "accepted");
    assert_eq!(reached.line(), "begun");
    direct.send(json!({ "name": "hold", "id": "d", "to": "web" }).to_string());
    assert_eq!(reached.line(), "begun");

    let revoked = tool(server.prefix(), &["peers", "revoke", "web"]);
    assert!(revoked.code == 0 && revoked.out.contains("is revoked"), "{revoked:?}");
    for process in [&mut queued, &mut direct] {
        let last = process.said();
        assert_eq!((&last["status"], &last["error"]), (&json!(-5), &json!("interrupted")), "{last}");
    }
    let said = client.wait_log("closed by the peer, which says");
    assert!(said.contains("revoked"), "{said}");
    client.wait_log("401");
    let row = peer(&server, "web");
    assert_eq!((&row["revoked"], &row["connected"]), (&json!(true), &json!(false)));
    let again = tool(server.prefix(), &["peers", "revoke", "web"]);
    assert!(again.code != 0 && again.err.contains("ws-daemon peers list"), "{again:?}");

    let server = server.kill().start();
    client.log().wait_until(DEADLINE, "refused again", |lines| {
        (lines.iter().filter(|line| line.contains("401")).count() > 3).then_some(())
    });
    let mut peer = Peer::try_dial(&server, "/", &[("ws-daemon", "2")]).expect("from this machine");
    peer.send_hello(&who("x", instance.as_str().expect("a text"), &[]));
    assert_eq!(peer.closed(), Some(4004), "not without its token either");
    let listed = tool(server.prefix(), &["peers", "list"]);
    assert!(listed.out.contains("revoked"), "{listed:?}");
}

#[test]
fn a_run_for_a_peer_that_is_gone_for_good_and_never_had_it_is_over_and_did_not_run() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    assert_eq!(join(&plan, &invite(&server, &["web"])).code, 0);
    let mut process = server.connect();
    process.send(json!({ "name": "t", "id": "e", "to": "web", "each": true, "queue": true }).to_string());
    assert_eq!(process.said()["event"], "accepted");
    assert_eq!(tool(server.prefix(), &["peers", "revoke", "web"]).code, 0);
    let last = process.said();
    assert_eq!((&last["status"], &last["error"]), (&json!(-2), &json!("expired")), "{last}");
}

#[test]
fn a_rotated_token_is_good_until_the_next_was_traded_for() {
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    assert_eq!(join(&plan, &invite(&server, &["web", "--tag", "sms"])).code, 0);
    let first = basic("web", &token(plan.prefix()));
    let rotated = tool(server.prefix(), &["peers", "rotate", "web"]);
    assert_eq!((rotated.code, rotated.out.lines().count()), (0, 1), "{rotated:?}");
    assert!(rotated.err.contains("keeps its token until"), "{}", rotated.err);
    let mut live = Peer::try_dial(&server, "/", &[("authorization", &first)]).expect("it is good yet");
    server.wait_log_times("link up", 2);
    let joined = join(&plan, rotated.out.trim());
    assert!(joined.code == 0 && joined.out.contains("in place of the one that was there"), "{joined:?}");
    assert_eq!(live.closed(), Some(4004));
    let status =
        |shown: &str| Peer::try_dial(&server, "/", &[("authorization", shown)]).map_or_else(|refusal| refusal.status, |_| 101);
    let second = basic("web", &token(plan.prefix()));
    assert_eq!((status(&first), status(&second)), (401, 101));
    let at_once = tool(server.prefix(), &["peers", "rotate", "web", "--at-once"]);
    assert!(at_once.code == 0 && at_once.err.contains("has no token now"), "{at_once:?}");
    assert_eq!(status(&second), 401);
    // Another machine takes its place, with its tags.
    let other = Daemon::client(&server);
    let joined = join(&other, at_once.out.trim());
    assert!(joined.code == 0 && joined.out.contains("web, tags: sms"), "{joined:?}");
    assert_eq!(tool(server.prefix(), &["peers", "rotate", "nobody"]).code, 69);
}

// ---- Where the token stands ------------------------------------------------------------------------------------

#[test]
fn a_token_comes_from_a_file_the_environment_or_systemd_and_reaches_no_script() {
    const ENVIRONMENT: &str = "#!/bin/sh\nenv > environment.new && mv environment.new environment\n";
    let server = Daemon::server().start();
    let plan = Daemon::client(&server);
    assert_eq!(join(&plan, &invite(&server, &["web"])).code, 0);
    let token = token(plan.prefix());
    let file = plan.prefix().join("keys/token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let plan = plan.config_as_written();
    let mut refused = plan.spawn();
    assert_eq!(refused.wait_exit(DEADLINE).code(), Some(78));
    refused.log().wait(&format!("chmod 600 {}", file.display()));

    let credentials = plan.prefix().join("credentials");
    fs::create_dir(&credentials).expect("ours");
    fs::rename(&file, credentials.join("ws-daemon.token")).expect("ours");
    let directory = credentials.to_str().expect("plain").to_owned();
    for (links, (key, value)) in [("CREDENTIALS_DIRECTORY", &directory), ("WSDAEMON_TOKEN", &token)].into_iter().enumerate() {
        let client = plan.clone().env(key, value).env("PROBE", "here").script("environment", ENVIRONMENT).start();
        client.wait_log("link up");
        server.wait_log_times("link up", links + 2);
        assert_eq!(peer(&server, "web")["proven"], "token");
        let path = client.prefix().join("environment");
        assert_eq!(tool(server.prefix(), &["exec", "environment"]).code, 0);
        let environment = fs::read_to_string(&path).expect("it has run");
        assert!(
            environment.contains("PROBE=here") && !environment.contains(key) && !environment.contains(&token),
            "{environment}"
        );
        fs::remove_file(path).expect("ours");
        server.wait_log_times("link up", links + 2);
        drop(client);
        wait_for("the end of its link", || peer(&server, "web")["connected"] == false);
    }
}

#[test]
fn a_register_that_is_damaged_stops_the_server_in_words() {
    let server = Daemon::server().start();
    assert_eq!(join(&Daemon::client(&server), &invite(&server, &["web"])).code, 0);
    let plan = server.kill();
    let path = plan.prefix().join("keys/peers.json");
    let text = fs::read_to_string(&path).expect("there");
    fs::write(&path, &text[..text.len() / 2]).expect("ours");
    let mut process = plan.spawn();
    assert_eq!(process.wait_exit(DEADLINE).code(), Some(78));
    process.log().wait("peers.json is damaged");
}

#[test]
fn peers_are_made_and_unmade_at_the_servers_own_socket_only() {
    let server = Daemon::server().env("WSDAEMON_LOCAL", "127.0.0.1:0").start();
    let client = Daemon::client(&server).start();
    client.wait_log("link up");
    let commands =
        [("INVITE", json!({ "name": "web" })), ("REVOKE", json!({ "name": "web" })), ("ROTATE", json!({ "name": "web" }))];
    for (code, data) in commands {
        let by_tcp = server.connect_tcp().command(code, &data);
        assert_eq!((&by_tcp["status"], &by_tcp["error"]), (&json!(-3), &json!("denied")), "{by_tcp}");
        let on_client = client.connect().command(code, &data);
        assert_eq!(on_client["error"], "unsupported", "{on_client}");
        let message = json!({ "name": "&cmd", "id": 1, "params": { "code": code, "data": data } });
        let from_afar: Value = serde_json::from_str(&client.connect().ask(&message.to_string())).expect("JSON");
        assert_eq!(from_afar["error"], "denied", "{from_afar}");
    }
    let bad = [
        json!({ "name": "a b" }),
        json!({ "name": "web", "uses": 0 }),
        json!({ "name": "web", "ttl": 0 }),
        json!({ "name": "web", "url": "http://x" }),
        json!({ "name": "web", "url": "ws://a:b@x" }),
        json!({ "name": "web", "tags": [""] }),
    ];
    for data in bad {
        let said = server.connect().command("INVITE", &data);
        assert_eq!(said["error"], "bad_message", "{said}");
    }
    let wrong = tool(server.prefix(), &["invite", "web", "--url", "http://x"]);
    assert!(wrong.err.contains("url has the scheme \"http\"") && !wrong.err.contains("proxy"), "{wrong:?}");
    assert!(!server.prefix().join("keys").exists(), "nobody was invited");
}

// ---- What they have in common ----------------------------------------------------------------------------------

fn tool(prefix: &Path, words: &[&str]) -> Ran {
    tool_with(prefix, words, &[])
}

fn tool_with(prefix: &Path, words: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = command(words);
    command.env("WSDAEMON_PREFIX", prefix).envs(variables.iter().copied());
    ran(command, "")
}

/// The line that INVITE gives for these words.
#[track_caller]
fn invite(server: &Daemon, words: &[&str]) -> String {
    let ran = tool(server.prefix(), &[&["invite"], words].concat());
    assert_eq!(ran.code, 0, "{ran:?}\n{}", server.log());
    ran.out.trim().to_owned()
}

fn join(plan: &DaemonPlan, line: &str) -> Ran {
    tool(plan.prefix(), &["join", line])
}

fn token(prefix: &Path) -> String {
    fs::read_to_string(prefix.join("keys/token")).expect("it has joined").trim().to_owned()
}

fn joining(prefix: &Path) -> Value {
    let text = fs::read_to_string(prefix.join("keys/joining.json")).expect("it has joined");
    serde_json::from_str(&text).expect("it is JSON")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

fn basic(name: &str, token: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{token}")))
}

fn who(name: &str, instance: &str, tags: &[&str]) -> Value {
    json!({
        "name": name, "configured": false, "instance": instance, "epoch": 1, "version": "0.2.0", "tags": tags, "capacity": 4,
        "features": ["queue"], "former": [],
    })
}

fn peers(server: &Daemon) -> Vec<Value> {
    server.connect().result("PEERS", &json!(null)).as_array().expect("a list").clone()
}

#[track_caller]
fn peer(server: &Daemon, name: &str) -> Value {
    let peers = peers(server);
    let found = peers.iter().find(|row| row["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {name} in {peers:?}\n{}", server.log())).clone()
}

/// The status and the body that a trade is answered with.
fn post(server: &Daemon, body: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
    let head = format!("POST /join HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).expect("it reads");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("it answers in text and closes");
    let (head, body) = said.split_once("\r\n\r\n").expect("an answer has a head");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}
