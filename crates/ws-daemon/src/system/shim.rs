//! The daemon's own program in front of another one: it takes on another user and narrower limits, and becomes that program. What
//! such a step needs (locks, memory, name services) is not to be had between a child's birth and its program, so it has one of
//! its own for it. It never runs but by [`WORD`], and never comes back from a success.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::unistd::{Gid, Uid, execv, getgroups, getresgid, getresuid, initgroups, setgroups, setresgid, setresuid, setuid};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::launch::c_text;

/// The first argument of a program that is to be another one.
pub const WORD: &CStr = c"--become";

/// Descriptors below are taken by what a child is given.
const ABOVE: i32 = 10;

/// Where it says what went wrong.
const REPORT: i32 = 3;

/// The longest report that is read, in bytes.
pub const REPORT_BYTES: usize = 1024;

/// The program, whatever has become of its file since: opened once, at start.
#[derive(Debug)]
pub struct Shim {
    program: CString,
    _file: OwnedFd,
}

/// What is to be taken on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who to be.
    pub user: Option<Identity>,
    /// What not to go beyond, by the names of [`resource`].
    pub limits: Vec<(String, u64)>,
}

/// A user as the kernel knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user's id.
    pub user: u32,
    /// The group's id.
    pub group: u32,
    /// By this name the user's further groups are found; without one there are none.
    pub name: Option<String>,
}

/// What went wrong, as it is reported.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The program itself would not start: what execve(2) said.
    Program(i32),
    /// Something before that, in words.
    Step(String),
}

impl Shim {
    /// Opens this process's own program.
    ///
    /// # Errors
    /// When there is no /proc.
    pub fn open() -> io::Result<Self> {
        let file = File::open("/proc/self/exe")?;
        let file = fcntl_dupfd_cloexec(&file, ABOVE)?;
        // In the child it has the same number.
        let program = c_text(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok(Self { program, _file: file })
    }

    /// The path that it is started by.
    #[must_use]
    pub fn program(&self) -> &CStr {
        &self.program
    }
}

impl Order {
    /// As an argument of the program.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Failure {
    /// Reads a report; an empty one says that the program runs.
    #[must_use]
    pub fn parse(report: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(report);
        let (errno, words) = text.split_once(' ')?;
        Some(match errno.parse() {
            Ok(errno) if words.is_empty() => Self::Program(errno),
            _ => Self::Step(words.to_owned()),
        })
    }

    fn to_text(&self) -> String {
        match self {
            Self::Program(errno) => format!("{errno} "),
            Self::Step(words) => format!("0 {}", words.chars().take(REPORT_BYTES / 8).collect::<String>()),
        }
    }
}

/// A limit that a program may be given, by its name.
#[must_use]
pub fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "as" => Resource::As,
        "cpu" => Resource::Cpu,
        "fsize" => Resource::Fsize,
        "core" => Resource::Core,
        _ => return None,
    })
}

/// Becomes another program if the command line says so; `None` if it does not.
#[must_use]
pub fn become_another() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()?.as_encoded_bytes() != WORD.to_bytes() {
        return None;
    }
    let failure = match start(words) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // Whoever has started it by hand has no such descriptor; the exit status says enough.
    if let Ok(mut report) = take_report() {
        drop(report.write_all(failure.to_text().as_bytes()));
    }
    Some(ExitCode::from(126))
}

