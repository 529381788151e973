//! Flushes: what was acknowledged before a flush began survives power loss once the flush is acknowledged.
//!
//! Why it is enough to take one face, flush the disks that it names for the volume, and then see that its generation `g` is hardened.
//! Let W be a write to a range r, acknowledged by whatever apparatus before the flush began, and let h be the table that a power loss
//! now would leave: the last hardened one. It has to be shown that W is durable in r's home by h. Changes are hardened in order, so h >= g.
//!
//! - Say a change c in (g, h] moved r. W is older than the face taken, and c is not applied here in that face, so W was written before c's hold and was
//!   copied by c; who hardened c flushed the new home after that copy. Durable.
//! - Say no change in (g, h] moved r: r's home by h is its home by g, which is on a disk that was flushed here after W was acknowledged. If W itself was written
//!   there, it is durable. If W was written to an earlier home, a change at or before g copied it here, before it was committed, so before this flush. Durable.
//! - W cannot have been written to a home later than g's: writes to it are released only when every apparatus in the control range has applied the
//!   change, this one included, and W was acknowledged before the face was taken. Or else this one is fenced, and acknowledges nothing.
//!
//! It is not needed that all up to `g` is hardened, only what has to do with the volume: then its homes by h are those by g. Its changes are hardened together with
//! all that come before them, and with no later ones that need another disk, so that no flush waits for a disk which only a later change of another
//! volume needs. Which generation that is at most, the apparatus knows itself (`data/rests.rs`): where that is hardened, the store is not asked.
//!
//! One kind of change moves a range and does not copy it: one that gives it back a kept place (`ops/revert.rs`). It breaks the first case above, so it notes a
//! failure in the ledger of the disk before its commit, and a flush looks at the ledgers last of all.
//!
//! A flush whose changes cannot be recorded now, because the store is in use or full, waits for that without a thread, and is tried again.
//!
//! The set of disks and `g` have to be of the same face: of two faces, a change between them could move r to a home that is flushed but not hardened.
//!
//! A flush touches no bytes, so no hold delays it. It is inside the gate all the same: a rejoin waits for it, so it is acknowledged in
//! the life, and by the table, that it began with.

