//! The client's side: which servers are believed, and the handshake. What it needs is looked at anew for each handshake, so that an
//! updated store of roots needs no restart; as long as nothing has changed, sessions are resumed.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{debug, info, warn};
use url::Host;

use super::certificate::{self, Facts, Pin};
use super::client_fault::{ClientFault, Dialled};
use super::folder::{Folder, Readers};
use super::{KeysFault, provider};

/// The file with the roots that `join` has pinned, in `keys/`.
const PINNED: &str = "server-roots.pem";

/// What a client is told.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Where its keys are: `keys/`.
    pub folder: PathBuf,
    /// The roots that are believed; `None`: those that were pinned, else the system's.
    pub roots: Option<PathBuf>,
    /// The certificate and key to prove by who it is.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientPlan {
    /// Whether the files that it names can be used.
    ///
    /// # Errors
    /// Which file is wrong, and what with it.
    pub fn check(&self) -> Result<(), KeysFault> {
        self.roots.as_deref().map(pinned).transpose()?;
        self.identity.as_ref().map(certificate::read_pair).transpose().map(drop)
    }
}

/// A client's TLS, kept over its dials. Clones are the same.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<Inner>);

struct Inner {
    plan: ArcSwap<ClientPlan>,
    kept: Mutex<Option<Arc<Kept>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// A configuration with its sessions, and what it was made of.
struct Kept {
    made_of: [u8; 32],
    config: Arc<ClientConfig>,
    roots: Option<PathBuf>,
    identity: Arc<Identity>,
}

/// The client's certificate, and whether any server has asked for one.
#[derive(Debug)]
struct Identity {
    certificate: Option<Arc<CertifiedKey>>,
    was_asked: AtomicBool,
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

impl ClientTls {
    /// A client that believes and proves what `plan` says.
    #[must_use]
    pub fn new(plan: ClientPlan) -> Self {
        Self(Arc::new(Inner { plan: ArcSwap::from_pointee(plan), kept: Mutex::default() }))
    }

    /// A client that believes whom the system does.
    #[must_use]
    pub fn of_the_system() -> Self {
        // There is no folder with other roots.
        Self::new(ClientPlan { folder: PathBuf::from("/dev/null"), roots: None, identity: None })
    }

    /// Handshakes from here on go by `plan`.
    pub fn replace(&self, plan: ClientPlan) {
        self.0.plan.store(Arc::new(plan));
    }

    /// The handshake with `host`, under the caller's deadline.
    ///
    /// # Errors
    /// Why there is no encrypted stream, and what to do about it.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &Host,
        socket: S,
    ) -> Result<TlsStream<S>, ClientFault> {
        let tls = self.clone();
        let kept = tokio::task::spawn_blocking(move || tls.prepare()).await;
        let kept = kept.map_err(|error| ClientFault::Other(error.to_string()))??;
        let connecting = TlsConnector::from(Arc::clone(&kept.config)).connect(server_name(host)?, socket);
        let stream = connecting.await.map_err(|error| self.dialled(host).fault(&error))?;
        let (_, session) = stream.get_ref();
        let group = session.negotiated_key_exchange_group().map(SupportedKxGroup::name);
        debug!(version = ?session.protocol_version(), ?group, kind = ?session.handshake_kind(), "TLS handshake done");
        Ok(stream)
    }

    /// Why a connection ended right behind its handshake, before a word was heard: a server refuses a client's certificate only
    /// then. The next handshake is a whole one, since a server may do so with every resumed session and tell why in a whole one.
    #[must_use]
    pub fn explain(&self, host: &Host, error: &io::Error) -> ClientFault {
        let fault = self.dialled(host).fault(error);
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        fault
    }

    /// Whether a server has asked for a certificate, which this client does not have.
    #[must_use]
    pub fn lacks_certificate(&self) -> bool {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().is_some_and(|kept| !kept.identity.has_certs() && kept.identity.was_asked.load(Ordering::Relaxed))
    }

    /// The server, known by TLS, says which roots it has: who has pinned them pins these instead. Which of them are on disk when
    /// this returns.
    ///
    /// # Errors
    /// Why those from before are kept.
    pub async fn take_roots(&self, announced: Vec<String>) -> Result<Vec<Pin>, KeysFault> {
        let tls = self.clone();
        let taken = tokio::task::spawn_blocking(move || tls.pin_anew(&announced)).await;
        taken.unwrap_or_else(|error| Err(KeysFault::other(error)))
    }

