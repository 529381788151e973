//! The results of a comparison: medians and spreads, as Markdown tables, as JSON, and as a bar chart.

use crate::chart;
use serde_json::{Value, json};
use std::fmt::Write;

/// All readings of one target in one cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// Requests per second, one value per round.
    pub(crate) iops: Vec<f64>,
    /// 99th percentile of the latency in microseconds, one value per round.
    pub(crate) p99_us: Vec<f64>,
    /// CPU microseconds of the server per request, one value per round.
    pub(crate) cpu_us: Vec<f64>,
}

/// Returns the median; NaN without values.
#[must_use]
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Returns half the distance between the extremes, as a share of the median.
#[must_use]
pub(crate) fn spread(values: &[f64]) -> f64 {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (high - low) / 2.0 / median(values)
}

/// Returns the median over the rounds of the ratio in each, because the speed of a machine varies between rounds.
#[must_use]
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<_> = ours.iter().zip(theirs).map(|(us, them)| us / them).collect();
    median(&ratios)
}

/// One run of the comparison on one file system.
#[derive(Debug)]
pub(crate) struct Report {
    /// The file system that was measured: `tmpfs`, `ext4`.
    pub(crate) ground: String,
    /// Names of the cells, in order.
    pub(crate) cells: Vec<String>,
    /// Names of the targets, in order, and their samples by cell.
    pub(crate) rows: Vec<(String, Vec<Samples>)>,
    /// Skipped targets, and the reasons.
    pub(crate) skipped: Vec<String>,
}

impl Report {
    fn readings(&self, row: &str, cell: usize) -> Option<&[f64]> {
        let found = self.rows.iter().find(|(name, _)| name == row)?;
        Some(&found.1.get(cell)?.iops)
    }

    fn iops(&self, row: &str, cell: usize) -> Option<f64> {
        let value = median(self.readings(row, cell)?);
        value.is_finite().then_some(value)
    }

    /// Returns the best of the rows whose name starts with `start`.
    fn best(&self, start: &str, cell: usize) -> Option<&str> {
        let names = self.rows.iter().map(|(name, _)| name.as_str());
        let rated = names
            .filter(|name| name.starts_with(start))
            .filter_map(|name| Some((name, self.iops(name, cell)?)));
        rated.max_by(|a, b| a.1.total_cmp(&b.1)).map(|best| best.0)
    }

    /// Returns how much faster one row is than another.
    fn ratio(&self, ours: &str, theirs: &str, cell: usize) -> Option<f64> {
        let value = ratio(self.readings(ours, cell)?, self.readings(theirs, cell)?);
        value.is_finite().then_some(value)
    }

