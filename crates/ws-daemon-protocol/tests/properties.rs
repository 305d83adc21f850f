//! What must hold for any input: the way a stream was cut changes nothing, compaction changes nothing but white space outside
//! strings, and nothing that is read can panic.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use ws_daemon_protocol::codec::compact::compact;
use ws_daemon_protocol::codec::framer::{Frame, Framer};
use ws_daemon_protocol::codec::seed;
use ws_daemon_protocol::codec::websocket::{self, Decoder, Opcode, Role, encode};
use ws_daemon_protocol::message::{Message, Params};

const LIMIT_BYTES: usize = 1 << 20;
const NESTING: usize = 32;

/// Any JSON value, as text with its own choice of white space, escapes and number forms.
fn json_text() -> impl Strategy<Value = String> {
    let blank = || "[ \t\r\n]{0,2}";
    let text = || {
        let plain = "[ -!#-\\[\\]-~é€𝄞\u{7f}]{0,6}".prop_map(String::from);
        let escaped = prop_oneof![
            Just("\\\"".to_owned()),
            Just("\\\\".to_owned()),
            Just("\\/".to_owned()),
            Just("\\n".to_owned()),
            "\\\\u[0-9a-fA-F]{4}".prop_map(String::from),
        ];
        vec(prop_oneof![plain, escaped], 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
    };
    let number = prop_oneof![
        "-?(0|[1-9][0-9]{0,20})".prop_map(String::from),
        "-?(0|[1-9][0-9]{0,3})\\.[0-9]{1,4}".prop_map(String::from),
        "-?[1-9](\\.[0-9]{1,2})?[eE][+-]?[0-9]{1,2}".prop_map(String::from),
    ];
    let literal = prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(str::to_owned);
    let leaf = prop_oneof![text(), number, literal];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        let item = (blank(), inner.clone(), blank()).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let member = (blank(), text(), blank(), item.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// Any JSON object, as text.
fn object_text() -> impl Strategy<Value = String> {
    vec(("[a-z]{1,6}", json_text()), 0..4).prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(key, value)| format!(" \"{key}\" :{value}")).collect();
        format!("{{{}\n}}", members.join(","))
    })
}

/// All that a framer finds when the bytes come in pieces of these lengths, and then the rest.
fn frames(bytes: &[u8], pieces: &[usize]) -> Vec<Frame> {
    let mut framer = Framer::new(LIMIT_BYTES, NESTING);
    let mut found = Vec::new();
    let mut rest = bytes;
    for length in pieces.iter().copied().chain([usize::MAX]) {
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        framer.push(piece);
        found.extend(std::iter::from_fn(|| framer.next()));
    }
    found
}

