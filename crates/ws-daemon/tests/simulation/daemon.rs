//! One daemon: what outlives its crashes, and one life of it, wired as the composition root wires it. It never decides when to
//! crash.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use ws_daemon::audit::Audit;
use ws_daemon::callers::Callers;
use ws_daemon::config::{InUse, Limits, LogFilter};
use ws_daemon::control::{Control, Means, Orders};
use ws_daemon::daemon::identity;
use ws_daemon::exec::{Executor, Surroundings};
use ws_daemon::levels::Levels;
use ws_daemon::link::Terms;
use ws_daemon::news::News;
use ws_daemon::origin::{self, Origin};
use ws_daemon::peers::{Known, Peers};
use ws_daemon::policy::Rules;
use ws_daemon::spool::{Bounds, Durability, Spool, WallClock};
use ws_daemon::tasks::{Stop, Tasks};
use ws_daemon::worker::Worker;
use ws_daemon_protocol::codec::v2::Hello;

use crate::disk::Disk;
use crate::scripts::Counts;

/// So few that runs wait in line, and that the line is full now and then.
const LIMITS: Limits = Limits {
    runs: 2,
    waiting: 2,
    waiting_bytes: 1 << 20,
    message: 1 << 20,
    nesting: 128,
    connections: 16,
    half_open: 16,
    address_connections: 1 << 20,
    address_failures: 1 << 20,
    local_connections: 16,
    held_bytes: 1 << 20,
    spool_bytes: 64 << 20,
    spool_runs: 10_000,
    peer_runs: 1_000_000,
};

/// What outlives a crash.
#[derive(Debug, Clone)]
pub struct Site {
    pub index: usize,
    pub is_server: bool,
    pub prefix: PathBuf,
    pub counts: Counts,
}

/// From one start to the next crash.
#[derive(Debug)]
pub struct Life {
    /// Cancelled: nothing of it goes on.
    pub end: CancellationToken,
    pub tasks: Tasks,
    pub spool: Spool,
    disk: Arc<Disk>,
    parts: watch::Receiver<Option<Parts>>,
}

/// What others speak to, once it has recovered.
#[derive(Debug, Clone)]
pub struct Parts {
    pub peers: Peers,
    pub origin: Origin,
    pub news: News,
}

impl Site {
    pub fn new(index: usize, is_server: bool, root: &Path, counts: Counts) -> Self {
        let prefix = root.join(format!("daemon-{index}"));
        std::fs::create_dir(&prefix).expect("made");
        Self { index, is_server, prefix, counts }
    }

    pub fn name(&self) -> String {
        format!("d{}", self.index)
    }

    /// Starts it. It is there when its [`Life::parts`] are.
    pub fn start(&self, rng: &mut Rng) -> Life {
        let end = CancellationToken::new();
        let tasks = Tasks::until(end.clone());
        let wall: WallClock = Arc::new(|| 1_800_000_000_000);
        let path = self.prefix.join("spool.db");
        let opened = Spool::open_by_hand(&path, Bounds::default(), Durability::Normal, wall);
        let (opened, hand) = opened.expect("the last life has let go of it");
        assert!(opened.set_aside.is_none(), "a crash has damaged the spool");
        let disk = Disk::new(hand);
        tasks.spawn(Arc::clone(&disk).run(rng.fork()));
        let (tell, parts) = watch::channel(None);
        let (site, spool, inside) = (self.clone(), opened.spool.clone(), tasks.clone());
        tasks.spawn(async move {
            let parts = site.boot(spool, inside).await;
            tell.send_replace(Some(parts));
            std::future::pending::<()>().await;
        });
        Life { end, tasks, spool: opened.spool, disk, parts }
    }

    async fn boot(self, spool: Spool, tasks: Tasks) -> Parts {
        let stop = Stop::default();
        let me = self.hello(&spool).await;
        let known = identity::known_peers(Some(&spool)).await;
        let (changes, remembering) = identity::remember(Some(spool.clone()), stop.close_local.clone());
        tasks.spawn(remembering);
        let (inbound, inbound_receiver) = mpsc::channel(1024);
        let (unclaimed, unclaimed_receiver) = mpsc::channel(1024);
        let terms = Terms { message: LIMITS.message, nesting: LIMITS.nesting, ping: Duration::from_secs(20) };
        let known = Known { records: known, ..Known::default() };
        let peers = Peers::new(inbound, terms, stop.close_links.clone(), me, known, changes);
        let around = Surroundings::new(&self.prefix, &self.prefix.join("socket"), std::iter::empty()).expect("no NUL");
        let around = around.with_doer(self.counts.doer(self.index));
        let executor = Executor::new(around, &LIMITS, tasks.clone(), tasks.clone(), stop.clone()).expect("threads");
        let news = News::default();
        let (runs, rest, audit) = (tasks.clone(), tasks.clone(), Audit::off());
        let worker = Worker::new(executor.clone(), peers.clone(), Some(spool.clone()), audit.clone(), runs, rest, stop.clone());
        let means = origin::Means {
            peers: peers.clone(),
            spool: Some(spool.clone()),
            executor: executor.clone(),
            news: news.clone(),
            requests: tasks.clone(),
            lives: tasks.clone(),
            stop: stop.clone(),
        };
        let origin = if self.is_server {
            Origin::of_server(means)
        } else {
            let (origin, sending) = Origin::of_client(means, LIMITS.held_bytes);
            tasks.spawn(sending);
            origin
        };
        worker.recover().await;
        origin.recover().await;
        let control = Control::new(Means {
            dialer: None,
            peers: peers.clone(),
            origin: origin.clone(),
            worker,
            executor,
            spool: Some(spool),
            news: news.clone(),
            tls: None,
            client_tls: None,
            reached: None,
            callers: Callers::default(),
            rules: Rules::default(),
            audit,
            peer_runs: InUse::new(LIMITS.peer_runs),
            reload: Orders::new().0,
            restart: Orders::new().0,
            levels: Levels::new(&LogFilter::default()).0,
            rest: tasks.clone(),
            since: Instant::now(),
        });
        tasks.spawn(async move {
            // Statuses that nobody waits for are not of this world, but somebody must hold the other end.
            let _receiver = unclaimed_receiver;
            control.sort(inbound_receiver, unclaimed, stop.close_local).await;
        });
        Parts { peers, origin, news }
    }

    async fn hello(&self, spool: &Spool) -> Hello {
        let identity = spool.identity();
        let epoch = if self.is_server { spool.raise_epoch().await.expect("the disk is well") } else { identity.epoch };
        Hello {
            name: self.name(),
            configured: true,
            instance: identity.instance.into(),
            epoch,
            version: "0.2.0".into(),
            tags: Vec::new(),
            capacity: LIMITS.runs as u64,
            features: vec!["queue".into(), "output".into(), "events".into()],
            former: Vec::new(),
        }
    }
}

impl Life {
    /// What others speak to, if it has got so far.
    pub fn parts(&self) -> Option<Parts> {
        self.parts.borrow().clone()
    }

    /// Ends when it has recovered; never if it crashes before.
    pub async fn up(&self) -> Parts {
        let mut parts = self.parts.clone();
        let found = parts.wait_for(Option::is_some).await.map(|parts| parts.clone());
        match found {
            Ok(Some(parts)) => parts,
            _ => std::future::pending().await,
        }
    }

    /// Everything stops where it stands; what waits for the disk was never done.
    pub fn crash(&self) {
        self.end.cancel();
        self.disk.cut_off();
    }
}
