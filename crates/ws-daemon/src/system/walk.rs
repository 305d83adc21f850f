//! Follows a path part by part, each looked at from the folder before it, and shows every folder, link and file on the way as it was
//! then. It never leaves the folder in which it begins, and what it opens is good for looking at only.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

/// How many symbolic links one path may lead through, as path_resolution(7) has it.
const LINKS: usize = 40;

/// The longest path that is followed, as long as the system takes one.
pub const PATH_BYTES: usize = 4096;

/// A file that changed so lately, in seconds, may change again and look the same.
const SETTLES: i64 = 1;

/// By what a file is known to be as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark([i128; 10]);

/// Where a walk ended.
#[derive(Debug)]
pub struct Found {
    /// The folder that it stands in, unless the walk ended where it began.
    pub folder: Option<Arc<OwnedFd>>,
    /// What is there, as it was when it was looked at.
    pub look: Stat,
    /// The way to it without links, beginning as the walk did.
    pub path: PathBuf,
}

impl Mark {
    /// Of a file that looks like this.
    #[must_use]
    #[expect(clippy::cast_lossless, reason = "the types differ from system to system")]
    pub fn of(look: &Stat) -> Self {
        Self([
            look.st_dev as i128,
            look.st_ino as i128,
            look.st_mtime as i128,
            look.st_mtime_nsec as i128,
            look.st_ctime as i128,
            look.st_ctime_nsec as i128,
            look.st_size as i128,
            look.st_mode as i128,
            look.st_uid as i128,
            look.st_gid as i128,
        ])
    }

    /// Of a part of the way to something. A folder is the same whatever is put into it or taken out of it: what is next on the way has a
    /// mark of its own.
    #[must_use]
    pub fn of_part(look: &Stat) -> Self {
        let Self([device, number, _, _, _, _, _, mode, user, group]) = Self::of(look);
        match FileType::from_raw_mode(look.st_mode) {
            FileType::Directory => Self([device, number, 0, 0, 0, 0, 0, mode, user, group]),
            _ => Self::of(look),
        }
    }

    /// Whether a file with the same mark is the same.
    #[must_use]
    pub fn is_settled(self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i128::from(now.as_secs()) - self.0[4] > i128::from(SETTLES)
    }
}

/// Follows `path` from `folder`, which is known by the absolute paths of `names`: an absolute link that leads through one of them
/// stays inside. `see` is shown whatever is looked at, with its path, and may end the walk; the folder in which it begins is
/// not shown.
///
/// # Errors
/// `EXDEV` if the path leads out, `ELOOP` for too many links, what open(2) says, and whatever `see` does.
pub fn find<E: From<io::Error>>(
    folder: impl Into<Arc<OwnedFd>>,
    names: &[&Path],
    path: &Path,
    mut see: impl FnMut(&Path, &Stat) -> Result<(), E>,
) -> Result<Found, E> {
    let mut walk = Walk::new(how(), folder.into(), names)?;
    Ok(walk.go(path, false, &mut see)?.1)
}

/// The same, and opens what it finds.
///
/// # Errors
/// As [`find`].
pub fn walk<E: From<io::Error>>(
    folder: impl Into<Arc<OwnedFd>>,
    names: &[&Path],
    path: &Path,
    see: impl FnMut(&Path, &Stat) -> Result<(), E>,
) -> Result<(Arc<OwnedFd>, Found), E> {
    walk_by(how(), folder.into(), names, path, see)
}

fn how() -> OFlags {
    #[cfg(target_os = "linux")]
    return super::linux::look();
    #[cfg(not(target_os = "linux"))]
    return super::portable::look();
}

/// The same with a way to open.
pub(super) fn walk_by<E: From<io::Error>>(
    by: OFlags,
    folder: Arc<OwnedFd>,
    names: &[&Path],
    path: &Path,
    mut see: impl FnMut(&Path, &Stat) -> Result<(), E>,
) -> Result<(Arc<OwnedFd>, Found), E> {
    let (file, found) = Walk::new(by, folder, names)?.go(path, true, &mut see)?;
    Ok((file.ok_or_else(out)?, found))
}

fn out() -> io::Error {
    Errno::XDEV.into()
}

