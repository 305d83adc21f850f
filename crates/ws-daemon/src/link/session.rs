//! The life of one link: frames in are decoded and handed up, frames out are fed and flushed, pings keep it honest. When it ends,
//! for whatever reason, everything in flight on it is settled.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::{debug, warn};
use ws_daemon_protocol::codec::seed;
use ws_daemon_protocol::codec::v2::{self, Order, Refused, RunFrame, StatusFrame, Verdict};
use ws_daemon_protocol::codec::websocket::{CloseCode, Frame, Role};
use ws_daemon_protocol::command::{Command, Place};
use ws_daemon_protocol::id::CallerId;
use ws_daemon_protocol::message::CommandMessage;
use ws_daemon_protocol::outcome::{Outcome, Report};

use super::greeting::CLOSE_CLONE;
use super::mux::Dialect;
use super::wire::{Event, Gone, Wire};
use super::{Inbound, IncomingCommand, IncomingRun, Link, Replier, Terms};
use crate::tasks::Turn;

/// Pings that may stay without any sign of life before a peer counts as dead.
const MISSED_PINGS: u32 = 2;

/// A ping of the other side is waited for by so many parts of the interval longer than it should take.
const PUT_OFF: u32 = 4;

/// Moments of one interval between two pings on which the looks of all links fall.
const LOOKS: u128 = 256;

/// Frames that are heard in one turn at most.
const FRAMES: usize = 64;

/// How long what is left may take to leave.
const CLOSING: Duration = Duration::from_secs(2);

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The socket did.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The peer closed it and said why, in a code of ours.
    #[error("closed by the peer, which says: {0:?}")]
    Told(String),
    /// Nothing was heard for two pings.
    #[error("nothing was heard of the peer for {0:?}")]
    Dead(Duration),
    /// The peer does not read what it asked for.
    #[error("the peer does not read its outcomes: more than {} bytes wait", super::mux::REPLY_QUEUE_BYTES)]
    DoesNotRead,
    /// The same instance came by another link.
    #[error("replaced by a newer link of the same instance, or of who has proved its name")]
    Replaced,
    /// The peer may be here no more.
    #[error("{1}")]
    Expelled(u16, &'static str),
    /// The peer restarts, and is there again in a moment.
    #[error("the peer restarts")]
    Restarts,
    /// This daemon closed it.
    #[error("closed here")]
    ClosedHere,
    /// This daemon restarts.
    #[error("closed here for a restart")]
    RestartsHere,
}

/// Runs a link until it ends. What comes in goes to `inbound`; while that is full, nothing more is read.
pub async fn serve(mut wire: Wire, link: Link, inbound: mpsc::Sender<Inbound>, terms: Terms) -> Ended {
    let settled = SettleOnDrop(&link);
    let mut session = Session { link: link.clone(), inbound, terms, stalled: None, bad_frames: 0 };
    let ended = match (session.run(&mut wire).await, wire.last_words()) {
        (Ended::Gone(_), Some((CLOSE_CLONE.., words))) => Ended::Told(words),
        (Ended::Gone(_), Some((code, _))) if code == CloseCode::RESTART.0 => Ended::Restarts,
        (Ended::ClosedHere, _) if link.0.restarts_here.load(Ordering::Acquire) => Ended::RestartsHere,
        (ended, _) => ended,
    };
    // Settled before the closing handshake: callers do not wait for a peer's manners.
    drop(settled);
    part(&mut wire, &ended).await;
    ended
}

/// Whatever ends a session, a panic too, settles what is in flight.
struct SettleOnDrop<'a>(&'a Link);

impl Drop for SettleOnDrop<'_> {
    fn drop(&mut self) {
        self.0.mux().close();
    }
}

/// The id that a status is under.
#[derive(Deserialize)]
struct StatusId<'a> {
    #[serde(borrow, default, deserialize_with = "also_null")]
    id: Option<&'a RawValue>,
}

/// An `id` that is `null` is an id like any other; only an absent one is none.
fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

struct Session {
    link: Link,
    inbound: mpsc::Sender<Inbound>,
    terms: Terms,
    /// What was read and could not yet be handed up. Boxed: it is rare, and each link would keep room for the largest of all.
    stalled: Option<Box<Inbound>>,
    bad_frames: u64,
}

