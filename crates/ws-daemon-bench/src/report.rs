//! From what was measured to figures, and from those to a table and JSON.
//!
//! It knows what is compared with what, and the targets. It measures nothing.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::durable::Enqueued;
use crate::fanout::FannedOut;
use crate::figure::{Figure, Spread, Target, Unit};
use crate::limit::{Method, Placement, Spawning};
use crate::load::{IN_FLIGHT, Question};
use crate::machine::Machine;
use crate::memory::Resident;
use crate::rounds::{Asked, Cost, Side, Spawned};
use crate::sample::{Pace, Sample, micros};
use crate::streaming::{Kind, Printed, Streamed};

const FASTEST: &str = "fastest spawn";
const ONE: &str = "one spawn";
const CORE_TIME: &str = "a spawn's core time";

/// With so many outstanding, the spool must not be what limits.
const MANY_OUTSTANDING: usize = 64;
const ENQUEUED_OF_BARE: Target = Target::AtLeast(0.6);
const RUNS_OF_THE_LIMIT: Target = Target::AtLeast(0.4);
const RUN_TO_ONE_SPAWN: Target = Target::AtMost(2.5);
const IDLE_LINK_BYTES: Target = Target::AtMost(8.0 * 1024.0);
/// From here on whatever is woken on another core may wait for its turn.
const OTHERS_DISTURB: f64 = 0.1;
const AT_REST_BYTES: Target = Target::AtMost(12e6);

/// All that one call of the bench found.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    /// The share of the machine's time that others took, 0 to 1, seen before each round.
    pub others: Option<Spread>,
    pub settings: Settings,
    pub figures: Vec<Figure>,
    /// What a reader must know before believing the figures.
    pub warnings: Vec<String>,
}

#[derive(Serialize)]
pub struct Settings {
    pub from: Side,
    pub rounds: usize,
    pub slice_ms: u128,
    pub in_flight: usize,
}

/// The rates and times that others are compared with, a value a round.
#[derive(Default)]
pub struct Base {
    rate: Option<Vec<f64>>,
    one: Option<Vec<f64>>,
    /// Microseconds of all cores together that one run costs at the fastest.
    core_time: Option<Vec<f64>>,
}

impl Base {
    pub fn of(spawned: &[Spawned], cores: usize) -> Base {
        let find = |wanted: Spawning| spawned.iter().find(|series| series.spawning == wanted).map(|series| &series.samples);
        let flood = find(Spawning::new(Method::Fastest, Placement::Pinned, Pace::Flood));
        let one = find(Spawning::new(Method::Fastest, Placement::Free, Pace::OneByOne));
        Base {
            rate: flood.map(|samples| rates(samples)),
            one: one.map(|samples| times(samples)),
            core_time: flood.map(|samples| rates(samples).iter().map(|rate| 1e6 * cores as f64 / rate).collect()),
        }
    }
}

/// Part (a).
pub fn limit_figures(spawned: &[Spawned], base: &Base, cores: usize) -> Vec<Figure> {
    let threads = if cores == 1 { "1 thread".to_owned() } else { format!("{cores} threads") };
    let figure = |series: &Spawned| {
        let method = match series.spawning.method {
            Method::Fastest => "spawn",
            Method::PosixSpawn => "posix_spawn",
        };
        let placement = match series.spawning.placement {
            Placement::Free => "",
            Placement::Pinned => ", pinned",
        };
        match series.spawning.pace {
            Pace::Flood => {
                let name = format!("{method}, {threads}{placement}");
                Figure::new("limit", name, Unit::PerSecond, rates(&series.samples)).against(FASTEST, base.rate.as_deref())
            }
            Pace::OneByOne => {
                let name = format!("one {method}{placement}");
                Figure::new("limit", name, Unit::Microseconds, times(&series.samples)).against(ONE, base.one.as_deref())
            }
        }
    };
    spawned.iter().map(figure).collect()
}

/// Requests on disk a second.
pub fn durable_figures(enqueued: &[Enqueued]) -> Vec<Figure> {
    let figures = enqueued.iter().flat_map(|Enqueued { outstanding, bare, spool }| {
        let base = rates(bare);
        let name = format!("enqueue, {outstanding} outstanding");
        let figure = Figure::new("durable", name, Unit::PerSecond, rates(spool)).against("bare loop", Some(&base));
        let figure = if *outstanding >= MANY_OUTSTANDING { figure.ratio_must_reach(ENQUEUED_OF_BARE) } else { figure };
        [Figure::new("durable", format!("bare loop, {outstanding} a commit"), Unit::PerSecond, base), figure]
    });
    figures.collect()
}

