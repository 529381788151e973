//! Counters of I/O. Each serving thread has its own, which it alone writes; they are added up when somebody asks.

use crate::units::{DiskId, VolumeId};
use crate::wire::message::{IoFigures, Latency};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Latencies of more than 2^30 µs (18 minutes) share the last bucket.
const BUCKETS: usize = 32;

/// What a finished request is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
}

/// Requests of one kind. How many they are is what the buckets come to.
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

/// Counters of one volume or disk, of one thread. Read by any thread, written by that one.
#[derive(Debug, Default)]
pub(super) struct Counters {
    reads: Requests,
    writes: Requests,
    flushes: Requests,
    errors: AtomicU64,
    /// End of the last write, in microseconds since the apparatus began; 0 for none.
    written_at_us: AtomicU64,
}

/// There is one writer, so no read-modify-write is needed.
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl Counters {
    pub(super) fn finished(&self, kind: Kind, bytes: u64, took_us: u64) {
        let requests = match kind {
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
            Kind::Flush => &self.flushes,
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

/// Bucket i is for less than 2^i microseconds and not less than 2^(i-1).
fn bucket(took_us: u64) -> usize {
    ((u64::BITS - took_us.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// The counters of one thing after another, found by id.
#[derive(Debug)]
struct Page<I> {
    lines: Vec<(I, Arc<Counters>)>,
    last: usize,
}

impl<I> Default for Page<I> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            last: 0,
        }
    }
}

impl<I: Copy + Ord> Page<I> {
    /// The counters of `id`, and whether they are new.
    fn line(&mut self, id: I) -> (&Arc<Counters>, bool) {
        if self.lines.get(self.last).is_some_and(|line| line.0 == id) {
            return (&self.lines[self.last].1, false);
        }
        let found = self.lines.binary_search_by_key(&id, |line| line.0);
        let new = found.is_err();
        self.last = found.unwrap_or_else(|at| {
            self.lines.insert(at, (id, Arc::default()));
            at
        });
        (&self.lines[self.last].1, new)
    }
}

/// One thread's counters.
#[derive(Debug)]
pub(super) struct Tally {
    volumes: Page<VolumeId>,
    disks: Page<DiskId>,
    shard: Arc<Shard>,
    book: Arc<Book>,
}

impl Tally {
    pub(super) fn volume(&mut self, id: VolumeId) -> &Counters {
        let (counters, new) = self.volumes.line(id);
        if new {
            lock(&self.shard.volumes).insert(id, counters.clone());
        }
        counters
    }

    pub(super) fn disk(&mut self, id: DiskId) -> &Counters {
        let (counters, new) = self.disks.line(id);
        if new {
            lock(&self.shard.disks).insert(id, counters.clone());
        }
        counters
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let idle = Idle {
            volumes: std::mem::take(&mut self.volumes),
            disks: std::mem::take(&mut self.disks),
            shard: self.shard.clone(),
        };
        lock(&self.book.idle).push(idle);
    }
}

/// What others see of a thread's counters.
#[derive(Debug, Default)]
struct Shard {
    volumes: Mutex<BTreeMap<VolumeId, Arc<Counters>>>,
    disks: Mutex<BTreeMap<DiskId, Arc<Counters>>>,
}

/// Counters of a thread that has ended, for the next one to go on with.
#[derive(Debug)]
struct Idle {
    volumes: Page<VolumeId>,
    disks: Page<DiskId>,
    shard: Arc<Shard>,
}

/// All threads' counters.
#[derive(Debug, Default)]
pub(super) struct Book {
    shards: Mutex<Vec<Arc<Shard>>>,
    idle: Mutex<Vec<Idle>>,
    /// Errors of disks that were counted before the operator had them cleared.
    cleared: Mutex<BTreeMap<DiskId, u64>>,
}

impl Book {
    /// Counters for a thread that begins.
    pub(super) fn tally(self: &Arc<Self>) -> Tally {
        let idle = lock(&self.idle).pop().unwrap_or_else(|| {
            let shard = Arc::<Shard>::default();
            lock(&self.shards).push(shard.clone());
            Idle {
                volumes: Page::default(),
                disks: Page::default(),
                shard,
            }
        });
        Tally {
            volumes: idle.volumes,
            disks: idle.disks,
            shard: idle.shard,
            book: self.clone(),
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

    /// The errors of a disk count from zero from now on.
    pub(super) fn clear(&self, disk: DiskId) {
        let counted = self.sum(|shard| &shard.disks).remove(&disk);
        lock(&self.cleared).insert(disk, counted.map_or(0, |figures| figures.errors));
    }

    /// When the volume was last written through this apparatus, in microseconds since it began; 0 for never.
    pub(super) fn written_at_us(&self, volume: VolumeId) -> u64 {
        let of_shard = |shard: &Arc<Shard>| {
            let lines = lock(&shard.volumes);
            let line = lines.get(&volume);
            line.map_or(0, |line| line.written_at_us.load(Relaxed))
        };
        lock(&self.shards).iter().map(of_shard).max().unwrap_or(0)
    }

    /// The same of all volumes that have been used.
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
        let book = Arc::new(Book::default());
        let (a, b) = (VolumeId(9), VolumeId(2));
        let mut ended = book.tally();
        ended.volume(a).finished(Kind::Read, 10, 5);
        ended.volume(b).wrote(7);
        drop(ended);
        let mut first = book.tally();
        let mut second = book.tally();
        first.volume(a).finished(Kind::Read, 1, 5);
        second.volume(a).finished(Kind::Write, 2, 0);
        second.disk(DiskId(1)).failed();
        assert_eq!(
            lock(&book.shards).len(),
            2,
            "the ended thread's counters went to the next"
        );
        let sums = book.volumes();
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
        assert_eq!(book.disks()[&DiskId(1)].errors, 1);
        book.clear(DiskId(1));
        book.clear(DiskId(7));
        assert_eq!(book.disks()[&DiskId(1)].errors, 0);
        second.disk(DiskId(1)).failed();
        assert_eq!(book.disks()[&DiskId(1)].errors, 1);
        assert_eq!(book.written_at_us(b), 7);
        assert_eq!(book.written_at_us(VolumeId(77)), 0);
    }
}