/// What is known of the peer's life.
struct Pulse {
    /// When it is looked at next.
    at: Instant,
    moved: (u64, u64),
    was_flushing: bool,
    /// By now something should have come: the answer to a ping, or the next ping of one that pings by itself.
    is_due: bool,
    missed: u32,
}

/// What a session waits for of its wire.
enum Next {
    Event(Event),
    /// It is time for a look at the pulse, or at PINGs that were not answered.
    Look,
}

impl Pulse {
    /// Of a link that is new.
    fn new(at: Instant) -> Self {
        Self { at, moved: (0, 0), was_flushing: false, is_due: false, missed: 0 }
    }

    /// Looks at the bytes since the last look, a ping's interval ago; whether the peer still counts as alive. Bytes read are life. Bytes
    /// written are life only if they had been waiting: they moved because the peer took what was before them.
    fn look(&mut self, wire: &Wire) -> bool {
        let (read, written) = wire.moved();
        let alive = read > self.moved.0 || (self.was_flushing && written > self.moved.1);
        let missed = if alive { 0 } else { self.missed + u32::from(self.is_due) };
        self.begin(wire);
        self.missed = missed;
        missed < MISSED_PINGS
    }

    /// From here on the peer is alive until it is found to be silent.
    fn begin(&mut self, wire: &Wire) {
        *self = Self { at: self.at, moved: wire.moved(), was_flushing: wire.is_flushing(), is_due: true, missed: 0 };
    }
}

/// In an interval, or hardly later: together with the looks of other links, so that ten thousand idle ones wake the daemon so many times in
/// an interval and not ten thousand times.
fn next_look(interval: Duration) -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let begin = *BEGIN.get_or_init(Instant::now);
    let (step, at) = (interval.as_nanos() / LOOKS, begin.elapsed() + interval);
    let beyond = at.as_nanos().checked_rem(step).unwrap_or_default();
    let rest = if beyond == 0 { 0 } else { step - beyond };
    begin + at + Duration::from_nanos(u64::try_from(rest).unwrap_or_default())
}

/// What comes next of a wire, and of the look at its pulse. A ping puts the look off.
///
/// Only who was dialled leaves the pinging to the other side: if both did, both would wait for each other. It finds a peer dead no later for
/// it, since a ping that does not come is missed like an answer that does not. On an idle link no look is ever due: ten thousand links are
/// not woken for it, and the timer is only told of another time.
fn next(
    wire: &mut Wire,
    read: bool,
    look: &mut Pin<&mut Sleep>,
    pulse: &mut Pulse,
    link: &Link,
    ping: Duration,
    cx: &mut Context<'_>,
) -> Poll<Next> {
    if look.as_mut().poll(cx).is_ready() {
        return Poll::Ready(Next::Look);
    }
    let event = wire.poll_event(cx, read);
    if wire.was_pinged() && wire.role() == Role::Server {
        pulse.begin(wire);
        pulse.at = next_look(ping + ping / PUT_OFF);
        link.mux().sweep();
        look.as_mut().reset(earlier(pulse.at, link.mux().concerns().1));
    }
    event.map(Next::Event)
}

fn earlier(at: Instant, due: Option<Instant>) -> Instant {
    due.map_or(at, |due| due.min(at))
}

/// Room to hand something up. The way there is boxed: it is gone rarely, and each link would keep room for it.
async fn room(inbound: &mpsc::Sender<Inbound>) -> Result<mpsc::Permit<'_, Inbound>, mpsc::error::SendError<()>> {
    Box::pin(inbound.reserve()).await
}

