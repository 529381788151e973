//! Tells disks that they need not keep what freed extents held: holes in images, discards on devices.
//!
//! It happens right before extents are freed, under the arbitration, while the quarantine still owns them: nobody reads or writes them any
//! more, and nobody can be given them. It ends in time: what is left when the time is over is freed as it is. A disk that does not answer keeps its own
//! extents in quarantine, for as long as a thread (of whatever process) is at one of them: that is what a lock for each disk tells.

use super::Controller;
use crate::disk::Disk;
use crate::error::Result;
use crate::held::may_wait;
use crate::member::DiscardLock;
use crate::pool::model::{Area, DiskRecord};
use crate::pool::size::Human;
use crate::store::Severity;
use crate::units::{ByteCount, DiskId, DiskOffset, ExtentSize, Generation};
use crossbeam_channel::bounded;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Discarded in one call.
const STEP: u64 = 16 << 20;
/// Disks with this tag are told nothing.
const OFF: &str = "no-discard";
/// The operator is told when so many bytes have been discarded, and then at twice, four times and so on.
const WORTH_TELLING: u64 = 64 << 20;
/// For all of it, each time that something is freed.
const TIME: Duration = Duration::from_millis(500);
/// A call that takes longer beyond that is not waited for.
const GRACE: Duration = Duration::from_secs(1);

impl Controller {
    /// Discards what can be freed. Answers the disks of which nothing can be freed now.
    pub(super) fn discard(&mut self, oldest: Generation) -> Result<BTreeSet<DiskId>> {
        may_wait("discarding");
        let mut areas: BTreeMap<DiskId, Vec<Area>> = BTreeMap::new();
        for area in self.store.freeable(oldest)? {
            areas.entry(area.disk).or_default().push(area);
        }
        let size = self.store.header()?.extent_size;
        let until = Instant::now() + TIME;
        let mut busy = BTreeSet::new();
        let (tell, told) = bounded(areas.len());
        let off = self.not_wanted()?;
        for (id, areas) in areas {
            let Some(lock) = DiscardLock::take(&self.pool, id)? else {
                busy.insert(id);
                continue;
            };
            let Some(disk) = self.disks.get(id).filter(|_| !off.contains(&id)) else {
                continue;
            };
            let tell = tell.clone();
            let work = move || {
                let bytes = discard_all(&disk, &areas, size, until);
                drop(lock);
                // Nobody may wait for it any more.
                let _ = tell.send((id, bytes));
            };
            let started = thread::Builder::new().name("discard".into()).spawn(work);
            match started {
                Ok(_) => _ = busy.insert(id),
                Err(error) => log::debug!("nothing is discarded: {error}"),
            }
        }
        drop(tell);
        while let Ok((id, bytes)) = told.recv_deadline(until + GRACE) {
            busy.remove(&id);
            self.note_discarded(id, bytes);
        }
        for id in &busy {
            log::warn!("disk #{id} does not answer: what could be freed of it is kept until it does");
        }
        Ok(busy)
    }

    /// The disks whose operator does not want it.
    fn not_wanted(&mut self) -> Result<BTreeSet<DiskId>> {
        let disks = self.store.disks()?;
        let is_off = |disk: &&DiskRecord| disk.tags.iter().any(|tag| tag.as_str() == OFF);
        Ok(disks.iter().filter(is_off).map(|disk| disk.id).collect())
    }

    fn note_discarded(&mut self, id: DiskId, bytes: u64) {
        let all = self.discarded.entry(id).or_default();
        let before = *all;
        *all += bytes;
        let steps = |bytes: u64| (bytes / WORTH_TELLING).checked_ilog2();
        if steps(*all) > steps(before)
            && let Some(disk) = self.disks.get(id)
        {
            let text = format!("{} of freed space discarded", Human(ByteCount(*all)));
            self.notes
                .push((Severity::Info, format!("disk {}", disk.name()), text));
        }
    }
}

/// As much of it as there is time for; until the disk says that it cannot. Answers how many bytes.
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
