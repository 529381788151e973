//! The roles of the store, a file each.

mod changes;
mod events;
mod jobs;
mod members;
mod metadata;
mod nodes;
mod removed;
mod table;
pub(super) mod upkeep;
