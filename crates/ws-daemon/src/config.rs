//! What the daemon is told to do. It owns the way from what was written (flags, environment, config.json) to what is meant, and
//! never acts on it.

mod difference;
mod file;
mod in_use;
mod rules;
mod server_url;
mod settings;
mod size;

pub use difference::Difference;
pub use file::{Mode, Written, WrittenFault, in_plain_words};
pub use in_use::InUse;
pub use rules::{Account, Accounts, BY_PEERS, BY_TCP, Code, Glob, Rule, Who, Word, WrittenRule};
pub use server_url::{Credentials, SEED_PORT, ServerUrl, ServerUrlFault};
pub use settings::{
    AuditFile, Limits, LocalTcp, MissingConfig, Open, Role, Row, Settings, SettingsFault, Source, Sources, Times, Tls,
};
pub use size::deserialize as deserialize_size;