use super::figures::Kind;
use super::io::micros;
use super::way::{After, Ready, Verdict};
use super::{Apparatus, Failure, Hardening, Owned, Tools, lock};
use crate::disk::Disk;
use crate::error::Result;
use crate::member::DiskMarks;
use crate::pool::model::Segment;
use crate::units::{DiskId, Generation, VolumeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

impl Apparatus {
    pub(super) fn flush<'d>(&self, tools: &mut Tools, volume: VolumeId) -> Result<Verdict<'d>, Failure> {
        tools.pieces.clear();
        let taken = self.table.disks_of(&mut tools.reader, volume, &mut tools.found);
        let generation = taken.map_err(|_| Failure::NoVolume)?;
        for i in 0..tools.found.len() {
            self.flush_disk(tools, volume, tools.found[i])?;
        }
        if let Hardening::Later(turn) = self.see_hardened(volume, generation)? {
            return Ok(Verdict::FlushLater(turn));
        }
        // Once more: what is taken back from a disk is noted as lost there first (`ops/revert.rs`).
        for i in 0..tools.found.len() {
            let id = tools.found[i];
            if self.marks(tools, id).failures_here() > 0 {
                let disk = self.open_disk(&self.disks.view(), id)?.clone();
                self.tell_losses(tools, volume, &disk, Ok(()))?;
            }
        }
        if self.losses.take_owed(volume) {
            log::warn!("volume {volume}: hosts are told that something they wrote was taken back");
            return Err(Failure::Disk);
        }
        Ok(Verdict::Ready(Ready::Done(0)))
    }

    fn flush_disk(&self, tools: &mut Tools, volume: VolumeId, id: DiskId) -> Result<(), Failure> {
        let disk = self.open_disk(&self.disks.view(), id)?.clone();
        let began = Instant::now();
        let flushing = self.flushing_of(id);
        let flushed = disk.flush(self.marks(tools, id));
        drop(flushing);
        self.tell_losses(tools, volume, &disk, flushed)?;
        let counters = tools.tally.disk(id);
        counters.finished(Kind::Flush, 0, micros(began.elapsed()));
        Ok(())
    }

    /// Passes on how a flush ended, and fails it where the volume's hosts have not been told yet of a failure on the disk.
    fn tell_losses(
        &self,
        tools: &mut Tools,
        volume: VolumeId,
        disk: &Arc<Disk>,
        flushed: io::Result<()>,
    ) -> Result<(), Failure> {
        let failures = self.marks(tools, disk.id()).failures_here();
        let news = self.losses.are_news(volume, disk.id(), failures);
        let told = match (flushed, news) {
            (Ok(()), true) => Err(io::Error::other("something written before was lost")),
            (flushed, _) => flushed,
        };
        told.map_err(|error| {
            tools.tally.disk(disk.id()).failed();
            self.disk_failed(disk, "flush", &error)
        })
    }

    fn see_hardened(&self, volume: VolumeId, generation: Generation) -> Result<Hardening, Failure> {
        let needed = lock(&self.rests).needed(volume, generation);
        if needed <= self.members.hardened() {
            return Ok(Hardening::Done);
        }
        self.harden.harden(volume, needed).map_err(|error| {
            self.report.harden_failed(&error.to_string());
            Failure::NotHardened
        })
    }

    /// Keeps a flush until there is reason to try again. Nothing waits for it, so it takes no thread.
    pub(super) fn flush_later(&self, request: Owned, turn: u64) -> After {
        let seen = self.keeper.moves();
        let mut waiting = lock(&self.flushes);
        if let Some(failure) = self.keeper.given_up() {
            drop(waiting);
            request.refuse(failure);
            return After::Nothing;
        }
        if self.harden.turns() != turn {
            return After::Again(request);
        }
        if waiting.len() < self.most_flushes {
            waiting.push(request);
            return After::Nothing;
        }
        drop(waiting);
        self.keeper.wait_for_room(seen);
        After::Again(request)
    }

    /// How many flushes wait so, and for how long the first of each volume.
    pub(super) fn waiting_flushes(&self) -> BTreeMap<VolumeId, (u64, Duration)> {
        let mut by_volume: BTreeMap<VolumeId, (u64, Duration)> = BTreeMap::new();
        for request in lock(&self.flushes).iter() {
            let (count, longest) = by_volume.entry(request.volume).or_default();
            *count += 1;
            *longest = request.since.elapsed().max(*longest);
        }
        by_volume
    }

    /// The volume's hosts get a table that does not show all they wrote, or may not: unless they have been told of what was lost on the
    /// disks that it lies on now, their next flush tells them.
    pub(super) fn owe_losses(&self, volume: VolumeId) {
        let mut disks = Vec::new();
        if self
            .table
            .disks_of(&mut lock(&self.eye), volume, &mut disks)
            .is_ok()
        {
            for disk in disks {
                self.losses
                    .owe(volume, disk, self.members.marks(disk).failures_here());
            }
        }
    }

    /// The volume comes to disks that it was not on: what those have lost before is nothing that its hosts wrote. Called before the table is changed.
    pub(super) fn arrive_after_losses(&self, volume: VolumeId, segments: &[Segment]) {
        let mut known = Vec::new();
        // A volume that is not there yet lies on no disk.
        let _ = self.table.disks_of(&mut lock(&self.eye), volume, &mut known);
        let new: BTreeSet<DiskId> = segments.iter().map(|segment| segment.home.disk).collect();
        for disk in new.into_iter().filter(|disk| !known.contains(disk)) {
            let failures = self.members.marks(disk).failures_here();
            self.losses.arrive(volume, disk, failures);
        }
    }

    fn flushing_of(&self, disk: DiskId) -> FlushingDisk<'_> {
        let mut flushing = lock(&self.flushing);
        flushing.entry(disk).or_insert((Instant::now(), 0)).1 += 1;
        FlushingDisk { of: self, disk }
    }

    /// The disks that have been flushed for so long and are not done: for hosts, and for changes.
    pub(super) fn slow_to_flush(&self, least: Duration) -> BTreeSet<DiskId> {
        let for_hosts = lock(&self.flushing).clone().into_iter();
        let for_hosts = for_hosts.map(|(disk, (since, _))| (disk, since.elapsed()));
        let all = for_hosts.chain(self.harden.flushing());
        all.filter(|(_, age)| *age >= least)
            .map(|(disk, _)| disk)
            .collect()
    }

    /// The disk's marks, which this thread keeps at hand.
    pub(super) fn marks<'t>(&self, tools: &'t mut Tools, id: DiskId) -> &'t DiskMarks {
        let found = tools.marks.iter().position(|marks| marks.0 == id);
        let at = found.unwrap_or_else(|| {
            tools.marks.push((id, self.members.marks(id)));
            tools.marks.len() - 1
        });
        &tools.marks[at].1
    }
}

