//! Who can be asked in place of starting a script: copies of it that are kept running, or connections that serve its name; and which
//! of them is free. It never reads or writes a line, and starts no copy while a free one is there.
//!
//! ```text
//!                    wanted, or about to be replaced          asked its last, idle, changed, drain
//!   (no copy) ──────────────────────────────────────► taking ──────────────────────────────────► leaving ── ended
//!       ▲                                               │ its end, a breach, a stop                            │
//!       └── after a wait, if it had answered nothing ◄──┴──────────────────────────────────────────────────────┘
//! ```

mod copy;
mod figures;
mod member;
mod served;

pub use copy::{Of, Source};
pub use figures::{Figures, Gone};
pub use member::{End, Heard, Keeps, Told};
pub use served::{Connection, Group, Groups, Picked, Served, ServedNames};

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};
use ws_daemon_protocol::worker::Asked;

use super::Inner;
use super::contract::Workers;
use super::job::Job;
use crate::system::walk::Mark;
use copy::live;
use member::{Member, Order};
use served::Serving;

/// The wait before the first start that follows a copy which ended without an answer; it doubles to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The copies of one script. It lives as long as the script's contract says that there are some.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
    /// There may be room where there was none.
    changed: Notify,
    /// The first of those who wait looks for room; the others stand behind it, and nobody who comes later goes before them.
    front: Front,
}

/// One place, given in the order in which it was asked for.
#[derive(Debug)]
struct Front(Semaphore);

impl Default for Front {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

#[derive(Debug)]
struct State {
    workers: Workers,
    /// Those that are asked.
    copies: Vec<Copy>,
    starting: usize,
    /// How many of these are to take another's place.
    replacing: usize,
    /// The newest look of the script, when that was, and what to start by it.
    of: Option<(Of, Instant)>,
    /// How often all copies were let go.
    let_go: u64,
    /// How often a start has failed, or a copy ended without an answer; and why the last time.
    failures: u64,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    outcome: Outcome,
    /// In a row.
    times: u32,
    /// Nothing is started before.
    until: Instant,
}

/// One that is asked.
#[derive(Debug)]
struct Copy {
    member: Arc<Member>,
    version: Version,
    asked: u64,
    /// One that is to take its place is being started.
    is_replaced: bool,
}

/// By what a script and its contract are known.
pub type Version = Arc<[Mark]>;

/// A request in the hands of one that is asked. Dropped before its end is told, it is stopped or given up.
#[derive(Debug)]
pub struct Call {
    member: Arc<Member>,
    run: RunId,
    told: oneshot::Receiver<Told>,
    /// On a connection: where it is closed.
    connection: Option<Arc<Serving>>,
    is_over: bool,
}

/// Who is to be asked.
#[derive(Debug, Clone)]
pub enum To {
    /// A copy of this script.
    Copies(Arc<Pool>),
    /// One of these connections.
    Group(Arc<Group>),
}

/// What keeps a request from being asked.
#[derive(Debug)]
pub enum Not {
    /// How it ended.
    Ended(Outcome),
    /// Who was to be asked is no more: look again.
    Again,
}

/// What a look for a free one came to.
enum Looked {
    /// It was asked; and whether all had something to do already.
    Asked(Call, bool),
    /// There is none yet.
    Wait,
    Not(Not),
}

/// What a waiting request has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    let_go: u64,
    failures: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            workers: Workers { processes: 1, ready: 1, max_requests: None, idle: None },
            copies: Vec::new(),
            starting: 0,
            replacing: 0,
            of: None,
            let_go: 0,
            failures: 0,
            failure: None,
        }
    }
}

impl To {
    /// Has one asked, if one is free.
    ///
    /// # Errors
    /// What keeps it from being asked.
    pub fn ask_at_once(
        &self,
        inner: &Arc<Inner>,
        job: &Job,
        timeout: Option<Duration>,
        keeps: &mut Keeps,
    ) -> Result<Option<Call>, Not> {
        let asked = asked(job, timeout);
        let call = match self {
            Self::Copies(pool) => pool.ask_at_once(inner, &asked, keeps)?,
            Self::Group(group) => group.ask_at_once(&asked, keeps)?,
        };
        if call.is_some() {
            inner.figures.called();
        }
        Ok(call)
    }

