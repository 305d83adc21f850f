//! From a name to a file that may be run. It never looks outside the folder of scripts, and never runs anything.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Display, Path, PathBuf};

use rustix::fs::{Access, FileType, Mode, OFlags, access, fstat, open};
use tracing::warn;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use crate::system::open_beneath;

/// How many files and folders are looked at for a list; the rest is left out, with a line in the log.
const LISTED: usize = 10_000;

/// A script that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScriptEntry {
    /// The name to ask for it by.
    pub name: String,
    /// Whether anybody may execute it.
    pub executable: bool,
    /// How long the file is.
    pub bytes: u64,
}

/// The folder of scripts.
#[derive(Debug)]
pub struct Scripts {
    folder: PathBuf,
}

impl Scripts {
    /// The scripts in `folder`, which need not be there yet: it is opened anew for each look, so that a folder that is
    /// replaced as a whole is seen at once.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Whether the folder can be opened. One that is missing answers as well; a dead network disk does not return.
    pub fn folder_answers(&self) -> bool {
        matches!(self.open(), Ok(_) | Err(rustix::io::Errno::NOENT))
    }

    fn label(&self) -> Display<'_> {
        Path::new(self.folder.file_name().unwrap_or_default()).display()
    }

    fn open(&self) -> rustix::io::Result<OwnedFd> {
        open(&self.folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Whether there is a file of this name, whatever it is: one that cannot be run is worth an error.
    pub fn has(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }

    /// The path to start the script `name` by.
    ///
    /// # Errors
    /// `not_found`, `not_executable` or `forbidden`, with a message that says what to do.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, Outcome> {
        let refuse = |code, why: &str| Err(Outcome::failed(code, format!("{}: {why}", shown(name))));
        if name.is_empty() {
            return Err(Outcome::failed(ErrorCode::NotFound, "the name of the script is empty"));
        }
        if name.contains('\0') {
            return refuse(ErrorCode::Forbidden, "a name cannot hold a NUL");
        }
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return refuse(ErrorCode::Forbidden, &format!("a name must lead straight down from {}/", self.label()));
        }
        let missing = format!("there is no such script in {}", self.folder.display());
        let Ok(folder) = self.open() else { return refuse(ErrorCode::NotFound, &missing) };
        let file = match self.look_up(&folder, name) {
            Ok(file) => file,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::EXDEV) => {
                        refuse(ErrorCode::Forbidden, &format!("a symbolic link leads out of {}/", self.label()))
                    }
                    Some(libc::ELOOP) => refuse(ErrorCode::Forbidden, "its symbolic links go in a circle"),
                    Some(libc::EACCES) => refuse(ErrorCode::Forbidden, "the daemon's user may not enter a folder on its path"),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => refuse(ErrorCode::NotFound, &missing),
                    _ => refuse(ErrorCode::SpawnFailed, &error.to_string()),
                };
            }
        };
        self.check(&file, name)?;
        Ok(self.folder.join(name))
    }

    /// An absolute link that leads back into the folder does not leave it: what it stands for is looked up in its place.
    fn look_up(&self, folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        let error = match open_beneath(folder.as_fd(), Path::new(name)) {
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => error,
            result => return result,
        };
        let Ok(target) = self.folder.join(name).canonicalize() else { return Err(error) };
        let Ok(root) = self.folder.canonicalize() else { return Err(error) };
        match target.strip_prefix(&root) {
            Ok(inside) => open_beneath(folder.as_fd(), inside),
            Err(_) => Err(error),
        }
    }

    /// What is in the folder and the folders below it, by name: regular files, also behind symbolic links that do not lead out.
    /// Looks at [`LISTED`] entries. Blocks.
    pub fn list(&self) -> Vec<ScriptEntry> {
        let Ok(root) = self.open() else { return Vec::new() };
        let (mut found, mut folders, mut looked) = (Vec::new(), vec![String::new()], 0);
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(self.folder.join(&folder)) else { continue };
            for entry in entries.flatten() {
                if looked == LISTED {
                    warn!(LISTED, "too many files among the scripts: the rest is not listed");
                    folders.clear();
                    break;
                }
                looked += 1;
                // Nobody could ask for one whose name is no UTF-8.
                let Ok(name) = entry.file_name().into_string() else { continue };
                let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(name);
                } else if let Some(entry) = self.entry(&root, name) {
                    found.push(entry);
                }
            }
        }
        found.sort();
        found
    }

    fn entry(&self, root: &OwnedFd, name: String) -> Option<ScriptEntry> {
        let look = fstat(self.look_up(root, &name).ok()?).ok()?;
        let regular = FileType::from_raw_mode(look.st_mode) == FileType::RegularFile;
        let bytes = u64::try_from(look.st_size).unwrap_or(0);
        regular.then_some(ScriptEntry { name, executable: look.st_mode & 0o111 != 0, bytes })
    }

    fn check(&self, file: &OwnedFd, name: &str) -> Result<(), Outcome> {
        let refuse = |why: &str| Err(Outcome::failed(ErrorCode::NotExecutable, format!("{}: {why}", shown(name))));
        let mode = fstat(file).map_err(|error| Outcome::failed(ErrorCode::SpawnFailed, error.to_string()))?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => {}
            FileType::Directory => return refuse("this is a folder"),
            _ => return refuse("this is no regular file"),
        }
        // Whether this user may is seen when it is started: asking twice would not make it safer.
        if mode & 0o111 != 0 { Ok(()) } else { refuse(&not_executable(&self.folder.join(name))) }
    }
}

