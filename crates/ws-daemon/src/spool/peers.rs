//! Peers that have been here. It never knows who is connected.

use rusqlite::{Row, params};

use super::records::PeerRecord;
use super::seal::Seal;
use super::store::{Store, Trouble, Verdict, sealed, signed, unsigned};

const PEER: &str = "SELECT id, instance, name, configured, tags, epoch, version, capacity, address, last_seen, seal FROM peers";

impl Store {
    /// See [`Spool::peer_seen`](super::Spool::peer_seen).
    pub fn peer_seen(&mut self, peer: &PeerRecord) -> Verdict<()> {
        let tags = serde_json::Value::from(peer.tags.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string();
        let sql = "INSERT INTO peers (instance, name, configured, tags, epoch, version, capacity, address, last_seen, seal)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (instance) DO UPDATE SET name = ?2, configured = ?3,
            tags = ?4, epoch = ?5, version = ?6, capacity = ?7, address = ?8, last_seen = ?9, seal = ?10";
        let known = self.one("SELECT 1 FROM peers WHERE instance = ?1", [&peer.instance], |_| Ok(()))?.is_some();
        let values = params![
            peer.instance,
            peer.name,
            peer.configured,
            tags,
            signed(peer.epoch),
            peer.version,
            signed(peer.capacity),
            peer.address,
            peer.last_seen,
            seal(peer, &tags)
        ];
        self.write(sql, values)?;
        if !known {
            self.tally.peers += 1;
        }
        if self.tally.peers > self.bounds.peers {
            let oldest = "DELETE FROM peers WHERE id = (SELECT id FROM peers WHERE instance <> ?1 ORDER BY last_seen LIMIT 1)";
            self.tally.peers -= self.write(oldest, [&peer.instance])? as u64;
        }
        Ok(())
    }

    /// See [`Spool::peers`](super::Spool::peers).
    pub fn peers(&mut self) -> Verdict<Vec<PeerRecord>> {
        self.all(&format!("{PEER} ORDER BY name, instance"), &[], read)
    }

    /// See [`Spool::forget_peer`](super::Spool::forget_peer).
    pub fn forget_peer(&mut self, instance: &str) -> Verdict<()> {
        let gone = self.write("DELETE FROM peers WHERE instance = ?1", [instance])?;
        self.tally.peers = self.tally.peers.saturating_sub(gone as u64);
        Ok(())
    }

    /// Reads and counts the whole table.
    pub fn count_peers(&mut self) -> Verdict<()> {
        self.tally.peers = self.all(PEER, &[], read)?.len() as u64;
        Ok(())
    }
}

fn read(row: &Row<'_>) -> Verdict<PeerRecord> {
    let tags: Box<str> = row.get(4)?;
    let peer = PeerRecord {
        instance: row.get(1)?,
        name: row.get(2)?,
        configured: row.get(3)?,
        tags: serde_json::from_str::<Vec<Box<str>>>(&tags)
            .map_err(|error| Trouble::Damaged(format!("tags of a peer: {error}")))?,
        epoch: unsigned(row.get(5)?),
        version: row.get(6)?,
        capacity: unsigned(row.get(7)?),
        address: row.get(8)?,
        last_seen: row.get(9)?,
    };
    let computed = seal(&peer, &tags);
    sealed("peers", row.get(0)?, peer, computed, row.get(10)?)
}

fn seal(peer: &PeerRecord, tags: &str) -> i64 {
    Seal::of("peers")
        .text(&peer.instance)
        .text(&peer.name)
        .int(i64::from(peer.configured))
        .text(tags)
        .int(signed(peer.epoch))
        .text(&peer.version)
        .int(signed(peer.capacity))
        .text(&peer.address)
        .int(peer.last_seen)
        .sum()
}
