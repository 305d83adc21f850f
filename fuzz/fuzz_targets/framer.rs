//! Any bytes in any pieces: what the framer takes for messages is the same however the stream was cut, as long as nothing is
//! wrong with it, and every message is one JSON object within the limits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_daemon_protocol::codec::framer::{Frame, Framer, check_whole};
use ws_daemon_protocol::message::Message;

const LIMIT_BYTES: usize = 512;
const NESTING: usize = 16;

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Frame> {
    let mut framer = Framer::new(LIMIT_BYTES, NESTING);
    let mut found = Vec::new();
    for piece in pieces {
        framer.push(piece);
        found.extend(std::iter::from_fn(|| framer.next()));
    }
    found
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = frames(std::iter::once(bytes));
    let cut = frames(bytes.chunks(usize::from(step) + 1));
    if whole.iter().chain(&cut).all(|frame| matches!(frame, Frame::Message(_))) {
        assert_eq!(whole, cut);
    }
    for frame in &whole {
        if let Frame::Message(text) = frame {
            assert!(text.len() <= LIMIT_BYTES && check_whole(text, NESTING).is_ok());
            drop(Message::parse(text));
        }
    }
});
