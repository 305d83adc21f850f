//! JSON Schemas of every message, as docs/schema has them. What the codec reads by hand is described here by types of the same
//! keys; what it reads by serde is described by its own types, as other files of ours may be. It never reads or writes a message.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::codec::v2::{Have, Hello, Hop, ID_BYTES, Roots};
use crate::command::{
    CallersTask, ExplainQuery, Invite, KeysTask, LONGEST_PAUSE, LogChange, Revoke, Rotate, RunsQuery, Serve, StreamName, Topic,
};
use crate::options::{OutputMode, Queue, RETRIES, Route, TEXT_BYTES};
use crate::target::Target;
use crate::time;
use crate::trace::{MARK_BYTES, TRACEPARENT};

/// Every message by the name of its file in docs/schema, less `.json`, with its schema.
#[must_use]
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("request", of::<Request>("what a local process asks")),
        ("event", of::<EventLine>("a line between a request and its final line")),
        ("final", of::<FinalLine>("the last line of a run, or of a command")),
        ("news", of::<News>("a line that SUBSCRIBE lets come")),
        ("command", command()),
        ("worker-asked", of::<WorkerAsked>("a line that a worker gets: one request")),
        ("worker-said", of::<WorkerSaid>("a line that a worker says: the answer to one, or what is printed for one")),
        ("frame-run", of::<RunFrame>("asks the other daemon for a run")),
        ("frame-hello", daemons::<Hello>("HELLO", "who a daemon is: the first frame of a link from both sides")),
        ("frame-status", daemons::<StatusData>("STATUS", "how a run, a command or a PING ended: from the doer")),
        ("frame-event", daemons::<EventData>("EVENT", "how far a run has come: from the doer")),
        ("frame-output", daemons::<OutputData>("OUTPUT", "what a script printed: from the doer, within its credit")),
        ("frame-credit", daemons::<CreditData>("CREDIT", "how many bytes of output more may be sent: from the asker")),
        (
            "frame-cancel",
            daemons::<CancelData>("CANCEL", "stops a run, or sees to it that an attempt never starts: from the asker"),
        ),
        ("frame-ack", daemons::<AckData>("ACK", "the outcome of an attempt is on the asker's disk: from the asker")),
        (
            "frame-drain",
            daemons_said(
                "DRAIN",
                &json!({ "anyOf": [schema::<DrainData>(), { "type": "null" }] }),
                "no more new work, please; the link lives on",
            ),
        ),
        (
            "frame-roots",
            daemons::<Roots>("ROOTS", "the server's roots, as PEM: from a server; those that a client has, by pin: from it"),
        ),
        ("frame-ping", named_command("PING", &Value::Bool(true), "asks for a STATUS 0 under its id")),
        ("frame-command", frame_command()),
    ]
}

/// A request of a local process.
#[derive(JsonSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is there to be described")]
#[expect(clippy::struct_field_names, reason = "it is the key's name")]
struct Request {
    /// The script's name, as a path under scripts/ of whoever runs it.
    #[schemars(extend("not" = { "enum": ["+cmd", "&cmd"] }))]
    name: String,
    /// The caller's own, any JSON of up to 4096 bytes; it comes back as it was written.
    id: Option<Value>,
    /// What the script gets: any JSON; absent is null.
    params: Option<Value>,
    /// Who may run it; absent: anyone.
    to: Option<Target>,
    /// Which of these.
    route: Option<Route>,
    /// Whether every match runs it, one run each.
    each: Option<bool>,
    /// With each: so many at once.
    #[schemars(range(min = 1))]
    batch: Option<u64>,
    /// With each: after so many failures nothing more is started.
    #[schemars(range(min = 1))]
    max_failures: Option<u64>,
    /// How long the script may run.
    #[serde(default)]
    #[schemars(schema_with = "duration")]
    timeout: (),
    /// What becomes of what it prints.
    output: Option<OutputMode>,
    /// Whether it is kept on disk until done.
    queue: Option<Queue>,
    /// That it may be run again after -5.
    retry: Option<Retry>,
    /// A script of this daemon that gets the outcome as its params, once.
    #[schemars(length(min = 1, max = TEXT_BYTES))]
    then: Option<String>,
    /// Whether delivered and started are told.
    events: Option<bool>,
    /// Of which trace it is (W3C Trace Context), for the script's environment.
    #[schemars(regex(pattern = TRACEPARENT))]
    traceparent: Option<String>,
    /// What it is called elsewhere, likewise.
    #[schemars(length(min = 1, max = MARK_BYTES))]
    request_id: Option<String>,
    /// What has happened that it is for, likewise.
    #[schemars(length(min = 1, max = MARK_BYTES))]
    event: Option<String>,
}

