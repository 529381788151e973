//! Allocated bytes of a volume for `stat` (`st_blocks`): workers count them in the background, and `stat` is answered from memory.
//!
//! `stat` never waits. It gets the result of the last count, and starts another one if that is old; a count of a volume that nobody has written
//! since ages slowly, so that a listing of many volumes does not count all of them each time. A volume that has not been counted yet
//! reports one sector less than its size, so that programs that preserve holes look for some, and the kernel keeps that answer only briefly.
//! The kernel gets a notice when a later count differs. Where a volume has too many runs of data to visit, the rest counts as data.

use super::counting::Count;
use super::notices::{KernelNotice, Notices};
use super::times::ModifiedTimes;
use super::workers::Workers;
use super::{BoxedReply, Delivery, Failure, Operation, Request, Response, lock};
use crate::model::records::{SECTOR, VolumeRecord};
use crate::model::units::VolumeId;
use quanta::Instant;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Number of volumes that are counted at once. A hung disk blocks only the counts of volumes on it.
const AT_ONCE: usize = 4;
/// A count is fresh for this time, or for `REST` times as long as it took, or for `UNWRITTEN` if nobody has written the volume since.
const FRESH: Duration = Duration::from_secs(1);
const REST: u32 = 20;
const UNWRITTEN: Duration = Duration::from_secs(60);
/// Time of writing of no volume.
const NEVER: u64 = u64::MAX;
/// A volume is watched if `stat` has asked for it within this time.
const WATCHED: Duration = Duration::from_secs(60);

/// Results of counts, and volumes that are to be counted.
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
    /// Returns whether the count is fresh, for a volume that was last written at this time.
    fn is_fresh(&self, modified_us: u64) -> bool {
        let age = self.at.elapsed();
        age < FRESH.max(self.took * REST) || (age < UNWRITTEN && self.modified_us == modified_us)
    }
}

impl Occupied {
    /// Returns the result of the last count of a volume that was last written at this time. Requests another one if that is missing or old.
    fn look(&mut self, volume: VolumeId, modified_us: u64) -> Option<u64> {
        let Some(counted) = self.counted.get_mut(&volume) else {
            self.wanted.insert(volume);
            return None;
        };
        counted.asked = Instant::now();
        if !counted.is_fresh(modified_us) {
            self.wanted.insert(volume);
        }
        Some(counted.bytes)
    }

    /// Returns the watched volumes whose counts are not fresh if they were written since, with the times of writing that these counts reflect.
    fn watched(&self) -> Vec<(VolumeId, u64)> {
        let watched = |counted: &Counted| counted.asked.elapsed() < WATCHED && !counted.is_fresh(NEVER);
        let all = self.counted.iter().filter(|(_, counted)| watched(counted));
        all.map(|(&volume, counted)| (volume, counted.modified_us))
            .collect()
    }

    /// Takes the next volume to count, and marks it as being counted.
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

    /// Records a result. Returns whether it differs from the previous one, which the kernel may still cache. The answer that is given before
    /// the first count is cached for a moment only.
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
        before.is_some_and(|before| before.bytes != bytes)
    }

    /// Has the count age as that of a volume that was written since.
    fn outdate(&mut self, volume: VolumeId) {
        if let Some(counted) = self.counted.get_mut(&volume) {
            counted.modified_us = NEVER - 1;
        }
    }

    fn forget(&mut self, volume: VolumeId) {
        self.counted.remove(&volume);
        self.wanted.remove(&volume);
    }
}

/// Number of bytes of a volume that hold data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// The number of bytes.
    pub bytes: u64,
    /// Whether they have been counted; if not, a count has been requested.
    pub counted: bool,
}

/// Counts of all volumes, and the workers that make them.
pub(super) struct Occupancies {
    me: Weak<Self>,
    state: Mutex<Occupied>,
    workers: Arc<Workers>,
    times: Arc<ModifiedTimes>,
    notices: Arc<Notices>,
}

