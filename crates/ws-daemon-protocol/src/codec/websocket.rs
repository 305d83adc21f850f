//! WebSocket frames (RFC 6455): bytes to messages, whatever way they were cut, and messages to bytes. It keeps nothing of a message that
//! is whole and hardly anything between two, so that an idle connection costs no buffer. It agrees to no extension, and never reads
//! or writes by itself.

/// The longest payload of a control frame, in bytes (RFC 6455, section 5.5).
pub const CONTROL_BYTES: usize = 125;

/// The longest head of a frame, in bytes (RFC 6455, section 5.2).
pub const HEAD_BYTES: usize = 14;

/// In place of a length: it stands in the two, or the eight, bytes behind.
const TWO_BYTES: u8 = 0x7e;
const EIGHT_BYTES: u8 = 0x7f;

/// So much room is made for a message on the word of its head alone, in bytes; more as it comes.
const TRUSTED_BYTES: usize = 64 << 10;

/// Which end of the connection this is: a client masks what it sends, and a server does not (RFC 6455, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It was dialled.
    Server,
    /// It has dialled.
    Client,
}

/// Why a connection is closed (RFC 6455, section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// It is done.
    pub const NORMAL: Self = Self(1000);
    /// It goes away.
    pub const AWAY: Self = Self(1001);
    /// Something was against the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// A text was no UTF-8.
    pub const INVALID: Self = Self(1007);
    /// Something was against the rules of this end.
    pub const POLICY: Self = Self(1008);
    /// A message was too large.
    pub const SIZE: Self = Self(1009);
    /// It restarts.
    pub const RESTART: Self = Self(1012);
    /// Try again later.
    pub const AGAIN: Self = Self(1013);

    /// Whether it may stand in a close frame: 1004 to 1006 and 1015 never do, and nobody has said what those between mean.
    fn may_be_said(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// A message, or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// It is to be answered by a pong with the same bytes.
    Ping(Vec<u8>),
    /// The answer to a ping.
    Pong,
    /// The other end says no more: why, if it says that.
    Close(Option<(CloseCode, String)>),
}

impl Frame {
    /// How long its payload is, in bytes; that of a pong or a close is not told.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Ping(bytes) => bytes.len(),
            Self::Pong | Self::Close(_) => 0,
        }
    }

    /// Whether it has no payload that is told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// What is wrong with what came; nothing behind it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message has, or is going to have, so many bytes.
    #[error("a frame of {0} bytes is over the limit")]
    TooLarge(u64),
    /// A text, or the words of a close, is no UTF-8.
    #[error("a text frame was not UTF-8")]
    NotUtf8,
    /// It is against the protocol.
    #[error("{0}")]
    Protocol(&'static str),
}

/// What a frame holds (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before it.
    Continuation = 0,
    /// Text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The last frame.
    Close = 8,
    /// To be answered.
    Ping = 9,
    /// An answer.
    Pong = 10,
}

impl Opcode {
    fn of(bits: u8) -> Result<Self, Fault> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(Fault::Protocol("a frame of a kind that is not known")),
        })
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Takes bytes as they come, and gives back messages.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    /// The longest message, in bytes.
    most: usize,
    head: [u8; HEAD_BYTES],
    /// So much of the head is there.
    have: u8,
    /// The frame whose payload is coming.
    body: Option<Box<Body>>,
    /// The message that is not whole.
    message: Option<Box<Partial>>,
}

/// A message of which more is to come.
#[derive(Debug)]
struct Partial {
    is_text: bool,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Body {
    opcode: Opcode,
    is_last: bool,
    mask: Option<[u8; 4]>,
    left: usize,
    /// Bytes of it that were read, for the mask.
    read: usize,
    /// What is read of it: of a continuation, behind what was there of the message.
    bytes: Vec<u8>,
}

impl Decoder {
    /// At an end of this role; a message may have `most` bytes.
    #[must_use]
    pub fn new(role: Role, most: usize) -> Self {
        Self { role, most, head: [0; HEAD_BYTES], have: 0, body: None, message: None }
    }

