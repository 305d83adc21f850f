//! From a job to a process: the script is looked up, its argument and environment are put together, and it is started. All of it
//! may block for a moment, and none of it waits.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ws_daemon_protocol::outcome::Outcome;

use super::process::{ARGUMENT_BYTES, Pipes, Process, Program};
use super::scripts::not_started;
use super::{Inner, Job};
use crate::system::c_text;

/// By this a process is known to belong to a run.
pub const RUN: &str = "WSDAEMON_RUN=";

/// And by this to the daemon that started it.
pub const PREFIX: &str = "WSDAEMON_PREFIX=";

/// By when the script is stopped, in seconds since 1970.
const DEADLINE: &str = "WSDAEMON_DEADLINE=";

/// What came of an attempt.
#[derive(Debug)]
pub enum Started {
    /// It runs.
    Running(Process, Pipes),
    /// It does not, and will not.
    Refused(Outcome),
    /// Someone is just writing the script, a copy or an editor; what to say if that does not end.
    BeingWritten(Outcome),
}

/// Tries to start the script of `job`; `registered` is as in [`Program`].
pub fn start(inner: &Inner, job: &Job, registered: bool) -> Started {
    let path = match inner.folder(job.folder).resolve(&job.name) {
        Ok(path) => path,
        Err(outcome) => return Started::Refused(outcome),
    };
    match start_at(inner, job, &path, registered) {
        Ok((process, pipes)) => Started::Running(process, pipes),
        Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => Started::BeingWritten(not_started(&path, &error)),
        Err(error) => Started::Refused(not_started(&path, &error)),
    }
}

/// Starts the script, its params in argv[1], or on stdin when they are too long for that.
fn start_at(inner: &Inner, job: &Job, path: &Path, registered: bool) -> io::Result<(Process, Pipes)> {
    let surroundings = &inner.surroundings;
    let own = own_variables(job)?;
    let environment: Vec<&CStr> = surroundings.environment.iter().chain(&own).map(CString::as_c_str).collect();
    let (program, params) = (c_text(path.as_os_str().as_bytes())?, job.params.compact());
    let start = |argument: &CStr, with_stdin| {
        let folder = surroundings.folder.as_c_str();
        Process::start(&Program { path: &program, argument, environment: &environment, folder, with_stdin, registered })
    };
    if params.len() <= ARGUMENT_BYTES {
        match start(&c_text(params.as_bytes())?, false) {
            // The arguments and the environment together are too long.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {}
            result => return result,
        }
    }
    start(c"-", true)
}

/// What this run's script finds in its environment beside what every script does.
fn own_variables(job: &Job) -> io::Result<Vec<CString>> {
    let mut variables = vec![
        c_text(format!("{RUN}{}", job.run))?,
        c_text(format!("WSDAEMON_NAME={}", job.name))?,
        c_text(format!("WSDAEMON_PEER={}", job.peer))?,
    ];
    if let Some(deadline) = job.timeout.and_then(|timeout| SystemTime::now().checked_add(timeout)) {
        let since = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
        variables.push(c_text(format!("{DEADLINE}{}.{:03}", since.as_secs(), since.subsec_millis()))?);
    }
    // The one thing that an environment cannot hold is a NUL; an id with one is left out.
    if let Some(id) = job.id.as_ref().map(|id| id.as_text()).filter(|id| !id.contains('\0')) {
        variables.push(c_text(format!("WSDAEMON_ID={id}"))?);
    }
    Ok(variables)
}
