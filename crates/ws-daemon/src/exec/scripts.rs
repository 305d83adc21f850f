//! From a name to a file that may be run: beneath the folder of scripts, and on a path that nobody may write but root and the
//! daemon's own user. It never looks outside the folder of scripts but at the folders above it, and never runs anything.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Display, Path, PathBuf};

use rustix::fs::{Access, FileType, Mode, OFlags, Stat, access, open};
use rustix::process::geteuid;
use tracing::warn;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use crate::system::walk::{Found, PATH_BYTES, walk};

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
    writers: Writers,
}

/// Who may be able to write a script or a folder on its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Root and the daemon's user.
    Trusted,
    /// Whoever can. In a container: what is mounted there belongs to users of another machine, and is as they made it.
    Anyone,
}

/// What keeps a script from being found.
enum Obstacle {
    System(io::Error),
    Refusal(Outcome),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Scripts {
    /// The scripts in `folder`, which need not be there yet: it is opened anew for each look, so that a folder that is
    /// replaced as a whole is seen at once.
    pub fn new(folder: PathBuf, writers: Writers) -> Self {
        Self { folder, writers }
    }

    /// Whether the folder can be opened. One that is missing answers as well; a dead network disk does not return.
    pub fn folder_answers(&self) -> bool {
        matches!(open_folder(&self.folder), Ok(_) | Err(rustix::io::Errno::NOENT))
    }

    fn label(&self) -> Display<'_> {
        Path::new(self.folder.file_name().unwrap_or_default()).display()
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
        let found = match self.find(name) {
            Ok(found) => found,
            Err(Obstacle::Refusal(outcome)) => return Err(outcome),
            Err(Obstacle::System(error)) => {
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
        self.check(&found, name)?;
        // It is started by this path: nobody who is not trusted can make it lead elsewhere in between.
        Ok(self.folder.join(name))
    }

    /// Follows the path of the folder from the root, and the name from there.
    fn find(&self, name: &str) -> Result<Found, Obstacle> {
        // Found in pieces, it could not be started in one.
        if self.folder.as_os_str().len() + 1 + name.len() >= PATH_BYTES {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG).into());
        }
        let root = open_folder(Path::new("/")).map_err(io::Error::from)?;
        let folder = walk(root, &[Path::new("/")], &self.folder, |path, look| self.guard(name, path, look, Sticky::WillDo))?;
        self.guard(name, &folder.path, &folder.look, Sticky::WillNotDo)?;
        // A link may name the folder as it was configured, or as it is without links.
        let names = [&*self.folder, &*folder.path];
        walk(folder.file, &names, Path::new(name), |path, look| self.guard(name, path, look, Sticky::WillNotDo))
    }

    /// Refuses what others may write: whoever can write a script, or a folder on its path, chooses what is run.
    fn guard(&self, name: &str, path: &Path, look: &Stat, sticky: Sticky) -> Result<(), Obstacle> {
        if self.writers == Writers::Anyone {
            return Ok(());
        }
        let own = geteuid().as_raw();
        let kind = FileType::from_raw_mode(look.st_mode);
        let (mut who, mut mend) = (Vec::new(), Vec::new());
        if look.st_uid != 0 && look.st_uid != own {
            who.push(format!("user {}", look.st_uid));
            let link = if kind == FileType::Symlink { "-h " } else { "" };
            mend.push(format!("chown {link}{own} {}", quoted(path)));
        }
        // The mode of a link means nothing, and what is neither folder nor file is refused for that.
        let matters = match kind {
            FileType::Directory => sticky == Sticky::WillNotDo || look.st_mode & 0o1000 == 0,
            FileType::RegularFile => true,
            _ => false,
        };
        let (group, others) = (matters && look.st_mode & 0o020 != 0, matters && look.st_mode & 0o002 != 0);
        if group {
            who.push(format!("group {}", look.st_gid));
        }
        if others {
            who.push("everybody".to_owned());
        }
        if group || others {
            mend.push(format!("chmod go-w {}", quoted(path)));
        }
        if who.is_empty() {
            return Ok(());
        }
        let (who, mend) = (who.join(" and "), mend.join(" && "));
        let why = format!("{}: {} can be written by {who}; mend it with: {mend}", shown(name), path.display());
        Err(Obstacle::Refusal(Outcome::failed(ErrorCode::Forbidden, why)))
    }

