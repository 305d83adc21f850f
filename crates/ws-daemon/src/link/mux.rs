//! What waits to leave on one link, and what waits for an answer. One table behind one lock whose sections are short and
//! synchronous; the session's task is woken to write. It never touches the socket.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use ws_daemon_protocol::codec::seed;
use ws_daemon_protocol::codec::v2::{self, Order, Progress, Verdict};
use ws_daemon_protocol::event::Chunk;
use ws_daemon_protocol::id::{CallerId, IdKey, RunId};
use ws_daemon_protocol::message::Params;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::departure::Departure;
use super::pings::{Pinging, Pings, Pong};
use super::run_stream::RunSink;

/// Requests waiting to leave, in bytes of frames; when full, whoever asks waits.
pub const ASK_QUEUE_BYTES: usize = 4 << 20;

/// Outcomes waiting to leave, in bytes of frames; they are never dropped, so a peer that does not read them is cut off.
pub const REPLY_QUEUE_BYTES: usize = 64 << 20;

/// Frames of output wait while so many bytes of outcomes and output wait to leave, so that a loud script delays nobody's outcome.
pub const OUTPUT_QUEUE_BYTES: usize = 1 << 20;

/// Requests waiting for an answer; one more, and the oldest is settled as unknown.
pub const UNANSWERED: usize = 65_536;

/// A request on its way to a link.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub body: AskBody,
    /// The caller's id, used on the wire of a seed link if it is free there.
    pub id: Option<CallerId>,
    /// The run's id, used on the wire otherwise.
    pub run: RunId,
    /// Decides whether it leaves or is withdrawn.
    pub departure: Departure,
    /// Where the outcome goes. When nobody listens there any more, the request still leaves.
    pub sink: Sink,
}

/// Where it goes what becomes of a request.
#[derive(Debug)]
pub enum Sink {
    /// The outcome alone. A lost link settles it.
    Once(oneshot::Sender<Report>),
    /// The same, on the spot.
    Direct(Direct),
    /// All that becomes known. A lost link is told as such.
    Stream(RunSink),
}

/// Who is told an outcome on the spot, perhaps under the lock of a link's tables: so they neither wait nor ask the link for anything.
pub trait Told: fmt::Debug + Send + Sync {
    /// Whether nobody listens any more.
    fn is_gone(&self) -> bool;

    /// Tells the outcome.
    ///
    /// # Errors
    /// The report, if nobody listens any more, or it was told before.
    fn tell(&self, report: Report) -> Result<(), Report>;

    /// Nobody has the request any more. If it has not been told, it never will be.
    fn forget(&self);
}

/// What is left of a request for who is told; dropped, nobody has it any more.
#[derive(Debug)]
pub struct Direct(pub Arc<dyn Told>);

impl Drop for Direct {
    fn drop(&mut self) {
        self.0.forget();
    }
}

impl Sink {
    /// Whether nobody listens any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Once(settle) => settle.is_closed(),
            Self::Direct(direct) => direct.0.is_gone(),
            Self::Stream(sink) => sink.is_closed(),
        }
    }

    /// Settles the request.
    ///
    /// # Errors
    /// The report, if nobody listens any more.
    pub fn settle(self, report: Report, verdict: Verdict) -> Result<(), Report> {
        match self {
            Self::Once(settle) => settle.send(report),
            Self::Direct(direct) => direct.0.tell(report),
            Self::Stream(sink) => sink.settle(report, verdict),
        }
    }

    /// Settles a request that got nowhere. That nobody listens any more is fine.
    pub fn fail(self, outcome: Outcome) {
        drop(self.settle(outcome.into(), Verdict::default()));
    }

    /// The link is lost; a stream says so by itself when it is dropped.
    fn lose(self, outcome: Outcome) {
        if let Self::Once(_) | Self::Direct(_) = &self {
            self.fail(outcome);
        }
    }
}

