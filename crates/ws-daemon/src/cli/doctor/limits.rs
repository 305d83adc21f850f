//! What the machine gives: files that may be open, room on the disk, watches of folders. It raises none of them.

use std::fs;

#[cfg(target_os = "linux")]
use rustix::fs::inotify;
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::Findings;
use crate::config::Settings;
use crate::daemon::open_files_wanted;
use crate::system::trust::quoted;

/// Less free room than this, in bytes, and nothing can be queued for long.
const LEAST_ROOM_BYTES: u64 = 64 << 20;

/// Looks at them for the daemon `pid`, or for one that would be started from here.
pub fn look(settings: &Settings, pid: Option<i32>, found: &mut Findings) {
    open_files(settings, pid, found);
    room(settings, found);
    watches(found);
}

/// The daemon sees by them that config.json or its certificates have changed.
#[cfg(target_os = "linux")]
fn watches(found: &mut Findings) {
    if let Err(error) = inotify::init(inotify::CreateFlags::CLOEXEC) {
        found.warn("watches", format!("no folder can be watched: {error}"), "sysctl fs.inotify.max_user_instances=512");
    }
}

/// Other systems watch without a limit of their own.
#[cfg(not(target_os = "linux"))]
fn watches(_: &mut Findings) {}

fn open_files(settings: &Settings, pid: Option<i32>, found: &mut Findings) {
    let of_daemon = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let most = match of_daemon.as_deref().and_then(hard_limit) {
        Some(most) => most,
        None => getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
    };
    let wanted = open_files_wanted(settings);
    if most < wanted {
        found.warn(
            "open files",
            format!("{most} files may be open, and all that \"limits\" in config.json lets in needs {wanted}"),
            format!("LimitNOFILE={wanted} in the unit (systemctl edit ws-daemon), or ulimit -Hn {wanted}, and a restart"),
        );
    } else {
        found.ok("open files", format!("{most} may be open, {wanted} are needed at most"));
    }
}

/// The hard limit of open files in `/proc/PID/limits`.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = line.split_whitespace().nth(1)?;
    if hard == "unlimited" { Some(u64::MAX) } else { hard.parse().ok() }
}

fn room(settings: &Settings, found: &mut Findings) {
    let Ok(disk) = statvfs(&settings.prefix) else { return };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let shown = format!("{} MiB are free below {}", free >> 20, settings.prefix.display());
    let mend = format!("du -xh {} | sort -h | tail", quoted(&settings.prefix));
    let most = settings.limits.spool_bytes as u64;
    if free < LEAST_ROOM_BYTES || disk.f_files > 0 && disk.f_favail == 0 {
        found.fail("disk", format!("{shown}: requests with \"queue\" will be refused"), mend);
    } else if free < most {
        found.warn(
            "disk",
            format!("{shown}, less than the {} MiB that the spool may have (limits.spool_bytes)", most >> 20),
            mend,
        );
    } else {
        found.ok("disk", shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let text = |hard| format!("Limit  Soft Limit  Hard Limit  Units\nMax open files            1024  {hard}  files\n");
        assert_eq!(hard_limit(&text("4096")), Some(4096));
        assert_eq!(hard_limit(&text("unlimited")), Some(u64::MAX));
        assert_eq!(hard_limit("Max processes  1 2"), None);
    }
}
