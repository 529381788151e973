//! Discards freed extents: punches holes in images, sends discards to devices.
//!
//! This is done right before extents are freed, under the controller lock, while the quarantine still owns them:
//! they are neither read nor written any more, and cannot be allocated. It takes a bounded time: what is left
//! when the time is over is freed as it is. A disk that does not answer keeps its own extents in quarantine, for
//! as long as a thread (of any process) is discarding one of them; a lock for each disk shows that.

use super::Controller;
use super::space::kept;
use crate::blockdev::Disk;
use crate::held::may_wait;
use crate::model::areas::without;
use crate::model::error::Result;
use crate::model::event::Severity;
use crate::model::records::{Area, DiskRecord};
use crate::model::size::HumanSize;
use crate::model::units::{ByteCount, DiskId, DiskOffset, ExtentSize, Generation};
use crossbeam_channel::bounded;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes discarded in one call.
const STEP: u64 = 16 << 20;
/// Disks with this tag get no discards.
const OFF: &str = "no-discard";
/// An event is logged when this many bytes have been discarded, and then at twice, four times and so on.
const REPORT_EVERY: u64 = 64 << 20;
/// Time for all discards of one freeing.
const TIME: Duration = Duration::from_millis(500);
/// A call that takes longer than this beyond [`TIME`] is not waited for.
const GRACE: Duration = Duration::from_secs(1);

impl Controller {
    /// Discards what can be freed. Returns the disks of which nothing can be freed now.
    pub(super) fn discard(&mut self, oldest: Generation) -> Result<BTreeSet<DiskId>> {
        may_wait("discarding");
        let mut areas: BTreeMap<DiskId, Vec<Area>> = BTreeMap::new();
        for area in self.discardable(oldest)? {
            areas.entry(area.disk).or_default().push(area);
        }
        let size = self.store.header()?.extent_size;
        let until = Instant::now() + TIME;
        let mut busy = BTreeSet::new();
        let (report, reports) = bounded(areas.len());
        let off = self.disks_without_discard()?;
        for (id, areas) in areas {
            let Some(claim) = self.cluster.claim_discards(id)? else {
                busy.insert(id);
                continue;
            };
            let Some(disk) = self.disks.get(id).filter(|_| !off.contains(&id)) else {
                continue;
            };
            let report = report.clone();
            let work = move || {
                let bytes = discard_all(&disk, &areas, size, until);
                drop(claim);
                // The receiver may have gone.
                let _ = report.send((id, bytes));
            };
            let started = thread::Builder::new().name("discard".into()).spawn(work);
            match started {
                Ok(_) => _ = busy.insert(id),
                Err(error) => log::debug!("nothing is discarded: no thread could be started: {error}"),
            }
        }
        drop(report);
        while let Ok((id, bytes)) = reports.recv_deadline(until + GRACE) {
            busy.remove(&id);
            self.note_discarded(id, bytes);
        }
        for id in &busy {
            log::warn!("disk #{id} does not answer: what could be freed of it is kept until it does");
        }
        Ok(busy)
    }

    /// Returns what can be freed and no removed volume may need: its bytes stay until it is forgotten.
    fn discardable(&mut self, oldest: Generation) -> Result<Vec<Area>> {
        let freeable = self.store.freeable(oldest)?;
        if freeable.is_empty() {
            return Ok(freeable);
        }
        let kept = kept(&mut *self.store)?.into_iter().flatten();
        Ok(without(freeable, kept))
    }

    /// Returns the disks that the operator has excluded from discards.
    fn disks_without_discard(&mut self) -> Result<BTreeSet<DiskId>> {
        let disks = self.store.disks()?;
        let is_off = |disk: &&DiskRecord| disk.tags.iter().any(|tag| tag.as_str() == OFF);
        Ok(disks.iter().filter(is_off).map(|disk| disk.id).collect())
    }

    fn note_discarded(&mut self, id: DiskId, bytes: u64) {
        let count = self.discarded.entry(id).or_default();
        if let Some(untold) = count.add(bytes)
            && let Some(disk) = self.disks.get(id)
        {
            let text = format!("{} of freed space discarded", HumanSize(ByteCount(untold)));
            self.notes
                .push((Severity::Info, format!("disk {}", disk.name()), text));
        }
    }
}

/// Bytes discarded on a disk by one controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DiscardCount {
    all: u64,
    /// Those that an event has reported.
    reported: u64,
}

impl DiscardCount {
    /// Counts bytes. When an event is due, returns how many were discarded since the last one, so that the events of a disk add up.
    fn add(&mut self, bytes: u64) -> Option<u64> {
        let steps = |bytes: u64| (bytes / REPORT_EVERY).checked_ilog2();
        let before = steps(self.all);
        self.all += bytes;
        (steps(self.all) > before).then(|| self.all - std::mem::replace(&mut self.reported, self.all))
    }
}

/// Discards areas until the time is over or the disk reports that it cannot discard. Returns how many bytes were discarded.
fn discard_all(disk: &Arc<Disk>, areas: &[Area], size: ExtentSize, until: Instant) -> u64 {
    let mut done = 0;
    for area in areas {
        let Some(start) = size.disk_offset(area.start) else {
            return done;
        };
        let end = start.0.saturating_add(area.len.saturating_mul(size.bytes()));
        let mut at = start.0;
        while at < end {
            let len = STEP.min(end - at);
            match disk.discard(DiskOffset(at), len) {
                Ok(true) => (at, done) = (at + len, done + len),
                Ok(false) => return done,
                Err(error) => {
                    log::warn!("disk {}: discarding: {error}", disk.name());
                    return done;
                }
            }
            if Instant::now() >= until {
                return done;
            }
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_tells_what_was_discarded_since_the_one_before() {
        const MIB: u64 = 1 << 20;
        let mut count = DiscardCount::default();
        let reported: Vec<_> = (0..8).filter_map(|_| count.add(40 * MIB)).collect();
        assert_eq!(reported, [80 * MIB, 80 * MIB, 120 * MIB]);
        assert_eq!(count.add(MIB), None);
        assert_eq!(count.add(1 << 30), Some((1 << 30) + 41 * MIB));
    }
}
