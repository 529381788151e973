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
//! Where not all up to `g` can be hardened, it is enough that no change that is left has to do with the volume: then its homes by h are those by g.
//!
//! The set of disks and `g` have to be of the same face: of two faces, a change between them could move r to a home that is flushed but not hardened.
//!
//! A flush touches no bytes, so no hold delays it. It is inside the gate all the same: a rejoin waits for it, so it is acknowledged in
//! the life, and by the table, that it began with.

use super::figures::Kind;
use super::io::micros;
use super::way::{Ready, Verdict};
use super::{Apparatus, Failure, Tools, lock};
use crate::error::Result;
use crate::member::DiskMarks;
use crate::units::{DiskId, Generation, VolumeId};
use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::Instant;

impl Apparatus {
    pub(super) fn flush<'d>(&self, tools: &mut Tools, volume: VolumeId) -> Result<Verdict<'d>, Failure> {
        self.make_durable(tools, volume)?;
        Ok(Verdict::Ready(Ready::Done(0)))
    }

    fn make_durable(&self, tools: &mut Tools, volume: VolumeId) -> Result<(), Failure> {
        tools.pieces.clear();
        let taken = self.table.disks_of(&mut tools.reader, volume, &mut tools.found);
        let generation = taken.map_err(|_| Failure::NoVolume)?;
        for i in 0..tools.found.len() {
            self.flush_disk(tools, volume, tools.found[i])?;
        }
        self.see_hardened(volume, generation).map_err(|error| {
            self.report.harden_failed(&error.to_string());
            Failure::NotHardened
        })
    }

    fn flush_disk(&self, tools: &mut Tools, volume: VolumeId, id: DiskId) -> Result<(), Failure> {
        let disk = self.open_disk(&self.disks.view(), id)?.clone();
        let marks = self.marks(tools, id);
        let began = Instant::now();
        let flushed = disk.flush(marks);
        let news = self.losses.are_news(volume, id, marks.failures_here());
        let counters = tools.tally.disk(id);
        let told = match (flushed, news) {
            (Ok(()), true) => Err(io::Error::other("something written before was lost")),
            (flushed, _) => flushed,
        };
        match told {
            Ok(()) => {
                counters.finished(Kind::Flush, 0, micros(began.elapsed()));
                Ok(())
            }
            Err(error) => {
                counters.failed();
                Err(self.disk_failed(&disk, "flush", &error))
            }
        }
    }

    fn see_hardened(&self, volume: VolumeId, generation: Generation) -> Result<()> {
        if generation <= self.members.hardened() {
            return Ok(());
        }
        self.harden.harden(volume, generation)
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

/// How many failures of a disk each volume's hosts have been told of. The kernel tells whoever flushes first; the hosts of other volumes
/// there, and those of other apparatuses, have lost as much, and the next flush of each says so.
#[derive(Default)]
pub(super) struct Losses {
    told: Mutex<HashMap<(VolumeId, DiskId), u64>>,
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
}
