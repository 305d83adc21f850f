//! An incremental checker of JSON syntax: one byte in, one verdict out.
//!
//! It finds where one JSON object ends in a stream that has no separators, and finds the first byte that cannot belong to
//! one. It keeps no text and never decodes a value; memory is one byte for each level of nesting, up to the limit.
//!
//! Grammar: RFC 8259. Strings must be UTF-8 (RFC 3629, table 3-7 of the Unicode standard); the top level must be an object.

use std::fmt;

/// What one more byte meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The object goes on.
    More,
    /// This byte ended the object.
    Done,
}

/// Why a byte cannot stand where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntaxError {
    /// Something other than `what` was found.
    Expected(&'static str),
    /// A raw control character inside a string (RFC 8259, section 7).
    ControlCharacter,
    /// A byte that no UTF-8 text has at this place.
    NotUtf8,
    /// Deeper than the limit, which is given.
    TooDeep(usize),
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expected(what) => write!(f, "expected {what}"),
            Self::ControlCharacter => f.write_str("a control character in a string must be escaped"),
            Self::NotUtf8 => f.write_str("text is not UTF-8"),
            Self::TooDeep(limit) => write!(f, "nested deeper than {limit} levels"),
        }
    }
}

impl std::error::Error for SyntaxError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    KeyOrEnd,
    Key,
    Colon,
    Value,
    ValueOrEnd,
    AfterValue,
    Text,
    Escape,
    Hex(u8),
    /// Inside a multi-byte character: bytes still to come, and the range that the next one must be in.
    Utf8 {
        left: u8,
        low: u8,
        high: u8,
    },
    Number(Number),
    Literal(&'static [u8]),
}

/// The checker. After [`Step::Done`] or an error it must be [reset](Self::reset) before the next byte.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    open: Vec<Container>,
    text_is_key: bool,
    nesting: usize,
}

impl Scanner {
    /// A checker that takes objects nested at most `nesting` levels deep (the outermost object is level 1).
    #[must_use]
    pub fn new(nesting: usize) -> Self {
        Self { state: State::Start, open: Vec::new(), text_is_key: false, nesting }
    }

    /// Forgets what was read, for the next object.
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.open.clear();
    }

    /// Whether a first byte has been read of an object that has not ended.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.state != State::Start
    }

    /// Reads bytes until an object ends, one is wrong, or there are no more. Returns how many bytes stand before what was
    /// found: on `Ok((n, Step::Done))` byte `n - 1` was the closing brace, on `Err((n, _))` byte `n` is the wrong one.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, Step), (usize, SyntaxError)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Text {
                at += plain_text(&bytes[at..]);
                if at == bytes.len() {
                    break;
                }
            }
            match self.step(bytes[at]) {
                Ok(Step::More) => at += 1,
                Ok(Step::Done) => return Ok((at + 1, Step::Done)),
                Err(error) => return Err((at, error)),
            }
        }
        Ok((at, Step::More))
    }

    fn step(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        match self.state {
            State::Text => self.text(byte),
            State::Escape => self.escape(byte),
            State::Hex(left) => self.hex(left, byte),
            State::Utf8 { left, low, high } => self.continuation(left, low, high, byte),
            State::Number(part) => self.number(part, byte),
            State::Literal(rest) => self.literal(rest, byte),
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => Ok(Step::More),
            _ => self.structure(byte),
        }
    }

    fn structure(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        match (self.state, byte) {
            (State::Start, b'{') => self.enter(Container::Object),
            (State::Start, _) => Err(SyntaxError::Expected("a JSON object, that is '{'")),
            (State::KeyOrEnd | State::Key, b'"') => {
                self.text_is_key = true;
                self.go(State::Text)
            }
            (State::KeyOrEnd, b'}') | (State::ValueOrEnd, b']') => Ok(self.leave()),
            (State::KeyOrEnd, _) => Err(SyntaxError::Expected("a key in double quotes or '}'")),
            (State::Key, _) => Err(SyntaxError::Expected("a key in double quotes")),
            (State::Colon, b':') => self.go(State::Value),
            (State::Colon, _) => Err(SyntaxError::Expected("':' after the key")),
            (State::AfterValue, _) => self.after_value(byte),
            _ => self.value(byte),
        }
    }

    fn value(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        match byte {
            b'{' => self.enter(Container::Object),
            b'[' => self.enter(Container::Array),
            b'"' => {
                self.text_is_key = false;
                self.go(State::Text)
            }
            b'-' => self.go(State::Number(Number::Minus)),
            b'0' => self.go(State::Number(Number::Zero)),
            b'1'..=b'9' => self.go(State::Number(Number::Digits)),
            b't' => self.go(State::Literal(b"rue")),
            b'f' => self.go(State::Literal(b"alse")),
            b'n' => self.go(State::Literal(b"ull")),
            _ => Err(SyntaxError::Expected("a value")),
        }
    }

    fn after_value(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        match (self.open.last(), byte) {
            (Some(Container::Object), b',') => self.go(State::Key),
            (Some(Container::Array), b',') => self.go(State::Value),
            (Some(Container::Object), b'}') | (Some(Container::Array), b']') => Ok(self.leave()),
            (Some(Container::Array), _) => Err(SyntaxError::Expected("',' or ']'")),
            _ => Err(SyntaxError::Expected("',' or '}'")),
        }
    }

    fn go(&mut self, state: State) -> Result<Step, SyntaxError> {
        self.state = state;
        Ok(Step::More)
    }

    fn enter(&mut self, container: Container) -> Result<Step, SyntaxError> {
        if self.open.len() == self.nesting {
            return Err(SyntaxError::TooDeep(self.nesting));
        }
        self.open.push(container);
        self.go(match container {
            Container::Object => State::KeyOrEnd,
            Container::Array => State::ValueOrEnd,
        })
    }

    fn leave(&mut self) -> Step {
        self.open.pop();
        self.state = State::AfterValue;
        if self.open.is_empty() { Step::Done } else { Step::More }
    }

    fn text(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        match byte {
            b'"' if self.text_is_key => self.go(State::Colon),
            b'"' => self.go(State::AfterValue),
            b'\\' => self.go(State::Escape),
            0x00..=0x1f => Err(SyntaxError::ControlCharacter),
            0x20..=0x7f => Ok(Step::More),
            _ => self.lead(byte),
        }
    }

    /// The first byte of a multi-byte character (Unicode standard, table 3-7).
    fn lead(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        let (left, low, high) = match byte {
            0xc2..=0xdf => (1, 0x80, 0xbf),
            0xe0 => (2, 0xa0, 0xbf),
            0xe1..=0xec | 0xee..=0xef => (2, 0x80, 0xbf),
            0xed => (2, 0x80, 0x9f),
            0xf0 => (3, 0x90, 0xbf),
            0xf1..=0xf3 => (3, 0x80, 0xbf),
            0xf4 => (3, 0x80, 0x8f),
            _ => return Err(SyntaxError::NotUtf8),
        };
        self.go(State::Utf8 { left, low, high })
    }

    fn continuation(&mut self, left: u8, low: u8, high: u8, byte: u8) -> Result<Step, SyntaxError> {
        if !(low..=high).contains(&byte) {
            return Err(SyntaxError::NotUtf8);
        }
        self.go(if left == 1 { State::Text } else { State::Utf8 { left: left - 1, low: 0x80, high: 0xbf } })
    }

    fn escape(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.go(State::Text),
            b'u' => self.go(State::Hex(4)),
            _ => Err(SyntaxError::Expected("one of \" \\ / b f n r t u after a backslash")),
        }
    }

    fn hex(&mut self, left: u8, byte: u8) -> Result<Step, SyntaxError> {
        if !byte.is_ascii_hexdigit() {
            return Err(SyntaxError::Expected("four hexadecimal digits after \\u"));
        }
        self.go(if left == 1 { State::Text } else { State::Hex(left - 1) })
    }

    fn number(&mut self, part: Number, byte: u8) -> Result<Step, SyntaxError> {
        use Number::{Digits, Exponent, ExponentDigits, ExponentSign, Fraction, Minus, Point, Zero};
        let next = match (part, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Digits, b'0'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Zero, b'0'..=b'9') => return Err(SyntaxError::Expected("no digit after a leading zero")),
            (Minus | Point | Exponent | ExponentSign, _) => return Err(SyntaxError::Expected("a digit")),
            // A number has no end of its own: the byte that does not belong to it belongs to what follows.
            (Zero | Digits | Fraction | ExponentDigits, _) => {
                self.state = State::AfterValue;
                return self.step(byte);
            }
        };
        self.go(State::Number(next))
    }

    fn literal(&mut self, rest: &'static [u8], byte: u8) -> Result<Step, SyntaxError> {
        match rest.split_first() {
            Some((&wanted, rest)) if wanted == byte => {
                self.go(if rest.is_empty() { State::AfterValue } else { State::Literal(rest) })
            }
            _ => Err(SyntaxError::Expected("a value")),
        }
    }
}

