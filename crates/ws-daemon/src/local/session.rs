//! The life of one local connection: bytes in are framed and asked, answers out are written as they come. Reading and writing go
//! side by side, so that a request that waits for room never holds up an answer. What begins like HTTP is handed on.

use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};
use ws_daemon_protocol::codec::framer::{BadMessage, Frame, Framer};
use ws_daemon_protocol::command::{Command, Place, Serve};
use ws_daemon_protocol::event::Event;
use ws_daemon_protocol::id::CallerId;
use ws_daemon_protocol::message::{CommandMessage, Message, Rejection, Request};
use ws_daemon_protocol::outcome::{ErrorCode, Outcome, Report};

use super::answers::{Answers, IN_FLIGHT, Next, Pending};
use super::outcomes::Outcomes;
use super::stream::Socket;
use super::{Before, Local, Parked};
use crate::api::Visitor;
use crate::control::{Answer, Asker, Control, Hears, Whose};
use crate::exec::{Connection, Heard, LINE_ROOM_BYTES, Served};
use crate::origin::{self, Said, Unsent, tells_the_end_only};
use crate::policy::{Caller, Scope};
use crate::system::hung_up;
use crate::tasks::Turn;

/// One read from a connection, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Messages in one turn at most.
const MESSAGES: usize = 64;

/// What is read and thrown away behind a bad message by TCP, in bytes; more, and the connection is closed over it.
const THROWN_AWAY_BYTES: u64 = 1 << 20;

/// How long the last answers may take to be written when the daemon stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// It asked no more and has all its answers.
    Done,
    /// The process is gone.
    Gone,
    /// The process does not read its answers.
    DoesNotRead,
    /// It served, and said what is no answer, or did not answer in time.
    Refused,
    /// The daemon stops.
    Stopping,
    /// It goes on in the next life of the daemon; what was read of the next message.
    Parked(Vec<u8>),
}

/// How the reading of a connection ended.
enum Read {
    /// The process asks no more, or may not.
    All,
    /// It is not read any more in this life of the daemon; what was read of the next message.
    Parked(Vec<u8>),
    /// The process speaks HTTP; what was read.
    Http(Vec<u8>),
    /// It serves, and is not believed any more.
    Refused,
}

/// One connection.
pub struct Session {
    local: Local,
    asker: Asker,
    answers: Answers,
    outcomes: Outcomes,
    /// Its place among those that serve, once it has said so.
    served: OnceLock<Served>,
    /// What it serves.
    serves: Mutex<Option<Serve>>,
    /// Cancelled when it is to be closed.
    closing: CancellationToken,
    /// While it is to be looked at before the daemon begins another life.
    asks: Mutex<Option<TaskTrackerToken>>,
    /// It goes on in the next life of the daemon, and so is not shut down.
    goes_on: AtomicBool,
}

impl Session {
    /// A connection of `caller`.
    pub fn new(local: Local, caller: Caller) -> Self {
        let asks = Mutex::new(Some(local.stop.askers.token()));
        let answers = Answers::default();
        let outcomes = Outcomes::new(local.origin.clone(), answers.clone(), &local.stop);
        Self {
            local,
            asker: Asker::new(caller),
            answers,
            outcomes,
            served: OnceLock::new(),
            serves: Mutex::default(),
            closing: CancellationToken::new(),
            asks,
            goes_on: AtomicBool::new(false),
        }
    }

