//! The register of callers: programs that ask over HTTP, each with a token, or a key for its signatures, and what it may ask for. Every
//! change is on disk before it is told. Of tokens it holds digests alone; keys it has to know.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use ws_daemon_protocol::command::NewCaller;

use crate::config::{Accounts, WrittenRule};
use crate::policy::Program;
use crate::register::is_name;
use crate::secret::{self, Digest, Secret};

/// The version of the file's format.
const FORMAT: u32 = 1;

/// Callers; one more is refused. All of them are looked at for each token that is shown.
const PROGRAMS: usize = 1024;

/// The header of signatures, unless it is said: that of git hosts.
pub const SIGNATURE: &str = "x-hub-signature-256";

/// What a signature begins with, before its hexadecimal digits.
const SCHEME: &str = "sha256=";

/// The register. Clones are the same one. The default one has nobody in it, and no file to put anybody into.
#[derive(Debug, Clone, Default)]
pub struct Callers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    path: Option<PathBuf>,
    table: ArcSwap<Table>,
    /// Held from the reading of the table to its replacement.
    changing: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct Table(BTreeMap<Box<str>, Entry>);

#[derive(Debug, Clone)]
struct Entry {
    written: WrittenEntry,
    program: Arc<Program>,
}

/// A caller as the file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    /// What its token is known by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Digest>,
    /// By what it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hmac: Option<Signing>,
    /// What it may ask for, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<WrittenRule>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signing {
    key: Box<str>,
    header: Box<str>,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing").field("header", &self.header).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    callers: BTreeMap<Box<str>, WrittenEntry>,
}

/// One caller, to be shown.
#[derive(Debug)]
pub struct Shown {
    /// What it is called.
    pub name: Box<str>,
    /// The header of its signatures, if it signs.
    pub header: Option<Box<str>>,
    /// What it may ask for, as a rule would have it.
    pub rule: Option<WrittenRule>,
}

/// Why the register cannot be read. It is never taken for empty then.
#[derive(Debug, thiserror::Error)]
#[error("the register of callers {} {what}; put a good copy in its place, or move the file away and add every caller again", path.display())]
pub struct BrokenCallers {
    path: PathBuf,
    what: String,
}

/// Why the register was not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallersFault {
    /// No name.
    #[error("{0:?} is no name of a caller: it has 1 to 63 of a-z, A-Z, 0-9, - and _ and ., and begins with a letter or digit")]
    Name(Box<str>),
    /// There is one of that name.
    #[error("there is a caller {0:?} already; another token for it: ws-daemon callers rotate {0}")]
    Taken(Box<str>),
    /// There is none of that name.
    #[error("there is no caller {0:?}")]
    Unknown(Box<str>),
    /// What it is to be given makes no rule.
    #[error("{0}")]
    Rule(String),
    /// No header is called so, or it has another meaning.
    #[error("{0:?} cannot be the header of signatures")]
    Header(Box<str>),
    /// A header without signatures.
    #[error("\"header\" goes with \"hmac\"")]
    NoSignatures,
    /// As many as may be.
    #[error("there are {PROGRAMS} callers already")]
    Full,
    /// The disk.
    #[error("the register of callers cannot be written: {0}")]
    Disk(String),
}