struct Walk<'a> {
    by: OFlags,
    names: &'a [&'a Path],
    /// What was opened on the way, so that `..` goes back to that and never above the first, a folder that is looked at when the walk ends
    /// there.
    way: Vec<(Option<Arc<OwnedFd>>, Option<Stat>)>,
    /// The path of the last of them.
    path: PathBuf,
    ahead: VecDeque<OsString>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(by: OFlags, folder: Arc<OwnedFd>, names: &'a [&'a Path]) -> io::Result<Self> {
        let path = names.first().ok_or_else(out)?.to_path_buf();
        Ok(Self { by, names, way: vec![(Some(folder), None)], path, ahead: VecDeque::new(), links: 0 })
    }

    /// To the end of `path`, which is opened only if `opens` says so.
    fn go<E: From<io::Error>>(
        &mut self,
        path: &Path,
        opens: bool,
        see: &mut impl FnMut(&Path, &Stat) -> Result<(), E>,
    ) -> Result<(Option<Arc<OwnedFd>>, Found), E> {
        self.turn_to(path.as_os_str())?;
        while let Some(part) = self.ahead.pop_front() {
            self.step(&part, opens || !self.ahead.is_empty(), see)?;
        }
        let (file, look) = self.way.pop().ok_or_else(out)?;
        let look = match (look, &file) {
            (Some(look), _) => look,
            (None, Some(file)) => fstat(file).map_err(io::Error::from)?,
            (None, None) => return Err(out().into()),
        };
        let folder = self.way.pop().and_then(|(folder, _)| folder);
        Ok((file, Found { folder, look, path: std::mem::take(&mut self.path) }))
    }

    /// Puts what a path or a link says before whatever is ahead still.
    fn turn_to(&mut self, text: &OsStr) -> io::Result<()> {
        if text.is_empty() {
            return Err(Errno::NOENT.into());
        }
        if text.len() > PATH_BYTES {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut rest = text.as_bytes();
        if rest.starts_with(b"/") {
            rest = self.names.iter().find_map(|name| after(rest, name.as_os_str().as_bytes())).ok_or_else(out)?;
            self.way.truncate(1);
            self.path = self.names.first().ok_or_else(out)?.to_path_buf();
        }
        for part in rest.split(|byte| *byte == b'/').rev() {
            self.ahead.push_front(OsString::from_vec(part.to_vec()));
        }
        Ok(())
    }

    fn step<E: From<io::Error>>(
        &mut self,
        part: &OsStr,
        opens: bool,
        see: &mut impl FnMut(&Path, &Stat) -> Result<(), E>,
    ) -> Result<(), E> {
        let (here, look) = self.way.last().ok_or_else(out)?;
        if matches!(part.as_bytes(), b"" | b"." | b"..") {
            if look.is_some_and(|look| FileType::from_raw_mode(look.st_mode) != FileType::Directory) {
                return Err(io::Error::from(Errno::NOTDIR).into());
            }
            return if part == ".." { Ok(self.go_back()?) } else { Ok(()) };
        }
        let here = here.as_ref().ok_or_else(|| io::Error::from(Errno::NOTDIR))?;
        let unopened = || statat(here, part, AtFlags::SYMLINK_NOFOLLOW).map(|look| (None, look));
        let next = match opens.then(|| openat(here, part, self.by, Mode::empty())) {
            Some(Ok(file)) => fstat(&file).map(|look| (Some(file), look)),
            // Without O_PATH a link is not opened.
            None | Some(Err(Errno::LOOP | Errno::MLINK)) => unopened(),
            Some(Err(error)) => Err(error),
        };
        let (file, look) = next.map_err(io::Error::from)?;
        self.path.push(part);
        see(&self.path, &look)?;
        if FileType::from_raw_mode(look.st_mode) != FileType::Symlink {
            if opens && file.is_none() {
                return Err(io::Error::from(Errno::LOOP).into());
            }
            self.way.push((file.map(Arc::new), Some(look)));
            return Ok(());
        }
        self.links += 1;
        if self.links > LINKS {
            return Err(io::Error::from(Errno::LOOP).into());
        }
        let target = match &file {
            Some(link) => readlinkat(link, c"", Vec::new()),
            None => readlinkat(here, part, Vec::new()),
        };
        self.path.pop();
        let target = target.map_err(io::Error::from)?;
        Ok(self.turn_to(OsStr::from_bytes(target.as_bytes()))?)
    }

    fn go_back(&mut self) -> io::Result<()> {
        if self.way.len() > 1 {
            self.way.pop();
            self.path.pop();
            return Ok(());
        }
        // Above the root is the root.
        if self.path == Path::new("/") { Ok(()) } else { Err(out()) }
    }
}

/// What of an absolute path lies beneath `name`.
fn after<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(name)?;
    let is_whole = name.ends_with(b"/") || rest.is_empty() || rest.starts_with(b"/");
    is_whole.then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_walk_from_the_root_is_what_the_system_makes_of_a_path() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("real")).expect("made");
        symlink("../../../../../../../../../../../../../tmp/..", folder.path().join("high")).expect("linked");
        symlink(folder.path().join("real"), folder.path().join("link")).expect("linked");
        for name in ["real", "link", "link/../real", "high"] {
            let path = folder.path().join(name);
            let root = File::open("/").expect("opened");
            let root = Arc::new(OwnedFd::from(root));
            let see = |_: &Path, _: &Stat| Ok::<(), io::Error>(());
            let (file, found) = walk(Arc::clone(&root), &[Path::new("/")], &path, see).expect(name);
            assert_eq!(found.path, path.canonicalize().expect("there"), "{name}");
            let unopened = find(root, &[Path::new("/")], &path, see).expect(name);
            assert_eq!(unopened.path, found.path, "{name}");
            for look in [found.look, unopened.look] {
                assert_eq!(Mark::of(&look), Mark::of(&fstat(&file).expect("opened")), "{name}");
            }
        }
    }
}
