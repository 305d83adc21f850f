//! From one root to the next: both are announced until everyone has the next, and only then is a leaf under it shown. It keeps on
//! disk who has which; it never speaks to a client itself.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::authority::{self, Pair};
use super::certificate::{self, Facts, Pin};
use super::folder::Readers;
use super::server::ServerTls;
use super::{KeysFault, wall_seconds};

/// Clients of which it is kept which roots they have; of more it is not known.
const HOLDERS: usize = 65_536;

/// The file that it is kept in.
pub const FILE: &str = "holders.json";

/// Who has which root.
#[derive(Debug, Default)]
pub struct Holders {
    /// By instance.
    by_instance: BTreeMap<String, Holder>,
    /// Whether the disk has it too.
    unsaved: bool,
    /// Whether some are not known: the file was broken.
    is_partial: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    name: String,
    pins: Vec<String>,
}

impl Holders {
    /// What was kept of them; `None`: nothing was.
    pub fn read(text: Option<&str>) -> Self {
        let Some(text) = text else { return Self::default() };
        match serde_json::from_str(text) {
            Ok(by_instance) => Self { by_instance, ..Self::default() },
            Err(error) => {
                warn!(%error, "keys/{FILE} is broken: it is not known any more which client has which root");
                Self { is_partial: true, ..Self::default() }
            }
        }
    }

    /// A client has these roots, and none if it pins none.
    fn note(&mut self, instance: &str, holder: Holder) {
        let before = self.by_instance.get(instance);
        if before == Some(&holder) || (before.is_none() && self.by_instance.len() >= HOLDERS) {
            return;
        }
        if holder.pins.is_empty() {
            self.unsaved |= self.by_instance.remove(instance).is_some();
        } else {
            self.by_instance.insert(instance.to_owned(), holder);
            self.unsaved = true;
        }
    }

    /// Whether everyone that has a root has this one.
    fn all_have(&self, pin: Pin) -> bool {
        let pin = pin.to_string();
        !self.is_partial && self.by_instance.values().all(|holder| holder.pins.contains(&pin))
    }
}

impl ServerTls {
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.0.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The roots that clients are to pin, as PEM: the present one, and the next one if there is one. None of the operator's own.
    #[must_use]
    pub fn roots(&self) -> Vec<String> {
        self.0
            .live
            .load()
            .as_ref()
            .map_or_else(Vec::new, |live| live.roots.iter().map(|root| certificate::to_pem(root)).collect())
    }

    /// What whoever joins is to pin, as PEM: the roots, or what the operator's own chain ends in.
    #[must_use]
    pub fn roots_to_pin(&self) -> String {
        let roots = self.roots();
        if roots.is_empty() { self.root_pem().unwrap_or_default() } else { roots.concat() }
    }

    fn next_pin(&self) -> Option<Pin> {
        let live = self.0.live.load();
        live.as_ref()?.roots.get(1).and_then(|next| Facts::of(next).ok()).map(|facts| facts.pin)
    }