/// What is asked.
#[derive(Debug)]
pub enum AskBody {
    /// A run of this script with these params. Of the order, a seed link takes nothing along.
    Run(String, Params, Order),
    /// A command of a local process, by its params. Without an id it is settled with status 0 as soon as it has left.
    Command(Params),
    /// Who else there is, that the daemon at the other end of a version 2 link would pass a run on to.
    Peers,
}

impl Ask {
    /// What the request costs while it is kept in memory, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        const FIXED: usize = size_of::<Ask>() + 128;
        let id = self.id.as_ref().map_or(0, |id| id.as_json().len());
        FIXED
            + id
            + match &self.body {
                AskBody::Run(name, params, order) => name.len() + params.as_written().len() + order.cost_bytes(),
                AskBody::Command(params) => params.as_written().len(),
                AskBody::Peers => 0,
            }
    }
}

/// The link is closed; here is the request back.
#[derive(Debug)]
pub struct Closed(pub Box<Ask>);

/// What is spoken on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// What a seed peer understands.
    Seed,
    /// Version 2.
    Version2,
}

/// The tables of one link.
#[derive(Debug)]
pub struct Mux {
    /// The longest frame that the other side need take.
    frame_bytes: usize,
    dialect: Dialect,
    state: Mutex<State>,
    /// There is something to write, or to look at.
    wake: Notify,
    /// There is room for requests again.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    outgoing: VecDeque<Outgoing>,
    ask_bytes: usize,
    reply_bytes: usize,
    /// In the order they were asked in.
    unanswered: BTreeMap<u64, Unanswered>,
    by_id: HashMap<IdKey, u64>,
    next: u64,
    /// Made for the first PING: hardly any link is ever asked for one.
    pings: Option<Box<Pings>>,
}

#[derive(Debug)]
struct Outgoing {
    frame: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A request with an entry in the table of the unanswered.
    Ask(u64, Departure),
    /// A command that wants no answer, and where to say that it has left.
    Told(Sink),
    /// A PING, of a version 2 link.
    Ping,
    Reply,
}

#[derive(Debug)]
struct Unanswered {
    key: IdKey,
    /// Which attempt of a queued run it is: the status of another one is none of its business.
    attempt: Option<u32>,
    sink: Sink,
    left: bool,
}

impl Mux {
    /// Empty tables for a link whose frames have at most `frame_bytes`.
    pub fn new(frame_bytes: usize, dialect: Dialect) -> Self {
        Self { frame_bytes, dialect, state: Mutex::default(), wake: Notify::new(), room: Notify::new() }
    }

