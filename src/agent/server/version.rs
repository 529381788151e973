//! The table that the data path uses: switches it to the next version, and publishes that in the entry of this apparatus.

use crate::cluster::OwnEntry;
use crate::datapath::Runtime;
use crate::failpoint::{Point, hit};
use crate::map::Draft;
use crate::model::member::Joined;
use crate::model::records::{Delta, Edit};
use crate::model::units::{ChangeId, Generation, VolumeId};
use crate::rpc::message::Answer;
use std::sync::Arc;

/// Present version of the table, as the control thread knows it.
pub(super) struct Version {
    runtime: Arc<dyn Runtime>,
    entry: Arc<dyn OwnEntry>,
    /// The volumes of the table.
    volumes: Vec<VolumeId>,
}

impl Version {
    /// Makes it for the table that the apparatus joined with.
    pub(super) fn new(runtime: Arc<dyn Runtime>, entry: Arc<dyn OwnEntry>, volumes: Vec<VolumeId>) -> Self {
        Self {
            runtime,
            entry,
            volumes,
        }
    }

    /// Returns the volumes of the table.
    pub(super) fn volumes(&self) -> &[VolumeId] {
        &self.volumes
    }

    /// Applies a delta and switches versions. Returns false when it could not be applied.
    pub(super) fn apply(&mut self, delta: &Delta) -> bool {
        let generation = match self.runtime.apply(delta) {
            Ok(generation) => generation,
            Err(why) => {
                let present = self.runtime.generation();
                log::error!("the table of generation {present} is damaged: {why}");
                return false;
            }
        };
        hit(Point::ApparatusSwitched);
        self.entry.set_generation(generation);
        self.entry.set_oldest(self.runtime.oldest());
        for edit in &delta.edits {
            match edit {
                Edit::AddVolume(volume) => self.volumes.push(volume.id),
                Edit::RemoveVolume(gone) => self.volumes.retain(|volume| volume != gone),
                _ => {}
            }
        }
        true
    }

    /// Replaces the table by the one that the apparatus has rejoined with, and begins that incarnation. Returns false when that failed; the
    /// apparatus ends then.
    pub(super) fn reload(&mut self, table: Draft, joined: &Joined) -> bool {
        if let Err(why) = self.runtime.reload(table, &joined.snapshot.disks) {
            log::error!("{why}: this apparatus ends");
            self.runtime.stop();
            return false;
        }
        hit(Point::ApparatusReloaded);
        let (incarnation, generation) = (joined.member.incarnation, joined.snapshot.header.generation);
        self.entry.begin(incarnation, generation);
        self.volumes = joined.snapshot.volumes.iter().map(|volume| volume.id).collect();
        true
    }

    /// Returns the answer that a change has been applied.
    pub(super) fn applied(&self, change: ChangeId, generation: Generation) -> Answer {
        Answer::Applied {
            change,
            generation,
            oldest: self.runtime.oldest(),
        }
    }
}
