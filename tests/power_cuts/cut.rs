//! What a power cut leaves of the recorded files: what was flushed, and any part of what was not.

use super::record::Entry;
use crate::support::Random;
use std::collections::BTreeMap;
use std::ops::Range;

const SECTOR: u64 = 512;

/// What a cut leaves of the writes that had not been flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    None,
    All,
    /// The first of them, of each file; the one after them in part.
    First,
    /// Any of them, some of those in part.
    Any,
}

impl Leaves {
    pub(crate) const EACH: [Self; 4] = [Self::None, Self::All, Self::First, Self::Any];
}

/// A write that is not durable, or what is left of it.
#[derive(Clone, Debug)]
struct Unflushed {
    /// Index of the entry.
    entry: usize,
    /// Bytes of the file; nothing for a change of the size.
    range: Range<u64>,
}

#[derive(Clone, Default)]
struct FileState {
    durable: Vec<u8>,
    unflushed: Vec<Unflushed>,
}

/// The recorded files, at some point of the record.
pub(crate) struct Machine<'a> {
    entries: &'a [Entry],
    files: BTreeMap<u64, FileState>,
    /// How many entries have happened.
    pub(crate) at: usize,
}

impl<'a> Machine<'a> {
    /// Begins with files that are durable as they are.
    pub(crate) fn new(entries: &'a [Entry], files: &BTreeMap<u64, Vec<u8>>) -> Self {
        let durable = |(file, durable): (&u64, &Vec<u8>)| {
            let state = FileState {
                durable: durable.clone(),
                unflushed: Vec::new(),
            };
            (*file, state)
        };
        Self {
            entries,
            files: files.iter().map(durable).collect(),
            at: 0,
        }
    }

    /// Lets the next entry happen, and returns it.
    pub(crate) fn step(&mut self) -> Option<&'a Entry> {
        let entry = self.entries.get(self.at)?;
        let (file, range) = match entry {
            Entry::Write { file, at, bytes, .. } => (file, *at..*at + bytes.len() as u64),
            Entry::Clear { file, at, len, .. } => (file, *at..*at + len),
            Entry::Resize { file, .. } => (file, 0..0),
            Entry::Flush { file, only } => {
                if let Some(state) = self.files.get_mut(file) {
                    state.flush(self.entries, *only);
                }
                self.at += 1;
                return Some(entry);
            }
            Entry::Name { .. } | Entry::Unname { .. } | Entry::Rename { .. } | Entry::FlushNames { .. } => {
                self.at += 1;
                return Some(entry);
            }
        };
        if let Some(state) = self.files.get_mut(file) {
            state.unflushed.push(Unflushed {
                entry: self.at,
                range,
            });
        }
        self.at += 1;
        Some(entry)
    }

    /// Returns what a cut leaves of each file now.
    pub(crate) fn cut(&self, leaves: Leaves, random: &mut Random) -> BTreeMap<u64, Vec<u8>> {
        let left = |(file, state): (&u64, &FileState)| (*file, state.cut(self.entries, leaves, random));
        self.files.iter().map(left).collect()
    }
}

impl FileState {
    fn flush(&mut self, entries: &[Entry], only: Option<u64>) {
        let Some(handle) = only else {
            for each in std::mem::take(&mut self.unflushed) {
                apply(&mut self.durable, &entries[each.entry], each.range);
            }
            return;
        };
        let is_its = |each: &&Unflushed| match &entries[each.entry] {
            Entry::Write { handle: by, .. } | Entry::Clear { handle: by, .. } => *by == handle,
            _ => false,
        };
        let ranges: Vec<Range<u64>> = self
            .unflushed
            .iter()
            .filter(is_its)
            .map(|each| each.range.clone())
            .collect();
        ranges.into_iter().for_each(|range| self.settle(entries, &range));
    }

