//! What PEERS, SCRIPTS and STATS answer. It changes nothing.

use serde_json::{Value, json};

use super::Control;

impl Control {
    /// Everyone that is connected or remembered, by name.
    pub(super) fn peers(&self) -> Value {
        let mut peers = self.0.peers.registered();
        peers.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| other.last_seen_ms.cmp(&one.last_seen_ms)));
        let show = |peer: &crate::peers::Registered| {
            json!({
                "name": peer.name, "instance": peer.instance, "address": peer.address, "tags": peer.tags,
                "connected": peer.link.is_some(), "seed": peer.instance.is_none(), "last_seen": peer.last_seen_ms,
                "version": peer.version, "epoch": peer.epoch, "capacity": peer.capacity,
                "in_flight": peer.link.as_ref().map_or(0, crate::link::Link::in_flight),
                "draining": peer.link.as_ref().is_some_and(crate::link::Link::is_draining),
            })
        };
        peers.iter().map(show).collect()
    }

    /// The scripts of this daemon.
    pub(super) async fn scripts(&self) -> Value {
        let mut scripts = self.0.executor.scripts().await;
        scripts.sort_by(|one, other| one.name.cmp(&other.name));
        let show = |script: &crate::exec::ScriptEntry| json!({ "name": script.name, "executable": script.executable, "bytes": script.bytes });
        scripts.iter().map(show).collect()
    }

    /// How the daemon does.
    pub(super) fn stats(&self) -> Value {
        let me = self.0.peers.me();
        let exec = self.0.executor.stats();
        let spool = self.0.spool.as_ref().map(|spool| {
            let stats = spool.stats();
            json!({
                "bytes": stats.bytes, "rows": stats.rows, "unsettled": stats.unsettled,
                "unacknowledged": stats.unacknowledged, "history_bytes": stats.history_bytes, "commits": stats.commits,
                "verbs": stats.verbs, "failures": stats.failures, "commit_us": stats.commit_us,
                "longest_commit_us": stats.longest_commit_us,
            })
        });
        json!({
            "name": me.name, "instance": me.instance, "version": me.version,
            "up_ms": u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            "links": self.0.peers.links().len(), "asked": self.0.origin.live_count(),
            "running": exec.running, "waiting": exec.in_line, "spool": spool,
        })
    }
}
