//! Which disks carry a copy of the pool's metadata, and where on them it lies.
//!
//! Up to [`COPIES`] disks carry one: behind the label in extent 0, or, where that is too small, in extents that the copy owns. A copy moves in this order: the store
//! gives it free extents; a checkpoint is written there; the label names the new place, under the lock of the copy, so that nobody writes to the former place
//! any more; the store records the new place, and frees the former one, in one transaction. A controller that dies in between leaves extents that no copy uses: the next
//! one places that copy again, and frees what is left over. An operation in several parts has planned where its later parts go, so a copy takes no free extents
//! before its last one.

use super::Controller;
use super::metadata::{PATIENCE, answers, as_update, bring_up, is_back, leave_behind, on_disk, patience};
use super::space::kept;
use crate::blockdev::metadata::Update;
use crate::metadata::header::Position;
use crate::metadata::place::Place;
use crate::model::alloc::free_runs;
use crate::model::error::{Error, Result};
use crate::model::records::{Area, DiskRecord};
use crate::model::units::{DiskExtent, DiskId, ExtentSize, Generation};
use crate::store::metadata::{CopyRecord, Persisted};
use std::sync::Arc;
use std::time::Instant;

/// How many disks carry a copy.
pub(super) const COPIES: usize = 4;

/// A copy that is to be placed.
struct Wanted {
    record: DiskRecord,
    /// What the store says of it so far.
    copy: CopyRecord,
}

impl Wanted {
    fn new(record: &DiskRecord, copy: Option<&CopyRecord>, unit: ExtentSize) -> Self {
        let none = || CopyRecord {
            disk: record.id,
            place: Place::behind_the_label(unit),
            position: Position::default(),
            lag: None,
        };
        Self {
            record: record.clone(),
            copy: copy.cloned().unwrap_or_else(none),
        }
    }
}

