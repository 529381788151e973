//! The configuration information table of an apparatus: two faces, one current, switched.
//!
//! A face is a whole table of one generation, kept in small nodes ([`radix`] has the segments, [`tree`] all else), and never changes. The next one is made from the
//! current one and a difference while nobody looks at it: it shares with the current one all nodes that the difference does
//! not touch, so it takes as long as the difference is large, whatever the size of the table, and two faces take the
//! memory of one. It becomes current by one store of a pointer. The face before it is kept until the next switch, so that it is
//! the control thread that frees what only the face before had, and not a request.
//!
//! A [`Reader`] keeps the face that it saw last. Looking costs one load of the pointer and a comparison; no lock is taken and
//! nothing that others read is written. Readers look only as long as a lookup takes: they copy the few pieces they
//! need, and I/O begins after that, so a slow disk delays no switch.
//!
//! Order: the pointer is stored before the generation's number, with release, and the number is loaded with acquire. So whoever
//! has read a number, or learnt of the switch in any other way that orders memory (the end of a hold, a message),
//! looks at that face or a later one.

mod face;
mod map;
mod moves;
mod patch;
mod radix;
#[cfg(test)]
mod tests;
mod tree;

use crate::error::{Error, Kind, Result};
use crate::pool::model::{Difference, DiskRecord, Segment, Snapshot, VolumeRecord};
use crate::pool::names::Name;
use crate::units::{
    ByteCount, DiskId, DiskOffset, ExtentSize, Generation, VolumeExtent, VolumeId, VolumeOffset,
};
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use face::Face;
use moves::Moves;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One piece of a request: so many bytes at that place of that disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The disk.
    pub disk: DiskId,
    /// Where.
    pub at: DiskOffset,
    /// How many bytes.
    pub len: u64,
}

/// Two faces and the generation of the current one.
#[derive(Debug)]
pub struct Table {
    current: Arc<ArcSwap<Face>>,
    generation: AtomicU64,
    extent_size: ExtentSize,
    control: Mutex<Control>,
}

/// What only the control thread looks at, and whoever asks what has moved.
#[derive(Debug)]
struct Control {
    before: Arc<Face>,
    moves: Moves,
}

/// What one reading thread needs to look at the current face. Not shared.
#[derive(Debug)]
pub struct Reader {
    face: Cache<Arc<ArcSwap<Face>>, Arc<Face>>,
}

/// Why a request has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The volume is gone.
    NoVolume,
    /// The volume may not be written.
    ReadOnly,
    /// The range starts or ends beyond the volume.
    PastEnd(ByteCount),
    /// From here on the volume has no home, though it is large enough. A sound database has no such volume.
    Unmapped(VolumeOffset),
}

/// A table that is being loaded: nobody looks at it yet. Made of what was read from the store, and of what has changed since.
#[derive(Debug)]
pub struct Draft(Face);

impl Draft {
    /// From a snapshot. Takes as long as the table is large.
    ///
    /// # Errors
    /// What in the snapshot contradicts itself.
    pub fn new(snapshot: &Snapshot) -> Result<Self> {
        Face::from_snapshot(snapshot).map(Self)
    }

    /// The same after these changes, in order. Takes as long as they are large.
    ///
    /// # Errors
    /// When one does not start where the one before leads to, or does not fit.
    pub fn after(mut self, differences: &[Difference]) -> Result<Self> {
        for difference in differences {
            if difference.from != self.0.generation {
                return Err(elsewhere(difference, self.0.generation));
            }
            self.0 = self.0.patched(difference)?;
        }
        Ok(self)
    }

    /// The table that was joined with (`Store::join`), where this is the one that was read before.
    ///
    /// # Errors
    /// When the two do not fit.
    pub fn joined(self, snapshot: &Snapshot, since: Option<&[Difference]>) -> Result<Self> {
        match since {
            Some(since) => self.after(since),
            None => Self::new(snapshot),
        }
    }

    /// The table's number.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.0.generation
    }
}

fn elsewhere(difference: &Difference, current: Generation) -> Error {
    let what = format!("difference from generation {}", difference.from);
    Error::new(
        Kind::Stale,
        what,
        format!("this apparatus is at generation {current}"),
    )
}

impl Table {
    /// The first face, from a snapshot.
    ///
    /// # Errors
    /// What in the snapshot contradicts itself.
    pub fn new(snapshot: &Snapshot) -> Result<Self> {
        Draft::new(snapshot).map(Self::of)
    }

    /// The first face, as it was loaded.
    #[must_use]
    pub fn of(Draft(face): Draft) -> Self {
        let face = Arc::new(face);
        Self {
            generation: AtomicU64::new(face.generation.0),
            extent_size: face.extent_size,
            control: Mutex::new(Control {
                before: Arc::clone(&face),
                moves: Moves::new(face.generation),
            }),
            current: Arc::new(ArcSwap::new(face)),
        }
    }

    /// Of the current face. One load.
    #[must_use]
    #[inline]
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// The pool's unit of allocation.
    #[must_use]
    pub fn extent_size(&self) -> ExtentSize {
        self.extent_size
    }

