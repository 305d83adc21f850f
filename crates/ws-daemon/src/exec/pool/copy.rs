//! The life of one copy of a script: it is started, written to, read, and at its end what it held is settled. It never chooses what the
//! copy is asked.
//!
//! ```text
//!   Taking ── asked its last, idle, changed, drain ──► Leaving: end of file on stdin once it holds nothing
//!      │ breach; stdout closed; a request stopped;        │ 5 s                              │ exit
//!      │ terminate                                        ▼                                  ▼
//!      └──────────────────────────────────────────► Terminating ── TERM, 5 s later KILL ──► reaped
//! ```
//!
//! The child is reaped last, as that of a run is. A copy that ended by itself leaves its background programs alone; one that was stopped
//! leaves nothing of its group.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Signal as Kill, WaitStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{Instrument, Span, info, info_span, warn};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Signal};

use super::figures::{Gone, Running};
use super::member::{Heard, Member, Order};
use super::{Pool, Version};
use crate::exec::capture::Keep;
use crate::exec::contract::Workers;
use crate::exec::job::Folder;
use crate::exec::output::Output;
use crate::exec::process::{Pipes, Process};
use crate::exec::start::{Started, start_copy};
use crate::exec::stream::{LINE_ROOM_BYTES, StreamBuffer};
use crate::exec::{Grace, Inner, orphans, prelude, stopping, supervise};

/// One read from a copy, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Copies of all scripts together; one more is not started, and who waits for it is told `busy`.
const COPIES: usize = 1024;

/// How long the last line of what a copy said of trouble may take to come, when it has ended.
const LAST_LINE: Duration = Duration::from_millis(100);

/// How much of what a copy said last of trouble is told, in bytes.
const LAST_LINE_BYTES: u64 = 512;

/// So late that it never comes.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// What a copy is started by.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where its script lies.
    pub folder: Folder,
    /// The script, by its name without links.
    pub name: Box<str>,
}

/// A script as it looked.
#[derive(Debug, Clone)]
pub struct Of {
    /// By what it is known.
    pub version: Version,
    /// What is started by it.
    pub source: Source,
}

/// One that was started.
struct Copy {
    inner: Arc<Inner>,
    pool: Arc<Pool>,
    member: Arc<Member>,
    process: Process,
    grace: Grace,
    idle: Option<Duration>,
    stage: Stage,
    /// When the next step is due that nobody has to ask for.
    due: Option<Instant>,
    /// Since when it has had nothing to do.
    idle_since: Instant,
    /// Why it is no more, as far as that is known.
    gone: Option<Gone>,
    /// What those are told that it held, if its end itself does not say it.
    why: Option<Arc<str>>,
    _running: Running,
}

/// Where a copy stands; see the diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Taking,
    Leaving,
    Terminating,
    Killed,
}

/// What is written to it.
struct Writing {
    pipe: Option<pipe::Sender>,
    lines: String,
    /// How much of `lines` is written.
    at: usize,
    /// How much was ever written.
    written: u64,
}

/// What is read of it.
struct Reading {
    pipe: Option<pipe::Receiver>,
    buffer: Vec<u8>,
    /// So much of the buffer holds no end of a line.
    looked: usize,
    /// The longest line, in bytes.
    most: usize,
}

/// Says that a copy has not started, if nobody says what became of it.
struct Starting<'a>(Option<&'a Pool>);

/// Starts a copy and attends to it until it is reaped.
pub async fn live(inner: Arc<Inner>, pool: Arc<Pool>, source: Source) {
    let mut starting = Starting(Some(&pool));
    let running = inner.figures.runs(COPIES);
    let begun = match &running {
        Some(_) => begin(&inner, &source).await,
        None => Err(full()),
    };
    starting.0 = None;
    drop(starting);
    let span = info_span!("worker", script = &*source.name);
    match begun.and_then(|begun| Ok((begun, running.ok_or_else(full)?))) {
        Ok(((process, pipes, version, workers), running)) => {
            let pid = process.id();
            let member = Arc::new(Member::copy((pid, orphans::start_time(pid).unwrap_or(0))));
            for why in pool.add(Arc::clone(&member), version) {
                inner.figures.gone(why);
            }
            span.in_scope(|| info!(pid, "worker started"));
            let grace = inner.grace;
            let copy = Copy {
                inner,
                pool,
                member,
                process,
                grace,
                idle: workers.idle,
                stage: Stage::Taking,
                due: None,
                idle_since: Instant::now(),
                gone: None,
                why: None,
                _running: running,
            };
            copy.attend(pipes).instrument(span).await;
        }
        Err(outcome) => {
            span.in_scope(|| info!(?outcome, "a worker did not start"));
            pool.did_not_start(outcome);
        }
    }
}

