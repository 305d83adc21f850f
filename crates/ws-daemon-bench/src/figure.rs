//! One figure of the report: its values over the rounds, what it is compared with,
//! and what it is to reach.
//!
//! Pure: values in, values and text out.

use serde::Serialize;

/// One line of the table.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub part: &'static str,
    pub name: String,
    pub unit: Unit,
    #[serde(flatten)]
    pub values: Spread,
    pub rounds: Vec<f64>,
    pub ratio: Option<Ratio>,
    pub goal: Option<Goal>,
    pub reached: Option<Reached>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    PerSecond,
    MegabytesPerSecond,
    Microseconds,
    Milliseconds,
    Seconds,
    Bytes,
    Percent,
    Count,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// This figure divided by another, round by round.
#[derive(Debug, Serialize)]
pub struct Ratio {
    pub to: &'static str,
    #[serde(flatten)]
    pub values: Spread,
}

/// What is to be reached in the median, by the ratio or by the figure itself: a station on the way, and what it is all for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Goal {
    pub least: Target,
    pub done: Target,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    Done,
    Least,
    Missed,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    /// `rounds` has at least one value.
    pub fn new(part: &'static str, name: impl Into<String>, unit: Unit, rounds: Vec<f64>) -> Figure {
        Figure { part, name: name.into(), unit, values: Spread::of(&rounds), rounds, ratio: None, goal: None, reached: None }
    }

    /// Compares with `base`, if it was measured.
    pub fn against(mut self, to: &'static str, base: Option<&[f64]>) -> Figure {
        self.ratio = base.map(|base| {
            let ratios: Vec<f64> = self.rounds.iter().zip(base).map(|(own, base)| own / base).collect();
            Ratio { to, values: Spread::of(&ratios) }
        });
        self
    }

    /// To reach by the ratio; without one there is no verdict.
    pub fn ratio_must_reach(mut self, goal: Goal) -> Figure {
        self.goal = Some(goal);
        self.reached = self.ratio.as_ref().map(|ratio| goal.reached_by(ratio.values.median));
        self
    }

    /// To reach by the figure itself.
    pub fn must_reach(mut self, goal: Goal) -> Figure {
        self.goal = Some(goal);
        self.reached = Some(goal.reached_by(self.values.median));
        self
    }

    /// Its columns: name, median, spread, ratio, goal, verdict.
    pub fn columns(&self) -> [String; 6] {
        let ratio = match &self.ratio {
            Some(Ratio { to, values }) => format!("{:.2} × {to}", values.median),
            None => String::new(),
        };
        let goal = match (&self.ratio, self.goal) {
            (_, None) => String::new(),
            (None, Some(goal)) if self.reached.is_some() => goal.text(|value| self.unit.text(value)),
            (_, Some(goal)) => goal.text(|value| format!("{value:.2} ×")),
        };
        let verdict = match self.reached {
            Some(Reached::Done) => "done",
            Some(Reached::Least) => "least",
            Some(Reached::Missed) => "MISSED",
            None => "",
        };
        let Spread { median, min, max } = self.values;
        let spread = format!("{} … {}", self.unit.number(min), self.unit.number(max));
        [self.name.clone(), self.unit.text(median), spread, ratio, goal, verdict.to_owned()]
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        let name = match self {
            Unit::PerSecond => "/s",
            Unit::MegabytesPerSecond => "MB/s",
            Unit::Microseconds => "µs",
            Unit::Milliseconds => "ms",
            Unit::Seconds => "s",
            Unit::Bytes => "B",
            Unit::Percent => "%",
            Unit::Count => "",
        };
        format!("{} {name}", self.number(value)).trim_end().to_owned()
    }

    fn number(self, value: f64) -> String {
        match self {
            Unit::PerSecond | Unit::Bytes | Unit::Count => grouped(value),
            _ if value < 1000.0 => format!("{value:.1}"),
            _ => grouped(value),
        }
    }
}

impl Spread {
    /// Of at least one value; the median of an even number is the mean of the middle two.
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = (sorted.len() - 1) / 2;
        let median = f64::midpoint(sorted[middle], sorted[sorted.len() / 2]);
        Spread { median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

impl Goal {
    pub const fn at_least(least: f64, done: f64) -> Goal {
        Goal { least: Target::AtLeast(least), done: Target::AtLeast(done) }
    }

    pub const fn at_most(least: f64, done: f64) -> Goal {
        Goal { least: Target::AtMost(least), done: Target::AtMost(done) }
    }

    fn reached_by(self, value: f64) -> Reached {
        if self.done.is_met_by(value) {
            Reached::Done
        } else if self.least.is_met_by(value) {
            Reached::Least
        } else {
            Reached::Missed
        }
    }

    fn text(self, show: impl Fn(f64) -> String) -> String {
        let least = self.least.text(&show);
        if self.least == self.done { least } else { format!("{least}, {}", self.done.text(show)) }
    }
}

impl Target {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Target::AtLeast(bound) => value >= bound,
            Target::AtMost(bound) => value <= bound,
        }
    }

    fn text(self, show: impl Fn(f64) -> String) -> String {
        match self {
            Target::AtLeast(bound) => format!("≥ {}", show(bound)),
            Target::AtMost(bound) => format!("≤ {}", show(bound)),
        }
    }
}

/// A whole number, its digits in threes.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the values are made so that nothing is rounded")]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_few() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]).median, 2.5);
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let base = [100.0, 1000.0, 10.0];
        let figure = Figure::new("runs", "x", Unit::PerSecond, vec![50.0, 400.0, 1.0])
            .against("limit", Some(&base))
            .ratio_must_reach(Goal::at_least(0.4, 0.5));
        assert_eq!(figure.ratio.as_ref().expect("a ratio").values.median, 0.4);
        assert_eq!(figure.reached, Some(Reached::Least));
        let columns = figure.columns();
        assert_eq!(columns[3..], ["0.40 × limit", "≥ 0.40 ×, ≥ 0.50 ×", "least"]);
    }

    #[test]
    fn without_a_base_there_is_no_verdict() {
        let figure = Figure::new("runs", "x", Unit::Microseconds, vec![12.34])
            .against("limit", None)
            .ratio_must_reach(Goal::at_most(2.5, 2.0));
        assert_eq!(figure.columns(), ["x", "12.3 µs", "12.3 … 12.3", "", "≤ 2.50 ×, ≤ 2.00 ×", ""]);
    }

    #[test]
    fn a_goal_of_its_own() {
        let figure = |bytes| Figure::new("memory", "x", Unit::Bytes, vec![bytes]).must_reach(Goal::at_most(8192.0, 4096.0));
        let expected = ["x", "1,234,567 B", "1,234,567 … 1,234,567", "", "≤ 8,192 B, ≤ 4,096 B", "MISSED"];
        assert_eq!(figure(1_234_567.0).columns(), expected);
        assert_eq!([figure(8192.0).reached, figure(4096.0).reached], [Some(Reached::Least), Some(Reached::Done)]);
        assert_eq!(Goal::at_most(2.0, 2.0).text(|value| value.to_string()), "≤ 2");
        assert_eq!(grouped(-1234.0), "-1,234");
    }
}
