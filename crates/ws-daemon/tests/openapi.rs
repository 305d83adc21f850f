//! `docs/openapi.json` is made of the table of pages and of the schemas of the types; `UPDATE_SCHEMA=1` writes it. A page without a
//! description fails. And schemathesis, which asks a live daemon for all of it in many ways, finds nothing against it
//! (`black_box/openapi.rs`).

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Map, Value, json};
use ws_daemon::api::Api;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A schema that was made of the types.
fn schema(name: &str) -> Value {
    let text = fs::read_to_string(root().join("docs/schema").join(format!("{name}.json"))).expect("it is there");
    let mut schema: Value = serde_json::from_str(&text).expect("JSON");
    let object = schema.as_object_mut().expect("an object");
    object.remove("$schema");
    object.remove("title");
    schema
}

/// What a command takes as its data.
fn data_of(code: &str) -> Value {
    let commands = schema("command")["properties"]["params"]["oneOf"].take();
    let found = commands.as_array().expect("a list").iter().find(|command| command["properties"]["code"]["const"] == code);
    found.unwrap_or_else(|| panic!("no {code}"))["properties"]["data"].clone()
}

/// Words for yes and no.
fn truth() -> Value {
    json!({ "type": "string", "enum": ["", "true", "1", "yes", "false", "0", "no"] })
}

/// As text: up to 366 days.
fn duration() -> Value {
    json!({
        "description": "milliseconds, or with ms, s, m, h or d",
        "type": "string",
        "pattern": "^([0-9]{1,10}(ms)?|[0-9]{1,7}s|[0-9]{1,5}m|[0-9]{1,3}h|[0-9]{1,2}d)$",
    })
}

fn bytes() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })
}

fn parameter(place: &str, name: &str, required: bool, about: &str, schema: &Value) -> Value {
    json!({ "in": place, "name": name, "required": required, "description": about, "schema": schema })
}

fn query(name: &str, about: &str, schema: &Value) -> Value {
    parameter("query", name, false, about, schema)
}

/// The options of a request, as a query has them: those of the types, each in the form of a query.
fn options() -> Vec<Value> {
    let types = schema("request")["properties"].take();
    let not_here = ["name", "id", "params", "then", "traceparent", "request_id", "event"];
    let types = types.as_object().expect("an object").iter().filter(|(name, _)| !not_here.contains(&name.as_str()));
    let mut options: Vec<Value> = types
        .map(|(name, option)| {
            let about = option["description"].as_str().unwrap_or_default();
            let (about, form) = match name.as_str() {
                "to" => (
                    "Who may run it: a name, a glob, tag:…, each with ! before it to leave out; may be given several times.",
                    { json!({ "type": "array", "items": option["anyOf"][0], "minItems": 1 }) },
                ),
                "each" | "events" => (about, truth()),
                "batch" | "max_failures" => (about, json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })),
                "timeout" => (about, duration()),
                "queue" => ("Whether it is kept on disk until done; or for how long, for instance 1h.", {
                    json!({ "anyOf": [truth(), { "type": "string", "pattern": "^[1-9][0-9]{0,6}(ms|s)?$" }] })
                }),
                "retry" => (about, option["properties"]["max"].clone()),
                "route" => ("Which of these: round-robin, least-busy, or sticky:KEY.", {
                    json!({ "type": "string", "pattern": "^(round-robin|least-busy|sticky:.{0,100})$" })
                }),
                "output" => ("What becomes of what it prints: tail unless it is said, stream with queue and for events.", {
                    let words = option["oneOf"].as_array().expect("words").iter().map(|word| word["const"].clone());
                    json!({ "type": "string", "enum": words.collect::<Vec<_>>() })
                }),
                name => panic!("{name} is new: say what it is in a query"),
            };
            query(name, about, &form)
        })
        .collect();
    options.push(query(
        "not_before",
        "With queue: when it may start, as a time from now, or as milliseconds since 1970.",
        &duration(),
    ));
    options
}

fn answer(about: &str, content: &str, schema: &Value) -> Value {
    json!({ "description": about, "content": { content: { "schema": schema } } })
}

fn problems() -> Value {
    answer("What was not done, and why.", "application/problem+json", &json!({ "$ref": "#/components/schemas/Problem" }))
}

fn operation(id: &str, about: &str, parameters: &[Value], answers: Value) -> Value {
    let mut responses = answers;
    responses["default"] = problems();
    json!({ "operationId": id, "summary": about, "parameters": parameters, "responses": responses })
}

fn list() -> Value {
    json!({ "type": "array", "items": { "type": "object" } })
}