fn full() -> Outcome {
    let why =
        format!("there are {COPIES} copies of scripts already; an \"idle\" in their contracts lets those go that nobody asks");
    Outcome::Failed(ErrorCode::Busy, why)
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.did_not_start(supervise::lost());
        }
    }
}

/// Starts it, also if someone is just writing the script.
async fn begin(inner: &Arc<Inner>, source: &Source) -> Result<(Process, Pipes, Version, Workers), Outcome> {
    let mut tries = 0;
    loop {
        let (inner_there, source_there) = (Arc::clone(inner), source.clone());
        let attempt = inner.starters.run(&None, move || start_copy(&inner_there, &source_there)).await;
        let (mut started, found) = attempt.ok_or_else(supervise::lost)?;
        if let (Started::Running(running), Some((script, ..))) = (&mut started, &found)
            && let Some(report) = running.1.report.take()
        {
            let told = tokio::select! {
                told = prelude::wait(report, &source.name, script) => told,
                () = inner.stop.drain.cancelled() => Err(Started::Refused(stopping())),
            };
            if let Err(otherwise) = told {
                started = otherwise;
            }
        }
        match (started, found) {
            (Started::Running(running), Some((_, version, workers))) => {
                let (process, pipes) = *running;
                return Ok((process, pipes, version, workers));
            }
            (Started::BeingWritten(_), _) if tries < supervise::BUSY_TEXT.0 => {
                tries += 1;
                sleep(supervise::BUSY_TEXT.1).await;
            }
            (Started::BeingWritten(outcome) | Started::Refused(outcome), _) => return Err(outcome),
            _ => return Err(supervise::lost()),
        }
    }
}

