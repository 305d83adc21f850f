//! The settings read again while the daemon runs, by whomever it is asked: they are checked whole, then all that can be taken up is, or
//! nothing is. No link, run or request ends for it. It never decides what can be taken up.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

use super::watch::{Files, Watch};
use super::{Encryption, identity, open, raise_open_files, service_manager, trusted};
use crate::api::Api;
use crate::audit::Audit;
use crate::config::{Difference, InUse, Role, Row, Settings};
use crate::control::Order;
use crate::exec::Executor;
use crate::http::Http;
use crate::levels::Levels;
use crate::link::Terms;
use crate::local::Local;
use crate::peers::{DialerHandle, Peers};
use crate::policy::Rules;

/// Reads the settings as they were read at the start.
pub struct Reading(pub Box<dyn Fn() -> Read + Send + Sync>);

/// The settings and what shows them, or what is wrong with them.
pub type Read = Result<(Settings, Vec<Row>), String>;

/// What goes by the settings.
pub struct Parts {
    pub peers: Peers,
    pub executor: Executor,
    pub local: Local,
    pub http: Http,
    pub api: Api,
    /// On a client.
    pub dialer: Option<DialerHandle>,
    pub encryption: Encryption,
    pub peer_runs: InUse<usize>,
    pub rules: Rules,
    pub audit: Audit,
    pub levels: Levels,
}

/// Reads the settings again.
pub struct Reloader {
    reading: Arc<Reading>,
    in_use: InUse<Settings>,
    rows: Vec<Row>,
    parts: Parts,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reading")
    }
}

impl Reloader {
    /// One that puts what it reads in the place of the settings in use, which `rows` show.
    pub fn new(reading: Reading, in_use: InUse<Settings>, rows: Vec<Row>, parts: Parts) -> Self {
        Self { reading: Arc::new(reading), in_use, rows, parts }
    }

    /// Reads them again at each order, and when a file has changed, until `stop`.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>, stop: CancellationToken) {
        let mut watch = Watch::new(Files::of(&self.in_use.now()));
        loop {
            let order = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                order = orders.recv() => match order {
                    Some(order) => Some(order),
                    None => return,
                },
                () = watch.changed() => None,
            };
            // Looked at before they are read: what changes meanwhile is seen the next time.
            let files = Files::of(&self.in_use.now());
            let done = self.reload().await;
            let now = Files::of(&self.in_use.now());
            watch = Watch::new(if now.are_those_of(&files) { files } else { now });
            if let Some(order) = order {
                // Whoever asked may be gone.
                let _ = order.send(done);
            }
        }
    }

    /// Takes up what can be, and says so; or says why nothing was changed.
    async fn reload(&mut self) -> Result<Value, Outcome> {
        service_manager::reloading();
        let done = self.attempt().await;
        service_manager::ready();
        match done {
            Ok((changed, restart)) => {
                info!(changed = changed.join(" "), "the settings were read again");
                if !restart.is_empty() {
                    warn!(settings = restart.join(" "), "settings that differ are taken up at the next start alone");
                }
                Ok(json!({ "changed": changed, "restart": restart }))
            }
            Err(why) => {
                error!(%why, "the settings were read again, and nothing was changed");
                Err(Outcome::Failed(ErrorCode::BadMessage, format!("nothing was changed: {why}")))
            }
        }
    }

    async fn attempt(&mut self) -> Result<(Vec<&'static str>, Vec<&'static str>), String> {
        let (reading, in_use, rows) = (Arc::clone(&self.reading), self.in_use.now(), self.rows.clone());
        let read = spawn_blocking(move || {
            let (later, later_rows) = (reading.0)()?;
            let difference = Difference::between(&in_use, &rows, later, &later_rows);
            trusted::check(&difference.settings, &identity::spool_path(&in_use))?;
            let audit = match &difference.settings.audit {
                later if *later == in_use.audit => None,
                None => Some(Audit::off()),
                Some(file) => Some(Audit::open(&file.path, file.params).map_err(|fault| fault.to_string())?),
            };
            Ok::<_, String>((difference, audit))
        });
        let (difference, audit) = read.await.map_err(|error| error.to_string())??;
        let Difference { settings, rows, mut changed, restart } = difference;
        // The last that can fail; from here on all is taken up.
        if self.parts.encryption.take_up(&settings).await.map_err(|fault| fault.to_string())? {
            changed.push("certificate");
        }
        if let Some(audit) = audit {
            self.parts.audit.replace(&audit).await;
        }
        self.take_up(&settings);
        self.in_use.replace(settings);
        self.rows = rows;
        Ok((changed, restart))
    }

    fn take_up(&self, settings: &Settings) {
        let Parts { peers, executor, local, http, api, dialer, peer_runs, rules, levels, .. } = &self.parts;
        let Settings { limits, times, .. } = settings;
        raise_open_files(settings);
        rules.replace(settings.rules.clone(), settings.relay, settings.serve.clone());
        peers.be_called(|me| identity::be_called(me, settings));
        peers.take_up(Terms::new(limits, times));
        peer_runs.replace(limits.peer_runs);
        executor.take_up(limits);
        local.take_up(limits);
        levels.set_usual(settings.log.clone());
        api.take_up(settings);
        http.take_up(open(settings), times.handshake, limits);
        if let (Role::Client { servers }, Some(dialer)) = (&settings.role, dialer) {
            dialer.take_up(servers.clone(), *times);
        }
    }
}
