//! All figures of one call, as a table and as JSON, with what a reader must know before believing them.
//!
//! It measures nothing, and compares nothing.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::figure::{Figure, Spread, Unit};
use crate::machine::Machine;
use crate::part::Found;
use crate::rounds::Side;

/// From here on whatever is woken on another core may wait for its turn.
const OTHERS_DISTURB: f64 = 0.1;

/// All that one call of the bench found.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    /// The share of the machine's time that others took, 0 to 1, seen before each round.
    pub others: Option<Spread>,
    pub settings: Settings,
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// What failed while it was measured.
    pub failed: Vec<String>,
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

impl Report {
    /// Judges the figures.
    pub fn new(machine: Machine, settings: Settings, found: Found) -> Report {
        let Found { figures, others, notes, failed } = found;
        let others = if others.is_empty() { None } else { Some(Spread::of(&others)) };
        let mut warnings: Vec<String> = figures.iter().filter(|figure| passes_the_limit(figure)).map(limit_is_wrong).collect();
        if let Some(others) = others.filter(|others| others.median > OTHERS_DISTURB) {
            warnings.push(format!(
                "others kept the machine {:.0} % busy, so these figures say little: \
                 measure again when it is quiet",
                others.median * 100.0,
            ));
        }
        Report { machine, others, settings, figures, notes, failed, warnings }
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
            let [name, median, spread, ratio, goal, verdict] = row;
            let [a, b, c, d, e] = widths;
            let line = format!("  {name:a$}  {median:>b$}  {spread:>c$}  {ratio:d$}  {goal:e$}  {verdict}");
            writeln!(out, "{}", line.trim_end())?;
        }
        for note in &self.notes {
            writeln!(out, "\nnot measured: {note}")?;
        }
        for failure in &self.failed {
            writeln!(out, "\nFAILED: {failure}")?;
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
        Unit::Microseconds | Unit::Milliseconds | Unit::Seconds | Unit::Bytes | Unit::Percent | Unit::Count => {
            ratio.values.median < 1.0
        }
    }
}

fn limit_is_wrong(figure: &Figure) -> String {
    format!("\"{}\" passes the limit: the limit program is wrong, mend it first", figure.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets;

    fn report(figures: Vec<Figure>, others: &[f64]) -> Report {
        let settings = Settings { from: Side::Server, rounds: 1, slice_ms: 1000, in_flight: 64 };
        Report::new(Machine::this(2), settings, Found { figures, others: others.into(), ..Found::default() })
    }

    fn run(rate: f64) -> Figure {
        Figure::new("runs", "run", Unit::PerSecond, vec![rate]).against("fastest spawn", Some(&[10_000.0]))
    }

    #[test]
    fn figures_stand_under_their_part_with_their_goals() {
        let memory = Figure::new("memory", "server at rest", Unit::Bytes, vec![8e6]).must_reach(targets::SERVER_BYTES);
        let text = report(vec![run(6000.0).ratio_must_reach(targets::RUNS), memory], &[0.0, 0.5, 0.02]).to_string();
        for line in ["\nruns\n  run ", "0.60 × fastest spawn  ≥ 0.55 ×, ≥ 0.75 ×", "\nmemory\n  server at rest  8,000,000 B"]
        {
            assert!(text.contains(line), "no {line:?} in\n{text}");
        }
        assert!(!text.contains("WARNING"), "{text}");
    }

    #[test]
    fn passing_the_limit_is_a_warning() {
        let report = report(vec![run(10_500.0), run(9_000.0)], &[]);
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
        assert!(report.to_string().contains("the limit program is wrong"));
    }

    #[test]
    fn a_busy_machine_is_a_warning() {
        let report = report(Vec::new(), &[0.3, 0.0, 0.2]);
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
        assert!(report.to_string().contains("20 % busy"), "{report}");
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let found = Found { notes: vec!["no redis".into()], failed: vec!["ping: gone".into()], ..Found::default() };
        let settings = Settings { from: Side::Client, rounds: 1, slice_ms: 1, in_flight: 64 };
        let text = Report::new(Machine::this(1), settings, found).to_string();
        assert!(text.contains("not measured: no redis") && text.contains("FAILED: ping: gone"), "{text}");
    }
}
