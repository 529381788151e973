//! What a pool consists of: disks, volumes, segments, and the difference between two tables. Pure: no I/O.

pub mod dir;
pub mod model;
pub mod names;