/// Disks that hosts' flushes are at: since when that has been so without a break, and how many are.
pub(super) type Flushing = BTreeMap<DiskId, (Instant, u64)>;

/// A flush of a disk under way.
struct FlushingDisk<'a> {
    of: &'a Apparatus,
    disk: DiskId,
}

impl Drop for FlushingDisk<'_> {
    fn drop(&mut self) {
        let mut flushing = lock(&self.of.flushing);
        if let Some((_, count)) = flushing.get_mut(&self.disk) {
            *count -= 1;
            if *count == 0 {
                flushing.remove(&self.disk);
            }
        }
    }
}

/// How many failures of a disk each volume's hosts have been told of. The kernel tells whoever flushes first; the hosts of other volumes
/// there, and those of other apparatuses, have lost as much, and the next flush of each says so.
#[derive(Default)]
pub(super) struct Losses {
    told: Mutex<HashMap<(VolumeId, DiskId), u64>>,
    /// Volumes that have gone from such a disk before their hosts were told.
    owed: Mutex<BTreeSet<VolumeId>>,
}

impl Losses {
    /// Whether there are failures that the volume's hosts have not been told of; from now on they have.
    fn are_news(&self, volume: VolumeId, disk: DiskId, failures: u64) -> bool {
        if failures == 0 {
            return false;
        }
        let before = lock(&self.told).insert((volume, disk), failures);
        before.unwrap_or(0) < failures
    }

    /// The volume comes to the disk, which has had these failures before.
    fn arrive(&self, volume: VolumeId, disk: DiskId, failures: u64) {
        lock(&self.told).insert((volume, disk), failures);
    }

    /// The volume goes from the disk, maybe.
    fn owe(&self, volume: VolumeId, disk: DiskId, failures: u64) {
        if self.are_news(volume, disk, failures) {
            lock(&self.owed).insert(volume);
        }
    }

    /// Whether the volume's hosts are still to be told; from now on they have been.
    fn take_owed(&self, volume: VolumeId) -> bool {
        lock(&self.owed).remove(&volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_of_what_was_lost_since_their_volume_came_to_the_disk() {
        let losses = Losses::default();
        let (here, arrives, disk) = (VolumeId(1), VolumeId(2), DiskId(3));
        losses.arrive(arrives, disk, 2);
        assert!(losses.are_news(here, disk, 2), "it lay there all the time");
        assert!(!losses.are_news(here, disk, 2), "once");
        assert!(!losses.are_news(arrives, disk, 2), "lost before it came");
        assert!(losses.are_news(arrives, disk, 3));
        losses.owe(here, disk, 3);
        assert!(losses.take_owed(here) && !losses.take_owed(here));
    }
}
