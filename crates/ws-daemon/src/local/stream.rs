//! A connection by the socket file, as two halves. The system is asked to tell when there is something to read, and of room to write
//! only as long as something waits for it: else it would tell each time that the other side has read an answer, a wake-up for
//! nothing. It never looks at what goes through.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::coop::poll_proceed;

use crate::system;

/// What a local connection is, whatever it came by.
pub trait Socket: AsFd + Send + 'static {
    /// What is read of it.
    type Reader: AsyncRead + Send + Unpin + 'static;
    /// What is written to it.
    type Writer: AsyncWrite + Send + Unpin + 'static;

    /// The two, which go side by side. Both dropped, this descriptor of the connection is closed.
    fn halves(self) -> (Self::Reader, Self::Writer);
}

impl Socket for TcpStream {
    type Reader = ReadHalf<Self>;
    type Writer = WriteHalf<Self>;

    fn halves(self) -> (Self::Reader, Self::Writer) {
        tokio::io::split(self)
    }
}

/// A connection by the socket file.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// A connected stream socket, which need not be set not to block.
    ///
    /// # Errors
    /// When the system is out of watches.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        system::readiness(socket, Interest::READABLE).map(Self)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket for Stream {
    type Reader = Reader;
    type Writer = Writer;

    fn halves(self) -> (Reader, Writer) {
        let socket = Arc::new(self.0);
        (Reader { socket: Arc::clone(&socket), is_new: true }, Writer { socket, room: None })
    }
}

/// The half that is read.
#[derive(Debug)]
pub struct Reader {
    socket: Arc<AsyncFd<OwnedFd>>,
    /// Whoever connects has mostly said something by now: the first look does not wait to be told.
    is_new: bool,
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, is_new } = self.get_mut();
        loop {
            let mut told = if std::mem::take(is_new) { None } else { Some(ready!(socket.poll_read_ready(context))?) };
            let unfilled = buffer.initialize_unfilled();
            let room = unfilled.len();
            match recv(&**socket, unfilled, RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    if let Some(told) = told.as_mut().filter(|_| (1..room).contains(&length)) {
                        // That was all there is: a look that finds nothing is saved.
                        told.clear_ready();
                    }
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => told.iter_mut().for_each(AsyncFdReadyGuard::clear_ready),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

/// The half that is written.
#[derive(Debug)]
pub struct Writer {
    socket: Arc<AsyncFd<OwnedFd>>,
    /// While something waits for room: a copy of the descriptor, of which the system tells just that.
    room: Option<AsyncFd<OwnedFd>>,
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Who never has to wait gives way all the same.
        let turn = ready!(poll_proceed(context));
        let Self { socket, room } = self.get_mut();
        loop {
            match send(&**socket, bytes, WITHOUT_WAITING) {
                Ok(length) => {
                    if length == bytes.len() {
                        *room = None;
                    }
                    turn.made_progress();
                    return Poll::Ready(Ok(length));
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(error) => {
                    turn.made_progress();
                    return Poll::Ready(Err(error.into()));
                }
            }
            let room = match room {
                Some(room) => room,
                None => room.insert(system::readiness(socket.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?),
            };
            // The next try is the look whether it is true. If there is none, the system tells again: it does so each time that there comes
            // to be room.
            ready!(room.poll_write_ready(context))?.clear_ready();
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&*self.socket, Shutdown::Write)?))
    }
}

/// Whoever writes to a process that is gone is told so, and not by a signal.
const WITHOUT_WAITING: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use futures_util::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than any socket holds, in bytes.
    const MUCH: usize = 8 << 20;

    fn much() -> Vec<u8> {
        (0..MUCH).map(|place| u8::try_from(place % 251).expect("small")).collect()
    }

    /// A stream, as it comes without being set not to block, and the process at its other end.
    fn pair() -> (Reader, Writer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (reader, writer) = Stream::new(ours.into()).expect("watched").halves();
        (reader, writer, theirs)
    }

    #[tokio::test]
    async fn what_is_written_at_once_arrives_and_what_is_said_is_read() {
        let (mut reader, mut writer, mut theirs) = pair();
        let (mut there, mut here) = ([0; 64], [0; 4]);
        // The first is there before anybody looks; each other one is waited for, and longer than what is read at once.
        for said in ["one", "two and more", "three and even more"] {
            theirs.write_all(said.as_bytes()).expect("written");
            let mut heard = Vec::new();
            while heard.len() < said.len() {
                let length = reader.read(&mut here).await.expect("read");
                heard.extend_from_slice(&here[..length]);
            }
            assert_eq!(heard, said.as_bytes());
            assert!(poll!(Box::pin(reader.read(&mut here))).is_pending(), "nothing more was said");
            writer.write_all(said.as_bytes()).await.expect("written");
            assert!(writer.room.is_none(), "nothing had to wait");
            let length = theirs.read(&mut there).expect("read");
            assert_eq!(&there[..length], said.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_half_that_is_shut_down_ends_and_the_other_goes_on() {
        let (mut reader, mut writer, mut theirs) = pair();
        theirs.write_all(b"the last").expect("written");
        theirs.shutdown(Shutdown::Write).expect("shut down");
        let mut said = Vec::new();
        reader.read_to_end(&mut said).await.expect("read");
        assert_eq!(said, b"the last");
        writer.write_all(b"an answer").await.expect("it still reads");
        writer.shutdown().await.expect("shut down");
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).expect("read to its end");
        assert_eq!(answer, "an answer");
    }

    #[tokio::test]
    async fn what_waits_for_room_goes_on_when_the_other_side_reads_and_is_read_meanwhile() {
        let (mut reader, mut writer, mut theirs) = pair();
        let bytes = much();
        for _ in 0..2 {
            let mut writing = Box::pin(writer.write_all(&bytes));
            assert!(poll!(&mut writing).is_pending(), "no socket holds as much");
            theirs.write_all(b"meanwhile").expect("written");
            let mut heard = [0; 9];
            reader.read_exact(&mut heard).await.expect("read");
            assert_eq!(&heard, b"meanwhile");
            assert!(poll!(&mut writing).is_pending(), "nobody has read");
            let mut other = theirs.try_clone().expect("copied");
            let reads = std::thread::spawn(move || {
                let mut all = vec![0; MUCH];
                other.read_exact(&mut all).map(|()| all)
            });
            writing.await.expect("written");
            assert!(writer.room.is_none(), "nobody is told of room that nothing waits for");
            assert_eq!(reads.join().expect("it reads").expect("all of it"), bytes);
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_room_hears_that_the_other_side_is_gone() {
        let (_reader, mut writer, theirs) = pair();
        let bytes = much();
        let mut writing = Box::pin(writer.write_all(&bytes));
        assert!(poll!(&mut writing).is_pending(), "no socket holds as much");
        drop(theirs);
        assert_eq!(writing.await.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    }
}
