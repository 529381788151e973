//! The mapping table of an apparatus: two versions, of which one is current, and a switch between them.
//!
//! A version is a whole table of one generation, kept in small nodes ([`radix`] has the segments, [`tree`] everything else),
//! and never changes. The next one is built from the current one and a delta before any reader uses it: it shares with the
//! current one all nodes that the delta does not touch, so building it takes time proportional to the delta, whatever the size
//! of the table, and two versions take the memory of one. One store of a pointer makes it current. The version before it is
//! kept until the next switch, so that the control thread, and not a request, frees the nodes that only the older version had.
//!
//! A [`Reader`] keeps the version that it saw last. A check costs one load of the pointer and a comparison; it takes no lock
//! and writes nothing that others read. Readers use the version only as long as a lookup takes: they copy the few pieces that
//! they need, and I/O begins after that, so a slow disk delays no switch.
//!
//! Order: the pointer is stored before the generation's number, with release, and the number is loaded with acquire. So a
//! thread that has read a number, or learnt of the switch in any other way that orders memory (the end of a hold, a message),
//! uses that version or a later one.

mod moves;
mod patch;
mod radix;
mod segments;
#[cfg(test)]
mod tests;
mod tree;
mod version;

use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::model::records::{Delta, DiskRecord, Segment, Snapshot, VolumeRecord};
use crate::model::units::{
    ByteCount, DiskId, DiskOffset, ExtentSize, Generation, VolumeExtent, VolumeId, VolumeOffset,
};
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use moves::Moves;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use version::TableVersion;

/// One piece of a request: a run of bytes on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The disk.
    pub disk: DiskId,
    /// Offset on the disk.
    pub at: DiskOffset,
    /// Length in bytes.
    pub len: u64,
}

/// Two versions of the mapping table, and the generation of the current one.
#[derive(Debug)]
pub struct Table {
    current: Arc<ArcSwap<TableVersion>>,
    generation: AtomicU64,
    extent_size: ExtentSize,
    control: Mutex<Control>,
}

/// State for the control thread, and for queries about moved ranges.
#[derive(Debug)]
struct Control {
    before: Arc<TableVersion>,
    moves: Moves,
}

/// The state that one reading thread needs to use the current version. It is not shared.
#[derive(Debug)]
pub struct Reader {
    version: Cache<Arc<ArcSwap<TableVersion>>, Arc<TableVersion>>,
}

/// Why a range could not be located.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The volume does not exist.
    NoVolume,
    /// The volume is read-only.
    ReadOnly,
    /// The range starts or ends beyond the volume.
    PastEnd(ByteCount),
    /// From this offset on, the volume has no placement although it is large enough. A sound database has no such volume.
    Unmapped(VolumeOffset),
}

/// A table that is being loaded and that no reader uses yet. It is built from what was read from the store and from the changes
/// since then.
#[derive(Debug)]
pub struct Draft(TableVersion);

impl Draft {
    /// Builds a table from a snapshot, in time proportional to the table's size.
    ///
    /// # Errors
    /// Fails if the snapshot contradicts itself; the error names the contradiction.
    pub fn new(snapshot: &Snapshot) -> Result<Self> {
        TableVersion::from_snapshot(snapshot).map(Self)
    }

    /// Applies these deltas in order, in time proportional to their size.
    ///
    /// # Errors
    /// Fails if a delta does not start where the one before leads to, or does not fit the table.
    pub fn after(mut self, deltas: &[Delta]) -> Result<Self> {
        self.bring_forward(deltas)?;
        Ok(self)
    }

    /// Applies these deltas as [`Draft::after`] does, to this table.
    ///
    /// # Errors
    /// Fails as [`Draft::after`] does; the table is then as it was before the delta that does not fit.
    pub fn bring_forward(&mut self, deltas: &[Delta]) -> Result<()> {
        for delta in deltas {
            if delta.from != self.0.generation {
                return Err(stale_delta(delta, self.0.generation));
            }
            self.0 = self.0.patched(delta)?;
        }
        Ok(())
    }

