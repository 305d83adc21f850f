//! Whose the other end of a TCP connection within this machine is, as Linux knows it. It never guesses: a socket that nobody
//! holds any more is not found, whatever the kernel shows as its user then.
//!
//! One question to the kernel (sock_diag(7)) costs tens of microseconds, with 10,000 links that come from the machine itself as with
//! one. Where it cannot be asked, as behind some seccomp filters, /proc/net/tcp is read: with these links that is 20,000 lines, 3 MB
//! and some 80 ms for each new one, on a thread where it holds nobody up.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// `SOCK_DIAG_BY_FAMILY`, the one kind of question and of answer.
const BY_FAMILY: u16 = 20;

/// Bytes of a question: `nlmsghdr` and `inet_diag_req_v2`.
const QUESTION_BYTES: u32 = 16 + 56;

/// Bytes of an answer that are looked at: `nlmsghdr` and `inet_diag_msg`.
const ANSWER_BYTES: usize = 16 + 72;

/// The user id that owns the end at `far` of a connection whose end here is at `own`.
///
/// # Errors
/// `NotFound` if nobody on this machine holds that end, or what the system says if it cannot be asked.
pub async fn owner(own: SocketAddr, far: SocketAddr) -> io::Result<u32> {
    match asked(far, own) {
        // It does answer such questions: it knows our end and has not found the other.
        Err(error) if asked(own, far).is_ok() => Err(error),
        Err(_) => tokio::task::spawn_blocking(move || listed(far, own)).await.map_err(io::Error::other)?,
        found => found,
    }
}

/// The owner of the socket at `local` that is connected to `remote`, by the kernel's answer.
fn asked(local: SocketAddr, remote: SocketAddr) -> io::Result<u32> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG))?;
    send(&kernel, &question(local, remote), SendFlags::empty())?;
    // It is answered within the send: there is nothing to wait for.
    let mut answer = [0; ANSWER_BYTES];
    recv(&kernel, &mut answer, RecvFlags::empty())?;
    // Another kind is an error, mostly "no such socket". That it is no listening socket, the kernel's second choice, is seen by
    // the ports; that somebody holds it, by the inode: a closed one has none, and older kernels then say that it is root's.
    let ports = [local.port().to_be_bytes(), remote.port().to_be_bytes()].concat();
    let is_the_one = answer[4..6] == BY_FAMILY.to_ne_bytes() && answer[20..24] == ports && word(&answer, 84) != 0;
    if is_the_one { Ok(word(&answer, 80)) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    const TCP: u8 = 6;
    const ANY_STATE: u32 = u32::MAX;
    const NO_COOKIE: [u8; 8] = [0xff; 8];
    let family = if local.is_ipv4() { 2 } else { 10 };
    let mut bytes = Vec::with_capacity(QUESTION_BYTES as usize);
    bytes.extend(QUESTION_BYTES.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    // NLM_F_REQUEST alone: not a list, the one socket with these ends. Then a sequence number and a sender, which nobody looks at.
    bytes.extend(1_u16.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, 0, 0]);
    bytes.extend(ANY_STATE.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        let octets = octets(address);
        bytes.extend(octets.iter().chain([0; 16].iter().skip(octets.len())));
    }
    // Any interface.
    bytes.extend([0; 4]);
    bytes.extend(NO_COOKIE);
    bytes
}

fn word(bytes: &[u8; ANSWER_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The same, by the kernel's lists of all sockets.
fn listed(local: SocketAddr, remote: SocketAddr) -> io::Result<u32> {
    // An IPv4 connection may have been made by an IPv6 socket.
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    let four = local.is_ipv4().then_some(("/proc/net/tcp", local, remote));
    for (table, local, remote) in four.into_iter().chain([("/proc/net/tcp6", mapped(local), mapped(remote))]) {
        let (local, remote) = (shown(local), shown(remote));
        for line in BufReader::new(File::open(table)?).lines() {
            let line = line?;
            // sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
            let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
            if let [_, at, to, _, _, _, _, user, _, inode] = fields[..]
                && (at, to) == (&local, &remote)
                && inode != "0"
            {
                return user.parse().map_err(io::Error::other);
            }
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// An address and port as these lists have them: words of the machine's byte order, in hex.
fn shown(end: SocketAddr) -> String {
    let octets = octets(end.ip());
    let words = octets.as_chunks::<4>().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
    format!("{}:{:04X}", words.collect::<String>(), end.port())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::process::{Uid, geteuid};

    use super::*;

    /// Both ends of a connection from `to` to a listener on `at`, and where they are: the far one, then the accepted one.
    fn connected(at: &str, to: &str) -> (TcpStream, TcpStream, SocketAddr, SocketAddr) {
        let listener = TcpListener::bind((at, 0)).expect("the loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let far = TcpStream::connect((to, port)).expect("it listens");
        let (own, from) = listener.accept().expect("somebody dialled");
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let here = canonical(own.local_addr().expect("it is connected"));
        (far, own, canonical(from), here)
    }

    const WAYS: [fn(SocketAddr, SocketAddr) -> io::Result<u32>; 2] = [asked, listed];

    #[test]
    fn the_owner_of_the_far_end_is_found_both_ways() {
        for (at, to) in
            [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1"), ("::ffff:127.0.0.1", "127.0.0.1")]
        {
            let (far, _own, there, here) = connected(at, to);
            let mut user = geteuid();
            if user.is_root() {
                user = Uid::from_raw(54_321);
                rustix::fs::fchown(far.as_fd(), Some(user), None).expect("root may give a socket away");
            }
            for way in WAYS {
                assert_eq!(way(there, here).expect("it is there"), user.as_raw(), "{at} {to}");
                assert_eq!(way(here, there).expect("it is there"), geteuid().as_raw(), "{at} {to}");
            }
        }
    }

    #[tokio::test]
    async fn who_has_gone_and_who_never_came_are_not_found() {
        let (far, own, there, here) = connected("127.0.0.1", "127.0.0.1");
        assert_eq!(owner(here, there).await.expect("it is there"), geteuid().as_raw());
        drop(far);
        for way in WAYS {
            assert_eq!(way(there, here).expect_err("closed").kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(owner(here, there).await.expect_err("closed").kind(), io::ErrorKind::NotFound);
        drop(own);
        // Nobody is connected to a port that listens; the kernel would show the listener.
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let listens = listener.local_addr().expect("it is bound");
        for way in WAYS {
            assert_eq!(way(listens, here).expect_err("not connected").kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(owner(here, listens).await.expect_err("not connected").kind(), io::ErrorKind::NotFound);
    }
}
