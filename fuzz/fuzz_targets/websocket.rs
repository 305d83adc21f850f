//! Any bytes in any pieces, at either end: what comes out of a stream of WebSocket frames is the same however it was cut, is within
//! the limit, and what was understood is understood again when it is said anew.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_daemon_protocol::codec::websocket::{Decoder, Fault, Frame, Opcode, Role, encode, encode_close};

const LIMIT_BYTES: usize = 300;
const MASK: [u8; 4] = [1, 2, 4, 8];

fn frames<'a>(role: Role, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<Fault>) {
    let mut decoder = Decoder::new(role, LIMIT_BYTES);
    let mut found = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(fault) => return (found, Some(fault)),
            }
        }
        assert!(piece.is_empty());
    }
    (found, None)
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (serves, step, bytes) = input;
    let role = if serves { Role::Server } else { Role::Client };
    let whole = frames(role, std::iter::once(bytes));
    assert_eq!(whole, frames(role, bytes.chunks(usize::from(step) + 1)));
    let mask = serves.then_some(MASK);
    for frame in whole.0 {
        assert!(frame.len() <= LIMIT_BYTES);
        let mut said = Vec::new();
        match &frame {
            Frame::Text(text) => encode(&mut said, Opcode::Text, text.as_bytes(), mask),
            Frame::Binary(bytes) => encode(&mut said, Opcode::Binary, bytes, mask),
            Frame::Ping(bytes) => encode(&mut said, Opcode::Ping, bytes, mask),
            Frame::Pong => encode(&mut said, Opcode::Pong, &[], mask),
            Frame::Close(words) => encode_close(&mut said, words.as_ref().map(|(code, words)| (*code, words.as_str())), mask),
        }
        assert_eq!(frames(role, std::iter::once(said.as_slice())), (vec![frame], None));
    }
});
