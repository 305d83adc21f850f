//! Daemon 0 is a server, the others are its clients; the network between them; and the means to break all of it. It never
//! decides what to break.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use ws_daemon::link::{Dialect, Role, Wire};
use ws_daemon::origin::{Origin, Said};
use ws_daemon::policy::Scope;
use ws_daemon::spool::Spool;
use ws_daemon::standing::Standing;
use ws_daemon::tasks::Tasks;
use ws_daemon_protocol::command::{Topic, Which};
use ws_daemon_protocol::id::RunId;
use ws_daemon_protocol::message::{Message, Request};

use crate::book::Book;
use crate::daemon::{Life, Parts, Site};
use crate::network::Cable;
use crate::scripts::Counts;

/// Under which both sides must know each other.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Who asks, to all daemons.
const USER: &str = "user";

const MESSAGE: usize = 1 << 20;

pub struct World {
    pub sites: Vec<Site>,
    pub counts: Counts,
    pub book: Book,
    pub rng: Rng,
    net: Arc<Net>,
    /// Of the world itself: the network, and whoever listens.
    tasks: Tasks,
}

struct Net {
    lives: Mutex<Vec<Option<Arc<Life>>>>,
    /// By whom they were dialled.
    cables: Mutex<Vec<(usize, Arc<Cable>)>>,
    /// Clients that reach nobody.
    blocked: Mutex<Vec<bool>>,
    tasks: Tasks,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world in which all daemons have been started.
    pub fn new(root: &Path, daemons: usize, seed: u64, book: Book) -> Self {
        let counts = Counts::default();
        let tasks = Tasks::default();
        let net = Net {
            lives: Mutex::new((0..daemons).map(|_| None).collect()),
            cables: Mutex::default(),
            blocked: Mutex::new(vec![false; daemons]),
            tasks: tasks.clone(),
        };
        let sites = (0..daemons).map(|index| Site::new(index, index == 0, root, counts.clone())).collect();
        let mut world = Self { sites, counts, book, rng: Rng::with_seed(seed), net: Arc::new(net), tasks };
        for index in 0..daemons {
            world.start(index);
        }
        world
    }

    /// The life of a daemon, unless it is down.
    pub fn life(&self, daemon: usize) -> Option<Arc<Life>> {
        self.net.life(daemon)
    }

    pub fn parts(&self, daemon: usize) -> Option<Parts> {
        self.life(daemon)?.parts()
    }

    pub fn start(&mut self, daemon: usize) {
        if self.life(daemon).is_some() {
            return;
        }
        self.book.note(format!("d{daemon} starts"));
        let life = Arc::new(self.sites[daemon].start(&mut self.rng));
        locked(&self.net.lives)[daemon] = Some(Arc::clone(&life));
        let (book, told_of) = (self.book.clone(), Arc::clone(&life));
        self.tasks.spawn(async move {
            let parts = tokio::select! {
                parts = told_of.up() => parts,
                () = told_of.end.cancelled() => return,
            };
            let mut news = parts.news.subscribe(vec![Topic::Runs]);
            drop(parts);
            loop {
                tokio::select! {
                    line = news.next() => match line {
                        Some(line) => book.told(&line),
                        None => return,
                    },
                    () = told_of.end.cancelled() => return,
                }
            }
        });
        if daemon > 0 {
            let (net, tasks, mut rng) = (Arc::clone(&self.net), life.tasks.clone(), self.rng.fork());
            tasks.spawn(async move {
                let parts = life.up().await;
                loop {
                    sleep(Duration::from_millis(rng.u64(20..1500))).await;
                    net.dial(daemon, &parts, &life.spool, &mut rng).await;
                }
            });
        }
    }

    pub fn crash(&mut self, daemon: usize) {
        let Some(life) = locked(&self.net.lives)[daemon].take() else { return };
        self.book.note(format!("d{daemon} crashes"));
        self.book.pages().crashed = true;
        life.crash();
    }

    /// Dials once more, whether there is a link or not.
    pub fn dial_again(&mut self, daemon: usize) {
        let Some((life, parts)) = self.life(daemon).and_then(|life| Some((Arc::clone(&life), life.parts()?))) else { return };
        self.book.note(format!("d{daemon} dials once more"));
        let (net, mut rng) = (Arc::clone(&self.net), self.rng.fork());
        let tasks = life.tasks.clone();
        tasks.spawn(async move { net.dial(daemon, &parts, &life.spool, &mut rng).await });
    }

    /// The cables of this daemon that are whole or half; the newest last.
    pub fn cables(&self, daemon: usize) -> Vec<Arc<Cable>> {
        let cables = locked(&self.net.cables);
        cables.iter().filter(|(of, _)| *of == daemon).map(|(_, cable)| Arc::clone(cable)).collect()
    }

