//! What a program that is to be started is given, whichever way it is started.
//!
//! On Linux the child shares our memory until it has become the program (as after vfork(2)), on a stack that each thread makes
//! once. posix_spawn(3) of glibc does the same and more: it maps a stack for each child and touches every signal, and reached
//! 0.59 of the rate (0.53 with std's `Command` above it; `ws-daemon-bench limit`). Elsewhere `Command` does it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::BorrowedFd;

/// A program to be started, leader of a process group of its own, with the descriptors given here and no other, signals as by
/// default.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The path, and `argv[0]`.
    pub program: &'a CStr,
    /// `argv[1]` and what follows.
    pub arguments: &'a [&'a CStr],
    /// `NAME=value`
    pub environment: &'a [&'a CStr],
    /// The working directory.
    pub folder: &'a CStr,
    /// What the program reads; `None`: /dev/null.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Where it writes.
    pub stdout: BorrowedFd<'a>,
    /// Where it writes of trouble.
    pub stderr: BorrowedFd<'a>,
    /// Where a program that only prepares another one says why that does not come: its descriptor 3, on Linux alone.
    pub report: Option<BorrowedFd<'a>>,
}

/// Text for a program: none holds a NUL, which is for the caller to have seen to.
///
/// # Errors
/// `InvalidInput` if there is one all the same.
pub fn c_text(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::from)
}
