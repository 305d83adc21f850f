//! The table of live links, and who is next. A link is in it exactly as long as its session runs. It never asks anything of a
//! peer.

mod dialer;

pub use dialer::{Dialer, DialerHandle};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

use crate::link::{self, Ended, Inbound, Link, Terms, Wire};
use crate::route;

/// The table. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    /// Somebody came.
    arrival: Notify,
    inbound: mpsc::Sender<Inbound>,
    terms: Terms,
    /// Cancelled when all links are to be closed.
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    /// In order of arrival: `arrivals[i]` is the number of `links[i]`.
    arrivals: Vec<u64>,
    links: Vec<Link>,
    next: u64,
    last: Option<u64>,
}

/// A link's place in the table, given up when dropped.
struct Place<'a> {
    peers: &'a Peers,
    arrival: u64,
}

impl Peers {
    /// An empty table whose links hand up to `inbound`.
    #[must_use]
    pub fn new(inbound: mpsc::Sender<Inbound>, terms: Terms, closing: CancellationToken) -> Self {
        Self(Arc::new(Inner { table: Mutex::default(), arrival: Notify::new(), inbound, terms, closing }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every section leaves the table whole.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next peer in turn.
    #[must_use]
    pub fn pick(&self) -> Option<Link> {
        let mut table = self.table();
        let index = route::round_robin(&table.arrivals, table.last)?;
        table.last = Some(table.arrivals[index]);
        Some(table.links[index].clone())
    }

    /// Ends when a peer is there.
    pub async fn somebody(&self) {
        loop {
            let mut arrival = std::pin::pin!(self.0.arrival.notified());
            arrival.as_mut().enable();
            if !self.table().links.is_empty() {
                return;
            }
            arrival.await;
        }
    }

    /// What the links of this table go by.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.0.terms
    }

    /// Has a link's life from here on: in the table until its session ends. `closing` closes this one link.
    pub async fn host(&self, wire: Wire, peer: String, closing: CancellationToken) -> Ended {
        let span = info_span!("link", peer);
        let link = Link::new(peer, self.0.terms.message, closing);
        async {
            let place = self.join(link.clone());
            info!("link up");
            let session = link::serve(wire, link.clone(), self.0.inbound.clone(), self.0.terms);
            let mut session = std::pin::pin!(session);
            let ended = tokio::select! {
                ended = &mut session => ended,
                () = self.0.closing.cancelled() => {
                    link.close();
                    session.await
                }
            };
            drop(place);
            info!(reason = %ended, "link down");
            ended
        }
        .instrument(span)
        .await
    }

    fn join(&self, link: Link) -> Place<'_> {
        let mut table = self.table();
        let arrival = table.next;
        table.next += 1;
        table.arrivals.push(arrival);
        table.links.push(link);
        drop(table);
        self.0.arrival.notify_waiters();
        Place { peers: self, arrival }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut table = self.peers.table();
        if let Ok(index) = table.arrivals.binary_search(&self.arrival) {
            table.arrivals.remove(index);
            table.links.remove(index);
        }
    }
}
