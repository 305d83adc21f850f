//! The files that the daemon goes by, looked at before it goes by any of them: whoever else could write them would be its master. It
//! mends nothing; the message says how to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::config::{Settings, Source};
use crate::system::trust::{Obstacle, Sticky, find, readable};

/// Looks at the prefix, at config.json, at keys/ with what is in it, and at the spool.
///
/// # Errors
/// What others can write, or of keys read, and the command that mends it.
pub fn check(settings: &Settings, spool: &Path) -> Result<(), String> {
    let prefix = &settings.prefix;
    // A file that others can write cannot be what says that this is well.
    let (any_writer, said_by) = settings.any_writer;
    if any_writer && said_by != Source::File {
        return Ok(());
    }
    // Sockets and locks are made there: what others could add counts as well.
    unexposed(prefix, Sticky::WillNotDo)?;
    unexposed(&prefix.join("config.json"), Sticky::WillNotDo)?;
    if any_writer {
        return Ok(());
    }
    keys(&prefix.join("keys"))?;
    let beside = |ending: &str| {
        let mut path = spool.as_os_str().to_owned();
        path.push(ending);
        PathBuf::from(path)
    };
    ["", "-wal", ".lock"].iter().try_for_each(|ending| unexposed(&beside(ending), Sticky::WillNotDo))
}

/// What is not there yet is made by the daemon, for itself alone.
fn unexposed(path: &Path, sticky: Sticky) -> Result<(), String> {
    match find(path, sticky) {
        Ok(_) => Ok(()),
        Err(Obstacle::Exposed(exposed)) => Err(exposed),
        Err(Obstacle::System(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(Obstacle::System(error)) => Err(format!("{} cannot be looked at: {error}", path.display())),
    }
}

/// Keys are nobody else's to write nor to read; certificates (`*.pem`) are for all to read.
fn keys(folder: &Path) -> Result<(), String> {
    unexposed(folder, Sticky::WillNotDo)?;
    let said = |error: io::Error| format!("{} cannot be looked at: {error}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(said)?,
    };
    for entry in entries {
        let path = entry.map_err(said)?.path();
        let found = match find(&path, Sticky::WillNotDo) {
            Ok(found) => found,
            Err(Obstacle::Exposed(exposed)) => return Err(exposed),
            Err(Obstacle::System(error)) => return Err(format!("{} cannot be looked at: {error}", path.display())),
        };
        let is_file = FileType::from_raw_mode(found.look.st_mode) == FileType::RegularFile;
        let is_certificate = path.extension().is_some_and(|extension| extension == "pem");
        if let Some(readable) = readable(&found.path, &found.look).filter(|_| is_file && !is_certificate) {
            return Err(readable);
        }
    }
    Ok(())
}
