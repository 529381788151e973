//! [`Reply`] of the data path, for each kind of answer.

use super::answer::Answer;
use super::errno;
use super::wire::{Attributes, AttributesAnswer, Written};
use crate::datapath::{Delivery, Failure, Reply, Response};
use crate::sys;
use rustix::io::Errno;
use std::time::Duration;

/// Reply to a read.
pub(super) struct ReadReply {
    pub(super) answer: Answer,
    /// Whether the bytes are to be in memory before the kernel reads them. If this process is killed while the kernel waits for a page, the
    /// host gets EIO instead of an answer of the next server.
    pub(super) is_to_be_present: bool,
}
/// Reply to a write.
pub(super) struct WriteReply(pub(super) Answer);
/// Reply to a flush or an allocation.
pub(super) struct DoneReply(pub(super) Answer);
/// Reply to a seek.
pub(super) struct SeekReply(pub(super) Answer);
/// Reply to a truncation to zero, which zeroes the volume. The attributes are those of the volume: its size stays.
pub(super) struct TruncateReply(pub(super) Answer, pub(super) Attributes);
/// Reply to a truncation to another size, which seeks data beyond: it succeeds where there is none.
pub(super) struct ResizeReply(pub(super) Answer, pub(super) Attributes);

impl Reply for TruncateReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        match answer {
            Response::Done => self.0.structure(&AttributesAnswer::new(self.1, Duration::ZERO)),
            Response::Failed(failure) => self.0.error(errno::of(failure)),
            Response::Data(_) | Response::Placed(_) | Response::Written(_) | Response::Found(_) => {
                self.0.error(errno::MISFIT)
            }
        }
        Delivery::Taken
    }
}

impl Reply for ResizeReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        match answer {
            Response::Failed(Failure::NothingThere) => {
                self.0.structure(&AttributesAnswer::new(self.1, Duration::ZERO))
            }
            Response::Found(_) => self.0.error(errno::FIXED_SIZE),
            Response::Failed(failure) => self.0.error(errno::of(failure)),
            Response::Data(_) | Response::Placed(_) | Response::Written(_) | Response::Done => {
                self.0.error(errno::MISFIT)
            }
        }
        Delivery::Taken
    }
}

impl Reply for ReadReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        match answer {
            Response::Data(bytes) => {
                if self.is_to_be_present && !sys::guarded::touch(bytes) {
                    sys::make_present(bytes);
                }
                // The bytes may be a mapping, which the kernel cannot read where the disk fails or its image was truncated. The host has EIO
                // then. Any other error means that nobody waits for the answer any more.
                if self.answer.data(bytes) == Err(Errno::FAULT) {
                    return Delivery::Unreadable;
                }
            }
            Response::Placed(len) => self.answer.placed(len),
            Response::Failed(failure) => self.answer.error(errno::of(failure)),
            Response::Written(_) | Response::Done | Response::Found(_) => self.answer.error(errno::MISFIT),
        }
        Delivery::Taken
    }

    fn space(&mut self, len: usize) -> Option<&mut [u8]> {
        self.answer.space(len)
    }
}

impl Reply for WriteReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        match answer {
            Response::Written(bytes) => self.0.structure(&Written {
                size: u32::try_from(bytes).unwrap_or(u32::MAX),
                padding: 0,
            }),
            Response::Failed(failure) => self.0.error(errno::of(failure)),
            Response::Data(_) | Response::Placed(_) | Response::Done | Response::Found(_) => {
                self.0.error(errno::MISFIT)
            }
        }
        Delivery::Taken
    }
}

impl Reply for DoneReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        match answer {
            Response::Done => self.0.done(),
            Response::Failed(failure) => self.0.error(errno::of(failure)),
            Response::Data(_) | Response::Placed(_) | Response::Written(_) | Response::Found(_) => {
                self.0.error(errno::MISFIT)
            }
        }
        Delivery::Taken
    }
}

impl Reply for SeekReply {
    fn send(self, answer: Response<'_>) -> Delivery {
        match answer {
            Response::Found(at) => self.0.structure(&i64::try_from(at.0).unwrap_or(i64::MAX)),
            Response::Failed(failure) => self.0.error(errno::of(failure)),
            Response::Data(_) | Response::Placed(_) | Response::Written(_) | Response::Done => {
                self.0.error(errno::MISFIT)
            }
        }
        Delivery::Taken
    }
}
