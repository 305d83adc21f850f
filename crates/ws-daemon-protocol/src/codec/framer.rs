//! Messages out of a byte stream that has no separators: whatever way the bytes were cut on their way here, the same objects
//! come out. It owns the bytes that are not yet a message, at most one message limit of them plus one read; it never decodes.

use super::scanner::{Scanner, Step, SyntaxError};

/// What the framer found.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole JSON object, its text as it came, without the white space around it.
    Message(String),
    /// Something that is no message. Reading goes on behind it.
    Bad(BadMessage),
}

/// Why bytes could not become a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Not JSON, or not an object.
    #[error("{error} at byte {at} of the message")]
    Syntax {
        /// What is wrong.
        error: SyntaxError,
        /// Which byte of the message it is, counted from 1.
        at: usize,
    },
    /// The stream ended inside a message.
    #[error("the message ended early, after {length} bytes")]
    CutShort {
        /// How many bytes of it had come.
        length: usize,
    },
    /// Longer than the limit.
    #[error("the message is longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

/// The incremental framer of one connection.
#[derive(Debug)]
pub struct Framer {
    scanner: Scanner,
    /// Bytes from the start of the current message; what stands before `scanned` has been checked.
    buffer: Vec<u8>,
    /// Where the current message starts in `buffer`.
    start: usize,
    scanned: usize,
    limit: usize,
    /// The current message was refused for its length: its end is awaited, its bytes are dropped.
    discarding: bool,
}

impl Framer {
    /// A framer for messages of at most `limit` bytes and `nesting` levels.
    #[must_use]
    pub fn new(limit: usize, nesting: usize) -> Self {
        Self { scanner: Scanner::new(nesting), buffer: Vec::new(), start: 0, scanned: 0, limit, discarding: false }
    }

    /// Takes bytes that were read. Call [`next`](Self::next) until it has none before the next `push`.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message or fault in what was pushed.
    #[expect(clippy::should_implement_trait, reason = "it has none now and may have one after the next push: no iterator")]
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            self.skip_blank();
            match self.scanner.advance(&self.buffer[self.scanned..]) {
                Ok((count, Step::Done)) => {
                    self.scanned += count;
                    self.scanner.reset();
                    if std::mem::take(&mut self.discarding) {
                        self.start = self.scanned;
                        continue;
                    }
                    if self.scanned - self.start > self.limit {
                        self.start = self.scanned;
                        return Some(self.too_large());
                    }
                    return Some(self.take());
                }
                Ok((count, Step::More)) => {
                    self.scanned += count;
                    return self.wait();
                }
                Err((count, error)) => {
                    let at = self.scanned + count - self.start + 1;
                    self.resume_after_newline(self.scanned + count);
                    if std::mem::take(&mut self.discarding) {
                        continue;
                    }
                    return Some(Frame::Bad(BadMessage::Syntax { error, at }));
                }
            }
        }
    }

    /// The stream has ended: the fault, if it ended inside a message.
    #[must_use]
    pub fn finish(&self) -> Option<BadMessage> {
        let length = self.buffer.len() - self.start;
        (self.scanner.is_inside() && !self.discarding).then_some(BadMessage::CutShort { length })
    }

    /// What of a message has come whose end has not, to be pushed into another framer; `None` if it is dropped as too long.
    #[must_use]
    pub fn rest(&self) -> Option<&[u8]> {
        (!self.discarding).then(|| &self.buffer[self.start..])
    }

    fn skip_blank(&mut self) {
        if self.scanner.is_inside() {
            return;
        }
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.scanned += self.buffer[self.scanned..].iter().take_while(blank).count();
        self.start = self.scanned;
    }

    /// All that was pushed has been checked and no message has ended.
    fn wait(&mut self) -> Option<Frame> {
        if self.discarding || self.start == self.buffer.len() {
            self.forget();
            return None;
        }
        if self.buffer.len() - self.start > self.limit {
            self.forget();
            self.discarding = true;
            return Some(self.too_large());
        }
        None
    }

    /// Everything pushed has been dealt with. A buffer that grew for one long message is given back.
    fn forget(&mut self) {
        const KEPT_BYTES: usize = 16 * 1024;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        self.start = 0;
        self.scanned = 0;
    }

    fn take(&mut self) -> Frame {
        let bytes = self.buffer[self.start..self.scanned].to_vec();
        self.start = self.scanned;
        match String::from_utf8(bytes) {
            Ok(text) => Frame::Message(text),
            // The scanner takes nothing but UTF-8; were it ever wrong, the caller still gets an answer.
            Err(error) => {
                Frame::Bad(BadMessage::Syntax { error: SyntaxError::NotUtf8, at: error.utf8_error().valid_up_to() + 1 })
            }
        }
    }

    fn too_large(&self) -> Frame {
        Frame::Bad(BadMessage::TooLarge { limit: self.limit })
    }

    /// After a fault, reading goes on behind the next newline that has been read already, else behind all that was read.
    fn resume_after_newline(&mut self, fault: usize) {
        let newline = self.buffer[fault..].iter().position(|&byte| byte == b'\n');
        self.scanned = newline.map_or(self.buffer.len(), |at| fault + at + 1);
        self.start = self.scanned;
        self.scanner.reset();
    }
}

