//! What the system says of this process: the time it took, the memory and the descriptors it has. Read when asked for, and kept
//! nowhere.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What a process takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Time on processors, in user and in system mode.
    pub cpu_seconds: f64,
    /// Memory that is resident.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// How many there may be; `None`: any number.
    pub max_fds: Option<u64>,
    /// Its threads.
    pub threads: u64,
    /// When it was started, in seconds since 1970.
    pub started: f64,
}

/// Those of this process, as Linux tells them; `None` elsewhere.
#[must_use]
pub fn figures() -> Option<Figures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    parse(&stat, booted, clock_ticks_per_second(), page_size() as u64)
}

/// What stands in /proc/PID/stat, by proc(5).
#[expect(clippy::cast_precision_loss, reason = "ticks and seconds are far below 2⁵³")]
fn parse(stat: &str, booted: u64, ticks: u64, page_bytes: u64) -> Option<Figures> {
    // The name of the program may hold anything, brackets too.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<u64> = fields.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    // Without the number, the name and the state: field 4 of the page is the first.
    let field = |number: usize| fields.get(number - 4).copied();
    let seconds = |ticks_of: u64| ticks_of as f64 / ticks.max(1) as f64;
    Some(Figures {
        cpu_seconds: seconds(field(14)? + field(15)?),
        threads: field(20)?,
        started: booted as f64 + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page_bytes,
        open_fds: open_fds(),
        max_fds: getrlimit(Resource::Nofile).current,
    })
}

/// Since Linux 6.2 the folder's size is their number; before, they are counted.
fn open_fds() -> u64 {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).map(|folder| folder.len()) {
        Ok(number @ 1..) => number,
        // Without the one that is open to count them.
        _ => fs::read_dir(FOLDER).map_or(0, |entries| entries.count().saturating_sub(1) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_behind_the_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1000 4096000 500 18446744073709551615 0";
        let figures = parse(stat, 1_000_000, 100, 4096).expect("it is one");
        assert_eq!(
            (figures.cpu_seconds.to_bits(), figures.threads, figures.started.to_bits()),
            (3.0_f64.to_bits(), 7, 1_000_010.0_f64.to_bits())
        );
        assert_eq!((figures.virtual_bytes, figures.resident_bytes), (4_096_000, 500 * 4096));
        assert_eq!(parse("42 (a) S 1", 0, 100, 4096), None);
        assert_eq!(parse("", 0, 100, 4096), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = figures().expect("there is a /proc");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!(figures.resident_bytes > 1 << 20 && figures.open_fds > 2 && figures.threads > 0, "{figures:?}");
        assert!(figures.started > now - 86_400.0 && figures.started < now + 60.0, "{figures:?}");
    }
}
