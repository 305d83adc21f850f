//! One that is asked: a copy of a script, or a connection that serves. It owns the requests that it holds and the lines that are still
//! to be written to it; it never starts, writes to or stops anything itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Notify, oneshot};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::worker::{Answer, Asked, Output, Said};

use crate::exec::capture::Keep;
use crate::exec::stream::StreamBuffer;

/// The longest message of an answer, in bytes; the rest is left out.
const MESSAGE_BYTES: usize = 4096;

/// Takes a line for the other end; `false` if there is no room for one.
pub type Sink = dyn Fn(&str) -> bool + Send + Sync;

/// What is kept of what is printed for a request, if anything is.
pub type Keeps = Option<Box<[Keep; 2]>>;

/// One that is asked.
pub struct Member {
    state: Mutex<State>,
    /// There is something to write to it, or to be done with it.
    pub changed: Notify,
    /// How many requests it holds.
    held: AtomicUsize,
    /// It takes no more.
    gone: AtomicBool,
    /// A copy's process id and start time.
    process: Option<(u32, u64)>,
    /// Where the lines for a connection go; those for a copy wait to be fetched.
    sink: Option<Box<Sink>>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines that wait to be fetched.
    lines: String,
    /// Bytes that were fetched.
    fetched: u64,
    held: HashMap<RunId, Held>,
    answered: u64,
    /// What is to be done with it.
    order: Order,
}

/// A request in its hands.
#[derive(Debug)]
struct Held {
    /// Where its line ends in all that is written.
    end: u64,
    keeps: Keeps,
    /// `None`: nobody waits for it any more.
    tell: Option<oneshot::Sender<Told>>,
    /// It is stopped because of this one.
    stopped: bool,
}

/// What is to be done with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Order {
    /// Ask it.
    #[default]
    GoOn,
    /// Let it end once it holds nothing.
    Leave,
    /// Stop it.
    Stop,
}

/// What became of a request.
#[derive(Debug)]
pub struct Told {
    /// How that ended.
    pub end: End,
    /// What was kept of what was printed for it.
    pub keeps: Keeps,
}

/// How a member ended with a request.
#[derive(Debug, Clone)]
pub enum End {
    /// It answered, with this status and this message.
    Answered(u8, Option<Box<str>>),
    /// It will not answer; why, and the signal that ended it, if one did.
    Lost(Arc<str>, Option<i32>),
    /// It was never asked: another one may be.
    NotAsked,
}

/// What a line was.
#[derive(Debug)]
pub enum Heard {
    /// An answer, or output: with whoever reads it live.
    Taken(Option<Arc<StreamBuffer>>),
    /// A message like those of any other process.
    Message,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("held", &self.held).field("process", &self.process).finish_non_exhaustive()
    }
}

impl Member {
    /// A copy, by its process.
    pub fn copy(process: (u32, u64)) -> Self {
        Self::new(Some(process), None)
    }

    /// A connection, to which lines go by `sink`.
    pub fn connection(sink: Box<Sink>) -> Self {
        Self::new(None, Some(sink))
    }

    fn new(process: Option<(u32, u64)>, sink: Option<Box<Sink>>) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self { state, changed, held: AtomicUsize::new(0), gone: AtomicBool::new(false), process, sink }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy's process id and start time.
    pub fn process(&self) -> Option<(u32, u64)> {
        self.process
    }

    /// How many requests it holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether it takes nothing more.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// How many it has answered.
    pub fn answered(&self) -> u64 {
        self.state().answered
    }

    /// Asks it. `keeps` is taken only if there is room.
    pub fn ask(&self, asked: &Asked<'_>, keeps: &mut Keeps) -> Option<oneshot::Receiver<Told>> {
        let mut state = self.state();
        if self.is_gone() {
            return None;
        }
        match &self.sink {
            None => {
                asked.write(&mut state.lines);
                self.changed.notify_one();
            }
            Some(sink) => {
                state.lines.clear();
                asked.write(&mut state.lines);
                if !sink(&state.lines) {
                    return None;
                }
            }
        }
        let (tell, told) = oneshot::channel();
        let end = state.fetched + state.lines.len() as u64;
        let held = Held { end, keeps: keeps.take(), tell: Some(tell), stopped: false };
        state.held.insert(asked.run.clone(), held);
        self.held.store(state.held.len(), Ordering::Relaxed);
        Some(told)
    }

    /// Fetches what waits to be written to a copy into `lines`, which is empty; and says what is to be done with it.
    pub fn fetch(&self, lines: &mut String) -> Order {
        let mut state = self.state();
        std::mem::swap(&mut state.lines, lines);
        state.fetched += lines.len() as u64;
        state.order
    }

    /// What is to be done with it.
    pub fn order(&self) -> Order {
        self.state().order
    }

    /// From here on it takes nothing more, and this is to be done with it.
    pub fn give_order(&self, order: Order) {
        let mut state = self.state();
        self.gone.store(true, Ordering::Relaxed);
        state.order = state.order.max(order);
        self.changed.notify_one();
    }

    /// A copy is stopped because of this request, if it holds it still.
    pub fn stop(&self, run: &RunId) {
        let mut state = self.state();
        let Some(held) = state.held.get_mut(run) else { return };
        held.stopped = true;
        self.gone.store(true, Ordering::Relaxed);
        state.order = Order::Stop;
        self.changed.notify_one();
    }

    /// Nobody waits for the answer to this request any more; what was kept for it, if it is held still.
    pub fn give_up(&self, run: &RunId) -> Keeps {
        let mut state = self.state();
        let held = state.held.get_mut(run)?;
        held.tell = None;
        held.keeps.take()
    }

