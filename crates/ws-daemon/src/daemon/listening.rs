//! What the daemon listens on by TCP, bound or given, and all that it listens on once more for its next life. It accepts nobody.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::{TcpListener, TcpSocket};
use tracing::{info, warn};

use super::StartFault;
use crate::config::LocalTcp;
use crate::local::SocketFile;

/// Connections that wait to be accepted on TCP.
const BACKLOG: u32 = 1024;

/// The port for peers.
#[derive(Debug)]
pub struct Port {
    pub listener: TcpListener,
    /// Whoever comes when this daemon takes nobody in any more is for its next life.
    pub is_kept: bool,
}

impl Port {
    /// The one that was given, or one at `address`, which others may have too if it is for `reuse`. On a machine without IPv6 the
    /// unspecified address means that of IPv4.
    pub fn bind(given: Option<std::net::TcpListener>, address: SocketAddr, reuse: bool) -> Result<Self, StartFault> {
        if let Some(given) = given {
            return Ok(Self { listener: take(given, "listening")?, is_kept: true });
        }
        let bound = match listen_on(address, reuse) {
            Err(error) if address.ip().is_unspecified() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                listen_on((Ipv4Addr::UNSPECIFIED, address.port()).into(), reuse)
            }
            bound => bound,
        };
        let listener = bound.map_err(|source| StartFault::Listen { address, source })?;
        let address = listener.local_addr().unwrap_or(address);
        info!(%address, "listening");
        Ok(Self { listener, is_kept: false })
    }
}

/// A listening socket that was given, with words for the log.
pub fn take(given: std::net::TcpListener, words: &str) -> Result<TcpListener, StartFault> {
    let address = given.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
    let listener = TcpListener::from_std(given).map_err(|source| StartFault::Listen { address, source })?;
    info!(%address, given = true, "{words}");
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
pub fn bind_local_tcp(local: LocalTcp) -> Result<Option<TcpListener>, StartFault> {
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
    /// Whether the socket file is the daemon's own.
    pub is_own: bool,
}

impl Kept {
    pub fn of(port: Option<&Port>, socket: &SocketFile, local: Option<&TcpListener>) -> Self {
        let tcp = |listener: &TcpListener| listener.as_fd().try_clone_to_owned();
        let copies =
            [("port", port.map(|port| tcp(&port.listener))), ("socket", Some(socket.copy())), ("local", local.map(tcp))];
        let listening = copies.into_iter().filter_map(|(name, copy)| Some((name, copy?.ok()?))).collect();
        Self { listening, is_own: socket.is_own() }
    }
}
