//! One link as the daemon would make it, and what is found at its other end. It asks for nothing, and parts in good order.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::cli::exit::Exit;
use crate::config::{ServerUrl, Settings};
use crate::daemon::{Encryption, identity};
use crate::link::{CloseCode, DialFault, Dialect, GreetingFault, Wire, dial};
use crate::spool::Spool;

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// What the server is called.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// From this daemon's first frame to the server's.
    pub round_trip: Duration,
}

/// Dials this server, with the credentials that it has here, as the settings say it; says who this is, hears who is there, and parts.
///
/// # Errors
/// What went wrong, with the exit code for it.
pub async fn link_once(settings: &Settings, server: &ServerUrl) -> Result<Found, (Exit, String)> {
    let spool = identity::try_spool(settings).map_err(|fault| (Exit::Failed, fault.to_string()))?;
    let found = link(settings, server, &spool).await;
    spool.close().await;
    found
}

async fn link(settings: &Settings, server: &ServerUrl, spool: &Spool) -> Result<Found, (Exit, String)> {
    let (within, terms) = (settings.times.handshake, &settings.limits);
    let encryption = Encryption::of(settings).map_err(|fault| (Exit::Config, fault.to_string()))?;
    let tls = encryption.client().ok_or((Exit::Config, String::new()))?;
    let deadline = Instant::now() + within;
    let unreached = |fault: DialFault| {
        let exit = if matches!(fault, DialFault::Refused(_)) { Exit::Denied } else { Exit::Unavailable };
        (exit, fault.to_string())
    };
    let (mut wire, dialect) = dial(server, tls, deadline, within, terms.message).await.map_err(unreached)?;
    if dialect == Dialect::Seed {
        return Err((Exit::Unavailable, format!("{server} speaks the seed's version of the link")));
    }
    let greeted = timeout_at(deadline, greet(settings, spool, &mut wire)).await;
    let found = greeted.map_err(|_| (Exit::Unavailable, format!("no link within {within:?}")))?;
    let found = found.map_err(|fault| (Exit::Denied, fault.to_string()))?;
    wire.part(CloseCode::NORMAL, "joined; the daemon comes next").await;
    Ok(found)
}

async fn greet(settings: &Settings, spool: &Spool, wire: &mut Wire) -> Result<Found, GreetingFault> {
    let mut me = identity::who_i_am(settings, Some(spool)).await;
    me.epoch = identity::epochs(Some(spool.clone())).next().await;
    let since = Instant::now();
    wire.say_hello(&me)?;
    let hello = wire.hear_hello(settings.limits.nesting).await?;
    Ok(Found { name: hello.name, version: hello.version, round_trip: since.elapsed() })
}
