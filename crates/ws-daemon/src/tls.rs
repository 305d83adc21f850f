//! Encryption under a link: a server's keys and certificates, what a client takes for the server's, and the handshake of both. It
//! says whose name a certificate proves, and never who may enter; what is said on a link passes it unread.

mod authority;
mod certificate;
mod client;
mod client_fault;
mod folder;
mod rotation;
mod server;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;

pub use certificate::{Facts, Pin, date, read_certificates};
pub use client::{ClientPlan, ClientTls, connect_pinned};
pub use client_fault::ClientFault;
pub use server::{Accepted, ServerPlan, ServerTls};

/// The first byte of a TLS connection: the content type of a handshake record (RFC 8446, section 5.1). No HTTP request begins so.
pub const FIRST_BYTE: u8 = 0x16;

/// Why keys and certificates cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeysFault {
    /// A file is not what it is to be.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The settings say that there is to be no TLS.
    #[error("\"tls\" is false in config.json: remove it, or set it to true")]
    Off,
    /// There is no TLS yet.
    #[error("this server has no TLS: the first ws-daemon invite switches it on, or \"tls\": true in config.json")]
    NotYet,
    /// The certificate is the operator's: nothing is signed here.
    #[error("the certificate is that of \"tls\" in config.json: it is renewed by whoever has signed it")]
    NotOurs,
    /// The operator's certificate is not for a name.
    #[error(
        "the certificate under \"tls\" in config.json is not for {0:?}: use one of its names, or a certificate that has this one"
    )]
    NotFor(String),
    /// There is no next root.
    #[error("there is no next root to go over to; ws-daemon keys rotate makes one")]
    NoNext,
    /// Something else.
    #[error("TLS cannot be set up: {0}")]
    Other(String),
}

impl KeysFault {
    fn file(path: impl Into<PathBuf>, what: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::File { path: path.into(), what: what.into().to_string() }
    }

    fn other(what: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(what.into().to_string())
    }
}

/// The algorithms, said explicitly: which of several a process has by default depends on what else is linked in.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The wall clock in seconds since 1970: certificates go by it.
fn wall_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
