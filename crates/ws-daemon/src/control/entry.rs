//! INVITE, REVOKE and ROTATE: who may become a peer of this server, and who is one no more. What they answer is on disk.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tracing::info;
use ws_daemon_protocol::command::{INVITATION_TTL, Invite, Revoke, Rotate};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::{Answer, Control};
use crate::config::ServerUrl;
use crate::invitation::Invitation;
use crate::register::{self, RegisterFault};
use crate::secret::Secret;

impl Control {
    /// The line that makes somebody a peer.
    pub(super) async fn invite(&self, invite: Invite) -> Answer {
        let Invite { name, tags, allow, ttl, uses, url } = invite;
        let words = |words: Vec<String>| words.into_iter().map(Into::into).collect();
        let invited = register::Invite {
            name: name.as_str().into(),
            tags: words(tags),
            allow: allow.map(words),
            ttl: ttl.unwrap_or(INVITATION_TTL),
            uses: uses.unwrap_or(1),
        };
        let url = match self.url(url) {
            Ok(url) => url,
            Err(outcome) => return Answer::Outcome(outcome),
        };
        match self.0.peers.register().invite(invited).await {
            Ok((secret, until_ms)) => {
                info!(peer = name, url, "somebody was invited");
                line(&name, &url, &secret, until_ms)
            }
            Err(fault) => Answer::Outcome(outcome(&fault)),
        }
    }

    /// The line by which a peer gets another token.
    pub(super) async fn rotate(&self, rotate: Rotate) -> Answer {
        let Rotate { name, at_once, ttl, url } = rotate;
        let url = match self.url(url) {
            Ok(url) => url,
            Err(outcome) => return Answer::Outcome(outcome),
        };
        let ttl: Duration = ttl.unwrap_or(INVITATION_TTL);
        match self.0.peers.register().rotate(&name, ttl, at_once).await {
            Ok((secret, until_ms)) => {
                info!(peer = name, at_once, "a peer is to have another token");
                if at_once {
                    self.0.peers.expel(&name);
                }
                line(&name, &url, &secret, until_ms)
            }
            Err(fault) => Answer::Outcome(outcome(&fault)),
        }
    }

    /// From here on the peer is none. Its links are closed, and what is bound to it is settled.
    pub(super) async fn revoke(&self, revoke: Revoke) -> Answer {
        let Revoke { name } = revoke;
        match self.0.peers.register().revoke(&name).await {
            Ok(was_peer) => {
                info!(peer = name, was_peer, "revoked");
                self.0.peers.expel(&name);
                self.0.peers.forget_gone();
                Answer::Result(json!({ "name": name, "was_peer": was_peer }))
            }
            Err(fault) => Answer::Outcome(outcome(&fault)),
        }
    }

    /// Where the server is for those who join: as it was said, or as far as it is known here.
    fn url(&self, said: Option<String>) -> Result<String, Outcome> {
        let wrong = |why: String| Outcome::Failed(ErrorCode::BadMessage, why);
        let Some(address) = self.0.reached else {
            return Err(Outcome::failed(ErrorCode::Unsupported, "this daemon is a client; peers are invited on their server"));
        };
        let url = said.unwrap_or_else(|| format!("ws://{}", authority(address)));
        let server = ServerUrl::parse(&url, Some(address.port())).map_err(|fault| wrong(format!("url: {fault}")))?;
        if server.credentials.is_some() {
            return Err(wrong("url: no name and no token belong into it; the invitation holds what is needed".into()));
        }
        Ok(server.to_string())
    }
}

/// The host and the port that this machine is most likely known by.
fn authority(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), address.port())
    } else {
        address.to_string()
    }
}

fn line(name: &str, url: &str, secret: &Secret, until_ms: u64) -> Answer {
    let invitation = Invitation { urls: vec![url.into()], name: name.into(), secret: secret.text().into(), pin: None };
    match invitation.encode() {
        Ok(code) => Answer::Result(json!({ "code": code, "name": name, "url": url, "expires": until_ms })),
        Err(bad) => Answer::Outcome(Outcome::Failed(ErrorCode::BadMessage, format!("with this url it is too long: {bad}"))),
    }
}

fn outcome(fault: &RegisterFault) -> Outcome {
    let code = match fault {
        RegisterFault::Unknown(_) => ErrorCode::UnknownTarget,
        RegisterFault::Disk(_) => ErrorCode::SpoolFailed,
        RegisterFault::Invitations | RegisterFault::Full => ErrorCode::QueueFull,
        RegisterFault::NoRegister => ErrorCode::Unsupported,
        RegisterFault::Name(_) | RegisterFault::Words | RegisterFault::Uses | RegisterFault::Ttl | RegisterFault::Taken(_) => {
            ErrorCode::BadMessage
        }
    };
    Outcome::Failed(code, fault.to_string())
}
