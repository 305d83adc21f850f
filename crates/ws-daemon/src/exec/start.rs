//! From a job to a process: the script is looked up, its contract is asked, its argument and environment are put together, and it
//! is started. All of it may block for a moment, and none of it waits.

use std::ffi::{CStr, CString};
use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::contract::{Contract, Terms, Workers};
use super::line::{Line, Places};
use super::pool::{Of, Picked, Source, To, Version};
use super::process::{ARGUMENT_BYTES, Pipes, Process, Program};
use super::scripts::{Itself, Script, not_started, shown};
use super::verdicts::Verdict;
use super::{Folder, Inner, Job, orphans};
use crate::system::c_text;
use crate::system::shim::WORD;

/// By this a process is known to belong to a run.
pub const RUN: &str = "WSDAEMON_RUN=";

/// And by this to the daemon that started it.
pub const PREFIX: &str = "WSDAEMON_PREFIX=";

/// By this a copy of a script that is kept running is known.
pub const WORKER: &str = "WSDAEMON_WORKER=1";

/// And by this which daemon it was that started it: its process id and its start time.
pub const DAEMON: &str = "WSDAEMON_DAEMON=";

/// By when the script is stopped, in seconds since 1970.
const DEADLINE: &str = "WSDAEMON_DEADLINE=";

/// What came of an attempt.
#[derive(Debug)]
pub enum Started {
    /// It runs, or is about to: see [`Pipes::report`].
    Running(Box<(Process, Pipes)>),
    /// It does not, and will not.
    Refused(Outcome),
    /// Someone is just writing the script, a copy or an editor; what to say if that does not end.
    BeingWritten(Outcome),
    /// As many of it run as may at once.
    InLine(Arc<Line>),
    /// Somebody is to be asked in its place.
    Asks(To),
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
    /// What the contract says, likewise.
    pub terms: Option<Terms>,
    /// Its places among those of its script that run at once.
    pub places: Places,
}

/// Params up to this length, in bytes, are looked at wherever a run is started.
const LOOKED_AT_HERE_BYTES: usize = 64 * 1024;

/// What is to be done for a job.
#[derive(Debug)]
pub enum Found {
    /// To start this script.
    Script(Script),
    /// To ask somebody in place of starting one, in these terms.
    Asks(To, Option<Terms>),
}

/// Looks the script of `job` up, and asks its contract; the run may have places among its like already, and has those then that it needs.
/// `since`: see [`Scripts::resolve_since`](super::scripts::Scripts::resolve_since). `here`: on a thread that must not be held up. Where somebody is asked, what was found a moment ago is good enough.
///
/// # Errors
/// What stands in the way.
pub fn find(inner: &Inner, job: &Job, since: StdInstant, places: &mut Places, here: bool) -> Result<Found, Barred> {
    let verdicts = &inner.folder(job.folder).verdicts;
    let verdict = match verdicts.of(&job.name, Instant::now()) {
        Some(verdict) => verdict,
        None => match look(inner, job, since)? {
            Ok(verdict) => verdict,
            Err(script) => {
                allow(job, script.terms.as_ref(), places, here)?;
                return Ok(Found::Script(script));
            }
        },
    };
    let Verdict { terms, pool } = verdict;
    let mut had = allow(job, terms.as_ref(), places, here)?;
    let to = match pool {
        Some(pool) => To::Copies(pool),
        None => match inner.groups.pick(&job.name, &mut had) {
            Some(Picked::Group(group, held)) => {
                places.put(held);
                To::Group(group)
            }
            Some(Picked::Line(line)) => return Err(Barred::InLine(line)),
            None => {
                let why = format!("{}: nobody serves it any more, and there is no such script", shown(&job.name));
                return Err(Barred::Refused(Outcome::failed(ErrorCode::NotFound, why)));
            }
        },
    };
    Ok(Found::Asks(to, terms))
}

/// Looks a script up: what is to be known of it for a moment, or, if it is one that is started for each run, itself.
fn look(inner: &Inner, job: &Job, since: StdInstant) -> Result<Result<Verdict, Script>, Barred> {
    let (scripts, at) = (inner.folder(job.folder), Instant::now());
    let found = match scripts.resolve_since(&job.name, since) {
        Ok(script) => match (copy_of(job.folder, &script), &script.terms) {
            (Some((of, _)), Some(Terms { pool: Some(pool), .. })) => {
                pool.is_of(of, at);
                Ok(Ok(Verdict { pool: Some(Arc::clone(pool)), terms: script.terms }))
            }
            _ => Ok(Err(script)),
        },
        Err(outcome) => served(inner, job, outcome).map(|terms| Ok(Verdict { terms, pool: None })),
    };
    scripts.verdicts.found(&job.name, found.as_ref().ok().and_then(|found| found.as_ref().ok()).cloned(), at);
    found.map_err(Barred::Refused)
}

