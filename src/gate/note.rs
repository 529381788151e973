//! A note: which regions of some ranges were written since it was placed.
//!
//! A write is recorded when it enters, before it reaches a disk. So when a later hold of the ranges has drained, the note has every write that may have
//! changed them since the note was placed, except those that were in flight then, for which the placing side waits.

use crate::model::records::Span;
use crate::model::units::VolumeOffset;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a region, at least.
const REGION_SHIFT: u32 = 16;
/// Largest number of regions of one span: those of a longer one are larger.
const MOST_REGIONS: u64 = 1 << 14;
/// Largest number of ranges that a note has in the end: where there are more, neighbours are joined.
const MOST_RANGES: usize = 256;

/// The regions of some spans, with a mark on each that was written. Threads mark them at once, without a lock.
#[derive(Debug)]
pub(super) struct Note {
    spans: Vec<NotedSpan>,
}

#[derive(Debug)]
struct NotedSpan {
    span: Span,
    /// The size of a region is 2 to this power.
    shift: u32,
    /// A bit for each region.
    marks: Box<[AtomicU64]>,
}

impl Note {
    /// Makes a note in which nothing is marked.
    pub(super) fn new(spans: &[Span]) -> Self {
        Self {
            spans: spans.iter().map(|span| NotedSpan::new(*span)).collect(),
        }
    }

    /// Marks the regions that a write touches.
    pub(super) fn mark(&self, write: &Span) {
        let touched = self.spans.iter().filter(|noted| noted.span.overlaps(write));
        touched.for_each(|noted| noted.mark(write));
    }

    /// Returns the ranges that were written, in order within each span, at most [`MOST_RANGES`] or one for each span.
    pub(super) fn written(&self) -> Vec<Span> {
        let mut join = 0;
        loop {
            let ranges: Vec<Span> = self.spans.iter().flat_map(|noted| noted.written(join)).collect();
            if ranges.len() <= MOST_RANGES.max(self.spans.len()) {
                return ranges;
            }
            join += 1;
        }
    }
}

impl NotedSpan {
    fn new(span: Span) -> Self {
        let len = span.end.0.saturating_sub(span.start.0);
        let mut shift = REGION_SHIFT;
        while (len >> shift) >= MOST_REGIONS {
            shift += 1;
        }
        let regions = usize::try_from((len >> shift) + 1).unwrap_or(usize::MAX);
        let marks = (0..regions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { span, shift, marks }
    }

    fn mark(&self, write: &Span) {
        let within =
            |offset: VolumeOffset| offset.0.clamp(self.span.start.0, self.span.end.0) - self.span.start.0;
        let (first, end) = (within(write.start) >> self.shift, within(write.end));
        let last = end.saturating_sub(1) >> self.shift;
        for region in first..=last {
            if let Some(word) = self.word(region) {
                word.fetch_or(1 << (region % 64), Ordering::Relaxed);
            }
        }
    }

    fn word(&self, region: u64) -> Option<&AtomicU64> {
        self.marks.get(usize::try_from(region / 64).ok()?)
    }

    /// Returns the runs of groups of 2 to the power of `join` regions that have a mark.
    fn written(&self, join: u32) -> Vec<Span> {
        let group = |region: u64| region >> join;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for region in self.marked() {
            match runs.last_mut() {
                Some((_, last)) if group(region) <= *last + 1 => *last = group(region),
                _ => runs.push((group(region), group(region))),
            }
        }
        let shift = self.shift + join;
        let byte = |group: u64| {
            let offset = group.saturating_mul(1 << shift).saturating_add(self.span.start.0);
            VolumeOffset(offset.min(self.span.end.0))
        };
        let span = |(first, last): (u64, u64)| Span {
            volume: self.span.volume,
            start: byte(first),
            end: byte(last + 1),
        };
        runs.into_iter().map(span).collect()
    }

    fn marked(&self) -> impl Iterator<Item = u64> {
        let words = (0..).zip(self.marks.iter());
        words.flat_map(|(index, word)| {
            let bits = word.load(Ordering::Relaxed);
            (0..64)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| index * 64 + bit)
        })
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        self.marks.iter().map(|word| word.load(Ordering::Relaxed))
    }
}

