//! What the daemon is told to do. It owns the way from what was written (flags, environment, config.json) to what is meant, and
//! never acts on it.

mod file;
mod server_url;
mod settings;
mod size;

pub use file::{Mode, Written, WrittenFault, in_plain_words};
pub use server_url::{Credentials, SEED_PORT, ServerUrl, ServerUrlFault};
pub use settings::{Limits, LocalTcp, MissingConfig, Open, Role, Row, Settings, SettingsFault, Source, Sources, Times};
pub use size::deserialize as deserialize_size;
