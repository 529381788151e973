//! The ranges that the holds in place cover, and the notes of writes: an immutable list, shared with the threads that enter.

use crate::gate::Access;
use crate::gate::note::Note;
use crate::model::change::HoldMode;
use crate::model::records::Span;
use crate::model::units::{ChangeId, VolumeId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The ranges of all holds, in order of volume and start; or everything if the gate is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cover {
    closed: bool,
    paused: bool,
    ranges: Vec<Range>,
    /// Each in the order in which it was placed.
    notes: Vec<(ChangeId, Arc<Note>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range {
    span: Span,
    mode: HoldMode,
    id: ChangeId,
}

impl Range {
    fn stops(&self, span: &Span, access: Access) -> bool {
        (self.mode == HoldMode::All || access == Access::Write) && self.span.overlaps(span)
    }
}

impl Cover {
    /// Returns the cover of a closed gate.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            closed: true,
            paused: false,
            ranges: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Returns the cover of one hold.
    #[must_use]
    pub fn of(id: ChangeId, spans: &[Span], mode: HoldMode) -> Self {
        let mut cover = Self::default();
        cover.add(id, spans, mode);
        cover
    }

    /// Marks a write that enters in every note.
    pub fn note(&self, span: &Span, access: Access) {
        if access == Access::Write {
            self.notes.iter().for_each(|(_, note)| note.mark(span));
        }
    }

    /// Marks a write in notes that no copy of this cover shares.
    pub(super) fn note_alone(&mut self, span: &Span, access: Access) {
        self.notes
            .iter_mut()
            .for_each(|(_, note)| _ = Arc::make_mut(note));
        self.note(span, access);
    }

    /// Returns the note of this change.
    pub(super) fn note_of(&self, id: ChangeId) -> Option<&Note> {
        let found = self.notes.iter().find(|(of, _)| *of == id);
        found.map(|(_, note)| &**note)
    }

    /// Returns the number of notes.
    #[must_use]
    pub fn notes(&self) -> usize {
        self.notes.len()
    }

    pub(super) fn add_note(&mut self, id: ChangeId, spans: &[Span]) {
        self.notes.push((id, Arc::new(Note::new(spans))));
    }

    pub(super) fn remove_note(&mut self, id: ChangeId) {
        self.notes.retain(|(of, _)| *of != id);
    }

    /// Returns whether a hold, or the closed or paused gate, covers this request.
    #[must_use]
    pub fn covers(&self, span: &Span, access: Access) -> bool {
        self.closed
            || self.paused
            || self
                .in_volume(span.volume)
                .iter()
                .any(|range| range.stops(span, access))
    }

    /// Returns the holds that cover this request; a closed gate is not among them.
    #[must_use]
    pub fn covering(&self, span: &Span, access: Access) -> BTreeSet<ChangeId> {
        let ranges = self.in_volume(span.volume).iter();
        ranges
            .filter(|range| range.stops(span, access))
            .map(|range| range.id)
            .collect()
    }

    /// Returns whether the gate is closed.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Returns whether the gate is paused.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Returns whether nothing is covered or noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.closed && !self.paused && self.ranges.is_empty() && self.notes.is_empty()
    }

    /// Returns the cover of this hold alone.
    #[must_use]
    pub fn only(&self, id: ChangeId) -> Self {
        let ranges = self
            .ranges
            .iter()
            .filter(|range| range.id == id)
            .copied()
            .collect();
        Self {
            ranges,
            ..Self::default()
        }
    }

    pub(super) fn volumes(&self) -> Vec<VolumeId> {
        let mut volumes: Vec<_> = self.ranges.iter().map(|range| range.span.volume).collect();
        volumes.dedup();
        volumes
    }

    pub(super) fn add(&mut self, id: ChangeId, spans: &[Span], mode: HoldMode) {
        self.ranges
            .extend(spans.iter().map(|&span| Range { span, mode, id }));
        self.ranges
            .sort_by_key(|range| (range.span.volume, range.span.start));
    }

    pub(super) fn remove(&mut self, id: ChangeId) {
        self.ranges.retain(|range| range.id != id);
    }

    pub(super) fn open(&mut self) {
        self.closed = false;
    }

    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(super) fn check(&self, ids: &BTreeSet<ChangeId>) -> Result<(), String> {
        if !self
            .ranges
            .is_sorted_by_key(|range| (range.span.volume, range.span.start))
        {
            return Err("the ranges of the cover are not in order".into());
        }
        match self.ranges.iter().find(|range| !ids.contains(&range.id)) {
            Some(range) => Err(format!("change {} covers a range but has no hold", range.id)),
            None => Ok(()),
        }
    }

    fn in_volume(&self, volume: VolumeId) -> &[Range] {
        let from = self.ranges.partition_point(|range| range.span.volume < volume);
        let len = self.ranges[from..].partition_point(|range| range.span.volume == volume);
        &self.ranges[from..from + len]
    }
}