impl Callers {
    /// The register that is kept in `path`; empty if there is no such file.
    ///
    /// # Errors
    /// When there is one that cannot be taken as it is.
    pub fn open(path: &Path) -> Result<Self, BrokenCallers> {
        let broken = |what: String| BrokenCallers { path: path.to_owned(), what };
        let table = match fs::read_to_string(path) {
            Ok(text) => {
                let written: Written = serde_json::from_str(&text).map_err(|error| broken(format!("is damaged: {error}")))?;
                if written.format != FORMAT {
                    return Err(broken(format!("has format {}, and this program knows format {FORMAT}", written.format)));
                }
                let entries = written.callers.into_iter().map(|(name, written)| {
                    let entry = Entry::new(&name, written)?;
                    Ok((name, entry))
                });
                Table(entries.collect::<Result<_, CallersFault>>().map_err(|fault| broken(format!("is damaged: {fault}")))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Table::default(),
            Err(error) => return Err(broken(format!("cannot be read: {error}"))),
        };
        let (path, table) = (Some(path.to_owned()), ArcSwap::from_pointee(table));
        Ok(Self(Arc::new(Inner { path, table, changing: Mutex::default() })))
    }

    /// The caller that has this token, after the same time whether there is one or not.
    #[must_use]
    pub fn by_token(&self, token: &str) -> Option<Arc<Program>> {
        let shown = Digest::of(token);
        let mut found = None;
        for entry in self.0.table.load().0.values() {
            if entry.written.token.is_some_and(|token| token.is(&shown)) {
                found = Some(Arc::clone(&entry.program));
            }
        }
        found
    }

    /// The caller of this name, if `body` has its signature among the headers that `header` looks up.
    #[must_use]
    pub fn by_signature<'a>(
        &self,
        name: &str,
        body: &[u8],
        header: impl FnOnce(&str) -> Option<&'a str>,
    ) -> Option<Arc<Program>> {
        let table = self.0.table.load();
        let entry = table.0.get(name);
        let signing = entry.and_then(|entry| entry.written.hmac.as_ref());
        let shown = header(signing.map_or(SIGNATURE, |signing| &signing.header)).unwrap_or_default();
        let digits = shown.strip_prefix(SCHEME).unwrap_or(shown);
        // Who is nobody is compared as well, by a key that nobody has.
        let mut mac = Hmac::<Sha256>::new_from_slice(signing.map_or(&[0], |signing| signing.key.as_bytes())).ok()?;
        mac.update(body);
        let is_right = from_hex(digits).is_some_and(|code| mac.verify_slice(&code).is_ok());
        entry.filter(|_| is_right && signing.is_some()).map(|entry| Arc::clone(&entry.program))
    }

    /// The caller of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<Program>> {
        self.0.table.load().0.get(name).map(|entry| Arc::clone(&entry.program))
    }

