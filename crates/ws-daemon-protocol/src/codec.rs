//! Bytes to messages and back. It owns syntax: where a message ends, what is wrong with it and where. It never decides what a
//! message means for the daemon.

pub mod compact;
pub mod framer;
pub mod scanner;
pub mod seed;
pub mod v2;
pub mod websocket;
