//! How what a script printed goes home: as its asker gives credit, in frames small enough that nobody waits behind them. It never
//! holds up the script.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use ws_daemon_protocol::codec::v2::{Have, OUTPUT_COST_BYTES};
use ws_daemon_protocol::command::StreamName;
use ws_daemon_protocol::event::Chunk;
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::more::More;

pub use super::doing::Credit;
use crate::exec::{self, Captured, ChunkData, StreamBuffer, text_of};
use crate::link::{Link, Replier};
use crate::spool::{Spool, number};

/// The longest piece of output in one frame, in bytes of output.
const FRAME_BYTES: u64 = 32 << 10;

/// Output is sent when at least so much credit is there: a character and its frame.
const LEAST_BYTES: u64 = OUTPUT_COST_BYTES;

/// Tells what a direct run prints until all is told, or the link is gone, or there was no credit for so long.
pub async fn tell_live(home: &Replier, credit: &Credit, buffer: &StreamBuffer, patience: Duration) {
    let Some(run) = home.run() else { return };
    // Credit is waited for only where there is something to tell: an outcome behind nothing needs none.
    while buffer.has_more().await {
        let Ok(Some(room)) = timeout(patience, credit.wait(LEAST_BYTES)).await else { return };
        home.link().output_room().await;
        // In base 64 it is a third longer.
        let Some(chunk) = buffer.next(bytes_for(room)).await else { return };
        let exec::Chunk { stream, offset, gap, data } = chunk;
        let (data, is_base64) = match data {
            ChunkData::Text(text) => (text, false),
            ChunkData::Base64(text) => (text, true),
        };
        let chunk = Chunk { run: run.clone(), stream, offset, data, is_base64, gap };
        credit.spend(chunk.cost());
        home.output(&chunk);
    }
}

/// Tells what the spool has of a run's output from where its asker has it, as long as there is more. `at` moves on; `the_end`
/// when nothing more will be kept.
pub async fn tell_kept(link: &Link, spool: &Spool, run: &RunId, credit: &Credit, at: &mut Have, the_end: bool) {
    for stream in [StreamName::Stdout, StreamName::Stderr] {
        let at = match stream {
            StreamName::Stdout => &mut at.stdout,
            StreamName::Stderr => &mut at.stderr,
        };
        loop {
            let part = spool.read_output(run.clone(), number(stream), *at, bytes_for(u64::MAX)).await;
            let Some(mut part) = part.ok().filter(|part| !part.bytes.is_empty()) else { break };
            // Waited for only where there is something to tell: an outcome behind nothing needs none.
            let Some(room) = credit.wait(LEAST_BYTES).await else { return };
            link.output_room().await;
            part.bytes.truncate(bytes_for(room));
            let more_behind = part.offset + (part.bytes.len() as u64) < part.end;
            let (data, is_base64, taken) = text_of(&part.bytes, the_end && !more_behind);
            if taken == 0 {
                break;
            }
            let gap = part.offset.saturating_sub(*at);
            let chunk = Chunk { run: run.clone(), stream, offset: part.offset, data, is_base64, gap };
            *at = part.offset + taken as u64;
            credit.spend(chunk.cost());
            link.send_output(&chunk);
        }
    }
}

/// Keeps what a queued run prints, until its streams are at their end. `kept` is called when there is more.
pub async fn keep(buffer: &StreamBuffer, spool: &Spool, run: &RunId, mut kept: impl FnMut()) {
    while let Some(exec::Chunk { stream, offset, data, .. }) = buffer.next(64 << 10).await {
        let bytes = match data {
            ChunkData::Text(text) => text.into_bytes(),
            ChunkData::Base64(text) => BASE64_STANDARD.decode(text).unwrap_or_default(),
        };
        // What the disk does not take is a gap, which whoever reads sees by the offsets.
        if spool.keep_output(run.clone(), number(stream), offset, bytes).await.is_ok() {
            kept();
        }
    }
}

/// How many bytes of output are asked for when so much credit is there: in base 64 they are a third longer.
fn bytes_for(credit: u64) -> usize {
    usize::try_from((credit / 4 * 3).min(FRAME_BYTES)).unwrap_or(usize::MAX)
}

/// What was kept of a run's output, as a final line has it.
pub fn more(captured: &Captured) -> More {
    let (mut encoding, mut cut) = (Map::new(), Map::new());
    let streams = [("stdout", captured.stdout.as_ref()), ("stderr", Some(&captured.stderr))];
    for (name, text) in streams.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        if text.base64 {
            encoding.insert(name.into(), "base64".into());
        }
        if let Some(missing) = &text.cut {
            cut.insert(name.into(), missing_at(missing.at, missing.bytes));
        }
    }
    More {
        result: captured.result.as_ref().map(|result| result.get().into()),
        stdout: captured.stdout.as_ref().map(|text| text.data.as_str().into()),
        stderr: Some(captured.stderr.data.as_str().into()),
        encoding: object(encoding),
        cut: object(cut),
        ..More::default()
    }
}

/// What of a stream's output its reader was not told, as a final line has it; nothing if that is nothing.
pub fn cut_of(buffer: &StreamBuffer) -> Option<Box<str>> {
    missing(buffer.untold())
}

/// What of it was not kept either, since its script's contract lets no more be.
pub fn cut_by_contract(buffer: &StreamBuffer) -> Option<Box<str>> {
    missing(buffer.passed_over())
}

fn missing(pieces: Vec<(StreamName, u64, u64)>) -> Option<Box<str>> {
    object(pieces.into_iter().map(|(stream, at, bytes)| (stream.word().into(), missing_at(at, bytes))).collect())
}

fn missing_at(at: u64, bytes: u64) -> Value {
    json!({ "at": at, "bytes": bytes })
}

fn object(map: Map<String, Value>) -> Option<Box<str>> {
    (!map.is_empty()).then(|| Value::Object(map).to_string().into())
}
