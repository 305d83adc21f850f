//! What comes from afar, made fit for a terminal. A peer's name, a message, what a script prints may hold anything; none of it
//! may move the cursor, change colours, ring, or turn the order of what is read. It never changes what goes to a program.

use ws_daemon_protocol::codec::v2::moves;

/// Text that is to stand within one line: whatever could move something becomes a space.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|char| if moves(char) { ' ' } else { char }).collect()
}

/// What a script printed: as [`clean`], and lines stay lines, tabs stay tabs.
#[must_use]
pub fn clean_output(text: &str) -> String {
    text.chars().map(|char| if moves(char) && !matches!(char, '\n' | '\t') { ' ' } else { char }).collect()
}

/// JSON, which stays the same JSON: outside of strings it has nothing that moves, and inside there is an escape for it.
#[must_use]
pub fn clean_json(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for char in text.chars() {
        if moves(char) {
            clean.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            clean.push(char);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ESC, CSI, BEL, CR, backspace, DEL, all of C1, overrides, embeddings and isolates.
    fn movers() -> impl Iterator<Item = char> {
        let single = ['\u{1b}', '\u{7}', '\r', '\u{8}', '\u{7f}', '\0', '\u{b}', '\u{c}'];
        single.into_iter().chain('\u{80}'..='\u{9f}').chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}')
    }

    #[test]
    fn nothing_that_moves_is_left() {
        for char in movers() {
            let text = format!("a{char}[2Jb");
            assert_eq!(clean(&text), "a [2Jb", "{char:?}");
            assert_eq!(clean_output(&text), "a [2Jb", "{char:?}");
            assert_eq!(clean_json(&text), format!("a\\u{:04x}[2Jb", u32::from(char)), "{char:?}");
        }
        assert!(movers().count() > 40);
    }

    #[test]
    fn what_is_read_stays() {
        let text = "zażółć 漢字 🦀 עברית e\u{301}";
        assert_eq!((clean(text), clean_output(text), clean_json(text)), (text.into(), text.into(), text.into()));
        assert_eq!(clean("a\nb\tc"), "a b c");
        assert_eq!(clean_output("a\nb\tc\r\n"), "a\nb\tc \n");
        let json = "{\"a\":\"\u{9b}2J\u{202e}\"}";
        let kept: serde_json::Value = serde_json::from_str(&clean_json(json)).expect("it is still JSON");
        assert_eq!(kept, serde_json::from_str::<serde_json::Value>(json).expect("it is JSON"));
    }
}