impl Session {
    async fn run(&mut self, wire: &mut Wire) -> Ended {
        let mut pulse = Pulse::new(next_look(self.terms.ping));
        // The pulse, or before that a PING that nobody has answered in its time.
        let mut look = std::pin::pin!(sleep_until(pulse.at));
        // A peer may never stop talking.
        let mut turn = Turn::of_light(FRAMES);
        let (link, inbound, ping) = (self.link.clone(), self.inbound.clone(), self.terms.ping);
        let mut closing = std::pin::pin!(link.0.closing.cancelled());
        loop {
            if let Err(gone) = self.feed(wire) {
                return gone.into();
            }
            // What was read at once is heard at once, within a turn.
            let read = if self.stalled.is_none() && !turn.is_new() { wire.next_read() } else { None };
            if let Some(event) = read {
                if let Err(gone) = self.take(event, &mut turn).await {
                    return gone.into();
                }
                continue;
            }
            tokio::select! {
                // While something is stalled, nothing more is read.
                next = poll_fn(|cx| next(wire, self.stalled.is_none(), &mut look, &mut pulse, &self.link, ping, cx)) => match next {
                    Next::Event(event) => if let Err(gone) = self.take(event, &mut turn).await {
                        return gone.into();
                    },
                    Next::Look => {
                        let now = Instant::now();
                        if now >= pulse.at {
                            pulse.at = next_look(ping);
                            if !pulse.look(wire) {
                                return Ended::Dead(ping * MISSED_PINGS);
                            }
                            if let Err(gone) = wire.ping() {
                                return gone.into();
                            }
                            link.mux().sweep();
                        }
                        look.as_mut().reset(earlier(pulse.at, link.mux().give_up(now)));
                    }
                },
                permit = room(&inbound), if self.stalled.is_some() => match (permit, self.stalled.take()) {
                    (Ok(_), Some(_)) if link.is_over() => {}
                    (Ok(permit), Some(stalled)) => permit.send(*stalled),
                    _ => return Ended::ClosedHere,
                },
                () = link.mux().woken() => {
                    let (is_overfull, due) = link.mux().concerns();
                    if is_overfull {
                        return Ended::DoesNotRead;
                    }
                    if let Some(due) = due.filter(|due| *due < look.deadline()) {
                        look.as_mut().reset(due);
                    }
                },
                // The peer has left this link for another one: nothing that waits here is for it.
                () = &mut closing => return match link.0.farewell.get() {
                    Some((code, words)) => Ended::Expelled(*code, words),
                    None if link.is_replaced() => Ended::Replaced,
                    None => self.drain(wire).await,
                },
            }
        }
    }

    async fn take(&mut self, event: Event, turn: &mut Turn) -> Result<(), Gone> {
        match event {
            Event::Frame(frame) => {
                self.hear(&frame);
                turn.done(frame.len()).await;
            }
            Event::Control | Event::Flushed => {}
            Event::Gone(gone) => return Err(gone),
        }
        Ok(())
    }

    /// Feeds what waits to leave, as far as there is room.
    fn feed(&self, wire: &mut Wire) -> Result<(), Gone> {
        if !wire.has_room() {
            return Ok(());
        }
        self.link.mux().feed(|frame| {
            wire.feed_text(frame)?;
            Ok(wire.has_room())
        })
    }

    /// Closing here: what waits to leave leaves first, if the peer takes it in time.
    async fn drain(&self, wire: &mut Wire) -> Ended {
        let leave = async {
            loop {
                if let Err(gone) = self.feed(wire) {
                    return gone.into();
                }
                if !wire.is_flushing() {
                    return Ended::ClosedHere;
                }
                // Frames that come now are not taken: their asker settles them when the link is closed.
                if let Err(gone) = wire.flushed().await {
                    return gone.into();
                }
            }
        };
        timeout(CLOSING, leave).await.unwrap_or(Ended::ClosedHere)
    }

    fn hear(&mut self, frame: &Frame) {
        let text = match frame {
            Frame::Text(text) => text.as_str(),
            // JSON in a binary frame is what a peer with a careless library sends.
            Frame::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            _ => return,
        };
        // What an old link still reads is no longer this peer's word.
        if self.link.is_over() {
            return;
        }
        match self.link.mux().dialect() {
            Dialect::Seed => self.hear_seed(text),
            Dialect::Version2 => self.hear_version2(text),
        }
    }

    fn hear_seed(&mut self, text: &str) {
        match seed::decode(text, self.terms.nesting) {
            Ok(seed::Frame::Run { name, id, params }) => {
                let replier = Replier::new(&self.link, id, None);
                self.hand_up(Inbound::Run(IncomingRun { name, params, order: Order::default(), replier }));
            }
            Ok(seed::Frame::Command(message)) => self.command(message),
            Err(error) => self.bad_frame(&error),
        }
    }

