//! Between two daemons: a server's port, and the way of a client to its servers: through which proxy, whether they answer, whether they let it in, and whether their clocks
//! and this machine's agree. It parts in good order, and asks for nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::SystemTime;

use tokio::time::Instant;

use super::files::DIFFERENCE;
use super::running::Running;
use super::{Findings, State};
use crate::cli::exit::{Exit, Trouble};
use crate::config::{ProxyVariables, Role, ServerUrl, Settings};
use crate::daemon::Encryption;
use crate::link::{CloseCode, dial, probe};
use crate::tls::ClientTls;

/// Tries the way to each server of a client, and a server's port.
pub fn look(settings: &Settings, running: &Running<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let servers = match &settings.role {
        Role::Client { servers } => servers,
        Role::Server { listen, .. } => {
            port(*listen, running, found);
            return Ok(());
        }
    };
    let tls = match Encryption::of(settings) {
        Ok(Encryption::Client(tls)) => tls,
        Ok(Encryption::Server(_)) => return Ok(()),
        Err(fault) => {
            found.fail_in_words("certificate", fault.to_string());
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Trouble::new(Exit::Failed, format_args!("no runtime: {error}")))?;
    let before = found.0.len();
    let is_linked = running.linked().next().is_some();
    for server in servers.iter() {
        proxy(server, running.pid(), found);
        runtime.block_on(one(settings, server, &tls, is_linked, found));
    }
    // One that is reached is enough.
    let ways = &mut found.0[before..];
    let is_good = is_linked || ways.iter().any(|way| way.about == "link" && way.state == State::Ok);
    if is_good {
        ways.iter_mut().filter(|way| way.about == "server" && way.state == State::Fail).for_each(|way| way.state = State::Warn);
    }
    match running.linked().next() {
        Some(peer) => found.ok("link", format!("the daemon is linked to {}", peer["address"].as_str().unwrap_or_default())),
        None if is_good && running.pid().is_some() => {
            found.warn(
                "link",
                "the daemon has no link now, though it could have one",
                "ws-daemon pause 0, to have it dial at once",
            );
        }
        None => {}
    }
    Ok(())
}

/// Nobody else has the port of a server that does not run. It is let go at once.
fn port(listen: SocketAddr, running: &Running<'_>, found: &mut Findings) {
    if running.is_there() || listen.port() == 0 {
        return;
    }
    match TcpListener::bind(listen) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let said = format!("another program listens on {listen}");
            found.fail("port", said, format!("ss -ltnp 'sport = :{}', to see which; stop it, or set \"port\"", listen.port()));
        }
        Err(error) => {
            found.fail("port", format!("{listen} cannot be had: {error}"), "set \"port\" or \"listen\" in config.json");
        }
        Ok(_) => found.ok("port", format!("{listen} is free")),
    }
}

async fn one(settings: &Settings, server: &ServerUrl, tls: &ClientTls, is_linked: bool, found: &mut Findings) {
    let within = settings.times.handshake;
    let answer = match probe(server, tls, Instant::now() + within, within).await {
        Ok(answer) => answer,
        Err(fault) => return found.fail_in_words("server", format!("{server} is not reached: {fault}")),
    };
    found.ok("server", format!("{server} answers"));
    let now = SystemTime::now();
    let apart = answer.date.map(|there| now.duration_since(there).unwrap_or_else(|error| error.duration()));
    if let Some(apart) = apart.filter(|apart| *apart > DIFFERENCE) {
        let said = format!("this machine's and that of {server} are {} s apart", apart.as_secs());
        found.warn("clock", said, "timedatectl set-ntp true, here or there");
    } else if apart.is_some() {
        found.ok("clock", format!("it agrees with that of {server}"));
    }
    // A further link of this client would be taken for a clone, or for the end of the one that it has.
    if is_linked {
        return;
    }
    match dial(server, tls, Instant::now() + within, within, settings.limits.message).await {
        Ok((mut wire, _)) => {
            wire.part(CloseCode::NORMAL, "only looked at").await;
            found.ok("link", format!("{server} lets this client in"));
        }
        Err(fault) => found.fail_in_words("link", fault.to_string()),
    }
}

/// Which proxy is on the way, and whether the daemon's own environment says the same.
fn proxy(server: &ServerUrl, pid: Option<i32>, found: &mut Findings) {
    let here = server.via.as_ref();
    if let Some(proxy) = here {
        found.ok("proxy", format!("{server} is reached through {proxy}, which {} names", proxy.named_by));
    }
    let is_set = here.is_some_and(|proxy| proxy.named_by == "http_proxy");
    let Some(environment) = pid.and_then(environment).filter(|_| !is_set) else { return };
    let daemons = ProxyVariables::of(|name| environment.get(name).cloned()).way(server, None);
    if daemons.as_ref().ok().map(Option::as_ref) != Some(here) {
        let shown = daemons.map_or_else(|fault| fault.to_string(), |way| way.map_or("none".into(), |proxy| proxy.to_string()));
        found.warn(
            "proxy",
            format!("the daemon was started with other variables than are set here: for {server} they name {shown}"),
            "Environment=HTTPS_PROXY=… in the unit (systemctl edit ws-daemon), or \"http_proxy\" in config.json, and a restart",
        );
    }
}

/// The variables of a process, if this user may see them.
fn environment(pid: i32) -> Option<BTreeMap<String, String>> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let pairs = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    Some(pairs.filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect())
}
