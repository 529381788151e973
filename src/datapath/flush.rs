//! Flushes: writes that were acknowledged before a flush began survive power loss once the flush is acknowledged.
//!
//! A flush takes one version, flushes the disks that this version names for the volume, and then makes sure that its generation `g` is
//! persisted. The argument why that is enough: let W be a write to a range r, acknowledged by any apparatus before the flush began, and let h
//! be the table that a power loss now would leave, which is the last persisted one. It has to be shown that W is durable in r's placement by
//! h. Changes are persisted in order, so h >= g.
//!
//! - Suppose a change c in (g, h] moved r. W is older than the version taken, and c is not applied in that version, so W was written before
//!   c's hold, and c copied it. Persisting c flushed the new placement after that copy. So W is durable.
//! - Suppose no change in (g, h] moved r. Then r's placement by h is its placement by g, on a disk that this flush has flushed after W was
//!   acknowledged. If W was written there, it is durable. If W was written to an earlier placement, a change at or before g copied it here
//!   before it was committed, so before this flush, and W is durable too.
//! - W cannot have been written to a placement later than g's: writes to that are released only when every apparatus in the control range has
//!   applied the change, this one included, and W was acknowledged before the version was taken. Otherwise this apparatus is fenced, and
//!   acknowledges nothing.
//!
//! Not all changes up to `g` have to be persisted, only those of the volume: then its placements by h are those by g. They are persisted
//! together with all changes before them, and with no later ones that need another disk, so no flush waits for a disk that only a later change
//! of another volume needs. The apparatus knows itself which generation that is at most (`datapath/unpersisted.rs`); where it is persisted
//! already, the flush does not ask the store.
//!
//! One kind of change moves a range without a copy: one that returns it to a kept placement (`admin/revert.rs`). It breaks the first case above,
//! so it records a failure in the ledger of the disk before its commit, and a flush reads the ledgers last of all.
//!
//! A flush whose changes cannot be recorded now, because the store is busy or full, waits without a thread and is retried.
//!
//! The set of disks and `g` have to be of the same version: a change between two versions could move r to a placement that is flushed but not
//! persisted.
//!
//! A flush touches no bytes, so no hold delays it. It runs inside the gate all the same, so that a rejoin waits for it: it is acknowledged in
//! the incarnation, and by the table, that it began with.

