//! Every page, by everyone who may not and in every way that it may not be asked: the right refusal, and nothing is done. A page that
//! has no row here fails.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use ws_daemon::api::Api;

use crate::support::{Daemon, Reply, Web, signature};

/// Leaves a trace.
const RAN: &str = "#!/bin/sh\n: > \"$WSDAEMON_PREFIX/ran\"\n";

/// How a page is asked that is in order.
struct Row {
    method: &'static str,
    /// As the table has it.
    template: &'static str,
    path: String,
    body: &'static str,
    /// Who may.
    who: Who,
    /// What somebody hears who is known and may not.
    without_right: (u16, &'static str),
}

/// Who may ask for a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Whoever may have a link.
    Anyone,
    /// A caller, by its token.
    Token,
    /// The same; and without one who asks from this machine and is root, as these tests are, or the daemon's user.
    Machine,
    /// A caller, by its signature.
    Signature,
}

/// A row for each page: asked about a run of somebody else's.
fn rows(run: &str) -> Vec<Row> {
    let row = |method, template: &'static str, who, without_right| Row {
        method,
        template,
        path: template.replace("{run}", run).replace("{caller}", "git").replace("{name}", "ran"),
        body: if method == "POST" { "{}" } else { "" },
        who,
        without_right,
    };
    let (denied, hidden) = ((403, "denied"), (404, "unknown_target"));
    vec![
        row("GET", "/healthz", Who::Anyone, (200, "")),
        row("GET", "/readyz", Who::Anyone, (200, "")),
        row("GET", "/metrics", Who::Machine, denied),
        row("GET", "/api/v1/openapi.json", Who::Anyone, (200, "")),
        row("POST", "/api/v1/run/{name}", Who::Token, denied),
        row("POST", "/api/v1/hooks/{caller}/{name}", Who::Signature, denied),
        // There are none of its own.
        row("GET", "/api/v1/runs", Who::Token, (200, "")),
        row("GET", "/api/v1/runs/{run}/output", Who::Token, hidden),
        row("GET", "/api/v1/runs/{run}", Who::Token, hidden),
        row("DELETE", "/api/v1/runs/{run}", Who::Token, hidden),
        row("GET", "/api/v1/peers", Who::Token, denied),
        row("GET", "/api/v1/scripts", Who::Token, denied),
        row("GET", "/api/v1/stats", Who::Token, denied),
        row("GET", "/api/v1/events", Who::Token, denied),
    ]
}

#[test]
fn there_is_a_row_for_each_page() {
    let rows: BTreeSet<(&str, &str)> = rows("").iter().map(|row| (row.method, row.template)).collect();
    assert_eq!(rows, Api::pages().collect());
}

/// A server with a peer that would do what is asked of it, a run that somebody else has asked for, and three callers: one with every
/// right, one with none, and one that signs.
struct Stage {
    server: Daemon,
    client: Daemon,
    run: String,
    all: String,
    none: String,
    key: String,
}

impl Stage {
    fn new() -> Self {
        let config = json!({ "limits": { "message": 65536, "address_failures": 4096 } });
        let server = Daemon::server().config(config).start();
        let client = Daemon::client(&server).script("ran", RAN).script("waits", "#!/bin/sh\n").start();
        client.wait_log("link up");
        server.wait_log("link up");
        let mut owner = server.connect();
        let mut add = |data: Value| {
            let mut new = json!({ "do": "add" });
            new.as_object_mut().expect("an object").extend(data.as_object().expect("an object").clone());
            let told = owner.result("CALLERS", &new);
            told["token"].as_str().or_else(|| told["key"].as_str()).expect("told once").to_owned()
        };
        let all = add(json!({ "name": "all", "commands": ["*"] }));
        let none = add(json!({ "name": "none", "allow": ["other"] }));
        let key = add(json!({ "name": "git", "hmac": true, "allow": ["other"] }));
        owner.send(json!({ "name": "waits", "id": "w", "queue": { "not_before": "1h" } }).to_string());
        let run = owner.said()["run"].as_str().expect("it is on disk").to_owned();
        Self { server, client, run, all, none, key }
    }

    /// A connection that shows what is right for a row.
    fn right(&self, row: &Row) -> Web {
        self.known(row, &self.all)
    }

    fn known(&self, row: &Row, token: &str) -> Web {
        let web = Web::port(&self.server);
        match row.who {
            Who::Anyone => web,
            Who::Token | Who::Machine => web.token(token),
            Who::Signature => web.header("X-Hub-Signature-256", &format!("sha256={}", signature(&self.key, row.body))),
        }
    }

    /// All that must not become another.
    fn seen(&self) -> Value {
        let ran = fs::exists(self.client.prefix().join("ran")).expect("ours");
        json!({ "ran": ran, "runs": self.server.connect().result("RUNS", &Value::Null) })
    }

