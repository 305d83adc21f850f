//! What comes before a script that runs as another user or within limits: the wait until the program that takes these on has become
//! the script, or says why not. It never takes what that program says for the script's own end.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::timeout;
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::contract::Contract;
use super::scripts::{Script, shown};
use super::start::{Started, not_running};
use crate::system::readiness;
use crate::system::shim::{Failure, REPORT_BYTES};

/// How long it may take to become the script: a directory service is asked for the user's groups.
const PRELUDE: Duration = Duration::from_secs(10);

/// Waits until the script runs.
///
/// # Errors
/// Why it does not.
pub async fn wait(report: OwnedFd, name: &str, script: &Script) -> Result<(), Started> {
    let refused = |why: &str| Started::Refused(Outcome::failed(ErrorCode::SpawnFailed, format!("{}: {why}", shown(name))));
    match timeout(PRELUDE, read(report)).await {
        Err(_) => Err(refused("it took too long to take on the user and the limits of its contract")),
        Ok(Err(error)) => Err(refused(&format!("it is not known whether it was started: {error}"))),
        Ok(Ok(said)) => match Failure::parse(&said) {
            None => Ok(()),
            Some(Failure::Step(why)) => Err(refused(&why)),
            Some(Failure::Program(libc::EACCES)) if runs_as_another(script) => {
                let path = script.path.display();
                Err(refused(&format!(
                    "the user of its contract may not execute {path}, or not enter a folder on the way there"
                )))
            }
            Some(Failure::Program(errno)) => Err(not_running(script, &io::Error::from_raw_os_error(errno))),
        },
    }
}

fn runs_as_another(script: &Script) -> bool {
    let order = script.terms.as_ref().and_then(|terms| Contract::order(&terms.contract));
    order.is_some_and(|order| order.user.is_some())
}

/// All that is said, up to the end: then it has become the script, or is gone.
async fn read(report: OwnedFd) -> io::Result<Vec<u8>> {
    let report = readiness(report, Interest::READABLE)?;
    let mut said = Vec::new();
    loop {
        let mut guard = report.readable().await?;
        let mut buffer = [0; REPORT_BYTES];
        match guard.try_io(|report| Ok(rustix::io::read(report.get_ref(), &mut buffer)?)) {
            Ok(Ok(0)) => return Ok(said),
            Ok(Ok(length)) => said.extend_from_slice(&buffer[..length.min(REPORT_BYTES - said.len())]),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