    pub fn block(&mut self, daemon: usize, blocked: bool) {
        locked(&self.net.blocked)[daemon] = blocked;
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.book.note("all is healed");
        for daemon in 0..self.sites.len() {
            self.block(daemon, false);
            self.cables(daemon).iter().for_each(|cable| cable.hold(false));
            self.start(daemon);
        }
    }

    /// Asks the daemon, whoever that id belongs to. `None` if it is down.
    pub fn ask(&mut self, daemon: usize, text: &str) -> Option<mpsc::Receiver<Said>> {
        Some(self.parts(daemon)?.origin.order(request(text), USER, Scope::ANYONE))
    }

    /// Asks, and has the answers noted.
    pub fn submit(&mut self, id: &str) {
        let (asker, text) = {
            let pages = self.book.pages();
            let entry = &pages.entries[id];
            (entry.asker, entry.text.clone())
        };
        let Some(said) = self.ask(asker, &text) else { return };
        self.book.note(format!("{id} asked of d{asker}"));
        self.listen(id, said, false);
    }

    pub fn listen(&self, id: &str, said: mpsc::Receiver<Said>, accepted: bool) {
        self.tasks.spawn(self.book.clone().listen(id.to_owned(), said, accepted));
    }

    /// Asks for something else under the same id.
    pub fn conflict(&mut self, id: &str) {
        let entry = self.book.pages().entries[id].clone();
        let text = entry.text.replace("\"work\"", "\"other\"");
        let Some(said) = self.ask(entry.asker, &text) else { return };
        self.tasks.spawn(self.book.clone().listen_for_conflict(id.to_owned(), said));
    }

    pub fn cancel(&mut self, id: &str) {
        let entry = self.book.pages().entries[id].clone();
        let (Some(run), Some(origin)) = (entry.run, self.origin(entry.asker)) else { return };
        // From here on it may be: the order goes to disk first, and a crash may come before or behind that.
        if let Some(entry) = self.book.pages().entries.get_mut(id) {
            entry.cancelled = true;
        }
        let (book, id) = (self.book.clone(), id.to_owned());
        self.tasks.spawn(async move {
            let found = origin.cancel(&Which::Run(RunId::new(run))).await;
            book.note(format!("{id} is to be stopped: {found:?}"));
        });
    }

    fn origin(&self, daemon: usize) -> Option<Origin> {
        Some(self.parts(daemon)?.origin)
    }

    /// Nothing is unsettled, and nothing unacknowledged. All must be up.
    pub fn is_quiet(&self) -> bool {
        (0..self.sites.len()).all(|daemon| {
            self.life(daemon).is_some_and(|life| {
                let stats = life.spool.stats();
                life.parts().is_some() && stats.unsettled == 0 && stats.unacknowledged == 0
            })
        })
    }
}

impl Net {
    fn life(&self, daemon: usize) -> Option<Arc<Life>> {
        locked(&self.lives)[daemon].clone()
    }

    /// One dial, and the life of its link.
    async fn dial(&self, client: usize, parts: &Parts, spool: &Spool, rng: &mut Rng) {
        if locked(&self.blocked)[client] {
            return;
        }
        let Some((server, at_server)) = self.life(0).and_then(|life| Some((Arc::clone(&life), life.parts()?))) else { return };
        let (near, far, cable) = Cable::lay(&self.tasks, rng);
        {
            let mut cables = locked(&self.cables);
            cables.retain(|(_, cable)| cable.is_whole() || cable.is_held());
            cables.push((client, cable));
        }
        server.tasks.spawn(async move {
            let wire = Wire::new(far, Role::Server, Vec::new(), MESSAGE);
            let welcome = at_server.peers.welcome(wire, Dialect::Version2, Standing::Anonymous, format!("d{client}"));
            if let Ok(Some(newcomer)) = timeout(HANDSHAKE, welcome).await {
                at_server.peers.host(newcomer, at_server.peers.closing()).await;
            }
        });
        let Ok(epoch) = spool.raise_epoch().await else { return };
        let wire = Wire::new(near, Role::Client, Vec::new(), MESSAGE);
        let introduced = parts.peers.introduce(wire, "d0".into(), parts.peers.me(), epoch);
        if let Ok(Ok(newcomer)) = timeout(HANDSHAKE, introduced).await {
            parts.peers.host(newcomer, parts.peers.closing()).await;
        }
    }
}

fn request(text: &str) -> Request {
    match Message::parse(text) {
        Ok(Message::Run(request)) => request,
        _ => panic!("no request: {text}"),
    }
}
