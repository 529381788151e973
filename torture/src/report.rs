//! What a run has found, and its table.

use crate::plan::Kind;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Findings that are described in full.
const DESCRIBED: usize = 20;

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// An acknowledged write is not there at the end.
    Lost,
    /// A read saw an older write than an earlier one, or a later one than possible.
    Stale,
    /// A read saw bytes of another block, or of none.
    Foreign,
    /// A request failed with an error that no fault explains.
    WrongErrno,
    /// A request, a command or a process did not end in time.
    Hung,
    /// A command broke off, or the pool is not as it should be at the end.
    Broken,
}

impl Failure {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Lost, "lost"),
        (Self::Stale, "stale"),
        (Self::Foreign, "foreign"),
        (Self::WrongErrno, "wrong errno"),
        (Self::Hung, "hung"),
        (Self::Broken, "broken"),
    ];
}

#[derive(Default)]
struct Findings {
    failures: BTreeMap<Failure, u64>,
    described: Vec<String>,
    commands: BTreeMap<(&'static str, &'static str), u64>,
    complaints: BTreeMap<String, u64>,
}

/// Counters and findings of all threads.
#[derive(Default)]
pub(crate) struct Report {
    requests: AtomicU64,
    excused: AtomicU64,
    faults: [AtomicU64; Kind::LABELS.len()],
    longest: [AtomicU64; Kind::LABELS.len()],
    findings: Mutex<Findings>,
    /// Set when the program is to end early, which makes requests and commands fail.
    stop: Arc<AtomicBool>,
}

impl Report {
    /// Returns an empty report, in which nothing fails any more once `stop` is set.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    fn findings(&self) -> std::sync::MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered after so many microseconds.
    pub(crate) fn answered(&self, label: usize, took: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.longest[label].fetch_max(took, Ordering::Relaxed);
    }

    /// A request failed as it may.
    pub(crate) fn excused(&self) {
        self.excused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn fault(&self, label: usize) {
        self.faults[label].fetch_add(1, Ordering::Relaxed);
    }

    /// A command ended like this.
    pub(crate) fn command(&self, verb: &'static str, how: &'static str) {
        *self.findings().commands.entry((verb, how)).or_default() += 1;
    }

    /// A command was refused for this reason. Numbers are left out, so that reasons of one kind are counted together.
    pub(crate) fn complaint(&self, line: &str) {
        let kind = line.replace(|c: char| c.is_ascii_digit(), "");
        *self.findings().complaints.entry(kind).or_default() += 1;
    }

    pub(crate) fn fail(&self, failure: Failure, what: &str) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        let mut findings = self.findings();
        *findings.failures.entry(failure).or_default() += 1;
        if findings.described.len() < DESCRIBED {
            eprintln!("{failure:?}: {what}");
            findings.described.push(format!("{failure:?}: {what}"));
        }
    }

    /// Returns whether nothing failed.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings().failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let findings = self.findings();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        writeln!(
            f,
            "requests answered {}, failed as they may {}",
            load(&self.requests),
            load(&self.excused)
        )?;
        writeln!(f, "\n{:<22}{:>8}{:>16}", "fault", "times", "longest wait")?;
        for (index, name) in Kind::LABELS.iter().enumerate() {
            let longest = Duration::from_micros(load(&self.longest[index]));
            writeln!(f, "{name:<22}{:>8}{:>16.1?}", load(&self.faults[index]), longest)?;
        }
        writeln!(f, "\n{:<22}{:<16}{:>8}", "command", "ended", "times")?;
        for ((verb, how), times) in &findings.commands {
            writeln!(f, "{verb:<22}{how:<16}{times:>8}")?;
        }
        for (line, times) in &findings.complaints {
            writeln!(f, "{times:>6} times: {line}")?;
        }
        writeln!(f)?;
        for (failure, name) in Failure::ALL {
            let times = findings.failures.get(&failure).copied().unwrap_or_default();
            writeln!(f, "{name:<22}{times:>8}")?;
        }
        findings
            .described
            .iter()
            .try_for_each(|line| writeln!(f, "\n{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fails_because_the_program_is_to_end() {
        let report = Report::default();
        report.stop.store(true, Ordering::Relaxed);
        report.fail(Failure::Hung, "vctl");
        assert!(report.is_clean());
    }

    #[test]
    fn the_table_counts_and_a_failure_is_described() {
        let report = Report::default();
        report.answered(3, 1500);
        report.fault(3);
        report.complaint("job 12: is busy");
        report.complaint("job 7: is busy");
        assert!(report.is_clean());
        report.fail(Failure::Lost, "block 5");
        let text = report.to_string();
        assert!(!report.is_clean());
        for part in ["SIGSTOP", "1.5ms", "2 times: job : is busy", "Lost: block 5"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