impl Clone for Note {
    /// Copies the marks as they are now: the copy is marked on its own.
    fn clone(&self) -> Self {
        let copy = |noted: &NotedSpan| NotedSpan {
            marks: noted.words().map(AtomicU64::new).collect(),
            ..*noted
        };
        Self {
            spans: self.spans.iter().map(copy).collect(),
        }
    }
}

impl PartialEq for Note {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, two): (&NotedSpan, &NotedSpan)| one.span == two.span && one.words().eq(two.words());
        self.spans.len() == other.spans.len() && self.spans.iter().zip(&other.spans).all(same)
    }
}

impl Eq for Note {}

impl Hash for Note {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for noted in &self.spans {
            noted.span.hash(state);
            noted.words().for_each(|word| word.hash(state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::VolumeId;
    use proptest::prelude::*;

    const REGION: u64 = 1 << REGION_SHIFT;

    fn span(start: u64, end: u64) -> Span {
        Span {
            volume: VolumeId(1),
            start: VolumeOffset(start),
            end: VolumeOffset(end),
        }
    }

    #[test]
    fn a_write_marks_the_regions_that_it_touches_and_no_others() {
        let note = Note::new(&[span(REGION / 2, 10 * REGION)]);
        assert_eq!(note.written(), []);
        note.mark(&span(0, REGION / 2));
        note.mark(&Span {
            volume: VolumeId(2),
            ..span(0, 99 * REGION)
        });
        note.mark(&span(10 * REGION, 11 * REGION));
        assert_eq!(note.written(), [], "they are outside");
        note.mark(&span(0, REGION / 2 + 1));
        note.mark(&span(2 * REGION, 3 * REGION));
        assert_eq!(
            note.written(),
            [span(REGION / 2, 3 * REGION + REGION / 2)],
            "regions count from the start of the span, and neighbours are one range"
        );
        note.mark(&span(9 * REGION, 99 * REGION));
        assert_eq!(
            note.written()[1],
            span(8 * REGION + REGION / 2, 10 * REGION),
            "none goes beyond the end"
        );
    }

    #[test]
    fn a_note_is_bounded_however_long_its_span_and_however_many_its_writes() {
        let whole = Span::whole(VolumeId(1));
        let note = Note::new(&[whole]);
        assert!(note.spans[0].marks.len() <= 257);
        note.mark(&span(u64::MAX - 5, u64::MAX - 4));
        assert_eq!(note.written().len(), 1);
        let note = Note::new(&[span(0, 4096 * REGION)]);
        (0..2048).for_each(|region| note.mark(&span(2 * region * REGION, 2 * region * REGION + 1)));
        let ranges = note.written();
        assert!(ranges.len() <= MOST_RANGES);
        let covered = |region: u64| {
            ranges
                .iter()
                .any(|range| range.overlaps(&span(2 * region * REGION, 2 * region * REGION + 1)))
        };
        assert!((0..2048).all(covered));
    }

    proptest! {
        /// Every byte that was written is in what the note tells.
        #[test]
        fn nothing_that_was_written_is_left_out(
            start in 0..5 * REGION,
            len in 1..300 * REGION,
            writes in proptest::collection::vec((0..310 * REGION, 1..3 * REGION), 0..400),
        ) {
            let noted = span(start, start + len);
            let note = Note::new(&[noted]);
            let writes: Vec<Span> = writes.iter().map(|&(at, len)| span(at, at + len)).collect();
            writes.iter().for_each(|write| note.mark(write));
            let found = note.written();
            prop_assert!(found.is_sorted_by(|one, two| one.end < two.start));
            for write in writes.iter().filter(|write| write.overlaps(&noted)) {
                let inside = span(write.start.0.max(start), write.end.0.min(start + len));
                let is_found = |range: &Span| range.start <= inside.start && inside.end <= range.end;
                prop_assert!(found.iter().any(is_found));
            }
            let touched = |range: &Span| writes.iter().any(|write| write.overlaps(range));
            prop_assert!(found.iter().all(touched) && found.iter().all(|range| noted.start <= range.start && range.end <= noted.end));
        }
    }
}
