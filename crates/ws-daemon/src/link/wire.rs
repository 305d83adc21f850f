//! Frames on a socket: what is fed is kept until it is flushed, and reading never waits for writing, so that two daemons with
//! full buffers towards each other still both read. It never looks into a frame.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use ws_daemon_protocol::codec::v2::moves;

use super::stream::Stream;

/// Fed and not yet flushed, in bytes; when reached, the rest waits in the link's queue. And as much in answers to pings; when reached,
/// nothing is read until they have left.
const UNFLUSHED_BYTES: usize = 256 << 10;

/// What one read takes from the socket at most. Each link keeps a buffer of it, so an idle link must be content with little.
const READ_BYTES: usize = 2 << 10;

/// The head of a frame that answers a ping, at most.
const FRAME_HEAD_BYTES: usize = 6;

/// The words in a close frame, in bytes (RFC 6455, section 5.5); what is longer is cut.
const REASON_BYTES: usize = 123;

/// A WebSocket with its unflushed part.
#[derive(Debug)]
pub struct Wire {
    /// Boxed: it is handed on from one life to the next, and each would keep room for all of it.
    socket: Box<WebSocketStream<Stream>>,
    /// Bytes fed since everything was last flushed.
    unflushed: usize,
    /// Bytes of answers to pings since everything was last flushed.
    pongs: usize,
    flushing: bool,
    /// The code and the words of the other side's close frame.
    said: Option<(u16, String)>,
}

/// What a wire has to tell.
#[derive(Debug)]
pub enum Event {
    /// A text or binary frame, whole.
    Frame(Message),
    /// A ping, a pong, or part of a closing handshake: a sign of life.
    Control,
    /// All that was fed has been written; more may be fed.
    Flushed,
    /// The peer is gone, in good order or not: why.
    Gone(Gone),
}

/// Why a wire ended.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// A frame over the limit.
    #[error("a frame of {0} bytes is over the limit")]
    TooLarge(usize),
    /// The connection ended without a word.
    #[error("the connection was lost")]
    Lost,
    /// Text that is not UTF-8.
    #[error("a text frame was not UTF-8")]
    NotUtf8,
    /// Against the protocol.
    #[error("against the WebSocket protocol: {0}")]
    Protocol(ProtocolError),
    /// A broken connection.
    #[error(transparent)]
    Broken(Box<Error>),
}

impl Gone {
    /// With which code and words to close; `None` if there is nobody any more to close with.
    #[must_use]
    pub fn close_code(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::TooLarge(_) => Some((CloseCode::Size, "the frame is too large")),
            Self::NotUtf8 => Some((CloseCode::Invalid, "text is not UTF-8")),
            Self::Protocol(_) => Some((CloseCode::Protocol, "against the protocol")),
            Self::Closed | Self::Lost | Self::Broken(_) => None,
        }
    }
}

