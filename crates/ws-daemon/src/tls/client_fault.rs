//! Why a client has no encrypted link, in words that say what to do. It never decides whether it has one.

use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::KeysFault;
use super::certificate::{Pin, date};

/// Why there is no encrypted link.
#[derive(Debug, thiserror::Error)]
pub enum ClientFault {
    /// The system has no root certificates.
    #[error("no root certificates found ({0}); install the package ca-certificates, or correct SSL_CERT_FILE")]
    NoRoots(String),
    /// A file of the client's own.
    #[error(transparent)]
    Keys(#[from] KeysFault),
    /// The server's certificate is under another root than those of a file.
    #[error(
        "the server's certificate is not signed by a root in {}: another server answers there, or its root was changed while this \
         client was away; join again with a new invitation, or copy keys/root.pem of the server into that file", .0.display()
    )]
    OtherRoot(PathBuf),
    /// The server's certificate is under no root of the system.
    #[error(
        "the server's certificate is signed by nobody whom this machine trusts; join with an invitation, or copy keys/root.pem of the \
         server here and name it as \"roots\" under \"tls\" in config.json"
    )]
    UnknownIssuer,
    /// It has ended.
    #[error(
        "the server's certificate has expired{}; renew it on the server (ws-daemon keys renew), or correct this machine's clock", at("on", *.0)
    )]
    Expired(Option<i64>),
    /// It has not begun.
    #[error("the server's certificate is not valid yet{}; correct the clock of this machine or of the server", at("but from", *.0))]
    NotYetValid(Option<i64>),
    /// It is for other names.
    #[error(
        "the server's certificate is for {}, not for {wanted}: dial one of these, or add \"{wanted}\" to \"names\" under \"tls\" in \
         the server's config.json", listed(.named)
    )]
    WrongName {
        /// What was dialled.
        wanted: String,
        /// What it is for.
        named: Vec<String>,
    },
    /// The server's chain holds no root of the pin.
    #[error(
        "the server does not show the root that the invitation names (pin {0}): another server answers there, or its root was changed \
         since; ask for a new invitation"
    )]
    PinMismatch(Pin),
    /// The server asks for a certificate.
    #[error(
        "the server wants a client certificate, and this client has none: set \"certificate\" and \"key\" under \"tls\" in config.json"
    )]
    NoClientKey,
    /// The server does not take this client's certificate.
    #[error("the server refuses this client's certificate: {0}; replace the files under \"tls\" in config.json")]
    CertificateRefused(&'static str),
    /// Nothing newer than TLS 1.1.
    #[error("the server is too old: it speaks no TLS 1.2, which is the least that is safe; update what answers there")]
    TooOld,
    /// No TLS.
    #[error(
        "what answers there speaks no TLS: dial it by ws://, or switch TLS on there (\"tls\": true in the config.json of a ws-daemon)"
    )]
    NoTls,
    /// The connection was closed in the handshake.
    #[error(
        "the connection was closed in the TLS handshake, or right behind it; if a ws-daemon answers there, its log says why: without TLS of its own, \
         \"tls\": true in its config.json switches it on"
    )]
    Closed,
    /// Something else.
    #[error("{0}")]
    Other(String),
}

fn at(word: &str, seconds: Option<i64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!(" {word} {}", date(seconds)))
}

fn listed(names: &[String]) -> String {
    let clean = |name: &String| name.chars().filter(|char| !char.is_control()).take(100).collect::<String>();
    if names.is_empty() { "no name".to_owned() } else { names.iter().take(20).map(clean).collect::<Vec<_>>().join(", ") }
}

/// What was dialled, and what it was believed by.
#[derive(Debug, Clone)]
pub struct Dialled {
    /// The name in the URL.
    pub host: String,
    /// The file with the roots; `None`: the system's.
    pub roots: Option<PathBuf>,
    /// The pin that was to be found, when joining.
    pub pin: Option<Pin>,
    /// Whether this client has a certificate.
    pub has_certificate: bool,
}

impl Dialled {
    /// What TLS says of it.
    pub fn fault(&self, error: &io::Error) -> ClientFault {
        match tls_error(error) {
            Some(error) => self.of_tls(error),
            None if is_end(error) => ClientFault::Closed,
            None => ClientFault::Other(error.to_string()),
        }
    }

    fn of_tls(&self, error: &Error) -> ClientFault {
        let seconds = |time: &rustls::pki_types::UnixTime| i64::try_from(time.as_secs()).ok();
        match error {
            Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => match (self.pin, &self.roots) {
                    (Some(pin), _) => ClientFault::PinMismatch(pin),
                    (None, Some(roots)) => ClientFault::OtherRoot(roots.clone()),
                    (None, None) => ClientFault::UnknownIssuer,
                },
                CertificateError::Expired => ClientFault::Expired(None),
                CertificateError::ExpiredContext { not_after, .. } => ClientFault::Expired(seconds(not_after)),
                CertificateError::NotValidYet => ClientFault::NotYetValid(None),
                CertificateError::NotValidYetContext { not_before, .. } => ClientFault::NotYetValid(seconds(not_before)),
                CertificateError::NotValidForName => self.wrong_name(Vec::new()),
                CertificateError::NotValidForNameContext { presented, .. } => {
                    self.wrong_name(presented.iter().map(|name| plain(name)).collect())
                }
                error => ClientFault::Other(format!("the server's certificate is not good: {error}")),
            },
            Error::AlertReceived(alert) => self.of_alert(*alert),
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => ClientFault::TooOld,
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                ClientFault::NoTls
            }
            error => ClientFault::Other(error.to_string()),
        }
    }

    fn wrong_name(&self, named: Vec<String>) -> ClientFault {
        ClientFault::WrongName { wanted: self.host.trim_matches(['[', ']']).to_owned(), named }
    }

    fn of_alert(&self, alert: AlertDescription) -> ClientFault {
        use AlertDescription as Alert;
        let refused = match alert {
            Alert::ProtocolVersion => return ClientFault::TooOld,
            Alert::CertificateRequired => return ClientFault::NoClientKey,
            Alert::HandshakeFailure if !self.has_certificate => {
                return ClientFault::Other(format!(
                    "the server ended the handshake: {alert:?}; it may want a client certificate"
                ));
            }
            Alert::CertificateExpired => "it has expired, or is not valid yet",
            Alert::UnknownCA => "it is signed by nobody whom the server trusts",
            Alert::CertificateRevoked => "it was revoked",
            Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown | Alert::DecryptError => {
                "it is not good for a client"
            }
            alert => return ClientFault::Other(format!("the server ended the handshake: {alert:?}")),
        };
        if self.has_certificate {
            ClientFault::CertificateRefused(refused)
        } else {
            ClientFault::Other(format!("the server ended the handshake: {alert:?}"))
        }
    }
}

/// rustls shows DNS names and addresses as it has them inside.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or(name, |(inner, _)| inner);
    inner.trim_matches('"').to_owned()
}

/// What TLS said, if it was TLS.
fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
