//! Schedules requests that wait for disks on worker threads, with one run queue for each disk or volume. Pure: jobs go in; jobs, and the need
//! of threads, come out.

use crate::model::records::DiskAccess;
use crate::model::units::{DiskId, VolumeId};
use std::collections::{BTreeMap, VecDeque};

/// Number of requests of one disk that share a thread: the disk works on all prefetched reads, however many threads wait for it. Where disks are used
/// directly, each request has a thread of its own, because the disk works only on those that a thread waits for.
const SHARE: usize = 4;

/// What a job may have to wait for; each value has a run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Awaits {
    /// Anything, for any time: each job has a thread of its own.
    Anything,
    /// The disks of this volume: each job has a thread of its own.
    Volume(VolumeId),
    /// This disk, which is prefetching the bytes in most cases where it is used through the page cache.
    Disk(DiskId),
}

/// The run queues and the number of threads. No job waits behind one of another disk: each disk has its own queue, which never gets more
/// threads than its jobs need, nor so many that none is left for one queue more.
pub(super) struct State<J> {
    pub(super) queues: BTreeMap<Awaits, Queue<J>>,
    /// Number of waiting requests, and the bytes that they hold.
    pub(super) queued: usize,
    pub(super) bytes: u64,
    most_threads: usize,
    /// Number of requests of one disk that share a thread.
    share: usize,
    pub(super) threads: usize,
    /// Idle threads that have not been woken.
    pub(super) idle: usize,
    /// Threads that have been woken but do not run yet.
    pub(super) woken: usize,
    pub(super) ending: bool,
}

/// Run queue: jobs that wait for the same disk or volume.
pub(super) struct Queue<J> {
    pub(super) jobs: VecDeque<J>,
    /// Number of its jobs that run, each on a thread.
    working: usize,
}

/// Thread that a new job needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Waking,
    Thread,
}

impl<J> Queue<J> {
    fn new() -> Self {
        Self {
            jobs: VecDeque::new(),
            working: 0,
        }
    }

    /// Returns how many more threads it needs, if it may have `most` in all.
    fn missing(&self, share: usize, most: usize) -> usize {
        let worth = (self.jobs.len() + self.working).div_ceil(share);
        worth.min(most).saturating_sub(self.working).min(self.jobs.len())
    }
}

impl<J> State<J> {
    pub(super) fn new(most_threads: usize, access: DiskAccess) -> Self {
        Self {
            queues: BTreeMap::new(),
            queued: 0,
            bytes: 0,
            most_threads: most_threads.max(1),
            share: if access.is_cached() { SHARE } else { 1 },
            threads: 0,
            idle: 0,
            woken: 0,
            ending: false,
        }
    }

    fn working(&self) -> usize {
        self.queues.values().map(|queue| queue.working).sum()
    }

    /// Returns how many threads the queue may have, where `working` run in all: half of those that the other queues leave.
    fn most_of(&self, queue: &Queue<J>, working: usize) -> usize {
        let others = working - queue.working;
        self.most_threads.saturating_sub(others).div_ceil(2).max(1)
    }

    fn missing(&self, awaits: Awaits, queue: &Queue<J>, working: usize) -> usize {
        let share = match awaits {
            Awaits::Anything | Awaits::Volume(_) => 1,
            Awaits::Disk(_) => self.share,
        };
        queue.missing(share, self.most_of(queue, working))
    }

    pub(super) fn push(&mut self, awaits: Awaits, job: J) -> Need {
        self.queues
            .entry(awaits)
            .or_insert_with(Queue::new)
            .jobs
            .push_back(job);
        let working = self.working();
        let missing: usize = self
            .queues
            .iter()
            .map(|(&awaits, queue)| self.missing(awaits, queue, working))
            .sum();
        if missing <= self.threads.saturating_sub(self.idle + working) {
            // Threads that have been woken or started already take it.
            return Need::Nothing;
        }
        if self.idle > 0 {
            self.idle -= 1;
            self.woken += 1;
            return Need::Waking;
        }
        if self.threads < self.most_threads {
            return Need::Thread;
        }
        Need::Nothing
    }

    /// Takes the next job for a thread: of the queue with the fewest threads, among those that need more. Where there is only one queue, the
    /// thread continues with it, which delays no other queue and is cheaper than to sleep.
    pub(super) fn pop(&mut self) -> Option<(Awaits, J)> {
        let (alone, working) = (self.queues.len() == 1, self.working());
        let needy = self.queues.iter().filter(|(awaits, queue)| {
            self.missing(**awaits, queue, working) > 0
                || alone && queue.working < self.most_of(queue, working)
        });
        let (&awaits, _) = needy.min_by_key(|(_, queue)| queue.working)?;
        let queue = self.queues.get_mut(&awaits)?;
        let job = queue.jobs.pop_front()?;
        queue.working += 1;
        Some((awaits, job))
    }