    fn hear_version2(&mut self, text: &str) {
        let link = self.link.clone();
        match v2::decode(text, self.terms.nesting) {
            Ok(v2::Frame::Run(frame)) => {
                let RunFrame { name, run, params, order } = *frame;
                let replier = Replier::new(&link, Some((&run).into()), Some(run));
                self.hand_up(Inbound::Run(IncomingRun { name, params, order, replier }));
            }
            Ok(v2::Frame::Status(frame)) => self.status_of_run(*frame),
            Ok(v2::Frame::Event(run, progress)) => link.mux().progress(&run, progress),
            Ok(v2::Frame::Output(frame)) => link.mux().output(*frame),
            Ok(v2::Frame::Credit(run, bytes)) => self.hand_up(Inbound::Credit { link, run, bytes }),
            Ok(v2::Frame::Cancel(run, attempt)) => self.hand_up(Inbound::Cancel { link, run, attempt }),
            Ok(v2::Frame::Ack(run, attempt)) => self.hand_up(Inbound::Ack { link, run, attempt }),
            Ok(v2::Frame::Roots(roots)) => self.hand_up(Inbound::Roots { link, roots }),
            Ok(v2::Frame::Drain { restarts }) => link.hear_drain(restarts),
            Ok(v2::Frame::Ping(id)) => link.mux().say(v2::status(&id, Verdict::default(), &Outcome::Exited(0).into())),
            Ok(v2::Frame::Command(message)) => self.command(message),
            Ok(v2::Frame::LocalStatus(id, data)) => {
                self.hand_up(Inbound::UnclaimedStatus { data, replier: Replier::new(&link, id, None) });
            }
            Ok(v2::Frame::Hello(_)) => self.bad_frame(&"HELLO was said before"),
            Err(refused) => self.refuse(&refused),
        }
    }

    /// A frame of a version 2 peer that cannot be taken: told if it can be told, and logged like that of a seed peer.
    fn refuse(&mut self, refused: &Refused) {
        self.bad_frame(refused);
        if let Some(id) = &refused.id {
            self.link.mux().say(v2::status(id, Verdict::default(), &refused.outcome.clone().into()));
        }
    }

    fn status_of_run(&mut self, frame: StatusFrame) {
        let StatusFrame { run, verdict, report } = frame;
        if verdict == Verdict::default() && self.link.mux().pong(&run, report.status) {
            return;
        }
        if let Err(report) = self.link.mux().settle(&(&run).into(), verdict, report) {
            self.hand_up(Inbound::LateStatus { link: self.link.clone(), run, verdict, report });
        }
    }

    fn command(&mut self, message: CommandMessage) {
        match (message.place, message.command) {
            (Place::Here, _) => self.bad_frame(&"+cmd is for local processes; a peer says &cmd"),
            (Place::There, Command::Status(data)) => self.status(data),
            (Place::There, command) => {
                let replier = Replier::new(&self.link, message.id, None);
                self.hand_up(Inbound::Command(IncomingCommand { command, replier }));
            }
        }
    }

    fn status(&mut self, data: Box<str>) {
        let id = serde_json::from_str::<StatusId>(&data).ok().and_then(|status| status.id).and_then(CallerId::new);
        let report = serde_json::from_str::<Report>(&data);
        let claimed = match (id, report) {
            (Some(id), Ok(report)) => self.link.mux().settle(&id.key(), Verdict::default(), report).is_ok(),
            _ => false,
        };
        if !claimed {
            let replier = Replier::new(&self.link, None, None);
            self.hand_up(Inbound::UnclaimedStatus { data, replier });
        }
    }