    /// Returns the table that a join (`Store::join`) answered with, where this is the table that was read before it.
    ///
    /// # Errors
    /// Fails if the two do not fit together.
    pub fn joined(self, snapshot: &Snapshot, since: Option<&[Delta]>) -> Result<Self> {
        match since {
            Some(since) => self.after(since),
            None => Self::new(snapshot),
        }
    }

    /// Returns the table's generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.0.generation
    }
}

fn stale_delta(delta: &Delta, current: Generation) -> Error {
    let what = format!("delta from generation {}", delta.from);
    Error::new(
        ErrorKind::Stale,
        what,
        format!("this apparatus is at generation {current}"),
    )
}

impl Table {
    /// Creates the table with its first version, from a snapshot.
    ///
    /// # Errors
    /// Fails if the snapshot contradicts itself; the error names the contradiction.
    pub fn new(snapshot: &Snapshot) -> Result<Self> {
        Draft::new(snapshot).map(Self::of)
    }

    /// Creates the table with its first version, from a loaded draft.
    #[must_use]
    pub fn of(Draft(version): Draft) -> Self {
        let version = Arc::new(version);
        Self {
            generation: AtomicU64::new(version.generation.0),
            extent_size: version.extent_size,
            control: Mutex::new(Control {
                before: Arc::clone(&version),
                moves: Moves::new(version.generation),
            }),
            current: Arc::new(ArcSwap::new(version)),
        }
    }

    /// Returns the generation of the current version, with one load.
    #[must_use]
    #[inline]
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Returns the pool's unit of allocation.
    #[must_use]
    pub fn extent_size(&self) -> ExtentSize {
        self.extent_size
    }

