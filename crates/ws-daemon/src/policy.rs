//! Who may enter and who may ask for what. Pure: facts come in, a verdict goes out; nothing here looks anything up.

mod rules;

pub use rules::{Action, Actor, At, By, Caller, Program, Rules, Scope, Verdict};

use std::net::IpAddr;

use crate::config::Open;

/// What is known of whoever wants a link.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// Where the connection comes from.
    pub address: IpAddr,
    /// Whether the handshake has an `Origin`: a web page sends it, a daemon never does.
    pub has_origin: bool,
    /// Whether it carries a header that proxies add: then the address is the proxy's.
    pub was_forwarded: bool,
    /// Whether the other end of the connection was seen to belong to root or to the daemon's user. Decides only where
    /// [`Refusal::OtherUser`] is the verdict without it.
    pub is_ours: bool,
    /// What it has shown of itself.
    pub credential: Credential,
}

/// What came of a name and a token, or of a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// There was none, or nobody here to whom one was given.
    None,
    /// It is a peer's.
    Right,
    /// It is nobody's: which part is wrong is not told.
    Wrong,
}

/// Who somebody claims to be in one way, by a certificate or by name and token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'a> {
    /// It has claimed nothing.
    None,
    /// It is that peer.
    Right(&'a str),
    /// It is not who it claims to be.
    Wrong,
}

/// What two claims come to: whoever makes both must be the same by both.
#[must_use]
pub fn agree<'a>(one: Claim<'a>, other: Claim<'a>) -> Claim<'a> {
    match (one, other) {
        (Claim::None, only) | (only, Claim::None) => only,
        (Claim::Right(one), Claim::Right(other)) if one == other => Claim::Right(one),
        _ => Claim::Wrong,
    }
}

/// The headers by which a proxy shows itself.
pub const FORWARDED_HEADERS: [&str; 3] = ["forwarded", "x-real-ip", "via"];

/// The beginning of the other ones.
pub const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Why someone may not enter, in words that say what to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A web page.
    #[error("a web page may not open a link: the handshake carries an Origin header")]
    Origin,
    /// A name and a token that do not belong together here. The same words whichever is wrong.
    #[error(
        "no peer of this server has this name and this token, or it was revoked. On the server: ws-daemon peers list; then \
         ws-daemon invite NAME, or ws-daemon peers rotate NAME, and join here with the line that it prints"
    )]
    Credential,
    /// Someone on this machine whom the daemon's user need not trust.
    #[error(
        "protected mode: from its own machine this server takes links of root and of the user it runs as only. Run what dials here \
         as that user, or let all users in: list \"127.0.0.0/8\" and \"::1/128\" under \"open\" in the server's config.json"
    )]
    OtherUser,
    /// Someone from elsewhere, in protected mode.
    #[error(
        "protected mode: this server takes links from its own machine only. To let others in, set \"open\" in its config.json to \
         a list of networks, like [\"192.168.0.0/16\"], or to true"
    )]
    Protected,
    /// Someone from a network that is not listed.
    #[error("this server takes links from its own machine and the networks listed under \"open\" in its config.json only")]
    NotListed,
}

