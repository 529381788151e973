//! Taking moves back to their old places, for a disk that turns out to be bad.
//!
//! A move is committed before it is durable on its new disk, and until then its old place is kept. `revert` gives the volumes those places back, by an
//! ordinary change through all apparatuses that copies nothing: what hosts wrote after the move goes back too, as by a power loss. What
//! a host's `fsync` was promised is not among that: it is answered only once the move is hardened, and a hardened move is not taken back.
//!
//! Why no flush under way is answered wrongly: under the hold, before the commit, a failure is noted in the ledger of the disk. A flush
//! looks at the ledgers of its disks once more before it is answered (`data/flush.rs`). If it looked before the failure was noted, its changes
//! were hardened before the commit, which the store then refuses. If it looked after, it fails. Flushes that begin later fail once for each volume and apparatus.

use super::plan::Planned;
use super::select;
use super::send::{Sent, send_with};
use crate::change::driver::Controller;
use crate::change::survey::lives;
use crate::error::{Error, Kind, Result};
use crate::pool::dir::PoolDir;
use crate::pool::model::{Difference, DiskRecord, Edit, Segment, Span};
use crate::store::{ChangeRecord, ChangeState, HoldMode, JobState, MemberState, Store};
use crate::units::{ByteCount, DiskId, ExtentSize, JobId, VolumeExtent, VolumeId, VolumeOffset};
use std::collections::BTreeMap;

/// What goes back where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The change.
    pub planned: Planned,
    /// The parts of volumes, each with the place that it gets back.
    pub parts: Vec<(VolumeId, Segment)>,
    /// How much that is.
    pub bytes: ByteCount,
}

/// What of the volumes on this disk can go back to a kept place. Changes nothing.
///
/// # Errors
/// When there is no such disk, no place is kept, or an apparatus is fenced: it may still write to the old places.
pub fn plan(pool: &PoolDir, store: &mut dyn Store, disk: &str) -> Result<Outline> {
    let disks = store.disks()?;
    let record = select::disk(&disks, disk)?;
    refuse_fenced(pool, store, record)?;
    let header = store.header()?;
    let changes = committed(store)?;
    let mut parts = Vec::new();
    for volume in store.volumes()? {
        let all = store.segments(volume.id, VolumeExtent(0), VolumeExtent(u64::MAX))?;
        let there = all.into_iter().filter(|segment| segment.home.disk == record.id);
        let back = there.flat_map(|segment| kept(volume.id, segment, &changes));
        let elsewhere = back.filter(|segment| segment.home.disk != record.id);
        parts.extend(elsewhere.map(|segment| (volume.id, segment)));
    }
    let parts = in_runs(parts);
    if parts.is_empty() {
        let why = "nothing on it was moved there without being durable there, so no old place is kept";
        return Err(Error::failed(format!("disk {}", record.name), why).hint(format!(
            "move what can be read off it: vctl disk evacuate {}",
            record.name
        )));
    }
    let extents = parts.iter().map(|(_, segment)| segment.home.len).sum::<u64>();
    Ok(Outline {
        planned: planned(header.generation, header.extent_size, &parts),
        parts,
        bytes: ByteCount(extents.saturating_mul(header.extent_size.bytes())),
    })
}

fn committed(store: &mut dyn Store) -> Result<Vec<ChangeRecord>> {
    let mut changes = store.unfinished()?;
    changes.retain(|record| record.state == ChangeState::Committed);
    changes.sort_by_key(|record| record.change.difference.from);
    Ok(changes)
}

/// A fenced apparatus that lives may still write to places that its old table names.
fn refuse_fenced(pool: &PoolDir, store: &mut dyn Store, disk: &DiskRecord) -> Result<()> {
    let (_, members) = store.members()?;
    for member in members
        .iter()
        .filter(|member| member.state == MemberState::Fenced)
    {
        if lives(pool, member)? {
            let why = format!(
                "apparatus {} is fenced and may still write to the old places",
                member.name
            );
            return Err(
                Error::new(Kind::Busy, format!("disk {}", disk.name), why).hint(format!(
                    "vctl apparatus rejoin {0}, or end it: vctl apparatus fence {0}",
                    member.name
                )),
            );
        }
    }
    Ok(())
}