    /// Returns the report as Markdown.
    #[must_use]
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "### On {}\n\nRequests per second, median of the rounds (± half the range).\n\n",
            self.ground
        );
        self.table(&mut text, |samples| match median(&samples.iops) {
            iops if iops.is_finite() => format!("{} ±{:.0}%", human(iops), spread(&samples.iops) * 100.0),
            _ => "".into(),
        });
        text.push_str("\n99th percentile of the latency, µs.\n\n");
        self.table(&mut text, |samples| match median(&samples.p99_us) {
            p99 if p99.is_finite() => format!("{p99:.0}"),
            _ => "".into(),
        });
        text.push_str("\nCPU time of the serving process for each request, µs.\n\n");
        self.table(&mut text, |samples| match median(&samples.cpu_us) {
            cpu if cpu.is_finite() => format!("{cpu:.1}"),
            _ => "".into(),
        });
        text.push_str("\nRatios, median of those in each round.\n\n");
        self.ratios(&mut text);
        for line in &self.skipped {
            let _infallible = writeln!(text, "\nLeft out: {line}");
        }
        text
    }

    fn table(&self, text: &mut String, show: impl Fn(&Samples) -> String) {
        let _infallible = writeln!(
            text,
            "| | {} |\n|---|{}",
            self.cells.join(" | "),
            "---|".repeat(self.cells.len())
        );
        for (name, samples) in &self.rows {
            let shown: Vec<_> = samples.iter().map(&show).collect();
            let _infallible = writeln!(text, "| {name} | {} |", shown.join(" | "));
        }
    }

    fn ratios(&self, text: &mut String) {
        let _infallible = writeln!(
            text,
            "| | {} |\n|---|{}",
            self.cells.join(" | "),
            "---|".repeat(self.cells.len())
        );
        for (ours, theirs) in [
            ("apparatus", "bare fuser"),
            ("over io_uring", "apparatus"),
            ("apparatus", "qemu-storage-daemon"),
            ("apparatus", "nbdfuse"),
            ("apparatus", "image, O_DIRECT"),
            ("loop on apparatus", "loop on bare fuser"),
            ("loop on apparatus", "loop on qemu-storage-daemon"),
            ("loop on apparatus", "loop on image, O_DIRECT"),
        ] {
            let ratio = |cell| {
                let ratio = self
                    .best(theirs, cell)
                    .and_then(|best| self.ratio(ours, best, cell));
                ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
            };
            let shown: Vec<_> = (0..self.cells.len()).map(ratio).collect();
            if shown.iter().any(|ratio| !ratio.is_empty()) {
                let _infallible = writeln!(text, "| {ours} / {theirs} (best) | {} |", shown.join(" | "));
            }
        }
    }

    /// Returns the report as JSON.
    #[must_use]
    pub(crate) fn json(&self) -> Value {
        let row = |(name, samples): &(String, Vec<Samples>)| {
            let cells: Vec<Value> = self
                .cells
                .iter()
                .zip(samples)
                .map(
                    |(cell, s)| json!({"cell": cell, "iops": s.iops, "p99_us": s.p99_us, "cpu_us": s.cpu_us}),
                )
                .collect();
            json!({"target": name, "cells": cells})
        };
        json!({"ground": self.ground, "skipped": self.skipped, "rows": self.rows.iter().map(row).collect::<Vec<_>>()})
    }

    /// A bar chart as SVG: a group of bars for each cell, a bar for each target, each group scaled to its fastest target.
    ///
    /// # Errors
    /// Fails when the chart cannot be drawn: the plotting library's reason.
    pub(crate) fn svg(&self) -> Result<String, String> {
        let share = |row: &str, cell: usize| {
            let fastest = self.rows.iter().filter_map(|(row, _)| self.iops(row, cell));
            self.iops(row, cell).unwrap_or(0.0) / fastest.fold(f64::MIN_POSITIVE, f64::max)
        };
        let bars = self.rows.iter().map(|(row, _)| {
            let shares = (0..self.cells.len()).map(|cell| share(row, cell));
            (row.as_str(), shares.collect())
        });
        chart::grouped_bars(&self.cells, &bars.collect::<Vec<_>>()).map_err(|error| error.to_string())
    }
}

fn human(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 1e3 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_and_ratios_use_the_best_rival() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        let row = |iops: [f64; 3]| {
            vec![Samples {
                iops: iops.to_vec(),
                ..Samples::default()
            }]
        };
        let report = Report {
            ground: "tmpfs".into(),
            cells: vec!["c".into()],
            rows: vec![
                ("apparatus".into(), row([90.0, 180.0, 45.0])),
                ("bare fuser, 1 threads".into(), row([50.0; 3])),
                ("bare fuser, 2 threads".into(), row([100.0, 200.0, 40.0])),
            ],
            skipped: Vec::new(),
        };
        assert!(
            report
                .markdown()
                .contains("| apparatus / bare fuser (best) | 0.90 |")
        );
        let svg = report.svg().unwrap();
        for name in ["apparatus", "bare fuser, 2 threads", ">\nc\n<"] {
            assert!(svg.contains(name), "{name} in {svg}");
        }
    }
}