    /// Records that a job has finished.
    pub(super) fn done(&mut self, awaits: Awaits) {
        if let Some(queue) = self.queues.get_mut(&awaits) {
            queue.working -= 1;
            if queue.working == 0 && queue.jobs.is_empty() {
                self.queues.remove(&awaits);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Awaits = Awaits::Disk(DiskId(1));
    const B: Awaits = Awaits::Disk(DiskId(2));

    /// Starts threads at once, each of which takes its job.
    struct World {
        state: State<u32>,
        taken: Vec<(Awaits, u32)>,
    }

    impl World {
        fn new(most_threads: usize) -> Self {
            let state = State::new(most_threads, DiskAccess::Cached);
            Self { state, taken: vec![] }
        }

        fn push(&mut self, awaits: Awaits, job: u32) {
            if self.state.push(awaits, job) == Need::Thread {
                self.state.threads += 1;
                self.taken.extend(self.state.pop());
            }
        }
    }

    #[test]
    fn four_reads_of_a_disk_share_a_thread_and_anything_else_has_its_own() {
        let mut world = World::new(64);
        for job in 0..9 {
            world.push(A, job);
        }
        assert_eq!(world.state.threads, 3);
        for job in 0..5 {
            world.push(Awaits::Anything, job);
        }
        assert_eq!(world.state.threads, 8);
    }

    #[test]
    fn a_hung_disk_blocks_no_job_of_another() {
        let mut world = World::new(64);
        for job in 0..7 {
            world.push(A, job);
        }
        world.push(B, 0);
        world.push(Awaits::Anything, 0);
        assert_eq!(world.taken[2..], [(B, 0), (Awaits::Anything, 0)]);

        // A thread that has finished a job of another disk does not wait for this one too, as long as there is a third queue.
        world.state.done(B);
        assert_eq!(world.state.pop(), None);
        world.push(B, 1);
        assert_eq!(world.state.pop(), Some((B, 1)), "by the idle thread");
        assert_eq!(world.state.threads, 4);
    }

    #[test]
    fn each_job_runs_once_in_the_order_of_its_queue_and_none_is_left_over() {
        let mut world = World::new(3);
        for job in 0..40 {
            world.push([A, B][job as usize % 2], job / 2);
        }
        assert_eq!(world.state.threads, 2, "the third is left for a third queue");
        let mut done = vec![];
        while let Some((awaits, job)) = world.taken.pop() {
            done.push((awaits, job));
            world.state.done(awaits);
            world.taken.extend(world.state.pop());
        }
        assert!(world.state.queues.is_empty());
        let of = |awaits| {
            done.iter()
                .filter(|job| job.0 == awaits)
                .map(|job| job.1)
                .collect::<Vec<_>>()
        };
        let mut all = [of(A), of(B)];
        all.iter_mut().for_each(|jobs| jobs.sort_unstable());
        assert_eq!(all, [(0..20).collect::<Vec<_>>(), (0..20).collect()]);
    }

    #[test]
    fn however_many_jobs_some_queues_have_there_is_a_thread_for_another() {
        let mut world = World::new(64);
        let hanging = [32, 16, 8, 4, 2, 1];
        for (volume, most) in hanging.into_iter().enumerate() {
            for job in 0..100 {
                world.push(Awaits::Volume(VolumeId(volume as u64)), job);
            }
            let queue = &world.state.queues[&Awaits::Volume(VolumeId(volume as u64))];
            assert_eq!(queue.working, most, "volume {volume}");
        }
        world.push(B, 7);
        assert_eq!(world.taken.last(), Some(&(B, 7)));
    }

    #[test]
    fn one_queue_does_not_take_all_idle_threads() {
        let mut world = World::new(8);
        for job in 0..4 {
            world.push(Awaits::Volume(VolumeId(job)), 0);
        }
        for (awaits, _) in std::mem::take(&mut world.taken) {
            world.state.done(awaits);
        }
        for job in 0..100 {
            world.push(A, job);
        }
        let taken = (0..8).map_while(|_| world.state.pop()).count();
        assert_eq!(world.state.queues[&A].working, 4, "{taken}");
    }
}
