//! An invitation's code: one line that holds where to join, under which name, by which secret and whom to trust there. It knows
//! nobody's register, and dials nobody.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// The longest code, in bytes.
pub const CODE_BYTES: usize = 2048;

/// How a code of this version begins.
const PREFIX: &str = "wsd1.";

/// What a code says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Where the server is: one of these.
    #[serde(rename = "u")]
    pub urls: Vec<String>,
    /// The name that is offered.
    #[serde(rename = "n")]
    pub name: String,
    /// What is traded for a token.
    #[serde(rename = "s")]
    pub secret: String,
    /// The pin of the server's root: the SHA-256 of its public key, if it is not one of those that every system knows.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation").field("urls", &self.urls).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a text is no code. The words say what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCode {
    /// It does not begin like one.
    #[error("this is no invitation: a code begins with {PREFIX} and is the one line that \"ws-daemon invite NAME\" printed")]
    NoCode,
    /// It is of another version.
    #[error("this invitation was made by a later version of ws-daemon: use that version here too")]
    Later,
    /// It is too long.
    #[error("this is no invitation: a code has at most {CODE_BYTES} bytes")]
    TooLong,
    /// Its end is missing.
    #[error("the code is cut off: copy the whole line that \"ws-daemon invite\" printed, to its end")]
    Cut,
    /// Something in it is not as it was.
    #[error("the code is mistyped: copy it as one line, exactly as \"ws-daemon invite\" printed it")]
    Mistyped,
}

impl Invitation {
    /// The code.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn encode(&self) -> Result<String, BadCode> {
        let mut bytes = serde_json::to_vec(self).map_err(|_| BadCode::Mistyped)?;
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        let code = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
        if code.len() > CODE_BYTES { Err(BadCode::TooLong) } else { Ok(code) }
    }

    /// Reads a code; white space that a terminal or a mail put into it is passed over.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(text: &str) -> Result<Self, BadCode> {
        if text.len() > 2 * CODE_BYTES {
            return Err(BadCode::TooLong);
        }
        let code: String = text.split_whitespace().collect();
        let Some(body) = code.strip_prefix(PREFIX) else {
            let version = code.strip_prefix("wsd").and_then(|rest| rest.split_once('.')).map(|(version, _)| version);
            let is_later =
                version.is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()));
            return Err(if is_later { BadCode::Later } else { BadCode::NoCode });
        };
        if code.len() > CODE_BYTES {
            return Err(BadCode::TooLong);
        }
        // One character more or less than bytes have: what is left of it tells which fault it is.
        let whole = if body.len() % 4 == 1 { &body[..body.len() - usize::from(body.is_ascii())] } else { body };
        let lax = base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
            .with_decode_allow_trailing_bits(true);
        let lax = base64::engine::GeneralPurpose::new(&base64::alphabet::URL_SAFE, lax);
        let bytes = lax.decode(whole).map_err(|_| BadCode::Mistyped)?;
        let (json, sum) = bytes.split_last_chunk::<4>().map_or((&bytes[..], None), |(json, sum)| (json, Some(sum)));
        let is_whole = sum.is_some_and(|sum| crc32fast::hash(json).to_be_bytes() == *sum);
        // The same bytes have one code only.
        if !is_whole || BASE64_URL_SAFE_NO_PAD.encode(&bytes) != body {
            let rest = serde_json::Deserializer::from_slice(&bytes).into_iter::<Self>().next();
            let is_cut = match rest {
                Some(Err(error)) => error.is_eof(),
                // All of it, and less than the sum behind it.
                Some(Ok(whole)) => serde_json::to_vec(&whole).is_ok_and(|json| bytes.len() < json.len() + 4),
                None => true,
            };
            return Err(if is_cut { BadCode::Cut } else { BadCode::Mistyped });
        }
        serde_json::from_slice(json).map_err(|_| BadCode::Mistyped)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Invitation {
        let (name, secret) = ("web-1".into(), "YWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJjYWJjYWI".into());
        Invitation { urls: vec!["wss://hub.example.org:3006/".into()], name, secret, pin: Some("cGlu".into()) }
    }

    #[test]
    fn a_code_is_one_line_and_says_what_went_into_it() {
        let code = sample().encode().expect("short");
        assert!(code.starts_with("wsd1.") && code.len() < 250, "{code}");
        assert!(code.chars().all(|char| char.is_ascii_alphanumeric() || "._-".contains(char)), "{code}");
        assert_eq!(Invitation::decode(&code), Ok(sample()));
        let wrapped = format!(" {}\n  {}\r\n", &code[..40], &code[40..]);
        assert_eq!(Invitation::decode(&wrapped), Ok(sample()));
        assert!(!format!("{:?}", sample()).contains(&sample().secret));
    }

    #[test]
    fn what_is_no_code_is_told_by_what_it_is() {
        let code = sample().encode().expect("short");
        for length in PREFIX.len()..code.len() {
            assert_eq!(Invitation::decode(&code[..length]), Err(BadCode::Cut), "{length}");
        }
        for at in PREFIX.len()..code.len() {
            let mut bytes = code.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let mistyped = String::from_utf8(bytes).expect("ASCII");
            assert!(Invitation::decode(&mistyped).is_err(), "{mistyped}");
        }
        let long = "A".repeat(CODE_BYTES);
        let table = [
            ("", BadCode::NoCode),
            ("hello", BadCode::NoCode),
            ("wsdx.abc", BadCode::NoCode),
            ("wsd2.abc", BadCode::Later),
            (&format!("{code}AAAA"), BadCode::Mistyped),
            (&format!("{code}="), BadCode::Mistyped),
            (&format!("wsd1.{long}"), BadCode::TooLong),
            (&format!("wsd1.{long}{long}"), BadCode::TooLong),
            ("wsd1.é", BadCode::Mistyped),
        ];
        for (text, expected) in table {
            assert_eq!(Invitation::decode(text), Err(expected), "{text}");
        }
        let far = Invitation { urls: vec![format!("ws://{long}")], ..sample() };
        assert_eq!(far.encode(), Err(BadCode::TooLong));
    }

    proptest! {
        #[test]
        fn any_invitation_comes_back_and_any_text_is_survived(
            urls in proptest::collection::vec(".{0,40}", 0..3), name in ".{0,40}", secret in "[A-Za-z0-9_-]{43}",
            pin in proptest::option::of("[A-Za-z0-9_-]{43}"), text in "(wsd1\\.)?.{0,60}",
        ) {
            let invitation = Invitation { urls, name, secret, pin };
            let code = invitation.encode().expect("short");
            prop_assert_eq!(Invitation::decode(&code), Ok(invitation));
            if let Ok(found) = Invitation::decode(&text) {
                prop_assert!(found.encode().is_ok());
            }
        }
    }
}
