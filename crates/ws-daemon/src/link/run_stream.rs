//! What becomes known of one run while it lasts, on its way from the link to whoever asked: its delivery, its start, its output
//! within the credit that was given for it, its end. Only runs of which more is wanted than the outcome have one. It never waits
//! for whoever asked: a peer that sends more than its credit loses it, and the gap is marked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use ws_daemon_protocol::codec::v2::{self, Progress, Verdict};
use ws_daemon_protocol::command::StreamName;
use ws_daemon_protocol::event::Chunk;
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::Report;

use super::mux::Mux;

/// The credit that a run begins with, in bytes of output; what a peer sends beyond its credit is dropped and marked as a gap.
pub const STREAM_CREDIT_BYTES: u64 = 256 << 10;

/// One thing that became known of a run.
#[derive(Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// The doer has it.
    Delivered,
    /// Its script has been started.
    Started,
    /// Its script printed something.
    Output(Chunk),
    /// It has ended, which is the last event.
    Report(Report, Verdict),
    /// Its link was lost, which is the last event here: `left` says whether the peer may have it.
    Lost {
        /// Whether it may have left.
        left: bool,
    },
}

/// The end of a run's stream that its link holds. Dropped before the run has ended, it says that the run is lost.
#[derive(Debug)]
pub struct RunSink(Arc<Shared>);

/// The end of a run's stream that whoever asked holds. Dropped, nobody waits for the run any more.
#[derive(Debug)]
pub struct RunStream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<RunEvent>,
    /// Bytes of output that may still come.
    credit: u64,
    /// Bytes that came without credit since the last chunk, for each stream.
    lost: [u64; 2],
    delivered: bool,
    started: bool,
    left: bool,
    /// The last event is in the queue, or was.
    ended: bool,
    /// Nobody listens any more.
    closed: bool,
    /// Where credit is sent.
    way: Option<(Weak<Mux>, RunId)>,
}

/// Both ends of a stream whose output may begin with `credit` bytes.
#[must_use]
pub fn run_stream(credit: u64) -> (RunSink, RunStream) {
    let state = State { credit, ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), ready: Notify::new() });
    (RunSink(Arc::clone(&shared)), RunStream(shared))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the queue whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunSink {
    /// Whether nobody listens any more.
    pub fn is_closed(&self) -> bool {
        self.0.state().closed
    }

    /// From here on, credit goes out through `mux`.
    pub(super) fn attach(&self, mux: Weak<Mux>, run: RunId) {
        self.0.state().way = Some((mux, run));
    }

    /// The request is about to leave.
    pub(super) fn leave(&self) {
        self.0.state().left = true;
    }

    /// The run has come so far; said again, it is passed over.
    pub(super) fn progress(&self, progress: Progress) {
        let mut state = self.0.state();
        let (seen, event) = match progress {
            Progress::Delivered => (&mut state.delivered, RunEvent::Delivered),
            Progress::Started => (&mut state.started, RunEvent::Started),
        };
        if !std::mem::replace(seen, true) {
            state.events.push_back(event);
            drop(state);
            self.0.ready.notify_one();
        }
    }

    /// Takes output as far as there is credit; what is beyond it is lost, and the next chunk says so.
    pub(super) fn output(&self, mut frame: Chunk) {
        let mut state = self.0.state();
        let stream = match frame.stream {
            StreamName::Stdout => 0,
            StreamName::Stderr => 1,
        };
        let Some(credit) = state.credit.checked_sub(frame.cost()) else {
            state.lost[stream] = state.lost[stream].saturating_add(frame.gap).saturating_add(frame.bytes());
            return;
        };
        state.credit = credit;
        frame.gap = frame.gap.saturating_add(std::mem::take(&mut state.lost[stream]));
        state.events.push_back(RunEvent::Output(frame));
        drop(state);
        self.0.ready.notify_one();
    }

    /// The run has ended.
    ///
    /// # Errors
    /// The report, if nobody listens any more.
    pub fn settle(self, report: Report, verdict: Verdict) -> Result<(), Report> {
        let mut state = self.0.state();
        state.ended = true;
        if state.closed {
            return Err(report);
        }
        state.events.push_back(RunEvent::Report(report, verdict));
        Ok(())
        // The last event wakes by the drop of this end.
    }
}

