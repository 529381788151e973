//! File locks of hosts (flock, POSIX and open-file-description locks), which are effective through all mounts of a pool.
//!
//! One thread per apparatus does all the work ([`Locks`]), so that a lock never blocks a reader or a worker: requests come
//! through a bounded queue; a request that has to wait is put on a bounded list ([`table`]) and tried again when something is
//! unlocked here, and every [`RETRY`] for locks that are released elsewhere. Between apparatuses an [`Arbiter`] decides. The
//! one here ([`files`]) is the kernel of the machine; in a pool with several nodes locks are refused ([`one_node`]).
//!
//! The frontend does not pass on:
//!
//! - whether a lock is a flock or a POSIX lock. So a flock is a lock on the whole range, and the two kinds exclude each other,
//!   as on NFS;
//! - interrupts. So `/proc` has to show whether a host that waits has been sent a signal.
//!
//! An owner's locks end with the last handle through which it locked. Closing does not wait for the apparatus
//! (`FOPEN_NOFLUSH`), so that a process can end while its apparatus is stopped; the price is that a POSIX lock stays while
//! another process has the same open file, and that closing one of several descriptors does not end the locks taken through the
//! others.

mod files;
mod one_node;
mod table;

pub use files::{KeptLock, RunFiles};
pub use one_node::{HasOthers, OneNode};

use crate::model::units::VolumeId;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use table::Table;

/// Interval at which waiting requests are tried again, for locks that end elsewhere.
const RETRY: Duration = Duration::from_millis(20);

/// Largest number of lock requests in the queue; more are refused. The same room again is left for messages that release locks.
const QUEUE: usize = 4096;

/// The owner of a lock: a process's table of files, or an open file. The number is meaningful on one mount only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// Mode of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Others may have shared locks too.
    Shared,
    /// Others may have no lock.
    Exclusive,
}

impl LockMode {
    fn excludes(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// Bytes of a file, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
}

impl Range {
    fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A lock that an owner has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// Its mode.
    pub kind: LockMode,
    /// Its bytes.
    pub range: Range,
    /// The process; 0 if it is not known.
    pub pid: u32,
}

/// Decides about locks between the apparatuses of a pool. Locks of an apparatus are released when its process ends, in whatever
/// way.
pub trait Arbiter: Send {
    /// Changes the lock of `owner` on the range to this mode, or to none. Returns false if another owner's lock conflicts;
    /// nothing has changed then.
    ///
    /// # Errors
    /// Fails if the arbiter cannot decide.
    fn set(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: Option<LockMode>,
    ) -> io::Result<bool>;
    /// Returns a lock of another owner that would conflict.
    ///
    /// # Errors
    /// Fails if the arbiter cannot decide.
    fn conflict(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: LockMode,
    ) -> io::Result<Option<HeldLock>>;
    /// Releases all locks of `owner` on this volume.
    fn forget(&mut self, volume: VolumeId, owner: Owner);
    /// Records the handle that `owner` has locked through last, for a process after this one.
    ///
    /// # Errors
    /// Fails if it cannot be recorded.
    fn record(&mut self, _: VolumeId, _: Owner, _: Through) -> io::Result<()> {
        Ok(())
    }
    /// Returns the locks that a process before this one has left. Called once, before anything else.
    fn left(&mut self) -> Vec<LeftLocks> {
        Vec::new()
    }
}

/// The handle that an owner has locked through, and its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// The handle.
    pub handle: u64,
    /// The process; 0 if it is not known.
    pub pid: u32,
}

/// Locks of one owner that a process before this one has left.
#[derive(Debug)]
pub struct LeftLocks {
    /// The volume.
    pub volume: VolumeId,
    /// The owner.
    pub owner: Owner,
    /// The handle that it locked through last.
    pub handle: u64,
    /// The locks.
    pub held: Vec<HeldLock>,
}

