//! INVITE, REVOKE and ROTATE: who may become a peer of this server, and who is one no more. What they answer is on disk.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tracing::info;
use url::Host;
use ws_daemon_protocol::command::{INVITATION_TTL, Invite, Revoke, Rotate};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::{Answer, Control};
use crate::config::{ServerUrl, Servers};
use crate::invitation::Invitation;
use crate::register::{self, RegisterFault};
use crate::secret::Secret;
use crate::tls::KeysFault;

impl Control {
    /// The line that makes somebody a peer.
    pub(super) async fn invite(&self, invite: Invite) -> Answer {
        let Invite { name, tags, allow, ttl, uses, urls } = invite;
        let words = |words: Vec<String>| words.into_iter().map(Into::into).collect();
        let invited = register::Invite {
            name: name.as_str().into(),
            tags: words(tags),
            allow: allow.map(words),
            ttl: ttl.unwrap_or(INVITATION_TTL),
            uses: uses.unwrap_or(1),
        };
        // Nothing is switched on for what is refused.
        if let Err(fault) = self.0.peers.register().check(&invited) {
            return Answer::Outcome(outcome(&fault));
        }
        let place = match self.place(urls).await {
            Ok(place) => place,
            Err(outcome) => return Answer::Outcome(outcome),
        };
        match self.0.peers.register().invite(invited).await {
            Ok((secret, until_ms)) => {
                info!(peer = name, urls = %place.urls.join(" "), "somebody was invited");
                line(&name, place, &secret, until_ms)
            }
            Err(fault) => Answer::Outcome(outcome(&fault)),
        }
    }

    /// The line by which a peer gets another token.
    pub(super) async fn rotate(&self, rotate: Rotate) -> Answer {
        let Rotate { name, at_once, ttl, urls } = rotate;
        let place = match self.place(urls).await {
            Ok(place) => place,
            Err(outcome) => return Answer::Outcome(outcome),
        };
        let ttl: Duration = ttl.unwrap_or(INVITATION_TTL);
        match self.0.peers.register().rotate(&name, ttl, at_once).await {
            Ok((secret, until_ms)) => {
                info!(peer = name, at_once, "a peer is to have another token");
                if at_once {
                    self.0.peers.expel(&name);
                }
                line(&name, place, &secret, until_ms)
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
                self.0.worker.is_revoked(&name);
                self.0.peers.forget_gone();
                Answer::Result(json!({ "name": name, "was_peer": was_peer }))
            }
            Err(fault) => Answer::Outcome(outcome(&fault)),
        }
    }

    /// Where the server is for those who join: as it was said, or as far as it is known here. Unless it is to be without TLS, TLS is
    /// on from here on, with a certificate for that name.
    async fn place(&self, mut said: Vec<String>) -> Result<Place, Outcome> {
        let wrong = |why: String| Outcome::Failed(ErrorCode::BadMessage, why);
        let (Some(address), Some(tls)) = (self.0.reached, &self.0.tls) else {
            return Err(Outcome::failed(ErrorCode::Unsupported, "this daemon is a client; peers are invited on their server"));
        };
        let is_said = !said.is_empty();
        if !is_said {
            said.push(format!("wss://{}", authority(address)));
        }
        let mut servers = Servers::parse(&said, Some(address.port())).map_err(|fault| wrong(format!("url {fault}")))?;
        if servers.iter().any(|server| server.credentials.is_some()) {
            return Err(wrong("url: no name and no token belong into it; the invitation holds what is needed".into()));
        }
        let host = |host: &Host| match host {
            Host::Ipv6(address) => address.to_string(),
            host => host.to_string(),
        };
        let hosts: Vec<String> = servers.iter().filter(|server| server.tls).map(|server| host(&server.host)).collect();
        let mut pin = None;
        if !hosts.is_empty() {
            match tls.ensure_names(&hosts).await {
                Ok(()) => pin = tls.root_pin().map(|pin| pin.to_string()),
                // The settings say that TLS is not this daemon's: it is that of a proxy before it, or there is none.
                Err(KeysFault::Off) if is_said => {
                    // And so is the port, where none was said.
                    for (server, url) in servers.iter_mut().zip(&said).filter(|(server, _)| server.tls) {
                        *server = ServerUrl::parse(url, None).map_err(|fault| wrong(format!("url {fault}")))?;
                    }
                }
                Err(KeysFault::Off) => servers.first.tls = false,
                Err(fault) => {
                    return Err(Outcome::Failed(ErrorCode::SpoolFailed, format!("TLS cannot be switched on: {fault}")));
                }
            }
        }
        Ok(Place { urls: servers.iter().map(ToString::to_string).collect(), pin })
    }
}

/// Where a server is joined.
struct Place {
    urls: Vec<String>,
    /// Of its root.
    pin: Option<String>,
}

/// The host and the port that this machine is most likely known by.
fn authority(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), address.port())
    } else {
        address.to_string()
    }
}

fn line(name: &str, place: Place, secret: &Secret, until_ms: u64) -> Answer {
    let Place { urls, pin } = place;
    let invitation = Invitation { urls, name: name.into(), secret: secret.text().into(), pin };
    match invitation.encode() {
        Ok(code) => Answer::Result(json!({
            "code": code, "name": name, "url": invitation.urls.first(), "urls": invitation.urls, "expires": until_ms,
        })),
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
