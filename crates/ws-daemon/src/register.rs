//! The register of a server: which peers may enter by which token, and who is invited to become one. Every change is on disk before
//! it is told to anybody. It holds no secret, only digests of them, and never decides what a peer may do.

mod table;

pub use table::{Invite, NAME_BYTES, PEERS, RegisterFault, Registered, Trade, TradeFault, Traded, Unbound, is_name};

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::secret::{self, Digest, Secret};
use crate::standing::{Proof, Proven};
use table::Table;

/// The version of the file's format.
const FORMAT: u32 = 1;

/// The largest file that is read, 256 MiB: more than as many peers as there may be.
const FILE_BYTES: u64 = 256 << 20;

/// The register. Clones are the same one. The default one has nobody in it, and no file to put anybody into.
#[derive(Debug, Clone, Default)]
pub struct Register(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    path: Option<PathBuf>,
    table: ArcSwap<Table>,
    /// Held from the reading of the table to its replacement.
    changing: Mutex<()>,
}

/// Why the register cannot be read. It is never taken for empty then.
#[derive(Debug, thiserror::Error)]
#[error(
    "the register of peers {} {what}; nobody could be told apart without it. Put a good copy in its place, or, to begin anew and \
     invite every peer again, move the file away",
    path.display()
)]
pub struct BrokenRegister {
    path: PathBuf,
    what: String,
}

/// The file as written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<T> {
    format: u32,
    register: T,
}

impl Register {
    /// The register that is kept in `path`; empty if there is no such file.
    ///
    /// # Errors
    /// When there is one that cannot be taken as it is.
    pub fn open(path: &Path) -> Result<Self, BrokenRegister> {
        let broken = |what: String| BrokenRegister { path: path.to_owned(), what };
        let table = match read(path) {
            Ok(Some(text)) => {
                let written: Written<Table> =
                    serde_json::from_str(&text).map_err(|error| broken(format!("is damaged: {error}")))?;
                if written.format != FORMAT {
                    return Err(broken(format!("has format {}, and this program knows format {FORMAT}", written.format)));
                }
                written.register.indexed().map_err(|what| broken(format!("is damaged: {what}")))?
            }
            Ok(None) => Table::default(),
            Err(error) => return Err(broken(format!("cannot be read: {error}"))),
        };
        Ok(Self(Arc::new(Inner {
            path: Some(path.to_owned()),
            table: ArcSwap::from_pointee(table),
            changing: Mutex::default(),
        })))
    }

    /// Whether no peer is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.table.load().is_empty()
    }

    /// The peer that shows this name and token. Whether the name or the token is wrong, it takes the same time.
    #[must_use]
    pub fn find(&self, name: &str, token: &str) -> Option<Proven> {
        self.0.table.load().find(name, &Digest::of(token))
    }

    /// A registered peer that has proved its name in another way than by its token.
    ///
    /// # Errors
    /// When it was revoked.
    pub fn named(&self, name: &str, by: Proof) -> Result<Option<Proven>, Revoked> {
        self.0.table.load().named(name, by)
    }

    /// Whether a peer that has proved its name a moment ago may still enter.
    #[must_use]
    pub fn still_has(&self, proven: &Proven) -> bool {
        let found = self.named(&proven.name, proven.by);
        found.is_ok_and(|found| found.is_some() || proven.by == Proof::Certificate)
    }

    /// Whether a name is somebody's here, also if it was taken from it.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.0.table.load().peers.contains_key(name)
    }

    /// The peer that an instance is bound to.
    #[must_use]
    pub fn owner_of(&self, instance: &str) -> Option<Box<str>> {
        self.0.table.load().owner_of(instance).map(Into::into)
    }

    /// Whether an instance was a peer's and is not to come back.
    #[must_use]
    pub fn is_gone(&self, instance: &str) -> bool {
        self.0.table.load().is_gone(instance)
    }

    /// Whether a tag was given out here: it cannot be had by saying so.
    #[must_use]
    pub fn is_reserved(&self, tag: &str) -> bool {
        self.0.table.load().is_reserved(tag)
    }

    /// All peers, by name.
    #[must_use]
    pub fn peers(&self) -> Vec<Registered> {
        self.0.table.load().registered()
    }

    /// Whether somebody can be invited so.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, invite: &Invite) -> Result<(), RegisterFault> {
        Table::clone(&self.0.table.load()).invite(invite.clone(), Digest::OF_NOTHING, now_ms()).map(drop)
    }

    /// Invites somebody; the secret that is to be traded, and until when, in milliseconds since 1970.
    ///
    /// # Errors
    /// Why not.
    pub async fn invite(&self, invite: Invite) -> Result<(Secret, u64), RegisterFault> {
        self.with_secret(|table, secret, now_ms| table.invite(invite, secret, now_ms)).await
    }

    /// Invites a peer again to trade for another token. Its old one is good until that is done, or no more `at_once`.
    ///
    /// # Errors
    /// Why not.
    pub async fn rotate(&self, name: &str, ttl: Duration, at_once: bool) -> Result<(Secret, u64), RegisterFault> {
        self.with_secret(|table, secret, now_ms| table.rotate(name, ttl, at_once, secret, now_ms)).await
    }

    /// Trades an invitation for a place. The same peer may do it again, and is answered the same.
    ///
    /// # Errors
    /// Why not.
    pub async fn trade(&self, trade: Trade) -> Result<Traded, TradeFault> {
        // A guess costs nobody a turn.
        if !self.0.table.load().knows(&trade.secret) {
            return Err(TradeFault::Unknown);
        }
        self.change(|table| table.trade(&trade, now_ms())).await
    }

    /// A peer has come as this `instance`, which says that it was `former` ones before: it is bound to it if it was to none.
    ///
    /// # Errors
    /// When it is bound to another.
    pub async fn bind(&self, name: &str, instance: &str, former: &[String]) -> Result<(), Unbound> {
        if self.0.table.load().is_bound(name, instance) {
            return Ok(());
        }
        self.change(|table| table.bind(name, instance, former)).await
    }

    /// Takes a peer's right to enter, and every invitation of that name. Whether it was a peer.
    ///
    /// # Errors
    /// When there is neither.
    pub async fn revoke(&self, name: &str) -> Result<bool, RegisterFault> {
        self.change(|table| table.revoke(name)).await
    }

    async fn with_secret(
        &self,
        change: impl FnOnce(&mut Table, Digest, u64) -> Result<u64, RegisterFault>,
    ) -> Result<(Secret, u64), RegisterFault> {
        let secret = Secret::random().map_err(|error| RegisterFault::Disk(error.to_string()))?;
        let digest = secret.digest();
        let until_ms = self.change(|table| change(table, digest, now_ms())).await?;
        Ok((secret, until_ms))
    }

    /// Changes a copy, writes it, and only then puts it in the place of what was.
    async fn change<T, E: From<RegisterFault>>(&self, change: impl FnOnce(&mut Table) -> Result<T, E>) -> Result<T, E> {
        let _alone = self.0.changing.lock().await;
        let mut table = Table::clone(&self.0.table.load());
        let done = change(&mut table)?;
        let Some(path) = self.0.path.clone() else { return Err(RegisterFault::NoRegister.into()) };
        let table = table.indexed().map_err(RegisterFault::Disk)?;
        let text = serde_json::to_string_pretty(&Written { format: FORMAT, register: &table });
        let text = text.map_err(|error| RegisterFault::Disk(error.to_string()))?;
        let written = tokio::task::spawn_blocking(move || secret::write_private(&path, text.as_bytes())).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| RegisterFault::Disk(error.to_string()))?;
        self.0.table.store(Arc::new(table));
        Ok(done)
    }
}

