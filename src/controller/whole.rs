//! Runs changes of any weight: in parts where one is too heavy. Removes what is left of changes that were cut short.

use super::{Claimed, Controller};
use crate::model::change::{HoldMode, NewChange};
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::event::Severity;
use crate::model::records::{Delta, Edit, VolumeRecord};
use crate::model::units::{Generation, VolumeExtent};
use crate::protocol::controller::Outcome;
use crate::protocol::parts::{self, Part, SourceVolume};

impl Controller {
    /// Runs a change, in as many parts as it needs ([`parts`]). It is persisted when this returns, and the space
    /// that it released is free where no apparatus can use it any more. Of several parts, `work` is done under
    /// the hold of each that holds a range. Returns the last part's generation, and the holds of all parts.
    ///
    /// # Errors
    /// Returns the errors of [`Controller::run`]; what the earlier parts had made of a volume has been removed again then.
    pub fn run_whole(
        &mut self,
        change: NewChange,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        self.run_whole_claimed(change, &mut |_, _| Ok(()), work)
    }

    /// Runs a change as [`Controller::run_whole`] does. `claimed` is called with each part when it is prepared, and again where a part has to be tried
    /// again; nothing is held then.
    ///
    /// # Errors
    /// Returns the errors of [`Controller::run_whole`] and of `claimed`, with which a part is cancelled.
    pub fn run_whole_claimed(
        &mut self,
        change: NewChange,
        claimed: &mut Claimed<'_>,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        let source = self.source_of(&change.delta.edits)?;
        let unit = self.store.header()?.extent_size;
        let parts = parts::of(&change.delta.edits, &change.spans, source.as_ref(), unit);
        drop(source);
        let (count, mut all) = (parts.len(), Outcome::nothing());
        for (index, part) in parts.into_iter().enumerate() {
            let change = of_part(part, &change);
            self.more_parts = index + 1 < count;
            let done = match count == 1 || !change.spans.is_empty() {
                true => self.run_part(change, claimed, work),
                false => self.run_part(change, claimed, &mut || Ok(())),
            };
            match done {
                Ok(outcome) => all.add(outcome),
                Err(error) if index == 0 => {
                    self.more_parts = false;
                    return Err(error);
                }
                Err(error) => {
                    self.more_parts = false;
                    self.remove_partial_volumes();
                    let why = format!("{} (part {} of {count})", error.why(), index + 1);
                    let reported = Error::new(error.kind(), error.what(), why);
                    return Err(reported.hint(
                        error
                            .way_out()
                            .unwrap_or("run it again: it continues where it stopped"),
                    ));
                }
            }
        }
        Ok(all)
    }

    fn run_part(
        &mut self,
        change: NewChange,
        claimed: &mut Claimed<'_>,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        let takes = |edit: &Edit| matches!(edit, Edit::RemoveVolume(_) | Edit::Unmap { .. });
        let takes = change.delta.edits.iter().any(takes);
        let outcome = self.run_claimed(change, true, claimed, work)?;
        // The change is valid either way.
        if takes && let Err(error) = self.free() {
            log::warn!("freeing the released space: {error}");
        }
        Ok(outcome)
    }

    fn source_of(&mut self, edits: &[Edit]) -> Result<Option<SourceVolume>> {
        let Some((id, start, end)) = parts::source_of(edits) else {
            return Ok(None);
        };
        let Some(record) = self.store.volumes()?.into_iter().find(|volume| volume.id == id) else {
            return Ok(None);
        };
        Ok(Some((record, self.store.segments(id, start, end)?)))
    }

    /// Removes volumes that were being created or removed in parts, and were left unfinished. What cannot be done now is left to the next
    /// controller.
    pub(super) fn remove_partial_volumes(&mut self) {
        let left = match self.store.volumes() {
            Ok(volumes) => volumes.into_iter().filter(|volume| volume.name.is_hidden()),
            Err(error) => return log::warn!("volumes left partly created or partly removed: {error}"),
        };
        for record in left {
            let id = record.id;
            let text = match self.remove_partial_volume(&record) {
                Ok(()) => format!("volume number {id} was left partly created or partly removed: removed"),
                Err(error) => {
                    format!(
                        "volume number {id} was left partly created or partly removed, and cannot be removed now: {error}"
                    )
                }
            };
            self.notes
                .push((Severity::Warning, "recovery".to_owned(), text.clone()));
            self.recovered.push(text);
        }
    }

    fn remove_partial_volume(&mut self, record: &VolumeRecord) -> Result<()> {
        let segments = self
            .store
            .segments(record.id, VolumeExtent(0), VolumeExtent(u64::MAX))?;
        for part in parts::removing(record, &segments) {
            let like = NewChange {
                title: format!("volume remove {}", record.name),
                job: None,
                delta: Delta {
                    from: Generation(0),
                    edits: Vec::new(),
                },
                spans: Vec::new(),
                mode: HoldMode::All,
            };
            self.run_part(of_part(part, &like), &mut |_, _| Ok(()), &mut || Ok(()))?;
        }
        Ok(())
    }
}

/// Refuses a change that is too heavy to be sent and applied in time.
pub(super) fn check_weight(change: &NewChange) -> Result<()> {
    let weight = change.delta.weight();
    if weight <= Delta::HEAVIEST {
        return Ok(());
    }
    let why = format!(
        "would change {weight} records at once, and the limit is {}: nothing has changed",
        Delta::HEAVIEST
    );
    Err(Error::new(ErrorKind::Failed, change.title.clone(), why).hint("change less at a time"))
}

fn of_part(part: Part, whole: &NewChange) -> NewChange {
    NewChange {
        title: whole.title.clone(),
        job: whole.job,
        delta: Delta {
            from: whole.delta.from,
            edits: part.edits,
        },
        spans: part.spans,
        mode: whole.mode,
    }
}

impl Outcome {
    fn nothing() -> Self {
        Self::Finished {
            generation: Generation(0),
            fenced: Vec::new(),
            parked: 0,
            longest_us: 0,
        }
    }

    /// Adds the outcome of the next part.
    fn add(&mut self, next: Self) {
        match (&mut *self, next) {
            (
                Self::Finished {
                    generation,
                    fenced,
                    parked,
                    longest_us,
                },
                Self::Finished {
                    generation: now,
                    fenced: more,
                    parked: others,
                    longest_us: longest,
                },
            ) => {
                *generation = now;
                fenced.extend(more);
                *parked += others;
                *longest_us = longest.max(*longest_us);
            }
            (_, other) => *self = other,
        }
    }
}
