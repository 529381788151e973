//! Ranges whose placement has changed since an earlier generation.

use super::version::{TableVersion, Volume};
use crate::model::records::{Delta, Edit};
use crate::model::units::{Generation, VolumeExtent, VolumeId};
use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, Range};

/// Largest number of ranges remembered.
const MOST: usize = 4096;
/// Largest number of ranges remembered from the comparison of one volume; beyond it the whole volume counts as moved.
const MOST_OF_ONE: usize = 256;

/// The ranges whose placements the latest changes replaced.
#[derive(Debug)]
pub(super) struct Moves {
    /// Everything that moved after this generation is in `moved`.
    complete_since: Generation,
    /// Moved ranges in order of the generation that moved them.
    moved: VecDeque<Move>,
}

#[derive(Debug)]
struct Move {
    generation: Generation,
    volume: VolumeId,
    range: Range<VolumeExtent>,
}

impl Moves {
    pub(super) fn new(generation: Generation) -> Self {
        Self {
            complete_since: generation,
            moved: VecDeque::new(),
        }
    }

    /// Records what the delta that led to this generation moved.
    pub(super) fn note(&mut self, generation: Generation, delta: &Delta) {
        for edit in &delta.edits {
            match edit {
                Edit::Map { volume, segments } => {
                    for run in segments.chunk_by(|a, b| a.end() == b.start) {
                        if let (Some(first), Some(last)) = (run.first(), run.last()) {
                            self.push(generation, *volume, first.start..last.end());
                        }
                    }
                }
                Edit::Unmap { volume, start, end } => self.push(generation, *volume, *start..*end),
                Edit::AddVolume(record) => self.push(generation, record.id, everything()),
                Edit::RemoveVolume(volume) => self.push(generation, *volume, everything()),
                Edit::SetVolume(_) | Edit::AddDisk(_) | Edit::SetDisk(_) | Edit::RemoveDisk(_) => {}
            }
        }
    }

    /// Records how these versions differ, whatever happened between the two.
    pub(super) fn compare(&mut self, old: &TableVersion, new: &TableVersion) {
        if self.differ(old, new) && new.generation <= old.generation {
            // An earlier generation does not identify which of the two tables was meant.
            *self = Self::new(old.generation.next());
        }
    }

    /// Records the ranges that differ under the new version's generation. Returns false if there are none.
    fn differ(&mut self, old: &TableVersion, new: &TableVersion) -> bool {
        let (old_volumes, new_volumes) = (by_id(old), by_id(new));
        let mut differ = false;
        for id in old_volumes
            .keys()
            .chain(new_volumes.keys().filter(|id| !old_volumes.contains_key(id)))
        {
            let moved = match (old_volumes.get(id), new_volumes.get(id)) {
                (Some(old), Some(new)) => moved_ranges(old, new),
                _ => vec![everything()],
            };
            differ |= !moved.is_empty();
            moved
                .into_iter()
                .for_each(|range| self.push(new.generation, *id, range));
        }
        differ
    }

    /// Returns whether nothing in this range moved after `since`; false also if that is not known.
    pub(super) fn unmoved(&self, volume: VolumeId, range: &Range<VolumeExtent>, since: Generation) -> bool {
        let touches = |moved: &Move| {
            moved.volume == volume && moved.range.start < range.end && range.start < moved.range.end
        };
        let later = self
            .moved
            .iter()
            .rev()
            .take_while(|moved| moved.generation > since);
        since >= self.complete_since && !later.into_iter().any(touches)
    }

    fn push(&mut self, generation: Generation, volume: VolumeId, range: Range<VolumeExtent>) {
        self.moved.push_back(Move {
            generation,
            volume,
            range,
        });
        while self.moved.len() > MOST {
            if let Some(forgotten) = self.moved.pop_front() {
                self.complete_since = forgotten.generation;
            }
        }
    }
}

fn everything() -> Range<VolumeExtent> {
    VolumeExtent(0)..VolumeExtent(u64::MAX)
}

fn by_id(version: &TableVersion) -> BTreeMap<VolumeId, std::sync::Arc<Volume>> {
    version
        .all_volumes()
        .into_iter()
        .map(|volume| (volume.record.id, volume))
        .collect()
}

/// Returns the ranges that do not have the same placement in both.
fn moved_ranges(old: &Volume, new: &Volume) -> Vec<Range<VolumeExtent>> {
    let mut moved = Vec::new();
    let mut next = VolumeExtent(0);
    for segment in new.map.segments() {
        old.map.overlapping(segment.start, segment.end(), |other| {
            let common = other.clip(segment.start, segment.end());
            if let Some(common) = common
                && segment.clip(common.start, common.end()) == Some(common)
            {
                if next < common.start {
                    moved.push(next..common.start);
                }
                next = common.end();
            }
            ControlFlow::Continue(())
        });
    }
    let end = old.map.end().max(new.map.end());
    if next < end {
        moved.push(next..end);
    }
    if moved.len() > MOST_OF_ONE {
        vec![everything()]
    } else {
        moved
    }
}
