//! File locks of hosts (flock, POSIX and open-file-description locks), which hold through all mounts of a pool.
//!
//! One thread per apparatus does all of it ([`Locks`]), so that a lock never keeps a reader or a worker: requests come through a bounded queue, a
//! request that has to wait is put on a bounded list ([`table`]) and tried again when something is unlocked here, and every [`LOOK`] for what others
//! unlock. Between apparatuses an [`Arbiter`] decides. The one here ([`files`]) is the kernel of the machine; a pool of several machines needs another.
//!
//! What fuser does not pass on:
//!
//! - whether a lock is a flock or a POSIX lock. So a flock is a lock on the whole range, and the two kinds exclude each other, as on NFS;
//! - interrupts. Whether a host that waits has been sent a signal is looked up in `/proc`.
//!
//! An owner's locks end with the last handle that it locked through. Closing does not wait for the apparatus (`FOPEN_NOFLUSH`), so that a process can end
//! while its apparatus is stopped; the price is that a POSIX lock stays while another process has the same open file, and that closing one
//! of several descriptors does not end the locks taken through the others.

mod files;
mod table;

pub use files::RunFiles;

use crate::units::VolumeId;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use table::Table;

/// How often waiting requests are tried again, for locks that end elsewhere.
const LOOK: Duration = Duration::from_millis(20);

/// Requests for locks that may be under way at once; more are refused. As much room again is left for what gives locks back.
const QUEUE: usize = 4096;

/// Who has a lock: a process's table of files, or an open file. Means something on one mount only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// What a lock lets others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Have shared locks, too.
    Shared,
    /// Nothing.
    Exclusive,
}

impl Kind {
    fn excludes(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// Bytes of a file, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// The last.
    pub end: u64,
}

impl Range {
    fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A lock that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its kind.
    pub kind: Kind,
    /// Its bytes.
    pub range: Range,
    /// The process; 0 where that cannot be told.
    pub pid: u32,
}

/// Decides about locks between the apparatuses of a pool. What an apparatus has is given back when its process ends, by whatever means.
pub trait Arbiter: Send {
    /// Changes what `owner` has of the range: this kind of lock, or none. False when somebody else's lock is in the way; nothing has changed then.
    ///
    /// # Errors
    /// When that cannot be decided.
    fn set(&mut self, volume: VolumeId, owner: Owner, range: Range, kind: Option<Kind>) -> io::Result<bool>;
    /// A lock of somebody else that would be in the way.
    ///
    /// # Errors
    /// When that cannot be told.
    fn in_the_way(
        &mut self,
        volume: VolumeId,
        owner: Owner,
        range: Range,
        kind: Kind,
    ) -> io::Result<Option<Held>>;
    /// Gives back all that `owner` has on this volume.
    fn forget(&mut self, volume: VolumeId, owner: Owner);
}

/// Why a lock is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else's lock is in the way.
    InTheWay,
    /// The host was sent a signal while it waited.
    Interrupted,
    /// Those who wait would wait for each other.
    Deadlock,
    /// Too many, or nobody can decide.
    NoLocks,
}

/// Answers a request for a lock.
pub type LockReply = Box<dyn FnOnce(Result<(), Refused>) + Send>;

/// Answers what is in the way.
pub type TestReply = Box<dyn FnOnce(Result<Option<Held>, Refused>) + Send>;

/// A request for a lock, or to give one back.
pub struct Request {
    /// The volume.
    pub volume: VolumeId,
    /// The handle that it comes through: its end gives the lock back at the latest.
    pub handle: u64,
    /// Who asks.
    pub owner: Owner,
    /// Which bytes.
    pub range: Range,
    /// What for; none to give back.
    pub kind: Option<Kind>,
    /// The process that asks, and the thread; 0 where they are of another PID namespace.
    pub process: (u32, u32),
    /// Wait until it can be had.
    pub wait: bool,
}

enum Message {
    Set(Request, LockReply),
    Test(Request, Kind, TestReply),
    /// The handle is gone.
    Released(u64),
}

/// The locks of one apparatus. Its thread ends with the last clone.
#[derive(Clone)]
pub struct Locks {
    queue: Sender<Message>,
    /// Owners that have locks or wait for them.
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
    /// When it cannot be started.
    pub fn start(arbiter: Box<dyn Arbiter>) -> io::Result<Self> {
        let (queue, messages) = bounded(2 * QUEUE);
        let owners = Arc::new(AtomicUsize::new(0));
        let counted = owners.clone();
        let run = move || serve(&messages, Table::new(arbiter), &counted);
        thread::Builder::new().name("locks".into()).spawn(run)?;
        Ok(Self { queue, owners })
    }

    /// Takes, changes or gives back a lock.
    pub fn set(&self, request: Request, reply: LockReply) {
        if request.kind.is_some() && self.queue.len() >= QUEUE {
            return reply(Err(Refused::NoLocks));
        }
        self.send(Message::Set(request, reply));
    }

    /// Tells what is in the way of a lock.
    pub fn test(&self, request: Request, kind: Kind, reply: TestReply) {
        if self.queue.len() >= QUEUE {
            return reply(Err(Refused::NoLocks));
        }
        self.send(Message::Test(request, kind, reply));
    }

    /// A handle has ended.
    pub fn released(&self, handle: u64) {
        if self.owners.load(Ordering::Acquire) > 0 {
            self.send(Message::Released(handle));
        }
    }

    fn send(&self, message: Message) {
        // Full only when the thread hangs; the kernel sends no more at once than there is room for. A dropped request is answered with EIO.
        if self.queue.try_send(message).is_err() {
            log::error!("locks: too much at once, a request was dropped");
        }
    }
}

fn serve(messages: &Receiver<Message>, mut table: Table, owners: &AtomicUsize) {
    loop {
        let message = match table.is_anybody_waiting() {
            true => messages.recv_timeout(LOOK),
            false => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(Message::Set(request, reply)) => {
                // Seen by the end of the handle, which comes after the answer to this.
                owners.store(table.owners() + 1, Ordering::Release);
                table.set(request, reply);
            }
            Ok(Message::Test(request, kind, reply)) => table.test(&request, kind, reply),
            Ok(Message::Released(handle)) => table.released(handle),
            Err(RecvTimeoutError::Timeout) => table.look(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        owners.store(table.owners(), Ordering::Release);
    }
}
