//! The files that the settings are read from, watched: it tells that one of them is another. It never reads what is in them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::config::{Role, Settings};
use crate::system::FolderWatch;

/// How long it is waited for more to change: an editor, or whoever renews a certificate, changes a file in several steps.
const GATHER: Duration = Duration::from_millis(200);

/// Watches the files of some settings.
#[derive(Debug)]
pub struct Watch {
    files: Files,
    folders: Option<FolderWatch>,
}

/// What the files looked like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files(Vec<(PathBuf, Option<Look>)>);

/// All by which a file shows that it was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    place: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// What the files of these settings look like now.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let prefix = &settings.prefix;
        let tls = &settings.tls;
        let mut paths = vec![prefix.join("config.json")];
        if let Role::Client { .. } = settings.role {
            let token = settings.token_file.as_deref().unwrap_or(Path::new("keys/token"));
            paths.push(prefix.join(token));
        }
        let own = tls.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        paths.extend(own.chain(&tls.clients).chain(&tls.roots).cloned());
        Self(paths.into_iter().map(|path| (Look::of(&path), path)).map(|(look, path)| (path, look)).collect())
    }

    /// Whether they are the same files, whatever they look like.
    #[must_use]
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.0.iter().map(|(path, _)| path).eq(other.0.iter().map(|(path, _)| path))
    }

    fn look_again(&self) -> Self {
        Self(self.0.iter().map(|(path, _)| (path.clone(), Look::of(path))).collect())
    }

    /// Where the files are, and where they are when all symbolic links have been followed.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let paths = self.0.iter().map(|(path, _)| path);
        let real = paths.clone().filter_map(|path| fs::canonicalize(path).ok());
        paths.cloned().chain(real).filter_map(|path| path.parent().map(Path::to_owned)).collect()
    }
}

impl Look {
    /// `None` of a file that is not there, or cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            place: (found.dev(), found.ino()),
            size: found.size(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Watch {
    /// Watches for what is other than `files`.
    #[must_use]
    pub fn new(files: Files) -> Self {
        let folders = FolderWatch::new(&files.folders()).unwrap_or_else(|error| {
            warn!(%error, "files are not watched: after a change run ws-daemon reload");
            None
        });
        Self { files, folders }
    }

    /// Ends when a file is another one than it was. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            if self.files.look_again() != self.files {
                return;
            }
            let Some(folders) = &self.folders else { return std::future::pending().await };
            if let Err(error) = folders.changed().await {
                warn!(%error, "files are watched no more: after a change run ws-daemon reload");
                self.folders = None;
            }
            sleep(GATHER).await;
        }
    }
}