/// How many leading bytes are string text that needs no look of its own: the common case, kept tight.
fn plain_text(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte == b'"' || byte == b'\\' || !(0x20..0x80).contains(&byte)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &[u8]) -> Result<(usize, Step), (usize, SyntaxError)> {
        Scanner::new(4).advance(text)
    }

    #[test]
    fn whole_objects_end_at_their_brace() {
        let table: &[&[u8]] = &[
            b"{}",
            b" \n{ }",
            br#"{"a":1}"#,
            br#"{"a":[1,-0.5e+3,0,"x\"\u00e9\\",true,false,null,{}]}"#,
            "{\"é\":\"𝄞\"}".as_bytes(),
        ];
        assert!(!table.is_empty());
        for text in table {
            assert_eq!(verdict(text), Ok((text.len(), Step::Done)), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn the_first_impossible_byte_is_named() {
        let table: &[(&[u8], usize)] = &[
            (b"GET / HTTP/1.1", 0),
            (b"[1]", 0),
            (b"{a", 1),
            (br#"{"a" 1"#, 5),
            (br#"{"a":}"#, 5),
            (br#"{"a":01}"#, 6),
            (br#"{"a":1.}"#, 7),
            (br#"{"a":-}"#, 6),
            (br#"{"a":nul}"#, 8),
            (br#"{"a":1,}"#, 7),
            (br#"{"a":[1,]}"#, 8),
            (br#"{"a":[1}"#, 7),
            (br#"{"a":"\x"}"#, 7),
            (br#"{"a":"\u12g4"}"#, 10),
            (b"{\"a\":\"\n\"}", 6),
            (b"{\"a\":\"\xff\"}", 6),
            (b"{\"a\":\"\xc0\x80\"}", 6),
            (b"{\"a\":\"\xed\xa0\x80\"}", 7),
            (br#"{"a":{"b":{"c":{"d":{"#, 20),
            (br#"{"a":1 "b""#, 7),
        ];
        assert!(!table.is_empty());
        for (text, at) in table {
            assert_eq!(verdict(text).map_err(|(at, _)| at), Err(*at), "{}", text.escape_ascii());
        }
    }
}
