//! From a job to a process: the script is looked up, its contract is asked, its argument and environment are put together, and it
//! is started. All of it may block for a moment, and none of it waits.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::contract::{Contract, Terms};
use super::line::{Held, Line};
use super::process::{ARGUMENT_BYTES, Pipes, Process, Program};
use super::scripts::{Script, not_started, shown};
use super::{Inner, Job};
use crate::system::c_text;
use crate::system::shim::WORD;

/// By this a process is known to belong to a run.
pub const RUN: &str = "WSDAEMON_RUN=";

/// And by this to the daemon that started it.
pub const PREFIX: &str = "WSDAEMON_PREFIX=";

/// By when the script is stopped, in seconds since 1970.
const DEADLINE: &str = "WSDAEMON_DEADLINE=";

/// What came of an attempt.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process is what nearly all of them are")]
pub enum Started {
    /// It runs, or is about to: see [`Pipes::report`].
    Running(Process, Pipes),
    /// It does not, and will not.
    Refused(Outcome),
    /// Someone is just writing the script, a copy or an editor; what to say if that does not end.
    BeingWritten(Outcome),
    /// As many of it run as may at once.
    InLine(Arc<Line>),
}

/// What stands between a job and its script.
#[derive(Debug)]
pub enum Barred {
    /// It is not there, or not for this.
    Refused(Outcome),
    /// As many of it run as may at once.
    InLine(Arc<Line>),
    /// To look at its params may take a while: that is to be done where it holds nobody up.
    Elsewhere,
}

/// An attempt, and what goes with it.
#[derive(Debug)]
pub struct Attempt {
    /// What came of it.
    pub started: Started,
    /// The path and the contract that it went by, unless they are what is in the way.
    pub script: Option<Script>,
    /// Its place among those of its script that run at once.
    pub held: Option<Held>,
}

/// Params up to this length, in bytes, are looked at wherever a run is started.
const LOOKED_AT_HERE_BYTES: usize = 64 * 1024;

/// Looks the script of `job` up, and asks its contract; the run may have a place among its like already, and has one then if it needs one.
/// `here`: on a thread that must not be held up.
///
/// # Errors
/// What stands in the way.
pub fn find(inner: &Inner, job: &Job, held: &mut Option<Held>, here: bool) -> Result<Script, Barred> {
    let script = inner.folder(job.folder).resolve(&job.name).map_err(Barred::Refused)?;
    match script.terms.as_ref().and_then(|terms| bar(job, terms, held, here)) {
        Some(barred) => Err(barred),
        None => Ok(script),
    }
}

/// Tries to start a script that was found; `here` as there, and with its output registered as in [`Program`].
pub fn start(inner: &Inner, job: &Job, script: &Script, here: bool) -> Started {
    match start_script(inner, job, script, here) {
        Ok((process, pipes)) => Started::Running(process, pipes),
        Err(error) => not_running(script, &error),
    }
}

/// What came of a script that the system would not start.
pub fn not_running(script: &Script, error: &io::Error) -> Started {
    let outcome = not_started(&script.path, error);
    if error.raw_os_error() == Some(libc::ETXTBSY) { Started::BeingWritten(outcome) } else { Started::Refused(outcome) }
}

/// What the script's contract has against the run.
fn bar(job: &Job, terms: &Terms, held: &mut Option<Held>, here: bool) -> Option<Barred> {
    let refused = |code, why: String| Some(Barred::Refused(Outcome::failed(code, format!("{}: {why}", shown(&job.name)))));
    let contract = &terms.contract;
    if !contract.admits(&job.caller) {
        return refused(ErrorCode::Denied, "its contract does not list whoever asks among its callers".into());
    }
    if contract.has_schema() {
        let params = job.params.as_written();
        if here && params.len() > LOOKED_AT_HERE_BYTES {
            return Some(Barred::Elsewhere);
        }
        if let Some(fault) = contract.fault_in(params) {
            return refused(ErrorCode::InvalidParams, format!("its contract refuses the params: {fault}"));
        }
    }
    // The contract may have been changed since its place was taken.
    match &terms.line {
        None => *held = None,
        Some(line) if held.as_ref().is_some_and(|held| held.is_of(line)) => {}
        Some(line) => {
            *held = line.try_take();
            if held.is_none() {
                return Some(Barred::InLine(Arc::clone(line)));
            }
        }
    }
    None
}

