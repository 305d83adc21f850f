//! Frames on a socket: what is fed is kept until it is flushed, and reading never waits for writing, so that two daemons with
//! full buffers towards each other still both read. Between two frames it holds no buffer. It never looks into a frame.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ws_daemon_protocol::codec::v2::moves;
use ws_daemon_protocol::codec::websocket::{CloseCode, Decoder, Fault, Frame, Opcode, Role, encode, encode_close};

use super::stream::Stream;
use crate::secret::random;

/// Fed and not yet written, in bytes; when reached, the rest waits in the link's queue. And as much in answers to pings; when reached,
/// nothing is read until they have left.
const UNFLUSHED_BYTES: usize = 256 << 10;

/// What one read takes from the socket at most. The buffer is lent by the thread for as long as the read; what is left of it behind a
/// frame, the link keeps until it is taken.
const READ_BYTES: usize = 16 << 10;

/// Random bytes that are fetched at once, for the masks of so many frames, four each.
const RANDOM_BYTES: usize = 1 << 10;

/// The head of a frame that answers a ping, at most.
const FRAME_HEAD_BYTES: usize = 6;

/// A WebSocket with its unflushed part.
#[derive(Debug)]
pub struct Wire(Box<Inner>);

/// Boxed: it is handed on from one life to the next, and each would keep room for all of it.
#[derive(Debug)]
struct Inner {
    stream: Stream,
    role: Role,
    decoder: Decoder,
    /// What was read behind a frame, and how much of it is taken.
    behind: Vec<u8>,
    taken: usize,
    /// What was fed, and how much of it is written.
    out: Vec<u8>,
    written: usize,
    /// Bytes of answers to pings since everything was last flushed.
    pongs: usize,
    flushing: bool,
    /// A ping was heard since it was asked whether one was.
    was_pinged: bool,
    /// No more could be fed when something was fed last.
    was_full: bool,
    /// This end has said its last word.
    has_closed: bool,
    /// The other end has.
    is_closed: bool,
    /// What came cannot be understood, nor what comes behind it.
    is_broken: bool,
    /// The code and the words of the other side's close frame.
    said: Option<(u16, String)>,
}

/// What a wire has to tell.
#[derive(Debug)]
pub enum Event {
    /// A text or binary frame, whole.
    Frame(Frame),
    /// A ping, whose answer is fed, a pong, or part of a closing handshake: a sign of life.
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
    TooLarge(u64),
    /// The connection ended without a word.
    #[error("the connection was lost")]
    Lost,
    /// Text that is not UTF-8.
    #[error("a text frame was not UTF-8")]
    NotUtf8,
    /// Against the protocol.
    #[error("against the WebSocket protocol: {0}")]
    Protocol(&'static str),
    /// A broken connection.
    #[error(transparent)]
    Broken(io::Error),
}

impl Gone {
    /// With which code and words to close; `None` if there is nobody any more to close with.
    #[must_use]
    pub fn close_code(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::TooLarge(_) => Some((CloseCode::SIZE, "the frame is too large")),
            Self::NotUtf8 => Some((CloseCode::INVALID, "text is not UTF-8")),
            Self::Protocol(_) => Some((CloseCode::PROTOCOL, "against the protocol")),
            Self::Closed | Self::Lost | Self::Broken(_) => None,
        }
    }
}

impl From<Fault> for Gone {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge(bytes) => Self::TooLarge(bytes),
            Fault::NotUtf8 => Self::NotUtf8,
            Fault::Protocol(what) => Self::Protocol(what),
        }
    }
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => Self::Lost,
            _ => Self::Broken(error),
        }
    }
}

impl Wire {
    /// A wire on a socket whose handshake is done, at the end of `role`, with the bytes that were read behind the handshake. A frame may have
    /// `message` bytes.
    #[must_use]
    pub fn new(stream: Stream, role: Role, behind: Vec<u8>, message: usize) -> Self {
        Self(Box::new(Inner {
            stream,
            role,
            decoder: Decoder::new(role, message),
            behind,
            taken: 0,
            out: Vec::new(),
            written: 0,
            pongs: 0,
            flushing: false,
            was_pinged: false,
            was_full: false,
            has_closed: false,
            is_closed: false,
            is_broken: false,
            said: None,
        }))
    }

    /// The code and the words with which the other side closed.
    #[must_use]
    pub fn last_words(&mut self) -> Option<(u16, String)> {
        self.0.said.take()
    }

