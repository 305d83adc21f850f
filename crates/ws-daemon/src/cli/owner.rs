//! Whose the files are that a command writes: in a folder of another user, those of that user, also by root's word. It never gains
//! rights.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setgroups, setuid};

use super::exit::{Exit, Trouble};

/// Goes on as the owner of the prefix, if root runs this and it is another's: the daemon that runs as that user is to read what is
/// written there, and what that user has put there in place of a file harms nobody else. A prefix that is not there yet is to be
/// root's.
pub fn become_owner_of(prefix: &Path) -> Result<(), Trouble> {
    let Some(look) = fs::metadata(prefix).ok().filter(|look| geteuid().is_root() && look.uid() != 0) else { return Ok(()) };
    let user = Uid::from_raw(look.uid());
    let known = User::from_uid(user).ok().flatten();
    let changed = match known.and_then(|known| Some((CString::new(known.name).ok()?, known.gid))) {
        Some((name, group)) => initgroups(&name, group).and_then(|()| setgid(group)),
        None => setgroups(&[]).and_then(|()| setgid(Gid::from_raw(look.gid()))),
    };
    let failed = |error| {
        Trouble::new(
            Exit::Failed,
            format_args!("{} is user {user}'s, and this cannot go on as them: {error}", prefix.display()),
        )
    };
    changed.and_then(|()| setuid(user)).map_err(failed)
}