    /// Has one asked, as soon as one is free.
    ///
    /// # Errors
    /// What keeps it from being asked.
    pub async fn ask(&self, inner: &Arc<Inner>, job: &Job, timeout: Option<Duration>, keeps: &mut Keeps) -> Result<Call, Not> {
        let asked = asked(job, timeout);
        let call = match self {
            Self::Copies(pool) => pool.ask(inner, &asked, keeps).await?,
            Self::Group(group) => group.ask(&asked, keeps).await?,
        };
        inner.figures.called();
        Ok(call)
    }
}

/// What a job's request is, to be answered in this time.
fn asked(job: &Job, timeout: Option<Duration>) -> Asked<'_> {
    let deadline = timeout.and_then(|timeout| SystemTime::now().checked_add(timeout));
    Asked {
        run: &job.run,
        name: &job.name,
        params: &job.params,
        peer: &job.peer,
        caller: job.id.as_ref(),
        deadline: deadline.map(|deadline| deadline.duration_since(UNIX_EPOCH).unwrap_or_default()),
        trace: job.trace.as_deref(),
    }
}

impl Call {
    fn new(member: Arc<Member>, run: &RunId, told: oneshot::Receiver<Told>, connection: Option<Arc<Serving>>) -> Self {
        Self { member, run: run.clone(), told, connection, is_over: false }
    }

    /// The process id of the copy that has it, and when that started; `None` if it is another's process.
    pub fn process(&self) -> Option<(u32, u64)> {
        self.member.process()
    }

    /// Waits until its end is told. Cancel safe; not to be asked again behind that.
    pub async fn told(&mut self) -> Told {
        let told = (&mut self.told).await;
        self.is_over = true;
        // The runtime ends.
        told.unwrap_or_else(|_| Told { end: End::Lost("the daemon lost it".into(), None), keeps: None })
    }

    /// Whether a copy has it, which is stopped when the daemon stops.
    pub fn is_of_copy(&self) -> bool {
        self.connection.is_none()
    }

    /// Stops the copy that has it, which tells its end then. `false` where nothing can be stopped.
    pub fn stop(&self) -> bool {
        if self.is_of_copy() {
            self.member.stop(&self.run);
        }
        self.is_of_copy()
    }