/// Whether the contract lets the run be. Then it has the places that it needs, and those that it had else are told.
fn allow(job: &Job, terms: Option<&Terms>, places: &mut Places, here: bool) -> Result<Places, Barred> {
    let Some(terms) = terms else { return Ok(std::mem::take(places)) };
    let refused = |code, why: String| Err(Barred::Refused(Outcome::failed(code, format!("{}: {why}", shown(&job.name)))));
    let contract = &terms.contract;
    if !contract.admits(&job.caller) {
        return refused(ErrorCode::Denied, "its contract does not list whoever asks among its callers".into());
    }
    if contract.has_schema() {
        let params = job.params.as_written();
        if here && params.len() > LOOKED_AT_HERE_BYTES {
            return Err(Barred::Elsewhere);
        }
        if let Some(fault) = contract.fault_in(params) {
            return refused(ErrorCode::InvalidParams, format!("its contract refuses the params: {fault}"));
        }
    }
    // The contract may have been changed since its place was taken.
    let mut had = std::mem::take(places);
    if let Some(line) = &terms.line {
        places.put(had.take(line).ok_or_else(|| Barred::InLine(Arc::clone(line)))?);
    }
    Ok(had)
}

/// Tries to start a script that was found; `here` as there, and with its output registered as in [`Program`].
pub fn start(inner: &Inner, job: &Job, script: &Script, here: bool) -> Started {
    match start_script(inner, job, script, here) {
        Ok(running) => Started::Running(Box::new(running)),
        Err(error) => not_running(script, &error),
    }
}

/// What a contract says of a name that is served, since no script has it.
fn served(inner: &Inner, job: &Job, outcome: Outcome) -> Result<Option<Terms>, Outcome> {
    let is_missing = matches!(outcome, Outcome::Failed(ErrorCode::NotFound, _)) && job.folder == Folder::Scripts;
    if is_missing && inner.groups.serve(&job.name) { inner.scripts.terms_alone(&job.name) } else { Err(outcome) }
}

/// By what copies of a script are started and known; `None` if none are kept.
fn copy_of(folder: Folder, script: &Script) -> Option<(Of, Workers)> {
    let (terms, Itself { name, version }) = (script.terms.as_ref()?, script.itself.as_ref()?);
    let source = Source { folder, name: name.as_str().into() };
    Some((Of { version: Arc::clone(version), source }, terms.contract.workers()?))
}

/// A script as it was found for a copy, by what it is known, and how its copies are kept.
pub type CopyOf = (Script, Version, Workers);

/// Starts a copy of a script, with its version and how it is kept. Looked for anew: it may have changed.
pub fn start_copy(inner: &Inner, source: &Source) -> (Started, Option<CopyOf>) {
    let script = match inner.folder(source.folder).resolve(&source.name) {
        Ok(script) => script,
        Err(outcome) => return (Started::Refused(outcome), None),
    };
    let Some((of, workers)) = copy_of(source.folder, &script) else {
        let why = format!("{}: its contract asks for no worker any more", shown(&source.name));
        return (Started::Refused(Outcome::failed(ErrorCode::SpawnFailed, why)), None);
    };
    let variables = || -> io::Result<_> {
        let (own, mut variables) = (std::process::id(), Variables::default());
        variables.put(format_args!("{WORKER}"))?;
        variables.put(format_args!("WSDAEMON_NAME={}", source.name))?;
        variables.put(format_args!("{DAEMON}{own}.{}", orphans::start_time(own).unwrap_or(0)))?;
        Ok(variables)
    };
    let launched = variables().and_then(|own| launch(inner, &script, &own, None, true, false));
    let started = match launched {
        Ok(running) => Started::Running(Box::new(running)),
        Err(error) => not_running(&script, &error),
    };
    (started, Some((script, of.version, workers)))
}

/// What came of a script that the system would not start.
pub fn not_running(script: &Script, error: &io::Error) -> Started {
    let outcome = not_started(&script.path, error);
    if error.raw_os_error() == Some(libc::ETXTBSY) { Started::BeingWritten(outcome) } else { Started::Refused(outcome) }
}

