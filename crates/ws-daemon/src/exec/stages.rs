//! The stages of one run, each a value that is used up by the next, so that whoever has it done can write down where it stands
//! in between. It never says more than the caller of a stage asked for, and a stage that is dropped ends the run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::capture::Captured;
use super::job::{Capture, Job};
use super::line::{Held, Places, Wait};
use super::room::Place;
use super::supervise::{self, Attended, Begun, Not};
use super::{Executor, stopping};

/// A job that has its place in line.
#[derive(Debug)]
pub struct Admitted {
    pub(super) run: Run,
    pub(super) turn: Turn,
}

/// A job whose turn has come: it has a slot, and nothing of it has started.
#[derive(Debug)]
pub struct Ready {
    run: Run,
    slot: Held,
    /// Its places among those of its script that run at once, if it had to wait for one.
    places: Places,
}

/// What became of a run that did not start.
#[derive(Debug)]
pub enum NotStarted {
    /// It is over.
    Ended(Ended),
    /// Its script's contract lets no more of it run at once: it is in line again, and holds up nobody else.
    InLine(Admitted),
}

/// A script that runs. Dropped, its group is killed.
#[derive(Debug)]
pub struct Running {
    run: Run,
    begun: Begun,
    slot: Held,
}

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    job: Arc<Job>,
    outcome: Outcome,
    never_started: bool,
    drained: bool,
    captured: Option<Box<Captured>>,
    message: Option<Box<str>>,
    ms: Option<u64>,
}

/// What every stage has.
#[derive(Debug)]
pub(super) struct Run {
    job: Arc<Job>,
    executor: Executor,
    _closing: Closing,
    place: Place,
    /// When it was asked for, and when its turn came if it had to wait.
    since: Instant,
}

/// Closes the stream of a run when the run is over, however that came about.
#[derive(Debug)]
pub(super) struct Closing(Arc<Job>);

impl Closing {
    pub(super) fn new(job: &Arc<Job>) -> Self {
        Self(Arc::clone(job))
    }
}

/// A run's slot, or its place in the line for one. Taken when the run is admitted: tasks get their first turn in any order.
#[derive(Debug)]
pub(super) enum Turn {
    Now(Held),
    Later(Wait),
    /// First for a place among those of its script, beside those it has, then for a slot.
    InLine(Result<Held, Wait>, Places),
}

impl Admitted {
    /// Whether there is a slot at once; else [`Admitted::turn`] waits.
    pub fn has_slot(&self) -> bool {
        matches!(self.turn, Turn::Now(_))
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// The end of a run whose turn did not come: the daemon stops, or it was cancelled.
    pub async fn turn(self) -> Result<Ready, Ended> {
        match self.turn {
            Turn::Now(slot) => Ready { run: self.run, slot, places: Places::default() }.unless_stopped(),
            // Boxed: a run that need not wait must not hold the memory of one that does.
            turn => Box::pin(self.run.wait(turn)).await,
        }
    }

    /// Waits for a slot and runs the script to its end. Its place is free again when this returns, before anybody is told.
    pub async fn run(self) -> Ended {
        let mut admitted = self;
        loop {
            let ready = match admitted.turn().await {
                Ok(ready) => ready,
                Err(ended) => return ended,
            };
            // Boxed: a run in line must not hold the memory of one that runs.
            let done = Box::pin(async {
                let end = ready.start().await?.end();
                Ok(end.await)
            });
            match done.await {
                Ok(ended) | Err(NotStarted::Ended(ended)) => return ended,
                Err(NotStarted::InLine(again)) => admitted = again,
            }
        }
    }
}

impl Ready {
    /// Starts the script.
    ///
    /// # Errors
    /// The end of a run that did not start: there is no such script, it cannot be executed, its contract refuses it, the daemon
    /// stops, or it was cancelled. Or its next wait.
    pub async fn start(self) -> Result<Running, NotStarted> {
        let Self { mut run, slot, places } = self.unless_stopped().map_err(NotStarted::Ended)?;
        match supervise::begin(&run.executor.0, &run.job, run.since, places).await {
            Ok(begun) => Ok(Running { run, begun, slot }),
            Err(Not::Ended(outcome)) => Err(NotStarted::Ended(run.unstarted(outcome, false))),
            Err(Not::Drained) => Err(NotStarted::Ended(run.drained())),
            Err(Not::InLine(line, places)) => {
                drop(slot);
                run.place.set_in_line(true);
                let turn = Turn::InLine(line.enter(run.place.asker()), places);
                Err(NotStarted::InLine(Admitted { run, turn }))
            }
        }
    }