    /// What is in the folder and the folders below it, by name: regular files, also behind symbolic links that do not lead out.
    /// Looks at `LISTED` entries. Blocks.
    pub fn list(&self) -> Vec<ScriptEntry> {
        let Ok(root) = open_folder(&self.folder) else { return Vec::new() };
        let real = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        let names = [&*self.folder, &*real];
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
                } else if let Some(entry) = Self::entry(&root, &names, name) {
                    found.push(entry);
                }
            }
        }
        found.sort();
        found
    }

    fn entry(root: &OwnedFd, names: &[&Path], name: String) -> Option<ScriptEntry> {
        let found = walk(root.try_clone().ok()?, names, Path::new(&name), |_, _| Ok::<(), io::Error>(()));
        let look = found.ok()?.look;
        let regular = FileType::from_raw_mode(look.st_mode) == FileType::RegularFile;
        let bytes = u64::try_from(look.st_size).unwrap_or(0);
        regular.then_some(ScriptEntry { name, executable: look.st_mode & 0o111 != 0, bytes })
    }

    fn check(&self, found: &Found, name: &str) -> Result<(), Outcome> {
        let refuse = |code, why: &str| Err(Outcome::failed(code, format!("{}: {why}", shown(name))));
        let mode = found.look.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => {}
            FileType::Directory => return refuse(ErrorCode::NotExecutable, "this is a folder"),
            _ => return refuse(ErrorCode::NotExecutable, "this is no regular file"),
        }
        if mode & 0o6000 != 0 {
            let mend = quoted(&found.path);
            let why = format!("it would run with the rights of its owner or group; mend it with: chmod ug-s {mend}");
            return refuse(ErrorCode::Forbidden, &why);
        }
        // Whether this user may is seen when it is started: asking twice would not make it safer.
        if mode & 0o111 == 0 {
            return refuse(ErrorCode::NotExecutable, &not_executable(&self.folder.join(name)));
        }
        Ok(())
    }
}

/// Whether the sticky bit makes up for a folder that others may write: they cannot move what is another's there, but add to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sticky {
    WillDo,
    WillNotDo,
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn not_executable(path: &Path) -> String {
    format!("the file is not executable; mend it with: chmod +x {}", quoted(path))
}

/// A path as a shell takes it for one word and nothing else: someone may paste what a message says.
fn quoted(path: &Path) -> String {
    let shown = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+:@".contains(letter);
    if shown.chars().all(is_plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
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
        // Whatever the umask.
        for made in [&folder, &folder.join("sms")] {
            fs::set_permissions(made, fs::Permissions::from_mode(0o755)).expect("set");
        }
        symlink("/bin/sh", folder.join("out")).expect("linked");
        symlink("../../../../../../bin/sh", folder.join("out-relative")).expect("linked");
        symlink(folder.join("run"), folder.join("in-absolute")).expect("linked");
        symlink("sms/send", folder.join("in-relative")).expect("linked");
        symlink("circle", folder.join("circle")).expect("linked");
        let scripts = Scripts::new(folder, Writers::Trusted);
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
    fn what_others_may_write_is_forbidden_in_words_that_mend_it() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("scripts");
        fs::create_dir_all(folder.join("sms")).expect("made");
        fs::write(folder.join("sms/send"), "#!/bin/sh\n").expect("written");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        let usual = || {
            [root.path().into(), folder.clone(), folder.join("sms"), folder.join("sms/send")].map(|path| {
                set(&path, 0o755);
                path
            })
        };
        let scripts = Scripts::new(folder.clone(), Writers::Trusted);
        let said = |scripts: &Scripts| match scripts.resolve("sms/send") {
            Ok(_) => String::new(),
            Err(Outcome::Failed(ErrorCode::Forbidden, said)) => said,
            Err(other) => panic!("{other:?}"),
        };
        for path in usual() {
            for (bits, who) in [(0o020, "by group "), (0o002, "by everybody;"), (0o022, " and everybody;")] {
                usual();
                assert_eq!(said(&scripts), "");
                set(&path, 0o755 | bits);
                let (shown, found) = (path.display(), said(&scripts));
                assert!(found.contains(&format!("{shown} can be written ")) && found.contains(who), "{found}");
                assert!(found.ends_with(&format!("mend it with: chmod go-w {shown}")), "{found}");
                let anyones = Scripts::new(folder.clone(), Writers::Anyone);
                assert_eq!(said(&anyones), "", "in a container");
            }
        }
        // A sticky folder keeps what is in it in its place; among scripts others could add their own.
        let [prefix, rest @ ..] = usual();
        set(&prefix, 0o1777);
        assert_eq!(said(&scripts), "");
        for path in &rest[..2] {
            usual();
            set(path, 0o1777);
            assert!(said(&scripts).contains("everybody"), "{}", path.display());
        }
        for bits in [0o4000, 0o2000] {
            usual();
            set(&folder.join("sms/send"), 0o755 | bits);
            assert!(said(&scripts).contains("chmod ug-s "), "{bits:o}");
        }
    }

    #[test]
    fn a_path_to_be_pasted_is_one_word() {
        for (path, word) in
            [("/p/scripts/sms/a-b.sh", "/p/scripts/sms/a-b.sh"), ("/p/a b;$(x)", "'/p/a b;$(x)'"), ("/p/'x", r"'/p/'\''x'")]
        {
            assert_eq!(quoted(Path::new(path)), word);
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
