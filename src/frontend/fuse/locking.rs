//! Translates FUSE requests for file locks.

use super::answer::Answer;
use super::errno;
use super::wire::{self, FileLock};
use crate::locks::{HeldLock, LockMode, LockReply, Owner, Range, Refused, Request, TestReply};
use crate::model::units::VolumeId;
use rustix::io::Errno;

/// Lock request of the kernel.
pub(super) struct Wanted {
    pub(super) volume: VolumeId,
    pub(super) lock: wire::Lock,
    /// The thread that asks.
    pub(super) thread: u32,
    pub(super) wait: bool,
}

impl Wanted {
    /// Returns the request, or `None` when there is no such kind of lock.
    pub(super) fn request(&self) -> Option<Request> {
        let wire::Lock {
            handle,
            owner,
            lock:
                FileLock {
                    start,
                    end,
                    kind,
                    pid,
                },
            ..
        } = self.lock;
        let kind = match kind {
            libc::F_RDLCK => Some(LockMode::Shared),
            libc::F_WRLCK => Some(LockMode::Exclusive),
            libc::F_UNLCK => None,
            _ => return None,
        };
        Some(Request {
            volume: self.volume,
            handle,
            owner: Owner(owner),
            range: Range { start, end },
            kind,
            process: (pid, self.thread),
            wait: self.wait,
        })
    }
}

pub(super) fn to_set(reply: Answer) -> LockReply {
    Box::new(move |answer| match answer {
        Ok(()) => reply.done(),
        Err(why) => reply.error(errno_of(why)),
    })
}

pub(super) fn to_test(reply: Answer) -> TestReply {
    Box::new(move |answer| match answer {
        Ok(held) => reply.structure(&file_lock(held)),
        Err(why) => reply.error(errno_of(why)),
    })
}

fn file_lock(held: Option<HeldLock>) -> FileLock {
    let Some(HeldLock { kind, range, pid }) = held else {
        return FileLock {
            start: 0,
            end: 0,
            kind: libc::F_UNLCK,
            pid: 0,
        };
    };
    FileLock {
        start: range.start,
        end: range.end,
        kind: match kind {
            LockMode::Shared => libc::F_RDLCK,
            LockMode::Exclusive => libc::F_WRLCK,
        },
        pid,
    }
}

fn errno_of(why: Refused) -> Errno {
    match why {
        Refused::Conflict => errno::LOCKED,
        Refused::Interrupted => errno::INTERRUPTED,
        Refused::Deadlock => errno::DEADLOCK,
        Refused::NoLocks => errno::NO_LOCKS,
    }
}