    /// Gives it up, where it cannot be stopped; what was kept for it. If the connection `hangs`, it is closed.
    pub fn give_up(&mut self, hangs: bool) -> Keeps {
        self.is_over = true;
        let keeps = self.member.give_up(&self.run);
        if let Some(connection) = self.connection.as_ref().filter(|_| hangs) {
            connection.close();
        }
        keeps
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_over && !self.stop() {
            drop(self.member.give_up(&self.run));
        }
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on copies are kept so.
    pub fn take_up(&self, workers: Workers) {
        self.state().workers = workers;
        self.changed.notify_waiters();
    }

    /// The script was seen at that time to be so. Copies of an older one are replaced.
    pub fn is_of(&self, of: Of, at: Instant) {
        let mut state = self.state();
        // What was seen by two at once may come in another order.
        if state.of.as_ref().is_none_or(|(_, before)| *before <= at) {
            state.of = Some((of, at));
        }
    }

    /// Lets all copies end: there is no such script any more. Whoever waits for one looks again.
    pub fn let_go(&self) {
        let copies = {
            let mut state = self.state();
            state.let_go += 1;
            state.failure = None;
            std::mem::take(&mut state.copies)
        };
        for copy in copies {
            copy.member.give_order(Order::Leave);
        }
        self.changed.notify_waiters();
    }

    fn ask_at_once(self: &Arc<Self>, inner: &Arc<Inner>, asked: &Asked<'_>, keeps: &mut Keeps) -> Result<Option<Call>, Not> {
        let Ok(_front) = self.front.0.try_acquire() else { return Ok(None) };
        match self.look(inner, asked, keeps, &mut None) {
            Looked::Asked(call, _) => Ok(Some(call)),
            Looked::Not(not) => Err(not),
            Looked::Wait => Ok(None),
        }
    }

    async fn ask(self: &Arc<Self>, inner: &Arc<Inner>, asked: &Asked<'_>, keeps: &mut Keeps) -> Result<Call, Not> {
        let mut seen = Some(self.state().seen());
        // Nobody takes the place away.
        let Ok(_front) = self.front.0.acquire().await else { return Err(Not::Again) };
        loop {
            // Made before the look: what changes from here on ends it.
            let mut changed = pin!(self.changed.notified());
            let mut looked = self.look(inner, asked, keeps, &mut seen);
            if matches!(looked, Looked::Wait) {
                changed.as_mut().enable();
                looked = self.look(inner, asked, keeps, &mut seen);
            }
            match looked {
                Looked::Asked(call, _) => return Ok(call),
                Looked::Not(not) => return Err(not),
                Looked::Wait => changed.await,
            }
        }
    }

    /// Asks a free copy; if there is none, or soon will be none, one is started.
    fn look(self: &Arc<Self>, inner: &Arc<Inner>, asked: &Asked<'_>, keeps: &mut Keeps, seen: &mut Option<Seen>) -> Looked {
        let (looked, starts, retired) = {
            let mut state = self.state();
            let looked = state.look(asked, keeps, seen);
            let retired = state.retire();
            let starts = state.starts(matches!(looked, Looked::Wait | Looked::Asked(_, true)));
            (looked, starts, retired)
        };
        for member in retired {
            inner.figures.gone(Gone::Spent);
            member.give_order(Order::Leave);
        }
        for source in starts {
            inner.copies.spawn(live(Arc::clone(inner), Arc::clone(self), source));
        }
        looked
    }

    /// A copy runs: it is asked from here on, and those whose place it takes end; why these do.
    fn add(&self, member: Arc<Member>, version: Version) -> Vec<Gone> {
        let replaced: Vec<(Copy, Gone)> = {
            let mut state = self.state();
            state.starting -= 1;
            let is_newest = state.of.as_ref().is_some_and(|(of, _)| of.version == version);
            let is_old = |copy: &Copy| is_newest && copy.version != version;
            let old = state.copies.extract_if(.., |copy| is_old(copy));
            let mut replaced: Vec<_> = old.map(|copy| (copy, Gone::Changed)).collect();
            if state.replacing > 0 {
                state.replacing -= 1;
                if let Some(first) = state.copies.iter().position(|copy| copy.is_replaced) {
                    replaced.push((state.copies.remove(first), Gone::Spent));
                }
            }
            state.copies.push(Copy { member, version, asked: 0, is_replaced: false });
            replaced
        };
        self.changed.notify_waiters();
        let leave = |(copy, why): (Copy, Gone)| {
            copy.member.give_order(Order::Leave);
            why
        };
        replaced.into_iter().map(leave).collect()
    }

    /// A copy did not start.
    fn did_not_start(&self, outcome: Outcome) {
        {
            let mut state = self.state();
            state.starting -= 1;
            state.replacing = state.replacing.min(state.starting);
            state.copies.iter_mut().for_each(|copy| copy.is_replaced = false);
            state.failed(outcome);
        }
        self.changed.notify_waiters();
    }

    /// A copy is asked no more, since it ends; in these words, if it had answered nothing.
    fn remove(&self, member: &Arc<Member>, failed: Option<String>) {
        {
            let mut state = self.state();
            state.copies.retain(|copy| !Arc::ptr_eq(&copy.member, member));
            match failed {
                Some(why) => state.failed(Outcome::Failed(ErrorCode::SpawnFailed, why)),
                None if member.answered() > 0 => state.failure = None,
                None => {}
            }
        }
        self.changed.notify_waiters();
    }

    /// A copy that holds nothing is asked no more; `false` if it holds something.
    fn remove_idle(&self, member: &Arc<Member>) -> bool {
        let mut state = self.state();
        if member.held() > 0 {
            return false;
        }
        state.copies.retain(|copy| !Arc::ptr_eq(&copy.member, member));
        true
    }

    /// A copy may have room again.
    fn has_room(&self) {
        self.changed.notify_waiters();
    }
}

impl State {
    fn seen(&self) -> Seen {
        Seen { let_go: self.let_go, failures: self.failures }
    }