    /// Asks for each page, and looks what has come of it.
    fn every(&self, ask: impl Fn(&Row) -> Option<(Reply, u16, &'static str)>) {
        let before = self.seen();
        for row in rows(&self.run) {
            let asked = format!("{} {}", row.method, row.template);
            let Some((reply, status, word)) = ask(&row) else { continue };
            assert_eq!((reply.status, error(&reply).as_str()), (status, word), "{asked}: {reply:?}");
            assert_eq!(self.seen(), before, "{asked}");
        }
    }
}

/// The word of a problem.
fn error(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    body["error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn without_a_token_or_with_a_wrong_one_nothing_is_told_and_nothing_done() {
    let stage = Stage::new();
    let expected = |row: &Row| if row.who == Who::Anyone { (200, "") } else { (401, "unauthorized") };
    stage.every(|row| {
        let (status, word) = if row.who == Who::Machine { (200, "") } else { expected(row) };
        Some((Web::port(&stage.server).ask(row.method, &row.path, row.body), status, word))
    });
    stage.every(|row| {
        let wrong = signature("another key", row.body);
        let mut web = Web::port(&stage.server).token("wrong").header("X-Hub-Signature-256", &format!("sha256={wrong}"));
        let (status, word) = expected(row);
        Some((web.ask(row.method, &row.path, row.body), status, word))
    });
    // What one shows is good for no page of the other kind.
    stage.every(|row| {
        let mut web = match row.who {
            Who::Anyone => return None,
            Who::Token | Who::Machine => Web::port(&stage.server).token(&stage.key),
            Who::Signature => Web::port(&stage.server).token(&stage.all),
        };
        Some((web.ask(row.method, &row.path, row.body), 401, "unauthorized"))
    });
}

#[test]
fn a_caller_without_the_right_is_refused_in_words_or_sees_nothing() {
    let stage = Stage::new();
    stage.every(|row| {
        let (status, word) = row.without_right;
        let reply = stage.known(row, &stage.none).ask(row.method, &row.path, row.body);
        assert!(row.template != "/api/v1/runs" || reply.json() == json!([]), "{reply:?}");
        Some((reply, status, word))
    });
}

#[test]
fn a_wrong_method_is_refused_with_those_that_there_are() {
    let stage = Stage::new();
    for method in ["PUT", "PATCH", "OPTIONS", "TRACE", "QUERY", "POST", "GET", "DELETE"] {
        stage.every(|row| {
            let of_path = rows(&stage.run).into_iter().filter(|other| other.path == row.path).map(|other| other.method);
            let allowed: Vec<&str> = of_path.collect();
            if allowed.contains(&method) {
                return None;
            }
            let reply = stage.right(row).ask(method, &row.path, row.body);
            assert_eq!(reply.header("allow"), Some(allowed.join(", ").as_str()), "{method} {}", row.path);
            Some((reply, 405, "wrong_method"))
        });
    }
}

#[test]
fn a_wrong_body_or_one_that_is_too_large_is_refused() {
    let stage = Stage::new();
    for wrong in ["{", "nothing", "{}{}", "\"\u{1}\"", "1,\"to\":\"*\""] {
        stage.every(|row| {
            let row = Row { body: wrong, path: row.path.clone(), ..*row };
            (row.method == "POST").then(|| (stage.right(&row).ask(row.method, &row.path, wrong), 400, "bad_message"))
        });
    }
    stage.every(|row| {
        let mut web = stage.right(row).header("Content-Type", "text/html");
        (row.template == "/api/v1/run/{name}").then(|| (web.ask(row.method, &row.path, row.body), 415, "not_json"))
    });
    let long = format!("\"{}\"", "x".repeat(70_000));
    stage.every(|row| {
        // What nobody looks at may not be larger either.
        let is_read = row.who != Who::Anyone;
        is_read.then(|| (stage.right(row).ask(row.method, &row.path, &long), 413, "too_large"))
    });
    // Nor if it does not say how long it is.
    stage.every(|row| {
        if row.who == Who::Anyone {
            return None;
        }
        let mut web = stage.right(row).header("Transfer-Encoding", "chunked");
        web.send(row.method, &row.path, "");
        web.say(&format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()));
        Some((web.reply(), 413, "too_large"))
    });
    // A head may be so long, and has so many lines.
    let mut web = Web::port(&stage.server).token(&stage.all).header("X-Long", &"x".repeat(16 << 10));
    assert_eq!(web.get("/api/v1/stats").status, 431);
    let many = (0..70).fold(Web::port(&stage.server).token(&stage.all), |web, at| web.header(&format!("X-{at}"), "x"));
    assert_eq!({ many }.get("/api/v1/stats").status, 431);
}

#[test]
fn under_another_name_and_from_a_foreign_page_nothing_is_answered() {
    let stage = Stage::new();
    stage.every(|row| Some((stage.right(row).host("evil.example").ask(row.method, &row.path, row.body), 421, "wrong_host")));
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        stage.every(|row| {
            let mut web = stage.right(row).header("Origin", origin);
            Some(match (row.template, web.ask(row.method, &row.path, row.body)) {
                // It is for whoever may have a link, and no page may.
                ("/healthz" | "/readyz", reply) => (reply, 403, ""),
                (_, reply) => (reply, 403, "foreign_origin"),
            })
        });
    }
    let mut socket = Web::socket(&stage.server).header("Origin", "https://evil.example");
    assert_eq!(error(&socket.get("/api/v1/stats")), "foreign_origin");
}

#[test]
fn a_page_that_is_not_there_is_told_apart_and_so_is_a_secret_in_the_url() {
    let stage = Stage::new();
    let mut web = Web::port(&stage.server).token(&stage.all);
    for path in ["/api", "/api/", "/api/v1", "/api/v2/stats", "/api/v1/stats/", "/api/v1/run/", "/api/v1/runs/a/b"] {
        assert_eq!((web.get(path).status, error(&web.get(path)).as_str()), (404, "no_such_page"), "{path}");
    }
    stage.every(|row| {
        (row.who != Who::Anyone).then(|| {
            let path = format!("{}?token={}", row.path, stage.all);
            (stage.right(row).ask(row.method, &path, row.body), 400, "bad_message")
        })
    });
}
