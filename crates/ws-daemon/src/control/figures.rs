//! METRICS: every figure of the daemon, by name and with what it means. `docs/metrics.md` lists the same. It changes nothing, and has
//! no label whose values others choose.

use std::collections::BTreeMap;

use super::Control;
use crate::counters::Outcomes;
use crate::link::Link;
use crate::metrics::{Page, Seconds, wide};
use crate::spool::Spool;
use crate::system;

impl Control {
    /// The figures, as OpenMetrics has them.
    pub async fn metrics(&self) -> String {
        let mut page = Page::default();
        self.links(&mut page);
        self.connections(&mut page);
        self.runs_in_figures(&mut page);
        self.spool_in_figures(&mut page).await;
        page.counter("wsdaemon_audit_lines", "Lines recorded for the audit log", self.0.audit.recorded());
        page.counter("wsdaemon_log_lines_dropped", "Lines of the log that found no room", self.0.levels.dropped());
        self.process(&mut page);
        page.text()
    }

    fn links(&self, page: &mut Page) {
        let mut links: BTreeMap<[&'static str; 3], f64> = BTreeMap::new();
        for dialect in ["seed", "v2"] {
            for state in ["up", "draining"] {
                links.extend(["no", "yes"].map(|encrypted| ([dialect, state, encrypted], 0.0)));
            }
        }
        for link in self.0.peers.links() {
            *links.entry(words(&link)).or_default() += 1.0;
        }
        let labels = ["dialect", "state", "encrypted"];
        page.gauges("wsdaemon_links", "Links that are up", labels, links);
        let closed = self.0.peers.counters().links_closed().map(|(reason, number)| ([reason], number));
        page.counters("wsdaemon_links_closed", "Links that have ended, by why", ["reason"], closed);
    }

    /// Those that failed are told by why; STATS has their sum as well.
    fn connections(&self, page: &mut Page) {
        let counted: BTreeMap<&'static str, u64> = self.0.peers.counters().connections().collect();
        let number = |name| counted.get(name).copied().unwrap_or(0);
        page.counter("wsdaemon_connections_accepted", "Connections accepted on the port for peers", number("accepted"));
        page.counter("wsdaemon_connections_linked", "Connections of which a link came, dialled ones too", number("linked"));
        let at_once = ["full", "too_fast", "too_many_failures", "half_open_dropped"];
        let later = ["unauthorized", "forbidden", "bad_handshake", "too_slow", "no_hello", "unwelcome"];
        let other = number("failures").saturating_sub(later.iter().map(|name| number(name)).sum());
        let rows = at_once.into_iter().chain(later).map(|name| ([name], number(name))).chain([(["other"], other)]);
        page.counters("wsdaemon_connections_refused", "Connections of which no link came, by why", ["reason"], rows);
        let answers = self.0.peers.counters().answers().map(|(status, number)| ([status], number));
        page.counters("wsdaemon_http_answers", "Answers over HTTP to what is no link, by status", ["status"], answers);
        page.gauge("wsdaemon_connections_half_open", "Connections that are no link yet", wide(number("half_open")));
    }

    fn runs_in_figures(&self, page: &mut Page) {
        let ([direct, queued], asked) = self.0.origin.counted();
        let kinds = [(["direct"], direct), (["queued"], queued)];
        page.counters(
            "wsdaemon_requests",
            "Runs asked for here that were accepted, one for each of a fan-out",
            ["kind"],
            kinds,
        );
        let (done, seconds) = self.0.executor.ended();
        let side = |side, outcomes: &Outcomes| {
            outcomes.all().map(move |(reason, number)| ([side, reason], number)).collect::<Vec<_>>()
        };
        let outcomes = side("asked", asked).into_iter().chain(side("done", done));
        let help = "Runs that have ended, by whether they were asked for here or done here, and how they ended";
        page.counters("wsdaemon_outcomes", help, ["side", "reason"], outcomes);
        let counters = self.0.peers.counters();
        let refused = counters.refused().errors().map(|(reason, number)| ([reason], number));
        let help = "Requests and commands that were turned away before anything was done for them, by why";
        page.counters("wsdaemon_refusals", help, ["reason"], refused);
        let commands = counters.commands().map(|(code, number)| ([code], number));
        page.counters("wsdaemon_commands", "Commands carried out for processes and callers", ["code"], commands);
        page.gauge("wsdaemon_requests_live", "Runs asked for here that are not over", wide(self.0.origin.live_count() as u64));
        let exec = self.0.executor.stats();
        page.gauge("wsdaemon_runs_running", "Scripts that run", wide(exec.running as u64));
        page.gauge("wsdaemon_runs_waiting", "Runs in line for a slot", wide(exec.in_line as u64));
        page.gauge("wsdaemon_runs_limit", "Scripts that may run at once", wide(self.0.executor.capacity() as u64));
        page.histogram("wsdaemon_run_seconds", "How long scripts ran", seconds);
        let workers = self.0.executor.workers();
        page.gauge("wsdaemon_workers_running", "Copies of scripts that are kept running", wide(workers.running as u64));
        page.gauge("wsdaemon_workers_serving", "Connections that serve", wide(workers.serving as u64));
        page.counter("wsdaemon_worker_calls", "Requests that copies of scripts or connections were asked", workers.calls);
        let gone = workers.gone.into_iter().map(|(why, number)| ([why], number));
        page.counters("wsdaemon_workers_replaced", "Copies of scripts that are no more, by why", ["reason"], gone);
        let draining = f64::from(u8::from(self.0.executor.is_draining()));
        page.gauge("wsdaemon_draining", "1 while the daemon stops and takes nothing more", draining);
    }

    /// Without a spool there are only zeros, so that a rule about a figure sees it missing nowhere.
    async fn spool_in_figures(&self, page: &mut Page) {
        let spool = self.0.spool.as_ref();
        let oldest = match spool {
            Some(spool) => spool.oldest_ms().await.map_err(drop),
            None => Err(()),
        };
        let stats = spool.map(Spool::stats).unwrap_or_default();
        page.gauge("wsdaemon_spool_up", "1 while what is queued can be kept", f64::from(u8::from(oldest.is_ok())));
        page.gauge("wsdaemon_queue_depth", "Queued runs asked for here that have not settled", wide(stats.unsettled));
        let age = oldest.ok().flatten().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
        page.gauge("wsdaemon_queue_oldest_seconds", "How long ago the oldest of these was asked for", wide(age) / 1000.0);
        let help = "Queued runs of others that were taken in hand and whose askers have not said that they know the outcome";
        page.gauge("wsdaemon_claims", help, wide(stats.unacknowledged));
        page.gauge("wsdaemon_spool_bytes", "What the spool takes on disk", wide(stats.bytes));
        page.gauge("wsdaemon_spool_rows", "Runs and claims in the spool, with those that are over", wide(stats.rows));
        page.counter("wsdaemon_spool_failures", "Transactions that the disk did not take", stats.failures);
        match spool {
            Some(spool) => page.histogram("wsdaemon_spool_commit_seconds", COMMITS, spool.commit_seconds()),
            None => page.histogram("wsdaemon_spool_commit_seconds", COMMITS, &Seconds::of_commits()),
        }
    }

    /// The names are those that every program has for these.
    fn process(&self, page: &mut Page) {
        let role = if self.0.dialer.is_some() { "client" } else { "server" };
        let about = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("role", role.to_owned())];
        page.info("wsdaemon_build", "Which program this is", about);
        let Some(figures) = system::figures() else { return };
        page.seconds("process_cpu_seconds", "Time on processors", figures.cpu_seconds);
        page.gauge("process_resident_memory_bytes", "Memory that is resident", wide(figures.resident_bytes));
        page.gauge("process_virtual_memory_bytes", "Address space", wide(figures.virtual_bytes));
        page.gauge("process_open_fds", "Open descriptors", wide(figures.open_fds));
        page.gauge("process_max_fds", "Descriptors that may be open", figures.max_fds.map_or(f64::INFINITY, wide));
        page.gauge("process_threads", "Threads", wide(figures.threads));
        page.gauge("process_start_time_seconds", "When it was started, in seconds since 1970", figures.started);
    }
}

const COMMITS: &str = "How long the disk took for a commit of the spool";

fn words(link: &Link) -> [&'static str; 3] {
    [
        if link.is_v2() { "v2" } else { "seed" },
        if link.is_draining() { "draining" } else { "up" },
        if link.is_encrypted() { "yes" } else { "no" },
    ]
}
