//! The way from the root to the folder of scripts: walked and looked at part by part, and kept while all of it is as it was. It never
//! takes a part for another that stands in its place now, and opens nothing in the folder.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Stat, lstat};

use crate::system::c_text;
use crate::system::trust::{Obstacle, Sticky, open_folder};
use crate::system::walk::{Mark, walk};

/// How long a way is kept at most: who may write it is not only a matter of what is on it, but of who is in which group.
const KEPT: Duration = Duration::from_secs(5);

/// The way that was walked last, if it is of use.
#[derive(Debug, Default)]
pub struct WayKept(Mutex<Option<Kept>>);

#[derive(Debug, Clone)]
struct Kept {
    way: Arc<Way>,
    /// When it was looked at last, and found as it was.
    looked_at: Instant,
}

/// A way to a folder.
#[derive(Debug)]
pub struct Way {
    /// Every folder and link on it, and how it was.
    parts: Vec<(CString, Mark)>,
    since: Instant,
    folder: Arc<OwnedFd>,
    path: PathBuf,
}

impl WayKept {
    /// The way to `folder`, of which `guard` has seen every part as it is, or as it was some time after `since`: whoever asked then for the
    /// same cannot tell. A way that is kept costs a look at each part instead of opening and closing it.
    ///
    /// # Errors
    /// What open(2) says, and whatever `guard` does.
    pub fn find(
        &self,
        folder: &Path,
        since: Instant,
        guard: impl Fn(&Path, &Stat, Sticky) -> Result<(), Obstacle>,
    ) -> Result<Arc<Way>, Obstacle> {
        let kept = self.kept().clone();
        if let Some(Kept { way, looked_at }) = kept {
            if looked_at >= since {
                return Ok(way);
            }
            let looked_at = Instant::now();
            if way.is_as_it_was() {
                *self.kept() = Some(Kept { way: Arc::clone(&way), looked_at });
                return Ok(way);
            }
        }
        let way = Arc::new(Way::walk(folder, guard)?);
        let is_settled = way.parts.iter().all(|(_, mark)| mark.is_settled());
        *self.kept() = is_settled.then(|| Kept { way: Arc::clone(&way), looked_at: way.since });
        Ok(way)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        // Every section leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    fn walk(folder: &Path, guard: impl Fn(&Path, &Stat, Sticky) -> Result<(), Obstacle>) -> Result<Self, Obstacle> {
        let since = Instant::now();
        let mut parts = Vec::new();
        let root = open_folder(Path::new("/")).map_err(io::Error::from)?;
        let (opened, found) = walk(root, &[Path::new("/")], folder, |path, look| {
            parts.push((c_text(path.as_os_str().as_bytes())?, Mark::of_part(look)));
            guard(path, look, Sticky::WillDo)
        })?;
        guard(&found.path, &found.look, Sticky::WillNotDo)?;
        Ok(Self { parts, since, folder: opened, path: found.path })
    }

    fn is_as_it_was(&self) -> bool {
        let is = |(path, mark): &(CString, Mark)| lstat(path.as_c_str()).is_ok_and(|look| Mark::of_part(&look) == *mark);
        self.since.elapsed() < KEPT && self.parts.iter().all(is)
    }

    /// The folder, opened.
    pub fn folder(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.folder)
    }

    /// Where it is without links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn way(folder: &Path) -> Way {
        Way::walk(folder, |_, _, _| Ok(())).expect("there")
    }

    #[test]
    fn a_way_is_another_when_a_part_of_it_is_or_has_other_rights() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let [one, other, link] = ["one", "other", "link"].map(|name| root.path().join(name));
        for release in [&one, &other] {
            fs::create_dir_all(release.join("scripts")).expect("made");
        }
        symlink(&one, &link).expect("linked");
        let (by_link, straight) = (way(&link.join("scripts")), way(&one.join("scripts")));
        assert_eq!(by_link.path(), straight.path());
        assert!(by_link.is_as_it_was() && straight.is_as_it_was());
        // As a release is put in place of another.
        symlink(&other, root.path().join("next")).expect("linked");
        fs::rename(root.path().join("next"), &link).expect("renamed");
        assert!(!by_link.is_as_it_was());
        assert_ne!(way(&link.join("scripts")).path(), by_link.path());
        let straight = way(&one.join("scripts"));
        assert!(straight.is_as_it_was());
        fs::set_permissions(&one, Permissions::from_mode(0o777)).expect("set");
        assert!(!straight.is_as_it_was());
        let straight = way(&one.join("scripts"));
        fs::rename(&one, root.path().join("gone")).expect("renamed");
        assert!(!straight.is_as_it_was());
    }

    #[test]
    fn a_look_is_good_for_whoever_asked_before_it_and_for_nobody_else() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let scripts = root.path().join("scripts");
        fs::create_dir(&scripts).expect("made");
        let kept = WayKept::default();
        let find = |since| kept.find(&scripts, since, |_, _, _| Ok(())).expect("there");
        let before = Instant::now();
        let first = find(before);
        // Looked at again: it is as it was.
        let between = Instant::now();
        assert!(Arc::ptr_eq(&first, &find(between)));
        fs::set_permissions(&scripts, Permissions::from_mode(0o700)).expect("set");
        for since in [before, between] {
            assert!(Arc::ptr_eq(&first, &find(since)));
        }
        let changed = find(Instant::now());
        assert!(!Arc::ptr_eq(&first, &changed));
        assert!(Arc::ptr_eq(&changed, &find(before)));
    }

    #[test]
    fn a_way_is_kept_whatever_is_put_beside_it_but_not_by_a_link_that_may_change_and_look_the_same() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let [scripts, link, beside] = ["scripts", "link", "beside"].map(|name| root.path().join(name));
        fs::create_dir(&scripts).expect("made");
        let is_kept = |folder: &Path, between: &dyn Fn()| {
            let kept = WayKept::default();
            let first = kept.find(folder, Instant::now(), |_, _, _| Ok(())).expect("there");
            between();
            Arc::ptr_eq(&first, &kept.find(folder, Instant::now(), |_, _, _| Ok(())).expect("there"))
        };
        assert!(is_kept(&scripts, &|| {
            fs::create_dir(&beside).expect("made");
            fs::write(scripts.join("one"), "").expect("written");
        }));
        symlink(&scripts, &link).expect("linked");
        assert!(!is_kept(&link, &|| {}), "it is younger than a second");
        fs::set_permissions(&scripts, Permissions::from_mode(0o700)).expect("set");
        assert!(is_kept(&scripts, &|| {}));
    }
}