/// All messages that come when the bytes come in pieces of these lengths, and then the rest.
fn heard(role: Role, bytes: &[u8], pieces: &[usize]) -> Result<Vec<websocket::Frame>, websocket::Fault> {
    let mut decoder = Decoder::new(role, LIMIT_BYTES);
    let (mut found, mut rest) = (Vec::new(), bytes);
    for length in pieces.iter().copied().chain([usize::MAX]) {
        let (mut piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        while let Some(frame) = decoder.next(&mut piece)? {
            found.push(frame);
        }
    }
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_objects_under_any_split_are_the_same_messages(
        objects in vec((object_text(), "[ \n\r\t]{0,3}"), 1..8),
        pieces in vec(0_usize..24, 0..64),
    ) {
        let stream = objects.iter().map(|(object, blank)| [object.as_str(), blank].concat()).collect::<Vec<_>>().concat();
        let expected: Vec<Frame> = objects.iter().map(|(object, _)| Frame::Message(object.clone())).collect();
        prop_assert_eq!(&frames(stream.as_bytes(), &[]), &expected);
        prop_assert_eq!(&frames(stream.as_bytes(), &pieces), &expected);
        prop_assert_eq!(&frames(stream.as_bytes(), &vec![1; stream.len()]), &expected);
    }

    #[test]
    fn the_framer_agrees_with_serde_on_what_an_object_is(objects in vec(object_text(), 1..6)) {
        let stream = objects.concat();
        let theirs = serde_json::Deserializer::from_str(&stream).into_iter::<&serde_json::value::RawValue>();
        let theirs: Vec<Frame> = theirs.map(|value| Frame::Message(value.expect("generated as JSON").get().to_owned())).collect();
        prop_assert_eq!(frames(stream.as_bytes(), &[]), theirs);
    }

    #[test]
    fn a_byte_that_serde_refuses_is_refused_and_nothing_else_is(object in object_text(), at in 0_usize..200, byte in any::<u8>()) {
        let mut bytes = object.into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let ours = matches!(frames(&bytes, &[]).as_slice(), [Frame::Message(text)] if text.len() == bytes.trim_ascii().len());
        // serde takes what is in strings only as far as it decodes it; a raw value keeps lone surrogates, as ours does.
        let theirs = std::str::from_utf8(&bytes).is_ok_and(|text| {
            text.trim_start_matches([' ', '\n', '\t', '\r']).starts_with('{')
                && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
        });
        prop_assert_eq!(ours, theirs, "{}", bytes.escape_ascii());
    }

    #[test]
    fn compaction_drops_white_space_outside_strings_and_nothing_else(text in json_text()) {
        let compacted = compact(&text);
        let mut inside = false;
        let mut escaped = false;
        let expected: String = text.chars().filter(|char| {
            let kept = inside || !matches!(char, ' ' | '\t' | '\n' | '\r');
            (inside, escaped) = match (inside, escaped, char) {
                (true, false, '\\') => (true, true),
                (true, false, '"') => (false, false),
                (false, _, '"') => (true, false),
                _ => (inside, false),
            };
            kept
        }).collect();
        prop_assert_eq!(&*compacted, expected.as_str());
        prop_assert_eq!(compact(&compacted).into_owned(), expected);
    }

    #[test]
    fn params_go_through_a_frame_untouched(text in json_text()) {
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str(&text).expect("generated as JSON");
        let params = Params::new(Some(&raw));
        let id = (&ws_daemon_protocol::id::RunId::new("r")).into();
        let frame = seed::run("t", &id, &params);
        match seed::decode(&frame, 128) {
            Ok(seed::Frame::Run { params: found, .. }) => prop_assert_eq!(found.as_written(), text.trim()),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn no_bytes_make_the_framer_lose_its_place(noise in vec(any::<u8>(), 0..64), pieces in vec(0_usize..8, 0..16)) {
        let mut bytes = noise;
        // Whatever the noise had begun is ended, in one way or another, before the last newline.
        bytes.extend_from_slice(b"\n}\"}]\n{\"after\":1}");
        prop_assert!(!frames(&bytes, &pieces).is_empty());
        let found = frames(&bytes, &[]);
        prop_assert_eq!(found.last(), Some(&Frame::Message("{\"after\":1}".to_owned())));
    }

    #[test]
    fn no_text_makes_a_decoder_panic(text in ".{0,80}") {
        drop(seed::decode(&text, NESTING));
        drop(Message::parse(&text));
    }

    #[test]
    fn an_id_keeps_its_key_when_a_peer_rewrites_it(text in json_text()) {
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str(&text).expect("generated as JSON");
        let id = ws_daemon_protocol::id::CallerId::new(&raw).expect("short");
        // What a peer does that reads and writes JSON, if it can read it at all.
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let rewritten = serde_json::value::to_raw_value(&value).expect("a value is JSON");
            let again = ws_daemon_protocol::id::CallerId::new(&rewritten).expect("short");
            prop_assert_eq!(id.key(), again.key());
        }
    }

    #[test]
    fn a_message_is_heard_as_it_was_said_in_whatever_pieces_it_comes(
        texts in vec("[ -~é€𝄞]{0,200}", 0..8),
        mask in any::<Option<[u8; 4]>>(),
        pieces in vec(0_usize..40, 0..40),
    ) {
        let mut bytes = Vec::new();
        for text in &texts {
            encode(&mut bytes, Opcode::Text, text.as_bytes(), mask);
        }
        let role = if mask.is_some() { Role::Server } else { Role::Client };
        let frames = texts.into_iter().map(websocket::Frame::Text).collect();
        prop_assert_eq!(heard(role, &bytes, &pieces), Ok(frames));
    }

    #[test]
    fn any_bytes_are_heard_alike_in_whatever_pieces_they_come(bytes in vec(any::<u8>(), 0..200), pieces in vec(0_usize..9, 0..60)) {
        for role in [Role::Server, Role::Client] {
            prop_assert_eq!(heard(role, &bytes, &pieces), heard(role, &bytes, &[]));
        }
    }
}
