//! What the store says of the copies of the pool's metadata on its disks, and what these have to cover.

use crate::metadata::contents::Facts;
use crate::metadata::header::Position;
use crate::metadata::place::Place;
use crate::model::error::Result;
use crate::model::records::{Area, Edit};
use crate::model::units::{DiskId, Generation};
use uuid::Uuid;

/// A disk's copy, as far as the store has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRecord {
    /// The disk.
    pub disk: DiskId,
    /// Where on the disk it lies.
    pub place: Place,
    /// What it is known to cover, durably.
    pub position: Position,
    /// Why nobody waits for it any more; `None` for one that is kept current.
    pub lag: Option<String>,
}

/// What the copies have to cover: all that is persisted, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// The pool.
    pub pool: Uuid,
    /// The history of this database.
    pub lineage: Uuid,
    /// Up to here all is persisted.
    pub position: Position,
    /// What is one per pool.
    pub facts: Facts,
    /// The copies, by disk.
    pub copies: Vec<CopyRecord>,
    /// The last persisted changes, in order, with the generation that each led to: those that one of the current copies may lack, as far as
    /// they are remembered.
    pub steps: Vec<(Generation, Vec<Edit>)>,
}

impl Persisted {
    /// Returns the copies that are kept current and are behind.
    pub fn due(&self) -> impl Iterator<Item = &CopyRecord> {
        let layout = self.position.layout;
        let behind = move |copy: &&CopyRecord| copy.lag.is_none() && copy.position.layout < layout;
        self.copies.iter().filter(behind)
    }
}

/// The part of a store that knows of the copies. One without disks has none.
pub trait MetadataStore {
    /// Returns what the copies have to cover, from one transaction; `None` where there are none.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn persisted(&mut self) -> Result<Option<Persisted>> {
        Ok(None)
    }
    /// Returns the same, with the body of a checkpoint and no steps.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn persisted_table(&mut self) -> Result<Option<(Persisted, Vec<u8>)>> {
        Ok(None)
    }
    /// Records that the copies of these disks, at these places, cover this, durably, and are kept current. One that has another place by now, or covers more, stays
    /// as it is.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn copies_written(&mut self, _copies: &[(DiskId, Place)], _position: Position) -> Result<()> {
        Ok(())
    }
    /// Records that the disk's copy is not waited for any more.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn copy_lags(&mut self, _disk: DiskId, _why: &str) -> Result<()> {
        Ok(())
    }
    /// Returns the extents that copies own, by disk and start.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn copy_extents(&mut self) -> Result<Vec<Area>> {
        Ok(Vec::new())
    }
    /// Gives free extents to the copy of their disk, before a label names them.
    ///
    /// # Errors
    /// Fails if they have another owner, or the store cannot be written.
    fn claim_for_copy(&mut self, _area: Area) -> Result<()> {
        Ok(())
    }
    /// Records that the disk's label names this place, and that a copy is there which covers this, durably. Extents that the copy owned elsewhere are free.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn copy_placed(&mut self, _disk: DiskId, _place: Place, _position: Position) -> Result<()> {
        Ok(())
    }
    /// Records that the disk's label names no place. The extents of its copy are free.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn copy_dropped(&mut self, _disk: DiskId) -> Result<()> {
        Ok(())
    }
}
