//! A host request, without the protocol that it came by.

use super::figures::Kind;
use super::occupied::Count;
use crate::gate::{Access, Parkable};
use crate::pool::model::Span;
use crate::units::{DiskId, Generation, VolumeId, VolumeOffset};
use quanta::Instant;
use std::borrow::Cow;

/// What a host asks for. `'a` is how long the data of a write is lent.
#[derive(Debug)]
pub enum Operation<'a> {
    /// Bytes of the volume.
    Read {
        /// First byte.
        at: VolumeOffset,
        /// How many.
        len: u64,
    },
    /// Replaces bytes of the volume.
    Write {
        /// First byte.
        at: VolumeOffset,
        /// The bytes.
        data: Cow<'a, [u8]>,
        /// Durable before it is acknowledged (`O_DSYNC`, `O_SYNC`).
        durable: bool,
    },
    /// Makes a range read as zeroes.
    Zero {
        /// First byte.
        at: VolumeOffset,
        /// How many.
        len: u64,
        /// By giving the space back where the disk can.
        punch: bool,
        /// What lies past the end is passed over; else it is refused.
        clip: bool,
    },
    /// Gets space for a range from its disks, so that writing there does not fail for want of it. What the range holds stays.
    Allocate {
        /// First byte.
        at: VolumeOffset,
        /// How many.
        len: u64,
        /// What lies past the end is passed over; else it is refused.
        clip: bool,
    },
    /// Makes durable what was acknowledged, through whichever apparatus.
    Flush,
    /// How much of the volume holds data: the apparatus's own question.
    Count(Count),
    /// The next byte from here on that is data (or in a hole).
    Seek {
        /// Where to begin.
        at: VolumeOffset,
        /// What to look for.
        to: Target,
    },
}

/// What a seek looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`; the end of the volume is one.
    Hole,
}

/// How a request ended.
#[derive(Debug)]
pub enum Answer<'a> {
    /// To a read: what is there; shorter than asked for at the end of the volume. May be a mapping: to be handed to the kernel, not looked at.
    Data(&'a [u8]),
    /// To a write: so many bytes from its start are written.
    Written(u64),
    /// To a flush, zeroing or allocation.
    Done,
    /// To a seek.
    Found(VolumeOffset),
    /// None of these.
    Failed(Failure),
}

/// Why a request did not do what it asked for. errno is chosen from it in `fuse/errno.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The volume is gone.
    NoVolume,
    /// Nothing of it lies inside the volume.
    PastEnd,
    /// A seek found nothing before the end.
    NothingThere,
    /// The volume may not be written, or not any more.
    ReadOnly,
    /// A disk failed or is missing.
    Disk,
    /// The file system that a disk's image is on has no room left.
    NoRoom,
    /// The owner of a disk's image may not have more of its file system.
    Quota,
    /// What a flush must make durable could not be recorded.
    NotHardened,
    /// This apparatus is fenced, and has been for longer than hosts are let wait.
    Fenced,
    /// This apparatus is ending.
    Ending,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was taken (or nobody waits for it any more).
    Taken,
    /// The bytes could not be read from the mapping: the disk failed, and the host was told EIO.
    Unreadable,
}

/// Where the answer to one request goes. Consumed by answering; may be sent from any thread.
pub trait Reply: Send + Sized + 'static {
    /// Answers.
    fn send(self, answer: Answer<'_>) -> Delivery;

    /// The same with its type forgotten, to be parked.
    fn boxed(self) -> BoxedReply {
        BoxedReply(Box::new(move |answer| self.send(answer)))
    }
}

/// A reply of whatever type.
pub struct BoxedReply(Box<dyn FnOnce(Answer<'_>) -> Delivery + Send>);

impl BoxedReply {
    /// Answers by calling `send`.
    pub fn new(send: impl FnOnce(Answer<'_>) -> Delivery + Send + 'static) -> Self {
        Self(Box::new(send))
    }
}

impl Reply for BoxedReply {
    fn send(self, answer: Answer<'_>) -> Delivery {
        (self.0)(answer)
    }

    fn boxed(self) -> BoxedReply {
        self
    }
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has changed nothing.
    Fresh,
    /// It has reached its disks, by the table of this generation, and was not acknowledged.
    Reached {
        /// The table's number.
        generation: Generation,
        /// Bytes from its start.
        bytes: u64,
    },
}

/// One host request.
pub struct Request<'a, R> {
    pub(super) volume: VolumeId,
    pub(super) operation: Operation<'a>,
    pub(super) reply: R,
    pub(super) progress: Progress,
    pub(super) since: Instant,
    /// The one disk that it has to wait for.
    pub(super) awaits: Option<DiskId>,
}

/// What is left of a request when it is answered.
pub(super) struct Summary {
    pub(super) volume: VolumeId,
    pub(super) kind: Option<Kind>,
    pub(super) since: Instant,
}

/// A request that owns all it needs, so that it can wait or go to another thread.
pub type Owned = Request<'static, BoxedReply>;

impl<'a, R: Reply> Request<'a, R> {
    /// A request that arrives now.
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

    /// Answers that it is not carried out.
    pub fn refuse(self, failure: Failure) {
        self.reply.send(Answer::Failed(failure));
    }

    /// The same with its own copy of the data.
    #[cold]
    pub(super) fn own(self) -> Owned {
        let operation = match self.operation {
            Operation::Read { at, len } => Operation::Read { at, len },
            Operation::Write { at, data, durable } => Operation::Write {
                at,
                data: Cow::Owned(data.into_owned()),
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

    /// The same, for somebody who is to wait for its disks: `disk` if it is a single one.
    #[cold]
    pub(super) fn awaiting(self, disk: Option<DiskId>) -> Owned {
        Request {
            awaits: disk,
            ..self.own()
        }
    }

    /// A flush that ends as this write does. The write could be acknowledged now as any other, so what it wrote stays, whatever
    /// happens before the flush is done.
    #[cold]
    pub(super) fn then_flush(self, bytes: u64) -> Owned {
        let (volume, reply) = (self.volume, self.reply);
        let reply = BoxedReply::new(move |answer| match answer {
            Answer::Failed(failure) => reply.send(Answer::Failed(failure)),
            _ => reply.send(Answer::Written(bytes)),
        });
        Request::new(volume, Operation::Flush, reply)
    }

    /// What is left of a request of which so many bytes from its start are done.
    #[cold]
    pub(super) fn after(mut self, bytes: u64) -> Owned {
        if let Operation::Zero { at, len, .. } = &mut self.operation {
            at.0 += bytes;
            *len -= bytes;
        }
        self.progress = Progress::Fresh;
        self.own()
    }

    /// The bytes that it touches. A flush touches none: it looks at no home of any byte, so no hold concerns it. Nor does one concern a count:
    /// where a part is being moved, both homes hold the same.
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

    /// Whether it is of the kind that waits for a disk more often than not.
    pub(super) fn may_wait(&self) -> bool {
        !matches!(self.operation, Operation::Read { .. } | Operation::Write { .. })
    }

    /// What is left to be counted when it is answered.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            volume: self.volume,
            kind: self.kind(),
            since: self.since,
        }
    }

    /// What it is counted as; seeks, allocations and counts are not.
    fn kind(&self) -> Option<Kind> {
        match self.operation {
            Operation::Read { .. } => Some(Kind::Read),
            Operation::Write { .. } | Operation::Zero { .. } => Some(Kind::Write),
            Operation::Flush => Some(Kind::Flush),
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
