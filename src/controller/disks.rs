//! The disks of a controller: opening begins for all of them at once, is waited for only where a change needs a disk, and is followed by
//! labelling.
//!
//! A disk that hangs costs an unrelated change one short wait, however many disks hang; a change that needs it is refused
//! by its name after a longer wait.

use super::Controller;
use crate::blockdev::Disk;
use crate::controller::persist::disks_at_risk;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::Severity;
use crate::model::records::{DiskRecord, PoolHeader};
use crate::model::units::DiskId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A disk that was spun down has answered by then.
const SPIN_UP: Duration = Duration::from_secs(15);
/// How long label writes are waited for; a label that is not written then is written by a later controller.
const LABELS: Duration = Duration::from_secs(1);

impl Controller {
    /// Opens the disks that answer within `patience`, and writes the layout number to labels that are behind.
    pub(super) fn open_responsive_disks(&mut self, patience: Duration) -> Result<()> {
        let header = self.store.header()?;
        let records = self.store.disks()?;
        self.begin_opening(&records, &header);
        let until = self.environment.now() + patience;
        let mut open = Vec::new();
        for record in &records {
            match self.take_opening(record.id, until, patience) {
                Some(Ok(disk)) => open.push(self.opened(record, disk, header.layout)?),
                Some(Err(why)) => log::warn!("{why}"),
                None => {}
            }
        }
        // A label shall not know of more than the copies cover.
        self.bring_up_copies()?;
        self.label(open, header.layout);
        Ok(())
    }

    /// Opens those of these disks that are not open, and waits for them.
    ///
    /// # Errors
    /// Fails with the name of the disk that cannot be opened, or has not answered in time.
    pub(super) fn open(&mut self, records: &[DiskRecord]) -> Result<()> {
        let missing = |record: &&DiskRecord| !self.disks.has(record);
        let missing: Vec<DiskRecord> = records.iter().filter(missing).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let header = self.store.header()?;
        self.begin_opening(&missing, &header);
        let until = self.environment.now() + SPIN_UP;
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
        // It was opened by an older record: with another size, or at another path.
        let disk = self
            .environment
            .begin_opening(record, header)
            .wait(until, SPIN_UP)?;
        self.opened(record, disk, header.layout).map(drop)
    }

    /// Opens these disks by their numbers.
    ///
    /// # Errors
    /// Fails with the name of the disk that cannot be opened, or has not answered in time.
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

    /// Opens the disks that have to be flushed before anything is persisted. A disk that cannot be opened is reported by the flush.
    pub(super) fn open_disks_at_risk(&mut self) -> Result<()> {
        let at_risk = disks_at_risk(&mut *self.store)?;
        match self.open_disks(at_risk) {
            Err(why) if why.kind() == ErrorKind::TimedOut => Err(why),
            _ => Ok(()),
        }
    }

    fn begin_opening(&mut self, records: &[DiskRecord], header: &PoolHeader) {
        for record in records {
            let opening = self.opening.get(&record.id);
            if opening.is_none_or(|opening| opening.path() != record.path) {
                let begun = self.environment.begin_opening(record, header);
                self.opening.insert(record.id, begun);
            }
        }
    }

    /// Takes the result of an opening; `None` while the disk has not answered.
    fn take_opening(&mut self, id: DiskId, until: Instant, patience: Duration) -> Option<Result<Disk>> {
        let opened = self.opening.get_mut(&id)?.wait(until, patience);
        if matches!(&opened, Err(why) if why.kind() == ErrorKind::TimedOut) {
            return None;
        }
        self.opening.remove(&id);
        Some(opened)
    }

    /// Adds an opened disk. A label with a layout ahead of the database's shows that the database is old. A label with
    /// a sequence number ahead of the record was written, but a crash or a timeout came before that was recorded.
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

    /// Writes the layout number to the labels that are behind, all at once, and records what was written. A label that
    /// takes long is left to the next controller: if it is written late, it is ahead of its record, which is accepted.
    pub(super) fn label(&mut self, disks: Vec<Arc<Disk>>, layout: u64) {
        let behind: Vec<Arc<Disk>> = disks.into_iter().filter(|disk| is_behind(disk, layout)).collect();
        let begin = |disk: &Arc<Disk>| {
            let ledger = self.ledgers.ledger(disk.id());
            (disk.clone(), self.environment.begin_label(disk, layout, ledger))
        };
        let mut asked: Vec<_> = behind.iter().map(begin).collect();
        let until = self.environment.now() + LABELS;
        for (disk, writing) in &mut asked {
            let written = writing.wait(until, LABELS);
            match written.and_then(|label| self.store.label_written(disk.id(), label.sequence)) {
                Ok(()) => {}
                Err(why) if why.kind() == ErrorKind::TimedOut => {
                    log::info!("{why}: its label will be written later")
                }
                Err(why) => {
                    let subject = format!("disk {}", disk.name());
                    let text = format!("label: {}", why.why());
                    self.notes.push((Severity::Warning, subject, text));
                }
            }
        }
    }
}

fn is_behind(disk: &Disk, layout: u64) -> bool {
    let label = disk.label();
    let current = label.layout >= layout && label.instance == disk.instance();
    !current && !disk.is_read_only()
}

fn no_answer(record: &DiskRecord) -> Error {
    let what = format!("disk {} ({})", record.name, record.path.display());
    Error::new(ErrorKind::TimedOut, what, "does not answer")
        .hint("see whether it is connected, and what the kernel reports: dmesg --level err,warn")
}
