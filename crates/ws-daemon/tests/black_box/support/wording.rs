//! The texts of the conversation, as tests say them and expect them. It never sends anything.

use serde_json::{Value, json};

/// A script that exits with the number in `{"exit":N}`.
pub const EXIT: &str = "#!/bin/sh\nn=${1##*[: ]}\nexit \"${n%\\}}\"\n";

/// A request for the script `exit`; `id` is JSON.
pub fn exit(id: &str, status: usize) -> String {
    format!(r#"{{"name":"exit","id":{id},"params":{{"exit":{status}}}}}"#)
}

/// The line, or the data of a frame, that brings a script's own status home; `id` is JSON.
pub fn exited(id: &str, status: usize) -> String {
    format!(r#"{{"status":{status},"id":{id}}}"#)
}

/// The frame by which a peer says `data` as a status, and the message by which a local process has it said.
pub fn status_there(data: &str) -> String {
    format!(r#"{{"name":"&cmd","params":{{"code":"STATUS","data":{data}}}}}"#)
}

/// The frame by which a daemon says `data` under a code that only daemons use.
pub fn daemons_say(code: &str, data: &Value) -> String {
    format!(r#"{{"name":"&cmd","params":{{"code":"{code}","data":{data}}}}}"#)
}

/// Asserts that `line` tells a failure under `id` (absent: under none) with nothing beside it, and returns its message.
#[track_caller]
pub fn assert_failed(line: &str, status: i64, error: &str, id: Option<Value>) -> String {
    let mut said: Value = serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
    let message = said.as_object_mut().and_then(|said| said.remove("message"));
    let mut wanted = json!({ "status": status, "error": error });
    if let Some(id) = id {
        wanted["id"] = id;
    }
    assert_eq!(said, wanted, "{line}");
    match message {
        Some(Value::String(message)) if !message.is_empty() => message,
        other => panic!("a failure has a message, this has {other:?}: {line}"),
    }
}
