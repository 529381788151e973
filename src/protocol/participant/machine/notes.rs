//! Notes of writes, before and under the hold of their change.

use super::super::{Answer, ChangeId, Effect, Link, Machine, Note, OWN, Refusal, Span, Timer};
use super::{REMEMBERED, refuse};

impl Machine {
    pub(super) fn note(
        &mut self,
        link: Link,
        change: ChangeId,
        spans: Vec<Span>,
        (drain_us, over_us): (u64, u64),
        out: &mut Vec<Effect>,
    ) {
        if let Some(note) = self.notes.get_mut(&change) {
            note.link = link;
            if note.settled {
                out.push(Effect::Answer(link, Answer::Noting { change }));
            }
        } else if self.holds.contains_key(&change) || self.is_over(change) {
            out.push(refuse(link, change, Refusal::NotHeld));
        } else if self.holds.len() + self.notes.len() >= self.bounds.holds {
            out.push(refuse(link, change, Refusal::TooMany));
        } else {
            self.notes.insert(change, Note { settled: false, link });
            self.noted.push_back(change);
            if self.noted.len() > REMEMBERED {
                self.noted.pop_front();
            }
            out.extend([
                Effect::Arm(change, Timer::NoteOver, over_us),
                Effect::Arm(change, Timer::Settling, drain_us),
                Effect::PlaceNote(change, spans),
            ]);
        }
    }

    fn is_over(&self, change: ChangeId) -> bool {
        change == OWN || self.ended.contains(&change) || self.noted.contains(&change)
    }

    pub(super) fn note_settled(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if let Some(note) = self.notes.get_mut(&change).filter(|note| !note.settled) {
            note.settled = true;
            out.push(Effect::Answer(note.link, Answer::Noting { change }));
        }
    }

    pub(super) fn note_refused(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if let Some(note) = self.notes.remove(&change) {
            out.push(refuse(note.link, change, Refusal::TooMany));
        }
    }

    pub(super) fn report_settling(&self, change: ChangeId, out: &mut Vec<Effect>) {
        if let Some(note) = self.notes.get(&change).filter(|note| !note.settled) {
            out.push(Effect::ReportDraining(change, note.link));
        }
    }

    /// Forgets a note, so that the hold of its change says that all may have been written.
    pub(super) fn end_note(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.notes.remove(&change).is_some() {
            out.push(Effect::EndNote(change));
        }
    }

    /// Forgets a note that had not settled when the hold of its change was requested: writes from before it may still be in flight.
    pub(super) fn drop_unsettled_note(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        if self.notes.get(&change).is_some_and(|note| !note.settled) {
            self.end_note(change, out);
        }
    }

    pub(super) fn end_notes_of(&mut self, link: Link, out: &mut Vec<Effect>) {
        let theirs = self.notes.iter().filter(|(_, note)| note.link == link);
        let theirs: Vec<ChangeId> = theirs.map(|(&change, _)| change).collect();
        theirs.into_iter().for_each(|change| self.end_note(change, out));
    }
}
