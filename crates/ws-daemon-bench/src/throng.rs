//! More idle links than one process may have: several [crowds](crate::crowd), each in a process of its own and before a server of
//! its own.
//!
//! Such a process is this program, started again. It is told in lines what to do and says in a line what came of it; it ends with
//! its stdin, and with us. Nothing is measured here.

use std::env;
use std::fmt::{self, Display, Formatter};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};

use crate::child::Child;
use crate::crowd::Crowd;
use crate::{links, system};

/// How an answer begins: how many links there are, or what failed.
const UP: &str = "up ";
const FAILED: &str = "failed ";
/// While an answer is waited for, whether we are to stop is looked at so often.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// All of them; gone without a trace when dropped.
#[derive(Default)]
pub struct Throng {
    crowds: Vec<FarCrowd>,
    /// Links of whoever comes next are numbered from here on.
    next: usize,
}

/// A crowd in another process.
struct FarCrowd {
    links: usize,
    process: BufReader<UnixStream>,
    /// Dropped, it ends, and every link with it.
    child: Option<Child>,
}

/// What a crowd is told. Each is done when it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// Until there are so many links.
    Grow(usize),
    /// A ping on each, and its pong.
    Touch,
    /// Whether one is lost.
    Look,
}

/// So many links, shared out as evenly as can be, and to nobody more than `most`.
pub fn shares(links: usize, most: usize) -> Vec<usize> {
    let count = links.div_ceil(most);
    (0..count).map(|number| links / count + usize::from(number < links % count)).collect()
}

impl Throng {
    /// One more process, which is to hold so many links to `server`. To be called by the main thread.
    pub fn start(&mut self, server: SocketAddr, links: usize, log: PathBuf) -> Result<()> {
        let own = env::current_exe().context("cannot tell where this program is")?;
        let mut command = Command::new(own);
        command.args(["--hold", &server.to_string(), "--first", &self.next.to_string()]);
        let (child, process) = Child::start_spoken_to(&mut command, log)?;
        self.join(links, process, Some(child))
    }

    fn join(&mut self, links: usize, process: UnixStream, child: Option<Child>) -> Result<()> {
        process.set_read_timeout(Some(BETWEEN_LOOKS))?;
        self.crowds.push(FarCrowd { links, process: BufReader::new(process), child });
        self.next = links::after(self.next + links);
        Ok(())
    }

    /// Until each has the links that it is to hold.
    pub fn gather(&mut self) -> Result<()> {
        self.all(|crowd| Order::Grow(crowd.links))
    }

    /// A ping on each link, and its pong.
    pub fn touch(&mut self) -> Result<()> {
        self.all(|_| Order::Touch)
    }

    /// An error once a link is gone.
    pub fn check(&mut self) -> Result<()> {
        self.all(|_| Order::Look)
    }

    /// All at the same time; an error if one fails, or has not all of its links.
    fn all(&mut self, order: impl Fn(&FarCrowd) -> Order) -> Result<()> {
        for crowd in &mut self.crowds {
            let order = order(crowd);
            writeln!(crowd.process.get_mut(), "{order}").context("a process that holds links has ended")?;
        }
        for (number, crowd) in self.crowds.iter_mut().enumerate() {
            let up = crowd.answer().with_context(|| format!("links of process {number}"))?;
            ensure!(up == crowd.links, "{up} of {} links of process {number} are left", crowd.links);
        }
        Ok(())
    }
}

impl FarCrowd {
    /// How many links it has, when it has done what it was told.
    fn answer(&mut self) -> Result<usize> {
        let mut line = String::new();
        while !line.ends_with('\n') {
            match self.process.read_line(&mut line) {
                Ok(0) => bail!("it has ended: {}", self.child.as_ref().map(Child::log_tail).unwrap_or_default()),
                Ok(_) => {}
                Err(failure) if failure.kind() == ErrorKind::WouldBlock => system::check_stop()?,
                Err(failure) => return Err(failure.into()),
            }
        }
        let line = line.trim_end();
        if let Some(failure) = line.strip_prefix(FAILED) {
            bail!("{failure}");
        }
        let up = line.strip_prefix(UP).and_then(|up| up.parse().ok());
        up.with_context(|| format!("not an answer: {line}"))
    }
}

/// Does what is said, line by line, until no more comes, and answers each.
pub fn obey(mut crowd: Crowd, orders: impl BufRead, mut answers: impl Write) -> Result<()> {
    for line in orders.lines() {
        let done = line?.parse().and_then(|order| match order {
            Order::Grow(count) => crowd.grow(count),
            Order::Touch => crowd.touch(),
            Order::Look => crowd.check(),
        });
        match done {
            Ok(()) => writeln!(answers, "{UP}{}", crowd.up())?,
            Err(failure) => writeln!(answers, "{FAILED}{}", format!("{failure:#}").replace('\n', " "))?,
        }
        answers.flush()?;
    }
    Ok(())
}

