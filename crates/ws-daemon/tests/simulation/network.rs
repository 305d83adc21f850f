//! The network: cables between two daemons, whose bytes come late, in pieces, are held back and let go, or are lost with the
//! cable. Either end may be cut alone: what is on its way to the other one still comes there, long after a new cable was laid.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use ws_daemon::link::Stream;
use ws_daemon::tasks::Tasks;

/// Bytes that one end takes before it is slow.
const BUFFER: usize = 64 << 10;

/// The longest way.
const SLOWEST_MS: u64 = 40;

/// A cable between the side that dials and the side that was dialled.
#[derive(Debug)]
pub struct Cable {
    /// Whether nothing passes, from whoever dials and to whoever dials.
    held: [watch::Sender<bool>; 2],
    /// The ends: of whoever dials, of whoever was dialled.
    cut: [CancellationToken; 2],
}

/// One direction of it.
struct Way {
    from: ReadHalf<DuplexStream>,
    to: WriteHalf<DuplexStream>,
    from_cut: CancellationToken,
    to_cut: CancellationToken,
    held: watch::Receiver<bool>,
    rng: Rng,
}

impl Cable {
    /// Lays a cable: its ends are those of whoever dials and of whoever is dialled.
    pub fn lay(tasks: &Tasks, rng: &mut Rng) -> (Stream, Stream, Arc<Self>) {
        let ((near, near_inside), (far, far_inside)) = (duplex(BUFFER), duplex(BUFFER));
        let cable = Arc::new(Self { held: Default::default(), cut: Default::default() });
        let ((near_read, near_write), (far_read, far_write)) = (split(near_inside), split(far_inside));
        for (from, to, first, second) in [(near_read, far_write, 0, 1), (far_read, near_write, 1, 0)] {
            let (from_cut, to_cut) = (cable.cut[first].clone(), cable.cut[second].clone());
            let way = Way { from, to, from_cut, to_cut, held: cable.held[first].subscribe(), rng: rng.fork() };
            tasks.spawn(way.run());
        }
        (Stream::boxed(near), Stream::boxed(far), cable)
    }

    pub fn hold(&self, held: bool) {
        (0..2).for_each(|end| self.hold_from(end, held));
    }

    /// The same of what comes from one end.
    pub fn hold_from(&self, end: usize, held: bool) {
        self.held[end].send_replace(held);
    }

    pub fn is_held(&self) -> bool {
        self.held.iter().any(|held| *held.borrow())
    }

    /// 0: at whoever dials, 1: at whoever was dialled.
    pub fn cut(&self, end: usize) {
        self.cut[end].cancel();
    }

    pub fn is_whole(&self) -> bool {
        self.cut.iter().all(|cut| !cut.is_cancelled())
    }
}

impl Way {
    async fn run(mut self) {
        let mut piece = vec![0; BUFFER];
        loop {
            // Often whole frames, now and then a part of one.
            let most = if self.rng.u8(..4) == 0 { self.rng.usize(1..200) } else { BUFFER };
            let read = tokio::select! {
                biased;
                () = self.from_cut.cancelled() => break,
                () = self.to_cut.cancelled() => break,
                read = self.from.read(&mut piece[..most]) => read.unwrap_or(0),
            };
            if read == 0 {
                break;
            }
            sleep(Duration::from_millis(self.rng.u64(0..=SLOWEST_MS))).await;
            let pass = async {
                if self.held.wait_for(|held| !held).await.is_ok() {
                    drop(self.to.write_all(&piece[..read]).await);
                }
            };
            tokio::select! {
                biased;
                () = self.to_cut.cancelled() => break,
                () = pass => {}
            }
        }
        // The end comes as late as bytes do, but at once where the cable was cut.
        let end = async { drop(self.held.wait_for(|held| !held).await) };
        tokio::select! {
            () = self.to_cut.cancelled() => {}
            () = end => {}
        }
        drop(self.to.shutdown().await);
    }
}
