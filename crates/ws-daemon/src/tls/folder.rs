//! The folder `keys/` of the prefix: each file appears whole, with its rights, or not at all. It never knows what is in a file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::KeysFault;

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
pub enum Readers {
    /// The daemon's user.
    Owner,
    /// Everyone who may enter the folder: it is shown to strangers anyway.
    All,
}

/// The folder, which may not be there yet.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where a file of it is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The text of a file; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, KeysFault> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KeysFault::file(self.path(name), format!("it cannot be read: {error}"))),
        }
    }

    /// Writes a file, on disk when this returns; the folder is made if need be.
    ///
    /// # Errors
    /// Why it is as it was.
    pub fn write(&self, name: &str, text: &str, readers: Readers) -> Result<(), KeysFault> {
        let cannot = |error: io::Error| KeysFault::file(self.path(name), format!("it cannot be written: {error}"));
        self.try_write(name, text, readers).map_err(cannot)
    }

    fn try_write(&self, name: &str, text: &str, readers: Readers) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.0) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let draft = self.path(&format!("{name}.new"));
        // One that a crash has left may have other rights.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::All => 0o644,
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, self.path(name))?;
        self.sync()
    }

    /// Gives a file another name, on disk when this returns.
    ///
    /// # Errors
    /// Why it has its old one.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), KeysFault> {
        let renamed = fs::rename(self.path(from), self.path(to)).and_then(|()| self.sync());
        renamed.map_err(|error| KeysFault::file(self.path(from), format!("it cannot be renamed to {to}: {error}")))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(Path::new(&self.0))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_has_its_rights_and_replaces_the_one_before() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::new(place.path().join("keys"));
        assert!(folder.read("a").expect("no file is no fault").is_none());
        fs::create_dir(place.path().join("keys")).expect("made");
        fs::write(folder.path("a.new"), "left by a crash").expect("written");
        folder.write("a", "1", Readers::Owner).expect("written");
        folder.write("a", "2", Readers::Owner).expect("written");
        folder.write("b", "3", Readers::All).expect("written");
        folder.rename("b", "c").expect("renamed");
        assert_eq!(folder.read("a").expect("there").as_deref(), Some("2"));
        let mode = |name: &str| fs::metadata(folder.path(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("c") & 0o600), (0o600, 0o600));
        assert!(!folder.has("b") && !folder.has("a.new"));
        let said = folder.rename("b", "d").expect_err("it is gone").to_string();
        assert!(said.contains("/b: it cannot be renamed to d"), "{said}");
    }
}
