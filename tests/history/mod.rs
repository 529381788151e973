//! A recorded history of reads and writes, and whether it is linearizable block by block.
//!
//! Every write has a value of its own, so it is known which write a read saw, and the exact test is cheap (Gibbons and
//! Korach, *Testing Shared Memories*): take each value's operations as one cluster, from the earliest end `f` to the latest
//! start `s` in it. If `f < s`, the register certainly held the value all the time between: a *forward* zone. Otherwise the
//! zone `[s, f]` is *backward*: the value may have been there for a moment only. The history is linearizable if and only if
//! no read precedes its write, no two forward zones overlap, and no backward zone lies within a forward zone.
//!
//! The memory below is not atomic by block but by word: a read during a write may see some words old and some new. So
//! the registers are words: some of each block are followed through the history, all others must at least be of a write to that block.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test that has this module uses a part of it"
)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

pub mod load;

use std::collections::HashMap;
use std::fmt;

/// A write's number; 0 is the initial content.
pub type Value = u64;
/// A time in microseconds or finer, of one clock for all.
pub type Moment = u64;

/// An action on a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// This value was written.
    Write(Value),
    /// These values were read, in the words that are followed.
    Read([Value; WORDS]),
}

/// Words of a block that are followed.
pub const WORDS: usize = 3;

/// One operation on one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The block.
    pub block: u64,
    /// The action.
    pub action: Action,
    /// When it was requested.
    pub start: Moment,
    /// When it was answered; `None` when it was not, or with an error: it may have had its effect, or not, or have it later.
    pub end: Option<Moment>,
    /// The number of the file in the plan.
    pub through: usize,
    /// Whether it may have had its effect twice: it was under way while its apparatus was fenced and rejoined.
    pub twice: bool,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The block.
    pub block: u64,
    /// The contradiction.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: {}", self.block, self.why)
    }
}

/// The operations of one value on one register.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    value: Value,
    first_end: Moment,
    last_start: Moment,
}

impl Cluster {
    fn forward(&self) -> bool {
        self.first_end < self.last_start
    }

    fn low(&self) -> Moment {
        self.first_end.min(self.last_start)
    }

    fn high(&self) -> Moment {
        self.first_end.max(self.last_start)
    }
}

/// Checks a whole history.
///
/// # Errors
/// Returns the first violation found.
pub fn check(history: &[Op]) -> Result<(), Violation> {
    let mut blocks: HashMap<u64, Vec<&Op>> = HashMap::new();
    for op in history {
        blocks.entry(op.block).or_default().push(op);
    }
    for (block, ops) in blocks {
        for word in 0..WORDS {
            check_register(&ops, word).map_err(|why| Violation {
                block,
                why: format!("word {word}: {why}"),
            })?;
        }
    }
    Ok(())
}

fn check_register(ops: &[&Op], word: usize) -> Result<(), String> {
    let mut writes: HashMap<Value, &Op> = HashMap::new();
    for &op in ops {
        if let Action::Write(value) = op.action
            && writes.insert(value, op).is_some()
        {
            return Err(format!("value {value} was written twice by the test itself"));
        }
    }
    let mut reads: HashMap<Value, Vec<(Moment, Moment)>> = HashMap::new();
    for &op in ops {
        if let (Action::Read(values), Some(end)) = (&op.action, op.end) {
            reads.entry(values[word]).or_default().push((op.start, end));
        }
    }
    let mut clusters = Vec::new();
    for (&value, write) in &writes {
        let seen = reads.remove(&value).unwrap_or_default();
        clusters.extend(clusters_of(value, write, seen)?);
    }
    let initial = reads.remove(&0).unwrap_or_default();
    clusters.push(cluster(0, (0, 0), &initial));
    if let Some((value, _)) = reads.into_iter().next() {
        return Err(format!("value {value} was read and never written"));
    }
    check_zones(clusters)
}

fn clusters_of(value: Value, write: &Op, mut seen: Vec<(Moment, Moment)>) -> Result<Vec<Cluster>, String> {
    if let Some((_, end)) = seen.iter().find(|(_, end)| *end < write.start) {
        return Err(format!(
            "value {value} was read at {end}, before it was written from {}",
            write.start
        ));
    }
    let end = match write.end {
        Some(end) => end,
        // It was not answered and not read: it never happened.
        None if seen.is_empty() => return Ok(Vec::new()),
        None => Moment::MAX,
    };
    if !write.twice {
        return Ok(vec![cluster(value, (write.start, end), &seen)]);
    }
    // A write that may have had its effect twice: reads before its answer may be of the first, all others are of the second. Each read in
    // between is a cluster by itself, which is the weakest assumption.
    seen.sort_unstable();
    let (early, late): (Vec<_>, Vec<_>) = seen.into_iter().partition(|&(start, _)| start <= end);
    let mut clusters: Vec<_> = early
        .iter()
        .map(|read| cluster(value, (write.start, end), std::slice::from_ref(read)))
        .collect();
    clusters.push(cluster(value, (write.start, end), &late));
    Ok(clusters)
}

fn cluster(value: Value, write: (Moment, Moment), reads: &[(Moment, Moment)]) -> Cluster {
    let all = reads.iter().chain(std::iter::once(&write));
    let first_end = all.clone().map(|(_, end)| *end).min().unwrap_or(write.1);
    let last_start = all.map(|(start, _)| *start).max().unwrap_or(write.0);
    Cluster {
        value,
        first_end,
        last_start,
    }
}

fn check_zones(mut clusters: Vec<Cluster>) -> Result<(), String> {
    clusters.sort_unstable_by_key(|cluster| cluster.low());
    let forward: Vec<Cluster> = clusters.iter().copied().filter(Cluster::forward).collect();
    for pair in forward.windows(2) {
        if pair[1].low() < pair[0].high() {
            return Err(conflict("both were certainly there at once", &pair[0], &pair[1]));
        }
    }
    for backward in clusters.iter().filter(|cluster| !cluster.forward()) {
        let after = forward.partition_point(|zone| zone.low() < backward.low());
        let around = after.checked_sub(1).and_then(|index| forward.get(index));
        if let Some(zone) = around.filter(|zone| backward.high() < zone.high()) {
            return Err(conflict(
                "one was there all the time in which the other has to have been",
                zone,
                backward,
            ));
        }
    }
    Ok(())
}

fn conflict(what: &str, a: &Cluster, b: &Cluster) -> String {
    let show = |c: &Cluster| format!("value {} ({} to {})", c.value, c.low(), c.high());
    format!("{what}: {}, {}", show(a), show(b))
}