/// Checks that `text` is exactly one JSON object (white space around it allowed) of at most `nesting` levels.
pub fn check_whole(text: &str, nesting: usize) -> Result<(), BadMessage> {
    let bytes = text.as_bytes();
    let mut scanner = Scanner::new(nesting);
    let syntax = |at, error| BadMessage::Syntax { error, at: at + 1 };
    match scanner.advance(bytes).map_err(|(at, error)| syntax(at, error))? {
        (_, Step::More) => Err(BadMessage::CutShort { length: bytes.len() }),
        (end, Step::Done) => match bytes[end..].iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            None => Ok(()),
            Some(more) => Err(syntax(end + more, SyntaxError::Expected("nothing after the object"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(framer: &mut Framer, bytes: &[u8]) -> Vec<Frame> {
        framer.push(bytes);
        std::iter::from_fn(|| framer.next()).collect()
    }

    fn message(text: &str) -> Frame {
        Frame::Message(text.to_owned())
    }

    #[test]
    fn two_objects_in_one_push_and_one_in_many() {
        let mut framer = Framer::new(100, 8);
        assert_eq!(all(&mut framer, b"{\"a\":1} {\"b\":\"}\"}"), [message("{\"a\":1}"), message("{\"b\":\"}\"}")]);
        for byte in b" \n{\"c\":[{}]" {
            assert_eq!(all(&mut framer, &[*byte]), []);
        }
        assert_eq!(all(&mut framer, b"}{"), [message("{\"c\":[{}]}")]);
        assert_eq!(framer.finish(), Some(BadMessage::CutShort { length: 1 }));
    }

    #[test]
    fn reading_goes_on_after_the_next_newline_already_read() {
        let mut framer = Framer::new(100, 8);
        let found = all(&mut framer, b"{oops} {\"lost\":1}\n{\"a\":1}nonsense");
        let bad = |error, at| Frame::Bad(BadMessage::Syntax { error, at });
        assert_eq!(
            found,
            [
                bad(SyntaxError::Expected("a key in double quotes or '}'"), 2),
                message("{\"a\":1}"),
                bad(SyntaxError::Expected("a JSON object, that is '{'"), 1),
            ]
        );
        assert_eq!(all(&mut framer, b"{\"b\":2}"), [message("{\"b\":2}")]);
        assert_eq!(framer.finish(), None);
    }

    #[test]
    fn an_oversized_message_is_told_once_and_passed_over() {
        let mut framer = Framer::new(10, 8);
        let too_large = || Frame::Bad(BadMessage::TooLarge { limit: 10 });
        assert_eq!(all(&mut framer, b"{\"a\":\"0123456789"), [too_large()]);
        assert_eq!(all(&mut framer, b"0123456789"), []);
        assert_eq!(all(&mut framer, b"\"}{\"b\":1}"), [message("{\"b\":1}")]);
        assert_eq!(all(&mut framer, b"{\"a\":\"0123456789\"}{\"b\":2}"), [too_large(), message("{\"b\":2}")]);
    }

    #[test]
    fn a_whole_text_is_one_object() {
        assert_eq!(check_whole(" {\"a\":1} ", 2), Ok(()));
        for text in ["", "{", "1", "{}{}", "{} x", "{\"a\":{\"b\":{}}}"] {
            assert!(check_whole(text, 2).is_err(), "{text}");
        }
    }
}
