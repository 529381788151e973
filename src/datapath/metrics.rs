//! Counters of I/O. Each serving thread has its own, which it alone writes; a reader of the metrics adds them up.

use crate::model::units::{DiskId, VolumeId};
use crate::rpc::message::{IoFigures, Latency};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Latencies of more than 2^30 µs (18 minutes) share the last bucket.
const BUCKETS: usize = 32;

/// Kind of a finished request, for its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Read,
    Write,
    Flush,
}

/// Counters of one kind of request. The sum of the buckets is the number of requests.
#[derive(Debug, Default)]
struct Requests {
    bytes: AtomicU64,
    took_us: AtomicU64,
    took: [AtomicU64; BUCKETS],
}

impl Requests {
    fn finished(&self, bytes: u64, took_us: u64) {
        add(&self.bytes, bytes);
        add(&self.took_us, took_us);
        add(&self.took[bucket(took_us)], 1);
    }

    fn add_to(&self, requests: &mut u64, bytes: &mut u64, latency: &mut Latency) {
        *bytes += self.bytes.load(Relaxed);
        latency.sum_us = latency.sum_us.wrapping_add(self.took_us.load(Relaxed));
        for (i, count) in self.took.iter().map(|count| count.load(Relaxed)).enumerate() {
            if count > 0 {
                *requests += count;
                latency.counts.resize(latency.counts.len().max(i + 1), 0);
                latency.counts[i] += count;
            }
        }
    }
}

/// Counters of one volume or disk, of one thread. Any thread reads them; only that one writes them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    reads: Requests,
    writes: Requests,
    flushes: Requests,
    errors: AtomicU64,
    /// End of the last write, in microseconds since the apparatus started; 0 for none.
    written_at_us: AtomicU64,
}

/// Adds to a counter that has one writer, so no atomic read-modify-write is needed.
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl Counters {
    pub(super) fn finished(&self, kind: RequestKind, bytes: u64, took_us: u64) {
        let requests = match kind {
            RequestKind::Read => &self.reads,
            RequestKind::Write => &self.writes,
            RequestKind::Flush => &self.flushes,
        };
        requests.finished(bytes, took_us);
    }

    pub(super) fn failed(&self) {
        add(&self.errors, 1);
    }

    pub(super) fn wrote(&self, at_us: u64) {
        self.written_at_us.store(at_us, Relaxed);
    }

    fn add_to(&self, sum: &mut IoFigures) {
        self.reads
            .add_to(&mut sum.reads, &mut sum.read_bytes, &mut sum.read_latency);
        self.writes
            .add_to(&mut sum.writes, &mut sum.written_bytes, &mut sum.write_latency);
        self.flushes
            .add_to(&mut sum.flushes, &mut 0, &mut sum.flush_latency);
        sum.errors += self.errors.load(Relaxed);
    }
}

/// Returns the bucket of a latency: bucket i holds those of at least 2^(i-1) and less than 2^i microseconds.
fn bucket(took_us: u64) -> usize {
    ((u64::BITS - took_us.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// Counters by id, sorted, with the index of the entry that was used last.
#[derive(Debug)]
struct CounterTable<I> {
    entries: Vec<(I, Arc<Counters>)>,
    last: usize,
}

impl<I> Default for CounterTable<I> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            last: 0,
        }
    }
}

impl<I: Copy + Ord> CounterTable<I> {
    /// Returns the counters of `id`, and whether they are new.
    fn entry(&mut self, id: I) -> (&Arc<Counters>, bool) {
        if self.entries.get(self.last).is_some_and(|entry| entry.0 == id) {
            return (&self.entries[self.last].1, false);
        }
        let found = self.entries.binary_search_by_key(&id, |entry| entry.0);
        let new = found.is_err();
        self.last = found.unwrap_or_else(|at| {
            self.entries.insert(at, (id, Arc::default()));
            at
        });
        (&self.entries[self.last].1, new)
    }
}

/// Counters of one thread.
#[derive(Debug)]
pub(super) struct ThreadMetrics {
    volumes: CounterTable<VolumeId>,
    disks: CounterTable<DiskId>,
    shard: Arc<Shard>,
    registry: Arc<MetricsRegistry>,
}

impl ThreadMetrics {
    pub(super) fn volume(&mut self, id: VolumeId) -> &Counters {
        let (counters, new) = self.volumes.entry(id);
        if new {
            lock(&self.shard.volumes).insert(id, counters.clone());
        }
        counters
    }

    pub(super) fn disk(&mut self, id: DiskId) -> &Counters {
        let (counters, new) = self.disks.entry(id);
        if new {
            lock(&self.shard.disks).insert(id, counters.clone());
        }
        counters
    }
}

impl Drop for ThreadMetrics {
    fn drop(&mut self) {
        let idle = Idle {
            volumes: std::mem::take(&mut self.volumes),
            disks: std::mem::take(&mut self.disks),
            shard: self.shard.clone(),
        };
        lock(&self.registry.idle).push(idle);
    }
}

/// Counters of a thread, as other threads see them.
#[derive(Debug, Default)]
struct Shard {
    volumes: Mutex<BTreeMap<VolumeId, Arc<Counters>>>,
    disks: Mutex<BTreeMap<DiskId, Arc<Counters>>>,
}

