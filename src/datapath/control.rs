//! [`Runtime`] for the data path: the operations of the control thread. None of them waits for a disk or runs a request.

use super::figures::Figures;
use super::flush::FlushPath;
use super::lookup::Lookup;
use super::metrics::MetricsRegistry;
use super::notices::{KernelNotice, Notices};
use super::occupied::Occupancies;
use super::open_files::OpenFiles;
use super::parking::Parking;
use super::space::PoolSpace;
use super::waiting_flushes::WaitingFlushes;
use crate::blockdev::Disks;
use crate::datapath::runtime::{Lag, Resumed, Runtime};
use crate::gate::Drain;
use crate::map::{Draft, Table};
use crate::model::change::HoldMode;
use crate::model::error::Result;
use crate::model::records::{Delta, DiskRecord, Edit, Span};
use crate::model::units::{ChangeId, DiskId, Generation, VolumeId};
use crate::rpc::message::{ApparatusMetrics, Opens};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The data path as the control thread uses it: parts that holds, new versions of the table and commands concern.
pub struct ControlPort {
    table: Arc<Table>,
    lookup: Arc<Lookup>,
    disks: Arc<Disks>,
    parking: Arc<Parking>,
    flush: Arc<FlushPath>,
    flushes: Arc<WaitingFlushes>,
    files: Arc<OpenFiles>,
    space: Arc<PoolSpace>,
    occupied: Arc<Occupancies>,
    notices: Arc<Notices>,
    metrics: Arc<MetricsRegistry>,
    figures: Figures,
    /// Asks the process to stop.
    stop: Box<dyn Fn() + Send + Sync>,
}

impl ControlPort {
    /// Makes it of the parts that name volumes and disks, that park or flush, that keep attributes of volumes, and that count; `stop` asks the
    /// process to stop.
    pub(super) fn new(
        (table, lookup, disks): (Arc<Table>, Arc<Lookup>, Arc<Disks>),
        (parking, flush, flushes): (Arc<Parking>, Arc<FlushPath>, Arc<WaitingFlushes>),
        (files, space, occupied): (Arc<OpenFiles>, Arc<PoolSpace>, Arc<Occupancies>),
        notices: Arc<Notices>,
        (metrics, figures): (Arc<MetricsRegistry>, Figures),
        stop: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            table,
            lookup,
            disks,
            parking,
            flush,
            flushes,
            files,
            space,
            occupied,
            notices,
            metrics,
            figures,
            stop,
        }
    }
}

impl Runtime for ControlPort {
    fn hold(&self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool {
        self.parking.hold(change, spans, mode)
    }

    fn note_writes(&self, change: ChangeId, spans: &[Span]) -> bool {
        self.parking.note(change, spans)
    }

    fn written(&self, change: ChangeId) -> Option<Vec<Span>> {
        self.parking.written(change)
    }

    fn end_note(&self, change: ChangeId) {
        self.parking.end_note(change);
    }

    fn lag(&self, change: ChangeId) -> Option<Lag> {
        match self.parking.drained(change) {
            Some(Drain::Done) => None,
            Some(Drain::Waiting {
                in_flight,
                oldest,
                age,
            }) => Some(Lag {
                in_flight,
                age,
                disk: self.disk_under(&oldest).unwrap_or_default(),
            }),
            // The gate was closed meanwhile, which ends all holds, so this one never drains.
            None => Some(Lag {
                in_flight: self.in_flight(),
                age: Duration::ZERO,
                disk: String::new(),
            }),
        }
    }

    fn release(&self, change: ChangeId) -> Resumed {
        self.parking.release(change)
    }

    fn apply(&self, delta: &Delta) -> Result<Generation> {
        let notices = self.notices_of(delta);
        self.flush.before_delta(delta);
        let generation = self.table.apply(delta)?;
        self.space.follow(delta);
        self.notices.send_all(notices);
        Ok(generation)
    }

    fn generation(&self) -> Generation {
        self.table.generation()
    }

    fn oldest(&self) -> Generation {
        self.parking.oldest(self.table.generation())
    }

    fn close(&self) {
        self.parking.close();
    }

    fn in_flight(&self) -> u64 {
        self.parking.in_flight()
    }

    fn reload(&self, table: Draft, disks: &[DiskRecord]) -> Result<()> {
        let before = self.flush.before_reload(table.generation());
        self.table.replace(table)?;
        self.flush.after_reload(&before);
        self.space.reload(disks);
        self.notices.send_all(vec![KernelNotice::Everything]);
        Ok(())
    }

    fn open(&self) {
        self.parking.open();
    }

    fn renewed(&self) {
        self.parking.resume_lapsed();
    }

    fn disks(&self) -> &Disks {
        &self.disks
    }

    fn note(&self) {
        // Counting the requests records their ages.
        let _ = self.parking.counts();
        self.flush.sample_failures();
        self.flushes.retry_if_wanted();
    }

    fn waited_for(&self) -> BTreeSet<String> {
        let waiting = self.figures.waiting().into_values();
        waiting.flat_map(|requests| requests.disks).collect()
    }

    fn writes(&self) -> BTreeMap<DiskId, u64> {
        let disks = self.metrics.disks().into_iter();
        disks.map(|(disk, figures)| (disk, figures.writes)).collect()
    }

    fn flush_again(&self) {
        self.flushes.retry();
    }

    fn figures(&self) -> ApparatusMetrics {
        self.figures.gather()
    }

    fn stop(&self) {
        (self.stop)();
    }

    fn clear_disk(&self, disk: DiskId) {
        self.metrics.clear(disk);
        if let Some(disk) = self.disks.get(disk) {
            disk.clear();
        }
    }

    fn opens(&self) -> Opens {
        self.files.opens()
    }

    fn block_opens(&self, owner: u64, volumes: BTreeSet<VolumeId>, writers_only: bool) -> Result<(), Opens> {
        self.files.block(owner, volumes, writers_only)
    }

    fn allow_opens(&self, owner: u64) {
        self.files.end_block(owner);
    }
}

impl ControlPort {
    /// Returns the name of the disk that the first byte of the span lies on.
    fn disk_under(&self, span: &Span) -> Option<String> {
        self.disks.name_of(self.lookup.first_disk(span)?)
    }

    fn notices_of(&self, delta: &Delta) -> Vec<KernelNotice> {
        let mut notices = Vec::new();
        for edit in &delta.edits {
            match edit {
                Edit::SetVolume(new) => {
                    self.occupied.outdate(new.id);
                    match self.lookup.volume(new.id) {
                        Some(old) if old == *new => (),
                        Some(old) if new.name.is_hidden() => {
                            notices.push(KernelNotice::Gone(old.id, old.name));
                        }
                        Some(old) if old.name != new.name => {
                            notices.push(KernelNotice::Renamed(old.id, old.name));
                        }
                        _ => notices.push(KernelNotice::Attributes(new.id)),
                    }
                }
                Edit::RemoveVolume(id) => {
                    let old = self.lookup.volume(*id);
                    notices.extend(old.map(|old| KernelNotice::Gone(old.id, old.name)));
                    self.occupied.forget(*id);
                }
                // The kernel looks new names up when they are used, and it does not see placements.
                Edit::AddVolume(_) | Edit::Map { .. } | Edit::Unmap { .. } => (),
                Edit::AddDisk(_) | Edit::SetDisk(_) | Edit::RemoveDisk(_) => (),
            }
        }
        notices
    }
}
