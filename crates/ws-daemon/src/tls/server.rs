//! The server's side: which certificate it shows, the handshake, and whom a client's certificate names. Whatever is changed while
//! it runs is for handshakes to come; a live link keeps what it was made with.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::verify_server_name;
use rustls::crypto::SupportedKxGroup;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::authority::{self, Pair};
use super::certificate::{self, Facts, Pin};
use super::folder::{Folder, Readers};
use super::rotation::{self, Holders};
use super::{KeysFault, provider, wall_seconds};

/// Names of one leaf; more are refused.
const LEAF_NAMES: usize = 100;

/// How long before its end a root is warned of, in seconds: half a year, and said at each renewal.
const ROOT_WARNING: i64 = 180 * 86_400;

/// The longest sleep of the renewal: by then the clock is looked at again, since it may have jumped.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// The wait after a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_mins(1);

/// How long it is waited for more to be kept.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a refused client may take to read why: a connection that is closed over unread bytes takes the alert with it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Characters of a client's name, as of any peer's.
const OWNER_CHARS: usize = 128;

/// What a server is told.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// Where its keys are: `keys/`.
    pub folder: PathBuf,
    /// Whether there is TLS; `None`: as soon as there are keys.
    pub on: Option<bool>,
    /// The operator's own certificate and key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Whose certificates prove who a client is.
    pub clients: Option<PathBuf>,
    /// What this machine is called.
    pub host: String,
    /// What else the leaf is for.
    pub names: Vec<String>,
    /// The life of a leaf.
    pub life: Duration,
    /// Whether links without TLS are taken from other machines.
    pub plain: bool,
}

/// A server's TLS. Clones are the same.
#[derive(Debug, Clone)]
pub struct ServerTls(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) plan: ArcSwap<ServerPlan>,
    pub(super) folder: Folder,
    /// What handshakes go by; `None` without TLS.
    pub(super) live: ArcSwapOption<Live>,
    /// Whoever changes files, one after the other.
    pub(super) work: Mutex<()>,
    /// Who has which root.
    pub(super) holders: Mutex<Holders>,
    /// Shared by all configurations: a renewed leaf ends no session.
    tickets: Option<Arc<dyn ProducesTickets>>,
    /// Something is to be renewed at another time, or to be kept.
    pub(super) changed: watch::Sender<()>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("plan", &self.plan).finish_non_exhaustive()
    }
}

pub(super) struct Live {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// What is shown: the leaf first, its root last.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The roots of this server's own, that of the leaf first; none if the certificate is the operator's.
    pub(super) roots: Vec<CertificateDer<'static>>,
    leaf: Facts,
    /// When it is renewed, in seconds since 1970; `None` if others do that.
    pub(super) renewal: Option<i64>,
}

impl Live {
    /// The seconds until the leaf is to be renewed; at once, if the clock has been set back to before it was made.
    fn left(&self, now: i64) -> i64 {
        match self.renewal {
            Some(_) if now < self.leaf.not_before => 0,
            Some(renewal) => renewal.saturating_sub(now),
            None => i64::MAX,
        }
    }
}

/// A handshake that went well.
#[derive(Debug)]
pub struct Accepted {
    /// The encrypted stream.
    pub stream: TlsStream<TcpStream>,
    /// Whose certificate the client has shown, if it has.
    pub client: Option<Box<str>>,
}

impl ServerTls {
    /// Loads what there is, and makes what is asked for.
    ///
    /// # Errors
    /// Which file is wrong, and what with it.
    pub fn open(plan: ServerPlan) -> Result<Self, KeysFault> {
        let folder = Folder::new(plan.folder.clone());
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new();
        if let Err(error) = &tickets {
            warn!(%error, "TLS sessions are not resumed");
        }
        let (live, work, changed) = (ArcSwapOption::empty(), Mutex::default(), watch::Sender::default());
        let holders = Mutex::new(Holders::read(folder.read(rotation::FILE)?.as_deref()));
        let in_use = ArcSwap::from_pointee(plan.clone());
        let tls = Self(Arc::new(Inner { plan: in_use, folder, live, work, holders, tickets: tickets.ok(), changed }));
        tls.load(plan)?;
        Ok(tls)
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.live.load().is_some()
    }

