//! The daemon as strangers meet it: the real binary, real sockets, real processes. One test program, so that it is
//! linked once. It never calls a function of the daemon: what is not to be seen from outside is not tested here.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why and ends")]

mod conversation;
mod interop;
mod links;
mod load;
mod recordings;
mod support;
