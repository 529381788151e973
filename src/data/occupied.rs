//! How much of a volume holds data, as `stat` tells it (`st_blocks`): counted aside by workers, and answered from memory.
//!
//! A look never waits. It answers what was counted last, and has the volume counted again if that is a while ago; where nothing has been
//! counted yet it answers one sector less than all, so that programs that copy holes look for some. The kernel is told when a
//! count has changed. Where there are too many runs of data to look at, those that were not looked at count as data.

use super::way::{Ready, Verdict};
use super::{Answer, Apparatus, BoxedReply, Delivery, Failure, Notice, Operation, Request, Tools, lock};
use crate::disk::View;
use crate::gate::Access;
use crate::pool::model::{SECTOR, VolumeRecord};
use crate::units::{VolumeId, VolumeOffset};
use quanta::Instant;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Counted in one go, inside the gate.
const WINDOW: u64 = 256 << 20;
/// Runs of data looked at for one count.
const MOST_RUNS: u64 = 100_000;
/// Volumes counted at once. A disk that does not answer keeps the counts of its own.
const AT_ONCE: usize = 4;
/// A count is as good as new for so long, and for so many times what it took.
const FRESH: Duration = Duration::from_secs(1);
const REST: u32 = 20;
/// Somebody who has looked in this time may look again.
const WATCHED: Duration = Duration::from_secs(60);

/// A count under way.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    at: VolumeOffset,
    data: u64,
    runs: u64,
    began: Instant,
    /// When the volume had been written last, then.
    modified_us: u64,
}

impl Count {
    fn new(modified_us: u64) -> Self {
        Self {
            modified_us,
            at: VolumeOffset(0),
            data: 0,
            runs: 0,
            began: Instant::now(),
        }
    }
}

/// What has been counted, and what is to be.
#[derive(Default)]
pub(super) struct Occupied {
    counted: HashMap<VolumeId, Counted>,
    wanted: BTreeSet<VolumeId>,
    counting: BTreeSet<VolumeId>,
}

struct Counted {
    bytes: u64,
    at: Instant,
    took: Duration,
    modified_us: u64,
    asked: Instant,
}

impl Counted {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH.max(self.took * REST)
    }
}

impl Occupied {
    /// What was counted last; notes whether it is to be counted again.
    fn look(&mut self, volume: VolumeId) -> Option<u64> {
        let Some(counted) = self.counted.get_mut(&volume) else {
            self.wanted.insert(volume);
            return None;
        };
        counted.asked = Instant::now();
        if !counted.is_fresh() {
            self.wanted.insert(volume);
        }
        Some(counted.bytes)
    }

    /// Volumes that somebody looks at, whose counts are not fresh, with the times of writing that those are of.
    fn watched(&self) -> Vec<(VolumeId, u64)> {
        let watched = |counted: &Counted| counted.asked.elapsed() < WATCHED && !counted.is_fresh();
        let all = self.counted.iter().filter(|(_, counted)| watched(counted));
        all.map(|(&volume, counted)| (volume, counted.modified_us))
            .collect()
    }

    /// The next to count, which is being counted from now on.
    fn next(&mut self) -> Option<VolumeId> {
        if self.counting.len() >= AT_ONCE {
            return None;
        }
        let next = *self
            .wanted
            .iter()
            .find(|volume| !self.counting.contains(volume))?;
        self.wanted.remove(&next);
        self.counting.insert(next);
        Some(next)
    }

    /// Whether it is another number than before.
    fn counted(&mut self, volume: VolumeId, bytes: u64, took: Duration, modified_us: u64) -> bool {
        let at = Instant::now();
        let asked = self.counted.get(&volume).map_or(at, |before| before.asked);
        let counted = Counted {
            bytes,
            at,
            took,
            modified_us,
            asked,
        };
        let before = self.counted.insert(volume, counted);
        before.is_none_or(|before| before.bytes != bytes)
    }

    fn forget(&mut self, volume: VolumeId) {
        self.counted.remove(&volume);
        self.wanted.remove(&volume);
    }
}