    /// All of them, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Shown> {
        let shown = |entry: &Entry| Shown {
            name: entry.program.name.clone(),
            header: entry.written.hmac.as_ref().map(|signing| signing.header.clone()),
            rule: entry.written.rule.clone(),
        };
        self.0.table.load().0.values().map(shown).collect()
    }

    /// One more. What it is to show, or to sign with.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn add(&self, new: NewCaller) -> Result<Secret, CallersFault> {
        let NewCaller { name, allow, to, commands, hmac, header } = new;
        let name: Box<str> = name.into();
        if !is_name(&name) {
            return Err(CallersFault::Name(name));
        }
        let header = match header {
            Some(_) if !hmac => return Err(CallersFault::NoSignatures),
            Some(header) => signature_header(&header)?,
            None => SIGNATURE.into(),
        };
        let is_limited = allow.is_some() || to.is_some() || commands.is_some();
        let rule = is_limited.then(|| {
            let mut rule = json!({ "who": format!("caller:{name}"), "scripts": allow.unwrap_or_else(|| vec!["*".to_owned()]) });
            if let Some(to) = to {
                rule["targets"] = json!(to);
            }
            if let Some(commands) = commands {
                rule["commands"] = commands.into();
            }
            serde_json::from_value(rule)
        });
        let rule = rule.transpose().map_err(|error: serde_json::Error| CallersFault::Rule(error.to_string()))?;
        let added = self.with_secret(move |table, secret| {
            if table.0.contains_key(&name) {
                return Err(CallersFault::Taken(name));
            }
            if table.0.len() >= PROGRAMS {
                return Err(CallersFault::Full);
            }
            let written = if hmac {
                WrittenEntry { token: None, hmac: Some(Signing { key: secret.text().into(), header }), rule }
            } else {
                WrittenEntry { token: Some(secret.digest()), hmac: None, rule }
            };
            let entry = Entry::new(&name, written)?;
            table.0.insert(name, entry);
            Ok(())
        });
        added.await.map(|(secret, ())| secret)
    }

    /// Another token or key for a caller; the old one is good for nothing from now on.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn rotate(&self, name: &str) -> Result<Secret, CallersFault> {
        let (secret, before) = self
            .with_secret(|table, secret| {
                let entry = table.0.get_mut(name).ok_or_else(|| CallersFault::Unknown(name.into()))?;
                let before = Arc::clone(&entry.program);
                let mut written = entry.written.clone();
                match &mut written.hmac {
                    Some(signing) => signing.key = secret.text().into(),
                    None => written.token = Some(secret.digest()),
                }
                *entry = Entry::new(name, written)?;
                Ok(before)
            })
            .await?;
        before.gone.cancel();
        Ok(secret)
    }

    /// Takes a caller's right to ask.
    ///
    /// # Errors
    /// When there is none, or the disk does not take it.
    pub async fn revoke(&self, name: &str) -> Result<(), CallersFault> {
        let gone = self.change(|table| table.0.remove(name).ok_or_else(|| CallersFault::Unknown(name.into()))).await?;
        gone.program.gone.cancel();
        Ok(())
    }

    async fn with_secret<T>(
        &self,
        change: impl FnOnce(&mut Table, &Secret) -> Result<T, CallersFault>,
    ) -> Result<(Secret, T), CallersFault> {
        let secret = Secret::random().map_err(|error| CallersFault::Disk(error.to_string()))?;
        let done = self.change(|table| change(table, &secret)).await?;
        Ok((secret, done))
    }

    /// Changes a copy, writes it, and only then puts it in the place of what was.
    async fn change<T>(&self, change: impl FnOnce(&mut Table) -> Result<T, CallersFault>) -> Result<T, CallersFault> {
        let _alone = self.0.changing.lock().await;
        let mut table = Table::clone(&self.0.table.load());
        let done = change(&mut table)?;
        let callers = table.0.iter().map(|(name, entry)| (name.clone(), entry.written.clone())).collect();
        let text = serde_json::to_string_pretty(&Written { format: FORMAT, callers });
        let text = text.map_err(|error| CallersFault::Disk(error.to_string()))?;
        let path = self.0.path.clone().ok_or_else(|| CallersFault::Disk("there is no file for it".to_owned()))?;
        let written = tokio::task::spawn_blocking(move || secret::write_private(&path, text.as_bytes())).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| CallersFault::Disk(error.to_string()))?;
        self.0.table.store(Arc::new(table));
        Ok(done)
    }
}

impl Entry {
    fn new(name: &str, written: WrittenEntry) -> Result<Self, CallersFault> {
        if !is_name(name) {
            return Err(CallersFault::Name(name.into()));
        }
        let rule = written.rule.as_ref().map(|rule| rule.meant(&Accounts::default())).transpose();
        let rule = rule.map_err(CallersFault::Rule)?;
        let program = Arc::new(Program { name: name.into(), rule, gone: CancellationToken::new() });
        Ok(Self { written, program })
    }
}

