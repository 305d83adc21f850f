//! A server that is killed and started while very many clients are linked to it by TLS: how soon all are back, and how those fare
//! that are back already.
//!
//! The many are a [crowd](crate::crowd), whose handshakes take our cores as well; those that make runs are daemons.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::bench::Bench;
use crate::crowd::{Crowd, Way};
use crate::figure::{Figure, Unit};
use crate::fleet::Daemon;
use crate::sample::{Sample, micros};
use crate::{memory, system, targets};

const ROUNDS: usize = 3;
/// Daemons that make the runs.
const DOERS: usize = 4;
/// How long runs are made before each storm.
const CALM: Duration = Duration::from_secs(3);
/// Who is not back by then is lost.
const PATIENCE: Duration = Duration::from_mins(3);
const ANSWER: Duration = Duration::from_secs(30);
/// Between two runs, so that they do not become a load of their own.
const BETWEEN_RUNS: Duration = Duration::from_millis(2);

/// What one storm brought.
struct Storm {
    calm: Sample,
    /// Of runs from the start of the server on until all are back.
    during: Sample,
    listening: Duration,
    nearly_all_back: Duration,
    all_back: Duration,
    /// By the crowd.
    dials: usize,
}

pub fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let (count, rounds) = (bench.many(10_000), bench.schedule.rounds.min(if bench.quick { 1 } else { ROUNDS }));
    let binary = bench.daemon()?;
    let (mut server, address) = Daemon::lasting_server(binary, &memory::tls())?;
    let roots = server.prefix().join("keys/root.pem");
    let doers = (0..DOERS).map(|number| {
        let settings = json!({ "name": doer(number), "proxy": format!("wss://{address}"), "tls": { "roots": roots } });
        Daemon::client_with(binary, address, &settings)
    });
    let _doers = doers.collect::<Result<Vec<_>>>()?;
    let mut crowd = Crowd::new(Way { comes_back: true, ..Way::encrypted(address, server.prefix())? })?;
    eprintln!("storm, {count} clients gather");
    crowd.grow(count)?;
    let mut storms = Vec::new();
    for round in 1..=rounds {
        eprintln!("storm, round {round} of {rounds}");
        storms.push(
            storm(&mut server, &crowd, count).with_context(|| format!("the server's log ends:\n{}", server.last_words()))?,
        );
    }
    let seconds = |value: fn(&Storm) -> Duration| storms.iter().map(|storm| value(storm).as_secs_f64()).collect::<Vec<_>>();
    let p99 = |value: fn(&Storm) -> Sample| storms.iter().map(|storm| micros(value(storm).p99) / 1e3).collect::<Vec<_>>();
    let calm = p99(|storm| storm.calm);
    Ok(vec![
        Figure::new("storm", "from the kill until the server listens", Unit::Seconds, seconds(|storm| storm.listening)),
        Figure::new("storm", "until 99 of 100 are back", Unit::Seconds, seconds(|storm| storm.nearly_all_back)),
        Figure::new("storm", format!("until all {count} TLS clients are back"), Unit::Seconds, seconds(|storm| storm.all_back))
            .must_reach(targets::ALL_BACK_SECONDS),
        Figure::new("storm", "dials until then", Unit::Count, storms.iter().map(|storm| storm.dials as f64).collect()),
        Figure::new("storm", "99 of 100 calm runs within", Unit::Milliseconds, calm.clone()),
        Figure::new("storm", "99 of 100 runs on those already back", Unit::Milliseconds, p99(|storm| storm.during))
            .against("calm", Some(&calm))
            .ratio_must_reach(targets::RUN_IN_STORM),
        Figure::new("storm", "runs meanwhile", Unit::Count, storms.iter().map(|storm| storm.during.done as f64).collect()),
    ])
}

fn doer(number: usize) -> String {
    format!("doer-{number}")
}

fn storm(server: &mut Daemon, crowd: &Crowd, count: usize) -> Result<Storm> {
    let mut asker = Asker::new(server.connect()?)?;
    // All doers are linked, and nothing else is under way.
    asker.until(|asker| asker.back.iter().all(|back| *back))?;
    asker.times.clear();
    let until = Instant::now() + CALM;
    asker.until(|_| Instant::now() > until)?;
    let calm = asker.sample()?;

    let (killed, dialled) = (Instant::now(), crowd.dialled());
    server.kill()?;
    server.start_again()?;
    let mut asker = Asker::new(server.connect()?)?;
    let listening = killed.elapsed();
    // The crowd has noticed, and is back.
    let (mut fewest, mut nearly_all_back) = (count, None);
    asker.until(|_| {
        let up = crowd.up();
        fewest = fewest.min(up);
        if fewest < count / 2 && up >= count * 99 / 100 {
            nearly_all_back.get_or_insert(killed.elapsed());
        }
        fewest < count / 2 && up == count
    })?;
    let all_back = killed.elapsed();
    let nearly_all_back = nearly_all_back.unwrap_or(all_back);
    Ok(Storm { calm, during: asker.sample()?, listening, nearly_all_back, all_back, dials: crowd.dialled() - dialled })
}

/// A process at the server's socket that has one doer after another make a run, those that are there.
struct Asker {
    socket: BufReader<UnixStream>,
    back: [bool; DOERS],
    next: usize,
    times: Vec<Duration>,
    began: Instant,
}

impl Asker {
    fn new(socket: UnixStream) -> Result<Asker> {
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Asker { socket: BufReader::new(socket), back: [false; DOERS], next: 0, times: Vec::new(), began: Instant::now() })
    }

    /// One run after another until it is enough.
    fn until(&mut self, mut is_enough: impl FnMut(&Asker) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.began = Instant::now();
        while !is_enough(self) {
            system::check_stop()?;
            ensure!(Instant::now() < deadline, "not all are back after {PATIENCE:?}");
            self.ask()?;
            thread::sleep(BETWEEN_RUNS);
        }
        Ok(())
    }

    /// A run of the next one. What one that is not back yet did not do is not counted; one that is back has to do it.
    fn ask(&mut self) -> Result<()> {
        let number = self.next;
        self.next = (number + 1) % DOERS;
        let began = Instant::now();
        self.socket.get_mut().write_all(format!(r#"{{"name":"min","id":1,"to":"{}"}}"#, doer(number)).as_bytes())?;
        let mut line = String::new();
        self.socket.read_line(&mut line).context("no answer from the server")?;
        if line.starts_with(r#"{"status":0,"id":1,"#) {
            self.back[number] = true;
            self.times.push(began.elapsed());
        } else if self.back[number] || !line.starts_with(r#"{"status":-2,"id":1,"#) {
            bail!("not what a doer answers: {line}");
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<Sample> {
        ensure!(!self.times.is_empty(), "no doer came back before all others");
        Ok(Sample::of(&mut self.times, self.began.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_back_is_not_counted_and_who_is_must_answer() {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let server = thread::spawn(move || {
            let mut theirs = BufReader::new(theirs);
            let answers = ["-2", "0", "0", "0", "0", "-2"];
            for status in answers {
                let mut request = Vec::new();
                theirs.read_until(b'}', &mut request).expect("a request");
                theirs
                    .get_mut()
                    .write_all(format!("{{\"status\":{status},\"id\":1,\"run\":\"r\"}}\n").as_bytes())
                    .expect("room");
            }
        });
        let mut asker = Asker::new(ours).expect("an asker");
        for _ in 0..5 {
            asker.ask().expect("good, or not back yet");
        }
        assert_eq!((asker.times.len(), asker.back), (4, [true; DOERS]));
        assert!(asker.ask().is_err(), "it was back");
        server.join().expect("no panic");
    }
}
