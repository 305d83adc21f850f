//! The built-in commands, and the desk where what links hand up is sorted: runs to the worker, commands carried out here,
//! statuses that nobody waits for passed on. It never waits for anything slow.

use tokio::sync::mpsc;
use tracing::{debug, info};
use ws_daemon_protocol::codec::v2::Verdict;
use ws_daemon_protocol::command::Command;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use crate::link::{Inbound, IncomingCommand};
use crate::peers::DialerHandle;
use crate::worker::Worker;

/// Carries out commands. Clones are the same.
#[derive(Debug, Clone)]
pub struct Control {
    /// On a client: who can pause the link.
    dialer: Option<DialerHandle>,
}

impl Control {
    /// The commands of a client with its dialer, or of a server, which has none.
    #[must_use]
    pub fn new(dialer: Option<DialerHandle>) -> Self {
        Self { dialer }
    }

    /// Whether a command can be carried out on this daemon.
    ///
    /// # Errors
    /// The outcome that says why not.
    pub fn check(&self, command: &Command) -> Result<(), Outcome> {
        match (command, &self.dialer) {
            (Command::Status(_), _) | (Command::Pause(_), Some(_)) => Ok(()),
            (Command::Pause(_), None) => {
                let why = "PAUSE works on a client; this daemon is a server and dials nobody";
                Err(Outcome::failed(ErrorCode::Unsupported, why))
            }
            _ => Err(Outcome::failed(ErrorCode::Unsupported, "this daemon cannot do that yet")),
        }
    }

    /// Carries out a command that [`check`](Self::check) let pass. A status has no effect of its own: who gets to read it is
    /// for the side it came from to say.
    pub fn carry_out(&self, command: &Command) {
        if let (Command::Pause(pause), Some(dialer)) = (command, &self.dialer) {
            info!(?pause, "pause");
            dialer.pause(*pause);
        }
    }

    /// Sorts what links hand up until they are all gone. Statuses that nobody waits for go to `unclaimed`; while that is full,
    /// they are dropped, and that is logged.
    pub async fn sort(self, mut inbound: mpsc::Receiver<Inbound>, worker: Worker, unclaimed: mpsc::Sender<Box<str>>) {
        while let Some(inbound) = inbound.recv().await {
            match inbound {
                Inbound::Run(run) => worker.claim(run),
                Inbound::Command(command) => self.incoming(command),
                Inbound::LateStatus { run, .. } => debug!(%run, "a status that nobody waits for any more was dropped"),
                Inbound::Up(_) | Inbound::Down(_) | Inbound::Credit { .. } | Inbound::Cancel { .. } | Inbound::Ack { .. } => {}
                Inbound::UnclaimedStatus(data) => {
                    if unclaimed.try_send(data).is_err() {
                        debug!("a status that nobody waits for was dropped: too many of them");
                    }
                }
            }
        }
    }

    /// A seed peer is told of a success if it gave an id, and of a failure never.
    fn incoming(&self, incoming: IncomingCommand) {
        let IncomingCommand { command, replier } = incoming;
        if let Err(outcome) = self.check(&command) {
            info!(peer = %replier.peer(), ?outcome, "a command from afar failed");
            return;
        }
        // Queued before it is carried out: a pause closes the link behind what is queued.
        if replier.id().is_some() {
            replier.report(&Outcome::Exited(0).into(), Verdict::default());
        }
        self.carry_out(&command);
    }
}