    /// What is spoken.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No section leaves the table half changed: what a panic elsewhere poisoned is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request; one that is too long as a frame is settled at once, since the peer would close the link for it.
    pub fn ask(self: &Arc<Self>, ask: Ask) -> Result<(), Closed> {
        let mut state = self.state();
        if state.closed {
            return Err(Closed(Box::new(ask)));
        }
        if let Sink::Stream(sink) = &ask.sink {
            sink.attach(Arc::downgrade(self), ask.run.clone());
        }
        match self.dialect {
            Dialect::Seed => state.queue_seed(ask, self.frame_bytes),
            Dialect::Version2 => state.queue_version2(ask, self.frame_bytes),
        }
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Queues a PING, which is given up at `due`.
    pub fn ping(&self, asker: Box<dyn Pinging>, due: Option<Instant>) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            return asker.hear(Pong::Lost);
        }
        let (frame, beyond) = state.pings.get_or_insert_default().ask(asker, due);
        state.ask_bytes += frame.len();
        state.outgoing.push_back(Outgoing { frame, kind: Kind::Ping });
        drop(state);
        self.wake.notify_one();
        if let Some(beyond) = beyond {
            beyond.hear(Pong::Lost);
        }
    }

    /// Gives up the PINGs that are due by now; when others are to be looked at.
    pub fn give_up(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let pings = state.pings.as_mut()?;
        let (overdue, due) = (pings.overdue(now), pings.due());
        drop(state);
        for overdue in overdue {
            overdue.hear(Pong::Overdue);
        }
        due
    }

    /// Whether a request may be queued now.
    pub fn has_room_now(&self) -> bool {
        self.state().has_room().0
    }

    /// Ends when requests may be queued, or the link is closed.
    pub async fn has_room(&self) {
        self.when(|state| state.has_room().0).await;
    }

    /// Ends when output may be queued, or the link is closed.
    pub async fn has_output_room(&self) {
        self.when(|state| state.has_room().1).await;
    }

    async fn when(&self, has_room: impl Fn(&State) -> bool) {
        loop {
            let notified = self.room.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.state();
                if state.closed || has_room(&state) {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Queues an outcome, or what else a daemon says by itself. On a closed link it is dropped: of direct runs the asker has
    /// settled all by itself, of queued ones it is said again on the next link.
    pub fn say(&self, frame: String) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.reply_bytes += frame.len();
        state.outgoing.push_back(Outgoing { frame, kind: Kind::Reply });
        drop(state);
        self.wake.notify_one();
    }

    /// Ends when something was queued since the last time.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Feeds the next frames to write, until `feed` says that there is no more room. From here on they count as having left: part of
    /// them may be on the wire at any time. Withdrawn requests are passed over.
    ///
    /// # Errors
    /// That of `feed`: nothing is fed behind it.
    pub fn feed<E>(&self, mut feed: impl FnMut(&str) -> Result<bool, E>) -> Result<(), E> {
        let mut state = self.state();
        if state.outgoing.is_empty() {
            return Ok(());
        }
        let before = state.has_room();
        let mut fed = Ok(true);
        while let Ok(true) = fed {
            let Some(frame) = state.take(self.dialect) else { break };
            fed = feed(&frame);
        }
        let now = state.has_room();
        drop(state);
        // Whoever waits has found that there was none.
        if before != now {
            self.room.notify_waiters();
        }
        fed.map(drop)
    }

    /// Whether the peer has let more outcomes pile up than are kept for it, and when PINGs are to be looked at.
    pub fn concerns(&self) -> (bool, Option<Instant>) {
        let state = self.state();
        (state.reply_bytes > REPLY_QUEUE_BYTES, state.pings.as_ref().and_then(|pings| pings.due()))
    }

    /// Settles the request that is found by this.
    ///
    /// # Errors
    /// The report, if nobody waits for it: it was never asked here, or another attempt was, or its caller is gone.
    pub fn settle(&self, key: &IdKey, verdict: Verdict, report: Report) -> Result<(), Report> {
        let mut state = self.state();
        let Some(number) = state.by_id.get(key).copied() else { return Err(report) };
        if state.unanswered.get(&number).is_none_or(|entry| entry.attempt != verdict.attempt) {
            return Err(report);
        }
        let entry = state.forget(number);
        drop(state);
        match entry {
            Some(entry) => entry.sink.settle(report, verdict),
            None => Err(report),
        }
    }

    /// The PING of this id was answered; `false` if it is no PING's, or nobody waits for it any more.
    pub fn pong(&self, id: &RunId, status: Option<i64>) -> bool {
        let asker = self.state().pings.as_mut().and_then(|pings| pings.answered(id.as_str()));
        let pong = if status == Some(0) { Pong::Answered } else { Pong::Lost };
        asker.map(|asker| asker.hear(pong)).is_some()
    }

    /// A run has come so far.
    pub fn progress(&self, run: &RunId, progress: Progress) {
        self.state().with_stream(run, |sink| sink.progress(progress));
    }

    /// A run's script has printed something. If nobody wants it, it is dropped.
    pub fn output(&self, frame: Chunk) {
        let run = frame.run.clone();
        self.state().with_stream(&run, |sink| sink.output(frame));
    }

    /// How many requests wait for an answer.
    pub fn in_flight(&self) -> usize {
        let state = self.state();
        state.unanswered.len() + state.pings.as_ref().map_or(0, |pings| pings.count())
    }

    /// Forgets the requests whose callers are gone.
    pub fn sweep(&self) {
        self.state().sweep();
    }

    /// Closes the link and settles all: what has left may have started, what has not certainly did not.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let unanswered = std::mem::take(&mut state.unanswered);
        let outgoing = std::mem::take(&mut state.outgoing);
        let pings = state.pings.take();
        state.by_id.clear();
        drop(state);
        self.room.notify_waiters();
        pings.into_iter().flat_map(|mut pings| pings.take()).for_each(|asker| asker.hear(Pong::Lost));
        for entry in unanswered.into_values() {
            let outcome = if entry.left {
                Outcome::failed(ErrorCode::Interrupted, "the link was lost while the peer had the request; it may have run")
            } else {
                link_lost()
            };
            entry.sink.lose(outcome);
        }
        for told in outgoing {
            if let Kind::Told(sink) = told.kind {
                sink.lose(link_lost());
            }
        }
    }
}

