//! Times as people read them: how long ago, what the clock said, how long it took. It reads the clock only where it says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, now.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How long ago a time is, both in milliseconds since 1970: `3 min ago`.
#[must_use]
pub fn ago(then_ms: i64, now_ms: i64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0 => "just now".to_owned(),
        1.. => format!("{} ago", span(seconds)),
        _ => format!("in {}", span(-seconds)),
    }
}

fn span(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// What the clock said, in UTC: `2026-11-22 23:47:47 UTC`.
#[must_use]
pub fn clock(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

/// The Gregorian date of a day since 1970, by Howard Hinnant's algorithm: years begin in March, so that the odd day is last.
fn date(days: i64) -> (i64, i64, i64) {
    // No year that anyone will see; beyond it the sums below would not fit.
    let days = days.clamp(-719_468, 100_000_000) + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * march + 2) / 5 + 1)
}

/// How long something took: `412 µs`, `1.2 ms`, `3.4 s`.
#[must_use]
pub fn took(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        ..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{}.{} ms", us / 1000, us / 100 % 10),
        _ => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
    }
}

/// So many bytes: `812 B`, `1.2 KiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024),
        _ => format!("{}.{} MiB", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_read_them() {
        for (before, expected) in [
            (0, "just now"),
            (999, "just now"),
            (5_000, "5 s ago"),
            (200_000, "3 min ago"),
            (7_300_000, "2 h ago"),
            (400_000_000, "4 d ago"),
            (-60_000, "in 1 min"),
        ] {
            assert_eq!(ago(1_000_000_000_000 - before, 1_000_000_000_000), expected);
        }
        assert_eq!(ago(i64::MIN, i64::MAX), format!("{} d ago", i64::MAX / 1000 / 86_400));
        for (ms, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_795_391_267_123, "2026-11-22 23:47:47 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(clock(ms), expected);
        }
        assert!(clock(i64::MAX).ends_with("UTC") && clock(i64::MIN).ends_with("UTC"));
        for (us, expected) in [(412, "412 µs"), (1_249, "1.2 ms"), (3_400_000, "3.4 s")] {
            assert_eq!(took(Duration::from_micros(us)), expected);
        }
        for (bytes, expected) in [(812, "812 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(size(bytes), expected);
        }
    }
}
