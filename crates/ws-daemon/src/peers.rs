//! The table of live links and of the peers behind them: who is next, who was ever here, and who may come in under which name. A
//! link is in it exactly as long as its session runs, or until the same instance comes by another link. It never asks anything
//! of a peer, and knows no disk: what is to be kept is told as it changes.

mod arrivals;
mod dialer;
mod newcomer;
mod registry;
mod returning;
mod table;

pub use arrivals::Awaited;
pub use dialer::{Dialer, DialerHandle, EpochSource};
pub use newcomer::Newcomer;
pub use registry::{PeerChange, PeerRecord, REGISTERED, Unwelcome};
pub use table::{Choice, Match, Pick, Registered};

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Span, info, info_span, warn};
use ws_daemon_protocol::codec::v2::Hello;
use ws_daemon_protocol::target::Target;

use crate::config::InUse;
use crate::counters::{Count, Counters};
use crate::link::{self, CLOSE_REVOKED, Ended, Gone, Inbound, Link, Terms, Wire};
use crate::policy::Rules;
use crate::register::Register;
use crate::standing::Standing;
use arrivals::Arrivals;
use registry::Registry;
use table::Table;

/// The table. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    table: Mutex<Table>,
    register: Register,
    arrivals: Arrivals,
    inbound: mpsc::Sender<Inbound>,
    terms: InUse<Terms>,
    rules: Rules,
    /// Cancelled when all links are to be closed.
    closing: CancellationToken,
    draining: AtomicBool,
    restarting: AtomicBool,
    counters: Counters,
    changes: Box<dyn Fn(PeerChange) + Send + Sync>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("table", &self.table).finish_non_exhaustive()
    }
}

/// A link's place in the table, given up when dropped.
#[derive(Debug)]
struct Place {
    peers: Peers,
    link: Link,
    arrival: u64,
}

/// A newcomer that was taken in: in the table, and still without its life. Dropped, it is gone from there.
#[derive(Debug)]
pub struct Hosted {
    wire: Wire,
    place: Place,
    /// The links that it replaces.
    before: Vec<Link>,
}

/// Who is known before anyone has come, and what peers may do.
#[derive(Debug, Default)]
pub struct Known {
    /// The peers that were here before.
    pub records: Vec<PeerRecord>,
    /// Those that can prove who they are.
    pub register: Register,
    /// What they may ask for.
    pub rules: Rules,
}

/// What came of a newcomer.
#[derive(Debug)]
pub enum Life {
    /// It was a link, which has ended.
    Ended(Ended),
    /// It was not taken in.
    Unwelcome(Unwelcome),
}