fn link_lost() -> Outcome {
    Outcome::failed(ErrorCode::LinkLost, "the link was lost before the request left; it did not run")
}

impl State {
    /// For requests, and for output.
    fn has_room(&self) -> (bool, bool) {
        (self.ask_bytes < ASK_QUEUE_BYTES, self.reply_bytes < OUTPUT_QUEUE_BYTES)
    }

    fn take(&mut self, dialect: Dialect) -> Option<String> {
        loop {
            let Outgoing { frame, kind } = self.outgoing.pop_front()?;
            match kind {
                Kind::Reply => self.reply_bytes -= frame.len(),
                Kind::Ping => self.ask_bytes -= frame.len(),
                Kind::Ask(number, departure) => {
                    self.ask_bytes -= frame.len();
                    let leaves = match dialect {
                        Dialect::Seed => departure.leave(),
                        Dialect::Version2 => departure.leave_to_version2(),
                    };
                    if !leaves {
                        self.forget(number);
                        continue;
                    }
                    if let Some(entry) = self.unanswered.get_mut(&number) {
                        entry.left = true;
                        if let Sink::Stream(sink) = &entry.sink {
                            sink.leave();
                        }
                    }
                }
                Kind::Told(sink) => {
                    self.ask_bytes -= frame.len();
                    sink.fail(Outcome::Exited(0));
                }
            }
            return Some(frame);
        }
    }

    fn forget(&mut self, number: u64) -> Option<Unanswered> {
        let entry = self.unanswered.remove(&number)?;
        self.by_id.remove(&entry.key);
        Some(entry)
    }

    /// On a seed link: the seed's three keys, under the caller's own id if it is free.
    fn queue_seed(&mut self, ask: Ask, frame_bytes: usize) {
        let Ask { body, id, run, departure, sink } = ask;
        let (frame, kind) = match (&body, id) {
            (AskBody::Command(params), None) => (seed::command(None, params), Kind::Told(sink)),
            (AskBody::Peers, _) => {
                return sink.fail(Outcome::failed(ErrorCode::Unsupported, "a seed peer answers no such question"));
            }
            (_, id) => {
                self.make_room();
                let id = id.filter(|id| self.is_free(&id.key())).unwrap_or_else(|| (&run).into());
                let frame = match &body {
                    AskBody::Run(name, params, _) => seed::run(name, &id, params),
                    AskBody::Command(params) => seed::command(Some(&id), params),
                    AskBody::Peers => String::new(),
                };
                // A seed peer names no attempt: any status of this id is the answer.
                (frame, Kind::Ask(self.register(id.key(), None, sink), departure))
            }
        };
        self.push(frame, kind, frame_bytes);
    }

    /// On a version 2 link: under the run's id; the caller's own goes along for the script.
    fn queue_version2(&mut self, ask: Ask, frame_bytes: usize) {
        let Ask { body, id, run, departure, sink } = ask;
        let (frame, attempt) = match body {
            AskBody::Command(params) if id.is_none() => {
                return self.push(v2::local_command(None, &params), Kind::Told(sink), frame_bytes);
            }
            AskBody::Run(name, params, mut order) => {
                order.caller = order.caller.or(id);
                (v2::run(&name, &run, &params, &order), order.queue.then_some(order.attempt))
            }
            AskBody::Command(params) => (v2::local_command(Some(&run), &params), None),
            AskBody::Peers => (v2::peers(&run), None),
        };
        self.make_room();
        let number = self.register((&run).into(), attempt, sink);
        self.push(frame, Kind::Ask(number, departure), frame_bytes);
    }

