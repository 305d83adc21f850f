//! The file of the audit log: opened, and opened again when another has its name, and written until all is in it. It never knows
//! what a line says.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::geteuid;
use tracing::{error, info};

/// How long a file that could not be written is left alone before the next attempt.
const AGAIN: Duration = Duration::from_millis(200);

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditFault {
    /// Whoever it is to be a witness against could change it.
    #[error("the audit log {} {why}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what mends it.
        why: String,
    },
    /// The system does not let it.
    #[error("the audit log {} cannot be had: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// None while it cannot be had.
    file: Option<File>,
    /// It could not be written, and that has been said.
    in_trouble: bool,
}

impl LogFile {
    /// Opens the file, or makes it. A pipe that nobody reads may be opened later.
    ///
    /// # Errors
    /// Others can write it, or it can never be had.
    pub fn open(path: &Path) -> Result<Self, AuditFault> {
        let file = match open(path) {
            Ok(file) => Some(file),
            Err(AuditFault::System { source, .. }) if is_unread_pipe(&source) => None,
            Err(fault) => return Err(fault),
        };
        Ok(Self { path: path.to_owned(), file, in_trouble: false })
    }

    /// Writes all of it, and does not end before: what fails is tried again, and the log says so.
    pub fn put(&mut self, lines: &[u8]) {
        let mut done = 0;
        while let Err(fault) = self.attempt(lines, &mut done) {
            if !std::mem::replace(&mut self.in_trouble, true) {
                error!(%fault, "the audit log cannot be written: runs wait until it can");
            }
            // Nobody says anything: it ends when its time is over.
            let (_nobody, silence) = mpsc::channel::<()>();
            let _ = silence.recv_timeout(AGAIN);
        }
        if std::mem::take(&mut self.in_trouble) {
            info!("the audit log is written again");
        }
    }

    fn attempt(&mut self, lines: &[u8], done: &mut usize) -> Result<(), AuditFault> {
        if lines.len() == *done {
            return Ok(());
        }
        let mut file = match self.file.take().filter(|file| has_name(file, &self.path)) {
            Some(file) => file,
            None => {
                // A line that was cut is whole in the new file.
                *done = lines[..*done].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                open(&self.path)?
            }
        };
        while *done < lines.len() {
            match file.write(&lines[*done..]) {
                Ok(0) => return Err(self.fault(ErrorKind::WriteZero.into())),
                Ok(written) => *done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // A pipe without a reader is opened anew; all else is written on.
                    self.file = Some(file).filter(|_| error.kind() != ErrorKind::BrokenPipe);
                    return Err(self.fault(error));
                }
            }
        }
        self.file = Some(file);
        Ok(())
    }

    fn fault(&self, source: io::Error) -> AuditFault {
        AuditFault::System { path: self.path.clone(), source }
    }
}

/// Opens the file to append to it. A pipe that nobody reads is an error, and not waited for.
fn open(path: &Path) -> Result<File, AuditFault> {
    let system = |source: io::Error| AuditFault::System { path: path.to_owned(), source };
    let no_wait = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(no_wait).open(path).map_err(system)?;
    let found = file.metadata().map_err(system)?;
    let is_good = found.is_file() || found.file_type().is_fifo();
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    let why = if !is_good {
        Some("is no file".to_owned())
    } else if owner != 0 && owner != geteuid().as_raw() {
        Some(format!("belongs to user {owner}: remove it, or give it to the daemon's user (chown)"))
    } else if mode & 0o022 != 0 {
        Some(format!("can be written by others (mode {mode:o}): chmod 600 it"))
    } else {
        None
    };
    if let Some(why) = why {
        return Err(AuditFault::Unsafe { path: path.to_owned(), why });
    }
    // From here on a pipe that is full is waited for.
    fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags - OFlags::NONBLOCK)).map_err(|error| system(error.into()))?;
    if found.is_file() && found.len() > 0 && last_byte(path, found.len()).is_some_and(|last| last != b'\n') {
        // The line before was cut by a crash: the next one must not stand behind it.
        (&file).write_all(b"\n").map_err(system)?;
    }
    Ok(file)
}

fn last_byte(path: &Path, length: u64) -> Option<u8> {
    let mut last = [0];
    File::open(path).ok()?.read_exact_at(&mut last, length - 1).ok()?;
    Some(last[0])
}

/// Whether a file is still the one of this name.
fn has_name(file: &File, path: &Path) -> bool {
    let of = |found: std::fs::Metadata| (found.dev(), found.ino());
    let named = std::fs::metadata(path).map(of);
    matches!((file.metadata().map(of), named), (Ok(own), Ok(named)) if own == named)
}

fn is_unread_pipe(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_is_renamed_away_is_made_anew_and_one_that_was_cut_is_mended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, old) = (folder.path().join("audit"), folder.path().join("audit.1"));
        fs::write(&path, "{\"cu").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        let mut file = LogFile::open(&path).expect("opened");
        file.put(b"1\n");
        fs::rename(&path, &old).expect("renamed");
        file.put(b"2\n");
        fs::remove_file(&path).expect("removed");
        file.put(b"3\n");
        assert_eq!(fs::read_to_string(&old).expect("there"), "{\"cu\n1\n");
        assert_eq!(fs::read_to_string(&path).expect("there"), "3\n");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("audit");
        for mode in [0o620, 0o602, 0o666] {
            fs::write(&path, "").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let said = LogFile::open(&path).expect_err("refused").to_string();
            assert!(said.contains("can be written by others") && said.contains("chmod 600"), "{said}");
        }
        let said = LogFile::open(folder.path()).expect_err("refused").to_string();
        assert!(said.contains("cannot be had"), "{said}");
        let said = LogFile::open(&folder.path().join("none/audit")).expect_err("refused").to_string();
        assert!(said.contains("No such file"), "{said}");
    }

    #[test]
    fn what_does_not_go_into_a_file_in_one_go_is_written_on_and_into_another_from_its_line_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("audit");
        let mut file = LogFile::open(&path).expect("opened");
        // As if the disk had been full behind the first bytes.
        let (lines, mut done) = (b"one\ntwo\n", 6);
        fs::write(&path, "one\ntw").expect("written");
        file.attempt(lines, &mut done).expect("written on");
        assert_eq!(fs::read_to_string(&path).expect("there"), "one\ntwo\n");
        fs::remove_file(&path).expect("removed");
        let mut done = 6;
        file.attempt(lines, &mut done).expect("written anew");
        assert_eq!(fs::read_to_string(&path).expect("there"), "two\n");
    }
}
