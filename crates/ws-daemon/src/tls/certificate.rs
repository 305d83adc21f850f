//! What a certificate says: names, dates, its key. It never decides whether that is believed.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use super::{KeysFault, provider};

/// Certificates in one file that are read; more are no chain.
const CERTIFICATES: usize = 1000;

/// Names in one certificate that are read.
const NAMES_READ: usize = 256;

/// The sha256 of a SubjectPublicKeyInfo: who pins it takes any certificate of that key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin has 64 hexadecimal digits")]
pub struct NoPin;

impl FromStr for Pin {
    type Err = NoPin;

    fn from_str(text: &str) -> Result<Self, NoPin> {
        if text.len() != 64 || !text.is_ascii() {
            return Err(NoPin);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| NoPin)?;
        }
        Ok(Self(bytes))
    }
}

/// What one certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The DNS names and addresses that it is for.
    pub names: Vec<String>,
    /// Whose it is, if it is a client's: its first DNS name, else its first URI.
    pub owner: Option<String>,
    /// From when on, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// The pin of its key.
    pub pin: Pin,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(certificate: &[u8]) -> Result<Self, String> {
        let (_, read) = x509_parser::parse_x509_certificate(certificate).map_err(|error| format!("no certificate: {error}"))?;
        let names = read.subject_alternative_name().map_err(|error| format!("no certificate: {error}"))?;
        let mut facts = Self {
            names: Vec::new(),
            owner: None,
            not_before: read.validity().not_before.timestamp(),
            not_after: read.validity().not_after.timestamp(),
            pin: pin_of(read.public_key().raw),
        };
        let mut uri = None;
        for name in names.iter().flat_map(|names| &names.value.general_names).take(NAMES_READ) {
            match name {
                GeneralName::DNSName(name) => {
                    facts.owner.get_or_insert_with(|| (*name).to_owned());
                    facts.names.push((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => facts.names.extend(address(bytes).map(|address| address.to_string())),
                GeneralName::URI(name) => {
                    uri.get_or_insert_with(|| (*name).to_owned());
                }
                _ => {}
            }
        }
        facts.owner = facts.owner.or(uri);
        Ok(facts)
    }

    /// Whether it is valid at `now`.
    pub fn is_current(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The pin of a SubjectPublicKeyInfo.
pub fn pin_of(key: &[u8]) -> Pin {
    Pin(Sha256::digest(key).into())
}

/// The sha256 of a whole certificate, as browsers and openssl show it.
pub fn fingerprint(certificate: &[u8]) -> String {
    Pin(Sha256::digest(certificate).into()).to_string()
}

/// Seconds since 1970 as people read them.
pub fn date(seconds: i64) -> String {
    ASN1Time::from_timestamp(seconds).map_or_else(|_| format!("{seconds} s since 1970"), |time| time.to_string())
}

/// A certificate as text (RFC 7468).
pub fn to_pem(certificate: &[u8]) -> String {
    let base64 = BASE64_STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// The certificates of a text, at least one.
///
/// # Errors
/// What is wrong with it.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(CERTIFICATES).collect();
    let found = found.map_err(|error| format!("it is no PEM file: {error}"))?;
    if found.is_empty() {
        return Err("it holds no certificate: a PEM file has a line -----BEGIN CERTIFICATE-----".to_owned());
    }
    found.iter().try_for_each(|certificate| Facts::of(certificate).map(drop))?;
    Ok(found)
}

/// The certificates of a file, with the bytes of the file.
///
/// # Errors
/// Which file, and what is wrong with it.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeysFault> {
    let text = std::fs::read(path).map_err(|error| KeysFault::file(path, format!("it cannot be read: {error}")))?;
    certificates(&text).map_err(|what| KeysFault::file(path, what))
}

/// The private key of a file.
///
/// # Errors
/// Which file, and what is wrong with it; never what it holds.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, KeysFault> {
    let text = std::fs::read(path).map_err(|error| KeysFault::file(path, format!("it cannot be read: {error}")))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let what = "it holds no private key in PEM without a password: there is no line -----BEGIN PRIVATE KEY-----";
        KeysFault::file(path, what)
    })
}

/// A certificate and its key, from their files.
///
/// # Errors
/// Which file, and what is wrong with it.
pub fn read_pair((certificate, key): &(PathBuf, PathBuf)) -> Result<CertifiedKey, KeysFault> {
    let chain = read_certificates(certificate)?;
    let read = read_key(key)?;
    CertifiedKey::from_der(chain, read, &provider()).map_err(|error| {
        let what = format!("it is not the key of the certificate in {}: {error}", certificate.display());
        KeysFault::file(key, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_it_is_written() {
        let pin = pin_of(b"a key");
        assert_eq!(pin.to_string().parse(), Ok(pin));
        for text in ["", "00", &"g0".repeat(32), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(text.parse::<Pin>(), Err(NoPin), "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        assert!(certificates(b"").expect_err("nothing").contains("holds no certificate"));
        assert!(certificates(to_pem(b"nonsense").as_bytes()).expect_err("nonsense").contains("no certificate: "));
        let broken = "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n";
        assert!(certificates(broken.as_bytes()).expect_err("broken").contains("no PEM file"));
    }
}