/// A peer of this name was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked;

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES { Err(io::Error::other("it is larger than any register")) } else { Ok(Some(text)) }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(name: &str) -> Invite {
        Invite { name: name.into(), tags: Vec::new(), allow: None, ttl: Duration::from_hours(1), uses: 1 }
    }

    #[tokio::test]
    async fn what_was_answered_is_there_after_a_restart_and_no_secret_is_in_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/peers.json");
        let register = Register::open(&path).expect("no file is an empty register");
        let (secret, _) = register.invite(invite("web")).await.expect("a name");
        let token = Secret::random().expect("random bits");
        let trade = Trade { name: "web".into(), secret: secret.digest(), instance: Some("i".into()), token: token.digest() };
        let again = Register::open(&path).expect("written whole");
        let traded = again.trade(trade.clone()).await.expect("invited");
        assert_eq!(&*traded.name, "web");
        let third = Register::open(&path).expect("written whole");
        assert_eq!(third.trade(trade).await, Ok(traded), "a lost answer");
        assert!(third.find("web", token.text()).is_some() && third.find("web", "x").is_none());
        assert_eq!(third.owner_of("i").as_deref(), Some("web"));
        assert_eq!(third.revoke("web").await, Ok(true));
        let fourth = Register::open(&path).expect("written whole");
        assert!(fourth.find("web", token.text()).is_none() && fourth.is_gone("i") && !fourth.is_empty());
        let text = fs::read_to_string(&path).expect("there");
        assert!(!text.contains(token.text()) && !text.contains(secret.text()), "{text}");
        assert_eq!(fs::read_dir(path.parent().expect("keys")).expect("there").count(), 1, "no draft is left");
    }

    #[tokio::test]
    async fn a_broken_file_is_never_an_empty_register_and_a_disk_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("peers.json");
        let good = r#"{"format":1,"register":{"peers":{"a":{}},"invitations":[],"gone":[]}}"#;
        fs::write(&path, good).expect("written");
        assert!(!Register::open(&path).expect("good").is_empty());
        let digest = "0".repeat(64);
        let twice = format!(
            r#"{{"format":1,"register":{{"peers":{{"a":{{"instance":"i","token":"{digest}"}},"b":{{"instance":"i"}}}}}}}}"#
        );
        let cut = &good[..good.len() - 1];
        let wrong = good.replace("\"a\"", "\"a b\"");
        let later = good.replace(":1,", ":2,");
        let unknown = good.replace("\"gone\"", "\"went\"");
        for (text, words) in [
            ("", "is damaged"),
            (cut, "is damaged"),
            (&wrong, "name"),
            (&later, "format 2"),
            (&unknown, "went"),
            (&twice, "two peers"),
        ] {
            fs::write(&path, text).expect("written");
            let said = Register::open(&path).expect_err(text).to_string();
            assert!(said.contains(words) && said.contains("move the file away"), "{said}");
        }
        let nowhere = Register::open(&folder.path().join("no/such/keys/peers.json")).expect("none yet");
        assert!(matches!(nowhere.invite(invite("web")).await, Err(RegisterFault::Disk(_))));
        assert_eq!(nowhere.revoke("web").await, Err(RegisterFault::Unknown("web".into())));
        assert!(matches!(Register::default().invite(invite("web")).await, Err(RegisterFault::NoRegister)));
    }
}
