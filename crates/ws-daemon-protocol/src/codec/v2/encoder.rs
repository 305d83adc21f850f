//! Frames of a version 2 link as they go out. It never reads one.

use serde::Serialize;

use super::{COMMAND_HEAD, Hello, Order, PING_TAIL, Progress, Roots, STATUS_HEAD, Verdict};
use crate::event::Chunk;
use crate::id::{CallerId, RunId};
use crate::message::Params;
use crate::options::OutputMode;
use crate::outcome::{Report, write_number, write_text};

/// The frame that asks for a run.
#[must_use]
pub fn run(name: &str, run: &RunId, params: &Params, order: &Order) -> String {
    let params = params.as_written();
    let mut frame = String::with_capacity(name.len() + params.len() + 160);
    frame.push_str("{\"name\":");
    write_text(&mut frame, name);
    frame.push_str(",\"id\":\"");
    frame.push_str(run.as_str());
    frame.push_str("\",\"params\":");
    frame.push_str(params);
    if let Some(caller) = &order.caller {
        frame.push_str(",\"caller\":");
        frame.push_str(caller.as_json());
    }
    if let Some(timeout) = order.timeout_ms {
        frame.push_str(&format!(",\"timeout\":{timeout}"));
    }
    if order.output != OutputMode::None {
        frame.push_str(&format!(",\"output\":{}", json(&order.output)));
    }
    if order.events {
        frame.push_str(",\"events\":true");
    }
    if order.credit > 0 {
        frame.push_str(&format!(",\"credit\":{}", order.credit));
    }
    if order.queue {
        frame.push_str(&format!(",\"queue\":true,\"attempt\":{}", order.attempt));
    }
    if let Some(have) = &order.have {
        frame.push_str(&format!(",\"have\":{}", json(have)));
    }
    if let Some(hop) = &order.hop {
        frame.push_str(&format!(",\"hop\":{}", json(hop)));
    }
    if let Some(trace) = &order.trace {
        trace.write(&mut frame);
    }
    frame.push('}');
    frame
}

/// The frame that passes on a command of a local process, its params as they were written.
#[must_use]
pub fn local_command(id: Option<&RunId>, params: &Params) -> String {
    let params = params.as_written();
    match id {
        Some(id) => format!("{{\"name\":\"&cmd\",\"id\":\"{id}\",\"params\":{params},\"local\":true}}"),
        None => format!("{{\"name\":\"&cmd\",\"params\":{params},\"local\":true}}"),
    }
}

/// The frame that says who this daemon is.
#[must_use]
pub fn hello(hello: &Hello) -> String {
    daemon_command("HELLO", &json(hello))
}

/// The frame that brings an outcome home, under the id that it was asked with.
#[must_use]
pub fn status(id: &CallerId, verdict: Verdict, report: &Report) -> String {
    let mut frame = String::with_capacity(STATUS_HEAD.len() + id.as_json().len() + 64);
    frame.push_str(STATUS_HEAD);
    report.write(&mut frame, Some(id));
    if verdict != Verdict::default() {
        frame.pop();
        if let Some(attempt) = verdict.attempt {
            frame.push_str(",\"attempt\":");
            write_number(&mut frame, attempt);
        }
        if verdict.refused {
            frame.push_str(",\"refused\":true");
        }
        frame.push('}');
    }
    frame.push_str("}}");
    frame
}

/// The frame that says how far a run has come.
#[must_use]
pub fn event(run: &RunId, progress: Progress) -> String {
    let event = match progress {
        Progress::Delivered => "delivered",
        Progress::Started => "started",
    };
    daemon_command("EVENT", &format!("{{\"id\":\"{run}\",\"event\":\"{event}\"}}"))
}

/// The frame that brings output.
#[must_use]
pub fn output(frame: &Chunk) -> String {
    let Chunk { run, stream, offset, data, is_base64, gap } = frame;
    let encoding = if *is_base64 { ",\"encoding\":\"base64\"" } else { "" };
    let gap = if *gap > 0 { format!(",\"gap\":{gap}") } else { String::new() };
    let (stream, data) = (stream.word(), json(data));
    daemon_command(
        "OUTPUT",
        &format!("{{\"id\":\"{run}\",\"stream\":\"{stream}\",\"offset\":{offset},\"data\":{data}{encoding}{gap}}}"),
    )
}

/// The frame that allows so many more bytes of output.
#[must_use]
pub fn credit(run: &RunId, bytes: u64) -> String {
    daemon_command("CREDIT", &format!("{{\"id\":\"{run}\",\"bytes\":{bytes}}}"))
}

/// The frame that stops a run, or one attempt of it.
#[must_use]
pub fn cancel(run: &RunId, attempt: Option<u32>) -> String {
    let attempt = attempt.map_or(String::new(), |attempt| format!(",\"attempt\":{attempt}"));
    daemon_command("CANCEL", &format!("{{\"id\":\"{run}\"{attempt}}}"))
}

/// The frame that lets the doer forget an outcome.
#[must_use]
pub fn ack(run: &RunId, attempt: u32) -> String {
    daemon_command("ACK", &format!("{{\"id\":\"{run}\",\"attempt\":{attempt}}}"))
}

/// The frame that asks for no more new work; of a daemon that `restarts`, only until it is back.
#[must_use]
pub fn drain(restarts: bool) -> String {
    daemon_command("DRAIN", if restarts { "{\"restart\":true}" } else { "null" })
}

/// The frame that says something of a server's roots.
#[must_use]
pub fn roots(roots: &Roots) -> String {
    daemon_command("ROOTS", &json(roots))
}

/// The frame that asks whether the daemon at the other end lives.
#[must_use]
pub fn ping(id: &impl std::fmt::Display) -> String {
    let mut frame = String::with_capacity(96);
    frame.push_str(COMMAND_HEAD);
    frame.push('"');
    write_number(&mut frame, id);
    frame.push('"');
    frame.push_str(PING_TAIL);
    frame
}

/// The question who else there is, that a run could be passed on to; `id` is one that the asker made.
#[must_use]
pub fn peers(id: &RunId) -> String {
    format!("{{\"name\":\"&cmd\",\"id\":\"{id}\",\"params\":{{\"code\":\"PEERS\"}}}}")
}

pub(super) fn daemon_command(code: &str, data: &str) -> String {
    let mut frame = String::with_capacity(code.len() + data.len() + 48);
    for part in ["{\"name\":\"&cmd\",\"params\":{\"code\":\"", code, "\",\"data\":", data, "}}"] {
        frame.push_str(part);
    }
    frame
}

/// What is written here has no keys that are not text and no numbers that are none: it cannot fail.
fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
