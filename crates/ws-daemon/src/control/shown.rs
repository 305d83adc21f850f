//! What RUNS, RUN, PEERS, SCRIPTS and STATS answer. It changes nothing.

use serde_json::{Map, Value, json};
use ws_daemon_protocol::command::{RunsQuery, Which};

use super::Control;

/// Runs in one answer unless it is said how many.
const SHOWN: usize = 100;

/// The most runs in one answer.
const MOST_SHOWN: usize = 10_000;

/// The most bytes of runs in one answer; older ones are left out.
const SHOWN_BYTES: usize = 8 << 20;

impl Control {
    /// The runs that were asked for here, and those done here for others, the newest first.
    pub(super) async fn runs(&self, query: &RunsQuery) -> Value {
        let limit = query.limit.unwrap_or(SHOWN).min(MOST_SHOWN);
        let mut runs = self.0.origin.runs(query, limit).await;
        runs.extend(self.0.worker.runs(query, limit).await);
        // A run's id begins with the time it was made, by the clock of its asker.
        let newest = |run: &Value| (run["accepted"].as_u64(), run["run"].as_str().map(str::to_owned));
        runs.sort_by_cached_key(|run| std::cmp::Reverse(newest(run)));
        let mut room = SHOWN_BYTES;
        let fits = |run: &Value| {
            let left = room.checked_sub(run.to_string().len());
            left.map(|left| room = left).is_some()
        };
        runs.into_iter().take(limit).take_while(fits).collect()
    }

    /// All about one run, asked for here or done here; by the caller's id only the former.
    pub(super) async fn run(&self, user: &str, which: &Which) -> Option<Value> {
        match (self.0.origin.run(user, which).await, which) {
            (None, Which::Run(run)) => self.0.worker.run(run).await,
            (asked, _) => asked,
        }
    }

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
        let counters = self.0.peers.counters();
        let connections: Map<String, Value> = counters.connections().map(named).collect();
        let links_closed: Map<String, Value> = counters.links_closed().map(named).collect();
        json!({
            "name": me.name, "instance": me.instance, "version": me.version,
            "up_ms": u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            "links": self.0.peers.links().len(), "asked": self.0.origin.live_count(),
            "running": exec.running, "waiting": exec.in_line, "connections": connections,
            "links_closed": links_closed, "spool": spool,
        })
    }
}

fn named((name, number): (&str, u64)) -> (String, Value) {
    (name.to_owned(), number.into())
}
