//! What must stay secret: 256 random bits, the digest by which they are known again, and files that only their owner reads. It
//! never shows a secret but where it is asked for its text, and never tells by its time what it compared.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// A token, or the secret of an invitation: 256 random bits as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bits.
    pub fn random() -> io::Result<Self> {
        let mut bits = [0; 32];
        random(&mut bits)?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(bits).into()))
    }

    /// The text, to be sent or written down.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// What it is known by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

/// Fills `bits` with what nobody can foresee.
///
/// # Errors
/// When the system gives no random bits.
pub fn random(bits: &mut [u8]) -> io::Result<()> {
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(bits).map_err(|_| io::Error::other("the system gives no random bits"))
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a secret is known by: its SHA-256. In JSON it is hexadecimal.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of what nobody knows a secret for.
    pub const OF_NOTHING: Self = Self([0; 32]);

    /// The digest of a secret's text.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Whether both are of one secret, in the same time whatever the answer.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        serializer.serialize_str(&digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom("a SHA-256 is 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// Writes a file that only its owner reads, whole or not at all: when this returns, it is on disk under its name. Its folder is made
/// if it is not there, for its owner alone.
///
/// # Errors
/// What the system says.
pub fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let draft = path.with_added_extension("new");
    // What a crash left may have been made by whoever, with any mode.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_known_by_its_digest_and_shown_by_nothing_else() {
        let secret = Secret::random().expect("the system has random bits");
        assert!(secret.text().len() == 43 && secret != Secret::random().expect("again"));
        assert!(secret.digest().is(&Digest::of(secret.text())) && !secret.digest().is(&Digest::of("another")));
        assert!(!format!("{secret:?} {:?}", secret.digest()).contains(secret.text()));
        let json = serde_json::to_string(&Digest::of("abc")).expect("text");
        assert_eq!(json, "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"");
        assert_eq!(serde_json::from_str::<Digest>(&json).expect("its own"), Digest::of("abc"));
        for wrong in ["\"\"", "\"é\"", "7", &json.replace('a', "g"), &json.replace('b', "")] {
            assert!(serde_json::from_str::<Digest>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_private_file_is_its_owners_also_where_another_one_lay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/token");
        for text in ["one", "two"] {
            write_private(&path, text.as_bytes()).expect("written");
            fs::write(path.with_added_extension("new"), "left by a crash").expect("written");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.path().join("keys"))), (0o600, 0o700));
    }
}