/// The parts of a segment that changes which are not hardened have moved, with the places that they had before the first of those. A part that had no place then
/// is left out.
fn kept(volume: VolumeId, segment: Segment, changes: &[ChangeRecord]) -> Vec<Segment> {
    let mut parts = vec![(segment, false)];
    for change in changes.iter().rev() {
        let undo = change.undo.as_ref().map_or(&[][..], |undo| &undo.edits);
        for edit in undo {
            parts = parts
                .into_iter()
                .flat_map(|part| undone(volume, part, edit))
                .collect();
        }
    }
    let moved = parts.into_iter().filter(|(_, moved)| *moved);
    moved.map(|(part, _)| part).collect()
}

/// A part before an edit that leads back: split where the edit begins or ends, moved inside it.
fn undone(volume: VolumeId, (part, moved): (Segment, bool), edit: &Edit) -> Vec<(Segment, bool)> {
    match edit {
        Edit::Map { volume: of, segments } if *of == volume => {
            let mut parts = Vec::new();
            let mut at = part.start;
            for old in segments.iter().filter_map(|old| old.clip(part.start, part.end())) {
                parts.extend(part.clip(at, old.start).map(|rest| (rest, moved)));
                at = old.end();
                parts.push((old, true));
            }
            parts.extend(part.clip(at, part.end()).map(|rest| (rest, moved)));
            parts
        }
        Edit::Unmap {
            volume: of,
            start,
            end,
        } if *of == volume => {
            let before = part.clip(part.start, *start);
            let after = part.clip(*end, part.end());
            before
                .into_iter()
                .chain(after)
                .map(|rest| (rest, moved))
                .collect()
        }
        Edit::RemoveVolume(of) if *of == volume => Vec::new(),
        _ => vec![(part, moved)],
    }
}

/// The same parts in order, neighbours that lie in one piece as one: a move leaves one part for each chunk.
fn in_runs(mut parts: Vec<(VolumeId, Segment)>) -> Vec<(VolumeId, Segment)> {
    parts.sort_unstable();
    let mut runs: Vec<(VolumeId, Segment)> = Vec::new();
    for (volume, part) in parts {
        match runs.last_mut() {
            Some((of, run)) if *of == volume && run.continues_as(part) => run.home.len += part.home.len,
            _ => runs.push((volume, part)),
        }
    }
    runs
}

fn planned(from: crate::units::Generation, size: ExtentSize, parts: &[(VolumeId, Segment)]) -> Planned {
    let mut volumes: BTreeMap<VolumeId, Vec<Segment>> = BTreeMap::new();
    for (volume, segment) in parts {
        volumes.entry(*volume).or_default().push(*segment);
    }
    let byte = |extent| size.volume_offset(extent).unwrap_or(VolumeOffset(u64::MAX));
    let span = |(volume, segment): &(VolumeId, Segment)| Span {
        volume: *volume,
        start: byte(segment.start),
        end: byte(segment.end()),
    };
    let edits = volumes.into_iter().map(|(volume, mut segments)| {
        segments.sort_unstable();
        Edit::Map { volume, segments }
    });
    Planned {
        difference: Difference {
            from,
            edits: edits.collect(),
        },
        spans: parts.iter().map(span).collect(),
        mode: HoldMode::All,
        zero: Vec::new(),
        vacate: None,
    }
}

/// The volumes get their kept places back, and the moves that led to the disk are over. Hardened when it returns.
///
/// # Errors
/// Those of [`plan`], and when the change cannot be carried out.
pub fn revert(
    pool: &PoolDir,
    controller: &mut Controller,
    title: &str,
    disk: &str,
) -> Result<(Outline, Sent)> {
    let outline = plan(pool, controller.store(), disk)?;
    let disks = controller.store().disks()?;
    let id = select::disk(&disks, disk)?.id;
    let ledger = controller.ledger(id);
    let sent = send_with(controller, title, &outline.planned, &mut || {
        ledger.note_failure();
        Ok(())
    });
    // The table may have been changed before what came after failed.
    if plan(pool, controller.store(), disk).is_err() {
        end_jobs(controller.store(), id, title)?;
    }
    let sent = sent?;
    controller.free()?;
    Ok((outline, sent))
}

