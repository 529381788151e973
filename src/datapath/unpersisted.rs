//! Tracks which volumes depend on changes that may not be persisted yet. Pure.

use crate::model::records::Delta;
use crate::model::units::{Generation, VolumeId};
use std::collections::HashMap;

/// Number of volumes above which those are dropped whose changes are persisted.
const MANY: usize = 1024;

/// Last generation in which each volume's record or placements changed, as far as this apparatus has applied the change itself.
#[derive(Debug)]
pub(super) struct Unpersisted {
    /// Generation of the table that was loaded whole: any volume may depend on it.
    loaded: Generation,
    applied: HashMap<VolumeId, Generation>,
}

impl Unpersisted {
    pub(super) fn new(loaded: Generation) -> Self {
        Self {
            loaded,
            applied: HashMap::new(),
        }
    }

    /// Records a delta. Called before the delta is applied, so that a flush that takes the new table finds it recorded.
    pub(super) fn note(&mut self, delta: &Delta, persisted: Generation) {
        if self.applied.len() > MANY {
            self.applied.retain(|_, generation| *generation > persisted);
        }
        let generation = delta.from.next();
        for volume in delta.edits.iter().filter_map(|edit| edit.volume()) {
            self.applied.insert(volume, generation);
        }
    }

    /// Returns the last change that has to be persisted for a flush of the volume by the table of `generation`.
    pub(super) fn needed(&self, volume: VolumeId, generation: Generation) -> Generation {
        let applied = self.applied.get(&volume).copied().unwrap_or(self.loaded);
        applied.max(self.loaded).min(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::records::Edit;

    #[test]
    fn a_volume_depends_on_its_own_changes_and_on_the_table_that_was_loaded() {
        let mut unpersisted = Unpersisted::new(Generation(7));
        let change = |unpersisted: &mut Unpersisted, volume, from| {
            let edits = vec![Edit::RemoveVolume(VolumeId(volume))];
            let from = Generation(from);
            unpersisted.note(&Delta { from, edits }, Generation(0));
        };
        let needed =
            |unpersisted: &Unpersisted, volume, by| unpersisted.needed(VolumeId(volume), Generation(by)).0;
        assert_eq!((needed(&unpersisted, 1, 7), needed(&unpersisted, 1, 6)), (7, 6));
        change(&mut unpersisted, 1, 7);
        change(&mut unpersisted, 2, 8);
        assert_eq!([1, 2, 3].map(|volume| needed(&unpersisted, volume, 9)), [8, 9, 7]);
        assert_eq!(needed(&unpersisted, 2, 8), 8, "by the older table");
    }

    #[test]
    fn of_many_volumes_only_those_are_forgotten_whose_changes_are_persisted() {
        let mut unpersisted = Unpersisted::new(Generation(0));
        let volumes = 0..MANY as u64 + 100;
        let persisted = Generation(40);
        for volume in volumes.clone() {
            let (from, edits) = (Generation(volume), vec![Edit::RemoveVolume(VolumeId(volume))]);
            unpersisted.note(&Delta { from, edits }, persisted);
        }
        assert!(
            !unpersisted.applied.contains_key(&VolumeId(0)),
            "it has been persisted"
        );
        for volume in volumes.filter(|volume| Generation(volume + 1) > persisted) {
            let needed = unpersisted.needed(VolumeId(volume), Generation(u64::MAX));
            assert_eq!(needed, Generation(volume + 1));
        }
    }
}
