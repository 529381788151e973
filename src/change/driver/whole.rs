//! Changes of any weight: in parts where one is too heavy, and what is left of those that were cut short.

use super::Controller;
use crate::change::controller::Outcome;
use crate::change::parts::{self, Loser, Part};
use crate::error::{Error, Kind, Result};
use crate::pool::model::{Difference, Edit, VolumeRecord};
use crate::store::{HoldMode, NewChange, Severity};
use crate::units::{Generation, VolumeExtent};

impl Controller {
    /// Runs a change, in as many parts as it needs ([`parts`]). Hardened when it returns, and what it took away is free where nobody can use it any
    /// more. Of several parts, `work` is done under the hold of each that holds something. Answers the last part's generation, and the holds of all parts.
    ///
    /// # Errors
    /// Those of [`Controller::run`]; what the parts before had made of a volume has been removed again then.
    pub fn run_whole(
        &mut self,
        change: NewChange,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        let loser = self.loser(&change.difference.edits)?;
        let unit = self.store.header()?.extent_size;
        let parts = parts::of(&change.difference.edits, &change.spans, loser.as_ref(), unit);
        drop(loser);
        let (count, mut all) = (parts.len(), Outcome::nothing());
        for (index, part) in parts.into_iter().enumerate() {
            let change = of_part(part, &change);
            let done = match count == 1 || !change.spans.is_empty() {
                true => self.run_part(change, work),
                false => self.run_part(change, &mut || Ok(())),
            };
            match done {
                Ok(outcome) => all.add(outcome),
                Err(error) if index == 0 => return Err(error),
                Err(error) => {
                    self.sweep();
                    let why = format!("{} (part {} of {count})", error.why(), index + 1);
                    let told = Error::new(error.kind(), error.what(), why);
                    return Err(told.hint(
                        error
                            .way_out()
                            .unwrap_or("do it again: it goes on where it stopped"),
                    ));
                }
            }
        }
        Ok(all)
    }

    fn run_part(
        &mut self,
        change: NewChange,
        work: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Outcome> {
        let takes = |edit: &Edit| matches!(edit, Edit::RemoveVolume(_) | Edit::Unmap { .. });
        let takes = change.difference.edits.iter().any(takes);
        let outcome = self.run(change, true, work)?;
        // The change stands either way.
        if takes && let Err(error) = self.free() {
            log::warn!("freeing what was taken away: {error}");
        }
        Ok(outcome)
    }

    fn loser(&mut self, edits: &[Edit]) -> Result<Option<Loser>> {
        let Some((id, start, end)) = parts::loser(edits) else {
            return Ok(None);
        };
        let Some(record) = self.store.volumes()?.into_iter().find(|volume| volume.id == id) else {
            return Ok(None);
        };
        Ok(Some((record, self.store.segments(id, start, end)?)))
    }

    /// Removes volumes that somebody was making or removing in parts, and did not finish. What cannot be done now is left to the next controller.
    pub(super) fn sweep(&mut self) {
        let left = match self.store.volumes() {
            Ok(volumes) => volumes.into_iter().filter(|volume| volume.name.is_hidden()),
            Err(error) => return log::warn!("volumes left half made or half removed: {error}"),
        };
        for record in left {
            let id = record.id;
            let text = match self.sweep_one(&record) {
                Ok(()) => format!("volume number {id} was left half made or half removed: removed"),
                Err(error) => {
                    format!(
                        "volume number {id} was left half made or half removed, and cannot be removed now: {error}"
                    )
                }
            };
            self.notes
                .push((Severity::Warning, "recovery".to_owned(), text.clone()));
            self.recovered.push(text);
        }
    }

    fn sweep_one(&mut self, record: &VolumeRecord) -> Result<()> {
        let segments = self
            .store
            .segments(record.id, VolumeExtent(0), VolumeExtent(u64::MAX))?;
        for part in parts::removing(record, &segments) {
            let like = NewChange {
                title: format!("volume remove {}", record.name),
                job: None,
                difference: Difference {
                    from: Generation(0),
                    edits: Vec::new(),
                },
                spans: Vec::new(),
                mode: HoldMode::All,
            };
            self.run_part(of_part(part, &like), &mut || Ok(()))?;
        }
        Ok(())
    }
}

/// Nothing is begun that cannot be sent and applied in its time.
pub(super) fn check_weight(change: &NewChange) -> Result<()> {
    let weight = change.difference.weight();
    if weight <= Difference::HEAVIEST {
        return Ok(());
    }
    let why = format!(
        "would change {weight} things at once, and at most {} can be: nothing has changed",
        Difference::HEAVIEST
    );
    Err(Error::new(Kind::Failed, change.title.clone(), why).hint("change less at a time"))
}

fn of_part(part: Part, whole: &NewChange) -> NewChange {
    NewChange {
        title: whole.title.clone(),
        job: whole.job,
        difference: Difference {
            from: whole.difference.from,
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

    /// The next part has ended, too.
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