#[derive(JsonSchema, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is there to be described")]
struct Retry {
    /// So many times more.
    #[schemars(range(max = RETRIES))]
    max: u32,
}

#[derive(JsonSchema, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[expect(dead_code, reason = "it is there to be described")]
enum EventLine {
    /// The run is on disk.
    Accepted {
        id: Option<Value>,
        run: Uuid,
        /// The known name that is nearest to one that was never seen.
        nearest: Option<String>,
        /// How many runs a fan-out has.
        runs: Option<u64>,
    },
    /// A peer has it.
    Delivered { id: Option<Value>, run: Uuid, peer: String },
    /// The script has been started.
    Started { id: Option<Value>, run: Uuid, peer: String },
    /// The script printed something.
    Output {
        id: Option<Value>,
        run: Uuid,
        stream: StreamName,
        /// Where in the stream it begins, in bytes.
        offset: u64,
        /// Bytes right before it that are lost.
        gap: Option<u64>,
        /// The text, or the bytes in base 64.
        data: String,
        encoding: Option<Base64>,
    },
    /// Every run of a fan-out has its final line.
    Done {
        id: Option<Value>,
        /// How many there were.
        runs: u64,
        /// How many of them did not end with status 0.
        failed: u64,
    },
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct FinalLine {
    #[schemars(schema_with = "status")]
    status: (),
    /// The caller's own, as it was written.
    id: Option<Value>,
    #[serde(flatten)]
    rest: Report,
}

/// What stands beside a status, each key only where it applies.
#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct Report {
    run: Option<Uuid>,
    /// Who ran it; in the answer to a PING, who answered.
    peer: Option<String>,
    /// A word of the table in docs/protocol.md, or one that a later version says.
    #[schemars(regex(pattern = "^[a-z_]+$"))]
    error: Option<String>,
    /// For people.
    message: Option<String>,
    /// The name of the signal that ended the script.
    #[schemars(regex(pattern = "^SIG[A-Z0-9]+$"))]
    signal: Option<String>,
    /// What the script printed, as JSON; what a command was asked for.
    result: Option<Value>,
    /// What it printed, head and tail.
    stdout: Option<String>,
    /// What it said of trouble, head and tail.
    stderr: Option<String>,
    /// Which of the two are in base 64.
    encoding: Option<OfStreams<Base64>>,
    /// Where something is missing in the two.
    cut: Option<OfStreams<Cut>>,
    /// How long the script ran, in milliseconds.
    ms: Option<u64>,
    /// Of a PING: how long the round trip took, in microseconds.
    us: Option<u64>,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct OfStreams<T> {
    stdout: Option<T>,
    stderr: Option<T>,
}

/// Between head and tail.
#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct Cut {
    /// At this byte of what is there (before base 64).
    at: u64,
    /// So many bytes are missing.
    bytes: u64,
}

