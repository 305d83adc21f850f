//! From a name to a file that may be run: beneath the folder of scripts, and on a path that nobody may write but root and the
//! daemon's own user. It never looks outside the folder of scripts but at the folders above it, and never runs anything.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Display, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{Access, AtFlags, FileType, Stat, access, statat};
use serde_json::Value;
use tracing::warn;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::contract::{ENDING, Fault, Shelf, Terms, beside};
use super::pool::Version;
use super::verdicts::Verdicts;
use super::way::{Way, WayKept};
use crate::system::trust::{Obstacle, Sticky, Writers, exposed, open_folder, quoted};
use crate::system::walk::{self, Found, Mark, PATH_BYTES};

/// How many files and folders are looked at for a list; the rest is left out, with a line in the log.
const LISTED: usize = 10_000;

/// A script that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptEntry {
    /// The name to ask for it by.
    pub name: String,
    /// Whether anybody may execute it.
    pub executable: bool,
    /// How long the file is.
    pub bytes: u64,
    /// What its contract says, if it has one.
    pub contract: Option<Value>,
    /// Why it is refused to everybody, if it is: others can write it, or its contract is broken.
    pub refused: Option<String>,
}

/// The folder of scripts.
#[derive(Debug)]
pub struct Scripts {
    folder: PathBuf,
    writers: Writers,
    way: WayKept,
    shelf: Shelf,
    /// What was found of names whose scripts need not be looked for each time.
    pub verdicts: Verdicts,
}

/// A script that may be run.
#[derive(Debug)]
pub struct Script {
    /// The path to start it by.
    pub path: PathBuf,
    /// What its contract says.
    pub terms: Option<Terms>,
    /// The file itself, if copies of it are kept running.
    pub itself: Option<Itself>,
}

/// The file of a script, whatever name it was asked for by.
#[derive(Debug)]
pub struct Itself {
    /// Its name without links.
    pub name: String,
    /// By what it and its contract are known.
    pub version: Version,
}

