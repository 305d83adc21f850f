//! Watches one queued run for whoever asked: its steps, its output as the spool keeps it, its report. It is the same for whoever
//! asked first, asked again, or came later to look; however slow they are, the run does not notice.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep;
use ws_daemon_protocol::command::{OutputQuery, StreamName};
use ws_daemon_protocol::event::{Chunk, Event};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::ends::Heir;
use super::ledger::Live;
use super::{Origin, Said};
use crate::exec::text_of;
use crate::link::Backoff;
use crate::spool::{RunRecord, Spool, number};

/// What is read from the spool at once, in bytes.
const PART_BYTES: usize = 64 << 10;

/// The waits before a spool that cannot be read is asked again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A run to be watched.
pub struct Follow {
    run: RunId,
    spool: Option<Spool>,
    source: Source,
}

enum Source {
    Live(Arc<Live>),
    Over(Box<Report>),
    /// The daemon stops, and what is not over stays on disk.
    Stays,
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
        Self::of(origin, live.run.clone(), Source::Live(Arc::clone(live)))
    }

    /// A run that the spool knows. Since it was read there it may have ended; or whoever put it there has not had a turn yet to
    /// enter it among the live ones.
    pub async fn known(origin: &Origin, record: RunRecord) -> Self {
        let run = record.run.clone();
        if let Some(report) = report_of(&record) {
            return Self::over(origin, run, report);
        }
        let expected = match origin.ledger().live_or_expected(&run) {
            Ok(live) => return Self::live(origin, &live),
            Err(expected) => expected,
        };
        let Some(spool) = origin.spool().cloned() else { return Self::lost(origin, run) };
        let (mut damaged, stopping) = (spool.damaged(), origin.stop().close_links.clone());
        tokio::select! {
            live = expected.entered() => Self::live(origin, &live),
            // That it is over is on disk before it is no longer live.
            report = ended(spool, run.clone()) => match report {
                Some(report) => Self::over(origin, run, report),
                None => Self::lost(origin, run),
            },
            _ = damaged.changed() => Self::lost(origin, run),
            () = stopping.cancelled() => Self::of(origin, run, Source::Stays),
        }
    }

    /// A run that nothing here knows of any more.
    pub fn lost(origin: &Origin, run: RunId) -> Self {
        let why = "the spool that held it is lost; it may have run";
        Self::over(origin, run, Outcome::failed(ErrorCode::Interrupted, why).into())
    }

    fn over(origin: &Origin, run: RunId, mut report: Report) -> Self {
        report.more_mut().run = Some(run.clone());
        Self::of(origin, run, Source::Over(Box::new(report)))
    }

    fn of(origin: &Origin, run: RunId, source: Source) -> Self {
        Self { run, spool: origin.spool().cloned(), source }
    }

    /// Which run it is.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// Has nothing told but its end.
    pub fn leave_to(self, heir: Heir) {
        match self.source {
            Source::Live(live) => live.leave_to(heir),
            Source::Over(report) => heir.tell(Arc::new(*report)),
            Source::Stays => {}
        }
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
            Source::Stays => return None,
        };
        let mut progress = live.watch();
        let (mut delivered, mut started) = (false, false);
        loop {
            let now = progress.look();
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
            progress.step().await;
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

fn report_of(record: &RunRecord) -> Option<Report> {
    Report::parse(record.report.as_deref()?).ok()
}

/// How a run ended, once the spool can be read; nothing if it knows no such run. Of one that is not over this never ends.
async fn ended(spool: Spool, run: RunId) -> Option<Report> {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    loop {
        match spool.run_record(run.clone()).await {
            Ok(record) => match report_of(&record?) {
                Some(report) => return Some(report),
                None => std::future::pending().await,
            },
            Err(_) => sleep(backoff.next(fastrand::f64())).await,
        }
    }
}
