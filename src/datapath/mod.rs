//! The data path: takes a host request from its arrival to its reply, through gate, table, disk and fence check. It does not know FUSE.
//!
//! ```text
//!                              +--------- parked in the gate <---------+
//!                              | released: workers                     | held, or fenced
//!                              v                                       |
//!  reader thread --------> enter the gate -> locate -> fence? -> I/O -> fence? -> reply -> leave
//!                              ^                |
//!                              | workers        | may wait long: cold read, zeroing, seek, flush
//!                              +----------------+ (it leaves the gate first, and enters again)
//! ```
//!
//! Reader threads ([`Role::Reader`]) never wait for a hold, and hand requests that may wait for a disk to workers. There are as many
//! workers as are needed, up to a bound. The control thread ([`crate::datapath::Runtime`]) only takes requests out of the gate and
//! queues them.
//!
//! [`Apparatus`] consists of parts. Each owns its state, and gets the other parts that it needs when it is made:
//!
//! | part | state |
//! |---|---|
//! | `submit` | none: the way of a request through the other parts |
//! | `io`, with `seek` and `counting` | none: locates a request and carries it out on the disks |
//! | `read_buffer` | memory of one thread for reads that are not answered from a mapping |
//! | `context` | of one thread: lane, reader of the table, buffers, counters |
//! | `parking`, `park_timeouts` | the gate with the parked requests; how long they may wait |
//! | `workers`, with the pure `run_queues` | worker threads and their queues |
//! | `flush`, with `losses` and `unpersisted` | flushes that run, write errors to report, changes that flushes depend on |
//! | `waiting_flushes` | flushes that wait for the store |
//! | `lookup` | a reader of the table for the other threads |
//! | `open_files`, with `handles` | open handles, blocks on opens |
//! | `occupied`, `times`, `space` | allocated sizes, times of writing, the pool's size |
//! | `readers` | how many reader threads there are, and wait |
//! | `metrics`, `figures` | counters of each thread; the metrics |
//! | `threads` | none: starts threads |
//! | `notices` | the channel of notices to the kernel |
//! | `control` | none: the operations of the control thread on these parts |

mod apparatus;
mod cold;
mod context;
mod control;
mod counting;
mod figures;
mod flush;
mod handles;
mod io;
mod lookup;
mod losses;
mod metrics;
mod notices;
mod occupied;
mod open_files;
mod park_timeouts;
mod parking;
mod read_buffer;
mod readers;
mod request;
mod run_queues;
pub mod runtime;
mod seek;
mod space;
mod start_time;
mod submit;
pub mod threads;
mod times;
mod unpersisted;
mod waiting_flushes;
mod waker;
mod workers;

pub use apparatus::{Apparatus, calibrate};
pub use context::{IoContext, Role};
pub use control::ControlPort;
pub use handles::{NotOpened, OpenRecords, OpenReply, Opening};
pub use notices::KernelNotice;
pub use occupied::Occupancy;
pub use request::{BoxedReply, Data, Delivery, Failure, Operation, Owned, Reply, Request, Response, Target};
pub use runtime::Runtime;
pub use space::Space;
pub use threads::{SystemThreads, Threads};
pub use waker::Waker;

use crate::blockdev::Disks;
use crate::cluster::{FlushLedgers, OwnEntry};
use crate::map::Table;
use crate::model::error::Result;
use crate::model::names::Name;
use crate::model::records::{DiskAccess, DiskRecord};
use crate::model::units::{DiskId, Generation, VolumeId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bounds of an apparatus's data path.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of reader threads, and of other threads that look volumes up.
    pub readers: usize,
    /// Maximum number of worker threads, which wait for disks.
    pub workers: usize,
    /// Maximum number of bytes of write data that are parked, and that wait for a worker.
    pub parked_bytes: u64,
    /// Maximum number of requests that are parked, and that wait for a worker.
    pub parked: usize,
    /// Maximum number of holds in place.
    pub holds: usize,
    /// How long requests wait at a fenced apparatus before they fail with EIO.
    pub fenced: Duration,
    /// Reads of up to this many bytes are answered from memory of the thread instead of a mapping of the disk, so that the kernel waits for no page when it
    /// copies the answer; 0 for none.
    pub copied_reads: usize,
}

/// [`Limits::copied_reads`] of a server whose requests another one goes on with. Larger reads cost less from a mapping whose pages are made present.
pub const SMALL_READ: usize = 16 << 10;

/// Persists committed changes, so that they survive power loss, as a host's flush needs it.
pub trait Persist: Send + Sync {
    /// Persists the committed changes of this volume up to this generation, after flushing the disks that they need. Does not wait for an
    /// operation that another thread waits for already.
    ///
    /// # Errors
    /// Fails when the changes cannot be made durable; the host's flush fails too then.
    fn persist(&self, volume: VolumeId, generation: Generation) -> Result<PersistState>;
    /// Counts the events that make a retry worthwhile; see [`PersistState::Later`].
    fn completions(&self) -> u64 {
        0
    }
    /// Returns why the store cannot be used now, if it cannot: flushes that depend on changes wait for it.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// Returns whether waiting flushes are to be retried now although no event asks for it. Called a few times a second.
    fn wants_retry(&self) -> bool {
        false
    }
    /// Returns the disks that are being flushed to persist changes, and for how long.
    fn flushing(&self) -> Vec<(DiskId, Duration)> {
        Vec::new()
    }
}

/// Result of [`Persist::persist`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistState {
    /// The changes are persisted.
    Done,
    /// The changes are not persisted yet. The caller retries when [`Persist::completions`] differs from this number
    /// ([`crate::datapath::Runtime::flush_again`] is called then), or after a while.
    Later(u64),
}

/// Reports failures to the operator. The data path calls it, so it must not wait.
pub trait Report: Send + Sync {
    /// Reports that an operation on a disk failed.
    fn disk_failed(&self, disk: &str, what: &str, why: &str);
    /// Reports that committed changes could not be made durable.
    fn persist_failed(&self, why: &str);
}

/// Parts that an apparatus is built from.
pub struct Parts {
    /// Name of the apparatus.
    pub name: Name,
    /// The table that it joined with.
    pub table: Table,
    /// The open disks; requests for other disks fail.
    pub disks: Disks,
    /// Records of all disks of the pool, as of the table that it joined with.
    pub records: Vec<DiskRecord>,
    /// The flush ledgers of all disks.
    pub ledgers: Arc<dyn FlushLedgers>,
    /// Its own entry among the members, of the incarnation that it joined with.
    pub entry: Arc<dyn OwnEntry>,
    /// Wakes the control thread.
    pub waker: Arc<Waker>,
    /// Starts its threads.
    pub threads: Arc<dyn Threads>,
    /// Persists changes for flushes.
    pub persist: Arc<dyn Persist>,
    /// Reports failures to the operator.
    pub report: Arc<dyn Report>,
    /// How the disks are read and written.
    pub access: DiskAccess,
    /// Bounds of threads, queues and waits.
    pub limits: Limits,
    /// Asks the process to stop; [`crate::datapath::Runtime::stop`] calls it.
    pub stop: Box<dyn Fn() + Send + Sync>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