#[derive(JsonSchema, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(dead_code, reason = "it is there to be described")]
enum News {
    /// A peer has a run; once for each attempt.
    Running {
        run: Uuid,
        /// The script.
        name: String,
        peer: String,
        /// The caller's id, if it gave one.
        id: Option<Value>,
    },
    /// A run has its outcome.
    Settled { run: Uuid, report: FinalLine },
    /// The truth about a run that was settled as unknown.
    Corrected { run: Uuid, report: FinalLine },
    /// A peer has come.
    PeerOnline { peer: String, instance: Value, address: String, tags: Vec<String> },
    /// A peer has gone.
    PeerOffline { peer: String, instance: Value, address: String, tags: Vec<String> },
    /// The subscriber did not read fast enough.
    Gap {
        /// So many lines are missing.
        missed: u64,
    },
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct WorkerAsked {
    /// The run: what to answer under.
    id: Uuid,
    /// What was asked for.
    name: String,
    /// Any JSON.
    params: Value,
    /// Who asked.
    peer: String,
    /// The caller's own id, if it gave one.
    caller: Option<Value>,
    /// By when it is to be answered, in seconds since 1970.
    deadline: Option<f64>,
    /// Of which trace it is (W3C Trace Context).
    traceparent: Option<String>,
    /// What it is called elsewhere.
    request_id: Option<String>,
    /// What has happened that it is for.
    event: Option<String>,
}

#[derive(JsonSchema, Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is there to be described")]
enum WorkerSaid {
    /// It is done.
    Answer {
        id: Uuid,
        /// As a script exits with it.
        status: u8,
        /// What a script would have printed, as JSON.
        result: Option<Value>,
        /// What it would have printed, as it is.
        stdout: Option<String>,
        /// What it would have said of trouble.
        stderr: Option<String>,
        /// For people.
        message: Option<String>,
    },
    /// Something is printed.
    Output {
        id: Uuid,
        event: OutputWord,
        stream: StreamName,
        /// The text, or the bytes in base 64.
        data: String,
        encoding: Option<Base64>,
    },
}

#[derive(JsonSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutputWord {
    Output,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct RunFrame {
    /// The script's name.
    #[schemars(extend("not" = { "enum": ["+cmd", "&cmd"] }))]
    name: String,
    /// The run, made by the asker.
    id: Uuid,
    /// What the script gets, byte for byte as the caller wrote it; absent is null.
    params: Option<Value>,
    /// The caller's id, for the script's environment only.
    caller: Option<Value>,
    /// After how many milliseconds the script is stopped.
    timeout: Option<u64>,
    /// What becomes of its output.
    output: Option<OutputMode>,
    /// Whether EVENT is wanted.
    events: Option<bool>,
    /// How many bytes of output may be sent to begin with.
    credit: Option<u64>,
    /// Whether it is kept on disk.
    queue: Option<bool>,
    /// Which attempt it is, from 1; only with queue.
    attempt: Option<u32>,
    /// How much of its output the asker has.
    have: Option<Have>,
    /// For a server: who else is to run it.
    hop: Option<Hop>,
    /// Of which trace it is (W3C Trace Context), for the script's environment.
    #[schemars(regex(pattern = TRACEPARENT))]
    traceparent: Option<String>,
    /// What it is called elsewhere, likewise.
    #[schemars(length(min = 1, max = MARK_BYTES))]
    request_id: Option<String>,
    /// What has happened that it is for, likewise.
    #[schemars(length(min = 1, max = MARK_BYTES))]
    event: Option<String>,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct StatusData {
    #[schemars(schema_with = "status")]
    status: (),
    /// What it was asked under: of a run its id.
    id: Value,
    /// Of a queued run: which attempt it is about.
    attempt: Option<u32>,
    /// Of a queued run: that this attempt was never claimed and never will be.
    refused: Option<bool>,
    #[serde(flatten)]
    rest: Report,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct EventData {
    id: Uuid,
    event: Step,
}

#[derive(JsonSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    /// The doer has it.
    Delivered,
    /// Its script has been started.
    Started,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct OutputData {
    id: Uuid,
    stream: StreamName,
    /// Where in the stream it begins, in bytes.
    offset: u64,
    /// The text, or the bytes in base 64.
    data: String,
    encoding: Option<Base64>,
    /// Bytes right before it that are lost.
    gap: Option<u64>,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct DrainData {
    /// Whether the daemon restarts: it will be back in a moment.
    #[serde(default)]
    restart: bool,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct CreditData {
    id: Uuid,
    bytes: u64,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct CancelData {
    id: Uuid,
    /// Only of a queued run.
    attempt: Option<u32>,
}

#[derive(JsonSchema, Deserialize)]
#[expect(dead_code, reason = "it is there to be described")]
struct AckData {
    id: Uuid,
    attempt: u32,
}

#[derive(JsonSchema, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Base64 {
    Base64,
}

/// The id of a run.
#[derive(Deserialize)]
struct Uuid;

impl JsonSchema for Uuid {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Uuid".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "the id of a run: a UUID",
            "type": "string",
            "pattern": format!("^[A-Za-z0-9-]{{1,{ID_BYTES}}}$")
        })
    }
}

/// A duration as people write it. For schemars' `schema_with`.
#[must_use]
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    Schema::try_from(time::schema()).unwrap_or_default()
}

fn status(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "0 to 255: the script's own; -1 to -5: see docs/protocol.md; null: a seed peer's script was killed",
        "oneOf": [{ "type": "integer", "minimum": -5, "maximum": 255 }, { "const": null }]
    })
}

fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(root) = schema.as_object_mut() {
        root.remove("$schema");
        root.remove("title");
    }
    without_null(&mut schema);
    schema
}

