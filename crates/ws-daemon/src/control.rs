//! The built-in commands, and the desk where what links hand up is sorted: runs to the worker, what is said of runs to whoever
//! has them, commands carried out here, statuses that nobody waits for passed on. It waits for nothing slow but the
//! audit log, when that takes nothing more.

mod asking;
mod callers;
mod entry;
mod explain;
mod figures;
mod gate;
mod hooks;
mod keys;
mod orders;
mod ping;
mod readiness;
mod relay;
mod shown;

pub use asking::{Asker, Whose};
pub use keys::ROOTS;
pub use orders::{Order, Orders};
pub use ping::Hears;
pub use readiness::Readiness;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use ws_daemon_protocol::codec::v2::Verdict;
use ws_daemon_protocol::command::{Command, LogChange, OutputQuery, RunQuery, Topic, Which};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use crate::audit::Audit;
use crate::callers::Callers;
use crate::config::{InUse, LogFilter};
use crate::exec::Executor;
use crate::levels::Levels;
use crate::link::{Inbound, IncomingCommand, IncomingRun, Link, Replier};
use crate::news::{News, Subscription};
use crate::origin::{Origin, Said};
use crate::peers::{DialerHandle, Peers};
use crate::policy::Rules;
use crate::spool::Spool;
use crate::tasks::{Tasks, Turn};
use crate::tls::{ClientTls, ServerTls};
use crate::worker::Worker;
use gate::{Gate, Shut};
use hooks::Hooks;
use relay::Relays;

/// What links have handed up and is sorted in one turn at most: much of it goes on as tasks.
const SORTED: usize = 16;

/// Carries out commands. Clones are the same.
#[derive(Debug, Clone)]
pub struct Control(Arc<Means>);

/// What commands work with.
#[derive(Debug)]
pub struct Means {
    /// On a client: who can pause the link.
    pub dialer: Option<DialerHandle>,
    /// Who is there.
    pub peers: Peers,
    /// What is asked.
    pub origin: Origin,
    /// What is done.
    pub worker: Worker,
    /// What can be done.
    pub executor: Executor,
    /// What is kept.
    pub spool: Option<Spool>,
    /// Where it is told what happens.
    pub news: News,
    /// On a server: where it listens.
    pub reached: Option<SocketAddr>,
    /// On a server: its keys.
    pub tls: Option<ServerTls>,
    /// On a client: the roots that it believes.
    pub client_tls: Option<ClientTls>,
    /// Who may ask over HTTP.
    pub callers: Callers,
    /// Who may ask for what.
    pub rules: Rules,
    /// Where it is written down who asked for what.
    pub audit: Audit,
    /// Runs that a peer may ask for in a second.
    pub peer_runs: InUse<usize>,
    /// Has the settings read again.
    pub reload: Orders,
    /// Has the daemon begin a new life.
    pub restart: Orders,
    /// What is logged.
    pub levels: Levels,
    /// Counts what nobody waits for.
    pub rest: Tasks,
    /// When the daemon started.
    pub since: Instant,
}

/// What a command of a local process comes to.
#[derive(Debug)]
pub enum Answer {
    /// How it went.
    Outcome(Outcome),
    /// It went well, and this is what was asked for.
    Result(Value),
    /// Lines about a run, the last one final.
    Lines(mpsc::Receiver<Said>),
    /// Lines of the answer itself, each a JSON object whose first member is a number or a word, still without `id`.
    Objects(mpsc::Receiver<String>),
    /// News for as long as the process listens.
    News(Subscription),
}

impl Control {
    /// The commands of a daemon.
    #[must_use]
    pub fn new(means: Means) -> Self {
        Self(Arc::new(means))
    }