/// Output that arrived a second, and the share that did not.
pub fn streaming_figures(streamed: &Streamed) -> Vec<Figure> {
    let megabytes = |samples: &[Sample]| rates(samples).iter().map(|bytes| bytes / 1e6).collect::<Vec<_>>();
    let relay = megabytes(&streamed.relay);
    let mut figures = vec![Figure::new("streaming", "relay, text", Unit::MegabytesPerSecond, relay.clone())];
    for Printed { kind, samples, lost } in &streamed.printed {
        let name = match kind {
            Kind::Text => "text",
            Kind::Binary => "binary, in base 64",
        };
        let arrived = Figure::new("streaming", format!("{name}, arrived"), Unit::MegabytesPerSecond, megabytes(samples));
        let lost = lost.iter().map(|share| share * 100.0).collect();
        figures.push(arrived.against("relay", Some(&relay)));
        figures.push(Figure::new("streaming", format!("{name}, lost at full speed"), Unit::Percent, lost));
    }
    figures
}

/// Runs of everyone a second, and how long until the last line is there.
pub fn fanout_figures(FannedOut { peers, bare, daemon }: &FannedOut) -> Vec<Figure> {
    let whole = |samples: &[Sample]| times(samples).iter().map(|micros| micros / 1e3).collect::<Vec<_>>();
    let rate = |name: String, samples| Figure::new("fanout", name, Unit::PerSecond, rates(samples));
    let time = |name: String, samples| Figure::new("fanout", name, Unit::Milliseconds, whole(samples));
    let base = "bare exchange";
    vec![
        rate(format!("{base}, {peers} connections"), bare),
        rate(format!("each, {peers} peers"), daemon).against(base, Some(&rates(bare))),
        time(format!("{base}, all of it"), bare),
        time("each, all of it".to_owned(), daemon).against(base, Some(&whole(bare))),
    ]
}

/// Parts (b) and (c), of these questions.
pub fn ask_figures(asked: &[Asked], questions: &[Question], base: &Base) -> Vec<Figure> {
    let figure = |series: &Asked| {
        let (part, what) = match series.question {
            Question::Run => ("runs", "run"),
            Question::Missing => ("messages", "there and back (not_found)"),
            Question::Notice => ("messages", "there (STATUS)"),
            Question::Echo => ("messages", "own daemon only (STATUS)"),
        };
        match (series.pace, series.question) {
            (Pace::Flood, question) => {
                let name = format!("{what}, {IN_FLIGHT} in flight");
                let figure =
                    Figure::new(part, name, Unit::PerSecond, rates(&series.samples)).against(FASTEST, base.rate.as_deref());
                if question == Question::Run { figure.ratio_must_reach(RUNS_OF_THE_LIMIT) } else { figure }
            }
            (Pace::OneByOne, question) => {
                let name = format!("{what}, one at a time");
                let figure =
                    Figure::new(part, name, Unit::Microseconds, times(&series.samples)).against(ONE, base.one.as_deref());
                if question == Question::Run { figure.ratio_must_reach(RUN_TO_ONE_SPAWN) } else { figure }
            }
        }
    };
    asked.iter().filter(|series| questions.contains(&series.question)).map(figure).collect()
}

/// Part (e): of runs.
pub fn cpu_figures(asked: &[Asked], base: &Base) -> Vec<Figure> {
    let mut figures = Vec::new();
    for series in asked.iter().filter(|series| series.question == Question::Run) {
        let pace = match series.pace {
            Pace::Flood => format!("{IN_FLIGHT} in flight"),
            Pace::OneByOne => "one at a time".to_owned(),
        };
        let mut push = |who: &str, share: fn(Cost) -> std::time::Duration| {
            let costs = series.costs.iter().zip(&series.samples);
            let rounds = costs.map(|(cost, sample)| micros(share(*cost)) / sample.done as f64).collect();
            let figure = Figure::new("cpu", format!("{who}, {pace}"), Unit::Microseconds, rounds);
            figures.push(figure.against(CORE_TIME, base.core_time.as_deref()));
        };
        push("both daemons", Cost::daemons);
        push("server", |cost| cost.server);
        push("client", |cost| cost.client);
        push("load generator", |cost| cost.generator);
    }
    figures
}