/// Whether `visitor` may have a link, by the server's `open`.
///
/// # Errors
/// Why not.
pub fn admit(visitor: Visitor, open: &Open) -> Result<(), Refusal> {
    if visitor.has_origin {
        return Err(Refusal::Origin);
    }
    match visitor.credential {
        Credential::Right => return Ok(()),
        Credential::Wrong => return Err(Refusal::Credential),
        Credential::None => {}
    }
    let address = visitor.address.to_canonical();
    let is_here = address.is_loopback() && !visitor.was_forwarded;
    match open {
        Open::All => Ok(()),
        _ if is_here && visitor.is_ours => Ok(()),
        // Who came through a proxy has the proxy's address, which says nothing of where they are.
        Open::Networks(networks) if !visitor.was_forwarded && networks.iter().any(|network| network.contains(&address)) => {
            Ok(())
        }
        _ if is_here => Err(Refusal::OtherUser),
        Open::Networks(_) => Err(Refusal::NotListed),
        Open::Nobody => Err(Refusal::Protected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_claims_to_be_somebody_in_two_ways_must_be_the_same_by_both() {
        let (none, wrong, web, mail) = (Claim::None, Claim::Wrong, Claim::Right("web"), Claim::Right("mail"));
        let table = [
            (none, none, none),
            (none, web, web),
            (web, web, web),
            (web, mail, wrong),
            (none, wrong, wrong),
            (web, wrong, wrong),
            (wrong, wrong, wrong),
        ];
        for (one, other, expected) in table {
            assert_eq!((agree(one, other), agree(other, one)), (expected, expected), "{one:?} {other:?}");
        }
    }

    #[test]
    fn who_may_enter() {
        let networks =
            || Open::Networks(vec!["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")]);
        let loopback = || Open::Networks(vec!["127.0.0.0/8".parse().expect("a network")]);
        let (all, nobody) = (Open::All, Open::Nobody);
        let visitor = |address: &str, has_origin, was_forwarded, is_ours| Visitor {
            address: address.parse().expect("an address"),
            has_origin,
            was_forwarded,
            is_ours,
            credential: Credential::None,
        };
        let shows = |credential, visitor| Visitor { credential, ..visitor };
        let (right, wrong) = (|visitor| shows(Credential::Right, visitor), |visitor| shows(Credential::Wrong, visitor));
        let local = |address: &str| visitor(address, false, false, true);
        let another_users = |address: &str| visitor(address, false, false, false);
        let forwarded = |address: &str| visitor(address, false, true, true);
        let page = |address: &str| visitor(address, true, false, true);
        let table = [
            (local("127.0.0.1"), nobody.clone(), Ok(())),
            (local("127.8.9.1"), nobody.clone(), Ok(())),
            (local("::1"), nobody.clone(), Ok(())),
            (local("::ffff:127.0.0.1"), nobody.clone(), Ok(())),
            (another_users("127.0.0.1"), nobody.clone(), Err(Refusal::OtherUser)),
            (another_users("::1"), nobody.clone(), Err(Refusal::OtherUser)),
            (another_users("::ffff:127.0.0.1"), nobody.clone(), Err(Refusal::OtherUser)),
            (another_users("127.0.0.1"), networks(), Err(Refusal::OtherUser)),
            (another_users("127.0.0.1"), loopback(), Ok(())),
            (another_users("::ffff:127.0.0.1"), loopback(), Ok(())),
            (another_users("::1"), loopback(), Err(Refusal::OtherUser)),
            (another_users("127.0.0.1"), all.clone(), Ok(())),
            (another_users("192.0.2.1"), nobody.clone(), Err(Refusal::Protected)),
            (another_users("10.1.2.3"), networks(), Ok(())),
            (local("192.0.2.1"), nobody.clone(), Err(Refusal::Protected)),
            (local("::ffff:192.0.2.1"), nobody.clone(), Err(Refusal::Protected)),
            (forwarded("127.0.0.1"), nobody.clone(), Err(Refusal::Protected)),
            (page("127.0.0.1"), nobody.clone(), Err(Refusal::Origin)),
            (local("10.1.2.3"), networks(), Ok(())),
            (local("::ffff:10.1.2.3"), networks(), Ok(())),
            (local("fd00::1"), networks(), Ok(())),
            (local("127.0.0.1"), networks(), Ok(())),
            (local("192.0.2.1"), networks(), Err(Refusal::NotListed)),
            (forwarded("127.0.0.1"), networks(), Err(Refusal::NotListed)),
            (forwarded("10.1.2.3"), networks(), Err(Refusal::NotListed)),
            (local("192.0.2.1"), all.clone(), Ok(())),
            (forwarded("192.0.2.1"), all.clone(), Ok(())),
            (page("192.0.2.1"), all.clone(), Err(Refusal::Origin)),
            // With a credential nothing else counts, but that it is no web page.
            (right(local("192.0.2.1")), nobody.clone(), Ok(())),
            (right(forwarded("127.0.0.1")), nobody.clone(), Ok(())),
            (right(forwarded("192.0.2.1")), networks(), Ok(())),
            (right(another_users("127.0.0.1")), nobody.clone(), Ok(())),
            (right(page("127.0.0.1")), all.clone(), Err(Refusal::Origin)),
            (wrong(local("127.0.0.1")), nobody.clone(), Err(Refusal::Credential)),
            (wrong(local("10.1.2.3")), networks(), Err(Refusal::Credential)),
            (wrong(local("192.0.2.1")), all.clone(), Err(Refusal::Credential)),
            (wrong(page("192.0.2.1")), all, Err(Refusal::Origin)),
            (wrong(forwarded("192.0.2.1")), nobody, Err(Refusal::Credential)),
        ];
        for (visitor, open, expected) in table {
            assert_eq!(admit(visitor, &open), expected, "{visitor:?} {open:?}");
        }
    }
}
