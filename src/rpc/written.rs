//! What hosts have written to ranges while these were copied.

use super::bounded::few;
use super::message::MOST;
use crate::model::records::Span;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Parts of noted ranges that may differ from what they were when the note was placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Written {
    /// It is not known, so all of it.
    #[default]
    All,
    /// These ranges and nothing else.
    Only(#[serde(deserialize_with = "few")] Vec<Span>),
}

impl Written {
    /// Nothing was written.
    pub const NOTHING: Self = Self::Only(Vec::new());

    /// Returns what a note has: all where there is no note, or more ranges than a message may have.
    #[must_use]
    pub fn of_note(ranges: Option<Vec<Span>>) -> Self {
        ranges
            .filter(|ranges| ranges.len() <= MOST)
            .map_or(Self::All, Self::Only)
    }

    /// Returns whether it is not known.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// Adds what was written through another apparatus.
    pub fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Only(known), Self::Only(more)) => known.extend(more),
            _ => *self = Self::All,
        }
    }

    /// Returns the bytes of `span` that were written, counted from its start, in order and without overlaps; `None` where that is not known.
    #[must_use]
    pub fn within(&self, span: &Span) -> Option<Vec<Range<u64>>> {
        let Self::Only(ranges) = self else { return None };
        let of_span = ranges.iter().filter(|range| range.overlaps(span));
        let mut found: Vec<Range<u64>> = of_span
            .map(|range| {
                let (start, end) = (range.start.max(span.start), range.end.min(span.end));
                start.0 - span.start.0..end.0 - span.start.0
            })
            .collect();
        found.sort_by_key(|range| range.start);
        found.dedup_by(|next, range| {
            let touches = next.start <= range.end;
            if touches {
                range.end = range.end.max(next.end);
            }
            touches
        });
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::{VolumeId, VolumeOffset};

    fn span(volume: u64, start: u64, end: u64) -> Span {
        Span {
            volume: VolumeId(volume),
            start: VolumeOffset(start),
            end: VolumeOffset(end),
        }
    }

    #[test]
    fn what_several_apparatuses_have_noted_is_joined() {
        let mut written = Written::NOTHING;
        assert_eq!(written.within(&span(1, 0, 9)), Some(vec![]));
        written.add(Written::Only(vec![span(1, 12, 14), span(2, 0, 99)]));
        written.add(Written::Only(vec![
            span(1, 8, 11),
            span(1, 11, 13),
            span(1, 17, 99),
        ]));
        assert_eq!(written.within(&span(1, 10, 20)), Some(vec![0..4, 7..10]));
        written.add(Written::All);
        assert_eq!(written.within(&span(1, 10, 20)), None);
        written.add(Written::NOTHING);
        assert!(written.is_all(), "who cannot tell is not outvoted");
    }

    #[test]
    fn a_note_with_more_ranges_than_a_message_may_have_is_all() {
        let many = vec![span(1, 0, 1); MOST + 1];
        assert_eq!(
            Written::of_note(Some(many[..MOST].to_vec())),
            Written::Only(many[..MOST].to_vec())
        );
        assert_eq!(Written::of_note(Some(many)), Written::All);
        assert_eq!(Written::of_note(None), Written::All);
    }
}
