//! Disks: labels, opening and checking, and I/O. All access goes through the page cache: reads from a shared mapping (which only the kernel reads)
//! or by `pread`, writes by `pwrite`. In a direct pool all access goes past it, by `pread` and `pwrite` with `O_DIRECT`.
//!
//! A failing disk causes an error and nothing worse: a system call that gets [`Disk::mapped`] bytes fails with EFAULT where a page cannot be read, and
//! [`Disk::read_at`] returns the reason then. An image that has become shorter has lost the bytes beyond its end. They stay lost for this opening
//! even if the file grows again, so that the new zeroes are not taken for data.

mod acceptable;
mod aligned;
mod claim;
mod content;
mod copy;
pub mod device;
mod durable;
mod faults;
pub mod found;
mod identity;
mod io;
pub mod label;
mod labelled;
pub mod metadata;
mod open;
mod pending;
mod probe;
mod room;
mod set;
mod signature;
mod stack;
mod unlabelled;
pub(crate) mod with_timeout;
mod writers;

pub use acceptable::is_this_disk;
pub use aligned::AlignedBytes;
pub use copy::{CopyError, is_zero};
pub use durable::{GrownImage, grow_image};
pub use faults::{FaultCounts, Operation};
pub use open::{Disk, Waived};
pub use pending::{
    Opening, Pending, ask_disks_in_children, ask_first, close_in_background, on_helper_thread,
    probe_if_asked, waiting_for, within,
};
pub use probe::{Candidate, create_image, wipe_label};
pub use room::{ImageSpace, preallocate};
pub use set::{Disks, OpenDisks};
pub use unlabelled::Unlabelled;
