//! A line that somebody pastes: it is an invitation or it is refused in words, and what is an invitation is written as it was read.

#![no_main]

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use ws_daemon::invitation::Invitation;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    // Any text; or any bytes as they stand within a code, whose sum no fuzzer would guess.
    let text = if kind % 2 == 0 {
        String::from_utf8_lossy(rest).into_owned()
    } else {
        let summed = [rest, &crc32fast::hash(rest).to_be_bytes()].concat();
        format!("wsd1.{}", BASE64_URL_SAFE_NO_PAD.encode(summed))
    };
    match Invitation::decode(&text) {
        Err(fault) => assert!(!fault.to_string().is_empty()),
        Ok(invitation) => {
            let again = invitation.encode().expect("what was decoded fits a line");
            assert_eq!(Invitation::decode(&again).ok().as_ref(), Some(&invitation));
        }
    }
});
