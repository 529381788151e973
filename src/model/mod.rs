//! What a pool consists of: disks, volumes, segments, and the delta between two tables. Pure: no I/O.

pub mod alloc;
pub(crate) mod areas;
pub mod audit;
#[cfg(test)]
pub(crate) mod build;
pub mod change;
pub mod dir;
pub mod error;
pub mod event;
pub mod holds;
pub mod job;
pub mod member;
pub mod names;
pub mod node;
pub mod options;
pub(crate) mod ranges;
pub mod records;
pub mod removed;
pub mod size;
pub mod units;
pub mod words;

/// The subtype of an apparatus's mount in the mount table (behind `fuse.`), which distinguishes it from other mounts.
pub const FILE_SYSTEM: &str = "apparatus";