/// Part (d): a row a round, a column a level; the first level is no links.
pub fn memory_figures(rounds: &[Vec<Resident>], levels: &[usize]) -> Vec<Figure> {
    let column = |index: usize, value: fn(&Resident) -> u64| -> Vec<f64> {
        rounds.iter().map(|residents| value(&residents[index]) as f64).collect()
    };
    let rest = column(0, |resident| resident.rss);
    let mut figures = Vec::new();
    for (index, level) in levels.iter().enumerate() {
        let what = match level {
            0 => "server at rest".to_owned(),
            links => format!("with {links} idle links"),
        };
        let rss = column(index, |resident| resident.rss);
        let pss = column(index, |resident| resident.pss);
        let a_link: Vec<f64> = rss.iter().zip(&rest).map(|(rss, rest)| (rss - rest) / *level as f64).collect();
        let figure = Figure::new("memory", format!("{what}, VmRSS"), Unit::Bytes, rss);
        figures.push(if *level == 0 { figure.must_reach(AT_REST_BYTES) } else { figure });
        figures.push(Figure::new("memory", format!("{what}, Pss"), Unit::Bytes, pss));
        if *level > 0 {
            let name = format!("an idle link, of {level}");
            let figure = Figure::new("memory", name, Unit::Bytes, a_link);
            figures.push(figure.must_reach(IDLE_LINK_BYTES));
        }
    }
    figures
}

impl Report {
    /// Judges the figures; `others` is the share that others took of the machine before
    /// each round, if there were any.
    pub fn new(machine: Machine, settings: Settings, others: &[f64], figures: Vec<Figure>) -> Report {
        let others = if others.is_empty() { None } else { Some(Spread::of(others)) };
        let mut warnings: Vec<String> = figures.iter().filter(|figure| passes_the_limit(figure)).map(limit_is_wrong).collect();
        if let Some(others) = others.filter(|others| others.median > OTHERS_DISTURB) {
            warnings.push(format!(
                "others kept the machine {:.0} % busy, so these figures say little: \
                 measure again when it is quiet",
                others.median * 100.0,
            ));
        }
        Report { machine, others, settings, figures, warnings }
    }

    pub fn write_json(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cores, processor, kernel } = &self.machine;
        let Settings { from, rounds, slice_ms, .. } = &self.settings;
        let from = format!("{from:?}").to_lowercase();
        writeln!(out, "{cores} cores, {processor}, Linux {kernel}")?;
        write!(out, "{rounds} rounds, slices of {slice_ms} ms, requests enter at the {from}")?;
        match &self.others {
            Some(others) => writeln!(out, ", others busy {:.0} %", others.median * 100.0)?,
            None => writeln!(out)?,
        }

        let rows: Vec<_> = self.figures.iter().map(Figure::columns).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3), width(4)];
        let mut part = "";
        for (figure, row) in self.figures.iter().zip(&rows) {
            if figure.part != part {
                part = figure.part;
                writeln!(out, "\n{part}")?;
            }
            let [name, median, spread, ratio, target, verdict] = row;
            let [a, b, c, d, e] = widths;
            let line = format!("  {name:a$}  {median:>b$}  {spread:>c$}  {ratio:d$}  {target:e$}  {verdict}");
            writeln!(out, "{}", line.trim_end())?;
        }
        for warning in &self.warnings {
            writeln!(out, "\nWARNING: {warning}")?;
        }
        Ok(())
    }
}

/// Nothing that starts processes can be faster than the limit, so if ours is, it is the
/// limit that was measured wrongly.
fn passes_the_limit(figure: &Figure) -> bool {
    let Some(ratio) = figure.ratio.as_ref().filter(|_| figure.part == "runs") else {
        return false;
    };
    match figure.unit {
        Unit::PerSecond | Unit::MegabytesPerSecond => ratio.values.median > 1.0,
        Unit::Microseconds | Unit::Milliseconds | Unit::Bytes | Unit::Percent => ratio.values.median < 1.0,
    }
}

