//! What a block may hold after power loss, as one goes: the same as `History::survives`, in a form that can be compared; for the explorer.

use super::history::Tag;
use std::collections::{BTreeMap, BTreeSet};

type Tags = BTreeSet<Tag>;

/// One block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Written, acknowledged or not.
    known: Tags,
    acknowledged: Tags,
    /// What was acknowledged before something began that is acknowledged too.
    replaced: Tags,
    /// By request to write: what was acknowledged when it began.
    writers: BTreeMap<u64, Tags>,
    /// By request to flush: what was replaced when it began.
    flushers: BTreeMap<u64, Tags>,
    /// Replaced, and an acknowledged flush covers what replaced it.
    gone: Tags,
}

impl Block {
    pub fn new(value: Tag) -> Self {
        Self {
            known: Tags::from([value]),
            acknowledged: Tags::from([value]),
            replaced: Tags::new(),
            writers: BTreeMap::new(),
            flushers: BTreeMap::new(),
            gone: Tags::new(),
        }
    }

    pub fn asked_to_write(&mut self, request: u64) {
        self.writers.insert(request, self.acknowledged.clone());
    }

    pub fn written(&mut self, tag: Tag) {
        self.known.insert(tag);
    }

    pub fn write_acknowledged(&mut self, request: u64, tag: Tag) {
        self.replaced
            .extend(self.writers.remove(&request).unwrap_or_default());
        self.acknowledged.insert(tag);
    }

    pub fn asked_to_flush(&mut self, request: u64) {
        self.flushers.insert(request, self.replaced.clone());
    }

    pub fn flush_acknowledged(&mut self, request: u64) {
        self.gone
            .extend(self.flushers.remove(&request).unwrap_or_default());
    }

    /// The process that was to answer is no more.
    pub fn dies(&mut self, request: u64) {
        self.writers.remove(&request);
        self.flushers.remove(&request);
    }

    /// Whether the block may hold this after power loss.
    pub fn survives(&self, tag: Tag) -> bool {
        self.known.contains(&tag) && !self.gone.contains(&tag)
    }
}
