//! Any config.json, from what was written to what is meant: a fault has words, and what is taken keeps to its own bounds.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ws_daemon::config::{Settings, Sources, Written};

fuzz_target!(|text: &str| {
    let written = match Written::parse(Path::new("config.json"), text) {
        Ok(written) => written,
        Err(fault) => {
            assert!(!fault.to_string().is_empty());
            // The place that it points at must be there.
            let mut said = String::new();
            let handler = miette::NarratableReportHandler::new();
            handler.render_report(&mut said, fault.as_ref()).expect("a String takes all");
            return;
        }
    };
    let sources = Sources { prefix: ("/p".into(), Default::default()), file: Some(written), ..Sources::default() };
    match Settings::resolve(&sources) {
        Err(fault) => assert!(!fault.to_string().is_empty()),
        Ok((settings, rows)) => {
            assert!(settings.limits.runs >= 1 && !settings.times.ping.is_zero());
            rows.iter().for_each(|row| assert!(!row.name.is_empty() && !row.shown().contains('\u{0}')));
        }
    }
});
