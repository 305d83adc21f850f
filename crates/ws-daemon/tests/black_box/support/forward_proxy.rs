//! An HTTP proxy on the loopback: it tells what it was asked, and either goes to one port of this machine, whatever name it was
//! asked for, or answers as a test says. It never understands what goes through.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::DEADLINE;
use super::certificates::CertificateFiles;

/// What a proxy does with whoever asks it.
#[derive(Clone, Copy)]
pub enum Way {
    /// Lets it through to this port.
    To(u16),
    /// Answers so, and closes.
    Says(&'static str),
    /// Reads and says nothing.
    Mute,
}

/// A proxy that runs until it is dropped.
pub struct ForwardProxy {
    port: u16,
    asked: Receiver<String>,
    _runtime: Runtime,
}

impl ForwardProxy {
    pub fn start(way: Way) -> Self {
        Self::start_with(way, None)
    }

    /// One that is spoken to over TLS.
    pub fn start_encrypted(way: Way, files: &CertificateFiles) -> Self {
        let certificate = CertificateDer::from_pem_file(&files.certificate).expect("a test wrote it");
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&files.key).expect("a test wrote it")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the provider has them").with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).expect("they belong together");
        Self::start_with(way, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_with(way: Way, tls: Option<TlsAcceptor>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("the loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (tell, asked) = channel();
        let handle = runtime.handle().clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tell, tls) = (tell.clone(), tls.clone());
                handle.spawn(async move {
                    match tls {
                        None => serve(stream, way, &tell).await,
                        Some(tls) => {
                            // Who does not believe it goes away.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, way, &tell).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, asked, _runtime: runtime }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The head of the next request, waited for.
    #[track_caller]
    pub fn asked(&self) -> String {
        self.asked.recv_timeout(DEADLINE).expect("nobody has asked the proxy")
    }

    /// Nobody has asked it for anything more.
    #[track_caller]
    pub fn assert_unasked(&self) {
        assert_eq!(self.asked.try_recv().ok(), None);
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, way: Way, tell: &Sender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    // The test may have ended.
    let _ = tell.send(String::from_utf8_lossy(&head).into_owned());
    match way {
        Way::To(port) => {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
                let _ = copy_bidirectional(&mut stream, &mut server).await;
            }
        }
        Way::Says(answer) => {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Way::Mute => {
            let _ = stream.read_to_end(&mut head).await;
        }
    }
}
