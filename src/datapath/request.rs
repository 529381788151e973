//! A host request, independent of the protocol that it came by.

use super::counting::Count;
use super::metrics::RequestKind;
use crate::blockdev::AlignedBytes;
use crate::gate::{Access, Parkable};
use crate::model::records::Span;
use crate::model::units::{DiskId, Generation, VolumeId, VolumeOffset};
use quanta::Instant;
use std::ops::Deref;

/// Operation that a host requests. `'a` is the lifetime of a write's borrowed data.
#[derive(Debug)]
pub enum Operation<'a> {
    /// Reads bytes of the volume.
    Read {
        /// First byte.
        at: VolumeOffset,
        /// Number of bytes.
        len: u64,
    },
    /// Replaces bytes of the volume.
    Write {
        /// First byte.
        at: VolumeOffset,
        /// The bytes.
        data: Data<'a>,
        /// Whether the write is to be durable before it is acknowledged (`O_DSYNC`, `O_SYNC`).
        durable: bool,
    },
    /// Makes a range read as zeroes.
    Zero {
        /// First byte.
        at: VolumeOffset,
        /// Number of bytes.
        len: u64,
        /// Whether to free the space where the disk can.
        punch: bool,
        /// Whether to ignore the part past the end of the volume; otherwise the request fails.
        clip: bool,
    },
    /// Allocates space for a range on its disks, so that later writes there do not fail for lack of it. The content of the range stays.
    Allocate {
        /// First byte.
        at: VolumeOffset,
        /// Number of bytes.
        len: u64,
        /// Whether to ignore the part past the end of the volume; otherwise the request fails.
        clip: bool,
    },
    /// Makes all acknowledged writes of the volume durable, through whichever apparatus they came.
    Flush,
    /// Counts how much of the volume holds data; a request of the apparatus itself.
    Count(Count),
    /// Finds the next byte from `at` on that is data (or in a hole).
    Seek {
        /// First byte that is considered.
        at: VolumeOffset,
        /// Whether data or a hole is sought.
        to: Target,
    },
}

/// Bytes of a write.
#[derive(Debug)]
pub enum Data<'a> {
    /// Bytes of the thread that has read the request.
    Borrowed(&'a [u8]),
    /// A copy, in memory that is aligned for direct writes.
    Owned(AlignedBytes),
}

impl Data<'_> {
    fn own(self) -> Data<'static> {
        Data::Owned(match self {
            Self::Borrowed(bytes) => AlignedBytes::copy_of(bytes),
            Self::Owned(bytes) => bytes,
        })
    }
}

