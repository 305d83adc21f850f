//! A process that says SERVE at a daemon's socket and answers every call at once: what it costs is a read, a search for an id and a
//! write.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Calls that it may hold at once.
const READY: usize = 256;
const READ_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// It serves until it is dropped.
pub struct Serving {
    stream: UnixStream,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Serving {
    /// At this socket, under the names `bench/*`; `Err` in words if the daemon does not take it.
    pub fn start(mut stream: UnixStream) -> Result<Serving> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let serve = format!(
            r#"{{"name":"+cmd","id":"serve","params":{{"code":"SERVE","data":{{"names":["bench/*"],"ready":{READY}}}}}}}"#
        );
        stream.write_all(serve.as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("no answer to SERVE")?;
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line);
        ensure!(line.starts_with(r#"{"status":0,"id":"serve""#), "this daemon knows no SERVE: {}", line.trim_end());
        stream.set_read_timeout(None)?;
        let served = stream.try_clone()?;
        Ok(Serving { stream, thread: Some(thread::spawn(move || serve_on(served))) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        // Whoever waits for its answers fails as well, but does not know why.
        if let Some(Ok(Err(failure))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the process that serves: {failure:#}");
        }
    }
}

/// Answers all calls of one read with one write.
fn serve_on(mut stream: UnixStream) -> Result<()> {
    let (mut received, mut buffer, mut answers) = (Vec::new(), vec![0; READ_BYTES], Vec::new());
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buffer[..read]);
        let mut rest = 0;
        while let Some(length) = received[rest..].iter().position(|byte| *byte == b'\n') {
            answer(&received[rest..rest + length], &mut answers)?;
            rest += length + 1;
        }
        received.drain(..rest);
        if stream.write_all(&answers).is_err() {
            return Ok(());
        }
        answers.clear();
    }
}

/// The call's id stands first.
fn answer(call: &[u8], answers: &mut Vec<u8>) -> Result<()> {
    let rest = call.strip_prefix(br#"{"id":""#).and_then(|rest| Some(&rest[..rest.iter().position(|byte| *byte == b'"')?]));
    let id = rest.with_context(|| format!("no call: {}", String::from_utf8_lossy(call)))?;
    answers.extend_from_slice(br#"{"id":""#);
    answers.extend_from_slice(id);
    answers.extend_from_slice(b"\",\"status\":0}\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn calls_are_answered_under_their_ids_and_who_does_not_take_it_is_heard() {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let daemon = thread::spawn(move || {
            let mut theirs = BufReader::new(theirs);
            let mut serve = [0; 256];
            let read = theirs.read(&mut serve).expect("SERVE");
            assert!(String::from_utf8_lossy(&serve[..read]).contains(r#""code":"SERVE""#));
            theirs.get_mut().write_all(b"{\"status\":0,\"id\":\"serve\"}\n").expect("room");
            let calls =
                b"{\"id\":\"a\",\"name\":\"bench/call\",\"params\":{}}\n{\"id\":\"b\",\"name\":\"bench/call\",\"params\":1}\n";
            theirs.get_mut().write_all(calls).expect("room");
            let mut lines = theirs.lines();
            [lines.next(), lines.next()].map(|line| line.expect("an answer").expect("text"))
        });
        let serving = Serving::start(ours).expect("it is taken");
        assert_eq!(daemon.join().expect("no panic"), [r#"{"id":"a","status":0}"#, r#"{"id":"b","status":0}"#]);
        drop(serving);
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.write_all(b"{\"status\":-3,\"id\":\"serve\",\"error\":\"unknown_command\"}\n").expect("room");
        assert!(Serving::start(ours).is_err_and(|failure| failure.to_string().contains("unknown_command")));
    }
}