impl Scripts {
    /// The scripts in `folder`, which need not be there yet: each look goes by the folder that is there then, so that one that is
    /// replaced as a whole is seen at once.
    pub fn new(folder: PathBuf, writers: Writers) -> Self {
        Self { folder, writers, way: WayKept::default(), shelf: Shelf::default(), verdicts: Verdicts::default() }
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

    /// The script `name`, and what its contract says. An absent contract costs one system call, one that is known no more.
    ///
    /// # Errors
    /// `not_found`, `not_executable` or `forbidden`, with a message that says what to do.
    pub fn resolve(&self, name: &str) -> Result<Script, Outcome> {
        self.resolve_since(name, Instant::now())
    }

    /// The same for whoever asked for it at `since`: the way to the folder may have been looked at for another after that.
    ///
    /// # Errors
    /// As [`Scripts::resolve`].
    pub fn resolve_since(&self, name: &str, since: Instant) -> Result<Script, Outcome> {
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
        let (way, found) = match self.find(name, since) {
            Ok(found) => found,
            Err(Obstacle::Exposed(exposed)) => return refuse(ErrorCode::Forbidden, &exposed),
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
        let found_terms = self.terms(name, &way, &found).map_err(|fault| broken(name, &fault))?;
        let itself = found_terms.as_ref().filter(|(terms, _)| terms.pool.is_some()).and_then(|(_, look)| {
            let name = found.path.strip_prefix(way.path()).ok()?.to_str()?.to_owned();
            Some(Itself { name, version: [Mark::of(&found.look), Mark::of(look)].into() })
        });
        let terms = found_terms.map(|(terms, _)| terms);
        // It is started by this path: nobody who is not trusted can make it lead elsewhere in between.
        Ok(Script { path: self.folder.join(name), terms, itself })
    }

    /// What a contract says of a plain name that no script has, if there is one.
    ///
    /// # Errors
    /// `forbidden`: it is broken, or others can write it.
    pub fn terms_alone(&self, name: &str) -> Result<Option<Terms>, Outcome> {
        let (parent, last) = name.rsplit_once('/').unwrap_or((".", name));
        let guard = |path: &Path, look: &Stat| self.guard(path, look, Sticky::WillNotDo);
        let opened = self.way(parent, Instant::now()).and_then(|way| {
            let opened = walk::walk(way.folder(), &[&*self.folder, way.path()], Path::new(parent), guard)?;
            Ok((way, opened))
        });
        let (way, (folder, found)) = match opened {
            Ok(opened) => opened,
            Err(Obstacle::Exposed(exposed)) => {
                return Err(Outcome::failed(ErrorCode::Forbidden, format!("{}: {exposed}", shown(name))));
            }
            // Nothing is beside what could not be there.
            Err(Obstacle::System(_)) => return Ok(None),
        };
        let follow = |path: &Path| {
            let inside = path.strip_prefix(way.path()).unwrap_or(path);
            walk::find(way.folder(), &[&*self.folder, way.path()], inside, guard)
        };
        let terms = self.shelf.find(folder.as_fd(), &found.path.join(last), guard, follow);
        Ok(terms.map_err(|fault| broken(name, &fault))?.map(|(terms, _)| terms))
    }

    /// The contract of what was found under `name`, and the look of its file. It stands beside the file itself, so that no other name of it leads round.
    fn terms(&self, name: &str, way: &Way, found: &Found) -> Result<Option<(Terms, Stat)>, Fault> {
        let (Some(parent), folder) = (&found.folder, way.path()) else { return Ok(None) };
        let guard = |path: &Path, look: &Stat| self.guard(path, look, Sticky::WillNotDo);
        let follow = |path: &Path| {
            let inside = path.strip_prefix(folder).unwrap_or(path);
            walk::find(way.folder(), &[&*self.folder, folder], inside, guard)
        };
        let terms = self.shelf.find(parent.as_fd(), &found.path, guard, follow)?;
        let plain = Path::new(name).components().filter(|part| matches!(part, Component::Normal(_)));
        if folder.join(plain.collect::<PathBuf>()) != found.path {
            // What stands beside a link would be passed over.
            let alias = beside(&folder.join(name));
            let by_alias = match follow(&alias) {
                Err(Obstacle::System(error)) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENAMETOOLONG)) => None,
                Err(obstacle) => return Err(Fault { path: alias, what: obstacle.into() }),
                Ok(found) => Some(found.look),
            };
            let is_another = |one: &Stat, other: &Stat| (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino);
            if by_alias.is_some_and(|by_alias| terms.as_ref().is_none_or(|(_, look)| is_another(look, &by_alias))) {
                let what = format!("it stands beside a link; the contract of this script is {}", beside(&found.path).display());
                return Err(Fault { path: alias, what });
            }
        }
        Ok(terms)
    }