    /// Makes this range durable as it is, whoever wrote it.
    fn settle(&mut self, entries: &[Entry], range: &Range<u64>) {
        let mut left = Vec::new();
        for each in std::mem::take(&mut self.unflushed) {
            let (start, end) = (each.range.start, each.range.end);
            let inside = start.max(range.start)..end.min(range.end);
            if inside.is_empty() {
                left.push(each);
                continue;
            }
            let entry = each.entry;
            let parts = [start..inside.start, inside.end..end];
            left.extend(
                parts
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .map(|range| Unflushed { entry, range }),
            );
            apply(&mut self.durable, &entries[entry], inside);
        }
        self.unflushed = left;
    }

    fn cut(&self, entries: &[Entry], leaves: Leaves, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let first = random.below(self.unflushed.len() as u64 + 1);
        for (index, each) in (0..).zip(&self.unflushed) {
            let entry = &entries[each.entry];
            let whole = match leaves {
                Leaves::None => continue,
                Leaves::All => true,
                Leaves::First if index > first => continue,
                Leaves::First => index < first,
                Leaves::Any if random.below(2) == 0 => continue,
                Leaves::Any => random.below(2) == 0,
            };
            if whole || each.range.is_empty() {
                apply(&mut bytes, entry, each.range.clone());
                continue;
            }
            let ends_at = random.below(3).checked_sub(1).map(|_| {
                let len = each.range.end - each.range.start;
                each.range.start + random.below(len)
            });
            for sector in sectors(&each.range) {
                let stays = match ends_at {
                    Some(end) => sector.end <= end,
                    None => random.below(2) == 0,
                };
                if stays {
                    apply(&mut bytes, entry, sector);
                }
            }
        }
        bytes
    }
}

fn sectors(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let next = (at / SECTOR + 1) * SECTOR;
        let sector = at..next.min(end);
        at = next;
        (!sector.is_empty()).then_some(sector)
    })
}

/// Applies the part of a write that lies in the range.
fn apply(to: &mut Vec<u8>, entry: &Entry, range: Range<u64>) {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let (start, end) = (place(range.start), place(range.end));
    if to.len() < end {
        to.resize(end, 0);
    }
    match entry {
        Entry::Write { at, bytes, .. } => {
            let from = place(range.start - at);
            to[start..end].copy_from_slice(&bytes[from..from + (end - start)]);
        }
        Entry::Clear { .. } => to[start..end].fill(0),
        Entry::Resize { size, .. } => to.resize(place(*size), 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(handle: u64, at: u64, byte: u8, len: usize) -> Entry {
        Entry::Write {
            file: 7,
            handle,
            at,
            bytes: vec![byte; len],
        }
    }

    fn at_the_end(entries: &[Entry], leaves: Leaves) -> Vec<u8> {
        let mut machine = Machine::new(entries, &BTreeMap::from([(7, vec![0; 4])]));
        while machine.step().is_some() {}
        machine.cut(leaves, &mut Random::new(1)).remove(&7).unwrap()
    }

    #[test]
    fn a_flush_keeps_what_was_written_before_it_and_nothing_else() {
        let flush = Entry::Flush { file: 7, only: None };
        let entries = [write(1, 0, 1, 2), flush, write(1, 1, 2, 2)];
        assert_eq!(at_the_end(&entries, Leaves::None), [1, 1, 0, 0]);
        assert_eq!(at_the_end(&entries, Leaves::All), [1, 2, 2, 0]);
    }

    #[test]
    fn a_durable_write_makes_its_own_range_durable_and_is_not_written_over_by_earlier_ones() {
        let flush = Entry::Flush {
            file: 7,
            only: Some(2),
        };
        let entries = [write(1, 0, 1, 4), write(2, 1, 2, 1), flush];
        assert_eq!(at_the_end(&entries, Leaves::None), [0, 2, 0, 0]);
        assert_eq!(at_the_end(&entries, Leaves::All), [1, 2, 1, 1]);
    }
}