impl Wire {
    /// The limits every link goes by; `message` is in bytes.
    #[must_use]
    pub fn config(message: usize) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(UNFLUSHED_BYTES / 2)
            // One frame above the mark, with its header.
            .max_write_buffer_size(UNFLUSHED_BYTES + message + (1 << 10))
            .max_message_size(Some(message))
            .max_frame_size(Some(message))
    }

    /// A wire on a socket whose handshake is done, with the bytes that were read behind it.
    pub async fn accepted(stream: Stream, behind: Vec<u8>, message: usize) -> Self {
        let config = Some(Self::config(message));
        Self::new(WebSocketStream::from_partially_read(stream, behind, Role::Server, config).await)
    }

    /// A wire that was dialled.
    #[must_use]
    pub fn new(socket: WebSocketStream<Stream>) -> Self {
        Self { socket: Box::new(socket), unflushed: 0, pongs: 0, flushing: false, said: None }
    }

    /// A wire on a stream over which no handshake is made: one end each is the server's and the client's.
    pub async fn over(stream: Stream, role: Role, message: usize) -> Self {
        Self::new(WebSocketStream::from_raw_socket(stream, role, Some(Self::config(message))).await)
    }

    /// The code and the words with which the other side closed.
    #[must_use]
    pub fn last_words(&mut self) -> Option<(u16, String)> {
        self.said.take()
    }

    /// Bytes read and written so far.
    pub fn moved(&self) -> (u64, u64)
    where
        Stream: AsyncRead + AsyncWrite,
    {
        self.socket.get_ref().moved()
    }

    /// Whether it runs over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.socket.get_ref().is_encrypted()
    }

    /// Whether more may be fed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unflushed < UNFLUSHED_BYTES
    }

    /// Whether something that was fed is not yet written.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.flushing
    }

    /// Takes a frame, of text if it is a string; it is written by [`event`](Self::event).
    ///
    /// # Errors
    /// When the socket is closed or broken.
    pub fn feed(&mut self, frame: impl Into<Message>) -> Result<(), Gone> {
        let frame = frame.into();
        self.unflushed += frame.len();
        self.start(frame)
    }

    /// Takes a ping.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn ping(&mut self) -> Result<(), Gone> {
        self.start(Message::Ping(Bytes::new()))
    }

    /// Begins the closing handshake.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), Gone> {
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES)];
        self.start(Message::Close(Some(CloseFrame { code, reason: reason.into() })))
    }

    fn start(&mut self, message: Message) -> Result<(), Gone> {
        self.flushing = true;
        Pin::new(&mut *self.socket).start_send(message).map_err(gone)
    }

    /// The next thing that happens; what was fed is written meanwhile. Without `read` nothing is read: for when there is no
    /// room for what would come. Cancel safe.
    pub async fn event(&mut self, read: bool) -> Event {
        std::future::poll_fn(|cx| self.poll_event(cx, read)).await
    }

    /// Ends when all that was fed has been written. What comes meanwhile is read and dropped: a peer that waits for it to be
    /// read would not read either.
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn flushed(&mut self) -> Result<(), Gone> {
        std::future::poll_fn(|cx| {
            while self.flushing {
                match self.poll_event(cx, true) {
                    Poll::Ready(Event::Gone(gone)) => return Poll::Ready(Err(gone)),
                    Poll::Ready(_) => {}
                    // Flushing may just have ended, and then nothing would wake whoever waits here.
                    Poll::Pending if self.flushing => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        if self.flushing {
            match Pin::new(&mut *self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    let was_full = !self.has_room();
                    self.flushing = false;
                    self.unflushed = 0;
                    self.pongs = 0;
                    if was_full {
                        return Poll::Ready(Event::Flushed);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Gone(gone(error))),
                Poll::Pending => {}
            }
        }
        // Whoever sends pings and takes no answers is still flushing: that it goes on is what wakes this.
        if !read || self.pongs >= UNFLUSHED_BYTES {
            return Poll::Pending;
        }
        match Pin::new(&mut *self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(message @ (Message::Text(_) | Message::Binary(_))))) => Poll::Ready(Event::Frame(message)),
            Poll::Ready(Some(Ok(control))) => {
                match control {
                    Message::Ping(said) => self.pongs += said.len() + FRAME_HEAD_BYTES,
                    Message::Close(Some(CloseFrame { code, reason })) => {
                        self.said = Some((code.into(), reason.chars().filter(|char| !moves(*char)).collect()));
                    }
                    _ => {}
                }
                // The answer to a ping or a close was queued by the read.
                self.flushing = true;
                Poll::Ready(Event::Control)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Event::Gone(gone(error))),
            Poll::Ready(None) => Poll::Ready(Event::Gone(Gone::Closed)),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn gone(error: Error) -> Gone {
    match error {
        // What was still to be said when the other side had said its last word is said to nobody.
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(ProtocolError::SendAfterClosing) => Gone::Closed,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Gone::Lost,
        Error::Protocol(error) => Gone::Protocol(error),
        Error::Utf8(_) => Gone::NotUtf8,
        Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Gone::Lost,
        Error::Capacity(CapacityError::MessageTooLong { size, .. }) => Gone::TooLarge(size),
        error => Gone::Broken(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn whoever_goes_on_talking_to_a_peer_that_has_closed_hears_that_it_has() {
        const BYTES: usize = 1 << 16;
        let (near, far) = duplex(BYTES);
        let mut near = Wire::over(Stream::boxed(near), Role::Server, BYTES).await;
        let mut far = Wire::over(Stream::boxed(far), Role::Client, BYTES).await;
        far.close(CloseCode::Away, "enough").expect("it is open");
        far.flushed().await.expect("it is read");
        assert!(matches!(near.event(true).await, Event::Control));
        assert!(matches!(near.feed("{}".to_owned()), Err(Gone::Closed)));
        assert_eq!(near.last_words(), Some((1001, "enough".into())));
    }
}