    fn push(&mut self, frame: String, kind: Kind, frame_bytes: usize) {
        if frame.len() > frame_bytes {
            return self.refuse(kind, frame_bytes);
        }
        self.ask_bytes += frame.len();
        self.outgoing.push_back(Outgoing { frame, kind });
    }

    /// Settles a request whose frame is too long. Its message was not: the run's id may have made it so.
    fn refuse(&mut self, kind: Kind, frame_bytes: usize) {
        let sink = match kind {
            Kind::Ask(number, _) => self.forget(number).map(|entry| entry.sink),
            Kind::Told(sink) => Some(sink),
            Kind::Ping | Kind::Reply => None,
        };
        let why = format!("the request is longer than {frame_bytes} bytes on the link, where it has an id of its run");
        if let Some(sink) = sink {
            sink.fail(Outcome::Failed(ErrorCode::TooLarge, why));
        }
    }

    /// Gives the request its place in the table.
    fn register(&mut self, key: IdKey, attempt: Option<u32>, sink: Sink) -> u64 {
        let number = self.next;
        self.next += 1;
        // The same run a second time: the first is given up, and says so by itself.
        if let Some(before) = self.by_id.insert(key.clone(), number) {
            self.unanswered.remove(&before);
        }
        self.unanswered.insert(number, Unanswered { key, attempt, sink, left: false });
        number
    }

    fn with_stream(&mut self, run: &RunId, tell: impl FnOnce(&RunSink)) {
        let entry = self.by_id.get(&IdKey::from(run)).and_then(|number| self.unanswered.get(number));
        if let Some(Unanswered { sink: Sink::Stream(sink), .. }) = entry {
            tell(sink);
        }
    }

    /// An id whose caller is gone is free again.
    fn is_free(&mut self, key: &IdKey) -> bool {
        let Some(number) = self.by_id.get(key).copied() else { return true };
        let gone = self.unanswered.get(&number).is_none_or(|entry| entry.sink.is_closed());
        if gone {
            self.unanswered.remove(&number);
        }
        gone
    }

    fn make_room(&mut self) {
        if self.unanswered.len() < UNANSWERED {
            return;
        }
        self.sweep();
        if self.unanswered.len() < UNANSWERED {
            return;
        }
        if let Some((_, oldest)) = self.unanswered.pop_first() {
            self.by_id.remove(&oldest.key);
            let why = format!("the peer has left {UNANSWERED} requests unanswered; this was the oldest, and it may have run");
            oldest.sink.lose(Outcome::Failed(ErrorCode::Interrupted, why));
        }
    }

