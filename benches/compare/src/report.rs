//! What was found: medians and spreads, as a Markdown table of ratios, as JSON, and as a picture.

use serde_json::{Value, json};
use std::fmt::Write;

/// All readings of one target in one cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// Requests per second, a value a round.
    pub(crate) iops: Vec<f64>,
    /// 99th percentile of the latency in microseconds, a value a round.
    pub(crate) p99_us: Vec<f64>,
    /// CPU microseconds of the server for each request, a value a round.
    pub(crate) cpu_us: Vec<f64>,
}

/// The median; not a number for no values.
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

/// Half the distance between the extremes, as a share of the median.
#[must_use]
pub(crate) fn spread(values: &[f64]) -> f64 {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (high - low) / 2.0 / median(values)
}

/// The median over the rounds of the ratio in each, because a machine is faster in one round than in the next.
#[must_use]
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<_> = ours.iter().zip(theirs).map(|(us, them)| us / them).collect();
    median(&ratios)
}

/// One run of the comparison on one file system.
#[derive(Debug)]
pub(crate) struct Report {
    /// What was measured on: `tmpfs`, `ext4`.
    pub(crate) ground: String,
    /// Names of the cells, in order.
    pub(crate) cells: Vec<String>,
    /// Names of the targets, in order, and their samples by cell.
    pub(crate) rows: Vec<(String, Vec<Samples>)>,
    /// Targets left out, and why.
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

    /// The best of the rows whose name starts so.
    fn best(&self, start: &str, cell: usize) -> Option<&str> {
        let names = self.rows.iter().map(|(name, _)| name.as_str());
        let rated = names
            .filter(|name| name.starts_with(start))
            .filter_map(|name| Some((name, self.iops(name, cell)?)));
        rated.max_by(|a, b| a.1.total_cmp(&b.1)).map(|best| best.0)
    }

    /// How much faster one row is than another.
    fn ratio(&self, ours: &str, theirs: &str, cell: usize) -> Option<f64> {
        let value = ratio(self.readings(ours, cell)?, self.readings(theirs, cell)?);
        value.is_finite().then_some(value)
    }

    /// The whole report for people.
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

    /// The whole report for programs.
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

    /// Bars of ours, the bare program and the peers, a group a cell, each group scaled to its best.
    #[must_use]
    pub(crate) fn svg(&self) -> String {
        const COLOURS: [&str; 8] = [
            "#1b6ca8", "#7fb069", "#c0c0c0", "#e07a5f", "#b56576", "#6d597a", "#e9c46a", "#90a4ae",
        ];
        let (bar, height) = (12, 220);
        let group = bar * self.rows.len() + 18;
        let width = group * self.cells.len() + 40;
        let legend = 20 * self.rows.len();
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{}' font-family='sans-serif' font-size='10'>\n\
             <rect width='100%' height='100%' fill='white'/>\n",
            height + 60 + legend
        );
        for (cell, name) in self.cells.iter().enumerate() {
            let top = self
                .rows
                .iter()
                .filter_map(|(row, _)| self.iops(row, cell))
                .fold(f64::MIN_POSITIVE, f64::max);
            let left = 20 + cell * group;
            for (row, (target, _)) in self.rows.iter().enumerate() {
                let share = self.iops(target, cell).unwrap_or(0.0) / top;
                let tall = share * 200.0;
                let _infallible = writeln!(
                    svg,
                    "<rect x='{}' y='{:.1}' width='{}' height='{tall:.1}' fill='{}'><title>{target}: {share:.2}</title></rect>",
                    left + row * bar,
                    220.0 - tall,
                    bar - 2,
                    COLOURS[row % COLOURS.len()]
                );
            }
            let _infallible = writeln!(svg, "<text x='{left}' y='{}'>{name}</text>", height + 16);
        }
        for (row, (target, _)) in self.rows.iter().enumerate() {
            let y = height + 40 + row * 20;
            let colour = COLOURS[row % COLOURS.len()];
            let _infallible = writeln!(
                svg,
                "<rect x='20' y='{}' width='12' height='12' fill='{colour}'/><text x='38' y='{}'>{target}</text>",
                y - 10,
                y
            );
        }
        svg.push_str("</svg>\n");
        svg
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
    }
}
