//! What a pool consists of: disks, volumes, segments, and the difference between two tables. Pure: no I/O.

pub mod alloc;
pub mod dir;
pub mod holds;
pub mod model;
pub mod names;
pub mod options;
pub mod size;

/// What every mount of an apparatus is called in the mount table, behind `fuse.`: so it is told from other mounts.
pub const FILE_SYSTEM: &str = "apparatus";
