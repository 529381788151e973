//! Formats samples for Prometheus: the text exposition format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// Name, type and help of a metric, which precede its first sample.
#[derive(Clone, Copy)]
pub(super) struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

/// Makes a gauge: a value that goes up and down.
pub(super) const fn gauge(name: &'static str, help: &'static str) -> Family {
    let kind = "gauge";
    Family { name, kind, help }
}

/// Makes a counter: a value that only goes up. By convention its name ends in `_total`.
pub(super) const fn counter(name: &'static str, help: &'static str) -> Family {
    let kind = "counter";
    Family { name, kind, help }
}

/// Makes a histogram of durations.
pub(super) const fn histogram(name: &'static str, help: &'static str) -> Family {
    let kind = "histogram";
    Family { name, kind, help }
}

/// Labels of a sample.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// Samples by family: the text format requires those of a family together.
#[derive(Default)]
pub struct Text {
    families: BTreeMap<&'static str, (Family, String)>,
}

impl Text {
    pub(super) fn add(&mut self, family: Family, labels: Labels<'_>, value: impl Display) {
        self.sample(family, "", labels, value);
    }

    /// Adds a sample of a family that has several kinds of them: `_bucket`, `_sum`, `_count`.
    pub(super) fn sample(&mut self, family: Family, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let (_, samples) = self
            .families
            .entry(family.name)
            .or_insert((family, String::new()));
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(samples, "{}{suffix}{labels} {value}", family.name);
    }

    /// Returns the whole text.
    #[must_use]
    pub fn finish(&self) -> String {
        let mut text = String::new();
        for (family, samples) in self.families.values() {
            let Family { name, kind, help } = family;
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
        text
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Formats microseconds as seconds, exactly and independent of the locale.
pub(super) fn seconds(micros: u64) -> String {
    let (whole, part) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{whole}.{part:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        for (micros, text) in [
            (0, "0"),
            (1, "0.000001"),
            (1_500_000, "1.5"),
            (10_000_000, "10"),
            (4096, "0.004096"),
        ] {
            assert_eq!(seconds(micros), text);
        }
    }

    #[test]
    fn a_family_is_listed_once_with_all_its_samples() {
        let mut text = Text::default();
        let family = gauge("a_bytes", "Help.");
        text.add(family, &[("disk", "x\"y\\z\n")], 1);
        text.add(gauge("b", "Other."), &[], 2);
        text.add(family, &[("disk", "d2")], 3);
        let expected = "# HELP a_bytes Help.\n# TYPE a_bytes gauge\n\
            a_bytes{disk=\"x\\\"y\\\\z\\n\"} 1\na_bytes{disk=\"d2\"} 3\n# HELP b Other.\n# TYPE b gauge\nb 2\n";
        assert_eq!(text.finish(), expected);
    }
}
