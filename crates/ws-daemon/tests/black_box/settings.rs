//! Settings as a person writes them: in flags, the environment and config.json. What the program made of them is read
//! from `check --json` where that is enough, and from a scripted peer where it is not.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Authority, Daemon, PeerListener, Ran, command, need_tool, ran};

/// A prefix with this config.json.
fn prefix(config: &str) -> TempDir {
    let prefix = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(prefix.path().join("config.json"), config).expect("the prefix is ours to write");
    prefix
}

/// The program in `prefix` with arguments and environment.
fn run_in(prefix: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = command(arguments);
    command.env("WSDAEMON_PREFIX", prefix).envs(environment.iter().copied());
    ran(command, "")
}

/// What `check --json` says, setting by setting.
fn checked(prefix: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Value {
    let ran = run_in(prefix, &[&["check", "--json"], flags].concat(), environment);
    assert_eq!((ran.code, &*ran.err), (0, ""), "{flags:?} {environment:?}");
    assert_eq!(ran.out.lines().count(), 1, "one JSON object on one line: {}", ran.out);
    serde_json::from_str(&ran.out).expect("it says that it is JSON")
}

/// The exit code and the words of a config that is refused, by `check` and by the daemon alike.
fn refused(config: &str) -> String {
    let prefix = prefix(config);
    let said = run_in(prefix.path(), &["check"], &[]);
    let daemon = run_in(prefix.path(), &[], &[]);
    assert_eq!((said.code, daemon.code), (78, 78), "{config}: {said:?}");
    assert_eq!((&*said.out, &daemon.err), ("", &said.err), "{config}");
    said.err
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let config =
        r#"{"mode":"server","port":1001,"listen":"127.0.0.1","open":["10.1.0.0/16"],"local":"127.0.0.1:1","socket_group":"f"}"#;
    let in_file = prefix(config);
    let bare = prefix(r#"{"mode":"server"}"#);
    let environment = [
        ("WSDAEMON_MODE", "server"),
        ("WSDAEMON_PORT", "1002"),
        ("WSDAEMON_LISTEN", "127.0.0.2"),
        ("WSDAEMON_OPEN", "10.2.0.0/16, fd00::/8"),
        ("WSDAEMON_LOCAL", "127.0.0.1:2"),
        ("WSDAEMON_SOCKET_GROUP", "e"),
        ("WSDAEMON_LOG", "warn"),
    ];
    let flags = [
        "--mode=server",
        "--port=1003",
        "--listen=127.0.0.3",
        "--open",
        "--local=off",
        "--socket-group=g",
        "--log=info,ws_daemon::link=trace",
    ];
    let table = [
        (&in_file, &flags[..], &environment[..], "flag", json!([1003, "127.0.0.3", true, "off", "g"])),
        (
            &in_file,
            &[],
            &environment[..],
            "environment",
            json!([1002, "127.0.0.2", ["10.2.0.0/16", "fd00::/8"], "127.0.0.1:2", "e"]),
        ),
        (&in_file, &[], &[], "config.json", json!([1001, "127.0.0.1", ["10.1.0.0/16"], "127.0.0.1:1", "f"])),
        (&bare, &[], &[("WSDAEMON_PORT", ""), ("WSDAEMON_LOG", "")][..], "default", json!([3006, "::", false, null, null])),
    ];
    for (prefix, flags, environment, source, values) in table {
        let rows = checked(prefix.path(), flags, environment);
        for (name, value) in
            ["port", "listen", "open", "local", "socket_group"].into_iter().zip(values.as_array().expect("it is"))
        {
            // By default it depends on the machine, and there is no group.
            if !value.is_null() {
                assert_eq!(rows[name], json!({ "value": value, "source": source }), "{name}");
            }
        }
        let log = match source {
            "flag" => json!({ "value": "info,ws_daemon::link=trace", "source": "flag" }),
            "environment" => json!({ "value": "warn", "source": "environment" }),
            _ => json!({ "value": "info", "source": "default" }),
        };
        assert_eq!(rows["log"], log);
        assert_eq!(rows["prefix"], json!({ "value": prefix.path(), "source": "environment" }));
    }
    let named = prefix(r#"{"mode":"client","proxy":"h"}"#);
    let rows = checked(bare.path(), &["--prefix", named.path().to_str().expect("plain")], &[]);
    assert_eq!(rows["prefix"], json!({ "value": named.path(), "source": "flag" }));
    assert_eq!(rows["mode"], json!({ "value": "client", "source": "config.json" }));
}

#[test]
fn flags_stand_before_or_behind_the_command() {
    let prefix = prefix(r#"{"mode":"server"}"#);
    for words in
        [&["--port", "5", "check", "--json"][..], &["check", "--json", "--port", "5"], &["check", "--port=5", "--json"]]
    {
        let said = run_in(prefix.path(), words, &[]);
        let rows: Value = serde_json::from_str(&said.out).expect("JSON");
        assert_eq!(rows["port"], json!({ "value": 5, "source": "flag" }));
    }
}

#[test]
fn the_seeds_files_are_read_where_the_seed_says() {
    let client = "{\n\"mode\": \"client\",\n\"proxy\": \"example.org\",\n\"port\": 3006\n}";
    let rows = checked(prefix(client).path(), &[], &[]);
    assert_eq!(rows["proxy"]["value"], "ws://example.org:3006/");
    let server = "{\n\"mode\": \"server\",\n\"port\": 3006\n}";
    let rows = checked(prefix(server).path(), &[], &[]);
    assert_eq!((&rows["mode"]["value"], &rows["port"]["value"]), (&json!("server"), &json!(3006)));
    assert_eq!(checked(prefix(r#"{"mode":"server"}"#).path(), &[], &[])["port"]["value"], 3006, "the seed's port");
    // Without WSDAEMON_PREFIX the folder is the seed's own, whether or not this user may read it.
    let said = ran(command(&["check", "--mode", "server"]), "");
    assert!(format!("{}{}", said.out, said.err).contains("/root/ws-daemon"), "{said:?}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name_and_its_line() {
    let table = [
        ("{\n  \"mode\": \"server\",\n  \"prot\": 1\n}", "there is no setting \"prot\"", "did you mean \"port\"?", 3),
        (
            "{\n  \"mode\": \"server\",\n  \"limits\": {\n    \"rums\": 1 } }",
            "no setting \"rums\"",
            "did you mean \"runs\"?",
            4,
        ),
        ("{\n\"times\": {\"grade\": 1}}", "no setting \"grade\"", "did you mean \"grace\"?", 2),
        ("{\"qwertyuiop\": 1}", "no setting \"qwertyuiop\"", "there are mode, proxy, port", 1),
    ];
    for (config, what, help, line) in table {
        let said = refused(config);
        let shown = config.lines().nth(line - 1).expect("the table counts right");
        for part in [what, help, shown, &format!("config.json:{line}:")] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(!said.contains('\u{1b}'), "no colours where there is no terminal");
    }
}

#[test]
fn a_wrong_value_is_refused_by_name_in_plain_words() {
    let table = [
        (r#"{"mode":"peer"}"#, "mode: unknown variant"),
        (r#"{"mode":"server","port":70000}"#, "port: found integer `70000`, expected a number from 0 to 65535"),
        (r#"{"mode":"server","port":"3006"}"#, "port: found string \"3006\", expected a number"),
        (r#"{"mode":"server","listen":"here"}"#, "listen: "),
        (r#"{"mode":"server","open":"home"}"#, "open: true, false, or a list of networks"),
        (r#"{"mode":"server","open":["10.0.0.0/40"]}"#, "open: true, false, or a list of networks"),
        (r#"{"mode":"server","local":"9007"}"#, "local is \"9007\"; it must be an address like 127.0.0.1:9007, or off"),
        (
            r#"{"mode":"server","limits":{"message":"16MB"}}"#,
            "\"16MB\" is no size: write bytes, or a number with KiB, MiB or GiB",
        ),
        (r#"{"mode":"server","limits":{"runs":0}}"#, "limits.runs must be at least 1"),
        (r#"{"mode":"server","limits":{"runs":"many"}}"#, "limits.runs: found string \"many\", expected a whole number"),
        (r#"{"mode":"server","times":{"ping":"soon"}}"#, "\"soon\" is no duration"),
        (r#"{"mode":"server","times":{"ping":0}}"#, "times.ping must be longer than 0"),
        (r#"{"mode":"server","times":{"backoff_min":"1m"}}"#, "times.backoff_min is longer than times.backoff_max"),
        (r#"{"mode":"client"}"#, "a client needs \"proxy\", the server to dial"),
        (r#"{"mode":"client","proxy":"http://h"}"#, "proxy has the scheme \"http\"; it must be ws:// or wss://"),
        (r#"{"mode":"client","proxy":"a b"}"#, "proxy is not a host, host:port, or URL"),
        (r#"{"mode":"server""#, "EOF while parsing"),
        (r#"{"mode":"server"} {}"#, "trailing characters"),
        (r#"{"mode":"server","mode":"client"}"#, "duplicate field"),
    ];
    for (config, part) in table {
        let said = refused(config);
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let good = prefix(r#"{"mode":"server"}"#);
    for (name, value, part) in [
        ("WSDAEMON_PORT", "70000", "the environment (--port, WSDAEMON_PORT): found integer `70000`"),
        ("WSDAEMON_OPEN", "home", "the environment (--open, WSDAEMON_OPEN): true, false, or a list of networks"),
        ("WSDAEMON_LOG", "loud", "the log level \"loud\" is not understood; write off, error, warn, info, debug or trace"),
        ("WSDAEMON_LOG", "info,ws_daemon=loud", "the log level \"info,ws_daemon=loud\" is not understood"),
    ] {
        let said = run_in(good.path(), &["run"], &[(name, value)]);
        assert_eq!(said.code, 78, "{said:?}");
        assert!(said.err.contains(part), "{part} is not in {}", said.err);
    }
    let said = run_in(good.path(), &["run"], &[("WSDAEMON_SOCKET_GROUP", "no-such-group")]);
    assert_eq!(said.code, 78);
    assert!(said.err.contains("there is no group \"no-such-group\"; create it with: groupadd no-such-group"), "{}", said.err);
}

#[test]
fn without_a_config_it_says_how_to_make_one() {
    let empty = tempfile::tempdir().expect("a temporary folder can be made");
    let path = empty.path().join("config.json");
    for words in [&[][..], &["run"], &["check"]] {
        let said = run_in(empty.path(), words, &[]);
        assert_eq!((said.code, &*said.out), (78, ""), "{words:?}");
        let missing = format!("nothing says whether this is a server or a client: {} does not exist", path.display());
        for part in [&*missing, "init server --prefix", "invite NAME --prefix", "join LINE --prefix", "ws-daemon demo"] {
            assert!(said.err.contains(part), "{part} is not in {}", said.err);
        }
    }
    assert!(refused("{}").contains("config.json has no \"mode\""));
    let nowhere = empty.path().join("not/there");
    let said = run_in(&nowhere, &["run", "--mode", "server"], &[]);
    assert_eq!(said.code, 78);
    assert!(said.err.contains("make it with: ws-daemon init"), "{}", said.err);
}

#[test]
fn bare_words_run_the_daemon() {
    // The plan starts the program without a word, as `npm start` did.
    let server = Daemon::server().start();
    assert_eq!(server.connect().ask(r#"{"name":"anything","id":1}"#), r#"{"status":-2,"id":1}"#);
    assert!(server.prefix().join("ws-daemon.sock").exists());
}

#[test]
fn check_prints_a_table_without_secrets() {
    let prefix = prefix(
        r#"{"mode":"client","proxy":"till-7:s3cret@example.org","limits":{"runs":7,"message":"1MiB"},"times":{"ping":"5s"}}"#,
    );
    let said = run_in(prefix.path(), &["check"], &[("WSDAEMON_LOCAL", "off")]);
    assert_eq!((said.code, &*said.err), (0, ""));
    let rows: Vec<Vec<&str>> =
        said.out.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    for row in [
        ["mode", "client", "config.json"],
        ["proxy", "ws://example.org:3006/ (with a name and a token, which are not shown)", "config.json"],
        ["local", "off", "environment"],
        ["limits.runs", "7", "config.json"],
        ["limits.message", "1048576", "config.json"],
        ["limits.nesting", "128", "default"],
        ["times.ping", "5s", "config.json"],
        ["times.backoff_min", "500ms", "default"],
        ["log", "info", "default"],
    ] {
        assert!(rows.iter().any(|found| found == &row), "{row:?} is not in\n{}", said.out);
    }
    let as_json = run_in(prefix.path(), &["check", "--json"], &[]);
    assert!(!format!("{}{}", said.out, as_json.out).contains("s3cret"));
}

#[test]
fn every_form_of_proxy_is_dialled_and_a_token_goes_in_a_header_alone() {
    let listener = PeerListener::bind();
    let port = listener.port();
    // Base 64 of till-7:s3c@ret
    let header = Some("Basic dGlsbC03OnMzY0ByZXQ=");
    let table = [
        ("127.0.0.1".to_owned(), "/", None),
        (format!("localhost:{port}"), "/", None),
        (format!("ws://127.0.0.1:{port}"), "/", None),
        (format!("ws://127.0.0.1:{port}/deep/path?and=query"), "/deep/path?and=query", None),
        (format!("till-7:s3c%40ret@127.0.0.1:{port}"), "/", header),
        (format!("ws://till-7:s3c%40ret@127.0.0.1:{port}/x"), "/x", header),
    ];
    for (proxy, path, authorization) in table {
        let mut plan = Daemon::client_of(port).config(json!({ "proxy": proxy })).without_token();
        if proxy != "127.0.0.1" {
            // A port in `proxy` wins over the setting.
            plan = plan.config(json!({ "port": 1 }));
        }
        let client = plan.start();
        let peer = listener.accept(&client);
        assert_eq!((peer.path(), peer.header("authorization")), (path, authorization), "{proxy}");
        for absent in ["origin", "sec-websocket-protocol", "sec-websocket-extensions"] {
            assert_eq!(peer.header(absent), None, "{proxy}");
        }
        assert_eq!(client.log().count("s3c") + client.log().count("dGls"), 0, "the log shows the token\n{}", client.log());
        // First: a client that loses its peer would dial the next one's place.
        drop(client);
        drop(peer);
    }
}

#[test]
fn wss_is_dialled_with_the_systems_roots() {
    if !need_tool("openssl") {
        return;
    }
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let certificate = authority.certificate();
    let client = Daemon::client_of(port)
        .config(json!({ "proxy": "wss://localhost/some/path" }))
        .env("SSL_CERT_FILE", certificate.to_str().expect("plain"))
        .env("SSL_CERT_DIR", "")
        .script("seven", "#!/bin/sh\nexit 7\n")
        .start();
    let mut socket = authority.accept(&listener).expect("a client that trusts this server");
    socket.send(r#"{"name":"seven","id":1}"#.into()).expect("it is open");
    let answer = socket.read().expect("an answer");
    let expected = r#"{"name":"&cmd","params":{"code":"STATUS","data":{"status":7,"id":1}}}"#;
    assert_eq!(answer.to_text().expect("a text"), expected);
    client.wait_log("link up");
}

#[test]
fn a_server_that_nobody_vouches_for_is_refused() {
    if !need_tool("openssl") {
        return;
    }
    let (authority, other) = (Authority::new(), Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let plan = Daemon::client_of(port).config(json!({ "proxy": "wss://localhost" })).env("SSL_CERT_DIR", "");
    let none = plan.prefix().join("none.pem");
    fs::write(&none, "").expect("the prefix is ours to write");
    let client = plan.env("SSL_CERT_FILE", other.certificate().to_str().expect("plain")).start();
    assert!(authority.accept(&listener).is_err(), "the client took a certificate that it cannot know");
    let line = client.wait_log("no link");
    assert!(line.contains("no encrypted connection: ") && line.contains("certificate"), "{line}");
    let client = client.kill().env("SSL_CERT_FILE", none.to_str().expect("plain")).start();
    client.wait_log("no root certificates found");
}