    fn sweep(&mut self) {
        let Self { unanswered, by_id, pings, .. } = self;
        if let Some(pings) = pings {
            pings.sweep();
        }
        unanswered.retain(|_, entry| {
            let waits = !entry.sink.is_closed();
            if !waits {
                by_id.remove(&entry.key);
            }
            waits
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller_id(json: &str) -> CallerId {
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str(json).expect("JSON");
        CallerId::new(&raw).expect("short")
    }

    /// The next frame.
    fn take(mux: &Mux) -> Option<String> {
        let mut taken = None;
        let fed: Result<(), ()> = mux.feed(|frame| {
            taken = Some(frame.to_owned());
            Ok(false)
        });
        fed.expect("it is taken");
        taken
    }

    fn seed(frame_bytes: usize) -> Arc<Mux> {
        Arc::new(Mux::new(frame_bytes, Dialect::Seed))
    }

    fn run_of(name: &str) -> AskBody {
        AskBody::Run(name.into(), Params::new(None), Order::default())
    }

    fn settles(mux: &Mux, id: &CallerId, report: Report) -> bool {
        mux.settle(&id.key(), Verdict::default(), report).is_ok()
    }

    fn ask(mux: &Arc<Mux>, id: Option<&str>, run: &str) -> oneshot::Receiver<Report> {
        let (settle, settled) = oneshot::channel();
        let body = run_of("t");
        let ask = Ask {
            body,
            id: id.map(caller_id),
            run: RunId::new(run),
            departure: Departure::default(),
            sink: Sink::Once(settle),
        };
        mux.ask(ask).expect("open");
        settled
    }

    fn status(mut settled: oneshot::Receiver<Report>) -> (Option<i64>, Option<String>) {
        let report = settled.try_recv().expect("settled");
        (report.status, report.error)
    }

    #[test]
    fn the_callers_id_is_used_while_it_is_free() {
        let mux = seed(usize::MAX);
        let first = ask(&mux, Some("\"x\""), "r1");
        let second = ask(&mux, Some("\"x\""), "r2");
        let third = ask(&mux, None, "r3");
        for id in ["\"x\"", "\"r2\"", "\"r3\""] {
            assert_eq!(take(&mux).expect("queued"), format!("{{\"name\":\"t\",\"id\":{id},\"params\":null}}"));
        }
        for (id, code) in [("\"r2\"", 2), ("\"x\"", 1), ("\"r3\"", 3)] {
            assert!(settles(&mux, &caller_id(id), Outcome::Exited(code).into()));
        }
        assert_eq!(status(first).0, Some(1));
        assert_eq!(status(second).0, Some(2));
        assert_eq!(status(third).0, Some(3));
        assert!(!settles(&mux, &caller_id("\"x\""), Outcome::Exited(0).into()), "settled twice");
    }

    #[test]
    fn a_lost_link_tells_what_left_from_what_did_not() {
        let mux = seed(usize::MAX);
        let left = ask(&mux, None, "r1");
        take(&mux).expect("queued");
        let kept = ask(&mux, None, "r2");
        mux.close();
        assert_eq!(status(left), (Some(-5), Some("interrupted".into())));
        assert_eq!(status(kept), (Some(-2), Some("link_lost".into())));
        let (settle, _settled) = oneshot::channel();
        let ask = Ask {
            body: AskBody::Command(Params::new(None)),
            id: None,
            run: RunId::new("r"),
            departure: Departure::default(),
            sink: Sink::Once(settle),
        };
        assert!(mux.ask(ask).is_err());
    }

    #[test]
    fn who_is_gone_leaves_no_entry_and_frees_the_id() {
        let mux = seed(usize::MAX);
        drop(ask(&mux, Some("1"), "r1"));
        assert!(!settles(&mux, &caller_id("1"), Outcome::Exited(0).into()), "nobody waits");
        drop(ask(&mux, Some("1"), "r2"));
        let waits = ask(&mux, Some("1"), "r3");
        assert!(settles(&mux, &caller_id("1.0"), Outcome::Exited(3).into()));
        assert_eq!(status(waits).0, Some(3));
        drop(ask(&mux, Some("2"), "r4"));
        mux.sweep();
        assert!(mux.state().unanswered.is_empty() && mux.state().by_id.is_empty());
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_settled_as_unknown() {
        let mux = seed(usize::MAX);
        let oldest = ask(&mux, None, "oldest");
        let rest: Vec<_> = (0..UNANSWERED).map(|number| ask(&mux, None, &number.to_string())).collect();
        assert_eq!(status(oldest), (Some(-5), Some("interrupted".into())));
        assert_eq!(mux.state().unanswered.len(), UNANSWERED);
        assert_eq!(rest.len(), UNANSWERED);
    }

    #[test]
    fn what_is_too_long_for_a_frame_is_settled_and_leaves_no_entry() {
        let mux = seed(r#"{"name":"t","id":"r1","params":null}"#.len());
        let _fits = ask(&mux, None, "r1");
        assert_eq!(status(ask(&mux, None, "r10")), (Some(-3), Some("too_large".into())));
        assert_eq!(status(ask(&mux, Some("12345"), "r2")), (Some(-3), Some("too_large".into())));
        let state = mux.state();
        assert_eq!((state.unanswered.len(), state.by_id.len(), state.outgoing.len()), (1, 1, 1));
    }

    #[test]
    fn what_is_withdrawn_never_leaves_and_frees_its_id() {
        let mux = seed(usize::MAX);
        let departure = Departure::default();
        let (settle, _settled) = oneshot::channel();
        let body = run_of("late");
        let id = Some(caller_id("1"));
        mux.ask(Ask { body, id, run: RunId::new("r1"), departure: departure.clone(), sink: Sink::Once(settle) }).expect("open");
        let _next = ask(&mux, None, "r2");
        assert!(departure.withdraw());
        assert_eq!(take(&mux).expect("queued"), "{\"name\":\"t\",\"id\":\"r2\",\"params\":null}");
        assert_eq!(take(&mux), None);
        let state = mux.state();
        assert_eq!((state.unanswered.len(), state.by_id.len(), state.ask_bytes), (1, 1, 0));
    }

    #[test]
    fn a_command_without_an_id_is_told_when_it_has_left() {
        let mux = seed(usize::MAX);
        let (settle, mut settled) = oneshot::channel();
        mux.ask(Ask {
            body: AskBody::Command(Params::new(None)),
            id: None,
            run: RunId::new("r"),
            departure: Departure::default(),
            sink: Sink::Once(settle),
        })
        .expect("open");
        assert!(settled.try_recv().is_err());
        assert_eq!(take(&mux).as_deref(), Some("{\"name\":\"&cmd\",\"params\":null}"));
        assert_eq!(status(settled), (Some(0), None));
    }

    #[test]
    fn on_a_version_2_link_the_runs_id_is_on_the_wire_and_the_callers_goes_along() {
        let mux = Arc::new(Mux::new(usize::MAX, Dialect::Version2));
        let settled = [ask(&mux, Some("\"x\""), "r1"), ask(&mux, Some("\"x\""), "r2"), ask(&mux, None, "r3")];
        for (run, caller) in [("r1", ",\"caller\":\"x\""), ("r2", ",\"caller\":\"x\""), ("r3", "")] {
            let frame = format!("{{\"name\":\"t\",\"id\":\"{run}\",\"params\":null{caller}}}");
            assert_eq!(take(&mux).as_deref(), Some(&*frame));
        }
        assert!(!settles(&mux, &caller_id("\"x\""), Outcome::Exited(0).into()));
        let second = Verdict { attempt: Some(2), refused: false };
        assert!(
            mux.settle(&IdKey::from(&RunId::new("r1")), second, Outcome::Exited(0).into()).is_err(),
            "no attempt was asked"
        );
        for (code, settled) in settled.into_iter().enumerate() {
            let (key, exited) =
                (IdKey::from(&RunId::new(format!("r{}", code + 1))), Outcome::Exited(u8::try_from(code).expect("small")));
            assert!(mux.settle(&key, Verdict::default(), exited.into()).is_ok());
            assert_eq!(status(settled).0, i64::try_from(code).ok());
        }
        assert_eq!(mux.in_flight(), 0);
    }

    #[tokio::test]
    async fn output_waits_while_a_lot_waits_to_leave_and_outcomes_do_not() {
        let mux = Mux::new(usize::MAX, Dialect::Version2);
        mux.say("x".repeat(OUTPUT_QUEUE_BYTES));
        mux.say("an outcome".into());
        let mut room = std::pin::pin!(mux.has_output_room());
        assert!(futures_util::poll!(&mut room).is_pending());
        take(&mux).expect("queued");
        room.await;
        assert_eq!(take(&mux).as_deref(), Some("an outcome"));
    }

    #[tokio::test]
    async fn whoever_asks_waits_while_the_queue_is_full() {
        let mux = seed(usize::MAX);
        mux.has_room().await;
        let (settle, _settled) = oneshot::channel();
        let body = run_of(&"x".repeat(ASK_QUEUE_BYTES));
        mux.ask(Ask { body, id: None, run: RunId::new("r"), departure: Departure::default(), sink: Sink::Once(settle) })
            .expect("open");
        let mut room = std::pin::pin!(mux.has_room());
        assert!(futures_util::poll!(&mut room).is_pending());
        take(&mux).expect("queued");
        room.await;
    }
}