    /// The way to the folder, for whoever looks for `name` from there.
    fn way(&self, name: &str, since: Instant) -> Result<Arc<Way>, Obstacle> {
        // Found in pieces, it could not be started in one.
        if self.folder.as_os_str().len() + 1 + name.len() >= PATH_BYTES {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG).into());
        }
        self.way.find(&self.folder, since, |path, look, sticky| self.guard(path, look, sticky))
    }

    /// The way to the folder, and what was found under `name` from there.
    fn find(&self, name: &str, since: Instant) -> Result<(Arc<Way>, Found), Obstacle> {
        let way = self.way(name, since)?;
        // A link may name the folder as it was configured, or as it is without links.
        let names = [&*self.folder, way.path()];
        let guard = |path: &Path, look: &Stat| self.guard(path, look, Sticky::WillNotDo);
        let found = walk::find(way.folder(), &names, Path::new(name), guard)?;
        Ok((way, found))
    }

    /// Refuses what others may write: whoever can write a script, or a folder on its path, chooses what is run.
    fn guard(&self, path: &Path, look: &Stat, sticky: Sticky) -> Result<(), Obstacle> {
        match self.writers {
            Writers::Anyone => Ok(()),
            Writers::Trusted => exposed(path, look, sticky).map_or(Ok(()), |exposed| Err(Obstacle::Exposed(exposed))),
        }
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
                } else if let Some(entry) = self.entry(&root, &names, name) {
                    found.push(entry);
                }
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    fn entry(&self, root: &OwnedFd, names: &[&Path], name: String) -> Option<ScriptEntry> {
        let found = walk::find(root.try_clone().ok()?, names, Path::new(&name), |_, _| Ok::<(), io::Error>(())).ok()?;
        let look = &found.look;
        if FileType::from_raw_mode(look.st_mode) != FileType::RegularFile || is_contract(&found) {
            return None;
        }
        let (contract, refused) = match self.resolve(&name) {
            Ok(script) => (script.terms.map(|terms| terms.contract.shown()), None),
            Err(Outcome::Failed(ErrorCode::Forbidden, why)) => (None, Some(why)),
            Err(_) => (None, None),
        };
        let bytes = u64::try_from(look.st_size).unwrap_or(0);
        Some(ScriptEntry { name, executable: look.st_mode & 0o111 != 0, bytes, contract, refused })
    }

    fn check(&self, found: &Found, name: &str) -> Result<(), Outcome> {
        let refuse = |code, why: &str| Err(Outcome::failed(code, format!("{}: {why}", shown(name))));
        let mode = found.look.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => {}
            FileType::Directory => return refuse(ErrorCode::NotExecutable, "this is a folder"),
            _ => return refuse(ErrorCode::NotExecutable, "this is no regular file"),
        }
        if is_contract(found) {
            return refuse(ErrorCode::NotExecutable, "this is the contract of a script, and none itself");
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

fn broken(name: &str, fault: &Fault) -> Outcome {
    let why = format!("{}: its contract {} is broken: {}", shown(name), fault.path.display(), fault.what);
    Outcome::failed(ErrorCode::Forbidden, why)
}

/// Whether what was found is the contract of a script that stands beside it.
fn is_contract(found: &Found) -> bool {
    let name = found.path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ENDING));
    let (Some(script), Some(folder)) = (name.filter(|name| !name.is_empty()), &found.folder) else { return false };
    statat(folder, script, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|look| matches!(FileType::from_raw_mode(look.st_mode), FileType::RegularFile | FileType::Symlink))
}

fn not_executable(path: &Path) -> String {
    format!("the file is not executable; mend it with: chmod +x {}", quoted(path))
}