fn not_executable(path: &Path) -> String {
    format!("the file is not executable; mend it with: chmod +x {}", path.display())
}

/// A name from afar as it may stand in a message: short, on one line, with nothing that moves a cursor.
fn shown(name: &str) -> String {
    const SHOWN_CHARS: usize = 100;
    let mut short: String = name.chars().take(SHOWN_CHARS).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// What came of a script that the system would not start, in words that say what to do.
pub fn not_started(path: &Path, error: &io::Error) -> Outcome {
    let shown = path.display();
    let why = match (error.raw_os_error(), interpreter(path)) {
        (Some(libc::EACCES), _) if access(path, Access::EXEC_OK).is_err() => {
            return Outcome::Failed(ErrorCode::NotExecutable, format!("for the daemon's user, {}", not_executable(path)));
        }
        (Some(libc::ENOENT), Some(line)) if line.ends_with('\r') => {
            format!("{shown} has Windows line ends: its first line asks for {line:?}; mend it with: sed -i 's/\\r$//' {shown}")
        }
        (Some(libc::ENOENT), Some(line)) => {
            format!("{shown} needs {line}, which is not installed here; install it or correct the script's first line")
        }
        (Some(libc::EACCES), Some(line)) => {
            format!("{shown} needs {line}, which the daemon's user may not execute, or its file system is mounted noexec")
        }
        (Some(libc::ENOEXEC), _) => {
            format!("{shown} is no program and its first line names no interpreter; begin it with #!/bin/sh or the like")
        }
        (Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE), _) => {
            format!("the system is out of processes, memory or descriptors: {error}")
        }
        _ => format!("{shown} could not be started: {error}"),
    };
    Outcome::Failed(ErrorCode::SpawnFailed, why)
}

/// What the first line of a script asks for, without its arguments.
fn interpreter(path: &Path) -> Option<String> {
    const LINE_BYTES: u64 = 256;
    let mut line = Vec::new();
    BufReader::new(File::open(path).ok()?.take(LINE_BYTES)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(line.strip_prefix(b"#!")?).into_owned();
    let line = line.trim_end_matches('\n').trim_start_matches([' ', '\t']);
    Some(line.split([' ', '\t']).next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn code(scripts: &Scripts, name: &str) -> Option<ErrorCode> {
        match scripts.resolve(name) {
            Ok(_) => None,
            Err(Outcome::Failed(code, _)) => Some(code),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_lead_to_executable_files_beneath_the_folder_only() {
        use ErrorCode::{Forbidden, NotExecutable, NotFound};
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("scripts");
        fs::create_dir_all(folder.join("sms")).expect("made");
        for (name, mode) in [("run", 0o755), ("plain", 0o644), ("sms/send", 0o755), ("-dash", 0o755), ("a b\n", 0o755)] {
            fs::write(folder.join(name), "#!/bin/sh\n").expect("written");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("set");
        }
        symlink("/bin/sh", folder.join("out")).expect("linked");
        symlink("../../../../../../bin/sh", folder.join("out-relative")).expect("linked");
        symlink(folder.join("run"), folder.join("in-absolute")).expect("linked");
        symlink("sms/send", folder.join("in-relative")).expect("linked");
        symlink("circle", folder.join("circle")).expect("linked");
        let scripts = Scripts::new(folder);
        let long = "x".repeat(5000);
        let table = [
            ("run", None),
            ("sms/send", None),
            ("./run", None),
            ("-dash", None),
            ("a b\n", None),
            ("in-absolute", None),
            ("in-relative", None),
            ("", Some(NotFound)),
            ("none", Some(NotFound)),
            ("run/", Some(NotFound)),
            ("run/x", Some(NotFound)),
            (&long, Some(NotFound)),
            ("plain", Some(NotExecutable)),
            ("sms", Some(NotExecutable)),
            (".", Some(NotExecutable)),
            ("../run", Some(Forbidden)),
            ("sms/../run", Some(Forbidden)),
            ("..", Some(Forbidden)),
            ("/bin/sh", Some(Forbidden)),
            ("run\0", Some(Forbidden)),
            ("out", Some(Forbidden)),
            ("out-relative", Some(Forbidden)),
            ("circle", Some(Forbidden)),
        ];
        for (name, expected) in table {
            assert_eq!(code(&scripts, name), expected, "{name:?}");
        }
    }

    #[test]
    fn what_would_not_start_is_explained() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s");
        let table = [
            ("#! /usr/bin/php -q\n", libc::ENOENT, "needs /usr/bin/php, which is not installed here"),
            ("#!/bin/sh\r\n", libc::ENOENT, "has Windows line ends"),
            ("echo\n", libc::ENOEXEC, "names no interpreter"),
            ("#!/etc/passwd\n", libc::EACCES, "may not execute"),
            ("", libc::EAGAIN, "out of processes"),
        ];
        for (text, errno, expected) in table {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
            match not_started(&path, &io::Error::from_raw_os_error(errno)) {
                Outcome::Failed(ErrorCode::SpawnFailed, said) => assert!(said.contains(expected), "{said}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
