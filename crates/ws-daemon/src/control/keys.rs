//! KEYS, and what daemons say to each other of a server's roots: announced on each link over TLS, and what a client has of them. It
//! never reads a key.

use serde_json::Value;
use tracing::{info, warn};
use ws_daemon_protocol::codec::v2::Roots;
use ws_daemon_protocol::command::KeysTask;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::Control;
use crate::link::Link;
use crate::standing::Standing;
use crate::tls::KeysFault;

/// What a client says that it can do which takes roots.
pub const ROOTS: &str = "roots";

impl Control {
    /// Carries out KEYS.
    pub(super) async fn keys(&self, task: KeysTask) -> Result<Value, Outcome> {
        let refused = |why: &dyn std::fmt::Display| Outcome::failed(ErrorCode::Unsupported, why.to_string());
        let Some(tls) = &self.0.tls else {
            return Err(refused(&"KEYS is for a server's keys; this daemon is a client"));
        };
        let failed = |fault: KeysFault| refused(&fault);
        match task {
            KeysTask::Show => {}
            KeysTask::Renew => tls.renew().await.map_err(failed)?,
            KeysTask::Rotate => drop(tls.rotate().await.map_err(failed)?),
            KeysTask::Finish => tls.finish().await.map_err(failed)?,
        }
        if matches!(task, KeysTask::Rotate | KeysTask::Finish) {
            self.announce_roots();
        }
        Ok(tls.show_keys())
    }

    fn announce_roots(&self) {
        self.0.peers.links().iter().for_each(|link| self.tell_roots(link));
    }

    /// Tells a client which roots there are, if it can take them and knows by TLS that it is told by its server.
    pub(super) fn tell_roots(&self, link: &Link) {
        let Some(tls) = &self.0.tls else { return };
        if link.is_encrypted() && link.has_feature(ROOTS) {
            let roots = tls.roots();
            if !roots.is_empty() {
                link.send_roots(&Roots::Roots(roots));
            }
        }
    }

    /// Something was said of roots: by the server, or by a client of its own. Either counts over TLS alone.
    pub(super) fn hear_roots(&self, link: Link, roots: Roots) {
        let control = self.clone();
        match roots {
            Roots::Roots(roots) if *link.standing() == Standing::Server && link.is_encrypted() => {
                self.0.rest.spawn(async move { control.take_roots(&link, roots).await });
            }
            Roots::Have(pins) if *link.standing() != Standing::Server && link.is_encrypted() => {
                self.0.rest.spawn(async move { control.note_roots(&link, pins).await });
            }
            _ => warn!(peer = link.peer(), "roots were said by who is not to say them; passed over"),
        }
    }

    async fn take_roots(&self, link: &Link, roots: Vec<String>) {
        let Some(tls) = &self.0.client_tls else { return };
        match tls.take_roots(roots).await {
            Ok(pins) => link.send_roots(&Roots::Have(pins.iter().map(ToString::to_string).collect())),
            Err(error) => warn!(peer = link.peer(), %error, "the roots that the server announces were not taken"),
        }
    }

    async fn note_roots(&self, link: &Link, pins: Vec<String>) {
        let (Some(tls), Some(instance)) = (&self.0.tls, link.instance()) else { return };
        match tls.has_roots(instance, link.peer(), pins).await {
            Ok(false) => {}
            Ok(true) => {
                info!("every client that is known has the next root");
                self.announce_roots();
            }
            Err(error) => warn!(%error, "the next root is not gone over to"),
        }
    }
}
