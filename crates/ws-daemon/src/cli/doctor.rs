//! `ws-daemon doctor`: looks at all that a daemon needs, names what is wrong, and the command that mends it. It changes nothing, and
//! goes on where one part cannot be looked at.

mod certificates;
mod files;
mod limits;
mod running;
mod ways;

use std::path::{Path, PathBuf};

use owo_colors::OwoColorize;
use serde_json::json;

use super::clean::clean;
use super::exit::{Exit, Trouble};
use super::gather::Flags;
use super::printer::Printer;
use crate::config::{Role, Settings};
use running::Running;

/// What `doctor` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it as the daemon's user, with the flags and the environment that the daemon has.

Exit status: 0 if nothing is broken (there may be warnings), 1 if something is.

Examples:
  ws-daemon doctor
  runuser -u ws-daemon -- ws-daemon doctor --prefix /var/lib/ws-daemon
  ws-daemon doctor --json | jq 'select(.state != \"ok\")'")]
pub struct Arguments {
    /// Print one JSON object for each thing that was looked at.
    #[arg(long)]
    json: bool,
    /// The daemon's socket; by default the one in the prefix.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// It works, and will not for long, or not for all.
    Warn,
    /// It does not work.
    Fail,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found of one thing.
#[derive(Debug)]
struct Finding {
    state: State,
    about: &'static str,
    said: String,
    /// A command, or what to do where there is none.
    mend: Option<String>,
}

/// All that was found, in the order in which it was looked at.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, about: &'static str, said: impl Into<String>) {
        self.0.push(Finding { state: State::Ok, about, said: said.into(), mend: None });
    }

    fn warn(&mut self, about: &'static str, said: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { state: State::Warn, about, said: said.into(), mend: Some(mend.into()) });
    }

    fn fail(&mut self, about: &'static str, said: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { state: State::Fail, about, said: said.into(), mend: Some(mend.into()) });
    }

    /// What says itself what to do.
    fn fail_in_words(&mut self, about: &'static str, said: impl Into<String>) {
        self.0.push(Finding { state: State::Fail, about, said: said.into(), mend: None });
    }
}

/// Looks at everything and prints what it found.
pub fn run(flags: &Flags, arguments: &Arguments) -> Result<Exit, Trouble> {
    let mut found = Findings::default();
    let settings = flags.settings();
    let running = Running::find(flags, arguments.socket.as_deref());
    let is_its_user = files::is_its_user(&flags.prefix().0, running.user(), &mut found);
    match settings {
        Err(trouble) => {
            found.fail_in_words("config", trouble.said());
            running.look(None, &mut found);
        }
        Ok((settings, _)) => {
            let (prefix, role) = (settings.prefix.display(), settings.role.clone());
            let what = match &role {
                Role::Server { listen, .. } => format!("a server on {listen}"),
                Role::Client { servers } => {
                    format!("a client of {}", servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
                }
            };
            found.ok("config", format!("{prefix}: {what}"));
            files::look(&settings, is_its_user, &mut found);
            limits::look(&settings, running.pid(), &mut found);
            running.look(Some(&settings), &mut found);
            certificates::look(&settings, &mut found);
            ways::look(&settings, &running, &mut found)?;
        }
    }
    print(&found, arguments.json)?;
    let is_broken = found.0.iter().any(|finding| finding.state == State::Fail);
    Ok(if is_broken { Exit::Failed } else { Exit::Ok })
}

fn print(found: &Findings, as_json: bool) -> Result<(), Trouble> {
    let mut printer = Printer::new(Some(Exit::Ok));
    let colours = super::colours(&std::io::stdout());
    for Finding { state, about, said, mend } in &found.0 {
        if as_json {
            let finding = json!({ "state": state.word(), "about": about, "said": said, "mend": mend });
            printer.json(&finding.to_string())?;
            continue;
        }
        let word = format!("{:4}", state.word());
        let word = match state {
            _ if !colours => word,
            State::Ok => word.green().to_string(),
            State::Warn => word.yellow().to_string(),
            State::Fail => word.red().to_string(),
        };
        // What is said may have lines of its own: where in config.json the fault is.
        let said = said.lines().map(clean).collect::<Vec<_>>().join("\n                    ");
        printer.line(format_args!("{word}  {about:12}  {said}"))?;
        if let Some(mend) = mend {
            printer.line(format_args!("                    mend it with: {}", clean(mend)))?;
        }
    }
    let number = |state| found.0.iter().filter(|finding| finding.state == state).count();
    if !as_json {
        printer.line(format_args!("{} broken, {} to be looked at", number(State::Fail), number(State::Warn)))?;
    }
    Ok(())
}

/// The flag that names this prefix, for commands that are shown.
fn flag(prefix: &Path) -> String {
    format!(" --prefix {}", crate::system::trust::quoted(prefix))
}

/// How this daemon is started again.
fn restart(settings: &Settings) -> String {
    format!("systemctl restart ws-daemon, or stop it and: ws-daemon run{}", flag(&settings.prefix))
}
