//! A named pipe between a test and its scripts: what they have reached, and when they may go on. It owns the file and
//! both of its ends, so that neither side ever waits in open(2); it never interprets what is said.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::process::wait_readable;
use super::{DEADLINE, left};

pub struct Fifo {
    ends: File,
    path: PathBuf,
}

impl Fifo {
    /// Makes the pipe `name` in a prefix; scripts find it as `$WSDAEMON_PREFIX/name`.
    pub fn new(prefix: &Path, name: &str) -> Self {
        let path = prefix.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("the prefix is ours to write");
        let ends = OpenOptions::new().read(true).write(true).open(&path).expect("the pipe is ours");
        Self { ends, path }
    }

    /// The next line that a script has written, without its newline.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let until = Instant::now() + DEADLINE;
        let mut line = Vec::new();
        loop {
            assert!(left(until).is_some() && wait_readable(&self.ends, until), "nothing was said in {}", self.path.display());
            let mut byte = [0];
            self.ends.read_exact(&mut byte).expect("the pipe has something to read");
            if byte == *b"\n" {
                return String::from_utf8(line).expect("scripts say UTF-8");
            }
            line.extend(byte);
        }
    }

    /// Lets so many scripts pass that `read` a line here: each takes one newline and no more.
    pub fn release(&mut self, scripts: usize) {
        self.ends.write_all(&vec![b'\n'; scripts]).expect("the pipe has room for some newlines");
    }
}
