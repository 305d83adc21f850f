//! Whose word a file is: what root and the daemon's user alone can write may be believed, run and obeyed. It looks at owners and
//! modes as they were found, and never opens or changes anything itself.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{FileType, Mode, OFlags, Stat, open};
use rustix::process::geteuid;

use super::walk::{self, Found};

/// How long it is believed that nobody has joined the user's group.
const GROUP_KNOWN: Duration = Duration::from_secs(5);

/// Who may be able to write what the daemon goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Root and the daemon's user.
    Trusted,
    /// Whoever can. In a container: what is mounted there belongs to users of another machine, and is as they made it.
    Anyone,
}

/// Whether the sticky bit makes up for a folder that others may write: they cannot move what is another's there, but add to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sticky {
    /// For a folder on the way.
    WillDo,
    /// For one whose every file counts.
    WillNotDo,
}

/// Whom the daemon trusts beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Its user.
    pub user: u32,
    /// That user's own group, if nobody else is in it: what it may write, no other does.
    pub group: Option<u32>,
}

impl Own {
    /// Of this process; for a file of `group`, which is looked up only if it matters.
    fn beside(look: &Stat) -> Self {
        let group_may = FileType::from_raw_mode(look.st_mode) != FileType::Symlink && look.st_mode & 0o070 != 0;
        Self { user: geteuid().as_raw(), group: if group_may { private_group() } else { None } }
    }
}

/// Who beside root and the daemon's user can write what was found at `path`, and the command that mends it.
#[must_use]
pub fn exposed(path: &Path, look: &Stat, sticky: Sticky) -> Option<String> {
    exposed_to(Own::beside(look), path, look, sticky)
}

/// Who beside these can read what was found at `path`, and the command that mends it.
#[must_use]
pub fn readable(path: &Path, look: &Stat) -> Option<String> {
    readable_to(Own::beside(look), path, look)
}

fn exposed_to(own: Own, path: &Path, look: &Stat, sticky: Sticky) -> Option<String> {
    let kind = FileType::from_raw_mode(look.st_mode);
    let (mut who, mut mend) = (Vec::new(), Vec::new());
    if look.st_uid != 0 && look.st_uid != own.user {
        who.push(format!("user {}", look.st_uid));
        let link = if kind == FileType::Symlink { "-h " } else { "" };
        mend.push(format!("chown {link}{} {}", own.user, quoted(path)));
    }
    // The mode of a link means nothing, and what is neither folder nor file is refused for that.
    let matters = match kind {
        FileType::Directory => sticky == Sticky::WillNotDo || look.st_mode & 0o1000 == 0,
        FileType::RegularFile => true,
        _ => false,
    };
    let group = matters && look.st_mode & 0o020 != 0 && own.group != Some(look.st_gid);
    let others = matters && look.st_mode & 0o002 != 0;
    if group {
        who.push(format!("group {}", look.st_gid));
    }
    if others {
        who.push("everybody".to_owned());
    }
    if group || others {
        mend.push(format!("chmod go-w {}", quoted(path)));
    }
    let said = || format!("{} can be written by {}; mend it with: {}", path.display(), who.join(" and "), mend.join(" && "));
    (!who.is_empty()).then(said)
}

fn readable_to(own: Own, path: &Path, look: &Stat) -> Option<String> {
    let group = look.st_mode & 0o070 != 0 && own.group != Some(look.st_gid);
    let who = match (group, look.st_mode & 0o007 != 0) {
        (false, false) => return None,
        (true, false) => format!("group {}", look.st_gid),
        (_, true) => "everybody".to_owned(),
    };
    Some(format!("{} is a secret and can be read by {who}; mend it with: chmod go= {}", path.display(), quoted(path)))
}

/// The group of the daemon's user, if nobody else is in it. Where every user has such a group and the umask leaves it the right
/// to write (Debian and others have it so), that right is the user's own.
fn private_group() -> Option<u32> {
    static KNOWN: Mutex<Option<(Instant, Option<u32>)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match *known {
        Some((at, group)) if at.elapsed() < GROUP_KNOWN => group,
        _ => {
            let group = look_up_private_group();
            *known = Some((Instant::now(), group));
            group
        }
    }
}

fn look_up_private_group() -> Option<u32> {
    let user = User::from_uid(Uid::from_raw(geteuid().as_raw())).ok().flatten()?;
    let group = Group::from_gid(Gid::from_raw(user.gid.as_raw())).ok().flatten()?;
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let members: Vec<&str> = group.mem.iter().map(String::as_str).collect();
    is_private(&user.name, user.gid.as_raw(), &group.name, &members, &users).then_some(user.gid.as_raw())
}

/// Whether the group `group`, the first one of `user`, is theirs alone: it has their name, as such groups do, nobody else is
/// listed in it, and nobody else in `users` (the text of /etc/passwd) has it for their first. Users that only a directory
/// service knows cannot be counted; hence the name.
fn is_private(user: &str, group_id: u32, group: &str, members: &[&str], users: &str) -> bool {
    let shares = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next();
        let first: Option<u32> = fields.nth(2).and_then(|group| group.parse().ok());
        first == Some(group_id) && name != Some(user)
    };
    group == user && members.iter().all(|member| *member == user) && !users.lines().any(shares)
}

