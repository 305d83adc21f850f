//! What is to be reached, each with a station on the way and the goal, and why it is measured as it is.
//!
//! Two daemons, the load and the children share the same cores; ratios are taken within one run.

use crate::figure::Goal;

/// 64-way runs of the minimal program, of the fastest spawn with the same capture.
pub const RUNS: Goal = Goal::at_least(0.55, 0.75);
/// The same of `#!/bin/sh` and `exit 0`.
pub const SHELL_RUNS: Goal = Goal::at_least(0.80, 0.92);
/// One run at a time, in medians of the bare spawn.
pub const ONE_RUN: Goal = Goal::at_most(2.2, 1.7);
/// Microseconds of both daemons a run, children excluded.
pub const CORE_TIME_MICROS: Goal = Goal::at_most(90.0, 60.0);
/// Worker calls a second, 64 in flight on one connection, end to end.
pub const WORKER_CALLS: Goal = Goal::at_least(100_000.0, 250_000.0);
/// One worker call at a time, in medians of a WebSocket echo.
pub const ONE_WORKER_CALL: Goal = Goal::at_most(3.0, 2.0);
/// PING of a peer, 64 in flight, of NATS request and reply.
pub const PINGS: Goal = Goal::at_least(1.0, 2.0);
/// PING of a peer, one at a time, in medians of a Unix socket's round trip and a WebSocket's together.
pub const ONE_PING: Goal = Goal::at_most(2.0, 1.4);
/// Queued requests accepted, 64 in flight, of Redis with `appendfsync always` and 64 clients.
pub const ACCEPTED: Goal = Goal::at_least(1.0, 1.5);
/// Bytes of an idle link at 10,000.
pub const PLAIN_LINK_BYTES: Goal = Goal::at_most(6.0 * 1024.0, 5.0 * 1024.0);
pub const TLS_LINK_BYTES: Goal = Goal::at_most(24.0 * 1024.0, 16.0 * 1024.0);
/// Bytes of a server with no link, and of a client daemon that is linked.
pub const SERVER_BYTES: Goal = Goal::at_most(10e6, 6e6);
pub const CLIENT_BYTES: Goal = Goal::at_most(8e6, 5e6);
/// Percent of one core at 10,000 idle links.
pub const IDLE_PERCENT: Goal = Goal::at_most(2.0, 1.0);
/// A run's median with 100,000 idle links, in medians of a calm one.
pub const RUN_BESIDE_MANY_LINKS: Goal = Goal::at_most(2.0, 1.25);
/// Seconds until 10,000 TLS clients are back whose server was killed.
pub const ALL_BACK_SECONDS: Goal = Goal::at_most(60.0, 30.0);
/// The 99th of 100 runs on those that are back already, in calm ones.
pub const RUN_IN_STORM: Goal = Goal::at_most(5.0, 3.0);
/// Seconds until a server with 100,000 queued requests answers after it was killed and started.
pub const RESTART_SECONDS: Goal = Goal::at_most(2.0, 2.0);
/// What a request takes of time or memory with many peers, queued requests or rows, of the same with few.
pub const SCALE: Goal = Goal::at_most(1.25, 1.25);
/// Requests put on disk by the spool, of a bare loop with the same statements.
pub const ENQUEUED: Goal = Goal::at_least(0.6, 0.6);