impl Peers {
    /// An empty table whose links hand up to `inbound`; each hears of relaying only if the rules let it have it. This daemon is
    /// `me`; `changes` is told, in order and without waiting, what is to be remembered.
    #[must_use]
    pub fn new(
        inbound: mpsc::Sender<Inbound>,
        terms: Terms,
        closing: CancellationToken,
        me: Hello,
        known: Known,
        changes: impl Fn(PeerChange) + Send + Sync + 'static,
    ) -> Self {
        let Known { records, register, rules } = known;
        let table = Mutex::new(Table::new(Registry::new(records), me.into()));
        let (arrivals, counters, changes) = (Arrivals::default(), Counters::default(), Box::new(changes));
        let (terms, draining, restarting) = (InUse::new(terms), AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner {
            table,
            register,
            arrivals,
            inbound,
            terms,
            rules,
            closing,
            draining,
            restarting,
            counters,
            changes,
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who can prove who they are.
    #[must_use]
    pub fn register(&self) -> &Register {
        &self.0.register
    }

    /// Closes the links of a registered peer at once, with words for it: they are in the table no more when this returns.
    pub fn expel(&self, name: &str) {
        const WORDS: &str = "this peer's token is good no more: it was revoked, or another was traded for it";
        let is_its = |link: &&Link| link.standing().proven().is_some_and(|proven| *proven.name == *name);
        for link in self.links().iter().filter(is_its) {
            info!(peer = name, address = link.address(), "a link is closed: its peer was revoked, or has another token");
            self.table().remove(link);
            link.expel(CLOSE_REVOKED, WORDS);
        }
    }

    /// Nothing is remembered any more of the instances that the register says are gone; whoever waits for one looks again.
    pub fn forget_gone(&self) {
        let mut table = self.table();
        let gone: Vec<String> = table.registry.records().map(|record| record.instance.clone()).collect();
        let gone = gone.into_iter().filter(|instance| self.0.register.is_gone(instance));
        let changes: Vec<PeerChange> = gone.filter_map(|instance| table.registry.forget(&instance)).collect();
        drop(table);
        changes.into_iter().for_each(&self.0.changes);
        self.touch();
    }

    /// Who this daemon is.
    #[must_use]
    pub fn me(&self) -> Arc<Hello> {
        Arc::clone(&self.table().me)
    }

    /// From here on this daemon is somebody else: all links on which it said who it is are closed.
    pub fn become_another(&self, me: Hello) {
        let mut table = self.table();
        table.me = me.into();
        table.links.iter().filter(|link| link.is_v2()).for_each(Link::close);
    }

    /// From here on this daemon is called otherwise: links that are made from now on hear it.
    pub fn be_called(&self, call: impl FnOnce(&mut Hello)) {
        let mut table = self.table();
        let mut me = Hello::clone(&table.me);
        call(&mut me);
        table.me = me.into();
    }

    /// What links that are made now go by.
    #[must_use]
    pub fn terms(&self) -> Terms {
        *self.0.terms.now()
    }

    /// Links that are made from here on go by `terms`.
    pub fn take_up(&self, terms: Terms) {
        self.0.terms.replace(terms);
    }

    /// What became of connections and links, in numbers.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Who has this name among those that are connected.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Link> {
        self.table().named(name).cloned()
    }

    /// The peer that gets the next request.
    #[must_use]
    pub fn pick(&self, choice: &Choice<'_>) -> Pick {
        self.table().pick(choice)
    }

    /// The peer that would get the next request, which it does not.
    #[must_use]
    pub fn peek(&self, choice: &Choice<'_>) -> Option<Link> {
        self.table().peek(choice)
    }

    /// The link to an instance, if it is connected.
    #[must_use]
    pub fn link_of(&self, instance: &str) -> Option<Link> {
        self.table().by_instance.get(instance).cloned()
    }

    /// All that may run a request, in order of name: connected ones, seed peers too, and absent ones that are remembered. A name
    /// belongs to whoever had it last.
    #[must_use]
    pub fn all_matching(&self, target: Option<&Target>) -> Vec<Match> {
        let all = self.registered().into_iter();
        let matching = all.filter(|peer| target.is_none_or(|target| target.matches(&peer.name, &peer.tags)));
        let mut matching: Vec<Registered> = matching.collect();
        matching.sort_by(|one, other| {
            let rank = |peer: &Registered| (peer.link.is_none(), std::cmp::Reverse(peer.last_seen_ms));
            one.name.cmp(&other.name).then_with(|| rank(one).cmp(&rank(other)))
        });
        matching.dedup_by(|later, first| later.name == first.name);
        matching.into_iter().map(|Registered { instance, name, tags, link, .. }| Match { instance, name, tags, link }).collect()
    }

    /// Everyone that is connected or remembered, in no order.
    #[must_use]
    pub fn registered(&self) -> Vec<Registered> {
        self.table().registered()
    }

    /// The links there are, in order of arrival.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        self.table().links.clone()
    }

    /// The arrivals of whoever is awaited, or of anyone: `changed` ends, by whatever result, when there was one since it was made.
    #[must_use]
    pub fn arrivals(&self, awaited: Option<Awaited>) -> watch::Receiver<u64> {
        awaited.map_or_else(|| self.0.arrivals.of_anyone(), |awaited| self.0.arrivals.of(awaited))
    }

    /// Has whoever waits for an arrival look again.
    pub fn touch(&self) {
        self.0.arrivals.touch();
    }

    /// Whether anybody is connected.
    #[must_use]
    pub fn is_somebody_there(&self) -> bool {
        !self.table().links.is_empty()
    }

    /// Ends when a peer is there that takes new work.
    pub async fn somebody(&self) {
        let mut arrivals = self.arrivals(None);
        loop {
            if self.table().links.iter().any(|link| !link.is_draining()) {
                return;
            }
            // The sender is in the table itself: it does not go away.
            if arrivals.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks all version 2 peers for no more new work, and those that come later; if this daemon `restarts`, until it is back.
    pub fn drain(&self, restarts: bool) {
        self.0.restarting.store(restarts, Ordering::Release);
        self.0.draining.store(true, Ordering::Release);
        for link in self.links() {
            link.send_drain(restarts);
        }
    }

    fn is_restarting(&self) -> bool {
        self.0.restarting.load(Ordering::Acquire)
    }

    /// Closes one link, or with the others all of them.
    #[must_use]
    pub fn closing(&self) -> CancellationToken {
        self.0.closing.child_token()
    }

    /// Has a link's life from here on: in the table until its session ends, unless it is not taken in. `closing` closes this one
    /// link; see [`closing`](Self::closing).
    pub async fn host(&self, newcomer: Newcomer, closing: CancellationToken) -> Life {
        match self.take_in(newcomer, closing).await {
            Ok(hosted) => Life::Ended(hosted.live().await),
            Err(unwelcome) => Life::Unwelcome(unwelcome),
        }
    }

    /// The first part of that: until it is in the table.
    ///
    /// # Errors
    /// Why it is not taken in; it has been told.
    pub async fn take_in(&self, newcomer: Newcomer, closing: CancellationToken) -> Result<Hosted, Unwelcome> {
        let Newcomer { mut wire, address, mut hello, me, standing } = newcomer;
        let proved = match hello.as_deref_mut() {
            Some(hello) => self.hold_to(&standing, hello).await,
            None => Ok(()),
        };
        let (place, before) = match proved.and_then(|()| self.join(hello, me, &address, standing, closing)) {
            Ok(joined) => joined,
            Err(unwelcome) => {
                self.counters().count(Count::Unwelcome);
                warn!(address, error = %unwelcome, "a link was refused");
                wire.part(unwelcome.close_code(), &unwelcome.close_words()).await;
                return Err(unwelcome);
            }
        };
        if wire.is_encrypted() {
            place.link.runs_over_tls();
        }
        Ok(Hosted { wire, place, before })
    }

    /// When nobody sorts any more, the daemon is stopping.
    async fn hand_up(&self, what: fn(Link) -> Inbound, link: Link) {
        // Made when there is a place for it: while it waits, each link of ten thousand would keep room for the largest of all.
        if let Ok(place) = self.0.inbound.reserve().await {
            place.send(what(link));
        }
    }

    fn settle_in(&self, table: &mut Table, link: Link) -> Place {
        Place { peers: self.clone(), arrival: table.add(&link), link }
    }

    fn announce(&self, link: &Link) {
        match link.standing() {
            // It may be the way to anyone.
            Standing::Server => self.touch(),
            Standing::Anonymous | Standing::Peer(_) => self.0.arrivals.came(link.peer(), link.instance()),
        }
    }
}

impl Hosted {
    /// The life of the link, until its session ends. Whatever it needs for a moment only is boxed: ten thousand links would each keep the
    /// room for it for as long as they stand. The link's span is for the moments in which something is logged: kept, it costs each of them
    /// as much again.
    pub async fn live(self) -> Ended {
        let Self { mut wire, place, before } = self;
        Box::pin(come_up(&mut wire, &place, before)).await;
        let (inbound, terms) = (place.peers.0.inbound.clone(), place.peers.terms());
        let ended = link::serve(wire, place.link.clone(), inbound, terms).await;
        Box::pin(go(place, &ended)).await;
        ended
    }
}

/// From the table to whoever sorts what links hand up.
async fn come_up(wire: &mut Wire, place: &Place, before: Vec<Link>) {
    let Place { peers, link, .. } = place;
    if *link.standing() != Standing::Server && link.is_v2() {
        // It hears by this that it was taken in. If that fails, the session sees it at once.
        drop(wire.say_hello(link.me()));
    }
    for before in before.into_iter().filter(Link::replace) {
        span(link).in_scope(|| {
            info!(
                address = before.address(),
                "this link replaces the one of the same instance, or of who only claimed its name"
            );
        });
        peers.hand_up(Inbound::Down, before).await;
    }
    if peers.0.draining.load(Ordering::Acquire) {
        link.send_drain(peers.is_restarting());
    }
    peers.hand_up(Inbound::Up, link.clone()).await;
    peers.counters().count(Count::Linked);
    span(link).in_scope(|| info!(address = link.address(), version = link.version(), "link up"));
}

/// Out of the table, and told so.
async fn go(place: Place, ended: &Ended) {
    let (peers, link) = (place.peers.clone(), place.link.clone());
    drop(place);
    peers.counters().count(cause(ended));
    let span = span(&link);
    if link.replace() {
        peers.hand_up(Inbound::Down, link).await;
    }
    span.in_scope(|| info!(reason = %ended, "link down"));
}

fn span(link: &Link) -> Span {
    info_span!("link", peer = link.peer())
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.peers.table();
        if table.arrivals.binary_search(&self.arrival).is_err() {
            return;
        }
        table.remove(&self.link);
        let change = self.link.instance().and_then(|instance| table.registry.gone(instance, wall_ms()));
        drop(table);
        change.into_iter().for_each(&self.peers.0.changes);
    }
}

/// Under which count a link's end goes.
fn cause(ended: &Ended) -> Count {
    match ended {
        Ended::Gone(Gone::Closed) | Ended::Told(_) | Ended::Restarts => Count::ByPeer,
        Ended::Gone(Gone::Lost) => Count::Lost,
        Ended::Gone(Gone::TooLarge(_)) => Count::TooLarge,
        Ended::Gone(Gone::NotUtf8) => Count::NotUtf8,
        Ended::Gone(Gone::Protocol(_)) => Count::AgainstProtocol,
        Ended::Gone(Gone::Broken(_)) => Count::Broken,
        Ended::Dead(_) => Count::Silent,
        Ended::DoesNotRead => Count::DoesNotRead,
        Ended::Replaced => Count::Replaced,
        Ended::ClosedHere | Ended::RestartsHere | Ended::Expelled(..) => Count::Here,
    }
}

/// The wall clock in ms since 1970: to be shown, and for times that people give by it.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use ws_daemon_protocol::codec::v2::{Order, Progress, Verdict};
    use ws_daemon_protocol::command::StreamName;
    use ws_daemon_protocol::event::Chunk;
    use ws_daemon_protocol::id::RunId;
    use ws_daemon_protocol::message::Params;
    use ws_daemon_protocol::options::{OutputMode, Route};
    use ws_daemon_protocol::outcome::{ErrorCode, Outcome};

    use super::*;
    use crate::link::{Ask, AskBody, Departure, Dialect, IncomingRun, Role, RunEvent, RunStream, Sink, Stream, run_stream};
    use crate::tasks::Tasks;

    /// A daemon as its links know it.
    struct End {
        peers: Peers,
        inbound: mpsc::Receiver<Inbound>,
        closing: CancellationToken,
    }

    fn hello(name: &str, instance: &str) -> Hello {
        Hello {
            name: name.into(),
            configured: false,
            instance: instance.into(),
            epoch: 1,
            version: "0.2.0".into(),
            tags: vec![format!("tag-{name}")],
            capacity: 4,
            features: Vec::new(),
            former: Vec::new(),
        }
    }

    fn end(me: Hello, records: Vec<PeerRecord>) -> End {
        let (sender, inbound) = mpsc::channel(64);
        let terms = Terms { message: 1 << 20, nesting: 128, ping: Duration::from_secs(20) };
        let closing = CancellationToken::new();
        let known = Known { records, ..Known::default() };
        let peers = Peers::new(sender, terms, closing.clone(), me, known, |_| {});
        End { peers, inbound, closing }
    }

    /// Connects `client` to `server` over a stream in memory; both links are up when this returns.
    async fn connect(tasks: &Tasks, server: &mut End, client: &mut End, epoch: u64) -> (Link, Link) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let host = server.peers.clone();
        tasks.spawn(async move {
            let wire = Wire::new(Stream::boxed(near), Role::Server, Vec::new(), 1 << 20);
            let newcomer =
                host.welcome(wire, Dialect::Version2, Standing::Anonymous, "near".into()).await.expect("it says HELLO");
            host.host(newcomer, host.closing()).await;
        });
        let dialler = client.peers.clone();
        tasks.spawn(async move {
            let wire = Wire::new(Stream::boxed(far), Role::Client, Vec::new(), 1 << 20);
            let newcomer = dialler.introduce(wire, "far".into(), dialler.me(), epoch).await.expect("it is taken in");
            dialler.host(newcomer, dialler.closing()).await;
        });
        (up(server).await, up(client).await)
    }