    /// The next frame of control, or whole message, in `bytes`, from which it is cut off; with `None` all of them are taken.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, Fault> {
        loop {
            let mut body = match self.body.take() {
                Some(body) => *body,
                None if self.take_head(bytes) => self.begin()?,
                None => return Ok(None),
            };
            let (now, rest) = bytes.split_at(body.left.min(bytes.len()));
            *bytes = rest;
            body.take(now);
            if body.left > 0 {
                // Boxed: a link that waits for nothing has no room for it.
                self.body = Some(Box::new(body));
                return Ok(None);
            }
            if let Some(frame) = self.end(body)? {
                return Ok(Some(frame));
            }
        }
    }

    /// Whether the head is whole.
    fn take_head(&mut self, bytes: &mut &[u8]) -> bool {
        loop {
            let have = usize::from(self.have);
            let missing = head_bytes(&self.head[..have]) - have;
            if missing == 0 {
                return true;
            }
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            if now.is_empty() {
                return false;
            }
            self.head[have..have + now.len()].copy_from_slice(now);
            // A head has 14 bytes at most.
            self.have += u8::try_from(now.len()).unwrap_or_default();
            *bytes = rest;
        }
    }

    /// What the head says; the next one is another.
    fn begin(&mut self) -> Result<Body, Fault> {
        self.have = 0;
        let [first, second, ..] = self.head;
        if first & 0x70 != 0 {
            return Err(Fault::Protocol("reserved bits are set, and no extension was agreed to"));
        }
        let (opcode, is_last) = (Opcode::of(first & 0x0f)?, first & 0x80 != 0);
        let (length, mask_at) = match second & 0x7f {
            TWO_BYTES => (u64::from(u16::from_be_bytes([self.head[2], self.head[3]])), 4),
            EIGHT_BYTES => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&self.head[2..10]);
                (u64::from_be_bytes(bytes), 10)
            }
            short => (u64::from(short), 2),
        };
        let mask = (second & 0x80 != 0).then(|| {
            let mut mask = [0; 4];
            mask.copy_from_slice(&self.head[mask_at..mask_at + 4]);
            mask
        });
        match (self.role, mask) {
            (Role::Server, None) => return Err(Fault::Protocol("a frame of a client is not masked")),
            (Role::Client, Some(_)) => return Err(Fault::Protocol("a frame of a server is masked")),
            _ => {}
        }
        let bytes = match (opcode, self.message.is_some()) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {
                if !is_last {
                    return Err(Fault::Protocol("a control frame is fragmented"));
                }
                if length > CONTROL_BYTES as u64 {
                    return Err(Fault::Protocol("a control frame is longer than 125 bytes"));
                }
                Vec::new()
            }
            (Opcode::Continuation, false) => return Err(Fault::Protocol("a frame goes on with a message that was not begun")),
            (Opcode::Continuation, true) => {
                self.message.as_mut().map(|message| std::mem::take(&mut message.bytes)).unwrap_or_default()
            }
            (Opcode::Text | Opcode::Binary, true) => return Err(Fault::Protocol("a message begins within another one")),
            (Opcode::Text | Opcode::Binary, false) => Vec::new(),
        };
        let whole = length.saturating_add(bytes.len() as u64);
        let left = usize::try_from(length).ok().filter(|_| whole <= self.most as u64 || opcode.is_control());
        let left = left.ok_or(Fault::TooLarge(whole))?;
        let mut body = Body { opcode, is_last, mask, left, read: 0, bytes };
        body.bytes.reserve(left.min(TRUSTED_BYTES));
        Ok(body)
    }

    /// A frame whose payload is whole.
    fn end(&mut self, body: Body) -> Result<Option<Frame>, Fault> {
        let Body { opcode, is_last, bytes, .. } = body;
        let is_text = match opcode {
            Opcode::Ping => return Ok(Some(Frame::Ping(bytes))),
            Opcode::Pong => return Ok(Some(Frame::Pong)),
            Opcode::Close => return close(&bytes).map(Some),
            Opcode::Text | Opcode::Binary => opcode == Opcode::Text,
            Opcode::Continuation => self.message.as_ref().is_some_and(|message| message.is_text),
        };
        if !is_last {
            match &mut self.message {
                Some(message) => message.bytes = bytes,
                None => self.message = Some(Box::new(Partial { is_text, bytes })),
            }
            return Ok(None);
        }
        self.message = None;
        if !is_text {
            return Ok(Some(Frame::Binary(bytes)));
        }
        String::from_utf8(bytes).map(|text| Some(Frame::Text(text))).map_err(|_| Fault::NotUtf8)
    }
}

