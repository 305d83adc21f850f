//! What the daemon is told by signals: to stop, to read its settings again, or to take nothing more and end when all is done. It never
//! does any of it.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::system;

/// A terminal that hangs up is gone so long after the signal at the latest: the system may send that first.
const TERMINAL_GONE: Duration = Duration::from_secs(1);

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Stop within the grace.
    Stop,
    /// Take nothing more, and end when all is done.
    Drain,
    /// Read the settings again.
    Reload,
    /// Begin a new life; no signal says so.
    Restart,
}

/// The signals.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    drain: Signal,
    /// None where it is ignored: then the daemon outlives its terminal.
    hangup: Option<Signal>,
    had_terminal: bool,
    /// When to look whether the terminal is gone after all.
    look_again: Option<Instant>,
}

impl Signals {
    /// From here on signals are heard.
    ///
    /// # Errors
    /// The system does not let them be.
    pub fn new() -> io::Result<Self> {
        let hangup = (!system::ignores_hangup()).then(|| signal(SignalKind::hangup())).transpose()?;
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            drain: signal(SignalKind::user_defined2())?,
            had_terminal: hangup.is_some() && system::has_terminal(),
            hangup,
            look_again: None,
        };
        // The last life of the daemon held them back for this one.
        system::hold_signals(false);
        Ok(signals)
    }

    /// The next thing that is told. SIGHUP means that the settings are to be read again, unless the terminal from which the daemon was
    /// started is gone: then it means what it always has. Cancel safe.
    pub async fn next(&mut self) -> Told {
        loop {
            let hung_up = async {
                match &mut self.hangup {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            let look_again = async {
                match self.look_again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let (told, name) = tokio::select! {
                _ = self.terminate.recv() => (Told::Stop, "SIGTERM"),
                _ = self.interrupt.recv() => (Told::Stop, "SIGINT"),
                _ = self.drain.recv() => (Told::Drain, "SIGUSR2"),
                _ = hung_up => {
                    self.look_again = self.had_terminal.then(|| Instant::now() + TERMINAL_GONE);
                    (if self.is_terminal_gone() { Told::Stop } else { Told::Reload }, "SIGHUP")
                }
                () = look_again => {
                    self.look_again = None;
                    if !self.is_terminal_gone() {
                        continue;
                    }
                    (Told::Stop, "SIGHUP")
                }
            };
            match told {
                Told::Stop => info!(signal = name, "told to stop"),
                Told::Drain => info!(signal = name, "told to end when all is done"),
                Told::Reload | Told::Restart => info!(signal = name, "told to read the settings again"),
            }
            return told;
        }
    }

    /// Ends when the daemon is told to stop; whatever else it is told meanwhile is passed over. Cancel safe.
    pub async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }

    fn is_terminal_gone(&self) -> bool {
        self.had_terminal && !system::has_terminal()
    }
}
