//! The time of a line, as the subscriber's own clock writes it: that is asked once a second, and in between only the fraction is put
//! behind what it said. It knows no calendar.

use std::cell::Cell;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{self, FormatTime};

/// `2026-01-31T12:34:56.`, and behind it six digits and `Z`.
const SECOND_BYTES: usize = 20;

const TIME_BYTES: usize = SECOND_BYTES + 7;

/// The clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock;

thread_local! {
    /// A second since 1970, and a time in it.
    static LAST: Cell<(u64, [u8; TIME_BYTES])> = const { Cell::new((u64::MAX, [0; TIME_BYTES])) };
}

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (second, mut text) = LAST.get();
        if now.as_secs() != second {
            return ask(now.as_secs(), writer);
        }
        put_fraction(&mut text, now.subsec_micros());
        writer.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

/// Writes the time, and keeps it if it is of this second still.
fn ask(second: u64, writer: &mut Writer<'_>) -> fmt::Result {
    let mut text = String::with_capacity(TIME_BYTES);
    time::SystemTime.format_time(&mut Writer::new(&mut text))?;
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // From the year 10000 on it is longer.
    if let (Ok(text), true) = (text.as_bytes().try_into(), after.as_secs() == second) {
        LAST.set((second, text));
    }
    writer.write_str(&text)
}

fn put_fraction(text: &mut [u8; TIME_BYTES], micros: u32) {
    let mut left = micros;
    for digit in text[SECOND_BYTES..TIME_BYTES - 1].iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(clock: &impl FormatTime) -> String {
        let mut text = String::new();
        clock.format_time(&mut Writer::new(&mut text)).expect("text takes all");
        text
    }

    #[test]
    fn it_goes_as_the_subscribers_own_does() {
        // Of the first it is asked, of the second not: all lie between two times of the other clock, and look like them.
        for _ in 0..3 {
            let (before, first, second, after) = (now(&time::SystemTime), now(&Clock), now(&Clock), now(&time::SystemTime));
            assert!(before <= first && first <= second && second <= after, "{before} {first} {second} {after}");
            assert!([&first, &second].iter().all(|text| text.len() == TIME_BYTES && text.ends_with('Z')), "{first} {second}");
        }
    }

    #[test]
    fn a_fraction_has_six_digits() {
        for (micros, shown) in [(0, "000000"), (7, "000007"), (120_030, "120030"), (999_999, "999999")] {
            let mut text = *b"2026-01-31T12:34:56.123456Z";
            put_fraction(&mut text, micros);
            assert_eq!(str::from_utf8(&text), Ok(&*format!("2026-01-31T12:34:56.{shown}Z")));
        }
    }
}
