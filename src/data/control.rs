//! What the control thread may ask of the data path. Nothing here waits for a disk or runs a request.

use super::handles::Kept;
use super::io::micros;
use super::rests::Rests;
use super::space::Room;
use super::{Apparatus, Notice, lock};
use crate::control::runtime::{Lag, Resumed, Runtime};
use crate::disk::Disks;
use crate::error::Result;
use crate::gate::{Drain, Let};
use crate::pool::model::{Difference, DiskRecord, Edit, Span};
use crate::store::HoldMode;
use crate::table::Draft;
use crate::units::{ChangeId, DiskId, Generation, VolumeId};
use crate::wire::message::{Figures, IoFigures, Opens, Waiting};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Runtime for Apparatus {
    fn hold(&self, change: ChangeId, spans: &[Span], mode: HoldMode) -> bool {
        self.gate.hold(change, spans, mode)
    }

    fn lag(&self, change: ChangeId) -> Option<Lag> {
        match self.gate.drained(change) {
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
            // The gate was closed meanwhile, which ends holds: this one never drains.
            None => Some(Lag {
                in_flight: self.in_flight(),
                age: Duration::ZERO,
                disk: String::new(),
            }),
        }
    }

    fn release(&self, change: ChangeId) -> Resumed {
        self.resume(self.gate.release(change))
    }

    fn apply(&self, difference: &Difference) -> Result<Generation> {
        let notices = self.notices_of(difference);
        lock(&self.rests).note(difference, self.members.hardened());
        for edit in &difference.edits {
            if let Edit::Map { volume, segments } = edit {
                self.owe_losses(*volume);
                self.arrive_after_losses(*volume, segments);
            }
        }
        let generation = self.table.apply(difference)?;
        difference
            .edits
            .iter()
            .for_each(|edit| lock(&self.room).follow(edit));
        notices.into_iter().for_each(|notice| self.tell_kernel(notice));
        Ok(generation)
    }

    fn generation(&self) -> Generation {
        self.table.generation()
    }

    fn oldest(&self) -> Generation {
        self.gate.oldest(self.table.generation())
    }

    fn close(&self) {
        self.gate.close();
        self.keeper.closed();
    }

    fn in_flight(&self) -> u64 {
        match self.gate.emptied() {
            Some(Drain::Done) => 0,
            Some(Drain::Waiting { in_flight, .. }) => in_flight,
            None => self.gate.counts().in_flight,
        }
    }

    fn reload(&self, table: Draft, disks: &[DiskRecord]) -> Result<()> {
        let volumes = self.table.volumes(&mut lock(&self.eye));
        volumes.iter().for_each(|volume| self.owe_losses(volume.id));
        *lock(&self.rests) = Rests::new(table.generation());
        self.table.replace(table)?;
        *lock(&self.room) = Room::new(disks);
        self.tell_kernel(Notice::Everything);
        Ok(())
    }

    fn open(&self) {
        self.keeper.opened();
        self.resume(self.gate.open());
    }

    fn disks(&self) -> &Disks {
        &self.disks
    }

    fn note(&self) {
        // Counting them is noting them.
        let _ = self.gate.counts();
        if self.harden.wants_retry() {
            self.flush_again();
        }
    }

    fn flush_again(&self) {
        let waiting = std::mem::take(&mut *lock(&self.flushes));
        self.run_each(waiting);
        self.keeper.moved();
    }

    fn figures(&self) -> Figures {
        let generation = self.table.generation();
        let counts = self.gate.counts();
        let disks = self.disks.view();
        let named = self.table.volumes(&mut lock(&self.eye));
        let waiting = self.gate.parked_by_volume();
        let waiting = named
            .iter()
            .filter_map(|volume| Some((volume.name.to_string(), *waiting.get(&volume.id)?)));
        let parked_by_volume = waiting.collect();
        let mut volumes = self.book.volumes();
        let all = named.len() <= Figures::ALL_VOLUMES;
        let by_volume = named.into_iter().filter_map(|volume| {
            let io = volumes.remove(&volume.id).unwrap_or_default();
            (all || io != IoFigures::default()).then(|| (volume.name.to_string(), io))
        });
        let by_disk = self.book.disks().into_iter();
        let by_disk = by_disk.filter_map(|(id, figures)| Some((disks.get(id)?.name().to_owned(), figures)));
        Figures {
            name: self.name.to_string(),
            pid: std::process::id(),
            uptime_us: self.now_us(),
            generation,
            oldest: self.gate.oldest(generation),
            in_flight: counts.in_flight,
            parked: counts.parked,
            parked_bytes: counts.parked_bytes,
            holds: counts.holds,
            ever_parked: counts.ever_parked,
            longest_parked_us: counts.longest_parked_us,
            threads: self.readers.load(std::sync::atomic::Ordering::Relaxed) as u64,
            volumes: by_volume.collect(),
            parked_by_volume,
            disks: by_disk.collect(),
            waiting: self.waiting(),
            ..Figures::default()
        }
    }

    fn stop(&self) {
        (self.stop)();
    }

    fn clear_disk(&self, disk: DiskId) {
        self.book.clear(disk);
        if let Some(disk) = self.disks.get(disk) {
            disk.clear();
        }
    }

    fn opens(&self) -> Opens {
        self.handles.opens()
    }

    fn keep_closed(&self, who: u64, volumes: BTreeSet<VolumeId>, writers_only: bool) -> Result<(), Opens> {
        let kept = Kept {
            volumes,
            writers_only,
        };
        self.handles.keep_closed(who, kept)
    }

    fn let_in(&self, who: u64) {
        for (opening, handle, reply) in self.handles.let_in(who) {
            self.opened(opening, handle, reply);
        }
    }
}

