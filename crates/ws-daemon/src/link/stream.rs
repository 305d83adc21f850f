//! The socket under a link, plain or encrypted, which counts the bytes that pass: whether a peer still moves is seen by bytes,
//! since one long frame on a slow line may take longer than two pings.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A counted socket.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    read: u64,
    written: u64,
}

#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    // Boxed: a plain link must not pay for the size of a TLS session.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Bytes read and written so far.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        (self.read, self.written)
    }

    fn new(socket: Socket) -> Self {
        Self { socket, read: 0, written: 0 }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::new(Socket::Plain(socket))
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(socket: TlsStream<TcpStream>) -> Self {
        Self::new(Socket::Tls(Box::new(socket)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        };
        self.read += (buf.filled().len() - before) as u64;
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write(cx, bytes),
        };
        if let Poll::Ready(Ok(length)) = &result {
            self.written += *length as u64;
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
