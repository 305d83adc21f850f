//! What this life of the daemon was given: listening sockets that a service manager has opened, and keeps (sd_listen_fds(3)), or that
//! its last life had, with the connections of that. It only sorts them; nobody is taken in here.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use tracing::warn;

use super::handover::{CONNECTION, NOTE, Note};
use super::service_manager;
use crate::local::Parked;

/// The sockets, as far as they can be of use.
#[derive(Debug, Default)]
pub struct Inherited {
    pub tcp: Given,
    /// For processes of this machine.
    pub socket: Option<UnixListener>,
    /// What the last life has noted.
    pub note: Note,
    /// The connections that it had.
    pub connections: Vec<Parked>,
}

/// What was given to listen on by TCP.
#[derive(Debug, Default)]
pub struct Given {
    /// For peers, on a server.
    pub port: Option<TcpListener>,
    /// For what is asked over HTTP.
    pub http: Option<TcpListener>,
    /// For processes of this machine.
    pub local: Option<TcpListener>,
}

impl Inherited {
    /// Takes what there is, once in the life of a process. A socket is known by its name, `port`, `socket` or `local`; one of another name by
    /// what it is: by TCP it is for peers on a server, and else for processes. The rest is closed, with a word in the log.
    pub fn take(is_server: bool) -> Self {
        let mut inherited = Self::default();
        let given: Vec<(RawFd, String)> = match sd_notify::listen_fds_with_names() {
            Ok(given) => given.collect(),
            Err(error) => {
                warn!(%error, "what the service manager says of sockets is not understood; none of them is used");
                return inherited;
            }
        };
        let mut connections = Vec::new();
        for (number, name) in given {
            #[expect(
                unsafe_code,
                reason = "whoever started this process gave it this descriptor, and nothing else here uses it"
            )]
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            if name == NOTE {
                inherited.note = Note::read(descriptor).unwrap_or_else(|error| {
                    warn!(%error, "what the last life of the daemon has noted is not understood");
                    Note::default()
                });
                continue;
            }
            if name.starts_with(CONNECTION) {
                connections.push((name, descriptor));
                continue;
            }
            let sorted = kind(&descriptor).map(|kind| inherited.sort(kind, &name, is_server, descriptor));
            if !matches!(sorted, Ok(true)) {
                warn!(name, error = ?sorted.err(), "a descriptor that the service manager has given is of no use here");
            }
        }
        for (name, socket) in connections {
            if inherited.note.is_stored {
                service_manager::taken(&name);
            }
            match (inherited.note.before(&name), ioctl_fionbio(&socket, true)) {
                (Some(before), Ok(())) => inherited.connections.push(Parked { socket, before }),
                _ => warn!(name, "a connection of the daemon's last life is not known, and closed"),
            }
        }
        if inherited.note.is_stored {
            ["port", "http", "socket", "local", NOTE].into_iter().for_each(service_manager::taken);
        }
        inherited
    }

    /// `false` if it is of no use.
    fn sort(&mut self, kind: Kind, name: &str, is_server: bool, descriptor: OwnedFd) -> bool {
        match kind {
            Kind::Unix if self.socket.is_none() => self.socket = Some(descriptor.into()),
            Kind::Tcp if name == "http" => self.tcp.http = Some(descriptor.into()),
            Kind::Tcp if is_server && name != "local" && self.tcp.port.is_none() => self.tcp.port = Some(descriptor.into()),
            Kind::Tcp if name != "port" && self.tcp.local.is_none() => self.tcp.local = Some(descriptor.into()),
            _ => return false,
        }
        true
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Unix,
    Tcp,
}

/// What a descriptor is that listens.
fn kind(descriptor: impl AsFd) -> io::Result<Kind> {
    let listens = socket_acceptconn(&descriptor)? && socket_type(&descriptor)? == SocketType::STREAM;
    let kind = match socket_domain(&descriptor)? {
        AddressFamily::UNIX => Kind::Unix,
        AddressFamily::INET | AddressFamily::INET6 => Kind::Tcp,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    if !listens {
        return Err(io::Error::other("it does not listen"));
    }
    ioctl_fionbio(&descriptor, true)?;
    Ok(kind)
}
