//! What every part is measured with: how long, how much, which daemon, and which programs of others there are.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::binary;
use crate::peers::Peers;
use crate::rounds::{Schedule, Side};

pub struct Bench {
    pub schedule: Schedule,
    pub quick: bool,
    pub from: Side,
    pub peers: Peers,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    named: Option<PathBuf>,
    found: Option<PathBuf>,
}

impl Bench {
    /// `named` is where the daemon's binary is, if it was said.
    pub fn new(schedule: Schedule, quick: bool, from: Side, named: Option<PathBuf>, peers: Peers) -> Bench {
        Bench { schedule, quick, from, peers, notes: Vec::new(), named, found: None }
    }

    /// The daemon's binary, which is built when it is first wanted.
    pub fn daemon(&mut self) -> Result<&Path> {
        let found = match self.found.take() {
            Some(found) => found,
            None => binary::find(self.named.as_deref())?,
        };
        Ok(self.found.insert(found))
    }

    /// That many, or a tenth of them in the short form.
    pub fn many(&self, count: usize) -> usize {
        if self.quick { count / 10 } else { count }
    }
}
