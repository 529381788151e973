//! The store's records of the metadata copies on disks, and the state that the copies have to cover.

use crate::metadata::contents::Facts;
use crate::metadata::header::Position;
use crate::metadata::place::Place;
use crate::model::error::Result;
use crate::model::records::{Area, Edit};
use crate::model::units::{DiskId, Generation};
use uuid::Uuid;

/// Record of a disk's metadata copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRecord {
    /// Disk that carries the copy.
    pub disk: DiskId,
    /// Place of the copy on the disk.
    pub place: Place,
    /// Position that the copy is known to cover durably.
    pub position: Position,
    /// Why the copy is no longer kept current, or `None` if it is.
    pub lag: Option<String>,
}

/// The state that the copies have to cover: exactly the persisted changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// UUID of the pool.
    pub pool: Uuid,
    /// UUID of the history of this database.
    pub lineage: Uuid,
    /// Position of the last persisted change.
    pub position: Position,
    /// Facts of the pool.
    pub facts: Facts,
    /// Records of the copies, by disk.
    pub copies: Vec<CopyRecord>,
    /// The last persisted changes in order, each with the generation that it produced: those that a current copy may lack, as far as the store still has
    /// them.
    pub steps: Vec<(Generation, Vec<Edit>)>,
}

impl Persisted {
    /// Returns the copies that are kept current and lag.
    pub fn due(&self) -> impl Iterator<Item = &CopyRecord> {
        let layout = self.position.layout;
        let behind = move |copy: &&CopyRecord| copy.lag.is_none() && copy.position.layout < layout;
        self.copies.iter().filter(behind)
    }
}

/// The role of a store that keeps the records of metadata copies. A store without disks has no copies.
pub trait MetadataStore {
    /// Returns the state that the copies have to cover, from one transaction, or `None` if there are no copies.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn persisted(&mut self) -> Result<Option<Persisted>> {
        Ok(None)
    }
    /// Returns the same state with the body of a checkpoint, and without the last changes.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn persisted_table(&mut self) -> Result<Option<(Persisted, Vec<u8>)>> {
        Ok(None)
    }
    /// Records that the copies of these disks, at these places, durably cover this position and are kept current. The record of a copy that has another place by now,
    /// or covers more, stays unchanged.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn copies_written(&mut self, _copies: &[(DiskId, Place)], _position: Position) -> Result<()> {
        Ok(())
    }
    /// Records that the disk's copy is no longer kept current.
    ///
    /// # Errors
    /// Fails if the store cannot be read or written.
    fn copy_lags(&mut self, _disk: DiskId, _why: &str) -> Result<()> {
        Ok(())
    }
    /// Returns the extents that copies own, sorted by disk and start.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn copy_extents(&mut self) -> Result<Vec<Area>> {
        Ok(Vec::new())
    }
    /// Allocates free extents to the copy of their disk, before a label names them.
    ///
    /// # Errors
    /// Fails if they have another owner, or the store cannot be written.
    fn claim_for_copy(&mut self, _area: Area) -> Result<()> {
        Ok(())
    }
    /// Records that the disk's label names this place, and that the copy there durably covers this position. Frees extents that the copy owned elsewhere.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn copy_placed(&mut self, _disk: DiskId, _place: Place, _position: Position) -> Result<()> {
        Ok(())
    }
    /// Records that the disk's label names no place. Frees the extents of its copy.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn copy_dropped(&mut self, _disk: DiskId) -> Result<()> {
        Ok(())
    }
}