/// An optional key is absent, never null.
fn without_null(schema: &mut Value) {
    let null = json!({ "type": "null" });
    match schema {
        Value::Object(members) => {
            if members.get("default") == Some(&Value::Null) {
                members.remove("default");
            }
            if let Some(Value::Array(types)) = members.get_mut("type") {
                types.retain(|word| word != "null");
                if let [one] = &types[..] {
                    let one = one.clone();
                    members.insert("type".into(), one);
                }
            }
            if let Some(Value::Array(any)) = members.get_mut("anyOf")
                && any.contains(&null)
            {
                any.retain(|one| *one != null);
                if let [Value::Object(one)] = &any[..] {
                    let one = one.clone();
                    members.remove("anyOf");
                    for (key, value) in one {
                        members.entry(key).or_insert(value);
                    }
                }
            }
            members.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// A whole document.
fn document(title: &str, schema: Value) -> Value {
    let mut members = Map::new();
    members.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    members.insert("title".into(), title.into());
    if let Value::Object(rest) = schema {
        members.extend(rest);
    }
    Value::Object(members)
}

/// The schema of whatever is of this type, as a document of its own.
#[must_use]
pub fn of<T: JsonSchema>(title: &str) -> Value {
    document(title, schema::<T>())
}

/// A command that only daemons say.
fn daemons<D: JsonSchema>(code: &str, title: &str) -> Value {
    daemons_said(code, &schema::<D>(), title)
}

/// The same, where the data is this.
fn daemons_said(code: &str, data: &Value, title: &str) -> Value {
    let params = said(code, data, true);
    document(
        title,
        json!({
            "type": "object", "properties": { "name": { "const": "&cmd" }, "params": params }, "required": ["name", "params"]
        }),
    )
}

/// A command with an id.
fn named_command(code: &str, data: &Value, title: &str) -> Value {
    let properties = json!({ "name": { "const": "&cmd" }, "id": true, "params": said(code, data, false) });
    document(title, json!({ "type": "object", "properties": properties, "required": ["name", "id", "params"] }))
}

fn said(code: &str, data: &Value, needs_data: bool) -> Value {
    let required: &[&str] = if needs_data { &["code", "data"] } else { &["code"] };
    json!({ "type": "object", "properties": { "code": { "const": code }, "data": data }, "required": required })
}

/// A command of a local process.
fn command() -> Value {
    let nullable = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let which = json!({
        "anyOf": [
            schema::<Uuid>(),
            {
                "type": "object",
                "properties": {
                    "run": schema::<Uuid>(),
                    "id": { "description": "what its caller gave" },
                },
                "oneOf": [{ "required": ["run"] }, { "required": ["id"] }],
                "additionalProperties": false,
            }
        ]
    });
    let output = json!({
        "type": "object",
        "properties": {
            "run": schema::<Uuid>(),
            "id": { "description": "what its caller gave" },
            "output": { "enum": ["stdout", "stderr", "both"] },
            "offset": { "description": "from this byte", "type": "integer", "minimum": 0 },
            "limit": { "description": "bytes at most", "type": "integer", "minimum": 0 },
            "follow": { "description": "whether to go on to the final line", "type": "boolean" },
        },
        "required": ["output"],
        "oneOf": [{ "required": ["run"] }, { "required": ["id"] }],
        "additionalProperties": false,
    });
    let pause = json!({
        "description": "milliseconds", "type": "integer", "minimum": 0,
        "maximum": u64::try_from(LONGEST_PAUSE.as_millis()).unwrap_or(u64::MAX)
    });
    let keys = json!({
        "type": "object", "properties": { "do": schema::<KeysTask>() }, "required": ["do"], "additionalProperties": false,
    });
    let any = || Value::Bool(true);
    let commands = [
        said("PAUSE", &pause, true),
        said("STATUS", &json!({ "type": "object" }), true),
        said("PEERS", &any(), false),
        said("PING", &nullable(schema::<Target>()), false),
        said("RUNS", &nullable(schema::<RunsQuery>()), false),
        said("RUN", &json!({ "anyOf": [which, output] }), true),
        said("CANCEL", &which, true),
        said("SCRIPTS", &any(), false),
        said("STATS", &any(), false),
        said("SUBSCRIBE", &nullable(schema::<Vec<Topic>>()), false),
        said("RELOAD", &any(), false),
        said("RESTART", &any(), false),
        said("INVITE", &schema::<Invite>(), true),
        said("REVOKE", &schema::<Revoke>(), true),
        said("ROTATE", &schema::<Rotate>(), true),
        said("KEYS", &keys, true),
        said("CALLERS", &schema::<CallersTask>(), true),
        said("EXPLAIN", &schema::<ExplainQuery>(), true),
        said("LOG", &nullable(schema::<LogChange>()), false),
        said("METRICS", &any(), false),
        said("SERVE", &schema::<Serve>(), true),
    ];
    document(
        "a command of a local process; code may be in any letter case",
        json!({
            "type": "object",
            "properties": { "name": { "enum": ["+cmd", "&cmd"] }, "id": true, "params": { "oneOf": commands } },
            "required": ["name", "params"],
            "additionalProperties": false,
        }),
    )
}

/// A command on a link that a local process may give as well.
fn frame_command() -> Value {
    let codes = json!({ "enum": ["PAUSE", "STATUS", "PING", "PEERS"] });
    let params = json!({ "type": "object", "properties": { "code": codes, "data": true }, "required": ["code"] });
    let local = json!({ "description": "a local process said it: it is no word of its daemon", "type": "boolean" });
    let properties = json!({ "name": { "const": "&cmd" }, "id": true, "params": params, "local": local });
    document(
        "a command for the other daemon that a local process may give as well",
        json!({ "type": "object", "properties": properties, "required": ["name", "params"] }),
    )
}
