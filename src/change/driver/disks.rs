//! The disks of a controller: asked all at once when it begins, waited for only where a change needs them, and labelled.
//!
//! A disk that hangs costs a change that has nothing to do with it one short wait, however many hang; a change that needs it is refused
//! by its name after a longer one.

use super::Controller;
use crate::change::harden::disks_at_risk;
use crate::disk::label::Label;
use crate::disk::{Disk, Pending};
use crate::error::{Error, Kind, Result};
use crate::pool::model::{DiskRecord, PoolHeader};
use crate::store::Severity;
use crate::units::DiskId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long disks are waited for of which nobody knows yet whether they are needed.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A disk that slept has answered after so long.
const SPIN_UP: Duration = Duration::from_secs(15);
/// How long labels are waited for; one that is not written is written by a later controller.
const LABELS: Duration = Duration::from_secs(1);

impl Controller {
    /// Opens the disks that answer at once, and gives their labels the layout number where they are behind.
    pub(super) fn open_at_once(&mut self) -> Result<()> {
        let header = self.store.header()?;
        let records = self.store.disks()?;
        self.begin_opening(&records, &header);
        let until = Instant::now() + AT_ONCE;
        let mut open = Vec::new();
        for record in &records {
            match self.take_opening(record.id, until, AT_ONCE) {
                Some(Ok(disk)) => open.push(self.opened(record, disk, header.layout)?),
                Some(Err(why)) => log::warn!("{why}"),
                None => {}
            }
        }
        self.label(open, header.layout);
        Ok(())
    }

    /// Opens these disks, those of them that are not, and waits for them.
    ///
    /// # Errors
    /// Names the disk that cannot be opened, or has not answered in time.
    pub(super) fn open(&mut self, records: &[DiskRecord]) -> Result<()> {
        let missing = |record: &&DiskRecord| !self.disks.has(record);
        let missing: Vec<DiskRecord> = records.iter().filter(missing).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let header = self.store.header()?;
        self.begin_opening(&missing, &header);
        let until = Instant::now() + SPIN_UP;
        for record in &missing {
            self.open_one(record, &header, until)?;
        }
        Ok(())
    }

    fn open_one(&mut self, record: &DiskRecord, header: &PoolHeader, until: Instant) -> Result<()> {
        match self.take_opening(record.id, until, SPIN_UP) {
            Some(disk) => self.opened(record, disk?, header.layout)?,
            None => return Err(no_answer(record)),
        };
        if self.disks.has(record) {
            return Ok(());
        }
        // It was asked for by an older record: of another size, or at another path.
        let left = until.saturating_duration_since(Instant::now());
        let disk = Disk::open_within(left, record, header)?;
        self.opened(record, disk, header.layout).map(drop)
    }

    /// Opens these disks by their numbers.
    ///
    /// # Errors
    /// Names the disk that cannot be opened, or has not answered in time.
    pub fn open_disks(&mut self, ids: impl IntoIterator<Item = DiskId>) -> Result<()> {
        let ids: Vec<DiskId> = ids
            .into_iter()
            .filter(|id| self.disks.get(*id).is_none())
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut records = self.store.disks()?;
        records.retain(|record| ids.contains(&record.id));
        self.open(&records)
    }

    /// What has to be flushed before anything is durable. A disk that cannot be opened is told of by who flushes.
    pub(super) fn open_what_is_at_risk(&mut self) -> Result<()> {
        let at_risk = disks_at_risk(&mut *self.store)?;
        match self.open_disks(at_risk) {
            Err(why) if why.kind() == Kind::TimedOut => Err(why),
            _ => Ok(()),
        }
    }

    fn begin_opening(&mut self, records: &[DiskRecord], header: &PoolHeader) {
        for record in records {
            let opening = self.opening.get(&record.id);
            if opening.is_none_or(|opening| opening.path() != record.path) {
                self.opening
                    .insert(record.id, Disk::begin_opening(record, header));
            }
        }
    }

    /// What came of an opening; `None` while the disk has not answered.
    fn take_opening(&mut self, id: DiskId, until: Instant, patience: Duration) -> Option<Result<Disk>> {
        let opened = self.opening.get_mut(&id)?.wait(until, patience);
        if matches!(&opened, Err(why) if why.kind() == Kind::TimedOut) {
            return None;
        }
        self.opening.remove(&id);
        Some(opened)
    }

    /// A label with a layout ahead of the database's tells that the database is old. One with a sequence number ahead of the record was written, and a
    /// crash or the end of somebody's patience came before it was recorded.
    fn opened(&mut self, record: &DiskRecord, disk: Disk, layout: u64) -> Result<Arc<Disk>> {
        disk.check_layout(layout)?;
        let sequence = disk.label().sequence;
        if sequence > record.label {
            self.store.label_written(record.id, sequence)?;
        }
        let disk = Arc::new(disk);
        self.disks.insert(disk.clone());
        Ok(disk)
    }

    /// Writes the layout number to the labels that are behind, all at once, and records what was written. One that takes long is left to whoever comes
    /// next: if it is written late, it is ahead of its record, which is accepted.
    pub(super) fn label(&mut self, disks: Vec<Arc<Disk>>, layout: u64) {
        let behind: Vec<Arc<Disk>> = disks.into_iter().filter(|disk| is_behind(disk, layout)).collect();
        let begin = |disk: &Arc<Disk>| (disk.clone(), self.begin_label(disk, layout));
        let mut asked: Vec<_> = behind.iter().map(begin).collect();
        let until = Instant::now() + LABELS;
        for (disk, writing) in &mut asked {
            let written = writing.wait(until, LABELS);
            match written.and_then(|label| self.store.label_written(disk.id(), label.sequence)) {
                Ok(()) => {}
                Err(why) if why.kind() == Kind::TimedOut => log::info!("{why}: its label is written later"),
                Err(why) => {
                    let subject = format!("disk {}", disk.name());
                    let text = format!("label: {}", why.why());
                    self.notes.push((Severity::Warning, subject, text));
                }
            }
        }
    }

    fn begin_label(&self, disk: &Arc<Disk>, layout: u64) -> Pending<Label> {
        let (ledger, writes) = (self.members.marks(disk.id()), disk.clone());
        Pending::begin(format!("disk {}", disk.name()), disk.path(), move || {
            writes.set_layout(layout, &ledger)
        })
    }
}

fn is_behind(disk: &Disk, layout: u64) -> bool {
    let label = disk.label();
    let current = label.layout >= layout && label.instance == disk.instance();
    !current && !disk.is_read_only()
}

fn no_answer(record: &DiskRecord) -> Error {
    let what = format!("disk {} ({})", record.name, record.path.display());
    Error::new(Kind::TimedOut, what, "does not answer")
        .hint("see whether it is connected, and what the kernel tells: dmesg --level err,warn")
}
