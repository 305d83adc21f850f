//! A token is nowhere but in its file. What the whole suite leaves is searched by support/sentinel.rs when WSDAEMON_TEST_SENTINEL
//! is set; here is shown that the search finds what there is to find, and the search itself for one busy pair of daemons.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use crate::support::{Daemon, Fifo, Log, PeerListener, Ran, ran, sentinel};

const SECRET: &str = "a-token-of-43-characters-aaaaaaaaaaaaaaaaaaa";

/// Says what it can see of the daemon, then waits.
const LOOK: &str = "#!/bin/sh\nenv\necho \"$@\"\ntr '\\0' ' ' < /proc/$$/cmdline\necho > reached\nread line < go\n";

#[test]
fn a_secret_is_found_wherever_it_was_left() {
    let server = Daemon::server().start();
    let search = || {
        let looked = || sentinel::search(server.prefix(), &[SECRET], server.log(), server.pid());
        catch_unwind(AssertUnwindSafe(looked)).is_err()
    };
    assert!(!search(), "nothing is there");
    for place in ["spool.db", "deep/er/file", "keys/peers.json"] {
        let path = server.prefix().join(place);
        fs::create_dir_all(path.parent().expect("it is in the prefix")).expect("the prefix is ours");
        for shape in [SECRET.to_owned(), sentinel::coded("till-7", SECRET)] {
            fs::write(&path, format!("x{shape}y")).expect("the prefix is ours");
            assert!(search(), "{place} {shape}");
        }
        fs::remove_file(&path).expect("it was written");
    }
    fs::create_dir_all(server.prefix().join("keys")).expect("the prefix is ours");
    fs::write(server.prefix().join("keys/token"), SECRET).expect("the prefix is ours");
    assert!(!search(), "that is its file");
    // On the command line, and in a log.
    let (listener, words) = (PeerListener::bind(), format!("x:{SECRET}@127.0.0.1"));
    let client = Daemon::client_of(listener.port()).arguments(&["--proxy", &words]).start();
    let looked = || sentinel::search(client.prefix(), &[SECRET], client.log(), client.pid());
    assert!(catch_unwind(AssertUnwindSafe(looked)).is_err());
    let log = Log::new("a log");
    log.follow(Cursor::new(format!("INFO said name={SECRET}\n")));
    log.wait(SECRET);
    let looked = || sentinel::search(server.prefix(), &[SECRET], &log, server.pid());
    assert!(catch_unwind(AssertUnwindSafe(looked)).is_err());
}

#[test]
fn a_clients_token_is_in_no_log_no_file_no_argument_and_no_environment_of_a_script() {
    let server = Daemon::server().script("look", LOOK).env("WSDAEMON_LOG", "trace").start();
    let proxy = format!("till-7:{SECRET}@127.0.0.1");
    let client = Daemon::client(&server).config(json!({ "proxy": proxy, "name": "till-7" })).env("WSDAEMON_LOG", "trace");
    let client = client.script("look", LOOK).start();
    server.wait_log("link up");
    client.wait_log("link up");
    for (asker, doer) in [(&server, &client), (&client, &server)] {
        let (mut reached, mut go) = (Fifo::new(doer.prefix(), "reached"), Fifo::new(doer.prefix(), "go"));
        let mut local = asker.connect();
        local.send(r#"{"name":"look","id":1,"output":"tail","queue":true}"#);
        local.line();
        reached.line();
        // While its script runs, and is still a process with arguments and an environment.
        for daemon in [asker, doer] {
            sentinel::search(daemon.prefix(), &[SECRET], daemon.log(), daemon.pid());
        }
        go.release(1);
        let outcome = local.line();
        assert!(outcome.contains("WSDAEMON_RUN") && !outcome.contains(SECRET), "{outcome}");
    }
    for words in [&["check"][..], &["stats"], &["peers"], &["runs"], &["check", "--json"]] {
        let mut command = client.twin().command();
        command.args(words);
        let Ran { out, err, .. } = ran(command, "");
        assert!(!out.is_empty() && !out.contains(SECRET) && !err.contains(SECRET), "{words:?}: {out}{err}");
    }
}