    fn unless_stopped(self) -> Result<Self, Ended> {
        if self.run.executor.0.stop.drain.is_cancelled() {
            return Err(self.run.drained());
        }
        if self.run.job.cancel.is_cancelled() {
            return Err(self.run.cancelled());
        }
        Ok(self)
    }
}

impl Running {
    /// The script's process id, and when it started as the system counts (0 where that is not told): together they name it also
    /// after a crash of the daemon. Reads a file of /proc. `None` if it is no process of its own.
    pub fn process(&self) -> Option<(u32, u64)> {
        self.begun.process()
    }

    /// The script's process id; `None` if it is no process of its own.
    pub fn pid(&self) -> Option<u32> {
        self.begun.pid()
    }

    /// Waits for the script's end.
    pub fn end(self) -> impl Future<Output = Ended> + Send {
        // Taken apart before it waits: what waits holds each part once.
        let Self { run, begun, slot } = self;
        async move {
            let Attended { outcome, captured, message, ms } = supervise::attend(&run.executor.0, &run.job, begun).await;
            drop(slot);
            run.executor.0.outcomes.count(&outcome);
            run.executor.0.seconds.took(Duration::from_millis(ms));
            Ended { job: run.over(), outcome, never_started: false, drained: false, captured, message, ms: Some(ms) }
        }
    }
}

impl Ended {
    /// How it ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// What was kept of what the script printed: there is something if it started and [`Capture::Tail`] or [`Capture::Json`] was
    /// asked for.
    pub fn captured(&self) -> Option<&Captured> {
        self.captured.as_deref()
    }

    /// What a worker said of how it ended, for people.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// How long the script ran, in milliseconds; `None` if it never started.
    pub fn ms(&self) -> Option<u64> {
        self.ms
    }

    /// Whether nothing of it was ever started.
    pub fn never_started(&self) -> bool {
        self.never_started
    }

    /// Whether it never started only because the daemon stops: another daemon, or this one's next life, may do it.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// Logs how it ended: for after that has been told, since somebody waits for it.
    pub fn log(&self) {
        let Self { job, outcome, .. } = self;
        job.span().in_scope(|| info!(peer = %job.peer, ?outcome, "run ended"));
    }
}

impl Run {
    pub(super) fn new(job: Arc<Job>, closing: Closing, executor: Executor, place: Place) -> Self {
        Self { job, executor, _closing: closing, place, since: Instant::now() }
    }

    /// Waits in line.
    async fn wait(mut self, turn: Turn) -> Result<Ready, Ended> {
        let turn = async {
            match turn {
                Turn::Now(slot) => (Places::default(), slot),
                Turn::Later(wait) => (Places::default(), wait.await),
                Turn::InLine(turn, places) => {
                    let places = places.with(have(turn).await);
                    (places, have(self.executor.0.slots.enter(self.place.asker())).await)
                }
            }
        };
        let (places, slot) = tokio::select! {
            biased;
            () = self.executor.0.stop.drain.cancelled() => return Err(self.drained()),
            () = self.job.cancel.cancelled() => return Err(self.cancelled()),
            turn = turn => turn,
        };
        self.place.set_in_line(false);
        self.since = Instant::now();
        Ready { run: self, slot, places }.unless_stopped()
    }

    /// Gives back what it held.
    fn over(self) -> Arc<Job> {
        self.job
    }

    fn drained(self) -> Ended {
        self.unstarted(stopping(), true)
    }

    fn cancelled(self) -> Ended {
        self.unstarted(Outcome::failed(ErrorCode::Cancelled, "cancelled by whoever asked, before it started"), false)
    }

