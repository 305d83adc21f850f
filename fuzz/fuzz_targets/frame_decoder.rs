//! Any text as a link's frame: what is taken as a run goes out again as a frame that is taken the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_daemon_protocol::codec::seed::{self, Frame};
use ws_daemon_protocol::id::{CallerId, RunId};

fuzz_target!(|text: &str| {
    if let Ok(Frame::Run { name, id, params }) = seed::decode(text, 64) {
        let id = id.unwrap_or_else(|| CallerId::from(&RunId::new("run")));
        let again = seed::decode(&seed::run(&name, &id, &params), 64).expect("our own frame is taken");
        assert_eq!(again, Frame::Run { name, id: Some(id), params });
    }
});