fn limit_is_wrong(figure: &Figure) -> String {
    format!("\"{}\" passes the limit: the limit program is wrong, mend it first", figure.name)
}

fn rates(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(Sample::per_second).collect()
}

fn times(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(Sample::median_micros).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(done: u64, median: u64) -> Sample {
        let elapsed = Duration::from_secs(1);
        Sample { done, elapsed, median: Duration::from_micros(median) }
    }

    fn report(run: Sample) -> Report {
        let spawned: Vec<_> = Spawning::ALL.map(|spawning| Spawned { spawning, samples: vec![sample(10_000, 200)] }).into();
        let cost = Cost {
            server: Duration::from_millis(300),
            client: Duration::from_millis(200),
            generator: Duration::from_millis(10),
        };
        let asked: Vec<_> = [Pace::OneByOne, Pace::Flood]
            .map(|pace| Asked { question: Question::Run, pace, samples: vec![run], costs: vec![cost] })
            .into();
        let base = Base::of(&spawned, 2);
        let mut figures = limit_figures(&spawned, &base, 2);
        figures.extend(ask_figures(&asked, &[Question::Run], &base));
        figures.extend(cpu_figures(&asked, &base));
        let resident = |rss| Resident { rss, pss: rss };
        let rows = [vec![resident(8_000_000), resident(15_000_000)]];
        figures.extend(memory_figures(&rows, &[0, 1000]));
        let settings = Settings { from: Side::Server, rounds: 1, slice_ms: 1000, in_flight: IN_FLIGHT };
        Report::new(Machine::this(2), settings, &[0.0, 0.5, 0.02], figures)
    }

    #[test]
    fn figures_are_compared_and_judged() {
        let report = report(sample(5_000, 600));
        let find = |name: &str| {
            let found = report.figures.iter().find(|figure| figure.name == name);
            found.unwrap_or_else(|| panic!("no {name} in\n{report}")).columns()
        };
        assert_eq!(find("run, 64 in flight")[3..], ["0.50 × fastest spawn", "≥ 0.40 ×", "met"]);
        assert_eq!(find("run, one at a time")[3..], ["3.00 × one spawn", "≤ 2.50 ×", "MISSED"]);
        assert_eq!(find("both daemons, 64 in flight")[1], "100.0 µs");
        assert_eq!(find("both daemons, 64 in flight")[3], "0.50 × a spawn's core time");
        assert_eq!(find("an idle link, of 1000")[1], "7,000 B");
        assert_eq!(find("server at rest, VmRSS")[5], "met");
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    }

    #[test]
    fn output_is_shown_in_megabytes_and_a_fan_out_as_a_rate_and_a_time() {
        let printed = Printed { kind: Kind::Binary, samples: vec![sample(150_000_000, 1)], lost: vec![0.25] };
        let streamed = Streamed { relay: vec![sample(1_500_000_000, 1)], printed: vec![printed] };
        let columns: Vec<_> = streaming_figures(&streamed).iter().map(Figure::columns).collect();
        assert_eq!(columns[0][1], "1,500 MB/s");
        assert_eq!([&*columns[1][1], &*columns[1][3], &*columns[2][1]], ["150.0 MB/s", "0.10 × relay", "25.0 %"]);
        let fanned = FannedOut { peers: 5, bare: vec![sample(100_000, 10_000)], daemon: vec![sample(20_000, 50_000)] };
        let columns: Vec<_> = fanout_figures(&fanned).iter().map(Figure::columns).collect();
        assert_eq!(columns[1][..4], ["each, 5 peers", "20,000 /s", "20,000 … 20,000", "0.20 × bare exchange"]);
        assert_eq!(columns[3][..4], ["each, all of it", "50.0 ms", "50.0 … 50.0", "5.00 × bare exchange"]);
    }

    #[test]
    fn passing_the_limit_is_a_warning() {
        let report = report(sample(10_500, 150));
        assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
        assert!(report.to_string().contains("the limit program is wrong"));
    }

    #[test]
    fn a_busy_machine_is_a_warning() {
        let settings = Settings { from: Side::Client, rounds: 1, slice_ms: 1, in_flight: IN_FLIGHT };
        let report = Report::new(Machine::this(1), settings, &[0.3, 0.0, 0.2], Vec::new());
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
        assert!(report.to_string().contains("20 % busy"), "{report}");
    }
}
