//! A server that a client dials by wss: its own small authority, made by openssl, and one TLS handshake after the
//! other. It owns the keys; it never says anything that a test did not.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{WebSocket, accept};

use super::DEADLINE;
use super::process::{run, wait_readable};

/// A certificate for localhost that vouches for itself, and its key.
pub struct Authority {
    folder: TempDir,
    config: Arc<ServerConfig>,
}

impl Authority {
    /// Makes one; needs openssl.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
        command.args(["-subj", "/CN=a test's own authority", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
        // An authority is no server, and no client takes one for it.
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        let made = run({
            command.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(folder.path());
            command
        });
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let certificate = CertificateDer::from_pem_file(folder.path().join("cert.pem")).expect("openssl wrote it");
        let key = PrivateKeyDer::from_pem_file(folder.path().join("key.pem")).expect("openssl wrote it");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the provider has them").with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).expect("they belong together");
        Self { folder, config: Arc::new(config) }
    }

    /// The file to trust it by.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// The next link on `listener`, or what the other side did not like.
    pub fn accept(&self, listener: &TcpListener) -> Result<WebSocket<StreamOwned<ServerConnection, TcpStream>>, String> {
        assert!(wait_readable(listener, Instant::now() + DEADLINE), "nobody dialled");
        let (stream, _) = listener.accept().expect("someone has dialled");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is not zero");
        let connection = ServerConnection::new(Arc::clone(&self.config)).expect("the config is complete");
        accept(StreamOwned::new(connection, stream)).map_err(|error| error.to_string())
    }
}
