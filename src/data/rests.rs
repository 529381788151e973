//! Which volumes rest on changes that may not be hardened yet. Pure.

use crate::pool::model::Difference;
use crate::units::{Generation, VolumeId};
use std::collections::HashMap;

/// More are looked through for those that can be forgotten.
const MANY: usize = 1024;

/// The last generation in which each volume's record or places changed, as far as this apparatus has applied it itself.
#[derive(Debug)]
pub(super) struct Rests {
    /// Of the table that was loaded whole: any volume may rest on it.
    loaded: Generation,
    applied: HashMap<VolumeId, Generation>,
}

impl Rests {
    pub(super) fn new(loaded: Generation) -> Self {
        Self {
            loaded,
            applied: HashMap::new(),
        }
    }

    /// To be called before the difference is applied: a flush that takes the new table finds it noted.
    pub(super) fn note(&mut self, difference: &Difference, hardened: Generation) {
        if self.applied.len() > MANY {
            self.applied.retain(|_, generation| *generation > hardened);
        }
        let generation = difference.from.next();
        for volume in difference.edits.iter().filter_map(|edit| edit.volume()) {
            self.applied.insert(volume, generation);
        }
    }

    /// A flush of the volume by the table of `generation` needs no later change than this hardened.
    pub(super) fn needed(&self, volume: VolumeId, generation: Generation) -> Generation {
        let applied = self.applied.get(&volume).copied().unwrap_or(self.loaded);
        applied.max(self.loaded).min(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::model::Edit;

    #[test]
    fn a_volume_rests_on_its_own_changes_and_on_the_table_that_was_loaded() {
        let mut rests = Rests::new(Generation(7));
        let change = |rests: &mut Rests, volume, from| {
            let edits = vec![Edit::RemoveVolume(VolumeId(volume))];
            let from = Generation(from);
            rests.note(&Difference { from, edits }, Generation(0));
        };
        let needed = |rests: &Rests, volume, by| rests.needed(VolumeId(volume), Generation(by)).0;
        assert_eq!((needed(&rests, 1, 7), needed(&rests, 1, 6)), (7, 6));
        change(&mut rests, 1, 7);
        change(&mut rests, 2, 8);
        assert_eq!([1, 2, 3].map(|volume| needed(&rests, volume, 9)), [8, 9, 7]);
        assert_eq!(needed(&rests, 2, 8), 8, "by the older table");
    }
}