impl Copy {
    /// From started to reaped.
    async fn attend(mut self, pipes: Pipes) {
        let Pipes { stdin, output: [stdout, mut stderr], .. } = pipes;
        let most = self.inner.message.load(Ordering::Relaxed);
        let opened = stdin.ok_or_else(|| io::ErrorKind::NotConnected.into()).and_then(|stdin| open(stdin, stdout, most));
        let (mut writing, mut reading) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                warn!(%error, "a worker cannot be talked with");
                self.pool.remove(&self.member, Some(format!("the worker cannot be talked with: {error}")));
                return self.member.settle(0, &"it was never asked".into(), None);
            }
        };
        stderr.keep(Keep::last(LAST_LINE_BYTES));
        stderr.renew();
        // This task has one already.
        let none = &Span::none();
        {
            let mut draining = pin!(stderr.drain(&none));
            let mut drained = false;
            self.converse(&mut writing, &mut reading, async {
                (&mut draining).await;
                drained = true;
            })
            .await;
            if !drained {
                drop(timeout(LAST_LINE, draining).await);
            }
        }
        let last = stderr.keep(Keep::Nothing).last_line();
        self.end(writing.written, last);
    }

    /// Writes and reads until it has ended and all is read that it said.
    async fn converse(&mut self, writing: &mut Writing, reading: &mut Reading, draining: impl Future<Output = ()>) {
        let inner = Arc::clone(&self.inner);
        let member = Arc::clone(&self.member);
        let mut draining = pin!(draining);
        let mut drained = false;
        let mut timer = pin!(sleep_until(Instant::now() + NEVER));
        let (mut drain, mut terminate, mut kill) =
            (pin!(inner.stop.drain.cancelled()), pin!(inner.stop.terminate.cancelled()), pin!(inner.stop.kill.cancelled()));
        let (mut drains, mut terminates, mut kills) = (false, false, false);
        loop {
            self.look(writing, drains);
            self.wind(timer.as_mut());
            tokio::select! {
                result = writing.write(), if writing.has_more() => if result.is_err() {
                    // What was not written goes to another one.
                    writing.pipe = None;
                    self.is_about_to_end();
                },
                read = reading.read(), if reading.pipe.is_some() => match read {
                    Ok(0) | Err(_) => {
                        reading.pipe = None;
                        self.is_about_to_end();
                    }
                    Ok(_) => self.hear(reading, writing.written).await,
                },
                result = self.process.exited(false) => {
                    if let Err(error) = result {
                        warn!(%error, "the watch on a worker failed; it is stopped");
                        self.process.signal_group(Kill::KILL);
                    }
                    // What it said before its end is in the pipe.
                    while reading.now() {
                        self.hear(reading, writing.written).await;
                    }
                    return;
                }
                () = member.changed.notified() => {}
                () = &mut draining, if !drained => drained = true,
                () = &mut timer => self.next_step(),
                () = &mut drain, if !drains => drains = true,
                () = &mut terminate, if !terminates => {
                    terminates = true;
                    self.terminate(Gone::Stopped, "the daemon was stopped while the worker had the request");
                    // At shutdown the daemon says when.
                    self.due = None;
                }
                () = &mut kill, if !kills => {
                    kills = true;
                    self.kill();
                }
            }
        }
    }

    /// Fetches what is to be written, and sees what is to be done.
    fn look(&mut self, writing: &mut Writing, drains: bool) {
        let order = if writing.has_more() { self.member.order() } else { writing.fetch(&self.member) };
        match order {
            Order::Stop => self.terminate(Gone::Stopped, "the worker was stopped because of another request that it had"),
            Order::Leave => self.leave(),
            Order::GoOn if drains && self.stage == Stage::Taking && self.pool.remove_idle(&self.member) => self.leave(),
            Order::GoOn => {}
        }
        let has_nothing = self.member.held() == 0;
        if !has_nothing {
            self.idle_since = Instant::now();
        }
        if has_nothing && self.stage >= Stage::Leaving && writing.pipe.take().is_some() && self.stage == Stage::Leaving {
            self.due = Some(Instant::now() + self.grace.kill);
        }
    }

    /// Sets the timer, if what is due is due before it rings.
    fn wind(&self, timer: std::pin::Pin<&mut tokio::time::Sleep>) {
        let idle = self.idle.filter(|_| self.stage == Stage::Taking && self.member.held() == 0);
        let due = self.due.or(idle.map(|idle| self.idle_since + idle));
        if let Some(due) = due.filter(|due| *due < timer.deadline() || timer.is_elapsed()) {
            timer.reset(due);
        } else if timer.is_elapsed() {
            timer.reset(Instant::now() + NEVER);
        }
    }

    /// The timer rang.
    fn next_step(&mut self) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            match self.stage {
                Stage::Taking | Stage::Leaving if self.gone == Some(Gone::Ended) => {
                    self.terminate(Gone::Ended, "the worker closed its stdin or stdout while it had the request");
                }
                Stage::Taking | Stage::Leaving => self.terminate(Gone::Stopped, "the worker did not end"),
                Stage::Terminating => self.kill(),
                Stage::Killed => {}
            }
            return;
        }
        let is_idle = self.idle.is_some_and(|idle| self.idle_since + idle <= now);
        if is_idle && self.stage == Stage::Taking && self.pool.remove_idle(&self.member) {
            self.gone = Some(Gone::Idle);
            self.leave();
        }
    }

    /// It is asked no more, and ends once it holds nothing.
    fn leave(&mut self) {
        self.stage = self.stage.max(Stage::Leaving);
    }

    /// It gets TERM; what it holds is told `why`.
    fn terminate(&mut self, gone: Gone, why: &str) {
        if self.stage >= Stage::Terminating {
            return;
        }
        self.gone.get_or_insert(gone);
        self.why.get_or_insert_with(|| why.into());
        self.stage = Stage::Terminating;
        self.member.give_order(Order::Leave);
        self.pool.remove(&self.member, None);
        self.due = Some(Instant::now() + self.grace.kill);
        self.process.signal_group(Kill::TERM);
    }

    fn kill(&mut self) {
        self.terminate(Gone::Stopped, "the daemon was stopped while the worker had the request");
        self.stage = Stage::Killed;
        self.process.signal_group(Kill::KILL);
    }

    /// Takes the lines that it said.
    async fn hear(&mut self, reading: &mut Reading, written: u64) {
        let mut readers: Vec<Arc<StreamBuffer>> = Vec::new();
        match reading.lines(|line| self.member.hear(line), &mut readers) {
            Ok(()) => self.pool.has_room(),
            Err(fault) => self.breach(reading, written, &fault),
        }
        for reader in readers {
            reader.room(LINE_ROOM_BYTES).await;
        }
    }

    /// It said what is no answer: nothing that it says is believed any more.
    fn breach(&mut self, reading: &mut Reading, written: u64, fault: &str) {
        warn!(fault, "a worker is replaced");
        reading.pipe = None;
        let why: Arc<str> = format!("the worker was stopped: {fault}").into();
        self.terminate(Gone::Breach, &why);
        self.member.settle(written, &why, None);
    }

    /// It has closed its stdin or its stdout: its end follows, or is seen to. Until then it keeps its place, so that one that ends again and
    /// again is not started again and again.
    fn is_about_to_end(&mut self) {
        if self.stage < Stage::Terminating && self.gone.is_none() {
            self.gone = Some(Gone::Ended);
            self.member.give_order(Order::Leave);
            self.due = Some(Instant::now() + self.grace.drain);
        }
    }

    /// Reaps it, and settles what it held.
    fn end(self, written: u64, last: Option<String>) {
        let Self { pool, member, process, stage, gone, why, inner, .. } = self;
        if stage >= Stage::Terminating {
            process.signal_group(Kill::KILL);
        }
        let pid = process.id();
        let status = process.reap();
        let signal = status.as_ref().ok().and_then(|status| status.terminating_signal());
        let how = said(&status);
        let is_by_itself = stage == Stage::Taking || gone == Some(Gone::Ended);
        info!(pid, how, why = why.as_deref(), "worker ended");
        let failed = (is_by_itself && member.answered() == 0).then(|| {
            let last = last.map_or(String::new(), |last| format!(": {last}"));
            format!("the worker ended ({how}) before it had answered anything{last}; it is to answer each line of stdin until that ends")
        });
        pool.remove(&member, failed);
        if let Some(gone) = gone.or(is_by_itself.then_some(Gone::Ended)) {
            inner.figures.gone(gone);
        }
        let why = why.unwrap_or_else(|| format!("the worker ended ({how}) while it had the request").into());
        member.settle(written, &why, signal);
    }
}

