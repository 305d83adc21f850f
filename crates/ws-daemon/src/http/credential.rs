//! What somebody shows of itself in its handshake, `Authorization: Basic name:token` (RFC 7617) and a client certificate, held
//! against the register. What is wrong with it is told to nobody: one answer, after one delay, whatever it is.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{self, HeaderMap};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::api::DELAY;
use crate::audit::Entry;
use crate::policy::{Claim, Credential, agree};
use crate::register::{Register, Revoked};
use crate::standing::{Proof, Proven, Standing};

/// What is logged of a name that was only claimed.
const SHOWN_CHARS: usize = 128;

/// Who somebody is by what it shows.
#[derive(Debug)]
pub struct Shown {
    /// Whether it is good.
    pub credential: Credential,
    /// The peer, if it is.
    pub standing: Standing,
    /// The name that was claimed.
    claimed: String,
}

impl Shown {
    /// Looks at these headers, of somebody whose certificate, if there is one, proves `standing`. Where nobody is registered and
    /// there is no certificate, nothing that is shown counts for anything.
    pub fn of(headers: &HeaderMap, standing: &Standing, register: &Register) -> Self {
        let mut standing = standing.clone();
        let by_certificate = match standing.proven().map(|proven| register.named(&proven.name, Proof::Certificate)) {
            None => None,
            // It is nobody's in the register: its name is all that is known.
            Some(Ok(None)) => standing.proven().map(|proven| Ok(proven.clone())),
            Some(found) => found.transpose(),
        };
        let is_looked_at = headers.contains_key(header::AUTHORIZATION) && (by_certificate.is_some() || !register.is_empty());
        // What is no name and token is compared as well, with what nobody has.
        let (name, token) = if is_looked_at { written(headers).unwrap_or_default() } else { Default::default() };
        let by_token = is_looked_at.then(|| register.find(&name, &token).ok_or(Revoked));
        let claim = agree(claim(by_certificate.as_ref()), claim(by_token.as_ref()));
        let claimed = standing.proven().filter(|_| name.is_empty()).map_or(name, |proven| proven.name.to_string());
        let credential = match claim {
            Claim::None => Credential::None,
            Claim::Right(_) => Credential::Right,
            Claim::Wrong => Credential::Wrong,
        };
        let proven = by_token.or(by_certificate).and_then(Result::ok).filter(|_| credential == Credential::Right);
        standing = proven.map_or(Standing::Anonymous, |proven| Standing::Peer(Arc::new(proven)));
        Self { credential, standing, claimed }
    }

    /// An entry with the name that was claimed, if one was.
    pub fn claim(&self, entry: Entry) -> Entry {
        if self.claimed.is_empty() { entry } else { entry.text("claimed", &self.claimed) }
    }

    /// Waits until it is time to say that it was refused, and says so in the log. `since` is when the request was read.
    pub async fn refused(&self, address: SocketAddr, since: Instant) {
        refused(address, &self.claimed, "its name and token belong to no peer", since).await;
    }
}

/// Waits until it is time to say to somebody who claims to be `name` that it was refused; the log hears `why`.
pub async fn refused(address: SocketAddr, name: &str, why: &'static str, since: Instant) {
    // Debug writes what is no plain character as an escape.
    let name: String = name.chars().take(SHOWN_CHARS).collect();
    warn!(%address, ?name, why, "somebody was refused");
    sleep_until(since + DELAY).await;
}

fn claim(found: Option<&Result<Proven, Revoked>>) -> Claim<'_> {
    match found {
        None => Claim::None,
        Some(Ok(proven)) => Claim::Right(&proven.name),
        Some(Err(Revoked)) => Claim::Wrong,
    }
}

/// Name and token as they are written, if they are.
fn written(headers: &HeaderMap) -> Option<(String, String)> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, code) = value.to_str().ok()?.split_once(' ')?;
    let text = BASE64_STANDARD.decode(code.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (name, token) = std::str::from_utf8(&text).ok()?.split_once(':')?;
    Some((name.to_owned(), token.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::header::HeaderValue;

    use super::*;
    use crate::register::{Invite, Trade};
    use crate::secret::Secret;

    fn shown(register: &Register, values: &[&str]) -> (Credential, Option<String>, String) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        let Shown { credential, standing, claimed } = Shown::of(&headers, &Standing::Anonymous, register);
        (credential, standing.proven().map(|proven| proven.name.to_string()), claimed)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(text))
    }

    #[tokio::test]
    async fn a_name_with_its_token_is_a_peer_and_anything_else_is_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let register = Register::open(&folder.path().join("keys/peers.json")).expect("none yet");
        assert_eq!(shown(&register, &[&basic("web:x")]), (Credential::None, None, String::new()), "nobody is registered");
        let invite = Invite { name: "web".into(), tags: Vec::new(), allow: None, ttl: Duration::from_secs(9), uses: 1 };
        let (secret, _) = register.invite(invite).await.expect("invited");
        let token = Secret::random().expect("random bits");
        let trade = Trade { name: "web".into(), secret: secret.digest(), instance: None, token: token.digest() };
        register.trade(trade).await.expect("traded");
        let good = basic(&format!("web:{}", token.text()));
        for written in [&good, &good.replace("Basic", "bASIC"), &good.replace(' ', "  ")] {
            assert_eq!(shown(&register, &[written]), (Credential::Right, Some("web".into()), "web".into()));
        }
        assert_eq!(shown(&register, &[]).0, Credential::None);
        let wrong = [
            basic("web:x"),
            basic("web:"),
            basic("web"),
            basic(":"),
            basic(&format!("wab:{}", token.text())),
            basic("\u{7}\n:x"),
            good.replace("Basic", "Bearer"),
            "Basic".into(),
            "Basic ?".into(),
            String::new(),
        ];
        for written in wrong {
            let (credential, name, _) = shown(&register, &[&written]);
            assert_eq!((credential, name), (Credential::Wrong, None), "{written}");
        }
        assert_eq!(shown(&register, &[&good, &good]).0, Credential::Wrong, "one is enough");

        let with_certificate = |of: &str, values: &[&String]| {
            let proven = Proven { name: of.into(), tags: Vec::new(), allow: None, by: Proof::Certificate };
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
            }
            let Shown { credential, standing, .. } = Shown::of(&headers, &Standing::Peer(Arc::new(proven)), &register);
            (credential, standing.proven().map(|proven| proven.by))
        };
        assert_eq!(with_certificate("web", &[]), (Credential::Right, Some(Proof::Certificate)));
        assert_eq!(with_certificate("not-registered", &[]), (Credential::Right, Some(Proof::Certificate)));
        assert_eq!(with_certificate("web", &[&good]), (Credential::Right, Some(Proof::Token)));
        assert_eq!(with_certificate("not-registered", &[&good]), (Credential::Wrong, None), "they must agree");
        assert_eq!(with_certificate("web", &[&basic("web:x")]), (Credential::Wrong, None));
        register.revoke("web").await.expect("it is there");
        assert_eq!(with_certificate("web", &[]), (Credential::Wrong, None), "a certificate outlives no revocation");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_refused_waits_as_long_whatever_it_took_to_find_out() {
        let address = SocketAddr::from(([192, 0, 2, 1], 5));
        for took in [0, 10, 249] {
            let since = Instant::now();
            tokio::time::advance(Duration::from_millis(took)).await;
            refused(address, "web", "it is a test", since).await;
            assert_eq!(since.elapsed(), DELAY);
        }
    }
}