impl Deref for Data<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Target of a seek.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`; the end of the volume is one.
    Hole,
}

/// Result of a request.
#[derive(Debug)]
pub enum Response<'a> {
    /// A read: the bytes, fewer than requested at the end of the volume. They may be a mapping, so only system calls may access them.
    Data(&'a [u8]),
    /// A read: this many bytes, which are in the memory that [`Reply::space`] has returned.
    Placed(usize),
    /// A write: the number of bytes that are written, from its start.
    Written(u64),
    /// A flush, zeroing or allocation.
    Done,
    /// A seek: the byte that was found.
    Found(VolumeOffset),
    /// The request failed.
    Failed(Failure),
}

/// Reason why a request failed. `frontend/fuse/errno.rs` maps it to an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The volume no longer exists.
    NoVolume,
    /// No part of the range lies inside the volume.
    PastEnd,
    /// A seek found nothing before the end.
    NothingThere,
    /// The volume is read-only, or has become so.
    ReadOnly,
    /// A disk failed or is missing.
    Disk,
    /// The file system of a disk's image has no space left.
    NoRoom,
    /// The owner of a disk's image has reached the quota on its file system.
    Quota,
    /// Changes that a flush depends on could not be persisted.
    NotPersisted,
    /// This apparatus has been fenced for longer than requests may wait.
    Fenced,
    /// This apparatus is ending.
    Ending,
}

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was delivered, or nobody waits for it any more.
    Taken,
    /// The kernel could not read the bytes of the mapping: the disk failed, and the host got EIO.
    Unreadable,
}

/// Reply to one request. Sending consumes it; any thread may send it.
pub trait Reply: Send + Sized + 'static {
    /// Sends the reply.
    fn send(self, answer: Response<'_>) -> Delivery;

    /// Returns memory of this length, in which the bytes of a read are to be when the reply is sent. `None` where the reply takes them from anywhere.
    fn space(&mut self, _len: usize) -> Option<&mut [u8]> {
        None
    }

    /// Returns the same reply with its type erased, so that it can be parked.
    fn boxed(self) -> BoxedReply {
        BoxedReply(Box::new(move |answer| self.send(answer)))
    }
}

/// Type-erased reply.
pub struct BoxedReply(Box<dyn FnOnce(Response<'_>) -> Delivery + Send>);

impl BoxedReply {
    /// Makes a reply that calls `send`.
    pub fn new(send: impl FnOnce(Response<'_>) -> Delivery + Send + 'static) -> Self {
        Self(Box::new(send))
    }
}

impl Reply for BoxedReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        (self.0)(answer)
    }

    fn boxed(self) -> BoxedReply {
        self
    }
}

/// Progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The request has changed nothing.
    Fresh,
    /// The request has reached its disks, but was not acknowledged.
    Reached {
        /// Generation of the table that located it.
        generation: Generation,
        /// Number of bytes from its start that reached the disks.
        bytes: u64,
    },
}

/// Host request, with its reply.
pub struct Request<'a, R> {
    pub(super) volume: VolumeId,
    pub(super) operation: Operation<'a>,
    pub(super) reply: R,
    pub(super) progress: Progress,
    pub(super) since: Instant,
    /// The disk that it has to wait for, if it is a single one.
    pub(super) awaits: Option<DiskId>,
}

/// Fields of a request that are counted after its reply was sent.
pub(super) struct Summary {
    pub(super) volume: VolumeId,
    pub(super) kind: Option<RequestKind>,
    pub(super) since: Instant,
}

/// Request that owns its data, so that it can be parked or sent to another thread.
pub type Owned = Request<'static, BoxedReply>;

impl<'a, R: Reply> Request<'a, R> {
    /// Makes a request that arrives now.
    #[must_use]
    pub fn new(volume: VolumeId, operation: Operation<'a>, reply: R) -> Self {
        Self {
            volume,
            operation,
            reply,
            progress: Progress::Fresh,
            since: Instant::now(),
            awaits: None,
        }
    }

    /// Fails the request.
    pub fn refuse(self, failure: Failure) {
        self.reply.send(Response::Failed(failure));
    }

    /// Returns the same request with its own copy of the data.
    #[cold]
    pub(super) fn own(self) -> Owned {
        let operation = match self.operation {
            Operation::Read { at, len } => Operation::Read { at, len },
            Operation::Write { at, data, durable } => Operation::Write {
                at,
                data: data.own(),
                durable,
            },
            Operation::Zero { at, len, punch, clip } => Operation::Zero { at, len, punch, clip },
            Operation::Allocate { at, len, clip } => Operation::Allocate { at, len, clip },
            Operation::Flush => Operation::Flush,
            Operation::Count(count) => Operation::Count(count),
            Operation::Seek { at, to } => Operation::Seek { at, to },
        };
        Request {
            volume: self.volume,
            operation,
            reply: self.reply.boxed(),
            progress: self.progress,
            since: self.since,
            awaits: self.awaits,
        }
    }

    /// Returns the same request, for a worker that is to wait for its disks: for `disk` if it is a single one.
    #[cold]
    pub(super) fn awaiting(self, disk: Option<DiskId>) -> Owned {
        Request {
            awaits: disk,
            ..self.own()
        }
    }

    /// Turns a write that is done into the flush that has to precede its acknowledgement. The write could be acknowledged now as any other,
    /// so its bytes stay, whatever happens before the flush is done.
    #[cold]
    pub(super) fn then_flush(self, bytes: u64) -> Owned {
        let (volume, reply) = (self.volume, self.reply);
        let reply = BoxedReply::new(move |answer| match answer {
            Response::Failed(failure) => reply.send(Response::Failed(failure)),
            _ => reply.send(Response::Written(bytes)),
        });
        Request::new(volume, Operation::Flush, reply)
    }

    /// Returns the rest of a request whose first `bytes` bytes are done.
    #[cold]
    pub(super) fn after(mut self, bytes: u64) -> Owned {
        if let Operation::Zero { at, len, .. } = &mut self.operation {
            at.0 += bytes;
            *len -= bytes;
        }
        self.progress = Progress::Fresh;
        self.own()
    }

    /// Returns the bytes that it touches. A flush touches none: it depends on the placement of no byte, so no hold delays it. None delays a
    /// count either: both placements of a range that is being moved hold the same.
    pub(super) fn span(&self) -> Span {
        let (start, end) = match &self.operation {
            Operation::Read { at, len }
            | Operation::Zero { at, len, .. }
            | Operation::Allocate { at, len, .. } => (at.0, at.0.saturating_add(*len)),
            Operation::Write { at, data, .. } => (at.0, at.0.saturating_add(data.len() as u64)),
            Operation::Flush | Operation::Count(_) => (0, 0),
            Operation::Seek { at, .. } => (at.0, u64::MAX),
        };
        Span {
            volume: self.volume,
            start: VolumeOffset(start),
            end: VolumeOffset(end),
        }
    }

    pub(super) fn access(&self) -> Access {
        match self.operation {
            Operation::Write { .. } | Operation::Zero { .. } | Operation::Allocate { .. } => Access::Write,
            Operation::Read { .. } | Operation::Flush | Operation::Count(_) | Operation::Seek { .. } => {
                Access::Read
            }
        }
    }

    /// Returns whether it is of a kind that mostly waits for a disk.
    pub(super) fn may_wait(&self) -> bool {
        !matches!(self.operation, Operation::Read { .. } | Operation::Write { .. })
    }

    /// Returns the fields that are counted when it is answered.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            volume: self.volume,
            kind: self.kind(),
            since: self.since,
        }
    }

    /// Returns the kind that it is counted as; seeks, allocations and counts are not counted.
    fn kind(&self) -> Option<RequestKind> {
        match self.operation {
            Operation::Read { .. } => Some(RequestKind::Read),
            Operation::Write { .. } | Operation::Zero { .. } => Some(RequestKind::Write),
            Operation::Flush => Some(RequestKind::Flush),
            Operation::Seek { .. } | Operation::Allocate { .. } | Operation::Count(_) => None,
        }
    }
}

impl Parkable for Owned {
    fn bytes(&self) -> u64 {
        let data = match &self.operation {
            Operation::Write { data, .. } => data.len(),
            _ => 0,
        };
        (data + size_of::<Self>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn request<'a>(operation: Operation<'a>) -> Request<'a, BoxedReply> {
        Request::new(VolumeId(1), operation, BoxedReply::new(|_| Delivery::Taken))
    }

    #[test]
    fn the_rest_of_a_long_zeroing_ends_where_the_whole_did() {
        let zero = Operation::Zero {
            at: VolumeOffset(100),
            len: 50,
            punch: true,
            clip: false,
        };
        let rest = request(zero).after(30);
        assert_eq!(
            (rest.span().start, rest.span().end),
            (VolumeOffset(130), VolumeOffset(150))
        );
        assert_eq!(rest.access(), Access::Write, "a hold of writes covers it");
    }

    #[test]
    fn a_durable_write_is_durable_after_it_was_parked() {
        for durable in [true, false] {
            let data = Data::Borrowed(b"bytes");
            let at = VolumeOffset(7);
            let parked = request(Operation::Write { at, data, durable }).own();
            assert!(
                matches!(&parked.operation, Operation::Write { data, durable: kept, .. } if *kept == durable && **data == *b"bytes")
            );
        }
    }

    #[test]
    fn a_durable_write_whose_flush_fails_has_failed() {
        for (answer, is_written) in [(Response::Done, true), (Response::Failed(Failure::Disk), false)] {
            let written = Arc::new(AtomicBool::new(!is_written));
            let seen = Arc::clone(&written);
            let reply = BoxedReply::new(move |answer| {
                seen.store(matches!(answer, Response::Written(5)), Ordering::Relaxed);
                Delivery::Taken
            });
            let data = Data::Borrowed(b"bytes");
            let write = Operation::Write {
                at: VolumeOffset(0),
                data,
                durable: true,
            };
            let flush = Request::new(VolumeId(1), write, reply).then_flush(5);
            flush.reply.send(answer);
            assert_eq!(written.load(Ordering::Relaxed), is_written);
        }
    }
}