    /// Attends to the connection until it ends, or `close` says so. `before` is what the last life of the daemon has left of it.
    pub async fn run<S: Socket>(self, stream: S, before: Before, close: CancellationToken) -> End {
        let seat = self.local.lobby.enter(self.answers.clone());
        // The borrow of the descriptor must not outlive the stream, so the watch works on a copy of its own.
        let copy = stream.as_fd().try_clone_to_owned();
        let Before { unread, later, serves } = before;
        // It was let serve when it said so.
        drop(serves.map(|serve| self.serve(serve)));
        for (id, awaited) in later {
            let Some(pending) = self.answers.begin(true) else { continue };
            match awaited.is_end_of() {
                Some(run) => self.local.origin.deliver(self.outcomes.clone().resume(pending, id, run)),
                None => self.local.origin.deliver(lines(pending, self.local.origin.resume(awaited), id, false)),
            }
        }
        let (mut reader, mut writer) = stream.halves();
        let mut is_http = None;
        let end = {
            let mut reading = std::pin::pin!(self.read(&mut reader, &unread));
            let mut writing = std::pin::pin!(self.write(&mut writer));
            let mut leaving = std::pin::pin!(async {
                match &copy {
                    Ok(copy) if hung_up(copy).await.is_ok() => {}
                    // Unwatched, its leaving is seen by the next write.
                    _ => std::future::pending().await,
                }
            });
            let (mut asking, mut parked) = (true, None);
            loop {
                tokio::select! {
                    read = &mut reading, if asking => {
                        asking = false;
                        match read {
                            Read::All => self.asked_all(),
                            Read::Refused => {
                                self.asked_all();
                                self.closing.cancel();
                            }
                            Read::Parked(rest) => parked = Some(rest),
                            Read::Http(begun) => {
                                is_http = Some(begun);
                                break End::Done;
                            }
                        }
                        self.is_looked_at();
                    }
                    end = &mut writing => {
                        // What is being read and thrown away is given time: closed over it, the last answer could be lost.
                        if asking {
                            drop(timeout(LAST_ANSWERS, &mut reading).await);
                        }
                        break end;
                    }
                    () = &mut leaving, if !asking => break End::Gone,
                    () = self.closing.cancelled() => {
                        self.asked_all();
                        drop(timeout(LAST_ANSWERS, writing).await);
                        break End::Refused;
                    }
                    () = close.cancelled() => {
                        self.answers.asked_all();
                        self.goes_on.store(parked.is_some(), Ordering::Relaxed);
                        break match (timeout(LAST_ANSWERS, writing).await, parked) {
                            (Ok(End::Done), Some(rest)) => End::Parked(rest),
                            (Ok(_), _) => End::Stopping,
                            (Err(_), _) => End::DoesNotRead,
                        };
                    }
                }
            }
        };
        drop(seat);
        self.answers.hang_up();
        if let Some(served) = self.served.get() {
            served.end();
        }
        if let Some(begun) = is_http {
            let _asks = self.take_asks();
            let stream = tokio::io::join(Cursor::new(begun).chain(reader), writer);
            self.local.api.serve(stream, Visitor::Process(self.asker)).await;
            return End::Done;
        }
        if let (End::Parked(unread), Ok(socket), Some(later)) = (&end, copy, self.answers.take_later()) {
            let serves = self.serves.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.local.park(Parked { socket, before: Before { unread: unread.clone(), later, serves } });
        }
        match end {
            End::DoesNotRead => warn!("a local connection was closed: the process does not read its answers"),
            End::Refused => warn!("a local connection was closed: it served, and did not answer as it was to"),
            _ => {}
        }
        end
    }

    /// No more is read of it: it can answer nothing.
    fn asked_all(&self) {
        if let Some(served) = self.served.get() {
            served.end();
        }
        self.answers.asked_all();
    }

    fn take_asks(&self) -> Option<TaskTrackerToken> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Nothing is on it any more that is to be looked at before the daemon begins another life.
    fn is_looked_at(&self) {
        drop(self.take_asks());
    }

    /// Its place among those that serve, while it serves or has to answer something.
    fn serving(&self) -> Option<&Served> {
        self.served.get().filter(|served| served.is_serving())
    }

