//! Any contract, and any params held against what it says: what is taken is shown, what is refused has words within a bound, and
//! whatever the schema is, an answer comes. The contract and the params stand on the two sides of the first NUL.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_daemon::exec::Contract;

fuzz_target!(|data: &[u8]| {
    let (text, params) = match data.iter().position(|byte| *byte == 0) {
        Some(nul) => (&data[..nul], &data[nul + 1..]),
        None => (data, &b"{\"a\":[1,\"x\"]}"[..]),
    };
    match Contract::parse(text) {
        Err(fault) => assert!(!fault.is_empty() && fault.chars().count() <= 1000, "{fault}"),
        Ok(contract) => {
            assert!(contract.shown().is_object());
            if let Ok(params) = std::str::from_utf8(params)
                && let Some(fault) = contract.fault_in(params)
            {
                assert!(contract.has_schema() && !fault.is_empty() && fault.chars().count() <= 1000, "{fault}");
            }
        }
    }
});
