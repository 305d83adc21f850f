//! The verbs that wait for the thread. It never looks into them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::records::{Accepted, NewRequest, SpoolError};
use super::store::{Store, Trouble, Verdict};

/// Verbs that wait to be taken by the thread; who brings one more waits.
const WAITING_VERBS: usize = 4096;

/// Verbs in one transaction; the rest goes into the next.
const BATCH_VERBS: usize = 512;

/// Callers that are told at once.
const TOLD_AT_ONCE: usize = 8;

/// A verb with its caller.
pub trait Job: Send {
    /// Does it inside a transaction; its answer is kept until that is committed. May be called again after a rollback.
    fn work(&mut self, store: &mut Store) -> Result<(), Trouble>;
    /// Replaces its answer.
    fn fail(&mut self, error: SpoolError);
    /// Tells the caller, who tells the `rest` of its batch, if there is a task that waits.
    fn answer(self: Box<Self>, rest: Rest);
    /// Whether there is one.
    fn is_awaited(&self) -> bool;
}

/// What else was done in a batch. The thread tells one caller only, which is one wake-up of the runtime; the others are told by that
/// one, on the runtime's own thread, where a wake-up costs next to nothing. Dropped, whoever by, it tells so many of them, and the last of
/// these the rest: what else is ready there does not wait behind hundreds.
#[derive(Default)]
pub struct Rest(Vec<Box<dyn Job>>);

/// What a caller gets: its own answer, and the others'.
pub type Answer<T> = (Result<T, SpoolError>, Rest);

/// Tells the callers of a batch.
pub fn answer(batch: Vec<Box<dyn Job>>) {
    let mut awaited = Vec::new();
    for job in batch {
        if job.is_awaited() {
            awaited.push(job);
        } else {
            job.answer(Rest::default());
        }
    }
    if !awaited.is_empty() {
        let first = awaited.remove(0);
        first.answer(Rest(awaited));
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let later = self.0.split_off(self.0.len().min(TOLD_AT_ONCE));
        let last = self.0.pop();
        for job in self.0.drain(..) {
            job.answer(Self::default());
        }
        if let Some(last) = last {
            last.answer(Self(later));
        }
    }
}

/// A verb, its answer, and who waits for it.
pub struct Pending<F, T> {
    work: F,
    done: Result<T, SpoolError>,
    answer: oneshot::Sender<Answer<T>>,
}

impl<F, T> Pending<F, T> {
    /// Not done yet.
    pub fn new(work: F, answer: oneshot::Sender<Answer<T>>) -> Self {
        Self { work, done: Err(SpoolError::Closed), answer }
    }
}

impl<F, T> Job for Pending<F, T>
where
    F: FnMut(&mut Store) -> Verdict<T> + Send,
    T: Send,
{
    fn work(&mut self, store: &mut Store) -> Result<(), Trouble> {
        self.done = match (self.work)(store) {
            Ok(value) => Ok(value),
            Err(Trouble::Refused(error)) => Err(error),
            Err(trouble) => return Err(trouble),
        };
        Ok(())
    }

    fn fail(&mut self, error: SpoolError) {
        self.done = Err(error);
    }

    fn answer(self: Box<Self>, rest: Rest) {
        // The caller may have gone away; the rest is told by the drop then.
        let _ = self.answer.send((self.done, rest));
    }

    fn is_awaited(&self) -> bool {
        true
    }
}

/// A request that is to be kept, for whose answer no task waits: `tell` is called with it, also if it is dropped undone. It gets the
/// request back, too: freed on the thread that made it, it does not hold up whoever makes the next.
pub struct Handed<C: FnOnce(Result<Accepted, SpoolError>, NewRequest)> {
    done: Result<Accepted, SpoolError>,
    rest: Option<(NewRequest, C)>,
}

impl<C: FnOnce(Result<Accepted, SpoolError>, NewRequest)> Handed<C> {
    /// Not done yet.
    pub fn new(request: NewRequest, tell: C) -> Self {
        Self { done: Err(SpoolError::Closed), rest: Some((request, tell)) }
    }
}

impl<C: FnOnce(Result<Accepted, SpoolError>, NewRequest) + Send> Job for Handed<C> {
    fn work(&mut self, store: &mut Store) -> Result<(), Trouble> {
        let Some((request, _)) = &self.rest else { return Ok(()) };
        self.done = match store.accept(request) {
            Ok(accepted) => Ok(accepted),
            Err(Trouble::Refused(error)) => Err(error),
            Err(trouble) => return Err(trouble),
        };
        Ok(())
    }

    fn fail(&mut self, error: SpoolError) {
        self.done = Err(error);
    }

    fn answer(mut self: Box<Self>, _: Rest) {
        let done = std::mem::replace(&mut self.done, Err(SpoolError::Closed));
        if let Some((request, tell)) = self.rest.take() {
            tell(done, request);
        }
    }

    fn is_awaited(&self) -> bool {
        false
    }
}

impl<C: FnOnce(Result<Accepted, SpoolError>, NewRequest)> Drop for Handed<C> {
    fn drop(&mut self) {
        if let Some((request, tell)) = self.rest.take() {
            // Whatever was done of it was not committed, or nobody can say so any more.
            tell(Err(SpoolError::Closed), request);
        }
    }
}

/// A place for one more verb.
pub struct Room<'a> {
    queue: &'a Queue,
    permit: SemaphorePermit<'a>,
}

impl Room<'_> {
    /// Queues it there.
    pub fn push(self, job: Box<dyn Job>) {
        self.permit.forget();
        // Nobody is told under the lock.
        drop(self.queue.enter(job));
    }
}

