//! What the daemon is told to do. It owns the way from what was written (flags, environment, config.json) to what is meant, and
//! never acts on it.

mod described;
mod difference;
mod file;
mod http_proxy;
mod in_use;
mod log;
mod rules;
mod server_url;
mod serving;
mod settings;
mod size;

pub use described::described;
pub use difference::Difference;
pub use file::{Mode, Written, WrittenFault, WrittenServers, in_plain_words};
pub use http_proxy::{HttpProxy, HttpProxyFault, ProxyVariables};
pub use in_use::InUse;
pub use log::{LogFilter, LogFilterFault, LogFormat};
pub use rules::{Account, Accounts, BY_CALLERS, BY_PEERS, BY_TCP, Code, Glob, Rule, Who, Word, WrittenRule};
pub use server_url::{Credentials, SEED_PORT, ServerUrl, ServerUrlFault, Servers};
pub use serving::{Serving, WrittenServing};
pub use settings::{
    AuditFile, Limits, LocalTcp, MissingConfig, Open, Role, Row, Settings, SettingsFault, Source, Sources, Times, Tls,
};
pub use size::{described as described_size, deserialize as deserialize_size};
