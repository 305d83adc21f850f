//! Any text as a frame of a version 2 link: what is taken goes out again as a frame that is taken the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_daemon_protocol::codec::v2::{self, Frame};

fn again(frame: &Frame) -> Option<String> {
    Some(match frame {
        Frame::Run(frame) => v2::run(&frame.name, &frame.run, &frame.params, &frame.order),
        Frame::Hello(hello) => v2::hello(hello),
        Frame::Status(frame) => v2::status(&(&frame.run).into(), frame.verdict, &frame.report),
        Frame::Event(run, progress) => v2::event(run, *progress),
        Frame::Output(chunk) => v2::output(chunk),
        Frame::Credit(run, bytes) => v2::credit(run, *bytes),
        Frame::Cancel(run, attempt) => v2::cancel(run, *attempt),
        Frame::Ack(run, attempt) => v2::ack(run, *attempt),
        Frame::Drain { restarts } => v2::drain(*restarts),
        Frame::Roots(roots) => v2::roots(roots),
        Frame::Ping(_) | Frame::Command(_) | Frame::LocalStatus(..) => return None,
    })
}

fuzz_target!(|text: &str| {
    if let Ok(frame) = v2::decode(text, 64)
        && let Some(text) = again(&frame)
    {
        assert_eq!(v2::decode(&text, 64), Ok(frame), "{text}");
    }
});
