//! The transport under a link, a plain socket or something else behind one interface, which counts the bytes that pass: whether a peer still moves is seen by bytes,
//! since one long frame on a slow line may take longer than two pings.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A counted socket.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    is_encrypted: bool,
    read: u64,
    written: u64,
}

enum Socket {
    Plain(TcpStream),
    // Boxed: a plain link must not pay for the size of a TLS session.
    Boxed(Box<dyn Transport>),
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(socket) => socket.fmt(f),
            Self::Boxed(_) => f.write_str("a boxed transport"),
        }
    }
}

/// What a link can run over.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

impl Stream {
    /// Bytes read and written so far.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        (self.read, self.written)
    }

    /// A link over TLS.
    #[must_use]
    pub fn encrypted(transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { is_encrypted: true, ..Self::boxed(transport) }
    }

    /// Whether it runs over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// A link over something else than a plain socket: one end of an in-memory stream, say.
    #[must_use]
    pub fn boxed(transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::new(Socket::Boxed(Box::new(transport)))
    }

    fn new(socket: Socket) -> Self {
        Self { socket, is_encrypted: false, read: 0, written: 0 }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::new(Socket::Plain(socket))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Boxed(socket) => Pin::new(socket).poll_read(cx, buf),
        };
        self.read += (buf.filled().len() - before) as u64;
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Boxed(socket) => Pin::new(socket).poll_write(cx, bytes),
        };
        if let Poll::Ready(Ok(length)) = &result {
            self.written += *length as u64;
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Boxed(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Boxed(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
