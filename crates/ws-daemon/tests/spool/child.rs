//! A writer in a process of its own, which other tests start: this very program, told by its environment where to write.

use std::env;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use ws_daemon::spool::{Bounds, Durability, Spool};

use crate::support::{block, request};

const PATH: &str = "SPOOL_CHILD_PATH";
const DURABILITY: &str = "SPOOL_CHILD_DURABILITY";
const COUNT: &str = "SPOOL_CHILD_COUNT";

/// Its lines are `ok N` for each request N that was acknowledged, `failed N`, and at last `done`.
pub struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    /// Under `strace` with these arguments, if there are any.
    pub fn start(path: &Path, durability: Durability, count: usize, strace: &[&str]) -> Self {
        let own = env::current_exe().unwrap();
        let mut command = if strace.is_empty() {
            Command::new(own)
        } else {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null"]).args(strace).arg(own);
            command
        };
        command.args(["--exact", "child::the_writer", "--ignored", "--nocapture", "--test-threads=1"]);
        let durability = if durability == Durability::Full { "full" } else { "normal" };
        command.env(PATH, path).env(DURABILITY, durability).env(COUNT, count.to_string());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }
}

impl Iterator for Writer {
    type Item = Result<usize, usize>;

    /// The next request, acknowledged or not.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.lines.next()?.unwrap();
            // The first may stand behind what the test program says of itself.
            let number = |word: &str| line.rsplit_once(word).map(|(_, number)| number.parse::<usize>().unwrap());
            if let Some(number) = number("request-ok ") {
                return Some(Ok(number));
            }
            if let Some(number) = number("request-failed ") {
                return Some(Err(number));
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "other tests start it in a process of its own"]
fn the_writer() {
    let path = env::var_os(PATH).expect("it is started by other tests");
    let durability = if env::var(DURABILITY).unwrap() == "full" { Durability::Full } else { Durability::Normal };
    let count: usize = env::var(COUNT).unwrap().parse().unwrap();
    block(async {
        let spool = Spool::open(Path::new(&path), Bounds::default(), durability).unwrap().spool;
        for number in 1..=count {
            let done = spool.accept(request(&[number], Some(&format!("k{number}")))).await;
            let word = if done.is_ok() { "request-ok" } else { "request-failed" };
            let mut out = std::io::stdout().lock();
            // Whoever reads may have had enough.
            if writeln!(out, "{word} {number}").and_then(|()| out.flush()).is_err() {
                return;
            }
        }
        spool.close().await;
    });
}
