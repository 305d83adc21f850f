//! schemathesis asks a live daemon for all that its description has, as it is described and in every way that it is not, and finds
//! nothing against either.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;

use crate::support::{Daemon, Web, need_python};

/// What is to be found out. What is left out asks for what is not so: that a server's statuses above 500 are faults (a run that took too
/// long is 504 by intent), that all that the types let pass is taken (an option goes with another one, which OpenAPI has no words
/// for), and that what was cancelled is there no more (a run is remembered).
const CHECKS: &str = "status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,allow_header_conformance,\
    ignored_auth";

#[test]
fn schemathesis_finds_nothing() {
    let Some(schemathesis) = need_python("schemathesis") else { return };
    let server = Daemon::server().start();
    let client = Daemon::client(&server).script("hello", "#!/bin/sh\necho hello\n").start();
    client.wait_log("link up");
    let added = server.connect().result("CALLERS", &json!({ "do": "add", "name": "ci" }));
    let token = added["token"].as_str().expect("told once").to_owned();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let here = format!("http://127.0.0.1:{}", server.port());
    // The document is what the daemon itself says, but for the one word that has an answer wait for as long as a run lasts: for ever, of
    // one that is queued for later.
    let mut document = Web::port(&server).get("/api/v1/openapi.json").json();
    let parameters = document["paths"]["/api/v1/runs/{run}/output"]["get"]["parameters"].as_array_mut().expect("a list");
    parameters.retain(|parameter| parameter["name"] != "follow");
    let file = folder.path().join("openapi.json");
    fs::write(&file, document.to_string()).expect("ours to write");
    let run = |which: [&str; 2]| {
        let mut command = Command::new(&schemathesis);
        command.current_dir(folder.path()).arg("run").arg(&file).args(["--url", &here, "--checks", CHECKS, "--seed", "5"]);
        command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--generation-database", "none"]);
        command.args(["--request-timeout", "15", "--continue-on-failure", "--no-color"]).args(which);
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
        let found = command.stdin(Stdio::null()).output().expect("it can be started");
        let said = format!("{}\n{}", String::from_utf8_lossy(&found.stdout), String::from_utf8_lossy(&found.stderr));
        assert!(found.status.success(), "{said}\n{}", server.log());
    };
    // Hooks are answered late, as all that is signed by nobody: side by side with them there is time for the rest.
    thread::scope(|scope| {
        scope.spawn(|| run(["--include-path-regex", "hooks"]));
        scope.spawn(|| run(["--exclude-path-regex", "hooks"]));
    });
    assert_eq!(server.log().count("panicked"), 0);
}
