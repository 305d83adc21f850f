//! `ws-daemon completions`: what a shell needs to complete our words.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::exit::Exit;

/// What `completions` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell. For bash: ws-daemon completions bash > /etc/bash_completion.d/ws-daemon
    shell: Shell,
}

/// Prints the completions.
pub fn run(arguments: &Arguments) -> Exit {
    let mut text = Vec::new();
    generate(arguments.shell, &mut super::Arguments::command(), "ws-daemon", &mut text);
    super::print(String::from_utf8_lossy(&text).trim_end());
    Exit::Ok
}