    fn hand_up(&mut self, inbound: Inbound) {
        match self.inbound.try_send(inbound) {
            Err(mpsc::error::TrySendError::Full(inbound)) => self.stalled = Some(inbound.into()),
            // Closed: the daemon is stopping, and the link is closed in a moment.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// A seed peer is told nothing unasked; the log is told the first time, and the rest is counted.
    fn bad_frame(&mut self, error: &dyn std::fmt::Display) {
        self.bad_frames += 1;
        if self.bad_frames == 1 {
            warn!(peer = self.link.peer(), %error, "bad frame passed over; further ones of this link at level debug");
        } else {
            debug!(peer = self.link.peer(), %error, count = self.bad_frames, "bad frame passed over");
        }
    }
}

/// The closing handshake (RFC 6455, section 7), if there is still someone to part from.
async fn part(wire: &mut Wire, ended: &Ended) {
    let closing = match ended {
        Ended::Gone(gone) => gone.close_code(),
        Ended::Told(_) | Ended::Dead(_) | Ended::Restarts => None,
        Ended::DoesNotRead => Some((CloseCode::POLICY, "outcomes are not read")),
        Ended::Replaced => {
            Some((CloseCode::AWAY, "replaced by a newer link of the same instance, or of who has proved its name"))
        }
        Ended::Expelled(code, words) => Some((CloseCode(*code), *words)),
        Ended::ClosedHere => Some((CloseCode::AWAY, "going away")),
        Ended::RestartsHere => Some((CloseCode::RESTART, "restarting")),
    };
    if let Some((code, reason)) = closing {
        wire.part(code, reason).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::duplex;
    use tokio::sync::oneshot;
    use tokio::time::sleep;
    use tokio_util::sync::CancellationToken;
    use ws_daemon_protocol::codec::v2::Hello;

    use super::*;
    use crate::link::{Pong, Stream};
    use crate::standing::Standing;

    const BYTES: usize = 1 << 16;

    fn hello(name: &str) -> Hello {
        let (epoch, capacity, configured) = (1, 1, false);
        let (tags, features, former) = (Vec::new(), Vec::new(), Vec::new());
        let (name, instance, version) = (name.to_owned(), name.to_owned(), String::new());
        Hello { name, configured, instance, epoch, version, tags, capacity, features, former }
    }

    /// What becomes of a PING that is given up after so many seconds.
    fn ask(link: &Link, within: u64) -> oneshot::Receiver<Pong> {
        let (asker, heard) = oneshot::channel();
        link.ask_ping(Box::new(asker), Some(Instant::now() + Duration::from_secs(within)));
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_without_an_answer_is_given_up_when_it_is_due_and_with_the_link_that_lives_on_until_then() {
        let (near, far) = duplex(BYTES);
        let near = Wire::new(Stream::boxed(near), Role::Server, Vec::new(), BYTES);
        let mut far = Wire::new(Stream::boxed(far), Role::Client, Vec::new(), BYTES);
        let closing = CancellationToken::new();
        let link =
            Link::version2("far", "far", hello("far"), Standing::Anonymous, Arc::new(hello("near")), BYTES, closing.clone());
        let terms = Terms { message: BYTES, nesting: 8, ping: Duration::from_secs(20) };
        let (inbound, _unread) = mpsc::channel(1);
        // It answers the third PING, and those of the WebSocket.
        let answers = async {
            let mut pings = 0;
            loop {
                let text = match far.event(true).await {
                    Event::Frame(Frame::Text(text)) => text,
                    Event::Gone(_) => std::future::pending().await,
                    _ => continue,
                };
                pings += 1;
                let Ok(v2::Frame::Ping(id)) = v2::decode(&text, 8) else { panic!("{text}") };
                if pings == 3 {
                    let pong = v2::status(&id, Verdict::default(), &Outcome::Exited(0).into());
                    far.feed(pong).expect("it is open");
                }
            }
        };
        let asks = async {
            // Later than a look at the pulse, earlier than the next one, and beyond some.
            sleep(Duration::from_secs(25)).await;
            let begin = Instant::now();
            let took = |seconds: u64| {
                let took = begin.elapsed();
                let wanted = Duration::from_secs(seconds);
                assert!(took >= wanted && took < wanted + Duration::from_millis(2), "{took:?} in place of {seconds} s");
            };
            let (later, sooner, answered) = (ask(&link, 90), ask(&link, 3), ask(&link, 2));
            assert_eq!(answered.await, Ok(Pong::Answered));
            took(0);
            assert_eq!(sooner.await, Ok(Pong::Overdue));
            took(3);
            assert_eq!(later.await, Ok(Pong::Overdue));
            took(90);
            let (left, never) = (ask(&link, 90), ask(&link, 90));
            sleep(Duration::from_secs(1)).await;
            drop(never);
            assert_eq!(link.in_flight(), 2);
            // It is looked for who is gone.
            sleep(terms.ping * 2).await;
            assert_eq!(link.in_flight(), 1);
            closing.cancel();
            assert_eq!(left.await, Ok(Pong::Lost));
            took(131);
            assert_eq!(ask(&link, 90).await, Ok(Pong::Lost), "there is no link any more");
        };
        tokio::select! {
            ended = async { tokio::join!(serve(near, link.clone(), inbound, terms), asks) } => {
                assert!(matches!(ended.0, Ended::ClosedHere), "{ended:?}");
            }
            () = answers => {}
        }
    }
}
