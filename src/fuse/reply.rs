//! fuser's replies as the core's.

use super::{errno, witness};
use crate::data::{Answer, Delivery, Failure, Reply};
use fuser::{FileAttr, ReplyAttr, ReplyData, ReplyEmpty, ReplyLseek, ReplyWrite};
use std::time::Duration;

/// To a read.
pub(super) struct ToRead(pub(super) ReplyData);
/// To a write.
pub(super) struct ToWrite(pub(super) ReplyWrite);
/// To a flush or an allocation.
pub(super) struct ToDo(pub(super) ReplyEmpty);
/// To a seek.
pub(super) struct ToSeek(pub(super) ReplyLseek);
/// To a truncation to nothing, which zeroes the volume. The attributes are those of the volume: its size stays.
pub(super) struct ToEmpty(pub(super) ReplyAttr, pub(super) FileAttr);
/// To a truncation to something, which looks for data beyond: it is granted where there is none.
pub(super) struct ToCut(pub(super) ReplyAttr, pub(super) FileAttr);

impl Reply for ToEmpty {
    fn send(self, answer: Answer<'_>) -> Delivery {
        match answer {
            Answer::Done => self.0.attr(&Duration::ZERO, &self.1),
            Answer::Failed(failure) => self.0.error(errno::of(failure)),
            Answer::Data(_) | Answer::Written(_) | Answer::Found(_) => self.0.error(errno::MISFIT),
        }
        Delivery::Taken
    }
}

impl Reply for ToCut {
    fn send(self, answer: Answer<'_>) -> Delivery {
        match answer {
            Answer::Failed(Failure::NothingThere) => self.0.attr(&Duration::ZERO, &self.1),
            Answer::Found(_) => self.0.error(errno::FIXED_SIZE),
            Answer::Failed(failure) => self.0.error(errno::of(failure)),
            Answer::Data(_) | Answer::Written(_) | Answer::Done => self.0.error(errno::MISFIT),
        }
        Delivery::Taken
    }
}

impl Reply for ToRead {
    fn send(self, answer: Answer<'_>) -> Delivery {
        match answer {
            Answer::Data(bytes) => {
                if witness::saw_unreadable(|| self.0.data(bytes)) {
                    return Delivery::Unreadable;
                }
            }
            Answer::Failed(failure) => self.0.error(errno::of(failure)),
            Answer::Written(_) | Answer::Done | Answer::Found(_) => self.0.error(errno::MISFIT),
        }
        Delivery::Taken
    }
}

impl Reply for ToWrite {
    fn send(self, answer: Answer<'_>) -> Delivery {
        match answer {
            Answer::Written(bytes) => self.0.written(u32::try_from(bytes).unwrap_or(u32::MAX)),
            Answer::Failed(failure) => self.0.error(errno::of(failure)),
            Answer::Data(_) | Answer::Done | Answer::Found(_) => self.0.error(errno::MISFIT),
        }
        Delivery::Taken
    }
}

impl Reply for ToDo {
    fn send(self, answer: Answer<'_>) -> Delivery {
        match answer {
            Answer::Done => self.0.ok(),
            Answer::Failed(failure) => self.0.error(errno::of(failure)),
            Answer::Data(_) | Answer::Written(_) | Answer::Found(_) => self.0.error(errno::MISFIT),
        }
        Delivery::Taken
    }
}

impl Reply for ToSeek {
    fn send(self, answer: Answer<'_>) -> Delivery {
        match answer {
            Answer::Found(at) => self.0.offset(i64::try_from(at.0).unwrap_or(i64::MAX)),
            Answer::Failed(failure) => self.0.error(errno::of(failure)),
            Answer::Data(_) | Answer::Written(_) | Answer::Done => self.0.error(errno::MISFIT),
        }
        Delivery::Taken
    }
}
