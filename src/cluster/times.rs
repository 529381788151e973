//! Modification times of volumes, as each apparatus publishes them for the others and for its next incarnation.

use crate::model::units::VolumeId;
use std::collections::BTreeMap;
use std::io;

/// Last times of writing of volumes, in microseconds since 1970.
pub type Times = BTreeMap<VolumeId, u64>;

/// Times that one apparatus has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModificationTimes {
    /// Whether the apparatus has not ended cleanly since, so that there may be later writes.
    pub serves: bool,
    /// Last times of writing through this apparatus.
    pub times: Times,
}

/// Modification times of one pool, for one apparatus to publish and observe.
pub trait SharedTimes: Send {
    /// Returns the times that this apparatus, in any incarnation, has published last, or `None` where it has published none.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    fn own(&self) -> io::Result<Option<ModificationTimes>>;

    /// Publishes times. A power loss leaves these or earlier ones.
    ///
    /// # Errors
    /// Fails when they cannot be published.
    fn publish(&self, published: &ModificationTimes) -> io::Result<()>;

    /// Returns the times that others have published since the last call.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    fn observe(&mut self) -> io::Result<Times>;
}