    fn unstarted(self, outcome: Outcome, drained: bool) -> Ended {
        self.executor.0.outcomes.count(&outcome);
        Ended { job: self.over(), outcome, never_started: true, drained, captured: None, message: None, ms: None }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Capture::Stream(buffer) = &self.0.capture {
            buffer.close();
        }
    }
}

/// A place at once, or after the wait for it.
async fn have(turn: Result<Held, Wait>) -> Held {
    match turn {
        Ok(held) => held,
        Err(wait) => wait.await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    use std::path::PathBuf;
    use std::time::{SystemTime, UNIX_EPOCH};

    use serde_json::value::RawValue;
    use tempfile::TempDir;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;
    use ws_daemon_protocol::id::RunId;
    use ws_daemon_protocol::message::Params;
    use ws_daemon_protocol::outcome::Signal;

    use super::*;
    use crate::config::Limits;
    use crate::exec::{Caller, ChunkData, Folder, Grace, Stats, StreamBuffer, Surroundings};
    use crate::tasks::{Stop, Tasks};

    /// So long that whoever waits for it has failed.
    const LONG: Duration = Duration::from_mins(1);

    const SHORT: Duration = Duration::from_millis(150);

    struct Stage {
        prefix: TempDir,
        executor: Executor,
        stop: Stop,
    }

    fn stage_of(runs: usize, kill: Duration, drain: Duration) -> Stage {
        let prefix = tempfile::tempdir().expect("a temporary folder");
        for folder in ["scripts", "hooks"] {
            fs::DirBuilder::new().mode(0o755).create(prefix.path().join(folder)).expect("made");
        }
        let environment =
            [("PATH", "/usr/bin:/bin"), ("WSDAEMON_DEADLINE", "0")].map(|(name, value)| (name.into(), value.into()));
        let around = Surroundings::new(prefix.path(), &prefix.path().join("socket"), environment.into_iter()).expect("no NUL");
        let limits = Limits {
            runs,
            waiting: 8,
            waiting_bytes: 1 << 20,
            message: 1 << 20,
            nesting: 128,
            connections: 1,
            half_open: 1,
            address_connections: 1,
            address_failures: 1,
            local_connections: 1,
            held_bytes: 0,
            spool_bytes: 0,
            spool_runs: 0,
            peer_runs: 0,
        };
        let stop = Stop::default();
        let around = around.with_grace(Grace { kill, drain });
        let executor = Executor::new(around, &limits, Tasks::default(), Tasks::default(), stop.clone()).expect("threads");
        Stage { prefix, executor, stop }
    }

    fn stage() -> Stage {
        stage_of(4, LONG, LONG)
    }

    impl Stage {
        fn write(&self, name: &str, text: &str) {
            let path = self.prefix.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        }

        /// A script `name` and a job for it.
        fn job(&self, name: &str, text: &str) -> Job {
            self.write(&format!("scripts/{name}"), text);
            Job {
                run: RunId::new(Uuid::now_v7().to_string()),
                id: None,
                trace: None,
                name: name.into(),
                params: Params::new(None::<&RawValue>),
                peer: "tester".into(),
                caller: Caller::Local,
                folder: Folder::Scripts,
                timeout: None,
                capture: Capture::None,
                cancel: CancellationToken::new(),
            }
        }

        fn admit(&self, job: Job) -> Admitted {
            self.executor.admit(job).expect("a place")
        }

        async fn run(&self, job: Job) -> Ended {
            timeout(LONG, self.admit(job).run()).await.expect("it ends")
        }

        fn path(&self, name: &str) -> PathBuf {
            self.prefix.path().join(name)
        }
    }

    fn stopped_by(ended: &Ended, code: ErrorCode, signal: i32) {
        match ended.outcome() {
            Outcome::Stopped(found, _, Signal(by)) => assert_eq!((*found, *by), (code, signal)),
            other => panic!("{other:?}"),
        }
        assert!(!ended.never_started() && ended.ms().is_some());
    }

    /// Ends a run when its script has said `word`.
    async fn cancelled_at(stage: &Stage, mut job: Job, word: &str) -> Ended {
        let buffer = Arc::new(StreamBuffer::new());
        job.capture = Capture::Stream(Arc::clone(&buffer));
        let cancel = job.cancel.clone();
        let hear = async {
            let chunk = buffer.next(1000).await.expect("it speaks");
            assert_eq!(chunk.data, ChunkData::Text(format!("{word}\n")));
            cancel.cancel();
        };
        timeout(LONG, async { tokio::join!(stage.admit(job).run(), hear).0 }).await.expect("it ends")
    }

    #[tokio::test]
    async fn a_script_finds_its_deadline_only_if_it_has_one() {
        let stage = stage();
        let mut job = stage.job("s", "echo \"[$WSDAEMON_DEADLINE]\"");
        job.capture = Capture::Tail;
        assert_eq!(stage.run(job).await.captured().and_then(|kept| kept.stdout.clone()).expect("kept").data, "[]\n");
        let mut job = stage.job("s", "echo $WSDAEMON_DEADLINE");
        (job.capture, job.timeout) = (Capture::Tail, Some(LONG));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let said = stage.run(job).await.captured().and_then(|kept| kept.stdout.clone()).expect("kept").data;
        let deadline: f64 = said.trim().parse().expect("a number");
        assert!((-0.01..30.0).contains(&(deadline - now - 60.0)), "{said}");
        assert_eq!(said.trim().split_once('.').map(|(_, ms)| ms.len()), Some(3), "{said}");
    }

    #[tokio::test]
    async fn a_script_whose_time_is_over_is_stopped_whatever_it_makes_of_term() {
        let stage = stage_of(4, SHORT, LONG);
        let mut job = stage.job("mild", "exec sleep 1000");
        job.timeout = Some(SHORT);
        stopped_by(&stage.run(job).await, ErrorCode::TimedOut, libc::SIGTERM);
        let mut job = stage.job("polite", "trap 'exit 3' TERM; while :; do sleep 0.05; done");
        job.timeout = Some(SHORT);
        let ended = stage.run(job).await;
        stopped_by(&ended, ErrorCode::TimedOut, libc::SIGTERM);
        assert!(ended.ms().is_some_and(|ms| (150..30_000).contains(&ms)), "{:?}", ended.ms());
        let mut job = stage.job("deaf", "trap '' TERM; while :; do sleep 1000; done");
        job.timeout = Some(SHORT);
        stopped_by(&stage.run(job).await, ErrorCode::TimedOut, libc::SIGKILL);
        let mut job = stage.job("quick", "exit 5");
        job.timeout = Some(LONG);
        assert_eq!(*stage.run(job).await.outcome(), Outcome::Exited(5));
    }

    #[tokio::test]
    async fn what_left_the_group_does_not_hold_a_stopped_run() {
        let stage = stage_of(4, SHORT, SHORT);
        let mut job = stage.job("s", "setsid sh -c 'echo $$ > left; exec sleep 1000' & wait");
        job.timeout = Some(Duration::from_secs(1));
        stopped_by(&stage.run(job).await, ErrorCode::TimedOut, libc::SIGTERM);
        let left: i32 = fs::read_to_string(stage.path("left")).expect("it ran").trim().parse().expect("a number");
        let left = rustix::process::Pid::from_raw(left).expect("a process");
        rustix::process::kill_process(left, rustix::process::Signal::KILL).expect("it is let be");
    }

    #[tokio::test]
    async fn a_cancelled_script_is_stopped_with_its_group() {
        let stage = stage();
        let job = stage.job("mild", "sleep 1000 & echo $! > child; echo ready; wait");
        let ended = cancelled_at(&stage, job, "ready").await;
        stopped_by(&ended, ErrorCode::Cancelled, libc::SIGTERM);
        let job = stage.job("polite", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        stopped_by(&cancelled_at(&stage, job, "ready").await, ErrorCode::Cancelled, libc::SIGTERM);
        let stage = stage_of(4, SHORT, LONG);
        let job = stage.job("deaf", "trap '' TERM; echo ready; while :; do sleep 1000; done");
        stopped_by(&cancelled_at(&stage, job, "ready").await, ErrorCode::Cancelled, libc::SIGKILL);
    }

    #[tokio::test]
    async fn a_run_in_line_ends_at_once_when_it_is_cancelled_or_the_daemon_stops() {
        let stage = stage_of(1, LONG, LONG);
        let first = stage.admit(stage.job("s", "exit 0"));
        assert!(first.has_slot());
        let (second, third) = (stage.job("s", "exit 0"), stage.job("s", "exit 0"));
        let cancel = second.cancel.clone();
        let (second, third) = (stage.admit(second), stage.admit(third));
        assert!(!second.has_slot());
        assert_eq!(stage.executor.stats(), Stats { running: 1, in_line: 2 });
        cancel.cancel();
        let ended = timeout(LONG, second.turn()).await.expect("at once").expect_err("cancelled");
        assert!(matches!(ended.outcome(), Outcome::Failed(ErrorCode::Cancelled, _)));
        assert!(ended.never_started() && !ended.drained() && ended.ms().is_none());
        stage.stop.drain.cancel();
        let ended = timeout(LONG, third.turn()).await.expect("at once").expect_err("drained");
        assert!(matches!(ended.outcome(), Outcome::Failed(ErrorCode::Busy, _)));
        assert!(ended.never_started() && ended.drained());
        // Its turn had come, and still nothing of it started.
        let ended = first.turn().await.expect_err("drained");
        assert!(ended.drained());
        assert_eq!(stage.executor.stats(), Stats { running: 0, in_line: 0 });
    }

    #[tokio::test]
    async fn the_stages_can_be_gone_through_one_by_one() {
        let stage = stage();
        let job = stage.job("s", "echo $$ > pid; exit 4");
        let ready = stage.admit(job).turn().await.expect("a slot");
        let running = ready.start().await.expect("it starts");
        let (pid, started) = running.process().expect("a process");
        let (again, same) = running.process().expect("the same");
        assert!(pid > 0 && (pid, started) == (again, same));
        #[cfg(target_os = "linux")]
        assert!(started > 0);
        let ended = timeout(LONG, running.end()).await.expect("it ends");
        assert_eq!((ended.outcome(), ended.never_started()), (&Outcome::Exited(4), false));
        assert_eq!(fs::read_to_string(stage.path("pid")).expect("written").trim(), pid.to_string());
        let mut job = stage.job("s", "exit 0");
        job.name = "none".into();
        let ready = stage.admit(job).turn().await.expect("a slot");
        let ended = ready.start().await.expect_err("there is none");
        let NotStarted::Ended(ended) = ended else { panic!("{ended:?}") };
        assert!(matches!(ended.outcome(), Outcome::Failed(ErrorCode::NotFound, _)));
        assert!(ended.never_started() && !ended.drained());
    }

    #[tokio::test]
    async fn output_is_kept_as_asked_for() {
        let stage = stage();
        let text = "echo '{ \"a\": [1.0] }'; echo trouble >&2; exit 2";
        for (capture, stdout, result) in
            [(Capture::Tail, Some("{ \"a\": [1.0] }\n"), None), (Capture::Json, None, Some("{\"a\":[1.0]}"))]
        {
            let mut job = stage.job("s", text);
            job.capture = capture;
            let ended = stage.run(job).await;
            let kept = ended.captured().expect("kept");
            assert_eq!(kept.stdout.as_ref().map(|text| text.data.as_str()), stdout);
            assert_eq!(kept.result.as_ref().map(|result| result.get()), result);
            assert_eq!((kept.stderr.data.as_str(), ended.outcome()), ("trouble\n", &Outcome::Exited(2)));
        }
        assert!(stage.run(stage.job("s", text)).await.captured().is_none());
    }

    #[tokio::test]
    async fn of_many_at_once_each_is_told_as_it_was() {
        let stage = stage_of(64, LONG, LONG);
        let job = |n: usize| {
            // Some end before they are first looked at, some after they were left alone, some later.
            let nap = ["", "sleep 0.003; ", "sleep 0.08; "][n % 3];
            let mut job = stage.job(&format!("s{n}"), &format!("echo {n}; echo trouble {n} >&2; {nap}exit {n}"));
            job.capture = Capture::Tail;
            job
        };
        let jobs: Vec<Job> = (0..48).map(job).collect();
        let runs = jobs.into_iter().map(|job| stage.run(job));
        for (n, ended) in futures_util::future::join_all(runs).await.into_iter().enumerate() {
            let kept = ended.captured().expect("kept");
            assert_eq!(*ended.outcome(), Outcome::Exited(u8::try_from(n).expect("few")));
            assert_eq!(kept.stdout.as_ref().map(|text| text.data.as_str()), Some(format!("{n}\n").as_str()));
            assert_eq!(kept.stderr.data, format!("trouble {n}\n"));
        }
    }

    #[tokio::test]
    async fn a_stream_is_closed_when_its_run_is_over_also_if_it_never_started() {
        let stage = stage();
        let started = Instant::now();
        for name in ["s", "none"] {
            let buffer = Arc::new(StreamBuffer::new());
            let mut job = stage.job("s", "echo one; echo two >&2");
            (job.name, job.capture) = (name.into(), Capture::Stream(Arc::clone(&buffer)));
            let read = async {
                let mut said = String::new();
                while let Some(chunk) = buffer.next(1000).await {
                    let ChunkData::Text(text) = chunk.data else { panic!("text") };
                    said.push_str(&text);
                }
                said
            };
            let (_, said) = timeout(LONG, async { tokio::join!(stage.run(job), read) }).await.expect("it ends");
            assert_eq!(said.len(), if name == "s" { 8 } else { 0 }, "{said}");
        }
        assert!(started.elapsed() < LONG);
        let buffer = Arc::new(StreamBuffer::new());
        let mut job = stage.job("s", "exit 0");
        job.capture = Capture::Stream(Arc::clone(&buffer));
        stage.stop.turn_away.cancel();
        stage.executor.admit(job).expect_err("it stops");
        assert_eq!(timeout(LONG, buffer.next(1000)).await.expect("closed"), None);
    }

    #[tokio::test]
    async fn hooks_are_not_scripts_and_scripts_are_listed() {
        let stage = stage();
        stage.write("hooks/h", "exit 6");
        let mut job = stage.job("s", "exit 0");
        (job.name, job.folder) = ("h".into(), Folder::Hooks);
        assert_eq!(*stage.run(job).await.outcome(), Outcome::Exited(6));
        let mut job = stage.job("s", "exit 0");
        job.name = "h".into();
        assert!(matches!(stage.run(job).await.outcome(), Outcome::Failed(ErrorCode::NotFound, _)));
        let mut job = stage.job("s", "exit 0");
        (job.name, job.folder) = ("../scripts/s".into(), Folder::Hooks);
        let ended = stage.run(job).await;
        let Outcome::Failed(ErrorCode::Forbidden, said) = ended.outcome() else { panic!("{ended:?}") };
        assert!(said.contains("hooks/"), "{said}");

        fs::DirBuilder::new().recursive(true).mode(0o755).create(stage.path("scripts/deep/er")).expect("made");
        stage.write("scripts/deep/er/x", "exit 0");
        fs::write(stage.path("scripts/note.txt"), "12345").expect("written");
        for (target, link) in [("deep/er/x", "inside"), ("../hooks/h", "outside"), (".", "circle")] {
            std::os::unix::fs::symlink(target, stage.path("scripts").join(link)).expect("linked");
        }
        let listed: Vec<_> = stage.executor.scripts().await;
        let listed: Vec<_> = listed.iter().map(|entry| (entry.name.as_str(), entry.executable, entry.bytes)).collect();
        assert_eq!(listed, [("deep/er/x", true, 17), ("inside", true, 17), ("note.txt", false, 5), ("s", true, 17)]);
        assert_eq!(stage.executor.capacity(), 4);
    }
}