    /// Whether a command can be carried out on this daemon.
    ///
    /// # Errors
    /// The outcome that says why not.
    pub fn check(&self, command: &Command) -> Result<(), Outcome> {
        let why = match (command, self.0.reached) {
            (Command::Pause(_), _) if self.0.dialer.is_none() => {
                "PAUSE works on a client; this daemon is a server and dials nobody"
            }
            (Command::Invite(_) | Command::Revoke(_) | Command::Rotate(_), None) => {
                "this daemon is a client: who may enter is for its server to say"
            }
            _ => return Ok(()),
        };
        Err(Outcome::failed(ErrorCode::Unsupported, why))
    }

    /// Carries out a command that [`check`](Self::check) let pass.
    pub async fn carry_out(&self, command: Command, whose: Whose<'_>) -> Answer {
        let done = || Answer::Outcome(Outcome::Exited(0));
        self.0.peers.counters().command(&command);
        match command {
            Command::Pause(pause) => {
                if let Some(dialer) = &self.0.dialer {
                    info!(?pause, "pause");
                    dialer.pause(pause);
                }
                done()
            }
            Command::Status(data) => {
                self.0.news.tell(Topic::Statuses, || data.into());
                done()
            }
            Command::Peers => Answer::Result(self.peers()),
            Command::Ping(target) => self.ping(target.as_ref()),
            Command::Runs(query) => Answer::Result(self.runs(whose, &query).await),
            Command::Run(RunQuery { which, output: None }) => match self.run(whose, &which).await {
                Some(run) => Answer::Result(run),
                None => Answer::Outcome(no_such_run(&which)),
            },
            Command::Run(RunQuery { which, .. }) | Command::Cancel(which) if self.is_hidden(whose, &which).await => {
                Answer::Outcome(no_such_run(&which))
            }
            Command::Run(RunQuery { which, output: Some(query) }) => self.output(whose, &which, query).await,
            Command::Cancel(which) => match self.0.origin.cancel(&which).await {
                Ok(true) => done(),
                Ok(false) => Answer::Outcome(not_asked_here(self.run(whose, &which).await, &which)),
                Err(outcome) => Answer::Outcome(outcome),
            },
            Command::Scripts => Answer::Result(self.scripts().await),
            Command::Stats => Answer::Result(self.stats()),
            Command::Subscribe(topics) => Answer::News(self.0.news.subscribe(topics)),
            Command::Reload => of(self.0.reload.ask().await),
            Command::Restart => of(self.0.restart.ask().await),
            Command::Keys(task) => of(self.keys(task).await),
            Command::Invite(invite) => self.invite(invite).await,
            Command::Revoke(revoke) => self.revoke(revoke).await,
            Command::Rotate(rotate) => self.rotate(rotate).await,
            Command::Explain(query) => of(self.explain(query).await),
            Command::Log(change) => of(self.log(change)),
            Command::Metrics => Answer::Result(self.metrics().await.into()),
            Command::Callers(task) => of(self.callers(task).await),
            Command::Serve(_) => {
                let why = "SERVE is for a connection to the daemon's socket on which JSON is spoken: it is asked there";
                Answer::Outcome(Outcome::failed(ErrorCode::Unsupported, why))
            }
        }
    }

    /// What is logged from now on, if that is to be another; and what it then is.
    fn log(&self, change: Option<LogChange>) -> Result<Value, Outcome> {
        if let Some(LogChange { filter, within }) = change {
            let filter = (*filter != *LogChange::USUAL).then(|| LogFilter::parse(&filter)).transpose();
            let filter = filter.map_err(|fault| Outcome::failed(ErrorCode::BadMessage, fault.to_string()))?;
            self.0.levels.set(filter, within);
        }
        let shown = self.0.levels.shown();
        let left = shown.left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        Ok(json!({ "filter": shown.now.as_str(), "usual": shown.usual.as_str(), "left": left }))
    }

    /// Whether a run is as if it were not there for who asks.
    async fn is_hidden(&self, whose: Whose<'_>, which: &Which) -> bool {
        whose.own_only && self.run(whose, which).await.is_none()
    }