    /// Serves from here on, these names and no others.
    fn serve(&self, serve: Serve) -> Result<(), Outcome> {
        match self.served.get() {
            Some(served) => self.local.control.serve_instead(served, &serve)?,
            None => {
                let answers = self.answers.clone();
                let connection = Connection { sink: Box::new(move |lines| answers.ask(lines)), close: self.closing.clone() };
                let served = self.local.control.serve(&serve, connection)?;
                self.answers.serves();
                drop(self.served.set(served));
            }
        }
        // What it is asked is looked at until the daemon takes nothing more.
        self.is_looked_at();
        *self.serves.lock().unwrap_or_else(PoisonError::into_inner) = Some(serve);
        Ok(())
    }

    /// Ends when nothing is read in this life of the daemon: of one that serves, when it is asked for nothing more.
    async fn parks(&self) {
        self.local.stop.park.cancelled().await;
        if let Some(served) = self.serving() {
            self.local.stop.refuse.cancelled().await;
            served.retire();
        }
    }

    /// Reads and asks until the process has asked all it wants to, or may not ask more. What speaks HTTP is not read on: its first byte,
    /// which begins no message, is that of a method.
    async fn read<R: AsyncRead + Unpin>(&self, reader: &mut R, unread: &[u8]) -> Read {
        let limits = self.local.limits.now();
        let mut framer = Framer::new(limits.message, limits.nesting);
        let mut buffer = vec![0; READ_BYTES];
        // What was read at once may hold hundreds of messages.
        let mut turn = Turn::of_light(MESSAGES);
        let mut is_first = self.asker.caller != Caller::Tcp && unread.is_empty();
        framer.push(unread);
        loop {
            while let Some(frame) = framer.next() {
                let taken = match (frame, self.serving()) {
                    (Frame::Message(text), None) => match self.message(&text) {
                        Ok(taken) => taken,
                        // Boxed: all that may be waited for takes kilobytes, which are not to be moved about for each message.
                        Err(rest) => Box::pin(self.go_on(*rest)).await,
                    },
                    (Frame::Message(text), Some(served)) => match served.hear(&text) {
                        Ok(Heard::Taken(None)) => continue,
                        Ok(Heard::Taken(Some(reader))) => {
                            reader.room(LINE_ROOM_BYTES).await;
                            continue;
                        }
                        Ok(Heard::Message) => match self.message(&text) {
                            Ok(taken) => taken,
                            Err(rest) => Box::pin(self.go_on(*rest)).await,
                        },
                        Err(fault) => {
                            self.tell(
                                None,
                                Outcome::Failed(ErrorCode::BadMessage, format!("this connection is closed: {fault}")),
                            );
                            return Read::Refused;
                        }
                    },
                    (Frame::Bad(bad), None) => self.bad_message(&bad),
                    (Frame::Bad(bad), Some(_)) => {
                        self.bad_message(&bad);
                        return Read::Refused;
                    }
                };
                // On TCP anybody may be talking, a browser for one: after one bad message nothing more is believed.
                if !taken && self.asker.caller == Caller::Tcp {
                    self.answers.asked_all();
                    throw_away(reader).await;
                    return Read::All;
                }
                turn.done(0).await;
            }
            let read = tokio::select! {
                biased;
                // The rest is for the next life, in the system's hands until then.
                () = self.parks() => match framer.rest() {
                    Some(rest) if self.serving().is_none() => return Read::Parked(rest.to_vec()),
                    // What it holds it is to answer.
                    _ => reader.read(&mut buffer).await,
                },
                read = reader.read(&mut buffer) => read,
            };
            match read {
                Ok(0) => break,
                Ok(length) if std::mem::take(&mut is_first) && buffer[0].is_ascii_uppercase() => {
                    buffer.truncate(length);
                    return Read::Http(buffer);
                }
                Ok(length) => {
                    turn.done(length).await;
                    framer.push(&buffer[..length]);
                }
                Err(error) => {
                    debug!(%error, "reading from a local connection failed");
                    return Read::All;
                }
            }
        }
        if let Some(bad) = framer.finish() {
            self.bad_message(&bad);
        }
        Read::All
    }