impl Display for Order {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Order::Grow(count) => write!(formatter, "grow {count}"),
            Order::Touch => formatter.write_str("touch"),
            Order::Look => formatter.write_str("look"),
        }
    }
}

impl FromStr for Order {
    type Err = Error;

    fn from_str(line: &str) -> Result<Order> {
        match line.split_once(' ') {
            Some(("grow", count)) => Ok(Order::Grow(count.parse()?)),
            None if line == "touch" => Ok(Order::Touch),
            None if line == "look" => Ok(Order::Look),
            _ => bail!("not an order: {line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{IpAddr, TcpListener, TcpStream};
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::crowd::{Dialect, Way};
    use crate::links::END;

    /// The server's end of a seed link, which answers so many pings and closes.
    fn link(mut stream: TcpStream, pings: usize) -> Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(END) {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
        for _ in 0..pings {
            let mut head = [0; 6];
            stream.read_exact(&mut head)?;
            let mut payload = vec![0; usize::from(head[1] & 0x7f)];
            stream.read_exact(&mut payload)?;
            stream.write_all(&[&[0x8a, head[1] & 0x7f], &payload[..]].concat())?;
        }
        Ok(())
    }

    /// A server for so many links; where they come from.
    fn server(links: usize, pings: usize) -> (SocketAddr, JoinHandle<Vec<IpAddr>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let accept = move || {
            let stream = listener.accept().expect("a client").0;
            let source = stream.peer_addr().expect("its address").ip();
            thread::spawn(move || link(stream, pings));
            source
        };
        (address, thread::spawn(move || (0..links).map(|_| accept()).collect()))
    }

    /// What another process would be, on a thread.
    fn join(throng: &mut Throng, server: SocketAddr, links: usize) -> JoinHandle<Result<()>> {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let way = Way { first: throng.next, ..Way::plain(server, Dialect::Seed) };
        let orders = BufReader::new(theirs.try_clone().expect("a second handle"));
        throng.join(links, ours, None).expect("room");
        thread::spawn(move || obey(Crowd::new(way)?, orders, theirs))
    }

    #[test]
    fn links_are_shared_out_over_no_more_than_it_takes() {
        assert_eq!(shares(100_000, 19_000), [16_667, 16_667, 16_667, 16_667, 16_666, 16_666]);
        assert_eq!(shares(7, 3), [3, 2, 2]);
        assert_eq!(shares(10, 10), [10]);
    }

    #[test]
    fn several_crowds_hold_what_one_may_not_and_each_has_its_own_addresses() {
        let (mut throng, mut servers, mut processes) = (Throng::default(), Vec::new(), Vec::new());
        for links in shares(5, 2) {
            let (address, accepting) = server(links, usize::MAX);
            processes.push(join(&mut throng, address, links));
            servers.push(accepting);
        }
        throng.gather().expect("five links");
        throng.touch().expect("five pongs");
        throng.check().expect("none lost");
        let sources = servers.into_iter().map(|server| server.join().expect("no panic")).collect::<Vec<_>>();
        let expected = [vec![[127, 0, 1, 1]; 2], vec![[127, 0, 1, 2]; 2], vec![[127, 0, 1, 3]]];
        assert_eq!(sources, expected.map(|links| links.into_iter().map(IpAddr::from).collect::<Vec<_>>()));
        drop(throng);
        for process in processes {
            process.join().expect("no panic").expect("it ends with its stdin");
        }
    }

    #[test]
    fn a_link_that_one_of_them_loses_is_told_in_words() {
        let mut throng = Throng::default();
        for pings in [usize::MAX, 0] {
            join(&mut throng, server(1, pings).0, 1);
        }
        let failure = throng.gather().and_then(|()| throng.touch()).expect_err("one is gone");
        assert!(format!("{failure:#}").contains("process 1: link 4000: "), "{failure:#}");
    }

    #[test]
    fn one_that_ends_or_is_told_what_is_no_order_says_so() {
        let mut throng = Throng::default();
        let process = join(&mut throng, server(1, 0).0, 1);
        let crowd = &mut throng.crowds[0];
        crowd.process.get_mut().write_all(b"dance\n").expect("it reads");
        let failure = crowd.answer().expect_err("it does not dance");
        assert_eq!(failure.to_string(), "not an order: dance");
        crowd.process.get_mut().shutdown(std::net::Shutdown::Write).expect("an end");
        process.join().expect("no panic").expect("it ends with its stdin");
        assert!(crowd.answer().expect_err("nobody is there").to_string().contains("it has ended"));
    }

    #[test]
    fn orders_are_read_as_they_are_written() {
        for order in [Order::Grow(16_667), Order::Touch, Order::Look] {
            assert_eq!(order.to_string().parse::<Order>().expect("an order"), order);
        }
        for wrong in ["", "grow", "grow x", "touch 1"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }
}