    async fn output(&self, whose: Whose<'_>, which: &Which, query: OutputQuery) -> Answer {
        match self.0.origin.output(whose.user, which, query).await {
            Some(lines) => Answer::Lines(lines),
            None => Answer::Outcome(not_asked_here(self.run(whose, which).await, which)),
        }
    }

    /// Sorts what links hand up until the daemon closes. Statuses that nobody waits for go to `unclaimed`; while that is full,
    /// they are dropped, and that is logged.
    pub async fn sort(self, mut inbound: mpsc::Receiver<Inbound>, unclaimed: mpsc::Sender<Box<str>>, close: CancellationToken) {
        let hooks = Hooks::new(self.0.executor.clone(), self.0.rest.clone());
        let relays = Relays::default();
        let mut gate = Gate::new(self.0.rules.clone(), self.0.audit.clone(), self.0.peer_runs.clone());
        let mut turn = Turn::of_light(SORTED);
        loop {
            turn.done(0).await;
            let inbound = tokio::select! {
                biased;
                inbound = inbound.recv() => inbound,
                () = close.cancelled() => return,
            };
            let Some(inbound) = inbound else { return };
            let sorted = self.sort_one(inbound, &mut gate, &relays, &hooks, &unclaimed);
            tokio::select! {
                biased;
                () = sorted => {}
                // It waits for the audit log, which cannot be written.
                () = close.cancelled() => return,
            }
        }
    }

    async fn sort_one(
        &self,
        inbound: Inbound,
        gate: &mut Gate,
        relays: &Relays,
        hooks: &Hooks,
        unclaimed: &mpsc::Sender<Box<str>>,
    ) {
        match inbound {
            Inbound::Run(run) => self.run_or_not(run, gate, relays).await,
            Inbound::Command(command) => self.incoming(command, gate).await,
            Inbound::UnclaimedStatus { data, replier } => self.status(data, &replier, gate, unclaimed).await,
            Inbound::LateStatus { link, run, verdict, report } => {
                // Without an attempt it was a direct run, of which nothing is kept.
                if let Some(attempt) = verdict.attempt {
                    let origin = self.0.origin.clone();
                    self.0.rest.spawn(async move { origin.late(&link, &run, attempt, report).await });
                }
            }
            Inbound::Credit { link, run, bytes } => {
                relays.credit(&link, &run, bytes);
                self.0.worker.credit(&link, &run, bytes);
            }
            Inbound::Cancel { link, run, attempt } => {
                if !relays.cancel(&link, &run) {
                    self.0.worker.cancel(&link, &run, attempt);
                }
            }
            Inbound::Roots { link, roots } => self.hear_roots(link, roots),
            Inbound::Ack { link, run, attempt } => self.0.worker.acknowledged(&link, &run, attempt),
            Inbound::Up(link) => {
                gate.is_there(&link).await;
                self.0.origin.is_there(&link);
                self.0.worker.is_there(&link);
                self.tell_roots(&link);
                self.tell_of(hooks, "peer-online", &link);
            }
            Inbound::Down(link) => {
                gate.is_gone(&link);
                self.0.worker.is_gone(&link);
                relays.is_gone(&link);
                self.tell_of(hooks, "peer-offline", &link);
            }
        }
    }

    /// A run that a peer asks for: to whoever is to do it or pass it on, or turned away before anything of it is looked at.
    async fn run_or_not(&self, run: IncomingRun, gate: &mut Gate, relays: &Relays) {
        match gate.run(&run, &self.0.origin).await {
            Ok(within) if run.order.hop.is_some() => self.relay(relays, run, within),
            Ok(_) => {
                let id = run.replier.run().map(ToString::to_string);
                if let Some(outcome) = self.0.worker.claim(run) {
                    gate.refused(id, &outcome).await;
                }
            }
            Err(Shut::Busy(outcome)) => {
                self.refused(&outcome);
                debug!(peer = %run.replier.peer(), "a run was put off: the peer asks too often");
                let verdict = Verdict { attempt: run.order.queue.then_some(run.order.attempt), refused: false };
                run.replier.report(&outcome.into(), verdict);
            }
            Err(Shut::Denied(outcome)) => {
                self.refused(&outcome);
                info!(peer = %run.replier.peer(), ?outcome, "a run was denied");
                self.0.worker.turn_away(run, outcome);
            }
        }
    }