    async fn write<W: AsyncWrite + Unpin>(&self, writer: &mut W) -> End {
        let write = async {
            while let Next::Lines(lines) = self.answers.next().await {
                if writer.write_all(&lines).await.is_err() {
                    return End::Gone;
                }
                self.answers.written(lines);
                if let Some(served) = self.served.get() {
                    served.has_room();
                }
            }
            if !self.goes_on.load(Ordering::Relaxed) {
                // The other side sees the end of the stream either way.
                drop(writer.shutdown().await);
            }
            End::Done
        };
        tokio::select! {
            end = write => end,
            () = self.answers.overflown() => End::DoesNotRead,
        }
    }

    fn bad_message(&self, bad: &BadMessage) -> bool {
        let code = if matches!(bad, BadMessage::TooLarge { .. }) { ErrorCode::TooLarge } else { ErrorCode::BadMessage };
        self.tell(None, Outcome::failed(code, bad.to_string()));
        false
    }

    /// Deals with one message; `false` if it was no message of this grammar.
    ///
    /// # Errors
    /// What is left to be done of it, if that may take waiting.
    fn message(&self, text: &str) -> Result<bool, Box<Rest>> {
        match Message::parse(text) {
            Ok(Message::Run(request)) => {
                let Some(may) = self.local.control.may_ask_now(&self.asker, &request) else {
                    return Err(Box::new(Rest::Message(Message::Run(request))));
                };
                self.request(request, may).map_or(Ok(true), |unsent| Err(Box::new(Rest::Unsent(unsent))))
            }
            Ok(Message::Command(message)) => self.command_at_once(message),
            Err(Rejection { id, outcome }) => {
                let is_message = !matches!(outcome, Outcome::Failed(ErrorCode::BadMessage, _));
                self.tell(id.as_ref(), outcome);
                Ok(is_message)
            }
        }
    }

    /// What is left to be done of a message, one after the other.
    async fn go_on(&self, rest: Rest) -> bool {
        let unsent = match rest {
            Rest::Message(Message::Run(request)) => {
                let may = self.local.control.may_ask(&self.asker, &request).await;
                self.request(request, may)
            }
            Rest::Message(Message::Command(message)) => {
                let may = self.local.control.may_command(&self.asker, message.place, &message.command).await;
                match may {
                    Ok(_) => self.command(message).await,
                    Err(outcome) => {
                        self.tell(message.id.as_ref(), outcome);
                        None
                    }
                }
            }
            Rest::Command(message) => self.command(message).await,
            Rest::Unsent(unsent) => Some(unsent),
        };
        if let Some(unsent) = unsent {
            self.local.origin.send_on(unsent).await;
        }
        true
    }

    fn request(&self, request: Request, may: Result<Scope, Outcome>) -> Option<Unsent> {
        let id = request.id.clone();
        let within = match may {
            Ok(within) => within,
            Err(outcome) => {
                self.tell(id.as_ref(), outcome);
                return None;
            }
        };
        let pending = self.begin(id.as_ref(), true)?;
        if tells_the_end_only(&request.options) {
            self.outcomes.keep(pending, request, &self.asker.user, within);
            return None;
        }
        let is_plain = request.options.are_plain();
        if !is_plain || !within.is_anyone() {
            let said = self.local.origin.order(request, &self.asker.user, within);
            self.local.origin.deliver(lines(pending, said, id, is_plain));
            return None;
        }
        self.local.origin.submit(request, &self.asker.user, self.told(pending, id, Answered::Always))
    }

    fn told(&self, pending: Pending, id: Option<CallerId>, answered: Answered) -> Told {
        Told { pending: pending.without_task(self.local.origin.requests()), id, answered }
    }

