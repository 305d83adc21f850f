//! What RUNS, RUN, PEERS, SCRIPTS and STATS answer. It changes nothing.

use serde_json::{Map, Value, json};
use ws_daemon_protocol::command::{RunsQuery, Which};

use super::{Control, Whose};
use crate::config::Glob;
use crate::exec::{ServedNames, WorkerStats};

/// Runs in one answer unless it is said how many.
const SHOWN: usize = 100;

/// The most runs in one answer.
const MOST_SHOWN: usize = 10_000;

/// The most bytes of runs in one answer; older ones are left out.
const SHOWN_BYTES: usize = 8 << 20;

impl Control {
    /// The runs that were asked for here, and those done here for others, the newest first.
    pub(super) async fn runs(&self, whose: Whose<'_>, query: &RunsQuery) -> Value {
        let limit = query.limit.unwrap_or(SHOWN).min(MOST_SHOWN);
        let mut runs = self.0.origin.runs(whose.user_if_own(), query, limit).await;
        if !whose.own_only {
            runs.extend(self.0.worker.runs(query, limit).await);
        }
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
    pub(super) async fn run(&self, whose: Whose<'_>, which: &Which) -> Option<Value> {
        match (self.0.origin.run(whose.user, whose.own_only, which).await, which) {
            (None, Which::Run(run)) if !whose.own_only => self.0.worker.run(run).await,
            (asked, _) => asked,
        }
    }

    /// Everyone that is connected or remembered, by name.
    pub(super) fn peers(&self) -> Value {
        let mut peers = self.0.peers.registered();
        peers.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| other.last_seen_ms.cmp(&one.last_seen_ms)));
        let show = |peer: &crate::peers::Registered| {
            let mut shown = json!({
                "name": peer.name, "instance": peer.instance, "address": peer.address, "tags": peer.tags,
                "connected": peer.link.is_some(), "seed": peer.instance.is_none(), "last_seen": peer.last_seen_ms,
                "version": peer.version, "epoch": peer.epoch, "capacity": peer.capacity,
                "in_flight": peer.link.as_ref().map_or(0, crate::link::Link::in_flight),
                "draining": peer.link.as_ref().is_some_and(crate::link::Link::is_draining),
            });
            if let Some(link) = &peer.link {
                shown["encrypted"] = link.is_encrypted().into();
                if let Some(proven) = link.standing().proven() {
                    shown["proven"] = proven.by.word().into();
                }
            }
            shown
        };
        let known = |name: &str, instance: Option<&str>| {
            let is_it = |peer: &&crate::peers::Registered| match instance {
                Some(_) => peer.instance.as_deref() == instance,
                None => peer.name == name && peer.link.is_some(),
            };
            peers.iter().any(|peer| is_it(&peer))
        };
        // Those that have never linked, or may no more.
        let registered = self.0.peers.register().peers();
        let unseen = registered.iter().filter(|peer| !known(&peer.name, peer.instance.as_deref())).map(|peer| {
            json!({
                "name": peer.name, "instance": peer.instance, "address": "", "tags": peer.tags, "connected": false, "seed": false,
                "last_seen": null, "version": null, "epoch": null, "capacity": null, "in_flight": 0, "draining": false,
                "revoked": peer.revoked,
            })
        });
        peers.iter().map(show).chain(unseen).collect()
    }

    /// The scripts of this daemon, and the names that are served.
    pub(super) async fn scripts(&self) -> Value {
        let scripts = self.0.executor.scripts().await;
        let show = |script: crate::exec::ScriptEntry| {
            let mut shown = json!({ "name": script.name, "executable": script.executable, "bytes": script.bytes });
            let more = [("contract", script.contract), ("refused", script.refused.map(Value::from))];
            for (key, value) in more.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                shown[key] = value;
            }
            shown
        };
        let served = self.0.executor.served().into_iter().flat_map(|ServedNames { names, connections, ready }| {
            let show = move |name: Glob| json!({ "name": name, "served": { "connections": connections, "ready": ready } });
            names.into_iter().map(show)
        });
        scripts.into_iter().map(show).chain(served).collect()
    }

    /// How copies of scripts do, and connections that serve.
    fn workers(&self) -> Value {
        let WorkerStats { running, calls, gone, serving } = self.0.executor.workers();
        let replaced: Map<String, Value> = gone.into_iter().map(named).collect();
        json!({ "running": running, "calls": calls, "replaced": replaced, "serving": serving })
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
            "links_closed": links_closed, "spool": spool, "workers": self.workers(),
        })
    }
}

fn named((name, number): (&str, u64)) -> (String, Value) {
    (name.to_owned(), number.into())
}