    /// `seen` is what a request has seen that looks for the first time.
    fn look(&mut self, asked: &Asked<'_>, keeps: &mut Keeps, seen: &mut Option<Seen>) -> Looked {
        let seen = *seen.get_or_insert(self.seen());
        let ready = self.workers.ready;
        let newest = self.of.as_ref().map(|(of, _)| &of.version);
        // The newest script first, then whoever has the least to do.
        let free = self.copies.iter_mut().filter(|copy| copy.member.held() < ready && !copy.member.is_gone());
        let free = free.min_by_key(|copy| (Some(&copy.version) != newest, copy.member.held()));
        if let Some(copy) = free {
            let is_busy = copy.member.held() > 0;
            if let Some(told) = copy.member.ask(asked, keeps) {
                copy.asked += 1;
                return Looked::Asked(Call::new(Arc::clone(&copy.member), asked.run, told, None), is_busy);
            }
        }
        if self.let_go != seen.let_go {
            return Looked::Not(Not::Again);
        }
        match &self.failure {
            Some(failure) if self.copies.is_empty() && self.starting == 0 => {
                let is_news = self.failures != seen.failures;
                if is_news || Instant::now() < failure.until {
                    return Looked::Not(Not::Ended(failure.outcome.clone()));
                }
                Looked::Wait
            }
            _ => Looked::Wait,
        }
    }

    /// Those that have been asked as often as they may be.
    fn retire(&mut self) -> Vec<Arc<Member>> {
        let Some(most) = self.workers.max_requests else { return Vec::new() };
        let retired: Vec<_> = self.copies.extract_if(.., |copy| copy.asked >= most).collect();
        // What was to take the place of one is one of all now.
        self.replacing -= retired.iter().filter(|copy| copy.is_replaced).count().min(self.replacing);
        retired.into_iter().map(|copy| copy.member).collect()
    }

    /// What is to be started now: one if one more is `wanted`, and one for each that is soon to be replaced.
    fn starts(&mut self, wanted: bool) -> Vec<Source> {
        let Some((of, _)) = &self.of else { return Vec::new() };
        if self.failure.as_ref().is_some_and(|failure| Instant::now() < failure.until) {
            return Vec::new();
        }
        let mut starts = Vec::new();
        let (version, processes) = (&of.version, self.workers.processes);
        let current = self.copies.iter().filter(|copy| copy.version == *version).count();
        // A script that has changed wants one, whoever is asked meanwhile.
        let wanted = wanted || (current == 0 && !self.copies.is_empty());
        // One after another: whoever waits may be asked by the one that is being started.
        if wanted && self.starting == self.replacing && current + self.starting - self.replacing < processes {
            self.starting += 1;
            starts.push(of.source.clone());
        }
        if let Some(most) = self.workers.max_requests {
            // So early that it runs when it is needed.
            let soon = most - most / 8;
            for copy in self.copies.iter_mut().filter(|copy| copy.asked >= soon && !copy.is_replaced) {
                copy.is_replaced = true;
                self.starting += 1;
                self.replacing += 1;
                starts.push(of.source.clone());
            }
        }
        starts
    }

    fn failed(&mut self, outcome: Outcome) {
        let times = self.failure.as_ref().map_or(0, |failure| failure.times) + 1;
        let wait = AGAIN.0.saturating_mul(1 << (times - 1).min(16)).min(AGAIN.1);
        self.failures += 1;
        self.failure = Some(Failure { outcome, times, until: Instant::now() + wait });
    }
}