impl Body {
    fn take(&mut self, now: &[u8]) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(now);
        if let Some(mask) = self.mask {
            apply(mask, self.read, &mut self.bytes[from..]);
        }
        self.left -= now.len();
        self.read += now.len();
    }
}

/// How long a head is of which this is known.
fn head_bytes(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let length = match second & 0x7f {
        TWO_BYTES => 2,
        EIGHT_BYTES => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 == 0 { 0 } else { 4 }
}

/// What a close frame says (RFC 6455, section 5.5.1).
fn close(bytes: &[u8]) -> Result<Frame, Fault> {
    let said = match bytes {
        [] => None,
        [_] => return Err(Fault::Protocol("a close frame has half a code")),
        [one, other, words @ ..] => {
            let code = CloseCode(u16::from_be_bytes([*one, *other]));
            if !code.may_be_said() {
                return Err(Fault::Protocol("a close frame has a code that must not be sent"));
            }
            Some((code, std::str::from_utf8(words).map_err(|_| Fault::NotUtf8)?.to_owned()))
        }
    };
    Ok(Frame::Close(said))
}

/// Puts one frame behind what is in `out`, masked by a client.
pub fn encode(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    out.reserve(HEAD_BYTES + payload.len());
    out.push(0x80 | opcode as u8);
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => out.push(masked | length),
        (_, Ok(length)) => {
            out.push(masked | TWO_BYTES);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(masked | EIGHT_BYTES);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(mask.into_iter().flatten());
    let from = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply(mask, 0, &mut out[from..]);
    }
}

/// Puts a close frame behind what is in `out`; words that do not fit are cut (RFC 6455, section 5.5).
pub fn encode_close(out: &mut Vec<u8>, said: Option<(CloseCode, &str)>, mask: Option<[u8; 4]>) {
    let payload = said.map(|(CloseCode(code), words)| {
        let words = &words[..words.floor_char_boundary(CONTROL_BYTES - 2)];
        [&code.to_be_bytes(), words.as_bytes()].concat()
    });
    encode(out, Opcode::Close, payload.as_deref().unwrap_or_default(), mask);
}

/// Masks or unmasks bytes, which stand `at` bytes behind the beginning of their frame (RFC 6455, section 5.3).
fn apply(mut mask: [u8; 4], at: usize, bytes: &mut [u8]) {
    mask.rotate_left(at % 4);
    let key = u32::from_ne_bytes(mask);
    let key = u64::from(key) << 32 | u64::from(key);
    let mut eights = bytes.chunks_exact_mut(8);
    for eight in &mut eights {
        let mut word = [0; 8];
        word.copy_from_slice(eight);
        eight.copy_from_slice(&(u64::from_ne_bytes(word) ^ key).to_ne_bytes());
    }
    for (byte, key) in eights.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn all(role: Role, most: usize, mut bytes: &[u8]) -> Result<Vec<Frame>, Fault> {
        let mut decoder = Decoder::new(role, most);
        let mut found = Vec::new();
        while let Some(frame) = decoder.next(&mut bytes)? {
            found.push(frame);
        }
        assert!(bytes.is_empty());
        Ok(found)
    }

    fn text(text: &str) -> Frame {
        Frame::Text(text.into())
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // Section 5.7.
        let table: [(Role, &[u8], Frame); 5] = [
            (Role::Client, &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], text("Hello")),
            (Role::Server, &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], text("Hello")),
            (Role::Client, &[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f], text("Hello")),
            (Role::Client, &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], Frame::Ping(b"Hello".into())),
            (Role::Server, &[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], Frame::Pong),
        ];
        for (role, bytes, frame) in table {
            assert_eq!(all(role, 5, bytes), Ok(vec![frame]));
        }
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for (role, mask) in [(Role::Client, None), (Role::Server, Some(MASK))] {
                let payload = vec![7; length];
                let mut bytes = Vec::new();
                encode(&mut bytes, Opcode::Binary, &payload, mask);
                let head =
                    2 + if length < 126 {
                        0
                    } else if length < 65_536 {
                        2
                    } else {
                        8
                    } + mask.map_or(0, |_| 4);
                assert_eq!(bytes.len(), head + length);
                assert_eq!(all(role, 70_000, &bytes), Ok(vec![Frame::Binary(payload)]), "{length}");
            }
        }
    }

    #[test]
    fn control_frames_stand_between_the_fragments_of_a_message() {
        let bytes = [0x01, 0x01, b'a', 0x89, 0x00, 0x00, 0x00, 0x80, 0x01, b'b', 0x88, 0x04, 0x03, 0xe9, b'o', b'k'];
        let said = Some((CloseCode::AWAY, "ok".into()));
        assert_eq!(all(Role::Client, 2, &bytes), Ok(vec![Frame::Ping(vec![]), text("ab"), Frame::Close(said)]));
    }

    #[test]
    fn what_is_wrong_is_told_by_the_head_alone() {
        const EIGHT: [u8; 8] = (1_u64 << 40).to_be_bytes();
        let table: [(Role, &[u8], Fault); 15] = [
            (Role::Server, &[0x81, 0x00], Fault::Protocol("a frame of a client is not masked")),
            (Role::Client, &[0x81, 0x80, 0, 0, 0, 0], Fault::Protocol("a frame of a server is masked")),
            (Role::Client, &[0xc1, 0x00], Fault::Protocol("reserved bits are set, and no extension was agreed to")),
            (Role::Client, &[0x83, 0x00], Fault::Protocol("a frame of a kind that is not known")),
            (Role::Client, &[0x8b, 0x00], Fault::Protocol("a frame of a kind that is not known")),
            (Role::Client, &[0x09, 0x00], Fault::Protocol("a control frame is fragmented")),
            (Role::Client, &[0x89, 0x7e, 0x00, 0x7e], Fault::Protocol("a control frame is longer than 125 bytes")),
            (Role::Client, &[0x80, 0x00], Fault::Protocol("a frame goes on with a message that was not begun")),
            (Role::Client, &[0x01, 0x00, 0x81, 0x00], Fault::Protocol("a message begins within another one")),
            (Role::Client, &[0x88, 0x01, 0x03], Fault::Protocol("a close frame has half a code")),
            (Role::Client, &[0x88, 0x02, 0x03, 0xed], Fault::Protocol("a close frame has a code that must not be sent")),
            (Role::Client, &[0x81, 0x01, 0xff], Fault::NotUtf8),
            (Role::Client, &[0x81, 0x7f, EIGHT[0], EIGHT[1], EIGHT[2], EIGHT[3], 0, 0, 0, 0], Fault::TooLarge(1 << 40)),
            (Role::Client, &[0x82, 0x06], Fault::TooLarge(6)),
            (Role::Client, &[0x01, 0x03, b'a', b'b', b'c', 0x00, 0x03], Fault::TooLarge(6)),
        ];
        for (role, bytes, fault) in table {
            assert_eq!(all(role, 5, bytes), Err(fault));
        }
    }

    #[test]
    fn a_long_word_of_farewell_is_cut_between_characters() {
        let mut bytes = Vec::new();
        encode_close(&mut bytes, Some((CloseCode::SIZE, &"é".repeat(100))), None);
        let said = (CloseCode::SIZE, "é".repeat(61));
        assert_eq!(all(Role::Client, 0, &bytes), Ok(vec![Frame::Close(Some(said))]));
    }
}