    /// Makes the next root, unless there is one. If everyone has it, as nobody has any, it is gone over to at once: whether it was.
    /// Else the caller announces it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn rotate(&self) -> Result<bool, KeysFault> {
        self.must_be_on()?;
        self.blocking(Self::make_next).await?;
        self.go_over_if_all_have_it().await
    }

    /// A client says which of the roots it has on its disk. Whether that made this server go over to the next root.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn has_roots(&self, instance: &str, name: &str, pins: Vec<String>) -> Result<bool, KeysFault> {
        self.holders().note(instance, Holder { name: name.to_owned(), pins });
        self.0.changed.send_replace(());
        self.go_over_if_all_have_it().await
    }

    async fn go_over_if_all_have_it(&self) -> Result<bool, KeysFault> {
        match self.next_pin() {
            Some(next) if self.holders().all_have(next) => self.finish().await.map(|()| true),
            _ => Ok(false),
        }
    }

    /// Goes over to the next root, whoever has it.
    ///
    /// # Errors
    /// Why the present one is kept.
    pub async fn finish(&self) -> Result<(), KeysFault> {
        self.must_be_on()?;
        self.blocking(Self::go_over).await
    }

    fn make_next(&self) -> Result<(), KeysFault> {
        self.issue(&[], false)?;
        {
            let _one_at_a_time = self.one_at_a_time();
            let folder = &self.0.folder;
            if !folder.has("next-root.pem") {
                let next = authority::make_root(&self.0.plan.load().host, wall_seconds())?;
                // The certificate last: a key alone is made again.
                folder.write("next-root.key", &next.key, Readers::Owner)?;
                folder.write("next-root.pem", &next.certificate, Readers::All)?;
                info!(path = %folder.path("next-root.pem").display(), "the next root was made");
            }
        }
        self.issue(&[], false)
    }

    fn go_over(&self) -> Result<(), KeysFault> {
        {
            let _one_at_a_time = self.one_at_a_time();
            let folder = &self.0.folder;
            let (Some(certificate), Some(key)) = (folder.read("next-root.pem")?, folder.read("next-root.key")?) else {
                return Err(KeysFault::NoNext);
            };
            if !authority::belong_together(&Pair { certificate, key })? {
                return Err(KeysFault::file(folder.path("next-root.key"), "it is not the key of next-root.pem"));
            }
            folder.rename("next-root.key", "root.key")?;
            folder.rename("next-root.pem", "root.pem")?;
        }
        self.issue(&[], true)?;
        info!("the server's certificates are under the next root from here on");
        Ok(())
    }

    /// What a crash between the two steps of going over has left undone.
    pub(super) fn complete_going_over(&self) -> Result<(), KeysFault> {
        let folder = &self.0.folder;
        if folder.has("next-root.pem") && !folder.has("next-root.key") {
            folder.rename("next-root.pem", "root.pem")?;
        }
        Ok(())
    }

    /// The next root, if there is one.
    pub(super) fn next_root(&self) -> Result<Option<CertificateDer<'static>>, KeysFault> {
        let path = self.0.folder.path("next-root.pem");
        let next = self.0.folder.read("next-root.pem")?.map(|text| certificate::certificates(text.as_bytes()));
        let next = next.transpose().map_err(|what| KeysFault::file(path, what))?;
        Ok(next.and_then(|next| next.into_iter().next()))
    }

    /// Takes to disk who has which root, if that has changed.
    pub(super) async fn save_holders(&self) {
        let text = {
            let mut holders = self.holders();
            if !std::mem::take(&mut holders.unsaved) {
                return;
            }
            serde_json::to_string(&holders.by_instance).unwrap_or_default()
        };
        if let Err(error) = self.blocking(move |tls| tls.0.folder.write(FILE, &text, Readers::Owner)).await {
            warn!(%error, "which client has which root was not kept");
            self.holders().unsaved = true;
        }
    }

    /// What there is: the roots, the leaf, and who has which root.
    #[must_use]
    pub fn show_keys(&self) -> Value {
        let live = self.0.live.load();
        let Some(live) = live.as_ref() else { return json!({ "on": false }) };
        let of = |certificate: &CertificateDer<'_>| match Facts::of(certificate) {
            Ok(facts) => json!({
                "pin": facts.pin.to_string(), "fingerprint": certificate::fingerprint(certificate), "names": facts.names,
                "from": ms(facts.not_before), "until": ms(facts.not_after),
            }),
            Err(_) => Value::Null,
        };
        let has = |holder: &Holder, certificate: Option<&CertificateDer<'_>>| {
            let pin = certificate.and_then(|certificate| Facts::of(certificate).ok()).map(|facts| facts.pin.to_string());
            pin.is_some_and(|pin| holder.pins.contains(&pin))
        };
        let (root, next) = (live.chain.last(), live.roots.get(1));
        let holders: Vec<Value> = self
            .holders()
            .by_instance
            .iter()
            .map(|(instance, holder)| {
                json!({
                    "name": holder.name, "instance": instance, "root": has(holder, root), "next": next.map(|_| has(holder, next)),
                })
            })
            .collect();
        json!({
            "on": true, "root": root.map(of), "next": next.map(of), "leaf": live.chain.first().map(of),
            "renewal": live.renewal.map(ms), "holders": holders,
        })
    }
}

fn ms(seconds: i64) -> i64 {
    seconds.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pins: &[Pin]) -> Holder {
        Holder { name: "n".into(), pins: pins.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn all_have_it_when_nobody_is_known_to_lack_it() {
        let (old, next) = (certificate::pin_of(b"old"), certificate::pin_of(b"next"));
        let mut holders = Holders::default();
        assert!(holders.all_have(next));
        holders.note("a", holder(&[old]));
        holders.note("b", holder(&[old, next]));
        assert!(!holders.all_have(next) && holders.unsaved);
        holders.note("a", holder(&[old, next]));
        assert!(holders.all_have(next));
        // Who pins nothing waits for nothing.
        holders.note("b", holder(&[]));
        assert_eq!(holders.by_instance.len(), 1);
        let text = serde_json::to_string(&holders.by_instance).expect("JSON");
        let again = Holders::read(Some(&text));
        assert_eq!(again.by_instance, holders.by_instance);
        assert!(!Holders::read(Some("broken")).all_have(next), "those that were lost may lack it");
    }
}