/// A name from afar as it may stand in a message: short, on one line, with nothing that moves a cursor.
pub fn shown(name: &str) -> String {
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

    /// A folder of scripts that nobody else can write, whatever the umask.
    fn folder_of(root: &Path, files: &[(&str, &str, u32)]) -> PathBuf {
        let folder = root.join("scripts");
        for (name, text, mode) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("set");
        }
        let mut folders = vec![folder.clone()];
        while let Some(folder) = folders.pop() {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("set");
            let entries = fs::read_dir(&folder).expect("there").map(|entry| entry.expect("readable").path());
            folders.extend(entries.filter(|path| path.is_dir()));
        }
        folder
    }

    const SCRIPT: &str = "#!/bin/sh\n";

    #[test]
    fn a_contract_stands_beside_its_script_and_by_no_other_name_can_one_get_round_it() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let files = [
            ("sms/send", SCRIPT, 0o755),
            ("sms/send.json", r#"{"description":"sends"}"#, 0o644),
            ("free", SCRIPT, 0o755),
            ("linked", SCRIPT, 0o755),
            ("report.json", SCRIPT, 0o755),
        ];
        let folder = folder_of(root.path(), &files);
        for (target, link) in [("sms/send", "alias"), ("sms", "dir"), ("sms/send.json", "linked.json"), ("../o", "out.json")] {
            symlink(target, folder.join(link)).expect("linked");
        }
        let scripts = Scripts::new(folder.clone(), Writers::Trusted);
        let sends = |name: &str| {
            scripts.resolve(name).expect(name).terms.is_some_and(|terms| terms.contract.shown()["description"] == "sends")
        };
        for (name, expected) in [
            ("sms/send", true),
            ("./sms//send", true),
            ("dir/send", true),
            ("alias", true),
            ("linked", true),
            ("free", false),
            ("report.json", false),
        ] {
            assert_eq!(sends(name), expected, "{name}");
        }
        fs::set_permissions(folder.join("sms/send.json"), fs::Permissions::from_mode(0o755)).expect("set");
        for name in ["sms/send.json", "linked.json", "dir/send.json"] {
            assert_eq!(code(&scripts, name), Some(ErrorCode::NotExecutable), "{name} is a contract");
        }
        let listed: Vec<String> = scripts.list().into_iter().map(|entry| entry.name).collect();
        assert_eq!(listed, ["alias", "free", "linked", "report.json", "sms/send"]);
        // Beside a link there may stand the contract of what it leads to, and no other.
        symlink("sms/send.json", folder.join("alias.json")).expect("linked");
        assert!(sends("alias"));
        fs::remove_file(folder.join("alias.json")).expect("there");
        fs::write(folder.join("alias.json"), "{}").expect("written");
        assert_eq!(code(&scripts, "alias"), Some(ErrorCode::Forbidden));
    }

    #[test]
    fn a_contract_that_is_broken_refuses_its_script_and_one_that_changes_is_read_again() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = folder_of(root.path(), &[("send", SCRIPT, 0o755), ("send.json", "{}", 0o644), ("other", "{}", 0o644)]);
        let (scripts, path) = (Scripts::new(folder.clone(), Writers::Trusted), folder.join("send.json"));
        let said = || match scripts.resolve("send") {
            Ok(script) => script.terms.expect("a contract").contract.shown().to_string(),
            Err(Outcome::Failed(ErrorCode::Forbidden, said)) => said,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(said(), "{}");
        for (text, expected) in [
            (r#"{"at_once":1}"#, r#"{"at_once":1}"#),
            (r#"{"at_once":2}"#, r#"{"at_once":2}"#),
            (r#"{"at_onec":2}"#, "there is no key"),
            ("", "EOF"),
            (&format!("{{{}}}", " ".repeat(256 * 1024)), "longer than 256 KiB"),
            ("{}", "{}"),
        ] {
            fs::write(&path, text).expect("written");
            let found = said();
            assert!(found.contains(expected), "{found}");
            assert!(expected.starts_with('{') || found.contains("send.json is broken: "), "{found}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).expect("set");
        assert!(said().contains("chmod go-w"), "{}", said());
        for (target, expected) in
            [("/etc/passwd", "leads out"), ("nowhere", "No such file"), ("send.json", "symbolic links"), (".", "folder")]
        {
            fs::remove_file(&path).expect("there");
            symlink(target, &path).expect("linked");
            assert!(said().contains(expected), "{target}: {}", said());
        }
        fs::remove_file(&path).expect("there");
        fs::create_dir(&path).expect("made");
        assert!(said().contains("no regular file"), "{}", said());
    }

    #[test]
    fn an_old_contract_is_kept_and_the_line_before_its_script_is_one() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = folder_of(root.path(), &[("send", SCRIPT, 0o755), ("send.json", r#"{"at_once":1}"#, 0o644)]);
        let scripts = Scripts::new(folder.clone(), Writers::Trusted);
        let terms = || scripts.resolve("send").expect("a script").terms.expect("a contract");
        let (one, other) = (terms(), terms());
        let line = |terms: &Terms| std::sync::Arc::clone(terms.line.as_ref().expect("a line"));
        assert!(!std::sync::Arc::ptr_eq(&one.contract, &other.contract), "it may be changed in the same moment still");
        assert!(std::sync::Arc::ptr_eq(&line(&one), &line(&other)));
        // Nobody but the system sets a file's ctime; what was read is old enough when that is.
        let ripe = std::time::SystemTime::now() + std::time::Duration::from_secs(4);
        let kept = loop {
            let (one, other) = (terms(), terms());
            if std::sync::Arc::ptr_eq(&one.contract, &other.contract) {
                break one;
            }
            assert!(std::time::SystemTime::now() < ripe, "never kept");
            std::thread::yield_now();
        };
        let held = line(&kept).try_take().expect("free");
        fs::write(folder.join("send.json"), r#"{"at_once":1,"description":"again"}"#).expect("written");
        let changed = terms();
        assert_eq!(changed.contract.shown()["description"], "again");
        assert!(line(&changed).try_take().is_none(), "who runs by the old one counts");
        drop(held);
        assert!(line(&changed).try_take().is_some());
    }

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
        let stranger = rustix::process::geteuid().is_root().then_some(12_345);
        for path in usual() {
            for (bits, who) in [(0o020, "by group "), (0o002, "by everybody;"), (0o022, "everybody;")] {
                // The user's own group may be a private one.
                if bits == 0o020 && stranger.is_none() {
                    continue;
                }
                usual();
                std::os::unix::fs::chown(&path, None, stranger).expect("root may");
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