    /// Which end this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// Bytes read and written so far.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        self.0.stream.moved()
    }

    /// Whether it runs over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.stream.is_encrypted()
    }

    /// Whether more may be fed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.has_room()
    }

    /// Whether something that was fed is not yet written.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.0.flushing
    }

    /// Whether a ping was heard since this was asked last.
    #[must_use]
    pub fn was_pinged(&mut self) -> bool {
        std::mem::take(&mut self.0.was_pinged)
    }

    /// Takes a frame, of text if it is a string; it is written by [`event`](Self::event).
    ///
    /// # Errors
    /// When one of the two ends has said its last word.
    pub fn feed(&mut self, frame: impl Into<Frame>) -> Result<(), Gone> {
        match frame.into() {
            Frame::Text(text) => self.0.say(Opcode::Text, text.as_bytes()),
            Frame::Binary(bytes) => self.0.say(Opcode::Binary, &bytes),
            Frame::Ping(bytes) => self.0.say(Opcode::Ping, &bytes),
            Frame::Pong => self.0.say(Opcode::Pong, &[]),
            Frame::Close(said) => self.0.close(said.as_ref().map(|(code, words)| (*code, words.as_str()))),
        }
    }

    /// The same with a frame of text that stays with whoever has it.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_text(&mut self, text: &str) -> Result<(), Gone> {
        self.0.say(Opcode::Text, text.as_bytes())
    }

    /// Takes a ping.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn ping(&mut self) -> Result<(), Gone> {
        self.0.say(Opcode::Ping, &[])
    }

    /// Begins the closing handshake.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), Gone> {
        self.0.close(Some((code, reason)))
    }

    /// The next thing that happens; what was fed is written meanwhile. Without `read` nothing is read: for when there is no
    /// room for what would come. Cancel safe.
    pub async fn event(&mut self, read: bool) -> Event {
        std::future::poll_fn(|cx| self.poll_event(cx, read)).await
    }

    /// The same to be polled.
    pub fn poll_event(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        self.0.poll_event(cx, read)
    }

    /// The next thing that happens of what has been read already, if there is one: then nothing is written, and nobody waited for.
    pub fn next_read(&mut self) -> Option<Event> {
        if self.0.is_closed || !self.0.has_room_for_pongs() {
            return None;
        }
        let taken = self.0.take_frame().transpose()?;
        Some(self.0.heard(taken))
    }

    /// Ends when all that was fed has been written. What comes meanwhile is read and dropped: a peer that waits for it to be
    /// read would not read either.
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn flushed(&mut self) -> Result<(), Gone> {
        std::future::poll_fn(|cx| {
            while self.0.flushing {
                match self.0.poll_event(cx, true) {
                    Poll::Ready(Event::Gone(gone)) => return Poll::Ready(Err(gone)),
                    Poll::Ready(_) => {}
                    // Flushing may just have ended, and then nothing would wake whoever waits here.
                    Poll::Pending if self.0.flushing => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl Inner {
    fn has_room(&self) -> bool {
        self.out.len() - self.written < UNFLUSHED_BYTES
    }

    fn say(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Gone> {
        // What was still to be said when somebody had said the last word is said to nobody.
        if self.has_closed || self.is_closed {
            return Err(Gone::Closed);
        }
        let mask = self.mask()?;
        encode(self.out(), opcode, payload, mask);
        self.has_fed();
        Ok(())
    }

    fn close(&mut self, said: Option<(CloseCode, &str)>) -> Result<(), Gone> {
        if self.has_closed {
            return Err(Gone::Closed);
        }
        let mask = self.mask()?;
        encode_close(self.out(), said, mask);
        self.has_closed = true;
        self.has_fed();
        Ok(())
    }

    fn mask(&self) -> Result<Option<[u8; 4]>, Gone> {
        Ok(match self.role {
            Role::Server => None,
            Role::Client => Some(mask()?),
        })
    }

    /// Where the next frame goes.
    fn out(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = ROOM.take();
        }
        &mut self.out
    }

    fn has_fed(&mut self) {
        self.flushing = true;
        self.was_full |= !self.has_room();
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        loop {
            if self.flushing {
                match self.poll_flush(cx) {
                    Poll::Ready(Ok(())) if std::mem::take(&mut self.was_full) => return Poll::Ready(Event::Flushed),
                    Poll::Ready(Err(error)) => return Poll::Ready(Event::Gone(error.into())),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            if self.is_closed && !self.flushing {
                return Poll::Ready(Event::Gone(Gone::Closed));
            }
            // Whoever sends pings and takes no answers is still flushing: that it goes on is what wakes this.
            if !read || self.is_closed || !self.has_room_for_pongs() {
                return Poll::Pending;
            }
            let frame = ready!(self.poll_frame(cx));
            match self.heard(frame) {
                // All that came is a ping or a pong, as on an idle link: an answer leaves at once, and nobody need be told.
                Event::Control if self.behind.is_empty() && !self.is_closed => {}
                heard => return Poll::Ready(heard),
            }
        }
    }

    fn has_room_for_pongs(&self) -> bool {
        self.pongs < UNFLUSHED_BYTES
    }

    fn heard(&mut self, frame: Result<Frame, Gone>) -> Event {
        let heard = match frame {
            Ok(frame) => self.hear(frame),
            Err(gone) => {
                self.is_broken = true;
                Err(gone)
            }
        };
        heard.unwrap_or_else(Event::Gone)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.written += length,
            }
            // A peer that reads, but never all of it, must not make it grow.
            if self.written >= UNFLUSHED_BYTES {
                self.out.drain(..self.written);
                self.written = 0;
            }
        }
        let mut out = std::mem::take(&mut self.out);
        self.written = 0;
        if out.capacity() <= READ_BYTES {
            out.clear();
            ROOM.set(out);
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        (self.flushing, self.pongs) = (false, 0);
        Poll::Ready(Ok(()))
    }

    /// What a frame means for the connection.
    fn hear(&mut self, frame: Frame) -> Result<Event, Gone> {
        match frame {
            Frame::Text(_) | Frame::Binary(_) => return Ok(Event::Frame(frame)),
            Frame::Ping(bytes) if !self.has_closed => {
                self.pongs += bytes.len() + FRAME_HEAD_BYTES;
                self.was_pinged = true;
                self.say(Opcode::Pong, &bytes)?;
            }
            Frame::Ping(_) | Frame::Pong => {}
            Frame::Close(said) => {
                // Whoever has closed already hears the answer to it.
                if !self.has_closed {
                    self.close(said.as_ref().map(|(code, _)| (*code, "")))?;
                }
                self.is_closed = true;
                self.said = said.map(|(CloseCode(code), words)| (code, words.chars().filter(|char| !moves(*char)).collect()));
                self.flushing = true;
            }
        }
        Ok(Event::Control)
    }

    /// The next frame of what was read.
    fn take_frame(&mut self) -> Result<Option<Frame>, Gone> {
        if self.behind.is_empty() || self.is_broken {
            return Ok(None);
        }
        let mut rest = &self.behind[self.taken..];
        let found = self.decoder.next(&mut rest);
        self.taken = self.behind.len() - rest.len();
        if rest.is_empty() {
            (self.behind, self.taken) = (Vec::new(), 0);
        }
        Ok(found?)
    }

    /// The next frame, of what was read or is read now.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Gone>> {
        if let Some(frame) = self.take_frame()? {
            return Poll::Ready(Ok(frame));
        }
        let Self { stream, decoder, behind, is_broken, .. } = self;
        LENT.with_borrow_mut(|lent| {
            loop {
                let mut buffer = ReadBuf::new(lent);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
                let mut read = buffer.filled();
                if read.is_empty() {
                    return Poll::Ready(Err(Gone::Lost));
                }
                // Closed over what was not read, the connection would be reset, and the last word lost.
                if *is_broken {
                    continue;
                }
                if let Some(frame) = decoder.next(&mut read)? {
                    behind.extend_from_slice(read);
                    return Poll::Ready(Ok(frame));
                }
            }
        })
    }
}

thread_local! {
    /// What is read into, by one link at a time.
    static LENT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());

    /// Room for what is fed, of the last link that has written all of it.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };

    /// Random bytes, and how many of them are used.
    static RANDOM: RefCell<(Box<[u8]>, usize)> = RefCell::new((vec![0; RANDOM_BYTES].into(), RANDOM_BYTES));
}

/// A mask that nobody can foresee (RFC 6455, section 5.3).
fn mask() -> io::Result<[u8; 4]> {
    RANDOM.with_borrow_mut(|(bytes, used)| {
        if *used >= RANDOM_BYTES {
            random(bytes)?;
            *used = 0;
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&bytes[*used..*used + 4]);
        *used += 4;
        Ok(mask)
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn whoever_goes_on_talking_to_a_peer_that_has_closed_hears_that_it_has() {
        const BYTES: usize = 1 << 16;
        let (near, far) = duplex(BYTES);
        let mut near = Wire::new(Stream::boxed(near), Role::Server, Vec::new(), BYTES);
        let mut far = Wire::new(Stream::boxed(far), Role::Client, Vec::new(), BYTES);
        far.close(CloseCode::AWAY, "enough").expect("it is open");
        far.flushed().await.expect("it is read");
        assert!(matches!(near.event(true).await, Event::Control));
        assert!(matches!(near.feed("{}".to_owned()), Err(Gone::Closed)));
        assert_eq!(near.last_words(), Some((1001, "enough".into())));
    }
}