fn start(mut words: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible, Failure> {
    let failed = |what: &str, why: &dyn std::fmt::Display| Failure::Step(format!("{what}: {why}"));
    take_report().map_err(|error| failed("there is nobody to report to", &error)).map(std::mem::forget)?;
    let order = words.next().and_then(|order| order.into_string().ok()).unwrap_or_default();
    let order: Order = serde_json::from_str(&order).map_err(|error| failed("the order is not understood", &error))?;
    let arguments: Result<Vec<CString>, _> = words.map(|word| CString::new(word.into_vec())).collect();
    let arguments = arguments.map_err(|error| failed("the arguments are not understood", &error))?;
    let program = arguments.first().ok_or_else(|| Failure::Step("there is no program to become".into()))?;
    for (name, most) in &order.limits {
        let resource = resource(name).ok_or_else(|| Failure::Step(format!("there is no limit \"{name}\"")))?;
        let limit = Rlimit { current: Some(*most), maximum: Some(*most) };
        setrlimit(resource, limit).map_err(|error| failed(&format!("the limit {name} of {most} cannot be set"), &error))?;
    }
    if let Some(user) = &order.user {
        become_user(user)?;
    }
    by_default(libc::SIGPIPE);
    execv(program, &arguments).map_err(|errno| Failure::Program(errno as i32))
}

fn become_user(wanted: &Identity) -> Result<(), Failure> {
    let (user, group) = (Uid::from_raw(wanted.user), Gid::from_raw(wanted.group));
    let step = |what: &str| {
        let what = what.to_owned();
        move |errno: nix::errno::Errno| {
            let why = match errno {
                nix::errno::Errno::EPERM => format!("the daemon runs as user {} and may not; only root may", Uid::effective()),
                errno => errno.to_string(),
            };
            Failure::Step(format!("{what}: {why}"))
        }
    };
    let is_already = Uid::effective() == user && Gid::effective() == group;
    // Who is nobody else's master keeps the groups they have.
    if !is_already || user.is_root() {
        match &wanted.name {
            Some(name) => {
                let name = c_text(name.as_str()).map_err(|error| Failure::Step(error.to_string()))?;
                initgroups(&name, group).map_err(step("the user's groups cannot be taken on"))?;
            }
            None => setgroups(&[]).map_err(step("the daemon's groups cannot be left"))?,
        }
        setresgid(group, group, group).map_err(step(&format!("group {group} cannot be taken on")))?;
        setresuid(user, user, user).map_err(step(&format!("user {user} cannot be taken on")))?;
    }
    has_become(user, group, wanted.name.is_none() && !is_already)?;
    prctl::set_no_new_privs().map_err(step("the way to other rights cannot be closed"))
}

/// A system call that says it did what it did not would be the end of all care, so it is looked at again.
fn has_become(user: Uid, group: Gid, alone: bool) -> Result<(), Failure> {
    let not = |what: &str| Failure::Step(format!("{what} is another one than was taken on"));
    let users = getresuid().map_err(|_| not("the user"))?;
    let groups = getresgid().map_err(|_| not("the group"))?;
    if [users.real, users.effective, users.saved] != [user; 3] {
        return Err(not("the user"));
    }
    if [groups.real, groups.effective, groups.saved] != [group; 3] {
        return Err(not("the group"));
    }
    if alone && getgroups().map_or(true, |groups| !groups.is_empty()) {
        return Err(not("one of the groups"));
    }
    if !user.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(Failure::Step("the rights of root can still be had".into()));
    }
    Ok(())
}

/// The descriptor that the report goes to. It is closed in what this becomes.
fn take_report() -> io::Result<File> {
    #[expect(
        unsafe_code,
        reason = "nobody else in this process has descriptor 3: nothing was opened before, or it is forgotten by whoever took it; \
                  if it is not open, every call on it says so"
    )]
    let report = unsafe { OwnedFd::from_raw_fd(REPORT) };
    match fcntl_setfd(&report, FdFlags::CLOEXEC) {
        Ok(()) => Ok(report.into()),
        Err(error) => {
            // It was never ours to close.
            std::mem::forget(report);
            Err(error.into())
        }
    }
}

/// Rust's runtime has programs ignore SIGPIPE, and what is ignored stays so in what they become.
fn by_default(signal: i32) {
    #[expect(unsafe_code, reason = "no safe wrapper: the default disposition has no handler that could be unsafe")]
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for failure in [Failure::Program(libc::ETXTBSY), Failure::Step("user 7 cannot be taken on: no".into())] {
            assert_eq!(Failure::parse(failure.to_text().as_bytes()), Some(failure));
        }
        assert_eq!(Failure::parse(b""), None);
        let long = Failure::Step("€".repeat(REPORT_BYTES)).to_text();
        assert!(long.len() <= REPORT_BYTES && long.len() > 100, "{}", long.len());
    }

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let user = Identity { user: 1, group: 2, name: Some("a \"b\"".into()) };
        let order = Order { user: Some(user), limits: vec![("nofile".into(), 64)] };
        assert_eq!(serde_json::from_str::<Order>(&order.to_text()).expect("JSON"), order);
        for name in ["nofile", "nproc", "as", "cpu", "fsize", "core"] {
            assert!(resource(name).is_some(), "{name}");
        }
        assert!(resource("stack").is_none());
    }
}
