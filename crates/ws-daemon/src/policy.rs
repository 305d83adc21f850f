//! Who may enter and who may ask for what. Pure: facts come in, a verdict goes out; nothing here looks anything up.

mod rules;

pub use rules::{Action, Actor, At, By, Caller, Rules, Scope, Verdict};

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
    /// Whether it has proved who it is: then it comes from wherever it likes, through proxies too.
    pub has_proof: bool,
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
    if visitor.has_proof {
        return Ok(());
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
            has_proof: false,
        };
        let proven = |visitor: Visitor| Visitor { has_proof: true, ..visitor };
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
            (proven(another_users("192.0.2.1")), nobody.clone(), Ok(())),
            (proven(forwarded("127.0.0.1")), nobody.clone(), Ok(())),
            (proven(page("192.0.2.1")), nobody.clone(), Err(Refusal::Origin)),
            (page("127.0.0.1"), nobody, Err(Refusal::Origin)),
            (local("10.1.2.3"), networks(), Ok(())),
            (local("::ffff:10.1.2.3"), networks(), Ok(())),
            (local("fd00::1"), networks(), Ok(())),
            (local("127.0.0.1"), networks(), Ok(())),
            (local("192.0.2.1"), networks(), Err(Refusal::NotListed)),
            (forwarded("127.0.0.1"), networks(), Err(Refusal::NotListed)),
            (forwarded("10.1.2.3"), networks(), Err(Refusal::NotListed)),
            (local("192.0.2.1"), all.clone(), Ok(())),
            (forwarded("192.0.2.1"), all.clone(), Ok(())),
            (page("192.0.2.1"), all, Err(Refusal::Origin)),
        ];
        for (visitor, open, expected) in table {
            assert_eq!(admit(visitor, &open), expected, "{visitor:?} {open:?}");
        }
    }
}
