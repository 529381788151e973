//! The operations behind the command line and the console: what each verb does, independent of terminals.
//!
//! A verb that changes the table plans first ([`plan`], pure), then sends ([`send`]); a dry run stops between the two.

pub mod adopt;
pub mod apparatus;
pub mod apply;
pub mod attach;
pub mod backup;
pub mod certificates;
pub mod check;
pub mod clear;
mod copies;
pub mod denied;
pub mod describe;
pub mod destroy;
pub mod disk;
pub mod disk_path;
pub mod events;
pub mod finding;
pub mod health;
pub mod hold;
pub mod import;
pub mod in_etcd;
pub mod job;
pub mod join;
pub mod label;
mod memory;
pub mod metrics;
pub mod moving;
pub mod node;
mod older;
pub mod open_images;
pub mod place;
pub mod plan;
pub mod pool;
pub mod pools;
pub mod rescue;
pub mod revert;
pub mod room;
pub mod select;
pub mod send;
pub mod status;
#[cfg(test)]
mod testing;
pub mod undelete;
pub mod usage;
pub mod view;
pub mod volume;
pub mod watch;

pub use crate::controller::pool::{open, open_to_rehearse};