    /// Takes a line that it said.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn hear(&self, line: &str) -> Result<Heard, String> {
        let not_held = |id: &str| format!("it spoke for {:?}, which it does not hold", short(id, 64));
        match Said::parse(line).map_err(|fault| {
            format!("it said what is no answer ({fault}); there, a line is one JSON object, and nothing else")
        })? {
            Said::Message => Ok(Heard::Message),
            Said::Output(Output { id, stream, data, is_base64 }) => {
                let mut state = self.state();
                let held = state.held.get_mut(&*id).ok_or_else(|| not_held(&id))?;
                let Some(keeps) = &mut held.keeps else { return Ok(Heard::Taken(None)) };
                let keep = &mut keeps[stream as usize];
                if is_base64 {
                    keep.take(&STANDARD.decode(&*data).map_err(|_| "it said what is no base 64".to_owned())?);
                } else {
                    keep.take(data.as_bytes());
                }
                Ok(Heard::Taken(keep.reader()))
            }
            Said::Answer(answer) => {
                let Held { mut keeps, tell, .. } = {
                    let mut state = self.state();
                    let held = state.held.remove(&*answer.id).ok_or_else(|| not_held(&answer.id))?;
                    state.answered += 1;
                    self.held.store(state.held.len(), Ordering::Relaxed);
                    held
                };
                let reader = keeps.as_mut().and_then(|keeps| take(keeps, &answer));
                let message = answer.message.map(|message| short(&message, MESSAGE_BYTES).into());
                if let Some(tell) = tell {
                    // Whoever asked may be gone.
                    drop(tell.send(Told { end: End::Answered(answer.status, message), keeps }));
                }
                Ok(Heard::Taken(reader))
            }
        }
    }

    /// Settles what it holds: what was not in the first `written` bytes was never asked, of the rest `why` is told.
    pub fn settle(&self, written: u64, why: &Arc<str>, signal: Option<i32>) {
        let held = {
            let mut state = self.state();
            self.gone.store(true, Ordering::Relaxed);
            self.held.store(0, Ordering::Relaxed);
            std::mem::take(&mut state.held)
        };
        for Held { end, keeps, tell, stopped } in held.into_values() {
            let end = if end > written && !stopped { End::NotAsked } else { End::Lost(Arc::clone(why), signal) };
            if let Some(tell) = tell {
                drop(tell.send(Told { end, keeps }));
            }
        }
    }
}

/// What an answer says was printed goes where what a script prints goes; to whom, if somebody reads it live.
fn take(keeps: &mut [Keep; 2], answer: &Answer<'_>) -> Option<Arc<StreamBuffer>> {
    let [stdout, stderr] = keeps;
    if let Some(text) = &answer.stdout {
        stdout.take(text.as_bytes());
    }
    if let Some(result) = answer.result {
        stdout.take(result.as_bytes());
        stdout.take(b"\n");
    }
    if let Some(text) = &answer.stderr {
        stderr.take(text.as_bytes());
    }
    stdout.reader()
}

/// The first bytes of a text, as many as may be.
fn short(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ws_daemon_protocol::message::Params;

    use super::*;

    fn ask(member: &Member, run: &str) -> Option<oneshot::Receiver<Told>> {
        let (run, params) = (RunId::new(run), Params::new(None));
        let asked = Asked { run: &run, name: "n", params: &params, peer: "p", caller: None, deadline: None, trace: None };
        member.ask(&asked, &mut None)
    }

    fn end(told: oneshot::Receiver<Told>) -> Option<End> {
        told.now_or_never()?.ok().map(|told| told.end)
    }

    #[test]
    fn what_was_not_written_to_the_end_of_its_line_was_not_asked() {
        let member = Member::copy((1, 1));
        let told = ["a", "b", "c"].map(|run| ask(&member, run).expect("room"));
        assert_eq!(member.held(), 3);
        let mut lines = String::new();
        assert_eq!(member.fetch(&mut lines), Order::GoOn);
        let second = lines.match_indices('\n').nth(1).expect("three lines").0 as u64;
        member.hear(r#"{"id":"a","status":3,"message":"m"}"#).expect("it holds it");
        member.settle(second, &"gone".into(), None);
        let ends = told.map(|told| end(told).expect("told"));
        let [End::Answered(3, Some(_)), End::NotAsked, End::NotAsked] = &ends else { panic!("{ends:?}") };
        assert!(ask(&member, "d").is_none(), "it takes no more");
        let member = Member::copy((1, 1));
        let told = ask(&member, "a").expect("room");
        member.settle(1000, &"gone".into(), Some(9));
        assert!(matches!(end(told), Some(End::Lost(why, Some(9))) if &*why == "gone"));
    }

    #[test]
    fn it_answers_for_nothing_that_it_does_not_hold() {
        let member = Member::connection(Box::new(|_| true));
        let told = ask(&member, "a").expect("room");
        let fault = member.hear(r#"{"id":"b","status":0}"#).expect_err("not its own");
        assert!(fault.contains("\"b\", which it does not hold"), "{fault}");
        assert!(member.give_up(&RunId::new("a")).is_none() && member.held() == 1, "it may answer still");
        member.hear(r#"{"id":"a","status":0}"#).expect("nobody waits, and it is its own");
        assert_eq!((member.held(), end(told).is_none()), (0, true));
        member.hear(r#"{"id":"a","status":0}"#).expect_err("it answered once");
        assert!(matches!(member.hear(r#"{"name":"x","id":1}"#), Ok(Heard::Message)));
        let full = Member::connection(Box::new(|_| false));
        assert!(ask(&full, "a").is_none() && full.held() == 0);
    }
}
