//! Who the far end of a link has proved to be, and who it only says it is. It never decides what that is good for.

use std::sync::Arc;

/// What is known for certain of whoever is at the other end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: it was let in for where it comes from. The name in its HELLO is its own word.
    Anonymous,
    /// A registered peer, by its token or by its client certificate.
    Peer(Arc<Proven>),
    /// The server that this daemon has dialled.
    Server,
}

/// A peer that has proved its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The name that it is bound to, whatever its HELLO says.
    pub name: Box<str>,
    /// The tags that it was given, beside those that it gives itself.
    pub tags: Vec<Box<str>>,
    /// The scripts that it may ask for, as globs, if its invitation says; `None`: the rules alone decide.
    pub allow: Option<Vec<Box<str>>>,
    /// How it has proved it.
    pub by: Proof,
}

/// How a name was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By a token.
    Token,
    /// By a client certificate.
    Certificate,
}

impl Standing {
    /// The peer, if it has proved its name.
    #[must_use]
    pub fn proven(&self) -> Option<&Proven> {
        match self {
            Self::Peer(proven) => Some(proven),
            Self::Anonymous | Self::Server => None,
        }
    }
}

impl Proof {
    /// The word that PEERS has for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}