/// Between the handles and the thread.
pub struct Queue {
    places: Semaphore,
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    /// The thread is to be woken when so many wait.
    wanted: usize,
    closed: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            places: Semaphore::new(WAITING_VERBS),
            waiting: Mutex::new(Waiting { jobs: VecDeque::new(), wanted: 1, closed: false }),
            filled: Condvar::new(),
        }
    }
}

impl Queue {
    /// Waits for a place, then queues.
    pub async fn push(&self, job: Box<dyn Job>) -> Result<(), SpoolError> {
        self.places.acquire().await.map_err(|_| SpoolError::Closed)?.forget();
        self.enter(job).map_err(|_| SpoolError::Closed)
    }

    /// A place, if there is one now.
    pub fn room(&self) -> Option<Room<'_>> {
        Some(Room { queue: self, permit: self.places.try_acquire().ok()? })
    }

    /// Puts it behind the others; back, if nobody is let in any more.
    fn enter(&self, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(job);
        }
        waiting.jobs.push_back(job);
        // Exactly then: a thread that gathers is woken once a batch, not once a verb.
        if waiting.jobs.len() == waiting.wanted {
            drop(waiting);
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes nobody in from now on; what waits is done.
    pub fn close(&self) {
        self.places.close();
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Waits for a verb, and then up to `patience` until `expected` wait, so that callers who were answered together and ask again
    /// share the next sync too. Nothing: the queue is closed, and empty.
    pub fn take(&self, expected: usize, patience: Duration) -> Vec<Box<dyn Job>> {
        let mut waiting = self.lock();
        waiting.wanted = 1;
        while waiting.jobs.is_empty() && !waiting.closed {
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let deadline = Instant::now() + patience;
        waiting.wanted = expected.clamp(1, BATCH_VERBS);
        while waiting.jobs.len() < waiting.wanted && !waiting.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting = self.filled.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.batch(waiting)
    }

    /// What waits now, up to a batch.
    pub fn take_now(&self) -> Vec<Box<dyn Job>> {
        self.batch(self.lock())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }

    fn batch(&self, mut waiting: MutexGuard<'_, Waiting>) -> Vec<Box<dyn Job>> {
        let count = waiting.jobs.len().min(BATCH_VERBS);
        let batch: Vec<_> = waiting.jobs.drain(..count).collect();
        drop(waiting);
        self.places.add_permits(count);
        batch
    }

    /// Verbs that wait.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic is done under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_told_a_few_at_a_time_and_all_of_it_also_where_somebody_is_gone() {
        let callers = || (0..3 * TOLD_AT_ONCE).map(|_| oneshot::channel::<Answer<()>>()).unzip::<_, _, Vec<_>, Vec<_>>();
        let jobs =
            |senders: Vec<_>| senders.into_iter().map(|sender| Box::new(Pending::new(|_: &mut Store| Ok(()), sender)) as _);
        let (senders, mut receivers) = callers();
        answer(jobs(senders).collect());
        assert!(receivers[1].try_recv().is_err(), "it waits for the first");
        drop(receivers[0].try_recv().expect("it is told"));
        assert!(receivers[TOLD_AT_ONCE + 1].try_recv().is_err(), "it waits for the last of the few before it");
        for receiver in &mut receivers[1..] {
            drop(receiver.try_recv().expect("those before it were told"));
        }
        let (senders, mut receivers) = callers();
        drop(receivers.remove(TOLD_AT_ONCE));
        drop(receivers.remove(0));
        answer(jobs(senders).collect());
        for mut receiver in receivers {
            drop(receiver.try_recv().expect("those before it were told, or are gone"));
        }
    }

    fn request() -> NewRequest {
        NewRequest {
            user: "u".into(),
            key: None,
            caller_id: None,
            hash: [0; 32],
            body: "{}".into(),
            runs: Vec::new(),
            expires_ms: 0,
            not_before_ms: None,
            then: None,
        }
    }

    #[tokio::test]
    async fn who_has_no_task_is_told_once_with_the_batch_or_that_it_was_never_done() {
        let queue = Queue::default();
        let (tell, told) = std::sync::mpsc::channel();
        let push = |number: usize| {
            let (room, tell) = (queue.room().expect("there is room"), tell.clone());
            room.push(Box::new(Handed::new(request(), move |done, request: NewRequest| {
                tell.send((number, done, request.body)).expect("it is listened to");
            })));
        };
        push(1);
        let (sender, mut awaited) = oneshot::channel::<Answer<()>>();
        queue.push(Box::new(Pending::new(|_: &mut Store| Ok(()), sender))).await.expect("it is open");
        push(2);
        let mut batch = queue.take_now();
        assert!(told.try_recv().is_err(), "nothing is told before it is done");
        for job in &mut batch {
            job.fail(SpoolError::Full);
        }
        answer(batch);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2].map(|number| (number, Err(SpoolError::Full), "{}".into())));
        assert!(awaited.try_recv().is_ok_and(|(done, _)| done == Err(SpoolError::Full)));
        push(3);
        drop(queue.take_now());
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(3, Err(SpoolError::Closed), "{}".into())]);
        let room = queue.room().expect("there is room");
        queue.close();
        assert!(queue.room().is_none());
        let tell = tell.clone();
        room.push(Box::new(Handed::new(request(), move |done, request: NewRequest| {
            tell.send((4, done, request.body)).expect("it is listened to");
        })));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(4, Err(SpoolError::Closed), "{}".into())]);
    }
}
