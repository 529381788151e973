//! Translates the kernel's requests for file locks.

use super::errno;
use crate::locks::{Held, Kind, LockReply, Owner, Range, Refused, Request, TestReply};
use crate::units::VolumeId;
use fuser::{Errno, FileHandle, LockOwner, ReplyEmpty, ReplyLock};

/// What the kernel asks for.
pub(super) struct Wanted {
    pub(super) volume: VolumeId,
    pub(super) handle: FileHandle,
    pub(super) owner: LockOwner,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: i32,
    /// The process and its thread.
    pub(super) process: (u32, u32),
    pub(super) wait: bool,
}

impl Wanted {
    /// The request; none when there is no such kind of lock.
    pub(super) fn request(&self) -> Option<Request> {
        let kind = match self.kind {
            libc::F_RDLCK => Some(Kind::Shared),
            libc::F_WRLCK => Some(Kind::Exclusive),
            libc::F_UNLCK => None,
            _ => return None,
        };
        Some(Request {
            volume: self.volume,
            handle: self.handle.0,
            owner: Owner(self.owner.0),
            range: Range {
                start: self.start,
                end: self.end,
            },
            kind,
            process: self.process,
            wait: self.wait,
        })
    }
}

pub(super) fn to_set(reply: ReplyEmpty) -> LockReply {
    Box::new(move |answer| match answer {
        Ok(()) => reply.ok(),
        Err(why) => reply.error(errno_of(why)),
    })
}

pub(super) fn to_test(reply: ReplyLock) -> TestReply {
    Box::new(move |answer| match answer {
        Ok(Some(Held { kind, range, pid })) => {
            let kind = match kind {
                Kind::Shared => libc::F_RDLCK,
                Kind::Exclusive => libc::F_WRLCK,
            };
            reply.locked(range.start, range.end, kind, pid);
        }
        Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
        Err(why) => reply.error(errno_of(why)),
    })
}

fn errno_of(why: Refused) -> Errno {
    match why {
        Refused::InTheWay => errno::LOCKED,
        Refused::Interrupted => errno::INTERRUPTED,
        Refused::Deadlock => errno::DEADLOCK,
        Refused::NoLocks => errno::NO_LOCKS,
    }
}
