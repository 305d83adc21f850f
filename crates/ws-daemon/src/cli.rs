//! The command line: what may be said, and which file answers it. Settings are gathered here from flags, environment and
//! config.json; what they mean is for `config` to say.

mod callers;
mod cancel;
mod check;
mod clean;
mod completions;
mod container;
mod conversation;
mod demo;
mod doctor;
mod events;
mod exec;
mod exit;
mod explain;
mod final_line;
mod gather;
mod health;
mod init;
mod invite;
mod join;
mod keys;
mod log;
mod log_level;
mod logs;
mod man;
mod metrics;
mod owner;
mod pause;
mod peers;
mod ping;
mod printer;
mod reload;
mod restart;
mod run;
mod runs;
mod schema;
mod scripts;
mod show;
mod stats;
mod table;
mod token;
mod wait;
mod when;

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::{Exit, Trouble};
use gather::Flags;

/// Runs scripts on far machines over one JSON conversation.
///
/// One daemon is the server, the others are its clients and dial it; from then on
/// both sides can ask. A process writes a JSON object to the socket of its daemon,
/// the script of that name runs on the other side, and its status comes back:
///
///   {"name":"hello","id":"1","params":{"who":"world"}}   →   {"status":0,"id":"1"}
///
/// Without a command the daemon is run.
/// To see it all work on this machine alone: ws-daemon demo
#[derive(Debug, Parser)]
#[command(name = "ws-daemon", version, max_term_width = 100, verbatim_doc_comment)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (what happens without a command).
    Run,
    /// Run a script on a peer, wait, and exit with its status.
    Exec(exec::Arguments),
    /// Print a line that makes another machine a peer of this server.
    Invite(invite::Arguments),
    /// Become a peer of the server that printed this line.
    Join(join::Arguments),
    /// List the peers: who is connected, and who was; revoke one, or give it another token.
    Peers(peers::Arguments),
    /// List the programs that may ask over HTTP; add one, revoke it, or give it another token.
    Callers(callers::Arguments),
    /// Measure the way to a peer and back.
    Ping(ping::Arguments),
    /// List runs, the newest first.
    Runs(runs::Arguments),
    /// Show all that is known about one run.
    Show(show::Arguments),
    /// Print what a run has printed.
    Logs(logs::Arguments),
    /// Have a run stopped, or never begun.
    Cancel(cancel::Arguments),
    /// Wait until a run is settled, and exit with its status.
    Wait(wait::Arguments),
    /// List the scripts that peers may ask this daemon to run.
    Scripts(scripts::Arguments),
    /// Print what happens, as it happens.
    Events(events::Arguments),
    /// Close the client's link for a while.
    Pause(pause::Arguments),
    /// Print the daemon's counters.
    Stats(stats::Arguments),
    /// Print every figure of the daemon, as OpenMetrics has them.
    Metrics(metrics::Arguments),
    /// Show a server's certificates, renew them, or change their root.
    Keys(keys::Arguments),
    /// Have the daemon read its settings again.
    Reload(reload::Arguments),
    /// Have the daemon begin a new life without refusing anybody, after an update.
    Restart(restart::Arguments),
    /// Show what is logged, or change it while the daemon runs.
    LogLevel(log_level::Arguments),
    /// Tell who may ask for a script, which rule says so, and who would get it.
    Explain(explain::Arguments),
    /// Show the settings as they are understood, and where each came from.
    Check(check::Arguments),
    /// Ask whether the daemon answers; for health checks.
    Health(health::Arguments),
    /// Look at all that the daemon needs, and name what is wrong and the command that mends it.
    Doctor(doctor::Arguments),
    /// Write a config.json and an example script.
    Init(init::Arguments),
    /// Show everything at work: two daemons on this machine, real requests both ways.
    Demo(demo::Arguments),
    /// Print the completions of a shell.
    Completions(completions::Arguments),
    /// Write a manual page for each command.
    Man(man::Arguments),
    /// Print what may stand in config.json, or in a contract, as a JSON Schema.
    Schema(schema::Arguments),
    /// Run the daemon as a container's first process.
    ///
    /// Runs setup.sh of the prefix, if there is one, makes the scripts executable, starts the daemon, passes signals on to it, and
    /// reaps whatever is left behind.
    Container,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(failed) = crate::system::shim::become_another() {
        return failed;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(said) => return exit::of_usage(&said),
    };
    match dispatch(arguments) {
        Ok(exit) => exit.into(),
        Err(trouble) => {
            trouble.show();
            trouble.exit().into()
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<Exit, Trouble> {
    let Arguments { flags, command } = arguments;
    match command.unwrap_or(Command::Run) {
        Command::Run => run::run(&flags),
        Command::Exec(arguments) => exec::run(&flags, &arguments),
        Command::Invite(arguments) => invite::run(&flags, &arguments),
        Command::Join(arguments) => join::run(&flags, &arguments),
        Command::Peers(arguments) => peers::run(&flags, &arguments),
        Command::Callers(arguments) => callers::run(&flags, &arguments),
        Command::Ping(arguments) => ping::run(&flags, &arguments),
        Command::Runs(arguments) => runs::run(&flags, &arguments),
        Command::Show(arguments) => show::run(&flags, &arguments),
        Command::Logs(arguments) => logs::run(&flags, &arguments),
        Command::Cancel(arguments) => cancel::run(&flags, &arguments),
        Command::Wait(arguments) => wait::run(&flags, &arguments),
        Command::Scripts(arguments) => scripts::run(&flags, &arguments),
        Command::Events(arguments) => events::run(&flags, &arguments),
        Command::Pause(arguments) => pause::run(&flags, &arguments),
        Command::Stats(arguments) => stats::run(&flags, &arguments),
        Command::Metrics(arguments) => metrics::run(&flags, &arguments),
        Command::Keys(arguments) => keys::run(&flags, &arguments),
        Command::Reload(arguments) => reload::run(&flags, &arguments),
        Command::Restart(arguments) => restart::run(&flags, &arguments),
        Command::LogLevel(arguments) => log_level::run(&flags, &arguments),
        Command::Explain(arguments) => explain::run(&flags, &arguments),
        Command::Check(arguments) => check::run(&flags, &arguments),
        Command::Health(arguments) => health::run(&flags, &arguments),
        Command::Doctor(arguments) => doctor::run(&flags, &arguments),
        Command::Init(arguments) => init::run(&flags, &arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Container => container::run(&flags),
        Command::Completions(arguments) => Ok(completions::run(&arguments)),
        Command::Man(arguments) => man::run(&arguments),
        Command::Schema(arguments) => Ok(schema::run(&arguments)),
    }
}

/// Prints a line to stdout. A reader that has gone away (`ws-daemon check | head -1`) wants no more, which is no trouble.
fn print(line: impl Display) {
    drop(writeln!(anstream::stdout(), "{line}"));
}

/// The word this program was called by, so that a command that is shown can be typed as it stands.
fn program() -> String {
    std::env::args().next().filter(|word| !word.is_empty()).unwrap_or_else(|| "ws-daemon".to_owned())
}

/// Whether to write colours to a stream: on a terminal, unless `NO_COLOR` (no-color.org) says otherwise.
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