/// Starts the script, its params in argv[1], or on stdin when they are too long for that or its contract says so.
fn start_script(inner: &Inner, job: &Job, script: &Script, registered: bool) -> io::Result<(Process, Pipes)> {
    let contract = script.terms.as_ref().map(|terms| &*terms.contract);
    let timeout = contract.map_or(job.timeout, |contract| contract.timeout(job.timeout));
    let (own, params) = (own_variables(job, timeout)?, job.params.compact());
    if params.len() <= ARGUMENT_BYTES && !contract.is_some_and(Contract::by_stdin) {
        match launch(inner, script, &own, Some(&c_text(params.as_bytes())?), false, registered) {
            // The arguments and the environment together are too long.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {}
            result => return result,
        }
    }
    launch(inner, script, &own, Some(c"-"), true, registered)
}

/// Starts a script with these variables of its own, as its contract says.
fn launch(
    inner: &Inner,
    script: &Script,
    own: &Variables,
    argument: Option<&CStr>,
    with_stdin: bool,
    registered: bool,
) -> io::Result<(Process, Pipes)> {
    let surroundings = &inner.surroundings;
    let contract = script.terms.as_ref().map(|terms| &*terms.contract);
    let users: &[CString] = contract.map_or(&[], Contract::variables);
    let passes = |variable: &&CString| {
        contract.is_none_or(|contract| contract.passes(variable)) && !users.iter().any(|user| same_name(user, variable))
    };
    let inherited = surroundings.environment.iter().filter(passes);
    let environment: Vec<&CStr> = inherited.chain(users).map(CString::as_c_str).chain(own.each()).collect();
    let path = c_text(script.path.as_os_str().as_bytes())?;
    let order = contract.and_then(Contract::order).map(|order| c_text(order.to_text())).transpose()?;
    let shim = order.as_ref().map(|_| inner.shim.as_ref()).transpose();
    let shim = shim.map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    let before: &[&CStr] = match &order {
        Some(order) => &[WORD, order, &path],
        None => &[],
    };
    let arguments = [before, argument.as_slice()].concat();
    let program = Program {
        path: shim.map_or(&path, |shim| shim.program()),
        arguments: &arguments,
        environment: &environment,
        folder: surroundings.folder.as_c_str(),
        with_stdin,
        registered,
        reports: shim.is_some(),
    };
    Process::start(&program)
}

fn same_name(one: &CStr, other: &CStr) -> bool {
    let name = |variable: &CStr| variable.to_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    name(one) == name(other)
}

/// Variables of one program, in one text.
#[derive(Debug, Default)]
struct Variables {
    /// Each with a NUL behind it.
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Variables {
    /// Room for what most scripts get.
    fn with_room() -> Self {
        Self { text: String::with_capacity(256), ends: Vec::with_capacity(8) }
    }

    /// One more.
    ///
    /// # Errors
    /// If there is a NUL in it, the one thing that an environment cannot hold; it is left out.
    fn put(&mut self, variable: fmt::Arguments<'_>) -> io::Result<()> {
        let begin = self.text.len();
        self.text.write_fmt(variable).map_err(io::Error::other)?;
        if self.text[begin..].contains('\0') {
            self.text.truncate(begin);
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.text.push('\0');
        self.ends.push(self.text.len());
        Ok(())
    }

    fn each(&self) -> impl Iterator<Item = &CStr> {
        let begins = std::iter::once(&0).chain(&self.ends);
        let texts = begins.zip(&self.ends).map(|(begin, end)| &self.text.as_bytes()[*begin..*end]);
        texts.filter_map(|text| CStr::from_bytes_with_nul(text).ok())
    }
}

/// What this run's script finds in its environment beside what every script does.
fn own_variables(job: &Job, timeout: Option<Duration>) -> io::Result<Variables> {
    let mut variables = Variables::with_room();
    variables.put(format_args!("{RUN}{}", job.run))?;
    variables.put(format_args!("WSDAEMON_NAME={}", job.name))?;
    variables.put(format_args!("WSDAEMON_PEER={}", job.peer))?;
    if let Some(deadline) = timeout.and_then(|timeout| SystemTime::now().checked_add(timeout)) {
        let since = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
        variables.put(format_args!("{DEADLINE}{}.{:03}", since.as_secs(), since.subsec_millis()))?;
    }
    if let Some(id) = &job.id {
        // An id with a NUL is left out.
        let _ = variables.put(format_args!("WSDAEMON_ID={}", id.as_text()));
    }
    for (key, part) in job.trace.iter().flat_map(|trace| trace.parts()) {
        if let Some(part) = part {
            variables.put(format_args!("{}={part}", variable_of(key)))?;
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