/// The name of a header that says nothing else.
fn signature_header(name: &str) -> Result<Box<str>, CallersFault> {
    const TAKEN: [&str; 6] = ["authorization", "host", "content-type", "content-length", "origin", "cookie"];
    let name = name.to_ascii_lowercase();
    let is_one = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && name.len() <= 64;
    if is_one && !TAKEN.contains(&&*name) { Ok(name.into()) } else { Err(CallersFault::Header(name.into())) }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| Some((digit(pair[0])? << 4) | digit(pair[1])?);
    (text.len() == 64).then(|| text.as_bytes().chunks(2).map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use ws_daemon_protocol::target::Target;

    use super::*;

    fn caller(name: &str) -> NewCaller {
        NewCaller { name: name.into(), allow: None, to: None, commands: None, hmac: false, header: None }
    }

    #[tokio::test]
    async fn a_caller_is_found_by_its_token_after_a_restart_and_no_token_is_in_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/callers.json");
        let callers = Callers::open(&path).expect("no file is an empty register");
        let token = callers.add(caller("ci")).await.expect("added");
        let limited = NewCaller {
            allow: Some(vec!["deploy/*".into()]),
            to: Some(Target::parse("web-*").expect("a target")),
            ..caller("limited")
        };
        callers.add(limited).await.expect("added");
        let again = Callers::open(&path).expect("written whole");
        assert_eq!(again.by_token(token.text()).map(|found| found.name.to_string()).as_deref(), Some("ci"));
        assert!(again.by_token("").is_none() && again.by_token("ci").is_none());
        let rule = again.named("limited").and_then(|found| found.rule.clone()).expect("it was limited");
        assert!(rule.scripts[0].matches("deploy/x") && rule.commands.is_empty() && rule.targets.is_some());
        assert!(!fs::read_to_string(&path).expect("there").contains(token.text()));
        let program = again.by_token(token.text()).expect("there");
        let other = again.rotate("ci").await.expect("there");
        assert!(
            program.gone.is_cancelled() && again.by_token(token.text()).is_none() && again.by_token(other.text()).is_some()
        );
        again.revoke("ci").await.expect("there");
        assert!(again.by_token(other.text()).is_none());
        assert_eq!(again.revoke("ci").await, Err(CallersFault::Unknown("ci".into())));
        assert_eq!(Callers::open(&path).expect("written whole").list().len(), 1);
    }

    #[tokio::test]
    async fn a_signature_is_the_callers_own_over_the_very_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let callers = Callers::open(&folder.path().join("callers.json")).expect("none yet");
        let signs = |name| NewCaller { hmac: true, ..caller(name) };
        let key = callers.add(signs("git")).await.expect("added");
        callers.add(NewCaller { header: Some("X-Pay".into()), ..signs("pay") }).await.expect("added");
        let mut mac = Hmac::<Sha256>::new_from_slice(key.text().as_bytes()).expect("any length");
        mac.update(b"{}");
        let mut code = String::new();
        mac.finalize().into_bytes().iter().for_each(|byte| code.push_str(&format!("{byte:02x}")));
        let shown = |name: &str, body: &[u8], code: &str| {
            callers.by_signature(name, body, |header| (header == SIGNATURE).then_some(code)).is_some()
        };
        assert!(shown("git", b"{}", &format!("sha256={code}")) && shown("git", b"{}", &code));
        assert!(!shown("git", b"{} ", &code) && !shown("pay", b"{}", &code) && !shown("none", b"{}", &code));
        for wrong in ["", "sha256=", "sha1=00", &code[1..], &code.replace(['0', '1', '2', '3', '4', '5', '6', '7'], "g")] {
            assert!(!shown("git", b"{}", wrong), "{wrong}");
        }
        assert!(callers.by_token(key.text()).is_none(), "a key is no token");
    }

    #[tokio::test]
    async fn what_is_no_caller_is_refused_in_words_and_a_broken_file_is_never_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("callers.json");
        let callers = Callers::open(&path).expect("none yet");
        callers.add(caller("ci")).await.expect("added");
        let of = |change: fn(&mut NewCaller)| {
            let mut new = caller("new");
            change(&mut new);
            new
        };
        let table = [
            (caller("ci"), "already"),
            (caller("a b"), "no name"),
            (of(|new| new.header = Some("X-A".into())), "goes with"),
            (of(|new| (new.hmac, new.header) = (true, Some("Authorization".into()))), "cannot be the header"),
            (of(|new| new.commands = Some(vec!["PAUSE".into()])), "let a caller give PAUSE"),
            (of(|new| new.allow = Some(vec![String::new()])), "needs a name"),
        ];
        for (new, words) in table {
            let said = callers.add(new).await.map(drop).expect_err(words).to_string();
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(callers.list().len(), 1);
        let good = fs::read_to_string(&path).expect("there");
        for text in ["", &good[..good.len() - 2], &good.replace(": 1", ": 2"), &good.replace("\"ci\"", "\"c i\"")] {
            fs::write(&path, text).expect("written");
            assert!(Callers::open(&path).is_err(), "{text}");
        }
    }
}
