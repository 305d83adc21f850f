//! What waits to be written on one local connection: whole lines, within a bound of bytes. It knows how many requests are still
//! in flight, and so when a connection that asks no more is done. It never blocks whoever answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use ws_daemon_protocol::id::CallerId;

use crate::origin::Awaited;
use crate::tasks::Tasks;

/// Answers waiting to be written, in bytes; when full, the connection is closed: its process does not read.
pub const ANSWER_QUEUE_BYTES: usize = 16 << 20;

/// Lines that nobody promised, or that can be told later, wait while so much waits to be written.
pub const ROOM_BYTES: usize = 1 << 20;

/// Requests in flight on one connection; more are answered `queue_full`.
pub const IN_FLIGHT: usize = 131_072;

/// Room for so many bytes of answers is kept from one write to the next; what grew larger is given back.
const KEPT_BYTES: usize = 16 << 10;

/// The answers of one connection. Clones are the same queue.
#[derive(Debug, Clone, Default)]
pub struct Answers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// There is something to write, or nothing more will come.
    changed: Notify,
    /// What waited has been taken.
    taken: Notify,
    /// Cancelled when more waits than may.
    overflow: CancellationToken,
    /// The connection is gone. Whoever waits for that is woken by the one before it: a hundred thousand that wake at once would hold
    /// up everybody else.
    gone: AtomicBool,
    gone_next: Notify,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    in_flight: usize,
    /// How many of these promise a line: while there is one, every line is taken for its answer.
    awaited: usize,
    /// An answer stands in `lines`: a line beside it, in the same write, would be taken for part of it.
    answer_waits: bool,
    /// No more requests will be read.
    asked_all: bool,
    /// The process is asked on this connection: it takes every line for what it is asked.
    serves: bool,
    /// A request was given up without its answer.
    given_up: bool,
    /// How many in flight have no task that a daemon which stops would wait for.
    without_task: usize,
    /// What stands for these tasks, while there is one of them and somebody to be told.
    counted: Option<TaskTrackerToken>,
    /// What the next life of the daemon answers.
    later: Vec<(Option<CallerId>, Awaited)>,
}

/// What a writer gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Whole lines to write.
    Lines(Vec<u8>),
    /// Every request has its answer, and no more requests will come.
    Done,
}

/// One request in flight; its answer is written through it. Dropped without one, the request counts as answered.
#[derive(Debug)]
pub struct Pending {
    answers: Answers,
    awaited: bool,
    has_task: bool,
    over: bool,
}

impl Answers {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues one line, without its newline.
    pub fn line(&self, line: &str) {
        self.push(&mut self.state(), line);
    }

    fn push(&self, state: &mut State, line: &str) {
        if state.lines.len() + line.len() >= ANSWER_QUEUE_BYTES {
            self.0.overflow.cancel();
            return;
        }
        state.lines.reserve(line.len() + 1);
        state.lines.extend_from_slice(line.as_bytes());
        state.lines.push(b'\n');
        self.0.changed.notify_one();
    }

    /// From here on the process is asked on this connection.
    pub fn serves(&self) {
        self.state().serves = true;
    }

    /// Queues lines with their newlines, that ask the process; `false` if so much waits that it is to be asked later, or nothing more
    /// is read of it.
    pub fn ask(&self, lines: &str) -> bool {
        let mut state = self.state();
        if state.lines.len() >= ROOM_BYTES || state.asked_all {
            return false;
        }
        state.lines.extend_from_slice(lines.as_bytes());
        self.0.changed.notify_one();
        true
    }

    /// Ends when more waits than may.
    pub async fn overflown(&self) {
        self.0.overflow.cancelled().await;
    }

    /// Queues one line if nothing is in flight. `false` if something is: then no line may come unasked.
    pub fn line_if_idle(&self, line: &str) -> bool {
        let mut state = self.state();
        if state.awaited > 0 || state.answer_waits || state.asked_all || state.serves {
            return false;
        }
        self.push(&mut state, line);
        true
    }

    /// Counts one more request in flight, `awaited` if a line is promised for it whatever comes; `None` if there are as many
    /// as may be.
    pub fn begin(&self, awaited: bool) -> Option<Pending> {
        let mut state = self.state();
        if state.in_flight >= IN_FLIGHT {
            return None;
        }
        state.in_flight += 1;
        state.awaited += usize::from(awaited);
        Some(Pending { answers: self.clone(), awaited, has_task: true, over: false })
    }

