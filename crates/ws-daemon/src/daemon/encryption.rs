//! From the settings to the keys of either end of a link. It never reads one.

use crate::config::{Role, Settings};
use crate::tls::{ClientPlan, ClientTls, KeysFault, ServerPlan, ServerTls};

/// The folder of the prefix that keys are in.
const FOLDER: &str = "keys";

/// TLS of the end that this daemon is.
#[derive(Debug)]
pub enum Encryption {
    /// What a server shows.
    Server(ServerTls),
    /// What a client believes.
    Client(ClientTls),
}

impl Encryption {
    /// By the settings; what they name is looked at.
    ///
    /// # Errors
    /// Which file is wrong, and what with it.
    pub fn of(settings: &Settings) -> Result<Self, KeysFault> {
        let folder = settings.prefix.join(FOLDER);
        let tls = settings.tls.clone();
        match &settings.role {
            Role::Server { listen, .. } => {
                let mut names = tls.names;
                if !listen.ip().is_unspecified() {
                    names.push(listen.ip().to_string());
                }
                let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
                let (on, own, clients, life, plain) = (tls.on, tls.own, tls.clients, tls.lifetime, tls.plain);
                ServerTls::open(ServerPlan { folder, on, own, clients, host, names, life, plain }).map(Self::Server)
            }
            Role::Client { .. } => {
                let client = ClientTls::new(ClientPlan { folder, roots: tls.roots, identity: tls.own });
                client.check()?;
                Ok(Self::Client(client))
            }
        }
    }

    /// A client's.
    pub fn client(&self) -> Option<&ClientTls> {
        match self {
            Self::Server(_) => None,
            Self::Client(tls) => Some(tls),
        }
    }

    /// A server's.
    pub fn server(&self) -> Option<&ServerTls> {
        match self {
            Self::Server(tls) => Some(tls),
            Self::Client(_) => None,
        }
    }
}
