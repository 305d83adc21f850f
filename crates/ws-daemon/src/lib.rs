//! Runs scripts on far machines over one JSON conversation, and never lies about what came of it.
//!
//! A module may use only what stands below it; `tests/layers.rs` reads the `use` lines and proves it. `ARCHITECTURE.md` says
//! what each owns and follows one message through them.
//!
//! | layer | modules |
//! | --- | --- |
//! | 8 | `cli` |
//! | 7 | `daemon` |
//! | 6 | `local`, `http` |
//! | 5 | `api` |
//! | 4 | `control` |
//! | 3 | `origin`, `worker` |
//! | 2 | `peers`, `callers` |
//! | 1 | `link`, `exec`, `spool`, `route`, `policy`, `register`, `levels` |
//! | 0 | `config`, `news`, `tasks`, `system`, `standing`, `rate`, `counters`, `metrics`, `tls`, `audit`, `secret`, `invitation` |

pub mod api;
pub mod audit;
pub mod callers;
pub mod cli;
pub mod config;
pub mod control;
pub mod counters;
pub mod daemon;
pub mod exec;
pub mod http;
pub mod invitation;
pub mod levels;
pub mod link;
pub mod local;
pub mod metrics;
pub mod news;
pub mod origin;
pub mod peers;
pub mod policy;
pub mod rate;
pub mod register;
pub mod route;
pub mod secret;
pub mod spool;
pub mod standing;
pub mod system;
pub mod tasks;
pub mod tls;
pub mod worker;
