//! The configuration information table of an apparatus: two faces, one current, switched.
//!
//! A change patches the idle face with the differences it has not seen (its own and the one before), makes it current,
//! and waits until no reader looks at the old face. Readers look only as long as a lookup takes: they copy the few homes they need and let go before any I/O.

use crate::error::Result;
use crate::pool::model::{Difference, Snapshot, VolumeRecord};
use crate::units::{ByteCount, DiskId, DiskOffset, ExtentSize, Generation, VolumeId, VolumeOffset};

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
pub struct Table {
    _private: (),
}

/// What one reading thread needs to look at the current face. Not shared.
pub struct Reader {
    _private: (),
}

/// Why a request has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The volume is gone.
    NoVolume,
    /// The range starts or ends beyond the volume.
    PastEnd(ByteCount),
}

impl Table {
    /// Both faces from a snapshot.
    #[must_use]
    pub fn new(_snapshot: &Snapshot) -> Self {
        todo!()
    }

    /// Of the current face. One load.
    #[must_use]
    pub fn generation(&self) -> Generation {
        todo!()
    }

    /// The pool's unit of allocation.
    #[must_use]
    pub fn extent_size(&self) -> ExtentSize {
        todo!()
    }

    /// A reader for one thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        todo!()
    }

    /// Where `[at, at + len)` of the volume lies, piece by piece in order; pieces adjacent on a disk are one. Answers the
    /// generation they are from. `pieces` is cleared first, and its memory is reused.
    ///
    /// # Errors
    /// [`Missing`].
    pub fn locate(
        &self,
        _reader: &mut Reader,
        _volume: VolumeId,
        _at: VolumeOffset,
        _len: u64,
        _pieces: &mut Vec<Piece>,
    ) -> Result<Generation, Missing> {
        todo!()
    }

    /// The disks that the volume lies on, each once, in any order, and the generation of the face that says so. Its time depends on
    /// the number of disks, not of segments: each host flush asks.
    ///
    /// # Errors
    /// [`Missing::NoVolume`].
    pub fn disks_of(
        &self,
        _reader: &mut Reader,
        _volume: VolumeId,
        _disks: &mut Vec<DiskId>,
    ) -> Result<Generation, Missing> {
        todo!()
    }

    /// A volume's record and the generation it is from.
    pub fn volume(&self, _reader: &mut Reader, _id: VolumeId) -> Option<VolumeRecord> {
        todo!()
    }

    /// A volume by name.
    pub fn lookup(&self, _reader: &mut Reader, _name: &str) -> Option<VolumeRecord> {
        todo!()
    }

    /// All volumes, by id.
    pub fn volumes(&self, _reader: &mut Reader) -> Vec<VolumeRecord> {
        todo!()
    }

    /// Whether the range `[at, at + len)` has the same homes in the current face as it had at `since`. True only if
    /// surely so.
    #[must_use]
    pub fn unmoved(&self, _volume: VolumeId, _at: VolumeOffset, _len: u64, _since: Generation) -> bool {
        todo!()
    }

    /// Checks that the difference fits the current face, patches the idle one and switches. Idempotent: a difference
    /// that leads to the current generation is passed over. Called by one thread at a time (the control thread).
    ///
    /// # Errors
    /// When it starts from another generation or names what is not there; nothing has changed then.
    pub fn apply(&self, _difference: &Difference) -> Result<Generation> {
        todo!()
    }

    /// Replaces everything: rejoin. The caller has drained all requests.
    pub fn replace(&self, _snapshot: &Snapshot) {
        todo!()
    }
}
