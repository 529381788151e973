//! A host's request in production code, as the seams see it: what its blocks hold, and how far this thread is with it.

use super::ReqId;
use super::copy::At;
use super::history::Tag;
use super::host::BLOCK;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// What a block of a request's data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It is written, by this request, to this block of its volume.
    Written(ReqId, u64),
    /// It was read.
    Read(Tag),
    /// It is in this block of a disk, and is copied from there as part of the reply.
    Mapped(At),
}

const SIZE: usize = BLOCK as usize;

impl Content {
    fn words(self) -> [u64; 3] {
        match self {
            Self::Written(id, block) => [1, id.0, block],
            Self::Read(tag) => [2, u64::from(tag.0), 0],
            Self::Mapped((disk, block)) => [3, disk as u64, block],
        }
    }

    fn of(words: [u64; 3]) -> Option<Self> {
        match words {
            [1, id, block] => Some(Self::Written(ReqId(id), block)),
            [2, tag, 0] => Some(Self::Read(Tag(tag as u32))),
            [3, disk, block] => Some(Self::Mapped((disk as usize, block))),
            _ => None,
        }
    }

    /// Puts it where a block begins.
    pub fn put(self, block: &mut [u8]) {
        for (room, word) in block.chunks_exact_mut(8).zip(self.words()) {
            room.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// What the blocks of these bytes say.
pub fn contents(bytes: &[u8]) -> Option<Vec<Content>> {
    let word = |block: &[u8], n: usize| {
        let bytes = block.get(n * 8..n * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let content = |block: &[u8]| Content::of([word(block, 0)?, word(block, 1)?, word(block, 2)?]);
    bytes.chunks(SIZE).map(content).collect()
}

/// The data of a write.
pub fn data(id: ReqId, blocks: std::ops::Range<u64>) -> Vec<u8> {
    let mut data = vec![0; (blocks.end - blocks.start) as usize * SIZE];
    for (room, block) in data.chunks_mut(SIZE).zip(blocks) {
        Content::Written(id, block).put(room);
    }
    data
}

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
    static MARKED: Cell<bool> = const { Cell::new(false) };
    static FLUSHES: Cell<u32> = const { Cell::new(0) };
    static PERSISTING: Cell<bool> = const { Cell::new(false) };
    static MAPPED: RefCell<BTreeMap<At, Tag>> = const { RefCell::new(BTreeMap::new()) };
}

/// A thread begins: what an earlier one on the same thread of the system has left means nothing.
pub fn begin_thread() {
    ENTERED.set(false);
    MARKED.set(false);
    FLUSHES.set(0);
    PERSISTING.set(false);
    MAPPED.take();
}

/// The request is about to come to the gate.
pub fn comes_to_the_gate() {
    ENTERED.set(false);
}

/// The request has entered the gate: its fence word is looked at.
pub fn has_entered() {
    ENTERED.set(true);
}

pub fn is_entered() -> bool {
    ENTERED.get()
}

/// A write of it has reached a disk, which is marked.
pub fn has_marked() {
    MARKED.set(true);
}

/// Whether this is the look at the fence word after a write.
pub fn is_look_after_write() -> bool {
    MARKED.take()
}

/// Whether its flush has flushed a disk before this one. What it persists is no part of that.
pub fn has_flushed_before() -> bool {
    !PERSISTING.get() && FLUSHES.replace(FLUSHES.get() + 1) > 0
}

/// Persists changes for its flush.
pub fn persisting<T>(job: impl FnOnce() -> T) -> T {
    PERSISTING.set(true);
    let done = job();
    PERSISTING.set(false);
    done
}

/// A block is to be copied from where it lies as part of the reply.
pub fn is_mapped(at: At) {
    MAPPED.with_borrow_mut(|mapped| mapped.insert(at, Tag::GARBAGE));
}

/// The fence word is looked at: what is read from a mapping counts as read now.
pub fn look_at_mapped(read: impl Fn(At) -> Tag) {
    MAPPED.with_borrow_mut(|mapped| mapped.iter_mut().for_each(|(at, tag)| *tag = read(*at)));
}

/// The reply is sent. Returns what was read from mappings at the last look at the fence word.
pub fn is_answered() -> BTreeMap<At, Tag> {
    FLUSHES.set(0);
    MAPPED.take()
}
