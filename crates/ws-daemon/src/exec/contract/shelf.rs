//! The contracts as they stand beside their scripts: found, read, and kept as long as the file stays as it is. It opens nothing but
//! files beneath the folder of scripts, and nothing that others can write.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::Contract;
use crate::exec::line::Line;
use crate::system::trust::Obstacle;
use crate::system::walk::{Found, Mark};

/// The longest contract, in bytes; a longer one is broken.
const CONTRACT_BYTES: u64 = 256 * 1024;

/// Contracts that are kept in memory; with more, those that nobody runs by are read again.
const KEPT: usize = 10_000;

/// What a contract's file is called behind its script's name.
pub const ENDING: &str = ".json";

/// The contracts of one folder.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<HashMap<PathBuf, Kept>>);

#[derive(Debug)]
struct Kept {
    mark: Mark,
    /// Whether a file with the same mark is the same.
    settled: bool,
    contract: Arc<Contract>,
    line: Option<Arc<Line>>,
}

/// What a run goes by.
#[derive(Debug, Clone)]
pub struct Terms {
    /// What is allowed.
    pub contract: Arc<Contract>,
    /// The line before the script, if it has one.
    pub line: Option<Arc<Line>>,
}

/// Why there is a contract and nothing to go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
}

impl From<Obstacle> for String {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::System(error) if error.raw_os_error() == Some(libc::EXDEV) => "its symbolic link leads out".to_owned(),
            Obstacle::System(error) => error.to_string(),
            Obstacle::Exposed(exposed) => exposed,
        }
    }
}

impl Shelf {
    /// The contract of the script `script`, which stands in the opened `folder`, and the look of its file. `guard` refuses what others can
    /// write; `follow` finds, with the same care, what a link at a path leads to.
    pub fn find(
        &self,
        folder: BorrowedFd<'_>,
        script: &Path,
        guard: impl Fn(&Path, &Stat) -> Result<(), Obstacle>,
        follow: impl Fn(&Path) -> Result<Found, Obstacle>,
    ) -> Result<Option<(Terms, Stat)>, Fault> {
        let path = beside(script);
        let fault = |what: String| Fault { path: path.clone(), what };
        let name = path.file_name().unwrap_or_default();
        // One call where there is no contract, and the same where one is kept.
        let look = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(look) => look,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(None),
            Err(error) => return Err(fault(io::Error::from(error).to_string())),
        };
        let found;
        let (folder, name, look) = if FileType::from_raw_mode(look.st_mode) == FileType::Symlink {
            found = follow(&path).map_err(|obstacle| fault(obstacle.into()))?;
            let folder = found.folder.as_ref().ok_or_else(|| fault("it is a folder".into()))?;
            (folder.as_fd(), found.path.file_name().unwrap_or_default(), found.look)
        } else {
            guard(&path, &look).map_err(|obstacle| fault(obstacle.into()))?;
            (folder, name, look)
        };
        if FileType::from_raw_mode(look.st_mode) != FileType::RegularFile {
            return Err(fault("it is no regular file".into()));
        }
        let mark = Mark::of(&look);
        if let Some(terms) = self.kept(&path, mark) {
            return Ok(Some((terms, look)));
        }
        let contract = read(folder, Path::new(name), mark).and_then(|text| Contract::parse(&text)).map_err(fault)?;
        Ok(Some((self.keep(path.clone(), mark, contract), look)))
    }

    fn kept(&self, path: &Path, mark: Mark) -> Option<Terms> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get(path).filter(|kept| kept.settled && kept.mark == mark)?;
        Some(Terms { contract: Arc::clone(&kept.contract), line: kept.line.clone() })
    }

    fn keep(&self, path: PathBuf, mark: Mark, contract: Contract) -> Terms {
        let contract = Arc::new(contract);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT && !all.contains_key(&path) {
            // Whoever runs, or waits to, holds its line: these must go on counting.
            all.retain(|_, kept| kept.line.as_ref().is_some_and(|line| Arc::strong_count(line) > 1));
        }
        let old = all.remove(&path).and_then(|kept| kept.line);
        let line = match (old, contract.at_once()) {
            (Some(line), Some(most)) => {
                line.set(most);
                Some(line)
            }
            (None, Some(most)) => Some(Arc::new(Line::new(most))),
            (_, None) => None,
        };
        let terms = Terms { contract: Arc::clone(&contract), line: line.clone() };
        all.insert(path, Kept { mark, settled: mark.is_settled(), contract, line });
        terms
    }
}

/// Where the contract of a script stands.
#[must_use]
pub fn beside(script: &Path) -> PathBuf {
    let mut path = script.as_os_str().to_owned();
    path.push(ENDING);
    path.into()
}

fn read(folder: BorrowedFd<'_>, name: &Path, mark: Mark) -> Result<Vec<u8>, String> {
    let said = |error: io::Error| format!("it cannot be read: {error}");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty()).map_err(|error| said(error.into()))?;
    let look = fstat(&file).map_err(|error| said(error.into()))?;
    if Mark::of(&look) != mark {
        return Err("it is just being changed; try again".into());
    }
    let mut text = Vec::new();
    File::from(file).take(CONTRACT_BYTES + 1).read_to_end(&mut text).map_err(said)?;
    if text.len() as u64 > CONTRACT_BYTES {
        return Err(format!("it is longer than {} KiB", CONTRACT_BYTES / 1024));
    }
    Ok(text)
}