/// How it ended.
fn said(status: &io::Result<WaitStatus>) -> String {
    match status {
        Ok(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {}", Signal(signal)),
            (None, None) => "in no way that is known".to_owned(),
        },
        Err(error) => format!("its exit status was lost: {error}"),
    }
}

fn open(stdin: OwnedFd, stdout: Output, most: usize) -> io::Result<(Writing, Reading)> {
    let pipe = Some(pipe::Sender::from_owned_fd_unchecked(stdin)?);
    let writing = Writing { pipe, lines: String::new(), at: 0, written: 0 };
    let pipe = stdout.into_pipe().ok_or(io::ErrorKind::NotConnected)?;
    let pipe = Some(pipe::Receiver::from_owned_fd_unchecked(pipe)?);
    Ok((writing, Reading { pipe, buffer: Vec::new(), looked: 0, most }))
}

impl Writing {
    fn has_more(&self) -> bool {
        self.pipe.is_some() && self.at < self.lines.len()
    }

    /// Fetches what waits, when all is written that did.
    fn fetch(&mut self, member: &Member) -> Order {
        const KEPT_BYTES: usize = 16 * 1024;
        self.lines.clear();
        self.lines.shrink_to(KEPT_BYTES);
        self.at = 0;
        member.fetch(&mut self.lines)
    }

    /// Writes some of it. Cancel safe.
    async fn write(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let length = pipe.write(&self.lines.as_bytes()[self.at..]).await?;
        self.at += length;
        self.written += length as u64;
        Ok(())
    }
}

impl Reading {
    /// Reads some more. Cancel safe.
    async fn read(&mut self) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        self.buffer.reserve(READ_BYTES);
        pipe.read_buf(&mut self.buffer).await
    }

    /// Reads what is there; whether there was something.
    fn now(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        self.buffer.reserve(READ_BYTES);
        pipe.try_read_buf(&mut self.buffer).is_ok_and(|length| length > 0)
    }

    /// Gives all whole lines to `hear`, and keeps the rest; collects who reads live what they say.
    fn lines(
        &mut self,
        mut hear: impl FnMut(&str) -> Result<Heard, String>,
        readers: &mut Vec<Arc<StreamBuffer>>,
    ) -> Result<(), String> {
        let Some(end) = self.buffer[self.looked..].iter().rposition(|byte| *byte == b'\n') else {
            self.looked = self.buffer.len();
            return if self.looked > self.most { Err(self.too_long()) } else { Ok(()) };
        };
        let end = self.looked + end;
        let text = std::str::from_utf8(&self.buffer[..end]).map_err(|_| "it said what is not UTF-8".to_owned())?;
        for line in text.split('\n').filter(|line| !line.trim_ascii().is_empty()) {
            if line.len() > self.most {
                return Err(self.too_long());
            }
            match hear(line)? {
                Heard::Taken(None) => {}
                Heard::Taken(Some(reader)) => {
                    if !readers.iter().any(|known| Arc::ptr_eq(known, &reader)) {
                        readers.push(reader);
                    }
                }
                Heard::Message => return Err("it said a message with a \"name\", and not an answer".to_owned()),
            }
        }
        self.buffer.drain(..=end);
        self.buffer.shrink_to(2 * READ_BYTES);
        self.looked = self.buffer.len();
        Ok(())
    }

    fn too_long(&self) -> String {
        format!("it said a line that is longer than {} bytes", self.most)
    }
}