/// Keeps locks of hosts beyond this process.
pub trait LockStore: Send {
    /// Keeps the open file that has the locks of `owner`.
    ///
    /// # Errors
    /// Fails if it cannot be kept.
    fn keep(&mut self, volume: VolumeId, owner: Owner, file: BorrowedFd<'_>) -> io::Result<()>;
    /// Records the handle that `owner` has locked through last.
    ///
    /// # Errors
    /// Fails if it cannot be recorded.
    fn record(&mut self, volume: VolumeId, owner: Owner, through: Through) -> io::Result<()>;
    /// Forgets the owner.
    fn release(&mut self, volume: VolumeId, owner: Owner);
}

/// Why a lock is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another owner's lock conflicts.
    Conflict,
    /// The host was sent a signal while it waited.
    Interrupted,
    /// Several waiting owners would wait for each other.
    Deadlock,
    /// There are too many locks, or the arbiter cannot decide.
    NoLocks,
}

/// Reply to a request for a lock.
pub type LockReply = Box<dyn FnOnce(Result<(), Refused>) + Send>;

/// Reply to a test: the conflicting lock.
pub type TestReply = Box<dyn FnOnce(Result<Option<HeldLock>, Refused>) + Send>;

/// A request to take or release a lock.
pub struct Request {
    /// The volume.
    pub volume: VolumeId,
    /// The handle that it comes through: the end of the handle releases the lock at the latest.
    pub handle: u64,
    /// The owner that asks.
    pub owner: Owner,
    /// The range.
    pub range: Range,
    /// The mode; `None` releases the lock.
    pub kind: Option<LockMode>,
    /// The process and the thread that ask; 0 if they belong to another PID namespace.
    pub process: (u32, u32),
    /// Whether the request waits until the lock is free.
    pub wait: bool,
}

enum Message {
    Set(Request, LockReply),
    Test(Request, LockMode, TestReply),
    /// The handle has ended.
    Released(u64),
}

/// The locks of one apparatus. Its thread ends with the last clone.
#[derive(Clone)]
pub struct Locks {
    queue: Sender<Message>,
    /// Number of owners that have locks or wait for them.
    owners: Arc<AtomicUsize>,
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks")
            .field("owners", &self.owners)
            .finish_non_exhaustive()
    }
}

impl Locks {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub fn start(arbiter: Box<dyn Arbiter>) -> io::Result<Self> {
        let (queue, messages) = bounded(2 * QUEUE);
        let table = Table::new(arbiter);
        let owners = Arc::new(AtomicUsize::new(table.owners()));
        let counted = owners.clone();
        let run = move || serve(&messages, table, &counted);
        thread::Builder::new().name("locks".into()).spawn(run)?;
        Ok(Self { queue, owners })
    }

    /// Takes, changes or releases a lock.
    pub fn set(&self, request: Request, reply: LockReply) {
        if request.kind.is_some() && self.queue.len() >= QUEUE {
            return reply(Err(Refused::NoLocks));
        }
        self.send(Message::Set(request, reply));
    }

    /// Tests a lock: replies with a conflicting one.
    pub fn test(&self, request: Request, kind: LockMode, reply: TestReply) {
        if self.queue.len() >= QUEUE {
            return reply(Err(Refused::NoLocks));
        }
        self.send(Message::Test(request, kind, reply));
    }

    /// Releases the locks of a handle that has ended.
    pub fn released(&self, handle: u64) {
        if self.owners.load(Ordering::Acquire) > 0 {
            self.send(Message::Released(handle));
        }
    }

    fn send(&self, message: Message) {
        // The queue is full only if the thread hangs; the kernel sends at most as many requests at once as there is room for. A
        // dropped request is answered with EIO.
        if self.queue.try_send(message).is_err() {
            log::error!("locks: the queue is full, a request was dropped; its host gets EIO");
        }
    }
}

fn serve(messages: &Receiver<Message>, mut table: Table, owners: &AtomicUsize) {
    loop {
        let message = match table.has_waiting() {
            true => messages.recv_timeout(RETRY),
            false => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(Message::Set(request, reply)) => {
                // The end of the handle, which comes after the reply, sees this value.
                owners.store(table.owners() + 1, Ordering::Release);
                table.set(request, reply);
            }
            Ok(Message::Test(request, kind, reply)) => table.test(&request, kind, reply),
            Ok(Message::Released(handle)) => table.released(handle),
            Err(RecvTimeoutError::Timeout) => table.retry_waiting(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        owners.store(table.owners(), Ordering::Release);
    }
}
