//! Linearizability as one goes: all states that a block may be in, given what hosts have begun and been told so far. Slower than the
//! zones of `history`, and part of a state that can be compared; for the explorer.

use super::history::Tag;
use std::collections::{BTreeMap, BTreeSet};

/// A read, and which block of it.
pub type Reader = (u64, u64);

/// One way in which it may have been.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Way {
    value: Tag,
    /// Writes begun that have not taken effect.
    open: BTreeSet<Tag>,
    /// Reads begun, and what was there at some time since.
    seen: BTreeMap<Reader, BTreeSet<Tag>>,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    ways: BTreeSet<Way>,
}

impl Block {
    pub fn new(value: Tag) -> Self {
        let way = Way {
            value,
            open: BTreeSet::new(),
            seen: BTreeMap::new(),
        };
        Self {
            ways: BTreeSet::from([way]),
        }
    }

    fn each(&mut self, change: impl Fn(&mut Way) -> bool) {
        let ways = std::mem::take(&mut self.ways);
        self.ways = ways
            .into_iter()
            .filter_map(|mut way| change(&mut way).then_some(way))
            .collect();
    }

    /// Any open write may take effect at any time.
    fn close(&mut self) {
        let mut fresh: Vec<Way> = self.ways.iter().cloned().collect();
        while let Some(way) = fresh.pop() {
            for &tag in &way.open {
                let mut next = way.clone();
                next.open.remove(&tag);
                next.value = tag;
                next.seen.values_mut().for_each(|seen| _ = seen.insert(tag));
                if self.ways.insert(next.clone()) {
                    fresh.push(next);
                }
            }
        }
    }

    pub fn write_begins(&mut self, tag: Tag) {
        self.each(|way| {
            way.open.insert(tag);
            true
        });
        self.close();
    }

    /// It has taken effect by now.
    pub fn write_ends(&mut self, tag: Tag) {
        self.each(|way| !way.open.contains(&tag));
    }

    pub fn read_begins(&mut self, reader: Reader) {
        self.each(|way| {
            way.seen.insert(reader, BTreeSet::from([way.value]));
            true
        });
        self.close();
    }

    /// It returned what was there at some time.
    pub fn read_ends(&mut self, reader: Reader, tag: Tag) {
        self.each(|way| way.seen.remove(&reader).is_some_and(|seen| seen.contains(&tag)));
    }

    /// Nobody waits for its answer any more.
    pub fn read_dies(&mut self, reader: Reader) {
        self.each(|way| {
            way.seen.remove(&reader);
            true
        });
    }

    /// Whether there is a way in which it may have been.
    pub fn sound(&self) -> bool {
        !self.ways.is_empty()
    }
}
