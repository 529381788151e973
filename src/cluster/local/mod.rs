//! The cluster of one kernel: the shared member table with its flush ledgers, and locks that the kernel releases when the process that holds them ends.
//!
//! Files in the run directory of a pool:
//!
//! ```text
//! members        a link to the member table, which is in memory
//! arbitration    the controller lock; its text names the holder
//! job-N          held by the process that works on job N; its text names the process
//! attach         held while a volume is attached to a loop device
//! NAME.life      the life lock of the apparatus NAME
//! ```
//!
//! The member table, a file in memory that `POOL/run/members` leads to, is mapped by every process of the pool:
//!
//! ```text
//! offset  size
//!      0   128  header
//!    128  8192  64 entries of 128 bytes, one per slot
//!   8320 16384  256 ledgers of 64 bytes, one per disk id modulo 256
//!  24704        end
//!
//! header       0 magic  8 format  16 boot id (16)  32 pool UUID (16)  48 persisted generation  56 committed generation
//! entry        owner's half:  0 incarnation  8 generation in use  16 oldest generation in use
//!                            24 heartbeat (µs of CLOCK_MONOTONIC)  32 pid
//!              others' half: 64 fenced incarnation
//! ledger       0 dirty  8 flushes started  16 flushes done  24 flushes failed  32 disk id + 1
//!             40 flushes that had failed when no data on the disk was at risk  48 flushing processes, a bit each (16)  (see `DiskLedger`)
//! ```
//!
//! The two UUIDs are 16 bytes in their usual order. All other fields are 64-bit atomics in native order: the file never leaves the machine, and a file of
//! another boot, pool or format is replaced (never rewritten) by the first process that finds it while no table is in use.
//!
//! # Why one word fences
//!
//! An apparatus answers a request in this order: disk I/O, [`FlushLedger::written`](crate::cluster::FlushLedger::written) (for a write), [`OwnEntry::is_fenced`](crate::cluster::OwnEntry::is_fenced), reply. A
//! controller fences in this order: store, [`MemberTable::fence`], then what the fence was for: a copy, another placement.
//!
//! *Writes.* The word may be set between the check of the word and the reply, so a reply can leave after `fence` has returned. That is harmless: the
//! check found 0, so it came before the store of the word; the `pwrite` came before the check; so the data is in the page cache before
//! everything that the controller does after `fence`, and is part of what it copies. "Before" holds on the hardware too: `written` is a full
//! barrier between the `pwrite` and the check, and `fence` makes the kernel put one into every running thread, so the check cannot find 0 while
//! the data is still in a store buffer.
//!
//! *Reads.* A read may fetch its bytes after the check, in the reply itself, and so return the content of the old placement although the table has
//! changed. It is concurrent with the fence: it began before the check, the check came before the store of the word, and any write through a
//! new placement began after that. The old data was valid when the read began, and the old placement still holds it, because it is quarantined
//! until the apparatus has rejoined or ended. A read that begins after the fence finds the word set when it checks it.

mod anchor;
mod boot;
mod cluster;
mod flush_ledger;
mod flushers;
mod job;
mod leadership;
mod left;
mod life;
mod lock;
mod notice;
mod owners;
mod place;
mod pools;
mod shared;
mod table;
mod times;

pub use boot::boot_epoch;
pub use cluster::LocalCluster;
pub use flush_ledger::DiskLedger;
pub use owners::{OpenDisk, Owner, open_disks, owners};
pub use pools::pools_in_use;
pub use table::{MemberTable, OwnLine};