use super::context::Scratch;
use super::io::{micros, open_disk, report_failure};
use super::lookup::Lookup;
use super::losses::Losses;
use super::metrics::RequestKind;
use super::submit::{Completion, Outcome};
use super::unpersisted::Unpersisted;
use super::{Failure, Persist, PersistState, Report, lock};
use crate::blockdev::{Disk, Disks};
use crate::cluster::{FlushLedgers, OwnEntry};
use crate::map::Table;
use crate::model::records::{Delta, Edit, Segment};
use crate::model::units::{DiskId, Generation, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Carries out flushes, and knows what they depend on.
pub(super) struct FlushPath {
    table: Arc<Table>,
    lookup: Arc<Lookup>,
    disks: Arc<Disks>,
    ledgers: Arc<dyn FlushLedgers>,
    entry: Arc<dyn OwnEntry>,
    persist: Arc<dyn Persist>,
    report: Arc<dyn Report>,
    losses: Losses,
    unpersisted: Mutex<Unpersisted>,
    flushing: Flushing,
}

impl FlushPath {
    /// Makes it for this table, which was loaded whole, and these disks.
    pub(super) fn new(
        (table, lookup): (Arc<Table>, Arc<Lookup>),
        (disks, ledgers): (Arc<Disks>, Arc<dyn FlushLedgers>),
        entry: Arc<dyn OwnEntry>,
        persist: Arc<dyn Persist>,
        report: Arc<dyn Report>,
    ) -> Self {
        Self {
            unpersisted: Mutex::new(Unpersisted::new(table.generation())),
            table,
            lookup,
            disks,
            ledgers,
            entry,
            persist,
            report,
            losses: Losses::default(),
            flushing: Flushing::default(),
        }
    }

    /// Carries out a flush of a volume.
    pub(super) fn flush<'d>(&self, scratch: &mut Scratch, volume: VolumeId) -> Result<Outcome<'d>, Failure> {
        scratch.pieces.clear();
        let taken = self
            .table
            .disks_of(&mut scratch.reader, volume, &mut scratch.found);
        let generation = taken.map_err(|_| Failure::NoVolume)?;
        for i in 0..scratch.found.len() {
            self.flush_disk(scratch, volume, scratch.found[i])?;
        }
        if let PersistState::Later(completions) = self.ensure_persisted(volume, generation)? {
            return Ok(Outcome::FlushLater(completions));
        }
        // The ledgers are read once more: reverting a placement records a failure there first (`admin/revert.rs`).
        for i in 0..scratch.found.len() {
            let id = scratch.found[i];
            if scratch.ledgers.of(id).failures_here() > 0 {
                let disk = open_disk(&self.disks.view(), id)?.clone();
                self.report_losses(scratch, volume, &disk, Ok(()))?;
            }
        }
        if self.losses.take_pending(volume) {
            log::warn!(
                "volume {volume}: a flush fails, because data that hosts wrote was lost or taken back"
            );
            return Err(Failure::Disk);
        }
        Ok(Outcome::Completion(Completion::Done(0)))
    }

    fn flush_disk(&self, scratch: &mut Scratch, volume: VolumeId, id: DiskId) -> Result<(), Failure> {
        let disk = open_disk(&self.disks.view(), id)?.clone();
        let began = Instant::now();
        let flushing = self.flushing.begin(id);
        let flushed = disk.flush(scratch.ledgers.of(id));
        drop(flushing);
        self.report_losses(scratch, volume, &disk, flushed)?;
        let counters = scratch.thread_metrics.disk(id);
        counters.finished(RequestKind::Flush, 0, micros(began.elapsed()));
        Ok(())
    }

    /// Returns the result of flushing a disk, and fails where a write-back failure on that disk has not been reported to the volume's hosts yet.
    fn report_losses(
        &self,
        scratch: &mut Scratch,
        volume: VolumeId,
        disk: &Arc<Disk>,
        flushed: io::Result<()>,
    ) -> Result<(), Failure> {
        let failures = scratch.ledgers.of(disk.id()).failures_here();
        let unreported = self.losses.has_unreported(volume, disk.id(), failures);
        let outcome = match (flushed, unreported) {
            (Ok(()), true) => Err(io::Error::other("data that was written earlier was lost")),
            (flushed, _) => flushed,
        };
        outcome.map_err(|error| {
            scratch.thread_metrics.disk(disk.id()).failed();
            report_failure(&*self.report, disk, "flush", &error)
        })
    }

    fn ensure_persisted(&self, volume: VolumeId, generation: Generation) -> Result<PersistState, Failure> {
        let needed = lock(&self.unpersisted).needed(volume, generation);
        if needed <= self.ledgers.persisted() {
            return Ok(PersistState::Done);
        }
        self.persist.persist(volume, needed).map_err(|error| {
            self.report.persist_failed(&error.to_string());
            Failure::NotPersisted
        })
    }

    /// Records what flushes will depend on by the table that this delta leads to. Called before the table changes.
    pub(super) fn before_delta(&self, delta: &Delta) {
        lock(&self.unpersisted).note(delta, self.ledgers.persisted());
        for edit in &delta.edits {
            if let Edit::Map { volume, segments } = edit {
                self.note_pending_losses(*volume);
                self.set_loss_baseline(*volume, segments);
            }
        }
    }

    /// Records that the table of this generation is loaded whole. Called before it takes the place of the present one. Returns the disks of
    /// each volume by the present one, for [`FlushPath::after_reload`].
    pub(super) fn before_reload(&self, generation: Generation) -> BTreeMap<VolumeId, Vec<DiskId>> {
        let before = self.lookup.disks_by_volume();
        before.keys().for_each(|volume| self.note_pending_losses(*volume));
        *lock(&self.unpersisted) = Unpersisted::new(generation);
        before
    }

    /// Ignores failures that are known to be older than a volume's first extent on a disk, for the volumes that a new table has brought to disks.
    /// `before` has the disks by the table that was replaced.
    pub(super) fn after_reload(&self, before: &BTreeMap<VolumeId, Vec<DiskId>>) {
        for (volume, disks) in self.lookup.disks_by_volume() {
            let known = before.get(&volume).map_or(&[][..], Vec::as_slice);
            for disk in disks.into_iter().filter(|disk| !known.contains(disk)) {
                self.losses.set_baseline_before_fence(volume, disk);
            }
        }
    }

    /// Records the disks' failures of a moment at which this apparatus was not fenced. It had every committed table at that moment, or was about to
    /// apply it, so a volume that comes to a disk by a table that this apparatus loads after a fence has lost nothing by these failures.
    pub(super) fn sample_failures(&self) {
        let disks = self.disks.all().into_iter();
        let counts = disks.map(|disk| (disk.id(), self.ledgers.ledger(disk.id()).failures_here()));
        let failed = counts.filter(|(_, failures)| *failures > 0).collect();
        // The word is read after the counts: once it is set, volumes may come to disks unseen.
        if !self.entry.is_fenced() {
            self.losses.set_before_fence(failed);
        }
    }

    /// Makes unreported failures on the volume's present disks pending for its hosts, before a table takes their place that may not show all
    /// that was written: the next flush of the volume reports them.
    fn note_pending_losses(&self, volume: VolumeId) {
        for disk in self.lookup.disks_of(volume) {
            let failures = self.ledgers.ledger(disk).failures_here();
            self.losses.note_pending(volume, disk, failures);
        }
    }

    /// Ignores past failures on disks that these segments bring to the volume: its hosts have lost nothing there. Called before the table changes.
    fn set_loss_baseline(&self, volume: VolumeId, segments: &[Segment]) {
        // A volume that does not exist yet lies on no disk.
        let known = self.lookup.disks_of(volume);
        let new: BTreeSet<DiskId> = segments.iter().map(|segment| segment.placement.disk).collect();
        for disk in new.into_iter().filter(|disk| !known.contains(disk)) {
            let failures = self.ledgers.ledger(disk).failures_here();
            self.losses.set_baseline(volume, disk, failures);
        }
    }

    /// Returns why the store cannot be used now, if it cannot: flushes that depend on changes wait for it.
    pub(super) fn trouble(&self) -> Option<String> {
        self.persist.trouble()
    }

    /// Returns the disks that a flush, of a host or to persist a change, has been using for at least `least`.
    pub(super) fn slow_disks(&self, least: Duration) -> BTreeSet<DiskId> {
        let all = self.flushing.ages().into_iter().chain(self.persist.flushing());
        all.filter(|(_, age)| *age >= least)
            .map(|(disk, _)| disk)
            .collect()
    }
}

/// Disks that flushes of hosts use now: since when without a break, and how many flushes.
#[derive(Default)]
struct Flushing(Mutex<BTreeMap<DiskId, (Instant, u64)>>);

impl Flushing {
    /// Counts a flush of a disk until the result is dropped.
    fn begin(&self, disk: DiskId) -> FlushingDisk<'_> {
        lock(&self.0).entry(disk).or_insert((Instant::now(), 0)).1 += 1;
        FlushingDisk { of: self, disk }
    }

    /// Returns each disk with the time for which it has been in use.
    fn ages(&self) -> Vec<(DiskId, Duration)> {
        let flushing = lock(&self.0);
        let age = |(disk, (since, _)): (&DiskId, &(Instant, u64))| (*disk, since.elapsed());
        flushing.iter().map(age).collect()
    }
}

/// Counts a flush of a disk while it runs.
struct FlushingDisk<'a> {
    of: &'a Flushing,
    disk: DiskId,
}

impl Drop for FlushingDisk<'_> {
    fn drop(&mut self) {
        let mut flushing = lock(&self.of.0);
        if let Some((_, count)) = flushing.get_mut(&self.disk) {
            *count -= 1;
            if *count == 0 {
                flushing.remove(&self.disk);
            }
        }
    }
}