impl Controller {
    /// Makes as many disks carry a copy as there should be: those that were left behind are tried once, then others. A copy that has become too long for its place gets
    /// another one. Nothing is refused because of it. Returns whether a copy is left behind.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub(super) fn arrange_copies(&mut self) -> Result<bool> {
        let Some(persisted) = self.store.persisted()? else {
            return Ok(false);
        };
        let wanted = self.wanted_copies(&persisted)?;
        if !wanted.is_empty() {
            self.place_copies(&wanted)?;
            self.bring_up_copies()?;
        }
        let persisted = self.store.persisted()?;
        Ok(persisted.is_some_and(|persisted| persisted.copies.iter().any(|copy| copy.lag.is_some())))
    }

    fn wanted_copies(&mut self, persisted: &Persisted) -> Result<Vec<Wanted>> {
        let unit = self.store.header()?.extent_size;
        let records = self.store.disks()?;
        let owned = self.store.copy_extents()?;
        let of = |id: DiskId| persisted.copies.iter().find(|copy| copy.disk == id);
        let is_current = |id: DiskId| of(id).is_some_and(|copy| copy.lag.is_none());
        let (current, mut others): (Vec<&DiskRecord>, Vec<&DiskRecord>) =
            records.iter().partition(|record| is_current(record.id));
        let mut wanted = Vec::new();
        for record in &current {
            let copy = Wanted::new(record, of(record.id), unit);
            if self.can_carry(record) && self.has_to_move(&copy, &owned, unit)? {
                wanted.push(copy);
            }
        }
        others.retain(|record| self.can_carry(record));
        // One that is being emptied comes last, one that carried a copy before comes first.
        others.sort_by_key(|record| (!record.allocate, of(record.id).is_none(), record.id));
        let room = self.copies.saturating_sub(current.len());
        let (chosen, rest) = others.split_at(room.min(others.len()));
        wanted.extend(
            chosen
                .iter()
                .map(|record| Wanted::new(record, of(record.id), unit)),
        );
        for record in rest {
            if of(record.id).is_some() || owned.iter().any(|area| area.disk == record.id) {
                self.drop_copy(record.id)?;
            }
        }
        Ok(wanted)
    }

    fn can_carry(&self, record: &DiskRecord) -> bool {
        let open = self.disks.get(record.id);
        open.is_some_and(|disk| answers(&disk)) && !self.failed_copies.contains(&record.id)
    }

    /// Returns whether a current copy needs another place and there is one, or its extents are not those of its place.
    fn has_to_move(&mut self, wanted: &Wanted, owned: &[Area], unit: ExtentSize) -> Result<bool> {
        let id = wanted.record.id;
        let own = wanted.copy.place.extents(unit, id);
        let of_disk = owned.iter().filter(|area| area.disk == id).copied();
        if !of_disk.eq(own) {
            return Ok(true);
        }
        let cramped = self.disks.get(id).and_then(|disk| disk.cramped_copy());
        let Some(body) = cramped.filter(|_| !self.more_parts) else {
            return Ok(false);
        };
        let place = self.place_for(wanted, body, unit)?;
        let moves = place != wanted.copy.place;
        if !moves {
            self.failed_copies.insert(id);
        }
        Ok(moves)
    }

    /// Returns the place for a copy with a body of this length, whose extents it owns then: the present one where that is long enough, or the best that there is.
    fn place_for(&mut self, wanted: &Wanted, body: u64, unit: ExtentSize) -> Result<Place> {
        let (id, present) = (wanted.record.id, wanted.copy.place);
        let owned: Vec<Area> = self.store.copy_extents()?;
        let is_owned = |place: Place| place.extents(unit, id).is_none_or(|area| owned.contains(&area));
        let behind = Place::behind_the_label(unit);
        let left_over = owned.iter().filter(|area| area.disk == id);
        let left_over = left_over.filter_map(|area| Place::in_extents(unit, *area));
        let known: Vec<Place> = [present, behind].into_iter().chain(left_over).collect();
        let known = || known.iter().copied().filter(|place| is_owned(*place));
        if let Some(place) = known().find(|place| place.has_room_for(body)) {
            return Ok(place);
        }
        if !self.more_parts
            && let Some(area) = self.free_for(&wanted.record, body, unit)?
            && let Some(place) = Place::in_extents(unit, area)
        {
            self.store.claim_for_copy(area)?;
            return Ok(place);
        }
        let best = known().max_by_key(|place| (place.holds(body), place.slot));
        Ok(best.unwrap_or(behind))
    }

    /// Returns free extents that are enough: the last ones, so that volumes stay in one piece. Those of removed volumes are taken only where
    /// there are no others.
    fn free_for(&mut self, record: &DiskRecord, body: u64, unit: ExtentSize) -> Result<Option<Area>> {
        let Some(len) = Place::extents_for(unit, body) else {
            return Ok(None);
        };
        let uses = self.store.uses(record.id)?;
        let taken: Vec<Area> = uses.iter().map(|taken| taken.area).collect();
        let kept = kept(&mut *self.store)?.into_iter().flatten();
        let mut spared: Vec<Area> = kept.filter(|area| area.disk == record.id).collect();
        spared.extend(&taken);
        spared.sort_unstable();
        let last = |taken: Vec<Area>| {
            let free = free_runs(record.id, record.extents, taken);
            let run = free.into_iter().rev().find(|run| run.len >= len)?;
            Some(Area {
                start: DiskExtent(run.end().0 - len),
                len,
                ..run
            })
        };
        Ok(last(spared).or_else(|| last(taken)))
    }

    fn place_copies(&mut self, wanted: &[Wanted]) -> Result<()> {
        let Some((mut persisted, body)) = self.store.persisted_table()? else {
            return Ok(());
        };
        let unit = self.store.header()?.extent_size;
        persisted
            .facts
            .carriers
            .extend(wanted.iter().map(|each| each.record.id));
        let target = persisted.position;
        let given: Arc<(Update, Vec<u8>)> = Arc::new((as_update(persisted, None), body));
        let mut asked = Vec::new();
        for each in wanted {
            let id = each.record.id;
            let Some(disk) = self.disks.get(id) else { continue };
            let place = self.place_for(each, given.1.len() as u64, unit)?;
            if self.more_parts && !place.holds(given.1.len() as u64) {
                leave_behind(
                    &mut *self.store,
                    &each.copy,
                    "it gets a longer place after the operation in progress",
                )?;
                continue;
            }
            let (given, ledger) = (Arc::clone(&given), self.ledgers.ledger(id));
            let write = on_disk(&disk, move |disk| {
                disk.place_copy(place, &given.0, &given.1, &*ledger)
            });
            asked.push((each, place, write));
        }
        let patience = patience(Some(&given.1));
        let until = Instant::now() + patience;
        for (each, place, mut write) in asked {
            let id = each.record.id;
            match write.wait(until, patience) {
                Ok(sequence) => {
                    self.store.label_written(id, sequence)?;
                    self.store.copy_placed(id, place, target)?;
                    if each.copy.lag.is_some() {
                        is_back(&mut *self.store, id)?;
                    }
                }
                Err(why) => {
                    self.failed_copies.insert(id);
                    leave_behind(&mut *self.store, &each.copy, why.why())?;
                }
            }
        }
        Ok(())
    }

    /// Makes a disk carry no copy any more, and frees the extents that it had. One that does not answer keeps them.
    fn drop_copy(&mut self, id: DiskId) -> Result<()> {
        let Some(disk) = self.disks.get(id) else {
            return Ok(());
        };
        let ledger = self.ledgers.ledger(id);
        let mut dropping = on_disk(&disk, move |disk| disk.drop_copy(&*ledger));
        match dropping.wait(Instant::now() + PATIENCE, PATIENCE) {
            Ok(sequence) => {
                self.store.label_written(id, sequence)?;
                self.store.copy_dropped(id)
            }
            Err(why) => {
                self.failed_copies.insert(id);
                log::warn!("{why}");
                Ok(())
            }
        }
    }

    /// Takes the copy away from a disk that is to end before it. The disk may carry one elsewhere soon.
    ///
    /// # Errors
    /// Returns the errors of the store, and of a disk that cannot be opened.
    pub fn withdraw_copy(&mut self, id: DiskId, extents: u64) -> Result<()> {
        let owned = self.store.copy_extents()?;
        let beyond = |area: &Area| area.disk == id && area.end().0 > extents;
        if !owned.iter().any(beyond) {
            return Ok(());
        }
        self.open_disks([id])?;
        self.drop_copy(id)?;
        if self.store.copy_extents()?.iter().any(beyond) {
            let why = "its copy of the pool's metadata cannot be taken away from its end";
            return Err(
                Error::failed(format!("disk number {id}"), why).hint("find the cause: vctl pool check")
            );
        }
        Ok(())
    }

    /// Makes the current copies cover all that is persisted. Returns up to which generation that is.
    ///
    /// # Errors
    /// Returns the errors of the store.
    pub(super) fn bring_up_copies(&mut self) -> Result<Generation> {
        bring_up(&mut *self.store, &self.disks)
    }
}