/// What is answered when something was asked to be run.
fn of_run() -> Value {
    let is_final = json!({ "$ref": "#/components/schemas/Final" });
    let each = json!({
        "type": "object",
        "properties": { "runs": { "type": "array", "items": is_final }, "failed": { "type": "integer" } },
        "required": ["runs", "failed"],
    });
    let mut done = answer("How it ended, whatever its exit status; with each, all of them.", "application/json", &{
        json!({ "anyOf": [is_final, each] })
    });
    done["content"]["text/event-stream"] = json!({ "schema": { "type": "string" } });
    let mut kept = answer("It is on disk.", "application/json", &json!({ "$ref": "#/components/schemas/Accepted" }));
    let place = json!({ "description": "Where it is found.", "required": true, "schema": { "type": "string" } });
    kept["headers"] = json!({ "Location": place });
    json!({ "200": done, "202": kept })
}

/// What is to be said of a page.
fn described(method: &str, path: &str) -> Value {
    let run = || parameter("path", "run", true, "The run's id.", &json!({ "type": "string", "minLength": 1 }));
    let script = || {
        let name = json!({ "type": "string", "minLength": 1, "examples": ["hello"] });
        parameter("path", "name", true, "The script, as a path under scripts/ of whoever runs it; it may have slashes.", &name)
    };
    let word = json!({ "type": "string", "pattern": "^[!-~]{1,200}$" });
    let header = |name: &str, about: &str| parameter("header", name, false, about, &word);
    let ids = || {
        vec![
            header("Idempotency-Key", "With queue: the same again under this key is the same request."),
            header("X-Request-Id", "What the request is called elsewhere; the script finds it in WSDAEMON_REQUEST_ID."),
        ]
    };
    let any = json!({ "required": false, "content": { "application/json": { "schema": {} } } });
    match (method, path) {
        ("GET", "/healthz") => {
            let healthy = json!({ "type": "object", "properties": { "status": { "const": "ok" } }, "required": ["status"] });
            operation(
                "health",
                "Whether the daemon answers.",
                &[],
                json!({ "200": answer("It does.", "application/json", &healthy) }),
            )
        }
        ("GET", "/readyz") => {
            let parts = json!({ "type": "object", "properties": { "status": { "enum": ["ready", "not ready"] } }, "required": ["status"] });
            let answers = json!({
                "200": answer("It can.", "application/json", &parts),
                "503": answer("It cannot, and which part of it is why.", "application/json", &parts),
            });
            operation("ready", "Whether the daemon can do what it is for.", &[], answers)
        }
        ("GET", "/metrics") => {
            let page = answer("They.", "application/openmetrics-text", &json!({ "type": "string" }));
            let mut metrics = operation("metrics", "Every figure of the daemon.", &[], json!({ "200": page }));
            metrics["description"] = "From the daemon's own machine, root and its own user need no token.".into();
            metrics["security"] = json!([{}, { "token": [] }]);
            metrics
        }
        ("GET", "/api/v1/openapi.json") => {
            let about = "What is here, for programs.";
            operation(
                "openapi",
                about,
                &[],
                json!({ "200": answer("This.", "application/json", &json!({ "type": "object" })) }),
            )
        }
        ("POST", "/api/v1/run/{name}") => {
            let parameters = [vec![script()], options(), ids()].concat();
            let mut run = operation("run", "Have a script run; the body is its params.", &parameters, of_run());
            run["description"] = "It is answered when it is over; with queue, or Prefer: respond-async, when it is on disk. With \
                                  Accept: text/event-stream its steps and what it prints are told as they come. A traceparent (W3C \
                                  Trace Context) is in the script's environment."
                .into();
            run["requestBody"] = any;
            run
        }
        ("POST", "/api/v1/hooks/{caller}/{name}") => {
            let caller = json!({ "type": "string", "minLength": 1 });
            let caller = parameter("path", "caller", true, "Who signs: ws-daemon callers add NAME --hmac.", &caller);
            let parameters = [vec![caller, script()], options(), ids()].concat();
            let mut hook = operation("hook", "Have a script run for what somebody else's server signs.", &parameters, of_run());
            hook["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": {} } } });
            hook["security"] = json!([{ "signature": [] }]);
            hook
        }
        ("GET", "/api/v1/runs") => {
            let taken = data_of("RUNS")["anyOf"][0]["properties"].take();
            let form = |name: &str| match name {
                "state" => {
                    let words = taken["state"]["oneOf"].as_array().expect("words").iter().map(|word| word["const"].clone());
                    json!({ "type": "string", "enum": words.collect::<Vec<_>>() })
                }
                "limit" => bytes(),
                _ => json!({ "type": "string" }),
            };
            let parameters = taken.as_object().expect("an object").iter();
            let parameters =
                parameters.map(|(name, of)| query(name, of["description"].as_str().unwrap_or_default(), &form(name)));
            let shown = answer("Those that were asked for here, the newest first.", "application/json", &list());
            operation("runs", "What runs, and what ran.", &parameters.collect::<Vec<_>>(), json!({ "200": shown }))
        }
        ("GET", "/api/v1/runs/{run}/output") => {
            let stream = json!({ "type": "string", "enum": ["stdout", "stderr"] });
            let parameters = [
                run(),
                query("stream", "Which of the two; stdout unless it is said.", &stream),
                query("offset", "From this byte of it.", &bytes()),
                query("limit", "So many bytes at most.", &bytes()),
                query("follow", "Whether to go on as it is printed, to the end.", &truth()),
            ];
            let text = answer("What it printed.", "text/plain", &json!({ "type": "string" }));
            operation("output", "What a run has printed, as far as it is kept.", &parameters, json!({ "200": text }))
        }
        ("GET", "/api/v1/runs/{run}") => {
            let shown =
                answer("All that is known.", "application/json", &json!({ "type": "object", "required": ["run", "state"] }));
            operation("show", "All about one run.", &[run()], json!({ "200": shown }))
        }
        ("DELETE", "/api/v1/runs/{run}") => {
            let ordered = answer("It is told to stop, or will not begin.", "application/json", &json!({ "type": "object" }));
            operation("cancel", "Have a run stopped, or never begun.", &[run()], json!({ "202": ordered }))
        }
        ("GET", "/api/v1/peers") => operation(
            "peers",
            "Who is connected, and who was.",
            &[],
            json!({ "200": answer("They.", "application/json", &list()) }),
        ),
        ("GET", "/api/v1/scripts") => operation(
            "scripts",
            "The scripts of this daemon.",
            &[],
            json!({ "200": answer("They.", "application/json", &list()) }),
        ),
        ("GET", "/api/v1/stats") => {
            let numbers =
                answer("Counters.", "application/json", &json!({ "type": "object", "required": ["links", "running"] }));
            operation("stats", "How the daemon does.", &[], json!({ "200": numbers }))
        }
        ("GET", "/api/v1/events") => {
            let words = data_of("SUBSCRIBE")["anyOf"][0]["items"]["oneOf"].take();
            let words: Vec<&str> = words.as_array().expect("words").iter().filter_map(|word| word["const"].as_str()).collect();
            let words = words.join("|");
            let topics = json!({ "type": "string", "pattern": format!("^({words})(,({words}))*$") });
            let parameters = [query("topics", "Of what; all unless it is said.", &topics)];
            let told = answer("Lines, as they come.", "text/event-stream", &json!({ "type": "string" }));
            operation("events", "What happens, as it happens.", &parameters, json!({ "200": told }))
        }
        _ => panic!("{method} {path} is new: describe it here"),
    }
}

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (method, path) in Api::pages() {
        let mut said = described(method, path);
        if ["/healthz", "/readyz", "/api/v1/openapi.json"].contains(&path) {
            said["security"] = json!([]);
        }
        let of_path = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        of_path[method.to_ascii_lowercase()] = said;
    }
    let text = json!({ "type": "string" });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ws-daemon",
            "version": "1",
            "description": "Scripts on far machines, over HTTP: on the server's port, on the address \"http\", and on the socket file.",
        },
        "paths": paths,
        "security": [{ "token": [] }],
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "ws-daemon callers add NAME" },
                "signature": {
                    "type": "apiKey", "in": "header", "name": "X-Hub-Signature-256",
                    "description": "sha256= and the HMAC-SHA256 of the body, in hexadecimal; or the header that the caller was added with",
                },
            },
            "schemas": {
                "Final": schema("final"),
                "Accepted": {
                    "type": "object",
                    "properties": { "run": text, "runs": { "type": "array", "items": text }, "nearest": text },
                    "required": ["run"],
                },
                "Problem": {
                    "description": "RFC 9457; error is the word for programs, report the final line if there was one",
                    "type": "object",
                    "properties": {
                        "type": text, "title": text, "status": { "type": "integer" }, "detail": text, "error": text,
                        "run": text, "peer": text, "report": { "$ref": "#/components/schemas/Final" },
                    },
                    "required": ["type", "title", "status", "detail", "error"],
                },
            },
        },
    })
}

#[test]
fn the_description_is_that_of_the_pages_and_of_the_types() {
    let file = root().join("docs/openapi.json");
    let document = document();
    if env::var_os("UPDATE_SCHEMA").is_some() {
        let text = serde_json::to_string_pretty(&document).expect("JSON");
        fs::write(&file, format!("{text}\n")).expect("ours to write");
    }
    let found = fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let hint = "is not current; UPDATE_SCHEMA=1 cargo test -p ws-daemon --test openapi writes it";
    assert!(found.as_ref() == Some(&document), "{} {hint}", file.display());
}
