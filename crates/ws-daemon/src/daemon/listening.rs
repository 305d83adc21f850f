//! What the daemon listens on by TCP, bound or given, and all that it listens on once more for its next life. It accepts nobody.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::{TcpListener, TcpSocket};
use tracing::{info, warn};

use super::StartFault;
use super::handover::Note;
use super::inherited::Given;
use crate::config::{LocalTcp, Role, Settings};
use crate::local::SocketFile;

/// Connections that wait to be accepted on TCP.
const BACKLOG: u32 = 4096;

/// All that is listened on by TCP.
#[derive(Debug)]
pub struct Bound {
    /// For peers, on a server.
    pub port: Option<Port>,
    /// For what is asked over HTTP.
    pub http: Option<Port>,
    /// For processes of this machine.
    pub local: Option<Port>,
}

/// One of them.
#[derive(Debug)]
pub struct Port {
    pub listener: TcpListener,
    /// What the settings said when it was bound by them; `None` if a service manager has it, whatever the settings say.
    asked: Option<String>,
}

impl Bound {
    /// What was given where it still is what the settings ask for, or else bound by them.
    pub fn bind(settings: &Settings, given: Given, note: &Note) -> Result<Self, StartFault> {
        let port = match settings.role {
            Role::Server { listen, reuse, .. } => {
                let asked = format!("{listen}{}", if reuse { " with others" } else { "" });
                let given = given.port.filter(|_| note.fits("port", &asked));
                Some(match given {
                    Some(given) => Port::take(given, "listening", note.asked("port"))?,
                    None => Port { listener: bind_port(listen, reuse)?, asked: Some(asked) },
                })
            }
            Role::Client { .. } => None,
        };
        let http = settings.http.map(|address| {
            let asked = address.to_string();
            // Where HTTP may be answered is for the settings alone to say.
            match given.http.filter(|_| note.asked("http").as_ref() == Some(&asked)) {
                Some(given) => Port::take(given, "HTTP ready", Some(asked)),
                None => Ok(Port { listener: bind_http(address)?, asked: Some(asked) }),
            }
        });
        let asked = format!("{:?}", settings.local);
        let local = match given.local.filter(|_| note.fits("local", &asked)) {
            Some(given) => Some(Port::take(given, "local TCP ready", note.asked("local"))?),
            None => bind_local_tcp(settings.local)?.map(|listener| Port { listener, asked: Some(asked) }),
        };
        Ok(Self { port, http: http.transpose()?, local })
    }
}

impl Port {
    /// One that was given, with words for the log.
    fn take(given: std::net::TcpListener, words: &str, asked: Option<String>) -> Result<Self, StartFault> {
        let address = given.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
        let listener = TcpListener::from_std(given).map_err(|source| StartFault::Listen { address, source })?;
        info!(%address, given = true, "{words}");
        Ok(Self { listener, asked })
    }

    /// Whether whoever comes when this daemon takes nobody in any more is for its next life.
    pub fn is_kept(&self) -> bool {
        self.asked.is_none()
    }
}

/// A port for peers, which others may have too if it is for `reuse`. On a machine without IPv6 the unspecified address means that of
/// IPv4.
fn bind_port(address: SocketAddr, reuse: bool) -> Result<TcpListener, StartFault> {
    let bound = match listen_on(address, reuse) {
        Err(error) if address.ip().is_unspecified() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listen_on((Ipv4Addr::UNSPECIFIED, address.port()).into(), reuse)
        }
        bound => bound,
    };
    let listener = bound.map_err(|source| StartFault::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "listening");
    Ok(listener)
}

/// The address that answers HTTP.
fn bind_http(address: SocketAddr) -> Result<TcpListener, StartFault> {
    let listener = listen_on(address, false).map_err(|source| StartFault::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    info!(%address, "HTTP ready");
    Ok(listener)
}

fn listen_on(address: SocketAddr, reuse: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseport(reuse)?;
    // A restart finds the port free although connections of the last life are still being taken apart.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The local conversation by TCP: an error where it was asked for and cannot be had, a warning where it was only guessed.
fn bind_local_tcp(local: LocalTcp) -> Result<Option<TcpListener>, StartFault> {
    let (address, asked) = match local {
        LocalTcp::Off => return Ok(None),
        LocalTcp::Asked(address) => (address, true),
        LocalTcp::Guessed(address) => (address, false),
    };
    match listen_on(address, false) {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            info!(%address, "local TCP ready");
            Ok(Some(listener))
        }
        Err(source) if asked => Err(StartFault::Listen { address, source }),
        Err(error) => {
            warn!(%address, %error, "this looks like a container, but the local conversation by TCP is not served");
            Ok(None)
        }
    }
}

/// The listening sockets once more, for the next life of the daemon.
#[derive(Debug)]
pub struct Kept {
    pub listening: Vec<(&'static str, OwnedFd)>,
    /// What the settings said of those that were bound by them.
    pub asked: BTreeMap<String, String>,
    /// Whether the socket file is the daemon's own.
    pub is_own: bool,
}

impl Kept {
    pub fn of(bound: &Bound, socket: &SocketFile) -> Self {
        let ports = [("port", &bound.port), ("http", &bound.http), ("local", &bound.local)];
        let ports = || ports.iter().filter_map(|(name, port)| Some((*name, port.as_ref()?)));
        let copies = ports().map(|(name, port)| (name, port.listener.as_fd().try_clone_to_owned()));
        let listening = copies.chain([("socket", socket.copy())]).filter_map(|(name, copy)| Some((name, copy.ok()?)));
        let asked = ports().filter_map(|(name, port)| Some((name.to_owned(), port.asked.clone()?)));
        Self { listening: listening.collect(), asked: asked.collect(), is_own: socket.is_own() }
    }
}