    /// Whether links without TLS are taken from other machines.
    #[must_use]
    pub fn takes_plain(&self) -> bool {
        self.0.plan.load().plain || !self.is_on()
    }

    /// The certificate that the chain ends in, as PEM; `None` without TLS.
    #[must_use]
    pub fn root_pem(&self) -> Option<String> {
        self.0.live.load().as_ref()?.chain.last().map(|root| certificate::to_pem(root))
    }

    /// The certificate that is shown, if there is one.
    #[must_use]
    pub fn shown(&self) -> Option<CertificateDer<'static>> {
        self.0.live.load().as_ref()?.chain.first().cloned()
    }

    /// The pin of the certificate that the chain ends in; `None` without TLS.
    #[must_use]
    pub fn root_pin(&self) -> Option<Pin> {
        let live = self.0.live.load();
        let root = live.as_ref()?.chain.last()?;
        Facts::of(root).ok().map(|facts| facts.pin)
    }

    /// Has TLS be spoken from here on, with a leaf that is good for `names` too. It is on disk when this returns.
    ///
    /// # Errors
    /// Why not. The operator's own certificate has its names, or does not.
    pub async fn ensure_names(&self, names: &[String]) -> Result<(), KeysFault> {
        if let (Some(_), Some(live)) = (&self.0.plan.load().own, &*self.0.live.load()) {
            let leaf = ParsedCertificate::try_from(&live.chain[0]).map_err(KeysFault::other)?;
            let is_for = |name: &str| {
                let name = authority::name(name).and_then(|name| ServerName::try_from(name).ok());
                name.is_some_and(|name| verify_server_name(&leaf, &name).is_ok())
            };
            let missing = names.iter().find(|name| !is_for(name));
            return missing.map_or(Ok(()), |name| Err(KeysFault::NotFor(name.clone())));
        }
        let names = names.to_vec();
        self.blocking(move |tls| tls.issue(&names, false)).await
    }

    /// A new leaf, now.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn renew(&self) -> Result<(), KeysFault> {
        self.must_be_on()?;
        self.blocking(|tls| tls.issue(&[], true)).await
    }

    /// Goes by `plan` from here on, whose folder is the same, and reads the files again.
    ///
    /// # Errors
    /// Which file is wrong, and what with it: then the plan and the certificates from before are kept.
    pub async fn reload(&self, plan: ServerPlan) -> Result<(), KeysFault> {
        self.blocking(move |tls| tls.load(plan)).await
    }

    /// What it goes by.
    #[must_use]
    pub fn plan(&self) -> ServerPlan {
        ServerPlan::clone(&self.0.plan.load())
    }

    pub(super) fn must_be_on(&self) -> Result<(), KeysFault> {
        match self.0.plan.load().on {
            _ if self.is_on() => Ok(()),
            Some(false) => Err(KeysFault::Off),
            _ => Err(KeysFault::NotYet),
        }
    }

    pub(super) async fn blocking(
        &self,
        work: impl FnOnce(&Self) -> Result<(), KeysFault> + Send + 'static,
    ) -> Result<(), KeysFault> {
        let tls = self.clone();
        tokio::task::spawn_blocking(move || work(&tls)).await.unwrap_or_else(|error| Err(KeysFault::other(error)))
    }

    /// Renews the leaf in time, and keeps who has which root, until the daemon closes.
    pub async fn keep_fresh(self, close: CancellationToken) {
        let mut changed = self.0.changed.subscribe();
        loop {
            self.save_holders().await;
            let left = self.0.live.load().as_ref().map_or(i64::MAX, |live| live.left(wall_seconds()));
            let wait = if left > 0 {
                LONGEST_SLEEP.min(Duration::from_secs(left.unsigned_abs()))
            } else {
                match self.blocking(|tls| tls.issue(&[], false)).await {
                    Ok(()) => continue,
                    Err(error) => {
                        error!(%error, "the server's certificate was not renewed; tried again in a minute");
                        RENEW_AGAIN
                    }
                }
            };
            tokio::select! {
                () = close.cancelled() => break,
                () = sleep(wait) => continue,
                _ = changed.changed() => {}
            }
            // What changes together is kept together.
            tokio::select! {
                () = close.cancelled() => break,
                () = sleep(SETTLE) => {}
            }
        }
        self.save_holders().await;
    }

    /// Whether the certificate that is shown is for this name.
    #[must_use]
    pub fn is_named(&self, host: &str) -> bool {
        let live = self.0.live.load();
        let facts = live.as_ref().and_then(|live| Facts::of(live.chain.first()?).ok());
        let is_it = |name: &String| match name.strip_prefix("*.") {
            Some(domain) => host.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(domain)),
            None => name.eq_ignore_ascii_case(host),
        };
        facts.is_some_and(|facts| facts.names.iter().any(is_it))
    }

    /// The handshake, under the caller's deadline.
    ///
    /// # Errors
    /// Why there is no encrypted stream; the client has been told as far as TLS can tell.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<Accepted> {
        let live = self.0.live.load_full().ok_or_else(|| io::Error::other("this server has no TLS"))?;
        let accepting = TlsAcceptor::from(Arc::clone(&live.config)).accept(socket);
        let stream = match accepting.into_fallible().await {
            Ok(stream) => stream,
            Err((error, socket)) => {
                drop(timeout(LAST_WORDS, hear_out(socket)).await);
                return Err(error);
            }
        };
        let (_, session) = stream.get_ref();
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let client = match session.peer_certificates() {
            None | Some([]) => None,
            Some([shown, others @ ..]) => {
                if is_resumed {
                    // A session outlives what it was made with: the certificate may have ended since, its authority be gone.
                    let live = self.0.live.load();
                    let clients = live.as_ref().and_then(|live| live.clients.clone());
                    let clients = clients.ok_or_else(|| io::Error::other("client certificates are looked at no more"))?;
                    clients.verify_client_cert(shown, others, UnixTime::now()).map_err(io::Error::other)?;
                }
                Some(owner(shown).map_err(io::Error::other)?)
            }
        };
        let group = session.negotiated_key_exchange_group().map(SupportedKxGroup::name);
        debug!(version = ?session.protocol_version(), ?group, resumed = is_resumed, client, "TLS handshake done");
        Ok(Accepted { stream, client })
    }

    /// Takes what the files hold, as far as there is to be TLS by `plan`, which is in use from here on.
    fn load(&self, plan: ServerPlan) -> Result<(), KeysFault> {
        let _one_at_a_time = self.one_at_a_time();
        let folder = &self.0.folder;
        match (plan.on, &plan.own) {
            (Some(false), _) => self.0.live.store(None),
            (_, Some(own)) => self.show(&plan, certificate::read_pair(own)?, Vec::new())?,
            (None, None) if !folder.has("root.pem") && !folder.has("leaf.pem") => self.0.live.store(None),
            (_, None) => self.issue_by(&plan, &[], false)?,
        }
        self.0.plan.store(Arc::new(plan));
        Ok(())
    }

    pub(super) fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.0.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the leaf that there is, if it is good for long enough and for all names, `more` among them; else a new one. `anew`: a
    /// new one in any case.
    pub(super) fn issue(&self, more: &[String], anew: bool) -> Result<(), KeysFault> {
        let _one_at_a_time = self.one_at_a_time();
        self.issue_by(&self.0.plan.load_full(), more, anew)
    }

    fn issue_by(&self, plan: &ServerPlan, more: &[String], anew: bool) -> Result<(), KeysFault> {
        match (plan.on, &plan.own) {
            (Some(false), _) => return Err(KeysFault::Off),
            (_, Some(_)) => return Err(KeysFault::NotOurs),
            _ => {}
        }
        let (folder, now) = (&self.0.folder, wall_seconds());
        self.complete_going_over()?;
        let root = self.root(now)?;
        let mut roots =
            certificate::certificates(root.as_bytes()).map_err(|what| KeysFault::file(folder.path("root.pem"), what))?;
        roots.truncate(1);
        let ends = Facts::of(&roots[0]).map_err(KeysFault::Other)?.not_after;
        if ends.saturating_sub(now) < ROOT_WARNING {
            warn!(on = certificate::date(ends), "the server's root ends soon: ws-daemon keys rotate makes the next one");
        }
        roots.extend(self.next_root()?);
        let present = self.present_leaf(&roots[0]);
        let mut names: Vec<String> = present.as_ref().map(|(_, facts)| facts.names.clone()).unwrap_or_default();
        let always = [&plan.host, "localhost", "127.0.0.1", "::1"].map(str::to_owned);
        for name in always.iter().chain(&plan.names).chain(more) {
            match authority::name(name) {
                Some(name) if names.contains(&name) => {}
                Some(name) => names.push(name),
                None if more.contains(name) => return Err(KeysFault::Other(format!("{name:?} is no name for a certificate"))),
                None => warn!(name, "this is no name for a certificate, which goes without it"),
            }
        }
        if names.len() > LEAF_NAMES {
            return Err(KeysFault::Other(format!("a certificate has at most {LEAF_NAMES} names")));
        }
        let good = |facts: &Facts| {
            let life = i64::try_from(plan.life.as_secs()).unwrap_or(i64::MAX);
            // One that lives longer is from before the setting was changed.
            let ends = facts.not_after <= now.saturating_add(life);
            ends && facts.is_current(now) && now < authority::renewal(facts.not_after, plan.life) && facts.names == names
        };
        if let Some((pair, _)) = present.filter(|(_, facts)| good(facts) && !anew) {
            return self.show(plan, certified(&pair)?, roots);
        }
        // Read for this alone: where it is kept elsewhere, it is missed only now.
        let key = folder.read("root.key")?.ok_or_else(|| {
            KeysFault::file(folder.path("root.key"), "it is gone, and no certificate can be signed without it; put it back")
        })?;
        let root = Pair { certificate: root, key };
        let leaf = authority::make_leaf(&root, &names, plan.life, now)?;
        let chain = format!("{}{}", leaf.certificate, certificate::to_pem(&roots[0]));
        let leaf = Pair { certificate: chain, key: leaf.key };
        self.show(plan, certified(&leaf)?, roots)?;
        folder.write("leaf.key", &leaf.key, Readers::Owner)?;
        folder.write("leaf.pem", &leaf.certificate, Readers::All)?;
        info!(names = names.join(" "), "the server's certificate is new");
        Ok(())
    }

    /// The root's certificate; the root is made if there was none yet.
    fn root(&self, now: i64) -> Result<String, KeysFault> {
        let folder = &self.0.folder;
        if let Some(certificate) = folder.read("root.pem")? {
            return Ok(certificate);
        }
        if folder.has("leaf.pem") {
            let what = "it is gone, and another root would be a stranger to all clients; it stands in leaf.pem behind the leaf";
            return Err(KeysFault::file(folder.path("root.pem"), what));
        }
        let root = authority::make_root(&self.0.plan.load().host, now)?;
        // The certificate last: without it there is no root, and a key alone is made again.
        folder.write("root.key", &root.key, Readers::Owner)?;
        folder.write("root.pem", &root.certificate, Readers::All)?;
        info!(path = %folder.path("root.pem").display(), "a root for this server's certificates was made");
        Ok(root.certificate)
    }

    /// The leaf on disk, unless it is broken or under another root: then it is made again.
    fn present_leaf(&self, root: &CertificateDer<'_>) -> Option<(Pair, Facts)> {
        let read = |name| self.0.folder.read(name).ok().flatten();
        let leaf = Pair { certificate: read("leaf.pem")?, key: read("leaf.key")? };
        let chain = certificate::certificates(leaf.certificate.as_bytes()).ok()?;
        let is_whole = chain.len() == 2 && chain.last() == Some(root) && authority::belong_together(&leaf).ok()?;
        let facts = Facts::of(chain.first()?).ok()?;
        is_whole.then_some((leaf, facts))
    }

    /// Has handshakes from here on show a certificate, which is under the first of `roots` if it was made here.
    fn show(&self, plan: &ServerPlan, pair: CertifiedKey, roots: Vec<CertificateDer<'static>>) -> Result<(), KeysFault> {
        let leaf = Facts::of(&pair.cert[0]).map_err(KeysFault::Other)?;
        if !leaf.is_current(wall_seconds()) {
            let (from, until) = (certificate::date(leaf.not_before), certificate::date(leaf.not_after));
            warn!(from, until, "the server's certificate is not valid now: clients will refuse it");
        }
        let clients = plan.clients.as_ref().map(client_verifier).transpose()?;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(KeysFault::other)?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
        };
        let chain = pair.cert.clone();
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        if let Some(tickets) = &self.0.tickets {
            config.ticketer = Arc::clone(tickets);
        }
        let renewal = (!roots.is_empty()).then(|| authority::renewal(leaf.not_after, plan.life));
        self.0.live.store(Some(Arc::new(Live { config: Arc::new(config), clients, chain, roots, leaf, renewal })));
        self.0.changed.send_replace(());
        Ok(())
    }
}

