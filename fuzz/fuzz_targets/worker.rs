//! What a worker says: an answer, output or a message, or it is refused in words; what is asked of one is one line, whatever it is made of.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::message::Params;
use ws_daemon_protocol::worker::{Asked, Said};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Said::parse(text) {
        Err(fault) => assert!(!fault.is_empty()),
        Ok(Said::Answer(answer)) => {
            if let Some(result) = answer.result {
                serde_json::from_str::<&RawValue>(result).expect("a result is JSON");
            }
        }
        Ok(Said::Output(_) | Said::Message) => {}
    }
    let raw = serde_json::from_str::<&RawValue>(text).ok();
    let (run, params) = (RunId::new("r"), Params::new(raw));
    let asked = Asked { run: &run, name: text, params: &params, peer: text, caller: None, deadline: None, trace: None };
    let mut line = String::new();
    asked.write(&mut line);
    assert_eq!(line.find('\n'), Some(line.len() - 1));
    serde_json::from_str::<&RawValue>(&line).expect("a line is JSON");
});
