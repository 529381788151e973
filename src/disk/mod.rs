//! Disks: labels, how a disk is opened and checked, and the I/O on it. One way of access for everyone: reads from a shared
//! mapping (handed to the kernel, never looked at here) or by `pread`, writes by `pwrite`, all through the page cache.
//!
//! A disk that fails answers with an error, and nothing else: [`Disk::mapped`] bytes given to a system call answer EFAULT where
//! a page cannot be had, [`Disk::read_at`] then says why. An image found shorter than it was opened with has lost what lay
//! beyond; that stays lost for this opening, even if the file grows again, so that nobody takes the new zeroes for data.

pub(crate) mod aside;
mod claim;
mod content;
mod copy;
mod durable;
mod faults;
mod identity;
mod io;
pub mod label;
mod labelled;
mod mapping;
mod open;
mod pending;
mod probe;
mod room;
mod set;
mod signature;
mod stack;
mod unlabelled;

pub use copy::{CopyError, is_zero};
pub use durable::grow_image;
pub use faults::{FaultCounts, Operation};
pub use open::{Disk, Waived};
pub use pending::{
    Opening, Pending, ask_disks_in_children, ask_first, close_aside, on_helper_thread, waiting_for, within,
};
pub use probe::{Candidate, create_image, wipe_label};
pub use room::{Room, preallocate};
pub use set::{Disks, View};
pub use unlabelled::Unlabelled;