    /// Returns a reader for one thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            version: Cache::new(Arc::clone(&self.current)),
        }
    }

    /// Locates `[at, at + len)` of the volume, piece by piece in order; pieces that are adjacent on a disk are merged. Returns
    /// the generation that they belong to. `pieces` is cleared first, and its memory is reused.
    ///
    /// # Errors
    /// Fails with [`Missing`]; the content of `pieces` is then meaningless.
    pub fn locate(
        &self,
        reader: &mut Reader,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<Generation, Missing> {
        pieces.clear();
        let version = self.current_version(reader);
        version.locate(volume, at, len, pieces)?;
        Ok(version.generation)
    }

    /// Locates a range like [`Table::locate`], for a write: it refuses a read-only volume.
    ///
    /// # Errors
    /// Fails with [`Missing`]; the content of `pieces` is then meaningless.
    pub fn locate_to_write(
        &self,
        reader: &mut Reader,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<Generation, Missing> {
        pieces.clear();
        let version = self.current_version(reader);
        version.locate_to_write(volume, at, len, pieces)?;
        Ok(version.generation)
    }

    /// Lists the disks that hold parts of the volume, each once, in any order, and returns the generation of that version. Its
    /// time depends on the number of disks, not of segments, because each host flush calls it.
    ///
    /// # Errors
    /// Fails with [`Missing::NoVolume`].
    pub fn disks_of(
        &self,
        reader: &mut Reader,
        volume: VolumeId,
        disks: &mut Vec<DiskId>,
    ) -> Result<Generation, Missing> {
        disks.clear();
        let version = self.current_version(reader);
        let volume = version.served(volume).ok_or(Missing::NoVolume)?;
        disks.extend(volume.map.placements().keys());
        Ok(version.generation)
    }

    /// Returns a volume's record.
    pub fn volume(&self, reader: &mut Reader, id: VolumeId) -> Option<VolumeRecord> {
        self.current_version(reader)
            .served(id)
            .map(|volume| volume.record.clone())
    }

    /// Returns the record of the volume with this name.
    pub fn lookup(&self, reader: &mut Reader, name: &str) -> Option<VolumeRecord> {
        let name = Name::new("volume", name).ok()?;
        self.current_version(reader)
            .by_name(&name)
            .map(|volume| volume.record.clone())
    }

    /// Returns all volumes that hosts can see, by id.
    pub fn volumes(&self, reader: &mut Reader) -> Vec<VolumeRecord> {
        let volumes = self.current_version(reader).all_volumes();
        let served = volumes.iter().filter(|volume| !volume.hidden);
        served.map(|volume| volume.record.clone()).collect()
    }

    /// Returns at most `most` volumes that hosts can see, by id, from `first` on; its time depends on `most` alone.
    pub fn volumes_from(&self, reader: &mut Reader, first: VolumeId, most: usize) -> Vec<VolumeRecord> {
        let mut found = Vec::new();
        self.current_version(reader)
            .volumes
            .each_from(&first, |_, volume| {
                if !volume.hidden {
                    found.push(volume.record.clone());
                }
                found.len() < most
            });
        found
    }

    /// Returns all disks, by id.
    pub fn disks(&self, reader: &mut Reader) -> Vec<DiskRecord> {
        self.current_version(reader).disks.values().cloned().collect()
    }

    /// Returns all segments of a volume, in order; adjacent ones are merged.
    pub fn segments(&self, reader: &mut Reader, volume: VolumeId) -> Option<Vec<Segment>> {
        self.current_version(reader)
            .served(volume)
            .map(|volume| volume.map.segments())
    }

    /// Returns true only if the range `[at, at + len)` certainly has the same placements in the current version as at `since`;
    /// the last few thousand moved ranges are remembered.
    #[must_use]
    pub fn unmoved(&self, volume: VolumeId, at: VolumeOffset, len: u64, since: Generation) -> bool {
        let shift = self.extent_size.shift();
        let end = at.0.saturating_add(len.max(1) - 1) >> shift;
        let range = VolumeExtent(at.0 >> shift)..VolumeExtent(end + 1);
        let control = self.control();
        since <= self.generation() && control.moves.unmoved(volume, &range, since)
    }

    /// Checks that the delta fits the current version, builds the next version and switches to it. It is idempotent: a delta
    /// that leads to the current generation is ignored. One thread at a time calls it (the control thread).
    ///
    /// # Errors
    /// Fails if the delta starts from another generation or names something that does not exist; nothing has changed then.
    pub fn apply(&self, delta: &Delta) -> Result<Generation> {
        let mut control = self.control();
        let current = self.current.load_full();
        if delta.from.0.checked_add(1) == Some(current.generation.0) {
            return Ok(current.generation);
        }
        if delta.from != current.generation {
            return Err(stale_delta(delta, current.generation));
        }
        let next = Arc::new(current.patched(delta)?);
        control.moves.note(next.generation, delta);
        Ok(self.switch(&mut control, next))
    }

    /// Replaces the whole table, for a rejoin. The caller has drained all requests.
    ///
    /// # Errors
    /// Fails if the draft belongs to another pool; nothing has changed then.
    pub fn replace(&self, Draft(next): Draft) -> Result<Generation> {
        let next = Arc::new(next);
        if next.extent_size != self.extent_size {
            let why = format!("has extents of {} bytes", next.extent_size.bytes());
            let hint = format!(
                "it had extents of {} bytes: is this another pool?",
                self.extent_size.bytes()
            );
            return Err(Error::failed("the pool", why).hint(hint));
        }
        let mut control = self.control();
        control.moves.compare(&self.current.load_full(), &next);
        Ok(self.switch(&mut control, next))
    }

    fn switch(&self, control: &mut Control, next: Arc<TableVersion>) -> Generation {
        let generation = next.generation;
        control.before = self.current.swap(next);
        self.generation.store(generation.0, Ordering::Release);
        generation
    }

    #[inline]
    fn current_version<'a>(&self, reader: &'a mut Reader) -> &'a TableVersion {
        debug_assert!(
            std::ptr::eq(reader.version.arc_swap(), &raw const *self.current),
            "the reader belongs to another table"
        );
        reader.version.load()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
