//! The files that the daemon goes by: there, nobody else's to write, and not damaged. It opens none for writing.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::{Uid, User};
use rustix::process::geteuid;

use super::{Findings, flag};
use crate::config::{Role, Settings};
use crate::daemon::{REGISTER, identity, trusted};
use crate::register::Register;
use crate::system::trust::quoted;

/// Clocks that differ by more make certificates that are not valid yet, and deadlines that are over.
pub const DIFFERENCE: Duration = Duration::from_mins(1);

/// Whether this is the user that the daemon runs as, `daemon`, or would run as: its files are theirs.
pub fn is_its_user(prefix: &Path, daemon: Option<u32>, found: &mut Findings) -> bool {
    let own = geteuid().as_raw();
    // What root has put there is for any user.
    let owner = || fs::metadata(prefix).ok().map(|look| look.uid()).filter(|owner| *owner != 0);
    let Some(user) = daemon.or_else(owner).filter(|user| *user != own) else { return true };
    let name = name(user);
    let said = format!(
        "this is user {own}, the daemon's is {name}: what that one can reach, and whose the files are to be, is not seen"
    );
    found.warn("user", said, format!("runuser -u {name} -- ws-daemon doctor{}", flag(prefix)));
    false
}

/// Looks at the prefix, and at what stands in it; at whose that is, if this is the daemon's user.
pub fn look(settings: &Settings, is_its_user: bool, found: &mut Findings) {
    let prefix = &settings.prefix;
    let is_server = matches!(settings.role, Role::Server { .. });
    let is_folder =
        fs::metadata(prefix).and_then(|look| if look.is_dir() { Ok(()) } else { Err(ErrorKind::NotADirectory.into()) });
    if let Err(error) = is_folder {
        let what = if is_server { "server" } else { "client --proxy HOST" };
        let said = format!("{}: {error}", prefix.display());
        return found.fail("prefix", said, format!("ws-daemon init {what}{}", flag(prefix)));
    }
    if is_its_user {
        match trusted::check(settings, &identity::spool_path(settings)) {
            Ok(()) => found.ok("rights", format!("nobody else can write {}, nor read its keys", prefix.display())),
            Err(said) => {
                let (said, mend) =
                    said.split_once("; mend it with: ").unwrap_or((&said, "let it be the daemon's user's alone"));
                found.fail("rights", said, mend);
            }
        }
    }
    clock(settings, found);
    let scripts = prefix.join("scripts");
    if let Err(error) = fs::read_dir(&scripts) {
        let said = format!("nothing can be run here: {}: {error}", scripts.display());
        found.warn("scripts", said, format!("install -d -m 755 {}", quoted(&scripts)));
    }
    if is_server && let Err(broken) = Register::open(&prefix.join(REGISTER)) {
        found.fail_in_words("register", broken.to_string());
    }
}

/// What stands on the disk was not written in the future.
fn clock(settings: &Settings, found: &mut Findings) {
    let spool = identity::spool_path(settings);
    let files = [settings.prefix.join("config.json"), spool.with_extension("db-wal"), spool];
    for path in files {
        let Ok(written) = fs::metadata(&path).and_then(|look| look.modified()) else { continue };
        let ahead = written.duration_since(SystemTime::now()).unwrap_or_default();
        if ahead > DIFFERENCE {
            let said = format!(
                "{} was written {} s from now: this machine's was set back, or is late",
                path.display(),
                ahead.as_secs()
            );
            return found.warn("clock", said, "timedatectl set-ntp true");
        }
    }
}

/// As a person knows the user.
fn name(user: u32) -> String {
    User::from_uid(Uid::from_raw(user)).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
}
