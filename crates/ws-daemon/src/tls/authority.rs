//! The small authority of a server: a root that signs leaves and nothing else, both as PEM. It is read only to sign; it never
//! touches the disk.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::ServerName;

use super::KeysFault;
use super::certificate::{Pin, certificates, pin_of};

/// A root's life.
const ROOT_LIFE: Duration = Duration::from_hours(10 * 365 * 24);

/// How far back the validity of what is made reaches, at most: the clocks of others may be late.
const LATE_CLOCKS: Duration = Duration::from_hours(1);

/// A certificate and its key, as PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// A name as it stands in a certificate, if it can: an address without the brackets that it has in a URL.
pub fn name(written: &str) -> Option<String> {
    let written = written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(written);
    match ServerName::try_from(written).ok()? {
        ServerName::IpAddress(address) => Some(IpAddr::from(address).to_string()),
        _ => Some(written.to_owned()),
    }
}

/// Makes a root, at `now` in seconds since 1970. Its name holds part of its key's hash: two roots of one host are told apart.
///
/// # Errors
/// Why it could not be made.
pub fn make_root(host: &str, now: i64) -> Result<Pair, KeysFault> {
    let key = KeyPair::generate().map_err(KeysFault::other)?;
    let pin = pin_of(&key.subject_public_key_info()).to_string();
    let mut params = params(now, ROOT_LIFE);
    params.distinguished_name.push(DnType::CommonName, format!("ws-daemon root of {host} {}", &pin[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&key).map_err(KeysFault::other)?;
    Ok(Pair { certificate: root.pem(), key: key.serialize_pem() })
}

/// Makes a leaf for `names` under a root, at `now` in seconds since 1970.
///
/// # Errors
/// Why it could not be made: the root's key is another root's, say.
pub fn make_leaf(root: &Pair, names: &[String], life: Duration, now: i64) -> Result<Pair, KeysFault> {
    if !belong_together(root)? {
        return Err(KeysFault::other("the root's certificate is not that of its key"));
    }
    let issuer = KeyPair::from_pem(&root.key).and_then(|key| Issuer::from_ca_cert_pem(&root.certificate, key));
    let issuer = issuer.map_err(KeysFault::other)?;
    let key = KeyPair::generate().map_err(KeysFault::other)?;
    let mut params = params(now, life);
    params.distinguished_name.push(DnType::CommonName, "ws-daemon");
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(KeysFault::other)?),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&key, &issuer).map_err(KeysFault::other)?;
    Ok(Pair { certificate: leaf.pem(), key: key.serialize_pem() })
}

/// Whether the certificate is that of the key.
///
/// # Errors
/// When one of them is not what it is to be.
pub fn belong_together(pair: &Pair) -> Result<bool, KeysFault> {
    let key = KeyPair::from_pem(&pair.key).map_err(KeysFault::other)?;
    Ok(pin(&pair.certificate)? == pin_of(&key.subject_public_key_info()))
}

/// The pin of the first certificate of a text.
fn pin(certificate: &str) -> Result<Pin, KeysFault> {
    let found = certificates(certificate.as_bytes()).map_err(KeysFault::Other)?;
    super::certificate::Facts::of(&found[0]).map(|facts| facts.pin).map_err(KeysFault::Other)
}

/// When a certificate that ends at `not_after` is renewed: when a third of its life is left.
pub fn renewal(not_after: i64, life: Duration) -> i64 {
    not_after.saturating_sub(seconds(life / 3))
}

fn params(now: i64, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    params.not_before = at(now.saturating_sub(seconds(LATE_CLOCKS.min(life / 10))));
    params.not_after = at(now.saturating_add(seconds(life)));
    params.distinguished_name = DistinguishedName::new();
    params
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::certificate::Facts;
    use super::*;

    const DAYS_90: Duration = Duration::from_hours(90 * 24);

    fn facts(pair: &Pair) -> Facts {
        Facts::of(&certificates(pair.certificate.as_bytes()).expect("just made")[0]).expect("just made")
    }

    #[test]
    fn a_leaf_has_its_names_and_its_dates() {
        let now = 1_800_000_000;
        let root = make_root("a-host", now).expect("made");
        let names = ["a-host", "localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let leaf = facts(&make_leaf(&root, &names, DAYS_90, now).expect("made"));
        assert_eq!(leaf.names, names);
        assert_eq!(leaf.owner.as_deref(), Some("a-host"));
        assert_eq!((leaf.not_before, leaf.not_after), (now - 3600, now + 90 * 86_400));
        assert_eq!(renewal(leaf.not_after, DAYS_90), now + 60 * 86_400);
        assert!(leaf.is_current(now) && !leaf.is_current(leaf.not_after + 1) && !leaf.is_current(now - 3601));
        let root = facts(&root);
        assert!(root.not_after - now > 9 * 365 * 86_400);
        assert_ne!(root.pin, leaf.pin);
    }

    #[test]
    fn a_root_without_its_own_key_signs_nothing() {
        let (one, other) = (make_root("a", 1_800_000_000).expect("made"), make_root("a", 1_800_000_000).expect("made"));
        let mixed = Pair { certificate: one.certificate.clone(), key: other.key };
        assert!(belong_together(&one).expect("both are there") && !belong_together(&mixed).expect("both are there"));
        assert!(make_leaf(&mixed, &["a".into()], DAYS_90, 1_800_000_000).is_err());
    }

    #[test]
    fn names_that_cannot_be_dialled_are_no_names() {
        for good in ["a.example", "10.0.0.1", "::1"] {
            assert_eq!(name(good).as_deref(), Some(good));
        }
        assert_eq!(name("[0:0:0:0:0:0:0:1]").as_deref(), Some("::1"));
        for bad in ["a b", "", "*.x", "[a.example"] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