    /// A reader for one thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            face: Cache::new(Arc::clone(&self.current)),
        }
    }

    /// Where `[at, at + len)` of the volume lies, piece by piece in order; pieces adjacent on a disk are one. Answers the
    /// generation they are from. `pieces` is cleared first, and its memory is reused.
    ///
    /// # Errors
    /// [`Missing`]; what `pieces` holds then means nothing.
    pub fn locate(
        &self,
        reader: &mut Reader,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<Generation, Missing> {
        pieces.clear();
        let face = self.look(reader);
        face.locate(volume, at, len, pieces)?;
        Ok(face.generation)
    }

    /// The same for a write: refused where the volume is read-only.
    ///
    /// # Errors
    /// [`Missing`]; what `pieces` holds then means nothing.
    pub fn locate_to_write(
        &self,
        reader: &mut Reader,
        volume: VolumeId,
        at: VolumeOffset,
        len: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<Generation, Missing> {
        pieces.clear();
        let face = self.look(reader);
        face.locate_to_write(volume, at, len, pieces)?;
        Ok(face.generation)
    }

    /// The disks that the volume lies on, each once, in any order, and the generation of the face that says so. Its time depends on
    /// the number of disks, not of segments: each host flush asks.
    ///
    /// # Errors
    /// [`Missing::NoVolume`].
    pub fn disks_of(
        &self,
        reader: &mut Reader,
        volume: VolumeId,
        disks: &mut Vec<DiskId>,
    ) -> Result<Generation, Missing> {
        disks.clear();
        let face = self.look(reader);
        let volume = face.served(volume).ok_or(Missing::NoVolume)?;
        disks.extend(volume.map.homes().keys());
        Ok(face.generation)
    }

    /// A volume's record.
    pub fn volume(&self, reader: &mut Reader, id: VolumeId) -> Option<VolumeRecord> {
        self.look(reader).served(id).map(|volume| volume.record.clone())
    }

    /// A volume by name.
    pub fn lookup(&self, reader: &mut Reader, name: &str) -> Option<VolumeRecord> {
        let name = Name::new("volume", name).ok()?;
        self.look(reader)
            .by_name(&name)
            .map(|volume| volume.record.clone())
    }

    /// All volumes that hosts have, by id.
    pub fn volumes(&self, reader: &mut Reader) -> Vec<VolumeRecord> {
        let volumes = self.look(reader).all_volumes();
        let served = volumes.iter().filter(|volume| !volume.hidden);
        served.map(|volume| volume.record.clone()).collect()
    }

    /// The first volumes that hosts have from this number on, by id, at most `most`: its time depends on `most` alone.
    pub fn volumes_from(&self, reader: &mut Reader, first: VolumeId, most: usize) -> Vec<VolumeRecord> {
        let mut found = Vec::new();
        self.look(reader).volumes.each_from(&first, |_, volume| {
            if !volume.hidden {
                found.push(volume.record.clone());
            }
            found.len() < most
        });
        found
    }

    /// All disks, by id.
    pub fn disks(&self, reader: &mut Reader) -> Vec<DiskRecord> {
        self.look(reader).disks.values().cloned().collect()
    }

    /// All segments of a volume, in order; adjacent ones are merged.
    pub fn segments(&self, reader: &mut Reader, volume: VolumeId) -> Option<Vec<Segment>> {
        self.look(reader)
            .served(volume)
            .map(|volume| volume.map.segments())
    }

    /// Whether the range `[at, at + len)` has the same homes in the current face as it had at `since`. True only if
    /// surely so: the last few thousand moved ranges are remembered.
    #[must_use]
    pub fn unmoved(&self, volume: VolumeId, at: VolumeOffset, len: u64, since: Generation) -> bool {
        let shift = self.extent_size.shift();
        let end = at.0.saturating_add(len.max(1) - 1) >> shift;
        let range = VolumeExtent(at.0 >> shift)..VolumeExtent(end + 1);
        let control = self.control();
        since <= self.generation() && control.moves.unmoved(volume, &range, since)
    }

    /// Checks that the difference fits the current face, makes the next face and switches. Idempotent: a difference
    /// that leads to the current generation is passed over. Called by one thread at a time (the control thread).
    ///
    /// # Errors
    /// When it starts from another generation or names what is not there; nothing has changed then.
    pub fn apply(&self, difference: &Difference) -> Result<Generation> {
        let mut control = self.control();
        let current = self.current.load_full();
        if difference.from.0.checked_add(1) == Some(current.generation.0) {
            return Ok(current.generation);
        }
        if difference.from != current.generation {
            return Err(elsewhere(difference, current.generation));
        }
        let next = Arc::new(current.patched(difference)?);
        control.moves.note(next.generation, difference);
        Ok(self.switch(&mut control, next))
    }

    /// Replaces everything: rejoin. The caller has drained all requests.
    ///
    /// # Errors
    /// When it is another pool's; nothing has changed then.
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

    fn switch(&self, control: &mut Control, next: Arc<Face>) -> Generation {
        let generation = next.generation;
        control.before = self.current.swap(next);
        self.generation.store(generation.0, Ordering::Release);
        generation
    }

    #[inline]
    fn look<'a>(&self, reader: &'a mut Reader) -> &'a Face {
        debug_assert!(
            std::ptr::eq(reader.face.arc_swap(), &raw const *self.current),
            "a reader of another table"
        );
        reader.face.load()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