/// What stands at an absolute path, once it is seen that nobody else can write it or a folder or link on the way there.
///
/// # Errors
/// What the system says, or who can, as [`exposed`] has it.
pub fn find(path: &Path, last: Sticky) -> Result<Found, Obstacle> {
    let root = open_folder(Path::new("/")).map_err(io::Error::from)?;
    let refused = |exposed| Err(Obstacle::Exposed(exposed));
    let found =
        walk::find(root, &[Path::new("/")], path, |path, look| exposed(path, look, Sticky::WillDo).map_or(Ok(()), refused))?;
    match exposed(&found.path, &found.look, last) {
        Some(exposed) => Err(Obstacle::Exposed(exposed)),
        None => Ok(found),
    }
}

/// Why there is nothing to go by.
#[derive(Debug)]
pub enum Obstacle {
    /// What the system says.
    System(io::Error),
    /// Others can write it.
    Exposed(String),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Opens a folder for reading.
///
/// # Errors
/// What open(2) says.
pub fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A path as a shell takes it for one word and nothing else: someone may paste what a message says.
#[must_use]
pub fn quoted(path: &Path) -> String {
    let shown = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+:@".contains(letter);
    if shown.chars().all(is_plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stat(2) would say.
    fn look(mode: u32, user: u32, group: u32) -> Stat {
        let mut look = rustix::fs::stat("/").expect("there is a root");
        (look.st_mode, look.st_uid, look.st_gid) = (mode, user, group);
        look
    }

    const FILE: u32 = 0o100_000;
    const FOLDER: u32 = 0o040_000;
    const LINK: u32 = 0o120_000;

    #[test]
    fn who_can_write_what() {
        use Sticky::{WillDo, WillNotDo};
        let own = Own { user: 1000, group: Some(1000) };
        let shared = Own { user: 1000, group: None };
        let table: [(Own, u32, u32, u32, Sticky, &str); 18] = [
            (own, FILE | 0o755, 1000, 1000, WillNotDo, ""),
            (own, FILE | 0o755, 0, 0, WillNotDo, ""),
            (own, FILE | 0o775, 1000, 1000, WillNotDo, ""),
            (own, FOLDER | 0o775, 1000, 1000, WillNotDo, ""),
            (own, FOLDER | 0o2775, 0, 1000, WillNotDo, ""),
            (own, FILE | 0o775, 1000, 100, WillNotDo, "group 100; mend it with: chmod go-w /p"),
            (own, FILE | 0o777, 1000, 1000, WillNotDo, "everybody; mend it with: chmod go-w /p"),
            (shared, FILE | 0o775, 1000, 1000, WillNotDo, "group 1000; mend it with: chmod go-w /p"),
            (shared, FILE | 0o777, 1000, 1000, WillNotDo, "group 1000 and everybody; mend it with: chmod go-w /p"),
            (own, FILE | 0o755, 1001, 1000, WillNotDo, "user 1001; mend it with: chown 1000 /p"),
            (own, FILE | 0o720, 1001, 7, WillDo, "user 1001 and group 7; mend it with: chown 1000 /p && chmod go-w /p"),
            (own, FOLDER | 0o1777, 0, 0, WillDo, ""),
            (own, FOLDER | 0o1777, 0, 0, WillNotDo, "group 0 and everybody; mend it with: chmod go-w /p"),
            (own, FOLDER | 0o1770, 0, 1000, WillNotDo, ""),
            (own, FOLDER | 0o777, 0, 0, WillDo, "group 0 and everybody; mend it with: chmod go-w /p"),
            (own, LINK | 0o777, 1000, 1000, WillNotDo, ""),
            (own, LINK | 0o777, 1001, 1000, WillNotDo, "user 1001; mend it with: chown -h 1000 /p"),
            (own, 0o010_666, 1000, 7, WillNotDo, ""),
        ];
        for (own, mode, user, group, sticky, expected) in table {
            let found = exposed_to(own, Path::new("/p"), &look(mode, user, group), sticky).unwrap_or_default();
            let expected = if expected.is_empty() { String::new() } else { format!("/p can be written by {expected}") };
            assert_eq!(found, expected, "{own:?} {mode:o} {user} {group} {sticky:?}");
        }
    }

    #[test]
    fn who_can_read_a_secret() {
        let own = Own { user: 1000, group: Some(1000) };
        let table = [
            (0o600, 1000, None),
            (0o640, 1000, None),
            (0o640, 7, Some("group 7")),
            (0o604, 1000, Some("everybody")),
            (0o644, 7, Some("everybody")),
            (0o601, 1000, Some("everybody")),
        ];
        for (mode, group, who) in table {
            let found = readable_to(own, Path::new("/k"), &look(FILE | mode, 1000, group));
            let said = |who| format!("/k is a secret and can be read by {who}; mend it with: chmod go= /k");
            assert_eq!(found, who.map(said), "{mode:o} {group}");
        }
    }

    #[test]
    fn a_group_is_private_if_it_has_the_users_name_and_nobody_else() {
        const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1000:::\n";
        const ALONE: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001:::\nbroken\n";
        let nobody: &[&str] = &[];
        let table = [
            ("ann", 1000, "ann", nobody, ALONE, true),
            ("ann", 1000, "ann", &["ann"][..], ALONE, true),
            ("ann", 1000, "ann", &["bob"], ALONE, false),
            ("ann", 1000, "ann", &["ann", "bob"], ALONE, false),
            ("ann", 1000, "ann", nobody, USERS, false),
            ("ann", 1000, "users", nobody, ALONE, false),
            ("root", 0, "root", nobody, ALONE, true),
            ("root", 0, "root", nobody, "sync:x:5:0:sync:/sbin:/bin/sync", false),
        ];
        for (user, id, group, members, users, expected) in table {
            assert_eq!(is_private(user, id, group, members, users), expected, "{user} {group} {members:?} {users}");
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
}