    /// Something was turned away before anything was done for it.
    pub fn refused(&self, outcome: &Outcome) {
        self.0.peers.counters().refused().count(outcome);
    }

    /// Something that was asked over HTTP was answered with this status.
    pub fn answered(&self, status: u16) {
        self.0.peers.counters().answered(status);
    }

    /// A status that was said to whoever listens here.
    async fn status(&self, data: Box<str>, replier: &Replier, gate: &Gate, unclaimed: &mpsc::Sender<Box<str>>) {
        let command = Command::Status(data);
        let allowed = gate.command(&command, replier.link()).await;
        let outcome = allowed.as_ref().err().cloned().unwrap_or(Outcome::Exited(0));
        if replier.id().is_some() {
            replier.report(&outcome.into(), Verdict::default());
        }
        if let (Ok(()), Command::Status(data)) = (allowed, command) {
            self.0.news.tell(Topic::Statuses, || data.to_string());
            if unclaimed.try_send(data).is_err() {
                debug!("a status that nobody waits for was dropped: too many of them");
            }
        }
    }

    fn tell_of(&self, hooks: &Hooks, event: &'static str, link: &Link) {
        let about = json!({
            "event": event, "peer": link.peer(), "instance": link.instance(), "address": link.address(), "tags": link.tags(),
        });
        self.0.news.tell(Topic::Peers, || about.to_string());
        hooks.run(event, &about);
    }

    /// A seed peer is told of a success if it gave an id, and of a failure never.
    async fn incoming(&self, incoming: IncomingCommand, gate: &Gate) {
        let IncomingCommand { command, replier } = incoming;
        let allowed = gate.command(&command, replier.link()).await.and_then(|()| self.check(&command));
        if let (Command::Peers, Ok(())) = (&command, &allowed) {
            return replier.report(&self.others(replier.link()), Verdict::default());
        }
        if let Err(outcome) = allowed {
            self.refused(&outcome);
            info!(peer = %replier.peer(), ?outcome, "a command from afar failed");
            if replier.link().is_v2() {
                replier.report(&outcome.into(), Verdict::default());
            }
            return;
        }
        // Queued before it is carried out: a pause closes the link behind what is queued.
        if replier.id().is_some() {
            replier.report(&Outcome::Exited(0).into(), Verdict::default());
        }
        if let (Command::Pause(pause), Some(dialer)) = (&command, &self.0.dialer) {
            info!(?pause, peer = %replier.peer(), "pause");
            dialer.pause(*pause);
        }
    }
}

fn of(done: Result<Value, Outcome>) -> Answer {
    done.map_or_else(Answer::Outcome, Answer::Result)
}

/// Why a run is not to be stopped or followed here, of which this is `known`.
fn not_asked_here(known: Option<Value>, which: &Which) -> Outcome {
    match known {
        None => no_such_run(which),
        Some(run) if run["side"] == "done" => {
            let why = format!("it was asked for by {}: only there can it be stopped and its output be read", run["peer"]);
            Outcome::Failed(ErrorCode::UnknownTarget, why)
        }
        Some(_) => Outcome::failed(ErrorCode::UnknownTarget, "it is over already: there is nothing to stop"),
    }
}

fn no_such_run(which: &Which) -> Outcome {
    let which = match which {
        Which::Run(run) => format!("{:?}", run.to_string()),
        Which::Id(id) => format!("with the id {}", id.as_json()),
    };
    Outcome::Failed(ErrorCode::UnknownTarget, format!("there is no such run {which} here, or it is over and forgotten"))
}
