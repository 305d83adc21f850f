//! Durations counted by how long they were, and the page of metrics: names, help and numbers as OpenMetrics has them. It knows no
//! metric by name, and nothing is decided by it. Every label has words of ours for values, so that no stranger makes a page grow.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// What an answer with such a page says that it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long something took, each time. Clones are the same.
#[derive(Debug, Clone)]
pub struct Seconds(Histogram);

impl Seconds {
    /// For runs of scripts: from 5 ms to an hour.
    #[must_use]
    pub fn of_runs() -> Self {
        Self(Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0]))
    }

    /// For commits to a disk: from 100 µs to 10 s.
    #[must_use]
    pub fn of_commits() -> Self {
        Self(Histogram::new([0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 10.0]))
    }

    /// It took so long this time.
    pub fn took(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

/// A page that is being written.
#[derive(Debug, Default)]
pub struct Page(Registry);

impl Page {
    /// A number that only grows. `_total` is added to its name.
    pub fn counter(&mut self, name: &str, help: &str, number: u64) {
        self.numbers(name, help, MetricType::Counter, [], [([], wide(number))]);
    }

    /// The same, one for each of these words.
    pub fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'static str; N], u64)>,
    ) {
        self.numbers(name, help, MetricType::Counter, labels, rows.into_iter().map(|(words, number)| (words, wide(number))));
    }

    /// Seconds that only grow.
    pub fn seconds(&mut self, name: &str, help: &str, seconds: f64) {
        self.numbers(name, help, MetricType::Counter, [], [([], seconds)]);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, number: f64) {
        self.numbers(name, help, MetricType::Gauge, [], [([], number)]);
    }

    /// The same, one for each of these words.
    pub fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'static str; N], f64)>,
    ) {
        self.numbers(name, help, MetricType::Gauge, labels, rows);
    }

    /// How long something took. `_bucket`, `_sum` and `_count` are added to its name.
    pub fn histogram(&mut self, name: &str, help: &str, seconds: &Seconds) {
        self.0.register(name, help, seconds.0.clone());
    }

    /// Words that do not change. `_info` is added to its name.
    pub fn info(&mut self, name: &str, help: &str, words: Vec<(&'static str, String)>) {
        self.0.register(name, help, Info::new(words));
    }

    /// The page as it is sent.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.0);
        text
    }

    fn numbers<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        labels: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'static str; N], f64)>,
    ) {
        self.0.register(name, help, Numbers { kind, labels, rows: rows.into_iter().collect() });
    }
}

/// Up to 2⁵³ it is the same number.
#[expect(clippy::cast_precision_loss, reason = "a number of events or bytes beyond 2⁵³ is told in round figures")]
pub fn wide(number: u64) -> f64 {
    number as f64
}

/// Numbers as they are when the page is written, each under its words.
#[derive(Debug)]
struct Numbers<const N: usize> {
    kind: MetricType,
    labels: [&'static str; N],
    rows: Vec<([&'static str; N], f64)>,
}

impl<const N: usize> EncodeMetric for Numbers<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (words, number) in &self.rows {
            if N == 0 {
                self.put(&mut encoder, *number)?;
            } else {
                let labels: Vec<(&str, &str)> = self.labels.into_iter().zip(words.iter().copied()).collect();
                self.put(&mut encoder.encode_family(&labels)?, *number)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

impl<const N: usize> Numbers<N> {
    fn put(&self, encoder: &mut MetricEncoder<'_>, number: f64) -> Result<(), fmt::Error> {
        match self.kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&number, None),
            _ => encoder.encode_gauge(&number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_each_number_is_and_ends() {
        let mut page = Page::default();
        page.counter("a", "Of a", 5);
        page.gauges("b", "Of b", ["x", "y"], [(["1", "2"], 0.5), (["3", "4"], 7.0)]);
        let seconds = Seconds::of_runs();
        seconds.took(Duration::from_millis(30));
        page.histogram("c_seconds", "Of c", &seconds);
        page.info("d", "Of d", vec![("version", "1\"2\n".to_owned())]);
        let text = page.text();
        for line in [
            "# HELP a Of a.",
            "# TYPE a counter",
            "a_total 5.0",
            "b{x=\"1\",y=\"2\"} 0.5",
            "c_seconds_sum 0.03",
            "c_seconds_bucket{le=\"0.02\"} 0",
            "c_seconds_bucket{le=\"0.1\"} 1",
            "d_info{version=\"1\\\"2\\n\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