/// Starts the script, its params in argv[1], or on stdin when they are too long for that or its contract says so.
fn start_script(inner: &Inner, job: &Job, script: &Script, registered: bool) -> io::Result<(Process, Pipes)> {
    let surroundings = &inner.surroundings;
    let contract = script.terms.as_ref().map(|terms| &*terms.contract);
    let timeout = contract.map_or(job.timeout, |contract| contract.timeout(job.timeout));
    let own = own_variables(job, timeout)?;
    let users: &[CString] = contract.map_or(&[], Contract::variables);
    let passes = |variable: &&CString| {
        contract.is_none_or(|contract| contract.passes(variable)) && !users.iter().any(|user| same_name(user, variable))
    };
    let inherited = surroundings.environment.iter().filter(passes);
    let environment: Vec<&CStr> = inherited.chain(users).chain(&own).map(CString::as_c_str).collect();
    let (path, params) = (c_text(script.path.as_os_str().as_bytes())?, job.params.compact());
    let order = contract.and_then(Contract::order).map(|order| c_text(order.to_text())).transpose()?;
    let folder = surroundings.folder.as_c_str();
    let start = |argument: &CStr, with_stdin| match &order {
        None => {
            let arguments = [argument];
            let program = Program {
                path: &path,
                arguments: &arguments,
                environment: &environment,
                folder,
                with_stdin,
                registered,
                reports: false,
            };
            Process::start(&program)
        }
        Some(order) => {
            let shim = inner.shim.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
            let arguments = [WORD, order, &path, argument];
            let program = Program {
                path: shim.program(),
                arguments: &arguments,
                environment: &environment,
                folder,
                with_stdin,
                registered,
                reports: true,
            };
            Process::start(&program)
        }
    };
    if params.len() <= ARGUMENT_BYTES && !contract.is_some_and(Contract::by_stdin) {
        match start(&c_text(params.as_bytes())?, false) {
            // The arguments and the environment together are too long.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {}
            result => return result,
        }
    }
    start(c"-", true)
}

fn same_name(one: &CStr, other: &CStr) -> bool {
    let name = |variable: &CStr| variable.to_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    name(one) == name(other)
}

/// What this run's script finds in its environment beside what every script does.
fn own_variables(job: &Job, timeout: Option<Duration>) -> io::Result<Vec<CString>> {
    let mut variables = vec![
        c_text(format!("{RUN}{}", job.run))?,
        c_text(format!("WSDAEMON_NAME={}", job.name))?,
        c_text(format!("WSDAEMON_PEER={}", job.peer))?,
    ];
    if let Some(deadline) = timeout.and_then(|timeout| SystemTime::now().checked_add(timeout)) {
        let since = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
        variables.push(c_text(format!("{DEADLINE}{}.{:03}", since.as_secs(), since.subsec_millis()))?);
    }
    // The one thing that an environment cannot hold is a NUL; an id with one is left out.
    if let Some(id) = job.id.as_ref().map(|id| id.as_text()).filter(|id| !id.contains('\0')) {
        variables.push(c_text(format!("WSDAEMON_ID={id}"))?);
    }
    for (key, part) in job.trace.iter().flat_map(|trace| trace.parts()) {
        if let Some(part) = part {
            variables.push(c_text(format!("{}={part}", variable_of(key)))?);
        }
    }
    Ok(variables)
}

/// Where a script finds what its request carries along; `TRACEPARENT` as programs that trace look for it.
fn variable_of(key: &str) -> &'static str {
    match key {
        "traceparent" => "TRACEPARENT",
        "request_id" => "WSDAEMON_REQUEST_ID",
        _ => "WSDAEMON_EVENT",
    }
}