    async fn up(end: &mut End) -> Link {
        match end.inbound.recv().await {
            Some(Inbound::Up(link)) => link,
            other => panic!("{other:?}"),
        }
    }

    async fn run(end: &mut End) -> IncomingRun {
        match end.inbound.recv().await {
            Some(Inbound::Run(run)) => run,
            other => panic!("{other:?}"),
        }
    }

    fn ask(link: &Link, run: &str, order: Order) -> RunStream {
        let (sink, stream) = run_stream(order.credit);
        let body = AskBody::Run("t".into(), Params::new(None), order);
        let (departure, sink) = (Departure::default(), Sink::Stream(sink));
        link.ask(Ask { body, id: None, run: RunId::new(run), departure, sink }).expect("it is open");
        stream
    }

    fn queued(attempt: u32) -> Order {
        Order { queue: true, attempt, ..Order::default() }
    }

    #[tokio::test]
    async fn a_run_with_all_that_becomes_known_of_it() {
        let tasks = Tasks::default();
        let (mut server, mut client) = (end(hello("server", "s"), Vec::new()), end(hello("web", "w"), Vec::new()));
        let (to_client, to_server) = connect(&tasks, &mut server, &mut client, 1).await;
        assert_eq!((to_client.peer(), to_client.instance(), to_client.capacity()), ("web", Some("w"), Some(4)));
        assert_eq!((to_server.peer(), to_server.is_v2(), to_server.version()), ("server", true, Some("0.2.0")));
        let order = Order { output: OutputMode::Stream, events: true, credit: 100, ..Order::default() };
        let mut stream = ask(&to_client, "r1", order.clone());
        let incoming = run(&mut client).await;
        assert_eq!((&incoming.order, incoming.replier.asker()), (&order, Some("s")));
        let replier = incoming.replier;
        let chunk = |offset, data: &str| {
            let (run, stream, data) = (RunId::new("r1"), StreamName::Stdout, data.to_owned());
            Chunk { run, stream, offset, data, is_base64: false, gap: 0 }
        };
        replier.event(Progress::Delivered);
        replier.event(Progress::Started);
        replier.output(&chunk(0, "a"));
        replier.output(&chunk(1, "beyond the credit"));
        for expected in [RunEvent::Delivered, RunEvent::Started, RunEvent::Output(chunk(0, "a"))] {
            assert_eq!(stream.next().await, expected);
        }
        assert_eq!(to_client.in_flight(), 1);
        to_client.ping().await.expect("it lives");
        stream.credit(1000);
        match client.inbound.recv().await {
            Some(Inbound::Credit { link, run, bytes }) => {
                assert_eq!((link, run, bytes), (to_server.clone(), RunId::new("r1"), 1000));
            }
            other => panic!("{other:?}"),
        }
        replier.link().output_room().await;
        replier.output(&chunk(18, "c"));
        replier.report(&Outcome::Exited(3).into(), Verdict::default());
        assert_eq!(stream.next().await, RunEvent::Output(Chunk { gap: 17, ..chunk(18, "c") }));
        assert_eq!(stream.next().await, RunEvent::Report(Outcome::Exited(3).into(), Verdict::default()));
        assert_eq!(to_client.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_status_of_another_attempt_or_of_a_forgotten_run_is_late_and_orders_go_across() {
        let tasks = Tasks::default();
        let (mut server, mut client) = (end(hello("server", "s"), Vec::new()), end(hello("web", "w"), Vec::new()));
        let (to_client, to_server) = connect(&tasks, &mut server, &mut client, 1).await;
        let mut stream = ask(&to_client, "r1", queued(2));
        let replier = run(&mut client).await.replier;
        let verdict = |attempt, refused| Verdict { attempt: Some(attempt), refused };
        replier.report(&Outcome::Exited(1).into(), verdict(1, false));
        replier.report(&Outcome::failed(ErrorCode::Busy, "m").into(), verdict(2, true));
        match server.inbound.recv().await {
            Some(Inbound::LateStatus { link, run, verdict: found, report }) => {
                assert_eq!((link, run, found), (to_client.clone(), RunId::new("r1"), verdict(1, false)));
                assert_eq!(report.status, Some(1));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(stream.next().await, RunEvent::Report(Outcome::failed(ErrorCode::Busy, "m").into(), verdict(2, true)));
        to_server.send_status(&RunId::new("r0"), verdict(1, false), &Outcome::Exited(0).into());
        assert!(matches!(server.inbound.recv().await, Some(Inbound::LateStatus { run, .. }) if run == RunId::new("r0")));
        to_client.send_ack(&RunId::new("r1"), 2);
        to_client.send_cancel(&RunId::new("r2"), None);
        let acked = client.inbound.recv().await;
        assert!(matches!(&acked, Some(Inbound::Ack { run, attempt: 2, .. }) if *run == RunId::new("r1")), "{acked:?}");
        let cancelled = client.inbound.recv().await;
        assert!(matches!(&cancelled, Some(Inbound::Cancel { run, attempt: None, .. }) if *run == RunId::new("r2")));
    }

    #[tokio::test]
    async fn a_lost_link_settles_direct_runs_and_tells_queued_ones() {
        let tasks = Tasks::default();
        let (mut server, mut client) = (end(hello("server", "s"), Vec::new()), end(hello("web", "w"), Vec::new()));
        let (to_client, to_server) = connect(&tasks, &mut server, &mut client, 1).await;
        let mut stream = ask(&to_client, "r1", queued(1));
        let (settle, settled) = oneshot::channel();
        let body = AskBody::Run("t".into(), Params::new(None), Order::default());
        let (departure, sink) = (Departure::default(), Sink::Once(settle));
        to_client.ask(Ask { body, id: None, run: RunId::new("r2"), departure, sink }).expect("it is open");
        run(&mut client).await;
        run(&mut client).await;
        client.closing.cancel();
        assert_eq!(stream.next().await, RunEvent::Lost { left: true });
        assert_eq!(settled.await.expect("settled").status, Some(-5));
        for (end, link) in [(&mut server, to_client), (&mut client, to_server)] {
            let down = end.inbound.recv().await;
            assert!(matches!(&down, Some(Inbound::Down(gone)) if *gone == link), "{down:?}");
            assert!(end.peers.links().is_empty());
        }
        let known = server.peers.registered();
        assert!(known.len() == 1 && known[0].link.is_none() && known[0].last_seen_ms.is_some(), "{known:?}");
    }

    #[tokio::test]
    async fn a_newer_link_of_an_instance_comes_up_behind_the_end_of_the_old_one() {
        let tasks = Tasks::default();
        let (mut server, mut client) = (end(hello("server", "s"), Vec::new()), end(hello("web", "w"), Vec::new()));
        let (old, _) = connect(&tasks, &mut server, &mut client, 1).await;
        let mut arrivals = server.peers.arrivals(None);
        let mut again = end(hello("web", "w"), Vec::new());
        let (near, far) = tokio::io::duplex(64 << 10);
        let (host, dialler) = (server.peers.clone(), again.peers.clone());
        tasks.spawn(async move {
            let wire = Wire::new(Stream::boxed(near), Role::Server, Vec::new(), 1 << 20);
            let newcomer =
                host.welcome(wire, Dialect::Version2, Standing::Anonymous, "near".into()).await.expect("it says HELLO");
            host.host(newcomer, host.closing()).await;
        });
        tasks.spawn(async move {
            let wire = Wire::new(Stream::boxed(far), Role::Client, Vec::new(), 1 << 20);
            let newcomer = dialler.introduce(wire, "far".into(), dialler.me(), 2).await.expect("it is taken in");
            dialler.host(newcomer, dialler.closing()).await;
        });
        arrivals.changed().await.expect("the table is there");
        let down = server.inbound.recv().await;
        assert!(matches!(&down, Some(Inbound::Down(gone)) if *gone == old), "{down:?}");
        let new = up(&mut server).await;
        up(&mut again).await;
        assert!(new != old && old.is_replaced() && new.peer() == "web");
        assert_eq!(server.peers.link_of("w"), Some(new.clone()));
        assert_eq!(server.peers.links(), [new]);
        // The old end hears that it is over; nothing more comes of it here.
        assert!(matches!(client.inbound.recv().await, Some(Inbound::Down(_))));
    }

    #[tokio::test]
    async fn a_seed_link_honours_what_the_asker_can_do_alone_and_says_what_it_cannot() {
        let seed = Link::seed("a", Standing::Anonymous, Arc::new(hello("me", "m")), 1 << 20, CancellationToken::new());
        let alone = Order { timeout_ms: Some(5), attempt: 1, queue: true, ..Order::default() };
        assert_eq!(seed.supports(&alone), Ok(()));
        let table = [
            (Order { output: OutputMode::Tail, ..Order::default() }, "\"output\" cannot be honoured"),
            (Order { events: true, ..Order::default() }, "\"events\" cannot be honoured"),
            (Order { hop: Some(Box::default()), ..Order::default() }, "\"to\" cannot be honoured"),
        ];
        for (order, words) in table {
            let refused = seed.supports(&order);
            let Err(Outcome::Failed(ErrorCode::Unsupported, said)) = &refused else { panic!("{refused:?}") };
            assert!(said.starts_with(words), "{said}");
            let (closing, me) = (CancellationToken::new(), Arc::new(hello("me", "m")));
            assert_eq!(
                Link::version2("b", "b", hello("b", "i"), Standing::Anonymous, me, 1 << 20, closing).supports(&order),
                Ok(())
            );
        }
        assert!(seed.ping().await.is_err() && seed.instance().is_none() && seed.tags().is_empty());
    }

    fn record(name: &str, instance: &str, last_seen_ms: u64) -> PeerRecord {
        PeerRecord {
            instance: instance.into(),
            name: name.into(),
            tags: vec!["absent".into()],
            version: String::new(),
            epoch: 1,
            capacity: 0,
            address: String::new(),
            last_seen_ms,
        }
    }

    #[tokio::test]
    async fn who_is_chosen_and_why_nobody() {
        let server = end(hello("server", "s"), vec![record("web-3", "w3", 5), record("web-1", "ghost", 3)]);
        let join = |hello| {
            server.peers.join(hello, server.peers.me(), "a", Standing::Anonymous, CancellationToken::new()).expect("taken in").0
        };
        let one = join(Some(Box::new(hello("web-1", "w1"))));
        let two = join(Some(Box::new(hello("web-2", "w2"))));
        let _seed = join(None);
        let target = |text: &str| Target::parse(text).expect("a target");
        let pick = |target: Option<&Target>, route: &Route, not: Option<&str>| match server.peers.pick(&Choice {
            target,
            route,
            not,
            within: None,
        }) {
            Pick::Link(link) => link.peer().to_owned(),
            other => format!("{other:?}"),
        };
        let turn = Route::RoundRobin;
        let turns: Vec<String> = (0..4).map(|_| pick(None, &turn, None)).collect();
        assert_eq!(turns, ["web-1", "web-2", "a", "web-1"]);
        assert_eq!(pick(Some(&target("tag:tag-web-2")), &turn, None), "web-2");
        assert_eq!(pick(Some(&target("web-*")), &turn, Some("w1")), "web-2");
        assert_eq!(pick(Some(&target("web-2")), &turn, None), "web-2", "by its name");
        assert_eq!(pick(Some(&target("web-1")), &turn, Some("w1")), "KnownButAbsent");
        assert_eq!(pick(Some(&target("web-3")), &turn, None), "KnownButAbsent");
        assert_eq!(pick(Some(&target("tag:absent")), &turn, None), "KnownButAbsent");
        assert_eq!(pick(Some(&target("wbe-3")), &turn, None), "UnknownTarget(Some(\"web-3\"))");
        assert_eq!(pick(Some(&target("mail")), &turn, None), "UnknownTarget(None)");
        assert_eq!(pick(Some(&target("mail-*")), &turn, None), "NobodyConnected");
        let _busy = ask(&one.link, "r", Order::default());
        for _ in 0..3 {
            assert_eq!(pick(Some(&target("web-*")), &Route::LeastBusy, None), "web-2");
        }
        let sticky = Route::Sticky("key".into());
        let first = pick(None, &sticky, None);
        assert!((0..3).all(|_| pick(None, &sticky, None) == first));
        let all = |text: Option<&str>| {
            let all = server.peers.all_matching(text.map(target).as_ref());
            all.into_iter().map(|one| (one.name, one.instance, one.link.is_some())).collect::<Vec<_>>()
        };
        let web = |name: &str, instance: &str, is_here| (name.to_owned(), Some(instance.to_owned()), is_here);
        assert_eq!(all(Some("web-*")), [web("web-1", "w1", true), web("web-2", "w2", true), web("web-3", "w3", false)]);
        assert_eq!(all(None).len(), 4);
        drop((one, two));
        assert_eq!(pick(Some(&target("web-*")), &turn, None), "KnownButAbsent");
        assert_eq!(pick(None, &turn, None), "a");
    }
}