impl Occupancies {
    /// Makes it without a count.
    pub(super) fn new(workers: Arc<Workers>, times: Arc<ModifiedTimes>, notices: Arc<Notices>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            state: Mutex::default(),
            workers,
            times,
            notices,
        })
    }

    /// Returns how many bytes of the volume hold data, as far as is known. Never waits for a disk.
    pub(super) fn look(&self, volume: &VolumeRecord) -> Occupancy {
        let modified_us = self.times.modified_us(volume.id);
        let counted = lock(&self.state).look(volume.id, modified_us);
        self.count_next();
        let most = volume.size.0;
        Occupancy {
            bytes: counted.unwrap_or_else(|| most.saturating_sub(SECTOR)).min(most),
            counted: counted.is_some(),
        }
    }

    /// Has a volume counted again that was changed otherwise than by writing.
    pub(super) fn outdate(&self, volume: VolumeId) {
        lock(&self.state).outdate(volume);
    }

    /// Drops the count of a volume that was removed.
    pub(super) fn forget(&self, volume: VolumeId) {
        lock(&self.state).forget(volume);
    }

    /// Counts watched volumes again that have been written since their last count.
    pub(super) fn recount(&self) {
        let watched = lock(&self.state).watched();
        for (volume, counted_us) in watched {
            if self.times.modified_us(volume) != counted_us {
                lock(&self.state).wanted.insert(volume);
            }
        }
        (0..AT_ONCE).for_each(|_| self.count_next());
    }

    fn count_next(&self) {
        let next = lock(&self.state).next();
        let Some(volume) = next else { return };
        let me = self.me.clone();
        let reply = BoxedReply::new(move |answer| {
            if let Some(me) = me.upgrade() {
                lock(&me.state).counting.remove(&volume);
                if matches!(answer, Response::Done) {
                    me.count_next();
                }
            }
            Delivery::Taken
        });
        let count = Count::new(self.times.modified_us(volume));
        if let Err(refused) = self
            .workers
            .offer(Request::new(volume, Operation::Count(count), reply))
        {
            // The workers are busy; a later `stat` requests the count again.
            refused.refuse(Failure::Ending);
        }
    }

    /// Records the result of a count. The kernel gets a notice if it differs from the one before.
    pub(super) fn counted(&self, volume: VolumeId, count: &Count) {
        let differs = lock(&self.state).counted(volume, count.data(), count.took(), count.modified_us());
        if differs {
            self.notices.send(KernelNotice::Attributes(volume));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VolumeId = VolumeId(1);

    #[test]
    fn a_volume_is_counted_once_at_a_time_and_again_when_the_count_is_old() {
        let mut occupied = Occupied::default();
        assert_eq!((occupied.look(A, 1), occupied.next()), (None, Some(A)));
        assert_eq!(
            (occupied.look(A, 1), occupied.next()),
            (None, None),
            "it is being counted"
        );
        assert!(
            !occupied.counted(A, 5, Duration::ZERO, 1),
            "an earlier answer is not cached for long"
        );
        occupied.counting.remove(&A);
        assert_eq!(occupied.next(), Some(A), "asked for meanwhile");
        assert!(!occupied.counted(A, 5, Duration::ZERO, 1));
        assert!(occupied.counted(A, 6, Duration::ZERO, 1), "another number");
        assert!(occupied.counted(A, 5, Duration::from_secs(3600), 1));
        occupied.counting.remove(&A);
        assert_eq!((occupied.look(A, 1), occupied.next()), (Some(5), None), "fresh");
        occupied.forget(A);
        assert_eq!(occupied.look(A, 1), None);
    }

    #[test]
    fn the_count_of_a_volume_that_nobody_has_written_ages_slowly() {
        let mut occupied = Occupied::default();
        occupied.counted(A, 5, Duration::ZERO, 1);
        let age = |occupied: &mut Occupied, by| {
            let counted = occupied.counted.get_mut(&A).unwrap();
            counted.at = counted.at.checked_sub(by).unwrap();
        };
        age(&mut occupied, FRESH);
        assert_eq!((occupied.look(A, 1), occupied.next()), (Some(5), None));
        assert_eq!(occupied.watched(), [(A, 1)], "it may have been written");
        assert_eq!(
            (occupied.look(A, 2), occupied.next()),
            (Some(5), Some(A)),
            "written"
        );
        occupied.counting.remove(&A);
        occupied.outdate(A);
        assert_eq!(
            (occupied.look(A, 1), occupied.next()),
            (Some(5), Some(A)),
            "resized"
        );
        occupied.counting.remove(&A);
        occupied.counted(A, 5, Duration::ZERO, 1);
        age(&mut occupied, UNWRITTEN);
        assert_eq!((occupied.look(A, 1), occupied.next()), (Some(5), Some(A)), "old");
    }

    #[test]
    fn a_bounded_number_of_volumes_is_counted_at_once() {
        let mut occupied = Occupied::default();
        for volume in 0..100 {
            occupied.look(VolumeId(volume), 0);
        }
        let begun: Vec<_> = std::iter::from_fn(|| occupied.next()).collect();
        assert_eq!(begun.len(), AT_ONCE);
        occupied.counting.remove(&begun[0]);
        assert_eq!(occupied.next(), Some(VolumeId(AT_ONCE as u64)));
    }
}