/// Moves to the disk that have not ended would count as moved what has gone back.
fn end_jobs(store: &mut dyn Store, disk: DiskId, title: &str) -> Result<()> {
    let ends = |state| {
        matches!(
            state,
            JobState::Running | JobState::Paused | JobState::Failed | JobState::RollingBack
        )
    };
    let jobs: Vec<(JobId, JobState)> = store.jobs()?.iter().map(|job| (job.id, job.state)).collect();
    for (id, state) in jobs.into_iter().filter(|(_, state)| ends(*state)) {
        let leads_there = |step: &crate::store::Step| step.to.disk == disk && step.done > 0;
        if store.steps(id)?.iter().any(leads_there) {
            store.set_job_state(id, state, JobState::Cancelled, &format!("taken back: {title}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::model::Area;
    use crate::store::NewChange;
    use crate::units::{BootId, ChangeId, DiskExtent, Generation, Term};
    use uuid::Uuid;

    fn segment(start: u64, disk: u32, at: u64, len: u64) -> Segment {
        Segment {
            start: VolumeExtent(start),
            home: Area {
                disk: DiskId(disk),
                start: DiskExtent(at),
                len,
            },
        }
    }

    fn map(segments: &[Segment]) -> Edit {
        Edit::Map {
            volume: VolumeId(1),
            segments: segments.to_vec(),
        }
    }

    /// Changes that lead back by these edits.
    fn changes(undo: &[Edit]) -> Vec<ChangeRecord> {
        let record = |(id, edit): (u64, &Edit)| ChangeRecord {
            id: ChangeId(id),
            state: ChangeState::Committed,
            term: Term(1),
            boot: BootId(Uuid::nil()),
            change: NewChange {
                title: String::new(),
                job: None,
                difference: Difference {
                    from: Generation(id),
                    edits: Vec::new(),
                },
                spans: Vec::new(),
                mode: HoldMode::Writes,
            },
            undo: Some(Difference {
                from: Generation(id + 1),
                edits: vec![edit.clone()],
            }),
        };
        (0..).zip(undo).map(record).collect()
    }

    #[test]
    fn neighbours_in_one_piece_are_one_part() {
        let part = |start, at| (VolumeId(1), segment(start, 1, at, 1));
        let runs = in_runs(vec![
            part(5, 15),
            part(4, 14),
            part(6, 20),
            (VolumeId(2), segment(7, 1, 21, 1)),
        ]);
        assert_eq!(
            runs,
            [
                (VolumeId(1), segment(4, 1, 14, 2)),
                part(6, 20),
                (VolumeId(2), segment(7, 1, 21, 1))
            ]
        );
    }

    #[test]
    fn a_part_goes_back_to_where_it_was_before_the_first_change_that_is_not_hardened() {
        let now = segment(0, 2, 50, 10);
        let back = |undo: &[Edit]| kept(VolumeId(1), now, &changes(undo));
        assert_eq!(back(&[]), []);
        let first = map(&[segment(2, 1, 7, 3)]);
        assert_eq!(back(std::slice::from_ref(&first)), [segment(2, 1, 7, 3)]);
        let second = map(&[segment(0, 3, 1, 4)]);
        assert_eq!(
            back(&[first.clone(), second]),
            [segment(0, 3, 1, 2), segment(2, 1, 7, 2), segment(4, 1, 9, 1)]
        );
        let appeared = Edit::Unmap {
            volume: VolumeId(1),
            start: VolumeExtent(4),
            end: VolumeExtent(10),
        };
        assert_eq!(back(&[appeared, first.clone()]), [segment(2, 1, 7, 2)]);
        assert_eq!(back(&[Edit::RemoveVolume(VolumeId(1)), first]), []);
    }
}
