//! `ws-daemon schema`: what may stand in the files that people write, as JSON Schemas, for editors and other programs.

use serde_json::Value;

use super::exit::Exit;
use crate::{config, exec};

/// What `schema` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Of which file.
    #[arg(value_name = "FILE")]
    of: Of,
}

/// A file that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Of {
    /// config.json of the prefix.
    Config,
    /// The file beside a script that says what is allowed of it.
    Contract,
}

impl Of {
    /// Its schema, as text.
    pub fn text(self) -> String {
        let schema: Value = match self {
            Self::Config => config::described(),
            Self::Contract => exec::described_contract(),
        };
        format!("{schema:#}")
    }
}

/// Prints it.
pub fn run(arguments: &Arguments) -> Exit {
    super::print(arguments.of.text());
    Exit::Ok
}