    /// A command for which nothing need be waited: one for a peer, and a PING of one.
    fn command_at_once(&self, message: CommandMessage) -> Result<bool, Box<Rest>> {
        let Some(may) = self.local.control.may_command_now(&self.asker, &message.command) else {
            return Err(Box::new(Rest::Message(Message::Command(message))));
        };
        if let Err(outcome) = may {
            self.tell(message.id.as_ref(), outcome);
            return Ok(true);
        }
        if message.place == Place::There {
            return self.command_there(message).map_or(Ok(true), |unsent| Err(Box::new(Rest::Unsent(unsent))));
        }
        match self.ping_at_once(message) {
            Some(message) => Err(Box::new(Rest::Command(message))),
            None => Ok(true),
        }
    }

    /// A command that may be given.
    async fn command(&self, message: CommandMessage) -> Option<Unsent> {
        match message.place {
            Place::Here => {
                if let Some(message) = self.ping_at_once(message) {
                    self.command_here(message).await;
                }
                None
            }
            Place::There => self.command_there(message),
        }
    }

    fn command_there(&self, message: CommandMessage) -> Option<Unsent> {
        let id = message.id.clone();
        let pending = self.begin(id.as_ref(), id.is_some())?;
        self.local.origin.submit_command(message, self.told(pending, id, Answered::IfFailedOrNamed))
    }

    /// Puts a PING on the way that needs no task; any other command is given back.
    fn ping_at_once(&self, message: CommandMessage) -> Option<CommandMessage> {
        let Some(link) = self.local.control.pings_at_once(&message.command) else { return Some(message) };
        let CommandMessage { command, id, .. } = message;
        if let Some(pending) = self.begin(id.as_ref(), true) {
            let hears = Line(pending.without_task(self.local.origin.requests()));
            self.local.control.ping_at_once(&link, &command, id, hears);
        }
        None
    }

    async fn command_here(&self, message: CommandMessage) {
        let CommandMessage { command, id, .. } = message;
        if let Err(outcome) = self.local.control.check(&command) {
            return self.tell(id.as_ref(), outcome);
        }
        if let Command::Serve(serve) = command {
            // Its answer comes before anything that it is asked.
            let Some(pending) = self.begin(id.as_ref(), true) else { return };
            pending.answer(&Report::from(Outcome::Exited(0)).to_json(id.as_ref()));
            if let Err(outcome) = self.serve(serve) {
                self.tell(id.as_ref(), outcome);
            }
            return;
        }
        // These two are carried out before anything that is asked behind them.
        let at_once = matches!(command, Command::Pause(_) | Command::Status(_));
        if let Command::Status(data) = &command {
            self.answers.line(data);
        }
        if at_once {
            let answer = self.local.control.carry_out(command, Whose::all(&self.asker.user)).await;
            if let (Answer::Outcome(outcome), true) = (answer, id.is_some()) {
                self.tell(id.as_ref(), outcome);
            }
            return;
        }
        let Some(pending) = self.begin(id.as_ref(), true) else { return };
        let (control, user) = (self.local.control.clone(), self.asker.user.clone());
        let rest = self.local.tasks.clone();
        let close = self.local.stop.close_local.clone();
        rest.spawn(async move {
            tokio::select! {
                () = answer(control, command, user, pending, id) => {}
                () = close.cancelled() => {}
            }
        });
    }

    fn begin(&self, id: Option<&CallerId>, awaited: bool) -> Option<Pending> {
        let pending = self.answers.begin(awaited);
        if pending.is_none() {
            let why = format!("{IN_FLIGHT} requests of this connection wait for their answers already");
            self.tell(id, Outcome::Failed(ErrorCode::QueueFull, why));
        }
        pending
    }

    fn tell(&self, id: Option<&CallerId>, outcome: Outcome) {
        self.local.control.refused(&outcome);
        self.answers.line(&Report::from(outcome).to_json(id));
    }
}