/// Counters of a thread that has ended; the next thread continues them.
#[derive(Debug)]
struct Idle {
    volumes: CounterTable<VolumeId>,
    disks: CounterTable<DiskId>,
    shard: Arc<Shard>,
}

/// Counters of all threads.
#[derive(Debug, Default)]
pub(super) struct MetricsRegistry {
    shards: Mutex<Vec<Arc<Shard>>>,
    idle: Mutex<Vec<Idle>>,
    /// Number of errors of each disk at the time when the operator cleared them.
    cleared: Mutex<BTreeMap<DiskId, u64>>,
}

impl MetricsRegistry {
    /// Returns counters for a new thread.
    pub(super) fn thread_metrics(self: &Arc<Self>) -> ThreadMetrics {
        let idle = lock(&self.idle).pop().unwrap_or_else(|| {
            let shard = Arc::<Shard>::default();
            lock(&self.shards).push(shard.clone());
            Idle {
                volumes: CounterTable::default(),
                disks: CounterTable::default(),
                shard,
            }
        });
        ThreadMetrics {
            volumes: idle.volumes,
            disks: idle.disks,
            shard: idle.shard,
            registry: self.clone(),
        }
    }

    pub(super) fn volumes(&self) -> BTreeMap<VolumeId, IoFigures> {
        self.sum(|shard| &shard.volumes)
    }

    pub(super) fn disks(&self) -> BTreeMap<DiskId, IoFigures> {
        let mut disks = self.sum(|shard| &shard.disks);
        for (disk, before) in lock(&self.cleared).iter() {
            if let Some(figures) = disks.get_mut(disk) {
                figures.errors = figures.errors.saturating_sub(*before);
            }
        }
        disks
    }

    /// Clears the error count of a disk.
    pub(super) fn clear(&self, disk: DiskId) {
        let counted = self.sum(|shard| &shard.disks).remove(&disk);
        lock(&self.cleared).insert(disk, counted.map_or(0, |figures| figures.errors));
    }

    /// Returns when the volume was last written through this apparatus, in microseconds since that started; 0 for never.
    pub(super) fn written_at_us(&self, volume: VolumeId) -> u64 {
        let of_shard = |shard: &Arc<Shard>| {
            let entries = lock(&shard.volumes);
            let entry = entries.get(&volume);
            entry.map_or(0, |entry| entry.written_at_us.load(Relaxed))
        };
        lock(&self.shards).iter().map(of_shard).max().unwrap_or(0)
    }

    /// Returns the same for all volumes that have been used.
    pub(super) fn written(&self) -> BTreeMap<VolumeId, u64> {
        let mut written = BTreeMap::<VolumeId, u64>::new();
        for shard in lock(&self.shards).iter() {
            for (&id, counters) in lock(&shard.volumes).iter() {
                let latest = written.entry(id).or_default();
                *latest = counters.written_at_us.load(Relaxed).max(*latest);
            }
        }
        written
    }

    fn sum<I: Copy + Ord>(
        &self,
        of: impl Fn(&Shard) -> &Mutex<BTreeMap<I, Arc<Counters>>>,
    ) -> BTreeMap<I, IoFigures> {
        let mut sums = BTreeMap::<I, IoFigures>::new();
        for shard in lock(&self.shards).iter() {
            for (id, counters) in lock(of(shard)).iter() {
                counters.add_to(sums.entry(*id).or_default());
            }
        }
        sums
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_of_a_microsecond() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 1);
        assert_eq!(bucket(2), 2);
        assert_eq!(bucket(1_023), 10);
        assert_eq!(bucket(1_024), 11);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn adds_up_over_threads_living_and_ended() {
        let registry = Arc::new(MetricsRegistry::default());
        let (a, b) = (VolumeId(9), VolumeId(2));
        let mut ended = registry.thread_metrics();
        ended.volume(a).finished(RequestKind::Read, 10, 5);
        ended.volume(b).wrote(7);
        drop(ended);
        let mut first = registry.thread_metrics();
        let mut second = registry.thread_metrics();
        first.volume(a).finished(RequestKind::Read, 1, 5);
        second.volume(a).finished(RequestKind::Write, 2, 0);
        second.disk(DiskId(1)).failed();
        assert_eq!(
            lock(&registry.shards).len(),
            2,
            "the ended thread's counters went to the next"
        );
        let sums = registry.volumes();
        let figures = &sums[&a];
        assert_eq!((figures.reads, figures.read_bytes), (2, 11));
        assert_eq!((figures.writes, figures.written_bytes), (1, 2));
        assert_eq!(figures.read_latency.counts, [0, 0, 0, 2]);
        assert_eq!(figures.read_latency.sum_us, 10);
        assert_eq!(figures.write_latency.counts, [1]);
        assert_eq!(
            (figures.flushes, &figures.flush_latency),
            (0, &Latency::default())
        );
        assert_eq!(registry.disks()[&DiskId(1)].errors, 1);
        registry.clear(DiskId(1));
        registry.clear(DiskId(7));
        assert_eq!(registry.disks()[&DiskId(1)].errors, 0);
        second.disk(DiskId(1)).failed();
        assert_eq!(registry.disks()[&DiskId(1)].errors, 1);
        assert_eq!(registry.written_at_us(b), 7);
        assert_eq!(registry.written_at_us(VolumeId(77)), 0);
    }
}
