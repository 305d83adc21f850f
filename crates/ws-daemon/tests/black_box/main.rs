//! The daemon as strangers meet it: the real binary, real sockets, real processes. One test program, so that it is
//! linked once. It never calls a function of the daemon: what is not to be seen from outside is not tested here.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why and ends")]

mod abuse;
mod audit;
mod browser;
mod callers;
mod command_line;
mod container;
mod contracts;
mod conversation;
mod crashes;
mod debian;
mod doctor;
mod documentation;
mod entry;
mod escapes;
mod everyone;
mod execution;
mod files;
mod files_of_others;
mod forgery;
mod frames;
mod http;
mod interop;
mod links;
mod load;
mod logging;
mod metrics;
mod networks;
mod openapi;
mod operator;
mod output;
mod packaging;
mod pages;
mod proxies;
mod queue;
mod recordings;
mod refusals;
mod reload;
mod restart;
mod rules;
mod schemas;
mod script_names;
mod secrets;
mod service_manager;
mod settings;
mod shutdown;
mod support;
mod targets;
mod tls;
mod tools;
mod tools_local;
mod version2;
mod version2_peer;
mod visitors;