impl Apparatus {
    fn resume(&self, freed: Let<super::Owned>) -> Resumed {
        let Let {
            requests,
            parked,
            longest,
        } = freed;
        self.run_later(requests);
        self.keeper.moved();
        Resumed { parked, longest }
    }

    fn waiting(&self) -> BTreeMap<String, Waiting> {
        let mut waiting: BTreeMap<String, Waiting> = BTreeMap::new();
        for (span, age) in self.gate.lasting(Waiting::LONG) {
            let volume = self.table.volume(&mut lock(&self.eye), span.volume);
            let Some(volume) = volume else { continue };
            let of_volume = waiting.entry(volume.name.to_string()).or_default();
            of_volume.requests += 1;
            of_volume.longest_us = of_volume.longest_us.max(micros(age));
            if span.start < span.end {
                of_volume.disks.extend(self.disk_under(&span));
            } else {
                of_volume.disks.extend(self.slow_under(span.volume));
                of_volume.database = self.harden.trouble().filter(|_| of_volume.disks.is_empty());
            }
        }
        for (volume, (requests, longest)) in self.waiting_flushes() {
            let named = self.table.volume(&mut lock(&self.eye), volume);
            let (Some(named), true) = (named, longest >= Waiting::LONG) else {
                continue;
            };
            let of_volume = waiting.entry(named.name.to_string()).or_default();
            of_volume.requests += requests;
            of_volume.longest_us = of_volume.longest_us.max(micros(longest));
            of_volume.database = self.harden.trouble();
            if of_volume.database.is_none() {
                of_volume.disks.extend(self.slow_under(volume));
            }
        }
        waiting
    }

    /// The disks that a flush of the volume may wait for: its own that are slow, and those that changes wait for.
    fn slow_under(&self, volume: VolumeId) -> Vec<String> {
        let mut own = Vec::new();
        let _ = self.table.disks_of(&mut lock(&self.eye), volume, &mut own);
        let mut slow = self.slow_to_flush(Waiting::LONG);
        if slow.iter().any(|disk| own.contains(disk)) {
            slow.retain(|disk| own.contains(disk));
        }
        let disks = self.disks.view();
        let name = |id: DiskId| Some(disks.get(id)?.name().to_owned());
        slow.into_iter().filter_map(name).collect()
    }

    /// The disk that the first byte of the span lies on.
    fn disk_under(&self, span: &Span) -> Option<String> {
        let mut pieces = Vec::new();
        let mut eye = lock(&self.eye);
        let found = self
            .table
            .locate(&mut eye, span.volume, span.start, 1, &mut pieces);
        found.ok()?;
        let disks = self.disks.view();
        Some(disks.get(pieces.first()?.disk)?.name().to_owned())
    }

    fn notices_of(&self, difference: &Difference) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut eye = lock(&self.eye);
        for edit in &difference.edits {
            match edit {
                Edit::SetVolume(new) => match self.table.volume(&mut eye, new.id) {
                    Some(old) if old == *new => (),
                    Some(old) if new.name.is_hidden() => notices.push(Notice::Gone(old.id, old.name)),
                    _ => notices.push(Notice::Attributes(new.id)),
                },
                Edit::RemoveVolume(id) => {
                    let old = self.table.volume(&mut eye, *id);
                    notices.extend(old.map(|old| Notice::Gone(old.id, old.name)));
                    self.forget_occupied(*id);
                }
                // New names are looked for when they are used; where a volume lies does not show.
                Edit::AddVolume(_) | Edit::Map { .. } | Edit::Unmap { .. } => (),
                Edit::AddDisk(_) | Edit::SetDisk(_) | Edit::RemoveDisk(_) => (),
            }
        }
        notices
    }
}
