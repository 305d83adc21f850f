//! A cable between clients and a server that a test can hold: what lies on it stays there, in both directions, and neither side
//! hears that the other has died. Later it is let go, or cut. It forwards bytes and understands none of them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

const CHUNK_BYTES: usize = 16 << 10;

/// Listens where clients dial, and dials the server for each; dropped, everything on it is cut.
pub struct Cable {
    port: u16,
    laid: Arc<Mutex<Vec<Arc<Strand>>>>,
    over: Arc<AtomicBool>,
}

/// One connection through it.
struct Strand {
    state: Mutex<State>,
    changed: Condvar,
    ends: [TcpStream; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Flows,
    Held,
    Cut,
}

impl Cable {
    /// A cable to the server on `server_port` of the loopback.
    pub fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let cable = Self { port, laid: Arc::default(), over: Arc::default() };
        let (laid, over) = (Arc::clone(&cable.laid), Arc::clone(&cable.over));
        thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                // A server that is down is not there for who dials.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else { continue };
                let Some(strand) = client.ok().and_then(|client| Strand::new(client, server)) else { continue };
                let mut laid = laid.lock().unwrap_or_else(PoisonError::into_inner);
                laid.retain(|strand| Arc::strong_count(strand) > 1);
                laid.push(Arc::clone(&strand));
                Strand::forward(&strand);
            }
        });
        cable
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds what is connected now; who dials from here on gets through.
    pub fn hold(&self) {
        self.set(State::Flows, State::Held);
    }

    /// What is held flows on, and whose other end has gone hears of it.
    pub fn let_go(&self) {
        self.set(State::Held, State::Flows);
    }

    /// What is held is reset at both ends.
    pub fn cut_held(&self) {
        self.set(State::Held, State::Cut);
    }

    fn set(&self, from: State, to: State) {
        for strand in self.laid.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            strand.set(from, to);
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.set(State::Held, State::Cut);
        self.set(State::Flows, State::Cut);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Strand {
    fn new(client: TcpStream, server: TcpStream) -> Option<Arc<Self>> {
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        Some(Arc::new(Self { state: Mutex::new(State::Flows), changed: Condvar::new(), ends: [client, server] }))
    }

    fn forward(strand: &Arc<Self>) {
        for (from, to) in [(0, 1), (1, 0)] {
            let strand = Arc::clone(strand);
            thread::spawn(move || strand.copy(from, to));
        }
    }

    /// Until one end is closed; what the end says then waits as well while it is held.
    fn copy(&self, from: usize, to: usize) {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = (&self.ends[from]).read(&mut chunk);
            if !self.flows() {
                return;
            }
            match read {
                Ok(length) if length > 0 && (&self.ends[to]).write_all(&chunk[..length]).is_ok() => {}
                _ => break,
            }
        }
        for end in &self.ends {
            // Closed already is as good.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Waits while it is held; `false` if it was cut.
    fn flows(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.changed.wait_while(state, |state| *state == State::Held);
        *state.unwrap_or_else(PoisonError::into_inner) == State::Flows
    }

    fn set(&self, from: State, to: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != from {
            return;
        }
        *state = to;
        if to == State::Cut {
            for end in &self.ends {
                // Closed in bad order: a reset, once the threads have let go of it.
                let _ = set_socket_linger(end, Some(Duration::ZERO));
                let _ = end.shutdown(Shutdown::Read);
            }
        }
        self.changed.notify_all();
    }
}
