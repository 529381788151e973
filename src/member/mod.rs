//! Membership and fencing on one host: the shared member table, flush marks, life locks, the arbitration lock.
//!
//! The member table, a file in memory that `POOL/run/members` leads to, is mapped by every process of the pool:
//!
//! ```text
//! offset  size
//!      0   128  header
//!    128  8192  64 lines of 128 bytes, one per slot
//!   8320 16384  256 marks of 64 bytes, one per disk id modulo 256
//!  24704        end
//!
//! header       0 magic  8 format  16 boot id (16)  32 pool UUID (16)  48 hardened generation  56 committed generation
//! line         owner's half:  0 incarnation  8 generation in use  16 oldest generation in use
//!                            24 heartbeat (µs of CLOCK_MONOTONIC)  32 pid
//!              others' half: 64 fenced incarnation
//! mark         0 dirty  8 flushes started  16 flushes done  24 flushes failed  32 disk id + 1
//!             40 flushes that had failed when nothing on the disk was at risk  48 who is flushing, a bit each (16)  (see `DiskMarks`)
//! ```
//!
//! Apart from the two identities, which are 16 bytes as they come, all are 64-bit atomics in native order: the file never leaves
//! the machine, and a file of another boot, pool or format is replaced (never rewritten) by whoever finds it while nobody uses one.
//!
//! # Why one word fences
//!
//! An apparatus answers a request in this order: disk I/O, [`DiskMarks::written`] (for a write), [`MyLine::fenced`], reply. A
//! controller fences in this order: store, [`MemberTable::fence`], then what the fence was for: a copy, another home.
//!
//! *Writes.* Between the look at the word and the reply the word may be set, so a reply can leave after `fence` has returned. That
//! is harmless: the look found 0, so it came before the store of the word; the `pwrite` came before the look; so the data is in the
//! page cache before anything that the controller does after `fence`, and is part of whatever it copies. "Before" holds
//! on the hardware too: `written` is a full barrier between the `pwrite` and the look, and `fence` has the kernel put one
//! into every running thread, so the look cannot find 0 while the data still waits in a store buffer.
//!
//! *Reads.* A read may fetch its bytes after the look, in the reply itself, and so return what the old home holds though the table
//! has moved on. It is concurrent with the fence: it began before the look, the look came before the store of the word, and any
//! write through a new home was begun after that. The old data was the truth when the read began, and the old home still
//! holds it, because it is quarantined until the apparatus has rejoined or ended. A read that begins after the fence finds the word
//! set when it comes to the look.

mod anchor;
mod flushers;
mod left;
mod life;
mod lock;
mod marks;
mod place;
mod shared;
mod table;
pub mod times;

pub use left::LeftWrite;
pub use life::{Origin, anybody_lives, lives};
pub use lock::{ArbitrationLock, AttachLock, DiscardLock, LifeLock};
pub use marks::DiskMarks;
pub use table::{Line, MemberTable, MyLine};

/// Apparatuses per pool.
pub const SLOTS: u32 = 64;