/// Reads on without looking, so that the connection is not reset over what was not read.
async fn throw_away<R: AsyncRead + Unpin>(reader: &mut R) {
    let mut rest = reader.take(THROWN_AWAY_BYTES);
    // Whatever ends it, the connection is closed next.
    drop(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await);
}

/// What is left to be done of a message when waiting may be.
enum Rest {
    /// All of it: that it was said is to be written down.
    Message(Message),
    /// A command that may be given.
    Command(CommandMessage),
    /// To put it on the way.
    Unsent(Unsent),
}

/// Which outcomes of a request are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Always,
    /// Commands: a success without an id is not.
    IfFailedOrNamed,
}

/// A request with one outcome, which becomes its answer.
struct Told {
    pending: Pending,
    id: Option<CallerId>,
    answered: Answered,
}

impl origin::Answer for Told {
    fn is_gone(&self) -> bool {
        self.pending.is_gone()
    }

    fn answer(self, report: Report) {
        let Self { pending, id, answered } = self;
        if answered == Answered::Always || id.is_some() || report.status != Some(0) {
            pending.answer(&report.to_json(id.as_ref()));
        }
    }
}

/// A command with one line, which somebody else makes.
struct Line(Pending);

impl Hears for Line {
    fn is_gone(&self) -> bool {
        self.0.is_gone()
    }

    fn line(self, line: &str) {
        self.0.answer(line);
    }
}

/// The rest of a request's life that has more than one line: each is told as it comes, as fast as its caller reads. Behind the last
/// one the request is over.
async fn lines(pending: Pending, mut said: mpsc::Receiver<Said>, id: Option<CallerId>, is_plain: bool) {
    let mut is_over = false;
    loop {
        let said = tokio::select! {
            said = said.recv() => said,
            // Whoever tells need not any more.
            () = pending.gone() => return,
        };
        let Some(said) = said else { break };
        is_over = matches!(said, Said::Final(_) | Said::Event(Event::Done { .. }));
        let line = match said {
            Said::Event(event) => event.to_json(id.as_ref()),
            // Whoever asked in the seed's own grammar gets the seed's own keys.
            Said::Final(report) if is_plain => report.with_seeds_keys().to_json(id.as_ref()),
            Said::Final(report) => report.to_json(id.as_ref()),
            Said::Later(awaited) => return pending.later(id, awaited),
        };
        pending.line(&line).await;
    }
    // Else the last line will not come in this life of the daemon: the request is given up.
    if is_over {
        pending.over();
    }
}

/// The answer to a command.
async fn answer(control: Control, command: Command, user: Box<str>, pending: Pending, id: Option<CallerId>) {
    match control.carry_out(command, Whose::all(&user)).await {
        Answer::Outcome(outcome) => pending.answer(&Report::from(outcome).to_json(id.as_ref())),
        Answer::Result(result) => {
            let mut report = Report::from(Outcome::Exited(0));
            report.more_mut().result = Some(result.to_string().into());
            pending.answer(&report.to_json(id.as_ref()));
        }
        Answer::Lines(said) => lines(pending, said, id, false).await,
        Answer::Objects(mut objects) => {
            while let Some(object) = objects.recv().await {
                pending.line(&with_id(&object, id.as_ref())).await;
            }
        }
        Answer::News(mut news) => {
            pending.line(&Report::from(Outcome::Exited(0)).to_json(id.as_ref())).await;
            let heard = async {
                while let Some(line) = news.next().await {
                    pending.line(&line).await;
                }
            };
            tokio::select! {
                () = heard => {}
                () = pending.gone() => {}
            }
        }
    }
}

/// An object with the id behind its first member, as in every answer.
fn with_id(object: &str, id: Option<&CallerId>) -> String {
    match (object.split_once(','), id) {
        (Some((first, rest)), Some(id)) => format!("{first},\"id\":{},{rest}", id.as_json()),
        _ => object.to_owned(),
    }
}