    /// No more requests will be read.
    pub fn asked_all(&self) {
        self.state().asked_all = true;
        self.0.changed.notify_one();
    }

    /// What is left to be answered by the next life of the daemon; `None` if a request was given up, whose answer will never come.
    pub fn take_later(&self) -> Option<Vec<(Option<CallerId>, Awaited)>> {
        let mut state = self.state();
        (!state.given_up).then(|| std::mem::take(&mut state.later))
    }

    /// The connection is gone: whoever waits to answer need not.
    pub fn hang_up(&self) {
        self.0.gone.store(true, Ordering::Release);
        self.state().counted = None;
        self.0.gone_next.notify_one();
    }

    /// Ends when the connection is gone.
    pub async fn gone(&self) {
        let Inner { gone, gone_next, .. } = &*self.0;
        let mut woken = std::pin::pin!(gone_next.notified());
        woken.as_mut().enable();
        if !gone.load(Ordering::Acquire) {
            woken.await;
        }
        gone_next.notify_one();
    }

    /// Gives back the room of lines that have been written.
    pub fn written(&self, mut lines: Vec<u8>) {
        lines.clear();
        if lines.capacity() <= KEPT_BYTES {
            let mut state = self.state();
            if state.lines.capacity() == 0 {
                state.lines = lines;
            }
        }
    }

    /// What to write next.
    pub async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.state().next() {
                self.0.taken.notify_waiters();
                return next;
            }
            self.0.changed.notified().await;
        }
    }
}

impl State {
    fn next(&mut self) -> Option<Next> {
        if !self.lines.is_empty() {
            self.answer_waits = false;
            return Some(Next::Lines(std::mem::take(&mut self.lines)));
        }
        (self.asked_all && self.in_flight == 0).then_some(Next::Done)
    }
}

impl Pending {
    /// No task has it: a daemon that stops waits for its answer as it would for one of `tasks`, as long as there is somebody to be told.
    #[must_use]
    pub fn without_task(mut self, tasks: &Tasks) -> Self {
        let answers = self.answers.clone();
        let mut state = answers.state();
        self.has_task = false;
        state.without_task += 1;
        if !self.is_gone() {
            state.counted.get_or_insert_with(|| tasks.token());
        }
        self
    }

    /// Writes one line that is not the last. Waits while the process does not read; ends at once when it is gone.
    pub async fn line(&self, line: &str) {
        loop {
            let mut taken = std::pin::pin!(self.answers.0.taken.notified());
            taken.as_mut().enable();
            {
                let mut state = self.answers.state();
                if state.lines.len() < ROOM_BYTES {
                    return self.answers.push(&mut state, line);
                }
            }
            tokio::select! {
                () = taken => {}
                () = self.gone() => return,
            }
        }
    }

    /// Writes one line that is not the last, if there is room for it now.
    pub fn line_at_once(&self, line: &str) -> bool {
        let mut state = self.answers.state();
        let has_room = state.lines.len() < ROOM_BYTES;
        if has_room {
            self.answers.push(&mut state, line);
        }
        has_room
    }

    /// Writes the answer: one line, without its newline. In the same moment the request is no longer in flight.
    pub fn answer(mut self, line: &str) {
        let answers = self.answers.clone();
        let mut state = answers.state();
        answers.push(&mut state, line);
        state.answer_waits = true;
        self.end(&mut state);
    }

    /// All its lines are written.
    pub fn over(mut self) {
        let answers = self.answers.clone();
        let mut state = answers.state();
        state.answer_waits |= !state.lines.is_empty();
        self.end(&mut state);
    }

    /// The next life of the daemon answers.
    pub fn later(mut self, id: Option<CallerId>, awaited: Awaited) {
        let answers = self.answers.clone();
        let mut state = answers.state();
        state.later.push((id, awaited));
        self.end(&mut state);
    }

    /// Whether the connection is gone.
    pub fn is_gone(&self) -> bool {
        self.answers.0.gone.load(Ordering::Acquire)
    }

    /// Ends when the connection is gone.
    pub async fn gone(&self) {
        self.answers.gone().await;
    }

