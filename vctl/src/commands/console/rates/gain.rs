//! The gain of counters between two polls of one apparatus, and its sum over several apparatuses.

use super::Point;
use apparatus::rpc::message::{ApparatusMetrics, IoFigures, Latency};
use std::collections::BTreeMap;

/// The gain of the counters of one apparatus, and the microseconds it took.
pub(super) struct CounterGain {
    micros: u64,
    volumes: BTreeMap<String, IoFigures>,
    disks: BTreeMap<String, IoFigures>,
}

/// Returns `None` if the two polls are not of one process in this order.
pub(super) fn of(before: &ApparatusMetrics, now: &ApparatusMetrics) -> Option<CounterGain> {
    let follows = before.pid == now.pid && before.uptime_us < now.uptime_us;
    follows.then(|| CounterGain {
        micros: now.uptime_us - before.uptime_us,
        volumes: gained(&before.volumes, &now.volumes),
        disks: gained(&before.disks, &now.disks),
    })
}

fn gained(
    before: &BTreeMap<String, IoFigures>,
    now: &BTreeMap<String, IoFigures>,
) -> BTreeMap<String, IoFigures> {
    // An object with a new name keeps its counts, which would look like new activity.
    let renamed = before.keys().any(|name| !now.contains_key(name));
    let none = IoFigures::default();
    let each = now.iter().map(|(name, io)| {
        let gained = match before.get(name) {
            Some(before) => delta(before, io),
            None if renamed => IoFigures::default(),
            None => delta(&none, io),
        };
        (name.clone(), gained)
    });
    each.collect()
}

/// Returns the gain; a counter that went down (a volume of that name was created again) has gained nothing.
fn delta(before: &IoFigures, now: &IoFigures) -> IoFigures {
    IoFigures {
        reads: now.reads.saturating_sub(before.reads),
        read_bytes: now.read_bytes.saturating_sub(before.read_bytes),
        writes: now.writes.saturating_sub(before.writes),
        written_bytes: now.written_bytes.saturating_sub(before.written_bytes),
        flushes: now.flushes.saturating_sub(before.flushes),
        read_latency: longer(&before.read_latency, &now.read_latency),
        write_latency: longer(&before.write_latency, &now.write_latency),
        ..IoFigures::default()
    }
}

fn longer(before: &Latency, now: &Latency) -> Latency {
    let bucket = |at: usize| before.counts.get(at).copied().unwrap_or(0);
    let counts = now.counts.iter().enumerate();
    Latency {
        sum_us: now.sum_us.saturating_sub(before.sum_us),
        counts: counts
            .map(|(at, count)| count.saturating_sub(bucket(at)))
            .collect(),
    }
}

impl CounterGain {
    /// Adds the gain to that of the apparatus, and to that of each volume and disk over all apparatuses.
    pub(super) fn add_to(
        &self,
        own: &mut Sum,
        volumes: &mut BTreeMap<String, Sum>,
        disks: &mut BTreeMap<String, Sum>,
    ) {
        own.answered = true;
        for (name, io) in &self.volumes {
            own.add(io, self.micros);
            volumes.entry(name.clone()).or_default().add(io, self.micros);
        }
        for (name, io) in &self.disks {
            disks.entry(name.clone()).or_default().add(io, self.micros);
        }
    }
}

/// The summed gain of several apparatuses.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    answered: bool,
    requests: u64,
    read: u64,
    written: u64,
    read_buckets: Vec<u64>,
    write_buckets: Vec<u64>,
}

impl Sum {
    fn add(&mut self, io: &IoFigures, micros: u64) {
        self.requests += per_second(io.reads + io.writes + io.flushes, micros);
        self.read = self.read.saturating_add(per_second(io.read_bytes, micros));
        self.written = self.written.saturating_add(per_second(io.written_bytes, micros));
        lengthen(&mut self.read_buckets, &io.read_latency.counts);
        lengthen(&mut self.write_buckets, &io.write_latency.counts);
    }

    /// Adds another sum.
    pub(super) fn and(&mut self, other: &Self) {
        self.answered |= other.answered;
        self.requests += other.requests;
        self.read = self.read.saturating_add(other.read);
        self.written = self.written.saturating_add(other.written);
        lengthen(&mut self.read_buckets, &other.read_buckets);
        lengthen(&mut self.write_buckets, &other.write_buckets);
    }

    /// Returns whether any apparatus answered.
    pub(super) fn has_answer(&self) -> bool {
        self.answered
    }

    pub(super) fn point(&self, level: Option<u64>) -> Point {
        Point {
            requests: self.requests,
            read: self.read,
            written: self.written,
            read_p99_us: p99(&self.read_buckets),
            write_p99_us: p99(&self.write_buckets),
            level,
        }
    }
}

fn lengthen(all: &mut Vec<u64>, more: &[u64]) {
    all.resize(all.len().max(more.len()), 0);
    for (sum, count) in all.iter_mut().zip(more) {
        *sum += count;
    }
}

pub(super) fn per_second(count: u64, micros: u64) -> u64 {
    let rate = (u128::from(count) * 1_000_000).checked_div(u128::from(micros));
    u64::try_from(rate.unwrap_or(0)).unwrap_or(u64::MAX)
}

/// Returns the upper bound of the bucket that contains the 99th percentile.
pub(super) fn p99(buckets: &[u64]) -> Option<u64> {
    let all: u64 = buckets.iter().sum();
    let wanted = all - all / 100;
    let mut below = 0;
    for (bucket, count) in buckets.iter().enumerate() {
        below += count;
        if all > 0 && below >= wanted {
            return 1_u64.checked_shl(u32::try_from(bucket).ok()?);
        }
    }
    None
}
