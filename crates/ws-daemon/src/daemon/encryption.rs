//! From the settings to the keys of either end of a link. It never reads one.

use tokio::task::spawn_blocking;

use crate::config::{Role, Settings};
use crate::tls::{ClientPlan, ClientTls, KeysFault, ServerPlan, ServerTls};

/// The folder of the prefix that keys are in.
const FOLDER: &str = "keys";

enum Plan {
    Server(ServerPlan),
    Client(ClientPlan),
}

impl Plan {
    fn of(settings: &Settings) -> Self {
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
                Self::Server(ServerPlan { folder, on, own, clients, host, names, life, plain })
            }
            Role::Client { .. } => Self::Client(ClientPlan { folder, roots: tls.roots, identity: tls.own }),
        }
    }
}

/// TLS of the end that this daemon is.
#[derive(Debug, Clone)]
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
        match Plan::of(settings) {
            Plan::Server(plan) => ServerTls::open(plan).map(Self::Server),
            Plan::Client(plan) => {
                plan.check()?;
                Ok(Self::Client(ClientTls::new(plan)))
            }
        }
    }

    /// Goes by other settings of the same role, and reads all files again. Whether another certificate is shown from here on.
    ///
    /// # Errors
    /// Which file is wrong, and what with it: then all is as it was.
    pub async fn take_up(&self, settings: &Settings) -> Result<bool, KeysFault> {
        match (self, Plan::of(settings)) {
            (Self::Server(tls), Plan::Server(plan)) => {
                let before = tls.shown();
                tls.reload(plan).await?;
                Ok(tls.shown() != before)
            }
            (Self::Client(tls), Plan::Client(plan)) => {
                let plan = spawn_blocking(move || plan.check().map(|()| plan)).await;
                tls.replace(plan.map_err(|error| KeysFault::Other(error.to_string()))??);
                Ok(false)
            }
            _ => Ok(false),
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
