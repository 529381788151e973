//! Who is to work on what waits for disks. Pure: jobs in, jobs and the need of threads out.

use crate::units::{DiskId, VolumeId};
use std::collections::{BTreeMap, VecDeque};

/// So many requests of one disk share a thread: it works on all reads whoever waits.
const SHARE: usize = 4;

/// What may keep a job waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Awaits {
    /// Anything, for as long as it takes: each has a thread of its own.
    Anything,
    /// The disks of this volume: the same.
    Volume(VolumeId),
    /// This disk, which mostly has been told to read what is asked for.
    Disk(DiskId),
}

impl Awaits {
    fn share(self) -> usize {
        match self {
            Self::Anything | Self::Volume(_) => 1,
            Self::Disk(_) => SHARE,
        }
    }
}

/// What waits for threads, and those. Nothing waits behind what another disk keeps: each has its own line, and no more threads than its line is
/// worth, nor more than leave some for one line more.
pub(super) struct State<J> {
    pub(super) lines: BTreeMap<Awaits, Line<J>>,
    /// Requests that wait, and the bytes that they keep.
    pub(super) queued: usize,
    pub(super) bytes: u64,
    most_threads: usize,
    pub(super) threads: usize,
    /// Threads that wait and that nobody has woken.
    pub(super) idle: usize,
    /// Threads that have been woken and have not noticed yet.
    pub(super) woken: usize,
    pub(super) ending: bool,
}

/// Jobs that wait for the same.
pub(super) struct Line<J> {
    pub(super) jobs: VecDeque<J>,
    /// Jobs being worked on, each by a thread.
    working: usize,
}

/// What a new job needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Waking,
    Thread,
}

impl<J> Line<J> {
    fn new() -> Self {
        Self {
            jobs: VecDeque::new(),
            working: 0,
        }
    }

    /// How many more threads are to work on it, if it may have so many.
    fn lacks(&self, share: usize, most: usize) -> usize {
        let worth = (self.jobs.len() + self.working).div_ceil(share);
        worth.min(most).saturating_sub(self.working).min(self.jobs.len())
    }
}

impl<J> State<J> {
    pub(super) fn new(most_threads: usize) -> Self {
        Self {
            lines: BTreeMap::new(),
            queued: 0,
            bytes: 0,
            most_threads: most_threads.max(1),
            threads: 0,
            idle: 0,
            woken: 0,
            ending: false,
        }
    }

    fn working(&self) -> usize {
        self.lines.values().map(|line| line.working).sum()
    }

    /// Threads that the line may have, where so many work in all: half of what the others leave.
    fn most_of(&self, line: &Line<J>, working: usize) -> usize {
        let others = working - line.working;
        self.most_threads.saturating_sub(others).div_ceil(2).max(1)
    }

    fn lacks(&self, awaits: Awaits, line: &Line<J>, working: usize) -> usize {
        line.lacks(awaits.share(), self.most_of(line, working))
    }

    pub(super) fn push(&mut self, awaits: Awaits, job: J) -> Need {
        self.lines
            .entry(awaits)
            .or_insert_with(Line::new)
            .jobs
            .push_back(job);
        let working = self.working();
        let lacking: usize = self
            .lines
            .iter()
            .map(|(&awaits, line)| self.lacks(awaits, line, working))
            .sum();
        if lacking <= self.threads.saturating_sub(self.idle + working) {
            // Those that are on their way take it.
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

    /// What a thread is to do: a job of the line with the fewest threads among those that lack some. Where there is but one line,
    /// nobody is kept by going on with it, which is cheaper than to sleep.
    pub(super) fn pop(&mut self) -> Option<(Awaits, J)> {
        let (alone, working) = (self.lines.len() == 1, self.working());
        let lacking = self.lines.iter().filter(|(awaits, line)| {
            self.lacks(**awaits, line, working) > 0 || alone && line.working < self.most_of(line, working)
        });
        let (&awaits, _) = lacking.min_by_key(|(_, line)| line.working)?;
        let line = self.lines.get_mut(&awaits)?;
        let job = line.jobs.pop_front()?;
        line.working += 1;
        Some((awaits, job))
    }

    /// A job has been done.
    pub(super) fn done(&mut self, awaits: Awaits) {
        if let Some(line) = self.lines.get_mut(&awaits) {
            line.working -= 1;
            if line.working == 0 && line.jobs.is_empty() {
                self.lines.remove(&awaits);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Awaits = Awaits::Disk(DiskId(1));
    const B: Awaits = Awaits::Disk(DiskId(2));

    /// Threads that are started at once, and take what they are to.
    struct World {
        state: State<u32>,
        taken: Vec<(Awaits, u32)>,
    }

    impl World {
        fn new(most_threads: usize) -> Self {
            let state = State::new(most_threads);
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
    fn a_disk_that_does_not_answer_keeps_nothing_of_another() {
        let mut world = World::new(64);
        for job in 0..7 {
            world.push(A, job);
        }
        world.push(B, 0);
        world.push(Awaits::Anything, 0);
        assert_eq!(world.taken[2..], [(B, 0), (Awaits::Anything, 0)]);

        // A thread that has done what another disk gave does not go and wait for this one too, as long as there is a third.
        world.state.done(B);
        assert_eq!(world.state.pop(), None);
        world.push(B, 1);
        assert_eq!(world.state.pop(), Some((B, 1)), "by the thread that is there");
        assert_eq!(world.state.threads, 4);
    }

    #[test]
    fn each_job_is_done_once_in_the_order_of_its_line_and_nothing_is_left_over() {
        let mut world = World::new(3);
        for job in 0..40 {
            world.push([A, B][job as usize % 2], job / 2);
        }
        assert_eq!(world.state.threads, 2, "the third is left for a third line");
        let mut done = vec![];
        while let Some((awaits, job)) = world.taken.pop() {
            done.push((awaits, job));
            world.state.done(awaits);
            world.taken.extend(world.state.pop());
        }
        assert!(world.state.lines.is_empty());
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
    fn however_much_waits_for_some_there_is_a_thread_for_another() {
        let mut world = World::new(64);
        let hanging = [32, 16, 8, 4, 2, 1];
        for (volume, most) in hanging.into_iter().enumerate() {
            for job in 0..100 {
                world.push(Awaits::Volume(VolumeId(volume as u64)), job);
            }
            let line = &world.state.lines[&Awaits::Volume(VolumeId(volume as u64))];
            assert_eq!(line.working, most, "volume {volume}");
        }
        world.push(B, 7);
        assert_eq!(world.taken.last(), Some(&(B, 7)));
    }

    #[test]
    fn threads_that_have_nothing_to_do_are_not_all_taken_by_one_line() {
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
        assert_eq!(world.state.lines[&A].working, 4, "{taken}");
    }
}
