//! Watches one queued run for whoever asked: its steps, its output as the spool keeps it, its report. It is the same for whoever
//! asked first, asked again, or came later to look; however slow they are, the run does not notice.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;
use ws_daemon_protocol::command::{OutputQuery, StreamName, Which};
use ws_daemon_protocol::event::{Chunk, Event};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::{Outcome, Report};

use super::ledger::Live;
use super::{Origin, Said};
use crate::exec::text_of;
use crate::spool::{RunRecord, Spool, number};

/// What is read from the spool at once, in bytes.
const PART_BYTES: usize = 64 << 10;

/// A run to be watched.
pub struct Follow {
    run: RunId,
    spool: Option<Spool>,
    source: Source,
}

enum Source {
    Live(Arc<Live>),
    Over(Box<Report>),
    /// It is on disk and not live, which is so for a moment only.
    Unknown,
}

/// Where a reader of output is.
#[derive(Debug, Clone, Copy)]
struct Reader {
    stream: StreamName,
    at: u64,
    /// Where to end.
    until: u64,
}

impl Follow {
    /// A run that lives.
    pub fn live(origin: &Origin, live: &Arc<Live>) -> Self {
        Self { run: live.run.clone(), spool: origin.spool().cloned(), source: Source::Live(Arc::clone(live)) }
    }

    /// A run that the spool knows.
    pub fn known(origin: &Origin, record: &RunRecord) -> Self {
        let live = origin.ledger().live(&Which::Run(record.run.clone()));
        let report = record.report.as_deref().and_then(|report| Report::parse(report).ok());
        let source = match (live, report) {
            (_, Some(report)) => Source::Over(Box::new(report)),
            (Some(live), None) => Source::Live(live),
            (None, None) => Source::Unknown,
        };
        Self { run: record.run.clone(), spool: origin.spool().cloned(), source }
    }

    /// Which run it is.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// Tells the steps and the output that are wanted; ends with the report.
    pub async fn follow(self, say: mpsc::Sender<Said>, events: bool, streams: bool) -> Option<Report> {
        let whole = |stream| Reader { stream, at: 0, until: u64::MAX };
        let mut readers = if streams { vec![whole(StreamName::Stdout), whole(StreamName::Stderr)] } else { Vec::new() };
        self.tell(&say, events, &mut readers, true).await
    }

    /// Tells the output that is asked for; ends with the report, or, if the run goes on and is not to be followed, with how far it
    /// is.
    pub async fn output(self, say: mpsc::Sender<Said>, query: OutputQuery) -> Option<Report> {
        let until = query.limit.map_or(u64::MAX, |limit| query.offset.saturating_add(limit as u64));
        let streams = query.stream.map_or_else(|| vec![StreamName::Stdout, StreamName::Stderr], |stream| vec![stream]);
        let mut readers: Vec<_> = streams.into_iter().map(|stream| Reader { stream, at: query.offset, until }).collect();
        self.tell(&say, false, &mut readers, query.follow).await
    }

    async fn tell(self, say: &mpsc::Sender<Said>, events: bool, readers: &mut [Reader], to_the_end: bool) -> Option<Report> {
        let live = match &self.source {
            Source::Live(live) => live,
            Source::Over(report) => {
                self.read_on(say, readers, true).await;
                return Some((**report).clone());
            }
            Source::Unknown => return None,
        };
        let mut progress = live.progress.subscribe();
        let (mut delivered, mut started) = (false, false);
        loop {
            let now = progress.borrow_and_update().clone();
            if let Some(peer) = now.peer.filter(|_| events) {
                let (run, to) = (|| self.run.clone(), || Arc::clone(&peer));
                if now.delivered && !std::mem::replace(&mut delivered, true) {
                    drop(say.send(Said::Event(Event::Delivered { run: run(), peer: to() })).await);
                }
                if now.started && !std::mem::replace(&mut started, true) {
                    drop(say.send(Said::Event(Event::Started { run: run(), peer: to() })).await);
                }
            }
            let over = now.report.is_some() || !to_the_end;
            self.read_on(say, readers, over).await;
            if over {
                return Some(now.report.map_or_else(|| self.so_far(live), |report| (*report).clone()));
            }
            progress.changed().await.ok()?;
        }
    }

    /// Says to whoever wanted only what there is that this was all, and that the run goes on.
    fn so_far(&self, live: &Live) -> Report {
        let mut report = Report::from(Outcome::Exited(0));
        report.more_mut().run = Some(self.run.clone());
        report.more_mut().result = Some(json!({ "state": live.state() }).to_string().into());
        report
    }

    /// Tells what has been kept since. A character whose end is yet to come waits for it, unless this is `the_end`.
    async fn read_on(&self, say: &mpsc::Sender<Said>, readers: &mut [Reader], the_end: bool) {
        let Some(spool) = &self.spool else { return };
        for reader in readers {
            while reader.at < reader.until {
                let max = usize::try_from(reader.until - reader.at).map_or(PART_BYTES, |left| left.min(PART_BYTES));
                let part = spool.read_output(self.run.clone(), number(reader.stream), reader.at, max).await;
                let Some(part) = part.ok().filter(|part| !part.bytes.is_empty()) else { break };
                let more_behind = part.offset + (part.bytes.len() as u64) < part.end;
                let (data, is_base64, taken) = text_of(&part.bytes, the_end && !more_behind);
                if taken == 0 {
                    break;
                }
                let gap = part.offset.saturating_sub(reader.at);
                let chunk = Chunk { run: self.run.clone(), stream: reader.stream, offset: part.offset, data, is_base64, gap };
                if say.send(Said::Event(Event::Output(chunk))).await.is_err() {
                    return;
                }
                reader.at = part.offset + taken as u64;
            }
        }
    }
}
