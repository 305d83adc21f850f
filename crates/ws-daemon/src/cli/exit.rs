//! Every exit code of the program, and what goes with it. Codes follow sysexits(3) where it has one, and the shell's and
//! timeout(1)'s custom for what became of a command.

use std::fmt;
use std::process::ExitCode;

use ws_daemon_protocol::outcome::{ErrorCode, Report};

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Ok,
    /// Something of ours failed.
    Failed,
    /// The words on the command line are wrong (`EX_USAGE`).
    Usage,
    /// The message or its params are wrong (`EX_DATAERR`).
    BadMessage,
    /// There is no such run (`EX_NOINPUT`).
    NoSuchRun,
    /// No peer, or no daemon (`EX_UNAVAILABLE`).
    Unavailable,
    /// Nobody knows what came of it (`EX_IOERR`).
    Interrupted,
    /// Too much to do; later it may work (`EX_TEMPFAIL`).
    Busy,
    /// A rule forbids it (`EX_NOPERM`).
    Denied,
    /// The settings are wrong or missing (`EX_CONFIG`).
    Config,
    /// Stopped because its time was over, as timeout(1).
    TimedOut,
    /// Stopped by a daemon.
    Cancelled,
    /// The script is there and cannot be run, as the shell.
    NotExecutable,
    /// There is no such script, as the shell.
    NotFound,
    /// The script's own.
    Script(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 64,
            Exit::BadMessage => 65,
            Exit::NoSuchRun => 66,
            Exit::Unavailable => 69,
            Exit::Interrupted => 74,
            Exit::Busy => 75,
            Exit::Denied => 77,
            Exit::Config => 78,
            Exit::TimedOut => 124,
            Exit::Cancelled => 125,
            Exit::NotExecutable => 126,
            Exit::NotFound => 127,
            Exit::Script(status) => status,
        })
    }
}

impl Exit {
    /// What `exec` exits with for a report.
    #[must_use]
    pub fn of_report(report: &Report) -> Self {
        match (report.status, report.error.as_deref().and_then(ErrorCode::from_word)) {
            (Some(status @ 0..=255), None) => Self::Script(u8::try_from(status).unwrap_or(u8::MAX)),
            (_, Some(code)) => Self::of_error(code),
            // What a seed daemon says when nobody is connected.
            (Some(-2), None) => Self::Unavailable,
            (Some(_), None) => Self::Failed,
            // A seed peer whose script was killed by a signal that it does not name.
            (None, None) => Self::Script(128),
        }
    }

    fn of_error(code: ErrorCode) -> Self {
        use ErrorCode as Code;
        match code {
            Code::NotFound => Self::NotFound,
            Code::NotExecutable | Code::Forbidden | Code::SpawnFailed => Self::NotExecutable,
            Code::InvalidParams | Code::BadMessage | Code::TooLarge | Code::UnknownCommand | Code::Unsupported => {
                Self::BadMessage
            }
            Code::IdConflict => Self::BadMessage,
            Code::Busy | Code::QueueFull | Code::SpoolFailed => Self::Busy,
            Code::NoPeer | Code::UnknownTarget | Code::Expired | Code::LinkLost => Self::Unavailable,
            Code::Denied => Self::Denied,
            Code::TimedOut => Self::TimedOut,
            Code::Cancelled => Self::Cancelled,
            Code::Interrupted => Self::Interrupted,
        }
    }
}

/// What went wrong, for the person at the terminal: one or more lines, and the exit code.
#[derive(Debug)]
pub struct Trouble {
    exit: Exit,
    said: String,
}

impl Trouble {
    /// Trouble that is said like this.
    pub fn new(exit: Exit, said: impl fmt::Display) -> Self {
        Self { exit, said: said.to_string() }
    }

    /// Trouble of which everything has been said, or that nobody is there to hear.
    #[must_use]
    pub fn said_already(exit: Exit) -> Self {
        Self { exit, said: String::new() }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The words.
    #[must_use]
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Says it on stderr.
    pub fn show(&self) {
        if !self.said.is_empty() {
            eprintln!("ws-daemon: {}", self.said.trim_end());
        }
    }
}

/// Trouble that nobody foresaw keeps its whole chain of causes.
impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format_args!("{error:#}"))
    }
}

/// What clap has to say: help and version are no trouble.
pub fn of_usage(said: &clap::Error) -> ExitCode {
    // A closed stdout or stderr leaves nobody to tell.
    drop(said.print());
    if said.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_exits_as_the_contract_says() {
        let table = [
            (r#"{"status":0}"#, 0),
            (r#"{"status":7}"#, 7),
            (r#"{"status":137,"signal":"SIGKILL"}"#, 137),
            (r#"{"status":null}"#, 128),
            (r#"{"status":-2}"#, 69),
            (r#"{"status":-1,"error":"not_found"}"#, 127),
            (r#"{"status":-1,"error":"not_executable"}"#, 126),
            (r#"{"status":-1,"error":"forbidden"}"#, 126),
            (r#"{"status":-1,"error":"spawn_failed"}"#, 126),
            (r#"{"status":-1,"error":"busy"}"#, 75),
            (r#"{"status":-2,"error":"no_peer"}"#, 69),
            (r#"{"status":-2,"error":"link_lost"}"#, 69),
            (r#"{"status":-3,"error":"bad_message"}"#, 65),
            (r#"{"status":-4,"error":"timed_out"}"#, 124),
            (r#"{"status":-4,"error":"cancelled"}"#, 125),
            (r#"{"status":-5,"error":"interrupted"}"#, 74),
            (r#"{"status":-1,"error":"something_newer"}"#, 1),
        ];
        for (report, expected) in table {
            let report: Report = serde_json::from_str(report).expect("the table holds reports");
            assert_eq!(ExitCode::from(Exit::of_report(&report)), ExitCode::from(expected), "{report:?}");
        }
    }
}
