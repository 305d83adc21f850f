//! JSON text without the white space outside its strings. It never changes another byte: key order, numbers and escapes stay
//! as they were written.

use std::borrow::Cow;

/// Removes white space outside strings from `text`, which must be valid JSON.
#[must_use]
pub fn compact(text: &str) -> Cow<'_, str> {
    let Some(first) = next_blank(text.as_bytes(), 0) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    let mut blank = Some(first);
    while let Some(at) = blank {
        out.push_str(&text[from..at]);
        from = at + 1;
        blank = next_blank(text.as_bytes(), from);
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// The first white space outside strings at or behind `from`, which must not be inside a string.
fn next_blank(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b' ' | b'\t' | b'\n' | b'\r' => return Some(at),
            b'"' => at = string_end(bytes, at),
            _ => at += 1,
        }
    }
    None
}

/// The index behind the closing quote of the string that opens at `quote`.
fn string_end(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_outside_strings_goes() {
        let table = [
            ("{}", "{}"),
            (" { \"a b\" : [ 1.0 ,\t2 ] }\r\n", "{\"a b\":[1.0,2]}"),
            (r#"{"a\" ":" \\ " , "é" : 1e5}"#, r#"{"a\" ":" \\ ","é":1e5}"#),
            ("12345678901234567890", "12345678901234567890"),
        ];
        for (text, expected) in table {
            assert_eq!(compact(text), expected);
        }
        assert!(matches!(compact("{\"a\":\" \"}"), Cow::Borrowed(_)));
    }
}