    fn pin_anew(&self, announced: &[String]) -> Result<Vec<Pin>, KeysFault> {
        let plan = self.0.plan.load();
        let folder = Folder::new(plan.folder.clone());
        let file = plan.roots.clone().unwrap_or_else(|| folder.path(PINNED));
        if plan.roots.is_none() && !file.exists() {
            // The roots of the system are nobody's to change.
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for root in announced {
            wanted.extend(certificate::certificates(root.as_bytes()).map_err(KeysFault::Other)?);
        }
        anchors(&wanted).map_err(KeysFault::other)?;
        let pins = |roots: &[CertificateDer<'_>]| {
            roots.iter().filter_map(|root| Facts::of(root).ok()).map(|facts| facts.pin).collect()
        };
        let (present, pins): (Vec<Pin>, Vec<Pin>) = (pins(&pinned(&file)?), pins(&wanted));
        let both: Vec<Pin> = pins.iter().copied().filter(|pin| present.contains(pin)).collect();
        if both.is_empty() {
            return Err(KeysFault::file(file, "none of its roots is among those that the server announces"));
        }
        if both.len() == pins.len() && (present.len() == pins.len() || plan.roots.is_some()) {
            return Ok(both);
        }
        if plan.roots.is_some() {
            let missing = pins.iter().find(|pin| !both.contains(pin)).map(ToString::to_string).unwrap_or_default();
            let file = file.display();
            warn!(%file, pin = missing, "the server has a next root, which this file lacks: add the server's keys/next-root.pem to it");
            return Ok(both);
        }
        let text: String = wanted.iter().map(|root| certificate::to_pem(root)).collect();
        folder.write(PINNED, &text, Readers::All)?;
        info!(file = %file.display(), roots = pins.len(), "the server has announced its roots: these are believed from here on");
        Ok(pins)
    }

    fn dialled(&self, host: &Host) -> Dialled {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Dialled {
            host: host.to_string(),
            roots: kept.as_ref().and_then(|kept| kept.roots.clone()),
            pin: None,
            has_certificate: self.0.plan.load().identity.is_some(),
        }
    }

    /// The configuration of the last handshake, unless what it was made of has changed.
    fn prepare(&self) -> Result<Arc<Kept>, ClientFault> {
        let plan = self.0.plan.load();
        let default = plan.folder.join(PINNED);
        let file = plan.roots.clone().or_else(|| default.exists().then_some(default));
        let roots = match &file {
            Some(file) => pinned(file)?,
            None => of_the_system()?,
        };
        let certificate = plan.identity.as_ref().map(certificate::read_pair).transpose()?;
        let mut hash = Sha256::new();
        for root in &roots {
            hash.update(root);
        }
        // A new certificate has a new key, or is the same key's; both show in the certificate itself.
        for certificate in certificate.iter().flat_map(|own| &own.cert) {
            hash.update(certificate);
        }
        let made_of: [u8; 32] = hash.finalize().into();
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.made_of == made_of && kept.roots == file) {
            return Ok(Arc::clone(kept));
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots);
        let identity = Arc::new(Identity { certificate: certificate.map(Arc::new), was_asked: AtomicBool::new(false) });
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = config.map_err(KeysFault::other)?.with_root_certificates(store);
        let config = Arc::new(config.with_client_cert_resolver(Arc::clone(&identity) as Arc<dyn ResolvesClientCert>));
        let made = Arc::new(Kept { made_of, config, roots: file, identity });
        *kept = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// The handshake of `join`: the server's chain is good if it ends in a certificate whose key has this pin. With the stream comes
/// that certificate, as PEM: it is the root to pin.
///
/// # Errors
/// As [`ClientTls::connect`].
pub async fn connect_pinned<S: AsyncRead + AsyncWrite + Unpin>(
    pin: Pin,
    host: &Host,
    socket: S,
) -> Result<(TlsStream<S>, String), ClientFault> {
    let verifier = Arc::new(PinVerifier { pin, provider: provider(), found: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = config.map_err(KeysFault::other)?.dangerous();
    let config = config.with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>);
    let connecting = TlsConnector::from(Arc::new(config.with_no_client_auth())).connect(server_name(host)?, socket);
    let dialled = Dialled { host: host.to_string(), roots: None, pin: Some(pin), has_certificate: false };
    let stream = connecting.await.map_err(|error| dialled.fault(&error))?;
    let found = verifier.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    // It is there: without it there is no handshake.
    Ok((stream, found.ok_or(ClientFault::PinMismatch(pin))?))
}

/// Believes a chain by the pin of a certificate in it, and nothing else of it less strictly.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
    /// The certificate of the pin.
    found: Mutex<Option<String>>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_pinned = |shown: &&CertificateDer<'_>| Facts::of(shown).is_ok_and(|facts| facts.pin == self.pin);
        let root = others.iter().chain([leaf]).find(is_pinned).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider)).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(leaf, others, name, ocsp, now)?;
        // A root is believed without its dates: whoever pins it for the first time looks at them.
        let facts = Facts::of(root).map_err(Error::General)?;
        if !facts.is_current(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)) {
            return Err(CertificateError::Expired.into());
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate::to_pem(root));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, ClientFault> {
    match host {
        Host::Domain(name) => {
            ServerName::try_from(name.clone()).map_err(|error| ClientFault::Other(format!("{name}: {error}")))
        }
        Host::Ipv4(address) => Ok(IpAddr::from(*address).into()),
        Host::Ipv6(address) => Ok(IpAddr::from(*address).into()),
    }
}

/// The roots of a file, each good for a root.
fn pinned(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeysFault> {
    let roots = certificate::read_certificates(path)?;
    anchors(&roots).map_err(|error| KeysFault::file(path, error))?;
    Ok(roots)
}

/// Whether all of them can be roots.
fn anchors(roots: &[CertificateDer<'static>]) -> Result<(), Error> {
    let mut store = RootCertStore::empty();
    roots.iter().try_for_each(|root| store.add(root.clone()))
}

fn of_the_system() -> Result<Vec<CertificateDer<'static>>, ClientFault> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let faults: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(ClientFault::NoRoots(if faults.is_empty() { "there are none".into() } else { faults.join("; ") }));
    }
    Ok(found.certs)
}