impl Drop for RunSink {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if !state.ended {
            state.ended = true;
            let left = state.left;
            state.events.push_back(RunEvent::Lost { left });
        }
        drop(state);
        self.0.ready.notify_one();
    }
}

impl RunStream {
    /// The next event, waited for. Behind the last one there is none, ever. Cancel safe.
    pub async fn next(&mut self) -> RunEvent {
        loop {
            if let Some(event) = self.0.state().events.pop_front() {
                return event;
            }
            self.0.ready.notified().await;
        }
    }

    /// Lets the peer send so many more bytes of output.
    pub fn credit(&self, bytes: u64) {
        let mut state = self.0.state();
        state.credit = state.credit.saturating_add(bytes);
        let way = state.way.clone();
        drop(state);
        if let Some((mux, run)) = way.and_then(|(mux, run)| Some((mux.upgrade()?, run))) {
            mux.say(v2::credit(&run, bytes));
        }
    }
}

impl Drop for RunStream {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.events.clear();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use ws_daemon_protocol::outcome::Outcome;

    fn chunk(offset: u64, data: &str) -> Chunk {
        let run = RunId::new("r");
        Chunk { run, stream: StreamName::Stdout, offset, data: data.into(), is_base64: false, gap: 0 }
    }

    #[tokio::test]
    async fn events_come_in_order_and_each_step_once() {
        let (sink, mut stream) = run_stream(0);
        for progress in [Progress::Delivered, Progress::Delivered, Progress::Started, Progress::Started] {
            sink.progress(progress);
        }
        let verdict = Verdict { attempt: Some(2), refused: true };
        sink.settle(Outcome::Exited(3).into(), verdict).expect("someone listens");
        assert_eq!(stream.next().await, RunEvent::Delivered);
        assert_eq!(stream.next().await, RunEvent::Started);
        assert_eq!(stream.next().await, RunEvent::Report(Outcome::Exited(3).into(), verdict));
        assert!(poll!(std::pin::pin!(stream.next())).is_pending());
    }

    #[tokio::test]
    async fn output_beyond_the_credit_is_dropped_and_the_gap_is_marked() {
        let (sink, mut stream) = run_stream(v2::OUTPUT_COST_BYTES * 2);
        sink.output(chunk(0, "a"));
        sink.output(chunk(1, &"b".repeat(65)));
        sink.output(chunk(66, "c"));
        sink.output(chunk(67, "dd"));
        stream.credit(v2::OUTPUT_COST_BYTES);
        sink.output(chunk(69, "e"));
        assert_eq!(stream.next().await, RunEvent::Output(chunk(0, "a")));
        assert_eq!(stream.next().await, RunEvent::Output(Chunk { gap: 65, ..chunk(66, "c") }));
        assert_eq!(stream.next().await, RunEvent::Output(Chunk { gap: 2, ..chunk(69, "e") }));
        drop(sink);
        assert_eq!(stream.next().await, RunEvent::Lost { left: false });
    }

    #[tokio::test]
    async fn a_dropped_sink_says_whether_it_had_left_and_a_dropped_stream_gives_the_report_back() {
        let (sink, mut stream) = run_stream(0);
        sink.leave();
        drop(sink);
        assert_eq!(stream.next().await, RunEvent::Lost { left: true });
        let (sink, stream) = run_stream(0);
        drop(stream);
        assert!(sink.is_closed());
        assert!(sink.settle(Outcome::Exited(0).into(), Verdict::default()).is_err());
    }
}