impl Apparatus {
    /// How many bytes of the volume hold data, as far as is known. Never waits for a disk.
    #[must_use]
    pub fn occupied(&self, volume: &VolumeRecord) -> u64 {
        let counted = lock(&self.occupied).look(volume.id);
        self.count_next();
        let most = volume.size.0;
        counted.unwrap_or_else(|| most.saturating_sub(SECTOR)).min(most)
    }

    /// The volume is gone.
    pub(super) fn forget_occupied(&self, volume: VolumeId) {
        lock(&self.occupied).forget(volume);
    }

    /// Counts again what somebody looks at and what has been written since.
    pub fn recount(&self) {
        let watched = lock(&self.occupied).watched();
        for (volume, counted_us) in watched {
            if self.modified_us(volume) != counted_us {
                lock(&self.occupied).wanted.insert(volume);
            }
        }
        (0..AT_ONCE).for_each(|_| self.count_next());
    }

    fn count_next(&self) {
        let next = lock(&self.occupied).next();
        let Some(volume) = next else { return };
        let me = self.me.clone();
        let reply = BoxedReply::new(move |answer| {
            if let Some(apparatus) = me.upgrade() {
                lock(&apparatus.occupied).counting.remove(&volume);
                if matches!(answer, Answer::Done) {
                    apparatus.count_next();
                }
            }
            Delivery::Taken
        });
        if let Err(refused) = self.offer(Request::new(
            volume,
            Operation::Count(Count::new(self.modified_us(volume))),
            reply,
        )) {
            // The workers have enough to do.
            refused.refuse(Failure::Ending);
        }
    }

    /// Counts the next part of a volume.
    pub(super) fn count_data<'d>(
        &self,
        tools: &mut Tools,
        disks: &View,
        volume: VolumeId,
        count: &mut Count,
    ) -> Result<Verdict<'d>, Failure> {
        let len = if count.runs < MOST_RUNS {
            WINDOW
        } else {
            u64::MAX >> 1
        };
        let Some((_, inside)) = self.locate(tools, Access::Read, volume, count.at, len)? else {
            let took = count.began.elapsed();
            if lock(&self.occupied).counted(volume, count.data, took, count.modified_us) {
                self.tell_kernel(Notice::Attributes(volume));
            }
            return Ok(Verdict::Ready(Ready::Done(0)));
        };
        if count.runs < MOST_RUNS {
            for piece in &tools.pieces {
                let disk = self.open_disk(disks, piece.disk)?;
                let runs = disk.data_runs(piece.at, piece.len);
                let runs = runs.map_err(|error| self.disk_failed(disk, "seek", &error))?;
                count.runs += 1 + runs.len() as u64;
                count.data += runs.iter().map(|run| run.end - run.start).sum::<u64>();
            }
        } else {
            count.data += inside;
        }
        count.at.0 += inside;
        Ok(Verdict::Partly(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VolumeId = VolumeId(1);

    #[test]
    fn a_volume_is_counted_once_at_a_time_and_again_when_that_is_a_while_ago() {
        let mut occupied = Occupied::default();
        assert_eq!((occupied.look(A), occupied.next()), (None, Some(A)));
        assert_eq!(
            (occupied.look(A), occupied.next()),
            (None, None),
            "is being counted"
        );
        assert!(occupied.counted(A, 5, Duration::ZERO, 1));
        occupied.counting.remove(&A);
        assert_eq!(occupied.next(), Some(A), "asked for meanwhile");
        assert!(!occupied.counted(A, 5, Duration::from_secs(3600), 1));
        occupied.counting.remove(&A);
        assert_eq!((occupied.look(A), occupied.next()), (Some(5), None), "fresh");
        occupied.forget(A);
        assert_eq!(occupied.look(A), None);
    }

    #[test]
    fn so_many_are_counted_at_once_and_no_more() {
        let mut occupied = Occupied::default();
        for volume in 0..100 {
            occupied.look(VolumeId(volume));
        }
        let begun: Vec<_> = std::iter::from_fn(|| occupied.next()).collect();
        assert_eq!(begun.len(), AT_ONCE);
        occupied.counting.remove(&begun[0]);
        assert_eq!(occupied.next(), Some(VolumeId(AT_ONCE as u64)));
    }
}
