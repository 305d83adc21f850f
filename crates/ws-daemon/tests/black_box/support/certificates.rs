//! Certificates as a test wants them: an authority, and leaves under it with any names, dates and use. It writes PEM files and never
//! uses one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

const DAY: i64 = 86_400;

/// An authority of a test's own, and the folder of its files.
pub struct CertificateAuthority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of a certificate and its key.
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl CertificateAuthority {
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let key = KeyPair::generate().expect("a key");
        let mut params = params(&[], -DAY, DAY);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("signed");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("written");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate: what it is trusted by.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's certificate that is valid today.
    pub fn server(&self, names: &[&str]) -> CertificateFiles {
        self.server_between(names, -DAY, DAY)
    }

    /// A server's certificate that is valid between two times, in seconds from now.
    pub fn server_between(&self, names: &[&str], from: i64, until: i64) -> CertificateFiles {
        self.leaf("server", params(names, from, until), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate that is valid today.
    pub fn client(&self, name: &str) -> CertificateFiles {
        self.client_between(name, -DAY, DAY)
    }

    /// A client's certificate that is valid between two times, in seconds from now.
    pub fn client_between(&self, name: &str, from: i64, until: i64) -> CertificateFiles {
        self.leaf(&format!("client-{name}"), params(&[name], from, until), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn leaf(&self, stem: &str, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> CertificateFiles {
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let file = |extension: &str| self.folder.path().join(format!("{stem}.{extension}"));
        let files = CertificateFiles { certificate: file("pem"), key: file("key") };
        fs::write(&files.certificate, certificate.pem()).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        files
    }
}

impl CertificateFiles {
    /// Copies them to where a daemon looks for them.
    pub fn install(&self, certificate: &Path, key: &Path) {
        fs::copy(&self.certificate, certificate).expect("copied");
        fs::copy(&self.key, key).expect("copied");
    }
}

fn params(names: &[&str], from: i64, until: i64) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let at = |seconds: i64| {
        let since = now.checked_add_signed(seconds).expect("after 1970");
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since)
    };
    (params.not_before, params.not_after) = (at(from), at(until));
    params.distinguished_name = DistinguishedName::new();
    params
}
