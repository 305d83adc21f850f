//! The first frame of a version 2 link, from both sides: who is there. The side that was dialled hears first, and says who it is
//! only if it takes the other one in; so whoever dialled knows by the answer that it was taken in, and by the close frame why not.

use std::time::Duration;

use tokio::time::timeout;
use ws_daemon_protocol::codec::v2::{self, Frame, Hello};
use ws_daemon_protocol::codec::websocket::{self, CloseCode};

use super::wire::{Event, Gone, Wire};

/// The close code for an instance that is two: see [`GreetingFault::Clone`].
pub const CLOSE_CLONE: u16 = 4001;

/// The close code for a name that is taken: see [`GreetingFault::NameTaken`].
pub const CLOSE_NAME_TAKEN: u16 = 4002;

/// The close code for a name that is another than the one that was proved: see [`GreetingFault::OtherName`].
pub const CLOSE_OTHER_NAME: u16 = 4003;

/// The close code for a peer that was revoked: see [`GreetingFault::Revoked`].
pub const CLOSE_REVOKED: u16 = 4004;

/// The close code for a token and an instance that do not belong together: see [`GreetingFault::Bound`].
pub const CLOSE_BOUND: u16 = 4005;

/// How long the closing handshake of a link that never came up may take.
const CLOSING: Duration = Duration::from_secs(2);

/// Why two daemons did not come to know each other.
#[derive(Debug, thiserror::Error)]
pub enum GreetingFault {
    /// The socket ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The first frame was something else.
    #[error("the first frame of a version 2 link must be HELLO: {0}")]
    NoHello(String),
    /// The other side says that this instance is two.
    #[error(
        "refused as a clone: another daemon runs with this daemon's spool file, or the file was restored from a copy; stop one of \
         them and delete its spool-*.db in the prefix, then it is a peer of its own ({0})"
    )]
    Clone(String),
    /// The other side says that the name is taken.
    #[error("refused for its name: another connected peer has it; give one of them another \"name\" in its config.json ({0})")]
    NameTaken(String),
    /// The other side says that this daemon was a peer and is none any more.
    #[error("refused: this daemon was revoked there; ask for an invitation and join with it ({0})")]
    Revoked(String),
    /// The other side says that the token is another daemon's, or the instance another peer's.
    #[error(
        "refused: the token and this daemon's spool do not belong together; join again, by an invitation of \"ws-daemon peers rotate\" \
         on the server ({0})"
    )]
    Bound(String),
    /// The other side says that this daemon claims another name than it has proved.
    #[error(
        "refused for its name: this daemon's certificate or token is for another name than \"name\" in its config.json; correct that, \
         or leave it out ({0})"
    )]
    OtherName(String),
    /// The other side closed the link for another reason.
    #[error("the link was closed before it was up: {0} {1}")]
    Closed(u16, String),
}

impl Wire {
    /// Says who this daemon is.
    ///
    /// # Errors
    /// When the socket is closed or broken.
    pub fn say_hello(&mut self, hello: &Hello) -> Result<(), Gone> {
        self.feed(v2::hello(hello))
    }

    /// The first frame, waited for: the deadline is the caller's. After a fault that is the other side's, call [`part`](Self::part).
    ///
    /// # Errors
    /// Why it is not known who is there.
    pub async fn hear_hello(&mut self, nesting: usize) -> Result<Hello, GreetingFault> {
        loop {
            let message = match self.event(true).await {
                Event::Frame(message) => message,
                // A close frame is the end: whoever sent it may take its time to end the connection.
                Event::Control | Event::Flushed => match self.why_closed() {
                    Some(fault) => return Err(fault),
                    None => continue,
                },
                Event::Gone(gone) => return Err(self.why_closed().unwrap_or(GreetingFault::Gone(gone))),
            };
            let text = match &message {
                websocket::Frame::Text(text) => text.as_str(),
                _ => "",
            };
            return match v2::decode(text, nesting) {
                Ok(Frame::Hello(hello)) => Ok(*hello),
                Ok(_) => Err(GreetingFault::NoHello("it was another frame".into())),
                Err(refused) => Err(GreetingFault::NoHello(refused.words().into())),
            };
        }
    }

    fn why_closed(&mut self) -> Option<GreetingFault> {
        let (code, words) = self.last_words()?;
        Some(match code {
            CLOSE_CLONE => GreetingFault::Clone(words),
            CLOSE_NAME_TAKEN => GreetingFault::NameTaken(words),
            CLOSE_REVOKED => GreetingFault::Revoked(words),
            CLOSE_BOUND => GreetingFault::Bound(words),
            CLOSE_OTHER_NAME => GreetingFault::OtherName(words),
            code => GreetingFault::Closed(code, words),
        })
    }

    /// Closes the link, with a reason, if the other side takes it in time.
    pub async fn part(&mut self, code: CloseCode, reason: &str) {
        if self.close(code, reason).is_err() {
            return;
        }
        let gone = async { while !matches!(self.event(true).await, Event::Gone(_)) {} };
        // A peer that does not answer the close is left alone.
        drop(timeout(CLOSING, gone).await);
    }
}
