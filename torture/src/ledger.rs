//! What was written to each block of a volume, and what has been seen of it.
//!
//! Each block has one writer, so its sequences only grow. A read must see nothing older than what was acknowledged, or seen by another
//! read, before it began, and nothing that had not begun when it ended: that is linearizability of a register with one writer.

use crate::weather::Moment;
use std::collections::VecDeque;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Events of a block that are remembered.
const REMEMBERED: usize = 32;

/// An event in the history of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) start: Moment,
    pub(crate) end: Moment,
    pub(crate) apparatus: usize,
    pub(crate) what: &'static str,
    pub(crate) sequence: u64,
}

#[derive(Default)]
struct Block {
    begun: AtomicU64,
    acknowledged: AtomicU64,
    seen: AtomicU64,
    durable: AtomicU64,
    history: Mutex<VecDeque<Event>>,
}

/// The blocks of a volume.
pub(crate) struct Ledger {
    blocks: Vec<Block>,
}

impl Ledger {
    pub(crate) fn new(blocks: usize) -> Self {
        Self {
            blocks: (0..blocks).map(|_| Block::default()).collect(),
        }
    }

    fn block(&self, block: u64) -> &Block {
        let index = usize::try_from(block).unwrap_or(usize::MAX);
        &self.blocks[index.min(self.blocks.len() - 1)]
    }

    /// A write begins; returns its sequence.
    pub(crate) fn begin(&self, block: u64) -> u64 {
        self.block(block).begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A write was acknowledged.
    pub(crate) fn acknowledge(&self, block: u64, sequence: u64) {
        self.block(block)
            .acknowledged
            .fetch_max(sequence, Ordering::SeqCst);
    }

    /// A flush that began after this acknowledgement succeeded.
    pub(crate) fn make_durable(&self, block: u64, sequence: u64) {
        self.block(block).durable.fetch_max(sequence, Ordering::SeqCst);
    }

    /// A read saw nothing older than this.
    pub(crate) fn see(&self, block: u64, sequence: u64) {
        self.block(block).seen.fetch_max(sequence, Ordering::SeqCst);
    }

    /// Returns the oldest write that a read which begins now may see.
    pub(crate) fn oldest(&self, block: u64) -> u64 {
        let block = self.block(block);
        block
            .acknowledged
            .load(Ordering::SeqCst)
            .max(block.seen.load(Ordering::SeqCst))
    }

    /// Returns what a read may see that began when `oldest` was the oldest and ends now.
    pub(crate) fn expected(&self, block: u64, oldest: u64) -> RangeInclusive<u64> {
        oldest..=self.block(block).begun.load(Ordering::SeqCst)
    }

    pub(crate) fn remember(&self, block: u64, event: Event) {
        let history = &self.block(block).history;
        let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == REMEMBERED {
            history.pop_front();
        }
        history.push_back(event);
    }

    /// Returns the state and the history of a block as text.
    pub(crate) fn describe(&self, number: u64) -> String {
        let block = self.block(number);
        let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let mut text = format!(
            "  begun {}, acknowledged {}, seen {}, flushed {}\n",
            load(&block.begun),
            load(&block.acknowledged),
            load(&block.seen),
            load(&block.durable),
        );
        let history = block.history.lock().unwrap_or_else(PoisonError::into_inner);
        for event in history.iter() {
            let _ = writeln!(
                text,
                "  {:>12} to {:>12} µs  a{}  {} {}",
                event.start, event.end, event.apparatus, event.what, event.sequence
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_sees_what_was_acknowledged_or_seen_before_and_what_has_begun() {
        let ledger = Ledger::new(4);
        assert_eq!(ledger.begin(2), 1);
        assert_eq!(ledger.expected(2, ledger.oldest(2)), 0..=1);
        ledger.acknowledge(2, 1);
        assert_eq!(ledger.begin(2), 2);
        assert_eq!(ledger.expected(2, ledger.oldest(2)), 1..=2);
        ledger.see(2, 2);
        assert_eq!(ledger.expected(2, ledger.oldest(2)), 2..=2);
        assert_eq!(ledger.expected(1, ledger.oldest(1)), 0..=0);
    }

    #[test]
    fn the_history_of_a_block_is_bounded() {
        let ledger = Ledger::new(1);
        for sequence in 0..100 {
            let event = Event {
                start: 1,
                end: 2,
                apparatus: 0,
                what: "read",
                sequence,
            };
            ledger.remember(0, event);
        }
        assert_eq!(ledger.describe(0).lines().count(), REMEMBERED + 1);
        assert!(ledger.describe(0).contains("read 99") && !ledger.describe(0).contains("read 67"));
    }
}