    fn end(&mut self, state: &mut State) {
        if !std::mem::replace(&mut self.over, true) {
            state.in_flight -= 1;
            state.awaited -= usize::from(self.awaited);
            state.without_task -= usize::from(!self.has_task);
            if state.without_task == 0 {
                state.counted = None;
            }
            self.answers.0.changed.notify_one();
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.over {
            let answers = self.answers.clone();
            let mut state = answers.state();
            state.given_up |= self.awaited;
            self.end(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::poll;
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_done_when_every_request_has_its_answer() {
        let answers = Answers::default();
        let (first, second) = (answers.begin(true).expect("room"), answers.begin(true).expect("room"));
        answers.asked_all();
        first.answer("{1}");
        assert_eq!(answers.next().await, Next::Lines(b"{1}\n".to_vec()));
        assert_eq!(answers.state().next(), None);
        drop(second);
        assert_eq!(answers.next().await, Next::Done);
    }

    #[tokio::test]
    async fn what_has_no_task_is_waited_for_until_it_is_answered_or_nobody_is_there_to_be_told() {
        let (answers, tasks) = (Answers::default(), Tasks::default());
        let begin = || answers.begin(true).expect("room").without_task(&tasks);
        let (first, second) = (begin(), begin());
        let mut ended = Box::pin(tasks.ended());
        first.answer("{1}");
        assert!(poll!(&mut ended).is_pending(), "one is left");
        second.answer("{2}");
        ended.await;
        let third = begin();
        let mut ended = Box::pin(tasks.ended());
        assert!(poll!(&mut ended).is_pending());
        answers.hang_up();
        ended.await;
        drop((third, begin()));
        tasks.ended().await;
    }

    #[tokio::test]
    async fn nobody_gets_a_line_unasked_while_a_request_is_in_flight() {
        let answers = Answers::default();
        let command = answers.begin(false).expect("room");
        assert!(answers.line_if_idle("{c}"), "a command without an id promises no line");
        drop(command);
        assert_eq!(answers.next().await, Next::Lines(b"{c}\n".to_vec()));
        let pending = answers.begin(true).expect("room");
        assert!(!answers.line_if_idle("{}"));
        pending.answer("{a}");
        assert!(!answers.line_if_idle("{b}"), "it would stand beside the answer");
        assert_eq!(answers.next().await, Next::Lines(b"{a}\n".to_vec()));
        assert!(answers.line_if_idle("{b}") && answers.line_if_idle("{c}"));
        assert_eq!(answers.next().await, Next::Lines(b"{b}\n{c}\n".to_vec()));
    }

    #[tokio::test]
    async fn whoever_waits_to_answer_hears_in_turn_that_nobody_is_left_to_be_told() {
        const WAITING: usize = 1000;
        let answers = Answers::default();
        let woken = Arc::new(AtomicUsize::new(0));
        let waits = |woken: Arc<AtomicUsize>, pending: Pending| async move {
            pending.gone().await;
            woken.fetch_add(1, Ordering::Relaxed);
        };
        let begin = || waits(Arc::clone(&woken), answers.begin(true).expect("room"));
        let mut waiting: JoinSet<()> = (0..WAITING).map(|_| begin()).collect();
        // One that looks no more, when it has been woken, wakes the next.
        let mut dropped = Box::pin(begin());
        assert!(poll!(&mut dropped).is_pending());
        yield_now().await;
        answers.hang_up();
        drop(dropped);
        yield_now().await;
        let at_once = woken.load(Ordering::Relaxed);
        assert!(at_once < WAITING / 4, "{at_once} have had a turn where another had one or two");
        while waiting.join_next().await.is_some() {}
        assert_eq!(woken.load(Ordering::Relaxed), WAITING);
        // And so does whoever comes late.
        begin().await;
    }

    #[tokio::test]
    async fn who_serves_is_asked_within_its_room_and_hears_nothing_that_nobody_waits_for() {
        let answers = Answers::default();
        answers.serves();
        assert!(!answers.line_if_idle("{}"));
        assert!(answers.ask("{1}\n") && answers.ask("{2}\n"));
        assert_eq!(answers.next().await, Next::Lines(b"{1}\n{2}\n".to_vec()));
        assert!(answers.ask(&"x".repeat(ROOM_BYTES)) && !answers.ask("{3}\n"), "it does not read");
        assert!(matches!(answers.next().await, Next::Lines(_)) && answers.ask("{3}\n"));
        answers.asked_all();
        assert!(!answers.ask("{4}\n"), "it could not answer");
    }

    #[tokio::test]
    async fn more_than_may_wait_is_the_end_of_the_connection() {
        let answers = Answers::default();
        let line = "x".repeat(ANSWER_QUEUE_BYTES / 2);
        answers.line(&line);
        assert!(matches!(answers.next().await, Next::Lines(_)));
        answers.line(&line);
        answers.line(&line);
        answers.overflown().await;
    }
}