fn certified(leaf: &Pair) -> Result<CertifiedKey, KeysFault> {
    let chain = certificate::certificates(leaf.certificate.as_bytes()).map_err(KeysFault::Other)?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(|_| KeysFault::other("leaf.key holds no key"))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(KeysFault::other)
}

/// A client is asked for a certificate; one that has none may still come in by other rules.
fn client_verifier(path: &PathBuf) -> Result<Arc<dyn ClientCertVerifier>, KeysFault> {
    let mut roots = RootCertStore::empty();
    for root in certificate::read_certificates(path)? {
        roots.add(root).map_err(|error| KeysFault::file(path, error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).allow_unauthenticated().build();
    verifier.map_err(|error| KeysFault::file(path, error))
}

/// Whose a client's certificate is.
fn owner(certificate: &[u8]) -> Result<Box<str>, String> {
    let owner = Facts::of(certificate)?.owner.ok_or("the client's certificate has no DNS name and no URI to know it by")?;
    let is_name = !owner.is_empty() && owner.chars().count() <= OWNER_CHARS && !owner.contains(char::is_control);
    if is_name { Ok(owner.into()) } else { Err("the name in the client's certificate is no name of a peer".to_owned()) }
}

/// Reads until the other side has closed, so that it reads what was said last.
async fn hear_out(mut socket: TcpStream) -> io::Result<()> {
    socket.shutdown().await?;
    tokio::io::copy(&mut socket, &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use url::Host;

    use super::super::{ClientFault, ClientPlan, ClientTls, connect_pinned};
    use super::*;

    fn plan(folder: &Path) -> ServerPlan {
        let life = Duration::from_hours(24);
        let (on, own, clients) = (None, None, None);
        ServerPlan {
            folder: folder.join("keys"),
            on,
            own,
            clients,
            host: "a-host".into(),
            names: Vec::new(),
            life,
            plain: true,
        }
    }

    /// Both ends of a connection.
    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        (near, listener.accept().await.expect("it has dialled").0)
    }

    fn localhost() -> Host {
        Host::Domain("localhost".into())
    }

    #[tokio::test]
    async fn tls_comes_alive_with_the_first_name_and_keeps_its_names_and_root() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let server = ServerTls::open(plan(place.path())).expect("nothing is no fault");
        assert!(!server.is_on() && server.takes_plain() && server.root_pin().is_none());
        let (_, socket) = sockets().await;
        assert!(server.accept(socket).await.is_err());
        assert!(matches!(server.renew().await, Err(KeysFault::NotYet)));
        assert!(matches!(server.rotate().await, Err(KeysFault::NotYet)));
        server.ensure_names(&["later.example".into()]).await.expect("made");
        let pin = server.root_pin().expect("there is a root");
        let leaf = || server.0.live.load().as_ref().expect("on").chain[0].clone();
        let (first, names) = (leaf(), Facts::of(&leaf()).expect("ours").names);
        assert_eq!(names, ["a-host", "localhost", "127.0.0.1", "::1", "later.example"]);
        server.ensure_names(&["later.example".into()]).await.expect("it has it");
        assert_eq!(leaf(), first, "nothing was to be done");
        server.renew().await.expect("renewed");
        assert_ne!(leaf(), first);
        let again = ServerTls::open(plan(place.path())).expect("there");
        assert_eq!((again.is_on(), again.root_pin()), (true, Some(pin)));
        assert_eq!(Facts::of(&again.0.live.load().as_ref().expect("on").chain[0]).expect("ours").names, names);
        again.ensure_names(&["[::2]".into(), "0:0:0:0:0:0:0:2".into()]).await.expect("an address, twice");
        let names = Facts::of(&again.0.live.load().as_ref().expect("on").chain[0]).expect("ours").names;
        assert_eq!((names.len(), names.last().map(String::as_str)), (6, Some("::2")));
        assert!(again.ensure_names(&["a name".into()]).await.is_err());
        let too_many: Vec<String> = (0..LEAF_NAMES).map(|number| format!("n{number}.example")).collect();
        assert!(again.ensure_names(&too_many).await.is_err());
        let off = ServerTls::open(ServerPlan { on: Some(false), ..plan(place.path()) }).expect("off is no fault");
        assert!(!off.is_on() && matches!(off.ensure_names(&[]).await, Err(KeysFault::Off)));
    }

    #[tokio::test]
    async fn a_root_that_is_gone_is_missed_and_its_key_only_when_something_is_to_be_signed() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let on = || ServerPlan { on: Some(true), ..plan(place.path()) };
        drop(ServerTls::open(on()).expect("made"));
        let keys = place.path().join("keys");
        std::fs::rename(keys.join("root.key"), keys.join("elsewhere")).expect("renamed");
        let server = ServerTls::open(on()).expect("the leaf is good");
        let said = server.renew().await.expect_err("nothing to sign with").to_string();
        assert!(said.contains("root.key: it is gone"), "{said}");
        std::fs::remove_file(keys.join("root.pem")).expect("there");
        let said = ServerTls::open(on()).map(drop).expect_err("another root would be a stranger").to_string();
        assert!(said.contains("root.pem: it is gone") && said.contains("leaf.pem"), "{said}");
    }

    #[tokio::test]
    async fn a_leaf_is_renewed_when_its_time_comes_or_the_clock_has_been_set_back() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let server = ServerTls::open(ServerPlan { on: Some(true), ..plan(place.path()) }).expect("made");
        let live = server.0.live.load_full().expect("on");
        let day = 86_400;
        let made = live.leaf.not_after - day;
        assert_eq!(live.left(made), day - day / 3);
        assert!(live.left(made + day - day / 3) == 0 && live.left(made - day) == 0);
    }

    #[tokio::test]
    async fn a_certificate_of_the_operators_has_its_names_or_not() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let server = ServerTls::open(ServerPlan { on: Some(true), ..plan(place.path()) }).expect("made");
        let keys = place.path().join("keys");
        let own = Some((keys.join("leaf.pem"), keys.join("leaf.key")));
        let server = ServerTls::open(ServerPlan { own, ..server.plan() }).expect("a pair");
        assert!(server.ensure_names(&["a-host".into(), "[::1]".into()]).await.is_ok());
        assert!(matches!(server.ensure_names(&["b-host".into()]).await, Err(KeysFault::NotFor(name)) if name == "b-host"));
        assert!(matches!(server.renew().await, Err(KeysFault::NotOurs)));
    }

    #[tokio::test]
    async fn a_pinned_root_is_taken_and_given_back_and_another_one_is_not() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let server = ServerTls::open(ServerPlan { on: Some(true), ..plan(place.path()) }).expect("made");
        let pin = server.root_pin().expect("on");
        let (near, far) = sockets().await;
        let host = localhost();
        let (taken, accepted) = tokio::join!(connect_pinned(pin, &host, near), server.accept(far));
        let (mut near, root) = taken.expect("the pin is the root's");
        assert_eq!(root, server.roots_to_pin());
        let mut far = accepted.expect("taken").stream;
        near.write_all(b"x").await.expect("open");
        near.flush().await.expect("open");
        assert_eq!(far.read_u8().await.expect("open"), b'x');

        let (near, far) = sockets().await;
        let (refused, _) = tokio::join!(connect_pinned(Pin([7; 32]), &host, near), server.accept(far));
        let fault = refused.map(drop).expect_err("another pin");
        assert!(matches!(fault, ClientFault::PinMismatch(_)), "{fault}");
        assert!(fault.to_string().contains("ask for a new invitation"));
        // The pin is the root's, but the name is not the server's.
        let (near, far) = sockets().await;
        let other = Host::Domain("other.example".into());
        let (refused, _) = tokio::join!(connect_pinned(pin, &other, near), server.accept(far));
        let fault = refused.map(drop).expect_err("another name");
        assert!(matches!(fault, ClientFault::WrongName { .. }), "{fault}");
    }

    #[tokio::test]
    async fn a_root_that_is_only_shown_beside_a_leaf_of_another_proves_nothing() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (one, other) = (place.path().join("one"), place.path().join("other"));
        for folder in [&one, &other] {
            std::fs::create_dir(folder).expect("made");
        }
        let open = |folder: &Path| ServerTls::open(ServerPlan { on: Some(true), ..plan(folder) }).expect("made");
        let (real, forger) = (open(&one), open(&other));
        let keys = other.join("keys");
        let leaf = std::fs::read_to_string(keys.join("leaf.pem")).expect("there");
        let mixed = format!("{}{}", leaf, real.root_pem().expect("on"));
        std::fs::write(keys.join("mixed.pem"), mixed).expect("written");
        let own = Some((keys.join("mixed.pem"), keys.join("leaf.key")));
        let forger = ServerTls::open(ServerPlan { own, ..forger.plan() }).expect("the key is the leaf's");
        let (near, far) = sockets().await;
        let host = localhost();
        let pin = real.root_pin().expect("on");
        let (refused, _) = tokio::join!(connect_pinned(pin, &host, near), forger.accept(far));
        assert!(matches!(refused.map(drop).expect_err("forged"), ClientFault::PinMismatch(_)));
    }

    #[tokio::test]
    async fn a_half_done_change_of_roots_is_completed_at_the_next_start() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let on = || ServerPlan { on: Some(true), ..plan(place.path()) };
        let server = ServerTls::open(on()).expect("made");
        server.has_roots("i", "client", vec!["0".repeat(64)]).await.expect("noted");
        assert!(!server.rotate().await.expect("made"), "a client lacks it");
        assert_eq!(server.roots_to_pin(), server.roots().concat());
        let next = Facts::of(&server.0.live.load().as_ref().expect("on").roots[1]).expect("ours").pin;
        let keys = place.path().join("keys");
        std::fs::rename(keys.join("next-root.key"), keys.join("root.key")).expect("the first step");
        let again = ServerTls::open(on()).expect("completed");
        assert_eq!((again.root_pin(), again.roots().len()), (Some(next), 1));
    }

    #[tokio::test]
    async fn a_client_takes_roots_only_from_a_server_that_it_has_pinned() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let server = ServerTls::open(ServerPlan { on: Some(true), ..plan(place.path()) }).expect("made");
        let folder = place.path().join("client");
        let client = ClientTls::new(ClientPlan { folder: folder.clone(), roots: None, identity: None });
        assert_eq!(client.take_roots(server.roots()).await.expect("no pins, no change"), []);
        std::fs::create_dir(&folder).expect("made");
        let file = folder.join("server-roots.pem");
        std::fs::write(&file, server.root_pem().expect("on")).expect("written");
        let pin = server.root_pin().expect("on");
        assert_eq!(client.take_roots(server.roots()).await.expect("the same"), [pin]);
        let strange = authority::make_root("strange", wall_seconds()).expect("made").certificate;
        assert!(client.take_roots(vec![strange.clone()]).await.is_err());
        assert!(client.take_roots(vec!["nonsense".into()]).await.is_err());
        assert_eq!(std::fs::read_to_string(&file).expect("there"), server.root_pem().expect("on"));
        assert_eq!(client.take_roots(vec![strange, server.roots()[0].clone()]).await.expect("announced").len(), 2);
        // A file that the operator named is the operator's.
        let named = ClientTls::new(ClientPlan { folder, roots: Some(file.clone()), identity: None });
        let before = std::fs::read(&file).expect("there");
        assert_eq!(named.take_roots(server.roots()).await.expect("it has it"), [pin]);
        assert_eq!(std::fs::read(&file).expect("there"), before);
    }
}
